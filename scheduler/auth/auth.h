/* The one question: a credential comes in, an identity or a refusal comes out.
 *
 * A credential is what stands behind "Authorization: Bearer", or in "api-key" or "x-api-key". It is, in this order: a
 * key of the configuration (SHA-256 known there), a key of the store ("sk-spw-..."), or a signed token of a configured
 * issuer. The answer is immediate but for tokens whose issuer's keys must be fetched first; then it comes by callback,
 * and the loop goes on meanwhile.
 *
 *     auth_check() --RC_OK--> who --auth_require()--> may it do this? --identity_may_use()--> may it have this model?
 *        |  \--RC_DENIED--> refusal
 *        +--RC_AGAIN--> auth_cb later, or auth_cancel() when the client leaves first
 *
 * The time it takes says nothing about what is stored (hash_table.h). No text of ours quotes a credential. One per
 * loop; the key store behind it may be shared by several. */
#ifndef SCHEDULER_AUTH_AUTH_H
#define SCHEDULER_AUTH_AUTH_H

#include "scheduler/auth/keystore.h"
#include "scheduler/auth/oidc.h"

#define AUTH_KEY_BYTES_MAX 512 /* keys of the configuration may have any form; longer ones are nobody's */

struct auth_key {       /* a key of the configuration */
    const char *sha256; /* 64 lower-case hex digits */
    int64_t expires_s;  /* Unix seconds; 0: never */
    struct identity who;
};
struct auth_options { /* keys and issuers are copied, the rest is borrowed */
    bool off;         /* everybody is tenant "default" with scope inference */
    const struct auth_key *keys;
    int n_keys;
    struct keystore *keystore; /* NULL: none */
    const struct oidc_issuer *issuers;
    int n_issuers;
    struct event_base *loop; /* with issuers only, like fetcher */
    struct fetcher *fetcher;
    const struct clock *clock;
    const struct log *log; /* NULL: none */
};

struct auth;
/* Does not block. RC_INVALID names the key or issuer that is wrong. To reload: a new one beside the old, then free the
 * old; identities that requests hold stay valid. */
enum rc auth_new(struct auth **a, const struct auth_options *o, struct error *e) SPW_MUST_USE;
void auth_free(struct auth *a); /* what waits is refused (503) from inside; NULL is fine */

struct auth_credential {       /* borrowed for the call; NULL where the request has no such header */
    const char *authorization; /* whole value */
    const char *api_key;       /* value of api-key or x-api-key; only looked at without authorization */
    const char *peer;          /* the client's address as text, "unix" for a socket in the file system */
};
/* RC_OK: *who is a reference, the caller's (identity_unref()). RC_DENIED: *r. RC_AGAIN: cb once, on the loop and never
 * from inside; until then *wait may be given to auth_cancel(), whereafter it is not called. */
enum rc auth_check(struct auth *a, const struct auth_credential *c, struct identity **who, struct auth_refusal *r,
                   auth_cb *cb, void *arg, struct auth_wait **wait) SPW_MUST_USE;
void auth_cancel(struct auth_wait *wait);
/* Has it this scope? RC_DENIED fills *r (403). */
enum rc auth_require(const struct identity *who, enum auth_scope scope, struct auth_refusal *r) SPW_MUST_USE;

/* keystore_salt() of the store behind it; without one "", which shares with nobody who has a salt. */
void auth_salt(const struct auth *a, const char *tenant, char salt[KEYSTORE_SALT_BYTES]);

struct auth_stats {
    uint64_t checks, refused[AUTH_CODE_COUNT]; /* refused: at once, by reason; by callback: oidc.refused */
    struct oidc_stats oidc;
};
struct auth_stats auth_stats(const struct auth *a);

#endif
