/* Rows that are wrong in themselves, and closed hours that are no longer what they were made from. Everything is
 * reckoned anew, from what is there now: nothing that the close itself has written is taken at its word. */
#include "scheduler/books/closing_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/books/finance.h"

#define NAMED_MAX 5 /* of each kind, by name; the others are counted */

/* Each finds a text that names what is wrong. ?1, ?2: from and until, nanoseconds. A price below what the tokens cost
 * is right where the client's own bound cut it, and a repeat under an idempotency key has prices of 0. A change takes
 * effect within a minute. */
static const struct {
    enum close_problem problem;
    const char *what, *sql;
} row_checks[] = {
    {CLOSE_CHARGE, "request",
     "SELECT request_id FROM ledger WHERE finished_ns >= ?1 AND finished_ns < ?2 AND charge_pusd <>"
     " min((tokens_input - tokens_cached_input) * price_input_uusd_per_mtok"
     " + tokens_cached_input * price_cached_input_uusd_per_mtok + tokens_output * price_output_uusd_per_mtok,"
     " coalesce(charge_max_pusd, 9223372036854775807))"},
    {CLOSE_CHARGE, "request, priced otherwise than its version says",
     "SELECT l.request_id FROM ledger l JOIN finance f ON f.version = l.price_version WHERE l.finished_ns >= ?1"
     " AND l.finished_ns < ?2 AND l.price_input_uusd_per_mtok + l.price_output_uusd_per_mtok > 0"
     " AND (f.kind NOT IN ('price', 'rate')"
     "  OR l.price_input_uusd_per_mtok <> price_of(f.value, 'input')"
     "  OR l.price_cached_input_uusd_per_mtok <> price_of(f.value, 'cached_input')"
     "  OR l.price_output_uusd_per_mtok <> price_of(f.value, 'output'))"},
    {CLOSE_CHARGE, "request, by a price that did not hold when it ended",
     "SELECT l.request_id FROM ledger l JOIN finance f ON f.version = l.price_version WHERE l.finished_ns >= ?1"
     " AND l.finished_ns < ?2 AND f.kind IN ('price', 'rate') AND EXISTS (SELECT 1 FROM finance g WHERE g.kind = f.kind"
     " AND g.subject = f.subject AND (g.from_s + 60) * 1000000000 <= l.accepted_ns"
     " AND g.at_ns + 60000000000 <= l.accepted_ns"
     " AND (g.from_s > f.from_s OR (g.from_s = f.from_s AND g.version > f.version)))"},
    {CLOSE_LEGS, "request",
     "SELECT l.request_id FROM ledger l JOIN (SELECT request_id, sum(tokens_output) AS said, count(*) AS n FROM "
     "more_legs"
     " GROUP BY request_id) m ON m.request_id = l.request_id WHERE l.finished_ns >= ?1 AND l.finished_ns < ?2"
     " AND l.outcome = 0 AND m.n > 1 AND m.said <> l.tokens_output AND l.usage_source = 'provider'"},
    {CLOSE_LEGS, "request, whose legs took another time",
     "SELECT l.request_id FROM ledger l JOIN (SELECT request_id, sum(busy_us) AS us FROM more_legs"
     " GROUP BY request_id) m ON m.request_id = l.request_id WHERE l.finished_ns >= ?1 AND l.finished_ns < ?2"
     " AND coalesce(m.us, -1) <> coalesce(l.busy_us, -1)"},
    {CLOSE_LEGS, "request, whose hours do not add up",
     "SELECT u.request_id FROM leg_uses u JOIN ledger l ON l.request_id = u.request_id WHERE l.finished_ns >= ?1"
     " AND l.finished_ns < ?2 GROUP BY u.request_id HAVING sum(u.busy_us) >"
     " (SELECT busy_us FROM ledger k WHERE k.request_id = u.request_id)"},
    {CLOSE_NEGATIVE, "request",
     "SELECT request_id FROM ledger WHERE finished_ns >= ?1 AND finished_ns < ?2 AND (charge_pusd < 0 OR saved_pusd < 0"
     " OR tokens_reasoning < 0 OR tokens_reasoning > tokens_output OR busy_us < 0 OR millijoules < 0)"},
};

/* Of closed hours; ?1, ?2: from and until, seconds. */
#define CLOSED(table) " FROM " table " WHERE hour_s >= ?1 AND hour_s < ?2 AND hour_s IN (SELECT hour_s FROM hours)"
#define HOUR          "strftime('%Y-%m-%dT%H', hour_s, 'unixepoch')"
static const struct {
    enum close_problem problem;
    const char *what, *sql;
} hour_checks[] = {
    {CLOSE_SUM, "node and hour",
     "SELECT node || ' ' || " HOUR CLOSED(
         "node_hours") " AND (bill_pusd <> fixed_pusd + energy_pusd + tokens_pusd OR"
                       " bill_pusd <> allocated_pusd + idle_pusd + boot_pusd + waste_pusd + variance_pusd)"},
    {CLOSE_SUM, "node and hour, of which allocations say otherwise",
     "SELECT n.node || ' ' || strftime('%Y-%m-%dT%H', n.hour_s, 'unixepoch') FROM node_hours n WHERE n.hour_s >= ?1"
     " AND n.hour_s < ?2 AND n.hour_s IN (SELECT hour_s FROM hours) AND n.allocated_pusd + n.waste_pusd <>"
     " (SELECT coalesce(sum(share_pusd), 0) FROM allocations a WHERE a.hour_s = n.hour_s AND a.node = n.node)"},
    {CLOSE_VARIANCE, "node and hour",
     "SELECT node || ' ' || " HOUR CLOSED("node_hours") " AND abs(variance_pusd) > abs(bill_pusd) / 200"},
    {CLOSE_TWICE, "request",
     "SELECT request_id || ' leg ' || leg" CLOSED("allocations") " GROUP BY request_id, leg HAVING count(*) > 1"
                                                                 " AND count(DISTINCT hour_s) < count(*)"},
    {CLOSE_TWICE, "request, allocated for more than it took",
     "SELECT a.request_id FROM allocations a JOIN ledger l ON l.request_id = a.request_id WHERE a.hour_s >= ?1"
     " AND a.hour_s < ?2 AND l.busy_us IS NOT NULL AND NOT EXISTS (SELECT 1 FROM more_legs m WHERE"
     " m.request_id = a.request_id AND m.busy_us IS NULL)"
     " GROUP BY a.request_id HAVING sum(a.busy_us) > max(l.busy_us)"},
    {CLOSE_ROLLUP, "hour, allocated for a request that is not there",
     "SELECT " HOUR
     " || ' ' || request_id" CLOSED("allocations") " AND request_id NOT IN (SELECT request_id FROM ledger)"},
};
/* Sums of a closed hour (?1) by two ways. */
#define ROWS " FROM ledger WHERE finished_ns >= ?1 * 1000000000 AND finished_ns < (?1 + 3600) * 1000000000"
#define SUMS(what, column)                                                                                             \
    {what, "SELECT sum(" column ") FROM hour_rollups WHERE hour_s = ?1", "SELECT sum(" column ")" ROWS},               \
    {                                                                                                                  \
        what " in the mark", "SELECT " column " FROM hours WHERE hour_s = ?1", "SELECT sum(" column ")" ROWS           \
    }
#define LINES(column)                                                                                                  \
    {                                                                                                                  \
        column, "SELECT " column " FROM hours WHERE hour_s = ?1",                                                      \
            "SELECT sum(" column ") FROM node_hours WHERE hour_s = ?1"                                                 \
    }
static const struct {
    const char *what, *here, *there;
} sums[] = {
    {"requests", "SELECT sum(requests) FROM hour_rollups WHERE hour_s = ?1", "SELECT count(*)" ROWS},
    {"charges of each team and model",
     "SELECT count(*) FROM (SELECT tenant, team, model, sum(charge_pusd) FROM hour_rollups WHERE hour_s = ?1 AND"
     " requests > 0 GROUP BY 1, 2, 3 INTERSECT SELECT tenant, team, model, sum(charge_pusd)" ROWS " GROUP BY 1, 2, 3)",
     "SELECT count(*) FROM (SELECT 1" ROWS " GROUP BY tenant, team, model)"},
    SUMS("input tokens", "tokens_input"),
    SUMS("cached tokens", "tokens_cached_input"),
    SUMS("output tokens", "tokens_output"),
    SUMS("charges", "charge_pusd"),
    SUMS("savings", "saved_pusd"),
    LINES("bill_pusd"),
    LINES("allocated_pusd"),
    LINES("idle_pusd"),
    LINES("boot_pusd"),
    LINES("waste_pusd"),
    LINES("variance_pusd"),
    {"allocations by team", "SELECT sum(allocated_pusd + waste_pusd) FROM hour_rollups WHERE hour_s = ?1",
     "SELECT sum(share_pusd) FROM allocations WHERE hour_s = ?1"},
    {"busy time", "SELECT sum(busy_us) FROM hour_rollups WHERE hour_s = ?1",
     "SELECT sum(busy_us) FROM allocations WHERE hour_s = ?1"},
    {"charges' counts", "SELECT sum(n) FROM hour_charges WHERE hour_s = ?1", "SELECT count(*)" ROWS " AND outcome = 0"},
};

static void price_of(sqlite3_context *context, int n, sqlite3_value **values)
{
    const char *value = (const char *)sqlite3_value_text(values[0]),
               *which = (const char *)sqlite3_value_text(values[1]);
    struct token_prices p;
    struct error e;
    (void)n;
    if (!value || !which || finance_prices(value, &p, &e) != RC_OK) {
        sqlite3_result_null(context);
        return;
    }
    const struct price *one = which[0] == 'i' ? &p.input : which[0] == 'c' ? &p.cached_input : &p.output;
    sqlite3_result_int64(context, one->uusd_per_mtok);
}

/* Names what a statement finds. */
static enum rc name_all(sqlite3 *db, const char *path, const char *sql, const int64_t *numbers,
                        enum close_problem problem, const char *what, unsigned *problems, struct strbuf *text,
                        struct error *e)
{
    sqlite3_stmt *s;
    int rc = closing_prepare(db, sql, &s, numbers, 2), n = 0;
    while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        if (n++ < NAMED_MAX)
            closing_problem(problems, text, problem, "%s %s", what, name ? name : "without a name");
        rc = SQLITE_OK;
    }
    sqlite3_finalize(s);
    if (rc != SQLITE_DONE)
        return closing_fail(db, path, e);
    if (n > NAMED_MAX)
        closing_problem(problems, text, problem, "%s: %d more", what, n - NAMED_MAX);
    return RC_OK;
}

enum rc closing_check_rows(sqlite3 *db, const char *path, struct wall from, struct wall until, unsigned *problems,
                           struct strbuf *text, struct error *e)
{
    const int64_t numbers[] = {from.ns, until.ns};
    enum rc rc = RC_OK;
    if (sqlite3_create_function(db, "price_of", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, price_of, NULL, NULL) !=
        SQLITE_OK)
        return closing_fail(db, path, e);
    for (size_t i = 0; i < sizeof row_checks / sizeof row_checks[0] && rc == RC_OK; i++)
        rc = name_all(db, path, row_checks[i].sql, numbers, row_checks[i].problem, row_checks[i].what, problems, text,
                      e);
    return rc;
}

static enum rc check_hour(struct books_reader *r, int64_t hour_s, unsigned *problems, struct strbuf *text,
                          struct error *e)
{
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof sums / sizeof sums[0] && rc == RC_OK; i++) {
        int64_t here, there = 0;
        rc = closing_number(r->db, r->path, sums[i].here, &hour_s, 1, &here, e);
        if (rc == RC_OK)
            rc = closing_number(r->db, r->path, sums[i].there, &hour_s, 1, &there, e);
        if (rc == RC_OK && here != there) {
            char when[40];
            closing_problem(problems, text, CLOSE_ROLLUP, "hour %s: %s: %" PRId64 ", but %" PRId64,
                            wall_format((struct wall){hour_s * NS_PER_S}, when, sizeof when), sums[i].what, here,
                            there);
        }
    }
    return rc;
}

static enum rc check_hours(struct books_reader *r, const int64_t *range, struct closing_verified *v, unsigned *problems,
                           struct strbuf *text, struct error *e)
{
    sqlite3_stmt *s = NULL;
    enum rc rc = books_reader_prepare(r, "SELECT hour_s FROM hours WHERE hour_s >= ?1 AND hour_s < ?2 ORDER BY hour_s",
                                      &s, range, 2, e);
    while (rc == RC_OK && books_reader_step(r, s, &rc, e)) {
        v->hours++;
        rc = check_hour(r, sqlite3_column_int64(s, 0), problems, text, e);
    }
    sqlite3_finalize(s);
    for (size_t i = 0; i < sizeof hour_checks / sizeof hour_checks[0] && rc == RC_OK; i++)
        rc = name_all(r->db, r->path, hour_checks[i].sql, range, hour_checks[i].problem, hour_checks[i].what, problems,
                      text, e);
    return rc;
}

enum rc closing_verify(const char *path, int64_t from_s, int64_t until_s, struct closing_verified *v,
                       unsigned *problems, struct strbuf *text, struct error *e)
{
    const int64_t range[] = {from_s, until_s};
    const struct wall from = {from_s * NS_PER_S}, until = {until_s * NS_PER_S};
    const int64_t walls[] = {from.ns, until.ns};
    struct books_reader r;
    *v = (struct closing_verified){0};
    *problems = 0;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = closing_check_rows(r.db, path, from, until, problems, text, e);
    if (rc == RC_OK)
        rc = check_hours(&r, range, v, problems, text, e);
    if (rc == RC_OK)
        rc = closing_number(r.db, path, "SELECT count(*) FROM ledger WHERE finished_ns >= ?1 AND finished_ns < ?2",
                            walls, 2, &v->rows, e);
    if (rc == RC_OK)
        rc = closing_number(r.db, path, "SELECT count(*) FROM node_hours WHERE hour_s >= ?1 AND hour_s < ?2", range, 2,
                            &v->node_hours, e);
    if (rc == RC_OK)
        rc = closing_number(r.db, path, "SELECT count(*) FROM allocations WHERE hour_s >= ?1 AND hour_s < ?2", range, 2,
                            &v->allocations, e);
    books_reader_close(&r);
    return rc;
}
