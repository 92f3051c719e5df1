#include "base/random.h"

#include <string.h>
#include <sys/random.h>

#include "base/error.h"

void random_take(struct random_pool *p, void *out, size_t n)
{
    SPW_ASSERT(n <= sizeof p->bytes);
    if (n > p->left) { /* up to 256 bytes are never cut short nor interrupted (getrandom(2)) */
        SPW_ASSERT(getrandom(p->bytes, sizeof p->bytes, 0) == (ssize_t)sizeof p->bytes);
        p->left = sizeof p->bytes;
    }
    p->left -= n;
    memcpy(out, p->bytes + p->left, n);
    memset(p->bytes + p->left, 0, n);
}
