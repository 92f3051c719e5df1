/* Numbers that one thread changes and any thread may read: counts for metrics and totals. A change is a plain load and
 * store, without the bus lock that several writers would need. */
#ifndef BASE_COUNTER_H
#define BASE_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

struct counter {
    _Atomic int64_t v;
};

static inline void counter_add(struct counter *c, int64_t n) /* the owner's thread */
{
    atomic_store_explicit(&c->v, atomic_load_explicit(&c->v, memory_order_relaxed) + n, memory_order_relaxed);
}
static inline int64_t counter_get(const struct counter *c) /* any thread */
{
    return atomic_load_explicit(&((struct counter *)c)->v, memory_order_relaxed);
}

#endif
