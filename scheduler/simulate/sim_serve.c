/* A request's way: it comes, is routed or waits, computes, ends; or its node dies and it goes on elsewhere. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

#define MEAN_OVER 1000.0 /* requests */

/* --- memory: grown by doubling, reused, never asked for per request -------------------------------------------------
 * */

static int32_t live_new(struct sim *x)
{
    if (x->live_free < 0) {
        const int32_t cap = x->live_cap ? 2 * x->live_cap : 4096;
        x->live = spw_realloc(x->live, (size_t)cap * sizeof(*x->live));
        x->jobs = spw_realloc(x->jobs, (size_t)cap * sizeof(*x->jobs));
        for (int32_t i = cap - 1; i >= x->live_cap; i--) {
            x->live[i].next_free = x->live_free;
            x->live_free = i;
        }
        x->live_cap = cap;
    }
    const int32_t i = x->live_free;
    x->live_free = x->live[i].next_free;
    x->n_live++;
    return i;
}

static void live_end(struct sim *x, int32_t i)
{
    x->live[i].next_free = x->live_free;
    x->live_free = i;
    x->n_live--;
}

static struct sim_waiter *waiter_at(const struct sim *x, int32_t i)
{
    return &x->waiters[i / SIM_WAITER_CHUNK][i % SIM_WAITER_CHUNK];
}

static struct sim_waiter *waiter_new(struct sim *x)
{
    if (x->waiter_free < 0) { /* a new chunk: waiters stay where they are, the rooms point to them */
        const int32_t first = x->n_chunks * SIM_WAITER_CHUNK;
        x->waiters = spw_realloc(x->waiters, (size_t)(x->n_chunks + 1) * sizeof(struct sim_waiter *));
        x->waiters[x->n_chunks++] = spw_calloc(SIM_WAITER_CHUNK, sizeof(struct sim_waiter));
        x->waiter_next = spw_realloc(x->waiter_next, (size_t)x->n_chunks * SIM_WAITER_CHUNK * sizeof(int32_t));
        for (int32_t i = first + SIM_WAITER_CHUNK - 1; i >= first; i--) {
            x->waiter_next[i] = x->waiter_free;
            x->waiter_free = i;
        }
    }
    const int32_t i = x->waiter_free;
    x->waiter_free = x->waiter_next[i];
    struct sim_waiter *w = waiter_at(x, i);
    *w = (struct sim_waiter){.self = i};
    return w;
}

static void waiter_end(struct sim *x, const struct sim_waiter *w)
{
    x->waiter_next[w->self] = x->waiter_free;
    x->waiter_free = w->self;
}

static void team_known(struct sim *x, uint32_t team)
{
    if (team >= x->team_cap) {
        const uint32_t old = x->team_cap;
        uint32_t cap = old ? old : 16;
        while (cap <= team)
            cap *= 2;
        double *usage = spw_calloc((size_t)x->r->n_bills * cap + 1, sizeof(*usage));
        for (int32_t b = 0; b < x->r->n_bills && old; b++)
            memcpy(usage + (size_t)b * cap, x->usage + (size_t)b * old, old * sizeof(*usage));
        free(x->usage);
        x->usage = usage;
        x->teams = spw_realloc(x->teams, cap * sizeof(*x->teams));
        memset(x->teams + old, 0, (cap - old) * sizeof(*x->teams));
        char(*names)[16] = spw_calloc(cap, sizeof(*names));
        for (uint32_t t = 0; t < cap; t++)
            snprintf(names[t], sizeof(names[t]), "t%u", t);
        /* Rooms borrow names while somebody waits: the old ones stay until the end. */
        /* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers to names are kept */
        x->old_names = spw_realloc(x->old_names, (size_t)(x->n_old_names + 1) * sizeof(*x->old_names));
        x->old_names[x->n_old_names++] = x->team_names;
        x->team_names = names;
        x->team_cap = cap;
    }
    if (team >= x->n_teams)
        x->n_teams = team + 1;
}

/* --- ends
 * ------------------------------------------------------------------------------------------------------------- */

static struct sim_class_result *class_of(struct sim *x, const struct sim_live *l)
{
    return &x->models[l->asked].out->of[l->class];
}

double sim_first_limit_us(const struct sim_slo *s, int32_t prompt)
{
    const int64_t limit = route_ttft_limit_us(s->ttft_us, s->ttft_us_per_tok, s->ttft_free_tokens, prompt);
    return limit ? (double)limit : INFINITY;
}

static bool in_slo(const struct sim_slo *s, const struct sim_live *l, int64_t ttft, double tpot)
{
    return (double)ttft <= sim_first_limit_us(s, l->prompt) && (!s->tpot_us || tpot <= (double)s->tpot_us);
}

/* The first token is out, or known to come, at first_us: autoscaling and routing are told whether that was in
 * time. */
static void first_token(struct sim *x, struct sim_live *l, int64_t first_us)
{
    struct sim_model_state *m = &x->models[l->model];
    l->first_us = first_us;
    if (l->class != WAITING_INTERACTIVE)
        return;
    const struct sim_slo *slo = &x->s->models[l->model].slo;
    const bool in_time = (double)(first_us - l->at_us) <= sim_first_limit_us(slo, l->prompt);
    m->in_time += in_time;
    m->late += !in_time;
    if (slo->ttft_us) /* else nothing was promised that could be kept */
        slack_note(&m->slack, sim_asked(slo), in_time);
}

/* The answer is out at end_us. bill: whose node said its last token. */
static void account(struct sim *x, const struct sim_live *l, int64_t end_us, int32_t bill)
{
    struct sim_bill *b = bill < x->s->n_offers ? &x->offers[bill].bill : &x->api_bills[bill - x->s->n_offers];
    struct sim_team_result *t = &x->teams[l->team];
    b->requests++;
    t->requests++;
    t->prompt_tokens += l->prompt;
    t->output_tokens += l->output;
    x->r->requests_done++;
    if (end_us > x->r->end_us)
        x->r->end_us = end_us;
    if (!l->measured)
        return;
    struct sim_class_result *c = class_of(x, l);
    const int64_t ttft = l->first_us - l->at_us;
    const double tpot = l->output > 1 ? (double)(end_us - l->first_us) / (l->output - 1) : 0;
    c->done++;
    c->prompt_tokens += l->prompt;
    c->output_tokens += l->output;
    hist_add(&c->ttft_us, ttft);
    hist_add(&c->e2e_us, end_us - l->at_us);
    if (l->output > 1)
        hist_add(&c->tpot_us, (int64_t)(tpot + 0.5));
    if (l->class == WAITING_BATCH ? end_us <= l->due_us : in_slo(&x->s->models[l->asked].slo, l, ttft, tpot))
        c->in_slo++;
    if (b->api)
        c->by_api++;
    else if (b->market == SCALE_SPOT)
        c->by_spot++;
    else if (b->market == SCALE_ON_DEMAND)
        c->by_on_demand++;
    else
        c->by_on_prem++;
}

/* What a team uses of a node: the device's time for its prompt, and its share of the steps of a full batch. */
static void use(struct sim *x, const struct sim_live *l, int32_t offer, int32_t fresh, int32_t output)
{
    const struct sim_type *t = &x->s->types[x->s->offers[offer].type];
    const double us = t->curve.prefill_us_per_tok * fresh +
                      (t->curve.decode_us_base / t->sequences_max + t->curve.decode_us_per_seq) * output;
    x->usage[(size_t)offer * x->team_cap + l->team] += us + 1;
    struct sim_bill *b = &x->offers[offer].bill;
    b->prompt_tokens += fresh;
    b->output_tokens += output;
}

/* --- legs
 * ------------------------------------------------------------------------------------------------------------- */

static double lognormal(uint64_t *random, double mean, double spread)
{
    if (spread <= 0 || mean <= 0)
        return mean;
    const double s2 = log1p(spread * spread);
    const double z = sqrt(-2 * log(sim_random_unit(random))) * cos(6.283185307179586 * sim_random_unit(random));
    return exp(log(mean) - s2 / 2 + sqrt(s2) * z);
}

static void note_begun(struct sim *x, const struct sim_live *l)
{
    if (l->class == WAITING_BATCH)
        x->models[l->model].batch_begun_us = x->now_us;
}

/* Others compute it, and there is no queue: all is known at once. */
static void serve_by_api(struct sim *x, int32_t live, int32_t api)
{
    struct sim_live *l = &x->live[live];
    const struct sim_api *a = &x->s->apis[api];
    sim_route_by_api(x, l, api);
    note_begun(x, l);
    const int32_t bill = x->s->n_offers + api, left = l->output - l->said;
    const double ttft = lognormal(&x->random, (double)a->ttft_us + a->ttft_us_per_tok * l->prompt, a->spread);
    const double tpot = lognormal(&x->random, (double)a->tpot_us, a->spread);
    const int64_t first = x->now_us + (int64_t)ttft;
    if (l->first_us < 0)
        first_token(x, l, first);
    const struct token_counts n = {.input = l->prompt + l->said, .cached_input = l->cached, .output = left};
    struct pusd charge = {0};
    if (money_charge(&a->prices, &n, &charge) != RC_OK)
        charge.v = INT64_MAX;
    pusd_sum_add(&x->api_bills[api].tokens, charge);
    x->api_bills[api].prompt_tokens += n.input;
    x->api_bills[api].output_tokens += left;
    x->usage[(size_t)bill * x->team_cap + l->team] += (double)charge.v + 1e-6;
    account(x, l, first + (int64_t)(tpot * (left - 1)), bill);
    live_end(x, live);
}

static void serve_by_node(struct sim *x, int32_t live, int32_t node)
{
    struct sim_live *l = &x->live[live];
    struct sim_node *n = &x->nodes[node];
    struct sim_model_state *m = &x->models[l->model];
    note_begun(x, l);
    l->node = node;
    x->offers[n->offer].batch_in_flight += l->class == WAITING_BATCH;
    sim_route_sent(x, l, node);
    int32_t fresh = l->prompt + l->said - l->cached;
    if (fresh < 1)
        fresh = 1;
    x->jobs[live] = (struct node_job){.fresh = fresh, .output = l->output - l->said, .kv = l->prompt + l->output};
    if (l->said && l->measured)
        m->out->replayed_tokens += fresh;
    node_model_add(&n->m, x->jobs, live, x->now_us);
    sim_route_changed(x, node);
    sim_reschedule(x, node);
}

/* --- the waiting room
 * -------------------------------------------------------------------------------------------------- */

static void room_clock(struct sim *x, int32_t model)
{
    const struct heap_place *top = heap_top(&x->models[model].until);
    const struct sim_waiter *w = top ? sim_waiter_until(top) : NULL;
    /* Rooms think in nanoseconds; whoever is due within the microsecond goes at its end. */
    event_queue_set(&x->queue, x->at_rooms + model, w ? w->w.until_ns / 1000 + 1 : EVENT_NEVER);
}

static bool until_before(const struct heap_place *a, const struct heap_place *b)
{
    const struct sim_waiter *v = sim_waiter_until(a), *w = sim_waiter_until(b);
    return v->w.until_ns != w->w.until_ns ? v->w.until_ns < w->w.until_ns : v->self < w->self;
}

/* Not let in: it ends here. */
static void refuse(struct sim *x, int32_t live, enum waiting_verdict v)
{
    const struct sim_live *l = &x->live[live];
    if (l->measured) {
        class_of(x, l)->refused++;
        class_of(x, l)->refused_by[v]++;
    }
    live_end(x, live);
}

static void wait(struct sim *x, int32_t live)
{
    struct sim_live *l = &x->live[live];
    struct sim_model_state *m = &x->models[l->model];
    struct sim_waiter *w = waiter_new(x);
    const int64_t bound = x->s->models[l->model].waiting[l->class].wait_ns;
    const int64_t now_ns = x->now_us * 1000;
    w->live = live;
    w->w.tenant = x->team_names[l->team];
    w->w.class = l->as_batch ? WAITING_BATCH : l->class;
    w->w.reach = l->local_only ? WAITING_LOCAL : WAITING_ANYWHERE;
    w->w.under_way = l->moved;
    w->w.cost = (int64_t)l->prompt + l->output;
    w->w.bytes = 4 * (int64_t)l->prompt; /* a token is about four bytes of English */
    w->w.start_by_ns = l->due_us == INT64_MAX ? INT64_MAX : l->due_us * 1000;
    if (l->moved && w->w.start_by_ns == INT64_MAX)
        w->w.start_by_ns = now_ns + bound;
    if (l->class == WAITING_INTERACTIVE && l->first_us < 0 && x->s->models[l->model].slo.ttft_us) {
        w->w.late_ns = (l->at_us + (int64_t)sim_first_limit_us(&x->s->models[l->model].slo, l->prompt)) * 1000;
        w->w.back_ns = l->at_us * 1000 + route_stand_back_us(bound / 1000) * 1000;
    }
    const enum waiting_verdict v = waiting_enter(&m->room, &w->w, now_ns);
    if (v != WAITING_IN) {
        waiter_end(x, w);
        refuse(x, live, v);
        return;
    }
    l->waiter = w->self;
    l->enter_us = x->now_us;
    x->n_waiting++;
    heap_push(&m->until, &w->by_until);
    room_clock(x, l->model);
    sim_power_soon(x, l->model);
    if (!m->ready)
        sim_plan_soon(x, l->model);
}

static void leave_room(struct sim *x, struct sim_waiter *w)
{
    struct sim_live *l = &x->live[w->live];
    heap_remove(&x->models[l->model].until, &w->by_until);
    l->waiter = -1;
    x->n_waiting--;
    waiter_end(x, w);
}

void sim_expire(struct sim *x, int32_t model)
{
    struct sim_model_state *m = &x->models[model];
    for (const struct heap_place *top; (top = heap_top(&m->until));) {
        struct sim_waiter *w = sim_waiter_until(top);
        if (w->w.until_ns >= x->now_us * 1000)
            break;
        const int32_t live = w->live;
        waiting_leave(&m->room, &w->w);
        leave_room(x, w);
        if (x->live[live].measured)
            class_of(x, &x->live[live])->expired++;
        live_end(x, live);
    }
    room_clock(x, model);
}

/* When it would leave the room. */
int64_t sim_batch_until_us(const struct sim *x, const struct sim_live *l)
{
    const int64_t most_us = l->at_us + x->s->models[l->model].waiting[WAITING_BATCH].wait_ns / 1000;
    return l->due_us < most_us ? l->due_us : most_us;
}

/* Batch work fills what is idle: it leaves a part of the slots to those who come meanwhile, unless machines were
 * launched for it or its time is nearly over. */
bool sim_batch_may(const struct sim_model_state *m, int64_t until_us)
{
    return m->batch_goes || until_us <= m->batch_urgent_us || m->free_slots[0] > m->slots * SIM_BATCH_LEAVES;
}

static bool fits(const struct waiter *w, void *arg)
{
    const struct sim_model_state *m = arg;
    const int64_t until_us = w->until_ns / 1000;
    if (w->class == WAITING_BATCH && !w->under_way && !sim_batch_may(m, until_us))
        return false;
    return m->free_slots[w->reach == WAITING_LOCAL] > 0 ||
           (w->class == WAITING_BATCH && until_us <= m->batch_urgent_us && m->n_apis && w->reach == WAITING_ANYWHERE);
}

enum placing { PLACED, REFUSED, MOVES, BROKE };

/* Soft limits that are reached change what it may have. */
static enum placing obey_soft(struct sim *x, struct sim_live *l, bool *local_first, int32_t *model)
{
    const unsigned actions = sim_budget_soft(x, l, model);
    if (actions & BUDGET_DENY)
        return REFUSED;
    if (actions & BUDGET_LOCAL_ONLY)
        l->local_only = true;
    l->as_batch = actions & BUDGET_QUEUE;
    *local_first = actions & BUDGET_PREFER_LOCAL && !l->local_only;
    return *model >= 0 ? MOVES : PLACED;
}

static struct sim_pick pick_for(struct sim *x, struct sim_live *l, bool local_first)
{
    const bool was = l->local_only;
    struct sim_pick pick = {.node = -1, .api = -1};
    if (local_first) {
        l->local_only = true;
        pick = sim_route(x, l, (uint32_t)sim_random(&x->random));
        l->local_only = was;
    }
    return pick.node >= 0 ? pick : sim_route(x, l, (uint32_t)sim_random(&x->random));
}

static const struct token_prices *prices_of(const struct sim *x, const struct sim_pick *p)
{
    return p->api >= 0 ? &x->s->apis[p->api].prices : &x->s->offers[x->nodes[p->node].offer].charge;
}

static enum sim_budget_verdict pay(struct sim *x, struct sim_live *l, const struct sim_pick *p, int32_t *by)
{
    const bool local = p->node >= 0 && sim_local(x, x->nodes[p->node].offer);
    return sim_budget_take(x, l, prices_of(x, p), local, by);
}

/* Where it goes, paid for. Nobody has a place: pick is nobody. MOVES: to `model`, by a budget. BROKE: until `by` has
 * money. */
static enum placing place(struct sim *x, struct sim_live *l, struct sim_pick *pick, int32_t *model, int32_t *by)
{
    bool local_first = false;
    const enum placing soft = x->s->n_budgets ? obey_soft(x, l, &local_first, model) : PLACED;
    if (soft != PLACED)
        return soft;
    *pick = pick_for(x, l, local_first);
    if (!x->s->n_budgets || (pick->node < 0 && pick->api < 0))
        return PLACED;
    enum sim_budget_verdict v = pay(x, l, pick, by);
    if (v == SIM_BUDGET_LOCAL) {
        l->local_only = true;
        *pick = pick_for(x, l, false);
        if (pick->node < 0)
            return PLACED;
        v = pay(x, l, pick, by);
    }
    if (v == SIM_BUDGET_DOWNGRADE)
        *model = x->s->budgets[*by].hard_model;
    return v == SIM_BUDGET_OK ? PLACED : v == SIM_BUDGET_DOWNGRADE ? MOVES : v == SIM_BUDGET_QUEUE ? BROKE : REFUSED;
}

static void refuse_for_money(struct sim *x, int32_t live)
{
    const struct sim_live *l = &x->live[live];
    if (l->measured) {
        class_of(x, l)->refused++;
        class_of(x, l)->refused_budget++;
    }
    live_end(x, live);
}

static void dispatch(struct sim *x, int32_t live);

/* It waits for the next period of a budget, as long as batch may wait; or it ends here. */
static void wait_for_money(struct sim *x, int32_t live, int32_t budget)
{
    const struct sim_live *l = &x->live[live];
    const int64_t bound_us = x->s->models[l->asked].waiting[WAITING_BATCH].wait_ns / 1000;
    const int64_t until_us = sim_budget_next_us(x, budget);
    if (until_us > l->at_us + bound_us || until_us > l->due_us) {
        x->budgets[budget].out->refused++;
        refuse_for_money(x, live);
        return;
    }
    struct sim_waiter *w = waiter_new(x);
    w->live = live;
    w->w.until_ns = until_us * 1000;
    x->n_waiting++;
    heap_push(&x->broke, &w->by_until);
    event_queue_set(&x->queue, x->at_money, sim_waiter_until(heap_top(&x->broke))->w.until_ns / 1000);
}

static void go_on(struct sim *x, int32_t live, enum placing placing, int32_t model, int32_t by)
{
    if (placing == REFUSED) {
        refuse_for_money(x, live);
    } else if (placing == BROKE) {
        wait_for_money(x, live, by);
    } else {
        x->live[live].model = (uint16_t)model;
        x->live[live].downgraded = true;
        x->live[live].cached = 0; /* of the other model */
        dispatch(x, live);
    }
}

/* A node now, an API now, or the room. */
static void dispatch(struct sim *x, int32_t live)
{
    struct sim_pick pick;
    int32_t other = -1, by = -1;
    const enum placing placing = place(x, &x->live[live], &pick, &other, &by);
    if (placing == PLACED && (pick.node >= 0 || pick.api >= 0))
        waiting_passed(&x->models[x->live[live].model].room, (enum waiting_class)x->live[live].class, x->now_us * 1000);
    if (placing != PLACED)
        go_on(x, live, placing, other, by);
    else if (pick.node >= 0)
        serve_by_node(x, live, pick.node);
    else if (pick.api >= 0)
        serve_by_api(x, live, pick.api);
    else
        wait(x, live);
}

void sim_money_event(struct sim *x)
{
    for (struct heap_place *top; (top = heap_top(&x->broke));) {
        struct sim_waiter *w = sim_waiter_until(top);
        if (w->w.until_ns > x->now_us * 1000)
            break;
        const int32_t live = w->live;
        heap_remove(&x->broke, top);
        waiter_end(x, w);
        x->n_waiting--;
        dispatch(x, live);
    }
    const struct heap_place *next = heap_top(&x->broke);
    event_queue_set(&x->queue, x->at_money, next ? sim_waiter_until(next)->w.until_ns / 1000 : EVENT_NEVER);
}

void sim_serve_waiting(struct sim *x, int32_t model)
{
    struct sim_model_state *m = &x->models[model];
    const int64_t now_ns = x->now_us * 1000;
    bool moved = false;
    if (m->serving)
        return;
    m->serving = true;
    while (waiting_count(&m->room) > 0 && (m->free_slots[0] > 0 || m->batch_urgent_us)) {
        struct waiter *best = waiting_best(&m->room, now_ns, fits, m);
        if (!best)
            break;
        struct sim_waiter *w = sim_waiter_of(best);
        const int32_t live = w->live;
        struct sim_pick pick;
        int32_t other, by;
        const enum placing placing = place(x, &x->live[live], &pick, &other, &by);
        if (placing != PLACED) {
            waiting_leave(&m->room, best);
            leave_room(x, w);
            go_on(x, live, placing, other, by);
            moved = true;
            continue;
        }
        if (pick.node < 0 && pick.api < 0) {
            if (!pick.too_late || !waiting_give_way(&m->room, best, now_ns))
                break;
            continue;
        }
        waiting_take(&m->room, best, now_ns);
        leave_room(x, w);
        moved = true;
        struct sim_live *l = &x->live[live];
        if (l->measured) {
            class_of(x, l)->waited++;
            hist_add(&class_of(x, l)->wait_us, x->now_us - l->enter_us);
        }
        if (pick.node >= 0)
            serve_by_node(x, live, pick.node);
        else
            serve_by_api(x, live, pick.api);
    }
    m->serving = false;
    if (moved)
        room_clock(x, model);
}

/* --- events
 * ----------------------------------------------------------------------------------------------------------- */

static void learn(struct sim_model_state *m, const struct sim_request *r)
{
    const double n = m->n_seen < MEAN_OVER ? (double)++m->n_seen : MEAN_OVER;
    m->prompt += (r->prompt - m->prompt) / n;
    m->cached += (r->cached - m->cached) / n;
    m->output += (r->output - m->output) / n;
    m->prompt_sq += ((double)r->prompt * r->prompt - m->prompt_sq) / n;
    m->held += ((double)r->output * (r->prompt + r->output) - m->held) / n;
}

void sim_arrive(struct sim *x, const struct sim_request *r)
{
    const int32_t live = live_new(x);
    struct sim_live *l = &x->live[live];
    *l = (struct sim_live){
        .at_us = x->now_us,
        .first_us = -1,
        .due_us = r->batch && r->deadline_us > 0 ? r->at_us + r->deadline_us : INT64_MAX,
        .prompt = r->prompt,
        .cached = r->cached < r->prompt ? r->cached : r->prompt - 1,
        .output = r->output,
        .node = -1,
        .waiter = -1,
        .team = r->team,
        .model = (uint16_t)r->model,
        .asked = (uint16_t)r->model,
        .class = r->batch ? WAITING_BATCH : WAITING_INTERACTIVE,
        .local_only = r->local_only,
        .measured = r->at_us >= x->s->measure_from_us,
    };
    team_known(x, r->team);
    struct sim_model_state *m = &x->models[r->model];
    learn(m, r);
    m->came_us = x->now_us;
    m->came_now_us = r->batch ? m->came_now_us : x->now_us;
    sim_observe(x, (int32_t)r->model, r->prompt + m->output);
    if (x->powered && m->hold_s > 0)
        forecast_observe(&m->busy, x->now_us * 1000, sim_week_s(x), m->hold_s);
    if (x->powered && m->hold_s > 0 && !r->batch)
        forecast_observe(&m->busy_now, x->now_us * 1000, sim_week_s(x), m->hold_s);
    x->r->requests++;
    if (l->measured)
        class_of(x, l)->requests++;
    x->blocks = r->n_blocks ? r->blocks : NULL;
    x->n_blocks = r->n_blocks;
    /* Nobody overtakes those who wait already, as in the daemon: a freed slot is taken for them before anybody sees it.
     * */
    dispatch(x, live);
    x->blocks = NULL; /* who waits has lost them: they are the trace's */
}

void sim_node_event(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const struct node_curve *curve = &n->m.spec->curve;
    int32_t job;
    bool any = false, first = false;
    for (enum node_event e; (e = node_model_pop(&n->m, x->jobs, x->now_us, &job)) != NODE_NOTHING;) {
        struct sim_live *l = &x->live[job];
        if (e != NODE_LAST_TOKEN && l->first_us < 0)
            first_token(x, l, x->now_us + (int64_t)curve->base_us);
        if (e != NODE_LAST_TOKEN)
            sim_route_spoke(x, l, (int64_t)curve->base_us);
        if (e == NODE_FIRST_TOKEN) {
            first = true;
            continue;
        }
        x->offers[n->offer].batch_in_flight -= l->class == WAITING_BATCH;
        sim_route_ended(x, l, x->jobs[job].output);
        use(x, l, n->offer, x->jobs[job].fresh, x->jobs[job].output);
        if (l->moved && l->said && l->measured)
            x->models[l->asked].out->continued++;
        struct sim_model_state *m = &x->models[l->model];
        const double held_s = (double)(x->now_us - l->sent_us) / (double)SIM_US_PER_S;
        m->hold_s += (held_s - m->hold_s) / fmin((double)++m->n_held, MEAN_OVER);
        account(x, l, x->now_us + (int64_t)curve->base_us, n->offer);
        live_end(x, job);
        any = true;
    }
    if (any) {
        sim_route_changed(x, node);
        if (!node_model_in_flight(&n->m))
            sim_emptied(x, node);
    }
    if (any || first) /* its queue of prompts is shorter */
        sim_serve_waiting(x, sim_model_of(x, node));
    sim_reschedule(x, node);
}

void sim_drop_all(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    struct sim_model_state *m = &x->models[sim_model_of(x, node)];
    int32_t job, said, first = -1, last = -1;
    SPW_ASSERT(!n->accepts);
    while (node_model_drop(&n->m, x->jobs, x->now_us, &job, &said)) {
        struct sim_live *l = &x->live[job];
        if (said > 0 || l->first_us < 0 || l->said)
            use(x, l, n->offer, x->jobs[job].fresh, said);
        x->offers[n->offer].batch_in_flight -= l->class == WAITING_BATCH;
        sim_route_ended(x, l, said);
        l->said += said;
        l->node = -1;
        l->cached = 0; /* another node has not seen it */
        l->moved = true;
        if (l->measured) {
            m->out->interrupted++;
            m->out->again += l->said == 0;
        }
        if (last >= 0)
            x->live[last].next_free = job;
        else
            first = job;
        last = job;
        l->next_free = -1;
    }
    for (int32_t next; first >= 0; first = next) {
        next = x->live[first].next_free;
        dispatch(x, first);
    }
}

void sim_serve_init(struct sim *x)
{
    heap_init(&x->broke, until_before);
    x->live_free = x->waiter_free = -1;
    for (int32_t i = 0; i < x->s->n_models; i++) {
        struct sim_model_state *m = &x->models[i];
        waiting_init(&m->room);
        for (int c = 0; c < WAITING_CLASSES; c++)
            waiting_set_bounds(&m->room, (enum waiting_class)c, &x->s->models[i].waiting[c]);
        heap_init(&m->until, until_before);
        forecast_init(&m->forecast, x->s->models[i].signal);
        forecast_init(&m->busy, FORECAST_SLOTS);
        forecast_init(&m->busy_now, FORECAST_SLOTS);
    }
}

void sim_serve_fini(struct sim *x)
{
    for (int32_t i = 0; i < x->s->n_models; i++) {
        struct sim_model_state *m = &x->models[i];
        for (const struct heap_place *top; (top = heap_top(&m->until));) { /* the run ended early */
            struct sim_waiter *w = sim_waiter_until(top);
            waiting_leave(&m->room, &w->w);
            leave_room(x, w);
        }
        heap_fini(&m->until);
        waiting_fini(&m->room);
    }
    heap_fini(&x->broke);
    for (int32_t i = 0; i < x->n_chunks; i++)
        free(x->waiters[i]);
    for (int32_t i = 0; i < x->n_old_names; i++)
        free(x->old_names[i]);
    free(x->old_names);
    free(x->waiters);
    free(x->waiter_next);
    free(x->team_names);
    free(x->usage);
    free(x->live);
    free(x->jobs);
}
