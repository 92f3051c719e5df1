/* Any bytes as a model file: opened or refused, and a model only when everything in it is sound; never read out of
 * bounds, never an allocation that the file's size does not justify.
 * links: spw_engine_model */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    char path[64];
    struct error e = {0};
    struct model *m = NULL;
    if (fd < 0)
        fd = memfd_create("fuzz.gguf", 0);
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (model_open(&m, path, GGUF_MAP_LAZY, &e) == RC_OK)
        model_close(m);
    return 0;
}
