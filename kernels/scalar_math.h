/* exp in float32 as one fixed sequence of operations, so that the vector code of every instruction set can repeat it
 * bit for bit; the C library's expf differs between machines. Error below 2 ulp for results that are normal numbers;
 * arguments outside [-87, 88] are clamped to it (results 1.6e-38 and 1.7e38), NaN stays NaN. */
#ifndef KERNELS_SCALAR_MATH_H
#define KERNELS_SCALAR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2. ln 2 in two parts so that n * EXP_LN2_HI is exact for
 * |n| <= 127; exp(r) by its Taylor series to r^7/7!, whose remainder is below 6e-9 there. */
#define EXP_MIN    (-87.0f)
#define EXP_MAX    88.0f
#define EXP_LOG2E  0x1.715476p+0f
#define EXP_LN2_HI 0x1.62e400p-1f
#define EXP_LN2_LO 0x1.7f7d1cp-20f
#define EXP_C7     (1.0f / 5040.0f)
#define EXP_C6     (1.0f / 720.0f)
#define EXP_C5     (1.0f / 120.0f)
#define EXP_C4     (1.0f / 24.0f)
#define EXP_C3     (1.0f / 6.0f)

static inline float scalar_exp(float x)
{
    x = EXP_MAX < x ? EXP_MAX : x; /* written so that NaN passes, as min and max of x86 do */
    x = EXP_MIN > x ? EXP_MIN : x;
    float n = rintf(x * EXP_LOG2E);
    float r = fmaf(n, -EXP_LN2_LO, fmaf(n, -EXP_LN2_HI, x));
    float p = fmaf(EXP_C7, r, EXP_C6);
    p = fmaf(p, r, EXP_C5);
    p = fmaf(p, r, EXP_C4);
    p = fmaf(p, r, EXP_C3);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    if (isnan(x))
        return x;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23; /* 2^n: n is in [-126, 127] */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline float scalar_silu(float x)
{
    return x / (1.0f + scalar_exp(-x));
}

#endif
