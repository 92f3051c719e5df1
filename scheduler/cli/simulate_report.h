/* What simulations said, side by side: as tables for a terminal, JSON, or one HTML page. */
#ifndef SCHEDULER_CLI_SIMULATE_REPORT_H
#define SCHEDULER_CLI_SIMULATE_REPORT_H

#include <stdio.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim.h"
#include "scheduler/simulate/trace.h"

#define REPORT_COLUMNS_MAX 32

struct report_column { /* one simulated scenario */
    const char *name;
    bool ran;
    char why[512]; /* it did not: why not */
    struct sim_result result;
};
struct report {
    struct report_column columns[REPORT_COLUMNS_MAX]; /* the first is the one that was asked about */
    int n;
    const struct trace *trace; /* for teams' names */
    struct trace_stats stats;
    const char *config, *notes;
    uint64_t seed;
};

/* Sums over models and bills of one result. */
struct report_figures {
    struct hist ttft_us, tpot_us, e2e_us; /* interactive */
    int64_t requests, done, refused, expired;
    int64_t interactive, interactive_in_slo, batch, batch_in_time;
    int64_t preemptions, failures, launches, wakes, interrupted, continued, again, replayed_tokens;
    int64_t by_api, by_spot, by_on_demand, by_on_prem;
    double node_hours, busy_hours;
    struct pusd_sum on_prem, spot, on_demand, api; /* energy is where the machine is */
    struct pusd_sum energy, purchase;              /* parts of the above */
};
void report_sum(struct report_figures *f, const struct sim_result *r);
double report_slo(const struct report_figures *f); /* share of interactive requests; 1 where there were none */
double report_dollars(struct pusd_sum a);          /* for shares and charts, never for sums */
struct pusd_sum report_bill(const struct sim_bill *b);
/* Providers of a result in order of money, each once; at most n_max. Returns how many. */
struct report_provider {
    const char *name;
    struct pusd_sum money;
    double kwh, node_hours;
    int64_t requests, preemptions;
};
int report_providers(const struct sim_result *r, struct report_provider *out, int n_max);
/* Teams of a result by money, biggest first: indices into r->teams. Returns how many, at most n_max. */
int report_teams(const struct sim_result *r, int *out, int n_max);
const char *report_team(const struct report *p, const struct sim_result *r, int i);

void report_print(const struct report *p, FILE *out);
enum rc report_json(const struct report *p, struct strbuf *out) SPW_MUST_USE;
enum rc report_html(const struct report *p, struct strbuf *out) SPW_MUST_USE;

#endif
