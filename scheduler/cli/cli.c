#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/admin/admin.h"
#include "scheduler/wire/errors.h"

static int cli_help(int argc, char **argv);
static int cli_version(int argc, char **argv);

static const struct {
    const char *name;
    cli_verb *run;
    const char *summary;
} verbs[] = {
    {"serve", cli_serve, "run the scheduler"},
    {"check", cli_check, "find every mistake in a configuration"},
    {"status", cli_status, "what a running scheduler is doing"},
    {"reload", cli_reload, "let a running scheduler take its changed configuration over"},
    {"nodes", cli_nodes, "list nodes; launch, drain, end them, let them sleep"},
    {"providers", cli_providers, "list and check where nodes come from"},
    {"ledger", cli_ledger, "the newest requests and what they cost"},
    {"audit", cli_audit, "verify and prove what happened: requests, admin actions, refused logins"},
    {"explain", cli_explain, "why a request went where it went"},
    {"replay", cli_replay, "a recorded run of routing again, and what another configuration would have decided"},
    {"budgets", cli_budgets, "what is spent and left; other limits, top-ups"},
    {"keys", cli_keys, "make, list, revoke, rotate and hash API keys"},
    {"simulate", cli_simulate, "what a recorded load would have cost, and how fast it would have been answered"},
    {"ask", cli_ask, "send one chat request and show what it cost"},
    {"plan", cli_plan, "size hardware for a workload, and what a month of it costs"},
    {"finance", cli_finance, "price lists, assets, discounts, closed months, corrections"},
    {"report", cli_report, "prove that the books close, and compare with an invoice"},
    {"prices", cli_prices, "check price lists, and show what things cost by them"},
    {"help", cli_help, "help for a verb, the configuration, the admin API or the errors"},
    {"version", cli_version, "the version"},
};
#define N_VERBS ((int)(sizeof verbs / sizeof verbs[0]))

static int find_verb(const char *name)
{
    for (int i = 0; i < N_VERBS; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return i;
    return -1;
}

static void print_usage(FILE *out)
{
    fprintf(out,
            "spillway %s: serves language models from your own machines, and spills over only when it pays\n\n"
            "usage: spillway VERB [flags]\n\n",
            SPILLWAY_VERSION);
    for (int i = 0; i < N_VERBS; i++)
        fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(out, "\nspillway VERB --help has the flags of each and an example.\n"
                 "Exit status: 0 done, 1 failed, 2 wrong command line or configuration.\n");
}

static int unknown_verb(const char *word)
{
    const char *names[N_VERBS], *near;

    for (int i = 0; i < N_VERBS; i++)
        names[i] = verbs[i].name;
    near = text_nearest(word, names, N_VERBS);
    if (near)
        fprintf(stderr, "spillway: unknown verb \"%.80s\"; did you mean %s?\n", word, near);
    else
        fprintf(stderr, "spillway: unknown verb \"%.80s\"; spillway help lists them\n", word);
    return ARGS_EXIT_USAGE;
}

static int cli_help(int argc, char **argv)
{
    const char *topic = NULL;
    bool markdown = false;
    int exit_code;
    const struct arg_option options[] = {
        {"markdown", 0, ARG_FLAG, &markdown, .help = "with config, admin or errors: the reference page"}};
    const struct arg_operand operands[] = {{"TOPIC", &topic, "a verb, or config, admin or errors", false}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "help",
                                  .summary = "help for a verb, the configuration or the admin API",
                                  .example = "spillway help config",
                                  .options = options,
                                  .n_options = 1,
                                  .operands = operands,
                                  .n_operands = 1};

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (!topic) {
        print_usage(stdout);
        return ARGS_EXIT_OK;
    }
    if (strcmp(topic, "config") == 0) {
        if (markdown)
            config_print_markdown(stdout);
        else
            config_print_help(stdout);
        return ARGS_EXIT_OK;
    }
    if (strcmp(topic, "admin") == 0) {
        admin_print_markdown(stdout);
        return ARGS_EXIT_OK;
    }
    if (strcmp(topic, "errors") == 0) {
        api_errors_print_markdown(stdout);
        return ARGS_EXIT_OK;
    }
    int i = find_verb(topic);
    char flag[] = "--help", *help_argv[] = {flag, NULL};
    return i < 0 ? unknown_verb(topic) : verbs[i].run(1, help_argv);
}

static int cli_version(int argc, char **argv)
{
    int exit_code;
    const struct arg_spec spec = {
        .program = "spillway", .verb = "version", .summary = "the version", .example = "spillway version"};

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    printf("spillway %s\n", SPILLWAY_VERSION);
    return ARGS_EXIT_OK;
}

int cli_main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return ARGS_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return cli_help(argc - 2, argv + 2);
    if (strcmp(argv[1], "--version") == 0)
        return cli_version(argc - 2, argv + 2);
    int i = find_verb(argv[1]);
    return i < 0 ? unknown_verb(argv[1]) : verbs[i].run(argc - 2, argv + 2);
}

/* --- shared by the verbs ------------------------------------------------------------------------------------ */

int cli_fail(const char *verb, const struct error *e)
{
    fprintf(stderr, "spillway %s: %s\n", verb, e->message);
    return e->code == RC_INVALID ? ARGS_EXIT_USAGE : ARGS_EXIT_FAILED;
}

struct config *cli_load_config(const char *verb, const char *path)
{
    struct strbuf problems;
    struct config *c = NULL;
    int n = 0;

    strbuf_init(&problems, (size_t)1 << 20);
    if (config_load(&c, path, &problems) != RC_OK) {
        const char *text = problems.data ? problems.data : "";
        for (const char *p = text; *p; p++)
            n += *p == '\n';
        fprintf(stderr, "%sspillway %s: %d mistake%s in %s\n", text, verb, n, n == 1 ? "" : "s", path);
    }
    strbuf_fini(&problems);
    return c;
}
