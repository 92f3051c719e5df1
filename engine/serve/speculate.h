/* Speculation without a second model: what followed the last time that the latest ids stood in the sequence is proposed
 * as what follows now, and all of it is verified in the one step that would have computed the next token anyway (prompt
 * lookup decoding, Saxena 2023; inference with reference, Yang et al., arXiv 2304.04487). By the numerics law the
 * logits of a verified token are those of plain decoding, bit for bit, and every token is chosen from them as ever: the
 * output is unchanged, whatever was proposed.
 *
 * Whether it pays depends on how often proposals are right, and on what a few more tokens cost in a step at the present
 * load: both are measured as it runs. Pure; no allocation, no clock. */
#ifndef ENGINE_SERVE_SPECULATE_H
#define ENGINE_SERVE_SPECULATE_H

#include <stdint.h>

#include "engine/serve/pace.h"

#define SPECULATE_MAX 8 /* ids proposed at once */

/* Ids that may follow ids[0..n): where the longest run of up to 4 last ids (2 at least) stood before, most recently,
 * what came after it. Lent: they lie inside of ids. Returns how many, at most max; 0: nothing is known. Looks back over
 * at most 16,384 ids. */
int32_t speculate_find(const int32_t *ids, int32_t n, int32_t max, const int32_t **found);

/* How often proposals of one sequence are right. {0} at its start. */
struct speculate_luck {
    double p; /* of one more id being right, if those before it were; 0: not begun */
};
/* Proposed ids, of which the first `right` were. */
void speculate_observe(struct speculate_luck *l, int32_t proposed, int32_t right);
/* How many of up to max ids to verify in a step that has `tokens` tokens already and is expected to yield *yield of
 * them: as many as make most tokens per second; *yield grows by what they are expected to add. */
int32_t speculate_length(struct speculate_luck *l, const struct step_times *t, int32_t tokens, int32_t max,
                         double *yield);

#endif
