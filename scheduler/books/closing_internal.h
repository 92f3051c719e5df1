/* What closing.c (an hour's way through), closing_read.c (what it is made from), closing_rollup.c (sums) and
 * closing_verify.c (do they agree?) share. */
#ifndef SCHEDULER_BOOKS_CLOSING_INTERNAL_H
#define SCHEDULER_BOOKS_CLOSING_INTERNAL_H

#include "scheduler/books/closing.h"
#include "scheduler/books/ledger_internal.h"
#include "scheduler/books/meter.h"

#define CLOSING_US INT64_C(1000000)

struct closing_leg { /* beside its close_leg, which has the same index */
    const char *request_id;
    int leg;
    struct token_counts tokens; /* counted in the hour in which it ended; else 0 */
    bool metered, moved;        /* moved: it went on elsewhere */
};
struct closing_member { /* a node in this hour */
    const char *name, *pool, *provider, *market, *domain;
    int first, n; /* its legs */
    struct meter meter;
    struct bill_quarter quarters[4];
    int n_quarters;
    struct closing_bill bill;
    struct close_result result;
    bool by_flight;
};
struct closing_work {
    const struct closing *c;
    sqlite3 *db;
    struct arena *arena; /* of texts */
    struct close_leg *legs;
    struct closing_leg *more;
    int n_legs, legs_cap;
    struct closing_member *nodes;
    int n_nodes, nodes_cap;
    struct closed_hour sums;
    unsigned problems;
    struct strbuf *text;
};

/* Legs and meters of the hour, by node. */
enum rc closing_read_all(struct closing_work *w, struct error *e) SPW_MUST_USE;
/* Into the temporary database: what the hour's tables will hold. */
enum rc closing_make_temp(struct closing_work *w, struct error *e) SPW_MUST_USE;
enum rc closing_put_node(struct closing_work *w, const struct closing_member *m, struct error *e) SPW_MUST_USE;
enum rc closing_roll_up(struct closing_work *w, struct error *e) SPW_MUST_USE;
/* ... and from there to where they stay. */
enum rc closing_copy(struct closing_work *w, struct error *e) SPW_MUST_USE;

/* A line of the text, and its bit. */
void closing_problem(unsigned *problems, struct strbuf *text, enum close_problem p, const char *format, ...)
    SPW_PRINTF(4, 5);
/* Rows of [from, until) that are wrong in themselves. */
enum rc closing_check_rows(sqlite3 *db, const char *path, struct wall from, struct wall until, unsigned *problems,
                           struct strbuf *text, struct error *e) SPW_MUST_USE;

/* A statement with integers bound, in order; SQLITE_OK or what went wrong. */
int closing_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **s, const int64_t *numbers, int n);
/* One that gives a number; `none` where it gives no row or NULL. */
enum rc closing_number(sqlite3 *db, const char *path, const char *sql, const int64_t *numbers, int n, int64_t *v,
                       struct error *e) SPW_MUST_USE;
enum rc closing_fail(sqlite3 *db, const char *path, struct error *e);

#endif
