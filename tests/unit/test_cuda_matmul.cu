/* The CUDA backend's products on the emulated device: within a derived bound of exact sums for every weight type, on
 * odd sizes and poisoned outputs, and the numerics law: the same bits for any number of tokens and any size of tile.
 * runtest: release
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <float.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/matmul.cuh"
#include "tests/unit/kernels_help.h"

static struct k_ctx *ctx;

static void *to_device(const void *host, size_t n)
{
    void *p;
    CHECK_INT(dev_alloc(&p, n), K_OK);
    CHECK_INT(copy_in(ctx->stream, p, host, n), K_OK);
    CHECK_INT(stream_sync(ctx->stream), K_OK); /* host may go */
    return p;
}

static struct k_tensor tensor_to_device(const struct k_tensor *w)
{
    struct k_tensor d = *w;
    d.data = to_device(w->data, k_row_bytes(w->type, (uint64_t)w->ne[0]) * (size_t)(w->ne[1] * w->ne[2]));
    return d;
}

static float *from_device(const float *p, int64_t n)
{
    float *host = (float *)malloc((size_t)n * sizeof *host);
    CHECK_INT(copy_out(ctx->stream, host, p, (size_t)n * sizeof *host), K_OK);
    CHECK_INT(stream_sync(ctx->stream), K_OK);
    return host;
}

static float *device_floats(int64_t n) /* every byte 0xff: NaN */
{
    void *p;
    CHECK_INT(dev_alloc(&p, (size_t)n * sizeof(float)), K_OK);
    CHECK_INT(dev_set(ctx->stream, p, 0xff, (size_t)n * sizeof(float)), K_OK);
    return (float *)p;
}

enum rounding { EXACT, TO_Q8, TO_F16, TO_BF16 };

static enum rounding rounding_of(enum k_type type, enum k_precision p)
{
    if (p == K_PRECISE || type == K_F32)
        return EXACT;
    return type == K_F16 ? TO_F16 : type == K_BF16 ? TO_BF16 : TO_Q8;
}

/* Activations as the product uses them, but for F16, where the bound below has the rounding. */
static void round_activations(float *to, const float *x, int64_t n, enum rounding how)
{
    memcpy(to, x, (size_t)n * sizeof *x);
    if (how == TO_BF16)
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            k_quantise(&h, x + i, K_BF16, 1);
            k_dequantise(to + i, &h, K_BF16, 1);
        }
    for (int64_t g = 0; how == TO_Q8 && g < n; g += 32) {
        float top = 0.0f;
        for (int64_t i = g; i < g + 32; i++)
            top = fmaxf(top, fabsf(x[i]));
        for (int64_t i = g; i < g + 32; i++)
            to[i] = top / 127.0f * rintf(x[i] * (127.0f / top));
    }
}

/* How far y may be from the exact product of one row with activations that are rounded already: c k eps sum |w x|.
 *   8 bits: three roundings per group of 16 or 32 of terms d q and m that are at most |w| + 2 max |w|, and one per slice of
 *   256: c <= 4 / 16.
 *   16 bits: a tensor core's sum of 17 numbers may be cut off where it would be rounded, once per 16: c = 2 / 16 and eps
 *   twice as large. F16: an activation is off by 2^-11 of itself besides.
 *   Float: a rounding per 128 elements in a thread, eight over lanes and warps: c = 1 / 128. */
static double row_bound(const float *w, const float *x, int64_t n, enum rounding how)
{
    double magnitude = 0.0, sizes = 0.0, w_max = 0.0, slices = (double)n / 256.0 + 3.0;
    for (int64_t i = 0; i < n; i++)
        w_max = fmax(w_max, fabs((double)w[i]));
    for (int64_t i = 0; i < n; i++) {
        sizes += fabs((double)w[i]) * fabs((double)x[i]);
        magnitude += (fabs((double)w[i]) + (how == TO_Q8 ? 2.0 * w_max : 0.0)) * fabs((double)x[i]);
    }
    double roundings = how == TO_Q8   ? 3.0 * (double)n / 16.0 + slices
                       : how == EXACT ? (double)n / 128.0 + 12.0
                                      : 2.0 * (2.0 * (double)n / 16.0 + slices);
    return (how == TO_F16 ? sizes * 0x1.001p-11 : 0.0) + magnitude * roundings * (FLT_EPSILON / 2.0) + 1e-30;
}

/* Compares y, rows of m at y_stride, where row i is matrix e(i) of w times row i of x. */
static int count_bad(const struct k_tensor *w, int64_t matrix, const float *y, const float *x, const float *bias,
                     enum k_precision p)
{
    int64_t n = w->ne[0], m = w->ne[1];
    enum rounding how = rounding_of(w->type, p);
    float *row = (float *)malloc((size_t)n * sizeof *row), *xr = (float *)malloc((size_t)n * sizeof *xr);
    int bad = 0;
    round_activations(xr, x, n, how);
    for (int64_t r = 0; r < m; r++) {
        double sum = bias ? (double)bias[r] : 0.0;
        const uint8_t *at = (const uint8_t *)w->data + (size_t)(matrix * m + r) * k_row_bytes(w->type, (uint64_t)n);
        k_dequantise(row, at, w->type, n);
        for (int64_t i = 0; i < n; i++)
            sum += (double)row[i] * (double)xr[i];
        bad += !(fabs((double)y[r] - sum) <= row_bound(row, xr, n, how) + fabs(sum) * FLT_EPSILON);
    }
    free(row), free(xr);
    return bad;
}

static void check_matmul(enum k_type type, int64_t n, int64_t m, int32_t n_tok, enum k_precision p)
{
    int64_t stride = n + 5, guard = 16;
    struct k_tensor w = help_tensor(type, n, m, 1), dw = tensor_to_device(&w);
    float *x = help_floats(n_tok * stride, 2.0f), *bias = help_floats(m, 1.0f);
    float *dx = (float *)to_device(x, (size_t)(n_tok * stride) * sizeof *x),
          *db = (float *)to_device(bias, (size_t)m * 4);
    float *dy = device_floats(n_tok * m + guard);
    CHECK_INT(k_matmul(&k_cuda_ops, ctx, dy, dx, stride, &dw, db, n_tok, p), K_OK);
    float *y = from_device(dy, n_tok * m + guard);
    int bad = 0;
    for (int32_t t = 0; t < n_tok; t++)
        bad += count_bad(&w, 0, y + t * m, x + t * stride, bias, p);
    for (int64_t i = n_tok * m; i < n_tok * m + guard; i++)
        bad += !isnan(y[i]);
    if (bad)
        fprintf(stderr, "%s precision %d, %lld x %lld, %d tokens: %d bad\n", k_type_info(type)->name, p, (long long)n,
                (long long)m, n_tok, bad);
    CHECK_INT(bad, 0);
    help_tensor_free(&w);
    dev_free((void *)dw.data), dev_free(dx), dev_free(db), dev_free(dy);
    free(x), free(bias), free(y);
}

static void products_are_near_exact_sums(void)
{
    for (size_t i = 0; i < HELP_TYPES; i++) {
        int32_t block = k_type_info(help_types[i])->block_elems;
        static const int64_t rows[] = {17, 1, 33};
        static const int32_t toks[] = {3, 1, 11};
        for (int shape = 0; shape < 3; shape++) {
            static const int64_t blocks_256[] = {1, 3, 10}, blocks_32[] = {1, 13, 70}, plain[] = {1, 37, 1304};
            int64_t n = block == 256 ? 256 * blocks_256[shape] : block == 32 ? 32 * blocks_32[shape] : plain[shape];
            check_matmul(help_types[i], n, rows[shape], toks[shape], K_FAST);
            check_matmul(help_types[i], n, rows[shape], toks[shape], K_PRECISE);
        }
    }
    check_matmul(K_F32, 1023, 3, 2, K_FAST);
    check_matmul(K_BF16, 700, 130, 5, K_FAST);   /* rows that begin on no multiple of 16 bytes */
    check_matmul(K_BF16, 712, 130, 200, K_FAST); /* the largest block, more than one of it */
    check_matmul(K_F16, 704, 65, 70, K_FAST);
    check_matmul(K_Q8_0, 131072, 17, 1,
                 K_FAST);                   /* no block of gemv_direct.cu has the shared memory for its activations */
    for (size_t i = 0; i < HELP_TYPES; i++) /* many tiles of rows to a block, the last one in part */
        check_matmul(help_types[i], 4096, 150, 2, K_FAST);
}

/* The ways to multiply: how many multiprocessors there seem to be, by which a block's shape is chosen
 * (shapes_are_chosen()), with or without Hopper's products, all tokens or a few at a time. */
struct way {
    int n_sm;
    bool wgmma;
    int32_t step;
};

/* y of some tokens one by one is the yardstick; every other way must give the same bytes. */
static void numerics_law(enum k_type type, int64_t n, int32_t n_tok)
{
    enum { ROWS = 100 };
    const int32_t alone[] = {0, 1, 2, n_tok / 2, n_tok - 1};
    struct k_tensor w = help_tensor(type, n, ROWS, 1), dw = tensor_to_device(&w);
    float *x = help_floats(n_tok * n, 1.0f);
    x[3] = 1e-38f, x[40] = 0.0f, x[n + 1] = 3e38f; /* extremes travel alike too */
    memset(x + 2 * n, 0, (size_t)n * sizeof *x);
    float *dx = (float *)to_device(x, (size_t)(n_tok * n) * sizeof *x);
    float *dy = device_floats(n_tok * ROWS), *one = device_floats(n_tok * ROWS);
    for (int32_t t : alone)
        CHECK_INT(k_matmul(&k_cuda_ops, ctx, one + t * ROWS, dx + t * n, n, &dw, NULL, 1, K_FAST), K_OK);
    float *expected = from_device(one, n_tok * ROWS);
    const bool hopper = ctx->wgmma, floats = type == K_F16 || type == K_BF16;
    const struct way ways[] = {{1, false, n_tok},    {2, false, n_tok},  {4, false, n_tok},
                               {1000, false, n_tok}, {1000, false, 7},   {1, false, 2},
                               {1, hopper, n_tok},   {2, hopper, n_tok}, {4, hopper, n_tok}};
    for (int i = 0; i < (floats && hopper ? 9 : 6); i++) {
        const struct way *way = &ways[i];
        ctx->facts.n_sm = way->n_sm;
        ctx->wgmma = way->wgmma;
        cuda_emulated_order((unsigned)i); /* threads run in another order: a race would show */
        CHECK_INT(dev_set(ctx->stream, dy, 0xff, (size_t)n_tok * ROWS * sizeof *dy), K_OK);
        for (int32_t t = 0; t < n_tok; t += way->step)
            CHECK_INT(k_matmul(&k_cuda_ops, ctx, dy + t * ROWS, dx + t * n, n, &dw, NULL,
                               t + way->step < n_tok ? way->step : n_tok - t, K_FAST),
                      K_OK);
        float *y = from_device(dy, n_tok * ROWS);
        for (int32_t t : alone) {
            bool same = memcmp(y + t * ROWS, expected + t * ROWS, ROWS * sizeof *y) == 0;
            if (!same)
                fprintf(stderr, "%s: token %d differs, way %d\n", k_type_info(type)->name, t, i);
            CHECK(same);
        }
        free(y);
    }
    ctx->wgmma = hopper;
    ctx->facts.n_sm = 1;
    cuda_emulated_order(0);
    help_tensor_free(&w);
    dev_free((void *)dw.data), dev_free(dx), dev_free(dy), dev_free(one);
    free(x), free(expected);
}

static void products_obey_the_numerics_law(void)
{
    static const enum k_type types[] = {K_F16, K_BF16, K_Q8_0, K_Q5_1, K_Q2_K, K_Q4_K, K_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        numerics_law(types[i], k_type_info(types[i])->block_elems == 256 ? 768 : 672, 67); /* two slices and a part */
    numerics_law(K_BF16, 672, 140);                                                        /* the largest block */
    numerics_law(K_F16, 264, 140);
    numerics_law(K_Q5_0, 19 * 256 + 32, 9); /* more slices than have their sums kept at once */
    numerics_law(K_BF16, 17 * 256 + 8, 9);
    numerics_law(K_BF16, 300, 20); /* rows that begin on no multiple of 16 bytes */
}

static void expect_shape(int n_sm, int32_t m, int32_t n_pairs, int64_t matrices, int rows, int pairs)
{
    static const struct mul_shape all[] = {{128, 192}, {128, 128}, {128, 64}, {64, 64}, {32, 64}};
    const struct mul_shape s = mul_best_shape(all, 5, n_sm, m, n_pairs, matrices);
    CHECK_INT(s.rows, rows);
    CHECK_INT(s.pairs, pairs);
}

/* Large blocks read less, and blocks for all multiprocessors come first. The first lines are those of numerics_law(). */
static void shapes_are_chosen(void)
{
    expect_shape(1, 100, 67, 1, 128, 128);
    expect_shape(2, 100, 67, 1, 128, 64);
    expect_shape(4, 100, 67, 1, 64, 64);
    expect_shape(1000, 100, 67, 1, 32, 64);
    expect_shape(1, 100, 140, 1, 128, 192);
    expect_shape(132, 14336, 2048, 1, 128, 192); /* llama-8b's gate on an H200 */
    expect_shape(132, 14336, 256, 1, 128, 128);
    expect_shape(132, 14336, 64, 1, 128, 64);
    expect_shape(132, 4096, 64, 1, 32, 64);
    expect_shape(132, 1408, 64, 512, 128, 64); /* experts of deepseek-v2-lite: tiles of 64 */
    expect_shape(1, 1, 1, 1, 32, 64);
}

/* On such a device both kinds of products round alike, which the law stands on; elsewhere there is one kind. */
static void hopper_is_used_where_it_is(void)
{
    CHECK(ctx->wgmma == (ctx->facts.major == 9 && ctx->facts.minor == 0));
}

/* The stacked products are the plain product, matrix by matrix. */
static void check_heads(enum k_type type, int32_t n_tok)
{
    enum { M = 19, STACK = 3, YS = M + 2 };
    int64_t n = k_type_info(type)->block_elems == 256 ? 256 : 64, xs = n + 3, pairs = (int64_t)n_tok * STACK;
    struct k_tensor w = help_tensor(type, n, M, STACK), dw = tensor_to_device(&w);
    float *x = help_floats(pairs * xs, 1.0f), *dx = (float *)to_device(x, (size_t)(pairs * xs) * 4);
    float *dy = device_floats(pairs * YS);
    CHECK_INT(cuda_matmul_heads(ctx, dy, YS, dx, (int32_t)xs, &dw, n_tok, K_FAST), K_OK);
    float *y = from_device(dy, pairs * YS);
    int bad = 0;
    for (int64_t i = 0; i < pairs; i++) {
        bad += count_bad(&w, i % STACK, y + i * YS, x + i * xs, NULL, K_FAST);
        bad += !isnan(y[i * YS + M]); /* between the heads nothing is written */
    }
    CHECK_INT(bad, 0);
    help_tensor_free(&w);
    dev_free((void *)dw.data), dev_free(dx), dev_free(dy);
    free(x), free(y);
}

static void check_experts(enum k_type type, int32_t n_tok, int32_t n_used, bool per_expert, enum k_precision p)
{
    enum { M = 21, STACK = 5 };
    int64_t n = k_type_info(type)->block_elems == 256 ? 256 : 96, pairs = (int64_t)n_tok * n_used;
    struct k_tensor w = help_tensor(type, n, M, STACK), dw = tensor_to_device(&w);
    float *x = help_floats(pairs * n, 1.0f),
          *dx = (float *)to_device(x, (size_t)((per_expert ? pairs : n_tok) * n) * 4);
    int32_t *ids = (int32_t *)malloc((size_t)pairs * sizeof *ids);
    for (int64_t i = 0; i < pairs; i++)
        ids[i] = (int32_t)((i * 3 + i / 7) % 4); /* expert 4 stays idle */
    int32_t *did = (int32_t *)to_device(ids, (size_t)pairs * 4);
    float *dy = device_floats(pairs * M + 8);
    const struct k_product product = {dy, &dw, NULL, NULL};
    CHECK_INT(cuda_matmul_experts(ctx, &product, dx, per_expert, did, n_used, n_tok, p), K_OK);
    float *y = from_device(dy, pairs * M + 8);
    int bad = 0;
    for (int64_t i = 0; i < pairs; i++)
        bad += count_bad(&w, ids[i], y + i * M, x + (per_expert ? i : i / n_used) * n, NULL, p);
    bad += !isnan(y[pairs * M]);
    if (bad)
        fprintf(stderr, "experts: %s, %d tokens: %d bad\n", k_type_info(type)->name, n_tok, bad);
    CHECK_INT(bad, 0);
    help_tensor_free(&w);
    dev_free((void *)dw.data), dev_free(dx), dev_free(dy), dev_free(did);
    free(x), free(y), free(ids);
}

static void heads_and_experts_are_products(void)
{
    static const enum k_type types[] = {K_Q8_0, K_BF16, K_F32, K_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        check_heads(types[i], 1);
        check_heads(types[i], 9);
        check_experts(types[i], 1, 3, false, K_FAST);
        check_experts(types[i], 3, 3, true, K_FAST);
        check_experts(types[i], 40, 2, false, K_FAST); /* enough for a matrix product */
    }
    check_experts(K_Q8_0, 9, 2, true, K_PRECISE);
}

/* ---- products of the same activations: the bits of each alone ---- */

static bool same_bits(const float *a, const float *b, int64_t n)
{
    float *x = from_device(a, n), *y = from_device(b, n);
    bool same = memcmp(x, y, (size_t)n * sizeof *x) == 0;
    free(x), free(y);
    return same;
}

/* Three products, the last one gated, then the same one by one and silu_mul() of the last two. */
static void check_together(const enum k_type types[K_PRODUCTS_MAX + 1], int32_t n_tok)
{
    static const int64_t rows[K_PRODUCTS_MAX + 1] = {35, 1, 21, 21};
    enum { N = 512, X = N + 4 };
    struct k_tensor w[K_PRODUCTS_MAX + 1], dw[K_PRODUCTS_MAX + 1];
    float *x = help_floats(n_tok * X, 1.0f), *bias = help_floats(rows[0], 1.0f), *alone[K_PRODUCTS_MAX + 1];
    float *dx = (float *)to_device(x, (size_t)n_tok * X * 4), *db = (float *)to_device(bias, (size_t)rows[0] * 4);
    struct k_product together[K_PRODUCTS_MAX];
    for (int i = 0; i <= K_PRODUCTS_MAX; i++) {
        w[i] = help_tensor(types[i], N, rows[i], 1);
        dw[i] = tensor_to_device(&w[i]);
        alone[i] = device_floats(n_tok * rows[i]);
        CHECK_INT(k_matmul(&k_cuda_ops, ctx, alone[i], dx, X, &dw[i], i == 0 ? db : NULL, n_tok, K_FAST), K_OK);
    }
    CHECK_INT(k_cuda_ops.silu_mul(ctx, alone[2], alone[2], alone[3], n_tok * rows[2]), K_OK);
    for (int i = 0; i < K_PRODUCTS_MAX; i++) {
        struct k_product p = {device_floats(n_tok * rows[i]), &dw[i], i == 0 ? db : NULL, i == 2 ? &dw[3] : NULL};
        together[i] = p;
    }
    CHECK_INT(k_cuda_ops.matmul(ctx, together, K_PRODUCTS_MAX, dx, X, n_tok, K_FAST), K_OK);
    for (int i = 0; i < K_PRODUCTS_MAX; i++) {
        bool same = same_bits(together[i].y, alone[i], n_tok * rows[i]);
        if (!same)
            fprintf(stderr, "%d tokens: product %d, of %s, differs\n", n_tok, i, k_type_info(types[i])->name);
        CHECK(same);
    }
    for (int i = 0; i <= K_PRODUCTS_MAX; i++) {
        help_tensor_free(&w[i]);
        dev_free((void *)dw[i].data), dev_free(alone[i]);
        if (i < K_PRODUCTS_MAX)
            dev_free(together[i].y);
    }
    dev_free(dx), dev_free(db);
    free(x), free(bias);
}

static void check_gated_experts(enum k_type type, enum k_type up_type, int32_t n_tok)
{
    enum { N = 256, M = 21, STACK = 5, USED = 3 };
    int64_t pairs = (int64_t)n_tok * USED;
    struct k_tensor w = help_tensor(type, N, M, STACK), up = help_tensor(up_type, N, M, STACK);
    struct k_tensor dw = tensor_to_device(&w), du = tensor_to_device(&up);
    float *x = help_floats(n_tok * N, 1.0f), *dx = (float *)to_device(x, (size_t)n_tok * N * 4);
    int32_t *ids = (int32_t *)malloc((size_t)pairs * sizeof *ids);
    for (int64_t i = 0; i < pairs; i++)
        ids[i] = (int32_t)((i + i / USED) % STACK);
    int32_t *did = (int32_t *)to_device(ids, (size_t)pairs * 4);
    float *y = device_floats(pairs * M), *gate = device_floats(pairs * M), *other = device_floats(pairs * M);
    const struct k_product alone = {gate, &dw, NULL, NULL}, beside = {other, &du, NULL, NULL},
                           gated = {y, &dw, NULL, &du};
    CHECK_INT(cuda_matmul_experts(ctx, &alone, dx, false, did, USED, n_tok, K_FAST), K_OK);
    CHECK_INT(cuda_matmul_experts(ctx, &beside, dx, false, did, USED, n_tok, K_FAST), K_OK);
    CHECK_INT(k_cuda_ops.silu_mul(ctx, gate, gate, other, pairs * M), K_OK);
    CHECK_INT(cuda_matmul_experts(ctx, &gated, dx, false, did, USED, n_tok, K_FAST), K_OK);
    CHECK(same_bits(y, gate, pairs * M));
    help_tensor_free(&w), help_tensor_free(&up);
    dev_free((void *)dw.data), dev_free((void *)du.data), dev_free(dx), dev_free(did);
    dev_free(y), dev_free(gate), dev_free(other);
    free(x), free(ids);
}

static void products_together_are_products_alone(void)
{
    static const enum k_type types[][K_PRODUCTS_MAX + 1] = {{K_Q4_K, K_Q4_K, K_Q6_K, K_Q6_K}, /* one launch */
                                                            {K_Q8_0, K_Q5_0, K_Q4_K, K_Q6_K}, /* two: gate, then up */
                                                            {K_F16, K_BF16, K_BF16, K_BF16},
                                                            {K_F32, K_F16, K_F32, K_Q8_0}};
    static const int32_t toks[] = {1, 2, 3, 8, 9, 17, 67, 140};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        for (size_t t = 0; t < sizeof toks / sizeof toks[0]; t++)
            check_together(types[i], toks[t]);
    static const int32_t expert_toks[] = {1, 4, 40};
    for (size_t t = 0; t < sizeof expert_toks / sizeof expert_toks[0]; t++) {
        check_gated_experts(K_Q4_K, K_Q4_K, expert_toks[t]);
        check_gated_experts(K_Q4_K, K_F32, expert_toks[t]);
        check_gated_experts(K_BF16, K_Q6_K, expert_toks[t]);
    }
}

/* A NaN in the activations reaches every output of its token and no other token. */
static void nan_reaches_its_token_only(void)
{
    static const enum k_type types[] = {K_Q8_0, K_Q4_K, K_F16, K_BF16, K_F32};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        for (int n_tok = 2; n_tok <= 10; n_tok += 8) {
            struct k_tensor w = help_tensor(types[i], 256, 20, 1), dw = tensor_to_device(&w);
            float *x = help_floats(n_tok * 256, 1.0f);
            x[40] = NAN;
            float *dx = (float *)to_device(x, (size_t)n_tok * 256 * 4), *dy = device_floats(n_tok * 20);
            CHECK_INT(k_matmul(&k_cuda_ops, ctx, dy, dx, 256, &dw, NULL, n_tok, K_FAST), K_OK);
            float *y = from_device(dy, n_tok * 20);
            for (int k = 0; k < n_tok * 20; k++)
                CHECK((k < 20) == (isnan(y[k]) != 0));
            help_tensor_free(&w);
            dev_free((void *)dw.data), dev_free(dx), dev_free(dy);
            free(x), free(y);
        }
}

static void bad_shapes_are_refused(void)
{
    struct k_tensor w = help_tensor(K_Q8_0, 64, 4, 2), dw = tensor_to_device(&w);
    float *x = device_floats(128), *y = device_floats(128);
    CHECK_INT(k_matmul(&k_cuda_ops, ctx, y, x, 64, &dw, NULL, 1, K_FAST), K_BAD_SHAPE); /* a stack is no matrix */
    dw.ne[2] = 1;
    CHECK_INT(k_matmul(&k_cuda_ops, ctx, y, x, 63, &dw, NULL, 2, K_FAST), K_BAD_SHAPE);
    CHECK_INT(k_matmul(&k_cuda_ops, ctx, y, x, 64, &dw, NULL, 0, K_FAST), K_OK);
    struct k_tensor off = dw;
    off.data = (const uint8_t *)dw.data + 2;
    CHECK_INT(k_matmul(&k_cuda_ops, ctx, y, x, 64, &off, NULL, 1, K_FAST),
              K_BAD_SHAPE); /* weights begin on multiples of 16 */
    dw.type = (enum k_type)4;
    CHECK_INT(k_matmul(&k_cuda_ops, ctx, y, x, 64, &dw, NULL, 1, K_FAST), K_UNSUPPORTED);
    help_tensor_free(&w);
    dev_free((void *)dw.data), dev_free(x), dev_free(y);
}

int main(void)
{
    ctx = k_cuda_ops.ctx_new(1, 0);
    CHECK(ctx != NULL);
    ctx->facts.n_sm = 1;
    TEST(hopper_is_used_where_it_is);
    TEST(shapes_are_chosen);
    TEST(products_are_near_exact_sums);
    TEST(products_obey_the_numerics_law);
    TEST(heads_and_experts_are_products);
    TEST(products_together_are_products_alone);
    TEST(nan_reaches_its_token_only);
    TEST(bad_shapes_are_refused);
    k_cuda_ops.ctx_free(ctx);
    return TEST_RESULT();
}
