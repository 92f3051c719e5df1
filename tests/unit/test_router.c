/* What routing knows of its nodes: loads, what was learned, marginal money, and that the index and the candidates
 * agree.
 * links: spw_policies */
#include "policies/router.h"

#include <math.h>

#include "random.h"
#include "test.h"

static const struct node_curve curve = {
    .base_us = 9000, .prefill_us_per_tok = 50, .decode_us_base = 10000, .decode_us_per_seq = 100};
static const struct router_state ready = {.state = SHORTLIST_READY};

static struct router *router_of(int32_t nodes, int32_t pairs)
{
    struct router *r = NULL;
    struct error e;
    CHECK(router_new(&r, &(struct router_size){.nodes = nodes, .pairs = pairs}, &e) == RC_OK);
    return r;
}

static struct router_facts own(int model)
{
    struct router_facts f = {.slots = 8,
                             .curve = &curve,
                             .chunk = 512,
                             .kind = {.local = true},
                             .money = {.kind = MARGINAL_OWNED, .idle_mw = 100000, .busy_mw = 700000, .full = 8}};
    shortlist_kind_add(&f.kind, model);
    return f;
}

static struct router_facts api(int model)
{
    struct router_facts f = {.money = {.kind = MARGINAL_METERED,
                                       .listed = {.input = {500000}, .cached_input = {500000}, .output = {1000000}}}};
    shortlist_kind_add(&f.kind, model);
    return f;
}

static void put(struct router *r, int32_t node, struct router_facts f)
{
    router_put(r, node, &f);
    router_state(r, node, &ready);
}

static struct route_candidate look(const struct router *r, int32_t node, int64_t input, int64_t output)
{
    const struct route_request q = {.input_tokens = input, .output_tokens = output};
    const struct router_ask a = {.model = 1, .request = &q};
    struct route_candidate c;
    router_candidate(r, &a, node, &c);
    return c;
}

static const struct router_work work = {.model = 1, .prompt = 1000, .output = 200};

static void load_comes_and_goes(void)
{
    struct router *r = router_of(4, 8);
    put(r, 2, own(1));
    struct router_leg a, b;
    const double empty = look(r, 2, 1000, 100).latency.ttft.median_us;
    CHECK(fabs(empty - curve_ttft_us(&curve, 0, 1000, 0, 512)) < 1);
    router_sent(r, 2, &work, &a);
    router_sent(r, 2, &work, &b);
    CHECK(router_in_flight(r, 2) == 2 && b.others == 1 && b.queued == 1000);
    CHECK(fabs(look(r, 2, 1000, 100).latency.ttft.median_us - curve_ttft_us(&curve, 2000, 1000, 2, 512)) < 1);
    router_spoke(r, &a, 0); /* no longer before anybody's prompt, and nothing is learned of it */
    router_spoke(r, &a, 5);
    CHECK(fabs(look(r, 2, 1000, 100).latency.ttft.median_us - curve_ttft_us(&curve, 1000, 1000, 2, 512)) < 1);
    router_ended(r, &a, 0);
    router_ended(r, &a, 0);
    router_ended(r, &b, 0); /* without a first token */
    CHECK(router_in_flight(r, 2) == 0 && a.node == -1);
    CHECK(look(r, 2, 1000, 100).latency.ttft.median_us == empty);
    CHECK(!router_learned(r, 2, 1));
    router_free(r);
}

static void serve(struct router *r, int32_t node, int n, double slower, uint64_t *random)
{
    for (int i = 0; i < n; i++) {
        struct router_leg leg;
        const struct router_work w = {.model = 1, .prompt = 50 + (int64_t)(next_random(random) % 3000)};
        router_sent(r, node, &w, &leg);
        router_spoke(r, &leg, slower * curve_ttft_us(&curve, (double)leg.queued, (double)w.prompt, leg.others, 512));
        router_ended(r, &leg, slower * (curve.decode_us_base + curve.decode_us_per_seq * (1 + leg.others)));
    }
}

static void it_learns_and_forgets(void)
{
    uint64_t random = 1;
    struct router *r = router_of(4, 8);
    put(r, 0, own(1));
    put(r, 1, own(1));
    const double before = look(r, 0, 1000, 100).latency.ttft.median_us;
    serve(r, 0, 300, 4, &random);
    CHECK(fabs(look(r, 0, 1000, 100).latency.ttft.median_us / before - 4) < 0.3);
    CHECK(look(r, 1, 1000, 100).latency.ttft.median_us == before);
    CHECK(router_learned(r, 0, 1)->ttft.observed == 300 && router_stats(r).pairs == 1);
    router_like(r, 1, 0); /* a sister begins where it is */
    CHECK(fabs(look(r, 1, 1000, 100).latency.ttft.median_us / before - 4) < 0.3);
    CHECK(predict_miscalibration(&router_learned(r, 1, 1)->ttft) == 0);
    struct router_facts f = own(1);
    f.slots = 3;
    router_put(r, 0, &f); /* the same machine with other settings is the same machine */
    CHECK(router_learned(r, 0, 1) && look(r, 0, 1000, 100).slots == 3);
    router_forget(r, 0);
    CHECK(!router_learned(r, 0, 1) && look(r, 0, 1000, 100).latency.ttft.median_us == before);
    router_drop(r, 1);
    CHECK(router_stats(r).pairs == 0 && !router_has(r, 1));
    router_free(r);
}

static void what_nothing_is_known_of_is_not_predicted(void)
{
    uint64_t random = 2;
    struct router *r = router_of(2, 2);
    struct router_facts f = own(1);
    f.curve = NULL;
    f.chunk = 0;
    put(r, 0, f);
    CHECK(!look(r, 0, 10, 10).predicted);
    CHECK(look(r, 0, 10, 10).has_energy && look(r, 0, 10, 10).has_marginal); /* of watts that are known, by a guess */
    struct router_facts dark = f;
    dark.money.busy_mw = 0;
    put(r, 1, dark);
    CHECK(!look(r, 1, 10, 10).has_energy && !look(r, 1, 10, 10).has_marginal);
    serve(r, 0, 3, 1, &random);
    CHECK(look(r, 0, 10, 10).predicted);
    serve(r, 0, 200, 1, &random); /* and by then its energy is learned */
    CHECK(look(r, 0, 0, 1000).has_energy);
    struct router_facts known = own(1);
    const struct marginal_rates right = marginal_rates(&known.money, &curve);
    CHECK(fabs((double)look(r, 0, 0, 1000).marginal_mj / (1000 * right.mj_per_output) - 1) < 0.9);
    router_free(r);
}

static void no_room_to_learn_is_counted(void)
{
    uint64_t random = 3;
    struct router *r = router_of(3, 1);
    for (int i = 0; i < 3; i++)
        put(r, i, own(1));
    serve(r, 0, 10, 2, &random);
    serve(r, 1, 10, 2, &random);
    CHECK(router_learned(r, 0, 1) && !router_learned(r, 1, 1));
    CHECK(router_stats(r).unlearned == 20 && router_stats(r).pairs == 1 && router_stats(r).pairs_max == 1);
    CHECK(look(r, 1, 1000, 1).predicted); /* by its curve */
    router_drop(r, 0);
    serve(r, 1, 10, 2, &random);
    CHECK(router_learned(r, 1, 1));
    router_free(r);
}

static void a_word_of_an_earlier_life_is_not_heard(void)
{
    struct router *r = router_of(1, 4);
    put(r, 0, own(1));
    struct router_leg old, now;
    router_sent(r, 0, &work, &old);
    router_drop(r, 0);
    put(r, 0, own(1));
    CHECK(router_in_flight(r, 0) == 0);
    router_sent(r, 0, &work, &now);
    router_spoke(r, &old, 1);
    router_ended(r, &old, 1);
    CHECK(router_in_flight(r, 0) == 1 && !router_learned(r, 0, 1));
    router_ended(r, &now, 0);
    router_free(r);
}

static void money_and_risk(void)
{
    struct router *r = router_of(4, 4);
    put(r, 0, own(1));
    put(r, 1, api(1));
    struct router_facts spot = own(1);
    spot.kind.local = false;
    spot.losses_per_hour = 2;
    spot.money =
        (struct marginal_facts){.kind = MARGINAL_RENTED, .per_hour = {INT64_C(3600000000000)}, .tokens_per_s = 1000};
    put(r, 2, spot);
    router_tariff(r, 0, 100000);
    CHECK(look(r, 0, 1000, 100).has_energy && look(r, 0, 1000, 100).marginal.v > 0);
    CHECK(look(r, 1, 1000, 100).marginal.v == 600 * INT64_C(1000000));
    CHECK(look(r, 2, 1000, 100).marginal.v == 0 && look(r, 0, 1000, 100).risk == 0);
    router_growing(r, 1, true);
    CHECK(look(r, 2, 1000, 100).marginal.v == 1100 * INT64_C(1000000));
    router_growing(r, 1, false);
    CHECK(look(r, 2, 1000, 100).marginal.v == 0);
    const struct prediction l = look(r, 2, 1000, 5000).latency;
    const double hours = (latency_mean(&l.ttft) + 5000 * latency_mean(&l.tpot)) / 3.6e9;
    CHECK(fabs(look(r, 2, 1000, 5000).risk - (1 - exp(-2 * hours))) < 1e-9);
    router_free(r);
}

static void full_memory_is_late(void)
{
    struct router *r = router_of(1, 4);
    struct router_facts f = own(1);
    f.kv_tokens = 5000;
    f.sequences = 3;
    put(r, 0, f);
    struct router_leg legs[3];
    CHECK(look(r, 0, 9000, 9000).latency.ttft.median_us < 1e9); /* alone it is at least tried */
    router_sent(r, 0, &work, &legs[0]);
    CHECK(look(r, 0, 1000, 200).latency.ttft.median_us < 1e9);
    CHECK(look(r, 0, 2000, 200).latency.ttft.median_us == ROUTER_LATE_US && look(r, 0, 2000, 200).crowded);
    CHECK(!look(r, 0, 1000, 200).crowded);
    router_sent(r, 0, &(struct router_work){.model = 1, .prompt = 1}, &legs[1]);
    router_sent(r, 0, &(struct router_work){.model = 1, .prompt = 1}, &legs[2]);
    CHECK(look(r, 0, 1, 1).latency.ttft.median_us == ROUTER_LATE_US);
    router_ended(r, &legs[2], 0);
    CHECK(look(r, 0, 1, 1).latency.ttft.median_us < 1e9);
    router_free(r);
}

/* Whom the index lists has the cheapest of all among them, and all of the facts of a candidate are those that were put in. */
static void the_list_has_the_best(void)
{
    enum { NODES = 300, ROUNDS = 400 };
    uint64_t random = 9;
    struct router *r = router_of(NODES, NODES);
    static struct router_leg legs[ROUNDS];
    for (int32_t i = 0; i < NODES; i++) {
        struct router_facts f = next_random(&random) % 10 ? own(1) : api(1);
        f.money.busy_mw += (int64_t)(next_random(&random) % 500) * 1000;
        put(r, i, f);
    }
    router_tariff(r, 0, 90000);
    for (int round = 0; round < ROUNDS; round++) {
        const struct route_request q = {.input_tokens = 100 + (int64_t)(next_random(&random) % 2000),
                                        .output_tokens = 300,
                                        .spread = (uint32_t)next_random(&random),
                                        .objective = round % 2 ? ROUTE_COST : ROUTE_LATENCY};
        const struct router_ask a = {.model = 1, .request = &q};
        int32_t listed[SHORTLIST_MAX];
        struct route_candidate c[SHORTLIST_MAX];
        struct route_decision d;
        const int n = router_list(r, &a, listed);
        CHECK(n == SHORTLIST_MAX);
        for (int i = 0; i < n; i++)
            router_candidate(r, &a, listed[i], &c[i]);
        route_choose(&d, &q, c, n);
        CHECK(d.chosen >= 0);
        double best = INFINITY;
        for (int32_t i = 0; i < NODES; i++) {
            struct route_candidate one;
            router_candidate(r, &a, i, &one);
            if (one.in_flight < 8 || !one.slots)
                best =
                    fmin(best, q.objective == ROUTE_COST ? (double)one.marginal.v
                               : one.predicted ? latency_mean(&one.latency.ttft) + 299 * latency_mean(&one.latency.tpot)
                                               : 0);
        }
        const struct route_terms *t = &d.terms[d.chosen];
        CHECK((q.objective == ROUTE_COST ? t->money : t->value) <= best * 1.01 + 20000);
        router_sent(r, listed[d.chosen], &(struct router_work){.model = 1, .prompt = q.input_tokens, .output = 300},
                    &legs[round]);
        if (round > 50)
            router_ended(r, &legs[round - 50], 0);
    }
    router_free(r);
}

/* A node that is thought slow gets nothing, and so cannot show that it is well again: after a while it is not thought
 * of so badly any more. */
static void who_was_slow_is_tried_again(void)
{
    uint64_t random = 12;
    struct router *r = router_of(2, 4);
    put(r, 0, own(1));
    put(r, 1, own(1));
    const double well = look(r, 0, 1000, 100).latency.ttft.median_us;
    serve(r, 0, 200, 5, &random);
    CHECK(look(r, 0, 1000, 100).latency.ttft.median_us > 4 * well);
    serve(r, 1, 50, 1, &random);
    CHECK(look(r, 0, 1000, 100).latency.ttft.median_us > 4 * well);
    serve(r, 1, 1000, 1, &random);
    CHECK(look(r, 0, 1000, 100).latency.ttft.median_us < 1.2 * well);
    serve(r, 0, 1, 5, &random); /* it is slow still, and that is known at once */
    CHECK(look(r, 0, 1000, 100).latency.ttft.median_us > 4 * well);
    router_free(r);
}

/* Equal calls, equal answers: nothing but what is told goes into a decision. */
static void it_is_deterministic(void)
{
    struct router *r[2] = {router_of(40, 40), router_of(40, 40)};
    for (int k = 0; k < 2; k++) {
        uint64_t random = 11;
        for (int32_t i = 0; i < 40; i++)
            put(r[k], i, own(1));
        for (int i = 0; i < 40; i++)
            serve(r[k], (int32_t)(next_random(&random) % 40), 5, 1 + random_unit(&random), &random);
    }
    const struct route_request q = {.input_tokens = 700, .output_tokens = 50, .objective = ROUTE_LATENCY};
    const struct router_ask a = {.model = 1, .request = &q};
    int32_t list[2][SHORTLIST_MAX];
    CHECK(router_list(r[0], &a, list[0]) == router_list(r[1], &a, list[1]));
    for (int i = 0; i < SHORTLIST_MAX; i++) {
        struct route_candidate c[2];
        CHECK(list[0][i] == list[1][i]);
        for (int k = 0; k < 2; k++)
            router_candidate(r[k], &a, list[k][i], &c[k]);
        CHECK(c[0].latency.ttft.median_us == c[1].latency.ttft.median_us && c[0].marginal.v == c[1].marginal.v);
    }
    router_free(r[0]);
    router_free(r[1]);
}

int main(void)
{
    TEST(load_comes_and_goes);
    TEST(it_learns_and_forgets);
    TEST(what_nothing_is_known_of_is_not_predicted);
    TEST(no_room_to_learn_is_counted);
    TEST(a_word_of_an_earlier_life_is_not_heard);
    TEST(money_and_risk);
    TEST(full_memory_is_late);
    TEST(the_list_has_the_best);
    TEST(who_was_slow_is_tried_again);
    TEST(it_is_deterministic);
    return TEST_RESULT();
}
