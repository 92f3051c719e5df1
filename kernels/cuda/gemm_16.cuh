/* What gemm_16.cu and hopper/gemm.cu share: how a block's tile of F16 or BF16 weights and activations comes to shared memory
 * by cp.async, in pieces of 64 elements of k, a ring of STAGES of them. */
#ifndef KERNELS_CUDA_GEMM_16_CUH
#define KERNELS_CUDA_GEMM_16_CUH

#include "kernels/cuda/stage.cuh"

#define PIECE_K     64 /* elements of k in a piece */
#define PIECES_LOG2 3  /* 8 pieces of 16 bytes to a row */
#define PER_SLICE   (SLICE / PIECE_K)

/* BM rows of the weights and BN pairs. Each ring is a multiple of 1 KiB. */
template <int BM, int BN, int STAGES> struct gemm_16_shared {
    uint8_t w[STAGES][BM * 2 * PIECE_K], x[STAGES][BN * 2 * PIECE_K];
    struct tile_column columns[BN];
};

/* What a thread copies of each piece: 16 bytes of every (threads of the block / 8)-th row, of the weights from `w` on while
 * `rows` of them are left. */
struct gemm_16_part {
    const uint8_t *w;
    int rows;
};
KDEV struct gemm_16_part gemm_16_part_of(const struct mul_job *j, int matrix, int row0)
{
    int r = thread_x() / 8;
    struct gemm_16_part part = {weight_row(j, matrix, row0 + r) + 16 * (thread_x() & 7), j->m - row0 - r};
    return part;
}

/* Begin to copy piece `at` of k to the ring's slot, zeros for rows past the last; a commit in any case. aligned: rows of the
 * weights begin on multiples of 16 bytes. */
template <int THREADS, int BM, int BN, int STAGES>
KDEV void stage_piece(const struct mul_job *j, struct gemm_16_shared<BM, BN, STAGES> *s, struct gemm_16_part part,
                      int at, int slot, bool aligned)
{
    const int EVERY = THREADS / 8, STEP = EVERY * 2 * PIECE_K;
    int r = thread_x() / 8, p = thread_x() & 7, k = at * PIECE_K + 8 * p;
    if (k < j->np) {
        const uint8_t *from = part.w + 2 * PIECE_K * (int64_t)at;
        uint8_t *w = piece_16(s->w[slot], PIECES_LOG2, r, p), *x = piece_16(s->x[slot], PIECES_LOG2, r, p);
#pragma unroll
        for (int i = 0; i < BM / EVERY; i++, from += EVERY * j->row_bytes)
            piece_16_stage(w + i * STEP, from, EVERY * i < part.rows ? j->n - k : 0, aligned);
#pragma unroll
        for (int i = 0; i < BN / EVERY; i++)
            cp_async16(x + i * STEP, column_x(j, &s->columns[r + EVERY * i]) + 2 * k, true);
    }
    cp_async_commit();
}

#endif
