/* What the cost report says beyond sums: a month's end lies in its band as often as it says, whatever single days do;
 * changes split exactly; planted odd hours are found, and hardly any others.
 * links: spw_sched_report m */
#include "scheduler/report/outlook.h"

#include <math.h>

#include "random.h"
#include "test.h"

static double normal(uint64_t *seed) /* Box & Muller, 1958 */
{
    return sqrt(-2 * log(1 - random_unit(seed))) * cos(2 * M_PI * random_unit(seed));
}

/* Months of weekdays, noise and a level that wanders. */
static void band_holds(void)
{
    static const double week[] = {1.2, 1.25, 1.2, 1.2, 1.1, 0.55, 0.5};
    const int rounds = TEST_FEWER(2000);
    uint64_t seed = 11;
    int inside = 0;
    double off = 0;

    for (int i = 0; i < rounds; i++) {
        double days[80], level = 100, rest = 0;
        const int first = (int)(next_random(&seed) % 7), ahead = 1 + (int)(next_random(&seed) % 25);
        for (int d = 0; d < 49 + ahead; d++) {
            level *= exp(0.01 * normal(&seed));
            days[d] = level * week[(first + d) % 7] * exp(0.06 * normal(&seed));
            if (d < 49 && random_unit(&seed) < 0.03)
                days[d] *= 4; /* an odd day */
            rest += d >= 49 ? days[d] : 0;
        }
        const struct outlook o = outlook_month(days, 49, first, ahead);
        inside += rest >= o.low && rest <= o.high;
        off += (o.expected - rest) / rest;
        CHECK(o.known && o.weekdays && o.low <= o.expected && o.expected <= o.high);
    }
    CHECK(inside > rounds * 0.70 && inside < rounds * 0.92); /* it says 80 % */
    CHECK(fabs(off / rounds) < 0.03);
}

static void what_little_says(void)
{
    const double days[] = {10, 10, 10, 10}, none[30] = {0};
    CHECK(!outlook_month(days, 2, 0, 5).known);
    const struct outlook o = outlook_month(days, 4, 0, 5);
    CHECK(o.known && !o.weekdays && fabs(o.expected - 50) < 1e-9 && fabs(o.high - 50) < 1e-9);
    CHECK(fabs(o.path[4] - 50) < 1e-9 && fabs(o.path[0] - 10) < 1e-9);
    CHECK(outlook_month(days, 4, 0, 0).expected == 0);
    CHECK(outlook_month(none, 30, 3, 10).expected == 0 && outlook_month(none, 30, 3, 10).high == 0);
    CHECK(outlook_month(NULL, 0, 0, 10).known == false);
    double week[28]; /* nobody works on two days of seven */
    for (int i = 0; i < 28; i++)
        week[i] = i % 7 < 5 ? 70 : 0;
    const struct outlook w = outlook_month(week, 28, 0, 7);
    CHECK(fabs(w.expected - 350) < 1 && fabs(w.path[4] - w.path[6]) < 1e-9);
}

static void changes_split(void)
{
    uint64_t seed = 5;
    struct driver d = driver_split(0, (struct pusd_sum){1000}, 10, (struct pusd_sum){1500}, 10);
    CHECK(d.change == 500 && d.volume == 0 && d.price == 500);
    d = driver_split(0, (struct pusd_sum){1000}, 10, (struct pusd_sum){1500}, 15);
    CHECK(d.change == 500 && d.volume == 500 && d.price == 0);
    d = driver_split(0, (struct pusd_sum){0}, 0, (struct pusd_sum){1500}, 15); /* new */
    CHECK(d.volume == 1500 && d.price == 0);
    d = driver_split(0, (struct pusd_sum){1000}, 10, (struct pusd_sum){3000}, 20); /* Bennet: 1250 and 750... */
    CHECK(d.volume == 1250 && d.price == 750);
    for (int i = 0; i < 10000; i++) {
        const struct pusd_sum a = {(__int128)(next_random(&seed) >> (i % 30)) * (i % 7 ? 1 : 1000000)},
                              b = {(__int128)(next_random(&seed) >> (i % 23)) * (i % 5 ? 1 : 1000000)};
        const int64_t q = (int64_t)(next_random(&seed) >> (1 + i % 50)),
                      w = (int64_t)(next_random(&seed) >> (1 + i % 60));
        if (q > 0 && w > 0 && (w / q > 1000 || q / w > 1000))
            continue;
        const struct driver there = driver_split(1, a, q, b, w), back = driver_split(1, b, w, a, q);
        CHECK(there.change == b.v - a.v && there.volume + there.price == there.change);
        CHECK(there.volume == -back.volume); /* the same from either side */
    }
    struct driver some[] = {{0, 5, 5, 0}, {1, -9, 0, -9}, {2, 7, 7, 0}};
    driver_sort(some, 3);
    CHECK_INT(some[0].member, 1);
    CHECK_INT(some[1].member, 2);
}

static void odd_hours(void)
{
    enum { N = 9 * 168, FIRST = 8 * 168 };
    uint64_t seed = 3;
    int found_planted = 0, wrong = 0, judged, hours = 0;
    const int rounds = TEST_FEWER(40);

    for (int round = 0; round < rounds; round++) {
        static double x[N];
        struct anomaly out[16];
        const int at = FIRST + 5 + (int)(next_random(&seed) % 150);
        for (int i = 0; i < N; i++)
            x[i] = (10 + 8 * sin(i % 24 * M_PI / 12)) * (i % 168 < 120 ? 1 : 0.4) * exp(0.08 * normal(&seed));
        for (int i = 2; i < 8; i++)
            x[i * 168 + 30] *= i == 4 ? 20 : 1; /* an odd week before does not hide the next */
        for (int i = 0; i < 3; i++)
            x[at + i] *= round % 2 ? 3 : 0.2;
        const int n = anomaly_find(x, N, FIRST, 1, out, 16, &judged);
        hours += judged;
        for (int i = 0; i < n; i++) {
            const bool planted = out[i].from < at + 3 && out[i].until > at;
            found_planted += planted;
            wrong += !planted;
            CHECK(!planted || (out[i].z > 0) == (round % 2 == 1));
        }
    }
    CHECK_INT(hours, rounds * 168);
    CHECK(found_planted >= rounds);
    CHECK(wrong * 200 < hours); /* of two hundred hours, less than one */
}

static void odd_edges(void)
{
    double x[5 * 168] = {0};
    struct anomaly out[2];
    int judged;

    CHECK_INT(anomaly_find(x, 3 * 168, 0, 0, out, 2, &judged), 0);
    CHECK_INT(judged, 0); /* two other weeks are too few */
    x[700] = 5;
    CHECK_INT(anomaly_find(x, 5 * 168, 672, 1, out, 2, &judged), 1);
    CHECK(out[0].from == 700 && out[0].until == 701 && out[0].spent == 5 && out[0].usual == 0);
    CHECK_INT(anomaly_find(x, 5 * 168, 672, 6, out, 2, &judged), 0); /* too small for anybody's look */
    x[710] = 9;
    x[720] = 7;
    CHECK_INT(anomaly_find(x, 5 * 168, 672, 1, out, 2, &judged), 2); /* the two largest */
    CHECK(out[0].from == 710 && out[1].from == 720);
}

int main(void)
{
    TEST(band_holds);
    TEST(what_little_says);
    TEST(changes_split);
    TEST(odd_hours);
    TEST(odd_edges);
    return TEST_RESULT();
}
