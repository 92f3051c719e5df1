/* Bearer tokens of OpenID Connect issuers: finds the issuer, has its public keys ready, and says whose token it is.
 *
 * Keys come from the issuer's JWKS (through its discovery document, unless the JWKS is configured), fetched on the
 * loop:
 *
 *     no keys --fetch--> keys --refresh_ms later, at the next token: fetch behind the request's back--> keys
 *        |                 +--a key id that is not among them, or a bad signature that names no key:
 *        |                 |  fetch, at most every refetch_ms; the request waits--> keys
 *        +--fetch failed: again after 1, 2, 4 ... 30 s; what waits is refused (503)
 *     keys --no fetch has succeeded for stale_ms--> no keys
 *
 * Claims that refuse a token (expired, another audience) are looked at before its key is, so that an old token never
 * causes a fetch; a made-up key id causes one per refetch_ms at most. Identities are cached for as long as the token is
 * valid but at most OIDC_CACHE_S, and dropped when the issuer's key set changes. Signatures that turn out bad are paid
 * for (forgery.h). One loop; never blocks. */
#ifndef SCHEDULER_AUTH_OIDC_H
#define SCHEDULER_AUTH_OIDC_H

#include <event2/event.h>

#include "base/fetch.h"
#include "base/log.h"
#include "scheduler/auth/claims.h"

#define OIDC_ISSUERS_MAX 32
#define OIDC_CACHE_S     60
#define OIDC_CACHE_MAX   8192 /* tokens */
#define OIDC_WAITS_MAX   1024 /* requests that wait for keys; one more is refused (503) */

struct oidc;
struct auth_wait; /* a request that waits for keys */

/* Exactly one of who (a reference, the receiver's) and refusal is not NULL. On the loop, never from inside the call
 * that asked. May ask again and cancel others; may not free what was asked. */
typedef void auth_cb(struct identity *who, const struct auth_refusal *refusal, void *arg);

/* Issuers are copied; everything else is borrowed. Begins to fetch the keys. log: NULL for none. */
enum rc oidc_new(struct oidc **o, const struct oidc_issuer *issuers, int n, struct event_base *loop,
                 struct fetcher *fetcher, const struct clock *clock, const struct log *log,
                 struct error *e) SPW_MUST_USE;
/* What waits is refused (503), from inside this call. NULL is fine. */
void oidc_free(struct oidc *o);

struct oidc_question { /* borrowed for the call */
    const char *token;
    size_t n;
    const char *peer; /* the client's address as text, or NULL */
};
/* RC_OK: *who is the caller's. RC_DENIED: *r. RC_AGAIN: cb will be called, unless *wait is cancelled first. */
enum rc oidc_check(struct oidc *o, const struct oidc_question *q, struct identity **who, struct auth_refusal *r,
                   auth_cb *cb, void *arg, struct auth_wait **wait) SPW_MUST_USE;
void oidc_cancel(struct auth_wait *wait);

struct oidc_stats {
    uint64_t hits, verified, refused, fetches, fetches_failed;
    uint64_t signatures; /* checked */
    int cached, waiting;
};
struct oidc_stats oidc_stats(const struct oidc *o);

#endif
