/* Tokens that were verified a moment ago, so that a signature is not checked for each request: from the SHA-256 of the
 * whole token to its identity, until a given second. Only what was verified enters, so that strangers can't fill it;
 * bounded, the least recently used goes first. One loop. */
#ifndef SCHEDULER_AUTH_TOKEN_CACHE_H
#define SCHEDULER_AUTH_TOKEN_CACHE_H

#include "scheduler/auth/hash_table.h"
#include "scheduler/auth/identity.h"

struct token_cache;
enum rc token_cache_new(struct token_cache **c, int entries_max, struct error *e) SPW_MUST_USE;
void token_cache_free(struct token_cache *c); /* NULL is fine */
/* A reference, the caller's; NULL: not there, or until_s has passed. */
struct identity *token_cache_get(struct token_cache *c, const struct hash *token, int64_t now_s);
void token_cache_put(struct token_cache *c, const struct hash *token, struct identity *who, int64_t until_s);
void token_cache_clear(struct token_cache *c); /* keys have changed: what they vouched for is asked again */
int token_cache_count(const struct token_cache *c);

#endif
