/* /metrics: what the server counts, and its Prometheus text (exposition format 0.0.4). Names are vLLM's where vLLM has
 * the quantity, so that existing dashboards and gateways work; our own start with spillway_engine_. */
#ifndef ENGINE_SERVE_METRICS_H
#define ENGINE_SERVE_METRICS_H

#include "engine/serve/totals.h"

/* Of a node with a supervisor. */
struct metrics_node {
    const char *state; /* a word of /health */
    const struct node_counts *counts;
};

struct metrics_view {
    const char *model_id, *arch, *quant, *device, *numerics; /* "" while unknown */
    bool ready;
    double load_seconds;
    uint64_t kv_bytes; /* of the whole pool; 0 while unknown */
    const struct serve_totals *totals;
    const struct metrics_node *node; /* NULL: there is none */
};
void metrics_write(struct strbuf *b, const struct metrics_view *v);
double metrics_resident_bytes(void); /* memory of this process, what it has of mapped files with it; 0: not known */

#endif
