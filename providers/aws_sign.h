/* AWS Signature Version 4 (AWS IAM User Guide, "Create a signed AWS API request"), by our own hand: libcurl's
 * CURLOPT_AWS_SIGV4 signs header lines that it then does not send, leaves queries as they are and cannot be told the
 * time (curl before 8.3).
 *
 * Pure: a request, keys and a time go in, header values come out. Any thread. What is signed: `host`, `x-amz-date`,
 * `x-amz-security-token` with temporary keys, and every header that is given; nothing else, so that whoever sends
 * may add headers of his own. The body is signed by its hash. Paths are normalised and encoded as all services but
 * S3 want it. */
#ifndef PROVIDERS_AWS_SIGN_H
#define PROVIDERS_AWS_SIGN_H

#include "base/alloc.h"
#include "base/http_parse.h"

struct aws_keys {
    const char *id, *secret;
    const char *token; /* of temporary keys; NULL: none */
};

struct aws_request {
    const char *method; /* "POST" */
    const char *host;   /* as the Host header has it: with its port, unless that is the scheme's own */
    const char *path;   /* as it is sent, percent-encoded; "" is "/" */
    const char *query;  /* as it is sent, percent-encoded, without '?'; NULL: none */
    const struct http_header *headers;
    int n_headers; /* at most AWS_SIGN_HEADERS_MAX */
    const void *body;
    size_t body_len;
    const char *region, *service;
};
#define AWS_SIGN_HEADERS_MAX 32

/* The headers to send with the request, beside those that were given. */
struct aws_signature {
    char date[sizeof "20150830T123600Z"]; /* x-amz-date */
    char *authorization;                  /* owned */
    char signature[65];                   /* the last word of it, for tests */
};

/* time_s: Unix seconds, as the service has them (see aws_query.h on clocks that go wrong). RC_INVALID: a header, the
 * host or the keys hold what cannot be signed (line breaks, nothing at all), too many headers, or a time out of
 * range. */
enum rc aws_sign(const struct aws_request *r, const struct aws_keys *k, int64_t time_s, struct aws_signature *s,
                 struct error *e) SPW_MUST_USE;
void aws_signature_fini(struct aws_signature *s); /* {0} is fine */

/* Appends s as RFC 3986 has it for AWS: all but letters, digits and -._~ becomes %XX, upper case. */
enum rc aws_encode(struct strbuf *out, const char *s);
/* The two steps on the way, for tests and for "why does it not match": the canonical request is appended to `out`. */
enum rc aws_canonical_request(struct strbuf *out, const struct aws_request *r, const struct aws_keys *k,
                              const char *date, struct error *e) SPW_MUST_USE;

#endif
