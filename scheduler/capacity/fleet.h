/* The fleet: what pools have launched, and the sleep of all engines of ours. It gathers what policies/scale.h and
 * policies/power.h want to know, asks them every few seconds and at once when somebody waits, a node is lost or the
 * fleet is
 * full, and carries out what they say: through providers, the node table and the engines' own HTTP.
 *
 *   demand (front) --> forecast --> scale_plan()  --> guard --> journal --> provider->launch() --> nodes_add()
 *                            \--> power_plan() --> POST /sleep, /wake_up; provider->power()
 *   provider->list(), health checks, deadlines --> life.h --> node table, journal, provider->terminate()
 *
 * Nothing else launches anything. Lane 0's loop only; nothing blocks but fleet_new(), which reads the journal. */
#ifndef SCHEDULER_CAPACITY_FLEET_H
#define SCHEDULER_CAPACITY_FLEET_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/log.h"
#include "policies/progress.h"
#include "providers/provider.h"
#include "scheduler/capacity/guard.h"
#include "scheduler/capacity/journal.h"
#include "scheduler/capacity/life.h"
#include "scheduler/config/config.h"
#include "scheduler/nodes/nodes.h"

struct fleet;

/* Of one model, as its requests are counted by the front. Counts go up since the start. */
struct fleet_demand {
    int64_t requests, input;        /* that came and needed a node; their prompts' tokens, estimated */
    int64_t batch;                  /* of those requests, batch work */
    int64_t answered;               /* whose tokens and times are known: */
    int64_t prompt, cached, output; /* tokens */
    double prompt_sq;               /* sum of squares of the prompts' tokens */
    int64_t hold_us;                /* from the slot to the end */
    int64_t in_time, late;          /* interactive ones, by the SLO */
    int waiting, waiting_batch;     /* now, in the room */
    int batch_in_flight;            /* now, on machines */
};

enum fleet_comes {
    FLEET_NOTHING_COMES,
    FLEET_COMES, /* one can be woken or launched */
    FLEET_HOLDS, /* the same, and an API is not asked meanwhile */
};

/* What batch requests may do that wait for a node, until the next word. */
struct fleet_pace {
    bool goes;         /* take any place on machines; else those alone that leave a part of all places free */
    bool holds;        /* cheaper hours suffice: wake nobody, however long they have waited */
    int64_t urgent_us; /* who leaves the room by then (monotonic) goes wherever he can, to an API, too; 0: nobody */
};

struct fleet_options { /* all borrowed */
    struct event_base *loop;
    const struct config *config;
    const struct log *log;
    const struct clock *clock;
    struct nodes *nodes;
    /* False: nobody has asked for the model yet. */
    bool (*demand)(const char *model, struct fleet_demand *d, void *arg);
    /* May requests for the model wait for a node that is not there? */
    void (*comes)(const char *model, enum fleet_comes comes, void *arg);
    /* Batch requests that wait for the model are added to rows; when one of them was begun last (monotonic; 0: none was). */
    int64_t (*batch)(const char *model, struct progress_rows *rows, void *arg);
    void (*pace)(const char *model, const struct fleet_pace *p, void *arg);
    void *arg;
};
enum rc fleet_new(struct fleet **f, const struct fleet_options *o, struct error *e) SPW_MUST_USE;
/* The scheduler drains: nothing is planned any more, what is there finishes. NULL is fine. */
void fleet_pause(struct fleet *f);
/* No more is launched; what cannot live without us is ended, what can is left for the next scheduler. done(arg) once,
 * on the loop. */
void fleet_stop(struct fleet *f, int64_t grace_ms, void (*done)(void *arg), void *arg);
void fleet_free(struct fleet *f); /* NULL is fine */
/* A reload: pools that are gone are drained, limits hold from now on. Providers that are new are opened; one whose
 * settings changed needs a restart, and *e says so. */
enum rc fleet_take(struct fleet *f, const struct config *c, struct error *e) SPW_MUST_USE;

/* ---- orders of an operator: RC_NOT_FOUND, RC_INVALID, RC_CONFLICT, RC_FULL (a limit), with a text ---------------- */

/* What an operator launches or takes over stays until he drains it: plans count on it, and leave it alone. */
enum rc fleet_launch(struct fleet *f, const char *pool, int n, struct error *e) SPW_MUST_USE;
enum rc fleet_drain(struct fleet *f, const char *name, struct error *e) SPW_MUST_USE; /* then it is ended */
enum rc fleet_undrain(struct fleet *f, const char *name, struct error *e) SPW_MUST_USE;
enum rc fleet_terminate(struct fleet *f, const char *name, struct error *e) SPW_MUST_USE; /* at once */
/* An instance that is there already and is to belong to a pool: by the provider's id. */
enum rc fleet_adopt(struct fleet *f, const char *pool, const char *id, struct error *e) SPW_MUST_USE;
enum rc fleet_sleep(struct fleet *f, const char *name,
                    struct error *e) SPW_MUST_USE; /* and stays so until it is woken */
enum rc fleet_wake(struct fleet *f, const char *name, struct error *e) SPW_MUST_USE;
/* ---- with scheduler/join, which lets launched engines in: whoever puts both together passes its calls on --------- */

#define FLEET_JOIN_TOKEN_MAX 256
struct fleet_join {
    const char *url; /* where engines join; borrowed */
    /* A token that lets the node in once, for a while; FLEET_JOIN_TOKEN_MAX bytes. */
    enum rc (*token)(const char *name, char *token, struct error *e, void *arg);
    void (*ended)(const char *name, void *arg); /* its certificates are worth nothing from now on */
    void *arg;
};
/* From now on machines of clouds get a token, and are in the node table once they have joined. */
void fleet_set_join(struct fleet *f, const struct fleet_join *j);
/* Of one that joined: where it is. RC_NOT_FOUND: the fleet knows none of that name. */
enum rc fleet_joined(struct fleet *f, const char *name, const struct node_place_at *at, struct error *e) SPW_MUST_USE;
/* It is about to be taken away: it is drained, and what still runs shortly before its end is moved. left_ms < 0: maybe,
 * nobody knows when: it has as long as any drain. */
enum rc fleet_notice(struct fleet *f, const char *name, const char *what, int64_t left_ms,
                     struct error *e) SPW_MUST_USE;

/* ---- seen from outside: borrowed for the call ------------------------------------------------------------------------- */

struct fleet_view {
    const char *name, *pool, *provider, *id, *offer, *reason; /* "": not known */
    enum life_state life;
    int64_t since_ms; /* in this state */
    int64_t launched_s;
    struct pusd price_hour;
    bool rented, pinned;
};
void fleet_each(const struct fleet *f, void (*each)(const struct fleet_view *v, void *arg), void *arg);
bool fleet_get(const struct fleet *f, const char *name, struct fleet_view *v);

struct fleet_plan_view { /* of one model's last plan */
    const char *model;
    double need, need_now, ready, coming, uncovered; /* tokens per second */
    double not_worth;  /* of need: no node is held for it, it would cost more than the SLO's promise is worth */
    double miss_price; /* dollars per token that is late; 0: nothing is promised */
    struct pusd hour;
    bool by_budget, by_nodes;
};
void fleet_plans(const struct fleet *f, void (*each)(const struct fleet_plan_view *v, void *arg), void *arg);

struct fleet_pool_view {
    const char *name;
    double losses_per_hour; /* of one spot node, as it was learned */
};
void fleet_pools(const struct fleet *f, void (*each)(const struct fleet_pool_view *v, void *arg), void *arg);

struct fleet_stats {
    uint64_t launches, launched, failures[PROVIDER_FAILURES], refused[GUARD_VERDICTS];
    uint64_t ended, deadlines, strays, lost, sleeps, wakes, sweeps, sweep_failures, orphans;
    int nodes;
    struct pusd hour;
    struct journal_stats journal;
};
void fleet_stats(const struct fleet *f, struct fleet_stats *s);
/* What was paid for what this fleet launched, since from_s. */
void fleet_bill(struct fleet *f, int64_t from_s, int64_t until_s, journal_bill_cb *done, void *arg);

struct fleet_source_view { /* a provider that is open */
    const char *name, *type;
    unsigned caps;
    const char *last_error; /* "": the last call worked */
};
void fleet_sources(const struct fleet *f, void (*each)(const struct fleet_source_view *v, void *arg), void *arg);
/* RC_NOT_FOUND, RC_UNSUPPORTED: there is nothing to check. Else each() for every thing looked at, and done(). */
enum rc fleet_check(struct fleet *f, const char *source, provider_check_cb *each, provider_done_cb *done, void *arg,
                    struct error *e) SPW_MUST_USE;

#endif
