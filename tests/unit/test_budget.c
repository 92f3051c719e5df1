/* Proves that budgets cannot be overspent: random operations on the embedded store against a naive model that adds up
 * every reservation anew; laws of the arithmetic over random states, and planted mutants of it, each of which a law
 * must catch. An argument gives the number of operations (default: a million).
 * links: spw_sched_budgets spw_policies */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "base/clock.h"
#include "scheduler/budgets/memory.h"

static uint64_t random_state = 88172645463325252u;
static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1du;
}
static int64_t below(int64_t n)
{
    return (int64_t)(random_u64() % (uint64_t)n);
}

/* ---- laws, which also mutants are held against ------------------------------------------------------------------- */

struct arithmetic {
    const char *name;
    struct budget_grant (*reserve)(const struct budget_limits *, struct budget_state *const *, int,
                                   const struct budget_ask *);
    struct pusd (*settle)(struct budget_state *const *, int, struct pusd, struct pusd);
    struct pusd (*carry)(const struct budget_limits *, struct budget_state *);
};
static const struct arithmetic true_one = {"the true one", budget_reserve, budget_settle, budget_carry};

#define N_BUDGETS 4
#define N_HOLDS   16
struct world {
    struct budget_limits limits[N_BUDGETS];
    struct budget_state states[N_BUDGETS];
    struct {
        int set[N_BUDGETS], n;
        int64_t granted;
    } holds[N_HOLDS];
};

static int64_t limit_of(const struct world *w, int b)
{
    const struct budget_state *s = &w->states[b];
    return w->limits[b].hard.v + s->carried_in.v + s->topped_up.v;
}
static int64_t free_of(const struct world *w, int b)
{
    const struct budget_state *s = &w->states[b];
    int64_t v = limit_of(w, b) - s->spent.v - s->reserved.v - s->carried_out.v;
    return v > 0 ? v : 0;
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    for (int i = 0; i < N_BUDGETS; i++)
        w->limits[i] = (struct budget_limits){.hard = {below(2000)}, .carry_max = {below(300)}};
}

#define LAW(condition)                                                                                                 \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return #condition;                                                                                         \
    } while (0)

/* The law that is broken; NULL: none. */
static const char *reserve_laws(struct world *w, const struct arithmetic *a, int hold)
{
    struct budget_ask ask = {.fixed = {below(60)}, .unit = {below(12)}, .units_min = below(4)};
    struct budget_state before[N_BUDGETS], *states[N_BUDGETS];
    struct budget_limits limits[N_BUDGETS];
    int set[N_BUDGETS], n = 0;
    int64_t least_free = INT64_MAX, least_without_holds = INT64_MAX;
    ask.units_want = ask.units_min + below(20);
    for (int b = 0; b < N_BUDGETS; b++) {
        if (below(2))
            set[n++] = b;
    }
    memcpy(before, w->states, sizeof before);
    for (int i = 0; i < n; i++) {
        int64_t f = free_of(w, set[i]), r = limit_of(w, set[i]) - before[set[i]].spent.v - before[set[i]].carried_out.v;
        states[i] = &w->states[set[i]];
        limits[i] = w->limits[set[i]];
        least_free = f < least_free ? f : least_free;
        least_without_holds = r < least_without_holds ? r : least_without_holds;
    }
    struct budget_grant g = a->reserve(limits, states, n, &ask);
    int64_t least = ask.fixed.v + ask.unit.v * ask.units_min;
    bool fits = n == 0 || least <= least_free;
    LAW((g.units >= 0) == fits); /* never refused when it fits, never granted when it does not */
    LAW((g.refused < 0) == fits);
    if (!fits) {
        LAW(g.amount.v == 0);
        LAW(memcmp(before, w->states, sizeof before) == 0); /* all or none */
        LAW(g.refused < n && free_of(w, set[g.refused]) < least);
        LAW(g.may_wait == (least_without_holds >= least));
        return NULL;
    }
    LAW(g.units >= ask.units_min && g.units <= ask.units_want);
    LAW(g.amount.v == ask.fixed.v + ask.unit.v * g.units);
    bool more_fits = n == 0 || g.amount.v + ask.unit.v <= least_free;
    LAW(g.units == ask.units_want || !more_fits); /* as much as there is */
    for (int b = 0; b < N_BUDGETS; b++) {
        bool in = false;
        for (int i = 0; i < n; i++)
            in = in || set[i] == b;
        LAW(w->states[b].reserved.v == before[b].reserved.v + (in ? g.amount.v : 0));
        LAW(w->states[b].spent.v == before[b].spent.v);
        LAW(!in || w->states[b].spent.v + w->states[b].reserved.v + w->states[b].carried_out.v <= limit_of(w, b));
    }
    memcpy(w->holds[hold].set, set, sizeof set);
    w->holds[hold].n = n;
    w->holds[hold].granted = g.amount.v;
    return NULL;
}

static const char *settle_laws(struct world *w, const struct arithmetic *a, int hold)
{
    int64_t granted = w->holds[hold].granted, spent = granted ? below(granted + 1) : 0;
    struct budget_state before[N_BUDGETS], *states[N_BUDGETS];
    int n = w->holds[hold].n;
    memcpy(before, w->states, sizeof before);
    for (int i = 0; i < n; i++)
        states[i] = &w->states[w->holds[hold].set[i]];
    struct pusd excess = a->settle(states, n, (struct pusd){granted}, (struct pusd){spent});
    LAW(excess.v == 0);
    for (int i = 0; i < n; i++) {
        const struct budget_state *was = &before[w->holds[hold].set[i]], *is = states[i];
        LAW(is->reserved.v == was->reserved.v - granted); /* the rest is free, exactly */
        LAW(is->spent.v == was->spent.v + spent);
        LAW(free_of(w, w->holds[hold].set[i]) >= granted - spent ||
            limit_of(w, w->holds[hold].set[i]) < is->spent.v + is->reserved.v + is->carried_out.v + granted - spent);
    }
    w->holds[hold].n = 0;
    w->holds[hold].granted = 0;
    return NULL;
}

static const char *carry_laws(struct world *w, const struct arithmetic *a, int b)
{
    struct budget_state before = w->states[b];
    int64_t unused = free_of(w, b);
    struct pusd c = a->carry(&w->limits[b], &w->states[b]);
    LAW(c.v >= 0 && c.v <= w->limits[b].carry_max.v); /* never more than may be carried */
    LAW(c.v <= unused);                               /* nor than was unused: what is reserved is not */
    LAW(c.v == unused || c.v == w->limits[b].carry_max.v);
    LAW(w->states[b].carried_out.v == before.carried_out.v + c.v); /* and it cannot be spent twice */
    LAW(free_of(w, b) == unused - c.v);
    return NULL;
}

static const char *hold_to_laws(const struct arithmetic *a, int steps)
{
    struct world w;
    const char *broken = NULL;
    for (int i = 0; i < steps && !broken; i++) {
        if (i % 400 == 0)
            world_init(&w);
        int hold = (int)below(N_HOLDS);
        int64_t what = below(20);
        if (what == 0)
            broken = carry_laws(&w, a, (int)below(N_BUDGETS));
        else if (what == 1)
            w.states[below(N_BUDGETS)].topped_up.v += below(50);
        else if (w.holds[hold].n)
            broken = settle_laws(&w, a, hold);
        else
            broken = reserve_laws(&w, a, hold);
    }
    return broken;
}

static void test_laws(void)
{
    const char *broken = hold_to_laws(&true_one, TEST_FEWER(200000));
    CHECK(!broken);
    if (broken)
        fprintf(stderr, "broken: %s\n", broken);
}

/* ---- mutants ------------------------------------------------------------------------------------------------------ */

static struct budget_grant only_first(const struct budget_limits *l, struct budget_state *const *s, int n,
                                      const struct budget_ask *ask)
{
    struct budget_grant g = budget_reserve(l, s, n < 1 ? n : 1, ask);
    for (int i = 1; i < n && g.refused < 0; i++)
        s[i]->reserved.v += g.amount.v;
    return g;
}
static struct budget_grant one_by_one(const struct budget_limits *l, struct budget_state *const *s, int n,
                                      const struct budget_ask *ask)
{
    struct budget_grant g = {.units = ask->units_want, .refused = -1};
    for (int i = 0; i < n && g.refused < 0; i++) {
        g = budget_reserve(l + i, s + i, 1, ask);
        if (g.refused >= 0)
            g.refused = i; /* and those before keep what was taken */
    }
    return n ? g : budget_reserve(l, s, n, ask);
}
static struct budget_grant forgets_reserved(const struct budget_limits *l, struct budget_state *const *s, int n,
                                            const struct budget_ask *ask)
{
    int64_t kept[N_BUDGETS];
    for (int i = 0; i < n; i++) {
        kept[i] = s[i]->reserved.v;
        s[i]->reserved.v = 0;
    }
    struct budget_grant g = budget_reserve(l, s, n, ask);
    for (int i = 0; i < n; i++)
        s[i]->reserved.v += kept[i];
    return g;
}
static struct budget_grant one_too_many(const struct budget_limits *l, struct budget_state *const *s, int n,
                                        const struct budget_ask *ask)
{
    struct budget_grant g = budget_reserve(l, s, n, ask);
    if (g.refused < 0 && g.units < ask->units_want) {
        g.units++;
        g.amount.v += ask->unit.v;
        for (int i = 0; i < n; i++)
            s[i]->reserved.v += ask->unit.v;
    }
    return g;
}
static struct budget_grant less_than_least(const struct budget_limits *l, struct budget_state *const *s, int n,
                                           const struct budget_ask *ask)
{
    struct budget_ask any = *ask;
    any.units_min = 0;
    return budget_reserve(l, s, n, &any);
}
static struct budget_grant all_or_least(const struct budget_limits *l, struct budget_state *const *s, int n,
                                        const struct budget_ask *ask)
{
    struct budget_ask least = *ask;
    least.units_min = ask->units_want;
    struct budget_grant g = budget_reserve(l, s, n, &least);
    least = *ask;
    least.units_want = ask->units_min;
    return g.refused < 0 ? g : budget_reserve(l, s, n, &least);
}
static struct budget_grant never_waits(const struct budget_limits *l, struct budget_state *const *s, int n,
                                       const struct budget_ask *ask)
{
    struct budget_grant g = budget_reserve(l, s, n, ask);
    g.may_wait = false;
    return g;
}
static struct budget_grant forgets_prompt(const struct budget_limits *l, struct budget_state *const *s, int n,
                                          const struct budget_ask *ask)
{
    struct budget_ask cheap = *ask;
    cheap.fixed.v = 0;
    return budget_reserve(l, s, n, &cheap);
}
static struct pusd keeps_the_rest(struct budget_state *const *s, int n, struct pusd granted, struct pusd spent)
{
    return budget_settle(s, n, spent.v < granted.v ? spent : granted, spent);
}
static struct pusd settles_first(struct budget_state *const *s, int n, struct pusd granted, struct pusd spent)
{
    return budget_settle(s, n ? 1 : 0, granted, spent);
}
static struct pusd spends_all(struct budget_state *const *s, int n, struct pusd granted, struct pusd spent)
{
    (void)spent;
    return budget_settle(s, n, granted, granted);
}
static struct pusd carries_all(const struct budget_limits *l, struct budget_state *s)
{
    const struct budget_limits any = {l->hard, {INT64_MAX}};
    return budget_carry(&any, s);
}
static struct pusd carries_reserved(const struct budget_limits *l, struct budget_state *s)
{
    int64_t kept = s->reserved.v;
    s->reserved.v = 0;
    struct pusd c = budget_carry(l, s);
    s->reserved.v = kept;
    return c;
}
static struct pusd carries_twice(const struct budget_limits *l, struct budget_state *s)
{
    struct pusd c = budget_carry(l, s);
    s->carried_out.v -= c.v;
    return c;
}

static void test_mutants(void)
{
    static const struct arithmetic mutants[] = {
        {"only the first budget is asked", only_first, budget_settle, budget_carry},
        {"one budget after the other", one_by_one, budget_settle, budget_carry},
        {"what is reserved counts as free", forgets_reserved, budget_settle, budget_carry},
        {"one token too many", one_too_many, budget_settle, budget_carry},
        {"less than the least", less_than_least, budget_settle, budget_carry},
        {"all or the least", all_or_least, budget_settle, budget_carry},
        {"never says that waiting helps", never_waits, budget_settle, budget_carry},
        {"the prompt is free", forgets_prompt, budget_settle, budget_carry},
        {"the rest stays reserved", budget_reserve, keeps_the_rest, budget_carry},
        {"only the first is settled", budget_reserve, settles_first, budget_carry},
        {"all that was granted is spent", budget_reserve, spends_all, budget_carry},
        {"carries over without a bound", budget_reserve, budget_settle, carries_all},
        {"carries over what is reserved", budget_reserve, budget_settle, carries_reserved},
        {"what is carried over stays", budget_reserve, budget_settle, carries_twice},
    };
    for (size_t i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
        const char *broken = hold_to_laws(&mutants[i], 20000);
        CHECK(broken);
        if (!broken)
            fprintf(stderr, "not caught: %s\n", mutants[i].name);
    }
}

/* ---- the store against a naive model ------------------------------------------------------------------------------ */

#define MODEL_BUDGETS 6
#define MODEL_PERIODS 8 /* kept at once: no reservation lives longer */
#define MODEL_HOLDS   64
#define PERIOD_S      100
#define SET_FROM      3 /* the limits of those before are never lowered */

struct model_period {
    int64_t number; /* -1: unused */
    int64_t spent, carried_in, carried_out, topped_up;
};
struct model_hold {
    struct budget_hold *hold; /* NULL: free */
    int64_t number, granted;
    int set[MODEL_BUDGETS], n;
};
static struct model {
    int64_t now; /* number of the period */
    int64_t hard[MODEL_BUDGETS], carry_max[MODEL_BUDGETS], set_hard[MODEL_BUDGETS];
    bool seen[MODEL_BUDGETS];
    struct model_period periods[MODEL_BUDGETS][MODEL_PERIODS];
    struct model_hold holds[MODEL_HOLDS];
} model;
static struct budget_store *store;
static struct budget_port *port;
static char names[MODEL_BUDGETS][16];
static struct budget_answer last;
static struct budget_view last_views[BUDGET_SET_MAX];

static void on_answer(const struct budget_answer *a, void *arg)
{
    (void)arg;
    last = *a;
    for (int i = 0; i < a->n; i++)
        last_views[i] = a->views[i];
}

static int64_t model_reserved(int b, int64_t number)
{
    int64_t sum = 0;
    for (int h = 0; h < MODEL_HOLDS; h++) {
        for (int i = 0; model.holds[h].hold && model.holds[h].number == number && i < model.holds[h].n; i++)
            sum += model.holds[h].set[i] == b ? model.holds[h].granted : 0;
    }
    return sum;
}

static int64_t model_hard(int b)
{
    return model.set_hard[b] >= 0 ? model.set_hard[b] : model.hard[b];
}

static struct model_period *model_find(int b, int64_t number)
{
    struct model_period *p = &model.periods[b][number % MODEL_PERIODS];
    return p->number == number ? p : NULL;
}

static int64_t model_free(int b, int64_t number)
{
    const struct model_period *p = model_find(b, number);
    int64_t v = model_hard(b) + p->carried_in + p->topped_up - p->spent - p->carried_out - model_reserved(b, number);
    return v > 0 ? v : 0;
}

/* The first touch in a period takes what is carried over from the one before, if that was ever touched. */
static void model_touch(int b)
{
    if (model_find(b, model.now))
        return;
    struct model_period *p = &model.periods[b][model.now % MODEL_PERIODS];
    int64_t carried = 0;
    if (model.now > 0 && model_find(b, model.now - 1)) {
        carried = model_free(b, model.now - 1);
        if (carried > model.carry_max[b])
            carried = model.carry_max[b];
        model_find(b, model.now - 1)->carried_out += carried;
    }
    *p = (struct model_period){.number = model.now, .carried_in = carried};
}

static struct budget_claim claim_of(int b)
{
    return (struct budget_claim){.name = names[b],
                                 .start_s = model.now * PERIOD_S,
                                 .end_s = (model.now + 1) * PERIOD_S,
                                 .before_start_s = (model.now - 1) * PERIOD_S,
                                 .limits = {{model.hard[b]}, {model.carry_max[b]}},
                                 .soft = {BUDGET_UNLIMITED}};
}

static int64_t least_free(const int *set, int n, int64_t number)
{
    int64_t least = INT64_MAX;
    for (int i = 0; i < n; i++) {
        int64_t f = model_free(set[i], number);
        least = f < least ? f : least;
    }
    return least;
}

static struct budget_ask random_ask(void)
{
    struct budget_ask ask = {.fixed = {below(200)}, .unit = {below(30)}, .units_min = below(3)};
    ask.units_want = ask.units_min + below(40);
    return ask;
}

/* What the store must have answered. Returns the amount that it granted, or -1. */
static int64_t check_answer(const struct budget_ask *ask, int64_t have)
{
    int64_t least = ask->fixed.v + ask->unit.v * ask->units_min;
    if (least > have) {
        CHECK_INT(last.rc, RC_DENIED);
        return -1;
    }
    int64_t units = ask->unit.v ? (have - ask->fixed.v) / ask->unit.v : ask->units_want;
    if (units > ask->units_want)
        units = ask->units_want;
    CHECK_INT(last.rc, RC_OK);
    CHECK_INT(last.grant.units, units);
    return ask->fixed.v + ask->unit.v * units;
}

static void do_reserve(struct model_hold *h)
{
    struct budget_claim claims[MODEL_BUDGETS];
    struct budget_ask ask = random_ask();
    h->n = 0;
    for (int b = 0; b < MODEL_BUDGETS; b++) {
        if (below(2)) {
            model_touch(b);
            claims[h->n] = claim_of(b);
            h->set[h->n++] = b;
        }
    }
    if (!h->n)
        return;
    int64_t have = least_free(h->set, h->n, model.now);
    CHECK_INT(store->ops->reserve(port, "r", claims, h->n, &ask, on_answer, NULL), RC_OK);
    int64_t amount = check_answer(&ask, have);
    h->hold = amount >= 0 ? last.hold : NULL;
    h->number = model.now;
    h->granted = amount;
}

static void do_extend(struct model_hold *h)
{
    struct budget_claim claims[MODEL_BUDGETS];
    struct budget_ask ask = random_ask();
    for (int i = 0; i < h->n; i++)
        claims[i] = claim_of(h->set[i]);
    int64_t have = least_free(h->set, h->n, h->number);
    CHECK_INT(store->ops->extend(port, h->hold, claims, h->n, &ask, on_answer, NULL), RC_OK);
    int64_t amount = check_answer(&ask, have);
    h->granted += amount > 0 ? amount : 0;
    CHECK_INT(h->hold->granted.v, h->granted);
}

static void do_settle(struct model_hold *h)
{
    int64_t spent = h->granted ? below(h->granted + 1) : 0;
    CHECK_INT(store->ops->settle(port, h->hold, (struct pusd){spent}).v, 0);
    for (int i = 0; i < h->n; i++)
        model_find(h->set[i], h->number)->spent += spent;
    h->hold = NULL;
}

static void check_view(int b)
{
    struct budget_claim c = claim_of(b);
    model_touch(b);
    CHECK_INT(store->ops->read(port, &c, 1, on_answer, NULL), RC_OK);
    const struct model_period *p = model_find(b, model.now);
    const struct budget_state *s = &last_views[0].state;
    CHECK_INT(s->spent.v, p->spent);
    CHECK_INT(s->reserved.v, model_reserved(b, model.now));
    CHECK_INT(s->carried_in.v, p->carried_in);
    CHECK_INT(s->topped_up.v, p->topped_up);
    CHECK(b >= SET_FROM || s->spent.v + s->reserved.v <= model.hard[b] + p->carried_in + p->topped_up);
}

static void do_change(int b)
{
    struct budget_claim c = claim_of(b);
    model_touch(b);
    if (below(3) || b < SET_FROM) {
        int64_t more = 1 + below(500);
        CHECK_INT(store->ops->top_up(port, &c, (struct pusd){more}, on_answer, NULL), RC_OK);
        model_find(b, model.now)->topped_up += more;
    } else {
        int64_t hard = below(4) ? -1 : below(20000);
        CHECK_INT(store->ops->set(port, &c, (struct pusd){hard}, (struct pusd){-2}, on_answer, NULL), RC_OK);
        model.set_hard[b] = hard;
    }
}

static void next_period(void)
{
    for (int h = 0; h < MODEL_HOLDS; h++) { /* as long as the model remembers */
        if (model.holds[h].hold && model.holds[h].number <= model.now - MODEL_PERIODS + 3)
            do_settle(&model.holds[h]);
    }
    model.now++;
}

static int64_t operations = TEST_FEWER(1000000);

static void test_model(void)
{
    struct clock_manual manual = {0};
    struct clock clock = clock_manual(&manual);
    struct error e;
    store = memory_store_new(&clock);
    CHECK_INT(store->ops->port_new(store, NULL, NULL, &port, &e), RC_OK);
    model.now = 1000;
    for (int b = 0; b < MODEL_BUDGETS; b++) {
        snprintf(names[b], sizeof names[b], "b%d", b);
        model.hard[b] = 3000 + below(12000);
        model.carry_max[b] = b % 2 ? below(3000) : 0;
        model.set_hard[b] = -1;
        for (int i = 0; i < MODEL_PERIODS; i++)
            model.periods[b][i].number = -1;
    }
    for (int64_t i = 0; i < operations && !test_run_.group_failed; i++) {
        struct model_hold *h = &model.holds[below(MODEL_HOLDS)];
        int64_t what = below(100);
        if (what == 0 && below(5) == 0)
            next_period();
        else if (what == 1)
            do_change((int)below(MODEL_BUDGETS));
        else if (what < 8)
            check_view((int)below(MODEL_BUDGETS));
        else if (!h->hold)
            do_reserve(h);
        else if (what < 60)
            do_extend(h);
        else
            do_settle(h);
    }
    for (int h = 0; h < MODEL_HOLDS; h++) {
        if (model.holds[h].hold)
            do_settle(&model.holds[h]);
    }
    for (int b = 0; b < MODEL_BUDGETS; b++)
        check_view(b);
    store->ops->port_free(port);
    store->ops->free(store);
}

/* ---- the small things ---------------------------------------------------------------------------------------------- */

static void test_levels(void)
{
    struct budget_limits l = {.hard = {100}};
    struct budget_state s = {.spent = {50}};
    const struct pusd none = {BUDGET_UNLIMITED}, one = {1};
    CHECK_INT(budget_level(&l, &s, none, one), BUDGET_OK);
    CHECK_INT(budget_level(&l, &s, (struct pusd){60}, one), BUDGET_OK);
    s.reserved.v = 10;
    CHECK_INT(budget_level(&l, &s, (struct pusd){60}, one), BUDGET_SOFT);
    s.reserved.v = 50; /* it may come back */
    CHECK_INT(budget_level(&l, &s, none, one), BUDGET_OK);
    s.spent.v = 100;
    CHECK_INT(budget_level(&l, &s, none, one), BUDGET_HARD);
    s.topped_up.v = 5;
    CHECK_INT(budget_level(&l, &s, none, one), BUDGET_OK);
    l.hard = none;
    CHECK_INT(budget_level(&l, &s, none, one), BUDGET_OK);
    CHECK_INT(budget_limit(&l, &s).v, BUDGET_UNLIMITED);
}

static void test_forecast(void)
{
    const struct pusd limit = {1000};
    CHECK_INT(budget_exhausted_at(limit, (struct pusd){500}, 0, 1000, 250, 0), 500); /* 2 a second: 500 more in 250 s */
    CHECK_INT(budget_exhausted_at(limit, (struct pusd){100}, 0, 1000, 250, 0), -1);  /* not in this period */
    CHECK_INT(budget_exhausted_at(limit, (struct pusd){1000}, 0, 1000, 250, 0), 250);
    CHECK_INT(budget_exhausted_at(limit, (struct pusd){900}, 0, 1000, 5, 1),
              105); /* early: the rate of the period before */
    CHECK_INT(budget_exhausted_at(limit, (struct pusd){900}, 0, 1000, 5, 0), -1);
    CHECK_INT(budget_exhausted_at((struct pusd){BUDGET_UNLIMITED}, limit, 0, 1000, 500, 0), -1);
    CHECK_INT(budget_exhausted_at(limit, (struct pusd){0}, 0, 1000, 500, 0), -1);
}

static void test_actions(void)
{
    enum budget_action a;
    const char *model_name;
    CHECK(budget_action_parse("deny", &a, &model_name) && a == BUDGET_DENY && !model_name);
    CHECK(budget_action_parse("downgrade: small", &a, &model_name) && a == BUDGET_DOWNGRADE);
    CHECK_STR(model_name, "small");
    CHECK(!budget_action_parse("downgrade:", &a, &model_name));
    CHECK(!budget_action_parse("downgrade", &a, &model_name));
    CHECK(!budget_action_parse("explode", &a, &model_name));
    for (unsigned i = 1; i <= BUDGET_DENY; i *= 2)
        CHECK(budget_action_name((enum budget_action)i)[0]);
}

/* The worked example of docs/POLICIES.md, in pico-dollars. */
static void test_example(void)
{
    const int64_t in = 2000000, out = 10000000, dollar = INT64_C(1000000000000);
    struct budget_limits l = {.hard = {dollar}};
    struct budget_state s = {.spent = {dollar / 100 * 97}}, *p = &s;
    const struct budget_ask first = {{2512 * in}, {out}, 1, 256 + 250}, more = {{0}, {out}, 1, 256};
    struct pusd held = budget_reserve(&l, &p, 1, &first).amount;
    CHECK_INT(held.v, 10084000000);
    CHECK_INT(budget_available(&l, &s).v, 19916000000);
    (void)budget_reserve(&l, &p, 1, &first);
    CHECK_INT(budget_available(&l, &s).v, 9832000000);
    for (int i = 0; i < 2; i++)
        CHECK_INT(budget_reserve(&l, &p, 1, &more).units, 256);
    CHECK_INT(budget_available(&l, &s).v, 4712000000);
    CHECK_INT(budget_reserve(&l, &p, 1, &first).units, -1);
    held.v += 256 * out + budget_reserve(&l, &p, 1, &more).amount.v;
    CHECK_INT(budget_available(&l, &s).v, 2152000000);
    CHECK_INT(budget_reserve(&l, &p, 1, &more).units, 215);
    CHECK_INT(budget_available(&l, &s).v, 2000000);
    CHECK_INT(budget_settle(&p, 1, held, (struct pusd){500 * in + 900 * out}).v, 0);
    CHECK_INT(s.reserved.v, 14794000000);
    CHECK_INT(budget_available(&l, &s).v, 5206000000);
    CHECK(budget_reserve(&l, &p, 1, &first).units > 0);
}

static void test_carry_example(void)
{
    const int64_t dollar = INT64_C(1000000000000);
    struct budget_limits l = {.hard = {500 * dollar}, .carry_max = {50 * dollar}};
    struct budget_state october = {.spent = {380 * dollar}, .reserved = {dollar / 10 * 4}}, november = {0};
    november.carried_in = budget_carry(&l, &october);
    CHECK_INT(budget_limit(&l, &november).v, 550 * dollar);
    CHECK_INT(budget_carry(&l, &november).v, 50 * dollar);
}

static void test_large(void)
{
    struct budget_limits l = {.hard = {INT64_MAX - 1}};
    struct budget_state s = {0}, *p = &s;
    struct budget_ask ask = {
        .fixed = {INT64_MAX / 4}, .unit = {INT64_MAX / 8}, .units_min = 1, .units_want = INT64_MAX};
    struct budget_grant g = budget_reserve(&l, &p, 1, &ask);
    CHECK_INT(g.units, 6);
    CHECK(s.reserved.v <= l.hard.v && s.reserved.v > 0);
    CHECK_INT(budget_settle(&p, 1, g.amount, (struct pusd){g.amount.v}).v, 0);
    CHECK_INT(budget_reserve(&l, &p, 1, &ask).units, -1);
    s = (struct budget_state){.spent = {10}};
    CHECK_INT(budget_settle(&p, 1, (struct pusd){0}, (struct pusd){7}).v, 7); /* the books do not lie */
    CHECK_INT(s.spent.v, 17);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        operations = strtoll(argv[1], NULL, 10);
    TEST(test_laws);
    if (!TEST_SANITIZED)
        TEST(test_mutants);
    TEST(test_model);
    TEST(test_levels);
    TEST(test_forecast);
    TEST(test_actions);
    TEST(test_example);
    TEST(test_carry_example);
    TEST(test_large);
    return TEST_RESULT();
}
