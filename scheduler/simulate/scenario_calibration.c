/* How fast a type is by a record of `spillway nodes calibrate`, and the scenario that a configuration alone makes: its
 * own machines as they were calibrated, nothing scaled, and its paid APIs. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json_write.h"
#include "scheduler/calibrate/record.h"
#include "scheduler/simulate/scenario_internal.h"

/* --- a record ---------------------------------------------------------------------------------------------------------- */

/* Steps without what their context took: of each batch that was measured, with the least context. */
static int bare_steps(const struct calibration *r, struct curve_point *out)
{
    for (int i = 0; i < r->n_decode; i++) {
        double least = INFINITY;
        out[i] = r->decode[i];
        for (int k = 0; k < r->n_context; k++)
            if (r->context[k].batch == (int32_t)r->decode[i].x && r->context[k].tokens < least) {
                least = r->context[k].tokens;
                out[i].us = r->context[k].us - r->detail.decode_us_per_ctx_tok * least;
            }
        out[i].us = fmax(out[i].us, i ? out[i - 1].us : 1);
    }
    return r->n_decode;
}

/* Between points on straight lines, beyond the last one along the curve's. */
static double step_at(const struct curve_point *p, int n, double per_seq, double batch)
{
    for (int i = 1; i < n; i++)
        if (batch <= p[i].x)
            return p[i - 1].us + (p[i].us - p[i - 1].us) * (batch - p[i - 1].x) / (p[i].x - p[i - 1].x);
    return p[n - 1].us + per_seq * (batch - p[n - 1].x);
}

static enum rc take_steps(struct scenario *s, const struct calibration *r, struct sim_type *t, struct error *e)
{
    struct curve_point p[CALIBRATION_POINTS_MAX];
    float *us;
    const int n = bare_steps(r, p);
    bool rising = n > 0 && p[0].x == 1;
    for (int i = 1; i < n; i++)
        rising = rising && p[i].x > p[i - 1].x;
    if (!rising) /* written by hand, perhaps: the line will do */
        return RC_OK;
    enum rc rc = scenario_array(s, &us, t->sequences_max + 1, sizeof *us, e);
    for (int i = 1; rc == RC_OK && i <= t->sequences_max; i++)
        us[i] = (float)step_at(p, n, r->curve.decode_us_per_seq, i);
    t->step_us = rc == RC_OK ? us : NULL;
    return rc;
}

/* Where neither the file nor the configuration says what it draws. */
static void take_draws(const struct calibration *r, struct sim_type *t)
{
    struct power_level *l = &t->levels.of[POWER_ACTIVE];
    if (r->watts == CALIBRATION_WATTS_UNKNOWN || l->n_points || l->idle_mw > 0)
        return;
    l->idle_mw = llround(calibration_mw(r, 0));
    for (int i = 0; i < r->n_watts && l->n_points < POWER_POINTS_MAX; i++)
        if (r->by_batch[i].batch > 0 && (!i || r->by_batch[i].batch > r->by_batch[i - 1].batch))
            l->points[l->n_points++] =
                (struct power_point){r->by_batch[i].batch, llround(calibration_mw(r, r->by_batch[i].batch))};
}

static enum rc note(struct scenario *s, const struct file_type *f, const char *from, const struct calibration *r)
{
    enum rc rc = strbuf_printf(&s->notes, "type %s: as %s was measured %s%s\n", f->name, from,
                               r->measured_at[0] ? r->measured_at : "at an unknown time",
                               calibration_stale(r, (int64_t)time(NULL)) ? ", which is long ago" : "");
    if (rc == RC_OK && r->model[0] && f->model && strcmp(r->model, f->model) != 0)
        rc = strbuf_printf(&s->notes, "type %s: it was measured with model %s\n", f->name, r->model);
    return rc;
}

static bool has_speed(const struct file_type *f)
{
    const struct file_curve *c = &f->curve;
    return f->measured.model || f->shape.params_b > 0 || (c->prefill_per_token >= 0 && c->decode_base >= 0);
}

/* The record of a node of the configuration that an offer says is of this type. */
static const struct calibration *of_node(const struct scenario *s, const struct scenario_inputs *in, const char *type,
                                         const char **node)
{
    const struct file_offer *o = s->file.offers.items;
    for (int i = 0; i < s->file.offers.n; i++) {
        const char *const *names = o[i].nodes.items;
        for (int k = 0; strcmp(o[i].type, type) == 0 && k < o[i].nodes.n; k++)
            for (int n = 0; n < in->n_nodes; n++)
                if (in->nodes[n].calibrated && strcmp(in->nodes[n].name, names[k]) == 0) {
                    *node = in->nodes[n].name;
                    return in->nodes[n].calibrated;
                }
    }
    return NULL;
}

enum rc scenario_take_calibration(struct scenario *s, const struct scenario_inputs *in, const struct file_type *f,
                                  struct sim_type *t, struct error *e)
{
    struct calibration read;
    const struct calibration *r = NULL;
    const char *from = "";
    struct error why;
    if (f->calibration) {
        from = scenario_path(s, f->calibration);
        r = &read;
        if (calibration_load(&read, from, &why) != RC_OK)
            return scenario_error(s, f->line, e, "calibration: %s; `spillway nodes calibrate` writes such a record",
                                  why.message);
    } else if (!has_speed(f)) {
        r = of_node(s, in, f->name, &from);
    }
    if (!r)
        return RC_OK;
    if (f->curve.line) /* one number of another line would fit none of the points */
        return scenario_error(s, f->curve.line, e, "type %.60s: curve stands beside the record %.200s; leave one out",
                              f->name, from);
    t->curve = r->curve;
    t->detail = r->detail;
    t->sequences_max = f->sequences_max ? f->sequences_max : r->n_decode ? (int32_t)r->decode[r->n_decode - 1].x : 256;
    take_draws(r, t);
    enum rc rc = take_steps(s, r, t, e);
    if (rc == RC_OK && note(s, f, from, r) != RC_OK)
        rc = error_set(e, RC_FULL, "%s: there is too much to note", s->path);
    return rc;
}

/* --- a configuration alone --------------------------------------------------------------------------------------------- */

static bool is_new(const struct scenario_node *nodes, int i)
{
    for (int k = 0; k < i; k++)
        if (strcmp(nodes[k].model, nodes[i].model) == 0)
            return false;
    return true;
}

/* What it draws by the configuration; nothing where it does not say. */
static void put_watts(struct json_writer *w, const struct scenario_node *n)
{
    if (!n->watts)
        return;
    json_open(w, "watts", '{');
    json_int(w, "idle", n->idle_watts);
    json_open(w, "decode", '[');
    json_open(w, NULL, '{');
    json_int(w, "batch", 1);
    json_int(w, "watts", n->watts);
    json_close(w, '}');
    json_close(w, ']');
    json_int(w, "prefill", n->watts);
    json_close(w, '}');
}

static void put_type(struct json_writer *w, const struct scenario_node *n)
{
    json_open(w, NULL, '{');
    json_string(w, "name", n->name);
    json_string(w, "model", n->model);
    if (n->slots)
        json_int(w, "slots", n->slots);
    if (n->sequences || n->slots)
        json_int(w, "sequences_max", n->sequences ? n->sequences : n->slots);
    if (n->kv_tokens)
        json_int(w, "kv_tokens", n->kv_tokens);
    put_watts(w, n);
    json_close(w, '}');
}

static void put_offer(struct json_writer *w, const struct scenario_node *n)
{
    json_open(w, NULL, '{');
    json_string(w, "provider", "own");
    json_string(w, "type", n->name);
    json_string(w, "market", "on_prem");
    json_string(w, "site", SCENARIO_PREMISES);
    json_open(w, "nodes", '[');
    json_string(w, NULL, n->name);
    json_close(w, ']');
    json_close(w, '}');
}

static void put_ms(struct json_writer *w, const char *key, int64_t ms)
{
    char text[32];
    if (ms <= 0)
        return;
    snprintf(text, sizeof text, "%lldms", (long long)ms);
    json_string(w, key, text);
}

static void put_model(struct json_writer *w, const struct scenario_node *n)
{
    static const char *const objectives[] = {"cost", "latency", "energy", "balanced"}; /* enum sim_objective */
    const struct scenario_aim *aim = &n->aim;
    char text[32];
    json_open(w, NULL, '{');
    json_string(w, "name", n->model);
    json_string(w, "objective", objectives[aim->objective]);
    if (aim->ttft_ms > 0 || aim->tpot_ms > 0) {
        json_open(w, "slo", '{');
        put_ms(w, "ttft", aim->ttft_ms);
        put_ms(w, "tpot", aim->tpot_ms);
        put_ms(w, "ttft_per_1k", aim->ttft_per_1k_ms);
        json_int(w, "free_tokens", aim->free_tokens);
        snprintf(text, sizeof text, "%.6g", aim->probability > 0 ? aim->probability : 0.99);
        json_raw(w, "probability", text);
        json_close(w, '}');
    }
    json_close(w, '}');
}

/* JSON is YAML: what is read is a scenario file like any other. */
static enum rc write_scenario(const struct scenario_inputs *in, struct strbuf *out)
{
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_string(&w, "scenario", "as-configured");
    json_open(&w, "models", '[');
    for (int i = 0; i < in->n_nodes; i++)
        if (is_new(in->nodes, i))
            put_model(&w, &in->nodes[i]);
    json_close(&w, ']');
    json_open(&w, "types", '[');
    for (int i = 0; i < in->n_nodes; i++)
        if (in->nodes[i].local && in->nodes[i].calibrated)
            put_type(&w, &in->nodes[i]);
    json_close(&w, ']');
    json_open(&w, "offers", '[');
    for (int i = 0; i < in->n_nodes; i++)
        if (in->nodes[i].local && in->nodes[i].calibrated)
            put_offer(&w, &in->nodes[i]);
    json_close(&w, ']');
    json_close(&w, '}');
    return json_write_end(&w);
}

enum rc scenario_of_configuration(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    struct strbuf text;
    strbuf_init(&text, (size_t)1 << 20);
    enum rc rc = write_scenario(in, &text);
    if (rc != RC_OK)
        (void)error_set(e, rc, "%s: its nodes are too many", s->path);
    for (int i = 0; rc == RC_OK && i < in->n_nodes; i++)
        if (in->nodes[i].local && !in->nodes[i].calibrated)
            rc = strbuf_printf(&s->notes, "node %s takes no part: it is not calibrated (spillway nodes calibrate %s)\n",
                               in->nodes[i].name, in->nodes[i].name);
    if (rc == RC_OK)
        rc = yaml_parse(&s->doc, text.data, text.len, s->path, e);
    strbuf_fini(&text);
    return rc;
}
