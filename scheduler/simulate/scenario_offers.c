/* Offers of a scenario: what one kind of machine costs in one place, and when it can be had. */
#include "scheduler/simulate/scenario_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *text_or(const char *text, const char *other)
{
    return text ? text : other;
}

static enum rc find_named(const struct scenario *s, const struct file_offer *f, struct sim_offer *o, struct error *e)
{
    for (o->type = 0; o->type < (uint32_t)s->sim.n_types; o->type++)
        if (strcmp(s->sim.types[o->type].name, f->type) == 0)
            break;
    if (o->type == (uint32_t)s->sim.n_types)
        return scenario_error(s, f->line, e, "type %.80s is none of `types`", f->type);
    o->site = -1;
    for (int i = 0; f->site && i < s->sim.n_sites; i++)
        if (strcmp(s->sim.sites[i].name, f->site) == 0)
            o->site = i;
    if (f->site && o->site < 0)
        return scenario_error(s, f->line, e, "site %.80s is none of `sites`", f->site);
    const struct file_pool *pools = s->file.pools.items;
    o->pool = -1;
    for (int i = 0; f->pool && i < s->file.pools.n; i++)
        if (strcmp(pools[i].name, f->pool) == 0)
            o->pool = i;
    if (f->pool && o->pool < 0)
        return scenario_error(s, f->line, e, "pool %.80s is none of `pools`", f->pool);
    return RC_OK;
}

static enum rc make_pools(struct scenario *s, struct error *e)
{
    const struct file_pool *f = s->file.pools.items;
    int n = s->file.pools.n;
    int32_t *min;
    enum rc rc = scenario_array(s, &min, n, sizeof *min, e);

    for (int i = 0; rc == RC_OK && i < n; i++) {
        for (int k = 0; k < i; k++)
            if (strcmp(f[k].name, f[i].name) == 0)
                return scenario_error(s, f[i].line, e, "pool %.80s stands here a second time", f[i].name);
        min[i] = f[i].min;
    }
    s->sim.pools_min = min;
    s->sim.n_pools = n;
    return rc;
}

/* --- prices ------------------------------------------------------------------------------------------------------- */

static bool has_list_price(const struct file_list_price *l)
{
    return l->cloud || l->type || l->accelerator || l->region || l->zone;
}

static enum rc take_list_price(struct scenario *s, const struct file_offer *f, struct sim_offer *o, struct error *e)
{
    const struct file_list_price *l = &f->list_price;
    const struct price_row like = {.cloud = l->cloud,
                                   .type = l->type,
                                   .accelerator = l->accelerator,
                                   .region = l->region,
                                   .zone = l->zone,
                                   .accelerators = l->accelerators};

    if (!s->prices.n)
        return scenario_error(s, l->line, e, "list_price: no price list is named; use `prices:` or --prices FILE");
    struct price_spread found = price_spread(&s->prices, &like, f->market == SCALE_SPOT ? PRICE_SPOT : PRICE_ON_DEMAND);
    if (!found.n)
        return scenario_error(s, l->line, e, "list_price: no row that fits has a price %s that can be used",
                              f->market == SCALE_SPOT ? "on the spot market" : "on demand");
    struct pusd p = l->pick == 1 ? found.median : found.least;
    o->price_hour.v = (int64_t)llround((double)p.v * l->share * l->factor);
    return RC_OK;
}

/* Bought machines: written off by the hour, evenly. */
static struct pusd write_off(const struct file_offer *f)
{
    return (struct pusd){(int64_t)((double)f->purchase.v / (f->life_years * 365.25 * 24))};
}

/* --- availability ------------------------------------------------------------------------------------------------- */

static enum rc take_availability(struct scenario *s, const struct file_offer *f, struct sim_offer *o, struct error *e)
{
    const struct file_availability *a = &f->availability;
    int64_t *at, *value, until, start;
    int n = 0;

    if (!s->spot.n)
        return scenario_error(s, a->line, e,
                              "available: no table of spot availability is named; use `spot:` or --spot FILE");
    const struct spot_series *series = spot_find(&s->spot, a->collection, a->zone);
    if (!series)
        return scenario_error(s, a->line, e, "available: there is no series %.60s%s%.60s in the spot table",
                              text_or(a->collection, ""), a->collection ? " " : "", a->zone);
    enum rc rc = scenario_array(s, &at, series->n_runs + 1, sizeof *at, e);
    if (rc == RC_OK)
        rc = scenario_array(s, &value, series->n_runs + 1, sizeof *value, e);
    if (rc != RC_OK)
        return rc;
    start = a->offset_us % series->span_us;
    for (int64_t t = start; t < start + series->span_us; t = until) {
        int64_t nodes = (int64_t)spot_at(series, t, &until) * a->nodes / series->nodes;
        if (n && value[n - 1] == nodes)
            continue;
        at[n] = t - start;
        value[n++] = nodes;
    }
    o->available = (struct sim_steps){at, value, n, series->span_us};
    if (o->losses_per_hour < 0)
        o->losses_per_hour =
            series->share > 0 ? series->losses / (series->share * (double)series->span_us / 3600e6) : 1;
    return RC_OK;
}

/* --- own machines ------------------------------------------------------------------------------------------------- */

static struct token_prices node_prices(const struct scenario_inputs *in, const char *name)
{
    for (int i = 0; i < in->n_nodes; i++)
        if (strcmp(in->nodes[i].name, name) == 0)
            return in->nodes[i].prices;
    return (struct token_prices){0};
}

/* The configuration's nodes that are these machines. */
static enum rc take_nodes(const struct scenario *s, const struct scenario_inputs *in, const struct file_offer *f,
                          struct sim_offer *o, struct error *e)
{
    const char *const *names = f->nodes.items;

    for (int i = 0; i < f->nodes.n; i++) {
        bool found = false;
        for (int k = 0; k < in->n_nodes && !found; k++)
            found = in->nodes[k].local && strcmp(in->nodes[k].name, names[i]) == 0;
        if (found && !i)
            o->charge = node_prices(in, names[i]);
        if (in->n_nodes && !found)
            return scenario_error(s, f->line, e, "nodes: the configuration has no node %.60s on the premises",
                                  names[i]);
    }
    if (f->nodes.n)
        o->running = f->nodes.n;
    return RC_OK;
}

static int32_t same_domain(const struct sim_offer *offers, int n, const struct sim_offer *o, bool spot)
{
    for (int i = 0; spot && i < n; i++)
        if (offers[i].type == o->type && strcmp(offers[i].provider, o->provider) == 0 &&
            strcmp(offers[i].zone, o->zone) == 0)
            return offers[i].domain;
    return n;
}

static enum rc make_offer(struct scenario *s, const struct scenario_inputs *in, const struct file_offer *f,
                          struct sim_offer *o, struct error *e)
{
    *o = (struct sim_offer){.provider = f->provider,
                            .zone = text_or(f->zone, ""),
                            .market = (enum scale_market)f->market,
                            .price_hour = f->price_hour,
                            .launch_max = f->nodes_max,
                            .boot_us = f->boot_us,
                            .notice_us = f->market == SCALE_SPOT ? f->notice_us : 0,
                            .billing_min_s = (int32_t)(f->billing_min_us / 1000000),
                            .losses_per_hour = f->losses_per_hour,
                            .running = f->running,
                            .asleep = f->asleep,
                            .purchase_hour = write_off(f),
                            .charge = {f->charge.input, f->charge.cached_input, f->charge.output}};
    enum rc rc = find_named(s, f, o, e);
    if (rc == RC_OK)
        rc = take_nodes(s, in, f, o, e);
    if (rc == RC_OK && has_list_price(&f->list_price))
        rc = take_list_price(s, f, o, e);
    if (rc == RC_OK && f->availability.zone)
        rc = take_availability(s, f, o, e);
    if (rc != RC_OK)
        return rc;
    if (f->market != SCALE_ON_PREM && o->price_hour.v <= 0)
        return scenario_error(
            s, f->line, e, "offer %.40s: what an hour costs is not said; give price_hour or list_price", f->provider);
    if (f->market == SCALE_ON_PREM && o->running + o->asleep == 0)
        return scenario_error(s, f->line, e,
                              "offer %.40s: how many own machines there are is not said; give running, "
                              "asleep, or nodes",
                              f->provider);
    if (o->launch_max < 0)
        o->launch_max = f->market == SCALE_ON_PREM               ? 0
                        : f->availability.zone && o->available.n ? f->availability.nodes
                                                                 : SIM_NODES_MAX;
    o->losses_per_hour = fmax(0, o->losses_per_hour);
    return RC_OK;
}

enum rc scenario_make_offers(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const struct file_offer *f = s->file.offers.items;
    struct sim_offer *offers;
    int n = s->file.offers.n;
    enum rc rc = scenario_array(s, &offers, n, sizeof *offers, e);

    if (rc == RC_OK)
        rc = make_pools(s, e);
    for (int i = 0; rc == RC_OK && i < n; i++) {
        rc = make_offer(s, in, &f[i], &offers[i], e);
        if (rc == RC_OK)
            offers[i].domain =
                f[i].domain >= 0 ? f[i].domain : same_domain(offers, i, &offers[i], f[i].market == SCALE_SPOT);
    }
    s->sim.offers = offers;
    s->sim.n_offers = n;
    return rc;
}
