/* The back end in a Redis: GET and SET PX, in order, with a deadline each. Whatever happens there costs misses and
 * nothing else: a command that is late is answered as a miss at its deadline, BREAK_AFTER of them in a row give the
 * connection up, and while there is none nothing is sent at all. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cache/redis_internal.h"

#define COMMANDS_MAX        4096
#define STORE_BYTES_OUT_MAX ((size_t)16 << 20) /* stores that Redis has not taken yet; more are dropped */
#define BREAK_AFTER         3
#define KEY_PREFIX          "spillway:cache:1:"
#define KEY_TEXT_BYTES      (sizeof KEY_PREFIX + 2 * CACHE_KEY_BYTES)
#define TIMEOUT_DEFAULT_MS  50
#define CONNECT_TIMEOUTS    4

static struct redis *redis_of(struct backend *b)
{
    return (struct redis *)b;
}

/* 0: no deadline. */
void redis_arm(struct redis *r, int64_t until_ns)
{
    if (!until_ns) {
        event_del(r->timer);
        return;
    }
    int64_t ns = until_ns - clock_now(r->clock).ns;
    if (ns < 0)
        ns = 0;
    int64_t us = ns / NS_PER_US + 1; /* not a moment too early */
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    event_add(r->timer, &tv);
}

/* The first command that is not late decides. The late ones before it are few: they end the connection. */
static void arm_commands(struct redis *r)
{
    const struct command *c;
    for (c = TAILQ_FIRST(&r->commands); c; c = TAILQ_NEXT(c, entry)) {
        if (!c->late) {
            redis_arm(r, c->deadline_ns);
            return;
        }
    }
    redis_arm(r, 0);
}

static void answer(struct command *c, struct blob *blob)
{
    struct cache_get *get = c->get;
    c->get = NULL;
    if (get)
        get_ready(get, blob);
    else
        blob_unref(blob);
}

static void forget(struct command *c)
{
    struct redis *r = c->redis;
    TAILQ_REMOVE(&r->commands, c, entry);
    r->n_commands--; /* NOLINT(clang-analyzer-core.NullDereference): on the list, so not NULL */
    r->bytes_out -= c->bytes;
    c->redis = NULL;
}

void redis_give_up(struct redis *r)
{
    struct command *c;
    while ((c = TAILQ_FIRST(&r->commands))) {
        answer(c, NULL);
        forget(c); /* hiredis still has it and will call on_reply() once more */
    }
}

void redis_expire(struct redis *r)
{
    int64_t now = clock_now(r->clock).ns;
    struct command *c;
    for (c = TAILQ_FIRST(&r->commands); c; c = TAILQ_NEXT(c, entry)) {
        if (c->deadline_ns > now)
            break;
        if (c->late)
            continue;
        c->late = true;
        answer(c, NULL);
        r->timeouts++;
        if (++r->late_in_a_row >= BREAK_AFTER) {
            redis_link_lost(r, "it does not answer in time");
            return;
        }
    }
    arm_commands(r);
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

static struct blob *blob_of(struct redis *r, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_NIL)
        return NULL;
    if (reply->type != REDIS_REPLY_STRING) { /* WRONGTYPE, LOADING and the like */
        r->errors++;
        return NULL;
    }
    struct blob *blob = blob_new(reply->len);
    memcpy(blob->data, reply->str, reply->len);
    return blob;
}

static bool is_status(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_STATUS;
}

/* AUTH, SELECT or PING. A server without a password refuses AUTH, which is a mistake of the configuration just like a
 * wrong one: said, and tried again later. */
static void introduced(struct redis *r, enum command_kind kind, const redisReply *reply)
{
    if (is_status(reply)) {
        if (kind == COMMAND_PING)
            redis_link_ready(r);
        return;
    }
    char why[160];
    snprintf(why, sizeof why, "%s: %.120s",
             kind == COMMAND_AUTH     ? "AUTH"
             : kind == COMMAND_SELECT ? "SELECT"
                                      : "PING",
             reply->type == REDIS_REPLY_ERROR ? reply->str : "not the reply that it should be");
    r->errors++;
    redis_link_lost(r, why);
}

/* reply NULL: the connection is going; on_connect(), on_disconnect() or redis_link_lost() says so to the rest. */
static void on_reply(redisAsyncContext *ac, void *reply_arg, void *arg)
{
    const redisReply *reply = reply_arg;
    struct command *c = arg;
    struct redis *r = c->redis;
    (void)ac;
    if (r) {
        bool late = c->late;
        enum command_kind kind = c->kind;
        answer(c, reply && kind == COMMAND_GET && c->get ? blob_of(r, reply) : NULL);
        forget(c);
        if (reply && kind == COMMAND_PUT && !is_status(reply))
            r->errors++;
        if (reply && !late && (kind == COMMAND_GET || kind == COMMAND_PUT)) {
            r->late_in_a_row = 0;
            r->backoff_ms = REDIS_BACKOFF_FIRST_MS;
        }
        if (reply && r->state == REDIS_UP)
            arm_commands(r);
        if (reply && (kind == COMMAND_AUTH || kind == COMMAND_SELECT || kind == COMMAND_PING))
            introduced(r, kind, reply);
    }
    free(c);
}

/* ---- commands --------------------------------------------------------------------------------------------------- */

bool redis_send(struct redis *r, struct command *like, int argc, const char **argv, const size_t *lengths)
{
    struct command *c = spw_malloc(sizeof *c);
    *c = *like;
    c->redis = r;
    c->deadline_ns = clock_now(r->clock).ns + r->timeout_ns;
    if (redisAsyncCommandArgv(r->ac, on_reply, c, argc, argv, lengths) != REDIS_OK) {
        free(c);
        return false;
    }
    TAILQ_INSERT_TAIL(&r->commands, c, entry);
    r->n_commands++;
    r->bytes_out += c->bytes;
    r->replies_due++;
    if (c->get)
        c->get->command = c;
    /* Not only for the first one: those before it may be late already, and nobody waits for them. */
    if (r->state == REDIS_UP && !event_pending(r->timer, EV_TIMEOUT, NULL))
        redis_arm(r, c->deadline_ns);
    return true;
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

static bool redis_misses(struct backend *b, const struct cache_key *key)
{
    const struct redis *r = redis_of(b);
    (void)key;
    return r->state != REDIS_UP || r->n_commands >= COMMANDS_MAX;
}

static void redis_get(struct backend *b, struct cache_get *get)
{
    struct redis *r = redis_of(b);
    char key[KEY_TEXT_BYTES];
    const char *argv[] = {"GET", key};
    size_t lengths[] = {3, key_text(&get->key, key)};
    bool sent = r->state == REDIS_UP && r->n_commands < COMMANDS_MAX &&
                redis_send(r, &(struct command){.kind = COMMAND_GET, .get = get}, 2, argv, lengths);
    if (!sent)
        get_ready(get, NULL);
}

static void redis_cancel(struct backend *b, struct cache_get *get)
{
    struct command *c = get->command;
    (void)b;
    if (c)
        c->get = NULL;
}

static void redis_put(struct backend *b, const struct cache_key *key, struct blob *blob)
{
    struct redis *r = redis_of(b);
    char text[KEY_TEXT_BYTES];
    entry_seal(blob);
    const char *argv[] = {"SET", text, blob->data, "PX", r->ttl_text};
    size_t lengths[] = {3, key_text(key, text), blob->n, 2, strlen(r->ttl_text)};
    bool sent = r->state == REDIS_UP && r->n_commands < COMMANDS_MAX && r->bytes_out + blob->n <= STORE_BYTES_OUT_MAX &&
                redis_send(r, &(struct command){.kind = COMMAND_PUT, .bytes = blob->n}, 5, argv, lengths);
    if (!sent)
        r->dropped++;
}

static void redis_stats(const struct backend *b, struct cache_stats *s)
{
    const struct redis *r = (const struct redis *)b;
    s->errors += r->errors;
    s->timeouts = r->timeouts;
    s->dropped = r->dropped;
    s->connects = r->connects;
    s->disconnects = r->disconnects;
    s->reachable = r->state == REDIS_UP;
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void redis_free(struct backend *b)
{
    struct redis *r = redis_of(b);
    redis_give_up(r);
    redis_link_fini(r);
    if (r->timer)
        event_free(r->timer);
    free(r->host);
    free(r->username);
    wipe(r->password);
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

/* ---- birth ------------------------------------------------------------------------------------------------------ */

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct redis *r = arg;
    (void)fd, (void)what;
    switch ((enum redis_state)r->state) {
    case REDIS_DOWN: redis_link_open(r); break;
    case REDIS_OPENING: redis_link_lost(r, "no connection in time"); break;
    case REDIS_UP: redis_expire(r); break;
    }
}

static char *copy(const char *s)
{
    return s ? spw_strdup(s) : NULL;
}

enum rc redis_new(struct backend **b, const struct cache_options *o, struct error *e)
{
    struct redis *r = spw_calloc(1, sizeof *r);
    r->b.ops = &redis_ops;
    r->loop = o->loop;
    r->clock = o->clock;
    r->log = o->log;
    r->host = spw_strdup(o->redis.host);
    r->username = copy(o->redis.username);
    r->password = copy(o->redis.password);
    r->ttl_text = spw_asprintf("%" PRId64, o->ttl_ms);
    r->port = o->redis.port;
    r->db = o->redis.db;
    r->reply_bytes_max = (size_t)o->entry_bytes_max + 65536; /* and what the reader has of the next replies */
    int64_t timeout_ms = o->redis.timeout_ms ? o->redis.timeout_ms : TIMEOUT_DEFAULT_MS;
    r->timeout_ns = timeout_ms * NS_PER_MS;
    r->connect_ns = (o->redis.connect_ms ? o->redis.connect_ms : CONNECT_TIMEOUTS * timeout_ms) * NS_PER_MS;
    TAILQ_INIT(&r->commands);
    r->timer = event_new(r->loop, -1, 0, on_timer, r);
    enum rc rc = r->timer ? redis_link_init(r, e) : error_set(e, RC_IO, "cache: the event loop takes no event");
    if (rc != RC_OK) {
        redis_free(&r->b);
        return rc;
    }
    redis_arm(r, clock_now(r->clock).ns + 1); /* in a turn of its own: the loop may not run yet */
    *b = &r->b;
    return RC_OK;
}
