#include <math.h>

#include "policies/forecast.h"
#include "policies/power.h"

/* Served at once, seconds from now, with so many upward spreads. */
static double served(const struct power_outlook *o, double in_s, double z)
{
    double left = exp(-in_s / (o->hold_s > 0.001 ? o->hold_s : 0.001));
    struct forecast_value v = forecast_at(o->forecast, in_s);
    return (o->in_use + o->waiting) * left + v.mean * (1 - left) + z * v.up * sqrt(1 - left);
}

/* Nobody is late yet when it turns out that more is needed in some minutes than was thought: the next plan knows better,
 * and who sleeps lightly bridges what is missing. So what is far ahead is foreseen with less caution. */
#define FAR_S       100
#define FAR_CAUTION 0.6
/* What was foreseen for a time h ahead falls by this share of the difference in h. */
#define FORGETS 0.5
#define LIKELY  0.7 /* spreads above the mean */

void power_foresee(struct power_group *g, const struct power_outlook *o)
{
    static const double at_s[POWER_STEPS_MAX] = {5, 10, 20, 40, 80, 160, 320, 640, 1500, 3600};
    bool kept = g->n_steps == POWER_STEPS_MAX;
    g->now = o->in_use + o->waiting;
    g->n_steps = POWER_STEPS_MAX;
    for (int i = 0; i < POWER_STEPS_MAX; i++) {
        double upper = served(o, at_s[i], o->z * (at_s[i] > FAR_S ? FAR_CAUTION : 1));
        double before = kept ? g->steps[i].capacity : 0, fall = (double)o->tick_us / 1e6 / at_s[i] * FORGETS;
        if (before > upper && fall < 1)
            upper = before - (before - upper) * fall;
        g->steps[i] = (struct power_need){
            .in_us = (int64_t)(at_s[i] * 1e6), .capacity = upper, .likely = fmin(served(o, at_s[i], LIKELY), upper)};
    }
    g->untried = o->forecast->error_n[2] == 0; /* a quarter of an hour ahead */
    g->until_us = g->steps[POWER_STEPS_MAX - 1].in_us;
    g->margin = fmax(served(o, (double)o->tick_us / 1e6, o->z) - g->now, 0);
}

int64_t power_last_us(int64_t mean_us, int32_t n)
{
    return n > 0 ? (int64_t)((double)mean_us * (n > 1 ? log(n) + 0.58 : 1)) : 0; /* 0.58: Euler's constant */
}
