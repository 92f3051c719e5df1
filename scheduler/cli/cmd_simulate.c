/* What if: a recorded load against a configuration, on a virtual clock, through the policies that the daemon asks. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/lines.h"
#include "base/text.h"
#include "base/yaml.h"
#include "scheduler/budgets/rules.h"
#include "scheduler/cli/cli_internal.h"
#include "scheduler/cli/simulate_report.h"
#include "scheduler/record/recorder.h"
#include "scheduler/simulate/scenario.h"

#define COMPARE_MAX      16
#define REPORT_BYTES_MAX ((size_t)256 << 20)
#define PEAK_WINDOW_US   INT64_C(60000000)
#define RECORD_BYTES_MAX (INT64_C(1) << 36) /* of --record */

struct options {
    const char *config, *scenario, *traces, *prices, *spot, *power, *compare, *baselines, *format, *out, *shift, *span,
        *record;
    int64_t copies, seed, bad_rows;
    bool seed_given, quiet;
};

/* One side of the comparison, as loaded. */
struct side {
    struct config *config; /* NULL: the file is a scenario itself */
    struct scenario_node *nodes;
    struct scenario_budget *budgets;
    struct waiting_bounds waiting[WAITING_CLASSES];
    struct scenario *scenario;
};

struct run {
    const struct options *o;
    struct side sides[1 + COMPARE_MAX];
    int n_sides;
    struct trace *trace;
    struct report *report;
    const char *showing; /* the scenario under way, for the progress bar */
    bool bar;
    struct recorder *recorder; /* of the first scenario; NULL: nobody asked */
    const int64_t *now_us;     /* while it runs */
    int64_t start_unix_s;
};

/* --- lists of the command line ------------------------------------------------------------------------------------ */

/* "a,b" into at most `most` parts of `copy`, which is the caller's. -1: more. */
static int split(const char *text, char **copy, const char **parts, int most)
{
    int n = 0;
    char *save = NULL;

    *copy = spw_strdup(text ? text : "");
    for (char *part = strtok_r(*copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        if (n == most)
            return -1;
        parts[n++] = part;
    }
    return n;
}

/* --power takes the table of watts, that of electricity, or both; the head line tells which is which. */
static enum rc take_power(const char *list, char **copy, struct scenario_inputs *in, struct error *e)
{
    const char *parts[2];
    int n = split(list, copy, parts, 2);

    if (n < 0)
        return error_set(e, RC_INVALID, "--power: two files are at most, one of watts and one of electricity prices");
    for (int i = 0; i < n; i++) {
        struct csv c;
        enum rc rc = csv_open(&c, parts[i], e);
        if (rc != RC_OK)
            return rc;
        if (csv_find(&c, "hour_utc") >= 0)
            in->electricity = parts[i];
        else
            in->power = parts[i];
        csv_close(&c);
    }
    return RC_OK;
}

/* --- loading ------------------------------------------------------------------------------------------------------ */

static enum rc is_scenario(const char *path, bool *yes, struct error *e)
{
    struct yaml_doc *doc;
    enum rc rc = yaml_load(&doc, path, e);

    if (rc != RC_OK)
        return rc;
    *yes = yaml_root(doc)->kind == YAML_KIND_MAP && yaml_get(yaml_root(doc), "scenario") != NULL;
    yaml_doc_free(doc);
    return RC_OK;
}

static struct scenario_aim aim_of(const struct config *c, const char *model)
{
    const struct config_aim a = config_aim(c, config_model(c, model));
    return (struct scenario_aim){.objective = (enum sim_objective)a.objective, /* the same words in the same order */
                                 .ttft_ms = a.ttft_ms,
                                 .tpot_ms = a.tpot_ms,
                                 .ttft_per_1k_ms = a.ttft_per_1k_ms,
                                 .free_tokens = a.free_tokens,
                                 .probability = (double)a.probability_ppm / 1e6};
}

static void take_config(struct side *s, struct scenario_inputs *in)
{
    const struct config *c = s->config;

    s->nodes = spw_calloc((size_t)c->n_nodes + 1, sizeof *s->nodes);
    for (int i = 0; i < c->n_nodes; i++)
        s->nodes[i] = (struct scenario_node){.name = c->nodes[i].name,
                                             .model = c->nodes[i].models[0],
                                             .local = c->nodes[i].local,
                                             .slots = c->nodes[i].slots,
                                             .prices = c->nodes[i].prices,
                                             .sequences = c->nodes[i].max_batch,
                                             .kv_tokens = c->nodes[i].kv_tokens,
                                             .watts = c->nodes[i].watts,
                                             .idle_watts = c->nodes[i].power.idle_watts,
                                             .calibrated = c->nodes[i].calibrated,
                                             .aim = aim_of(c, c->nodes[i].models[0])};
    for (int k = 0; k < WAITING_CLASSES; k++)
        s->waiting[k] = (struct waiting_bounds){c->queue[k].max, c->queue[k].bytes, c->queue[k].wait_ms * 1000000};
    in->config = c->path;
    in->tariff = c->tariff;
    in->nodes = s->nodes;
    in->n_nodes = c->n_nodes;
    in->waiting = s->waiting;
}

/* A budget of the configuration, as far as a trace knows of what it asks. False: it does not. */
static bool take_budget(const struct budget_rule *r, struct scenario_budget *b)
{
    *b = (struct scenario_budget){.name = r->name,
                                  .period = r->period,
                                  .hard = r->limits.hard,
                                  .soft = r->soft,
                                  .carry_max = r->limits.carry_max,
                                  .soft_actions = r->soft_actions,
                                  .hard_actions = r->hard_actions,
                                  .soft_model = r->soft_model,
                                  .hard_model = r->hard_model};
    for (int i = 0; i < r->n_match; i++) {
        const struct budget_match *m = &r->match[i];
        bool team = strcmp(m->key, "team") == 0, model = strcmp(m->key, "model") == 0;
        if ((!team && !model) || strcmp(m->value, "*") == 0)
            return false;
        *(team ? &b->team : &b->model) = m->value;
    }
    return true;
}

static void take_budgets(struct side *s, struct scenario_inputs *in)
{
    const struct config *c = s->config;
    s->budgets = spw_calloc((size_t)c->n_budgets + 1, sizeof *s->budgets);
    for (int i = 0; i < c->n_budgets; i++) {
        if (take_budget(&c->budget_rules[i], &s->budgets[in->n_budgets]))
            in->n_budgets++;
        else
            fprintf(stderr,
                    "spillway simulate: budget %s is left out: traces know teams and models by name, nothing else\n",
                    c->budget_rules[i].name);
    }
    in->budgets = s->budgets;
}

static bool any_calibrated(const struct config *c)
{
    for (int i = 0; i < c->n_nodes; i++)
        if (c->nodes[i].local && c->nodes[i].calibrated)
            return true;
    return false;
}

/* path: a configuration, whose scenario is beside it, or a scenario. */
static enum rc load_side(struct side *s, const struct options *o, const char *path, struct error *e)
{
    struct scenario_inputs in = {.path = path, .prices = o->prices, .spot = o->spot};
    uint64_t seed = (uint64_t)o->seed;
    bool scenario = false;
    char *copy = NULL;
    enum rc rc = is_scenario(path, &scenario, e);

    if (rc == RC_OK && !scenario) {
        s->config = cli_load_config("simulate", path);
        if (!s->config)
            return error_set(e, RC_INVALID, "%s can't be simulated", path);
        in.path = o->scenario ? o->scenario : s->config->simulate_scenario;
        if (!in.path && !any_calibrated(s->config))
            return error_set(e, RC_INVALID,
                             "%s does not say how fast machines are and what the markets offer; name a scenario "
                             "by simulate.scenario or --scenario FILE (docs/SIMULATE.md), or measure its nodes: "
                             "spillway nodes calibrate NAME",
                             path);
        take_config(s, &in);
        take_budgets(s, &in);
    }
    in.seed = o->seed_given ? &seed : NULL;
    if (rc == RC_OK)
        rc = take_power(o->power, &copy, &in, e);
    if (rc == RC_OK)
        rc = scenario_load(&s->scenario, &in, e);
    free(copy);
    return rc;
}

static enum rc load_sides(struct run *r, struct error *e)
{
    const char *paths[COMPARE_MAX];
    char *copy;
    int n = split(r->o->compare, &copy, paths, COMPARE_MAX);
    enum rc rc = n < 0 ? error_set(e, RC_INVALID, "--compare: %d files are at most", COMPARE_MAX)
                       : load_side(&r->sides[0], r->o, r->o->config, e);

    r->n_sides = 1;
    for (int i = 0; rc == RC_OK && i < n; i++)
        rc = load_side(&r->sides[r->n_sides++], r->o, paths[i], e);
    free(copy);
    for (int i = 1; rc == RC_OK && i < r->n_sides; i++) {
        const struct sim_scenario *a = scenario_sim(r->sides[0].scenario), *b = scenario_sim(r->sides[i].scenario);
        bool same = a->n_models == b->n_models;
        for (int m = 0; same && m < a->n_models; m++)
            same = strcmp(a->models[m].name, b->models[m].name) == 0;
        if (!same)
            rc = error_set(e, RC_INVALID,
                           "%s and %s have other models, or in another order; then there is nothing to compare",
                           a->name, b->name);
    }
    return rc;
}

static void free_side(struct side *s)
{
    scenario_free(s->scenario);
    free(s->nodes);
    free(s->budgets);
    config_free(s->config);
}

/* --- the trace ---------------------------------------------------------------------------------------------------- */

static void show_bar(double done, int64_t requests, void *arg)
{
    struct run *r = arg;
    int full = (int)(done * 30);

    if (!r->bar)
        return;
    full = full < 0 ? 0 : full > 30 ? 30 : full;
    fprintf(stderr, "\r%-24.24s [%.*s%*s] %3.0f%%  %lld requests ", r->showing ? r->showing : "reading", full,
            "##############################", 30 - full, "", 100 * (done < 1 ? done : 1), (long long)requests);
    fflush(stderr);
}

static void end_bar(const struct run *r)
{
    if (r->bar)
        fprintf(stderr, "\r%78s\r", "");
}

static void show_bad_row(const struct error *e, void *arg)
{
    (void)arg;
    fprintf(stderr, "spillway simulate: left out: %s\n", e->message);
}

static enum rc read_duration(const char *flag, const char *text, int64_t *us, struct error *e)
{
    int64_t ms = 0;

    if (text && text_parse_duration_ms(text, &ms) != RC_OK)
        return error_set(e, RC_INVALID, "--%s: \"%.40s\" is no duration; write 500ms, 2s, 10m, 24h", flag, text);
    *us = ms * 1000;
    return RC_OK;
}

/* Files of the command line, with its copies and shift; else the scenario's. */
static enum rc open_trace(struct run *r, struct error *e)
{
    const struct sim_scenario *s = scenario_sim(r->sides[0].scenario);
    const char *names[SIM_MODELS_MAX], *paths[TRACE_FILES_MAX];
    struct trace_file files[TRACE_FILES_MAX];
    const struct trace_file *use = files;
    struct trace_options o = {.seed = s->seed,
                              .models = names,
                              .n_models = s->n_models,
                              .span_us = scenario_span_us(r->sides[0].scenario),
                              .bad_rows_max = (int)r->o->bad_rows,
                              .bad_row = show_bad_row,
                              .progress = show_bar,
                              .arg = r};
    char *copy;
    int64_t shift = 0;
    int n = split(r->o->traces, &copy, paths, TRACE_FILES_MAX);
    enum rc rc = read_duration("shift", r->o->shift, &shift, e);

    if (rc == RC_OK && r->o->span)
        rc = read_duration("span", r->o->span, &o.span_us, e);
    for (int i = 0; i < s->n_models; i++)
        names[i] = s->models[i].name;
    for (int i = 0; i < n; i++)
        files[i] = (struct trace_file){
            .path = paths[i], .model = s->models[0].name, .copies = (int)r->o->copies, .shift_us = shift};
    if (n == 0)
        use = scenario_traces(r->sides[0].scenario, &n);
    if (rc == RC_OK && n < 0)
        rc = error_set(e, RC_INVALID, "--trace: %d files are at most", TRACE_FILES_MAX);
    if (rc == RC_OK && n == 0)
        rc = error_set(e, RC_INVALID, "there is no trace; give --trace FILE, or `traces` in the scenario");
    if (rc == RC_OK)
        rc = trace_open(&r->trace, use, n, &o, e);
    free(copy);
    return rc;
}

/* A request as the simulator wants it: of a model that the scenario knows. */
static enum rc next_request(void *arg, struct sim_request *q, struct error *e)
{
    const struct run *r = arg;
    enum rc rc = trace_next(r->trace, q, e);
    int known = scenario_sim(r->sides[0].scenario)->n_models;

    if (rc == RC_OK && q->model >= (uint32_t)known)
        return error_set(e, RC_INVALID,
                         "the trace asks for model %.80s, which is none of the scenario's; add it to `models`",
                         trace_name(r->trace, TRACE_MODELS, q->model));
    return rc;
}

/* --- what routing is told and decides, for `spillway replay` ------------------------------------------------------ */

static struct mono sim_now(void *run)
{
    const struct run *r = run;
    return (struct mono){r->now_us ? *r->now_us * 1000 : 0};
}

static struct wall sim_wall(void *run)
{
    const struct run *r = run;
    return (struct wall){r->start_unix_s * NS_PER_S + sim_now(run).ns};
}

static const struct clock_ops sim_clock = {sim_now, sim_wall};

static void listen_cb(struct router *router, const struct router_size *size, const int64_t *now_us, void *arg)
{
    struct run *r = arg;
    const struct sim_scenario *s = scenario_sim(r->sides[0].scenario);
    r->now_us = now_us;
    recorder_listen_locked(r->recorder, router, size);
    for (int32_t i = 0; i < s->n_models; i++)
        recorder_name_locked(r->recorder, RECORD_MODEL, i, s->models[i].name);
}

static void node_cb(int32_t node, const char *name, void *arg)
{
    const struct run *r = arg;
    recorder_name_locked(r->recorder, RECORD_NODE, node, name);
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static enum rc run_one(struct run *r, const struct sim_scenario *s, const char *name, struct error *e)
{
    struct report_column *c = &r->report->columns[r->report->n];
    const struct sim_source source = {next_request, r};
    const struct sim_options listen = {.router = listen_cb, .node = node_cb, .arg = r};
    enum rc rc = trace_rewind(r->trace, e);

    c->name = r->showing = name;
    if (rc == RC_OK)
        rc = sim_run(s, &source, r->recorder ? &listen : NULL, &c->result, e);
    end_bar(r);
    if (rc != RC_OK)
        return error_prefix(e, "%s", name);
    c->ran = true;
    r->report->n++;
    r->report->stats = trace_stats(r->trace);
    return RC_OK;
}

/* The first scenario alone: what others would have decided is asked of the recording. */
static enum rc run_recorded(struct run *r, const struct sim_scenario *s, struct error *e)
{
    const struct clock clock = {&sim_clock, r};
    const struct log log = {.fd = STDERR_FILENO, .level = LOG_WARN, .clock = &clock_system, .program = "spillway"};
    const struct recorder_options o = {.path = r->o->record,
                                       .bytes_max = RECORD_BYTES_MAX,
                                       .clock = &clock,
                                       .log = &log,
                                       .version = SPILLWAY_VERSION,
                                       .waits = true};
    r->start_unix_s = s->start_unix_s;
    enum rc rc = recorder_new(&r->recorder, &o, e);
    if (rc == RC_OK)
        rc = run_one(r, s, s->name, e);
    recorder_free(r->recorder);
    r->recorder = NULL;
    r->now_us = NULL;
    return rc;
}

static enum rc run_baseline(struct run *r, enum sim_baseline b, struct error *e)
{
    const struct sim_scenario *base = scenario_sim(r->sides[0].scenario);
    struct report_column *c = &r->report->columns[r->report->n];
    const struct sim_source source = {next_request, r};
    int32_t peak[SIM_MODELS_MAX] = {0};
    struct sim_scenario s;
    struct sim_store store = {0};
    enum rc rc = RC_OK;

    if (b == SIM_ALL_ON_DEMAND_FIXED) {
        r->showing = "looking for the peak";
        rc = trace_rewind(r->trace, e);
        if (rc == RC_OK)
            rc = sim_peak_nodes(base, &source, PEAK_WINDOW_US, peak, e);
    }
    if (rc == RC_OK)
        rc = sim_baseline(&s, &store, base, b, peak, e);
    if (rc == RC_INVALID) { /* there is nothing such a fleet could be made of: that is said, and is no failure */
        c->name = sim_baseline_name(b);
        snprintf(c->why, sizeof c->why, "%s", e->message);
        r->report->n++;
        end_bar(r);
        return RC_OK;
    }
    if (rc == RC_OK)
        rc = run_one(r, &s, sim_baseline_name(b), e);
    sim_store_fini(&store);
    return rc;
}

static enum rc choose_baselines(const char *list, bool chosen[SIM_N_BASELINES], struct error *e)
{
    const char *names[SIM_N_BASELINES];
    char *copy;
    int n = split(list, &copy, names, SIM_N_BASELINES);
    enum rc rc = n < 0 ? error_set(e, RC_INVALID, "--baselines: there are only %d", SIM_N_BASELINES) : RC_OK;
    bool all = n == 1 && strcmp(names[0], "all") == 0, nothing = n == 1 && strcmp(names[0], "none") == 0;

    for (int b = 0; b < SIM_N_BASELINES; b++)
        chosen[b] = all;
    for (int i = 0; rc == RC_OK && !all && !nothing && i < n; i++) {
        int b = 0;
        while (b < SIM_N_BASELINES && strcmp(sim_baseline_name((enum sim_baseline)b), names[i]) != 0)
            b++;
        if (b == SIM_N_BASELINES)
            rc = error_set(
                e, RC_INVALID,
                "--baselines: \"%.40s\" is none; all, none, or some of all-on-demand-fixed, all-on-demand, all-api, "
                "on-prem-only, spot-no-fallback, round-robin",
                names[i]);
        else
            chosen[b] = true;
    }
    free(copy);
    return rc;
}

static enum rc run_all(struct run *r, struct error *e)
{
    bool chosen[SIM_N_BASELINES];
    enum rc rc = choose_baselines(r->o->baselines, chosen, e);

    if (rc == RC_OK)
        rc = load_sides(r, e);
    if (rc == RC_OK)
        rc = open_trace(r, e);
    if (rc != RC_OK)
        return rc;
    int64_t start = trace_stats(r->trace).start_unix_us / 1000000;
    for (int i = 0; rc == RC_OK && i < r->n_sides; i++) {
        struct sim_scenario *s = scenario_sim(r->sides[i].scenario);
        if (s->start_unix_s < 0)
            s->start_unix_s = start;
        rc = scenario_find_teams(r->sides[i].scenario, r->trace, e);
        if (rc == RC_OK)
            rc = sim_check(s, e);
        if (rc == RC_OK)
            rc = i == 0 && r->o->record ? run_recorded(r, s, e) : run_one(r, s, s->name, e);
    }
    for (int b = 0; rc == RC_OK && b < SIM_N_BASELINES; b++)
        if (chosen[b])
            rc = run_baseline(r, (enum sim_baseline)b, e);
    return rc;
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

static enum rc write_report(const struct run *r, FILE *out, struct error *e)
{
    struct strbuf text;
    enum rc rc = RC_OK;

    strbuf_init(&text, REPORT_BYTES_MAX);
    if (strcmp(r->o->format, "table") == 0)
        report_print(r->report, out);
    else
        rc = strcmp(r->o->format, "json") == 0 ? report_json(r->report, &text) : report_html(r->report, &text);
    if (rc != RC_OK)
        error_set(e, rc, "the report is larger than %zu bytes", REPORT_BYTES_MAX);
    else if (text.len && fwrite(text.data, 1, text.len, out) != text.len)
        rc = error_set(e, RC_IO, "the report can't be written");
    strbuf_fini(&text);
    if (rc == RC_OK && strcmp(r->o->format, "json") == 0)
        fputc('\n', out);
    return rc == RC_OK && fflush(out) != 0 ? error_set(e, RC_IO, "the report can't be written") : rc;
}

static enum rc show(const struct run *r, struct error *e)
{
    if (!r->o->out)
        return write_report(r, stdout, e);
    FILE *f = fopen(r->o->out, "w");
    if (!f)
        return error_set(e, RC_IO, "%s: %m", r->o->out);
    enum rc rc = write_report(r, f, e);
    if (fclose(f) != 0 && rc == RC_OK)
        rc = error_set(e, RC_IO, "%s: %m", r->o->out);
    return rc;
}

static int simulate(const struct options *o)
{
    struct run r = {.o = o, .bar = !o->quiet && isatty(STDERR_FILENO)};
    struct error e;

    r.report = spw_calloc(1, sizeof *r.report);
    r.report->config = o->config;
    enum rc rc = run_all(&r, &e);
    if (rc == RC_OK) {
        r.report->trace = r.trace;
        r.report->notes = scenario_notes(r.sides[0].scenario);
        r.report->seed = scenario_sim(r.sides[0].scenario)->seed;
        rc = show(&r, &e);
    }
    for (int i = 0; i < r.report->n; i++)
        sim_result_fini(&r.report->columns[i].result);
    trace_close(r.trace);
    for (int i = 0; i < r.n_sides; i++)
        free_side(&r.sides[i]);
    free(r.report);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("simulate", &e);
}

int cli_simulate(int argc, char **argv)
{
    static const char *const formats[] = {"table", "json", "html", NULL};
    struct options o = {.config = CLI_CONFIG_DEFAULT, .format = "table", .baselines = "all", .copies = 1, .seed = 1};
    int exit_code;
    const struct arg_option options[] = {
        CLI_OPTION_CONFIG(o.config),
        {"trace", 't', ARG_STRING, &o.traces, .meta = "FILE[,FILE]",
         .help = "what was asked: CSV, JSON Lines (both may be gzipped), or a ledger; default: the scenario's traces"},
        {"scenario", 0, ARG_STRING, &o.scenario, .meta = "FILE",
         .help = "instead of the configuration's simulate.scenario"},
        {"prices", 0, ARG_STRING, &o.prices, .meta = "FILE", .help = "what instances cost, CSV"},
        {"spot", 0, ARG_STRING, &o.spot, .meta = "FILE", .help = "recorded spot availability, CSV"},
        {"power", 0, ARG_STRING, &o.power, .meta = "FILE[,FILE]",
         .help = "measured watts by batch, and prices of electricity by the hour, CSV"},
        {"compare", 0, ARG_STRING, &o.compare, .meta = "FILE[,FILE]", .help = "further configurations or scenarios"},
        {"baselines", 0, ARG_STRING, &o.baselines, .meta = "NAMES", .help = "all, none, or some of them by name"},
        {"copies", 0, ARG_INT, &o.copies, .meta = "N", .help = "lay --trace over itself so often", .lo = 1,
         .hi = TRACE_COPIES_MAX},
        {"shift", 0, ARG_STRING, &o.shift, .meta = "TIME", .help = "copies are shifted by up to so much; default 10m"},
        {"span", 0, ARG_STRING, &o.span, .meta = "TIME", .help = "end the trace after so much"},
        {"bad-rows", 0, ARG_INT, &o.bad_rows, .meta = "N", .help = "leave up to N bad rows out, and say which", .lo = 0,
         .hi = 1000000000},
        {"format", 'f', ARG_STRING, &o.format, .meta = "FORM", .help = "table, json or html", .choices = formats},
        {"out", 'o', ARG_STRING, &o.out, .meta = "FILE",
         .help = "write the report there instead of to the standard output"},
        {"record", 0, ARG_STRING, &o.record, .meta = "FILE",
         .help = "all that routing is told and decides, for spillway replay"},
        {"seed", 0, ARG_INT, &o.seed, .meta = "N", .help = "of chance; the same one gives the same result", .lo = 0,
         .hi = INT64_MAX, .given = &o.seed_given},
        {"quiet", 'q', ARG_FLAG, &o.quiet, .help = "no progress bar"},
    };
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "simulate",
        .summary = "what a recorded load would have cost and how fast it would have been answered",
        .example = "spillway simulate --config spillway.yaml --trace state/ledger.db\n"
                   "spillway simulate --config hybrid.yaml --trace azure.csv --compare cloud.yaml "
                   "--format html --out what-if.html",
        .options = options,
        .n_options = (int)(sizeof options / sizeof options[0])};

    return args_run(&spec, argc, argv, &exit_code) ? simulate(&o) : exit_code;
}
