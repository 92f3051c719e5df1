/* A report's way through: what its window is; the parts are asked in turn; then what was gathered in tables becomes
 * arrays of the report, in order. */
#include "scheduler/report/gather.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scheduler/audit/audit.h"

#define USUAL_S (INT64_C(42) * 86400) /* how far a window goes back before its period: six weeks tell what is usual */

/* ---- helpers of all parts ---------------------------------------------------------------------------------------- */

const char *gather_text(struct gather *g, const char *text)
{
    return text && *text ? texts_get(&g->texts, g->r->arena, text) : NULL;
}

bool gather_in(int64_t hour_s, int64_t from_s, int64_t until_s)
{
    return hour_s >= from_s && hour_s < until_s;
}

int gather_day(const struct gather *g, int64_t hour_s)
{
    const int64_t i = (hour_s - g->window_s) / GATHER_HOUR_S;
    return hour_s < g->window_s || i >= g->n_window ? -1 : g->day_of_hour[i];
}

struct report_point *gather_day_point(const struct gather *g, struct report_point *days, int64_t hour_s)
{
    return &days[gather_day(g, hour_s)];
}

struct report_point *gather_hour_point(const struct gather *g, struct report_point *hours, int64_t hour_s)
{
    return hour_s < g->r->hour0_s ? NULL : &hours[(hour_s - g->r->hour0_s) / GATHER_HOUR_S];
}

void *gather_array(struct gather *g, int n, size_t bytes)
{
    void *p = arena_alloc(g->r->arena, (size_t)(n ? n : 1) * bytes);
    SPW_ASSERT(p); /* the arena has no bound but the memory */
    return p;
}

static const char others[] = "*"; /* whose address is the name of the rest */

struct gather_member *gather_member(struct gather *g, enum report_dim d, const char *name)
{
    struct gather_member *m = table_get(&g->members[d], &name, REPORT_MEMBERS_MAX);
    if (!m) {
        const char *rest = others;
        m = table_get(&g->members[d], &rest, REPORT_MEMBERS_MAX + 1);
    }
    if (!m->days) {
        m->days = gather_array(g, g->r->n_days, sizeof *m->days);
        m->hours = gather_array(g, g->r->n_hours, sizeof *m->hours);
        m->m.others = m->name == others;
        m->m.name = m->m.others ? NULL : m->name;
        m->m.days = m->days;
        m->m.hours = m->hours;
    }
    return m;
}

struct gather_unit *gather_unit(struct gather *g, const char *model, const char *pool, int all)
{
    const struct gather_unit_key k = {model, all ? NULL : pool};
    return all || pool ? table_get(&g->units, &k, GATHER_CELLS_MAX) : NULL;
}

/* ---- the window -------------------------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void find_window(struct gather *g)
{
    struct report *r = g->r;
    const struct report_period *p = &g->o->period;
    const struct period_spec month = {.kind = PERIOD_MONTH, .zone = g->o->zone};
    const struct period m = period_at(&month, p->until_s - 1);
    r->month_from_s = m.start_s;
    r->month_until_s = m.end_s;
    int64_t at = least(p->before_s, p->from_s - USUAL_S);
    at = least(least(at, m.start_s), gather_rules(g));
    g->window_s = at / GATHER_HOUR_S * GATHER_HOUR_S;
    g->n_window = (int)((p->until_s - g->window_s) / GATHER_HOUR_S);
    r->n_hours = g->n_window < REPORT_HOURS_MAX ? g->n_window : REPORT_HOURS_MAX;
    r->hour0_s = p->until_s - (int64_t)r->n_hours * GATHER_HOUR_S;
    r->hour_from = p->from_s > r->hour0_s ? (int)((p->from_s - r->hour0_s) / GATHER_HOUR_S) : 0;
}

/* Each hour belongs to the day in which it begins in the zone. */
static void make_days(struct gather *g)
{
    struct report *r = g->r;
    const struct report_period *p = &g->o->period;
    const struct period_spec month = {.kind = PERIOD_MONTH, .zone = g->o->zone};
    int64_t last = INT64_MIN;
    r->days = gather_array(g, g->n_window / 22 + 2, sizeof *r->days);
    g->day_of_hour = spw_calloc((size_t)g->n_window + 1, sizeof *g->day_of_hour);
    for (int i = 0; i < g->n_window; i++) {
        const int64_t at = g->window_s + (int64_t)i * GATHER_HOUR_S;
        const int64_t day = zone_to_local(g->o->zone, at) / 86400;
        if (day != last) {
            const struct period m = period_at(&month, at);
            r->days[r->n_days++] = (struct report_day){at, at, m.start_s, m.end_s, day * 86400};
        }
        last = day;
        g->day_of_hour[i] = r->n_days - 1;
        r->days[r->n_days - 1].end_s = at + GATHER_HOUR_S;
        if (at == p->from_s)
            r->day_from = r->n_days - 1;
        if (at == p->before_s)
            r->day_before = r->n_days - 1;
    }
    r->all_days = gather_array(g, r->n_days, sizeof *r->all_days);
    r->all_hours = gather_array(g, r->n_hours, sizeof *r->all_hours);
}

/* ---- into arrays ------------------------------------------------------------------------------------------------- */

static int by_amount(__int128 a, __int128 b)
{
    return a > b ? -1 : a < b;
}

static int by_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "");
}

static int compare_members(const void *x, const void *y)
{
    const struct report_member *a = x, *b = y;
    if (a->others != b->others)
        return a->others ? 1 : -1;
    const int c = by_amount(a->use.charge.v + a->use.allocated.v + a->use.waste.v + a->cost.idle.v,
                            b->use.charge.v + b->use.allocated.v + b->use.waste.v + b->cost.idle.v);
    return c ? c : by_text(a->name, b->name);
}

static void put_axes(struct gather *g)
{
    for (int d = 0; d < REPORT_DIMS; d++) {
        const int n = g->members[d].n;
        struct report_member *of = gather_array(g, n, sizeof *of);
        for (int i = 0; i < n; i++)
            of[i] = ((struct gather_member *)table_at(&g->members[d], i))->m;
        qsort(of, (size_t)n, sizeof *of, compare_members);
        g->r->axes[d] = (struct report_axis){of, n};
    }
}

static int compare_cells(const void *x, const void *y)
{
    const struct report_cell *a = x, *b = y;
    if (a->day != b->day)
        return a->day < b->day ? -1 : 1;
    int c = by_amount(a->use.charge.v + a->use.allocated.v, b->use.charge.v + b->use.allocated.v);
    const char *const texts[][2] = {{a->tenant, b->tenant}, {a->team, b->team}, {a->project, b->project},
                                    {a->model, b->model},   {a->pool, b->pool}, {a->provider, b->provider},
                                    {a->market, b->market}, {a->tags, b->tags}, {a->cache, b->cache},
                                    {a->domain, b->domain}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && !c; i++)
        c = by_text(texts[i][0], texts[i][1]);
    return c ? c : (a->price_version > b->price_version) - (a->price_version < b->price_version);
}

static void put_cells(struct gather *g)
{
    struct report_cell *of = gather_array(g, g->cells.n, sizeof *of);
    for (int i = 0; i < g->cells.n; i++) {
        const struct gather_cell *c = table_at(&g->cells, i);
        const struct gather_cell_key *k = &c->key;
        of[i] = (struct report_cell){.day = (int)k->day,
                                     .tenant = k->tenant,
                                     .team = k->team,
                                     .project = k->project,
                                     .tags = k->tags,
                                     .model = k->model,
                                     .pool = k->pool,
                                     .provider = k->provider,
                                     .market = k->market,
                                     .domain = k->domain,
                                     .cache = k->cache,
                                     .prices = k->prices,
                                     .price_version = k->price_version,
                                     .use = c->use};
    }
    qsort(of, (size_t)g->cells.n, sizeof *of, compare_cells);
    g->r->cells = of;
    g->r->n_cells = g->cells.n;
}

/* ---- the audit's head -------------------------------------------------------------------------------------------- */

static void read_head(struct gather *g)
{
    struct error e = {0};
    if (!g->o->audit_dir)
        return;
    if (audit_read_head(g->o->audit_dir, g->o->audit_key, &g->r->head, &e) == RC_OK)
        g->r->has_head = true;
    else
        g->r->head_why = gather_text(g, e.message);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static void begin(struct gather *g)
{
    struct arena *arena = arena_new((size_t)1 << 40);
    struct report *r = arena_alloc(arena, sizeof *r);
    SPW_ASSERT(r);
    g->r = r;
    r->arena = arena;
    r->period = g->o->period;
    r->made = g->o->now;
    r->site = gather_text(g, g->o->site ? g->o->site : "Spillway");
    r->zone_name = gather_text(g, g->o->zone_name ? g->o->zone_name : "UTC");
    r->team = gather_text(g, g->o->team);
    for (int d = 0; d < REPORT_DIMS; d++)
        table_init(&g->members[d], sizeof(struct gather_member), sizeof(const char *));
    table_init(&g->cells, sizeof(struct gather_cell), sizeof(struct gather_cell_key));
    table_init(&g->nodes, sizeof(struct gather_node), sizeof(struct gather_node_key));
    table_init(&g->units, sizeof(struct gather_unit), sizeof(struct gather_unit_key));
    table_init(&g->budgets, sizeof(struct gather_budget), sizeof(struct gather_budget_key));
    find_window(g);
    make_days(g);
    gather_rule_days(g);
}

static void end(struct gather *g)
{
    for (int d = 0; d < REPORT_DIMS; d++)
        table_free(&g->members[d]);
    table_free(&g->cells);
    table_free(&g->nodes);
    table_free(&g->units);
    table_free(&g->budgets);
    texts_free(&g->texts);
    free(g->rules);
    free(g->day_of_hour);
    free(g->kinds);
    free(g->references.of);
    free(g->discounts.of);
}

static enum rc gather_all(struct gather *g)
{
    static enum rc (*const parts[])(struct gather * g) = {gather_nodes,        gather_units,       gather_hours,
                                                          gather_budgets,      gather_corrections, gather_discounts,
                                                          gather_cost_centres, gather_savings};
    enum rc rc = gather_rollups(g);
    if (rc == RC_OK)
        put_cells(g);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && rc == RC_OK; i++)
        rc = parts[i](g);
    return rc;
}

enum rc report_gather(struct report **r, const struct report_options *o, struct error *e)
{
    struct gather g = {.o = o, .e = e};
    *r = NULL;
    if (access(o->ledger, F_OK) != 0)
        return error_set(e, RC_NOT_FOUND, "report: there is no ledger at %s", o->ledger);
    begin(&g);
    enum rc rc = gather_all(&g);
    if (rc == RC_OK) {
        put_axes(&g);
        read_head(&g);
        *r = g.r;
    } else {
        report_free(g.r);
    }
    end(&g);
    return rc;
}
