/* The process with the model: loads it on the server's worker thread while the server listens already, and ends in
 * order. As a supervisor's worker it is told when to accept and when to end over its channel; alone (--no-supervisor),
 * SIGTERM and SIGINT tell it (a second one ends at once). Logs JSON lines on stderr. */
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cli/device.h"
#include "engine/cli/serve.h"
#include "engine/cli/vocab_gguf.h"
#include "engine/node/link.h"
#include "engine/node/watts.h"
#include "engine/serve/server.h"

#define WAITING_PER_SLOT 32 /* requests waiting for a slot before the next gets 503 */
#define WARMUP_TOKENS    16

/* The whole program; zeroed at the start so that serving_fini() is safe at any point. */
struct serving {
    struct serve_args a;
    struct serve_common c;
    struct event_base *loop;
    struct event *on_term, *on_int;
    struct server *server;
    struct link *link; /* NULL: no supervisor */
    /* Made by load(), on the worker thread. */
    struct model *model;
    struct vocab *vocab;
    struct engine *engine;
};

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
    m->n_logits = n_vocab;
    m->n_vocab = vocab_size(v->vocab); /* logits beyond it are padding: no token to choose */
    rc = chat_template_from_gguf(&m->chat, g, v->a.chat_template, e);
    if (rc == RC_NOT_FOUND) {
        m->chat = NULL;
        snprintf(m->chat_missing, sizeof m->chat_missing, "%s", e->message);
        log_warn(&v->c.log, SERVE_AREA, "no chat template: chat requests are refused", LOG_S("reason", e->message));
        rc = RC_OK;
    }
    return rc;
}

/* Engine thread. There is nothing to end in order: what would have to be freed is the device's. The supervisor starts
 * the next worker, which takes the device if it answers again, or with --device auto the cpu. */
static void on_device_lost(void *arg, const struct error *e)
{
    struct serving *v = arg;
    log_error(&v->c.log, SERVE_AREA, "the device is gone: this process ends", LOG_S("error", e->message));
    _exit(ARGS_EXIT_FAILED);
}

static void say_host_experts(struct serving *v, const struct cli_device *d, int32_t layers, uint64_t bytes)
{
    char text[128];
    snprintf(text, sizeof text, "%s for those of %d layers, %.1f GB",
             v->a.host_layers > 0 ? "asked for" : "the device has no room", (int)layers, (double)bytes * 1e-9);
    log_warn(&v->c.log, SERVE_AREA, "the cpu computes experts beside the device", LOG_S("device", d->name),
             LOG_S("reason", text));
}

static enum rc load_engine(struct serving *v, struct serve_model *m, struct error *e)
{
    struct cli_device d;
    enum rc rc = cli_device_choose(&d, v->a.device, e);
    if (rc)
        return rc;
    log_info(&v->c.log, SERVE_AREA, "device chosen", LOG_S("device", d.name), LOG_S("reason", d.reason));
    snprintf(m->device, sizeof m->device, "%s", d.name);
    struct engine_options o = {
        .ops = d.ops,
        .device = d.index,
        .threads = (int)v->a.threads,
        .n_ctx = (int32_t)v->a.n_ctx,
        .max_seqs = (int32_t)v->a.max_batch,
        .max_batch_tokens = cli_step_tokens(v->a.max_batch),
        .host_layers = (int32_t)v->a.host_layers,
        .kv_type = cli_kv_type(v->a.kv_type),
        .gemm_library = cli_gemm_library(v->a.gemm),
        .kv_pages = (int32_t)((v->a.kv_tokens + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS),
        .lazy = v->a.lazy,
        .spill_pages = v->a.spill_tokens < 0 ? -1 : (int32_t)(v->a.spill_tokens / K_PAGE_TOKENS),
        .kept_pages = v->a.prefix_tokens < 0 ? -1 : (int32_t)(v->a.prefix_tokens / K_PAGE_TOKENS),
    };
    rc = cli_precision(&o.precision, v->a.activations, false, e);
    if (!rc)
        rc = engine_new(&v->engine, v->model, &o, e);
    if (rc)
        return rc;
    uint64_t on_host;
    int32_t layers = engine_host_layers(v->engine, &on_host);
    if (layers > 0)
        say_host_experts(v, &d, layers, on_host);
    if (engine_library_missing(v->engine))
        log_warn(&v->c.log, SERVE_AREA, "no cuBLASLt: our own kernels multiply",
                 LOG_S("reason", engine_library_missing(v->engine)));
    m->ops = &batch_engine_ops_real;
    m->engine = v->engine;
    m->device_lost = on_device_lost;
    m->device_lost_arg = v;
    m->n_ctx = engine_n_ctx(v->engine);
    m->n_embd = model_info(v->model)->n_embd;
    m->kv_bytes = engine_kv_bytes(v->engine);
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
    const enum gguf_open_mode mode = v->a.no_mmap ? GGUF_READ : v->a.lazy ? GGUF_MAP_LAZY : GGUF_MAP;
    enum rc rc = model_open(&v->model, v->a.model, mode, e);
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
    return rc;
}

/* Life: loop thread. */

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct serving *v = arg;
    (void)what;
    log_info(&v->c.log, SERVE_AREA, "signal received", LOG_S("signal", number == SIGTERM ? "SIGTERM" : "SIGINT"));
    server_drain(v->server);
}

static void on_done(void *arg)
{
    struct serving *v = arg;
    if (v->link && server_failed(v->server))
        link_failed(v->link, server_failed(v->server));
    event_base_loopbreak(v->loop);
}

static void on_end_ordered(void *arg)
{
    event_base_loopbreak(((struct serving *)arg)->loop);
}

static void serving_fini(struct serving *v)
{
    link_free(v->link);
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
    serve_common_close(&v->c);
}

static enum rc heed_signals(struct serving *v, struct error *e)
{
    /* What the events restore when they are freed: a late second signal must not turn a clean end into a killed one. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    v->on_term = evsignal_new(v->loop, SIGTERM, on_signal, v);
    v->on_int = evsignal_new(v->loop, SIGINT, on_signal, v);
    if (!v->on_term || !v->on_int || event_add(v->on_term, NULL) || event_add(v->on_int, NULL))
        return error_set(e, RC_IO, "cannot handle signals");
    return RC_OK;
}

static enum rc find_supervisor(struct serving *v, struct error *e)
{
    const struct link_options o = {
        .model_id = v->c.model_id,
        .n_slots = (int32_t)v->a.max_batch,
        .tls = v->c.tls,
        .log = &v->c.log,
        .end = on_end_ordered,
        .arg = v,
    };
    prctl(PR_SET_NAME, "spillway-engine"); /* it was started by another path */
    snprintf(v->c.listen_on, sizeof v->c.listen_on, "fd:%d", (int)v->a.listener_fd);
    return link_new(&v->link, v->loop, (int)v->a.worker_fd, &o, e);
}

static enum rc start(struct serving *v, struct error *e)
{
    enum rc rc = serve_common_open(&v->c, &v->a, e);
    if (rc)
        return rc;
    v->loop = event_base_new();
    if (!v->loop)
        return error_set(e, RC_IO, "cannot create an event loop");
    rc = v->a.worker_fd >= 0 ? find_supervisor(v, e) : heed_signals(v, e);
    if (rc)
        return rc;
    int64_t idle_mw = 0, busy_mw = 0;
    if (v->a.watts && watts_parse_curve(v->a.watts, &idle_mw, &busy_mw, e) != RC_OK)
        return error_prefix(e, "--watts");
    struct stat st;
    const struct server_options o = {
        .load_bytes = stat(v->a.model, &st) == 0 ? (int64_t)st.st_size : 0,
        .busy_mw = busy_mw,
        .listen_on = v->c.listen_on,
        .model_id = v->c.model_id,
        .keys = v->c.keys,
        .node_key = v->c.node_key,
        .tls = v->c.tls,
        .max_seqs = (int32_t)v->a.max_batch,
        .speculate = !v->a.plain,
        .waiting_max = (int32_t)v->a.max_batch * WAITING_PER_SLOT,
        .queue_ms = v->a.queue_s * 1000,
        .drain_ms = v->a.drain_s * 1000,
        .log = &v->c.log,
        .clock = &clock_system,
        .load = load,
        .load_arg = v,
        .supervisor = v->link ? link_supervisor(v->link) : NULL,
        .done = on_done,
        .done_arg = v,
    };
    rc = server_new(&v->server, v->loop, &o, e);
    if (rc)
        return rc;
    if (v->link)
        link_serve(v->link, v->server);
    else
        serve_say_listening(&v->c, &v->a, server_port(v->server));
    return RC_OK;
}

int serve_model(const struct serve_args *a)
{
    struct serving v = {.a = *a};
    struct error e = {0};
    signal(SIGPIPE, SIG_IGN);
    if (start(&v, &e)) {
        if (v.link)
            link_failed(v.link, &e);
        serving_fini(&v);
        return cli_fail("serve", &e);
    }
    event_base_dispatch(v.loop);
    const struct error *failed = server_failed(v.server);
    int code = failed ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
    if (failed)
        log_error(&v.c.log, SERVE_AREA, "the model could not be loaded", LOG_S("error", failed->message));
    log_info(&v.c.log, SERVE_AREA, v.link ? "worker stopped" : "stopped", LOG_I("exit_code", code));
    if (server_loading(v.server))
        _exit(code); /* the worker is deep inside a load; it holds nothing that has to be undone */
    serving_fini(&v);
    return code;
}
