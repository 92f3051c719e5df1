/* What a router is told can be told to another one, which then decides the same: every call of router.h that changes
 * something is heard of, and the events alone bring a second router to the same answers, bit by bit.
 * links: spw_policies */
#include "policies/router_event.h"

#include <string.h>

#include "random.h"
#include "test.h"

#define NODES  24
#define LEGS   64
#define ROUNDS 20000

struct echo { /* a router that is only told what another one was told */
    struct router *r;
    struct router_leg legs[LEGS + 1]; /* by number: those under way are few and close to each other */
    uint32_t numbers[LEGS + 1];
    int heard[ROUTER_KINDS];
    int differ, decisions;
};

static struct router_leg *leg_of(struct echo *x, uint32_t number)
{
    for (int i = 0; i <= LEGS; i++)
        if (x->numbers[i] == number)
            return &x->legs[i];
    return NULL;
}

static bool same_latency(struct latency a, struct latency b)
{
    return a.median_us == b.median_us && a.log_sd == b.log_sd && a.log_sd_below == b.log_sd_below && a.odd == b.odd &&
           a.odd_log == b.odd_log && a.mean_ratio == b.mean_ratio;
}

static bool same_candidate(const struct route_candidate *a, const struct route_candidate *b)
{
    return a->healthy == b->healthy && a->in_flight == b->in_flight && a->slots == b->slots &&
           a->has_marginal == b->has_marginal && a->marginal.v == b->marginal.v && a->marginal_mj == b->marginal_mj &&
           a->predicted == b->predicted && a->risk == b->risk && a->cached_tokens == b->cached_tokens &&
           (!a->predicted ||
            (same_latency(a->latency.ttft, b->latency.ttft) && same_latency(a->latency.tpot, b->latency.tpot)));
}

static void decide_again(struct echo *x, const struct router_event_choice *was)
{
    struct route_candidate c[SHORTLIST_MAX];
    struct route_decision d;
    for (int32_t i = 0; i < was->n; i++) {
        router_candidate(x->r, was->ask, was->nodes[i], &c[i]);
        router_callers_part(&was->candidates[i], &c[i]);
        x->differ += !same_candidate(&c[i], &was->candidates[i]);
    }
    router_choose(x->r, was->ask, was->nodes, c, was->n, &d);
    x->differ += d.chosen != was->decision->chosen;
    for (int32_t i = 0; i < was->n; i++)
        x->differ += d.reasons[i] != was->decision->reasons[i] ||
                     memcmp(&d.terms[i], &was->decision->terms[i], sizeof d.terms[i]) != 0;
    x->decisions++;
}

static void hear(void *arg, const struct router_event *e)
{
    struct echo *x = arg;
    int32_t listed[SHORTLIST_MAX];
    struct router_leg *leg = NULL;
    x->heard[e->kind]++;
    if (e->kind == ROUTER_SENT) {
        leg = leg_of(x, 0);
        x->numbers[leg - x->legs] = e->u.sent.leg->number;
    } else if (e->kind == ROUTER_SPOKE || e->kind == ROUTER_ENDED) {
        leg = leg_of(x, e->u.heard.leg);
    } else if (e->kind == ROUTER_LISTED) {
        x->differ += router_list(x->r, e->u.choice.ask, listed) != e->u.choice.n ||
                     memcmp(listed, e->u.choice.nodes, (size_t)e->u.choice.n * sizeof listed[0]) != 0;
    } else if (e->kind == ROUTER_CHOSE) {
        decide_again(x, &e->u.choice);
    }
    router_apply(x->r, e, leg);
    if (e->kind == ROUTER_SENT)
        x->differ += leg->number != e->u.sent.leg->number || leg->queued != e->u.sent.leg->queued;
    if (e->kind == ROUTER_ENDED)
        x->numbers[leg - x->legs] = 0;
}

/* ---- a life of random calls ---------------------------------------------------------------------------------------- */

struct life {
    struct router *r;
    struct router_leg legs[LEGS];
    uint64_t random;
};

static uint64_t draw(struct life *l, uint64_t below)
{
    return next_random(&l->random) % below;
}

static void put_some(struct life *l, int32_t node)
{
    static const struct node_curve curves[] = {{9000, 50, 10000, 100}, {5000, 20, 30000, 500}};
    const uint64_t which = draw(l, 3);
    struct router_facts f = {.slots = (int32_t)draw(l, 9),
                             .chunk = 512,
                             .curve = which < 2 ? &curves[which] : NULL,
                             .losses_per_hour = (double)draw(l, 3) / 7,
                             .site = (int32_t)draw(l, 2),
                             .kind = {.local = draw(l, 2)},
                             .money = {.kind = (enum marginal_kind)draw(l, 3),
                                       .listed = {.input = {(int64_t)draw(l, 1000000)}, .output = {3000000}},
                                       .idle_mw = 100000,
                                       .busy_mw = 700000,
                                       .full = 8,
                                       .per_hour = {2000000000000},
                                       .tokens_per_s = 1000}};
    shortlist_kind_add(&f.kind, 1);
    if (draw(l, 2))
        shortlist_kind_add(&f.kind, 2);
    router_put(l->r, node, &f);
    const struct router_state s = {.state = (enum shortlist_state)(draw(l, 4) ? 0 : draw(l, 5))};
    router_state(l->r, node, &s);
}

static void ask_something(struct life *l)
{
    const struct route_request q = {.input_tokens = (int64_t)draw(l, 5000),
                                    .output_tokens = (int64_t)draw(l, 500),
                                    .local_only = !draw(l, 5),
                                    .objective = (enum route_objective)draw(l, 4),
                                    .slo = {.ttft_us = (int64_t)draw(l, 2) * 300000, .probability = 0.9},
                                    .spread = (uint32_t)draw(l, UINT32_MAX)};
    const struct router_holder held = {(int32_t)draw(l, NODES), 700};
    const struct router_ask a = {
        .model = 1 + (int)draw(l, 2), .request = &q, .holders = &held, .n_holders = (int)draw(l, 2)};
    int32_t listed[SHORTLIST_MAX];
    struct route_candidate c[SHORTLIST_MAX];
    struct route_decision d;
    const int n = router_list(l->r, &a, listed);
    for (int i = 0; i < n; i++) {
        router_candidate(l->r, &a, listed[i], &c[i]);
        c[i].broken = !draw(l, 9);
    }
    router_choose(l->r, &a, listed, c, n, &d);
    struct router_leg *leg = &l->legs[draw(l, LEGS)];
    if (d.chosen < 0 || leg->node >= 0)
        return;
    router_sent(l->r, listed[d.chosen], &(struct router_work){.model = a.model, .prompt = q.input_tokens, .output = 9},
                leg);
}

static void live(struct life *l)
{
    const int32_t node = (int32_t)draw(l, NODES);
    struct router_leg *leg = &l->legs[draw(l, LEGS)];
    const uint64_t what = draw(l, 100);
    if (what < 2)
        put_some(l, node);
    else if (what < 3)
        router_drop(l->r, node);
    else if (what < 4)
        router_forget(l->r, node);
    else if (what < 5)
        router_like(l->r, node, (int32_t)draw(l, NODES));
    else if (what < 6)
        router_tariff(l->r, (int32_t)draw(l, 2), (int64_t)draw(l, 300000));
    else if (what < 7)
        router_growing(l->r, 1 + (int)draw(l, 2), draw(l, 2));
    else if (what < 40)
        router_spoke(l->r, leg, (double)draw(l, 3000000) / 3);
    else if (what < 70)
        router_ended(l->r, leg, (double)draw(l, 90000) / 7);
    else
        ask_something(l);
}

static void told_the_same_it_decides_the_same(void)
{
    const struct router_size size = {.nodes = NODES, .pairs = 30};
    struct life l = {.random = 42};
    struct echo x = {0};
    struct error e;
    CHECK(router_new(&l.r, &size, &e) == RC_OK && router_new(&x.r, &size, &e) == RC_OK);
    for (int i = 0; i < LEGS; i++)
        l.legs[i].node = -1;
    router_tap(l.r, hear, &x);
    for (int32_t i = 0; i < NODES; i++)
        put_some(&l, i);
    for (int i = 0; i < ROUNDS; i++)
        live(&l);
    CHECK(x.differ == 0 && x.decisions > ROUNDS / 5);
    for (int k = 0; k < ROUTER_KINDS; k++) /* each call was heard of */
        CHECK_STR(x.heard[k] ? "" : router_event_name((enum router_event_kind)k), "");
    CHECK(router_stats(l.r).unlearned == router_stats(x.r).unlearned);
    router_tap(l.r, NULL, NULL);
    const int before = x.heard[ROUTER_TARIFF];
    router_tariff(l.r, 3, 1);
    CHECK(x.heard[ROUTER_TARIFF] == before);
    router_free(l.r);
    router_free(x.r);
}

int main(void)
{
    TEST(told_the_same_it_decides_the_same);
    return TEST_RESULT();
}
