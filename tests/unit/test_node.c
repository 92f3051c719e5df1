/* A node's life and the channel to its worker: every state has a way out, no event leads where it may not; messages
 * come whole, in order and with their descriptors, also when the kernel takes no more for a while, and an end that goes
 * is heard after its last words.
 *
 * links: spw_engine_node */
#include <event2/event.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/node/channel.h"
#include "engine/node/state.h"
#include "tests/unit/test.h"

/* ---- the table ---- */

static enum node_state after(enum node_state s, enum node_event e)
{
    return node_step(s, e).next;
}

static void table_ways_out(void)
{
    bool reached[NODE_STATES] = {[NODE_LOADING] = true};
    for (int round = 0; round < NODE_STATES; round++) {
        for (int s = 0; s < NODE_STATES; s++) {
            for (int e = 0; e < NODE_EVENTS && reached[s]; e++)
                reached[after((enum node_state)s, (enum node_event)e)] = true;
        }
    }
    for (int s = 0; s < NODE_STATES; s++) {
        bool out = s == NODE_DONE;
        CHECK(reached[s]);
        for (int e = 0; e < NODE_EVENTS; e++) {
            struct node_step step = node_step((enum node_state)s, (enum node_event)e);
            CHECK(step.next != NODE_LOADING || s == NODE_LOADING); /* only the first load is the first */
            out = out || step.next != (enum node_state)s;
            bool ends = (step.actions & (NODE_DO_EXIT | NODE_DO_EXIT_FAILED)) != 0;
            CHECK_INT(step.next == NODE_DONE && s != NODE_DONE, ends);
        }
        CHECK(out);
        CHECK(after(after((enum node_state)s, NODE_STOP), NODE_STOP) == NODE_DONE); /* two signals end it, always */
    }
}

static void table_workers(void)
{
    /* Whoever waits for a worker's end may not get a second worker meanwhile, and who has none is started one. */
    for (int s = 0; s < NODE_STATES; s++) {
        bool has_none = s == NODE_ASLEEP || s == NODE_BACKOFF || s == NODE_FAILED;
        for (int e = 0; e < NODE_EVENTS; e++) {
            struct node_step step = node_step((enum node_state)s, (enum node_event)e);
            if (step.actions & NODE_DO_START)
                CHECK(has_none || e == NODE_GONE || e == NODE_LOOPING);
            if (has_none && step.next == NODE_WAKING)
                CHECK(step.actions & NODE_DO_START);
            /* A drain is never left, and refuses. */
            if (s == NODE_DRAINING || s == NODE_STOPPING)
                CHECK(step.next == NODE_DRAINING || step.next == NODE_STOPPING || step.next == NODE_DONE);
            /* What is held is passed, kept, or refused. */
            if (node_holds((enum node_state)s) && !node_holds(step.next))
                CHECK(step.actions & (NODE_DO_REFUSE | NODE_DO_TAKE) || s == NODE_FALLING || s == NODE_ENDING ||
                      step.next == NODE_DONE);
            /* AWAKE is the only state in which the worker accepts. */
            if (step.next == NODE_AWAKE && s != NODE_AWAKE)
                CHECK(step.actions & NODE_DO_PASS);
            if (s == NODE_AWAKE && step.next != NODE_AWAKE)
                CHECK(step.actions & NODE_DO_TAKE);
        }
    }
}

static void table_races(void)
{
    CHECK_INT(after(NODE_FALLING, NODE_REQUEST), NODE_AWAKE);
    CHECK_INT(after(NODE_AWAKE, NODE_EMPTY), NODE_AWAKE); /* too late: somebody came */
    CHECK_INT(after(after(NODE_FALLING, NODE_EMPTY), NODE_REQUEST), NODE_ENDING_WANTED);
    CHECK_INT(after(NODE_ENDING_WANTED, NODE_GONE), NODE_WAKING);
    CHECK_INT(after(NODE_ENDING_WANTED, NODE_SLEEP), NODE_ENDING);
    CHECK_INT(after(NODE_WAKING, NODE_SLEEP), NODE_ENDING);
    CHECK_INT(after(NODE_ASLEEP, NODE_SLEEP), NODE_ASLEEP);
    CHECK_INT(after(NODE_WAKING, NODE_WAKE), NODE_WAKING);
    CHECK_INT(after(NODE_FALLING, NODE_GONE), NODE_ASLEEP);
    CHECK_INT(after(NODE_DRAINING, NODE_WAKE), NODE_DRAINING);
    CHECK_INT(after(NODE_DRAINING, NODE_GONE), NODE_DRAINING);
    CHECK_STR(node_sleep_state(NODE_ENDING), "falling_asleep");
    CHECK_STR(node_health(NODE_AWAKE), "ok");
    CHECK_INT(node_health_status(NODE_ASLEEP), 200);
    CHECK_INT(node_health_status(NODE_FAILED), 503);
    CHECK(!node_sleep_state(NODE_FAILED));
    CHECK_INT(node_backoff_ms(1), NODE_BACKOFF_FIRST_MS);
    CHECK_INT(node_backoff_ms(2), 2 * NODE_BACKOFF_FIRST_MS);
    CHECK_INT(node_backoff_ms(1000), NODE_BACKOFF_LAST_MS);
}

/* ---- the channel ---- */

struct end {
    struct event_base *loop;
    struct channel *c;
    int received, fds, closed, answer;
    uint32_t last;
    bool in_order, whole, free_at_next;
};

static void on_message(const struct channel_message *m, void *arg)
{
    struct end *end = arg;
    const unsigned char *bytes = m->data;
    end->in_order = end->in_order && m->type == end->last + 1;
    end->last = m->type;
    end->received++;
    for (size_t i = 0; i < m->n; i++)
        end->whole = end->whole && bytes[i] == (unsigned char)(m->type + i);
    if (m->fd >= 0) {
        char c = 0;
        CHECK(fcntl(m->fd, F_GETFD) & FD_CLOEXEC);
        CHECK_INT(read(m->fd, &c, 1), 1);
        CHECK_INT(c, 'x');
        close(m->fd);
        end->fds++;
    }
    if (end->answer)
        CHECK_INT(channel_send(end->c, m->type, m->data, m->n, -1), RC_OK);
    if (end->free_at_next) {
        channel_free(end->c);
        end->c = NULL;
    }
}

static void on_closed(void *arg)
{
    ((struct end *)arg)->closed++;
}

static const struct channel_handlers handlers = {on_message, on_closed};

static void open_pair(struct end *a, struct end *b)
{
    int fds[2];
    struct error e = {0};
    struct event_base *loop = event_base_new();
    *a = *b = (struct end){.loop = loop, .in_order = true, .whole = true};
    CHECK_INT(channel_pair(fds, &e), RC_OK);
    CHECK_INT(channel_new(&a->c, loop, fds[0], &handlers, a, &e), RC_OK);
    CHECK_INT(channel_new(&b->c, loop, fds[1], &handlers, b, &e), RC_OK);
}

static void close_pair(struct end *a, struct end *b)
{
    channel_free(a->c);
    channel_free(b->c);
    event_base_free(a->loop);
}

static void turn(struct end *a, int n)
{
    for (int i = 0; i < n; i++)
        event_base_loop(a->loop, EVLOOP_NONBLOCK);
}

static int open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int pipe_with_x(void)
{
    int fds[2];
    CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
    CHECK_INT(write(fds[1], "x", 1), 1);
    close(fds[1]);
    return fds[0];
}

static void fill(unsigned char *bytes, uint32_t type, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)(type + i);
}

/* More than the kernel takes: it waits, in order, whole, with its descriptors, and nothing stays open. */
static void channel_order(void)
{
    struct end a, b;
    int before = open_fds();
    static unsigned char bytes[CHANNEL_BYTES_MAX];
    open_pair(&a, &b);
    b.answer = 1;
    for (uint32_t type = 1; type <= 300; type++) {
        size_t n = type % 7 == 0 ? CHANNEL_BYTES_MAX : type % 5 == 0 ? 0 : type * 13;
        fill(bytes, type, n);
        CHECK_INT(channel_send(a.c, type, bytes, n, type % 3 == 0 ? pipe_with_x() : -1), RC_OK);
    }
    turn(&a, 1000);
    CHECK_INT(b.received, 300);
    CHECK_INT(b.fds, 100);
    CHECK_INT(a.received, 300); /* it all came back, too */
    CHECK(a.in_order && a.whole && b.in_order && b.whole);
    CHECK_INT(a.closed + b.closed, 0);
    close_pair(&a, &b);
    CHECK_INT(open_fds(), before);
}

/* What waits is bounded, and its descriptors are closed when nobody takes it. */
static void channel_bound(void)
{
    struct end a, b;
    int before = open_fds(), sent = 0;
    open_pair(&a, &b);
    enum rc rc = RC_OK;
    for (uint32_t type = 1; rc == RC_OK && sent < 100000; type++, sent++)
        rc = channel_send(a.c, type, NULL, 0, type % 1000 == 0 ? pipe_with_x() : -1);
    CHECK_INT(rc, RC_FULL);
    CHECK(sent >= CHANNEL_QUEUE_MAX);
    close_pair(&a, &b);
    CHECK_INT(open_fds(), before);
}

/* The end that goes is heard once, after its last words; what is sent to it afterwards is refused and closed. */
static void channel_end(void)
{
    struct end a, b;
    int before = open_fds();
    open_pair(&a, &b);
    for (uint32_t type = 1; type <= 5; type++)
        CHECK_INT(channel_send(b.c, type, NULL, 0, type == 5 ? pipe_with_x() : -1), RC_OK);
    CHECK_INT(channel_send(a.c, 1, NULL, 0, pipe_with_x()), RC_OK); /* never read */
    channel_free(b.c);
    b.c = NULL;
    CHECK_INT(channel_send(a.c, 1, NULL, 0, pipe_with_x()), RC_IO);
    channel_receive(a.c);
    CHECK_INT(a.received, 5);
    CHECK_INT(a.fds, 1);
    CHECK_INT(a.closed, 0); /* not from inside */
    turn(&a, 10);
    CHECK_INT(a.closed, 1);
    CHECK_INT(channel_send(a.c, 1, NULL, 0, -1), RC_IO);
    close_pair(&a, &b);
    CHECK_INT(open_fds(), before);
}

static void channel_freed_inside(void)
{
    struct end a, b;
    open_pair(&a, &b);
    b.free_at_next = true;
    CHECK_INT(channel_send(a.c, 1, NULL, 0, -1), RC_OK);
    CHECK_INT(channel_send(a.c, 2, NULL, 0, -1), RC_OK);
    turn(&a, 10);
    CHECK_INT(b.received, 1);
    CHECK_INT(a.closed, 1);
    close_pair(&a, &b);
}

/* Bytes that are no message of ours end it. */
static void channel_nonsense(void)
{
    struct end a = {.in_order = true, .whole = true};
    struct error e = {0};
    int fds[2];
    a.loop = event_base_new();
    CHECK_INT(channel_pair(fds, &e), RC_OK);
    CHECK_INT(channel_new(&a.c, a.loop, fds[0], &handlers, &a, &e), RC_OK);
    CHECK_INT(write(fds[1], "hello, are you a channel?", 25), 25);
    turn(&a, 10);
    CHECK_INT(a.received, 0);
    CHECK_INT(a.closed, 1);
    channel_free(a.c);
    close(fds[1]);
    event_base_free(a.loop);
}

int main(void)
{
    TEST(table_ways_out);
    TEST(table_workers);
    TEST(table_races);
    TEST(channel_order);
    TEST(channel_bound);
    TEST(channel_end);
    TEST(channel_freed_inside);
    TEST(channel_nonsense);
    return TEST_RESULT();
}
