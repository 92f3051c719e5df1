/* The back end in a Redis: GET and SET PX, in order, with a deadline each. Whatever happens there costs misses and
 * nothing else: a command that is late, or whose connection is lost, is answered as a miss, and while there is no
 * connection (scheduler/redis/link.h) nothing is sent at all. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/cache/cache_internal.h"
#include "scheduler/redis/link.h"

#define COMMANDS_MAX        4096
#define STORE_BYTES_OUT_MAX ((size_t)16 << 20) /* stores that Redis has not taken yet; more are dropped */
#define KEY_PREFIX          "spillway:cache:1:"
#define KEY_TEXT_BYTES      (sizeof KEY_PREFIX + 2 * CACHE_KEY_BYTES)

struct redis {
    struct backend b;
    struct redis_link *link;
    char *ttl_text;
    size_t bytes_out; /* of stores not yet answered */
    _Atomic uint64_t errors, dropped;
};

struct store { /* a SET under way */
    struct redis *redis;
    size_t bytes;
};

static struct redis *redis_of(struct backend *b)
{
    return (struct redis *)b;
}

static size_t key_text(const struct cache_key *key, char text[KEY_TEXT_BYTES])
{
    static const char hex[] = "0123456789abcdef";
    char *p = text + sizeof KEY_PREFIX - 1;
    memcpy(text, KEY_PREFIX, sizeof KEY_PREFIX - 1);
    for (int i = 0; i < CACHE_KEY_BYTES; i++) {
        *p++ = hex[key->bytes[i] >> 4];
        *p++ = hex[key->bytes[i] & 15];
    }
    *p = '\0';
    return (size_t)(p - text);
}

static struct blob *blob_of(struct redis *r, const redisReply *reply)
{
    if (!reply || reply->type == REDIS_REPLY_NIL)
        return NULL;
    if (reply->type != REDIS_REPLY_STRING) { /* WRONGTYPE, LOADING and the like */
        r->errors++;
        return NULL;
    }
    struct blob *blob = blob_new(reply->len);
    memcpy(blob->data, reply->str, reply->len);
    return blob;
}

static void on_found(const redisReply *reply, void *arg)
{
    struct cache_get *get = arg;
    struct redis *r = redis_of(get_backend(get));
    get->command = NULL;
    get_ready(get, blob_of(r, reply));
}

static void on_stored(const redisReply *reply, void *arg)
{
    struct store *s = arg;
    s->redis->bytes_out -= s->bytes;
    if (reply && reply->type != REDIS_REPLY_STATUS)
        s->redis->errors++;
    free(s);
}

static bool redis_misses(struct backend *b, const struct cache_key *key)
{
    const struct redis *r = redis_of(b);
    (void)key;
    return !redis_link_ready(r->link);
}

static void redis_get(struct backend *b, struct cache_get *get)
{
    struct redis *r = redis_of(b);
    char key[KEY_TEXT_BYTES];
    const char *argv[] = {"GET", key};
    size_t lengths[] = {3, key_text(&get->key, key)};
    get->command = redis_link_send(r->link, 2, argv, lengths, on_found, get);
    if (!get->command)
        get_ready(get, NULL);
}

static void redis_cancel(struct backend *b, struct cache_get *get)
{
    struct redis_command *c = get->command;
    (void)b;
    if (c)
        redis_command_cancel(c);
}

static void redis_put(struct backend *b, const struct cache_key *key, struct blob *blob)
{
    struct redis *r = redis_of(b);
    char text[KEY_TEXT_BYTES];
    entry_seal(blob);
    const char *argv[] = {"SET", text, blob->data, "PX", r->ttl_text};
    size_t lengths[] = {3, key_text(key, text), blob->n, 2, strlen(r->ttl_text)};
    struct store *store = NULL;
    if (r->bytes_out + blob->n <= STORE_BYTES_OUT_MAX) {
        store = spw_malloc(sizeof *store);
        *store = (struct store){.redis = r, .bytes = blob->n};
    }
    if (!store || !redis_link_send(r->link, 5, argv, lengths, on_stored, store)) {
        free(store);
        r->dropped++;
        return;
    }
    r->bytes_out += blob->n;
}

static void redis_stats(const struct backend *b, struct cache_stats *s)
{
    const struct redis *r = (const struct redis *)b;
    struct redis_link_stats link = redis_link_stats(r->link);
    s->errors += r->errors + link.errors;
    s->timeouts = link.timeouts;
    s->dropped = r->dropped;
    s->connects = link.connects;
    s->disconnects = link.disconnects;
    s->reachable = link.up;
}

static void redis_free(struct backend *b)
{
    struct redis *r = redis_of(b);
    redis_link_free(r->link);
    free(r->ttl_text);
    free(r);
}

static const struct backend_ops redis_ops = {.name = "redis",
                                             .trust = ENTRY_FOREIGN,
                                             .misses = redis_misses,
                                             .get = redis_get,
                                             .cancel = redis_cancel,
                                             .put = redis_put,
                                             .stats = redis_stats,
                                             .free = redis_free};

enum rc redis_new(struct backend **b, const struct cache_options *o, struct error *e)
{
    struct redis *r = spw_calloc(1, sizeof *r);
    struct redis_link_options link = {
        .loop = o->loop,
        .clock = o->clock,
        .log = o->log,
        .area = "cache",
        .down_text = "redis is not there; until it is, nothing is found in the cache",
        .setting = "cache.redis.address",
        .host = o->redis.host,
        .tls = o->redis.tls,
        .port = o->redis.port,
        .db = o->redis.db,
        .username = o->redis.username,
        .password = o->redis.password,
        .timeout_ms = o->redis.timeout_ms,
        .connect_ms = o->redis.connect_ms,
        .reply_bytes_max = (size_t)o->entry_bytes_max + 65536, /* and what the reader has of the next replies */
        .commands_max = COMMANDS_MAX,
        .replies = REDIS_VALUES,
    };
    r->b.ops = &redis_ops;
    r->ttl_text = spw_asprintf("%" PRId64, o->ttl_ms);
    enum rc rc = redis_link_new(&r->link, &link, e);
    if (rc != RC_OK) {
        redis_free(&r->b);
        return rc;
    }
    *b = &r->b;
    return RC_OK;
}
