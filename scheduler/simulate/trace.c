#include "scheduler/simulate/trace.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/trace_internal.h"

#define PROGRESS_EVERY (1 << 15) /* requests */

struct input { /* a file, and the request of it that is next */
    struct trace_stream *stream;
    char *path;
    struct sim_request next;
    bool has;
};

struct trace {
    struct input *inputs;
    int n_inputs;
    struct trace_options options;
    struct trace_names_table names[TRACE_N_NAMES];
    struct trace_stats stats;
    int given; /* the input whose request is with the caller, to be replaced; -1: none */
};

/* --- rate curves ------------------------------------------------------------------------------------------------------ */

static enum rc read_steps(struct rate_curve *c, struct csv *csv, int column, struct error *e)
{
    int64_t at, first = 0;
    enum rc rc;

    for (c->n = 0; (rc = csv_next(csv, e)) == RC_OK; c->n++) {
        rc = csv_int(csv, 0, 0, INT64_C(1) << 40, &at, e);
        if (rc != RC_OK)
            return rc;
        if ((c->n & (c->n - 1)) == 0)
            c->rate = spw_realloc(c->rate, sizeof *c->rate * (size_t)(c->n ? c->n * 2 : 1));
        if (csv->fields[column][0] == '\0' && c->n)
            break; /* a shorter series beside a longer one */
        rc = csv_double(csv, column, 0, 1e9, &c->rate[c->n], e);
        if (rc != RC_OK)
            return rc;
        if (c->n == 0)
            first = at;
        else if (c->n == 1)
            c->step_us = (at - first) * 1000000;
        if (c->n && (c->step_us <= 0 || (at - first) * 1000000 != c->n * c->step_us))
            return lines_error(&csv->lines, e, RC_INVALID, "%s: %lld does not follow the step of the rows before",
                               csv->names[0], (long long)at);
    }
    if (rc != RC_OK && rc != RC_NOT_FOUND)
        return rc;
    if (c->n < 2)
        return lines_error(&csv->lines, e, RC_INVALID, "a rate curve needs at least two rows");
    return RC_OK;
}

enum rc rate_curve_read(struct rate_curve *c, const char *path, const char *column, struct error *e)
{
    struct csv csv;
    int at = 1;

    *c = (struct rate_curve){0};
    enum rc rc = csv_open(&csv, path, e);
    if (rc != RC_OK)
        return rc;
    if (column)
        rc = csv_need(&csv, column, &at, e);
    else if (csv.n_names < 2)
        rc = lines_error(&csv.lines, e, RC_INVALID, "a rate curve has a column of seconds and one of rates");
    if (rc == RC_OK)
        rc = read_steps(c, &csv, at, e);
    csv_close(&csv);
    return rc;
}

void rate_curve_fini(struct rate_curve *c)
{
    free(c->rate);
    *c = (struct rate_curve){0};
}

double rate_curve_at(const struct rate_curve *c, int64_t at_us)
{
    return c->rate[at_us / c->step_us % c->n];
}

/* --- sources ---------------------------------------------------------------------------------------------------------- */

enum rc trace_source_open(struct trace_source **s, const char *path, struct error *e)
{
    struct lines l;
    char *text = NULL;
    size_t n = 0;
    enum rc rc = lines_open(&l, path, e);

    if (rc != RC_OK)
        return rc;
    if (gzread(l.file, l.buf, 16) == 16 && memcmp(l.buf, "SQLite format 3", 16) == 0) {
        lines_close(&l);
        return trace_ledger_open(s, path, e);
    }
    rc = lines_rewind(&l, e);
    if (rc == RC_OK)
        rc = lines_next(&l, &text, &n, e);
    if (rc == RC_NOT_FOUND)
        rc = error_set(e, RC_INVALID, "%s: is empty; a trace is wanted (CSV, JSON Lines, or a ledger)", path);
    bool json = rc == RC_OK && text[0] == '{';
    lines_close(&l);
    if (rc != RC_OK)
        return rc;
    return json ? trace_jsonl_open(s, path, e) : trace_csv_open(s, path, e);
}

/* --- the trace -------------------------------------------------------------------------------------------------------- */

static enum rc pull(struct input *in, struct error *e)
{
    enum rc rc = trace_stream_next(in->stream, &in->next, e);

    in->has = rc == RC_OK;
    if (rc == RC_NOT_FOUND)
        return RC_OK;
    if (rc != RC_OK && strncmp(e->message, in->path, strlen(in->path)) != 0)
        return error_prefix(e, "%s", in->path);
    return rc;
}

enum rc trace_open(struct trace **out, const struct trace_file *files, int n, const struct trace_options *o,
                   struct error *e)
{
    enum rc rc = RC_OK;

    if (n < 1 || n > TRACE_FILES_MAX)
        return error_set(e, RC_INVALID, "%d traces are out of bounds; 1 to %d are allowed", n, TRACE_FILES_MAX);
    struct trace *t = spw_calloc(1, sizeof *t);
    t->options = *o;
    t->given = -1;
    t->inputs = spw_calloc((size_t)n, sizeof *t->inputs);
    for (int i = 0; rc == RC_OK && i < o->n_models; i++) {
        uint32_t index;
        rc = trace_names_intern(&t->names[TRACE_MODELS], o->models[i], &index, e);
    }
    for (int i = 0; rc == RC_OK && i < n; i++) {
        rc = trace_stream_open(&t->inputs[i].stream, &files[i], (uint32_t)i, t->names, &t->options, e);
        if (rc != RC_OK)
            break;
        t->inputs[i].path = spw_strdup(files[i].path);
        t->n_inputs++;
        rc = pull(&t->inputs[i], e);
    }
    if (rc != RC_OK) {
        trace_close(t);
        return rc;
    }
    t->stats.start_unix_us = trace_stream_start(t->inputs[0].stream);
    *out = t;
    return RC_OK;
}

void trace_close(struct trace *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n_inputs; i++) {
        trace_stream_close(t->inputs[i].stream);
        free(t->inputs[i].path);
    }
    for (int i = 0; i < TRACE_N_NAMES; i++)
        trace_names_fini(&t->names[i]);
    free(t->inputs);
    free(t);
}

static void show_progress(const struct trace *t, int64_t at_us)
{
    double done = 0;

    if (t->options.span_us)
        done = (double)at_us / (double)t->options.span_us;
    for (int i = 0; !t->options.span_us && i < t->n_inputs; i++)
        done += trace_stream_done(t->inputs[i].stream) / t->n_inputs;
    t->options.progress(done, t->stats.requests, t->options.arg);
}

static int earliest(const struct trace *t)
{
    int best = -1;

    for (int i = 0; i < t->n_inputs; i++)
        if (t->inputs[i].has && (best < 0 || t->inputs[i].next.at_us < t->inputs[best].next.at_us))
            best = i;
    return best;
}

enum rc trace_next(struct trace *t, struct sim_request *r, struct error *e)
{
    enum rc rc = t->given < 0 ? RC_OK : pull(&t->inputs[t->given], e);

    if (rc != RC_OK)
        return rc;
    t->given = earliest(t);
    if (t->given < 0 || (t->options.span_us && t->inputs[t->given].next.at_us >= t->options.span_us)) {
        t->given = -1;
        for (int i = 0; i < t->n_inputs; i++) /* what is past the end stays past it */
            t->inputs[i].has = false;
        return RC_NOT_FOUND;
    }
    *r = t->inputs[t->given].next;
    t->stats.requests++;
    t->stats.tokens_prompt += r->prompt;
    t->stats.tokens_output += r->output;
    t->stats.last_us = r->at_us;
    if (t->options.progress && t->stats.requests % PROGRESS_EVERY == 0)
        show_progress(t, r->at_us);
    return RC_OK;
}

enum rc trace_rewind(struct trace *t, struct error *e)
{
    enum rc rc = RC_OK;
    int64_t start = t->stats.start_unix_us;

    for (int i = 0; rc == RC_OK && i < t->n_inputs; i++) {
        rc = trace_stream_rewind(t->inputs[i].stream, e);
        if (rc == RC_OK)
            rc = pull(&t->inputs[i], e);
    }
    t->given = -1;
    t->stats = (struct trace_stats){.start_unix_us = start};
    return rc;
}

const char *trace_name(const struct trace *t, enum trace_names which, uint32_t i)
{
    return i < t->names[which].n ? t->names[which].names[i] : NULL;
}

uint32_t trace_n_names(const struct trace *t, enum trace_names which)
{
    return t->names[which].n;
}

enum rc trace_intern(struct trace *t, enum trace_names which, const char *name, uint32_t *i, struct error *e)
{
    return trace_names_intern(&t->names[which], name, i, e);
}

struct trace_stats trace_stats(const struct trace *t)
{
    struct trace_stats stats = t->stats;

    for (int i = 0; i < t->n_inputs; i++)
        trace_stream_count(t->inputs[i].stream, &stats);
    return stats;
}
