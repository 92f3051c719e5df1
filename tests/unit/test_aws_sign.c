/* Signature Version 4: AWS's own test suite, what is refused, and that what is not signed does not matter.
 * links: spw_providers */
#include "providers/aws_sign.h"

#include "tests/unit/aws_sign_vectors.h"
#include "tests/unit/test.h"

#define SUITE_TIME INT64_C(1440938160) /* 2015-08-30T12:36:00Z */

static const struct aws_keys suite_keys = {.id = "AKIDEXAMPLE", .secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"};

static struct aws_request vanilla(void)
{
    return (struct aws_request){
        .method = "GET", .host = "example.amazonaws.com", .path = "/", .region = "us-east-1", .service = "service"};
}

static void published_vectors(void)
{
    for (size_t i = 0; i < sizeof sign_vectors / sizeof sign_vectors[0]; i++) {
        const struct sign_vector *v = &sign_vectors[i];
        struct aws_request r = vanilla();
        struct aws_keys k = suite_keys;
        struct aws_signature s;
        struct error e;
        r.method = v->method;
        r.path = v->path;
        r.query = v->query;
        r.headers = v->headers;
        while (v->headers[r.n_headers].name)
            r.n_headers++;
        r.body = v->body;
        r.body_len = strlen(v->body);
        k.token = v->token;
        CHECK_INT(aws_sign(&r, &k, SUITE_TIME, &s, &e), RC_OK);
        CHECK_STR(s.signature, v->signature);
        if (strcmp(s.signature, v->signature) != 0)
            fprintf(stderr, "  in %s\n", v->name);
        aws_signature_fini(&s);
    }
}

static void authorization_line(void)
{
    struct aws_request r = vanilla();
    struct aws_signature s;
    struct error e;
    CHECK_INT(aws_sign(&r, &suite_keys, SUITE_TIME, &s, &e), RC_OK);
    CHECK_STR(s.date, "20150830T123600Z");
    CHECK_STR(
        s.authorization,
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    aws_signature_fini(&s);
}

static void canonical_request(void)
{
    struct aws_request r = vanilla();
    struct http_header h[] = {{"X-B", "  two\t words "}, {"x-a", "1"}, {"X-b", "again"}};
    struct strbuf out;
    struct error e;
    strbuf_init(&out, 4096);
    r.path = "/a%20b/./c/../";
    r.query = "z=1&a&b=%2F";
    r.headers = h;
    r.n_headers = 3;
    CHECK_INT(aws_canonical_request(&out, &r, &suite_keys, "20150830T123600Z", &e), RC_OK);
    CHECK_STR(out.data, "GET\n/a%2520b/\na=&b=%2F&z=1\nhost:example.amazonaws.com\nx-a:1\nx-amz-date:20150830T123600Z\n"
                        "x-b:two words,again\n\nhost;x-a;x-amz-date;x-b\n"
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    strbuf_fini(&out);
}

static void encoding(void)
{
    struct strbuf out;
    strbuf_init(&out, 256);
    CHECK_INT(aws_encode(&out, "aZ9-._~ +/=%&\n\xe1\x88\xb4"), RC_OK);
    CHECK_STR(out.data, "aZ9-._~%20%2B%2F%3D%25%26%0A%E1%88%B4");
    strbuf_fini(&out);
}

static void refuses(struct aws_request r, struct aws_keys k, int64_t time_s)
{
    struct aws_signature s;
    struct error e;
    CHECK_INT(aws_sign(&r, &k, time_s, &s, &e), RC_INVALID);
    CHECK(s.authorization == NULL);
    CHECK(strstr(e.message, suite_keys.secret) == NULL);
    aws_signature_fini(&s);
}

static void bad_requests(void)
{
    static char long_path[1 << 20];
    struct aws_request r = vanilla();
    struct aws_keys k = suite_keys;
    struct http_header break_in_name = {"a\n", "b"}, break_in_value = {"a", "b\r\nc"}, none = {"", "b"};
    k.id = "";
    refuses(r, k, SUITE_TIME);
    k = suite_keys;
    k.secret = NULL;
    refuses(r, k, SUITE_TIME);
    k = suite_keys;
    k.id = "AKID/X";
    refuses(r, k, SUITE_TIME);
    k = suite_keys;
    k.token = "a\nb";
    refuses(r, k, SUITE_TIME);
    refuses(r, suite_keys, -1);
    refuses(r, suite_keys, INT64_MAX);
    r.n_headers = 1;
    r.headers = &break_in_name;
    refuses(r, suite_keys, SUITE_TIME);
    r.headers = &break_in_value;
    refuses(r, suite_keys, SUITE_TIME);
    r.headers = &none;
    refuses(r, suite_keys, SUITE_TIME);
    r.n_headers = AWS_SIGN_HEADERS_MAX + 1;
    refuses(r, suite_keys, SUITE_TIME);
    r = vanilla();
    r.host = "";
    refuses(r, suite_keys, SUITE_TIME);
    r = vanilla();
    memset(long_path, 'a', sizeof long_path - 1);
    r.path = long_path;
    refuses(r, suite_keys, SUITE_TIME);
    for (size_t i = 0; i < 2000; i++) /* many parts */
        long_path[2 * i] = '/';
    long_path[4000] = '\0';
    refuses(r, suite_keys, SUITE_TIME);
}

int main(void)
{
    TEST(published_vectors);
    TEST(authorization_line);
    TEST(canonical_request);
    TEST(encoding);
    TEST(bad_requests);
    return TEST_RESULT();
}
