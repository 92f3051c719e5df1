/* Proves the store of API keys: created keys are found and nothing else is; expiry, revocation and rotation with grace
 * hold to the second and over a restart; the files hold no key and are nobody else's; another secret is told; damaged
 * rows open nothing. And its parts: networks, identities, the hash table.
 * links: spw_sched_auth */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "scheduler/auth/hash_table.h"
#include "scheduler/auth/keystore.h"

static char folder[] = "/tmp/spw_keys_XXXXXX";
static char db[128], secret[128];
static struct clock_manual hands = {.wall = {INT64_C(1000000) * NS_PER_S}};
static struct clock manual;

static void forget_files(void)
{
    char path[160];
    const char *ends[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", db, ends[i]);
        unlink(path);
    }
    unlink(secret);
}

static struct keystore *open_store(void)
{
    struct keystore *k = NULL;
    struct error e = {0};
    if (keystore_open(&k, db, secret, &manual, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return k;
}

static enum key_verdict find(struct keystore *k, const char *text)
{
    struct identity *who;
    enum key_verdict v = keystore_find(k, text, strlen(text), &who);
    CHECK((v == KEY_VALID) == (who != NULL));
    identity_unref(who);
    return v;
}

static void step_s(int64_t s)
{
    clock_advance(&hands, s * NS_PER_S);
}

static void creates_and_finds(void)
{
    struct keystore *k = open_store();
    const char *models[] = {"deepseek-r1", "llama-*"}, *networks[] = {"10.0.0.0/8", "2001:db8::/32"};
    struct key_spec s = {.tenant = "acme",
                         .team = "search",
                         .project = "p1",
                         .user = "eve@acme.example",
                         .rate_class = "gold",
                         .scopes = AUTH_SCOPE_INFERENCE | AUTH_SCOPE_USAGE,
                         .local_only = true,
                         .models = models,
                         .n_models = 2,
                         .networks = networks,
                         .n_networks = 2};
    char text[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES], wrong[KEYSTORE_TEXT_BYTES];
    struct error e;
    struct identity *who;

    CHECK_INT(keystore_create(k, &s, text, id, &e), RC_OK);
    CHECK_INT(strlen(text), 50);
    CHECK(strncmp(text, "sk-spw-", 7) == 0);
    CHECK_INT(strspn(text + 7, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 43);
    CHECK_INT(keystore_find(k, text, strlen(text), &who), KEY_VALID);
    CHECK_STR(who->tenant, "acme");
    CHECK_STR(who->team, "search");
    CHECK_STR(who->project, "p1");
    CHECK_STR(who->user, "eve@acme.example");
    CHECK_STR(who->key_id, id);
    CHECK_STR(who->rate_class, "gold");
    CHECK_INT(who->scopes, 3);
    CHECK(who->local_only);
    CHECK(identity_may_use(who, "deepseek-r1") && identity_may_use(who, "llama-3") &&
          !identity_may_use(who, "deepseek-r1-distill") && !identity_may_use(who, "lla"));
    CHECK(network_allows(who->networks, who->n_networks, "10.200.1.2"));
    CHECK(!network_allows(who->networks, who->n_networks, "11.0.0.1"));
    for (int i = 0; i < 50; i++) { /* any one character changed */
        memcpy(wrong, text, sizeof wrong);
        wrong[i] = wrong[i] == 'x' ? 'y' : 'x';
        CHECK_INT(find(k, wrong), KEY_UNKNOWN);
    }
    CHECK_INT(find(k, ""), KEY_UNKNOWN);
    keystore_close(k); /* the identity outlives it */
    CHECK_STR(who->tenant, "acme");
    identity_unref(who);
    k = open_store();
    CHECK_INT(find(k, text), KEY_VALID);
    keystore_close(k);
    forget_files();
}

static void rejects_wrong_specs(void)
{
    struct keystore *k = open_store();
    char text[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES];
    const char *bad_model[] = {"a b"}, *star_inside[] = {"a*b"}, *bad_network[] = {"10.1.0.0/8"}, *line[] = {"m\nn"};
    struct error e;
    struct key_spec wrong[] = {
        {.tenant = NULL},
        {.tenant = ""},
        {.tenant = "a b"},
        {.tenant = "t", .team = "x/y"},
        {.tenant = "t", .id = "\xc3\xa4"},
        {.tenant = "t", .user = "a b"},
        {.tenant = "t", .scopes = 64},
        {.tenant = "t", .expires_s = 5},
        {.tenant = "t", .models = bad_model, .n_models = 1},
        {.tenant = "t", .models = star_inside, .n_models = 1},
        {.tenant = "t", .models = line, .n_models = 1},
        {.tenant = "t", .n_models = 65},
        {.tenant = "t", .networks = bad_network, .n_networks = 1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_INT(keystore_create(k, &wrong[i], text, id, &e), RC_INVALID);
    CHECK_INT(keystore_count(k), 0);
    struct key_spec right = {.tenant = "t", .id = "mine"};
    CHECK_INT(keystore_create(k, &right, text, id, &e), RC_OK);
    CHECK_STR(id, "mine");
    CHECK_INT(keystore_create(k, &right, text, id, &e), RC_CONFLICT);
    CHECK_INT(keystore_revoke(k, "mine", &e), RC_OK);
    CHECK_INT(keystore_create(k, &right, text, id, &e), RC_CONFLICT); /* an id never means another key */
    CHECK_INT(text[0], 0);
    CHECK_INT(keystore_revoke(k, "nobody", &e), RC_NOT_FOUND);
    keystore_close(k);
    forget_files();
}

static void expires_and_is_revoked(void)
{
    struct keystore *k = open_store();
    char text[KEYSTORE_TEXT_BYTES], second[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES], scratch[KEYSTORE_TEXT_BYTES];
    struct error e;
    struct key_spec s = {.tenant = "t", .expires_s = hands.wall.ns / NS_PER_S + 100};
    CHECK_INT(keystore_create(k, &s, text, id, &e), RC_OK);
    step_s(99);
    CHECK_INT(find(k, text), KEY_VALID);
    step_s(1);
    CHECK_INT(find(k, text), KEY_EXPIRED);
    CHECK_INT(keystore_rotate(k, id, 10, scratch, &e), RC_CONFLICT);
    s.expires_s = 0;
    CHECK_INT(keystore_create(k, &s, second, id, &e), RC_OK);
    CHECK_INT(keystore_revoke(k, id, &e), RC_OK);
    CHECK_INT(find(k, second), KEY_REVOKED);
    CHECK_INT(keystore_revoke(k, id, &e), RC_OK);
    CHECK_INT(keystore_rotate(k, id, 10, scratch, &e), RC_CONFLICT);
    keystore_close(k);
    k = open_store();
    CHECK_INT(find(k, second), KEY_REVOKED);
    CHECK_INT(find(k, text), KEY_EXPIRED);
    keystore_close(k);
    forget_files();
}

static void rotates_with_grace(void)
{
    struct keystore *k = open_store();
    char a[KEYSTORE_TEXT_BYTES], b[KEYSTORE_TEXT_BYTES], c[KEYSTORE_TEXT_BYTES], d[KEYSTORE_TEXT_BYTES];
    char id[KEYSTORE_ID_BYTES];
    struct error e;
    struct key_spec s = {.tenant = "t", .id = "r"};
    CHECK_INT(keystore_create(k, &s, a, id, &e), RC_OK);
    CHECK_INT(keystore_rotate(k, "r", 60, b, &e), RC_OK);
    CHECK(strcmp(a, b) != 0);
    step_s(59);
    CHECK_INT(find(k, a), KEY_VALID);
    CHECK_INT(find(k, b), KEY_VALID);
    keystore_close(k);
    k = open_store();
    CHECK_INT(find(k, a), KEY_VALID);
    step_s(1);
    CHECK_INT(find(k, a), KEY_EXPIRED);
    CHECK_INT(keystore_rotate(k, "r", 60, c, &e), RC_OK);
    CHECK_INT(find(k, a), KEY_UNKNOWN); /* replaced twice: forgotten */
    CHECK_INT(find(k, b), KEY_VALID);
    CHECK_INT(keystore_rotate(k, "r", 0, d, &e), RC_OK);
    CHECK_INT(find(k, b), KEY_UNKNOWN);
    CHECK_INT(find(k, c), KEY_UNKNOWN);
    CHECK_INT(find(k, d), KEY_VALID);
    CHECK_INT(keystore_rotate(k, "r", -1, d, &e), RC_INVALID);
    CHECK_INT(keystore_rotate(k, "nobody", 0, d, &e), RC_NOT_FOUND);
    CHECK_INT(keystore_count(k), 1);
    keystore_close(k);
    forget_files();
}

static int listed;
static void on_listed(const struct key_info *i, void *arg)
{
    const char *expected = arg;
    listed++;
    if (expected) {
        CHECK_STR(i->who.tenant, expected);
        CHECK_INT(strlen(i->tail), 4);
        CHECK_INT(i->who.n_networks, 1);
        CHECK_STR(i->networks[0], "127.0.0.1");
        CHECK(i->created_s > 0 && i->used_s > 0);
    }
}

static void lists(void)
{
    struct keystore *k = open_store(), *other;
    char text[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES], tenant[8] = "two";
    const char *networks[] = {"127.0.0.1"};
    struct error e;
    struct key_spec s = {.tenant = "one"};
    for (int i = 0; i < 300; i++) /* past a few doublings of the table */
        CHECK_INT(keystore_create(k, &s, text, id, &e), RC_OK);
    other = open_store();
    s = (struct key_spec){.tenant = tenant, .networks = networks, .n_networks = 1};
    CHECK_INT(keystore_create(other, &s, text, id, &e), RC_OK);
    CHECK_INT(find(k, text), KEY_UNKNOWN); /* made by another process: known after a reload */
    CHECK_INT(keystore_reload(k, &e), RC_OK);
    CHECK_INT(find(k, text), KEY_VALID);
    /* A change looks at the file first, whatever memory says. */
    char elsewhere[KEYSTORE_ID_BYTES], scratch[KEYSTORE_TEXT_BYTES];
    CHECK_INT(keystore_create(other, &(struct key_spec){.tenant = "one"}, scratch, elsewhere, &e), RC_OK);
    CHECK_INT(keystore_rotate(k, elsewhere, 0, scratch, &e), RC_OK);
    CHECK_INT(find(k, scratch), KEY_VALID);
    CHECK_INT(keystore_revoke(other, elsewhere, &e), RC_OK);
    CHECK_INT(keystore_rotate(k, elsewhere, 0, scratch, &e), RC_CONFLICT);
    keystore_close(other);
    listed = 0;
    CHECK_INT(keystore_list(k, NULL, on_listed, NULL, &e), RC_OK);
    CHECK_INT(listed, 302);
    listed = 0;
    CHECK_INT(keystore_list(k, "two", on_listed, tenant, &e), RC_OK);
    CHECK_INT(listed, 1);
    keystore_close(k);
    forget_files();
}

struct finder {
    struct keystore *k;
    const char *valid;
    atomic_bool stop;
    int found, other;
};

static void *find_all_the_time(void *arg)
{
    struct finder *f = arg;
    struct identity *who;
    while (!atomic_load(&f->stop)) {
        if (keystore_find(f->k, f->valid, strlen(f->valid), &who) == KEY_VALID && strcmp(who->tenant, "t") == 0)
            f->found++;
        else
            f->other++;
        identity_unref(who);
    }
    return NULL;
}

/* Two threads look a key up while it and others are made, rotated with grace, reloaded and revoked. */
static void threads_agree(void)
{
    struct keystore *k = open_store();
    char text[KEYSTORE_TEXT_BYTES], next[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES];
    struct error e;
    struct key_spec s = {.tenant = "t"};
    pthread_t threads[2];
    struct finder finders[2];
    CHECK_INT(keystore_create(k, &s, text, id, &e), RC_OK);
    for (int i = 0; i < 2; i++) {
        finders[i] = (struct finder){.k = k, .valid = text};
        CHECK_INT(pthread_create(&threads[i], NULL, find_all_the_time, &finders[i]), 0);
    }
    CHECK_INT(keystore_rotate(k, id, 1000, next, &e), RC_OK);
    for (int i = 0; i < 40; i++) {
        char other[KEYSTORE_TEXT_BYTES], other_id[KEYSTORE_ID_BYTES];
        CHECK_INT(keystore_create(k, &s, other, other_id, &e), RC_OK);
        CHECK_INT(keystore_revoke(k, other_id, &e), RC_OK);
        CHECK_INT(keystore_reload(k, &e), RC_OK);
    }
    for (int i = 0; i < 2; i++) {
        atomic_store(&finders[i].stop, true);
        pthread_join(threads[i], NULL);
        CHECK(finders[i].found > 0);
        CHECK_INT(finders[i].other, 0);
    }
    keystore_close(k);
    forget_files();
}

static bool file_holds(const char *path, const char *text, size_t n)
{
    struct strbuf b;
    struct error e;
    bool found = file_read(&b, path, 1 << 24, &e) == RC_OK && b.len > 0 && memmem(b.data, b.len, text, n);
    strbuf_fini(&b);
    return found;
}

static void files_are_private(void)
{
    struct keystore *k = open_store(), *none = NULL;
    char text[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES], wal[160];
    struct error e;
    struct key_spec s = {.tenant = "t"};
    struct stat st;
    CHECK_INT(keystore_create(k, &s, text, id, &e), RC_OK);
    snprintf(wal, sizeof wal, "%s-wal", db);
    const char *paths[] = {db, wal, secret};
    for (int i = 0; i < 3; i++) {
        CHECK(stat(paths[i], &st) == 0 && (st.st_mode & 0777) == 0600);
        CHECK(!file_holds(paths[i], text + 7, 43) && !file_holds(paths[i], text + 7, 12));
    }
    keystore_close(k);
    chmod(secret, 0640);
    CHECK_INT(keystore_open(&none, db, secret, &manual, &e), RC_INVALID);
    CHECK(strstr(e.message, "chmod 600") != NULL);
    chmod(secret, 0600);
    unlink(secret); /* a new one is made, which does not fit the database */
    CHECK_INT(keystore_open(&none, db, secret, &manual, &e), RC_INVALID);
    CHECK(strstr(e.message, "another instance secret") != NULL);
    CHECK(none == NULL);
    CHECK_INT(truncate(secret, 31), 0);
    CHECK_INT(keystore_open(&none, db, secret, &manual, &e), RC_INVALID);
    CHECK(strstr(e.message, "damaged") != NULL);
    forget_files();
    CHECK_INT(keystore_open(&none, "/nonexistent/keys.db", secret, &manual, &e), RC_IO);
    forget_files();
}

/* A tenant's salt is its own, and the same after a restart; another instance has others. */
static void salts_are_apart(void)
{
    char a[KEYSTORE_SALT_BYTES], b[KEYSTORE_SALT_BYTES], again[KEYSTORE_SALT_BYTES];
    struct keystore *k = open_store();
    keystore_salt(k, "acme", a);
    keystore_salt(k, "acme2", b);
    CHECK(strlen(a) == 32 && strspn(a, "0123456789abcdef") == 32 && strcmp(a, b) != 0);
    keystore_close(k);
    k = open_store();
    keystore_salt(k, "acme", again);
    CHECK_STR(again, a);
    keystore_close(k);
    forget_files();
    k = open_store();
    keystore_salt(k, "acme", again);
    CHECK(strcmp(again, a) != 0);
    keystore_close(k);
    forget_files();
}

static void run_sql(const char *sql)
{
    sqlite3 *raw = NULL;
    CHECK_INT(sqlite3_open(db, &raw), SQLITE_OK);
    CHECK_INT(sqlite3_exec(raw, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(raw);
}

static void damage_is_told(void)
{
    struct keystore *k = open_store(), *none = NULL;
    char text[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES];
    struct error e;
    struct key_spec s = {.tenant = "t", .id = "d"};
    CHECK_INT(keystore_create(k, &s, text, id, &e), RC_OK);
    run_sql("UPDATE keys SET networks = 'nonsense'");
    CHECK_INT(keystore_reload(k, &e), RC_INVALID); /* not: from anywhere */
    CHECK(strstr(e.message, "key 'd'") != NULL);
    CHECK_INT(find(k, text), KEY_VALID); /* keeps what it had */
    keystore_close(k);
    CHECK_INT(keystore_open(&none, db, secret, &manual, &e), RC_INVALID);
    run_sql("UPDATE keys SET networks = '', hash = x'00'");
    CHECK_INT(keystore_open(&none, db, secret, &manual, &e), RC_INVALID);
    run_sql("UPDATE keys SET hash = randomblob(32); PRAGMA user_version=9");
    CHECK_INT(keystore_open(&none, db, secret, &manual, &e), RC_UNSUPPORTED);
    forget_files();
}

static void networks_match(void)
{
    struct network n;
    struct error e;
    const char *wrong[] = {"",       "10.0.0.0/33", "10.0.0.0/",  "10.0.0.0/-1",    "10.0.0.0/8x", "10.0.0/8",
                           "::/129", "a",           "1.2.3.4/31", "2001:db8::1/64", "unix",        "10.0.0.0/08 "};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_INT(network_parse(wrong[i], &n, &e), i == 8 ? RC_OK : RC_INVALID);
    const struct {
        const char *network, *peer;
        bool in;
    } cases[] = {
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.1", false},
        {"10.0.0.0/8", "::ffff:10.1.1.1", true},
        {"0.0.0.0/0", "8.8.8.8", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "8.8.8.8", true},
        {"::1", "::1", true},
        {"::1", "::2", false},
        {"192.168.1.128/25", "192.168.1.127", false},
        {"192.168.1.128/25", "192.168.1.200", true},
        {"fe80::/10", "fe80::1%eth0", true},
        {"10.0.0.0/8", "unix", false},
        {"10.0.0.0/8", "", false},
        {"10.0.0.0/8", "10.0.0.1, 8.8.8.8", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_INT(network_parse(cases[i].network, &n, &e), RC_OK);
        CHECK_INT(network_allows(&n, 1, cases[i].peer), cases[i].in);
    }
    CHECK(network_allows(NULL, 0, "unix"));
    CHECK(!network_allows(&n, 1, NULL));
}

static void hash_table_holds(void)
{
    struct hash_table *t = NULL;
    struct error e;
    static int values[2000];
    CHECK_INT(hash_table_new(&t, &e), RC_OK);
    for (uint64_t i = 0; i < 2000; i++) /* alike but for one word */
        hash_table_put(t, &(struct hash){{7, i, 7, 7}}, &values[i]);
    CHECK_INT(hash_table_count(t), 2000);
    for (uint64_t i = 0; i < 2000; i += 2)
        hash_table_remove(t, &(struct hash){{7, i, 7, 7}});
    bool held = true;
    for (uint64_t i = 0; i < 2000; i++)
        held = held && hash_table_find(t, &(struct hash){{7, i, 7, 7}}) == (i % 2 ? &values[i] : NULL);
    CHECK(held);
    hash_table_put(t, &(struct hash){{7, 1, 7, 7}}, &values[0]);
    CHECK(hash_table_find(t, &(struct hash){{7, 1, 7, 7}}) == &values[0]);
    CHECK_INT(hash_table_count(t), 1000);
    CHECK(hash_table_find(t, &(struct hash){{7, 1, 7, 8}}) == NULL);
    hash_table_free(t);
}

static void scopes_and_names(void)
{
    char buf[64];
    CHECK_STR(auth_scopes_format(5, buf, sizeof buf), "inference admin");
    CHECK_STR(auth_scopes_format(0, buf, sizeof buf), "");
    CHECK_INT(auth_scope_parse("admin", 5), AUTH_SCOPE_ADMIN);
    CHECK_INT(auth_scope_parse("admin", 4), 0);
    CHECK(identity_name_ok("a-b_c.9") && !identity_name_ok("") && !identity_name_ok("a/b") &&
          !identity_name_ok("\xff"));
    CHECK(identity_user_ok("auth0|12@x") && !identity_user_ok("a\nb") && !identity_user_ok("\""));
    CHECK(identity_model_ok("a/B:q8*") && !identity_model_ok("*a") && !identity_model_ok("a\\"));
}

int main(void)
{
    manual = clock_manual(&hands);
    if (!mkdtemp(folder))
        return 1;
    snprintf(db, sizeof db, "%s/keys.db", folder);
    snprintf(secret, sizeof secret, "%s/keys.secret", folder);
    TEST(creates_and_finds);
    TEST(rejects_wrong_specs);
    TEST(expires_and_is_revoked);
    TEST(rotates_with_grace);
    TEST(lists);
    TEST(threads_agree);
    TEST(files_are_private);
    TEST(salts_are_apart);
    TEST(damage_is_told);
    TEST(networks_match);
    TEST(hash_table_holds);
    TEST(scopes_and_names);
    rmdir(folder);
    return TEST_RESULT();
}
