#include "scheduler/front/spans.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fetch.h"
#include "scheduler/front/front_internal.h"

#define FLUSH_MS 2000

struct spans {
    struct tracer tracer;
    const struct clock *clock;
    struct fetcher *fetcher;
    struct otlp *otlp; /* NULL: no collector */
};

static enum rc open_exporter(struct spans *s, const struct spans_options *o, struct error *e)
{
    const struct config_tracing *t = &o->config->tracing;
    char instance[300];
    struct otlp_options options = {.loop = o->loop,
                                   .clock = o->clock,
                                   .log = o->log,
                                   .endpoint = t->endpoint,
                                   .headers_file = t->headers_file,
                                   .ca_file = t->ca_file,
                                   .service_name = t->service_name,
                                   .environment = t->environment,
                                   .instance_id = instance,
                                   .queue_max = t->queue_max};
    if (gethostname(instance, sizeof instance) != 0)
        options.instance_id = NULL;
    instance[sizeof instance - 1] = '\0';
    enum rc rc = fetcher_new(&s->fetcher, o->loop, e);
    options.fetcher = s->fetcher;
    return rc == RC_OK ? otlp_new(&s->otlp, &options, e) : rc;
}

enum rc spans_new(struct spans **out, const struct spans_options *o, struct error *e)
{
    const struct config_tracing *t = &o->config->tracing;
    struct spans *s = spw_calloc(1, sizeof *s);
    uint8_t seed[16];
    SPW_ASSERT(getrandom(seed, sizeof seed, 0) == sizeof seed); /* never short for so few bytes */
    enum trace_mode mode = !t->endpoint ? TRACE_OFF : t->mode == CONFIG_TRACING_PARENT ? TRACE_PARENT : TRACE_RATIO;
    tracer_init(&s->tracer, seed, mode, t->sample_ppm / 1e6);
    s->clock = o->clock;
    enum rc rc = t->endpoint ? open_exporter(s, o, e) : RC_OK;
    if (rc != RC_OK) {
        spans_free(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void spans_free(struct spans *s)
{
    if (!s)
        return;
    otlp_free(s->otlp);
    if (s->fetcher)
        fetcher_free(s->fetcher);
    free(s);
}

bool spans_flush(struct spans *s, void (*done)(void *arg), void *arg)
{
    if (!s->otlp || otlp_stats(s->otlp).queued == 0)
        return false;
    otlp_flush(s->otlp, FLUSH_MS, done, arg);
    return true;
}

bool spans_figures_add(struct otlp_stats *sum, const struct spans *s)
{
    if (!s->otlp)
        return false;
    struct otlp_stats o = otlp_stats(s->otlp);
    sum->submitted += o.submitted, sum->exported += o.exported, sum->rejected += o.rejected;
    sum->dropped_full += o.dropped_full, sum->dropped_failed += o.dropped_failed;
    sum->batches += o.batches, sum->retries += o.retries, sum->queued += o.queued;
    return true;
}

/* ---- a request ---------------------------------------------------------------------------------------------------- */

static struct spans *spans_of(const struct request *r)
{
    return r->lane->spans;
}

static bool recorded(const struct request *r)
{
    return spans_of(r)->otlp && trace_recorded(&r->trace);
}

void spans_begin(struct request *r)
{
    trace_begin(&spans_of(r)->tracer, r->x ? http_request_head(r->x) : NULL, &r->trace);
}

const char *spans_trace_id(const struct request *r, char buf[SPANS_TRACE_ID_BYTES])
{
    return recorded(r) || trace_has_parent(&r->trace) ? trace_id_text(r->trace.id, buf) : NULL;
}

int spans_headers(struct request *r, struct spans_texts *t, struct http_header *headers)
{
    int n = 0;
    r->leg.span = tracer_span_id(&spans_of(r)->tracer);
    if (!trace_outgoing(&r->trace, r->leg.span, t->parent))
        return 0;
    headers[n++] = (struct http_header){"traceparent", t->parent};
    if (r->trace.state[0])
        headers[n++] = (struct http_header){"tracestate", r->trace.state};
    return n;
}

static const char *operation_of(const struct request *r)
{
    return request_traits(r->body.kind)->operation;
}

static const char *route_of(const struct request *r)
{
    return request_traits(r->body.kind)->path;
}

static bool ended_well(const struct ledger_leg *leg)
{
    return strcmp(leg->outcome, "ok") == 0;
}

static void submit_leg(const struct request *r, const struct ledger_leg *leg)
{
    struct trace_span s;
    char name[REQUEST_MODEL_BYTES_MAX + 32];
    const char *upstream = node_upstream_model(r->last->config);
    snprintf(name, sizeof name, "%s %s", operation_of(r), r->served->name);
    span_init_child(&s, &r->trace, r->leg.span, SPAN_CLIENT, name);
    s.start = leg->started;
    s.end = leg->ended;
    span_genai(&s, &(struct span_genai){.operation = operation_of(r),
                                        .provider = r->leg.to_engine ? "spillway" : "openai",
                                        .request_model = upstream ? upstream : r->served->name,
                                        .max_tokens = -1,
                                        .input_tokens = -1,
                                        .cached_tokens = -1,
                                        .output_tokens = leg->tokens_output,
                                        .first_chunk_ns = r->leg.first_ns ? r->leg.first_ns : -1,
                                        .stream = r->leg.streamed});
    span_set_string(&s, SPAN_REQUEST_ID, r->id);
    span_set_string(&s, SPAN_NODE, leg->node);
    span_set_int(&s, SPAN_ATTEMPT, r->attempts);
    if (r->leg.status)
        span_set_int(&s, SPAN_HTTP_STATUS, r->leg.status);
    if (!ended_well(leg) && strcmp(leg->outcome, "cancelled") != 0)
        span_fail(&s, leg->outcome, NULL);
    otlp_submit(spans_of(r)->otlp, &s);
}

static const struct ledger_leg *newest_leg(const struct request *r)
{
    return r->n_legs ? &r->legs[r->n_legs - 1] : NULL;
}

void spans_leg(struct request *r)
{
    const struct ledger_leg *leg = newest_leg(r);
    if (recorded(r) && leg && !ended_well(leg))
        submit_leg(r, leg);
}

static void begin_server(const struct request *r, struct trace_span *s)
{
    char name[64];
    snprintf(name, sizeof name, "POST %s", route_of(r));
    span_init_server(s, &r->trace, name);
    s->start = r->accepted;
    span_set_string(s, SPAN_HTTP_METHOD, "POST");
    span_set_string(s, SPAN_HTTP_ROUTE, route_of(r));
    span_set_string(s, SPAN_URL_PATH, route_of(r));
    span_set_string(s, SPAN_REQUEST_ID, r->id);
    span_set_string(s, SPAN_TENANT, r->who->tenant);
    if (r->waited_ns)
        span_set_int(s, SPAN_WAITED_MS, r->waited_ns / NS_PER_MS);
    if (r->cached.way != CACHED_OFF)
        span_set_string(s, SPAN_CACHE, cached_way_name(r->cached.way));
}

void spans_end(struct request *r)
{
    struct trace_span s;
    char charge[64];
    if (!recorded(r))
        return;
    const struct ledger_leg *leg = newest_leg(r);
    if (leg && ended_well(leg))
        submit_leg(r, leg);
    begin_server(r, &s);
    s.end = clock_wall(spans_of(r)->clock);
    span_set_int(&s, SPAN_HTTP_STATUS, r->http_status);
    span_genai(&s, &(struct span_genai){.operation = operation_of(r),
                                        .provider = "spillway",
                                        .request_model = r->room->model,
                                        .max_tokens = r->body.output_tokens_max,
                                        .input_tokens = r->tokens.input,
                                        .cached_tokens = r->tokens.cached_input,
                                        .output_tokens = r->tokens.output,
                                        .first_chunk_ns = r->ttft_ns ? r->ttft_ns : -1,
                                        .stream = r->body.stream});
    span_set_string(&s, SPAN_NODE, r->last ? r->last->config->name : NULL);
    span_set_int(&s, SPAN_ATTEMPT, r->attempts);
    span_set_string(&s, SPAN_CHARGE_USD, pusd_format(r->charge, charge, sizeof charge));
    if (r->outcome == LEDGER_FAILED && (r->replied || r->http_status >= 500))
        span_fail(&s, api_error_name(&r->error), NULL);
    otlp_submit(spans_of(r)->otlp, &s);
}

/* The end of a server's span that had no answer of a node: it is ours to say why. */
static void submit_refusal(const struct spans *spans, struct trace_span *s, const struct api_error *error)
{
    int status = api_error_status(error);
    s->end = clock_wall(spans->clock);
    span_set_int(s, SPAN_HTTP_STATUS, status);
    span_set_string(s, SPAN_REFUSED, api_error_name(error));
    if (status >= 500)
        span_fail(s, api_error_name(error), NULL);
    otlp_submit(spans->otlp, s);
}

void spans_refused(struct request *r)
{
    struct trace_span s;
    if (!recorded(r) || !r->x)
        return;
    begin_server(r, &s);
    span_set_string(&s, SPAN_GENAI_MODEL, r->room->model);
    submit_refusal(spans_of(r), &s, &r->error);
}

void spans_turned_away(struct spans *spans, const struct spans_refusal *r)
{
    struct trace_span s;
    struct trace trace;
    char name[64];
    if (!spans->otlp)
        return;
    trace_begin(&spans->tracer, r->head, &trace);
    if (!trace_recorded(&trace))
        return;
    snprintf(name, sizeof name, "%s %s", r->method, r->route);
    span_init_server(&s, &trace, name);
    s.start = r->began;
    span_set_string(&s, SPAN_HTTP_METHOD, r->method);
    span_set_string(&s, SPAN_HTTP_ROUTE, r->route);
    span_set_string(&s, SPAN_REQUEST_ID, r->id);
    span_set_string(&s, SPAN_TENANT, r->tenant);
    submit_refusal(spans, &s, r->error);
}
