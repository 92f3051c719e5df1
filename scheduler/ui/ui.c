/* The door: which request is which, and how answers look. */
#include "scheduler/ui/ui_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* Nothing but our own rules of style and our own icon, whatever a page were made to hold. */
#define POLICY                                                                                                         \
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri "      \
    "'none'"

/* ---- answers -------------------------------------------------------------------------------------------------------- */

static const char *const policy_name = "Content-Security-Policy";

void ui_reply(struct http_exchange *x, int status, const char *type, const struct strbuf *body,
              const struct http_header *extra, int n_extra)
{
    struct http_header headers[8 + UI_HEADERS_MORE] = {{"Content-Type", type},
                                                       {"Cache-Control", "no-store"},
                                                       {"X-Content-Type-Options", "nosniff"},
                                                       {"Referrer-Policy", "no-referrer"},
                                                       {"X-Frame-Options", "DENY"},
                                                       {"Cross-Origin-Opener-Policy", "same-origin"},
                                                       {"Cross-Origin-Resource-Policy", "same-origin"}};
    int n = 7;
    bool has_policy = false;

    SPW_ASSERT(n_extra <= UI_HEADERS_MORE);
    for (int i = 0; i < n_extra; i++) {
        headers[n++] = extra[i];
        has_policy = has_policy || strcmp(extra[i].name, policy_name) == 0;
    }
    if (!has_policy)
        headers[n++] = (struct http_header){policy_name, POLICY};
    http_reply(x, status, headers, n, body->data ? body->data : "", body->len);
}

void ui_reply_page(struct http_exchange *x, int status, enum rc written, struct strbuf *page,
                   const struct http_header *extra, int n_extra)
{
    if (written == RC_OK) {
        ui_reply(x, status, "text/html; charset=utf-8", page, extra, n_extra);
    } else {
        strbuf_clear(page);
        (void)!strbuf_puts(page, "This page is larger than can be shown.\n");
        ui_reply(x, 500, "text/plain; charset=utf-8", page, NULL, 0);
    }
    strbuf_fini(page);
}

void ui_redirect(struct http_exchange *x, const char *to, const char *cookie)
{
    const struct http_header headers[] = {{"Location", to}, {"Set-Cookie", cookie}};
    const struct strbuf nothing = {.data = NULL};

    ui_reply(x, 303, "text/plain; charset=utf-8", &nothing, headers, cookie ? 2 : 1);
}

void ui_reply_problem(struct http_exchange *x, int status, const char *title, const char *text, const struct asker *who)
{
    const struct page_who page_who = {who->key_id, who->form, NULL};
    struct strbuf page;

    strbuf_init(&page, PAGE_BYTES_MAX);
    const enum rc rc = sheet_write_problem(&page, title, text, who->key_id[0] ? &page_who : NULL);
    ui_reply_page(x, status, rc, &page, NULL, 0);
}

/* ---- requests ------------------------------------------------------------------------------------------------------- */

static void reply_style(struct http_exchange *x)
{
    struct strbuf style;

    strbuf_init(&style, PAGE_BYTES_MAX);
    SPW_ASSERT(sheet_write_style(&style) == RC_OK);
    ui_reply(x, 200, "text/css; charset=utf-8", &style, NULL, 0);
    strbuf_fini(&style);
}

static void reply_icon(struct http_exchange *x)
{
    struct strbuf icon;

    strbuf_init(&icon, 4096);
    SPW_ASSERT(strbuf_puts(&icon, sheet_icon) == RC_OK);
    ui_reply(x, 200, "image/svg+xml", &icon, NULL, 0);
    strbuf_fini(&icon);
}

/* What stands after `begin` in the path, plain enough to be shown and looked for; NULL: nothing, or something else. */
static const char *item_of(struct http_exchange *x, const char *path, size_t n, const char *begin)
{
    const size_t n_begin = strlen(begin);

    if (n <= n_begin || strncmp(path, begin, n_begin) != 0 ||
        !text_is_word_n(path + n_begin, n - n_begin, "-_.", FILES_NAME_MAX))
        return NULL;
    return arena_strndup(http_exchange_arena(x), path + n_begin, n - n_begin);
}

static void get_page(struct ui *u, struct http_exchange *x, const char *path, size_t n, const struct asker *who)
{
    const char *report = item_of(x, path, n, "/reports/");

    if (report) {
        ui_open_report(u, x, report, who);
        return;
    }
    for (int i = 0; i < ui_n_pages; i++) {
        const struct ui_page *p = &ui_pages[i];
        const char *item = p->needs & PAGE_ITEM ? item_of(x, path, n, p->path) : NULL;
        if (item || (!(p->needs & PAGE_ITEM) && strlen(p->path) == n && strncmp(p->path, path, n) == 0)) {
            ui_view(u, x, p, who, item);
            return;
        }
    }
    ui_reply_problem(x, 404, "There is no such page",
                     "The address leads nowhere; the overview has the way to every page.", who);
}

static void get(struct ui *u, struct http_exchange *x, const char *path, size_t n, const struct asker *who)
{
    if (n == 6 && strncmp(path, "/login", n) == 0)
        ui_show_login(u, x, who, 200, NULL, 0);
    else if (!who->key_id[0])
        ui_redirect(x, "/ui/login", NULL);
    else
        get_page(u, x, path, n, who);
}

/* All that changes something. A form that is not ours, or of somebody else's page, does nothing. */
static void post(struct ui *u, struct http_exchange *x, const char *path, size_t n, const struct asker *who)
{
    const bool in = n == 6 && strncmp(path, "/login", n) == 0, out = n == 7 && strncmp(path, "/logout", n) == 0;

    if (!in && !out)
        ui_reply_problem(x, 404, "There is no such page", "Nothing can be sent there.", who);
    else if (!sessions_form_is_right(u->sessions, who->token, http_request_form(x, "form")))
        ui_show_login(u, x, who, 403, "This form is no longer good; here is a new one.", 0);
    else if (in)
        ui_sign_in(u, x, who);
    else
        ui_sign_out(u, x, who);
}

static void refuse_method(struct http_exchange *x)
{
    const struct http_header allow = {"Allow", "GET, POST"};
    const struct strbuf nothing = {.data = NULL};
    ui_reply(x, 405, "text/plain; charset=utf-8", &nothing, &allow, 1);
}

bool ui_request(struct http_exchange *x, void *arg)
{
    struct ui *u = arg;
    const struct http_head *head = http_request_head(x);
    const size_t n = strcspn(head->target, "?");
    struct asker who;

    if (u->config->ui.off)
        return false;
    if (n == 1 && head->target[0] == '/' && strcmp(head->method, "GET") == 0) {
        ui_redirect(x, "/ui", NULL);
        return true;
    }
    if (n < 3 || strncmp(head->target, "/ui", 3) != 0 || (n > 3 && head->target[3] != '/'))
        return false;
    const char *path = head->target + 3;
    ui_ask_who(u, x, &who);
    if (http_request_path_is(x, "/ui/style.css"))
        reply_style(x);
    else if (http_request_path_is(x, "/ui/icon.svg"))
        reply_icon(x);
    else if (strcmp(head->method, "GET") == 0)
        get(u, x, path, n == 4 ? 0 : n - 3, &who);
    else if (strcmp(head->method, "POST") == 0)
        post(u, x, path, n - 3, &who);
    else
        refuse_method(x);
    return true;
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

enum rc ui_new(struct ui **out, const struct ui_options *o, struct error *e)
{
    struct ui *u = spw_calloc(1, sizeof *u);

    *out = NULL;
    u->o = *o;
    u->config = config_ref(o->config);
    u->sessions = sessions_new(o->clock);
    strbuf_init(&u->record, AUDIT_JSON_BYTES_MAX);
    enum rc rc = forgery_new(&u->refusals, o->clock, e);
    if (rc == RC_OK)
        rc = worker_new(&u->reader, "dashboard", o->loop, 64, e);
    if (rc == RC_OK && o->audit)
        rc = audit_port_new(&u->audit, o->audit, o->loop, e);
    if (rc != RC_OK) {
        ui_free(u);
        return rc;
    }
    *out = u;
    return RC_OK;
}

void ui_take(struct ui *u, const struct config *config, struct auth *auth)
{
    struct config *before = u->config;

    u->config = config_ref(config);
    u->o.auth = auth;
    config_free(before);
}

void ui_free(struct ui *u)
{
    if (!u)
        return;
    worker_free(u->reader);
    audit_port_free(u->audit);
    strbuf_fini(&u->record);
    forgery_free(u->refusals);
    sessions_free(u->sessions);
    report_free(u->month.report);
    config_free(u->config);
    free(u);
}
