/* info: what a model file holds, and with --place where a device would have it. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "engine/cli/cli.h"
#include "kernels/cuda/cuda.h"

struct info_args {
    const char *path, *device, *kv_type;
    bool json, place;
    int64_t memory, n_ctx, max_batch, kv_tokens, host_layers;
};

struct type_share {
    uint32_t type;
    char name[16]; /* "Q8_0" */
    uint64_t tensors, bytes;
};

static int count_types(const struct gguf *g, struct type_share shares[K_TYPE_COUNT])
{
    int n = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct k_tensor *t = gguf_tensor(g, i, NULL);
        int at = 0;
        while (at < n && shares[at].type != (uint32_t)t->type)
            at++;
        if (at == n) {
            shares[n] = (struct type_share){.type = t->type};
            snprintf(shares[n].name, sizeof shares[n].name, "%s", k_type_info(t->type)->name);
            for (char *c = shares[n].name; *c; c++)
                *c = (char)toupper((unsigned char)*c);
            n++;
        }
        shares[at].tensors++;
        shares[at].bytes += gguf_tensor_bytes(t);
    }
    return n;
}

static void print_text(const struct model *m)
{
    const struct model_info *i = model_info(m);
    const struct gguf *g = model_gguf(m);
    struct type_share shares[K_TYPE_COUNT];
    int n = count_types(g, shares);
    printf("name             %s\narchitecture     %s%s\n", i->name, i->arch,
           i->mla ? " (multi-head latent attention)" : "");
    printf("file             GGUF v%" PRIu32 ", %" PRIu64 " bytes in %" PRIu32 " file%s\n", gguf_version(g),
           gguf_file_bytes(g), gguf_n_files(g), gguf_n_files(g) == 1 ? "" : "s");
    printf("parameters       %" PRIu64 "\n", i->n_params);
    printf("weights          %" PRIu64 " bytes, %" PRIu64 " of them read per token, mostly %s\n", i->weight_bytes,
           i->active_bytes, i->quant);
    printf("layers           %d\nembedding        %d\nheads            %d, %d of keys\n", i->n_layer, i->n_embd,
           i->n_head, i->n_kv_head);
    if (i->n_expert)
        printf("experts          %d, %d chosen per token\n", i->n_expert, i->n_expert_used);
    printf("vocabulary       %d\ntrained context  %d\nsha256 of header %s\n", i->n_vocab, i->n_ctx_train, i->sha256);
    for (int t = 0; t < n; t++)
        printf("%-16s %" PRIu64 " tensors, %" PRIu64 " bytes\n", shares[t].name, shares[t].tensors, shares[t].bytes);
}

static enum rc print_json(const struct model *m)
{
    const struct model_info *i = model_info(m);
    const struct gguf *g = model_gguf(m);
    struct type_share shares[K_TYPE_COUNT];
    int n = count_types(g, shares);
    struct strbuf b;
    strbuf_init(&b, 1 << 16);
    enum rc rc = strbuf_puts(&b, "{\"name\":");
    if (!rc)
        rc = json_append_string(&b, i->name, strlen(i->name));
    if (!rc)
        rc = strbuf_printf(&b,
                           ",\"arch\":\"%s\",\"mla\":%s,\"gguf_version\":%" PRIu32 ",\"file_bytes\":%" PRIu64
                           ",\"files\":%" PRIu32 ",\"params\":%" PRIu64 ",\"weight_bytes\":%" PRIu64
                           ",\"active_bytes\":%" PRIu64 ",\"quant\":\"%s\"",
                           i->arch, i->mla ? "true" : "false", gguf_version(g), gguf_file_bytes(g), gguf_n_files(g),
                           i->n_params, i->weight_bytes, i->active_bytes, i->quant);
    if (!rc)
        rc = strbuf_printf(&b,
                           ",\"layers\":%d,\"embedding\":%d,\"heads\":%d,\"kv_heads\":%d,\"experts\":%d,"
                           "\"experts_used\":%d,\"vocab\":%d,\"ctx_train\":%d,\"sha256\":\"%s\",\"types\":{",
                           i->n_layer, i->n_embd, i->n_head, i->n_kv_head, i->n_expert, i->n_expert_used, i->n_vocab,
                           i->n_ctx_train, i->sha256);
    for (int t = 0; t < n && !rc; t++)
        rc = strbuf_printf(&b, "%s\"%s\":{\"tensors\":%" PRIu64 ",\"bytes\":%" PRIu64 "}", t ? "," : "", shares[t].name,
                           shares[t].tensors, shares[t].bytes);
    if (!rc)
        printf("%s}}\n", b.data);
    strbuf_fini(&b);
    return rc;
}

/* ---- --place ---- */

/* What is free on the device that is meant, as an engine would find it. */
static enum rc device_memory(const char *wanted, uint64_t *bytes, struct error *e)
{
    struct cli_device d;
    enum rc rc = cli_device_choose(&d, wanted, e);
    if (rc)
        return rc;
    if (!d.ops->memory)
        return error_set(e, RC_UNSUPPORTED,
                         "--place: no device answers (%s), and on the cpu nothing is placed: say --device-memory BYTES",
                         d.reason);
    struct k_ctx *c = d.ops->ctx_new(1, d.index);
    size_t left = 0, total = 0;
    bool ok = c && d.ops->memory(c, &left, &total) == K_OK;
    if (c)
        d.ops->ctx_free(c);
    *bytes = left;
    return ok ? RC_OK : error_set(e, RC_IO, "--place: %s does not say how much memory it has", d.name);
}

static void print_row(const char *what, const char *where, uint64_t bytes)
{
    printf("%-24s %-7s %15" PRIu64 "\n", what, where, bytes);
}

static void print_layers(const struct engine_plan *plan)
{
    const struct placement_need *n = &plan->need;
    char what[32];
    for (int32_t i = 0; i < n->n_layer; i++) {
        snprintf(what, sizeof what, "layer %d", i);
        print_row(what, "device", n->others[i]);
        snprintf(what, sizeof what, "layer %d experts", i);
        if (n->experts[i] > 0)
            print_row(what, i < plan->is.first_host ? "device" : "host", n->experts[i]);
    }
}

/* The table, and whether it fits. */
static enum rc print_place(const struct engine_plan *plan, struct error *e)
{
    const struct placement_need *n = &plan->need;
    char text[160];
    printf("%-24s %-7s %15s\n", "what", "where", "bytes");
    print_row("embedding and output", "device", n->ends);
    print_layers(plan);
    print_row("work buffers", "device", n->work);
    snprintf(text, sizeof text, "%" PRIu64 " KV pages", n->pages);
    print_row(text, "device", n->page * n->pages);
    printf("\n");
    print_row("weights", "device", plan->is.device_weights);
    print_row("weights", "host", plan->is.host_weights);
    print_row("memory", "device", n->device);
    if (plan->is.fits) {
        print_row("left", "device", plan->is.left);
        printf("%" PRIu64 " more KV pages (%" PRIu64 " tokens) would fit; experts of %d layers are on the host\n",
               plan->is.left / n->page, plan->is.left / n->page * K_PAGE_TOKENS, plan->is.n_host);
        return RC_OK;
    }
    placement_advise(text, sizeof text, n, &plan->is);
    return error_set(e, RC_FULL, "it does not fit into %" PRIu64 " bytes: %s", n->device, text);
}

static enum rc place(const struct info_args *a, const struct model *m, struct error *e)
{
    const struct engine_options o = {.n_ctx = (int32_t)a->n_ctx,
                                     .max_seqs = (int32_t)a->max_batch,
                                     .max_batch_tokens = cli_step_tokens(a->max_batch),
                                     .kv_type = cli_kv_type(a->kv_type),
                                     .kv_pages = (int32_t)((a->kv_tokens + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS),
                                     .host_layers = (int32_t)a->host_layers};
    struct engine_plan plan = {0};
    uint64_t bytes = (uint64_t)a->memory;
    enum rc rc = bytes ? RC_OK : device_memory(a->device, &bytes, e);
    if (!rc)
        rc = engine_plan(&plan, m, &o, bytes, e);
    if (!rc)
        rc = print_place(&plan, e);
    engine_plan_fini(&plan);
    return rc;
}

int cmd_info(int argc, char **argv)
{
    struct info_args a = {.device = "auto", .max_batch = CLI_MAX_BATCH};
    /* clang-format off */
    const struct arg_option options[] = {
        {.name = "json", .type = ARG_FLAG, .value = &a.json, .help = "one JSON object instead of lines"},
        {.name = "place", .type = ARG_FLAG, .value = &a.place, .help = "say instead where a device would have it: layers, experts, pages of keys and values, and what is left"},
        {.name = "device", .type = ARG_STRING, .value = &a.device, .meta = CLI_DEVICE_META, .help = "with --place: on which"},
        {.name = "device-memory", .type = ARG_INT, .value = &a.memory, .meta = "BYTES", .lo = 0, .hi = INT64_MAX / 2, .help = "with --place: as if so many were free, whether there is a device or not; 0: what is free on --device"},
        {.name = "ctx-size", .letter = 'c', .type = ARG_INT, .value = &a.n_ctx, .meta = "N", .lo = 0, .hi = 1 << 24, .help = "with --place: as of serve"},
        {.name = "max-batch", .type = ARG_INT, .value = &a.max_batch, .meta = "N", .lo = 1, .hi = 1024, .help = "with --place: as of serve"},
        {.name = "kv-tokens", .type = ARG_INT, .value = &a.kv_tokens, .meta = "N", .lo = 0, .hi = 1 << 30, .help = "with --place: as of serve"},
        {.name = "kv-type", .type = ARG_STRING, .value = &a.kv_type, .meta = "f16|q8_0", .choices = cli_kv_types, .help = "with --place: as of serve"},
        {.name = "host-experts", .type = ARG_INT, .value = &a.host_layers, .meta = "N", .lo = -1, .hi = 1024, .help = "with --place: as of serve"},
    };
    /* clang-format on */
    const struct arg_operand operands[] = {
        {.meta = "MODEL", .value = &a.path, .help = "GGUF file, the first part of a split one", .required = true}};
    const struct arg_spec spec = {.program = "spillway-engine",
                                  .verb = "info",
                                  .summary = "say what a model file holds",
                                  .example = "spillway-engine info m.gguf --json\n"
                                             "spillway-engine info m.gguf --place --device-memory 24000000000",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0],
                                  .operands = operands,
                                  .n_operands = 1};
    struct error e = {0};
    struct model *m = NULL;
    int code;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    enum rc rc = model_open(&m, a.path, GGUF_MAP_LAZY, &e);
    if (!rc && a.place)
        rc = place(&a, m, &e);
    else if (!rc && a.json && print_json(m))
        rc = error_set(&e, RC_INTERNAL, "the answer is too long");
    else if (!rc && !a.json)
        print_text(m);
    model_close(m);
    return rc ? cli_fail("info", &e) : ARGS_EXIT_OK;
}
