/* Keys and certificates for tests, as PEM files. */
#ifndef TESTS_UNIT_TLS_MAKE_H
#define TESTS_UNIT_TLS_MAKE_H

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "tests/unit/test.h"

static inline EVP_PKEY *tls_write_key(const char *path)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    FILE *f = fopen(path, "w");

    CHECK(k && f && PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(f);
    return k;
}

struct tls_maker { /* of certificates */
    X509 *cert;    /* owned; NULL: each signs itself */
    EVP_PKEY *key; /* owned */
};

/* An hour long. names: "DNS:localhost,IP:127.0.0.1", or NULL for an authority. The caller's. */
static inline X509 *tls_write_cert(const char *path, EVP_PKEY *k, const char *cn, const char *names,
                                   const struct tls_maker *by)
{
    X509 *x = X509_new();
    FILE *f = fopen(path, "w");
    X509V3_CTX ctx;
    static long serial;

    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, k);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
    X509_set_issuer_name(x, by ? X509_get_subject_name(by->cert) : X509_get_subject_name(x));
    X509V3_set_ctx(&ctx, by ? by->cert : x, x, NULL, NULL, 0);
    X509_EXTENSION *ext = names ? X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, names)
                                : X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(x, ext, -1);
    X509_EXTENSION_free(ext);
    CHECK(X509_sign(x, by ? by->key : k, EVP_sha256()) != 0);
    CHECK(f && PEM_write_X509(f, x) == 1);
    fclose(f);
    return x;
}

/* An authority whose certificate is at cert_path. */
static inline struct tls_maker tls_make_authority(const char *cert_path, const char *key_path, const char *cn)
{
    struct tls_maker m = {.key = tls_write_key(key_path)};

    m.cert = tls_write_cert(cert_path, m.key, cn, NULL, NULL);
    return m;
}

static inline void tls_maker_free(struct tls_maker *m)
{
    X509_free(m->cert);
    EVP_PKEY_free(m->key);
}

/* A key and a certificate that the authority (NULL: nobody else) has signed. */
static inline void tls_write_pair(const char *cert_path, const char *key_path, const char *cn, const char *names,
                                  const struct tls_maker *by)
{
    EVP_PKEY *k = tls_write_key(key_path);

    X509_free(tls_write_cert(cert_path, k, cn, names, by));
    EVP_PKEY_free(k);
}

/* A list of withdrawn certificates that is good for next_s more seconds. withdrawn: a certificate, or NULL. */
static inline void tls_write_crl(const char *path, const struct tls_maker *by, const X509 *withdrawn, long next_s)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *from = X509_gmtime_adj(NULL, -60), *to = X509_gmtime_adj(NULL, next_s);
    FILE *f = fopen(path, "w");

    X509_CRL_set_version(crl, X509_CRL_VERSION_2);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(by->cert));
    X509_CRL_set1_lastUpdate(crl, from);
    X509_CRL_set1_nextUpdate(crl, to);
    if (withdrawn) {
        X509_REVOKED *r = X509_REVOKED_new();
        X509_REVOKED_set_serialNumber(r, (ASN1_INTEGER *)(uintptr_t)X509_get0_serialNumber(withdrawn));
        X509_REVOKED_set_revocationDate(r, from);
        X509_CRL_add0_revoked(crl, r);
    }
    CHECK(X509_CRL_sign(crl, by->key, EVP_sha256()) != 0 && f && PEM_write_X509_CRL(f, crl) == 1);
    fclose(f);
    ASN1_TIME_free(from);
    ASN1_TIME_free(to);
    X509_CRL_free(crl);
}

#endif
