/* The scenario file as it is written, before it becomes a struct sim_scenario. Zero: not given, unless a default says
 * otherwise (scenario_file.c). */
#ifndef SCHEDULER_SIMULATE_SCENARIO_INTERNAL_H
#define SCHEDULER_SIMULATE_SCENARIO_INTERNAL_H

#include "policies/capacity.h"
#include "scheduler/simulate/fields.h"
#include "scheduler/simulate/market.h"
#include "scheduler/simulate/scenario.h"

struct file_trace {
    const char *file, *model, *team, *curve, *curve_column;
    int32_t class, copies;
    int64_t deadline_us, from_us, until_us, shift_us;
    bool tile;
    double factor;
    int line;
};
struct file_slo {
    int64_t ttft_us, tpot_us, ttft_per_1k_us;
    int32_t free_tokens;
    double probability;
    int line;
};
struct file_room {
    int32_t max;
    int64_t wait_us;
    int line;
};
struct file_scale { /* as struct scale_limits */
    bool on, api, api_bridge, api_steady, worth;
    int32_t nodes_min, nodes_max;
    struct pusd hour_max; /* 0: no limit */
    double z, over_provision, survive, replace_saving, idle_rate, down_band;
    int32_t signal; /* enum forecast_signal */
    int64_t queue_drain_us, down_after_us, return_after_us, drain_max_us, tick_us;
    int line;
};
struct file_model {
    const char *name;
    int32_t objective;
    struct file_slo slo;
    struct file_room rooms[WAITING_CLASSES];
    struct file_scale scale;
    int line;
};
struct file_curve { /* microseconds; negative: not given */
    double base, prefill_per_token, decode_base, decode_per_sequence;
    int line;
};
struct file_measured { /* rows of the power table */
    const char *model, *gpu, *task;
    int32_t gpus;
    int line;
};
struct file_shape {
    double params_b, active_params_b, bits_per_weight, kv_bits;
    int32_t layers, kv_heads, head_dim, kv_latent;
    int line;
};
struct file_gpu {
    int32_t gpus;
    double memory_gb, bandwidth_gb_s, tflops, flops_share, bandwidth_share;
    int line;
};
struct file_watts {
    double off, sleep, idle, prefill, wake; /* negative: not given */
    struct field_list points;               /* of struct file_point */
    int line;
};
struct file_point {
    double batch, watts;
    int line;
};
struct file_type {
    const char *name, *model;
    const char *calibration; /* a record of `spillway nodes calibrate` */
    struct file_curve curve;
    struct file_measured measured;
    struct file_shape shape;
    struct file_gpu gpu;
    struct file_watts watts;
    int32_t chunk_tokens, sequences_max, slots;
    double kv_tokens, mtbf_h, load_max;
    int64_t wake_us, boot_us, repair_us; /* from sleep; from off */
    int line;
};
struct file_list_price { /* looked up in the price table */
    const char *cloud, *type, *accelerator, *region, *zone;
    int32_t accelerators, pick;
    double share, factor;
    int line;
};
struct file_availability {
    const char *collection, *zone;
    int32_t nodes;
    int64_t offset_us;
    int line;
};
struct file_charge { /* dollars per million tokens */
    struct price input, cached_input, output;
    int line;
};
struct file_offer {
    const char *provider, *zone, *type, *site, *pool;
    int32_t market, domain, nodes_max, running, asleep;
    struct field_list nodes; /* of a configuration; const char * */
    struct pusd price_hour;
    struct file_list_price list_price;
    struct file_availability availability;
    int64_t boot_us, notice_us, billing_min_us;
    double losses_per_hour, life_years;
    struct pusd purchase;
    struct file_charge charge;
    int line;
};
struct file_pool {
    const char *name;
    int32_t min;
    int line;
};
struct file_site {
    const char *name, *zone;
    double usd_per_kwh, overhead, factor, cap_watts, base_watts;
    int64_t from_s;
    bool powered;
    int32_t keep_warm, trust;
    int line;
};
struct file_api {
    const char *provider, *model, *node;
    struct price input, cached_input, output;
    int64_t ttft_us, tpot_us, ttft_per_1k_us;
    double spread;
    int line;
};
struct file_budget {
    const char *name, *hard, *soft, *carry_over;
    struct field_list match, soft_actions, hard_actions; /* of const char * */
    int32_t period;                                      /* enum period_kind */
    int64_t start_s;                                     /* -1: midnight, the first, Monday */
    int line;
};
struct scenario_file {
    const char *name, *prices, *spot, *power, *electricity;
    int64_t start_s, span_us, measure_from_us, until_us;
    int32_t seed, nodes_max, routing;
    struct field_list traces, models, types, offers, pools, sites, apis, budgets;
    int line;
};

/* Everything that a scenario is made of. */
struct scenario {
    char *path;
    struct arena *arena;
    struct yaml_doc *doc;
    struct scenario_file file;
    struct price_table prices;
    struct spot_table spot;
    struct power_table power;
    struct sim_scenario sim;
    struct trace_file *traces; /* in the arena */
    int n_traces;
    struct rate_curve *curves; /* in the arena; rates owned */
    int n_curves;
    struct strbuf notes;
};

/* Fills s->file from s->doc. */
enum rc scenario_file_read(struct scenario *s, struct error *e) SPW_MUST_USE;
/* "path:line: ..." */
enum rc scenario_error(const struct scenario *s, int line, struct error *e, const char *format, ...) SPW_PRINTF(4, 5);
/* A path as the scenario's file means it; in the arena. */
const char *scenario_path(struct scenario *s, const char *path);
/* n zeroed items in the arena, or RC_FULL. */
enum rc scenario_array(struct scenario *s, void *items_pp, int n, size_t size, struct error *e) SPW_MUST_USE;

/* scenario_calibration.c: speed, and draws where none are known yet, by the record that the type names, or else by that
 * of a node of the configuration. Nothing where there is none. */
enum rc scenario_take_calibration(struct scenario *s, const struct scenario_inputs *in, const struct file_type *f,
                                  struct sim_type *t, struct error *e) SPW_MUST_USE;
/* Fills s->doc with what the configuration's nodes alone come to. */
#define SCENARIO_PREMISES "premises"
enum rc scenario_of_configuration(struct scenario *s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;

/* The parts of it, in this order; scenario_parts.c, scenario_offers.c. Tables are read before. */
enum rc scenario_make_models(struct scenario *s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;
enum rc scenario_make_types(struct scenario *s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;
enum rc scenario_make_sites(struct scenario *s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;
enum rc scenario_make_offers(struct scenario *s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;
enum rc scenario_make_apis(struct scenario *s, const struct scenario_inputs *in, struct error *e) SPW_MUST_USE;
enum rc scenario_make_budgets(struct scenario *s, const struct scenario_inputs *in,
                              struct error *e) SPW_MUST_USE; /* scenario_budgets.c */

#endif
