/* Proves of how long rows wait for others: as long as the disk takes, or what the journal's flush is worth, less the
 * pause before the first of them; from when that one came; not at all where rows come slowly, or where groups are large
 * by themselves; and one commit that takes for ever makes nobody wait for ever.
 * links: spw_sched_books spw_base */
#include "scheduler/books/patience.h"

#include "tests/unit/test.h"

#define US NS_PER_US

/* Groups of `rows`, a period apart, whose commits take commit_us, until all is as it always was. */
static void steady(struct patience *p, int rows, int64_t period_us, int64_t commit_us)
{
    struct mono now = {.ns = NS_PER_S};

    *p = (struct patience){.found = 0};
    for (int i = 0; i < 100; i++) {
        now.ns += period_us * US;
        patience_found(p, 1);
        patience_taken(p, rows, now);
        patience_committed(p, commit_us * US);
    }
}

/* One row each 200 us. */
static void as_long_as_the_disk_takes(void)
{
    struct patience p;

    steady(&p, 6, 1200, 600);
    CHECK_INT(patience_us(&p, 1, false, 0), 600 + 600 - 200);
    CHECK_INT(patience_us(&p, 1, true, 0), 600 + 600 - 200);
    steady(&p, 6, 1200, 50);
    CHECK_INT(patience_us(&p, 1, false, 0), 50 + PATIENCE_US_MIN - 200);
    CHECK_INT(patience_us(&p, 1, true, 0), 50 + PATIENCE_US_JOURNAL - 200);
    steady(&p, 60, 1200, 50); /* and one each 20 us */
    CHECK_INT(patience_us(&p, 1, true, 0), 50 + PATIENCE_US_JOURNAL - 20);
}

static void nobody_waits_longer_than_the_first(void)
{
    struct patience p;

    steady(&p, 6, 1200, 300);
    const int64_t all = 300 + PATIENCE_US_JOURNAL - 200;
    CHECK_INT(patience_us(&p, 1, true, 0), all);
    CHECK_INT(patience_us(&p, 4, true, 100 * US), all - 100);
    CHECK_INT(patience_us(&p, 5, true, all * US), 0);
    CHECK_INT(patience_us(&p, 5, true, INT64_C(5000000) * US), 0); /* this commit was a slow one */
}

static void where_there_is_nothing_to_gain(void)
{
    struct patience p;

    steady(&p, 1, 1000, 300);
    CHECK_INT(patience_us(&p, 1, true, 0), 0); /* 1,000 a second */
    steady(&p, 6, 1200, 300);
    CHECK(patience_us(&p, PATIENCE_ENOUGH - 1, true, 0) > 0);
    CHECK_INT(patience_us(&p, PATIENCE_ENOUGH, true, 0), 0);
    for (int i = 0; i < 20; i++)
        patience_found(&p, 8); /* they are many by themselves */
    CHECK_INT(patience_us(&p, 1, true, 0), 0);
}

static void not_for_ever(void)
{
    struct patience p;

    steady(&p, 60, 12000, 10000000);
    CHECK_INT(patience_us(&p, 1, false, 0), 2 * PATIENCE_US_MAX - 200);
}

int main(void)
{
    TEST(as_long_as_the_disk_takes);
    TEST(nobody_waits_longer_than_the_first);
    TEST(where_there_is_nothing_to_gain);
    TEST(not_for_ever);
    return TEST_RESULT();
}
