#include "scheduler/auth/jwks.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/auth/base64url.h"

#define SET_DEPTH_MAX    8
#define RSA_BYTES_MIN    256
#define RSA_BYTES_MAX    1024
#define MEMBER_BYTES_MAX BASE64URL_BYTES(RSA_BYTES_MAX * 4 / 3 + 8)
#define BIT(alg)         (1u << (alg))

static const struct curve {
    const char *crv;
    enum jwk_kind kind;
    cjose_jwk_ec_curve id;
    size_t coordinate_bytes;
    unsigned algs;
} curves[] = {
    {"P-256", JWK_P256, CJOSE_JWK_EC_P_256, 32, BIT(JWT_ES256)},
    {"P-384", JWK_P384, CJOSE_JWK_EC_P_384, 48, BIT(JWT_ES384)},
    {"P-521", JWK_P521, CJOSE_JWK_EC_P_521, 66, BIT(JWT_ES512)},
};

static const char *text_of(const cJSON *o, const char *name)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsString(m) ? m->valuestring : NULL;
}

/* A member's bytes, 1 to `max`. out: MEMBER_BYTES_MAX. */
static bool bytes_of(const cJSON *o, const char *name, size_t max, unsigned char *out, size_t *n)
{
    const char *text = text_of(o, name);
    size_t len = text ? strlen(text) : 0;
    return len > 0 && BASE64URL_BYTES(len) <= MEMBER_BYTES_MAX && base64url_decode(text, len, out, n) && *n > 0 &&
           *n <= max;
}

static bool take_rsa(struct jwk *k, const cJSON *o)
{
    unsigned char n[MEMBER_BYTES_MAX], exponent[MEMBER_BYTES_MAX], *modulus = n;
    size_t n_len, e_len;
    cjose_err err;

    if (!bytes_of(o, "n", RSA_BYTES_MAX + 1, n, &n_len) || !bytes_of(o, "e", 4, exponent, &e_len))
        return false;
    while (n_len > 0 && *modulus == 0) { /* some issuers write a sign byte */
        modulus++;
        n_len--;
    }
    /* 2048 bits at least; an even modulus or exponent, or an exponent of 1, is no key. */
    if (n_len < RSA_BYTES_MIN || n_len > RSA_BYTES_MAX || (n_len == RSA_BYTES_MIN && !(*modulus & 0x80)) ||
        !(modulus[n_len - 1] & 1) || !(exponent[e_len - 1] & 1) || (e_len == 1 && exponent[0] == 1))
        return false;
    cjose_jwk_rsa_keyspec spec = {.n = modulus, .nlen = n_len, .e = exponent, .elen = e_len};
    k->jose = cjose_jwk_create_RSA_spec(&spec, &err);
    k->kind = JWK_RSA;
    k->signature_bytes = n_len;
    k->algs = BIT(JWT_RS256) | BIT(JWT_RS384) | BIT(JWT_RS512) | BIT(JWT_PS256) | BIT(JWT_PS384) | BIT(JWT_PS512);
    return k->jose != NULL;
}

static bool take_ec(struct jwk *k, const cJSON *o)
{
    unsigned char x[MEMBER_BYTES_MAX], y[MEMBER_BYTES_MAX];
    const char *crv = text_of(o, "crv");
    size_t x_len, y_len;
    cjose_err err;

    for (size_t i = 0; crv && i < sizeof curves / sizeof curves[0]; i++) {
        const struct curve *c = &curves[i];
        if (strcmp(crv, c->crv) != 0)
            continue;
        if (!bytes_of(o, "x", c->coordinate_bytes, x, &x_len) || !bytes_of(o, "y", c->coordinate_bytes, y, &y_len) ||
            x_len != c->coordinate_bytes || y_len != c->coordinate_bytes)
            return false;
        cjose_jwk_ec_keyspec spec = {.crv = c->id, .x = x, .xlen = x_len, .y = y, .ylen = y_len};
        k->jose = cjose_jwk_create_EC_spec(&spec, &err); /* refuses a point that is not on the curve */
        k->kind = c->kind;
        k->algs = c->algs;
        k->signature_bytes = 2 * c->coordinate_bytes;
        return k->jose != NULL;
    }
    return false;
}

static bool take_okp(struct jwk *k, const cJSON *o)
{
    unsigned char x[MEMBER_BYTES_MAX];
    const char *crv = text_of(o, "crv");
    size_t n;

    if (!crv || strcmp(crv, "Ed25519") != 0 || !bytes_of(o, "x", 32, x, &n) || n != 32)
        return false;
    k->ed25519 = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x, n);
    k->kind = JWK_ED25519;
    k->algs = BIT(JWT_EDDSA);
    k->signature_bytes = 64;
    return k->ed25519 != NULL;
}

/* `use` and `key_ops`, where they are given, must allow to verify with it. */
static bool is_for_signatures(const cJSON *o)
{
    const cJSON *use = cJSON_GetObjectItemCaseSensitive(o, "use");
    const cJSON *ops = cJSON_GetObjectItemCaseSensitive(o, "key_ops"), *op;
    if (use && (!cJSON_IsString(use) || strcmp(use->valuestring, "sig") != 0))
        return false;
    if (!ops)
        return true;
    cJSON_ArrayForEach(op, ops)
    {
        if (cJSON_IsString(op) && strcmp(op->valuestring, "verify") == 0)
            return true;
    }
    return false;
}

static bool narrow_to_alg(struct jwk *k, const cJSON *o)
{
    const cJSON *alg = cJSON_GetObjectItemCaseSensitive(o, "alg");
    if (!alg)
        return true;
    int a = cJSON_IsString(alg) ? jwt_alg_parse(alg->valuestring) : -1;
    k->algs &= a < 0 ? 0 : BIT(a);
    return k->algs != 0;
}

static bool take_kid(struct jwk *k, const cJSON *o)
{
    const cJSON *kid = cJSON_GetObjectItemCaseSensitive(o, "kid");
    if (!kid)
        return true;
    if (!cJSON_IsString(kid) || !*kid->valuestring || strlen(kid->valuestring) > JWT_KID_MAX)
        return false;
    memcpy(k->kid, kid->valuestring, strlen(kid->valuestring) + 1);
    return true;
}

static void jwk_fini(struct jwk *k)
{
    cjose_jwk_release(k->jose);
    EVP_PKEY_free(k->ed25519);
    *k = (struct jwk){0};
}

/* Two keys of one id that fit one algorithm would make the order in the set decide. */
static bool is_double(const struct jwks *s, const struct jwk *k)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->keys[i].kid, k->kid) == 0 && *k->kid && (s->keys[i].algs & k->algs))
            return true;
    return false;
}

static bool take_key(struct jwks *s, const cJSON *o)
{
    struct jwk *k = &s->keys[s->n];
    const char *kty = text_of(o, "kty");
    if (!kty || !is_for_signatures(o) || !take_kid(k, o))
        return false;
    bool taken = strcmp(kty, "RSA") == 0   ? take_rsa(k, o)
                 : strcmp(kty, "EC") == 0  ? take_ec(k, o)
                 : strcmp(kty, "OKP") == 0 ? take_okp(k, o)
                                           : false;
    return taken && narrow_to_alg(k, o) && !is_double(s, k);
}

enum rc jwks_parse(struct jwks **out, const char *text, size_t n, struct error *e)
{
    cJSON *root = NULL;
    const cJSON *o;

    *out = NULL;
    if (n > JWKS_BYTES_MAX)
        return error_set(e, RC_INVALID, "the key set is larger than %zu bytes", JWKS_BYTES_MAX);
    enum rc rc = json_parse(text, n, SET_DEPTH_MAX, &root, e);
    if (rc != RC_OK)
        return rc;
    const cJSON *keys = cJSON_GetObjectItemCaseSensitive(root, "keys");
    if (!cJSON_IsArray(keys)) {
        cJSON_Delete(root);
        return error_set(e, RC_INVALID, "not a key set: a list 'keys' was expected");
    }
    struct jwks *s = spw_calloc(1, sizeof *s);
    cJSON_ArrayForEach(o, keys)
    {
        if (s->n < JWKS_KEYS_MAX && take_key(s, o)) {
            s->n++;
        } else {
            if (s->n < JWKS_KEYS_MAX)
                jwk_fini(&s->keys[s->n]);
            s->skipped++;
        }
    }
    cJSON_Delete(root);
    ERR_clear_error(); /* of keys that OpenSSL did not like */
    if (s->n == 0) {
        rc = error_set(e, RC_INVALID, "the key set holds no key that can verify a token (%d left out)", s->skipped);
        jwks_free(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void jwks_free(struct jwks *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        jwk_fini(&s->keys[i]);
    free(s);
}

bool jwk_fits(const struct jwk *k, enum jwt_alg a)
{
    return (k->algs & BIT(a)) != 0;
}

enum rc jwks_find(const struct jwks *s, const struct jwt *t, const struct jwk **k, struct auth_refusal *r)
{
    bool known = false;

    *k = NULL;
    if (!t->kid && s->n != 1)
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token does not say which of the issuer's keys signed it");
    for (int i = 0; i < s->n; i++) {
        const struct jwk *candidate = &s->keys[i];
        if (t->kid && strcmp(candidate->kid, t->kid) != 0)
            continue;
        known = true;
        if (!jwk_fits(candidate, t->alg))
            continue;
        *k = candidate;
        return RC_OK;
    }
    if (known)
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token's algorithm does not fit the issuer's key");
    auth_refusal_set(r, AUTH_TOKEN_INVALID, "the issuer has no key of the token's key id");
    return RC_NOT_FOUND;
}
