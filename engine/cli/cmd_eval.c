/* eval: run ids through a model and write raw logits, to be compared with another implementation's. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/cli/cli.h"

#define EVAL_TOKENS_MAX (1 << 20)

struct eval_args {
    const char *model, *tokens, *out, *kv_type, *activations, *device, *gemm;
    bool all, precise, lazy;
    int64_t chunk, threads, host_layers;
};

/* Write the logits of each position as its chunk comes out. */
static enum rc eval_chunks(const struct eval_args *a, const struct cli_engine *ce, const struct tokens *ids, FILE *out,
                           struct error *e)
{
    size_t n_vocab = (size_t)model_info(ce->model)->n_vocab;
    struct seq *s = seq_new(ce->engine);
    enum rc rc = RC_OK;
    for (size_t i = 0; i < ids->n && !rc;) {
        size_t part = ids->n - i < (size_t)a->chunk ? ids->n - i : (size_t)a->chunk;
        struct step_slice sl = {
            .seq = s, .ids = ids->ids + i, .n = (int32_t)part, .all_logits = a->all, .want_logits = i + part == ids->n};
        rc = seq_reserve(s, sl.n, e);
        if (!rc)
            rc = engine_step(ce->engine, &sl, 1, e);
        if (!rc && sl.logits) {
            size_t values = (a->all ? part : 1) * n_vocab;
            if (fwrite(sl.logits, sizeof(float), values, out) != values)
                rc = error_set(e, RC_IO, "%s: %s", a->out, strerror(errno));
        }
        i += part;
    }
    seq_free(s);
    return rc;
}

static enum rc eval(const struct eval_args *a, const struct tokens *ids, struct error *e)
{
    struct cli_engine ce = {0};
    struct engine_options o = {.lazy = a->lazy,
                               .threads = (int)a->threads,
                               .kv_type = cli_kv_type(a->kv_type),
                               .gemm_library = cli_gemm_library(a->gemm),
                               .host_layers = (int32_t)a->host_layers,
                               .max_batch_tokens = (int32_t)a->chunk};
    enum rc rc = cli_precision(&o.precision, a->activations, a->precise, e);
    if (!rc)
        rc = cli_device_options(&o, a->device, e);
    if (!rc)
        rc = model_open(&ce.model, a->model, a->lazy ? GGUF_MAP_LAZY : GGUF_MAP, e);
    if (rc)
        return rc;
    o.n_ctx = model_info(ce.model)->n_ctx_train;
    if (ids->n < (size_t)o.n_ctx)
        o.n_ctx = (int32_t)ids->n;
    rc = engine_new(&ce.engine, ce.model, &o, e);
    if (!rc)
        cli_say_library(ce.engine);
    FILE *out = rc ? NULL : fopen(a->out, "wb");
    if (!rc && !out)
        rc = error_set(e, RC_IO, "%s: %s", a->out, strerror(errno));
    if (!rc)
        rc = eval_chunks(a, &ce, ids, out, e);
    if (out && fclose(out) != 0 && !rc)
        rc = error_set(e, RC_IO, "%s: %s", a->out, strerror(errno));
    cli_engine_close(&ce);
    return rc;
}

int cmd_eval(int argc, char **argv)
{
    struct eval_args a = {.chunk = 256};
    /* clang-format off */
    const struct arg_option options[] = {
        {.name = "model", .letter = 'm', .type = ARG_STRING, .value = &a.model, .meta = "FILE", .help = "GGUF model file", .required = true},
        {.name = "tokens", .type = ARG_STRING, .value = &a.tokens, .meta = "IDS", .help = "token ids, like 1,2,3", .required = true},
        {.name = "logits-out", .type = ARG_STRING, .value = &a.out, .meta = "FILE", .help = "where the logits go: raw little-endian float32", .required = true},
        {.name = "all-logits", .type = ARG_FLAG, .value = &a.all, .help = "a row for every position, not only the last"},
        {.name = "precise", .type = ARG_FLAG, .value = &a.precise, .help = "activations, keys and values in float32"},
        {.name = "activations", .type = ARG_STRING, .value = &a.activations, .meta = CLI_ACTIVATIONS_META, .choices = cli_activations, .help = CLI_ACTIVATIONS_HELP},
        {.name = "device", .type = ARG_STRING, .value = &a.device, .meta = CLI_DEVICE_META, .help = CLI_DEVICE_HELP},
        {.name = "cuda-gemm", .type = ARG_STRING, .value = &a.gemm, .meta = CLI_GEMM_META, .choices = cli_gemms, .help = CLI_GEMM_HELP},
        {.name = "host-experts", .type = ARG_INT, .value = &a.host_layers, .meta = "N", .lo = -1, .hi = 1024, .help = CLI_HOST_EXPERTS_HELP},
        {.name = "kv-type", .type = ARG_STRING, .value = &a.kv_type, .meta = "f16|q8_0", .choices = cli_kv_types, .help = "how keys and values are kept: q8_0 takes half the memory of f16, the default"},
        {.name = "chunk", .type = ARG_INT, .value = &a.chunk, .meta = "N", .lo = 1, .hi = 65536, .help = "tokens in one step"},
        {.name = "threads", .letter = 't', .type = ARG_INT, .value = &a.threads, .meta = "N", .lo = 0, .hi = 1024, .help = "worker threads; 0: all cores"},
        {.name = "lazy-load", .type = ARG_FLAG, .value = &a.lazy, .help = "no read-ahead of the model file; on a device, weights are uploaded layer by layer in the first step"},
    };
    /* clang-format on */
    const struct arg_spec spec = {.program = "spillway-engine",
                                  .verb = "eval",
                                  .summary = "run token ids through a model and write the logits",
                                  .example =
                                      "spillway-engine eval --model m.gguf --tokens 1,2,3 --logits-out logits.f32",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    struct error e = {0};
    struct tokens ids;
    int code;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    tokens_init(&ids, EVAL_TOKENS_MAX);
    enum rc rc = cli_parse_ids(a.tokens, &ids, &e);
    code = rc ? ARGS_EXIT_USAGE : ARGS_EXIT_OK;
    if (!rc && (rc = eval(&a, &ids, &e)) != RC_OK)
        code = ARGS_EXIT_FAILED;
    if (rc)
        fprintf(stderr, "spillway-engine eval: %s\n", e.message);
    tokens_fini(&ids);
    return code;
}
