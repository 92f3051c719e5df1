#include "scheduler/books/ledger_budgets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/books/ledger_internal.h"

bool ledger_budget_line(const char **lines, int64_t *start_s, const char **name, size_t *n)
{
    char *at;
    const char *end = *lines ? strchr(*lines, '\n') : NULL;
    if (!end)
        return false;
    errno = 0;
    *start_s = strtoll(*lines, &at, 10);
    if (errno || *at != ' ' || at >= end)
        return false;
    *name = at + 1;
    *n = (size_t)(end - *name);
    *lines = end + 1;
    return *n > 0;
}

/* ---- in ---------------------------------------------------------------------------------------------------------- */

#define ADD(column)                                                                                                    \
    "INSERT INTO budget_totals (name, start_s, " column ") VALUES (?1, ?2, ?3)"                                        \
    " ON CONFLICT (name, start_s) DO UPDATE SET " column " = " column " + excluded." column

enum rc ledger_budgets_prepare(sqlite3 *db, struct ledger_budget_inserts *s, struct error *e)
{
    const struct {
        const char *sql;
        sqlite3_stmt **to;
    } all[] = {
        {ADD("spent_pusd"), &s->spend},
        {ADD("waste_pusd"), &s->waste},
        {ADD("topped_up_pusd"), &s->top_up},
        {ADD("carried_in_pusd"), &s->carry_in},
        {ADD("carried_out_pusd"), &s->carry_out},
        {"INSERT OR REPLACE INTO budget_holds (request_id, granted_pusd, budgets, at_ns) VALUES (?1, ?2, ?3, ?4)",
         &s->hold},
        {"DELETE FROM budget_holds WHERE request_id = ?1", &s->drop},
        {"INSERT OR REPLACE INTO budget_limits (name, hard_pusd, soft_pusd) VALUES (?1, ?2, ?3)", &s->limits},
        {"INSERT INTO budget_changes (at_ns, name, start_s, change, amount_pusd, soft_pusd)"
         " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
         &s->change},
    };
    int rc = SQLITE_OK;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == SQLITE_OK; i++)
        rc = sqlite3_prepare_v3(db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].to, NULL);
    return rc == SQLITE_OK ? RC_OK : error_set(e, ledger_rc(rc), "ledger: %s", sqlite3_errmsg(db));
}

void ledger_budgets_finalize(struct ledger_budget_inserts *s)
{
    sqlite3_stmt *const all[] = {s->spend,    s->waste,     s->hold,   s->drop,  s->top_up,
                                 s->carry_in, s->carry_out, s->limits, s->change};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        sqlite3_finalize(all[i]);
    *s = (struct ledger_budget_inserts){0};
}

static int run(sqlite3_stmt *s)
{
    int rc = sqlite3_step(s);
    sqlite3_reset(s);
    /* None of these tables refuses what it is told; if one does, it is not as we know it. */
    return (rc & 0xff) == SQLITE_CONSTRAINT ? SQLITE_CORRUPT : rc;
}

/* One of the ADD statements, for each line. */
static int add(sqlite3_stmt *s, const char *lines, struct pusd amount)
{
    int64_t start_s;
    const char *name;
    size_t n;
    int rc = SQLITE_DONE;
    while (rc == SQLITE_DONE && ledger_budget_line(&lines, &start_s, &name, &n)) {
        sqlite3_bind_text(s, 1, name, (int)n, SQLITE_STATIC);
        sqlite3_bind_int64(s, 2, start_s);
        sqlite3_bind_int64(s, 3, amount.v);
        rc = run(s);
    }
    return rc;
}

static int drop(const struct ledger_budget_inserts *s, const char *id)
{
    sqlite3_bind_text(s->drop, 1, id, -1, SQLITE_STATIC);
    return run(s->drop);
}

int ledger_budgets_settle(const struct ledger_budget_inserts *s, const struct ledger_row *row)
{
    int rc = add(s->spend, row->budgets, (struct pusd){row->charge.v + row->budget_waste.v});
    if (rc == SQLITE_DONE && row->budget_waste.v)
        rc = add(s->waste, row->budgets, row->budget_waste);
    return rc == SQLITE_DONE ? drop(s, row->hold_id ? row->hold_id : row->request_id) : rc;
}

static int note_change(const struct ledger_budget_inserts *s, const struct ledger_budget_event *ev, const char *change)
{
    int64_t start_s;
    const char *name, *lines = ev->budgets;
    size_t n;
    if (!ledger_budget_line(&lines, &start_s, &name, &n))
        return SQLITE_DONE;
    sqlite3_bind_int64(s->change, 1, ev->at.ns);
    sqlite3_bind_text(s->change, 2, name, (int)n, SQLITE_STATIC);
    sqlite3_bind_int64(s->change, 3, start_s);
    sqlite3_bind_text(s->change, 4, change, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s->change, 5, ev->amount.v);
    if (ev->kind == LEDGER_LIMITS)
        sqlite3_bind_int64(s->change, 6, ev->soft.v);
    else
        sqlite3_bind_null(s->change, 6);
    return run(s->change);
}

static int set_limits(const struct ledger_budget_inserts *s, const struct ledger_budget_event *ev)
{
    int64_t start_s;
    const char *name, *lines = ev->budgets;
    size_t n;
    if (!ledger_budget_line(&lines, &start_s, &name, &n))
        return SQLITE_DONE;
    sqlite3_bind_text(s->limits, 1, name, (int)n, SQLITE_STATIC);
    sqlite3_bind_int64(s->limits, 2, ev->amount.v);
    sqlite3_bind_int64(s->limits, 3, ev->soft.v);
    int rc = run(s->limits);
    return rc == SQLITE_DONE ? note_change(s, ev, "set") : rc;
}

static int hold(const struct ledger_budget_inserts *s, const struct ledger_budget_event *ev)
{
    sqlite3_bind_text(s->hold, 1, ev->id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s->hold, 2, ev->amount.v);
    sqlite3_bind_text(s->hold, 3, ev->budgets, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s->hold, 4, ev->at.ns);
    return run(s->hold);
}

int ledger_budgets_write(const struct ledger_budget_inserts *s, const struct ledger_budget_event *ev)
{
    int rc;
    switch (ev->kind) {
    case LEDGER_HOLD: return hold(s, ev);
    case LEDGER_DROP: return drop(s, ev->id);
    case LEDGER_TOP_UP:
        rc = add(s->top_up, ev->budgets, ev->amount);
        return rc == SQLITE_DONE ? note_change(s, ev, "top_up") : rc;
    case LEDGER_CARRY_IN:
        rc = add(s->carry_in, ev->budgets, ev->amount);
        return rc == SQLITE_DONE ? note_change(s, ev, "carry_over") : rc;
    case LEDGER_CARRY_OUT: return add(s->carry_out, ev->budgets, ev->amount);
    case LEDGER_LIMITS: return set_limits(s, ev);
    }
    return SQLITE_DONE;
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

static const char *text(sqlite3_stmt *s, int column)
{
    return (const char *)sqlite3_column_text(s, column);
}

/* A connection to a file that has the tables. RC_NOT_FOUND: there is no such file, or it is too old to say anything. */
static enum rc open_for_reading(sqlite3 **db, const char *path, struct error *e)
{
    int version = 0;
    *db = NULL;
    if (access(path, F_OK) != 0)
        return error_set(e, RC_NOT_FOUND, "ledger %s: %s", path, strerror(errno));
    enum rc rc = ledger_file_open_read_only(db, path, e);
    if (rc == RC_OK)
        rc = ledger_file_version(*db, path, &version, e);
    if (rc == RC_OK && version < LEDGER_VERSION_BUDGETS)
        rc = error_set(e, RC_NOT_FOUND, "ledger %s: says nothing of budgets yet", path);
    return rc;
}

/* rc: of the last step. */
static enum rc finish(sqlite3 *db, const char *path, sqlite3_stmt *s, int rc, struct error *e)
{
    enum rc code = rc == SQLITE_DONE ? RC_OK : error_set(e, ledger_rc(rc), "ledger %s: %s", path, sqlite3_errmsg(db));
    sqlite3_finalize(s);
    return code;
}

static enum rc read_totals(sqlite3 *db, const char *path, int64_t since_s, const struct ledger_budget_reader *r,
                           struct error *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db,
                                "SELECT name, start_s, spent_pusd, waste_pusd, carried_in_pusd, carried_out_pusd,"
                                " topped_up_pusd FROM budget_totals WHERE start_s >= ? ORDER BY start_s",
                                -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(s, 1, since_s);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            break;
        struct ledger_budget_total t = {text(s, 0),
                                        sqlite3_column_int64(s, 1),
                                        {sqlite3_column_int64(s, 2)},
                                        {sqlite3_column_int64(s, 3)},
                                        {sqlite3_column_int64(s, 4)},
                                        {sqlite3_column_int64(s, 5)},
                                        {sqlite3_column_int64(s, 6)}};
        r->total(&t, r->arg);
    }
    return finish(db, path, s, rc, e);
}

static enum rc read_limits(sqlite3 *db, const char *path, const struct ledger_budget_reader *r, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT name, hard_pusd, soft_pusd FROM budget_limits", -1, &s, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            break;
        struct ledger_budget_limits l = {text(s, 0), {sqlite3_column_int64(s, 1)}, {sqlite3_column_int64(s, 2)}};
        r->limits(&l, r->arg);
    }
    return finish(db, path, s, rc, e);
}

enum rc ledger_read_budgets(const char *path, int64_t since_s, const struct ledger_budget_reader *r, struct error *e)
{
    sqlite3 *db;
    enum rc rc = open_for_reading(&db, path, e);
    if (rc == RC_OK && r->total)
        rc = read_totals(db, path, since_s, r, e);
    if (rc == RC_OK && r->limits)
        rc = read_limits(db, path, r, e);
    sqlite3_close(db);
    return rc == RC_NOT_FOUND ? RC_OK : rc;
}

/* Every hold into totals and changes; in the caller's transaction. */
static int waste_all(sqlite3 *db, struct wall at, struct pusd_sum *waste)
{
    sqlite3_stmt *s = NULL, *total = NULL, *change = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT request_id, granted_pusd, budgets FROM budget_holds", -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(
            db,
            "INSERT INTO budget_totals (name, start_s, spent_pusd, waste_pusd) VALUES (?1, ?2, ?3, ?3)"
            " ON CONFLICT (name, start_s) DO UPDATE SET spent_pusd = spent_pusd + ?3,"
            " waste_pusd = waste_pusd + ?3",
            -1, &total, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(db,
                                "INSERT INTO budget_changes (at_ns, name, start_s, change, amount_pusd, request_id)"
                                " VALUES (?4, ?1, ?2, 'waste', ?3, ?5)",
                                -1, &change, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *lines = text(s, 2), *name;
        int64_t start_s;
        size_t n;
        waste->v += sqlite3_column_int64(s, 1);
        rc = SQLITE_DONE;
        while (rc == SQLITE_DONE && ledger_budget_line(&lines, &start_s, &name, &n)) {
            sqlite3_stmt *both[] = {total, change};
            for (int i = 0; i < 2 && rc == SQLITE_DONE; i++) {
                sqlite3_bind_text(both[i], 1, name, (int)n, SQLITE_TRANSIENT);
                sqlite3_bind_int64(both[i], 2, start_s);
                sqlite3_bind_int64(both[i], 3, sqlite3_column_int64(s, 1));
                if (i == 1) {
                    sqlite3_bind_int64(both[i], 4, at.ns);
                    sqlite3_bind_text(both[i], 5, text(s, 0), -1, SQLITE_TRANSIENT);
                }
                rc = sqlite3_step(both[i]);
                sqlite3_reset(both[i]);
            }
        }
        if (rc == SQLITE_DONE)
            rc = SQLITE_OK;
    }
    sqlite3_finalize(s);
    sqlite3_finalize(total);
    sqlite3_finalize(change);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

enum rc ledger_book_waste(const char *path, struct wall at, struct pusd_sum *waste, struct error *e)
{
    sqlite3 *db;
    waste->v = 0;
    const struct ledger_options o = {.path = path};
    enum rc code = ledger_file_open(&db, &o, e); /* makes it, or brings it up to date */
    if (code != RC_OK)
        return code;
    int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = waste_all(db, at, waste);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "DELETE FROM budget_holds; COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        code = error_set(e, ledger_rc(rc), "ledger %s: %s", path, sqlite3_errmsg(db));
    sqlite3_close(db);
    return code;
}

enum rc ledger_begin_budget(const char *path, const char *name, int64_t start_s, struct pusd spent, struct error *e)
{
    sqlite3 *db;
    sqlite3_stmt *s = NULL;
    const struct ledger_options o = {.path = path};
    enum rc code = ledger_file_open(&db, &o, e);
    if (code != RC_OK)
        return code;
    int rc = sqlite3_prepare_v2(
        db, "INSERT OR IGNORE INTO budget_totals (name, start_s, spent_pusd) VALUES (?1, ?2, ?3)", -1, &s, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 2, start_s);
        sqlite3_bind_int64(s, 3, spent.v);
        rc = sqlite3_step(s);
    }
    code = finish(db, path, s, rc, e);
    sqlite3_close(db);
    return code;
}

enum rc ledger_spent_since(const char *path, const struct ledger_spender *who, struct wall since, struct pusd *spent,
                           struct error *e)
{
    const char *const texts[] = {who->tenant, who->team,  who->project, who->user,
                                 who->key_id, who->model, who->provider};
    sqlite3 *db;
    sqlite3_stmt *s = NULL;
    struct strbuf sql;
    spent->v = 0;
    enum rc code = open_for_reading(&db, path, e);
    if (code != RC_OK) {
        sqlite3_close(db);
        return code == RC_NOT_FOUND ? RC_OK : code;
    }
    strbuf_init(&sql, 65536);
    code = strbuf_puts(&sql, "SELECT coalesce(sum(charge_pusd), 0) FROM ledger WHERE finished_ns >= ?1"
                             " AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR team = ?3)"
                             " AND (?4 IS NULL OR project = ?4) AND (?5 IS NULL OR user = ?5)"
                             " AND (?6 IS NULL OR key_id = ?6) AND (?7 IS NULL OR model = ?7)"
                             " AND (?8 IS NULL OR provider = ?8 OR node = ?8)");
    for (int i = 0; i < who->n_tags && code == RC_OK; i++)
        code = strbuf_printf(&sql, " AND instr(tags, ',' || ?%d || ',') > 0", 9 + i);
    int rc = code == RC_OK ? sqlite3_prepare_v2(db, sql.data, (int)sql.len, &s, NULL) : SQLITE_NOMEM;
    strbuf_fini(&sql);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, since.ns);
        for (int i = 0; i < 7; i++)
            sqlite3_bind_text(s, 2 + i, texts[i], -1, SQLITE_STATIC);
        for (int i = 0; i < who->n_tags; i++)
            sqlite3_bind_text(s, 9 + i, who->tags[i], -1, SQLITE_STATIC);
        rc = sqlite3_step(s);
    }
    if (rc == SQLITE_ROW) {
        spent->v = sqlite3_column_int64(s, 0);
        rc = SQLITE_DONE;
    }
    code = finish(db, path, s, rc, e);
    sqlite3_close(db);
    return code;
}

enum rc ledger_read_budget_changes(const char *path, const char *name, int last,
                                   void (*each)(const struct ledger_budget_change *c, void *arg), void *arg,
                                   struct error *e)
{
    sqlite3 *db;
    sqlite3_stmt *s = NULL;
    enum rc code = open_for_reading(&db, path, e);
    if (code != RC_OK) {
        sqlite3_close(db);
        return code == RC_NOT_FOUND ? RC_OK : code;
    }
    int rc = sqlite3_prepare_v2(db,
                                "SELECT at_ns, name, start_s, change, amount_pusd, soft_pusd, request_id"
                                " FROM budget_changes WHERE ?1 IS NULL OR name = ?1 ORDER BY rowid DESC LIMIT ?2",
                                -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int(s, 2, last);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            break;
        struct ledger_budget_change c = {{sqlite3_column_int64(s, 0)},
                                         text(s, 1),
                                         text(s, 3),
                                         sqlite3_column_int64(s, 2),
                                         {sqlite3_column_int64(s, 4)},
                                         {sqlite3_column_int64(s, 5)},
                                         text(s, 6)};
        each(&c, arg);
    }
    code = finish(db, path, s, rc, e);
    sqlite3_close(db);
    return code;
}
