/* generate: continue a prompt, a chat message, or raw ids; text or ids on stdout, speed on stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/cli/cli.h"
#include "engine/cli/vocab_gguf.h"
#include "engine/text/sampler.h"

#define PROMPT_TOKENS_MAX (1 << 20)
#define PROMPT_BYTES_MAX  ((size_t)16 << 20)

struct generate_args {
    const char *model, *prompt, *chat, *tokens, *chat_template, *kv_type, *activations, *device, *gemm;
    int64_t n, top_k, seed, threads, host_layers;
    double temp, top_p, min_p;
    bool print_ids, precise, ignore_eos, lazy;
};

/* Everything of one run; zeroed at the start, so that generation_fini() is safe at any point. */
struct generation {
    const struct generate_args *a;
    struct model *model;
    struct engine *engine;
    struct seq *seq;
    struct vocab *vocab; /* NULL when only ids go in and out */
    const struct chat_template *chat;
    struct tokens ids; /* prompt */
    struct sampler *sampler;
    struct sampler_scratch *scratch;
    struct strbuf out;
    struct detok detok;
};

static void generation_fini(struct generation *g)
{
    strbuf_fini(&g->out);
    sampler_scratch_free(g->scratch);
    sampler_free(g->sampler);
    seq_free(g->seq);
    engine_free(g->engine);
    vocab_free(g->vocab);
    model_close(g->model);
    tokens_fini(&g->ids);
}

static enum rc render_chat(struct generation *g, struct error *e)
{
    struct chat_message message = {.role = CHAT_USER, .content = g->a->chat, .len = strlen(g->a->chat)};
    struct chat_messages messages = {.items = &message, .n = 1};
    struct chat_options o = {0};
    struct chat_prompt p;
    enum rc rc = chat_template_from_gguf(&g->chat, model_gguf(g->model), g->a->chat_template, e);
    if (rc)
        return rc;
    if (vocab_bos(g->vocab) >= 0)
        o.bos = vocab_token_text(g->vocab, vocab_bos(g->vocab));
    chat_prompt_init(&p, PROMPT_BYTES_MAX);
    rc = chat_template_render(g->chat, &messages, &o, &p, e);
    if (!rc)
        rc = tokenize_segments(g->vocab, p.text.data, p.text.len, p.segments, p.n_segments, TOKENIZE_ADD_SPECIAL,
                               &g->ids, e);
    chat_prompt_fini(&p);
    return rc;
}

static enum rc make_prompt(struct generation *g, struct error *e)
{
    if (g->a->tokens)
        return cli_parse_ids(g->a->tokens, &g->ids, e);
    enum rc rc = g->a->chat ? render_chat(g, e)
                            : tokenize(g->vocab, g->a->prompt, strlen(g->a->prompt), TOKENIZE_ADD_SPECIAL, &g->ids, e);
    if (!rc && g->ids.n == 0)
        rc = error_set(e, RC_INVALID, "the prompt is empty, and the vocabulary has no token to begin with");
    return rc;
}

static enum rc make_sampler(struct generation *g, struct error *e)
{
    struct sampler_params p;
    int32_t n_vocab = model_info(g->model)->n_vocab;
    sampler_params_init(&p);
    p.temperature = g->a->temp;
    p.top_k = (int32_t)g->a->top_k;
    p.top_p = g->a->top_p;
    p.min_p = g->a->min_p;
    p.seed = (uint64_t)g->a->seed;
    enum rc rc = sampler_new(&p, n_vocab, &g->sampler, e);
    if (rc)
        return rc;
    g->scratch = sampler_scratch_new(n_vocab);
    sampler_prompt(g->sampler, g->ids.ids, g->ids.n);
    return RC_OK;
}

static enum rc make_engine(struct generation *g, struct error *e)
{
    struct engine_options o = {.lazy = g->a->lazy,
                               .threads = (int)g->a->threads,
                               .kv_type = cli_kv_type(g->a->kv_type),
                               .gemm_library = cli_gemm_library(g->a->gemm),
                               .host_layers = (int32_t)g->a->host_layers};
    int64_t train = model_info(g->model)->n_ctx_train, want = (int64_t)g->ids.n + g->a->n;
    if ((int64_t)g->ids.n >= train)
        return error_set(e, RC_INVALID, "the prompt has %zu tokens, but the model was trained for %lld", g->ids.n,
                         (long long)train);
    o.n_ctx = (int32_t)(want < train ? want : train);
    enum rc rc = cli_precision(&o.precision, g->a->activations, g->a->precise, e);
    if (!rc)
        rc = cli_device_options(&o, g->a->device, e);
    if (!rc)
        rc = engine_new(&g->engine, g->model, &o, e);
    if (!rc)
        cli_say_library(g->engine);
    if (!rc)
        g->seq = seq_new(g->engine);
    return rc;
}

static bool ends(const struct generation *g, int32_t id)
{
    if (g->a->tokens || g->a->ignore_eos)
        return false;
    if (vocab_is_end(g->vocab, id))
        return true;
    struct text_span s = vocab_token_text(g->vocab, id);
    for (const char *const *stop = g->chat ? chat_template_stops(g->chat) : NULL; stop && *stop; stop++)
        if (strlen(*stop) == s.len && memcmp(*stop, s.ptr, s.len) == 0)
            return true;
    return false;
}

/* Print what is complete of the text, or the id. */
static enum rc emit(struct generation *g, int32_t id, int64_t i, struct error *e)
{
    if (g->a->print_ids) {
        printf(i ? " %d" : "%d", id);
        return RC_OK;
    }
    strbuf_clear(&g->out);
    if (detok_push(&g->detok, id, &g->out) != RC_OK)
        return error_set(e, RC_INTERNAL, "id %d cannot be turned into text", id);
    fwrite(g->out.data, 1, g->out.len, stdout);
    fflush(stdout);
    return RC_OK;
}

static void report_speed(size_t n_prompt, int64_t prefill_ns, int64_t n_decoded, int64_t decode_ns)
{
    fprintf(stderr, "prefill %zu tokens in %.3f s (%.1f/s)", n_prompt, (double)prefill_ns / 1e9,
            (double)n_prompt / ((double)prefill_ns / 1e9));
    if (n_decoded > 0)
        fprintf(stderr, ", decode %lld in %.3f s (%.1f/s)", (long long)n_decoded, (double)decode_ns / 1e9,
                (double)n_decoded / ((double)decode_ns / 1e9));
    fputc('\n', stderr);
}

static enum rc run(struct generation *g, struct error *e)
{
    const float *logits = NULL;
    struct sample choice;
    struct mono start = clock_now(&clock_system);
    int64_t i = 0, n_max = engine_n_ctx(g->engine) - (int64_t)g->ids.n;
    enum rc rc = cli_feed(g->engine, g->seq, g->ids.ids, g->ids.n, engine_max_batch_tokens(g->engine), &logits, e);
    int64_t prefill_ns = mono_since(&clock_system, start);
    start = clock_now(&clock_system);
    for (; i < n_max && !rc; i++) {
        rc = sampler_choose(g->sampler, logits, NULL, g->scratch, &choice, e);
        if (rc || ends(g, choice.id))
            break;
        rc = emit(g, choice.id, i, e);
        sampler_accept(g->sampler, choice.id);
        if (!rc && i + 1 < n_max)
            rc = cli_feed(g->engine, g->seq, &choice.id, 1, 1, &logits, e);
    }
    if (rc)
        return rc;
    strbuf_clear(&g->out);
    if (!g->a->print_ids && detok_finish(&g->detok, &g->out) == RC_OK && g->out.len)
        fwrite(g->out.data, 1, g->out.len, stdout);
    fputc('\n', stdout);
    if (fflush(stdout) != 0)
        return error_set(e, RC_IO, "stdout cannot be written");
    report_speed(g->ids.n, prefill_ns, i > 1 ? i - 1 : 0, mono_since(&clock_system, start));
    return RC_OK;
}

static enum rc generate(const struct generate_args *a, struct error *e)
{
    struct generation g = {.a = a};
    tokens_init(&g.ids, PROMPT_TOKENS_MAX);
    strbuf_init(&g.out, 1 << 20);
    enum rc rc = model_open(&g.model, a->model, a->lazy ? GGUF_MAP_LAZY : GGUF_MAP, e);
    if (!rc && !(a->tokens && a->print_ids)) {
        rc = vocab_from_gguf(&g.vocab, model_gguf(g.model), e);
        if (rc)
            error_prefix(e, "%s", a->model);
    }
    if (!rc)
        rc = make_prompt(&g, e);
    if (!rc)
        rc = make_sampler(&g, e);
    if (!rc)
        rc = make_engine(&g, e);
    if (!rc) {
        if (g.vocab)
            detok_init(&g.detok, g.vocab, DETOK_PLAIN);
        rc = run(&g, e);
    }
    generation_fini(&g);
    return rc;
}

int cmd_generate(int argc, char **argv)
{
    struct generate_args a = {.n = 128, .temp = 0.6, .top_p = 0.95};
    /* clang-format off */
    const struct arg_option options[] = {
        {.name = "model", .letter = 'm', .type = ARG_STRING, .value = &a.model, .meta = "FILE", .help = "GGUF model file", .required = true},
        {.name = "prompt", .letter = 'p', .type = ARG_STRING, .value = &a.prompt, .meta = "TEXT", .help = "text to continue"},
        {.name = "chat", .type = ARG_STRING, .value = &a.chat, .meta = "TEXT", .help = "a user's message, put into the model's chat template"},
        {.name = "tokens", .type = ARG_STRING, .value = &a.tokens, .meta = "IDS", .help = "raw ids like 1,2,3: nothing is added, end tokens do not stop"},
        {.name = "n-predict", .letter = 'n', .type = ARG_INT, .value = &a.n, .meta = "N", .lo = 1, .hi = 1 << 20, .help = "most tokens to generate"},
        {.name = "temp", .type = ARG_DOUBLE, .value = &a.temp, .meta = "T", .dlo = 0, .dhi = 100, .help = "temperature; 0 is greedy"},
        {.name = "top-k", .type = ARG_INT, .value = &a.top_k, .meta = "K", .lo = 0, .hi = 1 << 22, .help = "keep the K likeliest; 0 is off"},
        {.name = "top-p", .type = ARG_DOUBLE, .value = &a.top_p, .meta = "P", .dlo = 1e-6, .dhi = 1, .help = "keep the likeliest that add up to P; 1 is off"},
        {.name = "min-p", .type = ARG_DOUBLE, .value = &a.min_p, .meta = "P", .dlo = 0, .dhi = 1, .help = "drop what is less than P times as likely as the best"},
        {.name = "seed", .type = ARG_INT, .value = &a.seed, .meta = "N", .lo = 0, .hi = INT64_MAX, .help = "of the random choice; the same seed gives the same text"},
        {.name = "print-ids", .type = ARG_FLAG, .value = &a.print_ids, .help = "print the ids, space separated, instead of text"},
        {.name = "precise", .type = ARG_FLAG, .value = &a.precise, .help = "activations, keys and values in float32"},
        {.name = "activations", .type = ARG_STRING, .value = &a.activations, .meta = CLI_ACTIVATIONS_META, .choices = cli_activations, .help = CLI_ACTIVATIONS_HELP},
        {.name = "device", .type = ARG_STRING, .value = &a.device, .meta = CLI_DEVICE_META, .help = CLI_DEVICE_HELP},
        {.name = "cuda-gemm", .type = ARG_STRING, .value = &a.gemm, .meta = CLI_GEMM_META, .choices = cli_gemms, .help = CLI_GEMM_HELP},
        {.name = "host-experts", .type = ARG_INT, .value = &a.host_layers, .meta = "N", .lo = -1, .hi = 1024, .help = CLI_HOST_EXPERTS_HELP},
        {.name = "kv-type", .type = ARG_STRING, .value = &a.kv_type, .meta = "f16|q8_0", .choices = cli_kv_types, .help = "how keys and values are kept: q8_0 takes half the memory of f16, the default"},
        {.name = "threads", .letter = 't', .type = ARG_INT, .value = &a.threads, .meta = "N", .lo = 0, .hi = 1024, .help = "worker threads; 0: all cores"},
        {.name = "ignore-eos", .type = ARG_FLAG, .value = &a.ignore_eos, .help = "end tokens do not stop"},
        {.name = "chat-template", .type = ARG_STRING, .value = &a.chat_template, .meta = "NAME", .help = "instead of the one the file names"},
        {.name = "lazy-load", .type = ARG_FLAG, .value = &a.lazy, .help = "no read-ahead of the model file; on a device, weights are uploaded layer by layer in the first step"},
    };
    /* clang-format on */
    const struct arg_spec spec = {.program = "spillway-engine",
                                  .verb = "generate",
                                  .summary = "continue a prompt, a chat message or raw ids",
                                  .example =
                                      "spillway-engine generate --model m.gguf --chat 'Why is the sky blue?' -n 200",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    struct error e = {0};
    int code;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    if ((a.prompt != NULL) + (a.chat != NULL) + (a.tokens != NULL) != 1) {
        fprintf(stderr, "spillway-engine generate: exactly one of --prompt, --chat and --tokens is needed\n");
        return ARGS_EXIT_USAGE;
    }
    if (a.chat_template && !a.chat) {
        fprintf(stderr, "spillway-engine generate: --chat-template goes with --chat\n");
        return ARGS_EXIT_USAGE;
    }
    return generate(&a, &e) ? cli_fail("generate", &e) : ARGS_EXIT_OK;
}
