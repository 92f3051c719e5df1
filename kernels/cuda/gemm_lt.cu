/* How a product is told to the library, which thinks in columns: y[tokens, m] by rows is y' [m, tokens] by columns, so
 *
 *     y' = op(a) . b    a: the weights, k x m by columns, transposed;  b: the activations, k x tokens;  sums in float
 *
 * with leading dimensions that are the rows' lengths in memory. An algorithm is chosen once per shape, for CHOSEN_FOR
 * tokens, k never cut into parts, and kept: what is asked of the library later is to multiply, nothing else.
 *
 * Bound by the tensor cores: 2 m k tokens flops, on Hopper by wgmma, which our own kernels do not use. Afterwards
 * lt_finish reads and writes y once more where there is a bias, a row's scale or a gate: 8 to 12 m tokens bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/gemm_lt.cuh"

#define PLANS      64
#define CHOSEN_FOR 2048
#define WORKSPACE  ((size_t)32 << 20) /* what the documentation recommends for Hopper */
#define ALIGNMENT  16u

/* What is known of one shape; found by its first four members. */
struct lt_plan {
    int32_t n, m;
    enum act_form form;
    int64_t x_bytes;
    cublaslt_desc desc;
    cublaslt_layout a, b, d;
    struct cublaslt_algo algo;
    bool usable; /* else the library has nothing for it */
};

struct gemm_lt {
    struct cublaslt lt;
    cublaslt_handle handle;
    void *workspace; /* on the device */
    struct lt_plan plans[PLANS];
    int n_plans;
};

/* ---- plans ---- */

static bool set_u32(int (*set)(cublaslt_preference, int, const void *, size_t), cublaslt_preference p, int attribute,
                    uint32_t value)
{
    return set(p, attribute, &value, sizeof value) == CUBLASLT_SUCCESS;
}

static cublaslt_preference new_preference(const struct cublaslt *lt)
{
    cublaslt_preference p = NULL;
    const uint64_t workspace = WORKSPACE;
    if (lt->preference_create(&p) != CUBLASLT_SUCCESS)
        return NULL;
    bool good =
        lt->preference_set(p, CUBLASLT_PREFERENCE_WORKSPACE, &workspace, sizeof workspace) == CUBLASLT_SUCCESS &&
        set_u32(lt->preference_set, p, CUBLASLT_PREFERENCE_REDUCTION, 0);
    for (int i = CUBLASLT_PREFERENCE_ALIGNMENT_A; i <= CUBLASLT_PREFERENCE_ALIGNMENT_D; i++)
        good = good && set_u32(lt->preference_set, p, i, ALIGNMENT);
    if (!good) {
        lt->preference_destroy(p);
        return NULL;
    }
    return p;
}

static bool describe(const struct cublaslt *lt, struct lt_plan *p, int64_t row_bytes)
{
    const int type = p->form == ACT_F16 ? CUBLASLT_R_16F : CUBLASLT_R_16BF;
    const int32_t transposed = CUBLASLT_OP_T, plain = CUBLASLT_OP_N;
    const uint64_t n = (uint64_t)p->n, m = (uint64_t)p->m;
    return lt->desc_create(&p->desc, CUBLASLT_COMPUTE_32F, CUBLASLT_R_32F) == CUBLASLT_SUCCESS &&
           lt->desc_set(p->desc, CUBLASLT_DESC_TRANSA, &transposed, sizeof transposed) == CUBLASLT_SUCCESS &&
           lt->desc_set(p->desc, CUBLASLT_DESC_TRANSB, &plain, sizeof plain) == CUBLASLT_SUCCESS &&
           lt->layout_create(&p->a, type, n, m, row_bytes / 2) == CUBLASLT_SUCCESS &&
           lt->layout_create(&p->b, type, n, CHOSEN_FOR, p->x_bytes / 2) == CUBLASLT_SUCCESS &&
           lt->layout_create(&p->d, CUBLASLT_R_32F, m, CHOSEN_FOR, p->m) == CUBLASLT_SUCCESS;
}

static bool choose(const struct gemm_lt *g, struct lt_plan *p)
{
    struct cublaslt_heuristic best;
    int found = 0;
    cublaslt_preference preference = new_preference(&g->lt);
    if (!preference)
        return false;
    const int result = g->lt.heuristic(g->handle, p->desc, p->a, p->b, p->d, p->d, preference, 1, &best, &found);
    g->lt.preference_destroy(preference);
    if (result != CUBLASLT_SUCCESS || found < 1 || best.state != CUBLASLT_SUCCESS || best.workspace > WORKSPACE)
        return false;
    p->algo = best.algo;
    return true;
}

static void plan_free(const struct cublaslt *lt, struct lt_plan *p)
{
    cublaslt_layout layouts[] = {p->a, p->b, p->d};
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            lt->layout_destroy(layouts[i]);
    if (p->desc)
        lt->desc_destroy(p->desc);
}

/* NULL: a shape too many. */
static struct lt_plan *plan_of(struct gemm_lt *g, const struct mul_job *j)
{
    for (int i = 0; i < g->n_plans; i++) {
        struct lt_plan *p = &g->plans[i];
        if (p->n == j->n && p->m == j->m && p->form == j->form && p->x_bytes == j->x_bytes)
            return p;
    }
    if (g->n_plans == PLANS)
        return NULL;
    struct lt_plan *p = &g->plans[g->n_plans++];
    p->n = j->n, p->m = j->m, p->form = j->form, p->x_bytes = j->x_bytes;
    p->usable = describe(&g->lt, p, j->row_bytes) && choose(g, p);
    return p;
}

/* ---- products ---- */

/* sums [tokens, m], which may be j.y. grid: m / 256, tokens; block 256. */
KERNEL(lt_finish)(struct mul_job j, const float *sums)
{
    const int row = block_x() * block_dim() + thread_x();
    const int64_t t = block_y();
    if (row < j.m)
        put_out(&j, j.y + t * j.y_stride, scaled(&j, j.x + t * j.x_bytes, sums[t * j.m + row]), row);
}

bool gemm_lt_takes(const struct k_ctx *c, const struct mul_job *j, int32_t n_pairs)
{
    return c->lt && n_pairs >= GEMM_LT_PAIRS && j->n_matrix == 1 && !j->ids && !j->tiles && !j->direct && !j->w_up &&
           (j->form == ACT_F16 || j->form == ACT_BF16) && j->y_stride == j->m && j->row_bytes % ALIGNMENT == 0 &&
           j->x_bytes % ALIGNMENT == 0 && j->m % 4 == 0 && (uintptr_t)j->y % ALIGNMENT == 0;
}

static enum k_status finish_rows(struct k_ctx *c, const struct mul_job *j, const float *sums, int32_t n_pairs)
{
    enum k_status st = K_OK;
    if (j->form != ACT_F16 && !j->bias && !j->gated && !j->add)
        return K_OK;
    for (int32_t t = 0; st == K_OK && t < n_pairs; t += 32768) { /* a grid has at most 65535 rows */
        struct mul_job part = *j;
        part.x += t * j->x_bytes;
        part.y += t * j->y_stride;
        st = launch(c->stream, lt_finish, grid_of((j->m + 255) / 256, n_pairs - t < 32768 ? n_pairs - t : 32768), 256,
                    0, part, sums + (int64_t)t * j->m);
    }
    return st;
}

enum k_status gemm_lt(struct k_ctx *c, const struct mul_job *j, int32_t n_pairs)
{
    struct gemm_lt *g = c->lt;
    struct lt_plan *p = plan_of(g, j);
    const float one = 1.0f, zero = 0.0f;
    const uint64_t cols = (uint64_t)n_pairs;
    enum k_status st = K_OK;
    if (!p || !p->usable || g->lt.layout_set(p->b, CUBLASLT_LAYOUT_COLS, &cols, sizeof cols) != CUBLASLT_SUCCESS ||
        g->lt.layout_set(p->d, CUBLASLT_LAYOUT_COLS, &cols, sizeof cols) != CUBLASLT_SUCCESS)
        return K_UNSUPPORTED;
    float *sums = j->y; /* but for those that are folded into what is there */
    if (j->gated || j->add)
        sums = (float *)cuda_scratch(c, CUDA_SCRATCH_GATED, (size_t)n_pairs * (size_t)j->m * sizeof *sums, &st);
    if (st != K_OK)
        return st;
    const int result = g->lt.matmul(g->handle, p->desc, &one, j->w, p->a, j->x, p->b, &zero, sums, p->d, sums, p->d,
                                    &p->algo, g->workspace, WORKSPACE, (void *)c->stream);
    if (result == CUBLASLT_NOT_SUPPORTED || result == CUBLASLT_INVALID_VALUE) /* not with so many tokens */
        return K_UNSUPPORTED;
    return result == CUBLASLT_SUCCESS ? finish_rows(c, j, sums, n_pairs) : K_DEVICE;
}

/* ---- life ---- */

void cuda_library_free(struct k_ctx *c)
{
    struct gemm_lt *g = c->lt;
    c->lt = NULL;
    if (!g)
        return;
    for (int i = 0; i < g->n_plans; i++)
        plan_free(&g->lt, &g->plans[i]);
    if (g->handle)
        g->lt.destroy(g->handle);
    dev_free(g->workspace);
    cublaslt_close(&g->lt);
    free(g);
}

enum k_status cuda_use_library(struct k_ctx *c, const char *file, char *text, size_t size)
{
    if (c->lt)
        return K_OK;
    enum k_status s = cuda_note(c, device_use(c->device));
    struct gemm_lt *g = (struct gemm_lt *)calloc(1, sizeof *g);
    if (s != K_OK || !g) {
        snprintf(text, size, "%s", g ? c->error : "out of memory");
        free(g);
        return s != K_OK ? s : K_NO_MEMORY;
    }
    c->lt = g;
    if (!cublaslt_open(&g->lt, file, text, size)) {
        s = K_UNSUPPORTED;
    } else if (g->lt.create(&g->handle) != CUBLASLT_SUCCESS) {
        snprintf(text, size, "cuBLASLt does not start on this device");
        s = K_UNSUPPORTED;
    } else if ((s = cuda_note(c, dev_alloc(&g->workspace, WORKSPACE))) != K_OK) {
        snprintf(text, size, "no %zu MiB for cuBLASLt to work in: %s", WORKSPACE >> 20, c->error);
    }
    if (s != K_OK) {
        cuda_library_free(c);
        return s;
    }
    snprintf(text, size, "cuBLASLt %zu", g->lt.version());
    const size_t used = strlen(c->numerics);
    snprintf(c->numerics + used, sizeof c->numerics - used, " cublaslt-%zu", g->lt.version());
    return K_OK;
}
