#include "base/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of TLS 1.2: forward secrecy and authenticated encryption alone. TLS 1.3 has no others. */
#define CIPHERS_1_2 "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!aPSK"
#define ALPN        "\x08http/1.1"
#define PAIR_TRIES  10

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
    if (!*ctx || !SSL_CTX_set_min_proto_version(*ctx, TLS1_2_VERSION) || !SSL_CTX_set_cipher_list(*ctx, CIPHERS_1_2)) {
        SSL_CTX_free(*ctx);
        *ctx = NULL;
        return error_set(e, RC_INTERNAL, "TLS cannot be set up: %s", reason());
    }
    SSL_CTX_set_options(*ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_default_passwd_cb(*ctx, no_password);
    SSL_CTX_set_timeout(*ctx, TLS_SESSION_S);
    return RC_OK;
}

static enum rc load_pair_once(SSL_CTX *ctx, const char *cert_file, const char *key_file, struct error *e)
{
    enum rc rc = check_file(cert_file, e);

    if (rc == RC_OK)
        rc = check_file(key_file, e);
    if (rc != RC_OK)
        return rc;
    /* Both halves of one file are read of what one opening of it shows: it may be replaced in between. */
    const int fd = strcmp(cert_file, key_file) == 0 ? open(cert_file, O_RDONLY | O_CLOEXEC) : -1;
    char opened[32];
    snprintf(opened, sizeof opened, "/proc/self/fd/%d", fd);
    const bool is_one = fd >= 0 && access(opened, R_OK) == 0;
    const char *cert_path = is_one ? opened : cert_file, *key_path = is_one ? opened : key_file;
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_path) != 1)
        rc = error_set(e, RC_INVALID, "%s: no certificate chain in PEM form: %s", cert_file, reason());
    else if (SSL_CTX_use_PrivateKey_file(ctx, key_path, SSL_FILETYPE_PEM) != 1)
        rc = error_set(e, RC_INVALID, "%s: no unencrypted private key in PEM form that fits %s: %s", key_file,
                       cert_file, reason());
    else if (SSL_CTX_check_private_key(ctx) != 1)
        rc = error_set(e, RC_INVALID, "%s: not the private key of %s: %s", key_file, cert_file, reason());
    if (fd >= 0)
        close(fd);
    return rc;
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* A pair that was replaced between the reading of its halves is read again. */
static enum rc load_pair(SSL_CTX *ctx, const char *cert_file, const char *key_file, struct error *e)
{
    struct stat before[2] = {{.st_ino = 0}}, after[2] = {{.st_ino = 0}};
    for (int try = 0;; try++) {
        (void)!stat(cert_file, &before[0]);
        (void)!stat(key_file, &before[1]);
        enum rc rc = load_pair_once(ctx, cert_file, key_file, e);
        if (rc == RC_OK || try == PAIR_TRIES)
            return rc;
        (void)!stat(cert_file, &after[0]);
        (void)!stat(key_file, &after[1]);
        if (is_same_file(&before[0], &after[0]) && is_same_file(&before[1], &after[1]))
            return rc;
    }
}

static enum rc load_ca(SSL_CTX *ctx, const char *ca_file, struct error *e)
{
    enum rc rc = check_file(ca_file, e);

    if (rc == RC_OK && SSL_CTX_load_verify_locations(ctx, ca_file, NULL) != 1)
        rc = error_set(e, RC_INVALID, "%s: no certificates in PEM form: %s", ca_file, reason());
    return rc;
}

/* ---- listeners -------------------------------------------------------------------------------------------------- */

/* We speak HTTP/1.1: who offers a list without it is told so by the handshake, not by a broken answer. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                           unsigned in_len, void *arg)
{
    unsigned char *chosen;

    (void)ssl, (void)arg;
    if (SSL_select_next_proto(&chosen, out_len, (const unsigned char *)ALPN, sizeof ALPN - 1, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* Somebody whom we believe has signed it. */
static bool is_believed(X509_CRL *crl, X509_STORE *store)
{
    STACK_OF(X509) *all = X509_STORE_get1_all_certs(store);
    bool ok = false;

    for (int i = 0; !ok && i < sk_X509_num(all); i++) {
        X509 *ca = sk_X509_value(all, i);
        ok = X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_subject_name(ca)) == 0 &&
             X509_CRL_verify(crl, X509_get0_pubkey(ca)) == 1;
    }
    sk_X509_pop_free(all, X509_free);
    ERR_clear_error();
    return ok;
}

static enum rc load_crl(SSL_CTX *ctx, const struct tls_server_files *f, struct error *e)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    enum rc rc = check_file(f->client_crl, e);

    if (rc != RC_OK)
        return rc;
    if (!lookup || X509_load_crl_file(lookup, f->client_crl, X509_FILETYPE_PEM) < 1)
        return error_set(e, RC_INVALID, "%s: no list of withdrawn certificates (CRL) in PEM form: %s", f->client_crl,
                         reason());
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store); /* ours alone so far */
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));
        if (crl && !is_believed(crl, store))
            return error_set(e, RC_INVALID, "%s: holds a list that no authority of %s has signed", f->client_crl,
                             f->client_ca);
    }
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return RC_OK;
}

static enum rc ask_clients(SSL_CTX *ctx, const struct tls_server_files *f, struct error *e)
{
    enum rc rc = load_ca(ctx, f->client_ca, e);

    if (rc != RC_OK)
        return rc;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(f->client_ca);
    if (!names)
        return error_set(e, RC_INVALID, "%s: no certificates in PEM form: %s", f->client_ca, reason());
    SSL_CTX_set_client_CA_list(ctx, names); /* takes them */
    SSL_CTX_set_verify(
        ctx, SSL_VERIFY_PEER | (f->client_certs == TLS_CLIENT_CERTS_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
        NULL);
    return f->client_crl ? load_crl(ctx, f, e) : RC_OK;
}

static bool add_lists(EVP_MD_CTX *digest, SSL_CTX *ctx)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    unsigned char fingerprint[EVP_MAX_MD_SIZE];
    unsigned n;
    bool ok = true;

    for (int i = 0; ok && i < sk_X509_OBJECT_num(objects); i++) {
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));
        ok = !crl || (X509_CRL_digest(crl, EVP_sha256(), fingerprint, &n) == 1 &&
                      EVP_DigestUpdate(digest, fingerprint, n) == 1);
    }
    return ok;
}

static bool add_store(EVP_MD_CTX *digest, SSL_CTX *ctx)
{
    STACK_OF(X509) *all = X509_STORE_get1_all_certs(SSL_CTX_get_cert_store(ctx));
    unsigned char fingerprint[EVP_MAX_MD_SIZE];
    unsigned n;
    bool ok = all != NULL;

    for (int i = 0; ok && i < sk_X509_num(all); i++)
        ok = X509_digest(sk_X509_value(all, i), EVP_sha256(), fingerprint, &n) == 1 &&
             EVP_DigestUpdate(digest, fingerprint, n) == 1;
    sk_X509_pop_free(all, X509_free);
    return ok;
}

/* A session is resumed only where the same is asked of clients: one that began before a certificate was demanded, or
 * under an authority that is believed no more, or before others were withdrawn, is none of ours. */
static enum rc name_sessions(SSL_CTX *ctx, const struct tls_server_files *f, struct error *e)
{
    unsigned char id[EVP_MAX_MD_SIZE] = {0}, mode = (unsigned char)f->client_certs;
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    unsigned n = 0;
    bool ok = digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(digest, &mode, sizeof mode) == 1 && add_store(digest, ctx) && add_lists(digest, ctx) &&
              EVP_DigestFinal_ex(digest, id, &n) == 1 && SSL_CTX_set_session_id_context(ctx, id, n) == 1;

    EVP_MD_CTX_free(digest);
    return ok ? RC_OK : error_set(e, RC_INTERNAL, "TLS sessions cannot be set up: %s", reason());
}

enum rc tls_server_new(SSL_CTX **ctx, const struct tls_server_files *f, struct error *e)
{
    enum rc rc = new_context(ctx, TLS_server_method(), e);

    if (rc != RC_OK)
        return rc;
    SSL_CTX_set_session_cache_mode(*ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_alpn_select_cb(*ctx, choose_protocol, NULL);
    rc = load_pair(*ctx, f->cert, f->key, e);
    if (rc == RC_OK && f->client_certs != TLS_CLIENT_CERTS_OFF)
        rc = ask_clients(*ctx, f, e);
    if (rc == RC_OK)
        rc = name_sessions(*ctx, f, e);
    if (rc != RC_OK) {
        SSL_CTX_free(*ctx);
        *ctx = NULL;
    }
    return rc;
}

/* ---- connections out -------------------------------------------------------------------------------------------- */

enum rc tls_client_expect(SSL *ssl, const char *name, struct error *e)
{
    struct in6_addr literal;
    bool is_literal = inet_pton(AF_INET, name, &literal) == 1 || inet_pton(AF_INET6, name, &literal) == 1;
    int ok = is_literal ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name)
                        : SSL_set1_host(ssl, name) && SSL_set_tlsext_host_name(ssl, name);
    return ok ? RC_OK : error_set(e, RC_INVALID, "\"%s\" is no host name that TLS can check", name);
}

static int on_session(SSL *ssl, SSL_SESSION *session)
{
    SSL_SESSION **slot = SSL_get_app_data(ssl);

    if (!slot || !SSL_SESSION_is_resumable(session))
        return 0; /* not taken */
    /* A copy: OpenSSL spoils the session of a connection whose peer closes it without a word of TLS, as many do. */
    SSL_SESSION *copy = SSL_SESSION_dup(session);
    if (copy) {
        SSL_SESSION_free(*slot);
        *slot = copy;
    }
    return 0; /* theirs stays theirs */
}

void tls_client_keep_session(SSL *ssl, SSL_SESSION **slot)
{
    SSL_set_app_data(ssl, slot);
}

bool tls_client_connected(SSL *ssl)
{
    SSL_SESSION **slot = SSL_get_app_data(ssl);
    bool resumed = SSL_session_reused(ssl) != 0;

    /* With TLS 1.2 a ticket that was renewed in resuming spoils the old session, and on_session() is not called. */
    if (resumed && slot && SSL_version(ssl) < TLS1_3_VERSION) {
        SSL_SESSION_free(*slot);
        *slot = SSL_get1_session(ssl);
    }
    return resumed;
}

static enum rc believe(SSL_CTX *ctx, const char *ca, struct error *e)
{
    if (ca)
        return load_ca(ctx, ca, e);
    if (SSL_CTX_set_default_verify_paths(ctx) == 1)
        return RC_OK;
    return error_set(e, RC_INVALID, "the system's roots cannot be read: %s", reason());
}

enum rc tls_client_new(SSL_CTX **ctx, const struct tls_client_files *f, struct error *e)
{
    enum rc rc = new_context(ctx, TLS_client_method(), e);

    if (rc != RC_OK)
        return rc;
    SSL_CTX_set_verify(*ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(*ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(*ctx, on_session);
    if (SSL_CTX_set_alpn_protos(*ctx, (const unsigned char *)ALPN, sizeof ALPN - 1) != 0) /* 0: done */
        rc = error_set(e, RC_INTERNAL, "TLS cannot be set up: %s", reason());
    if (rc == RC_OK)
        rc = believe(*ctx, f->ca, e);
    if (rc == RC_OK && f->cert)
        rc = load_pair(*ctx, f->cert, f->key, e);
    if (rc != RC_OK) {
        SSL_CTX_free(*ctx);
        *ctx = NULL;
    }
    return rc;
}

/* ---- a server whose authority is known by its fingerprint ------------------------------------------------------- */

static X509 *find_pinned(STACK_OF(X509) * chain, const unsigned char *pin)
{
    unsigned char own[EVP_MAX_MD_SIZE];
    unsigned n;
    for (int i = 0; i < sk_X509_num(chain); i++) {
        X509 *x = sk_X509_value(chain, i);
        if (X509_digest(x, EVP_sha256(), own, &n) == 1 && n == TLS_PIN_BYTES && memcmp(own, pin, n) == 0)
            return x;
    }
    return NULL;
}

/* In the place of OpenSSL's own verification: the same one, with the pinned certificate as the only authority. The
 * trusted stack replaces the context's store, which is empty. */
static int verify_pinned(X509_STORE_CTX *c, void *pin)
{
    X509 *authority = find_pinned(X509_STORE_CTX_get0_untrusted(c), pin);
    STACK_OF(X509) *trusted = sk_X509_new_null();
    int ok = 0;
    if (authority && trusted && sk_X509_push(trusted, authority) > 0) {
        X509_STORE_CTX_set0_trusted_stack(c, trusted);
        ok = X509_verify_cert(c);
    } else {
        X509_STORE_CTX_set_error(c, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
    }
    sk_X509_free(trusted);
    return ok;
}

enum rc tls_client_pinned(SSL_CTX **ctx, const unsigned char pin[TLS_PIN_BYTES], struct error *e)
{
    enum rc rc = new_context(ctx, TLS_client_method(), e);

    if (rc != RC_OK)
        return rc;
    SSL_CTX_set_verify(*ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(*ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_cert_verify_callback(*ctx, verify_pinned, (void *)(uintptr_t)pin); /* only read */
    return RC_OK;
}
