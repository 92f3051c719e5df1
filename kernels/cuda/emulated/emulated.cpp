/* The emulated device's memory, streams and graphs. What runs a kernel is in fibers.cpp. */
#include <chrono>
#include <map>
#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/mman.h>
#include <vector>

#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/emulated/fibers.h"
#include "kernels/cuda/emulated/shadow.h"
#include "kernels/cuda/emulated/tensor.h"
#include "kernels/cuda/portable.cuh"

#define PAGE_BYTES  4096
#define ALIGN_BYTES 256 /* as cudaMalloc */
#define GUARD_BYTE  0x5a

namespace
{

/* An allocation: [start, start + bytes) inside of a mapping of its own, guard bytes up to the end of the last page. */
struct region {
    size_t bytes, mapped;
};

/* What a kernel's tiles are chosen by. Shared memory: of a block (CUDA C++ Programming Guide, "Compute
 * Capabilities"). */
struct card {
    const char *name; /* in CUDA_EMULATED_CARD */
    int major, minor, n_sm;
    size_t l2_bytes, shared_max;
};
const struct card cards[] = {
    {"small", 9, 0, 4, (size_t)1 << 20,
     227 * 1024}, /* few multiprocessors: tiles are large where a test's sizes are not */
    {"a100", 8, 0, 108, (size_t)40 << 20, 163 * 1024},
    {"l40s", 8, 9, 142, (size_t)48 << 20, 99 * 1024},
    {"h200", 9, 0, 132, (size_t)50 << 20, 227 * 1024},
};

const struct card &card_in_use()
{
    const char *wanted = getenv("CUDA_EMULATED_CARD");
    for (const struct card &c : cards)
        if (!wanted || !strcmp(wanted, c.name))
            return c;
    emulated_die("CUDA_EMULATED_CARD: there is no %s, but small, a100, l40s and h200", wanted);
}

struct device {
    const struct card card = card_in_use();
    std::recursive_mutex lock;
    std::map<uintptr_t, region> memory, pinned;
    size_t total = (size_t)4 << 30, used = 0;
    int open = 0; /* > 0: a launch or copy is under way, memory may be touched */
    bool lost = false;
    long launches = 0;
    bool late = false, no_streams = false, none = false;
};

device &dev()
{
    static device *d = new device; /* outlives everything that may still free */
    return *d;
}

void protect(int how)
{
#ifndef WITH_ASAN
    for (auto &r : dev().memory)
        mprotect((void *)r.first, r.second.mapped, how);
#else
    (void)how;
#endif
}

/* Device memory may be touched while one of these lives. */
struct opened {
    std::lock_guard<std::recursive_mutex> hold;
    opened() : hold(dev().lock)
    {
        if (dev().open++ == 0)
            protect(PROT_READ | PROT_WRITE);
    }
    ~opened()
    {
        if (--dev().open == 0)
            protect(PROT_NONE);
    }
};

/* The reverse, inside of one of them: the host at work, which has no business with the device's memory. */
struct closed {
    int open;
    closed() : open(dev().open)
    {
        dev().open = 0;
        protect(PROT_NONE);
    }
    ~closed()
    {
        protect(PROT_READ | PROT_WRITE);
        dev().open = open;
    }
};

bool inside(const std::map<uintptr_t, region> &in, const void *p, size_t n)
{
    auto r = in.upper_bound((uintptr_t)p);
    if (r == in.begin())
        return false;
    --r;
    return (uintptr_t)p - r->first <= r->second.bytes && n <= r->second.bytes - ((uintptr_t)p - r->first);
}

void want_device(const char *what, const void *p, size_t n)
{
    if (n > 0 && !inside(dev().memory, p, n) && !inside(dev().pinned, p, n))
        emulated_die("%s: %zu bytes at %p are not device memory", what, n, p);
}

void want_host(const char *what, const void *p, size_t n)
{
    if (n > 0 && inside(dev().memory, p, 1))
        emulated_die("%s: %p is device memory, not the host's", what, p);
}

thread_local enum k_status last_error = K_OK; /* as the runtime keeps it: of this thread, until the next one */

enum k_status note(enum k_status s)
{
    if (s != K_OK)
        last_error = s;
    return s;
}

} // namespace

bool tensor_core_is_hopper(void)
{
    return dev().card.major == 9;
}

void emulated_die(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "emulated device: block (%d, %d, %d), thread %d: ", emulated_at.block_x, emulated_at.block_y,
            emulated_at.block_z, emulated_at.thread);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    abort();
}

void cuda_emulated_memory(size_t bytes)
{
    dev().total = bytes;
}

bool cuda_emulated(void)
{
    return true;
}

void cuda_emulated_lose(bool lost)
{
    dev().lost = lost;
}

void cuda_emulated_none(bool none)
{
    dev().none = none;
}

void cuda_emulated_late(bool late)
{
    dev().late = late;
}

void cuda_emulated_no_streams(bool none)
{
    dev().no_streams = none;
}

long cuda_emulated_launches(void)
{
    return dev().launches;
}

size_t cuda_emulated_allocated(void)
{
    return dev().used;
}

/* ---- memory ---- */

enum k_status dev_alloc(void **p, size_t n)
{
    std::lock_guard<std::recursive_mutex> hold(dev().lock);
    *p = NULL;
    if (dev().lost)
        return note(K_DEVICE);
    if (n == 0)
        return K_OK;
    if (n > dev().total || dev().used > dev().total - n)
        return note(K_NO_MEMORY);
#ifdef WITH_ASAN
    size_t mapped = n;
    if (posix_memalign(p, ALIGN_BYTES, n))
        return note(K_NO_MEMORY);
#else
    size_t mapped = (n + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    *p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*p == MAP_FAILED)
        return note(K_NO_MEMORY);
    memset((char *)*p + n, GUARD_BYTE, mapped - n);
#endif
    memset(*p, 0xff, n < ((size_t)16 << 20) ? n : (size_t)16 << 20); /* of what is large only the beginning */
    dev().memory[(uintptr_t)*p] = {n, mapped};
    shadow_add(*p, n, SHADOW_DEVICE);
    dev().used += n;
#ifndef WITH_ASAN
    if (!dev().open)
        mprotect(*p, mapped, PROT_NONE);
#endif
    return K_OK;
}

void dev_free(void *p)
{
    std::lock_guard<std::recursive_mutex> hold(dev().lock);
    if (!p)
        return;
    auto r = dev().memory.find((uintptr_t)p);
    if (r == dev().memory.end())
        emulated_die("dev_free: %p is no device memory, or was freed before", p);
    dev().used -= r->second.bytes;
    shadow_remove(p);
#ifdef WITH_ASAN
    free(p);
#else
    mprotect(p, r->second.mapped, PROT_READ);
    for (size_t i = r->second.bytes; i < r->second.mapped; i++)
        if (((unsigned char *)p)[i] != GUARD_BYTE)
            emulated_die("device memory of %zu bytes was written %zu bytes past its end", r->second.bytes,
                         i - r->second.bytes);
    munmap(p, r->second.mapped);
#endif
    dev().memory.erase(r);
}

enum k_status host_pinned_alloc(void **p, size_t n)
{
    std::lock_guard<std::recursive_mutex> hold(dev().lock);
    *p = NULL;
    if (posix_memalign(p, ALIGN_BYTES, n ? n : 1))
        return note(K_NO_MEMORY);
    memset(*p, 0xff, n);
    dev().pinned[(uintptr_t)*p] = {n, n};
    return K_OK;
}

void host_pinned_free(void *p)
{
    std::lock_guard<std::recursive_mutex> hold(dev().lock);
    if (p && !dev().pinned.erase((uintptr_t)p))
        emulated_die("host_pinned_free: %p is no pinned memory, or was freed before", p);
    free(p);
}

void emulated_check_argument(int index, const void *p)
{
    std::lock_guard<std::recursive_mutex> hold(dev().lock);
    if (p && !inside(dev().memory, p, 0) && !inside(dev().pinned, p, 0))
        emulated_die("argument %d of a kernel, %p, is ordinary host memory", index, p);
}

/* ---- streams: all happens at once or as late as may be, except what is captured ---- */

typedef std::vector<std::function<void()>> works;

struct emulated_stream {
    bool capturing;        /* graph_capture_begin() was said to it */
    int forks;             /* streams that are captured with it and that it has not waited for since */
    emulated_stream *into; /* it waited for a stream that is being captured, and so is, too */
    works captured, late;  /* late: what nobody has waited for yet, here or while it is captured beside another */
};
struct emulated_graph {
    works nodes;
};
struct emulated_event {
    std::chrono::steady_clock::time_point at;
    stream_t stream; /* NULL: never recorded */
};

static enum k_status enqueue(stream_t st, std::function<void()> work)
{
    opened memory;
    if (dev().lost)
        return note(K_DEVICE);
    if (st && st->capturing)
        st->captured.push_back(work);
    else if (st && st->into && !dev().late)
        st->into->captured.push_back(work);
    else if (st && (st->into || dev().late))
        st->late.push_back(work);
    else
        work();
    return K_OK;
}

static void catch_up(stream_t st)
{
    works due;
    if (!st || st->into)
        return;
    opened memory;
    due.swap(st->late);
    for (auto &work : due)
        work();
}

enum k_status emulated_launch(stream_t st, bool early, std::function<void()> body, struct grid3 grid, int block,
                              size_t shared)
{
    if (block < 1 || block > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 ||
        grid.x > 0x7fffffff || shared > dev().card.shared_max)
        return note(K_DEVICE); /* cudaErrorInvalidConfiguration */
    if (early && dev().card.major < 9)
        emulated_die("a launch before its time: compute capability 9.0 is needed");
    dev().launches++;
    return enqueue(st, [=] { fibers_run(early, body, grid, block, shared, dev().card.shared_max); });
}

void cuda_emulated_call(void *stream, void (*fn)(const void *arg), const void *arg, size_t bytes)
{
    const std::string copy((const char *)arg, bytes);
    enqueue((stream_t)stream, [=] { fn(copy.data()); });
}

enum k_status copy_in(stream_t st, void *to, const void *host, size_t n)
{
    want_device("copy_in", to, n);
    want_host("copy_in", host, n);
    return enqueue(st, [=] { memcpy(to, host, n); });
}

enum k_status copy_out(stream_t st, void *host, const void *from, size_t n)
{
    want_device("copy_out", from, n);
    want_host("copy_out", host, n);
    return enqueue(st, [=] { memcpy(host, from, n); });
}

enum k_status copy_dev(stream_t st, void *to, const void *from, size_t n)
{
    want_device("copy_dev", to, n);
    want_device("copy_dev", from, n);
    return enqueue(st, [=] { memmove(to, from, n); });
}

enum k_status dev_set(stream_t st, void *to, int byte, size_t n)
{
    want_device("dev_set", to, n);
    return enqueue(st, [=] { memset(to, byte, n); });
}

enum k_status host_call(stream_t st, void (*run)(void *), void *arg)
{
    return enqueue(st, [=] {
        closed memory;
        run(arg);
    });
}

enum k_status stream_new(stream_t *st)
{
    *st = NULL;
    if (dev().no_streams)
        return note(K_DEVICE);
    *st = new emulated_stream();
    return K_OK;
}

void stream_free(stream_t st)
{
    catch_up(st);
    delete st;
}

enum k_status stream_sync(stream_t st)
{
    if (st && st->capturing)
        emulated_die("stream_sync while the stream is captured");
    catch_up(st);
    return dev().lost ? note(K_DEVICE) : K_OK;
}

enum k_status event_new(event_t *ev)
{
    *ev = new emulated_event();
    return K_OK;
}

void event_free(event_t ev)
{
    delete ev;
}

enum k_status event_record(event_t ev, stream_t st)
{
    ev->stream = st;
    ev->at = std::chrono::steady_clock::now();
    return dev().lost ? note(K_DEVICE) : K_OK;
}

enum k_status event_wait(stream_t st, event_t ev)
{
    stream_t from = ev->stream;
    if (from && from->capturing && st != from && !st->into) { /* from here on st is captured beside it */
        catch_up(st);
        st->into = from;
        from->forks++;
    } else if (from && from->into == st && st->capturing) { /* and up to here */
        st->captured.insert(st->captured.end(), from->late.begin(), from->late.end());
        from->late.clear();
        from->into = NULL;
        st->forks--;
    } else {
        catch_up(from);
    }
    return dev().lost ? note(K_DEVICE) : K_OK;
}

enum k_status event_sync(event_t ev)
{
    catch_up(ev->stream);
    return dev().lost ? note(K_DEVICE) : K_OK;
}

float event_ms(event_t from, event_t to)
{
    return std::chrono::duration<float, std::milli>(to->at - from->at).count();
}

enum k_status graph_capture_begin(stream_t st)
{
    if (st->capturing)
        return note(K_DEVICE);
    catch_up(st);
    st->capturing = true;
    st->forks = 0;
    st->captured.clear();
    return K_OK;
}

enum k_status graph_capture_end(stream_t st, graph_t *g)
{
    if (!st->capturing)
        return note(K_DEVICE);
    st->capturing = false;
    if (st->forks) /* cudaErrorStreamCaptureUnjoined */
        return note(K_DEVICE);
    *g = new emulated_graph();
    (*g)->nodes.swap(st->captured);
    return K_OK;
}

enum k_status graph_launch(stream_t st, graph_t g)
{
    return enqueue(st, [=] {
        for (auto &node : g->nodes)
            node();
    });
}

void graph_free(graph_t g)
{
    delete g;
}

/* ---- the device ---- */

int device_count(void)
{
    return dev().none ? 0 : 1;
}

void device_none_text(char *text, size_t size)
{
    snprintf(text, size, "no CUDA device: there is no NVIDIA driver");
}

enum k_status device_use(int device)
{
    return note(device == 0 && !dev().lost ? K_OK : K_DEVICE);
}

enum k_status device_facts_of(int device, struct device_facts *f)
{
    if (device != 0)
        return note(K_DEVICE);
    *f = {};
    const struct card &card = dev().card;
    snprintf(f->name, sizeof f->name, "emulated");
    f->major = card.major, f->minor = card.minor, f->n_sm = card.n_sm;
    f->l2_bytes = card.l2_bytes, f->shared_max = card.shared_max;
    return K_OK;
}

enum k_status device_mem(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = dev().total;
    *free_bytes = dev().total > dev().used ? dev().total - dev().used : 0;
    return dev().lost ? note(K_DEVICE) : K_OK;
}

const char *last_error_text(void)
{
    return last_error == K_NO_MEMORY ? "out of memory" : last_error == K_DEVICE ? "device lost" : "no error";
}
