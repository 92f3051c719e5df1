/* A fork-join thread pool for the CPU backend. The caller of pool_run works along as thread 0. Items are handed out one
 * by one, so which thread does which item is chance: what an item writes must not depend on it. Workers spin for some
 * tens of microseconds after a job, because operations follow each other closely, and then sleep on a futex: an idle
 * pool uses no CPU.
 *
 * One job at a time; pool_run is called from one thread. */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H

#include <stdint.h>

struct pool;
typedef void pool_fn(void *arg, int thread, int64_t item);

struct pool *pool_new(int threads); /* threads >= 1, the caller's included; NULL: no memory or no threads */
void pool_free(struct pool *p);     /* joins the workers; NULL is fine */
int pool_threads(const struct pool *p);
/* fn(arg, thread, item) for each item in 0 .. n_items-1, n_items < 2^31; returns when all are done. */
void pool_run(struct pool *p, pool_fn *fn, void *arg, int64_t n_items);

#endif
