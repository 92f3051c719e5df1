#include "base/tls_door.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"

#define TICKET_KEYS 3
#define FILES       4

struct ticket_key {
    unsigned char name[16], aes[32], hmac[32];
};
struct file_mark { /* which file it was */
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec changed;
};
struct tls_door {
    pthread_mutex_t lock; /* guards all below; held for copies only, never over a file or a handshake */
    SSL_CTX *ctx;
    char *paths[FILES]; /* owned: cert, key, client_ca, client_crl */
    struct file_mark marks[FILES];
    enum tls_client_certs client_certs;
    char *client_name;                   /* owned; NULL: any; set before anything is opened */
    struct ticket_key keys[TICKET_KEYS]; /* newest first */
    struct mono keys_made;
    const struct clock *clock;
};

/* ---- tickets (RFC 5077): who encrypts them, and with what --------------------------------------------------------- */

static bool make_key(struct ticket_key *k)
{
    return RAND_bytes(k->name, sizeof k->name) == 1 && RAND_priv_bytes(k->aes, sizeof k->aes) == 1 &&
           RAND_priv_bytes(k->hmac, sizeof k->hmac) == 1;
}

static bool rotate_locked(struct tls_door *d)
{
    struct ticket_key fresh;

    if (!make_key(&fresh))
        return false;
    memmove(&d->keys[1], &d->keys[0], sizeof d->keys - sizeof d->keys[0]);
    d->keys[0] = fresh;
    d->keys_made = clock_now(d->clock);
    OPENSSL_cleanse(&fresh, sizeof fresh);
    return true;
}

/* The key for new tickets. False: no randomness is to be had; then there are none. */
static bool newest_key(struct tls_door *d, struct ticket_key *k)
{
    bool ok = true;

    pthread_mutex_lock(&d->lock);
    if (mono_since(d->clock, d->keys_made) >= TLS_SESSION_S * NS_PER_S)
        ok = rotate_locked(d);
    *k = d->keys[0];
    pthread_mutex_unlock(&d->lock);
    return ok;
}

/* Its age in keys; -1: nobody's, or too old. */
static int find_key(struct tls_door *d, const unsigned char *name, struct ticket_key *k)
{
    int found = -1;

    pthread_mutex_lock(&d->lock);
    /* A key that nobody has renewed for two lives (no new ticket was asked for) opens none any more. */
    bool any = mono_since(d->clock, d->keys_made) < 2 * TLS_SESSION_S * NS_PER_S;
    for (int i = 0; any && i < TICKET_KEYS && found < 0; i++) {
        if (CRYPTO_memcmp(d->keys[i].name, name, sizeof d->keys[i].name) == 0) {
            *k = d->keys[i];
            found = i;
        }
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

static bool set_mac(EVP_MAC_CTX *mac, struct ticket_key *k)
{
    char sha256[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, k->hmac, sizeof k->hmac),
                           OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, sha256, 0), OSSL_PARAM_END};

    return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* As SSL_CTX_set_tlsext_ticket_key_evp_cb(3) wants it: 1 done, 2 done and a new ticket is due, 0 not ours, -1 failed. */
static int ticket_cb(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int encrypt)
{
    struct tls_door *d = SSL_get_app_data(ssl);
    struct ticket_key k;
    int result = 1;

    if (encrypt) {
        if (!newest_key(d, &k) || RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1)
            return -1;
        memcpy(name, k.name, sizeof k.name);
        if (EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, k.aes, iv) != 1 || !set_mac(mac, &k))
            result = -1;
    } else {
        int age = find_key(d, name, &k);
        if (age < 0)
            return 0;
        if (EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, k.aes, iv) != 1 || !set_mac(mac, &k))
            result = -1;
        else
            result = age == 0 && SSL_version(ssl) < TLS1_3_VERSION ? 1 : 2; /* TLS 1.3: each is for one use */
    }
    OPENSSL_cleanse(&k, sizeof k);
    return result;
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static struct file_mark mark(const char *path)
{
    struct stat st;

    if (!path || stat(path, &st) != 0)
        return (struct file_mark){0};
    return (struct file_mark){.dev = st.st_dev, .ino = st.st_ino, .size = st.st_size, .changed = st.st_mtim};
}

static bool same_file(const struct file_mark *a, const struct file_mark *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->changed.tv_sec == b->changed.tv_sec &&
           a->changed.tv_nsec == b->changed.tv_nsec;
}

bool tls_door_stale(struct tls_door *d)
{
    char *paths[FILES];
    struct file_mark was[FILES];
    bool stale = false;

    pthread_mutex_lock(&d->lock);
    memcpy(was, d->marks, sizeof was);
    for (int i = 0; i < FILES; i++)
        paths[i] = d->paths[i] ? spw_strdup(d->paths[i]) : NULL;
    pthread_mutex_unlock(&d->lock);
    for (int i = 0; i < FILES; i++) {
        struct file_mark now = mark(paths[i]);
        stale = stale || !same_file(&was[i], &now);
        free(paths[i]);
    }
    return stale;
}

enum rc tls_door_replace(struct tls_door *d, const struct tls_server_files *f, struct error *e)
{
    const char *paths[FILES] = {f->cert, f->key, f->client_ca, f->client_crl};
    char *mine[FILES];
    struct file_mark marks[FILES];
    SSL_CTX *ctx;

    /* Marked before they are read: what changes meanwhile is seen as changed afterwards. */
    for (int i = 0; i < FILES; i++)
        marks[i] = mark(paths[i]);
    enum rc rc = tls_server_new(&ctx, f, e);
    if (rc != RC_OK)
        return rc;
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_cb);
    for (int i = 0; i < FILES; i++)
        mine[i] = paths[i] ? spw_strdup(paths[i]) : NULL;
    pthread_mutex_lock(&d->lock);
    bool ok = rotate_locked(d);
    SSL_CTX *old = ok ? d->ctx : ctx;
    for (int i = 0; i < FILES; i++) {
        char *drop = ok ? d->paths[i] : mine[i];
        if (ok)
            d->paths[i] = mine[i];
        mine[i] = drop;
    }
    if (ok) {
        d->ctx = ctx;
        d->client_certs = f->client_certs;
        memcpy(d->marks, marks, sizeof marks);
    }
    pthread_mutex_unlock(&d->lock);
    SSL_CTX_free(old);
    for (int i = 0; i < FILES; i++)
        free(mine[i]);
    return ok ? RC_OK : error_set(e, RC_INTERNAL, "no randomness for the keys of session tickets");
}

enum rc tls_door_reread(struct tls_door *d, struct error *e)
{
    char *paths[FILES];

    pthread_mutex_lock(&d->lock);
    for (int i = 0; i < FILES; i++)
        paths[i] = d->paths[i] ? spw_strdup(d->paths[i]) : NULL;
    struct tls_server_files f = {paths[0], paths[1], paths[2], d->client_certs, paths[3]};
    pthread_mutex_unlock(&d->lock);
    enum rc rc = tls_door_replace(d, &f, e);
    for (int i = 0; i < FILES; i++)
        free(paths[i]);
    return rc;
}

/* ---- life --------------------------------------------------------------------------------------------------------- */

enum rc tls_door_new(struct tls_door **out, const struct tls_server_files *f, const struct clock *clock,
                     struct error *e)
{
    struct tls_door *d = spw_calloc(1, sizeof *d);
    bool ok = true;

    *out = NULL;
    d->clock = clock;
    pthread_mutex_init(&d->lock, NULL);
    for (int i = 0; i < TICKET_KEYS; i++) /* no slot is all zeroes, which a forger could name */
        ok = ok && make_key(&d->keys[i]);
    enum rc rc =
        ok ? tls_door_replace(d, f, e) : error_set(e, RC_INTERNAL, "no randomness for the keys of session tickets");
    if (rc != RC_OK) {
        tls_door_free(d);
        return rc;
    }
    *out = d;
    return RC_OK;
}

void tls_door_free(struct tls_door *d)
{
    if (!d)
        return;
    SSL_CTX_free(d->ctx);
    for (int i = 0; i < FILES; i++)
        free(d->paths[i]);
    free(d->client_name);
    OPENSSL_cleanse(d->keys, sizeof d->keys);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void tls_door_expect(struct tls_door *d, const char *client_name)
{
    free(d->client_name);
    d->client_name = spw_strdup(client_name);
}

SSL *tls_door_open(struct tls_door *d)
{
    pthread_mutex_lock(&d->lock);
    SSL_CTX *ctx = d->ctx;
    SSL_CTX_up_ref(ctx);
    pthread_mutex_unlock(&d->lock);
    SSL *ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    if (!ssl)
        return NULL;
    if (d->client_name && SSL_set1_host(ssl, d->client_name) != 1) { /* checked with the client's chain */
        SSL_free(ssl);
        return NULL;
    }
    SSL_set_app_data(ssl, d);
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_set_accept_state(ssl);
    return ssl;
}
