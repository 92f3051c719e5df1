/* What a machine costs in an hour, by its provider's rule. Pure: no clock, no file; integer pico-dollars.
 *
 *   owned    (purchase - residual) / life, on a straight line, and its energy: what was metered (or modelled, and then the
 *            books say so) in each quarter-hour at the tariff of that quarter-hour
 *   rented   each second at the price that held, at least min_s of it, in steps of unit_s
 *   tokens   what its provider asks for the tokens that went through: the sum over its legs
 *
 * Fixed costs are differences of a sum that is counted from the beginning: bill(a, c) = bill(a, b) + bill(b, c) to the
 * pico-dollar, so that hours add up to months and to a machine's whole life, and no cut loses a fraction. */
#ifndef SCHEDULER_BOOKS_BILL_H
#define SCHEDULER_BOOKS_BILL_H

#include <stdbool.h>

#include "base/money.h"

struct tariff; /* policies/tariff.h */

#define BILL_QUARTER_S 900
#define BILL_HOUR_S    3600

struct bill_asset {                 /* of the register; finance.h keeps it */
    struct pusd purchase, residual; /* purchase >= residual >= 0 */
    int64_t bought_s, life_s;       /* written off from bought_s for life_s > 0 seconds */
};
/* RC_INVALID: *e says what is wrong with it. */
enum rc bill_asset_check(const struct bill_asset *a, struct error *e) SPW_MUST_USE;
/* Written off between the two; 0 before it was bought and after its life. */
struct pusd bill_owned(const struct bill_asset *a, int64_t from_s, int64_t until_s);

struct bill_price {
    int64_t at_s; /* from then on */
    struct pusd hour;
};
struct bill_rent {
    const struct bill_price *prices; /* ascending; before the first: the first */
    int n_prices;
    int64_t launched_s, ended_s; /* ended 0: it runs */
    int32_t min_s, unit_s;       /* least that is paid; paid in steps of (0: 1 s) */
};
/* Until when it is paid: past its end where the minimum or the step says so. INT64_MAX: it runs. */
int64_t bill_paid_until(const struct bill_rent *r);
struct pusd bill_rented(const struct bill_rent *r, int64_t from_s, int64_t until_s);

struct bill_quarter {
    int64_t quarter_s, millijoules;
};
struct pusd bill_energy(const struct tariff *t, const struct bill_quarter *q, int n);

/* Of one node and hour, in its parts. They are allocated by what causes them: see close.h. */
struct bill {
    struct pusd fixed, energy, tokens;
    int64_t paid_us; /* of the hour, in which `fixed` was paid for */
};
struct pusd bill_sum(const struct bill *b);

#endif
