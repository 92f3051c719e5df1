/* Calls to the outside (price lists, cloud APIs, webhooks) by libcurl's multi interface on the loop. Never blocks. */
#ifndef BASE_FETCH_H
#define BASE_FETCH_H

#include <event2/event.h>

#include "base/http_parse.h"

struct fetcher;
struct fetch;

enum rc fetcher_new(struct fetcher **f, struct event_base *loop, struct error *e) SPW_MUST_USE;
void fetcher_free(struct fetcher *f); /* running fetches are dropped without a call */

struct fetch_request {
    const char *method, *url; /* http or https only */
    const struct http_header *headers;
    int n_headers;
    const void *body; /* copied */
    size_t body_len;
    int64_t deadline_ms;     /* whole call; 0: 30 s */
    size_t answer_bytes_max; /* 0: 16 MiB; more is RC_FULL */
    const char *ca_file;     /* NULL: the system's */
    /* SHA-256 of the one certificate (DER) that the server must show; NULL: none. It stands in place of authorities and
     * names: management controllers sign their own, under any name. */
    const unsigned char *pin_sha256;
};
struct fetch_answer {
    int status;
    const char *body; /* NUL-terminated, borrowed for the callback */
    size_t n;
    int64_t retry_after_s; /* of its Retry-After, seconds or date; 0: none */
    void *transfer;        /* for fetch_answer_header() */
    int64_t date_s;        /* of its Date: Unix seconds by the peer's clock; 0: none */
};
/* The value of the (first) header of this name in any case, or NULL. Borrowed until the next call of it. */
const char *fetch_answer_header(const struct fetch_answer *a, const char *name);
/* "sha256:AB:CD:..", "AB:CD:.." or 64 digits, as `openssl x509 -fingerprint -sha256` prints it: 32 bytes. */
enum rc fetch_pin_parse(const char *text, unsigned char pin[32], struct error *e) SPW_MUST_USE;
/* RC_DENIED: the server's certificate is not one that is believed; RC_TIMEOUT, RC_FULL, else RC_IO. Exactly one of
 * answer and error is not NULL. On the loop, never from inside fetch_start(). */
typedef void fetch_cb(const struct fetch_answer *answer, const struct error *e, void *arg);
enum rc fetch_start(struct fetcher *f, const struct fetch_request *r, fetch_cb *cb, void *arg, struct fetch **out,
                    struct error *e) SPW_MUST_USE;
void fetch_cancel(struct fetch *f);

#endif
