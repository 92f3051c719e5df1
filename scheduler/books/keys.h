/* API keys: who sends a request. The store holds hashes only and is asked on the loop for each request.
 *
 * A key is "spw_" and 43 characters of base64url: 32 random bytes, so its SHA-256 cannot be guessed back and needs no
 * salt. All of what a key looks like and how it is hashed is in keys.c; nobody else compares tokens. */
#ifndef SCHEDULER_BOOKS_KEYS_H
#define SCHEDULER_BOOKS_KEYS_H

#include <stddef.h>

#include "scheduler/config/config.h"

struct keys;

/* The keys of c, which must outlive the store. */
enum rc keys_new(struct keys **k, const struct config *c, struct error *e) SPW_MUST_USE;
void keys_free(struct keys *k); /* NULL is fine */

/* The key of this token, or NULL. Hashes are compared whole and without an early way out, in a bucket that a secret of
 * this process chooses: the time taken tells nothing about the table, and does not grow with it. Loop thread; does not
 * block. */
const struct config_key *keys_find(struct keys *k, const char *token, size_t n);
/* The same for the value of an Authorization header: "Bearer TOKEN", scheme in any case. NULL is fine. */
const struct config_key *keys_authorize(struct keys *k, const char *authorization);

#define KEY_TEXT_BYTES 48 /* "spw_", 43 characters, NUL */
#define KEY_HASH_BYTES 65 /* 64 hex digits, NUL */
/* A new random key. RC_IO: the system gives no random bytes. */
enum rc key_generate(char text[KEY_TEXT_BYTES], struct error *e) SPW_MUST_USE;
/* What the configuration keeps of a key, any text of n bytes. */
enum rc key_hash(const char *token, size_t n, char hex[KEY_HASH_BYTES], struct error *e) SPW_MUST_USE;

#endif
