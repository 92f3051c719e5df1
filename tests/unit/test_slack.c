/* The demand on one request follows what came of the last ones.
 * links: spw_policies */
#include "policies/slack.h"

#include "random.h"
#include "test.h"

static void nothing_is_spared_before_it_is_earned(void)
{
    struct slack s = {0};
    CHECK(slack_demand(&s, 0.99) == 0.99);
    slack_note(&s, 0.99, true);
    CHECK(slack_demand(&s, 0.99) == 0.99);
    for (int i = 0; i < 10000; i++)
        slack_note(&s, 0.99, true);
    CHECK(slack_demand(&s, 0.99) < SLACK_LEAST + 0.01);
    for (int i = 0; i < 12; i++)
        slack_note(&s, 0.99, false);
    CHECK(slack_demand(&s, 0.99) == 0.99);
}

static void it_is_never_more_than_asked_nor_less_than_the_least(void)
{
    uint64_t random = 1;
    struct slack s = {0};
    for (int i = 0; i < 20000; i++) {
        const double asked = 0.5 + 0.5 * random_unit(&random);
        slack_note(&s, asked, random_unit(&random) < 0.97);
        const double d = slack_demand(&s, asked);
        CHECK(d <= asked && d >= SLACK_LEAST);
    }
    CHECK(slack_demand(&s, 0.3) == 0.3 && slack_demand(&s, 1) == 1);
}

/* A route whose requests are met as often as they are demanded to be, at the edge, for one in ten of them: the SLO holds. */
static void the_slo_is_kept(void)
{
    uint64_t random = 2;
    struct slack s = {0};
    int met = 0, edge = 0;
    for (int i = 0; i < 100000; i++) {
        const double p = random_unit(&random) < 0.1 ? random_unit(&random) : 1;
        const bool taken = p >= slack_demand(&s, 0.99); /* else it goes to who is sure */
        const bool ok = !taken || random_unit(&random) < p;
        edge += taken && p < 1;
        met += ok;
        slack_note(&s, 0.99, ok);
    }
    CHECK(met >= 99000 && edge > 1500);
}

int main(void)
{
    TEST(nothing_is_spared_before_it_is_earned);
    TEST(it_is_never_more_than_asked_nor_less_than_the_least);
    TEST(the_slo_is_kept);
    return TEST_RESULT();
}
