/* The lock guards what writer and thread share; it is held for a few instructions, and never over I/O. */
#include "scheduler/books/ledger_checkpoint.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/thread.h"

enum state {
    CHECKPOINT_IDLE,
    CHECKPOINT_ASKED, /* the thread is at it, or about to be */
    CHECKPOINT_DONE,  /* what has come meanwhile is the writer's */
};

struct ledger_checkpoint {
    sqlite3 *writer; /* the caller's */
    sqlite3 *db;     /* the thread's, once it runs */
    pthread_t thread;
    bool runs;
    int seen, next; /* the writer's: pages in the log after the last commit; at how many it is next to be folded back */

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;
    enum state state;
    bool stopping;
};

static void fold_back(sqlite3 *db)
{
    (void)sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL); /* fails: see the header */
}

static void *thread_main(void *arg)
{
    struct ledger_checkpoint *c = arg;

    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->state != CHECKPOINT_ASKED && !c->stopping)
            pthread_cond_wait(&c->more, &c->lock);
        if (c->stopping)
            break;
        pthread_mutex_unlock(&c->lock);
        fold_back(c->db);
        pthread_mutex_lock(&c->lock);
        c->state = CHECKPOINT_DONE;
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Is the writer to do it? Else the thread may have been asked. */
static bool is_writers_turn(struct ledger_checkpoint *c, int pages)
{
    const bool grown = pages >= c->next;
    bool ours, ask;

    pthread_mutex_lock(&c->lock);
    ours = c->state == CHECKPOINT_DONE || (grown && pages >= LEDGER_LOG_PAGES_MAX);
    if (c->state == CHECKPOINT_DONE)
        c->state = CHECKPOINT_IDLE;
    ask = grown && !ours && c->state == CHECKPOINT_IDLE;
    if (ask)
        c->state = CHECKPOINT_ASKED;
    pthread_mutex_unlock(&c->lock);
    if (ask)
        pthread_cond_signal(&c->more);
    if (ask || ours)
        c->next = pages + LEDGER_LOG_PAGES;
    return ours;
}

/* On the writer's thread, after each commit. */
static int on_commit(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct ledger_checkpoint *c = arg;

    (void)name;
    if (pages < c->seen) /* it began anew */
        c->next = LEDGER_LOG_PAGES;
    c->seen = pages;
    if (is_writers_turn(c, pages))
        fold_back(db);
    return SQLITE_OK;
}

static enum rc open_own(struct ledger_checkpoint *c, const struct ledger_options *o, struct error *e)
{
    int version, rc = sqlite3_open_v2(o->path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, o->vfs);

    if (rc != SQLITE_OK)
        return ledger_fail(c->db, rc, o->path, e);
    return ledger_file_version(c->db, o->path, &version, e); /* which reads: only then it knows that there is a log */
}

enum rc ledger_checkpoint_start(struct ledger_checkpoint **out, sqlite3 *writer, const struct ledger_options *o,
                                struct error *e)
{
    struct ledger_checkpoint *c = spw_calloc(1, sizeof *c);

    *out = NULL;
    c->writer = writer;
    c->next = LEDGER_LOG_PAGES;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->more, NULL);
    enum rc rc = open_own(c, o, e);
    int failed = rc == RC_OK ? thread_start(&c->thread, "checkpoint", thread_main, c) : 0;
    if (failed)
        rc = error_set(e, RC_IO, "ledger %s: no thread: %s", o->path, strerror(failed));
    c->runs = rc == RC_OK;
    if (c->runs)
        thread_stand_back(c->thread);
    if (rc != RC_OK) {
        ledger_checkpoint_stop(c);
        return rc;
    }
    sqlite3_wal_hook(writer, on_commit, c);
    *out = c;
    return RC_OK;
}

void ledger_checkpoint_stop(struct ledger_checkpoint *c)
{
    if (!c)
        return;
    if (c->runs) {
        sqlite3_wal_hook(c->writer, NULL, NULL);
        pthread_mutex_lock(&c->lock);
        c->stopping = true;
        pthread_mutex_unlock(&c->lock);
        pthread_cond_signal(&c->more);
        pthread_join(c->thread, NULL);
    }
    sqlite3_close(c->db);
    pthread_cond_destroy(&c->more);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
