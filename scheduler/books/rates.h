/* A node's standard rate: what a token is charged so that, used as much as finance reckons with, the node earns its
 * bill. Pure.
 *
 *   rate per token = bill per second / utilisation x seconds that the token takes
 *
 * Seconds are of the calibration record, with a full batch: an input token is computed once and read in each of a
 * request's later steps, a cached one only read, an output token has its part of a step and is read in half of them.
 * Prices are integer micro-dollars per million tokens, which is pico-dollars per token; rounded up, so that rounding
 * earns no less. */
#ifndef SCHEDULER_BOOKS_RATES_H
#define SCHEDULER_BOOKS_RATES_H

#include "base/money.h"
#include "policies/curve.h"

struct rate_basis {
    struct pusd_sum bill;    /* of the period ... */
    int64_t paid_us;         /* ... in which it was paid for so long */
    int64_t utilisation_ppm; /* 1 to 1,000,000 */
    struct node_curve curve; /* of its calibration */
    double ctx_us;           /* detail.decode_us_per_ctx_tok; 0: not known */
    int32_t batch;           /* sequences of a full one */
    int64_t output_mean;     /* output tokens of a request, in the mean of the period */
};
/* RC_INVALID: *e says what is missing. */
enum rc rates_of(const struct rate_basis *b, struct token_prices *p, struct error *e) SPW_MUST_USE;

#endif
