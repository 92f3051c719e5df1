/* Routing's laws, over random snapshots and beside a naive model written the other way round: by elimination.
 * links: spw_policies */
#include "policies/route.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define ROUNDS 20000

struct snapshot {
    struct route_request request;
    struct route_candidate c[ROUTE_CANDIDATES_MAX];
    int32_t n;
};

/* Few distinct values, so that ties, full nodes and equal prices are common. */
static void random_snapshot(struct snapshot *s, uint64_t *seed)
{
    memset(s, 0, sizeof(*s));
    s->n = (int32_t)(next_random(seed) % (next_random(seed) % 4 ? 9 : ROUTE_CANDIDATES_MAX + 1));
    s->request.input_tokens = (int64_t)(next_random(seed) % 3) * 500;
    s->request.output_tokens = (int64_t)(next_random(seed) % 3) * 200;
    s->request.local_only = next_random(seed) % 4 == 0;
    s->request.alone = next_random(seed) % 8 == 0;
    s->request.spread = (uint32_t)next_random(seed);
    s->request.bounded = next_random(seed) % 3 == 0;
    s->request.charge_max.v = (int64_t)(next_random(seed) % 4) * 100000000;
    s->request.input_max = (int64_t)(next_random(seed) % 3) * 1000;
    s->request.output_min = (int64_t)(next_random(seed) % 2) * 100;
    bool ranks = next_random(seed) % 3 == 0;
    for (int32_t i = 0; i < s->n; i++) {
        struct route_candidate *c = &s->c[i];
        c->serves_model = next_random(seed) % 4 != 0;
        c->healthy = next_random(seed) % 5 != 0;
        c->draining = next_random(seed) % 6 == 0;
        c->spared = next_random(seed) % 12 == 0;
        c->no_watts = next_random(seed) % 12 == 0;
        c->local = next_random(seed) % 2 == 0;
        c->tried = next_random(seed) % 6 == 0;
        c->unfit = next_random(seed) % 8 == 0;
        c->kept = next_random(seed) % 8 == 0;
        c->broken = next_random(seed) % 8 == 0;
        c->cooling = next_random(seed) % 8 == 0;
        c->back_us = (int64_t)(next_random(seed) % 3) * 1000;
        c->rank = ranks ? (int32_t)(next_random(seed) % 3) : 0;
        c->in_flight = (int32_t)(next_random(seed) % 5);
        c->slots = (int32_t)(next_random(seed) % 4) * 2;
        c->prices.input.uusd_per_mtok = (int64_t)(next_random(seed) % 3) * 100000;
        c->prices.cached_input.uusd_per_mtok = c->prices.input.uusd_per_mtok / 2;
        c->cached_tokens = next_random(seed) % 3 ? 0 : (int64_t)(next_random(seed) % 4) * 400 - 200;
        c->prices.output.uusd_per_mtok = (int64_t)(next_random(seed) % 3) * 400000;
    }
}

static int64_t model_cached(const struct snapshot *s, int32_t i)
{
    int64_t cached = s->c[i].cached_tokens < 0 ? 0 : s->c[i].cached_tokens;
    return cached > s->request.input_tokens ? s->request.input_tokens : cached;
}

static int64_t model_charge(const struct snapshot *s, int32_t i)
{
    return (s->request.input_tokens - model_cached(s, i)) * s->c[i].prices.input.uusd_per_mtok +
           model_cached(s, i) * s->c[i].prices.cached_input.uusd_per_mtok +
           s->request.output_tokens * s->c[i].prices.output.uusd_per_mtok;
}

static bool model_affords(const struct snapshot *s, int32_t i)
{
    return !s->request.bounded || s->request.input_max * s->c[i].prices.input.uusd_per_mtok +
                                          s->request.output_min * s->c[i].prices.output.uusd_per_mtok <=
                                      s->request.charge_max.v;
}

static bool model_admits(const struct snapshot *s, int32_t i)
{
    const struct route_candidate *c = &s->c[i];
    bool full = (c->slots != 0 && c->in_flight >= c->slots) || (s->request.alone && c->in_flight != 0) || c->no_watts;
    bool fit = c->serves_model && model_affords(s, i) && !c->unfit && !c->tried && (c->local || !s->request.local_only);
    return fit && c->healthy && !c->draining && !c->spared && !c->broken && !c->cooling && !c->kept && !full;
}

/* Requests per slot, exact for the small numbers above (a double holds k/256 and k/6 apart). */
static double model_load(const struct snapshot *s, int32_t i)
{
    return (double)s->c[i].in_flight / (s->c[i].slots ? s->c[i].slots : 256);
}

/* With what is left of the prompt to read, a whole one being as much as half of the slots; in integers, whose least
 * common denominator is that of slots of 2, 4, 6 and 256 and of prompts of 500 and 1000 tokens. */
static int64_t model_work(const struct snapshot *s, int32_t i)
{
    int64_t slots = s->c[i].slots ? s->c[i].slots : 256, input = s->request.input_tokens, unit = INT64_C(768) * 1000;
    int64_t left = input ? (input - model_cached(s, i)) * unit / input : 0;
    return 2 * s->c[i].in_flight * unit / slots + left;
}

/* i beats j outright. */
static bool model_beats(const struct snapshot *s, int32_t i, int32_t j)
{
    if (s->c[i].rank != s->c[j].rank)
        return s->c[i].rank < s->c[j].rank;
    return (double)model_charge(s, j) > (double)model_charge(s, i) * (1 + ROUTE_NEAR);
}

/* Those that nobody beats; where one of them holds anything of the prompt, only those of the least work. */
static int32_t model_best(const struct snapshot *s, int32_t best[ROUTE_CANDIDATES_MAX])
{
    int32_t n = 0, kept = 0;
    int64_t held = 0, least = INT64_MAX;
    for (int32_t i = 0; i < s->n; i++) {
        bool beaten = !model_admits(s, i);
        for (int32_t j = 0; j < s->n && !beaten; j++)
            beaten = model_admits(s, j) && model_beats(s, j, i);
        if (beaten)
            continue;
        best[n++] = i;
        held += model_cached(s, i);
        least = model_work(s, i) < least ? model_work(s, i) : least;
    }
    for (int32_t i = 0; i < n; i++) {
        if (!held || model_work(s, best[i]) == least)
            best[kept++] = best[i];
    }
    return kept;
}

static int32_t model_choose(const struct snapshot *s)
{
    int32_t best[ROUTE_CANDIDATES_MAX], n = model_best(s, best);
    if (!n)
        return -1;
    int32_t a = (int32_t)(s->request.spread % (uint32_t)n);
    if (n == 1)
        return best[a];
    int32_t b = (int32_t)(((uint32_t)a + 1 + s->request.spread / (uint32_t)n % (uint32_t)(n - 1)) % (uint32_t)n);
    return model_load(s, best[b]) < model_load(s, best[a]) ? best[b] : best[a];
}

static void agrees_with_naive_model(void)
{
    uint64_t seed = 1;
    int answered = 0, nobody = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        random_snapshot(&s, &seed);
        route_choose(&d, &s.request, s.c, s.n);
        CHECK_INT(d.chosen, model_choose(&s));
        d.chosen < 0 ? nobody++ : answered++;
    }
    CHECK(answered > ROUNDS / 10 && nobody > ROUNDS / 100); /* the generator reaches both */
}

static void chosen_may_answer(void)
{
    uint64_t seed = 2;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        random_snapshot(&s, &seed);
        route_choose(&d, &s.request, s.c, s.n);
        if (d.chosen < 0)
            continue;
        const struct route_candidate *c = &s.c[d.chosen];
        CHECK(c->serves_model && c->healthy && !c->draining && !c->tried && !c->unfit && !c->kept);
        CHECK(!c->broken && !c->cooling);
        CHECK(!s.request.alone || c->in_flight == 0);
        CHECK(c->slots == 0 || c->in_flight < c->slots);
        CHECK(c->local || !s.request.local_only);
        CHECK(model_affords(&s, d.chosen));
    }
}

static void dominated_is_never_chosen(void)
{
    uint64_t seed = 3;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        random_snapshot(&s, &seed);
        route_choose(&d, &s.request, s.c, s.n);
        for (int32_t i = 0; d.chosen >= 0 && i < s.n; i++)
            CHECK(!model_admits(&s, i) || !model_beats(&s, i, d.chosen));
    }
}

static void same_input_same_answer(void)
{
    uint64_t seed = 4;
    for (int round = 0; round < 1000; round++) {
        struct snapshot s;
        struct route_decision a, b;
        random_snapshot(&s, &seed);
        memset(&a, 0, sizeof(a));
        memset(&b, 0xff, sizeof(b)); /* nothing is read from the result */
        route_choose(&a, &s.request, s.c, s.n);
        route_choose(&b, &s.request, s.c, s.n);
        CHECK(a.chosen == b.chosen && a.may_wait == b.may_wait && a.model_known == b.model_known);
        CHECK(memcmp(a.reasons, b.reasons, sizeof(a.reasons[0]) * (size_t)s.n) == 0);
    }
}

static void reasons_are_true(void)
{
    uint64_t seed = 5;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        bool known = false, waitable = false, busy = false;
        random_snapshot(&s, &seed);
        route_choose(&d, &s.request, s.c, s.n);
        for (int32_t i = 0; i < s.n; i++) {
            const struct route_candidate *c = &s.c[i];
            known = known || c->serves_model;
            CHECK((d.reasons[i] == ROUTE_CHOSEN) == (i == d.chosen));
            CHECK((d.reasons[i] > ROUTE_FULL || d.reasons[i] == ROUTE_CHOSEN) == model_admits(&s, i));
            CHECK(d.reasons[i] != ROUTE_OTHER_MODEL || !c->serves_model);
            CHECK(d.reasons[i] != ROUTE_NOT_LOCAL || (s.request.local_only && !c->local));
            CHECK(d.reasons[i] != ROUTE_TOO_DEAR || !model_affords(&s, i));
            CHECK(d.reasons[i] != ROUTE_FULL || (c->slots && c->in_flight >= c->slots) ||
                  (s.request.alone && c->in_flight) || c->no_watts);
            CHECK((d.reasons[i] == ROUTE_SPARED) <= c->spared);
            CHECK((d.reasons[i] == ROUTE_BREAKER_OPEN) <= c->broken &&
                  (d.reasons[i] == ROUTE_COOLING_DOWN) <= c->cooling);
            CHECK((d.reasons[i] == ROUTE_KEPT) <= c->kept && (d.reasons[i] == ROUTE_UNFIT) <= c->unfit);
            CHECK((d.reasons[i] == ROUTE_LESS_FIT) == (model_admits(&s, i) && c->rank > s.c[d.chosen].rank));
            CHECK(d.reasons[i] != ROUTE_DEARER || model_charge(&s, i) > 0);
            CHECK(d.reasons[i] != ROUTE_BUSIER ||
                  (!model_beats(&s, d.chosen, i) && model_load(&s, i) > model_load(&s, d.chosen)));
            CHECK(d.reasons[i] != ROUTE_LESS_CACHED ||
                  (model_cached(&s, i) < model_cached(&s, d.chosen) && model_load(&s, i) <= model_load(&s, d.chosen)));
            /* Waiting helps only if one more slot or one recovery would make this one admissible. */
            struct snapshot later = s;
            later.c[i].healthy = true;
            later.c[i].in_flight = 0;
            later.c[i].no_watts = false;
            later.c[i].kept = later.c[i].broken = later.c[i].cooling = false;
            waitable = waitable || model_admits(&later, i);
            later.c[i].healthy = c->healthy;
            later.c[i].broken = c->broken;
            later.c[i].cooling = c->cooling;
            busy = busy || model_admits(&later, i);
        }
        CHECK(d.model_known == known);
        CHECK(d.may_wait == (d.chosen < 0 && waitable));
        CHECK(d.busy == (d.chosen < 0 && busy));
    }
}

/* When is the first time that somebody could be sent to? */
static void a_wait_is_as_long_as_the_shortest(void)
{
    struct route_candidate c[4];
    struct route_decision d;
    struct route_request r = {.input_tokens = 10};
    memset(c, 0, sizeof(c));
    for (int i = 0; i < 4; i++)
        c[i] = (struct route_candidate){.serves_model = true, .healthy = true, .cooling = true, .back_us = 9000 - i};
    c[1].broken = true;
    c[1].back_us = 300;
    c[2].serves_model = false; /* whom nobody waits for */
    c[2].back_us = 1;
    route_choose(&d, &r, c, 4);
    CHECK(d.chosen < 0 && d.may_wait);
    CHECK_INT(d.back_us, 300);
    CHECK_INT(d.reasons[0], ROUTE_COOLING_DOWN);
    CHECK_INT(d.reasons[1], ROUTE_BREAKER_OPEN);
    c[1].back_us = 0; /* it hangs on the one that tries it */
    route_choose(&d, &r, c, 4);
    CHECK_INT(d.back_us, 0);
    c[1].back_us = 300;
    c[3].cooling = false; /* merely full: any moment */
    c[3].slots = c[3].in_flight = 1;
    route_choose(&d, &r, c, 4);
    CHECK(d.may_wait);
    CHECK_INT(d.back_us, 0);
    c[3].in_flight = 0;
    route_choose(&d, &r, c, 4);
    CHECK_INT(d.chosen, 3);
    CHECK_INT(d.back_us, 0);
}

static void equals_share(void)
{
    struct route_candidate c[5];
    int got[5] = {0};
    memset(c, 0, sizeof(c));
    for (int i = 0; i < 5; i++)
        c[i] = (struct route_candidate){.serves_model = true, .healthy = true, .slots = 8, .in_flight = 2};
    c[2].in_flight = 3; /* not an equal */
    for (uint32_t spread = 0; spread < 400; spread++) {
        struct route_decision d;
        struct route_request r = {.input_tokens = 10, .output_tokens = 10, .spread = spread};
        route_choose(&d, &r, c, 5);
        got[d.chosen]++;
    }
    CHECK_INT(got[0], 100);
    CHECK_INT(got[1], 100);
    CHECK_INT(got[2], 0);
    CHECK_INT(got[3], 100);
    CHECK_INT(got[4], 100);
}

/* It goes where the prompt's beginning is, until that would make a hot spot. */
static void a_conversation_stays_where_it_was(void)
{
    struct route_candidate c[3];
    struct route_decision d;
    struct route_request r = {.input_tokens = 1000, .output_tokens = 10};
    for (int i = 0; i < 3; i++)
        c[i] = (struct route_candidate){.serves_model = true, .healthy = true, .local = true, .slots = 10};
    c[1].cached_tokens = 900;
    for (c[1].in_flight = 0; c[1].in_flight < 10; c[1].in_flight++) {
        route_choose(&d, &r, c, 3);
        CHECK((d.chosen == 1) == (c[1].in_flight <= 4));
        CHECK_INT(d.reasons[c[1].in_flight <= 4 ? 2 : 1], c[1].in_flight <= 4 ? ROUTE_LESS_CACHED : ROUTE_BUSIER);
    }
    c[1].in_flight = 0; /* nor does it leave the premises for it */
    c[1].local = false;
    r.local_only = true;
    route_choose(&d, &r, c, 3);
    CHECK(d.chosen != 1);
    CHECK_INT(d.reasons[1], ROUTE_NOT_LOCAL);
    r.local_only = false; /* nor does it pay more: what is held already may be what makes it the cheaper one */
    c[1].prices.input.uusd_per_mtok = c[1].prices.cached_input.uusd_per_mtok = 1;
    route_choose(&d, &r, c, 3);
    CHECK_INT(d.reasons[1], ROUTE_DEARER);
    for (int i = 0; i < 3; i++)
        c[i].prices.input.uusd_per_mtok = 100;
    route_choose(&d, &r, c, 3);
    CHECK_INT(d.chosen, 1);
    CHECK_INT(d.reasons[0], ROUTE_DEARER);
}

static void extremes_are_survived(void)
{
    struct route_candidate c[2];
    struct route_decision d;
    struct route_request r = {.input_tokens = INT64_MAX, .output_tokens = INT64_MAX};
    memset(c, 0, sizeof(c));
    c[0] =
        (struct route_candidate){.serves_model = true, .healthy = true, .slots = INT32_MAX, .in_flight = INT32_MAX - 1};
    c[0].prices.input.uusd_per_mtok = c[0].prices.output.uusd_per_mtok = INT64_MAX;
    c[1] = c[0];
    c[1].in_flight = 0;
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 1);
    r.input_tokens = r.output_tokens = INT64_MIN;
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 1);
    c[0].risk = c[1].risk = 2; /* no probability: the least is the least all the same, and somebody is left */
    route_choose(&d, &r, c, 2);
    CHECK_INT(d.chosen, 1);
    route_choose(&d, &r, c, 0);
    CHECK_INT(d.chosen, -1);
    CHECK(!d.model_known && !d.may_wait);
}

static void reasons_have_names(void)
{
    for (int r = ROUTE_CHOSEN; r <= ROUTE_NOT_LISTED; r++)
        CHECK(strcmp(route_reason_name((enum route_reason)r), "unknown") != 0);
}

int main(void)
{
    TEST(agrees_with_naive_model);
    TEST(chosen_may_answer);
    TEST(dominated_is_never_chosen);
    TEST(same_input_same_answer);
    TEST(reasons_are_true);
    TEST(a_wait_is_as_long_as_the_shortest);
    TEST(equals_share);
    TEST(a_conversation_stays_where_it_was);
    TEST(extremes_are_survived);
    TEST(reasons_have_names);
    return TEST_RESULT();
}
