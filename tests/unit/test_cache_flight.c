/* Proves that identical requests in flight are collapsed: one computes, the others get its answer, a failed leader is
 * replaced by the eldest follower, nobody is told twice or forgotten whatever callbacks do and whoever leaves while a
 * message to him is under way, the bounds hold, and all of it over several loops on threads of their own.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "scheduler/cache/cache_internal.h"
#include "scheduler/cache/flight.h"

struct waiter {
    struct flight_ticket ticket;
    int results, leads, alones, refused;
    const struct blob *result;
    void (*then)(struct waiter *w); /* inside the callback */
    struct waiter *other;
};

static struct flights *table;
static struct event_base *loop;
static struct mailbox *mail;
static struct blob *answer;

/* Messages of messages, too. */
static void turn(void)
{
    for (int i = 0; i < 8; i++)
        mailbox_deliver(mail);
}

static struct cache_key key_of(int n)
{
    struct cache_key k = {{0}};
    memcpy(k.bytes, &n, sizeof n);
    return k;
}

static void on_event(enum flight_event event, const struct blob *result, void *arg)
{
    struct waiter *w = arg;
    CHECK(event == FLIGHT_LEAD ? flight_leads(&w->ticket) : w->ticket.seat == NULL);
    w->results += event == FLIGHT_RESULT;
    w->leads += event == FLIGHT_LEAD;
    w->alones += event == FLIGHT_ALONE;
    w->refused += event == FLIGHT_REFUSED;
    w->result = result;
    if (w->then)
        w->then(w);
}

static enum flight_role join(struct waiter *w, int key)
{
    struct cache_key k = key_of(key);
    return flight_join(table, &k, &w->ticket, mail, on_event, w);
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
    table = flights_new(&(struct flight_options){0});
    start(w, 5);
    CHECK(join(&stranger, 2) == FLIGHT_ROLE_LEADER);
    flight_leave(&w[2].ticket);
    flight_leave(&w[2].ticket); /* idle: nothing */
    CHECK_INT(flights_stats(table).followers, 3);
    flight_finish(&w[0].ticket, answer);
    turn();
    CHECK_INT(w[0].results, 0);
    CHECK_INT(w[2].results, 0);
    for (int i = 1; i < 5; i++)
        CHECK(i == 2 || (w[i].results == 1 && w[i].result == answer));
    CHECK(stranger.results == 0 && flight_leads(&stranger.ticket));
    CHECK_INT(flights_stats(table).flights, 1);
    CHECK_INT(flights_stats(table).followers, 0);
    CHECK(join(&w[0], 1) == FLIGHT_ROLE_LEADER);
    flight_leave(&w[0].ticket);
    flight_leave(&stranger.ticket);
    flights_free(table);
    flights_free(NULL);
}

static void test_fail(void)
{
    struct waiter w[4];
    table = flights_new(&(struct flight_options){0});
    start(w, 4);
    flight_fail(&w[0].ticket);
    CHECK(w[1].leads == 0); /* never from inside */
    turn();
    CHECK(w[1].leads == 1 && flight_leads(&w[1].ticket) && !w[0].ticket.seat);
    flight_leave(&w[1].ticket); /* a leader that leaves has failed */
    turn();
    CHECK(w[2].leads == 1);
    flight_finish(&w[2].ticket, answer);
    turn();
    CHECK(w[3].results == 1 && w[3].leads == 0);
    CHECK_INT((int)flights_stats(table).promoted, 2);
    start(w, 3);
    flight_dissolve(&w[0].ticket);
    turn();
    CHECK(w[1].alones == 1 && w[2].alones == 1 && w[1].result == NULL);
    start(w, 3);
    flight_refuse(&w[0].ticket);
    turn();
    CHECK(w[1].refused == 1 && w[2].refused == 1 && w[1].result == NULL);
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
    CHECK(w[3].ticket.seat == NULL);
    CHECK_INT((int)flights_stats(table).alone, 2);
    flight_leave(&w[1].ticket);
    CHECK(join(&w[3], 1) == FLIGHT_ROLE_FOLLOWER);
    flight_leave(&w[2].ticket);
    CHECK(join(&w[4], 3) == FLIGHT_ROLE_LEADER);
    for (int i = 0; i < 5; i++)
        flight_leave(&w[i].ticket);
    turn();
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
        flight_finish(&w->ticket, answer);
}

static void test_callbacks(void)
{
    struct waiter w[4];
    table = flights_new(&(struct flight_options){0});
    /* One makes the next one leave. */
    start(w, 4);
    w[1].then = other_leaves;
    w[1].other = &w[2];
    flight_finish(&w[0].ticket, answer);
    turn();
    CHECK(w[1].results == 1 && w[2].results == 0 && w[3].results == 1);
    /* Two join again: a new flight, which the end of the old one does not touch. */
    start(w, 4);
    w[1].then = joins_again;
    w[2].then = joins_again;
    w[2].other = &w[1];
    flight_finish(&w[0].ticket, answer);
    turn();
    CHECK(w[1].results == 1 && w[2].results == 1 && w[3].results == 1);
    CHECK(flight_leads(&w[1].ticket) && !flight_leads(&w[2].ticket) && w[2].ticket.seat);
    flight_finish(&w[1].ticket, answer);
    turn();
    CHECK_INT(w[2].results, 2);
    /* A row of failures from inside, then an answer from inside. */
    start(w, 4);
    w[1].then = fails_at_once;
    w[2].then = finishes_at_once;
    flight_fail(&w[0].ticket);
    turn();
    CHECK(w[1].leads == 1 && w[2].leads == 1 && w[3].results == 1 && w[3].result == answer);
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
    for (int step = 0; step < 30000; step++) {
        seed = seed * 1103515245u + 12345u;
        struct waiter *x = &w[(seed >> 16) % 64];
        unsigned what = (seed >> 24) % 8;
        if (!x->ticket.seat)
            CHECK(join(x, (int)((seed >> 8) % 100)) != FLIGHT_ROLE_ALONE);
        else if (what < 4 || !flight_leads(&x->ticket))
            flight_leave(&x->ticket);
        else if (what < 6)
            flight_finish(&x->ticket, answer);
        else
            flight_dissolve(&x->ticket);
        if (step % 64 == 0)
            turn();
        int leaders = 0, followers = 0;
        for (int i = 0; step % 64 == 0 && i < 64; i++) {
            leaders += flight_leads(&w[i].ticket);
            followers += w[i].ticket.seat && !flight_leads(&w[i].ticket);
        }
        CHECK(step % 64 || (leaders == flights_stats(table).flights && followers == flights_stats(table).followers));
    }
    for (int i = 0; i < 64; i++)
        flight_leave(&w[i].ticket);
    turn();
    CHECK_INT(flights_stats(table).flights, 0);
    flights_free(table);
}

/* Who leaves while a message is under way hears nothing, and a lead that he was about to get goes on to the next. */
static void test_leaving_too_late(void)
{
    struct waiter w[4];
    table = flights_new(&(struct flight_options){0});
    start(w, 4);
    flight_fail(&w[0].ticket);
    CHECK(flight_leads(&w[1].ticket)); /* and does not know yet */
    flight_leave(&w[1].ticket);
    flight_finish(&w[2].ticket, answer); /* the same */
    flight_leave(&w[3].ticket);
    turn();
    for (int i = 0; i < 4; i++)
        CHECK(w[i].leads + w[i].results + w[i].alones == 0);
    CHECK_INT(flights_stats(table).flights, 0);
    flights_free(table);
}

/* ---- several loops ---- */

struct lane {
    pthread_t thread;
    struct event_base *loop;
    struct mailbox *mail;
    struct waiter w;
    unsigned seed;
    int led, told, left, wrong;
};

static void on_lane_event(enum flight_event event, const struct blob *result, void *arg)
{
    struct lane *l = arg;
    l->w.leads += event == FLIGHT_LEAD;
    l->told++;
    l->wrong += (event == FLIGHT_RESULT) != (result == answer);
}

static void run_lane_once(struct lane *l)
{
    struct cache_key k = key_of((int)(l->seed >> 16) % 3);
    enum flight_role role = flight_join(table, &k, &l->w.ticket, l->mail, on_lane_event, l);
    unsigned what = (l->seed >> 24) % 8;
    l->w.leads = role == FLIGHT_ROLE_LEADER;
    if (role == FLIGHT_ROLE_FOLLOWER && what == 0) {
        flight_leave(&l->w.ticket);
        l->left++;
    }
    for (int i = 0; i < 2000 && l->w.ticket.seat && !l->w.leads; i++)
        event_base_loop(l->loop, EVLOOP_ONCE);
    l->wrong += l->w.ticket.seat && !l->w.leads;
    if (!l->w.ticket.seat)
        return;
    l->led++;
    usleep(20); /* so that there is somebody to follow */
    if (what < 4)
        flight_finish(&l->w.ticket, answer);
    else if (what < 6)
        flight_dissolve(&l->w.ticket);
    else
        flight_fail(&l->w.ticket);
}

static void *run_lane(void *arg)
{
    struct lane *l = arg;
    for (int step = 0; step < 3000; step++) {
        l->seed = l->seed * 1103515245u + 12345u;
        run_lane_once(l);
    }
    return NULL;
}

static void test_lanes(void)
{
    static struct lane lanes[3];
    struct error e;
    int told = 0;
    table = flights_new(&(struct flight_options){0});
    for (int i = 0; i < 3; i++) {
        lanes[i] = (struct lane){.loop = event_base_new(), .seed = 77u + (unsigned)i};
        CHECK(mailbox_new(&lanes[i].mail, lanes[i].loop, &e) == RC_OK);
    }
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&lanes[i].thread, NULL, run_lane, &lanes[i]) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(lanes[i].thread, NULL);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(lanes[i].wrong, 0);
        told += lanes[i].told;
        mailbox_free(lanes[i].mail);
        event_base_free(lanes[i].loop);
    }
    CHECK(told > 100);
    CHECK_INT(flights_stats(table).flights + flights_stats(table).followers, 0);
    CHECK_INT(atomic_load(&answer->refs), 1);
    flights_free(table);
}

int main(void)
{
    struct error e;
    loop = event_base_new();
    answer = blob_new(1);
    if (mailbox_new(&mail, loop, &e) != RC_OK)
        return 1;
    TEST(test_finish);
    TEST(test_fail);
    TEST(test_bounds);
    TEST(test_callbacks);
    TEST(test_random);
    TEST(test_leaving_too_late);
    TEST(test_lanes);
    blob_unref(answer);
    mailbox_free(mail);
    event_base_free(loop);
    return TEST_RESULT();
}
