/* Where AWS keys come from: the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a
 * credentials file as the AWS tools write it (a profile's aws_access_key_id, aws_secret_access_key,
 * aws_session_token), or the role of the machine that we run on (instance metadata, version 2: a token first). Loop
 * thread.
 *
 * The file is read when the ring is made and again when its keys were refused: it is small and local. Those of a
 * role are fetched when first asked for, and again five minutes before they expire; what is there is used meanwhile.
 * Secrets are wiped before they are freed, and stand in no error. */
#ifndef PROVIDERS_AWS_KEYS_H
#define PROVIDERS_AWS_KEYS_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/fetch.h"
#include "providers/aws_sign.h"

enum aws_keys_source {
    AWS_KEYS_ANY /* the first of these that has some */,
    AWS_KEYS_ENV,
    AWS_KEYS_FILE,
    AWS_KEYS_ROLE
};

struct aws_keyring;
struct aws_keyring_options { /* all borrowed, outlive the ring; strings are copied */
    struct event_base *loop;
    const struct clock *clock;
    struct fetcher *fetcher;
    enum aws_keys_source source;
    const char *file;    /* NULL: $AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials */
    const char *profile; /* NULL: $AWS_PROFILE, else "default" */
    const char *imds;    /* NULL: "http://169.254.169.254" */
};
/* RC_INVALID, RC_NOT_FOUND: what was asked for has no keys; the message says which variable, file or profile. Keys of a
 * role are only known to be missing once they were asked for. */
enum rc aws_keyring_new(struct aws_keyring **k, const struct aws_keyring_options *o, struct error *e) SPW_MUST_USE;
void aws_keyring_free(struct aws_keyring *k); /* no callback follows; NULL is fine */

/* Keys to sign with now, or NULL: aws_keyring_fetch() gets them. Valid until the loop goes on. */
const struct aws_keys *aws_keyring_peek(struct aws_keyring *k);
/* Goes up each time that other keys are there. */
unsigned aws_keyring_generation(const struct aws_keyring *k);
/* Keys of that generation were refused. True: newer ones are there, or can be fetched (peek() says NULL then). */
bool aws_keyring_refused(struct aws_keyring *k, unsigned generation);

/* One that waits for keys; the caller's storage, until cb or aws_keyring_unwait(). */
struct aws_keys_wait {
    void (*cb)(const struct error *e, void *arg); /* e NULL: peek() has some. On the loop, never from inside the call */
    void *arg;
    struct aws_keys_wait *prev, *next;
};
void aws_keyring_fetch(struct aws_keyring *k, struct aws_keys_wait *w);
void aws_keyring_unwait(struct aws_keys_wait *w); /* of one that waits */

/* "environment", "file /home/x/.aws/credentials, profile default", "role of this machine": for people. */
const char *aws_keyring_describe(const struct aws_keyring *k);
/* One profile of such a file's text. Pure. RC_NOT_FOUND: no such profile; RC_INVALID: it lacks a key. *out points into
 * text, which is cut up. For tests and the ring. */
enum rc aws_keys_parse_file(char *text, const char *profile, struct aws_keys *out, struct error *e) SPW_MUST_USE;
/* The JSON that the metadata service gives for a role. Strings of *out are owned (aws_keys_wipe). */
enum rc aws_keys_parse_role(const char *json, size_t n, struct aws_keys *out, int64_t *expires_s,
                            struct error *e) SPW_MUST_USE;
void aws_keys_wipe(struct aws_keys *k); /* owned strings; {0} is fine */

#endif
