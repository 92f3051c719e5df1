/* Fuzzes the trace context headers. First byte: how the rest is cut into traceparent and tracestate headers. What is
 * accepted must be within bounds, must survive being written and read again, and must be spelled as it came.
 * links: spw_sched_observe */
#include <string.h>

#include "base/alloc.h"
#include "scheduler/observe/trace.h"

static const uint8_t seed[16] = {1};

/* A list that was accepted is accepted again, unchanged. */
static void check_state(const char *state)
{
    char again[TRACE_STATE_MAX + 1] = "";
    size_t n = strlen(state);
    SPW_ASSERT(n <= TRACE_STATE_MAX);
    int members = n ? 1 : 0;
    for (size_t i = 0; i < n; i++) {
        SPW_ASSERT(state[i] >= 0x20 && state[i] <= 0x7e);
        members += state[i] == ',';
    }
    SPW_ASSERT(members <= TRACE_STATE_LIST);
    SPW_ASSERT(trace_state_add(again, state, n) == RC_OK && strcmp(again, state) == 0);
}

static void check_parent(const char *text, size_t n)
{
    struct trace_parent p, q;
    if (trace_parent_parse(text, n, &p) != RC_OK)
        return;
    char buf[TRACE_PARENT_SIZE];
    struct trace t = {.id = p.id, .span = p.span, .flags = p.flags};
    SPW_ASSERT(trace_outgoing(&t, p.span, buf) && strlen(buf) == TRACE_PARENT_SIZE - 1);
    SPW_ASSERT(memcmp(buf + 2, text + 2, 51) == 0); /* the ids, as they were spelled */
    SPW_ASSERT(trace_parent_parse(buf, strlen(buf), &q) == RC_OK && memcmp(&p, &q, sizeof p) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 8192)
        return 0;
    check_parent((const char *)data + 1, size - 1);
    char text[8193], *rest = text, *line;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    struct http_header headers[4];
    int n = 0;
    while (n < 4 && (line = strsep(&rest, "\n"))) {
        headers[n] = (struct http_header){data[0] >> n & 1 ? "tracestate" : "traceparent", line};
        n++;
    }
    struct tracer tracer;
    struct trace t;
    char buf[TRACE_PARENT_SIZE];
    struct trace_parent p;
    tracer_init(&tracer, seed, (enum trace_mode)(data[0] >> 4 & 1 ? TRACE_PARENT : data[0] >> 5 & 1), 0.5);
    trace_begin(&tracer, &(struct http_head){.headers = headers, .n_headers = n}, &t);
    check_state(t.state);
    SPW_ASSERT(trace_has_parent(&t) || !*t.state);
    if (trace_outgoing(&t, tracer_span_id(&tracer), buf))
        SPW_ASSERT(trace_parent_parse(buf, strlen(buf), &p) == RC_OK);
    return 0;
}
