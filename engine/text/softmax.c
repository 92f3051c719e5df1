#include "engine/text/softmax.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define LANES 4 /* wider ones are taken apart where the instruction set has no such registers */
typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t lanes_int __attribute__((vector_size(LANES * 4)));
typedef uint32_t lanes_uint __attribute__((vector_size(LANES * 4)));

/* Lanes past the end of the logits are filled up with -infinity, which weighs nothing. */
static inline void load(const float *from, int32_t left, lanes *v)
{
    float part[LANES];

    if (left >= LANES) {
        memcpy(v, from, sizeof(*v));
        return;
    }
    for (int32_t i = 0; i < LANES; i++)
        part[i] = i < left ? from[i] : -INFINITY;
    memcpy(v, part, sizeof(*v));
}

int32_t softmax_best(const float *logits, int32_t n)
{
    const lanes infinity = (lanes){0} + INFINITY;
    lanes best = (lanes){0} - INFINITY, v;
    lanes_int bad = {0}, greater;
    float top = -INFINITY;

    for (int32_t i = 0; i < n; i += LANES) {
        load(logits + i, n - i, &v);
        bad |= ~(lanes_int)(v < infinity); /* NaN compares false */
        greater = (lanes_int)(v > best);
        best = (lanes)(((lanes_int)v & greater) | ((lanes_int)best & ~greater));
    }
    for (int i = 0; i < LANES; i++) {
        if (bad[i])
            return -1;
        if (best[i] > top)
            top = best[i];
    }
    int32_t id = 0;
    while (id < n - 1 && logits[id] != top)
        id++;
    return id;
}

/* *x becomes exp(*x), x <= 0. x = k ln 2 + f with |f| <= ln 2 / 2; exp(f) by its Taylor polynomial to f^6 (the next term
 * is under 2e-7 / 2), 2^k by building the exponent. Adding 1.5 * 2^23 rounds to an integer that then sits in the low bits
 * (a well-known trick; Muller et al., Handbook of Floating-Point Arithmetic). */
static inline void exp_lanes(lanes *x)
{
    const float magic = 12582912.0f;
    lanes_int in_range = (lanes_int)(*x >= -87.0f);
    lanes shifted = *x * 1.44269504f + magic, k = shifted - magic;
    lanes f = (*x - k * 0.693359375f) - k * -2.12194440e-4f; /* ln 2 in two parts (Cody and Waite) */
    lanes y = f * (1.0f / 720) + 1.0f / 120;

    y = y * f + 1.0f / 24;
    y = y * f + 1.0f / 6;
    y = y * f + 0.5f;
    y = y * f + 1.0f;
    y = y * f + 1.0f;
    lanes_uint power = ((lanes_uint)shifted << 23) + (127u << 23);
    y *= (lanes)power;
    *x = (lanes)((lanes_int)y & in_range);
}

void softmax_weights(const float *logits, int32_t n, float top, float scale, float *weights)
{
    for (int32_t i = 0; i < n; i += LANES) {
        lanes v;
        load(logits + i, n - i, &v);
        v = (v - top) * scale;
        exp_lanes(&v);
        memcpy(weights + i, &v, sizeof(float) * (size_t)(n - i < LANES ? n - i : LANES));
    }
}

double softmax_log_of(float top, double total)
{
    return (double)top + log(fmax(total, DBL_MIN)); /* at least 1: top itself counts e^0 */
}

/* Sums of 128 vectors in floats, those in a double. */
double softmax_log_total(const float *logits, int32_t n, float top)
{
    double total = 0;

    for (int32_t from = 0; from < n; from += 128 * LANES) {
        int32_t to = n - from < 128 * LANES ? n : from + 128 * LANES;
        lanes sum = {0}, v;
        for (int32_t i = from; i < to; i += LANES) {
            load(logits + i, n - i, &v);
            v -= top;
            exp_lanes(&v);
            sum += v;
        }
        for (int i = 0; i < LANES; i++)
            total += (double)sum[i];
    }
    return softmax_log_of(top, total);
}
