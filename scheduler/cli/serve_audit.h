/* The daemon's audit: opened beside the ledger, reconciled with it, told of starts, ends and changed configurations,
 * its heads exported to a file and a webhook every audit.heads.every. On the loop's thread; files are written by a
 * worker. */
#ifndef SCHEDULER_CLI_SERVE_AUDIT_H
#define SCHEDULER_CLI_SERVE_AUDIT_H

#include "scheduler/audit/audit.h"
#include "scheduler/config/config.h"

struct serve_audit;
/* *s NULL: none is kept. After the ledger is open, before there is work. */
enum rc serve_audit_open(struct serve_audit **s, const struct config *c, struct event_base *loop, const struct log *log,
                         struct error *e) SPW_MUST_USE;
struct audit *serve_audit_of(const struct serve_audit *s); /* NULL: none */
void serve_audit_config(struct serve_audit *s, const struct config *before, const struct config *after);
void serve_audit_close(struct serve_audit *s); /* when its ports are gone; the last head is exported. NULL is fine */

#endif
