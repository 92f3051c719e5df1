/* Which tokens of a step the device attends for together. */
#include "kernels/cuda/attention.h"

#include <stdbool.h>

#define RUN_MIN 4 /* shorter ones are quicker as single tokens, each with more blocks */

static bool follows(const struct k_token_ref *a, const struct k_token_ref *b)
{
    return b->page_ids == a->page_ids && b->pos == a->pos + 1;
}

/* The end of the run that begins at t. */
static int32_t run_end(const struct k_token_ref *tok, int32_t n_tok, int32_t t)
{
    int32_t end = t + 1;
    while (end < n_tok && end - t < ATTN_RUN_TOKENS && follows(&tok[end - 1], &tok[end]))
        end++;
    return end;
}

int32_t attention_plan(struct attn_run *runs, int32_t *n_alone, const struct k_token_ref *tok, int32_t n_tok)
{
    int32_t n = 0;
    for (int32_t t = 0, end; t < n_tok; t = end) {
        end = run_end(tok, n_tok, t);
        for (int32_t i = t; end - t < RUN_MIN && i < end; i++)
            runs[n++] = (struct attn_run){i, 1};
    }
    *n_alone = n;
    for (int32_t t = 0, end; t < n_tok; t = end) {
        end = run_end(tok, n_tok, t);
        if (end - t >= RUN_MIN)
            runs[n++] = (struct attn_run){t, end - t};
    }
    return n;
}
