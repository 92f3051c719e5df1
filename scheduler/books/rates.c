#include "scheduler/books/rates.h"

#define PPM       INT64_C(1000000)
#define NS_MOST   1e15
#define RATE_MOST INT64_C(1000000000000) /* a million dollars per million tokens */

/* Nanoseconds of a figure that was measured, rounded: what follows is exact. */
static int64_t to_ns(double us)
{
    const double ns = us * 1000;
    return ns >= NS_MOST ? (int64_t)NS_MOST : ns > 0 ? (int64_t)(ns + 0.5) : 0;
}

/* bill x ns / (paid x utilisation), in pico-dollars per token, rounded up. */
static enum rc price_of(const struct rate_basis *b, int64_t ns, struct price *p, struct error *e)
{
    const __int128 below = (__int128)b->paid_us * 1000 * b->utilisation_ppm;
    const __int128 bill = b->bill.v;
    if (ns && bill > (((__int128)1 << 126) / ns) / PPM)
        return error_set(e, RC_INVALID, "the bill is too large");
    const __int128 v = (bill * ns * PPM + below - 1) / below;
    if (v > RATE_MOST)
        return error_set(e, RC_INVALID, "a token would cost more than any price may be");
    p->uusd_per_mtok = (int64_t)v;
    return RC_OK;
}

enum rc rates_of(const struct rate_basis *b, struct token_prices *p, struct error *e)
{
    if (b->paid_us <= 0 || b->bill.v <= 0)
        return error_set(e, RC_INVALID, "no closed hour of the period has a bill of it");
    if (b->utilisation_ppm < 1 || b->utilisation_ppm > PPM)
        return error_set(e, RC_INVALID, "utilisation: more than 0 and up to 100 percent");
    if (b->curve.prefill_us_per_tok <= 0 || b->curve.decode_us_base + b->curve.decode_us_per_seq <= 0)
        return error_set(e, RC_INVALID, "it has no calibration record: spillway nodes calibrate");
    const int32_t batch = b->batch > 0 ? b->batch : 1;
    const double step_us = (b->curve.decode_us_base + b->curve.decode_us_per_seq * batch) / batch;
    const double read_us = b->ctx_us * (double)b->output_mean;
    enum rc rc = price_of(b, to_ns(b->curve.prefill_us_per_tok + read_us), &p->input, e);
    if (rc == RC_OK)
        rc = price_of(b, to_ns(read_us), &p->cached_input, e);
    return rc == RC_OK ? price_of(b, to_ns(step_us + read_us / 2), &p->output, e) : rc;
}
