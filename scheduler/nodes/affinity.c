#include "scheduler/nodes/affinity.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/alloc.h"

#define BLOCKS_MAX 4096 /* of one prompt: 4 MiB; what is beyond is like its beginning */

struct affinity {
    pthread_mutex_t lock;
    uint64_t secret; /* of this process: nobody can choose prompts whose hashes collide */
    int n_nodes;
    struct prefix_map *map; /* under the lock, like the rest */
    unsigned *generations;  /* by node: of the address that the map speaks of */
    int64_t sent, hits, hit_tokens;
};

enum rc affinity_new(struct affinity **out, int64_t memory_bytes, int n_nodes, struct error *e)
{
    struct affinity *a = spw_calloc(1, sizeof *a);
    pthread_mutex_init(&a->lock, NULL);
    SPW_ASSERT(getrandom(&a->secret, sizeof a->secret, 0) == sizeof a->secret);
    a->n_nodes = n_nodes;
    a->generations = spw_calloc((size_t)n_nodes, sizeof *a->generations);
    enum rc rc = prefix_new(&a->map, memory_bytes, n_nodes, e);
    if (rc != RC_OK) {
        affinity_free(a);
        return rc;
    }
    *out = a;
    return RC_OK;
}

void affinity_free(struct affinity *a)
{
    if (!a)
        return;
    prefix_free(a->map);
    free(a->generations);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* Tools go before the messages, as templates have it. */
void affinity_read(const struct affinity *a, struct request_prefix *p, const struct request_body *body,
                   const char *tenant)
{
    size_t bytes = body->input_value.n + body->tools_value.n;
    if (bytes < PREFIX_BLOCK_BYTES)
        return;
    const char *const names[] = {tenant, body->model, body->kind == REQUEST_CHAT ? "chat" : "completion"};
    size_t most = bytes / PREFIX_BLOCK_BYTES;
    int max = most < BLOCKS_MAX ? (int)most : BLOCKS_MAX;
    struct prefix_hasher h;
    p->hashes = spw_malloc((size_t)max * sizeof *p->hashes);
    prefix_hasher_init(&h, prefix_salt(a->secret, names, 3), p->hashes, max);
    prefix_hasher_feed_json(&h, body->tools_value.p, body->tools_value.n);
    prefix_hasher_feed_json(&h, body->input_value.p, body->input_value.n);
    p->n = h.n;
    p->input_tokens = request_estimate_input(body);
}

void affinity_drop(struct request_prefix *p)
{
    free(p->hashes);
    *p = (struct request_prefix){.n = 0};
}

void affinity_look(struct affinity *a, struct request_prefix *p)
{
    if (!p->n)
        return;
    pthread_mutex_lock(&a->lock);
    p->n_holders = prefix_lookup(a->map, p->hashes, p->n, p->holders);
    for (int i = 0; i < p->n_holders; i++)
        p->generations[i] = a->generations[p->holders[i].node];
    pthread_mutex_unlock(&a->lock);
}

int64_t affinity_tokens(const struct request_prefix *p, int node, unsigned generation)
{
    for (int i = 0; i < p->n_holders; i++) {
        if (p->holders[i].node == node && p->generations[i] == generation)
            return prefix_tokens(p->holders[i].blocks, p->input_tokens);
    }
    return 0;
}

void affinity_sent(struct affinity *a, const struct request_prefix *p, int node, unsigned generation, int64_t kv_tokens)
{
    if (!p->n)
        return;
    int64_t held = affinity_tokens(p, node, generation);
    SPW_ASSERT(node >= 0 && node < a->n_nodes);
    pthread_mutex_lock(&a->lock);
    if (a->generations[node] != generation) /* another process is there, or another node */
        prefix_forget(a->map, node);
    a->generations[node] = generation;
    prefix_set_tokens(a->map, node, kv_tokens);
    prefix_insert(a->map, node, p->hashes, p->n);
    a->sent++;
    a->hits += held > 0;
    a->hit_tokens += held;
    pthread_mutex_unlock(&a->lock);
}

struct affinity_stats affinity_stats(const struct affinity *a)
{
    struct affinity *mine = (struct affinity *)a; /* the lock is ours to take, and nothing else changes */
    struct affinity_stats s;
    pthread_mutex_lock(&mine->lock);
    s = (struct affinity_stats){.sent = a->sent, .hits = a->hits, .hit_tokens = a->hit_tokens};
    prefix_stats(a->map, &s.map);
    pthread_mutex_unlock(&mine->lock);
    return s;
}
