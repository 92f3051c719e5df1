/* The backend's state on one device: life, names, errors, scratch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/memory.h"

int k_cuda_device_count(void)
{
    return device_count();
}

bool k_cuda_device_usable(int device, char *text, size_t size)
{
    struct device_facts f;
    char ignored[1];
    if (!text)
        text = ignored, size = 1;
    const int n = device_count();
    if (n == 0) {
        device_none_text(text, size);
        return false;
    }
    if (device < 0 || device >= n) {
        snprintf(text, size, "there is no device %d: the driver shows %d", device, n);
        return false;
    }
    if (device_facts_of(device, &f) != K_OK) {
        snprintf(text, size, "device %d does not answer: %s", device, last_error_text());
        return false;
    }
    snprintf(text, size, "%s (device %d, compute capability %d.%d%s)", f.name, device, f.major, f.minor,
             f.major < 8 ? "; 8.0 is needed" : "");
    return f.major >= 8;
}

enum k_status cuda_note(struct k_ctx *c, enum k_status s)
{
    if (s == K_DEVICE || s == K_NO_MEMORY) {
        pthread_mutex_lock(&c->error_lock);
        snprintf(c->error, sizeof c->error, "%s", last_error_text());
        pthread_mutex_unlock(&c->error_lock);
    }
    return s;
}

struct k_ctx *cuda_ctx_new(int threads, int device)
{
    (void)threads;
    if (!k_cuda_device_usable(device, NULL, 0))
        return NULL;
    struct k_ctx *c = (struct k_ctx *)calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->device = device;
    pthread_mutex_init(&c->error_lock, NULL);
    pthread_mutex_init(&c->lanes_lock, NULL);
    if (device_use(device) != K_OK || device_facts_of(device, &c->facts) != K_OK || stream_new(&c->stream) != K_OK ||
        stream_new(&c->beside) != K_OK || event_new(&c->beside_from) != K_OK || event_new(&c->beside_to) != K_OK ||
        host_pinned_alloc((void **)&c->staging, CUDA_STAGING) != K_OK) {
        cuda_ctx_free(c);
        return NULL;
    }
    c->early = cuda_early_works(c);
    c->wgmma = hopper_works(c);
    snprintf(c->numerics, sizeof c->numerics, "cuda-1 sm_%d%d %s", c->facts.major, c->facts.minor,
             CUDA_MATMUL_NUMERICS);
    snprintf(c->text, sizeof c->text, "%s (device %d)", c->facts.name, device);
    return c;
}

void cuda_ctx_free(struct k_ctx *c)
{
    if (!c)
        return;
    (void)device_use(c->device);
    if (c->stream)
        (void)stream_sync(c->stream);
    if (c->beside)
        (void)stream_sync(c->beside);
    cuda_graphs_free(c);
    cuda_library_free(c);
    for (int i = 0; i < CUDA_SCRATCH_COUNT; i++)
        dev_free(c->scratch[i].data);
    host_pinned_free(c->staging);
    if (c->beside_from)
        event_free(c->beside_from);
    if (c->beside_to)
        event_free(c->beside_to);
    if (c->beside)
        stream_free(c->beside);
    cuda_upload_free(c);
    cuda_plans_free(c);
    cuda_choices_free(c);
    if (c->stream)
        stream_free(c->stream);
    pthread_mutex_destroy(&c->lanes_lock);
    pthread_mutex_destroy(&c->error_lock);
    free(c);
}

const char *cuda_numerics(const struct k_ctx *c)
{
    return c->numerics;
}

const char *cuda_device_text(const struct k_ctx *c)
{
    return c->text;
}

const char *cuda_error_text(const struct k_ctx *c)
{
    return c->error;
}

/* Half as much again as asked for, so that a longer and longer context does not move it every time; memory is short
 * rather than that: then what was asked for. */
void *cuda_scratch(struct k_ctx *c, enum cuda_scratch which, size_t bytes, enum k_status *status)
{
    *status = K_OK;
    if (c->scratch[which].bytes >= bytes && c->scratch[which].data)
        return c->scratch[which].data;
    void *grown = NULL;
    size_t generous = bytes + bytes / 2;
    if (c->recording)
        *status = K_DEVICE;
    else if (dev_alloc(&grown, generous) != K_OK) {
        generous = bytes;
        *status = cuda_note(c, dev_alloc(&grown, generous));
    }
    if (*status == K_OK)
        *status = cuda_note(c, stream_sync(c->stream)); /* what still uses the old one */
    if (*status != K_OK) {
        dev_free(grown);
        return NULL;
    }
    dev_free(c->scratch[which].data);
    c->scratch[which].data = grown;
    c->scratch[which].bytes = generous;
    c->generation++;
    return grown;
}

uint32_t *cuda_arrived(struct k_ctx *c, enum k_status *status)
{
    const void *before = c->scratch[CUDA_SCRATCH_ARRIVED].data;
    void *at = cuda_scratch(c, CUDA_SCRATCH_ARRIVED, CUDA_ARRIVED * sizeof(uint32_t), status);
    if (at && !before)
        *status = cuda_note(c, dev_set(c->stream, at, 0, CUDA_ARRIVED * sizeof(uint32_t)));
    return *status == K_OK ? (uint32_t *)at : NULL;
}
