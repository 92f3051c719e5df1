/* The ledger's writer: a bounded queue, one worker thread that owns the SQLite connection, and the way back to the loop.
 *
 *   loop: ledger_append() -> waiting -> worker: BEGIN, insert each, COMMIT -> finished -> eventfd -> loop: done(rc)
 *
 * While a commit waits for the disk, the next rows gather in `waiting`: the group is as large as the disk is slow.
 * Order: both lists are first in, first out, and there is one worker, so callbacks come in the order of appends.
 * The lock guards the lists and the counters; it is never held over I/O. */
#include "scheduler/books/ledger_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"

#define LEDGER_MAGIC      0x4c444752u
#define LEDGER_QUEUE_MAX  65536
#define LEDGER_GROUP_ROWS 8192 /* of one transaction: bounds what a failure takes along */

/* One queued row; its legs and strings stand behind it in the same allocation. */
struct entry {
    struct entry *next;
    struct ledger_row row;
    ledger_done_cb *done;
    void *arg;
    enum rc rc;
    struct ledger_leg legs[];
};
struct entries {
    struct entry *head, **tail;
    int n;
};

struct ledger {
    uint32_t magic;
    sqlite3 *db;                   /* the worker's, once it runs */
    struct ledger_inserts inserts; /* the worker's */
    int group_ms, queue_max;
    pthread_t worker;
    bool worker_runs;
    int wake_fd; /* eventfd: finished is not empty */
    struct event *wake;

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;  /* waiting is not empty, or stopping */
    struct entries waiting, finished;
    bool stopping;
    struct ledger_stats stats;
    char last_error[256];
};

static void entries_init(struct entries *q)
{
    q->head = NULL;
    q->tail = &q->head;
    q->n = 0;
}

static void entries_push(struct entries *q, struct entry *x)
{
    x->next = NULL;
    *q->tail = x;
    q->tail = &x->next;
    q->n++;
}

/* Move up to `max` entries from the front of q to the end of `to`. */
static void entries_move(struct entries *to, struct entries *q, int max)
{
    while (q->head && max-- > 0) {
        struct entry *x = q->head;
        q->head = x->next;
        q->n--;
        entries_push(to, x);
    }
    if (!q->head)
        q->tail = &q->head;
}

/* --- rows in ------------------------------------------------------------------------------------------------ */

#define ROW_TEXTS 9
/* Where the strings of a row are; the same order for measuring and copying. */
static void row_texts(struct ledger_row *r, const char **texts[ROW_TEXTS])
{
    const char **const all[ROW_TEXTS] = {&r->request_id, &r->tenant,   &r->team,         &r->key_id, &r->model,
                                         &r->node,       &r->provider, &r->usage_source, &r->error};
    memcpy(texts, all, sizeof all);
}

static struct entry *entry_new(const struct ledger_row *row, ledger_done_cb *done, void *arg)
{
    struct ledger_row copy = *row;
    const char **texts[ROW_TEXTS];
    size_t bytes = 0;

    row_texts(&copy, texts);
    for (int i = 0; i < ROW_TEXTS; i++)
        bytes += *texts[i] ? strlen(*texts[i]) + 1 : 0;
    size_t legs = (size_t)row->n_legs;
    struct entry *x = spw_malloc(sizeof *x + legs * sizeof *row->legs + bytes);
    char *p = (char *)(x->legs + legs);
    if (legs)
        memcpy(x->legs, row->legs, legs * sizeof *row->legs);
    copy.legs = x->legs;
    for (int i = 0; i < ROW_TEXTS; i++) {
        if (!*texts[i])
            continue;
        size_t n = strlen(*texts[i]) + 1;
        *texts[i] = memcpy(p, *texts[i], n);
        p += n;
    }
    x->row = copy;
    x->done = done;
    x->arg = arg;
    x->rc = RC_OK;
    return x;
}

enum rc ledger_append(struct ledger *l, const struct ledger_row *row, ledger_done_cb *done, void *arg)
{
    SPW_ASSERT(l->magic == LEDGER_MAGIC && row->request_id);
    pthread_mutex_lock(&l->lock);
    enum rc rc = l->stopping ? RC_CANCELLED : l->stats.queued >= l->queue_max ? RC_FULL : RC_OK;
    if (rc == RC_OK)
        l->stats.queued++; /* reserves the place while the copy is made without the lock */
    pthread_mutex_unlock(&l->lock);
    if (rc != RC_OK)
        return rc;
    struct entry *x = entry_new(row, done, arg);
    pthread_mutex_lock(&l->lock);
    entries_push(&l->waiting, x);
    if (l->waiting.n == 1)
        pthread_cond_signal(&l->more);
    pthread_mutex_unlock(&l->lock);
    return RC_OK;
}

/* --- worker thread ------------------------------------------------------------------------------------------ */

static int run_sql(struct ledger *l, const char *sql)
{
    return sqlite3_exec(l->db, sql, NULL, NULL, NULL);
}

/* The whole group failed: nothing of it may stay behind, and nobody may be told otherwise. */
static void group_failed(struct ledger *l, struct entries *group, int rc, char *text, size_t size)
{
    snprintf(text, size, "%s", sqlite3_errmsg(l->db));
    if (!sqlite3_get_autocommit(l->db)) /* SQLite itself rolls back on some errors */
        run_sql(l, "ROLLBACK");
    enum rc code = ledger_rc(rc);
    for (struct entry *x = group->head; x; x = x->next)
        x->rc = code == RC_OK || code == RC_CONFLICT ? RC_IO : code;
}

/* One transaction. A row that breaks a constraint (a request_id that is known) fails alone. True: committed. */
static bool commit_group(struct ledger *l, struct entries *group, char *text, size_t size)
{
    int rc = run_sql(l, "BEGIN IMMEDIATE");

    for (struct entry *x = group->head; x && rc == SQLITE_OK; x = x->next) {
        int step = ledger_file_insert(&l->inserts, &x->row);
        if ((step & 0xff) == SQLITE_CONSTRAINT) {
            int kind = sqlite3_extended_errcode(l->db);
            x->rc = kind == SQLITE_CONSTRAINT_PRIMARYKEY || kind == SQLITE_CONSTRAINT_UNIQUE ? RC_CONFLICT : RC_INVALID;
            snprintf(text, size, "request %.64s: %s", x->row.request_id, sqlite3_errmsg(l->db));
        } else if (step != SQLITE_DONE) {
            rc = step;
        }
    }
    if (rc == SQLITE_OK)
        rc = run_sql(l, "COMMIT");
    if (rc != SQLITE_OK)
        group_failed(l, group, rc, text, size);
    return rc == SQLITE_OK;
}

/* Rows trickle in while the loop is busy: give a group up to group_ms to gather. With the lock. */
static void gather_locked(struct ledger *l)
{
    struct timespec until;

    if (l->group_ms <= 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += l->group_ms / 1000;
    until.tv_nsec += (long)(l->group_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (!l->stopping && l->waiting.n < LEDGER_GROUP_ROWS)
        if (pthread_cond_timedwait(&l->more, &l->lock, &until) == ETIMEDOUT)
            break;
}

/* Book the result and hand the group to the loop. With the lock. */
static void finish_locked(struct ledger *l, struct entries *group, bool committed, int64_t took_ns, const char *text)
{
    l->stats.failing = !committed;
    l->stats.commits += committed;
    if (committed)
        l->stats.last_commit_ns = took_ns;
    for (struct entry *x = group->head; x; x = x->next) {
        l->stats.rows += x->rc == RC_OK;
        l->stats.failed += x->rc != RC_OK;
    }
    if (text[0])
        snprintf(l->last_error, sizeof l->last_error, "%s", text);
    l->stats.queued -= group->n;
    entries_move(&l->finished, group, group->n);
}

static void *worker_main(void *arg)
{
    struct ledger *l = arg;
    const uint64_t one = 1;

    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->waiting.n && !l->stopping)
            pthread_cond_wait(&l->more, &l->lock);
        if (!l->waiting.n)
            break; /* stopping, and all is written */
        gather_locked(l);
        struct entries group;
        char text[256] = "";
        entries_init(&group);
        entries_move(&group, &l->waiting, LEDGER_GROUP_ROWS);
        pthread_mutex_unlock(&l->lock);

        struct mono start = clock_now(&clock_system);
        bool committed = commit_group(l, &group, text, sizeof text);
        int64_t took_ns = mono_since(&clock_system, start);

        pthread_mutex_lock(&l->lock);
        finish_locked(l, &group, committed, took_ns, text);
        /* Cannot fail: the counter is far from its bound, and the loop reads it to zero. */
        SPW_ASSERT(write(l->wake_fd, &one, sizeof one) == sizeof one);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* --- back on the loop --------------------------------------------------------------------------------------- */

static void deliver(struct ledger *l)
{
    struct entries finished;

    entries_init(&finished);
    pthread_mutex_lock(&l->lock);
    entries_move(&finished, &l->finished, l->finished.n);
    pthread_mutex_unlock(&l->lock);
    while (finished.head) {
        struct entry *x = finished.head;
        finished.head = x->next;
        if (x->done)
            x->done(x->rc, x->arg);
        free(x);
    }
}

static void wake_cb(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof count) == sizeof count)
        deliver(arg);
}

/* --- open and close ----------------------------------------------------------------------------------------- */

static enum rc start_worker(struct ledger *l, struct event_base *loop, struct error *e)
{
    l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l->wake_fd < 0)
        return error_set(e, RC_IO, "ledger: no event descriptor: %s", strerror(errno));
    l->wake = event_new(loop, l->wake_fd, EV_READ | EV_PERSIST, wake_cb, l);
    if (!l->wake || event_add(l->wake, NULL) != 0)
        return error_set(e, RC_IO, "ledger: the loop takes no event");
    /* Signals are the loop thread's. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&l->worker, NULL, worker_main, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return error_set(e, RC_IO, "ledger: no worker thread: %s", strerror(failed));
    l->worker_runs = true;
    return RC_OK;
}

enum rc ledger_open(struct ledger **out, struct event_base *loop, const struct ledger_options *o, struct error *e)
{
    struct ledger *l = spw_calloc(1, sizeof *l);
    pthread_condattr_t attr;

    *out = NULL;
    l->magic = LEDGER_MAGIC;
    l->wake_fd = -1;
    l->group_ms = o->group_ms;
    l->queue_max = o->queue_max ? o->queue_max : LEDGER_QUEUE_MAX;
    entries_init(&l->waiting);
    entries_init(&l->finished);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->more, &attr);
    pthread_condattr_destroy(&attr);

    enum rc rc = ledger_file_open(&l->db, o, e);
    if (rc == RC_OK)
        rc = ledger_file_prepare(l->db, &l->inserts, e);
    if (rc == RC_OK)
        rc = start_worker(l, loop, e);
    if (rc != RC_OK) {
        ledger_close(l);
        return rc;
    }
    *out = l;
    return RC_OK;
}

void ledger_close(struct ledger *l)
{
    if (!l)
        return;
    SPW_ASSERT(l->magic == LEDGER_MAGIC);
    if (l->worker_runs) {
        pthread_mutex_lock(&l->lock);
        l->stopping = true;
        pthread_cond_signal(&l->more);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->worker, NULL);
        deliver(l);
    }
    if (l->wake)
        event_free(l->wake);
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    ledger_file_finalize(&l->inserts);
    sqlite3_close(l->db);
    pthread_cond_destroy(&l->more);
    pthread_mutex_destroy(&l->lock);
    l->magic = 0;
    free(l);
}

struct ledger_stats ledger_stats(const struct ledger *shared)
{
    struct ledger *l = (struct ledger *)shared; /* the lock is ours to take; nothing else changes */

    pthread_mutex_lock(&l->lock);
    struct ledger_stats s = l->stats;
    pthread_mutex_unlock(&l->lock);
    return s;
}

char *ledger_last_error(const struct ledger *shared, char *buf, size_t size)
{
    struct ledger *l = (struct ledger *)shared;

    pthread_mutex_lock(&l->lock);
    snprintf(buf, size, "%s", l->last_error);
    pthread_mutex_unlock(&l->lock);
    return buf;
}
