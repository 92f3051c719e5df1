/* What the files of the front share. */
#ifndef SCHEDULER_FRONT_FRONT_INTERNAL_H
#define SCHEDULER_FRONT_FRONT_INTERNAL_H

#include <sys/queue.h>

#include "base/http_server.h"
#include "scheduler/books/keys.h"
#include "scheduler/front/errors.h"
#include "scheduler/front/front.h"
#include "scheduler/front/metrics.h"
#include "scheduler/front/nodes.h"
#include "scheduler/front/request.h"
#include "scheduler/front/stream.h"

#define REQUEST_ID_BYTES 31 /* "req_", 26 characters, NUL */

/* ---- one request -------------------------------------------------------------------------------------------------
 *
 *                       a slot is free                          answered, failed or cancelled
 *     request_start() ------------------> RUNNING -------------------------------------------> SETTLING --> freed
 *            |                             |   ^                                                  ^   the row is
 *            | none is                     |   | leg_start()                                      |   durable and the
 *            v       slot, or recovery     v   |                 waited too long, cancelled       |   rest is written
 *         WAITING ----------------------> dispatch() <--- leg_failed() before the first byte      |
 *            +------------------------------------------------------------------------------------+
 *
 * It outlives its exchange: a client that leaves takes x away, but the row is still written. One leg at a time; a leg is
 * one attempt on one node. Continuing after the first byte will be another edge from leg_failed() to dispatch(). */
enum request_state { REQUEST_WAITING, REQUEST_RUNNING, REQUEST_SETTLING };

struct identity { /* who asks; borrowed from the configuration */
    const char *tenant, *team, *key_id;
    bool local_only;
};

struct leg {
    struct node *node;          /* NULL: no leg */
    struct http_call *call;     /* NULL: it has ended */
    int status;                 /* of the node's answer; 0 before its head */
    struct mono started, heard; /* heard: last byte of its answer */
};

struct request {
    TAILQ_ENTRY(request) all, waiting;
    struct front *front;     /* NULL: the front is gone, only the ledger still knows this request */
    struct http_exchange *x; /* NULL: the client is gone or answered */
    enum request_state state;
    char id[REQUEST_ID_BYTES], client_id[65]; /* client_id: X-Client-Request-Id, for the log; "": none */
    struct request_body body;                 /* its text belongs to x */
    struct identity who;
    struct room *room;
    int64_t input_estimate;

    uint64_t tried; /* bit per node that failed for this request */
    int attempts;   /* legs so far */
    struct leg leg;
    struct stream stream; /* of the running leg, when streaming */
    struct strbuf answer; /* body of a whole answer, or of a node's refusal */
    struct strbuf out;    /* scratch for what leaves */
    bool replied;         /* the first byte has left */
    bool paused;          /* the client reads slower than the node writes */
    bool append_pending;  /* the ledger will call back */
    struct event *timer;  /* what it means is the state's business: see request_timer() */

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
    struct room *rooms; /* one per model that the configuration names */
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
void endpoint_handle(struct http_exchange *x, void *arg);
struct room *front_room(const struct front *f, const char *model); /* NULL: nobody serves it */

/* dispatch.c. request_start takes an exchange that has been checked; everything else follows by itself. */
void request_start(struct front *f, struct http_exchange *x, const char *id, const struct request_body *body,
                   const struct identity *who);
/* Choose a node and start a leg, or wait, or fail. */
void dispatch(struct request *r);
/* End whatever runs and settle with this error (drain's deadline). */
void request_cut(struct request *r, enum api_code code);
/* Cancel the running call, give the slot back. */
void leg_drop(struct request *r);
void request_arm(struct request *r, int64_t ms);
void request_free(struct request *r);

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
