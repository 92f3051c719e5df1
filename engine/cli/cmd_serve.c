/* serve: the command line, and what both processes make of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/cli/device.h"
#include "engine/cli/serve.h"
#include "engine/node/join.h"

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
    const struct tls_server_files files = {.cert = a->tls_cert,
                                           .key = a->tls_key,
                                           .client_ca = a->tls_client_ca,
                                           .client_certs =
                                               a->tls_client_ca ? TLS_CLIENT_CERTS_REQUIRED : TLS_CLIENT_CERTS_OFF};
    if (!a->tls_cert || !a->tls_key)
        return error_set(e, RC_INVALID, "--tls-cert and --tls-key go together");
    enum rc rc = tls_door_new(&c->tls, &files, &clock_system, e);
    if (rc == RC_OK && a->tls_client_ca) /* other nodes have certificates of that authority as well */
        tls_door_expect(c->tls, JOIN_SCHEDULER_NAME);
    return rc;
}

void serve_model_name(const struct serve_args *a, char *id, size_t size)
{
    if (a->alias)
        snprintf(id, size, "%s", a->alias);
    else
        name_model(id, size, a->model);
}

/* Where a node that joins keeps what it was given, and serves with it. */
static enum rc use_membership(struct serve_args *a, struct error *e)
{
    static const char *const names[] = {"node.pem", "ca.pem", "node.key"};
    const char *home = getenv("HOME");
    if (!a->state_dir) {
        if (geteuid() == 0 || !home || !home[0])
            snprintf(a->state, sizeof a->state, "/var/lib/spillway-engine");
        else
            snprintf(a->state, sizeof a->state, "%s/.local/state/spillway-engine", home);
        a->state_dir = a->state;
    }
    if (!a->join)
        return RC_OK;
    if (a->tls_cert || a->tls_key || a->node_key_file)
        return error_set(e, RC_INVALID,
                         "--join brings certificate and node key: leave out --tls-cert, --tls-key and "
                         "--node-key-file");
    if (a->no_supervisor)
        return error_set(e, RC_INVALID, "--join needs the supervisor: leave out --no-supervisor");
    for (int i = 0; i < 3; i++) {
        if (snprintf(a->joined_files[i], sizeof a->joined_files[i], "%s/%s", a->state_dir, names[i]) >=
            (int)sizeof a->joined_files[i])
            return error_set(e, RC_INVALID, "--state-dir: the path is too long");
    }
    a->tls_cert = a->tls_key = a->joined_files[0];
    a->tls_client_ca = a->joined_files[1];
    a->node_key_file = a->joined_files[2];
    return RC_OK;
}

enum rc serve_common_open(struct serve_common *c, const struct serve_args *a, struct error *e)
{
    *c = (struct serve_common){.log = {.fd = STDERR_FILENO, .clock = &clock_system, .program = "spillway-engine"}};
    (void)log_level_parse(a->log_level, &c->log.level); /* one of the choices */
    enum rc rc = cli_device_check(a->device, e);
    if (!rc && a->key_file && (rc = api_keys_open(&c->keys, a->key_file, API_KEYS_MAX, e)))
        error_prefix(e, "--api-key-file");
    if (!rc && a->node_key_file && (rc = api_keys_open(&c->node_key, a->node_key_file, 1, e)))
        error_prefix(e, a->join ? "--state-dir" : "--node-key-file");
    if (!rc && (a->tls_cert || a->tls_key))
        rc = open_tls(c, a, e);
    if (rc)
        return rc;
    serve_model_name(a, c->model_id, sizeof c->model_id);
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
    {.name = "device", .type = ARG_STRING, .value = &(a).device, .meta = CLI_DEVICE_META, .help = CLI_DEVICE_HELP}, \
    {.name = "cuda-gemm", .type = ARG_STRING, .value = &(a).gemm, .meta = CLI_GEMM_META, .choices = cli_gemms, .help = CLI_GEMM_HELP}, \
    {.name = "threads", .letter = 't', .type = ARG_INT, .value = &(a).threads, .meta = "N", .lo = 0, .hi = 1024, .help = "worker threads; 0: all cores"}, \
    {.name = "ctx-size", .letter = 'c', .type = ARG_INT, .value = &(a).n_ctx, .meta = "N", .lo = 0, .hi = 1 << 24, .help = "longest prompt and answer together, in tokens; 0: the model's, at most 8192"}, \
    {.name = "max-batch", .type = ARG_INT, .value = &(a).max_batch, .meta = "N", .lo = 1, .hi = 1024, .help = "requests computed at once; more of them wait", .env = "MAX_BATCH_SIZE"}, \
    {.name = "kv-tokens", .type = ARG_INT, .value = &(a).kv_tokens, .meta = "N", .lo = 0, .hi = 1 << 30, .help = "tokens that the KV pool holds over all requests; 0: max-batch times ctx-size, so that none is ever displaced"}, \
    {.name = "kv-type", .type = ARG_STRING, .value = &(a).kv_type, .meta = "f16|q8_0", .choices = cli_kv_types, .help = "how keys and values are kept: q8_0 takes half the memory of f16, the default; answers of the one are not continued by the other"}, \
    {.name = "activations", .type = ARG_STRING, .value = &(a).activations, .meta = CLI_ACTIVATIONS_META, .choices = cli_activations, .help = CLI_ACTIVATIONS_HELP}, \
    {.name = "prefix-cache", .type = ARG_INT, .value = &(a).prefix_tokens, .meta = "TOKENS", .lo = -1, .hi = 1 << 30, .help = "most tokens kept of requests that are over, for prompts that begin alike; 0: none; -1: half of the KV pool"}, \
    {.name = "kv-spill", .type = ARG_INT, .value = &(a).spill_tokens, .meta = "TOKENS", .lo = -1, .hi = 1 << 30, .help = "most tokens whose keys and values are kept in the host's memory when the pool is full, and come back instead of being computed again; 0: none; -1: on a device as many as the pool holds, in an eighth of the machine's memory at most, on the cpu none"}, \
    {.name = "host-experts", .type = ARG_INT, .value = &(a).host_layers, .meta = "N", .lo = -1, .hi = 1024, .help = CLI_HOST_EXPERTS_HELP}, \
    {.name = "no-lookahead", .type = ARG_FLAG, .value = &(a).plain, .help = "never verify several tokens in one step; the output is the same with and without"}, \
    {.name = "lazy-load", .type = ARG_FLAG, .value = &(a).lazy, .help = "no read-ahead of the model file; on a device, weights are uploaded layer by layer in the first step"},            \
    {.name = "no-mmap", .type = ARG_FLAG, .value = &(a).no_mmap, .help = "read the model file into memory instead of mapping it: for file systems that can fail or change under a mapping"}, \
    {.name = "warmup", .type = ARG_INT, .value = &(a).warmup, .meta = "N", .lo = 0, .hi = 10000, .help = "empty passes before it is ready"}, \
    {.name = "alias", .type = ARG_STRING, .value = &(a).alias, .meta = "NAME", .help = "the name requests use; default: the file's name"}, \
    {.name = "api-key-file", .type = ARG_STRING, .value = &(a).key_file, .meta = "FILE", .help = "bearer keys, one per line; without it anybody may ask"}, \
    {.name = "node-key-file", .type = ARG_STRING, .value = &(a).node_key_file, .meta = "FILE", .help = "the key of the scheduler, one line: opens what docs/NODE_API.md describes"}, \
    {.name = "tls-cert", .type = ARG_STRING, .value = &(a).tls_cert, .meta = "FILE", .help = "serve over TLS: the certificate, PEM, leaf first; read again at SIGHUP"}, \
    {.name = "tls-key", .type = ARG_STRING, .value = &(a).tls_key, .meta = "FILE", .help = "its key, PEM"}, \
    {.name = "join", .type = ARG_STRING, .value = &(a).join, .meta = "URL", .help = "become a node of the scheduler whose join.listen is there, as in https://scheduler:8443; serves it alone, over TLS", .env = "SPILLWAY_JOIN"}, \
    {.name = "join-token-file", .type = ARG_STRING, .value = &(a).token_file, .meta = "FILE", .help = "token of `spillway nodes token NAME`; not needed again while the certificate in --state-dir holds"}, \
    {.name = "name", .type = ARG_STRING, .value = &(a).name, .meta = "NAME", .help = "what this machine was launched as; a node that joins has the name that its token says"}, \
    {.name = "state-dir", .type = ARG_STRING, .value = &(a).state_dir, .meta = "DIR", .help = "where certificate and node key are kept; default: /var/lib/spillway-engine, or ~/.local/state/spillway-engine", .env = "STATE_DIRECTORY"}, \
    {.name = "advertise", .type = ARG_STRING, .value = &(a).advertise, .meta = "HOST", .help = "where the scheduler reaches this engine; default: --host where that is one address, else where its calls come from"}, \
    {.name = "dead-man", .type = ARG_STRING, .value = &(a).dead_man, .meta = "DURATION", .help = "with --join: after so long without a word from the scheduler, drain and end, as in 10m; default: never"}, \
    {.name = "end-command", .type = ARG_STRING, .value = &(a).end_command, .meta = "COMMAND", .help = "run by the shell after an end that the scheduler ordered or the dead man's switch brought, as in \"shutdown -h now\""}, \
    {.name = "notices", .type = ARG_STRING, .value = &(a).notices, .meta = "none|ec2|URL", .help = "ask this cloud's metadata service whether the machine is about to be taken away"}, \
    {.name = "notice-seconds", .type = ARG_INT, .value = &(a).notice_poll_s, .meta = "N", .lo = 1, .hi = 60, .help = "how often it is asked; EC2's user guide recommends every 5 seconds"}, \
    {.name = "watts", .type = ARG_STRING, .value = &(a).watts, .meta = "IDLE:BUSY", .help = "what the machine draws, where it cannot be measured"}, \
    {.name = "power-cap", .type = ARG_INT, .value = &(a).power_cap, .meta = "W", .lo = 0, .hi = 100000, .help = "limit each GPU to so many watts while this runs; 0: leave it"}, \
    {.name = "nvml-library", .type = ARG_STRING, .value = &(a).nvml, .meta = "FILE", .help = "instead of libnvidia-ml.so.1; none: don't look for it"}, \
    {.name = "rapl-dir", .type = ARG_STRING, .value = &(a).rapl, .meta = "DIR", .help = "instead of /sys/class/powercap"}, \
    {.name = "chat-template", .type = ARG_STRING, .value = &(a).chat_template, .meta = "NAME", .help = "instead of the one the file names"}, \
    {.name = "queue-seconds", .type = ARG_INT, .value = &(a).queue_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long a request may wait for a slot before it gets 503; 0: no limit"}, \
    {.name = "drain-seconds", .type = ARG_INT, .value = &(a).drain_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long running answers may take after SIGTERM"}, \
    {.name = "drain-notice", .type = ARG_INT, .value = &(a).notice_s, .meta = "N", .lo = 0, .hi = 86400, .help = "SIGTERM means that the machine is taken away after so many seconds: streams are moved one by one before; 0: it does not"}, \
    {.name = "hold-seconds", .type = ARG_INT, .value = &(a).hold_s, .meta = "N", .lo = 0, .hi = 86400, .help = "how long a request may wait for the model to wake up before it gets 503"}, \
    {.name = "hold-max", .type = ARG_INT, .value = &(a).hold_max, .meta = "N", .lo = 0, .hi = 4096, .help = "how many requests may; the next gets 503"}, \
    {.name = "watchdog-seconds", .type = ARG_INT, .value = &(a).watchdog_s, .meta = "N", .lo = 0, .hi = 86400, .help = "a worker whose loop does not answer for so long is killed and started again, however long its batches take; 0: never, for debuggers"}, \
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
        .max_batch = CLI_MAX_BATCH,
        .prefix_tokens = -1,
        .spill_tokens = -1,
        .drain_s = 30,
        .queue_s = 300,
        .hold_s = 120,
        .hold_max = 256,
        .log_level = "info",
        .notices = "none",
        .notice_poll_s = 5,
        .watchdog_s = 30,
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
    struct error e;
    if (a.lazy && a.no_mmap) {
        fprintf(stderr,
                "spillway-engine serve: --lazy-load and --no-mmap: what is read at once can't be read at first use\n");
        return ARGS_EXIT_USAGE;
    }
    if (use_membership(&a, &e) != RC_OK)
        return cli_fail("serve", &e);
    return a.no_supervisor || a.worker_fd >= 0 ? serve_model(&a) : serve_node(&a, argc, argv);
}
