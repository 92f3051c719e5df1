/* Proves that identical requests in flight are collapsed: one computes, the others get its answer, a failed leader is
 * replaced by the eldest follower, nobody is told twice or forgotten whatever callbacks do, and the bounds hold.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "scheduler/cache/flight.h"

struct waiter {
    struct flight_ticket ticket;
    int results, leads, alones;
    const void *result;
    void (*then)(struct waiter *w); /* inside the callback */
    struct waiter *other;
};

static struct flights *table;

static struct cache_key key_of(int n)
{
    struct cache_key k = {{0}};
    memcpy(k.bytes, &n, sizeof n);
    return k;
}

static void on_event(enum flight_event event, const void *result, void *arg)
{
    struct waiter *w = arg;
    CHECK(event == FLIGHT_LEAD ? flight_leads(&w->ticket) : w->ticket.flight == NULL);
    w->results += event == FLIGHT_RESULT;
    w->leads += event == FLIGHT_LEAD;
    w->alones += event == FLIGHT_ALONE;
    w->result = result;
    if (w->then)
        w->then(w);
}

static enum flight_role join(struct waiter *w, int key)
{
    struct cache_key k = key_of(key);
    return flight_join(table, &k, &w->ticket, on_event, w);
}

static void start(struct waiter *w, int n)
{
    memset(w, 0, (size_t)n * sizeof *w);
    CHECK(join(&w[0], 1) == FLIGHT_ROLE_LEADER);
    for (int i = 1; i < n; i++)
        CHECK(join(&w[i], 1) == FLIGHT_ROLE_FOLLOWER);
}

static void test_finish(void)
{
    struct waiter w[5], stranger = {0};
    int answer = 0;
    table = flights_new(&(struct flight_options){0});
    start(w, 5);
    CHECK(join(&stranger, 2) == FLIGHT_ROLE_LEADER);
    flight_leave(&w[2].ticket);
    flight_leave(&w[2].ticket); /* idle: nothing */
    CHECK_INT(flights_stats(table).followers, 3);
    flight_finish(&w[0].ticket, &answer);
    CHECK_INT(w[0].results, 0);
    CHECK_INT(w[2].results, 0);
    for (int i = 1; i < 5; i++)
        CHECK(i == 2 || (w[i].results == 1 && w[i].result == &answer));
    CHECK(stranger.results == 0 && flight_leads(&stranger.ticket));
    CHECK_INT(flights_stats(table).flights, 1);
    CHECK_INT(flights_stats(table).followers, 0);
    CHECK(join(&w[0], 1) == FLIGHT_ROLE_LEADER);
    flights_free(table); /* with two flights in it */
    CHECK(!w[0].ticket.flight && !stranger.ticket.flight);
    flights_free(NULL);
}

static void test_fail(void)
{
    struct waiter w[4];
    int answer = 0;
    table = flights_new(&(struct flight_options){0});
    start(w, 4);
    flight_fail(&w[0].ticket);
    CHECK(w[1].leads == 1 && flight_leads(&w[1].ticket) && !w[0].ticket.flight);
    flight_leave(&w[1].ticket); /* a leader that leaves has failed */
    CHECK(w[2].leads == 1);
    flight_finish(&w[2].ticket, &answer);
    CHECK(w[3].results == 1 && w[3].leads == 0);
    CHECK_INT((int)flights_stats(table).promoted, 2);
    start(w, 3);
    flight_dissolve(&w[0].ticket);
    CHECK(w[1].alones == 1 && w[2].alones == 1 && w[1].result == NULL);
    start(w, 1);
    flight_fail(&w[0].ticket);
    CHECK_INT(flights_stats(table).flights, 0);
    flights_free(table);
}

static void test_bounds(void)
{
    struct waiter w[5] = {0};
    table = flights_new(&(struct flight_options){.flights_max = 2, .followers_max = 1});
    CHECK(join(&w[0], 1) == FLIGHT_ROLE_LEADER);
    CHECK(join(&w[1], 1) == FLIGHT_ROLE_FOLLOWER);
    CHECK(join(&w[2], 1) == FLIGHT_ROLE_ALONE);
    CHECK(join(&w[2], 2) == FLIGHT_ROLE_LEADER);
    CHECK(join(&w[3], 3) == FLIGHT_ROLE_ALONE);
    CHECK(w[3].ticket.flight == NULL);
    CHECK_INT((int)flights_stats(table).alone, 2);
    flight_leave(&w[1].ticket);
    CHECK(join(&w[3], 1) == FLIGHT_ROLE_FOLLOWER);
    flight_leave(&w[2].ticket);
    CHECK(join(&w[4], 3) == FLIGHT_ROLE_LEADER);
    flights_free(table);
}

static void other_leaves(struct waiter *w)
{
    flight_leave(&w->other->ticket);
}

static void joins_again(struct waiter *w)
{
    w->then = NULL;
    CHECK(join(w, 1) == (w->other ? FLIGHT_ROLE_FOLLOWER : FLIGHT_ROLE_LEADER));
}

static void fails_at_once(struct waiter *w)
{
    flight_fail(&w->ticket);
}

static void finishes_at_once(struct waiter *w)
{
    if (flight_leads(&w->ticket))
        flight_finish(&w->ticket, w);
}

static void test_callbacks(void)
{
    struct waiter w[4];
    int answer = 0;
    table = flights_new(&(struct flight_options){0});
    /* One makes the next one leave. */
    start(w, 4);
    w[1].then = other_leaves;
    w[1].other = &w[2];
    flight_finish(&w[0].ticket, &answer);
    CHECK(w[1].results == 1 && w[2].results == 0 && w[3].results == 1);
    /* Two join again: a new flight, which the end of the old one does not touch. */
    start(w, 4);
    w[1].then = joins_again;
    w[2].then = joins_again;
    w[2].other = &w[1];
    flight_finish(&w[0].ticket, &answer);
    CHECK(w[1].results == 1 && w[2].results == 1 && w[3].results == 1);
    CHECK(flight_leads(&w[1].ticket) && !flight_leads(&w[2].ticket) && w[2].ticket.flight);
    flight_finish(&w[1].ticket, &answer);
    CHECK_INT(w[2].results, 2);
    /* A row of failures from inside, then an answer from inside. */
    start(w, 4);
    w[1].then = fails_at_once;
    w[2].then = finishes_at_once;
    flight_fail(&w[0].ticket);
    CHECK(w[1].leads == 1 && w[2].leads == 1 && w[3].results == 1 && w[3].result == &w[2]);
    CHECK_INT(flights_stats(table).flights, 0);
    flights_free(table);
}

/* Random joins, leaves and ends against what must hold: at most one leader per key, followers only with a leader. */
static void test_random(void)
{
    static struct waiter w[64];
    unsigned seed = 12345;
    memset(w, 0, sizeof w);
    table = flights_new(&(struct flight_options){.flights_max = 200});
    for (int step = 0; step < 200000; step++) {
        seed = seed * 1103515245u + 12345u;
        struct waiter *x = &w[(seed >> 16) % 64];
        unsigned what = (seed >> 24) % 8;
        if (!x->ticket.flight)
            CHECK(join(x, (int)((seed >> 8) % 100)) != FLIGHT_ROLE_ALONE);
        else if (what < 4 || !flight_leads(&x->ticket))
            flight_leave(&x->ticket);
        else if (what < 6)
            flight_finish(&x->ticket, x);
        else
            flight_dissolve(&x->ticket);
        int leaders = 0, followers = 0;
        for (int i = 0; step % 64 == 0 && i < 64; i++) {
            leaders += flight_leads(&w[i].ticket);
            followers += w[i].ticket.flight && !flight_leads(&w[i].ticket);
        }
        CHECK(step % 64 || (leaders == flights_stats(table).flights && followers == flights_stats(table).followers));
    }
    flights_free(table);
}

int main(void)
{
    TEST(test_finish);
    TEST(test_fail);
    TEST(test_bounds);
    TEST(test_callbacks);
    TEST(test_random);
    return TEST_RESULT();
}
