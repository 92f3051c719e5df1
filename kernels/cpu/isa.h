/* The inner kernels of the CPU backend, one table per instruction set. Each table does the SAME arithmetic: sums have
 * the same order and roundings in all of them, lane by lane, so a node's instruction set changes its speed and not one
 * bit of its output. tests/unit/test_kernels_cpu.c holds them to it.
 *
 * Weights are taken 16 rows at a time ("a panel"), re-ordered so that one vector holds the same place of all 16 rows:
 * the lanes of a vector are rows, sums run along the row in each lane, and no sum ever crosses lanes. What is packed is
 * shared by all tokens of the call. kernels/cpu/body.h has the kernels, vec_*.h the vector types. */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include "kernels/internal.h"

#define PANEL_ROWS    16
#define EXPAND_ELEMS  512 /* elements of a row that are expanded at a time */
#define EXPAND_GROUPS (EXPAND_ELEMS / 16)
#define Q_CHUNK_ELEMS 1024 /* elements of a quantised panel that are packed before they are used */
#define F_CHUNK_ELEMS 256  /* the same for float panels; a multiple of 32 */

/* One activation row in 8 bits: numbers q[n], then at the given byte offsets, per 32 elements its scale d = max |x| /
 * 127, and per group of the weights' type -offset * sum(q) and -d * sum(q), which carry the offset and the minimum of
 * the weights. A group with infinities or NaN has d = NaN and q = 0. Where `wide` is not zero, q once more in 16
 * bits. */
struct act_layout {
    int32_t group, offset;
    size_t d, correction, minimum, wide, row_bytes;
};

/* Part of a panel: q[n/4][16][4] bytes, d and m [n / group][16]. For types of 8 bits where wide_bytes is 2, q is
 * [n/2][16][2] signed numbers of 16 bits, without the offset. */
struct q_panel {
    uint8_t *q;
    float *d, *m;
};

/* n elements (a multiple of the block, at most EXPAND_ELEMS) of 16 rows -> q[16][EXPAND_ELEMS], and d and m of each
 * group [16][EXPAND_GROUPS]. What lies `ahead` bytes behind what is read is asked for. */
typedef void expand_rows_fn(uint8_t *q, float *d, float *m, const uint8_t *const rows[PANEL_ROWS], int64_t n,
                            size_t ahead);

/* acc[t * 16 + row] += whole rows of n elements times 1 <= n_tok <= gemv_tokens tokens, straight from the blocks; the
 * order of gemm_q. `ahead` as above. */
typedef void gemv_fn(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                     const struct act_layout *l, size_t ahead);

/* The same in one step: n elements (whole blocks) of 16 rows -> a panel. */
typedef void panel_fn(const struct q_panel *panel, const uint8_t *const *rows, int64_t n, size_t ahead);

struct isa {
    const char *name;
    int wide_bytes;                       /* bytes of a number of an 8-bit type in panels: 1, or 2 */
    expand_rows_fn *expand[K_TYPE_COUNT]; /* NULL for float types */
    panel_fn *panel[K_TYPE_COUNT];        /* NULL: expanded, then packed; there where wide */
    gemv_fn *gemv[K_TYPE_COUNT];          /* there where gemv_tokens is not 0 */
    uint8_t gemv_tokens[K_TYPE_COUNT];    /* more of them are better served by packing */

    /* Re-order n words of 32 bits: panel[i][row] = rows[row][i]. */
    void (*pack)(uint32_t *panel, const void *const rows[PANEL_ROWS], int64_t n);
    void (*quantise)(uint8_t *out, const float *x, int64_t n, const struct act_layout *l);

    /* acc[t * acc_stride + row] += sum over n elements from k0 on, for 16 rows and n_tok tokens. k0 is a multiple of
     * 32. Quantised: for each group in order acc = fma(d * dx, (float)exact integer sum, acc), then for types with a
     * minimum acc = fma(m, -dx * sum(q), acc). */
    void (*gemm_q)(float *acc, int64_t acc_stride, const struct q_panel *w, const uint8_t *const *x, int64_t n_tok,
                   int64_t k0, int64_t n, const struct act_layout *l, const struct quant_form *form);
    /* Float: for each 32 elements p = 0, then p = fma(w, x, p) in order; acc = acc + p. */
    void (*gemm_f)(float *acc, int64_t acc_stride, const float *panel, const float *const *x, int64_t n_tok, int64_t k0,
                   int64_t n);

    void (*f16_to_f32)(float *y, const uint16_t *x, int64_t n);
    void (*q8_0_to_f32)(float *y, const uint8_t *blocks, int64_t n); /* n a multiple of 32 */
    void (*bf16_to_f32)(float *y, const uint16_t *x, int64_t n);
    void (*f32_to_f16)(uint16_t *y, const float *x, int64_t n);

    /* Sum of squares in double: 8 lanes, lane i % 8 for element i, then halves added until one is left. */
    void (*rms_norm)(float *y, const float *x, const float *w, int64_t n, float eps);
    void (*silu_mul)(float *y, const float *gate, const float *up, int64_t n);
    void (*add)(float *y, const float *x, int64_t n);
    void (*add_scaled)(float *y, const float *x, float scale, int64_t n); /* y = y + scale * x, two roundings */
    void (*rotate)(float *x, const float *cosine, const float *sine, int32_t half, enum k_rope_style style);

    /* Scores of one page -> weights: s[64] times scale, *max over the first n, s = exp(s - max), zeros from n on, *sum
     * in 16 lanes, then halves. */
    void (*softmax_page)(float *s, int32_t n, float scale, float *max, float *sum);
    /* out[q * out_stride + i] = fma(p[q * 64 + j], v[j * v_stride + i], out) for j0 <= j < j1 in order. */
    void (*weigh)(float *out, int64_t out_stride, const float *p, int64_t n_query, const float *v, int64_t v_stride,
                  int64_t j0, int64_t j1, int64_t d_v);
    /* Fold a page (max, sum, out) into what was gathered before. */
    void (*merge)(float *out, float *max, float *sum, const float *page_out, float page_max, float page_sum,
                  int64_t d_v);
};

extern const struct isa isa_scalar;
#if defined(__x86_64__)
extern const struct isa isa_avx2;   /* AVX2, FMA, F16C */
extern const struct isa isa_avx512; /* AVX-512 F, BW, VL, VNNI */
#endif

/* By name, NULL when this CPU lacks it; the fastest one for a NULL name. */
const struct isa *isa_find(const char *name);

#endif
