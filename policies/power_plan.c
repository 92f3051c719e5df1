/* The plan of a site: an order of each group's nodes, then one walk along it. */
#include "policies/power.h"

#include <math.h>
#include <stddef.h>

#define LEAST_CAPACITY 1e-9
#define MOVE_TRUST     500 /* in how long no more than what is awake is likely to be needed */

const char *power_reason_name(enum power_reason r)
{
    static const char *const names[] = {
        "serves",     "kept_warm",   "margin",    "wakes_now", "wakes_ahead", "wakes_warm", "runs_empty",
        "not_yet",    "deeper",      "long_idle", "slower",    "faster",      "stays_down", "cap_holds",
        "cap_slower", "cap_empties", "moving",    "pinned",    "unusable",
    };
    return (unsigned)r < POWER_REASONS ? names[r] : "?";
}

const char *power_reason_text(enum power_reason r)
{
    static const char *const texts[] = {
        [POWER_SERVES] = "needed for the work there is",
        [POWER_KEPT_WARM] = "kept awake by keep_warm",
        [POWER_MARGIN] = "awake for what may come before another node would be up",
        [POWER_WAKES_NOW] = "woken: there is more work than awake nodes can take",
        [POWER_WAKES_AHEAD] = "woken: the forecast needs it by the time it is up",
        [POWER_WAKES_WARM] = "woken: keep_warm asks for it",
        [POWER_RUNS_EMPTY] = "not needed; finishes what it has and gets new work only when the others are full",
        [POWER_NOT_YET] = "not needed, but sleeping would not pay yet",
        [POWER_DEEPER] = "not needed, and idle for longer than the deeper level takes to pay",
        [POWER_LONG_IDLE] = "not needed, and by the forecast not before the deeper level has paid",
        [POWER_SLOWER] = "its load fits the slower speed, at fewer watts",
        [POWER_FASTER] = "its load does not fit the slower speed",
        [POWER_STAYS_DOWN] = "not needed",
        [POWER_CAP_HOLDS] = "wanted elsewhere on the ladder, but the move could exceed the site's limit",
        [POWER_CAP_SLOWER] = "slower, so that more work fits the site's limit",
        [POWER_CAP_EMPTIES] = "runs empty: the site's limit is below what is drawn",
        [POWER_MOVING] = "on its way",
        [POWER_PINNED] = "held in its state by an operator",
        [POWER_UNUSABLE] = "does not answer, or leaves",
    };
    return (unsigned)r < POWER_REASONS ? texts[r] : "?";
}

/* ---- the order --------------------------------------------------------------------------------------------------- */

static bool awake(const struct power_node *n)
{
    return n->state <= POWER_ECO && n->to <= POWER_ECO;
}
static bool on_its_way(const struct power_node *n)
{
    return n->state > POWER_ECO && n->to <= POWER_ECO;
}

/* Awake, waking, asleep, off, and what can't be used; an operator's awake one first, for it is awake anyhow. */
static int class_of(const struct power_node *n)
{
    if (!n->usable || n->capacity <= 0)
        return 6;
    if (awake(n))
        return n->pinned ? 0 : 1;
    if (on_its_way(n))
        return 2;
    if (n->pinned)
        return 5;
    return n->to == POWER_SLEEP ? 3 : 4;
}

/* Watts per capacity at full load. */
static double appetite(const struct power_node *n)
{
    return (double)power_draw_mw(n->levels, POWER_ACTIVE, n->slots > 0 ? n->slots : INT32_MAX) / n->capacity;
}

static int compare(const struct power_node *nodes, int32_t ia, int32_t ib)
{
    const struct power_node *a = &nodes[ia], *b = &nodes[ib];
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    int ca = class_of(a), cb = class_of(b);
    if (ca != cb)
        return ca < cb ? -1 : 1;
    if (ca < 6) {
        double wa = appetite(a), wb = appetite(b);
        if (wa < wb || wa > wb)
            return wa < wb ? -1 : 1;
    }
    if (a->in_flight != b->in_flight)
        return a->in_flight > b->in_flight ? -1 : 1;
    if (a->accepts != b->accepts)
        return a->accepts ? -1 : 1;
    if (a->idle_us != b->idle_us) /* who has slept longest goes on sleeping */
        return a->idle_us < b->idle_us ? -1 : 1;
    return ia < ib ? -1 : ia > ib;
}

static void sift(const struct power_node *nodes, int32_t *order, int32_t at, int32_t n)
{
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && compare(nodes, order[child], order[child + 1]) < 0)
            child++;
        if (compare(nodes, order[at], order[child]) >= 0)
            return;
        int32_t swap = order[at];
        order[at] = order[child];
        order[child] = swap;
    }
}

/* Heapsort: in place, and no worse on any input. */
static void sort(const struct power_node *nodes, int32_t *order, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift(nodes, order, i, n);
    for (int32_t last = n - 1; last > 0; last--) {
        int32_t swap = order[0];
        order[0] = order[last];
        order[last] = swap;
        sift(nodes, order, 0, last);
    }
}

struct walk {
    const struct power_snapshot *s;
    struct power_plan *plan;
    const struct power_group *g;
    double covered; /* capacity of the nodes before this one */
    int32_t warm;   /* of them awake, or waking */
    int32_t room;   /* slots free on those of them that accept */
};

/* ---- needs ------------------------------------------------------------------------------------------------------- */

/* On the line through (a_us, a) and (b_us, b). */
static double between(int64_t a_us, double a, int64_t b_us, double b, int64_t at_us)
{
    return b_us > a_us ? a + (b - a) * (double)(at_us - a_us) / (double)(b_us - a_us) : b;
}

/* The most of what begins at `now` and is at(step) at each step, up to in_us from now. */
static double most_within(const struct power_group *g, int64_t in_us, double now,
                          double (*at)(const struct power_need *))
{
    double most = now, before = now;
    int64_t before_us = 0;
    for (int i = 0; i < g->n_steps; i++) {
        const struct power_need *s = &g->steps[i];
        double then = at(s);
        if (s->in_us > in_us)
            return fmax(most, between(before_us, before, s->in_us, then, in_us));
        most = fmax(most, then);
        before = then;
        before_us = s->in_us;
    }
    return most;
}

static double upper_of(const struct power_need *s)
{
    return s->capacity;
}
/* The most that will be needed up to in_us from now. */
static double need_within(const struct power_group *g, int64_t in_us)
{
    return most_within(g, in_us, g->now + g->margin, upper_of);
}

static double spread_of(const struct power_need *s)
{
    return s->capacity - s->likely;
}
/* How far that is from the likely. */
static double spread_within(const struct power_group *g, int64_t in_us)
{
    return most_within(g, in_us, g->margin, spread_of);
}

/* When more than `covered` is likely to be needed; INT64_MAX: not as far as can be seen. */
static int64_t likely_us(const struct power_group *g, double covered)
{
    double before = g->now;
    int64_t before_us = 0;
    if (before > covered)
        return 0;
    for (int i = 0; i < g->n_steps; i++) {
        const struct power_need *s = &g->steps[i];
        if (s->likely > covered)
            return before_us + (int64_t)((double)(s->in_us - before_us) * (covered - before) / (s->likely - before));
        before = s->likely;
        before_us = s->in_us;
    }
    return INT64_MAX;
}

/* How long a node that covers what is beyond `covered` stays down once it is in a level that takes wake_us to leave. It
 * is woken when, so far ahead, the upper quantile is more than covered: when the likely is, less what lies between. */
static struct power_forecast idle_left(const struct power_group *g, double covered, int64_t wake_us)
{
    struct power_forecast f = {.known = g->n_steps > 0 && !g->untried, .trust = g->trust};
    f.left_us = likely_us(g, covered - spread_within(g, wake_us));
    if (f.left_us > g->until_us)
        f.left_us = g->until_us;
    return f;
}

/* The deepest level that pays for an idle node. None that the next plan would wake it from. */
static enum power_state depth_of(const struct walk *w, const struct power_node *n, const struct power_ladder *ladder)
{
    for (int i = ladder->n - 1; i > 0; i--) {
        struct power_ladder upto = *ladder;
        int64_t wake_us = n->levels->of[ladder->level[i]].wake_us;
        struct power_forecast f = idle_left(w->g, w->covered, wake_us);
        upto.n = i + 1;
        if (need_within(w->g, wake_us) <= w->covered && power_depth(&upto, n->idle_us, &f) == ladder->level[i])
            return ladder->level[i];
    }
    return POWER_ACTIVE;
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

/* Tells node i where to go if the most that can be drawn still fits; false: it does not, and i stays. */
static bool move(struct walk *w, int32_t i, struct power_choice *c, enum power_state target, enum power_reason reason)
{
    const struct power_node *n = &w->s->nodes[i];
    int64_t more = power_ceiling_mw(n, target) - power_ceiling_mw(n, n->to);
    int64_t first = 0; /* a node that is woken and may then not serve a single request is of no use */
    if (target == POWER_ACTIVE && n->to > POWER_ECO) {
        first = power_draw_mw(n->levels, POWER_ACTIVE, 1) - power_ceiling_mw(n, target);
        first = first > 0 ? first : 0;
    }
    if (w->s->cap_mw > 0 && more + first > 0 && w->plan->ceiling_mw + more + first > w->s->cap_mw) {
        c->reason = POWER_CAP_HOLDS;
        w->plan->by_cap = true;
        return false;
    }
    w->plan->ceiling_mw += more;
    c->target = target;
    c->reason = reason;
    return true;
}

/* An awake node that is needed: at which speed? `share` of its capacity is needed from it. */
static void set_speed(struct walk *w, int32_t i, struct power_choice *c, double share)
{
    const struct power_node *n = &w->s->nodes[i];
    const struct power_level *eco = &n->levels->of[POWER_ECO];
    double fits = w->g->steady * eco->speed, slack = w->s->hysteresis * eco->speed;
    int32_t slowed = n->in_flight > 0 && eco->allowed ? (int32_t)((double)n->in_flight / eco->speed) + 1 : 0;
    bool saves = eco->allowed && w->g->steady > 0 &&
                 power_draw_mw(n->levels, POWER_ECO, slowed) < power_draw_mw(n->levels, POWER_ACTIVE, n->in_flight);
    if (n->to == POWER_ACTIVE && saves && share <= fits - slack)
        move(w, i, c, POWER_ECO, POWER_SLOWER);
    else if (n->to == POWER_ECO && (share > fits || !eco->allowed)) {
        /* All that it may be sent must fit, or it would go back and forth under the limit. */
        int32_t full = n->slots > 0 ? n->slots : INT32_MAX;
        int64_t more = power_draw_mw(n->levels, POWER_ACTIVE, full) - power_draw_mw(n->levels, POWER_ECO, n->in_flight);
        if (w->s->cap_mw <= 0 || w->plan->ceiling_mw + more <= w->s->cap_mw)
            move(w, i, c, POWER_ACTIVE, POWER_FASTER);
        else
            c->reason = POWER_CAP_SLOWER;
    }
}

/* Not needed and empty: as deep as pays. */
static void go_deeper(struct walk *w, int32_t i, struct power_choice *c)
{
    const struct power_node *n = &w->s->nodes[i];
    struct power_ladder ladder;
    struct power_forecast f = idle_left(w->g, w->covered, 0);
    power_ladder(&ladder, n->levels);
    enum power_state deep = depth_of(w, n, &ladder), patient = power_depth(&ladder, n->idle_us, NULL);
    if (!n->wakes && deep > POWER_ECO)
        deep = n->levels->of[POWER_ECO].allowed ? POWER_ECO : POWER_ACTIVE;
    c->idle_left_us = f.known ? f.left_us : -1;
    c->reason = n->to > POWER_ECO ? POWER_STAYS_DOWN : POWER_NOT_YET;
    if (deep > n->to) {
        move(w, i, c, deep, deep > patient ? POWER_LONG_IDLE : POWER_DEEPER);
        return;
    }
    int64_t next = n->wakes ? power_next_us(&ladder, n->idle_us, &f) : INT64_MAX;
    if (next < w->plan->again_us)
        w->plan->again_us = next;
}

static double capacity_in(const struct power_node *n, enum power_state s)
{
    return s == POWER_ECO ? n->capacity * n->levels->of[POWER_ECO].speed : n->capacity;
}

/* Does an awake node get new work? The first that are needed for what is there do; a little more than they hold (the
 * hysteresis) is no reason to begin with another: it would serve few for as long as the longest answer takes. */
static bool gets_work(const struct walk *w, const struct power_node *n, bool warm)
{
    double over = w->g->now - w->covered;
    if (w->covered <= 0)
        return over > 0 || warm;
    return over > (n->accepts ? 0 : w->s->hysteresis * n->capacity) + LEAST_CAPACITY;
}

/* Is it worth reading its answers again elsewhere? That is a level like sleep: it costs move_mj to get there, and saves
 * what serving draws beyond idling until the last answer would be over, or until so much comes that the node serves
 * again. */
static void move_work(struct walk *w, const struct power_node *n, struct power_choice *c)
{
    int64_t mw = power_draw_mw(n->levels, n->to, n->in_flight) - n->levels->of[n->to].idle_mw;
    if (n->move_mj <= 0 || mw <= 0 || w->room < n->in_flight + w->g->margin)
        return;
    struct power_ladder moved = {.n = 2, .level = {POWER_ACTIVE, POWER_SLEEP}};
    struct power_forecast f = {.known = w->g->n_steps > 0, .left_us = likely_us(w->g, w->covered), .trust = MOVE_TRUST};
    moved.after_us[1] = (int64_t)fmin((double)n->move_mj / (double)mw * 1e6, 1e15);
    f.left_us = f.left_us < n->last_us ? f.left_us : n->last_us;
    c->moves = n->last_us > moved.after_us[1] && power_depth(&moved, n->empties_us, &f) == POWER_SLEEP;
    if (c->moves)
        w->room -= n->in_flight;
}

static void awake_node(struct walk *w, int32_t i, struct power_choice *c)
{
    const struct power_node *n = &w->s->nodes[i];
    double need = w->g->now + w->g->margin;
    bool warm = w->warm < w->g->keep_warm, wanted = w->covered < need - LEAST_CAPACITY;
    c->accepts = gets_work(w, n, warm);
    if (c->accepts && n->slots > n->in_flight && n->state == POWER_ACTIVE)
        w->room += n->slots - n->in_flight;
    if (n->in_flight > 0 && !c->accepts) {
        c->reason = POWER_RUNS_EMPTY;
        move_work(w, n, c);
    } else if (c->accepts || wanted || warm) {
        bool serves = n->in_flight > 0 || w->covered < w->g->now - LEAST_CAPACITY;
        c->reason = serves ? POWER_SERVES : wanted ? POWER_MARGIN : POWER_KEPT_WARM;
        set_speed(w, i, c, (need - w->covered) / n->capacity);
    } else
        go_deeper(w, i, c);
    if (c->target <= POWER_ECO) {
        w->covered += capacity_in(n, c->target);
        w->warm++;
    } else
        w->covered += n->capacity; /* can come back: deeper ones are needed only beyond it */
}

static void waking_node(struct walk *w, int32_t i, struct power_choice *c)
{
    const struct power_node *n = &w->s->nodes[i];
    c->reason = POWER_MOVING;
    c->accepts = false;
    w->covered += n->capacity;
    w->warm++;
}

static void sleeping_node(struct walk *w, int32_t i, struct power_choice *c)
{
    const struct power_node *n = &w->s->nodes[i];
    int64_t up_us = n->levels->of[n->to].wake_us;
    if (n->state != n->to) { /* it must get there first */
        up_us += n->moved_us > 0 ? n->moved_us : power_move_us(n->levels, n->state, n->to);
        c->reason = POWER_MOVING;
    }
    bool now = w->covered < w->g->now - LEAST_CAPACITY, warm = w->warm < w->g->keep_warm;
    bool ahead = w->covered < need_within(w->g, up_us) - LEAST_CAPACITY;
    if (n->state == n->to && (now || ahead || warm)) {
        if (!move(w, i, c, POWER_ACTIVE, now ? POWER_WAKES_NOW : ahead ? POWER_WAKES_AHEAD : POWER_WAKES_WARM))
            return; /* covers nothing: a smaller one may fit */
        w->warm++;
    } else if (n->state == n->to)
        go_deeper(w, i, c);
    w->covered += n->capacity;
}

/* ---- the limit --------------------------------------------------------------------------------------------------- */

/* More is wanted than fits: where slower clocks do more work per watt, slower is more. */
static void slow_under_cap(struct walk *w, struct power_choice *choices)
{
    for (int32_t i = 0; i < w->s->n_nodes; i++) {
        const struct power_node *n = &w->s->nodes[i];
        const struct power_level *eco = &n->levels->of[POWER_ECO];
        struct power_choice *c = &choices[i];
        if (!n->usable || n->pinned || !eco->allowed || n->state != POWER_ACTIVE || n->to != POWER_ACTIVE ||
            c->target != POWER_ACTIVE)
            continue;
        int32_t full = n->slots > 0 ? n->slots : INT32_MAX;
        double slow = (double)power_draw_mw(n->levels, POWER_ECO, full) / eco->speed;
        if (slow < (double)power_draw_mw(n->levels, POWER_ACTIVE, full))
            move(w, i, c, POWER_ECO, POWER_CAP_SLOWER);
    }
}

/* The limit was lowered below what is drawn: the last in the order run empty until the rest fits, and go down at once. */
static void empty_under_cap(struct walk *w, struct power_choice *choices, const int32_t *order)
{
    int64_t over = w->plan->ceiling_mw - w->s->cap_mw;
    for (int32_t at = w->s->n_nodes; at-- > 0 && over > 0;) {
        int32_t i = order[at];
        const struct power_node *n = &w->s->nodes[i];
        struct power_choice *c = &choices[i];
        if (!n->usable || n->pinned || n->state != n->to || n->to > POWER_ECO || c->target > POWER_ECO)
            continue;
        c->accepts = false;
        c->reason = POWER_CAP_EMPTIES;
        enum power_state deep = n->levels->of[POWER_SLEEP].allowed ? POWER_SLEEP : POWER_OFF;
        int64_t drawn = power_ceiling_mw(n, c->target);
        if (n->wakes && n->levels->of[deep].allowed) {
            over -= drawn - n->levels->of[deep].idle_mw;
            if (n->in_flight == 0)
                move(w, i, c, deep, POWER_CAP_EMPTIES);
        } else
            over -= drawn - n->levels->of[POWER_ACTIVE].idle_mw;
    }
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static void one_node(struct walk *w, int32_t i, struct power_choice *c)
{
    const struct power_node *n = &w->s->nodes[i];
    switch (class_of(n)) {
    case 0:
        c->accepts = true;
        c->reason = POWER_PINNED;
        w->covered += capacity_in(n, n->to);
        w->warm++;
        break;
    case 1: awake_node(w, i, c); break;
    case 2: waking_node(w, i, c); break;
    case 3:
    case 4: sleeping_node(w, i, c); break;
    case 5: c->reason = POWER_PINNED; break;
    default: c->reason = POWER_UNUSABLE; break;
    }
}

/* The same load on all usable nodes, awake: by capacity, as a router without packing spreads it. */
static int64_t spread_mw(const struct power_snapshot *s, const int32_t *order)
{
    int64_t mw = s->base_mw;
    for (int32_t from = 0, to; from < s->n_nodes; from = to) {
        double capacity = 0, in_flight = 0;
        for (to = from; to < s->n_nodes && s->nodes[order[to]].group == s->nodes[order[from]].group; to++)
            if (s->nodes[order[to]].usable) {
                capacity += s->nodes[order[to]].capacity;
                in_flight += s->nodes[order[to]].in_flight;
            }
        for (int32_t at = from; at < to; at++) {
            const struct power_node *n = &s->nodes[order[at]];
            if (!n->usable)
                mw += power_move_mw(n->levels, n->state, n->to, n->in_flight);
            else
                mw += power_draw_mw(n->levels, POWER_ACTIVE,
                                    capacity > 0 ? (int32_t)(in_flight * n->capacity / capacity) : n->in_flight);
        }
    }
    return mw;
}

static void count(struct power_plan *plan, const struct power_snapshot *s, const struct power_choice *choices)
{
    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct power_node *n = &s->nodes[i];
        if (!n->usable)
            continue;
        if (choices[i].target > POWER_ECO)
            plan->asleep++;
        else if (n->state > POWER_ECO)
            plan->waking++;
        else
            plan->awake++;
    }
}

void power_plan(struct power_plan *plan, struct power_choice *choices, int32_t *order, const struct power_snapshot *s)
{
    *plan = (struct power_plan){.draw_mw = s->base_mw, .again_us = INT64_MAX};
    for (int32_t i = 0; i < s->n_nodes; i++) {
        const struct power_node *n = &s->nodes[i];
        SPW_ASSERT(n->group >= 0 && n->group < s->n_groups && n->levels);
        choices[i] = (struct power_choice){.target = n->to, .reason = POWER_MOVING, .idle_left_us = -1};
        plan->draw_mw += power_move_mw(n->levels, n->state, n->to, n->in_flight);
    }
    plan->ceiling_mw = plan->draw_mw;
    sort(s->nodes, order, s->n_nodes);
    struct walk w = {.s = s, .plan = plan};
    for (int32_t at = 0; at < s->n_nodes; at++) {
        const struct power_group *g = &s->groups[s->nodes[order[at]].group];
        if (at == 0 || g != w.g)
            w = (struct walk){.s = s, .plan = plan, .g = g};
        one_node(&w, order[at], &choices[order[at]]);
    }
    if (s->cap_mw > 0 && plan->ceiling_mw > s->cap_mw) {
        plan->by_cap = true;
        empty_under_cap(&w, choices, order);
    }
    if (plan->by_cap)
        slow_under_cap(&w, choices);
    plan->all_active_mw = spread_mw(s, order);
    count(plan, s, choices);
}
