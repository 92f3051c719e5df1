#include "scheduler/cli/cli_internal.h"

#include <string.h>

/* Models of all nodes, each once. */
static int count_models(const struct config *c)
{
    int n = 0;

    for (int i = 0; i < config_servers(c); i++)
        for (int m = 0; m < config_server(c, i)->n_models; m++) {
            bool known = false;
            for (int k = 0; k < i && !known; k++)
                known = config_node_serves(config_server(c, k), config_server(c, i)->models[m]);
            n += !known;
        }
    return n;
}

int cli_check(int argc, char **argv)
{
    const char *path = CLI_CONFIG_DEFAULT;
    bool dump = false;
    int exit_code;
    const struct arg_option options[] = {
        CLI_OPTION_CONFIG(path),
        {"dump", 0, ARG_FLAG, &dump, .help = "print the effective values and where each comes from"},
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "check",
                                  .summary = "find every mistake in a configuration; ends with 2 if there is one",
                                  .example = "spillway check --config spillway.yaml",
                                  .options = options,
                                  .n_options = 2};
    struct strbuf warnings;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    struct config *c = cli_load_config("check", path);
    if (!c)
        return ARGS_EXIT_USAGE;
    strbuf_init(&warnings, (size_t)1 << 20);
    int n_warnings = config_warnings(c, &warnings);
    if (warnings.len)
        fputs(warnings.data, stderr);
    strbuf_fini(&warnings);
    if (dump)
        config_dump(c, stdout);
    else
        printf("%s: good: %d node%s, %d model%s, %d key%s, %d warning%s\n", path, c->n_nodes,
               c->n_nodes == 1 ? "" : "s", count_models(c), count_models(c) == 1 ? "" : "s", c->n_keys,
               c->n_keys == 1 ? "" : "s", n_warnings, n_warnings == 1 ? "" : "s");
    config_free(c);
    return ARGS_EXIT_OK;
}
