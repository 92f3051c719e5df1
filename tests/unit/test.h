/* The unit tests' whole framework: CHECK counts, TEST groups, and the exit status carries the verdict. */
#ifndef TESTS_UNIT_TEST_H
#define TESTS_UNIT_TEST_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sanitized code is many times slower, and looked at for other things than figures: there a part of the rounds is
 * enough, and planted mistakes, which ask whether a law can fail, have been caught by the plain build. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED true
#elif defined(__has_feature)
#define TEST_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define TEST_SANITIZED false
#endif
#define TEST_FEWER(n) (TEST_SANITIZED ? ((n) + 7) / 8 : (n))

static struct {
    const char *name; /* the running group */
    int passed, failed, group_failed;
} test_run_;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            test_run_.group_failed++;                                                                                  \
            fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, test_run_.name, #condition);                \
        }                                                                                                              \
    } while (0)

/* Like CHECK, and prints both values when they differ. */
#define CHECK_INT(a, b)                                                                                                \
    do {                                                                                                               \
        long long a_ = (long long)(a), b_ = (long long)(b);                                                            \
        if (a_ != b_) {                                                                                                \
            test_run_.group_failed++;                                                                                  \
            fprintf(stderr, "%s:%d: %s: %s is %lld, expected %lld\n", __FILE__, __LINE__, test_run_.name, #a, a_, b_); \
        }                                                                                                              \
    } while (0)
#define CHECK_STR(a, b)                                                                                                \
    do {                                                                                                               \
        const char *a_ = (a), *b_ = (b);                                                                               \
        if (!a_ || !b_ || strcmp(a_, b_) != 0) {                                                                       \
            test_run_.group_failed++;                                                                                  \
            fprintf(stderr, "%s:%d: %s: %s is \"%s\", expected \"%s\"\n", __FILE__, __LINE__, test_run_.name, #a,      \
                    a_ ? a_ : "(null)", b_ ? b_ : "(null)");                                                           \
        }                                                                                                              \
    } while (0)

/* Run one static void function as a named test; TEST_ONLY=name runs that one alone. */
#define TEST(function)                                                                                                 \
    do {                                                                                                               \
        if (getenv("TEST_ONLY") && strcmp(getenv("TEST_ONLY"), #function) != 0)                                        \
            break;                                                                                                     \
        test_run_.name = #function;                                                                                    \
        test_run_.group_failed = 0;                                                                                    \
        function();                                                                                                    \
        if (test_run_.group_failed)                                                                                    \
            test_run_.failed++;                                                                                        \
        else                                                                                                           \
            test_run_.passed++;                                                                                        \
    } while (0)

/* Last line of main. */
#define TEST_RESULT() (printf("%d passed, %d failed\n", test_run_.passed, test_run_.failed), test_run_.failed != 0)

#endif
