/* Baselines: what a scenario would cost if something were taken away from it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

static const char *const names[SIM_N_BASELINES] = {
    "all-on-demand-fixed", "all-on-demand", "all-api", "on-prem-only", "spot-no-fallback", "round-robin",
};

const char *sim_baseline_name(enum sim_baseline b)
{
    return names[b];
}

void sim_store_fini(struct sim_store *store)
{
    free(store->models);
    free(store->offers);
    *store = (struct sim_store){0};
}

static bool keeps(enum sim_baseline b, enum scale_market market)
{
    switch (b) {
    case SIM_ALL_ON_DEMAND_FIXED:
    case SIM_ALL_ON_DEMAND: return market == SCALE_ON_DEMAND;
    case SIM_ALL_API: return false;
    case SIM_ON_PREM_ONLY: return market == SCALE_ON_PREM;
    case SIM_SPOT_NO_FALLBACK: return market != SCALE_ON_DEMAND;
    default: return true;
    }
}

static bool keeps_api(enum sim_baseline b)
{
    return b == SIM_ALL_API || b == SIM_ROUND_ROBIN_ALL;
}

/* The cheapest on-demand offer of a model, or -1. */
static int32_t cheapest(const struct sim_scenario *s, uint32_t model)
{
    int32_t best = -1;
    for (int32_t i = 0; i < s->n_offers; i++) {
        const struct sim_offer *o = &s->offers[i];
        if (o->market != SCALE_ON_DEMAND || s->types[o->type].model != model)
            continue;
        if (best < 0 || o->price_hour.v < s->offers[best].price_hour.v)
            best = i;
    }
    return best;
}

static enum rc nothing_left(const struct sim_scenario *s, int32_t model, enum sim_baseline b, struct error *e)
{
    return error_set(e, RC_INVALID, "baseline %s: nothing is left that serves %s", names[b], s->models[model].name);
}

static enum rc model_left(const struct sim_scenario *out, int32_t model, enum sim_baseline b, struct error *e)
{
    for (int32_t i = 0; i < out->n_offers; i++)
        if (out->types[out->offers[i].type].model == (uint32_t)model)
            return RC_OK;
    for (int32_t i = 0; i < out->n_apis; i++)
        if (out->apis[i].model == (uint32_t)model)
            return RC_OK;
    return nothing_left(out, model, b, e);
}

static void fix(struct sim_scenario *out, struct sim_store *store, const struct sim_scenario *s, const int32_t *peak)
{
    out->n_offers = 0;
    for (int32_t m = 0; m < s->n_models; m++) {
        const int32_t best = cheapest(s, (uint32_t)m);
        store->models[m].scaled = false;
        if (best < 0)
            continue;
        struct sim_offer *o = &store->offers[out->n_offers++];
        *o = s->offers[best];
        o->running = peak ? peak[m] : o->running;
        o->launch_max = o->running > o->launch_max ? o->running : o->launch_max;
        o->available = (struct sim_steps){0};
    }
}

enum rc sim_baseline(struct sim_scenario *out, struct sim_store *store, const struct sim_scenario *s,
                     enum sim_baseline b, const int32_t *peak, struct error *e)
{
    *out = *s;
    *store = (struct sim_store){
        .models = spw_calloc((size_t)s->n_models + 1, sizeof(*store->models)),
        .offers = spw_calloc((size_t)s->n_offers + (size_t)s->n_models + 1, sizeof(*store->offers)),
    };
    memcpy(store->models, s->models, (size_t)s->n_models * sizeof(*store->models));
    out->name = names[b];
    out->models = store->models;
    out->offers = store->offers;
    out->n_offers = 0;
    for (int32_t i = 0; i < s->n_offers; i++)
        if (keeps(b, s->offers[i].market))
            store->offers[out->n_offers++] = s->offers[i];
    if (b == SIM_ALL_ON_DEMAND_FIXED)
        fix(out, store, s, peak);
    if (b == SIM_ROUND_ROBIN_ALL)
        out->routing = SIM_ROUND_ROBIN;
    if (!keeps_api(b))
        out->n_apis = 0;
    for (int32_t m = 0; m < s->n_models; m++) {
        store->models[m].api.allowed = b == SIM_ALL_API || (keeps_api(b) && s->models[m].api.allowed);
        const enum rc rc = model_left(out, m, b, e);
        if (rc != RC_OK) {
            sim_store_fini(store);
            return rc;
        }
    }
    return RC_OK;
}

/* --- the peak
 * ------------------------------------------------------------------------------------------------------------ */

struct window {
    int64_t index;
    double tokens, most;
    double prompt, output, prompt_sq, held;
    int64_t n;
};

static int32_t nodes_for(const struct sim_scenario *s, uint32_t model, const struct window *w, int64_t window_us)
{
    const int32_t best = cheapest(s, model);
    if (best < 0 || !w->n)
        return 0;
    const struct sim_type *t = &s->types[s->offers[best].type];
    const double n = (double)w->n, prompt = w->prompt / n, var = w->prompt_sq / n - prompt * prompt;
    const struct workload_mix mix = {
        .prompt = prompt, .output = w->output / n, .prompt_cv = var > 0 ? sqrt(var) / prompt : 0};
    struct capacity c;
    sim_capacity(&c, t, &s->models[model].slo, &mix, w->output > 0 ? w->held / w->output : 0);
    const double most = w->most > w->tokens ? w->most : w->tokens;
    const double need = most / ((double)window_us * 1e-6);
    return c.tokens_per_s > 0 ? (int32_t)ceil(need / c.tokens_per_s) : 0;
}

enum rc sim_peak_nodes(const struct sim_scenario *s, const struct sim_source *source, int64_t window_us,
                       int32_t peak[SIM_MODELS_MAX], struct error *e)
{
    struct window windows[SIM_MODELS_MAX] = {0};
    struct sim_request r;
    enum rc rc = sim_check(s, e);
    SPW_ASSERT(window_us > 0);
    while (rc == RC_OK && (rc = source->next(source->arg, &r, e)) == RC_OK) {
        if (r.model >= (uint32_t)s->n_models)
            return error_set(e, RC_INVALID, "a request asks for model %u; the scenario has %d", r.model, s->n_models);
        struct window *w = &windows[r.model];
        if (r.at_us / window_us != w->index) {
            w->most = w->tokens > w->most ? w->tokens : w->most;
            w->tokens = 0;
            w->index = r.at_us / window_us;
        }
        w->tokens += (double)r.prompt + r.output;
        w->prompt += r.prompt;
        w->prompt_sq += (double)r.prompt * r.prompt;
        w->output += r.output;
        w->held += (double)r.output * (r.prompt + r.output);
        w->n++;
    }
    if (rc != RC_NOT_FOUND)
        return rc;
    for (int32_t m = 0; m < s->n_models; m++)
        peak[m] = nodes_for(s, (uint32_t)m, &windows[m], window_us);
    return RC_OK;
}
