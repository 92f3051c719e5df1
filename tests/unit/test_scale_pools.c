/* Of each pool so many nodes are there, whatever is needed: over random worlds, and beside every set.
 * links: spw_policies */
#include "policies/scale.h"

#include <math.h>

#include "tests/unit/scale_help.h"

static int32_t count_pool(int32_t pool, bool booting)
{
    int32_t n = 0;
    for (int32_t i = 0; i < w.s.n_nodes; i++)
        n += w.offers[w.nodes[i].offer].pool == pool &&
             (w.nodes[i].state == SCALE_READY || (booting && w.nodes[i].state == SCALE_BOOTING));
    return n;
}

/* A random world whose rented offers are of three pools, each with a minimum. */
static void pooled_world(uint64_t *seed)
{
    random_world(seed, 2 + below(seed, 8));
    w.s.n_pools = 3;
    w.s.limits.nodes_max = NODES_MAX / 4;
    w.s.limits.hour_max.v = -1;
    for (int32_t p = 0; p < 3; p++)
        w.pools_min[p] = below(seed, 5);
    for (int32_t i = 0; i < w.s.n_offers; i++)
        w.offers[i].pool = w.offers[i].market == SCALE_ON_PREM ? -1 : below(seed, 3);
}

/* As many of each pool as are kept of it, or as can be had; whatever is asked for and whatever things cost. */
static void each_pool_keeps_its_own(void)
{
    uint64_t seed = 13;

    for (int round = 0; round < ROUNDS(40); round++) {
        pooled_world(&seed);
        for (int t = 0; t < 100; t++) {
            int32_t serves[3];
            if (below(&seed, 10) == 0)
                random_demand(&seed, 0, 3000, 300);
            int32_t o = below(&seed, w.s.n_offers);
            if (below(&seed, 10) == 0)
                w.offers[o].price_hour.v += w.offers[o].price_hour.v / 4 * (below(&seed, 3) - 1);
            for (int32_t p = 0; p < 3; p++)
                serves[p] = count_pool(p, false);
            scale_plan(&w.plan, &w.memory, &work, &w.s);
            carry_out();
            for (int32_t p = 0; p < 3; p++) {
                int32_t had = count_pool(p, true), more = 0, kept = w.pools_min[p];
                for (int32_t i = 0; i < w.s.n_offers; i++)
                    more += w.offers[i].pool == p ? w.offers[i].launch_max : 0;
                CHECK(had >= kept || more == 0);
                CHECK(count_pool(p, false) >= (serves[p] < kept ? serves[p] : kept)); /* also while they change */
            }
            pass_time();
        }
    }
}

/* What pools keep serves, too: with offers of one pool alike but for their price, no set is cheaper. */
static void pools_are_kept_cheaply(void)
{
    uint64_t seed = 14;

    for (int round = 0; round < ROUNDS(100); round++) {
        world_init();
        w.s.n_pools = 2;
        for (int32_t i = 0; i < 4; i++) {
            double rate = i % 2 ? w.offers[i - 1].tokens_per_s : 50 * (1 + below(&seed, 20));
            int32_t o = add_offer(SCALE_ON_DEMAND, i, rate, rate / 100 * (0.5 + unit(&seed)), 0);
            w.offers[o].pool = i / 2;
            w.offers[o].launch_max = 2 + below(&seed, 6);
        }
        w.pools_min[0] = below(&seed, 4);
        w.pools_min[1] = below(&seed, 4);
        demand(100 + below(&seed, 3000), 0);
        scale_plan(&w.plan, &w.memory, &work, &w.s);
        double least = try_all(0, 0, 0, 0, w.plan.need);
        CHECK(least == HUGE_VAL || (double)w.plan.hour.v * 1e-12 <= least * 1.01 + 1e-6);
    }
}

/* Where a limit leaves less than is kept, each pool has the same share of its own, whatever its nodes cost. */
static void pools_share_what_a_limit_leaves(void)
{
    world_init();
    int32_t cheap = add_offer(SCALE_ON_DEMAND, 0, 100, 1, 0), dear = add_offer(SCALE_ON_DEMAND, 1, 100, 4, 0);
    w.offers[dear].pool = 1;
    w.s.n_pools = 2;
    w.pools_min[0] = 8;
    w.pools_min[1] = 4;
    demand(100, 0);
    steps(20);
    CHECK(count(cheap) == 8 && count(dear) == 4);
    w.s.limits.nodes_max = 6;
    steps(20);
    CHECK(count(cheap) == 4 && count(dear) == 2);
    w.s.limits.nodes_max = NODES_MAX;
    w.s.limits.hour_max.v = 13 * DOLLAR;
    steps(20);
    CHECK(count(dear) == 2 && count(cheap) >= 4 && bill() <= 13 * DOLLAR);
    w.s.limits.hour_max.v = 26 * DOLLAR; /* enough for all of it, and no more than that is wanted */
    steps(20);
    CHECK(count(cheap) == 8 && count(dear) == 4);
}

/* The loss of a domain leaves enough, whatever pools keep; and what they keep is spread before spares are paid for. */
static void pools_are_spread(void)
{
    uint64_t seed = 15;

    for (int round = 0; round < ROUNDS(60); round++) {
        world_init();
        for (int32_t i = 0; i < 6; i++) {
            int32_t o = add_offer(SCALE_SPOT, i / 2, 100 * (1 + below(&seed, 4)), 0.3 + unit(&seed), 0.1);
            w.offers[o].pool = below(&seed, 2);
        }
        w.s.n_pools = 2;
        w.pools_min[0] = below(&seed, 5);
        w.pools_min[1] = below(&seed, 5);
        w.s.limits.survive = 0.3 + 0.7 * unit(&seed);
        demand(50 + below(&seed, 3000), 0);
        steps(60);
        CHECK(w.plan.survives >= w.s.limits.survive * w.s.demand.mean * (1 - 1e-6));
    }
    world_init();
    int32_t east = add_offer(SCALE_SPOT, 0, 100, 1, 0.1), west = add_offer(SCALE_SPOT, 1, 100, 1.1, 0.1);
    w.s.n_pools = 1;
    w.pools_min[0] = 4;
    w.s.limits.survive = 0.5;
    demand(400, 0);
    steps(20);
    CHECK(count(east) == 2 && count(west) == 2); /* not four in the east, and two more for them */
}

/* The same with the minimum as a pool's: and spot that was just back doesn't take over. */
static void a_pool_stands_on_the_way_back(void)
{
    world_init();
    int32_t spot = add_offer(SCALE_SPOT, 0, 100, 0.4, 0.05), od = add_offer(SCALE_ON_DEMAND, 1, 100, 1.0, 0);
    w.s.n_pools = 1;
    w.pools_min[0] = 2;
    w.offers[spot].launch_max = 0;
    steps(100);
    CHECK_INT(count(od), 2);
    w.offers[spot].launch_max = 1000;
    w.offers[spot].steady_s = 0;
    steps(20);
    CHECK_INT(count(spot), 0);
    w.offers[spot].steady_s = 600;
    for (int i = 0; i < 100; i++) {
        step();
        CHECK(capacity(false) >= 200);
    }
    CHECK_INT(count(spot), 2);
    CHECK_INT(count(od), 0);
}

/* The example of docs/POLICIES.md. */
static void the_example_of_pools(void)
{
    world_init();
    int32_t small = add_offer(SCALE_ON_DEMAND, 0, 1000, 1, 0), large = add_offer(SCALE_ON_DEMAND, 1, 4000, 4, 0);
    w.offers[large].pool = 1;
    w.s.n_pools = 2;
    w.pools_min[0] = 4;
    w.pools_min[1] = 2;
    demand(6000, 0);
    steps(20);
    CHECK(count(small) == 4 && count(large) == 2 && w.plan.hour.v == 12 * DOLLAR);
    demand(14000, 0);
    steps(20);
    CHECK(count(small) == 6 && count(large) == 2 && w.plan.hour.v == 14 * DOLLAR);
    demand(6000, 0);
    w.s.limits.hour_max.v = 6 * DOLLAR;
    steps(100);
    CHECK(count(small) == 2 && count(large) == 1 && w.plan.hour.v == 6 * DOLLAR);
}

int main(void)
{
    scale_rounds();
    TEST(each_pool_keeps_its_own);
    TEST(pools_are_kept_cheaply);
    TEST(pools_share_what_a_limit_leaves);
    TEST(pools_are_spread);
    TEST(a_pool_stands_on_the_way_back);
    TEST(the_example_of_pools);
    return TEST_RESULT();
}
