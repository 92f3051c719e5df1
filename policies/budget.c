#include "policies/budget.h"

#include <string.h>

/* ---- names ------------------------------------------------------------------------------------------------------ */

static const struct {
    enum budget_action action;
    const char *name;
} actions[] = {
    {BUDGET_NOTIFY, "notify"},         {BUDGET_PREFER_LOCAL, "prefer_local"},
    {BUDGET_LOCAL_ONLY, "local_only"}, {BUDGET_DOWNGRADE, "downgrade"},
    {BUDGET_QUEUE, "queue"},           {BUDGET_DENY, "deny"},
};
#define N_ACTIONS (sizeof actions / sizeof actions[0])

bool budget_action_parse(const char *text, enum budget_action *a, const char **model)
{
    *model = NULL;
    if (strncmp(text, "downgrade:", 10) == 0) {
        const char *m = text + 10;
        m += strspn(m, " ");
        *a = BUDGET_DOWNGRADE;
        *model = m;
        return *m != '\0';
    }
    for (size_t i = 0; i < N_ACTIONS; i++) {
        if (actions[i].action != BUDGET_DOWNGRADE && strcmp(text, actions[i].name) == 0) {
            *a = actions[i].action;
            return true;
        }
    }
    return false;
}

const char *budget_action_name(enum budget_action a)
{
    for (size_t i = 0; i < N_ACTIONS; i++) {
        if (actions[i].action == a)
            return actions[i].name;
    }
    return "";
}

const char *budget_level_name(enum budget_level l)
{
    static const char *const names[] = {"ok", "soft", "hard"};
    return names[l];
}

/* ---- amounts ---------------------------------------------------------------------------------------------------- */

static int64_t clamp(__int128 v)
{
    return v < 0 ? 0 : v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

struct pusd budget_limit(const struct budget_limits *l, const struct budget_state *s)
{
    if (l->hard.v == BUDGET_UNLIMITED)
        return (struct pusd){BUDGET_UNLIMITED};
    return (struct pusd){clamp((__int128)l->hard.v + s->carried_in.v + s->topped_up.v)};
}

/* What is left when `taken` beside spent counts as gone. */
static struct pusd left(const struct budget_limits *l, const struct budget_state *s, struct pusd taken)
{
    struct pusd limit = budget_limit(l, s);
    if (limit.v == BUDGET_UNLIMITED)
        return limit;
    return (struct pusd){clamp((__int128)limit.v - s->spent.v - s->carried_out.v - taken.v)};
}

struct pusd budget_available(const struct budget_limits *l, const struct budget_state *s)
{
    return left(l, s, s->reserved);
}

/* How many units `have` pays for; -1: not even units_min. */
static int64_t units_within(struct pusd have, const struct budget_ask *ask)
{
    __int128 rest = (__int128)have.v - ask->fixed.v;
    if (rest < (__int128)ask->unit.v * ask->units_min)
        return -1;
    if (ask->unit.v == 0 || rest / ask->unit.v >= ask->units_want)
        return ask->units_want;
    return (int64_t)(rest / ask->unit.v);
}

struct budget_grant budget_reserve(const struct budget_limits *limits, struct budget_state *const *states, int n,
                                   const struct budget_ask *ask)
{
    struct budget_grant g = {.units = ask->units_want, .refused = -1, .may_wait = true};
    for (int i = 0; i < n; i++) {
        int64_t units = units_within(budget_available(&limits[i], states[i]), ask);
        if (units < g.units)
            g.units = units;
        if (units >= 0)
            continue;
        if (g.refused < 0)
            g.refused = i;
        g.may_wait = g.may_wait && units_within(left(&limits[i], states[i], (struct pusd){0}), ask) >= 0;
    }
    if (g.refused >= 0)
        return g;
    /* Books are int64: an amount that does not fit is refused by whoever asks for so much (money_charge()). */
    g.amount.v = clamp((__int128)ask->fixed.v + (__int128)ask->unit.v * g.units);
    g.may_wait = false;
    for (int i = 0; i < n; i++)
        states[i]->reserved.v = clamp((__int128)states[i]->reserved.v + g.amount.v);
    return g;
}

struct pusd budget_settle(struct budget_state *const *states, int n, struct pusd granted, struct pusd spent)
{
    for (int i = 0; i < n; i++) {
        states[i]->reserved.v = clamp((__int128)states[i]->reserved.v - granted.v);
        states[i]->spent.v = clamp((__int128)states[i]->spent.v + spent.v);
    }
    return (struct pusd){spent.v > granted.v ? spent.v - granted.v : 0};
}

struct pusd budget_carry(const struct budget_limits *l, struct budget_state *old)
{
    struct pusd unused = budget_available(l, old);
    if (l->hard.v == BUDGET_UNLIMITED || l->carry_max.v <= 0)
        return (struct pusd){0};
    if (unused.v > l->carry_max.v)
        unused = l->carry_max;
    old->carried_out.v += unused.v;
    return unused;
}

/* ---- how far it is used ------------------------------------------------------------------------------------------ */

enum budget_level budget_level(const struct budget_limits *l, const struct budget_state *s, struct pusd soft,
                               struct pusd least)
{
    if (left(l, s, (struct pusd){0}).v < least.v ||
        (l->hard.v != BUDGET_UNLIMITED && left(l, s, (struct pusd){0}).v == 0))
        return BUDGET_HARD;
    if (soft.v != BUDGET_UNLIMITED && (__int128)s->spent.v + s->reserved.v >= soft.v)
        return BUDGET_SOFT;
    return BUDGET_OK;
}

int64_t budget_exhausted_at(struct pusd limit, struct pusd spent, int64_t start_s, int64_t end_s, int64_t now_s,
                            int64_t before_rate)
{
    int64_t passed = now_s - start_s;
    if (limit.v == BUDGET_UNLIMITED || end_s <= start_s || passed < 0)
        return -1;
    if (spent.v >= limit.v)
        return now_s;
    bool early = passed < (end_s - start_s) / 50;
    __int128 amount = early ? before_rate : spent.v, seconds = early ? 1 : passed;
    if (amount <= 0 || seconds <= 0)
        return -1;
    __int128 at = (__int128)now_s + ((__int128)(limit.v - spent.v) * seconds + amount - 1) / amount;
    return at < end_s ? (int64_t)at : -1;
}
