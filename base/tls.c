#include "base/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* OpenSSL's newest reason in words; empties its queue, so that no later call reads a stale error. */
static const char *reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return text ? text : "unknown reason";
}

/* A private key on an encrypted file would ask on the terminal: a daemon has none. */
static int no_password(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return 0;
}

/* A folder, a pipe or a device would fail late, or never. */
static enum rc check_file(const char *path, struct error *e)
{
    struct stat st;

    if (stat(path, &st) != 0 || access(path, R_OK) != 0)
        return error_set(e, RC_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return error_set(e, RC_INVALID, "%s: not a file; a PEM file is needed", path);
    return RC_OK;
}

static enum rc new_context(SSL_CTX **ctx, const SSL_METHOD *method, struct error *e)
{
    *ctx = SSL_CTX_new(method);
    if (!*ctx || !SSL_CTX_set_min_proto_version(*ctx, TLS1_2_VERSION)) {
        SSL_CTX_free(*ctx);
        *ctx = NULL;
        return error_set(e, RC_INTERNAL, "TLS cannot be set up: %s", reason());
    }
    SSL_CTX_set_options(*ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_default_passwd_cb(*ctx, no_password);
    return RC_OK;
}

static enum rc load_pair(SSL_CTX *ctx, const char *cert_file, const char *key_file, struct error *e)
{
    enum rc rc = check_file(cert_file, e);

    if (rc == RC_OK)
        rc = check_file(key_file, e);
    if (rc != RC_OK)
        return rc;
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
        return error_set(e, RC_INVALID, "%s: no certificate chain in PEM form: %s", cert_file, reason());
    if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1)
        return error_set(e, RC_INVALID, "%s: no unencrypted private key in PEM form that fits %s: %s", key_file,
                         cert_file, reason());
    if (SSL_CTX_check_private_key(ctx) != 1)
        return error_set(e, RC_INVALID, "%s: not the private key of %s: %s", key_file, cert_file, reason());
    return RC_OK;
}

enum rc tls_server_new(SSL_CTX **ctx, const char *cert_file, const char *key_file, struct error *e)
{
    enum rc rc = new_context(ctx, TLS_server_method(), e);

    if (rc != RC_OK)
        return rc;
    rc = load_pair(*ctx, cert_file, key_file, e);
    if (rc != RC_OK) {
        SSL_CTX_free(*ctx);
        *ctx = NULL;
    }
    return rc;
}

enum rc tls_client_new(SSL_CTX **ctx, const char *ca_file, struct error *e)
{
    enum rc rc = new_context(ctx, TLS_client_method(), e);

    if (rc != RC_OK)
        return rc;
    SSL_CTX_set_verify(*ctx, SSL_VERIFY_PEER, NULL);
    if (ca_file ? SSL_CTX_load_verify_locations(*ctx, ca_file, NULL) == 1 : SSL_CTX_set_default_verify_paths(*ctx) == 1)
        return RC_OK;
    SSL_CTX_free(*ctx);
    *ctx = NULL;
    return error_set(e, RC_INVALID, "%s: no certificates in PEM form: %s", ca_file ? ca_file : "the system's roots",
                     reason());
}
