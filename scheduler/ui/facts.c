#include "scheduler/ui/facts.h"

#include <stdio.h>
#include <string.h>

#include "policies/tariff.h"
#include "scheduler/front/budget_desk.h"

#define MJ_PER_MW_HOUR 3600 /* a milliwatt, for an hour */

struct gathering {
    struct facts *f;
    const struct facts_sources *s;
};

static const char *copy(struct facts *f, const char *text)
{
    const char *own = text && *text ? arena_strndup(f->arena, text, strlen(text)) : NULL;
    return own ? own : "";
}

/* ---- nodes -------------------------------------------------------------------------------------------------------- */

static enum facts_mood mood_of_node(const struct front_node *n)
{
    switch (n->state) {
    case NODE_READY: return n->draining || n->reason[0] ? FACTS_BETWEEN : FACTS_WELL;
    case NODE_STARTING: return FACTS_BETWEEN;
    case NODE_ASLEEP: return FACTS_RESTING;
    case NODE_FAILING:
    case NODE_STOPPED: break;
    }
    return FACTS_ILL;
}

static enum facts_mood mood_of_life(enum life_state l)
{
    switch (l) {
    case LIFE_READY: return FACTS_WELL;
    case LIFE_SLEEPING:
    case LIFE_OFF: return FACTS_RESTING;
    case LIFE_LOST: return FACTS_ILL;
    case LIFE_REQUESTED:
    case LIFE_BOOTING:
    case LIFE_JOINING:
    case LIFE_DRAINING:
    case LIFE_ENDING:
    case LIFE_GONE:
    case LIFE_STATES: break;
    }
    return FACTS_BETWEEN;
}

/* NULL: there are too many to show. Counted they are all the same. */
static struct facts_node *new_node(struct facts *f, enum facts_mood mood)
{
    f->n_nodes_in_all++;
    f->n_by_mood[mood]++;
    return f->n_nodes < FACTS_NODES_MAX ? &f->nodes[f->n_nodes++] : NULL;
}

static const char *joined(struct facts *f, const char *const *words, int n)
{
    struct strbuf text;

    strbuf_init(&text, 4096); /* what has no room is left out */
    for (int i = 0; i < n; i++)
        if (strbuf_printf(&text, "%s%s", i ? ", " : "", words[i]) != RC_OK)
            break;
    const char *own = copy(f, text.data);
    strbuf_fini(&text);
    return own;
}

static void add_energy(struct facts *f, const struct front_node *n, bool rented)
{
    if (!n->local || rented)
        return;
    f->rate.milliwatts += n->milliwatts;
    f->rate.unmeasured += n->watts_are == NODE_WATTS_UNKNOWN;
}

static void take_node(const struct front_node *n, void *arg)
{
    const struct gathering *g = arg;
    struct facts *f = g->f;
    struct fleet_view life = {.pool = ""};
    const bool pooled = g->s->fleet && fleet_get(g->s->fleet, n->name, &life);
    const enum facts_mood mood = mood_of_node(n);
    struct facts_node *to = new_node(f, mood);

    add_energy(f, n, pooled && life.rented);
    if (!to)
        return;
    *to = (struct facts_node){.name = copy(f, n->name),
                              .provider = copy(f, pooled && life.rented ? life.provider : n->provider),
                              .pool = copy(f, life.pool),
                              .models = joined(f, n->models, n->n_models),
                              .state = n->draining                                       ? "draining"
                                       : mood == FACTS_BETWEEN && n->state == NODE_READY ? "held"
                                                                                         : node_state_name(n->state),
                              .reason = copy(f, n->reason),
                              .mood = mood,
                              .local = n->local,
                              .rented = pooled && life.rented,
                              .in_flight = n->in_flight,
                              .slots = n->slots,
                              .prices = n->prices,
                              .hour = life.price_hour,
                              .milliwatts = n->milliwatts,
                              .watts_are = n->watts_are,
                              .since_s = n->state_since.ns / NS_PER_S,
                              .requests = n->requests,
                              .failures = n->failures};
}

/* One that has no place in the node table: it is on its way, or its end is. */
static void take_absent(const struct fleet_view *v, void *arg)
{
    const struct gathering *g = arg;
    struct facts_node *to;

    if (front_has_node(g->s->front, v->name) || !(to = new_node(g->f, mood_of_life(v->life))))
        return;
    *to = (struct facts_node){.name = copy(g->f, v->name),
                              .provider = copy(g->f, v->provider),
                              .pool = copy(g->f, v->pool),
                              .models = "",
                              .state = life_state_name(v->life),
                              .reason = copy(g->f, v->reason),
                              .mood = mood_of_life(v->life),
                              .rented = v->rented,
                              .hour = v->price_hour,
                              .since_s = g->f->now.ns / NS_PER_S - v->since_ms / 1000};
}

static void gather_nodes(const struct gathering *g)
{
    struct facts *f = g->f;
    struct fleet_stats stats;

    f->nodes = arena_alloc(f->arena, FACTS_NODES_MAX * sizeof *f->nodes);
    front_nodes_each(g->s->front, take_node, (void *)(uintptr_t)g);
    if (g->s->fleet) {
        fleet_each(g->s->fleet, take_absent, (void *)(uintptr_t)g);
        fleet_stats(g->s->fleet, &stats);
        f->rate.rents.v = stats.hour.v;
    }
    const int64_t kwh_uusd = tariff_at(g->s->config->tariff, f->now.ns / NS_PER_S);
    f->rate.energy.v = tariff_energy_cost(f->rate.milliwatts * MJ_PER_MW_HOUR, kwh_uusd).v;
    if (g->s->month) {
        f->rate.standing = g->s->month->standing;
        f->rate.by_token = g->s->month->by_token;
    }
}

/* ---- the rest ------------------------------------------------------------------------------------------------------ */

static void take_route(const struct front_route *r, void *arg)
{
    struct facts *f = arg;

    if (f->n_routes == FACTS_ROUTES_MAX || (!r->served && r->demand.requests == 0))
        return;
    f->routes[f->n_routes] = *r;
    f->routes[f->n_routes++].model = copy(f, r->model);
}

static void gather_decisions(struct facts *f, const struct facts_sources *s, const char *request_id)
{
    f->decisions = arena_alloc(f->arena, FACTS_DECISIONS_MAX * sizeof *f->decisions);
    f->n_decisions = request_id ? front_decisions_of(s->front, request_id, f->decisions, FACTS_DECISIONS_MAX)
                                : front_decisions(s->front, f->decisions, FACTS_DECISIONS_MAX);
    f->decisions_kept = s->config->explain_keep;
}

static void gather_audit(struct facts_audit *to, const struct audit *a)
{
    to->on = a != NULL;
    if (!a)
        return;
    to->stats = audit_stats(a);
    to->head = audit_newest_head(a);
    audit_keys_fingerprint(audit_keys_of(a), to->fingerprint);
    audit_last_error(a, to->error, sizeof to->error);
}

void facts_gather(struct facts *f, const struct facts_sources *s, const char *request_id)
{
    const struct gathering g = {f, s};

    f->now = clock_wall(s->clock);
    f->version = SPILLWAY_VERSION;
    f->month = s->month;
    f->ready = front_is_ready(s->front, &f->why_not);
    f->draining = front_is_draining(s->front);
    f->totals = front_totals(s->front);
    gather_nodes(&g);
    f->routes = arena_alloc(f->arena, FACTS_ROUTES_MAX * sizeof *f->routes);
    front_routes_each(s->front, take_route, f);
    gather_decisions(f, s, request_id);
    gather_audit(&f->audit, s->audit);
}

void facts_take_budgets(struct facts *f, enum rc rc, const char *why, const struct budget_known *k, int n)
{
    if (rc != RC_OK) {
        f->budgets_why = copy(f, why ? why : "budgets cannot be asked at the moment");
        return;
    }
    f->n_budgets = n < FACTS_BUDGETS_MAX ? n : FACTS_BUDGETS_MAX;
    f->budgets = arena_alloc(f->arena, (size_t)f->n_budgets * sizeof *f->budgets + 1);
    for (int i = 0; i < f->n_budgets; i++) {
        const struct budget_limits l = {.hard = k[i].view.hard, .carry_max = k[i].rule->limits.carry_max};
        const struct budget_state *s = &k[i].view.state;
        f->budgets[i] = (struct facts_budget){.name = copy(f, k[i].name),
                                              .kind = k[i].rule->period.kind,
                                              .start_s = k[i].claim.start_s,
                                              .end_s = k[i].claim.end_s,
                                              .exhausted_s = budget_known_exhausted_at(&k[i], k[i].now_s),
                                              .soft = k[i].view.soft,
                                              .limit = budget_limit(&l, s),
                                              .spent = s->spent,
                                              .reserved = s->reserved,
                                              .available = budget_available(&l, s),
                                              .level = budget_level(&l, s, k[i].view.soft, (struct pusd){1})};
    }
}
