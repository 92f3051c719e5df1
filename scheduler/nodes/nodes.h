/* The node table: who there is, whether it answers, what it carries.
 *
 * Owns the nodes, their health checks and the providers that start them, all on one loop; the upstream connection pools
 * belong to the loops that use them (node_client_new()). Everything that takes decisions reads it through
 * nodes_snapshot().
 *
 * Threads: the fields under "routing" are read and written by every loop and stand behind the lock of nodes_options,
 * which is never held over I/O. A function whose name ends with _locked wants it held; the others take it themselves
 * where they need it. What is neither under "routing" nor constant belongs to the table's own loop.
 *
 * A node's state and what moves it:
 *
 *                    probe is good                     probe or connection fails
 *     STARTING  ----------------------->  READY  ------------------------------->  FAILING
 *        ^  \--- probe fails: stays,        ^                                         |
 *        |       reason changes             +-----------------------------------------+
 *        |                                              probe is good
 *        +--- its engine runs ---  STOPPED  <--- its engine ends (from any state; provider process)
 *
 * From each of them a good probe of an engine that says that it sleeps leads to ASLEEP, and the next that it is awake to
 * READY. Nodes that no configuration lists (of pools) come by nodes_add() and go by node_lose(); a reload leaves them
 * alone.
 */
#ifndef SCHEDULER_NODES_NODES_H
#define SCHEDULER_NODES_NODES_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/http_client.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "base/url.h"
#include "policies/breaker.h"
#include "policies/power.h"
#include "policies/retry_budget.h"
#include "policies/route.h"
#include "policies/router.h"
#include "providers/provider.h"
#include "scheduler/config/config.h"
#include "scheduler/nodes/affinity.h"
#include "scheduler/nodes/card.h"
#include "scheduler/nodes/state.h"
#include "scheduler/nodes/timesheet.h"
#include "scheduler/record/recorder.h"
#include "scheduler/wire/request.h"

struct nodes;

/* Of a place in the table. Names and counts stay where they are when a node goes, for the case that it comes back. */
enum node_place {
    PLACE_FREE, /* config is an empty one, so that whoever looks at all nodes needs no exception */
    PLACE_TAKEN,
    PLACE_ENDING, /* its engine is being ended */
    PLACE_ENDED,  /* and is gone */
    PLACE_RESTS,  /* some loop may still know of it */
};

/* Why a node that is ready gets nothing all the same (holds.c). */
enum node_hold { HOLD_NONE, HOLD_BREAKER, HOLD_COOLING };

struct node_target {
    unsigned generation; /* counts up with each change of the rest; 0: there was no address yet */
    struct url at;       /* host "": nowhere at the moment */
};

/* What the configuration says of a node. Counted and never changed: a reload gives the node another one, and a leg
 * keeps the one that it began with, and with it its prices and names. Any thread. */
struct node_spec {
    int refs;
    struct config *owner; /* a reference; config is part of it */
    const struct config_node *config;
    int index;           /* of the node */
    char *authorization; /* owned: "Bearer ..." towards the node, or NULL. Never logged */
    char *node_key;      /* owned: see docs/NODE_API.md; NULL: no engine of ours. Never logged */
    struct config_node
        *own; /* owned, with its name and texts: `config` of a node that no configuration lists, or that finance has
               * given other prices; else NULL */
    bool repriced; /* it has prices of finance's, or had; `configured` are those of the file */
    struct token_prices configured;
};
struct node_spec *node_spec_ref(struct node_spec *s); /* NULL is fine, here and there */
void node_spec_unref(struct node_spec *s);
/* The name to send to the node instead of the one asked for, or NULL: the same. */
const char *node_upstream_model(const struct config_node *c);

struct node {
    struct nodes *table;
    int index;
    char name[65]; /* constant as long as anybody holds a slot on it */
    /* routing */
    struct node_spec *spec;           /* a reference */
    const struct config_node *config; /* its: for the table's loop and under the lock; others hold the spec */
    struct node_card card;            /* of the last good health check */
    const void *kept_for;             /* the one request that may start here, or NULL: any may */
    enum node_state state;
    bool draining;
    bool leaving; /* the configuration has lost it: it finishes what it has, and goes */
    bool resting; /* others are to get the work, so that it may sleep: nothing new for now */
    _Atomic bool
        emptying; /* what streams there goes on elsewhere, if it can: the rest would keep it awake. Any thread */
    bool claims;  /* the power ladder has it do something that may draw up to claim_mw (site.c) */
    int64_t claim_mw;
    bool kept_asleep;       /* asleep, and only the power plan may wake it: the site's watts are limited */
    struct mono work_ended; /* when it had its last request; its start, before there was one */
    char reason[160];
    struct wall state_since;
    int in_flight;
    uint64_t requests, failures;
    unsigned doubts; /* times that a request found it gone or away: what a probe asked before that does not count */
    struct node_target target;             /* where it is now */
    struct breaker breaker;                /* of a node that is ready: is it well enough to be sent anything? */
    char breaker_reason[160];              /* why it opened last */
    enum node_hold told;                   /* what the log said last */
    int64_t lacks_until_us[REQUEST_KINDS]; /* it answered that it has no such endpoint; 0: not of late */
    uint64_t opened, cooled;               /* times that its breaker opened, that it asked to be left alone */
    SSL_CTX *tls;          /* owned; set before target.at.tls says so, then constant until its place is cleared */
    char tls_name[160];    /* as tls; "": the configuration's, or the host */
    _Atomic int watts_are; /* enum node_watts, and the figure itself: what its engine said last. Any thread */
    _Atomic int64_t milliwatts;
    /* the table's loop */
    char *address;              /* owned: "http://host:port"; NULL before there is one */
    struct http_client *client; /* of health checks; NULL before there is an address */
    int pid, restarts;
    enum node_place place;
    bool engine;            /* provider process has an instance of its name */
    bool dynamic;           /* of nodes_add() */
    struct timesheet sheet; /* as it said last; life "": it starts, or says nothing */
    bool silent;            /* its engine has joined, and says nothing any more: out of service, whatever probes say */
    struct event *hold_timer; /* a hold ends by itself; NULL until there was one */
    /* health check (health.c) */
    struct event *timer;     /* next probe, or the deadline of the running one */
    struct http_call *probe; /* NULL: none runs */
    int probe_status, probe_misses;
    unsigned probe_doubts; /* `doubts` as it was asked */
    bool probe_models;     /* it has no /health: ask /v1/models */
    bool probe_card;       /* the running probe asks /v1/models under the node key */
    bool probe_asleep;     /* /health said so */
    struct strbuf probe_body;
    struct mono probe_started;
    int64_t probe_us;
};

struct nodes_options { /* all borrowed */
    struct event_base *loop;
    const struct config *config;
    const struct log *log;
    const struct clock *clock;
    pthread_mutex_t *lock; /* of the fields under "routing" */
    struct mailbox *mail;  /* of `loop` */
    /* Capacity may have come: a node became ready or got undrained. Without the lock; on any loop that calls in here. */
    void (*on_capacity)(void *arg);
    /* The node is not where it was up to this generation: pools with connections to there are to be dropped. On `loop`. */
    void (*on_gone)(struct node *n, unsigned generation, void *arg);
    /* Once every loop has been through its messages: done(n), on `loop`. */
    void (*rest)(struct node *n, void (*done)(void *n), void *arg);
    /* The place has been another node's: its counts are to begin anew. */
    void (*on_new_name)(struct node *n, void *arg);
    void *arg;
};

enum rc nodes_new(struct nodes **t, const struct nodes_options *o, struct error *e) SPW_MUST_USE;
/* After the pools of all loops. */
void nodes_free(struct nodes *t);
/* End the engines that we started; done(arg) on the loop once all are gone, also when there are none. */
void nodes_stop(struct nodes *t, int64_t grace_ms, void (*done)(void *arg), void *arg);

/* A reload, in two steps: what can fail, and what cannot. The plan is for one commit or discard. Nodes that are named
 * as before and differ only in what a running node can take over get the new specification; those that are gone or
 * differ in more leave; new ones are started, when there is a place and no engine of that name left. */
struct nodes_plan;
enum rc nodes_prepare(struct nodes *t, const struct config *c, struct nodes_plan **plan, struct error *e) SPW_MUST_USE;
void nodes_commit(struct nodes *t, struct nodes_plan *plan);
void nodes_discard(struct nodes_plan *plan); /* NULL is fine */

/* ---- dynamic.c: nodes that come and go without a configuration that lists them, on the table's loop -------------------- */

struct nodes_newcomer {
    const struct config *owner;     /* of what it is like; a reference is taken */
    const struct config_node *like; /* its models, prices, slots, ...: a pool's template */
    const char *name, *url;
    const char *node_key; /* NULL: like->node_key_file says, or none */
    const char *tls_ca;   /* https: files; NULL: as `like` says */
    const char *tls_cert, *tls_key, *tls_name;
    struct pusd per_hour;        /* its rent; 0: none */
    const char *market, *domain; /* for the books: how it was bought, and what it may be lost with; NULL: not known */
};
/* A node's state has changed: listener(arg) on the table's loop, never from inside. One listener. */
void nodes_listen(struct nodes *t, void (*listener)(void *arg), void *arg);
/* RC_FULL: no place is free (at the moment). RC_CONFLICT: one of that name is there. */
enum rc nodes_add(struct nodes *t, const struct nodes_newcomer *c, struct node **n, struct error *e) SPW_MUST_USE;
/* Its machine is gone: its connections are cut, what ran there goes on elsewhere, and its place is free. */
void node_lose(struct node *n, const char *reason);
/* What runs there is cut, and goes on elsewhere; it stays. Best when it is draining. */
void node_cut(struct node *n);
void node_set_resting(struct node *n, bool resting);
/* Its streams leave it one by one, without being cut (scheduler/front/move.c); who finds no other place stays. Any
 * thread asks. */
void node_set_emptying(struct node *n, bool emptying);
bool node_is_emptying(const struct node *n);
void node_keep_asleep(struct node *n, bool kept);
/* ---- prices.c: prices of finance's, on the table's loop -------------------------------------------------------------- */

/* What one of its changes says (books/finance.h): of a node, a pool's nodes, or, only of a price, the nodes that serve
 * that model and no other; the first of these that there is counts. A rate is what is charged, a price what a provider
 * asks and, where there is no rate, what is charged. Without either the configuration's prices hold. */
struct node_price {
    char subject[128];
    bool is_rate;
    struct token_prices prices;
    int64_t version;
};
/* From now on these, copied, of nodes that are there and of those that come. A leg keeps the prices that it began with. */
void nodes_set_prices(struct nodes *t, const struct node_price *list, int n);
const struct token_prices *node_prices_configured(const struct node_spec *s); /* the file's */

/* ---- joined.c: nodes whose engines come by themselves (scheduler/join), on the table's loop ---------------------- */

/* Where one that has joined is reached. All borrowed. */
struct node_place_at {
    const char *url;                                    /* https://... */
    const char *tls_ca, *tls_cert, *tls_key, *tls_name; /* files; the name that its certificate is for */
    const char *node_key;                               /* docs/NODE_API.md */
};
/* Of the configuration and without a url, or of nodes_add(). */
bool node_may_join(const struct node *n);
/* It is there now, and is probed there; if it is there already, at once. node_may_join() is true. */
enum rc node_place(struct node *n, const struct node_place_at *at, struct error *e) SPW_MUST_USE;
struct node_vitals {       /* what its engine says */
    struct node_card card; /* numerics "": not known yet */
    bool asleep, ready;
    enum node_watts watts_are;
    int64_t milliwatts;
};
void node_take_beat(struct node *n, const struct node_vitals *v);
void node_take_watts(struct node *n, enum node_watts are, int64_t milliwatts);
/* What it draws: measured by its engine, else declared in c, else estimated by its engine. Any thread. */
enum node_watts node_milliwatts(const struct node *n, const struct config_node *c, int64_t *milliwatts);
/* Out of service until node_heard(), whatever probes say; what runs there goes on. */
void node_silence(struct node *n, const char *reason);
void node_heard(struct node *n);

int nodes_places(const struct nodes *t); /* that are free */
/* The key of the engines that are started here, and its file, made if there is none yet. Borrowed. */
enum rc nodes_engine_key(struct nodes *t, const char **key, const char **file, struct error *e) SPW_MUST_USE;
/* What a node has, for those who plan. Takes the lock. */
struct node_load {
    enum node_state state;
    bool draining, leaving, resting, fresh; /* fresh: its state is of a probe, not of its beginning */
    int in_flight, slots;
    int64_t idle_ns; /* 0 with work */
    int64_t kv_tokens;
};
struct node_load node_load(struct node *n);

int nodes_count(const struct nodes *t); /* of places, free ones too; it only grows */
bool node_is_there(const struct node *n);
struct node *nodes_at(const struct nodes *t, int index);
struct node *nodes_find(const struct nodes *t, const char *name);
bool nodes_any_ready(const struct nodes *t);
bool nodes_any_starting(const struct nodes *t);
bool node_serves(const struct node *n, const char *model);
void node_set_drain(struct node *n, bool draining);
/* A pool of connections to where the node is now, for `loop`; *generation says which place that is. RC_AGAIN: it is
 * nowhere at the moment. */
enum rc node_client_new(struct node *n, struct event_base *loop, struct http_client **c, unsigned *generation,
                        struct error *e) SPW_MUST_USE;

/* What a request needs of a node. */
struct nodes_need {
    const char *model;
    uint64_t tried;                      /* bit i: node i has failed for this request, or lacks what it asks for */
    const void *who;                     /* whom a node may be kept for */
    bool said;                           /* something has been said: the node must go on from there... */
    bool by_ids, by_text;                /* ... and this is known of it */
    const char *numerics;                /* the class of what has been said */
    const struct request_prefix *prefix; /* who holds the prompt's beginning */
    bool same_class;                     /* it was said as another model: ids of another class would mean nothing */
    int64_t now_us;
    const struct record_who *whom; /* for the record, where there is one: nodes_records() */
};
/* What routing asks of the router for a request; filled by those below, and good until the lock is given back. */
struct nodes_asked {
    struct router_ask ask;
    struct router_holder holders[PREFIX_HOLDERS_MAX];
    int32_t skip[SHORTLIST_SKIP_MAX];
};
/* What nodes_choose_locked() sees. Best suited to go on is a node of the same numerics class, then one of another
 * class, then one that goes on by text. Returns the count. */
int nodes_snapshot_locked(struct nodes *t, const struct nodes_need *need, const struct route_request *q,
                          struct nodes_asked *asked, struct route_candidate out[ROUTE_CANDIDATES_MAX]);

/* ---- known.c: what routing knows of the nodes (policies/router.h) ------------------------------------------------ */

#define NODES_PAIRS_MAX 512 /* of node and model, that something is learned of: some 400 KiB once they are there */
struct knowledge {          /* under the lock */
    struct router *router;
    uint64_t changed;                   /* bit per node of which it does not know the latest */
    char *models[SHORTLIST_MODELS_MAX]; /* owned: names by id, in the order in which they came */
    int n_models;
    int64_t tariff_due_us;     /* when to look at the tariff again */
    bool has_memory;           /* of some node it is known how much its KV cache holds */
    struct recorder *recorder; /* NULL: nothing is recorded */
};
struct knowledge *nodes_known(const struct nodes *t);
enum rc known_new(struct knowledge *k, const struct nodes_options *o, struct error *e) SPW_MUST_USE;
void known_fini(struct knowledge *k);
/* What routing is told of a node that is configured like this; model() gives its models their ids. */
void node_facts(const struct config_node *c, int (*model)(void *arg, const char *name), void *arg,
                struct router_facts *out);
/* Something that routing looks at: its state, holds or specification. Its load is known already. */
void node_changed_locked(struct node *n);
/* The nodes that are worth a look for q, of all that serve the model and have not failed for it: their indexes, and
 * what routing sees of each. Returns the count. */
int nodes_list_locked(struct nodes *t, const struct nodes_need *need, const struct route_request *q,
                      struct nodes_asked *asked, int32_t listed[SHORTLIST_MAX],
                      struct route_candidate out[SHORTLIST_MAX]);
/* Between these, of either; listed is NULL where all were looked at. */
void nodes_choose_locked(struct nodes *t, const struct nodes_asked *asked, const int32_t *listed,
                         const struct route_candidate *c, int n, struct route_decision *d);
/* It is like `other`, which has been there for longer: it begins with what was learned there. */
void node_like_locked(struct node *n, const struct node *other);
/* A request has a slot there, and is going to be sent; then its first token came so long after it was; then it is over:
 * tpot_us, ttft_us <= 0: nothing can be said. The leg is the caller's. */
void node_sent_locked(struct node *n, const char *model, const struct router_work *w, struct router_leg *leg);
void node_heard_locked(struct node *n, struct router_leg *leg, double ttft_us);
void node_left_locked(struct node *n, struct router_leg *leg, double tpot_us);
/* Could a request wait for the memory of a node, and not for a slot? */
bool nodes_have_memory_locked(const struct nodes *t);
/* Or for one that sleeps or is to run empty? */
bool nodes_any_rests_locked(const struct nodes *t);
bool nodes_records(const struct nodes *t);                    /* any thread; never changes */
struct recorder_stats nodes_recording(const struct nodes *t); /* any thread */
/* Would most requests like this break that promise there, by what was learned of it? Nothing learned yet: no. Takes the
 * lock. */
struct node_promise {
    const char *model;
    int64_t prompt, output;   /* tokens */
    double first_us, tpot_us; /* 0: not promised */
    double probability;       /* of the first token in time */
};
bool node_is_late(struct node *n, const struct node_promise *p);
/* How good its predictions are: of the model that it has said most of. */
struct node_foresight {
    uint64_t ttft_seen, tpot_seen;
    double ttft_off, tpot_off; /* predict_miscalibration() */
};
struct node_foresight node_foresight_locked(const struct node *n);

/* A leg failed on it. NODE_FAULT_CONNECT takes it out of service at once, until a probe that was asked after it is
 * good: true for the leg that did so, of all that break off together. NODE_FAULT_AWAY: it says itself that it takes
 * nothing now; out of service likewise, but no failure. Any loop. */
enum node_fault { NODE_FAULT_CONNECT, NODE_FAULT_ANSWER, NODE_FAULT_AWAY };
bool node_failed(struct node *n, enum node_fault fault, const char *reason);

/* ---- holds.c: breakers, cool-downs and the budget of retries ---------------------------------------------------- */

/* How a leg ended, as far as that says something about the node. */
struct leg_word {
    enum breaker_outcome outcome;
    const char *reason; /* BREAKER_FAILED: static or the caller's; else NULL */
    bool cool;          /* the node wants to be left alone... */
    int64_t cool_us;    /* ...for so long; 0: it does not say */
};
struct breaker_leg node_begin_locked(struct node *n);
/* True: node_tell() has something to say once the lock is free. */
bool node_end_locked(struct node *n, const struct breaker_leg *leg, const struct leg_word *word);
/* Its first token came after took_us. Locked; the rest as above. Others may be placed there afterwards. */
bool node_spoke_locked(struct node *n, struct breaker_leg *leg, int64_t took_us);
/* Log what has changed, once, and see to it that a hold that ends by itself is noticed. Any loop, without the lock. */
void node_tell(struct node *n);
/* What holds it now, and (if wait_us is not NULL) for how long still; 0: it hangs on the request that tries it. */
enum node_hold node_hold_locked(const struct node *n, int64_t *wait_us);
void node_hold_text_locked(const struct node *n, char *text, size_t size); /* for people; "" when nothing holds it */
/* Another process is there now. */
void node_forget_locked(struct node *n);
/* It says that it has no such endpoint (not every server makes embeddings): for a minute it is asked only where nobody
 * else serves the model. Takes the lock. */
void node_lacks(struct node *n, enum request_kind kind);
void node_has_locked(struct node *n, enum request_kind kind); /* after all: it has answered */
/* Bit i: node i lacks the endpoint, and others that serve the model may have it. */
uint64_t nodes_lacking_locked(struct nodes *t, enum request_kind kind, const char *model);
void retry_count_request_locked(struct nodes *t);
bool retry_take(struct nodes *t); /* takes the lock */
int64_t nodes_now_us(const struct nodes *t);

/* ---- site.c: the site's limit in watts (policies/power.h) -------------------------------------------------------- */

struct nodes_watts {    /* under the lock */
    int64_t cap_mw;     /* 0: none */
    int64_t base_mw;    /* drawn beside the nodes */
    int64_t ceiling_mw; /* when the limit was set last, which is every second */
};
struct nodes_watts *nodes_site(const struct nodes *t);
void nodes_limit_watts(struct nodes *t, int64_t cap_mw, int64_t base_mw); /* takes the lock */
/* All that may be drawn: what serves by its requests, what the ladder moves by its claim, and the base. */
int64_t nodes_ceiling_mw_locked(const struct nodes *t);
/* From now on it may draw so much, whatever its load (-1: what its load says). wakes: false, and nothing has changed,
 * if that could break the limit. Takes the lock. */
bool node_claim_watts(struct node *n, int64_t mw, bool wakes);
/* May it be given one more request? Of `rest` the node's own part is filled in. */
enum power_verdict node_admit_locked(const struct node *n, int64_t ceiling_mw, const struct power_ask *rest);

/* ---- between nodes.c, health.c and holds.c ---------------------------------------------------------------------------- */

/* Any loop. */
void node_enter(struct node *n, enum node_state state, const char *reason);
enum node_state node_state_now(const struct node *n);
/* A probe that was asked under so many doubts was good: into `state`, unless a request has met worse since (false). */
bool node_probed_well(struct node *n, enum node_state state, unsigned doubts) SPW_MUST_USE;
unsigned node_doubts_now(const struct node *n);
const struct nodes_options *nodes_options(const struct nodes *t);
struct holds { /* of the whole table, under the lock */
    struct breaker_spec breaker;
    struct retry_spec retry;
    struct retry_budget budget;
    uint64_t random;                 /* state of a generator; never 0 */
    uint64_t lacking[REQUEST_KINDS]; /* bit per node that has lacked the endpoint, and may again have it */
};
struct holds *nodes_holds(const struct nodes *t);
void holds_configure(struct holds *h, const struct config *c);
void node_hold_stop(struct node *n);
/* ---- between nodes.c and changes.c ------------------------------------------------------------------------------- */

struct changes {                                     /* of the table, by reloads */
    struct node_spec *pending[ROUTE_CANDIDATES_MAX]; /* not started yet; references */
    int n_pending;
    struct event *sweep; /* while nodes leave or wait to be started */
};
struct changes *nodes_changes(struct nodes *t);
void changes_soon(struct nodes *t);                        /* somebody leaves */
int changes_find_place(struct nodes *t, const char *name); /* -1: none at the moment */
void changes_stop(struct nodes *t);
enum rc node_spec_make(struct nodes *t, const struct config *owner, const struct config_node *c, struct node_spec **out,
                       struct error *e) SPW_MUST_USE;
void node_take_place(struct nodes *t, int index, struct node_spec *spec); /* the reference goes over; not yet started */
enum rc node_start(struct node *n, struct error *e) SPW_MUST_USE;
void node_disconnect(struct node *n);
enum rc node_connect(struct node *n, const char *url, struct error *e) SPW_MUST_USE;
struct config_node *config_node_copy(const struct config_node *c); /* with texts of its own, as node_spec.own */
struct node_spec *node_spec_copy(const struct node_spec *s);       /* a copy of its own */
struct node_spec *node_spec_with_key(const struct node_spec *s, const char *node_key); /* ... with this key */
struct price_book {
    struct node_price *list;
    int n;
};
struct price_book *nodes_price_book(struct nodes *t);
/* The same, or in its place (the reference goes over) a copy with finance's prices. */
struct node_spec *node_spec_priced(struct nodes *t, struct node_spec *s);
/* Ends its engine; RC_NOT_FOUND: there is none. done(..., n) when it is gone. */
enum rc node_end_engine(struct node *n, provider_done_cb *done) SPW_MUST_USE;
void nodes_set_config(struct nodes *t, const struct config *c); /* under the lock */
void node_clear_place(struct node *n);                          /* its memory goes */
void health_start(struct node *n);                              /* the first probe, at once; n has a client */
void health_stop(struct node *n);                               /* cancels what runs */
void health_probe_soon(struct node *n);                         /* an interval is too long to wait */

#endif
