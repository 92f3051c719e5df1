/* Which node, or which API. policies/router.h keeps what is known of each and says what a request would mean there,
 * policies/prefix.h knows who may have the prompt's beginning, policies/route.h decides; here the router is told of the
 * fleet, and asked as the daemon asks.
 *
 * In the router nodes have their own numbers, APIs follow after the last. */
#include <math.h>

#include "policies/route.h"
#include "scheduler/simulate/sim_internal.h"

#define GROWS_BELOW  0.05 /* of a model's slots are free: one more request would need one more machine... */
#define GROWS_UNTIL  0.15 /* ...until so many are */
#define SPREAD_LEAST 0.02 /* of ln T, where a scenario says that an API always takes the same time */

/* --- what the router is told -------------------------------------------------------------------------------------- */

static enum marginal_kind kind_of(enum scale_market market)
{
    return market == SCALE_ON_PREM ? MARGINAL_OWNED : MARGINAL_RENTED;
}

struct marginal_facts sim_marginal(const struct sim *x, int32_t offer)
{
    const struct sim_offer *o = &x->s->offers[offer];
    const struct node_spec *spec = &x->specs[o->type];
    struct marginal_facts f = {.kind = kind_of(o->market),
                               .listed = o->charge,
                               .full = spec->sequences,
                               .per_hour = x->offers[offer].price,
                               .tokens_per_s = x->offers[offer].capacity};
    if (o->site >= 0) { /* else the energy is in the price */
        f.idle_mw = (int64_t)spec->mw[0];
        f.busy_mw = (int64_t)spec->mw[spec->sequences];
        f.prefill_mw = (int64_t)spec->prefill_mw;
    }
    return f;
}

/* For who listens. */
static void tell_name(const struct sim *x, int32_t node, const char *name)
{
    if (x->options && x->options->node && !router_has(x->router, node))
        x->options->node(node, name, x->options->arg);
}

/* The draws are known, and a token costs nothing above them: free, which is not the same as not known. */
static void tell_facts(struct sim *x, int32_t node)
{
    const struct sim_node *n = &x->nodes[node];
    const struct sim_offer *o = &x->s->offers[n->offer];
    struct router_facts f = {.kind = {.local = sim_local(x, n->offer)},
                             .slots = n->slots,
                             .sequences = n->m.spec->sequences,
                             .chunk = n->m.spec->detail.mixed_chunk ? n->m.spec->detail.mixed_chunk : n->m.spec->chunk,
                             .kv_tokens = n->m.spec->kv_tokens,
                             .curve = &n->m.spec->curve,
                             .losses_per_hour = o->losses_per_hour,
                             .site = o->site > 0 ? o->site : 0,
                             .money = sim_marginal(x, n->offer)};
    shortlist_kind_add(&f.kind, sim_model_of(x, node));
    tell_name(x, node, x->s->types[o->type].name);
    router_put(x->router, node, &f);
}

static void tell_state(struct sim *x, int32_t node)
{
    const bool accepts = x->nodes[node].accepts;
    router_state(x->router, node, &(struct router_state){.state = accepts ? SHORTLIST_READY : SHORTLIST_LEAVING});
}

/* A node of a kind that is known already begins with what was learned there. */
void sim_route_came(struct sim *x, int32_t node)
{
    const int32_t offer = x->nodes[node].offer;
    const int32_t kin = x->offers[offer].known;
    tell_facts(x, node);
    if (kin >= 0 && kin != node && router_has(x->router, kin) && x->nodes[kin].offer == offer)
        router_like(x->router, node, kin);
    tell_state(x, node);
    if (x->prefix)
        prefix_forget(x->prefix, node); /* another process is there: it remembers nothing */
}

void sim_route_gone(struct sim *x, int32_t node)
{
    router_drop(x->router, node);
}

void sim_route_facts(struct sim *x, int32_t node)
{
    tell_facts(x, node);
}

static void growing(struct sim *x, int32_t model)
{
    struct sim_model_state *m = &x->models[model];
    const double share = m->slots > 0 ? (double)m->free_slots[0] / m->slots : 1;
    if (x->s->models[model].scaled && (m->growing ? share >= GROWS_UNTIL : share < GROWS_BELOW)) {
        m->growing = !m->growing;
        router_growing(x->router, model, m->growing);
    }
}

void sim_route_changed(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    const int32_t model = sim_model_of(x, node);
    struct sim_model_state *m = &x->models[model];
    const int32_t counted = n->accepts ? n->slots : 0, busy = node_model_in_flight(&n->m);
    const int32_t free_slots = counted > busy ? counted - busy : 0;
    m->slots += counted - n->counted;
    m->free_slots[0] += free_slots - n->free;
    if (sim_local(x, n->offer))
        m->free_slots[1] += free_slots - n->free;
    n->counted = counted;
    n->free = free_slots;
    growing(x, model);
    sim_power_changed(x, node);
}

void sim_route_accepts(struct sim *x, int32_t node)
{
    if (router_has(x->router, node))
        tell_state(x, node);
    sim_route_changed(x, node);
}

/* Lognormal with that mean: the curve of its medians. Nothing is learned of an API here: it is what the scenario says. */
static void put_api(struct sim *x, int32_t i)
{
    const struct sim_api *a = &x->s->apis[i];
    const double sd = fmax(sqrt(log1p(a->spread * a->spread)), SPREAD_LEAST), median = exp(-sd * sd / 2);
    const struct node_curve curve = {.base_us = (double)a->ttft_us * median,
                                     .prefill_us_per_tok = a->ttft_us_per_tok * median,
                                     .decode_us_base = (double)a->tpot_us * median};
    struct router_facts f = {.curve = &curve, .log_sd = sd, .money = {.kind = MARGINAL_METERED, .listed = a->prices}};
    shortlist_kind_add(&f.kind, (int)a->model);
    tell_name(x, x->nodes_max + i, a->provider);
    router_put(x->router, x->nodes_max + i, &f);
    router_state(x->router, x->nodes_max + i, &(struct router_state){.state = SHORTLIST_READY});
}

enum rc sim_route_init(struct sim *x)
{
    const struct router_size size = {.nodes = x->nodes_max + x->s->n_apis + 1,
                                     .pairs = x->nodes_max,
                                     .probability = x->s->n_models ? x->s->models[0].slo.probability : 0};
    const enum rc rc = router_new(&x->router, &size, x->e);
    if (rc == RC_OK && x->options && x->options->router)
        x->options->router(x->router, &size, &x->now_us, x->options->arg);
    for (int32_t i = 0; rc == RC_OK && i < x->s->n_apis; i++)
        if (x->s->models[x->s->apis[i].model].api.allowed)
            put_api(x, i);
    return rc;
}

void sim_route_fini(struct sim *x)
{
    router_free(x->router);
    prefix_free(x->prefix);
}

/* --- prefixes
 * ------------------------------------------------------------------------------------------------------------ */

/* Taken when the first prompt with blocks comes: most traces have none. */
static bool prefix_there(struct sim *x)
{
    if (!x->prefix && !x->prefix_tried) {
        x->prefix_tried = true;
        if (prefix_new(&x->prefix, PREFIX_BYTES_DEFAULT, x->nodes_max > 0 ? x->nodes_max : 1, x->e) != RC_OK)
            x->prefix = NULL;
    }
    return x->prefix != NULL;
}

static int32_t cached_tokens(const struct sim_live *l, int32_t blocks)
{
    const int64_t tokens = (int64_t)blocks * TRACE_BLOCK_TOKENS;
    return (int32_t)(tokens < l->prompt ? tokens : l->prompt - 1);
}

static void prefix_sent(struct sim *x, struct sim_live *l, int32_t node)
{
    if (!x->blocks || !prefix_there(x))
        return;
    struct prefix_holder h[PREFIX_HOLDERS_MAX];
    const int n = prefix_lookup(x->prefix, x->blocks, x->n_blocks, h);
    for (int i = 0; i < n; i++)
        if (h[i].node == node && cached_tokens(l, h[i].blocks) > l->cached)
            l->cached = cached_tokens(l, h[i].blocks);
    const int64_t kv = x->nodes[node].m.spec->kv_tokens;
    /* The map counts in blocks of PREFIX_BLOCK_BYTES at so many bytes a token; the trace's blocks are longer. */
    if (kv)
        prefix_set_tokens(x->prefix, node, kv * (PREFIX_BLOCK_BYTES / PREFIX_BYTES_PER_TOKEN) / TRACE_BLOCK_TOKENS);
    prefix_insert(x->prefix, node, x->blocks, x->n_blocks);
}

/* Memory of a request like this while it runs: what one takes that is met at any moment, at least its prompt. */
static int64_t usual_memory(const struct sim_model_state *m, const struct sim_live *l)
{
    const double held = m->output > 0 ? m->held / m->output : 0;
    return held > l->prompt ? (int64_t)held : l->prompt;
}

/* --- a request's way ------------------------------------------------------------------------------------------------ */

/* What a node sets aside it says of itself; the daemon's is told, by max_tokens. The node was chosen: what of the
 * prompt does it have already? It has all of it from now on. */
void sim_route_sent(struct sim *x, struct sim_live *l, int32_t node)
{
    prefix_sent(x, l, node);
    const struct sim_model_state *m = &x->models[l->model];
    router_sent(x->router, node,
                &(struct router_work){.model = l->model,
                                      .prompt = l->prompt + l->said,
                                      .cached = l->cached,
                                      .output = (int64_t)m->output,
                                      .held = l->prompt + l->output},
                &l->leg);
    l->sent_us = x->now_us;
    l->spoke_us = -1;
}

/* All of it at once: nothing is learned of an API here, but time passes for what is known of the others. */
void sim_route_by_api(struct sim *x, struct sim_live *l, int32_t api)
{
    router_sent(x->router, x->nodes_max + api, &(struct router_work){.model = l->model}, &l->leg);
    router_ended(x->router, &l->leg, 0);
}

void sim_route_spoke(struct sim *x, struct sim_live *l, int64_t base_us)
{
    l->spoke_us = x->now_us;
    router_spoke(x->router, &l->leg, (double)(x->now_us + base_us - l->sent_us));
}

void sim_route_ended(struct sim *x, struct sim_live *l, int32_t said)
{
    const int32_t node = l->leg.node;
    const bool whole = l->spoke_us >= 0 && said > 1;
    if (node >= 0)
        x->offers[x->nodes[node].offer].known = node;
    router_ended(x->router, &l->leg, whole ? (double)(x->now_us - l->spoke_us) / (said - 1) : 0);
}

/* --- the decision ------------------------------------------------------------------------------------------------------ */

static bool has_slot(const struct sim_node *n)
{
    return node_model_in_flight(&n->m) < n->slots;
}

/* The baseline that looks at nothing: in turn, past those that are full. */
static struct sim_pick in_turn(struct sim *x, const struct sim_live *l, const struct sim_model_state *m)
{
    const bool apis = !l->local_only && x->s->models[l->model].api.allowed;
    int64_t total = apis ? m->n_apis : 0;
    for (int32_t i = 0; i < m->n_offers; i++)
        if (!l->local_only || sim_local(x, m->offers[i]))
            total += x->offers[m->offers[i]].n_accepting;
    for (int64_t tried = 0; tried < total; tried++) {
        int64_t at = (int64_t)(x->turn++ % (uint64_t)total);
        for (int32_t i = 0; i < m->n_offers; i++) {
            const struct sim_offer_state *o = &x->offers[m->offers[i]];
            if (l->local_only && !sim_local(x, m->offers[i]))
                continue;
            if (at < o->n_accepting) {
                if (has_slot(&x->nodes[o->accepting[at]]) && sim_power_admits(x, o->accepting[at], l))
                    return (struct sim_pick){.node = o->accepting[at], .api = -1};
                at = -1;
                break;
            }
            at -= o->n_accepting;
        }
        if (at >= 0)
            return (struct sim_pick){.node = -1, .api = m->apis[at]};
    }
    return (struct sim_pick){.node = -1, .api = -1, .may_wait = true};
}

/* A prompt that is longer may take longer; of those who have waited, the time that is left is not looked at: they are
 * late by then, and the quickest is still the best. */
static struct route_slo slo_of(const struct sim *x, const struct sim_live *l)
{
    const struct sim_slo *s = &x->s->models[l->model].slo;
    struct route_slo slo = {.probability = slack_demand(&x->models[l->model].slack, sim_asked(s)),
                            .sure = sim_asked(s)};
    if (l->class != WAITING_INTERACTIVE)
        return slo;
    slo.ttft_us = route_ttft_limit_us(s->ttft_us, s->ttft_us_per_tok, s->ttft_free_tokens, l->prompt);
    slo.tpot_us = s->tpot_us;
    return slo;
}

static enum route_objective objective_of(enum sim_objective o)
{
    switch (o) {
    case SIM_COST: return ROUTE_COST;
    case SIM_LATENCY: return ROUTE_LATENCY;
    case SIM_ENERGY: return ROUTE_ENERGY;
    case SIM_BALANCED: return ROUTE_BALANCED;
    }
    return ROUTE_COST;
}

static int held_by(const struct sim *x, const struct sim_live *l, struct router_holder *out)
{
    struct prefix_holder h[PREFIX_HOLDERS_MAX];
    const int n = prefix_lookup(x->prefix, x->blocks, x->n_blocks, h);
    for (int i = 0; i < n; i++)
        out[i] = (struct router_holder){h[i].node, cached_tokens(l, h[i].blocks)};
    return n;
}

static struct sim_pick pick_of(const struct sim *x, int32_t id)
{
    return id >= x->nodes_max ? (struct sim_pick){.node = -1, .api = id - x->nodes_max}
                              : (struct sim_pick){.node = id, .api = -1};
}

static int64_t may_wait_us(const struct sim *x, const struct sim_live *l)
{
    return x->s->models[l->model].waiting[WAITING_INTERACTIVE].wait_ns / 1000;
}

/* Half of its time is over: it goes in wherever there is a slot, and waits there. Batch work: when it must run now. */
static bool presses(const struct sim *x, const struct sim_live *l, bool batch)
{
    return batch ? sim_batch_until_us(x, l) <= x->models[l->model].batch_urgent_us
                 : x->now_us - l->at_us >= may_wait_us(x, l) / 2;
}

static bool is_batch(const struct sim_live *l)
{
    return (l->class == WAITING_BATCH || l->as_batch) && !l->moved;
}

static void choose(struct sim *x, const struct sim_live *l, const struct router_ask *ask, const int32_t *listed, int n,
                   struct route_decision *d)
{
    const struct sim_model_state *m = &x->models[l->model];
    const bool batch = is_batch(l);
    struct route_candidate c[ROUTE_CANDIDATES_MAX];
    for (int i = 0; i < n; i++) {
        const bool api = listed[i] >= x->nodes_max;
        router_candidate(x->router, ask, listed[i], &c[i]);
        if (l->cached > c[i].cached_tokens) /* as the trace says, wherever it goes */
            c[i].cached_tokens = l->cached;
        /* The site's limit: it may when others have finished. Batch work waits for machines as long as its time allows. */
        c[i].kept = api ? batch && !presses(x, l, batch) && m->n_offers : !sim_power_admits(x, listed[i], l);
    }
    router_choose(x->router, ask, listed, c, n, d);
}

/* As the daemon does when nobody on the list can: APIs, and as many nodes as there is room for, from any one on. */
static int all_there_are(const struct sim *x, const struct sim_live *l, uint32_t spread,
                         int32_t out[ROUTE_CANDIDATES_MAX])
{
    const struct sim_model_state *m = &x->models[l->model];
    int n = 0;
    for (int32_t i = 0; i < m->n_apis && n < ROUTE_CANDIDATES_MAX; i++)
        if (x->s->models[l->model].api.allowed)
            out[n++] = x->nodes_max + m->apis[i];
    for (int32_t i = 0; i < m->n_offers; i++) {
        const struct sim_offer_state *o = &x->offers[m->offers[i]];
        for (int32_t k = 0; k < o->n_accepting && n < ROUTE_CANDIDATES_MAX; k++)
            out[n++] = o->accepting[(spread + (uint32_t)k) % (uint32_t)o->n_accepting];
    }
    return n;
}

static struct sim_pick by_policy(struct sim *x, const struct sim_live *l, uint32_t spread)
{
    const struct sim_model_state *m = &x->models[l->model];
    struct sim_pick nobody = {.node = -1, .api = -1, .may_wait = true};
    const bool batch = is_batch(l);
    const struct route_slo slo = slo_of(x, l);
    const int64_t waited = slo.ttft_us && l->first_us < 0 ? x->now_us - l->at_us : 0;
    const struct route_request q = {.input_tokens = l->prompt + l->said,
                                    .output_tokens = (int64_t)m->output + 1,
                                    .local_only = l->local_only,
                                    .presses = presses(x, l, batch),
                                    .waited_us = waited,
                                    .stands_back = route_stands_back(slo.ttft_us, waited, may_wait_us(x, l)),
                                    .objective = objective_of(x->s->models[l->model].objective),
                                    .slo = slo,
                                    .spread = spread};
    struct router_holder holders[PREFIX_HOLDERS_MAX];
    struct router_ask ask = {.model = l->model, .request = &q, .holders = holders, .held = usual_memory(m, l)};
    if (x->blocks && prefix_there(x))
        ask.n_holders = held_by(x, l, holders);
    int32_t listed[ROUTE_CANDIDATES_MAX];
    struct route_decision d;
    int n = router_list(x->router, &ask, listed);
    choose(x, l, &ask, listed, n, &d);
    if (d.chosen < 0 && n == SHORTLIST_MAX) { /* the list does not know how much memory this one takes */
        n = all_there_are(x, l, spread, listed);
        choose(x, l, &ask, listed, n, &d);
    }
    nobody.too_late = d.too_late;
    return d.chosen < 0 ? nobody : pick_of(x, listed[d.chosen]);
}

/* FNV-1a over whole words, the high half folded in since a product carries only upwards: enough to tell two runs apart. */
static void note_decision(struct sim *x, const struct sim_pick *p)
{
    const uint64_t who = (uint64_t)(uint32_t)p->node << 32 | (uint32_t)p->api;
    const uint64_t h = (x->r->decisions ^ who ^ (uint64_t)x->now_us) * UINT64_C(0x100000001b3);
    x->r->decisions = h ^ h >> 32;
}

struct sim_pick sim_route(struct sim *x, const struct sim_live *l, uint32_t spread)
{
    const struct sim_model_state *m = &x->models[l->model];
    if (is_batch(l) && !sim_batch_may(m, sim_batch_until_us(x, l)))
        return (struct sim_pick){.node = -1, .api = -1, .may_wait = true};
    const struct sim_pick p = x->s->routing == SIM_ROUND_ROBIN ? in_turn(x, l, m) : by_policy(x, l, spread);
    note_decision(x, &p);
    return p;
}
