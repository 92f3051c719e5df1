/* Requests that may come twice: those with an Idempotency-Key. One table per process, for all lanes, behind a short
 * lock of its own that is never held over I/O or a callback.
 *
 * A key means one request of one tenant. Its life:
 *
 *                 repeats_ask()            repeats_finish(answer)
 *     unknown ---------------> RUNNING ------------------------> KEPT ----.
 *        ^                      |   ^ \                            |      | the answer had to make room,
 *        |   repeats_fail(), or |   |  `-- repeats_finish(NULL) -. |      | or a restart lost it
 *        |   repeats_give_up()  |   |                            v v      v
 *        +----------------------+   +----- repeats_ask() ------- ANSWERED
 *        |                                 at most REPEATS_MAX times
 *        +------------------ `keep_ms` after the answer: forgotten ------- (KEPT, ANSWERED)
 *
 * Who asks for a key that is RUNNING waits for its answer, on whatever lane; a key that is KEPT gives it at once; one
 * that is ANSWERED is computed again, free of charge: the first time was paid for. A failure is not kept: it is told to
 * those who wait, and whoever asks next begins anew.
 *
 * A computation whose client has left goes on while somebody waits for it (repeats_give_up()); when the last of them
 * leaves too, its owner is told (`unwanted`) and gives up.
 *
 * Bounds: `keys_max` keys, of which those answered longest ago are forgotten first; `bytes_max` bytes of answers, kept
 * and growing, of which those kept longest lose theirs first; REPEAT_WAITERS_MAX waiters per key. */
#ifndef SCHEDULER_FRONT_REPEATS_H
#define SCHEDULER_FRONT_REPEATS_H

#include <sys/queue.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/mailbox.h"
#include "scheduler/auth/hash_table.h"
#include "scheduler/wire/errors.h"

#define REPEATS_MAX          3 /* computed again, for one key */
#define REPEAT_WAITERS_MAX   1024
#define REPEAT_KEY_BYTES_MAX 255
#define REPEAT_HEADERS_MAX   16
#define REPEAT_ANSWER_MAX    ((size_t)48 << 20) /* of one answer that is kept; below HTTP_REPLY_PENDING_MAX */

/* What a client got, or why it got nothing. Built by one, and constant once it was handed to the table. */
struct repeat_answer {
    _Atomic int refs;
    int status;
    bool streamed, failed; /* failed: `error` alone counts */
    struct http_header headers[REPEAT_HEADERS_MAX];
    int n_headers;
    struct arena *arena; /* the headers' texts; owned */
    struct strbuf body;
    struct api_error error;
};
struct repeat_answer *repeat_answer_new(int status, const struct http_header *headers, int n); /* one reference */
void repeat_answer_unref(struct repeat_answer *a);                                             /* NULL is fine */

struct repeats;
struct repeats_options {
    int keys_max;
    int64_t bytes_max, keep_ms;
    const struct clock *clock; /* borrowed */
};
struct repeats *repeats_new(const struct repeats_options *o);
/* Nobody owns or waits any more. NULL is fine. */
void repeats_free(struct repeats *t);

/* The client's words. RC_INVALID: not 1 to 255 printable ASCII characters. */
enum rc repeat_key_check(const char *key, struct error *e) SPW_MUST_USE;

struct repeat_question {
    const char *tenant; /* NULL: none */
    const char *key;
    struct hash what; /* of all that makes another request of it */
};
/* Hash of the parts, in order. */
struct hash repeat_hash(const struct iovec *parts, int n);

/* The owner of a key that is RUNNING: whoever computes it. One thread's; ends with repeats_finish(), repeats_fail() or
 * repeats_give_up(). */
struct repeat_ticket;
int repeat_number(const struct repeat_ticket *k); /* 0: the first; n: free of charge, for the nth time */

/* One who waits: caller's storage, which is the table's until told() was called or repeats_leave() said so. */
struct repeat_wait {
    TAILQ_ENTRY(repeat_wait) entry;
    struct repeat_entry *of;      /* NULL: not in line (any more) */
    struct mailbox *box;          /* set by the caller, as is the next */
    struct mail mail;             /* deliver: on the waiter's loop, once */
    struct repeat_answer *answer; /* then: a reference, the waiter's. NULL: it was too large to be kept */
};

enum repeat_role {
    REPEAT_COMPUTE, /* *ticket is the caller's */
    REPEAT_WAIT,    /* w is in line */
    REPEAT_ANSWER,  /* *answer is a reference */
    REPEAT_OTHER,   /* the key stands for another request */
    REPEAT_SPENT,   /* computed again as often as may be */
    REPEAT_CROWD,   /* a bound is reached */
};
/* After repeats_give_up() said no: unwanted(arg) is called on box's loop when the last who waited has left; not after
 * the ticket's end. */
struct repeat_owner {
    struct mailbox *box;
    void (*unwanted)(void *arg);
    void *arg;
};
enum repeat_role repeats_ask(struct repeats *t, const struct repeat_question *q, const struct repeat_owner *owner,
                             struct repeat_ticket **ticket, struct repeat_wait *w,
                             struct repeat_answer **answer) SPW_MUST_USE;
/* The waiter's client is gone. True: w is the caller's again. False: its mail is on its way, and brings the end. */
bool repeats_leave(struct repeats *t, struct repeat_wait *w) SPW_MUST_USE;

/* For the owner. `arg` of its callback, from now on; NULL: it is not called. */
void repeat_ticket_for(struct repeat_ticket *k, void *arg);
/* The answer will grow by n bytes. False: there is no room; it can't be kept. */
bool repeats_grow(struct repeats *t, struct repeat_ticket *k, size_t n) SPW_MUST_USE;
/* Answered and in the books. answer: the reference goes over; NULL: not kept. */
void repeats_finish(struct repeats *t, struct repeat_ticket *k, struct repeat_answer *answer);
enum repeat_use { REPEAT_UNUSED, REPEAT_USED }; /* USED: it counts as one of REPEATS_MAX, though it gave no answer */
/* The owner's client is gone. True: nobody waits, and the ticket has ended as by repeats_fail(). False: somebody
 * does. */
bool repeats_give_up(struct repeats *t, struct repeat_ticket *k, enum repeat_use use) SPW_MUST_USE;
/* Not answered: those who wait are told why. */
void repeats_fail(struct repeats *t, struct repeat_ticket *k, enum repeat_use use, const struct api_error *why);

/* At start: what the ledger knows. ago_ns: since it was answered. In the order of the answers. */
void repeats_restore(struct repeats *t, const struct repeat_question *q, int number, int64_t ago_ns);

struct repeats_stats {
    uint64_t computed_again, waited, replayed, forgotten; /* forgotten: keys and answers that had to make room */
    int64_t bytes;
    int keys;
};
struct repeats_stats repeats_stats(struct repeats *t); /* any thread */

#endif
