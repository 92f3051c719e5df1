/* Settings of providers: unknown keys, missing ones, wrong types; fallbacks, numbers, lists.
 * links: spw_providers */
#include "providers/provider.h"
#include "tests/unit/test.h"

static const struct provider_key keys[] = {
    {"region", KEY_TEXT, true, NULL, "Where it is."},
    {"endpoint", KEY_URL, false, NULL, "Another address."},
    {"deadline", KEY_DURATION, false, "30s", "How long to try."},
    {"types", KEY_LIST, false, NULL, "Machine types."},
    {"price", KEY_DOLLARS, false, NULL, "Dollars per hour."},
    {"check", KEY_BOOL, false, "true", "Whether."},
    {"n", KEY_INT, false, NULL, "How many."},
    {"port", KEY_PORT, false, NULL, "Where."},
    {.name = NULL},
};

static const char *wrong(const struct provider_pair *pairs, int n)
{
    static struct error e;
    const struct provider_settings s = {keys, pairs, n};
    e.message[0] = '\0';
    return provider_settings_check(&s, &e) == RC_OK ? "" : e.message;
}
#define WRONG(...)                                                                                                     \
    wrong((const struct provider_pair[]){__VA_ARGS__},                                                                 \
          sizeof((const struct provider_pair[]){__VA_ARGS__}) / sizeof(struct provider_pair))

static void mistakes_are_named(void)
{
    CHECK_STR(WRONG({"region", "x"}), "");
    CHECK_STR(WRONG({"n", "1"}), "region is missing: Where it is.");
    CHECK_STR(WRONG({"region", "x"}, {"endpont", "http://a"}), "unknown key 'endpont'; did you mean 'endpoint'?");
    CHECK_STR(WRONG({"region", "x"}, {"zzzzzz", "1"}), "unknown key 'zzzzzz'");
    CHECK_STR(WRONG({"region", ""}), "region: '' must be something that is not empty");
    CHECK(strstr(WRONG({"region", "x"}, {"endpoint", "ftp://a"}), "endpoint: 'ftp://a' must be an address"));
    CHECK(strstr(WRONG({"region", "x"}, {"deadline", "soon"}), "deadline: 'soon' must be a duration"));
    CHECK(strstr(WRONG({"region", "x"}, {"n", "-1"}), "a whole number"));
    CHECK(strstr(WRONG({"region", "x"}, {"port", "0"}), "a port, 1 to 65535"));
    CHECK(strstr(WRONG({"region", "x"}, {"port", "65536"}), "a port, 1 to 65535"));
    CHECK(strstr(WRONG({"region", "x"}, {"price", "much"}), "dollars"));
    CHECK(strstr(WRONG({"region", "x"}, {"check", "yes"}), "true or false"));
}

static void values_and_fallbacks(void)
{
    const struct provider_pair pairs[] = {{"region", "r"}, {"types", "a.x, b.y,c"}, {"price", "0.5"}, {"n", "7"}};
    const struct provider_settings s = {keys, pairs, 4};
    CHECK_STR(provider_setting(&s, "region"), "r");
    CHECK(!provider_setting(&s, "endpoint") && !provider_setting(NULL, "region"));
    CHECK_INT(provider_setting_int(&s, "deadline"), 30000);
    CHECK_INT(provider_setting_int(&s, "check"), 1);
    CHECK_INT(provider_setting_int(&s, "n"), 7);
    CHECK_INT(provider_setting_int(NULL, "n"), 0);
    CHECK_INT(provider_setting_dollars(&s, "price").v, 500000000000);
    const char *at = provider_setting(&s, "types"), *word;
    char all[64] = "";
    for (size_t n; (n = provider_setting_word(&at, &word)) > 0;)
        snprintf(all + strlen(all), sizeof all - strlen(all), "[%.*s]", (int)n, word);
    CHECK_STR(all, "[a.x][b.y][c]");
}

static void names(void)
{
    CHECK_STR(provider_failure_name(PROVIDER_NO_CAPACITY), "no_capacity");
    CHECK_STR(provider_failure_name(PROVIDER_ENDED), "ended");
    CHECK_STR(provider_market_name(PROVIDER_ON_DEMAND), "on-demand");
    for (int i = 0; provider_list[i]; i++)
        CHECK(provider_find(provider_list[i]->name) == provider_list[i]);
}

int main(void)
{
    TEST(mistakes_are_named);
    TEST(values_and_fallbacks);
    TEST(names);
    return TEST_RESULT();
}
