/* Proves that tasks run off the loop's thread, complete on it in order and once, that the bound refuses, and that
 * freeing with tasks waiting calls each of them back exactly once. And that JSON is written with its commas and exact
 * integers.
 * links: spw_base */
#include "tests/unit/test.h"

#include <pthread.h>
#include <unistd.h>

#include "base/json_write.h"
#include "base/worker.h"

static struct event_base *loop;
static pthread_t main_thread;

struct job {
    int index, ran, done;
    bool on_main, cancelled;
    int *order; /* next expected index */
    bool *out_of_order;
};

static void run(void *arg)
{
    struct job *j = arg;
    j->on_main = pthread_equal(pthread_self(), main_thread);
    j->ran++;
}

static void run_slowly(void *arg)
{
    usleep(20000);
    run(arg);
}

static void done(enum rc rc, void *arg)
{
    struct job *j = arg;
    CHECK(pthread_equal(pthread_self(), main_thread));
    j->done++;
    j->cancelled = rc == RC_CANCELLED;
    if (j->index != (*j->order)++)
        *j->out_of_order = true;
}

static void test_order(void)
{
    struct worker *w = NULL;
    struct job jobs[100];
    struct error e;
    int order = 0;
    bool out_of_order = false;

    CHECK(worker_new(&w, "test", loop, 100, &e) == RC_OK);
    for (int i = 0; i < 100; i++) {
        jobs[i] = (struct job){.index = i, .order = &order, .out_of_order = &out_of_order};
        CHECK(worker_submit(w, run, done, &jobs[i]) == RC_OK);
        CHECK_INT(jobs[i].done, 0);
    }
    while (order < 100 && event_base_loop(loop, EVLOOP_ONCE) == 0) {
    }
    for (int i = 0; i < 100; i++)
        CHECK(jobs[i].ran == 1 && jobs[i].done == 1 && !jobs[i].on_main && !jobs[i].cancelled);
    CHECK(!out_of_order);
    worker_free(w);
}

static void test_bound_and_free(void)
{
    struct worker *w = NULL;
    struct job jobs[5];
    struct error e;
    int order = 0, taken = 0, ran = 0, cancelled = 0;
    bool out_of_order = false;

    CHECK(worker_new(&w, "test", loop, 3, &e) == RC_OK);
    for (int i = 0; i < 5; i++) {
        jobs[i] = (struct job){.index = i, .order = &order, .out_of_order = &out_of_order};
        enum rc rc = worker_submit(w, run_slowly, done, &jobs[i]);
        CHECK(rc == (i < 3 ? RC_OK : RC_FULL));
        taken += rc == RC_OK;
    }
    worker_free(w);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(jobs[i].done, i < 3);
        CHECK(jobs[i].done == 0 || jobs[i].ran == !jobs[i].cancelled);
        ran += jobs[i].ran;
        cancelled += jobs[i].cancelled;
    }
    CHECK_INT(ran + cancelled, taken);
    CHECK(!out_of_order);
    worker_free(NULL);
}

static void test_json_writer(void)
{
    struct strbuf b;

    strbuf_init(&b, 1024);
    struct json_writer w = json_write_begin(&b);
    json_open(&w, NULL, '{');
    json_string(&w, "s", "a\"{,[:\n");
    json_string(&w, "n", NULL);
    json_open(&w, "list", '[');
    json_int(&w, NULL, INT64_MIN);
    json_uint(&w, NULL, UINT64_MAX);
    json_open(&w, NULL, '{');
    json_close(&w, '}');
    json_open(&w, NULL, '[');
    json_close(&w, ']');
    json_string(&w, NULL, "[");
    json_bool(&w, NULL, true);
    json_close(&w, ']');
    json_bool(&w, "b", false);
    json_close(&w, '}');
    CHECK(json_write_end(&w) == RC_OK);
    CHECK_STR(b.data, "{\"s\":\"a\\\"{,[:\\n\",\"n\":null,\"list\":[-9223372036854775808,18446744073709551615,{},[],"
                      "\"[\",true],\"b\":false}");
    strbuf_fini(&b);
    strbuf_init(&b, 8);
    w = json_write_begin(&b);
    json_string(&w, NULL, "longer than the bound");
    json_int(&w, NULL, 1);
    CHECK(json_write_end(&w) == RC_FULL);
    strbuf_fini(&b);
}

int main(void)
{
    main_thread = pthread_self();
    loop = event_base_new();
    TEST(test_order);
    TEST(test_bound_and_free);
    TEST(test_json_writer);
    event_base_free(loop);
    return TEST_RESULT();
}
