/* HMAC-SHA-256 (RFC 2104) piece by piece, without an allocation: a key is two states of SHA-256 that have taken its
 * padded bytes already, a running one is another such state. That costs a request's hot path two block steps and no
 * call of malloc(), where OpenSSL's own HMAC costs several allocations for each text. Pure; any thread. */
#ifndef SCHEDULER_AUDIT_HMAC_H
#define SCHEDULER_AUDIT_HMAC_H

#include <openssl/sha.h>
#include <stddef.h>
#include <stdint.h>

#define HMAC_BYTES 32

struct hmac_key { /* as secret as what it was made of */
    SHA256_CTX inner, outer;
};
void hmac_key_init(struct hmac_key *k, const void *key, size_t n);

struct hmac {
    SHA256_CTX inner;
    int64_t bytes; /* taken so far */
};
void hmac_begin(struct hmac *h, const struct hmac_key *k);
void hmac_take(struct hmac *h, const void *data, size_t n);
/* h goes on from where it is: it may be asked again later. */
void hmac_result(const struct hmac *h, const struct hmac_key *k, uint8_t out[HMAC_BYTES]);
void hmac_of(const struct hmac_key *k, const void *data, size_t n, uint8_t out[HMAC_BYTES]);

/* Plain SHA-256 of two pieces (either may be empty), for links of a chain. */
void hmac_plain(const void *a, size_t n_a, const void *b, size_t n_b, uint8_t out[HMAC_BYTES]);

#endif
