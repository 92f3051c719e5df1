/* The fleet as a whole: put together from journal and configuration, ticked, taken apart, and looked at from outside. */
#include "scheduler/capacity/fleet.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define TICK_MS     200  /* lives and pressure are looked at */
#define PLAN_GAP_MS 300  /* between two plans, however pressing */
#define LADDER_MS   1000 /* the power ladder... */
#define HURRY_MS    100  /* ...and this at least between two of its plans, while somebody waits */

struct member *fleet_find(const struct fleet *f, const char *name)
{
    struct member *m;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (strcmp(m->name, name) == 0)
            return m;
    }
    return NULL;
}

int64_t fleet_now_s(const struct fleet *f)
{
    return clock_wall(f->o.clock).ns / NS_PER_S;
}

void fleet_plan_soon(struct fleet *f)
{
    f->plan_soon = true;
}

/* ---- the tick ---------------------------------------------------------------------------------------------------- */

static bool is_due(struct mono *last, int64_t ms, struct mono now)
{
    if (last->ns && now.ns - last->ns < ms * NS_PER_MS)
        return false;
    *last = now;
    return true;
}

static void look_at_members(struct fleet *f)
{
    struct member *m, *next;
    for (m = TAILQ_FIRST(&f->members); m; m = next) {
        next = TAILQ_NEXT(m, next);
        member_look(m);
    }
}

static void look_at_pools(struct fleet *f)
{
    struct pool *p;
    struct member *m, *next;
    TAILQ_FOREACH(p, &f->pools, next)
    {
        pool_ask_offers(p);
    }
    for (m = TAILQ_FIRST(&f->members); m; m = next) { /* what the configuration has lost */
        next = TAILQ_NEXT(m, next);
        if (m->pool && !m->pool->config && m->purpose != FOR_END && m->life != LIFE_ENDING)
            member_drain(m, FOR_END, "its pool is not in the configuration any more");
    }
}

static bool plan_is_due(struct fleet *f, struct mono now)
{
    const bool pressed = plan_pressed(f);
    f->plan_soon = f->plan_soon || pressed;
    return is_due(&f->planned, f->plan_soon ? PLAN_GAP_MS : f->config->capacity.interval_ms, now);
}

/* Where somebody waits the ladder plans anew while his first token may still be in time. */
static int64_t ladder_ms(const struct fleet *f)
{
    int64_t ms = LADDER_MS;
    for (int i = 0; i < f->n_markets; i++) {
        const struct market *k = &f->markets[i];
        const int64_t ttft_ms = config_aim(f->config, config_model(f->config, k->model)).ttft_ms;
        if (k->now.waiting > 0 && ttft_ms > 0 && ttft_ms / 4 < ms)
            ms = ttft_ms / 4 > HURRY_MS ? ttft_ms / 4 : HURRY_MS;
    }
    return ms;
}

static void tick(struct fleet *f)
{
    const struct mono now = clock_now(f->o.clock);
    ladder_sync(f);
    look_at_members(f);
    if (f->stopping || f->paused)
        return;
    look_at_pools(f);
    plan_observe(f);
    if (batch_is_due(f, is_due(&f->paced, BATCH_LOOK_MS, now)))
        batch_plan(f);
    if (plan_is_due(f, now)) {
        f->plan_soon = false;
        plan_scale(f);
    }
    if (is_due(&f->powered, ladder_ms(f), now) || f->plan_soon)
        ladder_plan(f);
    if (is_due(&f->swept, f->config->capacity.sweep_ms, now))
        sweep_all(f);
    plan_tell(f);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    tick(arg);
}

/* A node has changed its state: it is looked at now. */
static void on_nodes(void *arg)
{
    struct fleet *f = arg;
    if (!f->stopping && f->soon)
        event_active(f->soon, EV_TIMEOUT, 0);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static struct guard_limits limits_of(const struct config *c)
{
    return (struct guard_limits){.nodes_max = c->capacity.max_nodes,
                                 .hour_max = c->capacity.max_hour,
                                 .launches_per_min = c->capacity.launches_per_min};
}

static enum rc open_all(struct fleet *f, struct error *e)
{
    char *path = spw_asprintf("%s/capacity.db", f->config->state_dir);
    enum rc rc = journal_open(&f->journal, path, f->o.loop, f->o.log, f->owner, e);
    free(path);
    if (rc == RC_OK)
        rc = sources_open(f, f->config, e);
    if (rc != RC_OK)
        return rc;
    pools_take(f, f->config);
    markets_take(f);
    rc = pools_remember(f, e);
    return rc == RC_OK ? journal_each_open(f->journal, launch_recover, f, e) : rc;
}

enum rc fleet_new(struct fleet **out, const struct fleet_options *o, struct error *e)
{
    struct fleet *f = spw_calloc(1, sizeof *f);
    const struct guard_limits limits = limits_of(o->config);
    const struct timeval every = {TICK_MS / 1000, TICK_MS % 1000 * 1000};
    f->o = *o;
    f->config = config_ref(o->config);
    TAILQ_INIT(&f->pools);
    TAILQ_INIT(&f->members);
    f->guard = guard_new(&limits);
    f->plan = spw_calloc(1, sizeof *f->plan);
    f->work = spw_calloc(1, sizeof *f->work);
    f->snapshot = spw_calloc(1, sizeof *f->snapshot);
    f->site = ladder_new();
    enum rc rc = open_all(f, e);
    if (rc != RC_OK) {
        fleet_free(f);
        return rc;
    }
    f->timer = event_new(o->loop, -1, EV_PERSIST, on_timer, f);
    f->soon = evtimer_new(o->loop, on_timer, f);
    event_add(f->timer, &every);
    event_active(f->soon, EV_TIMEOUT, 0);
    nodes_listen(o->nodes, on_nodes, f);
    *out = f;
    return RC_OK;
}

enum rc fleet_take(struct fleet *f, const struct config *c, struct error *e)
{
    enum rc rc = sources_open(f, c, e);
    if (rc != RC_OK)
        return rc;
    struct config *before = f->config;
    const struct guard_limits limits = limits_of(c);
    f->config = config_ref(c);
    guard_set_limits(f->guard, &limits);
    pools_take(f, c);
    markets_take(f);
    config_free(before);
    fleet_plan_soon(f);
    return RC_OK;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void on_stopped(evutil_socket_t fd, short what, void *arg)
{
    struct fleet *f = arg;
    (void)fd, (void)what;
    f->stopped(f->stopped_arg);
}

static void one_stopped(enum provider_failure failure, const char *text, void *arg)
{
    struct fleet *f = arg;
    (void)failure, (void)text;
    if (--f->n_stopping == 0)
        event_active(f->stop_event, EV_TIMEOUT, 0);
}

void fleet_pause(struct fleet *f)
{
    if (f)
        f->paused = true;
}

void fleet_stop(struct fleet *f, int64_t grace_ms, void (*done)(void *arg), void *arg)
{
    struct member *m, *next;
    f->stopping = true;
    f->stopped = done;
    f->stopped_arg = arg;
    f->stop_event = evtimer_new(f->o.loop, on_stopped, f);
    f->n_stopping = 1;
    for (m = TAILQ_FIRST(&f->members); m; m = next) {
        next = TAILQ_NEXT(m, next);
        struct source *s = m->pool ? m->pool->source : NULL;
        if (s && (s->ops->caps & PROVIDER_ENDS_WITH_US) &&
            s->ops->terminate(s->provider, m->name, grace_ms, one_stopped, f) == RC_OK)
            f->n_stopping++;
    }
    one_stopped(PROVIDER_FINE, "", f);
}

void fleet_free(struct fleet *f)
{
    struct member *m;
    if (!f)
        return;
    f->stopping = true;
    nodes_listen(f->o.nodes, NULL, NULL);
    sources_close(f);
    journal_close(f->journal);
    while ((m = TAILQ_FIRST(&f->members)))
        member_free(m);
    pools_free(f);
    guard_free(f->guard);
    for (int i = 0; i < 3; i++) {
        struct event *e = (struct event *[]){f->timer, f->soon, f->stop_event}[i];
        if (e)
            event_free(e);
    }
    config_free(f->config);
    free(f->plan);
    free(f->work);
    free(f->snapshot);
    free(f->site);
    free(f->models);
    free(f->of_node);
    free(f);
}

/* ---- seen from outside ------------------------------------------------------------------------------------------- */

static void view_of(const struct member *m, struct fleet_view *v)
{
    *v = (struct fleet_view){.name = m->name,
                             .pool = m->pool ? m->pool->name : "",
                             .provider = m->pool ? m->pool->source->name : "",
                             .id = m->id,
                             .offer = m->offer,
                             .reason = m->reason,
                             .life = m->life,
                             .since_ms = mono_since(m->fleet->o.clock, m->since) / NS_PER_MS,
                             .launched_s = m->launched_s,
                             .price_hour = m->price_hour,
                             .rented = member_is_rented(m),
                             .pinned = m->pinned};
}

void fleet_each(const struct fleet *f, void (*each)(const struct fleet_view *v, void *arg), void *arg)
{
    const struct member *m;
    struct fleet_view v;
    TAILQ_FOREACH(m, &f->members, next)
    {
        view_of(m, &v);
        each(&v, arg);
    }
}

bool fleet_get(const struct fleet *f, const char *name, struct fleet_view *v)
{
    const struct member *m = fleet_find(f, name);
    if (m)
        view_of(m, v);
    return m != NULL;
}

void fleet_plans(const struct fleet *f, void (*each)(const struct fleet_plan_view *v, void *arg), void *arg)
{
    for (int i = 0; i < f->n_markets; i++) {
        if (f->markets[i].plan.model)
            each(&f->markets[i].plan, arg);
    }
}

void fleet_pools(const struct fleet *f, void (*each)(const struct fleet_pool_view *v, void *arg), void *arg)
{
    const struct pool *p;
    TAILQ_FOREACH(p, &f->pools, next)
    {
        if (p->config)
            each(&(struct fleet_pool_view){p->name, losses_per_hour(&p->losses)}, arg);
    }
}

void fleet_stats(const struct fleet *f, struct fleet_stats *s)
{
    *s = f->stats;
    s->nodes = guard_nodes(f->guard);
    s->hour = guard_hour(f->guard);
    s->journal = journal_stats(f->journal);
}

void fleet_bill(struct fleet *f, int64_t from_s, int64_t until_s, journal_bill_cb *done, void *arg)
{
    journal_bill(f->journal, from_s, until_s, done, arg);
}

void fleet_sources(const struct fleet *f, void (*each)(const struct fleet_source_view *v, void *arg), void *arg)
{
    for (int i = 0; i < f->n_sources; i++) {
        const struct source *s = &f->sources[i];
        each(&(struct fleet_source_view){s->name, s->type, s->ops->caps, s->last_error}, arg);
    }
}

enum rc fleet_check(struct fleet *f, const char *name, provider_check_cb *each, provider_done_cb *done, void *arg,
                    struct error *e)
{
    struct source *s = source_find(f, name);
    if (!s)
        return error_set(e, RC_NOT_FOUND, "there is no provider '%.64s' in use", name);
    if (!s->ops->check)
        return error_set(e, RC_UNSUPPORTED, "there is nothing to check of provider '%s' (%s)", s->name, s->type);
    s->ops->check(s->provider, each, done, arg);
    return RC_OK;
}

/* ---- orders ------------------------------------------------------------------------------------------------------ */

static struct member *rented(struct fleet *f, const char *name, struct error *e)
{
    struct member *m = fleet_find(f, name);
    if (m && !m->pool)
        (void)error_set(e, RC_INVALID, "node '%s' belongs to no pool; it is not ours to end", name);
    else if (!m)
        (void)error_set(e, RC_NOT_FOUND, "there is no node '%.64s' of a pool; 'spillway nodes list' shows them", name);
    return m && m->pool ? m : NULL;
}

enum rc fleet_launch(struct fleet *f, const char *name, int n, struct error *e)
{
    struct pool *p = pool_find(f, name);
    struct offer *offers[FLEET_OFFERS_MAX];
    const struct mono now = clock_now(f->o.clock);
    int count = 0;
    if (!p || !p->config)
        return error_set(e, RC_NOT_FOUND, "there is no pool '%.64s' in the configuration", name);
    for (int i = 0; i < p->n_offers; i++) { /* the cheapest first */
        struct offer *o = &p->offers[i];
        int at = count;
        if (!o->launchable || mono_after(o->cold_until, now))
            continue;
        for (; at > 0 && offers[at - 1]->price_hour.v > o->price_hour.v; at--)
            offers[at] = offers[at - 1];
        offers[at] = o;
        count++;
    }
    enum rc rc = RC_OK;
    for (int i = 0; i < n && rc == RC_OK; i++)
        rc = launch_one(p, offers, count < 4 ? count : 4, true, "by an operator", e);
    return rc;
}

enum rc fleet_drain(struct fleet *f, const char *name, struct error *e)
{
    struct member *m = rented(f, name, e);
    if (!m)
        return e->code;
    m->pinned = true; /* no plan takes it back */
    member_drain(m, FOR_END, "by an operator");
    return RC_OK;
}

enum rc fleet_undrain(struct fleet *f, const char *name, struct error *e)
{
    struct member *m = rented(f, name, e);
    if (!m)
        return e->code;
    if (m->life != LIFE_DRAINING || m->noticed)
        return error_set(e, RC_CONFLICT, "node '%s' is %s%s", name, life_state_name(m->life),
                         m->noticed ? ", and is being taken away" : "; there is nothing to take back");
    m->pinned = false; /* as a plan sees fit, from now on */
    member_undrain(m, "by an operator");
    return RC_OK;
}

enum rc fleet_terminate(struct fleet *f, const char *name, struct error *e)
{
    struct member *m = rented(f, name, e);
    if (!m)
        return e->code;
    member_end(m, "by an operator");
    return RC_OK;
}

enum rc fleet_adopt(struct fleet *f, const char *pool, const char *id, struct error *e)
{
    struct pool *p = pool_find(f, pool);
    if (!p || !p->config)
        return error_set(e, RC_NOT_FOUND, "there is no pool '%.64s' in the configuration", pool);
    return launch_adopt(p, id, e);
}

void fleet_set_join(struct fleet *f, const struct fleet_join *j)
{
    f->join = *j;
}

enum rc fleet_joined(struct fleet *f, const char *name, const struct node_place_at *at, struct error *e)
{
    struct member *m = rented(f, name, e);
    if (!m)
        return e->code;
    if (strlen(at->url) >= sizeof m->join_url)
        return error_set(e, RC_INVALID, "node '%s': its address is too long", name);
    snprintf(m->join_url, sizeof m->join_url, "%s", at->url);
    snprintf(m->tls_ca, sizeof m->tls_ca, "%s", at->tls_ca);
    snprintf(m->tls_cert, sizeof m->tls_cert, "%s", at->tls_cert);
    snprintf(m->tls_key, sizeof m->tls_key, "%s", at->tls_key);
    snprintf(m->tls_name, sizeof m->tls_name, "%s", at->tls_name);
    snprintf(m->node_key, sizeof m->node_key, "%s", at->node_key);
    if (m->node && node_may_join(m->node))
        return node_place(m->node, at, e);
    member_event(m, LIFE_ADDRESS, "it has joined");
    return RC_OK;
}

enum rc fleet_notice(struct fleet *f, const char *name, const char *what, int64_t left_ms, struct error *e)
{
    struct member *m = fleet_find(f, name);
    char reason[128];
    if (!m)
        return error_set(e, RC_NOT_FOUND, "there is no node '%.64s' that the fleet looks after", name);
    m->noticed = true;
    const int64_t ms = left_ms >= 0 ? left_ms : f->config->capacity.drain_ms;
    m->gone_by.ns = clock_now(f->o.clock).ns + ms * NS_PER_MS;
    snprintf(reason, sizeof reason,
             left_ms >= 0 ? "%.80s: gone in %lld s" : "%.80s: it may be gone soon (%lld s to drain)", what,
             (long long)(ms / 1000));
    member_drain(m, FOR_END, reason);
    fleet_plan_soon(f);
    return RC_OK;
}
