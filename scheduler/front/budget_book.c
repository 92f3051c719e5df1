/* Budgets as the admin API sees and changes them: read from the store, on lane 0. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/front_internal.h"

bool front_budget_store(const struct front *f, struct budget_store_stats *s)
{
    return budget_desk_shared(f->budgets, s);
}

struct listing {
    struct lane *lane;
    struct config *config; /* a reference: rules */
    struct budget_known *items;
    char (*names)[BUDGET_NAME_BYTES];
    int n, cap, next; /* next: first that is not read yet */
    bool inside, answered;
    front_budgets_cb *done;
    void *arg;
};

static int64_t now_s(const struct front *f)
{
    return clock_wall(f->o.clock).ns / NS_PER_S;
}

static struct listing *listing_new(struct front *f, front_budgets_cb *done, void *arg)
{
    struct listing *x = spw_calloc(1, sizeof *x);
    x->lane = &f->lanes[0];
    x->config = config_ref(front_config(f));
    x->done = done;
    x->arg = arg;
    return x;
}

static void listing_free(struct listing *x)
{
    config_free(x->config);
    free(x->items);
    free(x->names);
    free(x);
}

static void add(const struct budget_known *k, void *arg)
{
    struct listing *x = arg;
    if (x->n == FRONT_BUDGETS_MAX)
        return;
    if (x->n == x->cap) {
        x->cap = x->cap ? x->cap * 2 : 16;
        x->items = spw_realloc(x->items, (size_t)x->cap * sizeof *x->items);
        x->names = spw_realloc(x->names, (size_t)x->cap * sizeof *x->names);
    }
    snprintf(x->names[x->n], sizeof x->names[0], "%s", k->name);
    x->items[x->n++] = *k;
}

static void finish(struct listing *x, enum rc rc, const char *why)
{
    x->done(rc, why, x->items, x->n, x->arg);
    listing_free(x);
}

static void read_more(struct listing *x);

static void on_read(const struct budget_answer *a, void *arg)
{
    struct listing *x = arg;
    x->answered = true;
    if (a->rc != RC_OK) {
        x->next = -1;
        finish(x, a->rc, a->why ? a->why : "budgets cannot be asked at the moment");
        return;
    }
    for (int i = 0; i < a->n; i++)
        x->items[x->next + i].view = a->views[i];
    x->next += a->n;
    if (!x->inside)
        read_more(x);
}

static void read_more(struct listing *x)
{
    const struct budget_access *s = x->lane->budgets;
    while (x->next < x->n) {
        struct budget_claim claims[BUDGET_SET_MAX];
        int n = x->n - x->next < BUDGET_SET_MAX ? x->n - x->next : BUDGET_SET_MAX;
        for (int i = 0; i < n; i++)
            claims[i] = x->items[x->next + i].claim;
        x->inside = true;
        x->answered = false;
        bool last = x->next + n == x->n;
        enum rc rc = s->ops->read(s->port, claims, n, on_read, x);
        if (rc != RC_OK) {
            finish(x, rc, "budgets cannot be asked at the moment");
            return;
        }
        (void)last;
        if (x->next < 0) /* it has failed, and is gone */
            return;
        x->inside = false;
        if (!x->answered)
            return;
    }
    finish(x, RC_OK, NULL);
}

/* The array no longer grows: names stay where they are. */
static void settle_names(struct listing *x)
{
    for (int i = 0; i < x->n; i++)
        x->items[i].name = x->items[i].claim.name = x->names[i];
}

static enum rc one(struct front *f, struct listing *x, const char *name, struct error *e)
{
    const struct config *c = x->config;
    const struct budget_rule *rule = budget_desk_rule(c->budget_rules, c->n_budgets, name);
    if (!rule || strlen(name) >= BUDGET_NAME_BYTES)
        return error_set(e, RC_NOT_FOUND, "there is no budget \"%.80s\"%s", name,
                         c->n_budgets ? "; one of match: [\"user=*\"] is called NAME[alice]" : "");
    struct budget_known k = {.name = name, .rule = rule, .claim = budget_rule_claim(rule, name, now_s(f))};
    k.view = (struct budget_view){.hard = rule->limits.hard, .soft = rule->soft};
    add(&k, x);
    return RC_OK;
}

enum rc front_budgets_read(struct front *f, const char *name, front_budgets_cb *done, void *arg, struct error *e)
{
    struct listing *x = listing_new(f, done, arg);
    const struct config *c = x->config;
    enum rc rc = RC_OK;
    if (name)
        rc = one(f, x, name, e);
    else
        budget_desk_each(f->budgets, c->budget_rules, c->n_budgets, now_s(f), add, x);
    if (rc != RC_OK) {
        listing_free(x);
        return rc;
    }
    settle_names(x);
    read_more(x);
    return RC_OK;
}

static void on_changed(const struct budget_answer *a, void *arg)
{
    struct listing *x = arg;
    if (a->rc == RC_OK) {
        x->items[0].view = a->views[0];
        budget_desk_hear(x->lane->front->budgets, x->names[0]);
        budget_desk_note(x->lane, x->items[0].rule, &x->items[0].claim, &a->views[0], false);
    }
    finish(x, a->rc, a->why);
}

enum rc front_budget_change(struct front *f, const char *name, const struct front_budget_change *c,
                            front_budgets_cb *done, void *arg, struct error *e)
{
    const struct budget_access *s = f->lanes[0].budgets;
    struct listing *x = listing_new(f, done, arg);
    enum rc rc = one(f, x, name, e);
    if (rc == RC_OK) {
        settle_names(x);
        rc = c->top_up.v > 0 ? s->ops->top_up(s->port, &x->items[0].claim, c->top_up, on_changed, x)
                             : s->ops->set(s->port, &x->items[0].claim, c->hard, c->soft, on_changed, x);
        if (rc != RC_OK)
            rc = error_set(e, rc, "the change cannot be taken at the moment, or the amounts are too large");
    }
    if (rc != RC_OK)
        listing_free(x);
    return rc;
}
