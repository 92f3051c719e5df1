#include "engine/cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_fail(const char *verb, const struct error *e)
{
    fprintf(stderr, "spillway-engine %s: %s\n", verb, e->message);
    /* A text that begins with a flag is about the command line and what it names as settings; models are not. */
    return e->code == RC_INVALID && strncmp(e->message, "--", 2) == 0 ? ARGS_EXIT_USAGE : ARGS_EXIT_FAILED;
}

int32_t cli_step_tokens(int64_t max_batch)
{
    return max_batch > 256 ? (int32_t)max_batch : 256; /* one of each sequence at the least */
}

enum rc cli_parse_ids(const char *text, struct tokens *ids, struct error *e)
{
    const char *p = text;
    for (;;) {
        char *end;
        long v = *p >= '0' && *p <= '9' ? strtol(p, &end, 10) : -1;
        if (v < 0 || v > INT32_MAX || (*end != ',' && *end != '\0'))
            return error_set(e, RC_INVALID, "--tokens: byte %zu of \"%.40s\": expected ids like 1,2,3",
                             (size_t)(p - text), text);
        enum rc rc = tokens_push(ids, (int32_t)v);
        if (rc)
            return error_set(e, rc, "--tokens: more than %zu ids", ids->max);
        if (*end == '\0')
            return RC_OK;
        p = end + 1;
    }
}

const char *const cli_kv_types[] = {"f16", "q8_0", NULL};

enum k_type cli_kv_type(const char *word)
{
    if (!word)
        return (enum k_type)0;
    return strcmp(word, "q8_0") == 0 ? K_Q8_0 : K_F16;
}

const char *const cli_activations[] = {"fast", "bf16", NULL};

enum rc cli_precision(enum k_precision *p, const char *word, bool precise, struct error *e)
{
    bool bf16 = word && strcmp(word, "bf16") == 0;
    if (bf16 && precise)
        return error_set(e, RC_INVALID,
                         "--precise keeps activations in float32, --activations bf16 does not: give one of them");
    *p = precise ? K_PRECISE : bf16 ? K_FAST_BF16 : K_FAST;
    return RC_OK;
}

enum rc cli_engine_open(struct cli_engine *ce, const char *path, enum gguf_open_mode mode,
                        const struct engine_options *o, struct error *e)
{
    enum rc rc = model_open(&ce->model, path, mode, e);
    if (!rc)
        rc = engine_new(&ce->engine, ce->model, o, e);
    if (!rc)
        cli_say_library(ce->engine);
    if (rc)
        cli_engine_close(ce);
    return rc;
}

void cli_engine_close(struct cli_engine *ce)
{
    engine_free(ce->engine);
    model_close(ce->model);
    *ce = (struct cli_engine){0};
}

enum rc cli_feed(struct engine *en, struct seq *s, const int32_t *ids, size_t n, int32_t chunk, const float **logits,
                 struct error *e)
{
    for (size_t i = 0; i < n;) {
        size_t part = n - i < (size_t)chunk ? n - i : (size_t)chunk;
        struct step_slice sl = {.seq = s, .ids = ids + i, .n = (int32_t)part, .want_logits = i + part == n};
        enum rc rc = seq_reserve(s, sl.n, e);
        if (!rc)
            rc = engine_step(en, &sl, 1, e);
        if (rc)
            return rc;
        if (logits)
            *logits = sl.logits;
        i += part;
    }
    return RC_OK;
}
