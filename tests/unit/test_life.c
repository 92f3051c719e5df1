/* The life of a node: every state has a deadline and a way out, whatever happens leads somewhere sensible, and the
 * moves that the drawing shows.
 * links: spw_sched_capacity */
#include "scheduler/capacity/life.h"
#include "tests/unit/test.h"

static void every_state_has_a_deadline(void)
{
    struct life_times t;
    life_times_for(&t, 90000, 0);
    for (int s = 0; s < LIFE_GONE; s++) {
        CHECK(life_times_default.of[s] > 0);
        CHECK(t.of[s] > 0);
    }
    CHECK_INT(life_times_default.of[LIFE_GONE], 0);
    life_times_for(&t, 1000000, 7000);
    CHECK_INT(t.of[LIFE_BOOTING], 3000000);
    CHECK_INT(t.of[LIFE_DRAINING], 7000);
}

/* By deadlines alone, nothing ever heard: what is rented is being ended after at most three of them, and stays so until
 * the provider says that it is gone. */
static void silence_ends_what_is_rented(void)
{
    for (int s = 0; s < LIFE_GONE; s++) {
        enum life_state at = (enum life_state)s;
        int n = 0;
        while (at != LIFE_ENDING && at != LIFE_OFF && n++ < 4)
            at = life_next(at, LIFE_DEADLINE, true);
        CHECK(at == LIFE_ENDING || at == LIFE_OFF);
        CHECK_INT(life_next(at, LIFE_OVER, true), LIFE_GONE);
        CHECK_INT(life_next((enum life_state)s, LIFE_END, true), LIFE_ENDING);
    }
}

static bool reaches(enum life_state from, enum life_state to, bool rented)
{
    bool seen[LIFE_STATES] = {false};
    seen[from] = true;
    for (bool more = true; more;) {
        more = false;
        for (int s = 0; s < LIFE_STATES; s++)
            for (int e = 0; seen[s] && e < LIFE_EVENTS; e++) {
                enum life_state next = life_next((enum life_state)s, (enum life_event)e, rented);
                more = more || !seen[next];
                seen[next] = true;
            }
    }
    return seen[to];
}

static void every_state_has_a_way_out(void)
{
    for (int s = 0; s < LIFE_GONE; s++) {
        for (int rented = 0; rented < 2; rented++) {
            CHECK(reaches((enum life_state)s, LIFE_GONE, rented));
            if (s != LIFE_ENDING)
                CHECK(reaches((enum life_state)s, LIFE_READY, rented));
        }
    }
    for (int e = 0; e < LIFE_EVENTS; e++) { /* and from the end nothing leads back */
        CHECK_INT(life_next(LIFE_GONE, (enum life_event)e, true), LIFE_GONE);
        CHECK(life_next(LIFE_ENDING, (enum life_event)e, true) == (e == LIFE_OVER ? LIFE_GONE : LIFE_ENDING));
    }
}

static void owned_ones_are_never_ended(void)
{
    for (int s = 0; s < LIFE_STATES; s++)
        for (int e = 0; e < LIFE_EVENTS; e++)
            if (s != LIFE_ENDING)
                CHECK(life_next((enum life_state)s, (enum life_event)e, false) != LIFE_ENDING);
}

static void walk(const enum life_event *events, int n, bool rented, enum life_state start, const char *want)
{
    char text[256];
    enum life_state at = start;
    snprintf(text, sizeof text, "%s", life_state_name(at));
    for (int i = 0; i < n; i++) {
        at = life_next(at, events[i], rented);
        snprintf(text + strlen(text), sizeof text - strlen(text), " %s", life_state_name(at));
    }
    CHECK_STR(text, want);
}
#define WALK(start, rented, want, ...)                                                                                 \
    walk((const enum life_event[]){__VA_ARGS__},                                                                       \
         sizeof((const enum life_event[]){__VA_ARGS__}) / sizeof(enum life_event), rented, start, want)

static void usual_lives(void)
{
    WALK(LIFE_REQUESTED, true, "requested booting joining ready draining ending gone", LIFE_LAUNCHED, LIFE_ADDRESS,
         LIFE_ANSWERS, LIFE_DRAIN, LIFE_END, LIFE_OVER);
    WALK(LIFE_REQUESTED, true, "requested gone", LIFE_OVER);
    WALK(LIFE_REQUESTED, true, "requested lost booting", LIFE_DEADLINE, LIFE_LAUNCHED);
    WALK(LIFE_READY, false, "ready draining sleeping joining ready", LIFE_DRAIN, LIFE_ASLEEP, LIFE_WAKE, LIFE_ANSWERS);
    WALK(LIFE_SLEEPING, false, "sleeping off booting joining ready", LIFE_POWERED_OFF, LIFE_POWER_ON, LIFE_ADDRESS,
         LIFE_ANSWERS);
    WALK(LIFE_READY, false, "ready draining ready", LIFE_DRAIN, LIFE_DEADLINE);
    WALK(LIFE_READY, true, "ready booting joining ready", LIFE_RESTARTS, LIFE_ADDRESS, LIFE_ANSWERS);
    WALK(LIFE_READY, true, "ready lost ready", LIFE_SILENT, LIFE_ANSWERS);
    WALK(LIFE_READY, true, "ready ready", LIFE_LAUNCHED);
}

int main(void)
{
    TEST(every_state_has_a_deadline);
    TEST(silence_ends_what_is_rented);
    TEST(every_state_has_a_way_out);
    TEST(owned_ones_are_never_ended);
    TEST(usual_lives);
    return TEST_RESULT();
}
