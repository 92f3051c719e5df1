/* `spillway explain`: what the admin API says of a request's decisions, as tables for people. */
#include "scheduler/cli/cli_internal.h"

#include <string.h>

#define CELL 160

static const struct cli_column columns[] = {
    {"NODE", CLI_LEFT},     {"LOAD", CLI_RIGHT},   {"CACHED", CLI_RIGHT},  {"TTFT MS", CLI_RIGHT},
    {"TPOT MS", CLI_RIGHT}, {"P(SLO)", CLI_RIGHT}, {"ADDS $", CLI_RIGHT},  {"JOULES", CLI_RIGHT},
    {"RISK", CLI_RIGHT},    {"REASON", CLI_LEFT},  {"IN WORDS", CLI_LEFT},
};
#define N_COLUMNS ((int)(sizeof columns / sizeof columns[0]))

/* NULL: not known. buf is used for numbers: up to four places. */
static const char *text(const cJSON *object, const char *key, char buf[CELL])
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    if (cJSON_IsString(v))
        return v->valuestring[0] ? v->valuestring : NULL;
    if (!cJSON_IsNumber(v))
        return NULL;
    size_t n = (size_t)snprintf(buf, CELL, "%.4f", v->valuedouble);
    while (n > 1 && n < CELL && buf[n - 1] == '0')
        buf[--n] = '\0';
    if (n > 1 && n < CELL && buf[n - 1] == '.')
        buf[--n] = '\0';
    return buf;
}

/* Of a member that is known, between two texts. */
static void put(const char *before, const cJSON *object, const char *key, const char *after)
{
    char buf[CELL];
    const char *t = text(object, key, buf);
    if (t)
        printf("%s%s%s", before, t, after);
}

static bool is_true(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

/* "3/8", or "3" where nothing bounds it. */
static void add_load(struct cli_table *t, const cJSON *c)
{
    char a[CELL], b[CELL], out[2 * CELL];
    const char *in_flight = text(c, "in_flight", a), *slots = text(c, "slots", b);
    bool bounded = slots && strcmp(slots, "0") != 0;
    snprintf(out, sizeof out, "%s%s%s", in_flight ? in_flight : "-", bounded ? "/" : "", bounded ? slots : "");
    cli_table_add(t, out);
}

/* "180 (p99 362)" */
static void add_spread(struct cli_table *t, const cJSON *c, const char *p50, const char *p99)
{
    char a[CELL], b[CELL], out[3 * CELL];
    const char *median = text(c, p50, a), *late = text(c, p99, b);
    snprintf(out, sizeof out, "%s (p99 %s)", median ? median : "", late ? late : "");
    cli_table_add(t, median ? out : NULL);
}

static void print_candidates(const cJSON *decision)
{
    const cJSON *c;
    struct cli_table t;
    char buf[CELL];
    cli_table_init(&t, columns, N_COLUMNS);
    cJSON_ArrayForEach(c, cJSON_GetObjectItemCaseSensitive(decision, "candidates"))
    {
        cli_table_add(&t, text(c, "node", buf));
        add_load(&t, c);
        cli_table_add(&t, text(c, "tokens_cached", buf));
        add_spread(&t, c, "ttft_ms_p50", "ttft_ms_p99");
        add_spread(&t, c, "tpot_ms_p50", "tpot_ms_p99");
        cli_table_add(&t, text(c, "p_slo", buf));
        cli_table_add(&t, text(c, "money_usd", buf));
        cli_table_add(&t, text(c, "joules", buf));
        cli_table_add(&t, text(c, "risk", buf));
        cli_table_add(&t, text(c, "reason", buf));
        cli_table_add(&t, text(c, "why", buf));
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
    cJSON_ArrayForEach(c, cJSON_GetObjectItemCaseSensitive(decision, "others"))
        printf("and %d more: %s\n", c->valueint, c->string);
}

static void print_question(const cJSON *d, int number, int of)
{
    const cJSON *slo = cJSON_GetObjectItemCaseSensitive(d, "slo");
    char a[CELL], b[CELL];
    const char *model = text(d, "model", a), *asked = text(d, "model_asked", b);
    printf("decision %d of %d", number, of);
    put(", ", d, "at", "");
    put(": ", d, "attempt", " attempt");
    put(", model ", d, "model", "");
    if (model && asked && strcmp(asked, model) != 0)
        printf(" (asked for: %s)", asked);
    put(", ", d, "class", "");
    put(", objective ", d, "objective", "");
    if (cJSON_IsObject(slo))
        printf(", SLO");
    put(" TTFT ", slo, "ttft_ms", " ms");
    put(" TPOT ", slo, "tpot_ms", " ms");
    put(" with p ", slo, "probability", "");
    put(", ", d, "tokens_input", " tokens in");
    put(", about ", d, "tokens_output", " out");
    put(", at most $", d, "charge_max_usd", "");
    printf("%s%s", is_true(d, "local_only") ? ", on the premises only" : "", is_true(d, "alone") ? ", alone" : "");
    if (cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(d, "waited_ms")) > 0)
        put(", after ", d, "waited_ms", " ms in the waiting room");
    putchar('\n');
}

void cli_print_explanation(const cJSON *root)
{
    const cJSON *decisions = cJSON_GetObjectItemCaseSensitive(root, "decisions"), *d;
    const cJSON *earlier = cJSON_GetObjectItemCaseSensitive(root, "earlier");
    int before = cJSON_IsNumber(earlier) ? earlier->valueint : 0, of = before + cJSON_GetArraySize(decisions);
    int i = before;
    cJSON_ArrayForEach(d, decisions)
    {
        const cJSON *sentence = cJSON_GetObjectItemCaseSensitive(d, "sentence");
        if (i > before)
            putchar('\n');
        print_question(d, ++i, of);
        print_candidates(d);
        printf("%s\n", cJSON_IsString(sentence) ? sentence->valuestring : "-");
    }
}

int cli_explain(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *id = NULL;
    bool json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_operand operands[] = {{"REQUEST_ID", &id, "as in x-request-id and in the ledger", true}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "explain",
                                  .summary = "why a request went where it went: each candidate, its terms, why it lost",
                                  .example = "spillway explain req_01M86BJ8M257CGR4M2YNXMEK7G",
                                  .options = options,
                                  .n_options = 1 + CLI_N_OPTIONS_TARGET,
                                  .operands = operands,
                                  .n_operands = 1};
    struct error e;
    char path[128];

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (!cli_is_request_id(id)) {
        error_set(&e, RC_INVALID, "\"%.80s\" is no request id; they look like req_01M86BJ8M257CGR4M2YNXMEK7G", id);
        return cli_fail("explain", &e);
    }
    snprintf(path, sizeof path, "/admin/v1/explain/%s", id);
    return cli_show("explain", &target, "GET", path, json ? cli_print_json : cli_print_explanation);
}
