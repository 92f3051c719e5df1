/* What we have asked providers for, on disk before they are asked: an SQLite file in the state folder, written on a
 * thread of its own.
 *
 *   journal_intend(token, ...) --> done(RC_OK): it is durable --> provider->launch() --> journal_known(id, price)
 *                                                                        ... journal_price() ... --> journal_end()
 *
 * So whenever this process ends, by whatever: either the provider was never asked, or the intent is found again, open,
 * by the next one, which looks for its token in the provider's list. Beside that it is the bill: from when to when what
 * cost how much.
 *
 * The loop's thread only; what is handed over is written in order. An intent that cannot be written is told RC_IO, and
 * nothing is launched. Anything else is tried again every second and counted, and what comes after it waits, intents
 * too: a disk that fails keeps no promises. */
#ifndef SCHEDULER_CAPACITY_JOURNAL_H
#define SCHEDULER_CAPACITY_JOURNAL_H

#include <event2/event.h>

#include "base/error.h"
#include "base/log.h"
#include "base/money.h"
#include "policies/losses.h"

#define JOURNAL_TOKEN_MAX 64 /* bytes, NUL included */
#define JOURNAL_NAME_MAX  65
#define JOURNAL_ID_MAX    256 /* of the provider's ids and offers */

struct journal_entry {
    char token[JOURNAL_TOKEN_MAX], name[JOURNAL_NAME_MAX], provider[JOURNAL_NAME_MAX], pool[JOURNAL_NAME_MAX];
    char id[JOURNAL_ID_MAX], offer[JOURNAL_ID_MAX]; /* "": not known (yet) */
    int64_t intended_s, launched_s;                 /* Unix time; launched 0: not known */
    int32_t billing_min_s;
    struct pusd price_hour; /* the newest; before it is known: what it may cost at most */
};

struct journal;
/* Blocks. owner (33 bytes): this scheduler's id, made with the file; the tag of everything it launches. */
enum rc journal_open(struct journal **j, const char *path, struct event_base *loop, const struct log *log,
                     char owner[33], struct error *e) SPW_MUST_USE;
/* What is queued is written first, but for intents: those are told RC_CANCELLED, from inside. NULL is fine. */
void journal_close(struct journal *j);
/* Every entry without an end, oldest first. Blocks; at the start only. */
enum rc journal_each_open(struct journal *j, void (*each)(const struct journal_entry *i, void *arg), void *arg,
                          struct error *e) SPW_MUST_USE;

/* done on the loop, never from inside. RC_OK: durable. Anything else: it is not there, and nothing may be asked for. */
typedef void journal_done_cb(enum rc rc, const char *token, void *arg);
void journal_intend(struct journal *j, const struct journal_entry *i, journal_done_cb *done, void *arg);
/* The provider has it: its id, which offer was taken, since when. Again and again is fine. */
void journal_known(struct journal *j, const char *token, const char *id, const char *offer, int64_t launched_s,
                   struct pusd price_hour);
/* It costs so much from then on. */
void journal_price(struct journal *j, const char *token, struct pusd price_hour, int64_t at_s);
void journal_end(struct journal *j, const char *token, int64_t at_s, const char *reason);
/* An offer costs so much from then on: so does all that was launched of it and lived longer, whether it is there still,
 * or known already, or neither. Later ones come later. Again is fine. */
void journal_market(struct journal *j, const char *provider, const char *offer, struct pusd price_hour, int64_t at_s);

/* What is known of how often a pool's spot nodes are taken back. */
void journal_losses(struct journal *j, const char *pool, const struct losses *l);
enum rc journal_each_losses(struct journal *j, void (*each)(const char *pool, const struct losses *l, void *arg),
                            void *arg, struct error *e) SPW_MUST_USE; /* blocks; at the start only */

struct journal_stats {
    uint64_t written, failed;
    int queued;
    bool failing;
};
struct journal_stats journal_stats(const struct journal *j);

/* What was paid, or is owed by now, for what was alive between the two (Unix seconds): each second at the price that
 * held, and at least billing_min_s of each that ended. Read on the journal's thread. */
struct journal_bill {
    struct pusd_sum paid;
    int64_t seconds; /* of instances */
    int instances;
};
typedef void journal_bill_cb(enum rc rc, const struct journal_bill *b, void *arg);
void journal_bill(struct journal *j, int64_t from_s, int64_t until_s, journal_bill_cb *done, void *arg);

/* What one name was rented as, for the books: every instance whose paid time reaches into [from_s, until_s), with all
 * of its prices, ascending; they live for the call. Opens the file read-only; any thread that may block. No file:
 * none. */
struct journal_price {
    int64_t at_s;
    struct pusd hour;
};
struct journal_rent {
    int64_t launched_s, ended_s; /* ended 0: it runs */
    int32_t billing_min_s;
    const struct journal_price *prices;
    int n_prices;
};
enum rc journal_read_rents(const char *path, const char *name, int64_t from_s, int64_t until_s,
                           void (*each)(const struct journal_rent *r, void *arg), void *arg,
                           struct error *e) SPW_MUST_USE;

#endif
