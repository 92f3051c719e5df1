/* `spillway nodes token` and `spillway nodes joined`: engines that come by themselves. */
#include "scheduler/cli/cli_internal.h"

#include <string.h>

#include "base/text.h"
#include "scheduler/auth/identity.h"

static void print_token(const cJSON *root)
{
    const char *token = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "token"));
    const char *url = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "url"));

    printf("%s\n", token ? token : "");
    fprintf(stderr, "for: spillway-engine serve ... --join %s --join-token-file FILE\n", url ? url : "URL");
}

int cli_nodes_token(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *name = NULL, *ttl = NULL;
    bool pool = false, json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"pool", 0, ARG_FLAG, &pool, .help = "NAME is a pool; who comes becomes a node of it"},
        {"ttl", 0, ARG_STRING, &ttl, "DURATION", .help = "how long it may wait to be used; default: join.token_life"},
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_operand operands[] = {{"NAME", &name, "of the node, or with --pool of the pool", true}};
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "nodes token",
        .summary = "print a token with which one engine joins, once; it is shown here alone",
        .example = "spillway nodes token gpu1 > join-token\n"
                   "spillway-engine serve --model m.gguf --host 0.0.0.0 --join https://scheduler.example:8443 "
                   "--join-token-file join-token",
        .options = options,
        .n_options = 3 + CLI_N_OPTIONS_TARGET,
        .operands = operands,
        .n_operands = 1};
    char path[192];
    int64_t ms = 0;
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (!identity_name_ok(name)) {
        error_set(&e, RC_INVALID, "\"%.80s\" is not a name", name);
        return cli_fail("nodes", &e);
    }
    if (ttl && (text_parse_duration_ms(ttl, &ms) != RC_OK || ms < 1000)) {
        error_set(&e, RC_INVALID, "--ttl \"%.40s\": write a duration of a second or more, as in 15m", ttl);
        return cli_fail("nodes", &e);
    }
    int n = snprintf(path, sizeof path, "/admin/v1/%s/%s/token", pool ? "pools" : "nodes", name);
    if (ms)
        snprintf(path + n, sizeof path - (size_t)n, "?ttl_s=%lld", (long long)(ms / 1000));
    return cli_show("nodes", &target, "POST", path, json ? cli_print_json : print_token);
}

static void print_joined(const cJSON *root)
{
    static const struct cli_column columns[] = {
        {"NODE", CLI_LEFT},      {"STATE", CLI_LEFT},
        {"HEARD", CLI_RIGHT},    {"SLEEP", CLI_LEFT},
        {"RUNS", CLI_RIGHT},     {"WAITS", CLI_RIGHT},
        {"TOK/S", CLI_RIGHT},    {"WATTS", CLI_RIGHT},
        {"WATTS ARE", CLI_LEFT}, {"CERTIFICATE UNTIL", CLI_LEFT},
        {"ADDRESS", CLI_LEFT},
    };
    static const char *const keys[] = {"name",         "state", "heard_ms",  "sleep", "running", "queue",
                                       "tokens_per_s", "watts", "watts_are", "until", "address"};
    cli_print_objects(cJSON_GetObjectItemCaseSensitive(root, "joined"), columns, keys,
                      (int)(sizeof columns / sizeof *columns));
}

int cli_nodes_joined(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    bool json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "nodes joined",
                                  .summary = "the engines that have joined, and what they said last",
                                  .example = "spillway nodes joined",
                                  .options = options,
                                  .n_options = 1 + CLI_N_OPTIONS_TARGET};

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    return cli_show("nodes", &target, "GET", "/admin/v1/joined", json ? cli_print_json : print_joined);
}
