/* What routing knows of every node, kept while requests come and go: the one object between "this happened" and
 * "this is what each candidate would mean for that request". The daemon and the simulator feed it the same events and
 * compose the same decision:
 *
 *   router_list()       the few nodes that are worth a look (shortlist.h)
 *   router_candidate()  for each: load, prediction (predict.h), marginal money and energy (marginal.h), risk
 *   ...                 the caller adds what only it knows of the pair: tried, kept, unfit, its breaker's word
 *   router_choose()     decides (route.h)
 *   router_sent(), router_spoke(), router_ended()  what becomes of it, from which the next prediction is made
 *
 * What is learned is kept by (node, model), for as many pairs as there is room; beyond that a node is predicted by what
 * it was when it came, and router_stats counts it.
 *
 * Whatever it is told and asked can be listened to (router_tap()), and told again: router_event.h.
 *
 * All memory is taken in router_new(). No clock, no I/O, no globals; deterministic: the same calls give the same
 * answers. Not locked: the caller's lock, or one thread. Node ids are the caller's, 0..nodes-1; model ids are the
 * shortlist's. */
#ifndef POLICIES_ROUTER_H
#define POLICIES_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "policies/marginal.h"
#include "policies/route.h"
#include "policies/shortlist.h"

#define ROUTER_SITES_MAX 64
#define ROUTER_LATE_US   1e12 /* the first token of a request that would wait inside the node for somebody to end */

struct router;

struct router_size {
    int32_t nodes, pairs; /* pairs: of node and model that something is learned of */
    double probability;   /* that SLOs ask for, mostly: what the index takes for granted; 0: 0.99 */
};
/* RC_INVALID: nodes is not within what shortlist_new() takes, pairs is negative. */
enum rc router_new(struct router **r, const struct router_size *size, struct error *e) SPW_MUST_USE;
void router_free(struct router *r); /* NULL is fine */

/* ---- what a node is ---------------------------------------------------------------------------------------------- */

struct router_facts {
    struct shortlist_kind kind;     /* its models; on the premises? */
    int32_t slots;                  /* requests that it may be sent at once; 0: unbounded */
    int32_t sequences;              /* that it computes at once, more wait inside; 0: as many as come */
    int32_t chunk;                  /* prompt tokens in a step; 0: unknown */
    int64_t kv_tokens;              /* its cache's room; 0: unknown */
    const struct node_curve *curve; /* copied; NULL: unknown, it will be learned */
    double log_sd;                  /* of times around the curve; 0: predict.h's */
    double losses_per_hour;         /* of its failure domain */
    int32_t site;                   /* whose tariff it pays, 0..ROUTER_SITES_MAX-1 */
    struct marginal_facts money;
};
/* It is there (anew), or is what it was and its facts have changed: what is in flight and what was learned stays,
 * unless the curve is another. A new one is SHORTLIST_DOWN until router_state() says else. */
void router_put(struct router *r, int32_t node, const struct router_facts *f);
/* It is gone; what is in flight there ends without a word. One that is not there: nothing happens. */
void router_drop(struct router *r, int32_t node);
bool router_has(const struct router *r, int32_t node);
/* Another process of the same kind has its place: what was learned of the old one is forgotten. */
void router_forget(struct router *r, int32_t node);
/* They are of one kind, and `other` is known: node begins with what was learned there. */
void router_like(struct router *r, int32_t node, int32_t other);
/* `state` but for FULL, which the router knows itself. Asleep: what waking it takes; else 0. */
struct router_state {
    enum shortlist_state state;
    int64_t wake_us, wake_mj;
};
void router_state(struct router *r, int32_t node, const struct router_state *s);
/* The tariff changed, micro-dollars per kWh. All nodes of the site are looked at. */
void router_tariff(struct router *r, int32_t site, int64_t uusd_per_kwh);
/* Of rented nodes of this model, those that run are full (or not any more): one more request would make it one more node. */
void router_growing(struct router *r, int model, bool growing);

/* ---- what happens ------------------------------------------------------------------------------------------------ */

struct router_work {
    int model;
    int64_t prompt, cached; /* tokens; cached: held by the node, as far as is known */
    int64_t output;         /* expected */
    /* KV tokens that it is reckoned with while it runs; 0: prompt and output. Those that are there at a time are longer
     * than the mean of those that come, since long ones are there for longer: whoever knows by how much says so. */
    int64_t held;
};
/* A request on a node: the caller keeps it from sent to ended. */
struct router_leg {
    int32_t node;    /* -1: none */
    uint32_t life;   /* of the node: what is said of an earlier one is not heard */
    int32_t others;  /* the load that it met */
    uint32_t number; /* counts what was sent, from 1 */
    int64_t prompt, cached, queued;
    int64_t held; /* KV tokens that it is reckoned with */
    int16_t model;
    bool spoke;
};
void router_sent(struct router *r, int32_t node, const struct router_work *w, struct router_leg *leg);
/* Its first token came so long after it was sent; <= 0: it came, but its time says nothing. Once; later calls are nothing. */
void router_spoke(struct router *r, struct router_leg *leg, double ttft_us);
/* It has ended, in whatever way. tpot_us: the mean time per output token after the first; <= 0: unknown. The leg is
 * none then. */
void router_ended(struct router *r, struct router_leg *leg, double tpot_us);
int32_t router_in_flight(const struct router *r, int32_t node);

/* ---- what it would mean ------------------------------------------------------------------------------------------- */

struct router_ask {
    int model;
    const struct route_request *request;
    /* Who holds so many tokens of the prompt; they are listed first. */
    const struct router_holder {
        int32_t node;
        int64_t tokens;
    } * holders;
    int n_holders;       /* at most SHORTLIST_HINTS_MAX */
    const int32_t *skip; /* that have failed, n_skip <= SHORTLIST_SKIP_MAX of them: not to be listed */
    int n_skip;
    int64_t held; /* KV tokens it will need while it runs; 0: prompt and expected output */
};
/* The nodes that are worth a look, at most SHORTLIST_MAX. Not const: it first learns what has changed. */
int router_list(struct router *r, const struct router_ask *a, int32_t out[SHORTLIST_MAX]);
/* All that is known of the pair. Left alone, as their caller knows them, and false or 0 here: draining, tried, unfit,
 * kept, broken, cooling, back_us, rank. healthy: it is there and neither down nor leaving nor held. */
void router_candidate(const struct router *r, const struct router_ask *a, int32_t node, struct route_candidate *out);
/* route_choose() between candidates c[0..n-1], which are nodes[0..n-1], or nodes 0..n-1 where `nodes` is NULL. */
void router_choose(const struct router *r, const struct router_ask *a, const int32_t *nodes,
                   const struct route_candidate *c, int32_t n, struct route_decision *d);

/* ---- what was learned --------------------------------------------------------------------------------------------- */

/* Of the pair; NULL: nothing yet. */
const struct predictor *router_learned(const struct router *r, int32_t node, int model);
/* Each model of which something was observed on the node. */
void router_each_model(const struct router *r, int32_t node,
                       void (*each)(int model, const struct predictor *p, void *arg), void *arg);
struct router_stats {
    int32_t pairs, pairs_max;
    uint64_t unlearned; /* observations that no place was left for */
};
struct router_stats router_stats(const struct router *r);
/* For its own tests and explanations. */
const struct shortlist *router_shortlist(const struct router *r);

/* ---- who listens -------------------------------------------------------------------------------------------------- */

struct router_event; /* router_event.h */
typedef void router_tap_fn(void *arg, const struct router_event *e);
/* From now on tap is told of every call above that changes something, and of every decision; NULL: nobody is. What an
 * event points at is there until tap returns. It may not call the router. */
void router_tap(struct router *r, router_tap_fn *tap, void *arg);

#endif
