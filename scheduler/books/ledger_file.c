/* The ledger's file: its schema and the steps from each version to the next, one row in.
 *
 * PRAGMA application_id marks the file as a ledger; PRAGMA user_version counts the migrations applied to it. A
 * migration and its number are one transaction, so a crash between them cannot be seen. Rows are never changed.
 * Amounts are integers: pico-dollars, micro-dollars per million tokens, nanoseconds since 1970. */
#include "scheduler/books/ledger_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "scheduler/books/fold.h"
#include "scheduler/store/store.h"

#define LEDGER_APPLICATION_ID 0x5370774c /* "SpwL" */

/* migrations[i] leads from version i to i + 1. Never edited once released: a change is another entry. */
static const char *const migrations[] = {
    "CREATE TABLE ledger ("
    " request_id TEXT NOT NULL PRIMARY KEY,"
    " tenant TEXT, team TEXT, key_id TEXT,"
    " model TEXT, node TEXT, provider TEXT,"
    " streamed INTEGER NOT NULL, attempts INTEGER NOT NULL,"
    " tokens_input INTEGER NOT NULL, tokens_cached_input INTEGER NOT NULL, tokens_output INTEGER NOT NULL,"
    " usage_source TEXT,"
    " price_input_uusd_per_mtok INTEGER NOT NULL, price_cached_input_uusd_per_mtok INTEGER NOT NULL,"
    " price_output_uusd_per_mtok INTEGER NOT NULL,"
    " charge_pusd INTEGER NOT NULL,"
    " accepted_ns INTEGER NOT NULL, first_byte_ns INTEGER NOT NULL, finished_ns INTEGER NOT NULL,"
    " outcome INTEGER NOT NULL, http_status INTEGER NOT NULL, error TEXT,"
    " CHECK (tokens_cached_input BETWEEN 0 AND tokens_input AND tokens_output >= 0)"
    ") STRICT;",
    "ALTER TABLE ledger ADD COLUMN continuations INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE ledger ADD COLUMN cross_class INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE legs ("
    " request_id TEXT NOT NULL, leg INTEGER NOT NULL, node TEXT NOT NULL, provider TEXT,"
    " tokens_output INTEGER NOT NULL, outcome TEXT NOT NULL,"
    " started_ns INTEGER NOT NULL, ended_ns INTEGER NOT NULL, numerics TEXT,"
    " PRIMARY KEY (request_id, leg)"
    ") STRICT, WITHOUT ROWID;",
    "ALTER TABLE ledger ADD COLUMN asked_model TEXT;"
    "ALTER TABLE ledger ADD COLUMN service_class TEXT;"
    "ALTER TABLE ledger ADD COLUMN cache TEXT;"
    "ALTER TABLE ledger ADD COLUMN saved_pusd INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE ledger ADD COLUMN idempotency_key TEXT;"
    "ALTER TABLE ledger ADD COLUMN repeat INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX ledger_by_idempotency_key ON ledger (idempotency_key, tenant) WHERE idempotency_key IS NOT NULL;",
    /* By time instead: what is asked for, at each start, is the last minutes' keys. */
    "ALTER TABLE ledger ADD COLUMN request_hash TEXT;"
    "DROP INDEX ledger_by_idempotency_key;"
    "CREATE INDEX ledger_repeats ON ledger (finished_ns) WHERE idempotency_key IS NOT NULL;",
    /* Nearly all requests have one leg, and it stands in their row: a second insert would cost as much as the first. */
    "ALTER TABLE legs RENAME TO more_legs;"
    "ALTER TABLE ledger ADD COLUMN leg_tokens_output INTEGER;"
    "ALTER TABLE ledger ADD COLUMN leg_outcome TEXT;"
    "ALTER TABLE ledger ADD COLUMN leg_started_ns INTEGER;"
    "ALTER TABLE ledger ADD COLUMN leg_ended_ns INTEGER;"
    "ALTER TABLE ledger ADD COLUMN leg_numerics TEXT;"
    "CREATE VIEW legs AS"
    " SELECT request_id, leg, node, provider, tokens_output, outcome, started_ns, ended_ns, numerics FROM more_legs"
    " UNION ALL SELECT request_id, 1, node, provider, leg_tokens_output, leg_outcome, leg_started_ns, leg_ended_ns,"
    " leg_numerics FROM ledger WHERE leg_outcome IS NOT NULL;",
    /* What budgets are kept by: ledger_budgets.h. */
    "ALTER TABLE ledger ADD COLUMN project TEXT;"
    "ALTER TABLE ledger ADD COLUMN user TEXT;"
    "ALTER TABLE ledger ADD COLUMN tags TEXT;"
    "ALTER TABLE ledger ADD COLUMN budgets TEXT;"
    "CREATE TABLE budget_totals ("
    " name TEXT NOT NULL, start_s INTEGER NOT NULL, spent_pusd INTEGER NOT NULL DEFAULT 0,"
    " waste_pusd INTEGER NOT NULL DEFAULT 0, carried_in_pusd INTEGER NOT NULL DEFAULT 0,"
    " carried_out_pusd INTEGER NOT NULL DEFAULT 0, topped_up_pusd INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (name, start_s)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE budget_holds ("
    " request_id TEXT NOT NULL PRIMARY KEY, granted_pusd INTEGER NOT NULL, budgets TEXT NOT NULL, at_ns INTEGER NOT "
    "NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE budget_limits ("
    " name TEXT NOT NULL PRIMARY KEY, hard_pusd INTEGER NOT NULL, soft_pusd INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE budget_changes ("
    " at_ns INTEGER NOT NULL, name TEXT NOT NULL, start_s INTEGER NOT NULL, change TEXT NOT NULL,"
    " amount_pusd INTEGER NOT NULL, soft_pusd INTEGER, request_id TEXT"
    ") STRICT;"
    "CREATE INDEX budget_changes_by_name ON budget_changes (name, at_ns);",
    ledger_books_schema,
    /* How far a spool has been replayed: spool.h. */
    "CREATE TABLE spools (id TEXT NOT NULL PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;",
    ledger_kinds_schema,
};
#define LEDGER_VERSION ((int)(sizeof migrations / sizeof migrations[0]))

const char *ledger_outcome_name(enum ledger_outcome o)
{
    static const char *const names[] = {"ok", "cancelled", "failed"};
    return (unsigned)o < 3 ? names[o] : "unknown";
}

enum rc ledger_rc(int sqlite_rc)
{
    switch (sqlite_rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE: return RC_OK;
    case SQLITE_FULL: return RC_FULL;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return RC_AGAIN;
    case SQLITE_CONSTRAINT: return RC_CONFLICT;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT: return RC_INVALID;
    default: return RC_IO;
    }
}

enum rc ledger_fail(sqlite3 *db, int rc, const char *path, struct error *e)
{
    return error_set(e, ledger_rc(rc), "ledger %s: %s", path, db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

static int get_pragma(sqlite3 *db, const char *sql, int *value)
{
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);

    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        *value = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* Is this file ours, and of which version? Another program's database must not be touched. */
enum rc ledger_file_version(sqlite3 *db, const char *path, int *version, struct error *e)
{
    int id = 0, tables = 0;
    int rc = get_pragma(db, "PRAGMA application_id", &id);

    if (rc == SQLITE_OK)
        rc = get_pragma(db, "PRAGMA user_version", version);
    if (rc == SQLITE_OK)
        rc = get_pragma(db, "SELECT count(*) FROM sqlite_schema", &tables);
    if (rc != SQLITE_OK)
        return ledger_fail(db, rc, path, e);
    if (id != LEDGER_APPLICATION_ID && (tables > 0 || *version != 0))
        return error_set(e, RC_INVALID,
                         "ledger %s: this is a database of another program; give the ledger a file of "
                         "its own",
                         path);
    if (*version > LEDGER_VERSION)
        return error_set(e, RC_UNSUPPORTED,
                         "ledger %s: has schema version %d, this program knows up to %d; use the "
                         "newer program that wrote it",
                         path, *version, LEDGER_VERSION);
    return RC_OK;
}

static enum rc migrate(sqlite3 *db, const char *path, int version, struct error *e)
{
    char mark[128];

    for (; version < LEDGER_VERSION; version++) {
        snprintf(mark, sizeof mark, "PRAGMA application_id = %d; PRAGMA user_version = %d;", LEDGER_APPLICATION_ID,
                 version + 1);
        int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        if (rc == SQLITE_OK)
            rc = sqlite3_exec(db, migrations[version], NULL, NULL, NULL);
        if (rc == SQLITE_OK)
            rc = sqlite3_exec(db, mark, NULL, NULL, NULL);
        if (rc == SQLITE_OK)
            rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
        if (rc != SQLITE_OK) {
            enum rc code = ledger_fail(db, rc, path, e);
            sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
            return code;
        }
    }
    return RC_OK;
}

/* SQLite would make the file with the umask alone; who used what is not for everybody. Its -wal and -shm inherit. */
static enum rc touch(const char *path, struct error *e)
{
    /* Never one that is there: to close it would take this process's locks off it (fcntl), those of the writer's
     * connection too, and another program that is done with the file would then take its log away. */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);

    if (fd < 0 && errno == EEXIST)
        return RC_OK;
    if (fd < 0)
        return error_set(e, RC_IO, "ledger %s: %s", path, strerror(errno));
    close(fd);
    file_sync_folder_of(path);
    return RC_OK;
}

int ledger_file_busy_ms(const struct ledger_options *o)
{
    return o->busy_ms ? o->busy_ms : 5000;
}

enum rc ledger_file_open(sqlite3 **out, const struct ledger_options *o, struct error *e)
{
    sqlite3 *db = NULL;
    int version = 0;
    enum rc code = touch(o->path, e);

    *out = NULL;
    if (code != RC_OK)
        return code;
    int rc = sqlite3_open_v2(o->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, o->vfs);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(db, ledger_file_busy_ms(o)); /* before it is known to be ours nothing is changed */
    code = rc == SQLITE_OK ? ledger_file_version(db, o->path, &version, e) : ledger_fail(db, rc, o->path, e);
    if (code != RC_OK)
        goto out;
    rc = store_use(db, ledger_file_busy_ms(o));
    /* Whoever has no thread for it (ledger_checkpoint.h) folds the log back every MiB: often, since its rows wait while
     * that is done, and for as long as there is much of it. */
    if (rc == SQLITE_OK)
        rc =
            sqlite3_exec(db, "PRAGMA wal_autocheckpoint = 250; PRAGMA journal_size_limit = 67108864", NULL, NULL, NULL);
    code = rc == SQLITE_OK ? migrate(db, o->path, version, e) : ledger_fail(db, rc, o->path, e);
    if (code == RC_OK)
        code = fold_settle(db, o->path, true, e);
out:
    if (code == RC_OK)
        *out = db;
    else
        sqlite3_close(db);
    return code;
}

enum rc ledger_file_attach(sqlite3 *db, const char *path, const char *as, struct error *e)
{
    char *sql = spw_asprintf("ATTACH ?1 AS %s", as);
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    free(sql);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(s, 1, path, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : ledger_fail(db, rc, path, e);
}

enum rc ledger_file_open_twin(sqlite3 **out, struct error *e)
{
    sqlite3 *db = NULL;
    *out = NULL;
    int rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    enum rc code = rc == SQLITE_OK ? migrate(db, ":memory:", 0, e) : ledger_fail(db, rc, ":memory:", e);
    if (code == RC_OK)
        *out = db;
    else
        sqlite3_close(db);
    return code;
}

enum rc ledger_file_prepare(sqlite3 *db, struct ledger_inserts *s, struct error *e)
{
#define VALUES_32 "?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?"
    const struct {
        const char *sql;
        sqlite3_stmt **to;
    } all[] = {
        {"BEGIN IMMEDIATE", &s->begin},
        {"COMMIT", &s->commit},
        {"INSERT INTO ledger (" LEDGER_COLUMNS LEG_OF_ROW WHOSE_MONEY WHAT_IT_TOOK ") VALUES (" VALUES_32
         ",?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
         &s->row},
        {"INSERT INTO more_legs (" LEG_COLUMNS ", request_id) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &s->leg},
        {"INSERT INTO leg_uses (request_id, leg, hour_s, busy_us, millijoules) VALUES (?,?,?,?,?)", &s->use},
    };
    int rc = SQLITE_OK;

    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == SQLITE_OK; i++)
        rc = sqlite3_prepare_v3(db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].to, NULL);
    return rc == SQLITE_OK ? ledger_budgets_prepare(db, &s->budgets, e) : ledger_fail(db, rc, "file", e);
}

static void bind_text(sqlite3_stmt *s, int *i, const char *text)
{
    /* Static for the statement's run: the row outlives it. NULL binds NULL. */
    sqlite3_bind_text(s, ++*i, text, -1, SQLITE_STATIC);
}

/* An amount that nobody knows is NULL. */
static void bind_use(sqlite3_stmt *s, int *i, bool known, int64_t v)
{
    if (known)
        sqlite3_bind_int64(s, ++*i, v);
    else
        sqlite3_bind_null(s, ++*i);
}

/* Over the legs that tell; false: none does. */
static bool sum_uses(const struct ledger_leg *legs, int n, struct ledger_use *sum)
{
    bool known = false;
    *sum = (struct ledger_use){0};
    for (int i = 0; i < n; i++) {
        known = known || legs[i].n_uses > 0;
        for (int k = 0; k < legs[i].n_uses; k++) {
            const int64_t mj = legs[i].uses[k].millijoules;
            sum->busy_us += legs[i].uses[k].busy_us;
            sum->millijoules = mj < 0 || sum->millijoules < 0 ? -1 : sum->millijoules + mj;
        }
    }
    return known;
}

/* The leg that stands in the row itself, whose node and provider are the row's; NULL: there are none, or several. */
static const struct ledger_leg *only_leg(const struct ledger_row *r)
{
    const struct ledger_leg *leg = r->legs;
    bool same = r->n_legs == 1 && leg->leg == 1 && r->node && strcmp(leg->node, r->node) == 0 && leg->outcome &&
                r->provider && strcmp(leg->provider, r->provider) == 0;
    return same ? leg : NULL;
}

static void bind_leg_of_row(sqlite3_stmt *s, int *i, const struct ledger_leg *leg)
{
    if (!leg) {
        for (int k = 0; k < 5; k++)
            sqlite3_bind_null(s, ++*i);
        return;
    }
    sqlite3_bind_int64(s, ++*i, leg->tokens_output);
    bind_text(s, i, leg->outcome);
    sqlite3_bind_int64(s, ++*i, leg->started.ns);
    sqlite3_bind_int64(s, ++*i, leg->ended.ns);
    bind_text(s, i, leg->numerics[0] ? leg->numerics : NULL);
}

static void bind_took(sqlite3_stmt *s, int *i, const struct ledger_row *r)
{
    struct ledger_use sum;
    bool known = sum_uses(r->legs, r->n_legs, &sum);
    sqlite3_bind_int64(s, ++*i, r->tokens_reasoning);
    sqlite3_bind_int64(s, ++*i, r->price_version);
    sqlite3_bind_int64(s, ++*i, r->reserved.v);
    bind_text(s, i, r->market);
    bind_text(s, i, r->domain);
    bind_use(s, i, known, sum.busy_us);
    bind_use(s, i, known && sum.millijoules >= 0, sum.millijoules);
    bind_use(s, i, r->charge_max.v > 0, r->charge_max.v);
}

static void bind_row(sqlite3_stmt *s, const struct ledger_row *r)
{
    const char *const texts[] = {r->request_id, r->tenant, r->team, r->key_id, r->model, r->node, r->provider};
    const int64_t before[] = {r->streamed, r->attempts, r->tokens.input, r->tokens.cached_input, r->tokens.output};
    const int64_t after[] = {r->prices.input.uusd_per_mtok,
                             r->prices.cached_input.uusd_per_mtok,
                             r->prices.output.uusd_per_mtok,
                             r->charge.v,
                             r->accepted.ns,
                             r->first_byte.ns,
                             r->finished.ns,
                             r->outcome,
                             r->http_status};
    int i = 0;

    for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++)
        bind_text(s, &i, texts[k]);
    for (size_t k = 0; k < sizeof before / sizeof before[0]; k++)
        sqlite3_bind_int64(s, ++i, before[k]);
    bind_text(s, &i, r->usage_source);
    for (size_t k = 0; k < sizeof after / sizeof after[0]; k++)
        sqlite3_bind_int64(s, ++i, after[k]);
    bind_text(s, &i, r->error);
    sqlite3_bind_int64(s, ++i, r->continuations);
    sqlite3_bind_int64(s, ++i, r->cross_class);
    bind_text(s, &i, r->asked_model);
    bind_text(s, &i, r->service_class);
    bind_text(s, &i, r->cache);
    sqlite3_bind_int64(s, ++i, r->saved.v);
    bind_text(s, &i, r->idempotency_key);
    sqlite3_bind_int64(s, ++i, r->repeat);
    bind_text(s, &i, r->request_hash);
    bind_leg_of_row(s, &i, only_leg(r));
    bind_text(s, &i, r->project);
    bind_text(s, &i, r->user);
    bind_text(s, &i, r->tags);
    bind_text(s, &i, r->budgets);
    bind_took(s, &i, r);
    SPW_ASSERT(i == LEDGER_N_COLUMNS);
}

static int insert_leg(sqlite3_stmt *s, const struct ledger_leg *leg, const char *request_id)
{
    int i = 0;

    sqlite3_bind_int64(s, ++i, leg->leg);
    bind_text(s, &i, leg->node);
    bind_text(s, &i, leg->provider[0] ? leg->provider : NULL);
    sqlite3_bind_int64(s, ++i, leg->tokens_output);
    bind_text(s, &i, leg->outcome);
    sqlite3_bind_int64(s, ++i, leg->started.ns);
    sqlite3_bind_int64(s, ++i, leg->ended.ns);
    bind_text(s, &i, leg->numerics[0] ? leg->numerics : NULL);
    bind_text(s, &i, leg->market);
    bind_text(s, &i, leg->domain[0] ? leg->domain : NULL);
    sqlite3_bind_int64(s, ++i, leg->tokens_input);
    sqlite3_bind_int64(s, ++i, leg->tokens_cached_input);
    struct ledger_use sum;
    bool known = sum_uses(leg, 1, &sum);
    bind_use(s, &i, known, sum.busy_us);
    bind_use(s, &i, known && sum.millijoules >= 0, sum.millijoules);
    bind_text(s, &i, request_id);
    int rc = sqlite3_step(s);
    sqlite3_reset(s);
    return rc;
}

/* By hour, where that is not simply all of it in the hour in which the leg ended. */
static int insert_uses(sqlite3_stmt *s, const struct ledger_leg *leg, const char *request_id)
{
    const int64_t hour_ns = INT64_C(3600) * NS_PER_S;
    bool plain = leg->n_uses == 1 && leg->uses[0].hour_s == leg->ended.ns / hour_ns * 3600;
    int rc = SQLITE_DONE;
    for (int k = 0; k < leg->n_uses && !plain && rc == SQLITE_DONE; k++) {
        int i = 0;
        bind_text(s, &i, request_id);
        sqlite3_bind_int64(s, ++i, leg->leg);
        sqlite3_bind_int64(s, ++i, leg->uses[k].hour_s);
        sqlite3_bind_int64(s, ++i, leg->uses[k].busy_us);
        sqlite3_bind_int64(s, ++i, leg->uses[k].millijoules);
        rc = sqlite3_step(s);
        sqlite3_reset(s);
    }
    return rc;
}

/* The row first: when it breaks a constraint, nothing of it is there. A leg cannot: there is no row for it yet. */
int ledger_file_insert(const struct ledger_inserts *s, const struct ledger_row *row)
{
    bind_row(s->row, row);
    int rc = sqlite3_step(s->row);
    sqlite3_reset(s->row);
    if (rc == SQLITE_DONE && row->budgets)
        rc = ledger_budgets_settle(&s->budgets, row);
    const bool several = !only_leg(row);
    for (int i = 0; i < row->n_legs && rc == SQLITE_DONE; i++) {
        if (several)
            rc = insert_leg(s->leg, &row->legs[i], row->request_id);
        if (rc == SQLITE_DONE)
            rc = insert_uses(s->use, &row->legs[i], row->request_id);
        if ((rc & 0xff) == SQLITE_CONSTRAINT)
            rc = SQLITE_CORRUPT;
    }
    return rc;
}

int ledger_file_run(sqlite3_stmt *s)
{
    sqlite3_step(s);
    return sqlite3_reset(s); /* says how the step ended */
}

void ledger_file_finalize(struct ledger_inserts *s)
{
    sqlite3_finalize(s->begin);
    sqlite3_finalize(s->commit);
    sqlite3_finalize(s->row);
    sqlite3_finalize(s->leg);
    sqlite3_finalize(s->use);
    ledger_budgets_finalize(&s->budgets);
    *s = (struct ledger_inserts){0};
}

/* --- how far spools and journals are ----------------------------------------------------------------------- */

enum rc ledger_file_position(sqlite3 *db, const char *id, const char *path, int64_t *at, struct error *e)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT bytes FROM spools WHERE id = ?1", -1, &q, NULL);

    *at = 0;
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(q, 1, id, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        *at = sqlite3_column_int64(q, 0);
        rc = SQLITE_DONE;
    }
    enum rc code = rc == SQLITE_DONE ? RC_OK : ledger_fail(db, rc, path, e);
    sqlite3_finalize(q);
    return code;
}

int ledger_file_note_position(sqlite3 *db, const char *id, int64_t at)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, "INSERT OR REPLACE INTO spools (id, bytes) VALUES (?1, ?2)", -1, &q, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(q, 1, id, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(q, 2, at);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q);
    sqlite3_finalize(q);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* --- for readers ------------------------------------------------------------------------------------------ */

/* A file on a read-only disk that was closed cleanly has no -shm and none can be made: then it cannot change either,
 * and may be read without one. */
static enum rc open_read_only(sqlite3 **db, const char *path, struct error *e)
{
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, tables;
    int rc = sqlite3_open_v2(path, db, flags, NULL);

    if (rc == SQLITE_OK)
        sqlite3_busy_timeout(*db, 5000);
    if (rc == SQLITE_OK)
        rc = get_pragma(*db, "SELECT count(*) FROM sqlite_schema", &tables);
    if (rc == SQLITE_OK)
        return RC_OK;
    char *wal = spw_asprintf("%s-wal", path);
    bool closed = access(wal, F_OK) != 0;
    free(wal);
    if ((rc & 0xff) == SQLITE_CANTOPEN && closed && !strpbrk(path, "?#%")) {
        char *uri = spw_asprintf("file:%s?immutable=1", path);
        sqlite3_close(*db);
        rc = sqlite3_open_v2(uri, db, flags | SQLITE_OPEN_URI, NULL);
        free(uri);
    }
    return rc == SQLITE_OK ? RC_OK : ledger_fail(*db, rc, path, e);
}

enum rc ledger_file_open_read_only(sqlite3 **db, const char *path, struct error *e)
{
    enum rc rc = open_read_only(db, path, e);
    return rc == RC_OK ? fold_settle(*db, path, false, e) : rc;
}
