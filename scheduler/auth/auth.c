#include "scheduler/auth/auth.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "scheduler/auth/hash_table.h"

struct known_key {        /* of the configuration */
    struct identity *who; /* owned reference */
    int64_t expires_s;
};
struct auth {
    struct identity *everybody; /* auth off; else NULL */
    struct known_key *keys;
    int n_keys;
    struct hash_table *by_hash; /* of keys */
    struct keystore *keystore;
    struct oidc *oidc; /* NULL: no issuers */
    const struct clock *clock;
    EVP_MD *sha256;
    EVP_MD_CTX *digest;
    struct auth_stats stats;
};

/* ---- the configuration's keys ----------------------------------------------------------------------------------- */

static bool from_hex(const char *hex, struct hash *h)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char *bytes = (unsigned char *)h->w;

    if (!hex || strlen(hex) != (size_t)2 * HASH_BYTES)
        return false;
    for (size_t i = 0; i < HASH_BYTES; i++) {
        const char *high = strchr(digits, hex[2 * i]), *low = strchr(digits, hex[2 * i + 1]);
        if (!high || !low)
            return false;
        bytes[i] = (unsigned char)((high - digits) << 4 | (low - digits));
    }
    return true;
}

static enum rc take_keys(struct auth *a, const struct auth_options *o, struct error *e)
{
    struct hash h;
    a->keys = spw_calloc((size_t)o->n_keys + 1, sizeof *a->keys);
    enum rc rc = hash_table_new(&a->by_hash, e);
    for (int i = 0; i < o->n_keys && rc == RC_OK; i++) {
        const struct auth_key *k = &o->keys[i];
        const char *id = k->who.key_id ? k->who.key_id : "?";
        if (!k->who.tenant)
            rc = error_set(e, RC_INVALID, "key '%.64s' has no tenant: who pays", id);
        else if (!from_hex(k->sha256, &h))
            rc = error_set(e, RC_INVALID, "key '%.64s': its hash is not 64 lower-case hex digits", id);
        else if (hash_table_find(a->by_hash, &h))
            rc = error_set(e, RC_INVALID, "key '%.64s' is there twice, under two ids", id);
        if (rc != RC_OK)
            break;
        a->keys[i] = (struct known_key){identity_new(&k->who), k->expires_s};
        a->n_keys = i + 1;
        hash_table_put(a->by_hash, &h, &a->keys[i]);
    }
    return rc;
}

static enum rc check_known_key(struct auth *a, const char *text, size_t n, struct identity **who,
                               struct auth_refusal *r)
{
    struct hash h;
    if (n == 0 || n > AUTH_KEY_BYTES_MAX || EVP_DigestInit_ex2(a->digest, a->sha256, NULL) != 1 ||
        EVP_DigestUpdate(a->digest, text, n) != 1 || EVP_DigestFinal_ex(a->digest, (unsigned char *)h.w, NULL) != 1)
        return RC_NOT_FOUND;
    const struct known_key *k = hash_table_find(a->by_hash, &h);
    if (!k)
        return RC_NOT_FOUND;
    if (k->expires_s && clock_wall(a->clock).ns / NS_PER_S >= k->expires_s)
        return auth_refuse(r, AUTH_KEY_EXPIRED, "the API key has expired");
    *who = identity_ref(k->who);
    return RC_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

enum rc auth_new(struct auth **out, const struct auth_options *o, struct error *e)
{
    struct auth *a = spw_calloc(1, sizeof *a);
    enum rc rc = RC_OK;

    *out = NULL;
    a->clock = o->clock;
    a->keystore = o->keystore;
    if (o->off)
        a->everybody = identity_new(&(struct identity){.tenant = "default", .scopes = AUTH_SCOPE_INFERENCE});
    a->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    a->digest = EVP_MD_CTX_new();
    if (!a->sha256 || !a->digest)
        rc = error_set(e, RC_INTERNAL, "OpenSSL offers no SHA-256");
    if (rc == RC_OK)
        rc = take_keys(a, o, e);
    if (rc == RC_OK && o->n_issuers > 0 && !o->off)
        rc = oidc_new(&a->oidc, o->issuers, o->n_issuers, o->loop, o->fetcher, o->clock, o->log, e);
    if (rc != RC_OK) {
        auth_free(a);
        return rc;
    }
    *out = a;
    return RC_OK;
}

void auth_free(struct auth *a)
{
    if (!a)
        return;
    oidc_free(a->oidc);
    for (int i = 0; i < a->n_keys; i++)
        identity_unref(a->keys[i].who);
    free(a->keys);
    hash_table_free(a->by_hash);
    identity_unref(a->everybody);
    EVP_MD_CTX_free(a->digest);
    EVP_MD_free(a->sha256);
    free(a);
}

/* ---- the question ----------------------------------------------------------------------------------------------- */

/* Text and length of the credential; RC_DENIED: none, or in no form we know. */
static enum rc find_credential(const struct auth_credential *c, const char **text, size_t *n, struct auth_refusal *r)
{
    if (c->authorization) {
        if (strncasecmp(c->authorization, "bearer ", 7) != 0)
            return auth_refuse(r, AUTH_MALFORMED, "the Authorization header has another form than: Bearer KEY");
        *text = c->authorization + 7 + strspn(c->authorization + 7, " ");
    } else if (c->api_key) {
        *text = c->api_key;
    } else {
        return auth_refuse(r, AUTH_MISSING, "no API key; send it as Authorization: Bearer KEY");
    }
    *n = strlen(*text);
    if (*n == 0 || strcspn(*text, " \t,") != *n)
        return auth_refuse(r, AUTH_MALFORMED, "the credential is empty or has blanks or commas in it");
    return RC_OK;
}

static enum rc check_store(struct auth *a, const char *text, size_t n, struct identity **who, struct auth_refusal *r)
{
    switch (a->keystore ? keystore_find(a->keystore, text, n, who) : KEY_UNKNOWN) {
    case KEY_VALID: return RC_OK;
    case KEY_EXPIRED: return auth_refuse(r, AUTH_KEY_EXPIRED, "the API key has expired");
    case KEY_REVOKED: return auth_refuse(r, AUTH_KEY_REVOKED, "the API key was revoked");
    case KEY_UNKNOWN: break;
    }
    return RC_NOT_FOUND;
}

/* Two dots: what a signed token has and our keys do not. */
static bool looks_signed(const char *text)
{
    const char *dot = strchr(text, '.');
    return dot && strchr(dot + 1, '.');
}

static enum rc check_credential(struct auth *a, const struct auth_credential *c, struct identity **who,
                                struct auth_refusal *r, auth_cb *cb, void *arg, struct auth_wait **wait)
{
    const char *text = "";
    size_t n = 0;
    enum rc rc = find_credential(c, &text, &n, r);
    if (rc != RC_OK)
        return rc;
    rc = check_known_key(a, text, n, who, r);
    if (rc == RC_NOT_FOUND)
        rc = check_store(a, text, n, who, r);
    if (rc == RC_NOT_FOUND && a->oidc && looks_signed(text))
        return oidc_check(a->oidc, &(struct oidc_question){text, n, c->peer}, who, r, cb, arg, wait);
    if (rc == RC_NOT_FOUND)
        return auth_refuse(r, AUTH_KEY_UNKNOWN, "the API key is not known here");
    if (rc == RC_OK && !network_allows((*who)->networks, (*who)->n_networks, c->peer)) {
        identity_unref(*who);
        *who = NULL;
        return auth_refuse(r, AUTH_NETWORK, "the API key may not be used from this address");
    }
    return rc;
}

enum rc auth_check(struct auth *a, const struct auth_credential *c, struct identity **who, struct auth_refusal *r,
                   auth_cb *cb, void *arg, struct auth_wait **wait)
{
    *who = NULL;
    *wait = NULL;
    a->stats.checks++;
    if (a->everybody) {
        *who = identity_ref(a->everybody);
        return RC_OK;
    }
    enum rc rc = check_credential(a, c, who, r, cb, arg, wait);
    if (rc == RC_DENIED)
        a->stats.refused[r->code]++;
    return rc;
}

void auth_cancel(struct auth_wait *wait)
{
    oidc_cancel(wait);
}

enum rc auth_require(const struct identity *who, enum auth_scope scope, struct auth_refusal *r)
{
    char word[64];
    if (who->scopes & scope)
        return RC_OK;
    return auth_refuse(r, AUTH_SCOPE, "this needs the scope %s", auth_scopes_format(scope, word, sizeof word));
}

void auth_salt(const struct auth *a, const char *tenant, char salt[KEYSTORE_SALT_BYTES])
{
    salt[0] = '\0';
    if (a->keystore)
        keystore_salt(a->keystore, tenant, salt);
}

struct auth_stats auth_stats(const struct auth *a)
{
    struct auth_stats s = a->stats;
    if (a->oidc)
        s.oidc = oidc_stats(a->oidc);
    return s;
}
