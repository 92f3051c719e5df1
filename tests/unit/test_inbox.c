/* Proves of the way from loops to a writer and back: each entry comes back once, on its loop's thread, each port's in order,
 * with what the writer said; a group that is put back goes first; the bound holds and is free again; a port that is freed has all
 * of its entries back; without a writer they come back by the end of the turn.
 * links: spw_base */
#include "tests/unit/test.h"

#include <limits.h>
#include <pthread.h>

#include "base/alloc.h"
#include "base/inbox.h"

#define LOOPS   3
#define ENTRIES 4000
#define QUEUE   256
#define GROUP   50

struct entry {
    struct inbox_entry in;
    int index;
};
struct client {
    struct inbox *inbox;
    struct inbox_port *port;
    struct event_base *loop;
    struct event *tick;
    pthread_t thread;
    int put, back, disorder, strangers, wrong, full;
};
struct ticket {
    struct client *c;
    int index;
};

static int groups, tried_again;

/* Every seventh group fails once and is put back; entries of an index that 5 divides are told so. */
static void *writer_main(void *arg)
{
    struct inbox *q = arg;
    bool failed = false;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (!q->waiting.n && !q->stopping)
            inbox_idle_locked(q, -1);
        if (!q->waiting.n)
            break;
        if (groups % 2)
            inbox_gather_locked(q, GROUP, 500);
        struct inbox_list group;
        inbox_list_init(&group);
        inbox_list_move(&group, &q->waiting, GROUP);
        pthread_mutex_unlock(&q->lock);
        for (struct inbox_entry *x = group.head; x; x = x->next)
            x->rc = ((struct entry *)x)->index % 5 ? RC_OK : RC_CONFLICT;
        pthread_mutex_lock(&q->lock);
        if (++groups % 7 == 0 && !failed) {
            failed = true;
            tried_again++;
            inbox_list_put_back(&q->waiting, &group);
            inbox_gather_locked(q, INT_MAX, 100);
            continue;
        }
        failed = false;
        struct inbox_port *wake = inbox_finish_locked(q, &group);
        pthread_mutex_unlock(&q->lock);
        inbox_wake_ports(q, wake);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static void done(enum rc rc, void *arg)
{
    struct ticket *t = arg;
    struct client *c = t->c;
    c->disorder += t->index != c->back++;
    c->wrong += rc != (t->index % 5 ? RC_OK : RC_CONFLICT);
    c->strangers += !pthread_equal(pthread_self(), c->thread);
    free(t);
}

static void put(struct client *c)
{
    struct entry *x = spw_calloc(1, sizeof *x);
    struct ticket *t = spw_calloc(1, sizeof *t);
    *t = (struct ticket){c, c->put};
    x->in.done = done;
    x->in.arg = t;
    x->index = c->put++;
    inbox_port_put(c->port, &x->in);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    const struct timeval soon = {0, 200};
    struct client *c = arg;
    (void)fd, (void)what;
    for (int i = 0; i < 37 && c->put < ENTRIES; i++) {
        if (!inbox_take_place(c->inbox)) {
            c->full++;
            break;
        }
        put(c);
    }
    if (c->put < ENTRIES)
        event_add(c->tick, &soon);
    else
        event_base_loopbreak(c->loop); /* what is under way comes back while the port is freed */
}

static void *loop_main(void *arg)
{
    struct client *c = arg;
    struct error e;
    c->thread = pthread_self();
    c->loop = event_base_new();
    c->tick = event_new(c->loop, -1, 0, on_tick, c);
    CHECK(inbox_port_new(&c->port, c->inbox, c->loop, "test", &e) == RC_OK);
    event_active(c->tick, EV_TIMEOUT, 0);
    event_base_loop(c->loop, EVLOOP_NO_EXIT_ON_EMPTY);
    inbox_port_free(c->port);
    event_free(c->tick);
    event_base_free(c->loop);
    return NULL;
}

static void test_all_come_back(void)
{
    struct client clients[LOOPS] = {{0}};
    struct inbox q;
    struct error e;
    inbox_init(&q, QUEUE, false);
    CHECK(inbox_start(&q, "writer", writer_main, &q, &e) == RC_OK);
    pthread_t threads[LOOPS];
    for (int i = 0; i < LOOPS; i++) {
        clients[i].inbox = &q;
        CHECK(pthread_create(&threads[i], NULL, loop_main, &clients[i]) == 0);
    }
    for (int i = 0; i < 100; i++) { /* nobody's */
        if (!inbox_take_place(&q))
            continue;
        struct entry *x = spw_calloc(1, sizeof *x);
        inbox_put(&q, &x->in);
    }
    for (int i = 0; i < LOOPS; i++)
        pthread_join(threads[i], NULL);
    inbox_stop(&q);
    for (int i = 0; i < LOOPS; i++) {
        CHECK_INT(clients[i].back, ENTRIES);
        CHECK_INT(clients[i].disorder + clients[i].wrong + clients[i].strangers, 0);
    }
    CHECK_INT(atomic_load(&q.queued), 0);
    CHECK_INT(q.n_ports, 0);
    CHECK(tried_again > 0);
    inbox_fini(&q);
}

static void test_bound(void)
{
    struct inbox q;
    inbox_init(&q, 2, false);
    CHECK(inbox_take_place(&q) && inbox_take_place(&q) && !inbox_take_place(&q) && !inbox_take_place(&q));
    for (int i = 0; i < 2; i++) {
        struct entry *x = spw_calloc(1, sizeof *x);
        inbox_put(&q, &x->in);
    }
    struct inbox_list group;
    inbox_list_init(&group);
    pthread_mutex_lock(&q.lock);
    inbox_list_move(&group, &q.waiting, 1);
    CHECK(inbox_finish_locked(&q, &group) == NULL);
    pthread_mutex_unlock(&q.lock);
    CHECK(inbox_take_place(&q) && !inbox_take_place(&q));
    inbox_stop(&q); /* was never started */
    inbox_fini(&q); /* and frees what waits */
}

static void test_without_a_writer(void)
{
    struct client c = {.thread = pthread_self(), .loop = event_base_new()};
    struct inbox q;
    struct error e;
    inbox_init(&q, 10, true);
    c.inbox = &q;
    CHECK(inbox_port_new(&c.port, &q, c.loop, "test", &e) == RC_OK);
    for (int i = 1; i < 3; i++) {
        c.put = c.back = i; /* of those that are told RC_OK */
        CHECK(inbox_take_place(&q));
        put(&c);
        CHECK_INT(c.back, i);
        event_base_loop(c.loop, EVLOOP_NONBLOCK);
        CHECK_INT(c.back, i + 1);
    }
    CHECK_INT(c.disorder + c.wrong, 0);
    inbox_port_free(c.port);
    inbox_fini(&q);
    event_base_free(c.loop);
}

int main(void)
{
    TEST(test_all_come_back);
    TEST(test_bound);
    TEST(test_without_a_writer);
    return TEST_RESULT();
}
