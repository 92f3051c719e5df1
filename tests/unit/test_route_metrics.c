/* Proves the distributions by route and node: buckets, sums and counts as Prometheus reads them, both names from one
 * observation, labels that are escaped, a bound on series beyond which all are `other`, and figures that add up when
 * several threads observe at once. And the figures of the process itself.
 * links: spw_sched_observe */
#include "tests/unit/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scheduler/observe/process_metrics.h"
#include "scheduler/observe/route_metrics.h"

#define OUT_MAX ((size_t)16 << 20)

static const struct route_labels chat = {"chat", "m", "n"};

/* The figure on the line that begins with `line`; -1: there is none. */
static double figure(const struct strbuf *out, const char *line)
{
    const char *p = out->data;
    size_t n = strlen(line);
    for (; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
        if (strncmp(p, line, n) == 0 && p[n] == ' ')
            return strtod(p + n, NULL);
    }
    return -1;
}

static int occurrences(const struct strbuf *out, const char *text)
{
    int n = 0;
    for (const char *p = out->data; (p = strstr(p, text)); p++)
        n++;
    return n;
}

static void test_both_names(void)
{
    struct route_metrics *m = route_metrics_new();
    struct strbuf out;
    strbuf_init(&out, OUT_MAX);
    route_metrics_observe(m, &chat, ROUTE_TTFT, 500000000); /* on an edge: belongs below it */
    route_metrics_observe(m, &chat, ROUTE_TTFT, 500000001);
    route_metrics_observe(m, &chat, ROUTE_TTFT, INT64_C(700) * 1000000000);
    route_metrics_observe(m, &chat, ROUTE_TTFT, -1);
    route_metrics_observe(m, &chat, ROUTE_OUTPUT, 64);
    CHECK(route_metrics_render(m, &out) == RC_OK);
#define OURS  "spillway_time_to_first_byte_seconds"
#define GENAI "gen_ai_server_time_to_first_token_seconds"
#define BY    "{operation=\"chat\",model=\"m\",node=\"n\""
#define BY_GENAI                                                                                                       \
    "{gen_ai_operation_name=\"chat\",gen_ai_request_model=\"m\",server_address=\"n\",gen_ai_provider_name="            \
    "\"spillway\""
    CHECK_INT(figure(&out, OURS "_bucket" BY ",le=\"0.25\"}"), 0);
    CHECK_INT(figure(&out, OURS "_bucket" BY ",le=\"0.5\"}"), 1);
    CHECK_INT(figure(&out, OURS "_bucket" BY ",le=\"600\"}"), 2);
    CHECK_INT(figure(&out, OURS "_bucket" BY ",le=\"+Inf\"}"), 3);
    CHECK_INT(figure(&out, OURS "_count" BY "}"), 3);
    CHECK(figure(&out, OURS "_sum" BY "}") > 700.9 && figure(&out, OURS "_sum" BY "}") < 701.1);
    CHECK_INT(figure(&out, GENAI "_bucket" BY_GENAI ",le=\"10\"}"), 2);
    CHECK_INT(figure(&out, GENAI "_count" BY_GENAI "}"), 3);
    CHECK_INT(figure(&out, "gen_ai_client_token_usage_bucket" BY_GENAI ",gen_ai_token_type=\"output\",le=\"64\"}"), 1);
    CHECK_INT(figure(&out, "gen_ai_client_token_usage_bucket" BY_GENAI ",gen_ai_token_type=\"output\",le=\"16\"}"), 0);
    CHECK_INT(occurrences(&out, "# TYPE gen_ai_client_token_usage histogram"), 1);
    CHECK_INT(occurrences(&out, "gen_ai_server_request_duration_seconds_count"), 0); /* nothing was seen */
    strbuf_fini(&out);
    route_metrics_free(m);
}

static void test_labels(void)
{
    struct route_metrics *m = route_metrics_new();
    struct strbuf out;
    char name[300];
    strbuf_init(&out, OUT_MAX);
    route_metrics_observe(m, &(struct route_labels){"chat", "a\\b\"c\nd", "n"}, ROUTE_ADDED, 1);
    memset(name, 'x', sizeof name);
    name[299] = '\0';
    route_metrics_observe(m, &(struct route_labels){"chat", name, "n"}, ROUTE_ADDED, 1);
    route_metrics_observe(m, &(struct route_labels){"chat", name, "n"}, ROUTE_ADDED, 1); /* cut, and still the same */
    CHECK(route_metrics_render(m, &out) == RC_OK);
    CHECK_INT(
        figure(&out, "spillway_added_latency_seconds_count{operation=\"chat\",model=\"a\\\\b\\\"c\\nd\",node=\"n\"}"),
        1);
    CHECK_INT(occurrences(&out, "spillway_added_latency_seconds_count{"), 2);
    struct strbuf small;
    strbuf_init(&small, 500);
    CHECK(route_metrics_render(m, &small) == RC_FULL);
    strbuf_fini(&small);
    strbuf_fini(&out);
    route_metrics_free(m);
    route_metrics_free(NULL);
}

static void test_bound(void)
{
    struct route_metrics *m = route_metrics_new();
    struct strbuf out;
    strbuf_init(&out, OUT_MAX);
    for (int i = 0; i < ROUTE_SERIES_MAX + 50; i++) {
        char model[32];
        snprintf(model, sizeof model, "m%d", i);
        route_metrics_observe(m, &(struct route_labels){"chat", model, "n"}, ROUTE_ADDED, 1);
    }
    route_metrics_observe(m, &(struct route_labels){"chat", "m7", "n"}, ROUTE_ADDED, 1); /* has its own still */
    CHECK(route_metrics_render(m, &out) == RC_OK);
    CHECK_INT(occurrences(&out, "spillway_added_latency_seconds_count{"), ROUTE_SERIES_MAX + 1);
    CHECK_INT(figure(&out, "spillway_added_latency_seconds_count{operation=\"other\",model=\"other\",node=\"other\"}"),
              50);
    CHECK_INT(figure(&out, "spillway_added_latency_seconds_count{operation=\"chat\",model=\"m7\",node=\"n\"}"), 2);
    strbuf_fini(&out);
    route_metrics_free(m);
}

static void *observe_much(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        char node[8];
        snprintf(node, sizeof node, "n%d", i % 5);
        route_metrics_observe(arg, &(struct route_labels){"chat", "m", node}, ROUTE_ADDED, 1000000);
    }
    return NULL;
}

static void test_threads(void)
{
    struct route_metrics *m = route_metrics_new();
    struct strbuf out;
    pthread_t threads[3];
    strbuf_init(&out, OUT_MAX);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, observe_much, m) == 0);
    for (int i = 0; i < 20; i++) {
        strbuf_clear(&out);
        CHECK(route_metrics_render(m, &out) == RC_OK);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    strbuf_clear(&out);
    CHECK(route_metrics_render(m, &out) == RC_OK);
    CHECK_INT(figure(&out, "spillway_added_latency_seconds_count{operation=\"chat\",model=\"m\",node=\"n4\"}"), 12000);
    strbuf_fini(&out);
    route_metrics_free(m);
}

static void test_process(void)
{
    struct strbuf out;
    strbuf_init(&out, 65536);
    double now = (double)time(NULL);
    CHECK(process_metrics_render(&out) == RC_OK);
    CHECK(figure(&out, "process_start_time_seconds") > now - 300 &&
          figure(&out, "process_start_time_seconds") < now + 5);
    CHECK(figure(&out, "process_resident_memory_bytes") > 500000);
    CHECK(figure(&out, "process_virtual_memory_bytes") > figure(&out, "process_resident_memory_bytes"));
    CHECK(figure(&out, "process_open_fds") >= 3 && figure(&out, "process_open_fds") < 100);
    CHECK(figure(&out, "process_max_fds") >= 64);
    CHECK(figure(&out, "process_cpu_seconds_total") >= 0 && figure(&out, "process_threads") >= 1);
    struct strbuf small;
    strbuf_init(&small, 100);
    CHECK(process_metrics_render(&small) == RC_FULL);
    strbuf_fini(&small);
    strbuf_fini(&out);
}

int main(void)
{
    TEST(test_both_names);
    TEST(test_labels);
    TEST(test_bound);
    TEST(test_threads);
    TEST(test_process);
    return TEST_RESULT();
}
