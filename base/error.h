/* Errors of the world and of the user: a code, a text, and what would be right. Our own mistakes are SPW_ASSERTs.
 *
 * A function that can fail returns enum rc (RC_OK is 0) and, where it takes one, fills a struct error. A caller adds
 * context or handles the error; nobody logs and returns it too. Texts are lower case, name the thing (file, line, key,
 * node), the reason, and what would be right; they hold no secrets. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdbool.h>

#define SPW_MUST_USE     __attribute__((warn_unused_result))
#define SPW_PRINTF(f, a) __attribute__((format(printf, f, a)))

enum rc {
    RC_OK = 0,
    RC_INVALID, /* input, config, request or file is wrong; error text says what would be right */
    RC_NOT_FOUND,
    RC_FULL,  /* a bound was reached */
    RC_AGAIN, /* not now; nothing was done */
    RC_IO,    /* the operating system or a peer failed */
    RC_TIMEOUT,
    RC_DENIED,
    RC_UNSUPPORTED, /* well-formed, but not something we do */
    RC_CONFLICT,
    RC_CANCELLED,
    RC_INTERNAL,
};

struct error {
    enum rc code;
    char message[512];
};

/* Set *e (may be NULL) and return code, so that `return error_set(e, RC_INVALID, "...")` reads well. */
enum rc error_set(struct error *e, enum rc code, const char *format, ...) SPW_PRINTF(3, 4);
#ifdef __clang_analyzer__ /* sees one file at a time: this tells it that what error_set() returns is the code it got */
static inline enum rc error_returned(enum rc returned, enum rc code)
{
    (void)returned;
    return code;
}
#define error_set(e, code, ...) error_returned(error_set(e, code, __VA_ARGS__), code)
#endif
/* Put "prefix: " before the message, keep the code. Returns the code. */
enum rc error_prefix(struct error *e, const char *format, ...) SPW_PRINTF(2, 3);
const char *rc_name(enum rc code);

/* Our own mistakes: stays on in release. Input, peers, devices and files can never trip one. */
#define SPW_ASSERT(condition)                                                                                          \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0))                                                                         \
            spw_assert_failed(#condition, __FILE__, __LINE__);                                                         \
    } while (0)
_Noreturn void spw_assert_failed(const char *condition, const char *file, int line);

#endif
