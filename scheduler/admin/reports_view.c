/* GET and POST /admin/v1/reports, GET /admin/v1/reports/{file}: what was reported, how its delivery fares, the files
 * themselves, and one more at once. Files are read on the reader's thread; a report is made by scheduler/nightly. */
#include "scheduler/admin/admin_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "scheduler/nightly/nightly.h"
#include "scheduler/nightly/outbox.h"
#include "scheduler/report/files.h"

#define REPORTS_DEFAULT 40
#define REPORTS_MAX     1000

struct reports_job {
    struct http_exchange *x; /* NULL: the client has left */
    struct config *config;   /* a reference */
    struct nightly *nightly;
    int last;
    char file[ADMIN_NAME_MAX + 1];
    struct strbuf out; /* the thread's until completion */
    struct json_writer w;
    int64_t run; /* the one whose line was last; 0: none */
    enum rc rc;
    struct error e;
};

static bool reports_off(const struct admin_call *c)
{
    if (!c->admin->o.nightly)
        admin_reply_error(c->x, 404, "ledger_off", "the configuration says ledger: off");
    return !c->admin->o.nightly;
}

static struct reports_job *new_job(const struct admin_call *c)
{
    struct reports_job *job = spw_calloc(1, sizeof *job);
    job->x = c->x;
    job->config = config_ref(c->admin->config);
    job->nightly = c->admin->o.nightly;
    strbuf_init(&job->out, ADMIN_ANSWER_MAX);
    job->w = json_write_begin(&job->out);
    return job;
}

static void free_job(struct reports_job *job)
{
    strbuf_fini(&job->out);
    config_free(job->config);
    free(job);
}

static void abort_cb(struct http_exchange *x, void *state)
{
    struct reports_job *job = state;
    (void)x;
    job->x = NULL;
}

/* True: somebody waits for the answer, and there is one. */
static bool waits(struct reports_job *job, enum rc rc)
{
    if (!job->x || rc != RC_OK)
        return false;
    http_exchange_set(job->x, NULL, NULL);
    return true;
}

static void start(const struct admin_call *c, struct reports_job *job, void (*run)(void *),
                  void (*done)(enum rc, void *))
{
    if (!admin_start(c, run, done, abort_cb, job))
        free_job(job);
}

/* ---- the list ----------------------------------------------------------------------------------------------------- */

static void close_run(struct reports_job *job)
{
    if (!job->run)
        return;
    json_close(&job->w, ']');
    json_close(&job->w, '}');
}

static void open_run(struct reports_job *job, const struct outbox_line *l)
{
    close_run(job);
    job->run = l->run;
    json_open(&job->w, NULL, '{');
    json_string(&job->w, "period", l->period);
    json_string(&job->w, "team", l->team);
    json_bool(&job->w, "nightly", !l->again);
    admin_put_time(&job->w, "made", l->made_s);
    json_int(&job->w, "open_hours", l->open_hours);
    json_open(&job->w, "files", '[');
    for (const char *at = l->files; *at; at += strcspn(at, "\n"), at += *at == '\n') {
        char *name = spw_strndup(at, strcspn(at, "\n"));
        json_string(&job->w, NULL, name);
        free(name);
    }
    json_close(&job->w, ']');
    json_open(&job->w, "deliveries", '[');
}

static void each_line(const struct outbox_line *l, void *arg)
{
    struct reports_job *job = arg;
    if (l->run != job->run)
        open_run(job, l);
    if (!l->to)
        return;
    json_open(&job->w, NULL, '{');
    json_string(&job->w, "by", outbox_kind_name(l->kind));
    json_string(&job->w, "to", l->kind == OUTBOX_MAIL ? l->to : NULL);
    json_string(&job->w, "state", outbox_state_name(l->state));
    json_int(&job->w, "tries", l->tries);
    admin_put_time(&job->w, "next", l->state == OUTBOX_WAITING ? l->next_s : 0);
    admin_put_time(&job->w, "sent", l->sent_s);
    json_string(&job->w, "error", l->error);
    json_close(&job->w, '}');
}

static void run_list(void *arg)
{
    struct reports_job *job = arg;
    struct outbox *box = NULL;
    char *path = nightly_outbox(job->config);
    json_open(&job->w, NULL, '{');
    json_open(&job->w, "reports", '[');
    job->rc = outbox_open(&box, path, &job->e);
    if (job->rc == RC_OK)
        job->rc = outbox_list(box, job->last, each_line, job, &job->e);
    close_run(job);
    outbox_close(box);
    free(path);
    json_close(&job->w, ']');
    json_close(&job->w, '}');
}

static void list_done(enum rc rc, void *arg)
{
    struct reports_job *job = arg;
    if (waits(job, rc) && job->rc == RC_OK)
        admin_reply_json(job->x, 200, &job->w);
    else if (job->x && rc == RC_OK)
        admin_reply_error(job->x, 500, "outbox_unreadable", "%s", job->e.message);
    free_job(job);
}

void admin_get_reports(const struct admin_call *c)
{
    const char *text = http_request_query(c->x, "last");
    int64_t last = REPORTS_DEFAULT;
    if (reports_off(c))
        return;
    if (text && text_parse_int(text, 1, REPORTS_MAX, &last) != RC_OK) {
        admin_reply_error(c->x, 400, "invalid_request", "last: \"%.40s\" is not a number from 1 to %d", text,
                          REPORTS_MAX);
        return;
    }
    struct reports_job *job = new_job(c);
    job->last = (int)last;
    start(c, job, run_list, list_done);
}

/* ---- a file ------------------------------------------------------------------------------------------------------- */

static void run_file(void *arg)
{
    struct reports_job *job = arg;
    char *path = spw_asprintf("%s/%s", job->config->reports.folder, job->file);
    job->rc = file_read(&job->out, path, ADMIN_ANSWER_MAX, &job->e);
    free(path);
}

static void file_done(enum rc rc, void *arg)
{
    struct reports_job *job = arg;
    const char *dot = strrchr(job->file, '.');
    enum report_format f = REPORT_FORMATS;
    if (waits(job, rc) && job->rc == RC_OK) {
        char type[64] = "text/plain; charset=utf-8";
        if (dot && report_format_parse(dot + 1, strlen(dot + 1), &f))
            snprintf(type, sizeof type, "%s; charset=utf-8", report_format_type(f));
        admin_reply(job->x, 200, type, &job->out);
    } else if (job->x && rc == RC_OK && job->rc == RC_NOT_FOUND) {
        admin_reply_error(job->x, 404, "not_found", "there is no report \"%.80s\"", job->file);
    } else if (job->x && rc == RC_OK) {
        admin_reply_error(job->x, 500, "report_unreadable", "%s", job->e.message);
    }
    free_job(job);
}

void admin_get_report(const struct admin_call *c)
{
    if (reports_off(c))
        return;
    if (!report_file_name_ok(c->name)) {
        admin_reply_error(c->x, 404, "not_found", "there is no report \"%.80s\"", c->name);
        return;
    }
    struct reports_job *job = new_job(c);
    snprintf(job->file, sizeof job->file, "%s", c->name);
    start(c, job, run_file, file_done);
}

/* ---- one more ----------------------------------------------------------------------------------------------------- */

static void order_abort_cb(struct http_exchange *x, void *state)
{
    struct reports_job *job = state;
    (void)x;
    nightly_order_forget(job->nightly, job);
    free_job(job);
}

static void order_cb(const char *period, const struct error *e, void *arg)
{
    struct reports_job *job = arg;
    http_exchange_set(job->x, NULL, NULL);
    if (e) {
        const struct admin_call c = {.x = job->x};
        admin_refuse(&c, e);
    } else {
        json_open(&job->w, NULL, '{');
        json_string(&job->w, "period", period);
        json_close(&job->w, '}');
        admin_reply_json(job->x, 200, &job->w);
    }
    free_job(job);
}

void admin_post_report(const struct admin_call *c)
{
    static const char *const known[] = {"period", "team", NULL};
    const char *period = NULL, *team = NULL;
    cJSON *body = NULL;
    struct error e;
    size_t n;
    if (reports_off(c))
        return;
    const char *text = http_request_body(c->x, &n);
    enum rc rc = json_parse(text, n, 8, &body, &e);
    if (rc == RC_OK && !cJSON_IsObject(body))
        rc = error_set(&e, RC_INVALID, "the body must be a JSON object");
    if (rc == RC_OK)
        rc = admin_only_known(body, known, &e);
    if (rc == RC_OK)
        rc = json_get_string(body, "period", &period, NULL, &e);
    if (rc == RC_OK)
        rc = json_get_string(body, "team", &team, NULL, &e);
    if (rc == RC_OK && !period)
        rc = error_set(&e, RC_INVALID, "period: is missing; as in \"yesterday\" or \"2026-11\"");
    struct reports_job *job = rc == RC_OK ? new_job(c) : NULL;
    if (job)
        rc = nightly_order(c->admin->o.nightly, period, team, order_cb, job, &e);
    if (rc == RC_OK) {
        http_exchange_set(c->x, job, order_abort_cb);
    } else {
        if (job)
            free_job(job);
        admin_refuse(c, &e);
    }
    cJSON_Delete(body);
}
