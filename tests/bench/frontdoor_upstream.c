/* The upstream of frontdoor.py: answers chat requests as fast as it can, so that what is measured is the proxy. No part
 * of the product.
 *
 *   frontdoor_upstream PORT
 *
 * A request without "stream":true gets a small JSON body with usage. A stream gets "max_tokens" frames, at once in one
 * write, or one each "bench_interval_us" (all streams of one run have the same interval: the queue depends on it); the
 * content of each frame is the monotonic time at which it was sent. Then come the finish frame, the usage if
 * "include_usage" is asked for, and [DONE]. GET answers 200 (health, models).
 *
 * Plain epoll with our parser and not our server: it shares its core with the load, and should be the least of both.
 * links: spw_base */
#include "tests/bench/frontdoor_common.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "base/alloc.h"
#include "base/http_parse.h"

#define BODY_MAX   ((size_t)4 << 20)
#define FRAMES_MAX 100000
#define READ_BYTES 65536

struct conn {
    int fd;
    struct http_parser *parser;
    char *body; /* of the request */
    size_t body_len, body_cap;
    char *out; /* not yet taken by the kernel */
    size_t out_len, out_off, out_cap;
    bool waits_out;
    int frames_left; /* > 0: in the queue of streams */
    bool usage;
    int64_t due, interval;
    TAILQ_ENTRY(conn) entry;
};

static int epoll;
static TAILQ_HEAD(, conn) streams = TAILQ_HEAD_INITIALIZER(streams);
static char read_buffer[READ_BYTES];

#define JSON_BODY                                                                                                      \
    "{\"id\":\"cmpl-bench\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,"   \
    "\"message\":{\"role\":\"assistant\",\"content\":\"Hello there, world!\"},\"finish_reason\":\"stop\"}],"           \
    "\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":5,\"total_tokens\":29}}"
#define CHUNK_BEGIN "data: {\"id\":\"cmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\","
#define FINISH      CHUNK_BEGIN "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define USAGE                                                                                                          \
    CHUNK_BEGIN "\"choices\":[],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":8,\"total_tokens\":32}}\n\n"
#define STREAM_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

static void out_add(struct conn *c, const char *data, size_t n)
{
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = spw_realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
}

static void out_chunk(struct conn *c, const char *data, size_t n)
{
    char size[24];
    int k = snprintf(size, sizeof(size), "%zx\r\n", n);
    out_add(c, size, (size_t)k);
    out_add(c, data, n);
    out_add(c, "\r\n", 2);
}

static void out_token(struct conn *c)
{
    char frame[512];
    int n = snprintf(frame, sizeof(frame),
                     CHUNK_BEGIN "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"t%lld \"},\"finish_reason\":null}"
                                 "]}\n\n",
                     (long long)now_ns());
    out_chunk(c, frame, (size_t)n);
}

static void out_finish(struct conn *c)
{
    out_chunk(c, FINISH, sizeof(FINISH) - 1);
    if (c->usage)
        out_chunk(c, USAGE, sizeof(USAGE) - 1);
    out_chunk(c, "data: [DONE]\n\n", 14);
    out_add(c, "0\r\n\r\n", 5);
}

static void conn_free(struct conn *c)
{
    if (c->frames_left > 0)
        TAILQ_REMOVE(&streams, c, entry);
    close(c->fd);
    http_parser_free(c->parser);
    free(c->body);
    free(c->out);
    free(c);
}

/* False: the connection is broken. */
static bool conn_flush(struct conn *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return false;
        c->out_off += (size_t)n;
    }
    if (c->out_off == c->out_len)
        c->out_off = c->out_len = 0;
    bool wait = c->out_len > 0;
    if (wait != c->waits_out) {
        struct epoll_event e = {.events = EPOLLIN | (wait ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
        c->waits_out = wait;
        if (epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e) != 0)
            die("epoll_ctl");
    }
    return true;
}

/* The whole number behind `name` in the body, or `otherwise`. */
static int64_t field(const struct conn *c, const char *name, int64_t otherwise)
{
    const char *at = memmem(c->body, c->body_len, name, strlen(name));
    if (!at)
        return otherwise;
    int64_t v = strtoll(at + strlen(name), NULL, 10);
    return v < 0 || v > 1000000000 ? otherwise : v;
}

static bool body_has(const struct conn *c, const char *text)
{
    return memmem(c->body, c->body_len, text, strlen(text)) != NULL;
}

static void answer_json(struct conn *c, const char *body, size_t n)
{
    char head[128];
    int k = snprintf(head, sizeof(head),
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", n);
    out_add(c, head, (size_t)k);
    out_add(c, body, n);
}

static void answer(struct conn *c, const struct http_head *head)
{
    if (strcmp(head->method, "GET") == 0) {
        static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"}]}";
        answer_json(c, models, sizeof(models) - 1);
        return;
    }
    if (!body_has(c, "\"stream\":true") && !body_has(c, "\"stream\": true")) {
        answer_json(c, JSON_BODY, sizeof(JSON_BODY) - 1);
        return;
    }
    int64_t frames = field(c, "\"max_tokens\":", 8);
    c->usage = body_has(c, "\"include_usage\":true") || body_has(c, "\"include_usage\": true");
    c->interval = field(c, "\"bench_interval_us\":", 0) * 1000;
    out_add(c, STREAM_HEAD, sizeof(STREAM_HEAD) - 1);
    if (c->interval > 0 && frames > 0 && frames <= FRAMES_MAX) {
        c->frames_left = (int)frames;
        c->due = now_ns() + c->interval;
        TAILQ_INSERT_TAIL(&streams, c, entry);
        return;
    }
    for (int64_t i = 0; i < frames && i < FRAMES_MAX; i++)
        out_token(c);
    out_finish(c);
}

static bool take_body(struct conn *c, const char *data, size_t n)
{
    if (c->body_len + n > BODY_MAX)
        return false;
    if (c->body_len + n + 1 > c->body_cap) {
        c->body_cap = (c->body_len + n + 1) * 2;
        c->body = spw_realloc(c->body, c->body_cap);
    }
    memcpy(c->body + c->body_len, data, n);
    c->body_len += n;
    c->body[c->body_len] = '\0';
    return true;
}

/* False: the connection is at its end. */
static bool conn_read(struct conn *c)
{
    ssize_t n = recv(c->fd, read_buffer, sizeof(read_buffer), 0);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n <= 0)
        return false;
    size_t off = 0;
    for (;;) {
        size_t used = 0, data_len = 0;
        const char *data = NULL;
        switch (http_parser_feed(c->parser, read_buffer + off, (size_t)n - off, &used, &data, &data_len)) {
        case HTTP_NEED_MORE: return conn_flush(c);
        case HTTP_HEAD:
            if (http_parser_head(c->parser)->expect_continue)
                out_add(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
            break;
        case HTTP_BODY:
            if (!take_body(c, data, data_len))
                return false;
            break;
        case HTTP_END:
            answer(c, http_parser_head(c->parser));
            http_parser_reset(c->parser);
            c->body_len = 0;
            break;
        case HTTP_ERROR: return false;
        }
        off += used;
    }
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        no_delay(fd);
        struct conn *c = spw_calloc(1, sizeof(*c));
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        c->fd = fd;
        c->parser = http_parser_new(HTTP_REQUEST, NULL);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0)
            die("epoll_ctl");
    }
}

/* Send the frames that are due. The queue is in order of due, because all intervals are the same. */
static void streams_advance(void)
{
    int64_t now = now_ns();
    struct conn *c;
    while ((c = TAILQ_FIRST(&streams)) && c->due <= now) {
        TAILQ_REMOVE(&streams, c, entry);
        out_token(c);
        if (--c->frames_left > 0) {
            c->due += c->interval;
            TAILQ_INSERT_TAIL(&streams, c, entry);
        } else {
            out_finish(c);
        }
        if (!conn_flush(c))
            (void)shutdown(c->fd, SHUT_RDWR); /* freed when the loop sees it */
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: frontdoor_upstream PORT\n");
        return 2;
    }
    prepare();
    struct sockaddr_in a = loopback((int)strtol(argv[1], NULL, 10));
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(listener, 4096) != 0)
        die("listen");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e) != 0)
        die("epoll");
    for (;;) {
        struct epoll_event events[256];
        struct conn *first = TAILQ_FIRST(&streams);
        int n = wait_events(epoll, events, 256, first ? first->due : INT64_MAX);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if ((events[i].events & EPOLLOUT && !conn_flush(c)) ||
                     (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !conn_read(c)))
                conn_free(c);
        }
        streams_advance();
    }
}
