#include "engine/serve/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/serve/health.h"
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
    s->counters.responses[e->status / 100]++;
    gate_reply_error(x, e, &s->scratch);
}

/* Routes. */

static const char *health_word(const struct server *s)
{
    static const char *const names[] = {"loading", "ok", "failed", "draining"};
    return names[s->state];
}

static void totals_of_all(const struct server *s, struct serve_totals *all)
{
    struct serve_totals own;
    *all = s->before;
    server_totals(s, &own);
    serve_totals_add(all, &own);
}

static void put_health(struct server *s, enum api_caller caller)
{
    struct serve_totals all;
    struct health_view v = {.status = health_word(s), .model_id = s->o.model_id};
    if (caller == API_CALLER_SCHEDULER) {
        totals_of_all(s, &all);
        v.totals = &all;
        v.node = &s->node;
    }
    (void)!health_write(&s->scratch, &v);
}

static void get_health(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    put_health(s, caller);
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
    struct serve_totals all;
    totals_of_all(s, &all);
    const struct metrics_node node = {.state = health_word(s), .counts = &s->node};
    bool known = s->loaded && !s->load_rc;
    struct metrics_view v = {
        .model_id = s->o.model_id,
        .arch = known ? s->model.arch : "",
        .quant = known ? s->model.quant : "",
        .device = known ? s->model.device : "",
        .numerics = known ? s->model.numerics : "",
        .ready = s->state == SERVER_READY,
        .kv_bytes = known ? s->model.kv_bytes : 0,
        .load_seconds = s->batcher ? (double)s->load_ns / NS_PER_S : 0,
        .totals = &all,
        .node = s->o.supervisor ? &node : NULL,
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

static void get_model(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    struct api_error e;
    if (!gate_names_model(http_request_head(x)->target, s->o.model_id, &e)) {
        server_reply_error(s, x, &e);
        return;
    }
    struct api_model_card card = model_card(s, caller);
    (void)api_write_model(&s->scratch, &card);
    reply_json(s, x, 200);
}

static void asked(const struct server *s, enum server_asked what)
{
    if (s->o.supervisor)
        s->o.supervisor->asked(what, s->o.supervisor->arg);
}

static void post_chat(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    asked(s, SERVER_ASKED_ANSWER);
    server_call_start(s, x, API_CHAT, caller);
}

static void post_completion(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    asked(s, SERVER_ASKED_ANSWER);
    server_call_start(s, x, API_COMPLETION, caller);
}

static void post_tokenize(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    asked(s, SERVER_ASKED_ANSWER);
    server_text_start(s, x, TEXT_TOKENIZE, caller);
}

static void post_detokenize(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    asked(s, SERVER_ASKED_ANSWER);
    server_text_start(s, x, TEXT_DETOKENIZE, caller);
}

static void post_drain(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    (void)caller;
    server_begin_drain(s, s->o.drain_ms, 0);
    asked(s, SERVER_ASKED_DRAIN);
    put_health(s, API_CALLER_CLIENT);
    reply_json(s, x, 200);
}

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

static void sleep_or_wake(struct server *s, struct http_exchange *x, enum server_asked what, const char *state)
{
    struct api_error e;
    bool can = s->o.supervisor != NULL;
    if (!can)
        api_fail(&e, 501, NULL, "no_supervisor",
                 "this engine runs without a supervisor (--no-supervisor), so that nobody could wake it up");
    if (!can || !ready(s, &e)) {
        server_reply_error(s, x, &e);
        return;
    }
    asked(s, what);
    (void)strbuf_printf(&s->scratch, "{\"state\":\"%s\"}", state);
    reply_json(s, x, 202);
}

static void post_sleep(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    (void)caller;
    sleep_or_wake(s, x, SERVER_ASKED_SLEEP, "falling_asleep");
}

static void post_wake(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    (void)caller;
    sleep_or_wake(s, x, SERVER_ASKED_WAKE, "awake");
}

/* The route of a request that may be answered; NULL: *e says why not. */
static const struct gate_route *admit(const struct server *s, const struct http_exchange *x, enum api_caller *caller,
                                      struct api_error *e)
{
    const struct gate_route *r = gate_admit(&s->gate, http_request_head(x), caller, e);
    return r && (!(r->needs & GATE_NEEDS_READY) || ready(s, e)) ? r : NULL;
}

/* Before a body is read: whoever may not ask does not make us hold one. */
static void on_head(struct http_exchange *x, void *arg)
{
    struct api_error e;
    enum api_caller caller;
    if (!admit(arg, x, &caller, &e))
        server_reply_error(arg, x, &e);
}

static void on_request(struct http_exchange *x, void *arg)
{
    static void (*const run[])(struct server *, struct http_exchange *, enum api_caller) = {
        [GATE_EMBEDDINGS] = server_embed_start,
        [GATE_TOKENIZE] = post_tokenize,
        [GATE_DETOKENIZE] = post_detokenize,
        [GATE_HEALTH] = get_health,
        [GATE_METRICS] = get_metrics,
        [GATE_MODELS] = get_models,
        [GATE_MODEL] = get_model,
        [GATE_CHAT] = post_chat,
        [GATE_COMPLETION] = post_completion,
        [GATE_DRAIN] = post_drain,
        [GATE_SLEEP] = post_sleep,
        [GATE_WAKE] = post_wake,
    };
    struct server *s = arg;
    struct api_error e;
    enum api_caller caller;
    const struct gate_route *r = admit(s, x, &caller, &e);
    if (r)
        run[r->id](s, x, caller);
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
        .n_logits = m->n_logits,
        .n_ctx = m->n_ctx,
        .n_embd = m->n_embd,
        .max_seqs = s->o.max_seqs,
        .step_tokens = m->step_tokens,
        .speculate = s->o.speculate,
        .busy_mw = s->o.busy_mw,
        .waiting_max = s->o.waiting_max,
        .device_lost = m->device_lost,
        .device_lost_arg = m->device_lost_arg,
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
    event_del(s->progress_ev);
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
    if (s->o.supervisor)
        s->o.supervisor->ready(s->o.supervisor->arg);
}

/* A load that takes its time says every second how far it is, as far as can be seen from here: what is in memory of
 * what there is to load. */
static void on_progress(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    const double mb = metrics_resident_bytes() / 1e6, all = (double)s->o.load_bytes / 1e6;
    (void)fd;
    (void)what;
    log_info(s->o.log, AREA, "loading", LOG_S("model", s->o.model_id), LOG_I("resident_mb", mb), LOG_I("file_mb", all),
             LOG_I("took_ms", mono_since(s->o.clock, s->started) / NS_PER_MS));
}

static enum rc watch_load(struct server *s, struct error *e)
{
    const struct timeval second = {.tv_sec = 1};
    s->progress_ev = event_new(s->loop, -1, EV_PERSIST, on_progress, s);
    if (!s->progress_ev || event_add(s->progress_ev, &second))
        return error_set(e, RC_IO, "cannot watch the load");
    return RC_OK;
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
    rc = watch_load(s, e);
    if (rc)
        return rc;
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
    s->gate = (struct gate){.keys = o->keys, .node_key = o->node_key};
    serve_counters_init(&s->counters);
    serve_totals_init(&s->before);
    node_counts_init(&s->node);
    const struct http_server_options http = {.limits = http_limits_default, .tls = o->tls};
    const struct http_server_handlers handlers = {.on_head = on_head, .on_request = on_request};
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
    server_begin_drain(s, s->o.drain_ms, 0);
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

struct http_server *server_http(struct server *s)
{
    return s->http;
}

const struct serve_model *server_model(const struct server *s)
{
    return &s->model;
}

int64_t server_load_ns(const struct server *s)
{
    return s->load_ns;
}

void server_totals(const struct server *s, struct serve_totals *t)
{
    serve_totals_init(t);
    t->counters = s->counters;
    t->http = http_server_stats(s->http);
    if (s->batcher)
        batcher_stats(s->batcher, &t->batcher);
}

void server_came_before(struct server *s, const struct serve_totals *before, const struct node_counts *counts)
{
    serve_totals_init(&s->before);
    serve_totals_add(&s->before, before);
    s->node = *counts;
}

void server_counts(struct server *s, const struct node_counts *counts)
{
    s->node = *counts;
}

void server_refuse(struct server *s, int64_t drain_ms, int64_t move_ms)
{
    server_begin_drain(s, drain_ms, move_ms);
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
    if (s->move_ev)
        event_free(s->move_ev);
    if (s->progress_ev)
        event_free(s->progress_ev);
    strbuf_fini(&s->scratch);
    free(s);
}
