/* See route.h. Who may still be chosen is in the field; each step of the rule takes some out and writes down why, the
 * last one leaves one. */
#include "policies/route.h"

#include <math.h>

#include "base/error.h"

/* A node that holds the whole prompt is preferred to one that holds nothing of it and has fewer requests, as long as
 * they differ by less than 1 / PROMPTS_PER_SLOTS of their slots: affinity must not make a hot spot. */
#define PROMPTS_PER_SLOTS 2

const char *route_objective_name(enum route_objective o)
{
    static const char *const names[] = {"cost", "latency", "energy", "balanced"};
    return names[o];
}

const char *route_reason_name(enum route_reason r)
{
    switch (r) {
    case ROUTE_CHOSEN: return "chosen";
    case ROUTE_OTHER_MODEL: return "other_model";
    case ROUTE_NOT_LOCAL: return "not_local";
    case ROUTE_TOO_DEAR: return "too_dear";
    case ROUTE_UNFIT: return "unfit";
    case ROUTE_TRIED: return "tried";
    case ROUTE_DRAINING: return "draining";
    case ROUTE_SPARED: return "spared";
    case ROUTE_UNHEALTHY: return "unhealthy";
    case ROUTE_BREAKER_OPEN: return "breaker_open";
    case ROUTE_COOLING_DOWN: return "cooling_down";
    case ROUTE_KEPT: return "kept";
    case ROUTE_FULL: return "full";
    case ROUTE_LESS_FIT: return "less_fit";
    case ROUTE_MISSES_SLO: return "misses_slo";
    case ROUTE_DEARER: return "dearer";
    case ROUTE_SLOWER: return "slower";
    case ROUTE_HUNGRIER: return "hungrier";
    case ROUTE_WORSE: return "worse";
    case ROUTE_RISKIER: return "riskier";
    case ROUTE_BUSIER: return "busier";
    case ROUTE_LESS_CACHED: return "less_cached";
    case ROUTE_TIE: return "tie";
    case ROUTE_NOT_LISTED: return "not_listed";
    }
    return "unknown";
}

const char *route_reason_text(enum route_reason r)
{
    switch (r) {
    case ROUTE_CHOSEN: return "answers";
    case ROUTE_OTHER_MODEL: return "does not serve the model";
    case ROUTE_NOT_LOCAL: return "is not on the premises, which the request must not leave";
    case ROUTE_TOO_DEAR: return "might come to more than the client's bound";
    case ROUTE_UNFIT: return "cannot go on with an answer that has begun elsewhere";
    case ROUTE_TRIED: return "has failed for this request already";
    case ROUTE_DRAINING: return "is draining";
    case ROUTE_SPARED: return "is spared for one that is awake, or that is waited for";
    case ROUTE_UNHEALTHY: return "is not in service";
    case ROUTE_BREAKER_OPEN: return "failed too often, and is left alone for a while";
    case ROUTE_COOLING_DOWN: return "asked to be left alone for a while";
    case ROUTE_KEPT: return "is kept for a request that must be alone";
    case ROUTE_FULL: return "has no free slot, not the memory or the watts for it, or too long a queue of prompts";
    case ROUTE_LESS_FIT: return "suits less well where the request stands";
    case ROUTE_MISSES_SLO: return "is too likely to miss the SLO";
    case ROUTE_DEARER: return "is dearer";
    case ROUTE_SLOWER: return "is slower";
    case ROUTE_HUNGRIER: return "takes more energy";
    case ROUTE_WORSE: return "is worse in money, time and energy together";
    case ROUTE_RISKIER: return "is likelier to be lost before the answer ends";
    case ROUTE_BUSIER: return "is busier";
    case ROUTE_LESS_CACHED: return "would have to read more of the prompt";
    case ROUTE_TIE: return "is as good, and was not drawn";
    case ROUTE_NOT_LISTED: return "was not worth a look";
    }
    return "is unknown";
}

static bool too_dear(const struct route_request *r, const struct route_candidate *c)
{
    return r->bounded && money_output_within(&c->prices, r->charge_max, r->input_max) < r->output_min;
}

/* Of two numbers; fmin() and fmax() are calls. */
static double lesser(double a, double b)
{
    return a < b ? a : b;
}
static double greater(double a, double b)
{
    return a > b ? a : b;
}

/* What the prompts before it on a node would do to a request. */
enum in_queue {
    QUEUE_IS_SHORT,
    QUEUE_MAKES_LATE,    /* without them it would be in time: the node that is first through with its queue takes it */
    QUEUE_IS_FOR_OTHERS, /* it is late with or without them, and would make others late who come after it */
};
static enum in_queue look_at_queue(const struct route_request *r, const struct route_candidate *c)
{
    if (!r->slo.ttft_us || r->presses || !c->predicted || c->bought || !(c->queue_us > 0))
        return QUEUE_IS_SHORT;
    const double limit = (double)(r->slo.ttft_us - c->wake_us), left = limit - (double)r->waited_us;
    const double then = c->latency.ttft.median_us, alone = then - c->queue_us;
    if (left > 0 && alone <= left)
        return then > left ? QUEUE_MAKES_LATE : QUEUE_IS_SHORT;
    const bool yields = (left > 0 || r->stands_back) && c->queue_us > ROUTE_LATE_QUEUE * greater(limit, alone);
    return yields ? QUEUE_IS_FOR_OTHERS : QUEUE_IS_SHORT;
}

static bool has_room(const struct route_request *r, const struct route_candidate *c)
{
    return (c->slots <= 0 || c->in_flight < c->slots) && (!r->alone || c->in_flight <= 0) &&
           (!c->crowded || r->presses) && !c->no_watts;
}

/* Why c may not answer r, or ROUTE_CHOSEN when it may. */
static enum route_reason admit(const struct route_request *r, const struct route_candidate *c)
{
    if (!c->serves_model)
        return ROUTE_OTHER_MODEL;
    if (r->local_only && !c->local)
        return ROUTE_NOT_LOCAL;
    if (too_dear(r, c))
        return ROUTE_TOO_DEAR;
    if (c->unfit)
        return ROUTE_UNFIT;
    if (c->tried)
        return ROUTE_TRIED;
    if (c->draining)
        return ROUTE_DRAINING;
    if (c->spared)
        return ROUTE_SPARED;
    if (!c->healthy)
        return ROUTE_UNHEALTHY;
    if (c->broken)
        return ROUTE_BREAKER_OPEN;
    if (c->cooling)
        return ROUTE_COOLING_DOWN;
    if (c->kept)
        return ROUTE_KEPT;
    if (!has_room(r, c) || look_at_queue(r, c) != QUEUE_IS_SHORT)
        return ROUTE_FULL;
    return ROUTE_CHOSEN;
}

static bool is_put_off(enum route_reason r)
{
    return r == ROUTE_BREAKER_OPEN || r == ROUTE_COOLING_DOWN;
}

/* c may not answer now, for this reason: could waiting help, and from when on? */
static void note_wait(struct route_decision *d, enum route_reason reason, const struct route_candidate *c)
{
    if (reason != ROUTE_UNHEALTHY && reason != ROUTE_KEPT && reason != ROUTE_FULL && !is_put_off(reason))
        return;
    int64_t back_us = is_put_off(reason) && c->back_us > 0 ? c->back_us : 0;
    if (!d->may_wait || back_us < d->back_us)
        d->back_us = back_us;
    d->may_wait = true;
}

/* <0, 0, >0 as a carries less, the same or more load per slot than b. Products of two int32 fit int64. */
static int compare_load(const struct route_candidate *a, const struct route_candidate *b)
{
    int64_t slots_a = a->slots > 0 ? a->slots : ROUTE_SLOTS_WHEN_UNBOUNDED;
    int64_t slots_b = b->slots > 0 ? b->slots : ROUTE_SLOTS_WHEN_UNBOUNDED;
    int64_t load_a = a->in_flight * slots_b, load_b = b->in_flight * slots_a;
    return (load_a > load_b) - (load_a < load_b);
}

static int64_t at_least(int64_t least, int64_t v)
{
    return v > least ? v : least;
}

/* Of the prompt, that it need not read. */
static int64_t cached_of(const struct route_request *r, const struct route_candidate *c)
{
    int64_t input = at_least(0, r->input_tokens), cached = at_least(0, c->cached_tokens);
    return cached < input ? cached : input;
}

/* <0, 0, >0 as the request means less, the same or more work on a than on b: load and what is left of the prompt to
 * read, as fractions of slots and of the prompt. Exact: products of two int32 and a prompt, in 128 bits. */
static int compare_work(const struct route_request *r, const struct route_candidate *a, const struct route_candidate *b)
{
    __extension__ typedef __int128 wide;
    int64_t slots_a = a->slots > 0 ? a->slots : ROUTE_SLOTS_WHEN_UNBOUNDED;
    int64_t slots_b = b->slots > 0 ? b->slots : ROUTE_SLOTS_WHEN_UNBOUNDED;
    int64_t more_load = a->in_flight * slots_b - b->in_flight * slots_a;
    int64_t input = at_least(1, r->input_tokens);
    wide more =
        (wide)more_load * PROMPTS_PER_SLOTS * input - (wide)(slots_a * slots_b) * (cached_of(r, a) - cached_of(r, b));
    return (more > 0) - (more < 0);
}

/* ---- what each would come to ------------------------------------------------------------------------------------ */

/* An estimate that does not fit is as dear as can be, not an error: somebody must still answer. */
double route_money(const struct route_request *r, const struct route_candidate *c)
{
    if (c->has_marginal)
        return (double)c->marginal.v;
    struct token_counts n = {.input = at_least(0, r->input_tokens),
                             .cached_input = cached_of(r, c),
                             .output = at_least(0, r->output_tokens)};
    struct pusd charge;
    return money_charge(&c->prices, &n, &charge) == RC_OK ? (double)charge.v : (double)INT64_MAX;
}

static double time_of(const struct route_request *r, const struct route_candidate *c)
{
    if (!c->predicted)
        return -1;
    double later = r->output_tokens > 1 ? (double)(r->output_tokens - 1) : 0;
    return (double)c->wake_us + latency_mean(&c->latency.ttft) + later * latency_mean(&c->latency.tpot);
}

/* TTFT and TPOT are taken to miss independently; that is on the safe side where they miss together. */
static double p_slo_of(const struct route_request *r, const struct route_candidate *c)
{
    double p = 1;
    if (!c->predicted)
        return p;
    if (r->slo.ttft_us)
        p *= latency_within(&c->latency.ttft, (double)(r->slo.ttft_us - c->wake_us - r->waited_us));
    if (r->slo.tpot_us)
        p *= latency_within(&c->latency.tpot, (double)r->slo.tpot_us);
    return p;
}

/* ---- the steps -------------------------------------------------------------------------------------------------- */

struct field {
    struct route_decision *d;
    const struct route_request *r;
    const struct route_candidate *c;
    int32_t n, left;
    bool ranked;                      /* some suit better than others */
    uint8_t in[ROUTE_CANDIDATES_MAX]; /* [left] candidates, in order */
};

static void admit_all(struct field *f)
{
    struct route_decision *d = f->d;
    int32_t rank = 0;
    bool yields = false, has_its_turn = false; /* to others; when a place comes free */
    for (int32_t i = 0; i < f->n; i++) {
        const enum route_reason why = admit(f->r, &f->c[i]);
        d->terms[i] = (struct route_terms){0};
        d->reasons[i] = why;
        d->model_known |= f->c[i].serves_model;
        if (why == ROUTE_CHOSEN) {
            f->ranked |= f->left > 0 && f->c[i].rank != rank;
            rank = f->c[i].rank;
            f->in[f->left++] = (uint8_t)i;
        } else {
            const bool busy = why == ROUTE_FULL || why == ROUTE_KEPT;
            const bool late =
                why == ROUTE_FULL && has_room(f->r, &f->c[i]) && look_at_queue(f->r, &f->c[i]) == QUEUE_IS_FOR_OTHERS;
            yields |= late;
            has_its_turn |= busy && !late;
            d->busy |= busy;
            note_wait(d, why, &f->c[i]);
        }
    }
    d->too_late = f->left == 0 && yields && !has_its_turn;
}

static const struct route_candidate *candidate(const struct field *f, int32_t k)
{
    return &f->c[f->in[k]];
}

static struct route_terms *terms(const struct field *f, int32_t k)
{
    return &f->d->terms[f->in[k]];
}

/* Who passes stays in the field, as the kept-th; the others are out, for this reason. Returns how many are kept by now. */
static inline int32_t stays(struct field *f, int32_t kept, int32_t k, bool passes, enum route_reason why)
{
    const uint8_t who = f->in[k];
    f->in[kept] = who;
    if (!passes)
        f->d->reasons[who] = why;
    return kept + passes;
}

static void best_rank(struct field *f)
{
    int32_t best = INT32_MAX;
    if (!f->ranked)
        return;
    for (int32_t k = 0; k < f->left; k++)
        best = candidate(f, k)->rank < best ? candidate(f, k)->rank : best;
    int32_t kept = 0;
    for (int32_t k = 0; k < f->left; k++)
        kept = stays(f, kept, k, candidate(f, k)->rank <= best, ROUTE_LESS_FIT);
    f->left = kept;
}

static bool runs_anyway(const struct route_candidate *c)
{
    return !c->bought && c->wake_us <= 0;
}

static void likely_in_time(struct field *f)
{
    double most = 0, running = 0;
    for (int32_t k = 0; k < f->left; k++) {
        const double p = p_slo_of(f->r, candidate(f, k));
        terms(f, k)->p_slo = p;
        most = p > most ? p : most;
        running = p > running && runs_anyway(candidate(f, k)) ? p : running;
    }
    const double asked = most >= f->r->slo.probability ? f->r->slo.probability : most - ROUTE_NEAR_SLO;
    const double surely = greater(asked, lesser(f->r->slo.sure, running - ROUTE_NEAR_SLO));
    int32_t kept = 0;
    for (int32_t k = 0; k < f->left; k++)
        kept = stays(f, kept, k, !(terms(f, k)->p_slo < surely), ROUTE_MISSES_SLO);
    f->left = kept;
}

/* Only answers that are bought are left, and they would be late, while a node of ours is merely full: for the first
 * half of its time a request waits for that one. */
static bool waiting_may_help(struct field *f)
{
    const struct route_request *r = f->r;
    if (!f->d->busy || !r->slo.ttft_us || r->presses || 2 * r->waited_us >= r->slo.ttft_us)
        return false;
    for (int32_t k = 0; k < f->left; k++) {
        const struct route_candidate *c = candidate(f, k);
        if (!c->bought || !c->predicted || c->latency.ttft.median_us <= (double)(r->slo.ttft_us - r->waited_us))
            return false;
    }
    for (int32_t k = 0; k < f->left; k++)
        f->d->reasons[f->in[k]] = ROUTE_MISSES_SLO;
    f->d->may_wait = true;
    return true;
}

struct least_and_mean {
    double least, mean; /* of those that are known; -1: nobody is */
};
static struct least_and_mean look_over(const struct field *f, const double *of_first, size_t stride)
{
    struct least_and_mean m = {-1, -1};
    double sum = 0;
    int32_t known = 0;
    for (int32_t k = 0; k < f->left; k++) {
        const double v = *(const double *)((const char *)of_first + f->in[k] * stride);
        if (v < 0)
            continue;
        m.least = known++ && m.least < v ? m.least : v;
        sum += v;
    }
    m.mean = known ? sum / known : -1;
    return m;
}

static double known_or_best(double v, const struct least_and_mean *m)
{
    return v >= 0 ? v : m->least >= 0 ? m->least : 0;
}

/* 1 for the best of its kind; a hundredth of the mean on both sides keeps a best of nothing from making all others
 * infinitely worse. */
static double against_best(double v, const struct least_and_mean *m)
{
    double some = m->mean > 0 ? m->mean / 100 : 1;
    return m->least < 0 ? 1 : (known_or_best(v, m) + some) / (m->least + some);
}

static void set_values(struct field *f)
{
    struct least_and_mean money = {-1, -1}, us = money, mj = money;
    const struct route_terms *first = f->d->terms;
    for (int32_t k = 0; k < f->left; k++) {
        const struct route_candidate *c = candidate(f, k);
        struct route_terms *t = terms(f, k);
        t->money = route_money(f->r, c);
        t->time_us = time_of(f->r, c);
        t->energy_mj = c->has_energy ? (double)c->marginal_mj : -1;
    }
    if (f->r->objective != ROUTE_COST) { /* there, nothing is to be compared: money is always known */
        money = look_over(f, &first->money, sizeof *first);
        us = look_over(f, &first->time_us, sizeof *first);
        mj = look_over(f, &first->energy_mj, sizeof *first);
    }
    for (int32_t k = 0; k < f->left; k++) {
        struct route_terms *t = terms(f, k);
        switch (f->r->objective) {
        case ROUTE_COST: t->value = t->money; break;
        case ROUTE_LATENCY: t->value = known_or_best(t->time_us, &us); break;
        case ROUTE_ENERGY: t->value = known_or_best(t->energy_mj, &mj); break;
        case ROUTE_BALANCED:
            t->value =
                (against_best(t->money, &money) + against_best(t->time_us, &us) + against_best(t->energy_mj, &mj)) / 3;
            break;
        }
    }
}

static void best_value(struct field *f)
{
    static const enum route_reason worse[] = {ROUTE_DEARER, ROUTE_SLOWER, ROUTE_HUNGRIER, ROUTE_WORSE};
    double least = INFINITY;
    for (int32_t k = 0; k < f->left; k++) {
        const double v = terms(f, k)->value;
        least = v >= 0 && v < least ? v : least;
    }
    const double near = least * (1 + ROUTE_NEAR);
    int32_t kept = 0;
    for (int32_t k = 0; k < f->left; k++)
        kept = stays(f, kept, k, !(terms(f, k)->value > near), worse[f->r->objective]);
    f->left = kept;
}

static void least_risk(struct field *f)
{
    double least = INFINITY;
    for (int32_t k = 0; k < f->left; k++)
        least = candidate(f, k)->risk < least ? candidate(f, k)->risk : least;
    int32_t kept = 0;
    for (int32_t k = 0; k < f->left; k++)
        kept = stays(f, kept, k, !(candidate(f, k)->risk > least + ROUTE_NEAR_RISK), ROUTE_RISKIER);
    f->left = kept;
}

/* Only where it matters: without anything kept, the least loaded would always win, and be overrun. */
static void least_work(struct field *f)
{
    bool matters = false;
    for (int32_t k = 0; k < f->left && !matters; k++)
        matters = cached_of(f->r, candidate(f, k)) > 0;
    if (!matters)
        return;
    const struct route_candidate *best = candidate(f, 0);
    for (int32_t k = 1; k < f->left; k++)
        best = compare_work(f->r, candidate(f, k), best) < 0 ? candidate(f, k) : best;
    int32_t kept = 0;
    for (int32_t k = 0; k < f->left; k++)
        kept = stays(f, kept, k, compare_work(f->r, candidate(f, k), best) <= 0, ROUTE_LESS_CACHED);
    f->left = kept;
}

static int32_t draw_two(struct field *f)
{
    SPW_ASSERT(f->left > 0); /* the best of each comparison stays */
    const uint32_t left = (uint32_t)f->left, first = f->r->spread % left;
    const uint32_t second = left > 1 ? (first + 1 + f->r->spread / left % (left - 1)) % left : first;
    const int32_t a = f->in[first], b = f->in[second];
    const int32_t chosen = compare_load(&f->c[b], &f->c[a]) < 0 ? b : a;
    for (int32_t k = 0; k < f->left; k++)
        f->d->reasons[f->in[k]] = ROUTE_TIE;
    for (int32_t i = 0; i < f->n; i++) {
        enum route_reason *why = &f->d->reasons[i];
        if ((*why == ROUTE_TIE || *why == ROUTE_LESS_CACHED) && compare_load(&f->c[i], &f->c[chosen]) > 0)
            *why = ROUTE_BUSIER;
    }
    f->d->reasons[chosen] = ROUTE_CHOSEN;
    return chosen;
}

void route_choose(struct route_decision *d, const struct route_request *r, const struct route_candidate *c, int32_t n)
{
    SPW_ASSERT(n >= 0 && n <= ROUTE_CANDIDATES_MAX);
    struct field f;
    f.d = d;
    f.r = r;
    f.c = c;
    f.n = n;
    f.left = 0;
    f.ranked = false;
    d->chosen = -1;
    d->may_wait = d->busy = d->model_known = false;
    d->back_us = 0;
    admit_all(&f);
    if (!f.left)
        return;
    if (waiting_may_help(&f))
        return;
    d->may_wait = d->busy = false;
    d->back_us = 0;
    best_rank(&f);
    likely_in_time(&f);
    set_values(&f);
    best_value(&f);
    least_risk(&f);
    least_work(&f);
    d->chosen = draw_two(&f);
}
