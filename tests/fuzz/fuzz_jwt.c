/* Fuzzes all that reads signed tokens. First byte: how the rest is taken: a token; header and claims (split at a line
 * break) that are signed with a real key; a key set; claims; a network. Nothing unsigned may verify; what is signed
 * must, once it parses and names the key; identities hold only names that are allowed.
 * links: spw_sched_auth */
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "scheduler/auth/claims.h"
#include "scheduler/auth/jwks.h"
#include "tests/unit/jwt_make.h"

static EVP_PKEY *key;
static struct jwks *set;

static void init(void)
{
    struct error e;
    key = make_ec("P-256");
    char *jwk = make_jwk(key, "\"kid\":\"k\""), *text = spw_asprintf("{\"keys\":[%s]}", jwk);
    SPW_ASSERT(jwks_parse(&set, text, strlen(text), &e) == RC_OK);
    free(text);
    free(jwk);
}

static enum rc verify(const char *token, size_t n, bool *named)
{
    struct jwt t;
    struct auth_refusal r;
    const struct jwk *k;
    *named = false;
    enum rc rc = jwt_parse(&t, token, n, &r);
    if (rc == RC_OK) {
        SPW_ASSERT(cJSON_IsObject(t.claims) && t.signature_len <= JWT_SIGNATURE_BYTES_MAX);
        rc = jwks_find(set, &t, &k, &r);
        *named = rc == RC_OK;
        if (rc == RC_OK)
            rc = jwt_verify(&t, k, &r);
        jwt_fini(&t);
    }
    if (rc != RC_OK) {
        SPW_ASSERT(rc == RC_DENIED || rc == RC_NOT_FOUND);
        SPW_ASSERT(!strpbrk(r.www_authenticate, "\r\n") && *r.message);
    }
    return rc;
}

static void fuzz_signed(const char *text, size_t n)
{
    const char *split = memchr(text, '\n', n);
    bool named;
    if (!split)
        return;
    char *header = spw_strndup(text, (size_t)(split - text));
    char *claims = spw_strndup(split + 1, n - (size_t)(split - text) - 1);
    char *token = make_token(key, "ES256", header, claims);
    enum rc rc = verify(token, strlen(token), &named);
    if (named && rc != RC_OK) { /* then the library's JSON reader is stricter than ours (01, 1.) */
        json_t *strict = json_loads(header, 0, NULL);
        SPW_ASSERT(!strict);
    }
    free(token);
    free(header);
    free(claims);
}

static void fuzz_claims(const char *text, size_t n)
{
    static const char *const audiences[] = {"a"};
    static const struct oidc_issuer i = {.name = "i",
                                         .issuer = "https://i",
                                         .audiences = audiences,
                                         .n_audiences = 1,
                                         .tenant_claim = "t.u",
                                         .team_claim = "team",
                                         .models_claim = "models"};
    struct identity *who;
    struct auth_refusal r;
    struct error e;
    cJSON *claims;
    int64_t until_s = 0;
    if (json_parse(text, n, 8, &claims, &e) != RC_OK)
        return;
    if (claims_check(claims, &i, 1000, &who, &until_s, &r) == RC_OK) {
        SPW_ASSERT(identity_name_ok(who->tenant) && identity_user_ok(who->user) && who->n_models > 0 && who->scopes);
        SPW_ASSERT(until_s >= 1000 && (!who->team || identity_name_ok(who->team)));
        identity_unref(who);
    }
    cJSON_Delete(claims);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jwks *s;
    struct network net;
    struct error e;
    bool named;
    if (!key)
        init();
    if (size < 1 || size > 16384)
        return 0;
    const char *text = (const char *)data + 1;
    size_t n = size - 1;
    switch (data[0] % 5) {
    case 0: SPW_ASSERT(verify(text, n, &named) != RC_OK); break;
    case 1: fuzz_signed(text, n); break;
    case 2:
        if (jwks_parse(&s, text, n, &e) == RC_OK)
            SPW_ASSERT(s->n > 0 && s->n <= JWKS_KEYS_MAX);
        jwks_free(s);
        break;
    case 3: fuzz_claims(text, n); break;
    default: {
        char *copy = spw_strndup(text, n);
        if (network_parse(copy, &net, &e) == RC_OK)
            SPW_ASSERT(net.bits <= 128);
        (void)network_allows(&net, 0, copy);
        free(copy);
    }
    }
    return 0;
}
