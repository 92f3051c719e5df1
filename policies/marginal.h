/* What one more request adds to what the organisation pays, and to what it draws: the money that routing minimises. It
 * is neither the charge (tokens at the node's price list) nor a share of anybody's bill.
 *
 *   metered   an API: what it will charge, cached input at its own price.
 *   owned     a machine that is there anyway, awake: the energy of computing it, at the tariff of now; asleep: that and
 *             the energy of waking it.
 *   rented    a machine that is paid by the hour, spot or on demand: nothing, as long as those that run have room; once
 *             the load is such that one more would have to be rented, its share of that one's hour.
 *
 * Energy: watts above those of an idle machine, for the machine's time that a token takes when the machine is as full
 * as it should be: a prompt token its share of prefill, an output token a step of the full batch divided by those in
 * it. So a token costs the same on a node that happens to be empty as on its neighbour that is not: who gets it is a
 * matter of load, not of a thousandth of a cent, and emptying machines is power.h's. Where watts are not known, nor is
 * the energy, and an owned machine counts with the price list that it was given.
 *
 * Pure. Rates are doubles, amounts integers. */
#ifndef POLICIES_MARGINAL_H
#define POLICIES_MARGINAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/money.h"
#include "policies/curve.h"

enum marginal_kind { MARGINAL_METERED, MARGINAL_OWNED, MARGINAL_RENTED };

/* Of a node. */
struct marginal_facts {
    enum marginal_kind kind;
    struct token_prices listed; /* its price list */
    /* Draws of the whole node, milliwatts: idle, with a full batch, while it computes prompts (0: as with a full
     * batch). busy_mw 0: not known. Where the rent has the energy in it, leave them out. */
    int64_t idle_mw, busy_mw, prefill_mw;
    int32_t full;         /* requests in a full batch; 0: 1 */
    struct pusd per_hour; /* rented */
    double tokens_per_s;  /* rented: of prompt and answer together, that one does at the SLO; 0: unknown */
};

/* Millijoules per token. */
struct marginal_rates {
    bool known;
    double mj_per_input, mj_per_output;
};
/* curve NULL: not known. */
struct marginal_rates marginal_rates(const struct marginal_facts *f, const struct node_curve *curve);

struct marginal_work {
    int64_t input, cached, output; /* tokens; cached: of input, that need not be computed */
    int64_t wake_mj;               /* to wake the node for it; 0: it is awake */
    int64_t uusd_per_kwh;          /* the tariff of now */
    bool growing;                  /* rented: those that run are full */
};
struct marginal {
    bool has_money, has_energy; /* without money, the price list is the best guess there is */
    struct pusd money;
    int64_t mj;
};
struct marginal marginal_of(const struct marginal_facts *f, const struct marginal_rates *r,
                            const struct marginal_work *w);
/* The same by the token, for an index: pico-dollars. Fixed: what a wake-up costs. */
struct marginal_prices {
    double fixed, per_input, per_output;
};
struct marginal_prices marginal_prices(const struct marginal_facts *f, const struct marginal_rates *r,
                                       const struct marginal_work *w);
/* A machine's, not by the list: fresh and output tokens, >= 0. */
static inline int64_t marginal_whole(double v)
{
    return v < 0 ? 0 : v < 9e18 ? (int64_t)(v + 0.5) : INT64_MAX;
}
static inline struct marginal marginal_machine(const struct marginal_rates *r, const struct marginal_prices *p,
                                               int64_t wake_mj, double fresh, double output)
{
    return (struct marginal){
        .has_money = true,
        .has_energy = r->known,
        .money = {marginal_whole(p->fixed + fresh * p->per_input + output * p->per_output)},
        .mj = r->known ? marginal_whole((double)wake_mj + fresh * r->mj_per_input + output * r->mj_per_output) : 0};
}
/* Is its money the price list's? Else it is a machine's. */
static inline bool marginal_by_the_list(const struct marginal_facts *f, const struct marginal_rates *r)
{
    return f->kind == MARGINAL_METERED || (f->kind == MARGINAL_OWNED && !r->known);
}
/* marginal_of() for whoever asks often and has the prices, which stay while tariff, growth and wake-up do. */
struct marginal marginal_at(const struct marginal_facts *f, const struct marginal_rates *r,
                            const struct marginal_prices *p, const struct marginal_work *w);

#endif
