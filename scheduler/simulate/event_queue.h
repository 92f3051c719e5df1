/* What happens next: every node and every clock of a run is a source with at most one time at which something will
 * happen to
 * it. A 4-ary heap of sources, each of which knows its place, so that a time can be moved. Equal times come out in the
 * order of
 * the sources' numbers: the order is total, runs are reproducible. No allocation but at the start. */
#ifndef SCHEDULER_SIMULATE_EVENT_QUEUE_H
#define SCHEDULER_SIMULATE_EVENT_QUEUE_H

#include <stdint.h>

#define EVENT_NEVER INT64_MAX

struct event_queue {
    struct event_entry {
        int64_t at_us;
        int32_t source;
    } * heap;       /* owned */
    int32_t *place; /* owned; by source: in the heap, or -1 */
    int32_t n, n_sources;
};

void event_queue_init(struct event_queue *q, int32_t n_sources);
void event_queue_fini(struct event_queue *q);
/* From now on the source's time is this one; EVENT_NEVER: none. O(log n), and cheap where the time moves little. */
void event_queue_set(struct event_queue *q, int32_t source, int64_t at_us);
static inline int64_t event_queue_next(const struct event_queue *q)
{
    return q->n ? q->heap[0].at_us : EVENT_NEVER;
}
static inline int32_t event_queue_source(const struct event_queue *q) /* of the next one; there must be one */
{
    return q->heap[0].source;
}

#endif
