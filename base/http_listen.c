/* Listening sockets by address: TCP, unix, inherited. At start only: the one place that resolves names and may block. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/http_server_internal.h"

#define BACKLOG 4096

static int bound_port(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof(a);
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        return 0;
    if (a.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&a)->sin_port);
    if (a.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return 0;
}

/* A socket file nobody answers on is left over from a crash and may go; anything else stays. */
static enum rc clear_stale(const struct http_address *a, const char *path, struct error *e)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? RC_OK : error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return error_set(e, RC_CONFLICT, "%s exists and is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(e, RC_IO, "socket: %s", strerror(errno));
    int failed = connect(fd, (const struct sockaddr *)&a->addr, a->len) != 0 ? errno : 0;
    close(fd);
    if (failed != ECONNREFUSED)
        return error_set(e, RC_CONFLICT, "%s: another process listens there", path);
    if (unlink(path) != 0 && errno != ENOENT)
        return error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    return RC_OK;
}

static enum rc listen_unix(const char *listen_on, int *out, char **unix_path, struct error *e)
{
    struct http_address a;
    const char *path = listen_on + 5;
    enum rc rc = http_address_parse(&a, listen_on, 0, e);
    if (rc != RC_OK)
        return rc;
    rc = clear_stale(&a, path, e);
    if (rc != RC_OK)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(e, RC_IO, "socket: %s", strerror(errno));
    /* Nobody can connect before listen(), so the mode is right before it matters. */
    if (bind(fd, (struct sockaddr *)&a.addr, a.len) != 0 || chmod(path, 0660) != 0 || listen(fd, BACKLOG) != 0) {
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    *out = fd;
    *unix_path = spw_strdup(path);
    return RC_OK;
}

static enum rc listen_inherited(const char *number, int *out, struct error *e)
{
    char *end;
    errno = 0;
    long fd = strtol(number, &end, 10);
    int listening = 0;
    socklen_t n = sizeof(listening);
    if (errno || end == number || *end || fd < 0 || fd > INT32_MAX ||
        getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) != 0 || !listening)
        return error_set(e, RC_INVALID, "fd:%s is not a listening socket", number);
    if (evutil_make_socket_nonblocking((int)fd) != 0)
        return error_set(e, RC_IO, "fd:%s: %s", number, strerror(errno));
    *out = (int)fd;
    return RC_OK;
}

static int listen_tcp_at(const struct addrinfo *a, enum http_sharing sharing)
{
    int one = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    bool may = sharing == HTTP_LISTEN_ALONE || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0;
    if (may && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

static enum rc listen_tcp(const char *listen_on, enum http_sharing sharing, int *out, struct error *e)
{
    const char *colon = strrchr(listen_on, ':');
    size_t n = colon ? (size_t)(colon - listen_on) : 0;
    bool bracketed = n > 2 && listen_on[0] == '[' && listen_on[n - 1] == ']';
    char host[256];
    if (!colon || n == 0 || n >= sizeof(host) || (!bracketed && memchr(listen_on, ':', n)))
        return error_set(e, RC_INVALID,
                         "\"%s\" is no address: expected \"HOST:PORT\", \"[IPV6]:PORT\" or \"unix:/PATH\"", listen_on);
    memcpy(host, listen_on + bracketed, n - 2 * bracketed);
    host[n - 2 * bracketed] = '\0';
    char *end;
    long port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port > 65535)
        return error_set(e, RC_INVALID, "\"%s\": the port must be a number from 0 to 65535", listen_on);

    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    int code = getaddrinfo(host, colon + 1, &hints, &list);
    if (code != 0)
        return error_set(e, RC_IO, "%s: %s", host, gai_strerror(code));
    int fd = -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        /* A port that is shared would be shared with any process of ours: ask for it alone before. */
        if (sharing == HTTP_LISTEN_FIRST && port && (fd = listen_tcp_at(a, HTTP_LISTEN_ALONE)) < 0)
            continue;
        if (fd >= 0)
            close(fd);
        fd = listen_tcp_at(a, sharing);
    }
    code = errno;
    freeaddrinfo(list);
    if (fd < 0)
        return error_set(e, code == EADDRINUSE ? RC_CONFLICT : RC_IO, "%s: %s", listen_on, strerror(code));
    *out = fd;
    return RC_OK;
}

enum rc http_listen(const char *listen_on, enum http_sharing sharing, int *fd, int *port, char **unix_path,
                    struct error *e)
{
    enum rc rc;
    *unix_path = NULL;
    if (strncmp(listen_on, "unix:", 5) == 0)
        rc = listen_unix(listen_on, fd, unix_path, e);
    else if (strncmp(listen_on, "fd:", 3) == 0)
        rc = listen_inherited(listen_on + 3, fd, e);
    else
        rc = listen_tcp(listen_on, sharing, fd, e);
    if (rc == RC_OK)
        *port = bound_port(*fd);
    return rc;
}
