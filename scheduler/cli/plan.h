/* `spillway plan`: what hardware a workload needs and what it costs, before anything is bought or rented. A
 * catalogue of models and node types (built in, with sources; a file overrides and adds) and one workload go in;
 * for each node type memory, capacity at the SLO, nodes, and a month's cost on-prem, spot, on demand and at an API
 * come out.
 *
 * The arithmetic is policies/capacity.h's; money is integer. Start-up and command line only: it allocates nothing
 * that lasts, and blocks while it reads its file. */
#ifndef SCHEDULER_CLI_PLAN_H
#define SCHEDULER_CLI_PLAN_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "base/money.h"
#include "policies/capacity.h"

#define PLAN_NAME   48
#define PLAN_MODELS 96
#define PLAN_NODES  64
#define PLAN_CURVES 192

struct plan_model {
    char name[PLAN_NAME];
    struct model_shape shape;
    char api[PLAN_NAME]; /* who sells it by the token; "": nobody known */
    struct token_prices api_prices;
};
struct plan_node {
    char name[PLAN_NAME], gpu[PLAN_NAME];
    int gpus;
    double gpu_memory_bytes, bandwidth_bytes_s, flops, flops_fp8; /* of one GPU; flops_fp8 0: computes 8 bits as 16 */
    double watts_busy, watts_idle;                                /* whole node */
    struct pusd purchase, spot_hour, on_demand_hour;              /* 0: not to be had that way */
};
struct plan_curve { /* measured: a model on so many GPUs of a kind */
    char model[PLAN_NAME], gpu[PLAN_NAME];
    int gpus;
    struct node_curve curve; /* prefill_us_per_tok 0: from FLOPs */
};
struct plan_catalogue {
    int n_models, n_nodes, n_curves;
    struct plan_model models[PLAN_MODELS];
    struct plan_node nodes[PLAN_NODES];
    struct plan_curve curves[PLAN_CURVES];
};
void plan_catalogue_builtin(struct plan_catalogue *c);
/* A YAML file over what is there: rows of the same name (curves: model, gpu, gpus) are replaced, others added.
 * RC_INVALID names file, line and key. */
enum rc plan_catalogue_load(struct plan_catalogue *c, const char *path, struct error *e) SPW_MUST_USE;
const struct plan_model *plan_find_model(const struct plan_catalogue *c, const char *name); /* NULL: unknown */

struct plan_ask {
    struct workload_mix mix;
    double requests_per_s; /* mean of a month */
    double peak;           /* busiest hour of the day over the mean; >= 1 */
    struct capacity_slo slo;
    double over_provision; /* 0.1: a tenth more than is asked for */
    double years;          /* a purchase is written off over */
    int64_t uusd_per_kwh;
    double pue; /* of the machine room: power drawn in all over power of the machines */
};
#define PLAN_MONTH_H 730

enum plan_why { PLAN_OK, PLAN_NO_MEMORY, PLAN_NO_SLO };
struct plan_cost {
    bool offered;
    struct pusd_sum fixed;  /* a month of nodes for the peak, all the time */
    struct pusd_sum scaled; /* a month of as many as each hour needs (on-prem: the idle ones asleep, at no watts) */
    double break_even_mtok; /* million tokens a month from which it is cheaper than the API; < 0: never, or no API */
};
struct plan_row {
    const struct plan_node *node;
    enum plan_why why;
    int width, replicas; /* GPUs of one replica; replicas of a node */
    bool measured;       /* the decode curve */
    struct node_curve curve;
    struct capacity_memory memory; /* of a replica */
    struct capacity capacity;      /* of a node: rates and concurrency of all its replicas */
    int nodes_peak;
    double nodes_mean;
    struct plan_cost on_prem, spot, on_demand;
    double hours_per_day; /* of renting on demand that cost as much as owning; < 0: not comparable */
};
struct plan_result {
    const struct plan_model *model;
    struct plan_ask ask;
    int n_rows;
    struct plan_row rows[PLAN_NODES];
    bool api;
    struct pusd api_request;
    struct pusd_sum api_month;
};
/* ask: checked by the caller (positive sizes and rates, peak >= 1). */
void plan_size(struct plan_result *r, const struct plan_catalogue *c, const struct plan_model *m,
               const struct plan_ask *ask);
/* "ttft=500ms,tpot=50ms,p=0.99": any of them, in any order; ms or s. */
enum rc plan_parse_slo(struct capacity_slo *slo, const char *text, struct error *e) SPW_MUST_USE;

void plan_print_table(const struct plan_result *r, FILE *out);
enum rc plan_print_json(const struct plan_result *r, FILE *out) SPW_MUST_USE;

#endif
