#include "base/money.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum rc money_charge(const struct token_prices *p, const struct token_counts *n, struct pusd *charge)
{
    if (n->input < 0 || n->cached_input < 0 || n->output < 0 || n->cached_input > n->input)
        return RC_INVALID;
    __int128 sum = (__int128)(n->input - n->cached_input) * p->input.uusd_per_mtok;
    sum += (__int128)n->cached_input * p->cached_input.uusd_per_mtok;
    sum += (__int128)n->output * p->output.uusd_per_mtok;
    if (sum > INT64_MAX || sum < INT64_MIN)
        return RC_FULL;
    charge->v = (int64_t)sum;
    return RC_OK;
}

int64_t money_output_within(const struct token_prices *p, struct pusd max, int64_t input)
{
    int64_t dearest =
        p->input.uusd_per_mtok > p->cached_input.uusd_per_mtok ? p->input.uusd_per_mtok : p->cached_input.uusd_per_mtok;
    __int128 left = (__int128)max.v - (__int128)input * dearest;
    if (left < 0)
        return -1;
    return p->output.uusd_per_mtok ? (int64_t)(left / p->output.uusd_per_mtok) : INT64_MAX;
}

enum rc pusd_parse(const char *text, struct pusd *a, struct error *e)
{
    const char *s = text[0] == '$' ? text + 1 : text;
    const int64_t most = INT64_C(9000000) * INT64_C(1000000000000);
    int64_t v = 0;
    int digits = 0, decimals = -1; /* -1: no point seen */
    for (; (*s >= '0' && *s <= '9') || (*s == '.' && decimals < 0); s++) {
        if (*s == '.') {
            decimals = 0;
            continue;
        }
        if (decimals == 12 || v > most / 10)
            return error_set(e, RC_INVALID, "'%.40s' is out of range: up to 9000000 dollars and 12 decimals", text);
        v = v * 10 + (*s - '0');
        digits++;
        if (decimals >= 0)
            decimals++;
    }
    if (*s || !digits)
        return error_set(e, RC_INVALID, "'%.40s' is no amount: write dollars, such as 0.05", text);
    for (int i = decimals < 0 ? 0 : decimals; i < 12; i++) {
        if (v > most / 10)
            return error_set(e, RC_INVALID, "'%.40s' is out of range: up to 9000000 dollars and 12 decimals", text);
        v *= 10;
    }
    a->v = v;
    return RC_OK;
}

enum rc price_parse(const char *text, struct price *p, struct error *e)
{
    const char *s = text[0] == '$' ? text + 1 : text;
    int64_t micro = 0;
    int digits = 0, decimals = -1; /* -1: no point seen */
    for (; *s; s++) {
        if (*s == '.' && decimals < 0) {
            decimals = 0;
            continue;
        }
        if (*s < '0' || *s > '9')
            break;
        if (decimals == 6 || micro > INT64_C(1000000000))
            return error_set(e, RC_INVALID,
                             "'%.40s' is no price: dollars per million tokens, at most 1000 and 6 decimals", text);
        micro = micro * 10 + (*s - '0');
        digits++;
        if (decimals >= 0)
            decimals++;
    }
    if (*s || !digits)
        return error_set(e, RC_INVALID, "'%.40s' is no price: write dollars per million tokens, such as 0.55", text);
    for (int i = decimals < 0 ? 0 : decimals; i < 6; i++)
        micro *= 10;
    if (micro > INT64_C(1000000000))
        return error_set(e, RC_INVALID, "'%.40s' is too much: at most 1000 dollars per million tokens", text);
    p->uusd_per_mtok = micro;
    return RC_OK;
}

/* v in units of 10^-places, printed exactly; at least two decimals stay. */
static char *format_decimal(__int128 v, int places, char *buf, size_t size)
{
    char digits[48];
    int n = 0;
    unsigned __int128 u = v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
    while (u > UINT64_MAX) { /* division of 128 bits is a call: once in a lifetime */
        digits[n++] = (char)('0' + (int)(u % 10));
        u /= 10;
    }
    uint64_t small = (uint64_t)u;
    do {
        digits[n++] = (char)('0' + (int)(small % 10));
        small /= 10;
    } while (small || n <= places);
    int low = 0; /* trailing zeros to leave out */
    while (low < places - 2 && digits[low] == '0')
        low++;
    char text[64];
    size_t m = 0;
    if (v < 0)
        text[m++] = '-';
    for (int i = n - 1; i >= low; i--) {
        text[m++] = digits[i];
        if (i == places)
            text[m++] = '.';
    }
    text[m++] = '\0';
    if (size) {
        m = m < size ? m : size;
        memcpy(buf, text, m);
        buf[m - 1] = '\0';
    }
    return buf;
}

char *pusd_format(struct pusd a, char *buf, size_t size)
{
    return format_decimal(a.v, 12, buf, size);
}

char *pusd_sum_format(struct pusd_sum a, char *buf, size_t size)
{
    return format_decimal(a.v, 12, buf, size);
}

char *price_format(struct price p, char *buf, size_t size)
{
    return format_decimal(p.uusd_per_mtok, 6, buf, size);
}
