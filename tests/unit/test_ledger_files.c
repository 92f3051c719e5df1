/* Proves of the ledger's other files. Archives: an old month goes to a file of its own with all that belongs to it, row
 * for row; what is read over both files is what was read before; a move that was cut off between copy and removal is
 * finished; what came after the copy is not removed; a month that is not over or not closed stays. Backup: a copy made
 * while rows are written is whole. Spool: what the file cannot take is durable there, goes into the ledger in order and
 * once, also when its end is torn (set aside, as what a disk has damaged) and when the replay was cut off; beyond its
 * bound rows are refused; what is no spool is left alone. And CSV: texts that need it are quoted, amounts are exact.
 * links: spw_sched_books */
#include "tests/unit/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/books/archive.h"
#include "scheduler/books/ledger_internal.h"
#include "scheduler/books/ledger_text.h"
#include "scheduler/books/spool.h"

#define OCTOBER_S  INT64_C(1790812800) /* 2026-10-01T00:00:00Z */
#define NOVEMBER_S INT64_C(1793491200)
#define DECEMBER_S INT64_C(1796083200)
#define ROWS       60 /* in each of two months */

static char folder[64], path[128];

static char *in_folder(const char *name)
{
    static char names[4][160];
    static int next;
    char *to = names[next++ % 4];
    snprintf(to, sizeof names[0], "%s/%s", folder, name);
    return to;
}

static void begin(void)
{
    snprintf(folder, sizeof folder, "/tmp/spw-ledger-files-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/ledger.db", folder);
}

static void remove_all_in(const char *name)
{
    DIR *d = opendir(name);
    for (struct dirent *f; d && (f = readdir(d));) {
        char *file = spw_asprintf("%s/%s", name, f->d_name);
        unlink(file);
        free(file);
    }
    if (d)
        closedir(d);
    rmdir(name);
}

static void end(void)
{
    remove_all_in(in_folder("ledger-archive"));
    remove_all_in(folder);
    CHECK(access(folder, F_OK) != 0);
}

static void copy_file(const char *from, const char *to)
{
    char bytes[4096];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    CHECK(in && out);
    for (size_t n; in && out && (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        CHECK(fwrite(bytes, 1, n, out) == n);
    CHECK(in && fclose(in) == 0);
    CHECK(out && fclose(out) == 0);
}

static struct ledger_row row_at(int i, int64_t at_s, char id[32], struct ledger_leg *leg)
{
    snprintf(id, 32, "req_%06d", i);
    *leg = (struct ledger_leg){.leg = 1,
                               .node = "gpu1",
                               .provider = "static",
                               .outcome = "ok",
                               .tokens_input = 10,
                               .tokens_output = 5,
                               .started = {at_s * NS_PER_S},
                               .ended = {(at_s + 1) * NS_PER_S},
                               .uses = {{at_s / 3600 * 3600, 1000, 20}},
                               .n_uses = 1};
    return (struct ledger_row){.request_id = id,
                               .tenant = i % 2 ? "acme" : "o\"neil, ltd",
                               .model = "m",
                               .node = "gpu1",
                               .provider = "static",
                               .usage_source = "provider",
                               .tokens = {10, 0, 5},
                               .prices = {{100000}, {100000}, {400000}},
                               .charge = {10 * 100000 + 5 * 400000},
                               .budgets = "0 acme\n",
                               .accepted = {at_s * NS_PER_S},
                               .first_byte = {at_s * NS_PER_S + 5},
                               .finished = {(at_s + 1) * NS_PER_S},
                               .http_status = 200,
                               .attempts = 1,
                               .legs = leg,
                               .n_legs = 1};
}

static int64_t number(const char *file, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t v = -1;
    CHECK(sqlite3_open_v2(file, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK);
    CHECK(sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK);
    if (sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return v;
}

/* ---- archives ---------------------------------------------------------------------------------------------------- */

static enum rc no_bill(const struct closing_node *n, struct closing_bill *b, void *arg, struct error *e)
{
    (void)n, (void)b, (void)arg;
    return error_set(e, RC_NOT_FOUND, "none");
}

struct closer {
    int closed;
};
static void close_it(int64_t hour_s, void *arg)
{
    struct closer *c = arg;
    const struct closing k = {.path = path, .hour_s = hour_s, .now = {DECEMBER_S * NS_PER_S}, .bill = no_bill};
    unsigned problems;
    struct error e;
    CHECK(closing_hour(&k, &problems, NULL, &e) == RC_OK);
    c->closed++;
}

/* In one transaction. */
static void put_rows(int first, int n, int64_t at_s)
{
    const struct ledger_options o = {.path = path};
    struct ledger_inserts s = {0};
    sqlite3 *db = NULL;
    struct error e;
    CHECK(ledger_file_open(&db, &o, &e) == RC_OK && ledger_file_prepare(db, &s, &e) == RC_OK);
    CHECK(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) == SQLITE_OK);
    for (int i = 0; i < n; i++) {
        char id[32];
        struct ledger_leg leg;
        const struct ledger_row r = row_at(first + i, at_s + i * 600, id, &leg);
        CHECK(ledger_file_insert(&s, &r) == SQLITE_DONE);
    }
    CHECK(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    ledger_file_finalize(&s);
    sqlite3_close(db);
}

static void fill(void)
{
    put_rows(0, ROWS, OCTOBER_S);
    put_rows(ROWS, ROWS, NOVEMBER_S);
}

struct seen {
    int n, disorder;
    int64_t charge, last_ns;
};
static bool see(const struct ledger_row *r, void *arg)
{
    struct seen *s = arg;
    s->n++;
    s->charge += r->charge.v;
    s->disorder += r->finished.ns < s->last_ns;
    s->last_ns = r->finished.ns;
    return true;
}

static struct seen all_rows(void)
{
    struct seen s = {0};
    struct error e;
    CHECK(archive_read_period(path, (struct wall){0}, (struct wall){INT64_MAX}, see, &s, &e) == RC_OK);
    return s;
}

static void verify(int64_t rows)
{
    struct closing_verified v;
    unsigned problems;
    struct strbuf text;
    struct error e;
    strbuf_init(&text, 65536);
    CHECK(archive_verify(path, 0, DECEMBER_S, &v, &problems, &text, &e) == RC_OK);
    CHECK_INT(problems, 0);
    if (problems)
        fprintf(stderr, "%s\n", text.data);
    CHECK_INT(v.rows, rows);
    strbuf_fini(&text);
}

static void test_archive(void)
{
    struct error e;
    struct closer c = {0};
    int64_t rows, month_s;
    begin();
    fill();
    const struct seen before = all_rows();
    CHECK_INT(before.n, 2 * ROWS);
    CHECK_INT(archive_month(path, OCTOBER_S, DECEMBER_S, &rows, &e), RC_AGAIN); /* not closed */
    CHECK(closing_due(path, DECEMBER_S, close_it, &c, &e) == RC_OK && c.closed > 10);
    verify(2 * ROWS);
    CHECK_INT(archive_month(path, DECEMBER_S, DECEMBER_S + 5, &rows, &e), RC_AGAIN); /* not over */
    CHECK(archive_due(path, 2, DECEMBER_S + 86400, &month_s, &e) == RC_OK);
    CHECK_INT(month_s, -1);
    CHECK(archive_due(path, 1, DECEMBER_S + 86400, &month_s, &e) == RC_OK);
    CHECK_INT(month_s, OCTOBER_S);
    CHECK_INT(archive_month(path, OCTOBER_S, DECEMBER_S, &rows, &e), RC_OK);
    CHECK_INT(rows, ROWS);
    CHECK_INT(number(path, "SELECT count(*) FROM ledger"), ROWS);
    CHECK_INT(number(path, "SELECT count(*) FROM allocations WHERE hour_s < 1793491200"), 0);
    CHECK(number(path, "SELECT count(*) FROM hour_rollups WHERE hour_s < 1793491200") > 0);
    CHECK_INT(number(in_folder("ledger-archive/2026-10.db"), "SELECT count(*) FROM ledger"), ROWS);
    const struct seen after = all_rows();
    CHECK_INT(after.n, before.n);
    CHECK_INT(after.charge, before.charge);
    CHECK_INT(after.disorder, 0);
    verify(2 * ROWS);
    char *where = NULL;
    CHECK(archive_find(path, "req_000003", &where, &e) == RC_OK && strstr(where, "2026-10"));
    free(where);
    CHECK(archive_find(path, "req_000063", &where, &e) == RC_OK);
    CHECK_STR(where, path);
    free(where);
    end();
}

static void put_back(const char *copy)
{
    static const char *const logs[] = {"-wal", "-shm"};
    for (int i = 0; i < 2; i++) {
        char *log = spw_asprintf("%s%s", path, logs[i]);
        unlink(log);
        free(log);
    }
    CHECK(rename(copy, path) == 0);
}

/* The copy has its name, and nothing was removed yet. */
static void test_archive_cut_off(void)
{
    struct error e;
    struct closer c = {0};
    int64_t rows;
    begin();
    fill();
    CHECK(closing_due(path, DECEMBER_S, close_it, &c, &e) == RC_OK);
    CHECK(archive_backup(path, in_folder("before.db"), &e) == RC_OK);
    CHECK_INT(archive_month(path, OCTOBER_S, DECEMBER_S, &rows, &e), RC_OK);
    put_back(in_folder("before.db"));
    CHECK_INT(number(path, "SELECT count(*) FROM ledger"), 2 * ROWS);
    CHECK_INT(all_rows().n, 2 * ROWS); /* none twice */
    verify(2 * ROWS);
    CHECK_INT(archive_month(path, OCTOBER_S, DECEMBER_S, &rows, &e), RC_OK);
    CHECK_INT(rows, ROWS);
    CHECK_INT(all_rows().n, 2 * ROWS);
    put_rows(2 * ROWS, 1, OCTOBER_S); /* as a spool would that was put back */
    CHECK_INT(archive_month(path, OCTOBER_S, DECEMBER_S, &rows, &e), RC_CONFLICT);
    CHECK_INT(number(path, "SELECT count(*) FROM ledger"), ROWS + 1);
    end();
}

static void test_backup(void)
{
    struct error e;
    begin();
    fill();
    char *copy = in_folder("copy.db");
    CHECK_INT(archive_backup(path, copy, &e), RC_OK);
    CHECK_INT(number(copy, "SELECT count(*) FROM ledger"), 2 * ROWS);
    CHECK_INT(archive_backup(path, copy, &e), RC_CONFLICT);
    CHECK_INT(archive_backup(in_folder("none.db"), in_folder("x.db"), &e), RC_NOT_FOUND);
    CHECK(access(in_folder("x.db.part"), F_OK) != 0);
    end();
}

/* ---- the spool --------------------------------------------------------------------------------------------------- */

static enum rc spool_some(struct spool *s, int first, int n)
{
    struct error e;
    spool_begin(s);
    for (int i = first; i < first + n; i++) {
        char id[32];
        struct ledger_leg leg;
        const struct ledger_row r = row_at(i, NOVEMBER_S + i, id, &leg);
        CHECK(spool_add(s, &r, NULL, &e) == RC_OK);
    }
    return spool_commit(s, &e);
}

static sqlite3 *open_db(void)
{
    const struct ledger_options o = {.path = path};
    sqlite3 *db = NULL;
    struct error e;
    CHECK(ledger_file_open(&db, &o, &e) == RC_OK);
    return db;
}

/* Bytes of what was set aside when the spool was opened; removes it. */
static int64_t set_aside(void)
{
    DIR *d = opendir(folder);
    int64_t bytes = 0;
    for (struct dirent *f; d && (f = readdir(d));) {
        struct stat st;
        char *file = spw_asprintf("%s/%s", folder, f->d_name);
        if (strncmp(f->d_name, "spool.cut-", 10) == 0 && stat(file, &st) == 0) {
            bytes += st.st_size;
            unlink(file);
        }
        free(file);
    }
    if (d)
        closedir(d);
    return bytes;
}

static void test_spool(void)
{
    const struct ledger_budget_event top_up = {
        .kind = LEDGER_TOP_UP, .id = "", .budgets = "0 acme\n", .amount = {77}, .at = {NOVEMBER_S * NS_PER_S}};
    struct spool *s = NULL;
    struct error e;
    int64_t entries;
    begin();
    char *file = in_folder("spool");
    sqlite3 *db = open_db();
    CHECK(spool_open(&s, file, 0, &e) == RC_OK && !s); /* there is none to be emptied */
    CHECK(spool_open(&s, file, 1 << 20, &e) == RC_OK && s);
    CHECK_INT(spool_bytes(s), 0);
    CHECK_INT(spool_some(s, 0, 10), RC_OK);
    spool_begin(s);
    CHECK(spool_add(s, NULL, &top_up, &e) == RC_OK && spool_commit(s, &e) == RC_OK);
    CHECK_INT(spool_some(s, 5, 10), RC_OK); /* five of them twice */
    CHECK(spool_bytes(s) > 0);
    spool_close(s);
    int fd = open(file, O_WRONLY | O_APPEND);
    CHECK(fd >= 0 && write(fd, "-- 900 deadbeef\nINSERT INTO led", 31) == 31); /* a torn end */
    close(fd);
    CHECK(spool_open(&s, file, 1 << 20, &e) == RC_OK);
    CHECK_INT(set_aside(), 31);
    CHECK_INT(spool_replay(s, db, &entries, &e), RC_OK);
    CHECK_INT(entries, 21);
    CHECK_INT(spool_bytes(s), 0);
    CHECK_INT(number(path, "SELECT count(*) FROM ledger"), 15);
    CHECK_INT(number(path, "SELECT sum(charge_pusd) - 15 * 3000000 FROM ledger"), 0);
    CHECK_INT(number(path, "SELECT spent_pusd - 15 * 3000000 FROM budget_totals"), 0);
    CHECK_INT(number(path, "SELECT topped_up_pusd FROM budget_totals"), 77);
    CHECK_INT(number(path, "SELECT count(*) FROM legs WHERE busy_us = 1000"), 15);
    spool_close(s);
    CHECK(access(file, F_OK) != 0); /* empty ones go */
    sqlite3_close(db);
    end();
}

/* A byte in the middle has changed: what is before it goes into the ledger, and nothing of the rest is lost. */
static void test_spool_damaged(void)
{
    struct spool *s = NULL;
    struct error e;
    struct stat st;
    int64_t entries;
    char byte;
    begin();
    char file[200];
    snprintf(file, sizeof file, "%s/spool", folder);
    sqlite3 *db = open_db();
    CHECK(spool_open(&s, file, 1 << 20, &e) == RC_OK && s);
    CHECK_INT(spool_some(s, 0, 4), RC_OK);
    const int64_t whole = spool_bytes(s);
    CHECK_INT(spool_some(s, 4, 4), RC_OK);
    spool_close(s);
    int fd = open(file, O_RDWR);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    const int64_t head = st.st_size - 2 * whole; /* rows are alike, so are their entries */
    CHECK(pread(fd, &byte, 1, head + whole + 60) == 1);
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, head + whole + 60) == 1);
    close(fd);
    CHECK_INT(spool_open(&s, file, 1 << 20, &e), RC_OK);
    CHECK_INT(set_aside(), whole);
    CHECK_INT(spool_replay(s, db, &entries, &e), RC_OK);
    CHECK_INT(entries, 4);
    spool_close(s);
    sqlite3_close(db);
    end();
}

/* All was done, and the crash came before the spool was emptied: nothing is done again. */
static void test_spool_cut_off(void)
{
    struct spool *s = NULL;
    struct error e;
    int64_t entries;
    begin();
    char *file = in_folder("spool");
    sqlite3 *db = open_db();
    const struct ledger_budget_event top_up = {
        .kind = LEDGER_TOP_UP, .id = "", .budgets = "0 acme\n", .amount = {77}, .at = {NOVEMBER_S * NS_PER_S}};
    CHECK(spool_open(&s, file, 1 << 20, &e) == RC_OK);
    spool_begin(s);
    CHECK(spool_add(s, NULL, &top_up, &e) == RC_OK && spool_commit(s, &e) == RC_OK);
    copy_file(file, in_folder("before"));
    CHECK_INT(spool_replay(s, db, &entries, &e), RC_OK);
    spool_close(s);
    CHECK(rename(in_folder("before"), file) == 0);
    CHECK(spool_open(&s, file, 0, &e) == RC_OK && s);
    CHECK_INT(spool_replay(s, db, &entries, &e), RC_OK);
    CHECK_INT(entries, 0);
    CHECK_INT(number(path, "SELECT topped_up_pusd FROM budget_totals"), 77);
    spool_close(s);
    sqlite3_close(db);
    end();
}

static void test_spool_bound(void)
{
    struct spool *s = NULL;
    struct error e;
    begin();
    char *file = in_folder("spool");
    CHECK(spool_open(&s, file, 20000, &e) == RC_OK);
    int n = 0;
    while (n < 100 && spool_some(s, n, 1) == RC_OK)
        n++;
    CHECK(n > 5 && n < 40);
    const int64_t full = spool_bytes(s);
    CHECK_INT(spool_some(s, n, 30), RC_FULL); /* all of a group or none */
    CHECK_INT(spool_bytes(s), full);
    spool_close(s);
    FILE *f = fopen(file, "w");
    CHECK(f && fputs("something else, and long enough to be looked at\n", f) >= 0);
    fclose(f);
    CHECK_INT(spool_open(&s, file, 20000, &e), RC_INVALID);
    CHECK(access(file, F_OK) == 0);
    end();
}

static void test_csv(void)
{
    char id[32];
    struct ledger_leg leg;
    struct strbuf out;
    struct ledger_row r = row_at(2, NOVEMBER_S, id, &leg);
    r.team = "=1+1";
    r.busy_us = r.millijoules = -1;
    strbuf_init(&out, 65536);
    CHECK(ledger_row_csv(&out, &r) == RC_OK && strbuf_append(&out, "", 1) == RC_OK);
    CHECK(strncmp(out.data, "req_000002,2026-11-01T00:00:00.000Z,", 36) == 0);
    CHECK(strstr(out.data, ",\"o\"\"neil, ltd\",\"'=1+1\",") != NULL);
    CHECK(strstr(out.data, ",0.000003,") != NULL);
    int commas[2] = {0};
    bool quoted = false;
    for (const char *p = out.data; *p; p++) {
        quoted ^= *p == '"';
        commas[0] += *p == ',' && !quoted;
    }
    for (const char *p = ledger_csv_head(); *p; p++)
        commas[1] += *p == ',';
    CHECK_INT(commas[0], commas[1]);
    strbuf_fini(&out);
}

int main(void)
{
    TEST(test_archive);
    TEST(test_archive_cut_off);
    TEST(test_backup);
    TEST(test_spool);
    TEST(test_spool_damaged);
    TEST(test_spool_cut_off);
    TEST(test_spool_bound);
    TEST(test_csv);
    return TEST_RESULT();
}
