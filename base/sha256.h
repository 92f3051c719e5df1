/* SHA-256 for hot paths: OpenSSL looks an algorithm up by name each time that it is asked for EVP_sha256(), which costs
 * more than hashing a short text. Looked up once per process here, by whoever comes first; any thread. */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

/* Aborts where OpenSSL offers none or has no memory. */
void sha256(const void *data, size_t n, uint8_t out[SHA256_BYTES]);

#endif
