#include "scheduler/cli/cli_internal.h"

#include <string.h>

static const struct cli_column columns[] = {
    {"NODE", CLI_LEFT},    {"STATE", CLI_LEFT},   {"LOAD", CLI_RIGHT},    {"REQUESTS", CLI_RIGHT},
    {"FAILED", CLI_RIGHT}, {"$/M IN", CLI_RIGHT}, {"$/M OUT", CLI_RIGHT}, {"ADDRESS", CLI_LEFT},
    {"MODELS", CLI_LEFT},  {"REASON", CLI_LEFT},
};
#define N_COLUMNS ((int)(sizeof columns / sizeof columns[0]))

static void add_node(struct cli_table *t, const cJSON *n)
{
    char buf[64], load[80], models[256] = "";
    const cJSON *price = cJSON_GetObjectItemCaseSensitive(n, "price_usd_per_mtok"), *m;
    bool draining = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(n, "draining"));

    cli_table_add(t, cli_json_text(n, "name", buf, sizeof buf));
    cli_table_add(t, draining ? "draining" : cli_json_text(n, "state", buf, sizeof buf));
    const cJSON *slots = cJSON_GetObjectItemCaseSensitive(n, "slots");
    const cJSON *running = cJSON_GetObjectItemCaseSensitive(n, "in_flight");
    if (cJSON_IsNumber(slots) && slots->valuedouble > 0)
        snprintf(load, sizeof load, "%.0f/%.0f", cJSON_GetNumberValue(running), slots->valuedouble);
    else
        snprintf(load, sizeof load, "%.0f", cJSON_GetNumberValue(running));
    cli_table_add(t, load);
    cli_table_add(t, cli_json_text(n, "requests", buf, sizeof buf));
    cli_table_add(t, cli_json_text(n, "failures", buf, sizeof buf));
    cli_table_add(t, cli_json_text(price, "input", buf, sizeof buf));
    cli_table_add(t, cli_json_text(price, "output", buf, sizeof buf));
    cli_table_add(t, cli_json_text(n, "address", buf, sizeof buf));
    cJSON_ArrayForEach(m, cJSON_GetObjectItemCaseSensitive(n, "models"))
    {
        size_t used = strlen(models);
        if (cJSON_IsString(m))
            snprintf(models + used, sizeof models - used, "%s%s", used ? "," : "", m->valuestring);
    }
    cli_table_add(t, models);
    cli_table_add(t, cli_json_text(n, "reason", buf, sizeof buf));
}

static void print_nodes(const cJSON *root)
{
    const cJSON *nodes = cJSON_GetObjectItemCaseSensitive(root, "nodes"), *n;
    struct cli_table t;

    cli_table_init(&t, columns, N_COLUMNS);
    if (cJSON_IsArray(nodes)) {
        cJSON_ArrayForEach(n, nodes) add_node(&t, n);
    } else {
        add_node(&t, root); /* the answer to drain: one node */
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

/* What ACTION and NAME ask for. False: they make no sense. */
static bool plan(const char *action, const char *name, const char **method, char *path, size_t size, struct error *e)
{
    *method = strcmp(action, "list") == 0 ? "GET" : "POST";
    if (strcmp(action, "list") == 0) {
        snprintf(path, size, name ? "/admin/v1/nodes/%s" : "/admin/v1/nodes", name);
    } else if (strcmp(action, "drain") == 0 || strcmp(action, "undrain") == 0) {
        if (!name) {
            error_set(e, RC_INVALID, "which node? write: spillway nodes %s NAME", action);
            return false;
        }
        snprintf(path, size, "/admin/v1/nodes/%s/%s", name, action);
    } else {
        error_set(e, RC_INVALID, "unknown action \"%.40s\"; list, drain, undrain, calibrate, enrol or power is right", action);
        return false;
    }
    if (name && (strlen(name) > 64 ||
                 strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") != strlen(name))) {
        error_set(e, RC_INVALID, "\"%.80s\" is not a node's name", name);
        return false;
    }
    return true;
}

int cli_nodes(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *action = "list", *name = NULL, *method;
    bool json = false;
    char path[160];
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_operand operands[] = {{"ACTION", &action, "list (default), drain, undrain, calibrate, enrol or power", false},
                                           {"NAME", &name, "of the node", false}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "nodes",
                                  .summary =
                                      "list nodes; drain one (it finishes what it has), undrain it, calibrate it",
                                  .example = "spillway nodes\nspillway nodes drain gpu1\nspillway nodes calibrate gpu1",
                                  .options = options,
                                  .n_options = 1 + CLI_N_OPTIONS_TARGET,
                                  .operands = operands,
                                  .n_operands = 2};
    struct cli_client *c;
    struct error e;
    cJSON *root = NULL;

    if (argc > 0 && strcmp(argv[0], "calibrate") == 0)
        return cli_nodes_calibrate(argc - 1, argv + 1);
    if (argc > 0 && strcmp(argv[0], "enrol") == 0)
        return cli_nodes_enrol(argc - 1, argv + 1);
    if (argc > 0 && strcmp(argv[0], "power") == 0)
        return cli_nodes_power(argc - 1, argv + 1);
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (!plan(action, name, &method, path, sizeof path, &e) || cli_client_open(&c, "nodes", &target, &e) != RC_OK)
        return cli_fail("nodes", &e);
    enum rc rc = cli_client_call(c, method, path, &root, &e);
    cli_client_close(c);
    if (rc != RC_OK)
        return cli_fail("nodes", &e);
    if (json)
        cli_print_json(root);
    else
        print_nodes(root);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}
