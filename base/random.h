/* Random bytes of the system, fetched many at a time: a system call for each id costs as much as a small write. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>

/* {0} is empty. One thread's. What was taken is wiped, so that nothing kept here tells of ids given out before. */
struct random_pool {
    unsigned char bytes[256];
    size_t left;
};
/* n <= 256. */
void random_take(struct random_pool *p, void *out, size_t n);

#endif
