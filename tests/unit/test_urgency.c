/* Proves what service_tier and x-spillway-deadline mean, and that a value which cannot be understood is refused with
 * words that say what would be right.
 * links: spw_sched_front */
#include "tests/unit/test.h"

#include "scheduler/wire/urgency.h"

#define BATCH_AFTER_MS 300000
static const struct wall now = {INT64_C(1800000000) * NS_PER_S + 250 * NS_PER_MS}; /* 2027-01-15T08:00:00.25Z */

static void tiers(void)
{
    enum service_tier t;
    struct error e;
    CHECK(tier_read("auto", &t, &e) == RC_OK && t == TIER_AUTO);
    CHECK(tier_read("flex", &t, &e) == RC_OK && t == TIER_FLEX);
    CHECK(tier_read("priority", &t, &e) == RC_OK && t == TIER_PRIORITY);
    const char *bad[] = {"", "Flex", "flex ", "batch", "fast"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_INT(tier_read(bad[i], &t, &e), RC_INVALID);
    CHECK_STR(e.message, "'service_tier' is \"fast\"; auto, default, flex and priority are right");
}

static void told(void)
{
    CHECK_STR(tier_served(TIER_FLEX, WAITING_BATCH), "flex");
    CHECK_STR(tier_served(TIER_AUTO, WAITING_BATCH), "flex"); /* its deadline was far away */
    CHECK_STR(tier_served(TIER_AUTO, WAITING_INTERACTIVE), "default");
    CHECK_STR(tier_served(TIER_PRIORITY, WAITING_INTERACTIVE), "priority");
    CHECK_STR(tier_served(TIER_SCALE, WAITING_INTERACTIVE), "default"); /* there is none of ours */
}

static void deadlines(void)
{
    static const struct {
        const char *text;
        int64_t left_ms;
    } good[] = {{"30", 30000},
                {"1500ms", 1500},
                {"2h", 7200000},
                {"604800", 604800000},
                {"2027-01-15T08:00:10Z", 9750},
                {"2027-01-15T09:00:10.5+01:00", 10250},
                {"2027-01-15t07:30:00.2509999-00:30", 0 + 0},
                {"2027-01-15T08:00:00.251Z", 1}};
    struct urgency u;
    struct error e;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        enum rc rc = urgency_read(&u, TIER_AUTO, good[i].text, now, BATCH_AFTER_MS, &e);
        CHECK_INT(rc, good[i].left_ms ? RC_OK : RC_INVALID);
        CHECK_INT(u.left_ns / NS_PER_MS, good[i].left_ms);
        CHECK_INT(u.has_deadline, good[i].left_ms > 0);
    }
    const char *bad[] = {"",
                         "0",
                         "0s",
                         "-5",
                         "soon",
                         "5 s",
                         "1.5s",
                         "tomorrow",
                         "604801",
                         "200h",
                         "2h30m",
                         "2027-01-15",
                         "30;",
                         "1e3",
                         "2027-01-15T08:00:10",
                         "9999-12-31T23:59:59Z",
                         "1990-01-01T00:00:00Z",
                         "2027-02-30T00:00:00Z",
                         "99999999999999999999",
                         "2027-01-15T08:00:10.Z",
                         "2027-01-15T08:00:10+1:00"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_INT(urgency_read(&u, TIER_AUTO, bad[i], now, BATCH_AFTER_MS, &e), RC_INVALID);
    CHECK_INT(urgency_read(&u, TIER_AUTO, "1990-01-01T00:00:00Z", now, BATCH_AFTER_MS, &e), RC_INVALID);
    CHECK_STR(e.message,
              "'x-spillway-deadline' is \"1990-01-01T00:00:00Z\", which has passed; a time to come is right");
}

static void classes(void)
{
    static const struct {
        enum service_tier tier;
        const char *deadline;
        enum waiting_class class;
    } rows[] = {
        {TIER_AUTO, NULL, WAITING_INTERACTIVE},     {TIER_AUTO, "299s", WAITING_INTERACTIVE},
        {TIER_AUTO, "5m", WAITING_BATCH},           {TIER_DEFAULT, "1h", WAITING_INTERACTIVE},
        {TIER_PRIORITY, "1h", WAITING_INTERACTIVE}, {TIER_SCALE, NULL, WAITING_INTERACTIVE},
        {TIER_FLEX, NULL, WAITING_BATCH},           {TIER_FLEX, "3s", WAITING_BATCH},
    };
    struct urgency u;
    struct error e;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        CHECK_INT(urgency_read(&u, rows[i].tier, rows[i].deadline, now, BATCH_AFTER_MS, &e), RC_OK);
        CHECK_INT(u.class, rows[i].class);
    }
}

int main(void)
{
    TEST(tiers);
    TEST(told);
    TEST(deadlines);
    TEST(classes);
    return TEST_RESULT();
}
