/* The map of prefixes beside a simple model that keeps every event and counts them anew for each question; hashing
 * beside its own definition; the bound on memory.
 * links: spw_policies */
#include <stdbool.h>
#include <stdlib.h>

#include "policies/prefix.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define NODES  6
#define BLOCKS 48 /* different ones, in the model's tests */
#define EVENTS 4096

static struct prefix_map *map_new(int64_t bytes, int nodes)
{
    struct prefix_map *m = NULL;
    struct error e;
    if (prefix_new(&m, bytes, nodes, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return m;
}

/* ---- the model: everything that ever happened, oldest first ------------------------------------------------------ */

struct event {
    int node, block; /* block -1: started anew */
    bool fresh;      /* the node did not have it */
};
struct model {
    struct event events[EVENTS];
    int n;
    int64_t room[NODES];
};

static bool model_remembers(const struct model *m, int node, int block)
{
    int64_t fresh_after = 0;
    for (int i = m->n - 1; i >= 0; i--) {
        const struct event *ev = &m->events[i];
        if (ev->node != node)
            continue;
        if (ev->block == -1)
            return false;
        if (ev->block == block)
            return fresh_after < m->room[node];
        fresh_after += ev->fresh;
    }
    return false;
}

/* Is it among the four that were sent the block last? */
static bool model_lists(const struct model *m, int node, int block)
{
    int seen[NODES], n = 0;
    for (int i = m->n - 1; i >= 0; i--) {
        if (m->events[i].block != block)
            continue;
        if (m->events[i].node == node)
            return n < PREFIX_HOLDERS_MAX;
        bool again = false;
        for (int k = 0; k < n; k++)
            again = again || seen[k] == m->events[i].node;
        if (!again)
            seen[n++] = m->events[i].node;
    }
    return false;
}

static bool model_holds(const struct model *m, int node, int block)
{
    return model_lists(m, node, block) && model_remembers(m, node, block);
}

static void model_insert(struct model *m, int node, const int *blocks, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        bool fresh = !model_holds(m, node, blocks[i]);
        m->events[m->n++] = (struct event){node, blocks[i], fresh};
    }
}

static int model_blocks(const struct model *m, int node, const int *blocks, int n)
{
    int held = 0;
    while (held < n && model_holds(m, node, blocks[held]))
        held++;
    return held;
}

static uint64_t hash_of(int block)
{
    uint64_t seed = (uint64_t)block * 7919;
    return next_random(&seed);
}

/* A path in a small tree of prompts, so that beginnings are shared. */
static int random_prompt(uint64_t *seed, int blocks[5], uint64_t hashes[5])
{
    int n = 1 + (int)(next_random(seed) % 5), at = 0;
    for (int i = 0; i < n; i++) {
        at = at * 2 + 1 + (int)(next_random(seed) % 2);
        blocks[i] = at % BLOCKS;
        hashes[i] = hash_of(blocks[i]);
    }
    return n;
}

static void compare(const struct prefix_map *map, const struct model *model, const int *blocks, const uint64_t *hashes,
                    int n)
{
    struct prefix_holder found[PREFIX_HOLDERS_MAX];
    int n_found = prefix_lookup(map, hashes, n, found), n_model = 0;
    for (int node = 0; node < NODES; node++) {
        int want = model_blocks(model, node, blocks, n), got = 0;
        for (int i = 0; i < n_found; i++)
            got = found[i].node == node ? found[i].blocks : got;
        CHECK_INT(got, want);
        n_model += want > 0;
    }
    CHECK_INT(n_found, n_model);
    for (int i = 1; i < n_found; i++) {
        CHECK(found[i].blocks < found[i - 1].blocks ||
              (found[i].blocks == found[i - 1].blocks && found[i].node > found[i - 1].node));
    }
}

static void agrees_with_the_model(void)
{
    uint64_t seed = 7;
    struct model *model = calloc(1, sizeof *model);
    for (int round = 0; round < 30 && !test_run_.group_failed; round++) {
        struct prefix_map *map = map_new(PREFIX_BYTES_MIN * 16, NODES);
        memset(model, 0, sizeof *model);
        for (int i = 0; i < NODES; i++)
            model->room[i] = PREFIX_BLOCKS_ASSUMED;
        while (model->n < 600 && !test_run_.group_failed) {
            int blocks[5], node = (int)(next_random(&seed) % NODES);
            uint64_t hashes[5], what = next_random(&seed) % 16;
            int n = random_prompt(&seed, blocks, hashes);
            if (what == 0) {
                prefix_forget(map, node);
                model->events[model->n++] = (struct event){node, -1, false};
            } else if (what == 1) {
                model->room[node] = (int64_t)(next_random(&seed) % 12);
                prefix_set_tokens(map, node, model->room[node] * 256 + 100);
            } else {
                prefix_insert(map, node, hashes, n);
                model_insert(model, node, blocks, n);
            }
            random_prompt(&seed, blocks, hashes);
            n = random_prompt(&seed, blocks, hashes);
            compare(map, model, blocks, hashes, n);
        }
        struct prefix_stats stats;
        prefix_stats(map, &stats);
        CHECK_INT(stats.evicted, 0);
        prefix_free(map);
    }
    free(model);
}

/* However much is sent: it takes no more memory, and says nothing that was not so. */
static void stays_within_its_cap(void)
{
    struct prefix_map *map = map_new(PREFIX_BYTES_MIN, 3);
    struct prefix_stats before, after;
    prefix_stats(map, &before);
    CHECK(before.bytes <= PREFIX_BYTES_MIN);
    CHECK_INT(before.blocks, 0);
    prefix_set_tokens(map, 1, INT64_MAX);
    uint64_t seed = 3, hashes[64];
    for (int i = 0; i < 20000; i++) {
        for (int k = 0; k < 64; k++)
            hashes[k] = next_random(&seed);
        prefix_insert(map, 1, hashes, 64);
    }
    prefix_stats(map, &after);
    CHECK_INT(after.bytes, before.bytes);
    CHECK(after.blocks > 1500 && after.blocks * 36 <= PREFIX_BYTES_MIN);
    CHECK_INT(after.blocks + after.evicted, 20000 * 64);
    struct prefix_holder found[PREFIX_HOLDERS_MAX];
    CHECK_INT(prefix_lookup(map, hashes, 64, found), 1); /* the newest is there */
    CHECK(found[0].node == 1 && found[0].blocks == 64);
    seed = 3;
    hashes[0] = next_random(&seed);
    CHECK_INT(prefix_lookup(map, hashes, 1, found), 0); /* the oldest is not */
    prefix_free(map);
}

static void what_is_used_stays(void)
{
    struct prefix_map *map = map_new(PREFIX_BYTES_MIN, 2);
    prefix_set_tokens(map, 0, INT64_MAX);
    prefix_set_tokens(map, 1, INT64_MAX);
    uint64_t seed = 11, system_prompt = 12345, other;
    struct prefix_holder found[PREFIX_HOLDERS_MAX];
    for (int i = 0; i < 100000; i++) {
        other = next_random(&seed);
        prefix_insert(map, 1, &other, 1);
        prefix_insert(map, 0, &system_prompt, 1);
    }
    CHECK_INT(prefix_lookup(map, &system_prompt, 1, found), 1);
    CHECK_INT(found[0].node, 0);
    prefix_free(map);
}

static void a_prompt_loses_its_end_first(void)
{
    struct prefix_map *map = map_new(PREFIX_BYTES_MIN, 1);
    struct prefix_holder found[PREFIX_HOLDERS_MAX];
    const uint64_t a[4] = {1, 2, 3, 4}, b[2] = {5, 6};
    prefix_set_tokens(map, 0, 4 * 256);
    prefix_insert(map, 0, a, 4);
    CHECK(prefix_lookup(map, a, 4, found) == 1 && found[0].blocks == 4);
    prefix_insert(map, 0, b, 2);
    CHECK(prefix_lookup(map, a, 4, found) == 1 && found[0].blocks == 2);
    CHECK(prefix_lookup(map, b, 2, found) == 1 && found[0].blocks == 2);
    prefix_forget(map, 0);
    CHECK_INT(prefix_lookup(map, a, 4, found) + prefix_lookup(map, b, 2, found), 0);
    prefix_insert(map, 0, b, 2);
    CHECK(prefix_lookup(map, b, 2, found) == 1 && found[0].blocks == 2);
    CHECK_INT(prefix_lookup(map, a, 4, found), 0);
    CHECK_INT(prefix_lookup(map, a, 0, found), 0);
    prefix_free(map);
}

static void bad_sizes_are_refused(void)
{
    struct prefix_map *m = NULL;
    struct error e;
    CHECK_INT(prefix_new(&m, PREFIX_BYTES_MIN - 1, 1, &e), RC_INVALID);
    CHECK_INT(prefix_new(&m, INT64_MAX, 1, &e), RC_INVALID);
    CHECK_INT(prefix_new(&m, PREFIX_BYTES_MIN, 0, &e), RC_INVALID);
    CHECK_INT(prefix_new(&m, PREFIX_BYTES_MIN, 65536, &e), RC_INVALID);
    CHECK_INT(prefix_new(&m, PREFIX_BYTES_MIN, 65535, &e), RC_INVALID); /* no room left for blocks */
    CHECK(!m);
}

/* ---- hashing ----------------------------------------------------------------------------------------------------- */

static void pieces_do_not_matter(void)
{
    enum { BYTES = 9000 };
    static char text[BYTES];
    uint64_t seed = 5, whole[16], pieces[16];
    for (int i = 0; i < BYTES; i++)
        text[i] = (char)next_random(&seed);
    for (int round = 0; round < 200; round++) {
        struct prefix_hasher h;
        size_t n = next_random(&seed) % BYTES;
        int max = (int)(next_random(&seed) % 10);
        prefix_hasher_init(&h, 99, whole, max);
        prefix_hasher_feed(&h, text, n);
        int n_whole = h.n, expected = (int)(n / PREFIX_BLOCK_BYTES);
        CHECK_INT(n_whole, expected < max ? expected : max);
        prefix_hasher_init(&h, 99, pieces, max);
        for (size_t at = 0; at < n;) {
            size_t some = next_random(&seed) % 4 ? next_random(&seed) % 2000 : PREFIX_BLOCK_BYTES - 1;
            some = some < n - at ? some : n - at;
            prefix_hasher_feed(&h, text + at, some);
            at += some;
        }
        CHECK_INT(h.n, n_whole);
        CHECK(memcmp(whole, pieces, (size_t)n_whole * sizeof *whole) == 0);
        uint64_t before = 99;
        for (int i = 0; i < n_whole; i++) {
            before = prefix_hash_block(before, text + i * PREFIX_BLOCK_BYTES);
            CHECK(whole[i] == before);
        }
    }
}

/* Any bit of the block, and of what came before, changes the hash. */
static void every_bit_counts(void)
{
    char block[PREFIX_BLOCK_BYTES];
    uint64_t seed = 6;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)next_random(&seed);
    uint64_t h = prefix_hash_block(1, block);
    for (size_t bit = 0; bit < sizeof block * 8; bit++) {
        block[bit / 8] ^= (char)(1 << bit % 8);
        CHECK(prefix_hash_block(1, block) != h);
        block[bit / 8] ^= (char)(1 << bit % 8);
    }
    for (int bit = 0; bit < 64; bit++)
        CHECK(prefix_hash_block(1 ^ UINT64_C(1) << bit, block) != h);
    memset(block, 0, sizeof block);
    CHECK(prefix_hash_block(1, block) != prefix_hash_block(2, block));
}

static void salts_differ(void)
{
    const char *ab_c[] = {"ab", "c"}, *a_bc[] = {"a", "bc"}, *c_ab[] = {"c", "ab"}, *long_one[] = {"abcdefgh", ""};
    uint64_t s[6] = {prefix_salt(1, ab_c, 2), prefix_salt(1, a_bc, 2),     prefix_salt(1, c_ab, 2),
                     prefix_salt(2, ab_c, 2), prefix_salt(1, long_one, 2), prefix_salt(1, long_one, 1)};
    for (int i = 0; i < 6; i++) {
        for (int k = 0; k < i; k++)
            CHECK(s[i] != s[k]);
    }
    CHECK(prefix_salt(1, ab_c, 2) == s[0]);
}

static int hash_json(const char *text, uint64_t *out)
{
    struct prefix_hasher h;
    prefix_hasher_init(&h, 1, out, 8);
    prefix_hasher_feed_json(&h, text, strlen(text));
    return h.n;
}

static void put(char *out, const char *blank, const char *content, int n)
{
    out +=
        snprintf(out, 4000, "[%s{%s\"role\"%s:%s\"user\"%s,\"content\":%s\"", blank, blank, blank, blank, blank, blank);
    for (int i = 0; i < n; i++)
        out += snprintf(out, 100, "%s", content);
    snprintf(out, 100, "\"%s}%s]%s", blank, blank, blank);
}

static void blanks_between_do_not_count_and_blanks_within_do(void)
{
    static char tight[8000], wide[8000], other[8000];
    uint64_t a[8], b[8], c[8];
    const char *contents[] = {"a b", "q\\\" [ 1 ]", "\\\\ x", "\\\\\\\" y"};
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++) {
        put(tight, "", contents[i], 400);
        put(wide, " \n\t\r", contents[i], 400);
        int n = hash_json(tight, a);
        CHECK(n >= 1);
        CHECK_INT(hash_json(wide, b), n);
        CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);
        put(other, "", contents[(i + 1) % 4], 400);
        hash_json(other, c);
        CHECK(a[0] != c[0]);
    }
    put(tight, "", "a b", 400);
    put(other, "", "ab ", 400);
    hash_json(tight, a);
    hash_json(other, c);
    CHECK(a[0] != c[0]);
    char *t = tight, *w = wide;
    for (int i = 0; i < 300; i++) { /* strings that end with a backslash, and one of blanks after each */
        t += snprintf(t, 30, "[\"\\\\\",\" \"]");
        w += snprintf(w, 30, " [ \"\\\\\", \" \" ] ");
    }
    CHECK(hash_json(tight, a) == hash_json(wide, b) && a[0] == b[0] && a[1] == b[1]);
    CHECK_INT(hash_json("\"never ends \\", a), 0); /* and nobody reads beyond it */
    CHECK_INT(hash_json("\"\\\"", a), 0);
    CHECK_INT(hash_json("", a), 0);
}

static void tokens_leave_one_to_compute(void)
{
    CHECK_INT(prefix_tokens(2, 10000), 512);
    CHECK_INT(prefix_tokens(2, 512), 511);
    CHECK_INT(prefix_tokens(2, 0), 0);
    CHECK_INT(prefix_tokens(0, 10000), 0);
    CHECK_INT(prefix_tokens(INT32_MAX, INT64_MAX), INT64_C(256) * INT32_MAX);
}

int main(void)
{
    TEST(agrees_with_the_model);
    TEST(stays_within_its_cap);
    TEST(what_is_used_stays);
    TEST(a_prompt_loses_its_end_first);
    TEST(bad_sizes_are_refused);
    TEST(pieces_do_not_matter);
    TEST(every_bit_counts);
    TEST(salts_differ);
    TEST(blanks_between_do_not_count_and_blanks_within_do);
    TEST(tokens_leave_one_to_compute);
    return TEST_RESULT();
}
