/* Calls of an AWS service that speaks the Query protocol (form bodies in, XML out), or JSON (answers are handed over
 * unread): signed, bounded in rate, retried with what has a remedy, classed when they fail.
 *
 * Life of a call:   start --> waits for keys --> waits for its turn (rate) --> sent --> answered --> cb
 *                                  ^                                            |
 *                                  +---------- back-off, full jitter -----------+  AWS_AGAIN, until the deadline
 *
 * The body never changes between tries: with a client token in it the service does the thing once. A back-off is a
 * random time from 0 to min(20 s, 0.2 s x 2^tries) (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog
 * 2015); a Retry-After is kept to. The rate is a bucket (GCRA) of `burst` calls that fills with `per_s`; being
 * throttled halves per_s, each good answer gives a twentieth of it back. A clock that is wrong is corrected by the
 * Date of the refusal: the system's clock stays as it is, what is signed is what the service believes. Loop thread. */
#ifndef PROVIDERS_AWS_QUERY_H
#define PROVIDERS_AWS_QUERY_H

#include "base/fetch.h"
#include "providers/aws_errors.h"
#include "providers/aws_keys.h"
#include "providers/xml.h"

/* ---- the body: "Action=RunInstances&Version=..." ---------------------------------------------------------------- */

#define AWS_FORM_MAX ((size_t)256 << 10)
struct aws_form {
    struct strbuf text;
    bool full; /* something did not fit: aws_call_start() refuses it */
};
void aws_form_init(struct aws_form *f, const char *action, const char *version);
void aws_form_fini(struct aws_form *f);
void aws_form_add(struct aws_form *f, const char *name, const char *value); /* value NULL or "": nothing is added */
/* The name is made from a format: aws_form_addf(f, zone, "Filter.%d.Value.1", n). */
void aws_form_addf(struct aws_form *f, const char *value, const char *name_format, ...) SPW_PRINTF(3, 4);

/* ---- the client -------------------------------------------------------------------------------------------------- */

struct aws_client;
struct aws_call;
struct aws_client_options { /* borrowed, outlive the client; strings are copied */
    struct event_base *loop;
    const struct clock *clock;
    const struct log *log;
    struct fetcher *fetcher;
    struct aws_keyring *keys;
    const char *endpoint; /* "https://ec2.eu-west-1.amazonaws.com", without a path */
    const char *region, *service;
    const char *ca_file; /* NULL: the system's */
    int per_s, burst;    /* calls; 0: 5 and 20 */
};
enum rc aws_client_new(struct aws_client **c, const struct aws_client_options *o, struct error *e) SPW_MUST_USE;
void aws_client_free(struct aws_client *c); /* calls under way are dropped without a callback; NULL is fine */

struct aws_reply {
    enum provider_failure failure; /* PROVIDER_FINE: root (or body) is the answer */
    const char *code;              /* AWS's own, or "" */
    const char *text;              /* for people: code, message, what was tried; "" when fine */
    const struct xml_node *root;   /* of the answer; NULL when there is none, or in JSON */
    const char *body;
    size_t n;
    bool too_early; /* it may only not be known everywhere yet */
    int tries;
};
typedef void aws_call_cb(const struct aws_reply *r, void *arg);

struct aws_call_options {
    int64_t deadline_ms; /* of the whole call with its tries; 0: 60 s */
    int64_t try_ms;      /* of one try; 0: 20 s */
    const char *target;  /* JSON: X-Amz-Target, and `json` is the body; NULL: the form */
    const char *json;
};
/* cb comes exactly once, on the loop, never from inside the call, unless it is cancelled. form is copied. */
struct aws_call *aws_call_start(struct aws_client *c, const struct aws_form *form, const struct aws_call_options *o,
                                aws_call_cb *cb, void *arg);
void aws_call_cancel(struct aws_call *call);

/* What has been seen, for metrics and tests. */
struct aws_client_stats {
    int64_t calls, tries, throttled, unreachable, denied;
    int64_t skew_s; /* what is added to our clock */
    int64_t per_ks; /* rate now, calls per 1,000 s */
};
struct aws_client_stats aws_client_stats(const struct aws_client *c);

#endif
