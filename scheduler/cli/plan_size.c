/* The arithmetic of `spillway plan`. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cli/plan.h"

#define HOUR_S          3600.0
#define FLOPS_SHARE     0.4 /* of peak, by prefill, where nothing is cited */
#define BANDWIDTH_SHARE 0.6 /* of peak, by decode */
#define DAY_H           24

/* --- speed ----------------------------------------------------------------------------------------------------- */

static struct gpu_facts facts_of(const struct plan_node *n, const struct plan_model *m, int width)
{
    bool small = m->shape.bits_per_weight <= 8.5 && n->flops_fp8 > 0;

    return (struct gpu_facts){.gpus = width,
                              .memory_bytes = n->gpu_memory_bytes,
                              .bandwidth_bytes_s = n->bandwidth_bytes_s,
                              .flops = small ? n->flops_fp8 : n->flops,
                              .flops_share = FLOPS_SHARE,
                              .bandwidth_share = BANDWIDTH_SHARE};
}

static const struct plan_curve *find_curve(const struct plan_catalogue *c, const struct plan_model *m,
                                           const struct plan_node *n, int width)
{
    for (int i = 0; i < c->n_curves; i++)
        if (strcmp(c->curves[i].model, m->name) == 0 && strcmp(c->curves[i].gpu, n->gpu) == 0 &&
            c->curves[i].gpus == width)
            return &c->curves[i];
    return NULL;
}

/* One way to divide a node: replicas of `width` GPUs. */
static void try_width(struct plan_row *row, const struct plan_catalogue *c, const struct plan_model *m,
                      const struct plan_ask *ask, int width)
{
    struct gpu_facts g = facts_of(row->node, m, width);
    const struct plan_curve *measured = find_curve(c, m, row->node, width);

    row->width = width;
    row->replicas = row->node->gpus / width;
    row->measured = measured != NULL;
    capacity_memory(&row->memory, &m->shape, &g, &ask->mix);
    capacity_curve(&row->curve, &m->shape, &g, &ask->mix);
    if (measured) {
        double prefill = row->curve.prefill_us_per_tok;
        row->curve = measured->curve;
        if (row->curve.prefill_us_per_tok <= 0)
            row->curve.prefill_us_per_tok = prefill;
    }
    memset(&row->capacity, 0, sizeof(row->capacity));
    row->why = PLAN_NO_MEMORY;
    if (!row->memory.fits)
        return;
    capacity_at_slo(&row->capacity, &row->curve, &ask->slo, &ask->mix, row->memory.sequences);
    row->why = row->capacity.limit == CAPACITY_NONE ? PLAN_NO_SLO : PLAN_OK;
    row->capacity.requests_per_s *= row->replicas;
    row->capacity.tokens_per_s *= row->replicas;
    row->capacity.output_tokens_per_s *= row->replicas;
    row->capacity.concurrency *= row->replicas;
}

/* The way that gives most; what was measured goes before what was derived. */
static bool better(const struct plan_row *a, const struct plan_row *b)
{
    if ((a->why == PLAN_OK) != (b->why == PLAN_OK))
        return a->why == PLAN_OK;
    if (a->why != PLAN_OK)
        return a->why > b->why; /* "too slow" says more than "too small" */
    if (a->measured != b->measured)
        return a->measured;
    return a->capacity.requests_per_s > b->capacity.requests_per_s * (1 + 1e-9);
}

static void best_width(struct plan_row *row, const struct plan_catalogue *c, const struct plan_model *m,
                       const struct plan_ask *ask)
{
    struct plan_row one = *row;

    try_width(row, c, m, ask, row->node->gpus);
    for (int width = 1; width < row->node->gpus; width *= 2) {
        if (row->node->gpus % width)
            continue;
        try_width(&one, c, m, ask, width);
        if (better(&one, row))
            *row = one;
    }
}

/* --- how many -------------------------------------------------------------------------------------------------- */

/* The day is a hump whose busiest hour is `peak` times its mean: ((1 + cos) / 2)^k. Rates of each hour, mean 1. */
static void day_shape(double peak, double hours[DAY_H])
{
    double low = 0, high = 200;

    for (int step = 0; step < 60; step++) {
        double k = (low + high) / 2, sum = 0;
        for (int h = 0; h < DAY_H; h++)
            sum += hours[h] = pow(fmax((1 + cos(2 * M_PI * h / DAY_H)) / 2, 1e-3), k);
        for (int h = 0; h < DAY_H; h++)
            hours[h] *= DAY_H / sum;
        if (hours[0] < peak)
            low = k;
        else
            high = k;
    }
}

static void count_nodes(struct plan_row *row, const struct plan_ask *ask)
{
    double hours[DAY_H], rate = row->capacity.requests_per_s, need = ask->requests_per_s * (1 + ask->over_provision);
    double sum = 0;

    day_shape(ask->peak, hours);
    for (int h = 0; h < DAY_H; h++)
        sum += ceil(need * hours[h] / rate - 1e-9);
    row->nodes_mean = sum / DAY_H;
    row->nodes_peak = (int)fmin(ceil(need * ask->peak / rate - 1e-9), 1e9);
}

/* --- money ----------------------------------------------------------------------------------------------------- */

/* Whole hours are counted in thousandths, so that money stays integer. */
static struct pusd_sum rent(struct pusd hour, double node_hours)
{
    return (struct pusd_sum){(__int128)hour.v * (int64_t)llround(node_hours * 1000) / 1000};
}

static __int128 energy(const struct plan_ask *ask, double watts, double hours)
{
    double kwh = watts * ask->pue * hours / 1000;
    return (__int128)llround(kwh * 1000) * ask->uusd_per_kwh * 1000; /* thousandths of kWh x micro-dollars -> pico */
}

static __int128 write_off(const struct plan_node *n, const struct plan_ask *ask)
{
    return (__int128)n->purchase.v * 1000 / (int64_t)llround(ask->years * 12 * 1000);
}

/* Million tokens a month from which nodes at node_month each beat the API; < 0: never. */
static double break_even(const struct plan_result *r, const struct plan_row *row, __int128 node_month)
{
    if (!r->api || r->api_request.v <= 0)
        return -1;
    double month_s = PLAN_MONTH_H * HOUR_S, rate = (double)node_month / ((double)r->api_request.v * month_s);
    if (rate * r->ask.peak * (1 + r->ask.over_provision) > row->capacity.requests_per_s)
        return -1; /* even a full node costs more than its work does there */
    return rate * month_s * (r->ask.mix.prompt + r->ask.mix.output) / 1e6;
}

static void price_rented(struct plan_cost *cost, const struct plan_result *r, const struct plan_row *row,
                         struct pusd hour)
{
    cost->break_even_mtok = -1;
    cost->offered = hour.v > 0;
    if (!cost->offered)
        return;
    cost->fixed = rent(hour, (double)row->nodes_peak * PLAN_MONTH_H);
    cost->scaled = rent(hour, row->nodes_mean * PLAN_MONTH_H);
    cost->break_even_mtok = break_even(r, row, (__int128)hour.v * PLAN_MONTH_H);
}

static void price_owned(struct plan_row *row, const struct plan_result *r)
{
    const struct plan_node *n = row->node;
    const struct plan_ask *ask = &r->ask;
    struct plan_cost *cost = &row->on_prem;
    double load = ask->requests_per_s / row->capacity.requests_per_s; /* busy nodes, in the mean */

    row->hours_per_day = cost->break_even_mtok = -1;
    cost->offered = n->purchase.v > 0;
    if (!cost->offered)
        return;
    __int128 owned = write_off(n, ask) * row->nodes_peak;
    double busy = load * (n->watts_busy - n->watts_idle);
    cost->fixed.v = owned + energy(ask, row->nodes_peak * n->watts_idle + busy, PLAN_MONTH_H);
    cost->scaled.v = owned + energy(ask, row->nodes_mean * n->watts_idle + busy, PLAN_MONTH_H);
    __int128 one = write_off(n, ask) + energy(ask, n->watts_busy, PLAN_MONTH_H);
    cost->break_even_mtok = break_even(r, row, one);
    if (n->on_demand_hour.v > 0)
        row->hours_per_day = (double)one / (double)n->on_demand_hour.v / PLAN_MONTH_H * DAY_H;
}

static void price_api(struct plan_result *r)
{
    const struct plan_model *m = r->model;
    struct token_counts n = {.input = llround(r->ask.mix.prompt),
                             .cached_input = llround(fmin(r->ask.mix.cached, r->ask.mix.prompt)),
                             .output = llround(r->ask.mix.output)};

    r->api = m->api[0] && money_charge(&m->api_prices, &n, &r->api_request) == RC_OK;
    if (r->api)
        r->api_month.v = (__int128)r->api_request.v * (int64_t)llround(r->ask.requests_per_s * HOUR_S * PLAN_MONTH_H);
}

void plan_size(struct plan_result *r, const struct plan_catalogue *c, const struct plan_model *m,
               const struct plan_ask *ask)
{
    memset(r, 0, sizeof(*r));
    r->model = m;
    r->ask = *ask;
    price_api(r);
    for (int i = 0; i < c->n_nodes; i++) {
        struct plan_row *row = &r->rows[r->n_rows++];
        row->node = &c->nodes[i];
        best_width(row, c, m, ask);
        if (row->why != PLAN_OK)
            continue;
        count_nodes(row, ask);
        price_owned(row, r);
        price_rented(&row->spot, r, row, row->node->spot_hour);
        price_rented(&row->on_demand, r, row, row->node->on_demand_hour);
    }
}

/* --- the SLO as written ---------------------------------------------------------------------------------------- */

static enum rc parse_duration(double *us, const char *text, const char *name, struct error *e)
{
    char *end;
    double x = strtod(text, &end);
    double unit = strcmp(end, "ms") == 0 ? 1e3 : strcmp(end, "s") == 0 ? 1e6 : 0;

    if (end == text || unit == 0 || !(x > 0 && x * unit < 1e12))
        return error_set(e, RC_INVALID, "--slo: %s=%.40s: a time like 500ms or 1.5s is wanted", name, text);
    *us = x * unit;
    return RC_OK;
}

enum rc plan_parse_slo(struct capacity_slo *slo, const char *text, struct error *e)
{
    char word[64];

    while (*text) {
        size_t n = strcspn(text, ",");
        if (n >= sizeof(word))
            return error_set(e, RC_INVALID, "--slo: \"%.40s...\" is too long", text);
        memcpy(word, text, n);
        word[n] = '\0';
        text += n + (text[n] == ',');
        char *value = strchr(word, '=');
        if (!value)
            return error_set(e, RC_INVALID, "--slo: \"%s\": like ttft=500ms,tpot=50ms,p=0.99", word);
        *value++ = '\0';
        if (strcmp(word, "ttft") == 0 || strcmp(word, "tpot") == 0) {
            if (parse_duration(word[1] == 't' ? &slo->ttft_us : &slo->tpot_us, value, word, e) != RC_OK)
                return e->code;
        } else if (strcmp(word, "p") == 0) {
            char *end;
            slo->probability = strtod(value, &end);
            if (end == value || *end || !(slo->probability > 0 && slo->probability < 1))
                return error_set(e, RC_INVALID, "--slo: p=%s: a probability below 1, like 0.99, is wanted", value);
        } else {
            return error_set(e, RC_INVALID, "--slo: unknown \"%s\"; there are ttft, tpot and p", word);
        }
    }
    return RC_OK;
}
