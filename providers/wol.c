#include "providers/wol.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool six_bytes(const char *text, unsigned char out[6])
{
    char between = text[0] && text[1] && (text[2] == ':' || text[2] == '-') ? text[2] : '\0';
    for (int i = 0; i < 6; i++, text += 2) {
        if (i && between && *text++ != between)
            return false;
        int high = digit(text[0]), low = high < 0 ? -1 : digit(text[1]);
        if (low < 0)
            return false;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return *text == '\0';
}

enum rc wol_parse_mac(const char *text, unsigned char mac[6], struct error *e)
{
    static const unsigned char zeros[6];
    if (!six_bytes(text, mac))
        return error_set(e, RC_INVALID, "\"%.40s\" is no MAC address; like 00:25:90:ab:cd:ef is right", text);
    if ((mac[0] & 1) || memcmp(mac, zeros, 6) == 0)
        return error_set(e, RC_INVALID, "\"%.40s\" is no machine's MAC address (a group's, or nobody's)", text);
    return RC_OK;
}

enum rc wol_parse_secure(const char *text, unsigned char secure[WOL_SECURE_MAX], int *n, struct error *e)
{
    if (six_bytes(text, secure)) {
        *n = 6;
        return RC_OK;
    }
    if (inet_pton(AF_INET, text, secure) == 1) {
        *n = 4;
        return RC_OK;
    }
    return error_set(e, RC_INVALID,
                     "a SecureOn password is six bytes written as 00:25:90:ab:cd:ef or four written as 192.168.1.1");
}

size_t wol_packet(const struct wol_target *t, unsigned char packet[WOL_BYTES_MAX])
{
    memset(packet, 0xff, 6);
    for (int i = 1; i <= 16; i++)
        memcpy(packet + (size_t)i * 6, t->mac, 6);
    memcpy(packet + WOL_BYTES, t->secure, (size_t)t->n_secure);
    return WOL_BYTES + (size_t)t->n_secure;
}

enum rc wol_send(const struct wol_target *t, struct error *e)
{
    unsigned char packet[WOL_BYTES_MAX];
    size_t n = wol_packet(t, packet);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1;
    if (inet_pton(AF_INET, t->broadcast, &to.sin_addr) != 1)
        return error_set(e, RC_INVALID, "\"%s\" is no IPv4 address to broadcast to", t->broadcast);
    if (t->source[0] && inet_pton(AF_INET, t->source, &from.sin_addr) != 1)
        return error_set(e, RC_INVALID, "\"%s\" is no IPv4 address of ours", t->source);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(e, RC_IO, "socket: %s", strerror(errno));
    bool good = setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)) == 0 &&
                (!t->source[0] || bind(fd, (const struct sockaddr *)&from, sizeof(from)) == 0) &&
                sendto(fd, packet, n, 0, (const struct sockaddr *)&to, sizeof(to)) == (ssize_t)n;
    int code = errno;
    close(fd);
    return good ? RC_OK : error_set(e, RC_IO, "wake packet to %s: %s", t->broadcast, strerror(code));
}

static void on_volley(evutil_socket_t fd, short what, void *arg)
{
    struct wol_volley *w = arg;
    const struct timeval pause = {.tv_usec = WOL_PAUSE_MS * 1000};
    (void)fd;
    (void)what;
    w->tried++;
    w->sent += wol_send(&w->target, &w->why) == RC_OK;
    if (w->tried < WOL_TIMES) {
        event_add(w->timer, &pause);
        return;
    }
    event_free(w->timer);
    w->timer = NULL;
    w->cb(w->sent ? RC_OK : w->why.code, w->sent ? NULL : &w->why, w->arg);
}

void wol_start(struct wol_volley *w, struct event_base *loop, const struct wol_target *t,
               void (*cb)(enum rc rc, const struct error *e, void *arg), void *arg)
{
    const struct timeval now = {0};
    wol_stop(w);
    *w = (struct wol_volley){.target = *t, .cb = cb, .arg = arg};
    w->timer = evtimer_new(loop, on_volley, w);
    SPW_ASSERT(w->timer);
    event_add(w->timer, &now);
}

void wol_stop(struct wol_volley *w)
{
    if (w->timer)
        event_free(w->timer);
    w->timer = NULL;
}
