/* What a router is told can be told to another one, which then decides the same: every call of router.h that changes
 * something is heard of, and the events alone bring a second router to the same answers, bit by bit.
 * links: spw_policies */
#include "policies/router_event.h"

#include <string.h>

#include "router_life.h"
#include "test.h"

#define ROUNDS 20000

struct echo { /* a router that is only told what another one was told */
    struct router *r;
    struct router_leg legs[LIFE_LEGS + 1]; /* by number: those under way are few and close to each other */
    uint32_t numbers[LIFE_LEGS + 1];
    int heard[ROUTER_KINDS];
    int differ, decisions;
};

static struct router_leg *leg_of(struct echo *x, uint32_t number)
{
    for (int i = 0; i <= LIFE_LEGS; i++)
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
    struct router_ask other = *was->ask;
    other.model = 3 - other.model; /* of models 1 and 2 */
    for (int32_t i = 0; i < was->n; i++) {
        /* A view that is kept of a node is of one model: asked for another first, all of it is reckoned afresh, and a
         * router that keeps a stale one differs. */
        router_candidate(x->r, &other, was->nodes[i], &c[i]);
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

/* ---- all together ------------------------------------------------------------------------------------------------------ */

static void told_the_same_it_decides_the_same(void)
{
    const struct router_size size = {.nodes = LIFE_NODES, .pairs = 30};
    struct life l = {.random = 42};
    struct echo x = {0};
    struct error e;
    CHECK(router_new(&l.r, &size, &e) == RC_OK && router_new(&x.r, &size, &e) == RC_OK);
    router_tap(l.r, hear, &x);
    life_begin(&l);
    for (int i = 0; i < ROUNDS; i++)
        life_step(&l);
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
