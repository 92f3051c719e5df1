/* Proves of how long rows wait for others: as long as the disk takes, or what the journal's flush is worth; from when the
 * group before was taken, so that nobody waits twice; not at all where rows come slowly, where groups are large by
 * themselves, or after a pause; and one commit that takes for ever makes nobody wait for ever.
 * links: spw_sched_books spw_base */
#include "scheduler/books/patience.h"

#include "tests/unit/test.h"

#define US NS_PER_US

/* Groups of `rows`, a period apart, whose commits take commit_us, until all is as it always was. */
static struct mono steady(struct patience *p, int rows, int64_t period_us, int64_t commit_us)
{
    struct mono now = {.ns = NS_PER_S};

    *p = (struct patience){.found = 0};
    for (int i = 0; i < 100; i++) {
        now.ns += period_us * US;
        patience_found(p, 1);
        patience_taken(p, rows, now);
        patience_committed(p, commit_us * US);
    }
    return now;
}

static struct mono later(struct mono m, int64_t us)
{
    return (struct mono){.ns = m.ns + us * US};
}

static void as_long_as_the_disk_takes(void)
{
    struct patience p;
    struct mono taken = steady(&p, 6, 1200, 600);

    CHECK_INT(patience_us(&p, 1, false, later(taken, 600)), 600);
    CHECK_INT(patience_us(&p, 1, true, later(taken, 600)), PATIENCE_US_JOURNAL);
    taken = steady(&p, 6, 1200, 50);
    CHECK_INT(patience_us(&p, 1, false, later(taken, 50)), PATIENCE_US_MIN);
    CHECK_INT(patience_us(&p, 1, true, later(taken, 50)), PATIENCE_US_JOURNAL);
}

static void nobody_waits_twice(void)
{
    struct patience p;
    const struct mono taken = steady(&p, 6, 1200, 300);

    CHECK_INT(patience_us(&p, 1, true, later(taken, 300)), 900);
    CHECK_INT(patience_us(&p, 4, true, later(taken, 1000)), 200); /* this commit was a slow one */
    CHECK_INT(patience_us(&p, 5, true, later(taken, 1200)), 0);
    CHECK_INT(patience_us(&p, 1, true, later(taken, 5000000)), 0); /* a pause; the first row after it */
}

static void where_there_is_nothing_to_gain(void)
{
    struct patience p;
    struct mono taken = steady(&p, 1, 1000, 300);

    CHECK_INT(patience_us(&p, 1, true, taken), 0); /* 1,000 a second */
    taken = steady(&p, 6, 1200, 300);
    CHECK(patience_us(&p, PATIENCE_ENOUGH - 1, true, taken) > 0);
    CHECK_INT(patience_us(&p, PATIENCE_ENOUGH, true, taken), 0);
    for (int i = 0; i < 20; i++)
        patience_found(&p, 8); /* they are many by themselves */
    CHECK_INT(patience_us(&p, 1, true, taken), 0);
}

static void not_for_ever(void)
{
    struct patience p;
    const struct mono taken = steady(&p, 60, 12000, 10000000);

    CHECK_INT(patience_us(&p, 1, false, taken), 2 * PATIENCE_US_MAX);
}

int main(void)
{
    TEST(as_long_as_the_disk_takes);
    TEST(nobody_waits_twice);
    TEST(where_there_is_nothing_to_gain);
    TEST(not_for_ever);
    return TEST_RESULT();
}
