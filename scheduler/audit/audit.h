/* The audit: one chain of records per scheduler (chain.h), written by a thread of its own in group commits, each of
 * which ends with a signed head. What is recorded: each request that a node had or the cache answered, admin actions
 * before they are carried out, refused logins, starts and changes of the configuration (record.h).
 *
 *   loop: audit_append() -> port.gathered -> end of the turn -> waiting -> writer: number, MAC, link, seal, write, flush
 *         done(rc) <- loop <- eventfd <- port.finished <----------------------------------+
 *
 * Beside the ledger: a request's row and its record are written at the same time by two threads, and its answer's last
 * bytes leave when both are durable. So each answered request has both. After a crash there may be one without the
 * other, of requests that were not answered whole; at the start reconcile.h finds them: a row without a record gets one
 * that says "recovered" (the hashes of its bodies are gone), a record without a row one of kind "void". From then on a
 * row without a record means that somebody has removed it (`spillway audit verify --ledger`), and a record without row
 * or void, that somebody has been at the ledger.
 *
 * When it cannot be written (disk full, broken), the writer tries again until it can, says so once and counts.
 * Meanwhile AUDIT_REFUSE: nobody is told anything, new work is refused (audit_is_failing()). AUDIT_CONTINUE: what waits
 * is given back as RC_IO, answers leave, and the first record afterwards says how many were lost. The queue's bound:
 * RC_FULL, to be tried again; with AUDIT_CONTINUE it counts as lost. Refused logins are cheap to provoke: beyond
 * logins_per_s they are counted, and the count recorded, once a second at most.
 *
 * Threads: as the ledger's (books/ledger.h): a port belongs to its loop's thread; audit_stats(), audit_is_failing(),
 * audit_newest_head() are for any thread; open and close for the one that opened it. */
#ifndef SCHEDULER_AUDIT_AUDIT_H
#define SCHEDULER_AUDIT_AUDIT_H

#include <event2/event.h>

#include "base/log.h"
#include "scheduler/audit/chain.h"

enum audit_on_failure { AUDIT_REFUSE, AUDIT_CONTINUE };
struct audit_options {
    const char *dir;      /* of the segments; made if it is not there */
    const char *key_file; /* NULL: DIR/key.pem */
    int queue_max;        /* records waiting; 0: 65536 */
    enum audit_on_failure on_failure;
    int logins_per_s;          /* 0: 20 */
    const struct clock *clock; /* borrowed */
    const struct log *log;     /* borrowed; NULL: silent */
    const struct store_io *io; /* NULL: the system's (store.h) */
};
struct audit;
/* Makes folder and key as needed, and finds the chain's end. RC_NOT_FOUND: a chain, but no key. RC_CONFLICT: the
 * chain's end does not hold. Blocks; at start. */
enum rc audit_open(struct audit **a, const struct audit_options *o, struct error *e) SPW_MUST_USE;
/* After the last of its ports is free. What waits is tried once more. NULL is fine. */
void audit_close(struct audit *a);

struct audit_port;
enum rc audit_port_new(struct audit_port **p, struct audit *a, struct event_base *loop, struct error *e) SPW_MUST_USE;
/* Waits until all that was appended here is written, or has been tried once more; calls back from inside. NULL is fine. */
void audit_port_free(struct audit_port *p);

/* In the order of the port's appends, on its loop, never from inside audit_append(). RC_OK: durable, under a signed
 * head. RC_IO: it is not recorded, and the configuration says to go on nevertheless (or the end has come). */
typedef void audit_done_cb(enum rc rc, void *arg);
/* json: one object, at most AUDIT_JSON_BYTES_MAX bytes, no line break; copied. done may be NULL. RC_FULL: nothing was
 * taken; with AUDIT_CONTINUE and RC_FULL it has been counted as lost. Takes no lock and makes no system call. */
enum rc audit_append(struct audit_port *p, const char *json, size_t n, audit_done_cb *done, void *arg) SPW_MUST_USE;
/* The same from where there is no port (start, reload), without a call back; waits for nothing. Any thread. */
enum rc audit_note(struct audit *a, const char *json, size_t n) SPW_MUST_USE;
/* May one more refused login be written just now? False: it was counted instead. Any thread. */
bool audit_login_allowed(struct audit *a);

enum audit_on_failure audit_on_failure(const struct audit *a);
bool audit_is_failing(const struct audit *a); /* for every request: no lock */
const struct audit_keys *audit_keys_of(const struct audit *a);

struct audit_stats {
    uint64_t records, groups, failures, lost, logins_not_written; /* failures: of a group; it was tried again */
    int queued;
    int64_t last_group_ns; /* duration of the last group's write */
    bool failing;
};
struct audit_stats audit_stats(const struct audit *a);
char *audit_last_error(const struct audit *a, char *buf, size_t size); /* "": none. Returns buf */
/* The newest signed head: for reports, files and webhooks. seq 0: none yet. */
struct audit_head audit_newest_head(const struct audit *a);

/* For programs without a writer (reports, the command line): the newest sealed head of the chain in dir, read from its
 * end, verified with key_file (NULL: DIR/key.pem, then the key that the chain itself names). RC_NOT_FOUND: there is no
 * chain. */
enum rc audit_read_head(const char *dir, const char *key_file, struct audit_head *h, struct error *e) SPW_MUST_USE;
/* The public part, from key_file or, NULL, from where audit_read_head() has it. */
enum rc audit_public_key(struct audit_keys *k, const char *dir, const char *key_file, struct error *e) SPW_MUST_USE;
/* Appends it as a line to a file, durably. Blocks. */
enum rc audit_export_head(const char *path, const struct audit_head *h, struct error *e) SPW_MUST_USE;

#endif
