/* The client's insides, shared by http_client.c (calls, the pool, reading answers) and http_connect.c (from a host to a
 * connection that may be written to).
 *
 * A connection, and the phase of its call:
 *
 *   RESOLVE --address--> CONNECT --established--> [TLS] HANDSHAKE --> ACTIVE --answer read whole--> IDLE --reused--> ACTIVE
 *      phase: CONNECT ................................................ SEND, HEAD, BODY               |keep_idle_ms,
 *   any --failure, cancel, answer not read whole, bytes behind it--> closed <-------------------------+ peer's close
 *
 * Handlers may cancel, start and free anything from inside a callback. A connection with a callback on the stack
 * (busy > 0) is therefore only marked dead, and freed when the callback has returned. */
#ifndef BASE_HTTP_CLIENT_INTERNAL_H
#define BASE_HTTP_CLIENT_INTERNAL_H

#include <event2/dns.h>
#include <event2/event_struct.h>

#include "base/alloc.h"
#include "base/http_client.h"
#include "base/http_internal.h"

#define LINK_MAGIC    0x6c696e6bu
#define CALL_MAGIC    0x63616c6cu
#define ADDRESSES_MAX 8

enum link_wait { WAIT_CONNECT, WAIT_HEAD, WAIT_BODY, WAIT_KEEP };
enum link_state { LINK_RESOLVE, LINK_CONNECT, LINK_HANDSHAKE, LINK_ACTIVE, LINK_IDLE };

struct http_call {
    unsigned magic;
    struct http_client *client;
    struct link *link;             /* NULL: failed, waiting to be told */
    struct http_call *prev, *next; /* ring of failed calls */
    struct http_call_handlers h;
    void *arg;
    struct bytes out; /* what is left of the request */
    bool no_body, paused;
    bool reused;   /* it runs on a pooled connection */
    bool wrote;    /* a byte of it has left */
    bool replaced; /* its stale connection was replaced: once */
    enum http_phase phase;
    struct error *failure; /* owned; of a call that waits to be told */
};

struct link {
    unsigned magic;
    struct http_client *client;
    struct link *prev, *next; /* ring: client->running or client->idle */
    enum link_state state;
    int busy;
    bool dead;
    bool reused;
    bool held; /* delivery stopped for a pause: `in`, or at least the end of the answer, is still to be told */
    struct stream stream;
    struct event rd, wr; /* assigned when stream.fd is */
    struct deadline wait;
    struct http_parser *parser; /* owned */
    struct bytes in;            /* read, not delivered: its call is paused */
    struct http_call *call;     /* NULL when idle */
    int address;                /* index of the next address to try */
};

/* What a name was resolved to, and the request while it runs. Outlives the client when its answer comes too late. */
struct resolve {
    struct http_client *client; /* NULL: gone */
};

struct http_client {
    struct event_base *loop;
    struct http_client_options o;
    char *host, *host_header; /* owned */
    char *tls_name;           /* owned */
    SSL_SESSION *session;     /* owned; the newest that may be resumed, or NULL */
    int port;
    struct http_address addresses[ADDRESSES_MAX];
    int n_addresses;
    int64_t addresses_until_ns; /* INT64_MAX: a literal */
    struct evdns_base *dns;     /* owned; names only */
    struct resolve *resolving;  /* NULL: none runs */
    struct link running, idle;  /* ring heads; idle: newest first */
    struct http_call failed;    /* ring head */
    struct event *turn;         /* owned; tells failed calls */
    bool *gone;                 /* set while turn or a resolve callback runs */
    bool freeing;
    struct deadlines deadlines;
    struct http_client_stats stats;
};

enum rc link_resolver_init(struct http_client *c, struct error *e) SPW_MUST_USE;
void link_resolver_fini(struct http_client *c);
/* Start a connection for call. Failures are told later. */
void link_open(struct http_client *c, struct http_call *call);
void link_connect_next(struct link *l, const struct error *last);
void link_connected(struct link *l); /* the socket is writable for the first time */
void link_handshake(struct link *l);
void link_active(struct link *l); /* may be written to: sends the request */
void link_close(struct link *l);  /* its call must be detached or failed by the caller */
/* Detach call from its connection, close that, and tell on_fail: now, or from the loop. */
void call_fail(struct http_call *call, const struct error *e);
void call_fail_later(struct http_call *call, const struct error *e);
void link_readable_cb(evutil_socket_t fd, short what, void *link);
void link_writable_cb(evutil_socket_t fd, short what, void *link);

#endif
