/* From the journal (ahead.h) into the ledger, exactly once: many entries in one transaction, which also says how far
 * it has come. An entry whose request has its row already is passed over, as the ledger would have refused it.
 *
 * Whoever opens the ledger's file, for reading or writing, calls fold_settle() first and so sees every row that was
 * told to be durable before:
 *
 *   no journal, or nothing in it   -> goes on
 *   nobody has the journal's lock  -> a scheduler died: what it has left is folded now
 *   somebody has it                -> what is there now is waited for: a folder (folder.h) is at it */
#ifndef SCHEDULER_BOOKS_FOLD_H
#define SCHEDULER_BOOKS_FOLD_H

#include "scheduler/books/ahead.h"
#include "scheduler/books/ledger_internal.h"
#include "scheduler/books/ledger_pack.h"

/* Entries of a transaction, or a few more: 3 ms in which nobody else may write, or 25 where somebody waits. */
#define FOLD_PIECE   250
#define FOLD_MOST    2000
#define FOLD_SHARE   32        /* at least, where the writer does it between two groups */
#define FOLD_TURN    4         /* some 40 us */
#define FOLD_TO_END  INT64_MAX /* as far as there are whole frames */
#define FOLD_WAIT_MS 10000     /* for somebody else's folder, at most */

struct folding {
    struct ahead *ahead;
    sqlite3 *db;
    const struct ledger_inserts *inserts;
    struct ledger_unpacked entry;
    int64_t at;     /* up to here it is folded */
    int64_t kept;   /* and up to here for good: a power cut may undo the rest, and the journal is needed from here on */
    int64_t lost;   /* bytes that could not be read; a copy of the journal was kept */
    int entries;    /* of the newest piece */
    int turn;       /* entries since the last FOLD_TURN of them, whatever frames they are in */
    bool contested; /* in this piece others have had the core for long */
    bool lax;       /* commits of this connection are not flushed: it is not to be anybody else's */
    bool gives_way; /* it lets others go first, each FOLD_TURN entries, but where they have the core for long */
    char why[128];  /* of the newest entry that was passed over; "": there was none */
};
void folding_init(struct folding *f, struct ahead *a, sqlite3 *db, const struct ledger_inserts *s);
void folding_fini(struct folding *f);
/* The next entries, some `most` of them, in a transaction; f->at is behind them. `until`: the end of what is
 * durable, or FOLD_TO_END. `keep`: it is flushed, and all before it, so that f->kept is there, too. False with RC_OK:
 * there was nothing left. An error: nothing has changed. */
bool fold_piece(struct folding *f, int64_t until, int most, bool keep, enum rc *rc, struct error *e);
/* Whoever else writes by this connection has his commits flushed. An error: he may not have it yet. */
enum rc fold_hand_back(struct folding *f, struct error *e) SPW_MUST_USE;
/* What is folded is flushed. */
enum rc fold_keep(struct folding *f, struct error *e) SPW_MUST_USE;
/* Nothing more of that journal is ever to be folded, whatever is there: it is broken, and rows go by it from here on. */
enum rc fold_give_up(struct folding *f, struct error *e) SPW_MUST_USE;

/* See above. `db` is open on `path`; `writable`: it may fold. RC_AGAIN: somebody has the journal and does not get
 * on. */
enum rc fold_settle(sqlite3 *db, const char *path, bool writable, struct error *e) SPW_MUST_USE;

#endif
