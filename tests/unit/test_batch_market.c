/* What could compute batch work: rates, change-overs and the hours' prices, and that where hours do not matter every
 * decision is the one that it would be without them.
 * links: spw_policies */
#include <string.h>

#include "policies/batch_market.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define S      INT64_C(1000000)
#define HOUR   (3600 * S)
#define DOLLAR INT64_C(1000000000000)
#define MONDAY (INT64_C(1767571200) * S) /* 2026-01-05 00:00 UTC */

/* 0.10 dollars per kWh from 22:00 to 06:00, else 0.30. */
static const struct tariff night = {
    .uusd_per_kwh = 300000,
    .rules = {{TARIFF_EVERY_DAY, TARIFF_EVERY_MONTH, .from_min = 22 * 60, .to_min = 6 * 60, .uusd_per_kwh = 100000}},
    .n_rules = 1};

/* 1,000 W at work, 20 W asleep (up in 10 s), 5 W off (up in 90 s). */
static struct power_levels machine(void)
{
    struct power_levels l = {.of = {[POWER_ACTIVE] = {.allowed = true, .idle_mw = 400000, .n_points = 2},
                                    [POWER_SLEEP] = {.allowed = true, .idle_mw = 20000, .wake_us = 10 * S},
                                    [POWER_OFF] = {.allowed = true, .idle_mw = 5000, .wake_us = 90 * S}}};
    l.of[POWER_ACTIVE].points[0] = (struct power_point){1, 600000};
    l.of[POWER_ACTIVE].points[1] = (struct power_point){32, 1000000};
    return l;
}

static void rates_add_up(void)
{
    const struct power_levels l = machine();
    const struct scale_offer spot = {.market = SCALE_SPOT, .tokens_per_s = 100, .boot_s = 500, .launch_max = 3},
                             demand = {.market = SCALE_ON_DEMAND, .tokens_per_s = 50, .boot_s = 60, .launch_max = 2},
                             none = {.market = SCALE_ON_DEMAND, .tokens_per_s = 50, .boot_s = 900},
                             own = {.market = SCALE_ON_PREM, .tokens_per_s = 70};
    struct batch_market b;

    batch_market_init(&b, 300, 400, S);
    CHECK(b.m.idle_tokens_per_s == 0);
    batch_market_init(&b, 500, 400, S);
    CHECK(b.m.idle_tokens_per_s == 100 && b.m.tick_us == S);
    batch_market_offer(&b, &own);
    CHECK(!b.rents);
    batch_market_offer(&b, &spot);
    batch_market_offer(&b, &demand);
    batch_market_offer(&b, &none);
    CHECK(b.rents && b.m.spot_tokens_per_s == 300 && b.m.on_demand_tokens_per_s == 100);
    CHECK_INT(b.m.changeover_us, 60 * S);
    batch_market_sleeper(&b, 70, &l, POWER_SLEEP, &night, 1);
    CHECK(b.m.on_demand_tokens_per_s == 170);
    CHECK_INT(b.m.changeover_us, 60 * S);
    batch_market_sleeper(&b, 70, &l, POWER_OFF, &night, 1);
    CHECK_INT(b.m.changeover_us, 90 * S);
    batch_market_stand_in(&b, 9);
    CHECK(b.m.on_demand_tokens_per_s == 240 && !b.stands_in);
    batch_market_hours(&b, MONDAY, 24 * HOUR);
    CHECK_INT(b.m.n_hours, 0); /* rent decides */
}

static void what_stands_in_is_not_launched(void)
{
    struct progress_decision d = {.where = PROGRESS_ON_DEMAND, .reason = PROGRESS_BEHIND, .due_us = 7};
    struct batch_market b;

    batch_market_init(&b, 0, 0, S);
    CHECK(batch_market_goes(&b, &d));
    batch_market_stand_in(&b, 9);
    CHECK(b.stands_in && b.m.on_demand_tokens_per_s == 9 && b.m.changeover_us == 0);
    CHECK(!batch_market_goes(&b, &d) && batch_market_urgent_us(&d) == 0);
    d.where = PROGRESS_SPOT;
    CHECK(batch_market_goes(&b, &d));
    d.reason = PROGRESS_DEADLINE;
    CHECK_INT(batch_market_urgent_us(&d), 7);
}

static void an_hour_costs_what_the_machines_would_draw(void)
{
    const struct power_levels l = machine();
    struct tariff day = {.uusd_per_kwh = 200000}, flat = day;
    struct batch_market b;

    batch_market_init(&b, 0, 0, S);
    batch_market_sleeper(&b, 70, &l, POWER_SLEEP, &night, 1);
    batch_market_sleeper(&b, 70, &l, POWER_OFF, &night, 1);
    batch_market_hours(&b, MONDAY + 20 * HOUR + 900 * S, 4 * HOUR); /* 20:15 to 00:15 */
    CHECK_INT(b.m.n_hours, 5);
    CHECK(b.m.hours_on_demand && b.m.hour_prices == b.hours);
    CHECK_INT(b.m.hour_left_us, 2700 * S);
    CHECK_INT(b.hours[0].v, DOLLAR * 1975 / 1000 * 3 / 10); /* 980 W + 995 W */
    CHECK_INT(b.hours[1].v, b.hours[0].v);
    CHECK_INT(b.hours[2].v, DOLLAR * 1975 / 1000 / 10);
    CHECK_INT(b.hours[4].v, b.hours[2].v);
    /* Another site, where it is always the same, and half as much again is drawn beside the machines. */
    batch_market_sleeper(&b, 70, &l, POWER_SLEEP, &flat, 1.5);
    batch_market_hours(&b, MONDAY + 20 * HOUR + 900 * S, 4 * HOUR);
    CHECK_INT(b.hours[0].v, DOLLAR * 1975 / 1000 * 3 / 10 + DOLLAR * 1470 / 1000 / 5);
    CHECK_INT(b.n_draws, 2);
    batch_market_hours(&b, MONDAY + 20 * HOUR, 3650 * 24 * HOUR);
    CHECK_INT(b.m.n_hours, BATCH_HOURS_MAX);
}

/* Those that are awake for batch work alone are no valley, where hours have prices; else they are what they were. */
static void who_is_awake_for_batch_is_not_idle(void)
{
    const struct power_levels l = machine();
    const struct tariff flat = {.uusd_per_kwh = 200000};

    CHECK_INT(batch_market_beyond(6, 1, 0, 32), 5);
    CHECK_INT(batch_market_beyond(6, 0, 0, 32), 6);
    CHECK_INT(batch_market_beyond(6, 1, 33, 32), 4);
    CHECK_INT(batch_market_beyond(6, 1, 1000, 32), 0);
    CHECK_INT(batch_market_beyond(6, 8, 0, 32), 0);
    CHECK_INT(batch_market_beyond(6, 1, 0, 0), 0); /* nothing is known of what they can do */
    for (int k = 0; k < 2; k++) {
        struct batch_market b;
        batch_market_init(&b, 300, 20, S);
        batch_market_surplus(&b, 200, &l, k ? &night : &flat, 1);
        batch_market_hours(&b, MONDAY + 12 * HOUR, 12 * HOUR);
        batch_market_stand_in(&b, 9);
        CHECK(b.m.idle_tokens_per_s == (k ? 80 : 280));
        CHECK(b.m.on_demand_tokens_per_s == (k ? 200 : 9) && b.stands_in == !k);
        if (k)
            CHECK_INT(b.hours[0].v, DOLLAR * 980 / 1000 * 3 / 10);
    }
}

static void where_no_hour_is_better_there_are_none(void)
{
    const struct power_levels l = machine();
    const struct tariff flat = {.uusd_per_kwh = 200000};
    struct tariff many[BATCH_TARIFFS_MAX + 1];
    struct batch_market b;

    batch_market_init(&b, 0, 0, S);
    batch_market_sleeper(&b, 70, &l, POWER_SLEEP, &night, 1);
    batch_market_hours(&b, MONDAY + 7 * HOUR, 15 * HOUR); /* 07:00 to 22:00 */
    CHECK(b.m.n_hours == 0 && !b.m.hours_on_demand && !b.m.hour_prices);
    batch_market_hours(&b, MONDAY + 7 * HOUR, -HOUR);
    CHECK_INT(b.m.n_hours, 0);
    batch_market_hours(&b, MONDAY + 7 * HOUR, 15 * HOUR + 1);
    CHECK_INT(b.m.n_hours, 16);
    batch_market_init(&b, 0, 0, S);
    batch_market_sleeper(&b, 70, &l, POWER_SLEEP, &flat, 1);
    batch_market_sleeper(&b, 70, &l, POWER_SLEEP, NULL, 1);
    batch_market_hours(&b, MONDAY, 100 * HOUR);
    CHECK_INT(b.m.n_hours, 0);
    batch_market_init(&b, 100, 0, S); /* nothing sleeps */
    batch_market_hours(&b, MONDAY, 100 * HOUR);
    CHECK_INT(b.m.n_hours, 0);
    for (int i = 0; i <= BATCH_TARIFFS_MAX; i++) {
        many[i] = night;
        batch_market_sleeper(&b, 1, &l, POWER_SLEEP, &many[i], 1);
    }
    batch_market_hours(&b, MONDAY, 100 * HOUR);
    CHECK_INT(b.m.n_hours, 0);
    CHECK_INT(b.n_draws, BATCH_TARIFFS_MAX);
}

/* A tariff whose hours are all the same decides nothing: the same to the last bit as with no tariff at all. */
static void a_flat_tariff_decides_nothing(void)
{
    const struct power_levels l = machine();
    struct tariff flat = night;
    uint64_t seed = 5;

    flat.rules[0].uusd_per_kwh = flat.uusd_per_kwh;
    for (int round = 0; round < 2000; round++) {
        struct progress_work work = {.due_us = (int64_t)(1 + next_random(&seed) % 86400) * S,
                                     .tokens = (double)(next_random(&seed) % 100000)};
        struct progress_state state[2] = {{.on_demand = next_random(&seed) % 2}};
        const int64_t now_us = (int64_t)(next_random(&seed) % 86400) * S;
        const double ready = (double)(next_random(&seed) % 3);
        struct progress_decision d[2];
        state[1] = state[0];
        memset(d, 0, sizeof(d));
        for (int k = 0; k < 2; k++) {
            struct batch_market b;
            batch_market_init(&b, ready, 1, S);
            batch_market_sleeper(&b, 2, &l, POWER_SLEEP, k ? &flat : NULL, 1);
            batch_market_hours(&b, MONDAY + now_us, work.due_us - now_us);
            progress_decide(&d[k], &state[k], now_us, &work, 1, &b.m);
        }
        CHECK(memcmp(&d[0], &d[1], sizeof(d[0])) == 0 && state[0].on_demand == state[1].on_demand);
    }
}

/* The example of docs/POLICIES.md: two machines asleep, 400 tokens/s each, 980 W more at work; a report of 5.76 million
 * tokens (two hours of both) is asked for at 15:00 and due at 08:00. */
static void the_worked_example(void)
{
    static const struct {
        int64_t at_s;
        double done;
        enum progress_where where;
        enum progress_reason reason;
    } steps[] = {{15 * 3600, 0, PROGRESS_WAIT, PROGRESS_DEAR_HOUR},
                 {22 * 3600 - 1, 0, PROGRESS_WAIT, PROGRESS_DEAR_HOUR},
                 {22 * 3600, 0, PROGRESS_ON_DEMAND, PROGRESS_CHEAP_HOUR},
                 {23 * 3600, 0.5, PROGRESS_ON_DEMAND, PROGRESS_CHEAP_HOUR},
                 {24 * 3600 + 10, 1, PROGRESS_WAIT, PROGRESS_NOTHING_TO_DO}};
    const struct power_levels l = machine();
    struct progress_state state = {0};
    struct progress_decision d;
    struct batch_market b;

    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        const int64_t now_us = MONDAY + steps[i].at_s * S;
        const struct progress_work work = {.came_us = MONDAY + 15 * HOUR,
                                           .due_us = MONDAY + 32 * HOUR,
                                           .tokens = 5.76e6,
                                           .done = steps[i].done * 5.76e6};
        batch_market_init(&b, 0, 0, S);
        for (int k = 0; k < 2; k++)
            batch_market_sleeper(&b, 400, &l, POWER_SLEEP, &night, 1);
        batch_market_hours(&b, now_us, work.due_us - now_us);
        if (i == 0) {
            CHECK_INT(b.hours[0].v, DOLLAR * 588 / 1000); /* 1.96 kW */
            CHECK_INT(b.hours[7].v, DOLLAR * 196 / 1000);
        }
        progress_decide(&d, &state, now_us, &work, 1, &b.m);
        CHECK_INT(d.where, steps[i].where);
        CHECK_INT(d.reason, steps[i].reason);
    }
    /* Four hours and ten seconds of the eight that are cheap are enough twice over; with 4:10 of work they are not. */
    const struct progress_work more = {.came_us = MONDAY + 15 * HOUR, .due_us = MONDAY + 32 * HOUR, .tokens = 12e6};
    state = (struct progress_state){0};
    batch_market_hours(&b, MONDAY + 15 * HOUR, 17 * HOUR);
    progress_decide(&d, &state, MONDAY + 15 * HOUR, &more, 1, &b.m);
    CHECK_INT(d.reason, PROGRESS_CHEAP_HOUR);
    CHECK(progress_asks(&d) == 800);
}

int main(void)
{
    TEST(rates_add_up);
    TEST(what_stands_in_is_not_launched);
    TEST(an_hour_costs_what_the_machines_would_draw);
    TEST(who_is_awake_for_batch_is_not_idle);
    TEST(where_no_hour_is_better_there_are_none);
    TEST(a_flat_tariff_decides_nothing);
    TEST(the_worked_example);
    return TEST_RESULT();
}
