/* Words for a period, and the period before it. */
#include <string.h>

#include "base/text.h"
#include "scheduler/report/gather.h"

enum unit { DAY, MONTH };
struct date {
    enum unit unit;
    int64_t year;
    int month, day;
};

static bool digits(const char *p, size_t n, int64_t lo, int64_t hi, int64_t *v)
{
    char buf[8];
    if (n >= sizeof buf || strspn(p, "0123456789") < n)
        return false;
    memcpy(buf, p, n);
    buf[n] = '\0';
    return text_parse_int(buf, lo, hi, v) == RC_OK;
}

/* "2026-11" or "2026-11-28", of n bytes. */
static bool parse_date(const char *text, size_t n, struct date *d)
{
    int64_t month, day = 1;
    if ((n != 7 && n != 10) || !digits(text, 4, 1970, 9999, &d->year) || text[4] != '-' ||
        !digits(text + 5, 2, 1, 12, &month))
        return false;
    d->month = (int)month;
    d->unit = n == 7 ? MONTH : DAY;
    if (d->unit == DAY && (text[7] != '-' || !digits(text + 8, 2, 1, date_month_days(d->year, d->month), &day)))
        return false;
    d->day = (int)day;
    return true;
}

/* Its beginning in the zone, at the first whole hour: closed hours are of UTC. */
static int64_t begins(const struct date *d, const struct zone *zone)
{
    const int64_t at = zone_to_utc(zone, date_to_days(d->year, d->month, d->day) * 86400);
    return (at + GATHER_HOUR_S - 1) / GATHER_HOUR_S * GATHER_HOUR_S;
}

static struct date moved(const struct date *d, int by)
{
    struct date to = *d;
    if (d->unit == DAY) {
        date_from_days(date_to_days(d->year, d->month, d->day) + by, &to.year, &to.month, &to.day);
    } else {
        const int64_t months = d->year * 12 + d->month - 1 + by;
        to.year = months / 12;
        to.month = (int)(months % 12) + 1;
    }
    return to;
}

static void date_text(const struct date *d, char *buf, size_t size)
{
    if (d->unit == MONTH)
        snprintf(buf, size, "%04d-%02d", (int)d->year % 10000, d->month);
    else
        snprintf(buf, size, "%04d-%02d-%02d", (int)d->year % 10000, d->month, d->day);
}

static struct date today(const struct zone *zone, int64_t now_s, enum unit unit)
{
    struct date d = {.unit = unit};
    const int64_t local = zone_to_local(zone, now_s);
    date_from_days(local / 86400, &d.year, &d.month, &d.day);
    if (unit == MONTH)
        d.day = 1;
    return d;
}

/* A and B of "A..B", or of a word. */
static bool parse_span(const char *text, const struct zone *zone, int64_t now_s, struct date *a, struct date *b)
{
    const char *dots = strstr(text, "..");
    const size_t n = strlen(text);
    if (dots)
        return parse_date(text, (size_t)(dots - text), a) && parse_date(dots + 2, strlen(dots + 2), b) &&
               a->unit == b->unit;
    if (strcmp(text, "today") == 0)
        *a = today(zone, now_s, DAY);
    else if (strcmp(text, "month") == 0)
        *a = today(zone, now_s, MONTH);
    else if (strcmp(text, "yesterday") == 0)
        *a = today(zone, now_s, DAY), *a = moved(a, -1);
    else if (!parse_date(text, n, a))
        return false;
    *b = moved(a, 1);
    return true;
}

/* How far it lies before: as many days or months. */
static int64_t before(const struct date *a, const struct date *b, const struct zone *zone)
{
    const struct date *const both[] = {a, b};
    int64_t at[2];
    for (int i = 0; i < 2; i++)
        at[i] = a->unit == MONTH ? both[i]->year * 12 + both[i]->month
                                 : date_to_days(both[i]->year, both[i]->month, both[i]->day);
    const struct date d = moved(a, -(int)(at[1] - at[0]));
    return begins(&d, zone);
}

enum rc report_period_parse(const char *text, const struct zone *zone, int64_t now_s, struct report_period *p,
                            struct error *e)
{
    struct date a, b;
    char from[16], until[16];
    if (!parse_span(text, zone, now_s, &a, &b))
        return error_set(e, RC_INVALID,
                         "--period: \"%.60s\" is none of yesterday, today, month, 2026-11, 2026-11-28 and"
                         " 2026-11-01..2026-11-08 (from the beginning of the one to the beginning of the other)",
                         text);
    *p = (struct report_period){.from_s = begins(&a, zone), .until_s = begins(&b, zone)};
    date_text(&a, from, sizeof from);
    date_text(&b, until, sizeof until);
    if (p->until_s <= p->from_s)
        return error_set(e, RC_INVALID, "--period: %s does not come before %s", from, until);
    const int64_t now = now_s / GATHER_HOUR_S * GATHER_HOUR_S;
    const bool cut = now < p->until_s;
    p->until_s = cut ? now : p->until_s;
    if (p->until_s <= p->from_s)
        return error_set(e, RC_INVALID, "of %s no hour is over yet", from); /* a page may say so, too */
    p->before_s = before(&a, &b, zone);
    p->before_until_s =
        cut && p->before_s + p->until_s - p->from_s < p->from_s ? p->before_s + p->until_s - p->from_s : p->from_s;
    snprintf(p->name, sizeof p->name, "%s%s%s", from, strstr(text, "..") ? ".." : "", strstr(text, "..") ? until : "");
    return RC_OK;
}
