/* What a kilowatt-hour costs, and when: one price, prices by hour, weekday and month in a site's time zone, or a series
 * (a day-ahead market). And what a draw costs over an interval, which is how energy becomes money everywhere.
 *
 * A price is integer micro-dollars per kWh ("$0.12/kWh" is 120000); markets' prices may be below zero. One kWh is 3.6e9
 * mJ, so that a millijoule at p costs p / 3600 pico-dollars. Sums are exact (128 bits) and rounded once, at the end, to
 * the nearest pico-dollar, halves away from zero: cutting an interval in two changes the sum by a pico-dollar at most.
 *
 * Times are seconds since 1970 in UTC; microseconds where the name says so. Pure; what is pointed to is the
 * caller's. */
#ifndef POLICIES_TARIFF_H
#define POLICIES_TARIFF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/money.h"

struct zone; /* policies/period.h */

#define TARIFF_RULES_MAX         24
#define TARIFF_UUSD_MAX          INT64_C(1000000000) /* per kWh, either sign: a thousand dollars */
#define TARIFF_EVERY_DAY         0x7f
#define TARIFF_EVERY_MONTH       0xfff
#define TARIFF_MJ_PER_KWH        INT64_C(3600000000)
#define TARIFF_DAY_MINUTES       1440
#define TARIFF_SERIES_STEP_MIN_S 60

/* From `from_min` to before `to_min` local time of the days and months that are set. to_min <= from_min: past midnight,
 * until to_min of the day after (whose weekday doesn't matter: it counts as the day it began on). */
struct tariff_rule {
    uint8_t days;    /* bit 0: Monday ... bit 6: Sunday */
    uint16_t months; /* bit 0: January ... */
    int16_t from_min, to_min;
    int64_t uusd_per_kwh;
};
struct tariff {
    int64_t uusd_per_kwh;                       /* where no rule and no hour of the series says otherwise */
    struct tariff_rule rules[TARIFF_RULES_MAX]; /* the first that fits holds */
    int n_rules;
    const struct zone *zone; /* borrowed; NULL: UTC */
    /* Goes before the rules while it lasts. */
    const int64_t *series; /* borrowed; micro-dollars per kWh */
    int64_t n_series, series_from_s;
    int32_t series_step_s; /* 3600: hourly */
    bool series_repeats;   /* past its end it begins again (a typical day, week or year); else the rules hold there */
};
/* Is it well-formed? The text says which rule is not, and why. */
enum rc tariff_check(const struct tariff *t, struct error *e) SPW_MUST_USE;

int64_t tariff_at(const struct tariff *t, int64_t at_s); /* micro-dollars per kWh */
/* Until when at the latest the price is the same as at at_s: > at_s. It may stay the same for longer. */
int64_t tariff_until(const struct tariff *t, int64_t at_s);

/* A constant draw from from_us to to_us (>= from_us). What would not fit is the largest amount. */
struct pusd tariff_cost(const struct tariff *t, int64_t from_us, int64_t to_us, int64_t milliwatts);
struct pusd tariff_energy_cost(int64_t millijoules, int64_t uusd_per_kwh);

/* When to run something of length_us (> 0) that may begin at from_us and must be over by by_us: the earliest of the
 * cheapest beginnings, to the granularity of price changes; from_us where it doesn't fit. Looks at TARIFF_LOOKS_MAX
 * price changes ahead at most (a week of hours). */
#define TARIFF_LOOKS_MAX 192
int64_t tariff_cheapest_start_us(const struct tariff *t, int64_t from_us, int64_t by_us, int64_t length_us);

/* "0.12", "-0.01": dollars per kWh with at most 6 decimals. */
enum rc tariff_price_parse(const char *text, int64_t *uusd_per_kwh, struct error *e) SPW_MUST_USE;
/* "mon-fri 07:00-22:00", "sat,sun 00:00-24:00 jan-mar", "22:00-06:00": days, hours, months, in any order; what is left
 * out is all of it. Sets all of r but its price. */
enum rc tariff_when_parse(const char *text, struct tariff_rule *r, struct error *e) SPW_MUST_USE;

#endif
