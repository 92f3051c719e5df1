#include "scheduler/cli/report_make.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scheduler/cli/cli_internal.h"

const char *const report_focus_words[] = {"1.4", "1.2", NULL}; /* enum report_focus */

typedef enum rc write_fn(const struct report *r, const struct report_make *m, FILE *out, struct error *e);

static enum rc write_csv(const struct report *r, const struct report_make *m, FILE *out, struct error *e)
{
    const bool older = m->focus && strcmp(m->focus, report_focus_words[REPORT_FOCUS_1_2]) == 0;
    return report_write_csv(r, older ? REPORT_FOCUS_1_2 : REPORT_FOCUS_1_4, out, e);
}
static enum rc write_json(const struct report *r, const struct report_make *m, FILE *out, struct error *e)
{
    (void)m;
    return report_write_json(r, out, e);
}
static enum rc write_md(const struct report *r, const struct report_make *m, FILE *out, struct error *e)
{
    (void)m;
    return report_write_md(r, out, e);
}
static enum rc write_html(const struct report *r, const struct report_make *m, FILE *out, struct error *e)
{
    (void)m;
    return report_write_html(r, out, e);
}

static const struct format {
    const char *name;
    write_fn *write;
} formats[] = {{"html", write_html}, {"csv", write_csv}, {"json", write_json}, {"md", write_md}};
#define N_FORMATS ((int)(sizeof formats / sizeof formats[0]))

/* Those of "csv,json" or "all". */
static enum rc read_formats(const char *text, bool wanted[N_FORMATS], int *n, struct error *e)
{
    *n = 0;
    for (const char *at = text; *at; at += strcspn(at, ","), at += *at == ',') {
        const size_t bytes = strcspn(at, ",");
        bool found = false;
        for (int i = 0; i < N_FORMATS; i++) {
            const bool all = bytes == 3 && strncmp(at, "all", 3) == 0;
            if (!all && (strlen(formats[i].name) != bytes || strncmp(formats[i].name, at, bytes) != 0))
                continue;
            *n += !wanted[i];
            wanted[i] = found = true;
        }
        if (!found)
            return error_set(e, RC_INVALID,
                             "--format: \"%.*s\" is none of html, csv, json, md and all; several with commas",
                             bytes > 40 ? 40 : (int)bytes, at);
    }
    return *n ? RC_OK : error_set(e, RC_INVALID, "--format: is empty");
}

/* Whole or not at all: under another name first. */
static enum rc put_file(const struct report *r, const struct report_make *m, const struct format *f, const char *path,
                        struct error *e)
{
    char *part = spw_asprintf("%s.part", path);
    const int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    enum rc rc = out ? f->write(r, m, out, e) : error_set(e, RC_IO, "%s: %s", part, strerror(errno));
    if (rc == RC_OK && (fflush(out) != 0 || fsync(fd) != 0))
        rc = error_set(e, RC_IO, "%s: %s", part, strerror(errno));
    if (out)
        fclose(out);
    if (rc == RC_OK && rename(part, path) != 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    if (rc != RC_OK && fd >= 0)
        unlink(part);
    free(part);
    return rc;
}

/* "spillway-2026-11-28-search.csv"; what a file's name should not hold becomes "_". */
static char *file_name(const struct report *r, const struct report_make *m, const struct format *f)
{
    char *name =
        spw_asprintf("spillway-%s%s%s.%s", r->period.name, r->team ? "-" : "", r->team ? r->team : "", f->name);
    for (char *p = name; *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", *p))
            *p = '_';
    char *path = spw_asprintf("%s/%s", m->out, name);
    free(name);
    return path;
}

static enum rc put_files(const struct report *r, const struct report_make *m, const bool *wanted, struct error *e)
{
    enum rc rc = RC_OK;
    if (m->out && mkdir(m->out, 0750) != 0 && errno != EEXIST)
        return error_set(e, RC_IO, "--out %s: %s", m->out, strerror(errno));
    for (int i = 0; i < N_FORMATS && rc == RC_OK; i++) {
        if (!wanted[i])
            continue;
        if (!m->out) {
            rc = formats[i].write(r, m, stdout, e);
            continue;
        }
        char *path = file_name(r, m, &formats[i]);
        rc = put_file(r, m, &formats[i], path, e);
        if (rc == RC_OK)
            printf("%s\n", path);
        free(path);
    }
    return rc;
}

/* What a reader should know who sees only the files' names. */
static void warn(const struct report *r)
{
    char at[40];
    if (r->hours.open)
        fprintf(stderr, "spillway report: %" PRId64 " hours are not closed yet and not in it, from %.16sZ on\n",
                r->hours.open, wall_format((struct wall){r->hours.first_open_s * NS_PER_S}, at, sizeof at));
    if (r->hours.wrong)
        fprintf(stderr, "spillway report: %" PRId64 " hours do not close: see spillway report --reconcile\n",
                r->hours.wrong);
    if (!r->hours.closed && !r->hours.open)
        fprintf(stderr, "spillway report: nothing is in the books of this period\n");
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
    bool wanted[N_FORMATS] = {false};
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
