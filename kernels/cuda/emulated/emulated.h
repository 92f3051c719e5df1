/* portable.cuh without a device: the same names, run on the host. A launch runs its blocks one after another; each CUDA
 * thread of a block is a fiber, and a barrier or a warp operation switches to the next one. A test's tool: right and
 * strict, not fast. Include portable.cuh, not this.
 *
 * What it refuses with a message and abort(), because a device would hang, crash or answer nonsense: a barrier or warp
 * operation that not all reach, lanes in different warp operations, misaligned 16-byte accesses, a kernel argument that
 * points to ordinary host memory, shared memory beyond the limit, device memory written past its end. What it makes
 * visible: shared memory and fresh device memory are filled with 0xff (NaN as a float), so is the target of a cp.async
 * until it is waited for; device memory cannot be touched by the host outside of copies (without ASan; with it, by red
 * zones); and cuda_emulated_order() changes the order in which blocks run, and threads between barriers, so that a race
 * changes the result. Tensor cores cut off what they do not keep of a sum, as real ones do. shadow.h looks closer. */
#ifndef KERNELS_CUDA_EMULATED_H
#define KERNELS_CUDA_EMULATED_H

#include <functional>
#include <math.h>
#include <string.h>
#include <type_traits>

#define KERNEL(name)                         static void name
#define KERNEL_BOUNDS(name, threads, blocks) static void name
#define KDEV                                 [[maybe_unused]] static inline
#define KMEMBER                              inline
#define KHOST_DEV                            [[maybe_unused]] static inline
#define KCONST                               [[maybe_unused]] static const
#define SHARED(type, name, n)                                                                                          \
    static const char name##_key = 0;                                                                                  \
    type(&name)[n] = *(type(*)[n])emulated_shared(&name##_key, sizeof(type) * (n))
#define SHARED_DYN(type, name) type *const name = (type *)emulated_shared_dyn()

/* Where the running fiber is. */
struct emulated_place {
    int thread, block_x, block_y, block_z, block_dim, grid_x, grid_y;
};
extern __thread struct emulated_place emulated_at;

enum emulated_op {
    EMULATED_SYNC_BLOCK = 1,
    EMULATED_SYNC_WARP,
    EMULATED_SHFL,
    EMULATED_BALLOT,
    EMULATED_MMA,
    EMULATED_LDMATRIX,
    EMULATED_WGMMA
};
#define EMULATED_SLOT 32 /* bytes that a lane can show to its warp */

void *emulated_shared(const char *key, size_t bytes);
void *emulated_shared_dyn(void);
void emulated_sync_block(void);
/* Shows `bytes` of mine to the warp and waits for all lanes; returns what lane l showed at + l * EMULATED_SLOT. */
const unsigned char *emulated_exchange(enum emulated_op op, const void *mine, size_t bytes);
void emulated_mma_float(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16);
void emulated_cp_async(void *shared, const void *p, bool valid);
void emulated_cp_async_commit(void);
void emulated_cp_async_wait(int n);
[[noreturn]] void emulated_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

KDEV int thread_x(void)
{
    return emulated_at.thread;
}
KDEV int block_x(void)
{
    return emulated_at.block_x;
}
KDEV int block_y(void)
{
    return emulated_at.block_y;
}
KDEV int block_z(void)
{
    return emulated_at.block_z;
}
KDEV int block_dim(void)
{
    return emulated_at.block_dim;
}
KDEV int grid_x(void)
{
    return emulated_at.grid_x;
}
KDEV int grid_y(void)
{
    return emulated_at.grid_y;
}

KDEV void sync_block(void)
{
    emulated_sync_block();
}
KDEV void sync_warp(void)
{
    emulated_exchange(EMULATED_SYNC_WARP, NULL, 0);
}
/* The kernel before has always run; what is done too early is seen by shadow.h. */
void emulated_wait_for_before(void);
KDEV void let_next_begin(void)
{
}
KDEV void wait_for_before(void)
{
    emulated_wait_for_before();
}
template <class T> static inline T emulated_shfl(T v, int from)
{
    T r;
    const unsigned char *all = emulated_exchange(EMULATED_SHFL, &v, sizeof v);
    memcpy(&r, all + (from & (WARP - 1)) * EMULATED_SLOT, sizeof r);
    return r;
}
KDEV float shfl_xor(float v, int mask)
{
    return emulated_shfl(v, thread_x() ^ mask);
}
KDEV int shfl_xor(int v, int mask)
{
    return emulated_shfl(v, thread_x() ^ mask);
}
KDEV double shfl_xor(double v, int mask)
{
    return emulated_shfl(v, thread_x() ^ mask);
}
KDEV float shfl(float v, int from)
{
    return emulated_shfl(v, from);
}
KDEV int shfl(int v, int from)
{
    return emulated_shfl(v, from);
}
KDEV uint32_t warp_ballot(bool v)
{
    uint32_t mask = 0;
    const unsigned char *all = emulated_exchange(EMULATED_BALLOT, &v, 1);
    for (int l = 0; l < WARP; l++)
        mask |= (uint32_t)(all[l * EMULATED_SLOT] != 0) << l;
    return mask;
}
KDEV int popc(uint32_t v)
{
    return __builtin_popcount(v);
}
KDEV int atomic_add_int(int *p, int v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
KDEV uint64_t atomic_add_u64(uint64_t *p, uint64_t v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
KDEV int atomic_max_int(int *p, int v)
{
    int old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}

/* shadow.h holds the others to what it promises. */
bool emulated_arrive_last(uint32_t *counter, int n);
KDEV bool arrive_last(uint32_t *counter, int n)
{
    return emulated_arrive_last(counter, n);
}

/* ---- numbers ---- */

KDEV float fma_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
KDEV float exp_exact(float x)
{
    return expf(x);
}
KDEV float exp_fast(float x)
{
    return expf(x);
}
KDEV void sincos_exact(double angle, float *sine, float *cosine)
{
    *sine = (float)sin(angle), *cosine = (float)cos(angle);
}
KDEV float sqrt_rn(float x)
{
    return sqrtf(x);
}
KDEV uint32_t f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
KDEV float bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
KDEV float f16_to_f32(uint16_t h)
{
    return k_f16_to_f32(h);
}
KDEV uint16_t f32_to_f16(float f)
{
    return k_f32_to_f16(f);
}
KDEV uint16_t f32_to_bf16(float f)
{
    uint32_t u = f32_to_bits(f);
    return f != f ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
KDEV uint32_t pack_bf16(float lo, float hi)
{
    return (uint32_t)f32_to_bf16(hi) << 16 | f32_to_bf16(lo);
}
KDEV uint32_t pack_f16(float lo, float hi)
{
    return (uint32_t)f32_to_f16(hi) << 16 | f32_to_f16(lo);
}
KDEV int dot4_s8(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8)
        c += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
    return c;
}
KDEV uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t s)
{
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t sel = s >> (4 * i) & 15, byte = (uint32_t)(both >> (8 * (sel & 7))) & 255;
        r |= (sel & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return r;
}
KDEV uint32_t sub4_s8(uint32_t a, uint32_t b)
{
    uint32_t r = 0;
    for (int i = 0; i < 32; i += 8)
        r |= (((a >> i) - (b >> i)) & 255) << i;
    return r;
}

/* ---- memory ---- */

template <class T> static inline T emulated_load(const void *p)
{
    T v;
    if ((uintptr_t)p % sizeof(T))
        emulated_die("a load of %zu bytes from %p is not aligned", sizeof(T), p);
    memcpy(&v, p, sizeof v);
    return v;
}
KDEV struct u32x4 load16(const void *p)
{
    return emulated_load<struct u32x4>(p);
}
KDEV struct u32x4 load16_stream(const void *p)
{
    return emulated_load<struct u32x4>(p);
}
KDEV uint32_t load4_stream(const void *p)
{
    return emulated_load<uint32_t>(p);
}
KDEV uint16_t load2_stream(const void *p)
{
    return emulated_load<uint16_t>(p);
}
KDEV void store16(void *p, struct u32x4 v)
{
    if ((uintptr_t)p % 16)
        emulated_die("a store of 16 bytes to %p is not aligned", p);
    memcpy(p, &v, sizeof v);
}
KDEV void cp_async16(void *shared, const void *p, bool valid)
{
    emulated_cp_async(shared, p, valid);
}
KDEV void cp_async_commit(void)
{
    emulated_cp_async_commit();
}
template <int N> static inline void cp_async_wait(void)
{
    emulated_cp_async_wait(N);
}

/* ---- tensor cores ---- */

KDEV void mma_bf16_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma_float(d, a, b, true);
}
KDEV void mma_f16_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma_float(d, a, b, false);
}
void mma_s8_m16n8k32(int d[4], const uint32_t a[4], const uint32_t b[2]);
void ldmatrix_x4(uint32_t r[4], const void *row);
void ldmatrix_x4_trans(uint32_t r[4], const void *row);

/* Of a warpgroup: what each thread began is made when it is waited for, and is no number before. */
#define WGMMA_ALIGN 1024
struct wgmma_rows {
    const unsigned char *at;
};
struct wgmma_rows wgmma_rows_at(const void *shared);
KDEV struct wgmma_rows wgmma_rows_from(struct wgmma_rows rows, int i)
{
    rows.at += 32 * i;
    return rows;
}
void shared_to_wgmma(void);
void wgmma_begin(void);
void wgmma_end(void);
void emulated_wgmma(float *d, int tiles, struct wgmma_rows x, struct wgmma_rows y, bool bf16, bool to_d);
void emulated_wgmma_wait(int n);
template <int N> static inline void wgmma_wait(void)
{
    emulated_wgmma_wait(N);
}
template <bool BF16, int NT>
static inline void wgmma(float (&d)[NT][4], struct wgmma_rows x, struct wgmma_rows y, bool to_d)
{
    emulated_wgmma(d[0], NT, x, y, BF16, to_d);
}

/* ---- host side ---- */

typedef struct emulated_stream *stream_t;
typedef struct emulated_event *event_t;
typedef struct emulated_graph *graph_t;

enum k_status emulated_launch(stream_t st, bool early, std::function<void()> body, struct grid3 grid, int block,
                              size_t shared);
void emulated_check_argument(int index, const void *p);

template <class T> static inline void emulated_check(int index, const T &argument)
{
    if constexpr (std::is_pointer<T>::value)
        emulated_check_argument(index, (const void *)argument);
}

template <class... P, class... A>
static inline enum k_status launch_early(stream_t st, bool early, void (*kernel)(P...), struct grid3 grid, int block,
                                         size_t shared, A... args)
{
    int index = 0;
    (emulated_check<P>(index++, (P)args), ...);
    return emulated_launch(
        st, early, [=] { kernel((P)args...); }, grid, block, shared);
}
template <class... P, class... A>
static inline enum k_status launch(stream_t st, void (*kernel)(P...), struct grid3 grid, int block, size_t shared,
                                   A... args)
{
    return launch_early(st, false, kernel, grid, block, shared, args...);
}

enum k_status dev_alloc(void **p, size_t n);
void dev_free(void *p);
enum k_status host_pinned_alloc(void **p, size_t n);
void host_pinned_free(void *p);
enum k_status copy_in(stream_t st, void *dev, const void *host, size_t n);
enum k_status copy_out(stream_t st, void *host, const void *dev, size_t n);
enum k_status copy_dev(stream_t st, void *to, const void *from, size_t n);
enum k_status dev_set(stream_t st, void *dev, int byte, size_t n);
enum k_status host_call(stream_t st, void (*run)(void *), void *arg);

enum k_status stream_new(stream_t *st);
void stream_free(stream_t st);
enum k_status stream_sync(stream_t st);
enum k_status event_new(event_t *ev);
void event_free(event_t ev);
enum k_status event_record(event_t ev, stream_t st);
enum k_status event_wait(stream_t st, event_t ev);
enum k_status event_sync(event_t ev);
float event_ms(event_t from, event_t to);
enum k_status graph_capture_begin(stream_t st);
enum k_status graph_capture_end(stream_t st, graph_t *g);
enum k_status graph_launch(stream_t st, graph_t g);
void graph_free(graph_t g);

struct device_facts {
    char name[256];
    int major, minor;
    int n_sm;
    size_t l2_bytes, shared_max;
};
int device_count(void);
void device_none_text(char *text, size_t size);
enum k_status device_use(int device);
enum k_status device_facts_of(int device, struct device_facts *f);
enum k_status device_mem(size_t *free_bytes, size_t *total_bytes);
const char *last_error_text(void);

#endif
