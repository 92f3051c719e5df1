/* What the two programs of frontdoor.py share: time, sockets, and the end of the program when the system says no.
 * Loopback only. */
#ifndef TESTS_BENCH_FRONTDOOR_COMMON_H
#define TESTS_BENCH_FRONTDOOR_COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_S ((int64_t)1000000000)

/* CLOCK_MONOTONIC, which both programs read: a frame carries the time at which it was sent. */
static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS_S + t.tv_nsec;
}

static inline void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* Timers to the microsecond, and as many files as the system gives. */
static inline void prepare(void)
{
    struct rlimit files;
    (void)prctl(PR_SET_TIMERSLACK, 1UL);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline void no_delay(int fd)
{
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Wait for events until `due` (monotonic; INT64_MAX: for ever). */
static inline int wait_events(int epoll, struct epoll_event *events, int n_max, int64_t due)
{
    struct timespec t = {0, 0};
    if (due != INT64_MAX) {
        int64_t left = due - now_ns();
        if (left > 0)
            t = (struct timespec){.tv_sec = left / NS_S, .tv_nsec = left % NS_S};
    }
    int n = epoll_pwait2(epoll, events, n_max, due == INT64_MAX ? NULL : &t, NULL);
    if (n < 0 && errno != EINTR)
        die("epoll_pwait2");
    return n < 0 ? 0 : n;
}

#endif
