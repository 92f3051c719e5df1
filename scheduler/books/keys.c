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

/* Entries stand in buckets of about BUCKET_KEYS. Which bucket a hash belongs to depends on a secret of this process, so
 * that a caller who times many tokens learns nothing about the hashes that are stored. */
#define BUCKET_KEYS 16

struct entry {
    struct hash hash;
    int key; /* index into keys */
};
struct keys {
    const struct config_key *keys; /* borrowed */
    int n;
    struct entry *entries; /* n, by bucket */
    int *first;            /* n_buckets + 1: where each bucket begins */
    uint32_t n_buckets;    /* a power of two */
    uint64_t secret[2];
    EVP_MD *md; /* fetched once: looking the algorithm up costs more than a short hash */
    EVP_MD_CTX *ctx;
};

static uint32_t bucket_of(const struct keys *k, const struct hash *h)
{
    uint64_t mixed = (h->w[0] ^ k->secret[0]) * ((h->w[1] ^ k->secret[1]) | 1);
    return (uint32_t)(mixed >> 32) & (k->n_buckets - 1);
}

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

/* Counting sort into buckets. False: keys[*bad] has no hash in hex. */
static bool fill_buckets(struct keys *k, int *bad)
{
    struct hash *hashes = spw_calloc((size_t)k->n + 1, sizeof *hashes);
    int *next = spw_calloc((size_t)k->n_buckets + 1, sizeof *next), i;

    for (i = 0; i < k->n && from_hex(k->keys[i].sha256, &hashes[i]); i++)
        k->first[bucket_of(k, &hashes[i]) + 1]++;
    *bad = i;
    for (uint32_t b = 0; b < k->n_buckets; b++)
        next[b + 1] = k->first[b + 1] += k->first[b];
    for (int j = 0; j < k->n && i == k->n; j++)
        k->entries[next[bucket_of(k, &hashes[j])]++] = (struct entry){hashes[j], j};
    free(hashes);
    free(next);
    return i == k->n;
}

enum rc keys_new(struct keys **out, const struct config *c, struct error *e)
{
    struct keys *k = spw_calloc(1, sizeof *k);
    enum rc rc = RC_OK;
    int bad;

    *out = NULL;
    k->keys = c->keys;
    k->n = c->n_keys;
    k->n_buckets = 1;
    while (k->n_buckets * BUCKET_KEYS < (uint32_t)k->n)
        k->n_buckets *= 2;
    k->entries = spw_calloc((size_t)k->n + 1, sizeof *k->entries);
    k->first = spw_calloc((size_t)k->n_buckets + 1, sizeof *k->first);
    k->md = EVP_MD_fetch(NULL, "SHA256", NULL);
    k->ctx = EVP_MD_CTX_new();
    if (!k->md || !k->ctx)
        rc = error_set(e, RC_INTERNAL, "keys: OpenSSL offers no SHA-256");
    else if (getrandom(k->secret, sizeof k->secret, 0) != (ssize_t)sizeof k->secret)
        rc = error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    else if (!fill_buckets(k, &bad))
        rc = error_set(e, RC_INVALID, "keys[%d].sha256: not 64 lower-case hex digits", bad);
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
    free(k->entries);
    free(k->first);
    free(k);
}

const struct config_key *keys_find(struct keys *k, const char *token, size_t n)
{
    struct hash h;
    int found = -1;

    if (n == 0 || n > TOKEN_BYTES_MAX || EVP_DigestInit_ex2(k->ctx, k->md, NULL) != 1 ||
        EVP_DigestUpdate(k->ctx, token, n) != 1 || EVP_DigestFinal_ex(k->ctx, (unsigned char *)h.w, NULL) != 1)
        return NULL;
    uint32_t bucket = bucket_of(k, &h);
    for (int i = k->first[bucket]; i < k->first[bucket + 1]; i++) {
        const uint64_t *w = k->entries[i].hash.w;
        uint64_t differs = (w[0] ^ h.w[0]) | (w[1] ^ h.w[1]) | (w[2] ^ h.w[2]) | (w[3] ^ h.w[3]);
        /* All ones when equal, else zero; no branch, no early way out. */
        int equal = (int)((((differs | (0 - differs)) >> 63) & 1) - 1);
        found = (equal & k->entries[i].key) | (~equal & found);
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
