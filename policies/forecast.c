#include "policies/forecast.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"

#define NS_PER_S     1000000000ll
#define BIN_GAIN_MIN 0.3  /* of a new week in a half hour's mean: about three weeks are remembered */
#define ERROR_MEMORY 24.0 /* horizons: errors are remembered for so many times what they look ahead */
#define ERROR_N_MIN  6    /* before errors are believed */
#define TREND_DAMP   0.9  /* of the trend's growth in a minute that is left for the next one */
#define GROWTH_MAX   3.0  /* by trend alone */
#define LEAP_SPREADS 3.0  /* of what chance does to a bucket's rate: two in a row so far up are no chance */
#define USUAL_FLOOR  0.05 /* of the week's mean: below it ratios mean nothing */

enum { BIN_S = FORECAST_WEEK_S / FORECAST_WEEK_BINS };
_Static_assert(FORECAST_WEEK_S % FORECAST_WEEK_BINS == 0, "a week is a whole number of them");

static const int32_t horizon_s[FORECAST_HORIZONS] = {60, 300, 900, 3600};

void forecast_init(struct forecast *f, enum forecast_signal signal)
{
    memset(f, 0, sizeof(*f));
    f->signal = signal;
    f->first_ns = -1;
    f->bin = -1;
}

/* Where the pending forecasts of horizon i begin. */
static int32_t pending_base(int32_t i)
{
    int32_t at = 0;

    for (int32_t k = 0; k < i; k++)
        at += horizon_s[k] / FORECAST_BUCKET_S;
    return at;
}

/* The mean of a half hour of the week; where it was never seen, of the same half hour of the days that were; -1: not
 * known. */
static double usual_bin(const struct forecast *f, int32_t bin)
{
    double sum = 0;
    int32_t n = 0, day = FORECAST_WEEK_BINS / 7;

    if (f->bin_weeks[bin])
        return f->bin_mean[bin];
    for (int32_t i = bin % day; i < FORECAST_WEEK_BINS; i += day)
        if (f->bin_weeks[i]) {
            sum += f->bin_mean[i];
            n++;
        }
    return n ? sum / n : -1;
}

/* The usual rate at a second of the week, between the middles of two half hours; -1: not known. */
static double usual_at(const struct forecast *f, double week_s)
{
    double at = fmod(week_s, FORECAST_WEEK_S) / BIN_S - 0.5;
    double whole = floor(at), part = at - whole;
    int32_t bin = ((int32_t)whole + FORECAST_WEEK_BINS) % FORECAST_WEEK_BINS;
    double a = usual_bin(f, bin), b = usual_bin(f, (bin + 1) % FORECAST_WEEK_BINS);

    if (a >= 0 && b >= 0)
        return a * (1 - part) + b * part;
    return part < 0.5 ? a : b;
}

/* Level and trend alone: growth that gets smaller from minute to minute. */
static double by_trend(const struct forecast *f, double h_s)
{
    double slope = (f->level - f->slow) / (FORECAST_SLOW_S - FORECAST_LEVEL_S); /* per second, per second */
    double minutes = h_s / 60, grown = (1 - pow(TREND_DAMP, minutes)) / (1 - TREND_DAMP);
    double mean = f->level + slope * 60 * grown;

    return fmin(fmax(mean, f->level / GROWTH_MAX), f->level * GROWTH_MAX);
}

/* -1: not known. */
static double by_week(const struct forecast *f, double h_s)
{
    double now = usual_at(f, f->week_s), then = usual_at(f, f->week_s + h_s);
    double floor_rate = USUAL_FLOOR * f->week_mean;

    if (now < 0 || then < 0 || floor_rate <= 0)
        return -1;
    /* The floor is added to all three, so that a quiet night's noise isn't carried into the morning as a factor. */
    double today = (f->level + floor_rate) / (now + floor_rate);
    return fmax((then + floor_rate) * pow(today, exp(-h_s / FORECAST_FADE_S)) - floor_rate, 0);
}

/* The horizon whose errors speak for h_s. */
static int32_t nearest_horizon(const struct forecast *f, double h_s)
{
    int32_t best = -1;

    for (int32_t i = 0; i < FORECAST_HORIZONS; i++)
        if (f->error_n[i] >= ERROR_N_MIN &&
            (best < 0 || fabs(log((h_s + 1) / horizon_s[i])) < fabs(log((h_s + 1) / horizon_s[best]))))
            best = i;
    return best;
}

/* All models' forecasts, the combination last. A model that knows nothing says what "as now" says, and weighs
 * nothing. */
static void all_at(const struct forecast *f, double h_s, double out[FORECAST_MODELS])
{
    int32_t h = nearest_horizon(f, h_s);
    double week = by_week(f, h_s), weights = 0, sum = 0;

    out[FORECAST_AS_NOW] = f->level;
    out[FORECAST_TREND] = by_trend(f, h_s);
    out[FORECAST_WEEK] = week < 0 ? f->level : week;
    for (int32_t m = 0; m < FORECAST_BLEND; m++) {
        double floor_sq = 1e-6 * f->level * f->level + 1e-12, error = h < 0 ? 1 : f->error_sq[m][h] + floor_sq;
        double weight = m == FORECAST_WEEK && week < 0 ? 0 : 1 / (error * error);
        weights += weight;
        sum += weight * out[m];
    }
    out[FORECAST_BLEND] = sum / weights;
}

/* --- the clock: buckets close ---------------------------------------------------------------------------------- */

static void close_bin(struct forecast *f)
{
    if (f->bin >= 0 && f->bin_s >= BIN_S * 0.5) { /* half of a half hour says enough */
        double rate = f->bin_sum / f->bin_s, *mean = &f->bin_mean[f->bin];
        int32_t weeks = ++f->bin_weeks[f->bin];
        *mean += (rate - *mean) * fmax(1.0 / weeks, BIN_GAIN_MIN);
        double sum = 0;
        int32_t n = 0;
        for (int32_t i = 0; i < FORECAST_WEEK_BINS; i++)
            if (f->bin_weeks[i]) {
                sum += f->bin_mean[i];
                n++;
            }
        f->week_mean = sum / n;
    }
    f->bin_sum = f->bin_s = 0;
}

/* What was said of this moment a horizon ago, against what came; and what is said now of a horizon ahead. */
static void compare_pending(struct forecast *f)
{
    for (int32_t i = 0; i < FORECAST_HORIZONS; i++) {
        int32_t size = horizon_s[i] / FORECAST_BUCKET_S, at = pending_base(i) + f->pending_at[i];
        bool due = f->buckets > size;
        double said[FORECAST_MODELS], gain;
        f->error_n[i] += due;
        gain = fmax(1.0 / (double)(f->error_n[i] + !due), (double)FORECAST_BUCKET_S / (ERROR_MEMORY * horizon_s[i]));
        for (int32_t m = 0; m < FORECAST_MODELS && due; m++) {
            double miss = f->level - (double)f->pending[m][at];
            f->error_sq[m][i] += (miss * miss - f->error_sq[m][i]) * gain;
            if (m == FORECAST_BLEND)
                f->under_sq[i] += ((miss > 0 ? miss * miss : 0) - f->under_sq[i]) * gain;
        }
        all_at(f, horizon_s[i], said);
        for (int32_t m = 0; m < FORECAST_MODELS; m++)
            f->pending[m][at] = (float)said[m];
        f->pending_at[i] = (f->pending_at[i] + 1) % size;
    }
}

/* A step: two buckets in a row are so far above the level that was as chance would hardly bring them. The level goes
 * there at once, where an average would take minutes in which nobody starts a machine, and the slow average with it,
 * since a step is no trend. Upwards alone: who keeps machines for a minute too long pays a minute, who starts them too
 * late is late. */
static void leap(struct forecast *f, double level_before, double rate)
{
    double chance = sqrt(2 * f->event_mean * level_before / FORECAST_BUCKET_S); /* as in forecast_at() */
    bool known = f->buckets > FORECAST_LEVEL_S / FORECAST_BUCKET_S;

    if (f->signal != FORECAST_SLOTS && known && fmin(rate, f->rate_before) > level_before + LEAP_SPREADS * chance) {
        f->level = (rate + f->rate_before) / 2;
        f->slow += f->level - level_before;
    }
    f->rate_before = rate;
}

static void close_bucket(struct forecast *f)
{
    double rate = f->bucket_sum / FORECAST_BUCKET_S;
    double n = (double)++f->buckets, level_before = f->level;
    int32_t bin = f->week_s / BIN_S;

    /* While younger than their time constants the averages are plain means: no start from zero. */
    f->level += (rate - f->level) * fmax(1 - exp(-(double)FORECAST_BUCKET_S / FORECAST_LEVEL_S), 1 / n);
    f->slow += (rate - f->slow) * fmax(1 - exp(-(double)FORECAST_BUCKET_S / FORECAST_SLOW_S), 1 / n);
    leap(f, level_before, rate);
    if (bin != f->bin) {
        close_bin(f);
        f->bin = bin;
    }
    f->bin_sum += f->bucket_sum;
    f->bin_s += FORECAST_BUCKET_S;
    f->bucket_sum = 0;
    compare_pending(f);
}

/* A gap so long that nothing kept of late still means anything; the week is remembered. */
static void restart_after_gap(struct forecast *f, int64_t now_ns, int32_t week_s)
{
    close_bin(f);
    f->bucket_end_ns = now_ns + FORECAST_BUCKET_S * NS_PER_S;
    f->week_s = week_s;
    f->bin = -1;
    f->level = f->slow = f->bucket_sum = 0;
    f->buckets = FORECAST_SLOW_S / FORECAST_BUCKET_S; /* known to be silent, not unknown */
    memset(f->pending, 0, sizeof(f->pending));
}

void forecast_observe(struct forecast *f, int64_t now_ns, int32_t week_s, double amount)
{
    SPW_ASSERT(week_s >= 0 && week_s < FORECAST_WEEK_S);
    if (f->first_ns < 0) {
        f->first_ns = now_ns;
        f->bucket_end_ns = now_ns + FORECAST_BUCKET_S * NS_PER_S;
        f->week_s = week_s;
    }
    if (now_ns - f->bucket_end_ns > 2 * 3600 * NS_PER_S)
        restart_after_gap(f, now_ns, week_s);
    while (now_ns >= f->bucket_end_ns) {
        int64_t behind_s = (now_ns - f->bucket_end_ns) / NS_PER_S;
        f->week_s = (int32_t)((week_s - behind_s % FORECAST_WEEK_S + FORECAST_WEEK_S) % FORECAST_WEEK_S);
        close_bucket(f);
        f->bucket_end_ns += FORECAST_BUCKET_S * NS_PER_S;
    }
    if (amount > 0) {
        f->bucket_sum += amount;
        f->event_mean += (amount - f->event_mean) * (f->event_mean > 0 ? 0.01 : 1);
    }
}

/* --- the answer -------------------------------------------------------------------------------------------------- */

/* The error kept at the horizon, between the two nearest that have one; past the last it grows with the root of
 * time, as a walk's would. -1: none yet. */
static double error_at(const struct forecast *f, const double kept[FORECAST_HORIZONS], double h_s)
{
    int32_t below = -1, above = -1;

    for (int32_t i = 0; i < FORECAST_HORIZONS; i++) {
        if (f->error_n[i] < ERROR_N_MIN)
            continue;
        if (horizon_s[i] <= h_s)
            below = i;
        else if (above < 0)
            above = i;
    }
    if (below < 0 && above < 0)
        return -1;
    if (above < 0)
        return kept[below] * fmax(h_s / horizon_s[below], 1);
    if (below < 0)
        return kept[above];
    double part = (h_s - horizon_s[below]) / (horizon_s[above] - horizon_s[below]);
    return kept[below] * (1 - part) + kept[above] * part;
}

struct forecast_value forecast_at(const struct forecast *f, double h_s)
{
    struct forecast_value v = {0};

    SPW_ASSERT(h_s >= 0);
    if (f->first_ns < 0)
        return v;
    if (f->buckets == 0) { /* the first bucket isn't full yet: what has come is a lower bound of what it will hold */
        v.mean = v.sd = v.up = f->bucket_sum / FORECAST_BUCKET_S;
        return v;
    }
    double said[FORECAST_MODELS];
    all_at(f, h_s, said);
    v.mean = said[FORECAST_BLEND];
    /* Counting: events of mean size m at rate v.mean/m, averaged over about two time constants, with sizes that
     * vary as much as they are large (factor 2). */
    double counting = 2 * f->event_mean * v.mean / (2 * FORECAST_LEVEL_S);
    double error = error_at(f, f->error_sq[FORECAST_BLEND], h_s), under = 2 * error_at(f, f->under_sq, h_s);
    if (error < 0) /* nothing to go by: a quarter, and more the further ahead */
        error = under = v.mean * v.mean * 0.0625 * fmax(h_s / 300, 1);
    v.sd = sqrt(fmax(counting, error));
    v.up = sqrt(fmax(counting, under)); /* half of all errors are upward ones where they are symmetric */
    return v;
}
