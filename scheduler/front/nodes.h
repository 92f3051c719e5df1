/* The node table: who there is, whether it answers, what it carries.
 *
 * Owns the nodes, their upstream connection pools, health checks and the providers that start them. Everything that
 * takes decisions reads it through nodes_snapshot(). One loop for now; with several, this table stays with one owner and
 * only the connection pools (`client`) become one per loop.
 *
 * A node's state and what moves it:
 *
 *                    probe is good                     probe or connection fails
 *     STARTING  ----------------------->  READY  ------------------------------->  FAILING
 *        ^  \--- probe fails: stays,        ^                                         |
 *        |       reason changes             +-----------------------------------------+
 *        |                                              probe is good
 *        +--- its engine runs ---  STOPPED  <--- its engine ends (from any state; provider process)
 */
#ifndef SCHEDULER_FRONT_NODES_H
#define SCHEDULER_FRONT_NODES_H

#include "base/http_client.h"
#include "policies/route.h"
#include "providers/provider.h"
#include "scheduler/front/card.h"
#include "scheduler/front/front.h"

struct nodes;

struct node {
    struct nodes *table;
    int index;
    const struct config_node *config; /* borrowed */
    char *address;                    /* owned: "http://host:port"; NULL before there is one */
    char *authorization;              /* owned: "Bearer ..." towards the node, or NULL. Never logged */
    char *node_key;                   /* owned: see docs/NODE_API.md; NULL: it is no engine of ours. Never logged */
    struct node_card card;            /* of the last good health check */
    const void *kept_for;             /* the one request that may start here, or NULL: any may */
    struct http_client *client;       /* NULL before there is an address */
    enum node_state state;
    bool draining;
    char reason[160];
    struct wall state_since;
    int in_flight;
    uint64_t requests, failures;
    int pid, restarts;
    /* health check (health.c) */
    struct event *timer;     /* next probe, or the deadline of the running one */
    struct http_call *probe; /* NULL: none runs */
    int probe_status, probe_misses;
    bool probe_models; /* it has no /health: ask /v1/models */
    bool probe_card;   /* the running probe asks /v1/models under the node key */
    struct strbuf probe_body;
    struct mono probe_started;
    int64_t probe_us;
};

struct nodes_options { /* all borrowed */
    struct event_base *loop;
    const struct config *config;
    const struct log *log;
    const struct clock *clock;
    /* Capacity may have come: a node became ready, got undrained, or a slot was given back. On the loop, also from inside
     * node_release(). */
    void (*on_capacity)(void *arg);
    void *arg;
};

enum rc nodes_new(struct nodes **t, const struct nodes_options *o, struct error *e) SPW_MUST_USE;
/* No call may be running on any node's client any more. */
void nodes_free(struct nodes *t);
/* End the engines that we started; done(arg) on the loop once all are gone, also when there are none. */
void nodes_stop(struct nodes *t, int64_t grace_ms, void (*done)(void *arg), void *arg);

int nodes_count(const struct nodes *t);
struct node *nodes_at(const struct nodes *t, int index);
struct node *nodes_find(const struct nodes *t, const char *name);
bool nodes_any_ready(const struct nodes *t);
bool node_serves(const struct node *n, const char *model);
/* The name to send to the node instead of the one asked for, or NULL: the same. */
const char *node_upstream_model(const struct node *n);
void node_set_drain(struct node *n, bool draining);

/* What a request needs of a node. */
struct nodes_need {
    const char *model;
    uint64_t tried;       /* bit i: node i has failed for this request */
    const void *who;      /* whom a node may be kept for */
    bool said;            /* something has been said: the node must go on from there... */
    bool by_ids, by_text; /* ... and this is known of it */
    const char *numerics; /* the class of what has been said */
};
/* What route_choose() sees. Best suited to go on is a node of the same numerics class, then one of another class, then
 * one that goes on by text. Returns the count. */
int nodes_snapshot(const struct nodes *t, const struct nodes_need *need,
                   struct route_candidate out[ROUTE_CANDIDATES_MAX]);

/* A slot, from choosing the node until its leg ends. */
void node_take(struct node *n);
void node_release(struct node *n);
/* A leg failed on it. NODE_FAULT_CONNECT takes it out of service at once, until a probe is good. */
enum node_fault { NODE_FAULT_CONNECT, NODE_FAULT_ANSWER };
void node_failed(struct node *n, enum node_fault fault, const char *reason);

/* ---- between nodes.c and health.c ---------------------------------------------------------------------------- */

void node_enter(struct node *n, enum node_state state, const char *reason);
const struct nodes_options *nodes_options(const struct nodes *t);
void health_start(struct node *n);      /* the first probe, at once; n has a client */
void health_stop(struct node *n);       /* cancels what runs */
void health_probe_soon(struct node *n); /* an interval is too long to wait */

#endif
