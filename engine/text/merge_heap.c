#include "engine/text/merge_heap.h"

#include <stdlib.h>

#include "base/alloc.h"

static bool better(const struct merge_candidate *a, const struct merge_candidate *b)
{
    return a->key != b->key ? a->key < b->key : a->left < b->left;
}

void merge_heap_push(struct merge_heap *h, struct merge_candidate c)
{
    if (h->n == h->cap) {
        h->cap = h->cap ? h->cap * 2 : 64;
        h->items = spw_realloc(h->items, h->cap * sizeof *h->items);
    }
    size_t i = h->n++;
    for (; i > 0 && better(&c, &h->items[(i - 1) / 2]); i = (i - 1) / 2)
        h->items[i] = h->items[(i - 1) / 2];
    h->items[i] = c;
}

bool merge_heap_pop(struct merge_heap *h, struct merge_candidate *c)
{
    if (!h->n)
        return false;
    *c = h->items[0];
    struct merge_candidate last = h->items[--h->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && better(&h->items[child + 1], &h->items[child]))
            child++;
        if (!better(&h->items[child], &last))
            break;
        h->items[i] = h->items[child];
    }
    h->items[i] = last;
    return true;
}

void merge_heap_fini(struct merge_heap *h)
{
    free(h->items);
    *h = (struct merge_heap){0};
}
