/* Sums of an hour, in a temporary database, and the way from there into the file. */
#include "scheduler/books/closing_internal.h"

#include <stdlib.h>
#include <string.h>

#define DIMENSIONS                                                                                                     \
    "tenant, team, project, key_id, tags, model, pool, node, provider, market, domain, service_class, cache,"          \
    " price_input_uusd_per_mtok, price_cached_input_uusd_per_mtok, price_output_uusd_per_mtok, price_version"
#define MEASURES                                                                                                       \
    "requests, failed, cancelled, streamed, continuations, tokens_input, tokens_cached_input, tokens_output,"          \
    " tokens_reasoning, charge_pusd, saved_pusd, allocated_pusd, waste_pusd, busy_us, millijoules"

static const char temp_sql[] =
    "PRAGMA temp_store = MEMORY;"
    "CREATE TEMP TABLE t_alloc (node TEXT, request_id TEXT, leg INTEGER, waste INTEGER, share INTEGER, busy_us INTEGER,"
    " mj INTEGER);"
    "CREATE TEMP TABLE t_nodes AS SELECT * FROM main.node_hours WHERE 0;"
    "CREATE TEMP TABLE t_pools (node TEXT PRIMARY KEY, pool TEXT);"
    "CREATE TEMP TABLE t_parts AS SELECT * FROM main.hour_rollups WHERE 0;"
    "CREATE TEMP TABLE t_rollups AS SELECT * FROM main.hour_rollups WHERE 0;"
    "CREATE TEMP TABLE t_charges AS SELECT * FROM main.hour_charges WHERE 0;";

static enum rc run(struct closing_work *w, const char *sql, const int64_t *numbers, int n, struct error *e)
{
    sqlite3_stmt *s;
    int rc = closing_prepare(w->db, sql, &s, numbers, n);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : closing_fail(w->db, w->c->path, e);
}

static void charge_bucket(sqlite3_context *context, int n, sqlite3_value **values)
{
    (void)n;
    sqlite3_result_int(context, rollup_bucket((struct pusd){sqlite3_value_int64(values[0])}));
}

enum rc closing_make_temp(struct closing_work *w, struct error *e)
{
    int rc = sqlite3_exec(w->db, temp_sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_function(w->db, "charge_bucket", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, charge_bucket,
                                     NULL, NULL);
    return rc == SQLITE_OK ? RC_OK : closing_fail(w->db, w->c->path, e);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static void bind_text(sqlite3_stmt *s, int *i, const char *text)
{
    sqlite3_bind_text(s, ++*i, text, -1, SQLITE_STATIC);
}

static void explain(const struct closing_member *m, char *why, size_t size)
{
    const struct close_result *r = &m->result;
    why[0] = '\0';
    if (m->by_flight)
        snprintf(why, size, "by time in flight: the node doesn't tell");
    else if (r->lost_us || r->lost_mj)
        snprintf(why, size, "%.3f s and %.1f J %s", (double)llabs(r->lost_us) / 1e6, (double)llabs(r->lost_mj) / 1e3,
                 r->lost_us < 0 || r->lost_mj < 0 ? "claimed twice, or of work across the hour" : "of nobody");
}

static enum rc put_member(struct closing_work *w, const struct closing_member *m, struct error *e)
{
    const struct close_result *r = &m->result;
    const struct bill *b = &m->bill.bill;
    char why[160];
    int64_t preempted = 0;
    sqlite3_stmt *s;
    int i = 0;
    for (int k = m->first; k < m->first + m->n; k++)
        preempted += w->more[k].moved;
    explain(m, why, sizeof why);
    const int64_t money[] = {bill_sum(b).v, b->fixed.v, b->energy.v, b->tokens.v,  r->allocated.v,
                             r->idle.v,     r->boot.v,  r->waste.v,  r->variance.v};
    const int64_t figures[] = {b->paid_us,       r->busy_us,         r->waste_us,        m->meter.idle_us,
                               m->meter.boot_us, m->meter.asleep_us, m->meter.energy_mj, r->busy_mj,
                               m->meter.idle_mj, m->meter.boot_mj,   m->meter.energy_is, m->n,
                               preempted};
    int rc = closing_prepare(
        w->db, "INSERT INTO t_nodes VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &s, NULL, 0);
    sqlite3_bind_int64(s, ++i, w->c->hour_s);
    bind_text(s, &i, m->name);
    bind_text(s, &i, m->pool);
    bind_text(s, &i, m->provider);
    bind_text(s, &i, m->market);
    bind_text(s, &i, m->domain);
    for (size_t k = 0; k < sizeof money / sizeof money[0]; k++)
        sqlite3_bind_int64(s, ++i, money[k]);
    bind_text(s, &i, why[0] ? why : NULL);
    for (size_t k = 0; k < sizeof figures / sizeof figures[0]; k++)
        sqlite3_bind_int64(s, ++i, figures[k]);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : closing_fail(w->db, w->c->path, e);
}

static enum rc put_legs(struct closing_work *w, const struct closing_member *m, struct error *e)
{
    sqlite3_stmt *s;
    int rc = closing_prepare(w->db, "INSERT INTO t_alloc VALUES (?,?,?,?,?,?,?)", &s, NULL, 0);
    for (int k = m->first; k < m->first + m->n && rc == SQLITE_OK; k++) {
        const struct close_leg *leg = &w->legs[k];
        const int64_t numbers[] = {w->more[k].leg, leg->waste, leg->share.v, leg->busy_us,
                                   leg->millijoules > 0 ? leg->millijoules : 0};
        int i = 0;
        bind_text(s, &i, m->name);
        bind_text(s, &i, w->more[k].request_id);
        for (int j = 0; j < 5; j++)
            sqlite3_bind_int64(s, ++i, numbers[j]);
        rc = sqlite3_step(s) == SQLITE_DONE ? sqlite3_reset(s) : SQLITE_ERROR;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? RC_OK : closing_fail(w->db, w->c->path, e);
}

enum rc closing_put_node(struct closing_work *w, const struct closing_member *m, struct error *e)
{
    enum rc rc = put_member(w, m, e);
    return rc == RC_OK ? put_legs(w, m, e) : rc;
}

/* ---- roll-ups ---------------------------------------------------------------------------------------------------- */

#define OF_ROW "l.tenant, l.team, l.project, l.key_id, l.tags, l.model"
#define AS_WHAT                                                                                                        \
    "l.service_class, l.cache, l.price_input_uusd_per_mtok, l.price_cached_input_uusd_per_mtok,"                       \
    " l.price_output_uusd_per_mtok, l.price_version"
static const char requests_sql[] =
    "INSERT INTO t_parts (hour_s, " DIMENSIONS ", " MEASURES ") SELECT ?1, " OF_ROW
    ", coalesce(p.pool, l.node), l.node, l.provider, l.market, l.domain, " AS_WHAT ", count(*),"
    " sum(l.outcome = 2), sum(l.outcome = 1), sum(l.streamed), sum(l.continuations), sum(l.tokens_input),"
    " sum(l.tokens_cached_input), sum(l.tokens_output), sum(l.tokens_reasoning), sum(l.charge_pusd), sum(l.saved_pusd),"
    " 0, 0, 0, 0 FROM ledger l LEFT JOIN t_pools p ON p.node = l.node"
    " WHERE l.finished_ns >= ?2 AND l.finished_ns < ?3 GROUP BY " OF_ROW
    ", 8, l.node, l.provider, l.market, l.domain, " AS_WHAT;
/* What was allocated stands under the node that did it, which need not be the one that the row ends with. */
static const char allocated_sql[] =
    "INSERT INTO t_parts (hour_s, " DIMENSIONS ", " MEASURES ") SELECT ?1, " OF_ROW
    ", coalesce(n.pool, a.node), a.node, n.provider, n.market, n.domain, " AS_WHAT ", 0, 0, 0, 0, 0, 0, 0,"
    " 0, 0, 0, 0, sum(CASE WHEN a.waste THEN 0 ELSE a.share END), sum(CASE WHEN a.waste THEN a.share ELSE 0 END),"
    " sum(a.busy_us), sum(a.mj) FROM t_alloc a JOIN ledger l ON l.request_id = a.request_id"
    " JOIN t_nodes n ON n.node = a.node GROUP BY " OF_ROW ", a.node, " AS_WHAT;
static const char together_sql[] =
    "INSERT INTO t_rollups (hour_s, " DIMENSIONS ", " MEASURES ") SELECT ?1, " DIMENSIONS
    ", sum(requests), sum(failed), sum(cancelled), sum(streamed), sum(continuations), sum(tokens_input),"
    " sum(tokens_cached_input), sum(tokens_output), sum(tokens_reasoning), sum(charge_pusd), sum(saved_pusd),"
    " sum(allocated_pusd), sum(waste_pusd), sum(busy_us), sum(millijoules) FROM t_parts GROUP BY " DIMENSIONS;
static const char charges_sql[] =
    "INSERT INTO t_charges (hour_s, model, pool, bucket, n) SELECT ?1, coalesce(l.model, ''),"
    " coalesce(p.pool, l.node, ''), charge_bucket(l.charge_pusd), count(*) FROM ledger l"
    " LEFT JOIN t_pools p ON p.node = l.node"
    " WHERE l.finished_ns >= ?2 AND l.finished_ns < ?3 AND l.outcome = 0 GROUP BY 2, 3, 4";

/* The roll-up's sums, and what they should be: by another way. */
static const struct {
    const char *what, *rolled, *rows;
} agreements[] = {
    {"requests", "SELECT sum(requests) FROM t_rollups",
     "SELECT count(*) FROM ledger WHERE finished_ns >= ?2 AND finished_ns < ?3"},
    {"input tokens", "SELECT sum(tokens_input) FROM t_rollups",
     "SELECT sum(tokens_input) FROM ledger WHERE finished_ns >= ?2 AND finished_ns < ?3"},
    {"output tokens", "SELECT sum(tokens_output) FROM t_rollups",
     "SELECT sum(tokens_output) FROM ledger WHERE finished_ns >= ?2 AND finished_ns < ?3"},
    {"charges", "SELECT sum(charge_pusd) FROM t_rollups",
     "SELECT sum(charge_pusd) FROM ledger WHERE finished_ns >= ?2 AND finished_ns < ?3"},
    {"savings", "SELECT sum(saved_pusd) FROM t_rollups",
     "SELECT sum(saved_pusd) FROM ledger WHERE finished_ns >= ?2 AND finished_ns < ?3"},
    {"allocations", "SELECT sum(allocated_pusd) FROM t_rollups", "SELECT sum(share) FROM t_alloc WHERE NOT waste"},
    {"waste", "SELECT sum(waste_pusd) FROM t_rollups", "SELECT sum(share) FROM t_alloc WHERE waste"},
    {"allocations and waste", "SELECT sum(allocated_pusd + waste_pusd) FROM t_nodes", "SELECT sum(share) FROM t_alloc"},
    {"charges' counts", "SELECT sum(n) FROM t_charges",
     "SELECT count(*) FROM ledger WHERE finished_ns >= ?2 AND finished_ns < ?3 AND outcome = 0"},
};

static enum rc check_rollup(struct closing_work *w, const int64_t *numbers, struct error *e)
{
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof agreements / sizeof agreements[0] && rc == RC_OK; i++) {
        const bool bound = strstr(agreements[i].rows, "?2") != NULL;
        int64_t rolled, rows = 0;
        rc = closing_number(w->db, w->c->path, agreements[i].rolled, NULL, 0, &rolled, e);
        if (rc == RC_OK)
            rc = closing_number(w->db, w->c->path, agreements[i].rows, numbers, bound ? 3 : 0, &rows, e);
        if (rc == RC_OK && rolled != rows)
            closing_problem(&w->problems, w->text, CLOSE_ROLLUP, "%s: %lld, of rows %lld", agreements[i].what,
                            (long long)rolled, (long long)rows);
    }
    return rc;
}

static enum rc read_sums(struct closing_work *w, struct error *e)
{
    static const char *const sums[] = {"requests",      "tokens_input", "tokens_cached_input",
                                       "tokens_output", "charge_pusd",  "saved_pusd"};
    int64_t *const to[] = {&w->sums.requests,      &w->sums.tokens.input, &w->sums.tokens.cached_input,
                           &w->sums.tokens.output, &w->sums.charge.v,     &w->sums.saved.v};
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof sums / sizeof sums[0] && rc == RC_OK; i++) {
        char sql[96];
        snprintf(sql, sizeof sql, "SELECT sum(%s) FROM t_rollups", sums[i]);
        rc = closing_number(w->db, w->c->path, sql, NULL, 0, to[i], e);
    }
    return rc;
}

enum rc closing_roll_up(struct closing_work *w, struct error *e)
{
    const int64_t numbers[] = {w->c->hour_s, w->c->hour_s * NS_PER_S, (w->c->hour_s + BILL_HOUR_S) * NS_PER_S};
    enum rc rc = run(w, "INSERT INTO t_pools SELECT node, pool FROM t_nodes WHERE pool IS NOT NULL", NULL, 0, e);
    if (rc == RC_OK)
        rc = run(w, requests_sql, numbers, 3, e);
    if (rc == RC_OK)
        rc = run(w, allocated_sql, numbers, 1, e);
    if (rc == RC_OK)
        rc = run(w, together_sql, numbers, 1, e);
    if (rc == RC_OK)
        rc = run(w, charges_sql, numbers, 3, e);
    if (rc == RC_OK)
        rc = check_rollup(w, numbers, e);
    return rc == RC_OK ? read_sums(w, e) : rc;
}

/* ---- into the file ----------------------------------------------------------------------------------------------- */

/* In pieces, so that the writer of rows gets in between. `from` has the numbers of its rows from 1. */
static enum rc copy_table(struct closing_work *w, const char *insert, const char *from, struct error *e)
{
    int64_t n, numbers[3] = {0, 0, w->c->hour_s};
    char sql[128];
    snprintf(sql, sizeof sql, "SELECT max(rowid) FROM %s", from);
    enum rc rc = closing_number(w->db, w->c->path, sql, NULL, 0, &n, e);
    for (int64_t at = 0; at < n && rc == RC_OK; at += CLOSING_PIECE) {
        numbers[0] = at;
        numbers[1] = at + CLOSING_PIECE;
        rc = run(w, insert, numbers, strstr(insert, "?3") ? 3 : 2, e);
    }
    return rc;
}

static enum rc put_mark(struct closing_work *w, struct error *e)
{
    const struct closed_hour *h = &w->sums;
    const int64_t numbers[] = {h->hour_s,        h->closed.ns, h->requests, h->tokens.input, h->tokens.cached_input,
                               h->tokens.output, h->charge.v,  h->saved.v,  h->bill.v,       h->allocated.v,
                               h->idle.v,        h->boot.v,    h->waste.v,  h->variance.v};
    sqlite3_stmt *s;
    int rc = closing_prepare(w->db, "INSERT INTO hours VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &s, numbers, 14);
    sqlite3_bind_text(s, 15, w->text->len ? w->text->data : NULL, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : closing_fail(w->db, w->c->path, e);
}

enum rc closing_copy(struct closing_work *w, struct error *e)
{
    static const char *const leftovers[] = {"allocations", "node_hours", "hour_sums", "hour_charges"};
    static const struct {
        const char *insert, *from;
    } tables[] = {
        {"INSERT INTO allocations (hour_s, node, request_id, leg, waste, share_pusd, busy_us, millijoules) SELECT ?3,"
         " node, request_id, leg, waste, share, busy_us, mj FROM t_alloc WHERE rowid > ?1 AND rowid <= ?2",
         "t_alloc"},
        {"INSERT INTO node_hours SELECT * FROM t_nodes WHERE rowid > ?1 AND rowid <= ?2", "t_nodes"},
        {"INSERT INTO hour_rollups SELECT * FROM t_rollups WHERE rowid > ?1 AND rowid <= ?2", "t_rollups"},
        {"INSERT INTO hour_charges SELECT * FROM t_charges WHERE rowid > ?1 AND rowid <= ?2", "t_charges"},
    };
    enum rc rc = RC_OK;
    for (size_t i = 0; i < 4 && rc == RC_OK; i++) {
        char sql[96];
        snprintf(sql, sizeof sql, "DELETE FROM %s WHERE hour_s = ?1", leftovers[i]);
        rc = run(w, sql, &w->c->hour_s, 1, e);
    }
    for (size_t i = 0; i < sizeof tables / sizeof tables[0] && rc == RC_OK; i++)
        rc = copy_table(w, tables[i].insert, tables[i].from, e);
    return rc == RC_OK ? put_mark(w, e) : rc;
}
