#include "engine/model/prefault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/thread.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; older kernels say EINVAL */
#endif
#define PIECE_BYTES ((size_t)2 << 20)

struct prefault {
    pthread_t thread;
    _Atomic bool stop;
    uint32_t n;
    struct prefault_span spans[];
};

static void *run(void *arg)
{
    struct prefault *p = arg;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct prefault_span *s = &p->spans[i];
        for (size_t at = 0; at < s->bytes; at += PIECE_BYTES) {
            size_t n = s->bytes - at < PIECE_BYTES ? s->bytes - at : PIECE_BYTES;
            if (atomic_load_explicit(&p->stop, memory_order_relaxed) ||
                madvise((void *)(uintptr_t)(s->data + at), n, MADV_POPULATE_READ) != 0)
                return NULL;
        }
    }
    return NULL;
}

/* Most of the memory that there is, so that something is left for those who compute. */
static bool fits(size_t bytes)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 && bytes / (size_t)page < (size_t)pages / 4 * 3;
}

struct prefault *prefault_start(const struct prefault_span *spans, uint32_t n)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += spans[i].bytes;
    if (bytes < PREFAULT_BYTES_MIN || !fits(bytes))
        return NULL;
    struct prefault *p = spw_calloc(1, sizeof *p + n * sizeof *spans);
    p->n = n;
    memcpy(p->spans, spans, n * sizeof *spans);
    if (thread_start(&p->thread, "prefault", run, p) != 0) {
        free(p);
        return NULL;
    }
    return p;
}

void prefault_stop(struct prefault *p)
{
    if (!p)
        return;
    atomic_store_explicit(&p->stop, true, memory_order_relaxed);
    pthread_join(p->thread, NULL);
    free(p);
}
