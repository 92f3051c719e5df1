#include "scheduler/budgets/zone.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"

#define FOLDER         "/usr/share/zoneinfo"
#define FILE_BYTES_MAX 65536
#define CHANGES_MAX    4096
#define LAST_YEAR      2100
#define DAY_S          INT64_C(86400)

struct builder {
    struct zone *z;
    struct zone_change *changes;
};

static void push(struct builder *b, int64_t at_s, int32_t offset_s)
{
    if (b->z->n < CHANGES_MAX && (!b->z->n || b->changes[b->z->n - 1].at_s < at_s))
        b->changes[b->z->n++] = (struct zone_change){at_s, offset_s};
}

/* ---- the rule at the end: POSIX TZ, as "CET-1CEST,M3.5.0,M10.5.0/3" ---------------------------------------------- */

struct rule_date {
    char kind; /* 'M', 'J', or 'D' for a day from 0 */
    int month, week, day;
    int64_t time_s;
};
struct rule {
    int32_t standard_s, summer_s; /* offsets east */
    bool summer;
    struct rule_date from, to;
};

static bool skip_name(const char **p)
{
    const char *at = *p;
    if (*at == '<') {
        const char *end = strchr(at, '>');
        *p = end ? end + 1 : at;
        return end != NULL;
    }
    while ((*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z'))
        at++;
    bool any = at - *p >= 3;
    *p = at;
    return any;
}

static bool number(const char **p, int most, int *v)
{
    const char *at = *p;
    for (*v = 0; *at >= '0' && *at <= '9' && *v <= most; at++)
        *v = *v * 10 + (*at - '0');
    bool any = at != *p && *v <= most;
    *p = at;
    return any;
}

/* [+-]hh[:mm[:ss]], in seconds */
static bool hms(const char **p, int64_t *s)
{
    int sign = 1, h, m = 0, sec = 0;
    if (**p == '-' || **p == '+')
        sign = *(*p)++ == '-' ? -1 : 1;
    if (!number(p, 167, &h))
        return false;
    if (**p == ':' && ((*p)++, !number(p, 59, &m)))
        return false;
    if (**p == ':' && ((*p)++, !number(p, 59, &sec)))
        return false;
    *s = sign * (h * INT64_C(3600) + m * 60 + sec);
    return true;
}

static bool rule_date(const char **p, struct rule_date *d)
{
    bool good = *(*p)++ == ',';
    d->kind = 'D';
    if (good && (**p == 'M' || **p == 'J'))
        d->kind = *(*p)++;
    if (d->kind == 'M') {
        good = good && number(p, 12, &d->month) && d->month && *(*p)++ == '.';
        good = good && number(p, 5, &d->week) && d->week && *(*p)++ == '.' && number(p, 6, &d->day);
    } else {
        good = good && number(p, 366, &d->day);
    }
    d->time_s = 7200;
    if (good && **p == '/')
        good = ((*p)++, hms(p, &d->time_s));
    return good;
}

static bool rule_parse(const char *p, struct rule *r)
{
    int64_t s;
    *r = (struct rule){0};
    if (!skip_name(&p) || !hms(&p, &s))
        return false;
    r->standard_s = (int32_t)-s;
    if (!*p)
        return true;
    if (!skip_name(&p))
        return false;
    r->summer = true;
    r->summer_s = r->standard_s + 3600;
    if (*p != ',') {
        if (!hms(&p, &s))
            return false;
        r->summer_s = (int32_t)-s;
    }
    return rule_date(&p, &r->from) && rule_date(&p, &r->to) && !*p;
}

/* Local seconds at which it is, by the clock that is in force before. */
static int64_t rule_moment(const struct rule_date *d, int64_t year)
{
    int64_t first = date_to_days(year, 1, 1), days;
    if (d->kind == 'M') {
        int64_t month = date_to_days(year, d->month, 1);
        int weekday = (int)(((month + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
        days = (d->day - weekday + 7) % 7 + (d->week - 1) * 7;
        while (days >= date_month_days(year, d->month))
            days -= 7;
        days += month;
    } else if (d->kind == 'J') { /* 1..365, never February 29 */
        days = first + d->day - 1 + (date_month_days(year, 2) == 29 && d->day >= 60);
    } else {
        days = first + d->day;
    }
    return days * DAY_S + d->time_s;
}

static void rule_apply(struct builder *b, const struct rule *r)
{
    int64_t year = 1970;
    int month, day;
    if (b->z->n)
        date_from_days(b->changes[b->z->n - 1].at_s / DAY_S, &year, &month, &day);
    else
        b->z->offset_before_s = r->standard_s;
    for (; r->summer && year <= LAST_YEAR; year++) {
        int64_t on = rule_moment(&r->from, year) - r->standard_s, off = rule_moment(&r->to, year) - r->summer_s;
        if (on < off) {
            push(b, on, r->summer_s);
            push(b, off, r->standard_s);
        } else {
            push(b, off, r->standard_s);
            push(b, on, r->summer_s);
        }
    }
}

/* ---- the file: RFC 8536 ------------------------------------------------------------------------------------------ */

struct header {
    uint32_t isut, isstd, leap, times, types, chars;
};
#define HEADER_BYTES 44

static int64_t big_endian(const unsigned char *p, int bytes)
{
    uint64_t v = p[0] & 0x80 ? ~UINT64_C(0) : 0;
    for (int i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return (int64_t)v;
}

static bool read_header(const unsigned char *p, size_t n, struct header *h)
{
    if (n < HEADER_BYTES || memcmp(p, "TZif", 4) != 0)
        return false;
    uint32_t v[6];
    for (int i = 0; i < 6; i++) {
        v[i] = (uint32_t)big_endian(p + 20 + 4 * i, 4);
        if (v[i] > FILE_BYTES_MAX)
            return false;
    }
    *h = (struct header){v[0], v[1], v[2], v[3], v[4], v[5]};
    return h->types > 0;
}

static size_t data_bytes(const struct header *h, int time_bytes)
{
    return (size_t)h->times * ((size_t)time_bytes + 1) + (size_t)h->types * 6 + h->chars +
           (size_t)h->leap * ((size_t)time_bytes + 4) + h->isstd + h->isut;
}

static bool read_data(struct builder *b, const unsigned char *p, const struct header *h)
{
    const unsigned char *index = p + (size_t)h->times * 8, *types = index + h->times;
    b->z->offset_before_s = (int32_t)big_endian(types, 4);
    for (uint32_t i = 0; i < h->times; i++) {
        if (index[i] >= h->types)
            return false;
        int64_t offset = big_endian(types + 6 * (size_t)index[i], 4);
        if (offset < -DAY_S || offset > DAY_S)
            return false;
        push(b, big_endian(p + 8 * (size_t)i, 8), (int32_t)offset);
    }
    return true;
}

static bool read_footer(struct builder *b, const unsigned char *p, size_t n)
{
    char text[128];
    struct rule rule;
    const unsigned char *end = n > 1 && p[0] == '\n' ? memchr(p + 1, '\n', n - 1) : NULL;
    if (!end || (size_t)(end - p) > sizeof text)
        return false;
    size_t bytes = (size_t)(end - p) - 1;
    memcpy(text, p + 1, bytes);
    text[bytes] = '\0';
    if (!bytes)
        return true;
    if (!rule_parse(text, &rule))
        return false;
    rule_apply(b, &rule);
    return true;
}

static bool read_file(struct builder *b, const unsigned char *p, size_t n)
{
    struct header h;
    if (!read_header(p, n, &h) || p[4] < '2') /* version 1 ends in 2038, and nobody writes it any more */
        return false;
    size_t skip = HEADER_BYTES + data_bytes(&h, 4);
    if (skip > n || !read_header(p + skip, n - skip, &h))
        return false;
    skip += HEADER_BYTES;
    size_t bytes = data_bytes(&h, 8);
    if (bytes > n - skip || !read_data(b, p + skip, &h))
        return false;
    return read_footer(b, p + skip + bytes, n - skip - bytes);
}

enum rc zone_parse(struct zone **out, const void *bytes, size_t n, const char *name, struct error *e)
{
    struct zone *z = spw_calloc(1, sizeof *z + CHANGES_MAX * sizeof(struct zone_change));
    struct builder b = {.z = z, .changes = (struct zone_change *)(z + 1)};
    z->changes = b.changes;
    *out = NULL;
    if (!read_file(&b, bytes, n)) {
        free(z);
        return error_set(e, RC_INVALID, "the system's file for the time zone \"%.64s\" is not understood", name);
    }
    *out = z;
    return RC_OK;
}

static bool name_ok(const char *name)
{
    return name[0] != '/' && text_is_word(name, "_+-/", 63);
}

enum rc zone_load(struct zone **out, const char *name, struct error *e)
{
    char path[128];
    *out = NULL;
    if (strcmp(name, "UTC") == 0) {
        *out = spw_calloc(1, sizeof **out);
        return RC_OK;
    }
    snprintf(path, sizeof path, FOLDER "/%.64s", name);
    FILE *f = name_ok(name) ? fopen(path, "re") : NULL;
    if (!f)
        return error_set(e, RC_NOT_FOUND,
                         "there is no time zone \"%.64s\" in the system's tz data (" FOLDER
                         "); write one like Europe/Berlin, or UTC",
                         name);
    unsigned char *bytes = spw_malloc(FILE_BYTES_MAX);
    size_t n = fread(bytes, 1, FILE_BYTES_MAX, f);
    fclose(f);
    enum rc rc = zone_parse(out, bytes, n, name, e);
    free(bytes);
    return rc;
}

void zone_free(struct zone *z)
{
    free(z);
}
