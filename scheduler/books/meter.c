#include "scheduler/books/meter.h"

#include <unistd.h>

#include "scheduler/books/ledger_internal.h"

static const char add_sql[] =
    "INSERT INTO node_meters (node, quarter_s, pool, provider, market, domain, up_us, boot_us, idle_us, asleep_us,"
    " busy_us, energy_mj, boot_mj, idle_mj, energy_is, tokens_input, tokens_cached_input, tokens_output, counted)"
    " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19)"
    " ON CONFLICT (quarter_s, node) DO UPDATE SET pool = coalesce(?3, pool), provider = coalesce(?4, provider),"
    " market = coalesce(?5, market), domain = coalesce(?6, domain), up_us = up_us + ?7, boot_us = boot_us + ?8,"
    " idle_us = idle_us + ?9, asleep_us = asleep_us + ?10, busy_us = busy_us + ?11, energy_mj = energy_mj + ?12,"
    " boot_mj = boot_mj + ?13, idle_mj = idle_mj + ?14, energy_is = max(energy_is, ?15),"
    " tokens_input = tokens_input + ?16, tokens_cached_input = tokens_cached_input + ?17,"
    " tokens_output = tokens_output + ?18, counted = counted + ?19";

static int add_one(sqlite3_stmt *s, const struct meter *m)
{
    const char *const texts[] = {m->pool, m->provider, m->market, m->domain};
    const int64_t numbers[] = {
        m->up_us,   m->boot_us,   m->idle_us,      m->asleep_us,           m->busy_us,       m->energy_mj, m->boot_mj,
        m->idle_mj, m->energy_is, m->tokens.input, m->tokens.cached_input, m->tokens.output, m->counted};
    sqlite3_bind_text(s, 1, m->node, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, m->quarter_s);
    for (int i = 0; i < 4; i++)
        sqlite3_bind_text(s, 3 + i, texts[i], -1, SQLITE_STATIC);
    for (int i = 0; i < 13; i++)
        sqlite3_bind_int64(s, 7 + i, numbers[i]);
    int rc = sqlite3_step(s);
    sqlite3_reset(s);
    return rc;
}

enum rc meter_add(const char *path, const struct meter *m, int n, struct error *e)
{
    const struct ledger_options o = {.path = path};
    sqlite3 *db;
    sqlite3_stmt *s = NULL;
    enum rc code = ledger_file_open(&db, &o, e);
    if (code != RC_OK)
        return code;
    int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(db, add_sql, -1, &s, NULL);
    for (int i = 0; i < n && rc == SQLITE_OK; i++)
        rc = add_one(s, &m[i]) == SQLITE_DONE ? SQLITE_OK : SQLITE_ERROR;
    sqlite3_finalize(s);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        code = error_set(e, ledger_rc(sqlite3_errcode(db)), "ledger %s: %s", path, sqlite3_errmsg(db));
    sqlite3_close(db); /* and takes back what was not committed */
    return code;
}

static void read_one(sqlite3_stmt *s, struct meter *m)
{
    const char *texts[5];
    for (int i = 0; i < 5; i++)
        texts[i] = (const char *)sqlite3_column_text(s, i);
    int64_t v[14];
    for (int i = 0; i < 14; i++)
        v[i] = sqlite3_column_int64(s, 5 + i);
    *m = (struct meter){.node = texts[0],
                        .pool = texts[1],
                        .provider = texts[2],
                        .market = texts[3],
                        .domain = texts[4],
                        .quarter_s = v[0],
                        .up_us = v[1],
                        .boot_us = v[2],
                        .idle_us = v[3],
                        .asleep_us = v[4],
                        .busy_us = v[5],
                        .energy_mj = v[6],
                        .boot_mj = v[7],
                        .idle_mj = v[8],
                        .energy_is = (enum books_energy)v[9],
                        .tokens = {v[10], v[11], v[12]},
                        .counted = v[13]};
}

enum rc meter_read(const char *path, int64_t from_s, int64_t until_s, void (*each)(const struct meter *m, void *arg),
                   void *arg, struct error *e)
{
    sqlite3_stmt *s = NULL;
    const int64_t numbers[] = {from_s, until_s};
    struct books_reader r;
    enum rc code = books_reader_open(&r, path, e);
    if (code != RC_OK || !r.db)
        return code;
    code = books_reader_prepare(&r,
                                "SELECT node, pool, provider, market, domain, quarter_s, up_us, boot_us, idle_us,"
                                " asleep_us, busy_us, energy_mj, boot_mj, idle_mj, energy_is, tokens_input,"
                                " tokens_cached_input, tokens_output, counted FROM node_meters"
                                " WHERE quarter_s >= ?1 AND quarter_s < ?2 ORDER BY quarter_s, node",
                                &s, numbers, 2, e);
    while (code == RC_OK && books_reader_step(&r, s, &code, e)) {
        struct meter m;
        read_one(s, &m);
        each(&m, arg);
    }
    sqlite3_finalize(s);
    books_reader_close(&r);
    return code;
}
