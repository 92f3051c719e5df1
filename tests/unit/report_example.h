/* A report as the books of a small company would give it: a month under way and the two before, three teams (of which
 * one has grown, and had a bad night), own machines, spot and an API. Numbers are made so that parts add up to their
 * sums. */
#ifndef TESTS_UNIT_REPORT_EXAMPLE_H
#define TESTS_UNIT_REPORT_EXAMPLE_H

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "random.h"
#include "scheduler/report/report.h"

#define EXAMPLE_DAYS   88
#define EXAMPLE_HOURS  (24 * 63)
#define EXAMPLE_TEAMS  4 /* the last: nobody */
#define EXAMPLE_MODELS 3
#define EXAMPLE_POOLS  3

struct example {
    struct report r;
    struct report_day days[EXAMPLE_DAYS];
    struct report_point all_days[EXAMPLE_DAYS], all_hours[EXAMPLE_HOURS];
    struct report_point team_days[EXAMPLE_TEAMS][EXAMPLE_DAYS], team_hours[EXAMPLE_TEAMS][EXAMPLE_HOURS];
    struct report_point model_days[EXAMPLE_MODELS][EXAMPLE_DAYS], model_hours[EXAMPLE_MODELS][EXAMPLE_HOURS];
    struct report_point pool_days[EXAMPLE_POOLS][EXAMPLE_DAYS], pool_hours[EXAMPLE_POOLS][EXAMPLE_HOURS];
    struct report_member teams[EXAMPLE_TEAMS], models[EXAMPLE_MODELS], pools[EXAMPLE_POOLS], markets[EXAMPLE_POOLS],
        providers[EXAMPLE_POOLS];
    struct report_unit units[6];
    struct report_budget budgets[4];
    struct pusd_sum budget_days[4][31];
    struct report_price_used prices[3];
    struct report_correction corrections[1];
    uint64_t seed;
    double of_day; /* days differ */
};

#define EXAMPLE_FROM 61 /* day: 1 November; day 0 is 1 September 2026 */

static const struct {
    const char *team;
    double dollars, night; /* of a working hour; share by night */
} example_teams[EXAMPLE_TEAMS] = {{"search", 9, 0.35}, {"support", 5, 0.2}, {"research", 4, 0.8}, {NULL, 0.12, 0.5}};
static const double example_models[EXAMPLE_TEAMS][EXAMPLE_MODELS] = {
    {0.7, 0.2, 0.1}, {0.2, 0.75, 0.05}, {0.1, 0.1, 0.8}, {0.5, 0.5, 0}};
static const double example_pools[EXAMPLE_MODELS][EXAMPLE_POOLS] = {
    {0.6, 0.3, 0.1}, {0.75, 0.2, 0.05}, {0.1, 0.35, 0.55}};
static const double example_per_million[EXAMPLE_MODELS] = {0.9, 0.45, 3.2};

static void example_count(struct report_point *p, double dollars, double tokens)
{
    p->charge += (int64_t)(dollars * 1e6) * 1000000;
    p->cost += (int64_t)(dollars * 0.93e6) * 1000000;
    p->tokens += (int64_t)tokens;
    p->requests += (int64_t)(tokens / 2400);
}

static void example_use(struct report_use *u, double dollars, double tokens)
{
    struct report_point p = {0};
    example_count(&p, dollars, tokens);
    u->charge.v += p.charge;
    u->allocated.v += p.cost;
    u->requests += p.requests;
    u->failed += p.requests / 900;
    u->cancelled += p.requests / 250;
    u->cached += p.requests / 9;
    u->saved.v += p.charge / 11;
    u->continuations += p.requests / 8000;
    u->tokens.input += p.tokens * 4 / 5;
    u->tokens.cached_input += p.tokens * 3 / 10;
    u->tokens.output += p.tokens - p.tokens * 4 / 5;
}

static void example_cell(struct example *x, int day, int hour, int t, int m, int pool, double dollars)
{
    const double tokens = dollars / example_per_million[m] * 1e6 * (pool == 2 ? 0.6 : 1.15);
    const bool now = day >= EXAMPLE_FROM, before = day >= 30 && day < 30 + EXAMPLE_DAYS - EXAMPLE_FROM;
    const int h = day * 24 + hour - (EXAMPLE_DAYS * 24 - EXAMPLE_HOURS);
    struct report_member *of[] = {&x->teams[t], &x->models[m], &x->pools[pool], &x->markets[pool], &x->providers[pool]};

    example_count(&x->all_days[day], dollars, tokens);
    example_count(&x->team_days[t][day], dollars, tokens);
    example_count(&x->model_days[m][day], dollars, tokens);
    example_count(&x->pool_days[pool][day], dollars, tokens);
    if (h >= 0) {
        example_count(&x->all_hours[h], dollars, tokens);
        example_count(&x->team_hours[t][h], dollars, tokens);
        example_count(&x->model_hours[m][h], dollars, tokens);
        example_count(&x->pool_hours[pool][h], dollars, tokens);
    }
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]) && (now || before); i++)
        example_use(now ? &of[i]->use : &of[i]->use_before, dollars, tokens);
    if (now) {
        example_use(&x->r.use, dollars, tokens);
        example_use(&x->units[m * 2].use, dollars, tokens);
        if (pool < 2)
            example_use(&x->units[m * 2 + 1].use, dollars, tokens);
        if (!example_teams[t].team)
            example_use(&x->r.unallocated, dollars, tokens);
    } else if (before)
        example_use(&x->r.use_before, dollars, tokens);
}

static void example_hour(struct example *x, int day, int hour)
{
    if (hour == 0)
        x->of_day = 0.88 + 0.24 * random_unit(&x->seed);
    const int weekday = (day + 1) % 7; /* 1 September 2026 is a Tuesday; 0 Monday */
    for (int t = 0; t < EXAMPLE_TEAMS; t++) {
        const double day_shape = exp(-pow((hour - 14) / 4.5, 2)), week = weekday < 5 ? 1 : 0.3;
        double dollars = example_teams[t].dollars *
                         (example_teams[t].night + (1 - example_teams[t].night) * day_shape) * week * x->of_day *
                         (0.92 + 0.16 * random_unit(&x->seed));
        if (t == 0)
            dollars *= 0.7 + 0.006 * day;
        if (t == 2 && day == 77 && hour >= 1 && hour < 6)
            dollars *= 7; /* a loop that asked all night */
        for (int m = 0; m < EXAMPLE_MODELS; m++)
            for (int p = 0; p < EXAMPLE_POOLS; p++)
                if (example_models[t][m] > 0)
                    example_cell(x, day, hour, t, m, p, dollars * example_models[t][m] * example_pools[m][p]);
    }
}

static void example_costs(struct example *x)
{
    static const double idle[] = {0.24, 0.06, 0}, boot[] = {0.004, 0.03, 0}, waste[] = {0.006, 0.011, 0.004};
    for (int p = 0; p < EXAMPLE_POOLS; p++) {
        struct report_cost *c = &x->pools[p].cost;
        const __int128 served = x->pools[p].use.allocated.v;
        c->allocated.v = served;
        c->idle.v = (__int128)((double)served * idle[p]);
        c->boot.v = (__int128)((double)served * boot[p]);
        c->waste.v = (__int128)((double)served * waste[p]);
        c->variance.v = served / 4000;
        c->bill.v = c->allocated.v + c->idle.v + c->boot.v + c->waste.v + c->variance.v;
        c->energy.v = p == 0 ? c->bill.v / 5 : 0;
        c->tokens.v = p == 2 ? c->bill.v : 0;
        c->fixed.v = c->bill.v - c->energy.v - c->tokens.v;
        if (p < 2) {
            c->paid_us = (p == 0 ? 6 : 3) * 27 * INT64_C(86400000000);
            c->busy_us = c->paid_us / 100 * (p == 0 ? 52 : 81);
            c->asleep_us = p == 0 ? c->paid_us / 100 * 23 : 0;
            c->idle_us = c->paid_us - c->busy_us - c->asleep_us;
            c->energy_mj = p == 0 ? INT64_C(4100) * 3600000000 : 0;
            c->metered_mj = c->energy_mj / 10 * 9;
            c->modelled_mj = c->energy_mj - c->metered_mj;
            c->idle_mj = c->energy_mj / 8;
        }
        c->legs = x->pools[p].use.requests;
        c->preempted = p == 1 ? 143 : 0;
        x->markets[p].cost = x->providers[p].cost = *c;
        struct report_cost *all = &x->r.cost;
        const struct report_cost *from = c;
        __int128 *sums[] = {&all->bill.v,  &all->allocated.v, &all->idle.v,  &all->boot.v,
                            &all->waste.v, &all->variance.v,  &all->energy.v};
        const __int128 more[] = {from->bill.v,  from->allocated.v, from->idle.v,  from->boot.v,
                                 from->waste.v, from->variance.v,  from->energy.v};
        for (int i = 0; i < 7; i++)
            *sums[i] += more[i];
        all->energy_mj += c->energy_mj;
        all->metered_mj += c->metered_mj;
        all->idle_mj += c->idle_mj;
        all->preempted += c->preempted;
    }
    x->r.use.continuations = 151;
    x->r.cost_before = x->r.cost;
    x->r.cost_before.bill.v = x->r.cost.bill.v / 10 * 9;
}

static void example_budgets(struct example *x)
{
    static const char *const names[] = {"company", "team:search", "team:support", "team:research"};
    static const int64_t limits[] = {7200, 3900, 1600, 1850};
    for (int i = 0; i < 4; i++) {
        struct report_budget *b = &x->budgets[i];
        struct pusd_sum sum = {0};
        for (int d = EXAMPLE_FROM; d < EXAMPLE_DAYS; d++) {
            sum.v += i == 0 ? x->all_days[d].charge : x->team_days[i - 1][d].charge;
            x->budget_days[i][d - EXAMPLE_FROM] = sum;
        }
        *b = (struct report_budget){.name = names[i], .rule = i ? "team" : "company", .kind = PERIOD_MONTH};
        b->start_s = x->r.month_from_s;
        b->end_s = x->r.month_until_s;
        b->hard.v = b->limit.v = limits[i] * INT64_C(1000000000000);
        b->soft.v = b->limit.v / 10 * 8;
        b->spent.v = (int64_t)sum.v;
        b->rolled = sum;
        b->days = x->budget_days[i];
        b->n_days = EXAMPLE_DAYS - EXAMPLE_FROM;
        b->days_in_all = 30;
        b->covers_all = i == 0;
    }
}

static void example_savings(struct example *x)
{
    struct report_saving *s = x->r.savings;
    static const double more[REPORT_SAVINGS] = {1.62, 1.38, 0.31, 0.09};
    static const char *const words[REPORT_SAVINGS] = {
        "Every token at the price of the API that is set as the model's reference; answers as long as they were",
        "The same machine hours at on-demand prices, idle time as it was",
        "The hours of spot machines at the on-demand price of the same type",
        "What the cached answers were charged when they were first computed"};
    for (int k = 0; k < REPORT_SAVINGS; k++) {
        s[k].is.v = k < 2 ? x->r.cost.bill.v : k == REPORT_SPOT ? x->pools[1].cost.bill.v : 0;
        s[k].would.v = (__int128)((double)x->r.cost.bill.v * more[k]) + (k == REPORT_SPOT ? s[k].is.v : 0);
        s[k].would_least = s[k].would;
        s[k].saved.v = s[k].would.v - s[k].is.v;
        s[k].known_ppm = k == 0 ? 984000 : 1000000;
        s[k].assumption = words[k];
    }
    s[REPORT_ALL_ON_DEMAND].would_least.v = s[REPORT_ALL_ON_DEMAND].would.v / 100 * 83;
    x->prices[0] = (struct report_price_used){.subject = "llama-3.3-70b", .source = "finance, since 2026-10-01"};
    x->prices[0].prices = (struct token_prices){{880000}, {440000}, {880000}};
    x->prices[1] =
        (struct report_price_used){.subject = "deepseek-r1", .source = "node deepseek-api of the configuration"};
    x->prices[1].prices = (struct token_prices){{550000}, {140000}, {2190000}};
    x->prices[2] =
        (struct report_price_used){.subject = "g6e-spot", .source = "finance, since 2026-09-15", .by_hour = true};
    x->prices[2].hour.v = INT64_C(3400000000000);
}

static void example_axis(struct report_axis *a, struct report_member *of, int n, struct report_point *days,
                         struct report_point *hours)
{
    for (int i = 0; i < n; i++) {
        of[i].days = days + i * EXAMPLE_DAYS;
        of[i].hours = hours + i * EXAMPLE_HOURS;
    }
    *a = (struct report_axis){of, n};
}

static void example_names(struct example *x)
{
    static const char *const models[] = {"llama-3.3-70b", "qwen2.5-32b", "deepseek-r1"};
    static const char *const pools[] = {"own-h100", "g6e-spot", NULL}, *const markets[] = {"on-prem", "spot", "api"};
    static const char *const providers[] = {"machine-room", "ec2", "deepseek"};
    for (int i = 0; i < EXAMPLE_TEAMS; i++)
        x->teams[i].name = example_teams[i].team;
    for (int i = 0; i < 3; i++) {
        x->models[i].name = models[i];
        x->pools[i].name = pools[i];
        x->markets[i].name = markets[i];
        x->providers[i].name = providers[i];
        struct report_unit *u = &x->units[2 * i];
        u[0].model = u[1].model = models[i];
        u[1].pool = pools[0];
        for (int k = 0; k < 2; k++) {
            u[k].requests = u[k].use.requests - u[k].use.failed;
            u[k].p50.v = (int64_t)(example_per_million[i] * 1900) * 1000000;
            u[k].p99.v = u[k].p50.v * 14;
        }
    }
    struct report_axis *a = x->r.axes;
    example_axis(&a[REPORT_TEAM], x->teams, EXAMPLE_TEAMS, x->team_days[0], x->team_hours[0]);
    example_axis(&a[REPORT_MODEL], x->models, EXAMPLE_MODELS, x->model_days[0], x->model_hours[0]);
    example_axis(&a[REPORT_POOL], x->pools, EXAMPLE_POOLS, x->pool_days[0], x->pool_hours[0]);
    example_axis(&a[REPORT_MARKET], x->markets, EXAMPLE_POOLS, x->pool_days[0], x->pool_hours[0]);
    example_axis(&a[REPORT_PROVIDER], x->providers, EXAMPLE_POOLS, x->pool_days[0], x->pool_hours[0]);
}

/* free() it. */
static struct example *example_new(void)
{
    struct example *x = spw_calloc(1, sizeof(*x));
    struct report *r = &x->r;
    const int64_t day0 = date_to_days(2026, 9, 1);

    x->seed = 7;
    for (int i = 0; i < EXAMPLE_DAYS; i++) {
        int64_t year;
        int month, day;
        date_from_days(day0 + i, &year, &month, &day);
        const int64_t first = date_to_days(year, month, 1);
        x->days[i] = (struct report_day){(day0 + i) * 86400, (day0 + i + 1) * 86400, first * 86400,
                                         (first + date_month_days(year, month)) * 86400, (day0 + i) * 86400};
        for (int h = 0; h < 24; h++)
            example_hour(x, i, h);
    }
    *r = (struct report){.site = "Example & Sons",
                         .zone_name = "UTC",
                         .use = r->use,
                         .use_before = r->use_before,
                         .unallocated = r->unallocated};
    r->days = x->days;
    r->n_days = EXAMPLE_DAYS;
    r->day_from = EXAMPLE_FROM;
    r->day_before = 30;
    r->period = (struct report_period){.from_s = x->days[EXAMPLE_FROM].start_s,
                                       .until_s = x->days[EXAMPLE_DAYS - 1].end_s,
                                       .before_s = x->days[30].start_s,
                                       .before_until_s = x->days[56].end_s,
                                       .name = "2026-11"};
    r->made.ns = (r->period.until_s + 7200) * NS_PER_S;
    r->month_from_s = x->days[EXAMPLE_FROM].month_s;
    r->month_until_s = x->days[EXAMPLE_FROM].month_end_s;
    r->month = r->use;
    r->all_days = x->all_days;
    r->all_hours = x->all_hours;
    r->n_hours = EXAMPLE_HOURS;
    r->hour0_s = r->period.until_s - (int64_t)EXAMPLE_HOURS * 3600;
    r->hour_from = (int)((r->period.from_s - r->hour0_s) / 3600);
    example_names(x);
    example_costs(x);
    example_budgets(x);
    example_savings(x);
    r->units = x->units;
    r->n_units = 6;
    r->budgets = x->budgets;
    r->n_budgets = 4;
    r->prices_used = x->prices;
    r->n_prices_used = 3;
    x->corrections[0] = (struct report_correction){.at_s = r->period.from_s + 86400 * 9,
                                                   .request_id = "req_0f3a91",
                                                   .team = "support",
                                                   .reason = "charged twice after a time-out",
                                                   .charge = {INT64_C(-14200000000000)}};
    r->corrections = x->corrections;
    r->n_corrections = 1;
    r->corrected.v = r->month_corrected.v = x->teams[1].corrected.v = x->models[1].corrected.v =
        x->providers[0].corrected.v = x->corrections[0].charge.v;
    r->hours = (struct report_hours){.closed = 648};
    r->has_head = true;
    r->head.seq = 4182733;
    memcpy(r->head.time, "2026-11-28T00:00:00Z", 21);
    for (size_t i = 0; i < sizeof(r->head.hash); i++)
        ((unsigned char *)&r->head.hash)[i] = (unsigned char)(17 * i + 3);
    return x;
}

#endif
