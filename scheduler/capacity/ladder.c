/* The power ladder: which of our own engines are awake. The snapshot is put together as the simulator does it
 * (sim_power.c), policies/power.h decides, and what it says is done through sleep.c. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define Z          2.3 /* 99 times of 100 */
#define STEADY     0.7
#define HYSTERESIS 0.1
#define TRUST      800 /* in the forecast, once it has been tried */
#define TICK_US    INT64_C(1000000)

/* ---- who there is ------------------------------------------------------------------------------------------------ */

static bool is_ours(const struct config_node *c)
{
    return c->local &&
           (c->provider == PROVIDER_PROCESS || c->node_key_file || c->machine_settings || !c->url); /* none: it joins */
}

static void watch_machine(struct member *m, const struct config_node *c)
{
    struct source *s = source_find(m->fleet, provider_static.name);
    struct error e;
    if (!c->machine_settings || !s || m->owned_known || !s->ops->adopt)
        return;
    const struct url at = m->node->target.at; /* set before it is listed, and by this loop alone */
    const struct provider_spec spec = {.name = m->name, .settings = c->machine_settings, .port = at.port};
    const struct provider_instance known = {
        .name = m->name, .state = INSTANCE_RUNNING, .host = at.host[0] ? at.host : NULL, .port = at.port, .reason = ""};
    const enum rc rc = s->ops->adopt(s->provider, &spec, &known, &e);
    m->owned_known = rc == RC_OK || rc == RC_CONFLICT;
    if (!m->owned_known && strcmp(m->reason, e.message) != 0) {
        snprintf(m->reason, sizeof m->reason, "%s", e.message);
        log_warn(m->fleet->o.log, "capacity", "its power cannot be reached", LOG_S("node", m->name),
                 LOG_S("reason", e.message));
    }
}

static void forget_machine(struct member *m)
{
    struct source *s = source_find(m->fleet, provider_static.name);
    if (m->owned_known && s && s->ops->forget)
        s->ops->forget(s->provider, m->name);
    m->owned_known = false;
}

/* A member for each node of the configuration whose engine is ours; its node may be another one after a reload. */
void ladder_sync(struct fleet *f)
{
    struct member *m, *next;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (!m->pool)
            m->node = NULL;
    }
    for (int i = 0; i < nodes_count(f->o.nodes); i++) {
        struct node *n = nodes_at(f->o.nodes, i);
        if (!node_is_there(n) || n->dynamic || n->leaving || !is_ours(n->config))
            continue;
        m = fleet_find(f, n->name);
        if (!m) {
            m = member_new(f, NULL, n->name, "");
            m->life = LIFE_JOINING;
            life_times_for(&m->times, 0, f->config->capacity.drain_ms);
        }
        m->node = n;
        watch_machine(m, n->config);
    }
    for (m = TAILQ_FIRST(&f->members); m; m = next) {
        next = TAILQ_NEXT(m, next);
        if (!m->pool && !m->node) {
            forget_machine(m);
            member_free(m);
        }
    }
}

/* ---- the snapshot ------------------------------------------------------------------------------------------------ */

static bool can_go_off(const struct member *m)
{
    struct source *s = source_find(m->fleet, provider_static.name);
    return m->owned_known && s && s->ops->proven && s->ops->proven(s->provider, m->name);
}

struct site { /* what one plan speaks of */
    struct member *members[ROUTE_CANDIDATES_MAX];
    struct power_node nodes[ROUTE_CANDIDATES_MAX];
    struct power_levels levels[ROUTE_CANDIDATES_MAX];
    struct power_choice choices[ROUTE_CANDIDATES_MAX];
    int32_t order[ROUTE_CANDIDATES_MAX];
    struct power_group groups[FLEET_MODELS_MAX];
    int n;
};

struct site *ladder_new(void)
{
    return spw_calloc(1, sizeof(struct site));
}

static int64_t left_us(const struct member *m, int64_t whole_us, struct mono now)
{
    const int64_t gone = (now.ns - m->since.ns) / NS_PER_US;
    return whole_us > gone ? whole_us - gone : 1;
}

static void state_of(const struct member *m, const struct power_levels *l, struct mono now, struct power_node *p)
{
    p->state = p->to = POWER_ACTIVE;
    switch (m->life) {
    case LIFE_SLEEPING:
        p->state = p->to = POWER_SLEEP;
        if (m->powering)
            p->to = POWER_OFF;
        break;
    case LIFE_OFF: p->state = p->to = POWER_OFF; break;
    case LIFE_JOINING:
        p->state = POWER_SLEEP;
        p->moved_us = left_us(m, l->of[POWER_SLEEP].wake_us, now);
        break;
    case LIFE_BOOTING:
        p->state = POWER_OFF;
        p->moved_us = left_us(m, l->of[POWER_OFF].wake_us, now);
        break;
    case LIFE_DRAINING:
        if (m->call && m->called_sleep) {
            p->to = POWER_SLEEP;
            p->moved_us = left_us(m, l->of[POWER_SLEEP].down_us, now);
        }
        break;
    default: break;
    }
}

/* Its answers may go on elsewhere, as told by power.move: reading them again is taken to cost what the node draws for
 * them in that time. Their ages are not known here, but no less than for how long nothing new has come; and of random
 * lengths so much is left, in the mean, as is there. */
static void know_answers(const struct member *m, const struct market *k, struct power_node *p)
{
    const int64_t move_us = m->fleet->config->power.move_ms * 1000, hold_us = (int64_t)(k->hold_s * 1e6);
    p->last_us = power_last_us(p->empties_us > hold_us ? p->empties_us : hold_us, p->in_flight);
    if (p->in_flight > 0 && move_us > 0)
        p->move_mj = power_mj(
            power_draw_mw(p->levels, POWER_ACTIVE, p->in_flight) - p->levels->of[POWER_ACTIVE].idle_mw, move_us);
}

static struct power_node node_of(struct member *m, const struct market *k, int32_t group, struct power_levels *levels,
                                 struct mono now)
{
    const struct node_load l = node_load(m->node);
    const int32_t slots = l.slots > 0 ? l.slots : SLOTS_ASSUMED;
    const bool operators = l.draining && m->life != LIFE_DRAINING && m->life != LIFE_SLEEPING;
    *levels = *m->node->config->levels;
    levels->of[POWER_OFF].allowed = levels->of[POWER_OFF].allowed && can_go_off(m);
    struct power_node p = {.in_flight = l.in_flight,
                           .slots = slots,
                           .capacity = plan_at_once(m->fleet, k, m->node->config, &l, slots),
                           .group = group,
                           .usable = m->life != LIFE_LOST && !l.leaving && !operators,
                           .pinned = m->pinned,
                           .wakes = true,
                           .accepts = m->life == LIFE_READY && !l.resting,
                           .idle_us = l.in_flight ? 0 : l.idle_ns / NS_PER_US,
                           .levels = levels};
    state_of(m, levels, now, &p);
    if (m->since.ns && now.ns - m->since.ns < l.idle_ns && p.state == POWER_ACTIVE && p.to == POWER_ACTIVE)
        p.idle_us = (now.ns - m->since.ns) / NS_PER_US; /* since it was last woken */
    if (!p.accepts && m->empties_from.ns)
        p.empties_us = (now.ns - m->empties_from.ns) / NS_PER_US;
    know_answers(m, k, &p);
    return p;
}

/* The longest waking of those that may sleep, and the cheapest of their spare capacity. */
static void know_machines(const struct site *s, int32_t group, struct power_outlook *o)
{
    for (int i = 0; i < s->n; i++) {
        if (s->nodes[i].group != group)
            continue;
        const int64_t wake_us = power_light_wake_us(&s->levels[i]);
        const double spare_w = power_spare_w(&s->levels[i], s->nodes[i].capacity);
        o->wake_us = wake_us > o->wake_us ? wake_us : o->wake_us;
        o->spare_w = spare_w > 0 && (o->spare_w <= 0 || spare_w < o->spare_w) ? spare_w : o->spare_w;
    }
}

static void foresee(struct fleet *f, struct market *k, const struct site *s, int32_t group, struct power_group *g)
{
    double here = 0;
    for (int i = 0; i < s->n; i++)
        here += s->nodes[i].group == group ? s->nodes[i].in_flight : 0;
    /* Where batch work waits for a cheaper hour nobody is awake for it. */
    const struct forecast *busy = k->pace.holds ? &k->busy_now : &k->busy;
    if (k->pace.holds)
        here = fmax(here - k->now.batch_in_flight, 0);
    const double asked = forecast_at(busy, 0).mean;
    g->keep_warm = f->config->power.keep_warm;
    g->steady = STEADY;
    g->trust = TRUST;
    g->spills = market_api(f->config, k->model) != NULL;
    struct power_outlook o = {.forecast = busy,
                              .in_use = g->spills && asked > here ? asked : here,
                              .waiting = k->now.waiting + (k->pace.goes ? k->now.waiting_batch : 0),
                              .hold_s = k->hold_s > 0 ? k->hold_s : 1,
                              .z = Z,
                              .now_us = clock_now(f->o.clock).ns / NS_PER_US,
                              .tick_us = TICK_US,
                              .ttft_us = config_aim(f->config, config_model(f->config, k->model)).ttft_ms * 1000,
                              .quiet_us = mono_since(f->o.clock, k->pace.holds ? k->came_now : k->came) / NS_PER_US,
                              .forget_us = f->config->capacity.down_after_ms * NS_PER_MS / NS_PER_US};
    know_machines(s, group, &o);
    power_foresee(g, &o);
}

/* ---- what it says is done ---------------------------------------------------------------------------------------- */

static void wake(struct member *m, const char *reason)
{
    if (m->life == LIFE_SLEEPING) {
        m->fleet->stats.wakes++;
        m->call_at.ns = 0;
        member_event(m, LIFE_WAKE, reason);
        sleep_order(m, false);
    } else if (m->life == LIFE_OFF) {
        m->fleet->stats.wakes++;
        power_order(m, true);
    } else if (m->life == LIFE_DRAINING && !m->call) {
        member_undrain(m, reason);
    }
}

static void rest(struct member *m, bool resting, struct mono now)
{
    if (resting && !m->empties_from.ns)
        m->empties_from = now;
    else if (!resting)
        m->empties_from.ns = 0;
    if (!resting)
        node_set_emptying(m->node, false);
    node_set_resting(m->node, resting);
}

static void obey(struct member *m, const struct power_node *p, const struct power_choice *c, struct mono now)
{
    const bool down = c->target == POWER_SLEEP || c->target == POWER_OFF;
    const char *why = power_reason_text(c->reason);
    if (!p->usable || m->pinned || m->noticed)
        return;
    if (!down && (p->to != POWER_ACTIVE || m->life == LIFE_DRAINING))
        wake(m, why);
    if (m->life == LIFE_SLEEPING && c->target == POWER_OFF)
        power_order(m, false);
    if (m->life != LIFE_READY)
        return;
    if (down && p->in_flight == 0 && m->node->spec->node_key) {
        rest(m, false, now);
        member_drain(m, FOR_SLEEP, why);
        return;
    }
    rest(m, !c->accepts, now);
    if (c->moves) /* until it gets work again, or is empty */
        node_set_emptying(m->node, true);
}

static bool has_ladder(const struct member *m)
{
    const struct power_levels *l = m->node ? m->node->config->levels : NULL;
    return !m->pool && l && (l->of[POWER_SLEEP].allowed || l->of[POWER_OFF].allowed);
}

/* What it may draw until it has done what it is told is claimed first: requests are admitted all the while, on other
 * loops. A waking for which nothing is left does not happen. */
static void claim(struct member *m, const struct power_node *p, struct power_choice *c)
{
    const bool wakes = c->target < POWER_SLEEP && p->state >= POWER_SLEEP && p->to == p->state;
    const bool serves = c->target < POWER_SLEEP && p->state < POWER_SLEEP && p->to < POWER_SLEEP;
    if (!node_claim_watts(m->node, serves ? -1 : power_ceiling_mw(p, c->target), wakes)) {
        *c = (struct power_choice){.target = p->state, .reason = POWER_CAP_HOLDS, .idle_left_us = -1};
        (void)node_claim_watts(m->node, power_ceiling_mw(p, p->state), false);
    }
}

/* Nodes that draw, and do not sleep: part of the site's base, for the plan. */
static int64_t others_mw(const struct fleet *f)
{
    int64_t sum = 0;
    for (int i = 0; i < nodes_count(f->o.nodes); i++) {
        struct node *n = nodes_at(f->o.nodes, i);
        if (!node_is_there(n) || !n->config->local || !n->config->levels)
            continue;
        const struct member *m = fleet_find(f, n->name);
        if (!m || !has_ladder(m))
            sum += power_draw_mw(n->config->levels, POWER_ACTIVE, node_load(n).in_flight);
    }
    return sum;
}

void ladder_plan(struct fleet *f)
{
    const int64_t cap_mw = f->config->power.cap_watts * INT64_C(1000);
    const int64_t base_mw = f->config->power.base_watts * INT64_C(1000);
    nodes_limit_watts(f->o.nodes, cap_mw, base_mw);
    struct site *s = f->site;
    struct power_plan plan;
    struct member *m;
    const struct mono now = clock_now(f->o.clock);
    s->n = 0;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (!has_ladder(m) || s->n == ROUTE_CANDIDATES_MAX)
            continue;
        struct market *k = market_of(f, m->node->config);
        s->members[s->n] = m;
        s->nodes[s->n] = node_of(m, k, (int32_t)(k - f->markets), &s->levels[s->n], now);
        node_keep_asleep(m->node, f->config->power.cap_watts > 0 || k->keeps_asleep);
        s->n++;
    }
    if (f->config->power.off) {
        for (int i = 0; i < s->n; i++)
            rest(s->members[i], false, now);
        return;
    }
    if (!s->n)
        return;
    for (int i = 0; i < f->n_markets; i++) {
        foresee(f, &f->markets[i], s, i, &f->markets[i].group);
        s->groups[i] = f->markets[i].group;
    }
    const struct power_snapshot snapshot = {.nodes = s->nodes,
                                            .n_nodes = s->n,
                                            .groups = s->groups,
                                            .n_groups = f->n_markets,
                                            .cap_mw = cap_mw,
                                            .base_mw = base_mw + (cap_mw ? others_mw(f) : 0),
                                            .hysteresis = HYSTERESIS};
    power_plan(&plan, s->choices, s->order, &snapshot);
    for (int i = 0; i < s->n; i++) {
        claim(s->members[i], &s->nodes[i], &s->choices[i]);
        obey(s->members[i], &s->nodes[i], &s->choices[i], now);
    }
}

/* ---- an operator's word ------------------------------------------------------------------------------------------ */

enum rc fleet_sleep(struct fleet *f, const char *name, struct error *e)
{
    struct member *m = fleet_find(f, name);
    if (!m || !m->node)
        return error_set(e, RC_NOT_FOUND, "there is no node '%.64s' that could be put to sleep", name);
    if (!m->node->spec->node_key)
        return error_set(e, RC_INVALID, "node '%s' is no engine of ours, or its node_key_file is not known", name);
    if (m->life != LIFE_READY && m->life != LIFE_SLEEPING && m->life != LIFE_DRAINING)
        return error_set(e, RC_CONFLICT, "node '%s' is %s; only one that is ready can be put to sleep", name,
                         life_state_name(m->life));
    m->pinned = true;
    if (m->life == LIFE_READY)
        member_drain(m, FOR_SLEEP, "by an operator");
    else if (m->life == LIFE_DRAINING)
        m->purpose = FOR_SLEEP;
    return RC_OK;
}

enum rc fleet_wake(struct fleet *f, const char *name, struct error *e)
{
    struct member *m = fleet_find(f, name);
    if (!m || !m->node)
        return error_set(e, RC_NOT_FOUND, "there is no node '%.64s' that could be woken", name);
    m->pinned = false;
    wake(m, "by an operator");
    return RC_OK;
}
