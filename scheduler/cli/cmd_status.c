#include "scheduler/cli/cli_internal.h"

static const char *text(const cJSON *object, const char *key, char *buf, size_t size)
{
    const char *t = cli_json_text(object, key, buf, size);
    return t && t[0] ? t : "-";
}

static void line(const char *title, const cJSON *object, const char *const *keys, int n)
{
    char buf[64];

    printf("%-9s", title);
    for (int i = 0; i < n; i++) {
        printf("%s%s ", i ? ", " : " ", text(object, keys[i], buf, sizeof buf));
        for (const char *p = keys[i]; *p; p++)
            putchar(*p == '_' ? ' ' : *p);
    }
    putchar('\n');
}

static void print_ledger(const cJSON *ledger)
{
    char a[64], b[64], c[64], d[64], why[256];
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(ledger, "off"))) {
        printf("%-9s off: nothing is written down\n", "ledger");
        return;
    }
    printf("%-9s %s rows, %s queued, %s writes failed, the last took %s us\n", "ledger",
           text(ledger, "rows", a, sizeof a), text(ledger, "queued", b, sizeof b), text(ledger, "failed", c, sizeof c),
           text(ledger, "last_commit_us", d, sizeof d));
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(ledger, "failing")))
        printf("%-9s cannot be written: %s\n", "", text(ledger, "last_error", why, sizeof why));
    else if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(ledger, "spooling")))
        printf("%-9s its file cannot be written: %s; in the spool are %s bytes\n", "",
               text(ledger, "last_error", why, sizeof why), text(ledger, "spool_bytes", a, sizeof a));
}

/* Nothing where budgets are this scheduler's alone. */
static void print_budget_store(const cJSON *store)
{
    static const char *const counts[] = {"unsettled", "refused", "leased", "buried"};
    char open[64], workers[64], reason[200];
    if (!store)
        return;
    const char *why = cli_json_text(store, "reason", reason, sizeof reason);
    printf("%-9s redis open to %s of %s workers%s%s\n", "budgets", text(store, "open", open, sizeof open),
           text(store, "workers", workers, sizeof workers), why && why[0] ? ": " : "", why ? why : "");
    line("", store, counts, 4);
}

static void print_status(const cJSON *root)
{
    static const char *const requests[] = {"running", "waiting", "ok", "cancelled", "failed", "refused", "retries"};
    static const char *const tokens[] = {"input", "cached_input", "output"};
    char a[64], b[64], c[64];
    const char *reason = cli_json_text(root, "reason", a, sizeof a);
    bool draining = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "draining"));
    bool ready = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "ready"));

    printf("%-9s %s%s%s\n", "state",
           draining ? "draining"
           : ready  ? "ready"
                    : "not ready",
           reason && reason[0] ? ": " : "", reason ? reason : "");
    printf("%-9s %s, up %s s since %s\n", "version", text(root, "version", a, sizeof a),
           text(root, "uptime_s", b, sizeof b), text(root, "started", c, sizeof c));
    printf("%-9s %s of %s ready\n", "nodes", text(root, "nodes_ready", a, sizeof a), text(root, "nodes", b, sizeof b));
    line("requests", cJSON_GetObjectItemCaseSensitive(root, "requests"), requests, 7);
    line("tokens", cJSON_GetObjectItemCaseSensitive(root, "tokens"), tokens, 3);
    printf("%-9s $%s\n", "charge", text(root, "charge_usd", a, sizeof a));
    print_ledger(cJSON_GetObjectItemCaseSensitive(root, "ledger"));
    print_budget_store(cJSON_GetObjectItemCaseSensitive(root, "budget_store"));
}

int cli_status(int argc, char **argv)
{
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    bool json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"json", 0, ARG_FLAG, &json, .help = "the admin API's answer as it is"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "status",
                                  .summary = "what a running scheduler is doing",
                                  .example = "spillway status --socket state/admin.sock",
                                  .options = options,
                                  .n_options = 1 + CLI_N_OPTIONS_TARGET};

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    return cli_show("status", &target, "GET", "/admin/v1/status", json ? cli_print_json : print_status);
}
