/* What the files of the front share. */
#ifndef SCHEDULER_FRONT_FRONT_INTERNAL_H
#define SCHEDULER_FRONT_FRONT_INTERNAL_H

#include <sys/queue.h>

#include "base/counter.h"
#include "base/http_server.h"
#include "base/mailbox.h"
#include "base/random.h"
#include "policies/slack.h"
#include "scheduler/auth/auth.h"
#include "scheduler/auth/limit_table.h"
#include "scheduler/front/audited.h"
#include "scheduler/front/budget_desk.h"
#include "scheduler/front/budgeted.h"
#include "scheduler/front/cached.h"
#include "scheduler/front/explained.h"
#include "scheduler/front/front.h"
#include "scheduler/front/idempotency.h"
#include "scheduler/front/metrics.h"
#include "scheduler/front/model_page.h"
#include "scheduler/front/model_table.h"
#include "scheduler/front/reply.h"
#include "scheduler/front/settle.h"
#include "scheduler/front/spans.h"
#include "scheduler/nodes/affinity.h"
#include "scheduler/nodes/nodes.h"
#include "scheduler/observe/route_metrics.h"
#include "scheduler/wire/errors.h"
#include "scheduler/wire/request.h"
#include "scheduler/wire/stream.h"
#include "scheduler/wire/survive.h"
#include "scheduler/wire/urgency.h"

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
 * Between the slot and the leg it may be RESERVING, while its budgets are asked; one that waits for room in a budget
 * that is used up (queue) is RESERVING without a slot.
 *
 * Before all that it may be ASKING whether its answer is known already, or about to be: then no node has it at all. It
 * outlives its exchange: a client that leaves takes x away, but the row is still written, and what others wait for
 * (idempotency.h) goes on. One leg at a time; a leg is one attempt on one node. leg_failed() is also the way on after
 * the first byte: what has been said so far is in `trail`, and the next leg goes on from there (survive.h says
 * when). */
enum request_state {
    REQUEST_ASKING, /* the cache, or a like request's answer: cached.h */
    REQUEST_WAITING,
    REQUEST_RESERVING, /* a slot is held, and its budgets are asked: budgeted.h */
    REQUEST_RUNNING,
    REQUEST_SETTLING
};

/* A place on a node, from the choice of the node until the leg ends, or until it is given back unused. What routing
 * knew of the node as it was taken goes with it, so that nothing of the node has to be read afterwards. */
struct slot {
    struct node *node;      /* NULL: none is held; the rest then tells of the last one */
    int position;           /* requests on the node as it was taken, with this one */
    unsigned generation;    /* of the node's address */
    struct node_card card;  /* what the node could do */
    struct node_spec *spec; /* a reference, also when the slot has been given back */
    struct breaker_leg breaker;
    struct router_leg known;   /* what routing keeps of it */
    struct leg_word word;      /* what its end says about the node, as it is given back */
    const struct model *model; /* the one of the chain that it is to answer as */
    struct room *batch_of;     /* whose batch requests on machines it is one of; NULL: none */
};

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
    bool stale;             /* how it ended: on a connection that the node had closed before, which says nothing */
    bool put_off;           /* the node said "not now"... */
    int64_t put_off_us;     /* ...and for how long; 0: it does not say */
    bool answered;          /* how it ended: whole */
    int ids_before;         /* what the trail held as it began: ids, chunks, both */
    int64_t chunks_before, said_before;
    struct wall begun;
    char numerics[NUMERICS_DIGITS + 1];
    struct mono first_token;           /* of this leg; {0}: not yet */
    struct mono started, heard, token; /* heard: last byte of its answer; token: last chunk that brought it on */
    int64_t first_ns;                  /* from its start to the first of its answer; 0: none yet */
    struct span_id span;               /* what its node was told */
};

/* The running stream's way off a node that leaves: move.c. */
struct moving {
    bool wanted, queued;
    TAILQ_ENTRY(request) next; /* in lane.leaving, while it is queued */
    struct http_call *call;    /* what has been said is being computed on `to`, ahead of the move; NULL: it is not */
    int to; /* index of the node that knows the most of it, and 1; until a leg has begun there; 0: none */
    int rounds;
    int64_t took_ms; /* the last of them */
    struct mono begun, tried;
};

struct request {
    TAILQ_ENTRY(request) all;
    struct waiter waiter;         /* in its room; under the lock while it waits */
    TAILQ_ENTRY(request) granted; /* with a slot, in its lane's `granted`; under the lock */
    struct lane *lane;
    struct http_exchange *x; /* NULL: the client is gone or answered */
    enum request_state state;
    int attempts;                             /* legs so far */
    char id[REQUEST_ID_BYTES], client_id[65]; /* client_id: X-Client-Request-Id, for the log; "": none */
    struct request_body body;                 /* its text belongs to x, or to idempotency */
    struct identity *who;                     /* a reference */
    struct config *config;                    /* the one that it began with; a reference */
    struct limit_ticket ticket;               /* held until settled, or refused */
    struct limit_verdict limits;              /* as it was let in: what the headers tell */
    struct urgency urgency;
    struct idempotency *idempotency; /* owned; NULL: it has no key */
    struct room *room;
    const struct model *model; /* that was asked for: by the room, and by metrics and limits */
    bool picky;                /* fewer nodes may take it than others who ask for the model */
    bool charge_bounded;       /* by the client: never charged more than charge_max */
    struct pusd charge_max;
    int64_t input_estimate;
    struct request_prefix prefix; /* which nodes may hold the prompt's beginning; constant while it waits */

    uint64_t tried;   /* bit per node that failed for this request since its last new token */
    struct slot slot; /* under the lock while it waits */
    struct leg leg;
    struct moving moving;
    struct stream stream; /* of the running leg, when it is streamed */
    struct trail trail;   /* what has been said, over all legs */
    struct whole whole;   /* the same for a client that wants it whole */
    struct survival survival;
    uint64_t seed;                      /* of the whole answer, for engines */
    char numerics[NUMERICS_DIGITS + 1]; /* class of what has been said; "": of no known class */
    int continuations;
    bool gathered;           /* a whole answer that came as a stream */
    bool whole_is_out;       /* its body stands in `out` */
    bool cross_class;        /* parts of the answer come from different classes */
    bool headed;             /* the head has left: from here on a failure is an event */
    bool replied;            /* the first byte of the answer has left */
    bool counted;            /* as demand */
    bool charged;            /* its tenant, in the waiting room, for its estimated work */
    bool paused;             /* the client reads slower than the node writes */
    bool append_pending;     /* the ledger will call back */
    bool row_is_there;       /* it has: the row is durable */
    bool rest_is_out;        /* the rest of a stream, or its error event, stands in `out` */
    struct ledger_leg *legs; /* owned */
    int n_legs, legs_cap;    /* n_legs <= LEGS_MAX */
    struct node *kept; /* kept free of others for this request, which must be alone; under the lock while it waits */
    int64_t wait_forgiven_ns; /* of waited_ns: before the last new token */
    int64_t looked_us;        /* since it came, when it was last looked for a place: two looks in a row agree */
    int64_t wake_ns;      /* waiting: from when on it may wake a node that sleeps; 0: it may already, or none does */
    bool impatient;       /* it may wake one at once: there is no room to wait in */
    int64_t press_ns;     /* waiting: when it is to look whether a node takes it that has no memory for it; 0: never */
    struct strbuf answer; /* body of a whole answer, or of a node's refusal */
    struct strbuf out;    /* scratch for what leaves */
    struct event *timer;  /* what it means is the state's business: see request_timer() */

    struct audited audited;
    char peer[46]; /* the client's address, where there is an audit */
    struct cached_request cached;
    struct trace trace;
    struct budgeted *budget;     /* owned; NULL: there are no budgets */
    struct explained *explained; /* owned; NULL: it does not ask why it goes where it goes */

    struct mono arrived, wait_since, beat, ended; /* beat: the last comment */
    int64_t ttft_ns;                              /* from arrived to first_byte */
    struct wall accepted, first_byte, finished;
    int64_t waited_ns;
    int retry_after_s; /* if it is not let in, or waits in vain */

    /* Settlement. */
    enum ledger_outcome outcome;
    struct api_error error; /* why it failed, or the last leg's failure so far */
    int http_status;
    struct node_spec *last;     /* of the newest leg, a reference; NULL: none was started */
    struct node_spec *billed;   /* whose prices count: `last`; NULL: nothing is charged */
    const struct model *served; /* as what the newest leg's node answers; NULL: none was started */
    struct token_counts tokens;
    const char *usage_source;
    struct pusd charge;
    int64_t millijoules; /* of all legs so far; -1: of a node that had one no watts are known */
    bool joules_guessed; /* of a leg they were declared or estimated, not measured */
};

/* Counts since the start, by any lane. */
struct room_demand {
    _Atomic int64_t requests, batch, input, answered, prompt, prompt_sq, cached, output, hold_us, in_time, late;
};

/* A waiting room: the requests for one model that have no slot. */
struct room {
    char *model; /* owned */
    int index;
    struct waiting waiting; /* under the lock */
    struct slack slack;     /* under the lock: how many of the last requests met the SLO */
    /* What answers have taken of late, from the slot to the end; 0: unknown. Written under the lock. */
    _Atomic int64_t typical_ns;
    struct room_demand demand;
    _Atomic int comes; /* enum fleet_comes: may a request wait for a node that is not there? */
    bool paced;        /* under the lock, as the next two: the fleet says what batch work may do */
    struct fleet_pace pace;
    int64_t batch_begun_us; /* when a batch request got its first slot last */
    int batch_in_flight;    /* batch requests that have a slot on a machine */
};
TAILQ_HEAD(request_queue, request);

/* ---- lanes -------------------------------------------------------------------------------------------------------
 *
 * A lane is one event loop with all that its requests need: listener, connections to the nodes, callers' credentials,
 * metrics. Lane 0 is the loop of front_options and does what there is once: nodes, health checks, providers, the admin
 * API, the drain. The others have a thread each. What a lane holds is touched by its own thread only, but for counts,
 * its mailbox and `granted`.
 *
 * What the lanes share stands behind front.lock: routing's part of the nodes (nodes.h), the rooms, the lanes'
 * `granted`. It is held for one decision and never over I/O, a log line or anybody's callback. Looking for a slot,
 * taking it or else queueing for one is one decision, so that no slot can come free in between unseen.
 *
 * A waiting request is, under the lock, in exactly one list: its room's queue or, once whichever lane gave a slot back
 * has taken that slot for it, its own lane's `granted`. Any lane moves it from the one to the other; only its own takes
 * it out of either. What routing reads of a request does not change while it is in the queue; and who leaves early
 * gives back the slot that he was granted. */
#define LANES_MAX 64 /* they are bits of front.to_tell */

struct tls_watch; /* tls_watch.h */

struct lane_pool {
    struct http_client *client; /* NULL: none yet */
    unsigned generation;        /* of the node's address */
};
struct lane {
    struct front *front;
    int index;
    struct event_base *loop; /* lane 0: borrowed */
    pthread_t thread;
    bool runs; /* it has a thread */
    struct mailbox *mail;
    struct http_server *server;
    struct config *config; /* what its requests begin with; a reference */
    struct auth *auth;     /* lane 0: borrowed */
    struct auth *old_auth; /* the one before, for those who still wait for an answer from it; NULL: none */
    struct fetcher *fetcher;
    struct ledger_port *port;
    struct audit_port *audit; /* NULL: there is no audit */
    struct strbuf record;     /* scratch for what the audit is told */
    struct random_pool random;
    struct lane_pool *pools; /* one per node */
    struct budget_access *budgets;
    struct cached *cached;                      /* NULL: there is no cache */
    struct spans *spans;                        /* never NULL: traceparent is passed on in any case */
    struct metrics *metrics;                    /* changed by this lane, read by all */
    struct counter accepted, refused;           /* for front_totals */
    TAILQ_HEAD(request_list, request) requests; /* all, in whatever state */
    struct request_list spare;                  /* memory of some that are over */
    int n_spare;
    struct request_queue leaving; /* their nodes are about to go: move.c */
    int n_moving;                 /* of them, taken out of it: those whose new places are made ready now */
    struct request_queue granted; /* under front.lock: have a slot and do not know it yet */
    struct mail told;             /* that there are some */
    bool telling;                 /* under front.lock: it is on its way, or about to be, until it is delivered */
    bool server_drained;
    bool empty; /* said to lane 0: nothing is left here */
    struct mail emptied;
};

struct front {
    struct front_options o;
    struct nodes *nodes;
    const struct fleet *fleet;                    /* NULL: nobody plans capacity */
    front_metrics_more *more[FRONT_METRICS_MORE]; /* of more_arg, in /metrics */
    const void *more_arg[FRONT_METRICS_MORE];
    int n_more;
    struct lane *lanes; /* the array is whole before the first thread starts */
    int n_lanes;
    struct http_held held; /* bounds on connections and request bytes, over all lanes */
    struct tls_door *tls;  /* NULL: plain HTTP */
    struct tls_watch *tls_watch;
    struct peers *peers;

    pthread_mutex_t lock;
    struct room *rooms;  /* one per model that a configuration has named; room for rooms_max */
    _Atomic int n_rooms; /* only grows */
    int rooms_max;
    struct config *first; /* the one that we were started with; a reference, for what needs a restart */
    int n_waiting;        /* in the queues; under the lock */
    uint32_t spread;      /* counts up: equals share by turns; under the lock */
    uint64_t to_tell;     /* lanes that got requests with a slot; under the lock, see front_unlock() */

    struct repeats *repeats; /* has a lock of its own; NULL: idempotency keys are not honoured */

    pthread_mutex_t limits_lock;
    struct limit_table *limits; /* under limits_lock */
    struct budget_desk *budgets;
    struct budget_store *own_store; /* NULL: it was given */
    struct cached_shared *cached;   /* NULL: there is no cache */
    struct affinity *affinity;
    struct explain *explain;      /* decisions; written under the lock, read without. NULL: none are kept */
    struct route_metrics *routes; /* of all lanes */
    _Atomic bool ledger_failing;  /* rows cannot be written: no new work until one can */
    struct mono created;
    int64_t created_s; /* for /v1/models */
    /* drain; lane 0 but for the first */
    _Atomic bool draining;
    _Atomic bool queue_stays; /* the listener outlives us: others accept from it while we drain, or after */
    _Atomic bool stopping;
    int n_empty; /* lanes that have nothing left */
    void (*drained)(void *arg);
    void *drained_arg;
    struct event *drain_timer;
};

/* The newest configuration, for what belongs to no request. It stays where it is until every lane has been through its
 * loop once more after a reload. */
static inline const struct config *front_config(const struct front *f)
{
    return __atomic_load_n(&f->o.config, __ATOMIC_ACQUIRE);
}

struct room *front_room(const struct front *f, const char *model); /* NULL: no configuration has named it */
void front_lock(struct front *f);
/* Lanes that were granted slots meanwhile are told, after the lock is free. */
void front_unlock(struct front *f);
void front_unlock_on(struct lane *l); /* the same, cheaper, on l's thread */

/* lane.c */
enum rc lanes_new(struct front *f, struct error *e) SPW_MUST_USE; /* f->nodes does not exist yet */
enum rc lanes_listen(struct front *f, struct error *e) SPW_MUST_USE;
enum rc lanes_start(struct front *f, struct error *e) SPW_MUST_USE; /* the threads: from here on the lock matters */
void lanes_stop(struct front *f); /* the threads end; afterwards the caller's is every lane's */
void lanes_free(struct front *f); /* requests, pools and whatever is left */
/* Every lane takes the front's configuration over, at its next turn; with new_auth also its keys and issuers. */
void lanes_take_config(struct front *f, bool new_auth);
/* done(arg) on lane 0, once every lane has been through the messages that it has now. */
void lanes_rest(struct front *f, void (*done)(void *arg), void *arg);
/* call(lane) on each lane's own thread: at once for the caller's, lane 0. */
void lanes_each(struct front *f, void (*call)(void *lane));
/* The pool towards the node, made when the first leg needs it and again when the node has moved. */
enum rc lane_client(struct lane *l, struct node *node, unsigned generation, struct http_client **c,
                    struct error *e) SPW_MUST_USE;
void lanes_drop_node(struct front *f, struct node *n, unsigned generation); /* its address is no longer good */
void lane_check_empty(struct lane *l); /* a request was freed, or the listener is drained: a drain may be complete */

/* endpoint.c */
void endpoint_head(struct http_exchange *x, void *arg);
void endpoint_handle(struct http_exchange *x, void *arg);

/* catalogue.c: GET /v1/models, as one caller sees it. */
enum rc catalogue_list(struct lane *l, const struct identity *who, struct strbuf *out) SPW_MUST_USE;
/* RC_NOT_FOUND: there is no such model, or it is not for him. */
enum rc catalogue_one(struct lane *l, const struct identity *who, const char *name, struct strbuf *out) SPW_MUST_USE;

/* admit.c: how much somebody may ask, and what the limits' headers say. */
#define LIMIT_HEADERS_MAX 6 /* x-ratelimit-{limit,remaining,reset}-{requests,tokens} */
struct limit_texts {
    char text[LIMIT_HEADERS_MAX][32];
};
/* Appends to headers, whose values stand in *t. Returns how many: 0 where nothing is limited. */
int limit_headers(const struct limit_verdict *v, struct limit_texts *t, struct http_header *headers);
/* RC_OK: *ticket and *v are the request's. RC_DENIED: it was not admitted; *v and *e say why. */
enum rc admit(struct lane *l, const struct identity *who, const struct model *model, const struct request_body *body,
              struct limit_ticket *ticket, struct limit_verdict *v, struct api_error *e) SPW_MUST_USE;
/* It used so many tokens. Again and again is once. */
void admit_settle(struct front *f, struct limit_ticket *ticket, int64_t tokens);

/* dispatch.c: the request's life, and which node is next. request_start takes an exchange that
 * has been checked and admitted, and a reference of the caller's; everything else follows by itself. */
struct admission {
    struct identity *who;            /* the reference goes over */
    struct idempotency *idempotency; /* goes over; NULL: it has no key */
    struct cache_ask ask;
    struct limit_ticket ticket;
    struct limit_verdict limits;
    struct urgency urgency;
    const struct model *model;
    bool explain; /* it asks why it goes where it goes */
    bool charge_bounded;
    struct pusd charge_max;
    const char *labels; /* where there are budgets; for the call, as the next */
    const cJSON *root;  /* what the body says, in a json_doc */
};
void request_start(struct lane *l, struct http_exchange *x, const char *id, const struct request_body *body,
                   const struct admission *a);
static inline struct request *request_of_waiter(const struct waiter *w)
{
    return (struct request *)(void *)((char *)(uintptr_t)w - offsetof(struct request, waiter));
}
/* Choose a node and start a leg, or wait, or fail. */
void dispatch(struct request *r);
/* The same for one that holds a slot already. */
void dispatch_granted(struct request *r);
/* The same, when its budgets have been asked, too. */
void dispatch_paid(struct request *r);
/* Its client had left before, and now nobody waits for its answer any more. */
void request_unwanted(struct request *r);
/* End whatever runs and settle with this error (drain's deadline). */
void request_cut(struct request *r, enum api_code code);
/* The running leg is over and has not answered: on to another node, or the end of r. */
void leg_failed(struct request *r, enum leg_fault fault, const char *reason);
void request_arm(struct request *r, int64_t ms);
/* Is it known what has been said, so that a node could go on with it? */
bool request_can_continue(const struct request *r);
/* The service_tier that its answer says; NULL: it did not ask. */
static inline const char *request_tier(const struct request *r)
{
    return r->body.tier_asked ? tier_served(r->body.tier, r->urgency.class) : NULL;
}
/* As what it was answered, or would be first. */
const struct model *request_model(const struct request *r);
/* The first of its answer leaves, or is there to be sent whole. */
void request_note_first_byte(struct request *r);
/* One observation under the request's labels. node NULL: no node. */
void request_observe(const struct request *r, const struct node_spec *node, enum route_metric what, int64_t value);
void request_observe_all(const struct request *r, const struct node_spec *node, const struct route_value *values,
                         int n);
void request_free(struct request *r);
void requests_drop_spare(struct lane *l);

/* leg.c: one leg, from the request that is sent to the last byte that is read. */
enum rc leg_start(struct request *r, struct error *e) SPW_MUST_USE; /* on the node whose slot r holds */
/* The slot goes back; a call that still runs keeps running. outcome: static text for the ledger. */
void leg_over(struct request *r, const char *outcome);
/* The running leg's answer is whole as it is, with the finish chunk that stream_cut() made. */
void leg_stop(struct request *r);
/* The same, and the call is cancelled. Without a leg: nothing happens. */
void leg_drop(struct request *r, const char *outcome);
void leg_late(struct request *r); /* the timer of a running leg */
/* What a leg on `there` (node, generation, card, spec and model) would be sent now, to handlers with r as their
 * argument, whatever r's own leg does. RC_INVALID: it could not go on there by its ids. */
enum rc leg_send_ahead(struct request *r, const struct slot *there, const struct http_call_handlers *h,
                       struct http_call **call, struct error *e) SPW_MUST_USE;
/* r->numerics tells of what has been said until now, the running leg's part with it. */
void leg_note_class(struct request *r);
bool leg_has_progress(const struct request *r);

/* move.c: streams leave a node before it goes. */
/* r's node said that it will cut the stream: called again and again while it runs. */
void move_wanted(struct request *r);
/* The leg is over. Whom others wait for goes on at the lane's next turn. */
void move_forget(struct request *r);

/* alone.c: a node of one's own. */
void alone_keep_locked(
    struct request *r); /* the emptiest node that could take r is kept for it, unless one is already */
void alone_take_locked(struct request *r);    /* r has got a slot: on that node nobody else may begin */
void alone_release_locked(struct request *r); /* without one: nothing happens. Others may place requests afterwards */
void alone_release(struct request *r);        /* of one that does not wait */

/* slots.c: who gets which slot. */
/* What routing says for r now. Returns the model of its chain that d->chosen is to answer as; NULL: nobody is chosen, and
 * *d then speaks of all models that r may come to. */
enum slot_look { LOOK_ONLY, LOOK_FOR_GOOD }; /* for good: what is decided is kept, and what it says will be done */
const struct model *slot_look_locked(const struct request *r, uint32_t spread, struct route_decision *d,
                                     enum slot_look how);
void slot_take_locked(struct request *r, struct node *node, const struct model *as);
enum found { FOUND_SLOT, FOUND_ROOM, FOUND_NOBODY, FOUND_TOO_LATE, FOUND_NO_ROOM };
/* A slot for r, or (ROOM) a place in its waiting room. FOUND_NOBODY: *d says why. FOUND_TOO_LATE: all that could are
 * held (nodes.h) for longer than r may wait, d->back_us. FOUND_NO_ROOM: *v says why, and r->retry_after_s until
 * when. */
enum found slot_find(struct request *r, struct route_decision *d, enum waiting_verdict *v);
/* When can somebody be asked again? Microseconds; 0: that is not known, or at any moment. */
int64_t slot_back_us(struct request *r, struct route_decision *d);
/* Before a look that may be followed by another: the time that both go by. */
void slot_note_time_locked(struct request *r);
/* Of the first token, by the SLO; 0: none, or it is out. */
int64_t slot_ttft_limit_us(const struct request *r);
/* So long after it came it rather waits for a place on a node that is awake than to wake another: a quarter of its time
 * to the first token, and of the time that it may wait; a second at most. An answer that is under way: not at all. */
int64_t slot_patience_us_locked(const struct request *r);
/* The leg's first token has come. */
void slot_spoke(struct request *r);
enum slot_use { SLOT_UNUSED, SLOT_USED, SLOT_ANSWERED };
/* r's slot goes to whoever waits for it, or back. Returns how many requests the node had, with r. */
int slot_return(struct request *r, enum slot_use use);

/* explained.c: what is decided is kept for whoever asks why. */
struct explained_look {
    const struct request *r;
    const struct model *model; /* of its chain */
    const int32_t *listed;     /* the nodes' indexes; NULL: candidate i is node i */
    const struct route_request *request;
    const struct route_candidate *candidates;
    int n;
};
/* d is for good. */
void explained_decided_locked(const struct explained_look *look, const struct route_decision *d);
/* Nobody was chosen, and the next model of the chain is looked at. */
void explained_steps_on_locked(const struct request *r);
/* What became of the newest decision: as slot_find() says. */
void explained_found_locked(const struct request *r, enum found found, const struct route_decision *d,
                            enum waiting_verdict v);

/* demand.c */
void demand_came(struct request *r);
void demand_answered(const struct request *r); /* r is settled */
void demand_slo(const struct request *r, bool in_time);
enum fleet_comes demand_comes(const struct model *m);
/* It has got a slot. */
void demand_begun_locked(struct request *r);

/* rooms.c */
void rooms_set_bounds(struct front *f, const struct config *c);
/* WAITING_IN: r waits, and room_entered() is called once the lock is free. */
enum waiting_verdict room_enter_locked(struct request *r);
void room_entered(struct request *r);
int64_t room_left_ms_locked(const struct request *r); /* that r may still wait */
bool room_presses_locked(const struct request *r);    /* route_request.presses */
int64_t room_wait_most_us_locked(const struct request *r);
/* When it would leave the room, if it came now. */
int64_t room_until_ns_locked(const struct request *r);
/* The latest start that lets it end before its deadline, as long as answers of this model have taken of late. */
int64_t room_start_by_ns(const struct request *r);
/* The timer of one that waits: is its time over? Else it sleeps on. */
bool room_is_over(struct request *r);
/* r waits no longer. True: it was granted a slot, which it now holds. */
bool room_leave(struct request *r);
/* r was answered: how long that takes is what deadlines are judged by. */
void room_note_answer_locked(struct request *r);
/* Why it may not wait, or (WAITING_IN) has waited in vain: into r->error, unless what its last leg failed with says
 * more; and counted. */
void room_explain(struct request *r, enum waiting_verdict v);
/* r is settled: what it really used counts for its tenant. */
void room_correct(struct request *r);
/* Slots that are free go to those that wait: taken for them, and their lanes are told by front_unlock(). */
void rooms_grant_locked(struct front *f);
void rooms_grant(struct front *f);
/* The lane's own, on its thread: go on with those that were granted slots. */
void rooms_take_granted(struct lane *l);

/* bound.c: what an answer may come to. */
/* "x-spillway-max-charge-usd" of x. RC_INVALID: it is no amount, *e says so. */
enum rc bound_read(struct http_exchange *x, bool *bounded, struct pusd *max, struct api_error *e) SPW_MUST_USE;
/* Tokens of each choice, over all legs, at these prices; INT64_MAX: as many as the client wants. */
int64_t bound_output(const struct request *r, const struct token_prices *p);
int64_t
bound_output_min(const struct request *r); /* fewer, over all choices, would add nothing to what has been said */
void bound_charge(struct request *r);      /* r->charge is what it came to: it is not more than the bound */
void bound_refused(struct request *r);     /* sets r->error: no node is cheap enough */

/* settle.c */
void settle(struct request *r, enum ledger_outcome outcome);
void settle_append(struct request *r);
/* Fail: error object, or error event when the stream has begun, once the row is durable. r->error is set. r may be gone
 * afterwards. */
void settle_failed(struct request *r);
/* The end of one that no node ever had: an answer at once, no row, and r is freed. */
void request_refuse(struct request *r);

/* front.c */
void front_lane_empty(struct mail *m); /* a lane's `emptied` */

#endif
