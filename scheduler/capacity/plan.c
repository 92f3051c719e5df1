/* Autoscaling: demand (market.c), what can be had, and who is there become the snapshot that policies/scale.h decides
 * by; as in the simulator (sim_plan.c). */
#include <math.h>
#include <string.h>

#include "policies/capacity.h"
#include "scheduler/calibrate/record.h"
#include "scheduler/capacity/fleet_internal.h"

#define CAPACITY_GUESS                                                                                                 \
    200.0                 /* tokens per second of a node of which nothing is known; a full fleet is found out anyhow */
#define SEQUENCES      64 /* at once, where nobody says */
#define QUEUE_DRAIN_S  10
#define Z              1.28
#define REPLACE_SAVING 0.15
#define IDLE_RATE      0.01
#define NO_POOL        (-1)
#define OFFERS_NEAR    4    /* of one launch: others that may stand in, */
#define NEAR_PRICE     1.25 /* dearer by no more than this */

/* ---- what nodes can do ------------------------------------------------------------------------------------------- */

/* One node of those that are calibrated, within the model's SLO. l: what it says of itself, {0}: nothing. */
static void planned(struct capacity *can, const struct fleet *f, const struct market *k, const struct config_node *c,
                    const struct node_load *l)
{
    const struct config_aim aim = config_aim(f->config, config_model(f->config, k->model));
    const double var = k->prompt_sq - k->prompt * k->prompt;
    const struct workload_mix mix = {.prompt = k->prompt > 0 ? k->prompt : OUTPUT_GUESS,
                                     .cached = k->cached,
                                     .output = k->output,
                                     .prompt_cv = var > 0 && k->prompt > 0 ? sqrt(var) / k->prompt : 0};
    const struct capacity_slo slo = {.ttft_us =
                                         aim.ttft_ms ? (double)aim.ttft_ms * 1e3 - c->calibrated->curve.base_us : 0,
                                     .tpot_us = (double)aim.tpot_ms * 1e3,
                                     .probability = aim.probability_ppm / 1e6};
    int32_t sequences = c->slots ? c->slots : l->slots ? l->slots : c->max_batch ? c->max_batch : SEQUENCES;
    const double kv_tokens = (double)(c->kv_tokens ? c->kv_tokens : l->kv_tokens);
    if (kv_tokens > 0 && kv_tokens / (mix.prompt + mix.output) < sequences)
        sequences = (int32_t)(kv_tokens / (mix.prompt + mix.output));
    capacity_planned(can, &c->calibrated->curve, &slo, &mix, sequences, 0);
}

/* Tokens per second. */
static double capacity_of(const struct fleet *f, const struct market *k, const struct config_node *c,
                          const struct node_load *l)
{
    struct capacity can;
    if (c->tokens_per_s)
        return c->tokens_per_s;
    if (!c->calibrated)
        return CAPACITY_GUESS;
    planned(&can, f, k, c, l);
    return can.tokens_per_s;
}

double plan_at_once(const struct fleet *f, const struct market *k, const struct config_node *c,
                    const struct node_load *l, int32_t slots)
{
    struct capacity can;
    if (!c->calibrated)
        return slots;
    planned(&can, f, k, c, l);
    const double n = capacity_at_once(&can, slots);
    return n > 0 ? n : slots;
}

/* ---- snapshots --------------------------------------------------------------------------------------------------- */

static int alive_of(const struct fleet *f, const struct pool *p, const char *offer)
{
    const struct member *m;
    int n = 0;
    TAILQ_FOREACH(m, &f->members, next)
    {
        n += m->pool == p && life_is_paid(m->life) && (!offer || strcmp(m->offer, offer) == 0);
    }
    return n;
}

/* How many more of the pool could be launched, whatever offer is taken. */
static int room_of(const struct fleet *f, const struct pool *p)
{
    const struct mono now = clock_now(f->o.clock);
    if (!p->config || f->stopping || mono_after(p->blocked_until, now))
        return 0;
    const int room = p->config->max - alive_of(f, p, NULL), places = nodes_places(f->o.nodes);
    return room < 0 ? 0 : room < places ? room : places;
}

static int32_t domain_of(struct snapshot *s, const char *name)
{
    for (int i = 0; i < s->n_offers; i++) {
        if (s->refs[i].offer && strcmp(s->refs[i].offer->domain, name) == 0)
            return s->offers[i].domain;
    }
    return s->n_offers;
}

static void add_pool(struct snapshot *s, struct fleet *f, const struct market *k, struct pool *p)
{
    const struct mono now = clock_now(f->o.clock);
    const double can = capacity_of(f, k, &p->config->node, &(struct node_load){.slots = 0});
    const int room = room_of(f, p), first = s->n_offers;
    for (int i = 0; i < p->n_offers && s->n_offers < SCALE_OFFERS_MAX; i++) {
        struct offer *o = &p->offers[i];
        const bool cold = mono_after(o->cold_until, now);
        const struct scale_offer offer = {
            .market = o->market == PROVIDER_SPOT ? SCALE_SPOT : SCALE_ON_DEMAND,
            .domain = domain_of(s, o->domain),
            .pool = s->n_pools,
            .tokens_per_s = can,
            .price_hour = o->price_hour,
            .boot_s = o->boot_s,
            .billing_min_s = o->billing_min_s,
            .losses_per_hour = o->market == PROVIDER_SPOT ? losses_per_hour(&p->losses) : 0,
            .launch_max = o->launchable && !cold ? room : 0,
            .steady_s = o->launchable && !cold ? (int32_t)((now.ns - o->steady_from.ns) / NS_PER_S) : 0,
        };
        s->refs[s->n_offers] = (struct offer_ref){p, o};
        s->offers[s->n_offers++] = offer;
    }
    if (s->n_offers > first)
        s->pools_min[s->n_pools++] = p->config->min;
}

static int offer_index(const struct snapshot *s, const struct member *m)
{
    int any = -1;
    for (int i = 0; i < s->n_offers; i++) {
        if (s->refs[i].pool != m->pool || !s->refs[i].offer)
            continue;
        if (strcmp(s->refs[i].offer->id, m->offer) == 0)
            return i;
        any = any < 0 ? i : any;
    }
    return any;
}

static bool node_state(const struct member *m, struct mono now, struct scale_node *n)
{
    const int64_t in_s = (now.ns - m->since.ns) / NS_PER_S;
    switch (m->life) {
    case LIFE_REQUESTED:
    case LIFE_BOOTING:
    case LIFE_JOINING:
        n->state = SCALE_BOOTING;
        n->ready_s = m->boot_s > in_s ? (int32_t)(m->boot_s - in_s) : 1;
        return true;
    case LIFE_READY: n->state = SCALE_READY; return true;
    case LIFE_SLEEPING:
    case LIFE_OFF: n->state = SCALE_ASLEEP; return true;
    case LIFE_DRAINING:
        n->state = SCALE_DRAINING;
        n->draining_s = (int32_t)in_s;
        n->leaving = m->noticed || m->purpose == FOR_SLEEP;
        return true;
    default: return false; /* lost, ending: nothing is served there; the guard still counts it */
    }
}

static void add_member(struct snapshot *s, struct fleet *f, const struct market *k, struct member *m)
{
    const struct mono now = clock_now(f->o.clock);
    struct scale_node n = {.offer = -1};
    const struct node_load l = m->node ? node_load(m->node) : (struct node_load){.in_flight = 0};
    if (s->n_nodes == SNAPSHOT_NODES_MAX || !node_state(m, now, &n))
        return;
    if (m->pool) {
        n.offer = offer_index(s, m);
        const int64_t paid = m->billing_min_s - (fleet_now_s(f) - m->launched_s);
        n.paid_s = m->launched_s && paid > 0 ? (int32_t)paid : 0;
    } else if (s->n_offers < SCALE_OFFERS_MAX && m->node) {
        n.offer = s->n_offers;
        s->refs[s->n_offers] = (struct offer_ref){NULL, NULL};
        s->offers[s->n_offers++] = (struct scale_offer){.market = SCALE_ON_PREM,
                                                        .domain = n.offer,
                                                        .pool = NO_POOL,
                                                        .tokens_per_s = capacity_of(f, k, m->node->config, &l)};
        n.leaving = n.leaving || (l.draining && m->life != LIFE_DRAINING);
        if (n.leaving)
            n.state = SCALE_DRAINING;
    }
    if (n.offer < 0)
        return;
    n.in_flight = l.in_flight;
    s->members[s->n_nodes] = m;
    s->nodes[s->n_nodes++] = n;
    if (m->life == LIFE_READY && m->node && !n.leaving)
        s->ready += s->offers[n.offer].tokens_per_s;
}

/* Own nodes that are none of our engines: they are there, and that is all. */
static void add_others(struct snapshot *s, struct fleet *f, const struct market *k)
{
    for (int i = 0; i < nodes_count(f->o.nodes); i++) {
        struct node *node = nodes_at(f->o.nodes, i);
        if (!node_is_there(node) || node->dynamic || node->leaving || fleet_find(f, node->name) ||
            market_of(f, node->config) != k)
            continue;
        const struct node_load l = node_load(node);
        if (!node->config->local) {
            s->at_apis += l.in_flight;
            continue;
        }
        if (l.state != NODE_READY || l.draining || s->n_offers == SCALE_OFFERS_MAX || s->n_nodes == SNAPSHOT_NODES_MAX)
            continue;
        s->refs[s->n_offers] = (struct offer_ref){NULL, NULL};
        s->members[s->n_nodes] = NULL;
        const int offer = s->n_offers++;
        s->nodes[s->n_nodes++] = (struct scale_node){.offer = offer, .state = SCALE_READY, .in_flight = l.in_flight};
        s->offers[offer] = (struct scale_offer){.market = SCALE_ON_PREM,
                                                .domain = offer,
                                                .pool = NO_POOL,
                                                .tokens_per_s = capacity_of(f, k, node->config, &l)};
        s->ready += s->offers[offer].tokens_per_s;
    }
}

/* The API that is turned to when there are too few nodes: the first that is there and would be in time, else the first.
 * Its entry may be another market's. */
static void find_api(struct snapshot *s, struct fleet *f, const struct market *k)
{
    const struct config_aim aim = config_aim(f->config, config_model(f->config, k->model));
    const struct node_promise promise = {.model = k->model,
                                         .prompt = (int64_t)k->prompt,
                                         .output = (int64_t)k->output,
                                         .first_us =
                                             (double)route_ttft_limit_us(aim.ttft_ms * 1000, (double)aim.ttft_per_1k_ms,
                                                                         aim.free_tokens, (int64_t)k->prompt),
                                         .tpot_us = (double)aim.tpot_ms * 1e3,
                                         .probability = aim.probability_ppm / 1e6};
    for (int i = 0; i < nodes_count(f->o.nodes); i++) {
        struct node *node = nodes_at(f->o.nodes, i);
        if (!node_is_there(node) || node->dynamic || node->config->local || !config_node_serves(node->config, k->model))
            continue;
        const struct node_load l = node_load(node);
        if (l.draining || l.leaving || l.state == NODE_FAILING || l.state == NODE_STOPPED)
            continue;
        const bool late = node_is_late(node, &promise);
        if (s->api && (late || !s->api_late))
            continue;
        s->api = node->config;
        s->api_late = late;
    }
}

/* Whose market it is in; NULL: in none. */
static const struct market *market_of_member(struct fleet *f, const struct member *m)
{
    if (m->pool)
        return m->pool->config ? m->pool->market : NULL;
    return m->node ? market_of(f, m->node->config) : NULL;
}

void plan_gather(struct snapshot *s, struct fleet *f, struct market *k)
{
    struct pool *p;
    struct member *m;
    memset(s, 0, offsetof(struct snapshot, offers));
    TAILQ_FOREACH(p, &f->pools, next)
    {
        if (p->config && p->market == k) {
            add_pool(s, f, k, p);
            s->max += p->config->max;
        }
    }
    s->n_pool_offers = s->n_offers;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (market_of_member(f, m) == k)
            add_member(s, f, k, m);
    }
    add_others(s, f, k);
    find_api(s, f, k);
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

static struct scale_limits limits_of(const struct fleet *f, const struct snapshot *s)
{
    const struct config_capacity *c = &f->config->capacity;
    int here = 0, own = 0, own_awake = 0, elsewhere;
    int64_t hour_here = 0;
    for (int i = 0; i < s->n_nodes; i++) {
        const bool rented = s->members[i] && s->members[i]->pool;
        here += rented;
        hour_here += rented ? s->members[i]->price_hour.v : 0;
        own += !rented;
        own_awake += !rented && s->nodes[i].state == SCALE_READY; /* they stand beside the minimum of pools */
    }
    elsewhere = guard_nodes(f->guard) - here;
    int most = c->max_nodes - elsewhere;
    most = most < 0 ? 0 : most;
    most = s->max < most ? s->max : most;
    const int64_t hour = c->max_hour.v < 0 ? -1 : c->max_hour.v - (guard_hour(f->guard).v - hour_here);
    return (struct scale_limits){.nodes_min = own_awake,
                                 .nodes_max = most + own,
                                 .hour_max = {c->max_hour.v < 0 ? -1
                                              : hour > 0        ? hour
                                                                : 0},
                                 .z = Z,
                                 .over_provision = c->over_provision_ppm / 1e6,
                                 .survive = c->survive_ppm / 1e6,
                                 .queue_drain_s = QUEUE_DRAIN_S,
                                 .down_after_s = (int32_t)(c->down_after_ms / 1000),
                                 .return_after_s = (int32_t)(c->return_after_ms / 1000),
                                 .replace_saving = REPLACE_SAVING,
                                 .drain_max_s = (int32_t)(c->drain_ms / 1000),
                                 .tick_s = c->interval_ms < 1000 ? 1 : (int32_t)(c->interval_ms / 1000),
                                 .idle_rate = IDLE_RATE};
}

static struct scale_api api_of(const struct fleet *f, const struct market *k, const struct snapshot *s)
{
    const struct config_capacity *c = &f->config->capacity;
    if (!s->api || k->prompt + k->output < 1)
        return (struct scale_api){.allowed = false};
    const struct token_prices *p = &s->api->prices;
    const double all = (k->prompt - k->cached) * (double)p->input.uusd_per_mtok +
                       k->cached * (double)p->cached_input.uusd_per_mtok + k->output * (double)p->output.uusd_per_mtok;
    return (struct scale_api){.allowed = true,
                              .bridge = !c->api_bridge_off,
                              .steady = !c->api_steady_off,
                              .late = s->api_late,
                              .per_token = {(int64_t)(all / (k->prompt + k->output))}};
}

static double horizon_s(const struct snapshot *s, int32_t tick_s)
{
    int32_t boot = 0;
    for (int i = 0; i < s->n_offers; i++)
        boot = s->offers[i].launch_max > 0 && s->offers[i].boot_s > boot ? s->offers[i].boot_s : boot;
    return boot + tick_s;
}

/* The offer that was chosen, and others of its pool and market that cost about the same: the provider may take any. */
static int offers_for(const struct snapshot *s, int at, struct offer *out[OFFERS_NEAR])
{
    const struct offer_ref *ref = &s->refs[at];
    int n = 0;
    out[n++] = ref->offer;
    for (int i = 0; i < s->n_pool_offers && n < OFFERS_NEAR; i++) {
        if (i != at && s->refs[i].pool == ref->pool && s->refs[i].offer->market == ref->offer->market &&
            s->offers[i].launch_max > 0 &&
            (double)s->offers[i].price_hour.v <= (double)s->offers[at].price_hour.v * NEAR_PRICE)
            out[n++] = s->refs[i].offer;
    }
    return n;
}

/* Nobody says when spot is back: it is tried. One launch tries it, while what is dearer goes on serving, and the others
 * follow when it was had. */
static int so_many(const struct fleet *f, const struct pool *p, const struct offer *o, const struct scale_action *a)
{
    const struct member *m;
    if (!o->doubted || (a->reason != SCALE_FOR_RETURN && a->reason != SCALE_CHEAPER))
        return a->n;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (m->pool == p && m->life == LIFE_REQUESTED)
            return 0;
    }
    return 1;
}

static void launch(struct fleet *f, const struct snapshot *s, const struct scale_action *a)
{
    struct offer *offers[OFFERS_NEAR];
    struct pool *p = s->refs[a->offer].pool;
    struct error e;
    const int n = offers_for(s, a->offer, offers), most = so_many(f, p, s->refs[a->offer].offer, a);
    for (int i = 0; i < most && room_of(f, p) > 0; i++) {
        if (launch_one(p, offers, n, false, scale_reason_text(a->reason), &e) == RC_OK)
            continue;
        log_warn(f->o.log, "capacity", "the plan's launch is not let through", LOG_S("pool", p->name),
                 LOG_S("reason", e.message));
        return;
    }
}

static void act(struct fleet *f, const struct snapshot *s, const struct scale_action *a)
{
    struct member *m = a->node >= 0 ? s->members[a->node] : NULL;
    const char *why = scale_reason_text(a->reason);
    if (a->verb == SCALE_LAUNCH && s->refs[a->offer].pool)
        launch(f, s, a);
    if (!m || !m->pool || m->pinned || m->noticed)
        return; /* own machines: power_plan() decides, by the same forecast */
    if (a->verb == SCALE_WAKE && m->life == LIFE_DRAINING)
        member_undrain(m, why);
    else if (a->verb == SCALE_DRAIN)
        member_drain(m, FOR_END, why);
    else if (a->verb == SCALE_TERMINATE)
        member_end(m, why);
}

/* Averages fade slowly. When nobody has asked for as long as capacity is kept, and no more than that is foreseen, then
 * there is no demand. */
static bool is_idle(const struct fleet *f, const struct market *k, const struct snapshot *s, double now, double then)
{
    int in_flight = s->at_apis + k->now.waiting + k->now.waiting_batch;
    for (int i = 0; i < s->n_nodes; i++)
        in_flight += s->nodes[i].in_flight;
    return in_flight == 0 && then <= now &&
           mono_since(f->o.clock, k->came) > f->config->capacity.down_after_ms * NS_PER_MS;
}

static void scale(struct fleet *f, struct market *k)
{
    struct snapshot *s = f->snapshot;
    plan_gather(s, f, k);
    if (!s->n_pool_offers && !s->n_nodes)
        return;
    const struct scale_limits limits = limits_of(f, s);
    const struct forecast_value now = forecast_at(&k->forecast, 0);
    const struct forecast_value then = forecast_at(&k->forecast, horizon_s(s, limits.tick_s));
    const double each = k->prompt + k->output;
    const struct config_aim aim = config_aim(f->config, config_model(f->config, k->model));
    const bool idle = is_idle(f, k, s, now.mean, then.mean);
    struct scale_snapshot plan = {
        .now_s = fleet_now_s(f),
        .demand = {.now = idle ? 0 : now.mean,
                   .mean = idle ? 0 : then.mean,
                   .sd = idle ? 0 : then.sd,
                   .queued = (k->now.waiting + (k->saturated ? s->at_apis : 0)) * each,
                   .batch = k->batch_tokens_per_s},
        .limits = limits,
        .api = api_of(f, k, s),
        .promise = {.asked = aim.ttft_ms ? aim.probability_ppm / 1e6 : 0,
                    .in_time = k->now.in_time,
                    .missed = k->now.late},
        .offers = s->offers,
        .n_offers = s->n_offers,
        .pools_min = s->pools_min,
        .n_pools = s->n_pools,
        .nodes = s->nodes,
        .n_nodes = s->n_nodes,
    };
    if (k->saturated && s->ready > plan.demand.now) /* as much as it can do is asked of it, at least */
        plan.demand.now = s->ready;
    scale_plan(f->plan, &k->memory, f->work, &plan);
    k->plan = (struct fleet_plan_view){.model = k->model,
                                       .need = f->plan->need,
                                       .need_now = f->plan->need_now,
                                       .ready = f->plan->ready,
                                       .coming = f->plan->coming,
                                       .uncovered = f->plan->uncovered,
                                       .not_worth = f->plan->not_worth,
                                       .miss_price = f->plan->miss_price,
                                       .hour = f->plan->hour,
                                       .by_budget = f->plan->by_budget,
                                       .by_nodes = f->plan->by_nodes};
    for (int i = 0; i < f->plan->n_actions; i++)
        act(f, s, &f->plan->actions[i]);
}

/* ---- whom requests may wait for ---------------------------------------------------------------------------------- */

static bool can_come(struct fleet *f, const char *model, bool *awake)
{
    const struct pool *p;
    const struct member *m;
    bool comes = false;
    *awake = false;
    TAILQ_FOREACH(p, &f->pools, next)
    {
        comes = comes || (p->config && config_node_serves(&p->config->node, model) && room_of(f, p) > 0 && p->n_offers);
    }
    TAILQ_FOREACH(m, &f->members, next)
    {
        const struct config_node *c = m->pool   ? (m->pool->config ? &m->pool->config->node : NULL)
                                      : m->node ? m->node->config
                                                : NULL;
        if (!c || !config_node_serves(c, model))
            continue;
        *awake = *awake || m->life == LIFE_READY;
        comes = comes || life_is_coming(m->life) || m->life == LIFE_SLEEPING || m->life == LIFE_OFF;
    }
    return comes;
}

void plan_tell(struct fleet *f)
{
    const bool hold = f->config->capacity.from_zero == CONFIG_ZERO_HOLD;
    for (int i = 0; i < f->n_models; i++) {
        const struct fleet_model *model = &f->models[i];
        bool awake;
        const bool comes = can_come(f, model->name, &awake);
        f->o.comes(model->name, !comes ? FLEET_NOTHING_COMES : hold && !awake ? FLEET_HOLDS : FLEET_COMES, f->o.arg);
        model->market->keeps_asleep = !hold && market_api(f->config, model->name);
    }
}

void plan_scale(struct fleet *f)
{
    pools_watch(f);
    for (int i = 0; i < f->n_markets; i++)
        scale(f, &f->markets[i]);
}
