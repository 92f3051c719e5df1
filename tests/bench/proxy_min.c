/* The least a proxy can be on our server and client, to see what the data path costs beside HAProxy. No part of the
 * product: it forwards method, target, Content-Type and body to one upstream and streams the answer back.
 *
 *   proxy_min origin PORT            answers every request with a small JSON body
 *   proxy_min stream PORT            answers with 50 server-sent events
 *   proxy_min proxy PORT UPSTREAM    forwards to 127.0.0.1:UPSTREAM
 *   proxy_min idle PORT N            opens N keep-alive connections, one request each, and holds them (measures memory)
 *
 * Listens on 127.0.0.1 only. On SIGTERM it prints its requests and CPU time.
 * links: spw_base */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/http_client.h"
#include "base/http_server.h"

#define OUT_HIGH (256 * 1024)
#define OUT_LOW  (64 * 1024)

static struct event_base *loop;
static struct http_client *upstream;
static struct http_server *server;
static long idle_done;

struct forward {
    struct http_exchange *x;
    struct http_call *call;
    bool started;
};

static void on_gone(struct http_exchange *x, void *state)
{
    struct forward *f = state;
    (void)x;
    http_call_cancel(f->call);
    free(f);
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    struct forward *f = arg;
    (void)c;
    f->started = true;
    http_reply_start(f->x, head->status, head->headers, head->n_headers);
}

static void on_low(struct http_exchange *x, void *state)
{
    (void)x;
    http_call_resume(((struct forward *)state)->call);
}

static void on_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    struct forward *f = arg;
    http_reply_write(f->x, data, n);
    if (http_reply_pending(f->x) > OUT_HIGH) {
        http_call_pause(c);
        http_reply_on_drain(f->x, OUT_LOW, on_low);
    }
}

static void on_end(struct http_call *c, void *arg)
{
    struct forward *f = arg;
    (void)c;
    http_reply_end(f->x);
    free(f);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct forward *f = arg;
    (void)c;
    (void)phase;
    if (f->started)
        http_reply_abort(f->x);
    else
        http_reply(f->x, 502, NULL, 0, e->message, strlen(e->message));
    free(f);
}

static void forward(struct http_exchange *x, void *arg)
{
    static const struct http_call_handlers h = {on_head, on_body, on_end, on_fail};
    (void)arg;
    const struct http_head *head = http_request_head(x);
    const char *type = http_head_get(head, "Content-Type");
    struct http_header headers[] = {{"Content-Type", type ? type : "application/json"}};
    struct http_request r = {.method = head->method, .target = head->target, .headers = headers, .n_headers = 1};
    r.body = http_request_body(x, &r.body_len);
    struct forward *f = spw_calloc(1, sizeof(*f));
    struct error e;
    f->x = x;
    http_exchange_set(x, f, on_gone);
    if (http_call_start(upstream, &r, &h, f, &f->call, &e) != RC_OK) {
        http_reply(x, 503, NULL, 0, e.message, strlen(e.message));
        free(f);
    }
}

static const struct http_header json = {"Content-Type", "application/json"};

static void answer(struct http_exchange *x, void *arg)
{
    static const char body[] =
        "{\"id\":\"x\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
        "\"assistant\",\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}";
    (void)arg;
    http_reply(x, 200, &json, 1, body, sizeof(body) - 1);
}

/* One event per loop turn would need a timer; what matters to the proxy is the number of chunks. */
static void answer_stream(struct http_exchange *x, void *arg)
{
    static const char event[] =
        "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";
    static const struct http_header sse = {"Content-Type", "text/event-stream"};
    (void)arg;
    http_reply_start(x, 200, &sse, 1);
    for (int i = 0; i < 50; i++)
        http_reply_write(x, event, sizeof(event) - 1);
    http_reply_end(x);
}

static void idle_end(struct http_call *c, void *arg)
{
    (void)c;
    (void)arg;
    idle_done++;
}
static void idle_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    (void)c;
    (void)phase;
    (void)arg;
    fprintf(stderr, "%s\n", e->message);
}
static void ignore_head(struct http_call *c, const struct http_head *head, void *arg)
{
    (void)c;
    (void)head;
    (void)arg;
}
static void ignore_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    (void)c;
    (void)data;
    (void)n;
    (void)arg;
}

static int hold(int port, int n)
{
    static const struct http_call_handlers h = {ignore_head, ignore_body, idle_end, idle_fail};
    struct http_client_options o = {.connections_max = n, .keep_idle_ms = 60000, .connect_ms = 20000};
    struct error e;
    if (http_client_new(&upstream, loop, "127.0.0.1", port, &o, &e) != RC_OK)
        return 1;
    for (int i = 0; i < n; i++) {
        struct http_request r = {.method = "GET", .target = "/"};
        struct http_call *call;
        if (http_call_start(upstream, &r, &h, NULL, &call, &e) != RC_OK) {
            fprintf(stderr, "%s\n", e.message);
            return 1;
        }
    }
    while (idle_done < n)
        event_base_loop(loop, EVLOOP_ONCE);
    printf("%ld connections idle\n", idle_done);
    fflush(stdout);
    return event_base_dispatch(loop) < 0;
}

static void stop(evutil_socket_t number, short what, void *arg)
{
    struct rusage u;
    (void)number;
    (void)what;
    (void)arg;
    getrusage(RUSAGE_SELF, &u);
    double cpu_us =
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    unsigned long long requests = server ? http_server_stats(server).requests : 0;
    printf("requests %llu, cpu %.0f ms, %.2f us per request, peak %ld KiB\n", requests, cpu_us / 1e3,
           requests ? cpu_us / (double)requests : 0.0, u.ru_maxrss);
    event_base_loopbreak(loop);
}

int main(int argc, char **argv)
{
    int port = argc >= 3 ? (int)strtol(argv[2], NULL, 10) : 0, other = argc >= 4 ? (int)strtol(argv[3], NULL, 10) : 0;
    struct http_server_handlers h = {.on_request = answer};
    char address[32];
    struct error e;
    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    (void)setrlimit(RLIMIT_NOFILE, &files);
    loop = event_base_new();
    struct event *term = evsignal_new(loop, SIGTERM, stop, NULL);
    event_add(term, NULL);
    if (argc == 4 && strcmp(argv[1], "idle") == 0)
        return hold(port, other);
    if (argc == 4 && strcmp(argv[1], "proxy") == 0) {
        h.on_request = forward;
        if (http_client_new(&upstream, loop, "127.0.0.1", other, NULL, &e) != RC_OK)
            return 1;
    } else if (argc == 3 && strcmp(argv[1], "stream") == 0) {
        h.on_request = answer_stream;
    } else if (argc != 3 || strcmp(argv[1], "origin") != 0) {
        fprintf(stderr, "usage: proxy_min origin|stream PORT | proxy PORT UPSTREAM | idle PORT N\n");
        return 2;
    }
    snprintf(address, sizeof(address), "127.0.0.1:%d", port);
    if (http_server_new(&server, loop, address, NULL, &h, NULL, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    event_base_dispatch(loop);
    http_server_free(server);
    http_client_free(upstream);
    event_free(term);
    event_base_free(loop);
    return 0;
}
