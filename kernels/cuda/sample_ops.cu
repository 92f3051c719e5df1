/* Sampling as operations of the table: requests there, choices back, or into the ids of the step that follows. */
#include <string.h>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/sample.cuh"

#define THREADS 128

static void choices_free(struct cuda_choices *s)
{
    dev_free(s->device);
    host_pinned_free(s->host);
    s->device = s->host = NULL;
    s->room = 0;
}

void cuda_choices_free(struct k_ctx *c)
{
    for (int i = 0; i < K_SLOTS; i++) {
        choices_free(&c->choices[i]);
        if (c->choices[i].done)
            event_free(c->choices[i].done);
    }
}

/* Room for n; what was chosen before is gone when there has to be more. */
static enum k_status grow(struct k_ctx *c, struct cuda_choices *s, int32_t n)
{
    enum k_status st = s->done ? K_OK : event_new(&s->done);
    if (st != K_OK || s->room >= n)
        return st;
    st = stream_sync(c->stream); /* what still writes the old one */
    choices_free(s);
    const int32_t room = n < 64 ? 64 : 2 * n;
    if (st == K_OK)
        st = dev_alloc((void **)&s->device, (size_t)room * sizeof *s->device);
    if (st == K_OK)
        st = host_pinned_alloc((void **)&s->host, (size_t)room * sizeof *s->host);
    if (st != K_OK) {
        choices_free(s);
        return st;
    }
    s->room = room;
    return K_OK;
}

enum k_status cuda_sample_begin(struct k_ctx *c, int slot, const float *logits, int32_t n_vocab,
                                const struct k_sample *s, int32_t n)
{
    enum k_status st = K_OK;
    if (n < 0 || slot < 0 || slot >= K_SLOTS || (n > 0 && (!logits || !s)))
        return K_BAD_SHAPE;
    if (n == 0)
        return K_OK;
    struct cuda_choices *to = &c->choices[slot];
    const size_t bytes = (size_t)n * sizeof *s;
    st = cuda_note(c, grow(c, to, n));
    void *requests = st == K_OK ? cuda_scratch(c, CUDA_SCRATCH_SAMPLE, bytes, &st) : NULL;
    if (st == K_OK)
        st = cuda_put(c, requests, s, bytes);
    if (st == K_OK)
        st = cuda_note(c, sample_rows(c->stream, to->device, logits, n_vocab, (struct k_sample *)requests, n));
    if (st == K_OK)
        st = cuda_note(c, copy_out(c->stream, to->host, to->device, (size_t)n * sizeof *to->host));
    return st == K_OK ? cuda_note(c, event_record(to->done, c->stream)) : st;
}

enum k_status cuda_sample_end(struct k_ctx *c, int slot, struct k_sampled *out, int32_t n)
{
    if (n < 0 || slot < 0 || slot >= K_SLOTS || n > c->choices[slot].room || (n > 0 && !out))
        return K_BAD_SHAPE;
    if (n == 0)
        return K_OK;
    enum k_status st = cuda_note(c, event_sync(c->choices[slot].done));
    if (st == K_OK)
        memcpy(out, c->choices[slot].host, (size_t)n * sizeof *out);
    return st;
}

/* Grid n / 128, 128 threads. */
KERNEL(take_chosen_kernel)(int32_t *ids, const struct k_sampled *chosen, const int32_t *from, int32_t n)
{
    const int32_t i = block_x() * block_dim() + thread_x();
    if (i >= n || from[i] < 0)
        return;
    const struct k_sampled *s = &chosen[from[i]];
    ids[i] = s->state == K_SAMPLED ? s->id : 0;
}

enum k_status cuda_take_chosen(struct k_ctx *c, int32_t *ids, int slot, const int32_t *from, int32_t n)
{
    enum k_status st = K_OK;
    if (n < 0 || slot < 0 || slot >= K_SLOTS || (n > 0 && (!ids || !from)))
        return K_BAD_SHAPE;
    for (int32_t i = 0; i < n; i++)
        if (from[i] >= c->choices[slot].room)
            return K_BAD_SHAPE;
    if (n == 0)
        return K_OK;
    int32_t *there = (int32_t *)cuda_scratch(c, CUDA_SCRATCH_IDS, (size_t)n * sizeof *there, &st);
    if (st == K_OK)
        st = cuda_put(c, there, from, (size_t)n * sizeof *there);
    if (st != K_OK)
        return st;
    return cuda_note(c, launch(c->stream, take_chosen_kernel, grid_of((n + THREADS - 1) / THREADS), THREADS, 0, ids,
                               c->choices[slot].device, there, n));
}
