/* API keys that Spillway made itself: created, rotated, revoked and listed at run time (keys in the configuration are
 * auth.c's).
 *
 * A key is "sk-spw-" and 43 characters of base64url: 32 random bytes. It is shown once. What is kept is its
 * HMAC-SHA-256 under an instance secret: a file of 32 random bytes beside the database (mode 0600), made at the first
 * start. So neither a copy of the database nor a write to it makes a key that works, without the secret.
 *
 * The store is a SQLite file (mode 0600). SQLite, not lines of JSON: the ledger links it already; a change is durable
 * and whole or absent after a power cut; ids and hashes are unique by constraint; and the command line can work on the
 * file while a daemon has it open. Reading never goes there: all keys are in memory, found by hash in constant time.
 *
 *     valid --revoke--> revoked          (for good: the row stays, so that an id never means another key)
 *       | rotate: a new text under the same id; the old text stays valid for a grace time
 *       v
 *     valid, with an old text until old_until_s
 *
 * Threads: keystore_find() may be called by any, takes a short lock and does no I/O. Everything else blocks on the
 * file: command line, start, or a worker thread (base/worker.h), never the loop. Errors hold no keys. */
#ifndef SCHEDULER_AUTH_KEYSTORE_H
#define SCHEDULER_AUTH_KEYSTORE_H

#include "base/clock.h"
#include "scheduler/auth/identity.h"

#define KEYSTORE_TEXT_BYTES  51 /* "sk-spw-", 43 characters, NUL */
#define KEYSTORE_ID_BYTES    65
#define KEYSTORE_KEYS_MAX    200000
#define KEYSTORE_MODELS_MAX  64 /* of one key; networks too */
#define KEYSTORE_GRACE_MAX_S (INT64_C(30) * 24 * 3600)
#define KEYSTORE_PREFIX      "sk-spw-"

struct keystore;
/* Opens, or makes, the database `path` and `secret_path`. RC_INVALID: a secret that others can read, or that is not the
 * one the database was made with (each key would be unknown): the text says what to do. */
enum rc keystore_open(struct keystore **k, const char *path, const char *secret_path, const struct clock *clock,
                      struct error *e) SPW_MUST_USE;
void keystore_close(struct keystore *k); /* NULL is fine */
/* Read the file again: another process may have changed it. Keeps what it has on failure. */
enum rc keystore_reload(struct keystore *k, struct error *e) SPW_MUST_USE;

struct key_spec {
    const char *id; /* NULL: made up */
    const char *tenant, *team, *project, *user, *rate_class;
    unsigned scopes; /* 0: inference */
    bool local_only;
    const char *const *models, *const *networks;
    int n_models, n_networks;
    int64_t expires_s; /* Unix seconds; 0: never */
};
/* Checks all of it, makes the key, keeps its hash. text: shown once, then explicit_bzero() it. RC_INVALID names the
 * field; RC_CONFLICT: the id was used before; RC_FULL. */
enum rc keystore_create(struct keystore *k, const struct key_spec *s, char text[KEYSTORE_TEXT_BYTES],
                        char id[KEYSTORE_ID_BYTES], struct error *e) SPW_MUST_USE;
/* A new text for the same id; the old one works for another grace_s (0: not any more). A text that was replaced earlier
 * ends at once. RC_NOT_FOUND; RC_CONFLICT: revoked or expired. */
enum rc keystore_rotate(struct keystore *k, const char *id, int64_t grace_s, char text[KEYSTORE_TEXT_BYTES],
                        struct error *e) SPW_MUST_USE;
/* At once and for good; what runs goes on. Revoking twice is RC_OK. RC_NOT_FOUND. */
enum rc keystore_revoke(struct keystore *k, const char *id, struct error *e) SPW_MUST_USE;

struct key_info { /* all borrowed for the callback; no hash, no text */
    const char *id;
    const char *tail; /* last 4 characters of the text, for people to tell keys apart */
    struct identity who;
    const char *const *networks;                                     /* as given; who.networks are the same, parsed */
    int64_t created_s, expires_s, rotated_s, old_until_s, revoked_s; /* 0: never */
    int64_t used_s; /* last found valid by this process; 0: not since it started */
};
typedef void keystore_list_cb(const struct key_info *i, void *arg);
/* Every key, revoked ones too, by id. tenant: NULL for all. cb may not call the store. */
enum rc keystore_list(struct keystore *k, const char *tenant, keystore_list_cb *cb, void *arg,
                      struct error *e) SPW_MUST_USE;

enum key_verdict { KEY_VALID, KEY_UNKNOWN, KEY_EXPIRED, KEY_REVOKED };
/* KEY_VALID: *who is a reference, the caller's. Networks are the caller's to check. */
enum key_verdict keystore_find(struct keystore *k, const char *text, size_t n, struct identity **who) SPW_MUST_USE;
int keystore_count(struct keystore *k);

/* What keeps this tenant's prefixes apart from others' in the engines' caches: 128 bits in hex that nobody can compute
 * without the instance secret, the same over restarts. Any thread. */
#define KEYSTORE_SALT_BYTES 33
void keystore_salt(const struct keystore *k, const char *tenant, char salt[KEYSTORE_SALT_BYTES]);

#endif
