/* The pace of batch work (policies/progress.h): per market, what waits and what could compute it are put together as
 * the simulator does (sim_plan.c), and the front is told what batch requests may do until the next look: fill what is
 * idle, take any place on machines, or, those whose time is nearly over, go wherever they can. */

#include "policies/batch_market.h"
#include "scheduler/capacity/fleet_internal.h"

#define API_AT_ONCE 16 /* requests that an API is trusted with together, where nobody says */

/* What an API does of it: all is begun at once, as far as it may be. */
static double api_tokens_per_s(const struct market *k, const struct snapshot *s)
{
    const int64_t most = s->api->slots > 0 ? s->api->slots : API_AT_ONCE, waits = k->now.waiting_batch;
    return (double)(waits < most ? waits : most) * (k->prompt + k->output) / (k->hold_s > 0 ? k->hold_s : 1);
}

static void add_sleepers(struct batch_market *b, const struct fleet *f, const struct snapshot *s)
{
    for (int i = 0; i < s->n_nodes; i++) {
        const struct member *n = s->members[i];
        if (s->nodes[i].state == SCALE_ASLEEP && n && n->node && n->node->config->levels)
            batch_market_sleeper(b, s->offers[s->nodes[i].offer].tokens_per_s, n->node->config->levels,
                                 n->life == LIFE_OFF ? POWER_OFF : POWER_SLEEP, f->config->tariff, 1);
    }
}

static bool may_sleep(const struct snapshot *s, int i)
{
    const struct member *n = s->members[i];
    const struct power_levels *l = n && n->node && !n->pool ? n->node->config->levels : NULL;
    return l && s->nodes[i].state == SCALE_READY && !n->pinned &&
           (l->of[POWER_SLEEP].allowed || l->of[POWER_OFF].allowed);
}

/* Of those that are awake and may sleep, the ones that interactive requests do not need. */
static void add_surplus(struct batch_market *b, const struct fleet *f, const struct market *k, const struct snapshot *s)
{
    double at_once = 0, in_flight = 0;
    int32_t awake = 0;
    for (int i = 0; i < s->n_nodes; i++) {
        if (!may_sleep(s, i))
            continue;
        const struct node_load l = node_load(s->members[i]->node);
        at_once += plan_at_once(f, k, s->members[i]->node->config, &l, l.slots > 0 ? l.slots : SLOTS_ASSUMED);
        in_flight += l.in_flight;
        awake++;
    }
    const double interactive = in_flight > k->now.batch_in_flight ? in_flight - k->now.batch_in_flight : 0;
    int32_t beyond = f->config->power.off
                         ? 0
                         : batch_market_beyond(awake, f->config->power.keep_warm, interactive + k->now.waiting,
                                               at_once / (awake ? awake : 1));
    for (int i = 0; i < s->n_nodes && beyond > 0; i++) {
        if (!may_sleep(s, i))
            continue;
        batch_market_surplus(b, s->offers[s->nodes[i].offer].tokens_per_s, s->members[i]->node->config->levels,
                             f->config->tariff, 1);
        beyond--;
    }
}

/* Where nothing can be launched or woken an API stands in, and without one what runs: all that there will be. */
static void look_at_market(struct batch_market *b, const struct fleet *f, const struct market *k,
                           const struct snapshot *s, int64_t left_us)
{
    batch_market_init(b, s->ready, forecast_at(&k->forecast, 0).mean, BATCH_LOOK_MS * 1000);
    for (int i = 0; i < s->n_offers; i++)
        batch_market_offer(b, &s->offers[i]);
    add_sleepers(b, f, s);
    add_surplus(b, f, k, s);
    batch_market_hours(b, clock_wall(f->o.clock).ns / NS_PER_US, left_us);
    batch_market_stand_in(b, s->api ? api_tokens_per_s(k, s) : s->ready);
}

void batch_tell(struct fleet *f)
{
    for (int i = 0; i < f->n_models; i++)
        f->o.pace(f->models[i].name, &f->models[i].market->pace, f->o.arg);
}

static void decide(struct fleet *f, struct market *k)
{
    struct progress_rows rows = {.n = 0};
    struct batch_market market;
    struct progress_decision d;
    int64_t begun_us = 0;
    const int64_t now_us = clock_now(f->o.clock).ns / NS_PER_US;
    for (int i = 0; i < f->n_models; i++) {
        const int64_t us = f->models[i].market == k ? f->o.batch(f->models[i].name, &rows, f->o.arg) : 0;
        begun_us = us > begun_us ? us : begun_us;
    }
    progress_rows_end(&rows, begun_us);
    plan_gather(f->snapshot, f, k);
    look_at_market(&market, f, k, f->snapshot, rows.n ? rows.work[rows.n - 1].due_us - now_us : 0);
    progress_decide(&d, &k->progress, now_us, rows.work, rows.n, &market.m);
    const struct fleet_pace p = {.goes = batch_market_goes(&market, &d),
                                 .holds = batch_market_holds(&d),
                                 .urgent_us = batch_market_urgent_us(&d)};
    k->batch_tokens_per_s = p.goes ? progress_asks(&d) : 0;
    if (d.reason != k->batch_reason)
        log_info(f->o.log, "capacity", "batch work", LOG_S("model", k->model),
                 LOG_I("waiting", rows.n ? k->now.waiting_batch : 0), LOG_S("state", progress_where_name(d.where)),
                 LOG_S("reason", progress_reason_text(d.reason)));
    k->batch_reason = d.reason;
    k->told = k->told && p.goes == k->pace.goes && p.holds == k->pace.holds && p.urgent_us == k->pace.urgent_us;
    k->pace = p;
}

bool batch_is_due(struct fleet *f, bool tick)
{
    bool due = false;
    for (int i = 0; i < f->n_markets; i++) {
        struct market *k = &f->markets[i];
        k->batch_news = k->now.waiting_batch > k->batch_waited || (tick && k->now.waiting_batch + k->batch_waited > 0);
        due = due || k->batch_news;
    }
    return due;
}

void batch_plan(struct fleet *f)
{
    bool told = true;
    for (int i = 0; i < f->n_markets; i++) {
        struct market *k = &f->markets[i];
        if (k->batch_news)
            decide(f, k);
        k->batch_waited = k->batch_news ? k->now.waiting_batch : k->batch_waited;
        told = told && k->told;
        k->told = true;
    }
    if (!told)
        batch_tell(f);
}
