#include "scheduler/books/close.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/divide.h"

/* Who a part of the bill may go to, beside the legs. */
enum { IDLE, BOOT, LOST, OTHERS };

struct work {
    int n;                    /* legs */
    int64_t *weights, *parts; /* n + OTHERS */
};

/* `amount`, by the weights; `all`: their sum, were everything accounted for. Where more than that is claimed, the
 * claims cost more than the bill, each as much as it would have, and what is too much stands as lost, below zero. */
static void divide(struct work *w, int64_t amount, int64_t all)
{
    int64_t claimed = 0;
    for (int i = 0; i < w->n + LOST; i++)
        claimed += w->weights[i];
    w->weights[w->n + LOST] = claimed < all ? all - claimed : 0;
    int64_t given = amount;
    if (claimed > all)
        given = all > 0 ? (int64_t)((__int128)amount * claimed / all) : 0;
    given = divide_by_weight(given, w->weights, w->parts, w->n + OTHERS);
    w->parts[w->n + LOST] += amount - given;
}

static void book(struct work *w, struct close_leg *legs, struct close_result *out)
{
    for (int i = 0; i < w->n; i++)
        legs[i].share.v += w->parts[i];
    out->idle.v += w->parts[w->n + IDLE];
    out->boot.v += w->parts[w->n + BOOT];
    out->variance.v += w->parts[w->n + LOST];
}

static void divide_fixed(struct work *w, const struct bill *bill, const struct close_meter *m, struct close_leg *legs,
                         struct close_result *out)
{
    for (int i = 0; i < w->n; i++)
        w->weights[i] = legs[i].busy_us;
    w->weights[w->n + IDLE] = m->idle_us + m->asleep_us;
    w->weights[w->n + BOOT] = m->boot_us;
    divide(w, bill->fixed.v, bill->paid_us);
    book(w, legs, out);
}

/* Joules of a leg that nobody knows are what its busy time is of those that are left for legs. */
static void weigh_energy(struct work *w, const struct close_meter *m, struct close_leg *legs)
{
    int64_t left = m->energy_mj - m->idle_mj - m->boot_mj;
    bool unknown = false;
    for (int i = 0; i < w->n; i++) {
        unknown = unknown || legs[i].millijoules < 0;
        left -= legs[i].millijoules < 0 ? 0 : legs[i].millijoules;
    }
    for (int i = 0; i < w->n; i++)
        w->weights[i] = unknown && legs[i].millijoules < 0 ? legs[i].busy_us : 0;
    if (unknown)
        divide_by_weight(left > 0 ? left : 0, w->weights, w->parts, w->n);
    for (int i = 0; i < w->n; i++) {
        legs[i].millijoules = legs[i].millijoules < 0 ? w->parts[i] : legs[i].millijoules;
        w->weights[i] = legs[i].millijoules;
    }
}

static void divide_energy(struct work *w, const struct bill *bill, const struct close_meter *m, struct close_leg *legs,
                          struct close_result *out)
{
    weigh_energy(w, m, legs);
    for (int i = 0; i < w->n; i++)
        out->busy_mj += w->weights[i];
    w->weights[w->n + IDLE] = m->idle_mj;
    w->weights[w->n + BOOT] = m->boot_mj;
    out->lost_mj = m->energy_mj - m->idle_mj - m->boot_mj - out->busy_mj;
    divide(w, bill->energy.v, m->energy_mj);
    book(w, legs, out);
}

void close_node_hour(const struct bill *bill, const struct close_meter *m, struct close_leg *legs, int n,
                     struct close_result *out)
{
    struct work w = {.n = n};
    int64_t tokens = 0;
    memset(out, 0, sizeof *out);
    w.weights = spw_calloc((size_t)n + OTHERS, sizeof *w.weights);
    w.parts = spw_calloc((size_t)n + OTHERS, sizeof *w.parts);
    for (int i = 0; i < n; i++)
        legs[i].share = (struct pusd){0};
    divide_fixed(&w, bill, m, legs, out);
    divide_energy(&w, bill, m, legs, out);
    for (int i = 0; i < n; i++) {
        legs[i].share.v += legs[i].tokens.v;
        tokens += legs[i].tokens.v;
        *(legs[i].waste ? &out->waste_us : &out->busy_us) += legs[i].busy_us;
        (legs[i].waste ? &out->waste : &out->allocated)->v += legs[i].share.v;
    }
    out->variance.v += bill->tokens.v - tokens;
    out->lost_us = bill->paid_us - out->busy_us - out->waste_us - m->idle_us - m->asleep_us - m->boot_us;
    free(w.weights);
    free(w.parts);
}

/* ---- by time in flight ------------------------------------------------------------------------------------------- */

struct edge {
    int64_t us;
    int leg;
    bool end;
};

static int by_time(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;
    if (x->us != y->us)
        return x->us < y->us ? -1 : 1;
    return x->leg != y->leg ? (x->leg < y->leg ? -1 : 1) : (int)x->end - (int)y->end;
}

static int64_t clip(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* `us` among those that are in flight (a list of their numbers). The odd microseconds go round, so that nobody gets
 * them all. */
static void share_out(struct close_leg *legs, const int *flight, int n, int64_t us, int64_t *turn)
{
    for (int i = 0; i < n; i++)
        legs[flight[i]].busy_us += us / n;
    for (int64_t k = us % n; k > 0; k--)
        legs[flight[(*turn)++ % n]].busy_us++;
}

int64_t close_by_flight(struct close_leg *legs, int n, int64_t from_us, int64_t until_us)
{
    struct edge *edges = spw_calloc((size_t)n * 2 + 1, sizeof *edges);
    int *flight = spw_calloc((size_t)n + 1, sizeof *flight), *place = spw_calloc((size_t)n + 1, sizeof *place);
    int n_flight = 0;
    int64_t busy = 0, turn = 0;
    for (int i = 0; i < n; i++) {
        legs[i].busy_us = 0;
        edges[2 * i] = (struct edge){clip(legs[i].started_us, from_us, until_us), i, false};
        edges[2 * i + 1] = (struct edge){clip(legs[i].ended_us, from_us, until_us), i, true};
        if (edges[2 * i + 1].us < edges[2 * i].us)
            edges[2 * i + 1].us = edges[2 * i].us;
    }
    qsort(edges, (size_t)n * 2, sizeof *edges, by_time);
    for (int i = 0; i < 2 * n; i++) {
        const int64_t us = i ? edges[i].us - edges[i - 1].us : 0;
        if (us > 0 && n_flight > 0) {
            share_out(legs, flight, n_flight, us, &turn);
            busy += us;
        }
        const int leg = edges[i].leg;
        if (!edges[i].end) {
            place[leg] = n_flight;
            flight[n_flight++] = leg;
        } else { /* the last takes its place */
            flight[place[leg]] = flight[--n_flight];
            place[flight[place[leg]]] = place[leg];
        }
    }
    free(edges);
    free(flight);
    free(place);
    return busy;
}

/* ---- does it close? ---------------------------------------------------------------------------------------------- */

const char *close_problem_text(enum close_problem p)
{
    switch (p) {
    case CLOSE_SUM: return "the parts do not add up to the bill";
    case CLOSE_VARIANCE: return "more than 0.5 % of the bill is accounted for by nobody, or twice";
    case CLOSE_TOKENS: return "the rows' tokens are not those that the engine counted";
    case CLOSE_BILL: return "the bill is not what its provider's rule says";
    case CLOSE_CHARGE: return "a charge is not its tokens at its prices";
    case CLOSE_TWICE: return "a request is there more than once";
    case CLOSE_LEGS: return "legs do not add up to their row";
    case CLOSE_ROLLUP: return "the roll-up is not the sum of its rows";
    case CLOSE_NEGATIVE: return "an amount is below zero that cannot be";
    }
    return "unknown";
}

unsigned close_check(const struct bill *bill, const struct close_leg *legs, int n, const struct close_result *r)
{
    const __int128 whole = bill_sum(bill).v;
    const __int128 lost = r->variance.v < 0 ? -(__int128)r->variance.v : r->variance.v;
    __int128 shares = 0;
    unsigned problems = 0;
    for (int i = 0; i < n; i++) {
        shares += legs[i].share.v;
        if (legs[i].share.v < 0 && bill->energy.v >= 0) /* a tariff may be below zero */
            problems |= CLOSE_NEGATIVE;
    }
    if (shares != (__int128)r->allocated.v + r->waste.v ||
        whole != shares + r->idle.v + r->boot.v + (__int128)r->variance.v)
        problems |= CLOSE_SUM;
    if (lost * 1000000 > (whole < 0 ? -whole : whole) * CLOSE_VARIANCE_PPM)
        problems |= CLOSE_VARIANCE;
    if (bill->fixed.v < 0 || bill->tokens.v < 0)
        problems |= CLOSE_NEGATIVE;
    return problems;
}
