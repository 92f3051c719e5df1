#include "scheduler/books/bill.h"

#include "policies/tariff.h"

enum rc bill_asset_check(const struct bill_asset *a, struct error *e)
{
    if (a->purchase.v < 0 || a->residual.v < 0)
        return error_set(e, RC_INVALID, "purchase and residual are amounts of dollars from 0 on");
    if (a->residual.v > a->purchase.v)
        return error_set(e, RC_INVALID, "residual: it cannot be worth more at the end than it was bought for");
    if (a->life_s <= 0)
        return error_set(e, RC_INVALID, "years: over how many it is written off; more than 0");
    return RC_OK;
}

static int64_t within(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* Since it was bought; rounded down. */
static int64_t written_off(const struct bill_asset *a, int64_t at_s)
{
    const int64_t age = within(at_s - a->bought_s, 0, a->life_s);
    return (int64_t)((__int128)(a->purchase.v - a->residual.v) * age / a->life_s);
}

struct pusd bill_owned(const struct bill_asset *a, int64_t from_s, int64_t until_s)
{
    return (struct pusd){until_s > from_s ? written_off(a, until_s) - written_off(a, from_s) : 0};
}

int64_t bill_paid_until(const struct bill_rent *r)
{
    if (!r->ended_s)
        return INT64_MAX;
    const int64_t unit = r->unit_s > 0 ? r->unit_s : 1;
    int64_t s = r->ended_s > r->launched_s ? r->ended_s - r->launched_s : 0;
    s = s < r->min_s ? r->min_s : s;
    return r->launched_s + (s + unit - 1) / unit * unit;
}

/* Since its launch, in pico-dollars times 3,600. */
static __int128 rented_3600(const struct bill_rent *r, int64_t until_s)
{
    __int128 sum = 0;
    for (int i = 0; i < r->n_prices; i++) {
        const int64_t from = i == 0 || r->prices[i].at_s < r->launched_s ? r->launched_s : r->prices[i].at_s;
        int64_t to = i + 1 < r->n_prices && r->prices[i + 1].at_s < until_s ? r->prices[i + 1].at_s : until_s;
        sum += to > from ? (__int128)(to - from) * r->prices[i].hour.v : 0;
    }
    return sum;
}

struct pusd bill_rented(const struct bill_rent *r, int64_t from_s, int64_t until_s)
{
    const int64_t end = bill_paid_until(r);
    const int64_t from = within(from_s, r->launched_s, end), until = within(until_s, r->launched_s, end);
    if (until <= from)
        return (struct pusd){0};
    return (struct pusd){(int64_t)(rented_3600(r, until) / BILL_HOUR_S - rented_3600(r, from) / BILL_HOUR_S)};
}

struct pusd bill_energy(const struct tariff *t, const struct bill_quarter *q, int n)
{
    struct pusd sum = {0};
    for (int i = 0; i < n; i++)
        sum.v += tariff_energy_cost(q[i].millijoules, tariff_at(t, q[i].quarter_s)).v;
    return sum;
}

struct pusd bill_sum(const struct bill *b)
{
    return (struct pusd){b->fixed.v + b->energy.v + b->tokens.v};
}
