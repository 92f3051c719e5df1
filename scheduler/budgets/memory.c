#include "scheduler/budgets/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/alloc.h"
#include "base/fnv.h"
#include "scheduler/books/ledger_budgets.h"

#define BUCKETS     4096
#define LINES_BYTES ((size_t)BUDGET_SET_MAX * (BUDGET_NAME_BYTES + 24))

/* One instance in one period; stays while something is reserved in it, or while it is one of its instance's two newest. */
struct counter_of {
    LIST_ENTRY(counter_of) list;
    int64_t start_s;
    int holds;
    struct budget_state state;
};
struct instance {
    struct instance *next;           /* same bucket */
    LIST_HEAD(, counter_of) periods; /* newest first */
    struct pusd hard, soft;          /* set at run time; -1: as configured */
    char name[];
};
struct memory_store {
    struct budget_store base;
    const struct clock *clock;
    pthread_mutex_t lock; /* guards all below */
    struct instance *buckets[BUCKETS];
    int n;
    _Atomic int undropped; /* holds whose end the queue was too full for: waste, at the next start */
};
struct budget_port {
    struct memory_store *store;
    struct ledger_port *ledger; /* NULL: nothing is durable */
};

/* The hold of the caller, and the call that is under way on it. */
struct op;
struct memory_hold {
    struct budget_hold base;
    struct counter_of *counters[BUDGET_SET_MAX]; /* pinned by `holds` */
    struct op *extending;                        /* NULL: none */
    char id[64];
};
struct op { /* waits for the disk */
    struct budget_port *port;
    struct memory_hold *hold; /* NULL: it was settled meanwhile */
    struct budget_answer answer;
    struct budget_view views[BUDGET_SET_MAX];
    budget_done_cb *done;
    void *arg;
};

/* ---- instances --------------------------------------------------------------------------------------------------- */

static struct instance **bucket_of(struct memory_store *s, const char *name, size_t n)
{
    const uint64_t h = fnv_bytes(FNV_START, name, n);
    return &s->buckets[(h ^ (h >> 29)) % BUCKETS];
}

static struct instance *find(struct memory_store *s, const char *name, size_t n)
{
    struct instance *x = *bucket_of(s, name, n);
    while (x && (strncmp(x->name, name, n) != 0 || x->name[n]))
        x = x->next;
    return x;
}

static struct instance *find_or_add(struct memory_store *s, const char *name, size_t n)
{
    struct instance *x = find(s, name, n), **at = bucket_of(s, name, n);
    if (x || s->n == BUDGET_INSTANCES_MAX || n >= BUDGET_NAME_BYTES)
        return x;
    x = spw_calloc(1, sizeof *x + n + 1);
    memcpy(x->name, name, n);
    x->hard.v = x->soft.v = -1;
    LIST_INIT(&x->periods);
    x->next = *at;
    *at = x;
    s->n++;
    return x;
}

static struct counter_of *find_period(struct instance *x, int64_t start_s)
{
    struct counter_of *c;
    LIST_FOREACH(c, &x->periods, list)
    {
        if (c->start_s == start_s)
            return c;
    }
    return NULL;
}

static struct counter_of *add_period(struct instance *x, int64_t start_s)
{
    struct counter_of *c = spw_calloc(1, sizeof *c), *at = LIST_FIRST(&x->periods), *last = NULL;
    c->start_s = start_s;
    for (; at && at->start_s > start_s; at = LIST_NEXT(at, list))
        last = at;
    if (last)
        LIST_INSERT_AFTER(last, c, list);
    else
        LIST_INSERT_HEAD(&x->periods, c, list);
    return c;
}

/* All but the two newest (the one before is what is carried over from, and compared with) and those in use. */
static void forget_old(struct instance *x)
{
    struct counter_of *c = LIST_FIRST(&x->periods), *next;
    for (int i = 0; c; c = next, i++) {
        next = LIST_NEXT(c, list);
        if (i >= 2 && !c->holds) {
            LIST_REMOVE(c, list);
            free(c);
        }
    }
}

static struct budget_limits limits_of(const struct instance *x, const struct budget_claim *c)
{
    struct budget_limits l = c->limits;
    if (x->hard.v >= 0)
        l.hard = x->hard;
    return l;
}

static struct budget_view view_of(const struct instance *x, const struct counter_of *c,
                                  const struct budget_claim *claim)
{
    return (struct budget_view){
        .state = c->state, .hard = limits_of(x, claim).hard, .soft = x->soft.v >= 0 ? x->soft : claim->soft};
}

/* ---- what becomes durable ---------------------------------------------------------------------------------------- */

static void event(struct budget_port *p, enum ledger_budget_kind kind, const char *name, int64_t start_s,
                  struct pusd amount, struct pusd soft)
{
    char line[BUDGET_NAME_BYTES + 32];
    snprintf(line, sizeof line, "%lld %s\n", (long long)start_s, name);
    const struct ledger_budget_event ev = {
        .kind = kind, .budgets = line, .amount = amount, .soft = soft, .at = clock_wall(p->store->clock)};
    /* A queue that is full loses at most what is carried over: the next start then knows no better than the last one. */
    if (p->ledger && ledger_append_budget(p->ledger, &ev, NULL, NULL) != RC_OK)
        return;
}

/* The claim's period, with what it inherits when it is new. NULL: no room. */
static struct counter_of *open_period(struct budget_port *p, const struct budget_claim *claim, struct instance **of)
{
    struct instance *x = find_or_add(p->store, claim->name, strlen(claim->name));
    *of = x;
    if (!x)
        return NULL;
    struct counter_of *c = find_period(x, claim->start_s);
    if (c)
        return c;
    c = add_period(x, claim->start_s);
    struct counter_of *before = find_period(x, claim->before_start_s);
    if (before && claim->limits.carry_max.v > 0) {
        struct budget_limits l = limits_of(x, claim);
        struct pusd carried = budget_carry(&l, &before->state);
        c->state.carried_in = carried;
        if (carried.v) {
            event(p, LEDGER_CARRY_OUT, claim->name, claim->before_start_s, carried, (struct pusd){0});
            event(p, LEDGER_CARRY_IN, claim->name, claim->start_s, carried, (struct pusd){0});
        }
    }
    forget_old(x);
    return c;
}

static void put_lines(const struct budget_hold *h, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < h->n && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%lld %s\n", (long long)h->of[i].start_s, h->of[i].name);
}

static enum rc make_durable(struct budget_port *p, const struct memory_hold *h, ledger_done_cb *done, void *arg)
{
    char lines[LINES_BYTES];
    put_lines(&h->base, lines, sizeof lines);
    const struct ledger_budget_event ev = {.kind = LEDGER_HOLD,
                                           .id = h->id,
                                           .budgets = lines,
                                           .amount = h->base.granted,
                                           .at = clock_wall(p->store->clock)};
    return ledger_append_budget(p->ledger, &ev, done, arg);
}

/* ---- holds ------------------------------------------------------------------------------------------------------- */

static struct memory_hold *hold_new(const char *id, const struct budget_claim *claims, int n)
{
    struct memory_hold *h = spw_calloc(1, sizeof *h + (size_t)n * sizeof *h->base.of);
    snprintf(h->id, sizeof h->id, "%s", id);
    h->base = (struct budget_hold){.n = n, .of = (struct budget_held *)(h + 1), .id = h->id};
    for (int i = 0; i < n; i++) {
        snprintf(h->base.of[i].name, sizeof h->base.of[i].name, "%s", claims[i].name);
        h->base.of[i].start_s = claims[i].start_s;
    }
    return h;
}

static void states_of(struct memory_hold *h, struct budget_state **states)
{
    for (int i = 0; i < h->base.n; i++)
        states[i] = &h->counters[i]->state;
}

/* With the lock. */
static struct pusd give_back_locked(struct memory_hold *h, struct pusd spent)
{
    struct budget_state *states[BUDGET_SET_MAX];
    states_of(h, states);
    struct pusd excess = budget_settle(states, h->base.n, h->base.granted, spent);
    for (int i = 0; i < h->base.n; i++)
        h->counters[i]->holds--;
    return excess;
}

static void op_end(struct op *op)
{
    op->done(&op->answer, op->arg);
    free(op);
}

/* The disk has it, or cannot: then it was not granted. */
static void on_durable(enum rc rc, void *arg)
{
    struct op *op = arg;
    struct memory_hold *h = op->hold;
    if (!h) { /* settled: nobody waits any more */
        free(op);
        return;
    }
    h->extending = NULL;
    if (rc != RC_OK) {
        struct budget_state *states[BUDGET_SET_MAX];
        bool first = op->answer.hold != NULL;
        pthread_mutex_lock(&op->port->store->lock);
        states_of(h, states);
        budget_settle(states, h->base.n, op->answer.grant.amount, (struct pusd){0});
        h->base.granted.v -= op->answer.grant.amount.v;
        for (int i = 0; first && i < h->base.n; i++)
            h->counters[i]->holds--;
        pthread_mutex_unlock(&op->port->store->lock);
        if (first)
            free(h);
        op->answer = (struct budget_answer){.rc = rc, .why = "the ledger cannot be written"};
    }
    op_end(op);
}

/* The answer stands; a grant is told once it is durable. */
static enum rc answer(struct budget_port *p, struct op *op)
{
    if (op->answer.rc != RC_OK || !p->ledger || !op->hold) {
        if (op->hold)
            op->hold->extending = NULL;
        op_end(op);
        return RC_OK;
    }
    enum rc rc = make_durable(p, op->hold, on_durable, op);
    if (rc != RC_OK)
        on_durable(rc, op);
    return RC_OK;
}

static struct op *op_new(struct budget_port *p, budget_done_cb *done, void *arg, int n)
{
    struct op *op = spw_calloc(1, sizeof *op);
    op->port = p;
    op->done = done;
    op->arg = arg;
    op->answer = (struct budget_answer){.n = n, .views = op->views, .grant = {.refused = -1}};
    return op;
}

static enum rc memory_reserve(struct budget_port *p, const char *id, const struct budget_claim *claims, int n,
                              const struct budget_ask *ask, budget_done_cb *done, void *arg)
{
    struct memory_store *s = p->store;
    struct budget_limits limits[BUDGET_SET_MAX];
    struct budget_state *states[BUDGET_SET_MAX];
    struct counter_of *counters[BUDGET_SET_MAX];
    struct instance *x[BUDGET_SET_MAX];
    SPW_ASSERT(n >= 1 && n <= BUDGET_SET_MAX);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < n; i++) {
        counters[i] = open_period(p, &claims[i], &x[i]);
        if (!counters[i]) {
            while (i-- > 0)
                counters[i]->holds--;
            pthread_mutex_unlock(&s->lock);
            return RC_FULL;
        }
        counters[i]->holds++; /* nothing is forgotten under it */
        limits[i] = limits_of(x[i], &claims[i]);
        states[i] = &counters[i]->state;
    }
    struct op *op = op_new(p, done, arg, n);
    struct budget_grant g = budget_reserve(limits, states, n, ask);
    op->answer.grant = g;
    op->answer.rc = g.refused < 0 ? RC_OK : RC_DENIED;
    for (int i = 0; i < n; i++) {
        op->views[i] = view_of(x[i], counters[i], &claims[i]);
        counters[i]->holds -= g.refused >= 0;
    }
    if (g.refused < 0) {
        op->hold = hold_new(id, claims, n);
        memcpy(op->hold->counters, counters, (size_t)n * sizeof(struct counter_of *));
        op->hold->base.granted = g.amount;
        op->answer.hold = &op->hold->base;
    }
    pthread_mutex_unlock(&s->lock);
    return answer(p, op);
}

static enum rc memory_extend(struct budget_port *p, struct budget_hold *hold, const struct budget_claim *claims, int n,
                             const struct budget_ask *ask, budget_done_cb *done, void *arg)
{
    struct memory_store *s = p->store;
    struct memory_hold *h = (struct memory_hold *)hold;
    struct budget_limits limits[BUDGET_SET_MAX];
    struct budget_state *states[BUDGET_SET_MAX];
    SPW_ASSERT(n == hold->n && !h->extending);
    struct op *op = op_new(p, done, arg, n);
    pthread_mutex_lock(&s->lock);
    states_of(h, states);
    for (int i = 0; i < n; i++) {
        const struct instance *x = find(s, claims[i].name, strlen(claims[i].name));
        limits[i] = x ? limits_of(x, &claims[i]) : claims[i].limits;
    }
    struct budget_grant g = budget_reserve(limits, states, n, ask);
    op->answer.grant = g;
    op->answer.rc = g.refused < 0 ? RC_OK : RC_DENIED;
    hold->granted.v += g.amount.v;
    for (int i = 0; i < n; i++) {
        const struct instance *x = find(s, claims[i].name, strlen(claims[i].name));
        op->views[i] =
            x ? view_of(x, h->counters[i], &claims[i]) : (struct budget_view){.state = h->counters[i]->state};
    }
    pthread_mutex_unlock(&s->lock);
    op->hold = h;
    h->extending = op;
    return answer(p, op);
}

static struct pusd memory_settle(struct budget_port *p, struct budget_hold *hold, struct pusd spent)
{
    struct memory_hold *h = (struct memory_hold *)hold;
    if (h->extending)
        h->extending->hold = NULL;
    /* There may be no row to end it. (Where there is one, it finds nothing more to end.) */
    const struct ledger_budget_event ev = {.kind = LEDGER_DROP, .id = h->id, .budgets = ""};
    if (p->ledger && spent.v == 0 && ledger_append_budget(p->ledger, &ev, NULL, NULL) != RC_OK)
        p->store->undropped++;
    pthread_mutex_lock(&p->store->lock);
    struct pusd excess = give_back_locked(h, spent);
    pthread_mutex_unlock(&p->store->lock);
    free(h);
    return excess;
}

/* ---- looking and changing ---------------------------------------------------------------------------------------- */

static enum rc memory_read(struct budget_port *p, const struct budget_claim *claims, int n, budget_done_cb *done,
                           void *arg)
{
    struct memory_store *s = p->store;
    struct instance *x;
    SPW_ASSERT(n >= 0 && n <= BUDGET_SET_MAX);
    struct op *op = op_new(p, done, arg, n);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < n; i++) {
        struct counter_of *c = open_period(p, &claims[i], &x);
        op->views[i] =
            c ? view_of(x, c, &claims[i]) : (struct budget_view){.hard = claims[i].limits.hard, .soft = claims[i].soft};
    }
    pthread_mutex_unlock(&s->lock);
    op_end(op);
    return RC_OK;
}

static void on_changed(enum rc rc, void *arg)
{
    struct op *op = arg;
    if (rc != RC_OK)
        op->answer = (struct budget_answer){.rc = rc, .why = "the ledger cannot be written; it holds until a restart"};
    op_end(op);
}

/* What was changed in memory is written down, and then told. */
static enum rc changed(struct budget_port *p, const struct budget_claim *claim, struct ledger_budget_event ev,
                       struct op *op)
{
    char line[BUDGET_NAME_BYTES + 32];
    snprintf(line, sizeof line, "%lld %s\n", (long long)claim->start_s, claim->name);
    ev.budgets = line;
    ev.at = clock_wall(p->store->clock);
    enum rc rc = p->ledger ? ledger_append_budget(p->ledger, &ev, on_changed, op) : RC_OK;
    if (!p->ledger || rc != RC_OK)
        on_changed(rc, op);
    return RC_OK;
}

static enum rc memory_top_up(struct budget_port *p, const struct budget_claim *claim, struct pusd amount,
                             budget_done_cb *done, void *arg)
{
    struct instance *x;
    pthread_mutex_lock(&p->store->lock);
    struct counter_of *c = open_period(p, claim, &x);
    if (!c || amount.v > INT64_MAX / 4 - c->state.topped_up.v) {
        pthread_mutex_unlock(&p->store->lock);
        return RC_FULL;
    }
    struct op *op = op_new(p, done, arg, 1);
    c->state.topped_up.v += amount.v;
    op->views[0] = view_of(x, c, claim);
    pthread_mutex_unlock(&p->store->lock);
    return changed(p, claim, (struct ledger_budget_event){.kind = LEDGER_TOP_UP, .amount = amount}, op);
}

static enum rc memory_set(struct budget_port *p, const struct budget_claim *claim, struct pusd hard, struct pusd soft,
                          budget_done_cb *done, void *arg)
{
    struct instance *x;
    pthread_mutex_lock(&p->store->lock);
    struct counter_of *c = open_period(p, claim, &x);
    if (!c) {
        pthread_mutex_unlock(&p->store->lock);
        return RC_FULL;
    }
    struct op *op = op_new(p, done, arg, 1);
    if (hard.v >= -1)
        x->hard = hard;
    if (soft.v >= -1)
        x->soft = soft;
    hard = x->hard;
    soft = x->soft;
    op->views[0] = view_of(x, c, claim);
    pthread_mutex_unlock(&p->store->lock);
    return changed(p, claim, (struct ledger_budget_event){.kind = LEDGER_LIMITS, .amount = hard, .soft = soft}, op);
}

/* ---- its life ---------------------------------------------------------------------------------------------------- */

static enum rc memory_port_new(struct budget_store *s, struct event_base *loop, struct ledger_port *ledger,
                               struct budget_port **p, struct error *e)
{
    (void)loop;
    (void)e;
    *p = spw_calloc(1, sizeof **p);
    (*p)->store = (struct memory_store *)s;
    (*p)->ledger = ledger;
    return RC_OK;
}

static void memory_port_free(struct budget_port *p)
{
    free(p);
}

static void memory_free(struct budget_store *base)
{
    struct memory_store *s = (struct memory_store *)base;
    for (int i = 0; i < BUCKETS; i++) {
        for (struct instance *x = s->buckets[i], *next; x; x = next) {
            struct counter_of *c;
            next = x->next;
            while ((c = LIST_FIRST(&x->periods))) {
                LIST_REMOVE(c, list);
                free(c);
            }
            free(x);
        }
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const struct budget_store_ops memory_ops = {.name = "memory",
                                                   .port_new = memory_port_new,
                                                   .port_free = memory_port_free,
                                                   .reserve = memory_reserve,
                                                   .extend = memory_extend,
                                                   .settle = memory_settle,
                                                   .read = memory_read,
                                                   .top_up = memory_top_up,
                                                   .set = memory_set,
                                                   .free = memory_free};

struct budget_store *memory_store_new(const struct clock *clock)
{
    struct memory_store *s = spw_calloc(1, sizeof *s);
    s->base.ops = &memory_ops;
    s->clock = clock;
    pthread_mutex_init(&s->lock, NULL);
    return &s->base;
}

/* ---- from the ledger --------------------------------------------------------------------------------------------- */

static void on_total(const struct ledger_budget_total *t, void *arg)
{
    struct instance *x = find_or_add(arg, t->name, strlen(t->name));
    if (!x)
        return;
    struct counter_of *c = find_period(x, t->start_s);
    if (!c)
        c = add_period(x, t->start_s);
    c->state = (struct budget_state){.spent = t->spent,
                                     .waste = t->waste,
                                     .carried_in = t->carried_in,
                                     .carried_out = t->carried_out,
                                     .topped_up = t->topped_up};
    forget_old(x);
}

static void on_limits(const struct ledger_budget_limits *l, void *arg)
{
    struct instance *x = find_or_add(arg, l->name, strlen(l->name));
    if (x) {
        x->hard = l->hard;
        x->soft = l->soft;
    }
}

#define OLDEST_S (INT64_C(63) * 86400) /* two months and a day */

enum rc memory_store_load(struct budget_store *base, const char *path, struct pusd_sum *wasted, struct error *e)
{
    struct memory_store *s = (struct memory_store *)base;
    struct wall now = clock_wall(s->clock);
    const struct ledger_budget_reader reader = {.total = on_total, .limits = on_limits, .arg = s};
    enum rc rc = ledger_book_waste(path, now, wasted, e);
    return rc == RC_OK ? ledger_read_budgets(path, now.ns / NS_PER_S - OLDEST_S, &reader, e) : rc;
}

bool memory_store_knows(const struct budget_store *base, const char *name, int64_t start_s)
{
    struct memory_store *s = (struct memory_store *)base; /* only looked at */
    pthread_mutex_lock(&s->lock);
    struct instance *x = find(s, name, strlen(name));
    bool known = x && find_period(x, start_s);
    pthread_mutex_unlock(&s->lock);
    return known;
}

void memory_store_begin(struct budget_store *base, const char *name, int64_t start_s, struct pusd spent)
{
    struct memory_store *s = (struct memory_store *)base;
    pthread_mutex_lock(&s->lock);
    struct instance *x = find_or_add(s, name, strlen(name));
    if (x && !find_period(x, start_s))
        add_period(x, start_s)->state.spent = spent;
    pthread_mutex_unlock(&s->lock);
}
