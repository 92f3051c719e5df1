/* Calls, the pool of connections, and reading answers. The picture is in http_client_internal.h; how a connection comes
 * to be is http_connect.c. */
#include "base/http_client.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/http_client_internal.h"
#include "base/text.h"

#define TARGET_MAX 8192
#define SEND_MAX   ((size_t)128 << 10) /* of one request in one turn of the loop: others wait meanwhile */

/* NOLINTBEGIN(clang-analyzer-unix.Malloc,clang-analyzer-core.NullDereference): the analyzer follows neither rings
 * (after an unlink it still sees the old head) nor `busy`, which puts off the free. The tests run under a sanitizer
 * instead. */

/* ---- the life of a connection ---- */

static void link_unlink(struct link *l)
{
    SPW_ASSERT(l->prev->next == l && l->next->prev == l);
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->prev = l->next = NULL;
}

static void link_dispose(struct link *l)
{
    l->magic = 0;
    free(l);
}

void link_close(struct link *l)
{
    struct http_client *c = l->client;
    SPW_ASSERT(!l->dead);
    deadline_stop(&l->wait);
    if (l->stream.fd >= 0) {
        event_del(&l->rd);
        event_del(&l->wr);
    }
    stream_close(&l->stream);
    bytes_fini(&l->in);
    http_parser_free(l->parser);
    l->parser = NULL;
    l->call = NULL;
    c->stats.open_connections--;
    if (l->state == LINK_IDLE)
        c->stats.idle_connections--;
    link_unlink(l);
    l->dead = true;
    if (!l->busy)
        link_dispose(l);
}

static void link_enter(struct link *l)
{
    SPW_ASSERT(l->magic == LINK_MAGIC);
    l->busy++;
}

static void link_leave(struct link *l)
{
    if (--l->busy == 0 && l->dead)
        link_dispose(l);
}

/* The answer was read to its end and nothing came behind it. */
static void link_pool(struct link *l)
{
    struct http_client *c = l->client;
    http_parser_reset(l->parser);
    link_unlink(l);
    l->call = NULL;
    l->state = LINK_IDLE;
    l->prev = &c->idle;
    l->next = c->idle.next;
    l->next->prev = l;
    c->idle.next = l;
    c->stats.idle_connections++;
    deadline_start(&c->deadlines, &l->wait, WAIT_KEEP, http_now_ns());
}

/* ---- the end of a call ---- */

static void call_dispose(struct http_call *call)
{
    bytes_fini(&call->out);
    free(call->failure);
    call->magic = 0;
    free(call);
}

static void call_detach(struct http_call *call)
{
    if (call->link)
        link_close(call->link);
    call->link = NULL;
    if (call->next) {
        SPW_ASSERT(call->prev->next == call && call->next->prev == call);
        call->prev->next = call->next;
        call->next->prev = call->prev;
        call->prev = call->next = NULL;
    }
}

void call_fail(struct http_call *call, const struct error *e)
{
    call_detach(call);
    call->h.on_fail(call, call->phase, e, call->arg);
    call_dispose(call);
}

void call_fail_later(struct http_call *call, const struct error *e)
{
    struct http_client *c = call->client;
    call_detach(call);
    call->failure = spw_malloc(sizeof(*e));
    *call->failure = *e;
    call->next = &c->failed;
    call->prev = c->failed.prev;
    call->prev->next = call;
    c->failed.prev = call;
    event_active(c->turn, EV_TIMEOUT, 0);
}

static void turn_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_client *c = arg;
    bool gone = false;
    c->gone = &gone;
    while (c->failed.next != &c->failed) {
        struct http_call *call = c->failed.next;
        struct error e = *call->failure;
        call_fail(call, &e);
        if (gone)
            return;
    }
    c->gone = NULL;
}

static void call_end(struct http_call *call, bool reusable)
{
    struct link *l = call->link;
    call->link = NULL;
    if (reusable && call->out.len == 0)
        link_pool(l);
    else
        link_close(l);
    call->h.on_end(call, call->arg);
    call_dispose(call);
}

/* ---- writing ---- */

static void start_wait(struct link *l)
{
    deadline_start(&l->client->deadlines, &l->wait, l->call->phase == HTTP_PHASE_BODY ? WAIT_BODY : WAIT_HEAD,
                   http_now_ns());
}

static void replace_link(struct http_call *call)
{
    struct http_client *c = call->client;
    link_close(call->link);
    call->link = NULL;
    call->replaced = true;
    call->reused = false;
    c->stats.replaced++;
    link_open(c, call);
}

static void send_some(struct link *l)
{
    struct http_call *call = l->call;
    size_t left = SEND_MAX;
    while (call->out.len) {
        ptrdiff_t n = left ? stream_write(&l->stream, bytes_at(&call->out), call->out.len < left ? call->out.len : left)
                           : STREAM_AGAIN_WRITE;
        if (n > 0) {
            call->wrote = true;
            bytes_consume(&call->out, (size_t)n);
            left -= (size_t)n;
            continue;
        }
        if (n == STREAM_AGAIN_READ)
            return; /* TLS: link_readable_cb() tries again */
        if (n == STREAM_AGAIN_WRITE) {
            event_add(&l->wr, NULL);
            return;
        }
        if (l->reused && !call->wrote && !call->replaced) {
            replace_link(call);
            return;
        }
        /* The peer may have answered without reading all, and closed: what it said is still to be read, and reading
         * tells what happened. out.len stays, so that the connection is never reused. */
        event_active(&l->rd, EV_READ, 0);
        return;
    }
    bytes_fini(&call->out);
    call->phase = call->phase == HTTP_PHASE_SEND ? HTTP_PHASE_HEAD : call->phase;
    if (!call->paused)
        start_wait(l); /* head_ms counts from here */
}

void link_active(struct link *l)
{
    struct http_call *call = l->call;
    l->state = LINK_ACTIVE;
    call->phase = HTTP_PHASE_SEND;
    if (call->no_body)
        http_parser_expect_no_body(l->parser);
    if (call->paused)
        event_del(&l->rd);
    else
        event_add(&l->rd, NULL);
    start_wait(l);
    /* Behind whatever else is ready in this turn: requests that came together leave together, one right after the
     * other, by code that is in the cache by then; and who reads them wakes up once. */
    event_active(&l->wr, EV_WRITE, 0);
}

void link_writable_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct link *l = arg;
    link_enter(l);
    switch (l->state) {
    case LINK_CONNECT: link_connected(l); break;
    case LINK_HANDSHAKE: link_handshake(l); break;
    case LINK_ACTIVE:
        send_some(l);
        if (!l->dead && l->stream.ssl && !l->call->paused)
            event_active(&l->rd, EV_READ, 0); /* TLS may have waited for room to write before it could read */
        break;
    case LINK_RESOLVE:
    case LINK_IDLE: break;
    }
    link_leave(l);
}

/* ---- reading ---- */

static void fail_framing(struct link *l)
{
    const char *text = NULL;
    struct error e;
    (void)http_parser_error(l->parser, &text);
    error_set(&e, RC_INVALID, "%s: answer refused: %s", l->client->host, text);
    call_fail(l->call, &e);
}

/* What a read has brought of a body goes on in one piece: its chunks close up in place. */
struct joined {
    char *at;
    size_t n;
};

static void join(struct joined *j, char *piece, size_t n)
{
    if (!j->n)
        j->at = piece;
    else
        memmove(j->at + j->n, piece, n);
    j->n += n;
}

/* False: the call is gone. */
static bool deliver(struct link *l, struct http_call *call, struct joined *j)
{
    size_t n = j->n;
    j->n = 0;
    if (n)
        call->h.on_body(call, j->at, n, call->arg);
    return !l->dead && l->call == call;
}

static void hold(struct link *l, const char *data, size_t n)
{
    l->held = true;
    bytes_append(&l->in, data, n);
}

/* Returns with the call gone, paused (the rest is kept), or the input used up. The caller holds l. */
static void feed(struct link *l, char *data, size_t n)
{
    struct http_call *call = l->call;
    struct joined body = {0};
    const char *piece = NULL;
    size_t used = 0, n_piece = 0;
    while (!l->dead && l->call == call) {
        if (call->paused) {
            hold(l, data, n);
            return;
        }
        enum http_event ev = http_parser_feed(l->parser, data, n, &used, &piece, &n_piece);
        if (ev == HTTP_BODY)
            join(&body, data + (piece - data), n_piece);
        data += used;
        n -= used;
        if (ev == HTTP_BODY)
            continue;
        if (!deliver(l, call, &body))
            return;
        if (call->paused) { /* the parser says the same again, if that was the end or an error */
            hold(l, data, n);
            return;
        }
        switch (ev) {
        case HTTP_HEAD:
            call->phase = HTTP_PHASE_BODY;
            start_wait(l);
            call->h.on_head(call, http_parser_head(l->parser), call->arg);
            break;
        case HTTP_BODY: break;
        case HTTP_END: call_end(call, http_parser_head(l->parser)->keep_alive && n == 0); return;
        case HTTP_ERROR: fail_framing(l); return;
        case HTTP_NEED_MORE:
            if (call->phase == HTTP_PHASE_BODY)
                start_wait(l);
            return;
        }
    }
}

static void read_end(struct link *l, ptrdiff_t result)
{
    struct http_call *call = l->call;
    struct error e;
    if (result == STREAM_EOF && http_parser_eof(l->parser) == HTTP_END) {
        call_end(call, false);
        return;
    }
    if (result == STREAM_EOF)
        error_set(&e, RC_IO, "%s: closed %s", l->client->host,
                  call->phase == HTTP_PHASE_BODY ? "in the middle of its answer" : "before its answer was complete");
    else
        stream_error(&l->stream, l->client->host, &e);
    call_fail(call, &e);
}

/* An idle connection has nothing to say: only TLS housekeeping is no reason to close it. */
static void read_idle(struct link *l)
{
    char byte;
    ptrdiff_t n = stream_read(&l->stream, &byte, 1);
    if (n != STREAM_AGAIN_READ || !l->stream.ssl)
        link_close(l);
}

static void read_active(struct link *l)
{
    struct http_call *call = l->call;
    char buf[HTTP_READ_BYTES];
    if (call->paused)
        return;
    if (l->held) {
        struct bytes in = l->in; /* feed() puts the rest back */
        char none[1] = "";
        l->in = (struct bytes){0};
        l->held = false;
        feed(l, in.len ? in.data + in.off : none, in.len);
        bytes_fini(&in);
    }
    while (!l->dead && l->call == call && !call->paused) {
        ptrdiff_t n = stream_read(&l->stream, buf, sizeof(buf));
        if (n == STREAM_AGAIN_WRITE)
            event_add(&l->wr, NULL);
        if (n == STREAM_AGAIN_READ || n == STREAM_AGAIN_WRITE)
            break;
        if (n < 0) {
            read_end(l, n);
            return;
        }
        feed(l, buf, (size_t)n);
        if (l->dead || !stream_pending(&l->stream))
            break;
    }
    if (!l->dead && l->call == call && l->stream.ssl && call->out.len)
        send_some(l);
}

void link_readable_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct link *l = arg;
    link_enter(l);
    switch (l->state) {
    case LINK_HANDSHAKE: link_handshake(l); break;
    case LINK_ACTIVE: read_active(l); break;
    case LINK_IDLE: read_idle(l); break;
    case LINK_RESOLVE:
    case LINK_CONNECT: break;
    }
    link_leave(l);
}

static void expired(struct deadline *d, int kind, void *client)
{
    struct http_client *c = client;
    struct link *l = (struct link *)((char *)d - offsetof(struct link, wait));
    struct error e;
    SPW_ASSERT(l->magic == LINK_MAGIC);
    if (kind == WAIT_KEEP) {
        link_close(l);
        return;
    }
    if (l->state == LINK_CONNECT && l->address < c->n_addresses) {
        /* A host with a dead IPv6 route must not hide its IPv4 address. */
        deadline_start(&c->deadlines, &l->wait, WAIT_CONNECT, http_now_ns());
        link_connect_next(l, NULL);
        return;
    }
    static const char *const late[] = {[WAIT_CONNECT] = "connecting took too long",
                                       [WAIT_HEAD] = "no answer in time",
                                       [WAIT_BODY] = "its answer stalled"};
    error_set(&e, RC_TIMEOUT, "%s: %s (limit %lld ms)", c->host, late[kind],
              (long long)(c->deadlines.kinds[kind].after_ns / 1000000));
    call_fail(l->call, &e);
}

/* ---- starting a call ---- */

static bool is_clean_byte(unsigned char c, bool blanks)
{
    return c == ' ' || c == '\t' ? blanks : c > 0x20 && c != 0x7f;
}

/* No control bytes, and blanks only where they may be. Eight bytes at a time, as long as none of them needs a look. */
static bool is_clean(const char *s, bool blanks)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones << 7;
    size_t n = strlen(s), i = 0;
    for (; n - i >= 8; i += 8) {
        uint64_t w;
        memcpy(&w, s + i, 8);
        uint64_t del = w ^ (ones * 0x7f), low = (w - ones * (blanks ? 0x20 : 0x21)) & ~w;
        if ((low | ((del - ones) & ~del)) & highs)
            break;
    }
    while (i < n && is_clean_byte((unsigned char)s[i], blanks))
        i++;
    return i == n;
}

static bool is_ours(const char *name)
{
    char first = (char)(*name | 0x20);
    if (first != 'h' && first != 'c' && first != 't')
        return false;
    return strcasecmp(name, "Host") == 0 || strcasecmp(name, "Content-Length") == 0 ||
           strcasecmp(name, "Connection") == 0 || strcasecmp(name, "Transfer-Encoding") == 0;
}

static char *put(char *at, const char *s, size_t n)
{
    memcpy(at, s, n);
    return at + n;
}
#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static bool has_body(const struct http_request *r)
{
    return r->body_len || strcmp(r->method, "POST") == 0 || strcmp(r->method, "PUT") == 0 ||
           strcmp(r->method, "PATCH") == 0;
}

/* "name: value", unless it is ours to say. */
static enum rc put_header(struct bytes *out, const struct http_header *h, struct error *e)
{
    if (!*h->name || !is_clean(h->name, false) || strchr(h->name, ':') || !is_clean(h->value, true))
        return error_set(e, RC_INVALID, "request header would not be well-formed");
    if (is_ours(h->name))
        return RC_OK;
    size_t n_name = strlen(h->name), n_value = strlen(h->value);
    char *start = bytes_reserve(out, n_name + n_value + 4), *at = put(start, h->name, n_name);
    at = PUT(at, ": ");
    at = put(at, h->value, n_value);
    at = PUT(at, "\r\n");
    out->len += (size_t)(at - start);
    return RC_OK;
}

static enum rc put_request(struct http_call *call, const struct http_request *r, struct error *e)
{
    struct bytes *out = &call->out;
    const char *host = call->client->host_header;
    size_t n_method = strlen(r->method), n_target = strlen(r->target), n_host = strlen(host);
    if (!n_method || !is_clean(r->method, false) || (*r->target != '/' && strcmp(r->target, "*") != 0) ||
        !is_clean(r->target, false) || n_target > TARGET_MAX)
        return error_set(e, RC_INVALID, "request line would not be well-formed");
    bytes_reserve(out, r->body_len + 512); /* for most requests at once */
    char *start = bytes_reserve(out, n_method + n_target + n_host + 32), *at = put(start, r->method, n_method);
    *at++ = ' ';
    at = put(at, r->target, n_target);
    at = PUT(at, " HTTP/1.1\r\nHost: ");
    at = put(at, host, n_host);
    at = PUT(at, "\r\n");
    out->len += (size_t)(at - start);
    for (int i = 0; i < r->n_headers; i++) {
        enum rc rc = put_header(out, &r->headers[i], e);
        if (rc != RC_OK)
            return rc;
    }
    start = at = bytes_reserve(out, r->body_len + 32 + TEXT_INT_MAX);
    if (has_body(r)) {
        at = PUT(at, "Content-Length: ");
        at = text_put_int(at, (int64_t)r->body_len);
        at = PUT(at, "\r\n");
    }
    at = PUT(at, "\r\n");
    if (r->body_len)
        at = put(at, r->body, r->body_len);
    out->len += (size_t)(at - start);
    return RC_OK;
}

/* False: the peer has closed it, or says something nobody asked for. Asked before each use, since the loop may not have
 * come to it yet, and an answer that is there already would be taken for the next request's. */
static bool still_stands(struct link *l)
{
    char byte;
    ssize_t n = recv(l->stream.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) /* TLS: a session ticket, or a farewell, which no write would notice */
        return l->stream.ssl && stream_read(&l->stream, &byte, 1) == STREAM_AGAIN_READ;
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static struct link *take_idle(struct http_client *c)
{
    while (c->idle.next != &c->idle) {
        struct link *l = c->idle.next;
        if (!still_stands(l)) {
            link_close(l);
            continue;
        }
        c->stats.idle_connections--;
        link_unlink(l);
        l->next = &c->running;
        l->prev = c->running.prev;
        l->prev->next = l;
        c->running.prev = l;
        l->reused = true;
        return l;
    }
    return NULL;
}

enum rc http_call_start(struct http_client *c, const struct http_request *r, const struct http_call_handlers *h,
                        void *arg, struct http_call **out, struct error *e)
{
    if (c->freeing)
        return error_set(e, RC_CANCELLED, "%s: client is closing", c->host);
    if (c->idle.next == &c->idle && c->stats.open_connections >= c->o.connections_max)
        return error_set(e, RC_FULL, "%s: all %d connections are in use", c->host, c->o.connections_max);
    struct http_call *call = spw_calloc(1, sizeof(*call));
    call->magic = CALL_MAGIC;
    call->client = c;
    call->h = *h;
    call->arg = arg;
    call->no_body = strcmp(r->method, "HEAD") == 0;
    enum rc rc = put_request(call, r, e);
    if (rc != RC_OK) {
        call_dispose(call);
        return rc;
    }
    c->stats.calls++;
    *out = call;
    struct link *l = take_idle(c);
    if (l) {
        c->stats.reused++;
        call->reused = true;
        l->call = call;
        call->link = l;
        link_active(l);
    } else {
        link_open(c, call);
    }
    return RC_OK;
}

void http_call_cancel(struct http_call *call)
{
    SPW_ASSERT(call->magic == CALL_MAGIC);
    call_detach(call);
    call_dispose(call);
}

bool http_call_reused(const struct http_call *call)
{
    SPW_ASSERT(call->magic == CALL_MAGIC);
    return call->reused;
}

void http_call_pause(struct http_call *call)
{
    SPW_ASSERT(call->magic == CALL_MAGIC);
    struct link *l = call->link;
    call->paused = true;
    if (l && l->state == LINK_ACTIVE) {
        event_del(&l->rd);
        deadline_stop(&l->wait); /* it is we who keep the peer waiting */
    }
}

void http_call_resume(struct http_call *call)
{
    SPW_ASSERT(call->magic == CALL_MAGIC);
    struct link *l = call->link;
    if (!call->paused)
        return;
    call->paused = false;
    if (l && l->state == LINK_ACTIVE) {
        event_add(&l->rd, NULL);
        start_wait(l);
        if (l->held || stream_pending(&l->stream))
            event_active(&l->rd, EV_READ, 0);
    }
}

/* ---- the client ---- */

enum rc http_client_new(struct http_client **out, struct event_base *loop, const char *host, int port,
                        const struct http_client_options *o, struct error *e)
{
    struct http_client *c = spw_calloc(1, sizeof(*c));
    c->loop = loop;
    c->o = o ? *o : (struct http_client_options){0};
    c->host = spw_strdup(host);
    c->tls_name = spw_strdup(o && o->tls_name ? o->tls_name : host);
    c->o.tls_name = c->tls_name;
    if (c->o.tls)
        SSL_CTX_up_ref(c->o.tls);
    c->port = port;
    if (!c->o.connections_max)
        c->o.connections_max = 4096;
    bool is_unix = strncmp(host, "unix:", 5) == 0;
    if (is_unix)
        c->host_header = spw_strdup("localhost");
    else if (port == (c->o.tls ? 443 : 80))
        c->host_header = spw_asprintf(strchr(host, ':') ? "[%s]" : "%s", host);
    else
        c->host_header = spw_asprintf(strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, port);
    c->running.prev = c->running.next = &c->running;
    c->idle.prev = c->idle.next = &c->idle;
    c->failed.prev = c->failed.next = &c->failed;
    deadlines_init(&c->deadlines, loop, expired, c);
    c->deadlines.kinds[WAIT_CONNECT].after_ns = (c->o.connect_ms ? c->o.connect_ms : 2000) * 1000000;
    c->deadlines.kinds[WAIT_HEAD].after_ns = c->o.head_ms * 1000000;
    c->deadlines.kinds[WAIT_BODY].after_ns = c->o.idle_body_ms * 1000000;
    c->deadlines.kinds[WAIT_KEEP].after_ns = (c->o.keep_idle_ms ? c->o.keep_idle_ms : 30000) * 1000000;
    c->turn = event_new(loop, -1, 0, turn_cb, c);
    SPW_ASSERT(c->turn);
    if (c->o.tls)
        signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    enum rc rc = *host && is_clean(host, is_unix) ? link_resolver_init(c, e)
                                                  : error_set(e, RC_INVALID, "host is empty or malformed");
    if (rc != RC_OK) {
        http_client_free(c);
        return rc;
    }
    *out = c;
    return RC_OK;
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    struct error e;
    error_set(&e, RC_CANCELLED, "%s: client is closing", c->host);
    c->freeing = true;
    while (c->running.next != &c->running)
        call_fail(c->running.next->call, &e);
    while (c->failed.next != &c->failed)
        call_fail(c->failed.next, &e);
    while (c->idle.next != &c->idle)
        link_close(c->idle.next);
    if (c->gone)
        *c->gone = true;
    link_resolver_fini(c);
    event_free(c->turn);
    deadlines_fini(&c->deadlines);
    free(c->host);
    free(c->host_header);
    free(c->tls_name);
    SSL_SESSION_free(c->session); /* after the connections, which may put one there */
    SSL_CTX_free(c->o.tls);
    free(c);
}

struct http_client_stats http_client_stats(const struct http_client *c)
{
    return c->stats;
}

/* NOLINTEND(clang-analyzer-unix.Malloc,clang-analyzer-core.NullDereference) */
