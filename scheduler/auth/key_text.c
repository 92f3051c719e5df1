#include "scheduler/auth/key_text.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/text.h"
#include "scheduler/auth/auth.h"
#include "scheduler/auth/hash_table.h"

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
    if (n > AUTH_KEY_BYTES_MAX)
        return error_set(e, RC_INVALID, "the key has %zu bytes; up to %d are allowed", n, AUTH_KEY_BYTES_MAX);
    if (EVP_Digest(token, n, h, NULL, EVP_sha256(), NULL) != 1)
        return error_set(e, RC_INTERNAL, "OpenSSL offers no SHA-256");
    text_hex(hex, h, HASH_BYTES);
    return RC_OK;
}
