/* Device memory, and single copies to and from it in stream order. */
#include <string.h>

#include "kernels/cuda/internal.h"
#include "kernels/cuda/memory.h"

enum k_status cuda_buf_new(struct k_ctx *c, void **p, size_t bytes, enum k_buf where)
{
    enum k_status s = device_use(c->device);
    *p = NULL;
    if (s == K_OK)
        s = where == K_BUF_HOST ? host_pinned_alloc(p, bytes) : dev_alloc(p, bytes);
    return cuda_note(c, s);
}

void cuda_buf_free(struct k_ctx *c, void *p, size_t bytes, enum k_buf where)
{
    (void)bytes;
    if (!p)
        return;
    (void)stream_sync(c->stream); /* of a device that is lost nothing can be freed, and nothing needs to */
    if (where == K_BUF_HOST)
        host_pinned_free(p);
    else
        dev_free(p);
}

static enum k_status wait_for_all(struct k_ctx *c)
{
    enum k_status s = cuda_note(c, stream_sync(c->stream));
    if (s == K_OK)
        c->staged = 0;
    return s;
}

/* By way of pinned memory that is not used twice before a wait. */
enum k_status cuda_put(struct k_ctx *c, void *to, const void *from, size_t bytes)
{
    enum k_status s = device_use(c->device);
    for (size_t done = 0; s == K_OK && done < bytes;) {
        size_t room = CUDA_STAGING - c->staged, n = bytes - done < room ? bytes - done : room;
        if (room == 0) {
            s = wait_for_all(c);
            continue;
        }
        memcpy(c->staging + c->staged, (const uint8_t *)from + done, n);
        s = copy_in(c->stream, (uint8_t *)to + done, c->staging + c->staged, n);
        c->staged += (n + 255) / 256 * 256;
        done += n;
    }
    return cuda_note(c, s);
}

enum k_status cuda_get(struct k_ctx *c, void *to, const void *from, size_t bytes)
{
    enum k_status s = device_use(c->device);
    if (s == K_OK && bytes > 0)
        s = copy_out(c->stream, to, from, bytes);
    return s == K_OK ? wait_for_all(c) : cuda_note(c, s);
}

enum k_status cuda_send(struct k_ctx *c, void *to, const void *from, size_t bytes)
{
    enum k_status s = device_use(c->device);
    return cuda_note(c, s == K_OK && bytes > 0 ? copy_in(c->stream, to, from, bytes) : s);
}

enum k_status cuda_fetch(struct k_ctx *c, void *to, const void *from, size_t bytes)
{
    enum k_status s = device_use(c->device);
    return cuda_note(c, s == K_OK && bytes > 0 ? copy_out(c->stream, to, from, bytes) : s);
}

enum k_status cuda_memory(struct k_ctx *c, size_t *free_bytes, size_t *total_bytes)
{
    enum k_status s = device_use(c->device);
    return cuda_note(c, s == K_OK ? device_mem(free_bytes, total_bytes) : s);
}
