/* A page in the making: what it needs is asked for step by step (files on the thread, budgets of their store), then
 * what can be told at once is copied, and the page written in one go.
 *
 *   ui_view() -> month, where there is none yet -> files -> budgets -> finish()
 *
 * The figures of the month come from all of its closed hours, so they are kept for a while: MONTH_FRESH_S, or
 * MONTH_SHARE times as long as they took, so that looking at pages never keeps a core busy. Stale ones are shown while
 * new ones are made.
 *
 * A browser that leaves takes the exchange with it (x is NULL then); the view itself ends with its last call back,
 * which then touches nothing else: the dashboard may be gone as well. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "base/text.h"
#include "scheduler/books/rollup.h"
#include "scheduler/front/budget_desk.h"
#include "scheduler/nightly/options.h"
#include "scheduler/report/report.h"
#include "scheduler/ui/ui_internal.h"

#define MONTH_FRESH_S 60
#define MONTH_SHARE   20
#define HOUR_S        3600

struct view {
    struct ui *ui;
    struct http_exchange *x; /* NULL: nobody waits for it */
    const struct ui_page *page;
    struct asker who;
    char item[FILES_NAME_MAX + 1];
    unsigned done; /* of page->needs */
    bool inside, over;
    char folder[4096]; /* for the thread */
    struct facts facts;
    struct view *next; /* of ui->waiting */
};

static void go_on(struct view *v);

static void view_free(struct view *v)
{
    arena_free(v->facts.arena);
    files_free(&v->facts.files);
    free(v);
}

static void abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct view *)state)->x = NULL;
}

/* A call back has come. False: nobody waits any more, and the view is gone. */
static bool is_wanted(struct view *v)
{
    if (v->x)
        return true;
    view_free(v);
    return false;
}

/* ---- the month --------------------------------------------------------------------------------------------------------- */

struct month_job {
    struct ui *ui;
    struct config *config; /* a reference */
    struct wall now;
    int64_t took_ns;
    struct facts_month made;
};

/* What is paid for whether it is used or not, but for what pools rent; and what was asked for tokens. */
static void take_node_hour(const struct node_hour *h, void *arg)
{
    struct facts_month *m = arg;

    if (!h->pool)
        m->standing.v += h->fixed.v;
    m->by_token.v += h->tokens.v;
}

static void month_run(void *arg)
{
    struct month_job *j = arg;
    struct facts_month *m = &j->made;
    const struct mono begun = clock_now(&clock_system);
    struct error e;
    struct report_inputs in = {.texts = NULL};
    enum rc rc = report_inputs(&in, j->config, "month", j->now, &e);

    if (rc == RC_OK)
        rc = report_gather(&m->report, &in.options, &e);
    if (rc == RC_OK && m->report->hours.closed_until_s) {
        m->last_hour_s = m->report->hours.closed_until_s - HOUR_S;
        rc = rollup_read_nodes(j->config->ledger_path, m->last_hour_s, m->last_hour_s + HOUR_S, take_node_hour, m, &e);
    }
    if (rc != RC_OK)
        snprintf(m->why, sizeof m->why, "%.180s", e.message);
    report_inputs_fini(&in);
    j->took_ns = mono_since(&clock_system, begun);
}

static void month_done(enum rc rc, void *arg)
{
    struct month_job *j = arg;
    struct ui *u = j->ui;
    struct view *waiting = u->waiting;

    if (rc == RC_OK) {
        report_free(u->month.report);
        u->month = j->made;
        u->month_took_ns = j->took_ns;
        u->month_made = clock_now(&clock_system);
    } else {
        report_free(j->made.report);
    }
    u->month_busy = false;
    u->waiting = NULL;
    config_free(j->config);
    free(j);
    for (struct view *next; waiting; waiting = next) {
        next = waiting->next;
        if (is_wanted(waiting))
            go_on(waiting);
    }
}

static bool is_fresh(const struct ui *u)
{
    const int64_t share = u->month_took_ns * MONTH_SHARE, least = MONTH_FRESH_S * NS_PER_S;

    return u->month_made.ns && mono_since(&clock_system, u->month_made) < (share > least ? share : least);
}

static void ask_for_month(struct ui *u)
{
    struct month_job *j;

    if (u->month_busy || is_fresh(u))
        return;
    j = spw_calloc(1, sizeof *j);
    *j = (struct month_job){.ui = u, .config = config_ref(u->config), .now = clock_wall(u->o.clock)};
    u->month_busy = worker_submit(u->reader, month_run, month_done, j) == RC_OK;
    if (!u->month_busy) {
        config_free(j->config);
        free(j);
    }
}

/* True: it has to wait for the first one. */
static bool waits_for_month(struct view *v)
{
    struct ui *u = v->ui;

    ask_for_month(u);
    if (u->month_made.ns || !u->month_busy)
        return false;
    v->next = u->waiting;
    u->waiting = v;
    return true;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void list_run(void *arg)
{
    struct view *v = arg;
    files_list(&v->facts.files, v->folder);
}

static void list_done(enum rc rc, void *arg)
{
    (void)rc; /* cancelled: nobody waits */
    if (is_wanted(arg))
        go_on(arg);
}

static bool waits_for_files(struct view *v)
{
    snprintf(v->folder, sizeof v->folder, "%s", v->ui->config->reports.folder);
    return worker_submit(v->ui->reader, list_run, list_done, v) == RC_OK;
}

/* ---- budgets ----------------------------------------------------------------------------------------------------- */

static void budgets_cb(enum rc rc, const char *why, const struct budget_known *k, int n, void *arg)
{
    struct view *v = arg;

    if (!v->inside && !is_wanted(v))
        return;
    facts_take_budgets(&v->facts, rc, why, k, n);
    v->over = true;
    if (!v->inside)
        go_on(v);
}

static bool waits_for_budgets(struct view *v)
{
    struct error e;

    v->inside = true;
    const enum rc rc = front_budgets_read(v->ui->o.front, NULL, budgets_cb, v, &e);
    v->inside = false;
    if (rc != RC_OK)
        facts_take_budgets(&v->facts, rc, e.message, NULL, 0);
    return rc == RC_OK && !v->over;
}

/* ---- the page ---------------------------------------------------------------------------------------------------- */

static void finish(struct view *v)
{
    struct ui *u = v->ui;
    const struct facts_sources sources = {.config = u->config,
                                          .front = u->o.front,
                                          .fleet = u->o.fleet,
                                          .audit = u->o.audit,
                                          .clock = u->o.clock,
                                          .month = v->page->needs & PAGE_MONTH ? &u->month : NULL};
    const char *item = v->item[0] ? v->item : NULL;
    const struct page_who who = {v->who.key_id, v->who.form, item};
    struct strbuf page;

    http_exchange_set(v->x, NULL, NULL);
    facts_gather(&v->facts, &sources, item);
    strbuf_init(&page, PAGE_BYTES_MAX);
    const enum rc rc = sheet_write(&page, v->page, &v->facts, &who);
    ui_reply_page(v->x, 200, rc, &page, NULL, 0);
    view_free(v);
}

static void go_on(struct view *v)
{
    static const struct {
        unsigned need;
        bool (*waits)(struct view *v);
    } steps[] = {{PAGE_MONTH, waits_for_month}, {PAGE_FILES, waits_for_files}, {PAGE_BUDGETS, waits_for_budgets}};

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (!(v->page->needs & steps[i].need) || (v->done & steps[i].need))
            continue;
        v->done |= steps[i].need;
        if (steps[i].waits(v))
            return;
    }
    finish(v);
}

void ui_view(struct ui *u, struct http_exchange *x, const struct ui_page *page, const struct asker *who,
             const char *item)
{
    struct view *v = spw_calloc(1, sizeof *v);

    *v = (struct view){.ui = u, .x = x, .page = page, .who = *who, .facts = {.arena = arena_new(FACTS_BYTES_MAX)}};
    snprintf(v->item, sizeof v->item, "%s", item ? item : "");
    http_exchange_set(x, v, abort_cb);
    go_on(v);
}

/* ---- a report ---------------------------------------------------------------------------------------------------- */

struct opening {
    struct ui *ui;
    struct http_exchange *x; /* NULL: nobody waits for it */
    struct asker who;
    char folder[4096], name[FILES_NAME_MAX + 1];
    struct strbuf text;
    enum report_format kind;
    enum rc rc;
    struct error e;
};

static void opening_abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct opening *)state)->x = NULL;
}

static void open_run(void *arg)
{
    struct opening *o = arg;
    o->rc = files_read(&o->text, o->folder, o->name, &o->e);
}

/* A report brings its rules of style with it: those, and nothing else, and as if from a place of its own. */
#define REPORT_POLICY                                                                                                  \
    "default-src 'none'; style-src %s; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"

static char *report_policy(const struct strbuf *text)
{
    const char *begin = text->data ? strstr(text->data, "<style>") : NULL,
               *end = begin ? strstr(begin, "</style>") : NULL;
    uint8_t hash[SHA256_BYTES];

    if (!end)
        return spw_asprintf(REPORT_POLICY, "'none'");
    begin += strlen("<style>");
    sha256(begin, (size_t)(end - begin), hash);
    char *base64 = text_base64(hash, sizeof hash), *source = spw_asprintf("'sha256-%s'", base64);
    char *policy = spw_asprintf(REPORT_POLICY, source);
    free(source);
    free(base64);
    return policy;
}

static void show_report(struct opening *o)
{
    char *policy = report_policy(&o->text), *keep = spw_asprintf("attachment; filename=\"%s\"", o->name),
         *type = spw_asprintf("%s; charset=utf-8", report_format_type(o->kind));
    const struct http_header extra[] = {{"Content-Security-Policy", policy}, {"Content-Disposition", keep}};

    ui_reply(o->x, 200, type, &o->text, extra, o->kind == REPORT_HTML ? 1 : 2);
    free(policy);
    free(keep);
    free(type);
}

static void open_done(enum rc rc, void *arg)
{
    struct opening *o = arg;

    if (o->x) {
        http_exchange_set(o->x, NULL, NULL);
        if (rc == RC_OK && o->rc == RC_OK)
            show_report(o);
        else
            ui_reply_problem(o->x, o->rc == RC_NOT_FOUND ? 404 : 503, "This report cannot be shown",
                             rc == RC_OK ? o->e.message : "The scheduler ends.", &o->who);
    }
    strbuf_fini(&o->text);
    free(o);
}

void ui_open_report(struct ui *u, struct http_exchange *x, const char *name, const struct asker *who)
{
    enum report_format kind;
    struct opening *o;

    if (!files_kind(name, &kind)) {
        ui_reply_problem(x, 404, "This report cannot be shown", "there is no report of that name", who);
        return;
    }
    o = spw_calloc(1, sizeof *o);
    *o = (struct opening){.ui = u, .x = x, .who = *who, .kind = kind};
    snprintf(o->folder, sizeof o->folder, "%s", u->config->reports.folder);
    snprintf(o->name, sizeof o->name, "%s", name);
    strbuf_init(&o->text, FILES_ONE_MAX + 1);
    http_exchange_set(x, o, opening_abort_cb);
    if (worker_submit(u->reader, open_run, open_done, o) == RC_OK)
        return;
    http_exchange_set(x, NULL, NULL);
    free(o);
    ui_reply_problem(x, 503, "This report cannot be shown", "too many are being read at the moment; try again", who);
}
