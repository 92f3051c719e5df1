/* Speed of the device's kernels beside what the device can do at best. One line per figure: name, value, unit, share.
 *
 *     bench_cuda ceilings        copy bandwidth, BF16 matrix rate (cuBLAS by dlopen), pinned copies, starting on the device
 *     bench_cuda products        each weight type with 1, 4, 8, 64, 256 and 2,048 tokens; these once more without wgmma
 *     bench_cuda attention       decode and prefill, GQA and MLA; sampling
 *
 * "small" behind these: all of it once at sizes that mean nothing, so that the emulated device can show that it runs.
 *
 * Weights come from a ring larger than any cache. Medians of RUNS, each of as many launches as last a few milliseconds;
 * times are the device's own (events). Clocks and limits of the card are left as they are. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/sample.cuh"

#define RUNS       7
#define RING_BYTES ((size_t)2 << 30)
#define COPY_BYTES ((size_t)4 << 30)
#define PINNED     ((size_t)1 << 30)
#define SMALL      ((size_t)1 << 20)

struct bench {
    struct k_ctx *c;
    event_t from, to;
    double copy_gb_s, bf16_tflop_s;
    uint64_t steps; /* begun so far */
    bool small;
};

static void must(enum k_status s, const char *what)
{
    if (s == K_OK)
        return;
    fprintf(stderr, "bench_cuda: %s: status %d: %s\n", what, (int)s, last_error_text());
    exit(1);
}

static void *memory(size_t bytes)
{
    void *p;
    must(dev_alloc(&p, bytes), "memory");
    return p;
}

/* ---- data ---- */

KERNEL(fill_bits)(uint32_t *p, int64_t n, uint32_t seed)
{
    for (int64_t i = (int64_t)block_x() * block_dim() + thread_x(); i < n; i += (int64_t)grid_x() * block_dim()) {
        uint32_t x = (uint32_t)i * 2654435761u ^ seed;
        x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
        p[i] = x;
    }
}

/* 16-bit floats of +-[2^low, 2^(low + 2)) out of random bits: BF16 or F16 by where the exponent stands. */
KERNEL(make_halves)(uint16_t *p, int64_t n, int shift, int exponent)
{
    for (int64_t i = (int64_t)block_x() * block_dim() + thread_x(); i < n; i += (int64_t)grid_x() * block_dim()) {
        const uint16_t bits = p[i], mantissa = (uint16_t)((1 << shift) - 1);
        p[i] = (uint16_t)((bits & 0x8000) | (exponent + (bits >> 14 & 1)) << shift | (bits & mantissa));
    }
}

KERNEL(make_floats)(float *p, int64_t n)
{
    for (int64_t i = (int64_t)block_x() * block_dim() + thread_x(); i < n; i += (int64_t)grid_x() * block_dim())
        p[i] = (float)((int32_t)f32_to_bits(p[i]) >> 8) * 0x1p-23f;
}

/* The scales of blocks: halves of about 2^-8 at byte `at`. */
KERNEL(make_scales)(uint8_t *blocks, int64_t n, int block_bytes, int at)
{
    for (int64_t i = (int64_t)block_x() * block_dim() + thread_x(); i < n; i += (int64_t)grid_x() * block_dim()) {
        uint8_t *b = blocks + i * block_bytes + at;
        b[1] = (uint8_t)((b[1] & 0x83) | 7 << 2);
    }
}

static void random_bits(struct bench *b, void *p, size_t bytes)
{
    must(launch(b->c->stream, fill_bits, grid_of(1024), 256, 0, (uint32_t *)p, (int64_t)(bytes / 4), (uint32_t)bytes),
         "fill");
}

static float *random_floats(struct bench *b, int64_t n)
{
    float *p = (float *)memory((size_t)n * sizeof *p);
    random_bits(b, p, (size_t)n * sizeof *p);
    must(launch(b->c->stream, make_floats, grid_of(1024), 256, 0, p, n), "floats");
    return p;
}

static void make_weights(struct bench *b, void *p, size_t bytes, enum k_type type)
{
    static const struct {
        enum k_type type;
        int at[2]; /* of halves, -1: none */
    } scales[] = {{K_Q8_0, {0, -1}}, {K_Q4_0, {0, -1}},   {K_Q4_1, {0, 2}},    {K_Q5_0, {0, -1}},
                  {K_Q5_1, {0, 2}},  {K_Q2_K, {80, 82}},  {K_Q3_K, {108, -1}}, {K_Q4_K, {0, 2}},
                  {K_Q5_K, {0, 2}},  {K_Q6_K, {208, -1}}, {K_IQ4_NL, {0, -1}}, {K_IQ4_XS, {0, -1}}};
    const int block = k_type_info(type)->block_bytes;
    random_bits(b, p, bytes);
    if (type == K_F32)
        must(launch(b->c->stream, make_floats, grid_of(1024), 256, 0, (float *)p, (int64_t)(bytes / 4)), "weights");
    if (type == K_BF16 || type == K_F16)
        must(launch(b->c->stream, make_halves, grid_of(1024), 256, 0, (uint16_t *)p, (int64_t)(bytes / 2),
                    type == K_F16 ? 10 : 7, type == K_F16 ? 11 : 123),
             "weights");
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        for (int j = 0; j < 2 && scales[i].type == type; j++)
            if (scales[i].at[j] >= 0)
                must(launch(b->c->stream, make_scales, grid_of(1024), 256, 0, (uint8_t *)p,
                            (int64_t)(bytes / (size_t)block), block, scales[i].at[j]),
                     "weights");
}

/* ---- time ---- */

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of one call of work(arg, i): median of RUNS, each of n calls. */
static double seconds(struct bench *b, int n, void (*work)(void *arg, int i), void *arg)
{
    double all[RUNS];
    const int runs = b->small ? 1 : RUNS;
    n = b->small ? 1 : n;
    for (int i = 0; i < n; i++)
        work(arg, i);
    for (int r = 0; r < runs; r++) {
        must(event_record(b->from, b->c->stream), "event");
        for (int i = 0; i < n; i++)
            work(arg, r * n + i);
        must(event_record(b->to, b->c->stream), "event");
        must(event_sync(b->to), "waiting");
        all[r] = (double)event_ms(b->from, b->to) * 1e-3 / n;
    }
    qsort(all, (size_t)runs, sizeof *all, compare);
    return all[runs / 2];
}

static void say(const char *name, double value, const char *unit, double of)
{
    if (of > 0)
        printf("%-44s %10.1f %-8s %5.1f %%\n", name, value, unit, 100 * value / of);
    else
        printf("%-44s %10.1f %-8s\n", name, value, unit);
    fflush(stdout);
}

/* ---- ceilings ---- */

struct copy_job {
    struct bench *b;
    void *to, *from;
    size_t bytes;
};

static void copy_once(void *arg, int i)
{
    const struct copy_job *j = (const struct copy_job *)arg;
    (void)i;
    must(copy_dev(j->b->c->stream, j->to, j->from, j->bytes), "copy");
}

static void copy_up(void *arg, int i)
{
    const struct copy_job *j = (const struct copy_job *)arg;
    (void)i;
    must(copy_in(j->b->c->stream, j->to, j->from, j->bytes), "copy");
}

static void bench_copy(struct bench *b)
{
    const size_t bytes = b->small ? SMALL : COPY_BYTES;
    struct copy_job j = {b, memory(bytes), memory(bytes), bytes};
    random_bits(b, j.from, bytes);
    b->copy_gb_s = 2 * (double)bytes / seconds(b, 2, copy_once, &j) * 1e-9;
    say("copy, read and written", b->copy_gb_s, "GB/s", 0);
    dev_free(j.from);
    j.bytes = b->small ? SMALL : PINNED;
    must(host_pinned_alloc(&j.from, j.bytes), "pinned memory");
    memset(j.from, 1, j.bytes);
    say("copy from pinned memory", (double)j.bytes / seconds(b, 1, copy_up, &j) * 1e-9, "GB/s", 0);
    host_pinned_free(j.from);
    dev_free(j.to);
}

/* cuBLAS without its headers: what of cublas_api.h is used. */
typedef int (*cublas_create)(void **);
typedef int (*cublas_set_stream)(void *, stream_t);
typedef int (*cublas_gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int,
                           int, const void *, void *, int, int, int, int);
struct gemm_job {
    cublas_gemm gemm;
    void *handle, *x, *y, *z;
    int n;
};

static void gemm_once(void *arg, int i)
{
    enum { OP_N = 0, OP_T = 1, R_16BF = 14, COMPUTE_32F = 68, ALGO_DEFAULT = -1 };
    const struct gemm_job *j = (const struct gemm_job *)arg;
    const float one = 1.0f, zero = 0.0f;
    (void)i;
    if (j->gemm(j->handle, OP_T, OP_N, j->n, j->n, j->n, &one, j->x, R_16BF, j->n, j->y, R_16BF, j->n, &zero, j->z,
                R_16BF, j->n, COMPUTE_32F, ALGO_DEFAULT))
        must(K_DEVICE, "cublasGemmEx");
}

static void bench_matrix_rate(struct bench *b)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
    void *lib = NULL;
    for (int i = 0; i < 3 && !lib; i++)
        lib = dlopen(names[i], RTLD_NOW);
    if (!lib) {
        printf("skipped: BF16 matrix rate: no libcublas to be found (LD_LIBRARY_PATH)\n");
        return;
    }
    const size_t bytes = (size_t)8192 * 8192 * 2;
    struct gemm_job j = {
        (cublas_gemm)dlsym(lib, "cublasGemmEx"), NULL, memory(bytes), memory(bytes), memory(bytes), 8192};
    const cublas_create create = (cublas_create)dlsym(lib, "cublasCreate_v2");
    const cublas_set_stream set_stream = (cublas_set_stream)dlsym(lib, "cublasSetStream_v2");
    if (!j.gemm || !create || !set_stream || create(&j.handle) || set_stream(j.handle, b->c->stream)) {
        printf("skipped: BF16 matrix rate: libcublas does not start\n");
        return;
    }
    make_weights(b, j.x, bytes, K_BF16);
    make_weights(b, j.y, bytes, K_BF16);
    b->bf16_tflop_s = 2.0 * 8192 * 8192 * 8192 / seconds(b, 10, gemm_once, &j) * 1e-12;
    say("BF16 product of 8192 x 8192, cuBLAS", b->bf16_tflop_s, "TFLOP/s", 0);
    dev_free(j.x), dev_free(j.y), dev_free(j.z);
}

/* ---- products ---- */

struct product_job {
    struct bench *b;
    struct k_tensor w; /* of the ring's first */
    size_t bytes;      /* of one */
    int ring;          /* how many */
    float *x, *y;
    int32_t n_tok;
};

static void product_once(void *arg, int i)
{
    const struct product_job *j = (const struct product_job *)arg;
    struct k_tensor w = j->w;
    w.data = (const uint8_t *)w.data + (size_t)(i % j->ring) * j->bytes;
    must(k_matmul(&k_cuda_ops, j->b->c, j->y, j->x, w.ne[0], &w, NULL, j->n_tok, K_FAST), "matmul");
}

/* Up to 64 tokens are a matter of memory. */
static void bench_product(struct product_job *j, int32_t n_tok, const char *how)
{
    char name[80];
    j->n_tok = n_tok;
    const double s = seconds(j->b, n_tok > 8 ? 4 : j->ring, product_once, j);
    snprintf(name, sizeof name, "%s %d x %d, %d token(s)%s", k_type_info(j->w.type)->name, (int)j->w.ne[0],
             (int)j->w.ne[1], (int)n_tok, how);
    if (n_tok <= 64)
        say(name, (double)j->bytes / s * 1e-9, "GB/s", j->b->copy_gb_s);
    else
        say(name, 2.0 * (double)(j->w.ne[0] * j->w.ne[1]) * n_tok / s * 1e-12, "TFLOP/s", j->b->bf16_tflop_s);
}

static void bench_products(struct bench *b)
{
    static const enum k_type types[] = {K_BF16, K_F16,  K_Q8_0, K_Q4_0, K_Q4_K,   K_Q5_K,   K_Q6_K, K_Q4_1,
                                        K_Q5_0, K_Q5_1, K_Q2_K, K_Q3_K, K_IQ4_NL, K_IQ4_XS, K_F32};
    static const int32_t tokens[] = {1, 4, 8, 64, 256, 2048};
    const int32_t n = b->small ? 512 : 4096, m = b->small ? 40 : 14336, most = b->small ? 70 : 2048;
    const size_t ring = b->small ? SMALL : RING_BYTES;
    const bool wgmma = b->c->wgmma;
    struct product_job j = {b, {memory(ring), K_F32, {n, m, 1, 1}}, 0,
                            0, random_floats(b, (int64_t)most * n), random_floats(b, (int64_t)most * m),
                            1};
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        j.w.type = types[k];
        j.bytes = k_row_bytes(types[k], (uint64_t)n) * (size_t)m;
        j.ring = (int)(ring / j.bytes);
        make_weights(b, (void *)j.w.data, (size_t)j.ring * j.bytes, types[k]);
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
            bench_product(&j, tokens[t] < most ? tokens[t] : most, "");
        if (wgmma && (types[k] == K_BF16 || types[k] == K_F16)) {
            b->c->wgmma = false;
            bench_product(&j, most, " by mma");
            b->c->wgmma = wgmma;
        }
    }
    dev_free((void *)j.w.data), dev_free(j.x), dev_free(j.y);
}

/* ---- attention and sampling ---- */

struct attention_job {
    struct bench *b;
    struct k_kv_pool kv;
    struct k_gqa gqa;
    struct k_mla mla; /* n_head 0: gqa */
    float *q, *y;
    struct k_token_ref *tok;
    int32_t n_tok;
};

static void attention_once(void *arg, int i)
{
    const struct attention_job *j = (const struct attention_job *)arg;
    (void)i;
    must(j->mla.n_head ? cuda_attention_mla(j->b->c, j->y, j->q, &j->kv, &j->mla, j->tok, j->n_tok)
                       : cuda_attention_gqa(j->b->c, j->y, j->q, &j->kv, &j->gqa, j->tok, j->n_tok),
         "attention");
}

/* n_seq sequences of `context` positions, the last `last` tokens of each computed: 1 is decode. */
static void bench_attention(struct bench *b, const char *what, const struct k_gqa *gqa, const struct k_mla *mla,
                            int32_t n_seq, int32_t context, int32_t last)
{
    const int32_t row = mla ? mla->kv_lora + mla->d_rope : gqa->n_kv_head * (gqa->d_k + gqa->d_v);
    const int32_t n_head = mla ? mla->n_head : gqa->n_head, d_k = mla ? row : gqa->d_k,
                  d_v = mla ? mla->kv_lora : gqa->d_v;
    const int32_t n_pages = (context + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS;
    const size_t page = (size_t)K_PAGE_TOKENS * k_kv_row_bytes(K_F16, row), bytes = page * (size_t)(n_pages * n_seq);
    struct attention_job j = {b, {memory(bytes), K_F16, row, (int64_t)page}, {}, {}, NULL, NULL, NULL, n_seq * last};
    int32_t *ids = (int32_t *)malloc((size_t)(n_pages * n_seq) * sizeof *ids);
    enum k_step how;
    make_weights(b, j.kv.data, bytes, K_F16);
    for (int32_t i = 0; i < n_pages * n_seq; i++)
        ids[i] = (int32_t)((int64_t)i * 7919 % (n_pages * n_seq)); /* scattered; 7919 is a prime */
    j.tok = (struct k_token_ref *)malloc((size_t)j.n_tok * sizeof *j.tok);
    for (int32_t t = 0; t < j.n_tok; t++)
        j.tok[t] = {ids + t / last * n_pages, context - last + t % last};
    j.q = random_floats(b, (int64_t)j.n_tok * n_head * d_k);
    j.y = random_floats(b, (int64_t)j.n_tok * n_head * d_v);
    if (mla)
        j.mla = *mla;
    else
        j.gqa = *gqa;
    /* Of a shape of its own, or one that comes again would be captured and not run. */
    must(cuda_step_begin(b->c, j.tok, j.n_tok, b->steps++, &how), "step");
    const double s = seconds(b, 20, attention_once, &j);
    must(cuda_step_end(b->c, K_OK), "step");
    char name[96];
    snprintf(name, sizeof name, "%s, %d x %d of %d positions", what, (int)n_seq, (int)last, (int)context);
    if (last == 1) {
        say(name, (double)n_seq * context * (double)k_kv_row_bytes(K_F16, row) / s * 1e-9, "GB/s", b->copy_gb_s);
    } else { /* causal: positions seen by all tokens together */
        const double seen = (double)n_seq * last * (context - (last - 1) / 2.0);
        say(name, 2 * seen * n_head * (d_k + d_v) / s * 1e-12, "TFLOP/s", b->bf16_tflop_s);
    }
    dev_free(j.kv.data), dev_free(j.q), dev_free(j.y);
    free(ids), free(j.tok);
}

struct sample_job {
    struct bench *b;
    float *logits;
    struct k_sample *s;
    struct k_sampled *out;
    int32_t n_vocab, n;
};

static void sample_once(void *arg, int i)
{
    const struct sample_job *j = (const struct sample_job *)arg;
    (void)i;
    must(sample_rows(j->b->c->stream, j->out, j->logits, j->n_vocab, j->s, j->n), "sampling");
}

static void bench_sampling(struct bench *b)
{
    enum { ROWS = 256 };
    const int32_t vocab = b->small ? 1000 : 152064;
    struct k_sample s[ROWS] = {};
    struct sample_job j = {b,
                           random_floats(b, (int64_t)vocab * ROWS),
                           (struct k_sample *)memory(sizeof s),
                           (struct k_sampled *)memory(sizeof(struct k_sampled) * ROWS),
                           vocab,
                           1};
    for (int top_k = 0; top_k <= 40; top_k += 40)
        for (j.n = 1; j.n <= (b->small ? 16 : ROWS); j.n *= 16) {
            char name[64];
            for (int i = 0; i < ROWS; i++) /* the random logits are within [-1, 1): a low temperature spreads them */
                s[i] = {i, 20.0f, K_SAMPLE_BANDS / 30.0f * 20.0f, top_k, false, 1.0, 0.0, (uint64_t)i << 40};
            must(copy_in(b->c->stream, j.s, s, sizeof s), "parameters");
            must(stream_sync(b->c->stream), "parameters");
            snprintf(name, sizeof name, "sampling, top-k %d, %d row(s) of %d", top_k, (int)j.n, (int)vocab);
            say(name, seconds(b, 20, sample_once, &j) * 1e6, "us", 0);
        }
    dev_free(j.logits), dev_free(j.s), dev_free(j.out);
}

static void bench_attentions(struct bench *b)
{
    static const struct k_gqa llama = {32, 8, 128, 128, 0.0884f}, qwen = {28, 4, 128, 128, 0.0884f};
    static const struct k_mla lite = {16, 512, 64, 0.0722f}, v3 = {128, 512, 64, 0.0722f};
    static const int32_t decodes[][2] = {{1, 2048}, {1, 32768}, {8, 4096}, {64, 2048}, {256, 1536}};
    const int32_t less = b->small ? 64 : 1;
    for (size_t i = 0; i < (b->small ? 2 : sizeof decodes / sizeof *decodes); i++) {
        const int32_t n = decodes[i][0], context = decodes[i][1] / less;
        bench_attention(b, "llama-8b decode", &llama, NULL, n, context, 1);
        bench_attention(b, "qwen2-7b decode", &qwen, NULL, n, context, 1);
        bench_attention(b, "deepseek-v2-lite decode", NULL, &lite, n, context, 1);
        bench_attention(b, "deepseek-v3 decode", NULL, &v3, n, context, 1);
    }
    bench_attention(b, "llama-8b prefill", &llama, NULL, 1, 2048 / less, 2048 / less);
    bench_attention(b, "llama-8b prefill", &llama, NULL, 1, 32768 / less, 2048 / less);
    bench_attention(b, "deepseek-v2-lite prefill", NULL, &lite, 1, 2048 / less, 2048 / less);
    bench_attention(b, "deepseek-v3 prefill", NULL, &v3, 1, 2048 / less, 512 / less);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    struct bench b = {};
    b.small = argc == 3 && !strcmp(argv[2], "small");
    if ((strcmp(what, "ceilings") && strcmp(what, "products") && strcmp(what, "attention")) || argc > 2 + b.small) {
        fprintf(stderr, "usage: bench_cuda ceilings|products|attention [small]\n");
        return 2;
    }
    const double begun_ms = now_ms();
    if (!(b.c = cuda_ctx_new(0, 0))) {
        printf("skipped: bench_cuda: no CUDA device\n");
        return 0;
    }
    must(event_new(&b.from), "event");
    must(event_new(&b.to), "event");
    printf("%s, %s\n", cuda_device_text(b.c), cuda_numerics(b.c));
    say("starting on the device", now_ms() - begun_ms, "ms", 0);
    bench_copy(&b);
    if (!b.small)
        bench_matrix_rate(&b);
    if (!strcmp(what, "products"))
        bench_products(&b);
    if (!strcmp(what, "attention")) {
        bench_attentions(&b);
        bench_sampling(&b);
    }
    event_free(b.from), event_free(b.to);
    cuda_ctx_free(b.c);
    return 0;
}
