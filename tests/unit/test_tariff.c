/* Proves tariffs (policies/tariff.h): which price holds when, across midnight, months and changes of the clocks; that
 * money is exact and adds up; that cheap hours are found; and what texts mean.
 * links: spw_policies */
#include "policies/tariff.h"
#include "tests/unit/test.h"

#include "policies/period.h"

#define H   INT64_C(3600)
#define DAY (24 * H)
#define US  INT64_C(1000000)
#define MON (INT64_C(1704067200)) /* 2024-01-01 00:00 UTC, a Monday */

static uint64_t random_state = 9;
static int64_t below(int64_t n)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (int64_t)((z ^ (z >> 31)) % (uint64_t)n);
}

static struct tariff day_and_night(void)
{
    struct tariff t = {.uusd_per_kwh = 80000, .n_rules = 2};
    struct error e;
    CHECK_INT(tariff_when_parse("mon-fri 07:00-20:00", &t.rules[0], &e), RC_OK);
    CHECK_INT(tariff_when_parse("fri 22:00-02:00", &t.rules[1], &e), RC_OK);
    t.rules[0].uusd_per_kwh = 200000;
    t.rules[1].uusd_per_kwh = 10000;
    CHECK_INT(tariff_check(&t, &e), RC_OK);
    return t;
}

static void price_by_hour(void)
{
    struct tariff t = day_and_night();
    CHECK_INT(tariff_at(&t, MON), 80000);
    CHECK_INT(tariff_at(&t, MON + 7 * H - 1), 80000);
    CHECK_INT(tariff_at(&t, MON + 7 * H), 200000);
    CHECK_INT(tariff_at(&t, MON + 20 * H - 1), 200000);
    CHECK_INT(tariff_at(&t, MON + 20 * H), 80000);
    CHECK_INT(tariff_at(&t, MON + 5 * DAY + 12 * H), 80000); /* Saturday */
    CHECK_INT(tariff_at(&t, MON + 4 * DAY + 23 * H), 10000); /* Friday night... */
    CHECK_INT(tariff_at(&t, MON + 5 * DAY + 1 * H), 10000);  /* ...lasts until two */
    CHECK_INT(tariff_at(&t, MON + 5 * DAY + 2 * H), 80000);
    CHECK_INT(tariff_at(&t, MON + 1 * H), 80000); /* Sunday night is no Friday night */
    CHECK_INT(tariff_at(&t, MON - 3 * DAY + 23 * H), 10000);
}

static void months_and_zones(void)
{
    struct zone_change changes[] = {{1711846800, 7200}, {1729990800, 3600}}; /* Europe/Berlin, 2024 */
    struct zone berlin = {.changes = changes, .n = 2, .offset_before_s = 3600};
    struct tariff t = {.uusd_per_kwh = 1, .n_rules = 1, .zone = &berlin};
    struct error e;
    CHECK_INT(tariff_when_parse("nov-mar 06:00-22:00", &t.rules[0], &e), RC_OK);
    t.rules[0].uusd_per_kwh = 2;
    CHECK_INT(tariff_at(&t, MON + 5 * H - 1), 1);
    CHECK_INT(tariff_at(&t, MON + 5 * H), 2);            /* six in Berlin */
    CHECK_INT(tariff_at(&t, 1711846800 + 4 * H), 2);     /* the 31st of March, summer time, seven o'clock */
    CHECK_INT(tariff_at(&t, 1711846800 + 3 * H - 1), 1); /* a second before six */
    CHECK_INT(tariff_at(&t, 1711846800 + 30 * H), 1);    /* April */
}

static void series_goes_before_rules(void)
{
    static const int64_t hours[] = {50000, -20000, 70000};
    struct tariff t = day_and_night();
    t.series = hours, t.n_series = 3, t.series_from_s = MON + 6 * H, t.series_step_s = 3600;
    CHECK_INT(tariff_at(&t, MON + 6 * H - 1), 80000);
    CHECK_INT(tariff_at(&t, MON + 6 * H), 50000);
    CHECK_INT(tariff_at(&t, MON + 8 * H - 1), -20000);
    CHECK_INT(tariff_at(&t, MON + 9 * H), 200000);
    CHECK_INT(tariff_until(&t, MON + 6 * H - 1), MON + 6 * H);
    t.series_repeats = true;
    CHECK_INT(tariff_at(&t, MON + 10 * H), -20000);
    CHECK_INT(tariff_cost(&t, (MON + 7 * H) * US, (MON + 8 * H) * US, 1000000).v, -20000000000);
}

/* Second by second nothing changes before tariff_until() says so. */
static void until_is_no_later_than_the_change(void)
{
    struct tariff t = day_and_night();
    struct zone_change change = {MON + 3 * DAY + 1800, 3600};
    struct zone odd = {.changes = &change, .n = 1, .offset_before_s = 5400};
    for (int z = 0; z < 2; z++) {
        t.zone = z ? &odd : NULL;
        for (int64_t at = MON; at < MON + 8 * DAY;) {
            int64_t until = tariff_until(&t, at), price = tariff_at(&t, at);
            CHECK(until > at);
            for (int64_t s = at; s < until && s < MON + 8 * DAY; s += 60)
                if (tariff_at(&t, s) != price && s != at)
                    CHECK(z && s >= change.at_s && at < change.at_s); /* none: clocks change on the half hour here */
            at = until;
        }
    }
}

static void money_is_exact(void)
{
    struct tariff t = {.uusd_per_kwh = 120000};
    CHECK_INT(tariff_cost(&t, 0, 3600 * US, 1000000).v, 120000000000); /* 1 kW for an hour: $0.12 */
    CHECK_INT(tariff_energy_cost(TARIFF_MJ_PER_KWH, 120000).v, 120000000000);
    CHECK_INT(tariff_energy_cost(1, 1800).v, 1); /* halves away from zero */
    CHECK_INT(tariff_energy_cost(1, -1800).v, -1);
    CHECK_INT(tariff_energy_cost(1, 1799).v, 0);
    CHECK_INT(tariff_energy_cost(INT64_MAX, 1000000000).v, INT64_MAX);
    struct tariff d = day_and_night();
    for (int i = 0; i < 20000; i++) {
        int64_t a = MON * US + below(7 * DAY * US), b = a + below(2 * DAY * US), c = b + below(2 * DAY * US);
        int64_t mw = below(3000000);
        int64_t whole = tariff_cost(&d, a, c, mw).v;
        int64_t parts = tariff_cost(&d, a, b, mw).v + tariff_cost(&d, b, c, mw).v;
        CHECK(whole - parts <= 1 && parts - whole <= 1);
        CHECK_INT(tariff_cost(&d, a, a, mw).v, 0);
        if (test_run_.group_failed)
            return;
    }
    /* A minute at a time is the week at once, to a pico-dollar each. */
    int64_t sum = 0;
    for (int64_t m = 0; m < 7 * 1440; m++)
        sum += tariff_cost(&d, (MON + m * 60) * US, (MON + m * 60 + 60) * US, 750000).v;
    CHECK_INT(sum, tariff_cost(&d, MON * US, (MON + 7 * DAY) * US, 750000).v);
}

static void cheap_hours_are_found(void)
{
    struct tariff d = day_and_night();
    /* Monday noon, two hours by Tuesday noon: from 20:00 on. */
    CHECK_INT(tariff_cheapest_start_us(&d, (MON + 12 * H) * US, (MON + 36 * H) * US, 2 * H * US), (MON + 20 * H) * US);
    /* Friday noon, three hours: the cheapest hour with two of them in it begins at 22:00. */
    int64_t fri = MON + 4 * DAY;
    CHECK_INT(tariff_cheapest_start_us(&d, (fri + 12 * H) * US, (fri + 36 * H) * US, 3 * H * US), (fri + 22 * H) * US);
    CHECK_INT(tariff_cheapest_start_us(&d, fri * US, (fri + H) * US, 2 * H * US), fri * US);
    for (int i = 0; i < 200; i++) { /* against looking at every five minutes */
        int64_t from = MON + below(7 * DAY), length = 60 + below(6 * H), by = from + length + below(DAY);
        int64_t start = tariff_cheapest_start_us(&d, from * US, by * US, length * US);
        int64_t cost = tariff_cost(&d, start, start + length * US, 1000).v;
        CHECK(start >= from * US && start + length * US <= by * US);
        for (int64_t s = from; s + length <= by; s += 300)
            CHECK(tariff_cost(&d, s * US, (s + length) * US, 1000).v >= cost);
    }
}

static void texts(void)
{
    struct tariff_rule r = {.uusd_per_kwh = 7};
    struct error e;
    int64_t p = 0;
    CHECK_INT(tariff_when_parse("Sat,Sun 00:00-24:00 Dec-Feb", &r, &e), RC_OK);
    CHECK(r.days == 0x60 && r.months == 0x803 && r.from_min == 0 && r.to_min == 1440 && r.uusd_per_kwh == 7);
    static const char *const bad[] = {"",     "  ",   "noon",        "25:00-26:00", "07:00",
                                      "mon-", "mon,", "07:60-08:00", "24:00-02:00", "mon-fri 7:00-9:00"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_INT(tariff_when_parse(bad[i], &r, &e), RC_INVALID);
    CHECK_INT(tariff_price_parse("0.12", &p, &e), RC_OK);
    CHECK_INT(p, 120000);
    CHECK_INT(tariff_price_parse("-$0.000001", &p, &e), RC_OK);
    CHECK_INT(p, -1);
    CHECK_INT(tariff_price_parse("1000", &p, &e), RC_OK);
    static const char *const no[] = {"",     "-",   ".",     "0.1234567",           "1000.1",
                                     "1001", "12c", "1.2.3", "99999999999999999999"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        CHECK_INT(tariff_price_parse(no[i], &p, &e), RC_INVALID);
}

static void bad_tariffs(void)
{
    struct error e;
    struct tariff t = {.uusd_per_kwh = 2000000000};
    CHECK_INT(tariff_check(&t, &e), RC_INVALID);
    t = day_and_night();
    t.rules[1].days = 0;
    CHECK_INT(tariff_check(&t, &e), RC_INVALID);
    CHECK(strstr(e.message, "rule 2 holds on no day"));
    int64_t hours[] = {1};
    t = (struct tariff){.series = hours, .n_series = 1, .series_step_s = 1};
    CHECK_INT(tariff_check(&t, &e), RC_INVALID);
}

int main(void)
{
    TEST(price_by_hour);
    TEST(months_and_zones);
    TEST(series_goes_before_rules);
    TEST(until_is_no_later_than_the_change);
    TEST(money_is_exact);
    TEST(cheap_hours_are_found);
    TEST(texts);
    TEST(bad_tariffs);
    return TEST_RESULT();
}
