/* A clock that runs faster, for programs that are to live through a day in minutes: goes into them by LD_PRELOAD.
 *
 *   FASTCLOCK=FACTOR:WALL:MONO       the real CLOCK_MONOTONIC at which it begins is MONO ns, and then it is WALL seconds
 *                                    of 1970; from there on both clocks run FACTOR times as fast, the same in all
 *                                    processes that have it
 *   FASTCLOCK=FACTOR:WALL:MONO:FILE  they run as long as somebody says again and again in FILE (struct beat) that the
 *                                    machine runs: when it stands still, so do they, a moment later
 *
 * What reads time reads that clock; what waits waits 1/FACTOR as long: polls, sleeps, conditions, timers. Processor
 * time (CLOCK_*_CPUTIME_ID) stays as it is, and so do timeouts of sockets, times of files, and usleep(), by which
 * SQLite waits for a lock: whoever holds it writes to a disk that is no quicker, and five seconds' patience would be a
 * 30th of one. Absolute waits of conditions do not say by which clock; it is told from the number: what is far above a
 * machine's uptime is a time of day. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS     INT64_C(1000000000)
#define WALL_S INT64_C(500000000) /* seconds above this are a time of day */

/* At real_ns of the real clock, elapsed_ns had passed on this one; more than most_ns of the real one do not count until
 * the next beat. Beat n stands in at[n % 2]. */
struct beat {
    volatile int64_t n;
    volatile int64_t most_ns;
    struct {
        volatile int64_t real_ns, elapsed_ns;
    } at[2];
};

static int64_t factor = 1, wall_s, mono_ns;
static const struct beat *beat;
static int (*real_gettime)(clockid_t, struct timespec *);

static void *next(const char *name)
{
    void *p = dlsym(RTLD_NEXT, name);
    if (!p)
        abort();
    return p;
}
#define REAL(name)                                                                                                     \
    static __typeof__(name) *real;                                                                                     \
    if (!real)                                                                                                         \
    real = (__typeof__(name) *)next(#name)

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("FASTCLOCK");
    long long f, w, m;
    int path = 0;
    if (!text || sscanf(text, "%lld:%lld:%lld:%n", &f, &w, &m, &path) != 3 || f <= 0)
        return;
    factor = f;
    wall_s = w;
    mono_ns = m;
    if (!path)
        return;
    int fd = open(text + path, O_RDONLY | O_CLOEXEC);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *beat, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        abort();
    beat = p;
    close(fd);
}

static int64_t ns_of(const struct timespec *t)
{
    return (int64_t)t->tv_sec * NS + t->tv_nsec;
}

static struct timespec of_ns(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS), .tv_nsec = (long)(ns % NS)};
}

static int64_t real_now(clockid_t id)
{
    struct timespec t;
    if (!real_gettime)
        real_gettime = (int (*)(clockid_t, struct timespec *))next("clock_gettime");
    real_gettime(id, &t);
    return ns_of(&t);
}

/* Since it began, in its own time. */
static int64_t elapsed(void)
{
    if (!beat)
        return (real_now(CLOCK_MONOTONIC) - mono_ns) * factor;
    for (;;) {
        const int64_t n = __atomic_load_n(&beat->n, __ATOMIC_ACQUIRE);
        const int64_t real_ns = beat->at[n & 1].real_ns, elapsed_ns = beat->at[n & 1].elapsed_ns;
        int64_t since = real_now(CLOCK_MONOTONIC) - real_ns;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&beat->n, __ATOMIC_ACQUIRE) != n)
            continue; /* it has been written meanwhile */
        since = since < 0 ? 0 : since < beat->most_ns ? since : beat->most_ns;
        return elapsed_ns + since * factor;
    }
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        if (wall_s) {
            *t = of_ns(wall_s * NS + elapsed());
            return 0;
        }
        break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME: *t = of_ns(mono_ns + elapsed()); return 0;
    default: break;
    }
    (void)real_now(CLOCK_MONOTONIC); /* finds the real one */
    return real_gettime(id, t);
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *tv = (struct timeval){.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *to)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (to)
        *to = t.tv_sec;
    return t.tv_sec;
}

/* ---- waits of so long ---------------------------------------------------------------------------------------------- */

/* Rounded up: who waits for nothing asks again and again. */
static int fewer_ms(int ms)
{
    return ms <= 0 ? ms : (int)((ms + factor - 1) / factor);
}

static struct timespec shorter(const struct timespec *t)
{
    return of_ns((ns_of(t) + factor - 1) / factor);
}

int epoll_wait(int fd, struct epoll_event *events, int n, int ms)
{
    REAL(epoll_wait);
    return real(fd, events, n, fewer_ms(ms));
}

int poll(struct pollfd *fds, nfds_t n, int ms)
{
    REAL(poll);
    return real(fds, n, fewer_ms(ms));
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *limit, const sigset_t *mask)
{
    REAL(ppoll);
    const struct timespec t = limit ? shorter(limit) : (struct timespec){0};
    return real(fds, n, limit ? &t : NULL, mask);
}

int select(int n, fd_set *restrict r, fd_set *restrict w, fd_set *restrict x, struct timeval *restrict limit)
{
    REAL(select);
    struct timeval t = {0};
    if (limit) {
        const int64_t us = ((int64_t)limit->tv_sec * 1000000 + limit->tv_usec + factor - 1) / factor;
        t = (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    }
    return real(n, r, w, x, limit ? &t : NULL);
}

int nanosleep(const struct timespec *asked, struct timespec *left)
{
    REAL(nanosleep);
    const struct timespec t = shorter(asked);
    const int rc = real(&t, left);
    if (rc != 0 && left)
        *left = of_ns(ns_of(left) * factor);
    return rc;
}

unsigned sleep(unsigned s)
{
    const struct timespec t = {.tv_sec = s};
    nanosleep(&t, NULL);
    return 0;
}

/* ---- waits until then ---------------------------------------------------------------------------------------------- */

/* A moment of the fast clock as one of the real clock of the same kind. */
static struct timespec when(const struct timespec *at)
{
    const int64_t ns = ns_of(at), passed = elapsed();
    const bool wall = at->tv_sec >= WALL_S;
    const int64_t real = real_now(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC);
    if (wall && !wall_s) /* this one is not fast, but waits are as short */
        return of_ns(ns > real ? real + (ns - real + factor - 1) / factor : real);
    const int64_t left = ns - (wall ? wall_s * NS : mono_ns) - passed;
    return of_ns(left > 0 ? real + (left + factor - 1) / factor : real);
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *asked, struct timespec *left)
{
    REAL(clock_nanosleep);
    const struct timespec t = flags & TIMER_ABSTIME ? when(asked) : shorter(asked);
    return real(id, flags, &t, left);
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict at)
{
    REAL(pthread_cond_timedwait);
    const struct timespec t = when(at);
    return real(c, m, &t);
}

int pthread_cond_clockwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, clockid_t id,
                           const struct timespec *restrict at)
{
    REAL(pthread_cond_clockwait);
    const struct timespec t = when(at);
    return real(c, m, id, &t);
}

int sem_timedwait(sem_t *restrict s, const struct timespec *restrict at)
{
    REAL(sem_timedwait);
    const struct timespec t = when(at);
    return real(s, &t);
}

int sem_clockwait(sem_t *restrict s, clockid_t id, const struct timespec *restrict at)
{
    REAL(sem_clockwait);
    const struct timespec t = when(at);
    return real(s, id, &t);
}

int timerfd_settime(int fd, int flags, const struct itimerspec *set, struct itimerspec *was)
{
    REAL(timerfd_settime);
    struct itimerspec t = {.it_interval = shorter(&set->it_interval), .it_value = set->it_value};
    if (ns_of(&set->it_value))
        t.it_value = flags & TFD_TIMER_ABSTIME ? when(&set->it_value) : shorter(&set->it_value);
    return real(fd, flags, &t, was);
}
