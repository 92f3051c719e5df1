/* `spillway ledger`: from the running scheduler where one answers, else from the file; both give the same rows. */
#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "scheduler/books/ledger_text.h"

#define ROWS_BYTES_MAX ((size_t)1 << 30)

static const struct cli_column columns[] = {
    {"TIME", CLI_LEFT}, {"REQUEST", CLI_LEFT},   {"TENANT", CLI_LEFT},  {"MODEL", CLI_LEFT},
    {"NODE", CLI_LEFT}, {"IN", CLI_RIGHT},       {"CACHED", CLI_RIGHT}, {"OUT", CLI_RIGHT},
    {"MS", CLI_RIGHT},  {"CHARGE $", CLI_RIGHT}, {"OUTCOME", CLI_LEFT},
};
static const char *const keys[] = {"accepted",     "request_id",          "tenant",        "model",    "node",
                                   "tokens_input", "tokens_cached_input", "tokens_output", "total_ms", "charge_usd"};
#define COLUMN_MODEL 3
#define N_COLUMNS    ((int)(sizeof columns / sizeof columns[0]))

static const struct cli_column leg_columns[] = {
    {"LEG", CLI_RIGHT}, {"NODE", CLI_LEFT},    {"OUT", CLI_RIGHT},     {"STARTED", CLI_LEFT},
    {"MS", CLI_RIGHT},  {"OUTCOME", CLI_LEFT}, {"NUMERICS", CLI_LEFT},
};
static const char *const leg_keys[] = {"leg", "node", "tokens_output", "started", "total_ms", "outcome", "numerics"};
#define N_LEG_COLUMNS ((int)(sizeof leg_columns / sizeof leg_columns[0]))

/* What is asked for: the newest rows, or the legs of one request. */
struct wanted {
    int last;
    const char *legs; /* request id, or NULL */
};

static void print_legs(const cJSON *root)
{
    cli_print_objects(cJSON_GetObjectItemCaseSensitive(root, "legs"), leg_columns, leg_keys, N_LEG_COLUMNS);
}

/* The outcome and what is remarkable about it: "ok (cache hit)", "failed (no_capacity, flex)". */
static void outcome_text(const cJSON *row, char *out, size_t size)
{
    char numbers[2][64];
    const char *text = cli_json_text(row, "outcome", NULL, 0);
    const char *cache = cli_json_text(row, "cache", NULL, 0);
    const char *repeat = cli_json_text(row, "repeat", numbers[0], sizeof numbers[0]);
    const struct {
        const char *before, *value;
    } marks[] = {
        {"", cli_json_text(row, "error", NULL, 0)},
        {cache && strcmp(cache, "hit") == 0 ? "cache " : "", cache},
        {"saved $ ", cache ? cli_json_text(row, "saved_usd", numbers[1], sizeof numbers[1]) : NULL},
        {"repeat ", repeat && strcmp(repeat, "0") != 0 ? repeat : NULL},
        {"", cli_json_text(row, "service_class", NULL, 0)},
    };
    size_t n = 0;
    const char *between = " (";

    snprintf(out, size, "%s", text ? text : "-");
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (!marks[i].value || !marks[i].value[0])
            continue;
        n = strlen(out);
        snprintf(out + n, size - n, "%s%s%s", between, marks[i].before, marks[i].value);
        between = ", ";
    }
    n = strlen(out);
    if (between[0] == ',')
        snprintf(out + n, size - n, ")");
}

static const char *model_text(const cJSON *row, char *out, size_t size)
{
    const char *model = cli_json_text(row, "model", NULL, 0);
    const char *asked = cli_json_text(row, "asked_model", NULL, 0);

    if (!asked)
        return model;
    snprintf(out, size, "%s (%s)", model ? model : "-", asked);
    return out;
}

static void print_rows(const cJSON *root)
{
    const cJSON *r;
    struct cli_table t;
    char buf[64], outcome[256], model[256];

    cli_table_init(&t, columns, N_COLUMNS);
    cJSON_ArrayForEach(r, cJSON_GetObjectItemCaseSensitive(root, "rows"))
    {
        for (int i = 0; i < N_COLUMNS - 1; i++)
            cli_table_add(&t, i == COLUMN_MODEL ? model_text(r, model, sizeof model)
                                                : cli_json_text(r, keys[i], buf, sizeof buf));
        outcome_text(r, outcome, sizeof outcome);
        cli_table_add(&t, outcome);
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

static void each_row(const struct ledger_row *row, void *arg)
{
    ledger_row_json(arg, row);
}

static void each_leg(const struct ledger_leg *leg, void *arg)
{
    ledger_leg_json(arg, leg);
}

/* The same answer as the admin API's, from the file. */
static enum rc read_file(const char *path, const struct wanted *wanted, cJSON **root, struct error *e)
{
    struct strbuf text;

    strbuf_init(&text, ROWS_BYTES_MAX);
    struct json_writer w = json_write_begin(&text);
    json_open(&w, NULL, '{');
    json_open(&w, wanted->legs ? "legs" : "rows", '[');
    enum rc rc = wanted->legs ? ledger_read_legs(path, wanted->legs, each_leg, &w, e)
                              : ledger_read(path, wanted->last, each_row, &w, e);
    json_close(&w, ']');
    json_close(&w, '}');
    if (rc == RC_OK && json_write_end(&w) != RC_OK)
        rc = error_set(e, RC_FULL, "the rows are larger than %zu bytes; ask for fewer with --last", ROWS_BYTES_MAX);
    if (rc == RC_OK)
        rc = json_parse(text.data, text.len, JSON_DEPTH_MAX, root, e);
    strbuf_fini(&text);
    return rc;
}

static enum rc ask_daemon(const struct cli_target *target, const struct wanted *wanted, cJSON **root, struct error *e)
{
    struct cli_client *c;
    char path[128];
    enum rc rc = cli_client_open(&c, "ledger", target, e);

    if (rc != RC_OK)
        return rc;
    if (wanted->legs)
        snprintf(path, sizeof path, "/admin/v1/ledger/%s/legs", wanted->legs);
    else
        snprintf(path, sizeof path, "/admin/v1/ledger?last=%d", wanted->last);
    rc = cli_client_call(c, "GET", path, root, e);
    cli_client_close(c);
    return rc;
}

/* By the configuration: the daemon if it answers, else its file. */
static enum rc by_config(const char *config_path, const struct wanted *wanted, cJSON **root, struct error *e)
{
    struct config *c = cli_load_config("ledger", config_path);

    if (!c)
        return error_set(e, RC_INVALID, "without it the ledger is not known; give --db FILE or --socket PATH");
    struct cli_target socket = {.socket = c->admin_socket};
    enum rc rc = ask_daemon(&socket, wanted, root, e);
    if (rc == RC_IO)
        rc = read_file(c->ledger_path, wanted, root, e);
    config_free(c);
    return rc;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} actions[] = {{"verify", cli_ledger_verify},
               {"export", cli_ledger_export},
               {"backup", cli_ledger_backup},
               {"archive", cli_ledger_archive}};

int cli_ledger(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *db = NULL, *legs = NULL;
    bool json = false;
    int64_t last = 10;
    int exit_code;
    const struct arg_option options[] = {
        {"last", 'n', ARG_INT, &last, .meta = "N", .help = "the newest N requests", .lo = 1, .hi = 10000},
        {"legs", 0, ARG_STRING, &legs, .meta = "REQUEST_ID", .help = "the nodes that this request was on, in order"},
        {"json", 0, ARG_FLAG, &json, .help = "all fields, as JSON"},
        {"db", 0, ARG_STRING, &db, .meta = "FILE", .help = "read this ledger file; no scheduler needs to run"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "ledger",
                                  .summary = "the newest requests and what they cost, newest first",
                                  .example = "spillway ledger --last 10\nspillway ledger --db state/ledger.db --json\n"
                                             "spillway ledger verify|export|backup|archive --help",
                                  .options = options,
                                  .n_options = 4 + CLI_N_OPTIONS_TARGET};
    struct error e;
    cJSON *root = NULL;
    enum rc rc;

    for (size_t i = 0; argc > 0 && i < sizeof actions / sizeof actions[0]; i++)
        if (strcmp(argv[0], actions[i].name) == 0)
            return actions[i].run(argc - 1, argv + 1);
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (legs && !cli_is_request_id(legs)) {
        error_set(&e, RC_INVALID, "--legs: \"%.80s\" is no request id; they look like req_01M86BJ8M257CGR4M2YNXMEK7G",
                  legs);
        return cli_fail("ledger", &e);
    }
    struct wanted wanted = {.last = (int)last, .legs = legs};
    if (db)
        rc = read_file(db, &wanted, &root, &e);
    else if (target.url || target.socket)
        rc = ask_daemon(&target, &wanted, &root, &e);
    else
        rc = by_config(target.config, &wanted, &root, &e);
    if (rc != RC_OK)
        return cli_fail("ledger", &e);
    if (json)
        cli_print_json(root);
    else if (legs)
        print_legs(root);
    else
        print_rows(root);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}
