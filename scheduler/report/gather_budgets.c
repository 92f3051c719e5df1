/* Budgets: how they stand by their own books, and how they were spent, day by day, by closed hours. */
#include "scheduler/report/gather.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/books/ledger_budgets.h"

int64_t gather_rules(struct gather *g)
{
    const int64_t last_s = g->o->period.until_s - 1;
    int64_t earliest = g->o->period.from_s;
    g->rules = spw_calloc((size_t)g->o->n_rules + 1, sizeof *g->rules);
    for (int i = 0; i < g->o->n_rules; i++) {
        g->rules[i].period = period_at(&g->o->rules[i].period, last_s);
        if (g->rules[i].period.start_s < earliest)
            earliest = g->rules[i].period.start_s;
    }
    return earliest;
}

void gather_rule_days(struct gather *g)
{
    for (int i = 0; i < g->o->n_rules; i++) {
        struct gather_rule *r = &g->rules[i];
        int64_t hour = (r->period.start_s + GATHER_HOUR_S - 1) / GATHER_HOUR_S * GATHER_HOUR_S;
        if (hour >= g->o->period.until_s) /* a period that begins within the last hour */
            hour = g->o->period.until_s - GATHER_HOUR_S;
        r->first_day = gather_day(g, hour);
        r->n_days = g->r->n_days - r->first_day;
        const int64_t first = zone_to_local(g->o->zone, hour) / 86400;
        const int64_t last = zone_to_local(g->o->zone, r->period.end_s - 1) / 86400;
        r->days_in_all = (int)(last - first) + 1;
    }
}

static struct gather_budget *budget(struct gather *g, int rule, const char *name)
{
    const struct gather_budget_key k = {gather_text(g, name), &g->o->rules[rule]};
    struct gather_budget *x = table_get(&g->budgets, &k, GATHER_BUDGETS_MAX);
    if (x && !x->b.name) {
        const struct budget_rule *r = k.rule;
        x->b = (struct report_budget){.name = k.name,
                                      .rule = gather_text(g, r->name),
                                      .start_s = g->rules[rule].period.start_s,
                                      .end_s = g->rules[rule].period.end_s,
                                      .kind = r->period.kind,
                                      .hard = r->limits.hard,
                                      .soft = r->soft,
                                      .n_days = g->rules[rule].n_days,
                                      .days_in_all = g->rules[rule].days_in_all,
                                      .covers_all = r->n_match == 0};
    } else if (!x && g->rc == RC_OK) {
        g->rc = error_set(g->e, RC_FULL, "report: more than %d budgets", GATHER_BUDGETS_MAX);
    }
    return x;
}

struct gather_budget *gather_covering(struct gather *g, int rule, const struct rollup *r)
{
    const struct budget_facts facts = {.organisation = r->tenant,
                                       .team = r->team,
                                       .project = r->project,
                                       .key = r->key_id,
                                       .model = r->model,
                                       .provider = r->provider,
                                       .node = r->node,
                                       .labels = r->tags ? r->tags : ""};
    char name[BUDGET_NAME_BYTES];
    return budget_rule_covers(&g->o->rules[rule], &facts, name) ? budget(g, rule, name) : NULL;
}

void gather_spend(struct gather *g, struct gather_budget *b, const struct gather_rule *rule, const struct rollup *r)
{
    if (!b->days)
        b->days = gather_array(g, rule->n_days, sizeof *b->days);
    pusd_sum_add(&b->days[gather_day(g, r->hour_s) - rule->first_day], r->charge);
    pusd_sum_add(&b->b.rolled, r->charge);
}

/* ---- the budgets' own books -------------------------------------------------------------------------------------- */

/* "each[alice]" is an instance of "each". */
static bool is_of(const char *name, const char *rule)
{
    const size_t n = strlen(rule);
    return strncmp(name, rule, n) == 0 && (!name[n] || name[n] == '[');
}

static void take_total(const struct ledger_budget_total *t, void *arg)
{
    struct gather *g = arg;
    for (int i = 0; i < g->o->n_rules; i++) {
        if (t->start_s != g->rules[i].period.start_s || !is_of(t->name, g->o->rules[i].name))
            continue;
        const struct gather_budget_key k = {gather_text(g, t->name), &g->o->rules[i]};
        struct gather_budget *x = g->o->team ? table_get(&g->budgets, &k, 0) : budget(g, i, t->name);
        if (!x)
            continue;
        x->state = (struct budget_state){.spent = t->spent,
                                         .waste = t->waste,
                                         .carried_in = t->carried_in,
                                         .carried_out = t->carried_out,
                                         .topped_up = t->topped_up};
    }
}

static void take_limits(const struct ledger_budget_limits *l, void *arg)
{
    struct gather *g = arg;
    for (int i = 0; i < g->budgets.n; i++) {
        struct gather_budget *x = table_at(&g->budgets, i);
        if (strcmp(x->b.name, l->name) != 0)
            continue;
        x->b.hard = l->hard.v >= 0 ? l->hard : x->b.hard;
        x->b.soft = l->soft.v >= 0 ? l->soft : x->b.soft;
    }
}

/* Days' amounts become what was spent by their end. */
static struct report_budget finished(struct gather_budget *x)
{
    const struct budget_limits limits = {.hard = x->b.hard};
    for (int i = 1; x->days && i < x->b.n_days; i++)
        x->days[i].v += x->days[i - 1].v;
    x->b.days = x->days;
    x->b.limit = budget_limit(&limits, &x->state);
    x->b.spent = x->state.spent;
    x->b.waste = x->state.waste;
    return x->b;
}

static int compare(const void *x, const void *y)
{
    const struct report_budget *a = x, *b = y;
    if (a->covers_all != b->covers_all)
        return a->covers_all ? -1 : 1;
    return strcmp(a->name, b->name);
}

enum rc gather_budgets(struct gather *g)
{
    const struct ledger_budget_reader reader = {.total = take_total, .limits = take_limits, .arg = g};
    int64_t since_s = g->o->period.until_s;
    char name[BUDGET_NAME_BYTES];
    for (int i = 0; i < g->o->n_rules; i++) {
        const struct budget_rule *r = &g->o->rules[i];
        since_s = g->rules[i].period.start_s < since_s ? g->rules[i].period.start_s : since_s;
        bool each = false;
        for (int k = 0; k < r->n_match; k++)
            each = each || strcmp(r->match[k].value, "*") == 0;
        snprintf(name, sizeof name, "%s", r->name);
        if (!each && !g->o->team) /* it is there, whether anything was spent or not */
            (void)budget(g, i, name);
    }
    if (!g->o->n_rules)
        return RC_OK;
    enum rc rc = ledger_read_budgets(g->o->ledger, since_s, &reader, g->e);
    if (rc != RC_OK || g->rc != RC_OK)
        return rc != RC_OK ? rc : g->rc;
    const int n = g->budgets.n;
    struct report_budget *of = gather_array(g, n, sizeof *of);
    for (int i = 0; i < n; i++)
        of[i] = finished(table_at(&g->budgets, i));
    qsort(of, (size_t)n, sizeof *of, compare);
    g->r->budgets = of;
    g->r->n_budgets = n;
    return RC_OK;
}
