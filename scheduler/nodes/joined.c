/* Nodes whose engines come by themselves (scheduler/join): where they are, what they say of themselves, and their
 * silence. On the table's own loop. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/tls.h"
#include "scheduler/nodes/nodes.h"

const char *node_watts_name(enum node_watts w)
{
    static const char *const names[] = {"unknown", "estimated", "measured"};
    return names[w];
}

bool node_may_join(const struct node *n)
{
    return node_is_there(n) && !n->leaving && n->config->provider == PROVIDER_STATIC && (!n->config->url || n->dynamic);
}

/* Nobody's legs use it before the address says https. */
static enum rc open_tls(struct node *n, const struct node_place_at *at, struct error *e)
{
    const struct tls_client_files files = {at->tls_ca, at->tls_cert, at->tls_key};
    return n->tls ? RC_OK : tls_client_new(&n->tls, &files, e);
}

static bool is_there_already(const struct node *n, const struct node_place_at *at)
{
    return n->address && strcmp(n->address, at->url) == 0 && n->spec->node_key &&
           strcmp(n->spec->node_key, at->node_key) == 0;
}

/* The same, but with the key that its engine was given. */
static void take_key(struct node *n, const char *key)
{
    const struct nodes_options *o = nodes_options(n->table);
    struct node_spec *own = node_spec_with_key(n->spec, key);
    pthread_mutex_lock(o->lock);
    struct node_spec *before = n->spec;
    n->spec = own;
    n->config = own->config;
    node_forget_locked(n);
    pthread_mutex_unlock(o->lock);
    node_spec_unref(before);
    node_tell(n);
}

enum rc node_place(struct node *n, const struct node_place_at *at, struct error *e)
{
    SPW_ASSERT(node_may_join(n));
    node_heard(n);
    if (is_there_already(n, at)) {
        health_probe_soon(n);
        return RC_OK;
    }
    enum rc rc = open_tls(n, at, e);
    if (rc != RC_OK)
        return error_prefix(e, "node '%s'", n->name);
    if (n->client)
        node_disconnect(n);
    take_key(n, at->node_key);
    node_enter(n, NODE_STARTING, "its engine has joined");
    pthread_mutex_lock(nodes_options(n->table)->lock); /* a loop may be about to connect to where it was */
    text_put(n->tls_name, n->tls_name + sizeof n->tls_name, at->tls_name);
    pthread_mutex_unlock(nodes_options(n->table)->lock);
    return node_connect(n, at->url, e);
}

void node_take_beat(struct node *n, const struct node_vitals *v)
{
    const struct nodes_options *o = nodes_options(n->table);
    node_heard(n);
    node_take_watts(n, v->watts_are, v->milliwatts);
    pthread_mutex_lock(o->lock);
    const bool known = v->card.numerics[0] != '\0';
    const bool differs = known && !node_card_equal(&n->card, &v->card);
    const enum node_state state = n->state;
    if (differs) {
        n->card = v->card;
        node_changed_locked(n);
    }
    pthread_mutex_unlock(o->lock);
    /* What it says of its state is asked of it at once, over the way that requests take: only then it is believed. */
    const bool is_asleep = state == NODE_ASLEEP;
    if (n->client && (v->asleep != is_asleep || (v->ready && !v->asleep && state != NODE_READY) ||
                      (!v->ready && state == NODE_READY)))
        health_probe_soon(n);
}

void node_take_watts(struct node *n, enum node_watts are, int64_t milliwatts)
{
    atomic_store_explicit(&n->watts_are, are, memory_order_relaxed);
    atomic_store_explicit(&n->milliwatts, milliwatts, memory_order_relaxed);
}

enum node_watts node_milliwatts(const struct node *n, const struct config_node *c, int64_t *milliwatts)
{
    const enum node_watts are = (enum node_watts)atomic_load_explicit(&n->watts_are, memory_order_relaxed);
    *milliwatts = atomic_load_explicit(&n->milliwatts, memory_order_relaxed);
    if (are == NODE_WATTS_MEASURED || (are == NODE_WATTS_ESTIMATED && c->watts <= 0))
        return are;
    *milliwatts = (int64_t)c->watts * 1000;
    return c->watts > 0 ? NODE_WATTS_ESTIMATED : NODE_WATTS_UNKNOWN;
}

void node_silence(struct node *n, const char *reason)
{
    n->silent = true;
    node_take_watts(n, NODE_WATTS_UNKNOWN, 0);
    node_enter(n, NODE_FAILING, reason);
}

void node_heard(struct node *n)
{
    if (!n->silent)
        return;
    n->silent = false;
    health_probe_soon(n);
}
