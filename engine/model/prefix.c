#include "engine/model/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct node {
    uint64_t hash;
    int32_t parent;
    int32_t holders, children;
    int32_t next;         /* in its bucket */
    int32_t older, newer; /* among the kept; PREFIX_NONE at the ends */
    bool known;
    struct prefix_salt salt;
    int32_t ids[K_PAGE_TOKENS];
};

struct prefix {
    struct node *nodes; /* by page */
    int32_t *buckets;   /* the first page of each; n_buckets is a power of two */
    uint64_t n_buckets;
    int32_t oldest, newest, n_kept;
    uint64_t evicted;
};

struct prefix *prefix_new(int32_t n_pages)
{
    struct prefix *p = spw_calloc(1, sizeof *p);
    p->n_buckets = 16;
    while (p->n_buckets < (uint64_t)n_pages)
        p->n_buckets *= 2;
    p->nodes = spw_calloc((size_t)n_pages, sizeof *p->nodes);
    p->buckets = spw_calloc(p->n_buckets, sizeof *p->buckets);
    for (uint64_t i = 0; i < p->n_buckets; i++)
        p->buckets[i] = PREFIX_NONE;
    p->oldest = p->newest = PREFIX_NONE;
    return p;
}

void prefix_free(struct prefix *p)
{
    if (!p)
        return;
    free(p->nodes);
    free(p->buckets);
    free(p);
}

/* Multiply and fold, as in wyhash: quick, and good enough for a place in a table. */
static uint64_t mix(uint64_t h, uint64_t v)
{
    unsigned __int128 m = (unsigned __int128)(h ^ v) * 0x9e3779b97f4a7c15u;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash_block(int32_t parent, const struct prefix_salt *salt, const int32_t *ids)
{
    uint64_t h = 0x2545f4914f6cdd1du, word;
    for (size_t i = 0; i < sizeof *salt; i += sizeof word) {
        memcpy(&word, salt->bytes + i, sizeof word);
        h = mix(h, word);
    }
    h = mix(h, (uint64_t)(uint32_t)parent + 1);
    for (int i = 0; i < K_PAGE_TOKENS; i += 2) {
        memcpy(&word, ids + i, sizeof word);
        h = mix(h, word);
    }
    return h;
}

static int32_t *bucket_of(const struct prefix *p, uint64_t hash)
{
    return &p->buckets[hash & (p->n_buckets - 1)];
}

int32_t prefix_find(const struct prefix *p, int32_t parent, const struct prefix_salt *salt, const int32_t *ids)
{
    uint64_t hash = hash_block(parent, salt, ids);
    for (int32_t i = *bucket_of(p, hash); i != PREFIX_NONE; i = p->nodes[i].next) {
        const struct node *n = &p->nodes[i];
        if (n->hash == hash && n->parent == parent && memcmp(&n->salt, salt, sizeof *salt) == 0 &&
            memcmp(n->ids, ids, sizeof n->ids) == 0)
            return i;
    }
    return PREFIX_NONE;
}

void prefix_add(struct prefix *p, int32_t page, int32_t parent, const struct prefix_salt *salt, const int32_t *ids)
{
    struct node *n = &p->nodes[page];
    SPW_ASSERT(!n->known && (parent == PREFIX_NONE || p->nodes[parent].holders > 0));
    *n = (struct node){.hash = hash_block(parent, salt, ids),
                       .parent = parent,
                       .holders = 1,
                       .older = PREFIX_NONE,
                       .newer = PREFIX_NONE,
                       .known = true,
                       .salt = *salt};
    memcpy(n->ids, ids, sizeof n->ids);
    int32_t *bucket = bucket_of(p, n->hash);
    n->next = *bucket;
    *bucket = page;
    if (parent != PREFIX_NONE)
        p->nodes[parent].children++;
}

void prefix_hold(struct prefix *p, int32_t page)
{
    struct node *n = &p->nodes[page];
    SPW_ASSERT(n->known);
    if (n->holders++ > 0)
        return;
    *(n->older != PREFIX_NONE ? &p->nodes[n->older].newer : &p->oldest) = n->newer;
    *(n->newer != PREFIX_NONE ? &p->nodes[n->newer].older : &p->newest) = n->older;
    p->n_kept--;
}

void prefix_release(struct prefix *p, int32_t page)
{
    struct node *n = &p->nodes[page];
    SPW_ASSERT(n->known && n->holders > 0);
    if (--n->holders > 0)
        return;
    n->older = p->newest;
    n->newer = PREFIX_NONE;
    *(p->newest != PREFIX_NONE ? &p->nodes[p->newest].newer : &p->oldest) = page;
    p->newest = page;
    p->n_kept++;
}

/* Out of its bucket, and no longer its parent's child. */
static void unlink_node(struct prefix *p, int32_t page)
{
    struct node *n = &p->nodes[page];
    int32_t *link = bucket_of(p, n->hash);
    while (*link != page)
        link = &p->nodes[*link].next;
    *link = n->next;
    if (n->parent != PREFIX_NONE)
        p->nodes[n->parent].children--;
    n->known = false;
}

int32_t prefix_evict(struct prefix *p)
{
    int32_t page = p->oldest;
    if (page == PREFIX_NONE)
        return PREFIX_NONE;
    SPW_ASSERT(p->nodes[page].children == 0);
    prefix_hold(p, page); /* off the list of the kept */
    unlink_node(p, page);
    p->evicted++;
    return page;
}

bool prefix_forget(struct prefix *p, int32_t page)
{
    struct node *n = &p->nodes[page];
    SPW_ASSERT(n->known && n->holders > 0);
    if (n->holders > 1 || n->children > 0)
        return false;
    unlink_node(p, page);
    return true;
}

int32_t prefix_kept(const struct prefix *p)
{
    return p->n_kept;
}

uint64_t prefix_evicted(const struct prefix *p)
{
    return p->evicted;
}
