/* One machine's power by its management controller (BMC), over Redfish (DMTF DSP0266).
 *
 * Everything is read from the controller's own documents: where sessions are opened, which system there is, which types
 * of reset it takes and where they are sent. 200, 202 and 204 all mean that a reset was accepted; what counts is the
 * power state, which is polled until it is as asked or the deadline is over.
 *
 * One act at a time; others wait in line (at most REDFISH_WAITING_MAX, then RC_FULL):
 *
 *     root --> login --> find system --> read --(as asked)--> logout --> the caller is told
 *     (read once) (session)                |  ^
 *                                          v  | every poll_ms
 *                                        reset          no answer, 5xx, 429: again after a pause, until the deadline
 *
 * A session is opened per act and deleted at its end, whatever the end: controllers hold few. Where there are none to
 * be had (no such service, or the limit is reached), the act uses basic authentication. A login that is refused is not
 * tried again: controllers lock accounts. If we are freed in the middle of an act, the controller's own time-out ends
 * the session.
 *
 * The certificate is checked by the system's authorities, by `ca_file`, or is the pinned one. Loop thread; does not
 * block but for reading the password's file at the start of an act (a local file). */
#ifndef PROVIDERS_REDFISH_H
#define PROVIDERS_REDFISH_H

#include "base/fetch.h"
#include "providers/provider.h"

#define REDFISH_WAITING_MAX 16

struct redfish;
struct redfish_options {
    const char *url;                  /* https://HOST[:PORT][/redfish/v1/Systems/ID] */
    const char *system;               /* id of the system; NULL: the only one, or the url's */
    const char *user, *password_file; /* both or neither */
    bool basic;                       /* never a session */
    const char *ca_file;              /* NULL: the system's authorities */
    const unsigned char *pin_sha256;  /* 32 bytes: this certificate and no other; NULL: none */
    int64_t poll_ms, deadline_ms;     /* 0: 2 s, and 5 min for the whole of an act */
};
struct redfish_report {
    enum provider_failure failure;
    enum provider_power is;
    int64_t milliwatts; /* of redfish_watts(); -1: the controller does not tell */
    const char *text;   /* why not; "" else */
};
/* Exactly once per act, on the loop, never from inside the call; not after redfish_free(). */
typedef void redfish_cb(const struct redfish_report *r, void *arg);

/* Strings are copied. Nothing is contacted. RC_INVALID: the address, or one of user and password is missing. */
enum rc redfish_new(struct redfish **r, struct event_base *loop, struct fetcher *fetcher, const struct clock *clock,
                    const struct log *log, const struct redfish_options *o, struct error *e) SPW_MUST_USE;
void redfish_free(struct redfish *r); /* NULL is fine */

/* On: done when it is on. */
enum rc redfish_power_on(struct redfish *r, redfish_cb *cb, void *arg, struct error *e) SPW_MUST_USE;
/* Off: the operating system is asked first and has grace_ms (0: it is not asked), then power is cut. */
enum rc redfish_power_off(struct redfish *r, int64_t grace_ms, redfish_cb *cb, void *arg, struct error *e) SPW_MUST_USE;
enum rc redfish_state(struct redfish *r, redfish_cb *cb, void *arg, struct error *e) SPW_MUST_USE;
enum rc redfish_watts(struct redfish *r, redfish_cb *cb, void *arg, struct error *e) SPW_MUST_USE; /* and the state */

#endif
