#include "scheduler/cli/cli_internal.h"

#include <string.h>

#include "scheduler/auth/identity.h"

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

static const struct action {
    const char *name;
    bool optional;  /* without a name, too */
    const char *of; /* what the name is of */
} actions[] = {
    {"list", true, "NAME"},       {"drain", false, "NAME"},  {"undrain", false, "NAME"},
    {"terminate", false, "NAME"}, {"sleep", false, "NAME"},  {"wake", false, "NAME"},
    {"revoke", false, "NAME"},    {"launch", false, "POOL"}, {"adopt", false, "POOL"},
};
#define N_ACTIONS ((int)(sizeof actions / sizeof actions[0]))

/* What ACTION and NAME ask for. False: they make no sense. */
static const struct action *plan(const char *action, const char *name, const char *instance, int n, char *path,
                                 size_t size, struct error *e)
{
    const struct action *a = NULL;
    for (int i = 0; i < N_ACTIONS; i++)
        a = strcmp(actions[i].name, action) == 0 ? &actions[i] : a;
    if (!a) {
        error_set(e, RC_INVALID,
                  "unknown action \"%.40s\"; list, drain, undrain, launch, terminate, adopt, sleep, wake, token, "
                  "revoke, joined, calibrate, enrol, rates or power is "
                  "right",
                  action);
        return NULL;
    }
    if (!name && !a->optional) {
        error_set(e, RC_INVALID, "which %s? write: spillway nodes %s %s", strcmp(a->of, "POOL") ? "node" : "pool",
                  action, a->of);
        return NULL;
    }
    if (name && !identity_name_ok(name)) {
        error_set(e, RC_INVALID, "\"%.80s\" is not a node's name", name);
        return NULL;
    }
    if (strcmp(action, "adopt") == 0 && (!instance || !identity_name_ok(instance))) {
        error_set(e, RC_INVALID, "which instance? write: spillway nodes adopt POOL INSTANCE, by the provider's id");
        return NULL;
    }
    if (!name)
        snprintf(path, size, "/admin/v1/nodes");
    else if (strcmp(action, "launch") == 0)
        snprintf(path, size, "/admin/v1/pools/%s/launch?n=%d", name, n);
    else if (strcmp(action, "adopt") == 0)
        snprintf(path, size, "/admin/v1/pools/%s/adopt?instance=%s", name, instance);
    else
        snprintf(path, size, strcmp(action, "list") == 0 ? "/admin/v1/nodes/%s" : "/admin/v1/nodes/%s/%s", name,
                 action);
    return a;
}

/* Actions with flags of their own. NULL: it is none. */
static cli_verb *of_its_own(const char *action)
{
    static const struct {
        const char *name;
        cli_verb *run;
    } verbs[] = {{"calibrate", cli_nodes_calibrate}, {"token", cli_nodes_token}, {"joined", cli_nodes_joined},
                 {"enrol", cli_nodes_enrol},         {"rates", cli_nodes_rates}, {"power", cli_nodes_power}};
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(verbs[i].name, action) == 0)
            return verbs[i].run;
    return NULL;
}

static void print_order(const cJSON *root)
{
    char name[80], what[80];
    printf("%s: %s is ordered; spillway nodes shows what comes of it\n", cli_json_text(root, "name", name, sizeof name),
           cli_json_text(root, "ordered", what, sizeof what));
}

int cli_nodes(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *action = "list", *name = NULL, *instance = NULL;
    bool json = false;
    int64_t n = 1;
    char path[256];
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        {"count", 'n', ARG_INT, &n, "N", "launch: so many", .lo = 1, .hi = 64},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_operand operands[] = {
        {"ACTION", &action,
         "list (default), drain, undrain, launch, terminate, adopt, sleep, wake, token, revoke, joined, "
         "calibrate, enrol, rates or power",
         false},
        {"NAME", &name, "of the node; launch, adopt: of the pool", false},
        {"INSTANCE", &instance, "adopt: the provider's id", false}};
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "nodes",
        .summary = "list nodes; drain one (it finishes what it has; of a pool: then it is ended), undrain it, "
                   "launch nodes of a pool, terminate one, adopt an instance, let an engine sleep, wake "
                   "it, make a token with which an engine joins, revoke what it was given, calibrate it",
        .example = "spillway nodes\nspillway nodes drain gpu1\nspillway nodes launch burst -n 2\n"
                   "spillway nodes calibrate gpu1",
        .options = options,
        .n_options = 2 + CLI_N_OPTIONS_TARGET,
        .operands = operands,
        .n_operands = 3};
    struct cli_client *c;
    struct error e;
    cJSON *root = NULL;

    if (argc > 0 && of_its_own(argv[0]))
        return of_its_own(argv[0])(argc - 1, argv + 1);
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    const struct action *a = plan(action, name, instance, (int)n, path, sizeof path, &e);
    if (!a || cli_client_open(&c, "nodes", &target, &e) != RC_OK)
        return cli_fail("nodes", &e);
    enum rc rc = cli_client_call(c, a == actions ? "GET" : "POST", path, &root, &e);
    cli_client_close(c);
    if (rc != RC_OK)
        return cli_fail("nodes", &e);
    if (json)
        cli_print_json(root);
    else if (cJSON_GetObjectItemCaseSensitive(root, "ordered"))
        print_order(root);
    else
        print_nodes(root);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}
