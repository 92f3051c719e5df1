#include "base/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"

#define WORD_MAX 63

bool text_is_word_n(const char *text, size_t n, const char *beside, size_t max)
{
    for (size_t i = 0; i < n; i++)
        if (!text_is_alnum(text[i]) && (!text[i] || !strchr(beside, text[i])))
            return false;
    return n > 0 && n <= max;
}

bool text_is_word(const char *text, const char *beside, size_t max)
{
    return text_is_word_n(text, strlen(text), beside, max);
}

char *text_hex(char *out, const void *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[b[i] >> 4];
        out[2 * i + 1] = digits[b[i] & 15];
    }
    out[2 * n] = '\0';
    return out;
}

char *text_base64(const void *bytes, size_t n)
{
    SPW_ASSERT(n < (size_t)1 << 20);
    char *out = spw_malloc(4 * ((n + 2) / 3) + 1);
    EVP_EncodeBlock((unsigned char *)out, bytes, (int)n);
    return out;
}

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits between a and b (Damerau-Levenshtein, restricted: a swapped pair is not edited again). Rows i-2, i-1 and i of
 * the usual table are kept, so the space is bounded by WORD_MAX. */
static int edit_distance(const char *a, size_t na, const char *b, size_t nb)
{
    int rows[3][WORD_MAX + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];

    for (size_t j = 0; j <= nb; j++)
        last[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int change = tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]);
            row[j] = min3(row[j - 1] + 1, last[j] + 1, last[j - 1] + change);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < row[j])
                row[j] = before[j - 2] + 1;
        }
        int *spare = before;
        before = last;
        last = row;
        row = spare;
    }
    return last[nb];
}

const char *text_nearest(const char *word, const char *const *candidates, int n)
{
    size_t length = strlen(word);
    const char *best = NULL;
    int limit = length / 3 > 2 ? (int)(length / 3) : 2;
    int best_distance = limit + 1;

    if (length == 0 || length > WORD_MAX)
        return NULL;
    for (int i = 0; i < n; i++) {
        size_t other = strlen(candidates[i]);
        if (other == 0 || other > WORD_MAX)
            continue;
        int distance = edit_distance(word, length, candidates[i], other);
        /* A short word shares nothing with another one of its length if every letter differs. */
        if (distance < best_distance && (size_t)distance < length && (size_t)distance < other) {
            best = candidates[i];
            best_distance = distance;
        }
    }
    return best;
}

/* Digits at *p into *v; moves *p behind them. */
static enum rc take_digits(const char **p, int64_t *v)
{
    int64_t sum = 0;

    if (**p < '0' || **p > '9')
        return RC_INVALID;
    for (; **p >= '0' && **p <= '9'; (*p)++)
        if (__builtin_mul_overflow(sum, INT64_C(10), &sum) || __builtin_add_overflow(sum, (int64_t)(**p - '0'), &sum))
            return RC_FULL;
    *v = sum;
    return RC_OK;
}

enum rc text_parse_int(const char *text, int64_t lo, int64_t hi, int64_t *v)
{
    bool negative = text[0] == '-';
    const char *p = text + negative;
    int64_t sum;
    enum rc rc = take_digits(&p, &sum);

    if (rc == RC_INVALID || (rc == RC_OK && *p != '\0'))
        return RC_INVALID;
    if (rc == RC_FULL) /* too many digits; still no number when something follows them */
        return p[strspn(p, "0123456789")] == '\0' ? RC_FULL : RC_INVALID;
    if (negative)
        sum = -sum;
    if (sum < lo || sum > hi)
        return RC_FULL;
    *v = sum;
    return RC_OK;
}

struct unit {
    const char *name;
    int64_t factor;
};

/* Digits, then one of the units. "0" needs no unit; a unit named "" is the default. */
static enum rc parse_with_unit(const char *text, const struct unit *units, int n_units, int64_t *v)
{
    const char *p = text;
    int64_t number;
    enum rc rc = take_digits(&p, &number);

    if (rc != RC_OK)
        return rc;
    if (number == 0 && *p == '\0') {
        *v = 0;
        return RC_OK;
    }
    for (int i = 0; i < n_units; i++)
        if (strcmp(p, units[i].name) == 0)
            return __builtin_mul_overflow(number, units[i].factor, v) ? RC_FULL : RC_OK;
    return RC_INVALID;
}

/* Largest first: formatting takes the first that divides. */
static const struct unit durations[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
static const struct unit sizes[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}};

enum rc text_parse_duration_ms(const char *text, int64_t *ms)
{
    return parse_with_unit(text, durations, 4, ms);
}

enum rc text_parse_size(const char *text, int64_t *bytes)
{
    return parse_with_unit(text, sizes, 4, bytes);
}

static char *format_with_unit(int64_t v, const struct unit *units, int n_units, char *buf, size_t size)
{
    int i = 0;

    while (i < n_units - 1 && v % units[i].factor != 0)
        i++;
    if (v == 0)
        snprintf(buf, size, "0");
    else
        snprintf(buf, size, "%" PRId64 "%s", v / units[i].factor, units[i].name);
    return buf;
}

char *text_format_duration_ms(int64_t ms, char *buf, size_t size)
{
    return format_with_unit(ms, durations, 4, buf, size);
}

char *text_format_size(int64_t bytes, char *buf, size_t size)
{
    return format_with_unit(bytes, sizes, 4, buf, size);
}

/* Exactly n digits as a number from lo to hi; -1: something else. */
static int digits(const char *p, int n, int lo, int hi)
{
    int v = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        v = v * 10 + (p[i] - '0');
    }
    return v >= lo && v <= hi ? v : -1;
}

/* Exactly "2027-01-01" and, if it goes on, exactly "T12:00:00" behind it. */
static enum rc parse_civil(const char *text, bool with_time, int64_t *seconds)
{
    struct tm t, back;
    if (text[4] != '-' || text[7] != '-')
        return RC_INVALID;
    if (with_time && ((text[10] | 32) != 't' || text[13] != ':' || text[16] != ':'))
        return RC_INVALID;
    int year = digits(text, 4, 1970, 9999), month = digits(text + 5, 2, 1, 12), day = digits(text + 8, 2, 1, 31);
    int hour = with_time ? digits(text + 11, 2, 0, 23) : 0, minute = with_time ? digits(text + 14, 2, 0, 59) : 0;
    int second = with_time ? digits(text + 17, 2, 0, 60) : 0;
    if (year < 0 || month < 0 || day < 0 || hour < 0 || minute < 0 || second < 0)
        return RC_INVALID;
    t = (struct tm){.tm_year = year - 1900,
                    .tm_mon = month - 1,
                    .tm_mday = day,
                    .tm_hour = hour,
                    .tm_min = minute,
                    .tm_sec = second == 60 ? 59 : second};
    back = t;
    time_t v = timegm(&back);
    if (back.tm_mday != day) /* the 31st of a shorter month */
        return RC_INVALID;
    *seconds = v;
    return RC_OK;
}

enum rc text_parse_utc(const char *text, int64_t *seconds)
{
    size_t n = strlen(text);
    if (n == 20 && (text[10] != 'T' || text[19] != 'Z' || digits(text + 17, 2, 0, 59) < 0))
        return RC_INVALID;
    return n == 10 || n == 20 ? parse_civil(text, n == 20, seconds) : RC_INVALID;
}

/* "Z", "+01:00", "-07:30". */
static enum rc parse_zone(const char *p, int64_t *offset_s)
{
    if ((*p | 32) == 'z' && !p[1]) {
        *offset_s = 0;
        return RC_OK;
    }
    if ((*p != '+' && *p != '-') || strlen(p) != 6 || p[3] != ':')
        return RC_INVALID;
    int hours = digits(p + 1, 2, 0, 23), minutes = digits(p + 4, 2, 0, 59);
    if (hours < 0 || minutes < 0)
        return RC_INVALID;
    *offset_s = (*p == '-' ? -60 : 60) * (hours * 60 + minutes);
    return RC_OK;
}

enum rc text_parse_time_ms(const char *text, int64_t *ms)
{
    int64_t seconds, offset_s, fraction = 0;
    if (strlen(text) < 20 || parse_civil(text, true, &seconds) != RC_OK)
        return RC_INVALID;
    const char *p = text + 19;
    if (*p == '.') {
        int64_t scale = 100;
        if (p[1] < '0' || p[1] > '9')
            return RC_INVALID;
        for (p++; *p >= '0' && *p <= '9'; p++, scale /= 10)
            fraction += scale * (*p - '0');
    }
    if (parse_zone(p, &offset_s) != RC_OK)
        return RC_INVALID;
    *ms = (seconds - offset_s) * 1000 + fraction;
    return RC_OK;
}

char *text_put_int(char *at, int64_t v)
{
    char digits[TEXT_INT_MAX], *p = digits + sizeof digits;
    uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;

    do {
        *--p = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0)
        *at++ = '-';
    size_t n = (size_t)(digits + sizeof digits - p);
    memcpy(at, p, n);
    return at + n;
}

char *text_put(char *at, const char *end, const char *s)
{
    size_t room = (size_t)(end - at) - 1, n = strnlen(s, room);

    memcpy(at, s, n);
    at[n] = '\0';
    return at + n;
}
