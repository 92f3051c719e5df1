#include "policies/router.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "policies/predict.h"
#include "policies/router_event.h"

#define COARSE_US      20000.0
#define COARSE_BATCH   8
#define REORDER_AFTER  64 /* nodes that came, and a quarter of all: like ones are to be neighbours again */
#define RATES_EVERY    64 /* observations */
#define KNOWN_AFTER    3  /* observations of a pair that nothing was known of: from then on it is predicted */
#define US_PER_HOUR    3.6e9
#define LATE_SD        0.02
#define NONE           (-1)
#define CACHE_LINE     64
#define LATE_ROOM      4 /* requests like it for which whoever is late leaves memory */
#define DEFAULT_WITHIN 0.99
#define USUAL_OVER     4096.0 /* requests */
#define USUAL_NEAR     1.05
#define USUAL_IN_NEAR  1.5
#define USUAL_IN_PART  0.25 /* of the mean prompt: most are longer than that */
#define FRESH_FOR      32 /* requests per node: what was learned counts in full; after twice as many for a half, and so on */

struct pair {
    struct predictor p;
    uint64_t heard; /* r->heard as something was learned last */
    int32_t next;   /* of the node, or free */
    int16_t model;
};
/* What any request of a model would find on a node: reckoned when one asks, and good until something happens there. All
 * that a candidate is made of is here, side by side: of places and predictors, which are large, nothing is read for
 * it. */
struct view {
    int16_t model;                    /* NONE: of no use, something has happened */
    bool here, listed, learned, full; /* listed: money is the price list's; learned: trust matters; full: the batch */
    int64_t kv_left, wake_mj;         /* tokens free; INT64_MAX: as many as you like */
    uint64_t heard;                   /* when it was learned */
    double losses_per_us;
    struct marginal_rates rates;
    struct marginal_prices prices;
    struct predict_at at;     /* where c.predicted */
    struct route_candidate c; /* all but `latency` and what depends on the request */
};
struct place {
    uint32_t life;
    bool here, dirty, moved;   /* moved: its kind is not the index's; dirty: its terms are not */
    int32_t in_flight, first;  /* first: pair */
    int64_t queued, held;      /* tokens */
    struct router_facts facts; /* .curve: NULL or to `curve` */
    struct node_curve curve;
    struct router_state state;
    struct marginal_rates rates;
    struct predictor prior; /* of models that nothing is learned of yet */
};
struct router {
    struct place *places;
    struct view *views; /* by node */
    int32_t n_places;
    struct pair *pairs;
    int32_t n_pairs, n_used, free_pair;
    int32_t *dirty, n_dirty; /* places whose terms the index does not know */
    struct shortlist *list;
    int32_t came; /* to the index, since it was last put in order */
    int64_t uusd_per_kwh[ROUTER_SITES_MAX];
    uint64_t growing[SHORTLIST_MODELS_MAX / 64];
    double tail_z;             /* of the normal distribution */
    uint64_t unlearned, heard; /* heard: requests that ended, anywhere: the time by which knowledge ages */
    int32_t n_here;
    uint32_t sent;              /* legs */
    double usual_in, usual_out; /* tokens of those who ask, in the mean of the last ones... */
    double told_in, told_out;   /* ...and as the index knows it */
    router_tap_fn *tap;         /* mostly NULL */
    void *tap_arg;
};

/* Costs a look where nobody listens. */
#define TELL(r, ...)                                                                                                   \
    do {                                                                                                               \
        if (__builtin_expect((r)->tap != NULL, 0))                                                                     \
            (r)->tap((r)->tap_arg, &(struct router_event){__VA_ARGS__});                                               \
    } while (0)

/* ---- life -------------------------------------------------------------------------------------------------------- */

enum rc router_new(struct router **out, const struct router_size *size, struct error *e)
{
    if (size->pairs < 0)
        return error_set(e, RC_INVALID, "%d pairs of node and model: 0 or more are right", size->pairs);
    struct router *r = spw_calloc(1, sizeof(*r));
    const enum rc rc = shortlist_new(&r->list, size->nodes, e);
    if (rc != RC_OK) {
        router_free(r);
        return rc;
    }
    r->n_places = size->nodes;
    r->n_pairs = size->pairs;
    r->places = spw_calloc((size_t)size->nodes, sizeof(*r->places));
    r->views = spw_calloc_aligned((size_t)size->nodes, sizeof(*r->views), CACHE_LINE);
    r->pairs = spw_calloc((size_t)size->pairs + 1, sizeof(*r->pairs));
    r->dirty = spw_calloc((size_t)size->nodes, sizeof(*r->dirty));
    r->free_pair = NONE;
    r->tail_z = normal_quantile(size->probability > 0 && size->probability < 1 ? size->probability : DEFAULT_WITHIN);
    for (int32_t i = 0; i < size->nodes; i++)
        r->places[i].first = r->views[i].model = NONE;
    *out = r;
    return RC_OK;
}

void router_free(struct router *r)
{
    if (!r)
        return;
    shortlist_free(r->list);
    free(r->places);
    free(r->views);
    free(r->pairs);
    free(r->dirty);
    free(r);
}

void router_tap(struct router *r, router_tap_fn *tap, void *arg)
{
    r->tap = tap;
    r->tap_arg = arg;
}

static struct place *at(const struct router *r, int32_t node)
{
    SPW_ASSERT(node >= 0 && node < r->n_places);
    return &r->places[node];
}

static void mark(struct router *r, struct place *p)
{
    const int32_t node = (int32_t)(p - r->places);
    if (!p->dirty)
        r->dirty[r->n_dirty++] = node;
    p->dirty = true;
    r->views[node].model = NONE;
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */

static struct pair *pair_find(const struct router *r, const struct place *p, int model)
{
    for (int32_t i = p->first; i != NONE; i = r->pairs[i].next)
        if (r->pairs[i].model == model)
            return &r->pairs[i];
    return NULL;
}

static double trust_of(const struct router *r, uint64_t heard)
{
    const double fresh = (double)FRESH_FOR * r->n_here, age = (double)(r->heard - heard);
    return age <= fresh ? 1 : exp2(1 - age / fresh);
}

/* Takes a place, with what was known before. NULL: there is none left. */
static struct pair *pair_make(struct router *r, struct place *p, int model)
{
    int32_t i = r->free_pair;
    if (i != NONE)
        r->free_pair = r->pairs[i].next;
    else if (r->n_used < r->n_pairs)
        i = r->n_used++;
    else
        return NULL;
    r->pairs[i] = (struct pair){.p = p->prior, .heard = r->heard, .next = p->first, .model = (int16_t)model};
    p->first = i;
    return &r->pairs[i];
}

static void pairs_drop(struct router *r, struct place *p)
{
    while (p->first != NONE) {
        const int32_t i = p->first;
        p->first = r->pairs[i].next;
        r->pairs[i].next = r->free_pair;
        r->pairs[i].model = NONE;
        r->free_pair = i;
    }
}

static struct predictor *to_learn(struct router *r, struct place *p, int model)
{
    struct pair *pair = pair_find(r, p, model);
    if (!pair)
        pair = pair_make(r, p, model);
    r->unlearned += !pair;
    if (pair)
        pair->heard = r->heard;
    return pair ? &pair->p : NULL;
}

static bool is_predicted(const struct place *p, const struct predictor *known)
{
    return p->facts.curve || known->ttft.observed >= KNOWN_AFTER;
}

/* What a token takes of the machine: measured, or else learned of the model that it was asked for most, or else guessed. */
static void set_rates(const struct router *r, struct place *p)
{
    const struct pair *most = NULL;
    for (int32_t i = p->first; i != NONE; i = r->pairs[i].next)
        if (r->pairs[i].p.tpot.observed >= RATES_EVERY &&
            (!most || r->pairs[i].p.tpot.observed > most->p.tpot.observed))
            most = &r->pairs[i];
    const struct node_curve learned = predictor_curve(most ? &most->p : &p->prior);
    p->rates = marginal_rates(&p->facts.money, p->facts.curve ? p->facts.curve : &learned);
}

/* ---- what a node is ---------------------------------------------------------------------------------------------- */

static bool same_curve(const struct place *p, const struct node_curve *c)
{
    if (!c || !p->facts.curve)
        return !c && !p->facts.curve;
    return c->base_us == p->curve.base_us && c->prefill_us_per_tok == p->curve.prefill_us_per_tok &&
           c->decode_us_base == p->curve.decode_us_base && c->decode_us_per_seq == p->curve.decode_us_per_seq;
}

static void begin_anew(struct router *r, struct place *p)
{
    pairs_drop(r, p);
    predictor_init(&p->prior, &(struct predict_prior){
                                  .curve = p->facts.curve, .chunk = p->facts.chunk, .log_sd = p->facts.log_sd});
    set_rates(r, p);
}

void router_put(struct router *r, int32_t node, const struct router_facts *f)
{
    struct place *p = at(r, node);
    SPW_ASSERT(f->site >= 0 && f->site < ROUTER_SITES_MAX);
    TELL(r, .kind = ROUTER_PUT, .node = node, .u.facts = f);
    const bool known = p->here && same_curve(p, f->curve) && p->facts.chunk == f->chunk;
    if (!p->here) {
        const uint32_t life = p->life + 1;
        const bool dirty = p->dirty;
        *p = (struct place){.life = life, .first = NONE, .here = true, .dirty = dirty, .state = {SHORTLIST_DOWN, 0, 0}};
        r->came++;
        r->n_here++;
    }
    p->facts = *f;
    if (f->curve)
        p->curve = *f->curve;
    p->facts.curve = f->curve ? &p->curve : NULL;
    p->moved = true;
    if (known)
        set_rates(r, p);
    else
        begin_anew(r, p);
    mark(r, p);
}

void router_drop(struct router *r, int32_t node)
{
    struct place *p = at(r, node);
    if (!p->here)
        return;
    TELL(r, .kind = ROUTER_DROP, .node = node);
    pairs_drop(r, p);
    p->here = false;
    r->n_here--;
    p->in_flight = 0;
    mark(r, p);
}

bool router_has(const struct router *r, int32_t node)
{
    return at(r, node)->here;
}

void router_forget(struct router *r, int32_t node)
{
    struct place *p = at(r, node);
    if (!p->here)
        return;
    TELL(r, .kind = ROUTER_FORGET, .node = node);
    begin_anew(r, p);
    mark(r, p);
}

void router_like(struct router *r, int32_t node, int32_t other)
{
    struct place *p = at(r, node), *o = at(r, other);
    if (!p->here || !o->here || p == o)
        return;
    TELL(r, .kind = ROUTER_LIKE, .node = node, .u.other = other);
    pairs_drop(r, p);
    p->prior = o->prior;
    for (int32_t i = o->first; i != NONE; i = r->pairs[i].next) {
        struct pair *pair = pair_make(r, p, r->pairs[i].model);
        if (!pair)
            break;
        pair->p = r->pairs[i].p;
        memset(pair->p.ttft.tenths, 0, sizeof(pair->p.ttft.tenths)); /* those are the other's */
        memset(pair->p.tpot.tenths, 0, sizeof(pair->p.tpot.tenths));
    }
    set_rates(r, p);
    mark(r, p);
}

void router_state(struct router *r, int32_t node, const struct router_state *s)
{
    struct place *p = at(r, node);
    SPW_ASSERT(p->here);
    TELL(r, .kind = ROUTER_STATE, .node = node, .u.state = s);
    p->state = *s;
    mark(r, p);
}

void router_tariff(struct router *r, int32_t site, int64_t uusd_per_kwh)
{
    SPW_ASSERT(site >= 0 && site < ROUTER_SITES_MAX);
    if (r->uusd_per_kwh[site] == uusd_per_kwh)
        return;
    TELL(r, .kind = ROUTER_TARIFF, .u.tariff = {site, uusd_per_kwh});
    r->uusd_per_kwh[site] = uusd_per_kwh;
    for (int32_t i = 0; i < r->n_places; i++)
        if (r->places[i].here && r->places[i].facts.site == site)
            mark(r, &r->places[i]);
}

static bool has_bit(const uint64_t *bits, int i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

void router_growing(struct router *r, int model, bool growing)
{
    if (has_bit(r->growing, model) == growing)
        return;
    TELL(r, .kind = ROUTER_GROWING, .u.growing = {model, growing});
    r->growing[model / 64] ^= UINT64_C(1) << (model % 64);
    for (int32_t i = 0; i < r->n_places; i++) {
        struct place *p = &r->places[i];
        if (p->here && p->facts.money.kind == MARGINAL_RENTED && has_bit(p->facts.kind.models, model))
            mark(r, p);
    }
}

/* ---- what happens ------------------------------------------------------------------------------------------------ */

static struct place *place_of(const struct router *r, const struct router_leg *leg)
{
    if (leg->node < 0)
        return NULL;
    struct place *p = at(r, leg->node);
    return p->here && p->life == leg->life ? p : NULL;
}

static int64_t fresh_of(const struct router_leg *leg)
{
    return leg->prompt > leg->cached ? leg->prompt - leg->cached : 0;
}

void router_sent(struct router *r, int32_t node, const struct router_work *w, struct router_leg *leg)
{
    struct place *p = at(r, node);
    SPW_ASSERT(p->here);
    *leg = (struct router_leg){.node = node,
                               .life = p->life,
                               .others = p->in_flight++,
                               .number = ++r->sent,
                               .prompt = w->prompt,
                               .cached = w->cached,
                               .queued = p->queued,
                               .held = w->held > 0 ? w->held : w->prompt + (w->output > 0 ? w->output : 0),
                               .model = (int16_t)w->model};
    p->queued += fresh_of(leg);
    p->held += leg->held;
    mark(r, p);
    TELL(r, .kind = ROUTER_SENT, .node = node, .u.sent = {w, leg});
}

static struct predict_load load_of(const struct router_leg *leg)
{
    return (struct predict_load){
        .others = leg->others, .prompt = leg->prompt, .cached = leg->cached, .queued = leg->queued};
}

void router_spoke(struct router *r, struct router_leg *leg, double ttft_us)
{
    struct place *p = place_of(r, leg);
    if (!p || leg->spoke)
        return;
    TELL(r, .kind = ROUTER_SPOKE, .u.heard = {leg->number, ttft_us});
    leg->spoke = true;
    p->queued -= fresh_of(leg);
    const struct predict_load load = load_of(leg);
    struct predictor *known = ttft_us > 0 ? to_learn(r, p, leg->model) : NULL;
    if (known)
        predictor_saw_ttft(known, &load, ttft_us);
    mark(r, p);
}

void router_ended(struct router *r, struct router_leg *leg, double tpot_us)
{
    struct place *p = place_of(r, leg);
    if (leg->node >= 0) {
        TELL(r, .kind = ROUTER_ENDED, .u.heard = {leg->number, tpot_us});
        r->heard++;
    }
    if (p) {
        if (!leg->spoke)
            p->queued -= fresh_of(leg);
        p->held -= leg->held;
        p->in_flight--;
        SPW_ASSERT(p->in_flight >= 0 && p->queued >= 0 && p->held >= 0);
        const struct predict_load load = load_of(leg);
        struct predictor *known = tpot_us > 0 ? to_learn(r, p, leg->model) : NULL;
        if (known)
            predictor_saw_tpot(known, &load, tpot_us);
        if (known && known->tpot.observed % RATES_EVERY == 0 && !p->facts.curve)
            set_rates(r, p);
        mark(r, p);
    }
    leg->node = NONE;
}

int32_t router_in_flight(const struct router *r, int32_t node)
{
    return at(r, node)->in_flight;
}

/* ---- the index --------------------------------------------------------------------------------------------------- */

/* The index gets coarse figures, so that near equals are equal there: of equals it looks at a few, of others at all
 * that could be better, and it changes less often. Candidates are judged by exact ones. */
static float coarse_us(double us)
{
    return (float)(ceil(us / COARSE_US) * COARSE_US);
}

static float coarse(double v) /* up by 3% at most */
{
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    bits = (bits + 0x3ffffu) & ~0x3ffffu;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Would one that takes so much memory wait inside for somebody to end? Two more that are as long are reckoned with,
 * since some turn out longer than expected. */
static int64_t kv_left(const struct place *p)
{
    return p->facts.kv_tokens > 0 && p->in_flight > 0 ? p->facts.kv_tokens - p->held : INT64_MAX;
}
static bool is_crowded(int64_t left, int64_t held, bool stands_back)
{
    return (stands_back ? 3 + LATE_ROOM : 3) * held > left;
}

static bool is_batch_full(const struct place *p)
{
    return p->facts.sequences > 0 && p->in_flight >= p->facts.sequences;
}

/* For memory, or for a place in the batch: nobody foresees for how long. */
static bool is_late(const struct place *p)
{
    return is_batch_full(p) || is_crowded(kv_left(p), 0, false);
}

static enum shortlist_state state_of(const struct place *p)
{
    const bool full = (p->facts.slots > 0 && p->in_flight >= p->facts.slots) || is_crowded(kv_left(p), 0, false);
    return p->state.state == SHORTLIST_READY && full ? SHORTLIST_FULL : p->state.state;
}

static struct marginal_work work_of(const struct router *r, const struct place *p, bool growing)
{
    return (struct marginal_work){.wake_mj = p->state.wake_mj,
                                  .uusd_per_kwh = r->uusd_per_kwh[p->facts.site],
                                  .growing = growing && p->facts.money.kind == MARGINAL_RENTED};
}

/* Of a node's models the index knows one set of figures: of each the least. */
struct least {
    bool predicted;
    double first_us, per_input_us, next_us, sd;
};
static void take_least(struct least *l, const struct place *p, const struct predictor *known, int32_t others)
{
    struct predict_at loaded;
    predict_at(known, others, p->queued, &loaded);
    const struct predict_line line = predict_first(known, &loaded);
    l->predicted = l->predicted && is_predicted(p, known);
    l->first_us = fmin(l->first_us, line.fixed_us);
    l->per_input_us = fmin(l->per_input_us, line.per_token_us);
    l->next_us = fmin(l->next_us, loaded.tpot.median_us);
    l->sd = fmin(l->sd, known->ttft.all.s.sd_above);
}

static struct least least_of(const struct router *r, const struct place *p)
{
    struct least l = {true, INFINITY, INFINITY, INFINITY, INFINITY};
    const int32_t others = (p->in_flight + COARSE_BATCH - 1) / COARSE_BATCH * COARSE_BATCH;
    if (p->first == NONE)
        take_least(&l, p, &p->prior, others);
    for (int32_t i = p->first; i != NONE; i = r->pairs[i].next)
        take_least(&l, p, &r->pairs[i].p, others);
    return l;
}

static struct shortlist_terms terms_of(const struct router *r, const struct place *p)
{
    const struct least least = least_of(r, p);
    bool growing = true;
    for (int i = 0; i < SHORTLIST_MODELS_MAX / 64; i++)
        growing = growing && !(p->facts.kind.models[i] & ~r->growing[i]);
    const struct marginal_work work = work_of(r, p, growing);
    const struct marginal_prices money = marginal_prices(&p->facts.money, &p->rates, &work);
    struct shortlist_terms t = {.state = state_of(p),
                                .money = (float)money.fixed,
                                .money_per_input = (float)money.per_input,
                                .money_per_output = (float)money.per_output,
                                .tail = 1,
                                .mj = (float)p->state.wake_mj,
                                .mj_per_input = (float)p->rates.mj_per_input,
                                .mj_per_output = (float)p->rates.mj_per_output};
    if (!least.predicted)
        return t; /* as good as the best: somebody is to find out */
    t.first_us = is_late(p) ? (float)ROUTER_LATE_US : coarse_us(least.first_us + (double)p->state.wake_us);
    t.first_us_per_input = coarse(least.per_input_us);
    t.next_us = coarse(least.next_us);
    t.tail = coarse(fmax(1, exp(least.sd * r->tail_z)));
    return t;
}

static void tell_index(struct router *r, int32_t node)
{
    struct place *p = &r->places[node];
    p->dirty = false;
    if (!p->here) {
        shortlist_drop(r->list, node);
        return;
    }
    const struct shortlist_terms t = terms_of(r, p);
    if (p->moved)
        shortlist_put(r->list, node, &p->facts.kind, &t);
    else
        shortlist_update(r->list, node, &t);
    p->moved = false;
}

static void learn_changes(struct router *r)
{
    while (r->n_dirty)
        tell_index(r, r->dirty[--r->n_dirty]);
    if (r->came >= REORDER_AFTER && 4 * r->came >= shortlist_count(r->list)) {
        shortlist_order(r->list);
        r->came = 0;
    }
}

static void set_weights(struct shortlist_query *q, enum route_objective o)
{
    switch (o) {
    case ROUTE_COST: /* among equals the less busy: a second is worth a billionth of a dollar */
        q->w_money = 1;
        q->w_us = 0.001f;
        break;
    case ROUTE_LATENCY: q->w_us = 1; break;
    case ROUTE_ENERGY:
        q->w_mj = 1;
        q->w_us = 1e-9f;
        break;
    case ROUTE_BALANCED: /* a second is worth a tenth of a cent, as a kWh is 12 cents */
        q->w_money = 1;
        q->w_us = 1000;
        q->w_mj = 33;
        break;
    }
}

static int64_t not_negative(int64_t v)
{
    return v > 0 ? v : 0;
}

/* What is a usual request? The index is told when it is another, which takes about as long as a look at every node. */
static void learn_usual(struct router *r, const struct route_request *q)
{
    r->usual_in += ((double)not_negative(q->input_tokens) - r->usual_in) / USUAL_OVER;
    r->usual_out += ((double)not_negative(q->output_tokens) - r->usual_out) / USUAL_OVER;
    if (r->usual_out > r->told_out * USUAL_NEAR || r->usual_out * USUAL_NEAR < r->told_out ||
        r->usual_in > r->told_in * USUAL_IN_NEAR || r->usual_in * USUAL_IN_NEAR < r->told_in) {
        r->told_in = r->usual_in;
        r->told_out = r->usual_out;
        shortlist_usual(r->list, (float)(r->told_in * USUAL_IN_PART), (float)r->told_out);
    }
}

int router_list(struct router *r, const struct router_ask *a, int32_t out[SHORTLIST_MAX])
{
    const struct route_request *q = a->request;
    int32_t hints[SHORTLIST_HINTS_MAX];
    int64_t held = 0;
    learn_changes(r);
    learn_usual(r, q);
    SPW_ASSERT(a->n_holders <= SHORTLIST_HINTS_MAX && a->n_skip <= SHORTLIST_SKIP_MAX);
    for (int i = 0; i < a->n_holders; i++) {
        hints[i] = a->holders[i].node;
        held = a->holders[i].tokens > held ? a->holders[i].tokens : held;
    }
    struct shortlist_query ask = {.model = a->model,
                                  .local_only = q->local_only,
                                  .input_tokens = (float)q->input_tokens,
                                  .output_tokens = (float)q->output_tokens,
                                  .first_limit_us = (float)q->slo.ttft_us,
                                  .next_limit_us = (float)q->slo.tpot_us,
                                  .hints = hints,
                                  .n_hints = a->n_holders,
                                  .skip = a->skip,
                                  .n_skip = a->n_skip,
                                  .want = SHORTLIST_MAX};
    set_weights(&ask, q->objective);
    struct shortlist_result found;
    shortlist_pick(r->list, &ask, &found);
    memcpy(out, found.nodes, (size_t)found.n * sizeof(*out));
    TELL(r, .kind = ROUTER_LISTED, .u.choice = {.ask = a, .nodes = out, .n = found.n});
    return found.n;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

static int64_t held_of(const struct router_ask *a, int32_t node)
{
    for (int i = 0; i < a->n_holders; i++)
        if (a->holders[i].node == node)
            return a->holders[i].tokens;
    return 0;
}

static int64_t memory_of(const struct router_ask *a)
{
    return a->held ? a->held : a->request->input_tokens + a->request->output_tokens;
}

static void view_money(const struct router *r, const struct place *p, struct view *v)
{
    const struct marginal_work work = work_of(r, p, has_bit(r->growing, v->model));
    v->rates = p->rates;
    v->prices = marginal_prices(&p->facts.money, &p->rates, &work);
    v->listed = marginal_by_the_list(&p->facts.money, &p->rates);
    v->wake_mj = p->state.wake_mj;
}

static void set_view(const struct router *r, int32_t node, struct view *v, int model)
{
    const struct place *p = &r->places[node];
    v->model = (int16_t)model;
    v->here = p->here;
    v->learned = false;
    v->c.serves_model = p->here && has_bit(p->facts.kind.models, model);
    v->c.predicted = false;
    v->c.queue_us = 0;
    if (!p->here)
        return;
    v->c.healthy = p->state.state == SHORTLIST_READY || p->state.state == SHORTLIST_FULL;
    v->c.local = p->facts.kind.local;
    v->c.in_flight = p->in_flight;
    v->c.slots = p->facts.slots;
    v->c.prices = p->facts.money.listed;
    v->c.wake_us = p->state.wake_us;
    v->c.bought = p->facts.money.kind == MARGINAL_METERED;
    v->full = is_batch_full(p);
    v->kv_left = kv_left(p);
    v->losses_per_us = p->facts.losses_per_hour / US_PER_HOUR;
    if (!v->c.serves_model)
        return;
    view_money(r, p, v);
    const struct pair *pair = pair_find(r, p, model);
    const struct predictor *known = pair ? &pair->p : &p->prior;
    v->learned = pair != NULL;
    v->heard = pair ? pair->heard : 0;
    v->c.predicted = is_predicted(p, known);
    if (v->c.predicted)
        predict_at(known, p->in_flight, p->queued, &v->at);
}

/* What it would come to there, money and energy. */
static void reckon(const struct router *r, const struct router_ask *a, int32_t node, const struct view *v,
                   struct route_candidate *out)
{
    const int64_t input = not_negative(a->request->input_tokens), output = not_negative(a->request->output_tokens);
    const int64_t cached = out->cached_tokens < input ? out->cached_tokens : input;
    struct marginal m;
    if (v->listed) {
        const struct marginal_work work = {.input = input, .cached = cached, .output = output, .wake_mj = v->wake_mj};
        m = marginal_at(&r->places[node].facts.money, &v->rates, &v->prices, &work);
    } else {
        m = marginal_machine(&v->rates, &v->prices, v->wake_mj, (double)(input - cached), (double)output);
    }
    out->has_marginal = m.has_money;
    out->marginal = m.money;
    out->has_energy = m.has_energy;
    out->marginal_mj = m.mj;
}

static void foresee(const struct router *r, const struct router_ask *a, struct view *v, struct route_candidate *out)
{
    const struct route_request *q = a->request;
    /* An SLO's bound for it is mostly the same for all who ask. */
    const double limit_us = (double)q->slo.tpot_us;
    if (v->at.tpot.limit_us != limit_us) {
        v->at.tpot.within_limit = latency_within(&v->at.tpot, limit_us);
        v->at.tpot.limit_us = limit_us;
    }
    const double trust = v->learned ? trust_of(r, v->heard) : 1;
    out->queue_us = predict_from(&v->at, q->input_tokens - out->cached_tokens, trust, &out->latency);
    if (v->full || out->crowded)
        out->latency.ttft = (struct latency){.median_us = ROUTER_LATE_US, .log_sd = LATE_SD};
    if (!(v->losses_per_us > 0))
        return;
    const double us = latency_mean(&out->latency.ttft) + (double)q->output_tokens * latency_mean(&out->latency.tpot);
    const double losses = v->losses_per_us * us;
    out->risk = losses < 1e-3 ? losses : -expm1(-losses); /* the same to a thousandth of it */
}

void router_candidate(const struct router *r, const struct router_ask *a, int32_t node, struct route_candidate *out)
{
    SPW_ASSERT(node >= 0 && node < r->n_places);
    struct view *v = &r->views[node];
    if (v->model != a->model)
        set_view(r, node, v, a->model);
    memcpy(out, &v->c, offsetof(struct route_candidate, latency));
    if (!out->predicted)
        out->latency = (struct prediction){.ttft = {0}};
    if (!v->here) {
        *out = (struct route_candidate){.serves_model = false};
        return;
    }
    out->cached_tokens = held_of(a, node);
    out->crowded = is_crowded(v->kv_left, memory_of(a), a->request->stands_back);
    if (out->serves_model)
        reckon(r, a, node, v, out);
    if (out->predicted)
        foresee(r, a, v, out);
}

void router_choose(const struct router *r, const struct router_ask *a, const int32_t *nodes,
                   const struct route_candidate *c, int32_t n, struct route_decision *d)
{
    route_choose(d, a->request, c, n);
    TELL(r, .kind = ROUTER_CHOSE, .u.choice = {a, nodes, n, c, d});
}

/* ---- what was learned -------------------------------------------------------------------------------------------- */

const struct predictor *router_learned(const struct router *r, int32_t node, int model)
{
    const struct pair *pair = pair_find(r, at(r, node), model);
    return pair ? &pair->p : NULL;
}

void router_each_model(const struct router *r, int32_t node,
                       void (*each)(int model, const struct predictor *p, void *arg), void *arg)
{
    for (int32_t i = at(r, node)->first; i != NONE; i = r->pairs[i].next)
        each(r->pairs[i].model, &r->pairs[i].p, arg);
}

struct router_stats router_stats(const struct router *r)
{
    struct router_stats s = {.pairs_max = r->n_pairs, .unlearned = r->unlearned, .pairs = r->n_used};
    for (int32_t i = r->free_pair; i != NONE; i = r->pairs[i].next)
        s.pairs--;
    return s;
}

const struct shortlist *router_shortlist(const struct router *r)
{
    return r->list;
}
