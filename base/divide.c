#include "base/divide.h"

#include <stdbool.h>
#include <stddef.h>

/* Remainders of at least `least`. */
static int64_t count_from(const int64_t *remainders, int n, int64_t least)
{
    int64_t count = 0;
    for (int i = 0; i < n; i++)
        count += remainders[i] >= least;
    return count;
}

/* The least threshold that no more than `left` remainders reach: by halves, since remainders are below `sum`. */
static int64_t threshold(const int64_t *remainders, int n, int64_t sum, int64_t left)
{
    int64_t low = 1, high = sum; /* count_from(high) is 0 */
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (count_from(remainders, n, middle) <= left)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int64_t divide_by_weight(int64_t total, const int64_t *weights, int64_t *parts, int n)
{
    const bool below = total < 0;
    const unsigned __int128 all = below ? -(unsigned __int128)total : (unsigned __int128)total;
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += weights[i];
        parts[i] = 0;
    }
    if (sum == 0)
        return 0;
    unsigned __int128 left = all;
    for (int i = 0; i < n; i++) {
        const unsigned __int128 product = all * (uint64_t)weights[i];
        left -= product / (uint64_t)sum;
        parts[i] = (int64_t)(product % (uint64_t)sum);
    }
    const int64_t least = threshold(parts, n, sum, (int64_t)left);
    int64_t ties = (int64_t)left - count_from(parts, n, least); /* one below the threshold, from the first */
    for (int i = 0; i < n; i++) {
        const bool one = parts[i] >= least || (parts[i] == least - 1 && least > 1 && ties-- > 0);
        const int64_t part = (int64_t)(all * (uint64_t)weights[i] / (uint64_t)sum) + one;
        parts[i] = below ? -part : part;
    }
    return total;
}
