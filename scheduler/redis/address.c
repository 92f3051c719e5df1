#include "scheduler/redis/address.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

bool redis_address_is_tls(const char *address)
{
    return strncmp(address, "rediss://", 9) == 0;
}

const char *redis_address_plain(const char *address)
{
    if (redis_address_is_tls(address))
        return address + 9;
    return strncmp(address, "redis://", 8) == 0 ? address + 8 : address;
}

char *redis_address_split(const char *address, int *port)
{
    *port = 0;
    address = redis_address_plain(address);
    if (strncmp(address, "unix:", 5) == 0)
        return spw_strdup(address);
    const char *colon = strrchr(address, ':'), *host = address;
    size_t n = (size_t)(colon - address);
    *port = (int)strtol(colon + 1, NULL, 10);
    if (n > 2 && host[0] == '[') {
        host++;
        n -= 2;
    }
    return spw_asprintf("%.*s", (int)n, host);
}
