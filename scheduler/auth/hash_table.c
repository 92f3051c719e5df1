#include "scheduler/auth/hash_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"

#define BUCKET_FILL 4 /* entries per bucket on average, when it is time to double */

struct entry {
    struct hash hash;
    void *value;
};
struct bucket {
    struct entry *entries;
    int n, cap;
};
struct hash_table {
    struct bucket *buckets;
    uint32_t n_buckets; /* a power of two */
    int n;
    uint64_t secret[2];
};

enum rc hash_table_new(struct hash_table **out, struct error *e)
{
    struct hash_table *t = spw_calloc(1, sizeof *t);
    *out = NULL;
    if (getrandom(t->secret, sizeof t->secret, 0) != (ssize_t)sizeof t->secret) {
        free(t);
        return error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    }
    t->n_buckets = 16;
    t->buckets = spw_calloc(t->n_buckets, sizeof *t->buckets);
    *out = t;
    return RC_OK;
}

void hash_table_free(struct hash_table *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_buckets; i++)
        free(t->buckets[i].entries);
    free(t->buckets);
    free(t);
}

static struct bucket *bucket_of(const struct hash_table *t, const struct hash *h)
{
    uint64_t mixed = (h->w[0] ^ t->secret[0]) * ((h->w[1] ^ t->secret[1]) | 1);
    return &t->buckets[(uint32_t)(mixed >> 32) & (t->n_buckets - 1)];
}

/* All ones when equal, else zero; no branch. */
static uint64_t equal_mask(const struct hash *a, const struct hash *b)
{
    uint64_t differs = (a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3]);
    return ((differs | (0 - differs)) >> 63) - 1;
}

bool hash_equal(const struct hash *a, const struct hash *b)
{
    return equal_mask(a, b) != 0;
}

/* Index in the bucket, or -1. */
static int find(const struct bucket *b, const struct hash *h)
{
    uint64_t found = UINT64_MAX;
    for (int i = 0; i < b->n; i++) {
        uint64_t equal = equal_mask(&b->entries[i].hash, h);
        found = (equal & (uint64_t)i) | (~equal & found);
    }
    return (int)(int64_t)found;
}

static void push(struct bucket *b, const struct entry *e)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? b->cap * 2 : BUCKET_FILL;
        b->entries = spw_realloc(b->entries, (size_t)b->cap * sizeof *b->entries);
    }
    b->entries[b->n++] = *e;
}

static void grow(struct hash_table *t)
{
    struct bucket *old = t->buckets;
    uint32_t n_old = t->n_buckets;
    t->n_buckets *= 2;
    t->buckets = spw_calloc(t->n_buckets, sizeof *t->buckets);
    for (uint32_t i = 0; i < n_old; i++) {
        for (int k = 0; k < old[i].n; k++)
            push(bucket_of(t, &old[i].entries[k].hash), &old[i].entries[k]);
        free(old[i].entries);
    }
    free(old);
}

void hash_table_put(struct hash_table *t, const struct hash *h, void *value)
{
    struct bucket *b = bucket_of(t, h);
    int i = find(b, h);
    SPW_ASSERT(value);
    if (i >= 0) {
        b->entries[i].value = value;
        return;
    }
    push(b, &(struct entry){*h, value});
    if ((uint32_t)++t->n > t->n_buckets * BUCKET_FILL && t->n_buckets < UINT32_C(1) << 30)
        grow(t);
}

void hash_table_remove(struct hash_table *t, const struct hash *h)
{
    struct bucket *b = bucket_of(t, h);
    int i = find(b, h);
    if (i < 0)
        return;
    b->entries[i] = b->entries[--b->n];
    t->n--;
}

void *hash_table_find(const struct hash_table *t, const struct hash *h)
{
    const struct bucket *b = bucket_of(t, h);
    int i = find(b, h);
    return i < 0 ? NULL : b->entries[i].value;
}

int hash_table_count(const struct hash_table *t)
{
    return t->n;
}
