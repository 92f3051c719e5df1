/* Roll-ups into sums by member, day and hour, and into cells. Whatever is the same for all roll-ups of a kind (its
 * texts, where its sums go, which budgets cover it) is looked up when the first one comes: a month has millions. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/report/gather.h"

#define UNKNOWN (-2)
#define NONE    (-1)

static int index_in(const struct table *t, const void *item)
{
    return item ? (int)(((const char *)item - t->items) / (ptrdiff_t)t->item_bytes) : NONE;
}

/* ---- a kind's first ---------------------------------------------------------------------------------------------- */

static void resolve(struct gather *g, struct gather_kind *k, const struct rollup *r)
{
    const char **const texts[] = {&k->key.tenant, &k->key.team,     &k->key.project, &k->key.tags,   &k->key.model,
                                  &k->key.pool,   &k->key.provider, &k->key.market,  &k->key.domain, &k->key.cache};
    const char *const given[] = {r->tenant, r->team,     r->project, r->tags,   r->model,
                                 r->pool,   r->provider, r->market,  r->domain, r->cache};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        *texts[i] = gather_text(g, given[i]);
    k->key.prices = r->prices;
    k->key.price_version = r->price_version;
    k->known = true;
    k->wanted = !g->o->team || (k->key.team && strcmp(k->key.team, g->o->team) == 0);
    k->cell = k->units[0] = k->units[1] = UNKNOWN;
    for (int d = 0; d < REPORT_DIMS; d++)
        k->members[d] = UNKNOWN;
    k->budgets = gather_array(g, g->o->n_rules, sizeof *k->budgets);
    for (int i = 0; i < g->o->n_rules; i++)
        k->budgets[i] = UNKNOWN;
}

static struct gather_kind *kind_of(struct gather *g, const struct rollup *r)
{
    if (r->kind >= g->n_kinds) {
        const int n = 2 * r->kind + 64;
        g->kinds = spw_realloc(g->kinds, (size_t)n * sizeof *g->kinds);
        memset(g->kinds + g->n_kinds, 0, (size_t)(n - g->n_kinds) * sizeof *g->kinds);
        g->n_kinds = n;
    }
    struct gather_kind *k = &g->kinds[r->kind];
    if (!k->known)
        resolve(g, k, r);
    return k;
}

/* ---- each -------------------------------------------------------------------------------------------------------- */

static void add_point(struct report_point *p, const struct rollup *r, bool with_cost)
{
    if (!p)
        return;
    p->charge += r->charge.v;
    p->cost += with_cost ? r->allocated.v + r->waste.v : 0;
    p->tokens += r->tokens.input + r->tokens.output;
    p->requests += r->requests;
}

static void add_member(struct gather *g, struct gather_kind *k, enum report_dim d, const struct rollup *r)
{
    const char *const names[REPORT_DIMS] = {k->key.team,     k->key.project, k->key.model,
                                            k->key.provider, k->key.pool,    k->key.market};
    const struct report_period *p = &g->o->period;
    const bool own = d <= REPORT_MODEL || g->o->team; /* else costs are the machines' bills */
    if (k->members[d] == UNKNOWN)
        k->members[d] = index_in(&g->members[d], gather_member(g, d, names[d]));
    struct gather_member *m = table_at(&g->members[d], k->members[d]);
    if (gather_in(r->hour_s, p->from_s, p->until_s))
        report_use_add(&m->m.use, r);
    if (gather_in(r->hour_s, p->before_s, p->before_until_s))
        report_use_add(&m->m.use_before, r);
    add_point(gather_day_point(g, m->days, r->hour_s), r, own);
    add_point(gather_hour_point(g, m->hours, r->hour_s), r, own);
}

/* Hours come in order: a kind stays in its cell until the day is over. */
static void add_cell(struct gather *g, struct gather_kind *k, const struct rollup *r)
{
    const int64_t day = gather_day(g, r->hour_s);
    if (k->cell == UNKNOWN || k->key.day != day) {
        k->key.day = day;
        struct gather_cell_key key = k->key;
        key.tags = g->cells.n < GATHER_TAGGED_MAX ? key.tags : NULL;
        k->cell = index_in(&g->cells, table_get(&g->cells, &key, GATHER_CELLS_MAX));
    }
    if (k->cell >= 0)
        report_use_add(&((struct gather_cell *)table_at(&g->cells, k->cell))->use, r);
    else if (g->rc == RC_OK)
        g->rc = error_set(g->e, RC_FULL, "report: more than %d cells; ask for a shorter period", GATHER_CELLS_MAX);
}

static void add_period(struct gather *g, struct gather_kind *k, const struct rollup *r)
{
    report_use_add(&g->r->use, r);
    if (!k->key.team)
        report_use_add(&g->r->unallocated, r);
    for (int all = 0; all < 2; all++) {
        if (k->units[all] == UNKNOWN)
            k->units[all] = index_in(&g->units, gather_unit(g, k->key.model, k->key.pool, all));
        if (k->units[all] >= 0)
            report_use_add(&((struct gather_unit *)table_at(&g->units, k->units[all]))->use, r);
    }
    add_cell(g, k, r);
}

static void add_spend(struct gather *g, struct gather_kind *k, const struct rollup *r)
{
    for (int i = 0; i < g->o->n_rules && r->requests; i++) {
        const struct gather_rule *rule = &g->rules[i];
        if (!gather_in(r->hour_s, rule->period.start_s, rule->period.end_s))
            continue;
        if (k->budgets[i] == UNKNOWN)
            k->budgets[i] = index_in(&g->budgets, gather_covering(g, i, r));
        if (k->budgets[i] >= 0)
            gather_spend(g, table_at(&g->budgets, k->budgets[i]), rule, r);
    }
}

static void take_rollup(const struct rollup *r, void *arg)
{
    struct gather *g = arg;
    const struct report_period *p = &g->o->period;
    struct gather_kind *k = g->rc == RC_OK ? kind_of(g, r) : NULL;
    if (!k || !k->wanted)
        return;
    if (gather_in(r->hour_s, p->from_s, p->until_s))
        add_period(g, k, r);
    if (gather_in(r->hour_s, p->before_s, p->before_until_s))
        report_use_add(&g->r->use_before, r);
    if (gather_in(r->hour_s, g->r->month_from_s, p->until_s))
        report_use_add(&g->r->month, r);
    for (int d = 0; d < REPORT_DIMS; d++)
        add_member(g, k, (enum report_dim)d, r);
    add_point(gather_day_point(g, g->r->all_days, r->hour_s), r, g->o->team != NULL);
    add_point(gather_hour_point(g, g->r->all_hours, r->hour_s), r, g->o->team != NULL);
    add_spend(g, k, r);
}

enum rc gather_rollups(struct gather *g)
{
    enum rc rc = rollup_read(g->o->ledger, g->window_s, g->o->period.until_s, take_rollup, g, g->e);
    return rc == RC_OK ? g->rc : rc;
}
