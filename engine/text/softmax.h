/* The passes over a whole vocabulary that sampling needs, four lanes at a time.
 *
 * Lanes and order are part of the code (vector types, not what a compiler finds), so the same logits give the same
 * floats with every instruction set. */
#ifndef ENGINE_TEXT_SOFTMAX_H
#define ENGINE_TEXT_SOFTMAX_H

#include <stdint.h>

/* The greatest of n >= 1 logits and the lowest id that has it. -1: one of them is NaN or +infinity. */
int32_t softmax_best(const float *logits, int32_t n);
/* weights[i] = exp((logits[i] - top) * scale) for logits <= top; 0 where that is below e-87. Relative error under
 * 3e-7. weights may be logits. */
void softmax_weights(const float *logits, int32_t n, float top, float scale, float *weights);
/* log(sum(exp(logits))), top being the greatest. Absolute error under 1e-6. */
double softmax_log_total(const float *logits, int32_t n, float top);
/* The same of a sum of exp(logit - top) that a device made. */
double softmax_log_of(float top, double total);

#endif
