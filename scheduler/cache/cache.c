/* The core: lookups and their turn of the loop, what may be stored, the counters. */
#include "scheduler/cache/cache.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/cache/cache_internal.h"
#include "scheduler/cache/replay.h"

#define GET_MAGIC 0x43474554u /* "CGET" */

struct cache {
    struct backend *backend;
    const struct clock *clock;
    size_t entry_bytes_max;
    struct get_list waiting, ready, delivering;
    struct event *turn;                                     /* delivers what is ready */
    _Atomic uint64_t hits, misses, stores, refused, errors; /* others may read them */
};

struct backend *get_backend(const struct cache_get *get)
{
    return get->cache->backend;
}

static void get_free(struct cache_get *g)
{
    TAILQ_REMOVE(g->list, g, entry);
    blob_unref(g->blob);
    g->magic = 0;
    free(g);
}

static void get_list_add(struct get_list *list, struct cache_get *g)
{
    TAILQ_INSERT_TAIL(list, g, entry);
    g->list = list;
}

/* Is what was found an answer to be shown? *entry borrows from the blob. */
static bool read_found(struct cache *c, const struct cache_get *g, struct cache_entry *entry)
{
    if (!g->blob)
        return false;
    if (entry_decode(g->blob, &g->key, c->backend->ops->trust, entry) == RC_OK)
        return true;
    c->errors++;
    return false;
}

static void deliver(struct cache *c, struct cache_get *g)
{
    struct cache_entry entry;
    bool hit = read_found(c, g, &entry);
    if (hit) {
        c->hits++;
    } else {
        c->misses++;
    }
    struct blob *blob = g->blob; /* must outlive g, which must be gone before its callback runs */
    cache_get_cb *cb = g->cb;
    void *arg = g->arg;
    g->blob = NULL;
    get_free(g);
    cb(hit ? &entry : NULL, arg);
    blob_unref(blob);
}

/* What callbacks ask for is answered in the next turn: one of them cannot keep the loop here for ever. */
static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct cache *c = arg;
    struct cache_get *g;
    (void)fd, (void)what;
    while ((g = TAILQ_FIRST(&c->ready))) {
        TAILQ_REMOVE(&c->ready, g, entry);
        get_list_add(&c->delivering, g);
    }
    while ((g = TAILQ_FIRST(&c->delivering)))
        deliver(c, g); /* NOLINT(clang-analyzer-unix.Malloc): it cannot follow the list */
}

void get_ready(struct cache_get *g, struct blob *blob)
{
    SPW_ASSERT(g->magic == GET_MAGIC && g->list == &g->cache->waiting);
    g->blob = blob;
    g->command = NULL;
    TAILQ_REMOVE(g->list, g, entry);
    get_list_add(&g->cache->ready, g);
    event_active(g->cache->turn, EV_TIMEOUT, 0);
}

enum rc cache_new(struct cache **out, const struct cache_options *o, struct error *e)
{
    struct cache *c = spw_calloc(1, sizeof *c);
    *out = NULL;
    c->clock = o->clock;
    c->entry_bytes_max = (size_t)o->entry_bytes_max;
    TAILQ_INIT(&c->waiting);
    TAILQ_INIT(&c->ready);
    TAILQ_INIT(&c->delivering);
    c->turn = event_new(o->loop, -1, 0, on_turn, c);
    enum rc rc = c->turn ? RC_OK : error_set(e, RC_IO, "cache: the event loop takes no event");
    if (rc == RC_OK)
        rc = o->mode == CACHE_REDIS ? redis_new(&c->backend, o, e) : lru_new(&c->backend, o, e);
    if (rc != RC_OK) {
        cache_free(c);
        return rc;
    }
    *out = c;
    return RC_OK;
}

static void drop_all(struct get_list *list)
{
    struct cache_get *g;
    while ((g = TAILQ_FIRST(list)))
        cache_get_cancel(g); /* NOLINT(clang-analyzer-unix.Malloc): it cannot follow the list */
}

void cache_free(struct cache *c)
{
    if (!c)
        return;
    SPW_ASSERT(TAILQ_EMPTY(&c->delivering));
    drop_all(&c->waiting);
    drop_all(&c->ready);
    if (c->backend)
        c->backend->ops->free(c->backend);
    if (c->turn)
        event_free(c->turn);
    free(c);
}

struct cache_get *cache_get(struct cache *c, const struct cache_key *key, cache_get_cb *cb, void *arg)
{
    struct cache_get *g = spw_calloc(1, sizeof *g);
    g->magic = GET_MAGIC;
    g->cache = c;
    g->key = *key;
    g->cb = cb;
    g->arg = arg;
    get_list_add(&c->waiting, g);
    c->backend->ops->get(c->backend, g);
    return g;
}

bool cache_misses(struct cache *c, const struct cache_key *key)
{
    bool misses = c->backend->ops->misses(c->backend, key);
    c->misses += misses;
    return misses;
}

void cache_get_cancel(struct cache_get *g)
{
    SPW_ASSERT(g->magic == GET_MAGIC);
    struct backend *b = g->cache->backend;
    if (g->list == &g->cache->waiting && b->ops->cancel)
        b->ops->cancel(b, g);
    get_free(g);
}

static enum rc encode(const struct cache *c, const struct cache_key *key, const struct cache_entry *entry,
                      struct blob **kept)
{
    struct cache_entry e = *entry;
    if (entry->body_len > c->entry_bytes_max)
        return RC_FULL;
    enum rc rc = entry->replays ? RC_OK : replay_check(entry->body, entry->body_len);
    e.stored = clock_wall(c->clock);
    return rc == RC_OK ? entry_encode(key, &e, c->entry_bytes_max, kept) : rc;
}

enum rc cache_keep(struct cache *c, const struct cache_key *key, const struct cache_entry *entry, struct blob **kept)
{
    *kept = NULL;
    enum rc rc = encode(c, key, entry, kept);
    c->refused += rc != RC_OK;
    return rc;
}

void cache_put_kept(struct cache *c, const struct cache_key *key, struct blob *kept)
{
    c->backend->ops->put(c->backend, key, kept);
    c->stores++;
}

enum rc cache_read_kept(const struct blob *kept, const struct cache_key *key, struct cache_entry *entry)
{
    return entry_decode(kept, key, ENTRY_OURS, entry);
}

enum rc cache_put(struct cache *c, const struct cache_key *key, const struct cache_entry *entry)
{
    struct blob *kept;
    enum rc rc = cache_keep(c, key, entry, &kept);
    if (rc == RC_OK)
        cache_put_kept(c, key, kept);
    blob_unref(kept);
    return rc;
}

struct cache_stats cache_stats(const struct cache *c)
{
    struct cache_stats s = {
        .hits = c->hits, .misses = c->misses, .stores = c->stores, .refused = c->refused, .errors = c->errors};
    c->backend->ops->stats(c->backend, &s);
    return s;
}
