/* What ledger.c (the writer), ledger_file.c (the file's format) and ledger_read.c (its readers) share. */
#ifndef SCHEDULER_BOOKS_LEDGER_INTERNAL_H
#define SCHEDULER_BOOKS_LEDGER_INTERNAL_H

#include <sqlite3.h>

#include "scheduler/books/ledger.h"
#include "scheduler/books/ledger_budgets.h"

/* Open for writing, schema up to date, and what its journal holds in it (fold.h). The connection may be used by one
 * thread at a time. */
enum rc ledger_file_open(sqlite3 **db, const struct ledger_options *o, struct error *e) SPW_MUST_USE;
int ledger_file_busy_ms(const struct ledger_options *o); /* see busy_ms */
/* Another file on the same connection, under that name. */
enum rc ledger_file_attach(sqlite3 *db, const char *path, const char *as, struct error *e) SPW_MUST_USE;
/* An empty one in memory. */
enum rc ledger_file_open_twin(sqlite3 **db, struct error *e) SPW_MUST_USE;
/* ledger_budgets.c: what keeps the budgets' tables. */
struct ledger_budget_inserts {
    sqlite3_stmt *spend, *waste, *hold, *drop, *top_up, *carry_in, *carry_out, *limits, *change;
};
enum rc ledger_budgets_prepare(sqlite3 *db, struct ledger_budget_inserts *s, struct error *e) SPW_MUST_USE;
void ledger_budgets_finalize(struct ledger_budget_inserts *s);
/* A request's charge, into the totals of row->budgets; its hold ends. SQLITE_DONE or an error of the file. */
int ledger_budgets_settle(const struct ledger_budget_inserts *s, const struct ledger_row *row);
/* One event, likewise. */
int ledger_budgets_write(const struct ledger_budget_inserts *s, const struct ledger_budget_event *ev);

/* What a group commit runs. */
struct ledger_inserts {
    sqlite3_stmt *begin, *row, *leg, *use, *commit;
    struct ledger_budget_inserts budgets;
};
/* Likewise, for reading. */
enum rc ledger_file_open_read_only(sqlite3 **db, const char *path, struct error *e) SPW_MUST_USE;
/* Is this file ours, and of which version (0: empty)? */
enum rc ledger_file_version(sqlite3 *db, const char *path, int *version, struct error *e) SPW_MUST_USE;
#define LEDGER_VERSION_BUDGETS 6 /* the first that has their tables */
#define LEDGER_VERSION_BOOKS   7 /* ... and those of bills, hours and what finance edits */
#define LEDGER_VERSION_KINDS   9 /* ... and keeps apart what a roll-up is of */
extern const char ledger_books_schema[], ledger_kinds_schema[]; /* ledger_schema.c */
/* For an older file that is only read: temporary tables of hours from ?1 to ?2, where those are bound. Ends with NULL. */
extern const char *const ledger_kinds_of_old[];
/* Also on failure the caller ends them with ledger_file_finalize(). */
enum rc ledger_file_prepare(sqlite3 *db, struct ledger_inserts *s, struct error *e) SPW_MUST_USE;
void ledger_file_finalize(struct ledger_inserts *s);
/* A row and its legs. SQLite's result: SQLITE_DONE, SQLITE_CONSTRAINT for a known request_id (nothing was inserted), or
 * an error of the file. */
int ledger_file_insert(const struct ledger_inserts *s, const struct ledger_row *row);
/* `begin` or `commit`: SQLITE_OK or what went wrong. */
int ledger_file_run(sqlite3_stmt *s);
/* How far the spool or journal of that id has been put into this file (the table `spools`); 0: nothing of it has. */
enum rc ledger_file_position(sqlite3 *db, const char *id, const char *path, int64_t *at, struct error *e) SPW_MUST_USE;
/* In the caller's transaction. SQLITE_OK or what went wrong. */
int ledger_file_note_position(sqlite3 *db, const char *id, int64_t at);
/* Whoever only reads the tables of the books. r->db NULL after RC_OK: there is no file, or it has none of them yet. */
struct books_reader {
    sqlite3 *db;
    int version;
    const char *path; /* borrowed */
};
enum rc books_reader_open(struct books_reader *r, const char *path, struct error *e) SPW_MUST_USE;
void books_reader_close(struct books_reader *r);
/* The caller ends *s with sqlite3_finalize(), also on failure. */
enum rc books_reader_prepare(struct books_reader *r, const char *sql, sqlite3_stmt **s, const int64_t *numbers, int n,
                             struct error *e) SPW_MUST_USE;
/* True: there is a row. False: there is none, or *rc and *e say what went wrong. */
bool books_reader_step(struct books_reader *r, sqlite3_stmt *s, enum rc *rc, struct error *e);

/* The order of columns is the order of bind_row() (ledger_file.c) and read_row() (ledger_read.c). */
#define LEDGER_COLUMNS_1                                                                                               \
    "request_id, tenant, team, key_id, model, node, provider, streamed, attempts, tokens_input, tokens_cached_input, " \
    "tokens_output, usage_source, price_input_uusd_per_mtok, price_cached_input_uusd_per_mtok, "                       \
    "price_output_uusd_per_mtok, charge_pusd, accepted_ns, first_byte_ns, finished_ns, outcome, http_status, error"
#define LEDGER_COLUMNS_2 LEDGER_COLUMNS_1 ", continuations, cross_class"
#define LEDGER_COLUMNS_3 LEDGER_COLUMNS_2 ", asked_model, service_class, cache, saved_pusd, idempotency_key, repeat"
#define LEDGER_COLUMNS   LEDGER_COLUMNS_3 ", request_hash"
#define LEDGER_N_COLUMNS 49 /* with the leg of the row, whose money it is, and what it took */
#define LEG_OF_ROW       ", leg_tokens_output, leg_outcome, leg_started_ns, leg_ended_ns, leg_numerics" /* written only */
#define WHOSE_MONEY      ", project, user, tags, budgets"
#define WHAT_IT_TOOK                                                                                                   \
    ", tokens_reasoning, price_version, reserved_pusd, market, domain, busy_us, millijoules, charge_max_pusd"
#define LEG_COLUMNS_2 "leg, node, provider, tokens_output, outcome, started_ns, ended_ns, numerics"
#define LEG_COLUMNS   LEG_COLUMNS_2 ", market, domain, tokens_input, tokens_cached_input, busy_us, millijoules"

/* A failure of SQLite in our terms. */
enum rc ledger_rc(int sqlite_rc);
/* The same with its words, of an open file; db NULL: it could not be opened. */
enum rc ledger_fail(sqlite3 *db, int rc, const char *path, struct error *e);

#endif
