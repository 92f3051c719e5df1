/* Budgets: what a request comes to by our price list is taken from all that it falls under before it is served, by the
 * function that the daemon's books use. The simulator knows how long an answer will be, so it reserves exactly that and
 * settles at once; an answer that continues elsewhere is not charged again. */
#include <stdlib.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

static int64_t now_s(const struct sim *x)
{
    return x->s->start_unix_s + x->now_us / SIM_US_PER_S;
}

static struct budget_limits limits_of(const struct sim_budget *b)
{
    return (struct budget_limits){.hard = b->hard, .carry_max = b->carry_max};
}

/* The period that is under way; what the old one leaves is carried over. */
static void roll(struct sim *x, int32_t i)
{
    const struct sim_budget *b = &x->s->budgets[i];
    struct sim_budget_state *s = &x->budgets[i];
    const int64_t now = now_s(x);
    if (s->out->periods && now < s->end_s)
        return;
    struct pusd carried = {0};
    if (s->out->periods) {
        const struct budget_limits l = limits_of(b);
        carried = budget_carry(&l, &s->state);
    }
    s->state = (struct budget_state){.carried_in = carried};
    s->end_s = period_at(&b->period, now).end_s;
    s->told_soft = s->told_hard = false;
    s->out->periods++;
}

static int gather(struct sim *x, const struct sim_live *l, int32_t set[BUDGET_SET_MAX])
{
    int n = 0;
    for (int32_t i = 0; i < x->s->n_budgets && n < BUDGET_SET_MAX; i++) {
        const struct sim_budget *b = &x->s->budgets[i];
        if ((b->team >= 0 && (uint32_t)b->team != l->team) || (b->model >= 0 && b->model != l->model))
            continue;
        roll(x, i);
        set[n++] = i;
    }
    return n;
}

unsigned sim_budget_soft(struct sim *x, const struct sim_live *l, int32_t *model)
{
    int32_t set[BUDGET_SET_MAX];
    *model = -1;
    const int n = x->s->n_budgets && !l->charged ? gather(x, l, set) : 0;
    unsigned actions = 0;
    for (int i = 0; i < n; i++) {
        const struct sim_budget *b = &x->s->budgets[set[i]];
        struct sim_budget_state *s = &x->budgets[set[i]];
        const struct budget_limits limits = limits_of(b);
        if (budget_level(&limits, &s->state, b->soft, (struct pusd){1}) == BUDGET_OK)
            continue;
        s->out->soft += !s->told_soft && b->soft.v != BUDGET_UNLIMITED;
        s->told_soft = true;
        s->out->kept_local += (b->soft_actions & (BUDGET_LOCAL_ONLY | BUDGET_PREFER_LOCAL)) != 0;
        s->out->demoted += (b->soft_actions & BUDGET_QUEUE) != 0;
        s->out->refused += (b->soft_actions & BUDGET_DENY) != 0;
        if ((b->soft_actions & BUDGET_DOWNGRADE) && !l->downgraded && b->soft_model != l->model) {
            s->out->downgraded++;
            *model = b->soft_model;
        }
        actions |= b->soft_actions;
    }
    return actions;
}

static void reached(struct sim *x, int32_t i)
{
    struct sim_budget_state *s = &x->budgets[i];
    if (!s->told_hard) {
        s->out->hard++;
        if (s->out->hard == 1)
            s->out->first_hard_us = x->now_us;
    }
    s->told_hard = true;
}

/* The first of its hard actions that helps. */
static enum sim_budget_verdict refused_by(struct sim *x, int32_t i, const struct sim_live *l)
{
    const struct sim_budget *b = &x->s->budgets[i];
    struct sim_budget_result *out = x->budgets[i].out;
    reached(x, i);
    if ((b->hard_actions & BUDGET_LOCAL_ONLY) && !l->local_only) {
        out->kept_local++;
        return SIM_BUDGET_LOCAL;
    }
    if ((b->hard_actions & BUDGET_DOWNGRADE) && !l->downgraded && b->hard_model != l->model) {
        out->downgraded++;
        return SIM_BUDGET_DOWNGRADE;
    }
    if (b->hard_actions & BUDGET_QUEUE) {
        out->queued++;
        return SIM_BUDGET_QUEUE;
    }
    out->refused++;
    return SIM_BUDGET_REFUSED;
}

static void settle(struct sim *x, const int32_t *set, int n, const struct budget_grant *g, int64_t output)
{
    struct budget_state *states[BUDGET_SET_MAX];
    for (int i = 0; i < n; i++)
        states[i] = &x->budgets[set[i]].state;
    (void)budget_settle(states, n, g->amount, g->amount);
    for (int i = 0; i < n; i++) {
        const struct budget_limits l = limits_of(&x->s->budgets[set[i]]);
        struct sim_budget_result *out = x->budgets[set[i]].out;
        pusd_sum_add(&out->spent, g->amount);
        out->cut += g->units < output;
        if (states[i]->spent.v > budget_limit(&l, states[i]).v)
            out->overspent = true; /* never: a law of budget_reserve() */
    }
}

enum sim_budget_verdict sim_budget_take(struct sim *x, struct sim_live *l, const struct token_prices *p, bool local,
                                        int32_t *by)
{
    int32_t set[BUDGET_SET_MAX];
    int n = x->s->n_budgets && !l->charged ? gather(x, l, set) : 0;
    struct budget_limits limits[BUDGET_SET_MAX];
    struct budget_state *states[BUDGET_SET_MAX];
    const struct token_counts prompt = {.input = l->prompt, .cached_input = l->cached};
    struct budget_ask ask = {.unit = {p->output.uusd_per_mtok}, .units_min = 1, .units_want = l->output};
    if (money_charge(p, &prompt, &ask.fixed) != RC_OK)
        ask.fixed.v = INT64_MAX / 2;
    struct budget_grant g = {.units = -1};
    while (n > 0 && g.units < 0) {
        for (int i = 0; i < n; i++) {
            limits[i] = limits_of(&x->s->budgets[set[i]]);
            states[i] = &x->budgets[set[i]].state;
        }
        g = budget_reserve(limits, states, n, &ask);
        if (g.units >= 0)
            break;
        *by = set[g.refused];
        if (!local || !(x->s->budgets[*by].hard_actions & BUDGET_LOCAL_ONLY))
            return refused_by(x, *by, l);
        reached(x, *by); /* what own machines answer then no longer counts there */
        x->budgets[*by].out->kept_local++;
        set[g.refused] = set[--n];
    }
    if (n == 0)
        return SIM_BUDGET_OK;
    settle(x, set, n, &g, l->output);
    if (g.units < l->output) /* finish_reason "length" */
        l->output = (int32_t)g.units;
    l->charged = true;
    return SIM_BUDGET_OK;
}

int64_t sim_budget_next_us(const struct sim *x, int32_t budget)
{
    return (x->budgets[budget].end_s - x->s->start_unix_s) * SIM_US_PER_S;
}

void sim_budget_init(struct sim *x)
{
    x->budgets = spw_calloc((size_t)x->s->n_budgets + 1, sizeof(*x->budgets));
    x->r->n_budgets = x->s->n_budgets;
    x->r->budgets = spw_calloc((size_t)x->s->n_budgets + 1, sizeof(*x->r->budgets));
    for (int32_t i = 0; i < x->s->n_budgets; i++) {
        x->budgets[i].out = &x->r->budgets[i];
        x->r->budgets[i] = (struct sim_budget_result){
            .name = x->s->budgets[i].name, .limit = x->s->budgets[i].hard, .first_hard_us = -1};
    }
}

void sim_budget_fini(struct sim *x)
{
    free(x->budgets);
}
