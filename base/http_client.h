/* An HTTP/1.1 client on the loop for nodes: pooled keep-alive connections, streamed answers, cancel, back-pressure.
 * (Calls to the outside world that are not on the data path go through libcurl: base/fetch.h.)
 *
 * Life of a call: http_call_start() -> on_head once -> on_body* -> exactly one of on_end or on_fail, all on the loop
 * thread and never from inside http_call_start(). After on_end, on_fail or http_call_cancel() the call is gone.
 * A pooled connection that the peer closed before any byte of the answer arrived is replaced once without telling the
 * caller only when no byte of the request had been written on it or the close was seen before writing. */
#ifndef BASE_HTTP_CLIENT_H
#define BASE_HTTP_CLIENT_H

#include <event2/event.h>
#include <openssl/ssl.h>

#include "base/http_parse.h"

struct http_client; /* the pool for one address */
struct http_call;

struct http_client_options {
    struct http_limits limits; /* body_bytes_max 0: unlimited (streamed through) */
    int64_t connect_ms;        /* for each address of the host; 0: 2 s */
    int64_t head_ms;           /* from request written to head; 0: none */
    int64_t idle_body_ms;      /* between body bytes; 0: none */
    int64_t keep_idle_ms;      /* an idle pooled connection is closed after; 0: 30 s */
    int connections_max;       /* RC_FULL beyond; 0: 4096 */
    SSL_CTX *tls;              /* of tls_client_new(), NULL: plain. The pool holds a reference */
    const char *tls_name;      /* what the certificate must be for, and SNI says; NULL: `host`. Copied */
};

/* host: name, literal or "unix:/path" (port ignored); names resolve without blocking (evdns). `loop` must outlive c. */
enum rc http_client_new(struct http_client **c, struct event_base *loop, const char *host, int port,
                        const struct http_client_options *o, struct error *e) SPW_MUST_USE;
void http_client_free(struct http_client *c); /* running calls fail with RC_CANCELLED, from inside this call */

struct http_client_stats {
    uint64_t calls, opened, reused, replaced; /* replaced: a stale pooled connection, before anything was written */
    uint64_t tls_resumed;                     /* handshakes that went on with an earlier session */
    int open_connections, idle_connections;
};
struct http_client_stats http_client_stats(const struct http_client *c);

enum http_phase { HTTP_PHASE_CONNECT, HTTP_PHASE_SEND, HTTP_PHASE_HEAD, HTTP_PHASE_BODY };

struct http_call_handlers {
    void (*on_head)(struct http_call *c, const struct http_head *head, void *arg);
    void (*on_body)(struct http_call *c, const char *data, size_t n, void *arg);
    void (*on_end)(struct http_call *c, void *arg);
    /* phase says how far it came: before HTTP_PHASE_BODY nothing was delivered. e: RC_IO, RC_TIMEOUT, RC_INVALID (bad
     * framing), RC_CANCELLED. */
    void (*on_fail)(struct http_call *c, enum http_phase phase, const struct error *e, void *arg);
};

struct http_request {
    const char *method, *target;
    const struct http_header *headers; /* Host, Content-Length and Connection are added; given ones are dropped */
    int n_headers;
    const void *body; /* copied */
    size_t body_len;
};
/* RC_INVALID: a line break or blank where none may be; RC_FULL: connections_max. All else is told through on_fail. */
enum rc http_call_start(struct http_client *c, const struct http_request *r, const struct http_call_handlers *h,
                        void *arg, struct http_call **call, struct error *e) SPW_MUST_USE;
void http_call_cancel(struct http_call *c); /* closes its connection; no handler is called */
/* Did it run on a pooled connection? In on_fail with HTTP_PHASE_SEND or HTTP_PHASE_HEAD and RC_IO: the peer probably
 * closed that connection just before the request reached it. */
bool http_call_reused(const struct http_call *c);
void http_call_pause(struct http_call *c); /* stop reading */
void http_call_resume(struct http_call *c);

#endif
