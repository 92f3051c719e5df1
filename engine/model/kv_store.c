/* Pages of keys and values that the pool has no room for: kept in the host's memory, pinned where the backend is a
 * device, and copied back when a sequence that begins with them comes (again), which takes a hundredth of the time of
 * computing them. The prefix tree knows what is where (prefix.h); here are the slots.
 *
 * Slots are taken in chunks as they are needed, up to a bound; memory that is not to be had lowers the bound. Copies
 * are in order with the backend's operations and nobody waits for them: the host never looks into a slot. */
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/model/model_internal.h"

#define CHUNK_BYTES ((size_t)64 << 20) /* pinning takes a device's driver some milliseconds for so much (reckoned) */

int32_t kv_store_slots(int32_t pages_max)
{
    return pages_max > 0 ? pages_max + 1 : 0; /* one is free, for blocks that change places */
}

void kv_store_init(struct engine *en, int32_t pages_max)
{
    struct kv_store *st = &en->store;
    int32_t slots_max = kv_store_slots(pages_max);
    size_t per_chunk = CHUNK_BYTES / (size_t)en->page_stride;
    st->max = slots_max;
    st->per_chunk = per_chunk < 1 ? 1 : per_chunk > (size_t)slots_max ? slots_max : (int32_t)per_chunk;
    if (slots_max > 0)
        st->chunks = spw_calloc((size_t)slots_max / (size_t)st->per_chunk + 1, sizeof(void *));
}

static size_t chunk_bytes(const struct engine *en)
{
    return (size_t)en->store.per_chunk * (size_t)en->page_stride;
}

void kv_store_fini(struct engine *en)
{
    struct kv_store *st = &en->store;
    for (int32_t i = 0; i < st->n_chunks; i++)
        en->ops->buf_free(en->ctx, st->chunks[i], chunk_bytes(en), K_BUF_HOST);
    free(st->chunks);
    *st = (struct kv_store){0};
}

void kv_store_grow(struct engine *en)
{
    struct kv_store *st = &en->store;
    if (st->n == st->max || prefix_in_slots(en->prefix) + 1 < st->n)
        return;
    void *chunk;
    if (en->ops->buf_new(en->ctx, &chunk, chunk_bytes(en), K_BUF_HOST) != K_OK) {
        st->max = st->n;
        return;
    }
    st->chunks[st->n_chunks++] = chunk;
    st->n = st->max - st->n < st->per_chunk ? st->max : st->n + st->per_chunk;
    prefix_limit(en->prefix, st->n);
}

static uint8_t *slot_at(const struct engine *en, int32_t slot)
{
    int32_t i = slot - en->n_pages;
    return (uint8_t *)en->store.chunks[i / en->store.per_chunk] +
           (size_t)(i % en->store.per_chunk) * (size_t)en->page_stride;
}

static uint8_t *page_at(const struct engine *en, int32_t page)
{
    return (uint8_t *)en->kv + (size_t)page * (size_t)en->page_stride;
}

enum k_status kv_store_put(struct engine *en, int32_t slot, int32_t page)
{
    en->store.spilled++;
    return en->ops->fetch(en->ctx, slot_at(en, slot), page_at(en, page), (size_t)en->page_stride);
}

enum k_status kv_store_get(struct engine *en, int32_t page, int32_t slot)
{
    en->store.returned++;
    return en->ops->send(en->ctx, page_at(en, page), slot_at(en, slot), (size_t)en->page_stride);
}

struct kv_spill engine_spill(const struct engine *en)
{
    return (struct kv_spill){.pages = prefix_in_slots(en->prefix),
                             .pages_max = en->store.max > 0 ? en->store.max - 1 : 0,
                             .out = en->store.spilled,
                             .in = en->store.returned};
}
