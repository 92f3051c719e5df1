/* Speed of the CPU backend's products by weight type: GB/s of weights for 1 and 4 tokens, Gop/s for 512, beside a plain
 * read of memory. Medians; a share of processor time, so that other load on the machine distorts less.
 *
 *     build/bench/bench_kernels [THREADS [ISA]]        ISA: avx512, avx2, scalar; the fastest by default
 *     build/bench/bench_kernels THREADS read           the plain read alone
 *     build/bench/bench_kernels THREADS cached         products alone, of weights that stay in the cache: nanoseconds of 8 rows by 32
 *                                                      columns and thread, the best of many short calls
 * links: spw_kernels */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "tests/unit/kernels_help.h"

#define RUNS        7
#define CACHED_RUNS 4000
#define READ_BYTES  ((size_t)256 << 20)
#define READ_ITEMS  256

static int n_threads;

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds of processor time per thread. */
static double now(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID) / n_threads;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct reading {
    const uint64_t *words;
    uint64_t sums[READ_ITEMS];
};

static void read_item(void *arg, int thread, int64_t item)
{
    (void)thread;
    struct reading *r = arg;
    size_t n = READ_BYTES / sizeof *r->words / READ_ITEMS;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (const uint64_t *p = r->words + (size_t)item * n, *end = p + n; p < end; p += 4)
        a += p[0], b += p[1], c += p[2], d += p[3];
    r->sums[item] = a + b + c + d;
}

static void bench_read(struct k_ctx *c)
{
    static struct reading r;
    double seconds[RUNS];
    uint64_t *words = malloc(READ_BYTES);
    memset(words, 1, READ_BYTES);
    r.words = words;
    for (int i = 0; i < RUNS; i++) {
        double start = now();
        pool_run(c->pool, read_item, &r, READ_ITEMS);
        seconds[i] = now() - start;
    }
    qsort(seconds, RUNS, sizeof *seconds, compare);
    printf("read      %6.1f GB/s\n", (double)READ_BYTES / seconds[RUNS / 2] * 1e-9);
    free(words);
}

static double median_matmul(struct k_ctx *c, float *y, const float *x, const struct k_tensor *w, int32_t n_tok)
{
    double seconds[RUNS];
    for (int i = 0; i < RUNS; i++) {
        double start = now();
        if (k_matmul(&k_cpu_ops, c, y, x, w->ne[0], w, NULL, n_tok, K_FAST) != K_OK)
            exit(1);
        seconds[i] = now() - start;
    }
    qsort(seconds, RUNS, sizeof *seconds, compare);
    return seconds[RUNS / 2];
}

static void bench_type(struct k_ctx *c, enum k_type type)
{
    enum { N = 1536, M = 8960 * 8, M_PREFILL = 8960, N_TOK = 512 }; /* larger than any cache */
    struct k_tensor w = help_tensor(type, N, M, 1);
    float *x = help_floats(N_TOK * N, 1.0f), *y = malloc(sizeof *y * N_TOK * M_PREFILL);
    double bytes = (double)k_row_bytes(type, N) * M;
    double one = median_matmul(c, y, x, &w, 1), four = median_matmul(c, y, x, &w, 4);
    w.ne[1] = M_PREFILL;
    double prefill = median_matmul(c, y, x, &w, N_TOK);
    printf("%-8s  %6.1f GB/s   4 tokens %6.1f GB/s   512 tokens %6.0f Gop/s\n", k_type_info(type)->name,
           bytes / one * 1e-9, bytes / four * 1e-9, 2.0 * N_TOK * N * M_PREFILL / prefill * 1e-9);
    fflush(stdout);
    help_tensor_free(&w);
    free(x), free(y);
}

/* By the clock: calls are so short that the best of them met nobody. */
static double best_matmul(struct k_ctx *c, float *y, const float *x, const struct k_tensor *w, int32_t n_tok)
{
    double best = 1;
    for (int i = 0; i < CACHED_RUNS; i++) {
        double start = seconds_of(CLOCK_MONOTONIC);
        if (k_matmul(&k_cpu_ops, c, y, x, w->ne[0], w, NULL, n_tok, K_FAST) != K_OK)
            exit(1);
        double took = seconds_of(CLOCK_MONOTONIC) - start;
        best = took < best ? took : best;
    }
    return best;
}

static void bench_cached(struct k_ctx *c, enum k_type type)
{
    enum { N = 1536 };
    static const int32_t tokens[] = {1, 2, 4, 16};
    const int64_t rows = (int64_t)64 * n_threads; /* at most 104 KiB a thread */
    struct k_tensor w = help_tensor(type, N, rows, 1);
    float *x = help_floats(16 * N, 1.0f), *y = malloc(sizeof *y * 16 * (size_t)rows);
    printf("%-8s", k_type_info(type)->name);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        printf("  %2d: %6.1f ns", tokens[i], best_matmul(c, y, x, &w, tokens[i]) / (64.0 / 8 * N / 32) * 1e9);
    putchar('\n');
    help_tensor_free(&w);
    free(x), free(y);
}

int main(int argc, char **argv)
{
    static const enum k_type types[] = {K_Q8_0, K_Q4_0, K_Q5_0, K_Q4_K, K_Q5_K, K_Q6_K, K_BF16, K_F16, K_F32};
    n_threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 1;
    const bool read_only = argc > 2 && !strcmp(argv[2], "read"), cached = argc > 2 && !strcmp(argv[2], "cached");
    struct k_ctx *c =
        n_threads > 0 ? cpu_ctx_new_isa(n_threads, argc > 2 && !read_only && !cached ? argv[2] : NULL) : NULL;
    if (!c) {
        fprintf(stderr, "bench_kernels: no such instruction set on this CPU, or bad thread count\n");
        return 2;
    }
    printf("%s, %d thread(s)%s\n", c->isa->name, n_threads, cached ? "" : "; seconds are processor time over threads");
    if (!cached)
        bench_read(c);
    for (size_t i = 0; i < sizeof types / sizeof types[0] && !read_only; i++) {
        if (!cached)
            bench_type(c, types[i]);
        else if (k_quant_form(types[i]))
            bench_cached(c, types[i]);
    }
    k_cpu_ops.ctx_free(c);
    return 0;
}
