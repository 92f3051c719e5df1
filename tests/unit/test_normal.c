/* The tables against the C library: the logarithm, the normal distribution.
 * links: spw_policies m */
#include "policies/normal.h"

#include <stdint.h>

#include "random.h"
#include "test.h"

static void logarithm(void)
{
    uint64_t seed = 1;
    for (int i = 0; i < 300000; i++) {
        const double near = 1 + (random_unit(&seed) - 0.5) / 8, far = exp((random_unit(&seed) - 0.5) * 1400);
        CHECK(fabs(normal_ln(near) - log(near)) < 2e-15);
        CHECK(fabs(normal_ln(far) - log(far)) < 2e-15 * fmax(1, fabs(log(far))));
    }
    CHECK(fabs(normal_ln(1)) < 1e-15);
    CHECK(normal_ln(0) == -INFINITY && normal_ln(INFINITY) == INFINITY && isnan(normal_ln(-1)) &&
          isnan(normal_ln(NAN)));
    CHECK(fabs(normal_ln(5e-324) - log(5e-324)) < 1e-9);
}

static void share_below(void)
{
    double before = 0;
    for (double z = -7; z < 7; z += 0.0001) {
        const double p = normal_share(z);
        CHECK(fabs(p - 0.5 * erfc(-z * M_SQRT1_2)) < 4e-9);
        CHECK(p >= before && p <= 1);
        before = p;
    }
    CHECK(normal_share(INFINITY) == 1 && normal_share(-INFINITY) == 0 && normal_share(0) == 0.5);
    CHECK(fabs(normal_share(-0.5) + normal_share(0.5) - 1) < 1e-15);
}

int main(void)
{
    TEST(logarithm);
    TEST(share_below);
    return TEST_RESULT();
}
