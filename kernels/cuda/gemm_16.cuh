/* What gemm_16.cu and hopper/gemm.cu share: how a block's tile of F16 or BF16 weights and activations comes to shared
 * memory by cp.async, in pieces of 64 elements of k, a ring of STAGES of them. */
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

/* Which rows of the weights a thread copies 16 bytes of, of each piece: every (THREADS / 8)-th from w[0] on, in the
 * block's second half from w[1] on, which are w_up's in a gated product; while rows[] of them are left. */
struct gemm_16_part {
    const uint8_t *w[2];
    int rows[2];
};
template <int THREADS, int BM> struct gemm_16_passes {
    static const int EVERY = THREADS / 8, ALL = BM / EVERY, FIRST = (ALL + 1) / 2; /* of the first half */
};
template <int THREADS, int BM> KDEV struct gemm_16_part gemm_16_part_of(const struct mul_job *j, int matrix, int row0)
{
    const int NEXT = gemm_16_passes<THREADS, BM>::FIRST * gemm_16_passes<THREADS, BM>::EVERY;
    int r = thread_x() / 8, left = j->m - row0 - r;
    const uint8_t *w = weight_row(j, matrix, row0 + r) + 16 * (thread_x() & 7);
    struct gemm_16_part part = {{w, j->w_up ? j->w_up + (w - j->w) : w + NEXT * j->row_bytes},
                                {left, j->w_up ? left : left - NEXT}};
    return part;
}

/* Begin to copy piece `at` of k to the ring's slot, zeros for rows past the last; a commit in any case. aligned: rows
 * of the weights begin on multiples of 16 bytes. */
template <int THREADS, int BM, int BN, int STAGES>
KDEV void stage_piece(const struct mul_job *j, struct gemm_16_shared<BM, BN, STAGES> *s, struct gemm_16_part part,
                      int at, int slot, bool aligned)
{
    typedef struct gemm_16_passes<THREADS, BM> passes;
    const int EVERY = passes::EVERY, STEP = EVERY * 2 * PIECE_K;
    int r = thread_x() / 8, p = thread_x() & 7, k = at * PIECE_K + 8 * p;
    if (k < j->np) {
        const int64_t off = 2 * PIECE_K * (int64_t)at;
        const uint8_t *from = part.w[0] + off;
        uint8_t *w = piece_16(s->w[slot], PIECES_LOG2, r, p), *x = piece_16(s->x[slot], PIECES_LOG2, r, p);
#pragma unroll
        for (int i = 0; i < passes::ALL; i++, from += EVERY * j->row_bytes) {
            const int half = i >= passes::FIRST, row = EVERY * (i - half * passes::FIRST);
            if (i == passes::FIRST)
                from = part.w[1] + off;
            piece_16_stage(w + i * STEP, from, row < part.rows[half] ? j->n - k : 0, aligned);
        }
#pragma unroll
        for (int i = 0; i < BN / EVERY; i++)
            cp_async16(x + i * STEP, column_x(j, &s->columns[r + EVERY * i]) + 2 * k, true);
    }
    cp_async_commit();
}

#endif
