/* The clock: the next request of the source or the next event of the queue, whichever is first. */
#include "scheduler/simulate/sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

#define PROGRESS_EVERY 100000

int64_t sim_steps_at(const struct sim_steps *s, int64_t at_us, int64_t *until_us)
{
    const int64_t round = s->span_us > 0 ? at_us / s->span_us * s->span_us : 0, at = at_us - round;
    int32_t lo = 0, hi = s->n; /* the last step that has begun */
    while (hi - lo > 1) {
        const int32_t mid = lo + (hi - lo) / 2;
        if (s->at_us[mid] <= at)
            lo = mid;
        else
            hi = mid;
    }
    int64_t until = INT64_MAX;
    if (lo + 1 < s->n)
        until = round + s->at_us[lo + 1];
    else if (s->span_us > 0)
        until = round + s->span_us;
    if (until_us)
        *until_us = until;
    return s->value[lo];
}

static int32_t nodes_max_of(const struct sim_scenario *s)
{
    int64_t n = 0;
    for (int32_t i = 0; i < s->n_offers; i++) {
        const struct sim_offer *o = &s->offers[i];
        const int64_t start = (int64_t)o->running + o->asleep;
        n += o->market == SCALE_ON_PREM || start > o->launch_max ? start : o->launch_max;
    }
    if (s->nodes_max && s->nodes_max < n)
        n = s->nodes_max;
    return (int32_t)(n < SIM_NODES_MAX ? n : SIM_NODES_MAX);
}

static void result_init(struct sim *x)
{
    struct sim_result *r = x->r;
    const struct sim_scenario *s = x->s;
    *r = (struct sim_result){.n_bills = s->n_offers + s->n_apis, .n_models = s->n_models};
    r->bills = spw_calloc((size_t)r->n_bills + 1, sizeof(*r->bills));
    r->models = spw_calloc((size_t)r->n_models + 1, sizeof(*r->models));
    r->samples = spw_calloc(SIM_SAMPLES, sizeof(*r->samples));
    r->n_sites = s->n_sites;
    r->sites = spw_calloc((size_t)r->n_sites + 1, sizeof(*r->sites));
    for (int32_t i = 0; i < s->n_sites; i++)
        r->sites[i] = (struct sim_site_result){.name = s->sites[i].name, .cap_mw = s->sites[i].cap_mw};
    x->api_bills = r->bills + s->n_offers;
    for (int32_t i = 0; i < s->n_apis; i++) {
        const struct sim_api *a = &s->apis[i];
        x->api_bills[i] =
            (struct sim_bill){.provider = a->provider, .zone = "", .what = s->models[a->model].name, .api = true};
        struct sim_model_state *m = &x->models[a->model];
        m->apis[m->n_apis++] = i;
    }
    for (int32_t i = 0; i < s->n_models; i++) {
        r->models[i].name = s->models[i].name;
        x->models[i].out = &r->models[i];
    }
    for (int32_t i = 0; i < s->n_offers; i++) {
        struct sim_model_state *m = &x->models[s->types[s->offers[i].type].model];
        m->offers[m->n_offers++] = i;
    }
}

static void sources_init(struct sim *x)
{
    const struct sim_scenario *s = x->s;
    x->at_offers = x->nodes_max; /* at one time: markets and tariffs first, then nodes... by number */
    x->at_sites = x->at_offers + s->n_offers;
    x->at_rooms = x->at_sites + s->n_sites;
    x->at_plans = x->at_rooms + s->n_models;
    x->at_power = x->at_plans + s->n_models; /* after the plans: they reckon capacities */
    x->at_samples = x->at_power + s->n_sites;
    x->at_money = x->at_samples + 1;
    x->n_sources = x->at_money + 1;
    event_queue_init(&x->queue, x->n_sources);
}

static void sample_event(struct sim *x)
{
    sim_sample(x);
    event_queue_set(&x->queue, x->at_samples, x->now_us + x->sample_us);
}

static void happen(struct sim *x, int32_t source)
{
    x->r->events++;
    if (source < x->nodes_max) {
        const struct sim_node *n = &x->nodes[source];
        if (n->life_us <= x->now_us || n->fails_us <= x->now_us)
            sim_life_event(x, source);
        else
            sim_node_event(x, source);
    } else if (source < x->at_sites) {
        sim_offer_event(x, source - x->at_offers);
    } else if (source < x->at_rooms) {
        sim_site_event(x, source - x->at_sites);
    } else if (source < x->at_plans) {
        sim_expire(x, source - x->at_rooms);
    } else if (source < x->at_power) {
        sim_plan_event(x, source - x->at_plans);
    } else if (source < x->at_samples) {
        sim_power_event(x, source - x->at_power);
    } else if (source < x->at_money) {
        sample_event(x);
    } else {
        sim_money_event(x);
    }
}

static enum rc next_request(struct sim *x, struct sim_request *r, bool *over)
{
    const int64_t before = r->at_us;
    const enum rc rc = x->source->next(x->source->arg, r, x->e);
    *over = rc == RC_NOT_FOUND;
    if (*over)
        return RC_OK;
    if (rc != RC_OK)
        return rc;
    if (r->model >= (uint32_t)x->s->n_models)
        return error_set(x->e, RC_INVALID, "request %lld asks for model %u; the scenario has %d",
                         (long long)x->r->requests + 1, r->model, x->s->n_models);
    if (r->team >= SIM_TEAMS_MAX)
        return error_set(x->e, RC_INVALID, "request %lld is of team %u; at most %d are known",
                         (long long)x->r->requests + 1, r->team, SIM_TEAMS_MAX);
    if (r->prompt < 1 || r->output < 1 || r->at_us < before)
        return error_set(x->e, RC_INVALID, "request %lld is before the one before, or has no tokens",
                         (long long)x->r->requests + 1);
    return RC_OK;
}

/* Until the last request has ended. */
static enum rc run(struct sim *x, const struct sim_options *o)
{
    struct sim_request r = {.at_us = 0};
    bool over = false;
    enum rc rc = next_request(x, &r, &over);
    while (rc == RC_OK && (!over || x->n_live > 0)) {
        const int64_t next = event_queue_next(&x->queue);
        if (!over && r.at_us <= next) {
            x->now_us = r.at_us;
            sim_arrive(x, &r);
            if (o && o->progress && x->r->requests % PROGRESS_EVERY == 0)
                o->progress(x->now_us, x->r->requests, o->arg);
            rc = next_request(x, &r, &over);
            continue;
        }
        SPW_ASSERT(next != EVENT_NEVER && next >= x->now_us);
        x->now_us = next;
        happen(x, event_queue_source(&x->queue));
    }
    if (x->now_us > x->r->end_us)
        x->r->end_us = x->now_us;
    /* Machines are paid on; nobody comes any more. */
    const int64_t end = x->s->until_us > x->r->end_us ? x->s->until_us : x->r->end_us;
    while (rc == RC_OK && event_queue_next(&x->queue) < end) {
        x->now_us = event_queue_next(&x->queue);
        happen(x, event_queue_source(&x->queue));
    }
    x->now_us = x->r->end_us = end;
    return rc;
}

static enum rc sim_init(struct sim *x)
{
    x->nodes_max = nodes_max_of(x->s);
    x->random = x->s->seed;
    x->models = spw_calloc((size_t)x->s->n_models + 1, sizeof(*x->models));
    x->sample_us = x->s->until_us > 0 ? x->s->until_us / SIM_SAMPLES + 1 : 60 * SIM_US_PER_S;
    sources_init(x);
    result_init(x);
    sim_serve_init(x);
    sim_budget_init(x);
    const enum rc rc = sim_route_init(x);
    if (rc != RC_OK)
        return rc;
    sim_fleet_init(x);
    sim_plan_init(x);
    sim_power_init(x);
    sim_fleet_start(x);
    event_queue_set(&x->queue, x->at_samples, 0);
    return RC_OK;
}

static void sim_fini(struct sim *x)
{
    sim_serve_fini(x);
    sim_plan_fini(x);
    sim_power_fini(x);
    sim_fleet_fini(x);
    sim_route_fini(x);
    sim_budget_fini(x);
    event_queue_fini(&x->queue);
    free(x->models);
}

enum rc sim_run(const struct sim_scenario *s, const struct sim_source *source, const struct sim_options *o,
                struct sim_result *r, struct error *e)
{
    const enum rc checked = sim_check(s, e);
    if (checked != RC_OK)
        return checked;
    struct sim *x = spw_calloc(1, sizeof(*x));
    x->s = s;
    x->source = source;
    x->r = r;
    x->e = e;
    x->options = o;
    enum rc rc = sim_init(x);
    if (rc == RC_OK) {
        rc = run(x, o);
        sim_finish(x);
    }
    sim_fini(x);
    free(x);
    if (rc != RC_OK)
        sim_result_fini(r);
    return rc;
}
