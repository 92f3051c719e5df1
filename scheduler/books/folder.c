/* The lock guards what writer and thread share; it is never held over I/O. */
#include "scheduler/books/folder.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/leisure.h"
#include "base/thread.h"
#include "scheduler/books/ahead.h"
#include "scheduler/books/fold.h"

#define AGAIN_MS  1000 /* after something went wrong */
#define LOCKED_MS 20   /* after another process had the file locked */

enum state {
    FOLDER_NO_FILE,
    FOLDER_ASKED, /* for one: the thread is at it, or about to be */
    FOLDER_READY,
    FOLDER_BROKEN,
};

struct folder {
    char *path;          /* of the journal */
    struct ahead *ahead; /* from READY on */
    int64_t bytes;       /* of its ring */
    int busy_ms;         /* a file that is locked for longer is trouble */
    sqlite3 *db;         /* the caller's; the thread's while something is unfolded */
    const struct ledger_inserts *inserts;
    struct folding folding; /* likewise */
    pthread_t thread;
    bool runs;
    struct leisure *leisure; /* the thread's */

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;  /* for the thread */
    pthread_cond_t less;  /* a piece is folded, or cannot be */
    enum state state;
    bool busy;     /* somebody is at a piece */
    bool sleeps;   /* the thread, until something is put in */
    bool given_up; /* what is broken was noted in the ledger */
    bool stopping;
    int64_t end, folded; /* places: of what is durable; of what is in the ledger */
    int64_t kept;        /* of what is there for good: the ring is free up to here */
    int64_t entries;     /* unfolded */
    struct mono late;    /* from then on the writer helps, too, */
    struct mono again;   /* but not before this: it has just failed */
    struct mono locked;  /* since then the file has been; 0: it is not known to be */
    char trouble[256];
};

static void late_from_now_locked(struct folder *f)
{
    f->late.ns = clock_now(&clock_system).ns + FOLD_LATE_MS * NS_PER_MS;
}

/* ---- folding, by either of the two ------------------------------------------------------------------------------- */

static void note_trouble_locked(struct folder *f, const char *text)
{
    snprintf(f->trouble, sizeof f->trouble, "%.*s", (int)sizeof f->trouble - 1, text);
}

/* How a piece is folded. */
struct piece {
    int most;   /* entries */
    bool keep;  /* for good */
    bool waits; /* for another process that has the file locked; else RC_AGAIN at once */
};

static enum rc fold_some(struct folder *f, int64_t until, struct piece p, struct error *e)
{
    struct folding *x = &f->folding;
    enum rc rc = RC_OK;

    x->why[0] = '\0';
    x->gives_way = pthread_equal(pthread_self(), f->thread);
    x->entries = 0;
    (void)sqlite3_busy_timeout(f->db, p.waits ? f->busy_ms : 0);
    if (x->at < until)
        (void)fold_piece(x, until, p.most, p.keep || x->at - x->kept > f->bytes / 4, &rc, e);
    else if (p.keep)
        rc = fold_keep(x, e);
    if (rc == RC_OK)
        rc = fold_hand_back(x, e);
    (void)sqlite3_busy_timeout(f->db, f->busy_ms); /* the writer's, where nothing is left */
    return rc;
}

static void note_progress_locked(struct folder *f)
{
    const struct folding *x = &f->folding;

    f->folded = x->at;
    f->kept = x->kept;
    f->entries = f->folded == f->end ? 0 : f->entries - x->entries;
    f->locked.ns = f->again.ns = 0;
    late_from_now_locked(f);
}

static void note_failure_locked(struct folder *f, enum rc rc, struct piece p, const struct error *e)
{
    const struct mono now = clock_now(&clock_system);
    const bool locked = rc == RC_AGAIN && !p.waits;

    if (locked && !f->locked.ns)
        f->locked = now;
    if (!locked || now.ns - f->locked.ns > f->busy_ms * NS_PER_MS)
        note_trouble_locked(f, e->message);
    f->again.ns = now.ns + (locked ? LOCKED_MS : AGAIN_MS) * NS_PER_MS;
}

/* A piece, or what is folded is kept, or both, while nobody is at it. */
static enum rc fold_one_locked(struct folder *f, struct piece p, struct error *e)
{
    const struct folding *x = &f->folding;
    const int64_t until = f->end, lost = x->lost;

    f->busy = true;
    pthread_mutex_unlock(&f->lock);
    const enum rc rc = fold_some(f, until, p, e);
    pthread_mutex_lock(&f->lock);
    f->busy = false;
    if (x->why[0])
        note_trouble_locked(f, x->why);
    if (rc == RC_OK)
        note_progress_locked(f);
    else
        note_failure_locked(f, rc, p, e);
    if (x->lost > lost)
        note_trouble_locked(f, "the journal is damaged; a copy of it was kept beside it");
    pthread_cond_broadcast(&f->less);
    return rc;
}

/* Until `place`, which is f->folded or (for good) f->kept, has come to `until`. */
static enum rc get_to_locked(struct folder *f, const int64_t *place, int64_t until, struct piece p, struct error *e)
{
    enum rc rc = RC_OK;

    p.keep = place == &f->kept;
    for (;;) {
        while (f->busy)
            pthread_cond_wait(&f->less, &f->lock);
        if (*place >= until || rc != RC_OK)
            return rc;
        rc = fold_one_locked(f, p, e);
    }
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static enum rc make_file(struct folder *f, struct error *e)
{
    enum rc rc = ahead_make(&f->ahead, f->path, f->bytes, e);

    if (rc == RC_OK)
        folding_init(&f->folding, f->ahead, f->db, f->inserts);
    return rc;
}

/* One that cannot be made is not asked for again. */
static void make_locked(struct folder *f)
{
    struct error e;

    pthread_mutex_unlock(&f->lock);
    enum rc rc = make_file(f, &e);
    pthread_mutex_lock(&f->lock);
    f->state = rc == RC_OK ? FOLDER_READY : FOLDER_BROKEN;
    f->given_up = rc != RC_OK; /* there is nothing to give up */
    if (rc != RC_OK)
        note_trouble_locked(f, e.message);
}

/* Or until there are so many entries. */
static void wait_ms_locked(struct folder *f, int64_t ms, int64_t enough)
{
    const struct timespec until = thread_cond_until(ms * 1000);

    while (!f->stopping && f->entries < enough && pthread_cond_timedwait(&f->more, &f->lock, &until) != ETIMEDOUT) {
    }
}

static bool is_piling_up_locked(const struct folder *f)
{
    return f->end - f->folded > f->bytes / FOLD_PILE;
}

static bool goes_on_locked(const struct folder *f, int64_t until)
{
    return f->folded < until && !f->stopping && !is_piling_up_locked(f);
}

/* Each piece when a core has nothing else to do. Until it piles up: from then on it is the writer's, who would have to
 * wait for us. */
static enum rc fold_for_a_while_locked(struct folder *f, struct error *e)
{
    const int64_t until = f->end;
    enum rc rc = RC_OK;

    while (goes_on_locked(f, until) && rc == RC_OK) {
        pthread_mutex_unlock(&f->lock);
        leisure_wait(f->leisure);
        pthread_mutex_lock(&f->lock);
        if (goes_on_locked(f, until))
            rc = get_to_locked(f, &f->folded, f->folded + 1, (struct piece){.most = FOLD_PIECE}, e);
    }
    return rc;
}

static void *thread_main(void *arg)
{
    struct folder *f = arg;
    struct error e;

    pthread_mutex_lock(&f->lock);
    while (!f->stopping) {
        f->sleeps = f->folded == f->end && f->state != FOLDER_ASKED;
        if (f->sleeps) {
            pthread_cond_wait(&f->more, &f->lock);
        } else if (f->state == FOLDER_ASKED) {
            make_locked(f);
        } else if (is_piling_up_locked(f)) {
            wait_ms_locked(f, FOLD_MS, INT64_MAX);
        } else {
            wait_ms_locked(f, FOLD_MS, FOLD_ROWS);
            const enum rc rc = fold_for_a_while_locked(f, &e);
            if (rc != RC_OK)
                wait_ms_locked(f, rc == RC_AGAIN ? LOCKED_MS : AGAIN_MS, INT64_MAX);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ---- the writer -------------------------------------------------------------------------------------------------- */

bool folder_accepts(struct folder *f)
{
    pthread_mutex_lock(&f->lock);
    const bool ready = f->state == FOLDER_READY, ask = f->state == FOLDER_NO_FILE;
    if (ask)
        f->state = FOLDER_ASKED;
    pthread_mutex_unlock(&f->lock);
    if (ask)
        pthread_cond_signal(&f->more);
    return ready;
}

bool folder_is_empty(struct folder *f)
{
    return folder_bytes(f) == 0;
}

struct strbuf *folder_frame(struct folder *f)
{
    return ahead_frame(f->ahead);
}

/* The thread does not keep up: it is late, or more piles up than it should. */
static bool is_behind_locked(const struct folder *f)
{
    const int64_t now_ns = clock_now(&clock_system).ns;

    return f->end != f->folded && !f->busy && now_ns >= f->again.ns && (is_piling_up_locked(f) || now_ns >= f->late.ns);
}

/* Entries that the writer folds before so many more are put in: twice as many, so that there will be fewer of them. Not
 * all that were left: 2,000 take 25 ms, and this group, and all who come meanwhile, would wait for them. */
static int share_of(int entries)
{
    return 2 * entries > FOLD_SHARE ? 2 * entries : FOLD_SHARE;
}

/* For so many entries, of n bytes. */
static enum rc make_room(struct folder *f, int entries, int64_t n, struct error *e)
{
    const int64_t bytes = ahead_bytes(f->ahead);
    enum rc rc = RC_OK;
    struct error ignored; /* see folder_trouble() */

    if (n > bytes)
        return error_set(e, RC_FULL, "journal %s: %lld bytes at once are too many", f->path, (long long)n);
    pthread_mutex_lock(&f->lock);
    if (is_behind_locked(f))
        (void)fold_one_locked(f, (struct piece){.most = share_of(entries)}, &ignored);
    if (f->end + n - f->kept > bytes)
        rc = get_to_locked(f, &f->kept, f->end + n - bytes, (struct piece){.most = FOLD_MOST, .waits = true}, e);
    pthread_mutex_unlock(&f->lock);
    return rc == RC_OK ? RC_OK : RC_FULL;
}

enum rc folder_put(struct folder *f, int entries, struct error *e)
{
    const int64_t n = ahead_frame_bytes(f->ahead);
    enum rc rc = make_room(f, entries, n, e);

    if (rc != RC_OK)
        return rc;
    rc = ahead_write(f->ahead, f->end, entries, e); /* `end` changes here alone */
    pthread_mutex_lock(&f->lock);
    if (f->folded == f->end)
        late_from_now_locked(f);
    if (rc == RC_OK) {
        f->end += n;
        f->entries += entries;
    } else {
        f->state = FOLDER_BROKEN;
        note_trouble_locked(f, e->message);
    }
    const bool wake = f->sleeps || f->entries >= FOLD_ROWS;
    f->sleeps = false;
    pthread_mutex_unlock(&f->lock);
    if (wake)
        pthread_cond_signal(&f->more);
    return rc == RC_OK ? RC_OK : RC_IO;
}

enum rc folder_drain(struct folder *f, struct error *e)
{
    pthread_mutex_lock(&f->lock);
    enum rc rc = get_to_locked(f, &f->folded, f->end, (struct piece){.most = FOLD_MOST, .waits = true}, e);
    const bool give_up = rc == RC_OK && f->state == FOLDER_BROKEN && !f->given_up;
    pthread_mutex_unlock(&f->lock);
    if (give_up) {
        rc = fold_give_up(&f->folding, e);
        f->given_up = rc == RC_OK;
    }
    return rc;
}

void folder_help(struct folder *f)
{
    struct error e;

    pthread_mutex_lock(&f->lock);
    if (is_behind_locked(f))
        (void)get_to_locked(f, &f->folded, f->end, (struct piece){.most = FOLD_MOST}, &e); /* see folder_trouble() */
    pthread_mutex_unlock(&f->lock);
}

int64_t folder_bytes(struct folder *f)
{
    if (!f)
        return 0;
    pthread_mutex_lock(&f->lock);
    const int64_t bytes = f->end - f->folded;
    pthread_mutex_unlock(&f->lock);
    return bytes;
}

bool folder_trouble(struct folder *f, char *text, size_t size)
{
    pthread_mutex_lock(&f->lock);
    const bool any = f->trouble[0] != '\0';
    if (any)
        snprintf(text, size, "%s", f->trouble);
    f->trouble[0] = '\0';
    pthread_mutex_unlock(&f->lock);
    return any;
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

static void init_locks(struct folder *f)
{
    pthread_mutex_init(&f->lock, NULL);
    thread_cond_init(&f->more);
    pthread_cond_init(&f->less, NULL);
}

enum rc folder_start(struct folder **out, const struct ledger_options *o, sqlite3 *db,
                     const struct ledger_inserts *inserts, struct error *e)
{
    struct folder *f = spw_calloc(1, sizeof *f);
    enum rc rc = RC_OK;

    *out = NULL;
    f->path = ahead_path(o->path);
    f->bytes = o->journal_bytes ? o->journal_bytes : AHEAD_BYTES;
    f->busy_ms = ledger_file_busy_ms(o);
    f->db = db;
    f->inserts = inserts;
    init_locks(f);
    if (o->journal == LEDGER_JOURNAL_ALWAYS) {
        rc = make_file(f, e);
        f->state = FOLDER_READY;
    }
    int failed = rc == RC_OK ? leisure_start(&f->leisure, "leisure") : 0;
    if (rc == RC_OK && !failed)
        failed = thread_start(&f->thread, "fold", thread_main, f);
    if (failed)
        rc = error_set(e, RC_IO, "ledger %s: no thread: %s", o->path, strerror(failed));
    f->runs = rc == RC_OK;
    if (f->runs)
        thread_stand_back(f->thread);
    if (rc == RC_OK)
        *out = f;
    else
        folder_stop(f);
    return rc;
}

void folder_stop(struct folder *f)
{
    struct error e;
    bool done;

    if (!f)
        return;
    if (f->runs) {
        pthread_mutex_lock(&f->lock);
        f->stopping = true;
        pthread_mutex_unlock(&f->lock);
        pthread_cond_signal(&f->more);
        leisure_wake(f->leisure);
        pthread_join(f->thread, NULL);
    }
    leisure_stop(f->leisure);
    done = f->ahead && folder_drain(f, &e) == RC_OK && fold_keep(&f->folding, &e) == RC_OK;
    folding_fini(&f->folding);
    if (done)
        ahead_remove(f->ahead);
    else
        ahead_close(f->ahead);
    pthread_cond_destroy(&f->more);
    pthread_cond_destroy(&f->less);
    pthread_mutex_destroy(&f->lock);
    free(f->path);
    free(f);
}
