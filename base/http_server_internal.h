/* The server's insides, shared by http_server.c (life of the server, accepting), http_conn.c (a connection) and
 * http_reply.c (the exchange as its handler sees it).
 *
 * A connection:
 *
 *   accept --> READ --request complete--> BUSY --answer ended, written below the mark--> READ --> ...
 *               |  bad framing, limit, 408, 503                     |client gone: on_abort()
 *               v                                                   v
 *             LINGER --peer closes, or LINGER_MS--> closed <--------+
 *
 * Rule that keeps lifetimes simple: what handlers call (http_reply...) only queues bytes, sets flags and puts the
 * connection on the server's dirty list. Writing, recycling and closing happen in conn_turn(), which runs once per loop
 * turn after the callbacks that were ready; so a connection is never freed below a handler's feet, and all that was
 * written in one turn leaves with one system call, but for what conn_push() lets leave before.
 *
 * LINGER exists because closing a socket with unread input sends a reset, which may destroy the refusal on its way. */
#ifndef BASE_HTTP_SERVER_INTERNAL_H
#define BASE_HTTP_SERVER_INTERNAL_H

#include <event2/event_struct.h>
#include <sys/types.h>

#include "base/counter.h"
#include "base/http_internal.h"
#include "base/http_server.h"

#define CONN_MAGIC        0x68636f6eu
#define PIPELINE_MAX      (64 * 1024)  /* unread requests held behind a running one; then the socket waits */
#define OUT_HIGH          (256 * 1024) /* the next pipelined request waits until the last answer is below */
#define OUT_KEEP          2048         /* of an idle connection */
#define OUT_KEEP_STREAM   (16 * 1024)  /* of one with a stream, which writes as much again and again */
#define GONE_MS           50           /* between looks at a peer that is not read: is it still there? */
#define LINGER_MS         1000
#define LINGER_BYTES_MAX  (256u * 1024 * 1024)
#define ARENA_BYTES_MAX   (16u * 1024 * 1024)
#define PIPELINE_PER_TURN 16
#define TURNED_AWAY_MAX   64 /* connections beyond connections_max that are being told so */

enum conn_wait { WAIT_IDLE, WAIT_HEAD, WAIT_BODY, WAIT_WRITE, WAIT_LINGER, WAIT_GONE };
enum conn_state { CONN_READ, CONN_BUSY, CONN_LINGER };
enum exchange_state { X_NONE, X_OPEN, X_STREAMING, X_DONE };

struct http_exchange {
    enum exchange_state state;
    bool chunked, no_body; /* of the answer */
    struct arena *arena;   /* owned, made on first use */
    void *handler;         /* the handler's state */
    void (*on_abort)(struct http_exchange *x, void *state);
    void (*on_drain)(struct http_exchange *x, void *state);
    size_t drain_low;
    int64_t start_ns;
};

struct conn {
    unsigned magic;
    struct http_server *s;                /* borrowed */
    struct conn *prev, *next;             /* ring of all */
    struct conn *dirty_prev, *dirty_next; /* ring of those with work for this turn; NULL: not on it */
    enum conn_state state;
    bool begun;  /* a byte of the next request was read */
    bool served; /* a byte of its first one was */
    int64_t came_ns;
    bool in_body;           /* its head is complete */
    bool paused;            /* not reading: PIPELINE_MAX */
    bool close_after;       /* the answer */
    bool cut;               /* close, and make sure the peer sees that the answer is incomplete */
    bool shut;              /* LINGER: our side is closed */
    bool turned_away;       /* beyond connections_max, or what its client may have */
    struct peer_key client; /* for whom it is counted in s->o.peers */
    struct stream stream;
    struct event rd, wr;
    struct deadline wait, write_wait;
    struct http_parser *parser; /* owned */
    struct bytes in, out, body;
    size_t retained; /* counted in s->held->retained: of requests, and of answers that are large and unread */
    size_t lingered;
    struct http_exchange x;
    char peer[46];
};

struct server_counts { /* read by any thread */
    struct counter accepted, requests, refused_framing, refused_full, refused_client, timed_out, aborted, tls_failed,
        writes;
    struct counter open_connections, active_exchanges;
};

struct http_server {
    struct event_base *loop;
    struct http_server_options o;
    struct http_server_handlers h;
    void *arg;
    int listen_fd, port;
    struct event *listener; /* owned; NULL once drained */
    bool listener_paused;   /* out of file descriptors */
    struct event *again;    /* owned; while it is paused: another try */
    enum http_accepting accepting;
    struct http_letting_go let_go;
    char *unix_path; /* owned; NULL for TCP */
    dev_t unix_dev;
    ino_t unix_ino;
    struct conn all, dirty; /* ring heads */
    struct event *turn;     /* owned; runs the dirty list */
    int n_dirty, turned_away;
    bool turn_queued;
    struct deadlines deadlines;
    struct http_held own, *held; /* held: o.held, or &own */
    int64_t now_ns;              /* of the callback that runs */
    bool draining;
    struct event *drained; /* owned; also: empty, while letting go */
    struct event *part;    /* owned; while it drains: idle connections are let go */
    void (*drain_done)(void *arg);
    void *drain_arg;
    struct server_counts stats;
    int64_t date_s;
    char date[32];
};

static inline struct conn *conn_of(struct http_exchange *x)
{
    struct conn *c = (struct conn *)((char *)x - offsetof(struct conn, x));
    SPW_ASSERT(c->magic == CONN_MAGIC);
    return c;
}

/* fd becomes the connection's. */
struct conn *conn_new(struct http_server *s, int fd, const struct sockaddr_storage *peer, struct tls_door *tls);
void conn_dirty(struct conn *c); /* conn_turn() will run this turn */
void conn_clean(struct conn *c); /* off the list */
void conn_turn(struct conn *c);
/* Count what this connection holds now. False: the process holds too much. */
bool conn_retain(struct conn *c);
void conn_push(struct conn *c);                             /* write some of `out`; closes nothing */
void conn_read(struct conn *c, const char *data, size_t n); /* as if it came from the socket */
void conn_close(struct conn *c);
void conn_expired(struct deadline *d, int kind, void *server);
/* Queue a JSON error and close after it. */
void conn_refuse(struct conn *c, int status, const char *text);
void conn_put_head(struct conn *c, int status, const struct http_header *headers, int n_headers, int64_t length);
void server_conn_gone(struct http_server *s);

#endif
