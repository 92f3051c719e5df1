/* One signed token (JWS compact form, RFC 7515; JWT, RFC 7519; the advice of RFC 8725): taken apart, and its signature
 * checked against one key. What its claims mean is claims.c's, which key is jwks.c's.
 *
 * The token is read strictly before the JOSE library sees it: exactly three canonical base64url parts, at most 8 KiB,
 * JSON without duplicate names or deep nesting, an algorithm of the table (no `none`, no HMAC), no `crit`, a `typ` that
 * is an access token's. Keys in a header (jwk, jku, x5c, x5u) are never looked at. Signatures are verified by cjose,
 * and Ed25519, which it lacks, by OpenSSL. */
#ifndef SCHEDULER_AUTH_JWT_H
#define SCHEDULER_AUTH_JWT_H

#include "base/json.h"
#include "scheduler/auth/refusal.h"

#define JWT_BYTES_MAX           8192
#define JWT_KID_MAX             256
#define JWT_SIGNATURE_BYTES_MAX 1024 /* RSA of 8192 bits */

enum jwt_alg {
    JWT_RS256,
    JWT_RS384,
    JWT_RS512,
    JWT_PS256,
    JWT_PS384,
    JWT_PS512,
    JWT_ES256,
    JWT_ES384,
    JWT_ES512,
    JWT_EDDSA,
    JWT_ALG_COUNT,
};
#define JWT_ALGS_ALL ((1u << JWT_ALG_COUNT) - 1)
const char *jwt_alg_name(enum jwt_alg a);
int jwt_alg_parse(const char *name); /* enum jwt_alg, or -1: one that is not accepted */

struct jwk;

struct jwt {
    const char *token; /* borrowed */
    size_t n;
    size_t signed_len; /* bytes of "header.payload" */
    enum jwt_alg alg;
    const char *kid;        /* NULL: none; belongs to header */
    cJSON *header, *claims; /* owned; claims are only the bearer's word until jwt_verify() */
    unsigned char *payload; /* owned; what claims was parsed from */
    size_t payload_len;
    unsigned char signature[JWT_SIGNATURE_BYTES_MAX];
    size_t signature_len;
};
/* RC_OK: jwt_fini() it; token must stay. RC_DENIED: *r says why; nothing to free. */
enum rc jwt_parse(struct jwt *t, const char *token, size_t n, struct auth_refusal *r) SPW_MUST_USE;
void jwt_fini(struct jwt *t);
/* Was it signed with this key? RC_DENIED: no, or the key is of another kind than the algorithm. */
enum rc jwt_verify(const struct jwt *t, const struct jwk *key, struct auth_refusal *r) SPW_MUST_USE;

#endif
