#include <math.h>

#include "policies/forecast.h"
#include "policies/power.h"

/* Served at once, seconds from now: the upper quantile. */
static double upper(const struct power_outlook *o, double in_s)
{
    double left = exp(-in_s / (o->hold_s > 0.001 ? o->hold_s : 0.001));
    struct forecast_value v = forecast_at(o->forecast, in_s);
    return (o->in_use + o->waiting) * left + v.mean * (1 - left) + o->z * v.sd * sqrt(1 - left);
}

void power_foresee(struct power_group *g, const struct power_outlook *o)
{
    /* A step says what is needed until it ends, as it looks for its end: rising needs are met at its beginning. */
    static const double ends_s[POWER_STEPS_MAX] = {5, 15, 40, 100, 250, 600, 1500, 3600};
    double begin_s = 0;
    g->now = o->in_use + o->waiting;
    bool kept = g->n_steps == POWER_STEPS_MAX;
    g->n_steps = POWER_STEPS_MAX;
    for (int i = 0; i < POWER_STEPS_MAX; i++) {
        double now = upper(o, ends_s[i]), before = kept ? g->steps[i].capacity : 0;
        /* A dip of the forecast is forgotten at the pace of what it foresees. */
        double fall = (double)o->tick_us / 1e6 / ends_s[i];
        if (before > now && fall < 1)
            now = before - (before - now) * fall;
        g->steps[i] = (struct power_need){.in_us = (int64_t)(begin_s * 1e6), .capacity = now};
        begin_s = ends_s[i];
    }
    g->untried = o->forecast->error_n[2] == 0; /* a quarter of an hour ahead */
    g->until_us = (int64_t)(begin_s * 1e6);
    g->margin = fmax(upper(o, (double)o->tick_us / 1e6) - g->now, 0);
}
