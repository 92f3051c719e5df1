/* Makes keys, key sets and signed tokens for tests with OpenSSL alone, right ones and wrong ones: header and claims are
 * whatever text is given, and the algorithm that signs need not be the one the header names. */
#ifndef TESTS_UNIT_JWT_MAKE_H
#define TESTS_UNIT_JWT_MAKE_H

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/auth/base64url.h"

static inline EVP_PKEY *make_rsa(unsigned bits)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)bits);
}
static inline EVP_PKEY *make_ec(const char *curve)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "EC", curve);
}
static inline EVP_PKEY *make_ed25519(void)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
}

static inline char *make_b64(const void *bytes, size_t n)
{
    char *text = spw_malloc(n * 4 / 3 + 4);
    base64url_encode(bytes, n, text);
    return text;
}

static inline char *make_b64_bn(EVP_PKEY *key, const char *param, int width)
{
    BIGNUM *bn = NULL;
    unsigned char bytes[1100];
    if (EVP_PKEY_get_bn_param(key, param, &bn) != 1)
        abort();
    int n = width ? width : BN_num_bytes(bn);
    BN_bn2binpad(bn, bytes, n);
    BN_free(bn);
    return make_b64(bytes, (size_t)n);
}

/* {"kty":..., EXTRA}; extra: "" or "\"kid\":\"a\",...". */
static inline char *make_jwk(EVP_PKEY *key, const char *extra)
{
    char *a = NULL, *b = NULL, *json;
    const char *comma = *extra ? "," : "";
    if (EVP_PKEY_is_a(key, "RSA")) {
        a = make_b64_bn(key, OSSL_PKEY_PARAM_RSA_N, 0);
        b = make_b64_bn(key, OSSL_PKEY_PARAM_RSA_E, 0);
        json = spw_asprintf("{\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"%s\"%s%s}", a, b, comma, extra);
    } else if (EVP_PKEY_is_a(key, "EC")) {
        int bits = EVP_PKEY_get_bits(key), width = (bits + 7) / 8;
        a = make_b64_bn(key, OSSL_PKEY_PARAM_EC_PUB_X, width);
        b = make_b64_bn(key, OSSL_PKEY_PARAM_EC_PUB_Y, width);
        json =
            spw_asprintf("{\"kty\":\"EC\",\"crv\":\"P-%d\",\"x\":\"%s\",\"y\":\"%s\"%s%s}", bits, a, b, comma, extra);
    } else {
        unsigned char raw[32];
        size_t n = sizeof raw;
        EVP_PKEY_get_raw_public_key(key, raw, &n);
        a = make_b64(raw, n);
        json = spw_asprintf("{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"%s\"%s%s}", a, comma, extra);
    }
    free(a);
    free(b);
    return json;
}

static inline const EVP_MD *make_digest(const char *alg)
{
    return strstr(alg, "512") ? EVP_sha512() : strstr(alg, "384") ? EVP_sha384() : EVP_sha256();
}

/* ECDSA as two numbers of one width, as JWS wants it. */
static inline size_t make_raw_ecdsa(EVP_PKEY *key, unsigned char *sig, size_t n)
{
    const unsigned char *p = sig;
    ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &p, (long)n);
    int width = (EVP_PKEY_get_bits(key) + 7) / 8;
    BN_bn2binpad(ECDSA_SIG_get0_r(s), sig, width);
    BN_bn2binpad(ECDSA_SIG_get0_s(s), sig + width, width);
    ECDSA_SIG_free(s);
    return (size_t)width * 2;
}

static inline size_t make_signature(EVP_PKEY *key, const char *alg, const char *text, unsigned char sig[1200])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    EVP_PKEY_CTX *p = NULL;
    size_t n = 1200;
    const EVP_MD *md = EVP_PKEY_is_a(key, "ED25519") ? NULL : make_digest(alg);
    if (EVP_DigestSignInit(c, &p, md, NULL, key) != 1)
        abort();
    if (alg[0] == 'P') {
        EVP_PKEY_CTX_set_rsa_padding(p, RSA_PKCS1_PSS_PADDING);
        EVP_PKEY_CTX_set_rsa_pss_saltlen(p, RSA_PSS_SALTLEN_DIGEST);
    }
    if (EVP_DigestSign(c, sig, &n, (const unsigned char *)text, strlen(text)) != 1)
        abort();
    EVP_MD_CTX_free(c);
    return EVP_PKEY_is_a(key, "EC") ? make_raw_ecdsa(key, sig, n) : n;
}

static inline char *make_signing_input(const char *header, const char *claims)
{
    char *h = make_b64(header, strlen(header)), *c = make_b64(claims, strlen(claims));
    char *text = spw_asprintf("%s.%s", h, c);
    free(h);
    free(c);
    return text;
}

static inline char *make_token(EVP_PKEY *key, const char *alg, const char *header, const char *claims)
{
    unsigned char sig[1200];
    char *text = make_signing_input(header, claims);
    char *s = make_b64(sig, make_signature(key, alg, text, sig));
    char *token = spw_asprintf("%s.%s", text, s);
    free(s);
    free(text);
    return token;
}

/* HS256 with any bytes as the secret. */
static inline char *make_hmac_token(const void *secret, size_t n, const char *header, const char *claims)
{
    unsigned char mac[32];
    unsigned len = 0;
    char *text = make_signing_input(header, claims);
    HMAC(EVP_sha256(), secret, (int)n, (const unsigned char *)text, strlen(text), mac, &len);
    char *s = make_b64(mac, len);
    char *token = spw_asprintf("%s.%s", text, s);
    free(s);
    free(text);
    return token;
}

#endif
