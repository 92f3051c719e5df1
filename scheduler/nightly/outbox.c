#include "scheduler/nightly/outbox.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/store/store.h"

#define FORMAT_VERSION 1
#define BUSY_MS        5000
#define FIRST_S        2
#define MOST_S         3600

struct outbox {
    sqlite3 *db;
    char *path;
};

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS runs(run INTEGER PRIMARY KEY, period TEXT NOT NULL, team TEXT NOT NULL,"
    " edition INTEGER NOT NULL, made_s INTEGER NOT NULL, open_hours INTEGER NOT NULL, subject TEXT NOT NULL,"
    " sender TEXT NOT NULL, message_id TEXT NOT NULL UNIQUE, files TEXT NOT NULL, UNIQUE(period, team, edition));"
    "CREATE TABLE IF NOT EXISTS parts(run INTEGER NOT NULL, position INTEGER NOT NULL, role INTEGER NOT NULL,"
    " name TEXT, type TEXT, bytes BLOB NOT NULL, PRIMARY KEY(run, position));"
    "CREATE TABLE IF NOT EXISTS deliveries(id INTEGER PRIMARY KEY, run INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " target TEXT NOT NULL, state INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, since_s INTEGER NOT NULL,"
    " next_s INTEGER NOT NULL, sent_s INTEGER NOT NULL DEFAULT 0, error TEXT, UNIQUE(run, kind, target));"
    "CREATE INDEX IF NOT EXISTS waiting ON deliveries(kind, next_s) WHERE state = 0;"
    "PRAGMA user_version=1;"
    "COMMIT";

const char *outbox_kind_name(enum outbox_kind k)
{
    return k == OUTBOX_MAIL ? "mail" : "webhook";
}

const char *outbox_state_name(enum outbox_state s)
{
    static const char *const names[] = {"waiting", "sent", "given_up"};
    return names[s];
}

int64_t outbox_backoff_s(int tries, uint32_t random)
{
    int64_t s = FIRST_S;
    for (int i = 1; i < tries && s < MOST_S; i++)
        s *= 2;
    s = s < MOST_S ? s : MOST_S;
    return s - s / 5 + (int64_t)(random % (uint64_t)(2 * (s / 5) + 1));
}

/* ---- SQLite ------------------------------------------------------------------------------------------------------- */

static enum rc failed(struct outbox *o, struct error *e)
{
    return error_set(e, sqlite3_errcode(o->db) == SQLITE_FULL ? RC_FULL : RC_IO, "%s: %s", o->path,
                     sqlite3_errmsg(o->db));
}

/* Numbers are bound to ?1, ?2, ..., texts after them. NULL: *rc and *e say why. */
static sqlite3_stmt *prepare(struct outbox *o, const char *sql, const int64_t *numbers, int n, const char *const *texts,
                             int n_texts, enum rc *rc, struct error *e)
{
    sqlite3_stmt *s = NULL;
    bool good = sqlite3_prepare_v2(o->db, sql, -1, &s, NULL) == SQLITE_OK;
    for (int i = 0; good && i < n; i++)
        good = sqlite3_bind_int64(s, i + 1, numbers[i]) == SQLITE_OK;
    for (int i = 0; good && i < n_texts; i++)
        good = sqlite3_bind_text(s, n + i + 1, texts[i], -1, SQLITE_STATIC) == SQLITE_OK;
    *rc = good ? RC_OK : failed(o, e);
    if (!good)
        sqlite3_finalize(s);
    return good ? s : NULL;
}

static enum rc run(struct outbox *o, const char *sql, const int64_t *numbers, int n, const char *const *texts,
                   int n_texts, struct error *e)
{
    enum rc rc;
    sqlite3_stmt *s = prepare(o, sql, numbers, n, texts, n_texts, &rc, e);
    if (s && sqlite3_step(s) != SQLITE_DONE)
        rc = failed(o, e);
    sqlite3_finalize(s);
    return rc;
}
#define N_OF(list) (int)(sizeof(list) / sizeof(list)[0])

/* The first column of the first row; `none` where there is no row. */
static enum rc one_number(struct outbox *o, const char *sql, const char *const *texts, int n, int64_t none, int64_t *v,
                          struct error *e)
{
    enum rc rc;
    sqlite3_stmt *s = prepare(o, sql, NULL, 0, texts, n, &rc, e);
    *v = none;
    if (!s)
        return rc;
    const int step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        *v = sqlite3_column_int64(s, 0);
    else if (step != SQLITE_DONE)
        rc = failed(o, e);
    sqlite3_finalize(s);
    return rc;
}

/* True: there is a row. False: there is none, or *rc and *e say what went wrong. */
static bool step_row(struct outbox *o, sqlite3_stmt *s, enum rc *rc, struct error *e)
{
    const int step = sqlite3_step(s);
    if (step != SQLITE_ROW && step != SQLITE_DONE)
        *rc = failed(o, e);
    return step == SQLITE_ROW;
}

static enum rc begin(struct outbox *o, struct error *e)
{
    return run(o, "BEGIN IMMEDIATE", NULL, 0, NULL, 0, e);
}

static enum rc end(struct outbox *o, enum rc rc, struct error *e)
{
    if (rc == RC_OK)
        rc = run(o, "COMMIT", NULL, 0, NULL, 0, e);
    if (rc != RC_OK)
        (void)sqlite3_exec(o->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

enum rc outbox_open(struct outbox **out, const char *path, struct error *e)
{
    struct outbox *o = spw_calloc(1, sizeof *o);
    int64_t version = 0;
    o->path = spw_strdup(path);
    *out = NULL;
    enum rc rc = RC_OK;
    if (sqlite3_open_v2(path, &o->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
            SQLITE_OK ||
        store_use(o->db, BUSY_MS) != SQLITE_OK)
        rc = failed(o, e);
    if (rc == RC_OK)
        rc = one_number(o, "PRAGMA user_version", NULL, 0, 0, &version, e);
    if (rc == RC_OK && version > FORMAT_VERSION)
        rc = error_set(e, RC_UNSUPPORTED, "%s was written by a newer version (format %d; this one knows %d)", path,
                       (int)version, FORMAT_VERSION);
    if (rc == RC_OK && version < FORMAT_VERSION && sqlite3_exec(o->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        rc = failed(o, e);
    if (rc == RC_OK)
        *out = o;
    else
        outbox_close(o);
    return rc;
}

void outbox_close(struct outbox *o)
{
    if (!o)
        return;
    sqlite3_close(o->db);
    free(o->path);
    free(o);
}

/* ---- what was made ------------------------------------------------------------------------------------------------ */

enum rc outbox_done(struct outbox *o, int64_t *done_s, struct error *e)
{
    return one_number(o, "SELECT value FROM meta WHERE name = 'done_s'", NULL, 0, -1, done_s, e);
}

enum rc outbox_set_done(struct outbox *o, int64_t done_s, struct error *e)
{
    return run(o, "INSERT OR REPLACE INTO meta VALUES('done_s', ?1)", &done_s, 1, NULL, 0, e);
}

enum rc outbox_has(struct outbox *o, const char *period, const char *team, bool *has, struct error *e)
{
    const char *const texts[] = {period, team ? team : ""};
    int64_t n = 0;
    enum rc rc =
        one_number(o, "SELECT count(*) FROM runs WHERE period = ?1 AND team = ?2 AND edition = 0", texts, 2, 0, &n, e);
    *has = n > 0;
    return rc;
}

static enum rc put_parts(struct outbox *o, int64_t id, const struct outbox_run *r, struct error *e)
{
    enum rc rc = RC_OK;
    for (int i = 0; i < r->n_parts && rc == RC_OK; i++) {
        const struct outbox_part *p = &r->parts[i];
        const int64_t numbers[] = {id, i, p->role};
        const char *const texts[] = {p->name, p->type};
        sqlite3_stmt *s = prepare(o, "INSERT INTO parts VALUES(?1, ?2, ?3, ?4, ?5, ?6)", numbers, 3, texts, 2, &rc, e);
        if (s && (sqlite3_bind_blob64(s, 6, p->n ? p->bytes : "", p->n, SQLITE_STATIC) != SQLITE_OK ||
                  sqlite3_step(s) != SQLITE_DONE))
            rc = failed(o, e);
        sqlite3_finalize(s);
    }
    return rc;
}

static enum rc put_run(struct outbox *o, const struct outbox_run *r, enum outbox_why why, struct error *e)
{
    const char *const whose[] = {r->period, r->team ? r->team : ""};
    int64_t edition = 0;
    enum rc rc = one_number(o, "SELECT coalesce(max(edition) + 1, 0) FROM runs WHERE period = ?1 AND team = ?2", whose,
                            2, 0, &edition, e);
    if (why == OUTBOX_NIGHTLY)
        edition = 0;
    else if (!edition) /* the nightly one may still come */
        edition = 1;
    const int64_t numbers[] = {edition, r->made_s, r->open_hours};
    const char *const texts[] = {whose[0],
                                 whose[1],
                                 r->subject ? r->subject : "",
                                 r->from ? r->from : "",
                                 r->message_id,
                                 r->files ? r->files : ""};
    return rc == RC_OK
               ? run(o,
                     "INSERT INTO runs(edition, made_s, open_hours, period, team, subject, sender, message_id, files)"
                     " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                     numbers, 3, texts, N_OF(texts), e)
               : rc;
}

enum rc outbox_put(struct outbox *o, const struct outbox_run *r, enum outbox_why why, struct error *e)
{
    bool has = false;
    enum rc rc = begin(o, e);
    if (rc != RC_OK)
        return rc;
    if (why == OUTBOX_NIGHTLY)
        rc = outbox_has(o, r->period, r->team, &has, e);
    if (rc == RC_OK && !has)
        rc = put_run(o, r, why, e);
    const int64_t id = sqlite3_last_insert_rowid(o->db);
    if (rc == RC_OK && !has && r->n_targets)
        rc = put_parts(o, id, r, e);
    for (int i = 0; i < r->n_targets && rc == RC_OK && !has; i++) {
        const int64_t numbers[] = {id, r->targets[i].kind, r->made_s};
        const char *const texts[] = {r->targets[i].to};
        rc = run(o,
                 "INSERT OR IGNORE INTO deliveries(run, kind, state, since_s, next_s, target)"
                 " VALUES(?1, ?2, 0, ?3, ?3, ?4)",
                 numbers, 3, texts, 1, e);
    }
    return end(o, rc, e);
}

/* ---- what is sent ------------------------------------------------------------------------------------------------- */

static char *text_of(sqlite3_stmt *s, int column)
{
    const char *text = (const char *)sqlite3_column_text(s, column);
    return text ? spw_strdup(text) : NULL;
}

static enum rc take_parts(struct outbox *o, int64_t id, struct outbox_item *item, struct error *e)
{
    enum rc rc;
    sqlite3_stmt *s = prepare(o, "SELECT role, name, type, bytes FROM parts WHERE run = ?1 ORDER BY position", &id, 1,
                              NULL, 0, &rc, e);
    while (s && item->n_parts < OUTBOX_PARTS_MAX && step_row(o, s, &rc, e)) {
        struct outbox_part *p = &item->parts[item->n_parts++];
        const size_t n = (size_t)sqlite3_column_bytes(s, 3);
        char *bytes = spw_malloc(n + 1);
        if (n)
            memcpy(bytes, sqlite3_column_blob(s, 3), n);
        bytes[n] = '\0';
        *p = (struct outbox_part){(enum outbox_role)sqlite3_column_int(s, 0), text_of(s, 1), text_of(s, 2), bytes, n};
    }
    sqlite3_finalize(s);
    return rc;
}

static enum rc when_next(struct outbox *o, enum outbox_kind kind, int64_t *next_s, struct error *e)
{
    return one_number(
        o,
        kind == OUTBOX_MAIL
            ? "SELECT coalesce(min(next_s), 9223372036854775807) FROM deliveries WHERE state = 0 AND kind = 0"
            : "SELECT coalesce(min(next_s), 9223372036854775807) FROM deliveries WHERE state = 0 AND kind = 1",
        NULL, 0, INT64_MAX, next_s, e);
}

enum rc outbox_take(struct outbox *o, enum outbox_kind kind, int64_t now_s, struct outbox_item *item, int64_t *next_s,
                    struct error *e)
{
    const int64_t numbers[] = {kind, now_s};
    int64_t id = 0;
    bool found = false;
    enum rc rc;
    *item = (struct outbox_item){.kind = kind};
    sqlite3_stmt *s = prepare(o,
                              "SELECT d.id, d.since_s, d.tries, d.target, r.subject, r.sender, r.message_id, r.run,"
                              " (SELECT group_concat(target, ', ') FROM deliveries WHERE run = r.run AND kind = 0)"
                              " FROM deliveries d JOIN runs r ON r.run = d.run WHERE d.state = 0 AND d.kind = ?1"
                              " AND d.next_s <= ?2 ORDER BY d.tries, d.next_s, d.id LIMIT 1",
                              numbers, 2, NULL, 0, &rc, e);
    if (s && (found = step_row(o, s, &rc, e))) {
        item->id = sqlite3_column_int64(s, 0);
        item->since_s = sqlite3_column_int64(s, 1);
        item->tries = sqlite3_column_int(s, 2);
        char **const texts[] = {&item->to, &item->subject, &item->from, &item->message_id};
        for (int i = 0; i < 4; i++)
            *texts[i] = text_of(s, 3 + i);
        id = sqlite3_column_int64(s, 7);
        item->all_to = text_of(s, 8);
    }
    sqlite3_finalize(s);
    if (rc == RC_OK && found)
        rc = take_parts(o, id, item, e);
    if (rc == RC_OK && !found)
        rc = when_next(o, kind, next_s, e);
    return rc == RC_OK && !found ? error_set(e, RC_NOT_FOUND, "nothing is due") : rc;
}

void outbox_item_fini(struct outbox_item *item)
{
    for (int i = 0; i < item->n_parts; i++) {
        free((char *)(uintptr_t)item->parts[i].name);
        free((char *)(uintptr_t)item->parts[i].type);
        free((void *)(uintptr_t)item->parts[i].bytes);
    }
    free(item->to);
    free(item->subject);
    free(item->from);
    free(item->message_id);
    free(item->all_to);
    *item = (struct outbox_item){.id = 0};
}

enum rc outbox_note(struct outbox *o, int64_t id, enum outbox_state state, const char *why, int64_t now_s,
                    int64_t next_s, struct error *e)
{
    const int64_t numbers[] = {id, state, next_s, state == OUTBOX_SENT ? now_s : 0};
    const char *const texts[] = {why[0] ? why : NULL};
    enum rc rc = begin(o, e);
    if (rc != RC_OK)
        return rc;
    rc = run(o,
             "UPDATE deliveries SET state = ?2, next_s = ?3, sent_s = ?4, error = ?5, tries = tries + 1"
             " WHERE id = ?1 AND state = 0",
             numbers, 4, texts, 1, e);
    if (rc == RC_OK && state != OUTBOX_WAITING)
        rc = run(o,
                 "DELETE FROM parts WHERE run = (SELECT run FROM deliveries WHERE id = ?1) AND NOT EXISTS"
                 " (SELECT 1 FROM deliveries d WHERE d.run = parts.run AND d.state = 0)",
                 &id, 1, NULL, 0, e);
    return end(o, rc, e);
}

enum rc outbox_postpone(struct outbox *o, enum outbox_kind kind, int64_t next_s, struct error *e)
{
    const int64_t numbers[] = {kind, next_s};
    return run(o, "UPDATE deliveries SET next_s = ?2 WHERE state = 0 AND kind = ?1 AND next_s < ?2", numbers, 2, NULL,
               0, e);
}

enum rc outbox_hurry(struct outbox *o, enum outbox_kind kind, int64_t now_s, struct error *e)
{
    const int64_t numbers[] = {kind, now_s};
    return run(o, "UPDATE deliveries SET next_s = ?2 WHERE state = 0 AND kind = ?1 AND next_s > ?2", numbers, 2, NULL,
               0, e);
}

/* ---- what is known ------------------------------------------------------------------------------------------------ */

enum rc outbox_count(struct outbox *o, struct outbox_counts counts[OUTBOX_KINDS], struct error *e)
{
    enum rc rc;
    sqlite3_stmt *s = prepare(o,
                              "SELECT kind, sum(state = 0), sum(state = 0 AND error IS NOT NULL), sum(state = 2)"
                              " FROM deliveries GROUP BY kind",
                              NULL, 0, NULL, 0, &rc, e);
    memset(counts, 0, OUTBOX_KINDS * sizeof *counts);
    while (s && step_row(o, s, &rc, e)) {
        const int kind = sqlite3_column_int(s, 0);
        if (kind >= 0 && kind < OUTBOX_KINDS)
            counts[kind] = (struct outbox_counts){sqlite3_column_int64(s, 1), sqlite3_column_int64(s, 2),
                                                  sqlite3_column_int64(s, 3)};
    }
    sqlite3_finalize(s);
    return rc;
}

static void tell_line(sqlite3_stmt *s, outbox_line_cb *each, void *arg)
{
    const char *team = (const char *)sqlite3_column_text(s, 2);
    const struct outbox_line l = {.run = sqlite3_column_int64(s, 0),
                                  .period = (const char *)sqlite3_column_text(s, 1),
                                  .team = team && team[0] ? team : NULL,
                                  .again = sqlite3_column_int(s, 3) > 0,
                                  .made_s = sqlite3_column_int64(s, 4),
                                  .open_hours = sqlite3_column_int64(s, 5),
                                  .message_id = (const char *)sqlite3_column_text(s, 6),
                                  .files = (const char *)sqlite3_column_text(s, 7),
                                  .to = (const char *)sqlite3_column_text(s, 8),
                                  .kind = (enum outbox_kind)sqlite3_column_int(s, 9),
                                  .state = (enum outbox_state)sqlite3_column_int(s, 10),
                                  .tries = sqlite3_column_int(s, 11),
                                  .next_s = sqlite3_column_int64(s, 12),
                                  .sent_s = sqlite3_column_int64(s, 13),
                                  .error = (const char *)sqlite3_column_text(s, 14)};
    each(&l, arg);
}

enum rc outbox_list(struct outbox *o, int last, outbox_line_cb *each, void *arg, struct error *e)
{
    const int64_t numbers[] = {last};
    enum rc rc;
    sqlite3_stmt *s =
        prepare(o,
                "SELECT r.run, period, team, edition, made_s, open_hours, message_id, files, target, kind, state,"
                " tries, next_s, sent_s, error FROM (SELECT * FROM runs ORDER BY run DESC LIMIT ?1) r"
                " LEFT JOIN deliveries d ON d.run = r.run ORDER BY r.run DESC, d.id",
                numbers, 1, NULL, 0, &rc, e);
    while (s && step_row(o, s, &rc, e))
        tell_line(s, each, arg);
    sqlite3_finalize(s);
    return rc;
}

enum rc outbox_forget(struct outbox *o, int64_t before_s, outbox_file_cb *each, void *arg, struct error *e)
{
    enum rc rc;
    sqlite3_stmt *s = prepare(o,
                              "SELECT files FROM runs r WHERE made_s < ?1 AND NOT EXISTS (SELECT 1 FROM runs n WHERE"
                              " n.files = r.files AND n.made_s >= ?1)",
                              &before_s, 1, NULL, 0, &rc, e);
    while (s && step_row(o, s, &rc, e))
        each((const char *)sqlite3_column_text(s, 0), arg);
    sqlite3_finalize(s);
    if (rc != RC_OK || (rc = begin(o, e)) != RC_OK)
        return rc;
    static const char *const steps[] = {
        "DELETE FROM parts WHERE run IN (SELECT run FROM runs WHERE made_s < ?1)",
        "DELETE FROM deliveries WHERE run IN (SELECT run FROM runs WHERE made_s < ?1)",
        "DELETE FROM runs WHERE made_s < ?1",
    };
    for (int i = 0; i < N_OF(steps) && rc == RC_OK; i++)
        rc = run(o, steps[i], &before_s, 1, NULL, 0, e);
    return end(o, rc, e);
}
