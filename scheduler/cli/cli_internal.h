/* What the verbs share. */
#ifndef SCHEDULER_CLI_CLI_INTERNAL_H
#define SCHEDULER_CLI_CLI_INTERNAL_H

#include <cjson/cJSON.h>

#include "base/alloc.h"
#include "base/args.h"
#include "scheduler/cli/cli.h"
#include "scheduler/config/config.h"

/* --- verbs: argv is what follows the verb; the exit code comes back ----------------------------------------- */

typedef int cli_verb(int argc, char **argv);
cli_verb cli_budgets, cli_serve, cli_check, cli_nodes, cli_ledger, cli_keys, cli_status, cli_ask, cli_reload, cli_plan,
    cli_simulate, cli_explain, cli_replay, cli_prices, cli_providers, cli_report, cli_finance, cli_ledger_verify,
    cli_ledger_export, cli_ledger_backup, cli_ledger_archive, cli_audit;

cli_verb cli_nodes_rates, cli_nodes_calibrate, cli_nodes_enrol,
    cli_nodes_power; /* argv: what follows "nodes calibrate", ... */

/* "spillway VERB: message" on stderr; ARGS_EXIT_USAGE for RC_INVALID, else ARGS_EXIT_FAILED. */
int cli_fail(const char *verb, const struct error *e);
/* Loads, or prints every mistake and returns NULL. */
struct config *cli_load_config(const char *verb, const char *path);

/* --- the daemon to talk to ---------------------------------------------------------------------------------- */

#define CLI_CONFIG_DEFAULT "spillway.yaml"

struct cli_target { /* as given; borrowed */
    const char *config, *socket, *url, *key_file, *ca_file;
};
#define CLI_OPTION_CONFIG(field)                                                                                       \
    {                                                                                                                  \
        "config", 'c', ARG_STRING, &(field), .meta = "FILE", .help = "the configuration", .env = "SPILLWAY_CONFIG"     \
    }
#define CLI_OPTIONS_TARGET(t)                                                                                           \
    CLI_OPTION_CONFIG((t).config),                                                                                      \
        {"socket",                                                                                                      \
         's',                                                                                                           \
         ARG_STRING,                                                                                                    \
         &(t).socket,                                                                                                   \
         .meta = "PATH",                                                                                                \
         .help = "admin socket, instead of the configuration's",                                                        \
         .env = "SPILLWAY_SOCKET"},                                                                                     \
        {"url",    'u',           ARG_STRING,                                                                           \
         &(t).url, .meta = "URL", .help = "admin.listen of another machine, instead of a socket"},                      \
        {"key-file", 0, ARG_STRING, &(t).key_file, .meta = "FILE", .help = "with --url: file that holds an admin key"}, \
    {                                                                                                                   \
        "ca-file", 0, ARG_STRING, &(t).ca_file,                                                                         \
            .meta = "FILE", .help = "with --url https://...: certificates to trust, instead of the system's"            \
    }
#define CLI_N_OPTIONS_TARGET 5

/* A change of finance's, as `spillway finance set` makes it; db, from, reason NULL: none. */
enum rc cli_finance_set(const struct cli_target *t, const char *db, const char *kind, const char *subject,
                        const char *value, const char *from, const char *reason, struct error *e) SPW_MUST_USE;

/* The ledger's file, of --db or of the configuration; the caller's. NULL: *e says why. */
char *cli_ledger_path(const char *verb, const char *db, const char *config, struct error *e);

/* Such as x-request-id says them: nothing that would mean something in a path. */
bool cli_is_request_id(const char *text);

struct cli_client;
/* Finds the daemon's address; connects with the first call. RC_INVALID: the target makes no sense. */
enum rc cli_client_open(struct cli_client **c, const char *verb, const struct cli_target *t,
                        struct error *e) SPW_MUST_USE;
void cli_client_close(struct cli_client *c); /* NULL is fine */
/* One call, waited for. RC_OK: a 2xx answer, *root (may be NULL: not wanted) is the caller's. Otherwise *e has the
 * daemon's own message, or why there was no answer; RC_IO: nobody is there, and nothing has been asked. */
enum rc cli_client_call(struct cli_client *c, const char *method, const char *path, cJSON **root,
                        struct error *e) SPW_MUST_USE;

/* The body of the last answer, whatever its status; NULL: it was no JSON. The caller's. */
cJSON *cli_client_answer(const struct cli_client *c);

/* The same with a JSON body, by POST. */
enum rc cli_client_post(struct cli_client *c, const char *path, const char *body, cJSON **root,
                        struct error *e) SPW_MUST_USE;
/* All that a verb has to do where it is one call (method: GET or POST) whose answer is printed. Its exit code; what
 * failed has been said. */
int cli_show(const char *verb, const struct cli_target *t, const char *method, const char *path,
             void (*print)(const cJSON *answer));

/* --- output ------------------------------------------------------------------------------------------------- */

enum cli_align { CLI_LEFT, CLI_RIGHT };
struct cli_column {
    const char *title;
    enum cli_align align;
};
#define CLI_COLUMNS_MAX 16

/* Rows of text in aligned columns. */
struct cli_table {
    const struct cli_column *columns;
    int n_columns, n_cells, cap;
    char **cells; /* owned */
};
void cli_table_init(struct cli_table *t, const struct cli_column *columns, int n_columns);
void cli_table_add(struct cli_table *t, const char *text); /* the next cell; NULL is "-" */
void cli_table_print(const struct cli_table *t, FILE *out);
void cli_table_fini(struct cli_table *t);

/* Members of a JSON object as text: strings as they are, numbers in full; NULL for null or missing. buf is used for
 * numbers. */
const char *cli_json_text(const cJSON *object, const char *key, char *buf, size_t size);
/* An array's objects as a table: a line each, of its members keys[0..n_columns). `array` may be NULL: the titles alone. */
void cli_print_objects(const cJSON *array, const struct cli_column *columns, const char *const *keys, int n_columns);
void cli_print_json(const cJSON *root);
/* What GET /admin/v1/explain/ID says, for people. */
void cli_print_explanation(const cJSON *root);

int cli_nodes_token(int argc, char **argv); /* cmd_join.c */
int cli_nodes_joined(int argc, char **argv);
struct join;
struct fleet;
void serve_join_fleet(struct join *j, struct fleet *f); /* serve_join.c */

#endif
