/* An HTTP/1.1 server on a libevent loop: keep-alive, pipelining (one exchange at a time, in order), chunked uploads,
 * Expect: 100-continue, streamed answers with back-pressure, deadlines on slow heads, bodies and readers.
 *
 * Life of an exchange: the whole request (bounded by the limits) is read, then on_request(x) is called on the loop
 * thread. The handler answers now or later: http_reply(), or http_reply_start() / http_reply_write()* /
 * http_reply_end(). The exchange is valid until the answer has ended or on_abort is called (client gone: cancel the
 * work), whichever is first; after either the handler must not touch it. A client that closes only its sending side
 * while its request runs is taken for gone, too. TCP_NODELAY is set; each write leaves in the
 * same loop turn. Everything on the loop's thread. */
#ifndef BASE_HTTP_SERVER_H
#define BASE_HTTP_SERVER_H

#include <event2/event.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/http_parse.h"
#include "base/peers.h"
#include "base/tls_door.h"

struct http_server;
struct http_exchange;

/* What several servers of one process hold together, so that a bound is the process's however many loops it has.
 * Zeroed at first; outlives them all. */
struct http_held {
    _Atomic int connections;
    _Atomic size_t retained;
};

/* Several servers of a process may listen on one TCP port, each with a socket of its own, among which the kernel
 * spreads the clients. The first of them still finds out when somebody else listens there. */
enum http_sharing { HTTP_LISTEN_ALONE, HTTP_LISTEN_FIRST, HTTP_LISTEN_JOIN };

struct http_server_options {
    struct http_limits limits;
    int64_t head_ms, body_ms;  /* deadlines for a whole head / body since its first byte; 0: 15 s / 120 s */
    int64_t idle_ms;           /* keep-alive between requests; 0: 75 s */
    int64_t write_ms;          /* no progress towards a reader; 0: 60 s */
    int connections_max;       /* accepted beyond it: 503 and closed; 0: 20000 */
    size_t retained_bytes_max; /* of requests, and of large answers that are not read yet, held over all connections;
                                  beyond it requests get a 503; 0: 1 GiB */
    struct tls_door *tls;      /* NULL: plain; borrowed */
    struct peers *peers;       /* NULL: no bound on one client's connections; beyond it: 429 and closed; borrowed */
    struct http_held *held;    /* NULL: the two bounds above are this server's alone; borrowed */
    enum http_sharing sharing; /* of a TCP port */
};

struct http_server_handlers {
    /* NULL, or called with the head of a request whose body is still to come, before it is read (and before the client
     * is told to go on; a small body that came with its head is here already): may refuse it with http_reply(), so that
     * strangers cannot make us hold what they send. The body is then not read, the connection is closed after the
     * answer, and on_request is not called. */
    void (*on_head)(struct http_exchange *x, void *arg);
    /* A complete request. head and body are valid while the exchange is. */
    void (*on_request)(struct http_exchange *x, void *arg);
};

/* listen_on: "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:0" (port 0: any free one), "unix:/path" (mode 0660; a stale
 * socket is replaced, a live one is RC_CONFLICT), "fd:N" (a listening socket that was inherited; it becomes the
 * server's). Host names are resolved once, at start. */
enum rc http_server_new(struct http_server **s, struct event_base *loop, const char *listen_on,
                        const struct http_server_options *o, const struct http_server_handlers *h, void *arg,
                        struct error *e) SPW_MUST_USE;
/* The same listening socket (non-blocking) without a server, the caller's; *unix_path is owned by the caller, NULL for
 * TCP. */
enum rc http_listen(const char *listen_on, enum http_sharing sharing, int *fd, int *port, char **unix_path,
                    struct error *e) SPW_MUST_USE;
/* Closes everything at once; running exchanges get on_abort. Not from inside on_request or on_abort; drain's `done` may. */
void http_server_free(struct http_server *s);
/* Serve a connected socket that was accepted elsewhere (and handed over), whose first n bytes were already read. The
 * socket becomes the server's even when it is refused. on_request may run from inside. */
void http_server_adopt(struct http_server *s, int fd, const void *read, size_t n);
/* The same for one whose TLS, if it had any, has ended elsewhere: it is plain whatever the server's others are. */
void http_server_adopt_plain(struct http_server *s, int fd, const void *read, size_t n);
int http_server_port(const struct http_server *s); /* bound TCP port, 0 for unix */
/* Its listening socket, -1 once it is closed. A dup() of it, as "fd:N", lets another server accept from the same queue. */
int http_server_fd(const struct http_server *s);
/* Take no more connections from the listening socket, or take them again; what comes meanwhile waits in its queue, for
 * us or for another process that has the socket, too. */
enum http_accepting { HTTP_ACCEPT, HTTP_LEAVE };
void http_server_accepting(struct http_server *s, enum http_accepting a);
/* Let go of connections: from now on each one that has no request running and nothing left to send is given away, from
 * the loop, those that are idle now in its next turn. With TLS it ends instead, as in a drain: after the answer that
 * runs ("Connection: close"), or when no request was on its way. All members NULL: keep them again. */
struct http_letting_go {
    /* fd is the taker's. read[0 .. n): what was read of its next request already, often nothing. */
    void (*take)(int fd, const void *read, size_t n, void *arg);
    /* None is left, from the loop; again when that comes about again. May free the server. NULL is fine. */
    void (*empty)(void *arg);
    void *arg;
};
void http_server_let_go(struct http_server *s, const struct http_letting_go *g);
void http_server_keep_path(struct http_server *s); /* a unix socket's name stays: another process listens there */
/* Stop accepting, answer what is running, close idle connections; `done` on the loop when none is left. */
void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg);

struct http_server_stats {
    uint64_t accepted, requests, refused_framing, refused_full, refused_client, timed_out, aborted;
    uint64_t tls_failed; /* handshakes */
    uint64_t writes;     /* that took bytes: one for all that was written in a turn of the loop */
    int open_connections, active_exchanges;
};
struct http_server_stats http_server_stats(const struct http_server *s); /* any thread */

/* The request. */
const struct http_head *http_request_head(const struct http_exchange *x);
const char *http_request_body(const struct http_exchange *x, size_t *n);    /* NUL-terminated; never NULL */
bool http_request_path_is(const struct http_exchange *x, const char *path); /* target without its query */
/* "key" of the query, percent-decoded into arena memory, or NULL. */
const char *http_request_query(const struct http_exchange *x, const char *key);
/* The same of a body that a browser's form has sent (application/x-www-form-urlencoded); NULL for any other body. */
const char *http_request_form(const struct http_exchange *x, const char *key);
struct arena *http_exchange_arena(struct http_exchange *x);    /* memory that lives as long as the exchange */
int64_t http_exchange_start_ns(const struct http_exchange *x); /* CLOCK_MONOTONIC at the request's first byte */
const char *http_exchange_peer(const struct http_exchange *x); /* "127.0.0.1", "unix" */

/* Its connection's TLS, for who its client is; NULL: plain HTTP. Borrowed. */
SSL *http_exchange_tls(const struct http_exchange *x);

/* The handler's own state, and a call when the client goes away before the answer has ended. */
void http_exchange_set(struct http_exchange *x, void *state, void (*on_abort)(struct http_exchange *x, void *state));
void *http_exchange_get(const struct http_exchange *x);

/* Answer. Content-Length, Date, Connection and Transfer-Encoding are the server's (given ones are dropped, so that a
 * proxy may pass an upstream's headers on); names and values may not hold CR or LF (our mistake: asserted). */
void http_reply(struct http_exchange *x, int status, const struct http_header *headers, int n_headers, const void *body,
                size_t n);
void http_reply_start(struct http_exchange *x, int status, const struct http_header *headers, int n_headers);
/* Copied. A handler that ignores http_reply_pending() is cut off (on_abort) at HTTP_REPLY_PENDING_MAX. */
void http_reply_write(struct http_exchange *x, const void *data, size_t n);
#define HTTP_REPLY_PENDING_MAX (64u * 1024 * 1024)
/* What is queued is written now, as far as the socket takes it, instead of at the end of the turn: for what shall not
 * wait for the rest of the work that the caller, and others who are ready, have in this turn. */
void http_reply_push(struct http_exchange *x);
void http_reply_end(struct http_exchange *x);
/* Cut the answer off: the connection is closed without a proper end, so that the client sees it is incomplete. */
void http_reply_abort(struct http_exchange *x);
/* Bytes written and not yet taken by the kernel. */
size_t http_reply_pending(const struct http_exchange *x);
/* Call once when pending falls to `low` or below (also when it already is: from the loop). */
void http_reply_on_drain(struct http_exchange *x, size_t low, void (*cb)(struct http_exchange *x, void *state));

#endif
