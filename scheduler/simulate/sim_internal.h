/* What the simulator's files share. sim.c has the clock, sim_serve.c the requests' way, sim_fleet.c the nodes' life and
 * the
 * bills, sim_plan.c autoscaling and power, sim_route.c the candidates and their price. */
#ifndef SCHEDULER_SIMULATE_SIM_INTERNAL_H
#define SCHEDULER_SIMULATE_SIM_INTERNAL_H

#include "base/heap.h"
#include "policies/capacity.h"
#include "policies/forecast.h"
#include "policies/prefix.h"
#include "policies/progress.h"
#include "policies/router.h"
#include "policies/slack.h"
#include "scheduler/simulate/event_queue.h"
#include "scheduler/simulate/node_model.h"
#include "scheduler/simulate/sim.h"
#include "scheduler/simulate/trace.h"

#define SIM_US_PER_S    INT64_C(1000000)
#define SIM_US_PER_HOUR INT64_C(3600000000)

/* --- randomness ------------------------------------------------------------------------------------------------------
 * */

static inline uint64_t sim_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u); /* splitmix64: Steele, Lea, Flood 2014 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline double sim_random_unit(uint64_t *state) /* (0, 1) */
{
    return ((double)(sim_random(state) >> 11) + 0.5) / 9007199254740992.0;
}

/* --- requests -------------------------------------------------------------------------------------------------------
 * */

struct sim_live {            /* one that has come and has not ended */
    int64_t at_us, first_us; /* came; first token at the client; -1: not yet */
    int64_t due_us;          /* batch: its deadline; INT64_MAX: none */
    int32_t prompt, cached, output, said;
    int32_t node;   /* -1: waits */
    int32_t waiter; /* -1: does not wait */
    uint32_t team;
    uint16_t model, asked; /* that serves it; that it came for, under which it is counted */
    uint8_t class;
    bool charged;                     /* taken from its budgets */
    bool downgraded;                  /* by a budget: once */
    bool as_batch;                    /* a budget says so */
    bool local_only, measured, moved; /* moved: interrupted at least once */
    int64_t enter_us;                 /* the room */
    struct router_leg leg;            /* on its node */
    int64_t sent_us, spoke_us;        /* this leg; -1: no token yet */
    int32_t next_free;
};
struct sim_waiter {
    struct waiter w;
    struct heap_place by_until;
    int32_t live, self;
};
#define SIM_WAITER_CHUNK 1024
static inline struct sim_waiter *sim_waiter_of(const struct waiter *w)
{
    return (struct sim_waiter *)(void *)((char *)(uintptr_t)w - offsetof(struct sim_waiter, w));
}

static inline struct sim_waiter *sim_waiter_until(const struct heap_place *p)
{
    return (struct sim_waiter *)(void *)((char *)(uintptr_t)p - offsetof(struct sim_waiter, by_until));
}

/* --- nodes
 * ------------------------------------------------------------------------------------------------------------ */

enum sim_state {
    SIM_GONE,
    SIM_ASLEEP,
    SIM_WAKING,
    SIM_BOOTING,
    SIM_READY,
    SIM_DRAINING,
    SIM_FALLING_ASLEEP, /* on its way down */
    SIM_REPAIR,
};
struct sim_node {
    struct node_model m;
    int64_t life_us;  /* when the state under way ends; EVENT_NEVER */
    int64_t fails_us; /* EVENT_NEVER: it does not */
    int32_t offer, slots;
    int32_t free, counted; /* slots in the model's sums: free ones, all */
    enum sim_state state;
    bool leaving;      /* the market takes it back, at life_us */
    bool accepts;      /* gets new work; ready or draining nodes alone */
    int32_t accept_at; /* its place among those of its offer that accept */
    int32_t heap_cap;
    int64_t launched_us, billed_us, drain_us, idle_us, empties_us; /* idle, and without new work: since when */
    int64_t awake_us;                                              /* since when it counts as alive; -1: it does not */
    double flushed_mj;                                             /* of m.mj, already in the bill */
    enum power_state asleep_in, from;                              /* falling asleep: from this level */
    bool eco;
    int64_t ceiling_mw; /* counted in the site's */
};

struct sim_offer_state {
    int32_t alive, booting, asleep, broken; /* broken: in repair. alive: all but asleep, broken */
    int32_t leaving;
    int32_t available;           /* now; INT32_MAX: no series */
    double capacity;             /* of one node: tokens/s at the SLO, as last reckoned */
    double told_share;           /* price / capacity, as routing was told last */
    int32_t slots;               /* of one node */
    int32_t batch_in_flight;     /* batch requests on its nodes */
    double concurrency;          /* of one node: requests being served at the SLO at its capacity */
    struct pusd price;           /* per hour, now */
    struct marginal_rates rates; /* energy of one more token on a node that is awake */
    int32_t known;               /* the node that an answer ended on last; -1: none */
    int64_t launchable_since_us; /* -1: not now */
    /* Nodes that accept. */
    int32_t *accepting; /* owned */
    int32_t n_accepting, cap_accepting;
    __int128 rent; /* pico-dollars x microseconds / hour */
    __int128 purchase;
    double mj; /* since the tariff was last applied */
    double mj_total;
    int64_t node_us, wait_us;
    struct sim_bill bill;
};

struct sim_budget_state {
    struct budget_state state;
    int64_t end_s; /* of the period */
    bool told_soft, told_hard;
    struct sim_budget_result *out;
};

/* --- models ---------------------------------------------------------------------------------------------------------
 * */

struct sim_model_state {
    struct waiting room;
    struct heap until;     /* of its waiters */
    int32_t free_slots[2]; /* anywhere; on the premises */
    struct forecast forecast;
    struct forecast busy;     /* slots: fed with the time that each request holds one; kept where a site is powered */
    struct forecast busy_now; /* the same of interactive ones alone */
    double hold_s;            /* that time, in the mean of late; a guess while n_held is 0 */
    int64_t n_held, came_us;  /* answers that it is the mean of; the last request */
    int64_t came_now_us;      /* the last interactive one */
    struct scale_memory memory;
    int64_t in_time, late; /* first tokens of interactive requests, by the SLO for them */
    /* Running means (of the last ~1000 requests), as the daemon's estimates would be. */
    double prompt, cached, output, prompt_sq, held; /* held: mean of output * (prompt + output) */
    int64_t n_seen;
    int32_t ready; /* nodes */
    int32_t offers[SCALE_OFFERS_MAX], n_offers;
    int32_t apis[SIM_APIS_MAX], n_apis;
    double capacity[SCALE_OFFERS_MAX]; /* tokens/s at the SLO of one node of offers[i] */
    double demand_now, demand_mean;
    struct progress_state progress;
    int64_t planned_us;      /* last */
    bool batch_goes;         /* on what is being, or was, launched for it: batch may fill every slot */
    bool batch_holds;        /* cheaper hours suffice for it: nobody is woken, or kept awake, for it */
    int64_t batch_urgent_us; /* what leaves by then must run now: it may go to an API, too; 0: nothing */
    int64_t batch_begun_us;  /* when one of it was begun last */
    bool serving;            /* waiters are being served: no recursion */
    struct slack slack;      /* of the SLO: what came of the last interactive requests */
    bool growing;            /* hardly a slot is free: one more request would make it one more machine */
    int32_t slots;           /* of all nodes that accept */
    struct sim_model_result *out;
};

struct sim {
    const struct sim_scenario *s;
    const struct sim_source *source;
    const struct sim_options *options; /* NULL: nobody asks for anything */
    int64_t now_us;
    uint64_t random;
    struct event_queue queue;
    /* First of each kind of source. */
    int32_t at_rooms, at_plans, at_offers, at_sites, at_power, at_samples, at_money, n_sources;

    struct node_spec *specs, *eco_specs; /* by type; owned, with mw and step_us */
    struct sim_node *nodes;              /* owned: nodes_max */
    int32_t nodes_max, n_nodes, n_alive; /* n_nodes: one past the highest that was ever used */
    int32_t *free_nodes, n_free_nodes;   /* owned */
    struct sim_offer_state *offers;      /* owned */
    struct sim_model_state *models;      /* owned */
    struct sim_budget_state *budgets;    /* owned */
    struct heap broke;                   /* waiters for the next period of a budget, by the time at which it is */
    struct sim_bill *api_bills;          /* in the result */

    struct sim_live *live; /* owned; parallel to jobs */
    struct node_job *jobs; /* owned */
    int32_t live_cap, live_free, n_live, n_waiting;

    struct sim_waiter **waiters; /* owned chunks */
    int32_t n_chunks, waiter_free, n_waiters;
    int32_t *waiter_next; /* owned; free list */

    double *usage;                 /* owned: [bill][team_cap]: what a team used of what the bill is for */
    struct sim_team_result *teams; /* owned: team_cap */
    char (*team_names)[16];        /* owned: team_cap; for the waiting rooms */
    uint32_t team_cap, n_teams;
    char (**old_names)[16]; /* owned */
    int32_t n_old_names;

    struct scale_plan *plan; /* owned workspace */
    struct scale_work *work;
    struct scale_node *plan_nodes;
    int32_t *plan_index;
    struct scale_offer *plan_offers;
    struct power_node *power_nodes;
    struct power_choice *power_choices;
    int32_t *power_order, *power_index;

    int64_t sample_us; /* between samples */
    struct sim_result *r;
    uint64_t turn;             /* round robin */
    struct router *router;     /* owned */
    struct prefix_map *prefix; /* owned; NULL: no prompt had blocks */
    bool prefix_tried;
    const uint64_t *blocks; /* of the request that is being placed; NULL: none, or not known any more */
    int32_t n_blocks;
    int64_t site_uusd[SIM_SITES_MAX]; /* per kWh, now */
    int64_t site_ceiling_mw[SIM_SITES_MAX], power_last_us[SIM_SITES_MAX], power_next_us[SIM_SITES_MAX];
    int64_t power_tick_us;
    struct power_group *power_groups; /* owned: [site][model] */
    bool site_known, powered;         /* powered: some site is */
    struct error *e;
};

/* sim_serve.c */
void sim_arrive(struct sim *x, const struct sim_request *r);
void sim_node_event(struct sim *x, int32_t node); /* of its model: tokens */
void sim_drop_all(struct sim *x, int32_t node);   /* it dies: its requests go elsewhere */
void sim_serve_waiting(struct sim *x, int32_t model);
void sim_expire(struct sim *x, int32_t model); /* waiters whose time is over */
#define SIM_BATCH_LEAVES 0.25
bool sim_batch_may(const struct sim_model_state *m, int64_t until_us); /* start one more of batch, that leaves then */
int64_t sim_batch_until_us(const struct sim *x, const struct sim_live *l);
void sim_serve_init(struct sim *x);
void sim_serve_fini(struct sim *x);

void sim_money_event(struct sim *x); /* a period begins for which somebody waits */

/* When its first token is asked for at the latest: microseconds after it came; INFINITY: there is no promise. */
double sim_first_limit_us(const struct sim_slo *s, int32_t prompt);
static inline double sim_asked(const struct sim_slo *s)
{
    return s->probability > 0 ? s->probability : 0.99;
}

/* sim_budget.c */
enum sim_budget_verdict {
    SIM_BUDGET_OK,
    SIM_BUDGET_LOCAL,     /* not here, but own machines may */
    SIM_BUDGET_DOWNGRADE, /* another model may */
    SIM_BUDGET_QUEUE,     /* in the next period */
    SIM_BUDGET_REFUSED
};
/* Actions of the budgets whose soft limit is reached. *model: of DOWNGRADE; else -1. */
unsigned sim_budget_soft(struct sim *x, const struct sim_live *l, int32_t *model);
/* Take what it comes to at these prices from all; its answer may become shorter. local: by an own machine. *by: the
 * budget that does not let it. */
enum sim_budget_verdict sim_budget_take(struct sim *x, struct sim_live *l, const struct token_prices *p, bool local,
                                        int32_t *by);
int64_t sim_budget_next_us(const struct sim *x, int32_t budget); /* its next period */
void sim_budget_init(struct sim *x);
void sim_budget_fini(struct sim *x);

/* sim_route.c */
struct sim_pick {
    int32_t node; /* -1: none */
    int32_t api;  /* -1: none */
    bool may_wait;
    bool too_late; /* nobody: it waits behind those who can be in time (route.h) */
};
struct sim_pick sim_route(struct sim *x, const struct sim_live *l, uint32_t spread);
/* The node's slots or load changed; whether it accepts; what it is (its speed, its slots). */
void sim_route_changed(struct sim *x, int32_t node);
void sim_route_accepts(struct sim *x, int32_t node);
void sim_route_facts(struct sim *x, int32_t node);
void sim_route_came(struct sim *x, int32_t node); /* it was launched: nobody has been there */
void sim_route_gone(struct sim *x, int32_t node);
/* A leg's way. said: tokens, by this node. */
void sim_route_sent(struct sim *x, struct sim_live *l, int32_t node);
void sim_route_by_api(struct sim *x, struct sim_live *l, int32_t api);
void sim_route_spoke(struct sim *x, struct sim_live *l, int64_t base_us);
void sim_route_ended(struct sim *x, struct sim_live *l, int32_t said);
struct marginal_facts sim_marginal(const struct sim *x, int32_t offer); /* of its nodes */
enum rc sim_route_init(struct sim *x) SPW_MUST_USE;
void sim_route_fini(struct sim *x);

/* sim_fleet.c */
void sim_fleet_init(struct sim *x);
void sim_fleet_start(struct sim *x);
void sim_fleet_fini(struct sim *x);
int32_t sim_launch(struct sim *x, int32_t offer, enum sim_state state); /* -1: no place for one more */
void sim_wake(struct sim *x, int32_t node);
void sim_drain(struct sim *x, int32_t node);
void sim_undrain(struct sim *x, int32_t node);
void sim_sleep(struct sim *x, int32_t node, enum power_state into);
void sim_terminate(struct sim *x, int32_t node);
void sim_life_event(struct sim *x, int32_t node);   /* a state's end, or a failure */
void sim_offer_event(struct sim *x, int32_t offer); /* price or availability changed */
void sim_site_event(struct sim *x, int32_t site);   /* the tariff changes: what was drawn is paid by the old price */
void sim_emptied(struct sim *x, int32_t node);      /* nothing is on it any more */
void sim_set_accepts(struct sim *x, int32_t node, bool accepts);
void sim_reschedule(struct sim *x, int32_t node);
void sim_bill_all(struct sim *x); /* up to now */
static inline int32_t sim_model_of(const struct sim *x, int32_t node)
{
    return (int32_t)x->s->types[x->s->offers[x->nodes[node].offer].type].model;
}
static inline bool sim_local(const struct sim *x, int32_t offer)
{
    return x->s->offers[offer].market == SCALE_ON_PREM;
}

static inline bool sim_powered(const struct sim *x, int32_t node)
{
    const struct sim_offer *o = &x->s->offers[x->nodes[node].offer];
    return o->market == SCALE_ON_PREM && o->site >= 0 && x->s->sites[o->site].powered;
}

/* sim_plan.c */
void sim_plan_init(struct sim *x);
void sim_plan_fini(struct sim *x);
void sim_plan_event(struct sim *x, int32_t model);
void sim_plan_soon(struct sim *x, int32_t model);              /* somebody waits, and nothing runs */
void sim_observe(struct sim *x, int32_t model, double tokens); /* demand, now */
/* Tokens per second in so many seconds, whatever the signal: requests are reckoned at the mean of those seen. */
struct forecast_value sim_forecast(const struct sim *x, int32_t model, double in_s);
/* Tokens/s of one node at the SLO. held: KV memory of a sequence under way, in the mean over time: long answers are
 * there for
 * longer, so it is more than that of the mean request. */
void sim_capacity(struct capacity *c, const struct sim_type *t, const struct sim_slo *slo,
                  const struct workload_mix *mix, double held);
int32_t sim_week_s(const struct sim *x);

/* sim_power.c */
void sim_power_init(struct sim *x);
void sim_power_fini(struct sim *x);
void sim_power_event(struct sim *x, int32_t site);
/* Requests of the model on own machines of the site (-1: of all); interactive: of those alone. */
int32_t sim_own_in_flight(const struct sim *x, int32_t model, int32_t site, bool interactive);
void sim_power_soon(struct sim *x, int32_t model);
/* The node's load or state changed: its part of the site's ceiling does. */
void sim_power_changed(struct sim *x, int32_t node);
/* May it take one more request under its site's limit? */
bool sim_power_admits(const struct sim *x, int32_t node, const struct sim_live *l);

/* sim_result.c */
void sim_sample(struct sim *x);
void sim_finish(struct sim *x);

#endif
