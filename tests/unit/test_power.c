/* Proves the laws of power (policies/power.h): the site's limit holds at every instant of a random site's life,
 * keep_warm and work keep nodes awake, the ladder costs at most twice the offline optimum (and what the forecast
 * promises), nothing goes deeper before it pays, work stands on few nodes, and nodes are up by when they are needed.
 * Each law catches planted mistakes.
 * links: spw_policies */
#include "policies/power.h"
#include "tests/unit/test.h"

#include <stdlib.h>

#define S     INT64_C(1000000)
#define NODES 12

static uint64_t random_state;
static int64_t below(int64_t n)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (int64_t)((z ^ (z >> 31)) % (uint64_t)n);
}

/* What somebody could get wrong. Each is a version of the policy that the laws must refuse. */
enum mistake {
    NONE,
    FORGETS_WAKE_SURGE,  /* counts a waking node as an idle one */
    FORGETS_FIRST_TOKEN, /* admits as if a request added what the average one draws */
    COUNTS_SLEEPERS_OUT, /* sleeping nodes draw nothing, it says */
    FORGETS_KEEP_WARM,
    SLEEPS_WITH_WORK,
    SLEEPS_EARLY, /* at half the break-even */
    SLEEPS_NEVER,
    TRUSTS_TOO_MUCH, /* a forecast of half the break-even is enough */
    MOVES_PINNED,
    WAKES_LATE,     /* when the work is there, not before */
    SPREADS,        /* everybody who is awake gets work */
    DRAINS_ALL,     /* nobody does */
    FORGETS_ROOM,   /* answers are moved to where there is none */
    MOVES_FOR_FREE, /* reading them again costs nothing, it says */
    MISTAKES,
};
static enum mistake mistake;
static int violations[16];
enum law { CAP, WARM, WORK, RATIO, PAYS, PINNED, AHEAD, PACKED, REASON, TRUST, ROOM, SAVES, STAYS };
#define LAW(law, holds)                                                                                                \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            violations[law]++;                                                                                         \
            if (mistake == NONE)                                                                                       \
                CHECK(holds);                                                                                          \
        }                                                                                                              \
    } while (0)

/* ---- random sites ------------------------------------------------------------------------------------------------ */

static void random_levels(struct power_levels *l)
{
    memset(l, 0, sizeof *l);
    int64_t idle = 50000 + below(100000), down_us = 0, down_mw = 0, wake_us = 0, wake_mw = 0;
    for (int s = 0; s < POWER_STATES; s++) {
        struct power_level *v = &l->of[s];
        v->allowed = s == POWER_ACTIVE || below(4) > 0;
        v->idle_mw = idle;
        if (s > 0) {
            down_us += below(s == POWER_ECO ? 100000 : 20 * S);
            down_mw += below(60000);
            wake_us += below(s == POWER_ECO ? 100000 : s == POWER_SLEEP ? 15 * S : 300 * S);
            wake_mw += below(300000);
            v->down_us = down_us, v->down_mw = down_mw, v->wake_us = wake_us, v->wake_mw = wake_mw;
        }
        if (s <= POWER_ECO) {
            int64_t mw = idle + below(400000);
            v->n_points = (int)below(4);
            for (int i = 0; i < v->n_points; i++, mw += below(100000))
                v->points[i] = (struct power_point){1 + i * 10, mw};
        }
        v->speed = s == POWER_ECO ? 0.3 + (double)below(70) / 100 : 1;
        idle -= below(idle / 2 + 1);
    }
    struct error e;
    CHECK(power_levels_check(l, &e) == RC_OK);
}

struct site {
    struct power_levels levels[3];
    struct power_node nodes[NODES];
    struct power_group groups[2];
    struct power_snapshot s;
    struct power_plan plan;
    struct power_choice choices[NODES];
    int64_t busy_until[NODES][64];
};

static void random_group(struct power_group *g)
{
    *g = (struct power_group){.keep_warm = (int32_t)below(3),
                              .margin = (double)below(10),
                              .trust = 500,
                              .steady = below(2) ? 0.8 : 0,
                              .until_us = 600 * S};
    int64_t in_us = 0;
    for (g->n_steps = 0; g->n_steps < below(POWER_STEPS_MAX); g->n_steps++) {
        in_us += 1 + below(60 * S);
        double upper = (double)below(80);
        g->steps[g->n_steps] = (struct power_need){in_us, upper, upper * (double)below(101) / 100};
    }
}

static void random_site(struct site *w)
{
    memset(w, 0, sizeof *w);
    for (int i = 0; i < 3; i++)
        random_levels(&w->levels[i]);
    w->s = (struct power_snapshot){.nodes = w->nodes,
                                   .n_nodes = 1 + (int32_t)below(NODES),
                                   .groups = w->groups,
                                   .n_groups = 2,
                                   .base_mw = below(100000),
                                   .hysteresis = 0.1};
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        struct power_node *n = &w->nodes[i];
        int type = (int)below(3);
        n->levels = &w->levels[type];
        n->slots = 8 + 8 * type;
        n->capacity = n->slots;
        n->group = (int32_t)below(2);
        n->usable = below(12) > 0;
        n->pinned = below(10) == 0;
        n->wakes = below(10) > 0;
        do
            n->state = (enum power_state)below(POWER_STATES);
        while (!n->levels->of[n->state].allowed);
        n->to = n->state;
        n->accepts = n->state <= POWER_ECO && below(2);
        n->in_flight = n->state <= POWER_ECO && below(2) ? (int32_t)below(n->slots + 1) : 0;
        n->move_mj = n->in_flight && below(2) ? 1 + below(n->in_flight * INT64_C(1000000)) : 0;
        n->last_us = n->in_flight ? below(200 * S) : 0;
        n->empties_us = n->accepts ? 0 : below(60 * S);
        n->idle_us = n->in_flight ? 0 : below(3) ? below(60 * S) : below(3600 * S);
    }
    for (int g = 0; g < 2; g++) {
        random_group(&w->groups[g]);
        for (int32_t i = 0; i < w->s.n_nodes; i++)
            w->groups[g].now += w->nodes[i].group == g ? w->nodes[i].in_flight : 0;
        w->groups[g].now += (double)(below(2) ? 0 : below(20));
    }
}

/* ---- the policy, and its mistaken versions ----------------------------------------------------------------------- */

static int64_t ceiling_now(const struct site *w)
{
    int64_t mw = w->s.base_mw;
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        const struct power_node *n = &w->nodes[i];
        int64_t most = power_ceiling_mw(n, n->to);
        if (mistake == COUNTS_SLEEPERS_OUT && n->state > POWER_ECO && n->state == n->to)
            most = 0;
        mw += most;
    }
    return mw;
}

static void plan(struct site *w)
{
    struct site m = *w; /* what a mistaken policy sees */
    int32_t order[NODES];
    m.s.nodes = m.nodes;
    m.s.groups = m.groups;
    for (int32_t i = 0; i < m.s.n_nodes; i++) {
        m.nodes[i].levels = &m.levels[w->nodes[i].levels - w->levels];
        if (mistake == SLEEPS_WITH_WORK)
            m.nodes[i].in_flight = 0, m.nodes[i].idle_us = 7200 * S;
        if (mistake == SLEEPS_EARLY)
            m.nodes[i].idle_us *= 2;
        if (mistake == MOVES_PINNED)
            m.nodes[i].pinned = false;
        if (mistake == FORGETS_ROOM)
            m.nodes[i].slots *= 4;
        if (mistake == MOVES_FOR_FREE)
            m.nodes[i].move_mj = m.nodes[i].move_mj > 0;
    }
    for (int t = 0; t < 3 && mistake == FORGETS_WAKE_SURGE; t++)
        for (int s = 0; s < POWER_STATES; s++)
            m.levels[t].of[s].wake_mw = 0;
    if (mistake == COUNTS_SLEEPERS_OUT && m.s.cap_mw > 0)
        for (int32_t i = 0; i < m.s.n_nodes; i++)
            if (m.nodes[i].state > POWER_ECO && m.nodes[i].state == m.nodes[i].to)
                m.s.cap_mw += m.nodes[i].levels->of[m.nodes[i].state].idle_mw;
    for (int g = 0; g < 2; g++) {
        if (mistake == FORGETS_KEEP_WARM)
            m.groups[g].keep_warm = 0;
        if (mistake == WAKES_LATE)
            m.groups[g].n_steps = 0;
        if (mistake == TRUSTS_TOO_MUCH)
            m.groups[g].trust = 1000, m.groups[g].until_us = INT64_MAX;
    }
    power_plan(&w->plan, w->choices, order, &m.s);
    for (int32_t i = 0; i < m.s.n_nodes; i++) {
        if (mistake == SPREADS && w->choices[i].target <= POWER_ECO)
            w->choices[i].accepts = true;
        if (mistake == DRAINS_ALL)
            w->choices[i].accepts = false;
    }
}

/* ---- laws of one plan -------------------------------------------------------------------------------------------- */

static bool is_awake(const struct power_node *n, enum power_state target)
{
    return n->usable && n->capacity > 0 && n->state <= POWER_ECO && n->to <= POWER_ECO && target <= POWER_ECO;
}

static void law_moves(const struct site *w)
{
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        const struct power_node *n = &w->nodes[i];
        const struct power_choice *c = &w->choices[i];
        LAW(WORK, c->target <= POWER_ECO || n->in_flight == 0 || n->to > POWER_ECO);
        LAW(PINNED, (!n->pinned && n->usable) || c->target == n->to);
        LAW(REASON, c->reason < POWER_REASONS && power_reason_text(c->reason)[0] != '?');
        bool woken = n->to > POWER_ECO && c->target <= POWER_ECO;
        LAW(REASON,
            woken == (c->reason == POWER_WAKES_NOW || c->reason == POWER_WAKES_AHEAD || c->reason == POWER_WAKES_WARM));
        bool deeper = c->target > POWER_ECO && c->target > n->to;
        LAW(REASON,
            !deeper || c->reason == POWER_DEEPER || c->reason == POWER_LONG_IDLE || c->reason == POWER_CAP_EMPTIES);
        LAW(PINNED, !deeper || n->wakes);
        if (deeper && c->reason == POWER_DEEPER) { /* past the point at which it pays, or half of it by forecast */
            struct power_ladder ladder;
            power_ladder(&ladder, n->levels);
            int64_t after = INT64_MAX;
            for (int at = 1; at < ladder.n; at++)
                if (ladder.level[at] == c->target)
                    after = ladder.after_us[at];
            LAW(PAYS, n->idle_us >= after);
        }
    }
}

static void law_warm(const struct site *w)
{
    for (int g = 0; g < 2; g++) {
        int before = 0, after = 0, woken = 0, could = 0;
        for (int32_t i = 0; i < w->s.n_nodes; i++) {
            const struct power_node *n = &w->nodes[i];
            if (n->group != g || !n->usable)
                continue;
            before += is_awake(n, n->to);
            after += is_awake(n, w->choices[i].target);
            woken += n->state > POWER_ECO && w->choices[i].target <= POWER_ECO;
            could += n->state > POWER_ECO && n->state == n->to && !n->pinned && w->choices[i].target > POWER_ECO;
        }
        int want = w->groups[g].keep_warm;
        if (!w->plan.by_cap) {
            LAW(WARM, after >= (before < want ? before : want));
            LAW(WARM, after + woken >= want || could == 0);
        }
    }
}

/* Whatever the forecast says will be needed by the time a node would be up is awake or on its way, or nobody is left. */
static void law_ahead(const struct site *w)
{
    if (w->plan.by_cap)
        return;
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        const struct power_node *n = &w->nodes[i];
        if (!n->usable || n->pinned || n->state != n->to || n->state <= POWER_ECO || w->choices[i].target <= POWER_ECO)
            continue;
        /* It stays down: then what is as shallow or shallower, or awake, covers the need until it could be up. */
        const struct power_group *g = &w->groups[n->group];
        double covered = 0, need = g->now;
        for (int at = 0; at < g->n_steps && g->steps[at].in_us <= n->levels->of[n->state].wake_us; at++)
            need = g->steps[at].capacity > need ? g->steps[at].capacity : need;
        for (int32_t k = 0; k < w->s.n_nodes; k++) {
            const struct power_node *o = &w->nodes[k];
            if (k == i || o->group != n->group || !o->usable || (o->pinned && o->state > POWER_ECO))
                continue;
            if (o->to <= n->state)
                covered += o->capacity;
        }
        LAW(AHEAD, covered >= need - 1e-6);
    }
    /* Somebody waits: nobody who could help is left asleep. */
    for (int g = 0; g < 2; g++) {
        double up = 0;
        int asleep = 0;
        for (int32_t i = 0; i < w->s.n_nodes; i++) {
            const struct power_node *n = &w->nodes[i];
            if (n->group != g || !n->usable)
                continue;
            up += w->choices[i].target <= POWER_ECO ? n->capacity : 0;
            asleep += w->choices[i].target > POWER_ECO && !n->pinned && n->state == n->to && n->to > POWER_ECO;
        }
        LAW(AHEAD, asleep == 0 || up >= w->groups[g].now - 1e-6);
    }
}

/* Those who get work are needed: without any one of them the need, keep_warm, or the edge would not be covered. And
 * while there is need and somebody awake, somebody gets work. */
static void law_packed(const struct site *w)
{
    for (int g = 0; g < 2; g++) {
        double taken = 0, need = w->groups[g].now + w->groups[g].margin;
        int takers = 0, up = 0;
        for (int32_t i = 0; i < w->s.n_nodes; i++) {
            const struct power_node *n = &w->nodes[i];
            if (n->group != g || !is_awake(n, w->choices[i].target))
                continue;
            up += !n->pinned;
            if (!w->choices[i].accepts || n->pinned)
                continue;
            takers++;
            bool slow = n->to == POWER_ECO || w->choices[i].target == POWER_ECO;
            taken += n->capacity * (slow ? n->levels->of[POWER_ECO].speed : 1);
        }
        LAW(PACKED, takers <= w->groups[g].keep_warm || taken - 24 - 2.4 < need);
        LAW(PACKED, takers > 0 || up == 0 || need <= 0 || w->plan.by_cap || w->groups[g].now < 1);
    }
}

/* Answers are moved off nodes that run empty alone, to slots that are free on those that get work, and only where that
 * saves more than it costs. */
static void law_moved(const struct site *w)
{
    for (int g = 0; g < 2; g++) {
        int64_t room = 0, moved = 0;
        for (int32_t i = 0; i < w->s.n_nodes; i++) {
            const struct power_node *n = &w->nodes[i];
            const struct power_choice *c = &w->choices[i];
            if (n->group != g)
                continue;
            if (c->accepts && n->state == POWER_ACTIVE && n->slots > n->in_flight)
                room += n->slots - n->in_flight;
            if (!c->moves)
                continue;
            int64_t mw = power_draw_mw(n->levels, n->to, n->in_flight) - n->levels->of[n->to].idle_mw;
            moved += n->in_flight;
            LAW(WORK, !c->accepts && c->target <= POWER_ECO && n->usable && !n->pinned);
            LAW(SAVES, n->move_mj > 0 && power_mj(mw, n->last_us) >= n->move_mj);
        }
        LAW(ROOM, moved <= room);
    }
}

/* Nobody is sent to sleep whom the next plan would wake. */
static void law_stays(const struct site *w)
{
    struct site next = *w;
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        next.nodes[i].levels = &next.levels[w->nodes[i].levels - w->levels];
        next.nodes[i].state = next.nodes[i].to = w->choices[i].target;
    }
    next.s.cap_mw = 0;
    plan(&next);
    for (int32_t i = 0; i < w->s.n_nodes; i++)
        LAW(STAYS, w->choices[i].target <= w->nodes[i].to || next.choices[i].target > POWER_ECO ||
                       w->choices[i].reason == POWER_CAP_EMPTIES || w->choices[i].target <= POWER_ECO);
}

static void plans(void)
{
    for (int round = 0; round < TEST_FEWER(1500); round++) {
        struct site w;
        random_site(&w);
        if (below(2))
            w.s.cap_mw = ceiling_now(&w) - 100000 + below(600000);
        plan(&w);
        law_moves(&w);
        law_warm(&w);
        law_ahead(&w);
        law_moved(&w);
        law_stays(&w);
        for (int32_t i = 0; i < w.s.n_nodes; i++) /* a pinned node may cover the need by itself */
            if (w.nodes[i].pinned)
                goto next;
        law_packed(&w);
        struct site again = w;
        for (int32_t i = 0; i < w.s.n_nodes; i++)
            again.nodes[i].levels = &again.levels[w.nodes[i].levels - w.levels];
        plan(&again);
        for (int32_t i = 0; i < w.s.n_nodes; i++)
            LAW(REASON, again.choices[i].target == w.choices[i].target &&
                            again.choices[i].reason == w.choices[i].reason &&
                            again.choices[i].accepts == w.choices[i].accepts);
    next:;
    }
}

/* ---- the limit, in a site's life --------------------------------------------------------------------------------- */

/* What a node really draws at some instant: anything up to what its state and move allow. */
static int64_t truly_mw(const struct power_node *n)
{
    return power_move_mw(n->levels, n->state, n->to, n->in_flight);
}

static void tell(struct site *w)
{
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        struct power_node *n = &w->nodes[i];
        n->accepts = w->choices[i].accepts;
        if (w->choices[i].target == n->to || n->state != n->to)
            continue;
        n->to = w->choices[i].target;
        n->moved_us = power_move_us(n->levels, n->state, n->to);
    }
}

static void one_request(struct site *w)
{
    int32_t i = (int32_t)below(w->s.n_nodes);
    struct power_node *n = &w->nodes[i];
    if (!n->usable || n->state > POWER_ECO || n->to > POWER_ECO || n->in_flight >= n->slots)
        return;
    /* While it changes its speed it may draw as in either. */
    enum power_state counted =
        power_draw_mw(n->levels, n->state, n->in_flight + 1) > power_draw_mw(n->levels, n->to, n->in_flight + 1)
            ? n->state
            : n->to;
    struct power_ask a = {.levels = n->levels, .state = counted, .in_flight = n->in_flight};
    int64_t ceiling = ceiling_now(w);
    bool in = power_admit(w->s.cap_mw, ceiling, -1, &a) == POWER_ADMIT;
    if (mistake == FORGETS_FIRST_TOKEN) {
        int64_t full = power_draw_mw(n->levels, n->state, n->slots);
        in = ceiling + (full - n->levels->of[n->state].idle_mw) / n->slots <= w->s.cap_mw;
    }
    if (in) {
        n->in_flight++;
        n->idle_us = 0;
    }
}

static void pass(struct site *w, int64_t us)
{
    for (int32_t i = 0; i < w->s.n_nodes; i++) {
        struct power_node *n = &w->nodes[i];
        if (n->in_flight > 0 && below(3) == 0)
            n->in_flight -= (int32_t)below(n->in_flight + 1);
        if (n->in_flight == 0)
            n->idle_us += us;
        if (n->state == n->to)
            continue;
        n->moved_us -= us;
        if (n->moved_us <= 0)
            n->state = n->to, n->moved_us = 0;
    }
}

static void life_under_a_limit(void)
{
    for (int round = 0; round < 80; round++) {
        struct site w;
        random_site(&w);
        for (int32_t i = 0; i < w.s.n_nodes; i++)
            w.nodes[i].in_flight = 0;
        int64_t drawn = w.s.base_mw;
        for (int32_t i = 0; i < w.s.n_nodes; i++)
            drawn += truly_mw(&w.nodes[i]);
        w.s.cap_mw = drawn + below(900000);
        for (int turn = 0; turn < 120; turn++) {
            for (int g = 0; g < 2; g++) {
                int32_t kept = w.groups[g].keep_warm;
                random_group(&w.groups[g]);
                w.groups[g].keep_warm = kept;
                w.groups[g].now = (double)below(60);
            }
            plan(&w);
            tell(&w);
            for (int r = 0; r < 20; r++) {
                one_request(&w);
                int64_t mw = w.s.base_mw;
                for (int32_t i = 0; i < w.s.n_nodes; i++)
                    mw += truly_mw(&w.nodes[i]);
                LAW(CAP, mw <= w.s.cap_mw);
                if (r % 7 == 0)
                    pass(&w, below(3 * S));
            }
        }
    }
}

/* ---- the ladder -------------------------------------------------------------------------------------------------- */

static enum power_state depth(const struct power_ladder *ladder, int64_t idle_us, const struct power_forecast *f)
{
    if (mistake == SLEEPS_NEVER)
        return POWER_ACTIVE;
    struct power_forecast more = f ? *f : (struct power_forecast){0};
    if (mistake == TRUSTS_TOO_MUCH && f)
        more.left_us *= 2, more.trust = 1000;
    return power_depth(ladder, mistake == SLEEPS_EARLY ? idle_us * 2 : idle_us, &more);
}

/* What the ladder's advice costs over an idle period, followed on a grid of steps: joules in millijoules. total_us < 0:
 * no forecast; else what the forecast says the whole period will last. */
static double follow(const struct power_levels *l, int64_t idle_us, int64_t foretold_us, int32_t trust)
{
    struct power_ladder ladder;
    power_ladder(&ladder, l);
    enum power_state at = POWER_ACTIVE;
    double nj = 0;
    int64_t now = 0, busy_until = 0; /* on its way down until then: paid as the move */
    while (now <= idle_us) {
        struct power_forecast f = {
            .known = foretold_us >= 0, .trust = trust, .left_us = foretold_us > now ? foretold_us - now : 0};
        enum power_state deep = depth(&ladder, now, foretold_us >= 0 ? &f : NULL);
        if (deep > at) {
            nj += (double)power_move_mj(l, at, deep) * 1e6;
            busy_until = now + power_move_us(l, at, deep);
            at = deep;
        }
        int64_t step = idle_us / 512 + 1, next = now + step;
        int64_t from = now > busy_until ? now : busy_until, to = next < idle_us ? next : idle_us;
        nj += to > from ? (double)l->of[at].idle_mw * (double)(to - from) : 0;
        now = next;
    }
    return (nj + (at > 0 ? (double)l->of[at].wake_mw * (double)l->of[at].wake_us : 0)) / 1e6;
}

static void ladder_against_the_optimum(void)
{
    for (int round = 0; round < TEST_FEWER(300); round++) {
        struct power_levels l;
        random_levels(&l);
        struct power_ladder ladder;
        power_ladder(&ladder, &l);
        for (int k = 0; k < 6; k++) {
            int64_t idle = below(2) ? 1 + below(900 * S) : 1 + below(20 * S), best;
            int step = 1 + (int)below(POWER_STATES);
            if (step < ladder.n && below(2)) /* just past an edge is the worst place */
                idle = ladder.after_us[step] < 7200 * S ? ladder.after_us[step] + 1000 : idle;
            power_offline(&l, idle, &best);
            double slack = (double)l.of[POWER_ACTIVE].idle_mw * (double)(idle / 512 + 1) / 1e6 * 2 + 10;
            LAW(RATIO, follow(&l, idle, -1, 0) <= 2 * (double)best + slack);
            int32_t trust = 100 + (int32_t)below(800);
            double lambda = 1 - trust / 1000.0;
            LAW(TRUST, follow(&l, idle, idle, trust) <= (1 + lambda) * (double)best + slack);
            LAW(TRUST,
                follow(&l, idle, below(2) ? idle * 8 : idle / 8, trust) <= (1 + 1 / lambda) * (double)best + slack);
        }
        for (int i = 1; i < ladder.n; i++) { /* deeper only where it pays */
            int64_t after = ladder.after_us[i];
            int64_t mj = power_idle_mj(&l, ladder.level[i], after);
            CHECK(mj <= power_idle_mj(&l, ladder.level[i - 1], after) + 1);
            CHECK_INT(power_depth(&ladder, after, NULL) >= ladder.level[i], 1);
            if (after > ladder.after_us[i - 1])
                LAW(PAYS, depth(&ladder, after - 1, NULL) < ladder.level[i]);
            CHECK(power_next_us(&ladder, after - 1, NULL) == 1 || after == 0 || after == ladder.after_us[i - 1]);
        }
    }
}

/* ---- by hand ----------------------------------------------------------------------------------------------------- */

/* One H100: 100 W with a context, 62 W without one (10 s at 150 W to come back), 5 W off (4 min at 150 W). */
static const struct power_levels hundred = {
    .of = {[POWER_ACTIVE] = {.allowed = true, .idle_mw = 100000, .n_points = 2, .points = {{8, 486438}, {256, 690508}}},
           [POWER_SLEEP] = {.allowed = true,
                            .idle_mw = 62000,
                            .down_us = 2 * S,
                            .down_mw = 100000,
                            .wake_us = 10 * S,
                            .wake_mw = 150000},
           [POWER_OFF] = {.allowed = true,
                          .idle_mw = 5000,
                          .down_us = 30 * S,
                          .down_mw = 100000,
                          .wake_us = 240 * S,
                          .wake_mw = 150000}}};

static void worked_example(void)
{
    struct power_ladder ladder;
    power_ladder(&ladder, &hundred);
    CHECK_INT(ladder.n, 3);
    /* sleep: 100 t = 200 + 1500 + 62 (t - 2) -> t = 41.5 s */
    CHECK_INT(ladder.after_us[1], 41473685);
    /* off: 1700 + 62 (t - 2) = 3000 + 36000 + 5 (t - 30) -> t = 653.9 s */
    CHECK_INT(ladder.after_us[2], 653929825);
    CHECK_INT(power_depth(&ladder, 41 * S, NULL), POWER_ACTIVE);
    CHECK_INT(power_depth(&ladder, 42 * S, NULL), POWER_SLEEP);
    struct power_forecast night = {.known = true, .left_us = 3600 * S, .trust = 800};
    CHECK_INT(power_depth(&ladder, 9 * S, &night), POWER_SLEEP);
    CHECK_INT(power_depth(&ladder, 131 * S, &night), POWER_OFF);
    struct power_forecast soon = {.known = true, .left_us = 20 * S, .trust = 800};
    CHECK_INT(power_depth(&ladder, 42 * S, &soon), POWER_ACTIVE);
    CHECK_INT(power_depth(&ladder, 208 * S, &soon), POWER_SLEEP);
    CHECK_INT(power_draw_mw(&hundred, POWER_ACTIVE, 4), 293219);
    CHECK_INT(power_draw_mw(&hundred, POWER_ACTIVE, 300), 690508);
    CHECK_INT(power_mj(100000, 41500000), 4150000);
}

static void who_is_let_in(void)
{
    struct power_ask a = {.levels = &hundred, .state = POWER_ACTIVE, .in_flight = 0, .wait_us = 5 * S};
    CHECK_INT(power_ask_mw(&a), 48305);
    CHECK_INT(power_admit(0, 1000000, -1, &a), POWER_ADMIT);
    CHECK_INT(power_admit(148305, 100000, -1, &a), POWER_ADMIT);
    CHECK_INT(power_admit(148304, 100000, 4 * S, &a), POWER_QUEUE);
    CHECK_INT(power_admit(148304, 100000, -1, &a), POWER_QUEUE);
    CHECK_INT(power_admit(148304, 100000, 6 * S, &a), POWER_SHED);
    a.spills = true;
    CHECK_INT(power_admit(148304, 100000, 4 * S, &a), POWER_SPILL);
    a.batch = true;
    CHECK_INT(power_admit(148304, 100000, 6 * S, &a), POWER_QUEUE);
    a.wait_us = 0;
    CHECK_INT(power_admit(148304, 100000, 6 * S, &a), POWER_SPILL);
    a.spills = false;
    CHECK_INT(power_admit(148304, 100000, 6 * S, &a), POWER_SHED);
    a.state = POWER_OFF; /* it would have to wake first */
    CHECK_INT(power_ask_mw(&a), 148305 - 5000 + 1695);
}

static void bad_levels(void)
{
    struct error e;
    struct power_levels l = hundred;
    CHECK_INT(power_levels_check(&l, &e), RC_OK);
    l.of[POWER_SLEEP].idle_mw = 200000;
    CHECK_INT(power_levels_check(&l, &e), RC_INVALID);
    CHECK(strstr(e.message, "sleep draws 200000 mW"));
    l = hundred;
    l.of[POWER_OFF].wake_us = 1;
    CHECK_INT(power_levels_check(&l, &e), RC_INVALID);
    CHECK(strstr(e.message, "off is reached or left sooner"));
    l = hundred;
    l.of[POWER_ACTIVE].points[1].in_flight = 8;
    CHECK_INT(power_levels_check(&l, &e), RC_INVALID);
    CHECK(strstr(e.message, "active: point 2"));
    l = hundred;
    l.of[POWER_ECO].allowed = true;
    CHECK_INT(power_levels_check(&l, &e), RC_INVALID);
    CHECK(strstr(e.message, "speed"));
    CHECK_INT(power_levels_check(&l, NULL), RC_INVALID);
}

/* Four nodes of ten; 12 in use. Two serve, the third runs empty, the fourth sleeps on; 35 needed in 300 s: the fourth
 * is needed then, and wakes when its 10 s are due. */
static void a_small_site(void)
{
    struct power_node n[4];
    struct power_choice c[4];
    int32_t order[4];
    struct power_plan p;
    for (int i = 0; i < 4; i++)
        n[i] = (struct power_node){.slots = 10, .capacity = 10, .usable = true, .wakes = true, .levels = &hundred};
    n[0].in_flight = 1, n[1].in_flight = 9, n[2].in_flight = 2;
    n[3].state = n[3].to = POWER_SLEEP, n[3].idle_us = 100 * S;
    struct power_group g = {.now = 12, .until_us = 3600 * S, .trust = 800, .n_steps = 1, .steps = {{300 * S, 35, 35}}};
    struct power_snapshot s = {.nodes = n, .n_nodes = 4, .groups = &g, .n_groups = 1, .hysteresis = 0.1};
    power_plan(&p, c, order, &s);
    CHECK(!c[0].accepts && c[1].accepts && c[2].accepts && !c[3].accepts);
    CHECK_INT(c[0].reason, POWER_RUNS_EMPTY);
    CHECK_INT(c[1].reason, POWER_SERVES);
    CHECK_INT(c[3].reason, POWER_STAYS_DOWN);
    CHECK_INT(c[3].target, POWER_SLEEP);
    g.steps[0].in_us = 10 * S;
    power_plan(&p, c, order, &s);
    CHECK_INT(c[3].reason, POWER_WAKES_AHEAD);
    CHECK_INT(c[3].target, POWER_ACTIVE);
    s.cap_mw = p.draw_mw + 50000;
    power_plan(&p, c, order, &s);
    CHECK_INT(c[3].reason, POWER_CAP_HOLDS);
    CHECK(p.by_cap && p.ceiling_mw <= s.cap_mw);
    s.cap_mw = p.draw_mw - 50000; /* lowered: the last ones run empty */
    power_plan(&p, c, order, &s);
    CHECK_INT(c[0].reason, POWER_CAP_EMPTIES);
    CHECK(!c[0].accepts);
    CHECK(p.all_active_mw > p.draw_mw);
}

static void slower_where_it_saves(void)
{
    struct power_levels l = hundred;
    l.of[POWER_ECO] = (struct power_level){.allowed = true,
                                           .idle_mw = 90000,
                                           .wake_us = 1000,
                                           .wake_mw = 100000,
                                           .speed = 0.7,
                                           .n_points = 2,
                                           .points = {{8, 350000}, {256, 450000}}};
    struct error e;
    CHECK_INT(power_levels_check(&l, &e), RC_OK);
    struct power_node n = {
        .slots = 256, .capacity = 256, .usable = true, .wakes = true, .levels = &l, .in_flight = 100};
    struct power_choice c;
    int32_t order;
    struct power_plan p;
    struct power_group g = {.now = 100, .keep_warm = 1, .steady = 0.9};
    struct power_snapshot s = {.nodes = &n, .n_nodes = 1, .groups = &g, .n_groups = 1, .hysteresis = 0.1};
    power_plan(&p, &c, &order, &s);
    CHECK_INT(c.target, POWER_ECO);
    CHECK_INT(c.reason, POWER_SLOWER);
    n.state = n.to = POWER_ECO;
    power_plan(&p, &c, &order, &s);
    CHECK_INT(c.target, POWER_ECO);
    g.now = n.in_flight = 200;
    power_plan(&p, &c, &order, &s);
    CHECK_INT(c.target, POWER_ACTIVE);
    CHECK_INT(c.reason, POWER_FASTER);
    /* A second node is wanted and does not fit: the first is slowed down, and makes room. */
    struct power_node two[2] = {n, n};
    struct power_choice cs[2];
    int32_t orders[2];
    two[0].state = two[0].to = POWER_ACTIVE;
    two[1].state = two[1].to = POWER_SLEEP, two[1].in_flight = 0;
    s = (struct power_snapshot){
        .nodes = two, .n_nodes = 2, .groups = &g, .n_groups = 1, .hysteresis = 0.1, .cap_mw = 720000};
    g.now = 300;
    power_plan(&p, cs, orders, &s);
    CHECK_INT(cs[0].reason, POWER_CAP_SLOWER);
    CHECK_INT(cs[1].reason, POWER_CAP_HOLDS);
    two[0].state = two[0].to = POWER_ECO;
    power_plan(&p, cs, orders, &s);
    CHECK_INT(cs[0].target, POWER_ECO);
    CHECK_INT(cs[1].target, POWER_ACTIVE);
    CHECK(p.ceiling_mw <= s.cap_mw);
}

static void run_laws(void)
{
    random_state = 4;
    plans();
    life_under_a_limit();
    ladder_against_the_optimum();
}

static void mistakes_are_caught(void)
{
    static const char *const names[] = {"",
                                        "forgets wake surge",
                                        "forgets first token",
                                        "counts sleepers out",
                                        "forgets keep_warm",
                                        "sleeps with work",
                                        "sleeps early",
                                        "sleeps never",
                                        "trusts too much",
                                        "moves pinned",
                                        "wakes late",
                                        "spreads",
                                        "drains all",
                                        "forgets room",
                                        "moves for free"};
    static const enum law by[] = {[FORGETS_WAKE_SURGE] = CAP, [FORGETS_FIRST_TOKEN] = CAP, [COUNTS_SLEEPERS_OUT] = CAP,
                                  [FORGETS_KEEP_WARM] = WARM, [SLEEPS_WITH_WORK] = WORK,   [SLEEPS_EARLY] = RATIO,
                                  [SLEEPS_NEVER] = RATIO,     [TRUSTS_TOO_MUCH] = TRUST,   [MOVES_PINNED] = PINNED,
                                  [WAKES_LATE] = AHEAD,       [SPREADS] = PACKED,          [DRAINS_ALL] = PACKED,
                                  [FORGETS_ROOM] = ROOM,      [MOVES_FOR_FREE] = SAVES};
    for (int m = 1; m < MISTAKES; m++) {
        mistake = (enum mistake)m;
        memset(violations, 0, sizeof violations);
        run_laws();
        if (!violations[by[m]])
            fprintf(stderr, "\"%s\" is not caught\n", names[m]);
        CHECK(violations[by[m]] > 0);
    }
    mistake = NONE;
}

int main(void)
{
    TEST(worked_example);
    TEST(who_is_let_in);
    TEST(bad_levels);
    TEST(a_small_site);
    TEST(slower_where_it_saves);
    TEST(run_laws);
    if (!TEST_SANITIZED)
        TEST(mistakes_are_caught);
    return TEST_RESULT();
}
