#include "policies/marginal.h"

#include "policies/tariff.h"

#define MJ_PER_MW_US   1e-6
#define PICO_PER_UUSD  1e6
#define SECONDS_A_HOUR 3600.0

static double above(int64_t mw, int64_t idle_mw)
{
    return mw > idle_mw ? (double)(mw - idle_mw) : 0;
}

struct marginal_rates marginal_rates(const struct marginal_facts *f, const struct node_curve *curve)
{
    struct marginal_rates r = {.known = false};
    if (f->busy_mw <= 0 || !curve)
        return r;
    const int32_t full = f->full > 0 ? f->full : 1;
    const double step = curve->decode_us_base + curve->decode_us_per_seq * full;
    r.known = true;
    r.mj_per_input =
        above(f->prefill_mw ? f->prefill_mw : f->busy_mw, f->idle_mw) * curve->prefill_us_per_tok * MJ_PER_MW_US;
    r.mj_per_output = above(f->busy_mw, f->idle_mw) * step / full * MJ_PER_MW_US;
    return r;
}

/* Pico-dollars of a token on the next machine that would be rented. */
static double next_share(const struct marginal_facts *f, const struct marginal_work *w)
{
    if (!w->growing || !(f->tokens_per_s > 0))
        return 0;
    return (double)f->per_hour.v / (f->tokens_per_s * SECONDS_A_HOUR);
}

struct marginal_prices marginal_prices(const struct marginal_facts *f, const struct marginal_rates *r,
                                       const struct marginal_work *w)
{
    const double pusd_per_mj = (double)w->uusd_per_kwh * (PICO_PER_UUSD / (double)TARIFF_MJ_PER_KWH);
    if (marginal_by_the_list(f, r)) {
        /* A price is micro-dollars per million tokens: pico-dollars per token. */
        return (struct marginal_prices){.per_input = (double)f->listed.input.uusd_per_mtok,
                                        .per_output = (double)f->listed.output.uusd_per_mtok};
    }
    const double share = f->kind == MARGINAL_RENTED ? next_share(f, w) : 0;
    struct marginal_prices p = {.per_input = share, .per_output = share};
    if (r->known && pusd_per_mj > 0) {
        p.fixed = (double)w->wake_mj * pusd_per_mj;
        p.per_input += r->mj_per_input * pusd_per_mj;
        p.per_output += r->mj_per_output * pusd_per_mj;
    }
    return p;
}

struct marginal marginal_at(const struct marginal_facts *f, const struct marginal_rates *r,
                            const struct marginal_prices *p, const struct marginal_work *w)
{
    const double fresh = w->input > w->cached ? (double)(w->input - w->cached) : 0;
    const double output = w->output > 0 ? (double)w->output : 0;
    struct marginal m = marginal_machine(r, p, w->wake_mj, fresh, output);
    if (marginal_by_the_list(f, r)) {
        struct token_counts n = {.input = w->input, .cached_input = w->cached, .output = w->output};
        m.money.v = 0;
        m.has_money = f->kind == MARGINAL_METERED && money_charge(&f->listed, &n, &m.money) == RC_OK;
    }
    return m;
}

struct marginal marginal_of(const struct marginal_facts *f, const struct marginal_rates *r,
                            const struct marginal_work *w)
{
    const struct marginal_prices p = marginal_prices(f, r, w);
    return marginal_at(f, r, &p, w);
}
