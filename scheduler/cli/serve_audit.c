#include "scheduler/cli/serve_audit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/worker.h"
#include "scheduler/audit/reconcile.h"
#include "scheduler/audit/record.h"
#include "scheduler/budgets/webhook.h"
#include "scheduler/config/change.h"

#define CHANGES_MAX 200 /* told one by one in a record */

struct serve_audit {
    struct audit *audit;
    struct config *config; /* a reference; what is read of it needs a restart to change */
    const struct log *log;
    struct event *timer;
    struct worker *worker;
    struct webhook *webhook;
    int64_t exported; /* number of the newest head that was */
};
struct export
{
    struct serve_audit *s;
    struct audit_head head;
    struct error e;
    enum rc rc;
};

struct audit *serve_audit_of(const struct serve_audit *s)
{
    return s ? s->audit : NULL;
}

/* ---- records --------------------------------------------------------------------------------------------------------- */

static void note(struct serve_audit *s, struct json_writer *w)
{
    if (record_end(w) != RC_OK || audit_note(s->audit, w->out->data, w->out->len) != RC_OK)
        log_error(s->log, "audit", "a record could not be written");
}

static void note_start(struct serve_audit *s)
{
    struct strbuf text;

    strbuf_init(&text, AUDIT_JSON_BYTES_MAX);
    struct json_writer w = record_begin(&text, "start", clock_wall(&clock_system));
    json_string(&w, "version", SPILLWAY_VERSION);
    json_int(&w, "pid", getpid());
    json_string(&w, "policy", s->config->version);
    note(s, &w);
    strbuf_fini(&text);
}

struct changes {
    struct json_writer *w;
    int left;
};

static void each_change(const struct config_change *c, void *arg)
{
    struct changes *x = arg;

    if (x->left-- <= 0)
        return;
    json_open(x->w, NULL, '{');
    if (c->list)
        json_string(x->w, "list", c->list);
    json_string(x->w, "name", c->name);
    json_string(x->w, "change", config_change_name(c->kind));
    if (c->keys && c->keys[0])
        json_string(x->w, "keys", c->keys);
    json_close(x->w, '}');
}

void serve_audit_config(struct serve_audit *s, const struct config *before, const struct config *after)
{
    struct strbuf text;

    if (!s)
        return;
    strbuf_init(&text, AUDIT_JSON_BYTES_MAX);
    struct json_writer w = record_begin(&text, "config", clock_wall(&clock_system));
    struct changes x = {&w, CHANGES_MAX};
    json_string(&w, "before", before->version);
    json_string(&w, "after", after->version);
    json_open(&w, "changes", '[');
    int n = config_changes(before, after, each_change, &x);
    json_close(&w, ']');
    json_int(&w, "n_changes", n);
    note(s, &w);
    strbuf_fini(&text);
}

/* ---- heads ----------------------------------------------------------------------------------------------------------- */

static void run_export(void *arg)
{
    struct export *x = arg;

    x->rc = audit_export_head(x->s->config->audit.heads, &x->head, &x->e);
}

static void export_cb(enum rc rc, void *arg)
{
    struct export *x = arg;

    if (rc == RC_OK && x->rc != RC_OK)
        log_error(x->s->log, "audit", "a head could not be exported", LOG_S("reason", x->e.message));
    free(x);
}

static void post(struct serve_audit *s, const struct audit_head *h)
{
    const struct webhook_target to = {s->config->audit.webhook, s->config->audit.webhook_token_file,
                                      s->config->audit.webhook_ca};
    struct strbuf body;

    strbuf_init(&body, 2048);
    if (audit_head_write(h, &body) == RC_OK)
        webhook_send(s->webhook, &to, body.data, body.len);
    strbuf_fini(&body);
}

static void tick(evutil_socket_t fd, short what, void *arg)
{
    struct serve_audit *s = arg;
    struct audit_head head = audit_newest_head(s->audit);

    (void)fd, (void)what;
    if (head.seq <= s->exported)
        return;
    s->exported = head.seq;
    if (s->webhook)
        post(s, &head);
    if (!s->config->audit.heads)
        return;
    struct export *x = spw_calloc(1, sizeof *x);
    *x = (struct export){.s = s, .head = head};
    if (worker_submit(s->worker, run_export, export_cb, x) != RC_OK) {
        log_warn(s->log, "audit", "heads wait to be exported: is their file on a disk that hangs?");
        free(x);
    }
}

static enum rc start_exports(struct serve_audit *s, struct event_base *loop, struct error *e)
{
    int64_t ms = s->config->audit.heads_every_ms;
    const struct timeval every = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    if (!s->config->audit.heads && !s->config->audit.webhook)
        return RC_OK;
    if (s->config->audit.webhook)
        s->webhook = webhook_new(loop, s->log);
    enum rc rc = worker_new(&s->worker, "audit-heads", loop, 4, e);
    s->timer = event_new(loop, -1, EV_PERSIST, tick, s);
    if (rc == RC_OK && (!s->timer || event_add(s->timer, &every) != 0))
        rc = error_set(e, RC_IO, "audit: the loop takes no event");
    return rc;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static enum rc begin(struct serve_audit *s, struct event_base *loop, struct error *e)
{
    const struct config *c = s->config;
    const struct audit_options o = {.dir = c->audit.dir,
                                    .key_file = c->audit.key,
                                    .queue_max = c->audit.queue_max,
                                    .on_failure = (enum audit_on_failure)c->audit.on_failure,
                                    .logins_per_s = c->audit.refused_logins,
                                    .clock = &clock_system,
                                    .log = s->log};
    struct audit_reconciled found;
    enum rc rc = audit_open(&s->audit, &o, e);

    if (rc == RC_OK)
        rc = audit_reconcile(s->audit, c->audit.dir, c->ledger_path, &found, e);
    if (rc != RC_OK)
        return rc;
    if (found.recovered || found.voided)
        log_info(s->log, "audit", "reconciled with the ledger after a crash", LOG_I("recovered", found.recovered),
                 LOG_I("voided", found.voided));
    note_start(s);
    return start_exports(s, loop, e);
}

enum rc serve_audit_open(struct serve_audit **out, const struct config *c, struct event_base *loop,
                         const struct log *log, struct error *e)
{
    *out = NULL;
    if (c->audit.off || c->ledger_off)
        return RC_OK;
    struct serve_audit *s = spw_calloc(1, sizeof *s);
    config_set_version((struct config *)c); /* nobody else knows it yet */
    s->config = config_ref(c);
    s->log = log;
    enum rc rc = begin(s, loop, e);
    if (rc != RC_OK) {
        serve_audit_close(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void serve_audit_close(struct serve_audit *s)
{
    struct audit_head head = {0};
    struct strbuf text;
    struct error e;

    if (!s)
        return;
    if (s->timer)
        event_free(s->timer);
    worker_free(s->worker);
    webhook_free(s->webhook);
    if (s->audit) {
        strbuf_init(&text, 1024);
        struct json_writer w = record_begin(&text, "stop", clock_wall(&clock_system));
        note(s, &w);
        strbuf_fini(&text);
    }
    audit_close(s->audit);
    if (s->audit && s->config->audit.heads &&
        audit_read_head(s->config->audit.dir, s->config->audit.key, &head, &e) == RC_OK &&
        audit_export_head(s->config->audit.heads, &head, &e) != RC_OK)
        log_error(s->log, "audit", "the last head could not be exported", LOG_S("reason", e.message));
    config_free(s->config);
    free(s);
}
