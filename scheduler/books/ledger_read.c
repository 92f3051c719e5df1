/* Readers of the ledger's rows: the newest, those of a period, those with an idempotency key, the legs of one. Files
 * of older versions have fewer columns. */
#include "scheduler/books/ledger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"

static const char *text(sqlite3_stmt *s, int column)
{
    return (const char *)sqlite3_column_text(s, column);
}

static int64_t number_or(sqlite3_stmt *s, int column, int64_t none)
{
    return sqlite3_column_type(s, column) == SQLITE_NULL ? none : sqlite3_column_int64(s, column);
}

static void read_row(sqlite3_stmt *s, struct ledger_row *r)
{
    *r = (struct ledger_row){
        .request_id = text(s, 0),
        .tenant = text(s, 1),
        .team = text(s, 2),
        .key_id = text(s, 3),
        .model = text(s, 4),
        .node = text(s, 5),
        .provider = text(s, 6),
        .streamed = sqlite3_column_int(s, 7) != 0,
        .attempts = sqlite3_column_int(s, 8),
        .tokens = {sqlite3_column_int64(s, 9), sqlite3_column_int64(s, 10), sqlite3_column_int64(s, 11)},
        .usage_source = text(s, 12),
        .prices = {{sqlite3_column_int64(s, 13)}, {sqlite3_column_int64(s, 14)}, {sqlite3_column_int64(s, 15)}},
        .charge = {sqlite3_column_int64(s, 16)},
        .accepted = {sqlite3_column_int64(s, 17)},
        .first_byte = {sqlite3_column_int64(s, 18)},
        .finished = {sqlite3_column_int64(s, 19)},
        .outcome = (enum ledger_outcome)sqlite3_column_int(s, 20),
        .http_status = sqlite3_column_int(s, 21),
        .error = text(s, 22),
        .continuations = sqlite3_column_int(s, 23),
        .cross_class = sqlite3_column_int(s, 24) != 0,
        .asked_model = text(s, 25),
        .service_class = text(s, 26),
        .cache = text(s, 27),
        .saved = {sqlite3_column_int64(s, 28)},
        .idempotency_key = text(s, 29),
        .repeat = sqlite3_column_int(s, 30),
        .request_hash = text(s, 31),
        .project = text(s, 32),
        .user = text(s, 33),
        .tags = text(s, 34),
        .budgets = text(s, 35),
        .tokens_reasoning = sqlite3_column_int64(s, 36),
        .price_version = sqlite3_column_int64(s, 37),
        .reserved = {sqlite3_column_int64(s, 38)},
        .market = text(s, 39),
        .domain = text(s, 40),
        .busy_us = number_or(s, 41, -1),
        .millijoules = number_or(s, 42, -1),
        .charge_max = {number_or(s, 43, 0)},
    };
}

/* A file that nobody has opened for writing since the program was renewed has the older columns only. */
static const char *rows_sql(int version)
{
#define NONE_OF_7 ", 0, 0, 0, NULL, NULL, NULL, NULL, NULL"
#define NONE_OF_6 ", NULL, NULL, NULL, NULL" NONE_OF_7
#define NONE_OF_4 ", NULL" NONE_OF_6
#define NONE_OF_3 ", NULL, NULL, NULL, 0, NULL, 0" NONE_OF_4
    switch (version) {
    case 1: return "SELECT " LEDGER_COLUMNS_1 ", 0, 0" NONE_OF_3;
    case 2: return "SELECT " LEDGER_COLUMNS_2 NONE_OF_3;
    case 3: return "SELECT " LEDGER_COLUMNS_3 NONE_OF_4;
    case 4:
    case 5: return "SELECT " LEDGER_COLUMNS NONE_OF_6;
    case 6: return "SELECT " LEDGER_COLUMNS WHOSE_MONEY NONE_OF_7;
    default: return "SELECT " LEDGER_COLUMNS WHOSE_MONEY WHAT_IT_TOOK;
    }
}

struct until_no { /* an `each` that may say no: RC_CANCELLED */
    bool (*each)(const struct ledger_row *row, void *arg);
    void *arg;
};

static enum rc each_until_no(sqlite3 *db, const char *path, int rc, sqlite3_stmt *s, const struct until_no *x,
                             struct error *e)
{
    bool goes_on = true;
    while (goes_on && (rc == SQLITE_OK || rc == SQLITE_ROW)) {
        struct ledger_row row;
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            break;
        read_row(s, &row);
        goes_on = x->each(&row, x->arg);
    }
    enum rc code = !goes_on ? RC_CANCELLED : rc == SQLITE_DONE ? RC_OK : ledger_fail(db, rc, path, e);
    sqlite3_finalize(s);
    return code;
}

typedef void row_cb(const struct ledger_row *row, void *arg);
struct to_the_end {
    row_cb *each;
    void *arg;
};

static bool go_on(const struct ledger_row *row, void *arg)
{
    const struct to_the_end *x = arg;
    x->each(row, x->arg);
    return true;
}

/* The rows of a statement, which ends here. rc: of its preparation. */
static enum rc each_row(sqlite3 *db, const char *path, int rc, sqlite3_stmt *s, row_cb *each, void *arg,
                        struct error *e)
{
    struct to_the_end all = {each, arg};
    const struct until_no x = {go_on, &all};
    return each_until_no(db, path, rc, s, &x, e);
}

/* Rows, newest first, from an open connection. */
static enum rc read_rows(sqlite3 *db, const char *path, int last, row_cb *each, void *arg, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int version = 0;
    enum rc code = ledger_file_version(db, path, &version, e);

    if (code != RC_OK || version == 0) /* 0: made, and not yet filled */
        return code;
    char *sql = spw_asprintf("%s FROM ledger ORDER BY rowid DESC LIMIT ?1", rows_sql(version));
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    free(sql);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int(s, 1, last);
    return each_row(db, path, rc, s, each, arg, e);
}

static enum rc read_repeats(sqlite3 *db, const char *path, struct wall since, int most, row_cb *each, void *arg,
                            struct error *e)
{
    sqlite3_stmt *s = NULL;
    int version = 0;
    enum rc code = ledger_file_version(db, path, &version, e);

    if (code != RC_OK || version < 4) /* nobody has written such rows */
        return code;
    int rc = sqlite3_prepare_v2(db,
                                "SELECT " LEDGER_COLUMNS NONE_OF_6
                                " FROM (SELECT * FROM ledger WHERE idempotency_key IS NOT NULL"
                                " AND finished_ns >= ?1 ORDER BY finished_ns DESC LIMIT ?2) ORDER BY finished_ns",
                                -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(s, 1, since.ns);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int(s, 2, most);
    return each_row(db, path, rc, s, each, arg, e);
}

static void read_leg(sqlite3_stmt *s, struct ledger_leg *leg)
{
    const char *numerics = text(s, 7);

    *leg = (struct ledger_leg){
        .leg = sqlite3_column_int(s, 0),
        .tokens_output = sqlite3_column_int64(s, 3),
        .outcome = text(s, 4),
        .started = {sqlite3_column_int64(s, 5)},
        .ended = {sqlite3_column_int64(s, 6)},
        .market = text(s, 8),
        .tokens_input = sqlite3_column_int64(s, 10),
        .tokens_cached_input = sqlite3_column_int64(s, 11),
        .uses = {{.busy_us = sqlite3_column_int64(s, 12), .millijoules = number_or(s, 13, -1)}},
    };
    const char *domain = text(s, 9), *provider = text(s, 2);
    snprintf(leg->node, sizeof leg->node, "%s", text(s, 1));
    snprintf(leg->provider, sizeof leg->provider, "%s", provider ? provider : "");
    snprintf(leg->numerics, sizeof leg->numerics, "%s", numerics ? numerics : "");
    snprintf(leg->domain, sizeof leg->domain, "%s", domain ? domain : "");
    leg->n_uses = sqlite3_column_type(s, 12) != SQLITE_NULL;
}

static enum rc read_legs(sqlite3 *db, const char *path, const char *request_id,
                         void (*each)(const struct ledger_leg *, void *), void *arg, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int version = 0;
    enum rc code = ledger_file_version(db, path, &version, e);

    if (code != RC_OK || version < 2)
        return code;
    const char *sql = version < LEDGER_VERSION_BOOKS
                          ? "SELECT " LEG_COLUMNS_2 ", NULL, NULL, 0, 0, NULL, NULL FROM legs WHERE request_id = ?"
                            " ORDER BY leg"
                          : "SELECT " LEG_COLUMNS " FROM legs WHERE request_id = ? ORDER BY leg";
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(s, 1, request_id, -1, SQLITE_STATIC);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        struct ledger_leg leg;
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            break;
        read_leg(s, &leg);
        each(&leg, arg);
    }
    if (rc != SQLITE_DONE)
        code = ledger_fail(db, rc, path, e);
    sqlite3_finalize(s);
    return code;
}

enum rc ledger_read_legs(const char *path, const char *request_id,
                         void (*each)(const struct ledger_leg *leg, void *arg), void *arg, struct error *e)
{
    sqlite3 *db = NULL;

    if (access(path, F_OK) != 0)
        return error_set(e, RC_NOT_FOUND, "ledger %s: %s", path, strerror(errno));
    enum rc code = ledger_file_open_read_only(&db, path, e);
    if (code == RC_OK)
        code = read_legs(db, path, request_id, each, arg, e);
    sqlite3_close(db);
    return code;
}

enum rc ledger_read(const char *path, int last, void (*each)(const struct ledger_row *row, void *arg), void *arg,
                    struct error *e)
{
    sqlite3 *db = NULL;

    if (access(path, F_OK) != 0)
        return error_set(e, RC_NOT_FOUND, "ledger %s: %s", path, strerror(errno));
    enum rc code = ledger_file_open_read_only(&db, path, e);
    if (code == RC_OK)
        code = read_rows(db, path, last, each, arg, e);
    sqlite3_close(db);
    return code;
}

enum rc ledger_read_repeats(const char *path, struct wall since, int most,
                            void (*each)(const struct ledger_row *row, void *arg), void *arg, struct error *e)
{
    sqlite3 *db = NULL;

    if (access(path, F_OK) != 0)
        return RC_OK; /* and no row */
    enum rc code = ledger_file_open_read_only(&db, path, e);
    if (code == RC_OK)
        code = read_repeats(db, path, since, most, each, arg, e);
    sqlite3_close(db);
    return code;
}

/* ---- of a period ----------------------------------------------------------------------------------------------- */

static enum rc read_period(sqlite3 *db, const char *path, struct wall from, struct wall until, const struct until_no *x,
                           struct error *e)
{
    sqlite3_stmt *s = NULL;
    int version = 0;
    enum rc code = ledger_file_version(db, path, &version, e);
    if (code != RC_OK || version == 0)
        return code;
    char *sql = spw_asprintf("%s FROM ledger WHERE finished_ns >= ?1 AND finished_ns < ?2"
                             " ORDER BY finished_ns, request_id",
                             rows_sql(version));
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    free(sql);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(s, 1, from.ns);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(s, 2, until.ns);
    return each_until_no(db, path, rc, s, x, e);
}

enum rc ledger_read_period(const char *path, struct wall from, struct wall until,
                           bool (*each)(const struct ledger_row *row, void *arg), void *arg, struct error *e)
{
    const struct until_no x = {each, arg};
    sqlite3 *db = NULL;
    if (access(path, F_OK) != 0)
        return error_set(e, RC_NOT_FOUND, "ledger %s: %s", path, strerror(errno));
    enum rc code = ledger_file_open_read_only(&db, path, e);
    if (code == RC_OK)
        code = read_period(db, path, from, until, &x, e);
    sqlite3_close(db);
    return code;
}
