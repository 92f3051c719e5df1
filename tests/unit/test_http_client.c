/* The HTTP client against rude raw peers (cut, stalled, lying) and against our own server: streaming, back-pressure,
 * pooling, cancelling, names, unix sockets, TLS.
 * links: spw_base */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/http_client.h"
#include "base/http_server.h"
#include "http_peer.h"
#include "test.h"
#include "tls_make.h"

static struct event_base *loop;
static struct {
    int heads, ends, fails, over; /* over: ends + fails */
    int status;
    enum http_phase phase;
    enum rc rc;
    char message[512];
    size_t body_len;
    char body[4096];
    enum { THEN_NOTHING, THEN_PAUSE, THEN_CANCEL, THEN_START, THEN_FREE } on_body, on_end;
    int paused;
} seen;
static struct http_client *client;
static struct http_call *again;

static void start_again(void);

static void act(struct http_call *c, int what)
{
    if (what == THEN_PAUSE) {
        seen.paused++;
        http_call_pause(c);
    } else if (what == THEN_CANCEL) {
        http_call_cancel(c);
    } else if (what == THEN_START) {
        start_again();
    } else if (what == THEN_FREE) {
        http_client_free(client);
        client = NULL;
    }
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    (void)c;
    (void)arg;
    seen.heads++;
    seen.status = head->status;
}
static void on_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < n && seen.body_len + i < sizeof(seen.body) - 1; i++)
        seen.body[seen.body_len + i] = data[i];
    seen.body_len += n;
    act(c, seen.on_body);
}
static void on_end(struct http_call *c, void *arg)
{
    (void)arg;
    seen.ends++;
    seen.over++;
    act(c, seen.on_end);
}
static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    (void)c;
    (void)arg;
    seen.fails++;
    seen.over++;
    seen.phase = phase;
    seen.rc = e->code;
    snprintf(seen.message, sizeof(seen.message), "%s", e->message);
}
static const struct http_call_handlers handlers = {on_head, on_body, on_end, on_fail};

static struct http_client *client_for(const char *host, int port, const struct http_client_options *o)
{
    struct http_client *c = NULL;
    struct error e;
    if (http_client_new(&c, loop, host, port, o, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return c;
}

static struct http_call *get(struct http_client *c, const char *target)
{
    struct http_call *call = NULL;
    struct error e;
    memset(&seen, 0, sizeof(seen));
    struct http_request r = {.method = "GET", .target = target};
    CHECK_INT(http_call_start(c, &r, &handlers, NULL, &call, &e), RC_OK);
    CHECK_INT(seen.over, 0);
    return call;
}

static void start_again(void)
{
    struct error e;
    struct http_request r = {.method = "GET", .target = "/again"};
    seen.on_end = THEN_NOTHING;
    CHECK_INT(http_call_start(client, &r, &handlers, NULL, &again, &e), RC_OK);
}

/* ---- a raw peer: accepts, waits for the head, says its text, and closes or stays ---- */

static char request[1 << 16];

static int serve(int listen_fd, const char *answer)
{
    int fd = peer_accept(loop, listen_fd, 2000);
    CHECK(fd >= 0);
    request[0] = '\0';
    CHECK(peer_read(loop, fd, request, sizeof(request), "\r\n\r\n", NULL, 2000));
    peer_send(loop, fd, answer);
    return fd;
}

#define OK "HTTP/1.1 200 OK\r\n"

static void broken_answers_fail(void)
{
    static const struct {
        const char *answer;
        int heads;
        enum rc rc;
        enum http_phase phase;
        const char *body;
    } cases[] = {
        {"", 0, RC_IO, HTTP_PHASE_HEAD, ""},
        {"HTTP/1.1 200 OK\r\nContent-Le", 0, RC_IO, HTTP_PHASE_HEAD, ""},
        {"HTTP/1.1 100 Continue\r\n\r\n", 0, RC_IO, HTTP_PHASE_HEAD, ""},
        {OK "Content-Length: 10\r\n\r\nabc", 1, RC_IO, HTTP_PHASE_BODY, "abc"},
        {OK "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 1, RC_IO, HTTP_PHASE_BODY, "abc"},
        {OK "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 1, RC_INVALID, HTTP_PHASE_BODY, "abc"},
        {"nonsense\r\n\r\n", 0, RC_INVALID, HTTP_PHASE_HEAD, ""},
        {OK "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 0, RC_INVALID, HTTP_PHASE_HEAD, ""},
        {"HTTP/1.1 101 Switching\r\n\r\n", 0, RC_INVALID, HTTP_PHASE_HEAD, ""},
    };
    int port, fd = peer_listen(&port);
    client = client_for("127.0.0.1", port, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        get(client, "/");
        close(serve(fd, cases[i].answer));
        CHECK(peer_wait(loop, &seen.over, 1, 2000));
        CHECK_INT(seen.fails, 1);
        CHECK_INT(seen.ends, 0);
        CHECK_INT(seen.heads, cases[i].heads);
        CHECK_INT(seen.rc, cases[i].rc);
        CHECK_INT(seen.phase, cases[i].phase);
        CHECK_STR(seen.body, cases[i].body);
        CHECK(*seen.message);
    }
    CHECK_INT(http_client_stats(client).open_connections, 0);
    http_client_free(client);
    close(fd);
}

static void only_clean_connections_are_reused(void)
{
    static const struct {
        const char *answer;
        int idle;
    } cases[] = {
        {OK "Content-Length: 2\r\n\r\nhi", 1},
        {OK "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 1},
        {OK "Content-Length: 2\r\nConnection: close\r\n\r\nhi", 0},
        {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 0},
        {OK "Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", 0}, /* bytes nobody asked for: response splitting */
        {"HTTP/1.1 204 No Content\r\n\r\nhi", 0},
    };
    int port, fd = peer_listen(&port);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        client = client_for("127.0.0.1", port, NULL);
        get(client, "/x?y");
        int peer = serve(fd, cases[i].answer);
        CHECK(strncmp(request, "GET /x?y HTTP/1.1\r\nHost: 127.0.0.1:", 35) == 0 && !strstr(request, "Content-Length"));
        CHECK(peer_wait(loop, &seen.ends, 1, 2000));
        CHECK_INT(http_client_stats(client).idle_connections, cases[i].idle);
        CHECK_INT(http_client_stats(client).open_connections, cases[i].idle);
        if (cases[i].idle) {
            struct http_call *call = get(client, "/2");
            request[0] = '\0';
            CHECK(peer_read(loop, peer, request, sizeof(request), "GET /2", NULL, 2000));
            CHECK(http_call_reused(call));
            peer_send(loop, peer, cases[i].answer);
            CHECK(peer_wait(loop, &seen.ends, 1, 2000));
            CHECK_INT(http_client_stats(client).reused, 1);
            CHECK_INT(http_client_stats(client).opened, 1);
            peer_send(loop, peer, "HTTP/1.1 408 x\r\n\r\n"); /* unasked: the idle connection goes */
            peer_run_ms(loop, 20);
            CHECK_INT(http_client_stats(client).open_connections, 0);
        }
        close(peer);
        http_client_free(client);
    }
    close(fd);
}

/* A second answer that arrives after the connection was put by, and before the loop has looked at it, is not the answer
 * to the next request: that request may be another tenant's. */
static void a_late_second_answer_is_nobodys(void)
{
    int port, fd = peer_listen(&port);
    client = client_for("127.0.0.1", port, NULL);
    get(client, "/1");
    int peer = serve(fd, OK "Content-Length: 2\r\n\r\nhi");
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    CHECK_INT(http_client_stats(client).idle_connections, 1);
    static const char evil[] = OK "Content-Length: 4\r\n\r\nEVIL";
    CHECK_INT(send(peer, evil, sizeof(evil) - 1, MSG_NOSIGNAL), sizeof(evil) - 1);
    CHECK(!http_call_reused(get(client, "/2")));
    int other = serve(fd, OK "Content-Length: 4\r\n\r\nmine");
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    CHECK_STR(seen.body, "mine");
    close(peer);
    close(other);
    http_client_free(client);
    close(fd);
}

static void a_body_may_end_with_the_connection(void)
{
    int port, fd = peer_listen(&port);
    client = client_for("127.0.0.1", port, NULL);
    get(client, "/");
    int peer = serve(fd, OK "\r\nall there is");
    peer_run_ms(loop, 20);
    CHECK_INT(seen.over, 0);
    close(peer);
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    CHECK_STR(seen.body, "all there is");
    get(client, "/"); /* but a reset is no end */
    peer = serve(fd, OK "\r\nnot all");
    peer_run_ms(loop, 20);
    struct linger hard = {1, 0};
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(peer);
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.phase, HTTP_PHASE_BODY);
    http_client_free(client);
    close(fd);
}

/* Sends six pieces, not all at once. False: the machine stood still, and one came too late. */
static bool keeps_coming(int fd, int *peer)
{
    int64_t last = peer_ms(), longest = 0;
    get(client, "/");
    *peer = serve(fd, OK "Content-Length: 100\r\n\r\n");
    for (int i = 0; i < 7; i++) {
        peer_run_ms(loop, i < 6 ? 60 : 20);
        longest = peer_ms() - last > longest ? peer_ms() - last : longest;
        last = peer_ms();
        if (i < 6)
            peer_send(loop, *peer, "x");
    }
    return !seen.over || longest < 120;
}

static void stalls_time_out(void)
{
    int port, fd = peer_listen(&port);
    struct http_client_options o = {.head_ms = 120, .idle_body_ms = 150, .keep_idle_ms = 200};
    client = client_for("127.0.0.1", port, &o);
    int64_t begin = peer_ms();
    get(client, "/");
    int peer = serve(fd, OK);
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.rc, RC_TIMEOUT);
    CHECK_INT(seen.phase, HTTP_PHASE_HEAD);
    CHECK(peer_ms() - begin >= 100);
    close(peer);
    /* A body that keeps coming is fine however long it takes, a stalled one is not. */
    for (int tries = 0; tries < 20 && !keeps_coming(fd, &peer); tries++)
        close(peer);
    CHECK_INT(seen.over, 0);
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.rc, RC_TIMEOUT);
    CHECK_INT(seen.phase, HTTP_PHASE_BODY);
    CHECK_INT(seen.body_len, 6);
    close(peer);
    get(client, "/"); /* idle connections are closed after keep_idle_ms */
    peer = serve(fd, OK "Content-Length: 0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    bool closed = false;
    CHECK_INT(http_client_stats(client).idle_connections, 1);
    request[0] = '\0';
    CHECK(peer_read(loop, peer, request, sizeof(request), NULL, &closed, 2000) && closed);
    CHECK_INT(http_client_stats(client).idle_connections, 0);
    close(peer);
    http_client_free(client);
    close(fd);
}

static void a_pooled_connection_that_was_closed_is_not_used(void)
{
    int port, fd = peer_listen(&port);
    client = client_for("127.0.0.1", port, NULL);
    get(client, "/");
    int peer = serve(fd, OK "Content-Length: 0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    close(peer);
    peer_run_ms(loop, 20); /* the loop sees the close */
    CHECK_INT(http_client_stats(client).idle_connections, 0);
    get(client, "/");
    peer = serve(fd, OK "Content-Length: 0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    struct timespec nap = {.tv_sec = 1, .tv_nsec = 50000000};
    nanosleep(&nap, NULL);
    close(peer); /* closed while the loop did not run: asked before it is written to */
    CHECK(!http_call_reused(get(client, "/")));
    peer = serve(fd, OK "Content-Length: 0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.ends, 1, 2000));
    CHECK_INT(http_client_stats(client).opened, 3);
    close(peer);
    http_client_free(client);
    close(fd);
}

static void calls_can_be_cancelled_anywhere(void)
{
    int port, fd = peer_listen(&port);
    bool closed;
    client = client_for("127.0.0.1", port, NULL);
    http_call_cancel(get(client, "/")); /* before it connected */
    struct http_call *call = get(client, "/");
    int gone = peer_accept(loop, fd, 1000); /* the first one */
    int peer = peer_accept(loop, fd, 1000);
    close(gone);
    peer_run_ms(loop, 20);
    http_call_cancel(call); /* before the head */
    request[0] = '\0';
    CHECK(peer_read(loop, peer, request, sizeof(request), NULL, &closed, 1000) && closed);
    close(peer);
    get(client, "/");
    seen.on_body = THEN_CANCEL; /* from inside */
    peer = serve(fd, OK "Content-Length: 10\r\n\r\nabc");
    request[0] = '\0';
    CHECK(peer_read(loop, peer, request, sizeof(request), NULL, &closed, 1000) && closed);
    CHECK_INT(seen.over, 0);
    CHECK_INT(http_client_stats(client).open_connections, 0);
    close(peer);
    http_client_free(client);
    close(fd);
}

static void handlers_may_start_and_free(void)
{
    int port, fd = peer_listen(&port);
    client = client_for("127.0.0.1", port, NULL);
    get(client, "/");
    seen.on_end = THEN_START; /* on the connection that has just come free */
    int peer = serve(fd, OK "Content-Length: 0\r\n\r\n");
    request[0] = '\0';
    CHECK(peer_read(loop, peer, request, sizeof(request), "GET /again", NULL, 1000));
    seen.on_end = THEN_FREE;
    peer_send(loop, peer, OK "Content-Length: 0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.ends, 2, 1000) && !client);
    close(peer);
    client = client_for("127.0.0.1", port, NULL);
    get(client, "/");
    seen.on_body = THEN_FREE; /* its own call fails as cancelled, from inside */
    peer = serve(fd, OK "Content-Length: 10\r\n\r\nabc");
    CHECK(peer_wait(loop, &seen.fails, 1, 1000) && !client);
    CHECK_INT(seen.rc, RC_CANCELLED);
    close(peer);
    close(fd);
}

static void pausing_stops_the_peer(void)
{
    int port, fd = peer_listen(&port);
    struct http_client_options o = {.idle_body_ms = 100};
    client = client_for("127.0.0.1", port, &o);
    struct http_call *call = get(client, "/");
    seen.on_body = THEN_PAUSE;
    int peer = serve(fd, OK "Content-Length: 50000000\r\n\r\nx");
    CHECK(peer_wait(loop, &seen.paused, 1, 1000));
    static char mass[65536];
    size_t pushed = 1;
    for (int idle = 0; idle < 100;) {
        ssize_t n = send(peer, mass, sizeof(mass), MSG_NOSIGNAL);
        if (n > 0) {
            pushed += (size_t)n;
            idle = 0;
        } else {
            idle++;
            peer_pump(loop);
        }
    }
    CHECK(pushed < 40000000 && seen.body_len <= 65536); /* it is stuck, and longer than idle_body_ms: no timeout */
    peer_run_ms(loop, 150);
    CHECK_INT(seen.over, 0);
    seen.on_body = THEN_NOTHING;
    http_call_resume(call);
    while (pushed < 50000000) {
        size_t left = 50000000 - pushed;
        ssize_t n = send(peer, mass, left < sizeof(mass) ? left : sizeof(mass), MSG_NOSIGNAL);
        if (n > 0)
            pushed += (size_t)n;
        event_base_loop(loop, EVLOOP_NONBLOCK);
    }
    CHECK(peer_wait(loop, &seen.ends, 1, 5000));
    CHECK_INT(seen.body_len, 50000000);
    close(peer);
    peer_run_ms(loop, 20);
    /* Paused on the very last bytes: the end is told after the resume. The chunks of one read come as one piece. */
    call = get(client, "/");
    seen.on_body = THEN_PAUSE;
    peer = serve(fd, OK "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc");
    CHECK(peer_wait(loop, &seen.paused, 1, 1000));
    CHECK_STR(seen.body, "abc");
    http_call_resume(call);
    peer_send(loop, peer, "\r\n3\r\ndef\r\n2\r\ngh\r\n0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.paused, 2, 1000));
    peer_run_ms(loop, 10);
    CHECK_STR(seen.body, "abcdefgh");
    CHECK_INT(seen.over, 0);
    http_call_resume(call);
    CHECK(peer_wait(loop, &seen.ends, 1, 1000));
    CHECK_INT(http_client_stats(client).idle_connections, 1);
    /* What is wrong behind it is told after the resume as well. */
    call = get(client, "/");
    seen.on_body = THEN_PAUSE;
    request[0] = '\0';
    CHECK(peer_read(loop, peer, request, sizeof(request), "\r\n\r\n", NULL, 1000));
    peer_send(loop, peer, OK "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nnonsense\r\n");
    CHECK(peer_wait(loop, &seen.paused, 1, 1000));
    peer_run_ms(loop, 10);
    CHECK_INT(seen.over, 0);
    http_call_resume(call);
    CHECK(peer_wait(loop, &seen.fails, 1, 1000));
    close(peer);
    call = get(client, "/");
    peer = serve(fd, OK "Content-Length: 0\r\n\r\n");
    CHECK(peer_wait(loop, &seen.ends, 1, 1000));
    call = get(client, "/");
    seen.on_body = THEN_PAUSE;
    request[0] = '\0';
    CHECK(peer_read(loop, peer, request, sizeof(request), "\r\n\r\n", NULL, 1000));
    peer_send(loop, peer, OK "Content-Length: 1\r\n\r\nz");
    CHECK(peer_wait(loop, &seen.paused, 1, 1000));
    http_call_resume(call);
    CHECK(peer_wait(loop, &seen.ends, 1, 1000));
    close(peer);
    http_client_free(client);
    close(fd);
}

static void connecting_fails_with_words(void)
{
    struct error e;
    client = client_for("127.0.0.1", peer_free_port(), NULL);
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.rc, RC_IO);
    CHECK_INT(seen.phase, HTTP_PHASE_CONNECT);
    CHECK(strstr(seen.message, "refused"));
    http_client_free(client);
    client = client_for("unix:/nonexistent/socket", 0, NULL); /* fails at once, is told from the loop */
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.phase, HTTP_PHASE_CONNECT);
    http_client_free(client);
    static const char *const bad[] = {"", "a b", "a\r\nb"};
    for (size_t i = 0; i < 3; i++)
        CHECK_INT(http_client_new(&client, loop, bad[i], 80, NULL, &e), RC_INVALID);
    CHECK_INT(http_client_new(&client, loop, "127.0.0.1", 65536, NULL, &e), RC_INVALID);
}

static void requests_cannot_be_split(void)
{
    struct http_client *c = client_for("127.0.0.1", 1, NULL);
    struct http_call *call;
    struct error e;
    static const struct http_header bad[] = {{"X", "a\r\nY: b"}, {"X\n", "a"}, {"X: y", "a"}, {"", "a"}, {"X Y", "a"}};
    static const char *const targets[] = {"/a b", "/a\r\nX: y", "a", "", "/\x7f"};
    for (size_t i = 0; i < 5; i++) {
        struct http_request r = {.method = "GET", .target = "/", .headers = &bad[i], .n_headers = 1};
        CHECK_INT(http_call_start(c, &r, &handlers, NULL, &call, &e), RC_INVALID);
        r = (struct http_request){.method = "GET", .target = targets[i]};
        CHECK_INT(http_call_start(c, &r, &handlers, NULL, &call, &e), RC_INVALID);
    }
    struct http_request r = {.method = "G T", .target = "/"};
    CHECK_INT(http_call_start(c, &r, &handlers, NULL, &call, &e), RC_INVALID);
    http_client_free(c);
}

/* A server may answer before it has read all, and close: what it said must arrive, and the connection is not kept. */
static void an_early_answer_arrives(void)
{
    int port, fd = peer_listen(&port);
    static char mass[16 << 20];
    struct http_request r = {.method = "POST", .target = "/", .body = mass, .body_len = sizeof(mass)};
    struct http_call *call;
    struct error e;
    client = client_for("127.0.0.1", port, NULL);
    for (int i = 0; i < 2; i++) {
        memset(&seen, 0, sizeof(seen));
        CHECK_INT(http_call_start(client, &r, &handlers, NULL, &call, &e), RC_OK);
        int peer = peer_accept(loop, fd, 2000);
        peer_run_ms(loop, 20);
        peer_send(loop, peer, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
        if (i)
            close(peer); /* with the upload unread: a reset follows the answer */
        CHECK(peer_wait(loop, &seen.over, 1, 2000));
        CHECK_INT(seen.ends, 1);
        CHECK_INT(seen.status, 413);
        CHECK_STR(seen.body, "no");
        CHECK_INT(http_client_stats(client).open_connections, 0);
        if (!i)
            close(peer);
    }
    http_client_free(client);
    close(fd);
}

/* ---- against our own server ---- */

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    size_t n;
    const char *body = http_request_body(x, &n);
    if (http_request_path_is(x, "/hold"))
        return;
    http_reply_start(x, 200, NULL, 0);
    http_reply_write(x, body, n);
    http_reply_write(x, http_head_get(http_request_head(x), "Host"), 4);
    http_reply_end(x);
}

static struct http_server *server_on(const char *address, struct tls_door *tls)
{
    static const struct http_server_handlers h = {.on_request = on_request};
    struct http_server_options o = {.tls = tls};
    struct http_server *s = NULL;
    struct error e;
    if (http_server_new(&s, loop, address, &o, &h, NULL, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return s;
}

static void post(struct http_client *c, const char *body, size_t n)
{
    struct http_call *call;
    struct error e;
    static const struct http_header headers[] = {{"Host", "evil"}, {"Content-Length", "0"}, {"X-Other", "fine"}};
    struct http_request r = {
        .method = "POST", .target = "/", .headers = headers, .n_headers = 3, .body = body, .body_len = n};
    memset(&seen, 0, sizeof(seen));
    CHECK_INT(http_call_start(c, &r, &handlers, NULL, &call, &e), RC_OK);
    CHECK(peer_wait(loop, &seen.over, 1, 10000));
}

static void talks_to_our_server(void)
{
    struct http_server *s = server_on("127.0.0.1:0", NULL);
    client = client_for("127.0.0.1", http_server_port(s), NULL);
    static char mass[8 << 20];
    memset(mass, 'm', sizeof(mass));
    for (int i = 0; i < 3; i++) {
        post(client, mass, sizeof(mass)); /* far more than one write takes */
        CHECK_INT(seen.ends, 1);
        CHECK_INT(seen.body_len, sizeof(mass) + 4);
    }
    post(client, "q:", 2);
    CHECK_STR(seen.body, "q:127.");
    CHECK_INT(http_client_stats(client).opened, 1);
    struct http_call *calls[3]; /* free with calls in every state */
    for (int i = 0; i < 3; i++)
        calls[i] = get(client, "/hold");
    (void)calls;
    peer_run_ms(loop, 20);
    get(client, "/hold");
    http_client_free(client);
    CHECK_INT(seen.fails, 4);
    CHECK_INT(seen.rc, RC_CANCELLED);
    peer_run_ms(loop, 20);
    CHECK_INT(http_server_stats(s).active_exchanges, 0);
    struct http_client_options one = {.connections_max = 1};
    client = client_for("127.0.0.1", http_server_port(s), &one);
    get(client, "/hold");
    struct http_request r = {.method = "GET", .target = "/"};
    struct http_call *call;
    struct error e;
    CHECK_INT(http_call_start(client, &r, &handlers, NULL, &call, &e), RC_FULL);
    http_client_free(client);
    http_server_free(s);
}

static void resolves_names(void)
{
    struct http_server *s = server_on("127.0.0.1:0", NULL);
    client = client_for("localhost", http_server_port(s), NULL);
    post(client, "", 0);
    CHECK_INT(seen.ends, 1);
    CHECK_STR(seen.body, "loca");
    http_client_free(client);
    http_server_free(s);
    client = client_for("localhost", 1, NULL); /* every address refuses */
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 5000));
    CHECK_INT(seen.phase, HTTP_PHASE_CONNECT);
    http_client_free(client);
    struct http_client_options o = {.connect_ms = 200};
    client = client_for("name.invalid", 80, &o);
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 5000)); /* unknown, or no resolver answers in time */
    CHECK_INT(seen.phase, HTTP_PHASE_CONNECT);
    get(client, "/"); /* freed while the resolver works */
    http_client_free(client);
    CHECK_INT(seen.fails, 1);
    peer_run_ms(loop, 50);
}

static void talks_over_unix_sockets(void)
{
    char address[80];
    snprintf(address, sizeof(address), "unix:/tmp/spw-test-client-%d.sock", (int)getpid());
    struct http_server *s = server_on(address, NULL);
    client = client_for(address, 0, NULL);
    post(client, "q", 1);
    CHECK_STR(seen.body, "qloca");
    http_client_free(client);
    http_server_free(s);
}

static char dir[64], cert[96], key[96];

static struct tls_door *make_door(void)
{
    struct tls_door *door = NULL;
    struct error e;
    snprintf(dir, sizeof dir, "/tmp/spw-client-XXXXXX");
    CHECK(mkdtemp(dir));
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    tls_write_pair(cert, key, "test", "DNS:localhost,DNS:other.test,IP:127.0.0.1", NULL);
    CHECK(tls_door_new(&door, &(struct tls_server_files){.cert = cert, .key = key}, &clock_system, &e) == RC_OK);
    return door;
}

static void drop_door(struct tls_door *door)
{
    tls_door_free(door);
    unlink(cert);
    unlink(key);
    rmdir(dir);
}

static void talks_tls_and_checks_names(void)
{
    struct tls_door *door = make_door();
    SSL_CTX *trusting = NULL, *doubting = NULL;
    struct error e;
    CHECK(tls_client_new(&trusting, &(struct tls_client_files){.ca = cert}, &e) == RC_OK);
    CHECK(tls_client_new(&doubting, &(struct tls_client_files){.ca = NULL}, &e) == RC_OK);
    struct http_server *s = server_on("127.0.0.1:0", door);
    static const char *const hosts[] = {"127.0.0.1", "localhost"};
    static char mass[3 << 20];
    memset(mass, 'm', sizeof(mass));
    for (int i = 0; i < 2; i++) {
        struct http_client_options o = {.tls = trusting};
        client = client_for(hosts[i], http_server_port(s), &o);
        post(client, mass, sizeof(mass));
        CHECK_INT(seen.body_len, sizeof(mass) + 4);
        post(client, "q", 1);
        CHECK_INT(seen.body_len, 5);
        CHECK_INT(http_client_stats(client).opened, 1);
        CHECK_INT(http_client_stats(client).reused, 1);
        get(client, "/hold");
        peer_run_ms(loop, 20);
        http_client_free(client);
    }
    struct http_client_options o = {.tls = doubting}; /* unknown issuer */
    client = client_for("127.0.0.1", http_server_port(s), &o);
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.phase, HTTP_PHASE_CONNECT);
    CHECK(strstr(seen.message, "certificate refused"));
    http_client_free(client);
    o.tls = trusting; /* right issuer, wrong name */
    int port = http_server_port(s);
    client = client_for("127.0.0.2", port, &o);
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    http_client_free(client);
    int fd = peer_connect(port); /* plain text on a TLS port, then one that says nothing */
    peer_send(loop, fd, "GET / HTTP/1.1\r\n\r\n");
    bool closed;
    request[0] = '\0';
    CHECK(peer_read(loop, fd, request, sizeof(request), NULL, &closed, 1000) && closed);
    close(fd);
    http_server_free(s);
    s = server_on("127.0.0.1:0", NULL); /* TLS to a plain port */
    client = client_for("127.0.0.1", http_server_port(s), &o);
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK_INT(seen.phase, HTTP_PHASE_CONNECT);
    http_client_free(client);
    http_server_free(s);
    SSL_CTX_free(trusting);
    SSL_CTX_free(doubting);
    drop_door(door);
}

/* A second connection goes on with the first one's session, and one whose session nobody knows any more still works. */
static void resumes_tls_sessions(void)
{
    struct tls_door *door = make_door(), *other = NULL;
    SSL_CTX *trusting = NULL;
    struct error e;
    CHECK(tls_client_new(&trusting, &(struct tls_client_files){.ca = cert}, &e) == RC_OK);
    CHECK(tls_door_new(&other, &(struct tls_server_files){.cert = cert, .key = key}, &clock_system, &e) == RC_OK);
    struct http_server *s = server_on("127.0.0.1:0", door);
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%d", http_server_port(s));
    struct http_client_options o = {.tls = trusting, .keep_idle_ms = 30};
    client = client_for("127.0.0.1", http_server_port(s), &o);
    SSL_CTX_free(trusting); /* the pool has its own reference */
    for (int i = 0; i < 3; i++) {
        post(client, "q", 1);
        CHECK_INT(seen.body_len, 5);
        peer_run_ms(loop, 80);
        for (int64_t end = peer_ms() + 5000; http_client_stats(client).idle_connections && peer_ms() < end;)
            peer_pump(loop); /* until the pooled connection is let go */
    }
    CHECK_INT(http_client_stats(client).opened, 3);
    CHECK_INT(http_client_stats(client).tls_resumed, 2);
    http_server_free(s);
    s = server_on(address, other); /* a server that was started again: other ticket keys */
    post(client, "q", 1);
    CHECK_INT(seen.body_len, 5);
    CHECK_INT(http_client_stats(client).tls_resumed, 2);
    http_client_free(client);
    http_server_free(s);
    tls_door_free(other);
    drop_door(door);
}

/* What the certificate must be for may be another name than where one connects to. */
static void checks_the_name_it_is_told(void)
{
    struct tls_door *door = make_door();
    SSL_CTX *trusting = NULL;
    struct error e;
    CHECK(tls_client_new(&trusting, &(struct tls_client_files){.ca = cert}, &e) == RC_OK);
    struct http_server *s = server_on("127.0.0.2:0", door);
    struct http_client_options o = {.tls = trusting, .tls_name = "other.test"};
    client = client_for("127.0.0.2", http_server_port(s), &o);
    post(client, "q", 1);
    CHECK_INT(seen.body_len, 5);
    http_client_free(client);
    o.tls_name = "wrong.test";
    client = client_for("127.0.0.2", http_server_port(s), &o);
    get(client, "/");
    CHECK(peer_wait(loop, &seen.fails, 1, 2000));
    CHECK(strstr(seen.message, "certificate refused") && strstr(seen.message, "mismatch"));
    http_client_free(client);
    http_server_free(s);
    SSL_CTX_free(trusting);
    drop_door(door);
}

int main(void)
{
    loop = event_base_new();
    TEST(broken_answers_fail);
    TEST(only_clean_connections_are_reused);
    TEST(a_late_second_answer_is_nobodys);
    TEST(a_body_may_end_with_the_connection);
    TEST(stalls_time_out);
    TEST(a_pooled_connection_that_was_closed_is_not_used);
    TEST(calls_can_be_cancelled_anywhere);
    TEST(handlers_may_start_and_free);
    TEST(pausing_stops_the_peer);
    TEST(connecting_fails_with_words);
    TEST(requests_cannot_be_split);
    TEST(an_early_answer_arrives);
    TEST(talks_to_our_server);
    TEST(resolves_names);
    TEST(talks_over_unix_sockets);
    TEST(talks_tls_and_checks_names);
    TEST(resumes_tls_sessions);
    TEST(checks_the_name_it_is_told);
    event_base_free(loop);
    return TEST_RESULT();
}
