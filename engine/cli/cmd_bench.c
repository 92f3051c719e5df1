/* bench: tokens per second of prefill, and of decoding at several batch sizes. Each figure is the median of the
 * repetitions; one unmeasured round before them brings the weights into memory. Ids are pseudo-random, the same in
 * every run. Decoding starts from --depth tokens of context. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/text.h"
#include "engine/cli/cli.h"

#define BATCHES_MAX 16
#define REPEATS_MAX 100

struct bench_args {
    const char *model, *batches, *kv_type, *activations, *device, *gemm;
    int64_t prompt, decode, depth, threads, repeats, chunk, host_layers;
    bool json, precise;
    int64_t batch[BATCHES_MAX];
    int n_batch;
};

struct figure {
    double median, low, high;
};

struct bench {
    const struct bench_args *a;
    struct cli_engine ce;
    int32_t *ids;      /* owned; pseudo-random, for any position of any sequence */
    struct seq **seqs; /* owned */
    struct step_slice *slices;
    size_t n_ids;
    struct figure prefill, decode[BATCHES_MAX];
};

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct figure summarise(double *v, int64_t n)
{
    qsort(v, (size_t)n, sizeof *v, compare_doubles);
    double median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
    return (struct figure){.median = median, .low = v[0], .high = v[n - 1]};
}

static double seconds_since(struct mono start)
{
    return (double)mono_since(&clock_system, start) / 1e9;
}

static enum rc prefill_once(struct bench *b, double *tok_s, struct error *e)
{
    struct seq *s = seq_new(b->ce.engine);
    const float *logits;
    struct mono start = clock_now(&clock_system);
    enum rc rc = cli_feed(b->ce.engine, s, b->ids, (size_t)b->a->prompt, (int32_t)b->a->chunk, &logits, e);
    *tok_s = (double)b->a->prompt / seconds_since(start);
    seq_free(s);
    return rc;
}

static enum rc decode_steps(struct bench *b, int64_t batch, double *tok_s, struct error *e)
{
    SPW_ASSERT(b->n_ids > 0);
    struct mono start = clock_now(&clock_system);
    enum rc rc = RC_OK;
    for (int64_t i = 0; i < b->a->decode && !rc; i++) {
        for (int64_t j = 0; j < batch && !rc; j++) {
            const int32_t *id = b->ids + (size_t)(i * batch + j) % b->n_ids;
            b->slices[j] = (struct step_slice){.seq = b->seqs[j], .ids = id, .n = 1, .want_logits = true};
            rc = seq_reserve(b->seqs[j], 1, e);
        }
        if (!rc)
            rc = engine_step(b->ce.engine, b->slices, (int32_t)batch, e);
    }
    *tok_s = (double)(b->a->decode * batch) / seconds_since(start);
    return rc;
}

static enum rc decode_once(struct bench *b, int64_t batch, double *tok_s, struct error *e)
{
    enum rc rc = RC_OK;
    for (int64_t j = 0; j < batch; j++)
        b->seqs[j] = seq_new(b->ce.engine);
    for (int64_t j = 0; j < batch && !rc && b->a->depth > 0; j++)
        rc = cli_feed(b->ce.engine, b->seqs[j], b->ids, (size_t)b->a->depth, (int32_t)b->a->chunk, NULL, e);
    if (!rc)
        rc = decode_steps(b, batch, tok_s, e);
    for (int64_t j = 0; j < batch; j++)
        seq_free(b->seqs[j]);
    return rc;
}

static enum rc measure(struct bench *b, struct error *e)
{
    double v[REPEATS_MAX], ignored;
    enum rc rc = b->a->prompt > 0 ? prefill_once(b, &ignored, e) : RC_OK;
    for (int64_t r = 0; r < b->a->repeats && !rc && b->a->prompt > 0; r++)
        rc = prefill_once(b, &v[r], e);
    if (!rc && b->a->prompt > 0)
        b->prefill = summarise(v, b->a->repeats);
    for (int i = 0; i < b->a->n_batch && !rc && b->a->decode > 0; i++) {
        for (int64_t r = 0; r < b->a->repeats && !rc; r++)
            rc = decode_once(b, b->a->batch[i], &v[r], e);
        if (!rc)
            b->decode[i] = summarise(v, b->a->repeats);
    }
    return rc;
}

static void print_text(const struct bench *b)
{
    const struct model_info *i = model_info(b->ce.model);
    printf("%s, %s, %.2f GB, %.2f GB read per token; %s\n", i->name, i->quant, (double)i->weight_bytes / 1e9,
           (double)i->active_bytes / 1e9, engine_numerics(b->ce.engine));
    if (b->a->prompt > 0)
        printf("prefill %5" PRId64 "      %8.1f tok/s  (%.1f to %.1f)\n", b->a->prompt, b->prefill.median,
               b->prefill.low, b->prefill.high);
    for (int k = 0; k < b->a->n_batch && b->a->decode > 0; k++)
        printf("decode %4" PRId64 " x %-4" PRId64 " %8.1f tok/s  (%.1f to %.1f)\n", b->a->decode, b->a->batch[k],
               b->decode[k].median, b->decode[k].low, b->decode[k].high);
}

static void print_json(const struct bench *b)
{
    const struct model_info *i = model_info(b->ce.model);
    printf("{\"arch\":\"%s\",\"quant\":\"%s\",\"weight_bytes\":%" PRIu64 ",\"active_bytes\":%" PRIu64
           ",\"numerics\":\"%s\",\"repeats\":%" PRId64 ",\"prefill\":{\"tokens\":%" PRId64
           ",\"tok_s\":%.2f,\"min\":%.2f,\"max\":%.2f},\"decode\":[",
           i->arch, i->quant, i->weight_bytes, i->active_bytes, engine_numerics(b->ce.engine), b->a->repeats,
           b->a->prompt, b->prefill.median, b->prefill.low, b->prefill.high);
    for (int k = 0; k < b->a->n_batch && b->a->decode > 0; k++)
        printf("%s{\"batch\":%" PRId64 ",\"steps\":%" PRId64 ",\"tok_s\":%.2f,\"min\":%.2f,\"max\":%.2f}", k ? "," : "",
               b->a->batch[k], b->a->decode, b->decode[k].median, b->decode[k].low, b->decode[k].high);
    printf("]}\n");
}

static enum rc bench(const struct bench_args *a, struct error *e)
{
    struct bench b = {.a = a};
    int64_t widest = 1, longest = a->prompt > a->depth + a->decode ? a->prompt : a->depth + a->decode;
    for (int i = 0; i < a->n_batch; i++)
        widest = a->batch[i] > widest ? a->batch[i] : widest;
    struct engine_options o = {.threads = (int)a->threads,
                               .kv_type = cli_kv_type(a->kv_type),
                               .gemm_library = cli_gemm_library(a->gemm),
                               .host_layers = (int32_t)a->host_layers,
                               .n_ctx = (int32_t)longest,
                               .max_seqs = (int32_t)widest,
                               .max_batch_tokens = (int32_t)(a->chunk > widest ? a->chunk : widest)};
    enum rc rc = cli_precision(&o.precision, a->activations, a->precise, e);
    if (!rc)
        rc = cli_device_options(&o, a->device, e);
    if (!rc)
        rc = cli_engine_open(&b.ce, a->model, GGUF_MAP, &o, e);
    if (rc)
        return rc;
    uint32_t state = 1;
    b.n_ids = (size_t)longest;
    b.ids = spw_calloc(b.n_ids, sizeof *b.ids);
    for (size_t i = 0; i < b.n_ids; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes' "quick and dirty" generator */
        b.ids[i] = (int32_t)((uint64_t)state * (uint64_t)model_info(b.ce.model)->n_vocab >> 32);
    }
    b.seqs = spw_calloc((size_t)widest, sizeof(struct seq *));
    b.slices = spw_calloc((size_t)widest, sizeof *b.slices);
    rc = measure(&b, e);
    if (!rc && a->json)
        print_json(&b);
    else if (!rc)
        print_text(&b);
    free(b.ids);
    free(b.seqs);
    free(b.slices);
    cli_engine_close(&b.ce);
    return rc;
}

/* "1,4,16" */
static enum rc parse_batches(struct bench_args *a, struct error *e)
{
    char one[16];
    for (const char *p = a->batches; *p;) {
        size_t n = strcspn(p, ",");
        if (a->n_batch == BATCHES_MAX)
            return error_set(e, RC_INVALID, "--batch: more than %d sizes", BATCHES_MAX);
        if (n < sizeof one) {
            memcpy(one, p, n);
            one[n] = '\0';
        }
        if (n >= sizeof one || text_parse_int(one, 1, 4096, &a->batch[a->n_batch]) != RC_OK)
            return error_set(e, RC_INVALID, "--batch: \"%.40s\": expected numbers from 1 to 4096, like 1,4,16",
                             a->batches);
        a->n_batch++;
        p += n + (p[n] == ',');
    }
    return RC_OK;
}

int cmd_bench(int argc, char **argv)
{
    struct bench_args a = {.batches = "1,4,16", .prompt = 512, .decode = 64, .repeats = 3, .chunk = 512};
    /* clang-format off */
    const struct arg_option options[] = {
        {.name = "model", .letter = 'm', .type = ARG_STRING, .value = &a.model, .meta = "FILE", .help = "GGUF model file", .required = true},
        {.name = "prompt-tokens", .letter = 'p', .type = ARG_INT, .value = &a.prompt, .meta = "N", .lo = 0, .hi = 1 << 20, .help = "tokens of prefill; 0: none"},
        {.name = "decode-steps", .letter = 'n', .type = ARG_INT, .value = &a.decode, .meta = "N", .lo = 0, .hi = 1 << 20, .help = "steps of decoding; 0: none"},
        {.name = "batch", .letter = 'b', .type = ARG_STRING, .value = &a.batches, .meta = "LIST", .help = "sequences decoded at once"},
        {.name = "depth", .letter = 'd', .type = ARG_INT, .value = &a.depth, .meta = "N", .lo = 0, .hi = 1 << 20, .help = "tokens of context before decoding"},
        {.name = "chunk", .type = ARG_INT, .value = &a.chunk, .meta = "N", .lo = 1, .hi = 65536, .help = "prompt tokens in one step"},
        {.name = "threads", .letter = 't', .type = ARG_INT, .value = &a.threads, .meta = "N", .lo = 0, .hi = 1024, .help = "worker threads; 0: all cores"},
        {.name = "repeat", .letter = 'r', .type = ARG_INT, .value = &a.repeats, .meta = "N", .lo = 1, .hi = REPEATS_MAX, .help = "repetitions; the median is printed"},
        {.name = "precise", .type = ARG_FLAG, .value = &a.precise, .help = "activations, keys and values in float32"},
        {.name = "activations", .type = ARG_STRING, .value = &a.activations, .meta = CLI_ACTIVATIONS_META, .choices = cli_activations, .help = CLI_ACTIVATIONS_HELP},
        {.name = "device", .type = ARG_STRING, .value = &a.device, .meta = CLI_DEVICE_META, .help = CLI_DEVICE_HELP},
        {.name = "cuda-gemm", .type = ARG_STRING, .value = &a.gemm, .meta = CLI_GEMM_META, .choices = cli_gemms, .help = CLI_GEMM_HELP},
        {.name = "host-experts", .type = ARG_INT, .value = &a.host_layers, .meta = "N", .lo = -1, .hi = 1024, .help = CLI_HOST_EXPERTS_HELP},
        {.name = "kv-type", .type = ARG_STRING, .value = &a.kv_type, .meta = "f16|q8_0", .choices = cli_kv_types, .help = "how keys and values are kept: q8_0 takes half the memory of f16, the default"},
        {.name = "json", .type = ARG_FLAG, .value = &a.json, .help = "one JSON object instead of lines"},
    };
    /* clang-format on */
    const struct arg_spec spec = {.program = "spillway-engine",
                                  .verb = "bench",
                                  .summary = "measure prefill and decode speed",
                                  .example = "spillway-engine bench --model m.gguf -p 512 -n 64 -b 1,4,16 -r 5",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    struct error e = {0};
    int code;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    if (parse_batches(&a, &e) != RC_OK || (a.prompt == 0 && a.decode == 0)) {
        fprintf(stderr, "spillway-engine bench: %s\n", e.code ? e.message : "-p and -n are both 0");
        return ARGS_EXIT_USAGE;
    }
    return bench(&a, &e) ? cli_fail("bench", &e) : ARGS_EXIT_OK;
}
