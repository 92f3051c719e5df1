/* Attention for the device, on the emulated one: against the plain reference in double within a derived bound, on pools
 * full of NaN where nothing was stored; and the numerics law: alone or in a run, by one block or many, whoever folds
 * their splits, beside rows of padding, with one stage of shared memory or two, in every order of blocks and threads,
 * the same bits.
 * runtest: release
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <math.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/emulated/control.h"

#define N_POS   300 /* stored positions of each of the two sequences: five pages, two splits */
#define N_PAGES 5
#define N_TOK   17
#define Q_MAX   3.0f

struct attention_case {
    enum k_type type;
    int32_t n_head, n_kv_head, d_k, d_v; /* n_kv_head 0: MLA with kv_lora d_v and d_rope d_k - d_v */
};

static stream_t st;
static uint32_t random_state = 1;
/* Of steps from now on: partial results that a block may fold, and rows of padding behind the tokens. */
static size_t fold_bytes = ATTN_FOLD_BYTES;
static int32_t padding;

static float random_float(void) /* even in [-1, 1) */
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)((int32_t)random_state >> 8) * 0x1p-23f;
}

static float *random_floats(int64_t n, float scale)
{
    float *x = (float *)malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float() * scale;
    return x;
}

static void *device_copy(const void *host, size_t n)
{
    void *p;
    CHECK_INT(dev_alloc(&p, n), K_OK);
    CHECK_INT(copy_in(st, p, host, n), K_OK);
    CHECK_INT(stream_sync(st), K_OK); /* host may go */
    return p;
}

static void *device_poison(size_t n) /* every byte 0xff: NaN */
{
    void *p;
    CHECK_INT(dev_alloc(&p, n), K_OK);
    CHECK_INT(dev_set(st, p, 0xff, n), K_OK);
    return p;
}

/* ---- the step: a run of 11 across the border of splits, and single tokens of both sequences ---- */

static const int32_t step_pos[N_TOK] = {0, 250, 251, 252, 253, 254, 255, 256, 257, 258, 259, 260, 299, 63, 64, 64, 130};
static const int32_t step_seq[N_TOK] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0};
static int32_t pages[2 * N_PAGES + 1]; /* page ids of both sequences, scattered, and that of none */

/* What cuda_tokens() makes of tokens [from, from + n) of the step and the rows of padding. */
#define ROWS_MAX (N_TOK + 3)
struct step {
    int32_t pos[ROWS_MAX], run_of[ROWS_MAX], first[ROWS_MAX], run_start[ROWS_MAX + 1];
    struct cuda_tokens t; /* on the device */
};

static void step_make(struct step *s, int32_t from, int32_t n)
{
    int32_t n_runs = 0;
    s->t = {};
    for (int32_t i = 0; i < n + padding; i++) {
        s->pos[i] = i < n ? step_pos[from + i] : 0;
        s->first[i] = (i < n ? step_seq[from + i] : 2) * N_PAGES;
        if (i == 0 || s->first[i] != s->first[i - 1] || s->pos[i] != s->pos[i - 1] + 1)
            s->run_start[n_runs++] = i;
        s->run_of[i] = n_runs - 1;
        s->t.pos_max = s->pos[i] > s->t.pos_max ? s->pos[i] : s->t.pos_max;
    }
    s->run_start[n_runs] = n + padding;
    for (int32_t i = 0; i < n_runs; i++)
        s->t.run_max =
            s->run_start[i + 1] - s->run_start[i] > s->t.run_max ? s->run_start[i + 1] - s->run_start[i] : s->t.run_max;
    s->t.n_tok = n + padding, s->t.n_runs = n_runs;
    s->t.pos = (int32_t *)device_copy(s->pos, sizeof s->pos);
    s->t.run_of = (int32_t *)device_copy(s->run_of, sizeof s->run_of);
    s->t.first = (int32_t *)device_copy(s->first, sizeof s->first);
    s->t.pages = (int32_t *)device_copy(pages, sizeof pages);
    s->t.run_start = (int32_t *)device_copy(s->run_start, sizeof s->run_start);
}

static void step_free(struct step *s)
{
    dev_free((void *)s->t.pos), dev_free((void *)s->t.run_of), dev_free((void *)s->t.first);
    dev_free((void *)s->t.pages), dev_free((void *)s->t.run_start);
}

/* ---- one case ---- */

struct bench {
    const struct attention_case *a;
    struct k_kv_pool host, device;
    size_t pool_bytes;
    float *q, *device_q; /* [N_TOK, n_head, d_k] */
    float *expected;     /* [N_TOK, n_head, d_v] */
    void *part;
    uint32_t *arrived; /* zeros, before a step and behind it */
};

static enum k_status attend_host(const struct bench *b, struct k_ctx *c, const struct k_token_ref *tok)
{
    const struct attention_case *a = b->a;
    const float scale = 1.0f / sqrtf((float)a->d_k);
    const struct k_gqa g = {a->n_head, a->n_kv_head, a->d_k, a->d_v, scale};
    const struct k_mla m = {a->n_head, a->d_v, a->d_k - a->d_v, scale};
    return a->n_kv_head ? k_reference_ops.attention_gqa(c, b->expected, b->q, &b->host, &g, tok, N_TOK)
                        : k_reference_ops.attention_mla(c, b->expected, b->q, &b->host, &m, tok, N_TOK);
}

static void bench_make(struct bench *b, const struct attention_case *a)
{
    const int32_t row = a->n_kv_head ? a->n_kv_head * (a->d_k + a->d_v) : a->d_k;
    struct k_ctx *c = k_reference_ops.ctx_new(1, 0);
    struct k_token_ref tok[N_POS];
    *b = {};
    b->a = a;
    b->host = {NULL, a->type, row, (int64_t)((size_t)K_PAGE_TOKENS * k_kv_row_bytes(a->type, row) + 32)};
    b->pool_bytes = (size_t)b->host.page_stride * 2 * N_PAGES;
    b->host.data = malloc(b->pool_bytes);
    memset(b->host.data, 0xff, b->pool_bytes);
    for (int32_t i = 0; i < 2 * N_PAGES; i++)
        pages[i] = (7 * i + 3) % (2 * N_PAGES);
    pages[2 * N_PAGES] = K_PAGE_NONE;
    for (int32_t s = 0; s < 2; s++) {
        float *rows = random_floats((int64_t)N_POS * row, 1.0f);
        for (int32_t i = 0; i < N_POS; i++)
            tok[i] = {pages + s * N_PAGES, i};
        CHECK_INT(k_reference_ops.kv_store(c, &b->host, rows, row, 0, row, tok, N_POS - s * 200), K_OK);
        free(rows);
    }
    b->q = random_floats((int64_t)N_TOK * a->n_head * a->d_k, Q_MAX);
    b->expected = random_floats((int64_t)N_TOK * a->n_head * a->d_v, 1.0f);
    for (int32_t i = 0; i < N_TOK; i++)
        tok[i] = {pages + step_seq[i] * N_PAGES, step_pos[i]};
    CHECK_INT(attend_host(b, c, tok), K_OK);
    b->device = b->host;
    b->device.data = device_copy(b->host.data, b->pool_bytes);
    b->device_q = (float *)device_copy(b->q, (size_t)N_TOK * (size_t)(a->n_head * a->d_k) * sizeof(float));
    b->part = device_poison((size_t)8 << 20);
    b->arrived = (uint32_t *)device_poison((size_t)ROWS_MAX * (size_t)a->n_head * sizeof *b->arrived);
    CHECK_INT(dev_set(st, b->arrived, 0, (size_t)ROWS_MAX * (size_t)a->n_head * sizeof *b->arrived), K_OK);
    k_reference_ops.ctx_free(c);
}

static void bench_free(struct bench *b)
{
    dev_free(b->device.data), dev_free(b->device_q), dev_free(b->part), dev_free(b->arrived);
    free(b->host.data), free(b->q), free(b->expected);
}

/* Tokens [from, from + n) in one step, into y, on a device of n_sm multiprocessors, a block of which may have
 * shared_max of shared memory, if this one's may. */
static void attend(const struct bench *b, float *y, int32_t from, int32_t n, int n_sm, size_t shared_max)
{
    const struct attention_case *a = b->a;
    const float scale = 1.0f / sqrtf((float)a->d_k);
    const struct k_gqa g = {a->n_head, a->n_kv_head, a->d_k, a->d_v, scale};
    const struct k_mla m = {a->n_head, a->d_v, a->d_k - a->d_v, scale};
    const int64_t q_row = (int64_t)a->n_head * a->d_k, y_row = (int64_t)a->n_head * a->d_v;
    struct device_facts facts;
    struct step s;
    step_make(&s, from, n);
    CHECK_INT(device_facts_of(0, &facts), K_OK);
    shared_max = shared_max < facts.shared_max ? shared_max : facts.shared_max;
    void *dy = device_poison((size_t)((n + padding) * y_row) * sizeof(float));
    const struct attn_env env = {st,         n_sm,       shared_max,      s.t, (float *)b->part, (size_t)8 << 20,
                                 fold_bytes, b->arrived, facts.major >= 9};
    CHECK_INT(a->n_kv_head ? attention_gqa(&env, (float *)dy, b->device_q + from * q_row, &b->device, &g)
                           : attention_mla(&env, (float *)dy, b->device_q + from * q_row, &b->device, &m),
              K_OK);
    CHECK_INT(copy_out(st, y + from * y_row, dy, (size_t)(n * y_row) * sizeof(float)), K_OK);
    CHECK_INT(stream_sync(st), K_OK);
    dev_free(dy);
    step_free(&s);
}

/* How far from the reference, which works in double on the same pool: scores are below S = Q_MAX * sqrt(d_k) in sums of
 * magnitudes and off by e_s * S; a weight moves by that, and by its own rounding e_w; so does their sum; values are
 * below 1, and Q8_0's are rounded to halves once more. */
static double bound(const struct attention_case *a, bool tensor_cores)
{
    const double eps = 0x1p-24, half = 0x1p-11, s = (double)Q_MAX * sqrt((double)a->d_k);
    const double rounded = tensor_cores && a->type == K_Q8_0 ? half : 0;
    const double e_s = (a->d_k + 12) * eps + rounded, e_w = tensor_cores ? half : 100 * eps;
    return 2 * (e_s * s + e_w + 64 * eps) + rounded;
}

static void check_near(const struct attention_case *a, const float *y, const float *expected, bool tensor_cores)
{
    const double most = bound(a, tensor_cores);
    int64_t far = 0;
    for (int64_t i = 0; i < (int64_t)N_TOK * a->n_head * a->d_v; i++)
        far += !(fabs((double)y[i] - (double)expected[i]) <= most);
    CHECK_INT(far, 0);
}

static const struct attention_case tiles[] = {
    {K_F16, 8, 2, 128, 128}, {K_F16, 7, 1, 64, 32},    {K_Q8_0, 6, 2, 64, 64},
    {K_F16, 16, 0, 80, 48},  {K_F16, 20, 0, 288, 272}, {K_Q8_0, 34, 0, 96, 64},
};

static void tiles_are_near_and_obey_the_law(void)
{
    for (size_t k = 0; k < sizeof tiles / sizeof *tiles; k++) {
        const struct attention_case *a = &tiles[k];
        const int64_t n = (int64_t)N_TOK * a->n_head * a->d_v;
        float *y = random_floats(n, 1.0f), *again = random_floats(n, 1.0f);
        struct bench b;
        bench_make(&b, a);
        attend(&b, y, 0, N_TOK, 1, 232448); /* one block for all splits */
        check_near(a, y, b.expected, true);
        cuda_emulated_order(1);
        for (fold_bytes = 0; fold_bytes <= ATTN_FOLD_BYTES; fold_bytes += ATTN_FOLD_BYTES) { /* splits shared out */
            attend(&b, again, 0, N_TOK, 500, 232448);
            CHECK(memcmp(y, again, (size_t)n * sizeof *y) == 0);
        }
        fold_bytes = ATTN_FOLD_BYTES;
        cuda_emulated_order((unsigned)k + 2);
        for (int32_t t = 0; k % 2 == 0 && t < N_TOK; t += 1 + (int32_t)k) { /* in small steps, one stage */
            int32_t count = N_TOK - t < 1 + (int32_t)k ? N_TOK - t : 1 + (int32_t)k;
            attend(&b, again, t, count, 132, 166912);
        }
        CHECK(memcmp(y, again, (size_t)n * sizeof *y) == 0);
        cuda_emulated_order(0);
        bench_free(&b);
        free(y), free(again);
    }
}

/* A token at 299, whose two splits are those of two blocks: the last of them folds, in one launch and as often as it is
 * asked to, and rows of padding have no part in it. */
static void the_last_block_folds(void)
{
    const struct attention_case *a = &tiles[0];
    const int64_t n = (int64_t)a->n_head * a->d_v;
    float *y = random_floats(N_TOK * n, 1.0f), *again = random_floats(N_TOK * n, 1.0f);
    struct bench b;
    bench_make(&b, a);
    attend(&b, y, 12, 1, 1, 232448);
    for (unsigned order = 0; order < 3; order++) {
        const long before = cuda_emulated_launches();
        cuda_emulated_order(order);
        padding = (int32_t)order;
        attend(&b, again, 12, 1, 500, 232448);
        CHECK_INT(cuda_emulated_launches() - before, cuda_emulated() ? 1 : 0);
        CHECK(memcmp(y + 12 * n, again + 12 * n, (size_t)n * sizeof *y) == 0);
        again[12 * n] = NAN;
    }
    fold_bytes = 0;
    const long before = cuda_emulated_launches();
    attend(&b, again, 12, 1, 500, 232448);
    CHECK_INT(cuda_emulated_launches() - before, cuda_emulated() ? 2 : 0);
    CHECK(memcmp(y + 12 * n, again + 12 * n, (size_t)n * sizeof *y) == 0);
    fold_bytes = ATTN_FOLD_BYTES, padding = 0;
    cuda_emulated_order(0);
    bench_free(&b);
    free(y), free(again);
}

/* Cards of compute capability 8.6 and 8.9 give a block 99 KiB: what does not fit there is computed all the same, every
 * token of it in the same way. */
static void without_shared_memory_the_plain_kernel_attends(void)
{
    static const struct attention_case wide = {K_F16, 2, 0, 576, 512};
    const int64_t n = (int64_t)N_TOK * wide.n_head * wide.d_v;
    float *y = random_floats(n, 1.0f), *again = random_floats(n, 1.0f);
    struct bench b;
    bench_make(&b, &wide);
    attend(&b, y, 0, N_TOK, 142, 99 * 1024);
    check_near(&wide, y, b.expected, false);
    for (int32_t t = 0; t < N_TOK; t++)
        attend(&b, again, t, 1, 142, 99 * 1024);
    CHECK(memcmp(y, again, (size_t)n * sizeof *y) == 0);
    bench_free(&b);
    free(y), free(again);
}

/* What a position's first value (of the first key head) is made of: the number itself, or the scale of its block. */
static uint16_t *first_value(const struct bench *b, int32_t seq, int32_t pos)
{
    const struct attention_case *a = b->a;
    const int32_t keys = a->n_kv_head * a->d_k;
    uint8_t *page = (uint8_t *)b->host.data + pages[seq * N_PAGES + pos / K_PAGE_TOKENS] * b->host.page_stride;
    return (uint16_t *)(page + (size_t)(pos % K_PAGE_TOKENS) * k_kv_row_bytes(a->type, b->host.row_elems) +
                        (a->type == K_Q8_0 ? keys / 32 * 34 : keys * 2));
}

/* Values that are not finite, of the tokens at 255 and 257 in the midst of a run: the rows before are what they were
 * without, the others have them in their first column, and the law holds. */
static void only_later_rows_see_what_is_not_finite(void)
{
    for (size_t k = 0; k < sizeof tiles / sizeof *tiles; k++) {
        const struct attention_case *a = &tiles[k];
        const int64_t row = (int64_t)a->n_head * a->d_v, n = N_TOK * row;
        float *clean = random_floats(n, 1.0f), *y = random_floats(n, 1.0f), *again = random_floats(n, 1.0f);
        struct bench b;
        bench_make(&b, a);
        attend(&b, clean, 0, N_TOK, 1, 232448);
        *first_value(&b, 0, 255) = 0x7c00; /* infinity */
        *first_value(&b, 0, 257) = 0x7e00; /* NaN */
        CHECK_INT(copy_in(st, b.device.data, b.host.data, b.pool_bytes), K_OK);
        CHECK_INT(stream_sync(st), K_OK);
        attend(&b, y, 0, N_TOK, k % 2 ? 1 : 500, 232448);
        for (int32_t t = 0; t < N_TOK; t++) {
            const bool sees = step_seq[t] == 0 && step_pos[t] >= 255;
            const bool same = memcmp(y + t * row, clean + t * row, (size_t)row * sizeof *y) == 0;
            if (same == sees || (isfinite(y[t * row]) != 0) == sees)
                fprintf(stderr, "case %zu: token %d at %d\n", k, t, step_pos[t]);
            CHECK(same != sees && (isfinite(y[t * row]) != 0) != sees);
        }
        for (int32_t t = 0; k < 3 && t < N_TOK; t++)
            attend(&b, again, t, 1, 132, 232448);
        for (int64_t i = 0; k < 3 && i < n; i++)
            CHECK(y[i] == again[i] || (isnan(y[i]) && isnan(again[i])));
        bench_free(&b);
        free(clean), free(y), free(again);
    }
}

/* The plain kernel takes what the tiles cannot: F32, heads of odd sizes, blocks that two heads share. */
static void plain_is_near_and_obeys_the_law(void)
{
    static const struct attention_case cases[] = {
        {K_F32, 6, 2, 24, 40}, {K_F16, 3, 3, 17, 9}, {K_Q8_0, 4, 2, 40, 24}, {K_F32, 5, 0, 33, 20}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const struct attention_case *a = &cases[k];
        const int64_t n = (int64_t)N_TOK * a->n_head * a->d_v;
        float *y = random_floats(n, 1.0f), *again = random_floats(n, 1.0f);
        struct bench b;
        bench_make(&b, a);
        attend(&b, y, 0, N_TOK, 132, 232448);
        check_near(a, y, b.expected, false);
        cuda_emulated_order(1 + (unsigned)k);
        for (int32_t t = 0; t < N_TOK; t += 5)
            attend(&b, again, t, N_TOK - t < 5 ? N_TOK - t : 5, 132, 232448);
        CHECK(memcmp(y, again, (size_t)n * sizeof *y) == 0);
        cuda_emulated_order(0);
        bench_free(&b);
        free(y), free(again);
    }
}

/* Queries far from 1 are scaled before they become halves: neither overflow nor what is lost below. */
static void queries_of_any_size(void)
{
    static const struct attention_case a = {K_F16, 4, 2, 32, 32};
    const int64_t n = (int64_t)N_TOK * a.n_head * a.d_v;
    float *y = random_floats(n, 1.0f);
    struct bench b;
    bench_make(&b, &a);
    for (int i = 0; i < 2; i++) {
        const float by = i ? 1e-9f : 1e30f; /* one weight takes all, or all weigh the same */
        float *q = random_floats((int64_t)N_TOK * a.n_head * a.d_k, by);
        dev_free(b.device_q);
        b.device_q = (float *)device_copy(q, (size_t)N_TOK * (size_t)(a.n_head * a.d_k) * sizeof *q);
        attend(&b, y, 0, N_TOK, 132, 232448);
        bool all = true;
        for (int64_t j = 0; j < n; j++)
            all = all && fabsf(y[j]) <= 1.0f;
        CHECK(all);
        free(q);
    }
    bench_free(&b);
    free(y);
}

int main(void)
{
    CHECK_INT(stream_new(&st), K_OK);
    TEST(tiles_are_near_and_obey_the_law);
    TEST(the_last_block_folds);
    TEST(without_shared_memory_the_plain_kernel_attends);
    TEST(only_later_rows_see_what_is_not_finite);
    TEST(plain_is_near_and_obeys_the_law);
    TEST(queries_of_any_size);
    stream_free(st);
    return TEST_RESULT();
}
