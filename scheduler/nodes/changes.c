/* Nodes that come, change and go by a reload, on the table's own loop.
 *
 *   commit -> named as before, and alike in what a running node cannot take over: gets its new specification in place
 *          -> gone, or another one of the same name: leaves = gets nothing new, finishes what it has, its engine is ended,
 *             its connections are closed, and its place rests until every loop has been told
 *          -> new: waits for a place, and for an engine of the same name to be gone; then it is started
 *
 * While anybody leaves or waits a timer looks after it. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/config/change.h"
#include "scheduler/nodes/nodes.h"

#define SWEEP_MS 50

struct nodes_plan {
    const struct config *config; /* borrowed: its specs hold it */
    struct node_spec *specs[ROUTE_CANDIDATES_MAX];
    int n;
};

enum rc nodes_prepare(struct nodes *t, const struct config *c, struct nodes_plan **out, struct error *e)
{
    struct nodes_plan *plan = spw_calloc(1, sizeof *plan);
    enum rc rc = RC_OK;
    SPW_ASSERT(c->n_nodes <= ROUTE_CANDIDATES_MAX); /* the schema's bound */
    plan->config = c;
    for (int i = 0; i < c->n_nodes && rc == RC_OK; i++) {
        rc = node_spec_make(t, c, &c->nodes[i], &plan->specs[i], e);
        plan->n += rc == RC_OK;
    }
    if (rc == RC_OK)
        *out = plan;
    else
        nodes_discard(plan);
    return rc;
}

void nodes_discard(struct nodes_plan *plan)
{
    for (int i = 0; plan && i < plan->n; i++)
        node_spec_unref(plan->specs[i]);
    free(plan);
}

/* ---- leaving ---------------------------------------------------------------------------------------------------- */

static void rested(void *arg)
{
    struct node *n = arg;
    n->place = PLACE_FREE;
}

static void free_place(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    log_info(o->log, "node", "removed", LOG_S("node", n->name));
    node_clear_place(n);
    o->rest(n, rested, o->arg);
}

static void on_engine_gone(enum provider_failure failure, const char *text, void *arg)
{
    struct node *n = arg;
    (void)failure, (void)text;
    n->place = PLACE_ENDED; /* the provider is in the middle of telling: the sweep goes on */
}

/* True: nobody has anything there any more. */
static bool is_empty(const struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    bool empty = n->in_flight == 0 && !n->kept_for;
    pthread_mutex_unlock(o->lock);
    return empty;
}

static void let_go(struct node *n)
{
    if (n->place == PLACE_ENDED) {
        free_place(n);
        return;
    }
    if (n->place != PLACE_TAKEN || !n->leaving || !is_empty(n))
        return;
    n->place = PLACE_ENDING;
    if (node_end_engine(n, on_engine_gone) != RC_OK) /* it has none, or it has ended already */
        free_place(n);
}

/* ---- coming ----------------------------------------------------------------------------------------------------- */

/* An engine's name, port and files are its own until it is gone. */
static bool is_in_the_way(const struct node *n, const struct node_spec *spec)
{
    return node_is_there(n) && strcmp(n->name, spec->config->name) == 0 &&
           (n->config->provider == PROVIDER_PROCESS || spec->config->provider == PROVIDER_PROCESS);
}

/* The place that it had before, else one that nobody has had, else any. -1: none at the moment. */
int changes_find_place(struct nodes *t, const char *name)
{
    int n = nodes_count(t), any = -1;
    for (int i = 0; i < n; i++) {
        const struct node *node = nodes_at(t, i);
        if (node->place != PLACE_FREE)
            continue;
        if (strcmp(node->name, name) == 0)
            return i;
        any = any < 0 ? i : any;
    }
    return n < ROUTE_CANDIDATES_MAX ? n : any;
}

static bool try_start(struct nodes *t, struct node_spec *spec)
{
    struct error e;
    for (int i = 0; i < nodes_count(t); i++) {
        if (is_in_the_way(nodes_at(t, i), spec))
            return false;
    }
    int place = changes_find_place(t, spec->config->name);
    if (place < 0)
        return false;
    node_take_place(t, place, spec);
    struct node *n = nodes_at(t, place);
    log_info(nodes_options(t)->log, "node", "added", LOG_S("node", n->name));
    if (node_start(n, &e) != RC_OK)
        node_enter(n, NODE_FAILING, e.message);
    return true;
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

/* True: somebody still leaves or waits. */
static bool sweep(struct nodes *t)
{
    struct changes *c = nodes_changes(t);
    bool more = false;
    for (int i = 0; i < nodes_count(t); i++) {
        struct node *n = nodes_at(t, i);
        let_go(n);
        more = more || n->leaving;
    }
    int kept = 0;
    for (int i = 0; i < c->n_pending; i++) {
        if (!try_start(t, c->pending[i]))
            c->pending[kept++] = c->pending[i];
    }
    c->n_pending = kept;
    return more || kept;
}

static void arm(struct nodes *t)
{
    const struct timeval tv = {.tv_usec = SWEEP_MS * 1000};
    event_add(nodes_changes(t)->sweep, &tv);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    if (sweep(arg))
        arm(arg);
}

void changes_soon(struct nodes *t)
{
    struct changes *c = nodes_changes(t);
    if (!c->sweep)
        c->sweep = evtimer_new(nodes_options(t)->loop, on_sweep, t);
    if (sweep(t))
        arm(t);
}

static const char *alias_of(const struct config_node *c)
{
    const char *upstream = node_upstream_model(c);
    return upstream ? upstream : c->models[0];
}

/* Can the running node be what c says? An engine was started with the name that it answers to. */
static bool fits(const struct node *n, const struct config_node *c)
{
    return config_node_same(n->config, c) &&
           (c->provider != PROVIDER_PROCESS || strcmp(alias_of(n->config), alias_of(c)) == 0);
}

static struct node_spec *take_spec(struct nodes_plan *plan, const struct node *n)
{
    for (int i = 0; i < plan->n; i++) {
        struct node_spec *s = plan->specs[i];
        if (!s || !fits(n, s->config))
            continue;
        plan->specs[i] = NULL;
        return s;
    }
    return NULL;
}

static struct node_spec *with_key_of(struct node_spec *spec, const struct node_spec *before)
{
    struct node_spec *own = node_spec_with_key(spec, before->node_key);
    node_spec_unref(spec);
    return own;
}

void nodes_commit(struct nodes *t, struct nodes_plan *plan)
{
    const struct nodes_options *o = nodes_options(t);
    struct changes *c = nodes_changes(t);
    struct node_spec *before[ROUTE_CANDIDATES_MAX] = {NULL};
    pthread_mutex_lock(o->lock);
    for (int i = 0; i < nodes_count(t); i++) {
        struct node *n = nodes_at(t, i);
        if (!node_is_there(n) || n->leaving || n->dynamic)
            continue;
        struct node_spec *spec = take_spec(plan, n);
        if (spec) {
            if (node_may_join(n) && n->spec->node_key) /* its engine has it already */
                spec = with_key_of(spec, n->spec);
            spec = node_spec_priced(t, spec);
            spec->index = i;
            before[i] = n->spec;
            n->spec = spec;
            n->config = spec->config;
        }
        n->leaving = !spec;
        node_changed_locked(n);
    }
    nodes_set_config(t, plan->config);
    pthread_mutex_unlock(o->lock);
    for (int i = 0; i < ROUTE_CANDIDATES_MAX; i++)
        node_spec_unref(before[i]);
    for (int i = 0; i < c->n_pending; i++) /* of a reload before, overtaken by this one */
        node_spec_unref(c->pending[i]);
    c->n_pending = 0;
    for (int i = 0; i < plan->n; i++) {
        if (plan->specs[i])
            c->pending[c->n_pending++] = plan->specs[i];
    }
    free(plan);
    changes_soon(t);
    o->on_capacity(o->arg);
}

void changes_stop(struct nodes *t)
{
    struct changes *c = nodes_changes(t);
    for (int i = 0; i < c->n_pending; i++)
        node_spec_unref(c->pending[i]);
    c->n_pending = 0;
    if (c->sweep)
        event_free(c->sweep);
    c->sweep = NULL;
}
