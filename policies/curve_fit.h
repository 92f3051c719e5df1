/* A node's curve from what was measured: two straight lines, neither of whose numbers may be negative. */
#ifndef POLICIES_CURVE_FIT_H
#define POLICIES_CURVE_FIT_H

#include "policies/curve.h"

struct curve_point {
    double x, us; /* x: prompt tokens that were computed, or sequences in a batch; us > 0 */
};
struct line {
    double at_0, slope;
    double error; /* the largest |line - point| / point */
};
/* The line of least squares of relative deviations, so that short prompts count as much as long ones. n >= 1; of points
 * with one x alone the line is level. */
struct line curve_fit_line(const struct curve_point *p, int n);
/* Both lines. Each n >= 1. */
struct node_curve curve_fit(const struct curve_point *prefill, int n_prefill, const struct curve_point *decode,
                            int n_decode);

#endif
