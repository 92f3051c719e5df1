#include "scheduler/simulate/scenario.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/simulate/scenario_internal.h"

#define SCENARIO_BYTES_MAX ((size_t)512 << 20)

enum rc scenario_error(const struct scenario *s, int line, struct error *e, const char *format, ...)
{
    char text[384];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(e, RC_INVALID, "%s:%d: %s", s->path, line, text);
}

const char *scenario_path(struct scenario *s, const char *path)
{
    const char *slash = strrchr(s->path, '/');

    if (path[0] == '/' || !slash)
        return path;
    const char *joined = arena_printf(s->arena, "%.*s/%s", (int)(slash - s->path), s->path, path);
    return joined ? joined : path;
}

enum rc scenario_array(struct scenario *s, void *items_pp, int n, size_t size, struct error *e)
{
    void *items = arena_alloc(s->arena, size * (size_t)(n > 0 ? n : 1));

    memcpy(items_pp, &items, sizeof items);
    return items ? RC_OK : error_set(e, RC_FULL, "%s: comes to more than %zu bytes", s->path, SCENARIO_BYTES_MAX);
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

static enum rc note_prices(struct scenario *s, const char *path)
{
    const struct price_table *t = &s->prices;
    enum rc rc =
        strbuf_printf(&s->notes, "%s: of %d rows %d have no usable price on demand, %d none on the spot market", path,
                      t->n, t->without_on_demand, t->without_spot);

    for (int bit = 0; rc == RC_OK && bit < PRICE_N_FLAGS; bit++)
        if (t->flagged[bit])
            rc = strbuf_printf(&s->notes, "%s %s %d", bit ? "," : ":", price_flag_name(bit), t->flagged[bit]);
    return rc == RC_OK ? strbuf_puts(&s->notes, "\n") : rc;
}

/* A path of the command line is as it is; one of the file starts at the file's folder. */
static const char *choose(struct scenario *s, const char *given, const char *of_file)
{
    return given ? given : of_file ? scenario_path(s, of_file) : NULL;
}

static enum rc read_tables(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const char *prices = choose(s, in->prices, s->file.prices), *spot = choose(s, in->spot, s->file.spot);
    const char *power = choose(s, in->power, s->file.power);
    enum rc rc = RC_OK;

    if (prices)
        rc = price_table_read(&s->prices, prices, e);
    if (rc == RC_OK && prices)
        rc = note_prices(s, prices);
    if (rc == RC_OK && spot)
        rc = spot_table_read(&s->spot, spot, e);
    if (rc == RC_OK && power)
        rc = power_table_read(&s->power, power, e);
    return rc;
}

/* --- traces ------------------------------------------------------------------------------------------------------- */

static enum rc make_trace(struct scenario *s, const struct file_trace *f, struct trace_file *t, struct error *e)
{
    *t = (struct trace_file){.path = scenario_path(s, f->file),
                             .model = f->model ? f->model : s->sim.models[0].name,
                             .team = f->team,
                             .batch = f->class == WAITING_BATCH,
                             .deadline_us = f->deadline_us,
                             .from_us = f->from_us,
                             .until_us = f->until_us,
                             .copies = f->copies,
                             .shift_us = f->shift_us,
                             .tile = f->tile,
                             .factor = f->factor};
    if (!f->curve)
        return RC_OK;
    struct rate_curve *c = &s->curves[s->n_curves++];
    t->curve = c;
    return rate_curve_read(c, scenario_path(s, f->curve), f->curve_column, e);
}

static enum rc make_traces(struct scenario *s, struct error *e)
{
    int n = s->file.traces.n;

    if (n > TRACE_FILES_MAX)
        return scenario_error(s, s->file.line, e, "traces: %d are at most", TRACE_FILES_MAX);
    enum rc rc = scenario_array(s, &s->traces, n, sizeof *s->traces, e);
    if (rc == RC_OK)
        rc = scenario_array(s, &s->curves, n, sizeof *s->curves, e);
    for (; rc == RC_OK && s->n_traces < n; s->n_traces++)
        rc = make_trace(s, (const struct file_trace *)s->file.traces.items + s->n_traces, &s->traces[s->n_traces], e);
    return rc;
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static enum rc make(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    enum rc rc = in->path ? yaml_load(&s->doc, in->path, e) : scenario_of_configuration(s, in, e);

    if (rc == RC_OK)
        rc = scenario_file_read(s, e);
    if (rc == RC_OK)
        rc = read_tables(s, in, e);
    s->sim = (struct sim_scenario){.name = s->file.name,
                                   .routing = (enum sim_routing)s->file.routing,
                                   .seed = in->seed ? *in->seed : (uint64_t)s->file.seed,
                                   .start_unix_s = s->file.start_s,
                                   .measure_from_us = s->file.measure_from_us,
                                   .until_us = s->file.until_us,
                                   .nodes_max = s->file.nodes_max};
    if (rc == RC_OK)
        rc = scenario_make_models(s, in, e);
    if (rc == RC_OK)
        rc = scenario_make_types(s, in, e);
    if (rc == RC_OK)
        rc = scenario_make_sites(s, in, e);
    if (rc == RC_OK)
        rc = scenario_make_offers(s, in, e);
    if (rc == RC_OK)
        rc = scenario_make_apis(s, in, e);
    if (rc == RC_OK)
        rc = scenario_make_budgets(s, in, e);
    return rc == RC_OK ? make_traces(s, e) : rc;
}

enum rc scenario_load(struct scenario **out, const struct scenario_inputs *in, struct error *e)
{
    struct scenario *s = spw_calloc(1, sizeof *s);

    s->path = spw_strdup(in->path ? in->path : in->config);
    s->arena = arena_new(SCENARIO_BYTES_MAX);
    strbuf_init(&s->notes, 1 << 16);
    enum rc rc = make(s, in, e);
    if (rc != RC_OK) {
        scenario_free(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void scenario_free(struct scenario *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_curves; i++)
        rate_curve_fini(&s->curves[i]);
    price_table_fini(&s->prices);
    spot_table_fini(&s->spot);
    power_table_fini(&s->power);
    yaml_doc_free(s->doc);
    strbuf_fini(&s->notes);
    arena_free(s->arena);
    free(s->path);
    free(s);
}

struct sim_scenario *scenario_sim(struct scenario *s)
{
    return &s->sim;
}

const struct trace_file *scenario_traces(const struct scenario *s, int *n)
{
    *n = s->n_traces;
    return s->traces;
}

int64_t scenario_span_us(const struct scenario *s)
{
    return s->file.span_us;
}

const char *scenario_notes(const struct scenario *s)
{
    return s->notes.data ? s->notes.data : "";
}
