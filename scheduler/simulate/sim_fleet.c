/* The nodes' life, what the markets do to them, and what all of it costs.
 *
 *   GONE -sim_launch-> BOOTING -> READY -sim_drain-> DRAINING -sim_terminate-> GONE        (rented machines)
 *   ASLEEP -sim_wake-> WAKING -> READY -sim_drain-> DRAINING -sim_sleep-> FALLING_ASLEEP -> ASLEEP    (own machines)
 * A pre-emption makes any rented node DRAINING and leaving, and GONE when its notice is over; a failure makes a rented
 * one GONE
 * at once, an own one REPAIR, then READY. */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

static const struct sim_type *type_of(const struct sim *x, const struct sim_node *n)
{
    return &x->s->types[x->s->offers[n->offer].type];
}

static bool own(const struct sim *x, const struct sim_node *n)
{
    return x->s->offers[n->offer].market == SCALE_ON_PREM;
}

void sim_reschedule(struct sim *x, int32_t node)
{
    const struct sim_node *n = &x->nodes[node];
    int64_t at = node_model_next(&n->m);
    if (n->life_us < at)
        at = n->life_us;
    if (n->fails_us < at)
        at = n->fails_us;
    event_queue_set(&x->queue, node, at);
}

/* --- who accepts
 * ------------------------------------------------------------------------------------------------------ */

void sim_set_accepts(struct sim *x, int32_t node, bool accepts)
{
    struct sim_node *n = &x->nodes[node];
    struct sim_offer_state *o = &x->offers[n->offer];
    if (n->accepts == accepts)
        return;
    n->accepts = accepts;
    n->empties_us = x->now_us;
    if (accepts) {
        if (o->n_accepting == o->cap_accepting) {
            o->cap_accepting = o->cap_accepting ? 2 * o->cap_accepting : 16;
            o->accepting = spw_realloc(o->accepting, (size_t)o->cap_accepting * sizeof(*o->accepting));
        }
        n->accept_at = o->n_accepting;
        o->accepting[o->n_accepting++] = node;
    } else {
        const int32_t last = o->accepting[--o->n_accepting];
        o->accepting[n->accept_at] = last;
        x->nodes[last].accept_at = n->accept_at;
    }
    sim_route_accepts(x, node);
}

/* --- money and energy
 * --------------------------------------------------------------------------------------------------- */

static bool alive(enum sim_state s)
{
    return s != SIM_GONE && s != SIM_ASLEEP && s != SIM_REPAIR;
}

/* Its rent and its energy up to now. */
static void bill_node(struct sim *x, struct sim_node *n)
{
    struct sim_offer_state *o = &x->offers[n->offer];
    const int64_t us = x->now_us - n->billed_us;
    if (!own(x, n))
        o->rent += (__int128)o->price.v * us;
    if (alive(n->state))
        o->node_us += us;
    n->billed_us = x->now_us;
    node_model_pass(&n->m, x->now_us);
    o->mj += n->m.mj - n->flushed_mj;
    n->flushed_mj = n->m.mj;
}

/* What was drawn since the last time is paid by the tariff that held. */
static void pay_energy(struct sim *x, int32_t offer)
{
    struct sim_offer_state *o = &x->offers[offer];
    const int32_t site = x->s->offers[offer].site;
    const double mj = floor(o->mj);
    o->mj -= mj;
    o->mj_total += mj;
    if (site < 0)
        return;
    const struct sim_site *s = &x->s->sites[site];
    const double overhead = s->overhead > 0 ? s->overhead : 1;
    pusd_sum_add(&o->bill.energy, tariff_energy_cost((int64_t)(mj * overhead), x->site_uusd[site]));
}

void sim_bill_all(struct sim *x)
{
    for (int32_t i = 0; i < x->n_nodes; i++)
        if (x->nodes[i].state != SIM_GONE)
            bill_node(x, &x->nodes[i]);
    for (int32_t i = 0; i < x->s->n_offers; i++)
        pay_energy(x, i);
}

static void bill_offer(struct sim *x, int32_t offer)
{
    for (int32_t i = 0; i < x->n_nodes; i++)
        if (x->nodes[i].state != SIM_GONE && x->nodes[i].offer == offer)
            bill_node(x, &x->nodes[i]);
    pay_energy(x, offer);
}

void sim_site_event(struct sim *x, int32_t site)
{
    const struct sim_site *s = &x->s->sites[site];
    const int64_t at_s = x->s->start_unix_s + x->now_us / SIM_US_PER_S;
    for (int32_t i = 0; i < x->s->n_offers; i++)
        if (x->s->offers[i].site == site && x->site_known)
            bill_offer(x, i);
    x->site_uusd[site] = tariff_at(s->tariff, at_s);
    router_tariff(x->router, site, x->site_uusd[site]);
    const int64_t until_s = tariff_until(s->tariff, at_s);
    const bool far = until_s - x->s->start_unix_s > INT64_MAX / (4 * SIM_US_PER_S);
    event_queue_set(&x->queue, x->at_sites + site, far ? EVENT_NEVER : (until_s - x->s->start_unix_s) * SIM_US_PER_S);
}

/* --- a node's states
 * --------------------------------------------------------------------------------------------------- */

static void count(struct sim *x, const struct sim_node *n, int by)
{
    struct sim_offer_state *o = &x->offers[n->offer];
    if (n->state == SIM_ASLEEP)
        o->asleep += by;
    else if (n->state == SIM_REPAIR)
        o->broken += by;
    else if (n->state != SIM_GONE) {
        o->alive += by;
        x->n_alive += by;
        if (n->state == SIM_BOOTING || n->state == SIM_WAKING)
            o->booting += by;
    }
    if (n->leaving && n->state != SIM_GONE)
        o->leaving += by;
}

/* The one place where states change: what was until now is billed first. */
static void enter(struct sim *x, int32_t node, enum sim_state state, int64_t for_us)
{
    struct sim_node *n = &x->nodes[node];
    bill_node(x, n);
    count(x, n, -1);
    n->state = state;
    if (state == SIM_GONE)
        n->leaving = false;
    count(x, n, 1);
    n->life_us = for_us == EVENT_NEVER ? EVENT_NEVER : x->now_us + for_us;
    if (x->n_alive > x->r->nodes_peak)
        x->r->nodes_peak = x->n_alive;
    sim_reschedule(x, node);
    sim_power_changed(x, node);
}

static void draws(struct sim *x, struct sim_node *n, int64_t mw)
{
    node_model_pass(&n->m, x->now_us);
    n->m.idle_mw = (float)mw;
}

static void becomes_ready(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const struct sim_type *t = type_of(x, n);
    enter(x, node, SIM_READY, EVENT_NEVER);
    draws(x, n, t->levels.of[POWER_ACTIVE].idle_mw);
    if (t->mtbf_h > 0)
        n->fails_us = x->now_us + (int64_t)(-log(sim_random_unit(&x->random)) * t->mtbf_h * (double)SIM_US_PER_HOUR);
    n->idle_us = x->now_us;
    x->models[sim_model_of(x, node)].ready++;
    sim_set_accepts(x, node, true);
    sim_reschedule(x, node);
    sim_serve_waiting(x, sim_model_of(x, node));
}

static void stops_being_ready(struct sim *x, int32_t node)
{
    if (x->nodes[node].state == SIM_READY)
        x->models[sim_model_of(x, node)].ready--;
    sim_set_accepts(x, node, false);
}

int32_t sim_launch(struct sim *x, int32_t offer, enum sim_state state)
{
    const struct sim_offer *o = &x->s->offers[offer];
    const struct node_spec *spec = &x->specs[o->type];
    if (!x->n_free_nodes && x->n_nodes == x->nodes_max)
        return -1;
    const int32_t node = x->n_free_nodes ? x->free_nodes[--x->n_free_nodes] : x->n_nodes++;
    struct sim_node *n = &x->nodes[node];
    struct node_entry *heap = n->m.heap;
    const int32_t cap = n->heap_cap > spec->sequences ? n->heap_cap : spec->sequences;
    if (cap > n->heap_cap)
        heap = spw_realloc(heap, (size_t)cap * sizeof(*heap));
    *n = (struct sim_node){.offer = offer,
                           .slots = x->offers[offer].slots,
                           .state = SIM_GONE,
                           .life_us = EVENT_NEVER,
                           .fails_us = EVENT_NEVER,
                           .heap_cap = cap,
                           .launched_us = x->now_us,
                           .billed_us = x->now_us,
                           .asleep_in = POWER_SLEEP};
    node_model_init(&n->m, spec, heap, x->now_us);
    const struct power_levels *l = &x->s->types[o->type].levels;
    sim_route_came(x, node);
    if (state == SIM_BOOTING) {
        x->offers[offer].bill.launches++;
        enter(x, node, SIM_BOOTING, o->boot_us);
    } else if (state == SIM_ASLEEP) {
        enter(x, node, SIM_ASLEEP, EVENT_NEVER);
        n->m.idle_mw = (float)l->of[l->of[POWER_SLEEP].allowed ? POWER_SLEEP : POWER_ACTIVE].idle_mw;
    } else {
        becomes_ready(x, node);
    }
    return node;
}

void sim_wake(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const struct power_levels *l = &type_of(x, n)->levels;
    SPW_ASSERT(n->state == SIM_ASLEEP);
    x->offers[n->offer].bill.wakes++;
    const int64_t us = power_move_us(l, n->asleep_in, POWER_ACTIVE);
    const int64_t mw = power_move_mw(l, n->asleep_in, POWER_ACTIVE, 0);
    enter(x, node, SIM_WAKING, us > 0 ? us : 1);
    draws(x, n, mw);
}

void sim_sleep(struct sim *x, int32_t node, enum power_state into)
{
    struct sim_node *n = &x->nodes[node];
    const struct power_levels *l = &type_of(x, n)->levels;
    SPW_ASSERT(!node_model_in_flight(&n->m));
    stops_being_ready(x, node);
    n->from = n->state == SIM_ASLEEP ? n->asleep_in : POWER_ACTIVE;
    n->asleep_in = into;
    n->fails_us = EVENT_NEVER;
    const int64_t us = power_move_us(l, n->from, into), mw = power_move_mw(l, n->from, into, 0);
    enter(x, node, SIM_FALLING_ASLEEP, us > 0 ? us : 1);
    draws(x, n, mw);
}

void sim_drain(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    if (n->state != SIM_READY)
        return;
    stops_being_ready(x, node);
    enter(x, node, SIM_DRAINING, EVENT_NEVER);
    n->drain_us = x->now_us;
}

void sim_undrain(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    if (n->state != SIM_DRAINING || n->leaving)
        return;
    enter(x, node, SIM_READY, EVENT_NEVER);
    x->models[sim_model_of(x, node)].ready++;
    sim_set_accepts(x, node, true);
    sim_serve_waiting(x, sim_model_of(x, node));
}

static void gone(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const struct sim_offer *o = &x->s->offers[n->offer];
    struct sim_offer_state *state = &x->offers[n->offer];
    const int64_t alive_us = x->now_us - n->launched_us, least = (int64_t)o->billing_min_s * SIM_US_PER_S;
    stops_being_ready(x, node);
    enter(x, node, SIM_GONE, EVENT_NEVER);
    if (!own(x, n) && alive_us < least)
        state->rent += (__int128)state->price.v * (least - alive_us);
    state->bill.busy_hours += (double)n->m.busy_us / (double)SIM_US_PER_HOUR;
    state->bill.batch_hours += n->m.batch_us / (double)SIM_US_PER_HOUR;
    n->fails_us = EVENT_NEVER;
    sim_reschedule(x, node);
    sim_drop_all(x, node);
    sim_route_gone(x, node);
    sim_reschedule(x, node);
    x->free_nodes[x->n_free_nodes++] = node;
}

void sim_terminate(struct sim *x, int32_t node)
{
    if (own(x, &x->nodes[node]))
        return;
    gone(x, node);
}

static void fails(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    x->offers[n->offer].bill.failures++;
    n->fails_us = EVENT_NEVER;
    if (!own(x, n)) {
        gone(x, node);
        return;
    }
    stops_being_ready(x, node);
    enter(x, node, SIM_REPAIR, type_of(x, n)->repair_us > 0 ? type_of(x, n)->repair_us : 1);
    sim_drop_all(x, node);
    draws(x, n, 0);
    sim_reschedule(x, node);
}

void sim_emptied(struct sim *x, int32_t node)
{
    x->nodes[node].idle_us = x->now_us;
}

void sim_life_event(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    if (n->fails_us <= x->now_us) {
        fails(x, node);
        return;
    }
    if (n->leaving) {
        gone(x, node);
        return;
    }
    switch (n->state) {
    case SIM_BOOTING:
    case SIM_WAKING:
    case SIM_REPAIR: becomes_ready(x, node); break;
    case SIM_FALLING_ASLEEP:
        enter(x, node, SIM_ASLEEP, EVENT_NEVER);
        draws(x, n, type_of(x, n)->levels.of[n->asleep_in].idle_mw);
        break;
    default: SPW_ASSERT(!"a state that ends by itself");
    }
}

/* --- markets
 * ----------------------------------------------------------------------------------------------------------- */

/* Which of an offer's nodes is taken back: chance says. */
static int32_t victim(struct sim *x, int32_t offer)
{
    int32_t seen = 0, chosen = -1;
    for (int32_t i = 0; i < x->n_nodes; i++) {
        const struct sim_node *n = &x->nodes[i];
        if (n->offer != offer || !alive(n->state) || n->leaving)
            continue;
        if (sim_random(&x->random) % (uint64_t)++seen == 0)
            chosen = i;
    }
    return chosen;
}

static void preempt(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const int64_t notice = x->s->offers[n->offer].notice_us;
    x->offers[n->offer].bill.preemptions++;
    if (notice <= 0) {
        gone(x, node);
        return;
    }
    stops_being_ready(x, node);
    enter(x, node, SIM_DRAINING, notice);
    n->leaving = true;
    n->drain_us = x->now_us;
    x->offers[n->offer].leaving++;
    sim_reschedule(x, node);
}

void sim_offer_event(struct sim *x, int32_t offer)
{
    const struct sim_offer *o = &x->s->offers[offer];
    struct sim_offer_state *s = &x->offers[offer];
    int64_t next = EVENT_NEVER, until = EVENT_NEVER;
    struct pusd price = o->price_hour;
    if (o->price_hours.n) {
        price.v = sim_steps_at(&o->price_hours, x->now_us, &until);
        next = until;
    }
    if (price.v != s->price.v && x->now_us > 0)
        bill_offer(x, offer);
    s->price = price;
    s->available = o->launch_max;
    if (o->available.n) {
        const int64_t n = sim_steps_at(&o->available, x->now_us, &until);
        s->available = n < o->launch_max ? (int32_t)n : o->launch_max;
        next = until < next ? until : next;
    }
    event_queue_set(&x->queue, x->at_offers + offer, next);
    while (o->market == SCALE_SPOT && s->alive - s->leaving > s->available) {
        const int32_t node = victim(x, offer);
        if (node < 0)
            break;
        preempt(x, node);
    }
    if (s->alive >= s->available)
        s->launchable_since_us = -1;
    else if (s->launchable_since_us < 0)
        s->launchable_since_us = x->now_us;
}

/* --- the start
 * ----------------------------------------------------------------------------------------------------------- */

/* In eco everything takes longer by the same factor. */
static void spec_init(struct node_spec *spec, const struct sim_type *t, enum power_state state)
{
    float *mw = spw_calloc((size_t)t->sequences_max + 1, sizeof(*mw));
    const double speed = state == POWER_ECO && t->levels.of[POWER_ECO].speed > 0 ? t->levels.of[POWER_ECO].speed : 1;
    for (int32_t i = 0; i <= t->sequences_max; i++)
        mw[i] = (float)power_draw_mw(&t->levels, state, i);
    const double prefill = state == POWER_ECO ? mw[t->sequences_max] : (double)t->prefill_mw;
    float *steps = t->step_us ? spw_calloc((size_t)t->sequences_max + 1, sizeof(*steps)) : NULL;
    for (int32_t i = 0; steps && i <= t->sequences_max; i++)
        steps[i] = (float)(t->step_us[i] / speed);
    const int32_t chunk = t->chunk_tokens ? t->chunk_tokens : t->detail.chunk;
    *spec = (struct node_spec){
        .detail = {.decode_us_per_ctx_tok = t->detail.decode_us_per_ctx_tok / speed,
                   .mixed_us_per_tok = t->detail.mixed_us_per_tok / speed,
                   .mixed_chunk = t->detail.mixed_chunk},
        .step_us = steps,
        .curve = {.base_us = t->curve.base_us,
                  .prefill_us_per_tok = t->curve.prefill_us_per_tok / speed,
                  .decode_us_base = t->curve.decode_us_base / speed,
                  .decode_us_per_seq = t->curve.decode_us_per_seq / speed},
        .chunk = chunk ? chunk : NODE_CHUNK_TOKENS,
        .sequences = t->sequences_max,
        .kv_tokens = t->kv_tokens,
        .mw = mw,
        .prefill_mw = (float)prefill,
    };
}

void sim_fleet_init(struct sim *x)
{
    x->specs = spw_calloc((size_t)x->s->n_types + 1, sizeof(*x->specs));
    x->eco_specs = spw_calloc((size_t)x->s->n_types + 1, sizeof(*x->eco_specs));
    for (int32_t i = 0; i < x->s->n_types; i++) {
        spec_init(&x->specs[i], &x->s->types[i], POWER_ACTIVE);
        spec_init(&x->eco_specs[i], &x->s->types[i], POWER_ECO);
    }
    for (int32_t i = 0; i < x->s->n_sites; i++)
        x->powered |= x->s->sites[i].powered;
    x->offers = spw_calloc((size_t)x->s->n_offers + 1, sizeof(*x->offers));
    x->nodes = spw_calloc((size_t)x->nodes_max + 1, sizeof(*x->nodes));
    x->free_nodes = spw_calloc((size_t)x->nodes_max + 1, sizeof(*x->free_nodes));
    for (int32_t i = 0; i < x->s->n_offers; i++) {
        const struct sim_offer *o = &x->s->offers[i];
        struct sim_offer_state *s = &x->offers[i];
        const struct sim_type *t = &x->s->types[o->type];
        s->launchable_since_us = s->known = -1;
        const struct marginal_facts facts = sim_marginal(x, i);
        s->rates = marginal_rates(&facts, &t->curve);
        s->slots = t->slots ? t->slots : t->sequences_max;
        s->bill = (struct sim_bill){
            .provider = o->provider, .zone = o->zone, .what = x->s->types[o->type].name, .market = o->market};
    }
    for (int32_t i = 0; i < x->s->n_sites; i++)
        sim_site_event(x, i);
    x->site_known = true;
}

/* After the offers' first events: what is there at the start. */
void sim_fleet_start(struct sim *x)
{
    for (int32_t i = 0; i < x->s->n_offers; i++) {
        const struct sim_offer *o = &x->s->offers[i];
        sim_offer_event(x, i);
        for (int32_t k = 0; k < o->running; k++)
            (void)sim_launch(x, i, SIM_READY);
        for (int32_t k = 0; k < o->asleep; k++)
            (void)sim_launch(x, i, SIM_ASLEEP);
        sim_offer_event(x, i); /* more than the market has: they are taken back at once */
    }
}

void sim_fleet_fini(struct sim *x)
{
    for (int32_t i = 0; x->specs && i < x->s->n_types; i++) {
        free((void *)(uintptr_t)x->specs[i].mw);
        free((void *)(uintptr_t)x->eco_specs[i].mw);
        free((void *)(uintptr_t)x->specs[i].step_us);
        free((void *)(uintptr_t)x->eco_specs[i].step_us);
    }
    for (int32_t i = 0; x->nodes && i < x->nodes_max; i++)
        free(x->nodes[i].m.heap);
    for (int32_t i = 0; x->offers && i < x->s->n_offers; i++)
        free(x->offers[i].accepting);
    free(x->specs);
    free(x->eco_specs);
    free(x->offers);
    free(x->nodes);
    free(x->free_nodes);
}
