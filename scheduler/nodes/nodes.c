#include "scheduler/nodes/nodes.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/file.h"
#include "base/tls.h"
#include "scheduler/nodes/node_key.h"

#define CONNECT_MS      2000
#define ENGINE_GRACE_MS 5000
#define PROBE_BYTES_MAX ((size_t)256 << 10)

struct nodes {
    struct nodes_options o;
    struct node *nodes;       /* ROUTE_CANDIDATES_MAX places */
    int n;                    /* that have ever been taken; atomic, and only grows */
    SSL_CTX *tls;             /* for https addresses that say no more; made when the first one needs it */
    struct provider *process; /* made when the first node needs it */
    char *key_file, *key;     /* of the engines that it starts; owned */
    struct holds holds;
    struct knowledge known;
    struct nodes_watts site;
    struct config *config; /* a reference; o.config is it */
    struct changes changes;
    struct price_book prices;
    int stopping; /* engines that nodes_stop() waits for */
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct event *stop_event;
    void (*listener)(void *arg); /* set before other loops run; NULL: nobody listens */
    void *listener_arg;
};

void nodes_listen(struct nodes *t, void (*listener)(void *arg), void *arg)
{
    t->listener_arg = arg;
    __atomic_store_n(&t->listener, listener, __ATOMIC_RELEASE);
}

const struct nodes_options *nodes_options(const struct nodes *t)
{
    return &t->o;
}

struct changes *nodes_changes(struct nodes *t)
{
    return &t->changes;
}

struct price_book *nodes_price_book(struct nodes *t)
{
    return &t->prices;
}

struct knowledge *nodes_known(const struct nodes *t)
{
    return (struct knowledge *)&t->known; /* as below */
}

struct nodes_watts *nodes_site(const struct nodes *t)
{
    return (struct nodes_watts *)&t->site;
}

struct holds *nodes_holds(const struct nodes *t)
{
    return (struct holds *)&t->holds; /* under the lock, not part of what const says */
}

const char *node_state_name(enum node_state s)
{
    switch (s) {
    case NODE_STARTING: return "starting";
    case NODE_READY: return "ready";
    case NODE_FAILING: return "failing";
    case NODE_STOPPED: return "stopped";
    case NODE_ASLEEP: return "asleep";
    }
    return "unknown";
}

static void tell_listener(void *arg)
{
    const struct nodes *t = arg;
    if (t->listener)
        t->listener(t->listener_arg);
}

/* doubts: NULL, or those that `state` was found out under. */
static bool enter(struct node *n, enum node_state state, const char *reason, const unsigned *doubts)
{
    const struct nodes_options *o = &n->table->o;
    pthread_mutex_lock(o->lock);
    if (doubts && *doubts != n->doubts) {
        pthread_mutex_unlock(o->lock);
        return false;
    }
    bool changed = n->state != state, other_reason = strcmp(n->reason, reason) != 0;
    n->state = state;
    node_changed_locked(n);
    if (other_reason)
        snprintf(n->reason, sizeof n->reason, "%s", reason);
    if (changed)
        n->state_since = clock_wall(o->clock);
    pthread_mutex_unlock(o->lock);
    if (!changed && !other_reason)
        return true;
    log_write(o->log, state == NODE_FAILING || state == NODE_STOPPED ? LOG_WARN : LOG_INFO, "node",
              changed ? "state changed" : "reason changed",
              (const struct log_field[]){LOG_S("node", n->name), LOG_S("state", node_state_name(state)),
                                         LOG_S("reason", n->reason)},
              3);
    if (changed && (state == NODE_STARTING || state == NODE_STOPPED))
        n->sheet = (struct timesheet){.has_energy = false};
    if (changed && (state == NODE_READY || state == NODE_ASLEEP))
        o->on_capacity(o->arg);
    if (changed && __atomic_load_n(&n->table->listener, __ATOMIC_ACQUIRE))
        mailbox_call(o->mail, tell_listener, n->table);
    return true;
}

void node_enter(struct node *n, enum node_state state, const char *reason)
{
    enter(n, state, reason, NULL);
}

bool node_probed_well(struct node *n, enum node_state state, unsigned doubts)
{
    return enter(n, state, "", &doubts);
}

unsigned node_doubts_now(const struct node *n)
{
    pthread_mutex_lock(n->table->o.lock);
    unsigned doubts = n->doubts;
    pthread_mutex_unlock(n->table->o.lock);
    return doubts;
}

enum node_state node_state_now(const struct node *n)
{
    pthread_mutex_lock(n->table->o.lock);
    enum node_state state = n->state;
    pthread_mutex_unlock(n->table->o.lock);
    return state;
}

/* ---- addresses -------------------------------------------------------------------------------------------------- */

enum rc node_client_new(struct node *n, struct event_base *loop, struct http_client **c, unsigned *generation,
                        struct error *e)
{
    struct nodes *t = n->table;
    char tls_name[sizeof n->tls_name];
    /* All of it at once: from here on the node may move, or its place be cleared. */
    pthread_mutex_lock(t->o.lock);
    struct node_target target = n->target;
    struct node_spec *spec = node_spec_ref(n->spec);
    SSL_CTX *tls = target.at.host[0] && target.at.tls ? n->tls : NULL;
    if (tls)
        SSL_CTX_up_ref(tls);
    memcpy(tls_name, n->tls_name, sizeof tls_name);
    pthread_mutex_unlock(t->o.lock);
    if (!target.at.host[0]) {
        node_spec_unref(spec);
        return error_set(e, RC_AGAIN, "node '%s' has no address at the moment", n->name);
    }
    struct http_client_options o = {
        /* no limits on silence here: requests and probes have their own */
        .limits = http_limits_default,
        .connect_ms = CONNECT_MS,
        .tls = tls,
        .tls_name = tls_name[0] ? tls_name : spec->config->tls_name,
    };
    o.limits.body_bytes_max = 0;
    *generation = target.generation;
    enum rc rc = http_client_new(c, loop, target.at.host, target.at.port, &o, e);
    SSL_CTX_free(tls);
    node_spec_unref(spec);
    return rc;
}

/* From now on the node is at this place, or (host "") nowhere. Returns the generation that ends. */
static unsigned move_to(struct node *n, struct node_target target)
{
    pthread_mutex_lock(n->table->o.lock);
    unsigned before = n->target.generation;
    target.generation = before + 1;
    n->target = target;
    pthread_mutex_unlock(n->table->o.lock);
    return before;
}

/* The system's roots are read once for all nodes. */
static enum rc open_tls(struct node *n, struct error *e)
{
    struct nodes *t = n->table;
    const struct tls_client_files own = {n->config->tls_ca, n->config->tls_cert, n->config->tls_key};
    if (own.ca || own.cert)
        return tls_client_new(&n->tls, &own, e);
    enum rc rc = t->tls ? RC_OK : tls_client_new(&t->tls, &(struct tls_client_files){.ca = NULL}, e);
    if (rc == RC_OK && SSL_CTX_up_ref(t->tls) == 1)
        n->tls = t->tls;
    return rc;
}

enum rc node_connect(struct node *n, const char *url, struct error *e)
{
    struct nodes *t = n->table;
    struct node_target a = {.generation = 0};
    unsigned generation;
    enum rc rc = url_parse(&a.at, url, e);
    if (rc == RC_OK && a.at.tls && !n->tls)
        rc = open_tls(n, e);
    if (rc != RC_OK)
        return rc;
    move_to(n, a);
    rc = node_client_new(n, t->o.loop, &n->client, &generation, e);
    if (rc == RC_OK) {
        n->address = spw_strdup(url);
        health_start(n);
    }
    return rc;
}

void node_disconnect(struct node *n)
{
    unsigned generation = move_to(n, (struct node_target){.generation = 0});
    health_stop(n);
    http_client_free(n->client);
    free(n->address);
    n->client = NULL;
    n->address = NULL;
    n->table->o.on_gone(n, generation, n->table->o.arg);
}

/* ---- provider process ------------------------------------------------------------------------------------------- */

static void on_instance(const struct provider_instance *i, void *arg)
{
    struct nodes *t = arg;
    struct node *n = nodes_find(t, i->name);
    struct error e;
    if (!n) /* the last word of one that has left */
        return;
    n->pid = i->pid;
    n->restarts = i->restarts;
    if (i->state == INSTANCE_RUNNING) {
        char url[64] = "";
        snprintf(url, sizeof url, "http://%s:%d", i->host, i->port);
        pthread_mutex_lock(t->o.lock);
        node_forget_locked(n);
        pthread_mutex_unlock(t->o.lock);
        node_tell(n);
        node_enter(n, NODE_STARTING, "the engine is starting");
        if (node_connect(n, url, &e) != RC_OK)
            node_enter(n, NODE_FAILING, e.message);
    } else if (i->state == INSTANCE_BACKOFF || i->state == INSTANCE_GONE) {
        /* State first: what fails while its connections close shall not be sent here again. */
        node_enter(n, NODE_STOPPED, i->reason[0] ? i->reason : "the engine has ended");
        if (n->client)
            node_disconnect(n);
    }
}

enum rc nodes_engine_key(struct nodes *t, const char **key, const char **file, struct error *e)
{
    if (!t->key_file)
        t->key_file = spw_asprintf("%s/node.key", t->o.config->state_dir);
    enum rc rc = t->key ? RC_OK : node_key_make(&t->key, t->key_file, e);
    *key = t->key;
    *file = t->key_file;
    return rc;
}

/* The key that our engines are started with, and the provider that starts them. */
static enum rc open_process(struct nodes *t, struct error *e)
{
    struct provider_env env = {
        .loop = t->o.loop, .log = t->o.log, .clock = t->o.clock, .on_change = on_instance, .arg = t};
    const char *key, *file;
    if (t->process)
        return RC_OK;
    enum rc rc = nodes_engine_key(t, &key, &file, e);
    return rc == RC_OK ? provider_process.open(&t->process, &env, e) : rc;
}

static enum rc start_engine(struct node *n, struct error *e)
{
    struct nodes *t = n->table;
    const struct config_node *c = n->config;
    struct provider_spec spec = {
        .name = c->name,
        .engine = c->engine,
        .model_path = c->model_path,
        .alias = node_upstream_model(c) ? node_upstream_model(c) : c->models[0],
        .node_key_file = t->key_file,
        .port = c->port,
        .threads = c->threads,
        .ctx_size = c->ctx_size,
        .max_batch = c->max_batch,
    };
    enum rc rc = t->process->ops->launch(t->process, &spec, e);
    n->engine = rc == RC_OK;
    return rc;
}

enum rc node_end_engine(struct node *n, provider_done_cb *done)
{
    struct nodes *t = n->table;
    if (!n->engine)
        return RC_NOT_FOUND;
    n->engine = false;
    return t->process->ops->terminate(t->process, n->name, ENGINE_GRACE_MS, done, n);
}

static void one_stopped(enum provider_failure failure, const char *text, void *arg)
{
    struct nodes *t = arg;
    (void)failure, (void)text;
    if (--t->stopping == 0)
        event_active(t->stop_event, EV_TIMEOUT, 0);
}

static void on_stopped(evutil_socket_t fd, short what, void *arg)
{
    struct nodes *t = arg;
    (void)fd;
    (void)what;
    t->stopped(t->stopped_arg);
}

void nodes_stop(struct nodes *t, int64_t grace_ms, void (*done)(void *arg), void *arg)
{
    t->stopped = done;
    t->stopped_arg = arg;
    t->stop_event = evtimer_new(t->o.loop, on_stopped, t);
    for (int i = 0; i < t->n && t->process; i++) {
        if (node_is_there(&t->nodes[i]) &&
            t->process->ops->terminate(t->process, t->nodes[i].name, grace_ms, one_stopped, t) == RC_OK)
            t->stopping++;
    }
    if (t->stopping == 0)
        event_active(t->stop_event, EV_TIMEOUT, 0);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static void forget_secret(char *secret)
{
    if (secret)
        OPENSSL_cleanse(secret, strlen(secret));
    free(secret);
}

struct node_spec *node_spec_ref(struct node_spec *s)
{
    if (s)
        __atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}

void node_spec_unref(struct node_spec *s)
{
    if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    forget_secret(s->authorization);
    forget_secret(s->node_key);
    config_free(s->owner);
    if (s->own) {
        free((char *)s->own->name);
        free((char *)s->own->url);
        free((char *)s->own->tls_ca);
        free((char *)s->own->tls_cert);
        free((char *)s->own->tls_key);
        free((char *)s->own->tls_name);
        free((char *)s->own->domain);
        free(s->own);
    }
    free(s);
}

/* Reads the node's secrets from their files. A reference is the caller's. */
enum rc node_spec_make(struct nodes *t, const struct config *owner, const struct config_node *c, struct node_spec **out,
                       struct error *e)
{
    struct node_spec *s = spw_calloc(1, sizeof *s);
    *s = (struct node_spec){.refs = 1, .owner = config_ref(owner), .config = c};
    enum rc rc = c->node_key_file ? file_read_secret(&s->node_key, c->node_key_file, e) : RC_OK;
    if (rc == RC_OK && c->api_key_file) {
        char *secret = NULL;
        rc = file_read_secret(&secret, c->api_key_file, e);
        if (rc == RC_OK)
            s->authorization = spw_asprintf("Bearer %s", secret);
        forget_secret(secret);
    }
    if (rc == RC_OK && c->provider == PROVIDER_PROCESS) {
        rc = open_process(t, e);
        if (rc == RC_OK)
            s->node_key = spw_strdup(t->key);
    }
    if (rc != RC_OK) {
        node_spec_unref(s);
        return error_prefix(e, "node '%s'", c->name);
    }
    *out = s;
    return RC_OK;
}

/* Of a node whose config its owner holds, or that it holds itself: then the copy gets one, too. */
struct node_spec *node_spec_copy(const struct node_spec *s)
{
    struct node_spec *c = spw_calloc(1, sizeof *c);
    *c = *s;
    c->refs = 1;
    c->owner = config_ref(s->owner);
    c->own = NULL;
    c->authorization = s->authorization ? spw_strdup(s->authorization) : NULL;
    c->node_key = s->node_key ? spw_strdup(s->node_key) : NULL;
    if (s->own)
        c->config = c->own = config_node_copy(s->own);
    return c;
}

struct node_spec *node_spec_with_key(const struct node_spec *s, const char *node_key)
{
    struct node_spec *c = node_spec_copy(s);
    forget_secret(c->node_key);
    c->node_key = spw_strdup(node_key);
    return c;
}

enum rc node_start(struct node *n, struct error *e)
{
    const struct config_node *c = n->config;
    if (c->provider == PROVIDER_STATIC && !c->url) {
        node_enter(n, NODE_STARTING, "waits for its engine to join");
        return RC_OK;
    }
    enum rc rc = c->provider == PROVIDER_PROCESS ? start_engine(n, e) : node_connect(n, c->url, e);
    return rc == RC_OK ? rc : error_prefix(e, "node '%s'", c->name);
}

static const struct config_node nobody = {.name = ""};

bool node_is_there(const struct node *n)
{
    return n->place == PLACE_TAKEN || n->place == PLACE_ENDING || n->place == PLACE_ENDED;
}

void nodes_set_config(struct nodes *t, const struct config *c)
{
    struct config *before = t->config;
    t->config = config_ref(c);
    t->o.config = t->config;
    holds_configure(&t->holds, c);
    t->known.tariff_due_us = 0; /* it may be another one */
    config_free(before);
}

void node_take_place(struct nodes *t, int index, struct node_spec *spec)
{
    struct node *n = &t->nodes[index];
    spec = node_spec_priced(t, spec);
    bool same_name = strcmp(n->name, spec->config->name) == 0;
    spec->index = index;
    pthread_mutex_lock(t->o.lock);
    *n = (struct node){.table = t,
                       .index = index,
                       .spec = spec,
                       .config = spec->config,
                       .state = NODE_STARTING,
                       .state_since = clock_wall(t->o.clock),
                       .work_ended = clock_now(t->o.clock),
                       .place = PLACE_TAKEN,
                       .target = {.generation = n->target.generation},
                       .requests = same_name ? n->requests : 0,
                       .failures = same_name ? n->failures : 0,
                       .opened = same_name ? n->opened : 0,
                       .cooled = same_name ? n->cooled : 0,
                       .probe_us = -1};
    snprintf(n->name, sizeof n->name, "%s", spec->config->name);
    if (index >= t->n)
        __atomic_store_n(&t->n, index + 1, __ATOMIC_RELEASE);
    if (!same_name)
        router_drop(t->known.router, index); /* and what was learned of who had the place */
    node_changed_locked(n);
    pthread_mutex_unlock(t->o.lock);
    strbuf_init(&n->probe_body, PROBE_BYTES_MAX);
    if (!same_name)
        t->o.on_new_name(n, t->o.arg);
}

void node_clear_place(struct node *n)
{
    struct nodes *t = n->table;
    if (n->client)
        node_disconnect(n);
    node_hold_stop(n);
    strbuf_fini(&n->probe_body);
    pthread_mutex_lock(t->o.lock);
    struct node_spec *spec = n->spec;
    SSL_CTX *tls = n->tls;
    n->spec = NULL;
    n->tls = NULL;
    n->config = &nobody;
    n->leaving = n->draining = n->resting = n->kept_asleep = false;
    node_set_emptying(n, false);
    n->state = NODE_STOPPED;
    n->place = PLACE_RESTS;
    node_changed_locked(n);
    pthread_mutex_unlock(t->o.lock);
    SSL_CTX_free(tls);
    node_spec_unref(spec);
}

enum rc nodes_new(struct nodes **out, const struct nodes_options *o, struct error *e)
{
    const struct config *c = o->config;
    enum rc rc = RC_OK;
    if (c->n_nodes > ROUTE_CANDIDATES_MAX)
        return error_set(e, RC_INVALID, "%d nodes are configured; at most %d can be routed", c->n_nodes,
                         ROUTE_CANDIDATES_MAX);
    struct nodes *t = spw_calloc(1, sizeof(*t));
    t->o = *o;
    nodes_set_config(t, c);
    SPW_ASSERT(getrandom(&t->holds.random, sizeof t->holds.random, 0) == sizeof t->holds.random);
    t->holds.random |= 1;
    t->nodes = spw_calloc(ROUTE_CANDIDATES_MAX, sizeof *t->nodes);
    rc = known_new(&t->known, o, e);
    for (int i = 0; i < c->n_nodes && rc == RC_OK; i++) {
        struct node_spec *spec = NULL;
        rc = node_spec_make(t, c, &c->nodes[i], &spec, e);
        if (rc != RC_OK)
            break;
        node_take_place(t, i, spec);
        rc = node_start(&t->nodes[i], e);
    }
    if (rc != RC_OK) {
        nodes_free(t);
        return rc;
    }
    *out = t;
    return RC_OK;
}

void nodes_free(struct nodes *t)
{
    if (!t)
        return;
    if (t->process)
        t->process->ops->close(t->process);
    changes_stop(t);
    for (int i = 0; i < t->n; i++) {
        if (node_is_there(&t->nodes[i]))
            node_clear_place(&t->nodes[i]);
    }
    if (t->stop_event)
        event_free(t->stop_event);
    if (t->key_file)
        unlink(t->key_file);
    free(t->key_file);
    forget_secret(t->key);
    SSL_CTX_free(t->tls);
    config_free(t->config);
    known_fini(&t->known);
    free(t->prices.list);
    free(t->nodes);
    free(t);
}

int nodes_count(const struct nodes *t)
{
    return __atomic_load_n(&t->n, __ATOMIC_ACQUIRE);
}

struct node *nodes_at(const struct nodes *t, int index)
{
    SPW_ASSERT(index >= 0 && index < nodes_count(t));
    return &t->nodes[index];
}

/* One that leaves is found as long as no other of its name is there. */
struct node *nodes_find(const struct nodes *t, const char *name)
{
    struct node *leaving = NULL;
    for (int i = 0; i < t->n; i++) {
        struct node *n = &t->nodes[i];
        if (!node_is_there(n) || strcmp(n->name, name) != 0)
            continue;
        if (!n->leaving)
            return n;
        leaving = n;
    }
    return leaving;
}

bool nodes_any_ready(const struct nodes *t)
{
    bool found = false;
    pthread_mutex_lock(t->o.lock);
    for (int i = 0; i < t->n && !found; i++) {
        const struct node *n = &t->nodes[i];
        found = node_is_there(n) && (n->state == NODE_READY || n->state == NODE_ASLEEP) && !n->draining && !n->leaving;
    }
    pthread_mutex_unlock(t->o.lock);
    return found;
}

bool nodes_any_starting(const struct nodes *t)
{
    for (int i = 0; i < t->n; i++)
        if (node_is_there(&t->nodes[i]) && node_state_now(&t->nodes[i]) == NODE_STARTING)
            return true;
    return false;
}

bool node_serves(const struct node *n, const char *model)
{
    return config_node_serves(n->config, model);
}

/* An engine of ours answers to one name only, its alias. */
const char *node_upstream_model(const struct config_node *c)
{
    if (c->upstream_model)
        return c->upstream_model;
    return c->provider == PROVIDER_PROCESS && c->n_models > 1 ? c->models[0] : NULL;
}

void node_set_drain(struct node *n, bool draining)
{
    const struct nodes_options *o = &n->table->o;
    pthread_mutex_lock(o->lock);
    bool changed = n->draining != draining;
    int in_flight = n->in_flight;
    n->draining = draining;
    node_changed_locked(n);
    pthread_mutex_unlock(o->lock);
    if (!changed)
        return;
    log_info(o->log, "node", draining ? "draining: gets nothing new" : "back in service", LOG_S("node", n->name),
             LOG_I("in_flight", in_flight));
    if (!draining)
        o->on_capacity(o->arg);
}

static void probe_soon(void *arg)
{
    health_probe_soon(arg);
}

bool node_failed(struct node *n, enum node_fault fault, const char *reason)
{
    const struct nodes_options *o = &n->table->o;
    pthread_mutex_lock(o->lock);
    n->failures += fault != NODE_FAULT_AWAY;
    n->doubts += fault != NODE_FAULT_ANSWER;
    bool out = fault != NODE_FAULT_ANSWER && n->state == NODE_READY;
    pthread_mutex_unlock(o->lock);
    if (!out)
        return false;
    node_enter(n, NODE_FAILING, reason);
    mailbox_call(o->mail, probe_soon, n);
    return true;
}
