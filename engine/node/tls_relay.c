#include "engine/node/tls_relay.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"

struct relay {
    struct relay *prev, *next;
    struct tls_relays *all;
    struct bufferevent *outer, *inner; /* owned; TLS, plain */
    bool ending;                       /* one side has ended: the other gets what is left, and ends */
};

struct tls_relays {
    struct event_base *loop;
    struct tls_door *door;
    struct relay ring;
};

static void relay_free(struct relay *r)
{
    SSL *ssl = bufferevent_openssl_get_ssl(r->outer);
    SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN); /* the other side's farewell is not waited for */
    SSL_shutdown(ssl);
    ERR_clear_error(); /* of one that was broken: it is nobody else's */
    bufferevent_free(r->outer);
    bufferevent_free(r->inner);
    r->prev->next = r->next;
    r->next->prev = r->prev;
    free(r);
}

static struct bufferevent *other(const struct relay *r, const struct bufferevent *b)
{
    return b == r->outer ? r->inner : r->outer;
}

static size_t waiting(struct bufferevent *b)
{
    return evbuffer_get_length(bufferevent_get_output(b));
}

static void on_read(struct bufferevent *from, void *arg)
{
    struct relay *r = arg;
    struct bufferevent *to = other(r, from);
    bufferevent_read_buffer(from, bufferevent_get_output(to));
    if (waiting(to) >= TLS_RELAY_BYTES)
        bufferevent_disable(from, EV_READ);
}

/* All that waited has gone. */
static void on_written(struct bufferevent *to, void *arg)
{
    struct relay *r = arg;
    if (r->ending)
        relay_free(r);
    else
        bufferevent_enable(other(r, to), EV_READ);
}

static void on_event(struct bufferevent *from, short what, void *arg)
{
    struct relay *r = arg;
    struct bufferevent *to = other(r, from);
    if (what & BEV_EVENT_CONNECTED) { /* hands are shaken: from now on others mind the time */
        bufferevent_set_timeouts(r->outer, NULL, NULL);
        bufferevent_enable(r->inner, EV_READ | EV_WRITE);
        return;
    }
    bufferevent_read_buffer(from, bufferevent_get_output(to));
    if (r->ending || waiting(to) == 0) {
        relay_free(r);
        return;
    }
    r->ending = true;
    bufferevent_disable(from, EV_READ | EV_WRITE);
    bufferevent_disable(to, EV_READ);
}

int tls_relays_add(struct tls_relays *all, int fd)
{
    int pair[2], one = 1;
    const struct timeval patience = {.tv_sec = TLS_RELAY_HANDSHAKE_MS / 1000};
    SSL *ssl = tls_door_open(all->door);
    if (!ssl || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) {
        SSL_free(ssl);
        close(fd);
        return -1;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct relay *r = spw_calloc(1, sizeof *r);
    r->all = all;
    r->outer = bufferevent_openssl_socket_new(all->loop, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    r->inner = bufferevent_socket_new(all->loop, pair[0], BEV_OPT_CLOSE_ON_FREE);
    SPW_ASSERT(r->outer && r->inner); /* else there is no memory */
    r->next = &all->ring;
    r->prev = all->ring.prev;
    r->prev->next = all->ring.prev = r;
    bufferevent_openssl_set_allow_dirty_shutdown(r->outer, 1);
    bufferevent_setcb(r->outer, on_read, on_written, on_event, r);
    bufferevent_setcb(r->inner, on_read, on_written, on_event, r);
    bufferevent_setwatermark(r->outer, EV_READ, 0, TLS_RELAY_BYTES);
    bufferevent_setwatermark(r->inner, EV_READ, 0, TLS_RELAY_BYTES);
    bufferevent_set_timeouts(r->outer, &patience, &patience);
    bufferevent_enable(r->outer, EV_READ | EV_WRITE);
    return pair[1];
}

struct tls_relays *tls_relays_new(struct event_base *loop, struct tls_door *door)
{
    struct tls_relays *all = spw_calloc(1, sizeof *all);
    *all = (struct tls_relays){.loop = loop, .door = door};
    all->ring.prev = all->ring.next = &all->ring;
    return all;
}

void tls_relays_free(struct tls_relays *all)
{
    if (!all)
        return;
    for (struct relay *r = all->ring.next, *next; r != &all->ring; r = next) {
        next = r->next;
        relay_free(r);
    }
    free(all);
}
