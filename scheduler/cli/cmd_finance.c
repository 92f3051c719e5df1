/* `spillway finance`: what finance edits (scheduler/books/finance.h), and corrections of what was booked wrongly. By
 * the scheduler that runs; where none answers, on its ledger's file. Either way the audit has each change before it is
 * made. */
#include "scheduler/cli/cli_internal.h"

#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/json_write.h"
#include "base/text.h"
#include "scheduler/audit/audit.h"
#include "scheduler/audit/record.h"
#include "scheduler/books/finance.h"
#include "scheduler/cli/state_lock.h"

#define BODY_MAX      ((size_t)16384)
#define AUDIT_WAIT_MS 5000

struct asked {
    const char *action, *kind, *subject, *value, *from, *reason, *db, *amount, *who;
    struct cli_target target;
    int64_t last;
};
/* Where it is done: the file alone (--db), a running scheduler, or the configuration's file, whose audit is told. */
struct place {
    const char *path;            /* NULL: nobody but a scheduler is asked */
    const struct config *config; /* NULL: there is no audit to be told */
    struct cli_client *daemon;   /* NULL: none runs */
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

/* ---- what is asked for ------------------------------------------------------------------------------------------------ */

struct wish {
    bool corrects;
    struct finance_change change;
    struct finance_correction correction;
};

static enum rc set(const struct asked *a, struct wish *x, struct error *e)
{
    x->change = (struct finance_change){.at = clock_wall(&clock_system),
                                        .who = me(a),
                                        .kind = a->kind,
                                        .subject = a->subject,
                                        .value = a->value,
                                        .reason = a->reason};
    if (!a->kind || !a->subject)
        return error_set(e, RC_INVALID, "set wants KIND and SUBJECT, and --value");
    if (a->from && text_parse_utc(a->from, &x->change.from_s) != RC_OK)
        return error_set(e, RC_INVALID, "--from: \"%.40s\" is no time like 2026-11-01", a->from);
    cJSON *value = NULL;
    enum rc rc = a->value ? json_parse(a->value, strlen(a->value), 8, &value, e) : RC_OK;
    cJSON_Delete(value);
    return rc == RC_OK ? RC_OK : error_prefix(e, "--value");
}

static enum rc lock(const struct asked *a, struct wish *x, struct error *e)
{
    struct asked b = *a;
    b.subject = a->kind;
    b.kind = a->action;
    b.value = NULL;
    if (!b.subject)
        return error_set(e, RC_INVALID, "%s wants a month like 2026-10", a->action);
    return set(&b, x, e);
}

static enum rc correct(const struct asked *a, struct wish *x, struct error *e)
{
    x->corrects = true;
    x->change.at = clock_wall(&clock_system);
    x->change.who = me(a);
    x->correction = (struct finance_correction){.request_id = a->kind, .reason = a->reason};
    if (!a->kind || !a->amount)
        return error_set(e, RC_INVALID, "correct wants a REQUEST_ID, --amount and --reason");
    return finance_amount(a->amount, &x->correction.charge, e);
}

static enum rc read_wish(const struct asked *a, struct wish *x, struct error *e)
{
    *x = (struct wish){.corrects = false};
    if (strcmp(a->action, "set") == 0)
        return set(a, x, e);
    if (strcmp(a->action, "lock") == 0 || strcmp(a->action, "unlock") == 0)
        return lock(a, x, e);
    if (strcmp(a->action, "correct") == 0)
        return correct(a, x, e);
    return error_set(e, RC_INVALID, "\"%.40s\" is none of list, show, set, lock, unlock, correct", a->action);
}

static void put_wish(const struct asked *a, const struct wish *x, struct json_writer *w, bool with_who)
{
    json_open(w, NULL, '{');
    if (x->corrects) {
        json_string(w, "request_id", x->correction.request_id);
        json_string(w, "amount_usd", a->amount);
    } else {
        json_string(w, "kind", x->change.kind);
        json_string(w, "subject", x->change.subject);
        if (x->change.value)
            json_raw(w, "value", x->change.value);
        if (a->from)
            json_string(w, "from", a->from);
    }
    if (a->reason)
        json_string(w, "reason", a->reason);
    if (with_who)
        json_string(w, "who", x->change.who);
    json_close(w, '}');
}

/* ---- done by the scheduler that runs ---------------------------------------------------------------------------------- */

static enum rc by_daemon(const struct asked *a, const struct wish *x, struct cli_client *daemon, int64_t *version,
                         struct error *e)
{
    struct strbuf body;
    cJSON *root = NULL;
    strbuf_init(&body, BODY_MAX);
    struct json_writer w = json_write_begin(&body);
    put_wish(a, x, &w, !a->target.url);
    enum rc rc = json_write_end(&w) == RC_OK && strbuf_append(&body, "", 1) == RC_OK
                     ? RC_OK
                     : error_set(e, RC_INVALID, "the change is longer than %zu bytes", BODY_MAX);
    if (rc == RC_OK)
        rc = cli_client_post(daemon, x->corrects ? "/admin/v1/finance/correct" : "/admin/v1/finance", body.data, &root,
                             e);
    if (rc == RC_OK)
        rc = json_get_int(root, "version", 1, INT64_MAX, version, NULL, e);
    strbuf_fini(&body);
    cJSON_Delete(root);
    return rc;
}

/* ---- done on the file ------------------------------------------------------------------------------------------------- */

struct telling {
    const struct asked *a;
    const struct wish *x;
    const struct config *config;
};

static enum rc wait_until_durable(struct audit *audit, struct error *e)
{
    const struct timespec pause = {0, 2000000};
    char why[256];
    for (int i = 0; i < AUDIT_WAIT_MS / 2; i++) {
        const struct audit_stats s = audit_stats(audit);
        if (s.records)
            return RC_OK;
        if (s.failures)
            break;
        nanosleep(&pause, NULL);
    }
    return error_set(e, RC_IO, "the audit cannot be written, so nothing is changed: %s",
                     audit_last_error(audit, why, sizeof why));
}

/* The change is in the audit before it is committed, or it is not made. */
static enum rc tell_audit(const struct finance_change *c, void *arg, struct error *e)
{
    const struct telling *t = arg;
    const struct audit_options o = {.dir = t->config->audit.dir, .key_file = t->config->audit.key};
    struct strbuf record, body;
    struct audit *audit = NULL;
    strbuf_init(&record, AUDIT_JSON_BYTES_MAX);
    strbuf_init(&body, BODY_MAX);
    struct json_writer w = json_write_begin(&body);
    put_wish(t->a, t->x, &w, true);
    enum rc rc = json_write_end(&w);
    const struct record_admin r = {.at = c->at,
                                   .method = "CLI",
                                   .path = "spillway finance",
                                   .name = t->a->action,
                                   .by = c->who,
                                   .peer = "local",
                                   .body = body.data,
                                   .n = body.len};
    if (rc == RC_OK)
        rc = record_admin(&record, &r);
    if (rc != RC_OK)
        error_set(e, rc, "the change does not fit into a record of the audit");
    if (rc == RC_OK)
        rc = audit_open(&audit, &o, e);
    if (rc == RC_OK && audit_note(audit, record.data, record.len) != RC_OK)
        rc = error_set(e, RC_FULL, "the audit takes no record");
    if (rc == RC_OK)
        rc = wait_until_durable(audit, e);
    audit_close(audit);
    strbuf_fini(&record);
    strbuf_fini(&body);
    return rc;
}

static enum rc on_file(const struct asked *a, const struct wish *x, const struct place *p, int64_t *version,
                       struct error *e)
{
    struct telling t = {a, x, p->config};
    finance_hook *hook = p->config && !p->config->audit.off ? tell_audit : NULL;
    int lock = -1;
    /* A scheduler that runs and cannot be reached writes to the same audit. */
    enum rc rc = p->config ? state_lock(p->config->state_dir, 0, &lock, e) : RC_OK;
    if (rc == RC_CONFLICT)
        error_set(e, rc, "a scheduler runs with state_dir %s, but cannot be reached at %s", p->config->state_dir,
                  p->config->admin_socket);
    if (rc == RC_OK && x->corrects)
        rc = finance_correct(p->path, &x->correction, x->change.who, x->change.at, hook, &t, version, e);
    else if (rc == RC_OK)
        rc = finance_change(p->path, &x->change, hook, &t, version, e);
    if (lock >= 0)
        close(lock);
    return rc;
}

static enum rc change(const struct asked *a, const struct place *p, struct error *e)
{
    struct wish x;
    int64_t version = 0;
    enum rc rc = read_wish(a, &x, e);
    if (rc != RC_OK)
        return rc;
    rc = p->daemon ? by_daemon(a, &x, p->daemon, &version, e) : RC_IO;
    if (rc == RC_IO && p->path)
        rc = on_file(a, &x, p, &version, e);
    if (rc == RC_OK)
        printf("version %lld\n", (long long)version);
    return rc;
}

static enum rc act(const struct asked *a, const struct place *p, struct error *e)
{
    const bool list = strcmp(a->action, "list") == 0, show = strcmp(a->action, "show") == 0;
    if (!list && !show)
        return change(a, p, e);
    if (!p->path)
        return error_set(e, RC_INVALID, "list and show read the file: give --db FILE or a configuration");
    if (list)
        return finance_read(p->path, a->kind, a->subject, (int)a->last, print_change, NULL, e);
    return finance_read_at(p->path, a->kind, clock_wall(&clock_system).ns / NS_PER_S, print_change, NULL, e);
}

/* By --db, a target, or the configuration and whoever answers at its socket. */
static enum rc find_and_act(const struct asked *a, struct error *e)
{
    struct config *config = NULL;
    struct place p = {.path = a->db};
    enum rc rc = RC_OK;
    if (a->target.url || a->target.socket) {
        rc = cli_client_open(&p.daemon, "finance", &a->target, e);
    } else if (!a->db) {
        config = cli_load_config("finance", a->target.config);
        if (!config)
            return error_set(e, RC_INVALID, "give --db FILE or a configuration");
        const struct cli_target socket = {.socket = config->admin_socket};
        p.path = config->ledger_path;
        p.config = config;
        rc = cli_client_open(&p.daemon, "finance", &socket, e);
    }
    if (rc == RC_OK)
        rc = act(a, &p, e);
    cli_client_close(p.daemon);
    config_free(config);
    return rc;
}

enum rc cli_finance_set(const struct cli_target *t, const char *db, const char *kind, const char *subject,
                        const char *value, const char *from, const char *reason, struct error *e)
{
    const struct asked a = {.action = "set",
                            .kind = kind,
                            .subject = subject,
                            .value = value,
                            .from = from,
                            .reason = reason,
                            .db = db,
                            .target = *t};
    return find_and_act(&a, e);
}

int cli_finance(int argc, char **argv)
{
    struct asked a = {.target = {.config = CLI_CONFIG_DEFAULT}, .last = 50};
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
        {"db", 0, ARG_STRING, &a.db, .meta = "FILE", .help = "this ledger file alone: no audit is told"},
        CLI_OPTIONS_TARGET(a.target),
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
        .n_options = 7 + CLI_N_OPTIONS_TARGET,
        .operands = operands,
        .n_operands = 3};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    enum rc rc = find_and_act(&a, &e);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("finance", &e);
}
