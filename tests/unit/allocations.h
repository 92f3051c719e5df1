/* Counts the program's calls of the allocator: for tests that something allocates nothing. Under sanitizers, which
 * bring an allocator of their own, it counts none. To be included by one file of a program. */
#ifndef TESTS_UNIT_ALLOCATIONS_H
#define TESTS_UNIT_ALLOCATIONS_H

#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_CALLS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTS_CALLS 0
#endif
#endif
#ifndef COUNTS_CALLS
#define COUNTS_CALLS 1
#endif

static long allocations; /* so far; of all threads, so there had better be one */
#if COUNTS_CALLS         /* in the place of the C library's own, which have these names, too; sanitizers bring theirs */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n)
{
    allocations++;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    allocations++;
    return __libc_realloc(p, n);
}
#endif

#endif
