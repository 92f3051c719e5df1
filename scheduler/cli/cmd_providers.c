#include "scheduler/cli/cli_internal.h"

#include <string.h>

static const struct cli_column columns[] = {
    {"PROVIDER", CLI_LEFT}, {"TYPE", CLI_LEFT}, {"LAUNCHES", CLI_LEFT}, {"SWEPT", CLI_LEFT}, {"LAST ERROR", CLI_LEFT},
};

static const char *yes(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key)) ? "yes" : "no";
}

static void print_list(const cJSON *root)
{
    const cJSON *p;
    char buf[300];
    struct cli_table t;
    cli_table_init(&t, columns, (int)(sizeof columns / sizeof columns[0]));
    cJSON_ArrayForEach(p, cJSON_GetObjectItemCaseSensitive(root, "providers"))
    {
        cli_table_add(&t, cli_json_text(p, "name", buf, sizeof buf));
        cli_table_add(&t, cli_json_text(p, "type", buf, sizeof buf));
        cli_table_add(&t, yes(p, "launches"));
        cli_table_add(&t, yes(p, "swept"));
        cli_table_add(&t, cli_json_text(p, "last_error", buf, sizeof buf));
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

/* True: everything would work. */
static bool print_checks(const cJSON *root)
{
    const cJSON *k;
    char buf[80], what[128], text[512];
    const char *name = cli_json_text(root, "provider", buf, sizeof buf);
    cJSON_ArrayForEach(k, cJSON_GetObjectItemCaseSensitive(root, "checks"))
    {
        const bool ok = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(k, "ok"));
        printf("%-4s %s: %s: %s\n", ok ? "ok" : "FAIL", name, cli_json_text(k, "what", what, sizeof what),
               cli_json_text(k, "text", text, sizeof text));
    }
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "ok"));
}

/* One, or one after the other all that are in use. *good: everything would work. */
static enum rc check(struct cli_client *c, const char *name, bool json, bool *good, struct error *e)
{
    char path[128];
    cJSON *root = NULL;
    snprintf(path, sizeof path, "/admin/v1/providers/%.64s/check", name);
    const enum rc rc = cli_client_call(c, "POST", path, &root, e);
    if (rc == RC_OK && json)
        cli_print_json(root);
    else if (rc == RC_OK)
        *good = print_checks(root) && *good;
    cJSON_Delete(root);
    return rc;
}

static enum rc check_all(struct cli_client *c, const cJSON *list, bool json, bool *good, struct error *e)
{
    const cJSON *p;
    enum rc rc = RC_OK;
    cJSON_ArrayForEach(p, cJSON_GetObjectItemCaseSensitive(list, "providers"))
    {
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p, "name"));
        if (rc == RC_OK && name)
            rc = check(c, name, json, good, e);
    }
    return rc;
}

int cli_providers(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *action = "list", *name = NULL;
    bool json = false, good = true;
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_operand operands[] = {{"ACTION", &action, "list (default) or check", false},
                                           {"NAME", &name, "check: of one; else all are checked", false}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "providers",
                                  .summary = "list the providers in use; check credentials, rights and quota (exit "
                                             "status 1 where something would not work)",
                                  .example = "spillway providers\nspillway providers check aws",
                                  .options = options,
                                  .n_options = 1 + CLI_N_OPTIONS_TARGET,
                                  .operands = operands,
                                  .n_operands = 2};
    struct cli_client *c;
    struct error e;
    cJSON *root = NULL;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    const bool checks = strcmp(action, "check") == 0;
    if (!checks && (strcmp(action, "list") != 0 || name)) {
        error_set(&e, RC_INVALID, "unknown action \"%.40s\"; list, or check [NAME], is right", action);
        return cli_fail("providers", &e);
    }
    if (cli_client_open(&c, "providers", &target, &e) != RC_OK)
        return cli_fail("providers", &e);
    enum rc rc =
        checks && name ? check(c, name, json, &good, &e) : cli_client_call(c, "GET", "/admin/v1/providers", &root, &e);
    if (rc == RC_OK && checks && !name)
        rc = check_all(c, root, json, &good, &e);
    cli_client_close(c);
    if (rc != RC_OK)
        return cli_fail("providers", &e);
    if (!checks && json)
        cli_print_json(root);
    else if (!checks)
        print_list(root);
    cJSON_Delete(root);
    return good ? ARGS_EXIT_OK : ARGS_EXIT_FAILED;
}
