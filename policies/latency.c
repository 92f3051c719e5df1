#include "policies/latency.h"

#include <math.h>

double normal_below(double z)
{
    return 0.5 * erfc(-z * M_SQRT1_2);
}

double latency_within(struct latency t, double limit_us)
{
    if (limit_us <= 0)
        return 0;
    if (t.median_us <= 0)
        return 1;
    return t.log_sd > 0 ? normal_below(log(limit_us / t.median_us) / t.log_sd) : limit_us >= t.median_us;
}

/* Acklam's rational approximation of the normal quantile, |relative error| < 1.15e-9. */
double normal_quantile(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                               1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                               6.680131188771972e+01, -1.328068155288572e+01};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                               -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
    static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                               3.754408661907416e+00};
    if (p > 0.5)
        return -normal_quantile(1 - p);
    if (p < 0.02425) {
        double q = sqrt(-2 * log(p));
        return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
               ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
    }
    double q = p - 0.5, r = q * q;
    return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
           (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

double latency_quantile(struct latency t, double p)
{
    return t.median_us * exp(t.log_sd * normal_quantile(p));
}

double latency_mean(struct latency t)
{
    return t.median_us * exp(t.log_sd * t.log_sd / 2);
}
