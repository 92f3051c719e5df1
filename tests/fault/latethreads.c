/* Threads that are late, so that tests meet the orders of events that a busy machine makes once in a thousand runs:
 * goes into programs by LD_PRELOAD.
 *
 *   LATETHREADS=US    spillway, spillway-engine and unit tests (test_*); other programs are left alone, so that it may
 *                     stand in the environment of a whole suite
 *
 * Half of a program's threads, its first one in a fifth of the runs, are drawn to be late: three of ten times that such
 * a thread wakes, writes, sends, flushes or wakes somebody else, it first sleeps for up to US microseconds, and now and
 * then for up to five times as long. A condition's waiter is late without its lock; whoever writes or signals under one
 * keeps it for so long. What must hold whatever the threads do holds with them too; bounds of time may not. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FIRST_LATE  0.2 /* shares: of the runs, */
#define OTHERS_LATE 0.5 /* of the threads, */
#define CALLS_LATE  0.3 /* of a late one's calls, */
#define VERY_LATE   0.05
#define VERY_TIMES  5
#define NS_PER_US   1000
#define NS_PER_S    1000000000

enum kind { UNKNOWN, PUNCTUAL, LATE };
static uint64_t late_us, seed; /* set before there are threads */
static __thread enum kind kind;
static __thread uint64_t drawn;

__attribute__((constructor)) static void begin(void)
{
    char path[4096];
    struct timespec now;
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    const char *us = getenv("LATETHREADS"), *name;

    if (n <= 0 || !us)
        return;
    path[n] = '\0';
    name = strrchr(path, '/') + 1;
    if (strncmp(name, "spillway", 8) == 0 || strncmp(name, "test_", 5) == 0)
        late_us = strtoull(us, NULL, 10);
    clock_gettime(CLOCK_MONOTONIC, &now);
    seed = (uint64_t)now.tv_nsec * NS_PER_S + (uint64_t)getpid();
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(void)
{
    if (!drawn)
        drawn = seed ^ ((uint64_t)gettid() << 40);
    uint64_t z = drawn += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static bool chance(double share)
{
    return (double)(draw() >> 11) < share * 9007199254740992.0; /* 2^53 */
}

static void be_late(void)
{
    const int kept = errno;

    if (!late_us)
        return;
    if (kind == UNKNOWN)
        kind = chance(gettid() == getpid() ? FIRST_LATE : OTHERS_LATE) ? LATE : PUNCTUAL;
    if (kind == LATE && chance(CALLS_LATE)) {
        const uint64_t ns = draw() % (late_us * (chance(VERY_LATE) ? VERY_TIMES : 1)) * NS_PER_US;
        const struct timespec t = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
        nanosleep(&t, NULL);
    }
    errno = kept;
}

/* With its lock let go of. */
static void wake_late(pthread_mutex_t *m)
{
    if (!late_us)
        return;
    pthread_mutex_unlock(m);
    be_late();
    pthread_mutex_lock(m);
}

/* The function of that name that would have been called without this. */
#define REAL(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

int epoll_wait(int fd, struct epoll_event *events, int most, int ms)
{
    const int n = REAL(epoll_wait)(fd, events, most, ms);
    be_late();
    return n;
}

ssize_t write(int fd, const void *data, size_t n)
{
    be_late();
    return REAL(write)(fd, data, n);
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    be_late();
    return REAL(writev)(fd, parts, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    be_late();
    return REAL(pwrite)(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    be_late();
    return REAL(pwrite64)(fd, data, n, at);
}

ssize_t send(int fd, const void *data, size_t n, int flags)
{
    be_late();
    return REAL(send)(fd, data, n, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    be_late();
    return REAL(sendmsg)(fd, m, flags);
}

int fsync(int fd)
{
    be_late();
    return REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    be_late();
    return REAL(fdatasync)(fd);
}

int pthread_cond_signal(pthread_cond_t *c)
{
    be_late();
    return REAL(pthread_cond_signal)(c);
}

int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    const int failed = REAL(pthread_cond_wait)(c, m);
    wake_late(m);
    return failed;
}

int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    const int failed = REAL(pthread_cond_timedwait)(c, m, until);
    wake_late(m);
    return failed;
}
