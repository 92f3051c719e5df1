/* Proves what is taken for the address of a server, and that nothing is taken for this machine that only begins like
 * it.
 * links: spw_base */
#include "tests/unit/test.h"

#include <string.h>

#include "base/url.h"

static void test_right(void)
{
    static const struct {
        const char *text, *host;
        int port;
        bool tls;
    } cases[] = {{"http://h", "h", 80, false},       {"https://h", "h", 443, true},
                 {"https://h/", "h", 443, true},     {"http://10.0.0.5:8000", "10.0.0.5", 8000, false},
                 {"http://[::1]", "::1", 80, false}, {"https://[2001:db8::1]:65535/", "2001:db8::1", 65535, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct url u;
        struct error e;
        CHECK_INT(url_parse(&u, cases[i].text, &e), RC_OK);
        CHECK_STR(u.host, cases[i].host);
        CHECK_INT(u.port, cases[i].port);
        CHECK(u.tls == cases[i].tls);
    }
}

static void test_wrong(void)
{
    static const char *const cases[] = {"",
                                        "h",
                                        "ftp://h",
                                        "http:/h",
                                        "http://",
                                        "http://:80",
                                        "http://h:",
                                        "http://h:0",
                                        "http://h:x",
                                        "http://h:1x",
                                        "http://h:65536",
                                        "http://h:000080",
                                        "http://h/v1",
                                        "http://h?a",
                                        "http://h#a",
                                        "http://[]",
                                        "http://[::1",
                                        "http://[::1]80",
                                        "http://::1",
                                        "http://u:p@h:8000",
                                        "https://h:80:80"};
    char longest[URL_HOST_MAX + 16];
    struct url u;
    struct error e;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (url_parse(&u, cases[i], &e) != RC_INVALID)
            fprintf(stderr, "taken: %s\n", cases[i]);
        CHECK_INT(url_parse(&u, cases[i], &e), RC_INVALID);
        CHECK(strstr(e.message, "HOST:PORT") && !strstr(e.message, "u:p"));
    }
    memset(longest, 'h', sizeof longest);
    memcpy(longest, "http://", 7);
    longest[7 + URL_HOST_MAX] = '\0';
    CHECK_INT(url_parse(&u, longest, &e), RC_OK);
    longest[7 + URL_HOST_MAX] = 'h';
    longest[8 + URL_HOST_MAX] = '\0';
    CHECK_INT(url_parse(&u, longest, &e), RC_INVALID);
}

static void test_loopback(void)
{
    static const char *const here[] = {"localhost", "localhost:80", "LocalHost:1",
                                       "127.0.0.1", "127.0.0.1:0",  "127.9.9.9:80",
                                       "[::1]",     "[::1]:80",     "[0:0:0:0:0:0:0:1]:80"};
    static const char *const elsewhere[] = {"",
                                            "localhost.example.com",
                                            "localhosts:80",
                                            "127.example.com:80",
                                            "127.0.0.1.example.com",
                                            "128.0.0.1:80",
                                            "[::2]:80",
                                            "[::1",
                                            "[127.0.0.1]",
                                            "::1",
                                            "127.0.0.1:80:80",
                                            "[::1]x",
                                            "user@localhost",
                                            "0.0.0.0:80",
                                            "[::]:80"};
    for (size_t i = 0; i < sizeof here / sizeof here[0]; i++)
        CHECK(url_is_loopback(here[i]));
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++)
        CHECK(!url_is_loopback(elsewhere[i]));
}

int main(void)
{
    TEST(test_right);
    TEST(test_wrong);
    TEST(test_loopback);
    return TEST_RESULT();
}
