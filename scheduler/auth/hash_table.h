/* A table from 32-byte hashes of credentials to what they stand for. Growing, without a bound of its own.
 *
 * Nothing about the stored hashes can be learned by timing: which bucket a hash belongs to depends on a secret of this
 * table, and in a bucket every entry is compared whole, without an early way out. Not thread-safe. */
#ifndef SCHEDULER_AUTH_HASH_TABLE_H
#define SCHEDULER_AUTH_HASH_TABLE_H

#include <stdint.h>

#include "base/error.h"

#define HASH_BYTES 32

struct hash {
    uint64_t w[HASH_BYTES / 8];
};

struct hash_table;
enum rc hash_table_new(struct hash_table **t, struct error *e) SPW_MUST_USE; /* RC_IO: no random bytes */
void hash_table_free(struct hash_table *t);                                  /* values are the caller's; NULL is fine */
/* value is not NULL. An equal hash is replaced. */
void hash_table_put(struct hash_table *t, const struct hash *h, void *value);
void hash_table_remove(struct hash_table *t, const struct hash *h);
void *hash_table_find(const struct hash_table *t, const struct hash *h); /* NULL: none */
int hash_table_count(const struct hash_table *t);

bool hash_equal(const struct hash *a, const struct hash *b); /* same time for any two */

#endif
