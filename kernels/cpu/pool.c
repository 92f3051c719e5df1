/* Fork-join pool. A job is handed out through one 64-bit ticket, generation in the high half and next item in the low
 * half, claimed by compare-and-swap. A worker that comes late finds another generation or no item left and touches
 * nothing, so the caller waits for items, never for workers to wake.
 *
 * Order that matters: the ticket is closed (next item NO_ITEM) before fn, arg and n_items change, and opened after. A
 * claim that succeeds therefore proves that the fields, read between loading the ticket and swapping it, belong to
 * it. */
#include "kernels/cpu/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NO_ITEM     0xffffffffu
#define SPINS_MAX   4000 /* of some 10 ns: longer than the serial code between two operations of a decode step */
#define THREADS_MAX 1024

struct pool {
    int n_threads;
    pthread_t *workers; /* owned; n_threads - 1 */
    atomic_uint_least64_t ticket;
    _Atomic(pool_fn *) fn;
    _Atomic(void *) arg;
    atomic_uint n_items;
    atomic_uint done;     /* finished items of this job; futex of the caller */
    atomic_uint epoch;    /* changes with each job; futex of the workers */
    atomic_uint sleepers; /* workers in or near futex_wait */
    atomic_bool caller_sleeps, stop;
};
struct worker_start {
    struct pool *pool;
    int thread;
};

static void futex_wait(atomic_uint *word, unsigned seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(struct pool *p, int thread)
{
    for (;;) {
        uint64_t ticket = atomic_load(&p->ticket);
        pool_fn *fn = atomic_load(&p->fn);
        void *arg = atomic_load(&p->arg);
        unsigned n_items = atomic_load(&p->n_items), item = (unsigned)ticket;
        if (item >= n_items)
            return;
        if (!atomic_compare_exchange_weak(&p->ticket, &ticket, ticket + 1))
            continue;
        fn(arg, thread, item);
        if (atomic_fetch_add(&p->done, 1) + 1 == n_items && atomic_load(&p->caller_sleeps))
            futex_wake(&p->done);
    }
}

static void *worker_main(void *start_arg)
{
    struct worker_start start = *(struct worker_start *)start_arg;
    struct pool *p = start.pool;
    free(start_arg);
    unsigned seen = 0;
    while (!atomic_load(&p->stop)) {
        for (int spin = 0; spin < SPINS_MAX && atomic_load(&p->epoch) == seen; spin++)
            spin_pause();
        if (atomic_load(&p->epoch) == seen) {
            /* Announced before the kernel compares the word again, so that a new epoch is either seen or woken for. */
            atomic_fetch_add(&p->sleepers, 1);
            while (atomic_load(&p->epoch) == seen)
                futex_wait(&p->epoch, seen);
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen = atomic_load(&p->epoch);
        work(p, start.thread);
    }
    return NULL;
}

static void announce(struct pool *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers))
        futex_wake(&p->epoch);
}

static bool start_worker(struct pool *p, int thread)
{
    struct worker_start *start = malloc(sizeof *start);
    if (!start)
        return false;
    *start = (struct worker_start){p, thread};
    if (pthread_create(&p->workers[thread - 1], NULL, worker_main, start) != 0) {
        free(start);
        return false;
    }
    char name[16]; /* as much as Linux takes */
    snprintf(name, sizeof name, "kernel-%hu", (unsigned short)thread);
    (void)pthread_setname_np(p->workers[thread - 1], name); /* for top -H, gdb and perf */
    return true;
}

struct pool *pool_new(int threads)
{
    struct pool *p = threads >= 1 && threads <= THREADS_MAX ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return NULL;
    p->n_threads = 1;
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    atomic_init(&p->ticket, NO_ITEM);
    /* Signals belong to the program's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->workers && p->n_threads < threads && start_worker(p, p->n_threads))
        p->n_threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->n_threads < threads) {
        pool_free(p);
        return NULL;
    }
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    announce(p);
    for (int i = 0; i < p->n_threads - 1; i++)
        pthread_join(p->workers[i], NULL);
    free(p->workers);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->n_threads;
}

static void wait_done(struct pool *p, unsigned n_items)
{
    for (int spin = 0; spin < SPINS_MAX; spin++) {
        if (atomic_load(&p->done) == n_items)
            return;
        spin_pause();
    }
    atomic_store(&p->caller_sleeps, true);
    for (unsigned done; (done = atomic_load(&p->done)) != n_items;)
        futex_wait(&p->done, done);
    atomic_store(&p->caller_sleeps, false);
}

void pool_run(struct pool *p, pool_fn *fn, void *arg, int64_t n_items)
{
    if (p->n_threads == 1 || n_items <= 1) {
        for (int64_t item = 0; item < n_items; item++)
            fn(arg, 0, item);
        return;
    }
    uint64_t generation = (atomic_load(&p->ticket) >> 32) + 1;
    atomic_store(&p->ticket, generation << 32 | NO_ITEM);
    atomic_store(&p->fn, fn);
    atomic_store(&p->arg, arg);
    atomic_store(&p->n_items, (unsigned)n_items);
    atomic_store(&p->done, 0);
    atomic_store(&p->ticket, generation << 32);
    announce(p);
    work(p, 0);
    wait_done(p, (unsigned)n_items);
}
