/* Folds the ledger's log back into its file, so that no row waits for it: a thread of its own, on a connection of its
 * own.
 *
 *   writer: commit -> the log has grown by LEDGER_LOG_PAGES -> thread: a passive checkpoint, beside the next commits
 *   writer: commit after that -> folds back the few pages that have come meanwhile -> its next commit begins the log anew
 *
 * (SQLite begins the log anew only when all of it is in the file: beside commits a thread alone would never come to its
 * end, and the log would grow.) Bounded: with LEDGER_LOG_PAGES_MAX in the log the writer does all of it itself. While
 * somebody reads an old state nobody can; it is tried anew for each LEDGER_LOG_PAGES. A checkpoint that fails loses
 * nothing, and is tried again likewise: rows are durable in the log. */
#ifndef SCHEDULER_BOOKS_LEDGER_CHECKPOINT_H
#define SCHEDULER_BOOKS_LEDGER_CHECKPOINT_H

#include "scheduler/books/ledger_internal.h"

#define LEDGER_LOG_PAGES     1000  /* of 4 KiB */
#define LEDGER_LOG_PAGES_MAX 16000 /* what PRAGMA journal_size_limit keeps of its file */

struct ledger_checkpoint;
/* `writer` is the connection that commits, of the file in `o`, and stays the caller's; from here on its commits tell c. */
enum rc ledger_checkpoint_start(struct ledger_checkpoint **c, sqlite3 *writer, const struct ledger_options *o,
                                struct error *e) SPW_MUST_USE;
/* After the last commit, before `writer` is closed. Waits for a checkpoint that is under way. NULL is fine. */
void ledger_checkpoint_stop(struct ledger_checkpoint *c);

#endif
