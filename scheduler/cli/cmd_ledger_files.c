/* `spillway ledger export|backup|archive`: the ledger's rows of a period, a copy of the file, old months in files of
 * their own. On the files alone; a scheduler may run on them. */
#include "scheduler/cli/cli_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "scheduler/books/archive.h"
#include "scheduler/books/ledger_text.h"

#define ROW_MAX ((size_t)1 << 20)

/* Of --db or the configuration; the caller's. NULL: *e says why. */
char *cli_ledger_path(const char *verb, const char *db, const char *config, struct error *e)
{
    if (db)
        return spw_strdup(db);
    struct config *c = cli_load_config(verb, config);
    if (!c) {
        error_set(e, RC_INVALID, "without it the ledger is not known; give --db FILE");
        return NULL;
    }
    char *path = spw_strdup(c->ledger_path);
    config_free(c);
    return path;
}

/* ---- export ------------------------------------------------------------------------------------------------------ */

struct export
{
    FILE *out;
    const char *tenant;
    bool csv;
    int64_t rows;
    struct strbuf row;
};

static bool write_row(const struct ledger_row *r, void *arg)
{
    struct export *x = arg;
    if (x->tenant && (!r->tenant || strcmp(r->tenant, x->tenant) != 0))
        return true;
    strbuf_clear(&x->row);
    enum rc rc;
    if (x->csv) {
        rc = ledger_row_csv(&x->row, r);
    } else {
        struct json_writer w = json_write_begin(&x->row);
        ledger_row_json(&w, r);
        rc = json_write_end(&w);
    }
    if (rc == RC_OK && strbuf_puts(&x->row, x->csv ? "\r\n" : "\n") == RC_OK &&
        fwrite(x->row.data, 1, x->row.len, x->out) == x->row.len) {
        x->rows++;
        return true;
    }
    return false;
}

struct export_asked {
    const char *from, *to;
    struct wall begin, end;
};

static enum rc one_end(const char *option, const char *text, struct wall *t, struct error *e)
{
    int64_t at_s;
    if (!text)
        return RC_OK;
    if (text_parse_utc(text, &at_s) != RC_OK)
        return error_set(e, RC_INVALID, "%s: \"%.40s\" is no time like 2026-11-01 or 2026-11-01T12:00:00Z", option,
                         text);
    t->ns = at_s * NS_PER_S;
    return RC_OK;
}

static enum rc read_period(struct export_asked *p, struct error *e)
{
    p->end = clock_wall(&clock_system);
    enum rc rc = one_end("--from", p->from, &p->begin, e);
    if (rc == RC_OK)
        rc = one_end("--to", p->to, &p->end, e);
    if (rc == RC_OK && p->begin.ns >= p->end.ns)
        rc = error_set(e, RC_INVALID, "--from is not before --to");
    return rc;
}

static enum rc export_rows(const char *path, const struct export_asked *p, struct export *x, const char *out,
                           struct error *e)
{
    x->out = out ? fopen(out, "wx") : stdout;
    if (!x->out)
        return error_set(e, errno == EEXIST ? RC_CONFLICT : RC_IO, "%s: %s", out, strerror(errno));
    strbuf_init(&x->row, ROW_MAX);
    enum rc rc = RC_OK;
    if (x->csv && fputs(ledger_csv_head(), x->out) == EOF)
        rc = RC_CANCELLED;
    if (rc == RC_OK)
        rc = archive_read_period(path, p->begin, p->end, write_row, x, e);
    bool written = fflush(x->out) == 0 && !ferror(x->out);
    written = (!out || fclose(x->out) == 0) && written;
    if (rc == RC_CANCELLED || (rc == RC_OK && !written))
        rc = error_set(e, RC_IO, "%s: %s", out ? out : "standard output", strerror(errno ? errno : EIO));
    strbuf_fini(&x->row);
    return rc;
}

int cli_ledger_export(int argc, char **argv)
{
    const char *config = CLI_CONFIG_DEFAULT, *db = NULL, *out = NULL, *format = "csv";
    struct export x = {.rows = 0};
    struct export_asked p = {0};
    int exit_code;
    struct error e = {.code = RC_OK};
    const struct arg_option options[] = {
        {"from", 0, ARG_STRING, &p.from, .meta = "TIME", .help = "UTC; the beginning where it is left out"},
        {"to", 0, ARG_STRING, &p.to, .meta = "TIME", .help = "UTC, exclusive; now where it is left out"},
        {"tenant", 0, ARG_STRING, &x.tenant, .meta = "NAME", .help = "only this one's"},
        {"format", 0, ARG_STRING, &format, .meta = "FORMAT", .help = "csv or json (one object a line)"},
        {"out", 'o', ARG_STRING, &out, .meta = "FILE", .help = "a new file; standard output where it is left out"},
        {"db", 0, ARG_STRING, &db, .meta = "FILE", .help = "this ledger file; no scheduler needs to run"},
        CLI_OPTION_CONFIG(config),
    };
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "ledger export",
        .summary = "all requests that were finished in a period, oldest first, archives included",
        .example = "spillway ledger export --from 2026-11-01 --to 2026-12-01 --out november.csv",
        .options = options,
        .n_options = 7};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    x.csv = strcmp(format, "csv") == 0;
    enum rc rc = x.csv || strcmp(format, "json") == 0
                     ? read_period(&p, &e)
                     : error_set(&e, RC_INVALID, "--format: \"%.20s\" is neither csv nor json", format);
    char *path = rc == RC_OK ? cli_ledger_path("ledger", db, config, &e) : NULL;
    rc = path ? export_rows(path, &p, &x, out, &e) : e.code;
    free(path);
    if (rc == RC_OK && out)
        printf("%s: %lld requests\n", out, (long long)x.rows);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("ledger", &e);
}

/* ---- backup ------------------------------------------------------------------------------------------------------ */

int cli_ledger_backup(int argc, char **argv)
{
    const char *config = CLI_CONFIG_DEFAULT, *db = NULL, *to = NULL;
    int exit_code;
    struct error e = {.code = RC_OK};
    const struct arg_option options[] = {
        {"db", 0, ARG_STRING, &db, .meta = "FILE", .help = "this ledger file"},
        CLI_OPTION_CONFIG(config),
    };
    const struct arg_operand operands[] = {{"FILE", &to, "the copy; must not be there yet", true}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "ledger backup",
                                  .summary =
                                      "a copy of the ledger as it is at one moment, while a scheduler writes to it",
                                  .example = "spillway ledger backup /backup/ledger-2026-11-30.db",
                                  .options = options,
                                  .n_options = 2,
                                  .operands = operands,
                                  .n_operands = 1};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    char *path = cli_ledger_path("ledger", db, config, &e);
    enum rc rc = path ? archive_backup(path, to, &e) : e.code;
    free(path);
    if (rc == RC_OK)
        printf("%s: whole and checked\n", to);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("ledger", &e);
}

/* ---- archive ----------------------------------------------------------------------------------------------------- */

static enum rc archive_all(const char *ledger, int keep, struct error *e)
{
    const int64_t now_s = clock_wall(&clock_system).ns / NS_PER_S;
    enum rc rc = RC_OK;
    while (rc == RC_OK) {
        int64_t month_s, rows;
        rc = archive_due(ledger, keep, now_s, &month_s, e);
        if (rc != RC_OK || month_s < 0)
            return rc;
        rc = archive_month(ledger, month_s, now_s, &rows, e);
        char *path = archive_path(ledger, month_s);
        if (rc == RC_OK)
            printf("%s: %lld requests\n", path, (long long)rows);
        free(path);
    }
    return rc;
}

int cli_ledger_archive(int argc, char **argv)
{
    const char *config = CLI_CONFIG_DEFAULT, *db = NULL;
    int64_t keep = 3;
    int exit_code;
    struct error e = {.code = RC_OK};
    const struct arg_option options[] = {
        {"keep", 0, ARG_INT, &keep, .meta = "MONTHS", .help = "full months that stay", .lo = 1, .hi = 1200},
        {"db", 0, ARG_STRING, &db, .meta = "FILE", .help = "this ledger file"},
        CLI_OPTION_CONFIG(config),
    };
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "ledger archive",
                                  .summary = "moves older months to files of their own (as ledger.keep_months does)",
                                  .example = "spillway ledger archive --keep 3",
                                  .options = options,
                                  .n_options = 3};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    char *path = cli_ledger_path("ledger", db, config, &e);
    enum rc rc = path ? archive_all(path, (int)keep, &e) : e.code;
    free(path);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("ledger", &e);
}
