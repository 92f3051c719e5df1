/* TLS in front of a door: ends the TLS of a connection and relays its plain bytes over a socket pair, whose other end
 * is handled, held, passed on and answered like any plain connection (door.h), by the supervisor or by a worker. For
 * those that come while there is no worker: awake, the worker ends TLS itself on what it accepts. A connection keeps
 * its relay for its life; its TLS cannot move to another process.
 *
 *     client ==TLS== relay (supervisor) --socket pair-- door, supervisor's server, or worker
 *
 * Either side's end is the other's; what was written before it still arrives. Back-pressure goes through: at most
 * TLS_RELAY_BYTES wait for either side. Loop thread. */
#ifndef ENGINE_NODE_TLS_RELAY_H
#define ENGINE_NODE_TLS_RELAY_H

#include <event2/event.h>

#include "base/tls_door.h"

#define TLS_RELAY_BYTES        (64u * 1024)
#define TLS_RELAY_HANDSHAKE_MS 15000

struct tls_relays;
/* door: borrowed. */
struct tls_relays *tls_relays_new(struct event_base *loop, struct tls_door *door);
void tls_relays_free(struct tls_relays *r); /* ends all; NULL is fine */
/* fd, an accepted connection, becomes the relay's; what comes back is the plain end, the caller's. -1: it could not be
 * had, fd is closed. */
int tls_relays_add(struct tls_relays *r, int fd);

#endif
