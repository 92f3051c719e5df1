/* From a host to a connection that may be written to: name resolution, connecting, the TLS handshake. Addresses are
 * tried in the resolver's order; each has connect_ms. */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/http_client_internal.h"
#include "base/tls.h"

#define RESOLVED_FOR_NS                                                                                                \
    (10 * INT64_C(1000000000)) /* a burst of new connections asks once; a moved host is found soon */

enum rc link_resolver_init(struct http_client *c, struct error *e)
{
    enum rc rc = http_address_parse(&c->addresses[0], c->host, c->port, e);
    if (rc == RC_OK) {
        c->n_addresses = 1;
        c->addresses_until_ns = INT64_MAX;
        return RC_OK;
    }
    if (rc != RC_NOT_FOUND)
        return rc;
    c->dns = evdns_base_new(c->loop, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (!c->dns) {
        /* No usable resolv.conf: the hosts file alone may still know the name. */
        c->dns = evdns_base_new(c->loop, 0);
        if (!c->dns)
            return error_set(e, RC_IO, "%s: no name resolver", c->host);
        (void)evdns_base_load_hosts(c->dns, "/etc/hosts");
    }
    return RC_OK;
}

void link_resolver_fini(struct http_client *c)
{
    if (c->resolving)
        c->resolving->client = NULL; /* resolved_cb() frees it */
    c->resolving = NULL;
    if (c->dns)
        evdns_base_free(c->dns, 1);
    c->dns = NULL;
}

static void take_addresses(struct http_client *c, const struct evutil_addrinfo *list)
{
    c->n_addresses = 0;
    for (const struct evutil_addrinfo *a = list; a && c->n_addresses < ADDRESSES_MAX; a = a->ai_next) {
        struct http_address *to = &c->addresses[c->n_addresses++];
        memcpy(&to->addr, a->ai_addr, a->ai_addrlen);
        to->len = a->ai_addrlen;
    }
    c->addresses_until_ns = http_now_ns() + RESOLVED_FOR_NS;
}

static struct link *first_resolving(struct http_client *c)
{
    for (struct link *l = c->running.next; l != &c->running; l = l->next)
        if (l->state == LINK_RESOLVE)
            return l;
    return NULL;
}

static void resolved_cb(int result, struct evutil_addrinfo *list, void *arg)
{
    struct resolve *r = arg;
    struct http_client *c = r->client;
    free(r);
    if (!c) {
        if (list)
            evutil_freeaddrinfo(list);
        return;
    }
    c->resolving = NULL;
    struct error e = {0};
    if (result == 0 && list)
        take_addresses(c, list);
    else
        error_set(&e, RC_IO, "%s: cannot be resolved: %s", c->host, evutil_gai_strerror(result));
    if (list)
        evutil_freeaddrinfo(list);
    /* May run inside http_call_start() when the hosts file knows the name: nothing is told from here. */
    for (struct link *l = first_resolving(c); l; l = first_resolving(c)) {
        l->state = LINK_CONNECT;
        if (e.code)
            call_fail_later(l->call, &e);
        else
            link_connect_next(l, NULL);
    }
}

static void resolve(struct http_client *c)
{
    if (c->resolving)
        return;
    struct resolve *r = spw_calloc(1, sizeof(*r));
    r->client = c;
    c->resolving = r;
    char port[8];
    snprintf(port, sizeof(port), "%d", c->port);
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_ADDRCONFIG};
    (void)evdns_getaddrinfo(c->dns, c->host, port, &hints, resolved_cb, r); /* failures come through the callback too */
}

void link_open(struct http_client *c, struct http_call *call)
{
    struct link *l = spw_calloc(1, sizeof(*l));
    l->magic = LINK_MAGIC;
    l->client = c;
    l->stream.fd = -1;
    l->call = call;
    call->link = l;
    call->phase = HTTP_PHASE_CONNECT;
    l->parser = http_parser_new(HTTP_RESPONSE, &c->o.limits);
    l->next = &c->running;
    l->prev = c->running.prev;
    l->prev->next = l;
    c->running.prev = l;
    c->stats.opened++;
    c->stats.open_connections++;
    int64_t now = http_now_ns();
    deadline_start(&c->deadlines, &l->wait, WAIT_CONNECT, now);
    if (now < c->addresses_until_ns && c->n_addresses) {
        l->state = LINK_CONNECT;
        link_connect_next(l, NULL);
    } else {
        l->state = LINK_RESOLVE;
        resolve(c);
    }
}

static void not_connected(const struct http_client *c, int code, struct error *e)
{
    if (strncmp(c->host, "unix:", 5) == 0)
        error_set(e, RC_IO, "connect to %s: %s", c->host, strerror(code));
    else
        error_set(e, RC_IO, "connect to %s port %d: %s", c->host, c->port, strerror(code));
}

static void drop_socket(struct link *l)
{
    if (l->stream.fd < 0)
        return;
    event_del(&l->rd);
    event_del(&l->wr);
    stream_close(&l->stream);
}

/* Try the next address; `last` says why the one before failed. */
void link_connect_next(struct link *l, const struct error *last)
{
    struct http_client *c = l->client;
    struct error e = {0};
    if (last)
        e = *last;
    drop_socket(l);
    while (l->address < c->n_addresses) {
        const struct http_address *a = &c->addresses[l->address++];
        int fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            error_set(&e, RC_IO, "socket: %s", strerror(errno));
            continue;
        }
        if (connect(fd, (const struct sockaddr *)&a->addr, a->len) != 0 && errno != EINPROGRESS) {
            not_connected(c, errno, &e);
            close(fd);
            continue;
        }
        l->stream.fd = fd;
        event_assign(&l->rd, c->loop, fd, EV_READ | EV_PERSIST, link_readable_cb, l);
        event_assign(&l->wr, c->loop, fd, EV_WRITE, link_writable_cb, l);
        event_add(&l->wr, NULL);
        return;
    }
    if (!e.code)
        error_set(&e, RC_IO, "%s: no address", c->host);
    c->addresses_until_ns = c->dns ? 0 : c->addresses_until_ns; /* none answered: ask the resolver again */
    call_fail_later(l->call, &e);
}

static enum rc tls_start(struct link *l, struct error *e)
{
    struct http_client *c = l->client;
    SSL *ssl = SSL_new(c->o.tls);
    l->stream.ssl = ssl;
    if (!ssl || SSL_set_fd(ssl, l->stream.fd) != 1)
        return error_set(e, RC_IO, "TLS: no memory");
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    enum rc rc = tls_client_expect(ssl, c->tls_name, e);
    if (rc != RC_OK)
        return rc;
    /* Verified once, for this name, by this context: whoever resumes it has the keys of whoever was verified. */
    tls_client_keep_session(ssl, &c->session);
    if (c->session && SSL_set_session(ssl, c->session) != 1)
        ERR_clear_error();
    SSL_set_connect_state(ssl);
    return RC_OK;
}

void link_connected(struct link *l)
{
    struct http_client *c = l->client;
    int code = 0;
    socklen_t n = sizeof(code);
    struct error e = {0};
    if (getsockopt(l->stream.fd, SOL_SOCKET, SO_ERROR, &code, &n) != 0)
        code = errno;
    if (code) {
        not_connected(c, code, &e);
        link_connect_next(l, &e);
        return;
    }
    stream_no_delay(l->stream.fd);
    if (!c->o.tls) {
        link_active(l);
        return;
    }
    if (tls_start(l, &e) != RC_OK) {
        call_fail_later(l->call, &e);
        return;
    }
    l->state = LINK_HANDSHAKE;
    event_add(&l->rd, NULL);
    link_handshake(l);
}

void link_handshake(struct link *l)
{
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(l->stream.ssl);
    if (result == 1) {
        l->client->stats.tls_resumed += tls_client_connected(l->stream.ssl);
        link_active(l);
        return;
    }
    int code = SSL_get_error(l->stream.ssl, result);
    if (code == SSL_ERROR_WANT_READ)
        return;
    if (code == SSL_ERROR_WANT_WRITE) {
        event_add(&l->wr, NULL);
        return;
    }
    struct error e;
    stream_error(&l->stream, l->client->host, &e);
    /* In case it was the session that the server did not like: the next one begins anew. */
    SSL_SESSION_free(l->client->session);
    l->client->session = NULL;
    call_fail_later(l->call, &e);
}
