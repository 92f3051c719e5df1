/* A histogram with fixed bucket edges, as Prometheus wants it. Plain data: copied by value for a snapshot; whoever owns
 * the storage does the locking. Edges are shared tables (below), never owned. */
#ifndef ENGINE_SERVE_HISTOGRAM_H
#define ENGINE_SERVE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_EDGES_MAX 24

struct histogram_edges {
    int n;
    double le[HISTOGRAM_EDGES_MAX];
};
extern const struct histogram_edges histogram_seconds; /* 1 ms .. 10 min; has 0.5, which alert rules ask for */
extern const struct histogram_edges histogram_gaps;    /* 1 ms .. 10 s, finer: time between tokens, of one step */
extern const struct histogram_edges histogram_tokens;  /* 1 .. 131072 */
extern const struct histogram_edges histogram_joules;  /* 1 mJ .. 1 kJ, of one token */

struct histogram {
    const struct histogram_edges *edges;
    uint64_t counts[HISTOGRAM_EDGES_MAX + 1]; /* per bucket, not cumulative; the last is +Inf */
    uint64_t count;
    double sum;
};
void histogram_init(struct histogram *h, const struct histogram_edges *edges);
void histogram_observe(struct histogram *h, double v);

#endif
