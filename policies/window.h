/* Two counts over the last so many seconds, as pure functions over plain state: tenths of the window, of which the
 * oldest is dropped as time goes on. What is told therefore covers between nine tenths of the window and all of it. A
 * zeroed window is empty. now_us: any monotonic microseconds; a time before an earlier one counts as that one. */
#ifndef POLICIES_WINDOW_H
#define POLICIES_WINDOW_H

#include <stdint.h>

#define WINDOW_PARTS 10

struct window {
    int64_t part; /* number of the newest part since the clock's beginning */
    int64_t counts[WINDOW_PARTS][2];
};
struct window_sums {
    int64_t of[2];
};

/* length_us: of the whole window, at least WINDOW_PARTS; the same one in each call. which: 0 or 1. */
void window_add(struct window *w, int64_t length_us, int64_t now_us, int which, int64_t n);
struct window_sums window_sum(const struct window *w, int64_t length_us, int64_t now_us);

#endif
