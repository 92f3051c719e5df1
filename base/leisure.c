/* Semaphores alone: they have no owner who could be put aside. */
#include "base/leisure.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/thread.h"

struct leisure {
    pthread_t thread;
    sem_t asked, found;
    atomic_bool stopping;
};

static void wait_for(sem_t *s)
{
    while (sem_wait(s) != 0) { /* EINTR */
    }
}

static void *thread_main(void *arg)
{
    struct leisure *l = arg;

    for (wait_for(&l->asked); !l->stopping; wait_for(&l->asked))
        sem_post(&l->found);
    return NULL;
}

int leisure_start(struct leisure **out, const char *name)
{
    struct leisure *l = spw_calloc(1, sizeof *l);

    *out = NULL;
    sem_init(&l->asked, 0, 0);
    sem_init(&l->found, 0, 0);
    const int failed = thread_start(&l->thread, name, thread_main, l);
    if (failed) {
        free(l);
        return failed;
    }
    thread_come_last(l->thread);
    *out = l;
    return 0;
}

void leisure_wait(struct leisure *l)
{
    sem_post(&l->asked);
    wait_for(&l->found);
}

void leisure_wake(struct leisure *l)
{
    sem_post(&l->found);
}

void leisure_stop(struct leisure *l)
{
    if (!l)
        return;
    l->stopping = true;
    sem_post(&l->asked);
    pthread_join(l->thread, NULL);
    sem_destroy(&l->asked);
    sem_destroy(&l->found);
    free(l);
}
