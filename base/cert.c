#include "base/cert.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

#define SERIAL_BYTES 16
#define PEM_MAX      (1 << 20)

static enum rc failed(struct error *e, enum rc code, const char *what)
{
    const char *text = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return error_set(e, code, "%s: %s", what, text ? text : "unknown reason");
}

static int no_password(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return 0;
}

static BIO *reader(const char *pem, size_t n)
{
    return n <= PEM_MAX ? BIO_new_mem_buf(pem, (int)n) : NULL;
}

/* What was written into b goes to the text's end. b is freed. */
static enum rc append(BIO *b, bool written, struct strbuf *pem, const char *what, struct error *e)
{
    char *data = NULL;
    long n = b && written ? BIO_get_mem_data(b, &data) : 0;
    enum rc rc = n > 0 ? strbuf_append(pem, data, (size_t)n) : failed(e, RC_INTERNAL, what);
    if (n > 0 && rc != RC_OK)
        rc = error_set(e, rc, "%s: it is too long", what);
    if (data)
        OPENSSL_cleanse(data, (size_t)n);
    BIO_free(b);
    return rc;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static bool is_our_kind(const EVP_PKEY *key)
{
    char group[32] = "";
    return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC && EVP_PKEY_get_group_name(key, group, sizeof group, NULL) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

enum rc cert_key_new(EVP_PKEY **key, struct error *e)
{
    *key = EVP_EC_gen("P-256");
    return *key ? RC_OK : failed(e, RC_INTERNAL, "no key can be made");
}

enum rc cert_key_read(EVP_PKEY **key, const char *pem, size_t n, struct error *e)
{
    BIO *b = reader(pem, n);
    *key = b ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;
    BIO_free(b);
    return *key ? RC_OK : failed(e, RC_INVALID, "no unencrypted private key in PEM form");
}

enum rc cert_key_write(const EVP_PKEY *key, struct strbuf *pem, struct error *e)
{
    BIO *b = BIO_new(BIO_s_mem());
    bool written = b && PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) == 1;
    return append(b, written, pem, "a private key cannot be written", e);
}

/* ---- certificates ----------------------------------------------------------------------------------------------- */

static bool set_serial(X509 *x)
{
    unsigned char bytes[SERIAL_BYTES];
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return false;
    bytes[0] = (bytes[0] & 0x7f) | 0x40; /* positive, and as long as the others */
    BIGNUM *n = BN_bin2bn(bytes, sizeof bytes, NULL);
    bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

static bool add_extension(X509 *x, X509V3_CTX *ctx, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
    bool ok = ext && X509_add_ext(x, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

static bool add_extensions(X509 *x, const struct cert_spec *spec, const X509 *by)
{
    X509V3_CTX ctx;
    char name[CERT_NAME_MAX + 8];
    X509V3_set_ctx(&ctx, (X509 *)(uintptr_t)(by ? by : x), x, NULL, NULL, 0); /* only read */
    if (spec->authority)
        return add_extension(x, &ctx, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
               add_extension(x, &ctx, NID_key_usage, "critical,keyCertSign,cRLSign") &&
               add_extension(x, &ctx, NID_subject_key_identifier, "hash");
    snprintf(name, sizeof name, "DNS:%s", spec->name);
    return add_extension(x, &ctx, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(x, &ctx, NID_key_usage, "critical,digitalSignature") &&
           add_extension(x, &ctx, NID_ext_key_usage, "serverAuth,clientAuth") &&
           add_extension(x, &ctx, NID_subject_alt_name, name) &&
           add_extension(x, &ctx, NID_authority_key_identifier, "keyid:always");
}

static bool add_names(X509 *x, const char *name, const X509 *by)
{
    X509_NAME *own = X509_get_subject_name(x);
    char cn[65]; /* the standard's bound */
    snprintf(cn, sizeof cn, "%s", name);
    return X509_NAME_add_entry_by_txt(own, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0) == 1 &&
           X509_set_issuer_name(x, by ? X509_get_subject_name(by) : own) == 1;
}

/* Commas and the like would mean something to the writer of extensions. */
static bool is_plain(const char *name)
{
    return text_is_word(name, "-_. ", CERT_NAME_MAX - 1);
}

enum rc cert_sign(X509 **cert, const struct cert_spec *spec, EVP_PKEY *subject, const X509 *by, EVP_PKEY *by_key,
                  struct error *e)
{
    if (!is_plain(spec->name))
        return error_set(e, RC_INVALID, "\"%.80s\" can't be a certificate's name", spec->name);
    X509 *x = X509_new();
    bool ok = x && X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) &&
              ASN1_TIME_set(X509_getm_notBefore(x), (time_t)spec->from_s) &&
              ASN1_TIME_set(X509_getm_notAfter(x), (time_t)spec->until_s) && X509_set_pubkey(x, subject) == 1 &&
              add_names(x, spec->name, by) && add_extensions(x, spec, by) && X509_sign(x, by_key, EVP_sha256()) > 0;
    if (!ok) {
        X509_free(x);
        return failed(e, RC_INTERNAL, "no certificate can be made");
    }
    *cert = x;
    return RC_OK;
}

enum rc cert_read(X509 **cert, const char *pem, size_t n, struct error *e)
{
    BIO *b = reader(pem, n);
    *cert = b ? PEM_read_bio_X509(b, NULL, no_password, NULL) : NULL;
    BIO_free(b);
    return *cert ? RC_OK : failed(e, RC_INVALID, "no certificate in PEM form");
}

enum rc cert_write(const X509 *cert, struct strbuf *pem, struct error *e)
{
    BIO *b = BIO_new(BIO_s_mem());
    bool written = b && PEM_write_bio_X509(b, (X509 *)(uintptr_t)cert) == 1; /* older headers want it writable */
    return append(b, written, pem, "a certificate cannot be written", e);
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

enum rc cert_request_write(EVP_PKEY *key, struct strbuf *pem, struct error *e)
{
    X509_REQ *r = X509_REQ_new();
    BIO *b = BIO_new(BIO_s_mem());
    bool written = r && b && X509_REQ_set_version(r, X509_REQ_VERSION_1) == 1 && X509_REQ_set_pubkey(r, key) == 1 &&
                   X509_REQ_sign(r, key, EVP_sha256()) > 0 && PEM_write_bio_X509_REQ(b, r) == 1;
    X509_REQ_free(r);
    return append(b, written, pem, "a request for a certificate cannot be written", e);
}

enum rc cert_request_read(EVP_PKEY **key, const char *pem, size_t n, struct error *e)
{
    BIO *b = reader(pem, n);
    X509_REQ *r = b ? PEM_read_bio_X509_REQ(b, NULL, no_password, NULL) : NULL;
    BIO_free(b);
    if (!r)
        return failed(e, RC_INVALID, "no request for a certificate (PKCS #10) in PEM form");
    EVP_PKEY *k = X509_REQ_get_pubkey(r);
    bool proven = k && is_our_kind(k) && X509_REQ_verify(r, k) == 1;
    X509_REQ_free(r);
    ERR_clear_error();
    if (!proven) {
        EVP_PKEY_free(k);
        return error_set(e, RC_INVALID, "the request for a certificate is not signed by an EC P-256 key of its own");
    }
    *key = k;
    return RC_OK;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

bool cert_name(const X509 *cert, char *name, size_t size)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool found = false;
    for (int i = 0; !found && i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);
        if (g->type != GEN_DNS)
            continue;
        const char *text = (const char *)ASN1_STRING_get0_data(g->d.dNSName);
        size_t n = (size_t)ASN1_STRING_length(g->d.dNSName);
        if (n == 0 || n >= size || memchr(text, '\0', n))
            break;
        memcpy(name, text, n);
        name[n] = '\0';
        found = true;
    }
    GENERAL_NAMES_free(all);
    return found;
}

bool cert_is_for(const X509 *cert, const char *name)
{
    char own[CERT_NAME_MAX];
    return cert_name(cert, own, sizeof own) && strcmp(own, name) == 0;
}

static int64_t seconds_of(const ASN1_TIME *t)
{
    struct tm tm;
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

int64_t cert_from_s(const X509 *cert)
{
    return seconds_of(X509_get0_notBefore(cert));
}

int64_t cert_until_s(const X509 *cert)
{
    return seconds_of(X509_get0_notAfter(cert));
}

void cert_fingerprint(const X509 *cert, uint8_t out[CERT_FINGERPRINT_BYTES])
{
    unsigned n = 0;
    SPW_ASSERT(X509_digest(cert, EVP_sha256(), out, &n) == 1 && n == CERT_FINGERPRINT_BYTES);
}
