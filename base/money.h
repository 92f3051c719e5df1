/* Money is integer. A price is micro-dollars per million tokens, which is exactly pico-dollars per token; a charge is
 * int64 pico-dollars (up to 9.2 million dollars); sums over many are 128-bit. Floating point never touches it;
 * rounding happens only when printed. */
#ifndef BASE_MONEY_H
#define BASE_MONEY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct pusd {
    int64_t v;
}; /* an amount, pico-dollars (1e-12 USD) */
struct price {
    int64_t uusd_per_mtok;
}; /* micro-dollars per million tokens == pico-dollars per token */
struct pusd_sum {
    __int128 v;
};

struct token_prices {
    struct price input, cached_input, output;
};
struct token_counts {
    int64_t input, cached_input, output;
}; /* cached_input is part of input */

/* (input - cached) * p.input + cached * p.cached_input + output * p.output. RC_FULL when it does not fit int64,
 * RC_INVALID for negative counts or cached > input. */
enum rc money_charge(const struct token_prices *p, const struct token_counts *n, struct pusd *charge) SPW_MUST_USE;
/* How many output tokens `max` allows beside so much input, each at its dearest: INT64_MAX where output is free, -1
 * where not even the input fits. Counts and prices >= 0. */
int64_t money_output_within(const struct token_prices *p, struct pusd max, int64_t input);
static inline void pusd_sum_add(struct pusd_sum *s, struct pusd a)
{
    s->v += a.v;
}

/* Dollars per million tokens as written by people: "0.55", "2", "$0.0028". At most 6 decimals. */
enum rc price_parse(const char *text, struct price *p, struct error *e) SPW_MUST_USE;
/* An amount of dollars as written by people: "0.05", "2", "$0.000001". Up to 9,000,000 with at most 12 decimals; no
 * sign, no exponent. */
enum rc pusd_parse(const char *text, struct pusd *a, struct error *e) SPW_MUST_USE;
/* Exact decimal dollars, all 12 places less trailing zeros, at least 2 places: "0.000123", "1.50". buf >= 48 bytes. */
char *pusd_format(struct pusd a, char *buf, size_t size);
char *pusd_sum_format(struct pusd_sum a, char *buf, size_t size);
char *price_format(struct price p, char *buf, size_t size); /* dollars per million tokens */

#endif
