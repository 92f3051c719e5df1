/* Laws of routing by objective and SLO, over random snapshots: what holds whatever the numbers are.
 * tests/unit/test_route.c has those of admission and of the plain price.
 * links: spw_policies */
#include <math.h>

#include "policies/route.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define ROUNDS 10000

static double between(uint64_t *seed, double low, double high)
{
    return low + (high - low) * random_unit(seed);
}

struct snapshot {
    struct route_request r;
    struct route_candidate c[16];
    int32_t n;
};

static void random_candidate(struct route_candidate *c, uint64_t *seed)
{
    *c = (struct route_candidate){.serves_model = true,
                                  .healthy = next_random(seed) % 8 != 0,
                                  .local = next_random(seed) % 2 == 0,
                                  .in_flight = (int32_t)(next_random(seed) % 8),
                                  .slots = 8 + (int32_t)(next_random(seed) % 2) * 8,
                                  .has_marginal = true,
                                  .marginal = {(int64_t)between(seed, 0, 1e9)},
                                  .has_energy = true,
                                  .marginal_mj = (int64_t)between(seed, 0, 1e6),
                                  .predicted = true,
                                  .latency = {{.median_us = between(seed, 1e4, 2e6), .log_sd = between(seed, 0.05, 1)},
                                              {.median_us = between(seed, 5e3, 1e5), .log_sd = between(seed, 0.05, 1)}},
                                  .bought = next_random(seed) % 4 == 0,
                                  .crowded = next_random(seed) % 12 == 0,
                                  .queue_us = next_random(seed) % 4 ? 0 : between(seed, 0, 1e6),
                                  .wake_us = next_random(seed) % 6 ? 0 : (int64_t)between(seed, 0, 3e6),
                                  .risk = next_random(seed) % 2 ? 0 : between(seed, 0, 0.5)};
}

static void random_snapshot(struct snapshot *s, uint64_t *seed)
{
    memset(s, 0, sizeof *s);
    s->n = 1 + (int32_t)(next_random(seed) % 16);
    s->r = (struct route_request){.input_tokens = (int64_t)between(seed, 1, 8000),
                                  .output_tokens = (int64_t)between(seed, 1, 1000),
                                  .local_only = next_random(seed) % 4 == 0,
                                  .presses = next_random(seed) % 4 == 0,
                                  .objective = (enum route_objective)(next_random(seed) % 4),
                                  .spread = (uint32_t)next_random(seed)};
    if (next_random(seed) % 3)
        s->r.slo = (struct route_slo){(int64_t)between(seed, 5e4, 2e6), (int64_t)between(seed, 5e3, 1e5), 0.9,
                                      next_random(seed) % 2 ? 0 : 0.99};
    if (next_random(seed) % 3 == 0)
        s->r.waited_us = (int64_t)between(seed, 0, 3e6);
    s->r.stands_back = route_stands_back(s->r.slo.ttft_us, s->r.waited_us, 10000000);
    for (int32_t i = 0; i < s->n; i++)
        random_candidate(&s->c[i], seed);
}

static double time_of(const struct snapshot *s, int32_t i)
{
    const struct route_candidate *c = &s->c[i];
    return (double)c->wake_us + latency_mean(&c->latency.ttft) +
           (double)(s->r.output_tokens - 1) * latency_mean(&c->latency.tpot);
}

static double p_slo(const struct snapshot *s, int32_t i)
{
    const struct route_candidate *c = &s->c[i];
    if (!s->r.slo.ttft_us)
        return 1;
    return latency_within(&c->latency.ttft, (double)(s->r.slo.ttft_us - c->wake_us - s->r.waited_us)) *
           latency_within(&c->latency.tpot, (double)s->r.slo.tpot_us);
}

/* Late by those before it, or late already and in the way of others. */
static bool spoils(const struct snapshot *s, const struct route_candidate *c)
{
    const double limit = (double)(s->r.slo.ttft_us - c->wake_us), left = limit - (double)s->r.waited_us;
    const double alone = c->latency.ttft.median_us - c->queue_us;
    if (!s->r.slo.ttft_us || s->r.presses || c->bought || c->queue_us <= 0)
        return false;
    if (left > 0 && alone <= left)
        return c->latency.ttft.median_us > left;
    return (left > 0 || s->r.stands_back) && c->queue_us > ROUTE_LATE_QUEUE * (alone > limit ? alone : limit);
}

static bool may(const struct snapshot *s, int32_t i)
{
    const struct route_candidate *c = &s->c[i];
    return c->healthy && (c->local || !s->r.local_only) && c->in_flight < c->slots && (!c->crowded || s->r.presses) &&
           !spoils(s, c);
}

/* Only answers that are bought may be had, they would be late, a node is merely full, and there is time. */
static bool rather_waits(const struct snapshot *s)
{
    bool full = false;
    if (!s->r.slo.ttft_us || s->r.presses || 2 * s->r.waited_us >= s->r.slo.ttft_us)
        return false;
    for (int32_t i = 0; i < s->n; i++) {
        const struct route_candidate *c = &s->c[i];
        if (may(s, i) && (!c->bought || c->latency.ttft.median_us <= (double)(s->r.slo.ttft_us - s->r.waited_us)))
            return false;
        full = full || (c->healthy && (c->local || !s->r.local_only) && !may(s, i));
    }
    return full;
}

typedef void law(const struct snapshot *s, const struct route_decision *d);
static void hold(law *l, uint64_t seed)
{
    int answered = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        random_snapshot(&s, &seed);
        route_choose(&d, &s.r, s.c, s.n);
        answered += d.chosen >= 0;
        l(&s, &d);
    }
    CHECK(answered > ROUNDS / 2);
}

/* ---- one law each ----------------------------------------------------------------------------------------------- */

static void dominated(const struct snapshot *s, const struct route_decision *d)
{
    for (int32_t i = 0; d->chosen >= 0 && i < s->n; i++) {
        const struct route_candidate *a = &s->c[i], *b = &s->c[d->chosen];
        bool all =
            may(s, i) && p_slo(s, i) >= p_slo(s, d->chosen) && (double)a->marginal.v * 1.02 < (double)b->marginal.v &&
            (double)a->marginal_mj * 1.02 < (double)b->marginal_mj && time_of(s, i) * 1.02 < time_of(s, d->chosen);
        CHECK(!all);
    }
}
static void a_dominated_candidate_is_never_chosen(void)
{
    hold(dominated, 11);
}

static void at_home(const struct snapshot *s, const struct route_decision *d)
{
    CHECK(d->chosen < 0 || !s->r.local_only || s->c[d->chosen].local);
}
static void local_only_never_leaves(void)
{
    hold(at_home, 12);
}

static void slo_first(const struct snapshot *s, const struct route_decision *d)
{
    double best = 0;
    for (int32_t i = 0; i < s->n; i++)
        best = may(s, i) ? fmax(best, p_slo(s, i)) : best;
    if (d->chosen < 0)
        return;
    if (best >= s->r.slo.probability)
        CHECK(p_slo(s, d->chosen) >= s->r.slo.probability);
    else
        CHECK(p_slo(s, d->chosen) >= best - ROUTE_NEAR_SLO);
}
static void whoever_meets_the_slo_goes_first(void)
{
    hold(slo_first, 13);
}

static double objective_of(const struct snapshot *s, int32_t i)
{
    switch (s->r.objective) {
    case ROUTE_COST: return (double)s->c[i].marginal.v;
    case ROUTE_LATENCY: return time_of(s, i);
    default: return (double)s->c[i].marginal_mj;
    }
}
static void best_of_those(const struct snapshot *s, const struct route_decision *d)
{
    if (d->chosen < 0 || s->r.objective == ROUTE_BALANCED)
        return;
    double chosen = objective_of(s, d->chosen),
           asked = s->r.slo.ttft_us ? fmax(s->r.slo.probability, s->r.slo.sure) : 0;
    for (int32_t i = 0; i < s->n; i++) {
        if (may(s, i) && p_slo(s, i) >= asked && p_slo(s, d->chosen) >= asked)
            CHECK(chosen <= objective_of(s, i) * (1 + ROUTE_NEAR) + 1e-6);
    }
}
static void nobody_within_the_slo_is_better(void)
{
    hold(best_of_those, 14);
}

/* What may be missed saves bought answers and wake-ups, and nothing else: who runs anyway and is surer is not passed by. */
static void surest_of_the_running(const struct snapshot *s, const struct route_decision *d)
{
    double running = 0;
    for (int32_t i = 0; i < s->n; i++)
        if (may(s, i) && !s->c[i].bought && !s->c[i].wake_us)
            running = fmax(running, p_slo(s, i));
    if (d->chosen < 0 || !s->r.slo.ttft_us || running < s->r.slo.probability)
        return;
    CHECK(p_slo(s, d->chosen) >= s->r.slo.probability);
    CHECK(p_slo(s, d->chosen) >= fmin(s->r.slo.sure, running - ROUTE_NEAR_SLO));
}
static void what_may_be_missed_saves_bought_answers_alone(void)
{
    hold(surest_of_the_running, 22);
}

static void admitted(const struct snapshot *s, const struct route_decision *d)
{
    bool any = false;
    for (int32_t i = 0; i < s->n; i++)
        any = any || may(s, i);
    CHECK(d->chosen >= 0 ? may(s, d->chosen) : !any || rather_waits(s));
    CHECK(d->chosen < 0 || !rather_waits(s));
    for (int32_t i = 0; i < s->n; i++)
        if (s->c[i].crowded && !s->r.presses)
            CHECK(i != d->chosen && (d->reasons[i] <= ROUTE_FULL));
}
/* Nobody may have it, and whoever has room has not since it is late there even without a queue. */
static void gives_way(const struct snapshot *s, const struct route_decision *d)
{
    bool yields = false, turn = false;
    for (int32_t i = 0; i < s->n; i++) {
        const struct route_candidate *c = &s->c[i];
        const double left = (double)(s->r.slo.ttft_us - c->wake_us - s->r.waited_us);
        const bool room = c->in_flight < c->slots && (!c->crowded || s->r.presses);
        const bool late = room && (left <= 0 || c->latency.ttft.median_us - c->queue_us > left);
        if (!c->healthy || (s->r.local_only && !c->local))
            continue;
        yields = yields || (late && spoils(s, c));
        turn = turn || !late || may(s, i);
    }
    CHECK(d->too_late == (yields && !turn));
    CHECK(!d->too_late || (d->chosen < 0 && d->may_wait));
}
static void whoever_is_late_everywhere_gives_way(void)
{
    hold(gives_way, 24);
}

/* Nobody has to wait inside a node for memory who could wait outside, for any node. */
static void who_would_wait_inside_waits_outside(void)
{
    hold(admitted, 23);
}

/* The reason given is the first step at which it lost to the chosen one. */
static void real_reason(const struct snapshot *s, const struct route_decision *d)
{
    for (int32_t i = 0; i < s->n; i++) {
        enum route_reason why = d->reasons[i];
        CHECK((why == ROUTE_CHOSEN) == (i == d->chosen));
        CHECK((why == ROUTE_NOT_LOCAL) == (s->r.local_only && !s->c[i].local));
        CHECK(why > ROUTE_FULL || why == ROUTE_CHOSEN || !may(s, i));
        if (why == ROUTE_MISSES_SLO && d->chosen >= 0)
            CHECK(p_slo(s, i) < p_slo(s, d->chosen) + ROUTE_NEAR_SLO &&
                  p_slo(s, i) < fmax(s->r.slo.probability, s->r.slo.sure));
        if (why == ROUTE_DEARER)
            CHECK(s->r.objective == ROUTE_COST &&
                  (double)s->c[i].marginal.v * 1.0101 > (double)s->c[d->chosen].marginal.v);
        if (why == ROUTE_SLOWER)
            CHECK(s->r.objective == ROUTE_LATENCY && time_of(s, i) * 1.0101 > time_of(s, d->chosen));
        if (why == ROUTE_HUNGRIER)
            CHECK(s->r.objective == ROUTE_ENERGY &&
                  (double)s->c[i].marginal_mj * 1.0101 > (double)s->c[d->chosen].marginal_mj);
        if (why == ROUTE_WORSE)
            CHECK(s->r.objective == ROUTE_BALANCED && d->terms[i].value > d->terms[d->chosen].value * 0.99);
        if (why == ROUTE_RISKIER)
            CHECK(s->c[i].risk > s->c[d->chosen].risk);
    }
}
static void the_explanation_names_the_real_reason(void)
{
    hold(real_reason, 15);
}

/* In money, time and energy at once: as good as another would not do, since the means that are compared by change with it. */
static void be_best_of_all(struct snapshot *s, int32_t i, const struct route_decision *d)
{
    struct route_candidate *c = &s->c[i];
    int32_t fastest = i;
    for (int32_t k = 0; k < s->n; k++) {
        if (d->reasons[k] != ROUTE_CHOSEN && d->reasons[k] <= ROUTE_MISSES_SLO)
            continue;
        c->marginal.v = s->c[k].marginal.v < c->marginal.v ? s->c[k].marginal.v : c->marginal.v;
        c->marginal_mj = s->c[k].marginal_mj < c->marginal_mj ? s->c[k].marginal_mj : c->marginal_mj;
        fastest = time_of(s, k) < time_of(s, fastest) ? k : fastest;
    }
    c->latency = s->c[fastest].latency;
    c->wake_us = s->c[fastest].wake_us;
}

/* What it is not admitted for, or lost by, made as good as can be, and nothing else. */
static void mend(struct snapshot *s, int32_t i, enum route_reason why, const struct route_decision *d)
{
    struct route_candidate *c = &s->c[i];
    double least = 1e300;
    switch (why) {
    case ROUTE_OTHER_MODEL: c->serves_model = true; break;
    case ROUTE_NOT_LOCAL: c->local = true; break;
    case ROUTE_TOO_DEAR: c->prices = (struct token_prices){{0}, {0}, {0}}; break;
    case ROUTE_UNFIT: c->unfit = false; break;
    case ROUTE_TRIED: c->tried = false; break;
    case ROUTE_DRAINING: c->draining = false; break;
    case ROUTE_SPARED: c->spared = false; break;
    case ROUTE_UNHEALTHY: c->healthy = true; break;
    case ROUTE_BREAKER_OPEN: c->broken = false; break;
    case ROUTE_COOLING_DOWN: c->cooling = false; break;
    case ROUTE_KEPT: c->kept = false; break;
    case ROUTE_LESS_FIT: c->rank = 0; break;
    case ROUTE_MISSES_SLO:
        c->rank = d->chosen < 0 ? 0 : c->rank; /* that all wait is decided before who suits */
        c->latency = (struct prediction){{.median_us = 1, .log_sd = 0.01}, {.median_us = 1, .log_sd = 0.01}};
        c->wake_us = 0;
        break;
    case ROUTE_DEARER: c->marginal.v = s->c[d->chosen].marginal.v; break;
    case ROUTE_SLOWER: /* as fast as who is fastest; to be too late after all would be another reason */
        c->latency = s->c[d->chosen].latency;
        c->wake_us = s->c[d->chosen].wake_us;
        break;
    case ROUTE_HUNGRIER: c->marginal_mj = s->c[d->chosen].marginal_mj; break;
    case ROUTE_WORSE: be_best_of_all(s, i, d); break;
    case ROUTE_RISKIER:
        for (int32_t k = 0; k < s->n; k++)
            least = fmin(least, s->c[k].risk);
        c->risk = least;
        break;
    case ROUTE_FULL: c->crowded = false; c->queue_us = 0; /* fall through */
    case ROUTE_BUSIER: c->in_flight = 0; break;
    case ROUTE_LESS_CACHED: c->cached_tokens = s->r.input_tokens; break;
    case ROUTE_CHOSEN:
    case ROUTE_TIE:
    case ROUTE_NOT_LISTED: break;
    }
}

/* One that is as good, and no busier than the one that was drawn, is chosen for another draw. */
static bool is_drawn_some_time(const struct snapshot *s, int32_t i)
{
    struct snapshot t = *s;
    struct route_decision d;
    for (t.r.spread = 0; t.r.spread < (uint32_t)(s->n * s->n); t.r.spread++) {
        route_choose(&d, &t.r, t.c, t.n);
        if (d.chosen == i)
            return true;
    }
    return false;
}

static void reasons_are_real(const struct snapshot *s, const struct route_decision *d)
{
    static uint64_t seed = 77;
    struct snapshot t = *s, u;
    struct route_decision e, g;
    (void)d;
    t.r.bounded = next_random(&seed) % 2;
    t.r.charge_max.v = 500000000;
    t.r.output_min = 1;
    t.r.input_max = t.r.input_tokens;
    for (int32_t i = 0; i < t.n; i++) {
        struct route_candidate *c = &t.c[i];
        bool *flags[] = {&c->unfit, &c->tried, &c->draining, &c->broken, &c->cooling, &c->kept};
        for (size_t k = 0; k < sizeof flags / sizeof flags[0]; k++)
            *flags[k] = next_random(&seed) % 24 == 0;
        c->serves_model = next_random(&seed) % 12 != 0;
        c->rank = next_random(&seed) % 8 == 0;
        c->in_flight = next_random(&seed) % 6 ? c->in_flight : c->slots;
        c->cached_tokens = next_random(&seed) % 2 ? 0 : (int64_t)between(&seed, 0, (double)t.r.input_tokens);
        c->prices.output.uusd_per_mtok = next_random(&seed) % 12 ? 0 : 1000000000;
        if (next_random(&seed) % 2) { /* so that more is left to the last steps */
            c->marginal.v = c->marginal_mj = 0;
            c->latency = t.c[0].latency;
            c->wake_us = 0;
            c->risk = next_random(&seed) % 2 ? 0 : c->risk;
        }
    }
    route_choose(&e, &t.r, t.c, t.n);
    int32_t i = (int32_t)(next_random(&seed) % (uint64_t)t.n);
    if (e.reasons[i] == ROUTE_CHOSEN)
        return;
    if (e.reasons[i] == ROUTE_TIE) {
        CHECK(is_drawn_some_time(&t, i));
        return;
    }
    u = t;
    mend(&u, i, e.reasons[i], &e);
    route_choose(&g, &u.r, u.c, u.n);
    CHECK(g.reasons[i] != e.reasons[i]); /* it was that... */
    CHECK(g.reasons[i] == ROUTE_CHOSEN || g.reasons[i] > e.reasons[i] || e.reasons[i] > ROUTE_MISSES_SLO);
    u = t;
    u.c[i].risk = 0; /* ...and nothing that comes later */
    u.c[i].in_flight = u.r.alone || e.reasons[i] == ROUTE_FULL ? u.c[i].in_flight : 0;
    route_choose(&g, &u.r, u.c, u.n);
    if (e.reasons[i] < ROUTE_RISKIER)
        CHECK(g.reasons[i] == e.reasons[i]);
}
/* A loser that is given what it is said to lack, and nothing else, has not lost by that any more: it is chosen, or came
 * further. What its reason does not name does not help it. */
static void what_is_named_is_what_decides(void)
{
    hold(reasons_are_real, 21);
}

static void real_terms(const struct snapshot *s, const struct route_decision *d)
{
    for (int32_t i = 0; i < s->n; i++) {
        const struct route_terms *t = &d->terms[i];
        if (d->reasons[i] == ROUTE_CHOSEN || d->reasons[i] > ROUTE_MISSES_SLO) {
            CHECK(fabs(t->p_slo - p_slo(s, i)) < 1e-9 && t->money == (double)s->c[i].marginal.v);
            CHECK(fabs(t->time_us - time_of(s, i)) < 1 && t->energy_mj == (double)s->c[i].marginal_mj);
        }
    }
}
static void the_terms_are_the_candidates_own(void)
{
    hold(real_terms, 16);
}

/* Whoever stands where in the list: what is chosen is as good. */
static void turned_round(const struct snapshot *s, const struct route_decision *d)
{
    struct snapshot t = *s;
    struct route_decision e;
    for (int32_t i = 0; i < s->n; i++)
        t.c[i] = s->c[s->n - 1 - i];
    route_choose(&e, &t.r, t.c, t.n);
    CHECK((e.chosen < 0) == (d->chosen < 0));
    if (d->chosen < 0)
        return;
    int32_t back = s->n - 1 - e.chosen;
    CHECK(fabs(e.terms[e.chosen].value - d->terms[d->chosen].value) <=
          ROUTE_NEAR * 1.01 * d->terms[d->chosen].value + 1e-6);
    for (int32_t i = 0; i < s->n; i++) { /* and who is out of the draw is so in both */
        bool drawn = d->reasons[i] == ROUTE_CHOSEN || d->reasons[i] >= ROUTE_BUSIER;
        bool drawn_there = e.reasons[s->n - 1 - i] == ROUTE_CHOSEN || e.reasons[s->n - 1 - i] >= ROUTE_BUSIER;
        CHECK(drawn == drawn_there);
    }
    CHECK(may(s, back));
}
static void the_order_of_candidates_does_not_matter(void)
{
    hold(turned_round, 17);
}

static void one_more(const struct snapshot *s, const struct route_decision *d)
{
    static uint64_t seed = 99;
    struct snapshot t = *s;
    struct route_decision e;
    if (s->n == 16 || s->r.objective == ROUTE_BALANCED)
        return;
    random_candidate(&t.c[t.n++], &seed);
    route_choose(&e, &t.r, t.c, t.n);
    CHECK(d->chosen < 0 || e.chosen >= 0 || rather_waits(&t)); /* for the one that came, which is merely full */
    if (d->chosen < 0 || e.chosen < 0)
        return;
    bool met = p_slo(s, d->chosen) >= s->r.slo.probability;
    if (met)
        CHECK(p_slo(&t, e.chosen) >= t.r.slo.probability);
    if (met || !s->r.slo.ttft_us) /* at equal SLO it is no dearer, but for what counts as equal, or it is surer */
        CHECK(objective_of(&t, e.chosen) <= objective_of(s, d->chosen) * (1 + ROUTE_NEAR) + 1e-6 ||
              (s->r.slo.sure > 0 && p_slo(&t, e.chosen) > p_slo(s, d->chosen)));
}
static void one_node_more_makes_nothing_worse(void)
{
    hold(one_more, 18);
}

/* Equal nodes share, and the less loaded of any two gets more. */
static void equals_share_by_two_choices(void)
{
    struct route_candidate c[8];
    int got[8] = {0};
    for (int i = 0; i < 8; i++)
        c[i] = (struct route_candidate){.serves_model = true, .healthy = true, .slots = 32, .in_flight = 2 * i};
    for (uint32_t spread = 0; spread < 56 * 100; spread++) {
        struct route_decision d;
        struct route_request r = {.input_tokens = 10, .output_tokens = 10, .spread = spread};
        route_choose(&d, &r, c, 8);
        got[d.chosen]++;
    }
    /* Of the 56 ordered pairs the i-th least loaded wins 2 * (7 - i). */
    for (int i = 0; i < 8; i++)
        CHECK_INT(got[i], 1400 - 200 * i);
}

/* What nothing is known of is tried, and is not let off an SLO that it is known to miss. */
static void the_unknown_is_tried(void)
{
    struct route_candidate c[2];
    struct route_decision d;
    struct route_request r = {.input_tokens = 10, .output_tokens = 100, .objective = ROUTE_LATENCY};
    int unknown = 0;
    c[0] =
        (struct route_candidate){.serves_model = true,
                                 .healthy = true,
                                 .predicted = true,
                                 .latency = {{.median_us = 50000, .log_sd = 0.2}, {.median_us = 10000, .log_sd = 0.2}}};
    c[1] = (struct route_candidate){.serves_model = true, .healthy = true};
    for (r.spread = 0; r.spread < 100; r.spread++) {
        route_choose(&d, &r, c, 2);
        unknown += d.chosen == 1;
    }
    CHECK(unknown > 20 && unknown < 80);
    CHECK(d.terms[1].time_us < 0);
    r.slo = (struct route_slo){.ttft_us = 10000, .probability = 0.9};
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 1);
    CHECK_INT(d.reasons[0], ROUTE_MISSES_SLO);
}

/* Asleep, it has its wake-up against it: in time, and in the chance to be in time. */
static void a_wake_up_counts(void)
{
    struct route_candidate c[2];
    struct route_decision d;
    struct route_request r = {.input_tokens = 10, .output_tokens = 10, .objective = ROUTE_LATENCY};
    c[0] =
        (struct route_candidate){.serves_model = true,
                                 .healthy = true,
                                 .predicted = true,
                                 .wake_us = 600000,
                                 .latency = {{.median_us = 50000, .log_sd = 0.2}, {.median_us = 10000, .log_sd = 0.2}}};
    c[1] = c[0];
    c[1].wake_us = 0;
    c[1].latency.tpot.median_us = 40000; /* awake, but slow */
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 1);
    r.output_tokens = 1000;
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 0);
    r.slo = (struct route_slo){.ttft_us = 500000, .probability = 0.95};
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 1);
    CHECK_INT(d.reasons[0], ROUTE_MISSES_SLO);
}

/* A balanced choice is neither the worst in anything that matters nor one-sided. */
static void balanced_weighs_all_three(void)
{
    struct route_decision d;
    struct route_request r = {.input_tokens = 10, .output_tokens = 2, .objective = ROUTE_BALANCED};
    struct route_candidate c[3];
    for (int i = 0; i < 3; i++)
        c[i] = (struct route_candidate){.serves_model = true,
                                        .healthy = true,
                                        .predicted = true,
                                        .has_marginal = true,
                                        .has_energy = true,
                                        .marginal = {120},
                                        .marginal_mj = 120,
                                        .latency = {{.median_us = 120000}, {.median_us = 1}}};
    c[0].marginal.v = 100, c[0].marginal_mj = 900; /* cheapest by a little, and hungry */
    c[1].latency.ttft.median_us = 100000, c[1].marginal.v = 900;
    route_choose(&d, &r, c, 3);
    CHECK_INT(d.chosen, 2);
    CHECK_INT(d.reasons[0], ROUTE_WORSE);
    for (int o = 0; o < 4; o++)
        CHECK(strlen(route_objective_name((enum route_objective)o)) > 3);
}

int main(void)
{
    TEST(a_dominated_candidate_is_never_chosen);
    TEST(local_only_never_leaves);
    TEST(whoever_meets_the_slo_goes_first);
    TEST(nobody_within_the_slo_is_better);
    TEST(what_may_be_missed_saves_bought_answers_alone);
    TEST(who_would_wait_inside_waits_outside);
    TEST(whoever_is_late_everywhere_gives_way);
    TEST(the_explanation_names_the_real_reason);
    TEST(what_is_named_is_what_decides);
    TEST(the_terms_are_the_candidates_own);
    TEST(the_order_of_candidates_does_not_matter);
    TEST(one_node_more_makes_nothing_worse);
    TEST(equals_share_by_two_choices);
    TEST(the_unknown_is_tried);
    TEST(a_wake_up_counts);
    TEST(balanced_weighs_all_three);
    return TEST_RESULT();
}
