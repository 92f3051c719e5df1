#include "policies/batch_market.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define US_PER_S INT64_C(1000000)
#define HOUR_US  (3600 * US_PER_S)

void batch_market_init(struct batch_market *b, double ready, double demand, int64_t tick_us)
{
    memset(b, 0, offsetof(struct batch_market, hours));
    b->m.idle_tokens_per_s = ready > demand ? ready - demand : 0;
    b->m.tick_us = tick_us;
}

static void add_on_demand(struct batch_market *b, double tokens_per_s, int64_t up_us)
{
    b->m.on_demand_tokens_per_s += tokens_per_s;
    b->m.changeover_us = up_us > b->m.changeover_us ? up_us : b->m.changeover_us;
}

void batch_market_offer(struct batch_market *b, const struct scale_offer *o)
{
    if (o->market == SCALE_ON_PREM)
        return;
    b->rents = true;
    if (o->market == SCALE_SPOT)
        b->m.spot_tokens_per_s += o->launch_max * o->tokens_per_s;
    else if (o->launch_max > 0)
        add_on_demand(b, o->launch_max * o->tokens_per_s, o->boot_s * US_PER_S);
}

/* What a machine draws at work beyond what it draws in that state. */
static void add_draw(struct batch_market *b, const struct power_levels *l, enum power_state state,
                     const struct tariff *t, double overhead)
{
    const double more = (double)(power_draw_mw(l, POWER_ACTIVE, INT32_MAX) - l->of[state].idle_mw);
    const int64_t mw = (int64_t)(more * overhead);
    int i = 0;
    if (!t || mw <= 0)
        return;
    while (i < b->n_draws && b->draws[i].tariff != t)
        i++;
    b->crowded = b->crowded || i == BATCH_TARIFFS_MAX;
    if (b->crowded)
        return;
    b->draws[i] = (struct batch_draw){t, i < b->n_draws ? b->draws[i].mw + mw : mw};
    b->n_draws += i == b->n_draws;
}

void batch_market_sleeper(struct batch_market *b, double tokens_per_s, const struct power_levels *l,
                          enum power_state state, const struct tariff *t, double overhead)
{
    add_on_demand(b, tokens_per_s, power_move_us(l, state, POWER_ACTIVE));
    add_draw(b, l, state, t, overhead);
}

void batch_market_surplus(struct batch_market *b, double tokens_per_s, const struct power_levels *l,
                          const struct tariff *t, double overhead)
{
    b->surplus_tokens_per_s += tokens_per_s;
    add_draw(b, l, l->of[POWER_SLEEP].allowed ? POWER_SLEEP : POWER_OFF, t, overhead);
}

int32_t batch_market_beyond(int32_t awake, int32_t keep_warm, double interactive, double each)
{
    const double needed = fmax(each > 0 ? ceil(interactive / each) : awake, keep_warm);
    return needed < awake ? awake - (int32_t)needed : 0;
}

/* ---- what an hour costs ------------------------------------------------------------------------------------------ */

static bool is_flat(const struct tariff *t)
{
    return t->n_rules == 0 && t->n_series <= 0;
}

static bool any_hours(const struct batch_market *b)
{
    for (int i = 0; i < b->n_draws; i++)
        if (!is_flat(b->draws[i].tariff))
            return !b->rents && !b->crowded;
    return false;
}

static struct pusd cost_of_hour(const struct batch_market *b, int64_t from_us)
{
    struct pusd_sum sum = {0};
    for (int i = 0; i < b->n_draws; i++)
        pusd_sum_add(&sum, tariff_cost(b->draws[i].tariff, from_us, from_us + HOUR_US, b->draws[i].mw));
    return (struct pusd){sum.v > INT64_MAX ? INT64_MAX : sum.v < INT64_MIN ? INT64_MIN : (int64_t)sum.v};
}

void batch_market_hours(struct batch_market *b, int64_t wall_us, int64_t left_us)
{
    const int64_t gone_us = (wall_us % HOUR_US + HOUR_US) % HOUR_US, first_us = wall_us - gone_us;
    bool differ = false;
    int32_t n = 0;
    if (!any_hours(b))
        return;
    for (; n < BATCH_HOURS_MAX && n * HOUR_US - gone_us < left_us; n++) {
        b->hours[n] = cost_of_hour(b, first_us + n * HOUR_US);
        differ = differ || b->hours[n].v != b->hours[0].v;
    }
    if (!differ)
        return;
    b->m.idle_tokens_per_s = fmax(b->m.idle_tokens_per_s - b->surplus_tokens_per_s, 0);
    b->m.on_demand_tokens_per_s += b->surplus_tokens_per_s;
    b->m.hour_prices = b->hours;
    b->m.n_hours = n;
    b->m.hour_left_us = HOUR_US - gone_us;
    b->m.hours_on_demand = true;
}

void batch_market_stand_in(struct batch_market *b, double tokens_per_s)
{
    if (b->m.on_demand_tokens_per_s > 0)
        return;
    b->m.on_demand_tokens_per_s = tokens_per_s;
    b->stands_in = true;
}

/* ---- what was decided -------------------------------------------------------------------------------------------- */

bool batch_market_goes(const struct batch_market *b, const struct progress_decision *d)
{
    return d->where == PROGRESS_SPOT || (d->where == PROGRESS_ON_DEMAND && !b->stands_in);
}

bool batch_market_holds(const struct progress_decision *d)
{
    return d->reason == PROGRESS_DEAR_HOUR;
}

int64_t batch_market_urgent_us(const struct progress_decision *d)
{
    return progress_presses(d) ? d->due_us : 0;
}
