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
#define N_COLUMNS ((int)(sizeof columns / sizeof columns[0]))

static void print_rows(const cJSON *root)
{
    const cJSON *r;
    struct cli_table t;
    char buf[64], outcome[128];

    cli_table_init(&t, columns, N_COLUMNS);
    cJSON_ArrayForEach(r, cJSON_GetObjectItemCaseSensitive(root, "rows"))
    {
        for (int i = 0; i < N_COLUMNS - 1; i++)
            cli_table_add(&t, cli_json_text(r, keys[i], buf, sizeof buf));
        const char *error = cli_json_text(r, "error", buf, sizeof buf);
        const char *text = cli_json_text(r, "outcome", buf, sizeof buf);
        snprintf(outcome, sizeof outcome, error && error[0] ? "%s (%s)" : "%s", text ? text : "-", error);
        cli_table_add(&t, outcome);
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

static void each_row(const struct ledger_row *row, void *arg)
{
    ledger_row_json(arg, row);
}

/* The same answer as the admin API's, from the file. */
static enum rc read_file(const char *path, int last, cJSON **root, struct error *e)
{
    struct strbuf text;

    strbuf_init(&text, ROWS_BYTES_MAX);
    struct json_writer w = json_write_begin(&text);
    json_open(&w, NULL, '{');
    json_open(&w, "rows", '[');
    enum rc rc = ledger_read(path, last, each_row, &w, e);
    json_close(&w, ']');
    json_close(&w, '}');
    if (rc == RC_OK && json_write_end(&w) != RC_OK)
        rc = error_set(e, RC_FULL, "the rows are larger than %zu bytes; ask for fewer with --last", ROWS_BYTES_MAX);
    if (rc == RC_OK)
        rc = json_parse(text.data, text.len, JSON_DEPTH_MAX, root, e);
    strbuf_fini(&text);
    return rc;
}

static enum rc ask_daemon(const struct cli_target *target, int last, cJSON **root, struct error *e)
{
    struct cli_client *c;
    char path[64];
    enum rc rc = cli_client_open(&c, "ledger", target, e);

    if (rc != RC_OK)
        return rc;
    snprintf(path, sizeof path, "/admin/v1/ledger?last=%d", last);
    rc = cli_client_call(c, "GET", path, root, e);
    cli_client_close(c);
    return rc;
}

/* By the configuration: the daemon if it answers, else its file. */
static enum rc by_config(const char *config_path, int last, cJSON **root, struct error *e)
{
    struct config *c = cli_load_config("ledger", config_path);

    if (!c)
        return error_set(e, RC_INVALID, "without it the ledger is not known; give --db FILE or --socket PATH");
    struct cli_target socket = {.socket = c->admin_socket};
    enum rc rc = ask_daemon(&socket, last, root, e);
    if (rc == RC_IO)
        rc = read_file(c->ledger_path, last, root, e);
    config_free(c);
    return rc;
}

int cli_ledger(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *db = NULL;
    bool json = false;
    int64_t last = 10;
    int exit_code;
    const struct arg_option options[] = {
        {"last", 'n', ARG_INT, &last, .meta = "N", .help = "the newest N requests", .lo = 1, .hi = 10000},
        {"json", 0, ARG_FLAG, &json, .help = "all fields, as JSON"},
        {"db", 0, ARG_STRING, &db, .meta = "FILE", .help = "read this ledger file; no scheduler needs to run"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "ledger",
                                  .summary = "the newest requests and what they cost, newest first",
                                  .example = "spillway ledger --last 10\nspillway ledger --db state/ledger.db --json",
                                  .options = options,
                                  .n_options = 3 + CLI_N_OPTIONS_TARGET};
    struct error e;
    cJSON *root = NULL;
    enum rc rc;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (db)
        rc = read_file(db, (int)last, &root, &e);
    else if (target.url || target.socket)
        rc = ask_daemon(&target, (int)last, &root, &e);
    else
        rc = by_config(target.config, (int)last, &root, &e);
    if (rc != RC_OK)
        return cli_fail("ledger", &e);
    if (json)
        cli_print_json(root);
    else
        print_rows(root);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}
