#include "engine/node/nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/text.h"

/* Of the library's own header: the handles are opaque pointers, results are small integers, 0 is good. */
typedef int nvml_init_fn(void);
typedef int nvml_count_fn(unsigned *n);
typedef int nvml_handle_fn(unsigned i, void **device);
typedef int nvml_uuid_fn(void *device, char *uuid, unsigned size);
typedef int nvml_u32_fn(void *device, unsigned *v);
typedef int nvml_u64_fn(void *device, unsigned long long *v);
typedef int nvml_bounds_fn(void *device, unsigned *lo, unsigned *hi);
typedef int nvml_set_fn(void *device, unsigned v);
struct nvml_memory {
    unsigned long long total, free, used;
};
typedef int nvml_memory_fn(void *device, struct nvml_memory *m);
typedef int nvml_clock_fn(void *device, int which, unsigned *mhz);
typedef const char *nvml_text_fn(int result);

#define NO_PERMISSION 4
#define CLOCK_SM      1
#define CLOCK_MEMORY  2
#define UUID_MAX      96
#define FILE_MAX      ((size_t)64 << 10)

struct nvml {
    void *library;
    nvml_init_fn *shutdown;
    nvml_uuid_fn *uuid;
    nvml_u32_fn *power, *limit;
    nvml_u64_fn *energy;
    nvml_bounds_fn *bounds;
    nvml_set_fn *set_limit;
    nvml_memory_fn *memory;
    nvml_clock_fn *clock;
    nvml_text_fn *text;
    void *gpus[NVML_GPUS_MAX];
    int n;
};

/* A function by its name. POSIX says that the pointer is one; the language does not. */
static void find(const struct nvml *n, const char *name, void *fn)
{
    void *at = dlsym(n->library, name);
    memcpy(fn, &at, sizeof at);
}

static const char *reason(const struct nvml *n, int result)
{
    const char *text = n->text ? n->text(result) : NULL;
    return text ? text : "unknown reason";
}

static enum rc start(struct nvml *n, const char *library, struct error *e)
{
    nvml_init_fn *init = NULL;
    nvml_count_fn *count = NULL;
    nvml_handle_fn *handle = NULL;
    unsigned gpus = 0;
    find(n, "nvmlInit_v2", &init);
    find(n, "nvmlDeviceGetCount_v2", &count);
    find(n, "nvmlDeviceGetHandleByIndex_v2", &handle);
    find(n, "nvmlErrorString", &n->text);
    if (!init || !count || !handle)
        return error_set(e, RC_IO, "%s is no NVML of a version that we know", library);
    int result = init();
    if (result != 0)
        return error_set(e, RC_IO, "%s: %s", library, reason(n, result));
    find(n, "nvmlShutdown", &n->shutdown);
    result = count(&gpus);
    if (result != 0)
        return error_set(e, RC_IO, "%s: %s", library, reason(n, result));
    for (unsigned i = 0; i < gpus && n->n < NVML_GPUS_MAX; i++)
        n->n += handle(i, &n->gpus[n->n]) == 0;
    return n->n > 0 ? RC_OK : error_set(e, RC_IO, "%s: there is no GPU that it lets us see", library);
}

enum rc nvml_open(struct nvml **out, const char *library, struct error *e)
{
    library = library ? library : NVML_LIBRARY;
    struct nvml *n = spw_calloc(1, sizeof *n);
    n->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    enum rc rc = n->library ? start(n, library, e) : error_set(e, RC_NOT_FOUND, "%s: %s", library, dlerror());
    if (rc != RC_OK) {
        nvml_close(n);
        return rc;
    }
    find(n, "nvmlDeviceGetUUID", &n->uuid);
    find(n, "nvmlDeviceGetPowerUsage", &n->power);
    find(n, "nvmlDeviceGetTotalEnergyConsumption", &n->energy);
    find(n, "nvmlDeviceGetPowerManagementLimit", &n->limit);
    find(n, "nvmlDeviceGetPowerManagementLimitConstraints", &n->bounds);
    find(n, "nvmlDeviceSetPowerManagementLimit", &n->set_limit);
    find(n, "nvmlDeviceGetMemoryInfo", &n->memory);
    find(n, "nvmlDeviceGetClockInfo", &n->clock);
    *out = n;
    return RC_OK;
}

void nvml_close(struct nvml *n)
{
    if (!n)
        return;
    if (n->shutdown)
        n->shutdown();
    if (n->library)
        dlclose(n->library);
    free(n);
}

int nvml_count(const struct nvml *n)
{
    return n->n;
}

bool nvml_milliwatts(struct nvml *n, int64_t *mw)
{
    bool any = false;
    *mw = 0;
    for (int i = 0; n->power && i < n->n; i++) {
        unsigned v = 0;
        if (n->power(n->gpus[i], &v) != 0)
            continue;
        any = true;
        *mw += v;
    }
    return any;
}

bool nvml_millijoules(struct nvml *n, int64_t *mj)
{
    *mj = 0;
    for (int i = 0; n->energy && i < n->n; i++) {
        unsigned long long v = 0;
        if (n->energy(n->gpus[i], &v) != 0)
            return false;
        *mj += (int64_t)v;
    }
    return n->energy != NULL;
}

static void keep_lowest(const struct nvml *n, void *gpu, int which, uint64_t *hz)
{
    unsigned mhz = 0;
    if (n->clock && n->clock(gpu, which, &mhz) == 0 && (*hz == 0 || (uint64_t)mhz * 1000000 < *hz))
        *hz = (uint64_t)mhz * 1000000;
}

struct nvml_state nvml_state(struct nvml *n)
{
    struct nvml_state s = {0};
    for (int i = 0; n && i < n->n; i++) {
        struct nvml_memory m;
        if (n->memory && n->memory(n->gpus[i], &m) == 0) {
            s.memory_bytes += m.total;
            s.memory_used_bytes += m.used;
        }
        keep_lowest(n, n->gpus[i], CLOCK_SM, &s.sm_hz);
        keep_lowest(n, n->gpus[i], CLOCK_MEMORY, &s.memory_hz);
    }
    return s;
}

/* ---- caps ------------------------------------------------------------------------------------------------------- */

static enum rc refused(const struct nvml *n, int result, const char *what, struct error *e)
{
    return error_set(e, result == NO_PERMISSION ? RC_DENIED : RC_IO, "%s: %s%s", what, reason(n, result),
                     result == NO_PERMISSION ? " (it takes root, and no container in between)" : "");
}

/* "UUID MILLIWATTS" for each GPU. */
static enum rc write_limits(struct nvml *n, const char *file, struct error *e)
{
    struct strbuf text;
    enum rc rc = RC_OK;
    strbuf_init(&text, FILE_MAX);
    for (int i = 0; i < n->n && rc == RC_OK; i++) {
        char uuid[UUID_MAX] = "";
        unsigned mw = 0;
        int result = n->uuid(n->gpus[i], uuid, sizeof uuid);
        result = result ? result : n->limit(n->gpus[i], &mw);
        if (result != 0)
            rc = refused(n, result, "a GPU's power limit cannot be read", e);
        else
            rc = strbuf_printf(&text, "%s %u\n", uuid, mw);
    }
    if (rc == RC_OK)
        rc = file_replace(file, 0644, text.data, text.len, e);
    strbuf_fini(&text);
    return rc;
}

static enum rc cap_one(struct nvml *n, void *gpu, int64_t watts, struct error *e)
{
    unsigned lo = 0, hi = UINT32_MAX;
    int64_t mw = watts * 1000;
    if (n->bounds && n->bounds(gpu, &lo, &hi) == 0) {
        mw = mw < lo ? lo : mw;
        mw = mw > hi ? hi : mw;
    }
    const int result = n->set_limit(gpu, (unsigned)mw);
    return result == 0 ? RC_OK : refused(n, result, "a GPU's power limit cannot be set", e);
}

enum rc nvml_cap(struct nvml *n, int64_t watts, const char *file, struct error *e)
{
    struct error ignored;
    if (!n->uuid || !n->limit || !n->set_limit)
        return error_set(e, RC_UNSUPPORTED, "this NVML has no power limits");
    if (access(file, F_OK) == 0)
        return error_set(e, RC_CONFLICT, "%s holds limits of an earlier run that could not be put back", file);
    enum rc rc = write_limits(n, file, e);
    for (int i = 0; i < n->n && rc == RC_OK; i++)
        rc = cap_one(n, n->gpus[i], watts, e);
    if (rc != RC_OK)
        (void)!nvml_uncap(n, file, &ignored);
    return rc;
}

static void *gpu_of(struct nvml *n, const char *uuid)
{
    char own[UUID_MAX];
    for (int i = 0; i < n->n; i++) {
        if (n->uuid(n->gpus[i], own, sizeof own) == 0 && strcmp(own, uuid) == 0)
            return n->gpus[i];
    }
    return NULL;
}

/* A GPU that is gone has no limit to put back; one whose limit is what it was needs nothing. */
static enum rc put_back(struct nvml *n, const char *uuid, int64_t mw, struct error *e)
{
    void *gpu = gpu_of(n, uuid);
    unsigned now = 0;
    if (!gpu || (n->limit(gpu, &now) == 0 && now == mw))
        return RC_OK;
    const int result = n->set_limit(gpu, (unsigned)mw);
    return result == 0 ? RC_OK : refused(n, result, "a GPU's power limit cannot be put back", e);
}

enum rc nvml_uncap(struct nvml *n, const char *file, struct error *e)
{
    struct strbuf text;
    enum rc rc = file_read(&text, file, FILE_MAX, e);
    if (rc == RC_OK && (!n->uuid || !n->limit || !n->set_limit))
        rc = error_set(e, RC_UNSUPPORTED, "this NVML has no power limits");
    char *rest = rc == RC_OK ? text.data : NULL, *line;
    while (rc == RC_OK && rest && (line = strsep(&rest, "\n")) && *line) {
        char *blank = strchr(line, ' ');
        int64_t mw;
        if (!blank || text_parse_int(blank + 1, 0, UINT32_MAX, &mw) != RC_OK) {
            rc = error_set(e, RC_INVALID, "%s is damaged; set the GPUs' power limits by hand, and remove it", file);
            break;
        }
        *blank = '\0';
        rc = put_back(n, line, mw, e);
    }
    if (rc == RC_OK && unlink(file) != 0)
        rc = error_set(e, RC_IO, "%s cannot be removed", file);
    strbuf_fini(&text);
    return rc;
}
