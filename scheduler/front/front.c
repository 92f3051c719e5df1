/* The front as a whole: put together, drained, taken apart, and looked at from outside. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/books/ledger_budgets.h"
#include "scheduler/budgets/memory.h"
#include "scheduler/front/front_internal.h"
#include "scheduler/front/tls_watch.h"

#define ENGINE_GRACE_MS 5000

static void on_capacity(void *arg)
{
    rooms_grant(arg);
}

static void on_gone(struct node *n, unsigned generation, void *arg)
{
    lanes_drop_node(arg, n, generation);
}

#define MODELS_MORE 256 /* that reloads may add */

struct room *front_room(const struct front *f, const char *model)
{
    for (int i = 0; i < f->n_rooms; i++) {
        if (strcmp(f->rooms[i].model, model) == 0)
            return &f->rooms[i];
    }
    return NULL;
}

static void add_room(struct front *f, const char *model)
{
    SPW_ASSERT(f->n_rooms < f->rooms_max);
    struct room *room = &f->rooms[f->n_rooms];
    room->model = spw_strdup(model);
    room->index = f->n_rooms;
    waiting_init(&room->waiting);
    f->n_rooms++; /* seen by the lanes only now */
}

static struct room *room_for(void *arg, const char *model)
{
    struct front *f = arg;
    if (!front_room(f, model))
        add_room(f, model);
    return front_room(f, model);
}

/* One room per model that any configuration names, now or before: requests end with the one that they began with. */
static void make_rooms(struct front *f, struct config *c)
{
    config_set_version(c);
    c->model_table = model_table_new(c);
    model_table_set_rooms(c->model_table, room_for, f);
}

/* Models that c names and that have no room yet; one that two nodes name may count twice. */
static int count_new_models(struct front *f, const struct config *c)
{
    int n = 0;
    for (int i = 0; i < config_servers(c); i++) {
        for (int k = 0; k < config_server(c, i)->n_models; k++)
            n += !front_room(f, config_server(c, i)->models[k]);
    }
    for (int i = 0; i < c->n_models; i++)
        n += !front_room(f, c->models[i].name);
    return n;
}

static void rest(struct node *n, void (*done)(void *n), void *arg)
{
    lanes_rest(arg, done, n);
}

static void on_new_name(struct node *n, void *arg)
{
    const struct front *f = arg;
    for (int i = 0; i < f->n_lanes; i++)
        metrics_forget_node(f->lanes[i].metrics, n->index);
}

static enum rc make_nodes(struct front *f, struct error *e)
{
    const struct nodes_options o = {.loop = f->o.loop,
                                    .config = f->o.config,
                                    .log = f->o.log,
                                    .clock = f->o.clock,
                                    .lock = &f->lock,
                                    .mail = f->lanes[0].mail,
                                    .on_capacity = on_capacity,
                                    .on_gone = on_gone,
                                    .rest = rest,
                                    .on_new_name = on_new_name,
                                    .arg = f};
    return nodes_new(&f->nodes, &o, e);
}

static enum rc make_doors(struct front *f, struct error *e)
{
    const struct config *c = f->o.config;
    const struct tls_server_files files = config_tls(c);
    f->peers = peers_new(c->connections_per_client);
    if (!files.cert)
        return RC_OK;
    enum rc rc = tls_door_new(&f->tls, &files, f->o.clock, e);
    const struct tls_watch_options o = {.loop = f->o.loop, .door = f->tls, .log = f->o.log, .name = "listen"};
    return rc == RC_OK ? tls_watch_new(&f->tls_watch, &o, e) : rc;
}

enum rc front_take_doors(struct front *f, const struct config *c, struct error *e)
{
    const struct tls_server_files files = config_tls(c);
    if (!files.cert != !f->tls)
        return error_set(e, RC_INVALID, "tls.cert: TLS is turned on or off by a restart only");
    enum rc rc = f->tls ? tls_door_replace(f->tls, &files, e) : RC_OK;
    if (rc == RC_OK)
        peers_set_max(f->peers, c->connections_per_client);
    return rc;
}

static void on_budget(const struct ledger_budget_total *t, void *arg)
{
    budget_desk_hear(arg, t->name);
}

#define BUDGETS_HEARD_S (INT64_C(32) * 86400)

static enum rc open_budgets(struct front *f, struct error *e)
{
    const struct config *c = f->o.config;
    if (!f->o.budgets)
        f->o.budgets = f->own_store = memory_store_new(f->o.clock);
    f->budgets = budget_desk_new(f->o.budgets);
    const struct ledger_budget_reader reader = {.total = on_budget, .arg = f->budgets};
    int64_t since_s = clock_wall(f->o.clock).ns / NS_PER_S - BUDGETS_HEARD_S;
    return c->ledger_off || !c->n_budgets ? RC_OK : ledger_read_budgets(c->ledger_path, since_s, &reader, e);
}

enum rc front_new(struct front **out, const struct front_options *o, struct error *e)
{
    const struct config *c = o->config;
    struct front *f = spw_calloc(1, sizeof(*f));
    SPW_ASSERT(o->auth);
    f->o = *o;
    pthread_mutex_init(&f->lock, NULL);
    pthread_mutex_init(&f->limits_lock, NULL);
    f->limits = limit_table_new(0);
    f->created = clock_now(o->clock);
    f->created_s = clock_wall(o->clock).ns / NS_PER_S;
    f->first = config_ref(c);
    f->o.config = config_ref(c);
    f->rooms_max = count_new_models(f, c) + MODELS_MORE;
    f->rooms = spw_calloc((size_t)f->rooms_max, sizeof *f->rooms);
    make_rooms(f, (struct config *)c);
    rooms_set_bounds(f, c);
    f->explain = explain_new(c->explain_keep);
    f->routes = o->config->metrics_off ? NULL : route_metrics_new();
    enum rc rc = idempotency_open(f, e);
    if (rc == RC_OK)
        rc = cached_shared_new(&f->cached, c, o->clock, e);
    if (rc == RC_OK)
        rc = affinity_new(&f->affinity, c->prefix_memory, ROUTE_CANDIDATES_MAX, e);
    if (rc == RC_OK)
        rc = open_budgets(f, e);
    if (rc == RC_OK)
        rc = lanes_new(f, e);
    if (rc == RC_OK)
        rc = make_nodes(f, e);
    if (rc == RC_OK)
        rc = make_doors(f, e);
    if (rc == RC_OK)
        rc = lanes_listen(f, e);
    if (rc == RC_OK)
        rc = lanes_start(f, e);
    if (rc != RC_OK) {
        front_free(f);
        return rc;
    }
    log_info(o->log, "front", "listening", LOG_S("address", c->listen), LOG_I("port", front_port(f)),
             LOG_I("nodes", c->n_nodes), LOG_I("models", f->n_rooms), LOG_B("auth", !c->auth_off),
             LOG_I("workers", f->n_lanes));
    *out = f;
    return RC_OK;
}

void front_free(struct front *f)
{
    if (!f)
        return;
    f->draining = true;
    f->stopping = true; /* no request that ends now may start the last steps of a drain */
    lanes_stop(f);
    lanes_free(f);
    nodes_free(f->nodes);
    limit_table_free(f->limits);
    repeats_free(f->repeats);
    cached_shared_free(f->cached);
    affinity_free(f->affinity);
    explain_free(f->explain);
    budget_desk_free(f->budgets);
    if (f->own_store)
        f->own_store->ops->free(f->own_store);
    route_metrics_free(f->routes);
    tls_watch_free(f->tls_watch);
    tls_door_free(f->tls);
    peers_free(f->peers);
    if (f->drain_timer)
        event_free(f->drain_timer);
    for (int i = 0; i < f->n_rooms; i++)
        waiting_fini(&f->rooms[i].waiting);
    for (int i = 0; i < f->n_rooms; i++)
        free(f->rooms[i].model);
    config_free(f->first);
    config_free((struct config *)f->o.config);
    free(f->rooms);
    pthread_mutex_destroy(&f->limits_lock);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

enum rc front_take(struct front *f, const struct config *c, struct auth *auth, bool new_auth, struct error *e)
{
    struct nodes_plan *plan = NULL;
    if (f->draining)
        return error_set(e, RC_CONFLICT, "this scheduler is shutting down");
    if (f->n_rooms + count_new_models(f, c) > f->rooms_max)
        return error_set(e, RC_FULL,
                         "%d models have been served since the start; for more new ones it must be restarted",
                         f->rooms_max);
    enum rc rc = nodes_prepare(f->nodes, c, &plan, e);
    if (rc == RC_OK)
        rc = front_take_doors(f, c, e);
    if (rc != RC_OK) {
        nodes_discard(plan);
        return rc;
    }
    struct config *before = (struct config *)f->o.config;
    __atomic_store_n(&f->o.config, config_ref(c), __ATOMIC_RELEASE);
    f->o.auth = f->lanes[0].auth = auth;
    make_rooms(f, (struct config *)c);
    rooms_set_bounds(f, c);
    lanes_take_config(f, new_auth);
    nodes_commit(f->nodes, plan);
    config_free(before); /* lanes and requests have references of their own */
    return RC_OK;
}

/* ---- drain ------------------------------------------------------------------------------------------------------ */

static void on_engines_gone(void *arg)
{
    struct front *f = arg;
    struct front_totals t = front_totals(f);
    log_info(f->o.log, "front", "drained", LOG_I("ok", t.ok), LOG_I("failed", t.failed));
    f->drained(f->drained_arg);
}

/* On lane 0. */
void front_lane_empty(struct mail *m)
{
    struct front *f = ((struct lane *)((char *)m - offsetof(struct lane, emptied)))->front;
    if (++f->n_empty < f->n_lanes || f->stopping)
        return;
    f->stopping = true;
    event_del(f->drain_timer);
    nodes_stop(f->nodes, ENGINE_GRACE_MS, on_engines_gone, f);
}

static void on_server_drained(void *arg)
{
    struct lane *l = arg;
    l->server_drained = true;
    lane_check_empty(l);
}

static void drain_lane(void *arg)
{
    struct lane *l = arg;
    http_server_drain(l->server, on_server_drained, l);
}

/* Cutting lets the server end its connections. */
static void cut_lane(void *arg)
{
    struct lane *l = arg;
    struct request *r, *next;
    int cut = 0;
    for (r = TAILQ_FIRST(&l->requests); r; r = next) {
        next = TAILQ_NEXT(r, all);
        cut += r->state != REQUEST_SETTLING;
        request_cut(r, API_DRAINING);
    }
    log_warn(l->front->o.log, "front", "the drain's time is over, running requests were cut", LOG_I("requests", cut),
             LOG_I("worker", l->index));
}

/* Out of patience. */
static void on_drain_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    lanes_each(arg, cut_lane);
}

void front_drain(struct front *f, void (*done)(void *arg), void *arg)
{
    if (f->draining)
        return;
    int64_t ms = front_config(f)->drain_ms;
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    struct front_totals t = front_totals(f);
    f->draining = true;
    f->drained = done;
    f->drained_arg = arg;
    f->drain_timer = evtimer_new(f->o.loop, on_drain_deadline, f);
    event_add(f->drain_timer, &tv);
    log_info(f->o.log, "front", "draining", LOG_I("running", t.running), LOG_I("waiting", t.waiting),
             LOG_I("at_most_ms", ms));
    lanes_each(f, drain_lane);
}

/* ---- seen from outside ------------------------------------------------------------------------------------------ */

void front_set_fleet(struct front *f, const struct fleet *fleet)
{
    f->fleet = fleet;
}

void front_add_metrics(struct front *f, front_metrics_more *more, const void *arg)
{
    SPW_ASSERT(f->n_more < FRONT_METRICS_MORE);
    /* cppcheck-suppress AssignmentAddressToInteger; it does not know the type of a function */
    f->more[f->n_more] = more;
    f->more_arg[f->n_more++] = arg;
}

int front_port(const struct front *f)
{
    return http_server_port(f->lanes[0].server);
}

bool front_is_draining(const struct front *f)
{
    return f->draining;
}

bool front_is_ready(const struct front *f, const char **why)
{
    const char *reason = "";
    if (f->draining)
        reason = "draining";
    else if (f->ledger_failing || ledger_is_failing(f->o.ledger))
        reason = "the ledger cannot be written";
    else if (!audited_takes_work(&f->lanes[0]))
        reason = "the audit cannot be written";
    else if (!nodes_any_ready(f->nodes) && !front_config(f)->n_pools)
        reason = "no node is ready";
    else if (nodes_any_starting(f->nodes) && mono_since(f->o.clock, f->created) < FRONT_ASKED_MS * NS_PER_MS)
        reason = "nodes are being asked how they are";
    if (why)
        *why = reason;
    return !*reason;
}

int front_nodes_count(const struct front *f)
{
    int n = 0;
    for (int i = 0; i < nodes_count(f->nodes); i++)
        n += node_is_there(nodes_at(f->nodes, i));
    return n;
}

/* What other lanes change is copied under the lock, which each() may not be called with. */
static void show_node(const struct front *shared, const struct node *n,
                      void (*each)(const struct front_node *n, void *arg), void *arg)
{
    struct front *f = (struct front *)shared; /* the lock is ours to take; nothing else changes */
    const struct config_node *c = n->config;
    char reason[sizeof n->reason], numerics[sizeof n->card.numerics];
    front_lock(f);
    memcpy(reason, n->reason, sizeof reason);
    if (n->state == NODE_READY)
        node_hold_text_locked(n, reason, sizeof reason);
    memcpy(numerics, n->card.numerics, sizeof numerics);
    int64_t milliwatts;
    const enum node_watts watts_are = node_milliwatts(n, c, &milliwatts);
    struct front_node view = {
        .milliwatts = milliwatts,
        .watts_are = watts_are,
        .name = c->name,
        .provider = c->provider == PROVIDER_PROCESS ? provider_process.name : provider_static.name,
        .address = n->address ? n->address : "",
        .models = c->models,
        .n_models = c->n_models,
        .state = n->state,
        .draining = n->draining || n->leaving,
        .local = c->local,
        .reason = reason,
        .breaker = breaker_state_name(n->breaker.state),
        .state_since = n->state_since,
        .in_flight = n->in_flight,
        .slots = c->slots,
        .watts = c->watts,
        .prices = c->prices,
        .requests = n->requests,
        .failures = n->failures,
        .probe_us = n->probe_us,
        .pid = n->pid,
        .restarts = n->restarts,
        .resumes = n->card.resume,
        .numerics = numerics,
    };
    front_unlock(f);
    each(&view, arg);
}

void front_nodes_each(const struct front *f, void (*each)(const struct front_node *n, void *arg), void *arg)
{
    for (int i = 0; i < nodes_count(f->nodes); i++) {
        if (node_is_there(nodes_at(f->nodes, i)))
            show_node(f, nodes_at(f->nodes, i), each, arg);
    }
}

enum rc front_node_get(const struct front *f, const char *name, void (*each)(const struct front_node *n, void *arg),
                       void *arg)
{
    const struct node *n = nodes_find(f->nodes, name);
    if (!n)
        return RC_NOT_FOUND;
    show_node(f, n, each, arg);
    return RC_OK;
}

bool front_has_node(const struct front *f, const char *name)
{
    return nodes_find(f->nodes, name) != NULL;
}

enum rc front_node_set_drain(struct front *f, const char *name, enum front_drain_mode mode, struct error *e)
{
    struct node *n = nodes_find(f->nodes, name);
    if (!n)
        return error_set(e, RC_NOT_FOUND, "there is no node '%.64s'; 'spillway nodes' lists them", name);
    node_set_drain(n, mode == FRONT_NODE_DRAIN);
    return RC_OK;
}

enum rc front_metrics_render(const struct front *f, struct strbuf *out)
{
    return metrics_render(f, out);
}

struct front_totals front_totals(const struct front *shared)
{
    struct front *f = (struct front *)shared; /* for the lock */
    struct front_totals t = {.ok = (uint64_t)metrics_total(f, METRIC_REQUESTS, LEDGER_OK),
                             .cancelled = (uint64_t)metrics_total(f, METRIC_REQUESTS, LEDGER_CANCELLED),
                             .failed = (uint64_t)metrics_total(f, METRIC_REQUESTS, LEDGER_FAILED),
                             .retries = (uint64_t)metrics_total(f, METRIC_RETRIES, 0),
                             .continuations = (uint64_t)metrics_total(f, METRIC_CONTINUATIONS, 0),
                             .tokens = {.input = metrics_total(f, METRIC_TOKENS, 0),
                                        .cached_input = metrics_total(f, METRIC_TOKENS, 1),
                                        .output = metrics_total(f, METRIC_TOKENS, 2)},
                             .charge = metrics_charge(f)};
    for (int i = 0; i < f->n_lanes; i++) {
        t.accepted += (uint64_t)counter_get(&f->lanes[i].accepted);
        t.refused += (uint64_t)counter_get(&f->lanes[i].refused);
    }
    front_lock(f);
    t.waiting = f->n_waiting;
    for (int i = 0; i < nodes_count(f->nodes); i++)
        t.running += nodes_at(f->nodes, i)->in_flight;
    front_unlock(f);
    return t;
}
