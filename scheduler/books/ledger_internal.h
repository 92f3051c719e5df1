/* What ledger.c (the writer) and ledger_file.c (the file's format and its readers) share. */
#ifndef SCHEDULER_BOOKS_LEDGER_INTERNAL_H
#define SCHEDULER_BOOKS_LEDGER_INTERNAL_H

#include <sqlite3.h>

#include "scheduler/books/ledger.h"

/* Open for writing, schema up to date. The connection may be used by one thread at a time. */
enum rc ledger_file_open(sqlite3 **db, const struct ledger_options *o, struct error *e) SPW_MUST_USE;
/* The statement that ledger_file_insert() runs; the caller finalizes it. */
enum rc ledger_file_prepare(sqlite3 *db, sqlite3_stmt **insert, struct error *e) SPW_MUST_USE;
/* SQLite's result: SQLITE_DONE, SQLITE_CONSTRAINT for a known request_id, or an error of the file. */
int ledger_file_insert(sqlite3_stmt *insert, const struct ledger_row *row);
/* A failure of SQLite in our terms. */
enum rc ledger_rc(int sqlite_rc);

#endif
