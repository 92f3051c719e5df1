/* See route.h. Two passes over the snapshot: the first sorts out who may answer at all and finds the best price and the
 * lowest load at that price, the second picks among those and names each loser's reason. */
#include "policies/route.h"

#include "base/error.h"

/* A node that holds the whole prompt is preferred to one that holds nothing of it and has fewer requests, as long as they
 * differ by less than 1 / PROMPTS_PER_SLOTS of their slots: affinity must not make a hot spot. */
#define PROMPTS_PER_SLOTS 2

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
    case ROUTE_UNHEALTHY: return "unhealthy";
    case ROUTE_BREAKER_OPEN: return "breaker_open";
    case ROUTE_COOLING_DOWN: return "cooling_down";
    case ROUTE_KEPT: return "kept";
    case ROUTE_FULL: return "full";
    case ROUTE_LESS_FIT: return "less_fit";
    case ROUTE_DEARER: return "dearer";
    case ROUTE_BUSIER: return "busier";
    case ROUTE_LESS_CACHED: return "less_cached";
    case ROUTE_TIE: return "tie";
    case ROUTE_NOT_LISTED: return "not_listed";
    }
    return "unknown";
}

static bool too_dear(const struct route_request *r, const struct route_candidate *c)
{
    return r->bounded && money_output_within(&c->prices, r->charge_max, r->input_max) < r->output_min;
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
    if (!c->healthy)
        return ROUTE_UNHEALTHY;
    if (c->broken)
        return ROUTE_BREAKER_OPEN;
    if (c->cooling)
        return ROUTE_COOLING_DOWN;
    if (c->kept)
        return ROUTE_KEPT;
    if ((c->slots > 0 && c->in_flight >= c->slots) || (r->alone && c->in_flight > 0))
        return ROUTE_FULL;
    return ROUTE_CHOSEN;
}

/* Of the prompt, that it need not read. */
static int64_t cached_of(const struct route_request *r, const struct route_candidate *c)
{
    int64_t input = r->input_tokens > 0 ? r->input_tokens : 0;
    int64_t cached = c->cached_tokens > 0 ? c->cached_tokens : 0;
    return cached < input ? cached : input;
}

/* An estimate that does not fit is as dear as can be, not an error: somebody must still answer. */
static int64_t predicted_charge(const struct route_request *r, const struct route_candidate *c)
{
    struct token_counts n = {
        .input = r->input_tokens > 0 ? r->input_tokens : 0,
        .cached_input = cached_of(r, c),
        .output = r->output_tokens > 0 ? r->output_tokens : 0,
    };
    struct pusd charge;
    return money_charge(&c->prices, &n, &charge) == RC_OK ? charge.v : INT64_MAX;
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

/* <0, 0, >0 as the request means less, the same or more work on a than on b: load and what is left of the prompt to read,
 * as fractions of slots and of the prompt. Exact: products of two int32 and a prompt, in 128 bits. */
static int compare_work(const struct route_request *r, const struct route_candidate *a, const struct route_candidate *b)
{
    __extension__ typedef __int128 wide;
    int64_t slots_a = a->slots > 0 ? a->slots : ROUTE_SLOTS_WHEN_UNBOUNDED;
    int64_t slots_b = b->slots > 0 ? b->slots : ROUTE_SLOTS_WHEN_UNBOUNDED;
    int64_t more_load = a->in_flight * slots_b - b->in_flight * slots_a;
    int64_t input = r->input_tokens > 0 ? r->input_tokens : 1;
    wide more =
        (wide)more_load * PROMPTS_PER_SLOTS * input - (wide)(slots_a * slots_b) * (cached_of(r, a) - cached_of(r, b));
    return (more > 0) - (more < 0);
}

/* Equally fit and equally cheap, c lost to the chosen one. */
static enum route_reason why_not(const struct route_request *r, const struct route_candidate *c,
                                 const struct route_candidate *chosen)
{
    if (compare_work(r, c, chosen) == 0)
        return ROUTE_TIE;
    return compare_load(c, chosen) > 0 ? ROUTE_BUSIER : ROUTE_LESS_CACHED;
}

void route_choose(struct route_decision *d, const struct route_request *r, const struct route_candidate *c, int32_t n)
{
    SPW_ASSERT(n >= 0 && n <= ROUTE_CANDIDATES_MAX);
    int64_t charge[ROUTE_CANDIDATES_MAX];
    int32_t best = -1, equals = 0; /* best: the first of `equals` candidates that nobody beats */

    d->chosen = -1;
    d->may_wait = d->busy = d->model_known = false;
    d->back_us = 0;
    for (int32_t i = 0; i < n; i++) {
        d->reasons[i] = admit(r, &c[i]);
        d->model_known = d->model_known || c[i].serves_model;
        d->busy = d->busy || d->reasons[i] == ROUTE_FULL || d->reasons[i] == ROUTE_KEPT;
        note_wait(d, d->reasons[i], &c[i]);
        if (d->reasons[i] != ROUTE_CHOSEN)
            continue;
        charge[i] = predicted_charge(r, &c[i]);
        int better = best < 0 ? -1 : (c[i].rank > c[best].rank) - (c[i].rank < c[best].rank);
        if (better == 0)
            better = (charge[i] > charge[best]) - (charge[i] < charge[best]);
        if (better == 0)
            better = compare_work(r, &c[i], &c[best]);
        if (better < 0) {
            best = i;
            equals = 1;
        } else if (better == 0) {
            equals++;
        }
    }
    if (best < 0)
        return;

    d->may_wait = d->busy = false;
    d->back_us = 0;
    int32_t pick = (int32_t)(r->spread % (uint32_t)equals);
    for (int32_t i = best, seen = 0; i < n && d->chosen < 0; i++) {
        if (d->reasons[i] == ROUTE_CHOSEN && c[i].rank == c[best].rank && charge[i] == charge[best] &&
            compare_work(r, &c[i], &c[best]) == 0 && seen++ == pick)
            d->chosen = i;
    }
    for (int32_t i = 0; i < n; i++) {
        if (d->reasons[i] != ROUTE_CHOSEN || i == d->chosen)
            continue;
        d->reasons[i] = c[i].rank > c[best].rank   ? ROUTE_LESS_FIT
                        : charge[i] > charge[best] ? ROUTE_DEARER
                                                   : why_not(r, &c[i], &c[d->chosen]);
    }
}
