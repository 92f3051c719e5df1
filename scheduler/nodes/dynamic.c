/* Nodes that come and go without a configuration that lists them: they are made from a pool's template, on the table's
 * own loop. Who leaves takes the way of changes.c. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "scheduler/nodes/nodes.h"

static char *copy_of(const char *ours, const char *like)
{
    const char *text = ours ? ours : like;
    return text ? spw_strdup(text) : NULL;
}

struct config_node *config_node_copy(const struct config_node *c)
{
    struct config_node *own = spw_calloc(1, sizeof *own);
    *own = *c;
    own->name = spw_strdup(c->name);
    own->url = copy_of(c->url, NULL);
    own->tls_ca = copy_of(c->tls_ca, NULL);
    own->tls_cert = copy_of(c->tls_cert, NULL);
    own->tls_key = copy_of(c->tls_key, NULL);
    own->tls_name = copy_of(c->tls_name, NULL);
    own->domain = copy_of(c->domain, NULL);
    return own;
}

/* Everything but its name, its address and its keys is the template's, which lives as long as its configuration. */
static struct config_node *make_config(const struct nodes_newcomer *c)
{
    struct config_node *own = spw_calloc(1, sizeof *own);
    *own = *c->like;
    own->name = spw_strdup(c->name);
    own->url = spw_strdup(c->url);
    own->provider = PROVIDER_STATIC;
    own->per_hour = c->per_hour;
    own->tls_ca = copy_of(c->tls_ca, c->like->tls_ca);
    own->tls_cert = copy_of(c->tls_cert, c->like->tls_cert);
    own->tls_key = copy_of(c->tls_key, c->like->tls_key);
    own->tls_name = copy_of(c->tls_name, c->like->tls_name);
    own->market = c->market;
    own->domain = copy_of(c->domain, NULL);
    return own;
}

static enum rc make_spec(const struct nodes_newcomer *c, struct node_spec **out, struct error *e)
{
    struct node_spec *s = spw_calloc(1, sizeof *s);
    s->refs = 1;
    s->owner = config_ref(c->owner);
    s->config = s->own = make_config(c);
    enum rc rc = RC_OK;
    if (c->node_key)
        s->node_key = spw_strdup(c->node_key);
    else if (c->like->node_key_file)
        rc = file_read_secret(&s->node_key, c->like->node_key_file, e);
    if (rc != RC_OK)
        node_spec_unref(s);
    else
        *out = s;
    return rc;
}

static void learn_from_kin(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    const struct config_pool *pool = n->config->pool;
    pthread_mutex_lock(o->lock);
    for (int i = 0; pool && i < nodes_count(n->table); i++) {
        const struct node *other = nodes_at(n->table, i);
        /* By name: a reload makes pools anew. */
        if (other != n && node_is_there(other) && other->config->pool &&
            strcmp(other->config->pool->node.name, pool->node.name) == 0) {
            node_like_locked(n, other);
            break;
        }
    }
    pthread_mutex_unlock(o->lock);
}

enum rc nodes_add(struct nodes *t, const struct nodes_newcomer *c, struct node **out, struct error *e)
{
    struct node_spec *spec = NULL;
    struct error why;
    if (nodes_find(t, c->name))
        return error_set(e, RC_CONFLICT, "node '%s' is there already", c->name);
    const int place = changes_find_place(t, c->name);
    if (place < 0)
        return error_set(e, RC_FULL, "node '%s': all %d places are taken", c->name, ROUTE_CANDIDATES_MAX);
    enum rc rc = make_spec(c, &spec, e);
    if (rc != RC_OK)
        return error_prefix(e, "node '%s'", c->name);
    node_take_place(t, place, spec);
    struct node *n = nodes_at(t, place);
    n->dynamic = true;
    learn_from_kin(n);
    log_info(nodes_options(t)->log, "node", "added", LOG_S("node", n->name), LOG_S("address", c->url));
    if (node_start(n, &why) != RC_OK)
        node_enter(n, NODE_FAILING, why.message);
    *out = n;
    return RC_OK;
}

static void leave(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    n->leaving = true;
    node_changed_locked(n);
    pthread_mutex_unlock(o->lock);
    changes_soon(n->table);
}

void node_lose(struct node *n, const char *reason)
{
    SPW_ASSERT(n->dynamic);
    /* State first: what fails while its connections close shall not be sent here again. */
    node_enter(n, NODE_STOPPED, reason);
    if (n->client)
        node_disconnect(n);
    leave(n);
}

void node_cut(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    const unsigned before = n->target.generation++;
    pthread_mutex_unlock(o->lock);
    o->on_gone(n, before, o->arg);
}

void node_set_resting(struct node *n, bool resting)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    const bool changed = n->resting != resting;
    n->resting = resting;
    if (changed)
        node_changed_locked(n);
    pthread_mutex_unlock(o->lock);
    if (changed && !resting)
        o->on_capacity(o->arg);
}

void node_set_emptying(struct node *n, bool emptying)
{
    atomic_store_explicit(&n->emptying, emptying, memory_order_relaxed);
}

bool node_is_emptying(const struct node *n)
{
    return atomic_load_explicit(&n->emptying, memory_order_relaxed);
}

void node_keep_asleep(struct node *n, bool kept)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    if (n->kept_asleep != kept)
        node_changed_locked(n);
    n->kept_asleep = kept;
    pthread_mutex_unlock(o->lock);
}

int nodes_places(const struct nodes *t)
{
    int taken = 0;
    for (int i = 0; i < nodes_count(t); i++)
        taken += nodes_at(t, i)->place != PLACE_FREE;
    return ROUTE_CANDIDATES_MAX - taken;
}

struct node_load node_load(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    struct node_load l = {.state = n->state,
                          .draining = n->draining,
                          .leaving = n->leaving,
                          .resting = n->resting,
                          .fresh = n->probe_us >= 0,
                          .in_flight = n->in_flight,
                          .slots = n->config->slots ? n->config->slots : n->card.slots,
                          .idle_ns = n->in_flight ? 0 : mono_since(o->clock, n->work_ended),
                          .kv_tokens = n->config->kv_tokens ? n->config->kv_tokens : n->card.kv_tokens};
    pthread_mutex_unlock(o->lock);
    return l;
}
