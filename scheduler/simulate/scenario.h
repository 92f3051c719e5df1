/* A scenario as a file says it (YAML), with the tables it names, made into what sim_run() takes. docs/SIMULATE.md
 * describes the file; a configuration may stand beside it and brings the own machines, the paid APIs with their price
 * lists, and the bounds of the waiting rooms.
 *
 * One thread. Blocks (files). */
#ifndef SCHEDULER_SIMULATE_SCENARIO_H
#define SCHEDULER_SIMULATE_SCENARIO_H

#include "base/alloc.h"
#include "scheduler/simulate/sim.h"
#include "scheduler/simulate/trace.h"

/* What a configuration (config.h) says of one node; the command fills it in, so that this folder knows no configuration. */
struct calibration; /* scheduler/calibrate/record.h */

struct scenario_node {
    const char *name;
    const char *model; /* the first that it serves */
    bool local;
    int32_t slots;
    int32_t sequences, kv_tokens; /* computed at once, memory; 0: not said */
    struct token_prices prices;
    int32_t watts, idle_watts;            /* 0: not known */
    const struct calibration *calibrated; /* NULL: it is not */
    struct scenario_aim {                 /* of its model; zeros: cost, without an SLO */
        enum sim_objective objective;
        int64_t ttft_ms, tpot_ms, ttft_per_1k_ms;
        int32_t free_tokens;
        double probability;
    } aim;
};
/* A budget by names, as a configuration has it. What traces do not know of (users, keys, labels...) can't be simulated. */
struct scenario_budget {
    const char *name, *team, *model; /* NULL: all */
    struct period_spec period;
    struct pusd hard, soft, carry_max; /* BUDGET_UNLIMITED: none */
    unsigned soft_actions, hard_actions;
    const char *soft_model, *hard_model; /* of BUDGET_DOWNGRADE */
};
struct scenario_inputs {
    const char *path;                                /* the scenario; NULL: the calibrated nodes alone */
    const char *prices, *spot, *power, *electricity; /* instead of what the scenario names; NULL: as it says */
    const struct scenario_node *nodes;               /* NULL, 0: there is no configuration */
    int n_nodes;
    const struct scenario_budget *budgets; /* beside the scenario's own */
    int n_budgets;
    const char *config;                   /* the configuration's path, for messages; needed without `path` */
    const struct tariff *tariff;          /* of own machines where there is no `path`; else the scenario says it */
    const struct waiting_bounds *waiting; /* of a configuration: [WAITING_CLASSES]; NULL: as the scenario says */
    const uint64_t *seed;                 /* NULL: as the scenario says */
};

struct scenario;
enum rc scenario_load(struct scenario **s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;
void scenario_free(struct scenario *s); /* NULL is fine */
/* Borrowed. start_unix_s is -1 where the file does not say when the trace starts. */
struct sim_scenario *scenario_sim(struct scenario *s);
/* The traces that the file names, for trace_open(); n 0: none. Paths are made good: relative ones start at the file's
 * folder. */
const struct trace_file *scenario_traces(const struct scenario *s, int *n);
/* Teams of budgets have numbers once the trace is open that they come from. */
enum rc scenario_find_teams(struct scenario *s, struct trace *t, struct error *e) SPW_MUST_USE;
int64_t scenario_span_us(const struct scenario *s); /* `span`, or 0 */
/* A text on what was left out of the tables, for people; "" if nothing. */
const char *scenario_notes(const struct scenario *s);

#endif
