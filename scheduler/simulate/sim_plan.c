/* What is planned every few seconds: demand is forecast, batch work gets its pace, autoscaling says which machines
 * there shall
 * be. Snapshots are put together here; policies/ decide. */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "policies/batch_market.h"
#include "scheduler/simulate/sim_internal.h"

#define TICK_S_DEFAULT 10
#define TOLD_WITHIN    0.05 /* a smaller change of what a node costs by the token is no news */

int32_t sim_week_s(const struct sim *x)
{
    /* 1970 began on a Thursday; weeks begin on Monday. */
    const int64_t s = (x->s->start_unix_s + x->now_us / SIM_US_PER_S + 3 * 86400) % FORECAST_WEEK_S;
    return (int32_t)(s < 0 ? s + FORECAST_WEEK_S : s);
}

void sim_observe(struct sim *x, int32_t model, double tokens)
{
    const bool requests = x->s->models[model].signal == FORECAST_QPS;
    forecast_observe(&x->models[model].forecast, x->now_us * 1000, sim_week_s(x), requests ? tokens > 0 : tokens);
}

struct forecast_value sim_forecast(const struct sim *x, int32_t model, double in_s)
{
    const struct sim_model_state *m = &x->models[model];
    struct forecast_value v = forecast_at(&m->forecast, in_s);
    if (x->s->models[model].signal == FORECAST_QPS) {
        v.mean *= m->prompt + m->output;
        v.sd *= m->prompt + m->output;
    }
    return v;
}

/* --- capacity
 * ----------------------------------------------------------------------------------------------------------- */

void sim_capacity(struct capacity *c, const struct sim_type *t, const struct sim_slo *slo,
                  const struct workload_mix *mix, double held)
{
    const struct capacity_slo bound = {
        .ttft_us = slo->ttft_us && t->load_max <= 0 ? (double)slo->ttft_us - t->curve.base_us : 0,
        .tpot_us = (double)slo->tpot_us,
        .probability = slo->probability,
    };
    int32_t sequences = t->slots && t->slots < t->sequences_max ? t->slots : t->sequences_max;
    if (t->kv_tokens && held > 0 && (double)t->kv_tokens / held < sequences)
        sequences = (int32_t)((double)t->kv_tokens / held);
    capacity_planned(c, &t->curve, &bound, mix, sequences, t->load_max);
}

/* Where the scenario leaves it to us, a node is sent what it can decode at the SLO at its capacity, and as much beside
 * as chance
 * brings together: the number in service swings by its square root (Poisson). Where capacity is calibrated, routing by
 * the
 * foreseen first token is bound enough. */
static void set_slots(struct sim *x, int32_t offer, double concurrency)
{
    const struct sim_type *t = &x->s->types[x->s->offers[offer].type];
    const double most = ceil(concurrency + 2 * sqrt(concurrency)) + 1;
    const int32_t slots = most < t->sequences_max ? (int32_t)most : t->sequences_max;
    if (t->slots || t->load_max > 0 || concurrency <= 0 || slots == x->offers[offer].slots)
        return;
    x->offers[offer].slots = slots;
    for (int32_t i = 0; i < x->n_nodes; i++)
        if (x->nodes[i].state != SIM_GONE && x->nodes[i].offer == offer) {
            x->nodes[i].slots = slots;
            sim_route_facts(x, i);
            sim_route_changed(x, i);
        }
}

/* What one more node would cost, by the token: routing is told when it has clearly changed. */
static void tell_price(struct sim *x, int32_t offer)
{
    struct sim_offer_state *o = &x->offers[offer];
    const double share = o->capacity > 0 ? (double)o->price.v / o->capacity : 0;
    if (sim_local(x, offer) || fabs(share - o->told_share) <= TOLD_WITHIN * o->told_share)
        return;
    o->told_share = share;
    for (int32_t i = 0; i < x->n_nodes; i++)
        if (x->nodes[i].state != SIM_GONE && x->nodes[i].offer == offer)
            sim_route_facts(x, i);
}

static void capacities(struct sim *x, int32_t model)
{
    struct sim_model_state *m = &x->models[model];
    const double var = m->prompt_sq - m->prompt * m->prompt;
    const struct workload_mix mix = {.prompt = m->prompt,
                                     .cached = m->cached,
                                     .output = m->output,
                                     .prompt_cv = var > 0 && m->prompt > 0 ? sqrt(var) / m->prompt : 0};
    for (int32_t i = 0; i < m->n_offers; i++) {
        const struct sim_type *t = &x->s->types[x->s->offers[m->offers[i]].type];
        struct capacity c;
        sim_capacity(&c, t, &x->s->models[model].slo, &mix, m->output > 0 ? m->held / m->output : 0);
        m->capacity[i] = c.tokens_per_s;
        x->offers[m->offers[i]].capacity = m->capacity[i];
        tell_price(x, m->offers[i]);
        if (m->hold_s <= 0 && c.requests_per_s > 0) /* until some have been served here */
            m->hold_s = c.concurrency / c.requests_per_s + c.ttft_us * 1e-6;
        const double here = capacity_at_once(&c, 0);
        set_slots(x, m->offers[i], here);
        x->offers[m->offers[i]].concurrency = capacity_at_once(&c, x->offers[m->offers[i]].slots);
    }
}

/* --- snapshots
 * ---------------------------------------------------------------------------------------------------------- */

static struct pusd running_price(const struct sim *x, int32_t offer)
{
    const struct sim_offer *o = &x->s->offers[offer];
    if (o->market != SCALE_ON_PREM)
        return x->offers[offer].price;
    if (o->site < 0)
        return (struct pusd){0};
    /* Its energy for an hour of full work, beside what it draws asleep. */
    const struct power_levels *l = &x->s->types[o->type].levels;
    const int64_t asleep = l->of[POWER_SLEEP].allowed ? l->of[POWER_SLEEP].idle_mw : 0;
    const double mw = x->specs[o->type].mw[x->specs[o->type].sequences] - (double)asleep;
    return tariff_energy_cost((int64_t)(mw * 3600), x->site_uusd[o->site]);
}

static void snapshot_offers(struct sim *x, const struct sim_model_state *m)
{
    for (int32_t i = 0; i < m->n_offers; i++) {
        const int32_t offer = m->offers[i];
        const struct sim_offer *o = &x->s->offers[offer];
        const struct sim_offer_state *s = &x->offers[offer];
        const int32_t more = s->available - (s->alive - s->leaving);
        x->plan_offers[i] = (struct scale_offer){
            .market = o->market,
            .domain = o->domain,
            .pool = o->pool,
            .tokens_per_s = m->capacity[i],
            .price_hour = running_price(x, offer),
            .boot_s = (int32_t)((o->boot_us + SIM_US_PER_S - 1) / SIM_US_PER_S),
            .billing_min_s = o->billing_min_s,
            .losses_per_hour = o->losses_per_hour,
            .launch_max = o->market == SCALE_ON_PREM || more < 0 ? 0 : more,
            .steady_s = s->launchable_since_us < 0 ? 0 : (int32_t)((x->now_us - s->launchable_since_us) / SIM_US_PER_S),
        };
    }
}

static bool snapshot_node(const struct sim *x, int32_t node, int32_t local, struct scale_node *out)
{
    const struct sim_node *n = &x->nodes[node];
    const struct sim_offer *o = &x->s->offers[n->offer];
    const struct power_levels *l = &x->s->types[o->type].levels;
    const int64_t alive_s = (x->now_us - n->launched_us) / SIM_US_PER_S;
    *out = (struct scale_node){.offer = local, .leaving = n->leaving, .in_flight = node_model_in_flight(&n->m)};
    if (o->market != SCALE_ON_PREM && o->billing_min_s > alive_s)
        out->paid_s = (int32_t)(o->billing_min_s - alive_s);
    switch (n->state) {
    case SIM_ASLEEP:
    case SIM_FALLING_ASLEEP:
        out->state = SCALE_ASLEEP;
        out->ready_s = (int32_t)(l->of[n->asleep_in].wake_us / SIM_US_PER_S) + 1;
        return true;
    case SIM_BOOTING:
    case SIM_WAKING:
        out->state = SCALE_BOOTING;
        out->ready_s = (int32_t)((n->life_us - x->now_us) / SIM_US_PER_S) + 1;
        return true;
    case SIM_READY: out->state = SCALE_READY; return true;
    case SIM_DRAINING:
        out->state = SCALE_DRAINING;
        out->draining_s = (int32_t)((x->now_us - n->drain_us) / SIM_US_PER_S);
        return true;
    default: return false;
    }
}

static int32_t snapshot_nodes(struct sim *x, int32_t model)
{
    const struct sim_model_state *m = &x->models[model];
    int32_t n = 0;
    for (int32_t i = 0; i < x->n_nodes; i++) {
        if (x->nodes[i].state == SIM_GONE || sim_model_of(x, i) != model)
            continue;
        int32_t at = 0;
        while (m->offers[at] != x->nodes[i].offer)
            at++;
        if (snapshot_node(x, i, at, &x->plan_nodes[n]))
            x->plan_index[n++] = i;
    }
    return n;
}

/* --- batch work
 * --------------------------------------------------------------------------------------------------------- */

/* Waiting batch work by the time at which it leaves: its deadline, or the end of what it may wait. */
static void batch_rows(struct sim *x, struct sim_model_state *m, struct progress_rows *r)
{
    const struct waiter *w;
    TAILQ_FOREACH(w, &m->room.lines[WAITING_BATCH].by_age, age)
    {
        const struct sim_live *l = &x->live[sim_waiter_of(w)->live];
        progress_rows_add(r, x->now_us, l->at_us, w->until_ns / 1000, l->prompt + m->output);
    }
    progress_rows_end(r, m->batch_begun_us);
}

/* Own machines: those that sleep, and, of those that are awake and may sleep, the ones that interactive requests do not
 * need. */
static void batch_own(const struct sim *x, int32_t offer, int32_t beyond, struct batch_market *b)
{
    const struct sim_offer *o = &x->s->offers[offer];
    const struct power_levels *l = &x->s->types[o->type].levels;
    const struct sim_site *site = o->site >= 0 ? &x->s->sites[o->site] : NULL;
    const struct tariff *t = site ? site->tariff : NULL;
    const double rate = x->offers[offer].capacity, overhead = site && site->overhead > 0 ? site->overhead : 1;
    for (int32_t i = 0; i < x->n_nodes; i++) {
        const struct sim_node *n = &x->nodes[i];
        if (n->offer == offer && (n->state == SIM_ASLEEP || n->state == SIM_FALLING_ASLEEP))
            batch_market_sleeper(b, rate, l, n->asleep_in, t, overhead);
    }
    for (int32_t i = 0; i < beyond; i++)
        batch_market_surplus(b, rate, l, t, overhead);
}

static bool may_sleep(const struct sim *x, int32_t offer)
{
    const struct sim_offer *o = &x->s->offers[offer];
    const struct power_levels *l = &x->s->types[o->type].levels;
    return o->market == SCALE_ON_PREM && o->site >= 0 && x->s->sites[o->site].powered &&
           (l->of[POWER_SLEEP].allowed || l->of[POWER_OFF].allowed);
}

/* What could compute it. For a model that is not scaled nothing is rented. */
static void batch_market(const struct sim *x, int32_t model, double demand, int32_t tick_s, struct batch_market *b)
{
    const struct sim_model_state *m = &x->models[model];
    double ready = 0;
    for (int32_t i = 0; i < m->n_offers; i++)
        ready += x->offers[m->offers[i]].n_accepting * x->plan_offers[i].tokens_per_s;
    batch_market_init(b, ready, demand, tick_s * SIM_US_PER_S);
    double interactive = sim_own_in_flight(x, model, -1, true) + waiting_count_of(&m->room, WAITING_INTERACTIVE);
    for (int32_t i = 0; i < m->n_offers; i++) {
        const int32_t offer = m->offers[i], awake = x->offers[offer].n_accepting;
        const double each = x->offers[offer].concurrency;
        if (x->s->models[model].scaled)
            batch_market_offer(b, &x->plan_offers[i]);
        if (!sim_local(x, offer))
            continue;
        const int32_t warm = may_sleep(x, offer) ? x->s->sites[x->s->offers[offer].site].keep_warm : awake;
        const int32_t beyond = batch_market_beyond(awake, warm, interactive, each);
        interactive = fmax(interactive - (awake - beyond) * each, 0);
        batch_own(x, offer, beyond, b);
    }
}

/* How fast batch work shall go, and where. */
static double batch_pace(struct sim *x, int32_t model, double demand, int32_t tick_s)
{
    struct sim_model_state *m = &x->models[model];
    struct progress_rows rows = {.n = 0};
    struct batch_market market;
    struct progress_decision d;
    batch_rows(x, m, &rows);
    m->batch_goes = m->batch_holds = false;
    m->batch_urgent_us = 0;
    if (!rows.n)
        return 0;
    batch_market(x, model, demand, tick_s, &market);
    batch_market_hours(&market, x->s->start_unix_s * SIM_US_PER_S + x->now_us,
                       rows.work[rows.n - 1].due_us - x->now_us);
    progress_decide(&d, &m->progress, x->now_us, rows.work, rows.n, &market.m);
    m->batch_goes = batch_market_goes(&market, &d);
    m->batch_holds = batch_market_holds(&d);
    m->batch_urgent_us = batch_market_urgent_us(&d);
    return m->batch_goes ? progress_asks(&d) : 0;
}

/* --- autoscaling
 * -------------------------------------------------------------------------------------------------------- */

static void act(struct sim *x, const struct sim_model_state *m, const struct scale_action *a)
{
    const int32_t node = a->node >= 0 ? x->plan_index[a->node] : -1;
    if (node >= 0 && sim_powered(x, node)) /* power_plan() decides, by the same forecast */
        return;
    switch (a->verb) {
    case SCALE_LAUNCH:
        for (int32_t i = 0; i < a->n; i++)
            if (sim_launch(x, m->offers[a->offer], SIM_BOOTING) < 0)
                return;
        break;
    case SCALE_WAKE:
        if (x->nodes[node].state == SIM_ASLEEP)
            sim_wake(x, node);
        else
            sim_undrain(x, node);
        break;
    case SCALE_DRAIN: sim_drain(x, node); break;
    case SCALE_SLEEP:
        if (!node_model_in_flight(&x->nodes[node].m) && x->nodes[node].state == SIM_DRAINING)
            sim_sleep(x, node, POWER_SLEEP);
        break;
    case SCALE_TERMINATE:
        if (x->nodes[node].state != SIM_GONE && !x->nodes[node].leaving)
            sim_terminate(x, node);
        break;
    }
}

static struct pusd api_per_token(const struct sim *x, const struct sim_model_state *m)
{
    if (!m->n_apis || m->prompt + m->output < 1)
        return (struct pusd){0};
    const struct token_prices *p = &x->s->apis[m->apis[0]].prices;
    const double all = (m->prompt - m->cached) * (double)p->input.uusd_per_mtok +
                       m->cached * (double)p->cached_input.uusd_per_mtok + m->output * (double)p->output.uusd_per_mtok;
    return (struct pusd){(int64_t)(all / (m->prompt + m->output))};
}

/* Would what goes there be late? Of the mean prompt, by what the router knows of it. */
static bool api_is_late(const struct sim *x, int32_t model)
{
    const struct sim_model_state *m = &x->models[model];
    const struct sim_slo *slo = &x->s->models[model].slo;
    if (!m->n_apis || !router_has(x->router, x->nodes_max + m->apis[0]))
        return false;
    const struct route_request q = {.input_tokens = (int64_t)m->prompt, .output_tokens = (int64_t)m->output};
    const struct router_ask ask = {.model = model, .request = &q};
    const double limit = sim_first_limit_us(slo, (int32_t)m->prompt);
    struct route_candidate c;
    router_candidate(x->router, &ask, x->nodes_max + m->apis[0], &c);
    return prediction_is_late(&c.latency, isfinite(limit) ? limit : 0, (double)slo->tpot_us, sim_asked(slo));
}

static double horizon_s(const struct sim *x, const struct sim_model_state *m, int32_t tick_s)
{
    int32_t boot = 0;
    for (int32_t i = 0; i < m->n_offers; i++)
        if (x->plan_offers[i].launch_max > 0 && x->plan_offers[i].boot_s > boot)
            boot = x->plan_offers[i].boot_s;
    return boot + tick_s;
}

static void scale(struct sim *x, int32_t model, double batch, int32_t tick_s)
{
    struct sim_model_state *m = &x->models[model];
    const struct sim_model *config = &x->s->models[model];
    const struct forecast_value now = sim_forecast(x, model, 0);
    const struct forecast_value then = sim_forecast(x, model, horizon_s(x, m, tick_s));
    const double waiting = (double)waiting_count_of(&m->room, WAITING_INTERACTIVE) * (m->prompt + m->output);
    struct scale_snapshot s = {
        .now_s = x->now_us / SIM_US_PER_S,
        .demand = {.now = now.mean, .mean = then.mean, .sd = then.sd, .queued = waiting, .batch = batch},
        .limits = config->limits,
        .api = config->api,
        .offers = x->plan_offers,
        .n_offers = m->n_offers,
        .pools_min = x->s->pools_min,
        .n_pools = x->s->n_pools,
        .nodes = x->plan_nodes,
    };
    s.limits.tick_s = tick_s;
    s.api.allowed = s.api.allowed && m->n_apis > 0;
    s.api.per_token = api_per_token(x, m);
    s.api.late = api_is_late(x, model);
    if (config->worth && config->slo.ttft_us)
        s.promise = (struct scale_promise){config->slo.probability, m->in_time, m->late};
    s.n_nodes = snapshot_nodes(x, model);
    m->demand_now = now.mean;
    m->demand_mean = then.mean;
    scale_plan(x->plan, &m->memory, x->work, &s);
    m->out->plans++;
    m->out->actions += x->plan->n_actions;
    for (int32_t i = 0; i < x->plan->n_actions; i++)
        act(x, m, &x->plan->actions[i]);
}

void sim_plan_soon(struct sim *x, int32_t model)
{
    if (x->now_us - x->models[model].planned_us >= SIM_US_PER_S)
        event_queue_set(&x->queue, x->at_plans + model, x->now_us);
}

void sim_plan_event(struct sim *x, int32_t model)
{
    struct sim_model_state *m = &x->models[model];
    const struct sim_model *config = &x->s->models[model];
    const int32_t tick_s = config->limits.tick_s > 0 ? config->limits.tick_s : TICK_S_DEFAULT;
    event_queue_set(&x->queue, x->at_plans + model, x->now_us + tick_s * SIM_US_PER_S);
    m->planned_us = x->now_us;
    if (!m->n_seen) /* nothing is known of what will come: the fleet stays as it is */
        return;
    sim_observe(x, model, 0);
    capacities(x, model);
    if (config->scaled || waiting_count_of(&m->room, WAITING_BATCH)) {
        snapshot_offers(x, m);
        const double batch = batch_pace(x, model, sim_forecast(x, model, 0).mean, tick_s);
        if (config->scaled)
            scale(x, model, batch, tick_s);
    }
    sim_serve_waiting(x, model);
}

void sim_plan_init(struct sim *x)
{
    x->plan = spw_calloc(1, sizeof(*x->plan));
    x->work = spw_calloc(1, sizeof(*x->work));
    x->plan_nodes = spw_calloc((size_t)x->nodes_max + 1, sizeof(*x->plan_nodes));
    x->plan_index = spw_calloc((size_t)x->nodes_max + 1, sizeof(*x->plan_index));
    x->plan_offers = spw_calloc(SCALE_OFFERS_MAX, sizeof(*x->plan_offers));
    for (int32_t i = 0; i < x->s->n_models; i++)
        event_queue_set(&x->queue, x->at_plans + i, 0);
}

void sim_plan_fini(struct sim *x)
{
    free(x->plan);
    free(x->work);
    free(x->plan_nodes);
    free(x->plan_index);
    free(x->plan_offers);
}
