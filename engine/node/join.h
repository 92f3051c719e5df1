/* A node's membership: how an engine finds its scheduler, proves who it is, and tells how it is (docs/NODE_API.md,
 * Joining).
 *
 *   no certificate, or it has run out:  token phase. TLS to the authority whose fingerprint the token names; a key of our own
 *                                       and the token are exchanged for a certificate, a name and the node key
 *   certificate:                        mutual TLS. Join (once per life of either side, and to renew after 2/3 of the
 *                                       certificate's life, counted from when it was given), then a beat every so often
 *
 *   CLOSED --join_client_new()--> WANTS --200--> MEMBER --409 join_again, renewal due--> WANTS
 *                                   ^  \                   |
 *                                   |   retry, with jitter +-- 401 expired: the token again
 *                                   +---- no answer -------+-- 403 revoked: on_order(END)
 *
 * What it keeps, in the state folder (mode 0700): node.pem (0600: certificate, authority and key, replaced whole),
 * ca.pem, node.key (0600: the node key), name, pending.key (0600: of a token's exchange whose answer was not heard; a
 * retry with the same key is the same use). Files are read and written at a join alone, a few milliseconds every some
 * hours.
 *
 * The scheduler's certificate must be for JOIN_SCHEDULER_NAME, whatever its address is. No proxy. Loop thread. */
#ifndef ENGINE_NODE_JOIN_H
#define ENGINE_NODE_JOIN_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/json_write.h"
#include "base/log.h"

#define JOIN_SCHEDULER_NAME "scheduler.spillway"
#define JOIN_BEAT_MS        2000 /* until the scheduler says otherwise */
#define JOIN_RETRY_MS       500  /* first pause after a failure; doubled each time, half of it by chance... */
#define JOIN_RETRY_MAX_MS   15000
#define JOIN_CALL_MS        5000 /* for an answer */

enum join_order { JOIN_ORDER_DRAIN, JOIN_ORDER_SLEEP, JOIN_ORDER_WAKE, JOIN_ORDER_END };

struct join_client_options { /* all borrowed */
    const char *url;         /* https://HOST[:PORT] */
    const char *token_file;  /* NULL: only the certificate that is there already */
    const char *state_dir;
    const char *host; /* where we can be reached; NULL: where our calls come from */
    const char *model, *version;
    const struct log *log;
    const struct clock *clock;
    /* The rest of a beat's members. */
    void (*report)(struct json_writer *w, void *arg);
    /* There is a certificate, for the first time or another one: it may be shown from now on. */
    void (*identity)(void *arg);
    void (*heard)(void *arg); /* the scheduler has answered one of its own */
    void (*order)(enum join_order what, void *arg);
    void *arg;
};
struct join_client;
/* The state folder is there, and locked by the caller (state_dir.h). Nothing is sent before join_client_start(). */
enum rc join_client_new(struct join_client **j, struct event_base *loop, const struct join_client_options *o,
                        struct error *e) SPW_MUST_USE;
/* port: where we serve, with TLS. */
void join_client_start(struct join_client *j, int port);
void join_client_free(struct join_client *j); /* NULL is fine */
/* True: there is a certificate that has not run out, and a node key. */
bool join_client_has_identity(const struct join_client *j);
/* Something has changed that the scheduler should know at once. */
void join_client_beat_now(struct join_client *j);
/* Tell it until it has heard, the newest only. left_ms < 0: not known. */
void join_client_notice(struct join_client *j, const char *what, int64_t left_ms);
bool join_client_told(const struct join_client *j); /* no notice waits to be heard */

#endif
