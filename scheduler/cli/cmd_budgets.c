#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "base/text.h"

static const struct cli_column columns[] = {
    {"BUDGET", CLI_LEFT},      {"PERIOD", CLI_LEFT},     {"LEVEL", CLI_LEFT},    {"$ SPENT", CLI_RIGHT},
    {"$ RESERVED", CLI_RIGHT}, {"$ LEFT", CLI_RIGHT},    {"$ LIMIT", CLI_RIGHT}, {"$ SOFT", CLI_RIGHT},
    {"RESET", CLI_LEFT},       {"USED UP BY", CLI_LEFT},
};
#define N_COLUMNS ((int)(sizeof columns / sizeof columns[0]))

static void print_budgets(const cJSON *root)
{
    static const char *const keys[N_COLUMNS] = {
        "name",          "period",    "level",    "spent_usd", "reserved_usd",
        "available_usd", "limit_usd", "soft_usd", "reset",     "exhausted_forecast"};
    cli_print_objects(cJSON_GetObjectItemCaseSensitive(root, "budgets"), columns, keys, N_COLUMNS);
}

static void print_changes(const cJSON *changes)
{
    static const struct cli_column c[] = {
        {"AT", CLI_LEFT}, {"CHANGE", CLI_LEFT}, {"$", CLI_RIGHT}, {"$ SOFT", CLI_RIGHT}, {"REQUEST", CLI_LEFT}};
    static const char *const keys[] = {"at", "change", "amount_usd", "soft_usd", "request_id"};
    cli_print_objects(changes, c, keys, 5);
}

struct command {
    const char *action, *name, *amount, *hard, *soft;
    bool json;
};

/* A name in a query. */
static void put_query(char *out, size_t size, const char *path, const char *name)
{
    size_t n = (size_t)snprintf(out, size, "%sname=", path);
    for (; *name && n + 4 < size; name++)
        n += (size_t)snprintf(out + n, size - n, text_is_alnum(*name) || strchr("-_.", *name) ? "%c" : "%%%02X",
                              (unsigned char)*name);
}

static void put_limit(struct json_writer *w, const char *key, const char *value)
{
    if (value && strcmp(value, "config") == 0)
        json_null(w, key);
    else if (value)
        json_string(w, key, value);
}

/* Body and path of a change. False: it makes no sense. */
static bool plan(const struct command *c, const char **path, struct strbuf *body, struct error *e)
{
    bool top_up = strcmp(c->action, "topup") == 0;
    if (top_up && !c->amount) {
        error_set(e, RC_INVALID, "how much? write: spillway budgets topup NAME DOLLARS");
        return false;
    }
    if (!top_up && !c->hard && !c->soft) {
        error_set(e, RC_INVALID,
                  "which limit? give --hard DOLLARS, --soft DOLLARS or both; config: the configured one again");
        return false;
    }
    *path = top_up ? "/admin/v1/budgets/topup" : "/admin/v1/budgets/set";
    struct json_writer w = json_write_begin(body);
    json_open(&w, NULL, '{');
    json_string(&w, "name", c->name);
    if (top_up)
        json_string(&w, "amount_usd", c->amount);
    put_limit(&w, "hard_usd", top_up ? NULL : c->hard);
    put_limit(&w, "soft_usd", top_up ? NULL : c->soft);
    json_close(&w, '}');
    if (json_write_end(&w) == RC_OK && strbuf_append(body, "", 1) == RC_OK)
        return true;
    error_set(e, RC_INVALID, "the name is too long");
    return false;
}

/* The budget and what was changed about it, in one. */
static enum rc show(struct cli_client *c, const struct command *cmd, struct error *e)
{
    char path[800];
    cJSON *root = NULL, *changes = NULL;
    put_query(path, sizeof path, "/admin/v1/budgets?", cmd->name);
    enum rc rc = cli_client_call(c, "GET", path, &root, e);
    put_query(path, sizeof path, "/admin/v1/budgets/changes?last=20&", cmd->name);
    struct error no_ledger;
    if (rc == RC_OK && cli_client_call(c, "GET", path, &changes, &no_ledger) != RC_OK)
        changes = NULL;
    cJSON *list = changes ? cJSON_DetachItemFromObjectCaseSensitive(changes, "changes") : cJSON_CreateArray();
    if (rc == RC_OK && cmd->json) {
        cJSON *b = cJSON_DetachItemFromArray(cJSON_GetObjectItemCaseSensitive(root, "budgets"), 0);
        cJSON_AddItemToObject(b, "changes", list);
        cli_print_json(b);
        cJSON_Delete(b);
    } else {
        if (rc == RC_OK) {
            print_budgets(root);
            if (cJSON_GetArraySize(list)) {
                printf("\n");
                print_changes(list);
            }
        }
        cJSON_Delete(list);
    }
    cJSON_Delete(root);
    cJSON_Delete(changes);
    return rc;
}

static enum rc run(struct cli_client *c, const struct command *cmd, struct error *e)
{
    cJSON *root = NULL;
    struct strbuf body;
    const char *path;
    enum rc rc;
    if (strcmp(cmd->action, "show") == 0)
        return show(c, cmd, e);
    strbuf_init(&body, 4096);
    if (strcmp(cmd->action, "list") == 0)
        rc = cli_client_call(c, "GET", "/admin/v1/budgets", &root, e);
    else
        rc = plan(cmd, &path, &body, e) ? cli_client_post(c, path, body.data, &root, e) : RC_INVALID;
    strbuf_fini(&body);
    if (rc == RC_OK && cmd->json)
        cli_print_json(root);
    else if (rc == RC_OK)
        print_budgets(root);
    cJSON_Delete(root);
    return rc;
}

static bool makes_sense(const struct command *c, struct error *e)
{
    static const char *const actions[] = {"list", "show", "set", "topup"};
    bool known = false;
    for (int i = 0; i < 4; i++)
        known = known || strcmp(c->action, actions[i]) == 0;
    if (!known)
        error_set(e, RC_INVALID, "unknown action \"%.40s\"; list, show, set or topup is right", c->action);
    else if (strcmp(c->action, "list") != 0 && !c->name)
        error_set(e, RC_INVALID, "which budget? write: spillway budgets %s NAME", c->action);
    else
        return true;
    return false;
}

int cli_budgets(int argc, char **argv)
{
    static const char *const formats[] = {"table", "json", NULL};
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    struct command cmd = {.action = "list"};
    const char *format = "table";
    int exit_code;
    const struct arg_option options[] = {
        {"hard", 0, ARG_STRING, &cmd.hard, .meta = "DOLLARS",
         .help = "set: the hard limit; config: the configured one again"},
        {"soft", 0, ARG_STRING, &cmd.soft, .meta = "DOLLARS", .help = "set: the soft limit; likewise"},
        {"format", 0, ARG_STRING, &format, .meta = "FORM", .help = "table or json", .choices = formats},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_operand operands[] = {
        {"ACTION", &cmd.action, "list (default), show, set or topup", false},
        {"NAME", &cmd.name, "of the budget; one of match: [\"user=*\"] is called NAME[alice]", false},
        {"DOLLARS", &cmd.amount, "topup: so much more for the running period", false}};
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "budgets",
        .summary = "what is spent, reserved and left of each budget; change its limits, top it up",
        .example = "spillway budgets\nspillway budgets show research\n"
                   "spillway budgets set research --hard 800\nspillway budgets topup research 50",
        .options = options,
        .n_options = 3 + CLI_N_OPTIONS_TARGET,
        .operands = operands,
        .n_operands = 3};
    struct cli_client *c;
    struct error e;
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    cmd.json = strcmp(format, "json") == 0;
    if (!makes_sense(&cmd, &e) || cli_client_open(&c, "budgets", &target, &e) != RC_OK)
        return cli_fail("budgets", &e);
    enum rc rc = run(c, &cmd, &e);
    cli_client_close(c);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("budgets", &e);
}
