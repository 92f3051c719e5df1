/* Where the ledger's writer puts what the ledger's file cannot take, if the configuration says so: a bounded file,
 * best on another disk, that is replayed into the ledger when that can be written again, and before anything else at
 * a start.
 *
 *   -- spillway spool ID              the first line: which spool this is
 *   -- BYTES CRC32                    before each entry, of its bytes
 *   INSERT INTO ledger ...;           what the entry does to the file, as SQL
 *
 * The statements are those that the writer would have run, with their values: an entry is done to an empty twin of the
 * ledger in memory, and what SQLite runs there is written down. So a spool that an older program has left can be
 * replayed, and an operator can read it. Each group of entries is flushed before anybody is told that it is durable; an
 * end that a crash has torn, which was told to nobody, is set aside in SPOOL.cut-ID-BYTE, and so is what a damaged disk
 * makes unreadable. How far a spool has been replayed stands in the ledger, in the same transaction: exactly once. An
 * entry whose request has its row already is passed over.
 *
 * The writer's thread alone; blocks. */
#ifndef SCHEDULER_BOOKS_SPOOL_H
#define SCHEDULER_BOOKS_SPOOL_H

#include "scheduler/books/ledger_internal.h"

struct spool;
/* bytes_max 0: nothing is put in; what is there is replayed. No file and bytes_max 0: *s NULL. RC_INVALID: not a
 * spool. */
enum rc spool_open(struct spool **s, const char *path, int64_t bytes_max, struct error *e) SPW_MUST_USE;
void spool_close(struct spool *s); /* an empty one is removed. NULL is fine */

/* Entries of a group; then all of them are made durable, or (RC_FULL: the bound, or the disk's; RC_IO) none is in
 * it. */
void spool_begin(struct spool *s);
enum rc spool_add(struct spool *s, const struct ledger_row *row, const struct ledger_budget_event *event,
                  struct error *e) SPW_MUST_USE; /* one of the two; RC_INVALID: it can be in no ledger */
enum rc spool_commit(struct spool *s, struct error *e) SPW_MUST_USE;

int64_t spool_set_aside(const struct spool *s); /* bytes that could not be read when it was opened. NULL: 0 */
int64_t spool_bytes(const struct spool *s);     /* that wait; 0: nothing does */
/* All of it into the ledger, in transactions; then it is empty. An error: the rest waits. *entries: that were done. */
enum rc spool_replay(struct spool *s, sqlite3 *db, int64_t *entries, struct error *e) SPW_MUST_USE;

#endif
