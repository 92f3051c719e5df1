/* Batch work and its deadlines: what the uniform-progress rule promises, over random jobs and random spot markets.
 * links: spw_policies */
#include <math.h>
#include <stdlib.h>

#include "policies/progress.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define S 1000000ll

static double unit(uint64_t *state)
{
    return (double)(next_random(state) >> 11) / 9007199254740992.0;
}

/* A world for the rule: machines take a change-over before they compute, spot comes and goes. */
struct world {
    struct progress_work work[6];
    int32_t n;
    struct progress_market m;
    struct pusd prices[96];
    double spot_share, idle_share; /* of ticks */
    double spot_s, demand_s, idle_s, missed, dear_s;
    double dollars; /* of on demand, by the hours' prices, whether or not the rule knows them */
    int switches;
};

static void do_work(struct world *w, double tokens)
{
    for (int32_t i = 0; i < w->n && tokens > 0; i++) { /* the earliest deadline first */
        double part = fmin(tokens, w->work[i].tokens - w->work[i].done);
        w->work[i].done += part;
        tokens -= part;
    }
}

static void run(struct world *w, uint64_t *seed)
{
    struct progress_state state = {0};
    struct progress_decision d;
    int64_t tick = w->m.tick_us, ready_us = 0, end = w->work[w->n - 1].due_us;
    enum progress_where before = PROGRESS_WAIT;
    double spot_rate = w->m.spot_tokens_per_s, idle_rate = w->m.idle_tokens_per_s;
    bool spot_up = false;
    int32_t n_hours = w->m.n_hours;

    for (int64_t now = 0; now < end; now += tick) {
        if (unit(seed) < 0.1)
            spot_up = unit(seed) < w->spot_share;
        w->m.spot_tokens_per_s = spot_up ? spot_rate : 0;
        w->m.idle_tokens_per_s = unit(seed) < w->idle_share ? idle_rate : 0;
        int64_t hour = now / (3600 * S);
        w->m.hour_prices = w->prices + hour;
        w->m.n_hours = n_hours > hour ? n_hours - (int32_t)hour : 0;
        w->m.hour_left_us = (hour + 1) * 3600 * S - now;
        progress_decide(&d, &state, now, w->work, w->n, &w->m);
        if (d.where != before) {
            w->switches++;
            ready_us = now + w->m.changeover_us;
        }
        before = d.where;
        double rented = d.where == PROGRESS_ON_DEMAND ? w->m.on_demand_tokens_per_s
                        : d.where == PROGRESS_SPOT    ? w->m.spot_tokens_per_s
                                                      : 0;
        double computes_s = fmax((double)(now + tick - (ready_us > now ? ready_us : now)) / 1e6, 0);
        w->demand_s += d.where == PROGRESS_ON_DEMAND ? (double)tick / 1e6 : 0;
        w->spot_s += d.where == PROGRESS_SPOT ? (double)tick / 1e6 : 0;
        w->dollars += d.where == PROGRESS_ON_DEMAND ? (double)w->prices[hour].v * 1e-12 * (double)tick / 3.6e9 : 0;
        if ((d.where == PROGRESS_SPOT || (d.where == PROGRESS_ON_DEMAND && w->m.hours_on_demand)) && n_hours &&
            w->m.hour_prices[0].v > w->prices[n_hours - 1].v)
            w->dear_s += (double)tick / 1e6;
        /* What is done by each deadline is what counts: work past a deadline within this tick is cut there. */
        double done = rented * computes_s + w->m.idle_tokens_per_s * (double)tick / 1e6;
        do_work(w, d.where == PROGRESS_WAIT ? 0 : done);
        for (int32_t i = 0; i < w->n; i++)
            if (w->work[i].due_us > now && w->work[i].due_us <= now + tick)
                w->missed += fmax(w->work[i].tokens - w->work[i].done - 1e-6, 0);
    }
}

/* Deadlines that on-demand, launched at once, could meet, on a grid of ticks. */
static void random_world(struct world *w, uint64_t *seed)
{
    double rate = 1000;

    memset(w, 0, sizeof(*w));
    w->m.tick_us = 30 * S;
    w->m.changeover_us = (int64_t)(next_random(seed) % 5) * 90 * S;
    w->m.on_demand_tokens_per_s = rate;
    w->m.spot_tokens_per_s = rate * (0.5 + unit(seed));
    w->m.idle_tokens_per_s = rate * unit(seed) * 0.5;
    w->spot_share = unit(seed);
    w->idle_share = unit(seed) * 0.3;
    w->n = 1 + (int32_t)(next_random(seed) % 6);
    double at_s = 0, sum = 0;
    for (int32_t i = 0; i < w->n; i++) {
        double tokens = rate * (60 + unit(seed) * 3600), slack_s = unit(seed) * unit(seed) * 30000;
        sum += tokens;
        double due_s = fmax(at_s, sum / rate + (double)w->m.changeover_us / 1e6 + 30 + slack_s);
        due_s = ceil(due_s / 30) * 30;
        at_s = due_s;
        w->work[i] = (struct progress_work){.due_us = (int64_t)due_s * S, .tokens = tokens};
    }
    if (next_random(seed) % 2) {
        w->m.n_hours = 96;
        for (int i = 0; i < 96; i++)
            w->prices[i].v = (int64_t)(1 + next_random(seed) % 5) * 1000000000000;
    }
}

static void no_deadline_is_missed(void)
{
    uint64_t seed = 4;
    double demand = 0, all = 0, missed = 0;

    for (int round = 0; round < 3000; round++) {
        struct world w;
        random_world(&w, &seed);
        run(&w, &seed);
        missed += w.missed;
        demand += w.demand_s;
        all += w.demand_s + w.spot_s;
    }
    CHECK(missed == 0);
    CHECK(demand < all * 0.8); /* and yet spot did a good part */
}

/* Own machines that sleep, under a tariff: rows of hours, as tariffs have them. */
static void random_hours(struct world *w, uint64_t *seed)
{
    w->spot_share = 0;
    w->m.spot_tokens_per_s = 0;
    w->m.changeover_us /= 6;
    w->m.n_hours = 96;
    w->m.hours_on_demand = true;
    for (int i = 0; i < 96; i++)
        w->prices[i].v =
            i && next_random(seed) % 4 ? w->prices[i - 1].v : (int64_t)(1 + next_random(seed) % 5) * 1000000000000;
}

/* Against the same rule that does not know the prices. Where nothing is idle it is never dearer by more than 15% and
 * three minutes (twice the time is taken for it, so it may begin in a dearer hour than even progress would), and a
 * seventh cheaper in the mean. A free valley that comes later is one that it cannot know of. */
static void hours_cost_no_deadline_and_save_money(void)
{
    uint64_t seed = 11;

    for (int valleys = 0; valleys < 2; valleys++) {
        double with = 0, without = 0;
        for (int round = 0; round < 1500; round++) {
            struct world w;
            random_world(&w, &seed);
            random_hours(&w, &seed);
            w.idle_share *= valleys;
            struct world blind = w;
            uint64_t same = seed;
            blind.m.n_hours = 0;
            run(&w, &seed);
            run(&blind, &same);
            CHECK(w.missed == 0 && blind.missed == 0);
            CHECK(valleys || w.dollars <= 1.15 * blind.dollars + 5 * 0.05);
            with += w.dollars;
            without += blind.dollars;
        }
        CHECK(with < without * (valleys ? 0.95 : 0.86));
    }
}

static struct world one_job(double hours_of_work, double hours)
{
    struct world w = {.n = 1};

    w.m = (struct progress_market){
        .on_demand_tokens_per_s = 1000, .spot_tokens_per_s = 1000, .changeover_us = 180 * S, .tick_us = 30 * S};
    w.work[0] = (struct progress_work){.due_us = (int64_t)(hours * 3600) * S, .tokens = hours_of_work * 3.6e6};
    return w;
}

static void spot_that_stays_does_all(void)
{
    struct world w = one_job(4, 8);
    uint64_t seed = 1;

    w.spot_share = 1;
    run(&w, &seed);
    CHECK(w.missed == 0);
    CHECK(w.demand_s < 1500); /* until spot was first up, and then two change-overs ahead */
    CHECK(w.spot_s < 4.2 * 3600);
}

static void without_spot_it_runs_about_its_hours_on_demand(void)
{
    struct world w = one_job(4, 8);
    uint64_t seed = 1;

    w.spot_share = 0;
    run(&w, &seed);
    CHECK(w.missed == 0);
    CHECK(w.demand_s > 4 * 3600 && w.demand_s < 5.0 * 3600);
}

/* Hysteresis: a change of machines costs a change-over; half of the time without spot doesn't mean one each tick. */
static void it_does_not_flap(void)
{
    struct world w = one_job(6, 12);
    uint64_t seed = 3;

    w.spot_share = 0.5;
    run(&w, &seed);
    CHECK(w.missed == 0);
    CHECK(w.switches < 120); /* of 1,440 ticks, while spot itself changes about 70 times */
}

static void valleys_are_filled_and_nothing_rented(void)
{
    struct world w = one_job(2, 10);
    uint64_t seed = 1;

    w.m.idle_tokens_per_s = 800;
    w.idle_share = 1;
    w.spot_share = 1;
    run(&w, &seed);
    CHECK(w.missed == 0 && w.spot_s == 0 && w.demand_s == 0);
}

static void cheap_hours_are_waited_for(void)
{
    struct world w = one_job(2, 12);
    uint64_t seed = 1;

    w.spot_share = 1;
    w.m.n_hours = 12;
    for (int i = 0; i < 12; i++)
        w.prices[i].v = (i < 6 ? 3 : 1) * 1000000000000; /* dear until hour 6 */
    run(&w, &seed);
    CHECK(w.missed == 0);
    CHECK(w.dear_s == 0);
    CHECK(w.demand_s < 600);
}

/* Own machines that sleep: 0 to n hours of price[i] dollars each. */
static struct world own_job(double hours_of_work, int n, int (*price)(int hour))
{
    struct world w = one_job(hours_of_work, n);

    w.m.spot_tokens_per_s = 0;
    w.m.n_hours = n;
    w.m.hours_on_demand = true;
    for (int i = 0; i < n; i++)
        w.prices[i].v = price(i) * INT64_C(1000000000000);
    return w;
}

static int cheap_at_the_end(int hour)
{
    return hour < 12 ? 3 : 1;
}

static int cheap_twice(int hour)
{
    return hour >= 4 && hour < 12 ? 3 : 1;
}

static int three_prices(int hour)
{
    return hour < 8 ? 3 : hour < 10 ? 1 : 2;
}

static void a_day_of_two_prices_runs_in_its_cheap_hours(void)
{
    struct world w = own_job(3, 20, cheap_at_the_end);
    uint64_t seed = 1;

    run(&w, &seed);
    CHECK(w.missed == 0 && w.dear_s == 0);
    CHECK(fabs(w.dollars - 3.05) < 0.01); /* three hours and a start */
    w = own_job(6, 20, cheap_twice);      /* four of them now, and not a tick longer */
    run(&w, &seed);
    CHECK(w.missed == 0 && w.dear_s == 0 && w.switches == 4);
    CHECK(fabs(w.dollars - 6.1) < 0.01);
    w = own_job(5, 20, cheap_at_the_end); /* it takes ten of eight hours by the rule: one is run at once */
    run(&w, &seed);
    CHECK(w.missed == 0 && w.dear_s > 3600 && w.dear_s < 1.1 * 3600);
    w = own_job(2, 20, three_prices); /* the two that cost 1, and the first minutes that cost 2 for the start's */
    run(&w, &seed);
    CHECK(w.missed == 0 && w.dear_s == 0 && w.switches == 2);
    CHECK(fabs(w.dollars - 2.1) < 0.02);
}

/* Not two change-overs ahead, four minutes before it gets cheap. */
static void nobody_stays_on_demand_in_a_dear_hour(void)
{
    struct world w = own_job(3.97, 9, cheap_twice);
    struct progress_state s = {.on_demand = true};
    struct progress_decision d;

    w.prices[0].v *= 3;
    w.m.hour_prices = w.prices;
    for (int i = 1; i < 9; i++)
        w.prices[i].v = w.prices[0].v / 3;
    w.m.hour_left_us = 240 * S;
    w.work[0].due_us = 8 * 3600 * S + 240 * S;
    progress_decide(&d, &s, 0, w.work, 1, &w.m);
    CHECK_INT(d.where, PROGRESS_WAIT);
    CHECK_INT(d.reason, PROGRESS_DEAR_HOUR);
    CHECK(d.behind_tokens < 0 && d.behind_tokens > -2 * 180 * 1000);
}

static void what_cannot_be_met_is_said(void)
{
    struct progress_market m = {.on_demand_tokens_per_s = 100, .changeover_us = 60 * S, .tick_us = 10 * S};
    struct progress_work work = {.due_us = 100 * S, .tokens = 20000};
    struct progress_state s = {0};
    struct progress_decision d;

    progress_decide(&d, &s, 0, &work, 1, &m);
    CHECK_INT(d.where, PROGRESS_ON_DEMAND);
    CHECK_INT(d.reason, PROGRESS_LATE);
    m.on_demand_tokens_per_s = 0;
    progress_decide(&d, &s, 50 * S, &work, 1, &m);
    CHECK_INT(d.where, PROGRESS_WAIT);
    CHECK_INT(d.reason, PROGRESS_NO_CAPACITY);
    CHECK_INT(d.latest_us, INT64_MAX);
    progress_decide(&d, &s, 0, &work, 0, &m);
    CHECK_INT(d.reason, PROGRESS_NOTHING_TO_DO);
    work.done = work.tokens;
    progress_decide(&d, &s, 0, &work, 1, &m);
    CHECK_INT(d.reason, PROGRESS_NOTHING_TO_DO);
    CHECK_STR(progress_where_name(PROGRESS_ON_DEMAND), "on_demand");
    CHECK_STR(progress_reason_text(PROGRESS_SPOT_IS_THERE), "spot is there");
}

/* The example of docs/POLICIES.md. */
static void the_worked_example(void)
{
    struct world w = one_job(4, 10);
    struct progress_state s = {0};
    struct progress_decision d;

    w.m.spot_tokens_per_s = 0;
    w.work[0].done = 2 * 3.6e6;
    progress_decide(&d, &s, 4 * 3600 * S, w.work, 1, &w.m); /* 40% of the time, 50% of the work */
    CHECK_INT(d.where, PROGRESS_WAIT);
    CHECK_INT(d.reason, PROGRESS_AHEAD);
    progress_decide(&d, &s, 5 * 3600 * S + S, w.work, 1, &w.m);
    CHECK_INT(d.reason, PROGRESS_BEHIND);
    CHECK_INT(d.latest_us / S, 8 * 3600 - 390); /* 2 h before the end, less 2 x 3 min and 30 s */
}

static void one_request_waits_for_its_last_moment(void)
{
    const struct progress_market m = {.on_demand_tokens_per_s = 100, .tick_us = S};
    struct progress_state s = {0};
    struct progress_decision d;
    struct progress_rows r = {.n = 0};
    progress_rows_add(&r, 0, 0, 50 * S, 500);
    progress_rows_end(&r, 0);
    CHECK_INT(r.n, 1);
    for (int t = 0; t < 44; t++) { /* it cannot be begun in parts, so it is never behind */
        progress_decide(&d, &s, t * S, r.work, r.n, &m);
        CHECK(d.where == PROGRESS_WAIT && d.reason == PROGRESS_AHEAD && !progress_presses(&d) &&
              progress_asks(&d) == 0);
    }
    progress_decide(&d, &s, 44 * S, r.work, r.n, &m); /* 5 s of work, one look */
    CHECK(d.reason == PROGRESS_DEADLINE && progress_presses(&d) && d.due_us == 50 * S && d.latest_us == 44 * S);
    CHECK(progress_asks(&d) == 100);
}

static void ten_requests_go_evenly(void)
{
    const struct progress_market m = {.on_demand_tokens_per_s = 1000, .tick_us = S};
    struct progress_state s = {0};
    int64_t begun = 0;
    int left = 10;
    for (int t = 1; t < 100; t++) {
        struct progress_rows r = {.n = 0};
        struct progress_decision d;
        for (int i = 0; i < left; i++)
            progress_rows_add(&r, t * S, 0, 100 * S, 100);
        progress_rows_end(&r, begun);
        progress_decide(&d, &s, t * S, r.work, r.n, &m);
        if (d.where != PROGRESS_ON_DEMAND)
            continue;
        CHECK(t >= (11 - left) * 10 || t >= 98);
        left -= left > 0;
        begun = t * S;
    }
    CHECK_INT(left, 0);
}

static void rows_by_deadline(void)
{
    struct progress_rows r = {.n = 0};
    progress_rows_add(&r, 100 * S, 40 * S, 86500 * S, 10);
    progress_rows_add(&r, 100 * S, 50 * S, 90000 * S, 30); /* about as far away */
    progress_rows_add(&r, 100 * S, 60 * S, 130 * S, 0);    /* nothing is known of it: it is something */
    progress_rows_add(&r, 100 * S, 95 * S, 90 * S, 20);    /* it is late */
    progress_rows_end(&r, 70 * S);
    CHECK_INT(r.n, 3);
    CHECK(r.work[0].due_us == 90 * S && r.work[0].came_us < r.work[0].due_us);
    CHECK(r.work[1].due_us == 130 * S && r.work[1].tokens == 1 && r.work[1].came_us == 70 * S);
    CHECK(r.work[2].due_us == 86500 * S && r.work[2].tokens == 40 && r.work[2].grain == 30);
}

static void what_is_not_pressing_asks_for_little(void)
{
    struct progress_decision d = {.where = PROGRESS_SPOT,
                                  .reason = PROGRESS_SPOT_IS_THERE,
                                  .tokens_per_s = 10000,
                                  .even_tokens_per_s = 3,
                                  .left_tokens = 6000};
    CHECK(progress_asks(&d) == 10); /* within ten minutes */
    d.even_tokens_per_s = 50;
    CHECK(progress_asks(&d) == 50);
    d.reason = PROGRESS_LATE;
    CHECK(progress_asks(&d) == 10000);
    d.where = PROGRESS_IDLE_CAPACITY;
    CHECK(progress_asks(&d) == 0);
}

int main(void)
{
    TEST(no_deadline_is_missed);
    TEST(hours_cost_no_deadline_and_save_money);
    TEST(spot_that_stays_does_all);
    TEST(without_spot_it_runs_about_its_hours_on_demand);
    TEST(it_does_not_flap);
    TEST(valleys_are_filled_and_nothing_rented);
    TEST(cheap_hours_are_waited_for);
    TEST(a_day_of_two_prices_runs_in_its_cheap_hours);
    TEST(nobody_stays_on_demand_in_a_dear_hour);
    TEST(what_cannot_be_met_is_said);
    TEST(the_worked_example);
    TEST(one_request_waits_for_its_last_moment);
    TEST(ten_requests_go_evenly);
    TEST(rows_by_deadline);
    TEST(what_is_not_pressing_asks_for_little);
    return TEST_RESULT();
}
