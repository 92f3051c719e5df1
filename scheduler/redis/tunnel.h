/* TLS for a program that speaks to a socket: hiredis 0.14, as in Debian 12, knows none. It gets one end of a pair of
 * sockets; what goes in there is encrypted to the server, and the other way round, on the event loop.
 *
 *     hiredis <--> inner == tunnel == tcp <--> server
 *
 * The server's chain is verified against the context's authorities, and its name. When either side closes, or the
 * handshake fails, the other side is closed: hiredis sees the end of its connection, and redis_tunnel_why() says why it
 * was. Keeps one TLS record in each direction; more waits in the sockets. Thread: the loop's. */
#ifndef SCHEDULER_REDIS_TUNNEL_H
#define SCHEDULER_REDIS_TUNNEL_H

#include <event2/event.h>
#include <openssl/ssl.h>

#include "base/error.h"

struct redis_tunnel;
struct redis_tunnel_options { /* borrowed for the call, but for the loop */
    struct event_base *loop;
    SSL_CTX *tls;     /* of tls_client_new() */
    const char *host; /* name or address that the certificate must be for */
    int tcp;          /* connected, or about to be; goes over, also when it fails */
};
/* *inner: the caller's. */
enum rc redis_tunnel_new(struct redis_tunnel **t, const struct redis_tunnel_options *o, int *inner,
                         struct error *e) SPW_MUST_USE;
void redis_tunnel_free(struct redis_tunnel *t); /* NULL is fine */
/* Why it ended; "" while it has not, or where hiredis ended it. */
const char *redis_tunnel_why(const struct redis_tunnel *t);

#endif
