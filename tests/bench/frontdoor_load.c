/* The load of frontdoor.py on one thread: every request has another body, so that no cache and no collapsing of equal
 * requests can answer it. No part of the product.
 *
 *   closed   N connections, each with one request under way: the throughput
 *   open     requests at a fixed rate, whatever the answers do; a late start counts as latency. --big-rate mixes in
 *            large prompts
 *   streams  N paced streams at once: the longest pause of each beyond the pause that the upstream made
 *   idle     N connections, one request each; prints "ready" and holds them until its input ends
 *
 * Prints one JSON object. First byte is the first byte of the body, which is the first token. Plain epoll with our
 * parser and not our client: the load shares its core with the upstream. links: spw_base */
#include "tests/bench/frontdoor_common.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "base/alloc.h"
#include "base/args.h"
#include "base/http_parse.h"

#define CONNECTIONS_MAX 15000
#define READ_BYTES      65536
#define LINE_MAX_BYTES  512
#define OPENING_MAX     256 /* requests under way while `idle` opens its connections */
#define FINISH_NS       (5 * NS_S)
#define BEGIN_BYTES     1024

/* ---- a histogram: 64 steps per doubling, so a value is known to 1.6% ----------------------------------------------- */

#define STEPS   64
#define BUCKETS (STEPS * 40)

struct histogram {
    uint64_t count[BUCKETS], n;
    int64_t max;
};

static int bucket_of(int64_t v)
{
    if (v < STEPS)
        return v < 0 ? 0 : (int)v;
    int shift = 63 - __builtin_clzll((unsigned long long)v) - 6;
    int b = (shift + 1) * STEPS + (int)(v >> shift) - STEPS;
    return b < BUCKETS ? b : BUCKETS - 1;
}

/* The largest value that falls into bucket b. */
static int64_t bucket_value(int b)
{
    if (b < STEPS)
        return b;
    int shift = b / STEPS - 1;
    return ((int64_t)(b % STEPS + STEPS + 1) << shift) - 1;
}

static void histogram_add(struct histogram *h, int64_t v)
{
    h->count[bucket_of(v)]++;
    h->n++;
    if (v > h->max)
        h->max = v;
}

static int64_t histogram_at(const struct histogram *h, double q)
{
    uint64_t need = (uint64_t)(q * (double)h->n + 0.999), seen = 0;
    for (int b = 0; b < BUCKETS; b++) {
        seen += h->count[b];
        if (seen >= need && seen > 0)
            return bucket_value(b) < h->max ? bucket_value(b) : h->max;
    }
    return h->max;
}

static void histogram_print(const char *name, const struct histogram *h)
{
    printf(", \"%s\": {\"n\": %llu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}", name,
           (unsigned long long)h->n, (double)histogram_at(h, 0.5) / 1e3, (double)histogram_at(h, 0.9) / 1e3,
           (double)histogram_at(h, 0.99) / 1e3, (double)histogram_at(h, 0.999) / 1e3, (double)h->max / 1e3);
}

/* ---- state ---------------------------------------------------------------------------------------------------------- */

enum size { SMALL, BIG };

struct conn {
    int fd;
    struct http_parser *parser;
    bool busy, first_seen;
    bool refused; /* this answer is a 429 or 503 that is counted */
    enum size size;
    char begin[BEGIN_BYTES];   /* head and the part of the body that differs */
    struct iovec out[3];       /* what is left to write */
    int out_n;                 /* 0: all is written */
    int64_t due;               /* when the request was to start */
    char line[LINE_MAX_BYTES]; /* of a stream, until its line feed */
    size_t line_len;
    int64_t received, sent, gap; /* the last frame, and the largest difference of pauses */
    TAILQ_ENTRY(conn) entry;     /* of `unused` while not busy */
};

static struct load {
    const char *key, *tier;
    bool determined;
    int64_t port, connections, frames, interval_us, big_bytes;
    double seconds, warm, rate, big_rate;
    bool stream, refusals;
    int epoll;
    TAILQ_HEAD(, conn) unused;
    int64_t n_open, under_way, counter, requests, errors, record_from, record_to;
    int64_t good, without_retry_after; /* answers that ended in the measured time */
    char *filler;
    struct histogram first, end, big, gap, late, refused;
    void (*finished)(struct conn *c);
} g = {.connections = 64, .seconds = 2, .warm = 0.3, .frames = 8, .big_bytes = 400000, .rate = 5000};

static char read_buffer[READ_BYTES];

/* ---- connections ---------------------------------------------------------------------------------------------------- */

static void conn_open(struct conn *c)
{
    struct sockaddr_in a = loopback((int)g.port);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof(a)) != 0)
        die("connect");
    no_delay(c->fd);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        die("fcntl");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(g.epoll, EPOLL_CTL_ADD, c->fd, &e) != 0)
        die("epoll_ctl");
    http_parser_reset(c->parser);
}

static struct conn *conn_new(void)
{
    struct http_limits limits = http_limits_default;
    struct conn *c = spw_calloc(1, sizeof(*c));
    limits.body_bytes_max = 0;
    c->parser = http_parser_new(HTTP_RESPONSE, &limits);
    conn_open(c);
    g.n_open++;
    return c;
}

/* One that waits, else a new one, else NULL. */
static struct conn *conn_take(void)
{
    struct conn *c = TAILQ_FIRST(&g.unused);
    if (c)
        TAILQ_REMOVE(&g.unused, c, entry);
    else if (g.n_open < CONNECTIONS_MAX && g.n_open < g.connections)
        c = conn_new();
    return c;
}

static void watch_out(struct conn *c, bool out)
{
    struct epoll_event e = {.events = EPOLLIN | (out ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(g.epoll, EPOLL_CTL_MOD, c->fd, &e) != 0)
        die("epoll_ctl");
}

static void conn_done(struct conn *c, bool good)
{
    int64_t now = now_ns();
    c->busy = false;
    g.under_way--;
    g.requests++;
    if (!good)
        g.errors++;
    else if (c->due >= g.record_from)
        histogram_add(c->refused ? &g.refused : c->size == BIG ? &g.big : &g.end, now - c->due);
    if (good && !c->refused && now >= g.record_from && now < g.record_to)
        g.good++;
    if (good && c->sent)
        histogram_add(&g.gap, c->gap);
    TAILQ_INSERT_HEAD(&g.unused, c, entry);
    if (g.finished)
        g.finished(c);
}

/* The connection broke or cannot be used any more. */
static void conn_lost(struct conn *c)
{
    bool was_busy = c->busy;
    close(c->fd);
    conn_open(c);
    c->out_n = 0;
    if (was_busy)
        conn_done(c, false);
}

static void conn_write(struct conn *c)
{
    while (c->out_n > 0) {
        struct iovec *v = &c->out[3 - c->out_n];
        struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)c->out_n};
        ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch_out(c, true);
            return;
        }
        if (n < 0) {
            conn_lost(c);
            return;
        }
        while (c->out_n > 0 && (size_t)n >= v->iov_len) {
            n -= (ssize_t)v->iov_len;
            v++;
            c->out_n--;
        }
        if (c->out_n > 0) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= (size_t)n;
        }
    }
}

/* ---- requests ------------------------------------------------------------------------------------------------------- */

static void request_send(struct conn *c, enum size size, int64_t due)
{
    static char end[] = "\"}]}";
    char body[512];
    size_t filler = size == BIG ? (size_t)g.big_bytes : 64;
    char *p = c->begin;
    int n =
        snprintf(body, sizeof(body),
                 "{\"model\":\"m\",%s%s%s%s\"stream\":%s,\"max_tokens\":%lld,\"bench_interval_us\":%lld,\"messages\":[{"
                 "\"role\":\"user\",\"content\":\"question %lld of a run that began at %lld: ",
                 g.tier ? "\"service_tier\":\"" : "", g.tier ? g.tier : "", g.tier ? "\"," : "",
                 g.determined ? "\"temperature\":0," : "", g.stream ? "true" : "false", (long long)g.frames,
                 (long long)g.interval_us, (long long)g.counter++, (long long)g.record_from);
    int k = snprintf(p, BEGIN_BYTES,
                     "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%s%s%s"
                     "Content-Length: %zu\r\n\r\n%s",
                     g.key ? "Authorization: Bearer " : "", g.key ? g.key : "", g.key ? "\r\n" : "",
                     (size_t)n + filler + sizeof(end) - 1, body);
    if (n >= (int)sizeof(body) || k >= BEGIN_BYTES)
        die("a request that does not fit");
    c->out[0] = (struct iovec){p, (size_t)k};
    c->out[1] = (struct iovec){g.filler, filler};
    c->out[2] = (struct iovec){end, sizeof(end) - 1};
    c->out_n = 3;
    c->size = size;
    c->due = due;
    c->busy = true;
    c->first_seen = c->refused = false;
    c->line_len = 0;
    c->received = c->sent = c->gap = 0;
    g.under_way++;
    conn_write(c);
}

/* A whole line of a stream: the time at which its frame was sent, if it is one with a token. */
static void take_line(struct conn *c, int64_t now)
{
    static const char mark[] = "\"content\":\"t";
    const char *at = memmem(c->line, c->line_len, mark, sizeof(mark) - 1);
    if (!at)
        return;
    c->line[c->line_len < LINE_MAX_BYTES ? c->line_len : LINE_MAX_BYTES - 1] = '\0';
    int64_t sent = strtoll(at + sizeof(mark) - 1, NULL, 10);
    if (c->sent && (now - c->received) - (sent - c->sent) > c->gap)
        c->gap = (now - c->received) - (sent - c->sent);
    c->received = now;
    c->sent = sent;
    histogram_add(&g.late, now - sent);
}

static void take_body(struct conn *c, const char *data, size_t n, int64_t now)
{
    if (c->refused)
        return;
    if (!c->first_seen) {
        c->first_seen = true;
        if (c->size == SMALL && c->due >= g.record_from)
            histogram_add(&g.first, now - c->due);
    }
    if (g.interval_us == 0)
        return;
    while (n > 0) {
        const char *lf = memchr(data, '\n', n);
        size_t k = lf ? (size_t)(lf - data) : n, room = LINE_MAX_BYTES - 1 - c->line_len;
        memcpy(c->line + c->line_len, data, k < room ? k : room);
        c->line_len += k < room ? k : room;
        if (!lf)
            return;
        take_line(c, now);
        c->line_len = 0;
        data += k + 1;
        n -= k + 1;
    }
}

/* Under overload a refusal is an answer: with --refusals it is timed instead of being an error. */
static bool is_refusal(struct conn *c, const struct http_head *head)
{
    if (!g.refusals || (head->status != 429 && head->status != 503))
        return false;
    c->refused = true;
    if (!http_head_get(head, "retry-after"))
        g.without_retry_after++;
    return true;
}

static void conn_read(struct conn *c)
{
    ssize_t n = recv(c->fd, read_buffer, sizeof(read_buffer), 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        conn_lost(c);
        return;
    }
    int64_t now = now_ns();
    for (size_t off = 0;;) {
        size_t used = 0, data_len = 0;
        const char *data = NULL;
        switch (http_parser_feed(c->parser, read_buffer + off, (size_t)n - off, &used, &data, &data_len)) {
        case HTTP_NEED_MORE: return;
        case HTTP_HEAD:
            if (is_refusal(c, http_parser_head(c->parser)))
                break;
            if (http_parser_head(c->parser)->status != 200) {
                if (g.errors < 3)
                    fprintf(stderr, "status %d\n", http_parser_head(c->parser)->status);
                conn_lost(c);
                return;
            }
            break;
        case HTTP_BODY: take_body(c, data, data_len, now); break;
        case HTTP_END:
            http_parser_reset(c->parser);
            conn_done(c, true);
            return; /* an answer never has another behind it */
        case HTTP_ERROR: conn_lost(c); return;
        }
        off += used;
    }
}

/* ---- the loop and the modes ----------------------------------------------------------------------------------------- */

static void turn(int64_t until)
{
    struct epoll_event events[512];
    int n = wait_events(g.epoll, events, 512, until);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c)
            continue;
        if (events[i].events & EPOLLOUT) {
            watch_out(c, false);
            conn_write(c);
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            conn_read(c);
    }
}

/* What has begun may end; what does not is an error. */
static void finish(void)
{
    int64_t end = now_ns() + FINISH_NS;
    while (g.under_way > 0 && now_ns() < end)
        turn(end);
    g.errors += g.under_way;
}

static void again(struct conn *c)
{
    TAILQ_REMOVE(&g.unused, c, entry);
    request_send(c, SMALL, now_ns());
}

static double run_closed(void)
{
    int64_t begin = now_ns(), end = begin + (int64_t)((g.warm + g.seconds) * 1e9), base = 0;
    g.record_from = begin + (int64_t)(g.warm * 1e9);
    g.record_to = end;
    g.finished = again;
    for (int64_t i = 0; i < g.connections; i++)
        request_send(conn_new(), SMALL, now_ns());
    while (now_ns() < g.record_from)
        turn(g.record_from);
    int64_t start = now_ns();
    base = g.requests;
    while (now_ns() < end)
        turn(end);
    double rate = (double)(g.requests - base) / ((double)(now_ns() - start) / 1e9);
    g.finished = NULL;
    finish();
    return rate;
}

static double run_open(void)
{
    int64_t begin = now_ns(), end = begin + (int64_t)((g.warm + g.seconds) * 1e9);
    int64_t step = (int64_t)(1e9 / g.rate), big_step = g.big_rate > 0 ? (int64_t)(1e9 / g.big_rate) : 0;
    int64_t next = begin, next_big = big_step ? begin + step / 2 : INT64_MAX;
    g.record_from = begin + (int64_t)(g.warm * 1e9);
    g.record_to = end;
    while (next < end) {
        int64_t now = now_ns();
        while (next <= now || next_big <= now) {
            struct conn *c = conn_take();
            if (!c)
                break; /* the wait for one counts: `due` stays where it is */
            bool big = next_big <= next;
            request_send(c, big ? BIG : SMALL, big ? next_big : next);
            *(big ? &next_big : &next) += big ? big_step : step;
        }
        int64_t due = next < next_big ? next : next_big;
        turn(due > now_ns() || TAILQ_FIRST(&g.unused) || g.n_open < g.connections ? due : now_ns() + NS_S / 1000);
    }
    finish();
    return (double)g.requests / ((double)(now_ns() - begin) / 1e9);
}

static double run_streams(void)
{
    int64_t begin = now_ns(), started = 0;
    g.stream = true;
    g.record_from = begin;
    while (started < g.connections) { /* spread over the first second */
        int64_t due = begin + started * NS_S / g.connections;
        while (now_ns() < due)
            turn(due);
        request_send(conn_new(), SMALL, due);
        started++;
    }
    int64_t end = now_ns() + (int64_t)((double)(g.frames * g.interval_us) * 1e3) + FINISH_NS;
    while (g.under_way > 0 && now_ns() < end)
        turn(end);
    g.errors += g.under_way;
    return (double)g.requests / ((double)(now_ns() - begin) / 1e9);
}

static double run_idle(void)
{
    char byte;
    int64_t begin = now_ns();
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    while (g.n_open < g.connections) {
        request_send(conn_new(), SMALL, now_ns());
        while (g.under_way >= OPENING_MAX)
            turn(begin + 60 * NS_S);
    }
    finish();
    printf("ready\n");
    fflush(stdout);
    if (epoll_ctl(g.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e) != 0)
        die("the input is no pipe");
    (void)fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    while (read(STDIN_FILENO, &byte, 1) != 0)
        turn(INT64_MAX);
    return (double)g.requests / ((double)(now_ns() - begin) / 1e9);
}

static void fill(void)
{
    static const char words[] = "the reservoir holds what the night has saved and the spillway takes the rest, ";
    size_t n = (size_t)g.big_bytes > 64 ? (size_t)g.big_bytes : 64;
    g.filler = spw_malloc(n);
    for (size_t i = 0; i < n; i++)
        g.filler[i] = words[i % (sizeof(words) - 1)];
}

#define WHOLE(n, l, field, m, h, low, high)                                                                            \
    {                                                                                                                  \
        .name = n, .letter = l, .type = ARG_INT, .value = &g.field, .meta = m, .help = h, .lo = low, .hi = high        \
    }
#define REAL(n, l, field, m, h, low, high)                                                                             \
    {                                                                                                                  \
        .name = n, .letter = l, .type = ARG_DOUBLE, .value = &g.field, .meta = m, .help = h, .dlo = low, .dhi = high   \
    }

int main(int argc, char **argv)
{
    static const char *const modes[] = {"closed", "open", "streams", "idle"};
    static double (*const runs[])(void) = {run_closed, run_open, run_streams, run_idle};
    const char *mode = "";
    int code = 0;
    const struct arg_option options[] = {
        WHOLE("port", 'p', port, "PORT", "of 127.0.0.1", 1, 65535),
        {.name = "key", .letter = 'k', .type = ARG_STRING, .value = &g.key, .meta = "KEY", .help = "bearer key"},
        WHOLE("connections", 'c', connections, "N", "connections, or streams", 1, CONNECTIONS_MAX),
        REAL("seconds", 's', seconds, "S", "measured time", 0.1, 3600),
        REAL("warm", 'w', warm, "S", "time before it", 0, 60),
        REAL("rate", 'r', rate, "R", "open: requests per second", 1, 1e6),
        {.name = "stream", .type = ARG_FLAG, .value = &g.stream, .help = "ask for streams"},
        {.name = "determined",
         .type = ARG_FLAG,
         .value = &g.determined,
         .help = "of temperature 0: each is looked up in a cache and kept there, and none is found"},
        {.name = "refusals", .type = ARG_FLAG, .value = &g.refusals, .help = "429 and 503 are answers, and timed"},
        {.name = "tier", .type = ARG_STRING, .value = &g.tier, .meta = "T", .help = "service_tier of requests"},
        WHOLE("frames", 'f', frames, "N", "tokens of a stream", 1, 100000),
        WHOLE("interval-us", 'i', interval_us, "N", "between them; 0: at once", 0, 1000000),
        REAL("big-rate", 0, big_rate, "R", "open: large prompts per second", 0, 1e5),
        WHOLE("big-bytes", 0, big_bytes, "N", "their size", 64, 32 << 20),
    };
    const struct arg_operand operands[] = {{"MODE", &mode, "closed, open, streams or idle", true}};
    const struct arg_spec spec = {"frontdoor_load",
                                  NULL,
                                  "put load on an OpenAI endpoint of this machine",
                                  "frontdoor_load closed --port 8080",
                                  options,
                                  sizeof(options) / sizeof(options[0]),
                                  operands,
                                  1};
    if (!args_run(&spec, argc - 1, argv + 1, &code))
        return code;
    if (g.port == 0) {
        fprintf(stderr, "frontdoor_load: --port is missing\n");
        return ARGS_EXIT_USAGE;
    }
    prepare();
    TAILQ_INIT(&g.unused);
    g.epoll = epoll_create1(EPOLL_CLOEXEC);
    fill();
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(mode, modes[i]) != 0)
            continue;
        double rate = runs[i]();
        printf("{\"rate\": %.1f, \"requests\": %lld, \"errors\": %lld", rate, (long long)g.requests,
               (long long)g.errors);
        histogram_print("first_us", &g.first);
        histogram_print("end_us", &g.end);
        histogram_print("big_us", &g.big);
        histogram_print("gap_us", &g.gap);
        histogram_print("late_us", &g.late);
        histogram_print("refused_us", &g.refused);
        printf(", \"good\": %lld, \"without_retry_after\": %lld", (long long)g.good, (long long)g.without_retry_after);
        printf("}\n");
        return 0;
    }
    fprintf(stderr, "frontdoor_load: no mode '%s': closed, open, streams or idle\n", mode);
    return ARGS_EXIT_USAGE;
}
