/* Times as lognormal distributions, and the normal distribution under them. Pure. */
#ifndef POLICIES_LATENCY_H
#define POLICIES_LATENCY_H

double normal_below(double z);    /* P(Z <= z) of the standard normal distribution */
double normal_quantile(double p); /* its inverse, 0 < p < 1 */

/* ln T is a two-piece normal: median ln median_us, this standard deviation above it, and that one below (0: the same; John
 * 1982), because what is foreseen is often a bound that is seldom passed and often undercut. But for the share `odd`, whose
 * ln T is exponential above the median's with mean odd_log: stalls, which a normal distribution would not have in a
 * thousand years. */
struct latency {
    double median_us, log_sd, log_sd_below, odd, odd_log;
    double mean_ratio;             /* mean by median, where it is known already; 0: it is reckoned */
    double limit_us, within_limit; /* P(T <= limit_us), where it is known already; 0, 0: it is reckoned */
};
double latency_within(const struct latency *t, double limit_us); /* P(T <= limit), 0..1 */
double latency_quantile(const struct latency *t, double p);      /* 0 < p < 1; of those that are not odd */
double latency_mean_reckoned(const struct latency *t);
static inline double latency_mean(const struct latency *t) /* of those that are not odd */
{
    return t->mean_ratio > 0 ? t->median_us * t->mean_ratio : latency_mean_reckoned(t);
}

#endif
