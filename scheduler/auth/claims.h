/* What a genuine token says: is it for us and valid now, and who is its bearer? Pure functions over the parsed claims
 * and an issuer's configuration (RFC 7519 section 4.1, RFC 9068 section 4). */
#ifndef SCHEDULER_AUTH_CLAIMS_H
#define SCHEDULER_AUTH_CLAIMS_H

#include "base/json.h"
#include "scheduler/auth/identity.h"
#include "scheduler/auth/jwt.h"
#include "scheduler/auth/refusal.h"

/* An issuer of tokens, as configured. Claim names are looked up whole first ("https://acme.example/tenant"), then as a
 * path of objects ("realm_access.tenant"). */
struct oidc_issuer {
    const char *name;             /* short; shows up in logs and as key id "oidc:NAME" */
    const char *issuer;           /* equal to the `iss` of its tokens, character by character */
    const char *jwks_url;         /* NULL: from the discovery document */
    const char *discovery_url;    /* NULL: ISSUER/.well-known/openid-configuration */
    const char *ca_file;          /* NULL: the system's */
    const char *const *audiences; /* one of them must be in `aud`; at least one */
    int n_audiences;
    unsigned algs;                          /* bit per enum jwt_alg; 0: all we accept */
    int64_t skew_s;                         /* what clocks may differ; 0: 60, negative: none */
    const char *tenant, *tenant_claim;      /* exactly one: everybody's, or by token */
    const char *team_claim, *project_claim; /* NULL: none; a token may lack it */
    const char *user_claim;                 /* NULL: "sub"; must be there */
    const char *models_claim;               /* NULL: all models; else must be there and name at least one */
    const char *scope_claim;                /* NULL: "scope"; a string of words, or a list */
    const char *scope_prefix;               /* NULL: "spillway:"; "spillway:admin" in the claim gives the scope admin */
    unsigned default_scopes;                /* of a token without any word of that prefix; 0: inference */
    const char *rate_class;
    bool local_only;
    int64_t refresh_ms; /* keys are fetched again after; 0: 10 min */
    int64_t stale_ms;   /* keys that can't be fetched again are believed for; 0: 24 h */
    int64_t refetch_ms; /* an unknown key id makes us look at most this often; 0: 30 s */
};

/* Names no longer than they may be, exactly one of tenant and tenant_claim, an audience, https unless it is http ...
 * RC_INVALID says what would be right. */
enum rc oidc_issuer_check(const struct oidc_issuer *i, struct error *e) SPW_MUST_USE;

/* RC_OK: *who is a reference, the caller's, and *until_s the last second at which the claims hold. RC_DENIED: *r.
 * who NULL: only times and audience are looked at. */
enum rc claims_check(const cJSON *claims, const struct oidc_issuer *i, int64_t now_s, struct identity **who,
                     int64_t *until_s, struct auth_refusal *r) SPW_MUST_USE;

#endif
