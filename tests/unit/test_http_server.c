/* The HTTP server over real loopback sockets: answers, pipelining, uploads, limits, deadlines, back-pressure, aborts,
 * drain. The peers are raw sockets, so that they can be as rude as they like.
 * links: spw_base */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "allocations.h"
#include "base/http_server.h"
#include "http_peer.h"
#include "test.h"

static struct event_base *loop;
static struct {
    int heads, requests, aborts, drained, drains_done;
    struct http_exchange *held; /* of "/hold" */
    size_t streamed, stream_max;
    size_t pending_peak;
    size_t body_len;
    char body[256];
} seen;

static void on_abort(struct http_exchange *x, void *state)
{
    (void)state;
    seen.aborts++;
    if (seen.held == x)
        seen.held = NULL;
}

static void stream_more(struct http_exchange *x, void *state)
{
    static const char block[16384] = {'x'};
    (void)state;
    while (seen.streamed < seen.stream_max) {
        http_reply_write(x, block, sizeof(block));
        seen.streamed += sizeof(block);
        size_t pending = http_reply_pending(x);
        if (pending > seen.pending_peak)
            seen.pending_peak = pending;
        if (pending > 65536) {
            http_reply_on_drain(x, 16384, stream_more);
            return;
        }
    }
    http_reply_end(x);
}

static char fat[4 << 20]; /* more than two sockets' buffers take */

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    static const struct http_header text[] = {{"Content-Type", "text/plain"}, {"Content-Length", "999"}};
    seen.requests++;
    http_exchange_set(x, NULL, on_abort);
    const char *body = http_request_body(x, &seen.body_len);
    snprintf(seen.body, sizeof(seen.body), "%s", body);
    if (http_request_path_is(x, "/hold")) {
        seen.held = x;
    } else if (http_request_path_is(x, "/echo")) {
        http_reply(x, 200, text, 2, body, seen.body_len);
    } else if (http_request_path_is(x, "/stream")) {
        http_reply_start(x, 200, text, 2);
        http_reply_write(x, "one", 3);
        http_reply_write(x, "", 0);
        http_reply_write(x, "two", 3);
        http_reply_end(x);
    } else if (http_request_path_is(x, "/cut")) {
        http_reply_start(x, 200, text, 2);
        http_reply_write(x, "half", 4);
        http_reply_abort(x);
    } else if (http_request_path_is(x, "/big")) {
        seen.streamed = seen.pending_peak = 0;
        http_reply_start(x, 200, text, 2);
        stream_more(x, NULL);
    } else if (http_request_path_is(x, "/fat")) {
        http_reply(x, 200, text, 1, fat, sizeof(fat));
    } else if (http_request_path_is(x, "/empty")) {
        http_reply(x, 204, NULL, 0, NULL, 0);
    } else if (http_request_path_is(x, "/query")) {
        const char *v = http_request_query(x, "name");
        http_reply(x, v ? 200 : 404, text, 1, v ? v : "none", v ? strlen(v) : 4);
    } else if (http_request_path_is(x, "/form")) {
        const char *v = http_request_form(x, "name");
        http_reply(x, v ? 200 : 404, text, 1, v ? v : "none", v ? strlen(v) : 4);
    } else {
        http_reply(x, 200, text, 2, "hello", 5);
    }
}

static struct http_server *start_with(const char *address, const struct http_server_options *o,
                                      const struct http_server_handlers *h)
{
    struct http_server *s = NULL;
    struct error e;
    memset(&seen, 0, sizeof(seen));
    if (http_server_new(&s, loop, address, o, h, NULL, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return s;
}
static struct http_server *start_on(const char *address, const struct http_server_options *o)
{
    static const struct http_server_handlers h = {.on_request = on_request};
    return start_with(address, o, &h);
}
static struct http_server *start(const struct http_server_options *o)
{
    return start_on("127.0.0.1:0", o);
}

/* Send, read until `until`, compare nothing: the caller looks into buf. */
static char buf[1 << 20];
static int talk(struct http_server *s, const char *request, const char *until, bool *closed)
{
    int fd = peer_connect(http_server_port(s));
    buf[0] = '\0';
    peer_send(loop, fd, request);
    CHECK(peer_read(loop, fd, buf, sizeof(buf), until, closed, 3000));
    return fd;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"

static void answers_and_keeps_the_connection(void)
{
    struct http_server *s = start(NULL);
    int fd = talk(s, GET("/"), "hello", NULL);
    CHECK(strncmp(buf, "HTTP/1.1 200 OK\r\nDate: ", 23) == 0);
    CHECK(strstr(buf, "Content-Length: 5\r\n") && count(buf, "Content-Length") == 1);
    CHECK(!strstr(buf, "Connection:"));
    buf[0] = '\0';
    peer_send(loop, fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab\ncd");
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "ab\nc", NULL, 3000));
    CHECK_INT(http_server_stats(s).open_connections, 1);
    CHECK_INT(http_server_stats(s).refused_framing, 0);
    close(fd);
    http_server_free(s);
}

static void streams_in_chunks(void)
{
    struct http_server *s = start(NULL);
    int fd = talk(s, GET("/stream"), "0\r\n\r\n", NULL);
    CHECK(strstr(buf, "Transfer-Encoding: chunked\r\n") && !strstr(buf, "Content-Length"));
    CHECK(strstr(buf, "\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"));
    CHECK_INT(http_server_stats(s).writes, 1); /* head, two pieces and the end, written in one turn */
    close(fd);
    bool closed;
    fd = talk(s, "GET /stream HTTP/1.0\r\n\r\n", NULL, &closed); /* HTTP/1.0 knows no chunks: the close ends it */
    CHECK(closed && strstr(buf, "Connection: close\r\n") && strstr(buf, "\r\n\r\nonetwo"));
    close(fd);
    fd = talk(s, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "hello", &closed);
    CHECK(!closed && strstr(buf, "Connection: keep-alive\r\n"));
    close(fd);
    http_server_free(s);
}

/* Of pieces that each leave before the next one comes, as tokens with their log probabilities do. */
static void a_stream_allocates_nothing(void)
{
    static char piece[4000];
    struct http_server *s = start(NULL);
    int fd = peer_connect(http_server_port(s));
    long before = 0;
    memset(piece, 'p', sizeof(piece));
    peer_send(loop, fd, GET("/hold"));
    CHECK(peer_wait(loop, &seen.requests, 1, 2000));
    http_reply_start(seen.held, 200, NULL, 0);
    for (int i = 0; i < 50; i++) {
        if (i == 5)
            before = allocations;
        http_reply_write(seen.held, piece, sizeof(piece));
        buf[0] = '\0';
        CHECK(peer_read(loop, fd, buf, sizeof(buf), "p\r\n", NULL, 3000));
    }
    CHECK_INT(allocations - before, 0);
    http_reply_end(seen.held);
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "0\r\n\r\n", NULL, 3000));
    close(fd);
    http_server_free(s);
}

static void head_and_204_have_no_body(void)
{
    struct http_server *s = start(NULL);
    int fd = talk(s, "HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n" GET("/empty") GET("/"), "hello", NULL);
    CHECK_INT(count(buf, "HTTP/1.1 "), 3);
    CHECK(strstr(buf, "HTTP/1.1 204 No Content\r\n"));
    CHECK_INT(count(buf, "Content-Length"), 2);
    close(fd);
    fd = talk(s, "HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n" GET("/"), "hello", NULL);
    CHECK(!strstr(buf, "one"));
    close(fd);
    http_server_free(s);
}

static void pipelines_in_order(void)
{
    struct http_server *s = start(NULL);
    char many[64 * 100] = "";
    for (int i = 0; i < 100; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many),
                 "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d", i);
    int fd = talk(s, many, "\r\n\r\n099", NULL);
    const char *at = buf;
    for (int i = 0; i < 100; i++) {
        char want[16];
        snprintf(want, sizeof(want), "\r\n\r\n%03d", i);
        at = at ? strstr(at, want) : NULL;
    }
    CHECK(at);
    /* One exchange at a time: the request behind a held one waits. */
    buf[0] = '\0';
    peer_send(loop, fd, GET("/hold") GET("/"));
    CHECK(peer_wait(loop, &seen.requests, 101, 2000));
    peer_run_ms(loop, 30);
    CHECK_INT(seen.requests, 101);
    http_reply(seen.held, 200, NULL, 0, "held", 4);
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "hello", NULL, 2000));
    CHECK(strstr(buf, "held") && strstr(buf, "held") < strstr(buf, "hello"));
    CHECK_INT(http_server_stats(s).active_exchanges, 0);
    close(fd);
    http_server_free(s);
}

static void takes_chunked_uploads(void)
{
    struct http_server *s = start(NULL);
    int fd = peer_connect(http_server_port(s));
    const char *request = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                          "5\r\nhello\r\n1;x=y\r\n \r\n005\r\nworld\r\n0\r\n\r\n" GET("/");
    buf[0] = '\0';
    for (const char *p = request; *p; p++) {
        peer_send_n(loop, fd, p, 1);
        event_base_loop(loop, EVLOOP_NONBLOCK);
    }
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "\r\n\r\nhello world", NULL, 2000));
    CHECK(peer_wait(loop, &seen.requests, 2, 2000)); /* what follows the last chunk is the next request */
    close(fd);
    http_server_free(s);
}

static void asks_for_the_body_with_100_continue(void)
{
    struct http_server *s = start(NULL);
    int fd = talk(s, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
                  "HTTP/1.1 100 Continue\r\n\r\n", NULL);
    CHECK_INT(seen.requests, 0);
    peer_send(loop, fd, "body");
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "\r\n\r\nbody", NULL, 2000));
    close(fd);
    bool closed; /* refused by its length: no leave to send */
    struct http_server_options small = {.limits.body_bytes_max = 10};
    struct http_server *t = start(&small);
    fd = talk(t, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n", NULL, &closed);
    CHECK(closed && strstr(buf, "HTTP/1.1 413 ") && !strstr(buf, "100 Continue"));
    close(fd);
    http_server_free(t);
    http_server_free(s);
}

static void refuses_and_closes(void)
{
    static const struct {
        const char *request, *status;
    } cases[] = {
        {"GET / HTTP/1.1\n\n", "400"},
        {"GET / HTTP/1.1\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", "413"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "413"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501"},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
        {"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", "417"},
    };
    struct http_server_options o = {.limits = {.head_bytes_max = 1000, .headers_max = 5, .body_bytes_max = 100}};
    struct http_server *s = start(&o);
    bool closed;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = talk(s, cases[i].request, NULL, &closed);
        CHECK(closed);
        CHECK(strncmp(buf + 9, cases[i].status, 3) == 0);
        CHECK(strstr(buf, "{\"error\":{\"message\":\"") && strstr(buf, "\"type\":\"invalid_request_error\""));
        CHECK(strstr(buf, "Connection: close\r\n") && strstr(buf, "application/json"));
        close(fd);
    }
    char big[3000] = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    memset(big + strlen(big), 'x', 2000);
    int fd = talk(s, big, NULL, &closed);
    CHECK(closed && strncmp(buf + 9, "431", 3) == 0);
    close(fd);
    memset(big, 0, sizeof(big));
    memset(big, 'G', 2000);
    fd = talk(s, big, NULL, &closed);
    CHECK(closed && strncmp(buf + 9, "414", 3) == 0);
    close(fd);
    fd = talk(s, "GET / HTTP/1.1\r\nHost: a\r\n1: 1\r\n2: 2\r\n3: 3\r\n4: 4\r\n5: 5\r\n\r\n", NULL, &closed);
    CHECK(closed && strncmp(buf + 9, "431", 3) == 0);
    close(fd);
    CHECK_INT(seen.requests, 0);
    peer_run_ms(loop, 20);
    CHECK_INT(http_server_stats(s).open_connections, 0);
    CHECK_INT(http_server_stats(s).refused_framing, 12);
    http_server_free(s);
}

/* A refusal must arrive even though the client is still sending: no reset may overtake it. */
static void a_refusal_survives_the_upload(void)
{
    struct http_server_options o = {.limits.body_bytes_max = 1000};
    struct http_server *s = start(&o);
    int fd = peer_connect(http_server_port(s));
    static char mass[4 << 20];
    bool closed;
    memset(mass, 'z', sizeof(mass));
    peer_send(loop, fd, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n");
    size_t sent = 0;
    int64_t end = peer_ms() + 60000;
    while (sent < sizeof(mass) && peer_ms() < end) {
        ssize_t n = send(fd, mass + sent, sizeof(mass) - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            break;
        sent += n > 0 ? (size_t)n : 0;
        peer_pump(loop);
    }
    CHECK_INT(sent, sizeof(mass)); /* a reset would have ended the upload */
    buf[0] = '\0';
    peer_read(loop, fd, buf, sizeof(buf), NULL, &closed, 500);
    CHECK(strstr(buf, "HTTP/1.1 413 ") && strstr(buf, "too large"));
    CHECK(closed);
    close(fd);
    peer_run_ms(loop, 20);
    CHECK_INT(http_server_stats(s).open_connections, 0);
    http_server_free(s);
}

static void slow_heads_and_bodies_are_timed_out(void)
{
    struct http_server_options o = {.head_ms = 120, .body_ms = 120, .idle_ms = 400};
    struct http_server *s = start(&o);
    static const char *const starts[] = {"GET / HTTP/1.1\r\nHost: a\r\n",
                                         "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\nabc"};
    for (int i = 0; i < 2; i++) {
        int fd = peer_connect(http_server_port(s));
        int64_t begin = peer_ms();
        bool closed = false;
        buf[0] = '\0';
        peer_send(loop, fd, starts[i]);
        /* Bytes that keep trickling in do not move the deadline. */
        while (!closed && peer_ms() < begin + 60000) {
            peer_send(loop, fd, i ? "x" : "X: y\r\n");
            peer_read(loop, fd, buf, sizeof(buf), NULL, &closed, 20);
        }
        int64_t took = peer_ms() - begin;
        CHECK(closed && strstr(buf, "HTTP/1.1 408 "));
        CHECK(took >= 100);
        close(fd);
    }
    CHECK_INT(http_server_stats(s).timed_out, 2);
    int fd = talk(s, GET("/"), "hello", NULL); /* idle keep-alive ends without a word */
    bool closed;
    buf[0] = '\0';
    int64_t begin = peer_ms();
    CHECK(peer_read(loop, fd, buf, sizeof(buf), NULL, &closed, 5000));
    CHECK(closed && !*buf && peer_ms() - begin >= 350);
    close(fd);
    http_server_free(s);
}

static void a_client_that_leaves_aborts_its_exchange(void)
{
    struct http_server *s = start(NULL);
    int fd = peer_connect(http_server_port(s));
    peer_send(loop, fd, GET("/hold"));
    CHECK(peer_wait(loop, &seen.requests, 1, 2000) && seen.held);
    close(fd);
    CHECK(peer_wait(loop, &seen.aborts, 1, 2000));
    CHECK_INT(http_server_stats(s).open_connections, 0);
    CHECK_INT(http_server_stats(s).active_exchanges, 0);
    CHECK_INT(http_server_stats(s).aborted, 1);
    fd = peer_connect(http_server_port(s)); /* and freeing the server does too */
    peer_send(loop, fd, GET("/hold"));
    CHECK(peer_wait(loop, &seen.requests, 2, 2000));
    http_server_free(s);
    CHECK_INT(seen.aborts, 2);
    close(fd);
}

/* Nor does one keep its node busy that sent more than is held of it, and so is not read when it leaves: neither with a
 * farewell nor with a reset. One that stays is not taken for gone. */
static void a_client_that_is_not_read_leaves(void)
{
    static char mass[100 << 10]; /* a part is held, the rest stands in the socket, a farewell behind it */
    struct http_server *s = start(NULL);
    memset(mass, 'x', sizeof(mass));
    for (int i = 0; i < 2; i++) {
        int fd = peer_connect(http_server_port(s));
        peer_send(loop, fd, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        CHECK(peer_wait(loop, &seen.requests, i + 1, 2000));
        peer_send_n(loop, fd, mass, sizeof(mass));
        peer_run_ms(loop, 150);
        CHECK_INT(seen.aborts, i);
        struct linger hard = {.l_onoff = i};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
        close(fd);
        CHECK(peer_wait(loop, &seen.aborts, i + 1, 2000));
    }
    CHECK_INT(http_server_stats(s).open_connections, 0);
    http_server_free(s);
}

/* Without a descriptor for who has come, and without a connection of its own that could give one back: he is heard when
 * there is one again, whoever gave it. */
static void out_of_descriptors(void)
{
    struct http_server *s = start(NULL);
    int fd = peer_connect(http_server_port(s)), taken[64], n = 0;
    struct rlimit before, few;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    few = (struct rlimit){.rlim_cur = (rlim_t)fd + 8, .rlim_max = before.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    while (n < 64 && (taken[n] = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0)
        n++;
    CHECK(n < 64);
    peer_send(loop, fd, GET("/"));
    peer_run_ms(loop, 50);
    CHECK_INT(seen.requests, 0);
    while (n > 0)
        close(taken[--n]);
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
    buf[0] = '\0';
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "hello", NULL, 3000));
    close(fd);
    http_server_free(s);
}

static void a_cut_answer_has_no_proper_end(void)
{
    struct http_server *s = start(NULL);
    bool closed;
    int fd = talk(s, GET("/cut"), NULL, &closed);
    CHECK(closed && strstr(buf, "4\r\nhalf\r\n") && !strstr(buf, "0\r\n\r\n"));
    close(fd);
    fd = peer_connect(http_server_port(s));
    peer_send(loop, fd, "GET /cut HTTP/1.0\r\n\r\n");
    ssize_t n;
    char small[1000];
    do { /* delimited by the close: only a reset can tell */
        n = recv(fd, small, sizeof(small), 0);
        peer_pump(loop);
    } while (n > 0 || (n < 0 && errno == EAGAIN));
    CHECK(n < 0 && errno == ECONNRESET);
    CHECK_INT(seen.aborts, 0);
    close(fd);
    http_server_free(s);
}

static void a_slow_reader_holds_the_source_back(void)
{
    struct http_server_options o = {.write_ms = 1500};
    struct http_server *s = start(&o);
    int fd = peer_connect(http_server_port(s));
    seen.stream_max = 64 << 20;
    peer_send(loop, fd, GET("/big"));
    peer_run_ms(loop, 150);
    size_t stuck = seen.streamed;
    CHECK(stuck > 0 && stuck < seen.stream_max);
    CHECK(seen.pending_peak < 65536 + 2 * 16384);
    size_t total = 0; /* reading lets it go on to the end */
    static char sink[1 << 20];
    int64_t end = peer_ms() + 20000;
    while (total < seen.stream_max && peer_ms() < end) {
        ssize_t n = recv(fd, sink, sizeof(sink), 0);
        if (n > 0)
            total += (size_t)n;
        event_base_loop(loop, EVLOOP_NONBLOCK);
    }
    CHECK(total >= seen.stream_max && seen.streamed == seen.stream_max);
    CHECK(seen.pending_peak < 65536 + 2 * 16384);
    CHECK_INT(seen.aborts, 0);
    close(fd);

    fd = peer_connect(http_server_port(s)); /* not reading at all: cut off after write_ms */
    peer_send(loop, fd, GET("/big"));
    int64_t begin = peer_ms();
    CHECK(peer_wait(loop, &seen.aborts, 1, 6000));
    CHECK(peer_ms() - begin >= 1400);
    CHECK_INT(http_server_stats(s).timed_out, 1);
    close(fd);
    http_server_free(s);
}

static void bounds_connections_and_memory(void)
{
    struct http_server_options o = {.connections_max = 2, .retained_bytes_max = 300000};
    struct http_server *s = start(&o);
    int a = talk(s, GET("/"), "hello", NULL), b = talk(s, GET("/"), "hello", NULL);
    bool closed;
    int c = talk(s, "", NULL, &closed);
    const char *body = strstr(buf, "\r\n\r\n");
    CHECK(closed && strstr(buf, "HTTP/1.1 503 ") && body);
    CHECK_INT(strlen(body ? body + 4 : ""), strtol(strstr(buf, "Content-Length: ") + 16, NULL, 10));
    close(c);
    static char mass[200000];
    memset(mass, 'm', sizeof(mass));
    for (int i = 0; i < 2; i++) {
        peer_send(loop, i ? b : a, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 200001\r\n\r\n");
        peer_send_n(loop, i ? b : a, mass, sizeof(mass));
        peer_run_ms(loop, 20);
    }
    buf[0] = '\0';
    CHECK(peer_read(loop, b, buf, sizeof(buf), "HTTP/1.1 503 ", NULL, 2000));
    close(b);
    buf[0] = '\0';
    peer_send(loop, a, "m"); /* the first is whole and is served */
    CHECK(peer_wait(loop, &seen.requests, 3, 2000));
    CHECK_INT(seen.body_len, 200001);
    CHECK_INT(http_server_stats(s).refused_full, 2);
    close(a);
    CHECK(peer_wait(loop, &seen.aborts, 1, 2000));
    http_server_free(s);
}

/* Answers that nobody reads are held, too: of those who ask for them again and again only so many get one. Whoever
 * goes, or reads what he was given, makes room. */
static void bounds_unread_answers(void)
{
    struct http_server_options o = {.retained_bytes_max = 3 * sizeof(fat)};
    struct http_server *s = start(&o);
    int fds[8], small = 4096;
    for (int i = 0; i < 8; i++) {
        fds[i] = peer_connect(http_server_port(s));
        setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
        peer_send(loop, fds[i], GET("/fat"));
        int64_t end = peer_ms() + 3000;
        while (seen.requests + (int)http_server_stats(s).refused_full <= i && peer_ms() < end)
            peer_pump(loop);
    }
    CHECK(seen.requests > 0 && seen.requests < 5);
    CHECK_INT(http_server_stats(s).refused_full, 8 - seen.requests);
    for (int i = 0; i < 8; i++)
        close(fds[i]);
    peer_run_ms(loop, 50);
    close(talk(s, GET("/"), "hello", NULL));
    http_server_free(s);
}

static void on_head(struct http_exchange *x, void *arg)
{
    (void)arg;
    seen.heads++;
    CHECK_STR(http_request_head(x)->method, "POST");
    if (!http_head_get(http_request_head(x), "Authorization"))
        http_reply(x, 401, NULL, 0, "who?", 4);
}

/* A stranger's body is not held, not even asked for, and what stands in it or behind it is no request. */
static void strangers_are_refused_at_the_head(void)
{
    static const struct http_server_handlers h = {.on_request = on_request, .on_head = on_head};
    struct http_server *s = start_with("127.0.0.1:0", NULL, &h);
    static const char *const strange[] = {
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n" GET("/") GET("/"),
    };
    bool closed;
    for (int i = 0; i < 5; i++) {
        close(talk(s, strange[i], NULL, &closed));
        CHECK(closed && strncmp(buf, "HTTP/1.1 401 ", 13) == 0 && count(buf, "HTTP/1.1") == 1);
        CHECK(strstr(buf, "Connection: close\r\n") && strstr(buf, "who?"));
    }
    CHECK_INT(seen.heads, 5);
    CHECK_INT(http_server_stats(s).active_exchanges, 0);
    int fd = talk(s, GET("/"), "hello", NULL); /* without a body there is nothing to refuse early */
    CHECK_INT(seen.heads, 5);
    CHECK_INT(seen.requests, 1);
    close(fd); /* nor with one that is here already: whoever answers the request sees the head as well */
    fd = talk(s, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nwhole", "whole", NULL);
    CHECK_INT(seen.heads, 5);
    CHECK_INT(seen.requests, 2);
    buf[0] = '\0';
    peer_send(loop, fd,
              "POST /echo HTTP/1.1\r\nHost: a\r\nAuthorization: me\r\nExpect: 100-continue\r\n"
              "Content-Length: 4\r\n\r\n");
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "100 Continue\r\n\r\n", NULL, 3000));
    peer_send(loop, fd, "body");
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "\r\n\r\nbody", NULL, 3000));
    CHECK(!strstr(buf, "Connection:"));
    CHECK_INT(seen.heads, 6);
    CHECK_INT(seen.requests, 3);
    close(fd);
    http_server_free(s);
}

static void drained_cb(void *arg)
{
    http_server_free(*(struct http_server **)arg);
    *(struct http_server **)arg = NULL;
    seen.drained++;
}

static void drains(void)
{
    struct http_server *s = start(NULL);
    int port = http_server_port(s);
    int idle = talk(s, GET("/"), "hello", NULL);
    int held = peer_connect(port);
    peer_send(loop, held, GET("/hold") GET("/"));
    CHECK(peer_wait(loop, &seen.requests, 2, 2000));
    http_server_drain(s, drained_cb, &s);
    bool closed;
    buf[0] = '\0';
    CHECK(peer_read(loop, idle, buf, sizeof(buf), NULL, &closed, 1000) && closed);
    CHECK_INT(seen.drained, 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0);
    close(fd);
    http_reply(seen.held, 200, NULL, 0, "last", 4);
    buf[0] = '\0';
    CHECK(peer_read(loop, held, buf, sizeof(buf), NULL, &closed, 1000));
    CHECK(closed && strstr(buf, "Connection: close\r\n") && strstr(buf, "last") && count(buf, "HTTP/1.1") == 1);
    CHECK(peer_wait(loop, &seen.drained, 1, 1000) && !s);
    close(idle);
    close(held);
    s = start(NULL);
    http_server_drain(s, drained_cb, &s); /* nothing to wait for */
    CHECK(peer_wait(loop, &seen.drained, 1, 1000) && !s);
}

static void listens_on_unix_sockets(void)
{
    char path[64], address[80];
    snprintf(path, sizeof(path), "/tmp/spw-test-%d.sock", (int)getpid());
    snprintf(address, sizeof(address), "unix:%s", path);
    unlink(path);
    struct http_server *s = start_on(address, NULL), *t = NULL;
    struct stat st;
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0660);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    buf[0] = '\0';
    peer_send(loop, fd, GET("/"));
    CHECK(peer_read(loop, fd, buf, sizeof(buf), "hello", NULL, 1000));
    close(fd);
    static const struct http_server_handlers h = {.on_request = on_request};
    struct error e;
    CHECK_INT(http_server_new(&t, loop, address, NULL, &h, NULL, &e), RC_CONFLICT);
    http_server_free(s);
    CHECK(stat(path, &st) != 0);
    fd = socket(AF_UNIX, SOCK_STREAM, 0); /* left over from a crash */
    CHECK(bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
    close(fd);
    CHECK_INT(http_server_new(&t, loop, address, NULL, &h, NULL, &e), RC_OK);
    http_server_free(t);
    static const char *const bad[] = {"", "8080", "::1:80", "127.0.0.1:", "127.0.0.1:70000", "fd:0x", "unix:", "fd:0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK(http_server_new(&t, loop, bad[i], NULL, &h, NULL, &e) == RC_INVALID);
}

static void adopts_sockets(void)
{
    struct http_server *s = start(NULL);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    peer_send(loop, pair[0], "Host: a\r\n\r\n");
    http_server_adopt(s, pair[1], "GET / HTTP/1.1\r\n", 16);
    buf[0] = '\0';
    CHECK(peer_read(loop, pair[0], buf, sizeof(buf), "hello", NULL, 1000));
    close(pair[0]);
    http_server_free(s);
    int port, fd = peer_listen(&port);
    char address[16];
    snprintf(address, sizeof(address), "fd:%d", fd);
    s = start_on(address, NULL);
    CHECK_INT(http_server_port(s), port);
    close(talk(s, GET("/"), "hello", NULL));
    http_server_free(s);
}

static struct {
    int fds[8], taken, empties;
    char read[64];
    size_t n_read;
} gone;

static void take(int fd, const void *read, size_t n, void *arg)
{
    (void)arg;
    gone.fds[gone.taken++] = fd;
    gone.n_read = n;
    snprintf(gone.read, sizeof(gone.read), "%.*s", (int)n, (const char *)read);
}
static void emptied(void *arg)
{
    (void)arg;
    gone.empties++;
}

/* Idle connections go at once, one in the middle of a request when it's answered, with what it has sent of the next;
 * the rest of that is still in its socket. A server that takes no more leaves new ones in the queue. */
static void lets_go_of_connections(void)
{
    static const struct http_letting_go go = {take, emptied, NULL}, keep = {0};
    struct http_server *s = start(NULL), *other = NULL;
    memset(&gone, 0, sizeof(gone));
    int idle = talk(s, GET("/"), "hello", NULL), busy = peer_connect(http_server_port(s));
    peer_send(loop, busy, GET("/hold"));
    CHECK(peer_wait(loop, &seen.requests, 2, 1000));
    http_server_accepting(s, HTTP_LEAVE);
    http_server_let_go(s, &go);
    CHECK_INT(gone.taken, 0); /* not from inside */
    CHECK(peer_wait(loop, &gone.taken, 1, 1000));
    CHECK_INT(gone.n_read, 0);
    int late = peer_connect(http_server_port(s));
    peer_send(loop, late, GET("/"));
    peer_send(loop, busy, "GET /echo HTTP/1.1\r\n");
    peer_run_ms(loop, 20);
    CHECK_INT(seen.requests, 2);
    CHECK_INT(gone.empties, 0);
    http_reply(seen.held, 200, NULL, 0, "held", 4);
    buf[0] = '\0';
    CHECK(peer_read(loop, busy, buf, sizeof(buf), "held", NULL, 1000));
    CHECK(peer_wait(loop, &gone.empties, 1, 1000));
    CHECK_INT(gone.taken, 2);
    CHECK_STR(gone.read, "GET /echo HTTP/1.1\r\n");
    CHECK_INT(http_server_stats(s).open_connections, 0);
    /* All three are served by another one, and by this one when it takes again. */
    struct error e;
    static const struct http_server_handlers h = {.on_request = on_request};
    CHECK_INT(http_server_new(&other, loop, "127.0.0.1:0", NULL, &h, NULL, &e), RC_OK);
    http_server_adopt(other, gone.fds[0], "", 0);
    http_server_adopt(other, gone.fds[1], gone.read, gone.n_read);
    peer_send(loop, idle, GET("/"));
    peer_send(loop, busy, "Host: a\r\nContent-Length: 4\r\n\r\nmore");
    buf[0] = '\0';
    CHECK(peer_read(loop, idle, buf, sizeof(buf), "hello", NULL, 1000));
    buf[0] = '\0';
    CHECK(peer_read(loop, busy, buf, sizeof(buf), "more", NULL, 1000));
    http_server_let_go(s, &keep);
    http_server_accepting(s, HTTP_ACCEPT);
    buf[0] = '\0';
    CHECK(peer_read(loop, late, buf, sizeof(buf), "hello", NULL, 1000));
    CHECK_INT(gone.taken, 2);
    close(idle);
    close(busy);
    close(late);
    http_server_free(other);
    http_server_free(s);
}

static void decodes_the_query(void)
{
    static const struct {
        const char *target, *want;
    } cases[] = {
        {"/query?name=a", "a"},    {"/query?x=1&name=%41+%7a&y", "A z"},
        {"/query?name", ""},       {"/query?name=", ""},
        {"/query?names=3", NULL},  {"/query", NULL},
        {"/query?name=%", NULL},   {"/query?name=%4", NULL},
        {"/query?name=%00", NULL}, {"/query?name=%zz", NULL},
        {"/query?name=%20", " "},  {"http://a/query?name=abs", "abs"},
    };
    struct http_server *s = start(NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char request[200], want[64];
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", cases[i].target);
        snprintf(want, sizeof(want), "\r\n\r\n%s", cases[i].want ? cases[i].want : "none");
        bool closed;
        close(talk(s, request, NULL, &closed));
        const char *body = strstr(buf, "\r\n\r\n");
        CHECK(closed);
        CHECK_STR(body, want);
        CHECK(strstr(buf, cases[i].want ? "HTTP/1.1 200" : "HTTP/1.1 404"));
    }
    http_server_free(s);
}

static void decodes_a_form(void)
{
#define FORM "application/x-www-form-urlencoded"
    static const struct {
        const char *type, *body, *want;
    } cases[] = {
        {FORM, "x=1&name=%2Ba+b", "+a b"},
        {FORM "; charset=utf-8", "name=c", "c"},
        {FORM, "name=", ""},
        {FORM, "names=3", NULL},
        {FORM, "", NULL},
        {FORM, "name=%4", NULL},
        {FORM "x", "name=a", NULL},
        {"text/plain", "name=a", NULL},
        {FORM, "a&&name=d&", "d"},
    };
    struct http_server *s = start(NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char request[300], want[64];
        snprintf(request, sizeof(request),
                 "POST /form?name=no HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: %s\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 cases[i].type, strlen(cases[i].body), cases[i].body);
        snprintf(want, sizeof(want), "\r\n\r\n%s", cases[i].want ? cases[i].want : "none");
        bool closed;
        close(talk(s, request, NULL, &closed));
        CHECK_STR(strstr(buf, "\r\n\r\n"), want);
    }
    http_server_free(s);
#undef FORM
}

/* A client that pipelines more than is held stops being read, and goes on once answers leave. */
static void bounds_the_pipeline(void)
{
    struct http_server *s = start(NULL);
    int fd = peer_connect(http_server_port(s));
    peer_send(loop, fd, GET("/hold"));
    CHECK(peer_wait(loop, &seen.requests, 1, 2000));
    int sent = 0;
    size_t pushed = 0;
    for (int idle = 0; idle < 50;) {
        ssize_t n = send(fd, &GET("/")[pushed], sizeof(GET("/")) - 1 - pushed, MSG_NOSIGNAL);
        if (n > 0) {
            pushed += (size_t)n;
            idle = 0;
            if (pushed == sizeof(GET("/")) - 1) {
                sent++;
                pushed = 0;
            }
        } else {
            idle++;
            peer_pump(loop);
        }
    }
    CHECK(sent > 1000);
    http_reply(seen.held, 200, NULL, 0, NULL, 0);
    int64_t end = peer_ms() + 20000;
    while (seen.requests < sent + 1 && peer_ms() < end) {
        static char sink[1 << 16];
        while (recv(fd, sink, sizeof(sink), 0) > 0)
            continue;
        event_base_loop(loop, EVLOOP_NONBLOCK);
    }
    CHECK_INT(seen.requests, sent + 1);
    close(fd);
    http_server_free(s);
}

int main(void)
{
    loop = event_base_new();
    TEST(answers_and_keeps_the_connection);
    TEST(streams_in_chunks);
    TEST(a_stream_allocates_nothing);
    TEST(head_and_204_have_no_body);
    TEST(pipelines_in_order);
    TEST(takes_chunked_uploads);
    TEST(asks_for_the_body_with_100_continue);
    TEST(refuses_and_closes);
    TEST(a_refusal_survives_the_upload);
    TEST(slow_heads_and_bodies_are_timed_out);
    TEST(a_client_that_leaves_aborts_its_exchange);
    TEST(a_client_that_is_not_read_leaves);
    TEST(out_of_descriptors);
    TEST(a_cut_answer_has_no_proper_end);
    TEST(a_slow_reader_holds_the_source_back);
    TEST(bounds_connections_and_memory);
    TEST(bounds_unread_answers);
    TEST(strangers_are_refused_at_the_head);
    TEST(bounds_the_pipeline);
    TEST(drains);
    TEST(listens_on_unix_sockets);
    TEST(adopts_sockets);
    TEST(lets_go_of_connections);
    TEST(decodes_the_query);
    TEST(decodes_a_form);
    event_base_free(loop);
    return TEST_RESULT();
}
