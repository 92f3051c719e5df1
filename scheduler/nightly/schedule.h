/* Which nights' reports are due. Pure: a clock's reading and what was done last go in.
 *
 * A *night* is a local date: its moment is `at_s` seconds after midnight by the zone's clock (a time that the clock
 * leaves out means the moment at which it is changed, one that comes twice its first), so there is one for each date,
 * also where days have 23 or 25 hours. At it the report of the date before is due, and on the first that of the month
 * before. */
#ifndef SCHEDULER_NIGHTLY_SCHEDULE_H
#define SCHEDULER_NIGHTLY_SCHEDULE_H

#include "policies/period.h"

#define SCHEDULE_NIGHTS_MAX 31 /* that are made up */

struct schedule {
    int at_s;                /* 0..86399 */
    const struct zone *zone; /* NULL: UTC */
    bool by_day, by_month;
};
struct schedule_night {
    int64_t at_s;            /* its moment, UTC */
    char day[16], month[16]; /* what is reported then: "2026-11-28", "2026-11"; "": nothing */
};
/* The first moment after that. */
int64_t schedule_next(const struct schedule *s, int64_t after_s);
/* The nights whose moment came after done_s, the one that was done last, and not after now_s; in their order. Of more
 * than SCHEDULE_NIGHTS_MAX the newest. A done_s more than a day ahead was written by a clock that went wrong: only the
 * newest night is due then. Returns how many; *next_s is the moment of the first that is not due yet. */
int schedule_due(const struct schedule *s, int64_t done_s, int64_t now_s,
                 struct schedule_night nights[SCHEDULE_NIGHTS_MAX], int64_t *next_s);

#endif
