#include "scheduler/books/fold.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_MS 5   /* how often whoever waits looks */
#define LONG_US 500 /* others have had the core for long: see give_way() */

/* ---- a transaction ----------------------------------------------------------------------------------------------- */

void folding_init(struct folding *f, struct ahead *a, sqlite3 *db, const struct ledger_inserts *s)
{
    *f = (struct folding){.ahead = a, .db = db, .inserts = s};
}

void folding_fini(struct folding *f)
{
    ledger_unpacked_fini(&f->entry);
}

/* SQLITE_OK, or an error of the file. */
static int fold_entry(struct folding *f, size_t *used, const char *data, size_t n)
{
    *used = ledger_unpack(&f->entry, data, n);
    if (!*used)
        return SQLITE_MISMATCH;
    const int step = f->entry.is_event ? ledger_budgets_write(&f->inserts->budgets, &f->entry.event)
                                       : ledger_file_insert(f->inserts, &f->entry.row);
    if (!f->entry.is_event && (step & 0xff) == SQLITE_CONSTRAINT) {
        snprintf(f->why, sizeof f->why, "request %.64s: %s", f->entry.row.request_id, sqlite3_errmsg(f->db));
        return SQLITE_OK;
    }
    return step == SQLITE_DONE ? SQLITE_OK : step;
}

/* A core of a virtual machine that only computes may hear of a wake-up a millisecond late. So it asks. But a loop's
 * turn is short: whoever takes the core for longer would have it again and again in one piece, and others wait for the
 * file. */
static void give_way(struct folding *f)
{
    const struct mono before = clock_now(&clock_system);

    (void)sched_yield();
    f->contested = mono_since(&clock_system, before) > LONG_US * NS_PER_US;
}

static int fold_frame(struct folding *f, const struct ahead_frame *frame)
{
    int rc = SQLITE_OK;
    size_t used = 0;

    for (size_t at = 0; at < frame->n && rc == SQLITE_OK; at += used) {
        rc = fold_entry(f, &used, frame->data + at, frame->n - at);
        if (++f->turn == FOLD_TURN)
            f->turn = 0;
        if (f->gives_way && !f->contested && f->turn == 0)
            give_way(f);
    }
    return rc;
}

/* Nothing can be read at *at. False: that is the end. Else a disk has damaged it, and it goes on behind that. */
static bool pass_over_damage(struct folding *f, int64_t *at, int64_t until)
{
    int64_t next;

    if (!ahead_find(f->ahead, *at, &next) || next >= until) {
        if (until == FOLD_TO_END)
            return false;
        next = until;
    }
    if (!ahead_keep(f->ahead, *at))
        return false;
    f->lost += next - *at;
    *at = next;
    return true;
}

static enum rc roll_back(struct folding *f, int rc, struct error *e)
{
    enum rc code = rc == SQLITE_MISMATCH
                       ? error_set(e, RC_INVALID, "journal %s: an entry at %lld is none that this program knows",
                                   ahead_id(f->ahead), (long long)f->at)
                       : ledger_fail(f->db, rc, "journal", e);

    if (!sqlite3_get_autocommit(f->db))
        sqlite3_exec(f->db, "ROLLBACK", NULL, NULL, NULL);
    return code;
}

/* A commit that is to be flushed has all before it flushed, too: they are one file. Between transactions only. */
static int flush_commits(struct folding *f, bool flush)
{
    const char *how = flush ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL";

    if (f->lax == !flush)
        return SQLITE_OK;
    const int rc = sqlite3_exec(f->db, how, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        f->lax = !flush;
    return rc;
}

enum rc fold_hand_back(struct folding *f, struct error *e)
{
    const int rc = flush_commits(f, true);
    return rc == SQLITE_OK ? RC_OK : ledger_fail(f->db, rc, "journal", e);
}

/* From here on f->at is the place in the ledger. */
static int commit(struct folding *f, int64_t at)
{
    const int rc = ledger_file_note_position(f->db, ahead_id(f->ahead), at);
    return rc == SQLITE_OK ? ledger_file_run(f->inserts->commit) : rc;
}

enum rc fold_give_up(struct folding *f, struct error *e)
{
    const int rc = ledger_file_note_position(f->db, ahead_id(f->ahead), INT64_MAX);

    if (rc != SQLITE_OK)
        return ledger_fail(f->db, rc, "journal", e);
    f->kept = f->at; /* that was flushed */
    return RC_OK;
}

enum rc fold_keep(struct folding *f, struct error *e)
{
    if (f->kept == f->at)
        return RC_OK;
    int rc = flush_commits(f, true);
    if (rc == SQLITE_OK)
        rc = ledger_file_run(f->inserts->begin);
    if (rc == SQLITE_OK)
        rc = commit(f, f->at);
    if (rc != SQLITE_OK)
        return roll_back(f, rc, e);
    f->kept = f->at;
    return RC_OK;
}

bool fold_piece(struct folding *f, int64_t until, int most, bool keep, enum rc *code, struct error *e)
{
    struct ahead_frame frame;
    int64_t at = f->at;
    int entries = 0, rc;

    *code = RC_OK;
    if (at >= until || (!ahead_read(f->ahead, at, &frame) && !pass_over_damage(f, &at, until)))
        return false;
    rc = flush_commits(f, keep);
    if (rc == SQLITE_OK)
        rc = ledger_file_run(f->inserts->begin);
    f->contested = false;
    while (rc == SQLITE_OK && entries < most && at < until && ahead_read(f->ahead, at, &frame)) {
        rc = fold_frame(f, &frame);
        entries += frame.entries;
        at = frame.next;
    }
    if (rc == SQLITE_OK)
        rc = commit(f, at);
    if (rc == SQLITE_OK) {
        f->at = at;
        f->kept = keep ? at : f->kept;
        f->entries = entries;
    } else {
        *code = roll_back(f, rc, e);
    }
    return rc == SQLITE_OK;
}

/* ---- whoever opens the ledger ------------------------------------------------------------------------------------ */

/* Of somebody who is no more; then the file goes. */
static enum rc fold_all(struct ahead **a, sqlite3 *db, const char *path, struct error *e)
{
    struct ledger_inserts inserts = {0};
    struct folding f;
    enum rc rc = ledger_file_prepare(db, &inserts, e);

    folding_init(&f, *a, db, &inserts);
    if (rc == RC_OK)
        rc = ledger_file_position(db, ahead_id(*a), path, &f.at, e);
    while (rc == RC_OK && fold_piece(&f, FOLD_TO_END, FOLD_MOST, true, &rc, e)) {
    }
    folding_fini(&f);
    ledger_file_finalize(&inserts);
    if (rc == RC_OK) {
        ahead_remove(*a);
        *a = NULL;
    }
    return rc;
}

/* To where there are frames now. */
static int64_t end_of(struct ahead *a, int64_t at)
{
    struct ahead_frame f;

    while (ahead_read(a, at, &f))
        at = f.next;
    return at;
}

static enum rc wait_for(struct ahead *a, sqlite3 *db, const char *path, struct error *e)
{
    const struct mono began = clock_now(&clock_system);
    int64_t at, end;
    enum rc rc = ledger_file_position(db, ahead_id(a), path, &at, e);

    for (end = end_of(a, at); rc == RC_OK && at < end; rc = ledger_file_position(db, ahead_id(a), path, &at, e)) {
        if (mono_since(&clock_system, began) > FOLD_WAIT_MS * NS_PER_MS)
            return error_set(e, RC_AGAIN,
                             "ledger %s: rows wait in its journal, and the scheduler does not get on with them", path);
        usleep(LOOK_MS * 1000);
    }
    return rc;
}

/* Who may only read has somebody do it who may write: this program, once more. */
static enum rc have_it_folded(const char *path, struct error *e)
{
    const struct ledger_options o = {.path = path};
    sqlite3 *db;
    enum rc rc = ledger_file_open(&db, &o, e);

    sqlite3_close(db);
    return rc == RC_OK ? RC_OK
                       : error_prefix(e, "rows that a scheduler left in its journal cannot be put into the ledger");
}

static enum rc settle(struct ahead **a, sqlite3 *db, const char *path, bool writable, struct error *e)
{
    int64_t at;

    if (!ahead_try_lock(*a))
        return wait_for(*a, db, path, e);
    if (writable)
        return fold_all(a, db, path, e);
    enum rc rc = ledger_file_position(db, ahead_id(*a), path, &at, e);
    if (rc != RC_OK || end_of(*a, at) == at)
        return rc;
    ahead_close(*a); /* with its lock */
    *a = NULL;
    return have_it_folded(path, e);
}

enum rc fold_settle(sqlite3 *db, const char *path, bool writable, struct error *e)
{
    struct ahead *a = NULL;
    char *name = ahead_path(path);
    enum rc rc = access(name, F_OK) == 0 ? ahead_open(&a, name, e) : RC_NOT_FOUND;

    free(name);
    if (rc == RC_OK && ahead_bytes(a))
        rc = settle(&a, db, path, writable, e);
    ahead_close(a);
    return rc == RC_NOT_FOUND ? RC_OK : rc;
}
