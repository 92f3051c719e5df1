/* How much will be asked for: tokens (or requests) per second of one model, from its recent rate and from what the
 * week usually brings at that time, with a spread that was earned: the error of the forecasts this very struct made
 * before.
 *
 * Three simple forecasts for `h` seconds ahead,
 *   as now    the level: the rate of late (exponential average, FORECAST_LEVEL_S)
 *   trend     the level and its damped slope (Gardner & McKenzie, "Forecasting trends in time series", 1985)
 *   week      usual(then) * (level / usual(now)) ^ exp(-h / FORECAST_FADE_S), where usual() is the mean of that half
 *             hour of the week, or of the days so far where that half hour was never seen: today's deviation from the
 *             usual counts in full for the next minutes and fades over the next hours
 * are weighed by how well each has done of late at that horizon (inverse fourth power of its error; Bates &
 * Granger, "The combination of forecasts", 1969). The spread is the error of that combination so far, and never
 * less than what counting so few requests leaves open.
 *
 * Where machines are started by it, a leap of the rate is seen as one: two rates in a row that chance would not have
 * brought (more than three spreads of counting above the level) are the level from then on.
 *
 * A plain struct of the caller's (about 12 KiB), no allocation; one thread's. Time is an argument: monotonic
 * nanoseconds, and beside it the second of the local week, which is the caller's to know (time zone, daylight
 * saving). */
#ifndef POLICIES_FORECAST_H
#define POLICIES_FORECAST_H

#include <stdint.h>

#define FORECAST_WEEK_S    (7 * 86400)
#define FORECAST_WEEK_BINS 336 /* half hours */
#define FORECAST_BUCKET_S  10  /* rates are looked at every so often */
#define FORECAST_LEVEL_S   60
#define FORECAST_SLOW_S    600 /* the trend is level against this average */
#define FORECAST_FADE_S    7200
#define FORECAST_HORIZONS  4   /* 1, 5, 15, 60 minutes */
#define FORECAST_PENDING   486 /* forecasts that wait to be compared: 6 + 30 + 90 + 360 buckets */

enum forecast_model { FORECAST_AS_NOW, FORECAST_TREND, FORECAST_WEEK, FORECAST_BLEND, FORECAST_MODELS };
enum forecast_signal {
    FORECAST_TOKENS,
    FORECAST_QPS,
    FORECAST_SLOTS /* seconds for which slots are held, so that the rate is how many; the only one without leaps */
};                 /* what observe() is fed with */

struct forecast {
    enum forecast_signal signal;
    int64_t bucket_end_ns, first_ns; /* first_ns: of the first observation; -1: none yet */
    int32_t week_s;                  /* second of the week at bucket_end_ns */
    double bucket_sum;               /* in the open bucket */
    double level, slow;              /* per second */
    double rate_before;              /* of the last bucket */
    double event_mean;               /* mean amount of one observation: a request's tokens; for the noise of counting */
    /* The week. */
    double bin_mean[FORECAST_WEEK_BINS]; /* per second */
    int32_t bin_weeks[FORECAST_WEEK_BINS];
    double bin_sum, bin_s; /* the half hour under way */
    int32_t bin;
    double week_mean; /* over the bins seen */
    /* Forecasts made and how they did. */
    float pending[FORECAST_MODELS][FORECAST_PENDING];
    int32_t pending_at[FORECAST_HORIZONS];
    int64_t buckets;                                     /* closed since the start */
    double error_sq[FORECAST_MODELS][FORECAST_HORIZONS]; /* exponential mean of squared errors, (per second)^2 */
    double under_sq[FORECAST_HORIZONS];                  /* of the combination, where more came than it had said */
    int64_t error_n[FORECAST_HORIZONS];
};
struct forecast_value {
    double mean, sd; /* per second; mean >= 0 */
    double up; /* the spread upwards alone: after hours in which less came than was foreseen it is smaller than sd */
};

void forecast_init(struct forecast *f, enum forecast_signal signal);
/* `amount` (tokens, or requests; >= 0) arrived at now_ns. amount 0 only lets time pass: call it before
 * forecast_at() when nothing came for a while. A time before the last one counts as the last one. 0 <= week_s <
 * FORECAST_WEEK_S. */
void forecast_observe(struct forecast *f, int64_t now_ns, int32_t week_s, double amount);
/* As seen from the last observation. horizon_s >= 0. Before the first bucket is full: what has come so far, with a
 * spread as large as itself. */
struct forecast_value forecast_at(const struct forecast *f, double horizon_s);

#endif
