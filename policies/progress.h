/* When batch work runs: it fills what is idle, waits for cheap hours and for spot as long as its deadline allows,
 * and never misses a deadline that on-demand could have met.
 *
 * The uniform-progress rule of Wu et al., "Can't Be Late: Optimizing Spot Instance Savings under Deadlines"
 * (NSDI'24), over all the batch work of one model. Work that came at A with deadline D is expected to be done
 * evenly over D - A:
 *   exploit   idle capacity (already paid) and spot that is there are used at once, whatever the progress
 *   thrifty   nothing is left to do: nothing runs
 *   uniform   without spot: on or ahead of even progress it waits; behind, it runs on demand
 *   steady    once on demand it stays until it is ahead by two change-overs (hysteresis)
 *   net       when what is left, on demand, with two change-overs and one tick, just fits before a deadline: on
 *   demand,
 *             and nothing else, until it is done
 * Added to the paper: many deadlines at once (for each, all work due by it must fit; earliest deadline first), and
 * hours of different prices: dear is an hour while those that cost less before each deadline are twice as many as the
 * work needs. A dear hour is treated as one without spot, and on demand isn't stayed in it. Where the prices are
 * those of on demand itself (own machines that sleep, by their tariff) any other hour is used at once: of hours that
 * cost the same the first.
 *
 * Pure; the little memory is the caller's struct. */
#ifndef POLICIES_PROGRESS_H
#define POLICIES_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/money.h"

struct progress_work {       /* what is still to do, one row per deadline or group of them */
    int64_t came_us, due_us; /* due_us > came_us */
    double tokens, done;     /* of it in all, and done already */
    double grain;            /* the largest piece of it, which is begun whole: so much ahead of even progress is none */
};
#define PROGRESS_ROWS_MAX 64
/* Requests that wait, put together by deadline: those within about a quarter of the time that is left stand in one row,
 * and all of it is due with the first of them. {0} to begin with; then add all, then end: work[0..n-1] is what
 * progress_decide() wants. */
struct progress_rows {
    struct progress_work work[PROGRESS_ROWS_MAX];
    int32_t n; /* after the end */
};
void progress_rows_add(struct progress_rows *r, int64_t now_us, int64_t came_us, int64_t due_us, double tokens);
/* since_us: when one of them was last begun, from when on the others are to be done evenly; 0: none was. */
void progress_rows_end(struct progress_rows *r, int64_t since_us);
struct progress_market {
    double idle_tokens_per_s;      /* on nodes that run anyway, not needed by interactive requests now */
    double spot_tokens_per_s;      /* what spot would give now; 0: there is none */
    double on_demand_tokens_per_s; /* what on-demand, launched now, would give; 0: not allowed */
    int64_t changeover_us;         /* until a launched node computes: boot, load, warm-up */
    int64_t tick_us;               /* until this is asked again */
    /* Prices per hour from now on (the first is the hour under way, hour_left_us of it left); n_hours 0: every hour is
     * as good. Of what spot_tokens_per_s stands for, which comes and goes; or, hours_on_demand, of what
     * on_demand_tokens_per_s does, and there is no spot. batch_market.h knows them of machines that sleep. */
    const struct pusd *hour_prices;
    int32_t n_hours;
    int64_t hour_left_us;
    bool hours_on_demand;
};
enum progress_where { PROGRESS_WAIT, PROGRESS_IDLE_CAPACITY, PROGRESS_SPOT, PROGRESS_ON_DEMAND };
enum progress_reason {
    PROGRESS_NOTHING_TO_DO,
    PROGRESS_FILLS_VALLEY, /* idle capacity takes it */
    PROGRESS_SPOT_IS_THERE,
    PROGRESS_CHEAP_HOUR,  /* spot, or on demand where the hours' prices are its own */
    PROGRESS_AHEAD,       /* waits: on or ahead of even progress, and no spot */
    PROGRESS_DEAR_HOUR,   /* waits: cheaper hours before the deadline suffice */
    PROGRESS_BEHIND,      /* on demand: behind even progress */
    PROGRESS_STAYS,       /* on demand still: not yet two change-overs ahead */
    PROGRESS_DEADLINE,    /* on demand until done: else a deadline is missed */
    PROGRESS_LATE,        /* a deadline can't be met any more; the rest is done at full speed */
    PROGRESS_NO_CAPACITY, /* it ought to run, and nothing is there to run it */
};
struct progress_state { /* {0} at the start */
    bool on_demand;     /* at the last decision */
};
struct progress_decision {
    enum progress_where where;
    enum progress_reason reason;
    double tokens_per_s;      /* to run at: what the chosen place gives, or idle capacity while it waits for more */
    double even_tokens_per_s; /* that even progress asks for from now on */
    double behind_tokens;     /* > 0: so far behind even progress */
    double left_tokens;       /* of all */
    int64_t latest_us;        /* the net closes then: the last moment at which on-demand is early enough */
    int64_t due_us;           /* for the work that is due by then; INT64_MAX: there is no net */
};
/* work: by due_us, the earliest first; n >= 0. */
void progress_decide(struct progress_decision *d, struct progress_state *s, int64_t now_us,
                     const struct progress_work *work, int32_t n, const struct progress_market *m);
/* Tokens per second for which machines are to be there, beside what interactive requests need. What is not pressing
 * takes no more of them than do it evenly, or within ten minutes. */
double progress_asks(const struct progress_decision *d);
/* It is to run at once, wherever it can and may, if it is due by d->due_us (or, without a net, in any case). */
bool progress_presses(const struct progress_decision *d);
const char *progress_reason_text(enum progress_reason r);
const char *progress_where_name(enum progress_where w);

#endif
