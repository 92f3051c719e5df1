/* What finance has edited, as far as a report shows it: corrections, discounts, cost centres. */
#include "scheduler/report/gather.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "scheduler/books/finance.h"

#define CORRECTIONS_MAX 1000000

/* ---- changes ----------------------------------------------------------------------------------------------------- */

struct reading {
    struct gather *g;
    struct gather_changes *to;
};

static void take_change(const struct finance_change *c, void *arg)
{
    const struct reading *x = arg;
    struct gather_changes *to = x->to;
    if (to->n == to->cap) {
        to->cap = to->cap ? 2 * to->cap : 16;
        to->of = spw_realloc(to->of, (size_t)to->cap * sizeof *to->of);
    }
    to->of[to->n++] =
        (struct gather_change){gather_text(x->g, c->subject), gather_text(x->g, c->value), c->from_s, c->version};
}

enum rc gather_changes(struct gather *g, const char *kind, struct gather_changes *to)
{
    struct reading x = {g, to};
    return finance_read(g->o->ledger, kind, NULL, INT32_MAX, take_change, &x, g->e);
}

const struct gather_change *gather_change_at(const struct gather_changes *c, const char *subject, int64_t at_s)
{
    const struct gather_change *best = NULL;
    for (int i = 0; i < c->n; i++) {
        const struct gather_change *x = &c->of[i];
        if (x->from_s <= at_s && strcmp(x->subject, subject) == 0 &&
            (!best || x->from_s > best->from_s || (x->from_s == best->from_s && x->version > best->version)))
            best = x;
    }
    return best;
}

/* ---- corrections ------------------------------------------------------------------------------------------------- */

struct correcting {
    struct gather *g;
    struct report_correction *of; /* owned */
    int n, cap;
};

/* Within the month that it counts in: when it was made, or that month's first or last second. */
static int64_t counts_at(const struct correction *c)
{
    const struct period_spec month = {.kind = PERIOD_MONTH};
    const int64_t at_s = c->at.ns / NS_PER_S, last_s = period_at(&month, c->month_s).end_s - 1;
    return at_s < c->month_s ? c->month_s : at_s > last_s ? last_s : at_s;
}

static void correct_member(struct gather *g, enum report_dim d, const char *name, int64_t at_s, struct pusd amount)
{
    const struct report_period *p = &g->o->period;
    struct gather_member *m = gather_member(g, d, name);
    if (gather_in(at_s, p->from_s, p->until_s))
        pusd_sum_add(&m->m.corrected, amount);
    else if (gather_in(at_s, p->before_s, p->before_until_s))
        pusd_sum_add(&m->m.corrected_before, amount);
}

static void keep(struct correcting *x, const struct correction *c, int64_t at_s)
{
    struct gather *g = x->g;
    if (x->n == CORRECTIONS_MAX) {
        g->rc = error_set(g->e, RC_FULL, "report: more than %d corrections; ask for a shorter period", CORRECTIONS_MAX);
        return;
    }
    if (x->n == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 64;
        x->of = spw_realloc(x->of, (size_t)x->cap * sizeof *x->of);
    }
    x->of[x->n++] = (struct report_correction){.at_s = at_s,
                                               .version = c->version,
                                               .request_id = gather_text(g, c->request_id),
                                               .tenant = gather_text(g, c->tenant),
                                               .team = gather_text(g, c->team),
                                               .project = gather_text(g, c->project),
                                               .model = gather_text(g, c->model),
                                               .provider = gather_text(g, c->provider),
                                               .reason = gather_text(g, c->reason),
                                               .charge = c->charge};
}

static void take_correction(const struct correction *c, void *arg)
{
    struct correcting *x = arg;
    struct gather *g = x->g;
    const struct report_period *p = &g->o->period;
    const int64_t at_s = counts_at(c);
    if (g->rc != RC_OK || (g->o->team && (!c->team || strcmp(c->team, g->o->team) != 0)))
        return;
    if (gather_in(at_s, p->from_s, p->until_s)) {
        pusd_sum_add(&g->r->corrected, c->charge);
        keep(x, c, at_s);
    }
    if (gather_in(at_s, p->before_s, p->before_until_s))
        pusd_sum_add(&g->r->corrected_before, c->charge);
    if (gather_in(at_s, g->r->month_from_s, p->until_s))
        pusd_sum_add(&g->r->month_corrected, c->charge);
    correct_member(g, REPORT_TEAM, gather_text(g, c->team), at_s, c->charge);
    correct_member(g, REPORT_PROJECT, gather_text(g, c->project), at_s, c->charge);
    correct_member(g, REPORT_MODEL, gather_text(g, c->model), at_s, c->charge);
    correct_member(g, REPORT_PROVIDER, gather_text(g, c->provider), at_s, c->charge);
}

enum rc gather_corrections(struct gather *g)
{
    struct correcting x = {.g = g};
    enum rc rc = finance_read_corrections(g->o->ledger, g->window_s - 31 * INT64_C(86400), g->o->period.until_s,
                                          take_correction, &x, g->e);
    if (rc == RC_OK)
        rc = g->rc;
    struct report_correction *of = gather_array(g, x.n, sizeof *of);
    if (x.n)
        memcpy(of, x.of, (size_t)x.n * sizeof *of);
    g->r->corrections = of;
    g->r->n_corrections = x.n;
    free(x.of);
    return rc;
}

/* ---- discounts --------------------------------------------------------------------------------------------------- */

static int64_t discount_ppm(const struct gather *g, const char *subject, int64_t at_s)
{
    const struct gather_change *c = gather_change_at(&g->discounts, subject, at_s);
    struct error e;
    int64_t ppm = 0;
    return c && finance_percent_ppm(c->value, &ppm, &e) == RC_OK ? ppm : 0;
}

/* Subjects once each, in order of their name. */
static int subjects(const struct gather_changes *c, const char **names)
{
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        int k = 0;
        while (k < n && strcmp(names[k], c->of[i].subject) < 0)
            k++;
        if (k < n && strcmp(names[k], c->of[i].subject) == 0)
            continue;
        memmove(names + k + 1, names + k, (size_t)(n - k) * sizeof *names);
        names[k] = c->of[i].subject;
        n++;
    }
    return n;
}

/* Each cell's by the rate of its day: what is rounded down is so in the CSV's row, too. */
static struct report_discount discount(struct gather *g, const char *subject)
{
    struct report_discount d = {.subject = subject};
    int64_t *ppm = gather_array(g, g->r->n_days, sizeof *ppm);
    for (int day = g->r->day_from; day < g->r->n_days; day++)
        ppm[day] = discount_ppm(g, subject, g->r->days[day].end_s - 1);
    d.ppm = ppm;
    for (int i = 0; i < g->r->n_cells; i++) {
        const struct report_cell *c = &g->r->cells[i];
        if (!ppm[c->day] || !report_match(subject, c))
            continue;
        d.charge.v += c->use.charge.v;
        d.discount.v += c->use.charge.v * ppm[c->day] / 1000000;
    }
    return d;
}

enum rc gather_discounts(struct gather *g)
{
    enum rc rc = gather_changes(g, "discount", &g->discounts);
    const char **names = spw_calloc((size_t)g->discounts.n + 1, sizeof *names);
    const int n = rc == RC_OK ? subjects(&g->discounts, names) : 0;
    struct report_discount *of = gather_array(g, n, sizeof *of);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        of[kept] = discount(g, names[i]);
        kept += of[kept].charge.v != 0;
    }
    free(names);
    g->r->discounts = of;
    g->r->n_discounts = kept;
    return rc;
}

/* ---- cost centres ------------------------------------------------------------------------------------------------ */

static void take_cost_centre(const struct finance_change *c, void *arg)
{
    cJSON *o = NULL;
    const char *code = NULL;
    struct error e;
    if (json_parse(c->value, strlen(c->value), 8, &o, &e) == RC_OK &&
        json_get_string(o, "code", &code, NULL, &e) == RC_OK && code) {
        struct finance_change known = *c;
        known.value = code;
        take_change(&known, arg);
    }
    cJSON_Delete(o);
}

enum rc gather_cost_centres(struct gather *g)
{
    struct gather_changes all = {.n = 0};
    struct reading x = {g, &all};
    enum rc rc = finance_read_at(g->o->ledger, "cost_centre", g->o->period.until_s - 1, take_cost_centre, &x, g->e);
    struct report_cost_centre *of = gather_array(g, all.n, sizeof *of);
    for (int i = 0; i < all.n; i++)
        of[i] = (struct report_cost_centre){all.of[i].subject, all.of[i].value};
    g->r->cost_centres = of;
    g->r->n_cost_centres = all.n;
    free(all.of);
    return rc;
}
