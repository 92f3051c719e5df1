#include "scheduler/auth/keystore.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/text.h"
#include "scheduler/auth/base64url.h"
#include "scheduler/auth/keystore_internal.h"

struct record {           /* one key in memory */
    struct identity *who; /* owned reference */
    struct hash hash, old_hash;
    bool has_old;
    int64_t old_until_s, expires_s, revoked_s, used_s;
};
struct table {
    struct hash_table *by_hash; /* of records, by both hashes */
    struct record **records;    /* owned */
    int n, cap;
};

struct keystore {
    const struct clock *clock;
    EVP_MAC *mac;
    EVP_MAC_CTX *keyed; /* initialised with the secret; duplicated for each use, so that threads do not meet */

    pthread_mutex_t file_lock; /* guards file, and orders changes */
    struct keyfile *file;
    pthread_mutex_t lock; /* guards table; never held over I/O */
    struct table table;
};

static int64_t now_s(const struct keystore *k)
{
    return clock_wall(k->clock).ns / NS_PER_S;
}

/* ---- the table in memory ---------------------------------------------------------------------------------------- */

static void record_free(struct record *r)
{
    identity_unref(r->who);
    free(r);
}

static void table_fini(struct table *t)
{
    for (int i = 0; i < t->n; i++)
        record_free(t->records[i]);
    free(t->records);
    hash_table_free(t->by_hash);
    *t = (struct table){0};
}

static struct record *record_of(const struct key_row *row)
{
    struct record *r = spw_calloc(1, sizeof *r);
    r->who = identity_new(&row->info.who);
    r->hash = row->hash;
    r->old_hash = row->old_hash;
    r->has_old = row->has_old;
    r->old_until_s = row->info.old_until_s;
    r->expires_s = row->info.expires_s;
    r->revoked_s = row->info.revoked_s;
    return r;
}

static void table_add(struct table *t, struct record *r)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->records = spw_realloc(t->records, (size_t)t->cap * sizeof(struct record *));
    }
    t->records[t->n++] = r;
    hash_table_put(t->by_hash, &r->hash, r);
    if (r->has_old)
        hash_table_put(t->by_hash, &r->old_hash, r);
}

/* Index, or -1. Only changes look by id, so that walking all is fine. */
static int table_index(const struct table *t, const char *id)
{
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->records[i]->who->key_id, id) == 0)
            return i;
    return -1;
}

static void table_drop(struct table *t, int i)
{
    struct record *r = t->records[i];
    hash_table_remove(t->by_hash, &r->hash);
    if (r->has_old)
        hash_table_remove(t->by_hash, &r->old_hash);
    t->records[i] = t->records[--t->n];
    record_free(r);
}

static void add_row(const struct key_row *row, void *arg)
{
    table_add(arg, record_of(row));
}

static void replace_row(const struct key_row *row, void *arg)
{
    struct keystore *k = arg;
    struct record *r = record_of(row);
    pthread_mutex_lock(&k->lock);
    int i = table_index(&k->table, row->info.id);
    if (i >= 0) {
        r->used_s = k->table.records[i]->used_s;
        table_drop(&k->table, i);
    }
    table_add(&k->table, r);
    pthread_mutex_unlock(&k->lock);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static bool hmac(const struct keystore *k, const char *text, size_t n, struct hash *h)
{
    size_t len = 0;
    EVP_MAC_CTX *c = EVP_MAC_CTX_dup(k->keyed);
    bool done = c && EVP_MAC_update(c, (const unsigned char *)text, n) == 1 &&
                EVP_MAC_final(c, (unsigned char *)h, &len, sizeof *h) == 1 && len == sizeof *h;
    EVP_MAC_CTX_free(c);
    return done;
}

static enum rc key_the_mac(struct keystore *k, const unsigned char *secret, struct error *e)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("digest", digest, 0), OSSL_PARAM_construct_end()};
    k->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    k->keyed = k->mac ? EVP_MAC_CTX_new(k->mac) : NULL;
    if (!k->keyed || EVP_MAC_init(k->keyed, secret, KEYSTORE_SECRET_BYTES, params) != 1)
        return error_set(e, RC_INTERNAL, "OpenSSL offers no HMAC-SHA-256");
    return RC_OK;
}

static enum rc read_all(struct keystore *k, struct table *t, struct error *e)
{
    *t = (struct table){0};
    enum rc rc = hash_table_new(&t->by_hash, e);
    if (rc == RC_OK)
        rc = keyfile_read(k->file, NULL, NULL, add_row, t, e);
    if (rc != RC_OK)
        table_fini(t);
    return rc;
}

enum rc keystore_open(struct keystore **out, const char *path, const char *secret_path, const struct clock *clock,
                      struct error *e)
{
    unsigned char secret[KEYSTORE_SECRET_BYTES];
    static const char check_text[] = "spillway keys 1";
    struct hash check;
    struct keystore *k = spw_calloc(1, sizeof *k);

    *out = NULL;
    k->clock = clock;
    pthread_mutex_init(&k->file_lock, NULL);
    pthread_mutex_init(&k->lock, NULL);
    enum rc rc = keyfile_open(&k->file, path, secret_path, secret, e);
    if (rc == RC_OK)
        rc = key_the_mac(k, secret, e);
    explicit_bzero(secret, sizeof secret);
    if (rc == RC_OK && !hmac(k, check_text, sizeof check_text - 1, &check))
        rc = error_set(e, RC_INTERNAL, "OpenSSL computes no HMAC-SHA-256");
    if (rc == RC_OK)
        rc = keyfile_check_secret(k->file, &check, e);
    if (rc == RC_OK)
        rc = read_all(k, &k->table, e);
    if (rc != RC_OK) {
        keystore_close(k);
        return rc;
    }
    *out = k;
    return RC_OK;
}

void keystore_close(struct keystore *k)
{
    if (!k)
        return;
    table_fini(&k->table);
    keyfile_close(k->file);
    EVP_MAC_CTX_free(k->keyed);
    EVP_MAC_free(k->mac);
    pthread_mutex_destroy(&k->lock);
    pthread_mutex_destroy(&k->file_lock);
    free(k);
}

enum rc keystore_reload(struct keystore *k, struct error *e)
{
    struct table fresh, old;
    pthread_mutex_lock(&k->file_lock);
    enum rc rc = read_all(k, &fresh, e);
    if (rc == RC_OK) {
        pthread_mutex_lock(&k->lock);
        old = k->table;
        k->table = fresh;
        pthread_mutex_unlock(&k->lock);
        table_fini(&old);
    }
    pthread_mutex_unlock(&k->file_lock);
    return rc;
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

static enum rc make_text(struct keystore *k, char text[KEYSTORE_TEXT_BYTES], struct hash *h, char tail[5],
                         struct error *e)
{
    unsigned char random[32];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    memcpy(text, KEYSTORE_PREFIX, sizeof KEYSTORE_PREFIX);
    base64url_encode(random, sizeof random, text + strlen(KEYSTORE_PREFIX));
    explicit_bzero(random, sizeof random);
    memcpy(tail, text + KEYSTORE_TEXT_BYTES - 5, 5);
    if (hmac(k, text, strlen(text), h))
        return RC_OK;
    explicit_bzero(text, KEYSTORE_TEXT_BYTES);
    return error_set(e, RC_INTERNAL, "OpenSSL computes no HMAC-SHA-256");
}

static enum rc make_id(char id[KEYSTORE_ID_BYTES], struct error *e)
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    unsigned char random[12];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    memcpy(id, "key_", 4);
    for (size_t i = 0; i < sizeof random; i++)
        id[4 + i] = digits[random[i] & 31];
    id[4 + sizeof random] = '\0';
    return RC_OK;
}

static enum rc check_names(const struct key_spec *s, struct error *e)
{
    const struct {
        const char *field, *value;
    } names[] = {{"id", s->id},
                 {"tenant", s->tenant},
                 {"team", s->team},
                 {"project", s->project},
                 {"rate_class", s->rate_class}};
    if (!s->tenant)
        return error_set(e, RC_INVALID, "tenant is missing: who pays");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].value && !identity_name_ok(names[i].value))
            return error_set(e, RC_INVALID, "%s: \"%.80s\" is not a name; 1 to 64 letters, digits, '-', '_', '.'",
                             names[i].field, names[i].value);
    if (s->user && !identity_user_ok(s->user))
        return error_set(e, RC_INVALID,
                         "user: \"%.80s\" is not a user; 1 to 128 letters, digits and -_.@+|:/=", s->user);
    return RC_OK;
}

static enum rc check_spec(const struct keystore *k, const struct key_spec *s, struct network *networks, struct error *e)
{
    enum rc rc = check_names(s, e);
    if (rc != RC_OK)
        return rc;
    if (s->scopes & ~AUTH_SCOPES_ALL)
        return error_set(e, RC_INVALID, "scopes: inference, usage and admin are known");
    if (s->n_models < 0 || s->n_models > KEYSTORE_MODELS_MAX || s->n_networks < 0 ||
        s->n_networks > KEYSTORE_MODELS_MAX)
        return error_set(e, RC_INVALID, "up to %d models and %d networks are allowed", KEYSTORE_MODELS_MAX,
                         KEYSTORE_MODELS_MAX);
    if (s->expires_s && s->expires_s <= now_s(k))
        return error_set(e, RC_INVALID, "expires: the time has passed already");
    for (int i = 0; i < s->n_models; i++)
        if (!identity_model_ok(s->models[i]))
            return error_set(e, RC_INVALID, "models: \"%.80s\" is no model's name; a '*' may stand at its end",
                             s->models[i]);
    for (int i = 0; i < s->n_networks; i++)
        if (network_parse(s->networks[i], &networks[i], e) != RC_OK)
            return error_prefix(e, "networks");
    return RC_OK;
}

/* Under file_lock: what the file now says of this key goes into memory. */
static enum rc refresh(struct keystore *k, const char *id, struct error *e)
{
    enum rc rc = keyfile_read(k->file, id, NULL, replace_row, k, e);
    return rc == RC_OK ? RC_OK : error_prefix(e, "the change is kept, but not yet in use");
}

enum rc keystore_create(struct keystore *k, const struct key_spec *s, char text[KEYSTORE_TEXT_BYTES],
                        char id[KEYSTORE_ID_BYTES], struct error *e)
{
    struct network networks[KEYSTORE_MODELS_MAX];
    char tail[5];
    struct key_row row = {.info = {.tail = tail, .networks = s->networks, .expires_s = s->expires_s}};

    enum rc rc = check_spec(k, s, networks, e);
    if (rc == RC_OK && s->id)
        snprintf(id, KEYSTORE_ID_BYTES, "%s", s->id);
    else if (rc == RC_OK)
        rc = make_id(id, e);
    if (rc == RC_OK)
        rc = make_text(k, text, &row.hash, tail, e);
    if (rc != RC_OK)
        return rc;
    row.info.id = id;
    row.info.created_s = now_s(k);
    row.info.who = (struct identity){.tenant = s->tenant,
                                     .team = s->team,
                                     .project = s->project,
                                     .user = s->user,
                                     .rate_class = s->rate_class,
                                     .local_only = s->local_only,
                                     .scopes = s->scopes ? s->scopes : AUTH_SCOPE_INFERENCE,
                                     .models = s->models,
                                     .n_models = s->n_models,
                                     .n_networks = s->n_networks};
    pthread_mutex_lock(&k->file_lock);
    if (keystore_count(k) >= KEYSTORE_KEYS_MAX)
        rc = error_set(e, RC_FULL, "there are %d keys, as many as can be", KEYSTORE_KEYS_MAX);
    if (rc == RC_OK)
        rc = keyfile_insert(k->file, &row, e);
    if (rc == RC_OK)
        rc = refresh(k, id, e);
    pthread_mutex_unlock(&k->file_lock);
    if (rc != RC_OK)
        explicit_bzero(text, KEYSTORE_TEXT_BYTES);
    return rc;
}

/* Under file_lock: read the key's row anew, since another process may have changed it, and say what state it is in.
 * RC_NOT_FOUND. */
static enum rc look_up(struct keystore *k, const char *id, bool *revoked, bool *expired, struct error *e)
{
    int64_t now = now_s(k);
    enum rc rc = keyfile_read(k->file, id, NULL, replace_row, k, e);
    if (rc != RC_OK)
        return rc;
    pthread_mutex_lock(&k->lock);
    int i = table_index(&k->table, id);
    if (i >= 0) {
        const struct record *r = k->table.records[i];
        *revoked = r->revoked_s != 0;
        *expired = r->expires_s && now >= r->expires_s;
    }
    pthread_mutex_unlock(&k->lock);
    return i >= 0 ? RC_OK
                  : error_set(e, RC_NOT_FOUND,
                              "no key '%.64s' was made here; one of the configuration is changed there", id);
}

enum rc keystore_rotate(struct keystore *k, const char *id, int64_t grace_s, char text[KEYSTORE_TEXT_BYTES],
                        struct error *e)
{
    struct hash h;
    char tail[5];
    bool revoked = false, expired = false;

    if (grace_s < 0 || grace_s > KEYSTORE_GRACE_MAX_S)
        return error_set(e, RC_INVALID, "grace: 0 to %" PRId64 " seconds (30 days)", KEYSTORE_GRACE_MAX_S);
    enum rc rc = make_text(k, text, &h, tail, e);
    if (rc != RC_OK)
        return rc;
    pthread_mutex_lock(&k->file_lock);
    rc = look_up(k, id, &revoked, &expired, e);
    if (rc == RC_OK && (revoked || expired))
        rc =
            error_set(e, RC_CONFLICT, "key '%.64s' is %s; make a new one instead", id, revoked ? "revoked" : "expired");
    if (rc == RC_OK)
        rc = keyfile_rotate(k->file, id, &h, tail, now_s(k), grace_s ? now_s(k) + grace_s : 0, e);
    if (rc == RC_OK)
        rc = refresh(k, id, e);
    pthread_mutex_unlock(&k->file_lock);
    if (rc != RC_OK)
        explicit_bzero(text, KEYSTORE_TEXT_BYTES);
    return rc;
}

enum rc keystore_revoke(struct keystore *k, const char *id, struct error *e)
{
    bool revoked = false, expired = false;

    pthread_mutex_lock(&k->file_lock);
    enum rc rc = look_up(k, id, &revoked, &expired, e);
    if (rc == RC_OK && !revoked)
        rc = keyfile_revoke(k->file, id, now_s(k), e);
    if (rc == RC_OK && !revoked)
        rc = refresh(k, id, e);
    pthread_mutex_unlock(&k->file_lock);
    return rc;
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

struct listing {
    struct keystore *k;
    keystore_list_cb *cb;
    void *arg;
};

static void list_row(const struct key_row *row, void *arg)
{
    struct listing *l = arg;
    struct key_info info = row->info;
    pthread_mutex_lock(&l->k->lock);
    const struct record *r = hash_table_find(l->k->table.by_hash, &row->hash);
    if (r)
        info.used_s = r->used_s;
    pthread_mutex_unlock(&l->k->lock);
    l->cb(&info, l->arg);
}

enum rc keystore_list(struct keystore *k, const char *tenant, keystore_list_cb *cb, void *arg, struct error *e)
{
    struct listing l = {k, cb, arg};
    pthread_mutex_lock(&k->file_lock);
    enum rc rc = keyfile_read(k->file, NULL, tenant, list_row, &l, e);
    pthread_mutex_unlock(&k->file_lock);
    return rc;
}

enum key_verdict keystore_find(struct keystore *k, const char *text, size_t n, struct identity **who)
{
    struct hash h;
    enum key_verdict v = KEY_UNKNOWN;
    int64_t now = now_s(k);

    *who = NULL;
    if (n != KEYSTORE_TEXT_BYTES - 1 || memcmp(text, KEYSTORE_PREFIX, strlen(KEYSTORE_PREFIX)) != 0 ||
        !hmac(k, text, n, &h))
        return KEY_UNKNOWN;
    pthread_mutex_lock(&k->lock);
    struct record *r = hash_table_find(k->table.by_hash, &h);
    if (r) {
        bool replaced = !hash_equal(&h, &r->hash) && now >= r->old_until_s;
        bool expired = r->expires_s && now >= r->expires_s;
        v = r->revoked_s ? KEY_REVOKED : replaced || expired ? KEY_EXPIRED : KEY_VALID;
    }
    if (v == KEY_VALID) {
        r->used_s = now;
        *who = identity_ref(r->who);
    }
    pthread_mutex_unlock(&k->lock);
    return v;
}

int keystore_count(struct keystore *k)
{
    pthread_mutex_lock(&k->lock);
    int n = k->table.n;
    pthread_mutex_unlock(&k->lock);
    return n;
}

void keystore_salt(const struct keystore *k, const char *tenant, char salt[KEYSTORE_SALT_BYTES])
{
    char text[256];
    struct hash h;
    int n = snprintf(text, sizeof text, "spillway prefix 1 %s", tenant); /* no key's text begins so */
    SPW_ASSERT(n > 0 && (size_t)n < sizeof text);                        /* tenants have 64 characters at most */
    SPW_ASSERT(hmac(k, text, (size_t)n, &h));                            /* it worked when the store was opened */
    text_hex(salt, &h, (KEYSTORE_SALT_BYTES - 1) / 2);
}
