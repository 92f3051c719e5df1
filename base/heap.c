#include "base/heap.h"

#include <stdlib.h>

#include "base/alloc.h"

void heap_init(struct heap *h, bool (*before)(const struct heap_place *a, const struct heap_place *b))
{
    *h = (struct heap){.before = before};
}

void heap_fini(struct heap *h)
{
    free(h->items);
    h->items = NULL;
    h->n = h->cap = 0;
}

static void put(struct heap *h, size_t i, struct heap_place *p)
{
    h->items[i] = p;
    p->at = i + 1;
}

static void rise(struct heap *h, size_t i, struct heap_place *p)
{
    while (i > 0 && h->before(p, h->items[(i - 1) / 2])) {
        put(h, i, h->items[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    put(h, i, p);
}

static void sink(struct heap *h, size_t i, struct heap_place *p)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < h->n && h->before(h->items[child + 1], h->items[child]))
            child++;
        if (child >= h->n || !h->before(h->items[child], p))
            break;
        put(h, i, h->items[child]);
        i = child;
    }
    put(h, i, p);
}

void heap_push(struct heap *h, struct heap_place *p)
{
    SPW_ASSERT(!heap_has(p));
    if (h->n == h->cap) {
        h->cap = h->cap ? h->cap * 2 : 4;
        h->items = spw_realloc(h->items, h->cap * sizeof(struct heap_place *));
    }
    h->n++;
    rise(h, h->n - 1, p);
}

void heap_moved(struct heap *h, struct heap_place *p)
{
    size_t i = p->at - 1;
    SPW_ASSERT(heap_has(p) && i < h->n && h->items[i] == p);
    if (i > 0 && h->before(p, h->items[(i - 1) / 2]))
        rise(h, i, p);
    else
        sink(h, i, p);
}

void heap_remove(struct heap *h, struct heap_place *p)
{
    size_t i = p->at - 1;
    SPW_ASSERT(heap_has(p) && i < h->n && h->items[i] == p);
    struct heap_place *last = h->items[--h->n];
    p->at = 0;
    if (last == p)
        return;
    put(h, i, last);
    heap_moved(h, last);
}

static void count_from(const struct heap *h, size_t i, const struct heap_place *p, size_t most, size_t *count)
{
    if (i >= h->n || *count >= most || !h->before(h->items[i], p))
        return; /* nor is anything below it */
    (*count)++;
    count_from(h, 2 * i + 1, p, most, count);
    count_from(h, 2 * i + 2, p, most, count);
}

size_t heap_count_before(const struct heap *h, const struct heap_place *p, size_t most)
{
    size_t count = 0;
    count_from(h, 0, p, most, &count);
    return count;
}
