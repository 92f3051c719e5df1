/* serve: the command line, and what both processes make of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "engine/cli/serve.h"

/* What --device means on this machine: a name for the log, or an error that says what would be right. */
static enum rc choose_device(const char *wanted, struct serve_common *c, struct error *e)
{
    int64_t index;
    bool is_cuda = strcmp(wanted, "cuda") == 0 ||
                   (strncmp(wanted, "cuda:", 5) == 0 && text_parse_int(wanted + 5, 0, 1023, &index) == RC_OK);
    if (is_cuda)
        return error_set(e, RC_UNSUPPORTED,
                         "--device %s: this build has no CUDA backend; configure it with -DSPILLWAY_CUDA=ON, or use "
                         "--device cpu",
                         wanted);
    if (strcmp(wanted, "auto") != 0 && strcmp(wanted, "cpu") != 0)
        return error_set(e, RC_INVALID, "--device \"%.40s\": expected auto, cpu, cuda or cuda:N", wanted);
    snprintf(c->device, sizeof c->device, "cpu");
    log_info(&c->log, SERVE_AREA, "device chosen", LOG_S("device", c->device),
             LOG_S("reason", strcmp(wanted, "cpu") == 0 ? "asked for" : "this build has no CUDA backend"));
    return RC_OK;
}

/* "/models/tiny-00001-of-00002.gguf" -> "tiny". */
static void name_model(char *id, size_t size, const char *path)
{
    const char *slash = strrchr(path, '/');
    snprintf(id, size, "%s", slash ? slash + 1 : path);
    size_t n = strlen(id);
    if (n > 5 && strcmp(id + n - 5, ".gguf") == 0)
        id[n -= 5] = '\0';
    const char *split = n > 15 ? id + n - 15 : NULL; /* "-00001-of-00002" */
    if (split && split[0] == '-' && strncmp(split + 6, "-of-", 4) == 0)
        id[n - 15] = '\0';
}

static enum rc open_tls(struct serve_common *c, const struct serve_args *a, struct error *e)
{
    const struct tls_server_files files = {.cert = a->tls_cert, .key = a->tls_key};
    if (!a->tls_cert || !a->tls_key)
        return error_set(e, RC_INVALID, "--tls-cert and --tls-key go together");
    return tls_door_new(&c->tls, &files, &clock_system, e);
}

enum rc serve_common_open(struct serve_common *c, const struct serve_args *a, struct error *e)
{
    *c = (struct serve_common){.log = {.fd = STDERR_FILENO, .clock = &clock_system, .program = "spillway-engine"}};
    (void)log_level_parse(a->log_level, &c->log.level); /* one of the choices */
    enum rc rc = choose_device(a->device, c, e);
    if (!rc && a->key_file)
        rc = api_keys_open(&c->keys, a->key_file, API_KEYS_MAX, e);
    if (!rc && a->node_key_file)
        rc = api_keys_open(&c->node_key, a->node_key_file, 1, e);
    if (!rc && (a->tls_cert || a->tls_key))
        rc = open_tls(c, a, e);
    if (rc)
        return rc;
    if (a->alias)
        snprintf(c->model_id, sizeof c->model_id, "%s", a->alias);
    else
        name_model(c->model_id, sizeof c->model_id, a->model);
    bool v6 = strchr(a->host, ':') && a->host[0] != '[';
    snprintf(c->listen_on, sizeof c->listen_on, v6 ? "[%s]:%d" : "%s:%d", a->host, (int)a->port);
    return RC_OK;
}

void serve_say_listening(const struct serve_common *c, const struct serve_args *a, int port)
{
    log_info(&c->log, SERVE_AREA, "listening", LOG_S("host", a->host), LOG_I("port", port), LOG_S("model", c->model_id),
             LOG_S("path", a->model), LOG_B("api_keys", c->keys != NULL), LOG_B("node_key", c->node_key != NULL),
             LOG_B("tls", c->tls != NULL), LOG_S("version", SPILLWAY_VERSION));
}

void serve_common_close(struct serve_common *c)
{
    tls_door_free(c->tls);
    api_keys_free(c->keys);
    api_keys_free(c->node_key);
}

/* clang-format off */
#define SERVE_OPTIONS(a)                                                                                               \
    {.name = "model", .letter = 'm', .type = ARG_STRING, .value = &(a).model, .meta = "FILE", .help = "GGUF model file", .env = "MODEL_PATH", .required = true}, \
    {.name = "host", .type = ARG_STRING, .value = &(a).host, .meta = "ADDRESS", .help = "address to listen on"},       \
    {.name = "port", .letter = 'p', .type = ARG_INT, .value = &(a).port, .meta = "N", .lo = 0, .hi = 65535, .help = "port; 0: any free one, told in the log line \"listening\""}, \
    {.name = "device", .type = ARG_STRING, .value = &(a).device, .meta = "auto|cpu|cuda[:N]", .help = "where to compute"}, \
    {.name = "threads", .letter = 't', .type = ARG_INT, .value = &(a).threads, .meta = "N", .lo = 0, .hi = 1024, .help = "worker threads; 0: all cores"}, \
    {.name = "ctx-size", .letter = 'c', .type = ARG_INT, .value = &(a).n_ctx, .meta = "N", .lo = 0, .hi = 1 << 24, .help = "longest prompt and answer together, in tokens; 0: the model's, at most 8192"}, \
    {.name = "max-batch", .type = ARG_INT, .value = &(a).max_batch, .meta = "N", .lo = 1, .hi = 1024, .help = "requests computed at once; more of them wait", .env = "MAX_BATCH_SIZE"}, \
    {.name = "kv-tokens", .type = ARG_INT, .value = &(a).kv_tokens, .meta = "N", .lo = 0, .hi = 1 << 30, .help = "tokens that the KV pool holds over all requests; 0: max-batch times ctx-size, so that none is ever displaced"}, \
    {.name = "prefix-cache", .type = ARG_INT, .value = &(a).prefix_tokens, .meta = "TOKENS", .lo = -1, .hi = 1 << 30, .help = "most tokens kept of requests that are over, for prompts that begin alike; 0: none; -1: half of the KV pool"}, \
    {.name = "no-lookahead", .type = ARG_FLAG, .value = &(a).plain, .help = "never verify several tokens in one step; the output is the same with and without"}, \
    {.name = "lazy-load", .type = ARG_FLAG, .value = &(a).lazy, .help = "no read-ahead of the model file"},            \
    {.name = "warmup", .type = ARG_INT, .value = &(a).warmup, .meta = "N", .lo = 0, .hi = 1000, .help = "empty passes before it is ready"}, \
    {.name = "alias", .type = ARG_STRING, .value = &(a).alias, .meta = "NAME", .help = "the name requests use; default: the file's name"}, \
    {.name = "api-key-file", .type = ARG_STRING, .value = &(a).key_file, .meta = "FILE", .help = "bearer keys, one per line; without it anybody may ask"}, \
    {.name = "node-key-file", .type = ARG_STRING, .value = &(a).node_key_file, .meta = "FILE", .help = "the key of the scheduler, one line: opens what docs/NODE_API.md describes"}, \
    {.name = "tls-cert", .type = ARG_STRING, .value = &(a).tls_cert, .meta = "FILE", .help = "serve over TLS: the certificate, PEM, leaf first; read again at SIGHUP"}, \
    {.name = "tls-key", .type = ARG_STRING, .value = &(a).tls_key, .meta = "FILE", .help = "its key, PEM"}, \
    {.name = "chat-template", .type = ARG_STRING, .value = &(a).chat_template, .meta = "NAME", .help = "instead of the one the file names"}, \
    {.name = "queue-seconds", .type = ARG_INT, .value = &(a).queue_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long a request may wait for a slot before it gets 503; 0: no limit"}, \
    {.name = "drain-seconds", .type = ARG_INT, .value = &(a).drain_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long running answers may take after SIGTERM"}, \
    {.name = "drain-notice", .type = ARG_INT, .value = &(a).notice_s, .meta = "N", .lo = 0, .hi = 86400, .help = "SIGTERM means that the machine is taken away after so many seconds: streams are moved one by one before; 0: it does not"}, \
    {.name = "hold-seconds", .type = ARG_INT, .value = &(a).hold_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long a request may wait for the model to wake up before it gets 503"}, \
    {.name = "hold-max", .type = ARG_INT, .value = &(a).hold_max, .meta = "N", .lo = 0, .hi = 4096, .help = "how many requests may; the next gets 503"}, \
    {.name = "no-supervisor", .type = ARG_FLAG, .value = &(a).no_supervisor, .help = "one process, for debuggers: no sleep, and a crash is the end"}, \
    {.name = "worker-fd", .type = ARG_INT, .value = &(a).worker_fd, .lo = 3, .hi = 1023}, /* for the supervisor to use */ \
    {.name = "listener-fd", .type = ARG_INT, .value = &(a).listener_fd, .lo = 3, .hi = 1023},                          \
    {.name = "log-level", .type = ARG_STRING, .value = &(a).log_level, .meta = "LEVEL", .choices = (const char *const[]){"debug", "info", "warn", "error", NULL}, .help = "least level that is logged"}
/* clang-format on */

int cmd_serve(int argc, char **argv)
{
    struct serve_args a = {
        .host = "127.0.0.1",
        .port = 8081,
        .device = "auto",
        .max_batch = 8,
        .prefix_tokens = -1,
        .drain_s = 30,
        .queue_s = 300,
        .hold_s = 120,
        .hold_max = 256,
        .log_level = "info",
        .worker_fd = -1,
        .listener_fd = -1,
    };
    const struct arg_option options[] = {SERVE_OPTIONS(a)};
    const struct arg_spec spec = {
        .program = "spillway-engine",
        .verb = "serve",
        .summary = "serve a model over the OpenAI API",
        .example = "spillway-engine serve --model m.gguf --port 8081 --max-batch 16",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
    };
    int code;
    if (!args_run(&spec, argc, argv, &code))
        return code;
    return a.no_supervisor || a.worker_fd >= 0 ? serve_model(&a) : serve_node(&a, argc, argv);
}
