#include "scheduler/nightly/schedule.h"

#include <stdio.h>

#define DAY_S INT64_C(86400)

static int64_t local_day(const struct schedule *s, int64_t at_s)
{
    const int64_t local = zone_to_local(s->zone, at_s);
    return local / DAY_S - (local % DAY_S < 0);
}

static int64_t moment(const struct schedule *s, int64_t day)
{
    return zone_to_utc(s->zone, day * DAY_S + s->at_s);
}

int64_t schedule_next(const struct schedule *s, int64_t after_s)
{
    int64_t day = local_day(s, after_s) - 1;
    while (moment(s, day) <= after_s)
        day++;
    return moment(s, day);
}

static struct schedule_night night_of(const struct schedule *s, int64_t at_s)
{
    struct schedule_night n = {.at_s = at_s};
    const int64_t before = local_day(s, at_s) - 1;
    int64_t year;
    int month, day;
    date_from_days(before, &year, &month, &day);
    if (s->by_day)
        snprintf(n.day, sizeof n.day, "%04d-%02d-%02d", (int)year % 10000, month, day);
    if (s->by_month && day == date_month_days(year, month))
        snprintf(n.month, sizeof n.month, "%04d-%02d", (int)year % 10000, month);
    return n;
}

int schedule_due(const struct schedule *s, int64_t done_s, int64_t now_s,
                 struct schedule_night nights[SCHEDULE_NIGHTS_MAX], int64_t *next_s)
{
    int n = 0;
    int64_t at = done_s;
    if (done_s > now_s + DAY_S)
        at = now_s - DAY_S;
    if (at < now_s - (SCHEDULE_NIGHTS_MAX + 1) * DAY_S)
        at = now_s - (SCHEDULE_NIGHTS_MAX + 1) * DAY_S;
    while ((at = schedule_next(s, at)) <= now_s) {
        if (n == SCHEDULE_NIGHTS_MAX)
            for (int i = 1; i < n; i++)
                nights[i - 1] = nights[i];
        n -= n == SCHEDULE_NIGHTS_MAX;
        nights[n++] = night_of(s, at);
    }
    if (done_s > now_s + DAY_S && n > 1) { /* clocks that are changed: a day may hold two */
        nights[0] = nights[n - 1];
        n = 1;
    }
    *next_s = at;
    return n;
}
