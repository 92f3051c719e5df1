/* Our own ledger as a trace, in the order of arrival. Ledgers of older versions lack some columns; what is not there is
 * left at its default. Rows that were no work for a node are passed over and counted: answers out of the cache or
 * shared with another request, and failures that gave no token, of which nobody knows how long the answer would have
 * been. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/trace_internal.h"

struct ledger_source {
    struct trace_source base;
    char *path;
    sqlite3 *db;
    sqlite3_stmt *rows;
    int64_t n_rows, at_row;
};

static enum rc db_error(const struct ledger_source *s, struct error *e)
{
    return error_set(e, RC_IO, "%s: can't be read as a ledger: %s", s->path, sqlite3_errmsg(s->db));
}

static bool has_column(sqlite3 *db, const char *column)
{
    sqlite3_stmt *st;
    bool found = false;

    if (sqlite3_prepare_v2(db, "SELECT 1 FROM pragma_table_info('ledger') WHERE name = ?", -1, &st, NULL) != SQLITE_OK)
        return false;
    sqlite3_bind_text(st, 1, column, -1, SQLITE_STATIC);
    found = sqlite3_step(st) == SQLITE_ROW;
    sqlite3_finalize(st);
    return found;
}

static enum rc intern_column(struct ledger_source *s, int column, enum trace_names which, uint32_t *i, struct error *e)
{
    const char *text = (const char *)sqlite3_column_text(s->rows, column);
    return text && text[0] ? trace_names_intern(&s->base.names[which], text, i, e) : RC_OK;
}

static enum rc read_row(struct ledger_source *s, struct sim_request *r, struct error *e)
{
    int64_t prompt = sqlite3_column_int64(s->rows, 1), cached = sqlite3_column_int64(s->rows, 2);
    int64_t output = sqlite3_column_int64(s->rows, 3);
    const char *class = (const char *)sqlite3_column_text(s->rows, 6);

    *r = (struct sim_request){.at_us = sqlite3_column_int64(s->rows, 0) / 1000,
                              .prompt = (int32_t)prompt,
                              .output = (int32_t)output,
                              .cached = (int32_t)cached,
                              .model = s->base.defaults.model,
                              .team = s->base.defaults.team,
                              .file = s->base.defaults.file,
                              .batch = s->base.defaults.batch ||
                                       (class && (strcmp(class, "batch") == 0 || strcmp(class, "flex") == 0)),
                              .deadline_us = s->base.defaults.deadline_us};
    if (prompt > TRACE_TOKENS_MAX || output > TRACE_TOKENS_MAX || cached < 0 || cached > prompt)
        return error_set(e, RC_INVALID, "%s: row %lld: %lld, %lld and %lld tokens can't be", s->path,
                         (long long)s->at_row, (long long)prompt, (long long)cached, (long long)output);
    enum rc rc = intern_column(s, 4, TRACE_MODELS, &r->model, e);
    return rc == RC_OK ? intern_column(s, 5, TRACE_TEAMS, &r->team, e) : rc;
}

static enum rc ledger_next(struct trace_source *base, struct sim_request *r, struct error *e)
{
    struct ledger_source *s = (struct ledger_source *)base;

    for (;;) {
        int rc = sqlite3_step(s->rows);
        if (rc == SQLITE_DONE)
            return RC_NOT_FOUND;
        if (rc != SQLITE_ROW)
            return db_error(s, e);
        s->at_row++;
        bool cached = sqlite3_column_type(s->rows, 7) != SQLITE_NULL;
        if (!cached && sqlite3_column_int64(s->rows, 1) >= 1 && sqlite3_column_int64(s->rows, 3) >= 1)
            return read_row(s, r, e);
        base->left_out++;
    }
}

static enum rc ledger_rewind(struct trace_source *base, struct error *e)
{
    struct ledger_source *s = (struct ledger_source *)base;

    s->at_row = 0;
    return sqlite3_reset(s->rows) == SQLITE_OK ? RC_OK : db_error(s, e);
}

static double ledger_done(const struct trace_source *base)
{
    const struct ledger_source *s = (const struct ledger_source *)base;
    return s->n_rows ? (double)s->at_row / (double)s->n_rows : 0;
}

static void ledger_close(struct trace_source *base)
{
    struct ledger_source *s = (struct ledger_source *)base;

    sqlite3_finalize(s->rows);
    sqlite3_close(s->db);
    free(s->path);
    free(s);
}

static const struct trace_source_ops ledger_ops = {ledger_next, ledger_rewind, ledger_done, ledger_close};

static enum rc count_rows(struct ledger_source *s, struct error *e)
{
    sqlite3_stmt *st = NULL;
    bool ok = sqlite3_prepare_v2(s->db, "SELECT count(*) FROM ledger", -1, &st, NULL) == SQLITE_OK &&
              sqlite3_step(st) == SQLITE_ROW;

    if (ok)
        s->n_rows = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return ok ? RC_OK : db_error(s, e);
}

static enum rc prepare(struct ledger_source *s, struct error *e)
{
    char sql[512];
    enum rc rc = count_rows(s, e);

    if (rc != RC_OK)
        return rc;
    /* The one who pays is the team, or the tenant where there are no teams; the model is the one that was asked for. */
    snprintf(sql, sizeof sql,
             "SELECT accepted_ns, tokens_input, tokens_cached_input, tokens_output, %s, coalesce(team, tenant), %s, %s"
             " FROM ledger ORDER BY accepted_ns, request_id",
             has_column(s->db, "asked_model") ? "coalesce(asked_model, model)" : "model",
             has_column(s->db, "service_class") ? "service_class" : "NULL",
             has_column(s->db, "cache") ? "cache" : "NULL");
    return sqlite3_prepare_v2(s->db, sql, -1, &s->rows, NULL) == SQLITE_OK ? RC_OK : db_error(s, e);
}

enum rc trace_ledger_open(struct trace_source **out, const char *path, struct error *e)
{
    struct ledger_source *s = spw_calloc(1, sizeof *s);
    enum rc rc = RC_OK;

    s->base.ops = &ledger_ops;
    s->base.unix_time = true;
    s->path = spw_strdup(path);
    if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
        rc = db_error(s, e);
    if (rc == RC_OK) {
        sqlite3_busy_timeout(s->db, 5000);
        rc = prepare(s, e);
    }
    if (rc != RC_OK) {
        ledger_close(&s->base);
        return rc;
    }
    *out = &s->base;
    return RC_OK;
}
