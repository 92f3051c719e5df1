/* Prefix affinity: which node was sent the beginning of this prompt before, and so may have it in its KV cache still?
 *
 * A prompt's canonical bytes are cut into blocks of 1 KiB; what is left at the end counts for nothing. A block is known
 * by the hash of its bytes and of all blocks before it, begun with a salt: equal hashes mean equal beginnings. The salt
 * holds tenant and model, so that nobody can learn by an answer's speed what another tenant has asked. The map
 * remembers for each block up to four nodes that were sent it, newest first.
 *
 * Ageing: a node keeps what fits in its KV cache and forgets what it has not used for longest. Each node has a count of
 * the blocks that were new to it; a block is taken for forgotten once as many new ones came after its last use as the
 * node's KV cache has room for, a prompt's end before its beginning. A node that was started anew has forgotten all.
 *
 * Memory: a table of fixed size, taken in prefix_new(), never above the cap. Sets of eight blocks: where a ninth comes,
 * the one that was not used for longest goes. Hashes have 64 bits and the salt is secret, so a false match is too rare
 * to matter, and costs a guess that is off, never a wrong answer.
 *
 * No clock, no I/O, no globals, no allocation after prefix_new(). Not locked: the caller's lock, or one thread. */
#ifndef POLICIES_PREFIX_H
#define POLICIES_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define PREFIX_BLOCK_BYTES     1024
#define PREFIX_HOLDERS_MAX     4
#define PREFIX_BYTES_DEFAULT   (INT64_C(64) << 20)
#define PREFIX_BYTES_MIN       (INT64_C(64) << 10)
#define PREFIX_BLOCKS_ASSUMED  1024 /* of a node that does not report its KV cache: 1 MiB of prompts */
#define PREFIX_BYTES_PER_TOKEN 4    /* as elsewhere where a prompt's tokens are guessed */

/* ---- hashing ----------------------------------------------------------------------------------------------------- */

/* The hash of one whole block that follows those that came to `before`; of the first: a salt. */
uint64_t prefix_hash_block(uint64_t before, const void *block);
/* A salt of a secret and names, in order; any bytes. */
uint64_t prefix_salt(uint64_t secret, const char *const *names, int n);

/* Bytes go in by pieces, hashes of whole blocks come out; beyond max blocks nothing more is noted. */
struct prefix_hasher {
    uint64_t last;    /* the salt, then the newest hash */
    uint64_t *hashes; /* the caller's, max places */
    int n, max;
    size_t held; /* bytes of the block to come */
    char block[PREFIX_BLOCK_BYTES];
};
void prefix_hasher_init(struct prefix_hasher *h, uint64_t salt, uint64_t *hashes, int max);
void prefix_hasher_feed(struct prefix_hasher *h, const char *bytes, size_t n);
/* The same for a JSON value: blanks outside strings are nothing, the rest counts as it is spelt. Broken JSON is no
 * error, its hashes are as good as any. */
void prefix_hasher_feed_json(struct prefix_hasher *h, const char *text, size_t n);

/* ---- the map ----------------------------------------------------------------------------------------------------- */

struct prefix_map;
struct prefix_holder {
    int32_t node;
    int32_t blocks; /* from the prompt's beginning, >= 1 */
};
struct prefix_stats {
    int64_t bytes;   /* that the map takes, all of it, whether filled or not */
    int64_t blocks;  /* known now, of those that are forgotten some */
    int64_t evicted; /* of them had to go for others, ever */
};

/* For node ids 0..n_nodes-1 <= 65535. RC_INVALID: cap_bytes is below PREFIX_BYTES_MIN or above 64 GiB, or n_nodes is
 * wrong. */
enum rc prefix_new(struct prefix_map **m, int64_t cap_bytes, int32_t n_nodes, struct error *e) SPW_MUST_USE;
void prefix_free(struct prefix_map *m); /* NULL is fine */
/* What its KV cache has room for; <= 0: it does not say. */
void prefix_set_tokens(struct prefix_map *m, int32_t node, int64_t kv_tokens);
/* It was started anew, or somebody else has its place. */
void prefix_forget(struct prefix_map *m, int32_t node);
/* The node was sent a prompt of these n blocks. */
void prefix_insert(struct prefix_map *m, int32_t node, const uint64_t *hashes, int n);
/* Who holds how much of the beginning? Longest first, ties by lower node. Returns how many, <= PREFIX_HOLDERS_MAX. */
int prefix_lookup(const struct prefix_map *m, const uint64_t *hashes, int n,
                  struct prefix_holder out[PREFIX_HOLDERS_MAX]);
/* blocks in tokens, of a prompt of input_tokens: never all of it, since the last one is computed in any case. */
int64_t prefix_tokens(int32_t blocks, int64_t input_tokens);
void prefix_stats(const struct prefix_map *m, struct prefix_stats *out);

#endif
