/* Counters, histograms and gauges of the front: each is declared once, in metrics_table.c, and that yields its
 * storage and its lines in /metrics. Label values come from the configuration or from enums, so there is no way for a
 * client to make more of them.
 *
 * Each lane has a set of its own, which only its thread changes and which costs it no lock; who reads adds them up. */
#ifndef SCHEDULER_FRONT_METRICS_H
#define SCHEDULER_FRONT_METRICS_H

#include <stdint.h>

#include "base/alloc.h"
#include "base/money.h"

struct front;
struct metrics;

enum metric {                      /* labels in the order of metrics_add's i, j */
              METRIC_REQUESTS,     /* model, outcome (enum ledger_outcome) */
              METRIC_REFUSED,      /* code (enum api_code): answered with an error and no ledger row */
              METRIC_AUTH_REFUSED, /* reason (enum auth_code) */
              METRIC_LIMITED,      /* limit (enum limit_kind) */
              METRIC_RETRIES,      /* model */
              METRIC_RETRIES_REFUSED,
              METRIC_CONTINUATIONS, /* model */
              METRIC_MOVES,         /* model */
              METRIC_HANGS,         /* node */
              METRIC_POISON,        /* model */
              METRIC_CAPPED,        /* charges that were cut to their bound */
              METRIC_LEG_FAILURES,  /* node, fault (enum leg_fault) */
              METRIC_TOKENS,        /* model, kind: 0 input (all of it), 1 cached input, 2 output */
              METRIC_CHARGE,        /* model, node; pico-dollars */
              METRIC_CACHE,         /* model, way (enum cached_way) */
              METRIC_CACHE_SAVED,   /* model; pico-dollars: what answers that were found would have cost */
              METRIC_WAIT,          /* histogram: model, class; nanoseconds in the waiting room */
              METRIC_NOT_WAITED,    /* class, verdict (enum waiting_verdict; IN: has waited in vain) */
              METRIC_BUDGET_REFUSED,
              METRIC_BUDGET_STOPPED,
              METRIC_BUDGET_REACHED,
              METRIC_BUDGET_EXCESS,
              METRIC_BUDGET_UNAVAILABLE,
              METRIC_COMMIT,      /* histogram: from the end of an answer to its durable row; nanoseconds */
              METRIC_FIRST_GAUGE, /* the rest of the table is read when asked for */
};

enum leg_fault {
    FAULT_CONNECT,
    FAULT_TIMEOUT,
    FAULT_CUT,
    FAULT_FRAMING,
    FAULT_STATUS,
    FAULT_BUSY,
    FAULT_ERROR_EVENT,
    FAULT_ENDPOINT,
    FAULT_AWAY, /* an engine that drains or loads: it took nothing */
    FAULTS
};
const char *leg_fault_name(enum leg_fault f);

struct metrics *metrics_new(int n_models, int n_nodes);
void metrics_free(struct metrics *m);
/* The node of this index is another one from now on: its counts begin anew, what was charged stays in the totals. Any
 * thread; a count that another lane adds at this very moment may be lost. */
void metrics_forget_node(struct metrics *m, int node);
void metrics_add(struct metrics *m, enum metric id, int i, int j, int64_t n);
void metrics_observe(struct metrics *m, enum metric id, int i, int64_t ns); /* of one label, at most */
void metrics_observe_at(struct metrics *m, enum metric id, int i, int j, int64_t ns);
/* Over all lanes; on any thread. */
enum rc metrics_render(const struct front *f, struct strbuf *out) SPW_MUST_USE;
/* Of a counter, over all lanes and all values of its first label, at the value j of its second. */
int64_t metrics_total(const struct front *f, enum metric id, int j);
struct pusd_sum metrics_charge(const struct front *f);

#endif
