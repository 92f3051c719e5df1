/* What ledger.c (the writer) and ledger_file.c (the file's format and its readers) share. */
#ifndef SCHEDULER_BOOKS_LEDGER_INTERNAL_H
#define SCHEDULER_BOOKS_LEDGER_INTERNAL_H

#include <sqlite3.h>

#include "scheduler/books/ledger.h"

/* Open for writing, schema up to date. The connection may be used by one thread at a time. */
enum rc ledger_file_open(sqlite3 **db, const struct ledger_options *o, struct error *e) SPW_MUST_USE;
/* What a group commit runs. */
struct ledger_inserts {
    sqlite3_stmt *begin, *row, *leg, *commit;
};
/* Also on failure the caller ends them with ledger_file_finalize(). */
enum rc ledger_file_prepare(sqlite3 *db, struct ledger_inserts *s, struct error *e) SPW_MUST_USE;
void ledger_file_finalize(struct ledger_inserts *s);
/* A row and its legs. SQLite's result: SQLITE_DONE, SQLITE_CONSTRAINT for a known request_id (nothing was inserted), or an
 * error of the file. */
int ledger_file_insert(const struct ledger_inserts *s, const struct ledger_row *row);
/* `begin` or `commit`: SQLITE_OK or what went wrong. */
int ledger_file_run(sqlite3_stmt *s);
/* A failure of SQLite in our terms. */
enum rc ledger_rc(int sqlite_rc);

#endif
