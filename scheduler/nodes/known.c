/* What routing knows of the nodes: policies/router.h, kept as nodes change. Whoever changes something that routing
 * looks at says so (node_changed_locked()), and before the next choice the router learns what has become of it; what is
 * in flight, and how it went, it is told at once. It knows nothing of one request's own needs, such as to go on with an
 * answer: these are added here, candidate by candidate. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "policies/power.h"
#include "policies/tariff.h"
#include "scheduler/calibrate/record.h"
#include "scheduler/nodes/nodes.h"

#define SITE            0 /* all nodes pay the one tariff of the configuration */
#define TARIFF_MOST_S   3600
#define WAKE_ASSUMED_US 10000000
#define FULL_ASSUMED    8 /* requests in a full batch, where nobody says */

enum rc known_new(struct knowledge *k, const struct nodes_options *o, struct error *e)
{
    const struct router_size size = {.nodes = ROUTE_CANDIDATES_MAX, .pairs = NODES_PAIRS_MAX};
    const struct recorder_options record = {.path = o->config->record,
                                            .bytes_max = o->config->record_bytes_max,
                                            .clock = o->clock,
                                            .log = o->log,
                                            .version = SPILLWAY_VERSION};
    enum rc rc = router_new(&k->router, &size, e);
    if (rc == RC_OK && record.path)
        rc = recorder_new(&k->recorder, &record, e);
    if (rc != RC_OK && k->router)
        return error_prefix(e, "routing.record");
    if (k->recorder)
        recorder_listen_locked(k->recorder, k->router, &size);
    return rc;
}

void known_fini(struct knowledge *k)
{
    router_free(k->router);
    recorder_free(k->recorder);
    for (int i = 0; i < k->n_models; i++)
        free(k->models[i]);
}

void node_changed_locked(struct node *n)
{
    nodes_known(n->table)->changed |= UINT64_C(1) << n->index;
}

/* Names that come after all ids are taken share one: routing asks the node itself, and what is learned is of both. */
static int model_id(void *arg, const char *name)
{
    struct knowledge *k = arg;
    for (int i = 0; i < k->n_models; i++)
        if (strcmp(k->models[i], name) == 0)
            return i;
    if (k->n_models == SHORTLIST_MODELS_MAX)
        return SHORTLIST_MODELS_MAX - 1;
    k->models[k->n_models] = spw_strdup(name);
    if (k->recorder)
        recorder_name_locked(k->recorder, RECORD_MODEL, k->n_models, name);
    return k->n_models++;
}

/* ---- what the router is told ---------------------------------------------------------------------------------------- */

/* One that sleeps takes one request, which wakes it, and says "not now" to others. */
static bool is_up(const struct node *n)
{
    return n->state == NODE_READY || (n->state == NODE_ASLEEP && !n->kept_asleep && n->in_flight == 0);
}

static enum shortlist_state state_of(const struct node *n, int64_t now_us)
{
    if (n->draining || n->leaving || n->resting)
        return SHORTLIST_LEAVING;
    if (!is_up(n))
        return SHORTLIST_DOWN;
    if (breaker_look(&n->breaker, now_us).word != BREAKER_PASS || n->kept_for)
        return SHORTLIST_HELD;
    return SHORTLIST_READY;
}

/* What a local node costs is its energy, as far as its watts are known; what others do, their price list. */
static struct marginal_facts money_of(const struct config_node *c)
{
    struct marginal_facts f = {.kind = c->per_hour.v > 0 ? MARGINAL_RENTED
                                       : c->local        ? MARGINAL_OWNED
                                                         : MARGINAL_METERED,
                               .listed = c->price_version ? c->listed : c->prices,
                               .per_hour = c->per_hour,
                               .tokens_per_s = c->tokens_per_s};
    if (!c->local)
        return f;
    f.full = c->max_batch > 0 ? c->max_batch : c->slots > 0 ? c->slots : FULL_ASSUMED;
    if (c->levels) {
        f.idle_mw = power_draw_mw(c->levels, POWER_ACTIVE, 0);
        f.busy_mw = power_draw_mw(c->levels, POWER_ACTIVE, f.full);
    }
    return f;
}

void node_facts(const struct config_node *c, int (*model)(void *arg, const char *name), void *arg,
                struct router_facts *out)
{
    *out = (struct router_facts){
        .kind = {.local = c->local},
        .slots = c->slots,
        .curve = c->calibrated ? &c->calibrated->curve : NULL,
        .chunk = c->calibrated ? c->calibrated->detail.mixed_chunk : 0,
        .kv_tokens = c->kv_tokens,
        .site = SITE,
        .money = money_of(c),
    };
    for (int i = 0; i < c->n_models; i++)
        shortlist_kind_add(&out->kind, model(arg, c->models[i]));
}

static void learn(struct knowledge *k, const struct node *n, int64_t now_us)
{
    if (!node_is_there(n)) {
        router_drop(k->router, n->index);
        return;
    }
    const struct config_node *c = n->config;
    struct router_facts f;
    node_facts(c, model_id, k, &f);
    f.sequences = n->card.slots; /* what is configured wins, what is not it says itself */
    f.kv_tokens = f.kv_tokens ? f.kv_tokens : n->card.kv_tokens;
    k->has_memory = k->has_memory || f.kv_tokens > 0;
    if (k->recorder && !router_has(k->router, n->index))
        recorder_name_locked(k->recorder, RECORD_NODE, n->index, n->name);
    router_put(k->router, n->index, &f);
    struct router_state s = {.state = state_of(n, now_us)};
    if (n->state == NODE_ASLEEP) {
        s.wake_us = c->levels ? power_move_us(c->levels, POWER_SLEEP, POWER_ACTIVE) : WAKE_ASSUMED_US;
        s.wake_mj = c->levels ? power_move_mj(c->levels, POWER_SLEEP, POWER_ACTIVE) : 0;
    }
    router_state(k->router, n->index, &s);
}

void node_like_locked(struct node *n, const struct node *other)
{
    struct knowledge *k = nodes_known(n->table);
    learn(k, n, nodes_now_us(n->table));
    if (router_has(k->router, other->index))
        router_like(k->router, n->index, other->index);
}

static void learn_tariff(struct nodes *t, struct knowledge *k, int64_t now_us)
{
    const struct tariff *tariff = nodes_options(t)->config->tariff;
    if (now_us < k->tariff_due_us || !tariff)
        return;
    const int64_t now_s = clock_wall(nodes_options(t)->clock).ns / NS_PER_S;
    int64_t left_s = tariff_until(tariff, now_s) - now_s;
    left_s = left_s > 0 && left_s < TARIFF_MOST_S ? left_s : TARIFF_MOST_S; /* clocks are set, too */
    router_tariff(k->router, SITE, tariff_at(tariff, now_s));
    k->tariff_due_us = now_us + left_s * 1000000;
}

static void learn_all(struct nodes *t, int64_t now_us)
{
    struct knowledge *k = nodes_known(t);
    learn_tariff(t, k, now_us);
    for (; k->changed; k->changed &= k->changed - 1)
        learn(k, nodes_at(t, __builtin_ctzll(k->changed)), now_us);
}

/* ---- what happens ------------------------------------------------------------------------------------------------ */

void node_sent_locked(struct node *n, const char *model, const struct router_work *w, struct router_leg *leg)
{
    struct knowledge *k = nodes_known(n->table);
    struct router_work work = *w;
    work.model = model_id(k, model);
    router_sent(k->router, n->index, &work, leg);
    n->in_flight = router_in_flight(k->router, n->index);
    if (n->state == NODE_ASLEEP)
        node_changed_locked(n);
}

void node_heard_locked(struct node *n, struct router_leg *leg, double ttft_us)
{
    router_spoke(nodes_known(n->table)->router, leg, ttft_us);
}

void node_left_locked(struct node *n, struct router_leg *leg, double tpot_us)
{
    struct knowledge *k = nodes_known(n->table);
    router_ended(k->router, leg, tpot_us);
    n->in_flight = router_in_flight(k->router, n->index);
    if (n->in_flight == 0)
        n->work_ended = clock_now(nodes_options(n->table)->clock);
    if (n->state == NODE_ASLEEP)
        node_changed_locked(n);
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

enum { RANK_SAME = 0, RANK_OTHER_CLASS, RANK_TEXT, RANK_UNFIT };

static int32_t rank(const struct node *n, const struct nodes_need *need)
{
    if (!need->said)
        return RANK_SAME;
    if (need->by_ids && n->card.resume && strcmp(n->card.numerics, need->numerics) == 0)
        return RANK_SAME;
    if (need->by_ids && n->card.resume && !need->same_class)
        return RANK_OTHER_CLASS;
    return need->by_text && n->config->continue_by == CONTINUE_PREFIX ? RANK_TEXT : RANK_UNFIT;
}

static void ask_for(struct nodes_asked *a, const struct nodes *t, const struct nodes_need *need,
                    const struct route_request *q)
{
    const struct request_prefix *p = need->prefix;
    a->ask = (struct router_ask){
        .model = model_id(nodes_known(t), need->model), .request = q, .holders = a->holders, .skip = a->skip};
    for (int i = 0; i < p->n_holders; i++) {
        const int node = p->holders[i].node;
        const int64_t tokens = affinity_tokens(p, node, nodes_at(t, node)->target.generation);
        if (tokens > 0)
            a->holders[a->ask.n_holders++] = (struct router_holder){node, tokens};
    }
    if (nodes_known(t)->recorder)
        recorder_who_locked(nodes_known(t)->recorder, need->whom);
    for (uint64_t tried = need->tried; tried; tried &= tried - 1)
        a->skip[a->ask.n_skip++] = __builtin_ctzll(tried);
}

/* Beside what the router knows: what the node says of itself, and what this request needs of it. */
static void candidate(const struct node *n, const struct nodes_need *need, const struct nodes_asked *a,
                      struct route_candidate *out)
{
    const struct breaker_look look = breaker_look(&n->breaker, need->now_us);
    router_candidate(nodes_known(n->table)->router, &a->ask, n->index, out);
    out->serves_model = node_serves(n, need->model);
    out->healthy = is_up(n);
    out->draining = n->draining || n->leaving || n->resting;
    out->tried = (need->tried >> n->index) & 1;
    out->rank = rank(n, need);
    out->unfit = out->rank == RANK_UNFIT;
    out->kept = n->kept_for && n->kept_for != need->who;
    out->broken = look.word == BREAKER_BLOCKED;
    out->cooling = look.word == BREAKER_COOLING;
    out->back_us = look.wait_us;
}

int nodes_list_locked(struct nodes *t, const struct nodes_need *need, const struct route_request *q,
                      struct nodes_asked *asked, int32_t listed[SHORTLIST_MAX],
                      struct route_candidate out[SHORTLIST_MAX])
{
    learn_all(t, need->now_us);
    ask_for(asked, t, need, q);
    const int n = router_list(nodes_known(t)->router, &asked->ask, listed);
    for (int i = 0; i < n; i++)
        candidate(nodes_at(t, listed[i]), need, asked, &out[i]);
    return n;
}

int nodes_snapshot_locked(struct nodes *t, const struct nodes_need *need, const struct route_request *q,
                          struct nodes_asked *asked, struct route_candidate out[ROUTE_CANDIDATES_MAX])
{
    const int n = nodes_count(t);
    learn_all(t, need->now_us);
    ask_for(asked, t, need, q);
    for (int i = 0; i < n; i++)
        candidate(nodes_at(t, i), need, asked, &out[i]);
    return n;
}

void nodes_choose_locked(struct nodes *t, const struct nodes_asked *asked, const int32_t *listed,
                         const struct route_candidate *c, int n, struct route_decision *d)
{
    router_choose(nodes_known(t)->router, &asked->ask, listed, c, n, d);
}

bool nodes_have_memory_locked(const struct nodes *t)
{
    return nodes_known(t)->has_memory;
}

bool nodes_any_rests_locked(const struct nodes *t)
{
    for (int i = 0; i < nodes_count(t); i++) {
        const struct node *n = nodes_at(t, i);
        if (n->resting || (n->state == NODE_ASLEEP && !n->kept_asleep))
            return true;
    }
    return false;
}

bool nodes_records(const struct nodes *t)
{
    return nodes_known(t)->recorder != NULL;
}

struct recorder_stats nodes_recording(const struct nodes *t)
{
    return recorder_stats(nodes_known(t)->recorder);
}

bool node_is_late(struct node *n, const struct node_promise *p)
{
    const struct nodes_options *o = nodes_options(n->table);
    struct knowledge *k = nodes_known(n->table);
    const struct route_request q = {.input_tokens = p->prompt, .output_tokens = p->output};
    struct route_candidate c;
    pthread_mutex_lock(o->lock);
    learn_all(n->table, nodes_now_us(n->table));
    const struct router_ask ask = {.model = model_id(k, p->model), .request = &q};
    router_candidate(k->router, &ask, n->index, &c);
    pthread_mutex_unlock(o->lock);
    return c.predicted && prediction_is_late(&c.latency, p->first_us, p->tpot_us, p->probability);
}

/* ---- how good is it ------------------------------------------------------------------------------------------------- */

static void look_at_pair(int model, const struct predictor *p, void *arg)
{
    struct node_foresight *f = arg;
    (void)model;
    if (p->ttft.observed >= f->ttft_seen)
        *f = (struct node_foresight){.ttft_seen = p->ttft.observed,
                                     .tpot_seen = p->tpot.observed,
                                     .ttft_off = predict_miscalibration(&p->ttft),
                                     .tpot_off = predict_miscalibration(&p->tpot)};
}

struct node_foresight node_foresight_locked(const struct node *n)
{
    struct node_foresight f = {0};
    router_each_model(nodes_known(n->table)->router, n->index, look_at_pair, &f);
    return f;
}
