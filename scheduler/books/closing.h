/* The close of an hour in the ledger's file: rows and meters in, bills divided (close.h), roll-ups out (rollup.h), all
 * of it held against each other.
 *
 *   rows, legs, uses (ledger.h) --+                        +--> allocations, node_hours
 *   node_meters (meter.h) --------+--> closing_hour() -----+--> hour_rollups, hour_charges
 *   bills (the caller's) ---------+                        +--> hours: the mark that it is closed
 *
 * An hour is closed once, some minutes after its end, so that what ran over it has its row; what was not known then is
 * part of its variance. The writer of rows is not kept waiting: everything is reckoned in a temporary database, then
 * copied in pieces of CLOSING_PIECE rows. What a crash leaves of an hour without its mark is removed by the next try;
 * readers look at marked hours only.
 *
 * Problems that were found stand in words in the mark, and the hour is closed nevertheless: nothing is hidden, and the
 * rows are as they are. Blocking; worker threads and the command line. */
#ifndef SCHEDULER_BOOKS_CLOSING_H
#define SCHEDULER_BOOKS_CLOSING_H

#include "base/alloc.h"
#include "scheduler/books/close.h"
#include "scheduler/books/rollup.h"

#define CLOSING_PIECE 2000

struct closing_node { /* of whom a bill is wanted; strings for the call, NULL: not known */
    const char *node, *pool, *provider, *market, *domain;
    int64_t hour_s;
    int64_t up_us;                       /* in which it was seen */
    const struct bill_quarter *quarters; /* what it drew */
    int n_quarters;
};
struct closing_bill {
    struct bill bill; /* tokens: reckoned from the legs where by_tokens */
    bool by_tokens;
    struct token_prices prices;
};
/* RC_NOT_FOUND: it has no bill, costs nothing. Anything else but RC_OK: the hour is not closed. */
typedef enum rc closing_bill_cb(const struct closing_node *n, struct closing_bill *b, void *arg, struct error *e);

struct closing {
    const char *path;
    int64_t hour_s;
    struct wall now;
    closing_bill_cb *bill;
    void *arg;
};
/* RC_CONFLICT: it is closed already. *problems: bits of enum close_problem; their words, one per line and with names,
 * are appended to `text` where that is not NULL. */
enum rc closing_hour(const struct closing *c, unsigned *problems, struct strbuf *text, struct error *e) SPW_MUST_USE;

/* Are closed hours still the sums of what they are made from, and rows in themselves right? The file is only read. As
 * above. */
struct closing_verified {
    int64_t hours, rows, node_hours, allocations;
};
enum rc closing_verify(const char *path, int64_t from_s, int64_t until_s, struct closing_verified *v,
                       unsigned *problems, struct strbuf *text, struct error *e) SPW_MUST_USE;

/* Hours that have rows or meters, ended before until_s and are not closed, oldest first. Returns through `each`. */
enum rc closing_due(const char *path, int64_t until_s, void (*each)(int64_t hour_s, void *arg), void *arg,
                    struct error *e) SPW_MUST_USE;

#endif
