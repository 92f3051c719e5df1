/* The inner kernels, written once over the vector types of vec_*.h. Each isa_*.c includes its vector header, defines
 * ISA_NAME and ISA_TABLE, and includes this file, which ends in the table. What each kernel computes: isa.h. */
#include "kernels/expand.h"
#include "kernels/scalar_math.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* ---- expanding and packing ------------------------------------------------------------------------------------ */

#define EXPAND_ROWS(name, elems, bytes, group)                                                                         \
    static void rows_##name(uint8_t *q, float *d, float *m, const uint8_t *const rows[PANEL_ROWS], int64_t n,          \
                            size_t ahead)                                                                              \
    {                                                                                                                  \
        for (int r = 0; r < PANEL_ROWS; r++) {                                                                         \
            const uint8_t *block = rows[r];                                                                            \
            float *dr = d + r * EXPAND_GROUPS, *mr = m + r * EXPAND_GROUPS;                                            \
            for (int64_t i = 0; i < n; i += (elems), block += (bytes)) {                                               \
                for (int line = 0; line < (bytes); line += 64)                                                         \
                    __builtin_prefetch(block + ahead + line, 0, 2);                                                    \
                expand_##name(block, q + r * EXPAND_ELEMS + i, dr + i / (group), mr + i / (group));                    \
            }                                                                                                          \
        }                                                                                                              \
    }

EXPAND_ROWS(q4_0, 32, 18, 32)
EXPAND_ROWS(q4_1, 32, 20, 32)
EXPAND_ROWS(q5_0, 32, 22, 32)
EXPAND_ROWS(q5_1, 32, 24, 32)
EXPAND_ROWS(q8_0, 32, 34, 32)
EXPAND_ROWS(q2_k, 256, 84, 16)
EXPAND_ROWS(q3_k, 256, 110, 16)
EXPAND_ROWS(q4_k, 256, 144, 32)
EXPAND_ROWS(q5_k, 256, 176, 32)
EXPAND_ROWS(q6_k, 256, 210, 16)
EXPAND_ROWS(iq4_nl, 32, 18, 32)
EXPAND_ROWS(iq4_xs, 256, 136, 32)

static void pack(uint32_t *panel, const void *const rows[PANEL_ROWS], int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        vec_pack_8(panel + i * PANEL_ROWS, (const uint8_t *const *)rows, 4 * i);
    for (; i < n; i++)
        for (int r = 0; r < PANEL_ROWS; r++)
            memcpy(&panel[i * PANEL_ROWS + r], (const uint8_t *)rows[r] + 4 * i, 4);
}

/* ---- activations in 8 bits ------------------------------------------------------------------------------------ */

/* 32 numbers -> q, their scale, and the sums of each half. */
static ALWAYS_INLINE void quantise_32(int8_t *q, float *d, int32_t sum[2], const float *x)
{
    struct vf a = vf_load(x), b = vf_load(x + 16);
    int32_t top_bits = vi_max_lane(vi_max(vi_magnitude(a), vi_magnitude(b)));
    float top;
    memcpy(&top, &top_bits, sizeof top);
    sum[0] = sum[1] = 0;
    /* Below 2^-100 the reciprocal would overflow; such a group is zero for any practical purpose. */
    if (!(top >= 0x1p-100f && top <= 0x1.fffffep+127f)) {
        memset(q, 0, 32);
        *d = top < 1.0f ? 0.0f : NAN;
        return;
    }
    *d = top / 127.0f;
    struct vf inverse = vf_set(127.0f / top);
    struct vi qa = vi_round(vf_mul(a, inverse)), qb = vi_round(vf_mul(b, inverse));
    vi_store_i8(q, qa);
    vi_store_i8(q + 16, qb);
    sum[0] = vi_sum(qa);
    sum[1] = vi_sum(qb);
}

static ALWAYS_INLINE void widen_32(int16_t *restrict wide, const int8_t *restrict q)
{
    for (int i = 0; i < 32; i++)
        wide[i] = q[i];
}

static void quantise(uint8_t *out, const float *x, int64_t n, const struct act_layout *l)
{
    int16_t *wide = (int16_t *)(out + l->wide);
    float *d = (float *)(out + l->d), *minimum = (float *)(out + l->minimum);
    int32_t *correction = (int32_t *)(out + l->correction);
    for (int64_t g = 0; g < n / 32; g++) {
        int32_t sum[2];
        quantise_32((int8_t *)out + g * 32, &d[g], sum, x + g * 32);
        if (l->wide)
            widen_32(wide + g * 32, (const int8_t *)out + g * 32);
        if (l->group == 32) {
            correction[g] = -l->offset * (sum[0] + sum[1]);
            minimum[g] = -d[g] * (float)(sum[0] + sum[1]);
        } else {
            for (int half = 0; half < 2; half++) {
                correction[2 * g + half] = -l->offset * sum[half];
                minimum[2 * g + half] = -d[g] * (float)sum[half];
            }
        }
    }
}

/* Do TILE(width) at t for all n_tok tokens, in tiles as wide as the registers hold, then narrower. */
#define EACH_TILE(n_tok, TILE)                                                                                         \
    do {                                                                                                               \
        int64_t t = 0;                                                                                                 \
        for (; t + TILE_TOKENS <= (n_tok); t += TILE_TOKENS)                                                           \
            TILE(TILE_TOKENS);                                                                                         \
        for (; TILE_TOKENS > 4 && t + 4 <= (n_tok); t += 4)                                                            \
            TILE(4);                                                                                                   \
        for (; TILE_TOKENS > 2 && t + 2 <= (n_tok); t += 2)                                                            \
            TILE(2);                                                                                                   \
        for (; t < (n_tok); t++)                                                                                       \
            TILE(1);                                                                                                   \
    } while (0)

/* ---- products -------------------------------------------------------------------------------------------------- */

/* Bounds of a tile: n_tok x 16 sums. The integer kernel is bound by the dot instructions, 32 / 4 per token and group.
 * The form is a constant in each copy. */
static ALWAYS_INLINE void gemm_q_tile(float *acc, int64_t acc_stride, const struct q_panel *w, const uint8_t *const *x,
                                      int64_t k0, int64_t n, const struct act_layout *l, struct quant_form form,
                                      int n_tok)
{
    struct vf total[TILE_TOKENS];
    struct vi dot[TILE_TOKENS];
    const int8_t *q[TILE_TOKENS];
    int32_t correction[TILE_TOKENS];
    const int group = form.group;
    /* NOLINTNEXTLINE(bugprone-branch-clone): WIDE_BYTES is 1 or 2 */
    const int bytes = form.bits == 8 ? WIDE_BYTES : 1;
    for (int t = 0; t < n_tok; t++)
        total[t] = vf_load(acc + t * acc_stride);
    for (int64_t g = 0; g < n / group; g++) {
        int64_t xg = k0 / group + g;
        for (int t = 0; t < n_tok; t++) {
            q[t] = (const int8_t *)x[t] + (bytes == 2 ? l->wide : 0) + xg * group * bytes;
            correction[t] = form.offset ? ((const int32_t *)(x[t] + l->correction))[xg] : 0;
        }
        vec_dot(dot, w->q + g * group * PANEL_ROWS * bytes, q, correction, group / 4, form.bits, n_tok);
        struct vf d = vf_load(w->d + g * PANEL_ROWS);
        for (int t = 0; t < n_tok; t++) {
            float dx = ((const float *)(x[t] + l->d))[xg * group / 32];
            total[t] = vf_fma(vf_mul(d, vf_set(dx)), vf_from_vi(dot[t]), total[t]);
        }
        if (form.has_min) {
            struct vf m = vf_load(w->m + g * PANEL_ROWS);
            for (int t = 0; t < n_tok; t++)
                total[t] = vf_fma(m, vf_set(((const float *)(x[t] + l->minimum))[xg]), total[t]);
        }
    }
    for (int t = 0; t < n_tok; t++)
        vf_store(acc + t * acc_stride, total[t]);
}

typedef void gemm_q_fn(float *acc, int64_t acc_stride, const struct q_panel *w, const uint8_t *const *x, int64_t n_tok,
                       int64_t k0, int64_t n, const struct act_layout *l);

/* Full tiles and what is left, each in a function of its own for each form: together in one, compilers run out of
 * registers for all of them. */
#define GEMM_Q_FORM(name, ...)                                                                                         \
    static __attribute__((noinline)) void gemm_q_##name##_tiles(                                                       \
        float *acc, int64_t acc_stride, const struct q_panel *w, const uint8_t *const *x, int64_t n_tok, int64_t k0,   \
        int64_t n, const struct act_layout *l)                                                                         \
    {                                                                                                                  \
        for (int64_t t = 0; t < n_tok; t += TILE_TOKENS)                                                               \
            gemm_q_tile(acc + t * acc_stride, acc_stride, w, x + t, k0, n, l, (struct quant_form){__VA_ARGS__},        \
                        TILE_TOKENS);                                                                                  \
    }                                                                                                                  \
    static __attribute__((noinline)) void gemm_q_##name(float *acc, int64_t acc_stride, const struct q_panel *w,       \
                                                        const uint8_t *const *x, int64_t n_tok, int64_t k0, int64_t n, \
                                                        const struct act_layout *l)                                    \
    {                                                                                                                  \
        int64_t full = n_tok / TILE_TOKENS * TILE_TOKENS;                                                              \
        gemm_q_##name##_tiles(acc, acc_stride, w, x, full, k0, n, l);                                                  \
        acc += full * acc_stride;                                                                                      \
        x += full;                                                                                                     \
        const struct quant_form form = {__VA_ARGS__};                                                                  \
        EACH_TILE(n_tok - full, GEMM_Q_REST);                                                                          \
    }
#define GEMM_Q_REST(width) gemm_q_tile(acc + t * acc_stride, acc_stride, w, x + t, k0, n, l, form, width)

/* Copies for the forms there are; one of more bits, or with an offset where there is none, would do as well. */
GEMM_Q_FORM(small_min, 16, 0, 6, true)
GEMM_Q_FORM(small, 16, 1, 6, false)
GEMM_Q_FORM(four_min, 32, 0, 4, true)
GEMM_Q_FORM(five_min, 32, 0, 5, true)
GEMM_Q_FORM(four, 32, 1, 4, false)
GEMM_Q_FORM(five, 32, 1, 5, false)
GEMM_Q_FORM(eight, 32, 1, 8, false)

static void gemm_q(float *acc, int64_t acc_stride, const struct q_panel *w, const uint8_t *const *x, int64_t n_tok,
                   int64_t k0, int64_t n, const struct act_layout *l, const struct quant_form *form)
{
    gemm_q_fn *fn = form->group == 16 ? form->has_min ? gemm_q_small_min : gemm_q_small
                    : form->has_min   ? form->bits <= 4 ? gemm_q_four_min : gemm_q_five_min
                    : form->bits <= 4 ? gemm_q_four
                    : form->bits <= 5 ? gemm_q_five
                                      : gemm_q_eight;
    fn(acc, acc_stride, w, x, n_tok, k0, n, l);
}

static ALWAYS_INLINE void gemm_f_tile(float *acc, int64_t acc_stride, const float *panel, const float *const *x,
                                      int64_t k0, int64_t n, int n_tok)
{
    for (int64_t k = 0; k < n; k += 32) {
        struct vf part[TILE_TOKENS];
        int64_t end = k + 32 < n ? k + 32 : n;
        for (int t = 0; t < n_tok; t++)
            part[t] = vf_set(0.0f);
        for (int64_t i = k; i < end; i++) {
            struct vf w = vf_load(panel + i * PANEL_ROWS);
            for (int t = 0; t < n_tok; t++)
                part[t] = vf_fma(w, vf_set(x[t][k0 + i]), part[t]);
        }
        for (int t = 0; t < n_tok; t++)
            vf_store(acc + t * acc_stride, vf_add(vf_load(acc + t * acc_stride), part[t]));
    }
}

static void gemm_f(float *acc, int64_t acc_stride, const float *panel, const float *const *x, int64_t n_tok, int64_t k0,
                   int64_t n)
{
#define TILE(width) gemm_f_tile(acc + t * acc_stride, acc_stride, panel, x + t, k0, n, width)
    EACH_TILE(n_tok, TILE);
#undef TILE
}

/* ---- conversions and elementwise ------------------------------------------------------------------------------- */

static void f16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        vf_store(y + i, vf_load_f16(x + i));
    for (; i < n; i++)
        y[i] = k_f16_to_f32(x[i]);
}

/* Exact: 8 bits times the 11 of a half. */
static void q8_0_to_f32(float *y, const uint8_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += K_Q8_0_ELEMS, x += K_Q8_0_BYTES) {
        uint16_t half;
        memcpy(&half, x, sizeof half);
        struct vf d = vf_set(EXPAND_F16(half));
        vf_store(y + i, vf_mul(d, vf_load_i8((const int8_t *)x + 2)));
        vf_store(y + i + 16, vf_mul(d, vf_load_i8((const int8_t *)x + 18)));
    }
}

static void bf16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(&y[i], &bits, sizeof bits);
    }
}

static void f32_to_f16(uint16_t *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        vf_store_f16(y + i, vf_load(x + i));
    for (; i < n; i++)
        y[i] = k_f32_to_f16(x[i]);
}

static void rms_norm(float *y, const float *x, const float *w, int64_t n, float eps)
{
    struct vd squares = vd_zero();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        squares = vd_add_squares(squares, x + i);
    if (i < n) {
        float rest[8] = {0};
        memcpy(rest, x + i, (size_t)(n - i) * sizeof *x);
        squares = vd_add_squares(squares, rest);
    }
    float scale = (float)(1.0 / sqrt(vd_sum(squares) / (double)n + (double)eps));
    for (i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

/* scalar_exp in 16 lanes, step for step. */
static ALWAYS_INLINE struct vf vf_exp(struct vf x)
{
    x = vf_max(vf_set(EXP_MIN), vf_min(vf_set(EXP_MAX), x));
    struct vf n = vf_round(vf_mul(x, vf_set(EXP_LOG2E)));
    struct vf r = vf_fma(n, vf_set(-EXP_LN2_LO), vf_fma(n, vf_set(-EXP_LN2_HI), x));
    struct vf p = vf_fma(vf_set(EXP_C7), r, vf_set(EXP_C6));
    p = vf_fma(p, r, vf_set(EXP_C5));
    p = vf_fma(p, r, vf_set(EXP_C4));
    p = vf_fma(p, r, vf_set(EXP_C3));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_mul(p, vf_pow2(n));
}

static ALWAYS_INLINE struct vf vf_silu_mul(struct vf gate, struct vf up)
{
    struct vf e = vf_exp(vf_sub(vf_set(0.0f), gate));
    return vf_mul(vf_div(gate, vf_add(vf_set(1.0f), e)), up);
}

static void silu_mul(float *y, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        vf_store(y + i, vf_silu_mul(vf_load(gate + i), vf_load(up + i)));
    if (i < n)
        vf_store_part(y + i, vf_silu_mul(vf_load_part(gate + i, n - i), vf_load_part(up + i, n - i)), n - i);
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void add_scaled(float *y, const float *x, float scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += scale * x[i];
}

static void rotate(float *x, const float *cosine, const float *sine, int32_t half, enum k_rope_style style)
{
    int32_t step = style == K_ROPE_NEOX ? 1 : 2, partner = style == K_ROPE_NEOX ? half : 1;
    for (int32_t i = 0; i < half; i++) {
        float a = x[i * step], b = x[i * step + partner];
        x[i * step] = a * cosine[i] - b * sine[i];
        x[i * step + partner] = a * sine[i] + b * cosine[i];
    }
}

/* ---- attention ------------------------------------------------------------------------------------------------- */

static void softmax_page(float *s, int32_t n, float scale, float *max, float *sum)
{
    struct vf factor = vf_set(scale), top = vf_set(-INFINITY), total = vf_set(0.0f);
    for (int i = 0; i < K_PAGE_TOKENS; i += 16)
        vf_store(s + i, vf_mul(vf_load(s + i), factor));
    for (int i = n; i < K_PAGE_TOKENS; i++)
        s[i] = -INFINITY;
    for (int i = 0; i < K_PAGE_TOKENS; i += 16)
        top = vf_max(top, vf_load(s + i));
    *max = vf_max_lane(top);
    for (int i = 0; i < K_PAGE_TOKENS; i += 16)
        vf_store(s + i, vf_exp(vf_sub(vf_load(s + i), vf_set(*max))));
    for (int i = n; i < K_PAGE_TOKENS; i++)
        s[i] = 0.0f;
    for (int i = 0; i < K_PAGE_TOKENS; i += 16)
        total = vf_add(total, vf_load(s + i));
    *sum = vf_sum(total);
}

static ALWAYS_INLINE void weigh_tile(float *out, int64_t out_stride, const float *p, const float *v, int64_t v_stride,
                                     int64_t j0, int64_t j1, int64_t d_v, int n_query)
{
    for (int64_t i = 0; i < d_v; i += 16) {
        int64_t n = d_v - i < 16 ? d_v - i : 16;
        struct vf acc[TILE_TOKENS];
        for (int t = 0; t < n_query; t++)
            acc[t] = n == 16 ? vf_load(out + t * out_stride + i) : vf_load_part(out + t * out_stride + i, n);
        for (int64_t j = j0; j < j1; j++) {
            const float *row = v + j * v_stride + i;
            struct vf value = n == 16 ? vf_load(row) : vf_load_part(row, n);
            for (int t = 0; t < n_query; t++)
                acc[t] = vf_fma(value, vf_set(p[t * K_PAGE_TOKENS + j]), acc[t]);
        }
        for (int t = 0; t < n_query; t++) {
            if (n == 16)
                vf_store(out + t * out_stride + i, acc[t]);
            else
                vf_store_part(out + t * out_stride + i, acc[t], n);
        }
    }
}

static void weigh(float *out, int64_t out_stride, const float *p, int64_t n_query, const float *v, int64_t v_stride,
                  int64_t j0, int64_t j1, int64_t d_v)
{
#define TILE(width) weigh_tile(out + t * out_stride, out_stride, p + t * K_PAGE_TOKENS, v, v_stride, j0, j1, d_v, width)
    EACH_TILE(n_query, TILE);
#undef TILE
}

static void merge(float *out, float *max, float *sum, const float *page_out, float page_max, float page_sum,
                  int64_t d_v)
{
    float top = *max > page_max ? *max : page_max;
    float before = scalar_exp(*max - top), page = scalar_exp(page_max - top);
    *max = top;
    *sum = *sum * before + page_sum * page;
    for (int64_t i = 0; i < d_v; i++)
        out[i] = out[i] * before + page_out[i] * page;
}

const struct isa ISA_TABLE = {
    .name = ISA_NAME,
    .wide_bytes = WIDE_BYTES,
    .expand =
        {
            [K_Q4_0] = rows_q4_0,
            [K_Q4_1] = rows_q4_1,
            [K_Q5_0] = rows_q5_0,
            [K_Q5_1] = rows_q5_1,
            [K_Q8_0] = rows_q8_0,
            [K_Q2_K] = rows_q2_k,
            [K_Q3_K] = rows_q3_k,
            [K_Q4_K] = rows_q4_k,
            [K_Q5_K] = rows_q5_k,
            [K_Q6_K] = rows_q6_k,
            [K_IQ4_NL] = rows_iq4_nl,
            [K_IQ4_XS] = rows_iq4_xs,
        },
#ifdef ISA_PANEL
    .panel = ISA_PANEL,
#endif
#ifdef ISA_GEMV
    .gemv = ISA_GEMV,
    .gemv_tokens = ISA_GEMV_TOKENS,
#endif
    .pack = pack,
    .quantise = quantise,
    .gemm_q = gemm_q,
    .gemm_f = gemm_f,
    .f16_to_f32 = f16_to_f32,
    .q8_0_to_f32 = q8_0_to_f32,
    .bf16_to_f32 = bf16_to_f32,
    .f32_to_f16 = f32_to_f16,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .add = add,
    .add_scaled = add_scaled,
    .rotate = rotate,
    .softmax_page = softmax_page,
    .weigh = weigh,
    .merge = merge,
};
