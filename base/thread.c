#include "base/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

int thread_start(pthread_t *t, const char *name, void *(*run)(void *arg), void *arg)
{
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    char kept[THREAD_NAME_MAX + 1];
    sigset_t all, before;

    sigfillset(&all);
    for (size_t i = 0; i < sizeof own_faults / sizeof *own_faults; i++)
        sigdelset(&all, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(t, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) {
        snprintf(kept, sizeof kept, "%s", name);
        (void)pthread_setname_np(*t, kept); /* without a name it works as well */
    }
    return failed;
}

void thread_wake_on_time(void)
{
    (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); /* ns */
}

static void set_class(pthread_t t, int class)
{
    const struct sched_param none = {0};

    (void)pthread_setschedparam(t, class, &none);
}

void thread_stand_back(pthread_t t)
{
    set_class(t, SCHED_BATCH);
}

void thread_come_last(pthread_t t)
{
    set_class(t, SCHED_IDLE);
}

void thread_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

struct timespec thread_cond_until(int64_t us)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += us % 1000000 * 1000;
    t.tv_sec += us / 1000000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}
