/* What --device says, and what it comes to on this machine: a table of operations and a device's number. */
#ifndef ENGINE_CLI_DEVICE_H
#define ENGINE_CLI_DEVICE_H

#include <stdbool.h>

#include "base/error.h"
#include "engine/model/model.h"

#define CLI_DEVICE_META "auto|cpu|cuda[:N]"
#define CLI_DEVICE_HELP "where to compute; auto: on a CUDA device if one answers"

#define CLI_GEMM_META "own|cublaslt"
#define CLI_GEMM_HELP                                                                                                  \
    "who multiplies F16 and BF16 matrices with many tokens on a CUDA device; cublaslt: NVIDIA's library, if it is "    \
    "there: an answer then depends on what is computed beside it, and engines without do not continue it"
#define CLI_HOST_EXPERTS_HELP                                                                                          \
    "layers, counted from the last, whose experts stay in the host's memory for the cpu to compute beside a device; "  \
    "0: as few as it takes; -1: none. See info --place"

extern const char *const cli_gemms[];
/* --cuda-gemm, one of cli_gemms or NULL. */
bool cli_gemm_library(const char *gemm);
/* On stderr, when the library was asked for and is not there. */
void cli_say_library(const struct engine *en);

struct cli_device {
    const struct k_ops *ops;
    int index;
    char name[32];    /* "cpu", "cuda:0" */
    char reason[320]; /* why this one, for the log: the device's name, or why it is no other */
};

/* Whether the words are known (RC_INVALID) and a device that they name is there (RC_UNSUPPORTED); auto asks for none. */
enum rc cli_device_check(const char *wanted, struct error *e) SPW_MUST_USE;
/* Asks the driver, which may take a second. RC_UNSUPPORTED: there is no such device, or the build has no backend for it. */
enum rc cli_device_choose(struct cli_device *d, const char *wanted, struct error *e) SPW_MUST_USE;
/* The same, into an engine's options; NULL means auto. */
enum rc cli_device_options(struct engine_options *o, const char *wanted, struct error *e) SPW_MUST_USE;

#endif
