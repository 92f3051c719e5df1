#include "engine/serve/pace.h"

#define SMOOTH     0.2 /* weight of one step's time */
#define STRETCH    2.1 /* a step with a prompt takes so many times what it takes without */
#define TOKENS_MIN 4

void step_times_observe(struct step_times *t, int32_t tokens, double seconds)
{
    if (tokens < 1 || tokens > PACE_TABLE)
        return;
    double *s = &t->seconds[tokens];
    *s = *s > 0 ? *s + SMOOTH * (seconds - *s) : seconds;
}

double step_times_expect(const struct step_times *t, int32_t tokens)
{
    int32_t below = tokens, above = tokens;
    while (below > 0 && !(t->seconds[below] > 0))
        below--;
    while (above <= PACE_TABLE && !(t->seconds[above] > 0))
        above++;
    if (above > PACE_TABLE)
        return t->seconds[below]; /* 0 where nothing is known: seconds[0] is never set */
    if (below == 0)
        return t->seconds[above];
    double share = above > below ? (double)(tokens - below) / (above - below) : 0;
    return t->seconds[below] + share * (t->seconds[above] - t->seconds[below]);
}

double step_times_surely(const struct step_times *t, int32_t tokens)
{
    int32_t above = tokens;
    while (above <= PACE_TABLE && !(t->seconds[above] > 0))
        above++;
    return above <= PACE_TABLE ? step_times_expect(t, tokens) : 0;
}

void pace_observe(struct pace *p, int32_t n, double decode_s, double seconds)
{
    if (n < 1 || seconds <= 0)
        return;
    const double over = seconds > decode_s ? seconds - decode_s : 0, token_s = over / n;
    p->token_s = p->token_s > 0 ? p->token_s + SMOOTH * (token_s - p->token_s) : token_s;
}

int32_t pace_tokens(const struct pace *p, int32_t n_decode, double decode_s, int32_t first, int32_t max)
{
    const int32_t least = n_decode / 4 > TOKENS_MIN ? n_decode / 4 : TOKENS_MIN;
    int32_t n = first;
    if (p->token_s > 0 && decode_s > 0) {
        const double fits = (STRETCH - 1) * decode_s / p->token_s;
        n = fits < max ? (int32_t)(fits + 0.5) : max;
    }
    n = n > least ? n : least;
    return n < max ? n : max;
}
