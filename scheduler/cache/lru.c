/* The back end in our own memory: a hash table of fixed size and one list in order of use. Every operation is O(1); an
 * entry that is too old goes when it is asked for, or when its place is needed. */
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cache/cache_internal.h"

#define BYTES_PER_ENTRY INT64_C(1024) /* assumed, for the number of buckets and the bound on entries */
#define ENTRIES_MIN     INT64_C(64)
#define ENTRIES_MAX     (INT64_C(1) << 20)

struct item {
    LIST_ENTRY(item) chain;
    TAILQ_ENTRY(item) use;
    struct cache_key key;
    struct blob *blob;
    int64_t until_ns;
};
LIST_HEAD(item_chain, item);
TAILQ_HEAD(use_list, item);

struct lru {
    struct backend b;
    const struct clock *clock;
    int64_t ttl_ns, bytes_max, entries_max;
    uint64_t mix; /* odd and unknown outside: nobody can aim at one bucket */
    int shift;
    struct item_chain *buckets;
    struct use_list use; /* newest first */
    int64_t entries, bytes;
    uint64_t evictions, expired;
};

static struct lru *lru_of(struct backend *b)
{
    return (struct lru *)b;
}

static struct item_chain *bucket(const struct lru *l, const struct cache_key *key)
{
    uint64_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &l->buckets[(h * l->mix) >> l->shift];
}

static struct item *find(const struct lru *l, const struct cache_key *key)
{
    struct item *i;
    for (i = LIST_FIRST(bucket(l, key)); i; i = LIST_NEXT(i, chain)) {
        if (memcmp(&i->key, key, sizeof *key) == 0)
            return i;
    }
    return NULL;
}

static int64_t cost(size_t blob_bytes)
{
    return (int64_t)(sizeof(struct item) + sizeof(struct blob) + blob_bytes);
}

static void remove_item(struct lru *l, struct item *i)
{
    l->entries--;
    l->bytes -= cost(i->blob->n);
    LIST_REMOVE(i, chain);
    TAILQ_REMOVE(&l->use, i, use);
    blob_unref(i->blob); /* a callback may still read it */
    free(i);
}

static void lru_get(struct backend *b, struct cache_get *get)
{
    struct lru *l = lru_of(b);
    struct item *i = find(l, &get->key);
    if (i && clock_now(l->clock).ns >= i->until_ns) {
        remove_item(l, i);
        l->expired++;
        i = NULL;
    }
    if (!i) {
        get_ready(get, NULL);
        return;
    }
    TAILQ_REMOVE(&l->use, i, use);
    TAILQ_INSERT_HEAD(&l->use, i, use);
    get_ready(get, blob_ref(i->blob));
}

static void lru_put(struct backend *b, const struct cache_key *key, struct blob *blob)
{
    struct lru *l = lru_of(b);
    struct item *old = find(l, key);
    if (old)
        remove_item(l, old);
    int64_t bytes = cost(blob->n);
    if (bytes > l->bytes_max) {
        l->evictions++;
        return;
    }
    while (l->entries && (l->bytes + bytes > l->bytes_max || l->entries >= l->entries_max)) {
        struct item *eldest = TAILQ_LAST(&l->use, use_list);
        remove_item(l, eldest); /* NOLINT(clang-analyzer-unix.Malloc): it cannot follow the list */
        l->evictions++;
    }
    struct item *i = spw_calloc(1, sizeof *i);
    i->key = *key;
    i->blob = blob_ref(blob);
    i->until_ns = clock_now(l->clock).ns + l->ttl_ns;
    LIST_INSERT_HEAD(bucket(l, key), i, chain);
    TAILQ_INSERT_HEAD(&l->use, i, use);
    l->entries++;
    l->bytes += bytes;
}

static void lru_stats(const struct backend *b, struct cache_stats *s)
{
    const struct lru *l = (const struct lru *)b;
    s->entries = l->entries;
    s->bytes = l->bytes;
    s->evictions = l->evictions;
    s->expired = l->expired;
    s->reachable = true;
}

static void lru_free(struct backend *b)
{
    struct lru *l = lru_of(b);
    struct item *i;
    while ((i = TAILQ_FIRST(&l->use)))
        remove_item(l, i); /* NOLINT(clang-analyzer-unix.Malloc): it cannot follow the list */
    free(l->buckets);
    free(l);
}

static const struct backend_ops lru_ops = {
    .name = "memory", .trust = ENTRY_OURS, .get = lru_get, .put = lru_put, .stats = lru_stats, .free = lru_free};

enum rc lru_new(struct backend **b, const struct cache_options *o, struct error *e)
{
    struct lru *l = spw_calloc(1, sizeof *l);
    int bits = 6;
    l->b.ops = &lru_ops;
    l->clock = o->clock;
    l->ttl_ns = o->ttl_ms * NS_PER_MS;
    l->bytes_max = o->bytes_max;
    l->entries_max = o->bytes_max / BYTES_PER_ENTRY;
    if (l->entries_max < ENTRIES_MIN)
        l->entries_max = ENTRIES_MIN;
    if (l->entries_max > ENTRIES_MAX)
        l->entries_max = ENTRIES_MAX;
    while ((INT64_C(1) << bits) < l->entries_max)
        bits++;
    l->shift = 64 - bits;
    TAILQ_INIT(&l->use);
    if (RAND_bytes((unsigned char *)&l->mix, sizeof l->mix) != 1) {
        free(l);
        return error_set(e, RC_IO, "cache: the system gives no random bytes");
    }
    l->mix |= 1;
    l->buckets = spw_calloc((size_t)1 << bits, sizeof *l->buckets); /* pages come when they are touched */
    *b = &l->b;
    return RC_OK;
}
