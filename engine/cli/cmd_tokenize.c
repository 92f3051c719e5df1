/* tokenize and detokenize: JSON in, JSON out, for tests and for people who wonder where a word was cut. */
#include <string.h>

#include "engine/cli/cli.h"
#include "engine/cli/stdin_json.h"
#include "engine/cli/vocab_gguf.h"

struct tokenize_args {
    const char *model;
    bool parse_special, no_bos;
};

static enum rc tokenize_one(const struct vocab *v, const cJSON *item, int index, unsigned flags, struct strbuf *out,
                            struct error *e)
{
    struct tokens ids;
    enum rc rc;

    if (!cJSON_IsString(item))
        return error_set(e, RC_INVALID, "item %d of the input is not a string", index);
    tokens_init(&ids, TOKENIZER_TEXT_MAX);
    rc = tokenize(v, item->valuestring, strlen(item->valuestring), flags, &ids, e);
    if (rc != RC_OK)
        error_prefix(e, "item %d", index);
    else
        rc = strbuf_puts(out, index ? ",[" : "[");
    for (size_t i = 0; i < ids.n && rc == RC_OK; i++)
        rc = strbuf_printf(out, i ? ",%d" : "%d", ids.ids[i]);
    if (rc == RC_OK)
        rc = strbuf_puts(out, "]");
    tokens_fini(&ids);
    return rc;
}

static enum rc detokenize_one(const struct vocab *v, const cJSON *item, int index, unsigned flags, struct strbuf *out,
                              struct error *e)
{
    struct strbuf text;
    struct detok d;
    const cJSON *id;
    enum rc rc = RC_OK;

    if (!cJSON_IsArray(item))
        return error_set(e, RC_INVALID, "item %d of the input is not an array of ids", index);
    strbuf_init(&text, STDIN_BYTES_MAX);
    detok_init(&d, v, flags);
    cJSON_ArrayForEach(id, item)
    {
        double value = cJSON_IsNumber(id) ? id->valuedouble : -1;
        if (rc != RC_OK)
            break;
        if (!(value >= 0 && value < vocab_size(v)) || value != (int32_t)value)
            rc = error_set(e, RC_INVALID, "item %d of the input: ids are whole numbers from 0 to %d", index,
                           vocab_size(v) - 1);
        else
            rc = detok_push(&d, (int32_t)value, &text);
    }
    if (rc == RC_OK)
        rc = detok_finish(&d, &text);
    if (rc == RC_OK && index)
        rc = strbuf_puts(out, ",");
    if (rc == RC_OK)
        rc = json_append_string(out, text.data ? text.data : "", text.len);
    strbuf_fini(&text);
    return rc;
}

typedef enum rc (*convert_fn)(const struct vocab *v, const cJSON *item, int index, unsigned flags, struct strbuf *out,
                              struct error *e);

static enum rc convert_all(const struct vocab *v, const cJSON *input, convert_fn convert, unsigned flags,
                           struct error *e)
{
    struct strbuf out;
    const cJSON *item;
    enum rc rc;
    int index = 0;

    if (!cJSON_IsArray(input))
        return error_set(e, RC_INVALID, "the input is not a JSON array");
    strbuf_init(&out, SIZE_MAX / 2);
    rc = strbuf_puts(&out, "[");
    cJSON_ArrayForEach(item, input)
    {
        if (rc != RC_OK)
            break;
        rc = convert(v, item, index++, flags, &out, e);
    }
    if (rc == RC_OK && (rc = strbuf_puts(&out, "]\n")) == RC_OK)
        rc = stdout_write(&out, e);
    strbuf_fini(&out);
    return rc;
}

static enum rc convert_stdin(const struct tokenize_args *a, convert_fn convert, unsigned flags, struct error *e)
{
    struct gguf *g = NULL;
    struct vocab *v = NULL;
    cJSON *input = NULL;
    enum rc rc = gguf_open(&g, a->model, GGUF_MAP_LAZY, e);

    if (rc == RC_OK && (rc = vocab_from_gguf(&v, g, e)) != RC_OK)
        error_prefix(e, "%s", a->model);
    if (rc == RC_OK)
        rc = stdin_read_json(&input, e);
    if (rc == RC_OK)
        rc = convert_all(v, input, convert, flags, e);
    cJSON_Delete(input);
    vocab_free(v);
    gguf_close(g);
    return rc;
}

static int run(const struct arg_spec *spec, struct tokenize_args *a, convert_fn convert, unsigned base_flags,
               unsigned special_flag, int argc, char **argv)
{
    struct error e = {0};
    int exit_code;

    if (!args_run(spec, argc, argv, &exit_code))
        return exit_code;
    unsigned flags = (a->no_bos ? 0 : base_flags) | (a->parse_special ? special_flag : 0);
    if (convert_stdin(a, convert, flags, &e) != RC_OK)
        return cli_fail(spec->verb, &e);
    return ARGS_EXIT_OK;
}

#define MODEL_OPTION(args)                                                                                             \
    {                                                                                                                  \
        .name = "model", .letter = 'm', .type = ARG_STRING, .value = &(args).model, .meta = "FILE",                    \
        .help = "GGUF file; one that holds only a vocabulary will do", .required = true                                \
    }

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize_args a = {0};
    const struct arg_option options[] = {
        MODEL_OPTION(a),
        {.name = "parse-special",
         .type = ARG_FLAG,
         .value = &a.parse_special,
         .help = "text like <|im_end|> becomes that token"},
        {.name = "no-bos", .type = ARG_FLAG, .value = &a.no_bos, .help = "add no bos or eos even if the file says so"},
    };
    const struct arg_spec spec = {
        .program = "spillway-engine",
        .verb = "tokenize",
        .summary = "cut texts into token ids: a JSON array of strings on stdin, an array of id arrays on stdout",
        .example = "echo '[\"Hello world\"]' | spillway-engine tokenize --model model.gguf",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
    };

    return run(&spec, &a, tokenize_one, TOKENIZE_ADD_SPECIAL, TOKENIZE_PARSE_SPECIAL, argc, argv);
}

int cmd_detokenize(int argc, char **argv)
{
    struct tokenize_args a = {0};
    const struct arg_option options[] = {
        MODEL_OPTION(a),
        {.name = "show-special",
         .type = ARG_FLAG,
         .value = &a.parse_special,
         .help = "write control tokens as their text instead of leaving them out"},
    };
    const struct arg_spec spec = {
        .program = "spillway-engine",
        .verb = "detokenize",
        .summary = "turn token ids into text: a JSON array of id arrays on stdin, an array of strings on stdout",
        .example = "echo '[[9707,1879]]' | spillway-engine detokenize --model model.gguf",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
    };

    return run(&spec, &a, detokenize_one, DETOK_TEXT_START, DETOK_SHOW_SPECIAL, argc, argv);
}
