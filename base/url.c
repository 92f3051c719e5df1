#include "base/url.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

/* HOST[:PORT] in n bytes. *port untouched where there is none. False: it is something else. */
static bool split(const char *text, size_t n, char host[URL_HOST_MAX + 1], int *port)
{
    const char *close = *text == '[' ? memchr(text, ']', n) : NULL;
    const char *begin = *text == '[' ? text + 1 : text, *end = text + n;
    const char *colon = close ? close + 1 : memchr(text, ':', n);
    const char *host_end = close ? close : colon ? colon : end;
    char digits[sizeof "65535"];
    int64_t v;

    if ((*text == '[' && !close) || host_end <= begin || host_end - begin > URL_HOST_MAX)
        return false;
    memcpy(host, begin, (size_t)(host_end - begin));
    host[host_end - begin] = '\0';
    if (!colon || colon == end)
        return true;
    if (*colon != ':' || end - colon > (ptrdiff_t)sizeof digits)
        return false;
    memcpy(digits, colon + 1, (size_t)(end - colon - 1));
    digits[end - colon - 1] = '\0';
    if (text_parse_int(digits, 0, 65535, &v) != RC_OK)
        return false;
    *port = (int)v;
    return true;
}

enum rc url_parse(struct url *u, const char *text, struct error *e)
{
    *u = (struct url){.tls = strncmp(text, "https://", 8) == 0};
    if (!u->tls && strncmp(text, "http://", 7) != 0)
        return error_set(e, RC_INVALID, "\"%.120s\" is not a URL; write https://HOST:PORT", text);
    const char *host = text + (u->tls ? 8 : 7);
    const size_t n = strcspn(host, "/?#");
    if (memchr(host, '@', n))
        return error_set(e, RC_INVALID, "a URL with a name and password in it is not right; write https://HOST:PORT");
    if (host[n] && strcmp(host + n, "/") != 0)
        return error_set(e, RC_INVALID, "\"%.120s\" has a path; write https://HOST:PORT", text);
    u->port = u->tls ? 443 : 80;
    if (!split(host, n, u->host, &u->port) || u->port == 0)
        return error_set(e, RC_INVALID, "\"%.120s\" names no host and port from 1 to 65535; write https://HOST:PORT",
                         text);
    return RC_OK;
}

bool url_is_loopback(const char *address)
{
    char host[URL_HOST_MAX + 1];
    struct in_addr v4;
    struct in6_addr v6;
    int port;

    if (!split(address, strlen(address), host, &port))
        return false;
    if (*address == '[')
        return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
    return strcasecmp(host, "localhost") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET);
}
