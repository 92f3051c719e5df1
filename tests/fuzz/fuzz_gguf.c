/* Any bytes as a model file: opened or refused, and a model only when everything in it is sound, so that two tokens can
 * be run through it whatever its weights are (NaN included); never a read out of bounds, never an allocation that the
 * file's size does not justify.
 * links: spw_engine_model */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const struct model *m)
{
    static const int32_t ids[2] = {0, 0};
    struct engine_options o = {
        .ops = &k_reference_ops, .threads = 1, .n_ctx = model_info(m)->n_ctx_train < 4 ? 1 : 4, .max_batch_tokens = 2};
    struct engine *en = NULL;
    struct error e = {0};
    if (engine_new(&en, m, &o, &e) != RC_OK)
        return;
    struct seq *s = seq_new(en);
    struct step_slice sl = {.seq = s, .ids = ids, .n = o.n_ctx < 2 ? 1 : 2, .want_logits = true};
    if (seq_reserve(s, sl.n, &e) == RC_OK && engine_step(en, &sl, 1, &e) != RC_OK)
        sl.logits = NULL;
    seq_free(s);
    engine_free(en);
}

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
    if (model_open(&m, path, GGUF_MAP_LAZY, &e) == RC_OK) {
        run(m);
        model_close(m);
    }
    return 0;
}
