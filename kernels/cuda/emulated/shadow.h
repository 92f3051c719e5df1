/* A second look at what kernels do to memory, for builds whose kernels are compiled with -fsanitize=thread and linked
 * with shadow.cpp in place of that sanitizer's library (spw_kernels_cuda_watched): every access of a kernel comes by,
 * and is held to what a device asks for.
 *
 * - An address is a multiple of the access's size, and the access stays inside of its array or allocation.
 * - Two threads touch a byte, one of them to write, only with a barrier between that orders them: sync_block(), or in one
 *   warp sync_warp(). Shuffles, votes and products of a warp are none: they order no memory (CUDA C++ Programming Guide,
 *   "Warp Shuffle Functions"). ldmatrix reads at once for all lanes. Atomics go well with each other, not with plain
 *   accesses.
 * - Blocks of one launch do not touch what another of them writes, but for what that one wrote up to a barrier before its
 *   arrive_last(), behind a barrier after their own at the same counter.
 * - A thread of a kernel that is launched early leaves alone, up to wait_for_before(), all device memory that any kernel
 *   has written since it was allocated, and writes none.
 *
 * Of device memory reads are not kept, so that a write after a read shows in the other order of threads only
 * (cuda_emulated_order()). Without SPW_CUDA_WATCHED all of this is empty. */
#ifndef KERNELS_CUDA_EMULATED_SHADOW_H
#define KERNELS_CUDA_EMULATED_SHADOW_H

#include <stddef.h>

enum shadow_kind { SHADOW_DEVICE, SHADOW_SHARED };
#define SHADOW_BEHIND 64 /* bytes behind a piece of memory that nobody has any business with */

#ifdef SPW_CUDA_WATCHED
/* Memory that is watched from now on, and no longer. */
void shadow_add(const void *p, size_t bytes, enum shadow_kind kind);
void shadow_remove(const void *p);
void shadow_launch(bool early); /* a launch begins */
void shadow_block(bool runs);   /* a block of it begins, or is done */
void shadow_wait_for_before(void);
void shadow_arrive(const void *counter);
void shadow_sync_block(void); /* its threads go on behind a barrier */
void shadow_sync_warp(int warp);
/* What the emulated device does for the running thread; `collective`: for its warp at once. */
void shadow_read(const void *p, size_t bytes, bool collective);
void shadow_write(const void *p, size_t bytes);
#else
static inline void shadow_add(const void *, size_t, enum shadow_kind)
{
}
static inline void shadow_remove(const void *)
{
}
static inline void shadow_launch(bool)
{
}
static inline void shadow_wait_for_before(void)
{
}
static inline void shadow_arrive(const void *)
{
}
static inline void shadow_block(bool)
{
}
static inline void shadow_sync_block(void)
{
}
static inline void shadow_sync_warp(int)
{
}
static inline void shadow_read(const void *, size_t, bool)
{
}
static inline void shadow_write(const void *, size_t)
{
}
#endif

#endif
