#include "engine/model/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct node {
    uint64_t hash;
    int32_t place;
    int32_t parent; /* a node */
    int32_t holders, children;
    int32_t next;         /* in its bucket; of the spare ones, the next spare one */
    int32_t older, newer; /* in its list; PREFIX_NONE at the ends */
    struct prefix_salt salt;
    int32_t ids[K_PAGE_TOKENS];
};

/* By when they were let go. */
struct list {
    int32_t oldest, newest, n;
};

struct prefix {
    int32_t n_pages, n_slots;
    struct node *nodes;
    int32_t spare;    /* a node that is none's */
    int32_t *node_of; /* by place; PREFIX_NONE: nothing is known to be there */
    int32_t *buckets; /* the first node of each; n_buckets is a power of two */
    uint64_t n_buckets;
    struct list kept, stored; /* in pages and not held; in slots */
    int32_t *slots_free;      /* stack */
    int32_t n_slots_free;
    uint64_t evicted;
};

static int32_t *new_places(int32_t n)
{
    int32_t *p = spw_calloc((size_t)n, sizeof *p);
    for (int32_t i = 0; i < n; i++)
        p[i] = PREFIX_NONE;
    return p;
}

struct prefix *prefix_new(int32_t n_pages, int32_t n_slots)
{
    struct prefix *p = spw_calloc(1, sizeof *p);
    int32_t all = n_pages + n_slots;
    p->n_pages = n_pages;
    p->n_buckets = 16;
    while (p->n_buckets < (uint64_t)all)
        p->n_buckets *= 2;
    p->nodes = spw_calloc((size_t)all, sizeof *p->nodes);
    for (int32_t i = 0; i < all; i++)
        p->nodes[i].next = i + 1 < all ? i + 1 : PREFIX_NONE;
    p->node_of = new_places(all);
    p->buckets = new_places((int32_t)p->n_buckets);
    p->kept = p->stored = (struct list){PREFIX_NONE, PREFIX_NONE, 0};
    p->slots_free = spw_calloc((size_t)n_slots + 1, sizeof *p->slots_free);
    return p;
}

void prefix_free(struct prefix *p)
{
    if (!p)
        return;
    free(p->nodes);
    free(p->node_of);
    free(p->buckets);
    free(p->slots_free);
    free(p);
}

void prefix_limit(struct prefix *p, int32_t n)
{
    for (int32_t i = p->n_slots; i < n; i++)
        p->slots_free[p->n_slots_free++] = p->n_pages + i;
    p->n_slots = n > p->n_slots ? n : p->n_slots;
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

/* The node of a page whose block is known. */
static struct node *node_at(const struct prefix *p, int32_t place)
{
    SPW_ASSERT(place >= 0 && p->node_of[place] != PREFIX_NONE);
    return &p->nodes[p->node_of[place]];
}

static int32_t parent_of(const struct prefix *p, int32_t page)
{
    return page == PREFIX_NONE ? PREFIX_NONE : p->node_of[page];
}

int32_t prefix_find(const struct prefix *p, int32_t parent_page, const struct prefix_salt *salt, const int32_t *ids)
{
    int32_t parent = parent_of(p, parent_page);
    uint64_t hash = hash_block(parent, salt, ids);
    for (int32_t i = *bucket_of(p, hash); i != PREFIX_NONE; i = p->nodes[i].next) {
        const struct node *n = &p->nodes[i];
        if (n->hash == hash && n->parent == parent && memcmp(&n->salt, salt, sizeof *salt) == 0 &&
            memcmp(n->ids, ids, sizeof n->ids) == 0)
            return n->place;
    }
    return PREFIX_NONE;
}

void prefix_add(struct prefix *p, int32_t page, int32_t parent_page, const struct prefix_salt *salt, const int32_t *ids)
{
    int32_t parent = parent_of(p, parent_page), at = p->spare;
    struct node *n = &p->nodes[at];
    SPW_ASSERT(p->node_of[page] == PREFIX_NONE);
    SPW_ASSERT(parent_page == PREFIX_NONE || node_at(p, parent_page)->holders > 0);
    p->spare = n->next;
    *n = (struct node){.hash = hash_block(parent, salt, ids),
                       .place = page,
                       .parent = parent,
                       .holders = 1,
                       .older = PREFIX_NONE,
                       .newer = PREFIX_NONE,
                       .salt = *salt};
    memcpy(n->ids, ids, sizeof n->ids);
    p->node_of[page] = at;
    int32_t *bucket = bucket_of(p, n->hash);
    n->next = *bucket;
    *bucket = at;
    if (parent != PREFIX_NONE)
        p->nodes[parent].children++;
}

static void list_remove(struct prefix *p, struct list *l, const struct node *n)
{
    *(n->older != PREFIX_NONE ? &p->nodes[n->older].newer : &l->oldest) = n->newer;
    *(n->newer != PREFIX_NONE ? &p->nodes[n->newer].older : &l->newest) = n->older;
    l->n--;
}

static void list_append(struct prefix *p, struct list *l, struct node *n)
{
    int32_t at = (int32_t)(n - p->nodes);
    n->older = l->newest;
    n->newer = PREFIX_NONE;
    *(l->newest != PREFIX_NONE ? &p->nodes[l->newest].newer : &l->oldest) = at;
    l->newest = at;
    l->n++;
}

void prefix_hold(struct prefix *p, int32_t page)
{
    struct node *n = node_at(p, page);
    if (n->holders++ == 0)
        list_remove(p, &p->kept, n);
}

void prefix_release(struct prefix *p, int32_t page)
{
    struct node *n = node_at(p, page);
    SPW_ASSERT(n->holders > 0);
    if (--n->holders == 0)
        list_append(p, &p->kept, n);
}

/* Out of its bucket and its place, and no longer its parent's child. It is in no list. */
static void forget_node(struct prefix *p, struct node *n)
{
    int32_t at = (int32_t)(n - p->nodes), *link = bucket_of(p, n->hash);
    while (*link != at)
        link = &p->nodes[*link].next;
    *link = n->next;
    if (n->parent != PREFIX_NONE)
        p->nodes[n->parent].children--;
    p->node_of[n->place] = PREFIX_NONE;
    n->next = p->spare;
    p->spare = at;
}

/* Out of its slot, which is free then; where it goes on is the caller's. */
static void leave_slot(struct prefix *p, struct node *n)
{
    list_remove(p, &p->stored, n);
    p->slots_free[p->n_slots_free++] = n->place;
}

static void forget_oldest_stored(struct prefix *p)
{
    struct node *n = &p->nodes[p->stored.oldest];
    SPW_ASSERT(n->children == 0);
    leave_slot(p, n);
    forget_node(p, n);
    p->evicted++;
}

static void move_node(struct prefix *p, struct node *n, int32_t place)
{
    p->node_of[place] = p->node_of[n->place];
    p->node_of[n->place] = PREFIX_NONE;
    n->place = place;
}

int32_t prefix_evict(struct prefix *p, int32_t *slot)
{
    *slot = PREFIX_NONE;
    if (p->kept.oldest == PREFIX_NONE)
        return PREFIX_NONE;
    struct node *n = &p->nodes[p->kept.oldest];
    int32_t page = n->place;
    list_remove(p, &p->kept, n);
    if (p->n_slots_free == 0) {
        SPW_ASSERT(p->n_slots == 0 && n->children == 0);
        forget_node(p, n);
        p->evicted++;
        return page;
    }
    *slot = p->slots_free[--p->n_slots_free];
    move_node(p, n, *slot);
    list_append(p, &p->stored, n);
    return page;
}

void prefix_spare(struct prefix *p)
{
    if (p->n_slots > 0 && p->n_slots_free == 0)
        forget_oldest_stored(p);
}

void prefix_return(struct prefix *p, int32_t slot, int32_t page)
{
    struct node *n = node_at(p, slot);
    SPW_ASSERT(slot >= p->n_pages && page < p->n_pages && p->node_of[page] == PREFIX_NONE);
    leave_slot(p, n);
    move_node(p, n, page);
    n->holders = 1;
    n->older = n->newer = PREFIX_NONE;
}

void prefix_lose(struct prefix *p, int32_t slot)
{
    struct node *n = node_at(p, slot);
    while (n->children > 0) /* they are older, and it goes when all of them have */
        forget_oldest_stored(p);
    leave_slot(p, n);
    forget_node(p, n);
    p->evicted++;
}

bool prefix_forget(struct prefix *p, int32_t page)
{
    struct node *n = node_at(p, page);
    SPW_ASSERT(n->holders > 0);
    if (n->holders > 1 || n->children > 0)
        return false;
    forget_node(p, n);
    return true;
}

int32_t prefix_kept(const struct prefix *p)
{
    return p->kept.n;
}

int32_t prefix_in_slots(const struct prefix *p)
{
    return p->stored.n;
}

uint64_t prefix_evicted(const struct prefix *p)
{
    return p->evicted;
}
