/* The life of a server: options, accepting, the per-turn dirty list, drain. Connections are http_conn.c, what handlers
 * call is http_reply.c, the picture of it all is in http_server_internal.h. */
#include "base/http_server.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/http_server_internal.h"

#define ACCEPT_PER_TURN 64
#define ACCEPT_AGAIN_MS 100  /* out of descriptors: whoever gives one back need not be a connection of ours */
#define PART_MS         200  /* a request may be on its way over an idle connection as we part */
#define FIRST_MS        2000 /* the first one of a connection with TLS, whose hands are just being shaken */

static int64_t ms_or(int64_t ms, int64_t otherwise_ms)
{
    return (ms ? ms : otherwise_ms) * 1000000;
}

/* Beyond a bound on connections: told so, and let go of within LINGER_MS. A few at a time, since they cost a
 * connection, too; the rest, and who has to shake hands first, are closed without a word. */
static void turn_away(struct http_server *s, int fd, const struct sockaddr_storage *peer, bool client_full)
{
    counter_add(client_full ? &s->stats.refused_client : &s->stats.refused_full, 1);
    if (s->o.tls || s->turned_away >= TURNED_AWAY_MAX) {
        close(fd);
        return;
    }
    struct conn *c = conn_new(s, fd, peer, NULL);
    c->turned_away = true; /* does not count as held */
    atomic_fetch_sub_explicit(&s->held->connections, 1, memory_order_relaxed);
    s->turned_away++;
    if (client_full)
        conn_refuse(c, 429, "too many connections from this address; reuse them, or close some");
    else
        conn_refuse(c, 503, "too many connections, try again later");
}

/* fd is the server's whatever comes of it; NULL: it was turned away. */
static struct conn *admit(struct http_server *s, int fd, const struct sockaddr_storage *peer, struct tls_door *tls)
{
    struct peer_key client = peer_key(peer);
    counter_add(&s->stats.accepted, 1);
    if (atomic_load_explicit(&s->held->connections, memory_order_relaxed) >= s->o.connections_max) {
        turn_away(s, fd, peer, false);
        return NULL;
    }
    if (s->o.peers && !peers_enter(s->o.peers, &client)) {
        turn_away(s, fd, peer, true);
        return NULL;
    }
    struct conn *c = conn_new(s, fd, peer, tls);
    if (s->o.peers)
        c->client = client;
    return c;
}

/* Out of descriptors or memory. The backlog stays readable and would spin the loop: it is left alone until a connection
 * of ours closes, or for a moment, since the last descriptor may be another server's, a node's or a file's. */
static void pause_listening(struct http_server *s)
{
    const struct timeval again = {.tv_usec = ACCEPT_AGAIN_MS * 1000};

    s->listener_paused = true;
    event_del(s->listener);
    event_add(s->again, &again);
}

static void resume_listening(struct http_server *s)
{
    if (!s->listener_paused || !s->listener)
        return;
    s->listener_paused = false;
    event_del(s->again);
    if (s->accepting == HTTP_ACCEPT)
        event_add(s->listener, NULL);
}

static void again_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    resume_listening(arg);
}

static void accept_cb(evutil_socket_t listen_fd, short what, void *arg)
{
    (void)what;
    struct http_server *s = arg;
    s->now_ns = http_now_ns();
    for (int i = 0; i < ACCEPT_PER_TURN; i++) {
        struct sockaddr_storage peer;
        socklen_t n = sizeof(peer);
        memset(&peer, 0, sizeof(peer));
        int fd = accept4(listen_fd, (struct sockaddr *)&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                pause_listening(s);
            if (errno != EINTR && errno != ECONNABORTED)
                return;
            continue;
        }
        (void)admit(s, fd, &peer, s->o.tls);
    }
}

static void adopt(struct http_server *s, int fd, const void *read, size_t n, struct tls_door *tls)
{
    struct sockaddr_storage peer;
    socklen_t n_peer = sizeof(peer);
    memset(&peer, 0, sizeof(peer));
    (void)getpeername(fd, (struct sockaddr *)&peer, &n_peer);
    s->now_ns = http_now_ns();
    if (evutil_make_socket_nonblocking(fd) != 0 || s->draining) {
        counter_add(&s->stats.accepted, 1);
        counter_add(&s->stats.refused_full, 1);
        close(fd);
        return;
    }
    struct conn *c = admit(s, fd, &peer, tls);
    if (c && n)
        conn_read(c, read, n);
}

void http_server_adopt(struct http_server *s, int fd, const void *read, size_t n)
{
    adopt(s, fd, read, n, s->o.tls);
}

void http_server_adopt_plain(struct http_server *s, int fd, const void *read, size_t n)
{
    adopt(s, fd, read, n, NULL);
}

/* Whatever the callbacks of this loop turn queued. Runs last: event_active() put it behind them. */
static void turn_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_server *s = arg;
    s->turn_queued = false;
    s->now_ns = http_now_ns();
    /* Only as many as there are now: what gets dirty meanwhile waits for the next run, or one busy peer could keep us. */
    for (int n = s->n_dirty; n > 0 && s->dirty.dirty_next != &s->dirty; n--) {
        struct conn *c = s->dirty.dirty_next;
        conn_clean(c);
        conn_turn(c);
    }
}

static void drained_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_server *s = arg;
    if (s->draining) {
        if (s->drain_done)
            s->drain_done(s->drain_arg); /* may free the server: nothing after it */
        return;
    }
    if (s->let_go.empty && counter_get(&s->stats.open_connections) == 0)
        s->let_go.empty(s->let_go.arg); /* the same */
}

void server_conn_gone(struct http_server *s)
{
    counter_add(&s->stats.open_connections, -1);
    resume_listening(s);
    if ((s->draining || s->let_go.empty) && counter_get(&s->stats.open_connections) == 0)
        event_active(s->drained, EV_TIMEOUT, 0);
}

static void stop_listening(struct http_server *s)
{
    if (!s->listener)
        return;
    event_free(s->listener);
    event_del(s->again);
    s->listener = NULL;
    close(s->listen_fd);
    struct stat st;
    if (s->unix_path && stat(s->unix_path, &st) == 0 && st.st_dev == s->unix_dev && st.st_ino == s->unix_ino)
        unlink(s->unix_path); /* only while it is still ours: a successor may have replaced it */
}

static bool is_idle(const struct conn *c)
{
    return c->state == CONN_READ && !c->begun && c->out.len == 0;
}

/* Bytes that arrived and were not read are a request that nobody may lose. */
static bool has_unread(const struct conn *c)
{
    char byte;
    return recv(c->stream.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* It ends after its answer, or when it has had time to send what was on its way, and sent nothing. */
static void part_with(struct conn *c)
{
    c->close_after = true;
    if (!is_idle(c))
        conn_dirty(c);
}

static void part_later(struct http_server *s)
{
    const struct timeval part = {.tv_usec = PART_MS * 1000};
    event_add(s->part, &part);
}

/* Its first request is still to come: whoever has only just come cannot know that he came too late. */
static bool is_new(const struct conn *c, int64_t now_ns)
{
    return c->stream.ssl && !c->served && now_ns - c->came_ns < FIRST_MS * INT64_C(1000000);
}

/* No request is running on what is closed here, so no handler runs inside conn_close() and `next` stays good. */
static void part_cb(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    const int64_t now_ns = http_now_ns();
    bool again = false;
    (void)fd;
    (void)what;
    if (!s->draining && !s->let_go.take)
        return;
    for (struct conn *c = s->all.next, *next; c != &s->all; c = next) {
        next = c->next;
        if (!c->close_after || !is_idle(c))
            continue;
        if (has_unread(c) || is_new(c, now_ns))
            again = true;
        else
            conn_close(c);
    }
    if (again)
        part_later(s);
}

enum rc http_server_new(struct http_server **out, struct event_base *loop, const char *listen_on,
                        const struct http_server_options *o, const struct http_server_handlers *h, void *arg,
                        struct error *e)
{
    int fd = -1, port = 0;
    char *unix_path = NULL;
    enum rc rc = http_listen(listen_on, o ? o->sharing : HTTP_LISTEN_ALONE, &fd, &port, &unix_path, e);
    if (rc != RC_OK)
        return rc;
    struct http_server *s = spw_calloc(1, sizeof(*s));
    s->loop = loop;
    s->o = o ? *o : (struct http_server_options){0};
    s->h = *h;
    s->held = s->o.held ? s->o.held : &s->own;
    s->arg = arg;
    s->listen_fd = fd;
    s->port = port;
    s->unix_path = unix_path;
    if (!s->o.connections_max)
        s->o.connections_max = 20000;
    if (!s->o.retained_bytes_max)
        s->o.retained_bytes_max = (size_t)1 << 30;
    if (s->o.tls)
        signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    struct stat st;
    if (unix_path && stat(unix_path, &st) == 0) {
        s->unix_dev = st.st_dev;
        s->unix_ino = st.st_ino;
    }
    s->all.prev = s->all.next = &s->all;
    s->dirty.dirty_prev = s->dirty.dirty_next = &s->dirty;
    deadlines_init(&s->deadlines, loop, conn_expired, s);
    s->deadlines.kinds[WAIT_IDLE].after_ns = ms_or(s->o.idle_ms, 75000);
    s->deadlines.kinds[WAIT_HEAD].after_ns = ms_or(s->o.head_ms, 15000);
    s->deadlines.kinds[WAIT_BODY].after_ns = ms_or(s->o.body_ms, 120000);
    s->deadlines.kinds[WAIT_WRITE].after_ns = ms_or(s->o.write_ms, 60000);
    s->deadlines.kinds[WAIT_LINGER].after_ns = ms_or(LINGER_MS, 0);
    s->deadlines.kinds[WAIT_GONE].after_ns = ms_or(GONE_MS, 0);
    s->turn = event_new(loop, -1, 0, turn_cb, s);
    s->drained = event_new(loop, -1, 0, drained_cb, s);
    s->part = evtimer_new(loop, part_cb, s);
    s->again = evtimer_new(loop, again_cb, s);
    s->listener = event_new(loop, fd, EV_READ | EV_PERSIST, accept_cb, s);
    SPW_ASSERT(s->turn && s->drained && s->part && s->again && s->listener);
    event_add(s->listener, NULL);
    *out = s;
    return RC_OK;
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    stop_listening(s);
    s->draining = false; /* nobody waits any more */
    s->let_go = (struct http_letting_go){0};
    while (s->all.next != &s->all)
        conn_close(s->all.next);
    event_free(s->turn);
    event_free(s->drained);
    event_free(s->part);
    event_free(s->again);
    deadlines_fini(&s->deadlines);
    free(s->unix_path);
    free(s);
}

int http_server_port(const struct http_server *s)
{
    return s->port;
}

void http_server_drain(struct http_server *s, void (*done)(void *arg), void *arg)
{
    stop_listening(s);
    s->draining = true;
    s->drain_done = done;
    s->drain_arg = arg;
    for (struct conn *c = s->all.next; c != &s->all; c = c->next)
        part_with(c);
    part_later(s);
    if (counter_get(&s->stats.open_connections) == 0)
        event_active(s->drained, EV_TIMEOUT, 0);
}

void http_server_accepting(struct http_server *s, enum http_accepting a)
{
    s->accepting = a;
    if (!s->listener || s->listener_paused)
        return;
    if (a == HTTP_ACCEPT)
        event_add(s->listener, NULL);
    else
        event_del(s->listener);
}

void http_server_let_go(struct http_server *s, const struct http_letting_go *g)
{
    s->let_go = *g;
    for (struct conn *c = s->all.next; g->take && c != &s->all; c = c->next) {
        if (c->stream.ssl)
            part_with(c); /* what TLS knows of it cannot go along */
        else
            conn_dirty(c);
    }
    if (g->take)
        part_later(s);
    if (g->empty && counter_get(&s->stats.open_connections) == 0)
        event_active(s->drained, EV_TIMEOUT, 0);
}

struct http_server_stats http_server_stats(const struct http_server *s)
{
    const struct server_counts *c = &s->stats;
    return (struct http_server_stats){
        .accepted = (uint64_t)counter_get(&c->accepted),
        .requests = (uint64_t)counter_get(&c->requests),
        .writes = (uint64_t)counter_get(&c->writes),
        .refused_framing = (uint64_t)counter_get(&c->refused_framing),
        .refused_full = (uint64_t)counter_get(&c->refused_full),
        .refused_client = (uint64_t)counter_get(&c->refused_client),
        .tls_failed = (uint64_t)counter_get(&c->tls_failed),
        .timed_out = (uint64_t)counter_get(&c->timed_out),
        .aborted = (uint64_t)counter_get(&c->aborted),
        .open_connections = (int)counter_get(&c->open_connections),
        .active_exchanges = (int)counter_get(&c->active_exchanges),
    };
}

void http_server_keep_path(struct http_server *s)
{
    free(s->unix_path);
    s->unix_path = NULL;
}

int http_server_fd(const struct http_server *s)
{
    return s->listener ? s->listen_fd : -1;
}
