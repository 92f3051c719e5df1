/* See prefix.h. */
#include "policies/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define WAYS          8
#define HOLDERS       PREFIX_HOLDERS_MAX
#define NOBODY        UINT16_MAX
#define CAP_BYTES_MAX (INT64_C(64) << 30)
#define BLOCKS_MAX    INT32_MAX /* of one node: differences of counts have 32 bits */

/* ---- hashing ----------------------------------------------------------------------------------------------------- */

/* wyhash's mixing step and constants (Wang Yi, "Modern non-cryptographic hash function and pseudorandom number
 * generator", 2019; public domain): the 128-bit product of two words, folded. */
static const uint64_t secrets[4] = {0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u, 0x589965cc75374cc3u};

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide p = (wide)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t word_at(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Four lanes, so that products do not wait for each other. What came before is part of every product: who does not know
 * the salt cannot choose blocks that make one 0. */
uint64_t prefix_hash_block(uint64_t before, const void *block)
{
    const char *p = block;
    uint64_t lane[4];
    for (int l = 0; l < 4; l++)
        lane[l] = mix(before ^ secrets[l], secrets[(l + 1) & 3]);
    for (size_t at = 0; at < PREFIX_BLOCK_BYTES; at += 64) {
        for (int l = 0; l < 4; l++)
            lane[l] = mix(word_at(p + at + 16 * l) ^ secrets[l], word_at(p + at + 16 * l + 8) ^ lane[l]);
    }
    return mix(mix(lane[0] ^ secrets[0], lane[1] ^ secrets[1]) ^ secrets[2],
               mix(lane[2] ^ secrets[2], lane[3] ^ before) ^ secrets[3]);
}

uint64_t prefix_salt(uint64_t secret, const char *const *names, int n)
{
    uint64_t h = mix(secret ^ secrets[0], secrets[1]);
    for (int i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        for (size_t at = 0; at < len; at += 8) {
            char word[8] = {0};
            memcpy(word, names[i] + at, len - at < 8 ? len - at : 8);
            h = mix(h ^ word_at(word), secrets[2] ^ h);
        }
        h = mix(h ^ (uint64_t)len ^ secrets[3], secrets[1] ^ secret);
    }
    return h;
}

void prefix_hasher_init(struct prefix_hasher *h, uint64_t salt, uint64_t *hashes, int max)
{
    h->last = salt;
    h->hashes = hashes;
    h->n = 0;
    h->max = max;
    h->held = 0;
}

static void take_block(struct prefix_hasher *h, const char *block)
{
    h->last = prefix_hash_block(h->last, block);
    h->hashes[h->n++] = h->last;
}

void prefix_hasher_feed(struct prefix_hasher *h, const char *bytes, size_t n)
{
    while (n > 0 && h->n < h->max) {
        if (h->held == 0 && n >= PREFIX_BLOCK_BYTES) {
            take_block(h, bytes);
            bytes += PREFIX_BLOCK_BYTES;
            n -= PREFIX_BLOCK_BYTES;
            continue;
        }
        size_t some = PREFIX_BLOCK_BYTES - h->held < n ? PREFIX_BLOCK_BYTES - h->held : n;
        memcpy(h->block + h->held, bytes, some);
        h->held += some;
        bytes += some;
        n -= some;
        if (h->held == PREFIX_BLOCK_BYTES) {
            take_block(h, h->block);
            h->held = 0;
        }
    }
}

/* Behind the string that begins at p: what follows its closing quote. */
static const char *after_string(const char *p, const char *end)
{
    for (p++; p < end;) {
        const char *quote = memchr(p, '"', (size_t)(end - p));
        if (!quote)
            return end;
        const char *slash = quote;
        while (slash > p && slash[-1] == '\\')
            slash--;
        p = quote + 1;
        if ((quote - slash) % 2 == 0)
            return p;
    }
    return end;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

void prefix_hasher_feed_json(struct prefix_hasher *h, const char *text, size_t n)
{
    if (!n) /* and perhaps no text */
        return;
    const char *p = text, *from = text, *end = text + n;
    while (p < end && h->n < h->max) {
        if (*p == '"') {
            p = after_string(p, end);
        } else if (is_blank(*p)) {
            prefix_hasher_feed(h, from, (size_t)(p - from));
            while (p < end && is_blank(*p))
                p++;
            from = p;
        } else {
            p++;
        }
    }
    prefix_hasher_feed(h, from, (size_t)(p - from));
}

/* ---- the map ----------------------------------------------------------------------------------------------------- */

/* A key of 0 is an empty place; a hash of 0 counts as 1. */
struct set {
    uint64_t keys[WAYS];
    uint32_t used[WAYS]; /* the map's clock at the last use */
    uint16_t nodes[WAYS][HOLDERS];
    uint32_t stamps[WAYS][HOLDERS]; /* the node's count at the last use */
};

struct prefix_node {
    uint32_t count;  /* blocks that were new to it; goes round */
    uint32_t room;   /* blocks that it keeps */
    uint32_t filled; /* of the newest ones those that count: fewer than `room` after it was started anew */
};

struct prefix_map {
    int64_t bytes;
    uint64_t n_sets;
    struct set *sets;
    struct prefix_node *nodes;
    int32_t n_nodes;
    uint32_t clock; /* goes round */
    int64_t blocks, evicted;
};

enum rc prefix_new(struct prefix_map **out, int64_t cap_bytes, int32_t n_nodes, struct error *e)
{
    if (cap_bytes < PREFIX_BYTES_MIN || cap_bytes > CAP_BYTES_MAX)
        return error_set(e, RC_INVALID, "a map of prefixes takes %lld to %lld bytes, not %lld",
                         (long long)PREFIX_BYTES_MIN, (long long)CAP_BYTES_MAX, (long long)cap_bytes);
    if (n_nodes < 1 || n_nodes > NOBODY)
        return error_set(e, RC_INVALID, "a map of prefixes is for 1 to %d nodes, not %d", NOBODY, n_nodes);
    struct prefix_map *m = spw_calloc(1, sizeof *m);
    int64_t fixed = (int64_t)sizeof *m + (int64_t)sizeof *m->nodes * n_nodes;
    int64_t n_sets = (cap_bytes - fixed) / (int64_t)sizeof *m->sets;
    if (n_sets < 1) {
        free(m);
        return error_set(e, RC_INVALID, "a map of prefixes for %d nodes takes more than %lld bytes", n_nodes,
                         (long long)cap_bytes);
    }
    m->n_sets = (uint64_t)n_sets;
    m->bytes = fixed + n_sets * (int64_t)sizeof *m->sets;
    m->sets = spw_calloc((size_t)n_sets, sizeof *m->sets);
    m->nodes = spw_calloc((size_t)n_nodes, sizeof *m->nodes);
    m->n_nodes = n_nodes;
    for (int32_t i = 0; i < n_nodes; i++)
        m->nodes[i].room = PREFIX_BLOCKS_ASSUMED;
    *out = m;
    return RC_OK;
}

void prefix_free(struct prefix_map *m)
{
    if (!m)
        return;
    free(m->sets);
    free(m->nodes);
    free(m);
}

void prefix_set_tokens(struct prefix_map *m, int32_t node, int64_t kv_tokens)
{
    SPW_ASSERT(node >= 0 && node < m->n_nodes);
    int64_t blocks = kv_tokens / (PREFIX_BLOCK_BYTES / PREFIX_BYTES_PER_TOKEN);
    m->nodes[node].room =
        kv_tokens <= 0 ? PREFIX_BLOCKS_ASSUMED : (uint32_t)(blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX);
}

void prefix_forget(struct prefix_map *m, int32_t node)
{
    SPW_ASSERT(node >= 0 && node < m->n_nodes);
    m->nodes[node].count++;    /* whatever it was sent until now has an age of 1 and more... */
    m->nodes[node].filled = 0; /* ...and nothing that old counts */
}

static uint64_t key_of(uint64_t hash)
{
    return hash ? hash : 1;
}

static struct set *set_of(const struct prefix_map *m, uint64_t key)
{
    __extension__ typedef unsigned __int128 wide;
    return &m->sets[(uint64_t)(((wide)key * m->n_sets) >> 64)];
}

/* -1: it is not there. */
static int way_of(const struct set *s, uint64_t key)
{
    for (int w = 0; w < WAYS; w++) {
        if (s->keys[w] == key)
            return w;
    }
    return -1;
}

/* New blocks of the node since this use of a block. */
static uint32_t age(const struct prefix_node *n, uint32_t stamp)
{
    return n->count - stamp;
}

/* A block has an age of 0 as it is sent, and of 1 when another new one has come: with room for one block it is
 * forgotten then. */
static bool remembers(const struct prefix_node *n, uint32_t stamp)
{
    return age(n, stamp) < n->room && age(n, stamp) <= n->filled;
}

/* The place of a block, made free if need be: an empty one, or that of the block that was not used for longest. */
static int make_place(struct prefix_map *m, struct set *s, uint64_t key)
{
    int oldest = 0;
    for (int w = 0; w < WAYS; w++) {
        if (s->keys[w] == 0) {
            oldest = w;
            m->blocks++;
            break;
        }
        if (m->clock - s->used[w] > m->clock - s->used[oldest])
            oldest = w;
    }
    m->evicted += s->keys[oldest] != 0;
    s->keys[oldest] = key;
    for (int h = 0; h < HOLDERS; h++)
        s->nodes[oldest][h] = NOBODY;
    return oldest;
}

/* The node goes to the front of the block's holders; the last one goes if there are too many. */
static void set_holder(struct prefix_map *m, struct set *s, int way, int32_t node)
{
    struct prefix_node *n = &m->nodes[node];
    uint16_t *nodes = s->nodes[way];
    uint32_t *stamps = s->stamps[way];
    int at = 0;
    while (at < HOLDERS - 1 && nodes[at] != NOBODY && nodes[at] != node)
        at++;
    if (nodes[at] != node || !remembers(n, stamps[at])) {
        n->count++;
        n->filled += n->filled < BLOCKS_MAX;
    }
    for (; at > 0; at--) {
        nodes[at] = nodes[at - 1];
        stamps[at] = stamps[at - 1];
    }
    nodes[0] = (uint16_t)node;
    stamps[0] = n->count;
}

/* The last block first: what engines drop first is a prompt's end, whose beginning may be others' too. */
void prefix_insert(struct prefix_map *m, int32_t node, const uint64_t *hashes, int n)
{
    SPW_ASSERT(node >= 0 && node < m->n_nodes);
    m->clock++;
    for (int i = n - 1; i >= 0; i--) {
        uint64_t key = key_of(hashes[i]);
        struct set *s = set_of(m, key);
        if (i >= 4)
            __builtin_prefetch(set_of(m, key_of(hashes[i - 4])));
        int way = way_of(s, key);
        if (way < 0)
            way = make_place(m, s, key);
        s->used[way] = m->clock;
        set_holder(m, s, way, node);
    }
}

/* The nodes that remember this block. */
static int holders_of(const struct prefix_map *m, uint64_t hash, uint16_t out[HOLDERS])
{
    uint64_t key = key_of(hash);
    const struct set *s = set_of(m, key);
    int way = way_of(s, key), n = 0;
    for (int h = 0; way >= 0 && h < HOLDERS && s->nodes[way][h] != NOBODY; h++) {
        if (remembers(&m->nodes[s->nodes[way][h]], s->stamps[way][h]))
            out[n++] = s->nodes[way][h];
    }
    return n;
}

static bool is_among(uint16_t node, const uint16_t *nodes, int n)
{
    for (int i = 0; i < n; i++) {
        if (nodes[i] == node)
            return true;
    }
    return false;
}

static void sort_holders(struct prefix_holder *out, int n)
{
    for (int i = 1; i < n; i++) {
        struct prefix_holder x = out[i];
        int at = i;
        for (;
             at > 0 && (out[at - 1].blocks < x.blocks || (out[at - 1].blocks == x.blocks && out[at - 1].node > x.node));
             at--)
            out[at] = out[at - 1];
        out[at] = x;
    }
}

int prefix_lookup(const struct prefix_map *m, const uint64_t *hashes, int n,
                  struct prefix_holder out[PREFIX_HOLDERS_MAX])
{
    uint16_t held[HOLDERS];
    int n_out = n > 0 ? holders_of(m, hashes[0], held) : 0;
    for (int i = 0; i < n_out; i++)
        out[i] = (struct prefix_holder){held[i], 1};
    bool more = n_out > 0;
    for (int block = 1; more && block < n; block++) {
        int n_held = holders_of(m, hashes[block], held);
        more = false;
        for (int i = 0; i < n_out; i++) {
            if (out[i].blocks == block && is_among((uint16_t)out[i].node, held, n_held)) {
                out[i].blocks++;
                more = true;
            }
        }
    }
    sort_holders(out, n_out);
    return n_out;
}

int64_t prefix_tokens(int32_t blocks, int64_t input_tokens)
{
    int64_t tokens = (int64_t)blocks * (PREFIX_BLOCK_BYTES / PREFIX_BYTES_PER_TOKEN);
    int64_t most = input_tokens > 1 ? input_tokens - 1 : 0;
    return tokens < most ? tokens : most;
}

void prefix_stats(const struct prefix_map *m, struct prefix_stats *out)
{
    *out = (struct prefix_stats){.bytes = m->bytes, .blocks = m->blocks, .evicted = m->evicted};
}
