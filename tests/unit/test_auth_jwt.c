/* Proves that tokens of every accepted algorithm are verified and that forged, malformed, mistaken and misused ones are
 * refused, each for its own reason; that key sets keep only keys that are fit; and what claims mean.
 * links: spw_sched_auth */
#include "tests/unit/test.h"

#include <openssl/pem.h>
#include <stdlib.h>

#include "scheduler/auth/claims.h"
#include "scheduler/auth/jwks.h"
#include "tests/unit/jwt_make.h"

#define NOW 1800000000

static EVP_PKEY *rsa, *rsa_other, *p256, *p384, *p521, *ed;
static struct jwks *set;
static const char *const audiences[] = {"spillway", "https://api.acme.example"};
static const struct oidc_issuer issuer = {
    .name = "idp", .issuer = "https://idp.example", .audiences = audiences, .n_audiences = 2, .tenant_claim = "tenant"};
#define CLAIMS "\"iss\":\"https://idp.example\",\"aud\":\"spillway\",\"sub\":\"u1\",\"tenant\":\"acme\""
static const char good_claims[] = "{" CLAIMS ",\"exp\":1800000600}";

/* As oidc.c does it, without the network. */
static enum rc judge_with(const struct jwks *keys, const struct oidc_issuer *i, const char *token, size_t n,
                          struct identity **who, struct auth_refusal *r)
{
    struct jwt t;
    const struct jwk *key;
    int64_t until_s;
    *who = NULL;
    enum rc rc = jwt_parse(&t, token, n, r);
    if (rc != RC_OK)
        return rc;
    rc = jwks_find(keys, &t, &key, r);
    if (rc == RC_OK)
        rc = jwt_verify(&t, key, r);
    if (rc == RC_OK)
        rc = claims_check(t.claims, i, NOW, who, &until_s, r);
    jwt_fini(&t);
    return rc;
}

static enum rc judge(const char *token, struct auth_refusal *r)
{
    struct identity *who;
    memset(r, 0, sizeof *r);
    enum rc rc = judge_with(set, &issuer, token, strlen(token), &who, r);
    CHECK((rc == RC_OK) == (who != NULL));
    identity_unref(who);
    return rc;
}

/* The token (freed here) is refused with a text that has `why` in it. */
static void refused_at(int line, char *token, const char *why)
{
    struct auth_refusal r;
    enum rc rc = judge(token, &r);
    if (rc == RC_OK || !strstr(r.message, why)) {
        fprintf(stderr, "line %d: %s, \"%s\" instead of \"%s\"\n", line, rc == RC_OK ? "taken" : "refused", r.message,
                why);
        CHECK(!"refused as expected");
    }
    CHECK(rc == RC_OK || r.status == 401 || r.status == 403);
    CHECK(rc == RC_OK || strncmp(r.www_authenticate, "Bearer realm=\"spillway\", error=\"in", 34) == 0);
    free(token);
}
#define REFUSED(token, why) refused_at(__LINE__, token, why)

static void accepted_at(int line, char *token)
{
    struct auth_refusal r;
    if (judge(token, &r) != RC_OK) {
        fprintf(stderr, "line %d: %s\n", line, r.message);
        CHECK(!"taken");
    }
    free(token);
}
#define ACCEPTED(token) accepted_at(__LINE__, token)

static char *rs256(const char *header, const char *claims)
{
    return make_token(rsa, "RS256", header, claims);
}
static char *with_header(const char *header)
{
    return rs256(header, good_claims);
}
static char *with_claims(const char *claims)
{
    return rs256("{\"alg\":\"RS256\",\"kid\":\"rsa\"}", claims);
}
static char *good(void)
{
    return with_claims(good_claims);
}

static void make_keys(void)
{
    struct error e;
    rsa = make_rsa(2048);
    rsa_other = make_rsa(2048);
    p256 = make_ec("P-256");
    p384 = make_ec("P-384");
    p521 = make_ec("P-521");
    ed = make_ed25519();
    char *keys[] = {make_jwk(rsa, "\"kid\":\"rsa\""),
                    make_jwk(p256, "\"kid\":\"p256\",\"use\":\"sig\""),
                    make_jwk(p384, "\"kid\":\"p384\""),
                    make_jwk(p521, "\"kid\":\"p521\""),
                    make_jwk(ed, "\"kid\":\"ed\",\"alg\":\"EdDSA\""),
                    make_jwk(rsa_other, "\"kid\":\"ps-only\",\"alg\":\"PS256\"")};
    char *text = spw_asprintf("{\"keys\":[%s,%s,%s,%s,%s,%s]}", keys[0], keys[1], keys[2], keys[3], keys[4], keys[5]);
    if (jwks_parse(&set, text, strlen(text), &e) != RC_OK || set->n != 6) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    free(text);
    for (int i = 0; i < 6; i++)
        free(keys[i]);
}

static void every_algorithm(void)
{
    const struct {
        const char *alg, *kid;
        EVP_PKEY *key;
    } cases[] = {{"RS256", "rsa", rsa},   {"RS384", "rsa", rsa},          {"RS512", "rsa", rsa},
                 {"PS256", "rsa", rsa},   {"PS384", "rsa", rsa},          {"PS512", "rsa", rsa},
                 {"ES256", "p256", p256}, {"ES384", "p384", p384},        {"ES512", "p521", p521},
                 {"EdDSA", "ed", ed},     {"PS256", "ps-only", rsa_other}};
    char header[128];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\",\"typ\":\"JWT\"}", cases[i].alg, cases[i].kid);
        ACCEPTED(make_token(cases[i].key, cases[i].alg, header, good_claims));
        char *token = make_token(cases[i].key, cases[i].alg, header, good_claims);
        char *signature = strrchr(token, '.') + 1;
        signature[10] = signature[10] == 'A' ? 'B' : 'A';
        REFUSED(token, "signature");
        token = make_token(cases[i].key, cases[i].alg, header, good_claims); /* the same signature, other claims */
        char *other = make_signing_input(header, "{" CLAIMS ",\"exp\":1800009999}");
        char *forged = spw_asprintf("%s%s", other, strrchr(token, '.'));
        free(token);
        free(other);
        REFUSED(forged, "signature");
    }
}

static void no_algorithm_none(void)
{
    const char *names[] = {"none", "None", "NONE", "nOnE", ""};
    char header[64];
    for (int i = 0; i < 5; i++) {
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"rsa\"}", names[i]);
        char *input = make_signing_input(header, good_claims);
        REFUSED(spw_asprintf("%s.", input), "empty");
        REFUSED(spw_asprintf("%s.AAAA", input), "algorithm");
        REFUSED(spw_strdup(input), "three parts");
        free(input);
    }
    REFUSED(with_header("{\"kid\":\"rsa\"}"), "algorithm");
    REFUSED(with_header("{\"alg\":null,\"kid\":\"rsa\"}"), "algorithm");
    REFUSED(with_header("{\"alg\":[\"RS256\"],\"kid\":\"rsa\"}"), "algorithm");
    REFUSED(with_header("{\"alg\":\"rs256\",\"kid\":\"rsa\"}"), "algorithm");
    REFUSED(with_header("{\"alg\":\"RS256 \",\"kid\":\"rsa\"}"), "algorithm");
    REFUSED(with_header("{\"alg\":\"RSA-OAEP\",\"kid\":\"rsa\"}"), "algorithm");
    REFUSED(with_header("{\"alg\":\"RS256\\u0000\",\"kid\":\"rsa\"}"), "unique names");
}

/* The classic: the public key, which everybody has, as the secret of an HMAC. */
static void no_algorithm_confusion(void)
{
    BIO *out = BIO_new(BIO_s_mem());
    char *pem;
    PEM_write_bio_PUBKEY(out, rsa);
    long n = BIO_get_mem_data(out, &pem);
    const char *hs[] = {"HS256", "HS384", "HS512"};
    for (int i = 0; i < 3; i++) {
        char header[64];
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"rsa\"}", hs[i]);
        REFUSED(make_hmac_token(pem, (size_t)n, header, good_claims), "algorithm");
    }
    BIO_free(out);
    char *jwk = make_jwk(rsa, "");
    REFUSED(make_hmac_token(jwk, strlen(jwk), "{\"alg\":\"HS256\",\"kid\":\"rsa\"}", good_claims), "algorithm");
    free(jwk);
    REFUSED(make_hmac_token("", 0, "{\"alg\":\"HS256\",\"kid\":\"rsa\"}", good_claims), "algorithm");
    /* A key's kind or curve and the algorithm do not fit. */
    REFUSED(make_token(p256, "ES256", "{\"alg\":\"ES256\",\"kid\":\"rsa\"}", good_claims), "does not fit");
    REFUSED(make_token(rsa, "RS256", "{\"alg\":\"RS256\",\"kid\":\"p256\"}", good_claims), "does not fit");
    REFUSED(make_token(p384, "ES256", "{\"alg\":\"ES256\",\"kid\":\"p384\"}", good_claims), "does not fit");
    REFUSED(make_token(p256, "ES384", "{\"alg\":\"ES384\",\"kid\":\"p256\"}", good_claims), "does not fit");
    REFUSED(make_token(p256, "ES512", "{\"alg\":\"ES512\",\"kid\":\"p521\"}", good_claims), "signature");
    REFUSED(make_token(ed, "EdDSA", "{\"alg\":\"EdDSA\",\"kid\":\"p256\"}", good_claims), "does not fit");
    REFUSED(make_token(p256, "ES256", "{\"alg\":\"ES256\",\"kid\":\"ed\"}", good_claims), "does not fit");
    REFUSED(make_token(rsa_other, "RS256", "{\"alg\":\"RS256\",\"kid\":\"ps-only\"}", good_claims), "does not fit");
    /* Signed by one algorithm, said to be another; another's key. */
    REFUSED(make_token(rsa, "RS256", "{\"alg\":\"PS256\",\"kid\":\"rsa\"}", good_claims), "signature");
    REFUSED(make_token(rsa, "PS256", "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", good_claims), "signature");
    REFUSED(make_token(rsa, "RS256", "{\"alg\":\"RS512\",\"kid\":\"rsa\"}", good_claims), "signature");
    REFUSED(make_token(rsa_other, "RS256", "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", good_claims), "signature");
}

/* The library would verify ES256 with a P-384 key: jwt_verify() itself must not, whoever picked the key. */
static void a_key_of_another_curve_never_verifies(void)
{
    struct jwt t;
    struct auth_refusal r;
    char *token = make_token(p384, "ES256", "{\"alg\":\"ES256\",\"kid\":\"p384\"}", good_claims);
    CHECK_INT(jwt_parse(&t, token, strlen(token), &r), RC_OK);
    for (int i = 0; i < set->n; i++)
        CHECK_INT(jwt_verify(&t, &set->keys[i], &r), RC_DENIED);
    jwt_fini(&t);
    free(token);
}

static void key_ids(void)
{
    char big[600], header[700];
    REFUSED(with_header("{\"alg\":\"RS256\"}"), "does not say which");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"nobody\"}"), "no key");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"\"}"), "key id");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":7}"), "key id");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"RSA\"}"), "no key");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"../../dev/null\"}"), "no key");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa' OR '1'='1\"}"), "no key");
    memset(big, 'k', sizeof big);
    snprintf(header, sizeof header, "{\"alg\":\"RS256\",\"kid\":\"%.300s\"}", big);
    REFUSED(with_header(header), "key id");
    /* A single key needs no name. */
    struct jwks *one;
    struct error e;
    struct identity *who;
    struct auth_refusal r;
    char *jwk = make_jwk(rsa, ""), *text = spw_asprintf("{\"keys\":[%s]}", jwk),
         *token = with_header("{\"alg\":\"RS256\"}");
    CHECK_INT(jwks_parse(&one, text, strlen(text), &e), RC_OK);
    CHECK_INT(judge_with(one, &issuer, token, strlen(token), &who, &r), RC_OK);
    identity_unref(who);
    free(token);
    token = make_token(rsa_other, "RS256", "{\"alg\":\"RS256\"}", good_claims);
    CHECK_INT(judge_with(one, &issuer, token, strlen(token), &who, &r), RC_DENIED);
    free(token);
    free(text);
    free(jwk);
    jwks_free(one);
}

/* Keys that the bearer brings along are never used: signed with his own key, which he shows. */
static void brought_keys_are_ignored(void)
{
    char *jwk = make_jwk(rsa_other, "\"kid\":\"rsa\"");
    const char *forms[] = {"\"jwk\":%s", "\"jwk\":%s,\"jku\":\"http://127.0.0.1/keys\"",
                           "\"x5c\":[\"MIIB\"],\"note\":%s", "\"x5u\":\"http://127.0.0.1/cert\",\"note\":%s"};
    for (int i = 0; i < 4; i++) {
        struct strbuf b;
        strbuf_init(&b, 8192);
        CHECK(strbuf_puts(&b, "{\"alg\":\"RS256\",\"kid\":\"rsa\",") == RC_OK);
        const char *mark = strstr(forms[i], "%s");
        CHECK(strbuf_append(&b, forms[i], (size_t)(mark - forms[i])) == RC_OK && strbuf_puts(&b, jwk) == RC_OK);
        CHECK(strbuf_puts(&b, "}") == RC_OK);
        REFUSED(make_token(rsa_other, "RS256", b.data, good_claims), "signature");
        ACCEPTED(make_token(rsa, "RS256", b.data, good_claims)); /* ignored, not an error: some issuers send them */
        strbuf_fini(&b);
    }
    free(jwk);
}

static void headers(void)
{
    ACCEPTED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"at+jwt\"}"));
    ACCEPTED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"application/at+JWT\"}"));
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"logout+jwt\"}"), "type");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"dpop+jwt\"}"), "type");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":1}"), "type");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"cty\":\"JWT\"}"), "another token");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"crit\":[\"exp\"]}"), "extensions");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"crit\":[]}"), "extensions");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"b64\":false,\"crit\":[\"b64\"]}"), "extensions");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"b64\":true}"), "extensions");
    REFUSED(with_header("{\"alg\":\"none\",\"alg\":\"RS256\",\"kid\":\"rsa\"}"), "unique names");
    REFUSED(with_header("{\"alg\":\"RS256\",\"alg\":\"none\",\"kid\":\"rsa\"}"), "unique names");
    REFUSED(with_header("[\"RS256\"]"), "JSON object");
    REFUSED(with_header("\"RS256\""), "JSON object");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\""), "JSON object");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\"}x"), "JSON object");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\"\x1a}"), "JSON object");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"a\":01}"), "JSON object");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"a\":[[[[[1]]]]]}"), "JSON object");
    REFUSED(with_header("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"a\":\"\xff\"}"), "JSON object");
}

static void shapes(void)
{
    char *token = good(), *signature = strrchr(token, '.');
    const char *whole = token;
    REFUSED(spw_strdup(""), "three parts");
    REFUSED(spw_strdup("."), "three parts");
    REFUSED(spw_strdup(".."), "empty");
    REFUSED(spw_strdup("a.b.c"), "base64url");
    REFUSED(spw_asprintf("%s.", whole), "three parts");
    REFUSED(spw_asprintf(".%s", whole), "three parts");
    REFUSED(spw_asprintf("%s.%s", whole, whole), "three parts");
    REFUSED(spw_asprintf("%s.a.b", whole), "three parts"); /* an encrypted token has five */
    REFUSED(spw_asprintf("%s=", whole), "base64url");
    REFUSED(spw_asprintf("%s\n", whole), "base64url");
    REFUSED(spw_asprintf("%.*s+%s", 20, whole, whole + 21), "base64url");
    REFUSED(spw_asprintf("%.*s%%%s", 20, whole, whole + 21), "base64url");
    for (size_t cut = 1; cut < strlen(token); cut += 37) /* truncated anywhere */
        REFUSED(spw_strndup(token, strlen(token) - cut), "");
    REFUSED(spw_strndup(token, strlen(token) - 6), "signature"); /* 252 whole bytes */
    REFUSED(spw_asprintf("%sAAAA", whole), "signature");
    REFUSED(spw_asprintf("%.*s.", (int)(signature - token), whole), "empty");
    REFUSED(spw_asprintf(".%s", strchr(whole, '.') + 1), "empty");
    REFUSED(spw_asprintf(".%s", strchr(whole, '.')), "three parts");
    /* The last letter of 256 bytes carries 4 bits that mean nothing: they must be zero. */
    char *loose = spw_strdup(token), *last = loose + strlen(loose) - 1;
    *last = *last == 'A' ? 'B' : *last == 'Q' ? 'R' : *last == 'g' ? 'h' : 'x';
    REFUSED(loose, "base64url");
    free(token);
    REFUSED(make_token(rsa, "RS256", "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", ""), "empty");
    char *zeros = make_signing_input("{\"alg\":\"ES256\",\"kid\":\"p256\"}", good_claims);
    char nothing[87]; /* 64 zero bytes: r = s = 0 */
    memset(nothing, 'A', 86);
    nothing[86] = '\0';
    REFUSED(spw_asprintf("%s.%s", zeros, nothing), "signature");
    free(zeros);
}

/* ECDSA with the numbers padded to a longer width is the same signature under another text. */
static void one_form_of_a_signature(void)
{
    char *input = make_signing_input("{\"alg\":\"ES256\",\"kid\":\"p256\"}", good_claims);
    unsigned char sig[1200], wide[66] = {0};
    size_t n = make_signature(p256, "ES256", input, sig);
    CHECK_INT(n, 64);
    memcpy(wide + 1, sig, 32);
    memcpy(wide + 34, sig + 32, 32);
    char *right = make_b64(sig, n), *padded = make_b64(wide, 66);
    ACCEPTED(spw_asprintf("%s.%s", input, right));
    REFUSED(spw_asprintf("%s.%s", input, padded), "signature");
    free(right);
    free(padded);
    EVP_MD_CTX *c = EVP_MD_CTX_new(); /* and DER is not the form of JWS */
    n = sizeof sig;
    CHECK(EVP_DigestSignInit(c, NULL, EVP_sha256(), NULL, p256) == 1 &&
          EVP_DigestSign(c, sig, &n, (const unsigned char *)input, strlen(input)) == 1);
    EVP_MD_CTX_free(c);
    char *der = make_b64(sig, n);
    REFUSED(spw_asprintf("%s.%s", input, der), "signature");
    free(der);
    free(input);
}

static void sizes(void)
{
    char *filler = spw_calloc(1, 20001);
    memset(filler, 'a', 20000);
    char *claims = spw_asprintf("{" CLAIMS ",\"exp\":1800000600,\"x\":\"%.3000s\"}", filler);
    ACCEPTED(with_claims(claims));
    free(claims);
    claims = spw_asprintf("{" CLAIMS ",\"exp\":1800000600,\"x\":\"%.6200s\"}", filler);
    REFUSED(with_claims(claims), "larger");
    free(claims);
    REFUSED(spw_asprintf("%s.%s.%s", filler, filler, filler), "larger");
    struct strbuf deep;
    strbuf_init(&deep, 10000);
    CHECK(strbuf_puts(&deep, "{" CLAIMS ",\"exp\":1800000600,\"x\":") == RC_OK);
    for (int i = 0; i < 2000; i++)
        CHECK(strbuf_puts(&deep, "[") == RC_OK);
    for (int i = 0; i < 2000; i++)
        CHECK(strbuf_puts(&deep, "]") == RC_OK);
    CHECK(strbuf_puts(&deep, "}") == RC_OK);
    REFUSED(with_claims(deep.data), "claims are not");
    strbuf_fini(&deep);
    free(filler);
}

static void times(void)
{
    ACCEPTED(with_claims("{" CLAIMS ",\"exp\":1800000001}"));
    ACCEPTED(with_claims("{" CLAIMS ",\"exp\":1799999941}")); /* within the skew */
    ACCEPTED(with_claims("{" CLAIMS ",\"exp\":1800000001.5}"));
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1799999940}"), "expired");
    REFUSED(with_claims("{" CLAIMS "}"), "when it expires");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":null}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":\"1800000600\"}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":-1}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1e300}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1e999}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":true}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":0}"), "expired");
    ACCEPTED(with_claims("{" CLAIMS ",\"exp\":1800000600,\"nbf\":1800000060}"));
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1800000600,\"nbf\":1800000061}"), "not valid yet");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1800000600,\"nbf\":\"soon\"}"), "malformed");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1800000600,\"iat\":1800000061}"), "not valid yet");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1799999940,\"exp\":1800000600}"), "unique names");
}

#define REST "\"iss\":\"https://idp.example\",\"sub\":\"u1\",\"tenant\":\"acme\",\"exp\":1800000600"

static void audience(void)
{
    ACCEPTED(with_claims("{" REST ",\"aud\":[\"other\",\"https://api.acme.example\"]}"));
    REFUSED(with_claims("{" REST "}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":\"other\"}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":\"spillway \"}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":\"Spillway\"}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":\"\"}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":[]}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":[[\"spillway\"]]}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":{\"a\":\"spillway\"}}"), "audience");
    REFUSED(with_claims("{" REST ",\"aud\":\"other\",\"aud\":\"spillway\"}"), "unique names");
}

#define AUD "\"iss\":\"https://idp.example\",\"aud\":\"spillway\",\"exp\":1800000600"

static void names(void)
{
    REFUSED(with_claims("{" AUD ",\"sub\":\"u1\"}"), "names no tenant");
    REFUSED(with_claims("{" AUD ",\"sub\":\"u1\",\"tenant\":null}"), "names no tenant");
    REFUSED(with_claims("{" AUD ",\"sub\":\"u1\",\"tenant\":\"\"}"), "not a name");
    REFUSED(with_claims("{" AUD ",\"sub\":\"u1\",\"tenant\":\"a/b\"}"), "not a name");
    REFUSED(with_claims("{" AUD ",\"sub\":\"u1\",\"tenant\":\"a\\nb\"}"), "not a name");
    REFUSED(with_claims("{" AUD ",\"sub\":\"u1\",\"tenant\":[\"acme\"]}"), "not a name");
    REFUSED(with_claims("{" AUD ",\"tenant\":\"acme\"}"), "names no user");
    REFUSED(with_claims("{" AUD ",\"tenant\":\"acme\",\"sub\":7}"), "not a name");
    REFUSED(with_claims("{" AUD ",\"tenant\":\"acme\",\"sub\":\"a\\u202eb\"}"), "not a name");
    REFUSED(with_claims("{" AUD ",\"tenant\":\"acme\",\"sub\":\"u\",\"scope\":\"spillway:nothing\"}"),
            "scopes open nothing");
    REFUSED(with_claims("[1]"), "claims are not");
    REFUSED(with_claims("{" CLAIMS ",\"exp\":1800000600}}"), "claims are not");
}

/* The mapping from claims, with everything configured. */
static void identities(void)
{
    struct oidc_issuer i = issuer;
    struct identity *who;
    struct auth_refusal r;
    i.tenant_claim = "https://acme.example/tenant";
    i.team_claim = "realm.team";
    i.project_claim = "project";
    i.user_claim = "email";
    i.models_claim = "models";
    i.rate_class = "gold";
    i.local_only = true;
    const char *head = "{\"alg\":\"ES256\",\"kid\":\"p256\"}";
    char *token = make_token(p256, "ES256", head,
                             "{" AUD ",\"https://acme.example/tenant\":\"acme\",\"realm\":{\"team\":\"search\"},"
                             "\"email\":\"eve@acme.example\",\"models\":[\"deepseek-*\",\"llama-3\"],"
                             "\"scope\":\"openid  spillway:usage spillway:admin\"}");
    CHECK_INT(judge_with(set, &i, token, strlen(token), &who, &r), RC_OK);
    if (who) {
        CHECK_STR(who->tenant, "acme");
        CHECK_STR(who->team, "search");
        CHECK(who->project == NULL);
        CHECK_STR(who->user, "eve@acme.example");
        CHECK_STR(who->key_id, "oidc:idp");
        CHECK_STR(who->rate_class, "gold");
        CHECK_INT(who->scopes, AUTH_SCOPE_USAGE | AUTH_SCOPE_ADMIN);
        CHECK(who->local_only && identity_may_use(who, "deepseek-r1") && !identity_may_use(who, "llama-4"));
    }
    identity_unref(who);
    free(token);
    const char *wrong[] = {"\"models\":[]",        "\"models\":\"\"",      "\"none\":1",         "\"models\":[7]",
                           "\"models\":[\"a b\"]", "\"models\":{\"a\":1}", "\"models\":[\"*a\"]"};
    for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
        char *claims = spw_asprintf("{" AUD ",\"https://acme.example/tenant\":\"acme\",\"email\":\"e\",%s}", wrong[k]);
        token = make_token(p256, "ES256", head, claims);
        CHECK_INT(judge_with(set, &i, token, strlen(token), &who, &r), RC_DENIED);
        CHECK_INT(r.code, AUTH_TOKEN_CLAIMS);
        CHECK_INT(r.status, 403);
        free(token);
        free(claims);
    }
}

static void issuers_are_checked(void)
{
    struct error e;
    struct oidc_issuer i = issuer;
    CHECK_INT(oidc_issuer_check(&i, &e), RC_OK);
    i.n_audiences = 0;
    CHECK_INT(oidc_issuer_check(&i, &e), RC_INVALID);
    i = issuer;
    i.tenant = "both";
    CHECK_INT(oidc_issuer_check(&i, &e), RC_INVALID);
    i.tenant_claim = NULL;
    CHECK_INT(oidc_issuer_check(&i, &e), RC_OK);
    i = issuer;
    i.jwks_url = "http://idp.example/keys"; /* less safe than the issuer itself */
    CHECK_INT(oidc_issuer_check(&i, &e), RC_INVALID);
    i.issuer = "file:///etc/passwd";
    CHECK_INT(oidc_issuer_check(&i, &e), RC_INVALID);
    i = issuer;
    i.issuer = "https://user:pass@idp.example";
    CHECK_INT(oidc_issuer_check(&i, &e), RC_INVALID);
    i = issuer;
    i.skew_s = 601;
    CHECK_INT(oidc_issuer_check(&i, &e), RC_INVALID);
}

/* ---- key sets --------------------------------------------------------------------------------------------------- */

static int usable(const char *format, const char *jwk)
{
    struct jwks *s;
    struct error e;
    struct strbuf b;
    strbuf_init(&b, 1 << 20);
    const char *mark = strstr(format, "%s");
    CHECK(strbuf_append(&b, format, (size_t)(mark - format)) == RC_OK && strbuf_puts(&b, jwk) == RC_OK &&
          strbuf_puts(&b, mark + 2) == RC_OK);
    int n = jwks_parse(&s, b.data, b.len, &e) == RC_OK ? s->n : 0;
    jwks_free(s);
    strbuf_fini(&b);
    return n;
}

/* A point that is not on its curve. */
#define OFF_CURVE                                                                                                      \
    "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\","                         \
    "\"y\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\"}"

static void unfit_keys_are_left_out(void)
{
    EVP_PKEY *weak = make_rsa(1024);
    const char *one = "{\"keys\":[%s]}";
    char *keys[] = {make_jwk(weak, ""),
                    make_jwk(rsa, "\"use\":\"enc\""),
                    make_jwk(rsa, "\"alg\":\"RSA-OAEP\""),
                    make_jwk(rsa, "\"alg\":\"HS256\""),
                    make_jwk(rsa, "\"alg\":\"ES256\""),
                    make_jwk(rsa, "\"key_ops\":[\"encrypt\"]"),
                    make_jwk(rsa, "\"key_ops\":\"verify\""),
                    make_jwk(rsa, "\"kid\":7"),
                    make_jwk(p256, "\"alg\":\"ES384\"")};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        CHECK_INT(usable(one, keys[i]), 0);
        free(keys[i]);
    }
    const char *texts[] = {
        "{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}",
        "{\"kty\":\"RSA\"}",
        "{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}",
        "{}",
        "7",
        "null",
        "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}",
        "{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AAAA\",\"y\":\"AAAA\"}",
        OFF_CURVE,
        "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\"}",
        "{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"AAAA\"}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        CHECK_INT(usable(one, texts[i]), 0);
    EVP_PKEY_free(weak);
    /* An exponent of 1 makes every signature its own message. */
    char *n = make_b64_bn(rsa, OSSL_PKEY_PARAM_RSA_N, 0);
    char *exponents[] = {spw_asprintf("{\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"AQ\"}", n),
                         spw_asprintf("{\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"Ag\"}", n),
                         spw_asprintf("{\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"AQAAAAAB\"}", n)};
    for (int i = 0; i < 3; i++) {
        CHECK_INT(usable(one, exponents[i]), 0);
        free(exponents[i]);
    }
    free(n);
}

static void sets(void)
{
    char *a = make_jwk(rsa, "\"kid\":\"a\""), *b = make_jwk(rsa_other, "\"kid\":\"a\"");
    char *two = spw_asprintf("%s,%s", a, b), *mixed = spw_asprintf("{\"kty\":\"new\"},%s", a);
    CHECK_INT(usable("{\"keys\":[%s]}", a), 1);
    CHECK_INT(usable("{\"keys\":[%s]}", two), 1); /* two of one id: the first holds */
    CHECK_INT(usable("{\"keys\":[%s]}", mixed), 1);
    CHECK_INT(usable("{\"keys\":{\"a\":%s}}", a), 0);
    CHECK_INT(usable("[%s]", a), 0);
    CHECK_INT(usable("%s", a), 0);
    CHECK_INT(usable("{\"keys\":[],\"keys\":[%s]}", a), 0);
    CHECK_INT(usable("{\"keys\":[%s]", a), 0);
    struct strbuf many;
    strbuf_init(&many, 1 << 20);
    for (int i = 0; i < 70; i++) {
        char kid[24];
        snprintf(kid, sizeof kid, "\"kid\":\"%d\"", i);
        char *k = make_jwk(ed, kid);
        CHECK(strbuf_printf(&many, "%s%s", i ? "," : "", k) == RC_OK);
        free(k);
    }
    CHECK_INT(usable("{\"keys\":[%s]}", many.data), JWKS_KEYS_MAX);
    strbuf_fini(&many);
    free(a);
    free(b);
    free(two);
    free(mixed);
}

static void base64url_is_canonical(void)
{
    unsigned char out[64];
    size_t n;
    const char *wrong[] = {"A", "AAAAA", "AB", "AAB", "A=", "AA==", "AA A", "AA+A", "AA/A", "AA\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(!base64url_decode(wrong[i], strlen(wrong[i]), out, &n));
    char text[64];
    for (size_t len = 0; len < 33; len++) { /* round trip of every length */
        unsigned char bytes[33];
        for (size_t i = 0; i < len; i++)
            bytes[i] = (unsigned char)(i * 37 + len * 11 + 250);
        base64url_encode(bytes, len, text);
        CHECK(base64url_decode(text, strlen(text), out, &n) && n == len && memcmp(out, bytes, len) == 0);
    }
}

static void refusals(void)
{
    struct auth_refusal r;
    CHECK_INT(auth_refuse(&r, AUTH_TOKEN_INVALID, "a \"quoted\" \\ text\r\nX: y"), RC_DENIED);
    CHECK_STR(r.www_authenticate, "Bearer realm=\"spillway\", error=\"invalid_token\", "
                                  "error_description=\"a ?quoted? ? text??X: y\"");
    CHECK_INT(r.status, 401);
    auth_refusal_set(&r, AUTH_MISSING, "no");
    CHECK_STR(r.www_authenticate, "Bearer realm=\"spillway\"");
    auth_refusal_set(&r, AUTH_UNAVAILABLE, "no");
    CHECK_STR(r.www_authenticate, "");
    CHECK_INT(r.status, 503);
    CHECK_INT(r.retry_after_s, 1);
    for (int c = 0; c < AUTH_CODE_COUNT; c++)
        CHECK(strlen(auth_code_name((enum auth_code)c)) > 1);
}

int main(void)
{
    make_keys();
    TEST(every_algorithm);
    TEST(no_algorithm_none);
    TEST(no_algorithm_confusion);
    TEST(a_key_of_another_curve_never_verifies);
    TEST(key_ids);
    TEST(brought_keys_are_ignored);
    TEST(headers);
    TEST(shapes);
    TEST(one_form_of_a_signature);
    TEST(sizes);
    TEST(times);
    TEST(audience);
    TEST(names);
    TEST(identities);
    TEST(issuers_are_checked);
    TEST(unfit_keys_are_left_out);
    TEST(sets);
    TEST(base64url_is_canonical);
    TEST(refusals);
    jwks_free(set);
    EVP_PKEY *keys[] = {rsa, rsa_other, p256, p384, p521, ed};
    for (int i = 0; i < 6; i++)
        EVP_PKEY_free(keys[i]);
    return TEST_RESULT();
}
