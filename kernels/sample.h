/* A token's choice as a backend with the logits in its own memory makes it: the plain cases of engine/text/sampler.h,
 * and the same id from the same logits as there.
 *
 * Weights are exp((logit - greatest) * scale), rounded down to units of 1 / K_SAMPLE_UNITS when they are summed: sums
 * of integers do not depend on their order. A number of 53 random bits is turned into a unit of the sum. */
#ifndef KERNELS_SAMPLE_H
#define KERNELS_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#define K_SAMPLE_UNITS 1099511627776.0f /* 2^40: sums of half a million weights stay below 2^59 */
#define K_SAMPLE_BANDS 1024             /* of falling likelihood, which find what has to be put in order */

struct k_sample {
    int32_t row;           /* of the logits */
    float scale;           /* 1 / temperature; 0: the greatest, ties to the lower id */
    float bands_per_logit; /* with top_k or top_p */
    int32_t top_k;         /* 0: off */
    bool want_total;       /* k_sampled.total */
    double top_p, min_p;   /* 1 and 0: off */
    uint64_t u53;          /* the random number of this step, 53 bits */
};

enum k_sampled_state {
    K_SAMPLED = 0,
    K_SAMPLED_NOT_FINITE, /* a logit is NaN or +infinity */
    K_SAMPLED_NOT_HERE    /* too many candidates to put in order, or none: the sampler has to see the logits */
};
struct k_sampled {
    int32_t id;
    int32_t state;    /* enum k_sampled_state */
    float top, logit; /* the greatest logit, and that of id */
    double total;     /* sum of exp(logit - top), as engine/text/softmax.c sums it */
};

#endif
