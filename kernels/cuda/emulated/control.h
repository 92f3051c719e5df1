/* What a test says to the emulated device. Which card it is, the environment says when a program begins:
 * CUDA_EMULATED_CARD=small (the default), a100, l40s or h200: multiprocessors, compute capability and the shared memory
 * of a block. */
#ifndef KERNELS_CUDA_EMULATED_CONTROL_H
#define KERNELS_CUDA_EMULATED_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether there is one; false where tests run on a real device (tests/bench/gpu), which the rest does not reach. */
bool cuda_emulated(void);
/* The order in which a launch's blocks run, and the threads of each between barriers: 0 ascending, 1 descending, else
 * shuffled by this seed. A result that changes with it is a race. */
void cuda_emulated_order(unsigned seed);
/* Whether what is asked of a stream happens when somebody waits for it, and not at once: both are allowed to a device,
 * and a result that changes with it lacks a wait. */
void cuda_emulated_late(bool late);
/* Bytes of the device's memory; what has been allocated counts. Default 4 GiB. */
void cuda_emulated_memory(size_t bytes);
/* From now on (or no longer) every launch, copy and wait fails, as when the device fell off the bus. */
void cuda_emulated_lose(bool lost);
/* From now on (or no longer) the driver shows no device. */
void cuda_emulated_none(bool none);
/* From now on (or no longer) no new stream is to be had. */
void cuda_emulated_no_streams(bool none);
/* Since the start of the program. */
long cuda_emulated_launches(void);
size_t cuda_emulated_allocated(void);
/* Work that a library would do on the device, in the stream's order (captured when that is): fn gets a copy of arg and
 * may touch device memory. */
void cuda_emulated_call(void *stream, void (*fn)(const void *arg), const void *arg, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
