/* Proves what power_foresee() promises: whoever is in service later is more than what was foreseen as seldom as was
 * asked, whether requests come one by one or in heaps; a longer pause teaches nothing; plans made in between change
 * nothing.
 * links: spw_policies m */
#include <math.h>

#include "policies/forecast.h"
#include "policies/power.h"
#include "tests/unit/test.h"

#define S      INT64_C(1000000)
#define HOLD_S 10
#define ENDS   4096 /* a ring of seconds: how many end then */
#define DAY_S  40000

static uint64_t random_state;
static double uniform(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

static int poisson(double mean)
{
    int n = -1;
    for (double t = 0; t < mean; n++)
        t -= log(uniform());
    return n > 0 ? n : 0;
}

struct model {
    struct forecast forecast;
    struct power_group group;
    int ends[ENDS], in_use, heap; /* so many come at once */
    int exceeded, compared;       /* of the step under test */
    double spread;                /* sum of what was foreseen beyond what was there */
    double said[128];
    int step, ahead_s, extra;
    double spare_w;
};

static void one_second(struct model *m, int t)
{
    m->in_use -= m->ends[t % ENDS];
    m->ends[t % ENDS] = 0;
    for (int heaps = poisson(40.0 / m->heap); heaps > 0; heaps--)
        for (int i = 0; i < m->heap; i++) {
            int holds = 1 + (int)(-log(uniform()) * HOLD_S);
            m->ends[(t + (holds < ENDS ? holds : ENDS - 1)) % ENDS]++;
            m->in_use++;
            forecast_observe(&m->forecast, t * INT64_C(1000000000), t % FORECAST_WEEK_S, HOLD_S + 0.5);
        }
    struct power_outlook o = {.forecast = &m->forecast,
                              .in_use = m->in_use,
                              .hold_s = HOLD_S,
                              .z = 2.3,
                              .spare_w = m->spare_w,
                              .now_us = t * S,
                              .tick_us = S};
    for (int i = 0; i <= m->extra; i++)
        power_foresee(&m->group, &o);
    if (t > DAY_S / 4) {
        m->exceeded += m->in_use > m->said[t % 128];
        m->spread += m->said[t % 128] - m->in_use;
        m->compared++;
    }
    m->said[(t + m->ahead_s) % 128] = m->group.steps[m->step].capacity;
}

static double run(struct model *m, int step, int ahead_s, int heap)
{
    *m = (struct model){.heap = heap, .step = step, .ahead_s = ahead_s, .extra = m->extra, .spare_w = m->spare_w};
    forecast_init(&m->forecast, FORECAST_SLOTS);
    for (int t = 0; t < DAY_S; t++)
        one_second(m, t);
    return (double)m->exceeded / m->compared;
}

static void as_seldom_as_asked(void)
{
    static const struct {
        int step, ahead_s;
    } steps[] = {{0, 5}, {1, 10}, {3, 40}, {4, 80}};
    static struct model m;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        for (int heap = 1; heap <= 20; heap *= 20) {
            random_state = 7;
            double share = run(&m, steps[i].step, steps[i].ahead_s, heap);
            printf("# %2d s ahead, %2d at once: more came %.2f%% of the time, %.0f spare in the mean, width %.2f\n",
                   steps[i].ahead_s, heap, 100 * share, m.spread / m.compared, m.group.tried[steps[i].step].width);
            CHECK(share < 0.025);
            CHECK(m.spread / m.compared < 400 * (heap > 1 ? 1.2 : 0.4));
        }
}

/* Far ahead more comes as often as it is worth: 28 W of spare capacity for a request that need not wait. */
static void dear_room_is_kept_less(void)
{
    static const struct {
        double spare_w, least, most;
    } prices[] = {
        {0.1, 0.008, 0.015}, {1.5, 0.04, 0.065}, {3, 0.08, 0.115}, {100, 0.11, 0.145}}; /* at most half of z */
    static struct model m;
    double spare = 1e9;
    for (size_t i = 0; i < sizeof prices / sizeof *prices; i++) {
        random_state = 13;
        m.spare_w = prices[i].spare_w;
        double share = run(&m, 4, 80, 1);
        printf("# room for one costs %.1f W: more came %.2f%% of the time, %.0f spare in the mean\n", m.spare_w,
               100 * share, m.spread / m.compared);
        CHECK(share > prices[i].least && share < prices[i].most);
        CHECK(m.spread / m.compared < spare);
        spare = m.spread / m.compared;
    }
    random_state = 13; /* what is missing at once is missing, whatever it costs */
    CHECK(run(&m, 1, 10, 1) < 0.015);
    m.spare_w = 0;
}

static void heaps_need_more(void)
{
    static struct model one, twenty;
    random_state = 8;
    run(&one, 1, 10, 1);
    run(&twenty, 1, 10, 20);
    CHECK(twenty.group.tried[1].width > one.group.tried[1].width);
}

static void plans_in_between(void)
{
    static struct model once, thrice;
    random_state = 9;
    run(&once, 1, 10, 20);
    random_state = 9;
    thrice.extra = 2;
    run(&thrice, 1, 10, 20);
    CHECK(thrice.group.tried[1].width == once.group.tried[1].width);
    CHECK(thrice.group.steps[5].capacity == once.group.steps[5].capacity);
}

static void a_pause_teaches_nothing(void)
{
    static struct model m;
    random_state = 10;
    run(&m, 1, 10, 1);
    double width = m.group.tried[1].width;
    struct power_outlook o = {.forecast = &m.forecast,
                              .in_use = 5000,
                              .hold_s = HOLD_S,
                              .z = 2.3,
                              .now_us = (DAY_S + 3600) * S,
                              .tick_us = S};
    power_foresee(&m.group, &o);
    CHECK(m.group.tried[1].width == width);
    CHECK_INT(m.group.tried[1].n, 1);
}

static void what_nobody_asks_for_is_forgotten(void)
{
    static struct model m;
    random_state = 11;
    run(&m, 1, 10, 1);
    struct power_outlook o = {.forecast = &m.forecast,
                              .hold_s = HOLD_S,
                              .z = 2.3,
                              .now_us = DAY_S * S,
                              .tick_us = S,
                              .quiet_us = 299 * S,
                              .forget_us = 300 * S};
    power_foresee(&m.group, &o);
    CHECK(m.group.n_steps == POWER_STEPS_MAX && m.group.margin > 0);
    o.quiet_us = 301 * S;
    o.in_use = 1; /* somebody is there still */
    power_foresee(&m.group, &o);
    CHECK(m.group.n_steps == POWER_STEPS_MAX && m.group.now > 0);
    o.in_use = 0;
    power_foresee(&m.group, &o);
    CHECK(m.group.n_steps == 0 && m.group.now == 0 && m.group.margin == 0);
    o.forget_us = 0; /* never */
    power_foresee(&m.group, &o);
    CHECK_INT(m.group.n_steps, POWER_STEPS_MAX);
}

static void chance_is_waited_for_where_that_is_in_time(void)
{
    static struct model m;
    random_state = 12;
    run(&m, 1, 10, 1);
    struct power_outlook o = {.forecast = &m.forecast,
                              .in_use = 390,
                              .hold_s = HOLD_S,
                              .z = 2.3,
                              .now_us = DAY_S * S,
                              .tick_us = S,
                              .ttft_us = 3 * S};
    power_foresee(&m.group, &o);
    const double careful = m.group.margin;
    o.wake_us = S; /* too long for a promise of 3 s */
    power_foresee(&m.group, &o);
    CHECK(m.group.margin == careful && careful > 10);
    o.wake_us = 750000;
    power_foresee(&m.group, &o);
    CHECK(m.group.margin < careful / 3);    /* what is expected within a second */
    CHECK(m.group.steps[0].capacity > 400); /* further ahead all is as before */
    o.ttft_us = 0;                          /* nothing is promised */
    power_foresee(&m.group, &o);
    CHECK(m.group.margin == careful);
}

int main(void)
{
    TEST(as_seldom_as_asked);
    TEST(dear_room_is_kept_less);
    TEST(heaps_need_more);
    TEST(plans_in_between);
    TEST(a_pause_teaches_nothing);
    TEST(what_nobody_asks_for_is_forgotten);
    TEST(chance_is_waited_for_where_that_is_in_time);
    return TEST_RESULT();
}
