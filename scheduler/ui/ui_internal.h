/* What ui.c (the door: who asks for what), sign.c (signing in and out) and view.c (a page in the making) share. */
#ifndef SCHEDULER_UI_UI_INTERNAL_H
#define SCHEDULER_UI_UI_INTERNAL_H

#include "base/http_server.h"
#include "base/worker.h"
#include "scheduler/audit/audit.h"
#include "scheduler/auth/forgery.h"
#include "scheduler/ui/session.h"
#include "scheduler/ui/sheet.h"
#include "scheduler/ui/ui.h"

struct view;
struct ui {
    struct ui_options o;
    struct config *config; /* a reference; what runs on the thread holds its own */
    struct sessions *sessions;
    struct forgery *refusals; /* who was refused too often */
    struct audit_port *audit; /* NULL: there is none */
    struct strbuf record;     /* scratch for what the audit is told */
    struct worker *reader;
    struct facts_month month;
    int64_t month_took_ns;
    struct mono month_made; /* 0: never */
    bool month_busy;
    struct view *waiting; /* for the first month */
};

/* Who asks, by the cookie. */
struct asker {
    char token[SESSION_TEXT_BYTES]; /* "": none that could be one */
    char form[SESSION_TEXT_BYTES];  /* what his forms carry */
    char key_id[KEYSTORE_ID_BYTES]; /* signed in; "": not */
};

/* Answers; the exchange is over afterwards. extra: headers more, at most UI_HEADERS_MORE. */
#define UI_HEADERS_MORE 3
void ui_reply(struct http_exchange *x, int status, const char *type, const struct strbuf *body,
              const struct http_header *extra, int n_extra);
void ui_reply_page(struct http_exchange *x, int status, enum rc written, struct strbuf *page,
                   const struct http_header *extra, int n_extra);              /* page: its bytes are freed */
void ui_redirect(struct http_exchange *x, const char *to, const char *cookie); /* cookie NULL: as it is */
void ui_reply_problem(struct http_exchange *x, int status, const char *title, const char *text,
                      const struct asker *who);

/* sign.c */
void ui_ask_who(struct ui *u, struct http_exchange *x, struct asker *who);
void ui_show_login(struct ui *u, struct http_exchange *x, const struct asker *who, int status, const char *why,
                   int retry_after_s);
void ui_sign_in(struct ui *u, struct http_exchange *x, const struct asker *who);
void ui_sign_out(struct ui *u, struct http_exchange *x, const struct asker *who);

/* view.c */
void ui_view(struct ui *u, struct http_exchange *x, const struct ui_page *page, const struct asker *who,
             const char *item);
void ui_open_report(struct ui *u, struct http_exchange *x, const char *name, const struct asker *who);

#endif
