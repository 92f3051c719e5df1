#include "scheduler/join/ca.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/sha256.h"

#define YEAR_S       INT64_C(31557600)
#define DAY_S        INT64_C(86400)
#define PEM_MAX      ((size_t)64 << 10)
#define CA_NAME      "Spillway node authority"
#define SECRET_BYTES 32

struct ca {
    char *key_file, *cert_file, *scheduler_file, *pem; /* owned */
    EVP_PKEY *key;
    X509 *cert;
    uint8_t fingerprint[CERT_FINGERPRINT_BYTES];
    uint8_t seed[SECRET_BYTES]; /* of ca_secret() */
};

static enum rc check_private(const char *path, struct error *e)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return error_set(e, RC_INVALID, "%s is not a plain file; the key of the nodes' authority is one", path);
    if (st.st_mode & 077)
        return error_set(e, RC_INVALID, "%s may be used by others (mode %03o); chmod 600 it", path,
                         (unsigned)st.st_mode & 0777);
    return RC_OK;
}

static enum rc read_key(struct ca *ca, struct error *e)
{
    struct strbuf text;
    enum rc rc = check_private(ca->key_file, e);
    if (rc != RC_OK)
        return rc;
    rc = file_read(&text, ca->key_file, PEM_MAX, e);
    if (rc == RC_OK && cert_key_read(&ca->key, text.data ? text.data : "", text.len, e) != RC_OK)
        rc = error_prefix(e, "%s: restore it from a backup, or remove it, and every node has to join anew",
                          ca->key_file);
    if (text.data)
        explicit_bzero(text.data, text.cap);
    strbuf_fini(&text);
    return rc;
}

static enum rc make_key(struct ca *ca, struct error *e)
{
    struct strbuf text;
    strbuf_init(&text, PEM_MAX);
    enum rc rc = cert_key_new(&ca->key, e);
    if (rc == RC_OK)
        rc = cert_key_write(ca->key, &text, e);
    if (rc == RC_OK)
        rc = file_replace(ca->key_file, 0600, text.data, text.len, e);
    if (text.data)
        explicit_bzero(text.data, text.cap);
    strbuf_fini(&text);
    return rc;
}

static enum rc make_cert(struct ca *ca, int64_t now_s, struct error *e)
{
    const struct cert_spec spec = {CA_NAME, now_s - DAY_S, now_s + CA_YEARS * YEAR_S, true};
    struct strbuf text;
    strbuf_init(&text, PEM_MAX);
    enum rc rc = cert_sign(&ca->cert, &spec, ca->key, NULL, ca->key, e);
    if (rc == RC_OK)
        rc = cert_write(ca->cert, &text, e);
    if (rc == RC_OK)
        rc = file_replace(ca->cert_file, 0644, text.data, text.len, e);
    if (rc == RC_OK)
        ca->pem = strbuf_take(&text);
    strbuf_fini(&text);
    return rc;
}

static enum rc read_cert(struct ca *ca, struct error *e)
{
    struct strbuf text;
    enum rc rc = file_read(&text, ca->cert_file, PEM_MAX, e);
    if (rc == RC_OK)
        rc = cert_read(&ca->cert, text.data ? text.data : "", text.len, e);
    if (rc == RC_OK && X509_check_private_key(ca->cert, ca->key) != 1)
        rc = error_set(e, RC_INVALID, "it is not the certificate of %s", ca->key_file);
    if (rc == RC_OK)
        ca->pem = strbuf_take(&text);
    else if (rc == RC_INVALID)
        error_prefix(e, "%s: restore both from one backup, or remove both, and every node has to join anew",
                     ca->cert_file);
    strbuf_fini(&text);
    return rc;
}

/* Made anew at each start: nothing hangs on which one it is. */
static enum rc make_scheduler(struct ca *ca, int64_t now_s, struct error *e)
{
    const struct cert_spec spec = {CA_SCHEDULER_NAME, now_s - DAY_S, cert_until_s(ca->cert), false};
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    struct strbuf text;
    strbuf_init(&text, PEM_MAX);
    enum rc rc = cert_key_new(&key, e);
    if (rc == RC_OK)
        rc = cert_sign(&cert, &spec, key, ca->cert, ca->key, e);
    if (rc == RC_OK)
        rc = cert_write(cert, &text, e);
    if (rc == RC_OK)
        rc = strbuf_puts(&text, ca->pem);
    if (rc == RC_OK)
        rc = cert_key_write(key, &text, e);
    if (rc == RC_OK)
        rc = file_replace(ca->scheduler_file, 0600, text.data, text.len, e);
    if (text.data)
        explicit_bzero(text.data, text.cap);
    strbuf_fini(&text);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}

static void make_seed(struct ca *ca)
{
    unsigned char *der = NULL;
    int n = i2d_PrivateKey(ca->key, &der);
    SPW_ASSERT(n > 0);
    sha256(der, (size_t)n, ca->seed);
    OPENSSL_cleanse(der, (size_t)n);
    OPENSSL_free(der);
}

static enum rc open_files(struct ca *ca, int64_t now_s, struct error *e)
{
    enum rc rc = read_key(ca, e);
    if (rc == RC_NOT_FOUND)
        rc = make_key(ca, e);
    if (rc != RC_OK)
        return rc;
    rc = read_cert(ca, e);
    if (rc == RC_NOT_FOUND)
        rc = make_cert(ca, now_s, e);
    if (rc == RC_OK && cert_until_s(ca->cert) <= now_s)
        rc = error_set(e, RC_INVALID, "%s has run out; remove it and %s, and every node has to join anew",
                       ca->cert_file, ca->key_file);
    return rc == RC_OK ? make_scheduler(ca, now_s, e) : rc;
}

enum rc ca_open(struct ca **out, const char *dir, int64_t now_s, struct error *e)
{
    struct ca *ca = spw_calloc(1, sizeof *ca);
    ca->key_file = spw_asprintf("%s/ca.key", dir);
    ca->cert_file = spw_asprintf("%s/ca.pem", dir);
    ca->scheduler_file = spw_asprintf("%s/scheduler.pem", dir);
    enum rc rc = RC_OK;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        rc = error_set(e, RC_IO, "%s: %s", dir, strerror(errno));
    if (rc == RC_OK)
        rc = open_files(ca, now_s, e);
    if (rc != RC_OK) {
        ca_free(ca);
        return rc;
    }
    cert_fingerprint(ca->cert, ca->fingerprint);
    make_seed(ca);
    *out = ca;
    return RC_OK;
}

void ca_free(struct ca *ca)
{
    if (!ca)
        return;
    free(ca->key_file);
    free(ca->cert_file);
    free(ca->scheduler_file);
    free(ca->pem);
    EVP_PKEY_free(ca->key);
    X509_free(ca->cert);
    explicit_bzero(ca->seed, sizeof ca->seed);
    free(ca);
}

enum rc ca_issue(struct ca *ca, const char *node, const char *request, size_t n, int64_t now_s, int64_t life_s,
                 struct strbuf *pem, struct error *e)
{
    char name[CERT_NAME_MAX];
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    if (snprintf(name, sizeof name, "%s%s", node, CA_NODE_SUFFIX) >= (int)sizeof name)
        return error_set(e, RC_INVALID, "the node's name is too long for a certificate");
    enum rc rc = cert_request_read(&key, request, n, e);
    if (rc != RC_OK)
        return rc;
    const struct cert_spec spec = {name, now_s - CERT_BACKDATE_S, now_s + life_s, false};
    rc = cert_sign(&cert, &spec, key, ca->cert, ca->key, e);
    if (rc == RC_OK)
        rc = cert_write(cert, pem, e);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}

enum rc ca_request_hash(const char *request, size_t n, uint8_t hash[CERT_FINGERPRINT_BYTES], struct error *e)
{
    EVP_PKEY *key = NULL;
    unsigned char *der = NULL;
    enum rc rc = cert_request_read(&key, request, n, e);
    if (rc != RC_OK)
        return rc;
    int len = i2d_PUBKEY(key, &der);
    if (len > 0)
        sha256(der, (size_t)len, hash);
    else
        rc = error_set(e, RC_INTERNAL, "a public key cannot be written");
    OPENSSL_free(der);
    EVP_PKEY_free(key);
    return rc;
}

const char *ca_pem(const struct ca *ca)
{
    return ca->pem;
}

const char *ca_file(const struct ca *ca)
{
    return ca->cert_file;
}

const char *ca_scheduler_file(const struct ca *ca)
{
    return ca->scheduler_file;
}

const uint8_t *ca_fingerprint(const struct ca *ca)
{
    return ca->fingerprint;
}

void ca_secret(const struct ca *ca, const char *purpose, const char *name, uint8_t out[32])
{
    char *text = spw_asprintf("%s|%s", purpose, name);
    unsigned n = 0;
    SPW_ASSERT(HMAC(EVP_sha256(), ca->seed, sizeof ca->seed, (const unsigned char *)text, strlen(text), out, &n) &&
               n == 32);
    free(text);
}

bool ca_node_of(const X509 *cert, char *node, size_t size)
{
    char name[CERT_NAME_MAX];
    if (!cert_name(cert, name, sizeof name))
        return false;
    const size_t n = strlen(name), suffix = strlen(CA_NODE_SUFFIX);
    if (n <= suffix || strcmp(name + n - suffix, CA_NODE_SUFFIX) != 0 || n - suffix >= size)
        return false;
    memcpy(node, name, n - suffix);
    node[n - suffix] = '\0';
    return true;
}

int64_t ca_issued_s(const X509 *cert)
{
    return cert_from_s(cert) + CERT_BACKDATE_S;
}
