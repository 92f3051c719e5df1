/* serve: the OpenAI-compatible server. Listens at once, loads on the server's worker thread, ends in order on SIGTERM
 * or SIGINT (a second one ends at once). Logs JSON lines on stderr. */
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "engine/cli/cli.h"
#include "engine/cli/vocab_gguf.h"
#include "engine/serve/server.h"

#define AREA             "serve"
#define STEP_TOKENS      256 /* most tokens in one step, unless --max-batch asks for more */
#define WAITING_PER_SLOT 32  /* requests waiting for a slot before the next gets 503 */
#define WARMUP_TOKENS    16

struct serve_args {
    const char *model, *host, *device, *alias, *key_file, *node_key_file, *chat_template, *log_level;
    int64_t port, threads, n_ctx, max_batch, kv_tokens, prefix_tokens, warmup, drain_s, queue_s;
    bool lazy, plain;
};

/* The whole program; zeroed at the start so that serving_fini() is safe at any point. */
struct serving {
    struct serve_args a;
    struct log log;
    char device[32];    /* what --device came to */
    char model_id[128]; /* what requests call the model */
    struct api_keys *keys, *node_key;
    struct event_base *loop;
    struct event *on_term, *on_int;
    struct server *server;
    /* Made by load(), on the worker thread. */
    struct model *model;
    struct vocab *vocab;
    struct engine *engine;
};

/* What --device means on this machine: a name for the log, or an error that says what would be right. */
static enum rc choose_device(const char *wanted, char *device, size_t size, const char **why, struct error *e)
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
    *why = strcmp(wanted, "cpu") == 0 ? "asked for" : "this build has no CUDA backend";
    snprintf(device, size, "cpu");
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

/* Loading: worker thread. */

static enum rc load_text(struct serving *v, struct serve_model *m, struct error *e)
{
    const struct gguf *g = model_gguf(v->model);
    int32_t n_vocab = model_info(v->model)->n_vocab;
    enum rc rc = vocab_from_gguf(&v->vocab, g, e);
    if (rc)
        return rc;
    if (vocab_size(v->vocab) > n_vocab)
        return error_set(e, RC_INVALID, "the vocabulary has %d tokens, but the model computes logits for %d only",
                         (int)vocab_size(v->vocab), (int)n_vocab);
    m->vocab = v->vocab;
    m->n_vocab = vocab_size(v->vocab); /* logits beyond it are padding: no token to choose */
    rc = chat_template_from_gguf(&m->chat, g, v->a.chat_template, e);
    if (rc == RC_NOT_FOUND) {
        m->chat = NULL;
        snprintf(m->chat_missing, sizeof m->chat_missing, "%s", e->message);
        log_warn(&v->log, AREA, "no chat template: chat requests are refused", LOG_S("reason", e->message));
        rc = RC_OK;
    }
    return rc;
}

static enum rc load_engine(struct serving *v, struct serve_model *m, struct error *e)
{
    int32_t step_tokens = v->a.max_batch > STEP_TOKENS ? (int32_t)v->a.max_batch : STEP_TOKENS;
    const struct engine_options o = {
        .threads = (int)v->a.threads,
        .n_ctx = (int32_t)v->a.n_ctx,
        .max_seqs = (int32_t)v->a.max_batch,
        .max_batch_tokens = step_tokens,
        .kv_pages = (int32_t)((v->a.kv_tokens + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS),
        .kept_pages = v->a.prefix_tokens < 0 ? -1 : (int32_t)(v->a.prefix_tokens / K_PAGE_TOKENS),
    };
    enum rc rc = engine_new(&v->engine, v->model, &o, e);
    if (rc)
        return rc;
    m->ops = &batch_engine_ops_real;
    m->engine = v->engine;
    m->n_ctx = engine_n_ctx(v->engine);
    m->step_tokens = engine_max_batch_tokens(v->engine);
    snprintf(m->numerics, sizeof m->numerics, "%s", engine_numerics(v->engine));
    return RC_OK;
}

/* One pass over a few tokens that nobody asked for: touches every dense weight and wakes every thread. */
static enum rc warm_up_once(struct serving *v, const struct serve_model *m, struct error *e)
{
    int32_t ids[WARMUP_TOKENS];
    int32_t n = m->n_ctx < WARMUP_TOKENS ? m->n_ctx : WARMUP_TOKENS;
    for (int32_t i = 0; i < n; i++)
        ids[i] = i % m->n_vocab;
    struct seq *s = seq_new(v->engine);
    if (!s)
        return error_set(e, RC_FULL, "the engine has no sequence to warm up with");
    enum rc rc = cli_feed(v->engine, s, ids, (size_t)n, m->step_tokens, NULL, e);
    seq_free(s);
    return rc;
}

static enum rc load(void *arg, struct serve_model *m, struct error *e)
{
    struct serving *v = arg;
    enum rc rc = model_open(&v->model, v->a.model, v->a.lazy ? GGUF_MAP_LAZY : GGUF_MAP, e);
    if (rc)
        return rc;
    const struct model_info *info = model_info(v->model);
    rc = load_text(v, m, e);
    if (rc)
        return error_prefix(e, "%s", v->a.model);
    rc = load_engine(v, m, e);
    for (int64_t i = 0; i < v->a.warmup && !rc; i++)
        rc = warm_up_once(v, m, e);
    if (!rc)
        rc = engine_class(v->engine, m->chat ? chat_template_name(m->chat) : NULL, m->numerics_class, e);
    struct stat st;
    m->created = stat(v->a.model, &st) == 0 ? (int64_t)st.st_mtime : 0;
    snprintf(m->fingerprint, sizeof m->fingerprint, "fp_%.16s", info->sha256);
    snprintf(m->arch, sizeof m->arch, "%s", info->arch);
    snprintf(m->quant, sizeof m->quant, "%s", info->quant);
    snprintf(m->device, sizeof m->device, "%s", v->device);
    return rc;
}

/* Life: loop thread. */

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct serving *v = arg;
    (void)what;
    log_info(&v->log, AREA, "signal received", LOG_S("signal", number == SIGTERM ? "SIGTERM" : "SIGINT"));
    server_drain(v->server);
}

static void on_done(void *arg)
{
    struct serving *v = arg;
    event_base_loopbreak(v->loop);
}

static void serving_fini(struct serving *v)
{
    server_free(v->server);
    engine_free(v->engine);
    vocab_free(v->vocab);
    model_close(v->model);
    if (v->on_term)
        event_free(v->on_term);
    if (v->on_int)
        event_free(v->on_int);
    if (v->loop)
        event_base_free(v->loop);
    api_keys_free(v->keys);
    api_keys_free(v->node_key);
}

static enum rc start(struct serving *v, struct error *e)
{
    const char *why = NULL;
    char listen_on[300];
    enum rc rc = choose_device(v->a.device, v->device, sizeof v->device, &why, e);
    if (!rc && v->a.key_file)
        rc = api_keys_open(&v->keys, v->a.key_file, API_KEYS_MAX, e);
    if (!rc && v->a.node_key_file)
        rc = api_keys_open(&v->node_key, v->a.node_key_file, 1, e);
    if (rc)
        return rc;
    log_info(&v->log, AREA, "device chosen", LOG_S("device", v->device), LOG_S("reason", why));
    if (v->a.alias)
        snprintf(v->model_id, sizeof v->model_id, "%s", v->a.alias);
    else
        name_model(v->model_id, sizeof v->model_id, v->a.model);
    v->loop = event_base_new();
    if (!v->loop)
        return error_set(e, RC_IO, "cannot create an event loop");
    /* What the events restore when they are freed: a late second signal must not turn a clean end into a killed one. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    v->on_term = evsignal_new(v->loop, SIGTERM, on_signal, v);
    v->on_int = evsignal_new(v->loop, SIGINT, on_signal, v);
    if (!v->on_term || !v->on_int || event_add(v->on_term, NULL) || event_add(v->on_int, NULL))
        return error_set(e, RC_IO, "cannot handle signals");
    bool v6 = strchr(v->a.host, ':') && v->a.host[0] != '[';
    snprintf(listen_on, sizeof listen_on, v6 ? "[%s]:%d" : "%s:%d", v->a.host, (int)v->a.port);
    const struct server_options o = {
        .listen_on = listen_on,
        .model_id = v->model_id,
        .keys = v->keys,
        .node_key = v->node_key,
        .max_seqs = (int32_t)v->a.max_batch,
        .speculate = !v->a.plain,
        .waiting_max = (int32_t)v->a.max_batch * WAITING_PER_SLOT,
        .queue_ms = v->a.queue_s * 1000,
        .drain_ms = v->a.drain_s * 1000,
        .log = &v->log,
        .clock = &clock_system,
        .load = load,
        .load_arg = v,
        .done = on_done,
        .done_arg = v,
    };
    rc = server_new(&v->server, v->loop, &o, e);
    if (!rc)
        log_info(&v->log, AREA, "listening", LOG_S("host", v->a.host), LOG_I("port", server_port(v->server)),
                 LOG_S("model", v->model_id), LOG_S("path", v->a.model), LOG_B("api_keys", v->keys != NULL),
                 LOG_B("node_key", v->node_key != NULL), LOG_S("version", SPILLWAY_VERSION));
    return rc;
}

static int serve(struct serving *v)
{
    struct error e = {0};
    signal(SIGPIPE, SIG_IGN);
    if (start(v, &e)) {
        serving_fini(v);
        return cli_fail("serve", &e);
    }
    event_base_dispatch(v->loop);
    const struct error *failed = server_failed(v->server);
    int code = failed ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
    if (failed)
        log_error(&v->log, AREA, "the model could not be loaded", LOG_S("error", failed->message));
    log_info(&v->log, AREA, "stopped", LOG_I("exit_code", code));
    if (server_loading(v->server))
        _exit(code); /* the worker is deep inside a load; it holds nothing that has to be undone */
    serving_fini(v);
    return code;
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
    {.name = "chat-template", .type = ARG_STRING, .value = &(a).chat_template, .meta = "NAME", .help = "instead of the one the file names"}, \
    {.name = "queue-seconds", .type = ARG_INT, .value = &(a).queue_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long a request may wait for a slot before it gets 503; 0: no limit"}, \
    {.name = "drain-seconds", .type = ARG_INT, .value = &(a).drain_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long running answers may take after SIGTERM"}, \
    {.name = "log-level", .type = ARG_STRING, .value = &(a).log_level, .meta = "LEVEL", .choices = (const char *const[]){"debug", "info", "warn", "error", NULL}, .help = "least level that is logged"}
/* clang-format on */

int cmd_serve(int argc, char **argv)
{
    struct serving v = {
        .a = {.host = "127.0.0.1",
              .port = 8081,
              .device = "auto",
              .max_batch = 8,
              .prefix_tokens = -1,
              .drain_s = 30,
              .queue_s = 300,
              .log_level = "info"},
        .log = {.fd = STDERR_FILENO, .clock = &clock_system, .program = "spillway-engine"},
    };
    const struct arg_option options[] = {SERVE_OPTIONS(v.a)};
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
    (void)log_level_parse(v.a.log_level, &v.log.level); /* one of the choices */
    return serve(&v);
}
