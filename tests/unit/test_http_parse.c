/* The HTTP/1.1 parser: what it takes, and everything it must refuse. Each case is fed at once, byte by byte, and in
 * pieces of 3 and 7 bytes, from exact heap copies; the events must not depend on that.
 * links: spw_base */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/http_parse.h"
#include "test.h"

static const struct http_limits limits = {.head_bytes_max = 400, .headers_max = 6, .body_bytes_max = 100};

/* What happened, as text: "H" head, "B(...)" body so far joined, "E" end, "!status" refused. After an end the parser is
 * reset and goes on. */
static char story[4096];

static void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *format, ...)
{
    size_t at = strlen(story);
    va_list args;
    va_start(args, format);
    vsnprintf(story + at, sizeof(story) - at, format, args);
    va_end(args);
}

static void tell_head(const struct http_parser *p, enum http_kind kind)
{
    const struct http_head *h = http_parser_head(p);
    if (kind == HTTP_REQUEST)
        tell("H %s %s 1.%d", h->method, h->target, h->minor);
    else
        tell("H %d 1.%d", h->status, h->minor);
    for (int i = 0; i < h->n_headers; i++)
        tell(" %s=%s", h->headers[i].name, h->headers[i].value);
    tell("%s%s%s;", h->keep_alive ? "" : " close", h->chunked ? " chunked" : "", h->expect_continue ? " expect" : "");
}

/* False: refused. */
static bool feed(struct http_parser *p, enum http_kind kind, const char *in, size_t n)
{
    const char *data = NULL;
    size_t used, n_data;
    for (;;) {
        enum http_event ev = http_parser_feed(p, in, n, &used, &data, &n_data);
        in += used;
        n -= used;
        switch (ev) {
        case HTTP_HEAD: tell_head(p, kind); break;
        case HTTP_BODY: tell("%.*s", (int)n_data, data); break;
        case HTTP_END:
            tell("E;");
            http_parser_reset(p);
            if (n == 0)
                return true;
            break;
        case HTTP_NEED_MORE: return true;
        case HTTP_ERROR: {
            const char *text = NULL;
            int status = http_parser_error(p, &text);
            tell("!%d", status);
            CHECK(text && *text);
            CHECK_INT(http_parser_feed(p, in, n, &used, &data, &n_data), HTTP_ERROR); /* for good */
            return false;
        }
        }
    }
}

static void run(enum http_kind kind, const char *in, size_t n, size_t step)
{
    struct http_parser *p = http_parser_new(kind, &limits);
    story[0] = '\0';
    bool ok = true;
    for (size_t at = 0; at < n && ok;) {
        size_t piece = step && step < n - at ? step : n - at;
        char *copy = malloc(piece);
        memcpy(copy, in + at, piece);
        ok = feed(p, kind, copy, piece);
        free(copy);
        at += piece;
    }
    if (ok) {
        switch (http_parser_eof(p)) {
        case HTTP_NEED_MORE: break;
        case HTTP_END: tell("E;"); break;
        default: tell("!cut"); break;
        }
    }
    http_parser_free(p);
}

struct parse_case {
    const char *in, *want;
    size_t n; /* 0: strlen */
};

static void check_all(enum http_kind kind, const struct parse_case *cases, size_t count)
{
    static const size_t steps[] = {0, 1, 3, 7};
    for (size_t i = 0; i < count; i++)
        for (size_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
            run(kind, cases[i].in, cases[i].n ? cases[i].n : strlen(cases[i].in), steps[s]);
            if (strcmp(story, cases[i].want) != 0)
                fprintf(stderr, "case %zu, step %zu: %s\n", i, steps[s], cases[i].in);
            CHECK_STR(story, cases[i].want);
        }
}
#define CHECK_ALL(kind, cases) check_all(kind, cases, sizeof(cases) / sizeof((cases)[0]))

#define HOST    "Host: a\r\n"
#define POST    "POST / HTTP/1.1\r\n" HOST
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define HC      "H POST / 1.1 Host=a Transfer-Encoding=chunked chunked;"

static void takes_good_requests(void)
{
    static const struct parse_case cases[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "H GET / 1.1 Host=a;E;", 0},
        {"GET /a?b=c%20d HTTP/1.1\r\nhOST:a\r\n\r\n", "H GET /a?b=c%20d 1.1 hOST=a;E;", 0},
        {"GET / HTTP/1.1\r\nHost:\t [::1]:80 \t\r\nX:\r\n\r\n", "H GET / 1.1 Host=[::1]:80 X=;E;", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", "H GET / 1.1 Host=a Connection=x, Close close;E;",
         0},
        {"GET / HTTP/1.0\r\n\r\n", "H GET / 1.0 close;E;", 0},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "H GET / 1.0 Connection=keep-alive;E;", 0},
        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "H OPTIONS * 1.1 Host=a;E;", 0},
        {"GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n", "H GET /x 1.1 Host=A;E;", 0},
        {"GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", "H GET /?x 1.1 Host=a;E;", 0},
        {"GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n", "H GET / 1.1 Host=a;E;", 0},
        {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "H GET / 1.1 Host=a;E;", 0},
        {"\r\n", "", 0}, /* what old clients send behind a body */
        {POST "Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n" HOST "\r\n",
         "H POST / 1.1 Host=a Content-Length=3;abcE;H GET / 1.1 Host=a;E;", 0},
        {POST "Content-Length: 0\r\n\r\n", "H POST / 1.1 Host=a Content-Length=0;E;", 0},
        {POST "Content-Length: 0003\r\n\r\nabc", "H POST / 1.1 Host=a Content-Length=0003;abcE;", 0},
        {POST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
         "H POST / 1.1 Host=a Expect=100-Continue Content-Length=1 expect;xE;", 0},
        {CHUNKED "3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n", HC "abc0123456789E;", 0},
        {CHUNKED "0\r\n\r\n", HC "E;", 0},
        {CHUNKED "000\r\n\r\n", HC "E;", 0},
        {CHUNKED "0000000000000001\r\nx\r\n0;last\r\n\r\n", HC "xE;", 0},
        {CHUNKED "1;a=\"b c\";d\r\nx\r\n0\r\n\r\n", HC "xE;", 0},
        {CHUNKED "64\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123"
                 "456789\r\n0\r\n\r\n",
         HC "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789E;",
         0},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
         "H POST / 1.1 Host=a Transfer-Encoding=CHUNKED chunked;E;", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4\tb\r\n\r\n", "H GET / 1.1 Host=a X=\xc3\xa4\tb;E;", 0},
        {"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", "H POST / 1.0 Content-Length=1 close;xE;", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nconnection:close\r\n\r\n",
         "H GET / 1.1 Host=a Connection=keep-alive connection=close close;E;", 0},
        {"GET / HTTP/1.0\r\nConnection: close, Keep-Alive\r\n\r\n", "H GET / 1.0 Connection=close, Keep-Alive close;E;",
         0},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed, xclose, close-\r\n\r\n",
         "H GET / 1.1 Host=a Connection=closed, xclose, close-;E;", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n1:\r\n2:\r\n3:\r\n4:\r\n5:\r\n\r\n", "H GET / 1.1 Host=a 1= 2= 3= 4= 5=;E;",
         0}, /* as many as may be */
        {"ABCDEFGHIJKLMNO / HTTP/1.1\r\nHost: a\r\n\r\n", "H ABCDEFGHIJKLMNO / 1.1 Host=a;E;", 0},
        {"GET / HTTP/1.1\r\nHost:\r\n\r\n", "H GET / 1.1 Host=;E;", 0}, /* RFC 9112 3.2 */
        {"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "H OPTIONS / 1.1 Host=a;E;", 0},
        {"GET //x HTTP/1.1\r\nHost: a\r\n\r\n", "H GET //x 1.1 Host=a;E;", 0}, /* a path, no authority */
        {"GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent_Length: 5\r\n\r\n",
         "H GET / 1.1 Host=a Transfer_Encoding=chunked Content_Length=5;E;", 0}, /* other names, as far as we know */
    };
    CHECK_ALL(HTTP_REQUEST, cases);
}

static void refuses_bad_heads(void)
{
    static const struct parse_case cases[] = {
        /* line ends and control bytes */
        {"GET / HTTP/1.1\nHost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", "!400", 0},
        {"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 29},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "!400", 32},
        {"GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n", "!400", 33},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "!400", 0},
        {"\0", "!cut", 1},
        /* the request line */
        {"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "!400", 0},
        {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET /\r\n\r\n", "!400", 0},
        {"GET / http/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.11\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/01.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/0.9\r\nHost: a\r\n\r\n", "!505", 0},
        {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "!505", 0},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "!505", 0},
        {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"ABCDEFGHIJKLMNOP / HTTP/1.1\r\nHost: a\r\n\r\n", "!501", 0},
        {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "!400", 0},
        {"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http://a/ HTTP/1.1\r\nHost: ab\r\n\r\n", "!400", 0},
        {"GET http://ab/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http://a@b/ HTTP/1.1\r\nHost: a@b\r\n\r\n", "!400", 0},
        {"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http:a/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET \x7f/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"POST * HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http:/// HTTP/1.1\r\nHost: \r\n\r\n", "!400", 0},
        {"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "!400", 0},
        {"GET http://a/ HTTP/1.0\r\n\r\n", "!400", 0},
        {"\x16\x03\x01\x02\r\n\r\n", "!400", 0}, /* TLS spoken to a plain port */
        /* headers */
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nX@: x\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nX\xc3: x\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nauthorization: a\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.1\r\nHost: a\r\n1:\r\n2:\r\n3:\r\n4:\r\n5:\r\n6:\r\n\r\n", "!431", 0},
        {POST "Expect: everything\r\n\r\n", "!417", 0},
        {"GET / HTTP/1.1\r\nHost: a", "!cut", 0},
        {"G", "!cut", 0},
    };
    CHECK_ALL(HTTP_REQUEST, cases);
}

static void refuses_bad_lengths(void)
{
    static const struct parse_case cases[] = {
        {POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 3, 3\r\n\r\nabc", "!400", 0},
        {POST "content-length: 3\r\nCONTENT-LENGTH: 3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length:\x0b"
              "3\r\n\r\nabc",
         "!400", 0},
        {POST "Content-Length: \xb3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 3;\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 1_0\r\n\r\nabc", "!400", 0},
        {POST "Content-Length\t: 3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: +3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: -3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 3 3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 0x3\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: \r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 3.0\r\n\r\nabc", "!400", 0},
        {POST "Content-Length: 101\r\n\r\n", "!413", 0},
        {POST "Content-Length: 9223372036854775808\r\n\r\n", "!413", 0},
        {POST "Content-Length: 18446744073709551617\r\n\r\n", "!413", 0},
        {POST "Content-Length: 99999999999999999999999999\r\n\r\n", "!413", 0},
        {POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400", 0},
        {POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "!400", 0},
        {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400", 0},
        {POST "Transfer-Encoding: gzip, chunked\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: chunked, identity\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: identity\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: xchunked\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: \"chunked\"\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding:\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: chunked,\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: ,chunked\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding: chunked, chunked\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n", "!501", 0},
        {POST "TRANSFER-ENCODING: chunked\r\ncontent-length: 0\r\n\r\n", "!400", 0},
        {"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400", 0},
        {POST "Transfer-Encoding: chunked;q=1\r\n\r\n", "!501", 0},
        {POST "Transfer-Encoding:\x0b"
              "chunked\r\n\r\n",
         "!400", 0},
        {POST "Transfer-Encoding : chunked\r\n\r\n", "!400", 0},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!400", 0},
        {"GET / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", "!400", 0},
        {"HEAD / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", "!400", 0},
        {"DELETE / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", "!400", 0},
        {POST "Content-Length: 3\r\n\r\nab", "H POST / 1.1 Host=a Content-Length=3;ab!cut", 0},
        {CHUNKED "\r\n", HC "!400", 0},
        {CHUNKED "+1\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "-1\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "0x1\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED " 1\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "1 \r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "1 ;a\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED ";a\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "g\r\n", HC "!400", 0},
        {CHUNKED "1\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "1\rx", HC "!400", 0},
        {CHUNKED "1;a\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "1;a\rb\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "00000000000000001\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "ffffffffffffffff\r\n", HC "!413", 0},
        {CHUNKED "8000000000000000\r\n", HC "!413", 0},
        {CHUNKED "65\r\n", HC "!413", 0},
        {CHUNKED "1\r\nx\r\n64\r\n", HC "x!413", 0},
        {CHUNKED "1\r\nxy\r\n0\r\n\r\n", HC "x!400", 0},
        {CHUNKED "2\r\nx\r\n0\r\n\r\n", HC "x\r!400", 0},
        {CHUNKED "1\r\nx\n0\r\n\r\n", HC "x!400", 0},
        {CHUNKED "0\r\nX: trailer\r\n\r\n", HC "!400", 0},
        {CHUNKED "0\r\nContent-Length: 5\r\n\r\n", HC "!400", 0},
        {CHUNKED "0\r\n folded\r\n\r\n", HC "!400", 0},
        {CHUNKED "1\t\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "1_0\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "1;\x7f\r\nx\r\n0\r\n\r\n", HC "!400", 0},
        {CHUNKED "0\r\n\n", HC "!400", 0},
        {CHUNKED "0\n\r\n", HC "!400", 0},
        {CHUNKED "1\r\nx\r\n", HC "x!cut", 0},
        {CHUNKED "0\r\n", HC "!cut", 0},
    };
    CHECK_ALL(HTTP_REQUEST, cases);
    char long_line[400] = CHUNKED "1;"; /* one extension over the bound */
    memset(long_line + strlen(long_line), 'e', 260);
    struct parse_case over = {long_line, HC "!400", 0};
    check_all(HTTP_REQUEST, &over, 1);
}

/* One-byte chunks with a long extension each cost far more than they carry: bounded over the whole message. */
static void bounds_chunk_extensions(void)
{
    char *in = malloc(1 << 16);
    char *at = in + snprintf(in, 1 << 16, "%s", CHUNKED);
    for (int i = 0; i < 90; i++) {
        at += snprintf(at, 4, "1;");
        memset(at, 'e', 200);
        at += 200;
        at += snprintf(at, 8, "\r\nx\r\n");
    }
    run(HTTP_REQUEST, in, (size_t)(at - in), 0);
    CHECK(strstr(story, "xxx!400") && strlen(story) < strlen(HC) + 90);
    free(in);
}

static void bounds_heads(void)
{
    char in[1000] = "GET /";
    struct parse_case c = {in, "!414", 0};
    memset(in + 5, 'a', 600);
    check_all(HTTP_REQUEST, &c, 1);
    char filler[601];
    memset(filler, 'b', sizeof(filler));
    c.want = "!431";
    snprintf(in, sizeof(in), "GET / HTTP/1.1\r\nHost: a\r\nX: %.*s", 600, filler);
    check_all(HTTP_REQUEST, &c, 1);
    /* Exactly the bound is fine, one more is not. */
    int room = 400 - (int)strlen("GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n");
    snprintf(in, sizeof(in), "GET / HTTP/1.1\r\nHost: a\r\nX: %.*s\r\n\r\n", room, filler);
    for (size_t step = 0; step < 2; step++) {
        run(HTTP_REQUEST, in, 400, step);
        CHECK(strstr(story, ";E;"));
    }
    snprintf(in, sizeof(in), "GET / HTTP/1.1\r\nHost: a\r\nX: %.*s\r\n\r\n", room + 1, filler);
    check_all(HTTP_REQUEST, &c, 1);
}

#define OK "HTTP/1.1 200 OK\r\n"

static void takes_good_responses(void)
{
    static const struct parse_case cases[] = {
        {OK "Content-Length: 2\r\n\r\nhi", "H 200 1.1 Content-Length=2;hiE;", 0},
        {OK "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
         "H 200 1.1 Transfer-Encoding=chunked chunked;hiE;", 0},
        {OK "\r\nuntil closed", "H 200 1.1 close;until closedE;", 0},
        {OK "\r\n", "H 200 1.1 close;E;", 0},
        {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "H 200 1.0 Content-Length=1 close;xE;", 0},
        {"HTTP/1.1 204 No Content\r\n\r\n", "H 204 1.1;E;", 0},
        {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "H 304 1.1 Content-Length=5;E;", 0},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" OK "Content-Length: 1\r\n\r\nx",
         "H 200 1.1 Content-Length=1;xE;", 0},
        {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "H 200 1.1 Content-Length=0;E;", 0},
        {"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "H 200 1.1 Content-Length=0;E;", 0},
        {"HTTP/1.1 599 \xc3\xa4\r\nContent-Length: 0\r\n\r\n", "H 599 1.1 Content-Length=0;E;", 0},
        {OK "Authorization: a\r\nAuthorization: b\r\nContent-Length: 0\r\n\r\n",
         "H 200 1.1 Authorization=a Authorization=b Content-Length=0;E;", 0},
        {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n" OK "Content-Length: 1\r\n\r\nx",
         "H 204 1.1 Content-Length=5;E;H 200 1.1 Content-Length=1;xE;", 0}, /* what follows is the next answer */
        {OK "Host: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n", "H 200 1.1 Host=a Host=b Content-Length=0;E;", 0},
    };
    CHECK_ALL(HTTP_RESPONSE, cases);
    struct http_parser *p = http_parser_new(HTTP_RESPONSE, &limits);
    story[0] = '\0';
    http_parser_expect_no_body(p);
    CHECK(feed(p, HTTP_RESPONSE, OK "Content-Length: 5000\r\n\r\n", strlen(OK) + 24));
    CHECK_STR(story, "H 200 1.1 Content-Length=5000;E;");
    http_parser_free(p);
}

static void refuses_bad_responses(void)
{
    static const struct parse_case cases[] = {
        {"HTTP/1.1 20 OK\r\n\r\n", "!400", 0},
        {"HTTP/1.1 2000 OK\r\n\r\n", "!400", 0},
        {"HTTP/1.1 099 OK\r\n\r\n", "!400", 0},
        {"HTTP/1.1 600 OK\r\n\r\n", "!400", 0},
        {"HTTP/1.1  200 OK\r\n\r\n", "!400", 0},
        {"HTTP/2.0 200 OK\r\n\r\n", "!400", 0},
        {"HTTP/1.1 200 O\x01K\r\n\r\n", "!400", 0},
        {"HTTP/1.1 200 OK\n\n", "!400", 0},
        {"ICY 200 OK\r\n\r\n", "!400", 0},
        {"\r\n" OK "\r\n", "!400", 0},
        {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "!400", 0},
        {"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\nabc", "!400", 0},
        {OK "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "!400", 0},
        {OK "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "!400", 0},
        {OK "Transfer-Encoding: gzip\r\n\r\n", "!501", 0},
        {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "!400", 0},
        {OK "X : a\r\n\r\n", "!400", 0},
        {OK "X: a\r\n b\r\n\r\n", "!400", 0},
        {OK "Content-Length: 5\r\n\r\nabc", "H 200 1.1 Content-Length=5;abc!cut", 0},
        {OK "Content-Le", "!cut", 0},
        {OK "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "H 200 1.1 Transfer-Encoding=chunked chunked;hi!cut", 0},
        {OK "\r\n01234567890123456789012345678901234567890123456789"
            "01234567890123456789012345678901234567890123456789x",
         "H 200 1.1 close;01234567890123456789012345678901234567890123456789"
         "01234567890123456789012345678901234567890123456789!413",
         0}, /* by close: what fits first, wherever it is cut */
        {OK "Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n\r\n", "H 200 1.1 Transfer-Encoding=chunked chunked;!400",
         0},
        {"HTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 100 "
         "\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 100 \r\n\r\n",
         "!400", 0},
    };
    CHECK_ALL(HTTP_RESPONSE, cases);
}

/* A big head is given back with the next message, and an end stays the end until then. */
static void ends_are_final_and_memory_goes(void)
{
    static const struct http_limits wide = {.head_bytes_max = 65536, .headers_max = 100};
    struct http_parser *p = http_parser_new(HTTP_REQUEST, &wide);
    char *big = malloc(20000);
    memset(big, 'v', 20000);
    memcpy(big, "GET / HTTP/1.1\r\nHost: a\r\nX: ", 28);
    memcpy(big + 20000 - 4, "\r\n\r\n", 4);
    const char *data;
    size_t used, n_data;
    CHECK_INT(http_parser_held(p), 0);
    CHECK_INT(http_parser_feed(p, big, 20000, &used, &data, &n_data), HTTP_HEAD);
    CHECK_INT(used, 20000);
    CHECK(http_parser_held(p) >= 20000);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(http_parser_feed(p, "GET / HTTP/1.1\r\n", 16, &used, &data, &n_data), HTTP_END);
        CHECK_INT(used, 0); /* the next message is not begun behind anybody's back */
    }
    CHECK_INT(http_parser_eof(p), HTTP_END);
    http_parser_reset(p);
    CHECK_INT(http_parser_held(p), 0);
    CHECK_INT(http_parser_feed(p, "GET / HTTP/1.0\r\n\r\n", 18, &used, &data, &n_data), HTTP_HEAD);
    CHECK_INT(http_parser_head(p)->n_headers, 0); /* nothing of the last one */
    free(big);
    http_parser_free(p);
}

static void defaults_apply(void)
{
    struct http_parser *p = http_parser_new(HTTP_RESPONSE, &(struct http_limits){0}); /* a response may be endless */
    const char *head = OK "Content-Length: 99999999999\r\n\r\n", *data;
    size_t used, n_data;
    CHECK_INT(http_parser_feed(p, head, strlen(head), &used, &data, &n_data), HTTP_HEAD);
    CHECK(http_parser_head(p)->content_length == 99999999999);
    CHECK_STR(http_head_get(http_parser_head(p), "content-LENGTH"), "99999999999");
    CHECK(!http_head_get(http_parser_head(p), "Content-Lengt"));
    http_parser_free(p);
    p = http_parser_new(HTTP_REQUEST, NULL); /* a request may not */
    head = POST "Content-Length: 33554433\r\n\r\n";
    CHECK_INT(http_parser_feed(p, head, strlen(head), &used, &data, &n_data), HTTP_ERROR);
    CHECK_INT(http_parser_error(p, NULL), 413);
    http_parser_free(p);
}

int main(void)
{
    TEST(takes_good_requests);
    TEST(refuses_bad_heads);
    TEST(refuses_bad_lengths);
    TEST(bounds_chunk_extensions);
    TEST(bounds_heads);
    TEST(takes_good_responses);
    TEST(refuses_bad_responses);
    TEST(ends_are_final_and_memory_goes);
    TEST(defaults_apply);
    return TEST_RESULT();
}
