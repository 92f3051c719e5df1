/* Which pages of keys and values are known by the ids that they stand for, so that a prompt which begins like an
 * earlier one need not be computed again.
 *
 * A radix tree whose edges are blocks of K_PAGE_TOKENS ids. A block's node has a place: the page of the pool that holds
 * its keys and values, or a slot of a store elsewhere (kv_store.c), numbered after the pages. There is at most one node
 * per place: all memory is planned at the start, and nothing is allocated later. A node is found by its parent, the
 * salt and its ids: the hash only says where to look, the ids are compared, so nobody ever gets another prompt's page.
 * Blocks of different salts never meet (a tenant must not be able to tell by the clock what another has asked).
 *
 * A page that sequences use is *held*; one that none uses is *kept* until room is needed, and then the one that was let
 * go longest ago is given up. Whoever holds a block holds all before it, and a sequence lets go of its last block
 * first: so a node is never older than those below it, and the oldest of the kept ones has no children in pages. When
 * it has to give up its page it moves to a slot, of which one is always free, and the oldest there is forgotten to make
 * the next one free: so whatever stands in a slot has children in slots only, older than itself, and the oldest has
 * none.
 *
 * A page's content is immutable while it is known. What is in it is the same, bit for bit, whoever computed it (the
 * numerics law), so which of two equal pages is used makes no difference.
 *
 * For the engine's thread alone. */
#ifndef ENGINE_MODEL_PREFIX_H
#define ENGINE_MODEL_PREFIX_H

#include <stdbool.h>

#include "engine/model/model.h"

#define PREFIX_NONE (-1) /* no place; as a parent: the block is a prompt's first */

struct prefix;
/* Pages 0 .. n_pages - 1, slots n_pages .. n_pages + n_slots - 1, none of which may be used before prefix_limit(). 300
 * bytes for each. */
struct prefix *prefix_new(int32_t n_pages, int32_t n_slots);
void prefix_free(struct prefix *p); /* NULL is fine */

/* The place of this block, or PREFIX_NONE. `parent` is the page of the block before. ids: K_PAGE_TOKENS of them. */
int32_t prefix_find(const struct prefix *p, int32_t parent, const struct prefix_salt *salt, const int32_t *ids);
/* `page` is that of this block from now on, held once. It is not known yet, and there is none for the block. */
void prefix_add(struct prefix *p, int32_t page, int32_t parent, const struct prefix_salt *salt, const int32_t *ids);
/* One more sequence uses it. */
void prefix_hold(struct prefix *p, int32_t page);
/* One less; with the last it is kept. */
void prefix_release(struct prefix *p, int32_t page);
/* Give up the page that was let go longest ago, and return it: it may be written to when its content is in *slot, which
 * is PREFIX_NONE where the block is forgotten. PREFIX_NONE: none is kept. Between this and prefix_spare() nothing is
 * forgotten in slots, so that a block can be brought back into the page although all others are full. */
int32_t prefix_evict(struct prefix *p, int32_t *slot);
/* There is a free slot again, if the oldest has to be forgotten for it. */
void prefix_spare(struct prefix *p);
/* The block in this slot is in `page` from now on, held once: copied there, or computed again. Its parent's is in a page. */
void prefix_return(struct prefix *p, int32_t slot, int32_t page);
/* The block in this slot is forgotten, with all that go on from it. */
void prefix_lose(struct prefix *p, int32_t slot);
/* The first n slots may be used from now on; n never falls. */
void prefix_limit(struct prefix *p, int32_t n);
/* Its only holder wants to write to it again: true, and it is forgotten, unless others hold it or go on from it. */
bool prefix_forget(struct prefix *p, int32_t page);

int32_t prefix_kept(const struct prefix *p);     /* pages that are known and not held */
uint64_t prefix_evicted(const struct prefix *p); /* blocks given up and forgotten, so far */
int32_t prefix_in_slots(const struct prefix *p);

#endif
