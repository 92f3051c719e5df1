/* Times as lognormal distributions, and the normal distribution under them. Pure. */
#ifndef POLICIES_LATENCY_H
#define POLICIES_LATENCY_H

double normal_below(double z);    /* P(Z <= z) of the standard normal distribution */
double normal_quantile(double p); /* its inverse, 0 < p < 1 */

/* ln T is normal with mean ln median_us and this standard deviation. */
struct latency {
    double median_us, log_sd;
};
double latency_within(struct latency t, double limit_us); /* P(T <= limit), 0..1 */
double latency_quantile(struct latency t, double p);      /* 0 < p < 1 */
double latency_mean(struct latency t);

#endif
