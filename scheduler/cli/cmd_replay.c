/* `spillway replay`: a recording of routing (routing.record) lived again, and, with --under, what another configuration
 * would have decided at each step. */
#include "scheduler/cli/cli_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/money.h"
#include "policies/tariff.h"
#include "scheduler/calibrate/record.h"
#include "scheduler/front/explain_text.h"
#include "scheduler/nodes/nodes.h"
#include "scheduler/simulate/replay.h"

#define JSON_BYTES_MAX ((size_t)1 << 20)

/* ---- the other configuration ---------------------------------------------------------------------------------------- */

static const struct config_node *find_node(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_nodes; i++)
        if (strcmp(c->nodes[i].name, name) == 0)
            return &c->nodes[i];
    return NULL;
}

static int model_cb(void *models, const char *name)
{
    return replay_model_id(models, name);
}

static bool facts_cb(void *arg, const char *name, struct replay_models *models, struct router_facts *out)
{
    const struct config_node *n = find_node(arg, name);
    if (n)
        node_facts(n, model_cb, models, out);
    return n != NULL;
}

static const char *node_cb(void *arg, int i)
{
    const struct config *c = arg;
    return i < c->n_nodes ? c->nodes[i].name : NULL;
}

static void aim_cb(void *arg, const struct record_who *who, struct route_request *q)
{
    const struct config *c = arg;
    const struct config_model *m = NULL;
    for (int i = 0; i < c->n_models && !m; i++)
        if (strcmp(c->models[i].name, who->asked) == 0)
            m = &c->models[i];
    const struct config_aim aim = config_aim(c, m);
    const double probability = (double)aim.probability_ppm / 1e6;
    q->objective = (enum route_objective)aim.objective;
    if (!who->interactive || (!aim.ttft_ms && !aim.tpot_ms)) {
        q->slo = (struct route_slo){0};
        return;
    }
    q->slo.ttft_us =
        route_ttft_limit_us(aim.ttft_ms * 1000, (double)aim.ttft_per_1k_ms, aim.free_tokens, q->input_tokens);
    q->slo.tpot_us = aim.tpot_ms * 1000;
    if (probability != who->probability || q->slo.probability <= 0)
        q->slo.probability = probability;
    q->slo.sure = probability;
}

static int64_t tariff_cb(void *arg, int64_t wall_s, int64_t *until_s)
{
    const struct tariff *t = ((const struct config *)arg)->tariff;
    *until_s = t ? tariff_until(t, wall_s) : INT64_MAX;
    return t ? tariff_at(t, wall_s) : 0;
}

/* ---- the difference, as `spillway explain` would tell it ------------------------------------------------------------- */

static const char *name_cb(const void *arg, int32_t i)
{
    return ((const struct replay_difference *)arg)->names[i];
}

/* {"decisions":[...]}; the caller's. */
static cJSON *explain(const struct replay_difference *x, const struct record_choice *is,
                      const struct record_candidate *c)
{
    struct explain *kept = explain_new(1);
    const char *id = is->who.id[0] ? is->who.id : "?";
    const struct explain_context context = {.request_id = id,
                                            .model_asked = is->who.asked,
                                            .model = x->model,
                                            .at_ns = x->wall_us * 1000,
                                            .class = is->who.interactive ? WAITING_INTERACTIVE : WAITING_BATCH,
                                            .name = name_cb,
                                            .arg = x};
    struct route_candidate candidates[RECORD_CANDIDATES_MAX];
    struct route_decision d = {
        .chosen = is->chosen, .may_wait = is->may_wait, .busy = is->busy, .back_us = is->back_us};
    struct strbuf text;
    struct error e;
    cJSON *root = NULL;
    for (int32_t i = 0; i < is->n; i++) {
        candidates[i] = c[i].c;
        d.reasons[i] = c[i].reason;
        d.terms[i] = c[i].t;
    }
    explain_note_locked(kept, &context, &is->q, candidates, is->n, &d);
    strbuf_init(&text, JSON_BYTES_MAX);
    struct json_writer w = json_write_begin(&text);
    if (explain_write_request(kept, id, &w) == RC_OK && json_write_end(&w) == RC_OK)
        (void)!json_parse(text.data, text.len, JSON_DEPTH_MAX, &root, &e);
    strbuf_fini(&text);
    explain_free(kept);
    return root;
}

static void print_difference(const char *path, const struct replay_difference *d)
{
    printf("%s:%" PRId64 ": the first difference, at \"%s\"", path, d->line, record_kind_name(d->kind));
    if (d->kind != (enum record_kind)ROUTER_CHOSE) {
        printf(": %s\n", d->text);
        return;
    }
    printf(" for request %s, model %s: %s\n", d->was.who.id, d->model, d->text);
    cJSON *was = explain(d, &d->was, d->was_c), *is = explain(d, &d->is, d->is_c);
    printf("\nas it was recorded:\n");
    cli_print_explanation(was);
    printf("\nas it is replayed:\n");
    cli_print_explanation(is);
    cJSON_Delete(was);
    cJSON_Delete(is);
}

/* ---- for people -------------------------------------------------------------------------------------------------- */

static void print_share(const char *label, int64_t part, int64_t of)
{
    printf("  %-44s %10" PRId64 "  (%.1f%%)\n", label, part, of ? 100.0 * (double)part / (double)of : 0);
}

static void print_change(const char *label, double was, double would, const char *unit)
{
    printf("  %-44s %12.6g %s, would %12.6g %s", label, was, unit, would, unit);
    if (was > 0)
        printf("  (%+.1f%%)", 100 * (would - was) / was);
    putchar('\n');
}

static void print_other(const char *path, const struct replay_under_other *o)
{
    printf("\nunder %s, of the %" PRId64 " decisions that sent a request somewhere:\n", path, o->sent);
    print_share("the same node", o->sent - o->elsewhere - o->nobody, o->sent);
    print_share("another node", o->elsewhere, o->sent);
    print_share("nobody: it would have waited, or been refused", o->nobody, o->sent);
    print_change("predicted cost, marginal", o->money_was / 1e12, o->money_would / 1e12, "$");
    if (o->stay == o->sent - o->nobody)
        print_change("the same nodes under this configuration", o->money_was / 1e12, o->money_stay / 1e12, "$");
    if (o->timed)
        print_change("predicted mean time to the last token", o->us_was / 1e3 / (double)o->timed,
                     o->us_would / 1e3 / (double)o->timed, "ms");
    if (o->metered)
        print_change("predicted energy", o->mj_was / 1e3, o->mj_would / 1e3, "J");
    static const struct cli_column columns[] = {{"NODE", CLI_LEFT}, {"WAS", CLI_RIGHT}, {"WOULD", CLI_RIGHT}};
    struct cli_table t;
    char number[32];
    cli_table_init(&t, columns, 3);
    for (int i = 0; i < o->n_nodes; i++) {
        cli_table_add(&t, o->nodes[i].name);
        snprintf(number, sizeof number, "%" PRId64, o->nodes[i].was);
        cli_table_add(&t, number);
        snprintf(number, sizeof number, "%" PRId64, o->nodes[i].would);
        cli_table_add(&t, number);
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
    printf("Each decision with the load as it was: what follows from other decisions, spillway simulate tells.\n");
}

static void print_result(const char *path, const char *under, const struct replay_result *r)
{
    printf("%s: %" PRId64 " run%s, %" PRId64 " events, %" PRId64 " decisions between %" PRId64 " candidates: ", path,
           r->runs, r->runs == 1 ? "" : "s", r->events, r->decisions, r->candidates);
    if (!r->first)
        printf("all the same, to the last bit\n");
    else
        printf("%" PRId64 " decisions and %" PRId64 " other events differ\n", r->decisions_differ, r->events_differ);
    if (r->ended[0] && strcmp(r->ended, "stopped") != 0)
        printf("the recording ended before the run: %s\n", r->ended);
    if (r->cut_off)
        printf("%" PRId64 " run%s end%s without an end: cut off, or still going on\n", r->cut_off,
               r->cut_off == 1 ? "" : "s", r->cut_off == 1 ? "s" : "");
    if (r->first)
        print_difference(path, r->first);
    if (under)
        print_other(under, &r->other);
}

/* ---- as JSON ----------------------------------------------------------------------------------------------------- */

static void add_difference(cJSON *root, const struct replay_difference *d)
{
    cJSON *o = cJSON_AddObjectToObject(root, "first");
    cJSON_AddNumberToObject(o, "line", (double)d->line);
    cJSON_AddStringToObject(o, "event", record_kind_name(d->kind));
    cJSON_AddStringToObject(o, "difference", d->text);
    if (d->kind != (enum record_kind)ROUTER_CHOSE)
        return;
    cJSON_AddStringToObject(o, "request_id", d->was.who.id);
    cJSON_AddItemToObject(o, "recorded", explain(d, &d->was, d->was_c));
    cJSON_AddItemToObject(o, "replayed", explain(d, &d->is, d->is_c));
}

static void add_other(cJSON *root, const char *path, const struct replay_under_other *u)
{
    cJSON *o = cJSON_AddObjectToObject(root, "under"), *nodes;
    cJSON_AddStringToObject(o, "config", path);
    cJSON_AddNumberToObject(o, "sent", (double)u->sent);
    cJSON_AddNumberToObject(o, "elsewhere", (double)u->elsewhere);
    cJSON_AddNumberToObject(o, "nobody", (double)u->nobody);
    cJSON_AddNumberToObject(o, "money_usd", u->money_was / 1e12);
    cJSON_AddNumberToObject(o, "money_usd_would", u->money_would / 1e12);
    if (u->stay == u->sent - u->nobody)
        cJSON_AddNumberToObject(o, "money_usd_same_nodes", u->money_stay / 1e12);
    cJSON_AddNumberToObject(o, "mean_ms", u->timed ? u->us_was / 1e3 / (double)u->timed : 0);
    cJSON_AddNumberToObject(o, "mean_ms_would", u->timed ? u->us_would / 1e3 / (double)u->timed : 0);
    cJSON_AddNumberToObject(o, "joules", u->mj_was / 1e3);
    cJSON_AddNumberToObject(o, "joules_would", u->mj_would / 1e3);
    nodes = cJSON_AddObjectToObject(o, "nodes");
    for (int i = 0; i < u->n_nodes; i++) {
        cJSON *n = cJSON_AddObjectToObject(nodes, u->nodes[i].name);
        cJSON_AddNumberToObject(n, "was", (double)u->nodes[i].was);
        cJSON_AddNumberToObject(n, "would", (double)u->nodes[i].would);
    }
}

static void print_json(const char *path, const char *under, const struct replay_result *r)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "file", path);
    cJSON_AddBoolToObject(root, "same", !r->first);
    cJSON_AddNumberToObject(root, "runs", (double)r->runs);
    cJSON_AddNumberToObject(root, "events", (double)r->events);
    cJSON_AddNumberToObject(root, "decisions", (double)r->decisions);
    cJSON_AddNumberToObject(root, "candidates", (double)r->candidates);
    cJSON_AddNumberToObject(root, "decisions_differ", (double)r->decisions_differ);
    cJSON_AddNumberToObject(root, "events_differ", (double)r->events_differ);
    cJSON_AddNumberToObject(root, "runs_cut_off", (double)r->cut_off);
    cJSON_AddStringToObject(root, "ended", r->ended);
    if (r->first)
        add_difference(root, r->first);
    if (under)
        add_other(root, under, &r->other);
    cli_print_json(root);
    cJSON_Delete(root);
}

/* ---- the verb ---------------------------------------------------------------------------------------------------- */

int cli_replay(int argc, char **argv)
{
    const char *path = NULL, *under = NULL;
    bool json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"under", 'u', ARG_STRING, &under, .meta = "FILE",
         .help = "another configuration: what would it have decided, and for how much?"},
        {"json", 0, ARG_FLAG, &json, .help = "for programs"},
    };
    const struct arg_operand operands[] = {
        {"FILE", &path, "a recording, as routing.record writes it; .gz is fine", true}};
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "replay",
        .summary =
            "tell a router that knows nothing all that a recorded run's was told: it must decide the same, to the "
            "last bit of every term; ends with 1 if it does not",
        .example = "spillway replay routing.jsonl --under cheaper.yaml",
        .options = options,
        .n_options = 2,
        .operands = operands,
        .n_operands = 1};
    struct replay_result r;
    struct config *c = NULL;
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (under && !(c = cli_load_config("replay", under)))
        return ARGS_EXIT_USAGE;
    const struct replay_other other = {facts_cb, node_cb, aim_cb, tariff_cb, c};
    const enum rc rc = replay_run(path, c ? &other : NULL, &r, &e);
    if (rc == RC_OK) {
        json ? print_json(path, under, &r) : print_result(path, under, &r);
        exit_code = r.first ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
    } else {
        exit_code = cli_fail("replay", &e);
    }
    if (rc == RC_OK)
        replay_result_fini(&r);
    config_free(c);
    return exit_code;
}
