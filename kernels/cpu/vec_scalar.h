/* Vectors of 16 lanes as plain arrays, for CPUs without the newer instruction sets. fmaf keeps the single rounding that
 * the others have in hardware; without FMA it is slow and right. */
#ifndef KERNELS_CPU_VEC_SCALAR_H
#define KERNELS_CPU_VEC_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

#define TILE_TOKENS 1
#define WIDE_BYTES  1

struct vf {
    float v[16];
};
struct vi {
    int32_t v[16];
};
struct vd {
    double v[8];
};

#define LANES(result, expression)                                                                                      \
    do {                                                                                                               \
        for (int i = 0; i < 16; i++)                                                                                   \
            (result).v[i] = (expression);                                                                              \
    } while (0)

static inline struct vf vf_load(const float *p)
{
    struct vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

static inline struct vf vf_load_part(const float *p, int64_t n)
{
    struct vf r = {{0}};
    memcpy(r.v, p, (size_t)n * sizeof *p);
    return r;
}

static inline void vf_store(float *p, struct vf a)
{
    memcpy(p, a.v, sizeof a.v);
}

static inline void vf_store_part(float *p, struct vf a, int64_t n)
{
    memcpy(p, a.v, (size_t)n * sizeof *p);
}

static inline struct vf vf_set(float f)
{
    struct vf r;
    LANES(r, f);
    return r;
}

static inline struct vf vf_add(struct vf a, struct vf b)
{
    LANES(a, a.v[i] + b.v[i]);
    return a;
}

static inline struct vf vf_sub(struct vf a, struct vf b)
{
    LANES(a, a.v[i] - b.v[i]);
    return a;
}

static inline struct vf vf_mul(struct vf a, struct vf b)
{
    LANES(a, a.v[i] * b.v[i]);
    return a;
}

static inline struct vf vf_div(struct vf a, struct vf b)
{
    LANES(a, a.v[i] / b.v[i]);
    return a;
}

static inline struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
    LANES(a, fmaf(a.v[i], b.v[i], c.v[i]));
    return a;
}

/* The second operand when either is NaN. */
static inline struct vf vf_max(struct vf a, struct vf b)
{
    LANES(a, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
    return a;
}

static inline struct vf vf_min(struct vf a, struct vf b)
{
    LANES(a, a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
    return a;
}

static inline struct vf vf_round(struct vf a)
{
    LANES(a, rintf(a.v[i]));
    return a;
}

/* 2^a for whole a in [-126, 127]; anything for NaN. */
static inline struct vf vf_pow2(struct vf a)
{
    for (int i = 0; i < 16; i++) {
        uint32_t bits = isnan(a.v[i]) ? 0 : (uint32_t)((int32_t)a.v[i] + 127) << 23;
        memcpy(&a.v[i], &bits, sizeof bits);
    }
    return a;
}

static inline float vf_sum(struct vf a)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] += a.v[i + half];
    return a.v[0];
}

static inline float vf_max_lane(struct vf a)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

static inline struct vf vf_load_f16(const uint16_t *p)
{
    struct vf r;
    LANES(r, k_f16_to_f32(p[i]));
    return r;
}

static inline struct vf vf_load_i8(const int8_t *p)
{
    struct vf r;
    LANES(r, (float)p[i]);
    return r;
}

static inline void vf_store_f16(uint16_t *p, struct vf a)
{
    for (int i = 0; i < 16; i++)
        p[i] = k_f32_to_f16(a.v[i]);
}

static inline struct vf vf_from_vi(struct vi a)
{
    struct vf r;
    LANES(r, (float)a.v[i]);
    return r;
}

static inline struct vi vi_set(int32_t n)
{
    struct vi r;
    LANES(r, n);
    return r;
}

static inline struct vi vi_add(struct vi a, struct vi b)
{
    LANES(a, a.v[i] + b.v[i]);
    return a;
}

/* |a| as bits: ordered like the numbers, NaN above all. */
static inline struct vi vi_magnitude(struct vf a)
{
    struct vi r;
    memcpy(r.v, a.v, sizeof r.v);
    LANES(r, r.v[i] & 0x7fffffff);
    return r;
}

static inline struct vi vi_max(struct vi a, struct vi b)
{
    LANES(a, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
    return a;
}

static inline int32_t vi_max_lane(struct vi a)
{
    int32_t best = a.v[0];
    for (int i = 1; i < 16; i++)
        best = a.v[i] > best ? a.v[i] : best;
    return best;
}

static inline int32_t vi_sum(struct vi a)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += a.v[i];
    return sum;
}

/* To nearest, ties to even; |a| < 2^31. */
static inline struct vi vi_round(struct vf a)
{
    struct vi r;
    LANES(r, (int32_t)rintf(a.v[i]));
    return r;
}

static inline void vi_store_i8(int8_t *p, struct vi a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)a.v[i];
}

static inline struct vd vd_zero(void)
{
    return (struct vd){{0}};
}

/* acc + x^2 of 8 floats. */
static inline struct vd vd_add_squares(struct vd acc, const float *x)
{
    for (int i = 0; i < 8; i++)
        acc.v[i] += (double)x[i] * (double)x[i];
    return acc;
}

static inline double vd_sum(struct vd a)
{
    for (int half = 4; half; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] += a.v[i + half];
    return a.v[0];
}

/* panel[i][row] = word i of each of 16 rows, i < 8; the rows' words start `at` bytes in. */
static inline void vec_pack_8(uint32_t *panel, const uint8_t *const rows[PANEL_ROWS], int64_t at)
{
    for (int r = 0; r < PANEL_ROWS; r++)
        for (int i = 0; i < 8; i++)
            memcpy(&panel[i * PANEL_ROWS + r], rows[r] + at + 4 * i, 4);
}

/* acc[t] = correction[t] + sum of `steps` steps of 4 products in each lane. Weights are below 2^bits. */
static inline void vec_dot(struct vi *acc, const uint8_t *w, const int8_t *const *x, const int32_t *correction,
                           int steps, int bits, int n_tok)
{
    (void)bits;
    for (int t = 0; t < n_tok; t++) {
        acc[t] = vi_set(correction[t]);
        for (int s = 0; s < steps; s++)
            for (int r = 0; r < PANEL_ROWS; r++)
                for (int i = 0; i < 4; i++)
                    acc[t].v[r] += w[s * 64 + r * 4 + i] * x[t][4 * s + i];
    }
}

#endif
