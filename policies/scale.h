/* Autoscaling: which machines should run for one model. A snapshot of offers, nodes and demand goes in; launches,
 * wakes, drains, sleeps and terminations come out, each with its reason. The daemon, the simulator and the tests
 * call it every `tick` seconds.
 *
 * The rules, strongest first:
 *  1. Never more than nodes_max nodes nor more dollars per hour than hour_max: whatever is alive counts (also
 *     booting and draining), and so does what the API is planned to be paid. Above the limit (it was lowered, a
 *     price rose) the dearest capacity is drained until it holds.
 *  2. need = (max(now, mean + z * sd) + batch) * (1 + over_provision) + queued / queue_drain_s; where misses are
 *     weighed (9), z is 2.5 at least, so that 9 decides what is held. It falls only after it has been lower, by more
 *     than down_band, for down_after_s (the largest need of one to two such windows counts): no flapping.
 *  3. Own machines first: awake, then asleep, by marginal price. What they can't cover comes from the cheapest set of
 *     offers (types x zones x markets; a knapsack by dynamic programming), at prices that include what a
 *     pre-emption costs. Nodes on their way count. What runs is kept unless the better set saves `replace_saving`,
 *     and time that is paid for already is free.
 *  4. Loss of any one failure domain that can be pre-empted leaves `survive` of the mean demand (more than half of
 *     recorded losses took at least half of a zone's fleet): domains are bounded, and spares stand in another
 *     domain than what they stand in for. Gives way to 1 and 2.
 *  5. Spot that isn't there is replaced by on-demand (or the next zone) at once. The way back: when spot has been
 *     launchable for return_after_s, its nodes are launched beside the on-demand ones, which are drained once those
 *     are ready. (SkyServe, arXiv 2411.01438, sec. 3; its on-demand fallback.)
 *  6. A node isn't drained before its paid time (billing minimum, paid hour) is nearly over.
 *  7. While nodes boot, what can't be served yet is bridged by the API where that is allowed; and where the API is
 *     cheaper than the last node would be, it takes that node's share for good.
 *  8. Of each pool (offers that belong together) so many nodes are there whatever is needed; what they can do counts, and
 *     only the rest is covered by 3. Gives way to 1 alone: there what is beyond the pools' minimums goes first, and then
 *     every pool keeps the same share of its own.
 *  9. No rented node costs more than what it keeps in time is worth. Need (2) is the most that is held; of it the last
 *     node goes as long as the demand that it is expected to serve, over the spread of the forecast, times what a
 *     late token costs, is less than its price. A late token costs what the API takes, where that is in time; else
 *     the *price of a miss*, which is learned from what became of the promise (scale_worth.c): so dear machines, such
 *     as those that stand in for spot, are held for likely demand, and cheap ones for unlikely, too, and as many
 *     requests miss the SLO as may. (The newsvendor: Arrow, Harris, Marschak, "Optimal inventory policy",
 *     Econometrica 1951.)
 *
 * Deterministic; no clock, I/O, globals or allocation. Arrays and the workspace (about 150 KiB) are the caller's. */
#ifndef POLICIES_SCALE_H
#define POLICIES_SCALE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/money.h"

#define SCALE_OFFERS_MAX  128
#define SCALE_ACTIONS_MAX 1024 /* of one plan; what doesn't fit comes in the next */

enum scale_market { SCALE_ON_PREM, SCALE_SPOT, SCALE_ON_DEMAND };

/* One type in one zone on one market. Failure domain = (cloud, region, zone, type): two offers with the same `domain`
 * die together. */
struct scale_offer {
    enum scale_market market;
    int32_t domain;
    int32_t pool;        /* of scale_snapshot.pools_min; any other number: of none */
    double tokens_per_s; /* of one node at the SLO (capacity.h); 0: can't serve this model */
    struct pusd
        price_hour;        /* on-prem: energy of running it rather than letting it sleep; the purchase is paid anyhow */
    int32_t boot_s;        /* until a launched node serves */
    int32_t billing_min_s; /* least that is billed: 60 on most clouds, 3600 where hours are billed */
    double losses_per_hour; /* pre-emptions of one node, expected; > 0: the domain is at risk */
    int32_t launch_max; /* how many more could be launched (quota, stock); 0: none now; on-prem: 0, see ASLEEP nodes */
    int32_t steady_s;   /* for how long launches have worked here */
};
enum scale_state { SCALE_ASLEEP, SCALE_BOOTING, SCALE_READY, SCALE_DRAINING };
struct scale_node {
    int32_t offer;
    enum scale_state state;
    bool leaving;       /* draining for a reason of its own (pre-emption, operator): can't be taken back */
    int32_t ready_s;    /* booting: in so long; asleep: its wake time */
    int32_t paid_s;     /* left of the time that is paid for already: ending it sooner saves nothing */
    int32_t in_flight;  /* requests on it */
    int32_t draining_s; /* for so long already */
};
struct scale_demand { /* tokens per second, or requests: whatever the offers' capacity is in */
    double now;       /* recent rate */
    double mean, sd;  /* forecast for when a node launched now would serve */
    double queued;    /* tokens (requests) that wait */
    double batch;     /* tokens/s that batch work needs for its deadlines (progress.h), on top */
};
struct scale_limits {
    int32_t nodes_min, nodes_max; /* ready or booting, of all pools; asleep nodes count for neither */
    struct pusd hour_max;         /* dollars per hour of all that is alive, and the API; v < 0: no limit */
    double z;                     /* of sd; 1.28: nine times out of ten */
    double over_provision;        /* 0.1: a tenth more */
    double survive;               /* of the mean demand, after any one domain is lost; 0: don't care */
    int32_t queue_drain_s;        /* the queue shall be gone in so long */
    int32_t down_after_s;
    double down_band; /* 0.1: need that is lower by less than a tenth isn't followed down */
    int32_t return_after_s;
    double replace_saving; /* 0.15: another set must be cheaper by so much */
    int32_t drain_max_s;   /* then it is ended although requests are on it */
    int32_t tick_s;        /* until scale_plan() is called again */
    double idle_rate;      /* demand below it is none: everything may go (nodes_min 0) */
};
/* What became of the SLO's promise, since the start: from it follows what a miss costs. */
struct scale_promise {
    double asked;            /* share of requests that shall be in time: 0.99; 0: no misses are weighed against money */
    int64_t in_time, missed; /* requests of which that is known; interactive ones */
};
struct scale_api {           /* the paid API that serves this model */
    bool allowed;            /* at all, by privacy and policy */
    bool bridge;             /* while nodes boot */
    bool steady;             /* for good, where cheaper than a node */
    bool late;               /* what goes there misses the SLO */
    struct pusd per_token;   /* mean over prompt and output tokens of the mix (or per request) */
    double tokens_per_s_max; /* 0: no limit known */
};
struct scale_snapshot {
    int64_t now_s;
    struct scale_demand demand;
    struct scale_limits limits;
    struct scale_api api;
    struct scale_promise promise;
    const struct scale_offer *offers;
    int32_t n_offers;         /* <= SCALE_OFFERS_MAX */
    const int32_t *pools_min; /* by pool: nodes that are kept of it, >= 0 */
    int32_t n_pools;
    const struct scale_node *nodes;
    int32_t n_nodes;
};
struct scale_peak { /* the largest of one to two windows: rises at once, and falls late */
    double window, before, held;
};
struct scale_memory { /* {0} at the start; one per model */
    bool begun;
    int64_t window_s; /* when the window under way began */
    struct scale_peak need, mean;
    /* The promise: what was known at the last plan, and requests, of them late, with a memory of SCALE_PROMISE_S. */
    bool counts;
    int64_t since_s, worth_s, in_time, missed;
    double answered, late;
};
/* Over which misses are counted: what may miss may be used up in one bad hour of a good half day. */
#define SCALE_PROMISE_S 43200

enum scale_verb { SCALE_LAUNCH, SCALE_WAKE, SCALE_DRAIN, SCALE_SLEEP, SCALE_TERMINATE };
enum scale_reason {
    SCALE_FOR_DEMAND,     /* launch, wake: needed */
    SCALE_FROM_ZERO,      /* launch, wake: requests, and nothing runs */
    SCALE_FOR_MINIMUM,    /* launch, wake: nodes_min, or its pool's */
    SCALE_AS_FALLBACK,    /* launch on demand: cheaper spot can't be had now */
    SCALE_AS_SPARE,       /* launch, wake: what would be left if a domain were lost is too little */
    SCALE_FOR_RETURN,     /* launch spot: to get back from on-demand */
    SCALE_CHEAPER,        /* launch: replaces something dearer */
    SCALE_STILL_UP,       /* wake: it was draining, and is wanted again */
    SCALE_SURPLUS,        /* drain: not needed any more */
    SCALE_REPLACED,       /* drain: cheaper nodes are ready in its place */
    SCALE_OVER_BUDGET,    /* drain: dollars per hour */
    SCALE_OVER_NODES,     /* drain: nodes_max */
    SCALE_MAKES_ROOM,     /* drain: for capacity that is more worth its money, under a limit */
    SCALE_EMPTY,          /* sleep, terminate: drained */
    SCALE_DRAIN_TOO_LONG, /* terminate: drain_max_s */
};
struct scale_action {
    enum scale_verb verb;
    enum scale_reason reason;
    int32_t offer;
    int32_t node; /* -1 for launch */
    int32_t n;    /* launch: how many; else 1 */
};
struct scale_plan {
    int32_t n_actions;
    struct scale_action actions[SCALE_ACTIONS_MAX];
    bool more; /* actions were left out: SCALE_ACTIONS_MAX */
    /* What it was decided from, and what it leads to. */
    double need;          /* that is covered (held over the window) */
    double need_now;      /* of this moment's figures */
    double ready, coming; /* capacity that serves now; capacity booting, waking or launched by this plan */
    double uncovered;     /* of need, when all that is coming has come: limits or stock forbid more */
    double survives;      /* capacity after the loss of the worst domain, then */
    double not_worth;     /* of need, what no node is held for: it would cost more than what it keeps in time */
    double miss_price;    /* dollars per token (request) that is late; 0: not weighed */
    double api_bridge;    /* rate to send to the API until nodes are up */
    int32_t api_bridge_s;
    double api_steady;        /* rate to leave to the API for good */
    struct pusd hour;         /* dollars per hour of everything alive after the plan, API included */
    int32_t nodes;            /* alive after the plan */
    bool by_budget, by_nodes; /* a limit kept it from more */
};

/* The workspace; its content means nothing between calls. (The members are scale.c's and scale_cover.c's.) */
#define SCALE_CELLS  768 /* of the knapsack; the last 24 nodes of a set are chosen exactly to about a thousandth */
#define SCALE_MARGIN 16
#define SCALE_ITEMS  1024
#define SCALE_GROUPS (SCALE_OFFERS_MAX * 3)
enum scale_supply {
    SCALE_RUNNING,
    SCALE_SLEEPING,
    SCALE_NEW
};                   /* where nodes of an offer can come from, in this order */
struct scale_group { /* nodes that are alike */
    int32_t offer, n, taken;
    enum scale_supply supply;
    bool in;         /* takes part in the set under way */
    double cost;     /* of one: dollars per hour, with what a loss costs, less what keeping saves */
    double capacity; /* of one */
};
struct scale_work {
    struct scale_group groups[SCALE_GROUPS];
    int32_t n_groups;
    int32_t spare[SCALE_OFFERS_MAX];    /* of the wanted: as spares */
    int32_t promised[SCALE_OFFERS_MAX]; /* of the wanted: what their pools keep */
    int32_t active[SCALE_OFFERS_MAX], draining[SCALE_OFFERS_MAX], asleep[SCALE_OFFERS_MAX], paid[SCALE_OFFERS_MAX];
    int32_t want[SCALE_OFFERS_MAX];
    struct scale_item {
        int32_t group, n, cells;
    } items[SCALE_ITEMS];
    int32_t n_items;
    double cost[SCALE_CELLS + SCALE_MARGIN + 1];
    uint64_t taken[SCALE_ITEMS][(SCALE_CELLS + SCALE_MARGIN + 64) / 64];
};

/* Node and offer indices must be in range, rates >= 0 and finite, nodes_max >= nodes_min >= 0. */
void scale_plan(struct scale_plan *plan, struct scale_memory *memory, struct scale_work *work,
                const struct scale_snapshot *s);

const char *scale_verb_name(enum scale_verb v);
const char *scale_market_name(enum scale_market m);
const char *scale_reason_text(enum scale_reason r); /* "needed for the forecast demand" */

#endif
