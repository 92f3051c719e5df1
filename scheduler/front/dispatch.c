/* Requests under way: from a snapshot to a node, one leg after the other, until somebody has answered.
 *
 * Invariants: a slot is held exactly while r->leg.node is set (and given back by leg_drop() or leg_over()); r->body's
 * text is only read while r->x is there, which is as long as legs can start; after settle() nothing here touches r but
 * the end of a call that still runs (on_end of a stream that has said [DONE]). */
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/answer.h"
#include "scheduler/front/front_internal.h"

#define ANSWER_BYTES_MAX  ((size_t)64 << 20) /* a whole answer is held until its row is durable */
#define REFUSAL_BYTES_MAX ((size_t)64 << 10) /* of a node's error body; what is beyond is not read */
#define OUT_BYTES_MAX     ((size_t)80 << 20)
#define PENDING_HIGH      ((size_t)256 << 10) /* towards the client: above it the node is not read... */
#define PENDING_LOW       ((size_t)64 << 10)  /* ...until it falls below this */
#define WHOLE_ANSWER_MS   600000              /* a whole answer's first byte comes after its last token */

static void leg_failed(struct request *r, enum leg_fault fault, const char *reason);

void request_arm(struct request *r, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    event_add(r->timer, &tv);
}

void request_free(struct request *r)
{
    struct front *f = r->front;
    if (r->leg.node)
        leg_drop(r);
    else if (r->leg.call)
        http_call_cancel(r->leg.call);
    stream_fini(&r->stream);
    strbuf_fini(&r->answer);
    strbuf_fini(&r->out);
    if (r->timer)
        event_free(r->timer);
    if (f) {
        TAILQ_REMOVE(&f->requests, r, all);
        front_request_gone(f);
    }
    free(r);
}

/* ---- legs ------------------------------------------------------------------------------------------------------- */

/* A node's draw, shared among the requests that it has at the leg's end: as good a guess as there is without a meter. */
static void note_energy(struct request *r)
{
    const struct node *node = r->leg.node;
    int64_t us = mono_since(r->front->o.clock, r->leg.started) / NS_PER_US;
    if (node->config->watts <= 0)
        r->millijoules = -1;
    else if (r->millijoules >= 0)
        r->millijoules += us / node->in_flight * node->config->watts / 1000;
}

/* The slot goes back; a call that still runs keeps running. */
static void leg_over(struct request *r)
{
    struct node *node = r->leg.node;
    SPW_ASSERT(node);
    note_energy(r);
    r->leg.node = NULL;
    r->front->n_running--;
    node_release(node);
}

void leg_drop(struct request *r)
{
    if (r->leg.call)
        http_call_cancel(r->leg.call);
    r->leg.call = NULL;
    r->paused = false;
    if (r->leg.node)
        leg_over(r);
}

/* The answer is complete: everything is known. */
static void leg_done(struct request *r)
{
    leg_over(r);
    settle(r, LEDGER_OK);
}

static void start_reply(struct request *r)
{
    struct front *f = r->front;
    struct http_header headers[] = {
        {"Content-Type", "text/event-stream"},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"}, /* proxies in front of us shall not gather what we hurry to send */
        {"x-request-id", r->id},
        {"x-spillway-node", r->leg.node->config->name},
    };
    request_arm(r, f->o.config->idle_ms); /* from here on silence is what must end, not the wait for the first byte */
    r->replied = true;
    r->first_byte = clock_wall(f->o.clock);
    metrics_observe(f->metrics, METRIC_TTFT, r->room->index, mono_since(f->o.clock, r->arrived));
    http_reply_start(r->x, 200, headers, 5);
}

static void on_client_drained(struct http_exchange *x, void *state)
{
    struct request *r = state;
    (void)x;
    if (r->paused && r->leg.call) {
        r->leg.heard = clock_now(r->front->o.clock);
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
    http_reply_write(r->x, r->out.data, r->out.len);
    strbuf_clear(&r->out);
    /* The write may have found the client gone, and then on_abort has already dropped the leg. */
    if (r->x && r->leg.call && !r->paused && http_reply_pending(r->x) > PENDING_HIGH) {
        r->paused = true;
        http_call_pause(r->leg.call);
        http_reply_on_drain(r->x, PENDING_LOW, on_client_drained);
    }
}

static void take_stream(struct request *r, const char *data, size_t n)
{
    enum stream_status status = stream_feed(&r->stream, data, n, &r->out);
    pass_on(r);
    if (r->state != REQUEST_RUNNING)
        return;
    switch (status) {
    case STREAM_MORE: break;
    case STREAM_DONE: leg_done(r); break;
    case STREAM_ERROR: leg_failed(r, FAULT_ERROR_EVENT, "the node sent an error event"); break;
    case STREAM_BROKEN: leg_failed(r, FAULT_FRAMING, "the node's stream is not understood"); break;
    }
}

static void take_stream_end(struct request *r)
{
    bool whole = stream_eof(&r->stream, &r->out) == STREAM_DONE;
    pass_on(r);
    if (whole)
        leg_done(r);
    else
        leg_failed(r, FAULT_CUT, "the node ended its stream early");
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    struct request *r = arg;
    (void)c;
    r->leg.status = head->status;
    strbuf_clear(&r->answer);
    if (head->status != 200 || !r->body.stream)
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
    r->leg.heard = clock_now(r->front->o.clock);
    if (r->leg.status != 200) {
        if (r->answer.len + n <= REFUSAL_BYTES_MAX && strbuf_append(&r->answer, data, n) != RC_OK)
            strbuf_clear(&r->answer);
    } else if (r->body.stream) {
        take_stream(r, data, n);
    } else if (strbuf_append(&r->answer, data, n) != RC_OK) {
        leg_failed(r, FAULT_FRAMING, "the node's answer is too large");
    }
}

/* The node has answered with an error. Its own faults (load, keys, crashes) are worth another node; a refusal of the
 * request itself is the client's to read. */
static void take_refusal(struct request *r)
{
    int status = r->leg.status;
    char reason[64];
    bool of_request = status >= 400 && status < 500 && status != 401 && status != 403 && status != 404 &&
                      status != 408 && status != 409 && status != 429;
    if (of_request) {
        api_error_from_node(&r->error, status, r->answer.data, r->answer.len);
        leg_over(r);
        settle_failed(r);
        return;
    }
    snprintf(reason, sizeof reason, "the node answered with status %d", status);
    leg_failed(r, status == 429 || status == 503 ? FAULT_BUSY : FAULT_STATUS, reason);
}

static void take_whole(struct request *r)
{
    bool known = false;
    struct front *f = r->front;
    if (answer_read((struct span){r->answer.data, r->answer.len}, &r->tokens, &known) != RC_OK) {
        leg_failed(r, FAULT_FRAMING, "the node's answer is not understood");
        return;
    }
    r->usage_source = known ? "provider" : "counted";
    if (!known)
        r->tokens.input = r->input_estimate;
    r->first_byte = clock_wall(f->o.clock);
    metrics_observe(f->metrics, METRIC_TTFT, r->room->index, mono_since(f->o.clock, r->arrived));
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
    else if (!r->body.stream)
        take_whole(r);
    else
        take_stream_end(r);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct request *r = arg;
    (void)c;
    r->leg.call = NULL;
    if (r->state != REQUEST_RUNNING)
        return;
    enum leg_fault fault = phase == HTTP_PHASE_CONNECT ? FAULT_CONNECT
                           : e->code == RC_TIMEOUT     ? FAULT_TIMEOUT
                           : e->code == RC_INVALID     ? FAULT_FRAMING
                                                       : FAULT_CUT;
    leg_failed(r, fault, e->message);
}

static const struct http_call_handlers leg_handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

static enum rc leg_start(struct request *r, struct node *node, struct error *e)
{
    struct front *f = r->front;
    struct http_header headers[4] = {
        {"Content-Type", "application/json"},
        {"Accept", r->body.stream ? "text/event-stream" : "application/json"},
        {"X-Request-Id", r->id},
        {"Authorization", node->authorization}, /* the node's; a client's key never leaves */
    };
    struct http_request q = {
        .method = "POST",
        .target = r->body.kind == REQUEST_CHAT ? "/v1/chat/completions" : "/v1/completions",
        .headers = headers,
        .n_headers = node->authorization ? 4 : 3,
    };
    struct strbuf body;
    strbuf_init(&body, r->body.n + 8192);
    enum rc rc = request_splice(&r->body, node_upstream_model(node), &body);
    q.body = body.data;
    q.body_len = body.len;
    if (rc == RC_OK)
        rc = http_call_start(node->client, &q, &leg_handlers, r, &r->leg.call, e);
    else
        error_set(e, rc, "the request cannot be written for the node");
    strbuf_fini(&body);
    r->attempts++;
    if (rc != RC_OK) {
        r->leg.call = NULL;
        return rc;
    }
    stream_fini(&r->stream);
    stream_init(&r->stream, node_upstream_model(node) ? r->body.model : NULL, r->body.usage_asked);
    r->state = REQUEST_RUNNING;
    r->leg.node = r->last = r->billed = node;
    r->leg.status = 0;
    r->leg.started = clock_now(f->o.clock);
    f->n_running++;
    node_take(node);
    int64_t whole_ms = f->o.config->first_byte_ms > WHOLE_ANSWER_MS ? f->o.config->first_byte_ms : WHOLE_ANSWER_MS;
    request_arm(r, r->body.stream ? f->o.config->first_byte_ms : whole_ms);
    return RC_OK;
}

static enum api_code code_of(enum leg_fault fault)
{
    switch (fault) {
    case FAULT_TIMEOUT: return API_UPSTREAM_TIMEOUT;
    case FAULT_BUSY: return API_UPSTREAM_BUSY;
    default: return API_UPSTREAM;
    }
}

/* What a failure on this node means for the node, for the books and for trying it again. */
static void note_failure(struct request *r, struct node *node, enum leg_fault fault, const char *reason)
{
    struct front *f = r->front;
    log_warn(f->o.log, "dispatch", "a leg has failed", LOG_S("request_id", r->id), LOG_S("node", node->config->name),
             LOG_S("fault", leg_fault_name(fault)), LOG_S("reason", reason), LOG_B("after_first_byte", r->replied),
             LOG_I("attempts", r->attempts));
    metrics_add(f->metrics, METRIC_LEG_FAILURES, node->index, (int)fault, 1);
    node_failed(node, fault == FAULT_CONNECT ? NODE_FAULT_CONNECT : NODE_FAULT_ANSWER, reason);
    /* A node that took nothing may be asked again once it is back; any other has had its chance. */
    if (fault != FAULT_CONNECT)
        r->tried |= UINT64_C(1) << node->index;
    api_error_set(&r->error, code_of(fault), NULL, "%s", "");
}

/* The running leg is over and has not answered. */
static void leg_failed(struct request *r, enum leg_fault fault, const char *reason)
{
    struct front *f = r->front;
    struct node *node = r->leg.node;
    note_failure(r, node, fault, reason);
    leg_drop(r);
    if (!r->replied && r->attempts <= f->o.config->retries) {
        f->totals.retries++;
        metrics_add(f->metrics, METRIC_RETRIES, r->room->index, 0, 1);
        dispatch(r);
        return;
    }
    settle_failed(r);
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

static void choose(const struct request *r, struct route_decision *d)
{
    struct front *f = r->front;
    struct route_candidate candidates[ROUTE_CANDIDATES_MAX];
    struct route_request q = {
        .input_tokens = r->input_estimate,
        .output_tokens = request_estimate_output(&r->body),
        .local_only = r->who.local_only,
        .spread = f->spread++,
    };
    route_choose(d, &q, candidates, nodes_snapshot(f->nodes, r->room->model, r->tried, candidates));
}

static void nobody(struct request *r, const struct route_decision *d)
{
    bool kept_home = false;
    for (int i = 0; i < nodes_count(r->front->nodes); i++)
        kept_home = kept_home || d->reasons[i] == ROUTE_NOT_LOCAL;
    if (d->may_wait) {
        room_enter(r, r->attempts ? ROOM_HEAD : ROOM_TAIL);
        return;
    }
    if (r->attempts == 0)
        api_error_set(&r->error, kept_home ? API_NO_LOCAL_CAPACITY : API_NO_CAPACITY, NULL, "%s", "");
    settle_failed(r);
}

void dispatch(struct request *r)
{
    struct front *f = r->front;
    struct route_decision d;
    struct error e;
    bool first = r->attempts == 0;
    while (r->attempts <= f->o.config->retries) {
        choose(r, &d);
        if (d.chosen < 0) {
            nobody(r, &d);
            return;
        }
        struct node *node = nodes_at(f->nodes, d.chosen);
        if (leg_start(r, node, &e) == RC_OK) {
            f->totals.accepted += first;
            if (first)
                metrics_observe(f->metrics, METRIC_ADDED, 0, mono_since(f->o.clock, r->arrived) - r->waited_ns);
            return;
        }
        note_failure(r, node, FAULT_BUSY, e.message); /* nothing was sent: its pool is full, or the request unfit */
    }
    settle_failed(r);
}

/* ---- the request's own life ------------------------------------------------------------------------------------- */

/* The client is gone: the node stops at once, and what the client has got until now is paid for. */
static void on_abort(struct http_exchange *x, void *state)
{
    struct request *r = state;
    (void)x;
    r->x = NULL;
    if (r->state == REQUEST_SETTLING)
        return;
    if (r->state == REQUEST_WAITING)
        room_leave(r);
    else
        leg_drop(r);
    if (r->attempts == 0) {
        request_refuse(r);
        return;
    }
    if (!r->stream.content_chunks && !r->stream.usage_known)
        r->billed = NULL;
    settle(r, LEDGER_CANCELLED);
}

void request_cut(struct request *r, enum api_code code)
{
    if (r->state == REQUEST_SETTLING)
        return;
    if (r->state == REQUEST_WAITING)
        room_leave(r);
    else
        leg_drop(r);
    api_error_set(&r->error, code, NULL, "%s", "");
    settle_failed(r);
}

/* The deadline of a running leg. Silence is measured when the timer fires instead of moving the timer with every read. */
static void leg_late(struct request *r)
{
    struct front *f = r->front;
    if (!r->replied) {
        leg_failed(r, FAULT_TIMEOUT, "no first byte in time");
        return;
    }
    int64_t silent_ms = mono_since(f->o.clock, r->leg.heard) / NS_PER_MS;
    if (r->paused) /* it is the client who keeps us waiting */
        request_arm(r, f->o.config->idle_ms);
    else if (silent_ms < f->o.config->idle_ms)
        request_arm(r, f->o.config->idle_ms - silent_ms);
    else
        leg_failed(r, FAULT_TIMEOUT, "its answer stalled");
}

static void request_timer(evutil_socket_t fd, short what, void *arg)
{
    struct request *r = arg;
    (void)fd;
    (void)what;
    switch (r->state) {
    case REQUEST_WAITING:
        room_leave(r);
        if (r->attempts == 0)
            api_error_set(&r->error, API_NO_CAPACITY, NULL, "%s", "");
        settle_failed(r);
        break;
    case REQUEST_RUNNING: leg_late(r); break;
    case REQUEST_SETTLING: settle_append(r); break;
    }
}

/* What the client calls its request: for the log alone, and only if it is short and plain. */
static void note_client_id(struct request *r)
{
    const char *v = http_head_get(http_request_head(r->x), "x-client-request-id");
    size_t n = v ? strlen(v) : 0;
    if (n == 0 || n >= sizeof r->client_id)
        return;
    for (size_t i = 0; i < n; i++) {
        if (v[i] <= ' ' || v[i] > '~')
            return;
    }
    memcpy(r->client_id, v, n + 1);
}

void request_start(struct front *f, struct http_exchange *x, const char *id, const struct request_body *body,
                   const struct identity *who)
{
    struct request *r = spw_calloc(1, sizeof(*r));
    r->front = f;
    r->x = x;
    r->state = REQUEST_SETTLING; /* nobody's yet */
    snprintf(r->id, sizeof r->id, "%s", id);
    note_client_id(r);
    r->body = *body;
    r->who = *who;
    r->room = front_room(f, body->model);
    r->input_estimate = request_estimate_input(body);
    r->arrived = clock_now(f->o.clock);
    r->accepted = clock_wall(f->o.clock);
    r->timer = evtimer_new(f->o.loop, request_timer, r);
    strbuf_init(&r->answer, ANSWER_BYTES_MAX);
    strbuf_init(&r->out, OUT_BYTES_MAX);
    stream_init(&r->stream, NULL, false);
    TAILQ_INSERT_TAIL(&f->requests, r, all);
    http_exchange_set(x, r, on_abort);
    /* Nobody overtakes those who wait already; but they may all be waiting for something else, so look right away. */
    if (r->room->n > 0) {
        room_enter(r, ROOM_TAIL);
        rooms_wake_soon(f);
    } else {
        dispatch(r);
    }
}
