/* Whether kernels may begin before what is before them has run (portable.cuh, launch_early()): on devices of compute
 * capability 9.0, and there only if two such launches, captured in a graph, do what they should. A driver that refuses
 * them, or does them wrong, costs speed and no result. */
#include "kernels/cuda/internal.h"

#define PROBES 32

/* y[i] += 1 by launches that may overlap. Grid 1, 32 threads. */
KERNEL(early_probe)(int32_t *y)
{
    let_next_begin();
    wait_for_before();
    y[thread_x()]++;
}

static enum k_status capture_probes(stream_t st, int32_t *y, graph_t *graph)
{
    enum k_status s = graph_capture_begin(st);
    if (s != K_OK)
        return s;
    for (int i = 0; i < PROBES && s == K_OK; i++)
        s = launch_early(st, true, early_probe, grid_of(1), WARP, 0, y);
    const enum k_status end = graph_capture_end(st, graph);
    if (s != K_OK && end == K_OK)
        graph_free(*graph);
    return s != K_OK ? s : end;
}

static enum k_status run_probes(struct k_ctx *c, int32_t *y, int32_t counts[WARP])
{
    graph_t graph;
    /* Once without: what a capture holds should have been loaded before. */
    enum k_status s = launch_early(c->stream, true, early_probe, grid_of(1), WARP, 0, y);
    if (s == K_OK)
        s = capture_probes(c->stream, y, &graph);
    if (s != K_OK)
        return s;
    s = dev_set(c->stream, y, 0, WARP * sizeof *y);
    for (int i = 0; i < 2 && s == K_OK; i++)
        s = graph_launch(c->stream, graph);
    if (s == K_OK)
        s = copy_out(c->stream, counts, y, WARP * sizeof *counts);
    const enum k_status end = stream_sync(c->stream);
    graph_free(graph);
    return s != K_OK ? s : end;
}

bool cuda_early_works(struct k_ctx *c)
{
    int32_t counts[WARP];
    void *y = NULL;
    bool good =
        c->facts.major >= 9 && dev_alloc(&y, sizeof counts) == K_OK && run_probes(c, (int32_t *)y, counts) == K_OK;
    for (int i = 0; good && i < WARP; i++)
        good = counts[i] == 2 * PROBES;
    dev_free(y);
    return good;
}
