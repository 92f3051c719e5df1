/* What records say, as JSON on one line. Texts of people that could be anything are escaped by JSON; the contents of
 * prompts and answers are never in a record, only their HMACs under the tenant's key. Members whose value is not known
 * are left out.
 *
 *   kind      | when                                        | beside "k" and "t" (UTC)
 *   request   | a request is settled                        | struct record_request
 *   admin     | before an admin action is carried out       | method, path, name, query, body, by, peer
 *   refused   | a login is refused                          | door, code, key, peer
 *   refused_more | more were refused than are written       | n
 *   start     | the scheduler starts                        | version, pid, policy
 *   stop      | it ends in good order                       |
 *   config    | a configuration was taken over              | before, after (policy), changes
 *   recovered | after a crash: store.h                      | kept, dropped
 *   lost      | records were lost (AUDIT_CONTINUE)          | n, since
 *   void      | a record of a request that was never settled| id
 *
 * Pure. */
#ifndef SCHEDULER_AUDIT_RECORD_H
#define SCHEDULER_AUDIT_RECORD_H

#include "base/json_write.h"
#include "scheduler/books/ledger.h"

struct record_body {
    bool known;
    uint8_t hmac[32];
    int64_t bytes;
};
struct record_request {
    const struct ledger_row *row; /* who, what, where, how much */
    const char *policy;           /* version of the configuration that decided */
    const char *peer;             /* the client's address */
    const char *why;              /* decision: "cost", "fastest", ...; NULL: none was taken */
    struct record_body request, response;
    bool recovered; /* from the ledger, after a crash: bodies and policy are not known */
};
/* Into out, which is cleared first. RC_FULL: does not fit (its legs are left out first). */
enum rc record_request(struct strbuf *out, const struct record_request *r) SPW_MUST_USE;

struct record_admin {
    struct wall at;
    const char *method, *path, *name, *query, *by, *peer;
    const char *body; /* NULL: none */
    size_t n;
};
#define RECORD_ADMIN_BODY_MAX 4096 /* of a longer one the SHA-256 stands there */
enum rc record_admin(struct strbuf *out, const struct record_admin *r) SPW_MUST_USE;

struct record_refused {
    struct wall at;
    const char *door, *code, *key, *peer; /* door: "api", "admin"; key: its id where it is known, never its text */
};
enum rc record_refused(struct strbuf *out, const struct record_refused *r) SPW_MUST_USE;

/* {"k":kind,"t":at, ...: the rest is the caller's, with json_*(w) and record_end(). */
struct json_writer record_begin(struct strbuf *out, const char *kind, struct wall at);
enum rc record_end(struct json_writer *w) SPW_MUST_USE;

#endif
