/* Keys for the configuration, which holds nothing but their hash: "spw_" and 43 characters of base64url, 32 random
 * bytes, so that a plain SHA-256 cannot be guessed back and needs no salt. Keys of the store are keystore.h's. */
#ifndef SCHEDULER_AUTH_KEY_TEXT_H
#define SCHEDULER_AUTH_KEY_TEXT_H

#include <stddef.h>

#include "base/error.h"

#define KEY_TEXT_BYTES 48 /* "spw_", 43 characters, NUL */
#define KEY_HASH_BYTES 65 /* 64 hex digits, NUL */
/* A new random key. RC_IO: the system gives no random bytes. */
enum rc key_generate(char text[KEY_TEXT_BYTES], struct error *e) SPW_MUST_USE;
/* What the configuration keeps of a key, any text of n bytes. */
enum rc key_hash(const char *token, size_t n, char hex[KEY_HASH_BYTES], struct error *e) SPW_MUST_USE;

#endif
