#include "policies/period.h"

#include <string.h>

#define DAY_S INT64_C(86400)

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* ---- dates ------------------------------------------------------------------------------------------------------ */

/* Both after H. Hinnant, "chrono-compatible low-level date algorithms": years that begin in March, eras of 400 years. */
int64_t date_to_days(int64_t year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = floor_div(y, 400), of_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

void date_from_days(int64_t days, int64_t *year, int *month, int *day)
{
    int64_t z = days + 719468, era = floor_div(z, 146097), of_era = z - era * 146097;
    int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * y + y / 4 - y / 100), m = (5 * of_year + 2) / 153;
    *day = (int)(of_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = y + era * 400 + (*month <= 2);
}

int date_month_days(int64_t year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* ---- zones ------------------------------------------------------------------------------------------------------ */

/* How many changes have come by then. */
static int changes_until(const struct zone *z, int64_t at_s)
{
    int low = 0, high = z->n;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (z->changes[middle].at_s <= at_s)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int32_t offset_after(const struct zone *z, int n)
{
    return n ? z->changes[n - 1].offset_s : z->offset_before_s;
}

int32_t zone_offset(const struct zone *z, int64_t at_s)
{
    return z ? offset_after(z, changes_until(z, at_s)) : 0;
}

int64_t zone_to_local(const struct zone *z, int64_t at_s)
{
    return at_s + zone_offset(z, at_s);
}

/* The first moment whose local time is at least that: the times that are left out fall on the change, of those that
 * come twice the first counts. Offsets are within a day of zero, so only changes within two days of it matter. */
int64_t zone_to_utc(const struct zone *z, int64_t local_s)
{
    if (!z)
        return local_s;
    for (int i = changes_until(z, local_s - 2 * DAY_S);; i++) {
        int64_t from = i ? z->changes[i - 1].at_s : INT64_MIN;
        int64_t at = local_s - offset_after(z, i);
        if (i && at < from)
            return from;
        if (i == z->n || at < z->changes[i].at_s)
            return at;
    }
}

/* ---- periods ---------------------------------------------------------------------------------------------------- */

static const char *const names[] = {"hour", "day", "week", "month"};

const char *period_kind_name(enum period_kind k)
{
    return names[k];
}

bool period_kind_parse(const char *text, enum period_kind *k)
{
    for (int i = 0; i <= PERIOD_MONTH; i++) {
        if (strcmp(text, names[i]) == 0) {
            *k = (enum period_kind)i;
            return true;
        }
    }
    return false;
}

/* Where the period number i (any; 0 begins at the anchor) begins, in UTC. */
static int64_t start_of(const struct period_spec *p, int64_t i)
{
    int64_t a = p->anchor_local_s, year, days = floor_div(a, DAY_S);
    int month, day;
    switch (p->kind) {
    case PERIOD_HOUR: return zone_to_utc(p->zone, a) + i * 3600;
    case PERIOD_DAY: return zone_to_utc(p->zone, a + i * DAY_S);
    case PERIOD_WEEK: return zone_to_utc(p->zone, a + i * 7 * DAY_S);
    case PERIOD_MONTH: break;
    }
    date_from_days(days, &year, &month, &day);
    int64_t months = year * 12 + month - 1 + i;
    year = floor_div(months, 12);
    month = (int)(months - year * 12) + 1;
    int last = date_month_days(year, month);
    return zone_to_utc(p->zone, date_to_days(year, month, day < last ? day : last) * DAY_S + (a - days * DAY_S));
}

/* At most one off, for what zones and short months do. */
static int64_t guess(const struct period_spec *p, int64_t at_s)
{
    int64_t local = zone_to_local(p->zone, at_s), a = p->anchor_local_s, y0, y1;
    int m0, m1, day;
    switch (p->kind) {
    case PERIOD_HOUR: return floor_div(at_s - zone_to_utc(p->zone, a), 3600);
    case PERIOD_DAY: return floor_div(local - a, DAY_S);
    case PERIOD_WEEK: return floor_div(local - a, 7 * DAY_S);
    case PERIOD_MONTH: break;
    }
    date_from_days(floor_div(a, DAY_S), &y0, &m0, &day);
    date_from_days(floor_div(local, DAY_S), &y1, &m1, &day);
    return (y1 - y0) * 12 + m1 - m0;
}

struct period period_at(const struct period_spec *p, int64_t at_s)
{
    int64_t i = guess(p, at_s);
    while (start_of(p, i) > at_s)
        i--;
    while (start_of(p, i + 1) <= at_s)
        i++;
    return (struct period){start_of(p, i), start_of(p, i + 1)};
}

struct period period_before(const struct period_spec *p, int64_t start_s)
{
    return period_at(p, start_s - 1);
}
