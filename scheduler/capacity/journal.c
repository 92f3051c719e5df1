#include "scheduler/capacity/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/text.h"
#include "base/worker.h"
#include "scheduler/store/store.h"

#define FORMAT_VERSION 1
#define AGAIN_MS       1000
#define OWNER_BYTES    16
#define MARKET_S       "86400" /* prices of a market that are older are in what was launched */

enum op_kind { OP_INTEND, OP_KNOWN, OP_PRICE, OP_MARKET, OP_END, OP_BILL, OP_LOSSES };
struct op {
    STAILQ_ENTRY(op) next;
    struct journal *journal;
    enum op_kind kind;
    struct journal_entry entry; /* as much of it as the kind needs */
    int64_t at_s, until_s;
    struct losses losses;
    char reason[160];
    enum rc rc;
    char why[256];
    journal_done_cb *done;
    journal_bill_cb *bill_done;
    void *arg;
    struct journal_bill bill;
};

struct journal {
    sqlite3 *db; /* the thread's, between open and close */
    char *path;
    const struct log *log;
    struct worker *worker;
    STAILQ_HEAD(, op) waiting; /* in order; the first may be at the worker */
    int n_waiting;
    bool busy, closing;
    struct event *again;
    struct journal_stats stats;
};

/* What later versions brought, and earlier ones leave alone. */
static const char additions[] =
    "CREATE TABLE IF NOT EXISTS losses(pool TEXT PRIMARY KEY, lost REAL NOT NULL, hours REAL NOT NULL,"
    " at_s INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS market(provider TEXT NOT NULL, offer TEXT NOT NULL, at_s INTEGER NOT NULL,"
    " price_hour INTEGER NOT NULL, PRIMARY KEY(provider, offer, at_s)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS instances_of_offer ON instances(provider, offer)";
static const char schema[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE instances(token TEXT PRIMARY KEY, name TEXT NOT NULL, provider TEXT NOT NULL, pool TEXT NOT NULL,"
    " id TEXT NOT NULL DEFAULT '', offer TEXT NOT NULL DEFAULT '', intended_s INTEGER NOT NULL,"
    " launched_s INTEGER NOT NULL DEFAULT 0, billing_min_s INTEGER NOT NULL, price_hour INTEGER NOT NULL,"
    " ended_s INTEGER NOT NULL DEFAULT 0, end_reason TEXT NOT NULL DEFAULT '') WITHOUT ROWID;"
    "CREATE INDEX open_instances ON instances(intended_s) WHERE ended_s = 0;"
    "CREATE TABLE prices(token TEXT NOT NULL, at_s INTEGER NOT NULL, price_hour INTEGER NOT NULL,"
    " PRIMARY KEY(token, at_s)) WITHOUT ROWID;"
    "PRAGMA user_version=1";

/* ---- the file, on whichever thread has it ------------------------------------------------------------------------- */

static enum rc failed(struct journal *j, struct error *e)
{
    return error_set(e, RC_IO, "%s: %s", j->path, sqlite3_errmsg(j->db));
}

static int one_number(struct journal *j, const char *sql)
{
    sqlite3_stmt *s = NULL;
    int v = -1;
    if (sqlite3_prepare_v2(j->db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return v;
}

static enum rc prepare_file(struct journal *j, struct error *e)
{
    if (store_use(j->db, 2000) != SQLITE_OK)
        return failed(j, e);
    const int version = one_number(j, "PRAGMA user_version");
    if (version > FORMAT_VERSION)
        return error_set(e, RC_UNSUPPORTED, "%s was written by a newer version (format %d; this one knows %d)", j->path,
                         version, FORMAT_VERSION);
    if (version < 0)
        return failed(j, e);
    char *sql = spw_asprintf("BEGIN IMMEDIATE; %s; COMMIT", schema);
    const bool good = (version == FORMAT_VERSION || sqlite3_exec(j->db, sql, NULL, NULL, NULL) == SQLITE_OK) &&
                      sqlite3_exec(j->db, additions, NULL, NULL, NULL) == SQLITE_OK;
    free(sql);
    return good ? RC_OK : failed(j, e);
}

/* Made once, with the file: what carries another owner's tag is none of ours. */
static enum rc read_owner(struct journal *j, char owner[33], struct error *e)
{
    unsigned char bytes[OWNER_BYTES];
    sqlite3_stmt *put = NULL, *get = NULL;
    char fresh[33];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    text_hex(fresh, bytes, sizeof bytes);
    enum rc rc = RC_OK;
    if (sqlite3_prepare_v2(j->db, "INSERT OR IGNORE INTO meta VALUES('owner', ?1)", -1, &put, NULL) != SQLITE_OK ||
        sqlite3_bind_text(put, 1, fresh, -1, SQLITE_STATIC) != SQLITE_OK || sqlite3_step(put) != SQLITE_DONE ||
        sqlite3_prepare_v2(j->db, "SELECT value FROM meta WHERE name = 'owner'", -1, &get, NULL) != SQLITE_OK ||
        sqlite3_step(get) != SQLITE_ROW)
        rc = failed(j, e);
    else
        snprintf(owner, 33, "%s", (const char *)sqlite3_column_text(get, 0));
    sqlite3_finalize(put);
    sqlite3_finalize(get);
    return rc;
}

/* ---- operations, on the thread ------------------------------------------------------------------------------------ */

static bool run_sql(struct journal *j, const char *sql, const char *const *texts, int n_texts, const int64_t *numbers,
                    int n_numbers)
{
    sqlite3_stmt *s = NULL;
    bool good = sqlite3_prepare_v2(j->db, sql, -1, &s, NULL) == SQLITE_OK;
    for (int i = 0; good && i < n_texts; i++)
        good = sqlite3_bind_text(s, i + 1, texts[i], -1, SQLITE_STATIC) == SQLITE_OK;
    for (int i = 0; good && i < n_numbers; i++)
        good = sqlite3_bind_int64(s, n_texts + i + 1, numbers[i]) == SQLITE_OK;
    good = good && sqlite3_step(s) == SQLITE_DONE;
    sqlite3_finalize(s);
    return good;
}
#define RUN(j, sql, texts, numbers)                                                                                    \
    run_sql(j, sql, texts, (int)(sizeof(texts) / sizeof(texts)[0]), numbers,                                           \
            (int)(sizeof(numbers) / sizeof(numbers)[0]))

static bool write_price(struct journal *j, const char *token, struct pusd price, int64_t at_s)
{
    const char *const texts[] = {token};
    const int64_t numbers[] = {at_s, price.v};
    return RUN(j, "INSERT OR REPLACE INTO prices VALUES(?1, ?2, ?3)", texts, numbers);
}

/* The prices of a market in what was launched there: the last one before its launch, and all until its end. */
#define TAKE_MARKET(of)                                                                                                \
    "INSERT OR REPLACE INTO prices SELECT token, max(at_s, launched_s), market.price_hour FROM instances JOIN market"  \
    " USING(provider, offer) WHERE launched_s > 0 AND (ended_s = 0 OR at_s < max(ended_s, launched_s + "               \
    "billing_min_s))"                                                                                                  \
    " AND " of " ORDER BY at_s"

static bool write_market(struct journal *j, const struct op *o)
{
    const char *const texts[] = {o->entry.provider, o->entry.offer};
    const int64_t numbers[] = {o->at_s, o->entry.price_hour.v};
    return RUN(j, "INSERT OR REPLACE INTO market VALUES(?1, ?2, ?3, ?4)", texts, numbers) &&
           run_sql(j, TAKE_MARKET("provider = ?1 AND offer = ?2"), texts, 2, NULL, 0) &&
           run_sql(
               j,
               "DELETE FROM market WHERE provider = ?1 AND offer = ?2 AND at_s < (SELECT max(at_s) FROM market WHERE"
               " provider = ?1 AND offer = ?2 AND at_s <= ?3 - " MARKET_S ")",
               texts, 2, numbers, 1);
}

static bool write_intent(struct journal *j, const struct op *o)
{
    const struct journal_entry *i = &o->entry;
    const char *const texts[] = {i->token, i->name, i->provider, i->pool, i->offer, i->id};
    const int64_t numbers[] = {i->intended_s, i->launched_s, i->billing_min_s, i->price_hour.v};
    return RUN(j,
               "INSERT INTO instances(token, name, provider, pool, offer, id, intended_s, launched_s, billing_min_s,"
               " price_hour) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
               texts, numbers) &&
           (!i->launched_s || write_price(j, i->token, i->price_hour, i->launched_s)); /* adopted: it runs already */
}

static bool write_known(struct journal *j, const struct op *o)
{
    const struct journal_entry *i = &o->entry;
    const char *const texts[] = {i->token, i->id, i->offer};
    const int64_t numbers[] = {i->launched_s, i->price_hour.v};
    return RUN(j, "UPDATE instances SET id = ?2, offer = ?3, launched_s = ?4, price_hour = ?5 WHERE token = ?1", texts,
               numbers) &&
           write_price(j, i->token, i->price_hour, i->launched_s) &&
           run_sql(j, TAKE_MARKET("token = ?1"), texts, 1, NULL, 0);
}

static bool write_end(struct journal *j, const struct op *o)
{
    const char *const texts[] = {o->entry.token, o->reason};
    const int64_t numbers[] = {o->at_s};
    return RUN(j, "UPDATE instances SET ended_s = ?3, end_reason = ?2 WHERE token = ?1 AND ended_s = 0", texts,
               numbers);
}

static bool write_losses(struct journal *j, const struct op *o)
{
    sqlite3_stmt *s = NULL;
    const bool good =
        sqlite3_prepare_v2(j->db, "INSERT OR REPLACE INTO losses VALUES(?1, ?2, ?3, ?4)", -1, &s, NULL) == SQLITE_OK &&
        sqlite3_bind_text(s, 1, o->entry.pool, -1, SQLITE_STATIC) == SQLITE_OK &&
        sqlite3_bind_double(s, 2, o->losses.lost) == SQLITE_OK &&
        sqlite3_bind_double(s, 3, o->losses.hours) == SQLITE_OK &&
        sqlite3_bind_int64(s, 4, o->losses.at_s) == SQLITE_OK && sqlite3_step(s) == SQLITE_DONE;
    sqlite3_finalize(s);
    return good;
}

/* Seconds of one instance by the prices that held, at least so many of the last. */
static bool bill_one(struct journal *j, const char *token, int64_t from_s, int64_t until_s, int64_t at_least_until_s,
                     struct journal_bill *b)
{
    sqlite3_stmt *s = NULL;
    __int128 sum = 0;
    int64_t price = 0, at = from_s;
    bool good = sqlite3_prepare_v2(j->db, "SELECT at_s, price_hour FROM prices WHERE token = ?1 ORDER BY at_s", -1, &s,
                                   NULL) == SQLITE_OK &&
                sqlite3_bind_text(s, 1, token, -1, SQLITE_STATIC) == SQLITE_OK;
    const int64_t end = until_s > at_least_until_s ? until_s : at_least_until_s;
    int step = SQLITE_ERROR;
    while (good && (step = sqlite3_step(s)) == SQLITE_ROW) {
        const int64_t since = sqlite3_column_int64(s, 0), upto = since < end ? since : end;
        if (upto > at) {
            sum += (__int128)price * (upto - at);
            at = upto;
        }
        price = sqlite3_column_int64(s, 1);
    }
    good = good && step == SQLITE_DONE;
    sqlite3_finalize(s);
    if (end > at)
        sum += (__int128)price * (end - at);
    b->paid.v += sum / 3600;
    b->seconds += end > from_s ? end - from_s : 0;
    b->instances++;
    return good;
}

static bool read_bill(struct journal *j, struct op *o)
{
    sqlite3_stmt *s = NULL;
    bool good =
        sqlite3_prepare_v2(j->db,
                           "SELECT token, launched_s, ended_s, billing_min_s FROM instances WHERE launched_s > 0"
                           " AND launched_s <= ?2 AND (ended_s = 0 OR ended_s > ?1 OR"
                           " launched_s + billing_min_s > ?1)",
                           -1, &s, NULL) == SQLITE_OK &&
        sqlite3_bind_int64(s, 1, o->at_s) == SQLITE_OK && sqlite3_bind_int64(s, 2, o->until_s) == SQLITE_OK;
    int step = SQLITE_ERROR;
    while (good && (step = sqlite3_step(s)) == SQLITE_ROW) {
        const int64_t launched = sqlite3_column_int64(s, 1), ended = sqlite3_column_int64(s, 2);
        const int64_t from = launched > o->at_s ? launched : o->at_s;
        const int64_t until = ended && ended < o->until_s ? ended : o->until_s;
        const int64_t paid_until = ended ? launched + sqlite3_column_int64(s, 3) : 0;
        good = bill_one(j, (const char *)sqlite3_column_text(s, 0), from, until,
                        paid_until < o->until_s ? paid_until : o->until_s, &o->bill);
    }
    good = good && step == SQLITE_DONE;
    sqlite3_finalize(s);
    return good;
}

static bool do_op(struct journal *j, struct op *o)
{
    switch (o->kind) {
    case OP_INTEND: return write_intent(j, o);
    case OP_KNOWN: return write_known(j, o);
    case OP_PRICE: {
        const char *const texts[] = {o->entry.token};
        const int64_t numbers[] = {o->entry.price_hour.v};
        return RUN(j, "UPDATE instances SET price_hour = ?2 WHERE token = ?1", texts, numbers) &&
               write_price(j, o->entry.token, o->entry.price_hour, o->at_s);
    }
    case OP_MARKET: return write_market(j, o);
    case OP_END: return write_end(j, o);
    case OP_LOSSES: return write_losses(j, o);
    case OP_BILL: o->bill = (struct journal_bill){.instances = 0}; return read_bill(j, o);
    }
    return false;
}

static void run_op(void *arg)
{
    struct op *o = arg;
    struct journal *j = o->journal;
    bool good = sqlite3_exec(j->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK && do_op(j, o) &&
                sqlite3_exec(j->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
    o->rc = good ? RC_OK : RC_IO;
    if (!good) {
        snprintf(o->why, sizeof o->why, "%s", sqlite3_errmsg(j->db));
        sqlite3_exec(j->db, "ROLLBACK", NULL, NULL, NULL);
    }
}

/* ---- on the loop ------------------------------------------------------------------------------------------------- */

static void next_op(struct journal *j);

static void tell(struct op *o)
{
    if (o->done)
        o->done(o->rc, o->entry.token, o->arg);
    if (o->bill_done)
        o->bill_done(o->rc, &o->bill, o->arg);
    free(o);
}

static void pop(struct journal *j, struct op *o)
{
    SPW_ASSERT(STAILQ_FIRST(&j->waiting) == o);
    STAILQ_REMOVE_HEAD(&j->waiting, next);
    j->n_waiting--;
}

/* What somebody waits for is told that it failed; the rest is tried again. */
static void on_op(enum rc rc, void *arg)
{
    struct op *o = arg;
    struct journal *j = o->journal;
    const struct timeval again = {AGAIN_MS / 1000, AGAIN_MS % 1000 * 1000};
    j->busy = false;
    if (rc != RC_OK) /* not begun: journal_close() writes it */
        return;
    if (o->rc == RC_OK) {
        if (j->stats.failing)
            log_info(j->log, "capacity", "the journal can be written again");
        j->stats.failing = false;
        j->stats.written++;
    } else {
        j->stats.failed++;
        if (!j->stats.failing)
            log_error(j->log, "capacity", "the journal cannot be written: nothing is launched", LOG_S("path", j->path),
                      LOG_S("reason", o->why));
        j->stats.failing = true;
    }
    if (o->rc != RC_OK && !o->done && !o->bill_done && !j->closing) {
        event_add(j->again, &again);
        return;
    }
    pop(j, o);
    if (!j->closing)
        next_op(j);
    tell(o);
}

static void next_op(struct journal *j)
{
    struct op *o = STAILQ_FIRST(&j->waiting);
    if (!o || j->busy)
        return;
    j->busy = worker_submit(j->worker, run_op, on_op, o) == RC_OK;
    SPW_ASSERT(j->busy); /* one at a time */
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    next_op(arg);
}

static struct op *new_op(struct journal *j, enum op_kind kind, const char *token)
{
    struct op *o = spw_calloc(1, sizeof *o);
    o->journal = j;
    o->kind = kind;
    snprintf(o->entry.token, sizeof o->entry.token, "%s", token);
    return o;
}

static void put(struct journal *j, struct op *o)
{
    STAILQ_INSERT_TAIL(&j->waiting, o, next);
    j->n_waiting++;
    if (!event_pending(j->again, EV_TIMEOUT, NULL))
        next_op(j);
}

void journal_intend(struct journal *j, const struct journal_entry *i, journal_done_cb *done, void *arg)
{
    struct op *o = new_op(j, OP_INTEND, i->token);
    o->entry = *i;
    o->done = done;
    o->arg = arg;
    put(j, o);
}

void journal_known(struct journal *j, const char *token, const char *id, const char *offer, int64_t launched_s,
                   struct pusd price_hour)
{
    struct op *o = new_op(j, OP_KNOWN, token);
    snprintf(o->entry.id, sizeof o->entry.id, "%s", id);
    snprintf(o->entry.offer, sizeof o->entry.offer, "%s", offer);
    o->entry.launched_s = launched_s;
    o->entry.price_hour = price_hour;
    put(j, o);
}

void journal_price(struct journal *j, const char *token, struct pusd price_hour, int64_t at_s)
{
    struct op *o = new_op(j, OP_PRICE, token);
    o->entry.price_hour = price_hour;
    o->at_s = at_s;
    put(j, o);
}

void journal_market(struct journal *j, const char *provider, const char *offer, struct pusd price_hour, int64_t at_s)
{
    struct op *o = new_op(j, OP_MARKET, "");
    snprintf(o->entry.provider, sizeof o->entry.provider, "%s", provider);
    snprintf(o->entry.offer, sizeof o->entry.offer, "%s", offer);
    o->entry.price_hour = price_hour;
    o->at_s = at_s;
    put(j, o);
}

void journal_end(struct journal *j, const char *token, int64_t at_s, const char *reason)
{
    struct op *o = new_op(j, OP_END, token);
    o->at_s = at_s;
    snprintf(o->reason, sizeof o->reason, "%s", reason);
    put(j, o);
}

void journal_losses(struct journal *j, const char *pool, const struct losses *l)
{
    struct op *o = new_op(j, OP_LOSSES, "");
    snprintf(o->entry.pool, sizeof o->entry.pool, "%s", pool);
    o->losses = *l;
    put(j, o);
}

void journal_bill(struct journal *j, int64_t from_s, int64_t until_s, journal_bill_cb *done, void *arg)
{
    struct op *o = new_op(j, OP_BILL, "");
    o->at_s = from_s;
    o->until_s = until_s;
    o->bill_done = done;
    o->arg = arg;
    put(j, o);
}

struct journal_stats journal_stats(const struct journal *j)
{
    struct journal_stats s = j->stats;
    s.queued = j->n_waiting;
    return s;
}

/* ---- opening and closing -------------------------------------------------------------------------------------------- */

enum rc journal_open(struct journal **out, const char *path, struct event_base *loop, const struct log *log,
                     char owner[33], struct error *e)
{
    struct journal *j = spw_calloc(1, sizeof *j);
    j->path = spw_strdup(path);
    j->log = log;
    STAILQ_INIT(&j->waiting);
    enum rc rc = RC_OK;
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600); /* SQLite's own mode is wider */
    if (fd < 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    else
        close(fd);
    if (rc == RC_OK && sqlite3_open_v2(path, &j->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK)
        rc = j->db ? failed(j, e) : error_set(e, RC_IO, "%s: cannot be opened", path);
    if (rc == RC_OK)
        rc = prepare_file(j, e);
    if (rc == RC_OK)
        rc = read_owner(j, owner, e);
    if (rc == RC_OK)
        rc = worker_new(&j->worker, "journal", loop, 2, e);
    if (rc != RC_OK) {
        journal_close(j);
        return error_prefix(e, "capacity");
    }
    j->again = evtimer_new(loop, on_again, j);
    *out = j;
    return RC_OK;
}

/* Nobody is told any more; what is still to be written is. */
void journal_close(struct journal *j)
{
    if (!j)
        return;
    j->closing = true;
    worker_free(j->worker); /* the one that runs ends; its done is called from inside */
    while (!STAILQ_EMPTY(&j->waiting)) {
        struct op *o = STAILQ_FIRST(&j->waiting);
        STAILQ_REMOVE_HEAD(&j->waiting, next);
        if (!o->done && !o->bill_done)
            run_op(o);
        else
            o->rc = RC_CANCELLED;
        if (o->rc == RC_CANCELLED)
            tell(o);
        else
            free(o);
    }
    if (j->again)
        event_free(j->again);
    sqlite3_close(j->db);
    free(j->path);
    free(j);
}

static void read_text(sqlite3_stmt *s, int column, char *out, size_t size)
{
    const unsigned char *text = sqlite3_column_text(s, column);
    snprintf(out, size, "%s", text ? (const char *)text : "");
}

enum rc journal_each_open(struct journal *j, void (*each)(const struct journal_entry *i, void *arg), void *arg,
                          struct error *e)
{
    sqlite3_stmt *s = NULL;
    int step = SQLITE_ERROR;
    if (sqlite3_prepare_v2(j->db,
                           "SELECT token, name, provider, pool, id, offer, intended_s, launched_s, billing_min_s,"
                           " price_hour FROM instances WHERE ended_s = 0 ORDER BY intended_s, token",
                           -1, &s, NULL) == SQLITE_OK) {
        while ((step = sqlite3_step(s)) == SQLITE_ROW) {
            struct journal_entry i = {.intended_s = sqlite3_column_int64(s, 6),
                                      .launched_s = sqlite3_column_int64(s, 7),
                                      .billing_min_s = sqlite3_column_int(s, 8),
                                      .price_hour = {sqlite3_column_int64(s, 9)}};
            read_text(s, 0, i.token, sizeof i.token);
            read_text(s, 1, i.name, sizeof i.name);
            read_text(s, 2, i.provider, sizeof i.provider);
            read_text(s, 3, i.pool, sizeof i.pool);
            read_text(s, 4, i.id, sizeof i.id);
            read_text(s, 5, i.offer, sizeof i.offer);
            each(&i, arg);
        }
    }
    enum rc rc = step == SQLITE_DONE ? RC_OK : failed(j, e);
    sqlite3_finalize(s);
    return rc;
}

enum rc journal_each_losses(struct journal *j, void (*each)(const char *pool, const struct losses *l, void *arg),
                            void *arg, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int step = SQLITE_ERROR;
    if (sqlite3_prepare_v2(j->db, "SELECT pool, lost, hours, at_s FROM losses", -1, &s, NULL) == SQLITE_OK) {
        while ((step = sqlite3_step(s)) == SQLITE_ROW) {
            char pool[JOURNAL_NAME_MAX];
            const struct losses l = {sqlite3_column_double(s, 1), sqlite3_column_double(s, 2),
                                     sqlite3_column_int64(s, 3)};
            read_text(s, 0, pool, sizeof pool);
            if (l.lost >= 0 && l.hours >= 0)
                each(pool, &l, arg);
        }
    }
    enum rc rc = step == SQLITE_DONE ? RC_OK : failed(j, e);
    sqlite3_finalize(s);
    return rc;
}
