/* From what is to what should be: launches and wakes inside the limits, drains that leave enough ready, ends of
 * what is drained. Reads work->want; no decision about the set is made here. */
#include <math.h>

#include "policies/scale_internal.h"

struct moves {
    struct scale_plan *plan;
    struct scale_work *w;
    const struct scale_snapshot *s;
    double floor;         /* ready capacity that drains leave */
    double active;        /* capacity ready or coming, draining and leaving not */
    int32_t ready, least; /* nodes that serve; how many of them drains leave: of the minimum, those that are wanted */
    int32_t serving[SCALE_OFFERS_MAX]; /* likewise, by offer */
    int32_t going;                     /* nodes that drain: their money comes free soon */
    __int128 hour;                     /* of everything alive, and of what this plan adds */
    int64_t nodes;                     /* likewise */
    __int128 going_hour;
    bool short_of_room; /* something wanted was not launched, for a limit */
    bool from_zero;
    int32_t revived[SCALE_OFFERS_MAX];
};

static struct scale_action *act(struct moves *m, enum scale_verb verb, enum scale_reason reason, int32_t offer,
                                int32_t node)
{
    if (m->plan->n_actions >= SCALE_ACTIONS_MAX) {
        m->plan->more = true;
        return NULL;
    }
    struct scale_action *a = &m->plan->actions[m->plan->n_actions++];
    *a = (struct scale_action){.verb = verb, .reason = reason, .offer = offer, .node = node, .n = 1};
    return a;
}

static double price_per_rate(const struct scale_snapshot *s, int32_t i)
{
    const struct scale_offer *o = &s->offers[i];
    return o->tokens_per_s > 0 ? scale_dollars(o->price_hour) / o->tokens_per_s : HUGE_VAL;
}

static void take_stock(struct moves *m)
{
    const struct scale_snapshot *s = m->s;

    m->from_zero = true;
    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct scale_node *n = &s->nodes[i];
        const struct scale_offer *o = &s->offers[n->offer];
        if (n->state == SCALE_ASLEEP)
            continue;
        m->hour += o->price_hour.v;
        m->nodes++;
        if (n->state == SCALE_DRAINING) {
            m->going++;
            m->going_hour += o->price_hour.v;
            continue;
        }
        m->from_zero = false;
        m->active += o->tokens_per_s;
        if (n->state == SCALE_READY) {
            m->plan->ready += o->tokens_per_s;
            m->ready++;
            m->serving[n->offer]++;
        } else {
            m->plan->coming += o->tokens_per_s;
            m->plan->api_bridge_s = n->ready_s > m->plan->api_bridge_s ? n->ready_s : m->plan->api_bridge_s;
        }
    }
    double wanted = 0;
    int64_t nodes = 0;
    for (int32_t i = 0; i < s->n_offers; i++) {
        wanted += m->w->want[i] * s->offers[i].tokens_per_s;
        nodes += m->w->want[i];
    }
    m->least = nodes < s->limits.nodes_min ? (int32_t)nodes : s->limits.nodes_min;
    m->floor = fmin(m->plan->need, wanted) * (1 - SCALE_EPSILON);
}

/* --- more ------------------------------------------------------------------------------------------------------ */

/* Is there spot for this model that would be cheaper than the offer, and can't be had? */
static bool spot_is_dry(const struct moves *m, int32_t offer)
{
    for (int32_t i = 0; i < m->s->n_offers; i++)
        if (m->s->offers[i].market == SCALE_SPOT && m->s->offers[i].launch_max == 0 &&
            price_per_rate(m->s, i) < price_per_rate(m->s, offer))
            return true;
    return false;
}

/* Does the plan leave on-demand nodes that are dearer than the offer? */
static bool brings_back(const struct moves *m, int32_t offer)
{
    for (int32_t i = 0; i < m->s->n_offers; i++)
        if (m->w->active[i] > m->w->want[i] && price_per_rate(m->s, i) > price_per_rate(m->s, offer) &&
            m->s->offers[i].market == SCALE_ON_DEMAND)
            return true;
    return false;
}

static enum scale_reason why_more(const struct moves *m, int32_t offer)
{
    enum scale_market market = m->s->offers[offer].market;

    if (m->active < m->floor) {
        if (m->from_zero)
            return SCALE_FROM_ZERO;
        return market == SCALE_ON_DEMAND && spot_is_dry(m, offer) ? SCALE_AS_FALLBACK : SCALE_FOR_DEMAND;
    }
    if (market == SCALE_SPOT && brings_back(m, offer))
        return SCALE_FOR_RETURN;
    if (scale_beyond_min(m->s, m->w->active, offer) < 0)
        return SCALE_FOR_MINIMUM;
    if (m->w->spare[offer] > 0)
        return SCALE_AS_SPARE;
    for (int32_t i = 0; i < m->s->n_offers; i++)
        if (m->w->active[i] > m->w->want[i])
            return SCALE_CHEAPER;
    return SCALE_FOR_MINIMUM;
}

/* How many more nodes of the offer the limits allow, of n. */
static int32_t room_for(struct moves *m, int32_t offer, int32_t n)
{
    const struct scale_limits *l = &m->s->limits;
    int64_t price = m->s->offers[offer].price_hour.v, room = n;

    if (l->nodes_max - m->nodes < room) {
        room = l->nodes_max > m->nodes ? l->nodes_max - m->nodes : 0;
        m->plan->by_nodes = true;
    }
    if (l->hour_max.v >= 0 && price > 0 && (l->hour_max.v - m->hour) / price < room) {
        room = l->hour_max.v > m->hour ? (int64_t)((l->hour_max.v - m->hour) / price) : 0;
        m->plan->by_budget = true;
    }
    m->short_of_room = m->short_of_room || room < n;
    return (int32_t)room;
}

static void add_nodes(struct moves *m, int32_t offer, int32_t n, int32_t in_s)
{
    const struct scale_offer *o = &m->s->offers[offer];

    m->hour += (__int128)n * o->price_hour.v;
    m->nodes += n;
    m->active += n * o->tokens_per_s;
    m->plan->coming += n * o->tokens_per_s;
    m->w->active[offer] += n;
    m->plan->api_bridge_s = in_s > m->plan->api_bridge_s ? in_s : m->plan->api_bridge_s;
}

/* Draining nodes that are wanted again: they are paid and awake. */
static void take_back(struct moves *m, int32_t offer)
{
    const struct scale_snapshot *s = m->s;

    for (int32_t i = 0; i < s->n_nodes && m->w->active[offer] < m->w->want[offer]; i++) {
        const struct scale_node *n = &s->nodes[i];
        if (n->offer != offer || n->state != SCALE_DRAINING || n->leaving)
            continue;
        if (!act(m, SCALE_WAKE, SCALE_STILL_UP, offer, i))
            return;
        m->revived[offer]++;
        m->going--;
        m->going_hour -= s->offers[offer].price_hour.v;
        m->w->active[offer]++;
        m->active += s->offers[offer].tokens_per_s;
        m->plan->ready += s->offers[offer].tokens_per_s;
        m->ready++;
        m->serving[offer]++;
    }
}

/* The sleeper that is fastest awake after (last_s, last): by (ready_s, index). -1: none. */
static int32_t next_sleeper(const struct scale_snapshot *s, int32_t offer, int32_t last)
{
    int32_t best = -1;

    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct scale_node *n = &s->nodes[i];
        if (n->offer != offer || n->state != SCALE_ASLEEP)
            continue;
        if (last >= 0 && (n->ready_s < s->nodes[last].ready_s || (n->ready_s == s->nodes[last].ready_s && i <= last)))
            continue;
        if (best < 0 || n->ready_s < s->nodes[best].ready_s)
            best = i;
    }
    return best;
}

static void wake_some(struct moves *m, int32_t offer)
{
    for (int32_t i = next_sleeper(m->s, offer, -1); i >= 0 && m->w->active[offer] < m->w->want[offer];
         i = next_sleeper(m->s, offer, i)) {
        if (room_for(m, offer, 1) == 0 || !act(m, SCALE_WAKE, why_more(m, offer), offer, i))
            return;
        add_nodes(m, offer, 1, m->s->nodes[i].ready_s);
    }
}

static void launch_some(struct moves *m, int32_t offer)
{
    int32_t n = m->w->want[offer] - m->w->active[offer], most = m->s->offers[offer].launch_max;

    n = room_for(m, offer, n < most ? n : most);
    if (n <= 0)
        return;
    struct scale_action *a = act(m, SCALE_LAUNCH, why_more(m, offer), offer, -1);
    if (!a)
        return;
    a->n = n;
    add_nodes(m, offer, n, m->s->offers[offer].boot_s);
}

/* Own machines, then by price per capacity: where room is short, the best comes first. */
static bool goes_before(const struct scale_snapshot *s, int32_t a, int32_t b)
{
    bool own_a = s->offers[a].market == SCALE_ON_PREM, own_b = s->offers[b].market == SCALE_ON_PREM;
    if (own_a != own_b)
        return own_a;
    return price_per_rate(s, a) < price_per_rate(s, b);
}

static void order_offers(const struct scale_snapshot *s, int32_t order[SCALE_OFFERS_MAX])
{
    for (int32_t i = 0; i < s->n_offers; i++) {
        int32_t at = i;
        for (; at > 0 && goes_before(s, i, order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static void add_what_is_missing(struct moves *m, const int32_t *order)
{
    for (int32_t k = 0; k < m->s->n_offers; k++)
        take_back(m, order[k]);
    for (int32_t k = 0; k < m->s->n_offers; k++) {
        int32_t i = order[k];
        if (m->w->active[i] < m->w->want[i] && m->s->offers[i].market == SCALE_ON_PREM)
            wake_some(m, i);
        if (m->w->active[i] < m->w->want[i] && m->s->offers[i].launch_max > 0)
            launch_some(m, i);
    }
}

/* --- less ------------------------------------------------------------------------------------------------------ */

/* In this order nodes of an offer are let go: not yet ready, then with fewest requests, then by index. */
static uint64_t drain_key(const struct scale_node *n, int32_t index)
{
    uint64_t busy = n->in_flight > 0 ? (uint64_t)n->in_flight : 0;
    return (uint64_t)(n->state != SCALE_BOOTING) << 63 | (busy & 0x7fffffff) << 32 | (uint32_t)index;
}

static int32_t next_to_drain(const struct scale_snapshot *s, int32_t offer, int32_t last)
{
    int32_t best = -1;

    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct scale_node *n = &s->nodes[i];
        if (n->offer != offer || (n->state != SCALE_READY && n->state != SCALE_BOOTING))
            continue;
        uint64_t key = drain_key(n, i);
        if ((last < 0 || key > drain_key(&s->nodes[last], last)) &&
            (best < 0 || key < drain_key(&s->nodes[best], best)))
            best = i;
    }
    return best;
}

/* What forces nodes out whatever they do and whatever was paid. */
static bool forced(const struct moves *m, enum scale_reason *reason)
{
    const struct scale_limits *l = &m->s->limits;
    double wanted = 0;

    if (l->hour_max.v >= 0 && m->hour - m->going_hour > l->hour_max.v) {
        *reason = SCALE_OVER_BUDGET;
        return true;
    }
    if (m->nodes - m->going > l->nodes_max) {
        *reason = SCALE_OVER_NODES;
        return true;
    }
    for (int32_t i = 0; i < m->s->n_offers; i++)
        wanted += m->w->want[i] * m->s->offers[i].tokens_per_s;
    *reason = SCALE_MAKES_ROOM;
    return m->short_of_room && m->going == 0 && m->active < m->floor && wanted > m->active * (1 + SCALE_EPSILON);
}

/* Of its pool's minimum, those that are wanted serve without it, too. */
static bool pool_spares(const struct moves *m, int32_t offer)
{
    int32_t wanted = scale_beyond_min(m->s, m->w->want, offer);
    return scale_beyond_min(m->s, m->serving, offer) > (wanted < 0 ? wanted : 0);
}

static bool may_go(const struct moves *m, const struct scale_node *n)
{
    double capacity = m->s->offers[n->offer].tokens_per_s;

    return n->paid_s <= m->s->limits.tick_s &&
           (n->state == SCALE_BOOTING ||
            (m->plan->ready - capacity >= m->floor && m->ready > m->least && pool_spares(m, n->offer)));
}

static enum scale_reason why_less(const struct moves *m, int32_t offer)
{
    double cheaper = 0;

    /* Without the cheaper ones that run, it would be needed: they stand in its place. */
    for (int32_t i = 0; i < m->s->n_offers; i++)
        if (m->s->offers[i].market != SCALE_ON_PREM && price_per_rate(m->s, i) < price_per_rate(m->s, offer))
            cheaper += m->w->active[i] * m->s->offers[i].tokens_per_s;
    return cheaper > 0 && m->active - cheaper - m->s->offers[offer].tokens_per_s < m->floor &&
                   m->s->offers[offer].market != SCALE_ON_PREM
               ? SCALE_REPLACED
               : SCALE_SURPLUS;
}

static void drain_offer(struct moves *m, int32_t offer)
{
    for (int32_t i = next_to_drain(m->s, offer, -1); i >= 0 && m->w->active[offer] > m->w->want[offer];
         i = next_to_drain(m->s, offer, i)) {
        const struct scale_node *n = &m->s->nodes[i];
        double capacity = m->s->offers[offer].tokens_per_s;
        enum scale_reason reason;
        if (!forced(m, &reason)) {
            if (!may_go(m, n))
                continue;
            reason = why_less(m, offer);
        }
        if (!act(m, SCALE_DRAIN, reason, offer, i))
            return;
        m->w->active[offer]--;
        m->active -= capacity;
        if (n->state == SCALE_READY) {
            m->plan->ready -= capacity;
            m->ready--;
            m->serving[offer]--;
        } else {
            m->plan->coming -= capacity;
        }
        if (reason != SCALE_MAKES_ROOM) /* for that, all that is in the way goes at once */
            m->going++;
        m->going_hour += m->s->offers[offer].price_hour.v;
    }
}

/* The dearest go first; own machines, which cost only energy, last. */
static void drain_what_is_too_much(struct moves *m, const int32_t *order)
{
    for (int32_t k = m->s->n_offers - 1; k >= 0; k--)
        if (m->w->active[order[k]] > m->w->want[order[k]])
            drain_offer(m, order[k]);
}

static void end_what_is_drained(struct moves *m)
{
    const struct scale_snapshot *s = m->s;

    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct scale_node *n = &s->nodes[i];
        bool own = s->offers[n->offer].market == SCALE_ON_PREM, late = n->draining_s >= s->limits.drain_max_s;
        if (n->state != SCALE_DRAINING || (n->leaving && own)) /* its operator has it in hand */
            continue;
        if (!n->leaving && m->revived[n->offer] > 0) {
            m->revived[n->offer]--;
            continue;
        }
        if (n->in_flight > 0 && !late)
            continue;
        if (!act(m, own ? SCALE_SLEEP : SCALE_TERMINATE, n->in_flight > 0 ? SCALE_DRAIN_TOO_LONG : SCALE_EMPTY,
                 n->offer, i))
            return;
        m->hour -= s->offers[n->offer].price_hour.v;
        m->nodes--;
    }
}

void scale_moves(struct scale_plan *plan, struct scale_work *w, const struct scale_snapshot *s)
{
    struct moves m = {.plan = plan, .w = w, .s = s};
    int32_t order[SCALE_OFFERS_MAX] = {0};

    take_stock(&m);
    order_offers(s, order);
    add_what_is_missing(&m, order);
    drain_what_is_too_much(&m, order);
    end_what_is_drained(&m);
    plan->hour.v = m.hour < INT64_MAX ? (int64_t)m.hour : INT64_MAX;
    plan->nodes = (int32_t)m.nodes;
}
