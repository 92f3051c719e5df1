/* What the audit (scheduler/audit/) is told of a request, from its first byte to its last: the HMAC of its body under
 * its tenant's key, that of its answer as it leaves, piece by piece, and, when both are known, its record. The answer's
 * last bytes are made before the record and leave after it is durable, so the HMAC is of the whole body that the client
 * gets (of one who left, of what had been written to it); comments in a stream that waited are part of it. Without an
 * audit all of this does nothing. On the request's lane. */
#ifndef SCHEDULER_FRONT_AUDITED_H
#define SCHEDULER_FRONT_AUDITED_H

#include "scheduler/audit/audit.h"
#include "scheduler/audit/hmac.h"
#include "scheduler/audit/record.h"

struct request;
struct lane;
struct auth_refusal;

struct audited {
    struct hmac response;
    struct record_body request;
    bool closed;  /* all of the answer has been taken */
    bool pending; /* the audit will call back */
    bool done;    /* durable, or nobody wants it */
};
void audited_begin(struct request *r); /* its body is there */
/* Goes to the client, or will when the record is durable. */
void audited_take(struct request *r, const void *data, size_t n);
/* Nothing comes after this. */
void audited_close(struct request *r);
/* Its record, once: done(rc, r) when it is durable, or given up as configured. RC_FULL: to be tried again shortly.
 * RC_OK and r->audited.done: there is nothing to wait for. */
enum rc audited_append(struct request *r, const struct ledger_row *row, audit_done_cb *done) SPW_MUST_USE;
/* May new work come in? Not while it could not be recorded. */
bool audited_takes_work(const struct lane *l);
/* Somebody was not let in. */
void audited_refused(struct lane *l, const struct auth_refusal *why, const char *peer);

#endif
