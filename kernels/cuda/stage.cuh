/* Weights on their way into shared memory, as they lie in global memory, by cp.async in pieces of 16 bytes; and 16-bit
 * numbers in an order that keeps ldmatrix free of bank conflicts. */
#ifndef KERNELS_CUDA_STAGE_CUH
#define KERNELS_CUDA_STAGE_CUH

#include "kernels/cuda/matmul.cuh"

/* ---- quantised rows ---- */

/* Where the slice's first block is in the row's slot. */
KDEV const uint8_t *raw_in_slot(const struct mul_job *j, const uint8_t *slot, const uint8_t *row, int slice)
{
    return slot + ((uintptr_t)(row + (int64_t)slice * j->slice_bytes) & 15);
}

/* Begin to copy one row's part of a slice: pieces part, part + parts, .. of 16 bytes by this thread. Pieces begin and
 * end outside of the part, where the neighbours' bytes are; only past the tensor's end, `stop`, is nothing read. */
KDEV void raw_stage(const struct mul_job *j, uint8_t *slot, const uint8_t *row, const uint8_t *stop, int slice,
                    int part, int parts)
{
    int64_t at = (int64_t)slice * j->slice_bytes;
    int64_t left = j->row_bytes - at, bytes = left < j->slice_bytes ? left : j->slice_bytes;
    const uint8_t *from = row + at - ((uintptr_t)(row + at) & 15), *end = row + at + bytes;
    for (int i = 16 * part; from + i < end; i += 16 * parts) {
        if (from + i + 16 <= stop)
            cp_async16(slot + i, from + i, true);
        else
            for (int b = i; b < i + 16 && from + b < stop; b += 2)
                *(uint16_t *)(slot + b) = *(const uint16_t *)(from + b);
    }
}

/* 16-bit numbers in a tile of rows of 2^log2 pieces (of 16 bytes, eight numbers) each: piece p of row r. Eight rows'
 * equal pieces lie in eight different groups of banks. */
KDEV uint8_t *piece_16(uint8_t *tile, int log2, int row, int piece)
{
    return tile + (((row << log2) + (piece ^ (row & 7))) << 4);
}

/* Begin to copy eight numbers, of which the first `left` are there: all others are zeros. `aligned`: `from` is a
 * multiple of 16 bytes, and `left` no number between 0 and 8. */
KDEV void piece_16_stage(uint8_t *to, const uint8_t *from, int left, bool aligned)
{
    if (aligned) {
        cp_async16(to, from, left > 0);
        return;
    }
    for (int i = 0; i < 8; i++)
        ((uint16_t *)to)[i] = i < left ? ((const uint16_t *)from)[i] : (uint16_t)0;
}

/* The addresses that lane l gives ldmatrix_x4 for 16 rows x 32 bytes, piece the first of two: of A (rows 0-7 and 8-15
 * of the first piece, then of the second) and of two B tiles of 8 columns (both pieces of rows 0-7, then of 8-15). */
KDEV int lane_row_a(void)
{
    return lane() & 15;
}
KDEV int lane_piece_a(void)
{
    return lane() >> 4;
}
KDEV int lane_row_b(void)
{
    return (lane() & 7) + (lane() >> 4 << 3);
}
KDEV int lane_piece_b(void)
{
    return lane() >> 3 & 1;
}

/* d += a . b in 16-bit floats of either kind; the same for all threads. */
KDEV void mma_16(enum act_form form, float d[4], const uint32_t a[4], const uint32_t b[2])
{
    if (form == ACT_BF16)
        mma_bf16_m16n8k16(d, a, b);
    else
        mma_f16_m16n8k16(d, a, b);
}

#endif
