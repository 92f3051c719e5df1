/* Slots on nodes: looked for, taken, and given back to whoever waits for them. All of it is decided under the front's
 * lock. */
#include "scheduler/front/front_internal.h"

#include "base/text.h"

#define RANK_FAR         1000 /* behind every rank there is */
#define PATIENCE_MOST_US 1000000
#define BATCH_LEAVES     0.25 /* of all slots, to those who come meanwhile */

/* Not on the premises, and of no pool. */
static bool is_api(const struct node *n)
{
    return !n->config->local && !n->config->pool;
}

static bool has_room(const struct route_candidate *c)
{
    return c->serves_model && c->healthy && !c->draining && !c->tried && !c->unfit && !c->kept && !c->broken &&
           !c->cooling && c->wake_us <= 0 && (c->slots <= 0 || c->in_flight < c->slots);
}

static int64_t ttft_limit_us(const struct request *r)
{
    const struct config_aim *aim = &r->model->aim;
    return route_ttft_limit_us(aim->ttft_ms * 1000, (double)aim->ttft_per_1k_ms, aim->free_tokens, r->input_estimate);
}

int64_t slot_ttft_limit_us(const struct request *r)
{
    const bool promised = r->urgency.class == WAITING_INTERACTIVE && !trail_has_said(&r->trail);
    return promised ? ttft_limit_us(r) : 0;
}

/* Awake and ours, but full, or meant to run empty: whoever waits a little may have it. */
static bool is_awake(const struct route_candidate *c, const struct node *n)
{
    return c->serves_model && c->healthy && !n->draining && !n->leaving && !c->tried && !c->unfit && !c->kept &&
           !c->broken && !c->cooling && c->wake_us <= 0;
}

int64_t slot_patience_us_locked(const struct request *r)
{
    const int64_t limit_us = slot_ttft_limit_us(r), most_us = room_wait_most_us_locked(r) / 4;
    const int64_t us = limit_us && limit_us / 4 < PATIENCE_MOST_US ? limit_us / 4 : PATIENCE_MOST_US;
    return r->attempts > 0 || r->impatient ? 0 : us < most_us ? us : most_us;
}

/* Few full machines instead of many half empty ones (POLICIES.md, Power). Nobody is woken by a request while one of
 * ours that is awake, and is to get work, has a place for it; nor where all of them are full, before it has waited for
 * a little: mostly a place comes free sooner. Then one that was to run empty takes it, and only where there is none of
 * these either somebody is woken. Who is woken ahead of the need is the plan's business. */
static void let_sleepers_lie(const struct request *r, const int32_t *listed, struct route_candidate *c, int n)
{
    struct nodes *nodes = r->lane->front->nodes;
    const bool patient = r->looked_us < slot_patience_us_locked(r);
    bool room = false, awake = false, rested = false;
    for (int i = 0; i < n; i++) {
        const struct node *node = nodes_at(nodes, listed ? listed[i] : i);
        room = room || (has_room(&c[i]) && !is_api(node));
        awake = awake || (is_awake(&c[i], node) && !is_api(node));
    }
    for (int i = 0; i < n && !room && !patient; i++) {
        const struct node *node = nodes_at(nodes, listed ? listed[i] : i);
        if (node->resting && is_awake(&c[i], node)) {
            c[i].draining = false;
            rested = rested || has_room(&c[i]);
        }
    }
    for (int i = 0; i < n; i++)
        c[i].spared = c[i].wake_us > 0 && (room || rested || (awake && patient));
}

/* Among those that are worth a look. False: none of them can, and all are to be looked at, if only to say why. */
static bool choose_listed_locked(struct nodes *nodes, const struct nodes_need *need, struct explained_look look,
                                 struct route_decision *d, enum slot_look how)
{
    struct route_candidate candidates[SHORTLIST_MAX];
    struct route_decision few;
    int32_t listed[SHORTLIST_MAX];
    struct nodes_asked asked;
    int n = nodes_list_locked(nodes, need, look.request, &asked, listed, candidates);
    let_sleepers_lie(look.r, listed, candidates, n);
    nodes_choose_locked(nodes, &asked, listed, candidates, n, &few);
    if (few.chosen < 0 || candidates[few.chosen].wake_us > 0) /* one that runs empty goes before one that sleeps */
        return false;
    look.candidates = candidates;
    look.listed = listed;
    look.n = n;
    if (how == LOOK_FOR_GOOD)
        explained_decided_locked(&look, &few);
    *d = (struct route_decision){.chosen = listed[few.chosen], .model_known = true};
    for (int i = 0; i < nodes_count(nodes); i++)
        d->reasons[i] = ROUTE_NOT_LISTED;
    for (int i = 0; i < n; i++) {
        d->reasons[listed[i]] = few.reasons[i];
        d->terms[listed[i]] = few.terms[i];
    }
    return true;
}

static double asked_probability(const struct config_aim *aim)
{
    return (double)aim->probability_ppm / 1e6;
}

void slot_note_time_locked(struct request *r)
{
    r->looked_us = mono_since(r->lane->front->o.clock, r->arrived) / NS_PER_US;
}

/* Batch work has a deadline and no SLO. */
static struct route_slo slo_locked(const struct request *r)
{
    const struct config_aim *aim = &r->model->aim;
    if (r->urgency.class != WAITING_INTERACTIVE || (!aim->ttft_ms && !aim->tpot_ms))
        return (struct route_slo){0};
    return (struct route_slo){.ttft_us = ttft_limit_us(r),
                              .tpot_us = aim->tpot_ms * 1000,
                              .probability = slack_demand(&r->room->slack, asked_probability(aim)),
                              .sure = asked_probability(aim)};
}

/* A node may come that is not there yet: to be woken, or launched. */
static bool somebody_comes(const struct request *r)
{
    for (int i = 0; i < r->model->n_chain; i++) {
        const struct model *m = r->model->chain[i];
        if (model_may_step(r->model, m, r->who) && demand_comes(m) != FLEET_NOTHING_COMES)
            return true;
    }
    return false;
}

/* For the record. */
static struct record_who whom(const struct request *r)
{
    struct record_who w = {.interactive = r->urgency.class == WAITING_INTERACTIVE,
                           .probability = asked_probability(&r->model->aim)};
    text_put(w.id, w.id + sizeof w.id, r->id);
    text_put(w.asked, w.asked + sizeof w.asked, r->model->name);
    return w;
}

/* Who could break the site's limit in watts counts as full. Batch work waits for him rather than to cost money
 * elsewhere; whether anybody's wait is worth it, the room says. */
static void obey_watts_locked(const struct request *r, const struct route_request *q, struct route_candidate *c, int n)
{
    struct nodes *nodes = r->lane->front->nodes;
    const int64_t ceiling = nodes_ceiling_mw_locked(nodes);
    struct power_ask ask = {.wait_us = room_left_ms_locked(r) * 1000, .batch = r->urgency.class == WAITING_BATCH};
    bool admitted = false, waits = false;
    for (int i = 0; i < n; i++)
        ask.spills = ask.spills || (!q->local_only && is_api(nodes_at(nodes, i)) && c[i].serves_model && c[i].healthy &&
                                    !c[i].draining && !c[i].spared && !c[i].tried &&
                                    (c[i].slots == 0 || c[i].in_flight < c[i].slots));
    for (int i = 0; i < n; i++) {
        if (!c[i].serves_model || !c[i].local)
            continue;
        const enum power_verdict v = node_admit_locked(nodes_at(nodes, i), ceiling, &ask);
        c[i].no_watts = v != POWER_ADMIT;
        admitted = admitted || (v == POWER_ADMIT && (c[i].slots == 0 || c[i].in_flight < c[i].slots));
        waits = waits || v == POWER_QUEUE;
    }
    for (int i = 0; i < n && waits && !admitted && ask.batch; i++)
        c[i].spared = c[i].spared || is_api(nodes_at(nodes, i));
}

/* Batch work that has not begun is held (POLICIES.md, Latency): of nodes, until more are free than those who come
 * meanwhile may need, or it was said that it goes; of APIs, as long as there are machines, until its time is nearly
 * over; of those that sleep, in a dear hour. */
struct gate {
    bool nodes, apis, sleepers; /* shut */
};

static struct gate gate_locked(const struct request *r, const struct model *m)
{
    const struct room *room = r->room;
    struct nodes *nodes = r->lane->front->nodes;
    if (r->urgency.class != WAITING_BATCH || r->attempts > 0 || !room->paced ||
        room_until_ns_locked(r) / NS_PER_US <= room->pace.urgent_us)
        return (struct gate){.nodes = false};
    bool machines = demand_comes(m) != FLEET_NOTHING_COMES, open = room->pace.goes || room_presses_locked(r);
    int64_t slots = 0, free_slots = 0;
    for (int i = 0; i < nodes_count(nodes); i++) {
        const struct node *n = nodes_at(nodes, i);
        if (!node_is_there(n) || is_api(n) || !node_serves(n, m->name))
            continue;
        machines = true;
        if (n->state != NODE_READY || n->draining || n->leaving || n->resting)
            continue;
        const int have = n->config->slots ? n->config->slots : n->card.slots;
        open = open || have <= 0; /* it takes as many as come */
        slots += have;
        free_slots += have > n->in_flight ? have - n->in_flight : 0;
    }
    return (struct gate){.nodes = !open && (double)free_slots <= (double)slots * BATCH_LEAVES,
                         .apis = machines,
                         .sleepers = room->pace.holds};
}

/* What the request asks of a model of its chain, and of a node as such. */
static struct route_request asks_locked(const struct request *r, const struct model *m, uint32_t spread)
{
    const int64_t limit_us = slot_ttft_limit_us(r);
    return (struct route_request){
        .input_tokens = r->input_estimate,
        .output_tokens = request_estimate_output(&r->body),
        .local_only = model_stays_local(r->model, m, r->who) || budgeted_local_only(r),
        .bounded = r->charge_bounded,
        .charge_max = r->charge_max,
        .input_max = request_input_max(&r->body),
        .output_min = bound_output_min(r),
        .alone = r->survival.alone,
        .waited_us = limit_us ? r->looked_us : 0,
        .stands_back = route_stands_back(limit_us, r->looked_us, room_wait_most_us_locked(r)),
        .presses = room_presses_locked(r),
        .objective = (enum route_objective)r->model->aim.objective,
        .slo = slo_locked(r),
        .spread = spread,
    };
}

static struct nodes_need needs_locked(const struct request *r, const struct model *m)
{
    return (struct nodes_need){
        .model = m->name,
        .tried = r->tried | nodes_lacking_locked(r->lane->front->nodes, r->body.kind, m->name),
        .who = r,
        .said = trail_has_said(&r->trail),
        .by_ids = r->trail.ids_known && r->body.resumable,
        .by_text = r->trail.text_known,
        .numerics = r->numerics,
        .now_us = nodes_now_us(r->lane->front->nodes),
        .prefix = &r->prefix,
        .same_class = r->served && r->served != m,
    };
}

/* What speaks against nodes, or for them, and is not known of each alone. */
struct stakes {
    bool limited; /* the site, in watts */
    bool holds;   /* a node of ours is waited for */
    struct gate shut;
};

static struct stakes stakes_locked(const struct request *r, const struct model *m)
{
    return (struct stakes){.limited = nodes_site(r->lane->front->nodes)->cap_mw > 0,
                           .holds = demand_comes(m) == FLEET_HOLDS,
                           .shut = gate_locked(r, m)};
}

/* No candidate's rank or state depends on others than itself: those that are listed will do. */
static bool is_plain(const struct request *r, const struct stakes *x)
{
    return !x->limited && !x->holds && !x->shut.nodes && !x->shut.apis && !x->shut.sleepers &&
           !trail_has_said(&r->trail) && !r->survival.alone && !budgeted_prefers_local(r);
}

static void obey_stakes_locked(const struct request *r, const struct route_request *q, const struct stakes *x,
                               struct route_candidate *c, int n)
{
    const struct nodes *nodes = r->lane->front->nodes;
    for (int i = 0; i < n && budgeted_prefers_local(r); i++)
        c[i].rank += c[i].local ? 0 : RANK_FAR;
    for (int i = 0; i < n && r->moving.to; i++) /* it is known there already */
        c[i].rank += i == r->moving.to - 1 ? 0 : RANK_FAR;
    for (int i = 0; i < n && x->holds; i++)
        c[i].spared = c[i].spared || is_api(nodes_at(nodes, i));
    for (int i = 0; i < n && (x->shut.nodes || x->shut.apis || x->shut.sleepers); i++)
        c[i].kept = c[i].kept || (is_api(nodes_at(nodes, i)) ? x->shut.apis : x->shut.nodes) ||
                    (c[i].wake_us > 0 && x->shut.sleepers);
    if (x->limited)
        obey_watts_locked(r, q, c, n);
}

/* One model of the chain. */
static void look_at_model_locked(const struct request *r, const struct model *m, uint32_t spread,
                                 struct route_decision *d, enum slot_look how)
{
    struct nodes *nodes = r->lane->front->nodes;
    struct route_candidate candidates[ROUTE_CANDIDATES_MAX];
    const struct route_request q = asks_locked(r, m, spread);
    struct nodes_need need = needs_locked(r, m);
    struct record_who who;
    if (nodes_records(nodes))
        who = whom(r);
    need.whom = &who;
    struct explained_look look = {.r = r, .model = m, .request = &q};
    const struct stakes stakes = stakes_locked(r, m);
    if (is_plain(r, &stakes) && nodes_count(nodes) > SHORTLIST_MAX && choose_listed_locked(nodes, &need, look, d, how))
        return;
    struct nodes_asked asked;
    const int n = nodes_snapshot_locked(nodes, &need, &q, &asked, candidates);
    let_sleepers_lie(r, NULL, candidates, n);
    obey_stakes_locked(r, &q, &stakes, candidates, n);
    nodes_choose_locked(nodes, &asked, NULL, candidates, n, d);
    look.candidates = candidates;
    look.n = n;
    if (how == LOOK_FOR_GOOD)
        explained_decided_locked(&look, d);
}

/* Nobody is chosen in either; *d is to speak of both. */
static void add_decision(struct route_decision *d, const struct route_decision *more, int n_nodes)
{
    if (more->may_wait && (!d->may_wait || more->back_us < d->back_us))
        d->back_us = more->back_us;
    d->may_wait = d->may_wait || more->may_wait;
    d->busy = d->busy || more->busy;
    d->model_known = d->model_known || more->model_known;
    d->too_late = d->too_late && more->too_late;
    for (int i = 0; i < n_nodes; i++) {
        if (d->reasons[i] == ROUTE_OTHER_MODEL)
            d->reasons[i] = more->reasons[i];
    }
}

const struct model *slot_look_locked(const struct request *r, uint32_t spread, struct route_decision *d,
                                     enum slot_look how)
{
    const struct front *f = r->lane->front;
    const struct model *asked = r->model;
    int64_t waited_ms = asked->n_chain > 1 ? mono_since(f->o.clock, r->arrived) / NS_PER_MS : 0;
    int n_nodes = nodes_count(f->nodes);
    bool first = true;
    for (int i = 0; i < asked->n_chain; i++) {
        struct route_decision one;
        if (!model_may_step(asked, asked->chain[i], r->who))
            continue;
        look_at_model_locked(r, asked->chain[i], spread, &one, how);
        enum fallback_step step = fallback_judge(&asked->rule, &one, waited_ms);
        if (first || step == FALLBACK_TAKE)
            *d = one;
        else
            add_decision(d, &one, n_nodes);
        first = false;
        if (step != FALLBACK_NEXT)
            return step == FALLBACK_TAKE ? asked->chain[i] : NULL;
        if (how == LOOK_FOR_GOOD)
            explained_steps_on_locked(r);
    }
    SPW_ASSERT(!first); /* who may use nobody of the chain was refused at the door */
    return NULL;
}

void slot_take_locked(struct request *r, struct node *node, const struct model *as)
{
    struct router_leg known;
    const struct router_work work = {
        .prompt = r->input_estimate + r->trail.n_ids,
        .cached = affinity_tokens(&r->prefix, node->index, node->target.generation),
        .output = request_estimate_output(&r->body),
    };
    node_sent_locked(node, as->name, &work, &known);
    node->requests++;
    struct node_spec *before = r->slot.spec;
    r->slot = (struct slot){.node = node,
                            .position = node->in_flight,
                            .generation = node->target.generation,
                            .card = node->card,
                            .spec = node_spec_ref(node->spec),
                            .breaker = node_begin_locked(node),
                            .known = known,
                            .word = {.outcome = BREAKER_NO_WORD},
                            .model = as,
                            .batch_of = r->urgency.class == WAITING_BATCH && !is_api(node) ? r->room : NULL};
    if (r->slot.batch_of)
        r->slot.batch_of->batch_in_flight++;
    node_spec_unref(before);
    if (r->attempts == 0)
        retry_count_request_locked(node->table);
    demand_begun_locked(r);
    if (r->survival.alone)
        alone_take_locked(r);
}

/* There is no room to wait in, so nothing is waited for that could be had now. */
static bool wakes_instead_locked(struct request *r, struct route_decision *d)
{
    struct front *f = r->lane->front;
    struct route_decision now;
    if (slot_patience_us_locked(r) <= 0 || !nodes_any_rests_locked(f->nodes))
        return false;
    r->impatient = true;
    const struct model *as = slot_look_locked(r, f->spread++, &now, LOOK_FOR_GOOD);
    if (now.chosen < 0)
        return false;
    *d = now;
    slot_take_locked(r, nodes_at(f->nodes, d->chosen), as);
    return true;
}

enum found slot_find(struct request *r, struct route_decision *d, enum waiting_verdict *v)
{
    struct front *f = r->lane->front;
    enum found found = FOUND_NOBODY;
    front_lock(f);
    uint64_t mark = explain_next_locked(f->explain);
    demand_came(r);
    slot_note_time_locked(r);
    const struct model *as = slot_look_locked(r, f->spread++, d, LOOK_FOR_GOOD);
    /* Nobody overtakes those who wait already, unless he comes from a node, or what is free suits none of them. */
    if (d->chosen >= 0 && r->attempts == 0 && waiting_count(&r->room->waiting) > 0) {
        explain_forget_locked(f->explain, mark);
        rooms_grant_locked(f);
        as = slot_look_locked(r, f->spread++, d, LOOK_FOR_GOOD);
    }
    if (d->chosen < 0 && !d->may_wait && somebody_comes(r)) {
        d->may_wait = true;
        d->back_us = 0;
    }
    if (d->chosen >= 0) {
        slot_take_locked(r, nodes_at(f->nodes, d->chosen), as);
        waiting_passed(&r->room->waiting, r->urgency.class, clock_now(f->o.clock).ns);
        found = FOUND_SLOT;
        if (r->survival.alone) /* it may have kept another node until now */
            rooms_grant_locked(f);
    } else if (d->may_wait && d->back_us / 1000 > room_left_ms_locked(r)) {
        found = FOUND_TOO_LATE;
    } else if (d->may_wait) {
        *v = room_enter_locked(r);
        found = *v == WAITING_IN ? FOUND_ROOM : FOUND_NO_ROOM;
    }
    if (found == FOUND_NO_ROOM && wakes_instead_locked(r, d))
        found = FOUND_SLOT;
    explained_found_locked(r, found, d, found == FOUND_NO_ROOM ? *v : WAITING_IN);
    front_unlock_on(r->lane);
    if (found == FOUND_ROOM)
        room_entered(r);
    return found;
}

int64_t slot_back_us(struct request *r, struct route_decision *d)
{
    struct front *f = r->lane->front;
    front_lock(f);
    slot_note_time_locked(r);
    slot_look_locked(r, 0, d, LOOK_ONLY);
    front_unlock_on(r->lane);
    return d->chosen < 0 ? d->back_us : 0;
}

/* The client's own SLO: from its arrival. */
static void note_slo_locked(struct request *r)
{
    const int64_t limit_us = ttft_limit_us(r);
    if (r->urgency.class != WAITING_INTERACTIVE || !limit_us || !r->leg.streamed)
        return;
    const bool in_time = mono_since(r->lane->front->o.clock, r->arrived) / NS_PER_US <= limit_us;
    slack_note(&r->room->slack, asked_probability(&r->model->aim), in_time);
    demand_slo(r, in_time);
}

/* The first token of an answer that is streamed says how long its prompt took; a whole one's bytes come at the end. */
void slot_spoke(struct request *r)
{
    struct front *f = r->lane->front;
    struct node *node = r->slot.node;
    const int64_t took_us = mono_since(f->o.clock, r->leg.started) / NS_PER_US;
    bool news = false;
    r->leg.first_token = r->leg.heard;
    front_lock(f);
    node_heard_locked(node, &r->slot.known, r->leg.streamed ? (double)took_us : 0);
    if (r->leg.said_before == 0)
        note_slo_locked(r);
    if (r->slot.breaker.trial || r->config->breaker_slow_ms)
        news = node_spoke_locked(node, &r->slot.breaker, took_us);
    rooms_grant_locked(f); /* its queue of prompts is shorter */
    front_unlock_on(r->lane);
    if (news)
        node_tell(node);
}

/* Between its first token and its last. */
static double tpot_us(const struct request *r)
{
    const int64_t tokens = r->leg.to_engine ? r->trail.n_ids - r->leg.ids_before : r->stream.content_chunks;
    const int64_t ns = r->leg.token.ns - r->leg.first_token.ns;
    return r->leg.streamed && r->leg.first_token.ns && tokens > 1 && ns > 0 ? (double)ns / 1000.0 / (double)(tokens - 1)
                                                                            : 0;
}

int slot_return(struct request *r, enum slot_use use)
{
    struct front *f = r->lane->front;
    struct node *node = r->slot.node;
    SPW_ASSERT(node);
    front_lock(f);
    int together = node->in_flight;
    SPW_ASSERT(together > 0);
    node_left_locked(node, &r->slot.known, use == SLOT_UNUSED ? 0 : tpot_us(r));
    node->requests -= use == SLOT_UNUSED;
    if (use == SLOT_ANSWERED) {
        room_note_answer_locked(r);
        node_has_locked(node, r->body.kind);
    }
    bool news = node_end_locked(node, &r->slot.breaker, &r->slot.word);
    r->slot.node = NULL;
    if (r->slot.batch_of)
        r->slot.batch_of->batch_in_flight--;
    r->slot.batch_of = NULL;
    alone_release_locked(r);
    rooms_grant_locked(f);
    front_unlock_on(r->lane);
    if (news)
        node_tell(node);
    return together;
}
