#include "scheduler/nightly/nightly.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/worker.h"
#include "scheduler/config/change.h"
#include "scheduler/nightly/make.h"
#include "scheduler/nightly/schedule.h"
#include "scheduler/nightly/send.h"
#include "scheduler/report/report.h"

#define LOOK_MS    1000
#define AGAIN_S    60 /* what could not be made, or waits for hours, is looked at again */
#define ORDERS_MAX 8
#define BATCH      50 /* deliveries of one task */
#define DAY_S      INT64_C(86400)
#define PERIOD_MAX 48

struct stats {
    uint64_t made, failed;
    uint64_t sent[OUTBOX_KINDS], tried[OUTBOX_KINDS], given_up[OUTBOX_KINDS]; /* tried: in vain */
    int64_t due_s; /* the first night that is not done; 0: none */
    struct outbox_counts counts[OUTBOX_KINDS];
};
struct courier { /* of one kind of deliveries */
    struct nightly *n;
    enum outbox_kind kind;
    struct worker *worker;
    int64_t next_s;   /* when to look; INT64_MAX: when something was made */
    int misses;       /* its thread's: times in a row that nobody was there, whoever was to be served */
    bool busy, hurry; /* hurry: other settings, what waits is tried at once */
};
struct nightly {
    struct nightly_options o;
    struct config *config; /* a reference */
    struct event *timer;
    struct worker *maker;
    struct courier couriers[OUTBOX_KINDS];
    int64_t look_s; /* when nights are looked at again; 0: now, with other settings */
    bool making, failing, stop;
    struct make_task *orders[ORDERS_MAX]; /* under way */
    int n_orders;
    pthread_mutex_t counting; /* held by who counts until it is told: the newest count is told last */
    pthread_mutex_t lock;     /* of stats */
    struct stats stats;
};

char *nightly_outbox(const struct config *c)
{
    return spw_asprintf("%s/reports.db", c->state_dir);
}

/* On any of the threads. */
static enum rc count_deliveries(struct nightly *n, struct outbox *box, struct error *e)
{
    struct outbox_counts counts[OUTBOX_KINDS];
    pthread_mutex_lock(&n->counting);
    const enum rc rc = outbox_count(box, counts, e);
    pthread_mutex_lock(&n->lock);
    if (rc == RC_OK)
        memcpy(n->stats.counts, counts, sizeof counts);
    pthread_mutex_unlock(&n->lock);
    pthread_mutex_unlock(&n->counting);
    return rc;
}

/* ---- making, on its thread ---------------------------------------------------------------------------------------- */

struct make_task {
    struct nightly *n;
    struct config *config; /* a reference */
    struct wall now;
    char *order, *team; /* of an order; order NULL: the nights that are due */
    nightly_order_cb *cb;
    void *arg;
    char period[PERIOD_MAX]; /* of an order: what it was */
    int made, skipped;
    bool waits;
    int64_t due_s;
    char skipped_why[sizeof(((struct error *)NULL)->message)];
    enum rc rc;
    struct error e;
};

static bool stopped(const struct make_task *t)
{
    return __atomic_load_n(&t->n->stop, __ATOMIC_RELAXED);
}

/* Of everything, then of each team, what was not made before. False: it has to be tried again. */
static bool make_period(struct make_task *t, struct outbox *box, const char *period, int64_t wait_until_s)
{
    const struct config_reports *c = &t->config->reports;
    for (int i = -1; i < c->n_teams && t->rc == RC_OK && !t->waits && !stopped(t); i++) {
        const struct config_report_team *team = i < 0 ? NULL : &c->teams[i];
        bool made = false, has = false;
        t->rc = outbox_has(box, period, team ? team->team : NULL, &has, &t->e);
        if (t->rc != RC_OK || has)
            continue;
        const struct make_order o = {.config = t->config,
                                     .outbox = box,
                                     .period = period,
                                     .team = team,
                                     .now = t->now,
                                     .wait_until_s = wait_until_s,
                                     .why = OUTBOX_NIGHTLY};
        t->rc = make_report(&o, &made, &t->e);
        if (t->rc == RC_INVALID) { /* a date that the zone left out, or no more: it will never make sense */
            t->skipped++;
            snprintf(t->skipped_why, sizeof t->skipped_why, "%s", t->e.message);
            t->rc = RC_OK;
            break;
        }
        t->made += made;
        t->waits = t->rc == RC_OK && !made;
    }
    return t->rc == RC_OK && !t->waits && !stopped(t);
}

static void make_nights(struct make_task *t, struct outbox *box)
{
    const struct config_reports *c = &t->config->reports;
    const struct schedule s = {.at_s = c->at_s, .zone = c->zone, .by_day = c->by_day, .by_month = c->by_month};
    const int64_t now_s = t->now.ns / NS_PER_S;
    struct schedule_night nights[SCHEDULE_NIGHTS_MAX];
    int64_t done_s;
    t->rc = outbox_done(box, &done_s, &t->e);
    if (t->rc == RC_OK && done_s < 0) { /* the first start: from the next night on */
        done_s = now_s;
        t->rc = outbox_set_done(box, done_s, &t->e);
    }
    const int n = t->rc == RC_OK ? schedule_due(&s, done_s, now_s, nights, &t->due_s) : 0;
    for (int i = 0; i < n; i++) {
        const int64_t wait_until_s = nights[i].at_s + NIGHTLY_WAIT_S;
        if ((nights[i].day[0] && !make_period(t, box, nights[i].day, wait_until_s)) ||
            (nights[i].month[0] && !make_period(t, box, nights[i].month, wait_until_s))) {
            t->due_s = nights[i].at_s;
            return;
        }
        t->rc = outbox_set_done(box, nights[i].at_s, &t->e);
        if (t->rc != RC_OK)
            return;
    }
}

static void make_order(struct make_task *t, struct outbox *box)
{
    const struct config_reports *c = &t->config->reports;
    const struct config_report_team *team = NULL;
    bool made;
    for (int i = 0; i < c->n_teams && t->team; i++)
        team = strcmp(c->teams[i].team, t->team) == 0 ? &c->teams[i] : team;
    const struct make_order o = {
        .config = t->config, .outbox = box, .period = t->order, .team = team, .now = t->now, .why = OUTBOX_AGAIN};
    t->rc = make_report(&o, &made, &t->e);
    t->made += t->rc == RC_OK;
}

static void drop_files(const char *files, void *arg)
{
    const struct config *c = arg;
    for (const char *at = files; *at; at += strcspn(at, "\n"), at += *at == '\n') {
        char *path = spw_asprintf("%s/%.*s", c->reports.folder, (int)strcspn(at, "\n"), at);
        unlink(path);
        free(path);
    }
}

static void run_make(void *arg)
{
    struct make_task *t = arg;
    struct outbox *box = NULL;
    char *path = nightly_outbox(t->config);
    t->rc = outbox_open(&box, path, &t->e);
    free(path);
    if (t->rc == RC_OK && t->order)
        make_order(t, box);
    else if (t->rc == RC_OK)
        make_nights(t, box);
    if (t->rc == RC_OK && t->config->reports.keep_days)
        t->rc = outbox_forget(box, t->now.ns / NS_PER_S - t->config->reports.keep_days * DAY_S, drop_files, t->config,
                              &t->e);
    if (t->rc == RC_OK)
        t->rc = count_deliveries(t->n, box, &t->e);
    outbox_close(box);
}

/* ---- making, on the loop ------------------------------------------------------------------------------------------ */

static void tell_order(struct nightly *n, struct make_task *t, const struct error *e)
{
    for (int i = 0; i < n->n_orders; i++)
        if (n->orders[i] == t)
            n->orders[i] = n->orders[--n->n_orders];
    if (t->cb)
        t->cb(t->period, e, t->arg);
}

static void note_made(struct nightly *n, const struct make_task *t)
{
    pthread_mutex_lock(&n->lock);
    n->stats.made += (uint64_t)t->made;
    n->stats.failed += t->rc != RC_OK;
    if (!t->order)
        n->stats.due_s = t->due_s;
    pthread_mutex_unlock(&n->lock);
    for (int k = 0; k < OUTBOX_KINDS && t->made; k++)
        n->couriers[k].next_s = 0;
}

static void free_task(struct make_task *t)
{
    config_free(t->config);
    free(t->order);
    free(t->team);
    free(t);
}

static void make_done(enum rc rc, void *arg)
{
    struct make_task *t = arg;
    struct nightly *n = t->n;
    if (!t->order)
        n->making = false;
    if (rc == RC_OK) {
        note_made(n, t);
        if (t->made)
            log_info(n->o.log, "report", "cost reports were made", LOG_I("rows", t->made));
        if (t->skipped)
            log_warn(n->o.log, "report", "a report that was due makes no sense and is left out",
                     LOG_S("reason", t->skipped_why));
        if (t->rc != RC_OK && (t->order || !n->failing))
            log_error(n->o.log, "report", "a report cannot be made: tried again", LOG_S("reason", t->e.message));
        if (!t->order) {
            n->failing = t->rc != RC_OK;
            if (n->look_s > 0) /* 0: a reload came meanwhile */
                n->look_s = t->rc == RC_OK && !t->waits ? t->due_s : clock_wall(n->o.clock).ns / NS_PER_S + AGAIN_S;
        }
    }
    if (t->order) {
        if (rc != RC_OK)
            (void)error_set(&t->e, rc, "the scheduler ends");
        tell_order(n, t, rc == RC_OK && t->rc == RC_OK ? NULL : &t->e);
    }
    free_task(t);
}

static struct make_task *new_task(struct nightly *n)
{
    struct make_task *t = spw_calloc(1, sizeof *t);
    t->n = n;
    t->config = config_ref(n->config);
    t->now = clock_wall(n->o.clock);
    return t;
}

static void look_at_nights(struct nightly *n, int64_t now_s)
{
    /* Also when the clock was put back by more than a day: what was to come next is far away then. */
    if (n->config->reports.at_s < 0 || n->making || (now_s < n->look_s && n->look_s < now_s + 2 * DAY_S))
        return;
    struct make_task *t = new_task(n);
    n->look_s = 1;
    n->making = worker_submit(n->maker, run_make, make_done, t) == RC_OK;
    if (!n->making)
        free_task(t);
}

static bool has_team(const struct config *c, const char *team)
{
    for (int i = 0; i < c->reports.n_teams; i++)
        if (strcmp(c->reports.teams[i].team, team) == 0)
            return true;
    return false;
}

enum rc nightly_order(struct nightly *n, const char *period, const char *team, nightly_order_cb *cb, void *arg,
                      struct error *e)
{
    struct report_period p;
    enum rc rc = report_period_parse(period, n->config->reports.zone, clock_wall(n->o.clock).ns / NS_PER_S, &p, e);
    if (rc != RC_OK)
        return rc;
    if (team && !has_team(n->config, team))
        return error_set(e, RC_NOT_FOUND, "reports.teams of the configuration has no team \"%.64s\"", team);
    if (n->n_orders == ORDERS_MAX)
        return error_set(e, RC_FULL, "%d reports are being made already; try again", ORDERS_MAX);
    struct make_task *t = new_task(n);
    snprintf(t->period, sizeof t->period, "%s", p.name);
    t->order = spw_strdup(period);
    t->team = team ? spw_strdup(team) : NULL;
    t->cb = cb;
    t->arg = arg;
    rc = worker_submit(n->maker, run_make, make_done, t);
    if (rc == RC_OK)
        n->orders[n->n_orders++] = t;
    else
        free_task(t);
    return rc == RC_OK ? RC_OK : error_set(e, RC_FULL, "others are being made; try again");
}

void nightly_order_forget(struct nightly *n, const void *arg)
{
    for (int i = 0; i < n->n_orders; i++)
        if (n->orders[i]->arg == arg)
            n->orders[i]->cb = NULL;
}

/* ---- sending, on its thread --------------------------------------------------------------------------------------- */

struct send_task {
    struct courier *courier;
    struct config *config; /* a reference */
    bool hurry;
    uint64_t sent, tried, given_up;
    int64_t next_s;
    int attempts; /* of the last that failed */
    char why[sizeof(((struct error *)NULL)->message)];
    enum rc rc;
    struct error e;
};

static uint32_t random_of(const struct outbox_item *item, int64_t now_s)
{
    uint32_t v = (uint32_t)now_s * 2654435761u + (uint32_t)item->id; /* spreads, and need not be a secret */
    v ^= v >> 15;
    v *= 0x2c1b3c6du;
    return v ^ v >> 12;
}

/* False: the others of its kind would fare no better now. */
static bool send_one(struct send_task *t, struct outbox *box, const struct outbox_item *item, int64_t now_s)
{
    struct nightly *n = t->courier->n;
    struct error e;
    const int64_t until_s = item->since_s + t->config->reports.retry_ms / 1000;
    const enum rc rc = send_item(&t->config->reports, item, &n->stop, &e);
    if (rc == RC_CANCELLED)
        return false;
    const bool nobody = rc == RC_IO || rc == RC_TIMEOUT;
    t->courier->misses = nobody ? t->courier->misses + 1 : 0;
    int64_t next_s = now_s + outbox_backoff_s(nobody ? t->courier->misses : item->tries + 1, random_of(item, now_s));
    const enum outbox_state state = rc == RC_OK ? OUTBOX_SENT : now_s >= until_s ? OUTBOX_GIVEN_UP : OUTBOX_WAITING;
    next_s = next_s < until_s || now_s >= until_s ? next_s : until_s;
    t->rc = outbox_note(box, item->id, state, rc == RC_OK ? "" : e.message, clock_wall(n->o.clock).ns / NS_PER_S,
                        next_s, &t->e);
    t->sent += rc == RC_OK;
    t->tried += rc != RC_OK;
    t->given_up += state == OUTBOX_GIVEN_UP;
    if (rc != RC_OK) {
        snprintf(t->why, sizeof t->why, "%s", e.message);
        t->attempts = item->tries + 1;
    }
    if (!nobody)
        return t->rc == RC_OK;
    if (t->rc == RC_OK)
        t->rc = outbox_postpone(box, item->kind, next_s, &t->e);
    return false;
}

static void run_send(void *arg)
{
    struct send_task *t = arg;
    const struct nightly *n = t->courier->n;
    struct outbox *box = NULL;
    char *path = nightly_outbox(t->config);
    t->rc = outbox_open(&box, path, &t->e);
    free(path);
    if (t->rc == RC_OK && t->hurry) {
        t->courier->misses = 0;
        t->rc = outbox_hurry(box, t->courier->kind, clock_wall(n->o.clock).ns / NS_PER_S, &t->e);
    }
    bool more = t->rc == RC_OK;
    t->next_s = 0;
    for (int i = 0; i < BATCH && more && !__atomic_load_n(&n->stop, __ATOMIC_RELAXED); i++) {
        struct outbox_item item;
        const int64_t now_s = clock_wall(n->o.clock).ns / NS_PER_S;
        t->rc = outbox_take(box, t->courier->kind, now_s, &item, &t->next_s, &t->e);
        more = t->rc == RC_OK && send_one(t, box, &item, now_s);
        outbox_item_fini(&item);
    }
    if (t->rc == RC_NOT_FOUND)
        t->rc = RC_OK;
    if (t->rc == RC_OK)
        t->rc = count_deliveries(t->courier->n, box, &t->e);
    outbox_close(box);
}

/* ---- sending, on the loop ----------------------------------------------------------------------------------------- */

static void send_done(enum rc rc, void *arg)
{
    struct send_task *t = arg;
    struct courier *c = t->courier;
    struct nightly *n = c->n;
    const char *by = outbox_kind_name(c->kind);
    c->busy = false;
    if (rc == RC_OK) {
        pthread_mutex_lock(&n->lock);
        n->stats.sent[c->kind] += t->sent;
        n->stats.tried[c->kind] += t->tried;
        n->stats.given_up[c->kind] += t->given_up;
        pthread_mutex_unlock(&n->lock);
        if (c->next_s > 0) /* 0: something was made meanwhile */
            c->next_s = t->next_s;
        if (t->sent)
            log_info(n->o.log, "report", "reports were delivered", LOG_S("what", by), LOG_I("rows", t->sent));
        if (t->tried)
            log_warn(n->o.log, "report",
                     t->given_up ? "a report could not be delivered and is given up"
                                 : "a report could not be delivered: tried again later",
                     LOG_S("what", by), LOG_S("reason", t->why), LOG_I("attempts", t->attempts));
        if (t->rc != RC_OK) {
            log_error(n->o.log, "report", "the outbox cannot be used: tried again", LOG_S("reason", t->e.message));
            c->next_s = clock_wall(n->o.clock).ns / NS_PER_S + AGAIN_S;
        }
    }
    config_free(t->config);
    free(t);
}

static void look_at_deliveries(struct courier *c, int64_t now_s)
{
    if (c->busy || now_s < c->next_s)
        return;
    struct send_task *t = spw_calloc(1, sizeof *t);
    t->courier = c;
    t->config = config_ref(c->n->config);
    t->hurry = c->hurry;
    c->hurry = false;
    c->next_s = 1;
    c->busy = worker_submit(c->worker, run_send, send_done, t) == RC_OK;
    if (!c->busy) {
        config_free(t->config);
        free(t);
    }
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    struct nightly *n = arg;
    const int64_t now_s = clock_wall(n->o.clock).ns / NS_PER_S;
    (void)fd, (void)what;
    look_at_nights(n, now_s);
    for (int k = 0; k < OUTBOX_KINDS; k++)
        look_at_deliveries(&n->couriers[k], now_s);
}

/* ---- life --------------------------------------------------------------------------------------------------------- */

enum rc nightly_new(struct nightly **out, const struct nightly_options *o, struct error *e)
{
    static const char *const threads[OUTBOX_KINDS] = {"reports-mail", "reports-hook"};
    const struct timeval look = {LOOK_MS / 1000, LOOK_MS % 1000 * 1000};
    *out = NULL;
    if (o->config->ledger_off)
        return RC_OK;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return error_set(e, RC_IO, "libcurl does not start");
    struct nightly *n = spw_calloc(1, sizeof *n);
    n->o = *o;
    n->config = config_ref(o->config);
    pthread_mutex_init(&n->counting, NULL);
    pthread_mutex_init(&n->lock, NULL);
    enum rc rc = worker_new(&n->maker, "reports", o->loop, ORDERS_MAX + 1, e);
    for (int k = 0; k < OUTBOX_KINDS; k++) {
        n->couriers[k] = (struct courier){.n = n, .kind = (enum outbox_kind)k};
        if (rc == RC_OK)
            rc = worker_new(&n->couriers[k].worker, threads[k], o->loop, 1, e);
    }
    n->timer = event_new(o->loop, -1, EV_PERSIST, on_look, n);
    if (rc == RC_OK && (!n->timer || event_add(n->timer, &look) != 0))
        rc = error_set(e, RC_IO, "reports: the loop takes no timer");
    if (rc != RC_OK) {
        nightly_free(n);
        return rc;
    }
    *out = n;
    return RC_OK;
}

void nightly_take(struct nightly *n, const struct config *c)
{
    if (!n)
        return;
    const bool other = config_settings_differ(n->config, c, "reports.");
    config_free(n->config);
    n->config = config_ref(c);
    n->look_s = 0;
    for (int k = 0; k < OUTBOX_KINDS && other; k++) {
        n->couriers[k].next_s = 0;
        n->couriers[k].hurry = true;
    }
}

void nightly_free(struct nightly *n)
{
    if (!n)
        return;
    if (n->timer)
        event_free(n->timer);
    __atomic_store_n(&n->stop, true, __ATOMIC_RELAXED);
    for (int k = 0; k < OUTBOX_KINDS; k++)
        worker_free(n->couriers[k].worker);
    worker_free(n->maker);
    config_free(n->config);
    pthread_mutex_destroy(&n->counting);
    pthread_mutex_destroy(&n->lock);
    free(n);
    curl_global_cleanup();
}

/* ---- metrics ------------------------------------------------------------------------------------------------------ */

static enum rc put_head(struct strbuf *out, const char *name, const char *type, const char *help)
{
    return strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static enum rc put_one(struct strbuf *out, const char *name, const char *type, const char *help, uint64_t v)
{
    enum rc rc = put_head(out, name, type, help);
    return rc == RC_OK ? strbuf_printf(out, "%s %" PRIu64 "\n", name, v) : rc;
}

static enum rc put_deliveries(struct strbuf *out, const struct stats *s)
{
    enum rc rc = put_head(out, "spillway_report_deliveries_total", "counter",
                          "Tries to deliver a report, by what became of them; given_up: the last one.");
    for (int k = 0; k < OUTBOX_KINDS && rc == RC_OK; k++) {
        const char *by = outbox_kind_name((enum outbox_kind)k);
        rc = strbuf_printf(out,
                           "spillway_report_deliveries_total{by=\"%s\",result=\"sent\"} %" PRIu64 "\n"
                           "spillway_report_deliveries_total{by=\"%s\",result=\"failed\"} %" PRIu64 "\n"
                           "spillway_report_deliveries_total{by=\"%s\",result=\"given_up\"} %" PRIu64 "\n",
                           by, s->sent[k], by, s->tried[k] - s->given_up[k], by, s->given_up[k]);
    }
    if (rc == RC_OK)
        rc = put_head(out, "spillway_report_deliveries_waiting", "gauge", "Deliveries that wait to be tried.");
    for (int k = 0; k < OUTBOX_KINDS && rc == RC_OK; k++)
        rc = strbuf_printf(out, "spillway_report_deliveries_waiting{by=\"%s\"} %" PRId64 "\n",
                           outbox_kind_name((enum outbox_kind)k), s->counts[k].waiting);
    if (rc == RC_OK)
        rc = put_head(out, "spillway_report_deliveries_failing", "gauge", "Of these, tried in vain before.");
    for (int k = 0; k < OUTBOX_KINDS && rc == RC_OK; k++)
        rc = strbuf_printf(out, "spillway_report_deliveries_failing{by=\"%s\"} %" PRId64 "\n",
                           outbox_kind_name((enum outbox_kind)k), s->counts[k].failing);
    return rc;
}

enum rc nightly_metrics(const void *arg, struct strbuf *out)
{
    struct nightly *n = (struct nightly *)(uintptr_t)arg; /* its lock */
    const int64_t now_s = clock_wall(n->o.clock).ns / NS_PER_S;
    pthread_mutex_lock(&n->lock);
    const struct stats s = n->stats;
    pthread_mutex_unlock(&n->lock);
    const uint64_t late = s.due_s && now_s > s.due_s ? (uint64_t)(now_s - s.due_s) : 0;
    enum rc rc = put_one(out, "spillway_reports_made_total", "counter", "Cost reports that were made.", s.made);
    if (rc == RC_OK)
        rc = put_one(out, "spillway_reports_failed_total", "counter", "Times that one could not be made.", s.failed);
    if (rc == RC_OK)
        rc = put_one(out, "spillway_reports_late_seconds", "gauge",
                     "How long the oldest report that is not made has been due.", late);
    return rc == RC_OK ? put_deliveries(out, &s) : rc;
}
