/* Raw peers for the HTTP tests: plain sockets on 127.0.0.1 that are pumped together with the loop under test. */
#ifndef TESTS_UNIT_HTTP_PEER_H
#define TESTS_UNIT_HTTP_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline int64_t peer_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* One step of the loop, at most about a millisecond when nothing happens. */
static inline void peer_pump(struct event_base *loop)
{
    event_base_loop(loop, EVLOOP_NONBLOCK);
    struct timespec nap = {.tv_nsec = 300000};
    nanosleep(&nap, NULL);
}

#define PEER_STEPS    20 /* at least: whoever is kept from running has had its time, and no turn of the loop */
#define PEER_STALL_MS 50 /* a step that took longer counts for so much: nobody could run */

static inline bool peer_wait(struct event_base *loop, const volatile int *flag, int at_least, int ms)
{
    int64_t left = ms, last = peer_ms();
    for (int i = 0; *flag < at_least && (i < PEER_STEPS || left > 0); i++) {
        peer_pump(loop);
        const int64_t now = peer_ms(), took = now - last;
        left -= took < PEER_STALL_MS ? took : PEER_STALL_MS;
        last = now;
    }
    return *flag >= at_least;
}

static inline void peer_run_ms(struct event_base *loop, int ms)
{
    int64_t end = peer_ms() + ms;
    for (int i = 0; i < PEER_STEPS || peer_ms() < end; i++)
        peer_pump(loop);
}

static inline int peer_no_delay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static inline int peer_connect(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
        abort();
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return peer_no_delay(fd);
}

static inline int peer_listen(int *port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t n = sizeof(a);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, 64) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        abort();
    *port = ntohs(a.sin_port);
    return fd;
}

/* For somebody else to listen on, soon, or for nobody. Below the ports that the kernel gives to whoever asks for any:
 * no connection and no other test gets it meanwhile, nor while its owner is down. */
static inline int peer_free_port(void)
{
    for (;;) {
        uint32_t draw;
        if (getrandom(&draw, sizeof draw, 0) != sizeof draw)
            abort();
        const int port = 10000 + (int)(draw % 22000), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const bool is_free = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
        close(fd);
        if (is_free)
            return port;
    }
}

static inline int peer_accept(struct event_base *loop, int listen_fd, int ms)
{
    int64_t end = peer_ms() + ms;
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0 || peer_ms() >= end)
            return fd < 0 ? fd : peer_no_delay(fd);
        peer_pump(loop);
    }
}

static inline void peer_send_n(struct event_base *loop, int fd, const char *data, size_t n)
{
    int64_t end = peer_ms() + 10000;
    while (n && peer_ms() < end) {
        ssize_t put = send(fd, data, n, MSG_NOSIGNAL);
        if (put < 0 && errno != EAGAIN)
            return;
        if (put > 0) {
            data += put;
            n -= (size_t)put;
        } else {
            peer_pump(loop);
        }
    }
}
static inline void peer_send(struct event_base *loop, int fd, const char *text)
{
    peer_send_n(loop, fd, text, strlen(text));
}

/* Read into buf (NUL-terminated, from its current end) until `until` is in it, the peer closes (*closed), or ms pass.
 * until NULL: until closed. */
static inline bool peer_read(struct event_base *loop, int fd, char *buf, size_t size, const char *until, bool *closed,
                             int ms)
{
    int64_t end = peer_ms() + ms;
    size_t len = strlen(buf);
    if (closed)
        *closed = false;
    for (;;) {
        if (until && strstr(buf, until))
            return true;
        ssize_t n = recv(fd, buf + len, size - 1 - len, 0);
        if (n > 0) {
            len += (size_t)n;
            buf[len] = '\0';
            continue;
        }
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            if (closed)
                *closed = true;
            return !until;
        }
        if (peer_ms() >= end)
            return false;
        peer_pump(loop);
    }
}

#endif
