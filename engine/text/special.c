/* Finding special tokens in a text: a byte trie over all of them, built at load. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/text_internal.h"

#define SPECIAL_TOTAL_MAX (16u << 20) /* bytes of all special tokens together */

static uint64_t trie_key(uint32_t node, unsigned char byte)
{
    return ((uint64_t)node << 8 | byte) + 1;
}

/* The slot of the key, or the empty one where it belongs. */
static size_t trie_slot(const struct special_trie *t, uint64_t key)
{
    size_t i = (size_t)hash_pair(key >> 8, key) & t->mask;

    while (t->keys[i] && t->keys[i] != key)
        i = (i + 1) & t->mask;
    return i;
}

static uint32_t trie_add_child(struct special_trie *t, uint32_t node, unsigned char byte)
{
    size_t i = trie_slot(t, trie_key(node, byte));

    if (!t->keys[i]) {
        t->keys[i] = trie_key(node, byte);
        t->values[i] = (uint32_t)t->n_nodes;
        t->plain_id[t->n_nodes] = t->markup_id[t->n_nodes] = -1;
        t->n_nodes++;
    }
    return t->values[i];
}

static bool is_special(const struct vocab *v, int32_t id)
{
    return (v->bits[id] & TOKEN_MARKUP) || v->type[id] == TOKEN_TYPE_USER_DEFINED;
}

enum rc special_build(struct vocab *v, struct error *e)
{
    struct special_trie *t = &v->special;
    size_t bytes = 0;

    for (int32_t id = 0; id < v->n; id++)
        if (is_special(v, id) && string_at(&v->text, id).len <= SPECIAL_BYTES_MAX)
            bytes += string_at(&v->text, id).len;
    if (bytes > SPECIAL_TOTAL_MAX)
        return error_set(e, RC_INVALID, "the vocabulary has %zu bytes of special tokens; the limit is %u", bytes,
                         SPECIAL_TOTAL_MAX);
    size_t slots = hash_slots(bytes + 1);
    t->mask = slots - 1;
    t->keys = spw_calloc(slots, sizeof(*t->keys));
    t->values = spw_calloc(slots, sizeof(*t->values));
    t->plain_id = spw_calloc(bytes + 1, sizeof(*t->plain_id));
    t->markup_id = spw_calloc(bytes + 1, sizeof(*t->markup_id));
    t->plain_id[0] = t->markup_id[0] = -1;
    t->n_nodes = 1;

    for (int32_t id = 0; id < v->n; id++) {
        struct text_span s = string_at(&v->text, id);
        uint32_t node = 0;
        if (!is_special(v, id) || s.len == 0 || s.len > SPECIAL_BYTES_MAX)
            continue;
        for (size_t i = 0; i < s.len; i++)
            node = trie_add_child(t, node, (unsigned char)s.ptr[i]);
        int32_t *at = v->bits[id] & TOKEN_MARKUP ? &t->markup_id[node] : &t->plain_id[node];
        if (*at < 0)
            *at = id;
        t->first[(unsigned char)s.ptr[0]] = true;
    }
    return RC_OK;
}

void special_fini(struct special_trie *t)
{
    free(t->keys);
    free(t->values);
    free(t->plain_id);
    free(t->markup_id);
}

int32_t special_match(const struct vocab *v, const char *s, size_t n, size_t n_markup, size_t *len)
{
    const struct special_trie *t = &v->special;
    uint32_t node = 0;
    int32_t best = -1;

    if (n == 0 || !t->first[(unsigned char)s[0]])
        return -1;
    for (size_t i = 0; i < n; i++) {
        size_t slot = trie_slot(t, trie_key(node, (unsigned char)s[i]));
        if (!t->keys[slot])
            break;
        node = t->values[slot];
        int32_t id = i < n_markup && t->markup_id[node] >= 0 ? t->markup_id[node] : t->plain_id[node];
        if (id >= 0) {
            best = id;
            *len = i + 1;
        }
    }
    return best;
}
