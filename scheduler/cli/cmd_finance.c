/* `spillway finance`: what finance edits (scheduler/books/finance.h), and corrections of what was booked wrongly. On the
 * ledger's file; a scheduler may run on it. */
#include "scheduler/cli/cli_internal.h"

#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "scheduler/books/finance.h"

struct asked {
    const char *action, *kind, *subject, *value, *from, *reason, *db, *config, *amount, *who;
    int64_t last;
};

static void print_change(const struct finance_change *c, void *arg)
{
    char at[40], from[40];
    (void)arg;
    printf("%lld  %s  from %s  %s  %s  %s  by %s%s%s\n", (long long)c->version, wall_format(c->at, at, sizeof at),
           wall_format((struct wall){c->from_s * NS_PER_S}, from, sizeof from), c->kind, c->subject, c->value, c->who,
           c->reason ? ": " : "", c->reason ? c->reason : "");
}

static const char *me(const struct asked *a)
{
    const struct passwd *p = a->who ? NULL : getpwuid(getuid());
    return a->who ? a->who : p ? p->pw_name : "somebody";
}

static enum rc set(const struct asked *a, const char *path, struct error *e)
{
    int64_t version = 0;
    struct finance_change c = {.at = clock_wall(&clock_system),
                               .who = me(a),
                               .kind = a->kind,
                               .subject = a->subject,
                               .value = a->value,
                               .reason = a->reason};
    if (!a->kind || !a->subject)
        return error_set(e, RC_INVALID, "set wants KIND and SUBJECT, and --value");
    if (a->from && text_parse_utc(a->from, &c.from_s) != RC_OK)
        return error_set(e, RC_INVALID, "--from: \"%.40s\" is no time like 2026-11-01", a->from);
    enum rc rc = finance_change(path, &c, NULL, NULL, &version, e);
    if (rc == RC_OK)
        printf("version %lld\n", (long long)version);
    return rc;
}

static enum rc lock(const struct asked *a, const char *path, const char *kind, struct error *e)
{
    struct asked b = *a;
    b.subject = a->kind;
    b.kind = kind;
    b.value = NULL;
    if (!b.subject)
        return error_set(e, RC_INVALID, "%s wants a month like 2026-10", kind);
    return set(&b, path, e);
}

static enum rc correct(const struct asked *a, const char *path, struct error *e)
{
    int64_t version = 0;
    const bool below = a->amount && a->amount[0] == '-';
    struct finance_correction c = {.request_id = a->kind, .reason = a->reason};
    if (!a->kind || !a->amount)
        return error_set(e, RC_INVALID, "correct wants a REQUEST_ID, --amount and --reason");
    enum rc rc = pusd_parse(a->amount + below, &c.charge, e);
    if (rc != RC_OK)
        return rc;
    c.charge.v = below ? -c.charge.v : c.charge.v;
    rc = finance_correct(path, &c, me(a), clock_wall(&clock_system), NULL, NULL, &version, e);
    if (rc == RC_OK)
        printf("version %lld\n", (long long)version);
    return rc;
}

static enum rc act(const struct asked *a, const char *path, struct error *e)
{
    if (strcmp(a->action, "list") == 0)
        return finance_read(path, a->kind, a->subject, (int)a->last, print_change, NULL, e);
    if (strcmp(a->action, "show") == 0)
        return finance_read_at(path, a->kind, clock_wall(&clock_system).ns / NS_PER_S, print_change, NULL, e);
    if (strcmp(a->action, "set") == 0)
        return set(a, path, e);
    if (strcmp(a->action, "lock") == 0 || strcmp(a->action, "unlock") == 0)
        return lock(a, path, a->action, e);
    if (strcmp(a->action, "correct") == 0)
        return correct(a, path, e);
    return error_set(e, RC_INVALID, "\"%.40s\" is none of list, show, set, lock, unlock, correct", a->action);
}

int cli_finance(int argc, char **argv)
{
    struct asked a = {.config = CLI_CONFIG_DEFAULT, .last = 50};
    int exit_code;
    struct error e;
    const struct arg_option options[] = {
        {"value", 0, ARG_STRING, &a.value, .meta = "JSON",
         .help = "of set, e.g. {\"input\":\"0.55\",\"output\":\"2.19\"}"},
        {"from", 0, ARG_STRING, &a.from, .meta = "TIME", .help = "holds from then on (UTC); now where it is left out"},
        {"reason", 0, ARG_STRING, &a.reason, .meta = "TEXT", .help = "why; a correction wants one"},
        {"amount", 0, ARG_STRING, &a.amount, .meta = "USD", .help = "of a correction: added, or taken back with a -"},
        {"who", 0, ARG_STRING, &a.who, .meta = "NAME", .help = "who makes the change; the user who runs this"},
        {"last", 'n', ARG_INT, &a.last, .meta = "N", .help = "of list: the newest N", .lo = 1, .hi = 100000},
        {"db", 0, ARG_STRING, &a.db, .meta = "FILE", .help = "this ledger file, instead of the configuration's"},
        CLI_OPTION_CONFIG(a.config),
    };
    const struct arg_operand operands[] = {
        {"ACTION", &a.action, "list, show (what holds now), set, lock, unlock, correct", true},
        {"KIND", &a.kind, "price, asset, rent, discount, ...; a month of lock; a request of correct", false},
        {"SUBJECT", &a.subject, "node, pool, model, team=NAME, EUR, ...", false},
    };
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "finance",
        .summary = "price lists, assets, discounts, cost centres, closed months: dated and versioned",
        .example =
            "spillway finance set price qwen-7b --value '{\"input\":\"0.10\",\"output\":\"0.40\"}' --from 2026-12-01\n"
            "spillway finance set asset gpu1 --value '{\"purchase\":\"180000\",\"residual\":\"20000\","
            "\"bought\":\"2026-01-15\",\"years\":4}'\nspillway finance lock 2026-10",
        .options = options,
        .n_options = 8,
        .operands = operands,
        .n_operands = 3};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    char *path = NULL;
    if (a.db) {
        path = spw_strdup(a.db);
    } else {
        struct config *c = cli_load_config("finance", a.config);
        path = c ? spw_strdup(c->ledger_path) : NULL;
        config_free(c);
    }
    enum rc rc = path ? act(&a, path, &e) : error_set(&e, RC_INVALID, "give --db FILE or a configuration");
    free(path);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("finance", &e);
}
