/* Where a Redis is, as the configuration has it: "HOST:PORT", "[ADDRESS]:PORT" or "unix:PATH", the first two maybe
 * behind "rediss://" (TLS) or "redis://". Checked by the configuration's schema. */
#ifndef SCHEDULER_REDIS_ADDRESS_H
#define SCHEDULER_REDIS_ADDRESS_H

#include <stdbool.h>

char *redis_address_split(const char *address, int *port); /* the host, or "unix:PATH"; the caller's */
const char *redis_address_plain(const char *address);      /* what stands behind the scheme */
bool redis_address_is_tls(const char *address);

#endif
