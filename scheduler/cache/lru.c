/* The back end in our own memory: a hash table of fixed size and one list in order of use, shared by the caches of all
 * loops. Every operation is O(1) under one lock; an entry that is too old goes when it is asked for, or when its place
 * is needed. Only references are taken and given under the lock; entries are made and freed outside of it. */
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cache/cache_internal.h"

#define BYTES_PER_ENTRY INT64_C(1024) /* assumed, for the number of buckets and the bound on entries */
/* Most buckets are empty: who asks for what is not there, as most do, need not look at an entry, which is in no cache
 * of the processor. */
#define BUCKETS_PER_ENTRY 4
#define ENTRIES_MIN       INT64_C(64)
#define ENTRIES_MAX       (INT64_C(1) << 20)

struct item {
    struct item *chain; /* the next of its bucket */
    TAILQ_ENTRY(item) use;
    struct cache_key key;
    struct blob *blob;
    int64_t until_ns;
};
TAILQ_HEAD(use_list, item);

struct cache_memory {
    const struct clock *clock;
    int64_t ttl_ns, bytes_max, entries_max;
    uint64_t mix; /* odd and unknown outside: nobody can aim at one bucket */
    int shift;
    pthread_mutex_t lock; /* guards all that follows */
    struct item **buckets;
    struct use_list use; /* newest first */
    struct cache_memory_stats stats;
};

struct lru {
    struct backend b;
    struct cache_memory *m;
};

static struct cache_memory *memory_of(struct backend *b)
{
    return ((struct lru *)b)->m;
}

static void lock(struct cache_memory *m)
{
    SPW_ASSERT(pthread_mutex_lock(&m->lock) == 0);
}

static void unlock(struct cache_memory *m)
{
    SPW_ASSERT(pthread_mutex_unlock(&m->lock) == 0);
}

static struct item **bucket(const struct cache_memory *m, const struct cache_key *key)
{
    uint64_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &m->buckets[(h * m->mix) >> m->shift];
}

static struct item *find_locked(const struct cache_memory *m, const struct cache_key *key)
{
    struct item *i;
    for (i = *bucket(m, key); i; i = i->chain) {
        if (memcmp(&i->key, key, sizeof *key) == 0)
            return i;
    }
    return NULL;
}

static int64_t cost(size_t blob_bytes)
{
    return (int64_t)(sizeof(struct item) + sizeof(struct blob) + blob_bytes);
}

/* Out of the table and onto `gone`, which is freed when the lock is not held. */
static void remove_locked(struct cache_memory *m, struct item *i, struct use_list *gone)
{
    m->stats.entries--;
    m->stats.bytes -= cost(i->blob->n);
    struct item **at = bucket(m, &i->key);
    while (*at != i)
        at = &(*at)->chain;
    *at = i->chain;
    TAILQ_REMOVE(&m->use, i, use);
    TAILQ_INSERT_TAIL(gone, i, use);
}

static void free_items(struct use_list *gone)
{
    struct item *i;
    while ((i = TAILQ_FIRST(gone))) {
        TAILQ_REMOVE(gone, i, use);
        blob_unref(i->blob); /* a callback may still read it */
        free(i);
    }
}

/* The entry, if it is not too old. */
static struct item *find_fresh_locked(struct cache_memory *m, const struct cache_key *key, struct use_list *gone)
{
    struct item *i = find_locked(m, key);
    if (!i || clock_now(m->clock).ns < i->until_ns)
        return i;
    remove_locked(m, i, gone);
    m->stats.expired++;
    return NULL;
}

static bool lru_misses(struct backend *b, const struct cache_key *key)
{
    struct cache_memory *m = memory_of(b);
    struct use_list gone = TAILQ_HEAD_INITIALIZER(gone);
    lock(m);
    bool misses = !find_fresh_locked(m, key, &gone);
    unlock(m);
    free_items(&gone);
    return misses;
}

static void lru_get(struct backend *b, struct cache_get *get)
{
    struct cache_memory *m = memory_of(b);
    struct use_list gone = TAILQ_HEAD_INITIALIZER(gone);
    struct blob *blob = NULL;
    lock(m);
    struct item *i = find_fresh_locked(m, &get->key, &gone);
    if (i) {
        TAILQ_REMOVE(&m->use, i, use);
        TAILQ_INSERT_HEAD(&m->use, i, use);
        blob = blob_ref(i->blob);
    }
    unlock(m);
    free_items(&gone);
    get_ready(get, blob);
}

static void make_room_locked(struct cache_memory *m, int64_t bytes, struct use_list *gone)
{
    while (m->stats.entries && (m->stats.bytes + bytes > m->bytes_max || m->stats.entries >= m->entries_max)) {
        remove_locked(m, TAILQ_LAST(&m->use, use_list), gone);
        m->stats.evictions++;
    }
}

static void lru_put(struct backend *b, const struct cache_key *key, struct blob *blob)
{
    struct cache_memory *m = memory_of(b);
    struct use_list gone = TAILQ_HEAD_INITIALIZER(gone);
    struct item *i = spw_calloc(1, sizeof *i);
    int64_t bytes = cost(blob->n);
    i->key = *key;
    i->blob = blob_ref(blob);
    i->until_ns = clock_now(m->clock).ns + m->ttl_ns;
    lock(m);
    struct item *old = find_locked(m, key);
    if (old)
        remove_locked(m, old, &gone);
    if (bytes > m->bytes_max) {
        m->stats.evictions++;
        TAILQ_INSERT_TAIL(&gone, i, use);
    } else {
        make_room_locked(m, bytes, &gone);
        struct item **head = bucket(m, key);
        i->chain = *head;
        *head = i;
        TAILQ_INSERT_HEAD(&m->use, i, use);
        m->stats.entries++;
        m->stats.bytes += bytes;
    }
    unlock(m);
    free_items(&gone);
}

static void lru_stats(const struct backend *b, struct cache_stats *s)
{
    (void)b;
    s->reachable = true;
}

static void lru_free(struct backend *b)
{
    free(b);
}

static const struct backend_ops lru_ops = {.name = "memory",
                                           .trust = ENTRY_OURS,
                                           .misses = lru_misses,
                                           .get = lru_get,
                                           .put = lru_put,
                                           .stats = lru_stats,
                                           .free = lru_free};

enum rc lru_new(struct backend **b, const struct cache_options *o, struct error *e)
{
    (void)e;
    SPW_ASSERT(o->memory);
    struct lru *l = spw_calloc(1, sizeof *l);
    l->b.ops = &lru_ops;
    l->m = o->memory;
    *b = &l->b;
    return RC_OK;
}

/* ---- what is shared --------------------------------------------------------------------------------------------- */

enum rc cache_memory_new(struct cache_memory **out, const struct cache_memory_options *o, struct error *e)
{
    struct cache_memory *m = spw_calloc(1, sizeof *m);
    int bits = 6;
    m->clock = o->clock;
    m->ttl_ns = o->ttl_ms * NS_PER_MS;
    m->bytes_max = o->bytes_max;
    m->entries_max = o->bytes_max / BYTES_PER_ENTRY;
    if (m->entries_max < ENTRIES_MIN)
        m->entries_max = ENTRIES_MIN;
    if (m->entries_max > ENTRIES_MAX)
        m->entries_max = ENTRIES_MAX;
    while ((INT64_C(1) << bits) < BUCKETS_PER_ENTRY * m->entries_max)
        bits++;
    m->shift = 64 - bits;
    TAILQ_INIT(&m->use);
    if (RAND_bytes((unsigned char *)&m->mix, sizeof m->mix) != 1) {
        free(m);
        return error_set(e, RC_IO, "cache: the system gives no random bytes");
    }
    m->mix |= 1;
    SPW_ASSERT(pthread_mutex_init(&m->lock, NULL) == 0);
    m->buckets = spw_calloc((size_t)1 << bits, sizeof(struct item *)); /* pages come when they are touched */
    *out = m;
    return RC_OK;
}

void cache_memory_free(struct cache_memory *m)
{
    if (!m)
        return;
    free_items(&m->use);
    pthread_mutex_destroy(&m->lock);
    free(m->buckets);
    free(m);
}

struct cache_memory_stats cache_memory_stats(struct cache_memory *m)
{
    lock(m);
    struct cache_memory_stats s = m->stats;
    unlock(m);
    return s;
}
