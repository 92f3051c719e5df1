/* The three products of kernels/ops.h: a job is made of the arguments, activations are brought into its form, and a
 * kernel is chosen by how many tokens share a matrix. The choice is one of speed only (matmul.cuh), but for
 * gemm_lt.cu's. */
#include <float.h>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/gemm_lt.cuh"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/matmul.cuh"

#define JOBS_MAX (2 * K_PRODUCTS_MAX)

/* tile_pairs: pairs that can share a tile, or more. */
static enum k_status job_of(const struct k_ctx *c, struct mul_job *j, const struct k_tensor *w, int32_t tile_pairs,
                            enum k_precision p)
{
    const struct quant_form *form = k_quant_form(w->type);
    *j = {};
    j->w = (const uint8_t *)w->data;
    j->row_bytes = (int64_t)k_row_bytes(w->type, (uint64_t)w->ne[0]);
    j->matrix_bytes = j->row_bytes * w->ne[1];
    j->w_bytes = j->matrix_bytes * w->ne[2];
    j->type = w->type;
    j->n = (int32_t)w->ne[0];
    j->np = (j->n + SLICE - 1) / SLICE * SLICE;
    j->m = (int32_t)w->ne[1];
    j->n_matrix = (int32_t)w->ne[2];
    j->x_div = j->mul = 1;
    j->form = p == K_PRECISE || w->type == K_F32 ? ACT_F32 : form ? ACT_Q8 : w->type == K_F16 ? ACT_F16 : ACT_BF16;
    bool aligned = (uintptr_t)w->data % 16 == 0;
    if (j->form == ACT_F32)
        return K_OK;
    if (form) {
        j->group = form->group;
        j->has_min = form->has_min;
    }
    j->slice_bytes = (int32_t)k_row_bytes(w->type, SLICE);
    aligned &= j->slice_bytes % 16 == 0 && j->row_bytes % 16 == 0;
    j->slot_bytes =
        (j->slice_bytes + 15) / 16 * 16 + (aligned || !form ? 0 : 16); /* floats come element by element then */
    j->x_bytes = form ? j->np + j->np / 8 + 4 * (j->np / j->group) : 2 * j->np + 16;
    j->direct = tile_pairs <= DIRECT_PAIRS && j->form != ACT_F16 && mul_direct_fits(c, j, tile_pairs);
    return (uintptr_t)w->data % 16 ? K_BAD_SHAPE : K_OK;
}

/* Whether hopper/ can multiply with many pairs. */
static bool for_hopper(const struct k_ctx *c, const struct mul_job *j)
{
    return c->wgmma && !j->group && j->row_bytes % 16 == 0;
}

/* The jobs of a product, added to jobs[*n]: one, or two of which the second folds its sums into those of the first,
 * where the matrices of a gated product cannot share blocks. few: gemv.cu or gemv_direct.cu multiplies. */
static enum k_status add_jobs(const struct k_ctx *c, struct mul_job *jobs, int *n, const struct k_product *product,
                              bool few, int32_t tile_pairs, enum k_precision p)
{
    struct mul_job *j = &jobs[(*n)++];
    enum k_status st = job_of(c, j, product->w, tile_pairs, p);
    j->y = product->y;
    j->y_stride = j->m;
    j->bias = product->bias;
    if (st != K_OK || !product->up)
        return st;
    if (product->up->type == product->w->type && j->form != ACT_F32 && (few || (for_hopper(c, j) && !c->lt))) {
        j->w_up = (const uint8_t *)product->up->data;
        return (uintptr_t)j->w_up % 16 ? K_BAD_SHAPE : K_OK;
    }
    struct mul_job *up = &jobs[(*n)++];
    st = job_of(c, up, product->up, tile_pairs, p);
    up->y = j->y;
    up->y_stride = j->y_stride;
    up->gated = true;
    return st;
}

static bool takes_floats(const struct mul_job *j)
{
    return j->form == ACT_F32 || j->direct;
}

/* The first of the jobs that wants activations in the form of jobs[i]. */
static int maker_of(const struct mul_job *jobs, int i)
{
    int k = 0;
    while (k < i && (jobs[k].form != jobs[i].form || jobs[k].group != jobs[i].group))
        k++;
    return k;
}

static int64_t activation_bytes(const struct mul_job *j, int64_t n_rows)
{
    return (n_rows * j->x_bytes + 255) / 256 * 256;
}

/* n_rows rows of x, x_stride floats apart, in the form of each job: its x. Each form is made once. */
static enum k_status set_activations(struct k_ctx *c, struct mul_job *jobs, int n, const float *x, int64_t x_stride,
                                     int64_t n_rows)
{
    int64_t bytes = 0;
    enum k_status st = K_OK;
    for (int i = 0; i < n; i++)
        if (!takes_floats(&jobs[i]) && maker_of(jobs, i) == i)
            bytes += activation_bytes(&jobs[i], n_rows);
    uint8_t *to = bytes ? (uint8_t *)cuda_scratch(c, CUDA_SCRATCH_MATMUL, (size_t)bytes, &st) : NULL;
    for (int i = 0; st == K_OK && i < n; i++) {
        struct mul_job *j = &jobs[i], *maker = &jobs[maker_of(jobs, i)];
        if (takes_floats(j)) {
            j->x = (const uint8_t *)x;
            j->x_bytes = x_stride * (int64_t)sizeof(float);
        } else if (maker != j) {
            j->x = maker->x;
        } else {
            j->x = to;
            st = mul_activations(c, j, to, x, x_stride, n_rows);
            to += activation_bytes(j, n_rows);
        }
    }
    return st;
}

enum k_status mul_precise_job(struct mul_job *j, const struct k_product *product, const float *x, int64_t x_stride,
                              int32_t n_tok)
{
    int n = 0;
    enum k_status st = k_check_matmul(product, 1, x, x_stride, n_tok);
    if (st == K_OK)
        st = add_jobs(NULL, j, &n, product, false, n_tok, K_PRECISE);
    if (st != K_OK)
        return st;
    j->x = (const uint8_t *)x;
    j->x_bytes = x_stride * (int64_t)sizeof(float);
    j->n_pairs = n_tok;
    return K_OK;
}

/* The shape of a block with which a product is done first, as reckoned: a multiprocessor makes its share of the blocks,
 * and each takes, for an element of k, the time of rows times pairs products and then that of rows plus pairs numbers
 * from L2, in cycles of an H100; others are slower in both. */
struct mul_shape mul_best_shape(const struct mul_shape *shapes, int n, int n_sm, int32_t m, int32_t n_pairs,
                                int64_t matrices)
{
    struct mul_shape best = shapes[0];
    double least = DBL_MAX;
    for (int i = 0; i < n; i++) {
        const struct mul_shape s = shapes[i];
        int64_t blocks = (m + s.rows - 1) / s.rows * ((n_pairs + s.pairs - 1) / s.pairs) * matrices;
        double cycles = s.rows * s.pairs / 2048.0 + (s.rows + s.pairs) / 32.0;
        double time = (double)((blocks + n_sm - 1) / n_sm) * cycles;
        if (time < least)
            best = s, least = time;
    }
    return best;
}

static struct mul_shape shape_of(const struct k_ctx *c, const struct mul_job *j, int32_t n_pairs, int64_t matrices)
{
    static const struct mul_shape q8[] = {{128, GEMM_Q8_PAIRS}, {32, GEMM_Q8_PAIRS}},
                                  mma[] = {{128, 128}, {64, 64}, {32, 64}},
                                  wgmma[] = {{128, 192}, {128, 128}, {128, 64}, {64, 64}, {32, 64}};
    if (j->group)
        return mul_best_shape(q8, 2, c->facts.n_sm, j->m, n_pairs, matrices);
    if (j->w_up) /* two groups, of 64 rows */
        return mul_best_shape(wgmma, 3, c->facts.n_sm, 2 * j->m, n_pairs, matrices);
    return for_hopper(c, j) ? mul_best_shape(wgmma, 5, c->facts.n_sm, j->m, n_pairs, matrices)
                            : mul_best_shape(mma, 3, c->facts.n_sm, j->m, n_pairs, matrices);
}

/* hopper/ has no block of 32 rows: what wants one waits for memory, and not for products. */
static enum k_status multiply_blocks(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t n_tiles)
{
    if (j->group)
        return mul_gemm_q8(c, j, shape, n_tiles);
    return for_hopper(c, j) && shape.rows > 32 ? mul_gemm_hopper(c, j, shape, n_tiles)
                                               : mul_gemm_16(c, j, shape, n_tiles);
}

/* Few pairs to a tile. */
enum few_kind { FEW_DIRECT, FEW_16, FEW_Q8, FEW_KINDS };
static enum few_kind kind_of(const struct mul_job *j)
{
    return j->direct ? FEW_DIRECT : j->group ? FEW_Q8 : FEW_16;
}
static enum k_status launch_few(struct k_ctx *c, enum few_kind kind, const struct mul_job *jobs, int n,
                                int64_t grid_tiles)
{
    return kind == FEW_DIRECT ? mul_gemv_direct(c, jobs, n, grid_tiles) : mul_gemv(c, jobs, n, grid_tiles);
}

/* Jobs of a kind in one launch, and those that fold after what they fold into. */
static enum k_status multiply_few(struct k_ctx *c, const struct mul_job *jobs, int n, int64_t grid_tiles)
{
    struct mul_job of_kind[FEW_KINDS][K_PRODUCTS_MAX]; /* as many are not gated */
    int count[FEW_KINDS] = {0};
    enum k_status st = K_OK;
    for (int i = 0; st == K_OK && i < n; i++) {
        enum few_kind kind = kind_of(&jobs[i]);
        if (jobs[i].gated)
            continue;
        if (jobs[i].form == ACT_F32)
            st = mul_precise(c, &jobs[i], grid_tiles);
        else
            of_kind[kind][count[kind]++] = jobs[i];
    }
    for (int kind = 0; st == K_OK && kind < FEW_KINDS; kind++)
        if (count[kind])
            st = launch_few(c, (enum few_kind)kind, of_kind[kind], count[kind], grid_tiles);
    for (int i = 0; st == K_OK && i < n; i++)
        if (jobs[i].gated)
            st = jobs[i].form == ACT_F32 ? mul_precise(c, &jobs[i], grid_tiles)
                                         : launch_few(c, kind_of(&jobs[i]), &jobs[i], 1, grid_tiles);
    return st;
}

/* Many pairs without a list: a launch for each job. */
static enum k_status multiply_many(struct k_ctx *c, const struct mul_job *j, int32_t n_pairs)
{
    if (j->form == ACT_F32)
        return mul_precise(c, j, (n_pairs + PRECISE_PAIRS - 1) / PRECISE_PAIRS);
    if (gemm_lt_takes(c, j, n_pairs)) {
        enum k_status st = gemm_lt(c, j, n_pairs);
        if (st != K_UNSUPPORTED)
            return cuda_note(c, st);
    }
    const struct mul_shape shape = shape_of(c, j, n_pairs, j->n_matrix);
    return multiply_blocks(c, j, shape, (n_pairs + shape.pairs - 1) / shape.pairs);
}

/* n_pairs of each of the jobs' matrices. */
static enum k_status multiply(struct k_ctx *c, struct mul_job *jobs, int n, int32_t n_pairs)
{
    enum k_status st = K_OK;
    for (int i = 0; i < n; i++)
        jobs[i].n_pairs = n_pairs;
    if (n_pairs <= GEMV_PAIRS)
        return multiply_few(c, jobs, n, 1);
    for (int i = 0; st == K_OK && i < n; i++)
        st = multiply_many(c, &jobs[i], n_pairs);
    return st;
}

enum k_status cuda_matmul(struct k_ctx *c, const struct k_product *products, int32_t n, const float *x,
                          int64_t x_stride, int32_t n_tok, enum k_precision p)
{
    struct mul_job jobs[JOBS_MAX];
    int n_jobs = 0;
    enum k_status st = k_check_matmul(products, n, x, x_stride, n_tok);
    if (st != K_OK || n_tok == 0)
        return st;
    for (int32_t i = 0; st == K_OK && i < n; i++)
        st = add_jobs(c, jobs, &n_jobs, &products[i], n_tok <= GEMV_PAIRS, n_tok, p);
    if (st == K_OK)
        st = set_activations(c, jobs, n_jobs, x, x_stride, n_tok);
    return st == K_OK ? multiply(c, jobs, n_jobs, n_tok) : st;
}

enum k_status cuda_matmul_add(struct k_ctx *c, const struct k_added *m, int32_t n_tok, enum k_precision p)
{
    const struct k_product product = {m->y, m->w, NULL, NULL};
    struct mul_job j;
    int n = 0;
    enum k_status st = k_check_matmul(&product, 1, m->x, m->x_stride, n_tok);
    if (st == K_OK && m->norm.y)
        st = k_check_norm(m->norm.y, m->y, m->norm.w, n_tok, (int32_t)m->w->ne[1], (int32_t)m->w->ne[1]);
    if (st != K_OK || n_tok == 0)
        return st;
    st = add_jobs(c, &j, &n, &product, n_tok <= GEMV_PAIRS, n_tok, p);
    j.add = true;
    if (st == K_OK)
        st = set_activations(c, &j, 1, m->x, m->x_stride, n_tok);
    /* One block norms the rows one after the other: of more than these the norm's own launch is done sooner. */
    const bool norm = m->norm.y && n_tok <= DIRECT_PAIRS && j.form != ACT_F32;
    if (st == K_OK && norm)
        j.norm.of = m->norm, j.norm.arrived = cuda_arrived(c, &st);
    if (st == K_OK)
        st = multiply(c, &j, 1, n_tok);
    if (st != K_OK || norm || !m->norm.y)
        return st;
    return cuda_rms_norm(c, m->norm.y, m->y, m->norm.w, n_tok, j.m, j.m, m->norm.eps);
}

enum k_status cuda_matmul_heads(struct k_ctx *c, float *y, int32_t y_head_stride, const float *x, int32_t x_head_stride,
                                const struct k_tensor *w, int32_t n_tok, enum k_precision p)
{
    struct mul_job j;
    enum k_status st = k_check_heads(y, y_head_stride, x, x_head_stride, w, n_tok);
    if (st != K_OK || n_tok == 0)
        return st;
    if (w->ne[2] > 65535 || w->ne[2] * n_tok > INT32_MAX)
        return K_BAD_SHAPE;
    st = job_of(c, &j, w, n_tok, p);
    if (st == K_OK)
        st = set_activations(c, &j, 1, x, x_head_stride, w->ne[2] * n_tok);
    if (st != K_OK)
        return st;
    j.y = y;
    j.y_stride = y_head_stride;
    j.mul = j.n_matrix;
    j.mat = 1;
    return multiply(c, &j, 1, n_tok);
}

/* One token's experts are all different: each pair is a tile. Else pairs are sorted by expert, so that an expert's
 * weights are read once for as many pairs as a tile holds. */
static enum k_status set_tiles(struct k_ctx *c, struct mul_job *jobs, int n, struct mul_experts *e, int tile_pairs)
{
    struct mul_sorted *s = &e->sorted;
    enum k_status st = K_OK;
    if (e->n_tok == 1)
        s->grid_tiles = e->n_used;
    else if (s->tile_pairs != tile_pairs)
        st = mul_sort(c, s, e->ids, e->n_tok * e->n_used, jobs->n_matrix, tile_pairs);
    for (int i = 0; i < n; i++) {
        jobs[i].ids = e->n_tok == 1 ? e->ids : NULL;
        jobs[i].list = s->list, jobs[i].tiles = s->tiles, jobs[i].n_tiles = s->n_tiles;
    }
    return st;
}

enum k_status mul_by_experts(struct k_ctx *c, struct mul_experts *e, const struct k_product *product, const float *x,
                             bool x_each)
{
    struct mul_job jobs[2];
    int n = 0;
    enum k_status st = k_check_experts(product, x, e->ids, e->n_used, e->n_tok);
    if (st != K_OK || e->n_tok == 0)
        return st;
    int32_t n_pairs = e->n_tok * e->n_used;
    bool floats = e->p == K_PRECISE || product->w->type == K_F32 || (product->up && product->up->type == K_F32);
    bool many = !floats && n_pairs > 4 * product->w->ne[2];
    int tile = many ? 64 : GEMV_PAIRS; /* PRECISE_PAIRS is no other */
    st = add_jobs(c, jobs, &n, product, !many, e->n_tok == 1 ? 1 : GEMV_PAIRS, e->p);
    if (st == K_OK)
        st = set_activations(c, jobs, n, x, product->w->ne[0], x_each ? n_pairs : e->n_tok);
    for (int i = 0; i < n; i++)
        jobs[i].x_div = x_each ? 1 : e->n_used;
    if (st == K_OK)
        st = set_tiles(c, jobs, n, e, tile);
    const int64_t grid_tiles = e->sorted.grid_tiles;
    if (st == K_OK && !many)
        return multiply_few(c, jobs, n, grid_tiles);
    for (int i = 0; st == K_OK && i < n; i++)
        st = multiply_blocks(c, &jobs[i], shape_of(c, &jobs[i], tile, grid_tiles), grid_tiles);
    return st;
}

enum k_status cuda_matmul_experts(struct k_ctx *c, const struct k_product *product, const float *x, bool x_per_expert,
                                  const int32_t *ids, int32_t n_used, int32_t n_tok, enum k_precision p)
{
    struct mul_experts e = {ids, n_used, n_tok, p, {}};
    return mul_by_experts(c, &e, product, x, x_per_expert);
}

enum k_status mul_experts_and_shared(struct k_ctx *c, const struct k_product *experts, const float *x, bool x_each,
                                     const struct k_product *shared, const float *x_shared, const int32_t *ids,
                                     int32_t n_used, enum k_precision p)
{
    struct mul_job jobs[4];
    int n = 0, n_experts;
    enum k_status st = k_check_experts(experts, x, ids, n_used, 1);
    if (st == K_OK)
        st = k_check_matmul(shared, 1, x_shared, shared->w->ne[0], 1);
    if (st == K_OK)
        st = add_jobs(c, jobs, &n, experts, true, 1, p);
    n_experts = n;
    if (st == K_OK)
        st = add_jobs(c, jobs, &n, shared, true, 1, p);
    for (int i = 0; st == K_OK && i < n; i++) {
        struct mul_job *j = &jobs[i];
        const bool of_experts = i < n_experts;
        if (!takes_floats(j))
            return K_UNSUPPORTED;
        j->x = (const uint8_t *)(of_experts ? x : x_shared);
        j->x_bytes = j->n * (int64_t)sizeof(float);
        j->ids = of_experts ? ids : NULL;
        j->x_div = of_experts && !x_each ? n_used : 1;
        j->n_pairs = 1;
    }
    return st == K_OK ? multiply_few(c, jobs, n, n_used) : st;
}
