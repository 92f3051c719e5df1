/* info: what a model file holds. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "engine/cli/cli.h"

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

int cmd_info(int argc, char **argv)
{
    const char *path = NULL;
    bool json = false;
    const struct arg_option options[] = {
        {.name = "json", .type = ARG_FLAG, .value = &json, .help = "one JSON object instead of lines"}};
    const struct arg_operand operands[] = {
        {.meta = "MODEL", .value = &path, .help = "GGUF file, the first part of a split one", .required = true}};
    const struct arg_spec spec = {.program = "spillway-engine",
                                  .verb = "info",
                                  .summary = "say what a model file holds",
                                  .example = "spillway-engine info m.gguf --json",
                                  .options = options,
                                  .n_options = 1,
                                  .operands = operands,
                                  .n_operands = 1};
    struct error e = {0};
    struct model *m = NULL;
    int code;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    enum rc rc = model_open(&m, path, GGUF_MAP_LAZY, &e);
    if (!rc && json && print_json(m))
        rc = error_set(&e, RC_INTERNAL, "the answer is too long");
    else if (!rc && !json)
        print_text(m);
    model_close(m);
    return rc ? cli_fail("info", &e) : ARGS_EXIT_OK;
}
