/* Which node, or which API: the candidates are gathered here, policies/route.h decides among them. */
#include <math.h>

#include "policies/route.h"
#include "scheduler/simulate/sim_internal.h"

#define NODES_MAX 14 /* of ROUTE_CANDIDATES_MAX; the rest is for APIs */
#define APIS_MAX  2

struct gathered {
    struct route_candidate c[NODES_MAX + APIS_MAX];
    int32_t node[NODES_MAX + APIS_MAX], api[NODES_MAX + APIS_MAX];
    int32_t n;
};

static bool has_slot(const struct sim_node *n)
{
    return node_model_in_flight(&n->m) < n->slots;
}

/* How well it suits: 0 where the first token is foreseen within the SLO, else the later the worse, so that among those that will
 * be late it is the least late, at whatever price. */
static int32_t rank_by_ttft(const struct sim_slo *slo, int32_t prompt, double ttft_us)
{
    if (!slo->ttft_us)
        return 0;
    const double over = prompt > slo->ttft_free_tokens ? (prompt - slo->ttft_free_tokens) * slo->ttft_us_per_tok : 0;
    const double late = ttft_us - (double)slo->ttft_us - over;
    return late <= 0 ? 0 : late < 1e9 ? 1 + (int32_t)(late / 1000) : 1000000;
}

/* The wait for a place in the batch, or for memory, is not foreseen: who has none is as late as one can be. `usual` is what a
 * request takes of memory in the mean: who queues there comes first, and this one may turn out long. */
static double node_ttft_us(const struct sim_node *n, const struct sim_type *t, int32_t fresh, double usual)
{
    const struct node_model *m = &n->m;
    const double waiting = m->n_queued + m->n_group;
    const bool room = node_model_in_flight(m) < m->spec->sequences &&
                      (!m->spec->kv_tokens || (double)m->kv_used + (waiting + 2) * usual <= (double)m->spec->kv_tokens);
    return room ? curve_ttft_us(&t->curve, (double)m->queued_tokens, fresh, m->n, m->spec->chunk) : 1e12;
}

static void add_node(struct sim *x, struct gathered *g, int32_t node, const struct sim_live *l)
{
    const struct sim_node *n = &x->nodes[node];
    const struct sim_slo *slo = &x->s->models[l->model].slo;
    const struct sim_model_state *m = &x->models[l->model];
    const int32_t fresh = l->prompt - l->cached + l->said;
    const double held = m->output > 0 ? m->held / m->output : 0;
    const double ttft =
        node_ttft_us(n, &x->s->types[x->s->offers[n->offer].type], fresh, held > l->prompt ? held : l->prompt);
    g->node[g->n] = node;
    g->api[g->n] = -1;
    g->c[g->n++] = (struct route_candidate){
        .serves_model = true,
        .healthy = true,
        .local = sim_local(x, n->offer),
        .in_flight = node_model_in_flight(&n->m),
        .slots = n->slots,
        .prices = x->offers[n->offer].marginal,
        .rank = l->class == WAITING_INTERACTIVE ? rank_by_ttft(slo, l->prompt, ttft) : 0,
    };
}

/* A few nodes of each offer, from a place that chance says; where all of them are full, on from there to one that is not. */
static void gather_nodes(struct sim *x, struct gathered *g, const struct sim_model_state *m, const struct sim_live *l,
                         uint32_t spread)
{
    int32_t serving = 0;
    for (int32_t i = 0; i < m->n_offers; i++)
        serving += x->offers[m->offers[i]].n_accepting > 0;
    if (!serving)
        return;
    const int32_t each = NODES_MAX / serving > 1 ? NODES_MAX / serving : 1;
    for (int32_t i = 0; i < m->n_offers && g->n < NODES_MAX; i++) {
        const struct sim_offer_state *o =
            &x->offers[m->offers[(i + (int32_t)(spread % (uint32_t)m->n_offers)) % m->n_offers]];
        const int32_t most = g->n + each < NODES_MAX ? g->n + each : NODES_MAX;
        int32_t at = o->n_accepting ? (int32_t)(spread % (uint32_t)o->n_accepting) : 0;
        for (int32_t seen = 0; seen < o->n_accepting && g->n < most; seen++) {
            const int32_t node = o->accepting[at];
            if (has_slot(&x->nodes[node]) && sim_power_admits(x, node, l))
                add_node(x, g, node, l);
            else if (seen > 4 * each && g->n)
                break;
            at = at + 1 < o->n_accepting ? at + 1 : 0;
        }
    }
}

/* An API counts as in time if it is with the probability that is asked for: the quantile of a lognormal distribution. */
static double api_ttft_us(const struct sim_api *a, int32_t prompt, double probability)
{
    const double mean = (double)a->ttft_us + a->ttft_us_per_tok * prompt, sigma = sqrt(log1p(a->spread * a->spread));
    const double p = probability > 0 ? probability : 0.5;
    /* Inverse normal by bisection on erfc: exact enough, and no table. */
    double lo = -8, hi = 8;
    for (int i = 0; i < 40; i++) {
        const double mid = (lo + hi) / 2;
        if (0.5 * erfc(-mid / M_SQRT2) < p)
            lo = mid;
        else
            hi = mid;
    }
    return mean * exp(sigma * lo - sigma * sigma / 2);
}

static void gather_apis(struct sim *x, struct gathered *g, const struct sim_model_state *m, const struct sim_live *l)
{
    for (int32_t i = 0; i < m->n_apis && i < APIS_MAX; i++) {
        const struct sim_api *a = &x->s->apis[m->apis[i]];
        const struct sim_slo *slo = &x->s->models[l->model].slo;
        const double ttft = slo->ttft_us ? api_ttft_us(a, l->prompt, slo->probability) : 0;
        g->node[g->n] = -1;
        g->api[g->n] = m->apis[i];
        g->c[g->n++] =
            (struct route_candidate){.serves_model = true,
                                     .healthy = true,
                                     .prices = a->prices,
                                     .rank = l->class == WAITING_INTERACTIVE ? rank_by_ttft(slo, l->prompt, ttft) : 0};
    }
}

/* The baseline that looks at nothing: in turn, past those that are full. */
static struct sim_pick in_turn(struct sim *x, const struct sim_live *l, const struct sim_model_state *m)
{
    int64_t total = l->local_only ? 0 : m->n_apis;
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

struct sim_pick sim_route(struct sim *x, const struct sim_live *l, uint32_t spread)
{
    const struct sim_model_state *m = &x->models[l->model];
    struct gathered g;
    const bool batch = l->class == WAITING_BATCH && !l->moved;
    g.n = 0;
    if (batch && !sim_batch_may(m))
        return (struct sim_pick){.node = -1, .api = -1, .may_wait = true};
    if (x->s->routing == SIM_ROUND_ROBIN)
        return in_turn(x, l, m);
    if (m->free_slots[l->local_only] > 0)
        gather_nodes(x, &g, m, l, spread);
    if (!l->local_only && x->s->models[l->model].api.allowed && (!batch || m->batch_urgent || !m->n_offers))
        gather_apis(x, &g, m, l);
    const struct route_request r = {
        .input_tokens = l->prompt + l->said,
        .output_tokens = (int64_t)m->output + 1,
        .local_only = l->local_only,
        .spread = spread,
    };
    struct route_decision d;
    route_choose(&d, &r, g.c, g.n);
    if (d.chosen < 0)
        return (struct sim_pick){.node = -1, .api = -1, .may_wait = true};
    return (struct sim_pick){.node = g.node[d.chosen], .api = g.api[d.chosen]};
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
    sim_power_changed(x, node);
}
