/* Of many nodes the few that are worth a look: policies/shortlist.h, kept as nodes change. Whoever changes something that
 * routing looks at says so (node_changed_locked()), and before the next choice the index learns what has become of it. It
 * knows nothing of one request's own needs, such as to go on with an answer: who has those looks at all nodes. */
#include <string.h>

#include "scheduler/nodes/nodes.h"

#define WHOLE_LOAD                                                                                                     \
    1000 /* pico-dollars that a full node is dearer than an empty one: just enough to order equal prices */

void node_changed_locked(struct node *n)
{
    nodes_listed(n->table)->changed |= UINT64_C(1) << n->index;
}

/* Names are told apart by a hash: two that share one cost places on the list, since routing asks the node itself. */
static int model_id(const char *name)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return (int)((h ^ h >> 32) % SHORTLIST_MODELS_MAX);
}

static enum shortlist_state state_of(const struct node *n, int64_t now_us)
{
    if (n->draining || n->leaving)
        return SHORTLIST_LEAVING;
    if (n->state != NODE_READY)
        return SHORTLIST_DOWN;
    if (breaker_look(&n->breaker, now_us).word != BREAKER_PASS || n->kept_for)
        return SHORTLIST_HELD;
    return n->config->slots > 0 && n->in_flight >= n->config->slots ? SHORTLIST_FULL : SHORTLIST_READY;
}

static void learn(struct listed *l, const struct node *n, int64_t now_us)
{
    const struct config_node *c = n->config;
    struct shortlist_kind kind = {.local = c->local};
    if (!node_is_there(n)) {
        shortlist_drop(l->list, n->index);
        return;
    }
    for (int i = 0; i < c->n_models; i++)
        shortlist_kind_add(&kind, model_id(c->models[i]));
    const struct shortlist_terms terms = {
        .state = state_of(n, now_us),
        .money =
            (float)WHOLE_LOAD * (float)n->in_flight / (float)(c->slots > 0 ? c->slots : ROUTE_SLOTS_WHEN_UNBOUNDED),
        .money_per_input = (float)c->prices.input.uusd_per_mtok, /* pico-dollars per token */
        .money_per_output = (float)c->prices.output.uusd_per_mtok,
        .tail = 1,
    };
    shortlist_put(l->list, n->index, &kind, &terms);
}

int nodes_list_locked(struct nodes *t, const struct nodes_need *need, const struct route_request *q,
                      int32_t out[SHORTLIST_MAX])
{
    struct listed *l = nodes_listed(t);
    for (; l->changed; l->changed &= l->changed - 1)
        learn(l, nodes_at(t, __builtin_ctzll(l->changed)), need->now_us);
    int32_t hints[PREFIX_HOLDERS_MAX], skip[SHORTLIST_SKIP_MAX];
    struct shortlist_result found;
    struct shortlist_query ask = {
        .model = model_id(need->model),
        .local_only = q->local_only,
        .input_tokens = (float)q->input_tokens,
        .output_tokens = (float)q->output_tokens,
        .w_money = 1,
        .hints = hints,
        .skip = skip,
        .want = SHORTLIST_MAX,
    };
    for (; ask.n_hints < need->prefix->n_holders; ask.n_hints++)
        hints[ask.n_hints] = need->prefix->holders[ask.n_hints].node;
    for (uint64_t tried = need->tried; tried; tried &= tried - 1)
        skip[ask.n_skip++] = __builtin_ctzll(tried);
    shortlist_pick(l->list, &ask, &found);
    memcpy(out, found.nodes, (size_t)found.n * sizeof *out);
    return found.n;
}
