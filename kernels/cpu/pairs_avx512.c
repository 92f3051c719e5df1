/* Products of BF16 pairs for AVX-512 with BF16; compiled with those flags, called only where the CPU has them. What
 * they compute: pairs.h. Lanes are weight rows, as everywhere. */
#include "kernels/cpu/pairs.h"

#include "kernels/cpu/vec_avx512.h"

#define PAIRS_INLINE static inline __attribute__((always_inline))
#define PAIRS_TILE   16 /* tokens: so many sums, and as many registers are left for weights and activations */
#define PAIRS_GEMV   4
#define BLOCK_PAIRS  (PAIR_BLOCK / 2)

PAIRS_INLINE __m512 add_pair(__m512 sum, __m512i w, const uint16_t *x)
{
    int32_t two;
    memcpy(&two, x, sizeof two);
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(two));
}

static void round_row(uint16_t *restrict out, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = k_f32_to_bf16(x[i]);
    for (int64_t i = n; i % PAIR_BLOCK; i++)
        out[i] = 0;
}

/* Bound by the products: one load of weights for PAIRS_TILE of them, and activations are their operand in memory. */
PAIRS_INLINE void gemm_tile(float *acc, const uint32_t *panel, const uint16_t *const *x, int64_t k0, int64_t n_pairs,
                            int n_tok)
{
    for (int64_t b = 0; b < n_pairs; b += BLOCK_PAIRS) {
        int64_t end = b + BLOCK_PAIRS < n_pairs ? b + BLOCK_PAIRS : n_pairs;
        __m512 part[PAIRS_TILE];
        for (int t = 0; t < n_tok; t++)
            part[t] = _mm512_setzero_ps();
        for (int64_t i = b; i < end; i++) {
            __m512i w = _mm512_loadu_si512(panel + i * PANEL_ROWS);
            for (int t = 0; t < n_tok; t++)
                part[t] = add_pair(part[t], w, x[t] + k0 + 2 * i);
        }
        for (int t = 0; t < n_tok; t++) {
            float *sum = acc + t * PANEL_ROWS;
            _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), part[t]));
        }
    }
}

static void gemm(float *acc, const uint32_t *panel, const uint16_t *const *x, int64_t n_tok, int64_t k0, int64_t n)
{
    int64_t t = 0, n_pairs = (n + 1) / 2;
    for (; t + PAIRS_TILE <= n_tok; t += PAIRS_TILE)
        gemm_tile(acc + t * PANEL_ROWS, panel, x + t, k0, n_pairs, PAIRS_TILE);
    for (; t + 4 <= n_tok; t += 4)
        gemm_tile(acc + t * PANEL_ROWS, panel, x + t, k0, n_pairs, 4);
    for (; t < n_tok; t++)
        gemm_tile(acc + t * PANEL_ROWS, panel, x + t, k0, n_pairs, 1);
}

/* A block of 32 elements of each row from byte `at` on. */
PAIRS_INLINE void gemv_block(__m512 *acc, const uint8_t *const *rows, int64_t at, const uint16_t *const *x, int64_t k,
                             int n_tok)
{
    __m512 part[PAIRS_GEMV];
    for (int t = 0; t < n_tok; t++)
        part[t] = _mm512_setzero_ps();
    for (int half = 0; half < 2; half++) {
        __m512i w[BLOCK_PAIRS / 2];
        vec_transpose_8(w, rows, at + half * PAIR_BLOCK);
        for (int i = 0; i < BLOCK_PAIRS / 2; i++)
            for (int t = 0; t < n_tok; t++)
                part[t] = add_pair(part[t], w[i], x[t] + k + half * BLOCK_PAIRS + 2 * i);
    }
    for (int t = 0; t < n_tok; t++)
        acc[t] = _mm512_add_ps(acc[t], part[t]);
}

/* What is left of the rows, as a block with zeros after its end. */
PAIRS_INLINE void gemv_rest(__m512 *acc, const uint8_t *const *rows, const uint16_t *const *x, int64_t k, int64_t n,
                            int n_tok)
{
    uint16_t copy[PANEL_ROWS][PAIR_BLOCK] = {{0}};
    const uint8_t *at[PANEL_ROWS];
    for (int r = 0; r < PANEL_ROWS; r++) {
        memcpy(copy[r], rows[r] + 2 * k, (size_t)(n - k) * sizeof copy[r][0]);
        at[r] = (const uint8_t *)copy[r];
    }
    gemv_block(acc, at, 0, x, k, n_tok);
}

/* Bound by memory: a block is one line of 64 bytes of each row. */
PAIRS_INLINE void gemv_rows(float *sums, const uint8_t *const *rows, const uint16_t *const *x, int64_t n, size_t ahead,
                            int n_tok)
{
    __m512 acc[PAIRS_GEMV];
    int64_t k = 0;
    for (int t = 0; t < n_tok; t++)
        acc[t] = _mm512_loadu_ps(sums + t * PANEL_ROWS);
    for (; k + PAIR_BLOCK <= n; k += PAIR_BLOCK) {
        for (int r = 0; r < PANEL_ROWS; r++)
            __builtin_prefetch(rows[r] + 2 * k + ahead, 0, 2);
        gemv_block(acc, rows, 2 * k, x, k, n_tok);
    }
    if (k < n)
        gemv_rest(acc, rows, x, k, n, n_tok);
    for (int t = 0; t < n_tok; t++)
        _mm512_storeu_ps(sums + t * PANEL_ROWS, acc[t]);
}

/* A copy for each number of tokens, so that sums stay in registers. */
static void gemv(float *acc, const uint8_t *const *rows, const uint16_t *const *x, int n_tok, int64_t n, size_t ahead)
{
    switch (n_tok) {
    case 1: gemv_rows(acc, rows, x, n, ahead, 1); break;
    case 2: gemv_rows(acc, rows, x, n, ahead, 2); break;
    case 3: gemv_rows(acc, rows, x, n, ahead, 3); break;
    default: gemv_rows(acc, rows, x, n, ahead, PAIRS_GEMV); break;
    }
}

const struct pairs pairs_avx512 = {.round = round_row, .gemm = gemm, .gemv = gemv, .gemv_tokens = PAIRS_GEMV};
