/* The front as a whole: put together, drained, taken apart, and looked at from outside. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/tls.h"
#include "scheduler/front/front_internal.h"

#define ENGINE_GRACE_MS 5000

static void on_capacity(void *arg)
{
    rooms_wake_soon(arg);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    rooms_wake(arg);
}

/* One room per model that any node names. */
static void make_rooms(struct front *f)
{
    const struct config *c = f->o.config;
    int most = 0;
    for (int i = 0; i < c->n_nodes; i++)
        most += c->nodes[i].n_models;
    f->rooms = spw_calloc((size_t)most + 1, sizeof *f->rooms);
    for (int i = 0; i < c->n_nodes; i++) {
        for (int k = 0; k < c->nodes[i].n_models; k++) {
            if (front_room(f, c->nodes[i].models[k]))
                continue;
            struct room *room = &f->rooms[f->n_rooms];
            room->model = c->nodes[i].models[k];
            room->index = f->n_rooms++;
            TAILQ_INIT(&room->queue);
        }
    }
}

static enum rc listen_for_clients(struct front *f, struct error *e)
{
    const struct config *c = f->o.config;
    struct http_server_handlers handlers = {.on_head = endpoint_head, .on_request = endpoint_handle};
    enum rc rc = c->tls_cert ? tls_server_new(&f->tls, c->tls_cert, c->tls_key, e) : RC_OK;
    if (rc != RC_OK)
        return rc;
    struct http_server_options o = {
        .limits = http_limits_default, .connections_max = c->connections_max, .tls = f->tls};
    o.limits.body_bytes_max = (uint64_t)c->body_bytes_max;
    return http_server_new(&f->server, f->o.loop, c->listen, &o, &handlers, f, e);
}

enum rc front_new(struct front **out, const struct front_options *o, struct error *e)
{
    struct front *f = spw_calloc(1, sizeof(*f));
    SPW_ASSERT(o->auth);
    f->o = *o;
    f->limits = limit_table_new(0);
    f->created_s = clock_wall(o->clock).ns / NS_PER_S;
    TAILQ_INIT(&f->requests);
    make_rooms(f);
    f->metrics = metrics_new(f->n_rooms, o->config->n_nodes);
    f->wake = evtimer_new(o->loop, on_wake, f);
    struct nodes_options nodes = {
        .loop = o->loop, .config = o->config, .log = o->log, .clock = o->clock, .on_capacity = on_capacity, .arg = f};
    enum rc rc = ledger_port_new(&f->port, o->ledger, o->loop, e);
    if (rc == RC_OK)
        rc = nodes_new(&f->nodes, &nodes, e);
    if (rc == RC_OK)
        rc = listen_for_clients(f, e);
    if (rc != RC_OK) {
        front_free(f);
        return rc;
    }
    log_info(o->log, "front", "listening", LOG_S("address", o->config->listen), LOG_I("port", front_port(f)),
             LOG_I("nodes", o->config->n_nodes), LOG_I("models", f->n_rooms), LOG_B("auth", !o->config->auth_off));
    *out = f;
    return RC_OK;
}

/* Requests whose row the ledger is still writing free themselves when it is done. */
static void abandon_requests(struct front *f)
{
    struct request *r;
    while ((r = TAILQ_FIRST(&f->requests))) {
        TAILQ_REMOVE(&f->requests, r, all);
        leg_drop(r, "cancelled");
        alone_release(r);
        r->ticket = (struct limit_ticket){0}; /* void: the table goes as well */
        event_free(r->timer);
        r->timer = NULL;
        r->front = NULL;
        r->x = NULL;
        if (!r->append_pending)
            request_free(r);
    }
}

void front_free(struct front *f)
{
    if (!f)
        return;
    f->draining = true;
    f->stopping = true;          /* no request that ends now may start the last steps of a drain */
    http_server_free(f->server); /* running requests are cancelled and settled by their on_abort */
    abandon_requests(f);
    ledger_port_free(f->port); /* waits for the rows of those that were settled */
    nodes_free(f->nodes);
    metrics_free(f->metrics);
    limit_table_free(f->limits);
    SSL_CTX_free(f->tls);
    if (f->wake)
        event_free(f->wake);
    if (f->drain_timer)
        event_free(f->drain_timer);
    free(f->rooms);
    free(f);
}

/* ---- drain ------------------------------------------------------------------------------------------------------ */

static void on_engines_gone(void *arg)
{
    struct front *f = arg;
    log_info(f->o.log, "front", "drained", LOG_I("ok", f->totals.ok), LOG_I("failed", f->totals.failed));
    f->drained(f->drained_arg);
}

void front_request_gone(struct front *f)
{
    if (!f->draining || f->stopping || !f->server_drained || !TAILQ_EMPTY(&f->requests))
        return;
    f->stopping = true;
    event_del(f->drain_timer);
    nodes_stop(f->nodes, ENGINE_GRACE_MS, on_engines_gone, f);
}

static void on_server_drained(void *arg)
{
    struct front *f = arg;
    f->server_drained = true;
    front_request_gone(f);
}

/* Out of patience: what still runs is cut, which lets the server end its connections. */
static void on_drain_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct front *f = arg;
    struct request *r, *next;
    int cut = 0;
    (void)fd;
    (void)what;
    for (r = TAILQ_FIRST(&f->requests); r; r = next) {
        next = TAILQ_NEXT(r, all);
        cut += r->state != REQUEST_SETTLING;
        request_cut(r, API_DRAINING);
    }
    log_warn(f->o.log, "front", "the drain's time is over, running requests were cut", LOG_I("requests", cut));
}

void front_drain(struct front *f, void (*done)(void *arg), void *arg)
{
    if (f->draining)
        return;
    int64_t ms = f->o.config->drain_ms;
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    f->draining = true;
    f->drained = done;
    f->drained_arg = arg;
    f->drain_timer = evtimer_new(f->o.loop, on_drain_deadline, f);
    event_add(f->drain_timer, &tv);
    log_info(f->o.log, "front", "draining", LOG_I("running", f->n_running), LOG_I("waiting", f->n_waiting),
             LOG_I("at_most_ms", ms));
    http_server_drain(f->server, on_server_drained, f);
}

/* ---- seen from outside ------------------------------------------------------------------------------------------ */

int front_port(const struct front *f)
{
    return http_server_port(f->server);
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
    else if (!nodes_any_ready(f->nodes))
        reason = "no node is ready";
    if (why)
        *why = reason;
    return !*reason;
}

int front_nodes_count(const struct front *f)
{
    return nodes_count(f->nodes);
}

static void show_node(const struct node *n, void (*each)(const struct front_node *n, void *arg), void *arg)
{
    const struct config_node *c = n->config;
    struct front_node view = {
        .name = c->name,
        .provider = c->provider == PROVIDER_PROCESS ? provider_process.name : provider_static.name,
        .address = n->address ? n->address : "",
        .models = c->models,
        .n_models = c->n_models,
        .state = n->state,
        .draining = n->draining,
        .local = c->local,
        .reason = n->reason,
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
        .numerics = n->card.numerics,
    };
    each(&view, arg);
}

void front_nodes_each(const struct front *f, void (*each)(const struct front_node *n, void *arg), void *arg)
{
    for (int i = 0; i < nodes_count(f->nodes); i++)
        show_node(nodes_at(f->nodes, i), each, arg);
}

enum rc front_node_get(const struct front *f, const char *name, void (*each)(const struct front_node *n, void *arg),
                       void *arg)
{
    const struct node *n = nodes_find(f->nodes, name);
    if (!n)
        return RC_NOT_FOUND;
    show_node(n, each, arg);
    return RC_OK;
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
    return metrics_render(f->metrics, f, out);
}

struct front_totals front_totals(const struct front *f)
{
    struct front_totals t = f->totals;
    t.running = f->n_running;
    t.waiting = f->n_waiting;
    return t;
}
