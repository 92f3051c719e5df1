/* Proves that what an engine says of its time is read with suspicion, and that only differences within one life count.
 * links: spw_sched_nodes */
#include "tests/unit/test.h"

#include "scheduler/nodes/timesheet.h"

static struct timesheet read(const char *text)
{
    struct timesheet t = {.busy_us = 77};
    cJSON *root = NULL;
    CHECK_INT(json_parse(text, strlen(text), 8, &root, NULL), RC_OK);
    timesheet_read(&t, root);
    cJSON_Delete(root);
    return t;
}

static void test_read(void)
{
    struct timesheet t =
        read("{\"status\":\"ok\",\"spillway_time\":{\"life\":\"a1\",\"busy_us\":5,\"idle_us\":6,\"asleep_us\":7,"
             "\"boot_us\":8,\"measured\":true,\"millijoules\":90,\"idle_millijoules\":40,\"new\":[]}}");
    CHECK_STR(t.life, "a1");
    CHECK(t.busy_us == 5 && t.idle_us == 6 && t.asleep_us == 7 && t.boot_us == 8);
    CHECK(t.has_energy && t.measured && t.millijoules == 90 && t.idle_millijoules == 40);
    t = read("{\"spillway_time\":{\"life\":\"a1\",\"busy_us\":5,\"idle_us\":6,\"asleep_us\":7,\"boot_us\":8}}");
    CHECK(t.life[0] && !t.has_energy && !t.measured);
    t = read("{\"spillway_time\":{\"life\":\"a1\",\"busy_us\":5,\"millijoules\":9}}"); /* half of it: no energy */
    CHECK(t.life[0] && !t.has_energy);
    static const char *const none[] = {
        "{}",
        "{\"spillway_time\":7}",
        "{\"spillway_time\":{}}",
        "{\"spillway_time\":{\"life\":\"\"}}",
        "{\"spillway_time\":{\"life\":\"123456789012345678901234567890123\"}}",
        "{\"spillway_time\":{\"life\":\"a\",\"busy_us\":-1}}",
        "{\"spillway_time\":{\"life\":\"a\",\"idle_us\":1e30}}",
        "{\"spillway_time\":{\"life\":\"a\",\"boot_us\":\"5\"}}",
        "[1]",
    };
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        CHECK_STR(read(none[i]).life, "");
}

static void test_between(void)
{
    const struct timesheet a = {"one", 10, 20, 30, 40, true, true, 500, 100},
                           b = {"one", 11, 22, 33, 44, true, true, 505, 101};
    struct timesheet other = b, lost = b, spent;
    CHECK(timesheet_between(&a, &b, &spent));
    CHECK(spent.busy_us == 1 && spent.idle_us == 2 && spent.asleep_us == 3 && spent.boot_us == 4);
    CHECK(spent.has_energy && spent.measured && spent.millijoules == 5 && spent.idle_millijoules == 1);
    CHECK(!timesheet_between(&b, &a, &spent)); /* back */
    CHECK(spent.idle_us == 0 && !spent.has_energy);
    other.life[0] = 'O';
    CHECK(!timesheet_between(&a, &other, &spent));
    lost.life[0] = '\0';
    CHECK(!timesheet_between(&lost, &lost, &spent)); /* nothing said, twice */
    lost = b;
    lost.has_energy = false; /* its meter is gone */
    CHECK(timesheet_between(&a, &lost, &spent) && !spent.has_energy);
}

int main(void)
{
    TEST(test_read);
    TEST(test_between);
    return TEST_RESULT();
}
