/* Lanes: their parts put together, run, told things, and taken apart. Who may touch what: front_internal.h. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/thread.h"
#include "scheduler/books/ledger.h"
#include "scheduler/front/front_internal.h"
#include "scheduler/front/who.h"

int lanes_wanted(const struct config *c)
{
    cpu_set_t set;
    if (c->workers)
        return c->workers;
    /* One core is left to the ledger's writer and to the rest of the machine. */
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return cores - 1 < 1 ? 1 : cores - 1 > LANES_MAX ? LANES_MAX : cores - 1;
}

/* ---- the lock --------------------------------------------------------------------------------------------------- */

void front_lock(struct front *f)
{
    pthread_mutex_lock(&f->lock);
}

/* here: the caller's lane, or NULL: he does not know. */
static void unlock(struct front *f, const struct lane *here)
{
    uint64_t tell = f->to_tell;
    f->to_tell = 0;
    pthread_mutex_unlock(&f->lock);
    for (; tell; tell &= tell - 1) {
        struct lane *l = &f->lanes[__builtin_ctzll(tell)];
        if (l == here)
            mailbox_post_here(l->mail, &l->told);
        else
            mailbox_post(l->mail, &l->told);
    }
}

void front_unlock(struct front *f)
{
    unlock(f, NULL);
}

void front_unlock_on(struct lane *l)
{
    unlock(l->front, l);
}

/* ---- messages to a lane ----------------------------------------------------------------------------------------- */

static void on_told(struct mail *m)
{
    rooms_take_granted((struct lane *)((char *)m - offsetof(struct lane, told)));
}

void lanes_each(struct front *f, void (*call)(void *lane))
{
    for (int i = f->n_lanes - 1; i > 0; i--)
        mailbox_call(f->lanes[i].mail, call, &f->lanes[i]);
    call(&f->lanes[0]);
}

/* ---- reloads ---------------------------------------------------------------------------------------------------- */

/* Callers of other lanes are known by the same keys and issuers as those of lane 0. */
static enum rc open_auth(struct lane *l, struct auth **auth, struct error *e)
{
    const struct front_options *o = &l->front->o;
    enum rc rc = l->config->n_issuers && !l->fetcher ? fetcher_new(&l->fetcher, l->loop, e) : RC_OK;
    struct who_options who = {.config = l->config,
                              .off = l->config->auth_off,
                              .keystore = o->keystore,
                              .loop = l->loop,
                              .fetcher = l->fetcher,
                              .clock = o->clock,
                              .log = o->log};
    return rc == RC_OK ? who_auth_new(auth, &who, e) : rc;
}

struct taking {
    struct lane *lane;
    struct config *config; /* a reference */
    bool new_auth;
};

/* On the lane's thread. Lane 0's auth was made, and is kept, by whoever made the front. */
static void take_config(void *arg)
{
    struct taking *t = arg;
    struct lane *l = t->lane;
    struct auth *auth = NULL;
    struct error e;
    config_free(l->config);
    l->config = t->config;
    if (t->new_auth && l->index > 0 && open_auth(l, &auth, &e) == RC_OK) {
        auth_free(l->old_auth); /* who has waited for it since the reload before is refused */
        l->old_auth = l->auth;
        l->auth = auth;
    } else if (t->new_auth && l->index > 0) { /* lane 0's could be made from the same */
        log_error(l->front->o.log, "front", "a worker keeps its old keys", LOG_S("reason", e.message),
                  LOG_I("worker", l->index));
    }
    free(t);
}

void lanes_take_config(struct front *f, bool new_auth)
{
    for (int i = f->n_lanes - 1; i >= 0; i--) {
        struct taking *t = spw_malloc(sizeof *t);
        *t = (struct taking){.lane = &f->lanes[i], .config = config_ref(f->o.config), .new_auth = new_auth};
        if (i > 0)
            mailbox_call(f->lanes[i].mail, take_config, t);
        else
            take_config(t);
    }
}

struct resting {
    struct front *front;
    int next; /* lane that is asked, from the last to the first */
    void (*done)(void *arg);
    void *arg;
};

/* From lane to lane, and to lane 0 last: what each was sent before has then been delivered. */
static void pass_rest(void *arg)
{
    struct resting *r = arg;
    struct mailbox *next = r->next-- > 0 ? r->front->lanes[r->next].mail : NULL;
    if (next) {
        mailbox_call(next, pass_rest, r);
        return;
    }
    if (r->next < 0) /* else it is all being taken apart */
        r->done(r->arg);
    free(r);
}

void lanes_rest(struct front *f, void (*done)(void *arg), void *arg)
{
    struct resting *r = spw_malloc(sizeof *r);
    *r = (struct resting){.front = f, .next = f->n_lanes, .done = done, .arg = arg};
    pass_rest(r);
}

/* ---- connections to the nodes ----------------------------------------------------------------------------------- */

/* Requests that run there fail from inside, and may look for the pool again: it is gone already by then. */
static void drop_pool(struct lane_pool *p)
{
    struct http_client *c = p->client;
    p->client = NULL;
    http_client_free(c);
}

enum rc lane_client(struct lane *l, struct node *node, unsigned generation, struct http_client **c, struct error *e)
{
    struct lane_pool *p = &l->pools[node->index];
    while (p->client && p->generation < generation)
        drop_pool(p);
    enum rc rc = p->client ? RC_OK : node_client_new(node, l->loop, &p->client, &p->generation, e);
    *c = p->client;
    return rc;
}

struct gone {
    struct lane *lane;
    int node;
    unsigned generation;
};

static void on_gone(void *arg)
{
    struct gone *g = arg;
    struct lane_pool *p = &g->lane->pools[g->node];
    if (p->client && p->generation <= g->generation)
        drop_pool(p);
    free(g);
}

void lanes_drop_node(struct front *f, struct node *n, unsigned generation)
{
    for (int i = f->n_lanes - 1; i >= 0; i--) {
        struct gone *g = spw_malloc(sizeof *g);
        *g = (struct gone){.lane = &f->lanes[i], .node = n->index, .generation = generation};
        if (i > 0)
            mailbox_call(f->lanes[i].mail, on_gone, g);
        else
            on_gone(g);
    }
}

/* ---- its life --------------------------------------------------------------------------------------------------- */

static void say_empty(void *arg)
{
    struct lane *l = arg;
    mailbox_post(l->front->lanes[0].mail, &l->emptied);
}

void lane_check_empty(struct lane *l)
{
    if (l->empty || !l->server_drained || !TAILQ_EMPTY(&l->requests))
        return;
    l->empty = true;
    if (l->front->stopping || !spans_flush(l->spans, say_empty, l))
        say_empty(l);
}

static enum rc open_extras(struct lane *l, struct error *e)
{
    const struct front_options *o = &l->front->o;
    struct cached_options cached = {
        .shared = l->front->cached, .config = l->front->first, .loop = l->loop, .clock = o->clock, .log = o->log};
    struct spans_options spans = {.config = l->front->first, .loop = l->loop, .clock = o->clock, .log = o->log};
    enum rc rc = cached_new(&l->cached, &cached, e);
    return rc == RC_OK ? spans_new(&l->spans, &spans, e) : rc;
}

static enum rc lane_init(struct lane *l, struct error *e)
{
    struct front *f = l->front;
    enum rc rc = RC_OK;
    TAILQ_INIT(&l->requests);
    TAILQ_INIT(&l->spare);
    TAILQ_INIT(&l->granted);
    TAILQ_INIT(&l->leaving);
    l->told.deliver = on_told;
    l->emptied.deliver = front_lane_empty;
    l->config = config_ref(f->o.config);
    l->metrics = metrics_new(f->rooms_max, ROUTE_CANDIDATES_MAX);
    l->pools = spw_calloc(ROUTE_CANDIDATES_MAX, sizeof *l->pools);
    l->loop = l->index == 0 ? f->o.loop : loop_new();
    if (!l->loop)
        return error_set(e, RC_IO, "no event loop: %s", strerror(errno));
    rc = mailbox_new(&l->mail, l->loop, e);
    if (rc == RC_OK)
        rc = ledger_port_new(&l->port, f->o.ledger, l->loop, e);
    if (rc == RC_OK && f->o.audit)
        rc = audit_port_new(&l->audit, f->o.audit, l->loop, e);
    strbuf_init(&l->record, AUDIT_JSON_BYTES_MAX);
    if (rc == RC_OK)
        rc = budget_access_new(&l->budgets, l, e);
    if (rc == RC_OK)
        rc = open_extras(l, e);
    if (l->index == 0)
        l->auth = f->o.auth;
    else if (rc == RC_OK)
        rc = open_auth(l, &l->auth, e);
    return rc;
}

enum rc lanes_new(struct front *f, struct error *e)
{
    enum rc rc = RC_OK;
    f->n_lanes = lanes_wanted(f->o.config);
    f->lanes = spw_calloc((size_t)f->n_lanes, sizeof *f->lanes);
    for (int i = 0; i < f->n_lanes; i++)
        f->lanes[i] = (struct lane){.front = f, .index = i};
    for (int i = 0; i < f->n_lanes && rc == RC_OK; i++)
        rc = lane_init(&f->lanes[i], e);
    return rc;
}

/* Of listeners that are there already: each lane's own, or, where there are fewer, one that it shares. */
static enum rc inherited_address(struct front *f, int lane, char *address, size_t size, struct error *e)
{
    SPW_ASSERT(f->o.n_listen_fds > 0);
    /* cppcheck-suppress zerodivcond; as asserted */
    int n = f->o.n_listen_fds, fd = f->o.listen_fds[lane % n];
    if (lane >= n && (fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
        return error_set(e, RC_IO, "inherited listener: %s", strerror(errno));
    snprintf(address, size, "fd:%d", fd);
    return RC_OK;
}

/* Lane 0's address for the others: the same port, or the same queue where there can be but one. */
static enum rc shared_address(struct front *f, char *address, size_t size, struct error *e)
{
    const char *listen = f->o.config->listen;
    const char *colon = strrchr(listen, ':');
    if (strncmp(listen, "unix:", 5) == 0 || strncmp(listen, "fd:", 3) == 0) {
        int fd = fcntl(http_server_fd(f->lanes[0].server), F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return error_set(e, RC_IO, "%s: %s", listen, strerror(errno));
        snprintf(address, size, "fd:%d", fd);
    } else {
        snprintf(address, size, "%.*s:%d", (int)(colon - listen), listen, http_server_port(f->lanes[0].server));
    }
    return RC_OK;
}

enum rc lanes_listen(struct front *f, struct error *e)
{
    const struct config *c = f->o.config;
    struct http_server_handlers handlers = {.on_head = endpoint_head, .on_request = endpoint_handle};
    struct http_server_options o = {.limits = http_limits_default,
                                    .connections_max = c->connections_max,
                                    .tls = f->tls,
                                    .peers = f->peers,
                                    .head_ms = c->head_ms,
                                    .body_ms = c->body_ms,
                                    .write_ms = c->reader_ms,
                                    .idle_ms = c->client_idle_ms,
                                    .retained_bytes_max = (size_t)c->held_bytes_max,
                                    .held = &f->held,
                                    .sharing = f->n_lanes > 1 ? HTTP_LISTEN_FIRST : HTTP_LISTEN_ALONE};
    char address[300];
    o.limits.body_bytes_max = (uint64_t)c->body_bytes_max;
    f->queue_stays = f->o.n_listen_fds > 0;
    snprintf(address, sizeof address, "%s", c->listen);
    enum rc rc = f->o.n_listen_fds ? inherited_address(f, 0, address, sizeof address, e) : RC_OK;
    if (rc == RC_OK)
        rc = http_server_new(&f->lanes[0].server, f->o.loop, address, &o, &handlers, &f->lanes[0], e);
    o.sharing = HTTP_LISTEN_JOIN;
    for (int i = 1; i < f->n_lanes && rc == RC_OK; i++) {
        struct lane *l = &f->lanes[i];
        rc = f->o.n_listen_fds ? inherited_address(f, i, address, sizeof address, e)
                               : shared_address(f, address, sizeof address, e);
        if (rc == RC_OK)
            rc = http_server_new(&l->server, l->loop, address, &o, &handlers, l, e);
    }
    return rc == RC_OK ? rc : error_prefix(e, "listen");
}

int front_listeners(const struct front *f, int *fds, int max)
{
    int n = 0;
    for (int i = 0; i < f->n_lanes && n < max; i++) {
        int fd = http_server_fd(f->lanes[i].server);
        if (fd >= 0)
            fds[n++] = fd;
    }
    return n;
}

void front_hand_over(struct front *f)
{
    http_server_keep_path(f->lanes[0].server);
    f->queue_stays = true;
}

static void *lane_main(void *arg)
{
    struct lane *l = arg;
    event_base_loop(l->loop, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

enum rc lanes_start(struct front *f, struct error *e)
{
    int failed = 0;
    for (int i = 1; i < f->n_lanes && !failed; i++) {
        struct lane *l = &f->lanes[i];
        char name[THREAD_NAME_MAX + 1];
        snprintf(name, sizeof name, "lane-%d", i);
        failed = thread_start(&l->thread, name, lane_main, l);
        l->runs = !failed;
    }
    return failed ? error_set(e, RC_IO, "no thread for a worker: %s", strerror(failed)) : RC_OK;
}

static void end_loop(void *arg)
{
    struct lane *l = arg;
    event_base_loopbreak(l->loop);
}

void lanes_stop(struct front *f)
{
    for (int i = 1; i < f->n_lanes; i++) {
        if (f->lanes[i].runs)
            mailbox_call(f->lanes[i].mail, end_loop, &f->lanes[i]);
    }
    for (int i = 1; i < f->n_lanes; i++) {
        if (f->lanes[i].runs)
            pthread_join(f->lanes[i].thread, NULL);
        f->lanes[i].runs = false;
    }
}

/* Whoever still waits for his row gets no answer any more. */
static void abandon_requests(struct lane *l)
{
    struct request *r;
    while ((r = TAILQ_FIRST(&l->requests))) {
        r->x = NULL;
        request_free(r);
    }
}

static void lane_fini(struct lane *l)
{
    requests_drop_spare(l);
    for (int i = 0; l->pools && i < ROUTE_CANDIDATES_MAX; i++)
        drop_pool(&l->pools[i]);
    free(l->pools);
    metrics_free(l->metrics);
    strbuf_fini(&l->record);
    config_free(l->config);
    cached_free(l->cached);
    spans_free(l->spans);
    budget_access_free(l->budgets);
    if (l->index == 0)
        return;
    auth_free(l->old_auth);
    auth_free(l->auth);
    if (l->fetcher)
        fetcher_free(l->fetcher);
}

/* Step by step over all lanes, because each step may still concern requests of another lane: a slot that one gives back
 * is granted to a waiter of the other. */
void lanes_free(struct front *f)
{
    for (int i = 0; i < f->n_lanes; i++)
        http_server_free(f->lanes[i].server); /* what runs is cancelled and settled, what waits is let go */
    for (int i = 0; i < f->n_lanes; i++)
        ledger_port_free(f->lanes[i].port); /* waits for the rows of those that were settled */
    for (int i = 0; i < f->n_lanes; i++) {  /* and for their records */
        audit_port_free(f->lanes[i].audit);
        f->lanes[i].audit = NULL;
    }
    for (int i = 0; i < f->n_lanes; i++)
        abandon_requests(&f->lanes[i]);
    for (int i = 0; i < f->n_lanes; i++) {
        if (f->lanes[i].mail)
            mailbox_deliver(f->lanes[i].mail); /* it may be about the pools */
    }
    for (int i = 0; i < f->n_lanes; i++)
        lane_fini(&f->lanes[i]);
    for (int i = 0; i < f->n_lanes; i++) {
        mailbox_free(f->lanes[i].mail);
        f->lanes[i].mail = NULL;
    }
    for (int i = 1; i < f->n_lanes; i++) {
        if (f->lanes[i].loop)
            event_base_free(f->lanes[i].loop);
    }
    free(f->lanes);
    f->lanes = NULL;
    f->n_lanes = 0;
}
