/* The CPU backend's other operations against the reference, over odd sizes, tails and extremes, with derived bounds;
 * and the numerics law for attention: written one by one or in chunks, on any threads and instruction set, same bits.
 * links: spw_kernels kernels_simde */
#include "tests/unit/test.h"

#include <float.h>

#include "tests/unit/kernels_help.h"
#include "tests/unit/kernels_isas.h"

static struct k_ctx *reference;

/* Run the statements with c = a context of each instruction set this CPU has, on one and on three threads. */
#define EACH_CONTEXT(c, ...)                                                                                           \
    for (size_t i_ = 0; i_ < 2 * HELP_ISAS; i_++) {                                                                    \
        struct k_ctx *c = help_isa_ctx(i_ % 2 ? 3 : 1, help_isas[i_ / 2]);                                             \
        if (!c)                                                                                                        \
            continue;                                                                                                  \
        __VA_ARGS__;                                                                                                   \
        k_cpu_ops.ctx_free(c);                                                                                         \
    }

/* |a - b| <= ulps roundings of the larger magnitude, or floor. NaN agrees with NaN. */
static int count_far(const float *a, const float *b, int64_t n, double ulps, double floor)
{
    int far = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)a[i], y = (double)b[i], bound = ulps * FLT_EPSILON * fmax(fabs(x), fabs(y)) + floor;
        far += !(fabs(x - y) <= bound || x == y || (isnan(x) && isnan(y)));
    }
    return far;
}

static void get_rows_is_dequantise(void)
{
    static const int32_t ids[] = {4, 0, 4, 6};
    for (size_t i = 0; i < HELP_TYPES; i++) {
        struct k_tensor w = help_tensor(help_types[i], 256, 7, 1);
        float y[4 * 256], expected[4 * 256];
        CHECK_INT(k_reference_ops.get_rows(reference, expected, &w, ids, 4), K_OK);
        EACH_CONTEXT(c, {
            CHECK_INT(k_cpu_ops.get_rows(c, y, &w, ids, 4), K_OK);
            CHECK(memcmp(y, expected, sizeof y) == 0);
        });
        help_tensor_free(&w);
    }
}

/* scale is within half a rounding, two products follow. */
static void rms_norm_is_near(void)
{
    static const int32_t dims[] = {1, 7, 8, 33, 576, 1536};
    for (size_t k = 0; k < sizeof dims / sizeof dims[0]; k++)
        for (int64_t rows = 1; rows <= 40; rows += 39) {
            int32_t dim = dims[k], stride = dim + 3;
            float *x = help_floats(rows * stride, 50.0f), *w = help_floats(dim, 1.0f);
            float *y = help_floats(rows * stride, 1.0f), *expected = help_floats(rows * stride, 1.0f);
            memset(x, 0, (size_t)dim * sizeof *x);
            memcpy(expected, y, (size_t)(rows * stride) * sizeof *y); /* gaps between rows stay as they are */
            k_reference_ops.rms_norm(reference, expected, x, w, rows, dim, stride, 1e-6f);
            EACH_CONTEXT(c, {
                float *in_place = help_floats(rows * stride, 1.0f);
                memcpy(in_place, x, (size_t)(rows * stride) * sizeof *x);
                CHECK_INT(k_cpu_ops.rms_norm(c, y, x, w, rows, dim, stride, 1e-6f), K_OK);
                CHECK_INT(count_far(y, expected, rows * stride, 3.0, 0.0), 0);
                k_cpu_ops.rms_norm(c, in_place, in_place, w, rows, dim, stride, 1e-6f);
                for (int64_t r = 0; r < rows; r++)
                    CHECK(memcmp(in_place + r * stride, y + r * stride, (size_t)dim * sizeof *y) == 0);
                free(in_place);
            });
            free(x), free(w), free(y), free(expected);
        }
}

/* Angles agree to 1e-10 in double; then two products and a sum, whose error is relative to |a| + |b|. */
static void rope_is_near(void)
{
    enum { N_TOK = HELP_ROPE_TOK, HEADS = 3, HEAD = 70, ROW = HEADS * HEAD + 4 };
    float inv_freq[32];
    struct k_token_ref tok[N_TOK];
    help_rope(tok, inv_freq);
    for (int style = 0; style < 2; style++)
        for (int32_t d_rope = 2; d_rope <= 64; d_rope += 31 * 2) {
            struct k_rope r = {inv_freq, 1.25f, d_rope, 6, (enum k_rope_style)style};
            float *x = help_floats(N_TOK * ROW, 1.0f), y[N_TOK * ROW], expected[N_TOK * ROW];
            memcpy(expected, x, sizeof expected);
            k_reference_ops.rope(reference, expected, ROW, HEADS, HEAD, tok, N_TOK, &r);
            EACH_CONTEXT(c, {
                for (int again = 0; again < 2; again++) { /* the second time from the kept table */
                    memcpy(y, x, sizeof y);
                    CHECK_INT(k_cpu_ops.rope(c, y, ROW, HEADS, HEAD, tok, N_TOK, &r), K_OK);
                    CHECK_INT(count_far(y, expected, N_TOK * ROW, 0.0, 2.0 * 1.25 * 3.0 * FLT_EPSILON), 0);
                }
                float one[ROW]; /* one token alone: the same bits */
                memcpy(one, x + 3 * ROW, sizeof one);
                k_cpu_ops.rope(c, one, ROW, HEADS, HEAD, tok + 3, 1, &r);
                CHECK(memcmp(one, y + 3 * ROW, sizeof one) == 0);
            });
            free(x);
        }
}

static void silu_mul_and_add_are_near(void)
{
    static const int64_t sizes[] = {1, 15, 16, 17, 8191, 20000};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        int64_t n = sizes[k];
        float *gate = help_floats(n, 20.0f), *up = help_floats(n, 3.0f);
        float *y = help_floats(n, 1.0f), *expected = help_floats(n, 1.0f);
        gate[0] = -200.0f; /* true value -200 e^-200 = 0; the clamped exponential leaves at most 200 e^-88 * 3 */
        if (n > 4)
            gate[1] = 200.0f, gate[2] = 0.0f, gate[3] = -0.0f;
        k_reference_ops.silu_mul(reference, expected, gate, up, n);
        EACH_CONTEXT(c, {
            CHECK_INT(k_cpu_ops.silu_mul(c, y, gate, up, n), K_OK);
            CHECK_INT(count_far(y, expected, n, 4.0, 1e-35), 0); /* exp 2 ulp, sum, quotient and product half each */
            memcpy(y, gate, (size_t)n * sizeof *y);
            k_cpu_ops.silu_mul(c, y, y, up, n);
            CHECK_INT(count_far(y, expected, n, 4.0, 1e-35), 0);
            memcpy(y, gate, (size_t)n * sizeof *y);
            CHECK_INT(k_cpu_ops.add(c, y, up, n), K_OK);
            int wrong = 0;
            for (int64_t i = 0; i < n; i++)
                wrong += y[i] != gate[i] + up[i];
            CHECK_INT(wrong, 0);
        });
        free(gate), free(up), free(y), free(expected);
    }
}

static void combine_is_near(void)
{
    enum { N_TOK = 3, USED = 4, DIM = 37 };
    float *x = help_floats(N_TOK * USED * DIM, 1.0f), *w = help_floats(N_TOK * USED, 1.0f);
    float *start = help_floats(N_TOK * DIM, 1.0f), y[N_TOK * DIM], expected[N_TOK * DIM];
    memcpy(expected, start, sizeof expected);
    k_reference_ops.combine_experts(reference, expected, x, w, USED, DIM, N_TOK);
    EACH_CONTEXT(c, {
        memcpy(y, start, sizeof y);
        CHECK_INT(k_cpu_ops.combine_experts(c, y, x, w, USED, DIM, N_TOK), K_OK);
        CHECK_INT(count_far(y, expected, N_TOK * DIM, 0.0, 5.0 * 2.0 * USED * FLT_EPSILON / 2.0), 0);
    });
    free(x), free(w), free(start);
}

/* ---- router: worked by hand ----------------------------------------------------------------------------------- */

static float logit(double p)
{
    return (float)log(p / (1.0 - p));
}

static void route_v3_by_hand(void)
{
    /* Four groups of two; scores .9 .1 | .6 .5 | .8 .35 | .2 .3. The bias lifts expert 7 by .95 for selection only:
     * its group scores .2 + 1.25 = 1.45, then 1.15, 1.1 and 1.0. Two groups stay: {6, 7} and {4, 5}. Three experts:
     * 7 (1.25), 4 (.8), 5 (.35); .9 of expert 0 is out with its group. */
    float p[8] = {.9f, .1f, .6f, .5f, .8f, .35f, .2f, .3f}, logits[8], bias[8] = {0, 0, 0, 0, 0, 0, 0, .95f}, w[3];
    int32_t ids[3];
    for (int i = 0; i < 8; i++)
        logits[i] = logit((double)p[i]);
    struct k_router r = {8, 3, 4, 2, K_GATE_SIGMOID, true, 2.5f, bias, true};
    EACH_CONTEXT(c, {
        CHECK_INT(k_cpu_ops.route(c, ids, w, logits, &r, 1), K_OK);
        CHECK(ids[0] == 7 && ids[1] == 4 && ids[2] == 5);
        float expected[3] = {2.5f * .3f / 1.45f, 2.5f * .8f / 1.45f, 2.5f * .35f / 1.45f};
        CHECK_INT(count_far(w, expected, 3, 16.0, 0.0), 0);
    });
    /* Groups that are out stay out even when every score left is below zero. */
    float low[8] = {-2, -2, -2, -2, -3, -3, -3, -3};
    r.bias = low;
    EACH_CONTEXT(c, {
        k_cpu_ops.route(c, ids, w, logits, &r, 1);
        CHECK(ids[0] == 0 && ids[1] == 2 && ids[2] == 3);
    });
}

static void route_v2_by_hand(void)
{
    /* Softmax; group score is the maximum: groups of .30 .02 | .2 .19 | .25 .04 -> first and third stay. */
    float p[6] = {.30f, .02f, .20f, .19f, .25f, .04f}, logits[12], w[4];
    int32_t ids[4];
    for (int i = 0; i < 6; i++)
        logits[i] = logf(p[i]) + 3.0f, logits[6 + i] = 1.5f; /* the second token ties everywhere */
    struct k_router r = {6, 2, 3, 2, K_GATE_SOFTMAX, false, 16.0f, NULL, false};
    EACH_CONTEXT(c, {
        CHECK_INT(k_cpu_ops.route(c, ids, w, logits, &r, 2), K_OK);
        CHECK(ids[0] == 0 && ids[1] == 4 && ids[2] == 0 && ids[3] == 1);
        float expected[4] = {4.8f, 4.0f, 16.0f / 6.0f, 16.0f / 6.0f};
        CHECK_INT(count_far(w, expected, 4, 16.0, 0.0), 0);
    });
    r.n_group = 0; /* no groups: plain top-k */
    k_reference_ops.route(reference, ids, w, logits, &r, 1);
    CHECK(ids[0] == 0 && ids[1] == 4);
    float nan[6] = {NAN, NAN, NAN, NAN, NAN, NAN}; /* still distinct, valid ids */
    k_reference_ops.route(reference, ids, w, nan, &r, 1);
    CHECK(ids[0] == 0 && ids[1] == 1);
    r.n_group = 4;
    CHECK_INT(k_cpu_ops.route(reference, ids, w, logits, &r, 1), K_BAD_SHAPE);
}

/* ---- attention ------------------------------------------------------------------------------------------------ */

struct attention_case {
    enum k_type type;
    int32_t n_tok, n_head, n_kv_head, d_k, d_v; /* n_kv_head 0: MLA with kv_lora d_v and d_rope d_k - d_v */
};

static int32_t row_elems(const struct attention_case *a)
{
    return a->n_kv_head ? a->n_kv_head * (a->d_k + a->d_v) : a->d_k;
}

static enum k_status attend(const struct k_ops *ops, struct k_ctx *c, const struct attention_case *a, float *y,
                            const float *q, const struct k_kv_pool *kv, const struct k_token_ref *tok, int32_t n_tok)
{
    float scale = 1.0f / sqrtf((float)a->d_k);
    if (a->n_kv_head) {
        struct k_gqa g = {a->n_head, a->n_kv_head, a->d_k, a->d_v, scale};
        return ops->attention_gqa(c, y, q, kv, &g, tok, n_tok);
    }
    struct k_mla m = {a->n_head, a->d_v, a->d_k - a->d_v, scale};
    return ops->attention_mla(c, y, q, kv, &m, tok, n_tok);
}

#define LARGE(n) (TEST_SANITIZED ? 65 : (n)) /* tokens where the heads are many or wide */
static const struct attention_case attention_cases[] = {
    {K_F32, 1, 2, 1, 16, 16},
    {K_F32, 150, 6, 2, 24, 24},
    {K_F16, LARGE(131), 12, 2, 128, 128},
    {K_F16, 64, 3, 3, 17, 9},
    {K_F32, 65, 20, 0, 72, 64},
    {K_F16, LARGE(200), 4, 0, 576, 512},
    {K_F32, 129, 1, 1, 33, 100},
    {K_Q8_0, 150, 6, 2, 24, 24},
    {K_Q8_0, LARGE(131), 12, 2, 128, 128},
    {K_Q8_0, LARGE(200), 4, 0, 576, 512},
    {K_Q8_0, 129, 4, 4, 40, 71},
    {K_Q8_0, 65, 20, 0, 72, 64},
};

/* Against the plain ancestor, which reads the same pool. Scores are dot products of terms below |q| |k| <= 9: off by
 * d_k / 32 + 34 roundings of the sum of magnitudes; weights move by that much relatively, plus 4 ulp for exp and 70 +
 * pages for the sums; values are below 1. */
static void attention_is_near(void)
{
    for (size_t k = 0; k < sizeof attention_cases / sizeof attention_cases[0]; k++) {
        const struct attention_case *a = &attention_cases[k];
        struct help_pool pool = help_pool_new(a->type, row_elems(a), 5);
        int64_t q_elems = (int64_t)a->n_tok * a->n_head * a->d_k, y_elems = (int64_t)a->n_tok * a->n_head * a->d_v;
        float *rows = help_floats((int64_t)a->n_tok * pool.kv.row_elems, 1.0f), *q = help_floats(q_elems, 3.0f);
        float *y = help_floats(y_elems, 1.0f), *expected = help_floats(y_elems, 1.0f);
        struct k_token_ref *tok = calloc((size_t)a->n_tok, sizeof *tok);
        for (int32_t t = 0; t < a->n_tok; t++)
            tok[t] = (struct k_token_ref){pool.page_ids, t};
        k_reference_ops.kv_store(reference, &pool.kv, rows, pool.kv.row_elems, 0, pool.kv.row_elems, tok, a->n_tok);
        CHECK_INT(attend(&k_reference_ops, reference, a, expected, q, &pool.kv, tok, a->n_tok), K_OK);
        double score_error = (34.0 + a->d_k / 32.0) * FLT_EPSILON / 2.0 * 3.0 * sqrt((double)a->d_k);
        EACH_CONTEXT(c, {
            CHECK_INT(attend(&k_cpu_ops, c, a, y, q, &pool.kv, tok, a->n_tok), K_OK);
            CHECK_INT(count_far(y, expected, y_elems, 0.0, 2.0 * score_error + 80.0 * FLT_EPSILON), 0);
        });
        help_pool_free(&pool);
        free(rows), free(q), free(y), free(expected), free(tok);
    }
}

/* Two sequences, tokens stored and attended in steps of `step`, against all at once. */
static void attention_law(const struct attention_case *a, const char *isa, int threads, int32_t step, const float *rows,
                          const float *q, const float *expected)
{
    struct k_ctx *c = help_isa_ctx(threads, isa);
    if (!c)
        return;
    struct help_pool pool = help_pool_new(a->type, row_elems(a), 10);
    int64_t yn = (int64_t)a->n_head * a->d_v, qn = (int64_t)a->n_head * a->d_k;
    float *y = help_floats(2 * a->n_tok * yn, 1.0f);
    struct k_token_ref *tok = calloc(2 * (size_t)a->n_tok, sizeof *tok);
    for (int32_t t = 0; t < 2 * a->n_tok; t++) /* the second sequence is the first again, in other pages */
        tok[t] = (struct k_token_ref){pool.page_ids + t / a->n_tok * 5, t % a->n_tok};
    for (int32_t t = 0; t < 2 * a->n_tok; t += step) {
        int32_t n = t + step < 2 * a->n_tok ? step : 2 * a->n_tok - t;
        for (int32_t i = t; i < t + n; i++) /* in two parts, as keys and values come */
            for (int32_t part = 0; part < 2; part++) {
                int32_t cut = pool.kv.row_elems / 64 * 32, at = part ? cut : 0,
                        len = part ? pool.kv.row_elems - cut : cut;
                k_cpu_ops.kv_store(c, &pool.kv, rows + i % a->n_tok * pool.kv.row_elems + at, 0, at, len, tok + i, 1);
            }
        CHECK_INT(attend(&k_cpu_ops, c, a, y + t * yn, q + t * qn, &pool.kv, tok + t, n), K_OK);
    }
    CHECK(memcmp(y, expected, (size_t)(a->n_tok * yn) * sizeof *y) == 0);
    help_pool_free(&pool);
    free(y), free(tok);
    k_cpu_ops.ctx_free(c);
}

static void attention_obeys_the_numerics_law(void)
{
    static const struct attention_case cases[] = {{K_F16, 140, 10, 2, 40, 40}, {K_F32, 70, 3, 1, 33, 20},
                                                  {K_F16, 70, 10, 0, 80, 64},  {K_Q8_0, 140, 10, 2, 40, 40},
                                                  {K_Q8_0, 70, 4, 2, 48, 32},  {K_Q8_0, 70, 10, 0, 80, 64}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        const struct attention_case *a = &cases[k];
        struct help_pool pool = help_pool_new(a->type, row_elems(a), 5);
        float *rows = help_floats((int64_t)a->n_tok * pool.kv.row_elems, 1.0f);
        float *q = help_floats(2 * (int64_t)a->n_tok * a->n_head * a->d_k, 3.0f);
        float *y = help_floats((int64_t)a->n_tok * a->n_head * a->d_v, 1.0f);
        rows[pool.kv.row_elems * 69] = INFINITY; /* a late key or value; tokens before it must not notice */
        struct k_token_ref *tok = calloc((size_t)a->n_tok, sizeof *tok);
        for (int32_t t = 0; t < a->n_tok; t++)
            tok[t] = (struct k_token_ref){pool.page_ids, t};
        struct k_ctx *c = help_isa_ctx(1, NULL);
        k_cpu_ops.kv_store(c, &pool.kv, rows, pool.kv.row_elems, 0, pool.kv.row_elems, tok, a->n_tok);
        CHECK_INT(attend(&k_cpu_ops, c, a, y, q, &pool.kv, tok, 69), K_OK);
        for (int64_t i = 0; i < 69 * a->n_head * a->d_v; i++)
            if (!isfinite(y[i]))
                CHECK_INT(i, -1);
        struct attention_case seen = *a;
        seen.n_tok = 69;
        for (size_t i = 0; i < HELP_ISAS; i++)
            for (int threads = 1; threads <= 2; threads++)
                for (int32_t step = 1; step <= 138; step = step * 11 + 6) /* 1, 17 */
                    attention_law(&seen, help_isas[i], threads, step, rows, q, y);
        k_cpu_ops.ctx_free(c);
        help_pool_free(&pool);
        free(rows), free(q), free(y), free(tok);
    }
}

static void stores_round_to_half(void)
{
    struct help_pool pool = help_pool_new(K_F16, 21, 2);
    float row[21];
    for (int i = 0; i < 21; i++)
        row[i] = help_float() * 70000.0f; /* some beyond the largest half */
    row[0] = 65519.0f, row[1] = 65520.0f, row[2] = 1e-8f, row[3] = 3e-8f, row[4] = 1.0f + 0x1p-11f;
    struct k_token_ref tok = {pool.page_ids, 67};
    EACH_CONTEXT(c, {
        CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row, 21, 0, 21, &tok, 1), K_OK);
        const uint16_t *out =
            (const uint16_t *)((const uint8_t *)pool.kv.data + pool.page_ids[1] * pool.kv.page_stride) + 3 * 21;
        for (int i = 0; i < 21; i++)
            CHECK_INT(out[i], k_f32_to_f16(row[i]));
        CHECK(out[0] == 0x7bff && out[1] == 0x7c00 && out[2] == 0 && out[3] == 1 && out[4] == 0x3c00);
    });
    struct k_ctx *c = k_cpu_ops.ctx_new(1, 0);
    CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row, 21, 1, 21, &tok, 1), K_BAD_SHAPE);
    pool.kv.type = K_Q4_0;
    CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row, 21, 0, 21, &tok, 1), K_BAD_SHAPE);
    k_cpu_ops.ctx_free(c);
    help_pool_free(&pool);
}

/* Whole blocks, wherever in the row, and what the reference has; parts of blocks are refused. */
static void stores_round_to_q8_0(void)
{
    struct help_pool pool = help_pool_new(K_Q8_0, 96, 2), plain = help_pool_new(K_Q8_0, 96, 2);
    float *row = help_floats(96, 5.0f);
    struct k_token_ref tok = {pool.page_ids, 67};
    row[40] = INFINITY, row[70] = 1e-12f;
    CHECK_INT(k_reference_ops.kv_store(reference, &plain.kv, row, 96, 0, 96, &tok, 1), K_OK);
    const size_t at = (size_t)(pool.page_ids[1] * pool.kv.page_stride) + 3 * 102;
    EACH_CONTEXT(c, {
        uint8_t *out = (uint8_t *)pool.kv.data + at;
        memset(out, 0xff, 102);
        CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row, 96, 0, 64, &tok, 1), K_OK);
        CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row + 64, 96, 64, 32, &tok, 1), K_OK);
        CHECK(memcmp(out, (const uint8_t *)plain.kv.data + at, 102) == 0);
        CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row, 96, 16, 32, &tok, 1), K_BAD_SHAPE);
        CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row, 96, 32, 48, &tok, 1), K_BAD_SHAPE);
    });
    pool.kv.row_elems = 80; /* as many bytes, and the last block ends with the row */
    row[79] = 9.0f;
    EACH_CONTEXT(c, {
        uint8_t *out = (uint8_t *)pool.kv.data + at;
        memset(out, 0xff, 102);
        CHECK_INT(k_cpu_ops.kv_store(c, &pool.kv, row + 64, 80, 64, 16, &tok, 1), K_OK);
        CHECK(out[68 + 2 + 15] == 127 && out[68 + 2 + 16] == 0 && out[101] == 0 && out[67] == 0xff);
    });
    float back[96];
    CHECK_INT(k_dequantise(back, (const uint8_t *)plain.kv.data + at, K_Q8_0, 96), K_OK);
    for (int i = 0; i < 32; i++) /* half a step of the scale, and the scale's own rounding to a half */
        CHECK(fabsf(back[i] - row[i]) <= 5.0f / 127.0f * (0.5f + 127.0f * 0x1p-11f));
    free(row);
    help_pool_free(&pool);
    help_pool_free(&plain);
}

int main(void)
{
    help_say_what_is_missing();
    reference = k_reference_ops.ctx_new(1, 0);
    TEST(get_rows_is_dequantise);
    TEST(rms_norm_is_near);
    TEST(rope_is_near);
    TEST(silu_mul_and_add_are_near);
    TEST(combine_is_near);
    TEST(route_v3_by_hand);
    TEST(route_v2_by_hand);
    TEST(attention_is_near);
    TEST(attention_obeys_the_numerics_law);
    TEST(stores_round_to_half);
    TEST(stores_round_to_q8_0);
    k_reference_ops.ctx_free(reference);
    return TEST_RESULT();
}
