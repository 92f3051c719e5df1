/* One row of weights with a tile of pairs, in float32 throughout, by a block: precise.cu, and route.cu in passing. */
#ifndef KERNELS_CUDA_PRECISE_CUH
#define KERNELS_CUDA_PRECISE_CUH

#include "kernels/cuda/matmul.cuh"

#define PRECISE_WARPS 4
#define PRECISE_BLOCK (PRECISE_WARPS * WARP)

/* Four weights from element k on, zeros past the row's end. */
KDEV void weights_4(const struct mul_job *j, const uint8_t *w, int k, bool aligned, float v[4])
{
    if (aligned) {
        struct u32x4 all = load16(w + 4 * (int64_t)k);
        v[0] = bits_to_f32(all.x), v[1] = bits_to_f32(all.y), v[2] = bits_to_f32(all.z), v[3] = bits_to_f32(all.w);
        return;
    }
    for (int i = 0; i < 4; i++)
        v[i] = k + i < j->n ? weight_at(j->type, w, k + i) : 0.0f;
}

/* PRECISE_BLOCK threads, 128 bytes of shared memory. Thread t adds products 4 t .. 4 t + 3, 512 + 4 t .. in order, then
 * the lanes are added by warp_sum(), then the warps in order. */
KDEV void precise_row(const struct mul_job *j, const struct mul_tile *tile, int row)
{
    SHARED(float, part, PRECISE_WARPS *PRECISE_PAIRS);
    const uint8_t *w = weight_row(j, tile->matrix, row);
    bool aligned = j->type == K_F32 && j->n % 4 == 0 && (uintptr_t)w % 16 == 0;
    const float *x[PRECISE_PAIRS];
    float sum[PRECISE_PAIRS];
#pragma unroll
    for (int i = 0; i < PRECISE_PAIRS; i++) {
        x[i] = (const float *)(j->x + x_row_of(j, tile, i < tile->count ? i : 0) * j->x_bytes);
        sum[i] = 0.0f;
    }
    for (int k = 4 * thread_x(); k < j->n; k += 4 * PRECISE_BLOCK) {
        float v[4];
        weights_4(j, w, k, aligned, v);
#pragma unroll
        for (int i = 0; i < PRECISE_PAIRS; i++)
            for (int e = 0; e < 4 && i < tile->count; e++)
                if (k + e < j->n)
                    sum[i] = fma_rn(v[e], x[i][k + e], sum[i]);
    }
#pragma unroll
    for (int i = 0; i < PRECISE_PAIRS; i++) {
        float total = warp_sum(sum[i]);
        if (lane() == 0)
            part[i * PRECISE_WARPS + warp_of_block()] = total;
    }
    sync_block();
    if (thread_x() < tile->count) {
        float total = 0.0f;
        for (int i = 0; i < PRECISE_WARPS; i++)
            total += part[thread_x() * PRECISE_WARPS + i];
        put_out(j, y_row_of(j, tile, thread_x()), total, row);
    }
}

#endif
