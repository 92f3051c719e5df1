/* Proves that a key is found by its token and nothing else is, that generated keys are what the store expects and never
 * repeat, and that hashes are SHA-256 (FIPS 180-4 example "abc").
 * links: spw_sched_books spw_sched_config */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "scheduler/books/keys.h"

#define N_KEYS 300

static char tokens[N_KEYS][KEY_TEXT_BYTES];

static struct config *config_with_keys(void)
{
    struct strbuf text, problems;
    struct config *c = NULL;
    struct error e;
    char hex[KEY_HASH_BYTES];

    strbuf_init(&text, 1 << 20);
    strbuf_init(&problems, 1 << 20);
    CHECK(strbuf_puts(&text, "nodes: [{name: n, url: 'http://h', models: [m]}]\nkeys:\n") == RC_OK);
    for (int i = 0; i < N_KEYS; i++) {
        CHECK(key_generate(tokens[i], &e) == RC_OK);
        CHECK(key_hash(tokens[i], strlen(tokens[i]), hex, &e) == RC_OK);
        CHECK(strbuf_printf(&text, "- {id: k%d, sha256: '%s', tenant: t}\n", i, hex) == RC_OK);
    }
    CHECK(config_parse(&c, text.data, text.len, "keys.yaml", &problems) == RC_OK);
    CHECK_STR(problems.data ? problems.data : "", "");
    strbuf_fini(&text);
    strbuf_fini(&problems);
    return c;
}

static void test_find(void)
{
    struct config *c = config_with_keys();
    struct keys *k = NULL;
    struct error e;

    if (!c || keys_new(&k, c, &e) != RC_OK) {
        CHECK(!"opened");
        config_free(c);
        return;
    }
    for (int i = 0; i < N_KEYS; i++)
        CHECK(keys_find(k, tokens[i], strlen(tokens[i])) == &c->keys[i]);
    char wrong[KEY_TEXT_BYTES];
    memcpy(wrong, tokens[7], sizeof wrong);
    wrong[20] ^= 1;
    CHECK(keys_find(k, wrong, strlen(wrong)) == NULL);
    CHECK(keys_find(k, tokens[7], strlen(tokens[7]) - 1) == NULL);
    CHECK(keys_find(k, "", 0) == NULL);
    CHECK(keys_find(k, c->keys[0].sha256, 64) == NULL); /* the hash itself opens nothing */
    char *long_one = spw_calloc(1, 100000);
    memset(long_one, 'a', 99999);
    CHECK(keys_find(k, long_one, 99999) == NULL);
    free(long_one);
    keys_free(k);
    config_free(c);
}

static void test_authorize(void)
{
    struct config *c = config_with_keys();
    struct keys *k = NULL;
    struct error e;
    char header[128];

    if (!c || keys_new(&k, c, &e) != RC_OK) {
        CHECK(!"opened");
        config_free(c);
        return;
    }
    snprintf(header, sizeof header, "Bearer %s", tokens[3]);
    CHECK(keys_authorize(k, header) == &c->keys[3]);
    snprintf(header, sizeof header, "bearer  %s", tokens[3]);
    CHECK(keys_authorize(k, header) == &c->keys[3]);
    snprintf(header, sizeof header, "Basic %s", tokens[3]);
    CHECK(keys_authorize(k, header) == NULL);
    CHECK(keys_authorize(k, tokens[3]) == NULL);
    CHECK(keys_authorize(k, "Bearer ") == NULL);
    CHECK(keys_authorize(k, "Bearer") == NULL);
    CHECK(keys_authorize(k, NULL) == NULL);
    keys_free(k);
    config_free(c);
}

static void test_no_keys(void)
{
    struct config c = {0};
    struct keys *k = NULL;
    struct error e;

    CHECK(keys_new(&k, &c, &e) == RC_OK);
    CHECK(keys_find(k, "a", 1) == NULL);
    keys_free(k);
    struct config_key bad = {.sha256 = "0123"};
    c.keys = &bad;
    c.n_keys = 1;
    CHECK(keys_new(&k, &c, &e) == RC_INVALID);
    CHECK(k == NULL);
}

static void test_generate_and_hash(void)
{
    char a[KEY_TEXT_BYTES], b[KEY_TEXT_BYTES], hex[KEY_HASH_BYTES];
    struct error e;

    CHECK(key_generate(a, &e) == RC_OK && key_generate(b, &e) == RC_OK);
    CHECK(strcmp(a, b) != 0);
    CHECK_INT(strlen(a), 47);
    CHECK(strncmp(a, "spw_", 4) == 0);
    CHECK_INT(strspn(a, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 47);
    CHECK(key_hash("abc", 3, hex, &e) == RC_OK);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(key_hash("", 0, hex, &e) == RC_INVALID);
}

int main(void)
{
    TEST(test_find);
    TEST(test_authorize);
    TEST(test_no_keys);
    TEST(test_generate_and_hash);
    return TEST_RESULT();
}
