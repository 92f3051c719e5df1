/* Products of BF16 weights with activations that are rounded to BF16, two numbers at a time, as AVX512-BF16 has them.
 * They are a numerics class of their own (K_FAST_BF16 in kernels/ops.h): no other instruction set multiplies like that.
 *
 * One step, vdpbf16ps (Intel SDM volume 2, VDPBF16PS), takes a sum and two numbers of weights and of activations:
 *     sum = fma(w[2i + 1], x[2i + 1], sum), then sum = fma(w[2i], x[2i], sum)
 * each rounded to nearest even; inputs and results below the normal range are zeros, whatever the control register says.
 * The order of a row's sum: for each 32 elements p = 0, then p = step(p, pair) in order of pairs; acc = acc + p. That is the
 * same whatever the number of tokens, the cut of the work, and whether weights are packed or taken from where they lie. */
#ifndef KERNELS_CPU_PAIRS_H
#define KERNELS_CPU_PAIRS_H

#include "kernels/cpu/isa.h"

#define PAIR_BLOCK       32  /* elements whose sum is begun anew */
#define PAIR_CHUNK_ELEMS 512 /* elements of a panel that are packed before they are used; a multiple of PAIR_BLOCK */

struct pairs {
    /* A row of activations: n numbers rounded to nearest even, NaN stays NaN, and zeros up to a multiple of PAIR_BLOCK. */
    void (*round)(uint16_t *out, const float *x, int64_t n);

    /* acc[t * PANEL_ROWS + row] += n elements from k0 on, a multiple of PAIR_BLOCK, for 16 rows and n_tok tokens.
     * panel: [(n + 1) / 2][16] pairs; where n is odd, the last pair's second number is zero. x: rows as round()
     * leaves. */
    void (*gemm)(float *acc, const uint32_t *panel, const uint16_t *const *x, int64_t n_tok, int64_t k0, int64_t n);

    /* The same for whole rows of n elements and 1 <= n_tok <= gemv_tokens, straight from the weights. What lies `ahead`
     * bytes behind what is read is asked for. */
    void (*gemv)(float *acc, const uint8_t *const *rows, const uint16_t *const *x, int n_tok, int64_t n, size_t ahead);
    int gemv_tokens;
};

#if defined(__x86_64__)
extern const struct pairs pairs_avx512;
#endif

/* NULL where this CPU has no AVX512-BF16. */
const struct pairs *pairs_find(void);

#endif
