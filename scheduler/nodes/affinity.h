/* Prefix affinity in the front: policies/prefix.h behind a lock of its own. A request is hashed once, as it comes in;
 * whoever looks for a node asks who holds its beginning; and what a leg sends is remembered.
 *
 * Threads: affinity_* may be called on any lane. The lock is taken inside, over nothing but the map; it may be taken
 * while front.lock is held, never the other way round. What a request knows (request_prefix) changes only on its lane,
 * and not while it waits, so that whoever grants slots may read it. */
#ifndef SCHEDULER_NODES_AFFINITY_H
#define SCHEDULER_NODES_AFFINITY_H

#include "policies/prefix.h"
#include "scheduler/wire/request.h"

struct request;

/* Of one request. {0}: nothing is known of it, such as of prompts shorter than a block. */
struct request_prefix {
    uint64_t *hashes; /* owned */
    int n;
    int64_t input_tokens; /* estimate */
    int n_holders;
    struct prefix_holder holders[PREFIX_HOLDERS_MAX];
    unsigned generations[PREFIX_HOLDERS_MAX]; /* of the holders' addresses, as they were sent it */
};

struct affinity;
/* RC_INVALID: the memory is too small for so many nodes. */
enum rc affinity_new(struct affinity **a, int64_t memory_bytes, int n_nodes, struct error *e) SPW_MUST_USE;
void affinity_free(struct affinity *a); /* NULL is fine */

/* The prompt's blocks, for this tenant ("": all share) asking for body->model. */
void affinity_read(const struct affinity *a, struct request_prefix *p, const struct request_body *body,
                   const char *tenant);
void affinity_drop(struct request_prefix *p);
/* Who holds its beginning now? */
void affinity_look(struct affinity *a, struct request_prefix *p);
/* The node at this address has been sent it; kv_tokens: what its KV cache has room for, 0: unknown. */
void affinity_sent(struct affinity *a, const struct request_prefix *p, int node, unsigned generation,
                   int64_t kv_tokens);
/* Tokens of the prompt that the node at this address is expected to hold. */
int64_t affinity_tokens(const struct request_prefix *p, int node, unsigned generation);

struct affinity_stats {
    struct prefix_stats map;
    int64_t sent, hits,
        hit_tokens; /* requests with a block or more; to a node that held one or more; how much of them */
};
struct affinity_stats affinity_stats(const struct affinity *a);

#endif
