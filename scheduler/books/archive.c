#include "scheduler/books/archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/text.h"
#include "policies/period.h"
#include "scheduler/books/closing_internal.h"

#define ARCHIVES_MAX 1200
#define PAUSE_US     2000 /* between pieces, for the writer of rows */
#define BACKUP_PAGES 1024 /* of a backup, between which others may write */
#define BUSY_TRIES   2500

/* ---- months and names -------------------------------------------------------------------------------------------- */

static int64_t month_start(int64_t at_s, int ahead)
{
    int64_t year;
    int month, day;
    date_from_days(at_s / 86400 - (at_s % 86400 < 0), &year, &month, &day);
    int64_t months = year * 12 + (month - 1) + ahead;
    return date_to_days(months / 12, (int)(months % 12) + 1, 1) * 86400;
}

static char *folder_of(const char *ledger)
{
    size_t n = strlen(ledger);
    n -= n > 3 && strcmp(ledger + n - 3, ".db") == 0 ? 3 : 0;
    return spw_asprintf("%.*s-archive", (int)n, ledger);
}

char *archive_path(const char *ledger, int64_t month_s)
{
    int64_t year;
    int month, day;
    date_from_days(month_s / 86400, &year, &month, &day);
    char *folder = folder_of(ledger);
    char *path = spw_asprintf("%s/%04d-%02d.db", folder, (int)year, month);
    free(folder);
    return path;
}

static int by_time(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool month_of_name(const char *name, int64_t *month_s)
{
    char date[11];
    if (strlen(name) != 10 || strcmp(name + 7, ".db") != 0)
        return false;
    snprintf(date, sizeof date, "%.7s-01", name);
    return text_parse_utc(date, month_s) == RC_OK;
}

/* Months that have a file, oldest first. Returns their count. */
static int list(const char *ledger, int64_t months[ARCHIVES_MAX])
{
    char *folder = folder_of(ledger);
    DIR *d = opendir(folder);
    int n = 0;
    free(folder);
    for (struct dirent *f; d && n < ARCHIVES_MAX && (f = readdir(d));)
        n += month_of_name(f->d_name, &months[n]);
    if (d)
        closedir(d);
    qsort(months, (size_t)n, sizeof *months, by_time);
    return n;
}

/* ---- over all files ---------------------------------------------------------------------------------------------- */

typedef enum rc span_cb(const char *path, int64_t from_s, int64_t until_s, void *arg, struct error *e);

/* The files that together hold the range, in order. */
static enum rc each_span(const char *ledger, int64_t from_s, int64_t until_s, span_cb *each, void *arg, struct error *e)
{
    int64_t months[ARCHIVES_MAX];
    const int n = list(ledger, months);
    enum rc rc = RC_OK;
    for (int i = 0; i < n && rc == RC_OK; i++) {
        const int64_t end = month_start(months[i], 1);
        if (end <= from_s || months[i] >= until_s)
            continue;
        if (months[i] > from_s)
            rc = each(ledger, from_s, months[i], arg, e);
        const int64_t begin = months[i] > from_s ? months[i] : from_s;
        char *path = archive_path(ledger, months[i]);
        if (rc == RC_OK)
            rc = each(path, begin, end < until_s ? end : until_s, arg, e);
        free(path);
        from_s = end;
    }
    return rc == RC_OK && from_s < until_s ? each(ledger, from_s, until_s, arg, e) : rc;
}

struct reading {
    struct wall from, until;
    bool (*each)(const struct ledger_row *row, void *arg);
    void *arg;
};

static enum rc read_span(const char *path, int64_t from_s, int64_t until_s, void *arg, struct error *e)
{
    const struct reading *r = arg;
    const int64_t most = INT64_MAX / NS_PER_S;
    struct wall from = {from_s * NS_PER_S}, until = {until_s >= most ? INT64_MAX : until_s * NS_PER_S};
    from = from.ns < r->from.ns ? r->from : from;
    until = until.ns > r->until.ns ? r->until : until;
    return ledger_read_period(path, from, until, r->each, r->arg, e);
}

enum rc archive_read_period(const char *ledger, struct wall from, struct wall until,
                            bool (*each)(const struct ledger_row *row, void *arg), void *arg, struct error *e)
{
    struct reading r = {from, until, each, arg};
    return each_span(ledger, from.ns / NS_PER_S, until.ns / NS_PER_S + (until.ns % NS_PER_S != 0), read_span, &r, e);
}

struct verifying {
    struct closing_verified *v;
    unsigned *problems;
    struct strbuf *text;
};

static enum rc verify_span(const char *path, int64_t from_s, int64_t until_s, void *arg, struct error *e)
{
    struct verifying *x = arg;
    struct closing_verified v;
    unsigned problems;
    enum rc rc = closing_verify(path, from_s, until_s, &v, &problems, x->text, e);
    x->v->hours += v.hours;
    x->v->rows += v.rows;
    x->v->node_hours += v.node_hours;
    x->v->allocations += v.allocations;
    *x->problems |= problems;
    return rc;
}

enum rc archive_verify(const char *ledger, int64_t from_s, int64_t until_s, struct closing_verified *v,
                       unsigned *problems, struct strbuf *text, struct error *e)
{
    *v = (struct closing_verified){0};
    struct verifying x = {v, problems, text};
    *problems = 0;
    return each_span(ledger, from_s, until_s, verify_span, &x, e);
}

static enum rc has(const char *path, const char *request_id, bool *found, struct error *e)
{
    struct books_reader r;
    sqlite3_stmt *s = NULL;
    *found = false;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = books_reader_prepare(&r, "SELECT 1 FROM ledger WHERE request_id = ?", &s, NULL, 0, e);
    if (rc == RC_OK) {
        sqlite3_bind_text(s, 1, request_id, -1, SQLITE_STATIC);
        *found = books_reader_step(&r, s, &rc, e);
    }
    sqlite3_finalize(s);
    books_reader_close(&r);
    return rc;
}

enum rc archive_find(const char *ledger, const char *request_id, char **path, struct error *e)
{
    int64_t months[ARCHIVES_MAX];
    bool found = false;
    enum rc rc = has(ledger, request_id, &found, e);
    *path = NULL;
    for (int i = found ? 0 : list(ledger, months); i > 0 && rc == RC_OK && !found; i--) {
        char *archive = archive_path(ledger, months[i - 1]);
        rc = has(archive, request_id, &found, e);
        if (found)
            *path = archive;
        else
            free(archive);
    }
    if (rc == RC_OK && !*path)
        *path = spw_strdup(ledger);
    return rc;
}

/* ---- a month is copied ------------------------------------------------------------------------------------------- */

#define NS(s) "(" s " * 1000000000)"
/* From the ledger, which is attached as src; ?1 and ?2: the month, in seconds. Rows of requests that ended later,
 * but were allocated a part of this month, come along: verification asks for them. */
static const char *const copies[] = {
    "INSERT INTO main.ledger SELECT * FROM src.ledger WHERE finished_ns >= " NS("?1") " AND finished_ns < " NS("?2"),
    "INSERT OR IGNORE INTO main.ledger SELECT * FROM src.ledger WHERE request_id IN"
    " (SELECT request_id FROM src.allocations WHERE hour_s >= ?1 AND hour_s < ?2)",
    "INSERT INTO main.more_legs SELECT * FROM src.more_legs WHERE request_id IN (SELECT request_id FROM main.ledger)"
    " AND ?1 < ?2",
    "INSERT INTO main.leg_uses SELECT * FROM src.leg_uses WHERE request_id IN (SELECT request_id FROM main.ledger)"
    " AND ?1 < ?2",
    "INSERT INTO main.allocations SELECT * FROM src.allocations WHERE hour_s >= ?1 AND hour_s < ?2",
    "INSERT INTO main.node_meters SELECT * FROM src.node_meters WHERE quarter_s >= ?1 AND quarter_s < ?2",
    "INSERT INTO main.hours SELECT * FROM src.hours WHERE hour_s >= ?1 AND hour_s < ?2",
    "INSERT INTO main.node_hours SELECT * FROM src.node_hours WHERE hour_s >= ?1 AND hour_s < ?2",
    "INSERT INTO main.hour_rollups SELECT * FROM src.hour_rollups WHERE hour_s >= ?1 AND hour_s < ?2",
    "INSERT INTO main.hour_charges SELECT * FROM src.hour_charges WHERE hour_s >= ?1 AND hour_s < ?2",
    "INSERT INTO main.finance SELECT * FROM src.finance WHERE ?1 < ?2",
    "INSERT INTO main.corrections SELECT * FROM src.corrections WHERE month_s >= ?1 AND month_s < ?2",
};

static enum rc run(sqlite3 *db, const char *path, const char *sql, const int64_t *numbers, int n, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int rc = closing_prepare(db, sql, &s, numbers, n);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    enum rc code = rc == SQLITE_DONE ? RC_OK : ledger_fail(db, rc, path, e);
    sqlite3_finalize(s);
    return code;
}

/* Rows and charges of the month in both files. */
static enum rc compare(sqlite3 *db, const char *path, const int64_t *range, struct error *e)
{
    static const char *const sums[] = {"count(*)", "sum(charge_pusd)", "sum(tokens_input + tokens_output)"};
    enum rc rc = RC_OK;
    for (int i = 0; i < 3 && rc == RC_OK; i++) {
        int64_t v[2] = {0, 0};
        for (int k = 0; k < 2 && rc == RC_OK; k++) {
            char *sql = spw_asprintf("SELECT %s FROM %s.ledger WHERE finished_ns >= " NS("?1") " AND finished_ns <"
                                                                                               " " NS("?2"),
                                     sums[i], k ? "src" : "main");
            rc = closing_number(db, path, sql, range, 2, &v[k], e);
            free(sql);
        }
        if (rc == RC_OK && v[0] != v[1])
            rc = error_set(e, RC_IO, "%s: the copy's %s is %lld, the ledger's %lld", path, sums[i], (long long)v[0],
                           (long long)v[1]);
    }
    return rc;
}

static enum rc copy_month(sqlite3 *db, const char *ledger, const char *path, const int64_t *range, struct error *e)
{
    enum rc rc = ledger_file_attach(db, ledger, "src", e);
    if (rc == RC_OK)
        rc = run(db, path, "BEGIN", NULL, 0, e);
    for (size_t i = 0; i < sizeof copies / sizeof copies[0] && rc == RC_OK; i++)
        rc = run(db, path, copies[i], range, 2, e);
    if (rc == RC_OK)
        rc = compare(db, path, range, e);
    if (rc == RC_OK)
        rc = run(db, path, "COMMIT", NULL, 0, e);
    /* One file, without a log beside it: it does not change any more. */
    if (rc == RC_OK &&
        (sqlite3_exec(db, "DETACH src; PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL) != SQLITE_OK ||
         sqlite3_exec(db, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL) != SQLITE_OK))
        rc = ledger_fail(db, sqlite3_errcode(db), path, e);
    return rc;
}

static void remove_file(const char *path)
{
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (int i = 0; i < 4; i++) {
        char *name = spw_asprintf("%s%s", path, ends[i]);
        unlink(name);
        free(name);
    }
}

static enum rc flush_and_name(const char *part, const char *path, struct error *e)
{
    int fd = open(part, O_RDWR | O_CLOEXEC);
    bool fine = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!fine || rename(part, path) != 0)
        return error_set(e, errno == ENOSPC ? RC_FULL : RC_IO, "%s: %s", path, strerror(errno));
    file_sync_folder_of(path);
    return RC_OK;
}

/* Copies go column by column. */
static enum rc bring_up_to_date(const char *ledger, struct error *e)
{
    const struct ledger_options o = {.path = ledger};
    sqlite3 *db = NULL;
    enum rc rc = ledger_file_open(&db, &o, e);
    sqlite3_close(db);
    return rc;
}

static enum rc make_copy(const char *ledger, const char *path, const int64_t *range, struct error *e)
{
    char *part = spw_asprintf("%s.part", path);
    const struct ledger_options o = {.path = part};
    sqlite3 *db = NULL;
    remove_file(part);
    enum rc rc = bring_up_to_date(ledger, e);
    if (rc == RC_OK)
        rc = ledger_file_open(&db, &o, e);
    if (rc == RC_OK)
        rc = copy_month(db, ledger, part, range, e);
    if (sqlite3_close(db) != SQLITE_OK && rc == RC_OK)
        rc = error_set(e, RC_IO, "%s: cannot be closed", part);
    if (rc == RC_OK)
        rc = flush_and_name(part, path, e);
    if (rc != RC_OK)
        remove_file(part);
    free(part);
    return rc;
}

/* ---- and removed ------------------------------------------------------------------------------------------------- */

static const char *const removals[] = {
    "DELETE FROM temp.gone WHERE ?1 < ?2",
    "INSERT INTO temp.gone SELECT rowid, request_id FROM ledger WHERE finished_ns >= " NS(
        "?1") " AND finished_ns < " NS("?2") " LIMIT ?3",
    "DELETE FROM more_legs WHERE request_id IN (SELECT request_id FROM temp.gone) AND ?1 < ?2",
    "DELETE FROM leg_uses WHERE request_id IN (SELECT request_id FROM temp.gone) AND ?1 < ?2",
    "DELETE FROM ledger WHERE rowid IN (SELECT id FROM temp.gone) AND ?1 < ?2",
};

static enum rc remove_piece(sqlite3 *db, const char *path, const int64_t *numbers, int64_t *n, struct error *e)
{
    enum rc rc = run(db, path, "BEGIN IMMEDIATE", NULL, 0, e);
    for (size_t i = 0; i < sizeof removals / sizeof removals[0] && rc == RC_OK; i++)
        rc = run(db, path, removals[i], numbers, strstr(removals[i], "?3") ? 3 : 2, e);
    *n = rc == RC_OK ? sqlite3_changes(db) : 0;
    if (rc == RC_OK)
        rc = run(db, path, "COMMIT", NULL, 0, e);
    if (rc != RC_OK)
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* By the hour: these have no key of their own that pieces could be cut by. */
static enum rc remove_hours(sqlite3 *db, const char *path, const int64_t *range, struct error *e)
{
    enum rc rc = RC_OK;
    for (int64_t hour_s = range[0]; hour_s < range[1] && rc == RC_OK; hour_s += 3600) {
        const int64_t hour[] = {hour_s, hour_s + 3600};
        rc = run(db, path, "DELETE FROM allocations WHERE hour_s >= ?1 AND hour_s < ?2", hour, 2, e);
        if (rc == RC_OK)
            rc = run(db, path, "DELETE FROM node_meters WHERE quarter_s >= ?1 AND quarter_s < ?2", hour, 2, e);
    }
    return rc;
}

/* A row that came after the copy was made (a spool of that time was put back, say) would be lost. */
static enum rc check_all_copied(sqlite3 *db, const char *ledger, const int64_t *range, struct error *e)
{
    char *path = archive_path(ledger, range[0]);
    int64_t late = 0;
    enum rc rc = ledger_file_attach(db, path, "copied", e);
    if (rc == RC_OK)
        rc = closing_number(db, ledger,
                            "SELECT count(*) FROM main.ledger WHERE finished_ns >= " NS("?1") " AND finished_ns < " NS(
                                "?2") " AND request_id NOT IN (SELECT request_id FROM copied.ledger)",
                            range, 2, &late, e);
    if (rc == RC_OK && sqlite3_exec(db, "DETACH copied", NULL, NULL, NULL) != SQLITE_OK)
        rc = ledger_fail(db, sqlite3_errcode(db), path, e);
    if (rc == RC_OK && late)
        rc = error_set(e, RC_CONFLICT,
                       "%s does not have %lld rows of its month that the ledger has: none is removed; move that file "
                       "away to have it made anew",
                       path, (long long)late);
    free(path);
    return rc;
}

static enum rc remove_month(const char *ledger, const int64_t *range, int64_t *rows, struct error *e)
{
    const struct ledger_options o = {.path = ledger};
    const int64_t numbers[] = {range[0], range[1], ARCHIVE_PIECE};
    sqlite3 *db = NULL;
    int64_t n = 1;
    enum rc rc = ledger_file_open(&db, &o, e);
    if (rc == RC_OK)
        rc = run(db, ledger, "CREATE TEMP TABLE gone (id INTEGER PRIMARY KEY, request_id TEXT)", NULL, 0, e);
    if (rc == RC_OK)
        rc = check_all_copied(db, ledger, range, e);
    while (rc == RC_OK && n) {
        rc = remove_piece(db, ledger, numbers, &n, e);
        *rows += n;
        usleep(PAUSE_US);
    }
    if (rc == RC_OK)
        rc = remove_hours(db, ledger, range, e);
    sqlite3_close(db);
    return rc;
}

/* ---- the move ---------------------------------------------------------------------------------------------------- */

static void one_is_due(int64_t hour_s, void *arg)
{
    (void)hour_s;
    ++*(int *)arg;
}

static enum rc check_over(const char *ledger, const int64_t *range, int64_t now_s, struct error *e)
{
    int open_hours = 0;
    if (range[1] > now_s)
        return error_set(e, RC_AGAIN, "the month is not over");
    enum rc rc = closing_due(ledger, range[1], one_is_due, &open_hours, e);
    if (rc == RC_OK && open_hours)
        rc = error_set(e, RC_AGAIN, "%d hours up to the month's end are not closed", open_hours);
    return rc;
}

enum rc archive_month(const char *ledger, int64_t month_s, int64_t now_s, int64_t *rows, struct error *e)
{
    const int64_t range[] = {month_s, month_start(month_s, 1)};
    char *folder = folder_of(ledger), *path = archive_path(ledger, month_s);
    enum rc rc = RC_OK;
    *rows = 0;
    if (access(path, F_OK) != 0) {
        rc = check_over(ledger, range, now_s, e);
        if (rc == RC_OK && mkdir(folder, 0750) != 0 && errno != EEXIST)
            rc = error_set(e, RC_IO, "%s: %s", folder, strerror(errno));
        if (rc == RC_OK)
            file_sync_folder_of(folder);
        if (rc == RC_OK)
            rc = make_copy(ledger, path, range, e);
    }
    if (rc == RC_OK)
        rc = remove_month(ledger, range, rows, e);
    free(folder);
    free(path);
    return rc;
}

enum rc archive_due(const char *ledger, int keep, int64_t now_s, int64_t *month_s, struct error *e)
{
    struct books_reader r;
    int64_t oldest_ns = -1;
    *month_s = -1;
    enum rc rc = books_reader_open(&r, ledger, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = closing_number(r.db, ledger, "SELECT coalesce(min(finished_ns), -1) FROM ledger", NULL, 0, &oldest_ns, e);
    books_reader_close(&r);
    if (rc != RC_OK || oldest_ns < 0)
        return rc;
    const int64_t oldest_s = month_start(oldest_ns / NS_PER_S, 0);
    if (oldest_s < month_start(now_s, -keep))
        *month_s = oldest_s;
    return RC_OK;
}

/* ---- a copy of all ----------------------------------------------------------------------------------------------- */

static int step_all(sqlite3_backup *b)
{
    int rc = SQLITE_OK, tries = 0;
    do {
        rc = sqlite3_backup_step(b, BACKUP_PAGES);
        if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED) {
            sqlite3_sleep(2);
            tries++;
        }
    } while (rc == SQLITE_OK || ((rc == SQLITE_BUSY || rc == SQLITE_LOCKED) && tries < BUSY_TRIES));
    return rc;
}

/* In one read transaction: what is written meanwhile is not part of it, and nothing has to begin anew. */
static enum rc back_up(sqlite3 *from, const char *part, struct error *e)
{
    sqlite3 *to = NULL;
    int64_t wrong = 1;
    int rc = sqlite3_open_v2(part, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(from, "BEGIN; SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
    sqlite3_backup *b = rc == SQLITE_OK ? sqlite3_backup_init(to, "main", from, "main") : NULL;
    if (b) {
        rc = step_all(b);
        sqlite3_backup_finish(b);
        rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
    } else if (rc == SQLITE_OK) {
        rc = sqlite3_errcode(to);
    }
    sqlite3_exec(from, "COMMIT", NULL, NULL, NULL);
    enum rc code = rc == SQLITE_OK ? RC_OK : ledger_fail(to, rc, part, e);
    if (code == RC_OK)
        code = closing_number(to, part, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
                              NULL, 0, &wrong, e);
    if (code == RC_OK && wrong)
        code = error_set(e, RC_IO, "%s: the copy is damaged", part);
    /* A database in one file: the first who writes to it makes a log of its own again. */
    if (code == RC_OK && sqlite3_exec(to, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL) != SQLITE_OK)
        code = ledger_fail(to, sqlite3_errcode(to), part, e);
    sqlite3_close(to);
    return code;
}

enum rc archive_backup(const char *ledger, const char *to, struct error *e)
{
    sqlite3 *from = NULL;
    if (access(to, F_OK) == 0)
        return error_set(e, RC_CONFLICT, "%s is there already", to);
    if (access(ledger, F_OK) != 0)
        return error_set(e, RC_NOT_FOUND, "ledger %s: %s", ledger, strerror(errno));
    char *part = spw_asprintf("%s.part", to);
    remove_file(part);
    int fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    enum rc rc = fd >= 0 ? RC_OK : error_set(e, RC_IO, "%s: %s", part, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (rc == RC_OK)
        rc = ledger_file_open_read_only(&from, ledger, e);
    if (rc == RC_OK)
        rc = back_up(from, part, e);
    sqlite3_close(from);
    if (rc == RC_OK)
        rc = flush_and_name(part, to, e);
    if (rc != RC_OK)
        remove_file(part);
    free(part);
    return rc;
}
