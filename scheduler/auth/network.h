/* Source networks in CIDR notation, v4 and v6. Pure functions. A v4 address seen through a v6 socket (::ffff:1.2.3.4)
 * is that v4 address. */
#ifndef SCHEDULER_AUTH_NETWORK_H
#define SCHEDULER_AUTH_NETWORK_H

#include <stdint.h>

#include "base/error.h"

struct network {
    uint8_t address[16]; /* v4 mapped into ::ffff:0:0/96 */
    uint8_t bits;        /* of the mapped form: 96 + 24 for a v4 /24 */
};

/* "10.0.0.0/8", "2001:db8::/32", or an address alone. Bits behind the prefix must be 0, so that a slip
 * ("10.1.0.0/8") is told. */
enum rc network_parse(const char *text, struct network *n, struct error *e) SPW_MUST_USE;
/* Is `peer` (an address as text; "unix" is in no network) in one of n? No networks at all: true. */
bool network_allows(const struct network *networks, int n, const char *peer);

#endif
