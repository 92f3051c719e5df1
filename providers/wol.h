/* Wake-on-LAN: the magic packet (six bytes FF, then the machine's MAC address sixteen times: 102 bytes), with a
 * SecureOn password of 4 or 6 bytes behind it where the card wants one, as UDP to a broadcast address. Nothing answers:
 * whether it woke somebody has to be seen elsewhere. It is sent three times, since nothing repeats a lost one; routers
 * do not pass it on, so the broadcast must be one of a network that we are in. Pure, but for wol_send(), which does not
 * block. */
#ifndef PROVIDERS_WOL_H
#define PROVIDERS_WOL_H

#include <event2/event.h>
#include <stddef.h>

#include "base/error.h"

#define WOL_BYTES      102
#define WOL_BYTES_MAX  108
#define WOL_TIMES      3
#define WOL_PAUSE_MS   100
#define WOL_PORT       9
#define WOL_SECURE_MAX 6

struct wol_target {
    unsigned char mac[6];
    unsigned char secure[WOL_SECURE_MAX];
    int n_secure;       /* 0, 4 or 6 */
    char broadcast[46]; /* "255.255.255.255", "192.168.7.255" */
    int port;
    char source[46]; /* our address on the network to use; "": the system chooses */
};

/* "AA:BB:CC:DD:EE:FF", "aa-bb-..", "aabbccddeeff". RC_INVALID, also for a group's address or all zeros. */
enum rc wol_parse_mac(const char *text, unsigned char mac[6], struct error *e) SPW_MUST_USE;
/* Six bytes as a MAC is written, or four as an IPv4 address. The text does not appear in errors. */
enum rc wol_parse_secure(const char *text, unsigned char secure[WOL_SECURE_MAX], int *n, struct error *e) SPW_MUST_USE;
/* Returns its length. */
size_t wol_packet(const struct wol_target *t, unsigned char packet[WOL_BYTES_MAX]);
/* Once. */
enum rc wol_send(const struct wol_target *t, struct error *e) SPW_MUST_USE;

/* WOL_TIMES times, WOL_PAUSE_MS apart, the first one at once. cb: when all are out, or with what went wrong (RC_OK if
 * any went out); not after wol_stop(). The caller keeps *w until then and stops it before the loop goes. */
struct wol_volley {
    struct wol_target target;
    struct event *timer;
    int sent, tried;
    struct error why;
    void (*cb)(enum rc rc, const struct error *e, void *arg);
    void *arg;
};
void wol_start(struct wol_volley *w, struct event_base *loop, const struct wol_target *t,
               void (*cb)(enum rc rc, const struct error *e, void *arg), void *arg);
void wol_stop(struct wol_volley *w); /* {0} is fine */

#endif
