/* Forecasts against worlds whose rate is known.
 * links: spw_policies */
#include "policies/forecast.h"

#include <math.h>

#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define NS 1000000000ll

static double unit(uint64_t *state)
{
    return (double)(next_random(state) >> 11) / 9007199254740992.0;
}

/* A day with a night and an afternoon: 200 to 1,000 tokens/s. */
static double day_rate(double s)
{
    return 600 - 400 * cos(2 * M_PI * fmod(s, 86400) / 86400);
}

static void constant_rate(void)
{
    struct forecast f;
    int64_t t = 0;

    forecast_init(&f, FORECAST_TOKENS);
    for (; t < 3600; t++)
        forecast_observe(&f, t * NS, (int32_t)t, 500);
    struct forecast_value v = forecast_at(&f, 300);
    CHECK(fabs(v.mean - 500) < 1);
    CHECK(v.sd < 80);
    v = forecast_at(&f, 0);
    CHECK(fabs(v.mean - 500) < 1);
}

static void nothing_yet(void)
{
    struct forecast f;

    forecast_init(&f, FORECAST_QPS);
    struct forecast_value v = forecast_at(&f, 60);
    CHECK(v.mean == 0 && v.sd == 0);
    forecast_observe(&f, 5 * NS, 5, 0);
    v = forecast_at(&f, 60);
    CHECK(v.mean == 0);
    forecast_observe(&f, 6 * NS, 6, 100); /* the first request of a route at zero is seen at once */
    v = forecast_at(&f, 60);
    CHECK(v.mean == 10 && v.sd == 10);
    forecast_observe(&f, 3 * NS, 3, 100); /* time never goes back */
    v = forecast_at(&f, 60);
    CHECK(v.mean == 20);
}

static void growth_is_seen_and_damped(void)
{
    struct forecast f;

    forecast_init(&f, FORECAST_TOKENS);
    for (int64_t t = 0; t < 1800; t++)
        forecast_observe(&f, t * NS, (int32_t)t, 100 + (double)t * 0.2);
    double now = 100 + 1800 * 0.2;
    struct forecast_value v = forecast_at(&f, 300);
    CHECK(v.mean > now + 5 && v.mean < now + 300 * 0.2 + 30);
    v = forecast_at(&f, 86400);
    CHECK(v.mean < now * 3.001);
}

static void silence_ends_demand(void)
{
    struct forecast f;

    forecast_init(&f, FORECAST_TOKENS);
    for (int64_t t = 0; t < 1800; t++)
        forecast_observe(&f, t * NS, (int32_t)t, 500);
    forecast_observe(&f, 2700 * NS, 2700, 0);
    struct forecast_value v = forecast_at(&f, 60);
    CHECK(v.mean < 1);
    forecast_observe(&f, 100000 * NS, 100000, 0); /* a long gap */
    v = forecast_at(&f, 60);
    CHECK(v.mean < 0.001);
}

/* Three weeks of days; an hour ahead in the morning, what is known of the week beats "as it is now", and the spread
 * that it states holds. */
static void the_week_is_learnt(void)
{
    static struct forecast f;
    uint64_t seed = 7;
    double miss_sq = 0, naive_sq = 0, within = 0, n = 0;
    const int64_t week = FORECAST_WEEK_S;

    forecast_init(&f, FORECAST_TOKENS);
    for (int64_t t = 0; t < 3 * week; t += 10) {
        double today = 1 + 0.2 * sin((double)(t / 86400) * 2.1);
        double noise = 0.9 + 0.2 * unit(&seed);
        forecast_observe(&f, t * NS, (int32_t)(t % week), day_rate((double)t) * today * noise * 10);
        if (t > 2 * week && t % 600 == 0) {
            struct forecast_value v = forecast_at(&f, 3600);
            double real = day_rate((double)t + 3600) * (1 + 0.2 * sin((double)((t + 3600) / 86400) * 2.1));
            miss_sq += (v.mean - real) * (v.mean - real);
            naive_sq += (f.level - real) * (f.level - real);
            within += fabs(v.mean - real) <= 2 * v.sd;
            n++;
        }
    }
    CHECK(miss_sq < naive_sq / 2);
    CHECK(within / n > 0.85);
}

static void counting_few_requests_is_uncertain(void)
{
    struct forecast f;
    uint64_t seed = 1;

    forecast_init(&f, FORECAST_TOKENS);
    for (int64_t t = 0; t < 7200; t++)
        if (unit(&seed) < 0.02)
            forecast_observe(&f, t * NS, (int32_t)t, 2000); /* one request in 50 s: 40 tokens/s */
        else
            forecast_observe(&f, t * NS, (int32_t)t, 0);
    struct forecast_value v = forecast_at(&f, 60);
    CHECK(v.sd > 15);
    forecast_init(&f, FORECAST_TOKENS); /* one in every ten seconds, for an hour: no forecast was wrong, by luck */
    for (int64_t t = 0; t < 3600; t += 10)
        forecast_observe(&f, t * NS, (int32_t)t, 2000);
    v = forecast_at(&f, 60);
    CHECK(fabs(v.mean - 200) < 1);
    CHECK(v.sd > 50);
}

/* From one bucket to the next half as much again comes: within half a minute that is what is foreseen, as a step and
 * not as a trend. Of slots, on which nobody waits for minutes, the average is followed. */
static void a_leap_is_seen_at_once(void)
{
    for (int slots = 0; slots < 2; slots++) {
        struct forecast f;
        struct forecast_value v;
        uint64_t seed = 3;
        forecast_init(&f, slots ? FORECAST_SLOTS : FORECAST_TOKENS);
        for (int64_t t = 0; t <= 7230; t++)
            for (int32_t i = 0; i < (t < 7200 ? 100 : 150); i++)
                forecast_observe(&f, t * NS, (int32_t)t, 20 * unit(&seed));
        v = forecast_at(&f, 0);
        CHECK(slots ? v.mean < 1350 : fabs(v.mean - 1500) < 75);
        CHECK(slots || (f.level - f.slow < 100 && forecast_at(&f, 240).mean < 1500 * 1.1));
    }
}

/* A day of a constant rate, by chance more or less: the level is never far from it. */
static void chance_is_no_leap(void)
{
    struct forecast f;
    uint64_t seed = 5;
    double most = 0;

    forecast_init(&f, FORECAST_TOKENS);
    for (int64_t t = 0; t < 86400; t++) {
        for (int32_t i = 0; i < 20; i++) /* ten arrivals a second, of sizes that vary as much as they are large */
            forecast_observe(&f, t * NS, (int32_t)t, unit(&seed) < 0.5 ? -10 * log(1 - unit(&seed)) : 0);
        most = t > 600 ? fmax(most, f.level) : 0;
    }
    CHECK(most < 130);
}

/* Less and less came than was foreseen: it may go on like that, but nothing speaks for a rise. And the other way round. */
static void errors_have_a_side(void)
{
    for (int up = 0; up < 2; up++) {
        struct forecast f;
        forecast_init(&f, FORECAST_TOKENS);
        for (int64_t t = 0; t < 7200; t++)
            forecast_observe(&f, t * NS, (int32_t)t, 10 * (double)(up ? t + 100 : 7300 - t) * (double)(t % 2));
        struct forecast_value v = forecast_at(&f, 300);
        CHECK(up ? v.up >= v.sd : v.up < v.sd);
    }
}

int main(void)
{
    TEST(constant_rate);
    TEST(nothing_yet);
    TEST(growth_is_seen_and_damped);
    TEST(silence_ends_demand);
    TEST(the_week_is_learnt);
    TEST(a_leap_is_seen_at_once);
    TEST(chance_is_no_leap);
    TEST(errors_have_a_side);
    TEST(counting_few_requests_is_uncertain);
    return TEST_RESULT();
}
