/* Signs what it is told, for comparison with botocore: one JSON object a line on stdin, its signature a line on stdout.
 * {"method", "host", "path", "query", "headers": [[name, value], ...], "body" (base64), "id", "secret", "token",
 * "time", "region", "service"}
 * links: spw_providers */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "providers/aws_sign.h"

static const char *text(const cJSON *o, const char *key)
{
    const cJSON *v = json_find(o, key);
    return v && v->valuestring ? v->valuestring : NULL;
}

static int sign_line(const cJSON *o)
{
    static unsigned char body[1 << 20];
    struct http_header headers[AWS_SIGN_HEADERS_MAX];
    const char *coded = text(o, "body");
    struct aws_keys k = {.id = text(o, "id"), .secret = text(o, "secret"), .token = text(o, "token")};
    struct aws_request r = {.method = text(o, "method"),
                            .host = text(o, "host"),
                            .path = text(o, "path"),
                            .query = text(o, "query"),
                            .headers = headers,
                            .body = body,
                            .region = text(o, "region"),
                            .service = text(o, "service")};
    struct aws_signature s;
    struct error e;
    const cJSON *h;
    int n = EVP_DecodeBlock(body, (const unsigned char *)coded, (int)strlen(coded));
    for (size_t i = strlen(coded); n > 0 && i > 0 && coded[i - 1] == '='; i--)
        n--;
    r.body_len = (size_t)n;
    cJSON_ArrayForEach(h, json_find(o, "headers"))
    {
        if (r.n_headers < AWS_SIGN_HEADERS_MAX)
            headers[r.n_headers++] = (struct http_header){h->child->valuestring, h->child->next->valuestring};
    }
    if (aws_sign(&r, &k, (int64_t)json_find(o, "time")->valuedouble, &s, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    printf("%s\n", s.authorization);
    aws_signature_fini(&s);
    return 0;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int failed = 0;
    while ((n = getline(&line, &cap, stdin)) > 0 && !failed) {
        cJSON *o = NULL;
        struct error e;
        failed = json_parse(line, (size_t)n, 8, &o, &e) != RC_OK || sign_line(o);
        cJSON_Delete(o);
    }
    free(line);
    return failed;
}
