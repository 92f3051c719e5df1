/* How often spot machines of one pool are taken back, learned from those that were.
 *
 * Losses are taken as a Poisson process in the hours that nodes of the pool have run: n of them in T node-hours. Before
 * anything was seen the rate is Gamma-distributed with the prior below; the estimate is the mean of the posterior,
 *
 *     (PRIOR_LOST + n) / (PRIOR_HOURS + T)   losses per node-hour
 *
 * (the conjugate prior: Gelman et al., "Bayesian Data Analysis", 3rd ed., sec. 2.6). The prior, one loss in 20
 * node-hours, is what 0.05 an hour says of a machine of which nothing is known, and counts as much as 20 hours of
 * watching: after 200 hours without a loss the rate is 0.0045, after 3 losses in 10 hours 0.13. Markets change, so what
 * was seen fades: half of it counts after LOSSES_HALF_LIFE_S. Losses of one domain come together; each counts, since
 * each costs its own change-over.
 *
 * Pure; the memory is the caller's. */
#ifndef POLICIES_LOSSES_H
#define POLICIES_LOSSES_H

#include <stdint.h>

#define LOSSES_PRIOR_LOST  1.0
#define LOSSES_PRIOR_HOURS 20.0
#define LOSSES_HALF_LIFE_S (14 * 86400)

struct losses { /* {0} at the start */
    double lost, hours;
    int64_t at_s; /* until when it has faded; Unix seconds */
};
/* By now_s nodes have run for so many hours more, and so many were taken back. Time that goes back changes nothing of
 * what was seen. hours, lost >= 0. */
void losses_note(struct losses *l, int64_t now_s, double hours, double lost);
double losses_per_hour(const struct losses *l);

#endif
