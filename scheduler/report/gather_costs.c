/* What machines cost, what one request costs, and whether the hours are whole. */
#include "scheduler/report/gather.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/books/closing.h"

/* ---- machines ---------------------------------------------------------------------------------------------------- */

static void add_bill(struct report_point *p, const struct node_hour *h)
{
    if (p)
        p->cost += h->bill.v;
}

static void add_member(struct gather *g, enum report_dim d, const char *name, const struct node_hour *h)
{
    const struct report_period *p = &g->o->period;
    struct gather_member *m = gather_member(g, d, name);
    if (gather_in(h->hour_s, p->from_s, p->until_s))
        report_cost_add(&m->m.cost, h);
    if (gather_in(h->hour_s, p->before_s, p->before_until_s))
        report_cost_add(&m->m.cost_before, h);
    add_bill(gather_day_point(g, m->days, h->hour_s), h);
    add_bill(gather_hour_point(g, m->hours, h->hour_s), h);
}

static void add_node_day(struct gather *g, const struct node_hour *h)
{
    struct gather_node_key k;
    memset(&k, 0, sizeof k);
    k.node = h->node;
    k.pool = h->pool;
    k.provider = h->provider;
    k.market = h->market;
    k.domain = h->domain;
    k.day = gather_day(g, h->hour_s);
    struct gather_node *n = table_get(&g->nodes, &k, GATHER_CELLS_MAX);
    if (n)
        report_cost_add(&n->cost, h);
    else if (g->rc == RC_OK)
        g->rc =
            error_set(g->e, RC_FULL, "report: more than %d machines' days; ask for a shorter period", GATHER_CELLS_MAX);
}

static void take_node(const struct node_hour *given, void *arg)
{
    struct gather *g = arg;
    struct node_hour h = *given;
    const struct report_period *p = &g->o->period;
    h.node = gather_text(g, h.node);
    h.pool = h.pool ? gather_text(g, h.pool) : h.node; /* as in roll-ups */
    h.provider = gather_text(g, h.provider);
    h.market = gather_text(g, h.market);
    h.domain = gather_text(g, h.domain);
    if (gather_in(h.hour_s, p->from_s, p->until_s)) {
        report_cost_add(&g->r->cost, &h);
        add_node_day(g, &h);
    }
    if (gather_in(h.hour_s, p->before_s, p->before_until_s))
        report_cost_add(&g->r->cost_before, &h);
    if (gather_in(h.hour_s, g->r->month_from_s, p->until_s))
        report_cost_add(&g->r->month_cost, &h);
    add_member(g, REPORT_PROVIDER, h.provider, &h);
    add_member(g, REPORT_POOL, h.pool, &h);
    add_member(g, REPORT_MARKET, h.market, &h);
    add_bill(gather_day_point(g, g->r->all_days, h.hour_s), &h);
    add_bill(gather_hour_point(g, g->r->all_hours, h.hour_s), &h);
}

static int compare_nodes(const void *x, const void *y)
{
    const struct report_node_day *a = x, *b = y;
    return a->day != b->day ? (a->day < b->day ? -1 : 1) : strcmp(a->node, b->node);
}

enum rc gather_nodes(struct gather *g)
{
    if (g->o->team) /* machines are nobody's */
        return RC_OK;
    enum rc rc = rollup_read_nodes(g->o->ledger, g->window_s, g->o->period.until_s, take_node, g, g->e);
    if (rc != RC_OK || g->rc != RC_OK)
        return rc != RC_OK ? rc : g->rc;
    struct report_node_day *of = gather_array(g, g->nodes.n, sizeof *of);
    for (int i = 0; i < g->nodes.n; i++) {
        const struct gather_node *n = table_at(&g->nodes, i);
        of[i] = (struct report_node_day){.day = (int)n->key.day,
                                         .node = n->key.node,
                                         .pool = n->key.pool,
                                         .provider = n->key.provider,
                                         .market = n->key.market,
                                         .domain = n->key.domain,
                                         .cost = n->cost};
    }
    qsort(of, (size_t)g->nodes.n, sizeof *of, compare_nodes);
    g->r->node_days = of;
    g->r->n_node_days = g->nodes.n;
    return RC_OK;
}

/* ---- what one request costs --------------------------------------------------------------------------------------- */

static void take_charges(const struct charge_count *c, void *arg)
{
    struct gather *g = arg;
    const char *model = gather_text(g, c->model), *pool = gather_text(g, c->pool);
    for (int all = 0; all < 2; all++) {
        struct gather_unit *u = gather_unit(g, model, pool, all);
        if (u && c->bucket >= 0 && c->bucket < GATHER_BUCKETS)
            u->counts[c->bucket] += c->n;
    }
}

/* Nearest rank: the smallest charge that so many in a hundred do not exceed. */
static struct pusd percentile(const struct gather_unit *u, int64_t n, int percent)
{
    const int64_t rank = (n * percent + 99) / 100;
    int64_t seen = 0;
    for (int b = 0; b < GATHER_BUCKETS; b++) {
        seen += u->counts[b];
        if (seen >= rank)
            return rollup_bucket_middle(b);
    }
    return (struct pusd){0};
}

static struct report_unit unit(const struct gather_unit *u)
{
    struct report_unit x = {.model = u->key.model, .pool = u->key.pool, .use = u->use};
    for (int b = 0; b < GATHER_BUCKETS; b++)
        x.requests += u->counts[b];
    if (x.requests) {
        x.p50 = percentile(u, x.requests, 50);
        x.p99 = percentile(u, x.requests, 99);
    }
    return x;
}

/* With what all of its model's pools come to, by which models are put in order. */
struct ranked {
    struct report_unit unit;
    __int128 of_model;
};

static __int128 weight(const struct report_use *u)
{
    return u->charge.v + u->allocated.v + u->waste.v;
}

static int compare_ranked(const void *x, const void *y)
{
    const struct ranked *a = x, *b = y;
    const struct report_unit *u = &a->unit, *v = &b->unit;
    if (a->of_model != b->of_model)
        return a->of_model > b->of_model ? -1 : 1;
    if (u->model != v->model)
        return strcmp(u->model ? u->model : "", v->model ? v->model : "");
    if (!u->pool || !v->pool)
        return !v->pool - !u->pool;
    if (weight(&u->use) != weight(&v->use))
        return weight(&u->use) > weight(&v->use) ? -1 : 1;
    return strcmp(u->pool, v->pool);
}

enum rc gather_units(struct gather *g)
{
    const struct report_period *p = &g->o->period;
    if (!g->o->team) {
        enum rc rc = rollup_read_charges(g->o->ledger, p->from_s, p->until_s, take_charges, g, g->e);
        if (rc != RC_OK)
            return rc;
    }
    const int n = g->units.n;
    struct ranked *all = spw_calloc((size_t)n + 1, sizeof *all);
    struct report_unit *of = gather_array(g, n, sizeof *of);
    for (int i = 0; i < n; i++) {
        const struct gather_unit *u = table_at(&g->units, i);
        struct gather_unit_key model = {u->key.model, NULL};
        all[i] = (struct ranked){unit(u), weight(&((struct gather_unit *)table_get(&g->units, &model, n))->use)};
    }
    qsort(all, (size_t)n, sizeof *all, compare_ranked);
    for (int i = 0; i < n; i++)
        of[i] = all[i].unit;
    free(all);
    g->r->units = of;
    g->r->n_units = n;
    return RC_OK;
}

/* ---- hours ------------------------------------------------------------------------------------------------------- */

static void take_hour(const struct closed_hour *h, void *arg)
{
    struct gather *g = arg;
    struct report_hours *to = &g->r->hours;
    to->closed_until_s = h->hour_s + GATHER_HOUR_S;
    if (!gather_in(h->hour_s, g->o->period.from_s, g->o->period.until_s))
        return;
    to->closed++;
    to->wrong += h->problems != NULL;
    if (h->problems && !to->first_wrong_s) {
        to->first_wrong_s = h->hour_s;
        to->first_problem = gather_text(g, h->problems);
    }
}

static void take_open(int64_t hour_s, void *arg)
{
    struct gather *g = arg;
    struct report_hours *to = &g->r->hours;
    if (!gather_in(hour_s, g->o->period.from_s, g->o->period.until_s))
        return;
    to->open++;
    to->first_open_s = to->first_open_s ? to->first_open_s : hour_s;
}

enum rc gather_hours(struct gather *g)
{
    const int64_t until_s = g->o->period.until_s;
    enum rc rc = rollup_read_hours(g->o->ledger, g->window_s, until_s, take_hour, g, g->e);
    return rc == RC_OK ? closing_due(g->o->ledger, until_s, take_open, g, g->e) : rc;
}
