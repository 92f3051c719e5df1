#include "engine/serve/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/serve/server_internal.h"
#include "kernels/ops.h"

#define AREA               "serve"
#define PREPARED_TASKS_MAX 1024 /* requests waiting to be parsed and tokenised */
#define SCRATCH_BYTES_MAX  API_BODY_BYTES_MAX

/* Replies. */

static void reply(struct server *s, struct http_exchange *x, int status, const char *type)
{
    const struct http_header h[] = {{"content-type", type}};
    s->counters.responses[status / 100]++;
    http_reply(x, status, h, 1, s->scratch.data ? s->scratch.data : "", s->scratch.len);
    strbuf_clear(&s->scratch);
}

static void reply_json(struct server *s, struct http_exchange *x, int status)
{
    reply(s, x, status, "application/json");
}

void server_reply_error(struct server *s, struct http_exchange *x, const struct api_error *e)
{
    char retry[16];
    struct http_header h[3] = {{"content-type", "application/json"}};
    int n = 1;
    if (e->status == 503 || e->status == 429) {
        snprintf(retry, sizeof retry, "%d", API_RETRY_SECONDS);
        h[n++] = (struct http_header){"retry-after", retry};
    }
    if (e->status == 401)
        h[n++] = (struct http_header){"www-authenticate", "Bearer"};
    (void)api_write_error(&s->scratch, e);
    s->counters.responses[e->status / 100]++;
    http_reply(x, e->status, h, n, s->scratch.data, s->scratch.len);
    strbuf_clear(&s->scratch);
}

/* Routes. */

static void put_health(struct server *s)
{
    static const char *const names[] = {"loading", "ok", "failed", "draining"};
    (void)strbuf_printf(&s->scratch, "{\"status\":\"%s\",\"model\":", names[s->state]);
    (void)json_append_string(&s->scratch, s->o.model_id, strlen(s->o.model_id));
    (void)strbuf_puts(&s->scratch, "}");
}

static void get_health(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    (void)caller;
    put_health(s);
    if (s->state == SERVER_READY) {
        reply_json(s, x, 200);
        return;
    }
    const struct http_header h[] = {{"content-type", "application/json"}, {"retry-after", "1"}};
    s->counters.responses[5]++;
    http_reply(x, 503, h, 2, s->scratch.data, s->scratch.len);
    strbuf_clear(&s->scratch);
}

static void get_metrics(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    (void)caller;
    struct batcher_stats stats = {0};
    if (s->batcher)
        batcher_stats(s->batcher, &stats);
    bool known = s->loaded && !s->load_rc;
    double load = s->batcher ? (double)s->load_ns / NS_PER_S : 0;
    struct metrics_view v = {
        .model_id = s->o.model_id,
        .arch = known ? s->model.arch : "",
        .quant = known ? s->model.quant : "",
        .device = known ? s->model.device : "",
        .numerics = known ? s->model.numerics : "",
        .ready = s->state == SERVER_READY,
        .load_seconds = load,
        .counters = &s->counters,
        .batcher = &stats,
        .http = http_server_stats(s->http),
    };
    metrics_write(&s->scratch, &v);
    reply(s, x, 200, "text/plain; version=0.0.4; charset=utf-8");
}

static struct api_model_card model_card(const struct server *s, enum api_caller caller)
{
    struct batcher_stats stats = {0};
    if (s->batcher)
        batcher_stats(s->batcher, &stats);
    return (struct api_model_card){
        .id = s->o.model_id,
        .created = s->model.created,
        .n_ctx = s->model.n_ctx,
        .caller = caller,
        .numerics = s->model.numerics_class,
        .n_slots = s->o.max_seqs,
        .kv_tokens = (int64_t)stats.pages_total * K_PAGE_TOKENS,
    };
}

static void get_models(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    struct api_model_card card = model_card(s, caller);
    (void)api_write_models(&s->scratch, &card);
    reply_json(s, x, 200);
}

/* Is the percent-encoded text up to a '?' this name? */
static bool path_names(const char *encoded, const char *name)
{
    const char *p = encoded;
    for (; *p && *p != '?'; name++) {
        char c;
        p = server_percent_decode(p, &c);
        if (c != *name || c == '\0')
            return false;
    }
    return *name == '\0';
}

static void get_model(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    const char *id = http_request_head(x)->target + strlen("/v1/models/");
    struct api_error e;
    if (!path_names(id, s->o.model_id)) {
        api_fail(&e, 404, "model", "model_not_found", "there is no such model; this engine serves '%.200s'",
                 s->o.model_id);
        server_reply_error(s, x, &e);
        return;
    }
    struct api_model_card card = model_card(s, caller);
    (void)api_write_model(&s->scratch, &card);
    reply_json(s, x, 200);
}

static void post_chat(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    server_call_start(s, x, API_CHAT, caller);
}

static void post_completion(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    server_call_start(s, x, API_COMPLETION, caller);
}

static void post_tokenize(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    server_text_start(s, x, TEXT_TOKENIZE, caller);
}

static void post_detokenize(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    server_text_start(s, x, TEXT_DETOKENIZE, caller);
}

static void post_drain(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    (void)caller;
    server_begin_drain(s);
    put_health(s);
    reply_json(s, x, 200);
}

enum route_needs { NEEDS_NOTHING = 0, NEEDS_KEY = 1, NEEDS_READY = 2, NEEDS_NODE_KEY = 4 };
struct route {
    const char *method, *path;
    bool is_prefix;
    unsigned needs;
    void (*run)(struct server *s, struct http_exchange *x, enum api_caller caller);
};
static const struct route routes[] = {
    {"GET", "/health", false, NEEDS_NOTHING, get_health},
    {"GET", "/metrics", false, NEEDS_KEY, get_metrics},
    {"GET", "/v1/models", false, NEEDS_KEY | NEEDS_READY, get_models},
    {"GET", "/v1/models/", true, NEEDS_KEY | NEEDS_READY, get_model},
    {"POST", "/v1/chat/completions", false, NEEDS_KEY | NEEDS_READY, post_chat},
    {"POST", "/v1/completions", false, NEEDS_KEY | NEEDS_READY, post_completion},
    {"POST", "/tokenize", false, NEEDS_KEY | NEEDS_READY, post_tokenize},
    {"POST", "/detokenize", false, NEEDS_KEY | NEEDS_READY, post_detokenize},
    {"POST", "/drain", false, NEEDS_KEY | NEEDS_NODE_KEY, post_drain},
};

static bool ready(const struct server *s, struct api_error *e)
{
    switch (s->state) {
    case SERVER_READY: return true;
    case SERVER_LOADING: return api_fail(e, 503, NULL, "loading", "the model is still loading; try again shortly");
    case SERVER_FAILED: return api_fail(e, 503, NULL, "load_failed", "the model could not be loaded");
    case SERVER_DRAINING: break;
    }
    return api_fail(e, 503, NULL, "draining", "this engine is shutting down");
}

static const struct route *find_route(const struct http_exchange *x, const char **allowed)
{
    const struct http_head *h = http_request_head(x);
    *allowed = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct route *r = &routes[i];
        bool here = r->is_prefix ? strncmp(h->target, r->path, strlen(r->path)) == 0 : http_request_path_is(x, r->path);
        if (!here)
            continue;
        if (strcmp(h->method, r->method) == 0)
            return r;
        *allowed = r->method;
    }
    return NULL;
}

static bool no_route(struct api_error *e, const char *allowed)
{
    if (allowed)
        return api_fail(e, 405, NULL, "method_not_allowed", "this path wants the method %s", allowed);
    return api_fail(e, 404, NULL, "not_found",
                    "there is nothing at this path; see /v1/chat/completions, /v1/completions, /v1/models, /tokenize, "
                    "/detokenize, /health and /metrics");
}

/* May x have what it asks for? r is NULL: there is no such route, at most one for another method. The key comes first:
 * without one nobody learns which paths there are. */
static bool admit(const struct server *s, const struct http_exchange *x, const struct route *r, const char *allowed,
                  enum api_caller *caller, struct api_error *e)
{
    if (!server_caller(s, x, caller, e))
        return false;
    bool needs_key = s->o.keys && *caller == API_CALLER_CLIENT && (!r || (r->needs & NEEDS_KEY));
    if (needs_key && !api_keys_allow(s->o.keys, http_head_get(http_request_head(x), "authorization")))
        return api_fail(e, 401, NULL, "invalid_api_key", "a valid API key is needed: Authorization: Bearer KEY");
    if (!r)
        return no_route(e, allowed);
    if ((r->needs & NEEDS_NODE_KEY) && *caller != API_CALLER_SCHEDULER)
        return api_fail(e, 401, NULL, "node_key_required",
                        "this path is open only to a scheduler that sends the node key");
    return !(r->needs & NEEDS_READY) || ready(s, e);
}

static void on_request(struct http_exchange *x, void *arg)
{
    struct server *s = arg;
    struct api_error e;
    enum api_caller caller;
    const char *allowed;
    const struct route *r = find_route(x, &allowed);
    if (admit(s, x, r, allowed, &caller, &e))
        r->run(s, x, caller);
    else
        server_reply_error(s, x, &e);
}

/* Loading. */

static void load_run(struct worker_task *t) /* worker thread */
{
    struct server *s = (struct server *)((char *)t - offsetof(struct server, load_task));
    s->load_rc = s->o.load(s->o.load_arg, &s->model, &s->error);
}

static void end_ids_add(struct server *s, int32_t id)
{
    if (s->n_end_ids < SERVER_END_IDS_MAX)
        s->end_ids[s->n_end_ids++] = id;
}

static void find_end_ids(struct server *s)
{
    const struct vocab *v = s->model.vocab;
    for (int32_t id = 0; id < vocab_size(v); id++)
        if (vocab_is_end(v, id))
            end_ids_add(s, id);
    const char *const *stops = s->model.chat ? chat_template_stops(s->model.chat) : NULL;
    for (; stops && *stops; stops++) {
        int32_t id = vocab_find(v, *stops, strlen(*stops));
        if (id >= 0 && !vocab_is_end(v, id))
            end_ids_add(s, id);
    }
}

void server_done(struct server *s)
{
    if (s->done)
        return;
    s->done = true;
    s->o.done(s->o.done_arg);
}

static void batcher_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    batcher_dispatch(((struct server *)arg)->batcher);
}

static enum rc start_batcher(struct server *s)
{
    const struct serve_model *m = &s->model;
    struct batcher_options o = {
        .ops = m->ops,
        .engine = m->engine,
        .clock = s->o.clock,
        .n_vocab = m->n_vocab,
        .n_ctx = m->n_ctx,
        .max_seqs = s->o.max_seqs,
        .step_tokens = m->step_tokens,
        .speculate = s->o.speculate,
        .waiting_max = s->o.waiting_max,
    };
    enum rc rc = batcher_new(&s->batcher, &o, &s->error);
    if (rc)
        return rc;
    s->batcher_ev = event_new(s->loop, batcher_fd(s->batcher), EV_READ | EV_PERSIST, batcher_cb, s);
    if (!s->batcher_ev || event_add(s->batcher_ev, NULL))
        return error_set(&s->error, RC_IO, "cannot watch the engine thread");
    return RC_OK;
}

static void load_done(struct worker_task *t)
{
    struct server *s = (struct server *)((char *)t - offsetof(struct server, load_task));
    s->loaded = true;
    if (s->state != SERVER_LOADING)
        return; /* told to drain meanwhile */
    if (!s->load_rc) {
        find_end_ids(s);
        s->load_rc = start_batcher(s);
    }
    s->load_ns = mono_since(s->o.clock, s->started);
    if (s->load_rc) {
        s->state = SERVER_FAILED;
        server_done(s);
        return;
    }
    s->state = SERVER_READY;
    log_info(s->o.log, AREA, "ready", LOG_S("model", s->o.model_id), LOG_S("arch", s->model.arch),
             LOG_S("quant", s->model.quant), LOG_S("device", s->model.device), LOG_S("numerics", s->model.numerics),
             LOG_S("numerics_class", s->model.numerics_class), LOG_I("n_ctx", s->model.n_ctx),
             LOG_I("max_batch", s->o.max_seqs),
             LOG_S("chat_template", s->model.chat ? chat_template_name(s->model.chat) : NULL),
             LOG_I("load_ms", s->load_ns / NS_PER_MS));
}

/* Life. */

static void worker_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    worker_dispatch(((struct server *)arg)->worker);
}

static enum rc start_worker(struct server *s, struct error *e)
{
    enum rc rc = worker_new(&s->worker, PREPARED_TASKS_MAX, e);
    if (rc)
        return rc;
    s->worker_ev = event_new(s->loop, worker_fd(s->worker), EV_READ | EV_PERSIST, worker_cb, s);
    if (!s->worker_ev || event_add(s->worker_ev, NULL))
        return error_set(e, RC_IO, "cannot watch the worker thread");
    s->load_task = (struct worker_task){.run = load_run, .done = load_done};
    return worker_submit(s->worker, &s->load_task);
}

enum rc server_new(struct server **out, struct event_base *loop, const struct server_options *o, struct error *e)
{
    struct server *s = spw_calloc(1, sizeof *s);
    s->o = *o;
    s->loop = loop;
    s->started = clock_now(o->clock);
    strbuf_init(&s->scratch, SCRATCH_BYTES_MAX);
    serve_counters_init(&s->counters);
    const struct http_server_options http = {.limits = http_limits_default};
    const struct http_server_handlers handlers = {.on_request = on_request};
    enum rc rc = http_server_new(&s->http, loop, o->listen_on, &http, &handlers, s, e);
    if (!rc)
        rc = start_worker(s, e);
    if (rc) {
        server_free(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

static void drained(void *arg)
{
    server_done(arg);
}

void server_drain(struct server *s)
{
    if (s->ending || s->state == SERVER_FAILED) {
        server_done(s);
        return;
    }
    s->ending = true;
    server_begin_drain(s);
    if (!s->done)
        http_server_drain(s->http, drained, s);
}

bool server_loading(const struct server *s)
{
    return !s->loaded;
}

const struct error *server_failed(const struct server *s)
{
    return s->state == SERVER_FAILED ? &s->error : NULL;
}

int server_port(const struct server *s)
{
    return http_server_port(s->http);
}

/* Order: the HTTP server lets go of its clients (each call then cancels its job), the worker returns its tasks, and
 * only then does the batcher go. */
void server_free(struct server *s)
{
    if (!s)
        return;
    s->state = SERVER_DRAINING; /* a load that comes back now starts nothing */
    if (s->http)
        http_server_free(s->http);
    worker_free(s->worker);
    batcher_free(s->batcher);
    if (s->worker_ev)
        event_free(s->worker_ev);
    if (s->batcher_ev)
        event_free(s->batcher_ev);
    if (s->drain_ev)
        event_free(s->drain_ev);
    strbuf_fini(&s->scratch);
    free(s);
}
