/* One leg: a request on one node, from its first byte out to the last byte in.
 *
 *   leg_start() -> node computes: silence until the first token (routing.first_byte)
 *               -> it speaks: silence between bytes (routing.idle) and, where the answer can continue elsewhere, between
 *                  tokens (routing.token)
 *               -> leg_done(), or leg_failed() in dispatch.c
 *
 * Invariants: a slot is held exactly while r->leg.node is set (and given back by leg_drop() or leg_over()), and before
 * that by whoever called leg_start(); r->body's text is only read while somebody wants the answer (r->x, or repeats
 * that wait: idempotency.h), which is as long as legs can start; after settle() nothing here touches r but the end of a
 * call that still runs (on_end of a stream that has said [DONE]). */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/front/front_internal.h"
#include "scheduler/wire/answer.h"
#include "scheduler/wire/retry_after.h"

#define REFUSAL_BYTES_MAX ((size_t)64 << 10)  /* of a node's error body; what is beyond is not read */
#define PENDING_HIGH      ((size_t)256 << 10) /* towards the client: above it the node is not read... */
#define PENDING_LOW       ((size_t)64 << 10)  /* ...until it falls below this */
#define WHOLE_ANSWER_MS   600000              /* a whole answer's first byte comes after its last token */
#define STALE_MS          50 /* a pooled connection that breaks sooner than this was closed before we wrote */

/* ---- its end ---------------------------------------------------------------------------------------------------- */

/* What the answer has grown by; both only grow, and one of them does with every token that is taken. */
static int64_t said(const struct request *r)
{
    return r->trail.n_ids + r->trail.chunks;
}

bool leg_has_progress(const struct request *r)
{
    return said(r) > r->leg.said_before;
}

/* A node's draw, shared among the requests that it has at the leg's end: as good a guess as there is without a meter of
 * each. The draw itself may be measured, by an engine that joined; else it is declared, or its engine's estimate. */
static void note_energy(struct request *r, const struct node *n, int together)
{
    int64_t us = mono_since(r->lane->front->o.clock, r->leg.started) / NS_PER_US, milliwatts;
    const enum node_watts are = node_milliwatts(n, r->slot.spec->config, &milliwatts);
    r->joules_guessed = r->joules_guessed || are != NODE_WATTS_MEASURED;
    if (are == NODE_WATTS_UNKNOWN)
        r->millijoules = -1;
    else if (r->millijoules >= 0)
        r->millijoules += us / together * milliwatts / 1000000;
}

/* For the ledger. How many tokens it brought is settled for the last leg when the row's own figure is. */
static void note_leg(struct request *r, const char *outcome)
{
    if (r->n_legs == LEGS_MAX)
        return;
    if (r->n_legs == r->legs_cap) {
        r->legs_cap = r->legs_cap ? r->legs_cap * 4 : 1;
        r->legs = spw_realloc(r->legs, (size_t)r->legs_cap * sizeof *r->legs);
    }
    const struct config_node *c = r->slot.spec->config;
    struct ledger_leg *leg = &r->legs[r->n_legs++];
    *leg = (struct ledger_leg){
        .leg = r->n_legs,
        .market = settle_market(c),
        .outcome = outcome,
        .started = r->leg.begun,
        .ended = clock_wall(r->lane->front->o.clock),
        .tokens_output = r->leg.to_engine ? r->trail.n_ids - r->leg.ids_before : r->stream.content_chunks,
    };
    text_put(leg->node, leg->node + sizeof leg->node, c->name);
    text_put(leg->provider, leg->provider + sizeof leg->provider, settle_provider(c));
    text_put(leg->numerics, leg->numerics + sizeof leg->numerics, r->leg.numerics);
    for (int i = 0; i < r->stream.n_uses && r->slot.spec->node_key && i < LEDGER_USES; i++)
        leg->uses[leg->n_uses++] =
            (struct ledger_use){r->stream.uses[i].hour_s, r->stream.uses[i].busy_us, r->stream.uses[i].millijoules};
    text_put(leg->domain, leg->domain + sizeof leg->domain, c->domain ? c->domain : "");
}

/* Which class has the answer's newest part? */
void leg_note_class(struct request *r)
{
    if (!leg_has_progress(r))
        return;
    if (r->leg.said_before > 0 && strcmp(r->numerics, r->leg.numerics) != 0)
        r->cross_class = true;
    r->cross_class = r->cross_class || r->leg.by_text;
    memcpy(r->numerics, r->leg.numerics, sizeof r->numerics);
}

void leg_over(struct request *r, const char *outcome)
{
    SPW_ASSERT(r->leg.node);
    note_leg(r, outcome);
    leg_note_class(r);
    move_forget(r);
    spans_leg(r);
    const struct node *n = r->leg.node;
    r->leg.node = NULL;
    note_energy(r, n, slot_return(r, r->leg.answered ? SLOT_ANSWERED : SLOT_USED));
}

void leg_drop(struct request *r, const char *outcome)
{
    if (r->leg.call)
        http_call_cancel(r->leg.call);
    r->leg.call = NULL;
    r->paused = false;
    if (r->leg.node)
        leg_over(r, outcome);
}

/* ---- towards the client ----------------------------------------------------------------------------------------- */

static void start_reply(struct request *r)
{
    r->replied = true;
    request_note_first_byte(r);
    reply_head(r, r->slot.spec->config->name);
}

/* The answer is complete: everything is known. */
static void leg_done(struct request *r)
{
    if (!r->body.stream)
        request_note_first_byte(r);
    else if (!r->replied) /* all of it stands in the chunk that is held back */
        start_reply(r);
    r->slot.word.outcome = BREAKER_OK;
    r->leg.answered = true;
    leg_over(r, "ok");
    settle(r, LEDGER_OK);
}

void leg_stop(struct request *r)
{
    if (!r->body.stream && stream_gather_held(&r->stream) != RC_OK) {
        leg_drop(r, "budget");
        settle_failed(r);
        return;
    }
    r->gathered = !r->body.stream;
    r->slot.word.outcome = BREAKER_OK;
    if (r->leg.node) {
        r->leg.answered = true;
        if (!r->body.stream)
            request_note_first_byte(r);
        else if (!r->replied)
            start_reply(r);
    }
    leg_drop(r, "budget");
    settle(r, LEDGER_OK);
}

static void on_client_drained(struct http_exchange *x, void *state)
{
    struct request *r = state;
    (void)x;
    if (r->paused && r->leg.call) {
        r->leg.heard = r->leg.token = clock_now(r->lane->front->o.clock);
        http_call_resume(r->leg.call);
    }
    r->paused = false;
}

/* What may leave, leaves: one write per read from the node. */
static void pass_on(struct request *r)
{
    if (!r->out.len)
        return;
    if (!r->replied)
        start_reply(r);
    reply_write(r, r->out.data, r->out.len);
    strbuf_clear(&r->out);
    /* The write may have found the client gone, and then on_abort has already dropped the leg. */
    if (r->x && r->leg.call && !r->paused && http_reply_pending(r->x) > PENDING_HIGH) {
        r->paused = true;
        http_call_pause(r->leg.call);
        http_reply_on_drain(r->x, PENDING_LOW, on_client_drained);
    }
}

/* ---- silence ---------------------------------------------------------------------------------------------------- */

/* Could another node go on from here? (Whether there is one is dispatch's business.) */
static bool may_continue(const struct request *r)
{
    return r->leg.to_engine || r->trail.text_known;
}

/* Milliseconds that the running leg may still be silent; *why: what it is then. */
static int64_t patience_ms(const struct request *r, const char **why)
{
    const struct config *c = r->config;
    int64_t now_ns = clock_now(r->lane->front->o.clock).ns;
    int64_t idle = c->idle_ms - (now_ns - r->leg.heard.ns) / NS_PER_MS;
    int64_t token = c->token_ms - (now_ns - r->leg.token.ns) / NS_PER_MS;
    int64_t most = c->first_byte_ms;
    if (!r->leg.spoke) {
        if (!r->leg.streamed && most < WHOLE_ANSWER_MS)
            most = WHOLE_ANSWER_MS;
        *why = "no first byte in time";
        return most - (now_ns - r->leg.started.ns) / NS_PER_MS;
    }
    bool hurry = may_continue(r) && token < idle;
    *why = hurry ? "no token in time" : "its answer stalled";
    return hurry ? token : idle;
}

static void arm_patience(struct request *r, int64_t ms)
{
    int64_t beat = reply_beat_ms(r);
    request_arm(r, beat >= 0 && beat < ms ? beat : ms);
}

/* Silence is measured when the timer fires instead of moving the timer with every read. */
void leg_late(struct request *r)
{
    struct lane *l = r->lane;
    const char *why;
    int64_t left_ms = patience_ms(r, &why);
    if (r->paused && r->leg.spoke) { /* it is the client who keeps us waiting */
        request_arm(r, r->config->idle_ms);
    } else if (left_ms > 0) {
        reply_beat(r);
        arm_patience(r, left_ms);
    } else {
        if (r->leg.spoke)
            metrics_add(l->metrics, METRIC_HANGS, r->leg.node->index, 0, 1);
        r->leg.died = true;
        leg_failed(r, FAULT_TIMEOUT, why);
    }
}

/* Bytes have come, and with them (pieces) perhaps a token. An engine's role chunk says nothing about its prefill. */
static void note_heard(struct request *r, int64_t pieces)
{
    const char *why;
    r->leg.heard = clock_now(r->lane->front->o.clock);
    if (!r->leg.first_ns)
        r->leg.first_ns = r->leg.heard.ns - r->leg.started.ns;
    if (pieces)
        r->leg.token = r->leg.heard;
    if (r->leg.spoke || (r->leg.to_engine && !pieces))
        return;
    r->leg.spoke = true;
    r->leg.token = r->leg.heard;
    slot_spoke(r);
    arm_patience(r, patience_ms(r, &why));
}

/* ---- from the node ---------------------------------------------------------------------------------------------- */

static void take_done(struct request *r)
{
    if (!r->body.stream && stream_gather_held(&r->stream) != RC_OK) {
        leg_failed(r, FAULT_FRAMING, "the node's answer is not understood");
        return;
    }
    r->gathered = !r->body.stream;
    leg_done(r);
}

static void take_stream(struct request *r, const char *data, size_t n)
{
    int64_t before = r->stream.pieces;
    enum stream_status status = stream_feed(&r->stream, data, n, &r->out);
    int64_t pieces = r->stream.pieces - before;
    if (status == STREAM_MORE || pieces)
        note_heard(r, pieces);
    bool together = ledger_expect(r->lane->port); /* its end may be in the same read */
    pass_on(r);
    if (r->state != REQUEST_RUNNING)
        return;
    if (status == STREAM_MORE || !together)
        reply_push(r); /* text waits for nobody */
    if (status == STREAM_MORE && (r->stream.leaving || node_is_emptying(r->leg.node)))
        move_wanted(r);
    switch (status) {
    case STREAM_MORE: budgeted_said(r); break;
    case STREAM_DONE: take_done(r); break;
    case STREAM_ERROR: leg_failed(r, FAULT_ERROR_EVENT, "the node sent an error event"); break;
    case STREAM_BROKEN: leg_failed(r, FAULT_FRAMING, "the node's stream is not understood"); break;
    }
}

static void take_stream_end(struct request *r)
{
    bool whole = stream_eof(&r->stream, &r->out) == STREAM_DONE;
    pass_on(r);
    if (r->state != REQUEST_RUNNING)
        return;
    if (whole && (r->stream.usage_known || !r->leg.to_engine))
        take_done(r);
    else
        leg_failed(r, FAULT_CUT, "the node ended its stream early");
}

/* Does it say "not now"? */
static void note_put_off(struct request *r, const struct http_head *head)
{
    const struct config *c = r->config;
    bool said;
    if (head->status != 429 && head->status != 503)
        return;
    int64_t us = retry_after_us(head, clock_wall(r->lane->front->o.clock), &said);
    r->leg.put_off_us = us;
    r->leg.put_off = (said || head->status == 429) && c->cool_down_max_ms > 0 && (us > 0 || c->cool_down_ms > 0);
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    struct request *r = arg;
    (void)c;
    r->leg.status = head->status;
    note_put_off(r, head);
    strbuf_clear(&r->answer);
    const char *use = http_head_get(head, "x-spillway-use"); /* of an answer without a usage chunk */
    if (use)
        stream_take_use(&r->stream, (struct span){use, strlen(use)});
    if (head->status != 200 || !r->leg.streamed)
        return;
    const char *type = http_head_get(head, "content-type");
    if (!type || strncasecmp(type, "text/event-stream", 17) != 0)
        leg_failed(r, FAULT_FRAMING, "the node did not answer with an event stream");
}

static void on_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    struct request *r = arg;
    (void)c;
    if (r->state != REQUEST_RUNNING)
        return; /* after [DONE] */
    if (r->leg.status == 200 && r->leg.streamed) {
        take_stream(r, data, n);
    } else if (r->leg.status != 200) {
        if (r->answer.len + n <= REFUSAL_BYTES_MAX && strbuf_append(&r->answer, data, n) != RC_OK)
            strbuf_clear(&r->answer);
    } else if (strbuf_append(&r->answer, data, n) != RC_OK) {
        leg_failed(r, FAULT_FRAMING, "the node's answer is too large");
    }
}

/* Does the node serve the model, but not for this? Many a server has no path for embeddings or for its tokenizer (404,
 * 405), or says that it was started without them (501, as llama-server does). */
static bool lacks_endpoint(const struct request *r)
{
    int status = r->leg.status;
    return !request_traits(r->body.kind)->speaks && (status == 404 || status == 405 || status == 501);
}

/* Is it an engine that says that it takes nothing at all now (docs/NODE_API.md)? With "queue_full" or "waking" it says
 * no to this request only. */
static bool is_away(const struct request *r)
{
    static const char *const codes[] = {"draining", "loading", "load_failed", "failed"};
    struct api_error said;
    if (r->leg.status != 503 || !r->slot.card.resume)
        return false;
    api_error_from_node(&said, r->leg.status, r->answer.data, r->answer.len);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(said.name, codes[i]) == 0)
            return true;
    return false;
}

/* The node has answered with an error. Its own faults (load, keys, crashes) are worth another node; a refusal of the
 * request itself is the client's to read, unless another node has taken this very request before. */
static void take_refusal(struct request *r)
{
    int status = r->leg.status;
    char reason[64];
    bool of_request = status >= 400 && status < 500 && status != 401 && status != 403 && status != 404 &&
                      status != 408 && status != 409 && status != 429;
    if (lacks_endpoint(r)) {
        leg_failed(r, FAULT_ENDPOINT, "the node has no such endpoint");
        return;
    }
    if (is_away(r)) {
        leg_failed(r, FAULT_AWAY, "the engine drains or loads, and takes nothing");
        return;
    }
    if (of_request && !r->replied && !trail_has_said(&r->trail)) {
        api_error_from_node(&r->error, status, r->answer.data, r->answer.len);
        leg_over(r, "refused");
        settle_failed(r);
        return;
    }
    snprintf(reason, sizeof reason, "the node answered with status %d", status);
    leg_failed(r, status == 429 || status == 503 ? FAULT_BUSY : FAULT_STATUS, reason);
}

/* The tokenizer's: it is as the node made it, and nothing was computed that would be counted. A server that means
 * something else by this path lacks ours. */
static void take_text(struct request *r)
{
    const struct span body = {r->answer.data, r->answer.len};
    if (!answer_has(body, request_traits(r->body.kind)->answers)) {
        leg_failed(r, FAULT_ENDPOINT, "the node has another endpoint at this path");
        return;
    }
    r->usage_source = "provider";
    leg_done(r);
}

static void take_whole(struct request *r)
{
    bool known = false;
    if (!request_traits(r->body.kind)->computes) {
        take_text(r);
        return;
    }
    if (cached_read_answer(r, &r->tokens, &known) != RC_OK) {
        leg_failed(r, FAULT_FRAMING, "the node's answer is not understood");
        return;
    }
    r->usage_source = known ? "provider" : "counted";
    if (!known)
        r->tokens.input = r->input_estimate;
    if (!request_traits(r->body.kind)->speaks) /* whatever the node counts */
        r->tokens.output = 0;
    leg_done(r);
}

static void on_end(struct http_call *c, void *arg)
{
    struct request *r = arg;
    (void)c;
    r->leg.call = NULL;
    if (r->state != REQUEST_RUNNING)
        return; /* the tail of a stream that had said [DONE] */
    if (r->leg.status != 200)
        take_refusal(r);
    else if (r->leg.streamed)
        take_stream_end(r);
    else
        take_whole(r);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct request *r = arg;
    bool reused = http_call_reused(c);
    r->leg.call = NULL;
    if (r->state != REQUEST_RUNNING)
        return;
    enum leg_fault fault = phase == HTTP_PHASE_CONNECT ? FAULT_CONNECT
                           : e->code == RC_TIMEOUT     ? FAULT_TIMEOUT
                           : e->code == RC_INVALID     ? FAULT_FRAMING
                                                       : FAULT_CUT;
    bool stale =
        reused && phase < HTTP_PHASE_BODY && mono_since(r->lane->front->o.clock, r->leg.started) < STALE_MS * NS_PER_MS;
    r->leg.died = fault == FAULT_CUT && !stale;
    r->leg.stale = fault == FAULT_CUT && stale;
    /* At most the usage is missing, and whoever cannot be resumed will not say it. */
    bool complete = r->leg.streamed && r->stream.finished && (r->stream.usage_known || !r->leg.to_engine);
    if (fault == FAULT_CUT && complete)
        take_done(r);
    else
        leg_failed(r, fault, e->message);
}

static const struct http_call_handlers leg_handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

/* ---- its start -------------------------------------------------------------------------------------------------- */

/* What the node calls the model: its own name for it, else the one that it serves; NULL: what the client calls it. */
static const char *name_for(const struct request *r, const struct slot *there)
{
    const char *own = node_upstream_model(there->spec->config);
    return own || strcmp(there->model->name, r->body.model) == 0 ? own : there->model->name;
}

/* How this node is asked. */
static struct request_leg ask_for(const struct request *r, const struct slot *there)
{
    int64_t most = bound_output(r, &there->spec->config->prices), paid = budgeted_output(r);
    if (paid < most)
        most = paid;
    bool begun = trail_has_said(&r->trail);
    bool to_engine = there->card.resume && r->body.resumable && (!begun || r->trail.ids_known);
    return (struct request_leg){
        .upstream_model = name_for(r, there),
        .stream = r->body.stream || to_engine || begun,
        .to_engine = to_engine,
        .seed = r->seed,
        .ids = begun && to_engine ? &r->trail.ids : NULL,
        .text = begun && !to_engine ? &r->trail.text : NULL,
        .said = r->trail.chunks,
        .bounded = most != INT64_MAX,
        .output_max = most,
    };
}

enum send_as { SEND_LEG, SEND_AHEAD };
static enum rc send_request(struct request *r, const struct slot *there, const struct request_leg *leg, enum send_as as,
                            const struct http_call_handlers *h, struct http_call **call, struct error *e)
{
    struct http_client *client;
    struct spans_texts texts;
    struct http_header headers[5 + SPANS_HEADERS_MAX] = {
        {"Content-Type", "application/json"},
        {"Accept", leg->stream ? "text/event-stream" : "application/json"},
        {"X-Request-Id", r->id},
    };
    struct http_request q = {
        .method = "POST",
        .target = request_traits(r->body.kind)->path,
        .headers = headers,
        .n_headers = 3,
    };
    const struct node_spec *spec = there->spec;
    if (spec->authorization) /* the node's; a client's key never leaves */
        headers[q.n_headers++] = (struct http_header){"Authorization", spec->authorization};
    if (spec->node_key)
        headers[q.n_headers++] = (struct http_header){"x-spillway-node-key", spec->node_key};
    if (as == SEND_LEG)
        q.n_headers += spans_headers(r, &texts, headers + q.n_headers);
    struct strbuf body;
    strbuf_init(&body, request_splice_bytes_max(&r->body, leg));
    enum rc rc = request_splice(&r->body, leg, &body);
    q.body = body.data;
    q.body_len = body.len;
    if (rc != RC_OK)
        error_set(e, rc, "the request cannot be written for the node");
    if (rc == RC_OK)
        rc = lane_client(r->lane, there->node, there->generation, &client, e);
    if (rc == RC_OK)
        rc = http_call_start(client, &q, h, r, call, e);
    strbuf_fini(&body);
    return rc;
}

/* Whose prefixes it may share. */
static void add_salt(const struct request *r, const struct slot *there, char *text, struct request_leg *ask)
{
    if (!there->spec->node_key || r->config->prefix_share_all)
        return;
    auth_salt(r->lane->auth, r->who->tenant, text);
    ask->salt = text;
}

enum rc leg_send_ahead(struct request *r, const struct slot *there, const struct http_call_handlers *h,
                       struct http_call **call, struct error *e)
{
    struct request_leg ask = ask_for(r, there);
    char salt[KEYSTORE_SALT_BYTES];
    if (!ask.ids || (ask.bounded && ask.output_max <= r->trail.n_ids))
        return error_set(e, RC_INVALID, "the answer cannot go on there by its ids");
    add_salt(r, there, salt, &ask);
    return send_request(r, there, &ask, SEND_AHEAD, h, call, e);
}

enum rc leg_start(struct request *r, struct error *e)
{
    struct front *f = r->lane->front;
    struct request_leg ask = ask_for(r, &r->slot);
    char salt[KEYSTORE_SALT_BYTES];
    const char *why;
    add_salt(r, &r->slot, salt, &ask);
    r->moving = (struct moving){0};
    r->leg = (struct leg){
        .streamed = ask.stream,
        .to_engine = ask.to_engine,
        .by_text = ask.text != NULL,
        .alone = r->survival.alone,
        .said_before = said(r),
        .ids_before = r->trail.n_ids,
        .chunks_before = r->trail.chunks,
        .started = clock_now(f->o.clock),
        .begun = clock_wall(f->o.clock),
    };
    if (ask.to_engine)
        memcpy(r->leg.numerics, r->slot.card.numerics, sizeof r->leg.numerics);
    r->attempts++;
    stream_fini(&r->stream);
    stream_init(&r->stream, ask.upstream_model ? r->body.model : NULL, r->body.usage_asked);
    stream_say_tier(&r->stream, request_tier(r));
    stream_follow(&r->stream, &r->trail, r->body.stream ? NULL : &r->whole);
    cached_follow(r);
    enum rc rc = send_request(r, &r->slot, &ask, SEND_LEG, &leg_handlers, &r->leg.call, e);
    if (rc != RC_OK) {
        r->leg.call = NULL;
        return rc;
    }
    r->state = REQUEST_RUNNING;
    r->leg.node = r->slot.node;
    node_spec_unref(r->last);
    r->last = r->billed = node_spec_ref(r->slot.spec);
    arm_patience(r, patience_ms(r, &why));
    r->served = r->slot.model;
    return RC_OK;
}
