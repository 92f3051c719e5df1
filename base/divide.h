/* A whole number divided in proportion to weights, so that the parts add up to it exactly: each is rounded down, and
 * what is left goes, one by one, to the largest remainders, ties to the first (Hamilton's method of largest
 * remainders). For money, time and energy that is shared. */
#ifndef BASE_DIVIDE_H
#define BASE_DIVIDE_H

#include <stdint.h>

/* parts[i] of `total` (either sign), weights[i] >= 0 whose sum fits int64. Two arrays. All weights
 * 0 (or n 0): nothing is given, and parts are 0. Returns what was given: `total`, or 0. No memory; O(n). */
int64_t divide_by_weight(int64_t total, const int64_t *weights, int64_t *parts, int n);

#endif
