/* Distributions by route and node: how long answers take, and how many tokens they have. A route is an operation (chat,
 * text completion) on a model. Two families of names come from one observation: ours, with buckets fine enough for what
 * a proxy adds, and OpenTelemetry's GenAI semantic conventions (status Development, as of 2026) with the buckets that
 * they ask for.
 *
 * Labels come from the configuration, and there may be many: the first ROUTE_SERIES_MAX combinations have a series
 * each, all later ones share one whose labels are `other`. Any thread; one short lock, held over a hash lookup and a
 * few additions, or over the copy of the figures that rendering makes. */
#ifndef SCHEDULER_OBSERVE_ROUTE_METRICS_H
#define SCHEDULER_OBSERVE_ROUTE_METRICS_H

#include <stdint.h>

#include "base/alloc.h"

#define ROUTE_SERIES_MAX 200
#define ROUTE_LABEL_MAX  128 /* bytes; longer ones are cut */

enum route_metric {                 /* value */
                    ROUTE_ADDED,    /* ns from a whole request to its dispatch, without waiting for a slot */
                    ROUTE_TTFT,     /* ns from a whole request to the first byte of its answer */
                    ROUTE_TPOT,     /* ns per output token after the first, of streams */
                    ROUTE_DURATION, /* ns from a whole request to the last byte of its answer */
                    ROUTE_INPUT,    /* tokens */
                    ROUTE_OUTPUT,   /* tokens */
                    ROUTE_METRICS,
};
struct route_labels {
    const char *operation, *model, *node; /* "chat"; as configured; "cache" for answers that no node gave */
};

struct route_metrics;
struct route_metrics *route_metrics_new(void);
void route_metrics_free(struct route_metrics *m); /* NULL is fine */
struct route_value {
    enum route_metric what;
    int64_t value; /* below 0: no observation */
};
void route_metrics_observe(struct route_metrics *m, const struct route_labels *labels, enum route_metric what,
                           int64_t value);
/* Several of one answer, which is cheaper than one by one. */
void route_metrics_observe_all(struct route_metrics *m, const struct route_labels *labels,
                               const struct route_value *values, int n);
/* Append all of it in Prometheus' text format. RC_FULL at out's bound. */
enum rc route_metrics_render(struct route_metrics *m, struct strbuf *out) SPW_MUST_USE;

#endif
