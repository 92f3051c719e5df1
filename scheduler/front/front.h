/* The front: the public OpenAI endpoint, the node table, routing, dispatch, settlement and the metrics of one process.
 *
 * Owns: the public listener (config.listen), the nodes and the engines that provider `process` starts for them, and
 * every request between its arrival and its ledger row. Leaves to others: configuration, ledger and keys (borrowed),
 * the admin API and the command line (which read it through the accessors below), signals and the loop itself (main).
 *
 * Life: front_new() -> serving -> front_drain() -> done(arg) -> front_free(). front_free() without a drain closes at
 * once. Everything borrowed outlives the front; nothing blocks but front_free(), for the rows still to be written.
 *
 * Threads: config.workers event loops ("lanes") serve requests, each on a thread of its own but for the first, which is
 * the loop given here. The functions below are for that loop's thread. Taken apart in this order: the threads end, then
 * listeners (what runs is cancelled and settled), ledger ports (rows are written), connections to nodes, node table.
 *
 * Public surface: POST /v1/chat/completions, POST /v1/completions, POST /v1/embeddings, POST /tokenize and /detokenize
 * (as Spillway's engine and vLLM have them; nothing is computed, so they cost nothing), GET /v1/models, GET
 * /v1/models/{id}, GET /healthz, GET /readyz. /metrics and /admin are never here. x-spillway-explain: 1 asks why the
 * request goes where it goes; the answer says so in a header of that name (explained.h). A request with an
 * Idempotency-Key is computed and charged once (idempotency.h). `service_tier` and x-spillway-deadline say how urgent a
 * request is (urgency.h). A stream that had to wait may begin with comments, and then lacks x-spillway-node. Answers
 * carry x-request-id (ours; a client's is not believed) and x-spillway-node. The charge is in the header
 * x-spillway-charge-usd, or, when streaming, in the final usage chunk as
 * "spillway":{"node":NAME,"charge_usd":"0.0012","joules_estimated":41.25} (charge: a string, exact decimal dollars).
 * Joules, in a whole answer the header x-spillway-joules-estimated: the node's watts x the seconds it worked / the
 * requests it had at the end; left out where no watts are known. Where engines measured them: joules_measured,
 * ...-joules-measured. */
#ifndef SCHEDULER_FRONT_FRONT_H
#define SCHEDULER_FRONT_FRONT_H

#include <event2/event.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/money.h"
#include "scheduler/books/ledger.h"
#include "scheduler/capacity/fleet.h"
#include "scheduler/config/config.h"
#include "scheduler/nodes/state.h"

struct front;
struct auth;         /* scheduler/auth/auth.h */
struct keystore;     /* scheduler/auth/keystore.h */
struct budget_store; /* scheduler/budgets/store.h */
struct audit;        /* scheduler/audit/audit.h */

int lanes_wanted(const struct config *c); /* `workers`: auto is one less than there are cores for us */

struct front_options { /* all borrowed */
    struct event_base *loop;
    const struct config *config;
    struct ledger *ledger;
    struct audit *audit;       /* NULL: none is kept */
    struct auth *auth;         /* of the first loop; the others make theirs from the configuration and keystore */
    struct keystore *keystore; /* NULL: none */
    struct budget_store
        *budgets; /* where budgets are counted (scheduler/budgets/store.h); NULL: in memory, from nothing */
    const struct log *log;
    const struct clock *clock;
    const int *listen_fds; /* listeners that are there already, instead of config->listen; they become the front's */
    int n_listen_fds;      /* 0: none; at most one per lane */
};
/* Binds the listener, starts the engines of provider `process` and the first health checks. RC_INVALID for a
 * configuration that cannot be served (more nodes than routing can compare, unreadable key file, bad URL). */
enum rc front_new(struct front **f, const struct front_options *o, struct error *e) SPW_MUST_USE;
/* Stop accepting, finish what runs and what waits (at most config->drain_ms; then it is cut with an error event and
 * settled), commit the rows, end our engines; then done(arg), once, on the loop. A second call is ignored. */
void front_drain(struct front *f, void (*done)(void *arg), void *arg);
void front_free(struct front *f); /* engines that still run are killed and reaped; NULL is fine */
/* A configuration that was checked and whose restart-only settings are as before is taken over, all of it or, with *e,
 * nothing. auth: lane 0's, as in front_options; new_auth says that it is another one, and that the others are to be
 * made anew. What is under way ends with what it began with. */
enum rc front_take(struct front *f, const struct config *c, struct auth *auth, bool new_auth,
                   struct error *e) SPW_MUST_USE;
/* The listening sockets, still the front's: at most max. */
int front_listeners(const struct front *f, int *fds, int max);
void front_hand_over(struct front *f); /* another process has them: what belongs to them stays when we drain */
int front_port(const struct front *f); /* bound TCP port */
bool front_is_draining(const struct front *f);
/* Show the certificate of `config`, read anew, ask what it asks of clients' certificates, and allow each client as many
 * connections as it says. Connections that are open stay as they are. All of it or, with *e, nothing. Reads the files
 * of the certificate (blocks for as long as that takes); the loop of front_options. */
enum rc front_take_doors(struct front *f, const struct config *config, struct error *e) SPW_MUST_USE;
/* Ready: not draining, the ledger takes rows, at least one node is healthy; and for FRONT_ASKED_MS after the start all
 * are waited for, so that the first requests do not go to a dear one because it was asked first how it is. *why (may be
 * NULL): static text, or "". */
#define FRONT_ASKED_MS 250
bool front_is_ready(const struct front *f, const char **why);

/* ---- for the admin API -------------------------------------------------------------------------------------- */

/* Borrowed from the front for the call that hands it out. */
struct front_node {
    const char *name, *provider, *address; /* address: "http://127.0.0.1:8081", or "" before an engine has a port */
    const char **models;
    int n_models;
    enum node_state state;
    bool draining, local;
    const char *reason;      /* of the state, or why a ready one gets nothing; "" when all is well */
    const char *breaker;     /* "closed", "open", "half_open" */
    struct wall state_since; /* last change of state */
    int in_flight, slots;    /* slots 0: unbounded */
    int watts;               /* declared; 0: unknown */
    int64_t milliwatts;      /* what is known of its draw now, and whence */
    enum node_watts watts_are;
    struct token_prices prices;
    uint64_t requests, failures; /* legs sent to it, legs that failed on it */
    int64_t probe_us;            /* duration of the last good probe; -1: none yet */
    int pid, restarts;           /* provider process; pid 0: none */
    bool resumes;                /* answers can be resumed there by their token ids */
    const char *numerics;        /* its numerics class; "": none is known */
};
int front_nodes_count(const struct front *f);
void front_nodes_each(const struct front *f, void (*each)(const struct front_node *n, void *arg), void *arg);
/* RC_NOT_FOUND when there is no such node. Otherwise each(), once. */
enum rc front_node_get(const struct front *f, const char *name, void (*each)(const struct front_node *n, void *arg),
                       void *arg) SPW_MUST_USE;
bool front_has_node(const struct front *f, const char *name);
/* A draining node finishes what it has and gets nothing new. Idempotent. RC_NOT_FOUND. */
enum front_drain_mode { FRONT_NODE_DRAIN, FRONT_NODE_UNDRAIN };
enum rc front_node_set_drain(struct front *f, const char *name, enum front_drain_mode mode,
                             struct error *e) SPW_MUST_USE;

/* ---- for the fleet (scheduler/capacity/fleet.h): arg is the front; lane 0's loop --------------------------------------- */

struct nodes *front_nodes(struct front *f);
bool front_demand(const char *model, struct fleet_demand *d, void *arg);
void front_comes(const char *model, enum fleet_comes comes, void *arg);
int64_t front_batch(const char *model, struct progress_rows *rows, void *arg);
void front_pace(const char *model, const struct fleet_pace *p, void *arg);
/* Who plans capacity: for /readyz and /metrics. Borrowed; NULL: nobody. */
void front_set_fleet(struct front *f, const struct fleet *fleet);
/* What stands beside the front and has something to say in /metrics; at most FRONT_METRICS_MORE of them. arg: borrowed.
 * Lane 0's loop. */
#define FRONT_METRICS_MORE 4
typedef enum rc front_metrics_more(const void *arg, struct strbuf *out);
void front_add_metrics(struct front *f, front_metrics_more *more, const void *arg);

struct json_writer;
/* Why a request went where it went: an object with its decisions (front/explain_text.h), as far as they are kept.
 * RC_NOT_FOUND: none is, and *e says why that may be. */
enum rc front_explain(const struct front *f, const char *request_id, struct json_writer *w,
                      struct error *e) SPW_MUST_USE;

/* The newest decisions of routing, the newest first; those about one request, the newest last. At most max; returns how
 * many. */
struct explain_record; /* scheduler/front/explain.h */
int front_decisions(const struct front *f, struct explain_record *out, int max);
int front_decisions_of(const struct front *f, const char *request_id, struct explain_record *out, int max);

/* What is asked of a model since the start, and what was promised. */
struct front_route {
    const char *model;
    bool served; /* a node of the configuration has it */
    struct config_aim aim;
    struct fleet_demand demand;
};
/* Of every model that a configuration has named, now or before. */
void front_routes_each(const struct front *f, void (*each)(const struct front_route *r, void *arg), void *arg);

/* ---- budgets, for the admin API: on lane 0's loop; `done` may come from inside the call ------------------------------- */

struct budget_known;       /* scheduler/front/budget_desk.h */
struct budget_store_stats; /* scheduler/budgets/store.h */
/* How the store fares that several schedulers share. False: budgets are this process's alone. For any thread. */
bool front_budget_store(const struct front *f, struct budget_store_stats *s);
/* As they stand now, read from the store. RC_OK, or `why` there is nothing to tell. Valid for the call. */
typedef void front_budgets_cb(enum rc rc, const char *why, const struct budget_known *budgets, int n, void *arg);
#define FRONT_BUDGETS_MAX 10000 /* of one answer */
/* name NULL: all that are known. RC_NOT_FOUND: there is no budget of that name. */
enum rc front_budgets_read(struct front *f, const char *name, front_budgets_cb *done, void *arg,
                           struct error *e) SPW_MUST_USE;
/* top_up > 0: so much more in the running period. Else the limits, from now on: -1 is the configured one again,
 * BUDGET_KEEP as it is. Told like a reading of the one. */
#define BUDGET_KEEP (INT64_C(-2))
struct front_budget_change {
    struct pusd top_up, hard, soft;
};
enum rc front_budget_change(struct front *f, const char *name, const struct front_budget_change *c,
                            front_budgets_cb *done, void *arg, struct error *e) SPW_MUST_USE;

/* Prometheus text (version 0.0.4) of the whole process. RC_FULL when `out` is too small. */
enum rc front_metrics_render(const struct front *f, struct strbuf *out) SPW_MUST_USE;
#define FRONT_METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Totals since the start, for `spillway` without Prometheus. */
struct front_totals {
    uint64_t accepted, ok, cancelled, failed, refused; /* refused: answered 4xx/503 without a ledger row */
    uint64_t retries, continuations;
    int running, waiting;
    struct token_counts tokens;
    struct pusd_sum charge;
};
struct front_totals front_totals(const struct front *f);

#endif
