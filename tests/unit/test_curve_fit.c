/* The line through measured points: exact where they lie on one, never negative, the best of its kind.
 * links: spw_policies */
#include "policies/curve_fit.h"

#include <math.h>
#include <stdlib.h>

#include "test.h"

static double cost(double at_0, double slope, const struct curve_point *p, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double d = (at_0 + slope * p[i].x - p[i].us) / p[i].us;
        sum += d * d;
    }
    return sum;
}

static void points_on_a_line_give_it_back(void)
{
    const struct curve_point p[] = {{64, 3000 + 64 * 110.0}, {700, 3000 + 700 * 110.0}, {9000, 3000 + 9000 * 110.0}};
    struct line l = curve_fit_line(p, 3);
    CHECK(fabs(l.at_0 - 3000) < 1e-6 && fabs(l.slope - 110) < 1e-9 && l.error < 1e-9);
}

static void no_number_is_negative(void)
{
    const struct curve_point falling[] = {{1, 900}, {2, 700}, {8, 500}}, through[] = {{10, 5}, {20, 40}, {40, 90}};
    struct line a = curve_fit_line(falling, 3), b = curve_fit_line(through, 3);
    CHECK(a.slope == 0 && a.at_0 > 500 && a.at_0 < 900 && a.error > 0.1);
    CHECK(b.at_0 == 0 && b.slope > 0);
}

static void one_point_or_one_place_is_level(void)
{
    const struct curve_point one[] = {{4, 250}}, same[] = {{4, 250}, {4, 250}};
    CHECK(fabs(curve_fit_line(one, 1).at_0 - 250) < 1e-9 && curve_fit_line(one, 1).slope == 0);
    CHECK(fabs(curve_fit_line(same, 2).at_0 - 250) < 1e-9 && curve_fit_line(same, 2).slope == 0);
}

static void none_nearby_is_better(void)
{
    unsigned seed = 7;
    for (int round = 0; round < 500; round++) {
        struct curve_point p[6];
        int n = 2 + rand_r(&seed) % 5;
        for (int i = 0; i < n; i++)
            p[i] = (struct curve_point){1 + rand_r(&seed) % 4096, 50 + rand_r(&seed) % 100000};
        struct line l = curve_fit_line(p, n);
        double best = cost(l.at_0, l.slope, p, n);
        for (int k = 0; k < 40; k++) {
            double at_0 = fmax(0, l.at_0 + (rand_r(&seed) % 201 - 100) * 0.01 * (1 + l.at_0));
            double slope = fmax(0, l.slope + (rand_r(&seed) % 201 - 100) * 0.01 * (0.1 + l.slope));
            CHECK(cost(at_0, slope, p, n) >= best * (1 - 1e-9));
        }
    }
}

int main(void)
{
    TEST(points_on_a_line_give_it_back);
    TEST(no_number_is_negative);
    TEST(one_point_or_one_place_is_level);
    TEST(none_nearby_is_better);
    return TEST_RESULT();
}
