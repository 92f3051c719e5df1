/* A router's life of random calls: everything that it can be told and asked, by a seed. */
#ifndef TESTS_UNIT_ROUTER_LIFE_H
#define TESTS_UNIT_ROUTER_LIFE_H

#include "policies/router.h"
#include "random.h"

#define LIFE_NODES 24
#define LIFE_LEGS  64

struct life {
    struct router *r;
    struct router_leg legs[LIFE_LEGS];
    uint64_t random;
};

static inline uint64_t life_draw(struct life *l, uint64_t below)
{
    return next_random(&l->random) % below;
}

static inline void life_put(struct life *l, int32_t node)
{
    static const struct node_curve curves[] = {{9000, 50, 10000, 100}, {5000, 20, 30000, 500}};
    const uint64_t which = life_draw(l, 3);
    struct router_facts f = {.slots = (int32_t)life_draw(l, 9),
                             .chunk = 512,
                             .curve = which < 2 ? &curves[which] : NULL,
                             .losses_per_hour = (double)life_draw(l, 3) / 7,
                             .site = (int32_t)life_draw(l, 2),
                             .kind = {.local = life_draw(l, 2)},
                             .money = {.kind = (enum marginal_kind)life_draw(l, 3),
                                       .listed = {.input = {(int64_t)life_draw(l, 1000000)}, .output = {3000000}},
                                       .idle_mw = 100000,
                                       .busy_mw = 700000,
                                       .full = 8,
                                       .per_hour = {2000000000000},
                                       .tokens_per_s = 1000}};
    shortlist_kind_add(&f.kind, 1);
    if (life_draw(l, 2))
        shortlist_kind_add(&f.kind, 2);
    router_put(l->r, node, &f);
    const struct router_state s = {.state = (enum shortlist_state)(life_draw(l, 4) ? 0 : life_draw(l, 5))};
    router_state(l->r, node, &s);
}

static inline void life_ask(struct life *l)
{
    const struct route_request q = {.input_tokens = (int64_t)life_draw(l, 5000),
                                    .output_tokens = (int64_t)life_draw(l, 500),
                                    .local_only = !life_draw(l, 5),
                                    .objective = (enum route_objective)life_draw(l, 4),
                                    .slo = {.ttft_us = (int64_t)life_draw(l, 2) * 300000,
                                            .tpot_us = (int64_t)life_draw(l, 3) * 20000,
                                            .probability = 0.9},
                                    .spread = (uint32_t)life_draw(l, UINT32_MAX)};
    const struct router_holder held = {(int32_t)life_draw(l, LIFE_NODES), 700};
    const struct router_ask a = {
        .model = 1 + (int)life_draw(l, 2), .request = &q, .holders = &held, .n_holders = (int)life_draw(l, 2)};
    int32_t listed[SHORTLIST_MAX];
    struct route_candidate c[SHORTLIST_MAX];
    struct route_decision d;
    const int n = router_list(l->r, &a, listed);
    for (int i = 0; i < n; i++) {
        router_candidate(l->r, &a, listed[i], &c[i]);
        c[i].broken = !life_draw(l, 9);
    }
    router_choose(l->r, &a, listed, c, n, &d);
    struct router_leg *leg = &l->legs[life_draw(l, LIFE_LEGS)];
    if (d.chosen < 0 || leg->node >= 0)
        return;
    router_sent(l->r, listed[d.chosen], &(struct router_work){.model = a.model, .prompt = q.input_tokens, .output = 9},
                leg);
}

static inline void life_step(struct life *l)
{
    const int32_t node = (int32_t)life_draw(l, LIFE_NODES);
    struct router_leg *leg = &l->legs[life_draw(l, LIFE_LEGS)];
    const uint64_t what = life_draw(l, 100);
    if (what < 2)
        life_put(l, node);
    else if (what < 3)
        router_drop(l->r, node);
    else if (what < 4)
        router_forget(l->r, node);
    else if (what < 5)
        router_like(l->r, node, (int32_t)life_draw(l, LIFE_NODES));
    else if (what < 6)
        router_tariff(l->r, (int32_t)life_draw(l, 2), (int64_t)life_draw(l, 300000));
    else if (what < 7)
        router_growing(l->r, 1 + (int)life_draw(l, 2), life_draw(l, 2));
    else if (what < 40)
        router_spoke(l->r, leg, (double)life_draw(l, 3000000) / 3);
    else if (what < 70)
        router_ended(l->r, leg, (double)life_draw(l, 90000) / 7);
    else
        life_ask(l);
}

/* Of a router that knows nothing: all nodes come. */
static inline void life_begin(struct life *l)
{
    for (int i = 0; i < LIFE_LEGS; i++)
        l->legs[i].node = -1;
    for (int32_t i = 0; i < LIFE_NODES; i++)
        life_put(l, i);
}

#endif
