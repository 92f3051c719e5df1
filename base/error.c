#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum rc(error_set)(struct error *e, enum rc code, const char *format, ...) /* in parentheses: not the macro */
{
    if (e) {
        va_list args;
        va_start(args, format);
        e->code = code;
        vsnprintf(e->message, sizeof e->message, format, args);
        va_end(args);
    }
    return code;
}

enum rc error_prefix(struct error *e, const char *format, ...)
{
    if (!e)
        return RC_INTERNAL;
    char prefix[256], old[sizeof e->message];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(old, e->message, sizeof old);
    /* The cause matters more than the tail: both are kept as far as they fit. */
    snprintf(e->message, sizeof e->message, "%s: %.*s", prefix, (int)(sizeof e->message - strlen(prefix) - 3), old);
    return e->code;
}

const char *rc_name(enum rc code)
{
    static const char *const names[] = {
        [RC_OK] = "ok",
        [RC_INVALID] = "invalid",
        [RC_NOT_FOUND] = "not found",
        [RC_FULL] = "full",
        [RC_AGAIN] = "try again",
        [RC_IO] = "input/output error",
        [RC_TIMEOUT] = "timed out",
        [RC_DENIED] = "denied",
        [RC_UNSUPPORTED] = "not supported",
        [RC_CONFLICT] = "conflict",
        [RC_CANCELLED] = "cancelled",
        [RC_INTERNAL] = "internal error",
    };
    if ((unsigned)code >= sizeof names / sizeof names[0])
        return "unknown";
    return names[code];
}

_Noreturn void spw_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: internal error: %s does not hold\n", file, line, condition);
    abort();
}
