/* The keys of a scenario file, one row each. */
#include "scheduler/simulate/scenario_internal.h"

#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))
#define TABLE(name, rows, type)                                                                                        \
    static const struct field_table name = {rows, COUNT(rows), sizeof(struct type), offsetof(struct type, line), NULL}
#define TABLE_WITH(name, rows, type, defaults)                                                                         \
    static const struct field_table name = {rows, COUNT(rows), sizeof(struct type), offsetof(struct type, line),       \
                                            defaults}
#define SECONDS INT64_C(1000000)
#define KEY(k, t, s, m, ...)                                                                                           \
    {                                                                                                                  \
        .key = (k), .type = (t), .offset = offsetof(struct s, m), __VA_ARGS__                                          \
    }

static const char *const classes[] = {"interactive", "batch", NULL};
static const char *const objectives[] = {"cost", "latency", "energy", "balanced", NULL};
static const char *const signals[] = {"tokens", "qps", NULL}; /* enum forecast_signal */
static const char *const markets[] = {"on_prem", "spot", "on_demand", NULL};
static const char *const picks[] = {"cheapest", "median", NULL};
static const char *const periods[] = {"hour", "day", "week", "month", NULL}; /* enum period_kind */
static const char *const routings[] = {"policy", "round_robin", NULL};

static const struct file_trace trace_defaults = {.factor = 1};
static const struct field trace_fields[] = {
    KEY("file", FIELD_TEXT, file_trace, file, .required = true),
    KEY("model", FIELD_TEXT, file_trace, model),
    KEY("team", FIELD_TEXT, file_trace, team),
    KEY("class", FIELD_CHOICE, file_trace, class, .words = classes),
    KEY("deadline", FIELD_DURATION, file_trace, deadline_us),
    KEY("from", FIELD_DURATION, file_trace, from_us),
    KEY("until", FIELD_DURATION, file_trace, until_us),
    KEY("copies", FIELD_INT, file_trace, copies, .lo = 1, .hi = TRACE_COPIES_MAX),
    KEY("shift", FIELD_DURATION, file_trace, shift_us),
    KEY("tile", FIELD_BOOL, file_trace, tile),
    KEY("curve", FIELD_TEXT, file_trace, curve),
    KEY("curve_column", FIELD_TEXT, file_trace, curve_column),
    KEY("curve_factor", FIELD_DOUBLE, file_trace, factor, .lo = 1e-6, .hi = 1e6),
};
TABLE_WITH(trace_table, trace_fields, file_trace, &trace_defaults);

static const struct field slo_fields[] = {
    KEY("ttft", FIELD_DURATION, file_slo, ttft_us),
    KEY("tpot", FIELD_DURATION, file_slo, tpot_us),
    KEY("ttft_per_1k", FIELD_DURATION, file_slo, ttft_per_1k_us),
    KEY("free_tokens", FIELD_INT, file_slo, free_tokens, .lo = 0, .hi = TRACE_TOKENS_MAX),
    KEY("probability", FIELD_DOUBLE, file_slo, probability, .lo = 0.5, .hi = 0.9999),
};
TABLE(slo_table, slo_fields, file_slo);

static const struct field room_fields[] = {
    KEY("max", FIELD_INT, file_room, max, .lo = 0, .hi = 1e9),
    KEY("wait", FIELD_DURATION, file_room, wait_us),
};
TABLE(room_table, room_fields, file_room);

static const struct field scale_fields[] = {
    KEY("enabled", FIELD_BOOL, file_scale, on),
    KEY("api", FIELD_BOOL, file_scale, api),
    KEY("api_bridge", FIELD_BOOL, file_scale, api_bridge),
    KEY("api_steady", FIELD_BOOL, file_scale, api_steady),
    KEY("weigh_misses", FIELD_BOOL, file_scale, worth),
    KEY("nodes_min", FIELD_INT, file_scale, nodes_min, .lo = 0, .hi = SIM_NODES_MAX),
    KEY("nodes_max", FIELD_INT, file_scale, nodes_max, .lo = 1, .hi = SIM_NODES_MAX),
    KEY("hour_max", FIELD_DOLLARS, file_scale, hour_max),
    KEY("z", FIELD_DOUBLE, file_scale, z, .lo = 0, .hi = 10),
    KEY("over_provision", FIELD_DOUBLE, file_scale, over_provision, .lo = 0, .hi = 10),
    KEY("survive", FIELD_DOUBLE, file_scale, survive, .lo = 0, .hi = 1),
    KEY("replace_saving", FIELD_DOUBLE, file_scale, replace_saving, .lo = 0, .hi = 1),
    KEY("idle_rate", FIELD_DOUBLE, file_scale, idle_rate, .lo = 0, .hi = 1e9),
    KEY("down_band", FIELD_DOUBLE, file_scale, down_band, .lo = 0, .hi = 1),
    KEY("signal", FIELD_CHOICE, file_scale, signal, .words = signals),
    KEY("queue_drain", FIELD_DURATION, file_scale, queue_drain_us),
    KEY("down_after", FIELD_DURATION, file_scale, down_after_us),
    KEY("return_after", FIELD_DURATION, file_scale, return_after_us),
    KEY("drain_max", FIELD_DURATION, file_scale, drain_max_us),
    KEY("tick", FIELD_DURATION, file_scale, tick_us),
};
TABLE(scale_table, scale_fields, file_scale);

static const struct field model_fields[] = {
    KEY("name", FIELD_TEXT, file_model, name, .required = true),
    KEY("objective", FIELD_CHOICE, file_model, objective, .words = objectives),
    KEY("slo", FIELD_MAP, file_model, slo, .nested = &slo_table),
    KEY("interactive", FIELD_MAP, file_model, rooms[WAITING_INTERACTIVE], .nested = &room_table),
    KEY("batch", FIELD_MAP, file_model, rooms[WAITING_BATCH], .nested = &room_table),
    KEY("autoscale", FIELD_MAP, file_model, scale, .nested = &scale_table),
};
static const struct file_model model_defaults = {
    .slo = {.probability = 0.99},
    .rooms = {{.max = 10000, .wait_us = 60 * SECONDS}, {.max = 1000000, .wait_us = 86400 * SECONDS}},
    .scale = {.api = true,
              .api_bridge = true,
              .api_steady = true,
              .worth = true,
              .nodes_max = SIM_NODES_MAX,
              .z = 1.28,
              .over_provision = 0.1,
              .replace_saving = 0.15,
              .queue_drain_us = 30 * SECONDS,
              .down_after_us = 600 * SECONDS,
              .return_after_us = 300 * SECONDS,
              .drain_max_us = 600 * SECONDS,
              .tick_us = 10 * SECONDS},
};
TABLE_WITH(model_table, model_fields, file_model, &model_defaults);

static const struct field curve_fields[] = {
    KEY("base_us", FIELD_DOUBLE, file_curve, base, .lo = 0, .hi = 1e9),
    KEY("prefill_us_per_token", FIELD_DOUBLE, file_curve, prefill_per_token, .lo = 0, .hi = 1e9),
    KEY("decode_us", FIELD_DOUBLE, file_curve, decode_base, .lo = 0, .hi = 1e9),
    KEY("decode_us_per_sequence", FIELD_DOUBLE, file_curve, decode_per_sequence, .lo = 0, .hi = 1e9),
};
TABLE(curve_table, curve_fields, file_curve);

static const struct field measured_fields[] = {
    KEY("model", FIELD_TEXT, file_measured, model, .required = true),
    KEY("gpu", FIELD_TEXT, file_measured, gpu, .required = true),
    KEY("gpus", FIELD_INT, file_measured, gpus, .lo = 1, .hi = 4096, .required = true),
    KEY("task", FIELD_TEXT, file_measured, task),
};
TABLE(measured_table, measured_fields, file_measured);

static const struct field shape_fields[] = {
    KEY("params_b", FIELD_DOUBLE, file_shape, params_b, .lo = 1e-6, .hi = 1e5, .required = true),
    KEY("active_params_b", FIELD_DOUBLE, file_shape, active_params_b, .lo = 1e-6, .hi = 1e5),
    KEY("bits_per_weight", FIELD_DOUBLE, file_shape, bits_per_weight, .lo = 1, .hi = 64),
    KEY("kv_bits", FIELD_DOUBLE, file_shape, kv_bits, .lo = 1, .hi = 64),
    KEY("layers", FIELD_INT, file_shape, layers, .lo = 1, .hi = 10000),
    KEY("kv_heads", FIELD_INT, file_shape, kv_heads, .lo = 1, .hi = 10000),
    KEY("head_dim", FIELD_INT, file_shape, head_dim, .lo = 1, .hi = 100000),
    KEY("kv_latent", FIELD_INT, file_shape, kv_latent, .lo = 1, .hi = 100000),
};
TABLE(shape_table, shape_fields, file_shape);

static const struct field gpu_fields[] = {
    KEY("gpus", FIELD_INT, file_gpu, gpus, .lo = 1, .hi = 4096, .required = true),
    KEY("memory_gb", FIELD_DOUBLE, file_gpu, memory_gb, .lo = 0.1, .hi = 1e5),
    KEY("bandwidth_gb_s", FIELD_DOUBLE, file_gpu, bandwidth_gb_s, .lo = 1, .hi = 1e6),
    KEY("tflops", FIELD_DOUBLE, file_gpu, tflops, .lo = 0.001, .hi = 1e6, .required = true),
    KEY("flops_share", FIELD_DOUBLE, file_gpu, flops_share, .lo = 0.01, .hi = 1),
    KEY("bandwidth_share", FIELD_DOUBLE, file_gpu, bandwidth_share, .lo = 0.01, .hi = 1),
};
TABLE(gpu_table, gpu_fields, file_gpu);

static const struct field point_fields[] = {
    KEY("batch", FIELD_DOUBLE, file_point, batch, .lo = 0, .hi = 1e6, .required = true),
    KEY("watts", FIELD_DOUBLE, file_point, watts, .lo = 0, .hi = 1e7, .required = true),
};
TABLE(point_table, point_fields, file_point);

static const struct field watts_fields[] = {
    KEY("off", FIELD_DOUBLE, file_watts, off, .lo = 0, .hi = 1e7),
    KEY("sleep", FIELD_DOUBLE, file_watts, sleep, .lo = 0, .hi = 1e7),
    KEY("idle", FIELD_DOUBLE, file_watts, idle, .lo = 0, .hi = 1e7),
    KEY("prefill", FIELD_DOUBLE, file_watts, prefill, .lo = 0, .hi = 1e7),
    KEY("wake", FIELD_DOUBLE, file_watts, wake, .lo = 0, .hi = 1e7),
    KEY("decode", FIELD_LIST, file_watts, points, .nested = &point_table),
};
TABLE(watts_table, watts_fields, file_watts);

static const struct field type_fields[] = {
    KEY("name", FIELD_TEXT, file_type, name, .required = true),
    KEY("model", FIELD_TEXT, file_type, model),
    KEY("calibration", FIELD_TEXT, file_type, calibration),
    KEY("curve", FIELD_MAP, file_type, curve, .nested = &curve_table),
    KEY("measured", FIELD_MAP, file_type, measured, .nested = &measured_table),
    KEY("shape", FIELD_MAP, file_type, shape, .nested = &shape_table),
    KEY("gpu", FIELD_MAP, file_type, gpu, .nested = &gpu_table),
    KEY("watts", FIELD_MAP, file_type, watts, .nested = &watts_table),
    KEY("chunk_tokens", FIELD_INT, file_type, chunk_tokens, .lo = 1, .hi = 1e6),
    KEY("sequences_max", FIELD_INT, file_type, sequences_max, .lo = 1, .hi = 4096),
    KEY("slots", FIELD_INT, file_type, slots, .lo = 1, .hi = 1e6),
    KEY("kv_tokens", FIELD_DOUBLE, file_type, kv_tokens, .lo = 1, .hi = 1e15),
    KEY("load_max", FIELD_DOUBLE, file_type, load_max, .lo = 0.01, .hi = 0.99),
    KEY("mtbf_hours", FIELD_DOUBLE, file_type, mtbf_h, .lo = 0.001, .hi = 1e9),
    KEY("repair", FIELD_DURATION, file_type, repair_us),
    KEY("wake", FIELD_DURATION, file_type, wake_us),
    KEY("boot", FIELD_DURATION, file_type, boot_us),
};
static const struct file_type type_defaults = {
    .curve = {-1, -1, -1, -1, 0},
    .shape = {.bits_per_weight = 16, .kv_bits = 16},
    .gpu = {.flops_share = 0.4, .bandwidth_share = 0.6},
    .watts = {.off = -1, .sleep = -1, .idle = -1, .wake = -1},
    .wake_us = 20 * SECONDS,
    .boot_us = 240 * SECONDS,
    .repair_us = 4 * 3600 * SECONDS,
};
TABLE_WITH(type_table, type_fields, file_type, &type_defaults);

static const struct field list_price_fields[] = {
    KEY("cloud", FIELD_TEXT, file_list_price, cloud),
    KEY("type", FIELD_TEXT, file_list_price, type),
    KEY("accelerator", FIELD_TEXT, file_list_price, accelerator),
    KEY("accelerators", FIELD_INT, file_list_price, accelerators, .lo = 1, .hi = 1024),
    KEY("region", FIELD_TEXT, file_list_price, region),
    KEY("zone", FIELD_TEXT, file_list_price, zone),
    KEY("pick", FIELD_CHOICE, file_list_price, pick, .words = picks),
    KEY("share", FIELD_DOUBLE, file_list_price, share, .lo = 0.001, .hi = 1000),
    KEY("factor", FIELD_DOUBLE, file_list_price, factor, .lo = 0.001, .hi = 1000),
};
TABLE(list_price_table, list_price_fields, file_list_price);

static const struct field availability_fields[] = {
    KEY("collection", FIELD_TEXT, file_availability, collection),
    KEY("zone", FIELD_TEXT, file_availability, zone, .required = true),
    KEY("nodes", FIELD_INT, file_availability, nodes, .lo = 1, .hi = SIM_NODES_MAX, .required = true),
    KEY("offset", FIELD_DURATION, file_availability, offset_us),
};
TABLE(availability_table, availability_fields, file_availability);

static const struct field charge_fields[] = {
    KEY("input", FIELD_PRICE, file_charge, input),
    KEY("cached_input", FIELD_PRICE, file_charge, cached_input),
    KEY("output", FIELD_PRICE, file_charge, output),
};
TABLE(charge_table, charge_fields, file_charge);

static const struct field offer_fields[] = {
    KEY("provider", FIELD_TEXT, file_offer, provider, .required = true),
    KEY("zone", FIELD_TEXT, file_offer, zone),
    KEY("type", FIELD_TEXT, file_offer, type, .required = true),
    KEY("site", FIELD_TEXT, file_offer, site),
    KEY("pool", FIELD_TEXT, file_offer, pool),
    KEY("market", FIELD_CHOICE, file_offer, market, .words = markets, .required = true),
    KEY("domain", FIELD_INT, file_offer, domain, .lo = 0, .hi = 1e6),
    KEY("nodes_max", FIELD_INT, file_offer, nodes_max, .lo = 0, .hi = SIM_NODES_MAX),
    KEY("running", FIELD_INT, file_offer, running, .lo = 0, .hi = SIM_NODES_MAX),
    KEY("asleep", FIELD_INT, file_offer, asleep, .lo = 0, .hi = SIM_NODES_MAX),
    KEY("nodes", FIELD_TEXTS, file_offer, nodes),
    KEY("price_hour", FIELD_DOLLARS, file_offer, price_hour),
    KEY("list_price", FIELD_MAP, file_offer, list_price, .nested = &list_price_table),
    KEY("available", FIELD_MAP, file_offer, availability, .nested = &availability_table),
    KEY("boot", FIELD_DURATION, file_offer, boot_us),
    KEY("notice", FIELD_DURATION, file_offer, notice_us),
    KEY("billing_min", FIELD_DURATION, file_offer, billing_min_us),
    KEY("losses_per_hour", FIELD_DOUBLE, file_offer, losses_per_hour, .lo = 0, .hi = 1000),
    KEY("purchase", FIELD_DOLLARS, file_offer, purchase),
    KEY("life_years", FIELD_DOUBLE, file_offer, life_years, .lo = 0.1, .hi = 100),
    KEY("charge", FIELD_MAP, file_offer, charge, .nested = &charge_table),
};
static const struct file_offer offer_defaults = {
    .domain = -1,
    .nodes_max = -1,
    .list_price = {.share = 1, .factor = 1},
    .boot_us = 300 * SECONDS,
    .notice_us = 120 * SECONDS,
    .billing_min_us = 60 * SECONDS,
    .losses_per_hour = -1,
    .life_years = 4,
};
TABLE_WITH(offer_table, offer_fields, file_offer, &offer_defaults);

static const struct field pool_fields[] = {
    KEY("name", FIELD_TEXT, file_pool, name, .required = true),
    KEY("min", FIELD_INT, file_pool, min, .lo = 0, .hi = SIM_NODES_MAX, .required = true),
};
TABLE(pool_table, pool_fields, file_pool);

static const struct field site_fields[] = {
    KEY("name", FIELD_TEXT, file_site, name, .required = true),
    KEY("zone", FIELD_TEXT, file_site, zone),
    KEY("from", FIELD_TIME, file_site, from_s),
    KEY("factor", FIELD_DOUBLE, file_site, factor, .lo = 0, .hi = 1000),
    KEY("usd_per_kwh", FIELD_DOUBLE, file_site, usd_per_kwh, .lo = 0, .hi = 1000),
    KEY("cap_watts", FIELD_DOUBLE, file_site, cap_watts, .lo = 0, .hi = 1e9),
    KEY("base_watts", FIELD_DOUBLE, file_site, base_watts, .lo = 0, .hi = 1e9),
    KEY("powered", FIELD_BOOL, file_site, powered),
    KEY("keep_warm", FIELD_INT, file_site, keep_warm, .lo = 0, .hi = 100000),
    KEY("trust", FIELD_INT, file_site, trust, .lo = 0, .hi = 1000),
    KEY("overhead", FIELD_DOUBLE, file_site, overhead, .lo = 1, .hi = 10),
};
static const struct file_site site_defaults = {.usd_per_kwh = -1, .overhead = 1, .factor = 1, .from_s = -1};
TABLE_WITH(site_table, site_fields, file_site, &site_defaults);

static const struct field api_fields[] = {
    KEY("provider", FIELD_TEXT, file_api, provider),
    KEY("model", FIELD_TEXT, file_api, model),
    KEY("node", FIELD_TEXT, file_api, node),
    KEY("input", FIELD_PRICE, file_api, input),
    KEY("cached_input", FIELD_PRICE, file_api, cached_input),
    KEY("output", FIELD_PRICE, file_api, output),
    KEY("ttft", FIELD_DURATION, file_api, ttft_us),
    KEY("tpot", FIELD_DURATION, file_api, tpot_us),
    KEY("ttft_per_1k", FIELD_DURATION, file_api, ttft_per_1k_us),
    KEY("spread", FIELD_DOUBLE, file_api, spread, .lo = 0, .hi = 10),
};
static const struct file_api api_defaults = {
    .input = {-1}, .cached_input = {-1}, .output = {-1}, .ttft_us = 400000, .tpot_us = 20000, .spread = 0.5};
TABLE_WITH(api_table, api_fields, file_api, &api_defaults);

static const struct field budget_fields[] = {
    KEY("name", FIELD_TEXT, file_budget, name, .required = true),
    KEY("match", FIELD_TEXTS, file_budget, match),
    KEY("period", FIELD_CHOICE, file_budget, period, .words = periods),
    KEY("start", FIELD_TIME, file_budget, start_s),
    KEY("hard", FIELD_TEXT, file_budget, hard),
    KEY("soft", FIELD_TEXT, file_budget, soft),
    KEY("carry_over", FIELD_TEXT, file_budget, carry_over),
    KEY("soft_actions", FIELD_TEXTS, file_budget, soft_actions),
    KEY("hard_actions", FIELD_TEXTS, file_budget, hard_actions),
};
static const struct file_budget budget_defaults = {.period = PERIOD_MONTH, .start_s = -1};
TABLE_WITH(budget_table, budget_fields, file_budget, &budget_defaults);

static const struct field file_fields[] = {
    KEY("scenario", FIELD_TEXT, scenario_file, name, .required = true),
    KEY("start", FIELD_TIME, scenario_file, start_s),
    KEY("span", FIELD_DURATION, scenario_file, span_us),
    KEY("measure_from", FIELD_DURATION, scenario_file, measure_from_us),
    KEY("until", FIELD_DURATION, scenario_file, until_us),
    KEY("seed", FIELD_INT, scenario_file, seed, .lo = 0, .hi = 2147483647),
    KEY("routing", FIELD_CHOICE, scenario_file, routing, .words = routings),
    KEY("nodes_max", FIELD_INT, scenario_file, nodes_max, .lo = 1, .hi = SIM_NODES_MAX),
    KEY("prices", FIELD_TEXT, scenario_file, prices),
    KEY("spot", FIELD_TEXT, scenario_file, spot),
    KEY("power", FIELD_TEXT, scenario_file, power),
    KEY("electricity", FIELD_TEXT, scenario_file, electricity),
    KEY("traces", FIELD_LIST, scenario_file, traces, .nested = &trace_table),
    KEY("models", FIELD_LIST, scenario_file, models, .nested = &model_table, .required = true),
    KEY("types", FIELD_LIST, scenario_file, types, .nested = &type_table),
    KEY("offers", FIELD_LIST, scenario_file, offers, .nested = &offer_table),
    KEY("pools", FIELD_LIST, scenario_file, pools, .nested = &pool_table),
    KEY("sites", FIELD_LIST, scenario_file, sites, .nested = &site_table),
    KEY("apis", FIELD_LIST, scenario_file, apis, .nested = &api_table),
    KEY("budgets", FIELD_LIST, scenario_file, budgets, .nested = &budget_table),
};
TABLE(file_table, file_fields, scenario_file);

enum rc scenario_file_read(struct scenario *s, struct error *e)
{
    s->file = (struct scenario_file){.start_s = -1};
    return fields_read(yaml_root(s->doc), &file_table, &s->file, s->path, s->arena, e);
}
