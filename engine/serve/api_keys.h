/* The keys of a server that guards itself: a file with one key per line, '#' starts a comment line. Only SHA-256
 * digests are kept. Immutable after opening. The API's keys and the scheduler's node key are both such a set. */
#ifndef ENGINE_SERVE_API_KEYS_H
#define ENGINE_SERVE_API_KEYS_H

#include "base/error.h"

#define API_KEYS_MAX 1024

struct api_keys;
/* Reads a file (blocks). keys_max is at most API_KEYS_MAX. RC_INVALID: no key in it, more than keys_max, or one shorter
 * than 8 bytes; the text names the line. */
enum rc api_keys_open(struct api_keys **keys, const char *path, int keys_max, struct error *e) SPW_MUST_USE;
void api_keys_free(struct api_keys *keys); /* NULL is fine */
/* Is "Bearer KEY" with one of them in `authorization` (may be NULL)? Takes the same time whichever key it is, and
 * whether it is any. */
bool api_keys_allow(const struct api_keys *keys, const char *authorization);
/* The same for a key as it is. */
bool api_keys_have(const struct api_keys *keys, const char *key);

#endif
