/* The CUDA backend's products on the emulated device: within a derived bound of exact sums for every weight type, on odd
 * sizes and poisoned outputs, and the numerics law: the same bits for any number of tokens and any size of tile.
 * runtest: release
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <float.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/matmul.h"
#include "tests/unit/kernels_help.h"

static struct k_ctx *ctx;

static void *to_device(const void *host, size_t n)
{
    void *p;
    CHECK_INT(dev_alloc(&p, n), K_OK);
    CHECK_INT(copy_in(ctx->stream, p, host, n), K_OK);
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
    CHECK_INT(cuda_matmul(ctx, dy, dx, stride, &dw, db, n_tok, p), K_OK);
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
    check_matmul(K_BF16, 700, 130, 5, K_FAST); /* rows that begin on no multiple of 16 bytes */
}

/* y of some tokens one by one is the yardstick; every other way must give the same bytes. */
static void numerics_law(enum k_type type, int64_t n, int32_t n_tok)
{
    enum { ROWS = 35 };
    const int32_t alone[] = {0, 1, 2, n_tok / 2, n_tok - 1};
    struct k_tensor w = help_tensor(type, n, ROWS, 1), dw = tensor_to_device(&w);
    float *x = help_floats(n_tok * n, 1.0f);
    x[3] = 1e-38f, x[40] = 0.0f, x[n + 1] = 3e38f; /* extremes travel alike too */
    memset(x + 2 * n, 0, (size_t)n * sizeof *x);
    float *dx = (float *)to_device(x, (size_t)(n_tok * n) * sizeof *x);
    float *dy = device_floats(n_tok * ROWS), *one = device_floats(n_tok * ROWS);
    for (int32_t t : alone)
        CHECK_INT(cuda_matmul(ctx, one + t * ROWS, dx + t * n, n, &dw, NULL, 1, K_FAST), K_OK);
    float *expected = from_device(one, n_tok * ROWS);
    static const int n_sm[] = {1, 2, 1000, 1}; /* tiles of 128, of 64 where there are such, and of 32 rows */
    for (int way = 0; way < 4; way++) {
        ctx->facts.n_sm = n_sm[way];
        cuda_emulated_order((unsigned)way);  /* threads run in another order: a race would show */
        int32_t step = way == 3 ? 7 : n_tok; /* the last way: few tokens at a time */
        for (int32_t t = 0; t < n_tok; t += step)
            CHECK_INT(
                cuda_matmul(ctx, dy + t * ROWS, dx + t * n, n, &dw, NULL, t + step < n_tok ? step : n_tok - t, K_FAST),
                K_OK);
        float *y = from_device(dy, n_tok * ROWS);
        for (int32_t t : alone) {
            bool same = memcmp(y + t * ROWS, expected + t * ROWS, ROWS * sizeof *y) == 0;
            if (!same)
                fprintf(stderr, "%s: token %d differs, way %d\n", k_type_info(type)->name, t, way);
            CHECK(same);
        }
        free(y);
    }
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
    numerics_law(K_Q5_0, 19 * 256 + 32, 9); /* more slices than have their sums kept at once */
    numerics_law(K_BF16, 17 * 256 + 8, 9);
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
    CHECK_INT(cuda_matmul_experts(ctx, dy, dx, per_expert, &dw, did, n_used, n_tok, p), K_OK);
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
            CHECK_INT(cuda_matmul(ctx, dy, dx, 256, &dw, NULL, n_tok, K_FAST), K_OK);
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
    CHECK_INT(cuda_matmul(ctx, y, x, 64, &dw, NULL, 1, K_FAST), K_BAD_SHAPE); /* a stack is no matrix */
    dw.ne[2] = 1;
    CHECK_INT(cuda_matmul(ctx, y, x, 63, &dw, NULL, 2, K_FAST), K_BAD_SHAPE);
    CHECK_INT(cuda_matmul(ctx, y, x, 64, &dw, NULL, 0, K_FAST), K_OK);
    struct k_tensor off = dw;
    off.data = (const uint8_t *)dw.data + 2;
    CHECK_INT(cuda_matmul(ctx, y, x, 64, &off, NULL, 1, K_FAST), K_BAD_SHAPE); /* weights begin on multiples of 16 */
    dw.type = (enum k_type)4;
    CHECK_INT(cuda_matmul(ctx, y, x, 64, &dw, NULL, 1, K_FAST), K_UNSUPPORTED);
    help_tensor_free(&w);
    dev_free((void *)dw.data), dev_free(x), dev_free(y);
}

int main(void)
{
    ctx = k_cuda_ops.ctx_new(1, 0);
    CHECK(ctx != NULL);
    ctx->facts.n_sm = 1;
    TEST(products_are_near_exact_sums);
    TEST(products_obey_the_numerics_law);
    TEST(heads_and_experts_are_products);
    TEST(nan_reaches_its_token_only);
    TEST(bad_shapes_are_refused);
    k_cuda_ops.ctx_free(ctx);
    return TEST_RESULT();
}
