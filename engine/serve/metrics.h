/* /metrics: what the server counts, and its Prometheus text (exposition format 0.0.4). Names are vLLM's where vLLM has
 * the quantity, so that existing dashboards and gateways work; our own start with spillway_engine_. */
#ifndef ENGINE_SERVE_METRICS_H
#define ENGINE_SERVE_METRICS_H

#include "base/http_server.h"
#include "engine/serve/batcher.h"

/* Counted on the loop thread. */
struct serve_counters {
    uint64_t responses[6];      /* by status / 100 */
    uint64_t requests;          /* completion requests begun */
    uint64_t aborted;           /* whose client went away */
    struct histogram ttft, e2e; /* seconds since the request's first byte */
    struct histogram prompt_tokens, generation_tokens;
};
void serve_counters_init(struct serve_counters *c);

struct metrics_view {
    const char *model_id, *arch, *quant, *device, *numerics; /* "" while unknown */
    bool ready;
    double load_seconds;
    const struct serve_counters *counters;
    const struct batcher_stats *batcher; /* zeroes while loading */
    struct http_server_stats http;
};
void metrics_write(struct strbuf *b, const struct metrics_view *v);

#endif
