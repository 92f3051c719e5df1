#include "policies/losses.h"

#include <math.h>

void losses_note(struct losses *l, int64_t now_s, double hours, double lost)
{
    if (l->at_s && now_s > l->at_s) {
        const double left = exp2(-(double)(now_s - l->at_s) / LOSSES_HALF_LIFE_S);
        l->lost *= left;
        l->hours *= left;
    }
    if (now_s > l->at_s)
        l->at_s = now_s;
    l->hours += hours;
    l->lost += lost;
}

double losses_per_hour(const struct losses *l)
{
    return (LOSSES_PRIOR_LOST + l->lost) / (LOSSES_PRIOR_HOURS + l->hours);
}
