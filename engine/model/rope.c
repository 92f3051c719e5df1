/* Frequencies of rotary embedding: plain, linearly interpolated, YaRN (arXiv 2309.00071, section 3.2), and divided by
 * the per-frequency factors that Llama 3.1 files carry. Computed once at load in float64. */
#include <math.h>

#include "engine/model/model_internal.h"

/* The (fractional) pair whose wavelength makes `turns` turns within the original context. */
static double yarn_pair(const struct rope_params *p, double turns)
{
    return p->d_rope * log(p->n_ctx_orig / (turns * 2.0 * M_PI)) / (2.0 * log(p->base));
}

void rope_frequencies(float *inv, const struct rope_params *p)
{
    double low = 0, high = 0;
    if (p->scaling == ROPE_SCALING_YARN) {
        low = fmax(floor(yarn_pair(p, p->beta_fast)), 0);
        high = fmin(ceil(yarn_pair(p, p->beta_slow)), p->d_rope - 1);
    }
    for (int32_t i = 0; i < p->d_rope / 2; i++) {
        double f = pow(p->base, -2.0 * i / p->d_rope);
        if (p->scaling == ROPE_SCALING_LINEAR) {
            f /= p->factor;
        } else if (p->scaling == ROPE_SCALING_YARN) {
            /* 0 keeps a fast pair as it was trained, 1 interpolates a slow one. */
            double ramp = fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);
            f = f / p->factor * ramp + f * (1 - ramp);
        }
        if (p->divisors)
            f /= (double)p->divisors[i];
        inv[i] = (float)f;
    }
}
