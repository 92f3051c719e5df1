/* portable.cuh for nvcc: wrappers, nothing else. Include portable.cuh, not this. */
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>
#include <stdio.h>

/* KERNEL(name)(arguments) { ... }; KERNEL_BOUNDS also tells the compiler the block and how many stand on a multiprocessor. */
#define KERNEL(name)                         static __global__ void name
#define KERNEL_BOUNDS(name, threads, blocks) static __global__ void __launch_bounds__(threads, blocks) name
#define KDEV                                 static __device__ __forceinline__
#define KMEMBER                              __device__ __forceinline__ /* the same for a struct's function */
#define KHOST_DEV                            static inline __host__ __device__
#define KCONST                               static __device__ const /* a table */
/* Shared memory: an array of n, and the part whose size the launch gives. 16-byte aligned. */
#define SHARED(type, name, n) __shared__ __align__(16) type name[n]
#define SHARED_DYN(type, name)                                                                                         \
    extern __shared__ __align__(16) unsigned char spw_shared_dyn[];                                                    \
    type *const name = (type *)spw_shared_dyn

KDEV int thread_x(void)
{
    return (int)threadIdx.x;
}
KDEV int block_x(void)
{
    return (int)blockIdx.x;
}
KDEV int block_y(void)
{
    return (int)blockIdx.y;
}
KDEV int block_z(void)
{
    return (int)blockIdx.z;
}
KDEV int block_dim(void)
{
    return (int)blockDim.x;
}
KDEV int grid_x(void)
{
    return (int)gridDim.x;
}
KDEV int grid_y(void)
{
    return (int)gridDim.y;
}

KDEV void sync_block(void)
{
    __syncthreads();
}
KDEV void sync_warp(void)
{
    __syncwarp();
}
/* portable.cuh, launch_early(). PTX ISA, "griddepcontrol". */
KDEV void let_next_begin(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
KDEV void wait_for_before(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
KDEV float shfl_xor(float v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
KDEV int shfl_xor(int v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
KDEV double shfl_xor(double v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
KDEV float shfl(float v, int from)
{
    return __shfl_sync(0xffffffffu, v, from);
}
KDEV int shfl(int v, int from)
{
    return __shfl_sync(0xffffffffu, v, from);
}
KDEV uint32_t warp_ballot(bool v)
{
    return __ballot_sync(0xffffffffu, v);
}
KDEV int popc(uint32_t v)
{
    return __popc(v);
}
KDEV int atomic_add_int(int *p, int v)
{
    return atomicAdd(p, v);
}
KDEV uint64_t atomic_add_u64(uint64_t *p, uint64_t v)
{
    return atomicAdd((unsigned long long *)p, (unsigned long long)v);
}
KDEV int atomic_max_int(int *p, int v)
{
    return atomicMax(p, v);
}

/* portable.cuh. The fences stand for the block's other threads, too: barriers are before and behind. */
KDEV bool arrive_last(uint32_t *counter, int n)
{
    __threadfence();
    const bool last = atomicInc(counter, (unsigned)n - 1) == (unsigned)n - 1;
    __threadfence();
    return last;
}

/* ---- numbers ---- */

KDEV float fma_rn(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
KDEV float exp_exact(float x)
{
    return expf(x);
}
KDEV float exp_fast(float x) /* 2 ulp + |x| 2^-21, flushes what is subnormal */
{
    return __expf(x);
}
/* Rounded once from what double precision says, whatever the angle. */
KDEV void sincos_exact(double angle, float *sine, float *cosine)
{
    double s, c;
    sincos(angle, &s, &c);
    *sine = (float)s, *cosine = (float)c;
}
KDEV float sqrt_rn(float x)
{
    return __fsqrt_rn(x);
}
KDEV uint32_t f32_to_bits(float f)
{
    return __float_as_uint(f);
}
KDEV float bits_to_f32(uint32_t u)
{
    return __uint_as_float(u);
}
KDEV float f16_to_f32(uint16_t h)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
KDEV uint16_t f32_to_f16(float f)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
KDEV uint16_t f32_to_bf16(float f)
{
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
/* Two in a register, lo in the lower half. */
KDEV uint32_t pack_bf16(float lo, float hi)
{
    uint32_t u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
    return u;
}
KDEV uint32_t pack_f16(float lo, float hi)
{
    uint32_t u;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
    return u;
}
/* c + the sum of four products of signed bytes. */
KDEV int dot4_s8(int a, int b, int c)
{
    return __dp4a(a, b, c);
}
/* Bytes of a (0 to 3) and b (4 to 7) by the four selecting nibbles of s. */
KDEV uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t s)
{
    return __byte_perm(a, b, s);
}
KDEV uint32_t sub4_s8(uint32_t a, uint32_t b) /* byte by byte, wrapping */
{
    return __vsub4(a, b);
}

/* ---- global memory ---- */

/* 16 bytes, aligned: as they are, or that are read once and by nobody written (weights). */
KDEV struct u32x4 load16(const void *p)
{
    uint4 v = *(const uint4 *)p;
    struct u32x4 r = {v.x, v.y, v.z, v.w};
    return r;
}
KDEV struct u32x4 load16_stream(const void *p)
{
    struct u32x4 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(p));
    return r;
}
KDEV uint32_t load4_stream(const void *p)
{
    uint32_t r;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r) : "l"(p));
    return r;
}
KDEV uint16_t load2_stream(const void *p)
{
    uint16_t r;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(r) : "l"(p));
    return r;
}
KDEV void store16(void *p, struct u32x4 v)
{
    *(uint4 *)p = make_uint4(v.x, v.y, v.z, v.w);
}

/* 16 bytes to shared memory behind the thread's back; zeros if not valid (p is then not read, but must be an address).
 * Seen by the thread after cp_async_wait<N>(), which waits for all but its last N commits; by others after a
 * barrier. */
KDEV void cp_async16(void *shared, const void *p, bool valid)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(p), "r"(bytes) : "memory");
}
KDEV void cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- tensor cores: d += a . b, one warp ---- */

KDEV void mma_bf16_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
KDEV void mma_f16_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
KDEV void mma_s8_m16n8k32(int d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned). */
KDEV void ldmatrix_x4(uint32_t r[4], const void *row)
{
    uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
KDEV void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

/* ---- Hopper's products of a warpgroup, four warps from a multiple of four on: for kernels compiled for sm_90a. PTX ISA 8.7,
 * "Asynchronous Warpgroup Level Matrix Instructions". They run behind the threads' backs:
 *
 *     wgmma_begin(); wgmma<BF16, NT>(d, ..) for 16 elements of k after the other; wgmma_end(); .. wgmma_wait<N>();
 *
 * where the last N of these may still be running. Until it is waited for nobody touches d, and nobody writes what is
 * read: shared memory that came there before a barrier, and each thread that brought some says shared_to_wgmma() before
 * that barrier. ---- */

/* Rows of 64 16-bit numbers as piece_16(.., 3, ..) orders them (the PTX ISA's swizzle of 128 bytes), from a row on that
 * is a multiple of 8, in shared memory from a multiple of WGMMA_ALIGN bytes on. */
#define WGMMA_ALIGN 1024
struct wgmma_rows {
    uint64_t descriptor;
};
KDEV struct wgmma_rows wgmma_rows_at(const void *shared)
{
    /* In units of 16 bytes: the address, and what eight rows take; then the code of the swizzle. */
    uint64_t at = (uint64_t)__cvta_generic_to_shared(shared) >> 4;
    struct wgmma_rows r = {(at & 0x3fff) | (uint64_t)(WGMMA_ALIGN >> 4) << 32 | (uint64_t)1 << 62};
    return r;
}
/* The same rows from their element 16 i on, i < 4. */
KDEV struct wgmma_rows wgmma_rows_from(struct wgmma_rows rows, int i)
{
    rows.descriptor += (uint64_t)(2 * i);
    return rows;
}
KDEV void shared_to_wgmma(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
KDEV void wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
KDEV void wgmma_end(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#define WGMMA_4(d, i)  "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define WGMMA_16(d, i) WGMMA_4(d, i), WGMMA_4(d, i + 1), WGMMA_4(d, i + 2), WGMMA_4(d, i + 3)
#define WGMMA_32(d, i) WGMMA_16(d, i), WGMMA_16(d, i + 4)
#define WGMMA_REGISTERS_32                                                                                             \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"   \
    "%30,%31"
#define WGMMA_REGISTERS_64                                                                                             \
    WGMMA_REGISTERS_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54," \
                       "%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_REGISTERS_96                                                                                             \
    WGMMA_REGISTERS_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86," \
                       "%87,%88,%89,%90,%91,%92,%93,%94,%95"
/* One instruction; rest: the operands behind its registers, which are a, b and whether to add to d. */
#define WGMMA(n, type, registers, a, b, add, ...)                                                                      \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #add ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type   \
                 "." type " {" registers "}, %" #a ", %" #b ", p, 1, 1, 0, 0; }"                                       \
                 : __VA_ARGS__                                                                                         \
                 : "l"(x.descriptor), "l"(y.descriptor), "r"((int)to_d))

/* d = x . y or, to_d, d += x . y: 64 rows of x, 8 NT rows of y, 16 elements. Warp w of the group has rows 16 w on, in
 * NT tiles like those of mma_bf16_m16n8k16(). */
template <bool BF16>
static __device__ __forceinline__ void wgmma(float (&d)[8][4], struct wgmma_rows x, struct wgmma_rows y, bool to_d)
{
    if (BF16)
        WGMMA(64, "bf16", WGMMA_REGISTERS_32, 32, 33, 34, WGMMA_32(d, 0));
    else
        WGMMA(64, "f16", WGMMA_REGISTERS_32, 32, 33, 34, WGMMA_32(d, 0));
}
template <bool BF16>
static __device__ __forceinline__ void wgmma(float (&d)[16][4], struct wgmma_rows x, struct wgmma_rows y, bool to_d)
{
    if (BF16)
        WGMMA(128, "bf16", WGMMA_REGISTERS_64, 64, 65, 66, WGMMA_32(d, 0), WGMMA_32(d, 8));
    else
        WGMMA(128, "f16", WGMMA_REGISTERS_64, 64, 65, 66, WGMMA_32(d, 0), WGMMA_32(d, 8));
}
template <bool BF16>
static __device__ __forceinline__ void wgmma(float (&d)[24][4], struct wgmma_rows x, struct wgmma_rows y, bool to_d)
{
    if (BF16)
        WGMMA(192, "bf16", WGMMA_REGISTERS_96, 96, 97, 98, WGMMA_32(d, 0), WGMMA_32(d, 8), WGMMA_32(d, 16));
    else
        WGMMA(192, "f16", WGMMA_REGISTERS_96, 96, 97, 98, WGMMA_32(d, 0), WGMMA_32(d, 8), WGMMA_32(d, 16));
}

/* ---- host side ---- */

typedef cudaStream_t stream_t;
typedef cudaEvent_t event_t;
typedef cudaGraphExec_t graph_t;

static inline enum k_status status_of(cudaError_t e)
{
    return e == cudaSuccess ? K_OK : e == cudaErrorMemoryAllocation ? K_NO_MEMORY : K_DEVICE;
}

template <class... P>
static inline cudaError_t launch_kernel(stream_t st, bool early, void (*kernel)(P...), struct grid3 grid, int block,
                                        size_t shared, P... args)
{
    void *at[sizeof...(P) + 1] = {(void *)&args..., NULL};
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    config.gridDim = dim3(grid.x, grid.y, grid.z);
    config.blockDim = dim3((unsigned)block);
    config.dynamicSmemBytes = shared;
    config.stream = st;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = early ? 1 : 0;
    return cudaLaunchKernelExC(&config, (const void *)kernel, at);
}

/* Shared memory beyond 48 KiB has to be asked for, and then as much of the multiprocessor's as there is: several blocks
 * are meant to stand there. A launch that cannot be is reported here, by what the call returns: the runtime's last
 * error may be an allocation's that failed earlier and was done without. What goes wrong while it runs is reported by
 * the next stream_sync(). */
template <class... P, class... A>
static inline enum k_status launch_early(stream_t st, bool early, void (*kernel)(P...), struct grid3 grid, int block,
                                         size_t shared, A... args)
{
    if (shared > 48 * 1024) {
        cudaError_t e =
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (e == cudaSuccess)
            e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
        if (e != cudaSuccess)
            return status_of(e);
    }
    return status_of(launch_kernel<P...>(st, early, kernel, grid, block, shared, (P)args...));
}
template <class... P, class... A>
static inline enum k_status launch(stream_t st, void (*kernel)(P...), struct grid3 grid, int block, size_t shared,
                                   A... args)
{
    return launch_early(st, false, kernel, grid, block, shared, args...);
}

static inline enum k_status dev_alloc(void **p, size_t n)
{
    return status_of(cudaMalloc(p, n));
}
static inline void dev_free(void *p)
{
    cudaFree(p);
}
static inline enum k_status host_pinned_alloc(void **p, size_t n)
{
    return status_of(cudaHostAlloc(p, n, cudaHostAllocPortable));
}
static inline void host_pinned_free(void *p)
{
    cudaFreeHost(p);
}
static inline enum k_status copy_in(stream_t st, void *dev, const void *host, size_t n)
{
    return status_of(cudaMemcpyAsync(dev, host, n, cudaMemcpyHostToDevice, st));
}
static inline enum k_status copy_out(stream_t st, void *host, const void *dev, size_t n)
{
    return status_of(cudaMemcpyAsync(host, dev, n, cudaMemcpyDeviceToHost, st));
}
static inline enum k_status copy_dev(stream_t st, void *to, const void *from, size_t n)
{
    return status_of(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, st));
}
static inline enum k_status dev_set(stream_t st, void *dev, int byte, size_t n)
{
    return status_of(cudaMemsetAsync(dev, byte, n, st));
}
/* run(arg) on a thread of the driver's, in order with the stream; it may call nothing of CUDA's. */
static inline enum k_status host_call(stream_t st, void (*run)(void *), void *arg)
{
    return status_of(cudaLaunchHostFunc(st, run, arg));
}

static inline enum k_status stream_new(stream_t *st)
{
    return status_of(cudaStreamCreateWithFlags(st, cudaStreamNonBlocking));
}
static inline void stream_free(stream_t st)
{
    cudaStreamDestroy(st);
}
static inline enum k_status stream_sync(stream_t st)
{
    return status_of(cudaStreamSynchronize(st));
}
static inline enum k_status event_new(event_t *ev)
{
    return status_of(cudaEventCreate(ev));
}
static inline void event_free(event_t ev)
{
    cudaEventDestroy(ev);
}
static inline enum k_status event_record(event_t ev, stream_t st)
{
    return status_of(cudaEventRecord(ev, st));
}
static inline enum k_status event_wait(stream_t st, event_t ev)
{
    return status_of(cudaStreamWaitEvent(st, ev, 0));
}
static inline enum k_status event_sync(event_t ev)
{
    return status_of(cudaEventSynchronize(ev));
}
static inline float event_ms(event_t from, event_t to)
{
    float ms = 0;
    cudaEventElapsedTime(&ms, from, to);
    return ms;
}

/* What is launched on the stream between begin and end does not run but becomes *g. */
static inline enum k_status graph_capture_begin(stream_t st)
{
    return status_of(cudaStreamBeginCapture(st, cudaStreamCaptureModeThreadLocal));
}
static inline enum k_status graph_capture_end(stream_t st, graph_t *g)
{
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamEndCapture(st, &graph);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(g, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    return status_of(e);
}
static inline enum k_status graph_launch(stream_t st, graph_t g)
{
    return status_of(cudaGraphLaunch(g, st));
}
static inline void graph_free(graph_t g)
{
    cudaGraphExecDestroy(g);
}

static inline int device_count(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}
/* Why there is none. */
static inline void device_none_text(char *text, size_t size)
{
    int n = 0, driver = 0, needed = 0; /* versions: 1000 * major + 10 * minor; driver 0: there is none */
    const cudaError_t e = cudaGetDeviceCount(&n);
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&needed);
    if (driver == 0)
        snprintf(text, size, "no CUDA device: there is no NVIDIA driver");
    else if (e == cudaErrorInsufficientDriver)
        snprintf(text, size, "no CUDA device: the NVIDIA driver is of CUDA %d.%d, and this program needs one of %d.%d",
                 driver / 1000, driver % 1000 / 10, needed / 1000, needed % 1000 / 10);
    else
        snprintf(text, size, "no CUDA device: %s", cudaGetErrorString(e == cudaSuccess ? cudaErrorNoDevice : e));
}
static inline enum k_status device_use(int device)
{
    return status_of(cudaSetDevice(device));
}
struct device_facts {
    char name[256];
    int major, minor; /* compute capability */
    int n_sm;
    size_t l2_bytes, shared_max; /* shared memory that a block may ask for */
};
static inline enum k_status device_facts_of(int device, struct device_facts *f)
{
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess)
        return status_of(e);
    snprintf(f->name, sizeof f->name, "%s", p.name);
    f->major = p.major, f->minor = p.minor, f->n_sm = p.multiProcessorCount;
    f->l2_bytes = (size_t)p.l2CacheSize, f->shared_max = p.sharedMemPerBlockOptin;
    return K_OK;
}
static inline enum k_status device_mem(size_t *free_bytes, size_t *total_bytes)
{
    return status_of(cudaMemGetInfo(free_bytes, total_bytes));
}
/* The runtime's words for this thread's last error: it stays until the next one, and no other thread's is seen. */
static inline const char *last_error_text(void)
{
    return cudaGetErrorString(cudaPeekAtLastError());
}

#endif
