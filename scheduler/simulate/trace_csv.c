/* CSV traces: which columns there are says the head line, whose they may be says one table. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "scheduler/simulate/trace_internal.h"

enum column { AT, PROMPT, OUTPUT, CACHED, MODEL, TEAM, CLASS, DEADLINE, LOCAL_ONLY, N_COLUMNS };
static const struct {
    enum column column;
    const char *name;
    double us; /* times: microseconds per unit */
} known[] = {
    {AT, "at_s", 1e6},
    {AT, "at_ms", 1e3},
    {AT, "at_us", 1},
    {AT, "arrival_s", 1e6}, /* ServeGen */
    {AT, "timestamp", 1e6}, /* Azure writes a calendar time, BurstGPT seconds */
    {PROMPT, "prompt_tokens", 0},
    {PROMPT, "input_tokens", 0},
    {PROMPT, "ContextTokens", 0},
    {PROMPT, "Request tokens", 0},
    {OUTPUT, "output_tokens", 0},
    {OUTPUT, "GeneratedTokens", 0},
    {OUTPUT, "Response tokens", 0},
    {CACHED, "cached_tokens", 0},
    {MODEL, "model", 0},
    {TEAM, "team", 0},
    {TEAM, "tenant", 0},
    {TEAM, "client", 0},
    {CLASS, "class", 0},
    {DEADLINE, "deadline_s", 0},
    {LOCAL_ONLY, "local_only", 0},
};
#define N_KNOWN ((int)(sizeof known / sizeof known[0]))

struct csv_source {
    struct trace_source base;
    struct csv csv;
    int column[N_COLUMNS]; /* -1: there is none */
    double at_unit_us;
};

static int64_t days_from_civil(int64_t y, int m, int d) /* H. Hinnant, "chrono-Compatible Low-Level Date Algorithms" */
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

/* n digits at *at; -1: there are none such. */
static int digits(const char **at, int n)
{
    int v = 0;

    for (int i = 0; i < n; i++, ++*at) {
        if (**at < '0' || **at > '9')
            return -1;
        v = v * 10 + (**at - '0');
    }
    return v;
}

static bool skip(const char **at, const char *any)
{
    if (!**at || !strchr(any, **at))
        return false;
    ++*at;
    return true;
}

/* "2023-11-16 18:17:03.9799600", UTC; also with T, Z, +00:00 and any number of decimals. */
static bool parse_calendar(const char *text, int64_t *us)
{
    const char *at = text;
    int y = digits(&at, 4), mo = y < 0 || !skip(&at, "-") ? -1 : digits(&at, 2);
    int d = mo < 1 || mo > 12 || !skip(&at, "-") ? -1 : digits(&at, 2);
    int h = d < 1 || d > 31 || !skip(&at, " T") ? -1 : digits(&at, 2);
    int mi = h < 0 || h > 23 || !skip(&at, ":") ? -1 : digits(&at, 2);
    int s = mi < 0 || mi > 59 || !skip(&at, ":") ? -1 : digits(&at, 2);
    int64_t fraction = 0, unit = 100000;

    if (s < 0 || s > 60)
        return false;
    if (skip(&at, ".")) {
        for (; *at >= '0' && *at <= '9'; at++, unit /= 10)
            fraction += (*at - '0') * unit;
    }
    if (*at && strcmp(at, "Z") != 0 && strcmp(at, "+00:00") != 0)
        return false;
    *us = ((days_from_civil(y, mo, d) * 24 + h) * 60 + mi) * INT64_C(60000000) + s * INT64_C(1000000) + fraction;
    return true;
}

static enum rc read_time(struct csv_source *s, int64_t *us, struct error *e)
{
    const char *text = s->csv.fields[s->column[AT]];
    double at;

    if (strchr(text, ':')) {
        s->base.unix_time = true;
        if (parse_calendar(text, us))
            return RC_OK;
        return lines_error(&s->csv.lines, e, RC_INVALID,
                           "%s: \"%.40s\" is no time; write 2023-11-16 18:17:03.98 (UTC) or seconds",
                           s->csv.names[s->column[AT]], text);
    }
    enum rc rc = csv_double(&s->csv, s->column[AT], -1e15, 1e15, &at, e);
    if (rc == RC_OK && (at * s->at_unit_us > 9e18 || at * s->at_unit_us < -9e18))
        rc = lines_error(&s->csv.lines, e, RC_INVALID, "%s: %.40s is out of bounds", s->csv.names[s->column[AT]], text);
    if (rc == RC_OK)
        *us = (int64_t)(at * s->at_unit_us + (at < 0 ? -0.5 : 0.5));
    return rc;
}

static enum rc read_tokens(struct csv_source *s, enum column c, int64_t lo, int32_t *v, struct error *e)
{
    int64_t n = 0;
    enum rc rc = s->column[c] < 0 ? RC_OK : csv_int(&s->csv, s->column[c], lo, TRACE_TOKENS_MAX, &n, e);

    *v = (int32_t)n;
    return rc;
}

static enum rc read_name(struct csv_source *s, enum column c, enum trace_names which, uint32_t *i, struct error *e)
{
    if (s->column[c] < 0 || !s->csv.fields[s->column[c]][0])
        return RC_OK;
    enum rc rc = trace_names_intern(&s->base.names[which], s->csv.fields[s->column[c]], i, e);
    return rc == RC_OK ? rc : lines_error(&s->csv.lines, e, rc, "%s", e->message);
}

static enum rc read_class(struct csv_source *s, struct sim_request *r, struct error *e)
{
    const char *text = s->column[CLASS] < 0 ? "" : s->csv.fields[s->column[CLASS]];
    double deadline;

    if (strcasecmp(text, "batch") == 0 || strcasecmp(text, "flex") == 0)
        r->batch = true;
    else if (strcasecmp(text, "interactive") == 0)
        r->batch = false;
    else if (text[0])
        return lines_error(&s->csv.lines, e, RC_INVALID, "class: \"%.40s\" is none; interactive and batch are", text);
    if (s->column[DEADLINE] >= 0 && s->csv.fields[s->column[DEADLINE]][0]) {
        enum rc rc = csv_double(&s->csv, s->column[DEADLINE], 0, 1e9, &deadline, e);
        if (rc != RC_OK)
            return rc;
        r->deadline_us = (int64_t)(deadline * 1e6);
    }
    text = s->column[LOCAL_ONLY] < 0 ? "" : s->csv.fields[s->column[LOCAL_ONLY]];
    r->local_only = strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0;
    if (text[0] && !r->local_only && strcasecmp(text, "false") != 0 && strcmp(text, "0") != 0)
        return lines_error(&s->csv.lines, e, RC_INVALID, "local_only: \"%.40s\" is neither true nor false", text);
    return RC_OK;
}

static enum rc csv_source_next(struct trace_source *base, struct sim_request *r, struct error *e)
{
    struct csv_source *s = (struct csv_source *)base;
    enum rc rc = csv_next(&s->csv, e);

    if (rc != RC_OK)
        return rc;
    *r = (struct sim_request){.model = base->defaults.model,
                              .team = base->defaults.team,
                              .file = base->defaults.file,
                              .batch = base->defaults.batch,
                              .deadline_us = base->defaults.deadline_us};
    rc = read_time(s, &r->at_us, e);
    if (rc == RC_OK)
        rc = read_tokens(s, PROMPT, 1, &r->prompt, e);
    if (rc == RC_OK)
        rc = read_tokens(s, OUTPUT, 1, &r->output, e);
    if (rc == RC_OK)
        rc = read_tokens(s, CACHED, 0, &r->cached, e);
    if (rc == RC_OK && r->cached > r->prompt)
        rc = lines_error(&s->csv.lines, e, RC_INVALID, "%d tokens of a prompt of %d can't have been cached", r->cached,
                         r->prompt);
    if (rc == RC_OK)
        rc = read_name(s, MODEL, TRACE_MODELS, &r->model, e);
    if (rc == RC_OK)
        rc = read_name(s, TEAM, TRACE_TEAMS, &r->team, e);
    return rc == RC_OK ? read_class(s, r, e) : rc;
}

static enum rc csv_source_rewind(struct trace_source *base, struct error *e)
{
    return csv_rewind(&((struct csv_source *)base)->csv, e);
}

static double csv_source_done(const struct trace_source *base)
{
    return lines_done(&((const struct csv_source *)base)->csv.lines);
}

static void csv_source_close(struct trace_source *base)
{
    struct csv_source *s = (struct csv_source *)base;

    csv_close(&s->csv);
    free(s);
}

static const struct trace_source_ops csv_ops = {csv_source_next, csv_source_rewind, csv_source_done, csv_source_close};

static enum rc find_columns(struct csv_source *s, struct error *e)
{
    static const char *const wanted[] = {
        [AT] = "of arrival times (at_s, arrival_s or TIMESTAMP)",
        [PROMPT] = "of prompt tokens (prompt_tokens, input_tokens or ContextTokens)",
        [OUTPUT] = "of output tokens (output_tokens or GeneratedTokens)",
    };

    for (int c = 0; c < N_COLUMNS; c++)
        s->column[c] = -1;
    for (int i = 0; i < N_KNOWN; i++) {
        int at = csv_find(&s->csv, known[i].name);
        if (at < 0 || s->column[known[i].column] >= 0)
            continue;
        s->column[known[i].column] = at;
        if (known[i].column == AT)
            s->at_unit_us = known[i].us;
    }
    for (enum column c = AT; c <= OUTPUT; c++)
        if (s->column[c] < 0)
            return lines_error(&s->csv.lines, e, RC_INVALID, "this is no trace that we know: there is no column %s",
                               wanted[c]);
    return RC_OK;
}

enum rc trace_csv_open(struct trace_source **out, const char *path, struct error *e)
{
    struct csv_source *s = spw_calloc(1, sizeof *s);
    enum rc rc = csv_open(&s->csv, path, e);

    s->base.ops = &csv_ops;
    if (rc == RC_OK)
        rc = find_columns(s, e);
    if (rc != RC_OK) {
        csv_source_close(&s->base);
        return rc;
    }
    *out = &s->base;
    return RC_OK;
}
