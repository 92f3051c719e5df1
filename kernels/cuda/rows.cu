/* Operations on rows that know neither positions nor experts: lookup, copies, norm, activation, sum. All are bound by
 * memory, and most of what they move is still in the L2 cache; what counts is that they are one short launch each. */
#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/norm.cuh"

#define THREADS 256
/* Elements that a thread of an elementwise kernel takes, a block apart, so that a warp's accesses stay side by side. It
 * reads all of them before it writes one: where it may write is where it may read, as far as a compiler knows. */
#define EACH 4

static int64_t parts(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* y[t] = row ids[t] of w, dequantised.
 * Grid (n_tok, pieces of a row), 256 threads, 4 elements each. Bytes: the row once, 4 per element written. */
KERNEL_BOUNDS(get_rows_kernel, THREADS, 2)
(float *y, const uint8_t *w, enum k_type type, int64_t row_bytes, int32_t n, const int32_t *ids)
{
    const uint8_t *row = w + ids[block_x()] * row_bytes;
    const int32_t first = block_y() * EACH * THREADS + thread_x();
    float v[EACH];
#pragma unroll
    for (int e = 0; e < EACH; e++)
        v[e] = first + e * THREADS < n ? weight_at(type, row, first + e * THREADS) : 0.0f;
#pragma unroll
    for (int e = 0; e < EACH; e++)
        if (first + e * THREADS < n)
            y[(int64_t)block_x() * n + first + e * THREADS] = v[e];
}

enum k_status cuda_get_rows(struct k_ctx *c, float *y, const struct k_tensor *w, const int32_t *ids, int32_t n_tok)
{
    enum k_status s = k_check_get_rows(y, w, ids, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    int32_t n = (int32_t)w->ne[0];
    return cuda_note(c, launch(c->stream, get_rows_kernel, grid_of(n_tok, parts(n, EACH * THREADS)), THREADS, 0, y,
                               (const uint8_t *)w->data, w->type, (int64_t)k_row_bytes(w->type, (uint64_t)n), n, ids));
}

/* Grid (elements / 1024), 256 threads, 4 elements each: y[r * y_stride + i] = x[r * x_stride + i]. 8 bytes an element. */
KERNEL(copy_rows_kernel)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t total, int32_t n)
{
    const int64_t first = (int64_t)block_x() * EACH * THREADS + thread_x();
    float v[EACH];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int64_t i = first + e * THREADS;
        if (i < total)
            v[e] = x[i / n * x_stride + i % n];
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int64_t i = first + e * THREADS;
        if (i < total)
            y[i / n * y_stride + i % n] = v[e];
    }
}

enum k_status cuda_copy_rows(struct k_ctx *c, float *y, int64_t y_stride, const float *x, int64_t x_stride,
                             int64_t rows, int32_t n)
{
    enum k_status s = k_check_copy(y, y_stride, x, x_stride, rows, n);
    if (s != K_OK || rows == 0)
        return s;
    return cuda_note(c, launch(c->stream, copy_rows_kernel, grid_of(parts(rows * n, EACH * THREADS)), THREADS, 0, y,
                               y_stride, x, x_stride, rows * n, n));
}

/* A block per row, for long ones. Grid (rows), 256 threads. Bytes: 4 read and 4 written per element; bound by latency
 * for the few rows of decode. */
KERNEL_BOUNDS(norm_block_kernel, THREADS, 2)
(float *y, const float *x, const float *w, int32_t dim, int32_t stride, float eps)
{
    let_next_begin();
    wait_for_before();
    SHARED(struct norm_room, room, 1);
    const int64_t at = (int64_t)block_x() * stride;
    norm_row_by_block<THREADS>(y + at, x + at, w, dim, eps, room);
}

/* A warp per row, for the short rows of heads. Grid (rows / 8), 256 threads; as above with lanes for threads. */
KERNEL_BOUNDS(norm_warp_kernel, THREADS, 2)
(float *y, const float *x, const float *w, int64_t rows, int32_t dim, int32_t stride, float eps)
{
    let_next_begin();
    wait_for_before();
    int64_t r = (int64_t)block_x() * (THREADS / WARP) + warp_of_block();
    if (r >= rows) /* the whole warp */
        return;
    norm_row_by_warp(y + r * stride, x + r * stride, w, dim, eps);
}

enum k_status cuda_rms_norm(struct k_ctx *c, float *y, const float *x, const float *w, int64_t rows, int32_t dim,
                            int32_t stride, float eps)
{
    enum k_status s = k_check_norm(y, x, w, rows, dim, stride);
    if (s != K_OK || rows == 0)
        return s;
    if (dim <= NORM_WARP_DIM_MAX)
        return cuda_note(c, launch_early(c->stream, c->early, norm_warp_kernel, grid_of(parts(rows, THREADS / WARP)),
                                         THREADS, 0, y, x, w, rows, dim, stride, eps));
    return cuda_note(
        c, launch_early(c->stream, c->early, norm_block_kernel, grid_of(rows), THREADS, 0, y, x, w, dim, stride, eps));
}

/* y = a + b, or silu(a) * b. Grid (n / 1024), 256 threads, 4 elements each. 12 bytes an element. */
template <bool SUM> KERNEL(of_two_kernel)(float *y, const float *a, const float *b, int64_t n)
{
    let_next_begin();
    const int64_t first = (int64_t)block_x() * EACH * THREADS + thread_x();
    float va[EACH], vb[EACH];
    read_together<EACH>(va, vb, a, b, first, THREADS, n);
#pragma unroll
    for (int e = 0; e < EACH; e++)
        if (first + e * THREADS < n)
            y[first + e * THREADS] = SUM ? va[e] + vb[e] : silu_times(va[e], vb[e]);
}

template <bool SUM> static enum k_status of_two(struct k_ctx *c, float *y, const float *a, const float *b, int64_t n)
{
    enum k_status s = k_check_values(y, a, b, n);
    if (s != K_OK || n == 0)
        return s;
    return cuda_note(c,
                     launch(c->stream, of_two_kernel<SUM>, grid_of(parts(n, EACH * THREADS)), THREADS, 0, y, a, b, n));
}

enum k_status cuda_silu_mul(struct k_ctx *c, float *y, const float *gate, const float *up, int64_t n)
{
    return of_two<false>(c, y, gate, up, n);
}

enum k_status cuda_add(struct k_ctx *c, float *y, const float *x, int64_t n)
{
    return of_two<true>(c, y, y, x, n);
}
