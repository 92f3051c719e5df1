/* Provider `openai`: an account is checked (key from a file or the environment, models, quota by its headers), what it
 * costs is read from a price list off the loop, and a 429 holds its offers back for as long as it asks.
 * links: spw_providers */
#include "http_peer.h"
#include "test.h"

#include "base/http_server.h"
#include "providers/provider.h"

static struct event_base *loop;
static struct http_server *server;
static char folder[64], url[64], prices[128], key_file[128];
static int status = 200;
static struct {
    int done, offers, checks, good;
    enum provider_failure failure;
    char text[400], seen[600], key[64];
    struct provider_offer offer;
} got;

static void on_request(struct http_exchange *x, void *arg)
{
    static const char models[] = "{\"data\":[{\"id\":\"deepseek-chat\"},{\"id\":\"deepseek-reasoner\"}]}";
    static const char no[] = "{\"error\":{\"message\":\"slow down\",\"code\":\"rate_limit_exceeded\"}}";
    static const char poor[] = "{\"error\":{\"message\":\"pay first\",\"code\":\"insufficient_quota\"}}";
    static const struct http_header quota[] = {{"x-ratelimit-remaining-requests", "7"},
                                               {"x-ratelimit-limit-requests", "500"},
                                               {"x-ratelimit-remaining-tokens", "0"}};
    static const struct http_header later[] = {{"Retry-After", "120"}};
    const char *key = http_head_get(http_request_head(x), "Authorization");
    (void)arg;
    snprintf(got.key, sizeof(got.key), "%s", key ? key : "");
    if (status == 200)
        http_reply(x, 200, quota, 3, models, sizeof(models) - 1);
    else if (status == 402)
        http_reply(x, 429, NULL, 0, poor, sizeof(poor) - 1);
    else
        http_reply(x, status, later, status == 429, no, sizeof(no) - 1);
}

static void on_done(enum provider_failure failure, const char *text, void *arg)
{
    (void)arg;
    got.done++;
    got.failure = failure;
    snprintf(got.text, sizeof(got.text), "%s", text);
}

static void on_check(const char *what, bool ok, const char *text, void *arg)
{
    size_t used = strlen(got.seen);
    (void)arg;
    got.checks++;
    got.good += ok;
    snprintf(got.seen + used, sizeof(got.seen) - used, "%s: %s; ", what, text);
}

static void on_offer(const struct provider_offer *o, void *arg)
{
    (void)arg;
    got.offers++;
    got.offer = *o;
    CHECK_STR(o->id, "deep/deepseek-chat");
    CHECK_STR(o->model, "deepseek-chat");
}

static struct provider *open_with(const struct provider_pair *pairs, int n)
{
    static const struct log log = {.fd = 2, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};
    static struct provider_settings s;
    static struct provider_env env;
    struct provider *p = NULL;
    struct error e;
    s = (struct provider_settings){provider_openai.keys, pairs, n};
    env = (struct provider_env){.loop = loop, .log = &log, .clock = &clock_system, .name = "deep", .settings = &s};
    CHECK_INT(provider_settings_check(&s, &e), RC_OK);
    CHECK_INT(provider_openai.open(&p, &env, &e), RC_OK);
    return p;
}

static void check(struct provider *p, int answer)
{
    memset(&got, 0, sizeof(got));
    status = answer;
    provider_openai.check(p, on_check, on_done, NULL);
    CHECK_INT(got.done, 0);
    CHECK(peer_wait(loop, &got.done, 1, 5000));
}

static void offers(struct provider *p)
{
    memset(&got, 0, sizeof(got));
    provider_openai.offers(p, NULL, on_offer, on_done, NULL);
    CHECK_INT(got.done, 0);
    CHECK(peer_wait(loop, &got.done, 1, 5000));
}

static void an_account_is_checked(void)
{
    const struct provider_pair pairs[] = {
        {"url", url}, {"api_key_file", key_file}, {"models", "deepseek-chat,missing"}, {"prices", prices}};
    struct provider *p = open_with(pairs, 4);
    check(p, 200);
    CHECK_INT(got.failure, PROVIDER_FINE);
    CHECK_STR(got.key, "Bearer sk-from-file");
    CHECK(strstr(got.seen, "credentials: the key is accepted") && strstr(got.seen, "model deepseek-chat: is listed"));
    CHECK(strstr(got.seen, "model missing: is not listed") &&
          strstr(got.seen, "quota: 7 of 500 requests per minute left"));
    CHECK_INT(got.checks, 5);
    CHECK_INT(got.good, 3); /* the model that is missing, and no tokens left */
    check(p, 401);
    CHECK_INT(got.failure, PROVIDER_DENIED);
    check(p, 402);
    CHECK_INT(got.failure, PROVIDER_QUOTA);
    check(p, 503);
    CHECK_INT(got.failure, PROVIDER_UNREACHABLE);
    provider_openai.close(p);
}

static void offers_have_the_hours_price(void)
{
    const struct provider_pair pairs[] = {
        {"url", url}, {"api_key_env", "SPILLWAY_TEST_KEY"}, {"prices", prices}, {"prices_of", "deepseek"}};
    struct provider *p = open_with(pairs, 4);
    offers(p);
    CHECK_INT(got.failure, PROVIDER_FINE);
    CHECK_INT(got.offers, 1);
    CHECK_INT(got.offer.prices.output.uusd_per_mtok, 1100000);
    CHECK_INT(got.offer.market, PROVIDER_API);
    CHECK(got.offer.launchable);
    setenv("SPILLWAY_TEST_KEY", "sk-from-environment", 1);
    check(p, 429);
    CHECK_STR(got.key, "Bearer sk-from-environment");
    CHECK_INT(got.failure, PROVIDER_THROTTLED);
    offers(p);
    CHECK(!got.offer.launchable && got.offer.cold_s > 110 && got.offer.cold_s <= 120);
    unsetenv("SPILLWAY_TEST_KEY");
    check(p, 200);
    CHECK_INT(got.failure, PROVIDER_DENIED);
    CHECK_STR(got.text, "the environment has no SPILLWAY_TEST_KEY");
    provider_openai.offers(p, NULL, on_offer, on_done, NULL); /* closed before it is answered */
    provider_openai.check(p, on_check, on_done, NULL);
    provider_openai.close(p);
}

static void mistakes_are_told(void)
{
    struct provider_pair pairs[] = {{"api_key_file", key_file}, {"prices", "/nowhere/prices.csv"}, {"url", url}};
    struct provider *p = open_with(pairs, 3);
    offers(p);
    CHECK_INT(got.failure, PROVIDER_INVALID);
    CHECK(strstr(got.text, "/nowhere/prices.csv"));
    provider_openai.close(p);
    pairs[1] = (struct provider_pair){"prices", prices};
    struct provider_pair named[] = {pairs[0], pairs[1], {"models", "unknown-model"}};
    p = open_with(named, 3);
    offers(p);
    CHECK_INT(got.failure, PROVIDER_INVALID);
    CHECK(strstr(got.text, "has no price of unknown-model"));
    provider_openai.close(p);
    struct error e;
    const struct provider_settings none = {provider_openai.keys, NULL, 0};
    const struct provider_env env = {.loop = loop, .clock = &clock_system, .settings = &none};
    CHECK_INT(provider_openai.open(&p, &env, &e), RC_INVALID);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

int main(void)
{
    static const struct http_server_handlers h = {.on_request = on_request};
    struct error e;
    loop = event_base_new();
    snprintf(folder, sizeof(folder), "/tmp/spillway-openai-XXXXXX");
    if (!mkdtemp(folder) || http_server_new(&server, loop, "127.0.0.1:0", NULL, &h, NULL, &e) != RC_OK)
        return 1;
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/v1/", http_server_port(server));
    snprintf(prices, sizeof(prices), "%s/prices.csv", folder);
    snprintf(key_file, sizeof(key_file), "%s/key", folder);
    put(key_file, "sk-from-file\n");
    put(prices, "provider,model,input_usd_mtok,cached_input_usd_mtok,output_usd_mtok,effective_from\n"
                "deepseek,deepseek-chat,0.14,0.014,0.28,2024-01-01\n"
                "deepseek,deepseek-chat,0.27,0.07,1.1,2025-02-08\n"
                "other,deepseek-chat,0.1,,0.2,\n");
    TEST(an_account_is_checked);
    TEST(offers_have_the_hours_price);
    TEST(mistakes_are_told);
    http_server_free(server);
    event_base_free(loop);
    unlink(key_file);
    unlink(prices);
    rmdir(folder);
    return TEST_RESULT();
}
