#include "engine/serve/speculate.h"

#define RUN_MAX     4
#define RUN_MIN     2
#define LOOK_BACK   16384
#define FIRST_GUESS 0.6   /* of p; most sequences where anything is found repeat themselves */
#define LEARN       0.15  /* weight of one proposal */
#define RECOVER     0.002 /* of the way back to FIRST_GUESS, each time that it is not tried: luck may have turned */

static int32_t common_run(const int32_t *ids, int32_t a, int32_t b)
{
    int32_t n = 0;
    while (n < RUN_MAX && a - n >= 0 && ids[a - n] == ids[b - n])
        n++;
    return n;
}

int32_t speculate_find(const int32_t *ids, int32_t n, int32_t max, const int32_t **found)
{
    int32_t last = n - 1, best = RUN_MIN - 1, at = -1, end = last > LOOK_BACK ? last - LOOK_BACK : 0;
    for (int32_t i = last - 1; i >= end && best < RUN_MAX; i--) {
        if (ids[i] != ids[last])
            continue;
        int32_t run = common_run(ids, i, last);
        if (run > best) {
            best = run;
            at = i;
        }
    }
    if (at < 0)
        return 0;
    *found = ids + at + 1;
    return last - at < max ? last - at : max;
}

void speculate_observe(struct speculate_luck *l, int32_t proposed, int32_t right)
{
    if (proposed < 1)
        return;
    int32_t asked = right < proposed ? right + 1 : proposed; /* what came after the first wrong one says nothing */
    l->p += LEARN * ((double)right / asked - l->p);
}

int32_t speculate_length(struct speculate_luck *l, const struct step_times *t, int32_t tokens, int32_t max,
                         double *yield)
{
    double now = step_times_expect(t, tokens), best_rate = now > 0 ? *yield / now : 0, sum = *yield, p = 1;
    double best_yield = *yield;
    int32_t best = 0;
    if (l->p <= 0)
        l->p = FIRST_GUESS;
    if (now <= 0)
        return 0;
    for (int32_t k = 1; k <= max && tokens + k <= PACE_TABLE; k++) {
        p *= l->p;
        sum += p;
        double rate = sum / step_times_expect(t, tokens + k);
        if (rate > best_rate) {
            best_rate = rate;
            best_yield = sum;
            best = k;
        }
    }
    if (best == 0)
        l->p += RECOVER * (FIRST_GUESS - l->p);
    *yield = best_yield;
    return best;
}
