/* Why a credential was not taken, in a form that becomes an answer. Texts never quote the credential. */
#ifndef SCHEDULER_AUTH_REFUSAL_H
#define SCHEDULER_AUTH_REFUSAL_H

#include "base/error.h"

enum auth_code {
    AUTH_OK,
    AUTH_MISSING,       /* 401: no credential */
    AUTH_MALFORMED,     /* 401: not a credential we know the form of */
    AUTH_KEY_UNKNOWN,   /* 401 */
    AUTH_KEY_EXPIRED,   /* 401 */
    AUTH_KEY_REVOKED,   /* 401 */
    AUTH_TOKEN_INVALID, /* 401: a bearer token that proves nothing */
    AUTH_TOKEN_EXPIRED, /* 401 */
    AUTH_TOKEN_CLAIMS,  /* 403: genuine, but what it says names no identity here */
    AUTH_NETWORK,       /* 403: not from there */
    AUTH_SCOPE,         /* 403: the credential does not open this */
    AUTH_UNAVAILABLE,   /* 503: the issuer's keys can't be had; retry */
    AUTH_TOO_MANY_BAD,  /* 429: too many forged tokens from there; later */
    AUTH_CODE_COUNT,
};
const char *auth_code_name(enum auth_code c); /* for metrics and logs: "key_unknown" ... */

struct auth_refusal {
    enum auth_code code;
    int status;                 /* 401, 403, 429 or 503 */
    int retry_after_s;          /* 0: retrying is pointless */
    char message[200];          /* for the answer's body */
    char www_authenticate[320]; /* RFC 6750, section 3; "": no such header */
};
/* Fill *r. In the text, what may not stand in a quoted header value becomes '?'. */
void auth_refusal_set(struct auth_refusal *r, enum auth_code code, const char *format, ...) SPW_PRINTF(3, 4);
/* The same as a value: `return auth_refuse(...)` reads well, and analyzers see what is returned. */
#define auth_refuse(...) (auth_refusal_set(__VA_ARGS__), RC_DENIED)

#endif
