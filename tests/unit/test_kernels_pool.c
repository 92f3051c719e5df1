/* The thread pool: each item once, on any number of threads; jobs back to back and far apart; idle costs no CPU.
 * links: spw_kernels */
#include "tests/unit/test.h"

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"

#define ITEMS_MAX 1000

struct tally {
    atomic_int done[ITEMS_MAX];
    atomic_int bad_thread;
    int threads;
};

static void count_item(void *arg, int thread, int64_t item)
{
    struct tally *t = arg;
    atomic_fetch_add(&t->done[item], 1);
    if (thread < 0 || thread >= t->threads)
        atomic_fetch_add(&t->bad_thread, 1);
}

static void every_item_runs_once(void)
{
    for (int threads = 1; threads <= 4; threads++) {
        struct pool *p = pool_new(threads);
        CHECK(p != NULL);
        CHECK_INT(pool_threads(p), threads);
        for (int round = 0; round < 300; round++) {
            static struct tally t;
            int64_t n = round % 7 == 0 ? round % 3 : 1 + round * 13 % ITEMS_MAX;
            memset(&t, 0, sizeof t);
            t.threads = threads;
            if (round % 100 == 99)
                usleep(2000); /* long enough for workers to fall asleep */
            pool_run(p, count_item, &t, n);
            int wrong = atomic_load(&t.bad_thread);
            for (int64_t i = 0; i < ITEMS_MAX; i++)
                wrong += atomic_load(&t.done[i]) != (i < n);
            CHECK_INT(wrong, 0);
        }
        pool_free(p);
    }
}

static void odd_sizes_are_refused(void)
{
    CHECK(pool_new(0) == NULL);
    CHECK(pool_new(-3) == NULL);
    pool_free(NULL);
}

/* Processor time of a pool left alone: a spinning worker would use all of it. */
static void idle_uses_no_cpu(void)
{
    static struct tally t = {.threads = 3};
    struct pool *p = pool_new(3);
    pool_run(p, count_item, &t, 100);
    usleep(20000);
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(200000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t used_us = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    CHECK(used_us < 20000);
    pool_free(p);
}

int main(void)
{
    TEST(every_item_runs_once);
    TEST(odd_sizes_are_refused);
    TEST(idle_uses_no_cpu);
    return TEST_RESULT();
}
