/* OpenSSL's low-level SHA-256, whose state is a plain struct: see hmac.h for why. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "scheduler/audit/hmac.h"

#include <string.h>

#include <openssl/crypto.h>

#define BLOCK 64

void hmac_key_init(struct hmac_key *k, const void *key, size_t n)
{
    unsigned char block[BLOCK] = {0};

    if (n > BLOCK)
        hmac_plain(key, n, NULL, 0, block);
    else if (n)
        memcpy(block, key, n);
    for (int i = 0; i < BLOCK; i++)
        block[i] ^= 0x36;
    SHA256_Init(&k->inner);
    SHA256_Update(&k->inner, block, BLOCK);
    for (int i = 0; i < BLOCK; i++)
        block[i] ^= 0x36 ^ 0x5c;
    SHA256_Init(&k->outer);
    SHA256_Update(&k->outer, block, BLOCK);
    OPENSSL_cleanse(block, sizeof block);
}

void hmac_begin(struct hmac *h, const struct hmac_key *k)
{
    h->inner = k->inner;
    h->bytes = 0;
}

void hmac_take(struct hmac *h, const void *data, size_t n)
{
    SHA256_Update(&h->inner, data, n);
    h->bytes += (int64_t)n;
}

void hmac_result(const struct hmac *h, const struct hmac_key *k, uint8_t out[HMAC_BYTES])
{
    SHA256_CTX inner = h->inner, outer = k->outer;
    uint8_t digest[HMAC_BYTES];

    SHA256_Final(digest, &inner);
    SHA256_Update(&outer, digest, sizeof digest);
    SHA256_Final(out, &outer);
}

void hmac_of(const struct hmac_key *k, const void *data, size_t n, uint8_t out[HMAC_BYTES])
{
    struct hmac h;

    hmac_begin(&h, k);
    hmac_take(&h, data, n);
    hmac_result(&h, k, out);
}

void hmac_plain(const void *a, size_t n_a, const void *b, size_t n_b, uint8_t out[HMAC_BYTES])
{
    SHA256_CTX c;

    SHA256_Init(&c);
    if (n_a)
        SHA256_Update(&c, a, n_a);
    if (n_b)
        SHA256_Update(&c, b, n_b);
    SHA256_Final(out, &c);
}
