/* An issuer's public keys (JWK Set, RFC 7517), from text that came over the network. Pure; no I/O.
 *
 * Only what can verify an accepted algorithm is kept: RSA of 2048 to 8192 bits, P-256, P-384, P-521, Ed25519. Keys for
 * encryption, symmetric keys, weak ones and unknown kinds are left out, as RFC 7517 section 5 asks. A key fits exactly
 * the algorithms of its kind (and curve), or the single one it names itself: an algorithm in a token's header can never
 * give a key another meaning. */
#ifndef SCHEDULER_AUTH_JWKS_H
#define SCHEDULER_AUTH_JWKS_H

#include <cjose/jwk.h>
#include <openssl/evp.h>

#include "scheduler/auth/jwt.h"

#define JWKS_BYTES_MAX ((size_t)256 << 10)
#define JWKS_KEYS_MAX  64

enum jwk_kind { JWK_RSA, JWK_P256, JWK_P384, JWK_P521, JWK_ED25519 };

struct jwk {
    enum jwk_kind kind;
    char kid[JWT_KID_MAX + 1]; /* "": none */
    unsigned algs;             /* bit per enum jwt_alg that it verifies */
    size_t signature_bytes;
    cjose_jwk_t *jose; /* owned; NULL for Ed25519 */
    EVP_PKEY *ed25519; /* owned; Ed25519 */
};
struct jwks {
    struct jwk keys[JWKS_KEYS_MAX];
    int n;       /* usable */
    int skipped; /* left out */
};

/* RC_INVALID: not a key set, or no usable key in it. *s is the caller's on RC_OK. */
enum rc jwks_parse(struct jwks **s, const char *text, size_t n, struct error *e) SPW_MUST_USE;
void jwks_free(struct jwks *s); /* NULL is fine */
bool jwk_fits(const struct jwk *k, enum jwt_alg a);
/* The key that t names. RC_NOT_FOUND: none of that id (the set may be out of date); RC_DENIED: it does not fit the
 * algorithm, or t names none and there are several. *r is filled for both. */
enum rc jwks_find(const struct jwks *s, const struct jwt *t, const struct jwk **k, struct auth_refusal *r) SPW_MUST_USE;

#endif
