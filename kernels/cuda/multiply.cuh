/* One slice of quantised weights, expanded in shared memory, times activations in 8 bits, by one warp: 16 rows (A) and
 * 8 columns (B) of the tensor core's product. The one place where the order of a slice's sum is written. */
#ifndef KERNELS_CUDA_MULTIPLY_CUH
#define KERNELS_CUDA_MULTIPLY_CUH

#include "kernels/cuda/matmul.cuh"

#define Q_STRIDE   (SLICE + 16) /* bytes from one expanded row to the next: ldmatrix is free of bank conflicts */
#define GROUPS_MAX (SLICE / 16)

/* Shared memory for `rows` expanded rows: q[rows][Q_STRIDE], d[GROUPS_MAX][rows], m likewise. */
#define EXPANDED_BYTES(rows) ((rows) * (Q_STRIDE + 2 * GROUPS_MAX * 4))

struct expanded_tile {
    int8_t *q;
    float *d, *m;
    int rows;
};

KDEV struct expanded_tile expanded_tile_at(uint8_t *at, int rows)
{
    struct expanded_tile t = {(int8_t *)at, (float *)(at + rows * Q_STRIDE), NULL, rows};
    t.m = t.d + GROUPS_MAX * rows;
    return t;
}

/* Half h of one row, whose slice begins at `blocks` and has n elements. */
KDEV void expand_row(const struct mul_job *j, const struct expanded_tile *t, int row, const uint8_t *blocks, int h,
                     int n)
{
    if (128 * h >= n)
        return;
    int group0 = h * (128 / j->group) * t->rows;
    struct expanded e = {t->q + row * Q_STRIDE + 128 * h, t->d + group0 + row, t->m + group0 + row, t->rows};
    blocks_expand(j->type, blocks, h, n, &e);
}

/* Group g of 32 (two of 16) into the sums of 16 rows from `row` on and 8 columns; a, b: fragments of the 32 elements;
 * sc: dx is set; s0, s1: the two columns' s. */
template <int GROUP>
KDEV void multiply_group(const struct mul_job *j, const struct expanded_tile *t, int row, int g, const uint32_t a[4],
                         const uint32_t b[2], struct group_scales *sc, const float *s0, const float *s1, float acc[4])
{
    for (int part = 0; part < 32 / GROUP; part++) {
        int sum[4], gg = g * (32 / GROUP) + part, at = gg * t->rows + row + lane() / 4;
        /* Of the two groups of 16 in a product of 32 the other one's weights are taken as zeros. */
        uint32_t mine[4] = {part == 0 ? a[0] : 0, part == 0 ? a[1] : 0, GROUP == 32 || part == 1 ? a[2] : 0,
                            GROUP == 32 || part == 1 ? a[3] : 0};
        sums_begin(sum);
        mma_s8_m16n8k32(sum, mine, b);
        sc->d[0] = t->d[at];
        sc->d[1] = t->d[at + 8];
        if (j->has_min) {
            sc->m[0] = t->m[at];
            sc->m[1] = t->m[at + 8];
            sc->sx[0] = s0[gg];
            sc->sx[1] = s1[gg];
        }
        fold_group(acc, sum, sc, j->has_min);
    }
}

#endif
