/* Proves which requests are the same to the cache and which are not, whatever they look like; which are deterministic;
 * that a key separates tenants, models and kinds; and what the headers ask for.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "base/json.h"
#include "scheduler/cache/cache.h"

/* As request_parse() does it. */
static enum rc read_body(struct json_doc *d, const char *text, size_t n)
{
    return json_doc_parse(d, text, n, JSON_DEPTH_MAX, NULL);
}

static enum rc write_form(const char *text, size_t n, struct strbuf *out)
{
    struct json_doc d;
    enum rc rc = read_body(&d, text, n);
    if (rc != RC_OK)
        return rc;
    rc = canonical_write(d.root, out);
    json_doc_fini(&d);
    return rc;
}

/* The canonical form, or the error's name. Caller frees. */
static char *form(const char *text)
{
    struct strbuf out;
    strbuf_init(&out, 1 << 20);
    enum rc rc = write_form(text, strlen(text), &out);
    if (rc != RC_OK) {
        strbuf_fini(&out);
        return spw_strdup(rc_name(rc));
    }
    return strbuf_take(&out);
}

static void expect(const char *text, const char *wanted)
{
    char *got = form(text), *again = form(wanted);
    CHECK_STR(got, wanted);
    CHECK_STR(again, wanted); /* the form of a form is itself */
    free(got);
    free(again);
}

static void expect_error(const char *text, enum rc rc)
{
    char *got = form(text);
    CHECK_STR(got, rc_name(rc));
    free(got);
}

static void test_members(void)
{
    expect(" { \"b\" : 1 , \"a\" : [ true , false , null , { } , [ ] ] } ", "{\"a\":[true,false,null,{},[]],\"b\":1}");
    expect("{\"x\":{\"bb\":1,\"b\":2,\"a\":{\"z\":1,\"y\":2}}}", "{\"x\":{\"a\":{\"y\":2,\"z\":1},\"b\":2,\"bb\":1}}");
    expect(
        "{\"model\":\"m\",\"stream\":true,\"stream_options\":{},\"user\":\"u\",\"metadata\":{\"k\":1},\"store\":true,"
        "\"service_tier\":\"flex\",\"safety_identifier\":\"s\",\"prompt_cache_key\":\"p\","
        "\"prompt_cache_retention\":\"24h\",\"idempotency_key\":\"i\",\"spillway\":{},\"spillway_resume\":{},"
        "\"messages\":[]}",
        "{\"messages\":[]}");
    /* Only of the outer object, and only by their exact name. */
    expect("{\"a\":{\"user\":1,\"stream\":2},\"users\":3}", "{\"a\":{\"stream\":2,\"user\":1},\"users\":3}");
    expect("{\"x\":{\"\\u0062\":1,\"a\":2}}", "{\"x\":{\"a\":2,\"b\":1}}");
}

static void test_numbers(void)
{
    expect("{\"n\":[1,1.0,1e0,10e-1,0.1e1,1E+0,1.000]}", "{\"n\":[1,1,1,1,1,1,1]}");
    expect("{\"n\":[0,-0,0.0,0e9,-0.00e-5,0E+99999999999999999999]}", "{\"n\":[0,0,0,0,0,0]}");
    expect("{\"n\":[1500,1.5,-1.50,0.05,10.5,100.250]}", "{\"n\":[15e2,15e-1,-15e-1,5e-2,105e-1,10025e-2]}");
    expect("{\"n\":[9007199254740993,9007199254740992]}", "{\"n\":[9007199254740993,9007199254740992]}");
    expect("{\"n\":0.1000000000000000055511151231257827}", "{\"n\":1000000000000000055511151231257827e-34}");
    expect("{\"n\":10e999999999}", "{\"n\":1e1000000000}");
    expect_error("{\"n\":10e1000000000}", RC_UNSUPPORTED);
}

static void test_strings(void)
{
    expect("{\"s\":\"\\u0041\\/\\u00e9\\u20AC\\ud83d\\uDE00\"}", "{\"s\":\"A/\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"}");
    expect("{\"s\":\"\\n\\u000a\\t\\b\\f\\r\\\"\\u0022\\\\\\u005C\"}",
           "{\"s\":\"\\n\\n\\t\\b\\f\\r\\\"\\\"\\\\\\\\\"}");
    expect("{\"s\":\"\\u001F\\u007f\\u000B\"}", "{\"s\":\"\\u001f\x7f\\u000b\"}");
    /* Runs of escapes that stay, before and behind ones that do not. */
    expect("{\"s\":\"a\\n\\\\u0041\\n\\\\\\u0041\\/\\/\\\"\"}", "{\"s\":\"a\\n\\\\u0041\\n\\\\A//\\\"\"}");
}

static void test_refused(void)
{
    static const char *const invalid[] = {
        "",           "{,}",         "{\"a\":1,\"a\":1}",   "{\"x\":{\"a\":1,\"\\u0061\":2}}",
        "{",          "{\"a\"}",     "{\"a\":1,}",          "[1,]",
        "{\"a\":01}", "{\"a\":1.}",  "{\"a\":.5}",          "{\"a\":+1}",
        "{\"a\":1e}", "{\"a\":tru}", "{\"a\":1}x",          "{\"a\":\"\n\"}",
        "{a:1}",      "{\"a\":NaN}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\\x\"}",
        "{\"a\":1",   "{\"a\":[1}",  "{\"a\":\"\\",         "{\"a\" 1}",
        "[,1]",       "[1 2]",       "{\"a\":1 \"b\":2}"};
    for (size_t i = 0; i < sizeof invalid / sizeof invalid[0]; i++)
        expect_error(invalid[i], RC_INVALID);
    /* What cJSON cannot hold. */
    expect_error("{\"s\":\"a\\u0000b\"}", RC_INVALID);
    expect_error("{\"s\":\"\\uD83Dx\\uDE00\\uD83D\\u0041\"}", RC_INVALID);
    expect_error("{\"s\":\"\\uD83D\\uD83D\\uDE00\"}", RC_INVALID);
    expect_error("{\"\\u0074emperature\":1}", RC_UNSUPPORTED);
    char deep[2 * JSON_DEPTH_MAX + 16];
    size_t n = 0;
    n += (size_t)snprintf(deep, sizeof deep, "{\"a\":");
    memset(deep + n, '[', JSON_DEPTH_MAX);
    memset(deep + n + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    deep[n + 2 * JSON_DEPTH_MAX] = '}';
    struct strbuf out;
    strbuf_init(&out, sizeof deep);
    CHECK_INT(write_form(deep, n + 2 * JSON_DEPTH_MAX + 1, &out), RC_INVALID);
    deep[n] = ' ';
    deep[n + 2 * JSON_DEPTH_MAX - 1] = ' ';
    CHECK_INT(write_form(deep, n + 2 * JSON_DEPTH_MAX + 1, &out), RC_OK);
    CHECK_INT((int64_t)out.len, (int64_t)n + 2 * JSON_DEPTH_MAX - 1);
    strbuf_fini(&out);
}

/* As many as a body may have. */
static void test_many_values(void)
{
    struct strbuf b, out;
    strbuf_init(&b, 1 << 24);
    strbuf_init(&out, 1 << 24);
    CHECK(strbuf_puts(&b, "{\"a\":[0") == RC_OK);
    for (int i = 3; i < JSON_VALUES_MAX; i++)
        CHECK(strbuf_puts(&b, ",0") == RC_OK);
    CHECK(strbuf_puts(&b, "]}") == RC_OK);
    CHECK_INT(write_form(b.data, b.len, &out), RC_OK);
    CHECK(out.len == b.len && memcmp(out.data, b.data, b.len) == 0);
    strbuf_fini(&b);
    strbuf_fini(&out);
}

/* 32 MiB have a key, a byte more has none. */
static void test_large(void)
{
    const size_t n = (size_t)32 << 20;
    char *text = spw_malloc(n + 1);
    struct cache_key k;
    struct cache_key_input in = {CACHE_CHAT, "t", "m"};
    struct strbuf scratch;
    struct json_doc d;
    strbuf_init(&scratch, CANONICAL_SCRATCH_BYTES_MAX);
    memset(text, 'x', n + 1);
    memcpy(text, "{\"a\":\"", 6);
    for (size_t more = 0; more < 2; more++) {
        memcpy(text + n + more - 2, "\"}", 2);
        CHECK_INT(read_body(&d, text, n + more), RC_OK);
        CHECK_INT(canonical_key(d.root, &in, &scratch, &k), more ? RC_FULL : RC_OK);
        json_doc_fini(&d);
        text[n - 2] = 'x';
    }
    strbuf_fini(&scratch);
    free(text);
}

static bool deterministic(const char *text)
{
    struct json_doc d;
    CHECK_INT(read_body(&d, text, strlen(text)), RC_OK);
    bool is = canonical_is_deterministic(d.root);
    json_doc_fini(&d);
    return is;
}

static void test_deterministic(void)
{
    CHECK(deterministic("{\"temperature\":0}"));
    CHECK(deterministic("{\"temperature\":-0.0e5,\"n\":1}"));
    CHECK(deterministic("{\"temperature\":0.7,\"top_k\":1,\"n\":null}"));
    CHECK(deterministic("{\"top_k\":10e-1,\"best_of\":1}"));
    CHECK(!deterministic("{}"));
    CHECK(!deterministic("{\"seed\":7}"));
    CHECK(!deterministic("{\"temperature\":0.0001}"));
    CHECK(!deterministic("{\"temperature\":1e-400}"));
    CHECK(!deterministic("{\"top_k\":1.00000000000000000001}"));
    CHECK(!deterministic("{\"temperature\":\"0\"}"));
    CHECK(!deterministic("{\"temperature\":null}"));
    CHECK(!deterministic("{\"top_k\":-1}"));
    CHECK(!deterministic("{\"top_k\":10}"));
    CHECK(!deterministic("{\"top_k\":11}"));
    CHECK(!deterministic("{\"temperature\":0,\"n\":2}"));
    CHECK(!deterministic("{\"temperature\":0,\"n\":\"1\"}"));
    CHECK(!deterministic("{\"temperature\":0,\"best_of\":3}"));
    CHECK(!deterministic("{\"x\":{\"temperature\":0}}"));
}

static struct cache_key key(enum cache_kind kind, const char *tenant, const char *identity, const char *text)
{
    struct cache_key k = {{0}};
    struct cache_key_input in = {kind, tenant, identity};
    struct strbuf scratch;
    struct json_doc d;
    strbuf_init(&scratch, CANONICAL_SCRATCH_BYTES_MAX);
    CHECK_INT(read_body(&d, text, strlen(text)), RC_OK);
    CHECK_INT(canonical_key(d.root, &in, &scratch, &k), RC_OK);
    json_doc_fini(&d);
    strbuf_fini(&scratch);
    return k;
}

static bool same(struct cache_key a, struct cache_key b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void test_keys(void)
{
    const char *text = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0}";
    struct cache_key k = key(CACHE_CHAT, "t", "m", text);
    CHECK(same(
        k, key(CACHE_CHAT, "t", "m",
               "{\"temperature\":0.0,\"stream\":true,\"messages\":[{\"content\":\"h\\u0069\",\"role\":\"user\"}]}")));
    CHECK(!same(k, key(CACHE_COMPLETION, "t", "m", text)));
    CHECK(!same(k, key(CACHE_CHAT, "u", "m", text)));
    CHECK(!same(k, key(CACHE_CHAT, "t", "n", text)));
    CHECK(!same(k, key(CACHE_COMPLETION, "t", "m", text)) && !same(k, key(CACHE_EMBEDDINGS, "t", "m", text)));
    CHECK(!same(k, key(CACHE_CHAT, "", "m", text)));
    CHECK(!same(key(CACHE_CHAT, "ab", "c", text), key(CACHE_CHAT, "a", "bc", text)));
    CHECK(!same(key(CACHE_CHAT, "1:a", "b", text), key(CACHE_CHAT, "", "1:a1:b", text)));
    CHECK(!same(k, key(CACHE_CHAT, "t", "m",
                       "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0,\"max_tokens\":1}")));
    CHECK(!same(key(CACHE_CHAT, "t", "m", "{\"seed\":9007199254740993}"),
                key(CACHE_CHAT, "t", "m", "{\"seed\":9007199254740992}")));
    CHECK(!same(key(CACHE_CHAT, "t", "m", "{\"stop\":[\"a\",\"b\"]}"),
                key(CACHE_CHAT, "t", "m", "{\"stop\":[\"b\",\"a\"]}")));
    CHECK(!same(key(CACHE_CHAT, "t", "m", "{\"s\":\"1\"}"), key(CACHE_CHAT, "t", "m", "{\"s\":1}")));
    CHECK(!same(key(CACHE_CHAT, "t", "m", "{\"s\":null}"), key(CACHE_CHAT, "t", "m", "{}")));
}

/* What schedulers with one Redis agree on, old and new ones: SHA-256 of
 * spillway cache key 1 0 1:t2:id{"messages":[{"content":"hi","role":"user"}],"temperature":0,"x":[15e-1,1e1]} */
static void test_key_is_known(void)
{
    const char *wanted = "5e0151a2cc6b0f8d64468d06d638a6234d715a5b49355d214c2b13c6328380b8";
    struct cache_key k = key(CACHE_CHAT, "t", "id",
                             "{\"model\":\"m\",\"x\":[1.50,10],\"temperature\":0.0,\"messages\":[{\"role\":"
                             "\"us\\u0065r\",\"content\":\"hi\"}]}");
    char hex[2 * CACHE_KEY_BYTES + 1];
    for (int i = 0; i < CACHE_KEY_BYTES; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", k.bytes[i]);
    CHECK_STR(hex, wanted);
}

/* A large request leaves no large scratch behind. */
static void test_scratch(void)
{
    struct strbuf b;
    strbuf_init(&b, 1 << 23);
    CHECK(strbuf_puts(&b, "{\"s\":\"") == RC_OK);
    for (int i = 0; i < 300000; i++)
        CHECK(strbuf_puts(&b, "0123456789") == RC_OK);
    CHECK(strbuf_puts(&b, "\"}") == RC_OK);
    struct cache_key k;
    struct cache_key_input in = {CACHE_CHAT, "t", "m"};
    struct strbuf scratch;
    struct json_doc d;
    strbuf_init(&scratch, CANONICAL_SCRATCH_BYTES_MAX);
    CHECK_INT(read_body(&d, b.data, b.len), RC_OK);
    CHECK_INT(canonical_key(d.root, &in, &scratch, &k), RC_OK);
    CHECK(scratch.cap <= 1 << 20);
    json_doc_fini(&d);
    strbuf_fini(&scratch);
    strbuf_fini(&b);
}

static unsigned use_as(enum cache_kind kind, const char *cache_control, const char *asked, const char *body)
{
    struct cache_ask ask;
    struct json_doc d;
    CHECK(cache_ask_parse(&ask, cache_control, asked, NULL) == RC_OK);
    CHECK_INT(read_body(&d, body, strlen(body)), RC_OK);
    unsigned use = cache_use(&ask, kind, d.root);
    json_doc_fini(&d);
    return use;
}

static unsigned use(const char *cache_control, const char *asked, const char *body)
{
    return use_as(CACHE_CHAT, cache_control, asked, body);
}

static void test_ask(void)
{
    const unsigned all = CACHE_READ | CACHE_STORE | CACHE_COLLAPSE;
    const char *cold = "{\"temperature\":0}", *warm = "{\"temperature\":1}";
    struct cache_ask ask;
    struct error e;
    CHECK(use(NULL, NULL, cold) == all);
    CHECK(use(NULL, NULL, warm) == 0);
    CHECK(use_as(CACHE_EMBEDDINGS, NULL, NULL, warm) == all);
    CHECK(use_as(CACHE_EMBEDDINGS, NULL, "off", warm) == 0);
    CHECK(use("", NULL, cold) == all);
    CHECK(use(NULL, NULL, warm) == 0);
    CHECK(use(NULL, "on", warm) == all);
    CHECK(use(NULL, "ON ", warm) == all);
    CHECK(use(NULL, "off", cold) == 0);
    CHECK(use(NULL, "on", "{\"n\":2}") == 0);
    CHECK(use("no-store", NULL, cold) == CACHE_READ);
    CHECK(use("No-Cache", NULL, cold) == CACHE_STORE);
    CHECK(use("max-age=0", NULL, cold) == CACHE_STORE);
    CHECK(use("no-transform , no-cache,no-store", NULL, cold) == 0);
    CHECK(use("xno-store, no-storex, ,,", NULL, cold) == all);
    CHECK(cache_ask_parse(&ask, "max-age=60", NULL, &e) == RC_OK && ask.age_s_max == 60 && !ask.no_cache);
    CHECK(cache_ask_parse(&ask, "max-age=\"7\"", NULL, &e) == RC_OK && ask.age_s_max == 7);
    CHECK(cache_ask_parse(&ask, "max-age=soon", NULL, &e) == RC_OK && ask.no_cache);
    CHECK(cache_ask_parse(&ask, NULL, NULL, &e) == RC_OK && ask.age_s_max == -1);
    CHECK(cache_ask_parse(&ask, NULL, "maybe", &e) == RC_INVALID);
    CHECK(cache_ask_parse(&ask, NULL, "", &e) == RC_INVALID);
}

int main(void)
{
    TEST(test_members);
    TEST(test_numbers);
    TEST(test_strings);
    TEST(test_refused);
    TEST(test_many_values);
    TEST(test_large);
    TEST(test_deterministic);
    TEST(test_keys);
    TEST(test_key_is_known);
    TEST(test_scratch);
    TEST(test_ask);
    return TEST_RESULT();
}
