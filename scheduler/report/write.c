#include "scheduler/report/write.h"

#include <inttypes.h>
#include <string.h>

const char *const write_saving_names[REPORT_SAVINGS] = {"all by API", "all on demand", "spot", "cache"};

char *write_utc(int64_t at_s, char buf[WRITE_TIME])
{
    char text[32];
    wall_format((struct wall){at_s * NS_PER_S}, text, sizeof text);
    snprintf(buf, WRITE_TIME, "%.19sZ", text);
    return buf;
}

/* The date on which it begins there: an hour later it is the same day, and a day's first hour may begin at half past. */
char *write_day(const struct report *r, int day, char buf[WRITE_TIME])
{
    char text[32];
    wall_format((struct wall){r->days[day].local_s * NS_PER_S}, text, sizeof text);
    snprintf(buf, WRITE_TIME, "%.10s", text);
    return buf;
}

/* Digits with a comma before each group of three. */
static char *grouped(unsigned __int128 v, char *end)
{
    char *p = end;
    int n = 0;
    *--p = '\0';
    do {
        if (n && n % 3 == 0)
            *--p = ',';
        *--p = (char)('0' + (int)(v % 10));
        v /= 10;
        n++;
    } while (v);
    return p;
}

const char *write_hours_are(int64_t n)
{
    return n == 1 ? "hour is" : "hours are";
}

char *write_count(int64_t n, char buf[WRITE_TIME])
{
    char text[48];
    const unsigned __int128 v = n < 0 ? -(__int128)n : n;
    snprintf(buf, WRITE_TIME, "%s%s", n < 0 ? "-" : "", grouped(v, text + sizeof text));
    return buf;
}

/* Places behind the point: two from a dollar on, else so many that three digits show, at most nine. */
static int places(unsigned __int128 pusd)
{
    int n = 2;
    for (unsigned __int128 edge = 1000000000000; n < 9 && pusd && pusd < edge; edge /= 10)
        n++;
    return n;
}

char *write_money(struct pusd_sum a, char buf[WRITE_MONEY])
{
    char text[64];
    unsigned __int128 v = a.v < 0 ? (unsigned __int128)-a.v : (unsigned __int128)a.v, unit = 1;
    const int n = places(v);
    for (int i = n; i < 12; i++)
        unit *= 10;
    v = (v + unit / 2) / unit;
    unsigned __int128 one = 1;
    for (int i = 0; i < n; i++)
        one *= 10;
    snprintf(buf, WRITE_MONEY, "%s$ %s.%0*" PRIu64, a.v < 0 && v ? "-" : "", grouped(v / one, text + sizeof text), n,
             (uint64_t)(v % one));
    return buf;
}

char *write_closed_up(const char *text, char *buf, size_t size)
{
    static const char minus[] = "\u2212";
    char *to = buf;

    for (; *text && to + sizeof minus < buf + size; text++) {
        if (*text == '-' && to == buf)
            to = stpcpy(to, minus);
        else if (*text != ' ')
            *to++ = *text;
    }
    *to = '\0';
    return buf;
}

char *write_percent(int64_t ppm, bool with_sign, char buf[WRITE_TIME])
{
    const int64_t tenths = (ppm < 0 ? -ppm : ppm) / 1000 + ((ppm < 0 ? -ppm : ppm) % 1000 >= 500);
    snprintf(buf, WRITE_TIME, "%s%" PRId64 ".%d %%",
             ppm < 0 && tenths ? "-"
             : with_sign       ? "+"
                               : "",
             tenths / 10, (int)(tenths % 10));
    return buf;
}

char *write_kwh(int64_t millijoules, char buf[WRITE_TIME])
{
    char text[WRITE_TIME];
    const int64_t tenths = millijoules / 360000000 + (millijoules % 360000000 >= 180000000);
    snprintf(buf, WRITE_TIME, "%.22s.%d kWh", write_count(tenths / 10, text), (int)(tenths % 10));
    return buf;
}

int64_t write_change(struct pusd_sum now, struct pusd_sum before, bool *known)
{
    *known = before.v > 0;
    return *known ? report_ppm((struct pusd_sum){now.v - before.v}, before) : 0;
}
