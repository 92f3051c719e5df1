/* The logarithm and the normal distribution, for those who ask 16 times for a decision: by tables, without a call, and
 * the same to the last bit on every machine (a C library takes other instructions, and other roundings, where it finds
 * them). Pure.
 *
 *   ln x: x = m * 2^e with 1 <= m < 2, and c the middle of that 128th of [1, 2) which m is in. ln x = e ln 2 + ln c +
 *   ln(1 + r), r = m / c - 1; |r| < 1/256, so that five terms of the series are right to 1e-16 of 1. Table: 1 / c, -ln(1 / c).
 *   P(Z <= z): cubic Hermite interpolation between knots at 1/32 from 0 to 6, of which value and slope are known; off by
 *   4e-9 at most (Davis, Interpolation and Approximation, 1975: h^4 / 384 * max |f''''|), continuous and growing as it must.
 *   Table: value, slope * 1/32. */
#ifndef POLICIES_NORMAL_H
#define POLICIES_NORMAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define NORMAL_LN_KNOTS  128
#define NORMAL_PER_UNIT  32
#define NORMAL_MOST      6
#define NORMAL_KNOTS     (NORMAL_MOST * NORMAL_PER_UNIT + 2)
#define NORMAL_LEAST_EXP 0x00100000u /* high halves of the smallest and of what is too large for a double */
#define NORMAL_MOST_EXP  0x7ff00000u
extern const double normal_ln_table[NORMAL_LN_KNOTS][2], normal_table[NORMAL_KNOTS][2];

/* x > 0, else it is what log() makes of it. */
static inline double normal_ln(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    const uint32_t high = (uint32_t)(bits >> 32);
    if (__builtin_expect(high - NORMAL_LEAST_EXP >= NORMAL_MOST_EXP - NORMAL_LEAST_EXP, 0))
        return log(x);
    const int32_t e = (int32_t)(high >> 20) - 1023;
    const double *at = normal_ln_table[high >> 13 & (NORMAL_LN_KNOTS - 1)];
    bits = (bits & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3ff0000000000000);
    double m;
    memcpy(&m, &bits, sizeof(m));
    const double r = m * at[0] - 1, rr = r * r;
    return e * 0.6931471805599453 + at[1] + (r + rr * (-0.5 + r * (1.0 / 3) + rr * (-0.25 + r * 0.2)));
}

/* P(Z <= z) of the standard normal distribution; beyond six 0 and 1. */
static inline double normal_share(double z)
{
    const double far = fabs(z);
    if (!(far < NORMAL_MOST))
        return z > 0 ? 1 : 0;
    const double at = far * NORMAL_PER_UNIT;
    const int32_t i = (int32_t)at;
    const double *k = normal_table[i], t = at - i;
    const double rise = k[2] - k[0],
                 upper = k[0] + t * (k[1] + t * (3 * rise - 2 * k[1] - k[3] + t * (k[1] + k[3] - 2 * rise)));
    return z < 0 ? 1 - upper : upper;
}

#endif
