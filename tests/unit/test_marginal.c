/* Marginal money and energy.
 * links: spw_policies */
#include "policies/marginal.h"

#include <math.h>

#include "policies/tariff.h"
#include "test.h"

static const struct node_curve curve = {
    .base_us = 9000, .prefill_us_per_tok = 50, .decode_us_base = 10000, .decode_us_per_seq = 100};
static const struct token_prices list = {.input = {500000}, .cached_input = {100000}, .output = {2000000}};
static const struct marginal_work thousand = {.input = 1000, .cached = 200, .output = 100, .uusd_per_kwh = 180000};

static struct marginal come_to(const struct marginal_facts *f, const struct marginal_work *w)
{
    const struct marginal_rates r = marginal_rates(f, &curve);
    return marginal_of(f, &r, w);
}

static void an_api_charges_by_its_list(void)
{
    const struct marginal_facts f = {.kind = MARGINAL_METERED, .listed = list};
    const struct marginal m = come_to(&f, &thousand);
    CHECK(m.has_money && m.money.v == 800 * INT64_C(500000) + 200 * INT64_C(100000) + 100 * INT64_C(2000000));
    CHECK(!m.has_energy);
}

/* 600 W above idle: 800 fresh tokens of 50 us, and 100 steps of 10 x 1 ms / 10 each. */
static void an_own_machine_costs_its_energy(void)
{
    const struct marginal_facts f = {
        .kind = MARGINAL_OWNED, .listed = list, .idle_mw = 100000, .busy_mw = 700000, .full = 10};
    const struct marginal m = come_to(&f, &thousand);
    const double mj = 600000.0 * (800 * 50 + 100 * 1100) * 1e-6;
    CHECK(m.has_energy && fabs((double)m.mj - mj) <= 1);
    CHECK(m.has_money && llabs(m.money.v - tariff_energy_cost(m.mj, 180000).v) <= 100);
    struct marginal_work woken = thousand;
    woken.wake_mj = 5000000;
    CHECK(come_to(&f, &woken).mj == m.mj + 5000000);
    CHECK(llabs(come_to(&f, &woken).money.v - m.money.v - tariff_energy_cost(5000000, 180000).v) <= 1);
    struct marginal_work surplus = thousand; /* the market pays who takes power: it is free, never more than that */
    surplus.uusd_per_kwh = -50000;
    CHECK(come_to(&f, &surplus).money.v == 0);
}

static void without_watts_the_list_is_all_there_is(void)
{
    const struct marginal_facts f = {.kind = MARGINAL_OWNED, .listed = list};
    CHECK(!come_to(&f, &thousand).has_money && !come_to(&f, &thousand).has_energy);
    const struct marginal_facts watts = {.kind = MARGINAL_OWNED, .listed = list, .busy_mw = 700000};
    const struct marginal_rates r = marginal_rates(&watts, NULL);
    CHECK(!r.known && !marginal_of(&watts, &r, &thousand).has_money);
}

static void rent_is_free_until_it_grows(void)
{
    struct marginal_facts f = {
        .kind = MARGINAL_RENTED, .listed = list, .per_hour = {INT64_C(3600000000000)}, .tokens_per_s = 1000};
    struct marginal_work w = thousand;
    CHECK(come_to(&f, &w).has_money && come_to(&f, &w).money.v == 0);
    w.growing = true; /* $ 3.60 an hour, 3.6 million tokens: a micro-dollar each */
    CHECK(come_to(&f, &w).money.v == 900 * INT64_C(1000000));
    f.tokens_per_s = 0;
    CHECK(come_to(&f, &w).money.v == 0);
}

static void the_index_is_told_the_same(void)
{
    const struct marginal_facts kinds[] = {
        {.kind = MARGINAL_METERED, .listed = list},
        {.kind = MARGINAL_OWNED, .listed = list, .idle_mw = 100000, .busy_mw = 700000, .full = 10},
        {.kind = MARGINAL_RENTED, .per_hour = {INT64_C(3600000000000)}, .tokens_per_s = 900},
    };
    for (int i = 0; i < 3; i++) {
        struct marginal_work w = {
            .input = 3000, .output = 500, .wake_mj = i == 1 ? 70000 : 0, .uusd_per_kwh = 120000, .growing = true};
        const struct marginal_rates r = marginal_rates(&kinds[i], &curve);
        const struct marginal_prices p = marginal_prices(&kinds[i], &r, &w);
        const double same = p.fixed + p.per_input * 3000 + p.per_output * 500;
        CHECK(fabs((double)marginal_of(&kinds[i], &r, &w).money.v - same) <= 1);
    }
}

static void what_does_not_fit_is_as_dear_as_can_be(void)
{
    const struct marginal_facts f = {.kind = MARGINAL_OWNED, .idle_mw = 0, .busy_mw = INT64_MAX, .full = 1};
    struct marginal_work w = {.input = INT64_MAX, .output = INT64_MAX, .uusd_per_kwh = 1000000000};
    CHECK(come_to(&f, &w).money.v == INT64_MAX && come_to(&f, &w).mj == INT64_MAX);
    w.input = w.output = -5;
    CHECK(come_to(&f, &w).money.v == 0 && come_to(&f, &w).mj == 0);
}

int main(void)
{
    TEST(an_api_charges_by_its_list);
    TEST(an_own_machine_costs_its_energy);
    TEST(without_watts_the_list_is_all_there_is);
    TEST(rent_is_free_until_it_grows);
    TEST(the_index_is_told_the_same);
    TEST(what_does_not_fit_is_as_dear_as_can_be);
    return TEST_RESULT();
}
