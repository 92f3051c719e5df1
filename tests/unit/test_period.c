/* Proves that periods cover time without gaps or overlaps in any zone, that days are 23 and 25 hours long where clocks
 * are changed, that months begin on the anchor's day or the month's last, and that the system's time zones are read as
 * its own library reads them (skipped where there is no tz data).
 * links: spw_sched_budgets spw_policies */
#include "tests/unit/test.h"

#include <stdlib.h>
#include <time.h>

#include "policies/period.h"
#include "scheduler/budgets/rules.h"
#include "scheduler/budgets/zone.h"

static uint64_t random_state = 1181783497276652981u;
static int64_t below(int64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int64_t)((random_state * 0x2545f4914f6cdd1du) % (uint64_t)n);
}

static int64_t at(int64_t y, int m, int d, int hour, int minute)
{
    return date_to_days(y, m, d) * 86400 + hour * 3600 + minute * 60;
}

static void test_dates(void)
{
    CHECK_INT(date_to_days(1970, 1, 1), 0);
    CHECK_INT(date_to_days(2000, 3, 1), 11017);
    for (int64_t days = -800000; days < 800000; days += 13) {
        int64_t y;
        int m, d;
        date_from_days(days, &y, &m, &d);
        CHECK(m >= 1 && m <= 12 && d >= 1 && d <= date_month_days(y, m));
        CHECK_INT(date_to_days(y, m, d), days);
    }
}

/* Berlin, 2026: clocks go forward on March 29 at 01:00 UTC, back on October 25 at 01:00 UTC. */
static const struct zone_change berlin_changes[] = {{1774746000, 7200}, {1792890000, 3600}};
static const struct zone berlin = {berlin_changes, 2, 3600};

static void test_zone(void)
{
    CHECK_INT(berlin_changes[0].at_s, at(2026, 3, 29, 1, 0));
    CHECK_INT(berlin_changes[1].at_s, at(2026, 10, 25, 1, 0));
    CHECK_INT(zone_to_utc(&berlin, at(2026, 1, 1, 0, 0)), at(2025, 12, 31, 23, 0));
    CHECK_INT(zone_to_utc(&berlin, at(2026, 3, 29, 2, 30)), at(2026, 3, 29, 1, 0));    /* left out */
    CHECK_INT(zone_to_utc(&berlin, at(2026, 10, 25, 2, 30)), at(2026, 10, 25, 0, 30)); /* the first of two */
    CHECK_INT(zone_to_utc(&berlin, at(2026, 10, 25, 3, 0)), at(2026, 10, 25, 2, 0));
    CHECK_INT(zone_offset(NULL, 5), 0);
}

static void test_days(void)
{
    struct period_spec p = {PERIOD_DAY, 0, &berlin};
    struct period d = period_at(&p, at(2026, 3, 29, 12, 0));
    CHECK_INT(d.start_s, at(2026, 3, 28, 23, 0));
    CHECK_INT(d.end_s - d.start_s, 23 * 3600);
    d = period_at(&p, at(2026, 10, 25, 12, 0));
    CHECK_INT(d.end_s - d.start_s, 25 * 3600);
    d = period_before(&p, d.start_s);
    CHECK_INT(d.end_s - d.start_s, 24 * 3600);
    p.kind = PERIOD_WEEK;
    p.anchor_local_s = PERIOD_MONDAY_S;
    d = period_at(&p, at(2026, 11, 29, 12, 0)); /* a Sunday */
    CHECK_INT(d.start_s, at(2026, 11, 22, 23, 0));
    CHECK_INT(d.end_s, at(2026, 11, 29, 23, 0));
}

static void test_months(void)
{
    struct period_spec p = {PERIOD_MONTH, at(2026, 1, 31, 6, 0), NULL};
    struct period m = period_at(&p, at(2026, 2, 28, 6, 0));
    CHECK_INT(m.start_s, at(2026, 2, 28, 6, 0)); /* the last day of a short month */
    CHECK_INT(m.end_s, at(2026, 3, 31, 6, 0));
    m = period_at(&p, at(2024, 2, 29, 5, 59));
    CHECK_INT(m.start_s, at(2024, 1, 31, 6, 0));
    CHECK_INT(m.end_s, at(2024, 2, 29, 6, 0));
    p = (struct period_spec){PERIOD_MONTH, 0, &berlin};
    m = period_at(&p, at(2026, 10, 31, 22, 59));
    CHECK_INT(m.start_s, at(2026, 9, 30, 22, 0));
    CHECK_INT(m.end_s, at(2026, 10, 31, 23, 0));
}

static void hold_to_laws(const struct zone *z)
{
    for (int i = 0; i < 4000; i++) {
        struct period_spec p = {(enum period_kind)below(4), at(2000, 1, 1, 0, 0) + below(INT64_C(1) << 31) / 60 * 60,
                                z};
        int64_t t = at(1990, 1, 1, 0, 0) + below(at(2050, 1, 1, 0, 0) - at(1990, 1, 1, 0, 0));
        struct period a = period_at(&p, t), next = period_at(&p, a.end_s), last = period_at(&p, a.end_s - 1);
        CHECK(a.start_s <= t && t < a.end_s);
        CHECK_INT(next.start_s, a.end_s);
        CHECK(last.start_s == a.start_s && last.end_s == a.end_s);
        CHECK_INT(period_before(&p, a.start_s).end_s, a.start_s);
        int64_t hours = (a.end_s - a.start_s) / 3600;
        CHECK(p.kind == PERIOD_HOUR   ? hours == 1
              : p.kind == PERIOD_DAY  ? hours >= 21 && hours <= 27
              : p.kind == PERIOD_WEEK ? hours >= 165 && hours <= 171
                                      : hours >= 27 * 24 && hours <= 32 * 24);
    }
}

static void test_laws(void)
{
    static const char *const names[] = {"Europe/Berlin",
                                        "America/New_York",
                                        "Australia/Lord_Howe",
                                        "Asia/Kolkata",
                                        "Africa/Casablanca",
                                        "America/Sao_Paulo",
                                        "UTC"};
    hold_to_laws(NULL);
    hold_to_laws(&berlin);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct zone *z;
        struct error e;
        if (zone_load(&z, names[i], &e) == RC_OK) {
            hold_to_laws(z);
            zone_free(z);
        }
    }
}

/* The C library's own opinion. */
static void test_like_the_library(void)
{
    static const char *const names[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe",
                                        "Asia/Kolkata",  "Pacific/Auckland", "America/Sao_Paulo",
                                        "Asia/Tehran",   "Europe/Dublin"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct zone *z;
        struct error e;
        if (zone_load(&z, names[i], &e) != RC_OK) {
            printf("skipped: no tz data for %s\n", names[i]);
            continue;
        }
        setenv("TZ", names[i], 1);
        tzset();
        for (int k = 0; k < 2000; k++) {
            time_t t = (time_t)(at(1975, 1, 1, 0, 0) + below(at(2090, 1, 1, 0, 0) - at(1975, 1, 1, 0, 0)));
            struct tm tm;
            localtime_r(&t, &tm);
            if (zone_offset(z, t) != tm.tm_gmtoff) {
                CHECK_INT(zone_offset(z, t), tm.tm_gmtoff);
                fprintf(stderr, "%s at %lld\n", names[i], (long long)t);
                break;
            }
        }
        zone_free(z);
    }
    setenv("TZ", "UTC", 1);
    tzset();
}

static void test_bad_zones(void)
{
    struct zone *z;
    struct error e;
    char bytes[300] = "TZif2";
    CHECK_INT(zone_load(&z, "Mars/Olympus", &e), RC_NOT_FOUND);
    CHECK(strstr(e.message, "Mars/Olympus") != NULL);
    CHECK_INT(zone_load(&z, "../../etc/passwd", &e), RC_NOT_FOUND);
    CHECK_INT(zone_load(&z, "/etc/passwd", &e), RC_NOT_FOUND);
    CHECK_INT(zone_parse(&z, "", 0, "x", &e), RC_INVALID);
    for (int i = 0; i < 20000; i++) { /* whatever is in the file */
        size_t n = (size_t)below((int64_t)sizeof bytes);
        for (size_t k = 5; k < sizeof bytes; k++)
            bytes[k] = below(3) ? 0 : (char)below(256);
        if (zone_parse(&z, bytes, n, "x", &e) == RC_OK)
            zone_free(z);
    }
}

static void test_rules(void)
{
    char labels[BUDGET_LABELS_BYTES], name[BUDGET_NAME_BYTES], c1[] = "team=red", c2[] = "env=*", bad[] = "nonsense";
    struct budget_rule r = {.name = "b", .n_match = 2};
    struct error e;
    CHECK_INT(budget_labels_read(" env=prod , feature=a/b ", labels, &e), RC_OK);
    CHECK_STR(labels, ",env=prod,feature=a/b,");
    CHECK_INT(budget_labels_read(NULL, labels, &e), RC_OK);
    CHECK_STR(labels, "");
    CHECK_INT(budget_labels_read("no label", labels, &e), RC_INVALID);
    CHECK_INT(budget_labels_read("a=", labels, &e), RC_INVALID);
    CHECK_INT(budget_labels_read("a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1", labels, &e), RC_INVALID);
    CHECK(budget_match_parse(c1, &r.match[0]) && budget_match_parse(c2, &r.match[1]));
    struct budget_match m;
    CHECK(!budget_match_parse(bad, &m));
    CHECK_INT(budget_labels_read("env=prod", labels, &e), RC_OK);
    struct budget_facts f = {.organisation = "acme", .team = "red", .labels = labels};
    CHECK(budget_rule_covers(&r, &f, name));
    CHECK_STR(name, "b[prod]");
    f.team = "blue";
    CHECK(!budget_rule_covers(&r, &f, name));
    f.team = "red";
    f.labels = ",environ=prod,";
    CHECK(!budget_rule_covers(&r, &f, name));
}

/* Names that do not fit are cut, and end in a number: it stands for every value, not only for the one that is cut. */
static void test_long_names(void)
{
    char org[65], team[2][65], name[2][BUDGET_NAME_BYTES];
    struct budget_rule r = {.name = "a-rule-whose-name-is-as-long-as-the-configuration-lets-it-be-64",
                            .match = {{"organisation", "*"}, {"team", "*"}, {"project", "*"}},
                            .n_match = 3};
    memset(org, 'o', sizeof org - 1);
    org[sizeof org - 1] = '\0';
    for (int i = 0; i < 2; i++) { /* they differ at their ends, which the number takes the place of */
        memset(team[i], 't', 59);
        snprintf(team[i] + 58, 3, "%d", i);
        const struct budget_facts f = {.organisation = org, .team = team[i], .project = "web", .labels = ""};
        CHECK(budget_rule_covers(&r, &f, name[i]));
        CHECK_INT(strlen(name[i]), BUDGET_NAME_BYTES - 1);
        CHECK(strncmp(name[i], r.name, strlen(r.name)) == 0);
    }
    CHECK(strcmp(name[0], name[1]) != 0);
    /* The values, not their letters one after another. */
    const struct budget_facts a = {.organisation = org, .team = org, .project = "abc", .labels = ""};
    struct budget_facts b = a;
    r.match[3] = (struct budget_match){"user", "*"};
    r.n_match = 4;
    b.user = "d";
    CHECK(!budget_rule_covers(&r, &a, name[0]));
    CHECK(budget_rule_covers(&r, &b, name[0]));
    b.project = "ab";
    b.user = "cd";
    CHECK(budget_rule_covers(&r, &b, name[1]));
    CHECK(strcmp(name[0], name[1]) != 0);
}

int main(void)
{
    TEST(test_dates);
    TEST(test_zone);
    TEST(test_days);
    TEST(test_months);
    TEST(test_laws);
    TEST(test_like_the_library);
    TEST(test_bad_zones);
    TEST(test_rules);
    TEST(test_long_names);
    return TEST_RESULT();
}
