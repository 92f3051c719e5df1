#include "policies/tariff.h"

#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "policies/period.h"

typedef __int128 wide;

#define DAY_S  86400
#define HOUR_S 3600

/* ---- well-formed? ------------------------------------------------------------------------------------------------ */

static bool price_ok(int64_t uusd)
{
    return uusd >= -TARIFF_UUSD_MAX && uusd <= TARIFF_UUSD_MAX;
}

static enum rc check_rule(const struct tariff_rule *r, int number, struct error *e)
{
    if (!(r->days & TARIFF_EVERY_DAY) || !(r->months & TARIFF_EVERY_MONTH))
        return error_set(e, RC_INVALID, "rule %d holds on no day", number);
    if (r->from_min < 0 || r->from_min >= TARIFF_DAY_MINUTES || r->to_min < 0 || r->to_min > TARIFF_DAY_MINUTES)
        return error_set(e, RC_INVALID, "rule %d: hours must be 00:00 to 24:00", number);
    if (!price_ok(r->uusd_per_kwh))
        return error_set(e, RC_INVALID, "rule %d: more than 1000 dollars per kWh", number);
    return RC_OK;
}

enum rc tariff_check(const struct tariff *t, struct error *e)
{
    if (!price_ok(t->uusd_per_kwh))
        return error_set(e, RC_INVALID, "more than 1000 dollars per kWh");
    if (t->n_rules < 0 || t->n_rules > TARIFF_RULES_MAX)
        return error_set(e, RC_INVALID, "%d rules; at most %d", t->n_rules, TARIFF_RULES_MAX);
    for (int i = 0; i < t->n_rules; i++)
        if (check_rule(&t->rules[i], i + 1, e) != RC_OK)
            return RC_INVALID;
    if (t->n_series > 0 && t->series_step_s < TARIFF_SERIES_STEP_MIN_S)
        return error_set(e, RC_INVALID, "a series with a price every %d s; %d s is the least", t->series_step_s,
                         TARIFF_SERIES_STEP_MIN_S);
    for (int64_t i = 0; i < t->n_series; i++)
        if (!price_ok(t->series[i]))
            return error_set(e, RC_INVALID, "price %lld of the series is more than 1000 dollars per kWh",
                             (long long)i + 1);
    return RC_OK;
}

/* ---- the price at a time ----------------------------------------------------------------------------------------- */

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - (a % b < 0);
}

/* Where in the series at_s is; -1: not in it. *until_s: as long as that stays so. */
static int64_t series_index(const struct tariff *t, int64_t at_s, int64_t *until_s)
{
    *until_s = INT64_MAX;
    if (t->n_series <= 0)
        return -1;
    int64_t i = floor_div(at_s - t->series_from_s, t->series_step_s);
    if (i < 0) {
        *until_s = t->series_from_s;
        return -1;
    }
    if (i >= t->n_series && !t->series_repeats)
        return -1;
    *until_s = t->series_from_s + (i + 1) * t->series_step_s;
    return i % t->n_series;
}

struct moment {  /* local */
    int64_t day; /* since 1970-01-01, a Thursday */
    int minute;
};

static bool on_day(const struct tariff_rule *r, int64_t day)
{
    int64_t year;
    int month, date;
    int weekday = (int)(((day + 3) % 7 + 7) % 7);
    if (!(r->days >> weekday & 1))
        return false;
    date_from_days(day, &year, &month, &date);
    return r->months >> (month - 1) & 1;
}

static bool rule_fits(const struct tariff_rule *r, const struct moment *m)
{
    if (r->to_min > r->from_min)
        return m->minute >= r->from_min && m->minute < r->to_min && on_day(r, m->day);
    return (m->minute >= r->from_min && on_day(r, m->day)) || (m->minute < r->to_min && on_day(r, m->day - 1));
}

int64_t tariff_at(const struct tariff *t, int64_t at_s)
{
    int64_t until, i = series_index(t, at_s, &until);
    if (i >= 0)
        return t->series[i];
    if (t->n_rules == 0)
        return t->uusd_per_kwh;
    int64_t local = zone_to_local(t->zone, at_s), day = floor_div(local, DAY_S);
    struct moment m = {.day = day, .minute = (int)((local - day * DAY_S) / 60)};
    for (int r = 0; r < t->n_rules; r++)
        if (rule_fits(&t->rules[r], &m))
            return t->rules[r].uusd_per_kwh;
    return t->uusd_per_kwh;
}

/* The rules' next edge on the local clock, no later than the next full hour in UTC: clocks are changed on no other
 * moment that matters, and an hour more of looking costs nothing. */
static int64_t rules_until(const struct tariff *t, int64_t at_s)
{
    int64_t local = zone_to_local(t->zone, at_s), day = floor_div(local, DAY_S), second = local - day * DAY_S;
    int64_t until = (floor_div(at_s, HOUR_S) + 1) * HOUR_S;
    for (int r = 0; r < t->n_rules; r++) {
        const int edges[] = {t->rules[r].from_min, t->rules[r].to_min, TARIFF_DAY_MINUTES};
        for (int i = 0; i < 3; i++) {
            int64_t in_s = (int64_t)edges[i] * 60 - second;
            if (in_s > 0 && at_s + in_s < until)
                until = at_s + in_s;
        }
    }
    return until;
}

int64_t tariff_until(const struct tariff *t, int64_t at_s)
{
    int64_t until;
    if (series_index(t, at_s, &until) >= 0)
        return until;
    if (t->n_rules > 0) {
        int64_t rules = rules_until(t, at_s);
        return rules < until ? rules : until;
    }
    return until;
}

/* ---- money ------------------------------------------------------------------------------------------------------- */

/* Nearest, halves away from zero. */
static struct pusd amount(wide numerator, wide denominator)
{
    wide half = denominator / 2;
    wide v = numerator >= 0 ? (numerator + half) / denominator : -((-numerator + half) / denominator);
    return (struct pusd){v > INT64_MAX ? INT64_MAX : v < INT64_MIN ? INT64_MIN : (int64_t)v};
}

struct pusd tariff_energy_cost(int64_t millijoules, int64_t uusd_per_kwh)
{
    return amount((wide)millijoules * uusd_per_kwh, HOUR_S);
}

/* Sum of microseconds x price from from_us to to_us. */
static wide priced_us(const struct tariff *t, int64_t from_us, int64_t to_us)
{
    wide sum = 0;
    while (from_us < to_us) {
        int64_t at_s = floor_div(from_us, 1000000), until_s = tariff_until(t, at_s);
        int64_t end_us = until_s < to_us / 1000000 ? until_s * 1000000 : to_us;
        if (end_us <= from_us) /* to_us < 0 and its division rounded up */
            end_us = to_us;
        sum += (wide)(end_us - from_us) * tariff_at(t, at_s);
        from_us = end_us;
    }
    return sum;
}

struct pusd tariff_cost(const struct tariff *t, int64_t from_us, int64_t to_us, int64_t milliwatts)
{
    wide priced = priced_us(t, from_us, to_us);
    /* 2^127 / 2^63 leaves 2^64 for the sum: a century at a hundred dollars. Beyond, precision goes first. */
    const wide safe = ((wide)1 << 126) / (milliwatts > 0 ? milliwatts : 1);
    if (priced > safe || priced < -safe)
        return (struct pusd){priced > 0 ? INT64_MAX : INT64_MIN};
    return amount(priced * milliwatts, (wide)HOUR_S * 1000000);
}

struct search {
    int64_t from, last, length; /* microseconds */
    wide least;
    int64_t best;
};

static void consider(const struct tariff *t, int64_t start, struct search *s)
{
    if (start <= s->from || start > s->last)
        return;
    wide cost = priced_us(t, start, start + s->length);
    if (cost < s->least || (cost == s->least && start < s->best)) {
        s->least = cost;
        s->best = start;
    }
}

int64_t tariff_cheapest_start_us(const struct tariff *t, int64_t from_us, int64_t by_us, int64_t length_us)
{
    struct search search = {.from = from_us, .last = by_us - length_us, .length = length_us, .best = from_us};
    if (search.last <= from_us)
        return from_us;
    search.least = priced_us(t, from_us, from_us + length_us);
    /* The cheapest beginning is a price change, one length before a price change, or the first or last there is. */
    int64_t edge_us = from_us;
    for (int look = 0; look < TARIFF_LOOKS_MAX; look++) {
        int64_t until_s = tariff_until(t, floor_div(edge_us, 1000000));
        if (until_s > by_us / 1000000)
            break;
        edge_us = until_s * 1000000;
        consider(t, edge_us - length_us, &search);
        consider(t, edge_us, &search);
    }
    consider(t, search.last, &search);
    return search.best;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

enum rc tariff_price_parse(const char *text, int64_t *uusd_per_kwh, struct error *e)
{
    const char *at = text;
    int64_t sign = 1, v = 0;
    int digits = 0, decimals = -1;
    if (*at == '-') {
        sign = -1;
        at++;
    }
    if (*at == '$')
        at++;
    for (; isdigit((unsigned char)*at) || (*at == '.' && decimals < 0); at++) {
        if (*at == '.') {
            decimals = 0;
            continue;
        }
        digits++;
        v = v * 10 + (*at - '0');
        if ((decimals >= 0 && ++decimals > 6) || v > TARIFF_UUSD_MAX)
            return error_set(e, RC_INVALID, "\"%.40s\" is no price: dollars per kWh up to 1000, at most 6 decimals",
                             text);
    }
    if (*at || digits == 0)
        return error_set(e, RC_INVALID, "\"%.40s\" is no price: dollars per kWh are right, as in 0.12", text);
    for (int i = decimals < 0 ? 0 : decimals; i < 6; i++)
        v *= 10;
    if (v > TARIFF_UUSD_MAX)
        return error_set(e, RC_INVALID, "\"%.40s\" is no price: more than 1000 dollars per kWh", text);
    *uusd_per_kwh = sign * v;
    return RC_OK;
}

static const char *const day_names[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun", NULL};
static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul",
                                          "aug", "sep", "oct", "nov", "dec", NULL};

static int find_name(const char *const *names, const char **at)
{
    for (int i = 0; names[i]; i++)
        if (strncmp(*at, names[i], 3) == 0) {
            *at += 3;
            return i;
        }
    return -1;
}

/* "mon-fri,sun" as bits; false: it isn't a list of these names. */
static bool parse_names(const char *word, const char *const *names, int n, uint16_t *bits)
{
    const char *at = word;
    *bits = 0;
    for (;;) {
        int first = find_name(names, &at), last = first;
        if (first < 0)
            return false;
        if (*at == '-') {
            at++;
            last = find_name(names, &at);
            if (last < 0)
                return false;
        }
        for (int i = first;; i = (i + 1) % n) { /* "sat-mon" goes over the week's end */
            *bits |= (uint16_t)(1u << i);
            if (i == last)
                break;
        }
        if (*at == '\0')
            return true;
        if (*at++ != ',')
            return false;
    }
}

/* "07:30"; true: *at stands behind it. */
static bool parse_time(const char **at, int16_t *minutes)
{
    const char *p = *at;
    for (int i = 0; i < 5; i++)
        if (i == 2 ? p[i] != ':' : !isdigit((unsigned char)p[i]))
            return false;
    int hours = (p[0] - '0') * 10 + p[1] - '0', mins = (p[3] - '0') * 10 + p[4] - '0';
    if (mins > 59 || hours * 60 + mins > TARIFF_DAY_MINUTES)
        return false;
    *minutes = (int16_t)(hours * 60 + mins);
    *at += 5;
    return true;
}

static bool parse_hours(const char *word, struct tariff_rule *r)
{
    const char *at = word;
    return parse_time(&at, &r->from_min) && *at++ == '-' && parse_time(&at, &r->to_min) && *at == '\0' &&
           r->from_min < TARIFF_DAY_MINUTES;
}

enum rc tariff_when_parse(const char *text, struct tariff_rule *r, struct error *e)
{
    struct tariff_rule out = {.days = TARIFF_EVERY_DAY, .months = TARIFF_EVERY_MONTH, .to_min = TARIFF_DAY_MINUTES};
    bool any = false;
    for (const char *at = text;;) {
        at += strspn(at, " ");
        size_t len = strcspn(at, " ");
        char word[64] = {0};
        uint16_t bits;
        if (len == 0)
            break;
        if (len >= sizeof word)
            return error_set(e, RC_INVALID, "\"%.40s\" is too long", text);
        for (size_t i = 0; i < len; i++)
            word[i] = (char)tolower((unsigned char)at[i]);
        word[len] = '\0';
        if (parse_names(word, day_names, 7, &bits))
            out.days = (uint8_t)bits;
        else if (parse_names(word, month_names, 12, &bits))
            out.months = bits;
        else if (!parse_hours(word, &out))
            return error_set(
                e, RC_INVALID,
                "\"%s\" is no time: days (mon-fri,sun), hours (22:00-06:00) and months (nov-mar) are right", word);
        any = true;
        at += len;
    }
    if (!any)
        return error_set(e, RC_INVALID, "no time is named: as in \"mon-fri 07:00-22:00\"");
    out.uusd_per_kwh = r->uusd_per_kwh;
    *r = out;
    return RC_OK;
}
