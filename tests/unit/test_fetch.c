/* Fetching by libcurl on the loop, against our own server: answers, bounds, deadlines, cancelling, refused addresses.
 * links: spw_base */
#include "base/fetch.h"
#include "base/http_server.h"
#include "http_peer.h"
#include "test.h"

static struct event_base *loop;
static struct http_server *server;
static struct fetcher *fetcher;
static struct {
    int done, requests, status;
    int64_t date_s;
    enum rc rc;
    char body[256], message[512], method[16], got[256], type[64];
} seen;

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    static char mass[100000];
    static const struct http_header to[] = {{"Location", "/elsewhere"}};
    size_t n;
    const char *type = http_head_get(http_request_head(x), "X-Type");
    seen.requests++;
    snprintf(seen.method, sizeof(seen.method), "%s", http_request_head(x)->method);
    snprintf(seen.got, sizeof(seen.got), "%s", http_request_body(x, &n));
    snprintf(seen.type, sizeof(seen.type), "%s", type ? type : "(none)");
    if (http_request_path_is(x, "/hold"))
        return;
    if (http_request_path_is(x, "/mass"))
        http_reply(x, 200, NULL, 0, mass, sizeof(mass));
    else if (http_request_path_is(x, "/moved"))
        http_reply(x, 302, to, 1, "moved", 5);
    else
        http_reply(x, 201, NULL, 0, "made", 4);
}

static void on_answer(const struct fetch_answer *a, const struct error *e, void *arg)
{
    (void)arg;
    seen.done++;
    CHECK(!a != !e);
    seen.rc = e ? e->code : RC_OK;
    seen.status = a ? a->status : 0;
    seen.date_s = a ? a->date_s : 0;
    snprintf(seen.body, sizeof(seen.body), "%s", a ? a->body : "");
    snprintf(seen.message, sizeof(seen.message), "%s", e ? e->message : "");
}

static const char *url(const char *path)
{
    static char text[200];
    snprintf(text, sizeof(text), "http://127.0.0.1:%d%s", http_server_port(server), path);
    return text;
}

static struct fetch *get(struct fetch_request r)
{
    struct fetch *t = NULL;
    struct error e;
    memset(&seen, 0, sizeof(seen));
    CHECK_INT(fetch_start(fetcher, &r, on_answer, NULL, &t, &e), RC_OK);
    CHECK_INT(seen.done, 0);
    return t;
}

static void fetches(void)
{
    static const struct http_header headers[] = {{"X-Type", "t"}, {"X-Empty", ""}};
    char body[] = "question";
    get((struct fetch_request){
        .method = "POST", .url = url("/"), .headers = headers, .n_headers = 2, .body = body, .body_len = 8});
    memset(body, 'x', 8); /* it was copied */
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_INT(seen.status, 201);
    CHECK_STR(seen.body, "made");
    CHECK_STR(seen.got, "question");
    CHECK(seen.date_s <= time(NULL) && seen.date_s >= time(NULL) - 10);
    CHECK_STR(seen.method, "POST");
    CHECK_STR(seen.type, "t");
    get((struct fetch_request){.url = url("/")});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_STR(seen.method, "GET");
    get((struct fetch_request){.method = "HEAD", .url = url("/")});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_STR(seen.method, "HEAD");
    CHECK_STR(seen.body, "");
    get((struct fetch_request){.method = "DELETE", .url = url("/")});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_STR(seen.method, "DELETE");
}

static void redirects_are_answers(void)
{
    get((struct fetch_request){.url = url("/moved")});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_INT(seen.status, 302);
    CHECK_INT(seen.requests, 1);
}

static void answers_are_bounded(void)
{
    get((struct fetch_request){.url = url("/mass"), .answer_bytes_max = 99999});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_INT(seen.rc, RC_FULL);
    get((struct fetch_request){.url = url("/mass"), .answer_bytes_max = 200000});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_INT(seen.rc, RC_OK);
}

static void deadlines_hold(void)
{
    get((struct fetch_request){.url = url("/hold"), .deadline_ms = 150});
    int64_t begin = peer_ms();
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_INT(seen.rc, RC_TIMEOUT);
    CHECK(peer_ms() - begin >= 120 && peer_ms() - begin < 1500);
}

static void cancelled_fetches_are_silent(void)
{
    struct fetch *t = get((struct fetch_request){.url = url("/hold")});
    CHECK(peer_wait(loop, &seen.requests, 1, 2000));
    fetch_cancel(t);
    peer_run_ms(loop, 50);
    CHECK_INT(seen.done, 0);
    CHECK_INT(http_server_stats(server).active_exchanges, 0);
    fetch_cancel(get((struct fetch_request){.url = url("/")}));
    peer_run_ms(loop, 20);
    CHECK_INT(seen.done, 0);
}

static void refuses_other_protocols(void)
{
    static const char *const bad[] = {"file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "", "127.0.0.1"};
    struct fetch *t;
    struct error e;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_INT(fetch_start(fetcher, &(struct fetch_request){.url = bad[i]}, on_answer, NULL, &t, &e),
                  RC_UNSUPPORTED);
    struct http_header split = {"X", "a\r\nY: b"};
    CHECK_INT(fetch_start(fetcher, &(struct fetch_request){.url = url("/"), .headers = &split, .n_headers = 1},
                          on_answer, NULL, &t, &e),
              RC_INVALID);
    char gone[64];
    snprintf(gone, sizeof(gone), "http://127.0.0.1:%d/", peer_free_port());
    get((struct fetch_request){.url = gone});
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    CHECK_INT(seen.rc, RC_IO);
    CHECK(*seen.message);
}

static void free_it_cb(const struct fetch_answer *a, const struct error *e, void *arg)
{
    on_answer(a, e, arg);
    fetcher_free(fetcher);
    fetcher = NULL;
}

static void a_callback_may_free_everything(void)
{
    struct fetch *t;
    struct error e;
    memset(&seen, 0, sizeof(seen));
    CHECK_INT(fetch_start(fetcher, &(struct fetch_request){.url = url("/hold")}, on_answer, NULL, &t, &e), RC_OK);
    CHECK_INT(fetch_start(fetcher, &(struct fetch_request){.url = url("/")}, free_it_cb, NULL, &t, &e), RC_OK);
    CHECK(peer_wait(loop, &seen.done, 1, 3000));
    peer_run_ms(loop, 30);
    CHECK_INT(seen.done, 1);
    CHECK(!fetcher);
}

int main(void)
{
    static const struct http_server_handlers h = {.on_request = on_request};
    struct error e;
    loop = event_base_new();
    if (http_server_new(&server, loop, "127.0.0.1:0", NULL, &h, NULL, &e) != RC_OK ||
        fetcher_new(&fetcher, loop, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    TEST(fetches);
    TEST(redirects_are_answers);
    TEST(answers_are_bounded);
    TEST(deadlines_hold);
    TEST(cancelled_fetches_are_silent);
    TEST(refuses_other_protocols);
    TEST(a_callback_may_free_everything);
    fetcher_free(fetcher);
    http_server_free(server);
    event_base_free(loop);
    return TEST_RESULT();
}
