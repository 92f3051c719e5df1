/* What steps take, as it is seen, and how much of a long prompt a step may take in that also decodes: so much that
 * those who decode get their tokens less than half as often as without it (2.1 times the step). Less, and the prompt
 * would take three times as long as alone, for a few tokens are dearer than many; more, and its company would stall.
 * Short prompts are over soon, and are not held up for it: many of them would pile up before their first tokens. Pure;
 * no clock. */
#ifndef ENGINE_SERVE_PACE_H
#define ENGINE_SERVE_PACE_H

#include <stdint.h>

#define PACE_TABLE 64 /* steps of more tokens than this are not told apart */

/* How long steps take that only decode, by their number of tokens. */
struct step_times {
    double seconds[PACE_TABLE + 1]; /* smoothed; 0: not seen yet */
};
void step_times_observe(struct step_times *t, int32_t tokens, double seconds);
/* What is not known is taken for what lies between its neighbours, and beyond the last for no more than it: so it is
 * tried, and known. 0: nothing is known at all. */
double step_times_expect(const struct step_times *t, int32_t tokens);

/* The same, or 0 where nothing is known of as many tokens or more: it would be too little then. */
double step_times_surely(const struct step_times *t, int32_t tokens);

/* What a prompt's token adds to a step. {0} at the start. */
struct pace {
    double token_s; /* smoothed; 0: not known */
};
/* A step took so long, of which decode_s would have gone by without its n tokens of prompts. */
void pace_observe(struct pace *p, int32_t n, double decode_s, double seconds);
/* How many to take beside n_decode tokens that take decode_s by themselves: `first` where nothing is known, else never
 * fewer than 4, nor than one for four that decode, and never more than max. */
int32_t pace_tokens(const struct pace *p, int32_t n_decode, double decode_s, int32_t first, int32_t max);

#endif
