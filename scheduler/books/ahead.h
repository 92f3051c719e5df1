/* The journal that stands in front of the ledger where rows come thick and fast: LEDGER.ahead, a file of fixed
 * length, written round and round. To put a group of rows there takes one write and one flush, of whole blocks that the
 * file has already, past the page cache where the file system can do that (O_DIRECT): there is nothing to look up, to
 * keep or to write down besides. From there they are folded into the ledger many at a time (fold.h).
 *
 *   "spillway journal FORMAT ID BYTES"    the first 4 KiB: which journal this is, how long the ring is that follows
 *   ring                                  BYTES of frames; a place in it is counted from the journal's beginning, so
 *                                         that the frame at place P lies at P modulo BYTES, part of it at the ring's
 *                                         beginning perhaps
 *   frame                                 32 bytes (ID and place among them, a CRC-32 over all of it), its entries
 *                                         (ledger_pack.h), and zeros up to the end of a block of 4 KiB
 *
 * A group is one frame: it is there whole or not at all, and no block of another is ever written again with it. The
 * next is written only when it is flushed; so a frame that cannot be read is the last, torn by a crash and told to
 * nobody; or, if one follows, a disk has damaged it. Frames of an earlier round, or of a journal of another ID, are
 * none: their place says so.
 *
 * How far it is folded stands in the ledger, in the transaction that did it (the table `spools`); what is folded may
 * be written over. While somebody writes to it he holds a lock on it (flock), which ends with his process: whoever
 * gets it knows that there is nobody, and may fold what was left.
 *
 * Numbers are in the machine's own order. One thread may write while another reads what is flushed. It all blocks. */
#ifndef SCHEDULER_BOOKS_AHEAD_H
#define SCHEDULER_BOOKS_AHEAD_H

#include "base/alloc.h"

#define AHEAD_BYTES      (INT64_C(16) << 20) /* of the ring: some 50,000 rows */
#define AHEAD_HEAD_BYTES 4096
#define AHEAD_BLOCK      4096 /* what frames begin at a multiple of: no file system or disk writes directly in larger ones */
#define AHEAD_ID_SIZE    17

struct ahead;
/* The name of a ledger's journal. Caller frees. */
char *ahead_path(const char *ledger);
/* That is there. RC_NOT_FOUND: none is. RC_INVALID: a file of another kind. RC_UNSUPPORTED: of a newer program. */
enum rc ahead_open(struct ahead **a, const char *path, struct error *e) SPW_MUST_USE;
/* For writing, with a ring of that length (whole blocks), in which everything is folded: under a new ID, from place 0,
 * locked. Waits for whoever has the lock. */
enum rc ahead_make(struct ahead **a, const char *path, int64_t bytes, struct error *e) SPW_MUST_USE;
void ahead_close(struct ahead *a);  /* NULL is fine */
void ahead_remove(struct ahead *a); /* whose lock we have, and of which everything is folded: the file goes, too */
/* False: somebody has it. */
bool ahead_try_lock(struct ahead *a);

const char *ahead_id(const struct ahead *a); /* 16 digits; "": it was never begun */
int64_t ahead_bytes(const struct ahead *a);  /* of its ring */

/* ---- the writer's ------------------------------------------------------------------------------------------------ */

/* An empty frame; entries are put behind what is in it. It takes no more than the ring does. */
struct strbuf *ahead_frame(struct ahead *a);
int64_t ahead_frame_bytes(const struct ahead *a); /* what it takes of the ring, with its entries */
/* It is durable. An error: it may be there or not, and nothing is to be written behind it. `at`: where the one
 * before ended; the caller sees to it that there is room. */
enum rc ahead_write(struct ahead *a, int64_t at, int entries, struct error *e) SPW_MUST_USE;

/* ---- the reader's ------------------------------------------------------------------------------------------------ */

struct ahead_frame {
    const char *data; /* until the next is read */
    size_t n;
    int entries;
    int64_t next; /* where the next frame is */
};
/* False: there is none at that place, or it is damaged. */
bool ahead_read(struct ahead *a, int64_t at, struct ahead_frame *f);
/* The first whole frame behind that place, within a round. Reads all of the ring. */
bool ahead_find(struct ahead *a, int64_t behind, int64_t *at);
/* A copy of the file as it is, damaged at that place, beside it: LEDGER.ahead.cut-ID-PLACE. False: that cannot be
 * made. */
bool ahead_keep(const struct ahead *a, int64_t at);

#endif
