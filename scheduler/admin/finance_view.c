/* /admin/v1/finance: what finance edits (books/finance.h), and corrections. As with all actions here the audit has each
 * before it is carried out, with its body. Files may wait for a disk, so that each runs on the reader's thread:
 *
 *   loop: body read, job made -> thread: the file -> loop: answered, or dropped when the client has left
 *
 * The job belongs to the worker until its completion. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "scheduler/admin/admin_internal.h"
#include "scheduler/books/finance.h"

#define CHANGES_DEFAULT 50
#define WHO_MAX         160

struct finance_job {
    struct admin *admin;
    struct http_exchange *x; /* NULL: the client has left */
    struct config *config;   /* a reference */
    cJSON *body;             /* of a change; its texts are borrowed from there */
    char *kind, *subject, *value;
    char who[WHO_MAX];
    int64_t last, at_s; /* at_s >= 0: what holds then */
    struct finance_change change;
    struct finance_correction correction;
    int64_t version;
    struct strbuf out;
    struct json_writer w;
    enum rc rc;
    struct error e;
};

static void free_job(struct finance_job *job)
{
    strbuf_fini(&job->out);
    cJSON_Delete(job->body);
    cJSON_free(job->value);
    free(job->kind);
    free(job->subject);
    config_free(job->config);
    free(job);
}

static void abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct finance_job *)state)->x = NULL;
}

static void answer(struct finance_job *job)
{
    const struct admin_call call = {.admin = job->admin, .x = job->x};
    http_exchange_set(job->x, NULL, NULL);
    if (job->rc == RC_OK)
        admin_reply_json(job->x, job->version ? 201 : 200, &job->w);
    else
        admin_refuse(&call, &job->e);
}

static void done_cb(enum rc rc, void *arg)
{
    struct finance_job *job = arg;
    if (rc == RC_OK && job->version) {
        log_info(job->admin->o.log, "admin", "finance has changed something", LOG_I("finance_version", job->version),
                 LOG_S("key", job->who));
        if (job->admin->o.finance_changed)
            job->admin->o.finance_changed(job->admin->o.finance_arg);
    }
    if (job->x && rc == RC_OK)
        answer(job);
    free_job(job);
}

/* NULL: it has been answered. */
static struct finance_job *new_job(const struct admin_call *c)
{
    if (ledger_stats(c->admin->o.ledger).off) {
        admin_reply_error(c->x, 404, "ledger_off", "the configuration says ledger: off");
        return NULL;
    }
    struct finance_job *job = spw_calloc(1, sizeof *job);
    job->admin = c->admin;
    job->x = c->x;
    job->config = config_ref(c->admin->config);
    job->at_s = -1;
    snprintf(job->who, sizeof job->who, "%s", c->who);
    strbuf_init(&job->out, ADMIN_ANSWER_MAX);
    job->w = json_write_begin(&job->out);
    return job;
}

static void start(const struct admin_call *c, struct finance_job *job, void (*run)(void *))
{
    if (!admin_start(c, run, done_cb, abort_cb, job))
        free_job(job);
}

static void refuse(const struct admin_call *c, struct finance_job *job, const struct error *e)
{
    admin_refuse(c, e);
    free_job(job);
}

/* ---- looking ------------------------------------------------------------------------------------------------------- */

static void put_time(struct json_writer *w, const char *key, struct wall t)
{
    char buf[40];
    json_string(w, key, wall_format(t, buf, sizeof buf));
}

static void put_change(const struct finance_change *c, void *arg)
{
    struct json_writer *w = arg;
    json_open(w, NULL, '{');
    json_int(w, "version", c->version);
    put_time(w, "at", c->at);
    json_string(w, "who", c->who);
    json_string(w, "kind", c->kind);
    json_string(w, "subject", c->subject);
    json_raw(w, "value", c->value);
    put_time(w, "from", (struct wall){c->from_s * NS_PER_S});
    json_string(w, "reason", c->reason);
    json_close(w, '}');
}

static void read_changes(void *arg)
{
    struct finance_job *job = arg;
    const char *path = job->config->ledger_path;
    json_open(&job->w, NULL, '{');
    json_open(&job->w, "changes", '[');
    job->rc = job->at_s >= 0
                  ? finance_read_at(path, job->kind, job->at_s, put_change, &job->w, &job->e)
                  : finance_read(path, job->kind, job->subject, (int)job->last, put_change, &job->w, &job->e);
    json_close(&job->w, ']');
    json_close(&job->w, '}');
}

static char *query_copy(const struct admin_call *c, const char *key)
{
    const char *text = http_request_query(c->x, key);
    return text && *text ? spw_strdup(text) : NULL;
}

static enum rc read_query(const struct admin_call *c, struct finance_job *job, struct error *e)
{
    const char *last = http_request_query(c->x, "last"), *at = http_request_query(c->x, "at");
    job->kind = query_copy(c, "kind");
    job->subject = query_copy(c, "subject");
    job->last = CHANGES_DEFAULT;
    if (last && text_parse_int(last, 1, ADMIN_ROWS_MAX, &job->last) != RC_OK)
        return error_set(e, RC_INVALID, "last: \"%.40s\" is not a number from 1 to %d", last, ADMIN_ROWS_MAX);
    if (at && strcmp(at, "now") == 0)
        job->at_s = clock_wall(c->admin->o.clock).ns / NS_PER_S;
    else if (at && text_parse_utc(at, &job->at_s) != RC_OK)
        return error_set(e, RC_INVALID, "at: \"%.40s\" is neither now nor a time like 2026-11-01T12:00:00Z", at);
    return RC_OK;
}

void admin_get_finance(const struct admin_call *c)
{
    struct finance_job *job = new_job(c);
    struct error e;
    if (!job)
        return;
    if (read_query(c, job, &e) == RC_OK)
        start(c, job, read_changes);
    else
        refuse(c, job, &e);
}

/* ---- changing ------------------------------------------------------------------------------------------------------ */

static void put_version(struct finance_job *job)
{
    json_open(&job->w, NULL, '{');
    json_int(&job->w, "version", job->version);
    json_close(&job->w, '}');
}

static void make_change(void *arg)
{
    struct finance_job *job = arg;
    job->rc = finance_change(job->config->ledger_path, &job->change, NULL, NULL, &job->version, &job->e);
    put_version(job);
}

static void make_correction(void *arg)
{
    struct finance_job *job = arg;
    job->rc = finance_correct(job->config->ledger_path, &job->correction, job->who, job->change.at, NULL, NULL,
                              &job->version, &job->e);
    put_version(job);
}

static enum rc read_body(const struct admin_call *c, struct finance_job *job, const char *const *known, struct error *e)
{
    size_t n;
    const char *text = http_request_body(c->x, &n), *who = NULL;
    enum rc rc = json_parse(text, n, 8, &job->body, e);
    if (rc == RC_OK && !cJSON_IsObject(job->body))
        rc = error_set(e, RC_INVALID, "the body must be a JSON object");
    if (rc == RC_OK)
        rc = admin_only_known(job->body, known, e);
    if (rc == RC_OK)
        rc = json_get_string(job->body, "who", &who, NULL, e);
    if (rc == RC_OK && who && strcmp(c->who, "socket") != 0)
        rc = error_set(e, RC_INVALID, "who: a key says who it is");
    if (rc == RC_OK && who && *who) /* who may use the socket is believed */
        snprintf(job->who, sizeof job->who, "%.80s", who);
    job->change.at = clock_wall(c->admin->o.clock);
    job->change.who = job->who;
    return rc;
}

static enum rc take_value(struct finance_job *job, struct error *e)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(job->body, "value");
    if (value && !cJSON_IsObject(value))
        return error_set(e, RC_INVALID, "value: must be a JSON object");
    job->value = value ? cJSON_PrintUnformatted(value) : NULL;
    job->change.value = job->value;
    return RC_OK;
}

static enum rc take_from(struct finance_job *job, struct error *e)
{
    const char *from = NULL;
    enum rc rc = json_get_string(job->body, "from", &from, NULL, e);
    if (rc == RC_OK && from && text_parse_utc(from, &job->change.from_s) != RC_OK)
        rc = error_set(e, RC_INVALID, "from: \"%.40s\" is no time like 2026-11-01 or 2026-11-01T12:00:00Z", from);
    return rc;
}

void admin_change_finance(const struct admin_call *c)
{
    static const char *const known[] = {"kind", "subject", "value", "from", "reason", "who", NULL};
    struct finance_job *job = new_job(c);
    struct error e;
    if (!job)
        return;
    struct finance_change *x = &job->change;
    enum rc rc = read_body(c, job, known, &e);
    if (rc == RC_OK)
        rc = json_get_string(job->body, "kind", &x->kind, NULL, &e);
    if (rc == RC_OK)
        rc = json_get_string(job->body, "subject", &x->subject, NULL, &e);
    if (rc == RC_OK && (!x->kind || !x->subject))
        rc = error_set(&e, RC_INVALID, "%s: is missing", x->kind ? "subject" : "kind");
    if (rc == RC_OK)
        rc = json_get_string(job->body, "reason", &x->reason, NULL, &e);
    if (rc == RC_OK)
        rc = take_value(job, &e);
    if (rc == RC_OK)
        rc = take_from(job, &e);
    if (rc == RC_OK)
        start(c, job, make_change);
    else
        refuse(c, job, &e);
}

void admin_correct_finance(const struct admin_call *c)
{
    static const char *const known[] = {"request_id", "tenant", "team", "project", "amount_usd", "reason", "who", NULL};
    struct finance_job *job = new_job(c);
    const char *amount = NULL;
    struct error e;
    if (!job)
        return;
    struct finance_correction *x = &job->correction;
    const char **const texts[] = {&x->request_id, &x->tenant, &x->team, &x->project, &amount, &x->reason};
    enum rc rc = read_body(c, job, known, &e);
    for (int i = 0; i < 6 && rc == RC_OK; i++)
        rc = json_get_string(job->body, known[i], texts[i], NULL, &e);
    if (rc == RC_OK && !amount)
        rc = error_set(&e, RC_INVALID, "amount_usd: is missing");
    if (rc == RC_OK)
        rc = finance_amount(amount, &x->charge, &e);
    if (rc == RC_OK)
        start(c, job, make_correction);
    else
        refuse(c, job, &e);
}
