/* A stand-in for NVIDIA's management library: one GPU whose power limit (milliwatts) stands in the file that NVML_STUB
 * names, which draws 75 W, and counts the millijoules that that makes; it has 80 GB, 20 of them used, and two clocks.
 * Results and signatures: NVML API reference. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int nvmlInit_v2(void);
int nvmlInit_v2(void)
{
    return 0;
}

int nvmlShutdown(void);
int nvmlShutdown(void)
{
    return 0;
}

const char *nvmlErrorString(int result);
const char *nvmlErrorString(int result)
{
    return result == 4 ? "Insufficient Permissions" : result == 0 ? "The operation was successful" : "Unknown Error";
}

int nvmlDeviceGetCount_v2(unsigned *n);
int nvmlDeviceGetCount_v2(unsigned *n)
{
    *n = 1;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device);
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device)
{
    static int gpu;
    *device = &gpu;
    return i == 0 ? 0 : 2;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size);
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size)
{
    (void)device;
    snprintf(uuid, size, "GPU-00000000-0000-0000-0000-000000000001");
    return 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *mw);
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw)
{
    (void)device;
    *mw = 75000;
    return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj)
{
    struct timespec t;
    (void)device;
    clock_gettime(CLOCK_MONOTONIC, &t);
    *mj = (unsigned long long)t.tv_sec * 75000 + (unsigned long long)(t.tv_nsec / 1000000) * 75;
    return 0;
}

struct memory {
    unsigned long long total, free, used;
};

int nvmlDeviceGetMemoryInfo(void *device, struct memory *m);
int nvmlDeviceGetMemoryInfo(void *device, struct memory *m)
{
    (void)device;
    *m = (struct memory){80000000000, 60000000000, 20000000000};
    return 0;
}

/* Of which: 1 the multiprocessors, 2 the memory. */
int nvmlDeviceGetClockInfo(void *device, int which, unsigned *mhz);
int nvmlDeviceGetClockInfo(void *device, int which, unsigned *mhz)
{
    (void)device;
    *mhz = which == 1 ? 1410 : 1593;
    return which == 1 || which == 2 ? 0 : 2;
}

int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *mw);
int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *mw)
{
    const char *path = getenv("NVML_STUB");
    FILE *f = path ? fopen(path, "r") : NULL;
    char line[32] = "";
    (void)device;
    if (!f)
        return 3;
    const char *got = fgets(line, sizeof line, f);
    fclose(f);
    *mw = got ? (unsigned)strtoul(line, NULL, 10) : 0;
    return got ? 0 : 999;
}

int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned *lo, unsigned *hi);
int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned *lo, unsigned *hi)
{
    (void)device;
    *lo = 100000;
    *hi = 400000;
    return 0;
}

int nvmlDeviceSetPowerManagementLimit(void *device, unsigned mw);
int nvmlDeviceSetPowerManagementLimit(void *device, unsigned mw)
{
    const char *path = getenv("NVML_STUB");
    (void)device;
    if (getenv("NVML_STUB_DENIES"))
        return 4;
    FILE *f = path ? fopen(path, "w") : NULL;
    if (!f)
        return 999;
    fprintf(f, "%u\n", mw);
    fclose(f);
    return 0;
}
