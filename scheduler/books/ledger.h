/* The ledger: one row per request in SQLite (WAL), written by a worker thread in group commits, so that no loop ever
 * waits for a disk. A row is durable before its request's last byte leaves.
 *
 * One ledger per process, one port per event loop. ledger_append() gathers a row in the loop's port and returns; at
 * the end of the loop's turn all that was gathered goes to the writer at once, and what a commit has finished comes
 * back as one batch: `done` is called on the port's loop once the row is committed (or with the error, after which
 * the configured answer applies). The queue is bounded over all ports: RC_FULL says refuse new work. Where rows come
 * thick and fast they may go into a journal first (ahead.h), which is quicker to flush, and from there into the
 * file. Where there is a spool (spool.h), rows that the file cannot take are durable there, and are replayed when it
 * can again.
 *
 * Threads: a port belongs to its loop's thread, from ledger_port_new() to ledger_port_free(); ledger_stats(),
 * ledger_is_failing() and ledger_last_error() are for any thread; the others are for the thread that opened the
 * ledger. Readers (ledger_read, the command line) open the file read-only on their own connection.
 *
 * A row is never changed. What was booked wrongly is put right by another row, of a table of its own (finance.h,
 * finance_correct()). */
#ifndef SCHEDULER_BOOKS_LEDGER_H
#define SCHEDULER_BOOKS_LEDGER_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/money.h"

enum ledger_outcome {
    LEDGER_OK = 0,    /* answered whole */
    LEDGER_CANCELLED, /* the client left; charged for what was generated */
    LEDGER_FAILED,    /* cut off or refused by every node after it was accepted */
};
const char *ledger_outcome_name(enum ledger_outcome o); /* "ok", "cancelled", "failed" */

/* What a node's steps were for it: time and energy of each step, divided among its sequences (docs/NODE_API.md, Usage).
 * `hour_s`: when the hour began in which that was, Unix time. */
struct ledger_use {
    int64_t hour_s, busy_us, millijoules; /* millijoules -1: not known */
};
#define LEDGER_USES 4 /* of a leg; the last takes what is beyond */

/* One attempt on one node, in order from 1. */
struct ledger_leg {
    int leg;
    char node[68], provider[68]; /* the node may be gone before the row is written. provider "": not known */
    char numerics[36];           /* class of an engine; "": a node of no known class */
    const char *outcome;         /* static text: "ok", "cancelled", or how it failed */
    const char *market;          /* static text: "on-prem", "spot", "on-demand", "api"; NULL: not known */
    char domain[64];             /* cloud/region/zone/type, whose machines fail together; "": not known */
    int64_t tokens_input,
        tokens_cached_input; /* that this node read for it; of one that took an answer up: with what had been said */
    int64_t tokens_output;   /* of this leg; over all legs of an answer they add up to the row's */
    struct wall started, ended;
    struct ledger_use uses[LEDGER_USES]; /* by hour, in order */
    int n_uses;                          /* 0: the node doesn't tell */
};

/* Strings and legs are copied by ledger_append; NULL is stored as NULL. */
struct ledger_row {
    const char *request_id;
    const char *tenant, *team, *key_id;
    const char *model, *node, *provider;
    const char *asked_model;     /* what the client wrote, where that was another name for `model` */
    const char *service_class;   /* NULL: the ordinary one */
    const char *cache;           /* "hit": from the cache; "collapsed": from a like request under way; NULL: computed */
    struct pusd saved;           /* what the answer would have cost, where it was not computed for this request */
    const char *idempotency_key; /* the client's */
    int repeat;                  /* 0: the first under its idempotency key; n: computed again for the nth time */
    const char *request_hash;    /* with a key: tells it from another request */
    const char *project, *user;  /* of the team; written, and searched by ledger_spent_since() */
    const char *tags;            /* ",name=value,name=value,": the request's labels; likewise */
    const char *hold_id;         /* of the hold that ends with the row; NULL: request_id. Not kept */
    struct pusd budget_waste;    /* beside the charge, what counts as spent in its budgets. Not kept */
    const char *budgets;         /* whose periods the charge counts in: see ledger_budgets.h; NULL: none */
    bool streamed;
    int attempts;      /* nodes tried */
    int continuations; /* times the answer went on on another node */
    bool cross_class;  /* ... and once or more in another numerics class: the text may differ from an undisturbed one */
    struct token_counts tokens;
    int64_t tokens_reasoning;   /* part of tokens.output; 0 where nobody tells */
    const char *usage_source;   /* "provider": the node's own figures; "counted": ours, when it gave none */
    struct token_prices prices; /* that the charge was computed with */
    int64_t price_version; /* of them: which change of finance.h or of the configuration; 0: before there were any */
    struct pusd reserved;  /* the most that its budgets held for it; 0: none covers it */
    struct pusd charge;
    struct pusd charge_max;      /* what the client would pay at most: the charge is cut to it; 0: no such bound */
    const char *market, *domain; /* of the node that the row names; as in its leg. NULL: not known */
    int64_t busy_us,
        millijoules; /* over all legs; -1: no node told. Only rows that are read: a writer's are its legs' */
    struct wall accepted, first_byte, finished; /* first_byte 0: none */
    enum ledger_outcome outcome;
    int http_status;
    const char *error;             /* short code, no request content */
    const struct ledger_leg *legs; /* to be appended; rows that are read have none: ledger_read_legs() */
    int n_legs;
};

struct ledger;
/* Do rows go into a journal first (ahead.h), to be folded into the file many at a time? */
enum ledger_journal {
    LEDGER_JOURNAL_OFF,
    LEDGER_JOURNAL_AUTO,   /* while they come thick and fast, or somebody else has the file */
    LEDGER_JOURNAL_ALWAYS, /* for tests */
};
struct ledger_options {
    const char *path;    /* NULL: off. Rows are taken, forgotten, and called durable in the same turn of the loop */
    int queue_max;       /* rows waiting; 0: 65536 */
    int group_ms;        /* gather each group for so long; 0: up to 1 ms where rows come fast, else commit at once */
    int busy_ms;         /* longest wait for another process that holds the file; 0: 5 s */
    const char *spool;   /* spool.h: where rows go while the file cannot be written; NULL: there is none */
    int64_t spool_bytes; /* its bound; 0: rows wait instead, but what is left in one is replayed */
    enum ledger_journal journal;
    int64_t journal_bytes; /* of its ring; 0: AHEAD_BYTES */
    const char *vfs;       /* SQLite VFS; NULL: the system's. Tests put faults in here */
};
/* Makes the file (mode 0640) or brings its schema up to date. RC_UNSUPPORTED: written by a newer program. RC_INVALID:
 * not a ledger. Blocks; at start. */
enum rc ledger_open(struct ledger **l, const struct ledger_options *o, struct error *e) SPW_MUST_USE;
/* After the last of its ports is free. NULL is fine. */
void ledger_close(struct ledger *l);

/* A loop's way to the writer and back. */
struct ledger_port;
enum rc ledger_port_new(struct ledger_port **p, struct ledger *l, struct event_base *loop,
                        struct error *e) SPW_MUST_USE;
/* Waits until all that was appended here is committed, or has failed, and calls back for it from inside. Blocks; only
 * at the end of a drain. NULL is fine. */
void ledger_port_free(struct ledger_port *p);

/* In the order of the port's appends, on its loop, never from inside ledger_append(). RC_OK: durable. RC_CONFLICT:
 * there is a row of this request_id already, which stays as it is (a row that goes into the journal is told RC_OK
 * then, too). RC_INVALID: token counts that cannot be. RC_FULL: the disk; RC_AGAIN: another process held the file
 * too long; RC_IO: anything else. After an error the row is not in the ledger and may be appended again (after RC_IO
 * from a failing disk it may turn up nevertheless: the second append then ends with RC_CONFLICT). */
typedef void ledger_done_cb(enum rc rc, void *arg);
/* done may be NULL. RC_FULL: the queue's bound; RC_CANCELLED: the port is being freed; nothing was queued. Takes no
 * lock and makes no system call. */
enum rc ledger_append(struct ledger_port *p, const struct ledger_row *row, ledger_done_cb *done,
                      void *arg) SPW_MUST_USE;

/* Whoever is about to write to clients in this turn and then to append: without a disk to wait for, `done` is called
 * before those writes leave, and both leave together. True: that is so here. */
bool ledger_expect(struct ledger_port *p);

struct ledger_stats {
    uint64_t rows, commits, failed;
    int queued;
    int64_t last_commit_ns;  /* duration of the last commit */
    bool off;                /* there is no file */
    bool failing;            /* the last group could not be made durable: see ledger_last_error() */
    bool spooling;           /* the file cannot be written, and rows go into the spool */
    uint64_t spooled;        /* rows that have, since the start; they count in `rows`, too */
    int64_t spool_bytes;     /* that wait there */
    int64_t spool_set_aside; /* that could not be read at the start (spool.h) */
    int64_t journal_bytes;   /* durable in the journal, and not yet in the file */
};
struct ledger_stats ledger_stats(const struct ledger *l);
/* The same as stats.failing, for every request: no lock. */
bool ledger_is_failing(const struct ledger *l);
/* Text of the newest failure, "" when there was none. Returns buf. */
char *ledger_last_error(const struct ledger *l, char *buf, size_t size);

/* Newest first. Opens `path` read-only; row strings live for the call of `each`. Blocks: command line and worker
 * threads only. */
enum rc ledger_read(const char *path, int last, void (*each)(const struct ledger_row *row, void *arg), void *arg,
                    struct error *e) SPW_MUST_USE;
/* Of the period [from, until), by when they were finished, oldest first, for as long as `each` says true; when it
 * says false: RC_CANCELLED. Of this file alone: archive.h reads over files. As above. */
enum rc ledger_read_period(const char *path, struct wall from, struct wall until,
                           bool (*each)(const struct ledger_row *row, void *arg), void *arg,
                           struct error *e) SPW_MUST_USE;
/* Rows with an idempotency key that were finished since then, oldest first; of more than `most` the newest. No file:
 * none. As above, but for the start, too. */
enum rc ledger_read_repeats(const char *path, struct wall since, int most,
                            void (*each)(const struct ledger_row *row, void *arg), void *arg,
                            struct error *e) SPW_MUST_USE;
/* The legs of one request, in order; none when it is not known, or was written before there were any. As above. */
enum rc ledger_read_legs(const char *path, const char *request_id,
                         void (*each)(const struct ledger_leg *leg, void *arg), void *arg,
                         struct error *e) SPW_MUST_USE;

#endif
