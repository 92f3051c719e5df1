#include "scheduler/cli/serve_prices.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/books/finance.h"

#define PRICES_MAX 4096 /* of nodes, pools and models together */

struct prices {
    struct node_price *list;
    int n, cap;
};
struct serve_prices {
    struct serve_prices_options o;
    struct prices now;
    int64_t looked_s;
    bool reading, again, failing, ended;
};
struct task {
    struct serve_prices *p;
    char *ledger;
    int64_t at_s;
    struct prices read;
    enum rc rc;
    struct error e;
};

/* ---- from the file ------------------------------------------------------------------------------------------------- */

static void take(struct task *t, const struct finance_change *c, bool is_rate)
{
    struct node_price p = {.is_rate = is_rate, .version = c->version};
    struct error ignored; /* it was checked when it was made */
    if (t->read.n == PRICES_MAX || strlen(c->subject) >= sizeof p.subject ||
        finance_prices(c->value, &p.prices, &ignored) != RC_OK)
        return;
    snprintf(p.subject, sizeof p.subject, "%s", c->subject);
    if (t->read.n == t->read.cap) {
        t->read.cap = t->read.cap ? 2 * t->read.cap : 16;
        t->read.list = spw_realloc(t->read.list, (size_t)t->read.cap * sizeof *t->read.list);
    }
    t->read.list[t->read.n++] = p;
}

static void take_price(const struct finance_change *c, void *arg)
{
    take(arg, c, false);
}

static void take_rate(const struct finance_change *c, void *arg)
{
    take(arg, c, true);
}

static void read_them(void *arg)
{
    struct task *t = arg;
    t->rc = finance_read_at(t->ledger, "price", t->at_s, take_price, t, &t->e);
    if (t->rc == RC_OK)
        t->rc = finance_read_at(t->ledger, "rate", t->at_s, take_rate, t, &t->e);
}

/* ---- in force ------------------------------------------------------------------------------------------------------ */

static bool same(const struct prices *a, const struct prices *b)
{
    for (int i = 0; i < a->n && a->n == b->n; i++)
        if (a->list[i].version != b->list[i].version)
            return false;
    return a->n == b->n; /* a version says it all, and they come in order */
}

static void put_in_force(struct serve_prices *p, struct prices *read)
{
    if (same(&p->now, read))
        return;
    free(p->now.list);
    p->now = *read;
    *read = (struct prices){0};
    nodes_set_prices(p->o.nodes, p->now.list, p->now.n);
    log_info(p->o.log, "books", "prices of finance are in force", LOG_I("prices", p->now.n));
}

static void free_task(struct task *t)
{
    free(t->read.list);
    free(t->ledger);
    free(t);
}

static void read_cb(enum rc rc, void *arg)
{
    struct task *t = arg;
    struct serve_prices *p = t->p;
    p->reading = false;
    if (rc == RC_OK && t->rc == RC_OK)
        put_in_force(p, &t->read);
    else if (rc == RC_OK && !p->failing)
        log_error(p->o.log, "books", "finance's prices cannot be read; those before hold on",
                  LOG_S("reason", t->e.message));
    p->failing = rc == RC_OK && t->rc != RC_OK;
    if (rc == RC_OK && p->again) {
        p->again = false;
        serve_prices_look(p, t->ledger, true);
    }
    free_task(t);
}

static struct task *new_task(struct serve_prices *p, const char *ledger)
{
    struct task *t = spw_calloc(1, sizeof *t);
    t->p = p;
    t->ledger = spw_strdup(ledger);
    t->at_s = p->looked_s = clock_wall(p->o.clock).ns / NS_PER_S;
    return t;
}

void serve_prices_look(struct serve_prices *p, const char *ledger, bool now)
{
    const int64_t now_s = clock_wall(p->o.clock).ns / NS_PER_S;
    if (p->ended)
        return;
    if (p->reading) {
        p->again = p->again || now;
        return;
    }
    if (!now && now_s - p->looked_s < PRICES_EVERY_S && now_s >= p->looked_s)
        return;
    struct task *t = new_task(p, ledger);
    p->reading = worker_submit(p->o.worker, read_them, read_cb, t) == RC_OK;
    if (!p->reading) /* a slow disk: next time */
        free_task(t);
}

enum rc serve_prices_new(struct serve_prices **out, const struct serve_prices_options *o, const char *ledger,
                         struct error *e)
{
    struct serve_prices *p = spw_calloc(1, sizeof *p);
    p->o = *o;
    struct task *t = new_task(p, ledger);
    read_them(t);
    const enum rc rc = t->rc;
    if (rc == RC_OK)
        put_in_force(p, &t->read);
    else
        *e = t->e;
    free_task(t);
    *out = p;
    return rc;
}

void serve_prices_end(struct serve_prices *p)
{
    if (p)
        p->ended = true;
}

void serve_prices_free(struct serve_prices *p)
{
    if (!p)
        return;
    free(p->now.list);
    free(p);
}
