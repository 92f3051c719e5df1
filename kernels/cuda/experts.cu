/* Which tokens go to which expert, found on the device: the products that follow take tiles of pairs that share an
 * expert's weights, and the host never sees the ids. */
#include "kernels/cuda/matmul.cuh"

#define GROUP_BLOCK 1024
#define EXPERTS_MAX 8192

/* One block; shared: 3 numbers per expert. A counting sort: pairs per expert, where each expert's pairs and tiles
 * begin, then each pair to its place. In which order an expert's pairs come is left to chance: no result depends on it.
 * 4 bytes of ids and 4 of list per pair: latency, a few microseconds. */
KERNEL_BOUNDS(group_pairs, GROUP_BLOCK, 1)
(int32_t *list, struct mul_tile *tiles, int32_t *n_tiles, const int32_t *ids, int n_pairs, int n_expert, int T)
{
    let_next_begin();
    wait_for_before();
    SHARED_DYN(int, count);
    int *begin = count + n_expert, *tile = begin + n_expert;
    for (int e = thread_x(); e < n_expert; e += GROUP_BLOCK)
        count[e] = 0;
    sync_block();
    for (int p = thread_x(); p < n_pairs; p += GROUP_BLOCK)
        if (ids[p] >= 0 && ids[p] < n_expert)
            atomic_add_int(&count[ids[p]], 1);
    sync_block();
    if (warp_of_block() == 0) {
        int pairs_before = 0, tiles_before = 0;
        for (int e0 = 0; e0 < n_expert; e0 += WARP) {
            int e = e0 + lane(), n = e < n_expert ? count[e] : 0, pairs = n, t = (n + T - 1) / T;
            int mine = t;
            for (int d = 1; d < WARP; d *= 2) { /* inclusive sums over the lanes */
                int p = shfl(pairs, (lane() - d) & (WARP - 1)), q = shfl(t, (lane() - d) & (WARP - 1));
                pairs += lane() >= d ? p : 0;
                t += lane() >= d ? q : 0;
            }
            if (e < n_expert) {
                begin[e] = pairs_before + pairs - n;
                tile[e] = tiles_before + t - mine;
            }
            pairs_before += shfl(pairs, WARP - 1);
            tiles_before += shfl(t, WARP - 1);
        }
        if (lane() == 0)
            *n_tiles = tiles_before;
    }
    sync_block();
    for (int e = thread_x(); e < n_expert; e += GROUP_BLOCK)
        for (int i = 0; i * T < count[e]; i++) {
            struct mul_tile t = {e, begin[e] + i * T, count[e] - i * T < T ? count[e] - i * T : T};
            tiles[tile[e] + i] = t;
        }
    sync_block(); /* begin[] moves from here on */
    for (int p = thread_x(); p < n_pairs; p += GROUP_BLOCK)
        if (ids[p] >= 0 && ids[p] < n_expert)
            list[atomic_add_int(&begin[ids[p]], 1)] = p;
}

enum k_status mul_sort(struct k_ctx *c, struct mul_sorted *s, const int32_t *ids, int32_t n_pairs, int64_t n_expert,
                       int tile_pairs)
{
    int64_t most = (n_pairs < n_expert ? n_pairs : n_expert) + n_pairs / tile_pairs;
    enum k_status st;
    if (n_expert > EXPERTS_MAX)
        return K_UNSUPPORTED;
    /* The number of tiles first, then tiles and list: all of 4-byte numbers. */
    int32_t *at = (int32_t *)cuda_scratch(
        c, CUDA_SCRATCH_EXPERTS, 16 + (size_t)most * sizeof(struct mul_tile) + (size_t)n_pairs * sizeof(int32_t), &st);
    if (!at)
        return st;
    struct mul_tile *tiles = (struct mul_tile *)(at + 4);
    int32_t *list = (int32_t *)(tiles + most);
    *s = {tile_pairs, list, tiles, at, most};
    return launch_early(c->stream, c->early, group_pairs, grid_of(1), GROUP_BLOCK, 3 * (size_t)n_expert * sizeof(int),
                        list, tiles, at, ids, (int)n_pairs, (int)n_expert, tile_pairs);
}
