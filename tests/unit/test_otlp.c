/* The span exporter against a collector of our own: valid OTLP/JSON, batches, what is tried again and what is not,
 * bounds when the collector is slow, refuses, or is not there.
 * links: spw_sched_observe */
#include <stdlib.h>
#include <unistd.h>

#include "base/http_server.h"
#include "base/json.h"
#include "http_peer.h"
#include "scheduler/observe/otlp.h"
#include "test.h"

static struct event_base *loop;
static struct fetcher *fetcher;
static struct tracer tracer;

/* The collector: answers the first n requests from `statuses`, then 200. */
static struct {
    struct http_server *server;
    int statuses[8], n_statuses;
    const char *retry_after, *answer;
    int requests, spans, bad;
    int64_t at_ms[16]; /* arrival of each request */
    char first_id[17], last_body[OTLP_BATCH_BYTES + 64], path[64], type[64], token[64];
    bool silent;
} collector;

/* ---- the schema, as far as we write it --------------------------------------------------------------------------- */

static const cJSON *member(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key);
}
static const char *text(const cJSON *o, const char *key)
{
    const char *s = cJSON_GetStringValue(member(o, key));
    return s ? s : "";
}
static bool is_hex(const char *s, size_t n)
{
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n && strspn(s, "0") != n;
}
static bool is_decimal(const char *s)
{
    return *s && strspn(s + (*s == '-'), "0123456789") == strlen(s + (*s == '-'));
}

static bool attribute_is_valid(const cJSON *a)
{
    const cJSON *v = member(a, "value"), *one = v ? v->child : NULL;
    if (!*text(a, "key") || !one || one->next)
        return false;
    if (strcmp(one->string, "stringValue") == 0)
        return cJSON_IsString(one);
    if (strcmp(one->string, "intValue") == 0)
        return cJSON_IsString(one) && is_decimal(one->valuestring);
    if (strcmp(one->string, "doubleValue") == 0)
        return cJSON_IsNumber(one);
    if (strcmp(one->string, "boolValue") == 0)
        return cJSON_IsBool(one);
    return strcmp(one->string, "arrayValue") == 0 && cJSON_IsArray(member(one, "values"));
}

static bool span_is_valid(const cJSON *s)
{
    const cJSON *a, *status = member(s, "status");
    cJSON_ArrayForEach(a, member(s, "attributes")) if (!attribute_is_valid(a)) return false;
    if (status && !cJSON_IsNumber(member(status, "code")))
        return false;
    return is_hex(text(s, "traceId"), 32) && is_hex(text(s, "spanId"), 16) &&
           (!member(s, "parentSpanId") || is_hex(text(s, "parentSpanId"), 16)) && *text(s, "name") &&
           cJSON_IsNumber(member(s, "kind")) && cJSON_IsNumber(member(s, "flags")) &&
           is_decimal(text(s, "startTimeUnixNano")) && is_decimal(text(s, "endTimeUnixNano"));
}

/* The spans of a request, or NULL. */
static const cJSON *spans_of(const cJSON *root)
{
    const cJSON *resource = cJSON_GetArrayItem(member(root, "resourceSpans"), 0);
    const cJSON *scope = cJSON_GetArrayItem(member(resource, "scopeSpans"), 0);
    const cJSON *a, *spans = member(scope, "spans");
    bool named = false;
    cJSON_ArrayForEach(a, member(member(resource, "resource"), "attributes"))
    {
        if (!attribute_is_valid(a))
            return NULL;
        named |= strcmp(text(a, "key"), "service.name") == 0;
    }
    return named && *text(member(scope, "scope"), "name") && cJSON_IsArray(spans) ? spans : NULL;
}

static int count_spans(const char *body, size_t n)
{
    cJSON *root = NULL;
    struct error e;
    if (json_parse(body, n, JSON_DEPTH_MAX, &root, &e) != RC_OK)
        return -1;
    const cJSON *s, *spans = spans_of(root);
    int count = spans ? cJSON_GetArraySize(spans) : -1;
    cJSON_ArrayForEach(s, spans) if (!span_is_valid(s)) count = -1;
    if (count > 0)
        snprintf(collector.first_id, sizeof collector.first_id, "%s", text(spans->child, "spanId"));
    cJSON_Delete(root);
    return count;
}

/* ---- the collector ----------------------------------------------------------------------------------------------- */

static void keep(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "(none)");
}

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    size_t n;
    const char *body = http_request_body(x, &n);
    int i = collector.requests++, count = count_spans(body, n);
    if (i < 16)
        collector.at_ms[i] = peer_ms();
    keep(collector.last_body, sizeof collector.last_body, body);
    keep(collector.path, sizeof collector.path, http_request_head(x)->target);
    keep(collector.type, sizeof collector.type, http_head_get(http_request_head(x), "Content-Type"));
    keep(collector.token, sizeof collector.token, http_head_get(http_request_head(x), "Authorization"));
    collector.bad += count <= 0;
    if (collector.silent)
        return;
    int status = i < collector.n_statuses ? collector.statuses[i] : 200;
    const struct http_header headers[] = {{"Content-Type", "application/json"}, {"Retry-After", collector.retry_after}};
    if (status == 200 && count > 0)
        collector.spans += count;
    const char *answer = collector.answer ? collector.answer : "{}";
    http_reply(x, status, headers, collector.retry_after ? 2 : 1, answer, strlen(answer));
}

static void collector_start(void)
{
    struct error e;
    memset(&collector, 0, sizeof collector);
    if (http_server_new(&collector.server, loop, "127.0.0.1:0", &(struct http_server_options){0},
                        &(struct http_server_handlers){.on_request = on_request}, NULL, &e) != RC_OK)
        abort();
}

static struct otlp *exporter(struct otlp_options o)
{
    static char endpoint[64];
    struct otlp *out = NULL;
    struct error e = {0};
    if (collector.server)
        snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", http_server_port(collector.server));
    o.loop = loop;
    o.fetcher = fetcher;
    o.clock = &clock_system;
    o.endpoint = o.endpoint ? o.endpoint : endpoint;
    CHECK_INT(otlp_new(&out, &o, &e), RC_OK);
    if (!out)
        abort();
    return out;
}

static void end(struct otlp *o)
{
    struct otlp_stats s = otlp_stats(o);
    CHECK_INT(s.submitted, s.exported + s.rejected + s.dropped_full + s.dropped_failed + (uint64_t)s.queued);
    CHECK_INT(collector.bad, 0);
    otlp_free(o);
    http_server_free(collector.server);
    collector.server = NULL;
}

static struct trace_span make_span(const char *name)
{
    struct trace t;
    struct trace_span s;
    trace_begin(&tracer, NULL, &t);
    span_init_server(&s, &t, name);
    s.start.ns = INT64_C(1767225600000000001);
    s.end.ns = s.start.ns + 1500000;
    return s;
}

static void submit(struct otlp *o, int n)
{
    for (int i = 0; i < n; i++) {
        struct trace_span s = make_span("POST /v1/chat/completions");
        otlp_submit(o, &s);
    }
}

static int all_gone;
static void on_flushed(void *arg)
{
    (void)arg;
    all_gone++;
}

static bool flush(struct otlp *o, int ms)
{
    all_gone = 0;
    otlp_flush(o, ms, on_flushed, NULL);
    CHECK_INT(all_gone, 0); /* never from inside */
    return peer_wait(loop, &all_gone, 1, ms + 2000);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void a_span_as_the_schema_says(void)
{
    const struct http_header parent = {"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
    struct trace t;
    struct trace_span s;
    struct strbuf out;
    trace_begin(&tracer, &(struct http_head){.headers = &parent, .n_headers = 1}, &t);
    span_init_server(&s, &t, "chat \"x\"\n");
    memset(s.id.b, 0xab, sizeof s.id.b);
    s.start.ns = INT64_C(1767225600123456789);
    s.end.ns = INT64_C(1767225601123456789);
    span_genai(&s, &(struct span_genai){.operation = "chat",
                                        .finish_reason = "stop",
                                        .stream = true,
                                        .max_tokens = -1,
                                        .input_tokens = INT64_C(9007199254740993),
                                        .cached_tokens = 0,
                                        .output_tokens = -1,
                                        .first_chunk_ns = 250000000});
    span_fail(&s, "timeout", "no byte in time");
    strbuf_init(&out, SPAN_JSON_MAX);
    CHECK_INT(otlp_write_span(&out, &s), RC_OK);
    CHECK_STR(out.data,
              "{\"traceId\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"spanId\":\"abababababababab\","
              "\"parentSpanId\":\"00f067aa0ba902b7\",\"flags\":769,\"name\":\"chat \\\"x\\\"\\n\",\"kind\":2,"
              "\"startTimeUnixNano\":\"1767225600123456789\",\"endTimeUnixNano\":\"1767225601123456789\","
              "\"attributes\":[{\"key\":\"gen_ai.operation.name\",\"value\":{\"stringValue\":\"chat\"}},"
              "{\"key\":\"gen_ai.response.finish_reasons\",\"value\":{\"arrayValue\":{\"values\":[{\"stringValue\":"
              "\"stop\"}]}}},{\"key\":\"gen_ai.request.stream\",\"value\":{\"boolValue\":true}},"
              "{\"key\":\"gen_ai.usage.input_tokens\",\"value\":{\"intValue\":\"9007199254740993\"}},"
              "{\"key\":\"gen_ai.usage.cache_read.input_tokens\",\"value\":{\"intValue\":\"0\"}},"
              "{\"key\":\"gen_ai.response.time_to_first_chunk\",\"value\":{\"doubleValue\":0.25}},"
              "{\"key\":\"error.type\",\"value\":{\"stringValue\":\"timeout\"}}],"
              "\"status\":{\"code\":2,\"message\":\"no byte in time\"}}");
    strbuf_fini(&out);
}

static void the_biggest_span_has_its_place(void)
{
    struct trace_span s = make_span("x");
    char value[SPAN_VALUE_MAX + 1];
    memset(value, 1, SPAN_VALUE_MAX); /* each byte becomes six */
    value[SPAN_VALUE_MAX] = '\0';
    for (int i = 0; i < SPAN_ATTRS_MAX; i++)
        span_set_list(&s, SPAN_GENAI_CACHED, i < 7 ? value : "\x01\x02\x03");
    span_fail(&s, "\x01", "\x01");
    struct strbuf out;
    strbuf_init(&out, SPAN_JSON_MAX);
    CHECK_INT(otlp_write_span(&out, &s), RC_OK);
    strbuf_fini(&out);
}

static void spans_leave_in_batches(void)
{
    collector_start();
    struct otlp *o = exporter((struct otlp_options){.batch_max = 10, .delay_ms = 60});
    const int64_t begin = peer_ms();
    submit(o, 25);
    CHECK_INT(collector.requests, 0); /* nothing is sent from inside */
    CHECK(peer_wait(loop, &collector.spans, 20, 3000));
    CHECK(collector.spans == 20 || peer_ms() - begin >= 60);
    CHECK(peer_wait(loop, &collector.spans, 25, 3000)); /* the open one after its delay */
    CHECK_INT(collector.requests, 3);
    CHECK_STR(collector.path, "/v1/traces");
    CHECK_STR(collector.type, "application/json");
    CHECK_STR(collector.token, "(none)");
    peer_run_ms(loop, 20);
    struct otlp_stats s = otlp_stats(o);
    CHECK_INT(s.exported, 25);
    CHECK_INT(s.queued + (int)s.retries, 0);
    CHECK_INT(s.batches, 3);
    end(o);
}

static void a_batch_closes_by_its_length(void)
{
    collector_start();
    struct otlp *o = exporter((struct otlp_options){.queue_max = 1000, .batch_max = 500, .delay_ms = 20});
    char value[SPAN_VALUE_MAX + 1];
    memset(value, 1, SPAN_VALUE_MAX);
    value[SPAN_VALUE_MAX] = '\0';
    for (int i = 0; i < 40; i++) {
        struct trace_span s = make_span("long");
        for (int j = 0; j < 7; j++)
            span_set_string(&s, SPAN_TENANT, value);
        otlp_submit(o, &s);
    }
    CHECK(peer_wait(loop, &collector.spans, 40, 5000));
    CHECK(collector.requests > 1 && collector.requests < 6);
    end(o);
}

static void what_may_be_retried_is(void)
{
    static const int again[] = {429, 502, 503, 504};
    for (size_t i = 0; i < sizeof again / sizeof *again; i++) {
        collector_start();
        collector.statuses[0] = collector.statuses[1] = again[i];
        collector.n_statuses = 2;
        struct otlp *o = exporter((struct otlp_options){.delay_ms = 1, .backoff_ms = 40});
        submit(o, 3);
        CHECK(peer_wait(loop, &collector.spans, 3, 3000));
        peer_run_ms(loop, 20);
        CHECK_INT(collector.requests, 3);
        CHECK(collector.at_ms[1] - collector.at_ms[0] >= 39);
        CHECK(collector.at_ms[2] - collector.at_ms[1] >= 79); /* doubled */
        CHECK_INT(otlp_stats(o).retries, 2);
        CHECK_INT(otlp_stats(o).exported, 3);
        end(o);
    }
}

/* A collector that asks for a second gets it, however eager we are. */
static void a_busy_collector_says_when(void)
{
    collector_start();
    collector.statuses[0] = 503;
    collector.n_statuses = 1;
    collector.retry_after = "1";
    struct otlp *o = exporter((struct otlp_options){.delay_ms = 1, .backoff_ms = 5});
    submit(o, 1);
    CHECK(peer_wait(loop, &collector.spans, 1, 4000));
    CHECK(collector.at_ms[1] - collector.at_ms[0] >= 999);
    end(o);
}

static void what_may_not_be_retried_is_not(void)
{
    static const int final[] = {400, 401, 404, 413, 500, 301};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++) {
        collector_start();
        collector.statuses[0] = final[i];
        collector.n_statuses = 1;
        struct otlp *o = exporter((struct otlp_options){.delay_ms = 1, .backoff_ms = 5});
        submit(o, 3);
        CHECK(peer_wait(loop, &collector.requests, 1, 3000));
        peer_run_ms(loop, 60);
        CHECK_INT(collector.requests, 1);
        CHECK_INT(otlp_stats(o).dropped_failed, 3);
        submit(o, 2); /* the next batch is a new chance */
        CHECK(peer_wait(loop, &collector.spans, 2, 3000));
        end(o);
    }
}

static void tries_end(void)
{
    collector_start();
    for (int i = 0; i < 8; i++)
        collector.statuses[i] = 503;
    collector.n_statuses = 3;
    struct otlp *o = exporter((struct otlp_options){.delay_ms = 1, .backoff_ms = 5, .tries_max = 3});
    submit(o, 4);
    CHECK(peer_wait(loop, &collector.requests, 3, 3000));
    peer_run_ms(loop, 60);
    CHECK_INT(collector.requests, 3);
    CHECK_INT(otlp_stats(o).dropped_failed, 4);
    CHECK_INT(otlp_stats(o).queued, 0);
    end(o);
}

static void rejected_spans_are_counted_and_gone(void)
{
    static const struct {
        const char *answer;
        int rejected;
    } cases[] = {{"{\"partialSuccess\":{\"rejectedSpans\":\"2\",\"errorMessage\":\"no\"}}", 2},
                 {"{\"partialSuccess\":{\"rejectedSpans\":1}}", 1},
                 {"{\"partialSuccess\":{}}", 0},
                 {"{\"partialSuccess\":{\"rejectedSpans\":\"-7\"}}", 0},
                 {"{\"partialSuccess\":{\"rejectedSpans\":\"99999\"}}", 3},
                 {"not json", 0},
                 {"", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        collector_start();
        collector.answer = cases[i].answer;
        struct otlp *o = exporter((struct otlp_options){.delay_ms = 1});
        submit(o, 3);
        CHECK(flush(o, 3000));
        CHECK_INT(otlp_stats(o).rejected, cases[i].rejected);
        CHECK_INT(otlp_stats(o).exported, 3 - cases[i].rejected);
        CHECK_INT(collector.requests, 1);
        end(o);
    }
}

static void a_dead_collector_costs_spans_and_nothing_else(void)
{
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d/", peer_free_port());
    memset(&collector, 0, sizeof collector);
    struct otlp *o = exporter((struct otlp_options){.endpoint = endpoint,
                                                    .queue_max = 95,
                                                    .batch_max = 10,
                                                    .delay_ms = 1,
                                                    .backoff_ms = 20,
                                                    .backoff_ms_max = 40,
                                                    .tries_max = 3});
    const int64_t begin = peer_ms();
    submit(o, 1000);
    CHECK_INT(otlp_stats(o).queued, 95);
    CHECK_INT(otlp_stats(o).dropped_full, 905);
    peer_run_ms(loop, 250);
    while (otlp_stats(o).dropped_failed < 10 && peer_ms() - begin < 10000)
        peer_pump(loop);
    CHECK(otlp_stats(o).dropped_failed >= 10); /* given up, batch after batch, at the back-off's pace */
    CHECK((int64_t)otlp_stats(o).batches <= 6 * (1 + (peer_ms() - begin) / 300));
    CHECK_INT(otlp_stats(o).exported, 0);
    CHECK(flush(o, 50)); /* the end of the program does not wait for it */
    end(o);
}

static void a_silent_collector_is_left_in_time(void)
{
    collector_start();
    collector.silent = true;
    struct otlp *o = exporter((struct otlp_options){.delay_ms = 1, .timeout_ms = 60, .backoff_ms = 10, .tries_max = 2});
    submit(o, 2);
    CHECK(peer_wait(loop, &collector.requests, 2, 3000));
    for (int64_t end = peer_ms() + 5000; otlp_stats(o).dropped_failed < 2 && peer_ms() < end;)
        peer_pump(loop);
    CHECK_INT(otlp_stats(o).dropped_failed, 2);
    submit(o, 2);
    CHECK(peer_wait(loop, &collector.requests, 3, 3000));
    end(o); /* with a request under way */
}

static void the_collector_comes_back(void)
{
    const int port = peer_free_port();
    char address[64], endpoint[64];
    struct error e;
    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", port);
    memset(&collector, 0, sizeof collector);
    struct otlp *o =
        exporter((struct otlp_options){.endpoint = endpoint, .delay_ms = 1, .backoff_ms = 50, .tries_max = 20});
    submit(o, 5);
    peer_run_ms(loop, 30);
    CHECK_INT(http_server_new(&collector.server, loop, address, &(struct http_server_options){0},
                              &(struct http_server_handlers){.on_request = on_request}, NULL, &e),
              RC_OK);
    CHECK(peer_wait(loop, &collector.spans, 5, 3000));
    peer_run_ms(loop, 20);
    CHECK_INT(otlp_stats(o).exported, 5);
    end(o);
}

static void flush_sends_what_is_open(void)
{
    collector_start();
    struct otlp *o = exporter((struct otlp_options){.delay_ms = 60000});
    CHECK(flush(o, 5000)); /* nothing to do */
    submit(o, 7);
    peer_run_ms(loop, 30);
    CHECK_INT(collector.requests, 0);
    CHECK(flush(o, 5000));
    CHECK_INT(collector.spans, 7);
    end(o);
}

static enum rc with_headers(const char *content, struct otlp **o, struct error *e)
{
    char path[] = "/tmp/test_otlp_XXXXXX", endpoint[64];
    int fd = mkstemp(path);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", http_server_port(collector.server));
    if (fd < 0 || write(fd, content, strlen(content)) != (ssize_t)strlen(content))
        abort();
    close(fd);
    enum rc rc = otlp_new(o,
                          &(struct otlp_options){.loop = loop,
                                                 .fetcher = fetcher,
                                                 .clock = &clock_system,
                                                 .endpoint = endpoint,
                                                 .headers_file = path,
                                                 .delay_ms = 1,
                                                 .instance_id = "a",
                                                 .environment = "test"},
                          e);
    unlink(path);
    return rc;
}

static void headers_come_from_a_file(void)
{
    struct otlp *o;
    struct error e;
    collector_start();
    CHECK_INT(with_headers("# of the vendor\nAuthorization:  Bearer s3cret\r\n\nx-scope: a\n", &o, &e), RC_OK);
    submit(o, 1);
    CHECK(flush(o, 3000));
    CHECK_STR(collector.token, "Bearer s3cret");
    CHECK(strstr(collector.last_body, "\"deployment.environment.name\"") != NULL);
    CHECK(strstr(collector.last_body, "\"service.instance.id\"") != NULL);
    CHECK(strstr(collector.last_body, "\"service.version\"") != NULL);
    otlp_free(o);
    static const char *const bad[] = {"s3cret", ": s3cret", "a b: s3cret", "A: s3cret\x01",
                                      "a:s3cret\nb:\nc:\nd:\ne:\nf:\ng:\nh:\ni:\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(with_headers(bad[i], &o, &e), RC_INVALID);
        CHECK(!strstr(e.message, "s3cret"));
    }
    http_server_free(collector.server);
    collector.server = NULL;
}

static void refuses_other_endpoints(void)
{
    static const char *const bad[] = {"", "127.0.0.1:4318", "ftp://h", "http://u:p@h", "http://h/?x=1", "http://h /"};
    struct otlp *o;
    struct error e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct otlp_options options = {.loop = loop, .fetcher = fetcher, .clock = &clock_system, .endpoint = bad[i]};
        CHECK_INT(otlp_new(&o, &options, &e), RC_INVALID);
    }
    struct otlp_options options = {
        .loop = loop, .fetcher = fetcher, .clock = &clock_system, .endpoint = "http://h", .headers_file = "/no/file"};
    CHECK_INT(otlp_new(&o, &options, &e), RC_NOT_FOUND);
}

int main(void)
{
    struct error e;
    static const uint8_t seed[16] = {7};
    tracer_init(&tracer, seed, TRACE_PARENT, 1);
    loop = event_base_new();
    if (!loop || fetcher_new(&fetcher, loop, &e) != RC_OK)
        return 1;
    TEST(a_span_as_the_schema_says);
    TEST(the_biggest_span_has_its_place);
    TEST(spans_leave_in_batches);
    TEST(a_batch_closes_by_its_length);
    TEST(what_may_be_retried_is);
    TEST(a_busy_collector_says_when);
    TEST(what_may_not_be_retried_is_not);
    TEST(tries_end);
    TEST(rejected_spans_are_counted_and_gone);
    TEST(a_dead_collector_costs_spans_and_nothing_else);
    TEST(a_silent_collector_is_left_in_time);
    TEST(the_collector_comes_back);
    TEST(flush_sends_what_is_open);
    TEST(headers_come_from_a_file);
    TEST(refuses_other_endpoints);
    fetcher_free(fetcher);
    event_base_free(loop);
    return TEST_RESULT();
}
