/* What a listener shows to whom: a certificate, an authority for the certificates of clients, the keys of its session
 * tickets. Shared by all servers of a listener, whatever loop they run on; replaced while it serves: connections that
 * are open keep what they began with, the next ones get the new.
 *
 *     tls_door_new() -> serving: tls_door_open() for each connection -> tls_door_free() once no server has it any more
 *                        |  ^
 *                        |  +-- tls_door_replace(): all of it, or nothing with an error
 *                        +-- tls_door_stale(): a file is not the one that was read
 *
 * Ticket keys are random, live in memory, and are made anew every TLS_SESSION_S and at each replacement; the two before
 * the newest are still taken, so that a certificate's renewal costs nobody a full handshake. Any thread. */
#ifndef BASE_TLS_DOOR_H
#define BASE_TLS_DOOR_H

#include "base/clock.h"
#include "base/tls.h"

struct tls_door;
/* Reads the files (blocks). clock: borrowed. */
enum rc tls_door_new(struct tls_door **d, const struct tls_server_files *f, const struct clock *clock,
                     struct error *e) SPW_MUST_USE;
void tls_door_free(struct tls_door *d); /* what it opened lives on; NULL is fine */
/* A client's certificate must be for this name, not only signed by client_ca. Before it opens anything. */
void tls_door_expect(struct tls_door *d, const char *client_name);
/* For a connection that was accepted, in the state of one; the caller's. NULL: no memory. */
SSL *tls_door_open(struct tls_door *d);
/* Read the files (blocks), other ones maybe, and show them from now on. On an error all is as it was. */
enum rc tls_door_replace(struct tls_door *d, const struct tls_server_files *f, struct error *e) SPW_MUST_USE;
/* The same with the paths it has. */
enum rc tls_door_reread(struct tls_door *d, struct error *e) SPW_MUST_USE;
/* Has one of the files another time, size or inode than when it was read? A few stat(2). */
bool tls_door_stale(struct tls_door *d);

#endif
