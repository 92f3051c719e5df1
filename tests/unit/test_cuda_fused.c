/* The CUDA backend's operations that are several as one: bit for bit what those give one by one, for every kind of
 * weights and pool, few tokens and many, rows of padding among them; and what they refuse.
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include "kernels/cuda/emulated/control.h"
#include "tests/unit/cuda_help.h"

static struct k_tensor device_tensor(enum k_type type, int64_t n0, int64_t n1, int64_t n2)
{
    struct k_tensor w = help_tensor(type, n0, n1, n2), d = w;
    d.data = device_copy(w.data, k_row_bytes(type, (uint64_t)n0) * (size_t)(n1 * n2));
    help_tensor_free(&w);
    return d;
}

static void tensor_free(struct k_tensor *w)
{
    device_free((void *)(uintptr_t)w->data);
}

static float *device_floats(int64_t n)
{
    float *host = help_floats(n, 1.0f), *there = device_copy(host, (size_t)n * sizeof *host);
    free(host);
    return there;
}

/* The same floats twice. */
static void device_twins(float *twins[2], int64_t n)
{
    float *host = help_floats(n, 1.0f);
    for (int i = 0; i < 2; i++)
        twins[i] = device_copy(host, (size_t)n * sizeof *host);
    free(host);
}

static bool same(const void *a, const void *b, size_t bytes)
{
    uint8_t *x = malloc(2 * bytes);
    fetch(x, a, bytes);
    fetch(x + bytes, b, bytes);
    const bool equal = memcmp(x, x + bytes, bytes) == 0;
    free(x);
    return equal;
}

/* A product of m outputs, added to y; then the norm of that, into rows of their own or in place. */
static void adding_is_three_operations(enum k_type type, int32_t m, int32_t n_tok, bool in_place)
{
    enum { N = 512, STRIDE = N + 4 };
    struct k_tensor w = device_tensor(type, N, m, 1);
    const size_t bytes = (size_t)(n_tok * m) * sizeof(float);
    float *x = device_floats((int64_t)n_tok * STRIDE), *norm = device_floats(m), *y[2], *rows[2];
    float *product = device_new(bytes);
    device_twins(y, (int64_t)n_tok * m);
    for (int i = 0; i < 2; i++)
        rows[i] = in_place ? y[i] : device_new(bytes);
    CHECK_INT(k_matmul(ops, c, product, x, STRIDE, &w, NULL, n_tok, K_FAST), K_OK);
    CHECK_INT(ops->add(c, y[0], product, (int64_t)n_tok * m), K_OK);
    CHECK_INT(ops->rms_norm(c, rows[0], y[0], norm, n_tok, m, m, 1e-5f), K_OK);
    const struct k_added added = {y[1], x, STRIDE, &w, {rows[1], norm, 1e-5f}};
    CHECK_INT(ops->matmul_add(c, &added, n_tok, K_FAST), K_OK);
    CHECK(same(y[0], y[1], bytes) && same(rows[0], rows[1], bytes));
    struct k_added plain = added;
    plain.norm.y = NULL;
    CHECK_INT(ops->add(c, y[0], product, (int64_t)n_tok * m), K_OK);
    CHECK_INT(ops->matmul_add(c, &plain, n_tok, K_FAST), K_OK);
    CHECK(same(y[0], y[1], bytes));
    for (int i = 0; i < 2; i++) {
        device_free(y[i]);
        if (!in_place)
            device_free(rows[i]);
    }
    tensor_free(&w);
    device_free(x), device_free(norm), device_free(product);
}

static void a_product_is_added(void)
{
    static const enum k_type types[] = {K_F32, K_F16, K_BF16, K_Q8_0, K_Q4_K};
    static const int32_t counts[] = {1, 2, 7, 70};
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++)
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) /* a row's norm is a warp's, or a block's */
            adding_is_three_operations(types[k], counts[i] <= 2 ? 520 : 40, counts[i], k % 2);
    adding_is_three_operations(K_BF16, 40, 1, false);
    adding_is_three_operations(K_Q8_0, 512, 2, true);
}

/* ---- queries, keys and values to their places ---- */

enum { N_TOK = 5, PAGES = 5, INV_FREQS = 32 };
static const enum k_type pools[] = {K_F32, K_F16, K_Q8_0};

/* Tokens of two sequences, the last a row of padding, and two equal pools on the device. */
struct place {
    struct help_pool pool;
    struct k_kv_pool kv[2];
    size_t bytes;
    struct k_token_ref tok[N_TOK];
    float *inv_freq;
};

static const int32_t no_page = K_PAGE_NONE;

static struct place place_new(enum k_type type, int32_t row_elems)
{
    static const int32_t positions[N_TOK] = {63, 64, 130, 7, 0};
    struct place p = {.pool = help_pool_new(type, row_elems, PAGES)};
    float inv_freq[INV_FREQS];
    p.bytes = (size_t)p.pool.kv.page_stride * PAGES;
    for (int i = 0; i < 2; i++) {
        p.kv[i] = p.pool.kv;
        p.kv[i].data = device_copy(p.pool.kv.data, p.bytes);
    }
    for (int t = 0; t < N_TOK; t++)
        p.tok[t] = (struct k_token_ref){t == N_TOK - 1 ? &no_page : p.pool.page_ids + (t == 3 ? 3 : 0), positions[t]};
    for (int i = 0; i < INV_FREQS; i++)
        inv_freq[i] = (float)pow(10000.0, -i / (double)INV_FREQS);
    p.inv_freq = device_copy(inv_freq, sizeof inv_freq);
    return p;
}

static void place_free(struct place *p)
{
    device_free(p->kv[0].data), device_free(p->kv[1].data), device_free(p->inv_freq);
    help_pool_free(&p->pool);
}

static void place_gqa_is_four_operations(enum k_type type, enum k_rope_style style, int32_t n_tok)
{
    enum { HEADS = 6, KV_HEADS = 2, D_K = 64, D_V = 32, KEYS = KV_HEADS * D_K, VALUES = KV_HEADS * D_V };
    struct place p = place_new(type, KEYS + VALUES);
    const struct k_gqa a = {HEADS, KV_HEADS, D_K, D_V, 1.0f};
    const struct k_rope r = {p.inv_freq, 1.25f, n_tok == 1 ? 32 : D_K, 0, style};
    float *q[2], *k[2], *v = device_floats((int64_t)N_TOK * VALUES);
    device_twins(q, (int64_t)N_TOK * HEADS * D_K);
    device_twins(k, (int64_t)N_TOK * KEYS);
    CHECK_INT(ops->rope(c, q[0], HEADS * D_K, HEADS, D_K, p.tok, n_tok, &r), K_OK);
    CHECK_INT(ops->rope(c, k[0], KEYS, KV_HEADS, D_K, p.tok, n_tok, &r), K_OK);
    CHECK_INT(ops->kv_store(c, &p.kv[0], k[0], KEYS, 0, KEYS, p.tok, n_tok), K_OK);
    CHECK_INT(ops->kv_store(c, &p.kv[0], v, VALUES, KEYS, VALUES, p.tok, n_tok), K_OK);
    const struct k_gqa_rows rows = {q[1], k[1], v};
    CHECK_INT(ops->place_gqa(c, &p.kv[1], &rows, &a, &r, p.tok, n_tok), K_OK);
    CHECK(same(q[0], q[1], N_TOK * HEADS * D_K * sizeof(float)));
    CHECK(same(p.kv[0].data, p.kv[1].data, p.bytes));
    CHECK(!same(p.kv[1].data, q[1], 64));
    struct k_rope off = r;
    off.offset = 2;
    CHECK_INT(ops->place_gqa(c, &p.kv[1], &rows, &a, &off, p.tok, n_tok), K_BAD_SHAPE);
    for (int i = 0; i < 2; i++)
        device_free(q[i]), device_free(k[i]);
    device_free(v);
    place_free(&p);
}

static void grouped_queries_go_to_their_places(void)
{
    for (size_t i = 0; i < sizeof pools / sizeof pools[0]; i++)
        for (int style = 0; style < 2; style++)
            for (int32_t n_tok = 1; n_tok <= N_TOK; n_tok += N_TOK - 1)
                place_gqa_is_four_operations(pools[i], (enum k_rope_style)style, n_tok);
}

/* kv_lora: up to 512 in one launch. */
static void place_mla_is_five_operations(enum k_type type, int32_t kv_lora, int32_t n_tok)
{
    enum { HEADS = 5, D_ROPE = 16, D_Q = 48 };
    const int32_t wide = kv_lora + D_ROPE;
    struct place p = place_new(type, wide);
    const struct k_mla a = {HEADS, kv_lora, D_ROPE, 1.0f};
    const struct k_rope r = {p.inv_freq, 1.25f, D_ROPE, D_Q - D_ROPE, K_ROPE_INTERLEAVED};
    struct k_rope rope_k = r;
    rope_k.offset = kv_lora;
    float *q[2], *k[2], *q_abs[2], *norm = device_floats(kv_lora);
    device_twins(q, (int64_t)N_TOK * HEADS * D_Q);
    device_twins(k, (int64_t)N_TOK * wide);
    device_twins(q_abs, (int64_t)N_TOK * HEADS * wide);
    CHECK_INT(ops->rope(c, q[0], HEADS * D_Q, HEADS, D_Q, p.tok, n_tok, &r), K_OK);
    CHECK_INT(ops->rms_norm(c, k[0], k[0], norm, n_tok, kv_lora, wide, 1e-6f), K_OK);
    CHECK_INT(ops->rope(c, k[0], wide, 1, wide, p.tok, n_tok, &rope_k), K_OK);
    CHECK_INT(ops->kv_store(c, &p.kv[0], k[0], wide, 0, wide, p.tok, n_tok), K_OK);
    CHECK_INT(ops->copy_rows(c, q_abs[0] + kv_lora, wide, q[0] + r.offset, D_Q, n_tok * HEADS, D_ROPE), K_OK);
    struct k_mla_rows rows = {q[1], D_Q, k[1], norm, 1e-6f, q_abs[1]};
    CHECK_INT(ops->place_mla(c, &p.kv[1], &rows, &a, &r, p.tok, n_tok), K_OK);
    CHECK(same(q_abs[0], q_abs[1], (size_t)(N_TOK * HEADS * wide) * sizeof(float)));
    CHECK(same(p.kv[0].data, p.kv[1].data, p.bytes));
    rows.d_q = D_Q + 1;
    CHECK_INT(ops->place_mla(c, &p.kv[1], &rows, &a, &r, p.tok, n_tok), K_BAD_SHAPE);
    for (int i = 0; i < 2; i++)
        device_free(q[i]), device_free(k[i]), device_free(q_abs[i]);
    device_free(norm);
    place_free(&p);
}

static void latents_go_to_their_places(void)
{
    for (size_t i = 0; i < sizeof pools / sizeof pools[0]; i++)
        for (int32_t n_tok = 1; n_tok <= N_TOK; n_tok += N_TOK - 1) {
            place_mla_is_five_operations(pools[i], 96, n_tok);
            place_mla_is_five_operations(pools[i], 544, n_tok);
        }
}

/* ---- experts ---- */

/* A router of n_expert with its product, for n_tok tokens; of a type that has to be dequantised, too. */
static void choosing_is_two_operations(const struct k_router *r, enum k_type type, int32_t n_tok)
{
    enum { EMBD = 256 };
    struct k_tensor w = device_tensor(type, EMBD, r->n_expert, 1);
    float *x = device_floats((int64_t)n_tok * EMBD);
    const size_t used = (size_t)(n_tok * r->n_used) * 4, all = (size_t)(n_tok * r->n_expert) * 4;
    struct k_choice m[2];
    for (int i = 0; i < 2; i++)
        m[i] = (struct k_choice){device_new(used), device_new(used), device_new(all), x, &w};
    CHECK_INT(k_matmul(ops, c, m[0].logits, x, EMBD, &w, NULL, n_tok, K_PRECISE), K_OK);
    CHECK_INT(ops->route(c, m[0].ids, m[0].weights, m[0].logits, r, n_tok), K_OK);
    const long before = cuda_emulated_launches();
    CHECK_INT(ops->choose(c, &m[1], r, n_tok), K_OK);
    CHECK_INT(cuda_emulated_launches() - before, !cuda_emulated() ? 0 : n_tok <= 8 ? 1 : 2);
    CHECK(same(m[0].ids, m[1].ids, used) && same(m[0].weights, m[1].weights, used));
    CHECK(same(m[0].logits, m[1].logits, all));
    struct k_router other = *r;
    other.n_expert++;
    CHECK_INT(ops->choose(c, &m[1], &other, n_tok), K_BAD_SHAPE);
    for (int i = 0; i < 2; i++)
        device_free(m[i].ids), device_free(m[i].weights), device_free(m[i].logits);
    device_free(x);
    tensor_free(&w);
}

static void experts_are_chosen_with_the_product(void)
{
    float *bias = device_floats(60);
    const struct k_router routers[] = {
        {64, 6, 1, 1, K_GATE_SOFTMAX, false, 1.0f, NULL, false},
        {60, 5, 6, 3, K_GATE_SIGMOID, true, 2.5f, bias, true},
    };
    for (size_t i = 0; i < sizeof routers / sizeof routers[0]; i++) {
        choosing_is_two_operations(&routers[i], K_F32, 1);
        choosing_is_two_operations(&routers[i], K_BF16, 2);
        choosing_is_two_operations(&routers[i], K_F32, 8);
        choosing_is_two_operations(&routers[i], K_F32, 9);
    }
    device_free(bias);
}

struct moe_case {
    enum k_type gate, up, down, shared; /* the latter two matrices' of the shared ones, K_TYPE_COUNT: there are none */
    int32_t n_tok;
};

static void moe_is_its_operations(const struct moe_case *a)
{
    enum { EMBD = 768, FF = 256, SHARED_FF = 256, EXPERTS = 6, USED = 3, TOK_MAX = 40 };
    const bool shared = a->shared != K_TYPE_COUNT;
    const int32_t n = a->n_tok;
    struct k_tensor w[6] = {device_tensor(a->gate, EMBD, FF, EXPERTS), device_tensor(a->up, EMBD, FF, EXPERTS),
                            device_tensor(a->down, FF, EMBD, EXPERTS)};
    if (shared)
        w[3] = device_tensor(a->shared, EMBD, SHARED_FF, 1), w[4] = device_tensor(a->gate, EMBD, SHARED_FF, 1),
        w[5] = device_tensor(a->shared, SHARED_FF, EMBD, 1);
    int32_t chosen[TOK_MAX * USED], *ids;
    for (int32_t i = 0; i < n * USED; i++)
        chosen[i] = (i / USED * 5 + i % USED * (i % 2 ? 1 : 4)) % EXPERTS;
    ids = device_copy(chosen, (size_t)(n * USED) * sizeof *ids);
    float *x = device_floats((int64_t)n * EMBD), *weights = device_floats((int64_t)n * USED), *y[2];
    device_twins(y, (int64_t)n * EMBD);
    float *norm = device_floats(EMBD),
          *rows[2] = {device_new((size_t)(n * EMBD) * 4), device_new((size_t)(n * EMBD) * 4)};
    const struct k_moe m = {.x = x,
                            .gate_exps = &w[0],
                            .up_exps = &w[1],
                            .down_exps = &w[2],
                            .ids = ids,
                            .weights = weights,
                            .n_used = USED,
                            .gate = shared ? &w[3] : NULL,
                            .up = &w[4],
                            .down = &w[5],
                            .hidden = device_new((size_t)(n * USED * FF) * 4),
                            .out = device_new((size_t)(n * USED * EMBD) * 4),
                            .shared_hidden = device_new((size_t)(n * SHARED_FF) * 4),
                            .shared_out = device_new((size_t)(n * EMBD) * 4),
                            .norm = {rows[1], norm, 1e-6f}};
    const struct k_product gated = {m.hidden, &w[0], NULL, &w[1]}, down = {m.out, &w[2], NULL, NULL};
    const struct k_product shared_gated = {m.shared_hidden, &w[3], NULL, &w[4]};
    const long before = cuda_emulated_launches();
    CHECK_INT(ops->matmul_experts(c, &gated, x, false, ids, USED, n, K_FAST), K_OK);
    CHECK_INT(ops->matmul_experts(c, &down, m.hidden, true, ids, USED, n, K_FAST), K_OK);
    CHECK_INT(ops->combine_experts(c, y[0], m.out, weights, USED, EMBD, n), K_OK);
    if (shared) {
        CHECK_INT(ops->matmul(c, &shared_gated, 1, x, EMBD, n, K_FAST), K_OK);
        CHECK_INT(k_matmul(ops, c, m.shared_out, m.shared_hidden, SHARED_FF, &w[5], NULL, n, K_FAST), K_OK);
        CHECK_INT(ops->add(c, y[0], m.shared_out, (int64_t)n * EMBD), K_OK);
    }
    CHECK_INT(ops->rms_norm(c, rows[0], y[0], norm, n, EMBD, EMBD, 1e-6f), K_OK);
    const long between = cuda_emulated_launches();
    CHECK_INT(ops->moe(c, y[1], &m, n, K_FAST), K_OK);
    if (n > 1 && cuda_emulated()) /* pairs are sorted once, and there is no launch for add(), or none for the norm */
        CHECK_INT((between - before) - (cuda_emulated_launches() - between), 2);
    CHECK(same(y[0], y[1], (size_t)(n * EMBD) * sizeof(float)));
    CHECK(same(rows[0], rows[1], (size_t)(n * EMBD) * sizeof(float)));
    for (int i = 0; i < (shared ? 6 : 3); i++)
        tensor_free(&w[i]);
    device_free(norm), device_free(rows[0]), device_free(rows[1]);
    device_free(ids), device_free(x), device_free(weights), device_free(y[0]), device_free(y[1]);
    device_free(m.hidden), device_free(m.out), device_free(m.shared_hidden), device_free(m.shared_out);
}

static void experts_are_one_operation(void)
{
    static const struct moe_case cases[] = {
        {K_BF16, K_BF16, K_BF16, K_BF16, 1},       {K_BF16, K_BF16, K_BF16, K_TYPE_COUNT, 1},
        {K_Q4_K, K_Q4_K, K_Q6_K, K_Q8_0, 1},       {K_F16, K_F16, K_F16, K_F16, 1}, /* not in one launch */
        {K_BF16, K_Q8_0, K_F32, K_BF16, 1},        {K_BF16, K_BF16, K_F16, K_BF16, 1},
        {K_BF16, K_BF16, K_BF16, K_BF16, 3},       {K_Q4_K, K_Q4_K, K_Q6_K, K_Q8_0, 40},
        {K_Q8_0, K_Q8_0, K_Q8_0, K_TYPE_COUNT, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        moe_is_its_operations(&cases[i]);
}

int main(void)
{
    c = ops->ctx_new(1, 0);
    for (unsigned order = 0; order < (TEST_SANITIZED ? 1 : 2); order++) { /* what is touched is the same in either */
        cuda_emulated_order(order);
        TEST(grouped_queries_go_to_their_places);
        TEST(latents_go_to_their_places);
        TEST(experts_are_chosen_with_the_product);
        TEST(experts_are_one_operation);
        TEST(a_product_is_added);
    }
    ops->ctx_free(c);
    CHECK_INT(cuda_emulated_allocated(), 0);
    return TEST_RESULT();
}
