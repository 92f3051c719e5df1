#include "base/clock.h"

#include <string.h>
#include <time.h>

#define WALL_TEXT_BYTES 25 /* "2025-11-24T16:00:01.000Z" */

static int64_t read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static struct mono system_now(void *state)
{
    (void)state;
    return (struct mono){read_clock(CLOCK_MONOTONIC)};
}

static struct wall system_wall(void *state)
{
    (void)state;
    return (struct wall){read_clock(CLOCK_REALTIME)};
}

static const struct clock_ops system_ops = {.now = system_now, .wall = system_wall};
const struct clock clock_system = {.ops = &system_ops};

static int64_t scaled_elapsed(const struct clock_scaled *s)
{
    return (int64_t)((double)(clock_now(s->base).ns - s->mono0.ns) * s->factor);
}

static struct mono scaled_now(void *state)
{
    const struct clock_scaled *s = state;
    return (struct mono){s->mono0.ns + scaled_elapsed(s)};
}

static struct wall scaled_wall(void *state)
{
    const struct clock_scaled *s = state;
    return (struct wall){s->wall0.ns + scaled_elapsed(s)};
}

struct clock clock_scale(struct clock_scaled *storage, const struct clock *base, double factor)
{
    static const struct clock_ops ops = {.now = scaled_now, .wall = scaled_wall};
    *storage =
        (struct clock_scaled){.base = base, .factor = factor, .mono0 = clock_now(base), .wall0 = clock_wall(base)};
    return (struct clock){.ops = &ops, .state = storage};
}

static struct mono manual_now(void *state)
{
    return ((struct clock_manual *)state)->mono;
}

static struct wall manual_wall(void *state)
{
    return ((struct clock_manual *)state)->wall;
}

struct clock clock_manual(struct clock_manual *storage)
{
    static const struct clock_ops ops = {.now = manual_now, .wall = manual_wall};
    return (struct clock){.ops = &ops, .state = storage};
}

void clock_advance(struct clock_manual *storage, int64_t ns)
{
    storage->mono.ns += ns;
    storage->wall.ns += ns;
}

/* Two digits. */
static char *put2(char *at, int v)
{
    at[0] = (char)('0' + v / 10);
    at[1] = (char)('0' + v % 10);
    return at + 2;
}

/* Day 0 is 1970-01-01 (proleptic Gregorian). Source: H. Hinnant, "chrono-compatible low-level date algorithms",
 * civil_from_days: years that begin in March put the leap day last. */
static void civil_of_day(int64_t day, int64_t *year, int *month, int *mday)
{
    day += 719468;
    int64_t era = (day >= 0 ? day : day - 146096) / 146097;
    int64_t of_era = day - era * 146097;
    int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * y + y / 4 - y / 100);
    int64_t m = (5 * of_year + 2) / 153;
    *mday = (int)(of_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = y + era * 400 + (*month <= 2);
}

/* By hand: a log line has one, and printf with gmtime costs more than the rest of the line. */
char *wall_format(struct wall w, char *buf, size_t size)
{
    int64_t seconds = w.ns / NS_PER_S, rest = w.ns % NS_PER_S, year;
    char text[WALL_TEXT_BYTES], *at = text;
    int month, mday;

    if (rest < 0) {
        rest += NS_PER_S;
        seconds--;
    }
    int64_t day = seconds >= 0 ? seconds / 86400 : -((86399 - seconds) / 86400);
    int second = (int)(seconds - day * 86400), ms = (int)(rest / NS_PER_MS);
    civil_of_day(day, &year, &month, &mday); /* 64 bits of nanoseconds: years 1677 to 2262 */
    at = put2(at, (int)(year / 100));
    at = put2(at, (int)(year % 100));
    *at++ = '-';
    at = put2(at, month);
    *at++ = '-';
    at = put2(at, mday);
    *at++ = 'T';
    at = put2(at, second / 3600);
    *at++ = ':';
    at = put2(at, second / 60 % 60);
    *at++ = ':';
    at = put2(at, second % 60);
    *at++ = '.';
    *at++ = (char)('0' + ms / 100);
    at = put2(at, ms % 100);
    memcpy(at, "Z", 2);
    if (size) {
        size_t n = sizeof text < size ? sizeof text : size;
        memcpy(buf, text, n);
        buf[n - 1] = '\0';
    }
    return buf;
}
