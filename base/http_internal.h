/* What the HTTP server and client share below their contracts: byte queues, a socket with or without TLS, deadlines.
 * Loop thread only. */
#ifndef BASE_HTTP_INTERNAL_H
#define BASE_HTTP_INTERNAL_H

#include <event2/event.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"

#define HTTP_READ_BYTES                                                                                                \
    (64 * 1024) /* one read, into the stack of the callback: idle connections hold no input buffer */

int64_t http_now_ns(void); /* CLOCK_MONOTONIC: socket deadlines are real time, whatever clock the program runs on */

/* A queue of bytes in one piece, so that a reply leaves with one write(2) and an idle connection can drop it. */
struct bytes {
    char *data;      /* owned; NULL when empty and trimmed */
    size_t off, len; /* the queued bytes are data[off .. off + len) */
    size_t cap;
};
void bytes_fini(struct bytes *b);
void bytes_append(struct bytes *b, const void *data, size_t n);
char *bytes_reserve(struct bytes *b, size_t n); /* room for n more; then add to len what was written */
void bytes_consume(struct bytes *b, size_t n);
void bytes_trim(struct bytes *b, size_t keep); /* an empty queue whose buffer is larger than keep gives it back */
static inline const char *bytes_at(const struct bytes *b)
{
    return b->data + b->off;
}

/* A connected (or connecting) non-blocking socket. */
struct stream {
    int fd;   /* -1: none */
    SSL *ssl; /* owned; NULL: plain */
};
enum stream_result {
    STREAM_AGAIN_READ = -1,  /* wait until readable */
    STREAM_AGAIN_WRITE = -2, /* wait until writable (TLS may want that to read) */
    STREAM_EOF = -3,         /* closed in order; TLS: with its close_notify */
    STREAM_ERROR = -4,       /* reset, truncated TLS, failed handshake: stream_error() */
};
/* Bytes moved (> 0) or a stream_result. */
ptrdiff_t stream_read(struct stream *s, void *buf, size_t n);
ptrdiff_t stream_write(struct stream *s, const void *buf, size_t n);
bool stream_pending(const struct stream *s); /* TLS holds decrypted bytes: do not wait for the socket */
void stream_close(struct stream *s);
enum rc stream_error(const struct stream *s, const char *what, struct error *e);
void stream_no_delay(int fd);

/* Deadlines without a timer per connection: each kind of wait has one duration, so a list in order of arrival is a list
 * in order of deadline, and starting or ending a wait is a few pointer writes. One timer sleeps until the earliest head
 * of a list; a deadline may be met up to DEADLINE_SLACK_NS late. */
#define DEADLINE_KINDS_MAX 6
#define DEADLINE_SLACK_NS  (10 * INT64_C(1000000))
struct deadline {
    struct deadline *prev, *next; /* NULL: not waiting */
    int64_t at_ns;
};
struct deadlines {
    struct event *timer; /* owned */
    int64_t armed_ns;    /* 0: asleep */
    bool *gone;          /* set while the timer runs: where to note that expired() freed us */
    struct {
        struct deadline head; /* ring */
        int64_t after_ns;     /* 0: this kind never expires */
    } kinds[DEADLINE_KINDS_MAX];
    void (*expired)(struct deadline *d, int kind, void *arg);
    void *arg;
};
void deadlines_init(struct deadlines *t, struct event_base *loop,
                    void (*expired)(struct deadline *d, int kind, void *arg), void *arg);
void deadlines_fini(struct deadlines *t);
void deadline_start(struct deadlines *t, struct deadline *d, int kind, int64_t now_ns); /* ends any other wait of d */
void deadline_stop(struct deadline *d);

/* Addresses. */
struct http_address {
    struct sockaddr_storage addr;
    socklen_t len; /* 0: not a literal */
};
/* "127.0.0.1", "::1", "unix:/path". RC_NOT_FOUND: a name, to be resolved. */
enum rc http_address_parse(struct http_address *a, const char *host, int port, struct error *e);

#endif
