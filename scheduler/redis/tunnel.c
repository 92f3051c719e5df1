#include "scheduler/redis/tunnel.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/tls.h"

#define RECORD_BYTES 16384 /* of plain text in one of TLS */

struct half { /* on its way; empty again before more is read */
    size_t from, n;
    char data[RECORD_BYTES];
};

struct redis_tunnel {
    SSL *ssl;
    int tcp, inner; /* ours; inner -1: it has ended */
    struct event *tcp_read, *tcp_write, *inner_read, *inner_write;
    bool shaken;        /* the handshake is done */
    bool wants_write;   /* TLS does, before anything else */
    bool server_closed; /* what it has sent before still goes to hiredis */
    struct half to_us, to_server;
    char why[160];
};

static void end(struct redis_tunnel *t, const char *why)
{
    if (t->inner < 0)
        return;
    snprintf(t->why, sizeof t->why, "%s", why);
    event_del(t->tcp_read);
    event_del(t->tcp_write);
    event_del(t->inner_read);
    event_del(t->inner_write);
    close(t->inner);
    t->inner = -1;
}

/* Of the call that said `result`. False: it waits for the socket, or the tunnel has ended. */
static bool went_on(struct redis_tunnel *t, int result)
{
    int saved = errno, code = SSL_get_error(t->ssl, result);
    char why[160];
    if (result > 0)
        return true;
    if (code == SSL_ERROR_WANT_READ)
        return false;
    if (code == SSL_ERROR_WANT_WRITE) {
        t->wants_write = true;
        return false;
    }
    long verdict = SSL_get_verify_result(t->ssl);
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    if (code == SSL_ERROR_ZERO_RETURN)
        t->server_closed = true;
    else if (verdict != X509_V_OK)
        snprintf(why, sizeof why, "certificate refused: %s", X509_verify_cert_error_string(verdict));
    else
        snprintf(why, sizeof why, "%s%s", reason ? "TLS: " : "", reason ? reason : saved ? strerror(saved) : "closed");
    if (!t->server_closed)
        end(t, why);
    return false;
}

static void before_tls(void)
{
    ERR_clear_error();
    errno = 0;
}

/* Each says whether it has moved anything. */

static bool read_server(struct redis_tunnel *t)
{
    if (t->to_us.n || t->server_closed)
        return false;
    before_tls();
    int n = SSL_read(t->ssl, t->to_us.data, sizeof t->to_us.data);
    if (!went_on(t, n))
        return false;
    t->to_us.from = 0;
    t->to_us.n = (size_t)n;
    return true;
}

static bool write_inner(struct redis_tunnel *t)
{
    if (t->inner < 0 || !t->to_us.n)
        return false;
    ssize_t n = send(t->inner, t->to_us.data + t->to_us.from, t->to_us.n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        end(t, ""); /* nobody is there to read it */
    if (n <= 0)
        return false;
    t->to_us.from += (size_t)n;
    t->to_us.n -= (size_t)n;
    return true;
}

static bool read_inner(struct redis_tunnel *t)
{
    if (t->inner < 0 || t->to_server.n)
        return false;
    ssize_t n = recv(t->inner, t->to_server.data, sizeof t->to_server.data, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        SSL_shutdown(t->ssl); /* as far as it goes at once */
        end(t, "");
    }
    if (n <= 0)
        return false;
    t->to_server.from = 0;
    t->to_server.n = (size_t)n;
    return true;
}

static bool write_server(struct redis_tunnel *t)
{
    if (t->inner < 0 || !t->to_server.n)
        return false;
    before_tls();
    int n = SSL_write(t->ssl, t->to_server.data + t->to_server.from, (int)t->to_server.n);
    if (!went_on(t, n))
        return false;
    t->to_server.from += (size_t)n;
    t->to_server.n -= (size_t)n;
    return true;
}

static void want(struct event *ev, bool wanted)
{
    if (wanted)
        event_add(ev, NULL);
    else
        event_del(ev);
}

static void move(struct redis_tunnel *t)
{
    t->wants_write = false;
    if (!t->shaken) {
        before_tls();
        t->shaken = went_on(t, SSL_do_handshake(t->ssl));
    }
    for (bool moved = t->shaken; moved && t->inner >= 0;) {
        moved = read_server(t);
        moved = write_inner(t) || moved;
        moved = read_inner(t) || moved;
        moved = write_server(t) || moved;
    }
    if (t->server_closed && !t->to_us.n)
        end(t, "closed");
    if (t->inner < 0)
        return;
    want(t->tcp_read, !t->shaken || (!t->to_us.n && !t->server_closed));
    want(t->tcp_write, t->wants_write);
    want(t->inner_read, t->shaken && !t->to_server.n);
    want(t->inner_write, t->to_us.n > 0);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    move(arg);
}

static enum rc begin(struct redis_tunnel *t, const struct redis_tunnel_options *o, int inner, struct error *e)
{
    t->ssl = SSL_new(o->tls);
    if (!t->ssl || SSL_set_fd(t->ssl, t->tcp) != 1 || SSL_set_alpn_protos(t->ssl, NULL, 0) != 0)
        return error_set(e, RC_IO, "TLS: no memory");
    SSL_set_mode(t->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_set_connect_state(t->ssl);
    enum rc rc = tls_client_expect(t->ssl, o->host, e);
    t->tcp_read = event_new(o->loop, t->tcp, EV_READ | EV_PERSIST, on_event, t);
    t->tcp_write = event_new(o->loop, t->tcp, EV_WRITE | EV_PERSIST, on_event, t);
    t->inner_read = event_new(o->loop, inner, EV_READ | EV_PERSIST, on_event, t);
    t->inner_write = event_new(o->loop, inner, EV_WRITE | EV_PERSIST, on_event, t);
    bool events = t->tcp_read && t->tcp_write && t->inner_read && t->inner_write;
    if (rc == RC_OK && (!events || event_add(t->tcp_write, NULL) != 0)) /* begins once it is connected */
        rc = error_set(e, RC_IO, "the event loop takes no event");
    return rc;
}

enum rc redis_tunnel_new(struct redis_tunnel **out, const struct redis_tunnel_options *o, int *inner, struct error *e)
{
    struct redis_tunnel *t = spw_calloc(1, sizeof *t);
    int pair[2];

    *out = NULL;
    t->tcp = o->tcp;
    t->inner = -1;
    enum rc rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0
                     ? RC_OK
                     : error_set(e, RC_IO, "no pair of sockets: %s", strerror(errno));
    if (rc == RC_OK) {
        t->inner = pair[1];
        rc = evutil_make_socket_nonblocking(t->tcp) == 0 ? begin(t, o, pair[1], e)
                                                         : error_set(e, RC_IO, "%s", strerror(errno));
        if (rc != RC_OK)
            close(pair[0]);
    }
    if (rc != RC_OK) {
        redis_tunnel_free(t);
        return rc;
    }
    *inner = pair[0];
    *out = t;
    return RC_OK;
}

void redis_tunnel_free(struct redis_tunnel *t)
{
    if (!t)
        return;
    struct event *events[] = {t->tcp_read, t->tcp_write, t->inner_read, t->inner_write};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (events[i])
            event_free(events[i]);
    }
    SSL_free(t->ssl);
    close(t->tcp);
    if (t->inner >= 0)
        close(t->inner);
    OPENSSL_cleanse(&t->to_server, sizeof t->to_server); /* passwords go through it */
    free(t);
}

const char *redis_tunnel_why(const struct redis_tunnel *t)
{
    return t->why;
}
