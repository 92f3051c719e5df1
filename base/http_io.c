/* Byte queues, sockets with or without TLS, and deadline lists: see http_internal.h. */
#include "base/http_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"

int64_t http_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void bytes_fini(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

char *bytes_reserve(struct bytes *b, size_t n)
{
    if (b->off + b->len + n > b->cap) {
        /* Moving at least as much as is free at the front keeps the cost of a byte constant. */
        if (b->off >= b->len && b->len + n <= b->cap) {
            memmove(b->data, b->data + b->off, b->len);
        } else {
            size_t cap = b->cap ? b->cap : 512;
            while (cap < b->len + n)
                cap *= 2;
            if (b->off)
                memmove(b->data, b->data + b->off, b->len);
            b->data = spw_realloc(b->data, cap); /* a large one often grows where it is */
            b->cap = cap;
        }
        b->off = 0;
    }
    return b->data + b->off + b->len;
}

void bytes_append(struct bytes *b, const void *data, size_t n)
{
    if (n == 0)
        return;
    memcpy(bytes_reserve(b, n), data, n);
    b->len += n;
}

void bytes_consume(struct bytes *b, size_t n)
{
    SPW_ASSERT(n <= b->len);
    b->off += n;
    b->len -= n;
    if (b->len == 0)
        b->off = 0;
}

void bytes_trim(struct bytes *b, size_t keep)
{
    if (b->len == 0 && b->cap > keep)
        bytes_fini(b);
}

static ptrdiff_t ssl_result(struct stream *s, int n)
{
    int code = SSL_get_error(s->ssl, n);
    switch (code) {
    case SSL_ERROR_WANT_READ: return STREAM_AGAIN_READ;
    case SSL_ERROR_WANT_WRITE: return STREAM_AGAIN_WRITE;
    case SSL_ERROR_ZERO_RETURN: return STREAM_EOF;
    default: return STREAM_ERROR;
    }
}

ptrdiff_t stream_read(struct stream *s, void *buf, size_t n)
{
    if (s->ssl) {
        ERR_clear_error();
        int got = SSL_read(s->ssl, buf, n > INT32_MAX ? INT32_MAX : (int)n);
        return got > 0 ? got : ssl_result(s, got);
    }
    ssize_t got;
    do
        got = recv(s->fd, buf, n, 0);
    while (got < 0 && errno == EINTR);
    if (got > 0)
        return got;
    if (got == 0)
        return STREAM_EOF;
    return errno == EAGAIN || errno == EWOULDBLOCK ? STREAM_AGAIN_READ : STREAM_ERROR;
}

ptrdiff_t stream_write(struct stream *s, const void *buf, size_t n)
{
    if (s->ssl) {
        ERR_clear_error();
        int put = SSL_write(s->ssl, buf, n > INT32_MAX ? INT32_MAX : (int)n);
        return put > 0 ? put : ssl_result(s, put);
    }
    ssize_t put;
    do
        put = send(s->fd, buf, n, MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    if (put >= 0)
        return put;
    return errno == EAGAIN || errno == EWOULDBLOCK ? STREAM_AGAIN_WRITE : STREAM_ERROR;
}

bool stream_pending(const struct stream *s)
{
    return s->ssl && SSL_pending(s->ssl) > 0;
}

void stream_close(struct stream *s)
{
    if (s->ssl) {
        /* Best effort: tells the peer that what it has is all there is. The answer is not awaited. */
        if (SSL_is_init_finished(s->ssl)) {
            ERR_clear_error();
            SSL_shutdown(s->ssl);
        }
        SSL_free(s->ssl);
        s->ssl = NULL;
    }
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

enum rc stream_error(const struct stream *s, const char *what, struct error *e)
{
    if (s->ssl) {
        long verify = SSL_get_verify_result(s->ssl);
        if (verify != X509_V_OK)
            return error_set(e, RC_IO, "%s: certificate refused: %s", what, X509_verify_cert_error_string(verify));
        const char *reason = ERR_reason_error_string(ERR_peek_error());
        if (reason)
            return error_set(e, RC_IO, "%s: TLS: %s", what, reason);
    }
    int code = errno;
    return error_set(e, RC_IO, "%s: %s", what, code ? strerror(code) : "closed by the peer");
}

void stream_no_delay(int fd)
{
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on unix sockets, which need none */
}

/* ---- deadlines ---- */

static void arm(struct deadlines *t, int64_t at_ns, int64_t now_ns)
{
    int64_t wait_us = (at_ns - now_ns) / 1000;
    if (wait_us < DEADLINE_SLACK_NS / 1000)
        wait_us = DEADLINE_SLACK_NS / 1000;
    struct timeval tv = {.tv_sec = wait_us / 1000000, .tv_usec = wait_us % 1000000};
    t->armed_ns = at_ns;
    evtimer_add(t->timer, &tv);
}

static void deadlines_sweep_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct deadlines *t = arg;
    int64_t now = http_now_ns(), next = 0;
    bool gone = false;
    t->armed_ns = 0;
    t->gone = &gone;
    for (int k = 0; k < DEADLINE_KINDS_MAX; k++) {
        struct deadline *ring = &t->kinds[k].head;
        while (ring->next != ring && ring->next->at_ns <= now) {
            struct deadline *d = ring->next;
            deadline_stop(d);
            t->expired(d, k, t->arg);
            if (gone)
                return;
        }
    }
    t->gone = NULL;
    for (int k = 0; k < DEADLINE_KINDS_MAX; k++) {
        struct deadline *ring = &t->kinds[k].head;
        if (ring->next != ring && (!next || ring->next->at_ns < next))
            next = ring->next->at_ns;
    }
    if (next)
        arm(t, next, now);
}

void deadlines_init(struct deadlines *t, struct event_base *loop,
                    void (*expired)(struct deadline *d, int kind, void *arg), void *arg)
{
    *t = (struct deadlines){.expired = expired, .arg = arg};
    for (int k = 0; k < DEADLINE_KINDS_MAX; k++)
        t->kinds[k].head.prev = t->kinds[k].head.next = &t->kinds[k].head;
    t->timer = evtimer_new(loop, deadlines_sweep_cb, t);
    SPW_ASSERT(t->timer);
}

void deadlines_fini(struct deadlines *t)
{
    event_free(t->timer);
    t->timer = NULL;
    if (t->gone)
        *t->gone = true;
}

void deadline_stop(struct deadline *d)
{
    if (!d->next)
        return;
    d->prev->next = d->next;
    d->next->prev = d->prev;
    d->prev = d->next = NULL;
}

void deadline_start(struct deadlines *t, struct deadline *d, int kind, int64_t now_ns)
{
    deadline_stop(d);
    if (!t->kinds[kind].after_ns)
        return;
    struct deadline *ring = &t->kinds[kind].head;
    d->at_ns = now_ns + t->kinds[kind].after_ns;
    d->next = ring;
    d->prev = ring->prev;
    d->prev->next = d;
    ring->prev = d;
    if (!t->armed_ns || d->at_ns < t->armed_ns)
        arm(t, d->at_ns, now_ns);
}

/* ---- addresses ---- */

enum rc http_address_parse(struct http_address *a, const char *host, int port, struct error *e)
{
    *a = (struct http_address){0};
    if (strncmp(host, "unix:", 5) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&a->addr;
        size_t n = strlen(host + 5);
        if (n == 0 || n >= sizeof(un->sun_path))
            return error_set(e, RC_INVALID, "unix socket path must have 1 to %zu bytes", sizeof(un->sun_path) - 1);
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, host + 5, n + 1);
        a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
        return RC_OK;
    }
    if (port < 0 || port > 65535)
        return error_set(e, RC_INVALID, "port %d is not between 0 and 65535", port);
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a->addr;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->addr;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        a->len = sizeof(*v4);
        return RC_OK;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        a->len = sizeof(*v6);
        return RC_OK;
    }
    *a = (struct http_address){0};
    return RC_NOT_FOUND;
}
