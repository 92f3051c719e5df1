/* In place of the CUDA backend in a build without one: the same names, no device. */
#include <stdio.h>

#include "kernels/cuda/cuda.h"

int k_cuda_device_count(void)
{
    return 0;
}

bool k_cuda_device_usable(int device, char *text, size_t size)
{
    (void)device;
    if (text)
        snprintf(text, size, "this build has no CUDA backend (configure with -DSPILLWAY_CUDA=ON)");
    return false;
}

static struct k_ctx *absent_ctx_new(int threads, int device)
{
    (void)threads, (void)device;
    return NULL;
}

const struct k_ops k_cuda_ops = {.name = "cuda", .ctx_new = absent_ctx_new};
