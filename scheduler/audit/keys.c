/* The signing key's file, and what is derived from it. */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/text.h"
#include "scheduler/audit/chain.h"

#define KEY_FILE_MAX ((size_t)16 << 10)
#define MAC_LABEL    "spillway audit mac v1"
#define BODIES_LABEL "spillway audit bodies v1\n"

void audit_keys_fini(struct audit_keys *k)
{
    EVP_PKEY_free(k->sign);
    EVP_PKEY_free(k->verify);
    OPENSSL_cleanse(k, sizeof *k);
}

/* Everything follows from the secret key, whose reference becomes k's. */
static enum rc derive(struct audit_keys *k, EVP_PKEY *sign)
{
    uint8_t secret[32], mac[HMAC_BYTES];
    size_t n = sizeof secret, m = sizeof k->public_part;

    k->sign = sign;
    if (EVP_PKEY_get_raw_private_key(sign, secret, &n) != 1 || n != sizeof secret ||
        EVP_PKEY_get_raw_public_key(sign, k->public_part, &m) != 1 || m != sizeof k->public_part)
        return RC_INVALID;
    hmac_key_init(&k->tenants, secret, n);
    hmac_of(&k->tenants, MAC_LABEL, sizeof MAC_LABEL - 1, mac);
    hmac_key_init(&k->mac, mac, sizeof mac);
    OPENSSL_cleanse(secret, sizeof secret);
    OPENSSL_cleanse(mac, sizeof mac);
    k->verify = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, k->public_part, sizeof k->public_part);
    return k->verify ? RC_OK : RC_INTERNAL;
}

enum rc audit_keys_from_public(struct audit_keys *k, const uint8_t bytes[AUDIT_PUBLIC_BYTES])
{
    *k = (struct audit_keys){0};
    memcpy(k->public_part, bytes, AUDIT_PUBLIC_BYTES);
    k->verify = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, bytes, AUDIT_PUBLIC_BYTES);
    return k->verify ? RC_OK : RC_INVALID;
}

static enum rc make(const char *path, struct error *e)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    BIO *b = BIO_new(BIO_s_secmem());
    char *text = NULL;
    enum rc rc = key && b && PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) == 1
                     ? RC_OK
                     : error_set(e, RC_INTERNAL, "audit: no Ed25519 key could be made; does OpenSSL have it?");
    if (rc == RC_OK) {
        long n = BIO_get_mem_data(b, &text);
        rc = file_replace(path, 0600, text, (size_t)n, e);
    }
    BIO_free(b);
    EVP_PKEY_free(key);
    return rc;
}

static enum rc read_private(struct audit_keys *k, const char *path, const struct strbuf *text, struct error *e)
{
    BIO *b = BIO_new_mem_buf(text->data, (int)text->len);
    EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, (void *)"") : NULL;

    BIO_free(b);
    if (!key)
        return error_set(e, RC_INVALID, "%s: no private key in it; it is the PEM file of an Ed25519 key", path);
    enum rc rc = EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? RC_OK : RC_INVALID;
    if (rc != RC_OK)
        EVP_PKEY_free(key);
    else
        rc = derive(k, key);
    return rc == RC_OK ? RC_OK : error_set(e, RC_INVALID, "%s: not an Ed25519 key", path);
}

enum rc audit_keys_load(struct audit_keys *k, const char *path, enum audit_key_use use, struct error *e)
{
    struct strbuf text;
    struct stat st;

    *k = (struct audit_keys){0};
    if (use == AUDIT_KEY_MAKE && stat(path, &st) != 0 && errno == ENOENT) {
        enum rc made = make(path, e);
        if (made != RC_OK)
            return made;
    }
    if (stat(path, &st) == 0 && (st.st_mode & 077))
        return error_set(e, RC_DENIED, "%s: others may read or write it (mode %04o); chmod 600 it", path,
                         (unsigned)(st.st_mode & 07777));
    enum rc rc = file_read(&text, path, KEY_FILE_MAX, e);
    if (rc == RC_OK)
        rc = read_private(k, path, &text, e);
    if (text.data)
        OPENSSL_cleanse(text.data, text.cap);
    strbuf_fini(&text);
    if (rc != RC_OK)
        audit_keys_fini(k);
    return rc;
}

enum rc audit_keys_load_public(struct audit_keys *k, const char *path, struct error *e)
{
    struct strbuf text;
    enum rc rc = file_read(&text, path, KEY_FILE_MAX, e);
    EVP_PKEY *key = NULL;
    uint8_t bytes[AUDIT_PUBLIC_BYTES];
    size_t n = sizeof bytes;

    *k = (struct audit_keys){0};
    if (rc == RC_OK) {
        BIO *b = BIO_new_mem_buf(text.data ? text.data : "", (int)text.len);
        key = b ? PEM_read_bio_PUBKEY(b, NULL, NULL, NULL) : NULL;
        BIO_free(b);
        if (!key && (b = BIO_new_mem_buf(text.data ? text.data : "", (int)text.len)) != NULL) {
            key = PEM_read_bio_PrivateKey(b, NULL, NULL, (void *)"");
            BIO_free(b);
        }
        bool ok = key && EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 &&
                  EVP_PKEY_get_raw_public_key(key, bytes, &n) == 1 && n == sizeof bytes;
        rc = ok ? audit_keys_from_public(k, bytes)
                : error_set(e, RC_INVALID, "%s: no Ed25519 key; 'spillway audit key' writes its public part", path);
    }
    EVP_PKEY_free(key);
    if (text.data)
        OPENSSL_cleanse(text.data, text.cap);
    strbuf_fini(&text);
    return rc;
}

enum rc audit_keys_public_pem(const struct audit_keys *k, struct strbuf *out)
{
    BIO *b = BIO_new(BIO_s_mem());
    char *text = NULL;
    enum rc rc = b && PEM_write_bio_PUBKEY(b, k->verify) == 1 ? RC_OK : RC_INTERNAL;

    if (rc == RC_OK) {
        long n = BIO_get_mem_data(b, &text);
        rc = strbuf_append(out, text, (size_t)n);
    }
    BIO_free(b);
    return rc;
}

char *audit_keys_fingerprint(const struct audit_keys *k, char *out)
{
    uint8_t digest[HMAC_BYTES];

    hmac_plain(k->public_part, sizeof k->public_part, NULL, 0, digest);
    static const char kind[] = "sha256:";
    memcpy(out, kind, sizeof kind);
    text_hex(out + sizeof kind - 1, digest, sizeof digest);
    return out;
}

void audit_tenant_key(const struct audit_keys *k, const char *tenant, uint8_t out[HMAC_BYTES])
{
    struct hmac h;

    hmac_begin(&h, &k->tenants);
    hmac_take(&h, BODIES_LABEL, sizeof BODIES_LABEL - 1);
    hmac_take(&h, tenant, strlen(tenant));
    hmac_result(&h, &k->tenants, out);
}
