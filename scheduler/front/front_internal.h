/* What the files of the front share. */
#ifndef SCHEDULER_FRONT_FRONT_INTERNAL_H
#define SCHEDULER_FRONT_FRONT_INTERNAL_H

#include <sys/queue.h>

#include "base/http_server.h"
#include "scheduler/auth/auth.h"
#include "scheduler/auth/limit_table.h"
#include "scheduler/front/errors.h"
#include "scheduler/front/front.h"
#include "scheduler/front/metrics.h"
#include "scheduler/front/nodes.h"
#include "scheduler/front/request.h"
#include "scheduler/front/stream.h"
#include "scheduler/front/survive.h"

#define REQUEST_ID_BYTES 31  /* "req_", 26 characters, NUL */
#define LEGS_MAX         256 /* of one request */

/* ---- one request -------------------------------------------------------------------------------------------------
 *
 *                       a slot is free                          answered, failed or cancelled
 *     request_start() ------------------> RUNNING -------------------------------------------> SETTLING --> freed
 *            |                             |   ^                                                  ^   the row is
 *            | none is                     |   | leg_start()                                      |   durable and the
 *            v       slot, or recovery     v   |                 waited too long, cancelled       |   rest is written
 *         WAITING ----------------------> dispatch() <--- leg_failed()                            |
 *            +------------------------------------------------------------------------------------+
 *
 * It outlives its exchange: a client that leaves takes x away, but the row is still written. One leg at a time; a leg is
 * one attempt on one node. leg_failed() is also the way on after the first byte: what has been said so far is in `trail`,
 * and the next leg goes on from there (survive.h says when). */
enum request_state { REQUEST_WAITING, REQUEST_RUNNING, REQUEST_SETTLING };

struct leg {
    struct node *node;      /* NULL: no leg */
    struct http_call *call; /* NULL: it has ended */
    int status;             /* of the node's answer; 0 before its head */
    bool streamed;          /* a stream is asked of the node, whatever the client wants */
    bool to_engine;         /* it can be resumed by its ids */
    bool by_text;           /* it goes on with a text that other nodes began */
    bool spoke;             /* the first token's deadline is met */
    bool died;              /* how it ended: the node is gone or hangs */
    bool alone;             /* the node was kept for it */
    int position;           /* requests on the node as it began, with this one */
    int ids_before;         /* what the trail held as it began: ids, chunks, both */
    int64_t chunks_before, said_before;
    struct wall begun;
    char numerics[NUMERICS_DIGITS + 1];
    struct mono started, heard, token; /* heard: last byte of its answer; token: last chunk that brought it on */
};

struct request {
    TAILQ_ENTRY(request) all, waiting;
    struct front *front;     /* NULL: the front is gone, only the ledger still knows this request */
    struct http_exchange *x; /* NULL: the client is gone or answered */
    enum request_state state;
    char id[REQUEST_ID_BYTES], client_id[65]; /* client_id: X-Client-Request-Id, for the log; "": none */
    struct request_body body;                 /* its text belongs to x */
    struct identity *who;                     /* a reference */
    struct limit_ticket ticket;               /* held until settled, or refused */
    struct limit_verdict limits;              /* as it was let in: what the headers tell */
    struct room *room;
    int64_t input_estimate;

    uint64_t tried; /* bit per node that failed for this request since its last new token */
    int attempts;   /* legs so far */
    struct leg leg;
    struct stream stream; /* of the running leg, when it is streamed */
    struct trail trail;   /* what has been said, over all legs */
    struct whole whole;   /* the same for a client that wants it whole */
    struct survival survival;
    uint64_t seed;                      /* of the whole answer, for engines */
    char numerics[NUMERICS_DIGITS + 1]; /* class of what has been said; "": of no known class */
    int continuations;
    bool gathered;            /* a whole answer that came as a stream */
    bool cross_class;         /* parts of the answer come from different classes */
    struct ledger_leg *legs;  /* owned */
    int n_legs, legs_cap;     /* n_legs <= LEGS_MAX */
    struct node *kept;        /* kept free of others for this request, which must be alone */
    int64_t wait_forgiven_ns; /* of waited_ns: before the last new token */
    struct strbuf answer;     /* body of a whole answer, or of a node's refusal */
    struct strbuf out;        /* scratch for what leaves */
    bool replied;             /* the first byte has left */
    bool paused;              /* the client reads slower than the node writes */
    bool append_pending;      /* the ledger will call back */
    struct event *timer;      /* what it means is the state's business: see request_timer() */

    struct mono arrived, wait_since, ended;
    struct wall accepted, first_byte, finished;
    int64_t waited_ns;

    /* Settlement. */
    enum ledger_outcome outcome;
    struct api_error error; /* why it failed, or the last leg's failure so far */
    int http_status;
    struct node *last;   /* of the newest leg; NULL: none was started */
    struct node *billed; /* whose prices count; NULL: nothing is charged */
    struct token_counts tokens;
    const char *usage_source;
    struct pusd charge;
    int64_t millijoules; /* estimated, of all legs so far; -1: a node that had one declares no watts */
};

/* A waiting room: the requests for one model that have no slot. In order of arrival. */
struct room {
    const char *model; /* borrowed from the configuration */
    int index;
    TAILQ_HEAD(room_queue, request) queue;
    int n;
};

struct front {
    struct front_options o;
    struct nodes *nodes;
    struct http_server *server;
    SSL_CTX *tls;
    struct metrics *metrics;
    struct limit_table *limits;
    struct ledger_port *port; /* the loop's */
    struct room *rooms;       /* one per model that the configuration names */
    int n_rooms, n_waiting, n_running;
    TAILQ_HEAD(request_list, request) requests; /* all, in whatever state */
    struct event *wake;                         /* rooms_wake() in a turn of its own */
    uint32_t spread;                            /* counts up: equals share by turns */
    bool ledger_failing;                        /* rows cannot be written: no new work until one can */
    int64_t created_s;                          /* for /v1/models */
    struct front_totals totals;
    /* drain */
    bool draining, server_drained, stopping;
    void (*drained)(void *arg);
    void *drained_arg;
    struct event *drain_timer;
};

/* endpoint.c */
void endpoint_head(struct http_exchange *x, void *arg);
void endpoint_handle(struct http_exchange *x, void *arg);
struct room *front_room(const struct front *f, const char *model); /* NULL: nobody serves it */

/* admit.c: how much somebody may ask, and what the limits' headers say. */
#define LIMIT_HEADERS_MAX 6 /* x-ratelimit-{limit,remaining,reset}-{requests,tokens} */
struct limit_texts {
    char text[LIMIT_HEADERS_MAX][32];
};
/* Appends to headers, whose values stand in *t. Returns how many: 0 where nothing is limited. */
int limit_headers(const struct limit_verdict *v, struct limit_texts *t, struct http_header *headers);
/* RC_OK: *ticket and *v are the request's. RC_DENIED: it was not admitted; *v and *e say why. */
enum rc admit(struct front *f, const struct identity *who, const struct request_body *body, struct limit_ticket *ticket,
              struct limit_verdict *v, struct api_error *e) SPW_MUST_USE;
/* It used so many tokens. Again and again is once. */
void admit_settle(struct front *f, struct limit_ticket *ticket, int64_t tokens);

/* dispatch.c: the request's life, and which node is next. request_start takes an exchange that
 * has been checked and admitted, and a reference of the caller's; everything else follows by itself. */
struct admission {
    struct identity *who; /* the reference goes over */
    struct limit_ticket ticket;
    struct limit_verdict limits;
};
void request_start(struct front *f, struct http_exchange *x, const char *id, const struct request_body *body,
                   const struct admission *a);
/* Choose a node and start a leg, or wait, or fail. */
void dispatch(struct request *r);
/* End whatever runs and settle with this error (drain's deadline). */
void request_cut(struct request *r, enum api_code code);
/* What routing says for r now. */
void dispatch_look(const struct request *r, uint32_t spread, struct route_decision *d);
/* The running leg is over and has not answered: on to another node, or the end of r. */
void leg_failed(struct request *r, enum leg_fault fault, const char *reason);
void request_arm(struct request *r, int64_t ms);
void request_free(struct request *r);

/* leg.c: one leg, from the request that is sent to the last byte that is read. */
enum rc leg_start(struct request *r, struct node *node, struct error *e) SPW_MUST_USE;
/* The slot goes back; a call that still runs keeps running. outcome: static text for the ledger. */
void leg_over(struct request *r, const char *outcome);
/* The same, and the call is cancelled. Without a leg: nothing happens. */
void leg_drop(struct request *r, const char *outcome);
void leg_late(struct request *r); /* the timer of a running leg */
bool leg_has_progress(const struct request *r);

/* alone.c: a node of one's own. */
void alone_keep(struct request *r);    /* the emptiest node that could take r is kept for it, unless one is already */
void alone_take(struct request *r);    /* r's leg has begun on its node: nobody else's may */
void alone_release(struct request *r); /* without one: nothing happens */

/* rooms.c */
enum room_side { ROOM_TAIL, ROOM_HEAD };                 /* a request that was already under way goes to the head */
void room_enter(struct request *r, enum room_side side); /* or fails it, when there is no room or no time left */
void room_leave(struct request *r);
void rooms_wake_soon(struct front *f);
void rooms_wake(struct front *f);

/* settle.c */
void settle(struct request *r, enum ledger_outcome outcome);
void settle_append(struct request *r);
/* Fail: error object, or error event when the stream has begun, once the row is durable. r->error is set. r may be gone
 * afterwards. */
void settle_failed(struct request *r);
/* The end of one that no node ever had: an answer at once, no row, and r is freed. */
void request_refuse(struct request *r);

/* front.c */
void front_request_gone(struct front *f); /* a request was freed: a drain may be complete */

#endif
