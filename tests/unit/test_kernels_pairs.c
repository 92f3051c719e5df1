/* BF16 weights times activations rounded to BF16 (K_FAST_BF16): bit for bit what plain C makes of Intel's description
 * of VDPBF16PS in the order of kernels/cpu/pairs.h, for any number of tokens and threads; within a derived bound of the
 * exact product; refused where the processor has no such instruction. Runs with the processor's own, where it has one,
 * and with what tests/simde/ makes of it.
 * links: spw_kernels kernels_simde */
#include "tests/unit/test.h"

#include <float.h>

#include "tests/unit/kernels_help.h"
#include "tests/unit/kernels_isas.h"

/* NULL: the processor's own. */
static const char *const ways[] = {NULL, HELP_BY_AVX2};
#define WAYS (sizeof ways / sizeof ways[0])

/* NULL: not there. */
static struct k_ctx *pairs_ctx(int threads, const char *way)
{
    struct k_ctx *c = help_isa_ctx(threads, way);
    if (c && !k_cpu_ops.has_precision(c, K_FAST_BF16)) {
        k_cpu_ops.ctx_free(c);
        return NULL;
    }
    return c;
}

static float from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t to_bf16(float f)
{
    uint16_t h;
    k_quantise(&h, &f, K_BF16, 1);
    return h;
}

static float flushed(float f)
{
    return fabsf(f) < FLT_MIN ? copysignf(0.0f, f) : f;
}

static float step(float sum, const uint16_t w[2], const uint16_t x[2])
{
    for (int i = 1; i >= 0; i--)
        sum = flushed(fmaf(flushed(from_bf16(w[i])), flushed(from_bf16(x[i])), flushed(sum)));
    return sum;
}

/* w . x for a row of n, in the order of pairs.h. */
static float row_product(const uint16_t *w, const float *x, int64_t n)
{
    float acc = 0.0f;
    for (int64_t k = 0; k < n; k += 32) {
        float part = 0.0f;
        for (int64_t i = k; i < k + 32 && i < n; i += 2) {
            uint16_t two_w[2] = {w[i], 0}, two_x[2] = {to_bf16(x[i]), 0};
            if (i + 1 < n)
                two_w[1] = w[i + 1], two_x[1] = to_bf16(x[i + 1]);
            part = step(part, two_w, two_x);
        }
        acc = acc + part;
    }
    return acc;
}

static bool same_number(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

/* Numbers of every kind: extremes in the first tokens, each in a place of its own. */
static float *activations(int64_t n_tok, int64_t n)
{
    static const float extremes[] = {1e-38f, 1e-40f, -0.0f,   3e38f,    INFINITY,
                                     NAN,    1e-30f, FLT_MIN, -FLT_MAX, 1.00390625f /* halfway between two */};
    float *x = help_floats(n_tok * n, 1.0f);
    for (int64_t t = 1; t < n_tok && t <= (int64_t)(sizeof extremes / sizeof extremes[0]); t++)
        x[t * n + t * 3 % n] = extremes[t - 1];
    for (int64_t i = 0; i < n; i++)
        x[i] *= 1e-37f; /* products that are no longer normal numbers */
    return x;
}

static void check_bits(const struct k_tensor *w, int32_t n_tok, const char *way, int threads)
{
    struct k_ctx *c = pairs_ctx(threads, way);
    if (!c)
        return;
    int64_t n = w->ne[0], m = w->ne[1];
    float *x = activations(n_tok, n), *bias = help_floats(m, 1.0f), *y = help_floats(n_tok * m, 1.0f);
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, n, w, bias, n_tok, K_FAST_BF16), K_OK);
    int bad = 0;
    for (int64_t t = 0; t < n_tok; t++)
        for (int64_t i = 0; i < m; i++)
            bad += !same_number(y[t * m + i], row_product((const uint16_t *)w->data + i * n, x + t * n, n) + bias[i]);
    if (bad)
        fprintf(stderr, "%s: %d of %d tokens x %lld rows of %lld\n", way ? way : "own", bad, (int)n_tok, (long long)m,
                (long long)n);
    CHECK_INT(bad, 0);
    k_cpu_ops.ctx_free(c);
    free(x), free(bias), free(y);
}

static void bits_are_those_of_the_description(void)
{
    static const int32_t toks[] = {1, 2, 3, 4, 5, 37};
    static const int64_t lengths[] = {1, 2, 31, 33, 700, 1100};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct k_tensor w = help_tensor(K_BF16, lengths[i], 19, 1);
        uint16_t *numbers = (uint16_t *)(uintptr_t)w.data;
        numbers[lengths[i]] = 0x0001;                 /* a denormal weight in the second row, */
        numbers[2 * lengths[i]] = to_bf16(3e38f);     /* the largest in the third */
        numbers[3 * lengths[i]] = to_bf16(-INFINITY); /* and what no file should hold */
        for (size_t k = 0; k < sizeof toks / sizeof toks[0]; k++)
            for (size_t way = 0; way < WAYS; way++)
                check_bits(&w, toks[k], ways[way], 1 + (int)(k % 2));
        help_tensor_free(&w);
    }
}

/* An activation is off by at most 2^-9 of itself. Each element takes part in 32 roundings within its block and in one
 * of the sum for each block; what is flushed is below FLT_MIN each time. */
static void products_are_near_the_reference(void)
{
    enum { N = 1500, M = 21, N_TOK = 6 };
    struct k_tensor w = help_tensor(K_BF16, N, M, 1);
    float *x = help_floats(N_TOK * N, 3.0f), y[N_TOK * M], exact[N_TOK * M];
    struct k_ctx *r = k_reference_ops.ctx_new(1, 0);
    CHECK_INT(k_matmul(&k_reference_ops, r, exact, x, N, &w, NULL, N_TOK, K_PRECISE), K_OK);
    k_reference_ops.ctx_free(r);
    for (size_t way = 0; way < WAYS; way++) {
        struct k_ctx *c = pairs_ctx(2, ways[way]);
        if (!c)
            continue;
        CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, N, &w, NULL, N_TOK, K_FAST_BF16), K_OK);
        for (int i = 0; i < N_TOK * M; i++) {
            double magnitude = 0.0;
            for (int k = 0; k < N; k++)
                magnitude += fabs((double)from_bf16(((const uint16_t *)w.data)[i % M * N + k]) * x[i / M * N + k]);
            double rounding = 0x1p-9 + (32.0 + N / 32.0 + 1.0) * FLT_EPSILON / 2.0 * 1.01;
            CHECK(fabs((double)y[i] - exact[i]) <=
                  magnitude * rounding + fabs((double)exact[i]) * FLT_EPSILON + 2.0 * N * FLT_MIN);
        }
        k_cpu_ops.ctx_free(c);
    }
    help_tensor_free(&w);
    free(x);
}

/* Heads and experts are the plain product, matrix by matrix. */
static void heads_and_experts_are_products(void)
{
    enum { N = 75, M = 19, STACK = 5, N_TOK = 9, USED = 2 };
    struct k_tensor w = help_tensor(K_BF16, N, M, STACK);
    float *x = help_floats(N_TOK * STACK * N, 1.0f), *y = help_floats(N_TOK * STACK * M, 1.0f);
    const uint16_t *numbers = w.data;
    const struct k_product experts = {y, &w, NULL, NULL};
    int32_t ids[N_TOK * USED];
    for (int i = 0; i < N_TOK * USED; i++)
        ids[i] = i % 2 ? 3 : i / 2 % 3;
    for (size_t way = 0; way < WAYS; way++) {
        struct k_ctx *c = pairs_ctx(2, ways[way]);
        if (!c)
            continue;
        int bad = 0;
        CHECK_INT(k_cpu_ops.matmul_heads(c, y, M, x, N, &w, N_TOK, K_FAST_BF16), K_OK);
        for (int t = 0; t < N_TOK * STACK; t++)
            for (int i = 0; i < M; i++)
                bad += !same_number(y[t * M + i], row_product(numbers + (t % STACK * M + i) * N, x + t * N, N));
        CHECK_INT(k_cpu_ops.matmul_experts(c, &experts, x, false, ids, USED, N_TOK, K_FAST_BF16), K_OK);
        for (int t = 0; t < N_TOK * USED; t++)
            for (int i = 0; i < M; i++)
                bad += !same_number(y[t * M + i], row_product(numbers + (ids[t] * M + i) * N, x + t / USED * N, N));
        CHECK_INT(bad, 0);
        k_cpu_ops.ctx_free(c);
    }
    help_tensor_free(&w);
    free(x), free(y);
}

/* Weights of other types are multiplied as ever: the same bits as FAST. */
static void other_types_are_as_fast_has_them(void)
{
    enum { N = 512, M = 33, N_TOK = 5 };
    static const enum k_type types[] = {K_Q8_0, K_Q4_K, K_F16, K_F32};
    float *x = help_floats(N_TOK * N, 1.0f), y[N_TOK * M], fast[N_TOK * M];
    for (size_t way = 0; way < WAYS; way++) {
        struct k_ctx *c = pairs_ctx(1, ways[way]);
        for (size_t i = 0; c && i < sizeof types / sizeof types[0]; i++) {
            struct k_tensor w = help_tensor(types[i], N, M, 1);
            CHECK_INT(k_matmul(&k_cpu_ops, c, fast, x, N, &w, NULL, N_TOK, K_FAST), K_OK);
            CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, N, &w, NULL, N_TOK, K_FAST_BF16), K_OK);
            CHECK(memcmp(y, fast, sizeof y) == 0);
            help_tensor_free(&w);
        }
        k_cpu_ops.ctx_free(c);
    }
    free(x);
}

/* Products of one call are each what they are alone, whatever forms of the activations the others want. */
static void products_of_one_call_are_products(void)
{
    enum { N = 512, M = 33, N_TOK = 7 };
    struct k_tensor w[4] = {help_tensor(K_BF16, N, M, 1), help_tensor(K_Q8_0, N, M, 1), help_tensor(K_BF16, N, M, 1),
                            help_tensor(K_F32, N, M, 1)};
    float *x = help_floats(N_TOK * N, 1.0f), together[3][N_TOK * M], alone[N_TOK * M];
    const struct k_product products[3] = {
        {together[0], &w[0], NULL, NULL}, {together[1], &w[1], NULL, &w[2]}, {together[2], &w[3], NULL, NULL}};
    for (size_t way = 0; way < WAYS; way++) {
        struct k_ctx *c = pairs_ctx(2, ways[way]);
        if (!c)
            continue;
        CHECK_INT(k_cpu_ops.matmul(c, products, 3, x, N, N_TOK, K_FAST_BF16), K_OK);
        for (int i = 0; i < 3; i++) {
            struct k_product one = products[i];
            one.y = alone;
            CHECK_INT(k_cpu_ops.matmul(c, &one, 1, x, N, N_TOK, K_FAST_BF16), K_OK);
            CHECK(memcmp(alone, together[i], sizeof alone) == 0);
        }
        k_cpu_ops.ctx_free(c);
    }
    for (int i = 0; i < 4; i++)
        help_tensor_free(&w[i]);
    free(x);
}

static void refused_where_it_is_not_there(void)
{
    struct k_ctx *c = cpu_ctx_new_isa(1, NULL);
    struct k_tensor w = help_tensor(K_BF16, 8, 2, 1);
    float x[8] = {0}, y[2];
    c->pairs = NULL;
    CHECK(!k_cpu_ops.has_precision(c, K_FAST_BF16));
    CHECK(k_cpu_ops.has_precision(c, K_FAST) && k_cpu_ops.has_precision(c, K_PRECISE));
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 8, &w, NULL, 1, K_FAST_BF16), K_UNSUPPORTED);
    help_tensor_free(&w);
    k_cpu_ops.ctx_free(c);
}

int main(void)
{
    help_say_what_is_missing();
    TEST(bits_are_those_of_the_description);
    TEST(products_are_near_the_reference);
    TEST(heads_and_experts_are_products);
    TEST(other_types_are_as_fast_has_them);
    TEST(products_of_one_call_are_products);
    TEST(refused_where_it_is_not_there);
    return TEST_RESULT();
}
