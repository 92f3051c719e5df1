/* What could compute the batch work of one model, put together for progress_decide() by daemon and simulator alike:
 * what is idle, what may be rented, what sleeps, and what stands in where there is none of these. Begun by
 * batch_market_init(), added to row by row, closed by batch_market_hours(); then `m` is the market.
 *
 * What sleeps is had like a machine on demand, only sooner. Where nothing but that could be had, it costs what its
 * energy does, and that has a price by the hour: for each wall-clock hour (of UTC) until the last deadline, what the
 * machines that sleep would draw at work, less what they draw asleep, by tariff_cost(). Of several sites the sum over
 * all machines. Where anything can be rented rent decides, and where all hours cost the same none is better: n_hours
 * is 0 in both cases.
 *
 * Pure; memory is the caller's, and bounded. */
#ifndef POLICIES_BATCH_MARKET_H
#define POLICIES_BATCH_MARKET_H

#include "policies/power.h"
#include "policies/progress.h"
#include "policies/scale.h"
#include "policies/tariff.h"

#define BATCH_TARIFFS_MAX 64  /* of one market's machines; with more hours aren't compared */
#define BATCH_HOURS_MAX   169 /* a week, and what is left of the hour under way */

struct batch_market {
    struct progress_market m; /* its hour_prices point into `hours`: a copy's do so, too */
    bool rents;               /* something could be rented, or could be again */
    bool stands_in; /* on_demand_tokens_per_s is of an API, or of what runs: nothing is launched or woken for it */
    struct batch_draw {
        const struct tariff *tariff; /* borrowed */
        int64_t mw;                  /* of all machines that pay by it */
    } draws[BATCH_TARIFFS_MAX];
    int n_draws;
    double surplus_tokens_per_s;
    bool crowded; /* more tariffs than BATCH_TARIFFS_MAX */
    struct pusd hours[BATCH_HOURS_MAX];
};
/* ready, demand: tokens per second of the nodes that run, and of them what interactive requests need now. tick_us:
 * until it is looked at again. */
void batch_market_init(struct batch_market *b, double ready, double demand, int64_t tick_us);
/* As many more as may be launched of it. Own machines (SCALE_ON_PREM) are passed over. */
void batch_market_offer(struct batch_market *b, const struct scale_offer *o);
/* One own machine that is in `state` (POWER_SLEEP or POWER_OFF) and could be woken: what it would do then, and by which
 * tariff it pays; NULL: its energy costs nothing. overhead: of power beside the machines (PUE), >= 1. */
void batch_market_sleeper(struct batch_market *b, double tokens_per_s, const struct power_levels *l,
                          enum power_state state, const struct tariff *t, double overhead);
/* One own machine that is awake and would sleep if there were no batch work: counted in `ready` so far. Where hours
 * have prices it is not idle, but had on demand like one that sleeps. */
void batch_market_surplus(struct batch_market *b, double tokens_per_s, const struct power_levels *l,
                          const struct tariff *t, double overhead);
/* How many of `awake` own machines that may sleep are that: those beyond keep_warm, and beyond what so many interactive
 * requests at once need, `each` to a machine. */
int32_t batch_market_beyond(int32_t awake, int32_t keep_warm, double interactive, double each);
/* After all rows. wall_us: microseconds since 1970. left_us: from then to the last deadline; of more than a week the
 * first counts. */
void batch_market_hours(struct batch_market *b, int64_t wall_us, int64_t left_us);
/* Where nothing can be launched or woken. Comes last. */
void batch_market_stand_in(struct batch_market *b, double tokens_per_s);

/* What was decided for this market means: batch requests may take any place on machines, and are counted by those who
 * wake and launch. What stands in is not launched: nothing is gained by not waiting for the last moment. */
bool batch_market_goes(const struct batch_market *b, const struct progress_decision *d);
/* Or: cheaper hours suffice, and no machine is woken, or kept awake, for batch work. */
bool batch_market_holds(const struct progress_decision *d);
/* Who leaves by then goes wherever he can; 0: nobody. Whatever clock the decision was made by. */
int64_t batch_market_urgent_us(const struct progress_decision *d);

#endif
