/* Reading the journal beside its writer, on a connection of one's own. */
#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/capacity/journal.h"

static bool read_prices(sqlite3 *db, const char *token, struct journal_price **prices, int *n)
{
    sqlite3_stmt *s = NULL;
    int cap = 0, step = SQLITE_ERROR;
    *prices = NULL;
    *n = 0;
    if (sqlite3_prepare_v2(db, "SELECT at_s, price_hour FROM prices WHERE token = ?1 ORDER BY at_s", -1, &s, NULL) ==
        SQLITE_OK) {
        sqlite3_bind_text(s, 1, token, -1, SQLITE_STATIC);
        while ((step = sqlite3_step(s)) == SQLITE_ROW) {
            if (*n == cap) {
                cap = cap ? 2 * cap : 16;
                *prices = spw_realloc(*prices, (size_t)cap * sizeof **prices);
            }
            (*prices)[(*n)++] = (struct journal_price){sqlite3_column_int64(s, 0), {sqlite3_column_int64(s, 1)}};
        }
    }
    sqlite3_finalize(s);
    return step == SQLITE_DONE;
}

static bool read_rents(sqlite3 *db, const char *name, int64_t from_s, int64_t until_s,
                       void (*each)(const struct journal_rent *r, void *arg), void *arg)
{
    sqlite3_stmt *s = NULL;
    int step = SQLITE_ERROR;
    if (sqlite3_prepare_v2(db,
                           "SELECT token, launched_s, ended_s, billing_min_s FROM instances WHERE name = ?1"
                           " AND launched_s > 0 AND launched_s < ?3 AND (ended_s = 0 OR ended_s > ?2"
                           " OR launched_s + billing_min_s > ?2) ORDER BY launched_s, token",
                           -1, &s, NULL) == SQLITE_OK) {
        sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 2, from_s);
        sqlite3_bind_int64(s, 3, until_s);
        while ((step = sqlite3_step(s)) == SQLITE_ROW) {
            struct journal_price *prices;
            struct journal_rent r = {.launched_s = sqlite3_column_int64(s, 1),
                                     .ended_s = sqlite3_column_int64(s, 2),
                                     .billing_min_s = sqlite3_column_int(s, 3)};
            const bool good = read_prices(db, (const char *)sqlite3_column_text(s, 0), &prices, &r.n_prices);
            r.prices = prices;
            if (good && r.n_prices)
                each(&r, arg);
            free(prices);
            if (!good) {
                step = SQLITE_ERROR;
                break;
            }
        }
    }
    sqlite3_finalize(s);
    return step == SQLITE_DONE;
}

enum rc journal_read_rents(const char *path, const char *name, int64_t from_s, int64_t until_s,
                           void (*each)(const struct journal_rent *r, void *arg), void *arg, struct error *e)
{
    sqlite3 *db = NULL;
    enum rc rc = RC_OK;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return RC_OK;
    bool good = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK;
    if (good)
        sqlite3_busy_timeout(db, 2000);
    if (!good || !read_rents(db, name, from_s, until_s, each, arg))
        rc = error_set(e, RC_IO, "%s: %s", path, db ? sqlite3_errmsg(db) : "cannot be opened");
    sqlite3_close(db);
    return rc;
}
