/* The thread that folds the ledger's journal (ahead.h), beside the ledger's writer, which fills it.
 *
 *            folder_accepts()                folder_put()            all folded, and nothing put since
 *   NO FILE -----------------> being made -> EMPTY -----> FILLED ------------------------------------> EMPTY
 *                                              ^            | piles up, or late: the writer folds, too
 *                                              |            | a write or a flush fails: BROKEN
 *   BROKEN: what was put before is folded; then the writer gives the journal up, and rows go by it until the next
 *   start.
 *
 * The thread folds what has waited for FOLD_MS, or is FOLD_ROWS; each piece when a core has nothing else to do
 * (leisure.h), since nobody waits for it but readers. Whoever has the file is not put aside, though: others may wait
 * for that. Where it is late by FOLD_LATE_MS, or where the writer needs the room, or the file, he folds himself. Only
 * where a quarter of the ring is folded and not flushed, or the room is needed, is a transaction flushed: until then
 * the journal has it all, and the disk is the groups'. What cannot be folded (the file is locked, or full) is durable
 * where it is, and tried again: for another process that has it locked nobody waits but the writer, once the ring is
 * full. While anything is unfolded the ledger's connection is nobody's but this module's; else it is the writer's, and
 * only he puts something in.
 *
 * All functions but folder_bytes() and folder_trouble() are for the writer's thread. */
#ifndef SCHEDULER_BOOKS_FOLDER_H
#define SCHEDULER_BOOKS_FOLDER_H

#include "scheduler/books/ledger_internal.h"

#define FOLD_MS      100 /* what has come meanwhile is folded together */
#define FOLD_LATE_MS 300
#define FOLD_ROWS    1000 /* or these, if they come before */
#define FOLD_PILE    16   /* of the ring, a part: 3,000 rows. More is work that those who come later would pay for */

struct folder;
/* For the ledger of these options, open in `db`, in whose journal nothing is. Where rows always go there its file is
 * made now, else when it is first asked for. */
enum rc folder_start(struct folder **f, const struct ledger_options *o, sqlite3 *db,
                     const struct ledger_inserts *inserts, struct error *e) SPW_MUST_USE;
/* Everything is folded, and the journal's file removed; what cannot be folded now is when the ledger is opened next.
 * Before `db` is closed. NULL is fine. */
void folder_stop(struct folder *f);

bool folder_accepts(struct folder *f);  /* false: there is no file yet, or it is broken */
bool folder_is_empty(struct folder *f); /* the connection is the caller's */
/* Where entries of the next group are packed: behind what is in it. */
struct strbuf *folder_frame(struct folder *f);
/* That group, of so many entries, is durable. RC_FULL: there is no room for it, and none can be made. RC_IO: it is
 * not, and the journal is broken. */
enum rc folder_put(struct folder *f, int entries, struct error *e) SPW_MUST_USE;
/* Folds until it is empty. An error: why that cannot be; the connection is not the caller's. */
enum rc folder_drain(struct folder *f, struct error *e) SPW_MUST_USE;

/* Where nothing is put: folds what is late. */
void folder_help(struct folder *f);

int64_t folder_bytes(struct folder *f); /* unfolded. NULL: 0 */
/* What the thread met since it was asked last: why it cannot go on, or an entry that it passed over, or lost. False:
 * nothing. */
bool folder_trouble(struct folder *f, char *text, size_t size);

#endif
