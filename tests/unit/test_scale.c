/* Autoscaling's laws, over random worlds that carry the plans out: machines boot, are lost, are billed; and beside
 * a search of every set where the world is small.
 * links: spw_policies */
#include "policies/scale.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "tests/unit/scale_help.h"

/* Demand that jumps about, nodes that get lost, offers that dry up: whatever happens, the limits hold. */
static void limits_always_hold(void)
{
    uint64_t seed = 1;

    for (int round = 0; round < ROUNDS(24); round++) {
        random_world(&seed, 1 + below(&seed, 8));
        for (int t = 0; t < 120; t++) {
            if (below(&seed, 8) == 0)
                random_demand(&seed, 0, 3000, 300);
            w.s.demand.queued = below(&seed, 6) ? 0 : below(&seed, 100000);
            if (w.s.n_nodes && below(&seed, 15) == 0) {
                int32_t lost = w.offers[w.nodes[below(&seed, w.s.n_nodes)].offer].domain;
                for (int32_t i = w.s.n_nodes - 1; i >= 0; i--)
                    if (w.offers[w.nodes[i].offer].domain == lost && w.offers[w.nodes[i].offer].market == SCALE_SPOT)
                        remove_node(i);
            }
            for (int32_t i = 0; i < w.s.n_nodes; i++)
                w.nodes[i].in_flight = below(&seed, 3);
            step();
            CHECK(alive() <= w.s.limits.nodes_max);
            CHECK(w.s.limits.hour_max.v < 0 || bill() <= w.s.limits.hour_max.v);
            CHECK(w.s.limits.hour_max.v < 0 || w.plan.hour.v <= w.s.limits.hour_max.v);
            CHECK(w.s.api.allowed || (w.plan.api_bridge == 0 && w.plan.api_steady == 0));
            CHECK_INT(w.plan.nodes, alive());
            CHECK(w.plan.hour.v >= bill()); /* draining ones are paid, too */
        }
    }
}

/* With demand that stays, the fleet covers it whenever some set within the limits does; and then nothing changes
 * any more. */
static void covers_when_affordable_and_rests(void)
{
    uint64_t seed = 2;
    int affordable = 0, rested = 0;

    for (int round = 0; round < ROUNDS(24); round++) {
        random_world(&seed, 1 + below(&seed, 4));
        w.s.api.allowed = false;
        random_demand(&seed, 100, 2000, 200);
        double least = 0;
        scale_plan(&w.plan, &w.memory, &work, &w.s);
        least = try_all(0, 0, 0, 0, w.plan.need);
        w.memory = (struct scale_memory){0};
        steps(200);
        if (least < HUGE_VAL) {
            affordable++;
            CHECK(capacity(false) >= w.plan.need * (1 - 1e-6));
            CHECK(w.plan.uncovered == 0);
        }
        w.actions = 0;
        steps(90); /* half an hour, of which anything would show in the first minutes */
        CHECK_INT(w.actions, 0);
        rested += w.actions == 0;
    }
    CHECK(affordable * 12 > ROUNDS(24) * 5);
    CHECK_INT(rested, ROUNDS(24));
}

/* Without risk, own machines and limits, from nothing: as cheap as the best of all sets. */
static void as_cheap_as_can_be(void)
{
    uint64_t seed = 3;
    double ours = 0, best = 0;

    for (int round = 0; round < ROUNDS(200); round++) {
        world_init();
        for (int32_t i = 0; i < 4; i++) {
            double rate = 50 * (1 + below(&seed, 20));
            int32_t o = add_offer(SCALE_ON_DEMAND, i, rate, rate / 100 * (0.5 + unit(&seed)), 0);
            w.offers[o].launch_max = 1 + below(&seed, 6);
        }
        demand(100 + below(&seed, 3000), 0);
        scale_plan(&w.plan, &w.memory, &work, &w.s);
        double least = try_all(0, 0, 0, 0, w.plan.need);
        if (least == HUGE_VAL)
            continue;
        CHECK((double)w.plan.hour.v * 1e-12 <= least * 1.01 + 1e-6);
        ours += (double)w.plan.hour.v * 1e-12;
        best += least;
    }
    CHECK(ours <= best * 1.0005);
}

/* What is on its way is not asked for again. (A cheaper set may be thought of later, seldom.) */
static void booting_counts(void)
{
    uint64_t seed = 4;
    int again = 0;

    for (int round = 0; round < ROUNDS(80); round++) {
        random_world(&seed, 1 + below(&seed, 6));
        w.s.limits.nodes_max = NODES_MAX;
        w.s.limits.hour_max.v = -1;
        demand(100 + below(&seed, 3000), 0);
        step();
        int32_t launches = w.launches;
        for (int t = 0; t < 3; t++) { /* before the slowest is up, and after */
            step();
            for (int32_t k = 0; k < w.plan.n_actions; k++)
                CHECK(w.plan.actions[k].verb != SCALE_LAUNCH || w.plan.actions[k].reason == SCALE_CHEAPER ||
                      w.plan.actions[k].reason == SCALE_FOR_RETURN);
        }
        again += w.launches != launches;
    }
    CHECK(again <= ROUNDS(1));
}

static void noise_does_not_flap(void)
{
    uint64_t seed = 5;

    world_init();
    add_offer(SCALE_SPOT, 0, 300, 1, 0.1);
    add_offer(SCALE_SPOT, 1, 300, 1.1, 0.1);
    add_offer(SCALE_ON_DEMAND, 2, 300, 3, 0);
    w.s.limits.over_provision = 0.1;
    w.s.limits.down_band = 0.1;
    demand(2000, 0);
    steps(50);
    w.actions = 0;
    for (int t = 0; t < 180 * 6; t++) { /* six hours of noise of 10% */
        demand(2000 * (0.9 + 0.2 * unit(&seed)), 50);
        step();
    }
    CHECK(w.actions < 6);
}

static void own_machines_first(void)
{
    uint64_t seed = 6;

    for (int round = 0; round < ROUNDS(80); round++) {
        random_world(&seed, 6);
        w.s.limits.nodes_max = NODES_MAX;
        w.s.limits.hour_max.v = -1;
        w.s.limits.nodes_min = 0;
        int32_t own = add_offer(SCALE_ON_PREM, 99, 400, 9, 0); /* even where energy is dear */
        for (int k = 0; k < 8; k++)
            add_node(own, SCALE_ASLEEP);
        demand(100 + below(&seed, 2000), 0);
        steps(30);
        for (int32_t i = 0; i < w.s.n_nodes; i++)
            CHECK(w.offers[w.nodes[i].offer].market == SCALE_ON_PREM);
    }
}

/* What the loss of the worst domain at risk leaves of what is ready. */
static double left_after_loss(void)
{
    double all = capacity(false), least = all;
    for (int32_t i = 0; i < w.s.n_offers; i++) {
        double lost = 0;
        if (w.offers[i].losses_per_hour <= 0)
            continue;
        for (int32_t k = 0; k < w.s.n_nodes; k++) {
            const struct scale_offer *o = &w.offers[w.nodes[k].offer];
            lost += o->domain == w.offers[i].domain && o->losses_per_hour > 0 && w.nodes[k].state == SCALE_READY
                        ? o->tokens_per_s
                        : 0;
        }
        least = fmin(least, all - lost);
    }
    return least;
}

static void spares_stand_elsewhere(void)
{
    uint64_t seed = 7;

    for (int round = 0; round < ROUNDS(80); round++) {
        world_init();
        for (int32_t i = 0; i < 5; i++) {
            double rate = 100 * (1 + below(&seed, 4)), price = 0.3 + unit(&seed);
            add_offer(SCALE_SPOT, i / 2, rate, price, 0.05 + 0.2 * unit(&seed));
        }
        w.s.limits.survive = 0.3 + 0.7 * unit(&seed);
        demand(50 + below(&seed, 3000), 0);
        steps(60);
        CHECK(left_after_loss() >= w.s.limits.survive * w.s.demand.mean * (1 - 1e-6));
        CHECK(w.plan.survives >= w.s.limits.survive * w.s.demand.mean * (1 - 1e-6));
    }
}

/* Spot dries up: on-demand takes over at once. It comes back, and when it has been there for long enough the fleet
 * goes back, never with less ready than is needed. */
static void fallback_and_the_way_back(void)
{
    world_init();
    int32_t spot = add_offer(SCALE_SPOT, 0, 100, 1, 0.1), sure = add_offer(SCALE_ON_DEMAND, 1, 100, 3, 0);
    demand(950, 0);
    steps(30);
    CHECK_INT(count(spot), 10);
    CHECK_INT(count(sure), 0);
    for (int32_t i = w.s.n_nodes - 1; i >= 0; i--)
        remove_node(i);
    w.offers[spot].launch_max = 0;
    w.offers[spot].steady_s = 0;
    step();
    CHECK_INT(count(sure), 10);
    CHECK_INT(w.plan.actions[0].reason, SCALE_FROM_ZERO);
    steps(60);
    w.offers[spot].launch_max = 1000;
    w.launches = 0;
    steps(20); /* it has been back for 400 of 600 s: not yet */
    CHECK_INT(w.launches, 0);
    w.offers[spot].steady_s = 600;
    step();
    CHECK_INT(w.plan.actions[0].verb, SCALE_LAUNCH);
    CHECK_INT(w.plan.actions[0].reason, SCALE_FOR_RETURN);
    for (int t = 0; t < 100; t++) {
        step();
        CHECK(capacity(false) >= w.plan.need);
        for (int32_t k = 0; k < w.plan.n_actions; k++)
            CHECK(w.plan.actions[k].verb != SCALE_DRAIN || w.plan.actions[k].reason == SCALE_REPLACED);
    }
    CHECK_INT(count(spot), 10);
    CHECK_INT(count(sure), 0);
}

/* Nobody asks for anything: the minimum is there all the same, all the way back. */
static void the_minimum_stands_on_the_way_back(void)
{
    world_init();
    int32_t spot = add_offer(SCALE_SPOT, 0, 100, 0.4, 0.05), od = add_offer(SCALE_ON_DEMAND, 1, 100, 1.0, 0);
    w.s.limits.nodes_min = 2;
    w.offers[spot].launch_max = 0;
    demand(0, 0);
    steps(100);
    CHECK_INT(count(od), 2);
    w.offers[spot].launch_max = 1000;
    w.offers[spot].steady_s = 0;
    for (int i = 0; i < 200; i++) {
        step();
        CHECK(capacity(false) >= 200);
    }
    CHECK_INT(count(spot), 2);
    CHECK_INT(count(od), 0);
}

static void part_of_a_fleet_is_lost(void)
{
    world_init();
    int32_t a = add_offer(SCALE_SPOT, 0, 100, 1, 0.1), b = add_offer(SCALE_SPOT, 1, 100, 1.2, 0.1);
    int32_t sure = add_offer(SCALE_ON_DEMAND, 2, 100, 3, 0);
    w.s.limits.survive = 0.5;
    demand(1000, 0);
    steps(30);
    CHECK(count(a) <= 5 && count(b) >= 5 && count(a) + count(b) == 10);
    for (int32_t i = w.s.n_nodes - 1; i >= 0; i--)
        if (w.nodes[i].offer == a)
            remove_node(i);
    CHECK(capacity(false) >= 500);
    w.offers[a].launch_max = w.offers[b].launch_max = 0;
    step();
    CHECK_INT(count(sure), 5);
    CHECK_INT(w.plan.actions[0].reason, SCALE_AS_FALLBACK);
}

/* An hour that is paid is used: nothing leaves before its end is near, and what leaves early is what costs by the
 * second. */
static void paid_time_is_used(void)
{
    uint64_t seed = 8;

    for (int round = 0; round < ROUNDS(30); round++) {
        random_world(&seed, 1 + below(&seed, 6));
        w.s.limits.nodes_max = NODES_MAX;
        w.s.limits.hour_max.v = -1;
        for (int t = 0; t < 300; t++) {
            if (below(&seed, 40) == 0)
                random_demand(&seed, 0, 3000, 100);
            scale_plan(&w.plan, &w.memory, &work, &w.s);
            for (int32_t k = 0; k < w.plan.n_actions; k++)
                if (w.plan.actions[k].verb == SCALE_DRAIN)
                    CHECK(w.nodes[w.plan.actions[k].node].paid_s <= TICK);
            carry_out();
            pass_time();
        }
    }
}

/* Drains never take what is needed: ready capacity falls below need only by losses and growth, never by a plan. */
static void drains_leave_enough(void)
{
    uint64_t seed = 9;

    for (int round = 0; round < ROUNDS(30); round++) {
        random_world(&seed, 1 + below(&seed, 8));
        w.s.limits.nodes_max = NODES_MAX;
        w.s.limits.hour_max.v = -1;
        w.s.api.allowed = false;
        for (int t = 0; t < 150; t++) {
            if (below(&seed, 20) == 0)
                random_demand(&seed, 0, 3000, 100);
            int32_t o = below(&seed, w.s.n_offers);
            if (below(&seed, 10) == 0)
                w.offers[o].price_hour.v += w.offers[o].price_hour.v / 4 * (below(&seed, 3) - 1);
            double before = capacity(false);
            scale_plan(&w.plan, &w.memory, &work, &w.s);
            carry_out();
            CHECK(capacity(false) >= fmin(before, w.plan.need_now) * (1 - 1e-6));
            pass_time();
        }
    }
}

static void from_zero_and_back(void)
{
    world_init();
    int32_t o = add_offer(SCALE_ON_DEMAND, 0, 500, 2, 0);
    w.s.api = (struct scale_api){.allowed = true, .bridge = true, .per_token = {1000000}};
    steps(5);
    CHECK_INT(w.s.n_nodes, 0);
    w.s.demand.queued = 200; /* one request waits, and the forecast knows nothing of it */
    step();
    CHECK_INT(count(o), 1);
    CHECK_INT(w.plan.actions[0].reason, SCALE_FROM_ZERO);
    CHECK(w.plan.api_bridge > 0 && w.plan.api_bridge_s == 180);
    w.s.demand.queued = 0;
    demand(20, 0);
    steps(100);
    CHECK_INT(count(o), 1);
    CHECK(w.plan.api_bridge == 0);
    demand(0, 0);
    steps(29); /* not before down_after_s */
    CHECK_INT(count(o), 1);
    steps(60);
    CHECK_INT(w.s.n_nodes, 0);
}

/* The last node's part is left to the API where that is cheaper; and not where it isn't. */
static void the_api_takes_a_small_share(void)
{
    world_init();
    int32_t o = add_offer(SCALE_ON_DEMAND, 0, 1000, 3, 0);
    demand(100, 0); /* 360,000 tokens an hour */
    w.s.api =
        (struct scale_api){.allowed = true, .steady = true, .per_token = {2000000}}; /* 2 dollars a million: 0.72 */
    step();
    CHECK_INT(count(o), 0);
    CHECK(w.plan.api_steady >= 100 && w.plan.uncovered == 0);
    CHECK(w.plan.hour.v == 720000000000);
    w.s.api.per_token.v = 10000000; /* 3.60 an hour */
    step();
    CHECK_INT(count(o), 1);
    CHECK(w.plan.actions[0].reason == SCALE_FROM_ZERO);
    steps(20);
    w.s.api.per_token.v = 7600000; /* 2.74: cheaper, but not by the 15% for which a running node is let go */
    steps(100);
    CHECK_INT(count(o), 1);
}

static void over_a_lowered_limit(void)
{
    world_init();
    int32_t o = add_offer(SCALE_ON_DEMAND, 0, 100, 2, 0);
    demand(1000, 0);
    steps(20);
    CHECK_INT(count(o), 10);
    w.s.limits.hour_max.v = 9 * DOLLAR;
    step();
    CHECK_INT(count(o), 4);
    CHECK(w.plan.n_actions > 0 && w.plan.actions[0].reason == SCALE_OVER_BUDGET);
    steps(20);
    CHECK(bill() <= 9 * DOLLAR && w.plan.by_budget && w.plan.uncovered > 0);
    w.s.limits.nodes_max = 3;
    step();
    CHECK_INT(w.plan.actions[0].reason, SCALE_OVER_NODES);
    steps(20);
    CHECK_INT(count(o), 3);
}

static void draining_nodes_are_taken_back(void)
{
    world_init();
    int32_t o = add_offer(SCALE_ON_DEMAND, 0, 100, 2, 0);
    w.s.limits.drain_max_s = 10000;
    demand(1000, 0);
    steps(20);
    demand(500, 0);
    for (int t = 0; t < 80; t++) {
        for (int32_t i = 0; i < w.s.n_nodes; i++)
            w.nodes[i].in_flight = 1;
        step();
    }
    CHECK_INT(count(o), 5);
    CHECK_INT(w.s.n_nodes, 10);
    demand(800, 0);
    w.launches = 0;
    step();
    CHECK_INT(count(o), 8);
    CHECK_INT(w.launches, 0);
    CHECK_INT(w.plan.actions[0].reason, SCALE_STILL_UP);
    w.s.limits.drain_max_s = 0;
    step();
    CHECK_INT(w.s.n_nodes, 8);
    CHECK_INT(w.plan.actions[0].reason, SCALE_DRAIN_TOO_LONG);
}

static void the_same_again(void)
{
    uint64_t seed = 10;
    static struct scale_plan a, b;
    static struct scale_work other;

    for (int round = 0; round < ROUNDS(30); round++) {
        random_world(&seed, 1 + below(&seed, 10));
        demand(below(&seed, 3000), 10);
        steps(below(&seed, 20));
        struct scale_memory m1 = w.memory, m2 = w.memory;
        memset(&a, 0, sizeof(a));
        memset(&b, 0, sizeof(b));
        memset(&other, 0xa5, sizeof(other));
        scale_plan(&a, &m1, &work, &w.s);
        scale_plan(&b, &m2, &other, &w.s);
        CHECK(memcmp(&a, &b, sizeof(a)) == 0);
    }
}

/* --- what misses are worth ---------------------------------------------------------------------------------------- */

/* Two offers, one five times as dear; demand with a spread. Plans until nothing moves, with so many missed of 100,000. */
static double rented_after(int64_t missed, bool cheap, bool late_api)
{
    world_init();
    add_offer(SCALE_ON_DEMAND, 0, 1000, cheap ? 2 : 10, 0);
    int32_t dear = add_offer(SCALE_ON_DEMAND, 1, 1000, 10, 0);
    w.offers[dear].launch_max = cheap ? 0 : 1000;
    w.s.limits.z = 2;
    w.s.limits.replace_saving = 0;
    w.s.api = (struct scale_api){.allowed = late_api, .steady = late_api, .late = late_api, .per_token = {1000}};
    w.s.promise = (struct scale_promise){.asked = 0.99};
    demand(10000, 2000);
    for (int k = 0; k < 400; k++) {
        w.s.promise.missed += missed / 400;
        w.s.promise.in_time += (100000 - missed) / 400;
        step();
    }
    CHECK(w.plan.uncovered == 0);
    return capacity(true);
}

/* The more misses there were, the more is held; what is dear is held for less than what is cheap; all within the need. */
static void misses_are_weighed(void)
{
    double none = rented_after(0, false, false), some = rented_after(800, false, false),
           many = rented_after(8000, false, false);

    CHECK(none <= some && some <= many && none < many);
    CHECK(many <= w.plan.need + 1000 && w.plan.not_worth >= 0);
    double cheap = rented_after(800, true, false);
    CHECK(cheap > some);
    CHECK(fabs(w.plan.need_now - 15000) < 1); /* worth decides, up to two and a half spreads */
    CHECK(rented_after(0, false, true) <= none);
    w.s.promise.asked = 0; /* nothing is promised: all of the need is held, at any price */
    steps(100);
    CHECK(w.plan.miss_price == 0 && w.plan.not_worth == 0 && capacity(true) >= w.plan.need);
    CHECK(fabs(w.plan.need_now - 14000) < 1);
}

/* Whatever came of the promise, the price stays between its bounds, and rises with misses. */
static void the_price_of_a_miss_is_bounded(void)
{
    uint64_t seed = 12;
    double dearest = 10.0 / 1000 / 3600;

    for (int round = 0; round < ROUNDS(50); round++) {
        struct scale_memory few, many;
        rented_after(400, false, false);
        few = many = w.memory;
        int64_t more = below(&seed, 1000000);
        w.s.now_s += below(&seed, 100000);
        w.s.promise.in_time += more;
        scale_plan(&w.plan, &few, &work, &w.s);
        double price = w.plan.miss_price;
        w.s.promise.in_time -= more / 2;
        w.s.promise.missed += more / 2;
        scale_plan(&w.plan, &many, &work, &w.s);
        CHECK(price >= 0.25 * dearest * 0.999 && w.plan.miss_price <= 6 * dearest * 1.001);
        CHECK(w.plan.miss_price >= price);
    }
}

/* 10,000 nodes of 128 offers: near the bound of the best price per capacity, and how long a plan takes. */
static void a_large_fleet(void)
{
    uint64_t seed = 11;
    double best = HUGE_VAL;
    struct timespec t0, t1;

    world_init();
    for (int32_t i = 0; i < SCALE_OFFERS_MAX; i++) {
        double rate = 500 + below(&seed, 2000), price = rate / 1000 * (1 + unit(&seed));
        add_offer(SCALE_ON_DEMAND, i, rate, price, 0);
        w.offers[i].launch_max = 100000;
        best = fmin(best, price / rate);
    }
    demand(9e6, 0);
    scale_plan(&w.plan, &w.memory, &work, &w.s);
    CHECK((double)w.plan.hour.v * 1e-12 <= best * 9e6 * 1.005);
    carry_out();
    pass_time();
    clock_gettime(CLOCK_MONOTONIC, &t0);
    scale_plan(&w.plan, &w.memory, &work, &w.s);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    CHECK_INT(w.plan.n_actions, 0);
    CHECK(w.s.n_nodes > 3000);
    if (getenv("VERBOSE"))
        printf("%d nodes, %d offers: a plan in %.2f ms\n", w.s.n_nodes, w.s.n_offers,
               (double)(t1.tv_sec - t0.tv_sec) * 1e3 + (double)(t1.tv_nsec - t0.tv_nsec) / 1e6);
}

/* The examples of docs/POLICIES.md. */
static void the_worked_example(void)
{
    world_init();
    int32_t own = add_offer(SCALE_ON_PREM, 0, 2000, 0.25, 0);
    int32_t east = add_offer(SCALE_SPOT, 1, 2000, 2.20, 0.10), west = add_offer(SCALE_SPOT, 2, 2000, 2.60, 0.05);
    int32_t sure = add_offer(SCALE_ON_DEMAND, 3, 2000, 6.88, 0);
    for (int i = 0; i < 3; i++)
        add_node(own, SCALE_ASLEEP);
    w.s.limits.z = 1.28;
    w.s.limits.over_provision = 0.1;
    w.s.limits.survive = 0.8;
    demand(10000, 1000);
    step();
    CHECK(fabs(w.plan.need - (10000 + 1.28 * 1000) * 1.1) < 1e-6); /* 12,408 */
    CHECK_INT(count(own), 3);
    CHECK_INT(count(east), 2);
    CHECK_INT(count(west), 2);
    CHECK_INT(count(sure), 0);
    CHECK(w.plan.hour.v == 10350000000000); /* 3 x 0.25 + 2 x 2.20 + 2 x 2.60 */
    steps(20);
    for (int32_t i = w.s.n_nodes - 1; i >= 0; i--) /* the east is taken back, and dry */
        if (w.nodes[i].offer == east)
            remove_node(i);
    w.offers[east].launch_max = w.offers[east].steady_s = 0;
    CHECK(capacity(false) == 10000);
    step();
    CHECK_INT(w.plan.n_actions, 1);
    CHECK_INT(w.plan.actions[0].reason, SCALE_AS_FALLBACK);
    CHECK_INT(count(sure), 2);
    CHECK(w.plan.hour.v == 19710000000000); /* 2 x 6.88 in their place */
    w.offers[east].launch_max = 1000;
    w.offers[east].steady_s = 600;
    steps(40);
    CHECK_INT(count(east), 2);
    CHECK_INT(count(sure), 0);
    CHECK(w.plan.hour.v == 10350000000000);
}

int main(void)
{
    scale_rounds();
    TEST(limits_always_hold);
    TEST(covers_when_affordable_and_rests);
    TEST(as_cheap_as_can_be);
    TEST(booting_counts);
    TEST(noise_does_not_flap);
    TEST(own_machines_first);
    TEST(spares_stand_elsewhere);
    TEST(fallback_and_the_way_back);
    TEST(the_minimum_stands_on_the_way_back);
    TEST(part_of_a_fleet_is_lost);
    TEST(paid_time_is_used);
    TEST(drains_leave_enough);
    TEST(from_zero_and_back);
    TEST(the_api_takes_a_small_share);
    TEST(over_a_lowered_limit);
    TEST(draining_nodes_are_taken_back);
    TEST(the_same_again);
    TEST(misses_are_weighed);
    TEST(the_price_of_a_miss_is_bounded);
    TEST(a_large_fleet);
    TEST(the_worked_example);
    return TEST_RESULT();
}
