/* `spillway report`: a period's cost; with --reconcile, and `spillway ledger verify`: do the books close? From the
 * ledger's file alone: no scheduler needs to run, and one that does is not asked; but with --send and --sent. */
#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "scheduler/books/reconcile.h"
#include "scheduler/cli/report_make.h"
#include "scheduler/cli/report_send.h"

#define TEXT_MAX ((size_t)1 << 22)

struct span_asked {
    const char *from, *to, *db;
    int64_t from_s, until_s;
};

static enum rc read_range(struct span_asked *r, struct error *e)
{
    r->until_s = clock_wall(&clock_system).ns / NS_PER_S / 3600 * 3600;
    if (r->to && text_parse_utc(r->to, &r->until_s) != RC_OK)
        return error_set(e, RC_INVALID, "--to: \"%.40s\" is no time like 2026-11-30 or 2026-11-30T12:00:00Z", r->to);
    r->from_s = 0;
    if (r->from && text_parse_utc(r->from, &r->from_s) != RC_OK)
        return error_set(e, RC_INVALID, "--from: \"%.40s\" is no time like 2026-11-01 or 2026-11-01T12:00:00Z",
                         r->from);
    if (r->from_s >= r->until_s)
        return error_set(e, RC_INVALID, "--from is not before --to");
    return RC_OK;
}

static void print_sum(const char *what, struct pusd_sum v)
{
    char text[64];
    printf("  %-10s $ %s\n", what, pusd_sum_format(v, text, sizeof text));
}

static void print_line(const struct reconcile_line *l, void *arg)
{
    char bill[64], invoice[64];
    (void)arg;
    if (l->resource && l->agrees)
        return; /* sums say it */
    printf("  %s%s%s: $ %s", l->provider, l->resource ? " " : "", l->resource ? l->resource : "",
           pusd_sum_format(l->bill, bill, sizeof bill));
    if (l->on_invoice)
        printf(", invoiced $ %s%s", pusd_sum_format(l->invoice, invoice, sizeof invoice),
               l->agrees ? "" : "  <-- differs");
    printf("\n");
}

static int run(const char *verb, const struct span_asked *r, const char *path, const char *invoice, bool sums)
{
    struct reconciled x;
    struct strbuf text;
    struct error e;
    int64_t from_s = r->from_s;
    strbuf_init(&text, TEXT_MAX);
    enum rc rc = reconcile(path, invoice, from_s, r->until_s, &x, NULL, NULL, &text, &e);
    if (rc == RC_OK) {
        printf("%lld hours closed, %lld nodes' hours, %lld requests\n", (long long)x.hours, (long long)x.node_hours,
               (long long)x.rows);
        if (sums) {
            print_sum("bill", x.bill);
            print_sum("allocated", x.allocated);
            print_sum("idle", x.idle);
            print_sum("boot", x.boot);
            print_sum("waste", x.waste);
            print_sum("variance", x.variance);
            print_sum("charged", x.charge);
            struct strbuf again;
            strbuf_init(&again, TEXT_MAX);
            rc = reconcile(path, invoice, from_s, r->until_s, &x, print_line, NULL, &again, &e);
            strbuf_fini(&again);
        }
        if (x.problems)
            printf("%s", text.data ? text.data : "");
        printf(x.problems ? "the books do NOT close\n" : "the books close\n");
    }
    strbuf_fini(&text);
    if (rc != RC_OK)
        return cli_fail(verb, &e);
    return x.problems ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
}

static int reconcile_books(const struct span_asked *given, const char *config, const char *invoice)
{
    struct span_asked r = *given;
    struct error e;
    enum rc rc = read_range(&r, &e);
    char *path = rc == RC_OK ? cli_ledger_path("report", r.db, config, &e) : NULL;
    const int exit_code = path ? run("report", &r, path, invoice, true) : cli_fail("report", &e);
    free(path);
    return exit_code;
}

int cli_report(int argc, char **argv)
{
    struct span_asked r = {0};
    struct report_make m = {.format = "md", .focus = "1.4"};
    struct cli_target target = {.config = CLI_CONFIG_DEFAULT};
    const char *invoice = NULL;
    bool close = false, send = false, sent = false;
    int exit_code;
    struct error e;
    const struct arg_option options[] = {
        {"period", 0, ARG_STRING, &m.period, .meta = "WHEN",
         .help =
             "yesterday, today, month (so far), 2026-11, 2026-11-28, or A..B: from the beginning of A to that of B"},
        {"team", 0, ARG_STRING, &m.team, .meta = "NAME", .help = "that team's share alone"},
        {"format", 0, ARG_STRING, &m.format, .meta = "WORDS",
         .help = "html, csv, json, md, several with commas, or all"},
        {"out", 0, ARG_STRING, &m.out, .meta = "DIR", .help = "folder to put files into; else one goes to stdout"},
        {"focus", 0, ARG_STRING, &m.focus, .meta = "VERSION", .choices = report_focus_words,
         .help = "version of FinOps FOCUS that the CSV follows"},
        {"send", 0, ARG_FLAG, &send,
         .help = "the running scheduler makes it now and sends it to whom the nightly ones go (reports.mail, webhook)"},
        {"sent", 0, ARG_FLAG, &sent, .help = "what the running scheduler has reported, and how its delivery fares"},
        {"reconcile", 0, ARG_FLAG, &close, .help = "prove that the books close, and compare with an invoice"},
        {"invoice", 0, ARG_STRING, &invoice, .meta = "FILE",
         .help = "with --reconcile: a provider's, a CSV in FOCUS columns"},
        {"from", 0, ARG_STRING, &r.from, .meta = "TIME",
         .help = "with --reconcile: UTC; the beginning where it is left out"},
        {"to", 0, ARG_STRING, &r.to, .meta = "TIME",
         .help = "with --reconcile: UTC, exclusive; the last full hour where it is left out"},
        {"db", 0, ARG_STRING, &r.db, .meta = "FILE",
         .help = "read this ledger file, without a configuration: no budgets, prices elsewhere or audit"},
        {"time-zone", 0, ARG_STRING, &m.zone, .meta = "NAME", .help = "with --db: of days and months; UTC"},
        CLI_OPTIONS_TARGET(target),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "report",
                                  .summary = "what it cost, and why; do the books close, to the last pico-dollar?",
                                  .example =
                                      "spillway report --period yesterday\n"
                                      "spillway report --period 2026-11 --format html,csv --out reports\n"
                                      "spillway report --period 2026-11-01..2026-11-08 --team search --format csv\n"
                                      "spillway report --period yesterday --send\n"
                                      "spillway report --reconcile --invoice ec2-2026-11.csv",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    m.db = r.db;
    m.config = target.config;
    if (sent && !m.period && !close && !send)
        return report_sent(&target);
    if (send && m.period && !close && !sent && !m.out && !r.db)
        return report_send(&target, m.period, m.team);
    if (send || sent)
        return cli_fail(
            "report",
            (error_set(&e, RC_INVALID, "--send goes with --period and --team alone, --sent with neither"), &e));
    if (close && !m.period)
        return reconcile_books(&r, target.config, invoice);
    if (m.period && !close && !invoice && !r.from && !r.to)
        return report_make(&m);
    return cli_fail("report",
                    (error_set(&e, RC_INVALID, "say --period WHEN, or --reconcile with --from and --to"), &e));
}

int cli_ledger_verify(int argc, char **argv)
{
    struct span_asked r = {0};
    const char *config = CLI_CONFIG_DEFAULT;
    int exit_code;
    struct error e;
    const struct arg_option options[] = {
        {"from", 0, ARG_STRING, &r.from, .meta = "TIME", .help = "UTC; the beginning where it is left out"},
        {"to", 0, ARG_STRING, &r.to, .meta = "TIME", .help = "UTC, exclusive; the last full hour where it is left out"},
        {"db", 0, ARG_STRING, &r.db, .meta = "FILE", .help = "read this ledger file; no scheduler needs to run"},
        CLI_OPTION_CONFIG(config),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "ledger verify",
                                  .summary = "are rows right in themselves, and closed hours still the sums of them?",
                                  .example = "spillway ledger verify --from 2026-11-01",
                                  .options = options,
                                  .n_options = 4};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    enum rc rc = read_range(&r, &e);
    char *path = rc == RC_OK ? cli_ledger_path("ledger verify", r.db, config, &e) : NULL;
    exit_code = path ? run("ledger verify", &r, path, NULL, false) : cli_fail("ledger verify", &e);
    free(path);
    return exit_code;
}
