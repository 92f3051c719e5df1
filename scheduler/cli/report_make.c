#include "scheduler/cli/report_make.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cli/cli_internal.h"
#include "scheduler/report/files.h"
#include "scheduler/report/write.h"

const char *const report_focus_words[] = {"1.4", "1.2", NULL}; /* enum report_focus */

/* Those of "csv,json" or "all". */
static enum rc read_formats(const char *text, bool wanted[REPORT_FORMATS], int *n, struct error *e)
{
    *n = 0;
    for (const char *at = text; *at; at += strcspn(at, ","), at += *at == ',') {
        const size_t bytes = strcspn(at, ",");
        const bool all = bytes == 3 && strncmp(at, "all", 3) == 0;
        enum report_format f = REPORT_FORMATS;
        if (!all && !report_format_parse(at, bytes, &f))
            return error_set(e, RC_INVALID,
                             "--format: \"%.*s\" is none of html, csv, json, md and all; several with commas",
                             bytes > 40 ? 40 : (int)bytes, at);
        for (int i = 0; i < REPORT_FORMATS; i++)
            wanted[i] = wanted[i] || all || i == (int)f;
    }
    for (int i = 0; i < REPORT_FORMATS; i++)
        *n += wanted[i];
    return *n ? RC_OK : error_set(e, RC_INVALID, "--format: is empty");
}

static enum report_focus focus_of(const struct report_make *m)
{
    return m->focus && strcmp(m->focus, report_focus_words[REPORT_FOCUS_1_2]) == 0 ? REPORT_FOCUS_1_2
                                                                                   : REPORT_FOCUS_1_4;
}

static enum rc put_files(const struct report *r, const struct report_make *m, const bool *wanted, struct error *e)
{
    enum rc rc = RC_OK;
    for (int i = 0; i < REPORT_FORMATS && rc == RC_OK; i++) {
        const enum report_format f = (enum report_format)i;
        if (!wanted[i])
            continue;
        if (!m->out) {
            rc = report_write(r, f, focus_of(m), stdout, e);
            continue;
        }
        char *name = report_file_name(r, f);
        rc = report_put_file(r, f, focus_of(m), m->out, name, e);
        if (rc == RC_OK)
            printf("%s/%s\n", m->out, name);
        free(name);
    }
    return rc;
}

/* What a reader should know who sees only the files' names. */
static void warn(const struct report *r)
{
    char at[40];
    if (r->hours.open)
        fprintf(stderr, "spillway report: %" PRId64 " %s not closed yet and not in it, from %.16sZ on\n", r->hours.open,
                write_hours_are(r->hours.open),
                wall_format((struct wall){r->hours.first_open_s * NS_PER_S}, at, sizeof at));
    if (r->hours.wrong)
        fprintf(stderr, "spillway report: %" PRId64 " hours do not close: see spillway report --reconcile\n",
                r->hours.wrong);
    if (!r->hours.closed && !r->hours.open)
        fprintf(stderr, "spillway report: nothing is in the books of this period\n");
    else if (r->team && !r->use.requests)
        fprintf(stderr, "spillway report: no request of a team %.80s is in the books of this period\n", r->team);
}

static enum rc make(const struct report_make *m, struct report_inputs *in, const bool *wanted, struct error *e)
{
    struct report *r = NULL;
    in->options.team = m->team;
    enum rc rc = report_gather(&r, &in->options, e);
    if (rc == RC_OK)
        rc = put_files(r, m, wanted, e);
    if (rc == RC_OK)
        warn(r);
    report_free(r);
    return rc;
}

int report_make(const struct report_make *m)
{
    struct report_inputs in = {.texts = NULL};
    struct config *c = NULL;
    struct error e;
    bool wanted[REPORT_FORMATS] = {false};
    int n;
    enum rc rc = read_formats(m->format, wanted, &n, &e);
    if (rc == RC_OK && n > 1 && !m->out)
        rc = error_set(&e, RC_INVALID, "several formats want --out DIR");
    if (rc == RC_OK && !m->db && !(c = cli_load_config("report", m->config)))
        rc = error_set(&e, RC_INVALID, "without it the ledger is not known; give --db FILE");
    const struct wall now = clock_wall(&clock_system);
    if (rc == RC_OK)
        rc = c ? report_inputs(&in, c, m->period, now, &e)
               : report_inputs_of_file(&in, m->db, m->zone, m->period, now, &e);
    if (rc == RC_OK)
        rc = make(m, &in, wanted, &e);
    report_inputs_fini(&in);
    config_free(c);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("report", &e);
}
