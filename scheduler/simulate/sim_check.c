/* Is a scenario one that can be run? The first thing that is wrong is told with its place. */
#include <stdio.h>

#include "scheduler/simulate/sim_internal.h"

#define SEQUENCES_MAX 4096
#define DAYS_MAX      INT64_C(3660)

static bool rising(const struct sim_steps *s)
{
    for (int32_t i = 0; i < s->n; i++)
        if (i ? s->at_us[i] <= s->at_us[i - 1] : s->at_us[i] != 0)
            return false;
    return s->n == 0 || s->span_us == 0 || s->span_us > s->at_us[s->n - 1];
}

static enum rc check_type(const struct sim_scenario *s, int32_t i, struct error *e)
{
    const struct sim_type *t = &s->types[i];
    const struct node_curve *c = &t->curve;
    enum rc rc = RC_OK;
    if (t->model >= (uint32_t)s->n_models)
        rc = error_set(e, RC_INVALID, "serves model %u; there are %d", t->model, s->n_models);
    else if (t->sequences_max < 1 || t->sequences_max > SEQUENCES_MAX)
        rc = error_set(e, RC_INVALID, "a batch of %d; 1 to %d", t->sequences_max, SEQUENCES_MAX);
    else if (t->slots < 0 || t->slots > 1000000 || t->chunk_tokens < 0 || t->kv_tokens < 0)
        rc = error_set(e, RC_INVALID, "slots, chunk and KV tokens must be 0 or more");
    else if (!(c->base_us >= 0 && c->prefill_us_per_tok >= 0 && c->decode_us_base >= 0 && c->decode_us_per_seq >= 0 &&
               c->base_us < 1e12 && c->prefill_us_per_tok < 1e9 && c->decode_us_base < 1e9 &&
               c->decode_us_per_seq < 1e9))
        rc = error_set(e, RC_INVALID, "a curve's numbers must be 0 or more microseconds, and finite");
    else
        rc = power_levels_check(&t->levels, e);
    return rc == RC_OK ? rc : error_prefix(e, "type %d (%s)", i, t->name ? t->name : "?");
}

static enum rc check_offer(const struct sim_scenario *s, int32_t i, int *of_model, struct error *e)
{
    const struct sim_offer *o = &s->offers[i];
    enum rc rc = RC_OK;
    if (o->type >= (uint32_t)s->n_types)
        rc = error_set(e, RC_INVALID, "type %u; there are %d", o->type, s->n_types);
    else if (o->site >= s->n_sites)
        rc = error_set(e, RC_INVALID, "site %d; there are %d", o->site, s->n_sites);
    else if (o->running < 0 || o->asleep < 0 || o->launch_max < 0)
        rc = error_set(e, RC_INVALID, "numbers of nodes must be 0 or more");
    else if (o->boot_us < 0 || o->notice_us < 0 || o->billing_min_s < 0 || o->price_hour.v < 0 ||
             o->purchase_hour.v < 0)
        rc = error_set(e, RC_INVALID, "times and prices must be 0 or more");
    else if (o->market != SCALE_ON_PREM && o->asleep)
        rc = error_set(e, RC_INVALID, "only own machines sleep");
    else if (!rising(&o->price_hours) || !rising(&o->available))
        rc = error_set(e, RC_INVALID, "prices and availability must begin at 0 and rise in time, within their span");
    else if (of_model[s->types[o->type].model]++ >= SCALE_OFFERS_MAX)
        rc = error_set(e, RC_FULL, "at most %d offers may serve one model", SCALE_OFFERS_MAX);
    else if (o->market == SCALE_ON_PREM && o->site >= 0 && s->sites[o->site].cap_mw &&
             s->types[o->type].prefill_mw > power_draw_mw(&s->types[o->type].levels, POWER_ACTIVE, 1))
        rc = error_set(
            e, RC_INVALID,
            "its site has a limit in watts: draws by requests must count prefill in (%lld mW with one request, "
            "%lld mW in prefill)",
            (long long)power_draw_mw(&s->types[o->type].levels, POWER_ACTIVE, 1),
            (long long)s->types[o->type].prefill_mw);
    if (rc == RC_OK)
        return rc;
    return error_prefix(e, "offer %d (%s %s)", i, o->provider ? o->provider : "?", o->zone ? o->zone : "?");
}

/* A pool is of one model's rented machines: whose plan would keep it else? */
static enum rc check_pool(const struct sim_scenario *s, int32_t pool, struct error *e)
{
    int32_t first = -1;
    if (s->pools_min[pool] < 0)
        return error_set(e, RC_INVALID, "pool %d: a minimum of %d; 0 or more", pool, s->pools_min[pool]);
    for (int32_t i = 0; i < s->n_offers; i++) {
        const struct sim_offer *o = &s->offers[i];
        if (o->pool != pool)
            continue;
        if (o->market == SCALE_ON_PREM)
            return error_set(e, RC_INVALID, "offer %d: own machines are of no pool", i);
        first = first < 0 ? i : first;
        if (s->types[o->type].model != s->types[s->offers[first].type].model)
            return error_set(e, RC_INVALID, "pool %d: offers %d and %d serve different models", pool, first, i);
    }
    return RC_OK;
}

static enum rc check_model(const struct sim_scenario *s, int32_t i, struct error *e)
{
    const struct sim_model *m = &s->models[i];
    enum rc rc = RC_OK;
    if (m->limits.nodes_min < 0 || m->limits.nodes_max < m->limits.nodes_min)
        rc = error_set(e, RC_INVALID, "nodes_min %d, nodes_max %d: must be 0 or more, and rise", m->limits.nodes_min,
                       m->limits.nodes_max);
    else if (m->slo.ttft_us < 0 || m->slo.tpot_us < 0 || !(m->slo.probability >= 0 && m->slo.probability < 1))
        rc = error_set(e, RC_INVALID, "an SLO's times must be 0 or more, its probability from 0 to below 1");
    return rc == RC_OK ? rc : error_prefix(e, "model %d (%s)", i, m->name ? m->name : "?");
}

enum rc sim_check(const struct sim_scenario *s, struct error *e)
{
    int of_model[SIM_MODELS_MAX] = {0};
    enum rc rc = RC_OK;
    if (s->n_models < 1 || s->n_models > SIM_MODELS_MAX)
        return error_set(e, RC_INVALID, "%d models: 1 to %d can be simulated", s->n_models, SIM_MODELS_MAX);
    if (s->n_types > SIM_TYPES_MAX || s->n_sites > SIM_SITES_MAX || s->n_apis > SIM_APIS_MAX)
        return error_set(e, RC_FULL, "at most %d node types, %d sites and %d APIs can be simulated", SIM_TYPES_MAX,
                         SIM_SITES_MAX, SIM_APIS_MAX);
    if (s->until_us < 0 || s->until_us > DAYS_MAX * 24 * SIM_US_PER_HOUR)
        return error_set(e, RC_INVALID, "the end must be within ten years of the start");
    for (int32_t i = 0; i < s->n_models && rc == RC_OK; i++)
        rc = check_model(s, i, e);
    for (int32_t i = 0; i < s->n_types && rc == RC_OK; i++)
        rc = check_type(s, i, e);
    for (int32_t i = 0; i < s->n_sites && rc == RC_OK; i++)
        if (!s->sites[i].tariff)
            rc = error_set(e, RC_INVALID, "site %d has no tariff", i);
    for (int32_t i = 0; i < s->n_offers && rc == RC_OK; i++)
        rc = check_offer(s, i, of_model, e);
    if (rc == RC_OK && (s->n_pools < 0 || s->n_pools > SCALE_OFFERS_MAX))
        rc = error_set(e, RC_FULL, "%d pools: at most %d can be simulated", s->n_pools, SCALE_OFFERS_MAX);
    for (int32_t i = 0; i < s->n_pools && rc == RC_OK; i++)
        rc = check_pool(s, i, e);
    if (rc == RC_OK && (s->n_budgets < 0 || s->n_budgets > SIM_BUDGETS_MAX))
        rc = error_set(e, RC_FULL, "%d budgets: at most %d can be simulated", s->n_budgets, SIM_BUDGETS_MAX);
    for (int32_t i = 0; i < s->n_budgets && rc == RC_OK; i++)
        if (s->budgets[i].hard.v < 0 || s->budgets[i].soft.v < 0 || s->budgets[i].model >= s->n_models)
            rc = error_set(e, RC_INVALID, "budget %d (%s): a limit below 0, or a model that does not exist", i,
                           s->budgets[i].name ? s->budgets[i].name : "?");
    for (int32_t i = 0; i < s->n_apis && rc == RC_OK; i++)
        if (s->apis[i].model >= (uint32_t)s->n_models || s->apis[i].ttft_us < 0 || s->apis[i].tpot_us < 0)
            rc = error_set(e, RC_INVALID, "api %d: a model that does not exist, or a time below 0", i);
    return rc;
}
