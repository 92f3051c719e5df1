/* A block of CUDA threads on the host: a fiber each, run in turn until all wait for the same barrier or have returned.
 *
 * A fiber's life: fresh -> running <-> waiting (block or warp) -> done. One warp is run until none of its lanes can go
 * on, then the next; when no warp can, a block barrier that all have reached is opened, else the launch hangs on a
 * device too and the program ends with a message. */
#include "kernels/cuda/emulated/fibers.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

#include "kernels/cuda/emulated/control.h"
#include "kernels/cuda/emulated/shadow.h"
#include "kernels/cuda/emulated/tensor.h"

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)256 << 10)
#else
#define STACK_BYTES ((size_t)64 << 10)
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

__thread struct emulated_place emulated_at;

namespace
{

enum fiber_state { READY, WAITS, DONE };

struct async_copy {
    void *to;
    unsigned char bytes[16];
    int group;
};

struct fiber {
    enum fiber_state state;
    enum emulated_op op; /* what it waits for */
    unsigned exchanges;  /* parity: which half of the warp's slots */
    int commits;
    std::vector<async_copy> copies;
#ifdef __x86_64__
    void *sp;
#else
    ucontext_t at;
#endif
    void *fake_stack; /* ASan's */
};

/* Two halves: a lane may be one operation ahead of one that has not read yet, not two. */
struct warp_slots {
    unsigned char bytes[2][WARP][EMULATED_SLOT];
};

struct runner {
    fiber fibers[MAX_THREADS];
    warp_slots warps[MAX_THREADS / WARP];
    unsigned char *stacks; /* MAX_THREADS of them */
    fiber main;
    int n, current;
    const std::function<void()> *body;
    std::vector<unsigned char *> owned; /* shared arrays of the launch */
    std::map<const char *, std::pair<unsigned char *, size_t>> shared;
    unsigned char *dyn;
    size_t dyn_bytes, shared_used, shared_max;
    const void *main_stack;
    size_t main_stack_bytes;
    unsigned order = 0;
    int turns[MAX_THREADS];
};

runner &run()
{
    static runner *r = new runner(); /* one launch at a time; kept for its stacks */
    return *r;
}

unsigned char *stack_of(int i)
{
    return run().stacks + (size_t)i * STACK_BYTES;
}

} // namespace

/* ---- switching ---- */

#ifdef __x86_64__
extern "C" void emulated_switch(void **save, void *load);
asm(".text\n"
    ".globl emulated_switch\n"
    ".type emulated_switch, @function\n"
    "emulated_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size emulated_switch, . - emulated_switch\n");
#endif

static void switch_fiber(fiber *from, fiber *to, const void *stack, size_t bytes, bool last)
{
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, stack, bytes);
#else
    (void)stack, (void)bytes, (void)last;
#endif
#ifdef __x86_64__
    emulated_switch(&from->sp, to->sp);
#else
    swapcontext(&from->at, &to->at);
#endif
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

static void to_main(bool last)
{
    runner &r = run();
    switch_fiber(&r.fibers[r.current], &r.main, r.main_stack, r.main_stack_bytes, last);
}

static void fiber_main(void)
{
    runner &r = run();
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(NULL, &r.main_stack, &r.main_stack_bytes);
#endif
    (*r.body)();
    r.fibers[r.current].state = DONE;
    to_main(true);
    abort(); /* a fiber that is done is not run again */
}

static void fiber_begin(int i)
{
    fiber *f = &run().fibers[i];
    f->state = READY;
    f->exchanges = 0;
    f->commits = 0;
    f->copies.clear();
    f->fake_stack = NULL;
#ifdef WITH_ASAN
    __asan_unpoison_memory_region(stack_of(i), STACK_BYTES);
#endif
#ifdef __x86_64__
    /* As emulated_switch() left it: six registers, then where to return to; the stack is 8 off a multiple of 16 there,
     * as after a call. */
    void **sp = (void **)(stack_of(i) + STACK_BYTES - 16);
    *--sp = NULL;
    *--sp = (void *)fiber_main;
    for (int k = 0; k < 6; k++)
        *--sp = NULL;
    f->sp = sp;
#else
    getcontext(&f->at);
    f->at.uc_stack.ss_sp = stack_of(i);
    f->at.uc_stack.ss_size = STACK_BYTES;
    f->at.uc_link = NULL;
    makecontext(&f->at, fiber_main, 0);
#endif
}

/* ---- a block ---- */

static bool warp_opens(int first)
{
    runner &r = run();
    enum emulated_op op = r.fibers[first].op;
    for (int i = first; i < first + WARP; i++) {
        const fiber *f = i < r.n ? &r.fibers[i] : NULL;
        if (!f || f->state == DONE || (f->state == WAITS && f->op == EMULATED_SYNC_BLOCK))
            return false;
        if (f->op != op) {
            emulated_at.thread = i;
            emulated_die("lanes of one warp are in different warp operations (%d and %d)", f->op, op);
        }
    }
    for (int i = first; i < first + WARP; i++)
        r.fibers[i].state = READY;
    if (op == EMULATED_SYNC_WARP)
        shadow_sync_warp(first / WARP);
    return true;
}

/* Until no lane can go on. Lanes from `first`; turns[] says in which order. */
static void run_warp(int first)
{
    runner &r = run();
    int n = r.n - first < WARP ? r.n - first : WARP;
    bool in_warp_op;
    do {
        in_warp_op = false;
        for (int k = 0; k < n; k++) {
            int i = first + r.turns[first + k];
            fiber *f = &r.fibers[i];
            if (f->state == READY) {
                r.current = i;
                emulated_at.thread = i;
                switch_fiber(&r.main, f, stack_of(i), STACK_BYTES, false);
            }
            in_warp_op |= f->state == WAITS && f->op != EMULATED_SYNC_BLOCK;
        }
    } while (in_warp_op && warp_opens(first));
}

static void hangs(void)
{
    runner &r = run();
    int at[8] = {0}, done = 0, shown = 0;
    for (int i = 0; i < r.n; i++) {
        done += r.fibers[i].state == DONE;
        if (r.fibers[i].state == WAITS)
            at[r.fibers[i].op & 7]++;
    }
    for (int i = 0; i < r.n && !shown; i++)
        if (r.fibers[i].state == WAITS && (shown = 1))
            emulated_at.thread = i;
    emulated_die(
        "the block hangs: %d of %d threads returned, %d wait at a block barrier, %d at sync_warp, %d in shfl, %d in "
        "ballot, %d in mma, %d in ldmatrix, %d in wgmma; whole warps must reach the last six",
        done, r.n, at[1], at[2], at[3], at[4], at[5], at[6], at[7]);
}

/* All wait at a block barrier, or have returned: let them go on. false: all have returned. */
static bool block_opens(void)
{
    runner &r = run();
    int done = 0, at_barrier = 0;
    for (int i = 0; i < r.n; i++) {
        done += r.fibers[i].state == DONE;
        at_barrier += r.fibers[i].state == WAITS && r.fibers[i].op == EMULATED_SYNC_BLOCK;
    }
    if (done == r.n)
        return false;
    if (done + at_barrier < r.n)
        hangs();
    for (int i = 0; i < r.n; i++)
        if (r.fibers[i].state == WAITS)
            r.fibers[i].state = READY;
    shadow_sync_block();
    tensor_sync_block(r.n);
    return true;
}

static unsigned next_random(unsigned *state)
{
    return (*state = *state * 1664525u + 1013904223u) >> 8;
}

/* turns[first + k]: the lane that is k-th in its warp; and the warps' order. */
static void choose_order(std::vector<int> &warps)
{
    runner &r = run();
    unsigned state = r.order;
    int n_warps = (r.n + WARP - 1) / WARP;
    warps.resize((size_t)n_warps);
    for (int w = 0; w < n_warps; w++) {
        int n = r.n - w * WARP < WARP ? r.n - w * WARP : WARP, *turns = &r.turns[w * WARP];
        warps[(size_t)w] = r.order == 1 ? n_warps - 1 - w : w;
        for (int k = 0; k < n; k++)
            turns[k] = r.order == 1 ? n - 1 - k : k;
        for (int k = n - 1; k > 0 && r.order > 1; k--)
            std::swap(turns[k], turns[next_random(&state) % (unsigned)(k + 1)]);
    }
    for (int w = n_warps - 1; w > 0 && r.order > 1; w--)
        std::swap(warps[(size_t)w], warps[next_random(&state) % (unsigned)(w + 1)]);
}

/* Where block i of `grid` stands, counted in the order that was chosen: from either end, or by strides of a prime. */
static void place_block(const struct grid3 &grid, uint64_t i)
{
    const uint64_t n = (uint64_t)grid.x * grid.y * grid.z, order = run().order;
    const uint64_t at = order == 0 ? i : order == 1 ? n - 1 - i : n % 1000003 ? (i * 1000003 + order) % n : i;
    emulated_at.block_x = (int)(at % grid.x);
    emulated_at.block_y = (int)(at / grid.x % grid.y);
    emulated_at.block_z = (int)(at / grid.x / grid.y);
}

static void run_block(const std::vector<int> &warps)
{
    runner &r = run();
    if (r.dyn_bytes)
        memset(r.dyn, 0xff, r.dyn_bytes);
    for (auto &s : r.shared)
        memset(s.second.first, 0xff, s.second.second);
    for (int i = 0; i < r.n; i++)
        fiber_begin(i);
    tensor_begin(r.n);
    shadow_block(true);
    do {
        for (int w : warps)
            run_warp(w * WARP);
    } while (block_opens());
    tensor_end(r.n);
    shadow_block(false);
}

void fibers_run(bool early, const std::function<void()> &body, struct grid3 grid, int block, size_t shared,
                size_t shared_max)
{
    runner &r = run();
    std::vector<int> warps;
    if (!r.stacks) {
        void *p = mmap(NULL, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            emulated_die("no memory for the stacks of %d fibers", MAX_THREADS);
        r.stacks = (unsigned char *)p;
    }
    r.n = block;
    r.body = &body;
    r.dyn = NULL;
    r.dyn_bytes = r.shared_used = shared;
    r.shared_max = shared_max;
    if (shared && posix_memalign((void **)&r.dyn, 128, shared + SHADOW_BEHIND))
        abort();
    shadow_launch(early);
    shadow_add(r.dyn, shared, SHADOW_SHARED);
    choose_order(warps);
    emulated_at.block_dim = block, emulated_at.grid_x = (int)grid.x, emulated_at.grid_y = (int)grid.y;
    for (uint64_t i = 0; i < (uint64_t)grid.x * grid.y * grid.z; i++) {
        place_block(grid, i);
        run_block(warps);
    }
    shadow_remove(r.dyn);
    free(r.dyn);
    for (auto &s : r.shared) {
        shadow_remove(s.second.first);
        free(s.second.first);
    }
    r.shared.clear();
}

void cuda_emulated_order(unsigned seed)
{
    run().order = seed;
}

/* ---- what the running fiber asks for ---- */

void *emulated_shared(const char *key, size_t bytes)
{
    runner &r = run();
    auto &s = r.shared[key];
    if (!s.first) {
        r.shared_used += bytes;
        if (r.shared_used > r.shared_max)
            emulated_die("%zu bytes of shared memory, more than the %zu that a block may have", r.shared_used,
                         r.shared_max);
        if (posix_memalign((void **)&s.first, 128, bytes + SHADOW_BEHIND))
            abort();
        s.second = bytes;
        memset(s.first, 0xff, bytes);
        shadow_add(s.first, bytes, SHADOW_SHARED);
    }
    return s.first;
}

void *emulated_shared_dyn(void)
{
    return run().dyn;
}

static void wait_for(enum emulated_op op)
{
    fiber *f = &run().fibers[run().current];
    f->state = WAITS;
    f->op = op;
    to_main(false);
}

void emulated_wait_for_before(void)
{
    shadow_wait_for_before();
}

bool emulated_arrive_last(uint32_t *counter, int n)
{
    shadow_arrive(counter);
    const uint32_t before = *counter;
    if (before >= (uint32_t)n)
        emulated_die("%u blocks of %d have arrived: the counter was not zero before the launch", before, n);
    *counter = before + 1 == (uint32_t)n ? 0 : before + 1;
    return *counter == 0;
}

void emulated_sync_block(void)
{
    wait_for(EMULATED_SYNC_BLOCK);
}

const unsigned char *emulated_exchange(enum emulated_op op, const void *mine, size_t bytes)
{
    runner &r = run();
    int i = r.current;
    unsigned char(*half)[EMULATED_SLOT] = r.warps[i / WARP].bytes[r.fibers[i].exchanges++ & 1];
    if (bytes)
        memcpy(half[i % WARP], mine, bytes);
    wait_for(op);
    return half[0];
}

void emulated_cp_async(void *shared, const void *p, bool valid)
{
    fiber *f = &run().fibers[run().current];
    async_copy c = {shared, {0}, f->commits};
    if ((uintptr_t)shared % 16 || (uintptr_t)p % 16)
        emulated_die("cp.async from %p to %p: both must be multiples of 16", p, shared);
    if (valid) {
        shadow_read(p, 16, false);
        memcpy(c.bytes, p, 16);
    }
    shadow_write(shared, 16);
    memset(shared, 0xff, 16);
    f->copies.push_back(c);
}

void emulated_cp_async_commit(void)
{
    run().fibers[run().current].commits++;
}

void emulated_cp_async_wait(int n)
{
    fiber *f = &run().fibers[run().current];
    size_t kept = 0;
    for (const async_copy &c : f->copies)
        if (c.group < f->commits - n) {
            shadow_write(c.to, 16);
            memcpy(c.to, c.bytes, 16);
            tensor_copied();
        } else {
            f->copies[kept++] = c;
        }
    f->copies.resize(kept);
}
