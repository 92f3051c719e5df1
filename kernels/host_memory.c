/* What the host backends do where others have memory of their own: pages from the system, plain copies, steps that need
 * no preparation. */
#include <string.h>
#include <sys/mman.h>

#include "kernels/internal.h"

enum k_status k_host_buf_new(struct k_ctx *c, void **p, size_t bytes, enum k_buf where)
{
    (void)c, (void)where;
    *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*p != MAP_FAILED)
        return K_OK;
    *p = NULL;
    return K_NO_MEMORY;
}

void k_host_buf_free(struct k_ctx *c, void *p, size_t bytes, enum k_buf where)
{
    (void)c, (void)where;
    if (p)
        munmap(p, bytes);
}

enum k_status k_host_put(struct k_ctx *c, void *to, const void *from, size_t bytes)
{
    (void)c;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return K_OK;
}

enum k_status k_host_copy_rows(struct k_ctx *c, float *y, int64_t y_stride, const float *x, int64_t x_stride,
                               int64_t rows, int32_t n)
{
    (void)c;
    enum k_status status = k_check_copy(y, y_stride, x, x_stride, rows, n);
    for (int64_t i = 0; status == K_OK && i < rows; i++)
        memcpy(y + i * y_stride, x + i * x_stride, (size_t)n * sizeof *y);
    return status;
}

enum k_status k_host_step_begin(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok, uint64_t shape,
                                enum k_step *how)
{
    (void)c, (void)tok, (void)n_tok, (void)shape;
    *how = K_STEP_RUN;
    return K_OK;
}

enum k_status k_host_step_end(struct k_ctx *c, enum k_status so_far)
{
    (void)c;
    return so_far;
}
