/* Proves that each local date has one night, whatever its clock does, that missed nights are made up in order and
 * bounded, that the day and the month before are what is reported, and that a clock which went wrong stops nothing for
 * good. The laws are held against planted mistakes as well: each of them is found.
 * links: spw_sched_nightly spw_sched_budgets spw_policies */
#include "tests/unit/test.h"

#include "scheduler/budgets/zone.h"
#include "scheduler/nightly/schedule.h"

#define DAY_S INT64_C(86400)
#define YEAR  2026

static int64_t utc(int month, int day, int hour, int minute)
{
    return date_to_days(YEAR, month, day) * DAY_S + hour * 3600 + minute * 60;
}

static const struct schedule six = {.at_s = 6 * 3600, .by_day = true, .by_month = true};

static void test_first(void)
{
    struct schedule_night n[SCHEDULE_NIGHTS_MAX];
    int64_t next;
    const int64_t done = utc(11, 28, 6, 0);
    CHECK_INT(schedule_due(&six, done, utc(11, 29, 5, 59), n, &next), 0);
    CHECK_INT(next, utc(11, 29, 6, 0));
    CHECK_INT(schedule_due(&six, done, utc(11, 29, 6, 0), n, &next), 1);
    CHECK_INT(n[0].at_s, utc(11, 29, 6, 0));
    CHECK_STR(n[0].day, "2026-11-28");
    CHECK_STR(n[0].month, "");
    CHECK_INT(next, utc(11, 30, 6, 0));
    CHECK_INT(schedule_due(&six, done, utc(12, 1, 6, 0), n, &next), 3);
    CHECK_STR(n[2].day, "2026-11-30");
    CHECK_STR(n[2].month, "2026-11");
    const struct schedule month = {.at_s = 0, .by_month = true};
    CHECK_INT(schedule_due(&month, utc(2, 27, 0, 0), utc(3, 1, 0, 0), n, &next), 2);
    CHECK_STR(n[0].day, "");
    CHECK_STR(n[0].month, "");
    CHECK_STR(n[1].month, "2026-02");
}

/* 2026-03-29 has no 02:30 in Berlin, 2026-10-25 has two. */
static void test_clock_changes(void)
{
    struct schedule_night n[SCHEDULE_NIGHTS_MAX];
    struct zone *zone = NULL;
    struct error e;
    int64_t next;
    if (zone_load(&zone, "Europe/Berlin", &e) != RC_OK) {
        printf("skipped: test_clock_changes: %s\n", e.message);
        return;
    }
    const struct schedule s = {.at_s = 2 * 3600 + 1800, .zone = zone, .by_day = true};
    CHECK_INT(schedule_due(&s, utc(3, 28, 1, 30), utc(3, 30, 0, 30), n, &next), 2);
    CHECK_INT(n[0].at_s, utc(3, 29, 1, 0));
    CHECK_STR(n[0].day, "2026-03-28");
    CHECK_INT(n[1].at_s, utc(3, 30, 0, 30));
    CHECK_INT(schedule_due(&s, utc(10, 24, 0, 30), utc(10, 25, 23, 0), n, &next), 1);
    CHECK_INT(n[0].at_s, utc(10, 25, 0, 30));
    CHECK_INT(next, utc(10, 26, 1, 30));
    zone_free(zone);
}

static void test_wrong_clock(void)
{
    struct schedule_night n[SCHEDULE_NIGHTS_MAX];
    int64_t next;
    CHECK_INT(schedule_due(&six, utc(11, 28, 6, 0) + 900 * DAY_S, utc(11, 28, 7, 0), n, &next), 1);
    CHECK_INT(n[0].at_s, utc(11, 28, 6, 0));
    CHECK_INT(schedule_due(&six, utc(11, 28, 6, 0), utc(11, 27, 6, 0), n, &next), 0); /* an hour back: nothing twice */
    CHECK_INT(schedule_due(&six, 0, utc(11, 28, 7, 0), n, &next), SCHEDULE_NIGHTS_MAX);
    CHECK_INT(n[SCHEDULE_NIGHTS_MAX - 1].at_s, utc(11, 28, 6, 0));
    CHECK_INT(n[0].at_s, utc(11, 28, 6, 0) - (SCHEDULE_NIGHTS_MAX - 1) * DAY_S);
}

/* ---- laws, and what breaks them ---------------------------------------------------------------------------------- */

typedef int due_fn(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s);

/* Looking every `step` seconds through a year, being off now and then: every date once, in order, never early, and
 * never more than a step late while somebody looked. */
static bool laws_hold(due_fn *due, const struct schedule *s, int64_t step)
{
    struct schedule_night n[SCHEDULE_NIGHTS_MAX];
    int64_t done = utc(1, 1, 0, 0), next, day = -1, nights = 0;
    bool good = true;
    for (int64_t now = done, looks = 0; now < utc(12, 31, 0, 0); now += step, looks++) {
        if (looks % 97 == 96)
            now += 3 * DAY_S;
        const int k = due(s, done, now, n, &next);
        good = good && k <= SCHEDULE_NIGHTS_MAX && next > now;
        for (int i = 0; i < k; i++) {
            int y, m, d;
            good = good && sscanf(n[i].day, "%d-%d-%d", &y, &m, &d) == 3 && n[i].at_s > done && n[i].at_s <= now;
            const int64_t reported = good ? date_to_days(y, m, d) : 0;
            good = good && (day < 0 || reported == day + 1);
            const int64_t local = zone_to_local(s->zone, n[i].at_s);
            good = good && local / DAY_S == reported + 1 && local % DAY_S >= s->at_s && local % DAY_S <= s->at_s + 3600;
            good = good && (n[i].month[0] != 0) == (d == date_month_days(y, m));
            day = reported;
            done = n[i].at_s;
            nights++;
        }
    }
    return good && nights >= 360;
}

static int right(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    return schedule_due(s, done_s, now_s, n, next_s);
}
/* Days of 24 hours from the last one on. */
static int drifts(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    const struct schedule utc_alone = {.at_s = s->at_s, .by_day = true, .by_month = true};
    return schedule_due(&utc_alone, done_s, now_s, n, next_s);
}
static int early(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    const int k = schedule_due(s, done_s, now_s + 1800, n, next_s);
    return k;
}
static int forgets(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    const int k = schedule_due(s, done_s, now_s, n, next_s);
    if (k > 1)
        n[0] = n[k - 1];
    return k > 1 ? 1 : k;
}
static int repeats(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    return schedule_due(s, done_s - 1, now_s, n, next_s);
}
static int today(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    const int k = schedule_due(s, done_s, now_s, n, next_s);
    for (int i = 0; i < k; i++) {
        int64_t y;
        int m, d;
        date_from_days(zone_to_local(s->zone, n[i].at_s) / DAY_S, &y, &m, &d);
        snprintf(n[i].day, sizeof n[i].day, "%04d-%02d-%02d", (int)y % 10000, m, d);
    }
    return k;
}
static int no_months(const struct schedule *s, int64_t done_s, int64_t now_s, struct schedule_night *n, int64_t *next_s)
{
    struct schedule days = *s;
    days.by_month = false;
    return schedule_due(&days, done_s, now_s, n, next_s);
}

static void test_laws(void)
{
    static due_fn *const planted[] = {drifts, early, forgets, repeats, today, no_months};
    static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"};
    struct error e;
    int found[6] = {0};
    for (int i = 0; i < 4; i++) {
        struct zone *zone = NULL;
        if (zone_load(&zone, zones[i], &e) != RC_OK) {
            printf("skipped: %s: %s\n", zones[i], e.message);
            continue;
        }
        for (int at = 0; at < 24; at += TEST_SANITIZED ? 12 : 1) {
            const struct schedule s = {.at_s = at * 3600 + 1800, .zone = zone, .by_day = true, .by_month = true};
            CHECK(laws_hold(right, &s, 1800));
            CHECK(laws_hold(right, &s, 40000));
            for (int k = 0; k < 6 && at == 12; k++)
                found[k] += !laws_hold(planted[k], &s, 1800);
        }
        zone_free(zone);
        for (int k = 0; k < 6; k++)
            CHECK(found[k] > i);
    }
}

int main(void)
{
    TEST(test_first);
    TEST(test_clock_changes);
    TEST(test_wrong_clock);
    TEST(test_laws);
    return TEST_RESULT();
}
