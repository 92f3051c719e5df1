#include "scheduler/cli/cli_internal.h"

static const char *text(const cJSON *object, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));

    return s ? s : "";
}

static void print_change(const cJSON *c)
{
    const char *list = text(c, "list"), *keys = text(c, "keys");

    printf("%-8s %s%s%s%s%s%s\n", text(c, "change"), list, list[0] ? " " : "", text(c, "name"), keys[0] ? ": " : "",
           keys, cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c, "needs_restart")) ? " (needs a restart)" : "");
}

static void print_changes(const cJSON *root)
{
    const cJSON *changes = cJSON_GetObjectItemCaseSensitive(root, "changes"), *c;
    int n = cJSON_GetArraySize(changes), restarts = 0;

    cJSON_ArrayForEach(c, changes) print_change(c);
    restarts = cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "needs_restart"));
    printf("reloaded: %d change%s", n - restarts, n - restarts == 1 ? "" : "s");
    if (restarts)
        printf(", %d more need%s a restart", restarts, restarts == 1 ? "s" : "");
    putchar('\n');
}

/* Every mistake in the file, as `spillway check` prints them. */
static void print_problems(const struct cli_client *c)
{
    cJSON *root = cli_client_answer(c);
    const cJSON *p;

    cJSON_ArrayForEach(p, cJSON_GetObjectItemCaseSensitive(root, "problems"))
    {
        if (cJSON_IsString(p))
            fprintf(stderr, "%s\n", p->valuestring);
    }
    cJSON_Delete(root);
}

int cli_reload(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    bool json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "reload",
                                  .summary =
                                      "let a running scheduler take its changed configuration over: all of it or, "
                                      "if there is a mistake, nothing (exit status 2)",
                                  .example = "spillway reload",
                                  .options = options,
                                  .n_options = 1 + CLI_N_OPTIONS_TARGET};
    struct cli_client *c;
    struct error e;
    cJSON *root = NULL;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (cli_client_open(&c, "reload", &target, &e) != RC_OK)
        return cli_fail("reload", &e);
    enum rc rc = cli_client_call(c, "POST", "/admin/v1/reload", &root, &e);
    if (rc != RC_OK)
        print_problems(c);
    cli_client_close(c);
    if (rc != RC_OK)
        return cli_fail("reload", &e);
    if (json)
        cli_print_json(root);
    else
        print_changes(root);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}
