/* The dashboard: pages under /ui on admin.listen, for people with a key of scope admin. They show what there is;
 * nothing can be changed from them yet.
 *
 *   GET  /ui                       overview; without a session: to the form to sign in on
 *   GET  /ui/fleet ... /ui/audit   a page per subject (sheet.h has the list)
 *   GET  /ui/reports/NAME          a report of reports.folder, as it is
 *   GET  /ui/login, POST /ui/login, POST /ui/logout
 *
 * Signing in takes an API key and gives a cookie (session.h): HttpOnly, SameSite=Strict, over TLS Secure and bound to
 * the host. The key stands in no address, page or log. It is asked about again with each page, so that a session ends
 * with it. Signing in and out, and keys that are refused, are in the audit; who is refused too often has to wait.
 *
 * Pages are made here, whole: no script, nothing from elsewhere, and a Content-Security-Policy that says so. What they
 * show is copied first (facts.h), then written by pure functions (sheet.h).
 *
 * Lane 0's loop, which never blocks: files (the ledger's closed hours, the folder of reports) are read by a thread of
 * its own. Everything in the options is borrowed and outlives it. */
#ifndef SCHEDULER_UI_UI_H
#define SCHEDULER_UI_UI_H

#include "scheduler/auth/auth.h"
#include "scheduler/front/front.h"

struct http_exchange;
struct ui;

struct ui_options {
    struct event_base *loop;
    const struct config *config;
    struct front *front;
    struct fleet *fleet; /* NULL: there is none */
    struct audit *audit; /* NULL: none is kept */
    struct auth *auth;   /* never one that lets everybody in */
    const struct log *log;
    const struct clock *clock;
};
enum rc ui_new(struct ui **u, const struct ui_options *o, struct error *e) SPW_MUST_USE;
/* From now on these: another configuration (a reference of its own is taken), other keys. */
void ui_take(struct ui *u, const struct config *config, struct auth *auth);
/* After the door through which its requests come. NULL is fine. */
void ui_free(struct ui *u);

/* A request of admin.listen. False: none of its paths; nothing was done. arg: the struct ui. */
bool ui_request(struct http_exchange *x, void *arg);

#endif
