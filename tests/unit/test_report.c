/* Proves the report's figures by hand: periods in words and time zones, sums and what came before, by team and by
 * machine, percentiles, budgets with burn-down, savings, corrections, discounts, one team alone; that the CSV of both
 * versions adds up to the books to the pico-dollar, over books that were closed as the daemon closes them; and that
 * hours which are open are said to be missing.
 * links: spw_sched_report spw_sched_books spw_policies */
#include "tests/unit/test.h"

#include <unistd.h>

#include "base/text.h"
#include "scheduler/budgets/zone.h"
#include "scheduler/report/report.h"
#include "scheduler/report/write.h"
#include "tests/unit/books_fill.h"

#define DAY_S   INT64_C(86400)
#define START_S INT64_C(1793491200) /* 2026-11-01T00:00:00Z */
#define DOLLAR  INT64_C(1000000000000)

static char dir[64], path[96];

static void clean(void)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

static void sql(const char *format, ...) SPW_PRINTF(1, 2);
static void sql(const char *format, ...)
{
    const struct ledger_options o = {.path = path};
    char text[2048], *why = NULL;
    struct error e;
    sqlite3 *db = NULL;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    CHECK(ledger_file_open(&db, &o, &e) == RC_OK);
    CHECK_INT(sqlite3_exec(db, text, NULL, NULL, &why), SQLITE_OK);
    if (why)
        printf("%s: %s\n", text, why);
    sqlite3_free(why);
    sqlite3_close(db);
}

/* An hour's roll-up of one team, and its mark. Prices: $1 per million tokens of any kind. */
static void put(int64_t hour_s, const char *team, const char *model, const char *node, const char *market, int requests,
                int64_t input, int64_t output, int64_t allocated)
{
    sql("INSERT INTO hour_rollups VALUES (%lld, 'acme', %s%s%s, NULL, 'k', NULL, '%s', '%s', '%s', '%s', '%s', NULL, "
        "NULL,"
        " NULL, 1000000, 1000000, 1000000, 0, %d, 1, 0, 0, 0, %lld, 0, %lld, 0, %lld, 0, %lld, 0, 1000, 2000);"
        "INSERT OR IGNORE INTO hours VALUES (%lld, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL)",
        (long long)hour_s, team ? "'" : "", team ? team : "NULL", team ? "'" : "", model, node, node,
        strcmp(market, "api") == 0 ? "openai" : "static", market, requests, (long long)input, (long long)output,
        (long long)((input + output) * 1000000), (long long)allocated, (long long)hour_s);
}

/* A machine's hour: busy for a quarter of it. */
static void put_node(int64_t hour_s, const char *node, const char *pool, const char *market, int64_t bill)
{
    const int64_t us = INT64_C(3600000000);
    sql("INSERT INTO node_hours VALUES (%lld, '%s', %s%s%s, 'static', '%s', NULL, %lld, %lld, 0, 0, %lld, %lld, 0, 0, "
        "0,"
        " NULL, %lld, %lld, 0, %lld, 0, 0, 5000, 2000, 3000, 0, 2, 3, 1)",
        (long long)hour_s, node, pool ? "'" : "", pool ? pool : "NULL", pool ? "'" : "", market, (long long)bill,
        (long long)bill, (long long)(bill / 4), (long long)(bill - bill / 4), (long long)us, (long long)(us / 4),
        (long long)(us - us / 4));
}

static struct report *gather(const struct report_options *o)
{
    struct report *r = NULL;
    struct error e = {0};
    CHECK_INT(report_gather(&r, o, &e), RC_OK);
    if (!r) {
        printf("%s\n", e.message);
        exit(1);
    }
    return r;
}

static struct report_options options(const char *period, const struct zone *zone)
{
    const int64_t now_s = START_S + 30 * DAY_S + 7200;
    struct report_options o = {.ledger = path, .zone = zone, .now = {now_s * NS_PER_S}};
    struct error e = {0};
    CHECK_INT(report_period_parse(period, zone, now_s, &o.period, &e), RC_OK);
    return o;
}

/* ---- periods ----------------------------------------------------------------------------------------------------- */

static void check_period(const char *text, const struct zone *zone, const char *now, const char *expect)
{
    char at[4][WRITE_TIME], is[256] = "wrong";
    struct report_period p;
    struct error e;
    int64_t now_s;
    CHECK(text_parse_utc(now, &now_s) == RC_OK);
    if (report_period_parse(text, zone, now_s, &p, &e) == RC_OK)
        snprintf(is, sizeof is, "%s %s %s %s %s", p.name, write_utc(p.from_s, at[0]), write_utc(p.until_s, at[1]),
                 write_utc(p.before_s, at[2]), write_utc(p.before_until_s, at[3]));
    CHECK_STR(is, expect);
}

static void test_periods(void)
{
    struct zone *berlin = NULL, *kolkata = NULL;
    struct error e;
    check_period("yesterday", NULL, "2026-11-29T10:30:00Z",
                 "2026-11-28 2026-11-28T00:00:00Z 2026-11-29T00:00:00Z 2026-11-27T00:00:00Z 2026-11-28T00:00:00Z");
    check_period("today", NULL, "2026-11-29T10:30:00Z",
                 "2026-11-29 2026-11-29T00:00:00Z 2026-11-29T10:00:00Z 2026-11-28T00:00:00Z 2026-11-28T10:00:00Z");
    check_period("2026-10", NULL, "2026-11-29T10:30:00Z",
                 "2026-10 2026-10-01T00:00:00Z 2026-11-01T00:00:00Z 2026-09-01T00:00:00Z 2026-10-01T00:00:00Z");
    check_period("month", NULL, "2026-11-03T00:00:00Z",
                 "2026-11 2026-11-01T00:00:00Z 2026-11-03T00:00:00Z 2026-10-01T00:00:00Z 2026-10-03T00:00:00Z");
    check_period(
        "2026-01..2026-04", NULL, "2026-11-03T00:00:00Z",
        "2026-01..2026-04 2026-01-01T00:00:00Z 2026-04-01T00:00:00Z 2025-10-01T00:00:00Z 2026-01-01T00:00:00Z");
    check_period("2026-11-01..2026-11-08", NULL, "2026-11-29T10:30:00Z",
                 "2026-11-01..2026-11-08 2026-11-01T00:00:00Z 2026-11-08T00:00:00Z 2026-10-25T00:00:00Z"
                 " 2026-11-01T00:00:00Z");
    static const char *const bad[] = {"",
                                      "tomorrow",
                                      "2026-13",
                                      "2026-02-29",
                                      "2026-11-08..2026-11-01",
                                      "2026-11..2026-11-08",
                                      "2026-11-01..",
                                      "2027-01",
                                      "2026-11-29..2026-11-29",
                                      "26-11",
                                      "2026-1-1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        check_period(bad[i], NULL, "2026-11-29T10:30:00Z", "wrong");
    struct report_period none;
    CHECK_INT(report_period_parse("month", NULL, START_S + 3599, &none, &e), RC_INVALID);
    CHECK_STR(e.message, "of 2026-11 no hour is over yet"); /* as a page says it, too: of no option */
    if (zone_load(&berlin, "Europe/Berlin", &e) == RC_OK && zone_load(&kolkata, "Asia/Kolkata", &e) == RC_OK) {
        check_period("yesterday", berlin, "2026-11-28T23:30:00Z",
                     "2026-11-28 2026-11-27T23:00:00Z 2026-11-28T23:00:00Z 2026-11-26T23:00:00Z 2026-11-27T23:00:00Z");
        /* the day on which clocks go back has 25 hours */
        check_period("2026-10-25", berlin, "2026-11-28T23:30:00Z",
                     "2026-10-25 2026-10-24T22:00:00Z 2026-10-25T23:00:00Z 2026-10-23T22:00:00Z 2026-10-24T22:00:00Z");
        /* midnight is at half past an hour: the first whole hour after it */
        check_period("2026-11-28", kolkata, "2026-11-29T23:30:00Z",
                     "2026-11-28 2026-11-27T19:00:00Z 2026-11-28T19:00:00Z 2026-11-26T19:00:00Z 2026-11-27T19:00:00Z");
    } else {
        printf("skipped: zones: no tz data\n");
    }
    zone_free(berlin);
    zone_free(kolkata);
}

/* ---- sums by hand ------------------------------------------------------------------------------------------------- */

/* Two days. Yesterday: search 100 + 50 tokens on gpu-1, nobody 10 on openai. The day before: search 40. Then a machine
 * that costs $4 an hour for two hours. */
static void make_small(void)
{
    const int64_t yesterday = START_S + 29 * DAY_S;
    clean();
    put(yesterday, "search", "m1", "gpu-1", "on-prem", 2, 80, 20, DOLLAR);
    put(yesterday + 3600, "search", "m2", "gpu-1", "on-prem", 1, 50, 0, DOLLAR);
    put(yesterday + 3600, NULL, "m1", "api-1", "api", 1, 6, 4, 0);
    put(yesterday - DAY_S, "search", "m1", "gpu-1", "on-prem", 1, 30, 10, DOLLAR);
    put_node(yesterday, "gpu-1", NULL, "on-prem", 4 * DOLLAR);
    put_node(yesterday + 3600, "gpu-1", NULL, "on-prem", 4 * DOLLAR);
    put_node(yesterday - DAY_S, "gpu-1", NULL, "on-prem", 4 * DOLLAR);
}

static const struct report_member *member(const struct report *r, enum report_dim d, const char *name)
{
    for (int i = 0; i < r->axes[d].n; i++)
        if (strcmp(report_member_name(d, &r->axes[d].of[i]), name) == 0)
            return &r->axes[d].of[i];
    printf("no member %s\n", name);
    exit(1);
}

static void test_sums(void)
{
    make_small();
    const struct report_options o = options("2026-11-30", NULL);
    struct report *r = gather(&o);
    CHECK_INT(r->use.requests, 4);
    CHECK_INT(r->use.failed, 3); /* one in each roll-up */
    CHECK_INT(r->use.charge.v, 160 * 1000000);
    CHECK_INT(r->use_before.charge.v, 40 * 1000000);
    CHECK_INT(r->month.charge.v, 200 * 1000000);
    CHECK_INT(r->cost.bill.v, 8 * DOLLAR);
    CHECK_INT(r->cost.idle.v, 6 * DOLLAR);
    CHECK_INT(r->cost_before.bill.v, 4 * DOLLAR);
    CHECK_INT(r->month_cost.bill.v, 12 * DOLLAR);
    CHECK_INT(r->cost.metered_mj, 10000);
    CHECK_INT(r->cost.preempted, 2);
    CHECK_INT(r->unallocated.charge.v, 10 * 1000000);
    CHECK_INT(report_ppm(r->unallocated.charge, r->use.charge), 62500);
    CHECK_INT(report_per_million(r->use.charge, report_tokens(&r->use)).v, DOLLAR); /* $1 per million */
    CHECK_INT(r->hours.closed, 2);
    CHECK_INT(r->hours.open, 0);
    CHECK_INT(r->month_from_s, START_S);
    CHECK_INT(r->month_until_s, START_S + 30 * DAY_S);
    const struct report_member *search = member(r, REPORT_TEAM, "search"),
                               *nobody = member(r, REPORT_TEAM, "(no team)");
    CHECK_INT(search->use.charge.v, 150 * 1000000);
    CHECK_INT(search->use_before.charge.v, 40 * 1000000);
    CHECK_INT(report_member_cost(REPORT_TEAM, search).v, 2 * DOLLAR);
    CHECK_INT(nobody->use.requests, 1);
    CHECK_INT(report_member_cost(REPORT_POOL, member(r, REPORT_POOL, "gpu-1")).v, 8 * DOLLAR); /* its bill */
    CHECK_INT(member(r, REPORT_MODEL, "m2")->use.tokens.input, 50);
    CHECK_INT(member(r, REPORT_MARKET, "api")->use.charge.v, 10 * 1000000);
    /* days and hours */
    CHECK_INT(r->day_from, r->n_days - 1);
    CHECK_INT(r->day_before, r->n_days - 2);
    CHECK_INT(r->all_days[r->day_from].charge, 160 * 1000000);
    CHECK_INT(r->all_days[r->day_from].cost, 8 * DOLLAR);
    CHECK_INT(search->days[r->day_before].charge, 40 * 1000000);
    CHECK_INT(search->days[r->day_from].cost, 2 * DOLLAR);
    CHECK_INT(r->hour0_s + r->hour_from * INT64_C(3600), o.period.from_s);
    CHECK_INT(search->hours[r->hour_from + 1].tokens, 50);
    CHECK_INT(r->all_hours[r->hour_from + 1].requests, 2);
    report_free(r);
    struct error e;
    struct report_options none = o;
    none.ledger = "/nonexistent/ledger.db";
    CHECK_INT(report_gather(&r, &none, &e), RC_NOT_FOUND);
    CHECK(r == NULL);
}

static void test_team(void)
{
    make_small();
    struct report_options o = options("2026-11-30", NULL);
    o.team = "search";
    struct report *r = gather(&o);
    CHECK_INT(r->use.requests, 3);
    CHECK_INT(r->use.charge.v, 150 * 1000000);
    CHECK_INT(r->cost.bill.v, 0); /* machines are nobody's */
    CHECK_INT(r->axes[REPORT_TEAM].n, 1);
    CHECK_INT(report_member_cost(REPORT_POOL, member(r, REPORT_POOL, "gpu-1")).v, 2 * DOLLAR);
    CHECK_INT(r->all_days[r->day_from].cost, 2 * DOLLAR);
    CHECK_INT(r->n_node_days, 0);
    report_free(r);
    o.team = "nobody-of-this-name";
    r = gather(&o);
    CHECK_INT(r->use.requests, 0);
    report_free(r);
}

static void test_months(void)
{
    make_small();
    const struct report_options o = options("2026-11", NULL);
    struct report *r = gather(&o);
    CHECK_INT(r->use.charge.v, 200 * 1000000);
    CHECK_INT(r->n_days - r->day_from, 30);
    CHECK_INT(r->use_before.requests, 0);
    CHECK_INT(r->days[r->day_from].month_end_s, START_S + 30 * DAY_S);
    report_free(r);
}

/* ---- percentiles -------------------------------------------------------------------------------------------------- */

static void test_units(void)
{
    make_small();
    const int64_t hour = START_S + 29 * DAY_S;
    /* 98 requests of about a dollar, two of about 1,000 */
    const int one = rollup_bucket((struct pusd){DOLLAR}), many = rollup_bucket((struct pusd){1000 * DOLLAR});
    sql("INSERT INTO hour_charges VALUES (%lld, 'm1', 'gpu-1', %d, 98), (%lld, 'm1', 'api-1', %d, 2)", (long long)hour,
        one, (long long)hour, many);
    const struct report_options o = options("2026-11-30", NULL);
    struct report *r = gather(&o);
    CHECK_INT(r->n_units, 5); /* m1: all, gpu-1, api-1; m2: all, gpu-1 */
    CHECK_STR(r->units[0].model, "m1");
    CHECK(r->units[0].pool == NULL);
    CHECK_INT(r->units[0].requests, 100);
    CHECK_INT(r->units[0].p50.v, rollup_bucket_middle(one).v);
    CHECK_INT(r->units[0].p99.v, rollup_bucket_middle(many).v);
    CHECK_STR(r->units[1].pool, "gpu-1"); /* the dearer pool first */
    CHECK_INT(r->units[1].p99.v, rollup_bucket_middle(one).v);
    CHECK_INT(r->units[1].use.requests, 2);
    CHECK(r->units[0].p50.v > DOLLAR * 7 / 8 && r->units[0].p50.v < DOLLAR * 9 / 8);
    report_free(r);
}

/* ---- budgets ------------------------------------------------------------------------------------------------------ */

static void test_budgets(void)
{
    make_small();
    const struct budget_rule rules[] = {{.name = "all",
                                         .period = {.kind = PERIOD_MONTH},
                                         .limits = {.hard = {1000 * 1000000}},
                                         .soft = {BUDGET_UNLIMITED}},
                                        {.name = "each",
                                         .match = {{"team", "*"}},
                                         .n_match = 1,
                                         .period = {.kind = PERIOD_MONTH},
                                         .limits = {.hard = {500 * 1000000}},
                                         .soft = {BUDGET_UNLIMITED}},
                                        {.name = "alice",
                                         .match = {{"user", "alice"}},
                                         .n_match = 1,
                                         .period = {.kind = PERIOD_DAY},
                                         .limits = {.hard = {BUDGET_UNLIMITED}},
                                         .soft = {BUDGET_UNLIMITED}}};
    sql("INSERT INTO budget_totals (name, start_s, spent_pusd, waste_pusd, carried_in_pusd, carried_out_pusd,"
        " topped_up_pusd) VALUES ('all', %lld, 201000000, 1000000, 0, 0, 50000000)",
        (long long)START_S);
    sql("INSERT INTO budget_limits VALUES ('each[search]', 700000000, -1)");
    struct report_options o = options("2026-11-30", NULL);
    o.rules = rules;
    o.n_rules = 3;
    struct report *r = gather(&o);
    CHECK_INT(r->n_budgets, 3);
    const struct report_budget *all = &r->budgets[0], *alice = &r->budgets[1], *search = &r->budgets[2];
    CHECK_STR(all->name, "all");
    CHECK(all->covers_all);
    CHECK_INT(all->spent.v, 201000000);
    CHECK_INT(all->limit.v, 1050 * INT64_C(1000000)); /* topped up */
    CHECK_INT(all->rolled.v, 200000000);
    CHECK_INT(all->n_days, 30);
    CHECK_INT(all->days_in_all, 30);
    CHECK_INT(all->days[27].v, 0);
    CHECK_INT(all->days[28].v, 40000000);
    CHECK_INT(all->days[29].v, 200000000);
    CHECK_STR(alice->name, "alice");
    CHECK(alice->days == NULL); /* users are not in roll-ups */
    CHECK_INT(alice->limit.v, BUDGET_UNLIMITED);
    CHECK_STR(search->name, "each[search]");
    CHECK_STR(search->rule, "each");
    CHECK_INT(search->hard.v, 700000000);
    CHECK_INT(search->rolled.v, 190000000);
    report_free(r);
    o.team = "search"; /* those that it falls under alone */
    r = gather(&o);
    CHECK_INT(r->n_budgets, 2);
    report_free(r);
}

/* ---- savings ------------------------------------------------------------------------------------------------------ */

static void test_savings(void)
{
    make_small();
    const int64_t hour = START_S + 29 * DAY_S;
    put_node(hour, "s-1", "spots", "spot", 2 * DOLLAR);
    put_node(hour, "d-1", "spots", "on-demand", 5 * DOLLAR);
    const struct report_reference references[] = {
        {.subject = "m1", .prices = {{2000000}, {1000000}, {4000000}}, .source = "test"},
        {.subject = "gpu-1", .by_hour = true, .hour = {10 * DOLLAR}, .source = "test"}};
    struct report_options o = options("2026-11-30", NULL);
    o.references = references;
    o.n_references = 2;
    struct report *r = gather(&o);
    const struct report_saving *api = &r->savings[REPORT_ALL_API], *demand = &r->savings[REPORT_ALL_ON_DEMAND];
    const struct report_saving *spot = &r->savings[REPORT_SPOT];
    /* m1: 86 input at 2, 24 output at 4; m2 has no reference: what it did cost, $1 */
    CHECK_INT(api->would.v, (86 * 2 + 24 * 4) * INT64_C(1000000) + DOLLAR);
    CHECK_INT(api->is.v, 15 * DOLLAR);
    CHECK_INT(api->saved.v, api->would.v - 15 * DOLLAR);
    CHECK_INT(api->known_ppm, 687500); /* 110 of 160 tokens */
    /* gpu-1: two hours at $10; the pool's two at what d-1 paid, $5 */
    CHECK_INT(demand->would.v, 30 * DOLLAR);
    CHECK_INT(demand->would_least.v, 30 * DOLLAR / 4); /* busy for a quarter of it */
    CHECK_INT(demand->is.v, 15 * DOLLAR);
    CHECK_INT(demand->known_ppm, 1000000);
    CHECK_INT(spot->would.v, 5 * DOLLAR);
    CHECK_INT(spot->saved.v, 3 * DOLLAR);
    CHECK_INT(r->n_prices_used, 3);
    report_free(r);
    /* finance's price goes before the configuration's */
    const struct finance_change c = {.at = {START_S * NS_PER_S},
                                     .who = "test",
                                     .kind = "reference",
                                     .subject = "gpu-1",
                                     .value = "{\"hour\":\"20\"}"};
    int64_t version;
    struct error e = {0};
    CHECK_INT(finance_change(path, &c, NULL, NULL, &version, &e), RC_OK);
    r = gather(&o);
    CHECK_INT(r->savings[REPORT_ALL_ON_DEMAND].would.v, 50 * DOLLAR);
    report_free(r);
}

/* ---- corrections, discounts --------------------------------------------------------------------------------------- */

static void test_finance(void)
{
    make_small();
    struct error e = {0};
    int64_t version;
    const struct finance_change off = {.at = {START_S * NS_PER_S},
                                       .who = "test",
                                       .kind = "discount",
                                       .subject = "tenant=acme",
                                       .value = "{\"percent\":\"12.5\"}"};
    const struct finance_change centre = {.at = {START_S * NS_PER_S},
                                          .who = "test",
                                          .kind = "cost_centre",
                                          .subject = "team=search",
                                          .value = "{\"code\":\"4711\"}"};
    const struct finance_correction c = {.team = "search", .reason = "an outage", .charge = {-5000000}};
    CHECK_INT(finance_change(path, &off, NULL, NULL, &version, &e), RC_OK);
    CHECK_INT(finance_change(path, &centre, NULL, NULL, &version, &e), RC_OK);
    CHECK_INT(finance_correct(path, &c, "test", (struct wall){(START_S + 29 * DAY_S + 5) * NS_PER_S}, NULL, NULL,
                              &version, &e),
              RC_OK);
    const struct report_options o = options("2026-11-30", NULL), before = options("2026-11-29", NULL);
    struct report *r = gather(&o);
    CHECK_INT(r->corrected.v, -5000000);
    CHECK_INT(r->month_corrected.v, -5000000);
    CHECK_INT(r->n_corrections, 1);
    CHECK_STR(r->corrections[0].reason, "an outage");
    CHECK_INT(member(r, REPORT_TEAM, "search")->corrected.v, -5000000);
    CHECK_INT(r->n_discounts, 1);
    CHECK_INT(r->discounts[0].charge.v, 160000000);
    CHECK_INT(r->discounts[0].discount.v, 20000000);
    CHECK_STR(report_cost_centre(r, "acme", "search", NULL), "4711");
    CHECK(report_cost_centre(r, "acme", "ads", NULL) == NULL);
    report_free(r);
    r = gather(&before); /* it counts once */
    CHECK_INT(r->corrected.v, 0);
    report_free(r);
}

/* ---- what is written ---------------------------------------------------------------------------------------------- */

static char *written(const struct report *r, enum rc (*write)(const struct report *, FILE *, struct error *))
{
    char *text = NULL;
    size_t n;
    struct error e;
    FILE *f = open_memstream(&text, &n);
    CHECK(write(r, f, &e) == RC_OK);
    fclose(f);
    return text;
}

static enum rc csv_1_4(const struct report *r, FILE *out, struct error *e)
{
    return report_write_csv(r, REPORT_FOCUS_1_4, out, e);
}
static enum rc csv_1_2(const struct report *r, FILE *out, struct error *e)
{
    return report_write_csv(r, REPORT_FOCUS_1_2, out, e);
}

/* Signed decimal dollars. */
static __int128 amount(const char *text)
{
    struct pusd a = {0};
    struct error e;
    const bool below = text[0] == '-';
    CHECK(pusd_parse(text + below, &a, &e) == RC_OK);
    return below ? -(__int128)a.v : a.v;
}

struct csv_sums {
    __int128 billed, effective, discounts, corrections;
    int64_t requests, rows;
};

/* Every row has as many fields as the head; fields of these books hold no line break. */
static void add_line(struct csv_sums *s, char *line, char **names, int n)
{
    char *fields[80] = {line};
    int k = 0, kind = 0;
    bool quoted = false;
    for (char *p = line; *p; p++) {
        quoted = quoted != (*p == '"');
        if (*p == ',' && !quoted) {
            *p = '\0';
            fields[++k] = p + 1;
        }
    }
    CHECK_INT(k + 1, n);
    for (int i = 0; i < n; i++)
        kind = strcmp(names[i], "x_CostKind") == 0 ? i : kind;
    const bool off = strcmp(fields[kind], "discount") == 0, correction = strcmp(fields[kind], "correction") == 0;
    s->rows++;
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], "BilledCost") == 0)
            *(off ? &s->discounts : correction ? &s->corrections : &s->billed) += amount(fields[i]);
        else if (strcmp(names[i], "EffectiveCost") == 0)
            s->effective += amount(fields[i]);
        else if (strcmp(names[i], "x_RequestCount") == 0)
            s->requests += strtoll(fields[i], NULL, 10);
    }
}

static struct csv_sums add_up(char *text)
{
    struct csv_sums s = {0};
    char *names[80], *save = NULL, *inner = NULL;
    int n = 0;
    char *line = strtok_r(text, "\r\n", &save);
    for (char *name = strtok_r(line, ",", &inner); name; name = strtok_r(NULL, ",", &inner))
        names[n++] = name;
    while ((line = strtok_r(NULL, "\r\n", &save)))
        add_line(&s, line, names, n);
    return s;
}

static void check_csv(const struct report *r, enum rc (*write)(const struct report *, FILE *, struct error *))
{
    char *text = written(r, write);
    const struct csv_sums s = add_up(text);
    free(text);
    CHECK(s.billed == r->use.charge.v);
    CHECK(s.effective == r->cost.bill.v);
    CHECK(s.corrections == r->corrected.v);
    CHECK(s.discounts == (r->n_discounts ? -r->discounts[0].discount.v : 0));
    CHECK_INT(s.requests, r->use.requests);
}

static void test_csv_line(void)
{
    clean();
    put(START_S + 29 * DAY_S, "search", "m1", "gpu-1", "on-prem", 2, 80, 0, 7);
    struct report_options o = options("2026-11-30", NULL);
    struct report *r = gather(&o);
    char *text = written(r, csv_1_4), *line = strstr(text, "\r\n");
    const char *expect =
        "\"{\"\"x_Method\"\": \"\"each step's time and energy divided by weighted tokens, summed by hour\"\"}\","
        "spillway-machine-time,search,search,0.00008,acme,acme,Tenant,USD,2026-12-01T00:00:00Z,2026-11-01T00:00:00Z,"
        "Usage,,"
        "Input Tokens of m1 on gpu-1,Usage-Based,2026-12-01T00:00:00Z,2026-11-30T00:00:00Z,80.00,Tokens,0.00008,1.00,"
        "0.000000000007,Spillway,Spillway,0.00008,1.00,Standard,0.00008,1000000 Tokens,,,gpu-1,gpu-1,Inference Node "
        "Pool,"
        "AI and Machine Learning,LLM inference,Spillway,Generative AI,m1/Input Tokens,Input Tokens,m1/Input "
        "Tokens@1.00,"
        "search,search,Team,,,,,,usage,2.000,1,on-prem,m1,gpu-1,,,2,\r\n";
    CHECK(line != NULL);
    CHECK_STR(line ? line + 2 : "", expect);
    free(text);
    report_free(r);
}

/* Books of two days, closed as the daemon closes them. */
static void test_books(void)
{
    clean();
    const struct fill_options f = {.path = path, .start_s = START_S, .hours = 30, .rows = 60, .quiet = true};
    CHECK_INT(fill_books(&f), 0);
    struct report_options o = options("2026-11-01", NULL);
    struct report *day = gather(&o), *month, *second;
    o = options("2026-11", NULL);
    month = gather(&o);
    o = options("2026-11-02", NULL);
    second = gather(&o);
    CHECK_INT(month->use.requests, 1800);
    CHECK_INT(day->use.requests, 1440);
    CHECK_INT(day->hours.wrong, 0);
    /* parts add up to the whole */
    CHECK(day->use.charge.v + second->use.charge.v == month->use.charge.v);
    CHECK(day->cost.bill.v + second->cost.bill.v == month->cost.bill.v);
    CHECK(day->corrected.v + second->corrected.v == month->corrected.v && month->corrected.v == 750000000006);
    CHECK(month->cost.bill.v == month->cost.allocated.v + month->cost.idle.v + month->cost.boot.v +
                                    month->cost.waste.v + month->cost.variance.v);
    CHECK(month->use.allocated.v == month->cost.allocated.v && month->use.waste.v == month->cost.waste.v);
    for (int d = 0; d < REPORT_DIMS; d++) {
        __int128 charge = 0, days = 0;
        for (int i = 0; i < month->axes[d].n; i++) {
            const struct report_member *m = &month->axes[d].of[i];
            charge += m->use.charge.v;
            for (int k = month->day_from; k < month->n_days; k++)
                days += m->days[k].charge;
        }
        CHECK(charge == month->use.charge.v && days == charge);
    }
    CHECK(month->use.saved.v > 0 && month->cost.preempted > 0 && month->unallocated.requests > 0);
    struct report *const all[] = {day, second, month};
    for (int i = 0; i < 3; i++) {
        check_csv(all[i], csv_1_4);
        check_csv(all[i], csv_1_2);
    }
    char *json = written(month, report_write_json), *md = written(month, report_write_md);
    CHECK(strstr(json, "\"all_on_demand\"") && strstr(md, "## Where the bill went"));
    char sums[120], text[WRITE_MONEY];
    int tables = 0;
    snprintf(sums, sizeof sums, "| together | %s |",
             write_money((struct pusd_sum){month->use.charge.v + month->corrected.v}, text));
    for (const char *at = md; (at = strstr(at, sums)); at++)
        tables++;
    CHECK_INT(tables, 4); /* teams, models, providers, markets */
    free(json);
    free(md);
    for (int i = 0; i < 3; i++)
        report_free(all[i]);
}

/* A file whose roll-ups are one table, as before its ninth version, tells the same: read as it is, and brought up to date. */
static void test_older(void)
{
    static const char back[] =
        "CREATE TABLE before AS SELECT * FROM hour_rollups; DROP VIEW hour_rollups;"
        "DROP TABLE hour_sums; DROP TABLE rollup_kinds; ALTER TABLE before RENAME TO hour_rollups;"
        "CREATE INDEX hour_rollups_by_hour ON hour_rollups (hour_s); PRAGMA user_version = 8";
    const struct report_options o = options("2026-11-01..2026-11-02", NULL);
    char *json[3];
    for (int i = 0; i < 3; i++) {
        struct report *r = gather(&o);
        json[i] = written(r, report_write_json);
        report_free(r);
        if (i < 2)
            sql("%s", i == 0 ? back : "SELECT 1"); /* which the first opening after it brings up to date */
    }
    CHECK(strstr(json[0], "\"support\"") != NULL);
    CHECK_STR(json[1], json[0]);
    CHECK_STR(json[2], json[0]);
    for (int i = 0; i < 3; i++)
        free(json[i]);
}

/* A month of which nothing is known says so instead of showing empty tables. */
static void test_nothing(void)
{
    make_small();
    const struct report_options o = options("2020-02", NULL);
    struct report *r = gather(&o);
    char *md = written(r, report_write_md);
    CHECK(strstr(md, "## By team\n\nThere were no requests.\n") && strstr(md, "| Charged | $ 0.00 | $ 0.00 | - |"));
    CHECK(strstr(md, "| all by API | - | - | not known |") && !strstr(md, "What a request costs"));
    free(md);
    report_free(r);
}

/* An hour with rows that is not closed yet is missing, and the report says so. */
static void test_open(void)
{
    make_small();
    sql("INSERT INTO node_meters (node, quarter_s, up_us) VALUES ('gpu-1', %lld, 1)",
        (long long)(START_S + 29 * DAY_S + 7200));
    sql("UPDATE hours SET problems = 'something' WHERE hour_s = %lld", (long long)(START_S + 29 * DAY_S));
    const struct report_options o = options("2026-11-30", NULL);
    struct report *r = gather(&o);
    CHECK_INT(r->hours.closed, 2);
    CHECK_INT(r->hours.open, 1);
    CHECK_INT(r->hours.first_open_s, START_S + 29 * DAY_S + 7200);
    CHECK_INT(r->hours.wrong, 1);
    CHECK_STR(r->hours.first_problem, "something");
    char *md = written(r, report_write_md);
    CHECK(strstr(md, "1 hour is not closed yet") != NULL);
    free(md);
    report_free(r);
}

static void test_text(void)
{
    char m[WRITE_MONEY], t[WRITE_TIME];
    CHECK_STR(write_money((struct pusd_sum){(__int128)123456789 * DOLLAR / 100}, m), "$ 1,234,567.89");
    CHECK_STR(write_money((struct pusd_sum){-DOLLAR / 2}, m), "-$ 0.500");
    CHECK_STR(write_money((struct pusd_sum){0}, m), "$ 0.00");
    CHECK_STR(write_money((struct pusd_sum){123456}, m), "$ 0.000000123");
    CHECK_STR(write_percent(-123456, true, t), "-12.3 %");
    CHECK_STR(write_percent(123456, true, t), "+12.3 %");
    CHECK_STR(write_count(-1234567, t), "-1,234,567");
    CHECK_STR(write_kwh(INT64_C(3600000000) * 1234, t), "1,234.0 kWh");
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/spw-report-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/ledger.db", dir);
    TEST(test_periods);
    TEST(test_sums);
    TEST(test_team);
    TEST(test_months);
    TEST(test_units);
    TEST(test_budgets);
    TEST(test_savings);
    TEST(test_finance);
    TEST(test_csv_line);
    TEST(test_books);
    TEST(test_older);
    TEST(test_nothing);
    TEST(test_open);
    TEST(test_text);
    clean();
    rmdir(dir);
    return TEST_RESULT();
}
