#include "policies/latency.h"

#include <math.h>

#include "policies/normal.h"

#define SURELY 6 /* spreads: what is beyond is one in a billion */

double normal_below(double z)
{
    return 0.5 * erfc(-z * M_SQRT1_2);
}

static double side(const struct latency *t, double over)
{
    return over < 0 && t->log_sd_below > 0 ? t->log_sd_below : t->log_sd;
}

/* exp(-x), on the safe side: by 5% at most up to x = 1.3, then more. Routing asks it of every candidate. */
static double tail(double x)
{
    return 1 / (1 + x * (1 + x * (1.0 / 2 + x / 6)));
}

double latency_within(const struct latency *t, double limit_us)
{
    if (limit_us <= 0)
        return 0;
    if (limit_us == t->limit_us)
        return t->within_limit;
    if (t->median_us <= 0)
        return 1;
    const double over = normal_ln(limit_us / t->median_us);
    const double sd = side(t, over);
    const double usual = over > SURELY * sd ? 1 : sd > 0 ? normal_share(over / sd) : limit_us >= t->median_us;
    if (!(t->odd > 0))
        return usual;
    return usual * (1 - t->odd) + (over > 0 && t->odd_log > 0 ? (1 - tail(over / t->odd_log)) * t->odd : 0);
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

double latency_quantile(const struct latency *t, double p)
{
    return t->median_us * exp(side(t, p - 0.5) * normal_quantile(p));
}

/* Of each half by itself: E[exp(sd |Z|)] = 2 exp(sd^2 / 2) P(Z <= sd). */
double latency_mean_reckoned(const struct latency *t)
{
    const double up = t->log_sd, down = side(t, -1);
    if (up == down)
        return t->median_us * exp(up * up / 2);
    return t->median_us * (exp(up * up / 2) * normal_share(up) + exp(down * down / 2) * normal_share(-down));
}
