/* The three products of kernels/ops.h: a job is made of the arguments, activations are brought into its form, and a kernel
 * is chosen by how many tokens share a matrix. The choice is one of speed only (matmul.cuh). */
#include "kernels/cuda/matmul.cuh"

/* tile_pairs: pairs that can share a tile, or more. */
static enum k_status job_of(struct mul_job *j, const struct k_tensor *w, int32_t tile_pairs, enum k_precision p)
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
    j->direct = tile_pairs <= DIRECT_PAIRS && j->form != ACT_F16;
    if (form) {
        j->group = form->group;
        j->has_min = form->has_min;
    }
    j->slice_bytes = (int32_t)k_row_bytes(w->type, SLICE);
    aligned &= j->slice_bytes % 16 == 0 && j->row_bytes % 16 == 0;
    j->slot_bytes = (j->slice_bytes + 15) / 16 * 16 + (aligned ? 0 : 16);
    j->x_bytes = form ? j->np + j->np / 8 + 4 * (j->np / j->group) : 2 * j->np + 16;
    return (uintptr_t)w->data % 16 ? K_BAD_SHAPE : K_OK;
}

/* n_rows rows of x, x_stride floats apart, in the job's form: j->x. */
static enum k_status set_activations(struct k_ctx *c, struct mul_job *j, const float *x, int64_t x_stride,
                                     int64_t n_rows)
{
    enum k_status st;
    if (j->form == ACT_F32 || j->direct) {
        j->x = (const uint8_t *)x;
        j->x_bytes = x_stride * (int64_t)sizeof(float);
        return K_OK;
    }
    uint8_t *to = (uint8_t *)cuda_scratch(c, CUDA_SCRATCH_MATMUL, (size_t)(n_rows * j->x_bytes), &st);
    if (!to)
        return st;
    j->x = to;
    return mul_activations(c, j, to, x, x_stride, n_rows);
}

/* Rows of the weights that a block of a matrix product takes: the most with which there is a block for each
 * multiprocessor, as larger blocks read less. */
static int rows_of_block(const struct k_ctx *c, const struct mul_job *j, int64_t n_tiles_64)
{
    int64_t matrices = j->tiles ? 1 : j->n_matrix;
    for (int rows = 128; rows > 32; rows /= 2) {
        int64_t tiles = rows == 128 && !j->group ? (n_tiles_64 + 1) / 2 : n_tiles_64;
        if ((j->m + rows - 1) / rows * tiles * matrices >= c->facts.n_sm && (rows == 128 || !j->group))
            return rows;
    }
    return 32;
}

/* Pairs without a list: n_pairs of each of the job's matrices. */
static enum k_status multiply(struct k_ctx *c, struct mul_job *j, int32_t n_pairs)
{
    j->n_pairs = n_pairs;
    if (j->form == ACT_F32)
        return mul_precise(c, j, (n_pairs + PRECISE_PAIRS - 1) / PRECISE_PAIRS);
    if (n_pairs <= GEMV_PAIRS)
        return mul_gemv(c, j, 1);
    int64_t tiles = (n_pairs + 63) / 64;
    int rows = rows_of_block(c, j, tiles);
    if (j->group)
        return mul_gemm_q8(c, j, rows, tiles);
    return mul_gemm_16(c, j, rows, rows == 128 ? (tiles + 1) / 2 : tiles);
}

enum k_status cuda_matmul(struct k_ctx *c, float *y, const float *x, int64_t x_stride, const struct k_tensor *w,
                          const float *bias, int32_t n_tok, enum k_precision p)
{
    struct mul_job j;
    enum k_status st = k_check_matmul(y, x, x_stride, w, n_tok);
    if (st != K_OK || n_tok == 0)
        return st;
    st = job_of(&j, w, n_tok, p);
    if (st == K_OK)
        st = set_activations(c, &j, x, x_stride, n_tok);
    if (st != K_OK)
        return st;
    j.y = y;
    j.y_stride = j.m;
    j.bias = bias;
    return multiply(c, &j, n_tok);
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
    st = job_of(&j, w, n_tok, p);
    if (st == K_OK)
        st = set_activations(c, &j, x, x_head_stride, w->ne[2] * n_tok);
    if (st != K_OK)
        return st;
    j.y = y;
    j.y_stride = y_head_stride;
    j.mul = j.n_matrix;
    j.mat = 1;
    return multiply(c, &j, n_tok);
}

enum k_status cuda_matmul_experts(struct k_ctx *c, float *y, const float *x, bool x_per_expert,
                                  const struct k_tensor *w, const int32_t *ids, int32_t n_used, int32_t n_tok,
                                  enum k_precision p)
{
    struct mul_job j;
    enum k_status st = k_check_experts(y, x, w, ids, n_used, n_tok);
    if (st != K_OK || n_tok == 0)
        return st;
    int32_t n_pairs = n_tok * n_used;
    st = job_of(&j, w, n_tok == 1 ? 1 : GEMV_PAIRS, p); /* one token's pairs are tiles of one, others' of more */
    if (st == K_OK)
        st = set_activations(c, &j, x, w->ne[0], x_per_expert ? n_pairs : n_tok);
    if (st != K_OK)
        return st;
    j.y = y;
    j.y_stride = j.m;
    j.x_div = x_per_expert ? 1 : n_used;
    /* One token's experts are all different: each pair is a tile. Else pairs are sorted by expert, so that an expert's
     * weights are read once for as many pairs as a tile holds. */
    int64_t grid_tiles = n_pairs;
    bool many = j.form != ACT_F32 && n_pairs > 4 * (int64_t)j.n_matrix;
    int tile = j.form == ACT_F32 ? PRECISE_PAIRS : many ? 64 : GEMV_PAIRS;
    if (n_tok == 1)
        j.ids = ids;
    else
        st = mul_group(c, &j, ids, n_pairs, tile, &grid_tiles);
    if (st != K_OK)
        return st;
    if (j.form == ACT_F32)
        return mul_precise(c, &j, grid_tiles);
    if (!many || n_tok == 1)
        return mul_gemv(c, &j, grid_tiles);
    int rows = rows_of_block(c, &j, grid_tiles);
    return j.group ? mul_gemm_q8(c, &j, rows, grid_tiles) : mul_gemm_16(c, &j, rows == 128 ? 64 : rows, grid_tiles);
}
