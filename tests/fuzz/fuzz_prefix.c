/* Prompts and the map of prefixes. Bytes as JSON, broken or not: blanks between do not count, pieces do not matter,
 * what is read ends where the text does. Bytes as operations on a small map: who is said to hold something was sent it,
 * as many blocks as it is said to hold and no more than the prompt has, and the memory stays what it is.
 * links: spw_policies */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policies/prefix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MOST  64
#define NODES 5
#define KEYS  256

static int hash(const char *text, size_t n, size_t piece, uint64_t out[MOST])
{
    struct prefix_hasher h;
    prefix_hasher_init(&h, 7, out, MOST);
    for (size_t at = 0; at < n; at += piece)
        prefix_hasher_feed(&h, text + at, n - at < piece ? n - at : piece);
    return h.n;
}

static void run_hashing(const char *text, size_t n)
{
    uint64_t whole[MOST], pieces[MOST], json[MOST];
    struct prefix_hasher h;
    int n_whole = hash(text, n, n + 1, whole);
    size_t blocks = n / PREFIX_BLOCK_BYTES;
    if (n_whole != (int)(blocks < MOST ? blocks : MOST) || hash(text, n, 1 + n % 37, pieces) != n_whole ||
        memcmp(whole, pieces, (size_t)n_whole * sizeof *whole) != 0)
        abort();
    char *exact = malloc(n ? n : 1); /* a read beyond it is seen */
    memcpy(exact, text, n);
    prefix_hasher_init(&h, 7, json, MOST);
    prefix_hasher_feed_json(&h, exact, n);
    free(exact);
    if (h.n > n_whole)
        abort();
}

/* key k as a block's hash; 64-bit ones spread by a product. */
static uint64_t key(uint8_t k)
{
    return (k + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
}

static void run_map(const uint8_t *data, size_t n)
{
    static const int64_t rooms[] = {0, 256, 700, 2048, INT64_MAX};
    bool sent[NODES][KEYS] = {{false}};
    struct prefix_map *m = NULL;
    struct prefix_stats first, stats;
    struct error e;
    if (prefix_new(&m, PREFIX_BYTES_MIN, NODES, &e) != RC_OK)
        abort();
    prefix_stats(m, &first);
    for (size_t at = 0; at + 8 <= n; at += 8) {
        const uint8_t *op = data + at;
        int node = op[0] % NODES, blocks = op[1] % 7;
        uint64_t hashes[6];
        struct prefix_holder found[PREFIX_HOLDERS_MAX];
        for (int i = 0; i < 6; i++)
            hashes[i] = key(op[2 + i]);
        if (op[1] >= 250) {
            prefix_forget(m, node);
            memset(sent[node], 0, sizeof sent[node]);
        } else if (op[1] >= 240) {
            prefix_set_tokens(m, node, rooms[op[2] % 5]);
        } else if (op[1] >= 120) {
            prefix_insert(m, node, hashes, blocks < 6 ? blocks : 6);
            for (int i = 0; i < blocks && i < 6; i++)
                sent[node][op[2 + i]] = true;
        }
        int n_found = prefix_lookup(m, hashes, 6, found);
        for (int i = 0; i < n_found; i++) {
            if (found[i].blocks < 1 || found[i].blocks > 6 || found[i].node < 0 || found[i].node >= NODES)
                abort();
            for (int b = 0; b < found[i].blocks; b++) {
                if (!sent[found[i].node][op[2 + b]])
                    abort();
            }
        }
    }
    prefix_stats(m, &stats);
    if (stats.bytes != first.bytes || stats.blocks > KEYS || stats.blocks < 0)
        abort();
    prefix_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    run_hashing((const char *)data, n);
    run_map(data, n);
    return 0;
}
