/* What the tests of the CUDA backend's table share: its state on one device, and memory there, of which every byte is
 * 0xff before it is written. */
#ifndef TESTS_UNIT_CUDA_HELP_H
#define TESTS_UNIT_CUDA_HELP_H

#include "kernels/cuda/cuda.h"
#include "tests/unit/kernels_help.h"
#include "tests/unit/test.h"

static const struct k_ops *const ops = &k_cuda_ops;
static struct k_ctx *c;

static inline void *device_new(size_t bytes) /* every byte 0xff */
{
    void *p = NULL;
    CHECK_INT(ops->buf_new(c, &p, bytes, K_BUF_WORK), K_OK);
    uint8_t *poison = malloc(bytes + 1);
    memset(poison, 0xff, bytes);
    CHECK_INT(ops->put(c, p, poison, bytes), K_OK);
    free(poison);
    return p;
}

static inline void *device_copy(const void *host, size_t bytes)
{
    void *p = device_new(bytes);
    CHECK_INT(ops->put(c, p, host, bytes), K_OK);
    return p;
}

static inline void device_free(void *p)
{
    ops->buf_free(c, p, 0, K_BUF_WORK);
}

static inline void fetch(void *host, const void *p, size_t bytes)
{
    CHECK_INT(ops->get(c, host, p, bytes), K_OK);
}

#endif
