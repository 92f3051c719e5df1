/* What the same would have cost elsewhere. Integer all the way; what no reference price is known for is taken at what
 * it did cost, so that nothing is claimed to be saved on it. */
#include "scheduler/report/gather.h"

#include <string.h>

#include "base/json.h"
#include "scheduler/books/finance.h"

#define HOUR_US  (INT64_C(3600) * 1000000)
#define USED_MAX 1000

/* ---- reference prices -------------------------------------------------------------------------------------------- */

struct savings {
    struct gather *g;
    struct report_price_used *used; /* of the report */
    int n_used;
};

/* Finance's newest that holds at the period's end, of a model or by the hour. */
static bool of_finance(struct gather *g, const char *subject, bool by_hour, struct report_price_used *p)
{
    const struct gather_change *c = gather_change_at(&g->references, subject, g->o->period.until_s - 1);
    struct error e;
    cJSON *o = NULL;
    const char *hour = NULL;
    if (!c)
        return false;
    *p = (struct report_price_used){.subject = subject, .source = "finance", .by_hour = by_hour};
    if (!by_hour)
        return finance_prices(c->value, &p->prices, &e) == RC_OK;
    const bool found = json_parse(c->value, strlen(c->value), 8, &o, &e) == RC_OK &&
                       json_get_string(o, "hour", &hour, NULL, &e) == RC_OK && hour &&
                       pusd_parse(hour, &p->hour, &e) == RC_OK;
    cJSON_Delete(o);
    return found;
}

static bool of_options(struct gather *g, const char *subject, bool by_hour, struct report_price_used *p)
{
    for (int i = 0; i < g->o->n_references; i++) {
        const struct report_reference *r = &g->o->references[i];
        if (r->by_hour != by_hour || strcmp(r->subject, subject) != 0)
            continue;
        *p = (struct report_price_used){subject, gather_text(g, r->source), by_hour, r->prices, r->hour};
        return true;
    }
    return false;
}

/* What machines of the pool did cost on demand in this very period. */
static bool of_period(struct gather *g, const char *pool, struct report_price_used *p)
{
    __int128 fixed = 0, us = 0;
    for (int i = 0; i < g->r->n_node_days; i++) {
        const struct report_node_day *n = &g->r->node_days[i];
        if (n->pool == pool && n->market && strcmp(n->market, "on-demand") == 0) {
            fixed += n->cost.fixed.v;
            us += n->cost.paid_us;
        }
    }
    if (us == 0)
        return false;
    *p = (struct report_price_used){.subject = pool,
                                    .source = "what the pool paid on demand",
                                    .by_hour = true,
                                    .hour = {(int64_t)(fixed * HOUR_US / us)}};
    return true;
}

static const struct report_price_used *known(const struct savings *s, const char *subject, bool by_hour)
{
    for (int i = 0; i < s->n_used; i++)
        if (s->used[i].by_hour == by_hour && s->used[i].subject == subject)
            return &s->used[i];
    return NULL;
}

static const struct report_price_used *use(struct savings *s, const struct report_price_used *p)
{
    if (s->n_used == USED_MAX)
        return NULL;
    s->used[s->n_used] = *p;
    return &s->used[s->n_used++];
}

static const struct report_price_used *by_token(struct savings *s, const char *model)
{
    struct report_price_used p;
    const struct report_price_used *k = model ? known(s, model, false) : NULL;
    if (k || !model)
        return k;
    return of_finance(s->g, model, false, &p) || of_options(s->g, model, false, &p) ? use(s, &p) : NULL;
}

static const struct report_price_used *by_hour(struct savings *s, const struct report_node_day *n)
{
    const char *const subjects[] = {n->node, n->pool};
    struct report_price_used p;
    for (int i = 0; i < 2; i++) {
        const char *subject = subjects[i];
        const struct report_price_used *k = known(s, subject, true);
        if (k)
            return k;
        if (of_finance(s->g, subject, true, &p) || of_options(s->g, subject, true, &p) ||
            (i == 1 && of_period(s->g, subject, &p)))
            return use(s, &p);
    }
    return NULL;
}

/* ---- savings ----------------------------------------------------------------------------------------------------- */

static void finish(struct report_saving *x, __int128 known_of, __int128 all, const char *assumption)
{
    x->saved.v = x->would.v - x->is.v;
    x->known_ppm = report_ppm((struct pusd_sum){known_of}, (struct pusd_sum){all});
    x->assumption = assumption;
}

static void all_api(struct savings *s)
{
    const struct report *r = s->g->r;
    struct report_saving *x = &s->g->r->savings[REPORT_ALL_API];
    __int128 tokens = 0, known_tokens = 0;
    for (int i = 0; i < r->n_cells; i++) {
        const struct report_cell *c = &r->cells[i];
        const struct report_use *u = &c->use;
        if (c->cache) /* the same requests would have been answered from memory */
            continue;
        const struct report_price_used *p = by_token(s, c->model);
        tokens += report_tokens(u);
        if (p) {
            known_tokens += report_tokens(u);
            x->would.v += (__int128)(u->tokens.input - u->tokens.cached_input) * p->prices.input.uusd_per_mtok +
                          (__int128)u->tokens.cached_input * p->prices.cached_input.uusd_per_mtok +
                          (__int128)u->tokens.output * p->prices.output.uusd_per_mtok;
        } else {
            x->would.v += u->allocated.v + u->waste.v;
        }
    }
    x->would_least = x->would;
    x->is.v = r->team ? r->use.allocated.v + r->use.waste.v : r->cost.bill.v;
    finish(x, known_tokens, tokens,
           "the same tokens, cached ones at the price of cached ones, all bought from the API of their model; models"
           " without a reference price at what they did cost; against everything that machines and providers cost");
}

static void add_hours(struct pusd_sum *to, int64_t us, struct pusd hour)
{
    to->v += (__int128)us * hour.v / HOUR_US;
}

static void all_on_demand(struct savings *s)
{
    const struct report *r = s->g->r;
    struct report_saving *x = &s->g->r->savings[REPORT_ALL_ON_DEMAND];
    __int128 us = 0, known_us = 0;
    for (int i = 0; i < r->n_node_days; i++) {
        const struct report_node_day *n = &r->node_days[i];
        const bool api = n->market && strcmp(n->market, "api") == 0;
        const int64_t up_us = n->cost.paid_us > n->cost.asleep_us ? n->cost.paid_us - n->cost.asleep_us : 0;
        const struct report_price_used *p = api || !n->cost.paid_us ? NULL : by_hour(s, n);
        us += api ? 0 : up_us;
        x->is.v += n->cost.bill.v;
        if (p) {
            known_us += up_us;
            add_hours(&x->would, up_us, p->hour);
            add_hours(&x->would_least, n->cost.busy_us + n->cost.waste_us + n->cost.boot_us, p->hour);
        } else {
            x->would.v += n->cost.bill.v;
            x->would_least.v += n->cost.bill.v;
        }
    }
    finish(
        x, known_us, us,
        "the same machine hours but those asleep, rented on demand (at least: those busy and booting alone); APIs and"
        " machines without a reference price at what they did cost");
}

static void spot(struct savings *s)
{
    const struct report *r = s->g->r;
    struct report_saving *x = &s->g->r->savings[REPORT_SPOT];
    __int128 us = 0, known_us = 0;
    for (int i = 0; i < r->n_node_days; i++) {
        const struct report_node_day *n = &r->node_days[i];
        if (!n->market || strcmp(n->market, "spot") != 0)
            continue;
        const struct report_price_used *p = by_hour(s, n);
        us += n->cost.paid_us;
        known_us += p ? n->cost.paid_us : 0;
        x->is.v += n->cost.fixed.v;
        if (p)
            add_hours(&x->would, n->cost.paid_us, p->hour);
        else
            x->would.v += n->cost.fixed.v;
    }
    x->would_least = x->would;
    finish(x, known_us, us, "the same hours of the same machines at their price on demand");
}

static void cache(struct savings *s)
{
    struct report_saving *x = &s->g->r->savings[REPORT_CACHE];
    x->would = x->would_least = s->g->r->use.saved;
    finish(x, 1, 1, "answers from memory, at what computing them was charged");
}

enum rc gather_savings(struct gather *g)
{
    struct savings s = {.g = g, .used = gather_array(g, USED_MAX, sizeof *s.used)};
    enum rc rc = gather_changes(g, "reference", &g->references);
    if (rc != RC_OK)
        return rc;
    all_api(&s);
    all_on_demand(&s);
    spot(&s);
    cache(&s);
    g->r->prices_used = s.used;
    g->r->n_prices_used = s.n_used;
    return RC_OK;
}
