/* Proves that generated keys have the form that is promised and never repeat, that hashes are SHA-256 (FIPS 180-4
 * example "abc"), and that a key is let in by its text and by nothing else.
 * links: spw_sched_auth */
#include "tests/unit/test.h"

#include "scheduler/auth/auth.h"
#include "scheduler/auth/key_text.h"

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

#define N_KEYS 300

static void test_found_by_its_text(void)
{
    static char tokens[N_KEYS][KEY_TEXT_BYTES], hashes[N_KEYS][KEY_HASH_BYTES], ids[N_KEYS][8];
    static struct auth_key keys[N_KEYS];
    char header[80];
    struct error e;
    struct auth *a;
    struct identity *who;
    struct auth_refusal r;
    struct auth_wait *wait;

    for (int i = 0; i < N_KEYS; i++) {
        CHECK(key_generate(tokens[i], &e) == RC_OK);
        CHECK(key_hash(tokens[i], strlen(tokens[i]), hashes[i], &e) == RC_OK);
        snprintf(ids[i], sizeof ids[i], "k%d", i);
        keys[i] = (struct auth_key){.sha256 = hashes[i], .who = {.tenant = "t", .key_id = ids[i], .scopes = 1}};
    }
    const struct auth_options o = {.keys = keys, .n_keys = N_KEYS, .clock = &clock_system};
    CHECK(auth_new(&a, &o, &e) == RC_OK);
    for (int i = 0; i < N_KEYS; i++) {
        snprintf(header, sizeof header, "bearer  %.*s", KEY_TEXT_BYTES, tokens[i]);
        const struct auth_credential c = {.authorization = header, .peer = "127.0.0.1"};
        bool known = auth_check(a, &c, &who, &r, NULL, NULL, &wait) == RC_OK;
        CHECK(known && strcmp(who->key_id, ids[i]) == 0);
        if (known)
            identity_unref(who);
        header[strlen(header) - 1] ^= 1;
        CHECK(auth_check(a, &c, &who, &r, NULL, NULL, &wait) == RC_DENIED && r.code == AUTH_KEY_UNKNOWN);
    }
    const struct auth_credential hash = {.api_key = hashes[0], .peer = "127.0.0.1"}; /* the hash opens nothing */
    CHECK(auth_check(a, &hash, &who, &r, NULL, NULL, &wait) == RC_DENIED && r.code == AUTH_KEY_UNKNOWN);
    auth_free(a);
}

int main(void)
{
    TEST(test_generate_and_hash);
    TEST(test_found_by_its_text);
    return TEST_RESULT();
}
