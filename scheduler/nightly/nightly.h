/* The nightly reports in the daemon: once a second it looks whether a night is due (schedule.h) and whether a delivery
 * is (outbox.h); both are done on threads of their own, so that neither a large report nor a mail server that does not
 * answer delays anything.
 *
 *   a night is due -> thread `reports`: hours closed? -> files, outbox -> done; else again in a minute
 *   a delivery is due -> thread `reports-mail`, `reports-hook`: tried -> sent; else again later, at last given up
 *
 * Hours of the period that are not closed yet are waited for, but not for ever: after NIGHTLY_WAIT_S the report is made
 * and says what is missing. */
#ifndef SCHEDULER_NIGHTLY_NIGHTLY_H
#define SCHEDULER_NIGHTLY_NIGHTLY_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/log.h"
#include "scheduler/config/config.h"

#define NIGHTLY_WAIT_S 21600

struct nightly;
struct nightly_options { /* borrowed */
    struct event_base *loop;
    const struct config *config;
    const struct log *log;
    const struct clock *clock;
};
/* *n NULL and RC_OK: the ledger is off, there is nothing to report. */
enum rc nightly_new(struct nightly **n, const struct nightly_options *o, struct error *e) SPW_MUST_USE;
void nightly_take(struct nightly *n, const struct config *c); /* a reload; NULL is fine */
/* What is being sent is cut off, and sent again after the next start. NULL is fine. */
void nightly_free(struct nightly *n);

/* Make this one now, beside the nightly ones, and send it to whom they go. team: one of reports.teams; NULL:
 * everything. cb comes on the loop when it is in the outbox: with the period's name, or with why it is not. RC_INVALID,
 * RC_NOT_FOUND (no such team): at once, without cb. RC_FULL: others wait already. */
typedef void nightly_order_cb(const char *period, const struct error *e, void *arg);
enum rc nightly_order(struct nightly *n, const char *period, const char *team, nightly_order_cb *cb, void *arg,
                      struct error *e) SPW_MUST_USE;
/* cb is not to be called any more. */
void nightly_order_forget(struct nightly *n, const void *arg);

/* The outbox's file; the caller's. */
char *nightly_outbox(const struct config *c);
/* Its lines of /metrics; arg: the struct nightly. */
enum rc nightly_metrics(const void *arg, struct strbuf *out) SPW_MUST_USE;

#endif
