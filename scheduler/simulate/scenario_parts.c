/* Models, node types, sites and APIs of a scenario, out of its file and tables. */
#include "scheduler/simulate/scenario_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- models ------------------------------------------------------------------------------------------------------------ */

static void make_scale(struct sim_model *m, const struct file_scale *f)
{
    m->scaled = f->on;
    m->worth = f->worth;
    m->signal = (enum forecast_signal)f->signal;
    m->limits = (struct scale_limits){
        .nodes_min = f->nodes_min,
        .nodes_max = f->nodes_max,
        .hour_max = f->hour_max.v > 0 ? f->hour_max : (struct pusd){-1},
        .z = f->z,
        .over_provision = f->over_provision,
        .survive = f->survive,
        .queue_drain_s = (int32_t)(f->queue_drain_us / 1000000),
        .down_after_s = (int32_t)(f->down_after_us / 1000000),
        .return_after_s = (int32_t)(f->return_after_us / 1000000),
        .replace_saving = f->replace_saving,
        .drain_max_s = (int32_t)(f->drain_max_us / 1000000),
        .tick_s = (int32_t)(f->tick_us / 1000000),
        .idle_rate = f->idle_rate,
        .down_band = f->down_band,
    };
    m->api =
        (struct scale_api){.allowed = f->api, .bridge = f->api && f->api_bridge, .steady = f->api && f->api_steady};
}

enum rc scenario_make_models(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const struct file_model *f = s->file.models.items;
    struct sim_model *models;
    int n = s->file.models.n;

    if (n < 1 || n > SIM_MODELS_MAX)
        return scenario_error(s, s->file.line, e, "models: %d are out of bounds; 1 to %d are allowed", n,
                              SIM_MODELS_MAX);
    enum rc rc = scenario_array(s, &models, n, sizeof *models, e);
    for (int i = 0; rc == RC_OK && i < n; i++) {
        for (int k = 0; k < i; k++)
            if (strcmp(f[k].name, f[i].name) == 0)
                return scenario_error(s, f[i].line, e, "model %s stands here a second time", f[i].name);
        if (f[i].scale.tick_us < 1000000 || f[i].scale.nodes_min > f[i].scale.nodes_max)
            return scenario_error(s, f[i].line, e, "autoscale: tick is 1s at least, nodes_min no more than nodes_max");
        models[i] = (struct sim_model){.name = f[i].name, .objective = (enum sim_objective)f[i].objective};
        models[i].slo = (struct sim_slo){.ttft_us = f[i].slo.ttft_us,
                                         .tpot_us = f[i].slo.tpot_us,
                                         .ttft_us_per_tok = (double)f[i].slo.ttft_per_1k_us / 1000,
                                         .ttft_free_tokens = f[i].slo.free_tokens,
                                         .probability = f[i].slo.probability};
        for (int k = 0; k < WAITING_CLASSES; k++)
            models[i].waiting[k] = in->waiting ? in->waiting[k]
                                               : (struct waiting_bounds){.count = f[i].rooms[k].max,
                                                                         .bytes = INT64_MAX,
                                                                         .wait_ns = f[i].rooms[k].wait_us * 1000};
        make_scale(&models[i], &f[i].scale);
    }
    s->sim.models = models;
    s->sim.n_models = n;
    return rc;
}

static enum rc find_model(const struct scenario *s, const char *name, int line, uint32_t *model, struct error *e)
{
    for (int i = 0; i < s->sim.n_models; i++)
        if (!name || strcmp(s->sim.models[i].name, name) == 0) {
            *model = (uint32_t)i;
            if (!name && s->sim.n_models > 1)
                return scenario_error(s, line, e, "model is missing, and there are several");
            return RC_OK;
        }
    return scenario_error(s, line, e, "model %.80s is none of `models`", name);
}

/* --- types -------------------------------------------------------------------------------------------------------- */

/* A straight line through the measured steps, by least squares: time between tokens against batch. Weighted by 1/step,
 * so that a small batch's error counts as much in per cent. */
static void fit_steps(const struct power_row *rows, int n, double *base_us, double *per_seq_us)
{
    double w = 0, x = 0, y = 0, xx = 0, xy = 0;

    for (int i = 0; i < n; i++) {
        double step = rows[i].itl_ms * 1000, k = step > 0 ? 1 / step : 0;
        w += k;
        x += k * rows[i].batch;
        y += k * step;
        xx += k * rows[i].batch * rows[i].batch;
        xy += k * rows[i].batch * step;
    }
    double d = w * xx - x * x;
    *per_seq_us = d > 0 ? fmax(0, (w * xy - x * y) / d) : 0;
    *base_us = w > 0 ? fmax(0, (y - *per_seq_us * x) / w) : 0;
}

/* Draws by batch: never falling, as policies/power.h wants them. */
static void add_point(struct power_level *l, double batch, double watts)
{
    int32_t at = (int32_t)ceil(batch);
    int64_t mw = llround(watts * 1000), before = l->n_points ? l->points[l->n_points - 1].mw : l->idle_mw;

    if (at < 1 || (l->n_points && at <= l->points[l->n_points - 1].in_flight))
        return;
    l->points[l->n_points++] = (struct power_point){at, mw > before ? mw : before};
}

static void measured_watts(struct power_level *l, const struct power_row *rows, int n)
{
    int stride = (n + POWER_POINTS_MAX - 1) / POWER_POINTS_MAX;

    for (int i = (n - 1) % stride; i < n; i += stride) /* with the largest batch among them */
        add_point(l, rows[i].batch, rows[i].watts);
}

static void allow_level(struct power_level *l, double watts, int64_t wake_us, double wake_watts)
{
    *l = (struct power_level){.allowed = watts >= 0, .idle_mw = watts >= 0 ? llround(watts * 1000) : 0};
    if (l->allowed) {
        l->wake_us = wake_us;
        l->wake_mw = llround(wake_watts * 1000);
    }
}

static enum rc make_watts(struct scenario *s, const struct file_type *f, struct sim_type *t,
                          const struct power_row *rows, int n_rows, struct error *e)
{
    const struct file_point *points = f->watts.points.items;
    struct power_level *active = &t->levels.of[POWER_ACTIVE];
    double wake = f->watts.wake >= 0 ? f->watts.wake : fmax(0, f->watts.idle);

    allow_level(active, fmax(0, f->watts.idle), 0, 0);
    allow_level(&t->levels.of[POWER_SLEEP], f->watts.sleep, f->wake_us, wake);
    allow_level(&t->levels.of[POWER_OFF], f->watts.off, f->boot_us, wake);
    t->prefill_mw = llround(f->watts.prefill * 1000);
    if (f->watts.points.n > POWER_POINTS_MAX)
        return scenario_error(s, f->watts.line, e, "decode: %d points are at most", POWER_POINTS_MAX);
    for (int i = 0; i < f->watts.points.n; i++) {
        if (i && points[i].batch <= points[i - 1].batch)
            return scenario_error(s, points[i].line, e, "batch: is not larger than the one before");
        add_point(active, points[i].batch, points[i].watts);
    }
    if (!f->watts.points.n && n_rows)
        measured_watts(active, rows, n_rows);
    struct error why;
    if (power_levels_check(&t->levels, &why) != RC_OK)
        return scenario_error(s, f->watts.line ? f->watts.line : f->line, e, "watts: %s", why.message);
    return RC_OK;
}

/* From the measured rows: steps, and the largest batch. */
static enum rc take_measured(struct scenario *s, const struct file_type *f, struct sim_type *t,
                             const struct power_row **rows, int *n, struct error *e)
{
    *rows = NULL;
    *n = 0;
    if (!f->measured.model)
        return RC_OK;
    if (!s->power.n)
        return scenario_error(s, f->measured.line, e,
                              "measured: no table of power is named; use `power:` or --power FILE");
    *rows = power_rows(&s->power, f->measured.model, f->measured.gpu, f->measured.gpus, f->measured.task, n);
    if (*n < 2)
        return scenario_error(s, f->measured.line, e,
                              "measured: the power table has %d rows of %.60s on %d x %.20s; two are needed", *n,
                              f->measured.model, (int)f->measured.gpus, f->measured.gpu);
    fit_steps(*rows, *n, &t->curve.decode_us_base, &t->curve.decode_us_per_seq);
    t->sequences_max = (*rows)[*n - 1].max_seqs < 4096 ? (*rows)[*n - 1].max_seqs : 4096;
    return RC_OK;
}

static const struct workload_mix usual_mix = {.prompt = 1000, .output = 300};

/* How fast it does so is known. A line through points that were measured may begin at nought; of one that is written
 * both numbers are wanted. */
static bool writes(const struct node_curve *c)
{
    return c->decode_us_base + c->decode_us_per_seq > 0;
}

/* From the model's shape and the GPU's data sheet: prefill and steps where nothing was measured, and KV memory. */
static void take_data_sheet(const struct file_type *f, struct sim_type *t)
{
    const struct file_shape *m = &f->shape;
    const struct file_gpu *g = &f->gpu;
    const struct model_shape shape = {.params = m->params_b * 1e9,
                                      .active_params =
                                          (m->active_params_b > 0 ? m->active_params_b : m->params_b) * 1e9,
                                      .bits_per_weight = m->bits_per_weight,
                                      .layers = m->layers,
                                      .kv_heads = m->kv_heads,
                                      .head_dim = m->head_dim,
                                      .kv_latent = m->kv_latent,
                                      .kv_bits = m->kv_bits};
    const struct gpu_facts gpu = {.gpus = g->gpus,
                                  .memory_bytes = g->memory_gb * 1e9,
                                  .bandwidth_bytes_s = g->bandwidth_gb_s * 1e9,
                                  .flops = g->tflops * 1e12,
                                  .flops_share = g->flops_share,
                                  .bandwidth_share = g->bandwidth_share};
    struct capacity_memory memory;

    if (m->params_b <= 0 || g->gpus < 1)
        return;
    if (t->curve.prefill_us_per_tok <= 0)
        t->curve.prefill_us_per_tok = 2 * shape.active_params / (gpu.flops * gpu.flops_share * gpu.gpus) * 1e6;
    if (m->layers > 0 && g->memory_gb > 0 && (m->kv_latent > 0 || (m->kv_heads > 0 && m->head_dim > 0))) {
        capacity_memory(&memory, &shape, &gpu, &usual_mix);
        t->kv_tokens = memory.fits ? memory.kv_tokens : 0;
        if (!writes(&t->curve) && g->bandwidth_gb_s > 0)
            capacity_curve(&t->curve, &shape, &gpu, &usual_mix);
    }
}

static void take_written(const struct file_type *f, struct sim_type *t)
{
    const struct file_curve *c = &f->curve;

    t->curve.base_us = c->base >= 0 ? c->base : t->curve.base_us;
    t->curve.prefill_us_per_tok = c->prefill_per_token >= 0 ? c->prefill_per_token : t->curve.prefill_us_per_tok;
    t->curve.decode_us_base = c->decode_base >= 0 ? c->decode_base : t->curve.decode_us_base;
    t->curve.decode_us_per_seq = c->decode_per_sequence >= 0 ? c->decode_per_sequence : t->curve.decode_us_per_seq;
    t->kv_tokens = f->kv_tokens > 0 ? (int64_t)f->kv_tokens : t->kv_tokens;
    t->sequences_max = f->sequences_max ? f->sequences_max : t->sequences_max ? t->sequences_max : 256;
}

static enum rc make_type(struct scenario *s, const struct scenario_inputs *in, const struct file_type *f,
                         struct sim_type *t, struct error *e)
{
    *t = (struct sim_type){.name = f->name,
                           .chunk_tokens = f->chunk_tokens,
                           .slots = f->slots,
                           .load_max = f->load_max,
                           .mtbf_h = f->mtbf_h,
                           .repair_us = f->repair_us};
    const struct power_row *rows;
    int n_rows;
    enum rc rc = find_model(s, f->model, f->line, &t->model, e);
    if (rc == RC_OK)
        rc = take_measured(s, f, t, &rows, &n_rows, e);
    if (rc == RC_OK)
        rc = make_watts(s, f, t, rows, n_rows, e);
    if (rc == RC_OK)
        rc = scenario_take_calibration(s, in, f, t, e);
    if (rc != RC_OK)
        return rc;
    take_data_sheet(f, t);
    const bool writes_known = writes(&t->curve);
    take_written(f, t);
    if (t->curve.prefill_us_per_tok <= 0)
        return scenario_error(s, f->line, e,
                              "type %.60s: how fast it reads prompts is not said; give "
                              "calibration, curve.prefill_us_per_token, or shape and gpu",
                              f->name);
    if (writes_known ? !writes(&t->curve) : t->curve.decode_us_base <= 0)
        return scenario_error(
            s, f->line, e,
            "type %.60s: how fast it writes is not said; give calibration, curve.decode_us, measured, or "
            "shape and gpu with layers, memory and bandwidth",
            f->name);
    return RC_OK;
}

enum rc scenario_make_types(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const struct file_type *f = s->file.types.items;
    struct sim_type *types;
    int n = s->file.types.n;

    if (n > SIM_TYPES_MAX)
        return scenario_error(s, s->file.line, e, "types: %d are at most", SIM_TYPES_MAX);
    enum rc rc = scenario_array(s, &types, n, sizeof *types, e);
    for (int i = 0; rc == RC_OK && i < n; i++)
        rc = make_type(s, in, &f[i], &types[i], e);
    s->sim.types = types;
    s->sim.n_types = n;
    return rc;
}

/* --- sites -------------------------------------------------------------------------------------------------------- */

/* The table's hours; `from` moves them, so that the trace starts in that hour. */
static enum rc take_hours(struct scenario *s, const struct file_site *f, const char *path, struct tariff *t,
                          struct error *e)
{
    struct electricity table;
    int64_t *series;
    enum rc rc = electricity_read(&table, path, f->zone, e);

    if (rc != RC_OK)
        return rc;
    rc = scenario_array(s, &series, table.n, sizeof *series, e);
    for (int i = 0; rc == RC_OK && i < table.n; i++)
        series[i] = llround((double)table.uusd_per_kwh[i] * f->factor);
    if (rc == RC_OK)
        *t = (struct tariff){.series = series,
                             .n_series = table.n,
                             .series_from_s = table.start_unix_s,
                             .series_step_s = 3600,
                             .series_repeats = true};
    if (rc == RC_OK && f->from_s >= 0)
        t->series_from_s += s->file.start_s - f->from_s;
    if (rc == RC_OK && table.gaps)
        rc = strbuf_printf(&s->notes, "electricity %s: %d hours without a price count as the hour before\n", f->zone,
                           table.gaps);
    electricity_fini(&table);
    return rc;
}

static enum rc make_site(struct scenario *s, const struct file_site *f, const char *path, struct sim_site *site,
                         struct error *e)
{
    struct tariff *t;
    struct error why;
    enum rc rc = scenario_array(s, &t, 1, sizeof *t, e);

    if (rc != RC_OK)
        return rc;
    *site = (struct sim_site){.name = f->name,
                              .tariff = t,
                              .overhead = f->overhead,
                              .cap_mw = llround(f->cap_watts * 1000),
                              .base_mw = llround(f->base_watts * 1000),
                              .powered = f->powered,
                              .keep_warm = f->keep_warm,
                              .trust = f->trust};
    if ((f->zone != NULL) == (f->usd_per_kwh >= 0))
        return scenario_error(
            s, f->line, e, "site %.60s: either zone, for the hours of an electricity table, or usd_per_kwh", f->name);
    if (f->zone && !path)
        return scenario_error(s, f->line, e, "site %.60s: no table is named; use `electricity:` or --power FILE",
                              f->name);
    if (f->from_s >= 0 && s->file.start_s < 0)
        return scenario_error(s, f->line, e, "site %.60s: `from` needs `start`, the time at which the trace starts",
                              f->name);
    if (f->zone)
        rc = take_hours(s, f, path, t, e);
    else
        t->uusd_per_kwh = llround(f->usd_per_kwh * f->factor * 1e6);
    if (rc == RC_OK && tariff_check(t, &why) != RC_OK)
        rc = scenario_error(s, f->line, e, "site %.60s: %s", f->name, why.message);
    return rc;
}

enum rc scenario_make_sites(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const struct file_site *f = s->file.sites.items;
    const char *path = in->electricity       ? in->electricity
                       : s->file.electricity ? scenario_path(s, s->file.electricity)
                                             : NULL;
    struct sim_site *sites;
    int n = s->file.sites.n;

    if (!in->path && in->tariff) { /* the configuration alone */
        enum rc rc = scenario_array(s, &sites, 1, sizeof *sites, e);
        if (rc == RC_OK) {
            *sites = (struct sim_site){.name = SCENARIO_PREMISES, .tariff = in->tariff};
            s->sim.sites = sites;
            s->sim.n_sites = 1;
        }
        return rc;
    }

    if (n > SIM_SITES_MAX)
        return scenario_error(s, s->file.line, e, "sites: %d are at most", SIM_SITES_MAX);
    enum rc rc = scenario_array(s, &sites, n, sizeof *sites, e);
    for (int i = 0; rc == RC_OK && i < n; i++)
        rc = make_site(s, &f[i], path, &sites[i], e);
    s->sim.sites = sites;
    s->sim.n_sites = n;
    return rc;
}

/* --- APIs --------------------------------------------------------------------------------------------------------- */

static const struct scenario_node *node_of(const struct scenario_inputs *in, const char *name)
{
    for (int i = 0; name && i < in->n_nodes; i++)
        if (strcmp(in->nodes[i].name, name) == 0)
            return &in->nodes[i];
    return NULL;
}

static enum rc make_api(struct scenario *s, const struct scenario_inputs *in, const struct file_api *f,
                        struct sim_api *a, struct error *e)
{
    const struct scenario_node *node = node_of(in, f->node);

    if (f->node && !node)
        return scenario_error(s, f->line, e, "node %.60s: the configuration has none of this name", f->node);
    if (!node && (f->input.uusd_per_mtok < 0 || f->output.uusd_per_mtok < 0))
        return scenario_error(s, f->line, e, "an API needs input and output, dollars per million tokens, or a node");
    *a = (struct sim_api){.provider = f->provider ? f->provider
                                      : node      ? node->name
                                                  : "api",
                          .ttft_us = f->ttft_us,
                          .tpot_us = f->tpot_us,
                          .ttft_us_per_tok = (double)f->ttft_per_1k_us / 1000,
                          .spread = f->spread};
    if (node)
        a->prices = node->prices;
    if (f->input.uusd_per_mtok >= 0)
        a->prices.input = a->prices.cached_input = f->input;
    if (f->cached_input.uusd_per_mtok >= 0)
        a->prices.cached_input = f->cached_input;
    if (f->output.uusd_per_mtok >= 0)
        a->prices.output = f->output;
    return find_model(s, f->model ? f->model : node ? node->model : NULL, f->line, &a->model, e);
}

/* A node of the configuration that is off the premises, that no API of the file stands for, and whose model is simulated. */
static bool is_api_of_its_own(const struct scenario *s, const struct scenario_node *n, uint32_t *model)
{
    const struct file_api *f = s->file.apis.items;
    struct error ignored;

    for (int i = 0; i < s->file.apis.n; i++)
        if (f[i].node && strcmp(f[i].node, n->name) == 0)
            return false;
    return !n->local && find_model(s, n->model, 0, model, &ignored) == RC_OK;
}

enum rc scenario_make_apis(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const struct file_api *f = s->file.apis.items;
    struct sim_api *apis;
    int n = s->file.apis.n;
    uint32_t model;

    if (n + in->n_nodes > SIM_APIS_MAX + 4096)
        return scenario_error(s, s->file.line, e, "apis: %d are at most", SIM_APIS_MAX);
    enum rc rc = scenario_array(s, &apis, n + in->n_nodes, sizeof *apis, e);
    for (int i = 0; rc == RC_OK && i < n; i++)
        rc = make_api(s, in, &f[i], &apis[i], e);
    for (int i = 0; rc == RC_OK && i < in->n_nodes; i++)
        if (is_api_of_its_own(s, &in->nodes[i], &model))
            apis[n++] = (struct sim_api){.provider = in->nodes[i].name,
                                         .model = model,
                                         .prices = in->nodes[i].prices,
                                         .ttft_us = 400000,
                                         .tpot_us = 20000,
                                         .spread = 0.5};
    if (rc == RC_OK && n > SIM_APIS_MAX)
        rc = scenario_error(s, s->file.line, e, "apis: %d are at most, with the configuration's", SIM_APIS_MAX);
    s->sim.apis = apis;
    s->sim.n_apis = n;
    return rc;
}
