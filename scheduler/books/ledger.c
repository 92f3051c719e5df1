/* The ledger's writer: one thread that owns the SQLite connection, behind an inbox (base/inbox.h) with a port per
 * event loop.
 *
 *   loop: ledger_append() -> end of the turn -> worker: BEGIN, insert each, COMMIT -> done(rc) on the loop
 *                                                       or one frame of the journal
 *
 * Where a group goes, in this order: into the spool while there is something in it; into the journal while rows come
 * fast, or as long as something is unfolded there; else into the file; if somebody else has that for long, into the
 * journal after all; and if it says no, into the spool. So all comes in order. */
#include "scheduler/books/ledger_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/inbox.h"
#include "scheduler/books/folder.h"
#include "scheduler/books/ledger_checkpoint.h"
#include "scheduler/books/ledger_pack.h"
#include "scheduler/books/patience.h"
#include "scheduler/books/spool.h"

#define LEDGER_MAGIC      0x4c444752u
#define PORT_MAGIC        0x4c445054u
#define LEDGER_QUEUE_MAX  65536
#define LEDGER_GROUP_ROWS 8192 /* of one transaction: bounds what a failure takes along */
/* Rows a second over PACE_MS from which the journal is worth its second writing, and below which it no longer is. */
#define PACE_FAST 2000
#define PACE_SLOW 1000
#define PACE_MS   100
#define REPLAY_MS 1000 /* how often it is tried whether the file can be written again */
/* While somebody else has the file it is looked for so often; after so many times the journal will do as well. */
#define LOCKED_MS    5
#define LOCKED_LOOKS 4

/* One queued row; its legs and strings stand behind it in the same allocation. */
struct entry {
    struct inbox_entry in;
    struct ledger_row row;
    bool is_event; /* of a budget, whose texts stand in the row: see append() */
    struct ledger_budget_event event;
    struct ledger_leg legs[];
};

/* How thick and fast rows come. */
struct pace {
    struct mono since;
    int rows; /* since then */
    bool fast;
};

struct ledger {
    uint32_t magic;
    sqlite3 *db;                   /* the worker's, once it runs */
    struct ledger_inserts inserts; /* the worker's */
    struct ledger_checkpoint *checkpoint;
    int group_ms, busy_ms;
    bool locked;         /* the worker's: somebody else has the file, and the journal is ready */
    struct spool *spool; /* the worker's; NULL: there is none */
    enum ledger_journal journal;
    struct folder *folder; /* the worker's; NULL: there is no journal. While it isn't empty db and inserts are its */
    bool ahead;            /* the worker's: the newest group went into the journal */
    struct pace pace;      /* the worker's */
    bool spooling;         /* the worker's: the spool is not empty */
    struct mono tried;     /* the worker's: when a replay was tried last */
    struct inbox inbox;    /* direct: there is no file and no worker */
    atomic_bool failing;

    /* Under the inbox's lock. */
    struct patience patience;
    struct ledger_stats stats; /* without queued and failing, which are above */
    char last_error[256];
};

struct ledger_port {
    uint32_t magic;
    struct ledger *ledger;
    struct inbox_port *port;
};

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
    x->in.done = done;
    x->in.arg = arg;
    x->in.rc = RC_OK;
    x->in.can_wait = true;
    return x;
}

/* Queued, with an event instead of the row if there is one. */
static enum rc append(struct ledger_port *p, const struct ledger_row *row, const struct ledger_budget_event *event,
                      ledger_done_cb *done, void *arg)
{
    struct ledger *l = p->ledger;

    if (inbox_port_is_closing(p->port))
        return RC_CANCELLED;
    if (!inbox_take_place(&l->inbox))
        return RC_FULL;
    const struct ledger_row none = {0};
    struct entry *x = entry_new(l->inbox.direct ? &none : row, done, arg);
    if (event && !l->inbox.direct) {
        x->is_event = true;
        x->in.can_wait = false; /* what was asked for may begin with it */
        x->event = *event;
        x->event.id = x->row.request_id;
        x->event.budgets = x->row.budgets;
    }
    inbox_port_put(p->port, &x->in);
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

bool ledger_expect(struct ledger_port *p)
{
    return inbox_port_expect(p->port);
}

/* --- worker thread ------------------------------------------------------------------------------------------ */

/* The whole group failed: nothing of it may stay behind, and nobody may be told otherwise. */
static void group_failed(struct ledger *l, struct inbox_list *group, int rc, char *text, size_t size)
{
    snprintf(text, size, "%s", sqlite3_errmsg(l->db));
    if (!sqlite3_get_autocommit(l->db)) /* SQLite itself rolls back on some errors */
        sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    enum rc code = ledger_rc(rc);
    for (struct inbox_entry *x = group->head; x; x = x->next)
        x->rc = code == RC_OK || code == RC_CONFLICT ? RC_IO : code;
}

static int on_locked(void *arg, int looks)
{
    struct ledger *l = arg;

    l->locked = looks >= LOCKED_LOOKS && l->folder && folder_accepts(l->folder);
    if (l->locked || looks * LOCKED_MS >= l->busy_ms)
        return 0;
    sqlite3_sleep(LOCKED_MS);
    return 1;
}

/* SQLITE_OK or what went wrong. */
static int begin(struct ledger *l)
{
    sqlite3_busy_handler(l->db, on_locked, l);
    const int rc = ledger_file_run(l->inserts.begin);
    sqlite3_busy_timeout(l->db, l->busy_ms);
    return rc;
}

/* One transaction. A row that breaks a constraint (a request_id that is known) fails alone. True: committed. */
static bool commit_group(struct ledger *l, struct inbox_list *group, char *text, size_t size)
{
    int rc = begin(l);

    for (struct inbox_entry *in = group->head; in && rc == SQLITE_OK; in = in->next) {
        struct entry *x = (struct entry *)in;
        int step = x->is_event ? ledger_budgets_write(&l->inserts.budgets, &x->event)
                               : ledger_file_insert(&l->inserts, &x->row);
        if (!x->is_event && (step & 0xff) == SQLITE_CONSTRAINT) {
            int kind = sqlite3_extended_errcode(l->db);
            in->rc =
                kind == SQLITE_CONSTRAINT_PRIMARYKEY || kind == SQLITE_CONSTRAINT_UNIQUE ? RC_CONFLICT : RC_INVALID;
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

/* ---- the spool --------------------------------------------------------------------------------------------------- */

/* False: the group is nowhere. */
static bool spool_group(struct ledger *l, struct inbox_list *group, char *text, size_t size)
{
    struct error e = {0};
    spool_begin(l->spool);
    for (struct inbox_entry *in = group->head; in; in = in->next) {
        struct entry *x = (struct entry *)in;
        in->rc = spool_add(l->spool, x->is_event ? NULL : &x->row, x->is_event ? &x->event : NULL, &e);
    }
    enum rc rc = spool_commit(l->spool, &e);
    l->spooling = spool_bytes(l->spool) > 0;
    if (rc == RC_OK)
        return true;
    snprintf(text, size, "%.*s", (int)size - 1, e.message);
    for (struct inbox_entry *in = group->head; in; in = in->next)
        in->rc = rc;
    return false;
}

/* What is in the spool goes first, so that all comes in order. True: it is empty. */
static bool replay(struct ledger *l, char *text, size_t size)
{
    struct error e = {0};
    int64_t entries;
    if (l->tried.ns && mono_since(&clock_system, l->tried) < REPLAY_MS * NS_PER_MS)
        return false;
    enum rc rc = l->folder ? folder_drain(l->folder, &e) : RC_OK;
    if (rc == RC_OK)
        rc = spool_replay(l->spool, l->db, &entries, &e);
    l->tried = clock_now(&clock_system);
    l->spooling = rc != RC_OK;
    if (rc != RC_OK)
        snprintf(text, size, "%.*s", (int)size - 1, e.message);
    return rc == RC_OK;
}

/* ---- the journal ------------------------------------------------------------------------------------------------- */

static void note_pace(struct pace *p, int rows)
{
    const int64_t ns = mono_since(&clock_system, p->since);

    p->rows += rows;
    if (ns < PACE_MS * NS_PER_MS)
        return;
    p->fast = (double)p->rows * NS_PER_S > (double)ns * (p->fast ? PACE_SLOW : PACE_FAST);
    p->since = clock_now(&clock_system);
    p->rows = 0;
}

static bool prefers_journal(struct ledger *l)
{
    const bool wanted = l->journal == LEDGER_JOURNAL_ALWAYS || l->pace.fast;

    return l->folder && (wanted || !folder_is_empty(l->folder)) && folder_accepts(l->folder);
}

/* RC_OK: it is durable, but for rows that can be in no ledger. */
static enum rc put_into_journal(struct ledger *l, struct inbox_list *group, struct error *e)
{
    struct strbuf *frame = folder_frame(l->folder);
    int entries = 0;
    enum rc rc = RC_OK;

    for (struct inbox_entry *in = group->head; in && rc == RC_OK; in = in->next) {
        struct entry *x = (struct entry *)in;
        in->rc = RC_OK; /* the file may have said no */
        if (!x->is_event && !ledger_row_is_possible(&x->row)) {
            in->rc = error_set(e, RC_INVALID, "request %.64s: token counts that cannot be", x->row.request_id);
            continue;
        }
        rc = ledger_pack(frame, &x->row, x->is_event ? &x->event : NULL);
        entries++;
    }
    return rc == RC_OK && entries ? folder_put(l->folder, entries, e) : rc;
}

static bool into_journal(struct ledger *l, struct inbox_list *group, char *text, size_t size)
{
    struct error e = {0};

    l->ahead = put_into_journal(l, group, &e) == RC_OK;
    if (l->ahead)
        snprintf(text, size, "%.*s", (int)size - 1, e.message);
    return l->ahead;
}

/* The file said no. */
static bool into_journal_after_all(struct ledger *l, struct inbox_list *group, char *text, size_t size)
{
    if (!l->locked)
        return false;
    if (into_journal(l, group, text, size))
        return true;
    for (struct inbox_entry *x = group->head; x; x = x->next)
        x->rc = RC_AGAIN;
    return false;
}

/* The file is the writer's again, with all that was in the journal. */
static bool take_file_back(struct ledger *l, struct inbox_list *group, char *text, size_t size)
{
    struct error e = {0};
    enum rc rc = l->folder ? folder_drain(l->folder, &e) : RC_OK;

    if (rc == RC_OK)
        return true;
    snprintf(text, size, "%.*s", (int)size - 1, e.message);
    for (struct inbox_entry *x = group->head; x; x = x->next)
        x->rc = rc;
    return false;
}

/* Nothing was put for a while. False: the file cannot be written, as it could not before. */
static bool help_folder(struct ledger *l)
{
    if (!l->folder)
        return true;
    folder_help(l->folder);
    return folder_is_empty(l->folder) || !ledger_is_failing(l);
}

static bool is_of_the_file(enum rc rc)
{
    return rc == RC_FULL || rc == RC_IO || rc == RC_AGAIN;
}

/* See at the top. True: it is durable. */
static bool write_group(struct ledger *l, struct inbox_list *group, char *text, size_t size)
{
    l->locked = false;
    if (l->spooling && !replay(l, text, size))
        return spool_group(l, group, text, size);
    if (!group->n)
        return help_folder(l);
    l->ahead = false;
    if (prefers_journal(l) && into_journal(l, group, text, size))
        return true;
    if (take_file_back(l, group, text, size) && commit_group(l, group, text, size))
        return true;
    if (into_journal_after_all(l, group, text, size))
        return true;
    if (!l->spool || !group->head || !is_of_the_file(group->head->rc))
        return false;
    l->tried = clock_now(&clock_system);
    return spool_group(l, group, text, size);
}

static void wait_for_more_locked(struct ledger *l)
{
    struct inbox *q = &l->inbox;

    if (l->group_ms > 0) {
        inbox_gather_locked(q, LEDGER_GROUP_ROWS, (int64_t)l->group_ms * 1000);
        return;
    }
    const int64_t us = patience_us(&l->patience, q->waiting.n, l->ahead, mono_since(&clock_system, q->since));
    if (us)
        inbox_gather_locked(q, PATIENCE_ENOUGH, us);
}

/* Wait for rows, and then a little for more of them. With the lock; false: stopping, and all is written. */
static bool gather_locked(struct ledger *l)
{
    struct inbox *q = &l->inbox;

    while (!q->waiting.n && !q->stopping) {
        const int64_t ms = l->spooling ? REPLAY_MS : folder_bytes(l->folder) ? FOLD_LATE_MS : -1;
        inbox_idle_locked(q, ms < 0 ? -1 : ms * 1000);
        if (ms > 0)
            break;
    }
    patience_found(&l->patience, q->waiting.n);
    if (q->waiting.n && !q->stopping)
        wait_for_more_locked(l);
    return q->waiting.n > 0 || !q->stopping;
}

/* With the lock. */
static void book_locked(struct ledger *l, const struct inbox_list *group, bool committed, int64_t took_ns,
                        const char *text)
{
    l->stats.spooling = l->spooling;
    l->stats.spool_bytes = spool_bytes(l->spool);
    atomic_store_explicit(&l->failing, !committed, memory_order_relaxed);
    l->stats.commits += committed && group->n;
    if (committed && group->n)
        l->stats.last_commit_ns = took_ns;
    if (text[0])
        snprintf(l->last_error, sizeof l->last_error, "%s", text);
    for (const struct inbox_entry *x = group->head; x; x = x->next) {
        const bool is_row = x->rc == RC_OK && !((const struct entry *)x)->is_event;
        l->stats.rows += is_row;
        l->stats.spooled += is_row && l->spooling;
        l->stats.failed += x->rc != RC_OK;
    }
}

static void *worker_main(void *arg)
{
    struct ledger *l = arg;
    struct inbox *q = &l->inbox;

    pthread_mutex_lock(&q->lock);
    while (gather_locked(l)) {
        struct inbox_list group;
        char text[256] = "";
        inbox_list_init(&group);
        inbox_list_move(&group, &q->waiting, LEDGER_GROUP_ROWS);
        patience_taken(&l->patience, group.n, clock_now(&clock_system));
        pthread_mutex_unlock(&q->lock);
        note_pace(&l->pace, group.n);

        struct mono start = clock_now(&clock_system);
        bool committed = write_group(l, &group, text, sizeof text);
        if (l->folder && !text[0])
            (void)folder_trouble(l->folder, text, sizeof text);
        int64_t took_ns = mono_since(&clock_system, start);

        pthread_mutex_lock(&q->lock);
        if (group.n)
            patience_committed(&l->patience, took_ns);
        book_locked(l, &group, committed, took_ns, text);
        struct inbox_port *wake = inbox_finish_locked(q, &group);
        pthread_mutex_unlock(&q->lock);
        inbox_wake_ports(q, wake); /* and takes the lock */
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

/* --- ports -------------------------------------------------------------------------------------------------- */

enum rc ledger_port_new(struct ledger_port **out, struct ledger *l, struct event_base *loop, struct error *e)
{
    struct ledger_port *p = spw_calloc(1, sizeof *p);

    *out = NULL;
    p->magic = PORT_MAGIC;
    p->ledger = l;
    enum rc rc = inbox_port_new(&p->port, &l->inbox, loop, "ledger", e);
    if (rc != RC_OK) {
        free(p);
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
    inbox_port_free(p->port);
    p->magic = 0;
    free(p);
}

/* --- open and close ----------------------------------------------------------------------------------------- */

/* What the last run has left there comes before anything is read or written. */
static enum rc open_spool(struct ledger *l, const struct ledger_options *o, struct error *e)
{
    int64_t entries = 0;
    enum rc rc = spool_open(&l->spool, o->spool, o->spool_bytes, e);
    l->stats.spool_set_aside = rc == RC_OK ? spool_set_aside(l->spool) : 0;
    if (rc == RC_OK && l->spool)
        rc = spool_replay(l->spool, l->db, &entries, e);
    if (rc == RC_OK && !o->spool_bytes) { /* it was only to be emptied */
        spool_close(l->spool);
        l->spool = NULL;
    }
    return rc;
}

enum rc ledger_open(struct ledger **out, const struct ledger_options *o, struct error *e)
{
    struct ledger *l = spw_calloc(1, sizeof *l);

    *out = NULL;
    l->magic = LEDGER_MAGIC;
    l->group_ms = o->group_ms;
    l->busy_ms = ledger_file_busy_ms(o);
    l->journal = o->journal;
    inbox_init(&l->inbox, o->queue_max ? o->queue_max : LEDGER_QUEUE_MAX, !o->path);
    if (!o->path) {
        *out = l;
        return RC_OK;
    }
    enum rc rc = ledger_file_open(&l->db, o, e);
    if (rc == RC_OK)
        rc = ledger_file_prepare(l->db, &l->inserts, e);
    if (rc == RC_OK && o->spool)
        rc = open_spool(l, o, e);
    if (rc == RC_OK)
        rc = ledger_checkpoint_start(&l->checkpoint, l->db, o, e);
    if (rc == RC_OK && o->journal != LEDGER_JOURNAL_OFF)
        rc = folder_start(&l->folder, o, l->db, &l->inserts, e);
    if (rc == RC_OK)
        rc = inbox_start(&l->inbox, "ledger", worker_main, l, e);
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
    SPW_ASSERT(l->magic == LEDGER_MAGIC && l->inbox.n_ports == 0);
    inbox_stop(&l->inbox);
    folder_stop(l->folder);
    ledger_checkpoint_stop(l->checkpoint);
    spool_close(l->spool);
    ledger_file_finalize(&l->inserts);
    sqlite3_close(l->db);
    inbox_fini(&l->inbox);
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

    pthread_mutex_lock(&l->inbox.lock);
    struct ledger_stats s = l->stats;
    pthread_mutex_unlock(&l->inbox.lock);
    s.queued = atomic_load_explicit(&l->inbox.queued, memory_order_relaxed);
    s.failing = ledger_is_failing(l);
    s.off = l->inbox.direct;
    s.journal_bytes = folder_bytes(l->folder);
    return s;
}

char *ledger_last_error(const struct ledger *shared, char *buf, size_t size)
{
    struct ledger *l = (struct ledger *)shared;

    pthread_mutex_lock(&l->inbox.lock);
    snprintf(buf, size, "%s", l->last_error);
    pthread_mutex_unlock(&l->inbox.lock);
    return buf;
}
