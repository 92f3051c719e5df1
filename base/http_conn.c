/* One server connection: reading and framing, the per-turn work, deadlines, closing. The state machine and the rule
 * about lifetimes are in http_server_internal.h. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/http_server_internal.h"

static void on_readable(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);

void conn_dirty(struct conn *c)
{
    struct http_server *s = c->s;
    if (c->dirty_next)
        return;
    c->dirty_next = &s->dirty;
    c->dirty_prev = s->dirty.dirty_prev;
    c->dirty_prev->dirty_next = c;
    s->dirty.dirty_prev = c;
    s->n_dirty++;
    if (!s->turn_queued) {
        s->turn_queued = true;
        event_active(s->turn, EV_TIMEOUT, 0);
    }
}

void conn_clean(struct conn *c)
{
    if (!c->dirty_next)
        return;
    c->dirty_prev->dirty_next = c->dirty_next;
    c->dirty_next->dirty_prev = c->dirty_prev;
    c->dirty_prev = c->dirty_next = NULL;
    c->s->n_dirty--;
}

bool conn_retain(struct conn *c)
{
    struct http_server *s = c->s;
    size_t unread = c->out.cap > OUT_KEEP_STREAM ? c->out.cap : 0; /* else it is no more than what each may have */
    size_t now = c->in.cap + c->body.cap + http_parser_held(c->parser) + unread;
    size_t total = atomic_load_explicit(&s->held->retained, memory_order_relaxed);
    if (now != c->retained) /* modulo 2^64: less is more, too */
        total =
            atomic_fetch_add_explicit(&s->held->retained, now - c->retained, memory_order_relaxed) + now - c->retained;
    c->retained = now;
    return total <= s->o.retained_bytes_max;
}

static void name_peer(struct conn *c, const struct sockaddr_storage *peer)
{
    if (peer->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)peer)->sin_addr, c->peer, sizeof(c->peer));
    else if (peer->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)peer)->sin6_addr, c->peer, sizeof(c->peer));
    else
        memcpy(c->peer, "unix", 5);
}

struct conn *conn_new(struct http_server *s, int fd, const struct sockaddr_storage *peer, struct tls_door *tls)
{
    struct conn *c = spw_calloc(1, sizeof(*c));
    c->magic = CONN_MAGIC;
    c->s = s;
    c->stream.fd = fd;
    c->came_ns = http_now_ns();
    stream_no_delay(fd);
    if (tls) {
        c->stream.ssl = tls_door_open(tls);
        SPW_ASSERT(c->stream.ssl && SSL_set_fd(c->stream.ssl, fd) == 1);
    }
    c->parser = http_parser_new(HTTP_REQUEST, &s->o.limits);
    name_peer(c, peer);
    c->next = &s->all;
    c->prev = s->all.prev;
    c->prev->next = c;
    s->all.prev = c;
    counter_add(&s->stats.open_connections, 1);
    atomic_fetch_add_explicit(&s->held->connections, 1, memory_order_relaxed);
    event_assign(&c->rd, s->loop, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->wr, s->loop, fd, EV_WRITE, on_writable, c);
    event_add(&c->rd, NULL);
    /* A handshake that never comes is a slow head. */
    deadline_start(&s->deadlines, &c->wait, tls ? WAIT_HEAD : WAIT_IDLE, s->now_ns);
    return c;
}

static void exchange_fini(struct conn *c)
{
    if (c->x.arena)
        arena_free(c->x.arena);
    c->x = (struct http_exchange){0};
}

/* All of the connection but its socket. */
static void conn_forget(struct conn *c)
{
    struct http_server *s = c->s;
    event_del(&c->rd);
    event_del(&c->wr);
    deadline_stop(&c->wait);
    deadline_stop(&c->write_wait);
    c->prev->next = c->next;
    c->next->prev = c->prev;
    conn_clean(c);
    /* Marks it as dirty for good: what on_abort() calls may not queue it again. */
    c->dirty_prev = c->dirty_next = c;
    struct http_exchange *x = &c->x;
    if (x->state == X_OPEN || x->state == X_STREAMING) {
        counter_add(&s->stats.aborted, 1);
        counter_add(&s->stats.active_exchanges, -1);
        x->state = X_DONE;
        if (x->on_abort)
            x->on_abort(x, x->handler);
    }
    exchange_fini(c);
}

static void conn_free(struct conn *c)
{
    struct http_server *s = c->s;
    bytes_fini(&c->in);
    bytes_fini(&c->out);
    bytes_fini(&c->body);
    if (c->retained)
        atomic_fetch_sub_explicit(&s->held->retained, c->retained, memory_order_relaxed);
    http_parser_free(c->parser);
    c->magic = 0;
    s->turned_away -= c->turned_away;
    if (!c->turned_away)
        atomic_fetch_sub_explicit(&s->held->connections, 1, memory_order_relaxed);
    if (s->o.peers)
        peers_leave(s->o.peers, &c->client);
    free(c);
    server_conn_gone(s);
}

void conn_close(struct conn *c)
{
    conn_forget(c);
    if (c->cut) { /* without a length or chunks, only a reset tells the peer that the end is not the end */
        struct linger hard = {.l_onoff = 1, .l_linger = 0};
        (void)setsockopt(c->stream.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    }
    stream_close(&c->stream);
    conn_free(c);
}

/* Nothing runs on it and nothing has to be sent, while the server lets go of its connections; those with TLS part. */
static bool may_go(const struct conn *c)
{
    bool idle = c->x.state == X_DONE || (c->state == CONN_READ && !c->begun);
    return c->s->let_go.take && idle && !c->close_after && c->out.len == 0 && !c->stream.ssl;
}

static void give_away(struct conn *c)
{
    struct http_letting_go go = c->s->let_go;
    struct bytes in = c->in;
    int fd = c->stream.fd;
    c->in = (struct bytes){0};
    conn_forget(c);
    conn_free(c);
    go.take(fd, in.len ? bytes_at(&in) : "", in.len, go.arg);
    bytes_fini(&in);
}

/* ---- reading ---- */

void conn_refuse(struct conn *c, int status, const char *text)
{
    char body[512];
    bool full = status == 503 || status == 429; /* mended by waiting */
    const char *type = status == 503   ? "overloaded_error"
                       : status == 429 ? "rate_limit_error"
                                       : "invalid_request_error";
    int n = snprintf(body, sizeof(body),
                     "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":null}}\n", text, type);
    struct http_header headers[] = {{.name = "Content-Type", .value = "application/json"},
                                    full ? (struct http_header){.name = "Retry-After", .value = "1"}
                                         : (struct http_header){.name = "x-should-retry", .value = "false"}};
    bool pointless = !full && status != 408; /* slow is not wrong */
    deadline_stop(&c->wait);
    c->state = CONN_LINGER;
    c->close_after = true;
    conn_put_head(c, status, headers, full || pointless ? 2 : 1, n);
    bytes_append(&c->out, body, (size_t)n);
    bytes_fini(&c->in);
    bytes_fini(&c->body);
    conn_retain(c);
    conn_dirty(c);
}

static void refuse_framing(struct conn *c)
{
    const char *text = NULL;
    int status = http_parser_error(c->parser, &text);
    counter_add(&c->s->stats.refused_framing, 1);
    conn_refuse(c, status, text);
}

static void refuse_full(struct conn *c)
{
    counter_add(&c->s->stats.refused_full, 1);
    conn_refuse(c, 503, "too many requests are held in memory, try again later");
}

/* The head is complete. Tell a client that waits for leave to send its body to go on. */
static void head_done(struct conn *c, bool more)
{
    const struct http_head *h = http_parser_head(c->parser);
    c->in_body = true;
    if (!h->keep_alive)
        c->close_after = true;
    if (h->expect_continue && !more && (h->chunked || h->content_length > 0)) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        bytes_append(&c->out, go_on, sizeof(go_on) - 1);
        conn_dirty(c);
    }
    deadline_stop(&c->wait); /* the body's own deadline starts when the input runs out before the body does */
}

/* True: the handler has answered without the body, which may still be on its way. */
static bool refused_at_head(struct conn *c, size_t here)
{
    struct http_server *s = c->s;
    const struct http_head *h = http_parser_head(c->parser);
    bool close_after = c->close_after;
    if (!s->h.on_head || (!h->chunked && h->content_length <= (int64_t)here)) /* its body is read already */
        return false;
    c->close_after = true; /* the answer shall say so */
    c->state = CONN_BUSY;
    c->x.state = X_OPEN;
    counter_add(&s->stats.active_exchanges, 1);
    s->h.on_head(&c->x, s->arg);
    if (c->x.state == X_OPEN) {
        counter_add(&s->stats.active_exchanges, -1);
        c->x.state = X_NONE;
        c->state = CONN_READ;
        c->close_after = close_after;
        return false;
    }
    SPW_ASSERT(c->x.state == X_DONE);
    counter_add(&s->stats.requests, 1);
    deadline_stop(&c->wait);
    c->state = CONN_LINGER;
    bytes_fini(&c->in);
    conn_retain(c);
    return true;
}

/* False: refused. */
static bool take_body(struct conn *c, const char *data, size_t n)
{
    const struct http_head *h = http_parser_head(c->parser);
    /* A length that is promised is believed only up to a bound: memory follows the bytes, not the claim. */
    if (c->body.cap == 0 && h->content_length > 0)
        bytes_reserve(&c->body, h->content_length < 65536 ? (size_t)h->content_length + 1 : n + 1);
    bytes_append(&c->body, data, n);
    if (conn_retain(c))
        return true;
    refuse_full(c);
    return false;
}

/* Who is not read is not heard to leave, either, and what runs for nobody costs money: he is looked at now and then.
 * (Not by EV_CLOSED: libevent does not report a reset to an event that asks for nothing else, and its loop would
 * spin.) */
static void watch_unread(struct conn *c)
{
    deadline_start(&c->s->deadlines, &c->wait, WAIT_GONE, c->s->now_ns);
}

static bool has_left(const struct conn *c)
{
    struct pollfd p = {.fd = c->stream.fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static void look_after_unread(struct conn *c)
{
    if (c->x.state == X_DONE) /* it is answered: what is to be written will tell */
        return;
    if (has_left(c))
        conn_close(c);
    else
        watch_unread(c);
}

static void dispatch(struct conn *c)
{
    struct http_server *s = c->s;
    *bytes_reserve(&c->body, 1) = '\0';
    deadline_stop(&c->wait);
    if (c->paused)
        watch_unread(c);
    c->state = CONN_BUSY;
    c->x.state = X_OPEN;
    counter_add(&s->stats.requests, 1);
    counter_add(&s->stats.active_exchanges, 1);
    s->h.on_request(&c->x, s->arg);
}

/* Feed the parser until a request is complete (the rest is kept for later) or the input is used up. */
void conn_read(struct conn *c, const char *data, size_t n)
{
    struct http_server *s = c->s;
    const char *piece = NULL;
    size_t used = 0, n_piece = 0;
    if (!c->begun) {
        c->begun = c->served = true;
        c->x.start_ns = s->now_ns;
        deadline_stop(&c->wait);
    }
    for (;;) {
        enum http_event ev = http_parser_feed(c->parser, data, n, &used, &piece, &n_piece);
        data += used;
        n -= used;
        switch (ev) {
        case HTTP_HEAD:
            if (refused_at_head(c, n))
                return;
            head_done(c, n > 0);
            break;
        case HTTP_BODY:
            if (!take_body(c, piece, n_piece))
                return;
            break;
        case HTTP_END:
            bytes_append(&c->in, data, n);
            if (!conn_retain(c))
                refuse_full(c);
            else
                dispatch(c);
            return;
        case HTTP_ERROR: refuse_framing(c); return;
        case HTTP_NEED_MORE:
            if (!conn_retain(c)) {
                refuse_full(c);
                return;
            }
            if (!c->wait.next) /* once per head and once per body: never restarted by more bytes */
                deadline_start(&s->deadlines, &c->wait, c->in_body ? WAIT_BODY : WAIT_HEAD, s->now_ns);
            return;
        }
    }
}

/* continue_pipeline() resumes. */
static void pause_reading(struct conn *c)
{
    c->paused = true;
    event_del(&c->rd);
}

/* The same while a request runs, for as long as it does. */
static void leave_unread(struct conn *c)
{
    pause_reading(c);
    watch_unread(c);
}

/* Bytes behind a running request: kept in order, within a bound. */
static void read_ahead(struct conn *c, const char *data, size_t n)
{
    bytes_append(&c->in, data, n);
    if (!conn_retain(c) || c->in.len >= PIPELINE_MAX)
        leave_unread(c);
}

/* The peer sends no more. One that still waits for the rest of an answer gets it; a request that runs for nobody ends
 * here (a peer that only closed its sending side is taken for gone: tokens cost money, and clients that wait for an
 * answer keep their connection whole). */
static void read_eof(struct conn *c)
{
    bool answered = c->x.state == X_DONE || (c->state == CONN_READ && !c->begun);
    if (!answered || c->out.len == 0) {
        conn_close(c);
        return;
    }
    c->close_after = true;
    pause_reading(c);
    conn_dirty(c);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    char buf[HTTP_READ_BYTES];
    c->s->now_ns = http_now_ns();
    do {
        if (c->state == CONN_BUSY &&
            atomic_load_explicit(&c->s->held->retained, memory_order_relaxed) >= c->s->o.retained_bytes_max) {
            leave_unread(c);
            return;
        }
        ptrdiff_t n = stream_read(&c->stream, buf, sizeof(buf));
        if (n == STREAM_AGAIN_READ)
            return;
        if (n == STREAM_AGAIN_WRITE) {
            event_add(&c->wr, NULL);
            return;
        }
        if (n == STREAM_EOF) {
            read_eof(c);
            return;
        }
        if (n < 0) {
            if (c->stream.ssl && !SSL_is_init_finished(c->stream.ssl))
                counter_add(&c->s->stats.tls_failed, 1);
            conn_close(c);
            return;
        }
        switch (c->state) {
        case CONN_READ: conn_read(c, buf, (size_t)n); break;
        case CONN_BUSY: read_ahead(c, buf, (size_t)n); break;
        case CONN_LINGER:
            c->lingered += (size_t)n;
            if (c->lingered > LINGER_BYTES_MAX) {
                conn_close(c);
                return;
            }
            break;
        }
    } while (!c->paused && stream_pending(&c->stream));
}

/* ---- the turn: recycle, write, close ---- */

/* The answer has ended: make the connection ready for its next request. */
static void recycle(struct conn *c)
{
    struct http_server *s = c->s;
    exchange_fini(c);
    http_parser_reset(c->parser);
    bytes_consume(&c->body, c->body.len);
    bytes_trim(&c->body, 0);
    c->state = CONN_READ;
    c->begun = c->in_body = false;
    if (c->in.len == 0) {
        bytes_trim(&c->in, 0);
        deadline_start(&s->deadlines, &c->wait, WAIT_IDLE, s->now_ns);
    }
    conn_retain(c);
}

/* Serve what is already here of the next requests. */
static void continue_pipeline(struct conn *c)
{
    for (int i = 0; i < PIPELINE_PER_TURN; i++) {
        if (c->x.state != X_DONE || c->close_after || c->out.len >= OUT_HIGH)
            return;
        recycle(c);
        if (c->in.len) {
            struct bytes in = c->in; /* conn_read() puts the rest back */
            c->in = (struct bytes){0};
            conn_read(c, bytes_at(&in), in.len);
            bytes_fini(&in);
        }
        if (c->paused && c->in.len < PIPELINE_MAX) {
            c->paused = false;
            event_add(&c->rd, NULL);
            if (stream_pending(&c->stream))
                event_active(&c->rd, EV_READ, 0);
        }
    }
    conn_dirty(c); /* the rest in the next run, so that one pipeline cannot starve the others */
}

void conn_push(struct conn *c)
{
    if (!c->out.len || c->write_wait.next) /* else the socket was full a while ago, and flush() waits for it */
        return;
    ptrdiff_t n = stream_write(&c->stream, bytes_at(&c->out), c->out.len);
    if (n <= 0) /* flush() will see it, too */
        return;
    bytes_consume(&c->out, (size_t)n);
    counter_add(&c->s->stats.writes, 1);
}

/* False: the connection is gone. */
static bool flush(struct conn *c)
{
    struct http_server *s = c->s;
    bool progress = false;
    (void)conn_retain(c); /* who may come in is asked where requests are read */
    while (c->out.len) {
        ptrdiff_t n = stream_write(&c->stream, bytes_at(&c->out), c->out.len);
        if (n > 0) {
            bytes_consume(&c->out, (size_t)n);
            counter_add(&s->stats.writes, 1);
            progress = true;
            continue;
        }
        if (n == STREAM_AGAIN_WRITE || n == STREAM_AGAIN_READ) {
            if (n == STREAM_AGAIN_WRITE)
                event_add(&c->wr, NULL);
            if (progress || !c->write_wait.next)
                deadline_start(&s->deadlines, &c->write_wait, WAIT_WRITE, s->now_ns);
            return true;
        }
        conn_close(c);
        return false;
    }
    deadline_stop(&c->write_wait);
    bytes_trim(&c->out, c->x.state == X_STREAMING ? OUT_KEEP_STREAM : OUT_KEEP);
    (void)conn_retain(c);
    return true;
}

static void begin_linger(struct conn *c)
{
    if (c->shut)
        return;
    c->shut = true;
    if (c->stream.ssl)
        SSL_shutdown(c->stream.ssl);
    shutdown(c->stream.fd, SHUT_WR);
    deadline_start(&c->s->deadlines, &c->wait, WAIT_LINGER, c->s->now_ns);
}

void conn_turn(struct conn *c)
{
    if (c->x.state == X_STREAMING && c->out.len > HTTP_REPLY_PENDING_MAX) {
        conn_close(c);
        return;
    }
    if (!c->s->let_go.take || c->stream.ssl)
        continue_pipeline(c);
    if (!flush(c))
        return;
    struct http_exchange *x = &c->x;
    if (x->on_drain && x->state == X_STREAMING && c->out.len <= x->drain_low) {
        void (*cb)(struct http_exchange *, void *) = x->on_drain;
        x->on_drain = NULL;
        cb(x, x->handler);
    }
    if (c->out.len) {
        return;
    }
    if (c->state == CONN_LINGER)
        begin_linger(c);
    else if (c->close_after && (x->state == X_DONE || (c->state == CONN_READ && !c->begun)))
        conn_close(c);
    else if (may_go(c))
        give_away(c);
    else if (x->state == X_DONE)
        conn_dirty(c); /* the pipeline waited for the answer to drain below the mark */
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    c->s->now_ns = http_now_ns();
    if (c->stream.ssl && !c->paused)
        event_active(&c->rd, EV_READ, 0); /* TLS may have waited for room to write before it could read */
    conn_turn(c);
}

void conn_expired(struct deadline *d, int kind, void *server)
{
    struct http_server *s = server;
    s->now_ns = http_now_ns();
    struct conn *c = kind == WAIT_WRITE ? (struct conn *)((char *)d - offsetof(struct conn, write_wait))
                                        : (struct conn *)((char *)d - offsetof(struct conn, wait));
    SPW_ASSERT(c->magic == CONN_MAGIC);
    switch ((enum conn_wait)kind) {
    case WAIT_GONE: look_after_unread(c); return;
    case WAIT_IDLE:
    case WAIT_LINGER: conn_close(c); return;
    case WAIT_WRITE:
        counter_add(&s->stats.timed_out, 1);
        conn_close(c);
        return;
    case WAIT_HEAD:
    case WAIT_BODY:
        counter_add(&s->stats.timed_out, 1);
        if (!c->begun) {
            conn_close(c); /* a TLS handshake that never ended */
            return;
        }
        conn_refuse(c, 408, kind == WAIT_HEAD ? "request head took too long" : "request body took too long");
        return;
    }
}
