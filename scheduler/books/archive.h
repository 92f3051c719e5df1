/* Old months outside of the ledger's file. A month that is over and whose hours are closed can be moved, with its
 * rows, legs, allocations and meters, to a file of its own, a ledger like any other:
 *
 *   state/ledger.db  ->  state/ledger-archive/2026-08.db
 *
 * What reports read (hours, roll-ups, bills of nodes), finance's changes and corrections stays where it is as well.
 * A month that has such a file is read from there and only there, whatever is left of it in the ledger: so a move is
 * first a copy, which is checked, flushed and then gets its name, and then a removal in pieces of ARCHIVE_PIECE
 * rows, during which rows are written and read as always. What a crash leaves of either is finished, or begun anew,
 * by the next call.
 *
 * Blocks; worker threads and the command line. */
#ifndef SCHEDULER_BOOKS_ARCHIVE_H
#define SCHEDULER_BOOKS_ARCHIVE_H

#include "scheduler/books/closing.h"
#include "scheduler/books/ledger.h"

#define ARCHIVE_PIECE 2000

/* Moves the month that begins then (UTC). RC_AGAIN: it isn't over, or an hour of it is not closed. RC_IO, RC_FULL:
 * nothing is lost, to be tried again. *rows: that were moved. */
enum rc archive_month(const char *ledger, int64_t month_s, int64_t now_s, int64_t *rows, struct error *e) SPW_MUST_USE;
/* The oldest month with rows in the ledger that ended `keep` months or more before the month of now_s began; -1:
 * none. */
enum rc archive_due(const char *ledger, int keep, int64_t now_s, int64_t *month_s, struct error *e) SPW_MUST_USE;
char *archive_path(const char *ledger, int64_t month_s); /* the caller's */

/* As their namesakes in ledger.h and closing.h, over the ledger and its archives. */
enum rc archive_read_period(const char *ledger, struct wall from, struct wall until,
                            bool (*each)(const struct ledger_row *row, void *arg), void *arg,
                            struct error *e) SPW_MUST_USE;
enum rc archive_verify(const char *ledger, int64_t from_s, int64_t until_s, struct closing_verified *v,
                       unsigned *problems, struct strbuf *text, struct error *e) SPW_MUST_USE;
/* The file that a request stands in, the caller's: the ledger's, where no archive has it. */
enum rc archive_find(const char *ledger, const char *request_id, char **path, struct error *e) SPW_MUST_USE;

/* A copy of the ledger's file as it is at one moment, while others write to it: made beside `to`, checked, flushed
 * and then renamed. RC_CONFLICT: there is a file of that name. */
enum rc archive_backup(const char *ledger, const char *to, struct error *e) SPW_MUST_USE;

#endif
