/* Products by cuBLASLt on the emulated device, a stand-in library in its place that checks what it is told: products
 * are near exact sums, with bias and a row's scale; an algorithm is chosen once per shape; a captured product is
 * repeated; what the library does not take our own kernels make; its class has a name of its own; without a library,
 * one without its functions or one that is asked for something that it refuses nothing changes; nothing is left.
 * runtest: release
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <dlfcn.h>
#include <float.h>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/matmul.h"
#include "tests/fakes/cublaslt_fake.h"
#include "tests/unit/kernels_help.h"

#define TOKENS 130

static struct k_ctx *ctx;
static struct cublaslt_fake *fake;
static char file[4096];

/* One product of TOKENS or `n_tok` tokens; w, x and bias are the same for the same arguments. */
struct product {
    struct k_tensor w, dw, up, dup; /* up: of a gated one */
    float *x, *dx, *bias, *dbias, *dy;
    int64_t n, m;
    int32_t n_tok;
};

static void *to_device(const void *host, size_t bytes)
{
    void *p;
    CHECK_INT(dev_alloc(&p, bytes), K_OK);
    CHECK_INT(copy_in(ctx->stream, p, host, bytes), K_OK);
    return p;
}

static struct product product_new(enum k_type type, int64_t n, int64_t m, int32_t n_tok)
{
    struct product p = {};
    p.n = n, p.m = m, p.n_tok = n_tok;
    p.w = p.dw = help_tensor(type, n, m, 1);
    p.dw.data = to_device(p.w.data, k_row_bytes(type, (uint64_t)n) * (size_t)m);
    p.x = help_floats(n_tok * n, 2.0f), p.bias = help_floats(m, 1.0f);
    p.dx = (float *)to_device(p.x, (size_t)(n_tok * n) * sizeof(float));
    p.dbias = (float *)to_device(p.bias, (size_t)m * sizeof(float));
    CHECK_INT(dev_alloc((void **)&p.dy, (size_t)(n_tok * m + 4) * sizeof(float)), K_OK);
    return p;
}

static void product_gate(struct product *p)
{
    p->up = p->dup = help_tensor(p->w.type, p->n, p->m, 1);
    p->dup.data = to_device(p->up.data, k_row_bytes(p->w.type, (uint64_t)p->n) * (size_t)p->m);
}

static void product_free(struct product *p)
{
    help_tensor_free(&p->w);
    if (p->up.data)
        help_tensor_free(&p->up), dev_free((void *)p->dup.data);
    dev_free((void *)p->dw.data), dev_free(p->dx), dev_free(p->dbias), dev_free(p->dy);
    free(p->x), free(p->bias);
}

static enum k_status multiply(const struct product *p, bool with_bias)
{
    const struct k_product product = {p->dy, &p->dw, with_bias ? p->dbias : NULL, p->up.data ? &p->dup : NULL};
    return cuda_matmul(ctx, &product, 1, p->dx, p->n, p->n_tok, K_FAST);
}

/* The exact product of row r and token t, and how far from it roundings may be: of an activation to 16 bits (2^-9 or
 * 2^-11 of itself), and of n sums in float, whatever their order (n eps sum |w x|). */
static double exact(const struct product *p, const struct k_tensor *w, int64_t r, int32_t t, double *bound)
{
    float *row = (float *)malloc((size_t)p->n * sizeof *row);
    double sum = 0, sizes = 0;
    k_dequantise(row, (const uint8_t *)w->data + (size_t)r * k_row_bytes(w->type, (uint64_t)p->n), w->type, p->n);
    for (int64_t i = 0; i < p->n; i++) {
        const double term = (double)row[i] * (double)p->x[t * p->n + i];
        sum += term, sizes += fabs(term);
    }
    free(row);
    *bound = sizes * ((w->type == K_F16 ? 0x1p-11 : 0x1p-9) + (double)p->n * FLT_EPSILON) + fabs(sum) * FLT_EPSILON;
    return sum;
}

/* How many of y are farther from what they should be than that. And what stands behind y is as it was. */
static int count_bad(const struct product *p, bool with_bias)
{
    const int64_t n = p->n_tok * p->m;
    float *y = (float *)malloc((size_t)(n + 4) * sizeof *y);
    int bad = 0;
    CHECK_INT(copy_out(ctx->stream, y, p->dy, (size_t)(n + 4) * sizeof *y), K_OK);
    CHECK_INT(stream_sync(ctx->stream), K_OK);
    for (int64_t i = 0; i < n; i++) {
        const int64_t r = i % p->m;
        const int32_t t = (int32_t)(i / p->m);
        double bound, up_bound, y_exact = exact(p, &p->w, r, t, &bound);
        if (p->up.data) { /* silu grows by 1.1 times what its argument does at most */
            const double up = exact(p, &p->up, r, t, &up_bound), gate = y_exact / (1.0 + exp(-y_exact));
            bound = 1.1 * bound * (fabs(up) + up_bound) + fabs(gate) * up_bound + fabs(gate * up) * 8 * FLT_EPSILON;
            y_exact = gate * up;
        }
        y_exact += with_bias ? (double)p->bias[r] : 0.0;
        bad += !(fabs((double)y[i] - y_exact) <= bound + fabs(y_exact) * FLT_EPSILON);
    }
    for (int i = 0; i < 4; i++)
        bad += !isnan(y[n + i]);
    free(y);
    return bad;
}

static void products_are_near_exact_sums(void)
{
    static const enum k_type types[] = {K_BF16, K_F16};
    for (int i = 0; i < 2; i++)
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            struct product p = product_new(types[i], 40, 12, TOKENS);
            const int before = fake->products;
            CHECK_INT(multiply(&p, with_bias), K_OK);
            CHECK_INT(fake->products, before + 1);
            CHECK_INT(count_bad(&p, with_bias), 0);
            if (!with_bias) { /* gated: the second product is folded into the first */
                product_gate(&p);
                CHECK_INT(multiply(&p, false), K_OK);
                CHECK_INT(fake->products, before + 3);
                CHECK_INT(count_bad(&p, false), 0);
            }
            product_free(&p);
        }
    CHECK_INT(fake->heuristics, 2); /* one per shape and type, however often it comes */
    struct product p = product_new(K_BF16, 40, 12, TOKENS + 7);
    CHECK_INT(multiply(&p, false), K_OK);
    CHECK_INT(count_bad(&p, false), 0);
    CHECK_INT(fake->heuristics, 2); /* other numbers of tokens, too */
    product_free(&p);
}

static void a_captured_product_is_repeated(void)
{
    struct product p = product_new(K_F16, 40, 12, TOKENS);
    graph_t g;
    CHECK_INT(multiply(&p, true), K_OK); /* scratch and the plan are there */
    CHECK_INT(dev_set(ctx->stream, p.dy, 0xff, (size_t)(TOKENS * 12) * sizeof(float)), K_OK);
    CHECK_INT(graph_capture_begin(ctx->stream), K_OK);
    CHECK_INT(multiply(&p, true), K_OK);
    CHECK_INT(graph_capture_end(ctx->stream, &g), K_OK);
    CHECK(count_bad(&p, true) > 0); /* nothing has been computed yet */
    CHECK_INT(graph_launch(ctx->stream, g), K_OK);
    CHECK_INT(count_bad(&p, true), 0);
    graph_free(g);
    product_free(&p);
}

static void what_it_does_not_take_is_ours(void)
{
    static const struct {
        enum k_type type;
        int64_t n, m;
        int32_t n_tok;
    } ours[] = {{K_BF16, 40, 12, 9},       /* few tokens */
                {K_BF16, 36, 12, TOKENS},  /* rows of weights that begin anywhere */
                {K_BF16, 40, 10, TOKENS}}; /* rows of results, likewise */
    const int before = fake->products;
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
        struct product p = product_new(ours[i].type, ours[i].n, ours[i].m, ours[i].n_tok);
        CHECK_INT(multiply(&p, true), K_OK);
        CHECK_INT(count_bad(&p, true), 0);
        product_free(&p);
    }
    fake->refuse_cols = TOKENS; /* chosen for the shape, but not with so many tokens */
    struct product p = product_new(K_BF16, 40, 12, TOKENS);
    CHECK_INT(multiply(&p, true), K_OK);
    CHECK_INT(count_bad(&p, true), 0);
    product_free(&p);
    fake->refuse_cols = 0;
    fake->refuse = true; /* nothing for this shape: asked once */
    p = product_new(K_BF16, 48, 16, TOKENS);
    const int asked = fake->heuristics;
    for (int i = 0; i < 2; i++) {
        CHECK_INT(multiply(&p, true), K_OK);
        CHECK_INT(count_bad(&p, true), 0);
    }
    CHECK_INT(fake->heuristics, asked + 1);
    CHECK_INT(fake->products, before);
    product_free(&p);
    fake->refuse = false;
}

static void without_a_library_nothing_changes(void)
{
    char text[256], numerics[96];
    struct k_ctx *other = k_cuda_ops.ctx_new(1, 0);
    struct cublaslt lt;
    snprintf(numerics, sizeof numerics, "%s", k_cuda_ops.numerics(other));
    CHECK_INT(k_cuda_ops.use_library(other, "/nowhere/libcublasLt.so.13", text, sizeof text), K_UNSUPPORTED);
    CHECK(strstr(text, "/nowhere/libcublasLt.so.13"));
    CHECK_INT(k_cuda_ops.use_library(other, "libm.so.6", text, sizeof text), K_UNSUPPORTED);
    CHECK_STR(text, "libm.so.6 has no cublasLtGetVersion: it is no cuBLASLt of a version that we know");
    cuda_emulated_memory(cuda_emulated_allocated() + 4096);
    CHECK_INT(k_cuda_ops.use_library(other, file, text, sizeof text), K_NO_MEMORY);
    CHECK_STR(text, "no 32 MiB for cuBLASLt to work in: out of memory");
    cuda_emulated_memory((size_t)4 << 30);
    CHECK_STR(k_cuda_ops.numerics(other), numerics);
    CHECK(!cublaslt_open(&lt, "nowhere.so", text, sizeof text) && !lt.opened);
    k_cuda_ops.ctx_free(other);
}

static void its_class_has_a_name(void)
{
    char text[256], numerics[96];
    snprintf(numerics, sizeof numerics, "%s cublaslt-130001",
             k_cuda_ops.numerics(ctx)); /* the device's, and the library's */
    CHECK_INT(k_cuda_ops.use_library(ctx, file, text, sizeof text), K_OK);
    CHECK_STR(text, "cuBLASLt 130001");
    CHECK_STR(k_cuda_ops.numerics(ctx), numerics);
}

int main(void)
{
    Dl_info self = {};
    CHECK(dladdr((void *)main, &self) && self.dli_fname);
    const char *slash = strrchr(self.dli_fname, '/');
    snprintf(file, sizeof file, "%.*s/cublaslt_fake.so", slash ? (int)(slash - self.dli_fname) : 1,
             slash ? self.dli_fname : ".");
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    if (!library)
        return TEST_RESULT();
    fake = ((cublaslt_fake_fn *)dlsym(library, "cublaslt_fake_state"))();
    fake->call = cuda_emulated_call;
    ctx = k_cuda_ops.ctx_new(1, 0);
    CHECK(ctx != NULL);
    TEST(without_a_library_nothing_changes);
    TEST(its_class_has_a_name);
    TEST(products_are_near_exact_sums);
    TEST(a_captured_product_is_repeated);
    TEST(what_it_does_not_take_is_ours);
    k_cuda_ops.ctx_free(ctx);
    CHECK_INT(fake->live, 0);
    CHECK_INT(cuda_emulated_allocated(), 0);
    return TEST_RESULT();
}
