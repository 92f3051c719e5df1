/* What the table of metrics and what keeps and shows them agree on. */
#ifndef SCHEDULER_FRONT_METRICS_INTERNAL_H
#define SCHEDULER_FRONT_METRICS_INTERNAL_H

#include "scheduler/front/metrics.h"

enum dim {
    DIM_NONE,
    DIM_MODEL,
    DIM_NODE,
    DIM_OUTCOME,
    DIM_CODE,
    DIM_FAULT,
    DIM_KIND,
    DIM_REASON,
    DIM_LIMIT,
    DIM_WAY,
    DIM_CLASS,
    DIM_VERDICT
};
enum unit {
    UNIT_COUNT,
    UNIT_SECONDS,
    UNIT_USD,
    UNIT_RATIO
}; /* kept as: count, nanoseconds, pico-dollars, millionths */
enum type { TYPE_COUNTER, TYPE_GAUGE, TYPE_HISTOGRAM };

struct declaration {
    const char *name, *help;
    enum type type;
    enum unit unit;
    enum dim dims[2];
    int64_t (*read)(const struct front *f, int cell); /* instead of storage: what somebody else counts */
};

enum rc capacity_metrics_render(const struct front *f, struct strbuf *out) SPW_MUST_USE; /* capacity_metrics.c */
enum rc budget_metrics_render(const struct front *f, struct strbuf *out) SPW_MUST_USE;   /* budget_metrics.c */

/* In the order of enum metric; from METRIC_FIRST_GAUGE on each has a `read`. */
extern const struct declaration metrics_table[];
extern const int metrics_table_size;

#endif
