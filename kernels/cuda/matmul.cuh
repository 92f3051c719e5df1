/* What the kernels of the matrix products share: the job, activations in the form that the weights want, and the order
 * of sums, which is the same in every kernel.
 *
 * A product is y[pair] = w[matrix] . x[row] for a list of pairs per matrix. The sum of one output runs in slices of
 * SLICE elements of k. FAST, quantised weights: inside a slice the numbers of a group are multiplied and added as
 * integers, which is exact in any order, and folded into a float one group after the other, acc = fma(d * dx, sum,
 * acc), then with a minimum acc = fma(m, -dx * sum(q), acc). FAST, F16 and BF16: inside a slice tensor cores add 16
 * products at a time in order of k. Then the slices are added in order, total = total + acc from 0 on. So it is of no
 * consequence which warp or block computes which slice, how many tokens share a tile, or whether dp4a or a tensor core
 * makes the integers: a token's result is the same, bit for bit, alone and among others. (That an m16n8k16 product
 * rounds the same in each of its rows and columns is how the hardware is built; tests/bench/gpu_all.sh check holds it
 * to it.)
 *
 * F32 weights and PRECISE: precise.cu. */
#ifndef KERNELS_CUDA_MATMUL_CUH
#define KERNELS_CUDA_MATMUL_CUH

#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/norm.cuh"

/* Activations of one row, after kernels of activations.cu. n is padded to np, a multiple of SLICE, with zeros.
 *   ACT_Q8:  int8 q[np], float d[np / 32], float s[np / group] = -d * sum(q of the group)
 *   ACT_F16: f16 [np], float scale (a power of two: the row's values are scale times what is stored), pad to 16
 *   ACT_BF16: bf16 [np], pad to 16
 *   ACT_F32: the caller's floats, not copied */
enum act_form { ACT_F32, ACT_Q8, ACT_F16, ACT_BF16 };

/* One tile of pairs that share a matrix. */
struct mul_tile {
    int32_t matrix, first, count;
};

struct mul_job {
    const uint8_t *w;
    const uint8_t *w_up; /* not NULL: a block has rows of both matrices, and y = silu(w . x) * (w_up . x) */
    int64_t row_bytes, matrix_bytes, w_bytes; /* w_bytes: all of the tensor */
    int32_t slice_bytes;                      /* of SLICE elements of a row */
    int32_t slot_bytes; /* what these take in shared memory: they keep their place within 16 bytes */
    enum k_type type;
    int32_t group; /* of the type; 0 for floats */
    bool has_min;
    int32_t n, np, m; /* inputs, padded inputs, outputs */
    enum act_form form;
    const uint8_t *x;
    int64_t x_bytes; /* from one activation row to the next */
    int32_t fold;    /* gemv.cu: slices whose sums are kept until they are added; a matter of room only */
    bool direct;     /* gemv_direct.cu: x are the caller's floats, brought into the form by each block for itself */
    float *y;
    const float *bias;      /* m, or NULL */
    bool gated;             /* y = silu(y) * sum, not y = sum: the second of two launches */
    bool add;               /* y = y + sum */
    struct norm_after norm; /* gemv.cu: of the rows y, which then follow each other; of the only job of a launch */
    /* Pair p of matrix e: activation row p / x_div * mul + e * mat, output at (p * mul + e * mat) * y_stride. Plain
     * products and experts: mul 1, mat 0; heads: mul n_head, mat 1. */
    int32_t x_div, mul, mat;
    int64_t y_stride;
    int32_t n_pairs; /* of each matrix, where no list is given */
    int32_t n_matrix;
    /* Experts. ids alone: pair p is a tile by itself, of matrix ids[p]. With tiles: pairs list[first..first + count). */
    const int32_t *ids, *list;
    const struct mul_tile *tiles;
    const int32_t *n_tiles;
};

/* What a block of a matrix product makes: so many rows of the weights times so many pairs. */
struct mul_shape {
    int rows, pairs;
};

/* Jobs that share a launch: blocks from first[i] on along x are those of job[i]. */
struct mul_list {
    struct mul_job job[K_PRODUCTS_MAX];
    int32_t n, first[K_PRODUCTS_MAX];
};

/* Tile i of T pairs; matrices are along block_z. count below 1: nothing to do. */
KDEV struct mul_tile tile_at(const struct mul_job *j, int i, int T)
{
    struct mul_tile t = {block_z(), i * T, 0};
    if (j->tiles) {
        if (i < *j->n_tiles)
            t = j->tiles[i];
    } else if (j->ids) {
        t.matrix = j->ids[i];
        t.first = i;
        t.count = t.matrix >= 0 && t.matrix < j->n_matrix;
    } else {
        t.count = j->n_pairs - t.first < T ? j->n_pairs - t.first : T; /* below 1 where a launch has more for others */
    }
    return t;
}

/* Blocks that run at the same time should share what they read, of both sides: the grid, one row of blocks, is cut into
 * bands of BAND blocks of rows, and each band goes through the tiles of pairs. */
#define BAND 8
KDEV struct mul_tile tile_in_band(const struct mul_job *j, int rows, int T, int *row_block)
{
    int n_row = (j->m + rows - 1) / rows, n_tile = grid_x() / n_row, band = block_x() / (BAND * n_tile);
    int at = block_x() - band * BAND * n_tile, high = n_row - band * BAND < BAND ? n_row - band * BAND : BAND;
    *row_block = band * BAND + at % high;
    return tile_at(j, at / high, T);
}
static inline struct grid3 grid_in_bands(const struct mul_job *j, int rows, int64_t n_tile)
{
    return grid_of((j->m + rows - 1) / rows * n_tile, 1, j->ids || j->tiles ? 1 : j->n_matrix);
}

KDEV int pair_of_tile(const struct mul_job *j, const struct mul_tile *t, int i)
{
    return j->list ? j->list[t->first + i] : t->first + i;
}

KDEV int64_t x_row_of(const struct mul_job *j, const struct mul_tile *t, int i)
{
    return (int64_t)(pair_of_tile(j, t, i) / j->x_div) * j->mul + (int64_t)t->matrix * j->mat;
}

KDEV float *y_row_of(const struct mul_job *j, const struct mul_tile *t, int i)
{
    return j->y + ((int64_t)pair_of_tile(j, t, i) * j->mul + (int64_t)t->matrix * j->mat) * j->y_stride;
}

KDEV const uint8_t *weight_row(const struct mul_job *j, int matrix, int row)
{
    row = row < j->m ? row : j->m - 1; /* a last tile that is not full repeats its last row */
    return j->w + matrix * j->matrix_bytes + row * j->row_bytes;
}

/* Elements of a row in the slice. */
KDEV int slice_elems(const struct mul_job *j, int slice)
{
    return j->n - slice * SLICE < SLICE ? j->n - slice * SLICE : SLICE;
}

/* Of a row of activations in ACT_Q8. */
KDEV const float *act_d(const struct mul_job *j, const uint8_t *row)
{
    return (const float *)(row + j->np);
}
KDEV const float *act_s(const struct mul_job *j, const uint8_t *row)
{
    return (const float *)(row + j->np + j->np / 8);
}
/* In ACT_F16. */
KDEV float act_scale(const struct mul_job *j, const uint8_t *row)
{
    return *(const float *)(row + 2 * (int64_t)j->np);
}

/* Integer products are added to this, the bits of 1.5 * 2^23: while a sum stays below 2^22 in magnitude the result,
 * read as a float, is 1.5 * 2^23 + sum, and one subtraction converts it exactly. A group's sum is at most 32 * 128 *
 * 127. */
#define SUM_BITS  0x4b400000
#define SUM_FLOAT 12582912.0f

KDEV float sum_to_f32(int sum)
{
    return bits_to_f32((uint32_t)sum) - SUM_FLOAT;
}

/* One group into the four sums of an m16n8 tile: rows a and b of the weights, columns 0 and 1. */
struct group_scales {
    float d[2], m[2];   /* rows */
    float dx[2], sx[2]; /* columns */
};
KDEV void fold_group(float acc[4], const int sum[4], const struct group_scales *g, bool has_min)
{
    for (int i = 0; i < 4; i++)
        acc[i] = fma_rn(g->d[i / 2] * g->dx[i & 1], sum_to_f32(sum[i]), acc[i]);
    if (has_min)
        for (int i = 0; i < 4; i++)
            acc[i] = fma_rn(g->m[i / 2], g->sx[i & 1], acc[i]);
}

KDEV void sums_begin(int sum[4])
{
    for (int i = 0; i < 4; i++)
        sum[i] = SUM_BITS;
}

/* The end of every fast product: what `total` is worth, then (every product) to its place. */
KDEV float scaled(const struct mul_job *j, const uint8_t *x_row, float total)
{
    return j->form == ACT_F16 ? total * act_scale(j, x_row) : total;
}
/* What becomes of a sum, the same for all of a job; old: what stands in its place. */
enum put_how { PUT_PLAIN, PUT_BIASED, PUT_ADDED, PUT_GATED };
KDEV enum put_how how_to_put(const struct mul_job *j)
{
    return j->gated ? PUT_GATED : j->add ? PUT_ADDED : j->bias ? PUT_BIASED : PUT_PLAIN;
}
KDEV bool put_needs_old(enum put_how how)
{
    return how == PUT_GATED || how == PUT_ADDED;
}
KDEV float put_value(const struct mul_job *j, enum put_how how, float old, float sum, int row)
{
    switch (how) {
    case PUT_GATED: return silu_times(old, sum);
    case PUT_ADDED: return old + sum;
    case PUT_BIASED: return sum + j->bias[row];
    case PUT_PLAIN: break;
    }
    return sum;
}
KDEV void put_out(const struct mul_job *j, float *y, float sum, int row)
{
    enum put_how how = how_to_put(j);
    y[row] = put_value(j, how, put_needs_old(how) ? y[row] : 0.0f, sum, row);
}

/* A slice's sums into the total: the order in which slices come. */
template <int MT, int NT> KDEV void add_slice(float total[MT][NT][4], const float acc[MT][NT][4])
{
    for (int m = 0; m < MT; m++)
        for (int i = 0; i < NT; i++)
            for (int c = 0; c < 4; c++)
                total[m][i][c] += acc[m][i][c];
}

/* What a block with many pairs knows of each of its tile, found once, in shared memory; a barrier before it is read. */
struct alignas(16) tile_column {
    float *y;      /* its outputs; NULL past the tile's last pair */
    float scale;   /* what a sum is multiplied with */
    uint32_t x_at; /* its activations, in 16 bytes from j->x; those of the last pair past that */
};
KDEV void find_columns(const struct mul_job *j, const struct mul_tile *t, struct tile_column *columns, int n)
{
    for (int i = thread_x(); i < n; i += block_dim()) {
        int p = i < t->count ? i : t->count - 1;
        int64_t row = x_row_of(j, t, p);
        struct tile_column c = {i < t->count ? y_row_of(j, t, p) : NULL,
                                j->form == ACT_F16 ? act_scale(j, j->x + row * j->x_bytes) : 1.0f,
                                (uint32_t)(row * (j->x_bytes / 16))};
        columns[i] = c;
    }
}
KDEV const uint8_t *column_x(const struct mul_job *j, const struct tile_column *c)
{
    return j->x + 16 * (int64_t)c->x_at;
}

/* The sums of a warp's tiles to their place: of 16 MT rows from `row` on and 8 NT columns, as tensor cores leave them:
 * rows lane / 4 and + 8 of each tile, columns 2 (lane % 4) and + 1. What stands there is asked for 16 at a time: one
 * after the other each would wait for memory. */
template <enum put_how HOW, int MT, int NT>
KDEV void gemm_put(const struct mul_job *j, const struct tile_column *columns, int row, const float total[MT][NT][4])
{
    const int TOGETHER = 8 / MT < 2 * NT ? 8 / MT : 2 * NT;
#pragma unroll
    for (int first = 0; first < 2 * NT; first += TOGETHER) {
        float old[TOGETHER][2 * MT];
#pragma unroll
        for (int pass = put_needs_old(HOW) ? 0 : 1; pass < 2; pass++)
#pragma unroll
            for (int i = first; i < first + TOGETHER; i++) {
                const struct tile_column c = columns[8 * (i / 2) + 2 * (lane() & 3) + (i & 1)];
#pragma unroll
                for (int h = 0; h < 2 * MT; h++) {
                    int r = row + lane() / 4 + 8 * h;
                    if (!c.y || r >= j->m)
                        continue;
                    if (pass == 0)
                        old[i - first][h] = c.y[r];
                    else
                        c.y[r] = put_value(j, HOW, old[i - first][h],
                                           total[h / 2][i / 2][2 * (h & 1) + (i & 1)] * c.scale, r);
                }
            }
    }
}
template <int MT, int NT>
KDEV void gemm_write(const struct mul_job *j, const struct tile_column *columns, int row, const float total[MT][NT][4])
{
    switch (how_to_put(j)) {
    case PUT_GATED: gemm_put<PUT_GATED, MT, NT>(j, columns, row, total); break;
    case PUT_ADDED: gemm_put<PUT_ADDED, MT, NT>(j, columns, row, total); break;
    case PUT_BIASED: gemm_put<PUT_BIASED, MT, NT>(j, columns, row, total); break;
    case PUT_PLAIN: gemm_put<PUT_PLAIN, MT, NT>(j, columns, row, total); break;
    }
}

/* ---- host side: what the files of the products call of each other. All K_OK or what launch() says. ---- */

/* Rows of n floats, x_stride apart, into j->form at `to`; sets nothing in j. */
enum k_status mul_activations(struct k_ctx *c, const struct mul_job *j, uint8_t *to, const float *x, int64_t x_stride,
                              int64_t n_rows);
/* 1 <= n <= K_PRODUCTS_MAX jobs in one launch: all of quantised weights, or none, and with pairs alike. grid_tiles: how
 * many tiles of pairs (of the kernel's size) there may be, all matrices not counted; so below. */
enum k_status mul_gemv(struct k_ctx *c, const struct mul_job *jobs, int n, int64_t grid_tiles);
/* The same of jobs that are direct. fits: whether a block may have the shared memory for n_tok of the job. */
enum k_status mul_gemv_direct(struct k_ctx *c, const struct mul_job *jobs, int n, int64_t grid_tiles);
bool mul_direct_fits(const struct k_ctx *c, const struct mul_job *j, int n_tok);
/* 32 or 128 rows and 64 pairs; 32 where a block may not have the shared memory of 128. */
enum k_status mul_gemm_q8(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t grid_tiles);
/* 32 or 64 rows and 64 pairs, or 128 and 128. */
enum k_status mul_gemm_16(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t grid_tiles);
enum k_status mul_precise(struct k_ctx *c, const struct mul_job *j, int64_t grid_tiles);
/* Checks n_tok of a plain product and makes its job, in float32: for a kernel that goes on with what it gives. */
enum k_status mul_precise_job(struct mul_job *j, const struct k_product *product, const float *x, int64_t x_stride,
                              int32_t n_tok);
/* Of n shapes that a kernel has; n_pairs of each of the matrices. */
struct mul_shape mul_best_shape(const struct mul_shape *shapes, int n, int n_sm, int32_t m, int32_t n_pairs,
                                int64_t matrices);
/* Pairs sorted by expert, into tiles of tile_pairs (0: not sorted yet): of use to all products of the same ids, until
 * others are sorted. grid_tiles: the most tiles that this can give. */
struct mul_sorted {
    int tile_pairs;
    const int32_t *list;
    const struct mul_tile *tiles;
    const int32_t *n_tiles;
    int64_t grid_tiles;
};
enum k_status mul_sort(struct k_ctx *c, struct mul_sorted *s, const int32_t *ids, int32_t n_pairs, int64_t n_expert,
                       int tile_pairs);

/* matmul_experts() (kernels/ops.h), by pairs that are sorted if they are not yet. */
struct mul_experts {
    const int32_t *ids;
    int32_t n_used, n_tok;
    enum k_precision p;
    struct mul_sorted sorted;
};
enum k_status mul_by_experts(struct k_ctx *c, struct mul_experts *e, const struct k_product *product, const float *x,
                             bool x_each);

/* One token's product with each of its n_used experts, and one with a matrix that all tokens share, in one launch of
 * each kind of weights; x_each: an expert's activations are a row of their own. K_UNSUPPORTED: activations need a
 * form of their own first, and nothing was done. */
enum k_status mul_experts_and_shared(struct k_ctx *c, const struct k_product *experts, const float *x, bool x_each,
                                     const struct k_product *shared, const float *x_shared, const int32_t *ids,
                                     int32_t n_used, enum k_precision p);

#define GEMV_PAIRS    8
#define DIRECT_PAIRS  2 /* up to so many, each block quantising is cheaper than another launch */
#define GEMM_Q8_PAIRS 64
#define PRECISE_PAIRS 8

#endif
