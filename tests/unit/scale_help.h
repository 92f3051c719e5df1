/* A world for autoscaling's laws: it carries plans out, its machines boot, are lost and billed; and the best of all
 * sets, by trying every one. One per test program. */
#ifndef TESTS_UNIT_SCALE_HELP_H
#define TESTS_UNIT_SCALE_HELP_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "policies/scale.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define TICK      20
#define NODES_MAX 12000
#define DOLLAR    1000000000000ll

/* The long form: SCALE_ROUNDS=10 ./test_scale */
static int rounds_factor = 1; /* scale_rounds() */
#define ROUNDS(n) TEST_FEWER((n)*rounds_factor)

static inline int32_t below(uint64_t *seed, int32_t n)
{
    return (int32_t)(next_random(seed) % (uint64_t)n);
}
static inline double unit(uint64_t *state)
{
    return (double)(next_random(state) >> 11) / 9007199254740992.0;
}

/* --- a world that does what plans say --------------------------------------------------------------------------- */

struct world {
    struct scale_snapshot s;
    struct scale_offer offers[SCALE_OFFERS_MAX];
    struct scale_node nodes[NODES_MAX];
    int32_t age_s[NODES_MAX];
    int32_t pools_min[3];
    struct scale_memory memory;
    struct scale_plan plan;
    int32_t launches, drains, actions;
};
static struct world w;
static struct scale_work work;

static inline void world_init(void)
{
    memset(&w, 0, sizeof(w));
    w.s.offers = w.offers;
    w.s.nodes = w.nodes;
    w.s.pools_min = w.pools_min; /* n_pools 0: there are none */
    w.s.limits = (struct scale_limits){.nodes_max = NODES_MAX,
                                       .hour_max = {-1},
                                       .queue_drain_s = 300,
                                       .down_after_s = 600,
                                       .return_after_s = 600,
                                       .replace_saving = 0.15,
                                       .drain_max_s = 300,
                                       .tick_s = TICK,
                                       .idle_rate = 0.01};
}

static inline int32_t add_offer(enum scale_market market, int32_t domain, double rate, double dollars, double losses)
{
    w.offers[w.s.n_offers] = (struct scale_offer){.market = market,
                                                  .domain = domain,
                                                  .tokens_per_s = rate,
                                                  .price_hour = {(int64_t)(dollars * 1e6) * 1000000},
                                                  .boot_s = 180,
                                                  .billing_min_s = 60,
                                                  .losses_per_hour = losses,
                                                  .launch_max = market == SCALE_ON_PREM ? 0 : 1000,
                                                  .steady_s = 100000};
    return w.s.n_offers++;
}

static inline int32_t add_node(int32_t offer, enum scale_state state)
{
    w.nodes[w.s.n_nodes] =
        (struct scale_node){.offer = offer, .state = state, .ready_s = state == SCALE_ASLEEP ? 60 : 0};
    w.age_s[w.s.n_nodes] = 0;
    return w.s.n_nodes++;
}

static inline void remove_node(int32_t i)
{
    w.s.n_nodes--;
    memmove(&w.nodes[i], &w.nodes[i + 1], (size_t)(w.s.n_nodes - i) * sizeof(w.nodes[0]));
    memmove(&w.age_s[i], &w.age_s[i + 1], (size_t)(w.s.n_nodes - i) * sizeof(w.age_s[0]));
}

static inline void carry_out(void)
{
    int32_t n = w.s.n_nodes;
    static bool gone[NODES_MAX];

    memset(gone, 0, sizeof(gone));
    for (int32_t k = 0; k < w.plan.n_actions; k++) {
        const struct scale_action *a = &w.plan.actions[k];
        struct scale_node *node = a->node >= 0 ? &w.nodes[a->node] : NULL;
        w.actions++;
        w.launches += a->verb == SCALE_LAUNCH ? a->n : 0;
        w.drains += a->verb == SCALE_DRAIN;
        switch (a->verb) {
        case SCALE_LAUNCH:
            for (int32_t i = 0; i < a->n; i++) {
                int32_t id = add_node(a->offer, SCALE_BOOTING);
                w.nodes[id].ready_s = w.offers[a->offer].boot_s;
                w.nodes[id].paid_s = w.offers[a->offer].billing_min_s;
                if (w.offers[a->offer].launch_max < 1000)
                    w.offers[a->offer].launch_max--;
            }
            break;
        case SCALE_WAKE:
            CHECK(node->state == SCALE_ASLEEP || node->state == SCALE_DRAINING);
            node->state = node->state == SCALE_DRAINING ? SCALE_READY : SCALE_BOOTING;
            break;
        case SCALE_DRAIN:
            CHECK(node->state == SCALE_READY || node->state == SCALE_BOOTING);
            node->state = SCALE_DRAINING;
            node->draining_s = 0;
            break;
        case SCALE_SLEEP:
            CHECK(node->state == SCALE_DRAINING && w.offers[node->offer].market == SCALE_ON_PREM);
            node->state = SCALE_ASLEEP;
            node->ready_s = 60;
            break;
        case SCALE_TERMINATE:
            CHECK(node->state == SCALE_DRAINING && w.offers[node->offer].market != SCALE_ON_PREM);
            gone[a->node] = true;
            break;
        }
    }
    for (int32_t i = n - 1; i >= 0; i--)
        if (gone[i]) {
            if (w.offers[w.nodes[i].offer].launch_max < 1000)
                w.offers[w.nodes[i].offer].launch_max++;
            remove_node(i);
        }
}

static inline void pass_time(void)
{
    w.s.now_s += TICK;
    for (int32_t i = 0; i < w.s.n_nodes; i++) {
        struct scale_node *n = &w.nodes[i];
        int32_t period = w.offers[n->offer].billing_min_s;
        w.age_s[i] += TICK;
        n->paid_s = w.age_s[i] < period ? period - w.age_s[i] : 0;
        if (period >= 3600 && n->paid_s == 0) /* hours are billed whole */
            n->paid_s = period - w.age_s[i] % period;
        if (n->state == SCALE_BOOTING && (n->ready_s -= TICK) <= 0)
            n->state = SCALE_READY;
        if (n->state == SCALE_DRAINING)
            n->draining_s += TICK;
    }
}

static inline double capacity(bool booting)
{
    double sum = 0;
    for (int32_t i = 0; i < w.s.n_nodes; i++)
        if (w.nodes[i].state == SCALE_READY || (booting && w.nodes[i].state == SCALE_BOOTING))
            sum += w.offers[w.nodes[i].offer].tokens_per_s;
    return sum;
}
static inline int32_t alive(void)
{
    int32_t n = 0;
    for (int32_t i = 0; i < w.s.n_nodes; i++)
        n += w.nodes[i].state != SCALE_ASLEEP;
    return n;
}
static inline int64_t bill(void)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < w.s.n_nodes; i++)
        sum += w.nodes[i].state != SCALE_ASLEEP ? w.offers[w.nodes[i].offer].price_hour.v : 0;
    return sum;
}
static inline int32_t count(int32_t offer)
{
    int32_t n = 0;
    for (int32_t i = 0; i < w.s.n_nodes; i++)
        n += w.nodes[i].offer == offer && (w.nodes[i].state == SCALE_READY || w.nodes[i].state == SCALE_BOOTING);
    return n;
}

static inline void step(void)
{
    scale_plan(&w.plan, &w.memory, &work, &w.s);
    carry_out();
    pass_time();
}
static inline void steps(int32_t n)
{
    while (n-- > 0)
        step();
}
static inline void demand(double rate, double sd)
{
    w.s.demand.now = w.s.demand.mean = rate;
    w.s.demand.sd = sd;
}

/* The draws one after the other: the same whatever the compiler. */
static inline void random_demand(uint64_t *seed, int32_t least, int32_t span, int32_t sd)
{
    double rate = least + below(seed, span);
    demand(rate, below(seed, sd));
}

/* --- random worlds ----------------------------------------------------------------------------------------------- */

static inline void random_world(uint64_t *seed, int32_t n_offers)
{
    world_init();
    for (int32_t i = 0; i < n_offers; i++) {
        enum scale_market market = (enum scale_market)below(seed, 3);
        double rate = 100 * (1 + below(seed, 8)), price = rate / 100 * (0.5 + unit(seed));
        int32_t domain = below(seed, 4);
        double losses = market == SCALE_SPOT ? 0.05 + unit(seed) * 0.2 : 0;
        int32_t o = add_offer(market, domain, rate, market == SCALE_SPOT ? price * 0.4 : price, losses);
        w.offers[o].boot_s = TICK * (1 + below(seed, 15));
        w.offers[o].billing_min_s = below(seed, 3) ? 60 : 3600;
        if (market == SCALE_ON_PREM) {
            w.offers[o].billing_min_s = 0;
            w.offers[o].price_hour.v /= 10;
            for (int32_t k = below(seed, 4); k > 0; k--)
                add_node(o, SCALE_ASLEEP);
        } else if (below(seed, 3) == 0) {
            w.offers[o].launch_max = below(seed, 4);
        }
    }
    w.s.limits.over_provision = unit(seed) * 0.3;
    w.s.limits.survive = below(seed, 2) ? 0.6 : 0;
    w.s.limits.z = unit(seed) * 2;
    w.s.limits.nodes_max = below(seed, 2) ? NODES_MAX / 4 : 1 + below(seed, 10);
    w.s.limits.nodes_min = below(seed, 3) ? 0 : 1;
    if (below(seed, 2))
        w.s.limits.hour_max.v = (int64_t)(unit(seed) * 40 * 1e6) * 1000000;
    w.s.api = (struct scale_api){.allowed = below(seed, 2),
                                 .bridge = below(seed, 2),
                                 .steady = below(seed, 2),
                                 .per_token = {(int64_t)(unit(seed) * 3e6)}};
}

static int32_t tried[SCALE_OFFERS_MAX]; /* the set that is tried */

static inline bool pools_have_theirs(void)
{
    int32_t n[3] = {0};
    for (int32_t i = 0; i < w.s.n_offers && w.s.n_pools; i++)
        if (w.offers[i].pool >= 0)
            n[w.offers[i].pool] += tried[i];
    return n[0] >= w.pools_min[0] && n[1] >= w.pools_min[1] && n[2] >= w.pools_min[2];
}

/* The best of all sets, by trying every one: the cheapest that covers within the limits, and has of each pool what is
 * kept of it; HUGE_VAL: there is none. */
static inline double try_all(int32_t offer, double cap, double price, int32_t nodes, double need)
{
    double best = HUGE_VAL;

    if (nodes > w.s.limits.nodes_max ||
        (w.s.limits.hour_max.v >= 0 && price > (double)w.s.limits.hour_max.v * 1e-12 + 1e-9))
        return HUGE_VAL;
    if (cap >= need * (1 - 1e-9) && pools_have_theirs())
        return price;
    if (offer == w.s.n_offers)
        return HUGE_VAL;
    int32_t most = w.offers[offer].launch_max;
    for (int32_t i = 0; i < w.s.n_nodes; i++)
        most += w.nodes[i].offer == offer;
    double dollars = (double)w.offers[offer].price_hour.v * 1e-12;
    for (int32_t n = 0; n <= most && n <= 12; n++) {
        tried[offer] = n;
        best = fmin(best,
                    try_all(offer + 1, cap + n * w.offers[offer].tokens_per_s, price + n * dollars, nodes + n, need));
    }
    tried[offer] = 0;
    return best;
}

static inline void scale_rounds(void)
{
    const char *factor = getenv("SCALE_ROUNDS");

    if (factor && strtol(factor, NULL, 10) > 0)
        rounds_factor = (int)strtol(factor, NULL, 10);
}

#endif
