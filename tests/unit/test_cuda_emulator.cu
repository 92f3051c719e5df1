/* The emulated device: threads, barriers, warp operations, tensor-core fragments against plain products, asynchronous
 * copies, memory that the host cannot touch, captured graphs; and that what would hang or crash on a device ends a
 * child with a message.
 * links: spw_kernels_cuda_emulated */
#include "tests/unit/test.h"

#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/portable.cuh"

static stream_t st;

static void *device_copy(const void *host, size_t n)
{
    void *p;
    CHECK_INT(dev_alloc(&p, n), K_OK);
    CHECK_INT(copy_in(st, p, host, n), K_OK);
    return p;
}

/* Sums n values in a block of 64, through shared memory and by warps. */
KERNEL(sum_block)(float *y, const float *x, int n)
{
    SHARED(float, part, 2);
    SHARED_DYN(float, seen);
    float v = 0;
    for (int i = thread_x(); i < n; i += block_dim())
        v += x[i];
    seen[thread_x()] = v;
    v = warp_sum(v);
    if (lane() == 0)
        part[warp_of_block()] = v;
    sync_block();
    if (thread_x() == 0) {
        y[2 * block_x()] = part[0] + part[1];
        y[2 * block_x() + 1] = 0;
        for (int i = 0; i < block_dim(); i++)
            y[2 * block_x() + 1] += seen[i];
    }
}

static void sums_in_every_order(void)
{
    float x[200], y[6] = {0};
    double expected = 0;
    for (int i = 0; i < 200; i++)
        expected += (double)(x[i] = (float)(i % 7));
    float *dx = (float *)device_copy(x, sizeof x), *dy = (float *)device_copy(y, sizeof y);
    for (unsigned order = 0; order < 5; order++) {
        cuda_emulated_order(order);
        CHECK_INT(launch(st, sum_block, grid_of(3), 64, 64 * sizeof(float), dy, dx, 200), K_OK);
        CHECK_INT(copy_out(st, y, dy, sizeof y), K_OK);
        for (int i = 0; i < 6; i++)
            CHECK((double)y[i] == expected);
    }
    cuda_emulated_order(0);
    dev_free(dx), dev_free(dy);
}

/* d = a . transpose(b): a [16][16], b [8][16], of 16-bit elements, by way of ldmatrix: A as it is, B rows as columns. */
KERNEL(multiply_16)(float *d, const uint16_t *a, const uint16_t *b, int bf16, int transposed)
{
    SHARED(uint16_t, sa, 16 * 24);
    SHARED(uint16_t, sb, 16 * 24);
    for (int i = lane(); i < 32; i += WARP) {
        cp_async16(&sa[i / 2 * 24 + i % 2 * 8], a + i * 8, true);
        cp_async16(&sb[i / 2 * 24 + i % 2 * 8], b + i % 16 * 8, i < 16);
    }
    cp_async_commit();
    cp_async_wait<0>();
    sync_warp();
    uint32_t ra[4], rb[4];
    float acc[4] = {0, 0, 0, 0};
    ldmatrix_x4(ra, &sa[(lane() % 16) * 24 + lane() / 16 * 8]);
    if (transposed) /* rows of sa read as columns of B: matrix 0 is k 0-7, 1 is k 8-15 */
        ldmatrix_x4_trans(rb, &sa[(lane() % 16) * 24 + lane() / 16 * 8]);
    else
        ldmatrix_x4(rb, &sb[(lane() % 8) * 24 + lane() / 8 % 2 * 8]);
    if (bf16)
        mma_bf16_m16n8k16(acc, ra, rb);
    else
        mma_f16_m16n8k16(acc, ra, rb);
    int g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

static void tensor_cores_multiply(void)
{
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (int transposed = 0; transposed < 2; transposed++) {
            float fa[256], fb[128], d[128] = {0};
            uint16_t a[256], b[128];
            for (int i = 0; i < 256; i++)
                a[i] =
                    bf16 ? f32_to_bf16(fa[i] = (float)(i * 7 % 13 - 6)) : f32_to_f16(fa[i] = (float)(i * 7 % 13 - 6));
            for (int i = 0; i < 128; i++)
                b[i] =
                    bf16 ? f32_to_bf16(fb[i] = (float)(i * 5 % 11 - 5)) : f32_to_f16(fb[i] = (float)(i * 5 % 11 - 5));
            uint16_t *da = (uint16_t *)device_copy(a, sizeof a), *db = (uint16_t *)device_copy(b, sizeof b);
            float *dd = (float *)device_copy(d, sizeof d);
            CHECK_INT(launch(st, multiply_16, grid_of(1), WARP, 0, dd, da, db, bf16, transposed), K_OK);
            CHECK_INT(copy_out(st, d, dd, sizeof d), K_OK);
            for (int i = 0; i < 16; i++)
                for (int j = 0; j < 8; j++) {
                    float sum = 0;
                    for (int k = 0; k < 16; k++)
                        sum += fa[i * 16 + k] * (transposed ? fa[k * 16 + j] : fb[j * 16 + k]);
                    CHECK(d[i * 8 + j] == sum);
                }
            dev_free(da), dev_free(db), dev_free(dd);
        }
}

static bool has_wgmma(void)
{
    struct device_facts f;
    return device_facts_of(0, &f) == K_OK && f.major == 9;
}

/* 1 + 7 e^2 as a tensor core makes it. */
static float one_and_seven(float e)
{
    float d[128] = {0};
    uint16_t a[256] = {0}, b[128] = {0};
    for (int k = 0; k < 8; k++)
        a[k] = f32_to_f16(k ? e : 1.0f), b[k] = f32_to_f16(k ? e : 1.0f);
    uint16_t *da = (uint16_t *)device_copy(a, sizeof a), *db = (uint16_t *)device_copy(b, sizeof b);
    float *dd = (float *)device_copy(d, sizeof d);
    CHECK_INT(launch(st, multiply_16, grid_of(1), WARP, 0, dd, da, db, 0, 0), K_OK);
    CHECK_INT(copy_out(st, d, dd, sizeof d), K_OK);
    dev_free(da), dev_free(db), dev_free(dd);
    return d[0];
}

/* Rounded that would be more than 1, but each of the small ones is cut off: an A100 keeps 24 bits, an H100 25. */
static void tensor_cores_cut(void)
{
    CHECK(one_and_seven(0x1p-13f) == 1.0f);
    CHECK(one_and_seven(0x1.bcp-13f) == (has_wgmma() ? 1.0f + 0x1p-23f : 1.0f)); /* seven of 1.5 * 2^-25 */
}

/* d = a . transpose(b): a [16][32], b [8][32] bytes, straight from memory. */
KERNEL(multiply_bytes)(int *d, const int8_t *a, const int8_t *b)
{
    int g = lane() / 4, t = lane() % 4, acc[4] = {0, 0, 0, 0};
    uint32_t ra[4], rb[2];
    for (int i = 0; i < 4; i++)
        ra[i] = load4_stream(a + (g + i % 2 * 8) * 32 + 4 * t + i / 2 * 16);
    for (int i = 0; i < 2; i++)
        rb[i] = load4_stream(b + g * 32 + 4 * t + i * 16);
    mma_s8_m16n8k32(acc, ra, rb);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

static void tensor_cores_multiply_bytes(void)
{
    int8_t a[512], b[256];
    int d[128] = {0};
    for (int i = 0; i < 512; i++)
        a[i] = (int8_t)(i * 37);
    for (int i = 0; i < 256; i++)
        b[i] = (int8_t)(i * 91);
    int8_t *da = (int8_t *)device_copy(a, sizeof a), *db = (int8_t *)device_copy(b, sizeof b);
    int *dd = (int *)device_copy(d, sizeof d);
    CHECK_INT(launch(st, multiply_bytes, grid_of(1), WARP, 0, dd, da, db), K_OK);
    CHECK_INT(copy_out(st, d, dd, sizeof d), K_OK);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            int sum = 0;
            for (int k = 0; k < 32; k++)
                sum += a[i * 32 + k] * b[j * 32 + k];
            CHECK_INT(d[i * 8 + j], sum);
        }
    dev_free(da), dev_free(db), dev_free(dd);
}

/* What each block wrote, added up by the last; y[1 + block]: its part. */
KERNEL(sum_blocks)(int *y, uint32_t *arrived, int n)
{
    SHARED(int, last, 1);
    if (thread_x() == 32)
        y[1 + block_x()] = block_x() + 1;
    sync_block();
    if (thread_x() == 0)
        *last = arrive_last(arrived, n);
    sync_block();
    if (thread_x() == 40 && *last) {
        y[0] = block_x();
        for (int i = 0; i < n; i++)
            y[1 + n] += y[1 + i];
    }
}

static void the_last_block_ends_it(void)
{
    enum { N = 6 };
    int y[N + 2] = {0}, lasts[4];
    uint32_t none = 0;
    int *dy = (int *)device_copy(y, sizeof y);
    uint32_t *arrived = (uint32_t *)device_copy(&none, sizeof none);
    for (unsigned order = 0; order < 4; order++) {
        cuda_emulated_order(order);
        CHECK_INT(launch(st, sum_blocks, grid_of(N), 64, 0, dy, arrived, N), K_OK);
        CHECK_INT(copy_out(st, y, dy, sizeof y), K_OK);
        CHECK_INT(y[N + 1], (int)(order + 1) * N * (N + 1) / 2);
        lasts[order] = y[0];
    }
    cuda_emulated_order(0);
    CHECK(lasts[0] == N - 1 && lasts[1] == 0 && lasts[2] != lasts[3]);
    dev_free(dy), dev_free(arrived);
}

KERNEL(count)(int *n)
{
    atomic_add_int(n, 1);
}

static void graphs_replay(void)
{
    int n = 0;
    int *dn = (int *)device_copy(&n, sizeof n);
    graph_t g;
    CHECK_INT(graph_capture_begin(st), K_OK);
    CHECK_INT(launch(st, count, grid_of(2), 32, 0, dn), K_OK);
    CHECK_INT(launch(st, count, grid_of(1), 1, 0, dn), K_OK);
    CHECK_INT(graph_capture_end(st, &g), K_OK);
    CHECK_INT(copy_out(st, &n, dn, sizeof n), K_OK);
    CHECK_INT(n, 0);
    for (int i = 0; i < 2; i++)
        CHECK_INT(graph_launch(st, g), K_OK);
    CHECK_INT(copy_out(st, &n, dn, sizeof n), K_OK);
    CHECK_INT(n, 2 * 65);
    graph_free(g);
    dev_free(dn);
}

static void memory_is_counted(void)
{
    void *p = NULL;
    size_t before = cuda_emulated_allocated(), left, total;
    cuda_emulated_memory(before + 1000);
    CHECK_INT(dev_alloc(&p, 1001), K_NO_MEMORY);
    CHECK(p == NULL);
    CHECK_INT(dev_alloc(&p, 600), K_OK);
    CHECK_INT(device_mem(&left, &total), K_OK);
    CHECK_INT(left, 400);
    dev_free(p);
    CHECK_INT(cuda_emulated_allocated(), before);
    cuda_emulated_memory((size_t)4 << 30);
    cuda_emulated_lose(true);
    CHECK_INT(stream_sync(st), K_DEVICE);
    CHECK_INT(dev_alloc(&p, 1), K_DEVICE);
    cuda_emulated_lose(false);
    CHECK_INT(launch(st, count, grid_of(1), 1025, 0, (int *)NULL), K_DEVICE);
}

/* ---- what must end the program ---- */

KERNEL(half_a_block)(void)
{
    if (thread_x() < 40)
        shfl_xor(1.0f, 1);
}
KERNEL(lanes_apart)(void)
{
    if (thread_x() % 2)
        sync_warp();
    else
        warp_ballot(true);
}
KERNEL(barrier_apart)(void)
{
    if (thread_x() < 16)
        sync_block();
    else
        sync_warp();
}
KERNEL(touch)(char *p, int at)
{
    p[at] = 1;
}

static void launch_half(void)
{
    (void)launch(st, half_a_block, grid_of(1), 64, 0);
}
static void launch_apart(void)
{
    (void)launch(st, lanes_apart, grid_of(1), 32, 0);
}
static void launch_barrier(void)
{
    (void)launch(st, barrier_apart, grid_of(1), 32, 0);
}
static void launch_on_host_memory(void)
{
    char c = 0;
    (void)launch(st, touch, grid_of(1), 1, 0, &c, 0);
}
static void write_past_end(void)
{
    void *p;
    if (dev_alloc(&p, 100) == K_OK && launch(st, touch, grid_of(1), 1, 0, (char *)p, 100) == K_OK)
        dev_free(p);
}
/* A counter that was not left at zero. */
static void arrive_too_often(void)
{
    uint32_t before = 5;
    int y[8] = {0};
    (void)launch(st, sum_blocks, grid_of(2), 64, 0, (int *)device_copy(y, sizeof y),
                 (uint32_t *)device_copy(&before, sizeof before), 5);
}
static void touch_from_host(void)
{
    void *p;
    if (!TEST_SANITIZED && dev_alloc(&p, 100) == K_OK)
        *(volatile char *)p = 1;
    else
        abort(); /* with ASan device memory is the host's */
}

#ifdef SPW_CUDA_WATCHED /* every access of a kernel is looked at (emulated/shadow.h) */

enum mistake { NONE, NO_BARRIER, NO_SYNC_WARP, WRITE_AFTER_READ, SAME_WRITTEN, ATOMIC_AND_PLAIN, OFF, BEHIND, BLOCKS };

/* Right in itself; `which` takes something from it. */
KERNEL(mistaken)(int *y, enum mistake which)
{
    SHARED(int, s, 64);
    SHARED(int, sum, 1);
    const int t = thread_x();
    s[t] = t;
    if (t == 0 || which == SAME_WRITTEN)
        sum[0] = 0;
    if (which != NO_BARRIER)
        sync_block();
    int v = s[(t + 33) % 64];
    if (which != WRITE_AFTER_READ)
        sync_block();
    s[t] = v;
    if (which != NO_SYNC_WARP)
        sync_warp();
    v = (int)shfl_xor((float)s[t ^ 1], 1); /* orders no memory */
    if (which == ATOMIC_AND_PLAIN)
        sum[0] += v;
    else
        atomic_add_int(sum, v);
    sync_block();
    if (which == OFF)
        v += *(const int *)(const void *)((const char *)s + 2);
    if (which == BEHIND)
        v += s[64 + t % 2 - 1];
    if (which == BLOCKS || t == 0)
        y[which == BLOCKS ? 0 : block_x()] = sum[0] + (v == -1);
}

static int *watched_y;

template <int WHICH> static void launch_mistaken(void)
{
    (void)launch(st, mistaken, grid_of(2), 64, 0, watched_y, (enum mistake)WHICH);
}

/* Launched early: a sum of what is nobody's and what kernels write. */
KERNEL(early)(const int *weight, int *y, bool wait)
{
    int v = weight[thread_x()];
    let_next_begin();
    if (wait)
        wait_for_before();
    y[thread_x()] += v;
}
KERNEL(early_reader)(const int *y, int *to)
{
    int v = y[thread_x()];
    wait_for_before();
    to[thread_x()] = v;
}

static void write_too_early(void)
{
    int *y = (int *)device_copy("1234567", 8);
    (void)launch_early(st, true, early, grid_of(1), 2, 0, watched_y, y, false);
}
static void read_too_early(void)
{
    int *to = (int *)device_copy("1234567", 8);
    (void)launch_early(st, true, early_reader, grid_of(1), 2, 0, to, watched_y); /* of a copy's: right */
    (void)launch_early(st, true, early_reader, grid_of(1), 2, 0, watched_y, to);
}
static void early_in_time(void)
{
    int weights[2] = {1, 2}, zero[2] = {0, 0};
    int *w = (int *)device_copy(weights, sizeof weights), *y = (int *)device_copy(zero, sizeof zero);
    for (int i = 0; i < 3; i++)
        CHECK_INT(launch_early(st, true, early, grid_of(1), 2, 0, w, y, true), K_OK);
    CHECK_INT(copy_out(st, zero, y, sizeof zero), K_OK);
    CHECK_INT(zero[1], 6);
    dev_free(w), dev_free(y);
}
/* A sum of what both blocks wrote; `which` of what makes it right is missing. */
enum unmet { MET, NO_BARRIER_BEFORE, NO_BARRIER_BEHIND, WRITTEN_BEHIND, NOT_ARRIVED };
KERNEL(unmet)(int *y, uint32_t *arrived, enum unmet which)
{
    SHARED(int, last, 1);
    const int t = thread_x();
    if (t == 32 && which != WRITTEN_BEHIND)
        y[block_x()] = 1;
    if (which != NO_BARRIER_BEFORE)
        sync_block();
    if (t == 0)
        *last = which == NOT_ARRIVED ? block_x() : arrive_last(arrived, 2);
    if (t == 0 && which == NO_BARRIER_BEHIND && *last)
        y[2] = y[0];
    sync_block();
    if (t == 32 && which == WRITTEN_BEHIND)
        y[block_x()] = 1;
    if (t == 0 && *last)
        y[2] = y[0] + y[1];
}
template <int WHICH> static void launch_unmet(void)
{
    int y[3] = {0};
    uint32_t none = 0;
    uint32_t *arrived = (uint32_t *)device_copy(&none, sizeof none);
    int *dy = (int *)device_copy(y, sizeof y);
    (void)launch(st, unmet, grid_of(2), 64, 0, dy, arrived, (enum unmet)WHICH);
    dev_free(dy), dev_free(arrived);
}
#define WATCHED true
#define WATCHED_MISTAKES                                                                                               \
    launch_mistaken<NO_BARRIER>, launch_mistaken<NO_SYNC_WARP>, launch_mistaken<WRITE_AFTER_READ>,                     \
        launch_mistaken<SAME_WRITTEN>, launch_mistaken<ATOMIC_AND_PLAIN>, launch_mistaken<OFF>,                        \
        launch_mistaken<BEHIND>, launch_mistaken<BLOCKS>, write_too_early, read_too_early,                             \
        launch_unmet<NO_BARRIER_BEFORE>, launch_unmet<NO_BARRIER_BEHIND>, launch_unmet<WRITTEN_BEHIND>,                \
        launch_unmet<NOT_ARRIVED>

static void what_is_right_passes(void)
{
    int y[2] = {0, 0};
    watched_y = (int *)device_copy(y, sizeof y);
    for (unsigned order = 0; order < 4; order++) {
        cuda_emulated_order(order);
        launch_mistaken<NONE>();
        launch_unmet<MET>();
    }
    cuda_emulated_order(0);
    CHECK_INT(copy_out(st, y, watched_y, sizeof y), K_OK);
    CHECK_INT(y[1], 64 * 63 / 2);
    early_in_time();
}
#else
#define WATCHED          false
#define WATCHED_MISTAKES touch_from_host
static void what_is_right_passes(void)
{
}
#endif

/* ---- a warpgroup's products: y[64][64] = a . transpose(b), both [64][64] BF16, and each way to get it wrong ---- */

enum wgmma_mistake { RIGHT, NOT_BEGUN, NOT_TOLD, NOT_WAITED, WRITTEN_BEFORE_WAIT, READ_BEFORE_WAIT, OFF_ROWS };

template <int MISTAKE> KERNEL(multiply_wgmma)(float *y, const uint16_t *a, const uint16_t *b)
{
    SHARED_DYN(uint8_t, dyn);
    uint8_t *w = dyn + (WGMMA_ALIGN - ((uintptr_t)dyn & (WGMMA_ALIGN - 1))) % WGMMA_ALIGN, *x = w + 64 * 128;
    float d[8][4] = {}, early = 0.0f;
    for (int i = thread_x(); i < 64 * 8; i += block_dim()) {
        int r = i / 8, at = (r * 8 + ((i % 8) ^ (r & 7))) * 16; /* piece_16() */
        cp_async16(w + at, a + i * 8, true);
        cp_async16(x + at, b + i * 8, true);
    }
    cp_async_commit();
    cp_async_wait<0>();
    if (MISTAKE != NOT_TOLD)
        shared_to_wgmma();
    sync_block();
    struct wgmma_rows rw = wgmma_rows_at(w + (MISTAKE == OFF_ROWS ? 4 * 128 : 0)), rx = wgmma_rows_at(x);
    if (MISTAKE != NOT_BEGUN)
        wgmma_begin();
    for (int k = 0; k < 4; k++)
        wgmma<true>(d, wgmma_rows_from(rw, k), wgmma_rows_from(rx, k), k > 0);
    wgmma_end();
    if (MISTAKE == WRITTEN_BEFORE_WAIT) {
        *(uint32_t *)(w + 4 * thread_x()) = 0;
        sync_block();
    }
    if (MISTAKE == READ_BEFORE_WAIT)
        early = d[0][0];
    if (MISTAKE != NOT_WAITED)
        wgmma_wait<0>();
    for (int i = 0; i < 32; i++) {
        int row = warp_of_block() * 16 + lane() / 4 + 8 * (i % 4 / 2), col = i / 4 * 8 + 2 * (lane() & 3) + i % 2;
        y[row * 64 + col] = d[i / 4][i % 4] + early;
    }
}

template <int MISTAKE> static void launch_wgmma(float *y)
{
    uint16_t a[64 * 64], b[64 * 64];
    for (int i = 0; i < 64 * 64; i++)
        a[i] = f32_to_bf16((float)(i * 7 % 31 - 15)), b[i] = f32_to_bf16((float)(i * 5 % 23 - 11));
    uint16_t *da = (uint16_t *)device_copy(a, sizeof a), *db = (uint16_t *)device_copy(b, sizeof b);
    float *dy = (float *)device_copy(y, 64 * 64 * sizeof *y);
    CHECK_INT(launch(st, multiply_wgmma<MISTAKE>, grid_of(1), 128, (2 * 64 * 128) + WGMMA_ALIGN, dy, da, db), K_OK);
    CHECK_INT(copy_out(st, y, dy, 64 * 64 * sizeof *y), K_OK);
    dev_free(da), dev_free(db), dev_free(dy);
}

static void warpgroups_multiply(void)
{
    static float y[64 * 64];
    if (!has_wgmma())
        return;
    launch_wgmma<RIGHT>(y);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            int sum = 0;
            for (int k = 0; k < 64; k++)
                sum += ((i * 64 + k) * 7 % 31 - 15) * ((j * 64 + k) * 5 % 23 - 11);
            CHECK(y[i * 64 + j] == (float)sum);
        }
    launch_wgmma<READ_BEFORE_WAIT>(y); /* what is there before is no number */
    CHECK(y[0] != y[0]);
}

template <int MISTAKE> static void wgmma_wrong(void)
{
    static float y[64 * 64];
    if (!has_wgmma()) /* it ends there, too */
        launch_wgmma<RIGHT>(y);
    launch_wgmma<MISTAKE>(y);
}

static void mistakes_end_the_program(void)
{
    static void (*const mistakes[])(void) = {launch_half,
                                             launch_apart,
                                             launch_barrier,
                                             launch_on_host_memory,
                                             write_past_end,
                                             arrive_too_often,
                                             touch_from_host,
                                             wgmma_wrong<NOT_BEGUN>,
                                             wgmma_wrong<NOT_TOLD>,
                                             wgmma_wrong<NOT_WAITED>,
                                             wgmma_wrong<WRITTEN_BEFORE_WAIT>,
                                             wgmma_wrong<OFF_ROWS>,
                                             WATCHED_MISTAKES};
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            if (!freopen("/dev/null", "w", stderr))
                _exit(0);
            mistakes[i]();
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (status == 0)
            fprintf(stderr, "mistake %zu was not seen\n", i);
        CHECK(status != 0);
    }
}

/* Neighbours without a barrier between: some order shows it. */
KERNEL(race)(int *y)
{
    SHARED(int, s, 32);
    s[thread_x()] = thread_x();
    y[thread_x()] = s[(thread_x() + 1) % 32];
}

static void races_show(void)
{
    int y[2][32] = {{0}};
    int *dy = (int *)device_copy(y[0], sizeof y[0]);
    for (unsigned order = 0; order < 2; order++) {
        cuda_emulated_order(order);
        CHECK_INT(launch(st, race, grid_of(1), 32, 0, dy), K_OK);
        CHECK_INT(copy_out(st, y[order], dy, sizeof y[order]), K_OK);
    }
    cuda_emulated_order(0);
    CHECK(memcmp(y[0], y[1], sizeof y[0]) != 0);
    dev_free(dy);
}

int main(void)
{
    CHECK_INT(stream_new(&st), K_OK);
    TEST(sums_in_every_order);
    TEST(tensor_cores_multiply);
    TEST(tensor_cores_cut);
    TEST(tensor_cores_multiply_bytes);
    TEST(the_last_block_ends_it);
    TEST(warpgroups_multiply);
    TEST(graphs_replay);
    TEST(memory_is_counted);
    TEST(what_is_right_passes);
    TEST(mistakes_end_the_program);
    if (!WATCHED) /* there they do not get so far */
        TEST(races_show);
    stream_free(st);
    return TEST_RESULT();
}
