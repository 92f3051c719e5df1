/* Redis has no epoch: it is new, or has lost its data. Each scheduler tells what its ledger says was spent, and what
 * its requests hold now, which counts as spent from here on: their new reservations are beside it. A thread of its own,
 * with a connection of its own, because reading a ledger blocks. Also the one question at start. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "scheduler/books/ledger_budgets.h"
#include "scheduler/budgets/redis_internal.h"
#include "scheduler/budgets/redis_script.h"
#include "scheduler/redis/dial.h"

#define SINCE_S     (INT64_C(70) * 86400) /* a month and the one before */
#define KEEP_TOLD_S (INT64_C(130) * 86400)
#define PER_STEP    24
#define BLOCK_S     5

/* ---- what there is to tell -------------------------------------------------------------------------------------- */

struct figure {
    char name[BUDGET_NAME_BYTES];
    int64_t start_s;
    struct pusd spent, waste, topped_up;
};
struct limit_figure {
    char name[BUDGET_NAME_BYTES];
    struct pusd hard, soft;
};
struct rebuild_figures {
    int n, room, n_limits, limits_room;
    struct figure *list;
    struct limit_figure *limits;
};

static void figures_free(struct rebuild_figures *f)
{
    if (!f)
        return;
    free(f->list);
    free(f->limits);
    free(f);
}

static struct pusd sum(struct pusd a, struct pusd b)
{
    int64_t v;
    return (struct pusd){__builtin_add_overflow(a.v, b.v, &v) ? INT64_MAX : v};
}

/* The figure of a budget in a period, made where there is none. Few budgets are held at once; the ledger's totals come
 * each once and go on behind them. */
static struct figure *figure_of(struct rebuild_figures *f, int among, const char *name, int64_t start_s)
{
    for (int i = 0; i < among; i++)
        if (f->list[i].start_s == start_s && strcmp(f->list[i].name, name) == 0)
            return &f->list[i];
    if (f->n == f->room) {
        f->room = f->room ? 2 * f->room : 64;
        f->list = spw_realloc(f->list, (size_t)f->room * sizeof f->list[0]);
    }
    struct figure *new = &f->list[f->n++];
    *new = (struct figure){.start_s = start_s};
    snprintf(new->name, sizeof new->name, "%s", name);
    return new;
}

/* All that is granted counts as spent from now on. With the lock. */
static struct rebuild_figures *take_holds(struct redis_store *s)
{
    struct rebuild_figures *f = spw_calloc(1, sizeof *f);
    struct redis_hold *h;
    TAILQ_FOREACH(h, &s->holds, entry)
    {
        for (int i = 0; i < h->pub.n; i++) {
            struct figure *x = figure_of(f, f->n, h->pub.of[i].name, h->pub.of[i].start_s);
            x->spent = sum(x->spent, (struct pusd){h->pub.granted.v - h->leased.v});
        }
        h->lost = h->pub.granted;
        h->leased.v = 0;
        h->in_redis = false;
    }
    const struct lease *l;
    TAILQ_FOREACH(l, &s->leases, entry)
    {
        if (l->held.v + l->used.v == 0)
            continue;
        struct figure *x = figure_of(f, f->n, l->claim.name, l->claim.c.start_s);
        x->spent = sum(x->spent, sum(l->held, l->used));
    }
    leases_void(s);
    return f;
}

struct reading {
    struct rebuild_figures *f;
    int held; /* figures that were there before */
};

static void on_total(const struct ledger_budget_total *t, void *arg)
{
    struct reading *r = arg;
    struct figure *x = figure_of(r->f, r->held, t->name, t->start_s);
    x->spent = sum(x->spent, t->spent);
    x->waste = sum(x->waste, t->waste);
    x->topped_up = sum(x->topped_up, t->topped_up);
}

static void on_limits(const struct ledger_budget_limits *l, void *arg)
{
    struct rebuild_figures *f = ((struct reading *)arg)->f;
    if (f->n_limits == f->limits_room) {
        f->limits_room = f->limits_room ? 2 * f->limits_room : 16;
        f->limits = spw_realloc(f->limits, (size_t)f->limits_room * sizeof f->limits[0]);
    }
    struct limit_figure *x = &f->limits[f->n_limits++];
    *x = (struct limit_figure){.hard = l->hard, .soft = l->soft};
    snprintf(x->name, sizeof x->name, "%s", l->name);
}

/* The held ones, and the ledger's. Caller frees. NULL: the ledger cannot be read. */
static struct rebuild_figures *gather(const struct redis_store *s, struct error *e)
{
    struct rebuild_figures *f = spw_calloc(1, sizeof *f);
    for (int i = 0; i < s->figures->n; i++)
        *figure_of(f, 0, "", 0) = s->figures->list[i];
    struct reading r = {.f = f, .held = f->n};
    struct ledger_budget_reader reader = {.total = on_total, .limits = on_limits, .arg = &r};
    int64_t since = clock_wall(s->o.clock).ns / NS_PER_S - SINCE_S;
    if (s->o.ledger && ledger_read_budgets(s->o.ledger, since, &reader, e) != RC_OK) {
        figures_free(f);
        return NULL;
    }
    return f;
}

/* ---- a blocking connection -------------------------------------------------------------------------------------- */

static redisReply *command(redisContext *c, int argc, const char **argv, const size_t *lengths)
{
    return redisCommandArgv(c, argc, argv, lengths);
}

static redisReply *words(redisContext *c, const char *a, const char *b, const char *d)
{
    const char *argv[] = {a, b, d};
    const size_t lengths[] = {strlen(a), b ? strlen(b) : 0, d ? strlen(d) : 0};
    return command(c, d ? 3 : b ? 2 : 1, argv, lengths);
}

static enum rc introduce(redisContext *c, const struct redis_store_options *o, struct error *e)
{
    char db[16];
    enum rc rc = RC_OK;
    redisReply *r = o->password
                        ? o->username ? words(c, "AUTH", o->username, o->password) : words(c, "AUTH", o->password, NULL)
                        : words(c, "PING", NULL, NULL);
    snprintf(db, sizeof db, "%d", o->db);
    if (!r)
        rc = error_set(e, RC_IO, "%s:%d: %s", o->host, o->port, c->errstr);
    else if (r->type == REDIS_REPLY_ERROR)
        rc = strncmp(r->str, "LOADING", 7) == 0
                 ? error_set(e, RC_IO, "%s:%d: %.200s", o->host, o->port, r->str)
                 : error_set(e, RC_UNSUPPORTED, "%s:%d: %.200s", o->host, o->port, r->str);
    if (r)
        freeReplyObject(r);
    if (rc != RC_OK || !o->db)
        return rc;
    r = words(c, "SELECT", db, NULL);
    if (!r || r->type != REDIS_REPLY_STATUS)
        rc = error_set(e, RC_UNSUPPORTED, "%s:%d: SELECT %s: %.200s", o->host, o->port, db, r ? r->str : c->errstr);
    if (r)
        freeReplyObject(r);
    return rc;
}

static enum rc connect_blocking(const struct redis_store_options *o, struct redis_dialed *d, struct error *e)
{
    const struct redis_dial how = {.host = o->host, .port = o->port, .tls = o->tls, .limit_s = BLOCK_S};
    enum rc rc = redis_dial(d, &how, e);
    if (rc != RC_OK) {
        char why[160];
        snprintf(why, sizeof why, "%.150s", e->message);
        return error_set(e, RC_IO, "%s:%d: %s", o->host, o->port, why);
    }
    rc = introduce(d->c, o, e);
    if (rc == RC_IO && redis_dialed_why(d)[0])
        rc = error_set(e, RC_IO, "%s:%d: %s", o->host, o->port, redis_dialed_why(d));
    if (rc != RC_OK)
        redis_hang_up(d);
    return rc;
}

enum rc redis_store_check(const struct redis_store_options *o, struct error *e)
{
    struct redis_dialed d;
    enum rc rc = connect_blocking(o, &d, e);
    redisContext *c = d.c;
    for (int i = 0; i < 3 && rc == RC_OK; i++) {
        redisReply *r = words(c, "CONFIG", "GET", persistence_names[i]);
        const char *why = persistence_wrong(persistence_names[i], reply_text(r, 1));
        if (!r)
            rc = error_set(e, RC_IO, "%s:%d: %s", o->host, o->port, c->errstr);
        else if (r->type == REDIS_REPLY_ERROR || !reply_text(r, 0)[0])
            rc = error_set(
                e, RC_UNSUPPORTED,
                "%s:%d: this Redis does not tell whether it keeps what it is told: allow CONFIG GET to the user",
                o->host, o->port);
        else if (why)
            rc = error_set(e, RC_UNSUPPORTED, "%s:%d: %s", o->host, o->port, why);
        if (r)
            freeReplyObject(r);
    }
    redis_hang_up(&d);
    return rc;
}

/* ---- telling ---------------------------------------------------------------------------------------------------- */

static enum rc call(redisContext *c, const struct wire *w, const char *right, struct error *e)
{
    redisReply *r = command(c, w->n, (const char **)w->argv, w->lengths);
    enum rc rc = RC_OK;
    if (!r)
        rc = error_set(e, RC_IO, "%s", c->errstr);
    else if (r->type == REDIS_REPLY_ERROR)
        rc = error_set(e, RC_IO, "%.300s", r->str);
    else if (!reply_is(r, "ok") && !reply_is(r, right)) /* "epoch": others have opened it, or begun anew */
        rc = error_set(e, RC_AGAIN, "%s", reply_text(r, 0));
    if (r)
        freeReplyObject(r);
    return rc;
}

static enum rc tell_some(const struct redis_store *s, redisContext *c, const char *sha, const struct figure *list,
                         int n, const struct limit_figure *limits, int n_limits, struct error *e)
{
    struct wire w;
    wire_begin(&w, sha, n, s->telling, "-");
    for (int i = 0; i < n; i++)
        wire_key(&w, s->telling, list[i].name, list[i].start_s);
    wire_call(&w, "part", s->telling, "-", "0");
    wire_text(&w, s->o.name);
    for (int i = 0; i < n; i++) {
        wire_int(&w, KEEP_TOLD_S);
        wire_int(&w, list[i].spent.v);
        wire_int(&w, list[i].waste.v);
        wire_int(&w, list[i].topped_up.v);
    }
    for (int i = 0; i < n_limits; i++) {
        wire_text(&w, limits[i].name);
        wire_int(&w, limits[i].hard.v);
        wire_int(&w, limits[i].soft.v);
    }
    return call(c, &w, "ok", e);
}

static enum rc tell(struct redis_store *s, redisContext *c, const struct rebuild_figures *f, struct error *e)
{
    char sha[48] = "";
    redisReply *r = redisCommand(c, "SCRIPT LOAD %b", redis_script_text, redis_script_length);
    if (r && r->type == REDIS_REPLY_STRING)
        snprintf(sha, sizeof sha, "%s", r->str);
    if (r)
        freeReplyObject(r);
    enum rc rc = sha[0] ? RC_OK : error_set(e, RC_IO, "the script of budgets is not taken");
    for (int i = 0; i < f->n && rc == RC_OK; i += PER_STEP)
        rc = tell_some(s, c, sha, f->list + i, f->n - i < PER_STEP ? f->n - i : PER_STEP, NULL, 0, e);
    for (int i = 0; i < f->n_limits && rc == RC_OK; i += PER_STEP)
        rc = tell_some(s, c, sha, NULL, 0, f->limits + i, f->n_limits - i < PER_STEP ? f->n_limits - i : PER_STEP, e);
    if (rc != RC_OK)
        return rc;
    struct wire w;
    wire_begin(&w, sha, 0, s->telling, "-");
    wire_call(&w, "open", s->telling, "-", "0");
    wire_text(&w, s->o.name);
    wire_int(&w, s->o.ledgers);
    return call(c, &w, "closed", e);
}

static void *rebuild_main(void *arg)
{
    struct redis_store *s = arg;
    struct error e = {0};
    struct redis_dialed d;
    enum rc rc = connect_blocking(&s->o, &d, &e);
    struct rebuild_figures *f = rc == RC_OK ? gather(s, &e) : NULL;
    if (f)
        rc = tell(s, d.c, f, &e);
    else if (rc == RC_OK)
        rc = RC_IO;
    redis_hang_up(&d);
    if (rc == RC_OK) {
        s->told = true;
        s->rebuilds++;
        log_info(s->o.log, "budget", "told redis what the ledger knows of budgets", LOG_I("budgets", f->n));
    } else if (rc != RC_AGAIN) {
        log_warn(s->o.log, "budget", "could not tell redis what the ledger knows of budgets", LOG_S("why", e.message));
    }
    figures_free(f);
    s->rebuilding = false;
    return NULL;
}

/* The thread has ended, or is about to. */
static void reap(struct redis_store *s)
{
    if (s->rebuilder_started)
        pthread_join(s->rebuilder, NULL);
    s->rebuilder_started = false;
}

/* Whoever gets `rebuilding` owns the thread and all that belongs to it. */
void rebuild_start(struct redis_store *s, const char *epoch)
{
    if (atomic_exchange(&s->rebuilding, true))
        return;
    pthread_mutex_lock(&s->lock);
    reap(s);
    bool another = strcmp(s->telling, epoch) != 0;
    if (another) {
        figures_free(s->figures);
        s->figures = take_holds(s);
        snprintf(s->telling, sizeof s->telling, "%s", epoch);
        s->told = false;
    }
    s->rebuilder_started =
        !s->told && !s->ending && thread_start(&s->rebuilder, "budget-rebuild", rebuild_main, s) == 0;
    if (!s->rebuilder_started)
        s->rebuilding = false;
    pthread_mutex_unlock(&s->lock);
}

void rebuild_stop(struct redis_store *s)
{
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    reap(s);
    figures_free(s->figures);
    s->figures = NULL;
    pthread_mutex_unlock(&s->lock);
}
