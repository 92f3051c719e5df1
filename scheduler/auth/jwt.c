#include "scheduler/auth/jwt.h"

#include <cjose/cjose.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "scheduler/auth/base64url.h"
#include "scheduler/auth/jwks.h"

#define HEADER_DEPTH_MAX 4
#define CLAIMS_DEPTH_MAX 8

static const char *const alg_names[JWT_ALG_COUNT] = {
    [JWT_RS256] = "RS256", [JWT_RS384] = "RS384", [JWT_RS512] = "RS512", [JWT_PS256] = "PS256", [JWT_PS384] = "PS384",
    [JWT_PS512] = "PS512", [JWT_ES256] = "ES256", [JWT_ES384] = "ES384", [JWT_ES512] = "ES512", [JWT_EDDSA] = "EdDSA",
};

const char *jwt_alg_name(enum jwt_alg a)
{
    return alg_names[a];
}

int jwt_alg_parse(const char *name)
{
    for (int i = 0; i < JWT_ALG_COUNT; i++)
        if (strcmp(alg_names[i], name) == 0)
            return i;
    return -1;
}

static enum rc invalid(struct auth_refusal *r, const char *text)
{
    return auth_refuse(r, AUTH_TOKEN_INVALID, "%s", text);
}

/* Access tokens and plain JWTs only, so that a logout token or a DPoP proof of the same issuer opens nothing. */
static bool type_ok(const char *typ)
{
    if (strncasecmp(typ, "application/", 12) == 0)
        typ += 12;
    return strcasecmp(typ, "JWT") == 0 || strcasecmp(typ, "at+jwt") == 0;
}

static enum rc check_header(struct jwt *t, struct auth_refusal *r)
{
    const char *alg = NULL, *typ = NULL, *cty = NULL;
    struct error e;

    if (json_get_string(t->header, "alg", &alg, NULL, &e) != RC_OK || !alg || jwt_alg_parse(alg) < 0)
        return invalid(r, "the token's algorithm is not accepted; RS, PS and ES256 to 512 and EdDSA are");
    t->alg = (enum jwt_alg)jwt_alg_parse(alg);
    if (cJSON_GetObjectItemCaseSensitive(t->header, "crit") || cJSON_GetObjectItemCaseSensitive(t->header, "b64"))
        return invalid(r, "the token's header demands extensions that are not understood");
    if (json_get_string(t->header, "typ", &typ, NULL, &e) != RC_OK || (typ && !type_ok(typ)))
        return invalid(r, "the token's type is not that of an access token");
    if (json_get_string(t->header, "cty", &cty, NULL, &e) != RC_OK || cty)
        return invalid(r, "the token holds another token");
    if (json_get_string(t->header, "kid", &t->kid, NULL, &e) != RC_OK ||
        (t->kid && (!*t->kid || strlen(t->kid) > JWT_KID_MAX)))
        return invalid(r, "the token's key id is malformed");
    return RC_OK;
}

static enum rc parse_object(const unsigned char *text, size_t n, int depth_max, cJSON **root)
{
    struct error e;                /* would quote the token; the caller says it in our words */
    for (size_t i = 0; i < n; i++) /* cJSON takes any of them for a blank; other readers of JSON do not */
        if (text[i] < ' ' && text[i] != '\t' && text[i] != '\n' && text[i] != '\r')
            return RC_INVALID;
    enum rc rc = json_parse((const char *)text, n, depth_max, root, &e);
    if (rc == RC_OK && !cJSON_IsObject(*root)) {
        cJSON_Delete(*root);
        *root = NULL;
        rc = RC_INVALID;
    }
    return rc;
}

/* The two dots; false if there are not exactly two. */
static bool find_dots(const char *token, size_t n, size_t *first, size_t *second)
{
    int dots = 0;
    for (size_t i = 0; i < n; i++) {
        if (token[i] != '.')
            continue;
        if (dots == 0)
            *first = i;
        else if (dots == 1)
            *second = i;
        dots++;
    }
    return dots == 2;
}

static enum rc take_apart(struct jwt *t, struct auth_refusal *r)
{
    size_t first = 0, second = 0, header_len;
    if (!find_dots(t->token, t->n, &first, &second))
        return invalid(r, "the token does not have three parts");
    size_t n_signature = t->n - second - 1;
    if (!first || second == first + 1 || !n_signature)
        return invalid(r, "a part of the token is empty");
    if (n_signature > (size_t)JWT_SIGNATURE_BYTES_MAX * 4 / 3 + 2)
        return invalid(r, "the token's signature is too long");
    t->signed_len = second;
    t->payload = spw_malloc(BASE64URL_BYTES(second - first - 1));
    unsigned char *header = spw_malloc(BASE64URL_BYTES(first));
    unsigned char signature[BASE64URL_BYTES(JWT_SIGNATURE_BYTES_MAX * 4 / 3 + 2)];
    bool decoded = base64url_decode(t->token, first, header, &header_len) &&
                   base64url_decode(t->token + first + 1, second - first - 1, t->payload, &t->payload_len) &&
                   base64url_decode(t->token + second + 1, n_signature, signature, &t->signature_len) &&
                   t->signature_len <= sizeof t->signature;
    enum rc rc = RC_OK;
    if (!decoded)
        rc = invalid(r, "a part of the token is not base64url");
    else if (parse_object(header, header_len, HEADER_DEPTH_MAX, &t->header) != RC_OK)
        rc = invalid(r, "the token's header is not a JSON object of unique names");
    else if (parse_object(t->payload, t->payload_len, CLAIMS_DEPTH_MAX, &t->claims) != RC_OK)
        rc = invalid(r, "the token's claims are not a JSON object of unique names");
    else
        memcpy(t->signature, signature, t->signature_len);
    free(header);
    return rc;
}

enum rc jwt_parse(struct jwt *t, const char *token, size_t n, struct auth_refusal *r)
{
    *t = (struct jwt){.token = token, .n = n};
    if (n > JWT_BYTES_MAX)
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token is larger than %d bytes", JWT_BYTES_MAX);
    enum rc rc = take_apart(t, r);
    if (rc == RC_OK)
        rc = check_header(t, r);
    if (rc != RC_OK)
        jwt_fini(t);
    return rc;
}

void jwt_fini(struct jwt *t)
{
    cJSON_Delete(t->header);
    cJSON_Delete(t->claims);
    free(t->payload);
    *t = (struct jwt){0};
}

static bool verify_ed25519(const struct jwt *t, const struct jwk *key)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good =
        c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, key->ed25519) == 1 &&
        EVP_DigestVerify(c, t->signature, t->signature_len, (const unsigned char *)t->token, t->signed_len) == 1;
    EVP_MD_CTX_free(c);
    return good;
}

/* The bytes that the library verified are compared with those we read, so that there are no two readings of a token. */
static bool verify_by_library(const struct jwt *t, const struct jwk *key)
{
    uint8_t *text = NULL;
    size_t n = 0;
    cjose_err e;
    cjose_jws_t *jws = cjose_jws_import(t->token, t->n, &e);
    bool good = jws && cjose_jws_verify(jws, key->jose, &e) && cjose_jws_get_plaintext(jws, &text, &n, &e) &&
                n == t->payload_len && memcmp(text, t->payload, n) == 0;
    cjose_jws_release(jws);
    return good;
}

enum rc jwt_verify(const struct jwt *t, const struct jwk *key, struct auth_refusal *r)
{
    /* The length is checked here because cjose splits an ECDSA signature in the middle, whatever its length: more than
     * one text would then be the same signature. */
    bool good = jwk_fits(key, t->alg) && t->signature_len == key->signature_bytes &&
                (key->kind == JWK_ED25519 ? verify_ed25519(t, key) : verify_by_library(t, key));
    ERR_clear_error(); /* what a bad signature leaves behind would be taken for an error of the next TLS call */
    return good ? RC_OK : invalid(r, "the token's signature is not valid");
}
