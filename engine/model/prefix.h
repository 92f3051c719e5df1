/* Which pages of keys and values are known by the ids that they stand for, so that a prompt which begins like an earlier
 * one need not be computed again.
 *
 * A radix tree whose edges are blocks of K_PAGE_TOKENS ids. A block's node is the page that holds its keys and values, so
 * nodes are page numbers and there is at most one node per page: all memory is planned at the start, and nothing is
 * allocated later. A node is found by its parent, the salt and its ids: the hash only says where to look, the ids are
 * compared, so nobody ever gets another prompt's page. Blocks of different salts never meet (a tenant must not be able to
 * tell by the clock what another has asked).
 *
 * A page that sequences use is *held*; one that none uses is *kept* until room is needed, and then the one that was let
 * go longest ago is given up. Whoever holds a block holds all before it, and a sequence lets go of its last block first:
 * so a node is never older than those below it, and the oldest of the kept ones has no children.
 *
 * A page's content is immutable while it is known. What is in it is the same, bit for bit, whoever computed it (the
 * numerics law), so which of two equal pages is used makes no difference.
 *
 * For the engine's thread alone. */
#ifndef ENGINE_MODEL_PREFIX_H
#define ENGINE_MODEL_PREFIX_H

#include <stdbool.h>

#include "engine/model/model.h"

#define PREFIX_NONE (-1) /* no page; as a parent: the block is a prompt's first */

struct prefix;
struct prefix *prefix_new(int32_t n_pages); /* 300 bytes per page */
void prefix_free(struct prefix *p);         /* NULL is fine */

/* The page of this block, or PREFIX_NONE. `parent` is the page of the block before. ids: K_PAGE_TOKENS of them. */
int32_t prefix_find(const struct prefix *p, int32_t parent, const struct prefix_salt *salt, const int32_t *ids);
/* `page` is that of this block from now on, held once. It is not known yet, and there is none for the block. */
void prefix_add(struct prefix *p, int32_t page, int32_t parent, const struct prefix_salt *salt, const int32_t *ids);
/* One more sequence uses it. */
void prefix_hold(struct prefix *p, int32_t page);
/* One less; with the last it is kept. */
void prefix_release(struct prefix *p, int32_t page);
/* Forget the page that was let go longest ago, and return it: it may be written to. PREFIX_NONE: none is kept. */
int32_t prefix_evict(struct prefix *p);
/* Its only holder wants to write to it again: true, and it is forgotten, unless others hold it or go on from it. */
bool prefix_forget(struct prefix *p, int32_t page);

int32_t prefix_kept(const struct prefix *p);     /* pages that are known and not held */
uint64_t prefix_evicted(const struct prefix *p); /* so far */

#endif
