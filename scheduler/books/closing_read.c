#include "scheduler/books/closing_internal.h"

#include <stdlib.h>
#include <string.h>

/* Legs that were under way in the hour [?1, ?2), of rows that had ended by ?3; ?4 is the hour in seconds. What a leg
 * took is said by hour in leg_uses, or else all of it was in the hour in which it ended. */
#define USES                                                                                                           \
    ", (SELECT count(*) FROM leg_uses u WHERE u.request_id = x.id AND u.leg = x.leg),"                                 \
    " (SELECT busy_us FROM leg_uses u WHERE u.request_id = x.id AND u.leg = x.leg AND u.hour_s = ?4),"                 \
    " (SELECT millijoules FROM leg_uses u WHERE u.request_id = x.id AND u.leg = x.leg AND u.hour_s = ?4)"
static const char legs_sql[] =
    "SELECT node, id, leg, started, ended, waste, moved, input, cached, output, busy, mj, provider, market, domain" USES
    " FROM (SELECT node, request_id AS id, 1 AS leg, leg_started_ns AS started, leg_ended_ns AS ended,"
    "  outcome <> 0 AS waste, 0 AS moved, tokens_input AS input, tokens_cached_input AS cached,"
    "  leg_tokens_output AS output, busy_us AS busy, millijoules AS mj, provider, market, domain"
    "  FROM ledger WHERE finished_ns >= ?1 AND finished_ns < ?3 AND leg_outcome IS NOT NULL AND leg_started_ns < ?2"
    " UNION ALL SELECT m.node, l.request_id, m.leg, m.started_ns, m.ended_ns,"
    "  l.outcome <> 0 OR (m.tokens_output = 0 AND m.outcome <> 'ok'), m.outcome <> 'ok' AND m.tokens_output > 0,"
    "  m.tokens_input, m.tokens_cached_input, m.tokens_output, m.busy_us, m.millijoules, m.provider, m.market, m.domain"
    "  FROM ledger l JOIN more_legs m ON m.request_id = l.request_id"
    "  WHERE l.finished_ns >= ?1 AND l.finished_ns < ?3 AND m.started_ns < ?2 AND m.ended_ns >= ?1) x"
    " WHERE node IS NOT NULL ORDER BY node, started, id, leg";
enum {
    NODE,
    ID,
    LEG,
    STARTED,
    ENDED,
    WASTE,
    MOVED,
    INPUT,
    CACHED,
    OUTPUT,
    BUSY,
    MJ,
    PROVIDER,
    MARKET,
    DOMAIN,
    N_USES,
    USE_US,
    USE_MJ
};

static const char *copy(struct closing_work *w, const char *t)
{
    const char *c = t ? arena_strndup(w->arena, t, strlen(t)) : NULL;
    SPW_ASSERT(c || !t); /* the arena has no bound but the memory */
    return c;
}

static const char *text(struct closing_work *w, sqlite3_stmt *s, int column)
{
    return copy(w, (const char *)sqlite3_column_text(s, column));
}

static struct closing_member *member(struct closing_work *w, const char *name)
{
    if (w->n_nodes == w->nodes_cap) {
        w->nodes_cap = w->nodes_cap ? 2 * w->nodes_cap : 64;
        w->nodes = spw_realloc(w->nodes, (size_t)w->nodes_cap * sizeof *w->nodes);
    }
    SPW_ASSERT(w->nodes);
    struct closing_member *m = &w->nodes[w->n_nodes++];
    *m = (struct closing_member){.name = name};
    return m;
}

/* What it took in this hour. False: it takes no part in it. */
static bool read_use(struct closing_work *w, sqlite3_stmt *s, struct close_leg *leg, bool *metered)
{
    const int64_t hour_us = w->c->hour_s * CLOSING_US, end_us = hour_us + BILL_HOUR_S * CLOSING_US;
    const bool ended_here = leg->ended_us >= hour_us && leg->ended_us < end_us;
    *metered = sqlite3_column_type(s, BUSY) != SQLITE_NULL;
    leg->millijoules = -1;
    if (!*metered)
        return leg->ended_us >= hour_us;
    const bool by_hour = sqlite3_column_int(s, N_USES) > 0;
    leg->busy_us = sqlite3_column_int64(s, by_hour ? USE_US : BUSY);
    if (sqlite3_column_type(s, by_hour ? USE_MJ : MJ) != SQLITE_NULL)
        leg->millijoules = sqlite3_column_int64(s, by_hour ? USE_MJ : MJ);
    return by_hour ? sqlite3_column_type(s, USE_US) != SQLITE_NULL || ended_here : ended_here;
}

static void add_leg(struct closing_work *w, sqlite3_stmt *s)
{
    const int64_t hour_us = w->c->hour_s * CLOSING_US;
    struct close_leg leg = {.started_us = sqlite3_column_int64(s, STARTED) / NS_PER_US,
                            .ended_us = sqlite3_column_int64(s, ENDED) / NS_PER_US,
                            .waste = sqlite3_column_int(s, WASTE) != 0};
    bool metered;
    if (!read_use(w, s, &leg, &metered))
        return;
    const char *node = (const char *)sqlite3_column_text(s, NODE);
    struct closing_member *m = w->n_nodes ? &w->nodes[w->n_nodes - 1] : NULL;
    if (!m || strcmp(m->name, node) != 0) {
        m = member(w, text(w, s, NODE));
        m->first = w->n_legs;
        m->provider = text(w, s, PROVIDER);
        m->market = text(w, s, MARKET);
        m->domain = text(w, s, DOMAIN);
    }
    if (w->n_legs == w->legs_cap) {
        w->legs_cap = w->legs_cap ? 2 * w->legs_cap : 1024;
        w->legs = spw_realloc(w->legs, (size_t)w->legs_cap * sizeof *w->legs);
        w->more = spw_realloc(w->more, (size_t)w->legs_cap * sizeof *w->more);
    }
    struct closing_leg *more = &w->more[w->n_legs];
    w->legs[w->n_legs++] = leg;
    m->n++;
    *more = (struct closing_leg){.request_id = text(w, s, ID),
                                 .leg = sqlite3_column_int(s, LEG),
                                 .metered = metered,
                                 .moved = sqlite3_column_int(s, MOVED) != 0};
    if (leg.ended_us >= hour_us && leg.ended_us < hour_us + BILL_HOUR_S * CLOSING_US)
        more->tokens = (struct token_counts){sqlite3_column_int64(s, INPUT), sqlite3_column_int64(s, CACHED),
                                             sqlite3_column_int64(s, OUTPUT)};
}

static enum rc read_legs(struct closing_work *w, struct error *e)
{
    const int64_t hour_ns = w->c->hour_s * NS_PER_S;
    const int64_t numbers[] = {hour_ns, hour_ns + BILL_HOUR_S * NS_PER_S, w->c->now.ns, w->c->hour_s};
    sqlite3_stmt *s = NULL;
    int rc = closing_prepare(w->db, legs_sql, &s, numbers, 4);
    while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        add_leg(w, s);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : closing_fail(w->db, w->c->path, e);
}

/* ---- meters ------------------------------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct closing_member *)a)->name, ((const struct closing_member *)b)->name);
}

static void add_meter(struct meter *to, const struct meter *m)
{
    to->up_us += m->up_us;
    to->boot_us += m->boot_us;
    to->idle_us += m->idle_us;
    to->asleep_us += m->asleep_us;
    to->busy_us += m->busy_us;
    to->energy_mj += m->energy_mj;
    to->boot_mj += m->boot_mj;
    to->idle_mj += m->idle_mj;
    to->tokens.input += m->tokens.input;
    to->tokens.cached_input += m->tokens.cached_input;
    to->tokens.output += m->tokens.output;
    to->counted += m->counted;
    if (m->energy_is > to->energy_is || !to->energy_mj)
        to->energy_is = m->energy_is;
}

static const char *kept(struct closing_work *w, const char *newer, const char *older)
{
    return newer ? copy(w, newer) : older;
}

struct metering {
    struct closing_work *w;
    int n_sorted; /* nodes that had legs, in order; those behind them had none */
};

static void take_meter(const struct meter *m, void *arg)
{
    struct metering *x = arg;
    struct closing_work *w = x->w;
    const struct closing_member like = {.name = m->node};
    struct closing_member *to = w->n_nodes ? bsearch(&like, w->nodes, (size_t)x->n_sorted, sizeof like, by_name) : NULL;
    for (int i = x->n_sorted; i < w->n_nodes && !to; i++)
        to = strcmp(w->nodes[i].name, m->node) == 0 ? &w->nodes[i] : NULL;
    if (!to) {
        to = member(w, copy(w, m->node));
        to->first = w->n_legs;
    }
    to->pool = kept(w, m->pool, to->pool);
    to->provider = kept(w, m->provider, to->provider);
    to->market = kept(w, m->market, to->market);
    to->domain = kept(w, m->domain, to->domain);
    add_meter(&to->meter, m);
    if (to->n_quarters < 4)
        to->quarters[to->n_quarters++] = (struct bill_quarter){m->quarter_s, m->energy_mj};
}

enum rc closing_read_all(struct closing_work *w, struct error *e)
{
    enum rc rc = read_legs(w, e);
    struct metering x = {w, w->n_nodes};
    if (rc == RC_OK)
        rc = meter_read(w->c->path, w->c->hour_s, w->c->hour_s + BILL_HOUR_S, take_meter, &x, e);
    return rc;
}
