#include "engine/cli/device.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "kernels/cuda/cuda.h"

#define DEVICES_MAX 1024

const char *const cli_gemms[] = {"own", "cublaslt", NULL};

bool cli_gemm_library(const char *gemm)
{
    return gemm && strcmp(gemm, "cublaslt") == 0;
}

void cli_say_library(const struct engine *en)
{
    const char *missing = engine_library_missing(en);
    if (missing)
        fprintf(stderr, "--cuda-gemm cublaslt: %s; our own kernels multiply\n", missing);
}

/* -1: the cpu; -2: the first that answers. */
static bool parse(const char *wanted, int *index)
{
    int64_t n = 0;
    if (strcmp(wanted, "cpu") == 0)
        *index = -1;
    else if (strcmp(wanted, "auto") == 0)
        *index = -2;
    else if (strcmp(wanted, "cuda") == 0 ||
             (strncmp(wanted, "cuda:", 5) == 0 && text_parse_int(wanted + 5, 0, DEVICES_MAX - 1, &n) == RC_OK))
        *index = (int)n;
    else
        return false;
    return true;
}

enum rc cli_device_check(const char *wanted, struct error *e)
{
    int index;
    struct cli_device ignored;
    if (!parse(wanted, &index))
        return error_set(e, RC_INVALID, "--device \"%.40s\": expected auto, cpu, cuda or cuda:N", wanted);
    return index >= 0 ? cli_device_choose(&ignored, wanted, e) : RC_OK;
}

enum rc cli_device_choose(struct cli_device *d, const char *wanted, struct error *e)
{
    int index;
    if (!parse(wanted, &index))
        return cli_device_check(wanted, e);
    *d = (struct cli_device){.ops = &k_cpu_ops, .name = "cpu", .reason = "asked for"};
    if (index == -1)
        return RC_OK;
    if (k_cuda_device_usable(index < 0 ? 0 : index, d->reason, sizeof d->reason)) {
        d->ops = &k_cuda_ops;
        d->index = index < 0 ? 0 : index;
        snprintf(d->name, sizeof d->name, "cuda:%d", d->index);
        return RC_OK;
    }
    if (index >= 0)
        return error_set(e, RC_UNSUPPORTED, "--device %s: %s; use --device cpu", wanted, d->reason);
    return RC_OK;
}

enum rc cli_device_options(struct engine_options *o, const char *wanted, struct error *e)
{
    struct cli_device d = {0};
    enum rc rc = cli_device_choose(&d, wanted ? wanted : "auto", e);
    if (!rc) {
        o->ops = d.ops;
        o->device = d.index;
    }
    return rc;
}
