/* What has been reported and to whom it is still to be sent: a SQLite file, so that neither a crash nor a restart loses
 * a delivery or makes two of one.
 *
 *   outbox_put()  a report, what is sent of it and to whom: all of it in one step, or nothing
 *   outbox_take() the next that is due --> it is delivered --> outbox_note(): sent, or when it is tried again, or given up
 *
 * Each recipient is a delivery of his own: one whose server refuses him delays nobody else. Between the delivery and
 * its note a crash may come; it is then sent again under the same Message-ID (a webhook: the same id), by which the
 * other side knows it. What was sent to everybody keeps its line; its parts are dropped.
 *
 * An object is a connection, one thread's at a time; several may have the file open. Blocks. */
#ifndef SCHEDULER_NIGHTLY_OUTBOX_H
#define SCHEDULER_NIGHTLY_OUTBOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum outbox_kind { OUTBOX_MAIL, OUTBOX_WEBHOOK, OUTBOX_KINDS };
const char *outbox_kind_name(enum outbox_kind k); /* "mail", "webhook" */
enum outbox_state { OUTBOX_WAITING, OUTBOX_SENT, OUTBOX_GIVEN_UP };
const char *outbox_state_name(enum outbox_state s);

enum outbox_role { OUTBOX_TEXT, OUTBOX_HTML, OUTBOX_FILE, OUTBOX_NOTICE }; /* a mail's first three; a webhook's body */
struct outbox_part {
    enum outbox_role role;
    const char *name, *type; /* of a file; type: as in text/csv */
    const void *bytes;
    size_t n;
};
struct outbox_target {
    enum outbox_kind kind;
    const char *to; /* a mail address; of a webhook: "webhook" */
};
struct outbox_run {            /* a report that was made */
    const char *period, *team; /* team NULL: of everything */
    const char *subject, *from;
    const char *message_id; /* of all its deliveries; unique */
    const char *files;      /* their names, one per line */
    int64_t made_s, open_hours;
    const struct outbox_part *parts;
    const struct outbox_target *targets;
    int n_parts, n_targets;
};
#define OUTBOX_PARTS_MAX   8
#define OUTBOX_TARGETS_MAX 1000 /* of one report */

struct outbox;
/* Made where it is missing. RC_UNSUPPORTED: a newer version's. */
enum rc outbox_open(struct outbox **o, const char *path, struct error *e) SPW_MUST_USE;
void outbox_close(struct outbox *o); /* NULL is fine */

/* The moment of the night that was done last; -1: none ever was. */
enum rc outbox_done(struct outbox *o, int64_t *done_s, struct error *e) SPW_MUST_USE;
enum rc outbox_set_done(struct outbox *o, int64_t done_s, struct error *e) SPW_MUST_USE;
/* Was this one's nightly report made? */
enum rc outbox_has(struct outbox *o, const char *period, const char *team, bool *has, struct error *e) SPW_MUST_USE;
/* OUTBOX_NIGHTLY: once for a period and team; the second time nothing happens. OUTBOX_AGAIN: because somebody asked for
 * it. */
enum outbox_why { OUTBOX_NIGHTLY, OUTBOX_AGAIN };
enum rc outbox_put(struct outbox *o, const struct outbox_run *r, enum outbox_why why, struct error *e) SPW_MUST_USE;

struct outbox_item {
    int64_t id, since_s; /* since when it waits */
    int tries;           /* so far, without this one */
    enum outbox_kind kind;
    char *to, *subject, *from, *message_id;     /* owned */
    char *all_to;                               /* of a mail's head: all recipients of the report; owned */
    struct outbox_part parts[OUTBOX_PARTS_MAX]; /* owned */
    int n_parts;
};
/* Of those of that kind that are due the one that was tried the least, so that none which always fails stands before
 * the others. RC_NOT_FOUND: none is; *next_s: when one will be, INT64_MAX: never. In any case outbox_item_fini(). */
enum rc outbox_take(struct outbox *o, enum outbox_kind kind, int64_t now_s, struct outbox_item *item, int64_t *next_s,
                    struct error *e) SPW_MUST_USE;
void outbox_item_fini(struct outbox_item *item);
/* What became of a try. why: in words, "" where it was sent. OUTBOX_WAITING: it is tried again at next_s. */
enum rc outbox_note(struct outbox *o, int64_t id, enum outbox_state state, const char *why, int64_t now_s,
                    int64_t next_s, struct error *e) SPW_MUST_USE;
/* All that wait for a mail server (or webhook) that is not there wait until then: one try for all. */
enum rc outbox_postpone(struct outbox *o, enum outbox_kind kind, int64_t next_s, struct error *e) SPW_MUST_USE;
/* All that wait are due now: something is said to be right again. */
enum rc outbox_hurry(struct outbox *o, enum outbox_kind kind, int64_t now_s, struct error *e) SPW_MUST_USE;
/* Seconds until the next try after so many: 2, 4, 8, ... to an hour, a fifth more or less by `random`. */
int64_t outbox_backoff_s(int tries, uint32_t random);

struct outbox_counts {
    int64_t waiting, failing,
        given_up; /* failing: of those that wait, tried in vain before; given_up: that are still listed */
};
enum rc outbox_count(struct outbox *o, struct outbox_counts counts[OUTBOX_KINDS], struct error *e) SPW_MUST_USE;

struct outbox_line {                                /* borrowed for the call */
    const char *period, *team, *files, *message_id; /* team NULL: of everything */
    int64_t run, made_s, open_hours;
    bool again;
    const char *to; /* NULL: it goes to nobody */
    enum outbox_kind kind;
    enum outbox_state state;
    int tries;
    int64_t next_s, sent_s; /* 0: not */
    const char *error;      /* of the last try; NULL: none */
};
typedef void outbox_line_cb(const struct outbox_line *l, void *arg);
/* The newest `last` reports, newest first, a line for each delivery of theirs. */
enum rc outbox_list(struct outbox *o, int last, outbox_line_cb *each, void *arg, struct error *e) SPW_MUST_USE;
/* Reports that were made before that go, the oldest first; each() has the names of their files, unless a newer one has
 * them. */
typedef void outbox_file_cb(const char *files, void *arg);
enum rc outbox_forget(struct outbox *o, int64_t before_s, outbox_file_cb *each, void *arg,
                      struct error *e) SPW_MUST_USE;

#endif
