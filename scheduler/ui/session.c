#include "scheduler/ui/session.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/sha256.h"
#include "scheduler/audit/hmac.h"
#include "scheduler/auth/base64url.h"
#include "scheduler/auth/hash_table.h"

#define TOKEN_BYTES 32

struct kept {
    bool open;
    struct hash token; /* its SHA-256 */
    unsigned char sealed[AUTH_KEY_BYTES_MAX];
    size_t key_n;
    char key_id[KEYSTORE_ID_BYTES];
    struct mono opened, used;
};
struct sessions {
    const struct clock *clock;
    struct random_pool random;
    struct hmac_key forms;
    struct kept of[SESSIONS_MAX];
};

struct sessions *sessions_new(const struct clock *clock)
{
    struct sessions *s = spw_calloc(1, sizeof *s);
    unsigned char secret[HMAC_BYTES];

    s->clock = clock;
    random_take(&s->random, secret, sizeof secret);
    hmac_key_init(&s->forms, secret, sizeof secret);
    OPENSSL_cleanse(secret, sizeof secret);
    return s;
}

void sessions_free(struct sessions *s)
{
    if (s)
        OPENSSL_cleanse(s, sizeof *s);
    free(s);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool read_token(const char *text, unsigned char token[BASE64URL_BYTES(SESSION_TEXT_BYTES)])
{
    size_t n;
    return text && strlen(text) == SESSION_TEXT_BYTES - 1 &&
           base64url_decode(text, SESSION_TEXT_BYTES - 1, token, &n) && n == TOKEN_BYTES;
}

static struct hash name_of(const unsigned char token[TOKEN_BYTES])
{
    struct hash h = {.w = {0}};
    sha256(token, TOKEN_BYTES, (uint8_t *)h.w);
    return h;
}

/* The pad of a token serves one key, once: in both directions. */
static void seal(const unsigned char token[TOKEN_BYTES], const void *in, void *out, size_t n)
{
    unsigned char pad[AUTH_KEY_BYTES_MAX];
    EVP_MD_CTX *c = EVP_MD_CTX_new();

    SPW_ASSERT(c && n <= sizeof pad && EVP_DigestInit_ex(c, EVP_shake256(), NULL) == 1 &&
               EVP_DigestUpdate(c, token, TOKEN_BYTES) == 1 && EVP_DigestFinalXOF(c, pad, sizeof pad) == 1);
    EVP_MD_CTX_free(c);
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)out)[i] = ((const unsigned char *)in)[i] ^ pad[i];
    OPENSSL_cleanse(pad, sizeof pad);
}

void sessions_token(struct sessions *s, char text[SESSION_TEXT_BYTES])
{
    unsigned char token[TOKEN_BYTES];

    random_take(&s->random, token, sizeof token);
    base64url_encode(token, sizeof token, text);
    OPENSSL_cleanse(token, sizeof token);
}

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

static void drop(struct kept *k)
{
    OPENSSL_cleanse(k, sizeof *k); /* open: false */
}

static struct kept *place_for_one(struct sessions *s)
{
    struct kept *oldest = &s->of[0];

    for (int i = 0; i < SESSIONS_MAX; i++) {
        if (!s->of[i].open)
            return &s->of[i];
        if (s->of[i].used.ns < oldest->used.ns)
            oldest = &s->of[i];
    }
    drop(oldest);
    return oldest;
}

void sessions_open(struct sessions *s, const char *key, const char *key_id, char text[SESSION_TEXT_BYTES])
{
    unsigned char token[BASE64URL_BYTES(SESSION_TEXT_BYTES)];
    struct kept *k = place_for_one(s);

    sessions_token(s, text);
    SPW_ASSERT(read_token(text, token) && strlen(key) <= AUTH_KEY_BYTES_MAX);
    k->open = true;
    k->token = name_of(token);
    k->key_n = strlen(key);
    seal(token, key, k->sealed, k->key_n);
    snprintf(k->key_id, sizeof k->key_id, "%s", key_id);
    k->opened = k->used = clock_now(s->clock);
    OPENSSL_cleanse(token, sizeof token);
}

static struct kept *kept_of(struct sessions *s, const unsigned char token[TOKEN_BYTES])
{
    const struct hash name = name_of(token);
    struct kept *found = NULL;

    for (int i = 0; i < SESSIONS_MAX; i++) /* all of them, whichever it is: time says nothing */
        if (hash_equal(&s->of[i].token, &name) && s->of[i].open)
            found = &s->of[i];
    return found;
}

bool sessions_find(struct sessions *s, const char *text, const struct session_limits *l, struct session *out)
{
    unsigned char token[BASE64URL_BYTES(SESSION_TEXT_BYTES)];
    struct kept *k = read_token(text, token) ? kept_of(s, token) : NULL;

    if (k && (mono_since(s->clock, k->used) >= l->idle_ms * NS_PER_MS ||
              mono_since(s->clock, k->opened) >= l->life_ms * NS_PER_MS)) {
        drop(k);
        k = NULL;
    }
    if (k) {
        k->used = clock_now(s->clock);
        seal(token, k->sealed, out->key, k->key_n);
        out->key[k->key_n] = '\0';
        memcpy(out->key_id, k->key_id, sizeof out->key_id);
    }
    OPENSSL_cleanse(token, sizeof token);
    return k != NULL;
}

void sessions_close(struct sessions *s, const char *text)
{
    unsigned char token[BASE64URL_BYTES(SESSION_TEXT_BYTES)];
    struct kept *k = read_token(text, token) ? kept_of(s, token) : NULL;

    if (k)
        drop(k);
}

int sessions_count(const struct sessions *s)
{
    int n = 0;

    for (int i = 0; i < SESSIONS_MAX; i++)
        n += s->of[i].open;
    return n;
}

/* ---- forms ------------------------------------------------------------------------------------------------------- */

bool sessions_form(const struct sessions *s, const char *text, char form[SESSION_TEXT_BYTES])
{
    unsigned char token[BASE64URL_BYTES(SESSION_TEXT_BYTES)];
    uint8_t mac[HMAC_BYTES];

    if (!read_token(text, token))
        return false;
    hmac_of(&s->forms, token, TOKEN_BYTES, mac);
    base64url_encode(mac, sizeof mac, form);
    return true;
}

bool sessions_form_is_right(const struct sessions *s, const char *token, const char *form)
{
    char right[SESSION_TEXT_BYTES];

    return form && strlen(form) == sizeof right - 1 && sessions_form(s, token, right) &&
           CRYPTO_memcmp(form, right, sizeof right) == 0;
}
