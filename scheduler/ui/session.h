/* Who is signed in at the dashboard. In memory alone: a restart signs everybody out.
 *
 * A browser holds a token of 32 random bytes in a cookie. What is kept here is its SHA-256, and the API key that it was
 * given for, sealed with the token (a one-time pad: SHAKE-256 of the token, FIPS 202): the key is checked anew with
 * each page, so that a session ends with it, and yet neither key nor token can be read from our memory while its
 * browser asks for nothing.
 *
 * A form carries HMAC-SHA-256 of the token under a secret of this process. Who has no session has a token all the same,
 * from the page with the form to sign in on, so that nobody else's page can sign anybody in.
 *
 *   token --sessions_open()--> signed in --idle, too old, sessions_close(), 65th session--> gone
 *
 * Bounded: SESSIONS_MAX, the one that was used least lately makes room. Lane 0's loop. */
#ifndef SCHEDULER_UI_SESSION_H
#define SCHEDULER_UI_SESSION_H

#include "base/clock.h"
#include "scheduler/auth/auth.h"

#define SESSIONS_MAX       64
#define SESSION_TEXT_BYTES 44 /* a token, or what a form carries, as text with its NUL */

struct sessions;
struct session_limits {
    int64_t idle_ms, life_ms; /* without a page asked for; since it was opened */
};
struct session { /* one that was found; the caller wipes it: explicit_bzero() */
    char key[AUTH_KEY_BYTES_MAX + 1];
    char key_id[KEYSTORE_ID_BYTES];
};

struct sessions *sessions_new(const struct clock *clock); /* clock: borrowed */
void sessions_free(struct sessions *s);                   /* NULL is fine */
/* A new token, of nobody. */
void sessions_token(struct sessions *s, char token[SESSION_TEXT_BYTES]);
/* Signed in: key has at most AUTH_KEY_BYTES_MAX bytes. */
void sessions_open(struct sessions *s, const char *key, const char *key_id, char token[SESSION_TEXT_BYTES]);
/* Whose token is it? False: nobody's, or no longer. Counts as use. token: anything that a browser may send, or NULL. */
bool sessions_find(struct sessions *s, const char *token, const struct session_limits *l, struct session *out);
void sessions_close(struct sessions *s, const char *token);
int sessions_count(const struct sessions *s); /* opened and not gone; some may have expired */

/* What forms of the browser with this token carry, and whether this is it. */
bool sessions_form(const struct sessions *s, const char *token, char form[SESSION_TEXT_BYTES]);
bool sessions_form_is_right(const struct sessions *s, const char *token, const char *form);

#endif
