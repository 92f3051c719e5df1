/* The CPU backend's products: within a derived bound of the reference for every weight type, and the numerics law: the
 * same bits for any number of tokens, any number of threads and any instruction set.
 * links: spw_kernels kernels_simde */
#include "tests/unit/test.h"

#include <float.h>

#include "tests/unit/kernels_help.h"
#include "tests/unit/kernels_isas.h"

/* How far y may be from the exact product of one row. FAST: an activation is off by at most half a step, max |x| / 254
 * of its 32. Roundings: each group adds two roundings of a sum whose terms d q and m are at most |w| + 2 max |w|. */
static double row_bound(const float *w, const float *x, int64_t n, bool rounded)
{
    double bound = 0.0, magnitude = 0.0, w_max = 0.0;
    for (int64_t i = 0; i < n; i++)
        w_max = fmax(w_max, fabs((double)w[i]));
    for (int64_t g = 0; g < n; g += 32) {
        int64_t end = g + 32 < n ? g + 32 : n;
        double top = 0.0;
        for (int64_t i = g; i < end; i++)
            top = fmax(top, fabs((double)x[i]));
        for (int64_t i = g; i < end; i++) {
            bound += rounded ? fabs((double)w[i]) * top / 254.0 : 0.0;
            magnitude += (fabs((double)w[i]) + (rounded ? 2.0 * w_max : 0.0)) * (fabs((double)x[i]) + top / 254.0);
        }
    }
    double n_roundings = (rounded ? 4.0 * (double)n / 16.0 : 32.0 + (double)n / 32.0) + 8.0;
    return bound * 1.001 + magnitude * n_roundings * (FLT_EPSILON / 2.0) + FLT_MIN;
}

static void check_against_reference(struct k_ctx *c, const struct k_tensor *w, int32_t n_tok, enum k_precision p)
{
    int64_t n = w->ne[0], m = w->ne[1], stride = n + 5;
    float *x = help_floats(n_tok * stride, 2.0f), *bias = help_floats(m, 1.0f), *row = help_floats(n, 1.0f);
    float *y = help_floats(n_tok * m, 1.0f), *expected = help_floats(n_tok * m, 1.0f);
    struct k_ctx *r = k_reference_ops.ctx_new(1, 0);
    CHECK_INT(k_matmul(&k_reference_ops, r, expected, x, stride, w, bias, n_tok, p), K_OK);
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, stride, w, bias, n_tok, p), K_OK);
    bool rounded = p == K_FAST && w->type != K_F32 && w->type != K_F16 && w->type != K_BF16;
    int bad = 0;
    for (int64_t i = 0; i < m; i++) {
        k_dequantise(row, (const uint8_t *)w->data + (size_t)i * k_row_bytes(w->type, (uint64_t)n), w->type, n);
        for (int32_t t = 0; t < n_tok; t++) {
            double bound = row_bound(row, x + t * stride, n, rounded) + 4.0 * FLT_EPSILON;
            bad += !(fabs((double)y[t * m + i] - (double)expected[t * m + i]) <= bound);
        }
    }
    if (bad)
        fprintf(stderr, "%s precision %d: %d of %lld\n", k_type_info(w->type)->name, p, bad, (long long)(m * n_tok));
    CHECK_INT(bad, 0);
    k_reference_ops.ctx_free(r);
    free(x), free(bias), free(row), free(y), free(expected);
}

static void matmul_is_near_the_reference(void)
{
    struct k_ctx *c = k_cpu_ops.ctx_new(2, 0);
    for (size_t i = 0; i < HELP_TYPES; i++) {
        int32_t block = k_type_info(help_types[i])->block_elems;
        for (int shape = 0; shape < 3; shape++) {
            static const int64_t blocks_256[] = {1, 3, 9}, blocks_32[] = {1, 11, 72}, plain[] = {1, 37, 700};
            int64_t n = block == 256 ? 256 * blocks_256[shape] : block == 32 ? 32 * blocks_32[shape] : plain[shape];
            static const int64_t rows[] = {1, 17, 33};
            struct k_tensor w = help_tensor(help_types[i], n, rows[shape], 1);
            check_against_reference(c, &w, shape == 1 ? 1 : 11, K_FAST);
            check_against_reference(c, &w, shape == 1 ? 1 : 11, K_PRECISE);
            help_tensor_free(&w);
        }
    }
    k_cpu_ops.ctx_free(c);
}

/* Few ways are enough then: what gemv, the narrow and the wide tiles do. */
static bool is_slow(const char *isa)
{
    return strcmp(isa, "scalar") == 0 || strcmp(isa, HELP_BY_AVX2) == 0;
}

/* y for 64 tokens at once on one thread is the yardstick; every other way must give the same bytes. */
static void numerics_law(enum k_type type, enum k_precision p)
{
    static const int32_t steps[] = {1, 2, 3, 4, 7, 64};
    enum { N_TOK = TEST_SANITIZED ? 9 : 64, ROWS = 37 };
    int64_t n = k_type_info(type)->block_elems == 256 ? 2304 : 2144; /* past one packed chunk, not a multiple of 256 */
    struct k_tensor w = help_tensor(type, n, ROWS, 1);
    float *x = help_floats(N_TOK * n, 1.0f), *y = help_floats(N_TOK * ROWS, 1.0f), *one = help_floats(N_TOK * ROWS, 1);
    x[3] = 1e-38f, x[40] = 0.0f, x[n + 1] = 3e38f; /* extremes travel alike too */
    memset(x + 2 * n, 0, (size_t)n * sizeof *x);
    struct k_ctx *base = help_isa_ctx(1, NULL);
    CHECK_INT(k_matmul(&k_cpu_ops, base, y, x, n, &w, NULL, N_TOK, p), K_OK);
    for (size_t i = 0; i < HELP_ISAS; i++)
        for (int threads = 1; threads <= 2; threads++)
            for (size_t k = 0; k < sizeof steps / sizeof steps[0]; k++) {
                int32_t step = steps[k];
                struct k_ctx *c = help_isa_ctx(threads, help_isas[i]);
                if (!c)
                    continue; /* this CPU lacks it */
                if (is_slow(help_isas[i]) && (threads == 1 || (step != 7 && (i == 0 || (step != 3 && step != 64))))) {
                    k_cpu_ops.ctx_free(c);
                    continue;
                }
                for (int32_t t = 0; t < N_TOK; t += step)
                    k_matmul(&k_cpu_ops, c, one + t * ROWS, x + t * n, n, &w, NULL, t + step < N_TOK ? step : N_TOK - t,
                             p);
                CHECK(memcmp(y, one, N_TOK * ROWS * sizeof *y) == 0);
                k_cpu_ops.ctx_free(c);
            }
    k_cpu_ops.ctx_free(base);
    help_tensor_free(&w);
    free(x), free(y), free(one);
}

static void matmul_obeys_the_numerics_law(void)
{
    for (size_t i = 0; i < HELP_TYPES; i++) {
        numerics_law(help_types[i], K_FAST);
        numerics_law(help_types[i], K_PRECISE);
    }
}

/* The stacked products are the plain product, matrix by matrix: the same bits. */
static void heads_and_experts_are_matmuls(void)
{
    enum { N = 64, M = 19, STACK = 6, N_TOK = 9, USED = 3, XS = N + 3, YS = M + 2 };
    static const enum k_type types[] = {K_Q8_0, K_F32, K_Q4_0};
    struct k_ctx *c = k_cpu_ops.ctx_new(2, 0);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct k_tensor w = help_tensor(types[i], N, M, STACK);
        float *x = help_floats(N_TOK * STACK * XS, 1.0f), *y = help_floats(N_TOK * STACK * YS, 1.0f), one[M];
        size_t matrix_bytes = k_row_bytes(types[i], N) * M;
        CHECK_INT(k_cpu_ops.matmul_heads(c, y, YS, x, XS, &w, N_TOK, K_FAST), K_OK);
        for (int t = 0; t < N_TOK * STACK; t++) {
            struct k_tensor head = {(const uint8_t *)w.data + t % STACK * matrix_bytes, types[i], {N, M, 1, 1}};
            k_matmul(&k_cpu_ops, c, one, x + t * XS, N, &head, NULL, 1, K_FAST);
            CHECK(memcmp(one, y + t * YS, sizeof one) == 0);
        }
        const struct k_product plain = {y, &w, NULL, NULL};
        int32_t ids[N_TOK * USED];
        for (int t = 0; t < N_TOK * USED; t++)
            ids[t] = (t * 5 + t / 4) % 5; /* expert 5 stays idle */
        for (int per_expert = 0; per_expert < 2; per_expert++) {
            CHECK_INT(k_cpu_ops.matmul_experts(c, &plain, x, per_expert, ids, USED, N_TOK, K_FAST), K_OK);
            for (int t = 0; t < N_TOK * USED; t++) {
                struct k_tensor e = {(const uint8_t *)w.data + (size_t)ids[t] * matrix_bytes, types[i], {N, M, 1, 1}};
                k_matmul(&k_cpu_ops, c, one, x + (per_expert ? t : t / USED) * N, N, &e, NULL, 1, K_FAST);
                CHECK(memcmp(one, y + t * M, sizeof one) == 0);
            }
        }
        help_tensor_free(&w);
        free(x), free(y);
    }
    k_cpu_ops.ctx_free(c);
}

/* ---- products of the same activations -------------------------------------------------------------------------- */

enum { SHARED_N = 512, SHARED_TOK = 17, SHARED_X = SHARED_N + 5 };
static const int64_t shared_rows[K_PRODUCTS_MAX] = {35, 1, 150};
/* The last column is of the matrix that the third product gates. */
static const enum k_type shared_types[][K_PRODUCTS_MAX + 1] = {
    {K_Q4_K, K_Q4_K, K_Q6_K, K_Q6_K}, {K_Q8_0, K_Q5_0, K_Q4_0, K_Q2_K}, {K_F32, K_BF16, K_Q8_0, K_F16}};

struct shared_case {
    struct k_tensor w[K_PRODUCTS_MAX + 1];
    float *x, *bias, *up, *alone[K_PRODUCTS_MAX], *together[K_PRODUCTS_MAX];
};

static struct shared_case shared_case_new(const enum k_type types[K_PRODUCTS_MAX + 1])
{
    struct shared_case s = {.x = help_floats(SHARED_TOK * SHARED_X, 1.0f), .bias = help_floats(shared_rows[0], 1.0f)};
    for (int i = 0; i <= K_PRODUCTS_MAX; i++)
        s.w[i] = help_tensor(types[i], SHARED_N, shared_rows[i < K_PRODUCTS_MAX ? i : K_PRODUCTS_MAX - 1], 1);
    for (int i = 0; i < K_PRODUCTS_MAX; i++) {
        s.alone[i] = help_floats(SHARED_TOK * shared_rows[i], 1.0f);
        s.together[i] = help_floats(SHARED_TOK * shared_rows[i], 1.0f);
    }
    s.up = help_floats(SHARED_TOK * shared_rows[K_PRODUCTS_MAX - 1], 1.0f);
    return s;
}

static void shared_case_free(struct shared_case *s)
{
    for (int i = 0; i <= K_PRODUCTS_MAX; i++)
        help_tensor_free(&s->w[i]);
    for (int i = 0; i < K_PRODUCTS_MAX; i++)
        free(s->alone[i]), free(s->together[i]);
    free(s->x), free(s->bias), free(s->up);
}

/* One by one, and silu_mul() of the last two. */
static void multiply_alone(const struct k_ops *ops, struct k_ctx *c, const struct shared_case *s, int32_t n_tok)
{
    for (int i = 0; i < K_PRODUCTS_MAX; i++)
        k_matmul(ops, c, s->alone[i], s->x, SHARED_X, &s->w[i], i == 0 ? s->bias : NULL, n_tok, K_FAST);
    k_matmul(ops, c, s->up, s->x, SHARED_X, &s->w[K_PRODUCTS_MAX], NULL, n_tok, K_FAST);
    float *gate = s->alone[K_PRODUCTS_MAX - 1];
    ops->silu_mul(c, gate, gate, s->up, n_tok * shared_rows[K_PRODUCTS_MAX - 1]);
}

static void check_together(const struct k_ops *ops, struct k_ctx *c, const struct shared_case *s, int32_t n_tok)
{
    const struct k_product products[K_PRODUCTS_MAX] = {{s->together[0], &s->w[0], s->bias, NULL},
                                                       {s->together[1], &s->w[1], NULL, NULL},
                                                       {s->together[2], &s->w[2], NULL, &s->w[3]}};
    for (int i = 0; i < K_PRODUCTS_MAX; i++)
        memset(s->together[i], 0xff, (size_t)(n_tok * shared_rows[i]) * sizeof(float));
    CHECK_INT(ops->matmul(c, products, K_PRODUCTS_MAX, s->x, SHARED_X, n_tok, K_FAST), K_OK);
    for (int i = 0; i < K_PRODUCTS_MAX; i++)
        CHECK(memcmp(s->together[i], s->alone[i], (size_t)(n_tok * shared_rows[i]) * sizeof(float)) == 0);
}

/* The same bits whether they are made together or alone, of mixed types, by every number of threads. */
static void products_together_are_products_alone(void)
{
    struct k_ctx *reference = k_reference_ops.ctx_new(1, 0), *base = k_cpu_ops.ctx_new(1, 0);
    for (size_t k = 0; k < sizeof shared_types / sizeof shared_types[0]; k++) {
        struct shared_case s = shared_case_new(shared_types[k]);
        multiply_alone(&k_reference_ops, reference, &s, 3);
        check_together(&k_reference_ops, reference, &s, 3);
        for (int32_t n_tok = 1; n_tok <= SHARED_TOK; n_tok += TEST_SANITIZED && n_tok > 1 ? 5 : 1) {
            multiply_alone(&k_cpu_ops, base, &s, n_tok);
            for (size_t i = 0; i < HELP_ISAS; i++)
                for (int threads = 1; threads <= 2; threads++) {
                    struct k_ctx *c = help_isa_ctx(threads, help_isas[i]);
                    if (c && (i > 0 || (n_tok == 2 && threads == 2))) /* the scalar kernels are slow */
                        check_together(&k_cpu_ops, c, &s, n_tok);
                    k_cpu_ops.ctx_free(c);
                }
        }
        shared_case_free(&s);
    }
    k_reference_ops.ctx_free(reference);
    k_cpu_ops.ctx_free(base);
}

static void gated_experts_are_products_alone(const struct k_ops *ops, struct k_ctx *c, int32_t n_tok)
{
    enum { N = 256, M = 37, STACK = 6, N_TOK = 9, USED = 3 };
    struct k_tensor w = help_tensor(K_Q4_K, N, M, STACK), up = help_tensor(K_Q6_K, N, M, STACK);
    float *x = help_floats(N_TOK * N, 1.0f), *y = help_floats(N_TOK * USED * M, 1.0f);
    float *gate = help_floats(N_TOK * USED * M, 1.0f), *other = help_floats(N_TOK * USED * M, 1.0f);
    int32_t ids[N_TOK * USED];
    for (int i = 0; i < N_TOK * USED; i++)
        ids[i] = i * 5 % STACK;
    const struct k_product alone = {gate, &w, NULL, NULL}, beside = {other, &up, NULL, NULL},
                           gated = {y, &w, NULL, &up};
    ops->matmul_experts(c, &alone, x, false, ids, USED, n_tok, K_FAST);
    ops->matmul_experts(c, &beside, x, false, ids, USED, n_tok, K_FAST);
    ops->silu_mul(c, gate, gate, other, n_tok * USED * M);
    CHECK_INT(ops->matmul_experts(c, &gated, x, false, ids, USED, n_tok, K_FAST), K_OK);
    CHECK(memcmp(y, gate, (size_t)n_tok * USED * M * sizeof *y) == 0);
    help_tensor_free(&w), help_tensor_free(&up);
    free(x), free(y), free(gate), free(other);
}

static void gated_experts_are_gated_products(void)
{
    struct k_ctx *reference = k_reference_ops.ctx_new(1, 0), *c = k_cpu_ops.ctx_new(2, 0);
    gated_experts_are_products_alone(&k_reference_ops, reference, 2);
    gated_experts_are_products_alone(&k_cpu_ops, c, 1);
    gated_experts_are_products_alone(&k_cpu_ops, c, 9);
    k_reference_ops.ctx_free(reference);
    k_cpu_ops.ctx_free(c);
}

/* A NaN in the activations reaches every output of its token and no other token. */
static void nan_reaches_its_token_only(void)
{
    struct k_ctx *c = k_cpu_ops.ctx_new(1, 0);
    struct k_tensor w = help_tensor(K_Q8_0, 64, 20, 1);
    float *x = help_floats(2 * 64, 1.0f), y[40];
    x[40] = NAN;
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 64, &w, NULL, 2, K_FAST), K_OK);
    for (int i = 0; i < 20; i++) {
        CHECK(isnan(y[i]));
        CHECK(!isnan(y[20 + i]));
    }
    help_tensor_free(&w);
    free(x);
    k_cpu_ops.ctx_free(c);
}

static void bad_shapes_are_refused(void)
{
    struct k_ctx *c = k_cpu_ops.ctx_new(1, 0);
    struct k_tensor w = help_tensor(K_Q8_0, 64, 4, 2);
    float x[128] = {0}, y[128];
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 64, &w, NULL, 1, K_FAST), K_BAD_SHAPE); /* a stack is no matrix */
    w.ne[2] = 1;
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 63, &w, NULL, 2, K_FAST), K_BAD_SHAPE);
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 64, &w, NULL, -1, K_FAST), K_BAD_SHAPE);
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 64, &w, NULL, 0, K_FAST), K_OK);
    w.ne[0] = 48;
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 64, &w, NULL, 1, K_FAST), K_BAD_SHAPE); /* half a block */
    w.ne[0] = 64;
    w.type = (enum k_type)4;
    CHECK_INT(k_matmul(&k_cpu_ops, c, y, x, 64, &w, NULL, 1, K_FAST), K_UNSUPPORTED);
    help_tensor_free(&w);
    k_cpu_ops.ctx_free(c);
}

static void bad_lists_are_refused(void)
{
    struct k_ctx *c = k_cpu_ops.ctx_new(1, 0);
    struct k_tensor w = help_tensor(K_Q8_0, 64, 4, 1), shorter = w, wider = w, stack = help_tensor(K_Q8_0, 64, 4, 2);
    float x[64] = {0}, y[3][8], bias[4] = {0};
    int32_t ids[1] = {0};
    shorter.ne[1] = 3, wider.ne[0] = 32;
    struct k_product p[] = {
        {y[0], &w, NULL, NULL}, {y[1], &w, NULL, NULL}, {y[2], &w, NULL, NULL}, {y[2], &w, NULL, NULL}};
    CHECK_INT(k_cpu_ops.matmul(c, p, 3, x, 64, 1, K_FAST), K_OK);
    CHECK_INT(k_cpu_ops.matmul(c, p, 0, x, 64, 1, K_FAST), K_BAD_SHAPE);
    CHECK_INT(k_cpu_ops.matmul(c, p, 4, x, 64, 1, K_FAST), K_BAD_SHAPE);
    p[1].w = &wider; /* other activations */
    CHECK_INT(k_cpu_ops.matmul(c, p, 3, x, 64, 1, K_FAST), K_BAD_SHAPE);
    p[1].w = &w, p[1].up = &shorter; /* gates nothing of its shape */
    CHECK_INT(k_cpu_ops.matmul(c, p, 3, x, 64, 1, K_FAST), K_BAD_SHAPE);
    p[1].up = &w, p[1].bias = bias; /* which of them is it of? */
    CHECK_INT(k_cpu_ops.matmul(c, p, 3, x, 64, 1, K_FAST), K_BAD_SHAPE);
    CHECK_INT(k_cpu_ops.matmul_experts(c, &p[1], x, false, ids, 1, 1, K_FAST), K_BAD_SHAPE);
    p[1].bias = NULL;
    CHECK_INT(k_cpu_ops.matmul(c, p, 3, x, 64, 1, K_FAST), K_OK);
    p[1].w = &stack; /* a stack gated by one matrix */
    CHECK_INT(k_cpu_ops.matmul_experts(c, &p[1], x, false, ids, 1, 1, K_FAST), K_BAD_SHAPE);
    help_tensor_free(&w), help_tensor_free(&stack);
    k_cpu_ops.ctx_free(c);
}

int main(void)
{
    help_say_what_is_missing();
    TEST(matmul_is_near_the_reference);
    TEST(matmul_obeys_the_numerics_law);
    TEST(heads_and_experts_are_matmuls);
    TEST(products_together_are_products_alone);
    TEST(gated_experts_are_gated_products);
    TEST(nan_reaches_its_token_only);
    TEST(bad_shapes_are_refused);
    TEST(bad_lists_are_refused);
    return TEST_RESULT();
}
