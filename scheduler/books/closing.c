#include "scheduler/books/closing_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

/* A cancelled leg's node may have computed a little more than its scheduler heard of. */
#define UNWATCHED_LEAST_US (10 * CLOSING_US)
#define UNHEARD_TOKENS     64

/* ---- helpers of all parts ---------------------------------------------------------------------------------------- */

enum rc closing_fail(sqlite3 *db, const char *path, struct error *e)
{
    return error_set(e, ledger_rc(sqlite3_errcode(db)), "ledger %s: %s", path, sqlite3_errmsg(db));
}

int closing_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **s, const int64_t *numbers, int n)
{
    *s = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, s, NULL);
    for (int i = 0; i < n && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_int64(*s, i + 1, numbers[i]);
    return rc;
}

enum rc closing_number(sqlite3 *db, const char *path, const char *sql, const int64_t *numbers, int n, int64_t *v,
                       struct error *e)
{
    sqlite3_stmt *s;
    int rc = closing_prepare(db, sql, &s, numbers, n);
    *v = 0;
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        *v = sqlite3_column_int64(s, 0);
        rc = SQLITE_DONE;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : closing_fail(db, path, e);
}

void closing_problem(unsigned *problems, struct strbuf *text, enum close_problem p, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    *problems |= p;
    if (text) /* a text that is full says enough */
        (void)(strbuf_printf(text, "%s: %s\n", close_problem_text(p), line) == RC_OK);
}

/* ---- one node's hour --------------------------------------------------------------------------------------------- */

/* Those that do not tell, by time in flight; where nobody measures idle time, a node is idle while nothing is in flight. */
static void fill_unmetered(struct closing_work *w, struct closing_member *m)
{
    const int64_t from_us = w->c->hour_s * CLOSING_US, until_us = from_us + BILL_HOUR_S * CLOSING_US;
    struct close_leg *copy = spw_calloc((size_t)m->n + 1, sizeof *copy);
    bool any = false, all = true;
    for (int i = 0; i < m->n; i++) {
        any = any || !w->more[m->first + i].metered;
        all = all && !w->more[m->first + i].metered;
    }
    const bool unseen = m->meter.busy_us == 0 && m->meter.idle_us == 0;
    m->by_flight = all && unseen;
    if (any || unseen) {
        if (m->n) /* memcpy is not for nothing */
            memcpy(copy, w->legs + m->first, (size_t)m->n * sizeof *copy);
        const int64_t busy = close_by_flight(copy, m->n, from_us, until_us);
        for (int i = 0; i < m->n; i++)
            if (!w->more[m->first + i].metered)
                w->legs[m->first + i].busy_us = copy[i].busy_us;
        const int64_t rest = m->bill.bill.paid_us - busy - m->meter.boot_us - m->meter.asleep_us;
        if (unseen)
            m->meter.idle_us = rest > 0 ? rest : 0;
    }
    free(copy);
}

/* Time that is paid for, and in which no scheduler was there to send anything or to hear what the node did: idle.
 * Seconds go to the start and the end of a program; they are what the variance is for. */
static void fill_unwatched(struct closing_member *m)
{
    const int64_t unwatched = m->bill.bill.paid_us - m->meter.up_us;
    if (m->meter.busy_us + m->meter.idle_us > 0 && unwatched > UNWATCHED_LEAST_US)
        m->meter.idle_us += unwatched;
}

/* Joules of a node by flight: idle and boot draw in proportion to their time, where the meter doesn't say it. What a
 * machine's own meter says is divided by busy time: its legs' joules are of a declared curve. */
static void fill_energy(struct closing_work *w, struct closing_member *m)
{
    struct meter *x = &m->meter;
    for (int i = m->first; i < m->first + m->n && x->energy_is == BOOKS_ENERGY_METERED; i++)
        w->legs[i].millijoules = -1;
    if (m->by_flight && x->energy_mj > 0 && x->idle_mj == 0 && m->bill.bill.paid_us > 0)
        x->idle_mj = (int64_t)((__int128)x->energy_mj * (x->idle_us + x->asleep_us) / m->bill.bill.paid_us);
}

static enum rc price_tokens(struct closing_work *w, struct closing_member *m, struct error *e)
{
    m->bill.bill.tokens = (struct pusd){0};
    for (int i = m->first; i < m->first + m->n; i++) {
        if (money_charge(&m->bill.prices, &w->more[i].tokens, &w->legs[i].tokens) != RC_OK)
            return error_set(e, RC_INVALID, "request %s: its tokens cost more than can be", w->more[i].request_id);
        m->bill.bill.tokens.v += w->legs[i].tokens.v;
    }
    return RC_OK;
}

/* The rows' tokens against those that the node counted. */
static void check_tokens(struct closing_work *w, const struct closing_member *m)
{
    struct token_counts rows = {0};
    int64_t unheard = 0;
    for (int i = m->first; i < m->first + m->n; i++) {
        rows.input += w->more[i].tokens.input;
        rows.cached_input += w->more[i].tokens.cached_input;
        rows.output += w->more[i].tokens.output;
        unheard += w->legs[i].waste && !w->more[i].metered ? UNHEARD_TOKENS : 0;
    }
    const struct token_counts *node = &m->meter.tokens;
    if (m->meter.counted && (rows.input != node->input || rows.cached_input != node->cached_input ||
                             llabs(rows.output - node->output) > unheard))
        closing_problem(&w->problems, w->text, CLOSE_TOKENS,
                        "node %s: rows say %" PRId64 " input, %" PRId64 " cached, %" PRId64 " output; the node %" PRId64
                        ", %" PRId64 ", %" PRId64,
                        m->name, rows.input, rows.cached_input, rows.output, node->input, node->cached_input,
                        node->output);
}

static void check_node(struct closing_work *w, const struct closing_member *m)
{
    const unsigned bits = close_check(&m->bill.bill, w->legs + m->first, m->n, &m->result);
    char bill[48], variance[48];
    for (unsigned p = 1; p < 1u << CLOSE_PROBLEMS; p <<= 1)
        if (bits & p)
            closing_problem(&w->problems, w->text, (enum close_problem)p,
                            "node %s: a bill of $%s, variance $%s (%.3f s, %.1f J)", m->name,
                            pusd_format(bill_sum(&m->bill.bill), bill, sizeof bill),
                            pusd_format(m->result.variance, variance, sizeof variance), (double)m->result.lost_us / 1e6,
                            (double)m->result.lost_mj / 1e3);
    check_tokens(w, m);
}

static void add_sums(struct closed_hour *to, const struct closing_member *m)
{
    to->bill.v += bill_sum(&m->bill.bill).v;
    to->allocated.v += m->result.allocated.v;
    to->idle.v += m->result.idle.v;
    to->boot.v += m->result.boot.v;
    to->waste.v += m->result.waste.v;
    to->variance.v += m->result.variance.v;
}

static enum rc close_node(struct closing_work *w, struct closing_member *m, struct error *e)
{
    const struct closing_node asked = {.node = m->name,
                                       .pool = m->pool,
                                       .provider = m->provider,
                                       .market = m->market,
                                       .domain = m->domain,
                                       .hour_s = w->c->hour_s,
                                       .up_us = m->meter.up_us,
                                       .quarters = m->quarters,
                                       .n_quarters = m->n_quarters};
    enum rc rc = w->c->bill(&asked, &m->bill, w->c->arg, e);
    if (rc == RC_NOT_FOUND)
        m->bill = (struct closing_bill){.bill = {.paid_us = BILL_HOUR_S * CLOSING_US}};
    else if (rc != RC_OK)
        return rc;
    rc = m->bill.by_tokens ? price_tokens(w, m, e) : RC_OK;
    if (rc != RC_OK)
        return rc;
    fill_unwatched(m);
    fill_unmetered(w, m);
    fill_energy(w, m);
    const struct close_meter meter = {m->meter.idle_us,   m->meter.boot_us, m->meter.asleep_us,
                                      m->meter.energy_mj, m->meter.idle_mj, m->meter.boot_mj};
    close_node_hour(&m->bill.bill, &meter, w->legs + m->first, m->n, &m->result);
    check_node(w, m);
    add_sums(&w->sums, m);
    return closing_put_node(w, m, e);
}

/* ---- the hour ---------------------------------------------------------------------------------------------------- */

static enum rc is_open(struct closing_work *w, struct error *e)
{
    int64_t closed;
    enum rc rc =
        closing_number(w->db, w->c->path, "SELECT count(*) FROM hours WHERE hour_s = ?1", &w->c->hour_s, 1, &closed, e);
    if (rc == RC_OK && closed)
        rc = error_set(e, RC_CONFLICT, "the hour is closed already");
    return rc;
}

static enum rc close_all(struct closing_work *w, struct error *e)
{
    const struct wall from = {w->c->hour_s * NS_PER_S}, until = {(w->c->hour_s + BILL_HOUR_S) * NS_PER_S};
    enum rc rc = is_open(w, e);
    if (rc == RC_OK && sqlite3_exec(w->db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK)
        rc = closing_fail(w->db, w->c->path, e);
    if (rc == RC_OK)
        rc = closing_make_temp(w, e);
    if (rc == RC_OK)
        rc = closing_read_all(w, e);
    for (int i = 0; i < w->n_nodes && rc == RC_OK; i++)
        rc = close_node(w, &w->nodes[i], e);
    if (rc == RC_OK)
        rc = closing_roll_up(w, e);
    if (rc == RC_OK)
        rc = closing_check_rows(w->db, w->c->path, from, until, &w->problems, w->text, e);
    if (rc == RC_OK && sqlite3_exec(w->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = closing_fail(w->db, w->c->path, e);
    return rc == RC_OK ? closing_copy(w, e) : rc;
}

enum rc closing_hour(const struct closing *c, unsigned *problems, struct strbuf *text, struct error *e)
{
    const struct ledger_options o = {.path = c->path};
    struct strbuf own;
    strbuf_init(&own, (size_t)1 << 20);
    struct closing_work w = {.c = c, .text = text ? text : &own};
    enum rc rc = ledger_file_open(&w.db, &o, e);
    if (rc == RC_OK) {
        w.arena = arena_new((size_t)1 << 40);
        w.sums = (struct closed_hour){.hour_s = c->hour_s, .closed = c->now};
        rc = close_all(&w, e);
        arena_free(w.arena);
    }
    *problems = w.problems;
    sqlite3_close(w.db);
    free(w.legs);
    free(w.more);
    free(w.nodes);
    strbuf_fini(&own);
    return rc;
}

enum rc closing_due(const char *path, int64_t until_s, void (*each)(int64_t hour_s, void *arg), void *arg,
                    struct error *e)
{
    struct books_reader r;
    sqlite3_stmt *s = NULL;
    const int64_t hour = until_s / BILL_HOUR_S * BILL_HOUR_S, numbers[] = {hour, hour * NS_PER_S};
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = books_reader_prepare(&r,
                              "WITH newest(at) AS (SELECT coalesce(max(hour_s), -1) FROM hours)"
                              " SELECT DISTINCT h FROM (SELECT quarter_s / 3600 * 3600 AS h FROM node_meters, newest"
                              "  WHERE quarter_s < ?1 AND quarter_s >= at + 3600"
                              " UNION ALL SELECT finished_ns / 3600000000000 * 3600 FROM ledger, newest"
                              "  WHERE finished_ns < ?2 AND finished_ns >= (at + 3600) * 1000000000) ORDER BY h",
                              &s, numbers, 2, e);
    while (rc == RC_OK && books_reader_step(&r, s, &rc, e))
        each(sqlite3_column_int64(s, 0), arg);
    sqlite3_finalize(s);
    books_reader_close(&r);
    return rc;
}
