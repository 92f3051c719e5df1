/* The emulated device's tensor cores: products of a warp and of a warpgroup, and the loads for them. */
#include <math.h>
#include <string.h>
#include <vector>

#include "kernels/cuda/emulated/fibers.h"
#include "kernels/cuda/emulated/shadow.h"
#include "kernels/cuda/emulated/tensor.h"

/* ---- tensor cores. PTX ISA, "Matrix Fragments for mma.m16n8k16": lane l is group g = l / 4 and place t = l % 4. Register
 * i of A holds row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next; of B column g, rows 2 t + 8 i and the next; of C
 * row g + 8 (i / 2), column 2 t + i % 2. With bytes (m16n8k32) four columns from 4 t + 16 (i / 2). ---- */

struct fragments {
    uint32_t a[4], b[2];
};

static struct fragments fragments_of(const unsigned char *all, int from)
{
    struct fragments f;
    memcpy(&f, all + from * EMULATED_SLOT, sizeof f);
    return f;
}

/* All halves as floats, made once: most of a test's time goes into these products. */
static const float *half_values(void)
{
    static const std::vector<float> values = [] {
        std::vector<float> v(65536);
        for (uint32_t h = 0; h < 65536; h++)
            v[h] = f16_to_f32((uint16_t)h);
        return v;
    }();
    return values.data();
}

static double element(uint32_t pair, int upper, const float *halves)
{
    uint16_t h = (uint16_t)(pair >> (upper ? 16 : 0));
    return (double)(halves ? halves[h] : bf16_to_f32(h));
}

/* ---- sums: terms and the sum so far are cut off, all at the same place, and added; so is the result ---- */

#define SIGN ((uint64_t)1 << 63)

static uint64_t bits_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double double_of(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* sum + a[0] b[0] + ... of AT_ONCE products; products of halves are exact in double. */
template <int AT_ONCE, int BITS> static float add_at_once(float sum, const double *a, const double *b)
{
    double terms[AT_ONCE + 1] = {(double)sum};
    uint64_t largest = bits_of(terms[0]) & ~SIGN; /* as bits: what is no number is larger than all that are */
    for (int k = 0; k < AT_ONCE; k++) {
        terms[k + 1] = a[k] * b[k];
        const uint64_t size = bits_of(terms[k + 1]) & ~SIGN;
        largest = size > largest ? size : largest;
    }
    const uint64_t top = largest >> 52; /* its exponent, biased */
    int64_t kept = 0;
    if (top > 1023 - 100 && top < 1023 + 120) { /* neither next to nothing nor no numbers */
        const double per_unit = double_of((2046 + BITS - top) << 52);
        for (int k = 0; k <= AT_ONCE; k++)
            kept += (int64_t)(terms[k] * per_unit);
        const uint64_t exact = bits_of((double)kept * double_of((top - BITS) << 52));
        return (float)double_of(exact & ~(((uint64_t)1 << 29) - 1));
    }
    double plain = 0.0;
    for (int k = 0; k <= AT_ONCE; k++)
        plain += terms[k];
    return (float)plain;
}

/* 16 products, as an A100 was found to add them (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores",
 * PeerJ Computer Science 2021) and an H100, in either kind of instruction (Xie, Wang, Yang and Yang, "MMA-Sim", arXiv
 * 2511.10909). */
static float add_products(float sum, const double *a, const double *b)
{
    static const bool hopper = tensor_core_is_hopper();
    return hopper ? add_at_once<16, 25>(sum, a, b) : add_at_once<8, 24>(add_at_once<8, 24>(sum, a, b), a + 8, b + 8);
}

void emulated_mma_float(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16)
{
    struct fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *all = emulated_exchange(EMULATED_MMA, &mine, sizeof mine);
    const float *halves = bf16 ? NULL : half_values();
    int g = lane() / 4, t = lane() % 4;
    double row[2][16], column[2][16]; /* of the results in d */
    for (int k = 0; k < 16; k++) {
        struct fragments fa = fragments_of(all, g * 4 + k % 8 / 2);
        for (int i = 0; i < 2; i++) {
            struct fragments fb = fragments_of(all, (2 * t + i) * 4 + k % 8 / 2);
            row[i][k] = element(fa.a[i + 2 * (k / 8)], k % 2, halves);
            column[i][k] = element(fb.b[k / 8], k % 2, halves);
        }
    }
    for (int i = 0; i < 4; i++)
        d[i] = add_products(d[i], row[i / 2], column[i % 2]);
}

void mma_s8_m16n8k32(int d[4], const uint32_t a[4], const uint32_t b[2])
{
    struct fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *all = emulated_exchange(EMULATED_MMA, &mine, sizeof mine);
    int g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        int row_half = i / 2, column = 2 * t + i % 2;
        for (int k = 0; k < 32; k += 4) {
            struct fragments fa = fragments_of(all, g * 4 + k % 16 / 4),
                             fb = fragments_of(all, column * 4 + k % 16 / 4);
            d[i] = dot4_s8((int)fa.a[row_half + 2 * (k / 16)], (int)fb.b[k / 16], d[i]);
        }
    }
}

static const unsigned char *row_of(const unsigned char *all, int from)
{
    const unsigned char *row;
    memcpy(&row, all + from * EMULATED_SLOT, sizeof row);
    if ((uintptr_t)row % 16)
        emulated_die("ldmatrix: row %p is not a multiple of 16", (const void *)row);
    return row;
}

void ldmatrix_x4(uint32_t r[4], const void *row)
{
    const unsigned char *all = emulated_exchange(EMULATED_LDMATRIX, &row, sizeof row);
    for (int m = 0; m < 4; m++) {
        const unsigned char *from = row_of(all, m * 8 + lane() / 4) + lane() % 4 * 4;
        shadow_read(from, 4, true);
        memcpy(&r[m], from, 4);
    }
    emulated_exchange(EMULATED_LDMATRIX, NULL, 0); /* rows may be written again after */
}

void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    const unsigned char *all = emulated_exchange(EMULATED_LDMATRIX, &row, sizeof row);
    for (int m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
            const unsigned char *from = row_of(all, m * 8 + lane() % 4 * 2 + i) + lane() / 4 * 2;
            shadow_read(from, 2, true);
            memcpy(&pair[i], from, 2);
        }
        r[m] = (uint32_t)pair[1] << 16 | pair[0];
    }
    emulated_exchange(EMULATED_LDMATRIX, NULL, 0);
}

/* ---- products of a warpgroup. Each thread keeps what it began and makes it when it waits for it, as late as that may be: what it
 * reads must be then what it was when it began. Until then its sums are no numbers. ---- */

#define TILE_REGISTERS 4
#define TILES_MAX      32

struct product {
    float *d;
    int tiles;
    bool bf16, to_d, first; /* first: none before it is under way with the same d, so that `held` is what stood there */
    const unsigned char *x, *y;
    uint64_t seen; /* what is read, in short */
    int group;
    float held[TILES_MAX * TILE_REGISTERS];
};

struct warpgroup_thread {
    std::vector<product> under_way;
    int ended;     /* groups */
    bool begun;    /* wgmma_begin() without wgmma_end() */
    bool unfenced; /* shared memory by cp.async, and no shared_to_wgmma() since */
};

static struct {
    warpgroup_thread threads[MAX_THREADS];
    bool unfenced; /* some thread was that at the last barrier */
} warpgroups;

static warpgroup_thread *here(void)
{
    return &warpgroups.threads[thread_x()];
}

void tensor_begin(int threads)
{
    for (int i = 0; i < threads; i++)
        warpgroups.threads[i] = {};
    warpgroups.unfenced = false;
}

void tensor_end(int threads)
{
    for (int i = 0; i < threads; i++)
        if (!warpgroups.threads[i].under_way.empty()) {
            emulated_at.thread = i;
            emulated_die("the block ended without waiting for %zu of its wgmma",
                         warpgroups.threads[i].under_way.size());
        }
}

void tensor_copied(void)
{
    here()->unfenced = true;
}

void tensor_sync_block(int threads)
{
    warpgroups.unfenced = false;
    for (int i = 0; i < threads; i++)
        warpgroups.unfenced |= warpgroups.threads[i].unfenced;
}

/* PTX ISA, "Shared Memory Matrix Layout": the swizzle of 128 bytes. Row r's 16 numbers from where the address says,
 * each half of them 16 bytes. */
static const unsigned char *half_row(const unsigned char *at, int r, int half)
{
    uintptr_t plain = (uintptr_t)at + (uintptr_t)(r / 8 * WGMMA_ALIGN + r % 8 * 128 + 16 * half);
    return (const unsigned char *)(plain ^ (plain >> 7 & 7) << 4);
}

static int own_row(int h) /* h-th of this thread's two rows of x */
{
    return warp_of_block() % 4 * 16 + lane() / 4 + 8 * h;
}
static int own_column(int i) /* i-th of the 2 tiles rows of y */
{
    return i / 2 * 8 + 2 * (lane() & 3) + (i & 1);
}

static void row_values(double to[16], const unsigned char *at, int r, const float *halves)
{
    for (int k = 0; k < 16; k++) {
        uint16_t h;
        memcpy(&h, half_row(at, r, k / 8) + 2 * (k % 8), sizeof h);
        to[k] = (double)(halves ? halves[h] : bf16_to_f32(h));
    }
}

static uint64_t in_short(uint64_t so_far, const unsigned char *at, int r, bool look)
{
    for (int half = 0; half < 2; half++) {
        uint64_t words[2];
        const unsigned char *from = half_row(at, r, half);
        if (look)
            shadow_read(from, 16, true);
        memcpy(words, from, sizeof words);
        so_far = (so_far ^ words[0]) * 0x9e3779b97f4a7c15u;
        so_far = (so_far ^ so_far >> 29 ^ words[1]) * 0xbf58476d1ce4e5b9u;
    }
    return so_far;
}

static uint64_t what_is_read(const product &p, bool look)
{
    uint64_t sum = 0;
    for (int h = 0; h < 2; h++)
        sum = in_short(sum, p.x, own_row(h), look);
    for (int i = 0; i < 2 * p.tiles; i++)
        sum = in_short(sum, p.y, own_column(i), look);
    return sum;
}

struct wgmma_rows wgmma_rows_at(const void *shared)
{
    if ((uintptr_t)shared % WGMMA_ALIGN)
        emulated_die("wgmma: rows at %p, which is no multiple of %d", shared, WGMMA_ALIGN);
    return {(const unsigned char *)shared};
}

void shared_to_wgmma(void)
{
    here()->unfenced = false;
}

void wgmma_begin(void)
{
    here()->begun = true;
}

void emulated_wgmma(float *d, int tiles, struct wgmma_rows x, struct wgmma_rows y, bool bf16, bool to_d)
{
    warpgroup_thread *t = here();
    product p = {d, tiles, bf16, to_d, true, x.at, y.at, 0, t->ended, {}};
    if (block_dim() % (4 * WARP))
        emulated_die("wgmma in a block of %d threads: these are no whole warpgroups", block_dim());
    if (!tensor_core_is_hopper())
        emulated_die("wgmma on a device that has none");
    if (!t->begun)
        emulated_die("wgmma without wgmma_begin() before it");
    if (warpgroups.unfenced)
        emulated_die("wgmma: a thread came to the last barrier with copies and without shared_to_wgmma()");
    emulated_exchange(EMULATED_WGMMA, NULL, 0);
    p.seen = what_is_read(p, true);
    for (const product &before : t->under_way)
        p.first &= before.d != d;
    for (int i = 0; p.first && i < tiles * TILE_REGISTERS; i++) {
        p.held[i] = d[i];
        d[i] = NAN;
    }
    t->under_way.push_back(p);
}

void wgmma_end(void)
{
    here()->begun = false;
    here()->ended++;
}

static void make(const product &p)
{
    const float *halves = p.bf16 ? NULL : half_values();
    double rows[2][16], column[16];
    if (what_is_read(p, false) != p.seen)
        emulated_die("wgmma: what it reads was written between its begin and the wait for it");
    if (p.first)
        memcpy(p.d, p.held, (size_t)p.tiles * TILE_REGISTERS * sizeof *p.d);
    for (int h = 0; h < 2; h++)
        row_values(rows[h], p.x, own_row(h), halves);
    for (int i = 0; i < 2 * p.tiles; i++) {
        row_values(column, p.y, own_column(i), halves);
        for (int h = 0; h < 2; h++) {
            float *d = &p.d[i / 2 * TILE_REGISTERS + 2 * h + (i & 1)];
            *d = add_products(p.to_d ? *d : 0.0f, rows[h], column);
        }
    }
}

void emulated_wgmma_wait(int n)
{
    warpgroup_thread *t = here();
    size_t made = 0;
    while (made < t->under_way.size() && t->under_way[made].group < t->ended - n)
        make(t->under_way[made++]);
    t->under_way.erase(t->under_way.begin(), t->under_way.begin() + (ptrdiff_t)made);
}
