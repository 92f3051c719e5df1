/* Where a server is, as people write it: http[s]://HOST[:PORT]. Pure functions. */
#ifndef BASE_URL_H
#define BASE_URL_H

#include <stdbool.h>

#include "base/error.h"

#define URL_HOST_MAX 255

struct url {
    bool tls;                    /* https */
    int port;                    /* 443 or 80 where none is given */
    char host[URL_HOST_MAX + 1]; /* a name, or an address without brackets */
};

/* Nothing may follow but a slash. RC_INVALID: *e says what it is instead, and what would be right; it does not say whose. */
enum rc url_parse(struct url *u, const char *text, struct error *e) SPW_MUST_USE;

/* HOST[:PORT] (port 0: any), with an IPv6 address in brackets: is it this machine and can be no other, whatever names
 * are resolved to? True of localhost, ::1 and all of 127.0.0.0/8; a name that only begins like them is none of them. */
bool url_is_loopback(const char *address);

#endif
