/* Proves of the way from loops to a writer and back: each entry comes back once, on its loop's thread, each port's in
 * order, with what the writer said; a group that is put back goes first; the bound holds and is free again; a port that
 * is freed has all of its entries back; without a writer they come back by the end of the turn; those that can wait
 * stand back behind whatever is ready, but not for ever.
 * links: spw_base */
#include "tests/unit/test.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/inbox.h"
#include "base/loop.h"

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

/* ---- those that can wait --------------------------------------------------------------------------------------------- */

struct order {
    char text[16];
    struct event *other;     /* becomes ready while the first that can wait is called; NULL: does not */
    struct event_base *loop; /* left when the last is called */
};
struct named {
    struct order *order;
    char name;
};

static void note(struct order *o, char c)
{
    size_t n = strlen(o->text);
    if (n + 1 < sizeof o->text)
        o->text[n] = c;
}

static void on_other(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    note(arg, 'o');
}

static void on_named(enum rc rc, void *arg)
{
    struct named *n = arg;
    const struct timespec work = {0, 500 * 1000}; /* more than are called one after the other */
    CHECK(rc == RC_OK);
    note(n->order, n->name);
    if (n->name == '1' && n->order->other)
        event_active(n->order->other, EV_TIMEOUT, 0);
    nanosleep(&work, NULL);
    if (n->name == '3')
        event_base_loopbreak(n->order->loop);
}

/* Puts '1', '2', '3', which can wait, and 'u', which cannot; what the writer does is done here. */
static struct inbox_port *put_and_write(struct inbox *q, struct event_base *loop, struct named *named)
{
    struct inbox_port *port;
    struct inbox_list group;
    struct error e;
    CHECK(inbox_port_new(&port, q, loop, "test", &e) == RC_OK);
    for (int i = 0; i < 4; i++) {
        struct entry *x = spw_calloc(1, sizeof *x);
        x->in = (struct inbox_entry){.done = on_named, .arg = &named[i], .can_wait = named[i].name != 'u'};
        CHECK(inbox_take_place(q));
        inbox_port_put(port, &x->in);
    }
    event_base_loop(loop, EVLOOP_NONBLOCK);
    inbox_list_init(&group);
    pthread_mutex_lock(&q->lock);
    inbox_list_move(&group, &q->waiting, 4);
    CHECK_INT(group.n, 4);
    struct inbox_port *wake = inbox_finish_locked(q, &group);
    pthread_mutex_unlock(&q->lock);
    inbox_wake_ports(q, wake);
    pthread_mutex_unlock(&q->lock);
    return port;
}

#define TRIES 50 /* a machine that stops us for INBOX_BACK_US has made them late */

static bool stands_back(void)
{
    struct event_base *loop = loop_new();
    struct order o = {.loop = loop};
    struct named named[] = {{&o, '1'}, {&o, '2'}, {&o, '3'}, {&o, 'u'}};
    struct inbox q;
    inbox_init(&q, 10, false);
    o.other = event_new(loop, -1, 0, on_other, &o);
    struct inbox_port *port = put_and_write(&q, loop, named);
    event_base_loop(loop, EVLOOP_NO_EXIT_ON_EMPTY);
    inbox_port_free(port);
    event_free(o.other);
    event_base_free(loop);
    inbox_fini(&q);
    return strcmp(o.text, "u1o23") == 0;
}

static void test_standing_back(void)
{
    int tries = 1;
    while (!stands_back() && tries < TRIES)
        tries++;
    CHECK(tries < TRIES);
}

static void count_turn(evutil_socket_t fd, short what, void *arg)
{
    const struct timespec work = {0, 50 * 1000};
    (void)fd, (void)what;
    ++*(int *)arg;
    nanosleep(&work, NULL);
}

/* Something is ready in every turn of the loop. Returns how often it was called before them. */
static int turns_before(void)
{
    struct event_base *loop = loop_new();
    struct order o = {.loop = loop};
    struct named named[] = {{&o, '1'}, {&o, '2'}, {&o, '3'}, {&o, 'u'}};
    struct inbox q;
    int turns = 0, fd = eventfd(1, EFD_NONBLOCK);
    inbox_init(&q, 10, false);
    struct inbox_port *port = put_and_write(&q, loop, named);
    struct event *ready = event_new(loop, fd, EV_READ | EV_PERSIST, count_turn, &turns);
    event_add(ready, NULL);
    event_base_loop(loop, EVLOOP_NO_EXIT_ON_EMPTY);
    CHECK_STR(o.text, "u123");
    inbox_port_free(port);
    event_free(ready);
    close(fd);
    event_base_free(loop);
    inbox_fini(&q);
    return turns;
}

static void test_not_for_ever(void)
{
    int tries = 1;
    while (turns_before() < 4 && tries < TRIES)
        tries++;
    CHECK(tries < TRIES);
}

int main(void)
{
    TEST(test_all_come_back);
    TEST(test_bound);
    TEST(test_without_a_writer);
    TEST(test_standing_back);
    TEST(test_not_for_ever);
    return TEST_RESULT();
}
