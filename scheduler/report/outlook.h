/* What the books say beyond their sums: where a month will end, what made the difference, what is unusual. Pure
 * functions of plain numbers; estimates are doubles (nothing of them is booked), differences of money are exact.
 *
 * Where the month will end. Spent so far, and for each day to come level x its weekday's factor:
 *   factor   of a weekday: median of day / mean of the seven days around it, scaled to a mean of 1; needs two whole weeks
 *   level    median of day / factor over the last 14 days
 *   noise    s = 1.4826 x MAD of (day / mean around it / factor - 1): MAD, the median absolute deviation, does not mind
 *            single days that were out of the way (Rousseeuw & Croux, J. Amer. Stat. Assoc. 88, 1993)
 *   drift    w = 1.4826 x median |week / week before - 1|: how far the level moves within a week
 * The band is the middle 80 % of a normal distribution (1.2816 standard deviations) with the variance
 *   L^2 (h s^2 + h^2 (pi/2) s^2 / 14 + w^2 h^3 / 21)        of h days to come:
 * each day's noise, the error of a median of 14, and the integral of a level that wanders (of a Wiener process, t^3 / 3, t in
 * weeks). Seasons and spread by medians: Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed. 2021,
 * 3 and 5.5.
 *
 * What made the difference. A member's amount is tokens x what a token cost on average; its change splits, by Bennet's
 * indicator (J. Royal Stat. Soc. 83, 1920; Diewert, J. Econ. Soc. Meas. 30, 2005), into
 *   volume   (p0 + p1) / 2 x (q1 - q0)        price   (q0 + q1) / 2 x (p1 - p0)
 * which add up to it exactly and are the same from either side. Who is new or gone is volume alone.
 *
 * What is unusual. Robust seasonal z-score: an hour is compared with the same hour of other weeks by their median,
 *   z = 0.6745 (x - median) / MAD,        unusual from 3.5 on (Iglewicz & Hoaglin, How to Detect and Handle Outliers, 1993)
 * where MAD is over that hour and its neighbours in each week, and no less than a share of the median. Hours in a row are
 * one event. */
#ifndef SCHEDULER_REPORT_OUTLOOK_H
#define SCHEDULER_REPORT_OUTLOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/money.h"

/* ---- where the month will end ----------------------------------------------------------------------------------------- */

#define OUTLOOK_DAYS_MAX 31 /* to come */
#define OUTLOOK_PAST_MAX 63 /* that are looked at; older ones do not count */
struct outlook {
    bool known;                 /* there are three whole days at least */
    bool weekdays;              /* there are enough for factors of weekdays */
    double expected, low, high; /* for the days to come together; low >= 0 */
    double path[OUTLOOK_DAYS_MAX], path_low[OUTLOOK_DAYS_MAX], path_high[OUTLOOK_DAYS_MAX]; /* summed up, by day */
};
/* days[0..n): whole days in order, the newest last; weekday of the first (0..6, any first day). ahead: days to come, >=
 * 0; those beyond OUTLOOK_DAYS_MAX are not reckoned. */
struct outlook outlook_month(const double *days, int n, int first_weekday, int ahead);

/* ---- what made the difference ------------------------------------------------------------------------------------------ */

struct driver {
    int member;                     /* the caller's number */
    __int128 change, volume, price; /* pico-dollars; change = volume + price */
};
/* before, now: amounts; sums of tokens likewise, >= 0. */
struct driver driver_split(int member, struct pusd_sum before, int64_t tokens_before, struct pusd_sum now,
                           int64_t tokens_now);
/* The largest change first, whichever way; ties by member. */
void driver_sort(struct driver *d, int n);

/* ---- what is unusual --------------------------------------------------------------------------------------------- */

#define ANOMALY_WEEKS_LEAST 3
#define ANOMALY_Z           3.5
struct anomaly {
    int from, until;     /* hours [from, until) */
    double spent, usual; /* over these hours */
    double z;            /* the largest of them, with its sign */
};
/* hours[0..n): amounts >= 0 by hour. Hours from `first` on are judged, each by the same hour of other weeks; with fewer
 * than ANOMALY_WEEKS_LEAST of these, not at all: *judged counts the hours that were. An event's |spent - usual| is
 * `least` or more. Returns how many of out[0..max) there are, by time; of more, the largest. */
int anomaly_find(const double *hours, int n, int first, double least, struct anomaly *out, int max, int *judged);

#endif
