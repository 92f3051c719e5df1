/* The end of a request: what it costs, its ledger row, and only then the rest of its answer. */
#include <inttypes.h>
#include <string.h>

#include "scheduler/front/front_internal.h"
#include "scheduler/wire/answer.h"

#define APPEND_AGAIN_MS 10  /* the ledger's queue is full */
#define COMMIT_AGAIN_MS 250 /* the ledger could not be written */

/* ---- the rest of the answer ------------------------------------------------------------------------------------- */

static const char *charge_text(const struct request *r, char *buf, size_t size)
{
    return pusd_format(r->charge, buf, size);
}

/* The chunks of a stream as the body that a client asked for. */
static enum rc put_together(struct request *r)
{
    struct strbuf usage;
    strbuf_init(&usage, (size_t)64 << 10);
    strbuf_clear(&r->answer);
    enum rc rc = stream_usage(&r->stream, &r->tokens, &usage);
    struct whole_head head = {
        .like = {r->stream.like.data, r->stream.like.len},
        .id = {r->trail.id.data, r->trail.id.len},
        .created = {r->trail.created.data, r->trail.created.len},
        .usage = {usage.data, usage.len},
    };
    if (rc == RC_OK)
        rc = whole_write(&r->whole, &head, &r->answer);
    strbuf_fini(&usage);
    return rc;
}

/* The body as it leaves; in r->out or, rather as it is than not at all, in r->answer. Again and again is once. */
static enum rc whole_body(struct request *r, struct span *body)
{
    bool renamed = node_upstream_model(r->billed->config) || strcmp(r->served->name, r->body.model) != 0;
    const char *model = renamed ? r->body.model : NULL, *tier = request_tier(r);
    if (r->whole_is_out) {
        *body = (struct span){r->out.data, r->out.len};
        return RC_OK;
    }
    if (!r->gathered && !model && !tier) { /* as the node wrote it */
        *body = (struct span){r->answer.data, r->answer.len};
        return RC_OK;
    }
    strbuf_clear(&r->out);
    if (r->gathered && put_together(r) != RC_OK)
        return RC_FULL;
    r->whole_is_out = answer_write((struct span){r->answer.data, r->answer.len}, model, tier, &r->out) == RC_OK;
    const struct strbuf *b = r->whole_is_out ? &r->out : &r->answer;
    *body = (struct span){b->data, b->len};
    return RC_OK;
}

static void finish_whole(struct request *r)
{
    char charge[64], joules[32];
    struct limit_texts limits;
    struct cached_texts cached;
    const char *stopped = budgeted_why(r);
    struct http_header headers[7 + LIMIT_HEADERS_MAX + CACHED_HEADERS_MAX] = {
        {"Content-Type", "application/json"},
        {"x-request-id", r->id},
        {"x-spillway-node", r->billed->config->name},
        {"x-spillway-model", r->served->name},
        {"x-spillway-charge-usd", charge_text(r, charge, sizeof charge)},
        {r->joules_guessed ? "x-spillway-joules-estimated" : "x-spillway-joules-measured", joules},
    };
    int n = r->millijoules >= 0 ? 6 : 5;
    n += limit_headers(&r->limits, &limits, headers + n);
    n += cached_headers(r, &cached, headers + n);
    if (stopped)
        headers[n++] = (struct http_header){"x-spillway-stopped", stopped};
    if (r->millijoules >= 0)
        snprintf(joules, sizeof joules, "%" PRId64 ".%03d", r->millijoules / 1000, (int)(r->millijoules % 1000));
    struct span body;
    if (whole_body(r, &body) == RC_OK) {
        reply_whole(r, headers, n, body.p, body.n);
        return;
    }
    /* Its parts are bounded one by one, so this is very large. */
    api_error_set(&r->error, API_INTERNAL, NULL, "the answer is too large to be sent whole; ask for a stream");
    reply_error(r, r->billed->config->name);
}

static void write_last(struct request *r)
{
    reply_write(r, r->out.data, r->out.len);
    reply_end(r);
}

/* Into r->out, where it stays until it may leave. */
static void make_stream_end(struct request *r)
{
    char charge[64];
    if (r->rest_is_out)
        return;
    r->rest_is_out = true;
    strbuf_clear(&r->out);
    struct stream_bill bill = {.node = r->billed->config->name,
                               .charge_usd = charge_text(r, charge, sizeof charge),
                               .millijoules = r->millijoules,
                               .joules_measured = !r->joules_guessed,
                               .stopped = budgeted_why(r)};
    enum rc rc = stream_final(&r->stream, &bill, &r->tokens, &r->out);
    SPW_ASSERT(rc == RC_OK); /* out may be as large as everything that stream may hold */
}

static void finish_stream(struct request *r)
{
    make_stream_end(r);
    write_last(r);
}

/* The status has left long ago: an error event, and no [DONE]. */
static void make_event(struct request *r)
{
    if (r->rest_is_out)
        return;
    r->rest_is_out = true;
    strbuf_clear(&r->out);
    enum rc rc = api_error_write_event(&r->error, &r->out);
    SPW_ASSERT(rc == RC_OK);
}

static void finish_with_error(struct request *r)
{
    if (r->headed) {
        make_event(r);
        write_last(r);
    } else {
        reply_error(r, r->last ? r->last->config->name : NULL);
    }
}

static bool is_wanted(const struct request *r)
{
    return r->x || idempotency_wants(r->idempotency);
}

static void take_error_body(struct request *r)
{
    struct strbuf body;
    strbuf_init(&body, 16384);
    if (api_error_write(&r->error, &body) == RC_OK)
        audited_take(r, body.data, body.len);
    strbuf_fini(&body);
}

/* All that write_rest() will write is made now, so that the audit can know it before it leaves. */
static void make_rest(struct request *r)
{
    struct span rest = {0};
    if (!r->lane->audit || !is_wanted(r))
        return;
    if (r->outcome == LEDGER_OK && cached_answered(&r->cached)) {
        size_t from = r->body.stream ? r->cached.tail : 0;
        rest = (struct span){r->out.data + from, r->out.len - from};
    } else if (r->outcome == LEDGER_OK && !r->body.stream) {
        if (whole_body(r, &rest) != RC_OK)
            rest.n = 0; /* it will be refused: see finish_whole() */
    } else if (r->outcome == LEDGER_OK || r->headed) {
        if (r->outcome == LEDGER_OK)
            make_stream_end(r);
        else
            make_event(r);
        rest = (struct span){r->out.data, r->out.len};
    } else {
        take_error_body(r);
    }
    if (rest.n)
        audited_take(r, rest.p, rest.n);
    audited_close(r);
}

static void write_rest(struct request *r)
{
    if (!is_wanted(r))
        return;
    if (r->outcome == LEDGER_OK && cached_answered(&r->cached))
        cached_write_rest(r);
    else if (r->outcome == LEDGER_OK && r->body.stream)
        finish_stream(r);
    else if (r->outcome == LEDGER_OK)
        finish_whole(r);
    else
        finish_with_error(r);
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

/* Of one that was answered. Tokens of an answer that was found have not been made a second time. */
static void observe_whole(const struct request *r, struct mono now)
{
    struct route_value values[4] = {{ROUTE_DURATION, now.ns - r->arrived.ns}};
    int64_t generating = r->ended.ns - r->arrived.ns - r->ttft_ns;
    int n = 1;
    if (r->billed && request_traits(r->body.kind)->computes) {
        values[n++] = (struct route_value){ROUTE_INPUT, r->tokens.input};
        if (request_traits(r->body.kind)->speaks)
            values[n++] = (struct route_value){ROUTE_OUTPUT, r->tokens.output};
    }
    if (r->billed && r->body.stream && r->tokens.output > 1)
        values[n++] = (struct route_value){ROUTE_TPOT, generating / (r->tokens.output - 1)};
    request_observe_all(r, r->billed, values, n);
}

static void count(struct request *r, struct mono now)
{
    struct metrics *m = r->lane->metrics;
    int model = r->room->index;
    metrics_add(m, METRIC_REQUESTS, model, (int)r->outcome, 1);
    metrics_add(m, METRIC_TOKENS, model, 0, r->tokens.input);
    metrics_add(m, METRIC_TOKENS, model, 1, r->tokens.cached_input);
    metrics_add(m, METRIC_TOKENS, model, 2, r->tokens.output);
    if (r->billed)
        metrics_add(m, METRIC_CHARGE, model, r->billed->index, r->charge.v);
    if (r->outcome == LEDGER_OK)
        observe_whole(r, now);
    if (r->cached.way != CACHED_OFF)
        metrics_add(m, METRIC_CACHE, model, (int)r->cached.way, 1);
    metrics_add(m, METRIC_CACHE_SAVED, model, 0, r->cached.saved.v);
    if (r->waited_ns)
        metrics_observe_at(m, METRIC_WAIT, model, (int)r->urgency.class, r->waited_ns);
    metrics_observe(m, METRIC_COMMIT, 0, now.ns - r->ended.ns);
}

/* What the client called it, where that is another name. */
static const char *asked_model(const struct request *r)
{
    return strcmp(request_model(r)->name, r->body.model) != 0 ? r->body.model : NULL;
}

static void say(const struct request *r, struct mono now)
{
    char charge[64], trace[SPANS_TRACE_ID_BYTES];
    const struct front *f = r->lane->front;
    log_info(f->o.log, "request", ledger_outcome_name(r->outcome), LOG_S("request_id", r->id),
             LOG_S("client_request_id", r->client_id[0] ? r->client_id : NULL),
             LOG_S("trace_id", spans_trace_id(r, trace)), LOG_S("tenant", r->who->tenant),
             LOG_S("model", request_model(r)->name), LOG_S("asked_model", asked_model(r)),
             LOG_S("node", r->last ? r->last->config->name : NULL), LOG_I("status", r->http_status),
             LOG_S("error", r->outcome == LEDGER_FAILED ? api_error_name(&r->error) : NULL),
             LOG_B("stream", r->body.stream), LOG_S("service_class", waiting_class_name(r->urgency.class)),
             LOG_S("cache", r->cached.way != CACHED_OFF ? cached_way_name(r->cached.way) : NULL),
             LOG_I("attempts", r->attempts), LOG_I("continuations", r->continuations), LOG_I("input", r->tokens.input),
             LOG_I("output", r->tokens.output), LOG_S("charge_usd", charge_text(r, charge, sizeof charge)),
             LOG_I("waited_ms", r->waited_ns / NS_PER_MS), LOG_I("took_ms", (now.ns - r->arrived.ns) / NS_PER_MS));
}

static const struct token_prices free_of_charge = {.input = {0}, .cached_input = {0}, .output = {0}};

/* ---- the row ---------------------------------------------------------------------------------------------------- */

/* To the cache, and to whoever waits for a like answer. */
static void hand_on(struct request *r)
{
    struct span body = {0};
    if (r->outcome != LEDGER_OK || budgeted_why(r) || !cached_wants(r))
        return;
    if (!r->body.stream && whole_body(r, &body) != RC_OK)
        body.n = 0;
    cached_done(r, (struct bytes){body.p, body.n});
}

/* Row and record are durable: it is over. */
static void finish(struct request *r)
{
    struct mono now = clock_now(r->lane->front->o.clock);
    count(r, now);
    say(r, now);
    spans_end(r);
    write_rest(r);
    hand_on(r);
    idempotency_settled(r);
    request_free(r);
}

static void on_recorded(enum rc rc, void *arg)
{
    struct request *r = arg;
    (void)rc; /* or it is lost, which the audit has said, and was configured to be good enough */
    r->audited.pending = false;
    r->audited.done = true;
    if (r->row_is_there)
        finish(r);
}

static void on_committed(enum rc rc, void *arg)
{
    struct request *r = arg;
    struct front *f = r->lane->front;
    r->append_pending = false;
    if (rc == RC_INVALID)
        log_error(f->o.log, "ledger", "a row was refused", LOG_S("request_id", r->id));
    /* RC_CONFLICT: it was written by the attempt before, whose answer said otherwise. */
    if (rc != RC_OK && rc != RC_CONFLICT && rc != RC_INVALID) {
        char why[256];
        if (!f->ledger_failing)
            log_error(f->o.log, "ledger", "rows cannot be written: answers wait, new requests are refused",
                      LOG_S("reason", *ledger_last_error(f->o.ledger, why, sizeof why) ? why : rc_name(rc)));
        f->ledger_failing = true;
        request_arm(r, COMMIT_AGAIN_MS);
        return;
    }
    if (f->ledger_failing)
        log_info(f->o.log, "ledger", "rows are written again", LOG_S("request_id", r->id));
    f->ledger_failing = false;
    r->row_is_there = true;
    if (r->audited.done)
        finish(r);
}

static int64_t reasoning(const struct request *r)
{
    const bool known = r->billed && r->leg.streamed && r->stream.usage_known && !r->leg.by_text;
    const int64_t n = known ? r->stream.reasoning : 0;
    return n < r->tokens.output ? n : r->tokens.output;
}

const char *settle_provider(const struct config_node *c)
{
    if (c->pool && c->pool->provider)
        return c->pool->provider;
    return c->provider == PROVIDER_PROCESS ? "process" : "static";
}

/* A node that is off the premises, and that nobody pays for by the hour, is an API. */
const char *settle_market(const struct config_node *c)
{
    if (c->market)
        return c->market;
    return provider_market_name(c->local ? PROVIDER_ON_PREM : c->per_hour.v ? PROVIDER_ON_DEMAND : PROVIDER_API);
}

static struct ledger_row row_of(const struct request *r)
{
    const bool pays = r->billed && !idempotency_is_free(r->idempotency);
    return (struct ledger_row){
        .request_id = r->id,
        .tenant = r->who->tenant,
        .team = r->who->team,
        .key_id = r->who->key_id,
        .model = request_model(r)->name,
        .asked_model = asked_model(r),
        .node = r->last ? r->last->config->name : NULL,
        .provider = r->last ? settle_provider(r->last->config) : NULL,
        .market = r->last ? settle_market(r->last->config) : NULL,
        .domain = r->last ? r->last->config->domain : NULL,
        .reserved = budgeted_reserved(r),
        .charge_max = r->charge_bounded ? r->charge_max : (struct pusd){0},
        .service_class = waiting_class_name(r->urgency.class),
        .streamed = r->body.stream,
        .attempts = r->attempts,
        .continuations = r->continuations,
        .cross_class = r->cross_class,
        .legs = r->legs,
        .n_legs = r->n_legs,
        .tokens = r->tokens,
        .tokens_reasoning = reasoning(r),
        .usage_source = r->usage_source,
        .prices = pays ? r->billed->config->prices : free_of_charge,
        .price_version = pays ? r->billed->config->price_version : 0,
        .charge = r->charge,
        .accepted = r->accepted,
        .first_byte = r->first_byte,
        .finished = r->finished,
        .outcome = r->outcome,
        .http_status = r->http_status,
        .error = r->outcome == LEDGER_FAILED ? api_error_name(&r->error) : NULL,
        .cache = cached_answered(&r->cached) ? cached_way_name(r->cached.way) : NULL,
        .saved = r->cached.saved,
        .idempotency_key = r->idempotency ? r->idempotency->key : NULL,
        .request_hash = r->idempotency ? r->idempotency->hash : NULL,
        .project = r->who->project,
        .user = r->who->user,
        .tags = budgeted_labels(r),
        .budgets = budgeted_lines(r),
        .hold_id = budgeted_hold_id(r),
        .budget_waste = budgeted_waste(r),
        .repeat = r->idempotency ? r->idempotency->number : 0,
    };
}

/* What of row and record is not under way or there already. Both writers work at the same time. */
void settle_append(struct request *r)
{
    struct ledger_row row = row_of(r);
    enum rc recorded = audited_append(r, &row, on_recorded), rc = RC_OK;
    if (!r->row_is_there && !r->append_pending) {
        rc = ledger_append(r->lane->port, &row, on_committed, r);
        r->append_pending = rc == RC_OK;
    }
    if (rc != RC_OK || recorded != RC_OK) /* full, or closing: they are worth waiting for */
        request_arm(r, APPEND_AGAIN_MS);
    else if (r->row_is_there && r->audited.done)
        finish(r);
}

/* Tokens that nobody has counted for us: frames with text, and the prompt by its size. */
static void count_ourselves(struct request *r)
{
    r->usage_source = "counted";
    r->tokens.input = r->input_estimate;
    r->tokens.cached_input = 0;
    if (r->leg.to_engine)
        r->tokens.output = r->leg.ids_before + r->stream.tokens;
    else if (r->leg.streamed)
        r->tokens.output = r->leg.chunks_before + r->stream.content_chunks;
}

/* Who goes on by text counts the text so far as input, and only its own part as output. */
static void count_by_text(struct request *r)
{
    int64_t before = r->leg.chunks_before;
    r->usage_source = "counted";
    r->stream.usage_known = false; /* its own words about it would mislead */
    r->tokens.output += before;
    r->tokens.input = r->tokens.input > before ? r->tokens.input - before : 0;
    if (r->tokens.cached_input > r->tokens.input)
        r->tokens.cached_input = r->tokens.input;
}

/* The last leg brought what the others did not. */
static void settle_legs(struct request *r)
{
    int64_t others = 0;
    for (int i = 0; i + 1 < r->n_legs; i++)
        others += r->legs[i].tokens_output;
    if (r->n_legs && r->outcome == LEDGER_OK)
        r->legs[r->n_legs - 1].tokens_output = r->tokens.output > others ? r->tokens.output - others : 0;
    /* Each read the prompt, and what had been said before it; of what it had already only the last one has told us. */
    int64_t before = 0;
    for (int i = 0; i < r->n_legs; i++) {
        r->legs[i].tokens_input = r->tokens.input + before;
        before += r->legs[i].tokens_output;
    }
    if (r->n_legs)
        r->legs[r->n_legs - 1].tokens_cached_input = r->tokens.cached_input;
}

static void price(struct request *r)
{
    if (cached_answered(&r->cached)) /* free of charge, and what it took is known */
        return;
    if (!r->billed) {
        memset(&r->tokens, 0, sizeof r->tokens);
        return;
    }
    if (r->leg.streamed && r->stream.usage_known) {
        r->usage_source = "provider";
        r->tokens = r->stream.counts;
        if (r->leg.by_text)
            count_by_text(r);
    } else if (!r->usage_source) {
        count_ourselves(r);
    }
    if (idempotency_is_free(r->idempotency))
        return;
    if (money_charge(&r->billed->config->prices, &r->tokens, &r->charge) != RC_OK)
        r->charge = (struct pusd){0}; /* counts are bounded by usage_parse and prices by the configuration */
    bound_charge(r);
}

void settle(struct request *r, enum ledger_outcome outcome)
{
    struct front *f = r->lane->front;
    if (r->timer)
        event_del(r->timer);
    r->state = REQUEST_SETTLING;
    r->outcome = outcome;
    r->ended = clock_now(f->o.clock);
    r->finished = clock_wall(f->o.clock);
    r->http_status = outcome == LEDGER_CANCELLED         ? 499
                     : outcome == LEDGER_OK || r->headed ? 200
                                                         : api_error_status(&r->error);
    price(r);
    settle_legs(r);
    admit_settle(f, &r->ticket, cached_answered(&r->cached) ? 0 : r->tokens.input + r->tokens.output);
    budgeted_settle(r);
    room_correct(r);
    demand_answered(r);
    alone_release(r);
    if (outcome != LEDGER_OK || budgeted_why(r)) /* shorter than others would have it */
        cached_failed(r);
    make_rest(r);
    settle_append(r);
}

/* No node ever had it: nothing was used, nothing is owed, and under overload refusals must not wait for a disk. */
void request_refuse(struct request *r)
{
    struct front *f = r->lane->front;
    SPW_ASSERT(r->attempts == 0);
    counter_add(&r->lane->refused, 1);
    if (r->x) {
        metrics_add(r->lane->metrics, METRIC_REFUSED, (int)r->error.code, 0, 1);
        spans_refused(r);
    }
    log_debug(f->o.log, "request", r->x ? "refused" : "left while waiting", LOG_S("request_id", r->id),
              LOG_S("tenant", r->who->tenant), LOG_S("error", r->x ? api_error_name(&r->error) : NULL),
              LOG_I("waited_ms", r->waited_ns / NS_PER_MS));
    if (r->x)
        finish_with_error(r);
    r->outcome = LEDGER_FAILED;
    idempotency_settled(r);
    request_free(r);
}

void settle_failed(struct request *r)
{
    if (r->attempts == 0) {
        request_refuse(r);
        return;
    }
    /* What left before the failure is the client's and is paid for; a request without a byte costs nothing. */
    if (!r->replied)
        r->billed = NULL;
    settle(r, LEDGER_FAILED);
}
