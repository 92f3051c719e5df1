#include "scheduler/config/reload.h"

#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "base/worker.h"
#include "scheduler/config/change.h"

#define REPORT_MAX   ((size_t)16 << 20)
#define PROBLEMS_MAX ((size_t)1 << 20)

struct asker {
    reload_done_cb *done; /* NULL: nobody */
    void *arg;
};
struct askers {
    struct asker list[RELOAD_ASKERS_MAX];
    int n;
};

struct reload {
    struct reload_options o;
    struct worker *worker; /* made with the first question */
    bool running, ending;
    struct askers now, next; /* of the one that runs; of the one after it */
    /* the thread's while it loads */
    struct config *loaded;
    enum rc rc;
    struct strbuf problems;
};

void reload_new(struct reload **out, const struct reload_options *o)
{
    struct reload *r = spw_calloc(1, sizeof *r);
    r->o = *o;
    strbuf_init(&r->problems, PROBLEMS_MAX);
    *out = r;
}

/* ---- what is told ----------------------------------------------------------------------------------------------- */

static void tell(struct askers *askers, const struct reload_report *report)
{
    struct askers who = *askers; /* an answer may ask again */
    askers->n = 0;
    for (int i = 0; i < who.n; i++) {
        if (who.list[i].done)
            who.list[i].done(report, who.list[i].arg);
    }
}

static void tell_json(struct reload *r, enum rc rc, struct json_writer *w)
{
    struct reload_report report = {.rc = rc};
    if (json_write_end(w) == RC_OK) {
        report.json = w->out->data;
        report.json_len = w->out->len;
    } else { /* ten thousand keys that changed, say: it is done all the same */
        report.json = rc == RC_OK ? "{\"reloaded\":true}" : "{\"error\":{\"message\":\"too much to tell\"}}";
        report.json_len = strlen(report.json);
    }
    tell(&r->now, &report);
}

static void write_problems(struct json_writer *w, char *text)
{
    json_open(w, "problems", '[');
    for (char *p = text, *end; p && (end = strchr(p, '\n')); p = end + 1) {
        *end = '\0';
        json_string(w, NULL, p);
    }
    json_close(w, ']');
}

/* rc and message: why not. problems: one per line, or "". */
static void tell_failure(struct reload *r, enum rc rc, const char *message, char *problems)
{
    struct strbuf out;
    strbuf_init(&out, REPORT_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_open(&w, "error", '{');
    json_string(&w, "message", message);
    json_string(&w, "type", rc == RC_INVALID ? "invalid_request_error" : "server_error");
    json_null(&w, "param");
    json_string(&w, "code", rc == RC_INVALID ? "invalid_config" : "reload_failed");
    json_close(&w, '}');
    write_problems(&w, problems);
    json_close(&w, '}');
    tell_json(r, rc, &w);
    strbuf_fini(&out);
}

/* What differs, kept until it is known whether it was taken over. Names are borrowed from the two configurations. */
struct noted {
    struct config_change c;
    char *keys; /* owned */
};
struct notes {
    struct noted *list;
    int n, cap;
};

static void note(const struct config_change *c, void *arg)
{
    struct notes *notes = arg;
    if (notes->n == notes->cap) {
        notes->cap = notes->cap ? notes->cap * 2 : 16;
        notes->list = spw_realloc(notes->list, (size_t)notes->cap * sizeof *notes->list);
    }
    notes->list[notes->n++] = (struct noted){*c, c->keys[0] ? spw_strdup(c->keys) : NULL};
}

static void free_notes(struct notes *notes)
{
    for (int i = 0; i < notes->n; i++)
        free(notes->list[i].keys);
    free(notes->list);
}

static void log_changes(const struct reload *r, const struct notes *notes)
{
    for (int i = 0; i < notes->n; i++) {
        const struct config_change *c = &notes->list[i].c;
        log_write(r->o.log, c->needs_restart ? LOG_WARN : LOG_INFO, "config",
                  c->needs_restart ? "changed in the file, but needs a restart" : "taken over",
                  (const struct log_field[]){LOG_S("list", c->list), LOG_S("name", c->name),
                                             LOG_S("change", config_change_name(c->kind)),
                                             LOG_S("settings", notes->list[i].keys)},
                  4);
    }
    log_info(r->o.log, "config", "reloaded", LOG_I("changes", notes->n));
}

static void write_changes(struct json_writer *w, const struct notes *notes)
{
    json_open(w, NULL, '{');
    json_bool(w, "reloaded", true);
    json_open(w, "changes", '[');
    for (int i = 0; i < notes->n; i++) {
        const struct config_change *c = &notes->list[i].c;
        json_open(w, NULL, '{');
        json_string(w, "list", c->list);
        json_string(w, "name", c->name);
        json_string(w, "change", config_change_name(c->kind));
        json_string(w, "keys", notes->list[i].keys);
        json_bool(w, "needs_restart", c->needs_restart);
        json_close(w, '}');
    }
    json_close(w, ']');
    json_open(w, "needs_restart", '[');
    for (int i = 0; i < notes->n; i++) {
        if (notes->list[i].c.needs_restart)
            json_string(w, NULL, notes->list[i].c.name);
    }
    json_close(w, ']');
    json_close(w, '}');
}

static void tell_success(struct reload *r, const struct notes *notes)
{
    struct strbuf out;
    strbuf_init(&out, REPORT_MAX);
    struct json_writer w = json_write_begin(&out);
    write_changes(&w, notes);
    log_changes(r, notes);
    tell_json(r, RC_OK, &w);
    strbuf_fini(&out);
}

/* ---- one reload ------------------------------------------------------------------------------------------------- */

static void load(void *arg)
{
    struct reload *r = arg;
    strbuf_clear(&r->problems);
    r->rc = config_load(&r->loaded, r->o.path, &r->problems);
}

static void mistakes(struct reload *r)
{
    char message[256], none[] = "", *problems = r->problems.data ? r->problems.data : none;
    int n = 0;
    for (const char *p = problems; *p; p++)
        n += *p == '\n';
    snprintf(message, sizeof message, "%d mistake%s in %.160s; nothing was changed", n, n == 1 ? "" : "s", r->o.path);
    for (char *p = problems, *end; (end = strchr(p, '\n')); p = end + 1) {
        *end = '\0';
        log_error(r->o.log, "config", p);
        *end = '\n';
    }
    log_error(r->o.log, "config", message);
    tell_failure(r, RC_INVALID, message, problems);
}

static void take_over(struct reload *r)
{
    struct config *from = config_ref(r->o.current(r->o.arg)), *to = config_ref(r->loaded);
    struct notes notes = {.n = 0};
    struct error e;
    char none[] = "";
    config_changes(from, to, note, &notes);
    config_keep(to, from);
    enum rc rc = r->o.apply(r->loaded, &e, r->o.arg);
    if (rc == RC_OK) {
        r->loaded = NULL;
        tell_success(r, &notes);
    } else {
        log_error(r->o.log, "config", "cannot be taken over; nothing was changed", LOG_S("reason", e.message));
        tell_failure(r, rc, e.message, none);
    }
    config_free(r->loaded);
    r->loaded = NULL;
    free_notes(&notes);
    config_free(to);
    config_free(from);
}

static void start(struct reload *r);

static void on_loaded(enum rc rc, void *arg)
{
    struct reload *r = arg;
    char none[] = "";
    r->running = false;
    if (rc != RC_OK || r->ending) { /* who ends takes nothing over, and begins no other */
        tell_failure(r, RC_CANCELLED, "the scheduler is ending", none);
        return;
    }
    if (r->rc == RC_OK)
        take_over(r);
    else
        mistakes(r);
    if (r->next.n)
        start(r);
}

static void start(struct reload *r)
{
    r->now = r->next;
    r->next.n = 0;
    enum rc rc = worker_submit(r->worker, load, on_loaded, r);
    SPW_ASSERT(rc == RC_OK); /* one at a time */
    r->running = true;
}

enum rc reload_ask(struct reload *r, reload_done_cb *done, void *arg)
{
    struct error e;
    if (r->ending)
        return RC_CANCELLED;
    if (!r->worker && worker_new(&r->worker, "reload", r->o.loop, 1, &e) != RC_OK)
        return e.code;
    if (r->next.n == RELOAD_ASKERS_MAX)
        return RC_FULL;
    r->next.list[r->next.n++] = (struct asker){done, arg};
    if (!r->running)
        start(r);
    return RC_OK;
}

void reload_free(struct reload *r)
{
    char none[] = "";
    if (!r)
        return;
    r->ending = true; /* one that is loaded meanwhile is told of from inside */
    worker_free(r->worker);
    config_free(r->loaded);
    if (r->next.n) {
        r->now = r->next;
        tell_failure(r, RC_CANCELLED, "the scheduler is ending", none);
    }
    strbuf_fini(&r->problems);
    free(r);
}
