/* What should run: need, the set that covers it, spares, limits, and the API's share. */
#include "policies/scale.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "policies/latency.h"
#include "policies/scale_internal.h"

#define LOSS_OVERHEAD_S 120 /* beside the boot of its successor: streams that are computed again */
#define SPREADS_WEIGHED 2.5
#define SPARES_MAX      256
#define HOUR_S          3600.0

static bool at_risk(const struct scale_offer *o)
{
    return o->losses_per_hour > 0;
}

/* Dollars per hour, and what its losses cost: for so long, each time, its money buys nothing. */
static double true_price(const struct scale_offer *o)
{
    return scale_dollars(o->price_hour) * (1 + o->losses_per_hour * (o->boot_s + LOSS_OVERHEAD_S) / HOUR_S);
}

/* --- need ------------------------------------------------------------------------------------------------------ */

static double mean_demand(const struct scale_snapshot *s)
{
    return fmax(s->demand.now, s->demand.mean) + s->demand.batch;
}

/* The spreads of the forecast up to which demand is looked at. Where misses are weighed, what is worth its money
 * decides how many of them are held (leave_unserved()), and the limit only has to be beyond that. */
static double spreads(const struct scale_snapshot *s)
{
    return scale_misses_count(s) ? fmax(s->limits.z, SPREADS_WEIGHED) : s->limits.z;
}

static double need_now(const struct scale_snapshot *s)
{
    const struct scale_demand *d = &s->demand;
    const struct scale_limits *l = &s->limits;

    if (d->queued <= 0 && d->batch <= 0 && fmax(d->now, d->mean) <= l->idle_rate)
        return 0;
    double forecast = fmax(d->now, d->mean + spreads(s) * d->sd);
    return (forecast + d->batch) * (1 + l->over_provision) + d->queued / fmax(l->queue_drain_s, 1);
}

/* The largest of this window and the one before: it rises at once, and falls when it was lower for one to two
 * windows, and by more than the band. */
static void hold(struct scale_peak *p, double now, double down_band)
{
    p->window = fmax(p->window, now);
    double most = fmax(p->window, p->before);
    if (most > p->held || most <= p->held * (1 - down_band))
        p->held = most;
}

static void next_window(struct scale_peak *p, bool missed_one)
{
    p->before = missed_one ? 0 : p->window;
    p->window = 0;
}

static void hold_demand(struct scale_memory *m, const struct scale_snapshot *s, double need)
{
    int64_t window = s->limits.down_after_s > 0 ? s->limits.down_after_s : 1, since = s->now_s - m->window_s;

    if (!m->begun) {
        m->begun = true;
        m->window_s = s->now_s;
    } else if (since >= window) {
        next_window(&m->need, since >= 2 * window);
        next_window(&m->mean, since >= 2 * window);
        m->window_s = s->now_s;
    }
    hold(&m->need, need, s->limits.down_band);
    hold(&m->mean, mean_demand(s) + s->demand.queued / fmax(s->limits.queue_drain_s, 1), s->limits.down_band);
}

/* --- supply ---------------------------------------------------------------------------------------------------- */

static void count_nodes(struct scale_work *w, const struct scale_snapshot *s)
{
    memset(w->active, 0, sizeof(w->active));
    memset(w->draining, 0, sizeof(w->draining));
    memset(w->asleep, 0, sizeof(w->asleep));
    memset(w->paid, 0, sizeof(w->paid));
    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct scale_node *n = &s->nodes[i];
        SPW_ASSERT(n->offer >= 0 && n->offer < s->n_offers);
        const struct scale_offer *o = &s->offers[n->offer];
        w->asleep[n->offer] += n->state == SCALE_ASLEEP;
        w->draining[n->offer] += n->state == SCALE_DRAINING && !n->leaving;
        w->active[n->offer] += n->state == SCALE_BOOTING || n->state == SCALE_READY;
        /* Paid for so long still that a successor needn't be thought of yet. */
        w->paid[n->offer] += n->state != SCALE_ASLEEP && !n->leaving && n->paid_s > o->boot_s + s->limits.tick_s;
    }
}

static void add_group(struct scale_work *w, const struct scale_snapshot *s, int32_t offer, enum scale_supply supply,
                      int32_t n, double cost)
{
    if (n > 0 && s->offers[offer].tokens_per_s > 0 && w->n_groups < SCALE_GROUPS)
        w->groups[w->n_groups++] = (struct scale_group){
            .offer = offer, .supply = supply, .n = n, .cost = cost, .capacity = s->offers[offer].tokens_per_s};
}

static double active_capacity(const struct scale_work *w, const struct scale_snapshot *s)
{
    double sum = 0;

    for (int32_t i = 0; i < s->n_offers; i++)
        sum += (w->active[i] + w->draining[i]) * s->offers[i].tokens_per_s;
    return sum;
}

/* How many could be launched. An offer that was dry until lately may fill a gap, and may not replace what runs. */
static int32_t launchable(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer, double need)
{
    const struct scale_offer *o = &s->offers[offer];
    double gap = fmax(need - active_capacity(w, s), 0);

    if (!at_risk(o) || o->steady_s >= s->limits.return_after_s || o->tokens_per_s <= 0)
        return o->launch_max;
    return (int32_t)fmin(ceil(gap / o->tokens_per_s), o->launch_max);
}

/* What keeping one running node of an offer costs: less by the saving for which it would be replaced, and next to
 * nothing where it is paid for already (a thousandth, so that among those the cheaper offer still goes first).
 * Nodes of one offer are alike here; those with paid time lower the mean. */
static double price_kept(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer)
{
    int32_t running = w->active[offer] + w->draining[offer];
    double paid = running ? fmin((double)w->paid[offer] / running, 1) : 0;

    return true_price(&s->offers[offer]) * (1 - s->limits.replace_saving) * (1 - 0.999 * paid);
}

/* Of what isn't taken yet for pools. */
static void build_groups(struct scale_work *w, const struct scale_snapshot *s, double need)
{
    w->n_groups = 0;
    for (int32_t i = 0; i < s->n_offers; i++) {
        double price = true_price(&s->offers[i]);
        int32_t running = w->active[i] + w->draining[i], more = w->promised[i] - running; /* > 0: of those to come */
        add_group(w, s, i, SCALE_RUNNING, running - w->promised[i], price_kept(w, s, i));
        if (s->offers[i].market == SCALE_ON_PREM)
            add_group(w, s, i, SCALE_SLEEPING, w->asleep[i], price);
        add_group(w, s, i, SCALE_NEW, launchable(w, s, i, need) - (more > 0 ? more : 0), price);
    }
}

static double wanted_capacity(const struct scale_work *w, const struct scale_snapshot *s)
{
    double sum = 0;

    for (int32_t i = 0; i < s->n_offers; i++)
        sum += w->want[i] * s->offers[i].tokens_per_s;
    return sum;
}

/* --- what pools keep ------------------------------------------------------------------------------------------- */

typedef double price_fn(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer);

/* Of the next node of the offer: of one that runs, as long as there are more of them than are wanted. */
static double price_now(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer)
{
    bool runs = w->want[offer] < w->active[offer] + w->draining[offer];
    return runs ? price_kept(w, s, offer) : true_price(&s->offers[offer]);
}

/* Where a limit binds: what it costs against that, and what runs goes before what is as dear. */
static double price_plain(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer)
{
    bool runs = w->want[offer] < w->active[offer] + w->draining[offer];
    return scale_dollars(s->offers[offer].price_hour) * (runs ? 1 : 1.000001);
}

/* Capacity of the nodes (by offer) that die with the offer. */
static double risked(const int32_t *nodes, const struct scale_snapshot *s, int32_t offer)
{
    double sum = 0;

    for (int32_t k = 0; k < s->n_offers; k++)
        if (scale_same_domain(s, offer, k) && at_risk(&s->offers[k]))
            sum += nodes[k] * s->offers[k].tokens_per_s;
    return sum;
}

int32_t scale_beyond_min(const struct scale_snapshot *s, const int32_t *nodes, int32_t offer)
{
    int32_t pool = s->offers[offer].pool;
    int64_t n = 0;

    if (pool < 0 || pool >= s->n_pools || s->pools_min[pool] <= 0)
        return INT32_MAX;
    for (int32_t i = 0; i < s->n_offers; i++)
        if (s->offers[i].pool == pool)
            n += nodes[i];
    return (int32_t)(n - s->pools_min[pool]);
}

/* How many nodes of it are missing. */
static int32_t promised_lack(const struct scale_work *w, const struct scale_snapshot *s, int32_t pool)
{
    int64_t n = s->pools_min[pool];

    for (int32_t i = 0; i < s->n_offers; i++)
        if (s->offers[i].pool == pool)
            n -= w->want[i];
    return n > 0 ? (int32_t)n : 0;
}

/* How many more of the offer can be had for its pool. As for demand, one that was dry until lately fills gaps only. */
static int32_t had_for_pool(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer)
{
    const struct scale_offer *o = &s->offers[offer];
    int64_t running = (int64_t)w->active[offer] + w->draining[offer], more = o->launch_max;
    int64_t gap = s->pools_min[o->pool];

    if (at_risk(o) && o->steady_s < s->limits.return_after_s) {
        for (int32_t i = 0; i < s->n_offers; i++)
            if (s->offers[i].pool == o->pool)
                gap -= w->active[i] + w->draining[i];
        more = gap < 0 ? 0 : gap < more ? gap : more;
    }
    more += running - w->want[offer];
    return o->tokens_per_s <= 0 || more < 0 ? 0 : more < INT32_MAX ? (int32_t)more : INT32_MAX;
}

#define NO_RISK (-1.0)

/* How many more fit into the offer's domain, if it may have `most` capacity; one always, unless that is NO_RISK. */
static int32_t fits_domain(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer, double most)
{
    if (!at_risk(&s->offers[offer]) || most >= HUGE_VAL)
        return INT32_MAX;
    double used = risked(w->want, s, offer);
    double n = floor((most - used) / s->offers[offer].tokens_per_s + SCALE_EPSILON);
    return (int32_t)fmin(fmax(n, used > 0 || most < 0 ? 0 : 1), INT32_MAX);
}

/* The next node of a pool: the cheapest of those whose domain takes it, else of all. -1: there is none. */
static int32_t next_of_pool(const struct scale_work *w, const struct scale_snapshot *s, int32_t pool, double most,
                            price_fn *price)
{
    int32_t best = -1;
    bool best_fits = false;
    double best_price = 0;

    for (int32_t i = 0; i < s->n_offers; i++) {
        if (s->offers[i].pool != pool || had_for_pool(w, s, i) == 0)
            continue;
        bool fits = fits_domain(w, s, i, most) > 0;
        double p = price(w, s, i);
        if (best < 0 || (fits && !best_fits) || (fits == best_fits && p < best_price)) {
            best = i;
            best_fits = fits;
            best_price = p;
        }
    }
    return best;
}

static int32_t lesser(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Of each pool as many as are kept of it, whatever is needed; nothing else is wanted yet. */
static void take_promised(struct scale_work *w, const struct scale_snapshot *s, double most, price_fn *price)
{
    memset(w->want, 0, sizeof(w->want));
    for (int32_t p = 0; p < s->n_pools; p++)
        for (int32_t left = promised_lack(w, s, p), n = 0; left > 0; left -= n) {
            int32_t i = next_of_pool(w, s, p, most, price);
            if (i < 0)
                break;
            int32_t run = w->active[i] + w->draining[i] - w->want[i], fit = fits_domain(w, s, i, most);
            n = lesser(left, had_for_pool(w, s, i));
            n = lesser(n, run > 0 ? run : n); /* the others have another price */
            n = lesser(n, fit > 0 ? fit : n);
            w->want[i] += n;
        }
    memcpy(w->promised, w->want, sizeof(w->promised));
}

/* What pools keep can do at least. */
static double promised_capacity(const struct scale_snapshot *s)
{
    double sum = 0;

    for (int32_t p = 0; p < s->n_pools; p++) {
        double least = HUGE_VAL;
        for (int32_t i = 0; i < s->n_offers; i++)
            if (s->offers[i].pool == p && s->offers[i].tokens_per_s > 0)
                least = fmin(least, s->offers[i].tokens_per_s);
        sum += least < HUGE_VAL ? s->pools_min[p] * least : 0;
    }
    return sum;
}

/* What one domain at risk may have, so that what is left without it is enough. */
static double domain_most(const struct scale_snapshot *s, double need)
{
    double keep = s->limits.survive * mean_demand(s);
    return s->limits.survive > 0 ? fmax(fmax(need, promised_capacity(s)) - keep, 0) : HUGE_VAL;
}

/* --- the set --------------------------------------------------------------------------------------------------- */

/* Groups of domains at risk are cut so that losing one leaves enough. */
static void bound_domains(struct scale_work *w, const struct scale_snapshot *s, double most)
{
    for (int32_t i = 0; i < w->n_groups; i++) {
        struct scale_group *g = &w->groups[i];
        if (!at_risk(&s->offers[g->offer]))
            continue;
        double used = risked(w->promised, s, g->offer);
        for (int32_t k = 0; k < i; k++)
            if (scale_same_domain(s, w->groups[k].offer, g->offer) && at_risk(&s->offers[w->groups[k].offer]))
                used += w->groups[k].n * w->groups[k].capacity;
        double fits = floor((most - used) / g->capacity + SCALE_EPSILON);
        g->n = (int32_t)fmin(g->n, fmax(fits, used > 0 ? 0 : 1));
    }
}

enum takes_part { ON_PREM_ONLY, CLOUD, CLOUD_WITHOUT_RISK };
static void select_groups(struct scale_work *w, const struct scale_snapshot *s, enum takes_part who)
{
    for (int32_t i = 0; i < w->n_groups; i++) {
        const struct scale_offer *o = &s->offers[w->groups[i].offer];
        w->groups[i].in =
            (o->market == SCALE_ON_PREM) == (who == ON_PREM_ONLY) && (who != CLOUD_WITHOUT_RISK || !at_risk(o));
    }
}

static void add_taken(struct scale_work *w)
{
    for (int32_t i = 0; i < w->n_groups; i++)
        if (w->groups[i].in)
            w->want[w->groups[i].offer] += w->groups[i].taken;
}

/* What pools keep, own machines, then the cheapest of the rest, first within what diversity allows. Returns the
 * capacity. */
static double cover_need(struct scale_work *w, const struct scale_snapshot *s, double need, enum takes_part cloud)
{
    double most = domain_most(s, need);

    take_promised(w, s, cloud == CLOUD_WITHOUT_RISK ? NO_RISK : most, price_now);
    double have = wanted_capacity(w, s);
    build_groups(w, s, need);
    select_groups(w, s, ON_PREM_ONLY);
    have += scale_cover(w, need - have, HUGE_VAL);
    add_taken(w);
    if (have >= need * (1 - SCALE_EPSILON))
        return have;
    if (s->limits.survive > 0)
        bound_domains(w, s, most);
    select_groups(w, s, cloud);
    double rest = scale_cover(w, need - have, HUGE_VAL);
    if (have + rest <
        need * (1 - SCALE_EPSILON)) { /* there aren't enough domains: better one too full than too little */
        build_groups(w, s, need);
        select_groups(w, s, cloud);
        rest = scale_cover(w, need - have, HUGE_VAL);
    }
    add_taken(w);
    return have + rest;
}

/* Capacity of the wanted set that the worst loss leaves; *offer: one of that domain, or -1. */
static double after_loss(const struct scale_work *w, const struct scale_snapshot *s, int32_t *offer)
{
    double all = wanted_capacity(w, s), worst = 0;

    *offer = -1;
    for (int32_t i = 0; i < s->n_offers; i++) {
        if (!at_risk(&s->offers[i]) || w->want[i] == 0)
            continue;
        double lost = risked(w->want, s, i);
        if (lost > worst) {
            worst = lost;
            *offer = i;
        }
    }
    return all - worst;
}

/* How many of an offer can be had in all. */
static int32_t available(const struct scale_work *w, const struct scale_snapshot *s, int32_t i)
{
    const struct scale_offer *o = &s->offers[i];
    int64_t n = (int64_t)w->active[i] + w->draining[i] + o->launch_max;

    if (o->market == SCALE_ON_PREM)
        n += w->asleep[i];
    return n < INT32_MAX ? (int32_t)n : INT32_MAX;
}

/* One more node: the cheapest of those outside `avoid`'s domain (-1: of all); own machines before others. -1: none.
 * */
static int32_t one_more(const struct scale_work *w, const struct scale_snapshot *s, int32_t avoid)
{
    int32_t best = -1;
    double best_cost = 0;

    for (int32_t i = 0; i < s->n_offers; i++) {
        if (s->offers[i].tokens_per_s <= 0 || w->want[i] >= available(w, s, i) ||
            (avoid >= 0 && scale_same_domain(s, i, avoid)))
            continue;
        double cost = price_now(w, s, i);
        bool own = s->offers[i].market == SCALE_ON_PREM,
             best_own = best >= 0 && s->offers[best].market == SCALE_ON_PREM;
        if (best < 0 || (own && !best_own) || (own == best_own && cost < best_cost)) {
            best = i;
            best_cost = cost;
        }
    }
    return best;
}

static void add_spares(struct scale_work *w, const struct scale_snapshot *s)
{
    double keep = s->limits.survive * mean_demand(s);
    int32_t worst, more;

    for (int32_t k = 0; k < SPARES_MAX && after_loss(w, s, &worst) < keep * (1 - SCALE_EPSILON) && worst >= 0; k++) {
        more = one_more(w, s, worst);
        if (more < 0)
            return;
        w->want[more]++;
        w->spare[more]++;
    }
}

static int32_t wanted_nodes(const struct scale_work *w, const struct scale_snapshot *s)
{
    int32_t n = 0;

    for (int32_t i = 0; i < s->n_offers; i++)
        n += w->want[i];
    return n;
}

static void add_minimum(struct scale_work *w, const struct scale_snapshot *s)
{
    for (int32_t n = wanted_nodes(w, s); n < s->limits.nodes_min; n++) {
        int32_t more = one_more(w, s, -1);
        if (more < 0)
            return;
        w->want[more]++;
    }
}

/* --- limits ---------------------------------------------------------------------------------------------------- */

static __int128 wanted_price(const struct scale_work *w, const struct scale_snapshot *s)
{
    __int128 sum = 0;

    for (int32_t i = 0; i < s->n_offers; i++)
        sum += (__int128)w->want[i] * s->offers[i].price_hour.v;
    return sum;
}

static bool within(const struct scale_work *w, const struct scale_snapshot *s)
{
    return wanted_nodes(w, s) <= s->limits.nodes_max &&
           (s->limits.hour_max.v < 0 || wanted_price(w, s) <= s->limits.hour_max.v);
}

/* How much of what is kept of its pool there is: 1 is all of it. HUGE_VAL: more than that, or nothing is kept. */
static double share_kept(const struct scale_work *w, const struct scale_snapshot *s, int32_t offer)
{
    int32_t beyond = scale_beyond_min(s, w->want, offer);

    if (beyond > 0)
        return HUGE_VAL;
    int32_t min = s->pools_min[s->offers[offer].pool];
    return (double)(min + beyond) / min;
}

/* Until both limits hold: the nodes that give least for what is short. Those that pools keep go last, and then of the
 * pool that has the largest share of its own. */
static void trim(struct scale_work *w, const struct scale_snapshot *s)
{
    while (!within(w, s)) {
        bool by_money = s->limits.hour_max.v >= 0 && wanted_price(w, s) > s->limits.hour_max.v;
        int32_t worst = -1;
        double worst_worth = 0, worst_share = 0;
        for (int32_t i = 0; i < s->n_offers; i++) {
            double price = scale_dollars(s->offers[i].price_hour);
            double worth = by_money ? s->offers[i].tokens_per_s / fmax(price, 1e-12) : s->offers[i].tokens_per_s;
            if (w->want[i] == 0 || (by_money && price <= 0))
                continue;
            double share = share_kept(w, s, i);
            if (worst < 0 || share > worst_share || (share == worst_share && worth < worst_worth)) {
                worst = i;
                worst_worth = worth;
                worst_share = share;
            }
        }
        if (worst < 0)
            return;
        w->want[worst]--;
    }
}

/* Under limits that bind no set is kept for its own sake. `place` dollars are reckoned for each node beside its
 * price: 0 where only money is short, much where only places are. */
static void cover_scarce(struct scale_work *w, const struct scale_snapshot *s, double need, double place)
{
    double most = place <= 0 && s->limits.hour_max.v >= 0 ? scale_dollars(s->limits.hour_max) * 1.000002 : HUGE_VAL;

    take_promised(w, s, HUGE_VAL, price_plain);
    double have = wanted_capacity(w, s);
    most -= scale_dollars((struct pusd){(int64_t)wanted_price(w, s)});
    build_groups(w, s, need);
    for (int32_t i = 0; i < w->n_groups; i++) {
        struct scale_group *g = &w->groups[i];
        g->in = true;
        g->cost = (scale_dollars(s->offers[g->offer].price_hour) + place) * (g->supply == SCALE_RUNNING ? 1 : 1.000001);
    }
    (void)scale_cover(w, need - have, most);
    add_taken(w);
    trim(w, s);
}

/* What trimming took from pools, as far as something cheaper or smaller of theirs fits in its place. */
static void refill_pools(struct scale_work *w, const struct scale_snapshot *s)
{
    for (int32_t p = 0; p < s->n_pools; p++)
        for (int32_t n = promised_lack(w, s, p), i; n > 0; n--) {
            i = next_of_pool(w, s, p, HUGE_VAL, price_plain);
            if (i < 0)
                break;
            w->want[i]++;
            if (within(w, s))
                continue;
            w->want[i]--;
            break;
        }
}

/* What the limits leave over goes to minimums and to spares, as far as it goes. */
static void use_what_is_left(struct scale_work *w, const struct scale_snapshot *s)
{
    refill_pools(w, s);
    for (int32_t k = 0; k < SPARES_MAX; k++) {
        int32_t worst, more = -1;
        bool spare = wanted_nodes(w, s) >= s->limits.nodes_min;
        if (!spare)
            more = one_more(w, s, -1);
        else if (after_loss(w, s, &worst) < s->limits.survive * mean_demand(s) && worst >= 0)
            more = one_more(w, s, worst);
        if (more < 0)
            return;
        w->want[more]++;
        if (!within(w, s)) {
            w->want[more]--;
            return;
        }
        w->spare[more] += spare;
    }
}

/* The best set that the limits allow: one that covers, the cheapest of those; else the one that covers most. */
static void obey_limits(struct scale_work *w, const struct scale_snapshot *s, double need, struct scale_plan *plan)
{
    static const double places[] = {0, 0.125, 0.25, 0.5, 1, 2, 4, 1000}; /* of the dearest node's price */
    int32_t best[SCALE_OFFERS_MAX] = {0};
    double dearest = 1e-3, best_capacity = -1;
    __int128 best_price = 0;

    plan->by_budget = s->limits.hour_max.v >= 0 && wanted_price(w, s) > s->limits.hour_max.v;
    plan->by_nodes = wanted_nodes(w, s) > s->limits.nodes_max;
    if (!plan->by_budget && !plan->by_nodes)
        return;
    memset(w->spare, 0, sizeof(w->spare));
    for (int32_t i = 0; i < s->n_offers; i++)
        dearest = fmax(dearest, scale_dollars(s->offers[i].price_hour));
    for (size_t k = 0; k < sizeof(places) / sizeof(places[0]); k++) {
        cover_scarce(w, s, need, places[k] * dearest);
        double capacity = fmin(wanted_capacity(w, s), need * (1 - SCALE_EPSILON));
        __int128 price = wanted_price(w, s);
        if (capacity > best_capacity * (1 + SCALE_EPSILON) ||
            (capacity >= best_capacity * (1 - SCALE_EPSILON) && price < best_price)) {
            memcpy(best, w->want, sizeof(best));
            best_capacity = capacity;
            best_price = price;
        }
    }
    memcpy(w->want, best, sizeof(best));
    use_what_is_left(w, s);
}

/* --- the API's share ------------------------------------------------------------------------------------------- */

/* The rented node that is worth its money least, of those that no pool keeps, or -1. */
static int32_t least_worth(const struct scale_work *w, const struct scale_snapshot *s)
{
    int32_t last = -1;
    double last_worth = 0;

    for (int32_t i = 0; i < s->n_offers; i++) {
        double worth = s->offers[i].tokens_per_s / fmax(true_price(&s->offers[i]), 1e-12);
        if (w->want[i] > 0 && s->offers[i].market != SCALE_ON_PREM && scale_beyond_min(s, w->want, i) > 0 &&
            (last < 0 || worth < last_worth)) {
            last = i;
            last_worth = worth;
        }
    }
    return last;
}

/* What it costs that a token isn't served by a node, dollars; HUGE_VAL: it must be. */
static double unserved_price(const struct scale_snapshot *s, double miss_price)
{
    bool api = s->api.allowed && s->api.steady;
    double price = api ? scale_dollars(s->api.per_token) : 0;

    if (api && !s->api.late)
        return price;
    return miss_price > 0 ? miss_price + price : HUGE_VAL;
}

/* Takes the last rented nodes away as long as the demand that they are expected to serve costs less unserved. What
 * runs is kept unless that saves. */
static void leave_unserved(struct scale_work *w, const struct scale_snapshot *s, double mean, struct scale_plan *plan)
{
    double per_hour = unserved_price(s, plan->miss_price) * HOUR_S, covers = fmin(wanted_capacity(w, s), plan->need);
    bool to_api = s->api.allowed && s->api.steady && !s->api.late;

    if (per_hour >= HUGE_VAL)
        return;
    while (wanted_nodes(w, s) > s->limits.nodes_min) {
        int32_t last = least_worth(w, s);
        if (last < 0)
            break;
        double without = wanted_capacity(w, s) - s->offers[last].tokens_per_s;
        double more =
            scale_overflow(mean, s->demand.sd, without) - scale_overflow(mean, s->demand.sd, wanted_capacity(w, s));
        bool runs = w->want[last] <= w->active[last];
        double node = true_price(&s->offers[last]) * (runs ? 1 - s->limits.replace_saving : 1);
        if (more * per_hour >= node ||
            (to_api && s->api.tokens_per_s_max > 0 && mean + s->demand.sd - without > s->api.tokens_per_s_max))
            break;
        w->want[last]--;
    }
    if (!to_api)
        plan->not_worth = fmax(covers - wanted_capacity(w, s), 0);
}

/* --- the set as a whole ---------------------------------------------------------------------------------------- */

static double set_cost(const struct scale_work *w, const struct scale_snapshot *s)
{
    double sum = 0;

    for (int32_t i = 0; i < s->n_offers; i++) {
        int32_t running = w->active[i] + w->draining[i], kept = w->want[i] < running ? w->want[i] : running;
        sum += kept * price_kept(w, s, i) + (w->want[i] - kept) * true_price(&s->offers[i]);
    }
    return sum;
}

/* The cheapest set, with its spares. Where it needs some, one without any risk may be cheaper in all. */
static void choose_set(struct scale_work *w, const struct scale_snapshot *s, double mean, struct scale_plan *plan)
{
    double need = plan->need;
    int32_t want[SCALE_OFFERS_MAX], spare[SCALE_OFFERS_MAX], spares = 0, worst;

    (void)cover_need(w, s, need, CLOUD);
    leave_unserved(w, s, mean, plan);
    add_spares(w, s);
    for (int32_t i = 0; i < s->n_offers; i++)
        spares += w->spare[i];
    if (spares == 0)
        return;
    double cost = set_cost(w, s);
    memcpy(want, w->want, sizeof(want));
    memcpy(spare, w->spare, sizeof(spare));
    memset(w->spare, 0, sizeof(w->spare));
    bool covers = cover_need(w, s, need, CLOUD_WITHOUT_RISK) >= need * (1 - SCALE_EPSILON);
    bool survives = after_loss(w, s, &worst) >= s->limits.survive * mean_demand(s) * (1 - SCALE_EPSILON) || worst < 0;
    if (covers && survives && set_cost(w, s) < cost) /* a pool may have nothing without risk */
        return;
    memcpy(w->want, want, sizeof(want));
    memcpy(w->spare, spare, sizeof(spare));
}

/* --- the plan -------------------------------------------------------------------------------------------------- */

/* Rate for which what is left of the budget pays at the API. */
static double api_affords(const struct scale_plan *plan, const struct scale_snapshot *s)
{
    double most = s->api.tokens_per_s_max > 0 ? s->api.tokens_per_s_max : HUGE_VAL;

    if (!s->api.allowed)
        return 0;
    if (s->limits.hour_max.v >= 0 && s->api.per_token.v > 0) {
        double left = fmax((double)(s->limits.hour_max.v - plan->hour.v), 0);
        most = fmin(most, left / ((double)s->api.per_token.v * HOUR_S) * (1 - SCALE_EPSILON));
    }
    return most;
}

static void share_with_api(struct scale_plan *plan, const struct scale_snapshot *s, const struct scale_work *w)
{
    double wanted = wanted_capacity(w, s), mean = mean_demand(s), most = api_affords(plan, s);
    double lacks_now = s->demand.now + s->demand.queued / fmax(s->limits.queue_drain_s, 1) - plan->ready;

    if (s->api.allowed && s->api.steady)
        plan->api_steady = fmin(most, fmax(fmax(plan->need, mean) - fmin(wanted, plan->ready + plan->coming), 0));
    if (s->api.allowed && s->api.bridge && plan->coming > 0)
        plan->api_bridge = fmin(most - plan->api_steady, fmax(lacks_now - plan->api_steady, 0));
    if (plan->api_bridge <= 0)
        plan->api_bridge_s = 0;
    plan->uncovered = fmax(plan->need - plan->not_worth - plan->ready - plan->coming - plan->api_steady, 0);
    if (plan->uncovered <= plan->need * 1e-6)
        plan->uncovered = 0;
    /* Against a limit the most that it may be counts, else what is to be expected. */
    double paid = s->limits.hour_max.v >= 0 ? plan->api_steady
                                            : fmin(plan->api_steady, scale_overflow(mean, s->demand.sd, wanted));
    plan->hour.v += (int64_t)((paid + plan->api_bridge) * HOUR_S * (double)s->api.per_token.v);
}

void scale_plan(struct scale_plan *plan, struct scale_memory *memory, struct scale_work *w,
                const struct scale_snapshot *s)
{
    int32_t worst;

    SPW_ASSERT(s->n_offers >= 0 && s->n_offers <= SCALE_OFFERS_MAX);
    SPW_ASSERT(s->n_pools >= 0 && s->n_pools <= SCALE_OFFERS_MAX);
    SPW_ASSERT(s->limits.nodes_min >= 0 && s->limits.nodes_max >= s->limits.nodes_min);
    plan->n_actions = 0;
    plan->more = plan->by_budget = plan->by_nodes = false;
    plan->ready = plan->coming = plan->api_bridge = plan->api_steady = plan->not_worth = 0;
    plan->api_bridge_s = 0;
    plan->need_now = need_now(s);
    hold_demand(memory, s, plan->need_now);
    plan->need = memory->need.held;
    plan->miss_price = scale_miss_price(memory, s);
    memset(w->spare, 0, sizeof(w->spare));
    count_nodes(w, s);
    choose_set(w, s, memory->mean.held, plan);
    add_minimum(w, s);
    obey_limits(w, s, plan->need, plan);
    plan->survives = after_loss(w, s, &worst);
    scale_moves(plan, w, s);
    share_with_api(plan, s, w);
}

/* --- names ----------------------------------------------------------------------------------------------------- */

const char *scale_verb_name(enum scale_verb v)
{
    static const char *const names[] = {"launch", "wake", "drain", "sleep", "terminate"};
    return names[v];
}

const char *scale_market_name(enum scale_market m)
{
    static const char *const names[] = {"on_prem", "spot", "on_demand"};
    return names[m];
}

const char *scale_reason_text(enum scale_reason r)
{
    static const char *const texts[] = {
        [SCALE_FOR_DEMAND] = "needed for the forecast demand",
        [SCALE_FROM_ZERO] = "there are requests, and nothing runs",
        [SCALE_FOR_MINIMUM] = "the least number of nodes",
        [SCALE_AS_FALLBACK] = "cheaper spot cannot be had now",
        [SCALE_AS_SPARE] = "a spare in another failure domain",
        [SCALE_FOR_RETURN] = "spot is back: it will take over from on-demand",
        [SCALE_CHEAPER] = "will take over from dearer nodes",
        [SCALE_STILL_UP] = "it was draining, and is needed again",
        [SCALE_SURPLUS] = "not needed any more",
        [SCALE_REPLACED] = "cheaper nodes are ready in its place",
        [SCALE_OVER_BUDGET] = "more dollars per hour than allowed",
        [SCALE_OVER_NODES] = "more nodes than allowed",
        [SCALE_MAKES_ROOM] = "makes room, under a limit, for capacity that is worth more",
        [SCALE_EMPTY] = "drained and empty",
        [SCALE_DRAIN_TOO_LONG] = "still not empty after the longest drain",
    };
    return texts[r];
}
