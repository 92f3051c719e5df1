/* What a supervisor answers itself: the same paths and words as the worker's server, out of what it knows. */
#include <stdio.h>
#include <string.h>

#include "engine/node/supervisor_internal.h"
#include "engine/serve/health.h"
#include "engine/serve/metrics.h"

static void reply(struct supervisor *s, struct http_exchange *x, int status, const char *type)
{
    const struct http_header h[] = {{"content-type", type}, {"retry-after", "1"}};
    http_reply(x, status, h, status == 503 ? 2 : 1, s->scratch.data ? s->scratch.data : "", s->scratch.len);
    strbuf_clear(&s->scratch);
}

static void reply_json(struct supervisor *s, struct http_exchange *x, int status)
{
    reply(s, x, status, "application/json");
}

/* Why it is as it is; "": there is nothing to say. */
static const char *reason(const struct supervisor *s)
{
    if (s->state == NODE_DRAINING || s->state == NODE_STOPPING)
        return s->drain_why;
    return s->state == NODE_FAILED || s->state == NODE_BACKOFF ? s->problem : "";
}

static void put_health(struct supervisor *s, enum api_caller caller)
{
    const struct node_counts counts = supervisor_counts_now(s);
    const struct health_view v = {.status = node_health(s->state),
                                  .model_id = s->o.model_id,
                                  .reason = reason(s),
                                  .totals = caller == API_CALLER_SCHEDULER ? &s->now : NULL,
                                  .node = &counts};
    (void)!health_write(&s->scratch, &v);
}

static void get_health(struct supervisor *s, struct http_exchange *x, enum api_caller caller)
{
    put_health(s, caller);
    reply_json(s, x, node_health_status(s->state));
}

static void get_metrics(struct supervisor *s, struct http_exchange *x)
{
    const struct node_counts counts = supervisor_counts_now(s);
    const struct metrics_node node = {.state = node_health(s->state), .counts = &counts};
    struct metrics_view v = {
        .model_id = s->o.model_id,
        .arch = s->card.arch,
        .quant = s->card.quant,
        .device = s->card.device,
        .numerics = s->card.numerics,
        .ready = node_health_status(s->state) == 200,
        .load_seconds = (double)s->card.load_ns / NS_PER_S,
        .totals = &s->now,
        .node = &node,
    };
    metrics_write(&s->scratch, &v);
    reply(s, x, 200, "text/plain; version=0.0.4; charset=utf-8");
}

/* Why a request that needs the model is not answered now. */
static void not_ready(const struct supervisor *s, struct api_error *e)
{
    if (s->state == NODE_FAILED)
        api_fail(e, 503, NULL, "failed", "this engine has failed: %.400s", s->problem);
    else if (s->state == NODE_LOADING)
        api_fail(e, 503, NULL, "loading", "the model is still loading; try again shortly");
    else if (node_holds(s->state))
        api_fail(e, 503, NULL, "waking", "the model is not there yet; try again shortly");
    else
        api_fail(e, 503, NULL, "draining", "this engine is shutting down");
}

static void refuse(struct supervisor *s, struct http_exchange *x, const struct api_error *e)
{
    s->before.counters.responses[e->status / 100]++;
    s->now.counters.responses[e->status / 100]++;
    gate_reply_error(x, e, &s->scratch);
}

static void refuse_for_now(struct supervisor *s, struct http_exchange *x)
{
    struct api_error e;
    not_ready(s, &e);
    refuse(s, x, &e);
}

static struct api_model_card model_card(const struct supervisor *s, enum api_caller caller)
{
    return (struct api_model_card){
        .id = s->o.model_id,
        .created = s->card.created,
        .n_ctx = s->card.n_ctx,
        .caller = caller,
        .numerics = s->card.numerics_class,
        .n_slots = s->card.n_slots,
        .kv_tokens = s->card.kv_tokens,
    };
}

static void get_models(struct supervisor *s, struct http_exchange *x, enum api_caller caller, bool one)
{
    struct api_error e;
    const struct api_model_card card = model_card(s, caller);
    /* What it serves is known once it has been ready; a drain hides it, as the worker's server does. */
    if (!*s->card.numerics_class || !node_holds(s->state)) {
        refuse_for_now(s, x);
    } else if (one && !gate_names_model(http_request_head(x)->target, s->o.model_id, &e)) {
        refuse(s, x, &e);
    } else {
        (void)(one ? api_write_model(&s->scratch, &card) : api_write_models(&s->scratch, &card));
        reply_json(s, x, 200);
    }
}

static void answer_state(struct supervisor *s, struct http_exchange *x, const char *state)
{
    if (!state) {
        refuse_for_now(s, x);
        return;
    }
    (void)strbuf_printf(&s->scratch, "{\"state\":\"%s\"}", state);
    reply_json(s, x, 202);
}

static void post_drain(struct supervisor *s, struct http_exchange *x)
{
    supervisor_drain(s, "asked for by POST /drain", s->o.drain_ms / 1000, SUPERVISOR_THEN_WAIT);
    put_health(s, API_CALLER_CLIENT);
    reply_json(s, x, 200);
}

void supervisor_on_request(struct http_exchange *x, void *supervisor)
{
    struct supervisor *s = supervisor;
    struct api_error e;
    enum api_caller caller;
    const struct gate_route *r = gate_admit(&s->gate, http_request_head(x), &caller, &e);
    if (!r) {
        refuse(s, x, &e);
        return;
    }
    switch (r->id) {
    case GATE_HEALTH: get_health(s, x, caller); return;
    case GATE_METRICS: get_metrics(s, x); return;
    case GATE_MODELS: get_models(s, x, caller, false); return;
    case GATE_MODEL: get_models(s, x, caller, true); return;
    case GATE_SLEEP: answer_state(s, x, supervisor_sleep(s)); return;
    case GATE_WAKE: answer_state(s, x, supervisor_wake(s)); return;
    case GATE_DRAIN: post_drain(s, x); return;
    case GATE_CHAT:
    case GATE_COMPLETION:
    case GATE_EMBEDDINGS:
    case GATE_TOKENIZE:
    case GATE_DETOKENIZE: refuse_for_now(s, x); return; /* it was held long enough, or is not to be held */
    }
}

/* Does it take a worker to answer it? */
static bool is_real(const struct gate_route *r)
{
    return r->id == GATE_CHAT || r->id == GATE_COMPLETION || r->id == GATE_EMBEDDINGS || r->id == GATE_TOKENIZE ||
           r->id == GATE_DETOKENIZE;
}

/* A body that nobody will look at is not read. */
void supervisor_on_head(struct http_exchange *x, void *supervisor)
{
    struct supervisor *s = supervisor;
    struct api_error e;
    enum api_caller caller;
    const struct gate_route *r = gate_admit(&s->gate, http_request_head(x), &caller, &e);
    if (!r)
        refuse(s, x, &e);
    else if (is_real(r))
        refuse_for_now(s, x);
}

enum door_verdict supervisor_judge(const struct http_head *h, void *supervisor)
{
    struct supervisor *s = supervisor;
    struct api_error e;
    enum api_caller caller;
    const struct gate_route *r = gate_admit(&s->gate, h, &caller, &e);
    return r && is_real(r) && node_holds(s->state) ? DOOR_HOLD : DOOR_ANSWER;
}
