/* Periods of budgets on a calendar: hour, day, week and month, from any start, in any time zone.
 *
 * Pure arithmetic. What a zone's clocks do comes in as a table (scheduler/budgets/zone.h reads the system's); no table
 * is UTC. All times are seconds since 1970 in UTC unless they are called local.
 *
 * The anchor is a local date and time at which some period begins; the others follow in both directions: a month begins
 * on the anchor's day at its time (on the last day of months that are shorter), a week on its weekday, a day at its
 * time, an hour 3,600 s after the other. So a day lasts 23 or 25 hours where clocks are changed. A local time that is
 * left out means the moment at which it is; one that comes twice means its first. */
#ifndef POLICIES_PERIOD_H
#define POLICIES_PERIOD_H

#include <stdbool.h>
#include <stdint.h>

struct zone_change {
    int64_t at_s;     /* from then on... */
    int32_t offset_s; /* ...local = UTC + this */
};
struct zone {
    const struct zone_change *changes; /* ascending */
    int n;
    int32_t offset_before_s; /* before the first */
};
int32_t zone_offset(const struct zone *z, int64_t at_s); /* z NULL: UTC */
int64_t zone_to_local(const struct zone *z, int64_t at_s);
int64_t zone_to_utc(const struct zone *z, int64_t local_s);

/* Proleptic Gregorian; days since 1970-01-01. month 1..12. */
int64_t date_to_days(int64_t year, int month, int day);
void date_from_days(int64_t days, int64_t *year, int *month, int *day);
int date_month_days(int64_t year, int month);

enum period_kind { PERIOD_HOUR, PERIOD_DAY, PERIOD_WEEK, PERIOD_MONTH };
const char *period_kind_name(enum period_kind k); /* "hour", ... */
bool period_kind_parse(const char *text, enum period_kind *k);

struct period_spec {
    enum period_kind kind;
    int64_t anchor_local_s;  /* as if local time were UTC; 0: 1970-01-01 00:00, for weeks see PERIOD_MONDAY_S */
    const struct zone *zone; /* borrowed; NULL: UTC */
};
#define PERIOD_MONDAY_S (INT64_C(4) * 86400) /* an anchor for weeks that begin on Monday */

struct period {
    int64_t start_s, end_s; /* start <= t < end */
};
/* Laws: start <= at < end; period_at(end).start == end; the same for every moment inside. */
struct period period_at(const struct period_spec *p, int64_t at_s);
/* The one before the one that begins at start_s. */
struct period period_before(const struct period_spec *p, int64_t start_s);

#endif
