/* What is known of a node while its worker sleeps: what it serves, what it has counted, and what the supervisor counts. */
#ifndef ENGINE_NODE_STATS_H
#define ENGINE_NODE_STATS_H

#include "base/http_server.h"
#include "engine/serve/batcher.h"
#include "engine/serve/metrics.h"

/* What it serves: known once it was ready. */
struct node_card {
    int64_t created; /* seconds since 1970: the file's age */
    int32_t n_ctx, n_slots;
    int64_t kv_tokens; /* 0: not known yet */
    int64_t load_ns;   /* the last load */
    char arch[32], quant[16], device[32], numerics[128];
    char numerics_class[33]; /* 32 hex digits, docs/NODE_API.md; "": not known yet */
};

/* The worker's figures, counted on from worker to worker. Those of the moment (running, waiting, pages) are zero while
 * there is none. */
struct node_stats {
    struct serve_counters counters;
    struct batcher_stats batcher;
    struct http_server_stats http;
};

/* The supervisor's. */
struct node_counts {
    uint64_t restarts;                      /* of workers that ended by themselves */
    uint64_t sleeps, wakes;                 /* that came to their end */
    uint64_t held, held_refused, held_gone; /* requests that waited for a worker: all, told 503, client gone */
    uint64_t passed;                        /* connections given to a worker */
    int64_t last_wake_ns;                   /* from the wish to ready */
};

#endif
