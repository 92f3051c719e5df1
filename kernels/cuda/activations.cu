/* Activations in the form that the weights want, once per distinct row. Bytes: 4 in, about 1.4 (8 bits) or 2 out per
 * element, from and to L2; a decode step's rows are a few KiB and cost a launch. */
#include "kernels/cuda/activations.cuh"

#define ACT_BLOCK 128
#define ACT_PART  1024

/* grid: slices / 4, rows; block: 4 warps, a slice each; no shared memory. */
KERNEL(act_to_q8)(struct mul_job j, uint8_t *to, const float *x, int64_t x_stride)
{
    let_next_begin();
    wait_for_before();
    int slice = block_x() * (ACT_BLOCK / WARP) + warp_of_block();
    if (slice >= j.np / SLICE)
        return;
    uint8_t *row = to + block_y() * j.x_bytes;
    float v[8];
    act_load(&j, x + block_y() * x_stride, slice, v);
    act_quantise(&j, v, (int8_t *)row + slice * SLICE, (float *)(row + j.np) + slice * (SLICE / 32),
                 (float *)(row + j.np + j.np / 8) + slice * (SLICE / j.group));
}

/* The power of two that brings the row's largest magnitude to 2^14 at most, where halves are far from their limits;
 * what is not finite keeps 1 and stays infinite or NaN. One warp's share of the maximum is in part[]. */
KDEV float f16_row_scale(float top)
{
    uint32_t exponent = f32_to_bits(top) >> 23;
    if (exponent == 0 || exponent == 255)
        return 1.0f;
    int e = (int)exponent - 127 - 13;
    return bits_to_f32((uint32_t)((e < -100 ? -100 : e) + 127) << 23);
}

/* grid: parts of ACT_PART elements, rows; block 128. F16: each block finds the row's maximum for itself, from the cache. */
KERNEL(act_to_16)(struct mul_job j, uint8_t *to, const float *x, int64_t x_stride)
{
    let_next_begin();
    wait_for_before();
    SHARED(float, part, ACT_BLOCK / WARP);
    const float *from = x + block_y() * x_stride;
    uint16_t *row = (uint16_t *)(to + block_y() * j.x_bytes);
    float scale = 1.0f, inverse = 1.0f;
    if (j.form == ACT_F16) {
        float top = 0.0f;
        for (int k = thread_x(); k < j.n; k += ACT_BLOCK) {
            float v = bits_to_f32(f32_to_bits(from[k]) & 0x7fffffffu);
            top = v > top ? v : top;
        }
        top = warp_max(top);
        if (lane() == 0)
            part[warp_of_block()] = top;
        sync_block();
        for (int i = 0; i < ACT_BLOCK / WARP; i++)
            top = part[i] > top ? part[i] : top;
        scale = f16_row_scale(top);
        inverse = 1.0f / scale;
    }
    float v[ACT_PART / ACT_BLOCK]; /* all are read before one is written: no compiler knows that these are two places */
#pragma unroll
    for (int i = 0; i < ACT_PART / ACT_BLOCK; i++) {
        int k = block_x() * ACT_PART + i * ACT_BLOCK + thread_x();
        v[i] = k < j.n ? from[k] * inverse : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < ACT_PART / ACT_BLOCK; i++) {
        int k = block_x() * ACT_PART + i * ACT_BLOCK + thread_x();
        if (k < j.np)
            row[k] = j.form == ACT_F16 ? f32_to_f16(v[i]) : f32_to_bf16(v[i]);
    }
    if (block_x() == 0 && thread_x() < 4)
        ((float *)(row + j.np))[thread_x()] = scale;
}

enum k_status mul_activations(struct k_ctx *c, const struct mul_job *j, uint8_t *to, const float *x, int64_t x_stride,
                              int64_t n_rows)
{
    enum k_status st = K_OK;
    for (int64_t r = 0; st == K_OK && r < n_rows; r += 32768) { /* a grid has at most 65535 rows */
        int64_t rows = n_rows - r < 32768 ? n_rows - r : 32768;
        uint8_t *at = to + r * j->x_bytes;
        const float *from = x + r * x_stride;
        if (j->form == ACT_Q8)
            st = launch_early(c->stream, c->early, act_to_q8, grid_of((j->np / SLICE + 3) / 4, rows), ACT_BLOCK, 0, *j,
                              at, from, x_stride);
        else
            st = launch_early(c->stream, c->early, act_to_16, grid_of((j->np + ACT_PART - 1) / ACT_PART, rows),
                              ACT_BLOCK, 0, *j, at, from, x_stride);
    }
    return st;
}
