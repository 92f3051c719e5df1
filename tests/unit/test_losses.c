/* How often spot is taken back. links: spw_policies */
#include "policies/losses.h"

#include "tests/unit/test.h"

#define NEAR(a, b) CHECK((a) > (b)*0.999 && (a) < (b)*1.001)

static void nothing_seen_is_the_prior(void)
{
    const struct losses l = {0};
    NEAR(losses_per_hour(&l), 0.05);
}

static void what_is_seen_counts(void)
{
    struct losses calm = {0}, rough = {0};
    losses_note(&calm, 1000, 200, 0);
    NEAR(losses_per_hour(&calm), 1 / 220.0);
    losses_note(&rough, 1000, 10, 3);
    NEAR(losses_per_hour(&rough), 4 / 30.0);
}

/* 10 nodes of a market that takes back one in 2 hours: after two days the estimate is near that. */
static void it_comes_to_the_truth(void)
{
    struct losses l = {0};
    for (int hour = 0; hour < 48; hour++)
        losses_note(&l, hour * 3600, 10, 5);
    CHECK(losses_per_hour(&l) > 0.45 && losses_per_hour(&l) < 0.52);
}

static void it_fades(void)
{
    struct losses l = {0};
    losses_note(&l, 1000, 100, 40);
    losses_note(&l, 1000 + LOSSES_HALF_LIFE_S, 0, 0);
    NEAR(losses_per_hour(&l), 21 / 70.0);
    losses_note(&l, 1000, 0, 0); /* the clock was set back */
    NEAR(losses_per_hour(&l), 21 / 70.0);
    losses_note(&l, 1000 + 40 * (int64_t)LOSSES_HALF_LIFE_S, 0, 0);
    NEAR(losses_per_hour(&l), 0.05);
}

int main(void)
{
    TEST(nothing_seen_is_the_prior);
    TEST(what_is_seen_counts);
    TEST(it_comes_to_the_truth);
    TEST(it_fades);
    return TEST_RESULT();
}
