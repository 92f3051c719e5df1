/* A slice of activations in 8 bits, by one warp: into global memory for many rows of weights, or for the few tokens of
 * a decode step into the shared memory of each block that wants it. */
#ifndef KERNELS_CUDA_ACTIVATIONS_CUH
#define KERNELS_CUDA_ACTIVATIONS_CUH

#include "kernels/cuda/matmul.cuh"

/* Elements slice * SLICE + 8 lane and up of the row x, of j->n elements: eight, zeros after these. */
KDEV void act_load(const struct mul_job *j, const float *x, int slice, float v[8])
{
    int k = slice * SLICE + 8 * lane();
    if (((uintptr_t)x & 15) == 0 && k + 8 <= j->n) {
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            const struct u32x4 four = load16(x + k + i);
            v[i] = bits_to_f32(four.x), v[i + 1] = bits_to_f32(four.y);
            v[i + 2] = bits_to_f32(four.z), v[i + 3] = bits_to_f32(four.w);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = k + i < j->n ? x[k + i] : 0.0f;
}

/* A slice's values, as act_load() brings them -> q[SLICE] (8-byte aligned), d[SLICE / 32], s[SLICE / group]. The CPU
 * backend's rounding: d = max |x| / 127, q = round(x * (127 / max)), to nearest even; a group that is not finite has d
 * = NaN and q = 0, one below 2^-100 is zero. Lane l has eight elements, four lanes a group of 32. */
KDEV void act_quantise(const struct mul_job *j, const float v[8], int8_t *q, float *d, float *s)
{
    float top = 0.0f;
    uint32_t finite = 1, packed[2] = {0, 0};
    int sum = 0;
    for (int i = 0; i < 8; i++) {
        float size = bits_to_f32(f32_to_bits(v[i]) & 0x7fffffffu);
        finite &= size <= 3.402823466e38f;
        top = size > top ? size : top;
    }
    for (int m = 1; m <= 2; m *= 2) {
        float o = shfl_xor(top, m);
        top = o > top ? o : top;
        finite &= (uint32_t)shfl_xor((int)finite, m);
    }
    bool zero = !finite || top < 0x1p-100f;
    float inverse = zero ? 0.0f : 127.0f / top, scale = !finite ? bits_to_f32(0x7fc00000u) : zero ? 0.0f : top / 127.0f;
    for (int i = 0; i < 8; i++) {
        /* Rounded by the addition: the sum's last bit is 1. */
        int r = zero ? 0 : (int)(f32_to_bits(v[i] * inverse + SUM_FLOAT) - SUM_BITS);
        packed[i / 4] |= (uint32_t)(r & 255) << (8 * (i & 3));
        sum += r;
    }
    ((uint32_t *)(q + 8 * lane()))[0] = packed[0];
    ((uint32_t *)(q + 8 * lane()))[1] = packed[1];
    sum += shfl_xor(sum, 1);
    int both = sum + shfl_xor(sum, 2);
    if ((lane() & 3) == 0)
        d[lane() / 4] = scale;
    if (j->group == 16 && (lane() & 1) == 0)
        s[lane() / 2] = -scale * (float)sum;
    if (j->group == 32 && (lane() & 3) == 0)
        s[lane() / 4] = -scale * (float)both;
}

#endif
