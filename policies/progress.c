#include "policies/progress.h"

#include <math.h>

#include "base/error.h"

#define US_PER_S     1e6
#define CHANGEOVERS  2.0 /* kept in hand by the net, and to be ahead by before on-demand is left (the paper's 2d) */
#define CHEAP_SLACK  2.0 /* cheap hours chosen: so many times what the work takes, since spot may be gone in some */
#define HOUR_US      3600000000.0
#define TOKENS_LEAST 1e-6
#define DRAIN_S      600 /* what is not pressing is done within that, if machines are there for it */
#define ROWS_A_TWICE 3   /* rows for deadlines from one time to twice that time */

static double left_of(const struct progress_work *w)
{
    return fmax(w->tokens - w->done, 0);
}

/* Tokens that even progress would have done by now. */
static double even_by(const struct progress_work *w, int64_t now_us)
{
    double part = (double)(now_us - w->came_us) / (double)(w->due_us - w->came_us);
    return w->tokens * fmin(fmax(part, 0), 1);
}

/* The figures of all deadlines together: for each, everything due by it counts, since the earliest is done first. */
struct outlook {
    double left;      /* tokens in all */
    double even_rate; /* the largest that any deadline asks for from now on */
    double behind;    /* tokens; the most at any deadline; negative: ahead */
    double latest_us; /* the net; HUGE_VAL without on-demand */
    int64_t due_us;   /* whose it is */
    double hard_us;   /* on-demand must compute from then on */
};
static void look_ahead(struct outlook *o, int64_t now_us, const struct progress_work *work, int32_t n,
                       const struct progress_market *m)
{
    double rate = m->on_demand_tokens_per_s, due_left = 0, due_behind = 0, grain = 0;
    double in_hand_us = CHANGEOVERS * (double)m->changeover_us + (double)m->tick_us;

    *o = (struct outlook){.behind = -HUGE_VAL, .latest_us = HUGE_VAL, .hard_us = HUGE_VAL, .due_us = INT64_MAX};
    for (int32_t i = 0; i < n; i++) {
        SPW_ASSERT(work[i].due_us > work[i].came_us && (i == 0 || work[i - 1].due_us <= work[i].due_us));
        due_left += left_of(&work[i]);
        due_behind += even_by(&work[i], now_us) - fmin(work[i].done, work[i].tokens);
        grain = fmax(grain, work[i].grain);
        if (due_left <= TOKENS_LEAST)
            continue;
        double time_s = (double)(work[i].due_us - now_us) / US_PER_S, behind = due_behind - grain;
        if (m->n_hours > 0 &&
            rate > 0) /* waiting for cheap hours is no lag, as long as twice the time needed is left */
            behind = due_left - time_s * rate / CHEAP_SLACK;
        o->behind = fmax(o->behind, behind);
        o->even_rate = fmax(o->even_rate, time_s > 0 ? due_left / time_s : HUGE_VAL);
        if (rate > 0) {
            double start_us = (double)work[i].due_us - due_left / rate * US_PER_S;
            o->hard_us = fmin(o->hard_us, start_us);
            if (start_us - in_hand_us < o->latest_us) {
                o->latest_us = start_us - in_hand_us;
                o->due_us = work[i].due_us;
            }
        }
    }
    o->left = due_left;
}

/* Time before `due_us` in hours that cost less than the one under way. */
static double cheaper_us(const struct progress_market *m, int64_t now_us, int64_t due_us)
{
    double sum = 0, from = (double)m->hour_left_us, window = (double)(due_us - now_us);

    for (int32_t i = 1; i < m->n_hours && from < window; i++, from += HOUR_US)
        if (m->hour_prices[i].v < m->hour_prices[0].v)
            sum += fmin(HOUR_US, window - from);
    return sum;
}

/* Is the hour under way among the cheapest that some deadline needs? */
static bool hour_is_cheap(const struct progress_market *m, int64_t now_us, const struct progress_work *work, int32_t n)
{
    double rate = m->spot_tokens_per_s > 0 ? m->spot_tokens_per_s : m->on_demand_tokens_per_s, due_left = 0;

    if (m->n_hours == 0 || rate <= 0)
        return true;
    for (int32_t i = 0; i < n; i++) {
        due_left += left_of(&work[i]);
        double needs_us = due_left / rate * US_PER_S * CHEAP_SLACK + (double)m->changeover_us;
        if (due_left > TOKENS_LEAST && cheaper_us(m, now_us, work[i].due_us) < needs_us)
            return true;
    }
    return false;
}

static void choose(struct progress_decision *d, enum progress_where where, enum progress_reason reason, double rate)
{
    d->where = where;
    d->reason = reason;
    d->tokens_per_s = rate;
}

/* Nothing is rented; what is idle anyway is used. */
static void wait_for(struct progress_decision *d, enum progress_reason reason, const struct progress_market *m)
{
    choose(d, m->idle_tokens_per_s > 0 ? PROGRESS_IDLE_CAPACITY : PROGRESS_WAIT, reason, m->idle_tokens_per_s);
}

static void decide(struct progress_decision *d, const struct progress_state *s, const struct outlook *o, int64_t now_us,
                   const struct progress_work *work, int32_t n, const struct progress_market *m)
{
    double idle = m->idle_tokens_per_s, spot = m->spot_tokens_per_s, demand = m->on_demand_tokens_per_s;
    double now = (double)now_us, boot = s->on_demand ? 0 : (double)m->changeover_us;
    bool cheap = hour_is_cheap(m, now_us, work, n);
    bool priced = m->n_hours > 0 && m->hours_on_demand && spot <= 0;

    if (o->left <= TOKENS_LEAST)
        choose(d, PROGRESS_WAIT, PROGRESS_NOTHING_TO_DO, 0);
    else if (demand > 0 && now >= o->latest_us)
        choose(d, PROGRESS_ON_DEMAND, now + boot > o->hard_us ? PROGRESS_LATE : PROGRESS_DEADLINE, demand + idle);
    else if (idle >= o->even_rate)
        choose(d, PROGRESS_IDLE_CAPACITY, PROGRESS_FILLS_VALLEY, idle);
    else if (demand > 0 && priced && cheap)
        choose(d, PROGRESS_ON_DEMAND, PROGRESS_CHEAP_HOUR, demand + idle);
    else if (demand > 0 && s->on_demand && cheap &&
             o->behind > -CHANGEOVERS * (double)m->changeover_us / US_PER_S * demand)
        choose(d, PROGRESS_ON_DEMAND, PROGRESS_STAYS, demand + idle);
    else if (spot > 0 && (cheap || o->behind > 0))
        choose(d, PROGRESS_SPOT, m->n_hours > 0 && cheap ? PROGRESS_CHEAP_HOUR : PROGRESS_SPOT_IS_THERE, spot + idle);
    else if (o->behind > 0 && demand > 0)
        choose(d, PROGRESS_ON_DEMAND, PROGRESS_BEHIND, demand + idle);
    else if (o->behind > 0)
        wait_for(d, PROGRESS_NO_CAPACITY, m);
    else
        wait_for(d, cheap ? PROGRESS_AHEAD : PROGRESS_DEAR_HOUR, m);
}

void progress_decide(struct progress_decision *d, struct progress_state *s, int64_t now_us,
                     const struct progress_work *work, int32_t n, const struct progress_market *m)
{
    struct outlook o;

    look_ahead(&o, now_us, work, n, m);
    decide(d, s, &o, now_us, work, n, m);
    d->even_tokens_per_s = o.even_rate;
    d->behind_tokens = o.left > TOKENS_LEAST ? o.behind : 0;
    d->latest_us = o.latest_us < 9e18 ? (int64_t)floor(o.latest_us) : INT64_MAX;
    d->due_us = o.due_us;
    d->left_tokens = o.left;
    s->on_demand = d->where == PROGRESS_ON_DEMAND;
}

bool progress_presses(const struct progress_decision *d)
{
    return d->reason == PROGRESS_DEADLINE || d->reason == PROGRESS_LATE || d->reason == PROGRESS_NO_CAPACITY;
}

double progress_asks(const struct progress_decision *d)
{
    if (d->where != PROGRESS_SPOT && d->where != PROGRESS_ON_DEMAND)
        return 0;
    if (progress_presses(d))
        return d->tokens_per_s;
    return fmin(d->tokens_per_s, fmax(d->even_tokens_per_s, d->left_tokens / DRAIN_S));
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

void progress_rows_add(struct progress_rows *r, int64_t now_us, int64_t came_us, int64_t due_us, double tokens)
{
    const double left_s = fmax((double)(due_us - now_us) / US_PER_S, 0), row = ROWS_A_TWICE * log2(1 + left_s);
    struct progress_work *w = &r->work[row < PROGRESS_ROWS_MAX - 1 ? (int)row : PROGRESS_ROWS_MAX - 1];
    const bool first = w->tokens <= 0;
    w->came_us = first || came_us < w->came_us ? came_us : w->came_us;
    w->due_us = first || due_us < w->due_us ? due_us : w->due_us;
    w->tokens += fmax(tokens, 1);
    w->grain = fmax(w->grain, fmax(tokens, 1));
}

void progress_rows_end(struct progress_rows *r, int64_t since_us)
{
    r->n = 0;
    for (int i = 0; i < PROGRESS_ROWS_MAX; i++) {
        struct progress_work w = r->work[i];
        if (w.tokens <= 0)
            continue;
        w.came_us = w.came_us < since_us ? since_us : w.came_us;
        if (w.due_us <= w.came_us) /* it is late */
            w.came_us = w.due_us - 1;
        r->work[r->n++] = w;
    }
}

const char *progress_reason_text(enum progress_reason r)
{
    static const char *const texts[] = {
        [PROGRESS_NOTHING_TO_DO] = "nothing is left to do",
        [PROGRESS_FILLS_VALLEY] = "idle capacity is enough for every deadline",
        [PROGRESS_SPOT_IS_THERE] = "spot is there",
        [PROGRESS_CHEAP_HOUR] = "one of the cheapest hours before the deadline",
        [PROGRESS_AHEAD] = "on or ahead of even progress: it can wait for spot",
        [PROGRESS_DEAR_HOUR] = "cheaper hours before the deadline suffice",
        [PROGRESS_BEHIND] = "behind even progress, and no spot: on demand",
        [PROGRESS_STAYS] = "on demand until two change-overs ahead",
        [PROGRESS_DEADLINE] = "the last moment for the deadline: on demand until it is done",
        [PROGRESS_LATE] = "a deadline cannot be met any more: on demand at full speed",
        [PROGRESS_NO_CAPACITY] = "behind even progress, and there is nothing to run on",
    };
    return texts[r];
}

const char *progress_where_name(enum progress_where w)
{
    static const char *const names[] = {"wait", "idle_capacity", "spot", "on_demand"};
    return names[w];
}
