/* The ledger's writer: one worker thread that owns the SQLite connection, a bounded queue to it, and a port per event
 * loop for the way there and back.
 *
 *   loop: ledger_append() -> port.gathered -> end of the turn -> waiting -> worker: BEGIN, insert each, COMMIT
 *         done(rc) <- loop <- eventfd <- port.finished <-----------------------------+
 *
 * While a commit waits for the disk, the next rows gather in `waiting`: the group is as large as the disk is slow.
 * Order: all lists are first in, first out, and there is one worker, so a port's callbacks come in the order of its
 * appends. The lock guards `waiting`, the ports' `finished` and the counters; it is never held over I/O, nor while a
 * thread is woken, which on a busy core would run at once and wait for it. */
#include "scheduler/books/ledger_internal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/thread.h"

#define LEDGER_MAGIC      0x4c444752u
#define PORT_MAGIC        0x4c445054u
#define LEDGER_QUEUE_MAX  65536
#define LEDGER_GROUP_ROWS 8192 /* of one transaction: bounds what a failure takes along */
/* See patience_us_locked(). */
#define GATHER_US_MIN     250
#define GATHER_US_MAX     1500
#define GATHER_COMMITS    2
#define GATHER_ENOUGH     16
#define GATHER_FOUND      6
#define GATHER_ROWS_PER_S 2000

/* One queued row; its legs and strings stand behind it in the same allocation. */
struct entry {
    struct entry *next;
    struct ledger_port *port;
    struct ledger_row row;
    bool is_event; /* of a budget, whose texts stand in the row: see event_of() */
    struct ledger_budget_event event;
    ledger_done_cb *done;
    void *arg;
    enum rc rc;
    struct ledger_leg legs[];
};
struct entries {
    struct entry *head, **tail;
    int n;
};

enum worker_state {
    WORKER_BUSY,      /* it will look at `waiting` before it sleeps */
    WORKER_IDLE,      /* asleep until `waiting` is not empty */
    WORKER_GATHERING, /* asleep until the group is large, or its time is over */
};

struct ledger {
    uint32_t magic;
    sqlite3 *db;                   /* the worker's, once it runs */
    struct ledger_inserts inserts; /* the worker's */
    bool off;                      /* there is no file and no worker */
    int group_ms, queue_max;
    pthread_t worker;
    bool worker_runs;
    atomic_int queued; /* rows in any list before `finished` */
    atomic_bool failing;

    pthread_mutex_t lock; /* guards everything below, and in each port what is marked so */
    pthread_cond_t more;  /* for the worker: waiting is not empty, or stopping */
    pthread_cond_t less;  /* for ports that are being freed: rows have come back */
    enum worker_state worker_state;
    int enough;        /* rows, of the group that gathers */
    double rows_per_s; /* lately */
    double found;      /* rows that were there when the worker looked, lately */
    double commit_us;  /* that a commit takes, lately; at most GATHER_US_MAX / GATHER_COMMITS */
    struct mono taken; /* when the newest group was */
    struct entries waiting;
    int n_ports;
    bool stopping;
    struct ledger_stats stats; /* without queued and failing, which are above */
    char last_error[256];
};

struct ledger_port {
    uint32_t magic;
    struct ledger *ledger;
    struct event *turn;      /* behind everything that is due in this turn of the loop: passes on what was gathered */
    struct entries gathered; /* in this turn */
    bool closing;
    int wake_fd; /* eventfd: finished is not empty */
    struct event *wake;

    /* Under the ledger's lock. */
    struct entries finished;
    int under_way;            /* rows in `waiting` or with the worker */
    bool to_wake;             /* the worker is about to write to wake_fd */
    struct ledger_port *next; /* the worker's list of ports to wake */
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

static void deliver(struct ledger_port *p);

/* --- rows in ------------------------------------------------------------------------------------------------ */

#define ROW_TEXTS 21
/* Where the strings of a row are; the same order for measuring and copying. */
static void row_texts(struct ledger_row *r, const char **texts[ROW_TEXTS])
{
    const char **const all[ROW_TEXTS] = {
        &r->request_id,      &r->tenant,       &r->team,    &r->key_id,      &r->model,         &r->node,
        &r->provider,        &r->usage_source, &r->error,   &r->asked_model, &r->service_class, &r->cache,
        &r->idempotency_key, &r->request_hash, &r->project, &r->user,        &r->tags,          &r->budgets,
        &r->hold_id,         &r->market,       &r->domain};
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
    x->is_event = false;
    x->done = done;
    x->arg = arg;
    x->rc = RC_OK;
    return x;
}

/* Queued, with an event instead of the row if there is one. */
static enum rc append(struct ledger_port *p, const struct ledger_row *row, const struct ledger_budget_event *event,
                      ledger_done_cb *done, void *arg)
{
    struct ledger *l = p->ledger;

    if (p->closing)
        return RC_CANCELLED;
    if (atomic_fetch_add_explicit(&l->queued, 1, memory_order_relaxed) >= l->queue_max) {
        atomic_fetch_sub_explicit(&l->queued, 1, memory_order_relaxed);
        return RC_FULL;
    }
    const struct ledger_row none = {0};
    struct entry *x = entry_new(l->off ? &none : row, done, arg);
    x->port = p;
    if (event && !l->off) {
        x->is_event = true;
        x->event = *event;
        x->event.id = x->row.request_id;
        x->event.budgets = x->row.budgets;
    }
    if (!p->gathered.n)
        event_active(p->turn, EV_TIMEOUT, 0);
    entries_push(&p->gathered, x);
    return RC_OK;
}

enum rc ledger_append(struct ledger_port *p, const struct ledger_row *row, ledger_done_cb *done, void *arg)
{
    SPW_ASSERT(p->magic == PORT_MAGIC && row->request_id);
    return append(p, row, NULL, done, arg);
}

enum rc ledger_append_budget(struct ledger_port *p, const struct ledger_budget_event *ev, ledger_done_cb *done,
                             void *arg)
{
    SPW_ASSERT(p->magic == PORT_MAGIC && ev->budgets);
    const struct ledger_row texts = {.request_id = ev->id, .budgets = ev->budgets};
    return append(p, &texts, ev, done, arg);
}

/* Without a file: back they go. */
static void forget(struct ledger_port *p)
{
    struct ledger *l = p->ledger;

    pthread_mutex_lock(&l->lock);
    atomic_fetch_sub_explicit(&l->queued, p->gathered.n, memory_order_relaxed);
    entries_move(&p->finished, &p->gathered, p->gathered.n);
    pthread_mutex_unlock(&l->lock);
    deliver(p);
}

void ledger_expect(struct ledger_port *p)
{
    if (p->ledger->off)
        event_active(p->turn, EV_TIMEOUT, 0);
}

/* What this turn has gathered goes to the writer, which is woken only if it would not look by itself. */
static void pass_on(struct ledger_port *p)
{
    struct ledger *l = p->ledger;

    if (!p->gathered.n)
        return;
    if (l->off) {
        forget(p);
        return;
    }
    pthread_mutex_lock(&l->lock);
    p->under_way += p->gathered.n;
    entries_move(&l->waiting, &p->gathered, p->gathered.n);
    bool wake = l->worker_state == WORKER_IDLE || (l->worker_state == WORKER_GATHERING && l->waiting.n >= l->enough);
    if (wake)
        l->worker_state = WORKER_BUSY;
    pthread_mutex_unlock(&l->lock);
    if (wake)
        pthread_cond_signal(&l->more);
}

static void turn_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    pass_on(arg);
}

/* --- worker thread ------------------------------------------------------------------------------------------ */

/* The whole group failed: nothing of it may stay behind, and nobody may be told otherwise. */
static void group_failed(struct ledger *l, struct entries *group, int rc, char *text, size_t size)
{
    snprintf(text, size, "%s", sqlite3_errmsg(l->db));
    if (!sqlite3_get_autocommit(l->db)) /* SQLite itself rolls back on some errors */
        sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    enum rc code = ledger_rc(rc);
    for (struct entry *x = group->head; x; x = x->next)
        x->rc = code == RC_OK || code == RC_CONFLICT ? RC_IO : code;
}

/* One transaction. A row that breaks a constraint (a request_id that is known) fails alone. True: committed. */
static bool commit_group(struct ledger *l, struct entries *group, char *text, size_t size)
{
    int rc = ledger_file_run(l->inserts.begin);

    for (struct entry *x = group->head; x && rc == SQLITE_OK; x = x->next) {
        int step = x->is_event ? ledger_budgets_write(&l->inserts.budgets, &x->event)
                               : ledger_file_insert(&l->inserts, &x->row);
        if (!x->is_event && (step & 0xff) == SQLITE_CONSTRAINT) {
            int kind = sqlite3_extended_errcode(l->db);
            x->rc = kind == SQLITE_CONSTRAINT_PRIMARYKEY || kind == SQLITE_CONSTRAINT_UNIQUE ? RC_CONFLICT : RC_INVALID;
            snprintf(text, size, "request %.64s: %s", x->row.request_id, sqlite3_errmsg(l->db));
        } else if (step != SQLITE_DONE) {
            rc = step;
        }
    }
    if (rc == SQLITE_OK)
        rc = ledger_file_run(l->inserts.commit);
    if (rc != SQLITE_OK)
        group_failed(l, group, rc, text, size);
    return rc == SQLITE_OK;
}

static struct timespec from_now_us(int64_t us)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += us / 1000000;
    t.tv_nsec += us % 1000000 * 1000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* How long a group may gather. A quick disk makes for small groups, each of which costs a flush, a wake-up of the writer
 * and one of the loop: where rows come thick and fast, a little patience makes one of many. It is measured by the disk:
 * twice what a commit takes, so that a row waits for three flushes at most, of which there are fewer the more each costs.
 * Where rows come slowly, or where groups are large by themselves (as where a fixed number of clients waits for its rows:
 * patience would only keep them from asking anew), nobody waits. */
static int64_t patience_us_locked(const struct ledger *l)
{
    if (l->group_ms > 0)
        return (int64_t)l->group_ms * 1000;
    bool small = l->waiting.n < GATHER_ENOUGH && l->found < GATHER_FOUND;
    if (!small || l->rows_per_s < GATHER_ROWS_PER_S)
        return 0;
    int64_t us = (int64_t)(GATHER_COMMITS * l->commit_us);
    return us < GATHER_US_MIN ? GATHER_US_MIN : us;
}

/* After a group was taken: how thick and fast? The newest group counts for a quarter. */
static void note_rate_locked(struct ledger *l, int rows)
{
    struct mono now = clock_now(&clock_system);
    int64_t ns = now.ns - l->taken.ns;

    l->taken = now;
    l->rows_per_s += ((double)rows * 1e9 / (double)(ns > 0 ? ns : 1) - l->rows_per_s) / 4;
}

/* The newest counts for a quarter, and one that the disk has held up for long for no more than may be waited. */
static void note_commit_locked(struct ledger *l, int64_t took_ns)
{
    double us = (double)took_ns / NS_PER_US, most = (double)GATHER_US_MAX / GATHER_COMMITS;

    l->commit_us += ((us < most ? us : most) - l->commit_us) / 4;
}

/* Wait for rows, and then a little for more of them. With the lock; false: stopping, and all is written. */
static bool gather_locked(struct ledger *l)
{
    while (!l->waiting.n && !l->stopping) {
        l->worker_state = WORKER_IDLE;
        pthread_cond_wait(&l->more, &l->lock);
    }
    l->found += (l->waiting.n - l->found) / 4;
    int64_t us = l->stopping ? 0 : patience_us_locked(l);
    if (us) {
        struct timespec until = from_now_us(us);
        l->enough = l->group_ms > 0 ? LEDGER_GROUP_ROWS : GATHER_ENOUGH;
        while (!l->stopping && l->waiting.n < l->enough) {
            l->worker_state = WORKER_GATHERING;
            if (pthread_cond_timedwait(&l->more, &l->lock, &until) == ETIMEDOUT)
                break;
        }
    }
    l->worker_state = WORKER_BUSY;
    return l->waiting.n > 0;
}

/* Book the result and hand each row to its port. With the lock. Returns the ports to be woken. */
static struct ledger_port *finish_locked(struct ledger *l, struct entries *group, bool committed, int64_t took_ns,
                                         const char *text)
{
    struct ledger_port *wake = NULL;
    struct entry *next;

    atomic_store_explicit(&l->failing, !committed, memory_order_relaxed);
    l->stats.commits += committed;
    if (committed)
        l->stats.last_commit_ns = took_ns;
    if (text[0])
        snprintf(l->last_error, sizeof l->last_error, "%s", text);
    atomic_fetch_sub_explicit(&l->queued, group->n, memory_order_relaxed);
    for (struct entry *x = group->head; x; x = next) {
        struct ledger_port *p = x->port;
        next = x->next;
        l->stats.rows += x->rc == RC_OK && !x->is_event;
        l->stats.failed += x->rc != RC_OK;
        if (!p->finished.n && !p->to_wake) { /* else its loop has been told already */
            p->to_wake = true;
            p->next = wake;
            wake = p;
        }
        p->under_way--;
        entries_push(&p->finished, x);
    }
    return wake;
}

/* Without the lock; with it again, the ports may go. */
static void wake_ports(struct ledger *l, struct ledger_port *ports)
{
    const uint64_t one = 1;

    for (struct ledger_port *p = ports; p; p = p->next) /* cannot fail: the loop reads the counter to zero */
        SPW_ASSERT(write(p->wake_fd, &one, sizeof one) == sizeof one);
    pthread_mutex_lock(&l->lock);
    for (struct ledger_port *p = ports; p; p = p->next)
        p->to_wake = false;
    pthread_cond_broadcast(&l->less);
}

static void *worker_main(void *arg)
{
    struct ledger *l = arg;

    pthread_mutex_lock(&l->lock);
    while (gather_locked(l)) {
        struct entries group;
        char text[256] = "";
        entries_init(&group);
        entries_move(&group, &l->waiting, LEDGER_GROUP_ROWS);
        note_rate_locked(l, group.n);
        pthread_mutex_unlock(&l->lock);

        struct mono start = clock_now(&clock_system);
        bool committed = commit_group(l, &group, text, sizeof text);
        int64_t took_ns = mono_since(&clock_system, start);

        pthread_mutex_lock(&l->lock);
        note_commit_locked(l, took_ns);
        struct ledger_port *wake = finish_locked(l, &group, committed, took_ns, text);
        pthread_mutex_unlock(&l->lock);
        wake_ports(l, wake); /* and takes the lock */
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* --- ports -------------------------------------------------------------------------------------------------- */

static void deliver(struct ledger_port *p)
{
    struct ledger *l = p->ledger;
    struct entries finished;

    entries_init(&finished);
    pthread_mutex_lock(&l->lock);
    entries_move(&finished, &p->finished, p->finished.n);
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

enum rc ledger_port_new(struct ledger_port **out, struct ledger *l, struct event_base *loop, struct error *e)
{
    struct ledger_port *p = spw_calloc(1, sizeof *p);

    *out = NULL;
    p->magic = PORT_MAGIC;
    p->ledger = l;
    entries_init(&p->gathered);
    entries_init(&p->finished);
    pthread_mutex_lock(&l->lock);
    l->n_ports++;
    pthread_mutex_unlock(&l->lock);
    enum rc rc = RC_OK;
    p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->wake_fd < 0)
        rc = error_set(e, RC_IO, "ledger: no event descriptor: %s", strerror(errno));
    p->turn = event_new(loop, -1, 0, turn_cb, p);
    p->wake = event_new(loop, p->wake_fd, EV_READ | EV_PERSIST, wake_cb, p);
    if (rc == RC_OK && (!p->turn || !p->wake || event_add(p->wake, NULL) != 0))
        rc = error_set(e, RC_IO, "ledger: the loop takes no event");
    if (rc != RC_OK) {
        ledger_port_free(p);
        return rc;
    }
    *out = p;
    return RC_OK;
}

void ledger_port_free(struct ledger_port *p)
{
    if (!p)
        return;
    SPW_ASSERT(p->magic == PORT_MAGIC);
    struct ledger *l = p->ledger;

    p->closing = true;
    pass_on(p);
    pthread_mutex_lock(&l->lock);
    while (p->under_way || p->to_wake)
        pthread_cond_wait(&l->less, &l->lock);
    pthread_mutex_unlock(&l->lock);
    deliver(p);
    pthread_mutex_lock(&l->lock);
    l->n_ports--;
    pthread_mutex_unlock(&l->lock);
    if (p->turn)
        event_free(p->turn);
    if (p->wake)
        event_free(p->wake);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
    p->magic = 0;
    free(p);
}

/* --- open and close ----------------------------------------------------------------------------------------- */

/* Where the writer shares a core with a loop, it shall not break into its turn each time that the disk is done: rows of
 * the whole turn make the larger group. Not to be had: no harm. */
static void work_in_the_background(pthread_t thread)
{
    struct sched_param none = {0};
    (void)pthread_setschedparam(thread, SCHED_BATCH, &none);
}

static enum rc start_worker(struct ledger *l, struct error *e)
{
    int failed = thread_start(&l->worker, "ledger", worker_main, l);
    if (failed)
        return error_set(e, RC_IO, "ledger: no worker thread: %s", strerror(failed));
    l->worker_runs = true;
    work_in_the_background(l->worker);
    return RC_OK;
}

enum rc ledger_open(struct ledger **out, const struct ledger_options *o, struct error *e)
{
    struct ledger *l = spw_calloc(1, sizeof *l);
    pthread_condattr_t attr;

    *out = NULL;
    l->magic = LEDGER_MAGIC;
    l->group_ms = o->group_ms;
    l->queue_max = o->queue_max ? o->queue_max : LEDGER_QUEUE_MAX;
    entries_init(&l->waiting);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->more, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&l->less, NULL);

    l->off = !o->path;
    if (l->off) {
        *out = l;
        return RC_OK;
    }
    enum rc rc = ledger_file_open(&l->db, o, e);
    if (rc == RC_OK)
        rc = ledger_file_prepare(l->db, &l->inserts, e);
    if (rc == RC_OK)
        rc = start_worker(l, e);
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
    SPW_ASSERT(l->magic == LEDGER_MAGIC && l->n_ports == 0);
    if (l->worker_runs) {
        pthread_mutex_lock(&l->lock);
        l->stopping = true;
        pthread_cond_signal(&l->more);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->worker, NULL);
    }
    ledger_file_finalize(&l->inserts);
    sqlite3_close(l->db);
    pthread_cond_destroy(&l->more);
    pthread_cond_destroy(&l->less);
    pthread_mutex_destroy(&l->lock);
    l->magic = 0;
    free(l);
}

bool ledger_is_failing(const struct ledger *l)
{
    return atomic_load_explicit(&l->failing, memory_order_relaxed);
}

struct ledger_stats ledger_stats(const struct ledger *shared)
{
    struct ledger *l = (struct ledger *)shared; /* the lock is ours to take; nothing else changes */

    pthread_mutex_lock(&l->lock);
    struct ledger_stats s = l->stats;
    pthread_mutex_unlock(&l->lock);
    s.queued = atomic_load_explicit(&l->queued, memory_order_relaxed);
    s.failing = ledger_is_failing(l);
    s.off = l->off;
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
