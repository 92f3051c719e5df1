/* Proves the whole question on a real loop, with an issuer (discovery and keys) served by our own HTTP server: what is
 * answered at once and what waits, rotation of keys, made-up key ids that cause no flood of fetches, an issuer that is
 * down, lies or stalls, the cache and its end, cancelling, and the order of configured keys, stored keys and tokens.
 * links: spw_sched_auth */
#include "base/http_server.h"
#include "http_peer.h"
#include "jwt_make.h"
#include "scheduler/auth/auth.h"
#include "scheduler/auth/forgery.h"
#include "test.h"

#define START_S INT64_C(1800000000)

static struct event_base *loop;
static struct fetcher *fetcher;
static struct http_server *server;
static struct clock_manual hands;
static struct clock manual;
static EVP_PKEY *key_a, *key_b;
static char base[64];

/* What the issuer does. */
static struct {
    int discoveries, keys_served, status;
    bool hold; /* answer nothing for now */
    const char *issuer, *keys_path;
    char *keys; /* the set's text */
    struct http_exchange *held;
} idp;

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    char doc[400];
    if (http_request_path_is(x, "/.well-known/openid-configuration")) {
        idp.discoveries++;
        snprintf(doc, sizeof doc, "{\"issuer\":\"%s\",\"jwks_uri\":\"%s%s\"}", idp.issuer, base, idp.keys_path);
        http_reply(x, idp.status, NULL, 0, doc, strlen(doc));
        return;
    }
    idp.keys_served++;
    if (idp.hold)
        idp.held = x;
    else
        http_reply(x, idp.status, NULL, 0, idp.keys, strlen(idp.keys));
}

static void publish(EVP_PKEY *first, const char *kid, EVP_PKEY *second, const char *kid2)
{
    char extra[64], extra2[64];
    snprintf(extra, sizeof extra, "\"kid\":\"%s\"", kid);
    snprintf(extra2, sizeof extra2, "\"kid\":\"%s\"", kid2);
    char *a = make_jwk(first, extra), *b = second ? make_jwk(second, extra2) : NULL;
    free(idp.keys);
    idp.keys = spw_asprintf("{\"keys\":[%s%s%s]}", a, b ? "," : "", b ? b : "");
    free(a);
    free(b);
}

static char *token_of(EVP_PKEY *key, const char *kid, int64_t valid_s, const char *more)
{
    char header[64];
    snprintf(header, sizeof header, "{\"alg\":\"ES256\"%s%s%s}", kid ? ",\"kid\":\"" : "", kid ? kid : "",
             kid ? "\"" : "");
    char *claims =
        spw_asprintf("{\"iss\":\"%s\",\"aud\":\"spillway\",\"sub\":\"u\",\"tenant\":\"acme\",\"exp\":%lld%s}", base,
                     (long long)(hands.wall.ns / NS_PER_S + valid_s), more);
    char *token = make_token(key, "ES256", header, claims);
    free(claims);
    return token;
}

/* The answer to one question. */
static struct {
    int called;
    enum auth_code code;
    int status;
    char tenant[32], key_id[32];
} got;

static void take(struct identity *who, const struct auth_refusal *r)
{
    CHECK(!who != !r);
    got.code = r ? r->code : AUTH_OK;
    got.status = r ? r->status : 200;
    snprintf(got.tenant, sizeof got.tenant, "%s", who ? who->tenant : "");
    snprintf(got.key_id, sizeof got.key_id, "%s", who && who->key_id ? who->key_id : "");
    identity_unref(who);
}

static void on_auth(struct identity *who, const struct auth_refusal *r, void *arg)
{
    (void)arg;
    got.called++;
    take(who, r);
}

static struct auth_wait *last_wait;

static enum rc ask_as(struct auth *a, const struct auth_credential *c)
{
    struct identity *who;
    struct auth_refusal r;
    memset(&got, 0, sizeof got);
    enum rc rc = auth_check(a, c, &who, &r, on_auth, NULL, &last_wait);
    CHECK((rc == RC_AGAIN) == (last_wait != NULL));
    CHECK_INT(got.called, 0);
    if (rc != RC_AGAIN)
        take(who, rc == RC_OK ? NULL : &r);
    return rc;
}

static enum rc ask(struct auth *a, const char *token)
{
    char *header = spw_asprintf("Bearer %s", token);
    struct auth_credential c = {.authorization = header, .peer = "127.0.0.1"};
    enum rc rc = ask_as(a, &c);
    free(header);
    return rc;
}

/* Ask and, if need be, wait. */
static enum auth_code judge(struct auth *a, const char *token)
{
    if (ask(a, token) == RC_AGAIN)
        CHECK(peer_wait(loop, &got.called, 1, 5000));
    return got.code;
}

static const char *const audiences[] = {"spillway"};
static struct oidc_issuer idp_issuer(void)
{
    return (struct oidc_issuer){
        .name = "idp", .issuer = base, .audiences = audiences, .n_audiences = 1, .tenant_claim = "tenant"};
}

static struct auth *open_auth(struct oidc_issuer *i)
{
    struct auth_options o = {.issuers = i, .n_issuers = 1, .loop = loop, .fetcher = fetcher, .clock = &manual};
    struct auth *a = NULL;
    struct error e = {0};
    if (auth_new(&a, &o, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return a;
}

/* A fresh issuer with key_a, and a fresh time. */
static void reset(void)
{
    idp.discoveries = idp.keys_served = 0;
    idp.status = 200;
    idp.hold = false;
    idp.held = NULL;
    idp.issuer = base;
    idp.keys_path = "/keys";
    publish(key_a, "a", NULL, "");
    hands = (struct clock_manual){.mono = {5 * NS_PER_S}, .wall = {START_S * NS_PER_S}};
}

static void step_s(int64_t s)
{
    clock_advance(&hands, s * NS_PER_S);
}

static void first_token_waits_for_keys(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *token = token_of(key_a, "a", 600, "");
    CHECK_INT(ask(a, token), RC_AGAIN);
    CHECK(peer_wait(loop, &got.called, 1, 5000));
    CHECK_INT(got.code, AUTH_OK);
    CHECK_STR(got.tenant, "acme");
    CHECK_STR(got.key_id, "oidc:idp");
    CHECK_INT(ask(a, token), RC_OK);
    CHECK_STR(got.tenant, "acme");
    CHECK_INT(idp.discoveries, 1);
    CHECK_INT(idp.keys_served, 1);
    struct auth_stats s = auth_stats(a);
    CHECK_INT(s.oidc.hits, 1);
    CHECK_INT(s.oidc.verified, 1);
    CHECK_INT(s.oidc.cached, 1);
    CHECK_INT(s.checks, 2);
    free(token);
    auth_free(a);
}

static void cache_ends(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    i.skew_s = -1;
    struct auth *a = open_auth(&i);
    char *longer = token_of(key_a, "a", 600, ""), *shorter = token_of(key_a, "a", 20, "");
    CHECK_INT(judge(a, longer), AUTH_OK);
    CHECK_INT(judge(a, shorter), AUTH_OK);
    step_s(19);
    CHECK_INT(judge(a, shorter), AUTH_OK);
    CHECK_INT(auth_stats(a).oidc.verified, 2);
    step_s(1); /* its own end comes before the cache's */
    CHECK_INT(judge(a, shorter), AUTH_TOKEN_EXPIRED);
    CHECK_INT(got.status, 401);
    step_s(40);
    CHECK_INT(judge(a, longer), AUTH_OK);
    CHECK_INT(auth_stats(a).oidc.verified, 2);
    step_s(1); /* 61 s: verified again */
    CHECK_INT(judge(a, longer), AUTH_OK);
    CHECK_INT(auth_stats(a).oidc.verified, 3);
    free(longer);
    free(shorter);
    auth_free(a);
}

/* A forger's tokens cost a bounded number of signatures, and do not lock out who was let in before. */
static void forged_signatures_are_paid_for(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *good = token_of(key_a, "a", 600, ""), *again = NULL;
    CHECK_INT(judge(a, good), AUTH_OK);
    CHECK_INT(auth_stats(a).oidc.signatures, 1);
    for (int k = 0; k < 3 * FORGERY_BURST; k++) {
        char more[32];
        snprintf(more, sizeof more, ",\"n\":%d", k);
        char *forged = token_of(key_b, "a", 600, more);
        CHECK_INT(judge(a, forged), k < FORGERY_BURST ? AUTH_TOKEN_INVALID : AUTH_TOO_MANY_BAD);
        CHECK_INT(got.status, k < FORGERY_BURST ? 401 : 429);
        if (k == FORGERY_BURST - 1) /* the last that was looked at: none comes after it that could take its place */
            again = forged;
        else
            free(forged);
    }
    CHECK_INT(auth_stats(a).oidc.signatures, 1 + FORGERY_BURST);
    CHECK_INT(judge(a, good), AUTH_OK);
    char *fresh = token_of(key_a, "a", 500, "");
    CHECK_INT(judge(a, fresh), AUTH_TOO_MANY_BAD);
    CHECK_INT(judge(a, again), AUTH_TOKEN_INVALID); /* known to be bad: told without a signature */
    step_s(2);
    CHECK_INT(judge(a, fresh), AUTH_OK);
    CHECK_INT(judge(a, again), AUTH_TOKEN_INVALID);
    CHECK_INT(auth_stats(a).oidc.signatures, 2 + FORGERY_BURST);
    free(good);
    free(fresh);
    free(again);
    auth_free(a);
}

/* An issuer with one key at a time, which its tokens do not name: a bad signature may mean that there is a new one. */
static void a_key_without_name_rotates(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *old = token_of(key_a, NULL, 6000, ""), *fresh = token_of(key_b, NULL, 6000, "");
    CHECK_INT(judge(a, old), AUTH_OK);
    publish(key_b, "b", NULL, "");
    CHECK_INT(judge(a, fresh), AUTH_TOKEN_INVALID); /* the keys were fetched a moment ago */
    step_s(31);
    CHECK_INT(ask(a, fresh), RC_AGAIN);
    CHECK(peer_wait(loop, &got.called, 1, 5000));
    CHECK_INT(got.code, AUTH_OK);
    CHECK_INT(judge(a, old), AUTH_TOKEN_INVALID);
    CHECK_INT(idp.keys_served, 2);
    free(old);
    free(fresh);
    auth_free(a);
}

static void keys_rotate(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *old = token_of(key_a, "a", 6000, ""), *fresh = token_of(key_b, "b", 6000, "");
    CHECK_INT(judge(a, old), AUTH_OK);
    publish(key_a, "a", key_b, "b");
    step_s(31);
    CHECK_INT(ask(a, fresh), RC_AGAIN); /* unknown key id: the set is fetched again */
    CHECK_INT(ask(a, old), RC_OK);      /* and nobody else waits for that */
    memset(&got, 0, sizeof got);
    CHECK(peer_wait(loop, &got.called, 1, 5000));
    CHECK_INT(got.code, AUTH_OK);
    CHECK_INT(idp.keys_served, 2);
    publish(key_b, "b", NULL, ""); /* the old key is withdrawn: what it signed ends with the next refresh */
    step_s(601);
    CHECK_INT(ask(a, old), RC_OK); /* still with the old set, which is being fetched meanwhile */
    int served = idp.keys_served + 1;
    CHECK(peer_wait(loop, &idp.keys_served, served, 5000));
    peer_run_ms(loop, 30);
    CHECK_INT(auth_stats(a).oidc.cached, 0); /* what the withdrawn key vouched for is forgotten */
    CHECK_INT(judge(a, old), AUTH_TOKEN_INVALID);
    CHECK_INT(judge(a, fresh), AUTH_OK);
    free(old);
    free(fresh);
    auth_free(a);
}

static void made_up_key_ids_cause_no_flood(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *token = token_of(key_a, "a", 6000, "");
    CHECK_INT(judge(a, token), AUTH_OK);
    for (int k = 0; k < 200; k++) {
        char kid[16];
        snprintf(kid, sizeof kid, "made-up-%d", k);
        char *fake = token_of(key_b, kid, 6000, "");
        CHECK_INT(ask(a, fake), RC_DENIED); /* the set was read a moment ago */
        CHECK_INT(got.code, AUTH_TOKEN_INVALID);
        free(fake);
    }
    CHECK_INT(idp.keys_served, 1);
    step_s(31);
    for (int k = 0; k < 50; k++) {
        char *fake = token_of(key_b, "zzz", 6000 + k, "");
        CHECK_INT(judge(a, fake), AUTH_TOKEN_INVALID);
        free(fake);
    }
    CHECK_INT(idp.keys_served, 2);
    step_s(31);
    char *old = token_of(key_b, "zzz", -1000, ""); /* refused before its key is looked for */
    CHECK_INT(ask(a, old), RC_DENIED);
    CHECK_INT(got.code, AUTH_TOKEN_EXPIRED);
    free(old);
    old = token_of(key_b, "zzz", 1000, ",\"nbf\":9999999999");
    CHECK_INT(ask(a, old), RC_DENIED);
    free(old);
    CHECK_INT(idp.keys_served, 2);
    free(token);
    auth_free(a);
}

static void issuer_down(void)
{
    reset();
    idp.status = 500;
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *token = token_of(key_a, "a", 600000, "");
    CHECK_INT(judge(a, token), AUTH_UNAVAILABLE);
    CHECK_INT(got.status, 503);
    CHECK_INT(ask(a, token), RC_DENIED); /* within the back-off: at once, no fetch */
    CHECK_INT(got.code, AUTH_UNAVAILABLE);
    CHECK_INT(idp.discoveries, 1);
    idp.status = 200;
    step_s(2);
    CHECK_INT(judge(a, token), AUTH_OK);
    idp.status = 500; /* down again: its keys go on being believed, for a day */
    for (int hours = 1; hours < 24; hours++) {
        step_s(3600);
        CHECK_INT(judge(a, token), AUTH_OK);
        peer_run_ms(loop, 5);
    }
    step_s(3600);
    CHECK_INT(judge(a, token), AUTH_UNAVAILABLE);
    CHECK(auth_stats(a).oidc.fetches_failed > 10);
    free(token);
    auth_free(a);
}

static void issuer_lies(void)
{
    const struct {
        const char *issuer, *keys_path, *keys;
    } lies[] = {
        {"https://other.example", "/keys", NULL}, /* another's document */
        {"", "/keys", NULL},
        {NULL, "/keys\",\"jwks_uri\":\"x", NULL}, /* duplicate names */
        {NULL, " /keys", NULL},
        {NULL, "/keys", "{\"keys\":[]}"},
        {NULL, "/keys", "not json"},
        {NULL, "/keys", "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"a\",\"k\":\"AAAA\"}]}"},
    };
    for (size_t k = 0; k < sizeof lies / sizeof lies[0]; k++) {
        reset();
        if (lies[k].issuer)
            idp.issuer = lies[k].issuer;
        idp.keys_path = lies[k].keys_path;
        if (lies[k].keys) {
            free(idp.keys);
            idp.keys = spw_strdup(lies[k].keys);
        }
        struct oidc_issuer i = idp_issuer();
        struct auth *a = open_auth(&i);
        char *token = token_of(key_a, "a", 600, "");
        CHECK_INT(judge(a, token), AUTH_UNAVAILABLE);
        free(token);
        auth_free(a);
    }
    reset(); /* more than a key set may have */
    free(idp.keys);
    idp.keys = spw_calloc(1, 300001);
    memset(idp.keys, ' ', 300000);
    struct oidc_issuer i = idp_issuer();
    struct auth *a = open_auth(&i);
    char *token = token_of(key_a, "a", 600, "");
    CHECK_INT(judge(a, token), AUTH_UNAVAILABLE);
    free(token);
    auth_free(a);
}

static int many_called, many_ok;
static void on_many(struct identity *who, const struct auth_refusal *r, void *arg)
{
    (void)r;
    (void)arg;
    many_called++;
    many_ok += who != NULL;
    identity_unref(who);
}

static void waiting_is_bounded_and_cancelled(void)
{
    reset();
    idp.hold = true;
    struct oidc_issuer i = idp_issuer();
    i.jwks_url = spw_asprintf("%s/keys", base);
    struct auth *a = open_auth(&i);
    char *token = token_of(key_a, "a", 600, ""), *header = spw_asprintf("Bearer %s", token);
    struct auth_credential c = {.authorization = header};
    struct auth_wait *wait, *cancelled = NULL;
    struct identity *who;
    struct auth_refusal r;
    many_called = many_ok = 0;
    for (int k = 0; k < OIDC_WAITS_MAX; k++) {
        CHECK_INT(auth_check(a, &c, &who, &r, on_many, NULL, &wait), RC_AGAIN);
        if (k == 500)
            cancelled = wait;
    }
    CHECK_INT(auth_check(a, &c, &who, &r, on_many, NULL, &wait), RC_DENIED);
    CHECK_INT(r.code, AUTH_UNAVAILABLE);
    auth_cancel(cancelled);
    CHECK_INT(auth_stats(a).oidc.waiting, OIDC_WAITS_MAX - 1);
    int64_t end = peer_ms() + 5000;
    while (!idp.held && peer_ms() < end)
        peer_pump(loop);
    CHECK(idp.held != NULL);
    CHECK_INT(many_called, 0);
    if (idp.held)
        http_reply(idp.held, 200, NULL, 0, idp.keys, strlen(idp.keys));
    CHECK(peer_wait(loop, &many_called, OIDC_WAITS_MAX - 1, 5000));
    CHECK_INT(many_ok, OIDC_WAITS_MAX - 1);
    CHECK_INT(auth_stats(a).oidc.verified, 1); /* one signature for all of them */
    CHECK_INT(idp.discoveries, 0);
    auth_free(a);
    /* Freed while somebody waits: he is told. */
    reset();
    idp.hold = true;
    a = open_auth(&i);
    CHECK_INT(ask(a, token), RC_AGAIN);
    auth_free(a);
    CHECK_INT(got.called, 1);
    CHECK_INT(got.code, AUTH_UNAVAILABLE);
    free(token);
    free(header);
    free((char *)(uintptr_t)i.jwks_url);
}

static void other_issuers_are_nobody(void)
{
    reset();
    struct oidc_issuer i = idp_issuer();
    static const char *const algs_only[] = {"spillway"};
    i.audiences = algs_only;
    i.algs = 1u << JWT_RS256;
    struct auth *a = open_auth(&i);
    char *token = token_of(key_a, "a", 600, "");
    CHECK_INT(judge(a, token), AUTH_TOKEN_INVALID); /* ES256 is not configured */
    free(token);
    const char *issuers[] = {"\"iss\":\"%s/\",", "\"iss\":\"https://evil.example\",\"x\":\"%s\",", "\"x\":\"%s\",",
                             "\"iss\":[\"%s\"],"};
    for (int k = 0; k < 4; k++) {
        struct strbuf claims;
        strbuf_init(&claims, 1000);
        const char *mark = strstr(issuers[k], "%s");
        CHECK(strbuf_puts(&claims, "{") == RC_OK &&
              strbuf_append(&claims, issuers[k], (size_t)(mark - issuers[k])) == RC_OK &&
              strbuf_puts(&claims, base) == RC_OK && strbuf_puts(&claims, mark + 2) == RC_OK &&
              strbuf_puts(&claims, "\"aud\":\"spillway\",\"sub\":\"u\",\"tenant\":\"acme\",\"exp\":1800000600}") ==
                  RC_OK);
        token = make_token(key_a, "ES256", "{\"alg\":\"ES256\",\"kid\":\"a\"}", claims.data);
        CHECK_INT(ask(a, token), RC_DENIED);
        CHECK_INT(got.code, AUTH_TOKEN_INVALID);
        free(token);
        strbuf_fini(&claims);
    }
    auth_free(a);
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static void sha256_hex(const char *text, char hex[65])
{
    unsigned char h[32];
    EVP_Digest(text, strlen(text), h, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", h[i]);
}

static struct keystore *open_store(char *folder)
{
    struct keystore *k = NULL;
    struct error e;
    if (!mkdtemp(folder))
        abort();
    char *db = spw_asprintf("%s/keys.db", folder), *secret = spw_asprintf("%s/keys.secret", folder);
    CHECK_INT(keystore_open(&k, db, secret, &manual, &e), RC_OK);
    free(db);
    free(secret);
    return k;
}

static void remove_store(const char *folder)
{
    const char *names[] = {"keys.db", "keys.db-wal", "keys.db-shm", "keys.secret"};
    for (int i = 0; i < 4; i++) {
        char *path = spw_asprintf("%s/%s", folder, names[i]);
        unlink(path);
        free(path);
    }
    rmdir(folder);
}

static void keys_of_all_kinds(void)
{
    reset();
    char folder[] = "/tmp/spw_auth_XXXXXX", hex[2][65], text[KEYSTORE_TEXT_BYTES], id[KEYSTORE_ID_BYTES];
    struct error e;
    struct keystore *store = open_store(folder);
    struct network net;
    CHECK_INT(network_parse("10.0.0.0/8", &net, &e), RC_OK);
    sha256_hex("configured.key.one", hex[0]); /* any form, even that of a token */
    sha256_hex("another", hex[1]);
    struct auth_key keys[] = {
        {.sha256 = hex[0], .who = {.tenant = "t1", .key_id = "k1", .scopes = AUTH_SCOPE_INFERENCE}},
        {.sha256 = hex[1],
         .expires_s = START_S + 10,
         .who = {.tenant = "t2", .key_id = "k2", .scopes = AUTH_SCOPE_ADMIN, .networks = &net, .n_networks = 1}},
    };
    struct oidc_issuer i = idp_issuer();
    struct auth_options o = {.keys = keys,
                             .n_keys = 2,
                             .keystore = store,
                             .issuers = &i,
                             .n_issuers = 1,
                             .loop = loop,
                             .fetcher = fetcher,
                             .clock = &manual};
    struct auth *a = NULL;
    CHECK_INT(auth_new(&a, &o, &e), RC_OK);
    struct key_spec s = {.tenant = "t3"};
    CHECK_INT(keystore_create(store, &s, text, id, &e), RC_OK);

    CHECK_INT(ask(a, "configured.key.one"), RC_OK);
    CHECK_STR(got.key_id, "k1");
    CHECK_INT(ask(a, text), RC_OK);
    CHECK_STR(got.tenant, "t3");
    CHECK_INT(ask(a, "another"), RC_DENIED);
    CHECK_INT(got.code, AUTH_NETWORK);
    CHECK_INT(got.status, 403);
    struct auth_credential from = {.api_key = "another", .peer = "10.1.2.3"};
    CHECK_INT(ask_as(a, &from), RC_OK);
    CHECK_STR(got.key_id, "k2");
    from.authorization = "Bearer nonsense"; /* Authorization decides where both are given */
    CHECK_INT(ask_as(a, &from), RC_DENIED);
    CHECK_INT(got.code, AUTH_KEY_UNKNOWN);
    step_s(10);
    from.authorization = NULL;
    CHECK_INT(ask_as(a, &from), RC_DENIED);
    CHECK_INT(got.code, AUTH_KEY_EXPIRED);
    CHECK_INT(keystore_revoke(store, id, &e), RC_OK);
    CHECK_INT(ask(a, text), RC_DENIED);
    CHECK_INT(got.code, AUTH_KEY_REVOKED);
    CHECK_INT(ask(a, hex[0]), RC_DENIED); /* the hash itself opens nothing */
    char *token = token_of(key_a, "a", 600, "");
    CHECK_INT(judge(a, token), AUTH_OK);
    CHECK_STR(got.key_id, "oidc:idp");
    free(token);
    auth_free(a);
    keystore_close(store);
    remove_store(folder);
}

static void malformed_credentials(void)
{
    struct auth_options o = {.clock = &manual};
    struct auth *a = NULL;
    struct error e;
    CHECK_INT(auth_new(&a, &o, &e), RC_OK);
    const struct {
        const char *authorization, *api_key;
        enum auth_code code;
    } cases[] = {
        {NULL, NULL, AUTH_MISSING},
        {"", NULL, AUTH_MALFORMED},
        {"Bearer", NULL, AUTH_MALFORMED},
        {"Bearer ", NULL, AUTH_MALFORMED},
        {"Basic dTpw", NULL, AUTH_MALFORMED},
        {"Bearer a b", NULL, AUTH_MALFORMED},
        {"Bearer a, Bearer b", NULL, AUTH_MALFORMED},
        {"Bearer sk-spw-none", NULL, AUTH_KEY_UNKNOWN},
        {"bearer   x", NULL, AUTH_KEY_UNKNOWN},
        {NULL, "", AUTH_MALFORMED},
        {NULL, "x", AUTH_KEY_UNKNOWN},
        {"Bearer eyJhbGciOiJub25lIn0.e30.", NULL, AUTH_KEY_UNKNOWN}, /* no issuers: not even taken apart */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct auth_credential c = {.authorization = cases[i].authorization, .api_key = cases[i].api_key};
        CHECK_INT(ask_as(a, &c), RC_DENIED);
        CHECK_INT(got.code, cases[i].code);
        CHECK_INT(got.status, 401);
    }
    CHECK_INT(auth_stats(a).refused[AUTH_MISSING], 1);
    auth_free(a);
}

static void off_and_wrong_options(void)
{
    struct auth_options o = {.off = true, .clock = &manual};
    struct auth *a = NULL;
    struct error e;
    struct auth_refusal r;
    CHECK_INT(auth_new(&a, &o, &e), RC_OK);
    CHECK_INT(ask_as(a, &(struct auth_credential){0}), RC_OK);
    CHECK_STR(got.tenant, "default");
    auth_free(a);
    char hex[65];
    sha256_hex("x", hex);
    struct auth_key keys[] = {{.sha256 = hex, .who = {.tenant = "t"}}, {.sha256 = hex, .who = {.tenant = "u"}}};
    o = (struct auth_options){.keys = keys, .n_keys = 2, .clock = &manual};
    CHECK_INT(auth_new(&a, &o, &e), RC_INVALID);
    keys[1].sha256 = "abc";
    CHECK_INT(auth_new(&a, &o, &e), RC_INVALID);
    keys[1].sha256 = NULL;
    CHECK_INT(auth_new(&a, &o, &e), RC_INVALID);
    struct oidc_issuer twice[] = {idp_issuer(), idp_issuer()};
    o = (struct auth_options){.issuers = twice, .n_issuers = 2, .loop = loop, .fetcher = fetcher, .clock = &manual};
    CHECK_INT(auth_new(&a, &o, &e), RC_INVALID);
    CHECK(a == NULL);
    struct identity who = {.tenant = "t", .scopes = AUTH_SCOPE_INFERENCE};
    CHECK_INT(auth_require(&who, AUTH_SCOPE_INFERENCE, &r), RC_OK);
    CHECK_INT(auth_require(&who, AUTH_SCOPE_ADMIN, &r), RC_DENIED);
    CHECK_INT(r.status, 403);
    CHECK(strstr(r.www_authenticate, "insufficient_scope") != NULL);
}

int main(void)
{
    static const struct http_server_handlers h = {.on_request = on_request};
    struct error e;
    loop = event_base_new();
    manual = clock_manual(&hands);
    key_a = make_ec("P-256");
    key_b = make_ec("P-256");
    if (http_server_new(&server, loop, "127.0.0.1:0", NULL, &h, NULL, &e) != RC_OK ||
        fetcher_new(&fetcher, loop, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    snprintf(base, sizeof base, "http://127.0.0.1:%d", http_server_port(server));
    TEST(first_token_waits_for_keys);
    TEST(cache_ends);
    TEST(forged_signatures_are_paid_for);
    TEST(keys_rotate);
    TEST(a_key_without_name_rotates);
    TEST(made_up_key_ids_cause_no_flood);
    TEST(issuer_down);
    TEST(issuer_lies);
    TEST(waiting_is_bounded_and_cancelled);
    TEST(other_issuers_are_nobody);
    TEST(keys_of_all_kinds);
    TEST(malformed_credentials);
    TEST(off_and_wrong_options);
    fetcher_free(fetcher);
    http_server_free(server);
    event_base_free(loop);
    EVP_PKEY_free(key_a);
    EVP_PKEY_free(key_b);
    free(idp.keys);
    return TEST_RESULT();
}
