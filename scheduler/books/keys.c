#include "scheduler/books/keys.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/alloc.h"

#define HASH_BYTES      32
#define TOKEN_BYTES_MAX 512 /* longer ones are nobody's, and not worth hashing */

struct hash {
    uint64_t w[HASH_BYTES / 8];
};

struct keys {
    const struct config_key *keys; /* borrowed: the entry of hashes[i] is keys[i] */
    struct hash *hashes;
    int n;
    EVP_MD *md; /* fetched once: looking the algorithm up costs more than a short hash */
    EVP_MD_CTX *ctx;
};

/* "0a1b..." to bytes. The schema has checked length and alphabet; false is another caller's wrong text. */
static bool from_hex(const char *hex, struct hash *h)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char *bytes = (unsigned char *)h->w;

    if (strlen(hex) != (size_t)2 * HASH_BYTES)
        return false;
    for (size_t i = 0; i < HASH_BYTES; i++) {
        const char *high = strchr(digits, hex[2 * i]), *low = strchr(digits, hex[2 * i + 1]);
        if (!high || !low)
            return false;
        bytes[i] = (unsigned char)((high - digits) << 4 | (low - digits));
    }
    return true;
}

enum rc keys_new(struct keys **out, const struct config *c, struct error *e)
{
    struct keys *k = spw_calloc(1, sizeof *k);
    enum rc rc = RC_OK;

    *out = NULL;
    k->keys = c->keys;
    k->n = c->n_keys;
    k->hashes = spw_calloc((size_t)k->n + 1, sizeof *k->hashes);
    k->md = EVP_MD_fetch(NULL, "SHA256", NULL);
    k->ctx = EVP_MD_CTX_new();
    if (!k->md || !k->ctx)
        rc = error_set(e, RC_INTERNAL, "keys: OpenSSL offers no SHA-256");
    for (int i = 0; i < k->n && rc == RC_OK; i++)
        if (!from_hex(c->keys[i].sha256, &k->hashes[i]))
            rc = error_set(e, RC_INVALID, "keys[%d].sha256: not 64 lower-case hex digits", i);
    if (rc != RC_OK) {
        keys_free(k);
        return rc;
    }
    *out = k;
    return RC_OK;
}

void keys_free(struct keys *k)
{
    if (!k)
        return;
    EVP_MD_CTX_free(k->ctx);
    EVP_MD_free(k->md);
    free(k->hashes);
    free(k);
}

const struct config_key *keys_find(struct keys *k, const char *token, size_t n)
{
    struct hash h;
    int found = -1;

    if (n == 0 || n > TOKEN_BYTES_MAX || EVP_DigestInit_ex2(k->ctx, k->md, NULL) != 1 ||
        EVP_DigestUpdate(k->ctx, token, n) != 1 || EVP_DigestFinal_ex(k->ctx, (unsigned char *)h.w, NULL) != 1)
        return NULL;
    for (int i = 0; i < k->n; i++) {
        const uint64_t *w = k->hashes[i].w;
        uint64_t differs = (w[0] ^ h.w[0]) | (w[1] ^ h.w[1]) | (w[2] ^ h.w[2]) | (w[3] ^ h.w[3]);
        /* All ones when equal, else zero; no branch, no early way out. */
        int equal = (int)((((differs | (0 - differs)) >> 63) & 1) - 1);
        found = (equal & i) | (~equal & found);
    }
    return found < 0 ? NULL : &k->keys[found];
}

const struct config_key *keys_authorize(struct keys *k, const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "bearer ", 7) != 0)
        return NULL;
    const char *token = authorization + 7 + strspn(authorization + 7, " ");
    return keys_find(k, token, strlen(token));
}

enum rc key_generate(char text[KEY_TEXT_BYTES], struct error *e)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned char random[HASH_BYTES + 1] = {0}; /* the last byte pads the 43rd character */
    char *p = text;

    if (getrandom(random, HASH_BYTES, 0) != HASH_BYTES)
        return error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    memcpy(p, "spw_", 4);
    p += 4;
    for (int i = 0; i < HASH_BYTES + 1; i += 3) {
        unsigned bits = (unsigned)random[i] << 16 | (unsigned)random[i + 1] << 8 | random[i + 2];
        for (int shift = 18; shift >= 0 && p < text + KEY_TEXT_BYTES - 1; shift -= 6)
            *p++ = alphabet[bits >> shift & 63];
    }
    *p = '\0';
    explicit_bzero(random, sizeof random);
    return RC_OK;
}

enum rc key_hash(const char *token, size_t n, char hex[KEY_HASH_BYTES], struct error *e)
{
    unsigned char h[HASH_BYTES];

    if (n == 0)
        return error_set(e, RC_INVALID, "the key is empty");
    if (n > TOKEN_BYTES_MAX)
        return error_set(e, RC_INVALID, "the key has %zu bytes; up to %d are allowed", n, TOKEN_BYTES_MAX);
    if (EVP_Digest(token, n, h, NULL, EVP_sha256(), NULL) != 1)
        return error_set(e, RC_INTERNAL, "OpenSSL offers no SHA-256");
    for (size_t i = 0; i < HASH_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", h[i]);
    return RC_OK;
}
