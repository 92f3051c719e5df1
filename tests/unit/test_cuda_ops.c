/* The CUDA backend's small operations on the emulated device, against the reference, on odd sizes and poisoned outputs,
 * in several orders of threads; its memory, uploads and steps: what is repeated from a recorded step is what running
 * gives; and what it says when memory is short or the device is gone.
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <float.h>
#include <math.h>

#include "kernels/cuda/emulated/control.h"
#include "tests/unit/cuda_help.h"

static struct k_ctx *reference;

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
    int32_t *d_ids = device_copy(ids, sizeof ids);
    for (size_t i = 0; i < HELP_TYPES; i++) {
        struct k_tensor w = help_tensor(help_types[i], 1280, 7, 1), d = w;
        static float y[4 * 1280], expected[4 * 1280];
        d.data = device_copy(w.data, 7 * k_row_bytes(w.type, 1280));
        float *dy = device_new(sizeof y);
        CHECK_INT(k_reference_ops.get_rows(reference, expected, &w, ids, 4), K_OK);
        CHECK_INT(ops->get_rows(c, dy, &d, d_ids, 4), K_OK);
        fetch(y, dy, sizeof y);
        CHECK_INT(count_far(y, expected, 4 * 1280, 0.0, 0.0), 0);
        device_free(dy), device_free((void *)(uintptr_t)d.data);
        help_tensor_free(&w);
    }
    device_free(d_ids);
}

static void copies_rows(void)
{
    enum { ROWS = 5, N = 300, XS = 311, YS = 302 };
    float *x = help_floats(ROWS * XS, 1.0f), y[ROWS * YS], before[ROWS * YS];
    float *dx = device_copy(x, ROWS * XS * sizeof *x), *dy = device_new(sizeof y);
    fetch(before, dy, sizeof before);
    CHECK_INT(ops->copy_rows(c, dy, YS, dx, XS, ROWS, N), K_OK);
    fetch(y, dy, sizeof y);
    for (int r = 0; r < ROWS; r++) {
        CHECK(memcmp(y + r * YS, x + r * XS, N * sizeof *y) == 0);
        CHECK(memcmp(y + r * YS + N, before + r * YS + N, (YS - N) * sizeof *y) == 0);
    }
    CHECK_INT(ops->copy_rows(c, dy, N - 1, dx, XS, ROWS, N), K_BAD_SHAPE);
    device_free(dx), device_free(dy);
    free(x);
}

/* The scale is within half a rounding, two products follow. */
static void rms_norm_is_near(void)
{
    static const int32_t dims[] = {1, 7, 33, 512, 513, 1536};
    for (size_t k = 0; k < sizeof dims / sizeof dims[0]; k++)
        for (int64_t rows = 1; rows <= 11; rows += 10) {
            int32_t dim = dims[k], stride = dim + 3;
            size_t bytes = (size_t)(rows * stride) * sizeof(float);
            float *x = help_floats(rows * stride, 50.0f), *w = help_floats(dim, 1.0f);
            float *y = help_floats(rows * stride, 1.0f), *expected = help_floats(rows * stride, 1.0f);
            memset(x, 0, (size_t)dim * sizeof *x);
            memcpy(expected, x, bytes); /* in place: gaps between rows stay as they are */
            k_reference_ops.rms_norm(reference, expected, x, w, rows, dim, stride, 1e-6f);
            float *dx = device_copy(x, bytes), *dw = device_copy(w, (size_t)dim * sizeof *w);
            CHECK_INT(ops->rms_norm(c, dx, dx, dw, rows, dim, stride, 1e-6f), K_OK);
            fetch(y, dx, bytes);
            CHECK_INT(count_far(y, expected, rows * stride, 3.0, 0.0), 0);
            device_free(dx), device_free(dw);
            free(x), free(w), free(y), free(expected);
        }
}

static void silu_mul_and_add_are_near(void)
{
    static const int64_t sizes[] = {1, 255, 1025, 5000};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        int64_t n = sizes[k];
        size_t bytes = (size_t)n * sizeof(float);
        float *gate = help_floats(n, 20.0f), *up = help_floats(n, 3.0f), *y = help_floats(n, 1.0f);
        float *expected = help_floats(n, 1.0f);
        gate[0] = -200.0f;
        if (n > 4)
            gate[1] = 200.0f, gate[2] = 0.0f, gate[3] = -0.0f;
        k_reference_ops.silu_mul(reference, expected, gate, up, n);
        float *dg = device_copy(gate, bytes), *du = device_copy(up, bytes);
        CHECK_INT(ops->silu_mul(c, dg, dg, du, n), K_OK);
        fetch(y, dg, bytes);
        CHECK_INT(count_far(y, expected, n, 4.0, 1e-35), 0); /* exp 2 ulp, sum, quotient and product half each */
        CHECK_INT(ops->put(c, dg, gate, bytes), K_OK);
        CHECK_INT(ops->add(c, dg, du, n), K_OK);
        fetch(y, dg, bytes);
        int wrong = 0;
        for (int64_t i = 0; i < n; i++)
            wrong += y[i] != gate[i] + up[i];
        CHECK_INT(wrong, 0);
        device_free(dg), device_free(du);
        free(gate), free(up), free(y), free(expected);
    }
}

/* Sine and cosine are rounded once; two products and a sum follow, whose error is relative to |a| + |b|. */
static void rope_is_near(void)
{
    enum { N_TOK = HELP_ROPE_TOK, HEADS = 3, HEAD = 70, ROW = HEADS * HEAD + 4 };
    float inv_freq[32];
    struct k_token_ref tok[N_TOK];
    help_rope(tok, inv_freq);
    float *d_freq = device_copy(inv_freq, sizeof inv_freq);
    for (int style = 0; style < 2; style++)
        for (int32_t d_rope = 2; d_rope <= 64; d_rope += 31 * 2) {
            struct k_rope r = {inv_freq, 1.25f, d_rope, 6, (enum k_rope_style)style}, dr = r;
            float *x = help_floats(N_TOK * ROW, 1.0f), y[N_TOK * ROW], expected[N_TOK * ROW];
            float *dx = device_copy(x, sizeof y);
            dr.inv_freq = d_freq;
            memcpy(expected, x, sizeof expected);
            k_reference_ops.rope(reference, expected, ROW, HEADS, HEAD, tok, N_TOK, &r);
            CHECK_INT(ops->rope(c, dx, ROW, HEADS, HEAD, tok, N_TOK, &dr), K_OK);
            fetch(y, dx, sizeof y);
            CHECK_INT(count_far(y, expected, N_TOK * ROW, 0.0, 2.0 * 1.25 * 3.0 * FLT_EPSILON), 0);
            CHECK_INT(ops->put(c, dx, x + 3 * ROW, ROW * sizeof *x), K_OK); /* one token alone: the same bits */
            CHECK_INT(ops->rope(c, dx, ROW, HEADS, HEAD, tok + 3, 1, &dr), K_OK);
            float one[ROW];
            fetch(one, dx, sizeof one);
            CHECK(memcmp(one, y + 3 * ROW, sizeof one) == 0);
            device_free(dx);
            free(x);
        }
    device_free(d_freq);
}

/* Rows of two sequences in scattered pages, in two parts as keys and values come; nothing else is touched. */
static void stores_are_the_reference_s(void)
{
    enum { N_TOK = 7, ELEMS = 104, PAGES = 6 };
    static const enum k_type types[] = {K_F32, K_F16, K_Q8_0};
    static const int32_t positions[N_TOK] = {0, 1, 63, 64, 65, 130, 5}, of[N_TOK] = {0, 0, 0, 0, 0, 0, 1};
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
        struct help_pool pool = help_pool_new(types[k], ELEMS, PAGES);
        size_t bytes = (size_t)pool.kv.page_stride * PAGES;
        float *rows = help_floats(N_TOK * ELEMS, 4.0f), *d_rows;
        rows[5] = NAN, rows[40] = INFINITY, rows[70] = -1e30f;
        memset(rows + 3 * ELEMS, 0, 32 * sizeof *rows);
        d_rows = device_copy(rows, (size_t)N_TOK * ELEMS * sizeof *rows);
        struct k_token_ref tok[N_TOK];
        for (int t = 0; t < N_TOK; t++)
            tok[t] = (struct k_token_ref){pool.page_ids + 3 * of[t], positions[t]};
        struct k_kv_pool device = pool.kv;
        device.data = device_copy(pool.kv.data, bytes);
        for (int part = 0; part < 2; part++) {
            int32_t at = part ? 64 : 0, n = part ? ELEMS - 64 : 64;
            CHECK_INT(k_reference_ops.kv_store(reference, &pool.kv, rows + at, ELEMS, at, n, tok, N_TOK), K_OK);
            CHECK_INT(ops->kv_store(c, &device, d_rows + at, ELEMS, at, n, tok, N_TOK), K_OK);
        }
        uint8_t *stored = malloc(bytes);
        fetch(stored, device.data, bytes);
        if (types[k] == K_F32)
            CHECK(memcmp(stored, pool.kv.data, bytes) == 0);
        int differ = 0; /* a NaN's bits are the machine's */
        for (size_t i = 0; i < bytes; i++)
            differ += stored[i] != ((uint8_t *)pool.kv.data)[i];
        CHECK(differ <= 2);
        device_free(device.data), device_free(d_rows);
        free(stored), free(rows);
        help_pool_free(&pool);
    }
}

static void combine_is_near(void)
{
    enum { N_TOK = 3, USED = 4, DIM = 300 };
    float *x = help_floats(N_TOK * USED * DIM, 1.0f), *w = help_floats(N_TOK * USED, 1.0f);
    float *start = help_floats(N_TOK * DIM, 1.0f), y[N_TOK * DIM], expected[N_TOK * DIM];
    float *dx = device_copy(x, N_TOK * USED * DIM * sizeof *x), *dw = device_copy(w, N_TOK * USED * sizeof *w);
    float *dy = device_copy(start, sizeof y);
    memcpy(expected, start, sizeof expected);
    k_reference_ops.combine_experts(reference, expected, x, w, USED, DIM, N_TOK);
    CHECK_INT(ops->combine_experts(c, dy, dx, dw, USED, DIM, N_TOK), K_OK);
    fetch(y, dy, sizeof y);
    CHECK_INT(count_far(y, expected, N_TOK * DIM, 0.0, 5.0 * 2.0 * USED * FLT_EPSILON / 2.0), 0);
    device_free(dx), device_free(dw), device_free(dy);
    free(x), free(w), free(start);
}

/* ---- router ---- */

/* Random logits of n_tok tokens, the first with ties, the second NaN: ids are the reference's, weights near. */
static void route_like_reference(const struct k_router *r, int32_t n_tok)
{
    int32_t n = n_tok * r->n_used, *ids = calloc((size_t)n, sizeof *ids),
            *expected_ids = calloc((size_t)n, sizeof *ids);
    float *logits = help_floats((int64_t)n_tok * r->n_expert, 4.0f), *w = help_floats(n, 1.0f);
    float *expected = help_floats(n, 1.0f);
    for (int32_t e = 0; e < r->n_expert; e++) {
        logits[e] = (float)(e / 3 % 4);
        if (n_tok > 1)
            logits[r->n_expert + e] = NAN;
    }
    struct k_router dr = *r;
    dr.bias = r->bias ? device_copy(r->bias, (size_t)r->n_expert * sizeof *r->bias) : NULL;
    float *d_logits = device_copy(logits, (size_t)n_tok * (size_t)r->n_expert * sizeof *logits);
    float *dw = device_new((size_t)n * sizeof *dw);
    int32_t *d_ids = device_new((size_t)n * sizeof *d_ids);
    CHECK_INT(k_reference_ops.route(reference, expected_ids, expected, logits, r, n_tok), K_OK);
    CHECK_INT(ops->route(c, d_ids, dw, d_logits, &dr, n_tok), K_OK);
    fetch(ids, d_ids, (size_t)n * sizeof *ids);
    fetch(w, dw, (size_t)n * sizeof *w);
    for (int32_t i = 0; i < n; i++)
        CHECK_INT(ids[i], expected_ids[i]);
    CHECK_INT(count_far(w, expected, n, 24.0, 0.0), 0);
    device_free(d_logits), device_free(dw), device_free(d_ids);
    if (dr.bias)
        device_free((void *)(uintptr_t)dr.bias);
    free(ids), free(expected_ids), free(logits), free(w), free(expected);
}

static void routes_like_the_reference(void)
{
    float *bias = help_floats(256, 0.3f);
    const struct k_router routers[] = {
        {256, 8, 8, 4, K_GATE_SIGMOID, true, 2.5f, bias, true}, /* DeepSeek-V3 */
        {160, 6, 8, 3, K_GATE_SOFTMAX, false, 16.0f, NULL, false},
        {64, 6, 0, 0, K_GATE_SOFTMAX, false, 1.0f, NULL, false},
        {7, 3, 0, 0, K_GATE_SOFTMAX, true, 1.0f, NULL, false},
        {6, 2, 3, 2, K_GATE_SOFTMAX, false, 16.0f, NULL, false},
        {40, 40, 40, 40, K_GATE_SIGMOID, true, 1.0f, bias, true},
    };
    for (size_t i = 0; i < sizeof routers / sizeof routers[0]; i++)
        for (int32_t n_tok = 1; n_tok <= 9; n_tok += 8)
            route_like_reference(&routers[i], n_tok);
    free(bias);
}

/* ---- memory and steps ---- */

static void uploads_arrive(void)
{
    static const size_t sizes[] = {0, 1, 5000, ((size_t)4 << 20) + 3, ((size_t)9 << 20)};
    enum { N = sizeof sizes / sizeof sizes[0] };
    struct k_copy copies[N];
    for (int i = 0; i < N; i++) {
        uint8_t *host = malloc(sizes[i] + 1);
        for (size_t k = 0; k < sizes[i]; k++)
            host[k] = (uint8_t)(k * 31 + (size_t)i + k / 4096);
        copies[i] = (struct k_copy){device_new(sizes[i]), host, sizes[i]};
    }
    CHECK_INT(ops->put_many(c, copies, N), K_OK);
    for (int i = 0; i < N; i++) {
        uint8_t *back = malloc(sizes[i] + 1);
        fetch(back, copies[i].to, sizes[i]);
        CHECK(memcmp(back, copies[i].from, sizes[i]) == 0);
        device_free(copies[i].to);
        free(back), free((void *)(uintptr_t)copies[i].from);
    }
    CHECK_INT(ops->put_many(c, NULL, 0), K_OK);
    size_t bytes = ((size_t)2 << 20) + 7; /* through put(), more than its pinned memory */
    uint8_t *big = malloc(bytes), *back = malloc(bytes);
    for (size_t k = 0; k < bytes; k++)
        big[k] = (uint8_t)(k * 7 + k / 1000);
    void *p = device_copy(big, bytes);
    fetch(back, p, bytes);
    CHECK(memcmp(back, big, bytes) == 0);
    device_free(p);
    free(big), free(back);
}

/* One step as the engine makes it: x += 1 token's row, rotated by its position. */
static enum k_step step(float *dx, const struct k_token_ref *tok, int32_t n, const struct k_rope *r, bool *ran)
{
    enum k_step how;
    enum k_status s = ops->step_begin(c, tok, n, 1, &how);
    CHECK_INT(s, K_OK);
    *ran = how != K_STEP_REPEAT;
    if (*ran)
        s = ops->rope(c, dx, 8, 1, 8, tok, n, r);
    CHECK_INT(ops->step_end(c, s), K_OK);
    return how;
}

static void steps_are_recorded_and_repeated(void)
{
    static const enum k_step expected[] = {K_STEP_RUN, K_STEP_RECORD, K_STEP_REPEAT, K_STEP_REPEAT};
    float x[24], inv_freq[4] = {1.0f, 0.5f, 0.25f, 0.125f}, again[24], once[24];
    struct k_rope r = {inv_freq, 1.0f, 8, 0, K_ROPE_NEOX}, dr = r;
    dr.inv_freq = device_copy(inv_freq, sizeof inv_freq);
    for (int i = 0; i < 24; i++)
        x[i] = help_float();
    float *dx = device_copy(x, sizeof x);
    for (int i = 0; i < 4; i++) {
        /* other positions each time, of sequences of their own */
        struct k_token_ref tok[3] = {{NULL, 7 * i}, {NULL, 3 + i}, {NULL, 200}};
        bool ran;
        CHECK_INT(ops->put(c, dx, x, sizeof x), K_OK);
        CHECK_INT(step(dx, tok, 3, &dr, &ran), expected[i]);
        fetch(again, dx, sizeof again);
        memcpy(once, x, sizeof x);
        k_reference_ops.rope(reference, once, 8, 1, 8, tok, 3, &r);
        CHECK_INT(count_far(again, once, 24, 0.0, 4.0 * FLT_EPSILON), 0);
    }
    struct k_token_ref far[3] = {{NULL, 1}, {NULL, 300}, {NULL, 5}}; /* beyond the bound of positions: another kind */
    bool ran;
    CHECK_INT(step(dx, far, 3, &dr, &ran), K_STEP_RUN);
    int32_t page = 0;
    struct k_token_ref run[3] = {{&page, 1}, {&page, 2}, {&page, 3}}; /* prefill is never recorded */
    for (int i = 0; i < 3; i++)
        CHECK_INT(step(dx, run, 3, &dr, &ran), K_STEP_RUN);
    device_free(dx), device_free((void *)(uintptr_t)dr.inv_freq);
}

/* The host's part of a step: doubles what was fetched, adds the step's number. */
struct host_part {
    float *in, *out; /* K_BUF_HOST memory */
    int32_t *number;
};

static void host_part_run(void *arg)
{
    const struct host_part *p = arg;
    for (int i = 0; i < 8; i++)
        p->out[i] = 2.0f * p->in[i] + (float)*p->number;
}

static void *host_buffer(size_t bytes)
{
    void *p;
    CHECK_INT(ops->buf_new(c, &p, bytes, K_BUF_HOST), K_OK);
    return p;
}

/* x += x; beside it the host makes y of what x is then; x += x again; in the end x += y: 4x + 2(2x) + number. */
static void the_host_works_beside(void)
{
    float x[8], y[8], expected[8];
    struct host_part p = {host_buffer(sizeof x), host_buffer(sizeof x), host_buffer(sizeof(int32_t))};
    float *dx = device_copy(x, sizeof x), *dsum = device_copy(x, sizeof x), *dy = device_copy(x, sizeof x);
    int32_t number = 0, *dnumber = device_copy(&number, sizeof number);
    const struct k_host_work w = {.out = {{p.in, dx, sizeof x}, {p.number, dnumber, sizeof number}},
                                  .n_out = 2,
                                  .run = host_part_run,
                                  .arg = &p,
                                  .back = {dy, p.out, sizeof x}};
    for (int32_t i = 0; i < 8; i++) { /* eagerly, then late: run, recorded, repeated twice */
        struct k_token_ref tok[5] = {{NULL, i}, {NULL, 20}, {NULL, 24}, {NULL, 28}, {NULL, 32}};
        enum k_step how;
        cuda_emulated_late(i >= 4);
        for (int j = 0; j < 8; j++)
            x[j] = help_float(), expected[j] = 4.0f * x[j] + (4.0f * x[j] + (float)i);
        CHECK_INT(ops->send(c, dx, memcpy(p.in, x, sizeof x), sizeof x), K_OK);
        CHECK_INT(ops->put(c, dnumber, &i, sizeof i), K_OK);
        CHECK_INT(ops->step_begin(c, tok, i < 4 ? 5 : 4, 9, &how), K_OK);
        CHECK_INT(how, i % 4 == 0 ? K_STEP_RUN : i % 4 == 1 ? K_STEP_RECORD : K_STEP_REPEAT);
        if (how != K_STEP_REPEAT) {
            CHECK_INT(ops->add(c, dx, dx, 8), K_OK);
            CHECK_INT(ops->host_begin(c, &w), K_OK);
            CHECK_INT(ops->copy_rows(c, dsum, 8, dx, 8, 1, 8), K_OK); /* reads what the host's part reads */
            CHECK_INT(ops->add(c, dsum, dsum, 8), K_OK);
            CHECK_INT(ops->host_end(c), K_OK);
            CHECK_INT(ops->add(c, dsum, dy, 8), K_OK);
        }
        CHECK_INT(ops->step_end(c, K_OK), K_OK);
        CHECK_INT(ops->fetch(c, p.out, dsum, sizeof x), K_OK);
        fetch(y, dsum, sizeof y);
        CHECK(memcmp(p.out, y, sizeof y) == 0);
        CHECK_INT(count_far(y, expected, 8, 0.0, 4.0 * FLT_EPSILON), 0);
    }
    cuda_emulated_late(false);
    device_free(dx), device_free(dsum), device_free(dy), device_free(dnumber);
    ops->buf_free(c, p.in, sizeof x, K_BUF_HOST);
    ops->buf_free(c, p.out, sizeof x, K_BUF_HOST);
    ops->buf_free(c, p.number, sizeof number, K_BUF_HOST);
}

static void failures_are_told(void)
{
    void *p;
    size_t left, total;
    cuda_emulated_memory(cuda_emulated_allocated() + 1000);
    CHECK_INT(ops->memory(c, &left, &total), K_OK);
    CHECK_INT(left, 1000);
    CHECK_INT(ops->buf_new(c, &p, 1001, K_BUF_WORK), K_NO_MEMORY);
    CHECK(p == NULL);
    CHECK_STR(ops->error_text(c), "out of memory");
    cuda_emulated_memory((size_t)4 << 30);
    float x[4] = {1, 2, 3, 4}, *dx = device_copy(x, sizeof x);
    cuda_emulated_lose(true);
    CHECK_INT(ops->put_many(c, &(struct k_copy){dx, x, sizeof x}, 1), K_DEVICE);
    CHECK_STR(ops->error_text(c), "device lost"); /* other threads' errors, too */
    CHECK_INT(ops->add(c, dx, dx, 4), K_DEVICE);
    CHECK_INT(ops->get(c, x, dx, sizeof x), K_DEVICE);
    CHECK_STR(ops->error_text(c), "device lost");
    CHECK(!k_cuda_ops.ctx_new(1, 0));
    cuda_emulated_lose(false);
    device_free(dx);
    char text[128];
    CHECK(!k_cuda_device_usable(7, text, sizeof text));
    CHECK_STR(text, "there is no device 7: the driver shows 1");
    CHECK(k_cuda_device_usable(0, text, sizeof text));
    cuda_emulated_none(true);
    CHECK(!k_cuda_device_usable(0, text, sizeof text));
    CHECK_STR(text, "no CUDA device: there is no NVIDIA driver");
    CHECK(!k_cuda_ops.ctx_new(1, 0));
    cuda_emulated_none(false);
}

static void run_operations(void)
{
    TEST(get_rows_is_dequantise);
    TEST(copies_rows);
    TEST(rms_norm_is_near);
    TEST(silu_mul_and_add_are_near);
    TEST(rope_is_near);
    TEST(stores_are_the_reference_s);
    TEST(combine_is_near);
    TEST(routes_like_the_reference);
}

int main(void)
{
    reference = k_reference_ops.ctx_new(1, 0);
    c = ops->ctx_new(1, 0);
    for (unsigned order = 0; order < 3; order++) {
        cuda_emulated_order(order);
        run_operations();
    }
    TEST(steps_are_recorded_and_repeated);
    TEST(the_host_works_beside);
    TEST(uploads_arrive);
    if (cuda_emulated())
        TEST(failures_are_told);
    else
        puts("skipped: failures_are_told: a real device is not taken away");
    ops->ctx_free(c);
    CHECK_INT(cuda_emulated_allocated(), 0);
    k_reference_ops.ctx_free(reference);
    return TEST_RESULT();
}
