/* A blocking connection to a Redis, for threads that may wait; with TLS where a context is given. */
#ifndef SCHEDULER_REDIS_DIAL_H
#define SCHEDULER_REDIS_DIAL_H

#include <hiredis/hiredis.h>
#include <openssl/ssl.h>

#include "base/error.h"

struct redis_dial {   /* borrowed for the call */
    const char *host; /* a name, an address, or unix:PATH */
    int port;
    SSL_CTX *tls; /* NULL: plain text */
    int limit_s;  /* of connecting, and of each command */
};
struct redis_dialed {
    redisContext *c;
    struct redis_pump *pump; /* NULL: plain text */
};
/* RC_IO: it cannot be had now. */
enum rc redis_dial(struct redis_dialed *d, const struct redis_dial *o, struct error *e) SPW_MUST_USE;
void redis_hang_up(struct redis_dialed *d); /* of what was never dialed, or twice: nothing */
/* Why TLS has ended the connection, which hiredis cannot tell; "": it has not. */
const char *redis_dialed_why(const struct redis_dialed *d);

#endif
