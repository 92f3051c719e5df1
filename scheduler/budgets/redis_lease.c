/* Leases: what may be granted while Redis is lost. A lease is a reservation of one budget in one period that the script
 * keeps at `allowance` (and what of it is held). Under the store's lock, because a rebuild ends them all at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/budgets/redis_internal.h"

#define UNSEEN_NS (INT64_C(600) * NS_PER_S) /* a budget that was not in use for so long needs no lease */

static struct lease *find(const struct redis_port *p, const char *name, int64_t start_s)
{
    struct lease *l;
    TAILQ_FOREACH(l, &p->store->leases, entry)
    if (l->port == p && l->claim.c.start_s == start_s && strcmp(l->claim.name, name) == 0)
        return l;
    return NULL;
}

static void drop(struct lease *l)
{
    TAILQ_REMOVE(&l->port->store->leases, l, entry);
    l->port->n_leases--;
    free(l);
}

static bool is_over(const struct lease *l, int64_t now_ns, int64_t wall_s)
{
    return l->over || wall_s >= l->claim.c.end_s || now_ns - l->seen_ns > UNSEEN_NS;
}

/* The step that brings Redis up to date; NULL: there is nothing to tell. With the lock. */
static struct step *ask(struct lease *l, int64_t now_ns, int64_t wall_s)
{
    struct pusd allowance = l->port->store->o.allowance;
    int64_t left = l->total.v - l->used.v - l->held.v;
    bool over = is_over(l, now_ns, wall_s) && l->held.v == 0;
    if (l->asking || (!over && l->used.v == 0 && left >= allowance.v / 2))
        return NULL;
    struct step *s = step_new(l->port, STEP_LEASE, &l->claim.c, 1);
    snprintf(s->id, sizeof s->id, "lease:%d", l->id);
    s->sequence = ++l->sequence;
    s->a = l->used;
    s->b.v = over ? 0 : allowance.v + l->held.v;
    s->lease = l;
    l->asking = true;
    l->over = over;
    if (over)
        l->total = l->used; /* nothing more is granted out of it */
    return s;
}

static void queue_all(struct step **list, int n)
{
    for (int i = 0; i < n; i++)
        step_queue(list[i]);
}

void leases_want(struct redis_port *p, const struct kept_claim *claims, int n)
{
    struct redis_store *store = p->store;
    struct step *steps[BUDGET_SET_MAX];
    int n_steps = 0;
    if (!store->o.allowance.v)
        return;
    int64_t now = clock_now(store->o.clock).ns, wall_s = clock_wall(store->o.clock).ns / NS_PER_S;
    pthread_mutex_lock(&store->lock);
    for (int i = 0; i < n; i++) {
        struct lease *l = find(p, claims[i].name, claims[i].c.start_s);
        if (!l && p->n_leases < LEASES_MAX && wall_s < claims[i].c.end_s) {
            l = spw_calloc(1, sizeof *l);
            l->port = p;
            l->id = ++p->leases_made;
            l->claim = claims[i];
            l->claim.c.name = l->claim.name;
            l->seen_ns = now;
            TAILQ_INSERT_TAIL(&store->leases, l, entry);
            p->n_leases++;
            struct step *s = ask(l, now, wall_s);
            if (s)
                steps[n_steps++] = s;
        }
        if (l)
            l->seen_ns = now;
    }
    pthread_mutex_unlock(&store->lock);
    queue_all(steps, n_steps);
}

struct budget_grant leases_take(struct redis_port *p, const struct budget_claim *claims, int n,
                                const struct budget_ask *what)
{
    struct budget_grant g = {.units = -1, .refused = 0};
    struct budget_state states[BUDGET_SET_MAX], *list[BUDGET_SET_MAX];
    struct budget_limits limits[BUDGET_SET_MAX];
    struct lease *leases[BUDGET_SET_MAX];
    if (!p->store->o.allowance.v)
        return g;
    pthread_mutex_lock(&p->store->lock);
    int i = 0;
    for (; i < n; i++) {
        struct lease *l = leases[i] = find(p, claims[i].name, claims[i].start_s);
        if (!l || l->over)
            break;
        states[i] = (struct budget_state){.spent = l->used, .reserved = l->held};
        limits[i] = (struct budget_limits){.hard = l->total};
        list[i] = &states[i];
    }
    if (i == n) {
        g = budget_reserve(limits, list, n, what);
        for (i = 0; i < n && g.units >= 0; i++)
            leases[i]->held = states[i].reserved;
    }
    pthread_mutex_unlock(&p->store->lock);
    return g;
}

void leases_settle(struct redis_port *p, const struct redis_hold *h, struct pusd spent)
{
    pthread_mutex_lock(&p->store->lock);
    for (int i = 0; i < h->pub.n; i++) {
        struct lease *l = find(p, h->pub.of[i].name, h->pub.of[i].start_s);
        if (!l)
            continue;
        l->held.v = l->held.v > h->leased.v ? l->held.v - h->leased.v : 0;
        l->used.v += spent.v;
    }
    pthread_mutex_unlock(&p->store->lock);
}

void leases_sync(struct redis_port *p)
{
    struct redis_store *store = p->store;
    struct step *steps[LEASES_MAX];
    struct lease *l;
    int n = 0;
    if (!store->o.allowance.v)
        return;
    int64_t now = clock_now(store->o.clock).ns, wall_s = clock_wall(store->o.clock).ns / NS_PER_S;
    pthread_mutex_lock(&store->lock);
    TAILQ_FOREACH(l, &store->leases, entry)
    {
        struct step *s = l->port == p && n < LEASES_MAX ? ask(l, now, wall_s) : NULL;
        if (s)
            steps[n++] = s;
    }
    pthread_mutex_unlock(&store->lock);
    queue_all(steps, n);
}

void leases_replied(struct step *s, const redisReply *reply)
{
    struct lease *l = s->lease;
    struct redis_port *p = s->port;
    bool done = false;
    pthread_mutex_lock(&p->store->lock);
    l->asking = false;
    if (reply_is(reply, "ok")) {
        l->used.v = l->used.v > s->a.v ? l->used.v - s->a.v : 0;
        l->total.v = reply_int(reply, 1);
        done = l->over && !l->total.v;
        if (done)
            drop(l);
    }
    pthread_mutex_unlock(&p->store->lock);
    if (!done)
        return;
    struct step *end = step_new(p, STEP_SETTLE, NULL, 0); /* the reservation itself */
    memcpy(end->id, s->id, sizeof end->id);
    step_queue(end);
}

void leases_void(struct redis_store *s)
{
    struct lease *l;
    TAILQ_FOREACH(l, &s->leases, entry)
    l->total = l->used = l->held = (struct pusd){0};
}

void leases_free(struct redis_port *p)
{
    struct lease *l, *next;
    pthread_mutex_lock(&p->store->lock);
    for (l = TAILQ_FIRST(&p->store->leases); l; l = next) {
        next = TAILQ_NEXT(l, entry);
        if (l->port == p)
            drop(l);
    }
    pthread_mutex_unlock(&p->store->lock);
}
