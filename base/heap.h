/* A binary heap of other people's objects: the smallest on top, any of them can be taken out again. An object holds one
 * heap_place per heap it may be in, which says where it is there. Growing is bounded by whoever pushes. No locks. */
#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct heap_place {
    size_t at; /* 1-based; 0: in no heap, as a zeroed object is */
};

struct heap {
    struct heap_place **items; /* owned; [0] is the top */
    size_t n, cap;
    bool (*before)(const struct heap_place *a, const struct heap_place *b); /* a total order */
};

void heap_init(struct heap *h, bool (*before)(const struct heap_place *a, const struct heap_place *b));
void heap_fini(struct heap *h); /* what is in it is forgotten, not touched */
void heap_push(struct heap *h, struct heap_place *p);
void heap_remove(struct heap *h, struct heap_place *p);
/* p's order has changed. */
void heap_moved(struct heap *h, struct heap_place *p);
static inline bool heap_has(const struct heap_place *p)
{
    return p->at > 0;
}
static inline struct heap_place *heap_top(const struct heap *h)
{
    return h->n ? h->items[0] : NULL;
}
/* How many are before `p` (which need not be in it), counted no further than `most`: costs in proportion to the answer,
 * not to the heap. */
size_t heap_count_before(const struct heap *h, const struct heap_place *p, size_t most);

#endif
