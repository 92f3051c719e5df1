#include "scheduler/cli/serve_books.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/worker.h"
#include "policies/tariff.h"
#include "scheduler/books/archive.h"
#include "scheduler/books/closing.h"
#include "scheduler/books/finance.h"
#include "scheduler/books/meter.h"
#include "scheduler/capacity/journal.h"
#include "scheduler/cli/serve_prices.h"
#include "scheduler/front/settle.h"

#define LOOK_MS       1000
#define WRITE_S       60  /* what a crash may take of the meters */
#define CLOSE_AFTER_S 600 /* after the hour's end: what ran over it has its row by then */
#define DUE_MAX       48  /* hours that one task closes */
#define RENTS_MAX     64  /* of one name in an hour */
#define TASKS_MAX     8

/* A node as it is now, or was; what the thread needs to know of it is copied. */
struct known_node {
    char name[68], pool[68], model[68], provider[68], market[16],
        domain[64]; /* model: its only one; "": it has several */
    bool local;
    struct token_prices prices; /* of the configuration: what its provider asks, where finance has no price list */
    struct meter meter;         /* since it was written last; its texts are the above */
    struct timesheet seen;      /* of which it has everything */
};
struct bookkeeper {
    struct bookkeeper_options o;
    struct config *config; /* a reference */
    struct worker *worker;
    struct serve_prices *prices;
    struct event *timer;
    struct known_node *nodes;
    int n_nodes, cap;
    int64_t last_ns, written_s, looked_due_s;
    bool closing, failing;
};

/* ---- what nodes are doing, on the loop --------------------------------------------------------------------------- */

static void put(char *to, size_t size, const char *text)
{
    snprintf(to, size, "%s", text ? text : "");
}

static struct known_node *known(struct bookkeeper *b, const struct node *n)
{
    struct known_node *k = NULL;
    for (int i = 0; i < b->n_nodes && !k; i++)
        k = strcmp(b->nodes[i].name, n->name) == 0 ? &b->nodes[i] : NULL;
    if (!k) {
        if (b->n_nodes == b->cap) {
            b->cap = b->cap ? 2 * b->cap : 16;
            b->nodes = spw_realloc(b->nodes, (size_t)b->cap * sizeof *b->nodes);
        }
        k = &b->nodes[b->n_nodes++];
        memset(k, 0, sizeof *k);
        put(k->name, sizeof k->name, n->name);
    }
    const struct config_node *c = n->config;
    put(k->pool, sizeof k->pool, c->pool ? c->pool->node.name : NULL);
    put(k->provider, sizeof k->provider, settle_provider(c));
    put(k->market, sizeof k->market, settle_market(c));
    put(k->domain, sizeof k->domain, c->domain);
    k->local = c->local;
    put(k->model, sizeof k->model, c->n_models == 1 ? c->models[0] : NULL);
    k->prices = *node_prices_configured(n->spec);
    return k;
}

/* Energy at the watts that are known of it now. */
static int64_t energy_of(const struct node *n, int64_t us, enum books_energy *is)
{
    int64_t milliwatts = 0;
    switch (node_milliwatts(n, n->config, &milliwatts)) {
    case NODE_WATTS_MEASURED: *is = BOOKS_ENERGY_METERED; break;
    case NODE_WATTS_ESTIMATED: *is = BOOKS_ENERGY_MODELLED; break;
    default: return 0;
    }
    return us * milliwatts / 1000000;
}

/* Of a node that does not tell how its time is spent. */
static void guess(struct known_node *k, struct node *n, int64_t us)
{
    const struct node_load load = node_load(n);
    const int64_t mj = energy_of(n, us, &k->meter.energy_is);
    k->meter.energy_mj += mj;
    if (load.state == NODE_STARTING && load.in_flight == 0) {
        k->meter.boot_us += us;
        k->meter.boot_mj += mj;
    } else if (load.in_flight == 0) {
        k->meter.idle_mj += mj;
        k->meter.asleep_us += load.state == NODE_ASLEEP ? us : 0;
    }
}

/* Energy is counted with the time, not with the clock: in parts that agree. Booting draws what idle time does. */
static void take_sheet(struct known_node *k, const struct node *n, const struct timesheet *spent)
{
    struct meter *m = &k->meter;
    const int64_t quiet_us = spent->idle_us + spent->asleep_us + spent->boot_us, all_us = quiet_us + spent->busy_us;
    int64_t mj = spent->millijoules, quiet_mj = spent->idle_millijoules;
    if (spent->has_energy) {
        m->energy_is = spent->measured ? BOOKS_ENERGY_METERED : BOOKS_ENERGY_MODELLED;
    } else {
        mj = energy_of(n, all_us, &m->energy_is);
        quiet_mj = all_us ? (int64_t)((__int128)mj * quiet_us / all_us) : 0;
    }
    const int64_t boot_mj = quiet_us ? (int64_t)((__int128)quiet_mj * spent->boot_us / quiet_us) : 0;
    m->busy_us += spent->busy_us;
    m->idle_us += spent->idle_us;
    m->asleep_us += spent->asleep_us;
    m->boot_us += spent->boot_us;
    m->energy_mj += mj;
    m->boot_mj += boot_mj;
    m->idle_mj += quiet_mj - boot_mj;
}

static void look_at(struct bookkeeper *b, struct node *n, int64_t ns)
{
    struct known_node *k = known(b, n);
    struct timesheet spent;
    k->meter.up_us += ns / NS_PER_US;
    if (timesheet_between(&k->seen, &n->sheet, &spent))
        take_sheet(k, n, &spent);
    else /* it says nothing, or has just said its first word: of this one look nobody else will tell */
        guess(k, n, ns / NS_PER_US);
    k->seen = n->sheet;
}

/* ---- onto the disk, on the thread -------------------------------------------------------------------------------- */

struct task {
    struct bookkeeper *b;
    struct config *config; /* a reference */
    struct known_node *nodes;
    int n_nodes;
    bool close, written;
    struct wall now;
    int64_t due[DUE_MAX];
    int n_due;
    enum rc rc;
    struct error e;
    int closed, wrong;
    int64_t archived; /* rows */
    struct strbuf text;
};

static enum rc write_meters(struct task *t)
{
    struct meter *all = spw_calloc((size_t)t->n_nodes + 1, sizeof *all);
    int n = 0;
    for (int i = 0; i < t->n_nodes; i++) {
        const struct known_node *k = &t->nodes[i];
        if (!k->meter.up_us)
            continue;
        all[n] = k->meter;
        all[n].node = k->name;
        all[n].pool = k->pool[0] ? k->pool : NULL;
        all[n].provider = k->provider;
        all[n].market = k->market;
        all[n++].domain = k->domain[0] ? k->domain : NULL;
    }
    enum rc rc = n ? meter_add(t->config->ledger_path, all, n, &t->e) : RC_OK;
    free(all);
    return rc;
}

/* ---- bills ------------------------------------------------------------------------------------------------------- */

struct billing {
    const struct task *t;
    const char *kind, *subject[3]; /* the node, its pool, its model; NULL: none */
    int best;                      /* whose value it is: index of those; 3: of nobody */
    char value[512];
    struct bill *bill;
    int64_t from_s, until_s;
};

static void take_value(const struct finance_change *c, void *arg)
{
    struct billing *x = arg;
    for (int i = 0; i < 3 && i < x->best; i++)
        if (x->subject[i] && strcmp(c->subject, x->subject[i]) == 0) {
            x->best = i;
            put(x->value, sizeof x->value, c->value);
        }
}

/* What finance says of a node, else of its pool (a price: else of its model). False: nothing. */
static bool finance_says(struct billing *x, const char *kind, enum rc *rc, struct error *e)
{
    x->best = 3;
    x->value[0] = '\0';
    *rc = finance_read_at(x->t->config->ledger_path, kind, x->from_s, take_value, x, e);
    return *rc == RC_OK && x->best < 3;
}

static void add_rent(const struct bill_rent *r, struct billing *x)
{
    int64_t from_s = r->launched_s > x->from_s ? r->launched_s : x->from_s, until_s = bill_paid_until(r);
    until_s = until_s < x->until_s ? until_s : x->until_s;
    x->bill->fixed.v += bill_rented(r, x->from_s, x->until_s).v;
    x->bill->paid_us += until_s > from_s ? (until_s - from_s) * INT64_C(1000000) : 0;
}

static void take_rent(const struct journal_rent *j, void *arg)
{
    struct bill_price *prices = spw_calloc((size_t)j->n_prices, sizeof *prices);
    for (int i = 0; i < j->n_prices; i++)
        prices[i] = (struct bill_price){j->prices[i].at_s, j->prices[i].hour};
    const struct bill_rent r = {.prices = prices,
                                .n_prices = j->n_prices,
                                .launched_s = j->launched_s,
                                .ended_s = j->ended_s,
                                .min_s = j->billing_min_s};
    add_rent(&r, arg);
    free(prices);
}

static enum rc rent_of_finance(struct billing *x, struct error *e)
{
    cJSON *o = NULL;
    const char *hour = NULL;
    struct bill_price price = {0, {0}};
    enum rc rc = json_parse(x->value, strlen(x->value), 8, &o, e);
    if (rc == RC_OK)
        rc = json_get_string(o, "hour", &hour, NULL, e);
    if (rc == RC_OK && hour)
        rc = pusd_parse(hour, &price.hour, e);
    cJSON_Delete(o);
    const struct bill_rent r = {.prices = &price, .n_prices = 1};
    add_rent(&r, x);
    return rc;
}

static enum rc owned(struct billing *x, const struct closing_node *n, bool asset, struct error *e)
{
    struct bill_asset a;
    x->bill->paid_us = BILL_HOUR_S * INT64_C(1000000);
    if (x->t->config->tariff)
        x->bill->energy = bill_energy(x->t->config->tariff, n->quarters, n->n_quarters);
    enum rc rc = asset ? finance_asset(x->value, &a, e) : RC_OK;
    if (rc == RC_OK && asset)
        x->bill->fixed = bill_owned(&a, x->from_s, x->until_s);
    return rc;
}

static const struct known_node *of_task(const struct task *t, const char *name)
{
    for (int i = 0; i < t->n_nodes; i++)
        if (strcmp(t->nodes[i].name, name) == 0)
            return &t->nodes[i];
    return NULL;
}

static enum rc by_token(struct billing *x, const struct known_node *k, struct closing_bill *b, struct error *e)
{
    enum rc rc;
    b->by_tokens = true;
    b->bill.paid_us = 0;
    if (k)
        b->prices = k->prices;
    if (k && k->model[0])
        x->subject[2] = k->model;
    if (finance_says(x, "price", &rc, e))
        rc = finance_prices(x->value, &b->prices, e);
    return rc;
}

static enum rc bill_cb(const struct closing_node *n, struct closing_bill *b, void *arg, struct error *e)
{
    const struct task *t = arg;
    const struct known_node *k = of_task(t, n->node);
    struct billing x = {.t = t,
                        .subject = {n->node, n->pool},
                        .bill = &b->bill,
                        .from_s = n->hour_s,
                        .until_s = n->hour_s + BILL_HOUR_S};
    *b = (struct closing_bill){.by_tokens = false};
    if (n->pool) {
        char *path = spw_asprintf("%s/capacity.db", t->config->state_dir);
        enum rc rc = journal_read_rents(path, n->node, x.from_s, x.until_s, take_rent, &x, e);
        free(path);
        if (rc != RC_OK || b->bill.paid_us > 0)
            return rc;
    }
    enum rc rc;
    if (finance_says(&x, "asset", &rc, e))
        return owned(&x, n, true, e);
    if (rc == RC_OK && finance_says(&x, "rent", &rc, e))
        return rent_of_finance(&x, e);
    if (rc != RC_OK)
        return rc;
    const bool api = k ? !k->local : n->market && strcmp(n->market, "api") == 0;
    return api ? by_token(&x, k, b, e) : owned(&x, n, false, e);
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

static void take_due(int64_t hour_s, void *arg)
{
    struct task *t = arg;
    if (t->n_due < DUE_MAX)
        t->due[t->n_due++] = hour_s;
}

static enum rc close_due(struct task *t)
{
    const int64_t until_s = t->now.ns / NS_PER_S - CLOSE_AFTER_S;
    enum rc rc = closing_due(t->config->ledger_path, until_s, take_due, t, &t->e);
    for (int i = 0; i < t->n_due && rc == RC_OK; i++) {
        const struct closing c = {
            .path = t->config->ledger_path, .hour_s = t->due[i], .now = t->now, .bill = bill_cb, .arg = t};
        unsigned problems = 0;
        rc = closing_hour(&c, &problems, &t->text, &t->e);
        t->closed += rc == RC_OK;
        t->wrong += rc == RC_OK && problems;
        if (rc == RC_CONFLICT) /* by another command, meanwhile */
            rc = RC_OK;
    }
    return rc;
}

/* At most one month, once an hour. */
static enum rc archive_old(struct task *t)
{
    const int64_t now_s = t->now.ns / NS_PER_S;
    int64_t month_s = -1;
    if (!t->config->ledger_keep_months)
        return RC_OK;
    enum rc rc = archive_due(t->config->ledger_path, t->config->ledger_keep_months, now_s, &month_s, &t->e);
    if (rc == RC_OK && month_s >= 0)
        rc = archive_month(t->config->ledger_path, month_s, now_s, &t->archived, &t->e);
    return rc == RC_AGAIN ? RC_OK : rc; /* hours of it are to be closed first */
}

static void run_task(void *arg)
{
    struct task *t = arg;
    t->rc = write_meters(t);
    t->written = t->rc == RC_OK;
    if (t->rc == RC_OK && t->close)
        t->rc = close_due(t);
    if (t->rc == RC_OK && t->close)
        t->rc = archive_old(t);
}

/* What could not be written is measured still. */
static void give_back(struct bookkeeper *b, const struct task *t)
{
    for (int i = 0; i < t->n_nodes; i++)
        for (int k = 0; k < b->n_nodes; k++) {
            struct meter *to = &b->nodes[k].meter;
            const struct meter *m = &t->nodes[i].meter;
            if (strcmp(b->nodes[k].name, t->nodes[i].name) != 0)
                continue;
            to->up_us += m->up_us;
            to->boot_us += m->boot_us;
            to->idle_us += m->idle_us;
            to->busy_us += m->busy_us;
            to->asleep_us += m->asleep_us;
            to->energy_mj += m->energy_mj;
            to->boot_mj += m->boot_mj;
            to->idle_mj += m->idle_mj;
        }
}

static void task_done(enum rc rc, void *arg)
{
    struct task *t = arg;
    struct bookkeeper *b = t->b;
    if (t->close)
        b->closing = false;
    if (rc == RC_OK && t->rc != RC_OK && !b->failing)
        log_error(b->o.log, "books", "the books cannot be kept: tried again", LOG_S("reason", t->e.message));
    b->failing = rc == RC_OK && t->rc != RC_OK;
    if (!t->written)
        give_back(b, t);
    if (t->close && t->rc != RC_OK) /* in the next minute, not in the next hour */
        b->looked_due_s = 0;
    if (t->closed)
        log_info(b->o.log, "books", "hours closed", LOG_I("hours", t->closed), LOG_I("wrong", t->wrong));
    if (t->archived)
        log_info(b->o.log, "books", "an old month has a file of its own now", LOG_I("rows", t->archived));
    if (t->wrong)
        log_warn(b->o.log, "books", "an hour does not close: see spillway ledger verify",
                 LOG_S("problems", t->text.data));
    config_free(t->config);
    strbuf_fini(&t->text);
    free(t->nodes);
    free(t);
}

static struct task *new_task(struct bookkeeper *b, bool close)
{
    struct task *t = spw_calloc(1, sizeof *t);
    t->b = b;
    t->config = config_ref(b->config);
    t->close = close;
    t->now = clock_wall(b->o.clock);
    strbuf_init(&t->text, 65536);
    t->nodes = spw_calloc((size_t)b->n_nodes + 1, sizeof *t->nodes);
    t->n_nodes = b->n_nodes;
    if (b->n_nodes)
        memcpy(t->nodes, b->nodes, (size_t)b->n_nodes * sizeof *t->nodes);
    return t;
}

static void forget_meters(struct bookkeeper *b, int64_t quarter_s)
{
    for (int i = 0; i < b->n_nodes; i++)
        b->nodes[i].meter = (struct meter){.quarter_s = quarter_s};
}

static void hand_over(struct bookkeeper *b, int64_t now_s, bool close)
{
    struct task *t = new_task(b, close);
    b->written_s = now_s;
    if (worker_submit(b->worker, run_task, task_done, t) != RC_OK) { /* a slow disk: next time */
        config_free(t->config);
        strbuf_fini(&t->text);
        free(t->nodes);
        free(t);
        return;
    }
    b->closing = b->closing || close;
    forget_meters(b, now_s / BILL_QUARTER_S * BILL_QUARTER_S);
}

/* At every node, since the last time. Returns the quarter. */
static int64_t look(struct bookkeeper *b, int64_t now_s)
{
    const int64_t now_ns = clock_now(b->o.clock).ns, ns = now_ns - b->last_ns;
    const int64_t quarter_s = now_s / BILL_QUARTER_S * BILL_QUARTER_S;
    b->last_ns = now_ns;
    for (int i = 0; i < nodes_count(b->o.nodes); i++) {
        struct node *n = nodes_at(b->o.nodes, i);
        if (node_is_there(n))
            look_at(b, n, ns);
    }
    for (int i = 0; i < b->n_nodes; i++)
        if (!b->nodes[i].meter.quarter_s)
            b->nodes[i].meter.quarter_s = quarter_s;
    return quarter_s;
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    struct bookkeeper *b = arg;
    const int64_t now_s = clock_wall(b->o.clock).ns / NS_PER_S, quarter_s = look(b, now_s);
    (void)fd, (void)what;
    serve_prices_look(b->prices, b->config->ledger_path, false);
    const bool turned = b->written_s / BILL_QUARTER_S * BILL_QUARTER_S != quarter_s;
    const int64_t due_s = (now_s - CLOSE_AFTER_S) / BILL_HOUR_S;
    const bool close = !b->closing && due_s != b->looked_due_s;
    if (turned || close || now_s - b->written_s >= WRITE_S)
        hand_over(b, now_s, close);
    if (close)
        b->looked_due_s = due_s;
}

enum rc bookkeeper_new(struct bookkeeper **out, const struct bookkeeper_options *o, struct error *e)
{
    const struct timeval look = {LOOK_MS / 1000, LOOK_MS % 1000 * 1000};
    *out = NULL;
    if (o->config->ledger_off)
        return RC_OK;
    struct bookkeeper *b = spw_calloc(1, sizeof *b);
    b->o = *o;
    b->config = config_ref(o->config);
    b->last_ns = clock_now(o->clock).ns;
    b->written_s = clock_wall(o->clock).ns / NS_PER_S;
    enum rc rc = worker_new(&b->worker, "books", o->loop, TASKS_MAX, e);
    const struct serve_prices_options p = {.worker = b->worker, .nodes = o->nodes, .log = o->log, .clock = o->clock};
    if (rc == RC_OK)
        rc = serve_prices_new(&b->prices, &p, o->config->ledger_path, e);
    b->timer = event_new(o->loop, -1, EV_PERSIST, on_look, b);
    if (rc == RC_OK && (!b->timer || event_add(b->timer, &look) != 0))
        rc = error_set(e, RC_IO, "books: the loop takes no timer");
    if (rc != RC_OK) {
        bookkeeper_free(b);
        return rc;
    }
    *out = b;
    return RC_OK;
}

void bookkeeper_take(struct bookkeeper *b, const struct config *c)
{
    if (!b)
        return;
    config_free(b->config);
    b->config = config_ref(c);
}

void bookkeeper_finance_changed(struct bookkeeper *b)
{
    if (b)
        serve_prices_look(b->prices, b->config->ledger_path, true);
}

void bookkeeper_free(struct bookkeeper *b)
{
    if (!b)
        return;
    if (b->timer)
        event_free(b->timer);
    serve_prices_end(b->prices);
    worker_free(b->worker);
    serve_prices_free(b->prices);
    look(b, clock_wall(b->o.clock).ns / NS_PER_S);
    struct task *t = new_task(b, false);
    if (b->worker)
        run_task(t);
    task_done(RC_CANCELLED, t);
    config_free(b->config);
    free(b->nodes);
    free(b);
}
