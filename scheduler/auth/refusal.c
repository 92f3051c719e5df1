#include "scheduler/auth/refusal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int status;
    const char *error; /* of RFC 6750; NULL: the challenge alone */
} codes[AUTH_CODE_COUNT] = {
    [AUTH_OK] = {"ok", 200, NULL},
    [AUTH_MISSING] = {"missing", 401, NULL},
    [AUTH_MALFORMED] = {"malformed", 401, "invalid_request"},
    [AUTH_KEY_UNKNOWN] = {"key_unknown", 401, "invalid_token"},
    [AUTH_KEY_EXPIRED] = {"key_expired", 401, "invalid_token"},
    [AUTH_KEY_REVOKED] = {"key_revoked", 401, "invalid_token"},
    [AUTH_TOKEN_INVALID] = {"token_invalid", 401, "invalid_token"},
    [AUTH_TOKEN_EXPIRED] = {"token_expired", 401, "invalid_token"},
    [AUTH_TOKEN_CLAIMS] = {"token_claims", 403, "insufficient_scope"},
    [AUTH_NETWORK] = {"network", 403, NULL},
    [AUTH_SCOPE] = {"scope", 403, "insufficient_scope"},
    [AUTH_UNAVAILABLE] = {"unavailable", 503, NULL},
    [AUTH_TOO_MANY_BAD] = {"too_many_bad", 429, NULL},
};

const char *auth_code_name(enum auth_code c)
{
    return (unsigned)c < AUTH_CODE_COUNT ? codes[c].name : "unknown";
}

void auth_refusal_set(struct auth_refusal *r, enum auth_code code, const char *format, ...)
{
    SPW_ASSERT(code > AUTH_OK && code < AUTH_CODE_COUNT);
    *r = (struct auth_refusal){.code = code, .status = codes[code].status};
    va_list args;
    va_start(args, format);
    vsnprintf(r->message, sizeof r->message, format, args); // NOLINT(clang-analyzer-valist.Uninitialized)
    va_end(args);
    for (char *p = r->message; *p; p++) /* it goes into a quoted header value */
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
            *p = '?';
    r->retry_after_s = code == AUTH_UNAVAILABLE || code == AUTH_TOO_MANY_BAD;
    if (codes[code].error)
        snprintf(r->www_authenticate, sizeof r->www_authenticate,
                 "Bearer realm=\"spillway\", error=\"%s\", error_description=\"%s\"", codes[code].error, r->message);
    else if (codes[code].status == 401)
        snprintf(r->www_authenticate, sizeof r->www_authenticate, "Bearer realm=\"spillway\"");
}
