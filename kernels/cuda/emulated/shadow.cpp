/* Who touched each byte last. Time is counted in phases, which a block's barriers part, and inside of a phase, for each
 * warp, in turns, which its sync_warp() part. Blocks run one after the other, so that phases tell them apart, too. */
#include "kernels/cuda/emulated/shadow.h"

#ifdef SPW_CUDA_WATCHED

#include <dlfcn.h>
#include <map>
#include <stdio.h>
#include <sys/mman.h>
#include <vector>

#include "kernels/cuda/portable.cuh"

#define THREAD_ATOMIC 0xfffd /* any, by atomic operations */
#define THREAD_LANES  0xfffe /* several of one warp */
#define THREAD_MANY   0xffff /* several */
#define WARPS_MAX     32

namespace
{

struct cell {
    uint32_t w_phase, w_pc;
    uint16_t w_thread, w_turn;
    uint32_t r_phase;
    uint16_t r_thread, r_turn, r_warp;
};

struct watched {
    size_t bytes;
    struct cell *cells; /* a mapping: zeros until touched */
    enum shadow_kind kind;
    uint32_t written; /* phase of the last write */
};

/* Phases [from, to) of a block: what it wrote before the barrier that is before its arrival. */
struct arrival {
    uint32_t from, to;
};

struct shadow {
    std::map<uintptr_t, watched> memory;
    std::map<const void *, std::vector<arrival>> arrivals; /* of the launch, by counter */
    std::vector<arrival> seen;                             /* by the running block, */
    uint32_t seen_after = 0;                               /* behind this phase */
    uint32_t phase = 1, launch_phase = 1, block_phase = 1;
    uint16_t turn[WARPS_MAX];
    bool runs = false;
    bool early = false;            /* the launch is, and */
    bool waited[WARPS_MAX * WARP]; /* these threads of its block have waited for what is before it */
};

shadow &state()
{
    static shadow *s = new shadow;
    return *s;
}

struct access {
    const void *p, *pc;
    size_t bytes;
    bool writes, atomic, collective;
};

long offset_of(const void *pc)
{
    Dl_info info;
    return dladdr(pc, &info) ? (long)((const char *)pc - (const char *)info.dli_fbase) : 0;
}

/* `what` is wrong with the access, `at` in its memory. */
[[noreturn]] void die(const access &a, size_t at, const char *what)
{
    emulated_die("%s of %zu bytes, %zu into its memory, by the code at 0x%lx: %s (addr2line has the line)",
                 a.atomic   ? "an atomic operation"
                 : a.writes ? "a write"
                            : "a read",
                 a.bytes, at, offset_of(a.pc), what);
}

/* Somebody else's access is in its way. */
[[noreturn]] void die_of_race(const access &a, size_t at, const char *what, unsigned thread, uint32_t pc)
{
    char text[128];
    int n = snprintf(text, sizeof text, "%s ", what);
    if (thread < THREAD_ATOMIC)
        n += snprintf(text + n, sizeof text - (size_t)n, "of thread %u", thread);
    else
        n += snprintf(text + n, sizeof text - (size_t)n, "of %s",
                      thread == THREAD_ATOMIC ? "atomics" : "several threads");
    if (pc)
        snprintf(text + n, sizeof text - (size_t)n, " at 0x%x", pc);
    die(a, at, text);
}

int warp_of(unsigned thread)
{
    return (int)(thread / WARP);
}

/* Was the access of `thread` (in the present phase) followed by a sync_warp() that the running one took part in? */
bool ordered(const shadow &s, unsigned thread, unsigned turn, unsigned me)
{
    return thread == me || (thread < THREAD_ATOMIC && warp_of(thread) == warp_of(me) && turn < s.turn[warp_of(me)]);
}

/* Was it written by a block that arrived before the running one did? */
bool arrived(const shadow &s, uint32_t phase)
{
    bool found = false;
    for (const arrival &a : s.seen)
        found = found || (phase >= a.from && phase < a.to && s.phase > s.seen_after);
    return found;
}

/* Beside what was written before; true if it is somebody else's, unordered. */
void check_write_before(const shadow &s, const access &a, const cell &c, size_t at, bool shared)
{
    const unsigned me = (unsigned)emulated_at.thread;
    if (c.w_phase < (shared ? s.block_phase : s.launch_phase) || (a.atomic && c.w_thread == THREAD_ATOMIC))
        return;
    if (c.w_phase < s.block_phase && !arrived(s, c.w_phase))
        die_of_race(a, at, "beside a write in another block,", c.w_thread, c.w_pc);
    if (c.w_phase == s.phase && !ordered(s, c.w_thread, c.w_turn, me))
        die_of_race(a, at, "without a barrier after a write", c.w_thread, c.w_pc);
}

void check_read_before(const shadow &s, const access &a, const cell &c, size_t at)
{
    const unsigned me = (unsigned)emulated_at.thread;
    if (c.r_phase != s.phase)
        return;
    const bool same_warp = c.r_thread == THREAD_LANES && c.r_warp == warp_of(me) && c.r_turn < s.turn[warp_of(me)];
    if (!same_warp && !ordered(s, c.r_thread, c.r_turn, me))
        die_of_race(a, at, "without a barrier after a read", c.r_thread, 0);
}

void keep_read(const shadow &s, const access &a, cell *c)
{
    const unsigned me = (unsigned)emulated_at.thread;
    const uint16_t warp = (uint16_t)warp_of(me);
    /* A collective read is over when the next operation of the warp begins. */
    const uint16_t turn = (uint16_t)(s.turn[warp] - (a.collective ? 1 : 0));
    if (c->r_phase != s.phase) {
        c->r_thread = (uint16_t)me;
    } else if (c->r_thread != me || c->r_turn != turn) {
        const bool mine = c->r_thread != THREAD_MANY && c->r_warp == warp;
        if (mine && c->r_turn > turn)
            return;
        c->r_thread = !mine ? THREAD_MANY : c->r_turn < turn ? (uint16_t)me : THREAD_LANES;
    }
    c->r_phase = s.phase, c->r_turn = turn, c->r_warp = warp;
}

void look(const access &a, bool aligned)
{
    shadow &s = state();
    if (!s.runs || a.bytes == 0)
        return;
    auto found = s.memory.upper_bound((uintptr_t)a.p);
    if (found == s.memory.begin())
        return;
    watched &w = (--found)->second;
    const size_t at = (size_t)((uintptr_t)a.p - found->first);
    if (at >= w.bytes + SHADOW_BEHIND)
        return;
    if (at >= w.bytes || a.bytes > w.bytes - at)
        die(a, at, "it leaves that memory");
    if (aligned && (uintptr_t)a.p % a.bytes)
        die(a, at, "its address is no multiple of its size");
    if (w.kind == SHADOW_DEVICE && s.early && !s.waited[emulated_at.thread] && (a.writes || w.written > 0))
        die(a, at, "what kernels write is touched before wait_for_before()");
    if (w.kind == SHADOW_DEVICE && !a.writes && w.written < s.launch_phase)
        return;
    const uint32_t pc = (uint32_t)(a.writes ? offset_of(a.pc) : 0);
    for (size_t i = at; i < at + a.bytes; i++) {
        cell *c = &w.cells[i];
        check_write_before(s, a, *c, i, w.kind == SHADOW_SHARED);
        if (a.writes) {
            check_read_before(s, a, *c, i);
            const unsigned me = (unsigned)emulated_at.thread;
            c->w_phase = s.phase, c->w_thread = (uint16_t)(a.atomic ? THREAD_ATOMIC : me), c->w_pc = pc;
            c->w_turn = s.turn[warp_of(me)];
            w.written = s.phase;
        } else if (w.kind == SHADOW_SHARED) {
            keep_read(s, a, c);
        }
    }
}

} // namespace

void shadow_add(const void *p, size_t bytes, enum shadow_kind kind)
{
    if (bytes == 0)
        return;
    void *cells =
        mmap(NULL, bytes * sizeof(cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cells == MAP_FAILED)
        emulated_die("no memory to watch %zu bytes", bytes);
    state().memory[(uintptr_t)p] = {bytes, (cell *)cells, kind, 0};
}

void shadow_remove(const void *p)
{
    auto found = state().memory.find((uintptr_t)p);
    if (found == state().memory.end())
        return;
    munmap(found->second.cells, found->second.bytes * sizeof(cell));
    state().memory.erase(found);
}

void shadow_launch(bool early)
{
    state().launch_phase = state().phase + 1;
    state().early = early;
    state().arrivals.clear();
}

void shadow_wait_for_before(void)
{
    state().waited[emulated_at.thread] = true;
}

void shadow_arrive(const void *counter)
{
    shadow &s = state();
    look({counter, __builtin_return_address(0), 4, true, true, false}, true);
    std::vector<arrival> &before = s.arrivals[counter];
    s.seen.insert(s.seen.end(), before.begin(), before.end());
    s.seen_after = s.phase;
    before.push_back({s.block_phase, s.phase});
}

void shadow_block(bool runs)
{
    shadow &s = state();
    s.runs = runs;
    s.seen.clear();
    s.block_phase = ++s.phase;
    for (int i = 0; i < WARPS_MAX; i++)
        s.turn[i] = 1;
    memset(s.waited, 0, sizeof s.waited);
}

void shadow_sync_block(void)
{
    state().phase++;
}

void shadow_sync_warp(int warp)
{
    state().turn[warp]++;
}

void shadow_read(const void *p, size_t bytes, bool collective)
{
    look({p, __builtin_return_address(0), bytes, false, false, collective}, false);
}

void shadow_write(const void *p, size_t bytes)
{
    look({p, __builtin_return_address(0), bytes, true, false, false}, false);
}

/* ---- what the compiler calls (compiler-rt, tsan_interface.h) ---- */

#define PLAIN(n)                                                                                                       \
    void __tsan_read##n(void *p)                                                                                       \
    {                                                                                                                  \
        look({p, __builtin_return_address(0), n, false, false, false}, true);                                          \
    }                                                                                                                  \
    void __tsan_write##n(void *p)                                                                                      \
    {                                                                                                                  \
        look({p, __builtin_return_address(0), n, true, false, false}, true);                                           \
    }
#define UNALIGNED(n)                                                                                                   \
    void __tsan_unaligned_read##n(void *p)                                                                             \
    {                                                                                                                  \
        look({p, __builtin_return_address(0), n, false, false, false}, false);                                         \
    }                                                                                                                  \
    void __tsan_unaligned_write##n(void *p)                                                                            \
    {                                                                                                                  \
        look({p, __builtin_return_address(0), n, true, false, false}, false);                                          \
    }
#define ATOMIC(bits, type)                                                                                             \
    type __tsan_atomic##bits##_fetch_add(volatile type *p, type v, int)                                                \
    {                                                                                                                  \
        look({(const void *)p, __builtin_return_address(0), sizeof v, true, true, false}, true);                       \
        return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);                                                             \
    }                                                                                                                  \
    type __tsan_atomic##bits##_exchange(volatile type *p, type v, int)                                                 \
    {                                                                                                                  \
        look({(const void *)p, __builtin_return_address(0), sizeof v, true, true, false}, true);                       \
        return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);                                                            \
    }                                                                                                                  \
    type __tsan_atomic##bits##_load(const volatile type *p, int)                                                       \
    {                                                                                                                  \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                   \
    }                                                                                                                  \
    void __tsan_atomic##bits##_store(volatile type *p, type v, int)                                                    \
    {                                                                                                                  \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                                      \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *expected, type v, int, int)              \
    {                                                                                                                  \
        look({(const void *)p, __builtin_return_address(0), sizeof v, true, true, false}, true);                       \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                 \
    }

extern "C" {
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)
ATOMIC(8, uint8_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)
void __tsan_read_range(void *p, size_t n)
{
    look({p, __builtin_return_address(0), n, false, false, false}, false);
}
void __tsan_write_range(void *p, size_t n)
{
    look({p, __builtin_return_address(0), n, true, false, false}, false);
}
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
    look({from, __builtin_return_address(0), n, false, false, false}, false);
    look({to, __builtin_return_address(0), n, true, false, false}, false);
    return memcpy(to, from, n);
}
void *__tsan_memset(void *to, int byte, size_t n)
{
    look({to, __builtin_return_address(0), n, true, false, false}, false);
    return memset(to, byte, n);
}
void __tsan_init(void)
{
}
void __tsan_func_entry(void *)
{
}
void __tsan_func_exit(void)
{
}
void __tsan_vptr_update(void **, void *)
{
}
void __tsan_vptr_read(void **)
{
}
}

#endif
