#include "scheduler/simulate/event_queue.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/alloc.h"

void event_queue_init(struct event_queue *q, int32_t n_sources)
{
    q->heap = spw_calloc((size_t)n_sources + 1, sizeof(*q->heap));
    q->place = spw_calloc((size_t)n_sources + 1, sizeof(*q->place));
    for (int32_t i = 0; i < n_sources; i++)
        q->place[i] = -1;
    q->n = 0;
    q->n_sources = n_sources;
}

void event_queue_fini(struct event_queue *q)
{
    free(q->heap);
    free(q->place);
    *q = (struct event_queue){0};
}

static inline bool before(const struct event_entry *a, const struct event_entry *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->source < b->source;
}

static inline void put(struct event_queue *q, int32_t at, struct event_entry e)
{
    q->heap[at] = e;
    q->place[e.source] = at;
}

static void sift(struct event_queue *q, int32_t at, struct event_entry e)
{
    while (at > 0) {
        const int32_t up = (at - 1) / 4;
        if (!before(&e, &q->heap[up]))
            break;
        put(q, at, q->heap[up]);
        at = up;
    }
    for (;;) {
        const int32_t first = 4 * at + 1, end = first + 4 < q->n ? first + 4 : q->n;
        int32_t least = first;
        if (first >= q->n)
            break;
        for (int32_t i = first + 1; i < end; i++)
            if (before(&q->heap[i], &q->heap[least]))
                least = i;
        if (!before(&q->heap[least], &e))
            break;
        put(q, at, q->heap[least]);
        at = least;
    }
    put(q, at, e);
}

void event_queue_set(struct event_queue *q, int32_t source, int64_t at_us)
{
    const int32_t at = q->place[source];
    if (at_us != EVENT_NEVER) {
        sift(q, at >= 0 ? at : q->n++, (struct event_entry){.at_us = at_us, .source = source});
        return;
    }
    if (at < 0)
        return;
    q->place[source] = -1;
    const struct event_entry last = q->heap[--q->n];
    if (last.source != source)
        sift(q, at, last);
}
