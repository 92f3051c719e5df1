/* What finance edits: one table of changes, each with a version, a date on which it was made, one from which it holds,
 * who made it, and why. Nothing is edited in place: today's price list is the newest change that holds today, last
 * month's that of last month, and a ledger row names the version that it was charged by.
 *
 *   kind           subject                     value (JSON)
 *   price          node, pool or model         {"input": "0.55", "cached_input": "0.14", "output": "2.19"}  $ per million tokens
 *   currency       "EUR"                       {"per_usd": "0.921500"}                for printing; the books are in dollars
 *   discount       "tenant=acme", "provider=x" {"percent": "12.5"}                    of charges, on statements
 *   cost_centre    "team=search", "key=k1"     {"code": "4711"}
 *   asset          node or pool                {"purchase": "180000", "residual": "20000", "bought": "2026-01-01", "years": 4}
 *   rent           node or pool                {"hour": "2.10", "min_s": 60, "unit_s": 1}    where no provider tells
 *   utilisation    node or pool                {"percent": "60"}                      that its standard rate is reckoned for
 *   rate           node or pool                as price: its standard rate (rates.h), proposed by `spillway nodes rates`
 *   reference      model; node or pool         as price; or {"hour": "2.10"}: what it would cost elsewhere, for reports' savings
 *   lock, unlock   "2026-10"                   {}                                     the month is closed
 *
 * All go through finance_change(), the only writer, whose options carry a hook for the audit. Each value is checked:
 * what is wrong is said in words. A change that would hold from within a locked month is refused (RC_CONFLICT), as is a
 * correction of it; corrections of its requests count in the first open month.
 *
 * Blocking; command line and worker threads. The file may be the running scheduler's: a busy one is waited for. */
#ifndef SCHEDULER_BOOKS_FINANCE_H
#define SCHEDULER_BOOKS_FINANCE_H

#include "base/clock.h"
#include "base/money.h"
#include "scheduler/books/bill.h"

struct finance_change { /* strings are the caller's; of those that are read they live for the call */
    int64_t version;    /* as read; to be made: 0 */
    struct wall at;
    const char *who, *kind, *subject, *value, *reason;
    int64_t from_s; /* holds from then on; 0: from now */
};

/* Told of a change after it was checked and before it is committed; what it returns other than RC_OK undoes it: so the
 * audit either has it too, or it never was. */
typedef enum rc finance_hook(const struct finance_change *c, void *arg, struct error *e);

/* *version: of the change. RC_INVALID: the value, the kind or the date; RC_CONFLICT: a locked month, or a lock that is there
 * already. */
enum rc finance_change(const char *path, const struct finance_change *c, finance_hook *hook, void *arg,
                       int64_t *version, struct error *e) SPW_MUST_USE;
/* Newest first; kind, subject NULL: any. No file: none. */
enum rc finance_read(const char *path, const char *kind, const char *subject, int last,
                     void (*each)(const struct finance_change *c, void *arg), void *arg, struct error *e) SPW_MUST_USE;
/* What held at that time, one change per kind and subject, the newest. */
enum rc finance_read_at(const char *path, const char *kind, int64_t at_s,
                        void (*each)(const struct finance_change *c, void *arg), void *arg,
                        struct error *e) SPW_MUST_USE;

/* Values, read. RC_INVALID: *e says what would be right. */
enum rc finance_prices(const char *value, struct token_prices *p, struct error *e) SPW_MUST_USE;
enum rc finance_asset(const char *value, struct bill_asset *a, struct error *e) SPW_MUST_USE;
enum rc finance_amount(const char *text, struct pusd *a,
                       struct error *e) SPW_MUST_USE; /* dollars, with a sign or without */
enum rc finance_percent_ppm(const char *value, int64_t *ppm, struct error *e) SPW_MUST_USE;

/* A correction: an amount that is added (or, below zero, taken back) in the first open month, of a request (its teams
 * and model are the row's) or, request_id NULL, of none. Goes through finance_change(): kind "correction". */
struct finance_correction {
    const char *request_id, *tenant, *team, *project, *reason;
    struct pusd charge;
};
enum rc finance_correct(const char *path, const struct finance_correction *c, const char *who, struct wall at,
                        finance_hook *hook, void *arg, int64_t *version, struct error *e) SPW_MUST_USE;
struct correction {
    int64_t id, version, month_s; /* month_s: start of the month that it counts in */
    struct wall at;
    const char *request_id, *tenant, *team, *project, *key_id, *model, *node, *provider, *reason;
    struct pusd charge;
};
/* That count in months that begin in the range. */
enum rc finance_read_corrections(const char *path, int64_t from_s, int64_t until_s,
                                 void (*each)(const struct correction *c, void *arg), void *arg,
                                 struct error *e) SPW_MUST_USE;
/* Is the month of that moment locked? */
enum rc finance_month_locked(const char *path, int64_t at_s, bool *locked, struct error *e) SPW_MUST_USE;

#endif
