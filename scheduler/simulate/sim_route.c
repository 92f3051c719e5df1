/* Which node, or which API. policies/shortlist.h keeps the index and finds the few that are worth a look,
 * policies/prefix.h knows who may have the prompt's beginning, policies/route.h decides; here is what they are told of a node.
 *
 * In the index nodes have their own numbers, APIs follow after the last. */
#include <math.h>

#include "policies/route.h"
#include "scheduler/simulate/sim_internal.h"

#define COARSE_US     20000.0
#define COARSE_BATCH  8
#define LATE_US       1e12
#define REORDER_AFTER 64 /* nodes that came, and a quarter of all: like ones are to be neighbours again */

/* --- what is foreseen
 * ------------------------------------------------------------------------------------------------------ */

/* How well it suits: 0 where the first token is foreseen within the SLO, else the later the worse, so that among those
 * that will
 * be late it is the least late, at whatever price. */
static int32_t rank_by_ttft(const struct sim_slo *slo, int32_t prompt, double ttft_us)
{
    if (!slo->ttft_us)
        return 0;
    const double over = prompt > slo->ttft_free_tokens ? (prompt - slo->ttft_free_tokens) * slo->ttft_us_per_tok : 0;
    const double late = ttft_us - (double)slo->ttft_us - over;
    return late <= 0 ? 0 : late < 1e9 ? 1 + (int32_t)(late / 1000) : 1000000;
}

/* The wait for a place in the batch, or for memory, is not foreseen: who has none is as late as one can be. `usual` is
 * what a
 * request takes of memory in the mean: who queues there comes first, and this one may turn out long. */
static bool has_room(const struct node_model *m, double usual)
{
    const double waiting = m->n_queued + m->n_group;
    return node_model_in_flight(m) < m->spec->sequences &&
           (!m->spec->kv_tokens || (double)m->kv_used + (waiting + 2) * usual <= (double)m->spec->kv_tokens);
}

static double usual_memory(const struct sim_model_state *m)
{
    return m->output > 0 ? m->held / m->output : 0;
}

static double node_ttft_us(const struct sim *x, const struct sim_node *n, const struct sim_live *l)
{
    const double held = usual_memory(&x->models[l->model]);
    if (!has_room(&n->m, held > l->prompt ? held : l->prompt))
        return LATE_US;
    return curve_ttft_us(&n->m.spec->curve, (double)n->m.queued_tokens, l->prompt - l->cached + l->said, n->m.n,
                         n->m.spec->chunk);
}

/* An API counts as in time if it is with the probability that is asked for: the quantile of a lognormal distribution,
 * as a multiple of its mean. */
static double api_tail(const struct sim_api *a, double probability)
{
    const double sigma = sqrt(log1p(a->spread * a->spread));
    return exp(sigma * normal_quantile(probability > 0 ? probability : 0.5) - sigma * sigma / 2);
}

/* --- what the index is told
 * ---------------------------------------------------------------------------------------------- */

/* The index gets coarse figures, so that near equals are equal there: of equals it looks at a few, of others at all
 * that could be
 * better, and the index changes less often. Candidates are judged by exact ones. */
static double coarse(double us)
{
    return ceil(us / COARSE_US) * COARSE_US;
}

static struct shortlist_terms terms_of(const struct sim *x, int32_t node)
{
    const struct sim_node *n = &x->nodes[node];
    const struct node_curve *c = &n->m.spec->curve;
    const struct sim_offer_state *o = &x->offers[n->offer];
    const int32_t batch = n->m.n + n->m.n_group + n->m.n_queued + 1;
    const int32_t decoded = batch < n->m.spec->sequences ? batch : n->m.spec->sequences;
    const int32_t about = (decoded + COARSE_BATCH - 1) / COARSE_BATCH * COARSE_BATCH;
    const double step = c->decode_us_base + c->decode_us_per_seq * about;
    const bool room = has_room(&n->m, usual_memory(&x->models[sim_model_of(x, node)]));
    return (struct shortlist_terms){
        .state = n->free > 0 ? SHORTLIST_READY : SHORTLIST_FULL,
        .money_per_input = (float)o->marginal.input.uusd_per_mtok,
        .money_per_output = (float)o->marginal.output.uusd_per_mtok,
        .first_us =
            (float)(room ? coarse(curve_ttft_us(c, (double)n->m.queued_tokens, 0, n->m.n, n->m.spec->chunk)) : LATE_US),
        .first_us_per_input = (float)c->prefill_us_per_tok,
        .next_us = (float)step,
        .tail = 1,
        .mj_per_input = o->mj_per_input,
        .mj_per_output = o->mj_per_output,
    };
}

/* The index follows who accepts; within the life of a node only its terms change. */
static void index_changed(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    if (!n->accepts) {
        if (n->listed)
            shortlist_drop(x->shortlist, node);
        n->listed = false;
        return;
    }
    const struct shortlist_terms t = terms_of(x, node);
    if (n->listed) {
        shortlist_update(x->shortlist, node, &t);
        return;
    }
    struct shortlist_kind kind = {.local = sim_local(x, n->offer)};
    shortlist_kind_add(&kind, sim_model_of(x, node));
    shortlist_put(x->shortlist, node, &kind, &t);
    n->listed = true;
    if (++x->came >= REORDER_AFTER && 4 * x->came >= shortlist_count(x->shortlist)) {
        shortlist_order(x->shortlist);
        x->came = 0;
    }
}

void sim_route_load(struct sim *x, int32_t node)
{
    if (x->nodes[node].listed) {
        const struct shortlist_terms t = terms_of(x, node);
        shortlist_update(x->shortlist, node, &t);
    }
}

void sim_route_changed(struct sim *x, int32_t node)
{
    struct sim_node *n = &x->nodes[node];
    struct sim_model_state *m = &x->models[sim_model_of(x, node)];
    const int32_t counted = n->accepts ? n->slots : 0, busy = node_model_in_flight(&n->m);
    const int32_t free_slots = counted > busy ? counted - busy : 0;
    m->slots += counted - n->counted;
    m->free_slots[0] += free_slots - n->free;
    if (sim_local(x, n->offer))
        m->free_slots[1] += free_slots - n->free;
    n->counted = counted;
    n->free = free_slots;
    index_changed(x, node);
    sim_power_changed(x, node);
}

/* Another process is there: it remembers nothing. */
void sim_route_forget(struct sim *x, int32_t node)
{
    if (x->prefix)
        prefix_forget(x->prefix, node);
}

static void put_api(struct sim *x, int32_t i)
{
    const struct sim_api *a = &x->s->apis[i];
    struct shortlist_kind kind = {.local = false};
    shortlist_kind_add(&kind, (int)a->model);
    const struct shortlist_terms t = {.state = SHORTLIST_READY,
                                      .money_per_input = (float)a->prices.input.uusd_per_mtok,
                                      .money_per_output = (float)a->prices.output.uusd_per_mtok,
                                      .first_us = (float)a->ttft_us,
                                      .first_us_per_input = (float)a->ttft_us_per_tok,
                                      .next_us = (float)a->tpot_us,
                                      .tail = (float)x->api_tail[i]};
    shortlist_put(x->shortlist, x->nodes_max + i, &kind, &t);
}

enum rc sim_route_init(struct sim *x)
{
    enum rc rc = shortlist_new(&x->shortlist, x->nodes_max + x->s->n_apis + 1, x->e);
    for (int32_t i = 0; i < x->s->n_apis; i++)
        x->api_tail[i] = api_tail(&x->s->apis[i], x->s->models[x->s->apis[i].model].slo.probability);
    for (int32_t i = 0; rc == RC_OK && i < x->s->n_apis; i++)
        if (x->s->models[x->s->apis[i].model].api.allowed)
            put_api(x, i);
    return rc;
}

void sim_route_fini(struct sim *x)
{
    shortlist_free(x->shortlist);
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

/* The node was chosen: what of the prompt does it have already? It has all of it from now on. */
void sim_route_sent(struct sim *x, struct sim_live *l, int32_t node)
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

/* --- the decision
 * ---------------------------------------------------------------------------------------------------------- */

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

static struct shortlist_query query_of(const struct sim *x, const struct sim_live *l)
{
    const struct sim_model *config = &x->s->models[l->model];
    const struct sim_slo *slo = &config->slo;
    const int32_t above = l->prompt > slo->ttft_free_tokens ? l->prompt - slo->ttft_free_tokens : 0;
    const bool interactive = l->class == WAITING_INTERACTIVE && l->first_us < 0;
    struct shortlist_query q = {.model = l->model,
                                .local_only = l->local_only,
                                .input_tokens = (float)(l->prompt + l->said - l->cached),
                                .output_tokens = (float)x->models[l->model].output,
                                .want = SHORTLIST_MAX};
    if (interactive) {
        q.first_limit_us = (float)((double)slo->ttft_us + slo->ttft_us_per_tok * above);
        q.next_limit_us = (float)slo->tpot_us;
    }
    switch (config->objective) {
    case SIM_COST: /* among equals the less busy: a second is worth a billionth of a dollar */
        q.w_money = 1;
        q.w_us = 0.001f;
        break;
    case SIM_LATENCY: q.w_us = 1; break;
    case SIM_ENERGY: q.w_mj = 1; break;
    case SIM_BALANCED: /* a second is worth a tenth of a cent, as a kWh is 12 cents */
        q.w_money = 1;
        q.w_us = 1000;
        q.w_mj = 33;
        break;
    }
    return q;
}

static struct route_candidate candidate_of(const struct sim *x, const struct sim_live *l, int32_t id)
{
    struct route_candidate c = {.serves_model = true, .healthy = true};
    const struct sim_slo *slo = &x->s->models[l->model].slo;
    const bool interactive = l->class == WAITING_INTERACTIVE;
    if (id >= x->nodes_max) {
        const struct sim_api *a = &x->s->apis[id - x->nodes_max];
        const double mean = (double)a->ttft_us + a->ttft_us_per_tok * l->prompt;
        c.prices = a->prices;
        c.rank = interactive ? rank_by_ttft(slo, l->prompt, mean * x->api_tail[id - x->nodes_max]) : 0;
        return c;
    }
    const struct sim_node *n = &x->nodes[id];
    c.rank = interactive ? rank_by_ttft(slo, l->prompt, node_ttft_us(x, n, l)) : 0;
    c.local = sim_local(x, n->offer);
    c.in_flight = node_model_in_flight(&n->m);
    c.slots = n->slots;
    c.prices = x->offers[n->offer].marginal;
    c.kept = !sim_power_admits(x, id, l); /* the site's limit: it may when others have finished */
    return c;
}

static int64_t held_by(const struct sim_live *l, int32_t node, const struct prefix_holder *h, int n)
{
    for (int i = 0; i < n; i++)
        if (h[i].node == node)
            return cached_tokens(l, h[i].blocks);
    return l->cached;
}

struct sim_pick sim_route(struct sim *x, const struct sim_live *l, uint32_t spread)
{
    const struct sim_model_state *m = &x->models[l->model];
    const struct sim_pick nobody = {.node = -1, .api = -1, .may_wait = true};
    const bool batch = (l->class == WAITING_BATCH || l->as_batch) && !l->moved;
    if (batch && !sim_batch_may(m))
        return nobody;
    if (x->s->routing == SIM_ROUND_ROBIN)
        return in_turn(x, l, m);

    struct shortlist_query q = query_of(x, l);
    struct prefix_holder h[PREFIX_HOLDERS_MAX];
    int32_t hints[PREFIX_HOLDERS_MAX];
    const int held = x->blocks && prefix_there(x) ? prefix_lookup(x->prefix, x->blocks, x->n_blocks, h) : 0;
    for (int i = 0; i < held; i++)
        hints[i] = h[i].node;
    q.hints = hints;
    q.n_hints = held;
    struct shortlist_result found;
    shortlist_pick(x->shortlist, &q, &found);

    struct route_candidate c[SHORTLIST_MAX];
    for (int32_t i = 0; i < found.n; i++) {
        c[i] = candidate_of(x, l, found.nodes[i]);
        c[i].cached_tokens = held_by(l, found.nodes[i], h, held);
        if (batch && !m->batch_urgent && m->n_offers && found.nodes[i] >= x->nodes_max)
            c[i].kept = true; /* batch work waits for machines as long as its time allows */
    }
    const struct route_request r = {.input_tokens = l->prompt + l->said,
                                    .output_tokens = (int64_t)m->output + 1,
                                    .local_only = l->local_only,
                                    .spread = spread};
    struct route_decision d;
    route_choose(&d, &r, c, found.n);
    if (d.chosen < 0)
        return nobody;
    const int32_t id = found.nodes[d.chosen];
    return id >= x->nodes_max ? (struct sim_pick){.node = -1, .api = id - x->nodes_max}
                              : (struct sim_pick){.node = id, .api = -1};
}
