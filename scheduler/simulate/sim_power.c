/* A site's own machines: which are awake, how deep the others sleep, and its limit in watts. The snapshot is put
 * together here;
 * policies/power.h decides, and what it says is done. */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

#define TICK_US    SIM_US_PER_S
#define SOON_US    (SIM_US_PER_S / 10)
#define Z          2.3 /* 99 times of 100 */
#define STEADY     0.7
#define HYSTERESIS 0.1

/* --- the limit: every node with the most it can draw until it has done what it is told
 * ---------------------------------- */

/* The nodes a plan speaks of are those that are at the site and ours. */
static bool at_site(const struct sim *x, const struct sim_node *n, int32_t site)
{
    const struct sim_offer *o = &x->s->offers[n->offer];
    return n->state != SIM_GONE && o->site == site && o->market == SCALE_ON_PREM;
}

static struct power_node node_of(const struct sim *x, const struct sim_node *n)
{
    const struct sim_offer *o = &x->s->offers[n->offer];
    const struct sim_type *t = &x->s->types[o->type];
    const int32_t in_flight = node_model_in_flight(&n->m);
    const enum power_state awake = n->eco ? POWER_ECO : POWER_ACTIVE;
    const struct sim_model_state *m = &x->models[t->model];
    /* Answers go on elsewhere: prompt and half of the answer are read again. */
    const double read_mj = (m->prompt + m->output / 2) * (double)x->offers[n->offer].rates.mj_per_input;
    struct power_node p = {.state = awake,
                           .to = awake,
                           .in_flight = in_flight,
                           .idle_us = in_flight ? 0 : x->now_us - n->idle_us,
                           .slots = n->slots,
                           .capacity = x->offers[n->offer].concurrency,
                           .group = (int32_t)t->model,
                           .usable = n->state != SIM_REPAIR && n->state != SIM_DRAINING,
                           .wakes = true,
                           .accepts = n->accepts,
                           .move_mj = in_flight ? 1 + (int64_t)(in_flight * read_mj) : 0,
                           .last_us = power_last_us((int64_t)(m->hold_s * (double)SIM_US_PER_S), in_flight),
                           .empties_us = n->accepts ? 0 : x->now_us - n->empties_us,
                           .levels = &t->levels};
    if (n->state == SIM_ASLEEP)
        p.state = p.to = n->asleep_in;
    if (n->state == SIM_REPAIR)
        p.state = p.to = POWER_OFF;
    if (n->state == SIM_WAKING || n->state == SIM_FALLING_ASLEEP) {
        p.state = n->state == SIM_WAKING ? n->asleep_in : n->from;
        p.to = n->state == SIM_WAKING ? POWER_ACTIVE : n->asleep_in;
        p.moved_us = n->life_us > x->now_us ? n->life_us - x->now_us : 1;
    }
    return p;
}

/* Kept up to date node by node: asking for one more request must not cost a walk over the site. */
void sim_power_changed(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const int32_t site = x->s->offers[n->offer].site;
    if (site < 0 || !x->s->sites[site].cap_mw)
        return;
    int64_t mw = 0;
    if (at_site(x, n, site)) {
        const struct power_node p = node_of(x, n);
        mw = power_ceiling_mw(&p, p.to);
    }
    x->site_ceiling_mw[site] += mw - n->ceiling_mw;
    n->ceiling_mw = mw;
    const int64_t all = x->site_ceiling_mw[site] + x->s->sites[site].base_mw;
    if (all > x->r->sites[site].peak_mw)
        x->r->sites[site].peak_mw = all;
}

bool sim_power_admits(const struct sim *x, int32_t node, const struct sim_live *l)
{
    const struct sim_node *n = &x->nodes[node];
    const int32_t site = x->s->offers[n->offer].site;
    if (site < 0 || !x->s->sites[site].cap_mw || x->s->offers[n->offer].market != SCALE_ON_PREM)
        return true;
    const struct sim_site *s = &x->s->sites[site];
    const struct sim_type *t = &x->s->types[x->s->offers[n->offer].type];
    const struct power_ask ask = {.levels = &t->levels,
                                  .state = n->eco ? POWER_ECO : POWER_ACTIVE,
                                  .in_flight = node_model_in_flight(&n->m),
                                  .wait_us = x->s->models[l->model].waiting[l->class].wait_ns / 1000,
                                  .batch = l->class == WAITING_BATCH,
                                  .spills = x->s->models[l->model].api.allowed && !l->local_only};
    return power_admit(s->cap_mw, x->site_ceiling_mw[site] + s->base_mw, INT64_MAX, &ask) == POWER_ADMIT;
}

/* --- the plan
 * ----------------------------------------------------------------------------------------------------------- */

int32_t sim_own_in_flight(const struct sim *x, int32_t model, int32_t site, bool interactive)
{
    int32_t n = 0;
    for (int32_t i = 0; i < x->n_nodes; i++) {
        const struct sim_node *node = &x->nodes[i];
        if (at_site(x, node, site < 0 ? x->s->offers[node->offer].site : site) && sim_model_of(x, i) == model)
            n += node_model_in_flight(&node->m);
    }
    for (int32_t i = 0; interactive && i < x->s->n_offers; i++) {
        const struct sim_offer *o = &x->s->offers[i];
        if (o->market == SCALE_ON_PREM && (site < 0 || o->site == site) && (int32_t)x->s->types[o->type].model == model)
            n -= x->offers[i].batch_in_flight;
    }
    return n;
}

/* The longest waking of those that may sleep, and the cheapest of their spare capacity. */
static void know_machines(const struct sim *x, int32_t model, int32_t site, struct power_outlook *o)
{
    for (int32_t i = 0; i < x->s->n_offers; i++) {
        const struct sim_offer *offer = &x->s->offers[i];
        const struct sim_type *t = &x->s->types[offer->type];
        if (offer->site != site || offer->market != SCALE_ON_PREM || (int32_t)t->model != model)
            continue;
        const int64_t wake_us = power_light_wake_us(&t->levels);
        const double spare_w = power_spare_w(&t->levels, x->offers[i].concurrency);
        o->wake_us = wake_us > o->wake_us ? wake_us : o->wake_us;
        o->spare_w = spare_w > 0 && (o->spare_w <= 0 || spare_w < o->spare_w) ? spare_w : o->spare_w;
    }
}

/* What comes, in requests being served at once. What was foreseen is kept from plan to plan. */
static void foresee(struct sim *x, int32_t model, int32_t site)
{
    const struct sim_site *s = &x->s->sites[site];
    struct sim_model_state *m = &x->models[model];
    struct power_group *g = &x->power_groups[site * x->s->n_models + model];
    forecast_observe(&m->busy, x->now_us * 1000, sim_week_s(x), 0);
    forecast_observe(&m->busy_now, x->now_us * 1000, sim_week_s(x), 0);
    /* Where batch work waits for a cheaper hour nobody is awake for it. */
    const struct forecast *busy = m->batch_holds ? &m->busy_now : &m->busy;
    g->keep_warm = s->keep_warm;
    g->trust = s->trust;
    g->steady = STEADY;
    g->spills = m->n_apis > 0 && x->s->models[model].api.allowed;
    /* What others serve because nobody here had a place counts, too: else who is asleep would stay so. */
    const double here = sim_own_in_flight(x, model, site, m->batch_holds), asked = forecast_at(busy, 0).mean;
    struct power_outlook o = {.forecast = busy,
                              .in_use = g->spills && asked > here ? asked : here,
                              .waiting = m->batch_holds ? waiting_count_of(&m->room, WAITING_INTERACTIVE)
                                                        : waiting_count(&m->room),
                              .hold_s = m->hold_s,
                              .z = Z,
                              .now_us = x->now_us,
                              .tick_us = x->power_tick_us,
                              .ttft_us = x->s->models[model].slo.ttft_us,
                              .quiet_us = x->now_us - (m->batch_holds ? m->came_now_us : m->came_us),
                              .forget_us = x->s->models[model].limits.down_after_s * SIM_US_PER_S};
    know_machines(x, model, site, &o);
    power_foresee(g, &o);
}

static void set_eco(struct sim *x, struct sim_node *n, bool eco)
{
    if (n->eco == eco)
        return;
    n->eco = eco;
    const int32_t type = (int32_t)x->s->offers[n->offer].type;
    node_model_set_spec(&n->m, eco ? &x->eco_specs[type] : &x->specs[type], x->now_us);
    n->m.idle_mw = (float)x->s->types[type].levels.of[eco ? POWER_ECO : POWER_ACTIVE].idle_mw;
    sim_route_facts(x, (int32_t)(n - x->nodes));
}

static void obey(struct sim *x, int32_t node, const struct power_choice *c)
{
    struct sim_node *n = &x->nodes[node];
    const bool down = c->target == POWER_SLEEP || c->target == POWER_OFF;
    if (n->state == SIM_ASLEEP && !down)
        sim_wake(x, node);
    else if (n->state == SIM_ASLEEP && c->target == POWER_OFF && n->asleep_in != POWER_OFF)
        sim_sleep(x, node, POWER_OFF);
    if (n->state != SIM_READY)
        return;
    if (down && !node_model_in_flight(&n->m)) {
        set_eco(x, n, false);
        sim_sleep(x, node, c->target);
        return;
    }
    set_eco(x, n, c->target == POWER_ECO);
    sim_set_accepts(x, node, c->accepts);
    sim_reschedule(x, node);
    sim_power_changed(x, node);
    if (c->moves && node_model_in_flight(&n->m)) {
        sim_set_accepts(x, node, false);
        sim_drop_all(x, node);
        sim_emptied(x, node);
        sim_route_changed(x, node);
        sim_reschedule(x, node);
    }
}

static void next_plan(struct sim *x, int32_t site, int64_t at_us)
{
    x->power_next_us[site] = at_us;
    event_queue_set(&x->queue, x->at_power + site, at_us);
}

/* Somebody waits: planned anew while his first token may still be in time, but not more often than ten times a second.
 * */
void sim_power_soon(struct sim *x, int32_t model)
{
    const int64_t ttft = x->s->models[model].slo.ttft_us,
                  in = ttft && ttft / 4 < SIM_US_PER_S ? ttft / 4 : SIM_US_PER_S;
    for (int32_t i = 0; x->powered && i < x->s->n_sites; i++)
        if (x->s->sites[i].powered && x->power_next_us[i] > x->now_us + in &&
            x->now_us - x->power_last_us[i] >= SOON_US)
            next_plan(x, i, x->now_us + in);
}

void sim_power_event(struct sim *x, int32_t site)
{
    const struct sim_site *s = &x->s->sites[site];
    next_plan(x, site, x->now_us + x->power_tick_us);
    x->power_last_us[site] = x->now_us;
    int32_t n = 0;
    for (int32_t i = 0; i < x->s->n_offers; i++)
        if (x->s->offers[i].site == site && x->offers[i].concurrency <= 0)
            return; /* nothing is known yet of what comes, nor of what a node can do of it */
    for (int32_t i = 0; i < x->n_nodes; i++)
        if (at_site(x, &x->nodes[i], site)) {
            x->power_nodes[n] = node_of(x, &x->nodes[i]);
            x->power_index[n++] = i;
        }
    for (int32_t m = 0; m < x->s->n_models; m++)
        foresee(x, m, site);
    const struct power_snapshot snapshot = {.nodes = x->power_nodes,
                                            .n_nodes = n,
                                            .groups = &x->power_groups[site * x->s->n_models],
                                            .n_groups = x->s->n_models,
                                            .cap_mw = s->cap_mw,
                                            .base_mw = s->base_mw,
                                            .hysteresis = HYSTERESIS};
    struct power_plan plan;
    power_plan(&plan, x->power_choices, x->power_order, &snapshot);
    for (int32_t i = 0; i < n; i++)
        obey(x, x->power_index[i], &x->power_choices[i]);
    for (int32_t m = 0; m < x->s->n_models; m++)
        sim_serve_waiting(x, m);
}

void sim_power_init(struct sim *x)
{
    const size_t n = (size_t)x->nodes_max + 1;
    x->power_tick_us = x->nodes_max <= 1000 ? TICK_US : 10 * TICK_US; /* a plan looks at all of them */
    x->power_groups = spw_calloc((size_t)x->s->n_sites * (size_t)x->s->n_models + 1, sizeof(*x->power_groups));
    x->power_nodes = spw_calloc(n, sizeof(*x->power_nodes));
    x->power_choices = spw_calloc(n, sizeof(*x->power_choices));
    x->power_order = spw_calloc(n, sizeof(*x->power_order));
    x->power_index = spw_calloc(n, sizeof(*x->power_index));
    for (int32_t i = 0; i < x->s->n_sites; i++)
        if (x->s->sites[i].powered)
            next_plan(x, i, x->power_tick_us);
}

void sim_power_fini(struct sim *x)
{
    free(x->power_groups);
    free(x->power_nodes);
    free(x->power_choices);
    free(x->power_order);
    free(x->power_index);
}
