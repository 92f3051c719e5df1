/* render-chat: the exact prompt that a chat turns into, before it is tokenised. */
#include "engine/cli/cli.h"
#include "engine/cli/stdin_json.h"
#include "engine/cli/vocab_gguf.h"

struct render_args {
    const char *name, *model, *thinking, *date;
};

static enum rc choose_template(const struct render_args *a, const struct chat_template **t, struct error *e)
{
    struct gguf *g = NULL;

    if (a->name)
        return chat_template_get(a->name, t, e);
    if (!a->model)
        return error_set(e, RC_INVALID, "name a template with --template or a file with --model");
    enum rc rc = gguf_open(&g, a->model, GGUF_MAP_LAZY, e);
    if (rc == RC_OK && (rc = chat_template_from_gguf(t, g, NULL, e)) != RC_OK)
        error_prefix(e, "%s", a->model);
    gguf_close(g);
    return rc;
}

static enum rc render(const struct render_args *a, struct error *e)
{
    const struct chat_template *t = NULL;
    const struct chat_options o = {.thinking_off = a->thinking[1] == 'f', .date = a->date};
    struct chat_messages messages = {0};
    struct chat_prompt prompt;
    cJSON *input = NULL;
    enum rc rc = choose_template(a, &t, e);

    chat_prompt_init(&prompt, STDIN_BYTES_MAX);
    if (rc == RC_OK)
        rc = stdin_read_json(&input, e);
    if (rc == RC_OK)
        rc = chat_messages_parse(input, &messages, e);
    if (rc == RC_OK)
        rc = chat_template_render(t, &messages, &o, &prompt, e);
    if (rc == RC_OK)
        rc = stdout_write(&prompt.text, e);
    chat_prompt_fini(&prompt);
    chat_messages_fini(&messages);
    cJSON_Delete(input);
    return rc;
}

int cmd_render_chat(int argc, char **argv)
{
    struct render_args a = {.thinking = "on"};
    static const char *const on_off[] = {"on", "off", NULL};
    const struct arg_option options[] = {
        {.name = "template",
         .type = ARG_STRING,
         .value = &a.name,
         .meta = "NAME",
         .help = "deepseek-r1-distill-qwen, deepseek-v3.1, qwen2.5-instruct, chatml, ..."},
        {.name = "model",
         .letter = 'm',
         .type = ARG_STRING,
         .value = &a.model,
         .meta = "FILE",
         .help = "take the template of this GGUF file"},
        {.name = "thinking",
         .type = ARG_STRING,
         .value = &a.thinking,
         .meta = "on|off",
         .help = "for templates with a switch",
         .choices = on_off},
        {.name = "date", .type = ARG_STRING, .value = &a.date, .meta = "DATE", .help = "for templates that hold one"},
    };
    const struct arg_spec spec = {
        .program = "spillway-engine",
        .verb = "render-chat",
        .summary = "write the prompt of a chat: a JSON array of messages on stdin, the prompt's bytes on stdout",
        .example = "echo '[{\"role\":\"user\",\"content\":\"Hi\"}]' | spillway-engine render-chat --template chatml",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
    };
    struct error e = {0};
    int exit_code;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    return render(&a, &e) == RC_OK ? ARGS_EXIT_OK : cli_fail(spec.verb, &e);
}
