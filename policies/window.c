#include "policies/window.h"

#include <string.h>

#include "base/error.h"

static int64_t part_of(const struct window *w, int64_t length_us, int64_t now_us)
{
    int64_t part = now_us / (length_us / WINDOW_PARTS);
    return part > w->part ? part : w->part;
}

void window_add(struct window *w, int64_t length_us, int64_t now_us, int which, int64_t n)
{
    SPW_ASSERT(length_us >= WINDOW_PARTS && (which == 0 || which == 1));
    int64_t part = part_of(w, length_us, now_us);
    if (part - w->part >= WINDOW_PARTS)
        memset(w->counts, 0, sizeof w->counts);
    else
        for (int64_t p = w->part + 1; p <= part; p++)
            memset(w->counts[p % WINDOW_PARTS], 0, sizeof w->counts[0]);
    w->part = part;
    w->counts[part % WINDOW_PARTS][which] += n;
}

struct window_sums window_sum(const struct window *w, int64_t length_us, int64_t now_us)
{
    struct window_sums sums = {{0, 0}};
    SPW_ASSERT(length_us >= WINDOW_PARTS);
    int64_t part = part_of(w, length_us, now_us), oldest = part - WINDOW_PARTS + 1;
    for (int64_t p = oldest > 0 ? oldest : 0; p <= w->part; p++) {
        sums.of[0] += w->counts[p % WINDOW_PARTS][0];
        sums.of[1] += w->counts[p % WINDOW_PARTS][1];
    }
    return sums;
}
