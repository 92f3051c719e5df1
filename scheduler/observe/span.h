/* A span: one timed piece of work of a recorded trace, with attributes under OpenTelemetry's names (GenAI semantic
 * conventions, status Development, as of 2026). Plain data of fixed size, on the stack of whoever has the facts:
 *
 *     struct trace_span s;
 *     span_init_server(&s, &r->trace, "POST /v1/chat/completions");
 *     s.start = r->arrived_wall, s.end = clock_wall(clock);
 *     span_set_int(&s, SPAN_HTTP_STATUS, 200);
 *     span_genai(&s, &(struct span_genai){.operation = "chat", ...});
 *     otlp_submit(otlp, &s);
 *
 * Bounds: SPAN_ATTRS_MAX attributes, SPAN_VALUE_MAX bytes of each text, SPAN_TEXT_MAX of all; what does not fit is cut
 * or left out and counted in attrs_dropped. No prompts, answers or credentials go into attributes. */
#ifndef SCHEDULER_OBSERVE_SPAN_H
#define SCHEDULER_OBSERVE_SPAN_H

#include "base/alloc.h"
#include "base/clock.h"
#include "scheduler/observe/trace.h"

#define SPAN_ATTRS_MAX 32
#define SPAN_TEXT_MAX  2048
#define SPAN_VALUE_MAX 256
/* The longest a span can get as JSON: every text byte escaped six-fold, and the frame around it all. */
#define SPAN_JSON_MAX (6 * SPAN_TEXT_MAX + SPAN_ATTRS_MAX * 192 + 1024)

/* Keys. HTTP and server ones are of the stable conventions. */
#define SPAN_HTTP_METHOD      "http.request.method"
#define SPAN_HTTP_ROUTE       "http.route"
#define SPAN_HTTP_STATUS      "http.response.status_code"
#define SPAN_URL_PATH         "url.path"
#define SPAN_SERVER_ADDRESS   "server.address"
#define SPAN_SERVER_PORT      "server.port"
#define SPAN_ERROR_TYPE       "error.type"
#define SPAN_GENAI_OPERATION  "gen_ai.operation.name"
#define SPAN_GENAI_PROVIDER   "gen_ai.provider.name"
#define SPAN_GENAI_MODEL      "gen_ai.request.model"
#define SPAN_GENAI_MAX_TOKENS "gen_ai.request.max_tokens"
#define SPAN_GENAI_STREAM     "gen_ai.request.stream"
#define SPAN_GENAI_SERVED     "gen_ai.response.model"
#define SPAN_GENAI_ID         "gen_ai.response.id"
#define SPAN_GENAI_FINISH     "gen_ai.response.finish_reasons"
#define SPAN_GENAI_FIRST      "gen_ai.response.time_to_first_chunk"
#define SPAN_GENAI_INPUT      "gen_ai.usage.input_tokens"
#define SPAN_GENAI_CACHED     "gen_ai.usage.cache_read.input_tokens"
#define SPAN_GENAI_OUTPUT     "gen_ai.usage.output_tokens"
/* Ours. */
#define SPAN_REQUEST_ID "spillway.request_id"
#define SPAN_TENANT     "spillway.tenant"
#define SPAN_NODE       "spillway.node"
#define SPAN_ATTEMPT    "spillway.attempt"
#define SPAN_WAITED_MS  "spillway.waited_ms"
#define SPAN_CHARGE_USD "spillway.charge_usd"
#define SPAN_CACHE      "spillway.cache"
#define SPAN_REFUSED    "spillway.refused"

/* Values as OTLP writes them. */
enum span_kind { SPAN_INTERNAL = 1, SPAN_SERVER = 2, SPAN_CLIENT = 3 };
enum span_status { SPAN_UNSET = 0, SPAN_OK = 1, SPAN_ERROR = 2 };
enum span_type { SPAN_STRING, SPAN_LIST /* of one string */, SPAN_INT, SPAN_DOUBLE, SPAN_BOOL };

struct span_attr {
    const char *key; /* static */
    enum span_type type;
    uint16_t text; /* offset */
    int64_t i;
    double d;
};
struct trace_span {
    struct trace_id trace;
    struct span_id id, parent;
    bool has_parent, parent_is_remote;
    uint8_t flags;
    enum span_kind kind;
    struct wall start, end;
    enum span_status status;
    uint16_t name, message; /* offsets */
    int n_attrs, attrs_dropped;
    struct span_attr attrs[SPAN_ATTRS_MAX];
    uint16_t text_len;
    char text[SPAN_TEXT_MAX]; /* NUL-terminated texts; the first is "" */
};

/* The request as this server saw it: id and parent are the trace's. */
void span_init_server(struct trace_span *s, const struct trace *t, const char *name);
/* A child of it under an id of its own: the leg whose id went to the node, or something inside (a wait, a commit). */
void span_init_child(struct trace_span *s, const struct trace *t, struct span_id id, enum span_kind kind,
                     const char *name);

/* key: a string constant. value: copied; NULL sets nothing. */
void span_set_string(struct trace_span *s, const char *key, const char *value);
void span_set_list(struct trace_span *s, const char *key, const char *value);
void span_set_int(struct trace_span *s, const char *key, int64_t value);
void span_set_double(struct trace_span *s, const char *key, double value); /* not finite: nothing */
void span_set_bool(struct trace_span *s, const char *key, bool value);
/* Status error: type ("timeout", "502") becomes error.type; message may be NULL. Not for a server span of a 4xx: that
 * is the client's error, and the conventions leave it unset. */
void span_fail(struct trace_span *s, const char *type, const char *message);

/* What is known of a generation; the rest stays NULL, 0 or -1 and is not written. */
struct span_genai {
    const char *operation, *provider; /* "chat", "text_completion", "embeddings", ...; "openai", "vllm", "spillway" */
    const char *request_model, *response_model; /* as asked for; as the node names it */
    const char *response_id, *finish_reason;
    const char *server_address; /* of a client span: the node */
    int server_port;
    int64_t max_tokens, input_tokens, cached_tokens, output_tokens; /* -1: unknown */
    int64_t first_chunk_ns;                                         /* since the request was sent; -1: none */
    bool stream;
};
void span_genai(struct trace_span *s, const struct span_genai *g);

#endif
