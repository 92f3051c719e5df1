/* Weights to the device: many copies as one job. Reading a mapped file costs a thread more (page faults, one copy) than
 * the bus; so several threads each fill one of their two pinned buffers while the other is on its way.
 *
 * Bound: the bus (a PCIe 5.0 x16 link moves about 55 GB/s from pinned memory) or, before the file is in memory, the
 * disk. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/internal.h"
#include "kernels/cuda/memory.h"

#define THREADS_MAX 8

struct upload {
    struct k_ctx *c;
    const struct k_copy *copies;
    size_t n;
    const uint64_t *first_chunk; /* [n + 1] of each copy */
    uint64_t next;               /* chunk that no thread has taken; atomic */
    int status;                  /* enum k_status; the last failure; atomic */
};

struct lane_buffer {
    uint8_t *data;
    event_t sent;
    bool in_flight;
};

/* What a thread copies with. Kept from one job to the next: weights come as a job per layer, and pinning memory anew
 * for each would take longer than the copies. */
struct upload_lane {
    stream_t stream;
    struct lane_buffer buffers[2];
};

struct lane_job {
    struct upload *upload;
    struct upload_lane *lane;
};

/* The copy that has this chunk. */
static size_t find_copy(const struct upload *u, uint64_t chunk)
{
    size_t lo = 0, hi = u->n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (u->first_chunk[mid] <= chunk)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static enum k_status send_chunk(const struct upload *u, stream_t st, struct lane_buffer *b, uint64_t chunk)
{
    const struct k_copy *copy = &u->copies[find_copy(u, chunk)];
    size_t at = (size_t)(chunk - u->first_chunk[copy - u->copies]) * CUDA_CHUNK;
    size_t n = copy->bytes - at < CUDA_CHUNK ? copy->bytes - at : CUDA_CHUNK;
    enum k_status s = b->in_flight ? event_sync(b->sent) : K_OK;
    if (s != K_OK)
        return s;
    memcpy(b->data, (const uint8_t *)copy->from + at, n);
    s = copy_in(st, (uint8_t *)copy->to + at, b->data, n);
    if (s == K_OK)
        s = event_record(b->sent, st);
    b->in_flight = s == K_OK;
    return s;
}

static enum k_status send_chunks(struct upload *u, stream_t st, struct lane_buffer b[2])
{
    enum k_status s = K_OK;
    for (int i = 0; s == K_OK && __atomic_load_n(&u->status, __ATOMIC_RELAXED) == K_OK; i ^= 1) {
        uint64_t chunk = __atomic_fetch_add(&u->next, 1, __ATOMIC_RELAXED);
        if (chunk >= u->first_chunk[u->n])
            break;
        s = send_chunk(u, st, &b[i], chunk);
    }
    enum k_status end = stream_sync(st);
    return s == K_OK ? end : s;
}

/* What the lane does not have yet. */
static enum k_status lane_ready(struct upload_lane *lane)
{
    enum k_status s = lane->stream ? K_OK : stream_new(&lane->stream);
    for (int i = 0; i < 2 && s == K_OK; i++) {
        struct lane_buffer *b = &lane->buffers[i];
        b->in_flight = false;
        if (!b->data)
            s = host_pinned_alloc((void **)&b->data, CUDA_CHUNK);
        if (s == K_OK && !b->sent)
            s = event_new(&b->sent);
    }
    return s;
}

static void *upload_thread(void *arg)
{
    const struct lane_job *job = (const struct lane_job *)arg;
    struct upload *u = job->upload;
    enum k_status s = device_use(u->c->device);
    if (s == K_OK)
        s = lane_ready(job->lane);
    if (s == K_OK)
        s = send_chunks(u, job->lane->stream, job->lane->buffers);
    if (cuda_note(u->c, s) != K_OK) /* here: the driver's words are this thread's */
        __atomic_store_n(&u->status, (int)s, __ATOMIC_RELAXED);
    return NULL;
}

void cuda_upload_free(struct k_ctx *c)
{
    for (int i = 0; c->lanes && i < THREADS_MAX; i++) {
        struct upload_lane *lane = &c->lanes[i];
        for (int k = 0; k < 2; k++) {
            if (lane->buffers[k].sent)
                event_free(lane->buffers[k].sent);
            host_pinned_free(lane->buffers[k].data);
        }
        if (lane->stream)
            stream_free(lane->stream);
    }
    free(c->lanes);
    c->lanes = NULL;
}

/* As many threads as there are processors, chunks and sense. */
static int count_threads(uint64_t chunks)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (n > THREADS_MAX)
        n = THREADS_MAX;
    if ((uint64_t)n > chunks)
        n = (long)chunks;
    return n < 1 ? 1 : (int)n;
}

/* The chunks of all copies by `wanted` threads, or by this one where there are none to be had. */
static void run_lanes(struct upload *u, int wanted)
{
    pthread_t threads[THREADS_MAX];
    struct lane_job jobs[THREADS_MAX];
    int started = 0;
    for (; started < wanted; started++) {
        jobs[started] = {u, &u->c->lanes[started]};
        if (pthread_create(&threads[started], NULL, upload_thread, &jobs[started]) != 0)
            break;
    }
    if (started == 0)
        upload_thread(&jobs[0]);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

enum k_status cuda_put_many(struct k_ctx *c, const struct k_copy *copies, size_t n)
{
    uint64_t *first = (uint64_t *)calloc(n + 1, sizeof *first);
    if (!first)
        return K_NO_MEMORY;
    for (size_t i = 0; i < n; i++)
        first[i + 1] = first[i] + (copies[i].bytes + CUDA_CHUNK - 1) / CUDA_CHUNK;
    struct upload u = {c, copies, n, first, 0, K_OK};
    pthread_mutex_lock(&c->lanes_lock);
    if (!c->lanes)
        c->lanes = (struct upload_lane *)calloc(THREADS_MAX, sizeof *c->lanes);
    if (!c->lanes)
        u.status = K_NO_MEMORY;
    else if (first[n] > 0)
        run_lanes(&u, count_threads(first[n]));
    pthread_mutex_unlock(&c->lanes_lock);
    free(first);
    return (enum k_status)u.status;
}
