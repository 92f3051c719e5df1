/* What a server has counted, as plain data that goes from one process to the next: a node's worker ends when it sleeps,
 * and its counters go on with the next one. */
#ifndef ENGINE_SERVE_TOTALS_H
#define ENGINE_SERVE_TOTALS_H

#include "base/http_server.h"
#include "engine/serve/batcher.h"

/* Counted by the server, on the loop thread. */
struct serve_counters {
    uint64_t responses[6];      /* by status / 100 */
    uint64_t requests;          /* completion requests begun */
    uint64_t aborted;           /* whose client went away */
    struct histogram ttft, e2e; /* seconds since the request's first byte */
    struct histogram prompt_tokens, generation_tokens;
    struct histogram joules_per_token; /* of answers whose energy is known */
};
void serve_counters_init(struct serve_counters *c);

struct serve_totals {
    struct serve_counters counters;
    struct batcher_stats batcher;
    struct http_server_stats http;
};
void serve_totals_init(struct serve_totals *t);
/* *to += what is counted in *from. The figures of the moment (running, waiting, pages, open connections) are taken over
 * from it instead. *from may come from another process: its pointers are not looked at. */
void serve_totals_add(struct serve_totals *to, const struct serve_totals *from);
/* Its worker is gone: nothing runs, nothing waits, all pages are free. */
void serve_totals_rest(struct serve_totals *t);

/* What the supervisor of a node counts (engine/node/supervisor.h). */
struct node_counts {
    char life[17];                          /* of its process: another text after each start */
    uint64_t asleep_us, boot_us;            /* without a worker by wish; loading, or after a crash */
    uint64_t restarts;                      /* of workers that ended by themselves, or hung */
    uint64_t hung;                          /* of these, those whose loop did not answer and that were killed */
    uint64_t sleeps, wakes;                 /* that came to their end */
    uint64_t held, held_refused, held_gone; /* requests that waited for a worker: all, told 503, client gone */
    double wake_seconds;                    /* of the last wake-up, from the wish to ready */
    double watts, joules, idle_joules;      /* what the machine draws; since the start (engine/node/watts.h) */
    int32_t watts_are;                      /* 0: not known; 1: estimated; 2: measured */
    /* Of the GPUs, all programs' together (engine/node/nvml.h); 0: not known. */
    uint64_t gpu_memory_bytes, gpu_memory_used_bytes, gpu_sm_hz, gpu_memory_hz;
};
void node_counts_init(struct node_counts *c); /* a new life */

#endif
