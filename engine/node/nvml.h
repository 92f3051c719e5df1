/* NVIDIA's management library, if it is there: opened at run time (libnvidia-ml.so.1), so that the engine needs none.
 * It makes no CUDA context, and an engine that sleeps may go on asking it. Each of its symbols may be missing, and each
 * question may be refused in a virtual machine or a container; then that one has no answer.
 *
 * Power caps. The limit before is written to a file before it is changed; nvml_uncap() puts it back and removes the
 * file. After a crash the next start finds the file and puts it back first.
 *
 * Blocks for as long as the driver takes (milliseconds; seconds when the driver is cold): start and end, and readings
 * once a second. One thread. NVML API reference: nvmlDeviceGetPowerUsage (mW), nvmlDeviceGetTotalEnergyConsumption (mJ
 * since the driver was loaded), nvmlDeviceSetPowerManagementLimit (mW), nvmlDeviceGetMemoryInfo (bytes),
 * nvmlDeviceGetClockInfo (MHz). */
#ifndef ENGINE_NODE_NVML_H
#define ENGINE_NODE_NVML_H

#include <stdint.h>

#include "base/error.h"

#define NVML_LIBRARY  "libnvidia-ml.so.1"
#define NVML_GPUS_MAX 64

struct nvml;
/* library: NULL: NVML_LIBRARY. RC_NOT_FOUND: there is none; RC_IO: it cannot be used, and why; also when it has no GPU. */
enum rc nvml_open(struct nvml **n, const char *library, struct error *e) SPW_MUST_USE;
void nvml_close(struct nvml *n); /* NULL is fine; leaves caps as they are */
int nvml_count(const struct nvml *n);
/* Sums over the GPUs that answer; false: none does. */
bool nvml_milliwatts(struct nvml *n, int64_t *mw);
bool nvml_millijoules(struct nvml *n, int64_t *mj); /* of all of them, else false: only differences mean something */
/* What else the GPUs say of themselves; 0: none says it. */
struct nvml_state {
    uint64_t memory_bytes, memory_used_bytes; /* all of them together; used by whatever program */
    uint64_t sm_hz, memory_hz;                /* the lowest clocks of any: one that is throttled shows */
};
struct nvml_state nvml_state(struct nvml *n); /* NULL: all 0 */

/* Cap each GPU at so many watts, its own bounds kept, old limits in `file` first. RC_DENIED: not allowed (it takes
 * root, and no container in between); what was changed is put back then. */
enum rc nvml_cap(struct nvml *n, int64_t watts, const char *file, struct error *e) SPW_MUST_USE;
/* Put back what the file says and remove it; RC_NOT_FOUND: there is no file, nothing was capped. On failure it stays. */
enum rc nvml_uncap(struct nvml *n, const char *file, struct error *e) SPW_MUST_USE;

#endif
