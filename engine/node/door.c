#include "engine/node/door.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"

#define ACCEPT_PER_TURN 64
#define RETRY_ACCEPT_MS 100 /* out of descriptors */

enum guest_state { GUEST_READING, GUEST_HELD, GUEST_PASSED, GUEST_STATES };

struct guest {
    struct guest *prev, *next; /* of the ring of its state, in order of arrival there */
    struct door *door;
    enum guest_state state;
    uint64_t id; /* PASSED */
    int fd;
    struct event io, timer; /* io: bytes while READING, the client's leaving while HELD */
    struct strbuf read;
};

struct door {
    struct door_options o;
    struct event_base *loop;
    enum door_mode mode;
    struct event *listener, *retry; /* owned */
    struct http_parser *parser;     /* owned; for whichever guest is looked at */
    struct guest rings[GUEST_STATES];
    int n[GUEST_STATES];
    uint64_t next_id;
    struct door_counts counts;
};

static void on_bytes(evutil_socket_t fd, short what, void *arg);
static void on_leave(evutil_socket_t fd, short what, void *arg);
static void on_late(evutil_socket_t fd, short what, void *arg);

/* ---- rings ------------------------------------------------------------------------------------------------------- */

static void leave_ring(struct guest *g)
{
    g->prev->next = g->next;
    g->next->prev = g->prev;
    g->door->n[g->state]--;
}

static void join_ring(struct guest *g, enum guest_state state)
{
    struct guest *ring = &g->door->rings[state];
    g->state = state;
    g->next = ring;
    g->prev = ring->prev;
    g->prev->next = ring->prev = g;
    g->door->n[state]++;
}

static struct guest *first(struct door *d, enum guest_state state)
{
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): who is freed has left its ring, which the analyzer cannot see */
    return d->rings[state].next == &d->rings[state] ? NULL : d->rings[state].next;
}

static int in_all(const struct door *d)
{
    return d->n[GUEST_READING] + d->n[GUEST_HELD] + d->n[GUEST_PASSED];
}

static void stop_waiting(struct guest *g)
{
    event_del(&g->io);
    event_del(&g->timer);
}

/* The socket is the caller's. */
static void guest_forget(struct guest *g)
{
    stop_waiting(g);
    leave_ring(g);
    strbuf_fini(&g->read);
    free(g);
}

static void guest_close(struct guest *g)
{
    close(g->fd);
    guest_forget(g);
}

static void set_timer(struct guest *g, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    event_add(&g->timer, &tv);
}

static void guest_answer(struct guest *g)
{
    struct door *d = g->door;
    struct strbuf read = g->read;
    int fd = g->fd;
    strbuf_init(&g->read, 0);
    guest_forget(g);
    d->o.answer(fd, read.data ? read.data : "", read.len, d->o.arg);
    strbuf_fini(&read);
}

static void guest_refuse(struct guest *g)
{
    g->door->counts.refused++;
    guest_answer(g);
}

/* ---- passing ----------------------------------------------------------------------------------------------------- */

void door_taken(struct door *d, uint64_t id)
{
    for (struct guest *g = d->rings[GUEST_PASSED].next; g != &d->rings[GUEST_PASSED]; g = g->next) {
        if (g->id == id) { /* nearly always the first */
            guest_close(g);
            return;
        }
    }
}

/* ---- reading and holding ----------------------------------------------------------------------------------------- */

static void guest_hold(struct guest *g)
{
    struct door *d = g->door;
    d->counts.held++;
    if (d->n[GUEST_HELD] >= d->o.hold_max) {
        guest_refuse(g);
        return;
    }
    stop_waiting(g);
    leave_ring(g);
    join_ring(g, GUEST_HELD);
    event_assign(&g->io, d->loop, g->fd, EV_CLOSED | EV_PERSIST, on_leave, g);
    event_add(&g->io, NULL);
    set_timer(g, d->o.hold_ms);
    d->o.held(d->o.arg); /* may pass it: nothing after */
}

/* What is its request? Until there is a head that can be read, nothing. */
static void guest_look(struct guest *g)
{
    struct door *d = g->door;
    const char *data;
    size_t used, n;
    http_parser_reset(d->parser);
    enum http_event ev = http_parser_feed(d->parser, g->read.data, g->read.len, &used, &data, &n);
    if (ev == HTTP_NEED_MORE && g->read.len < DOOR_READ_MAX)
        return;
    if (ev == HTTP_HEAD && d->o.judge(http_parser_head(d->parser), d->o.arg) == DOOR_HOLD)
        guest_hold(g);
    else
        guest_answer(g); /* also what is no request: the server says so in its words */
}

static void on_bytes(evutil_socket_t fd, short what, void *arg)
{
    struct guest *g = arg;
    char buf[16384];
    (void)what;
    size_t room = DOOR_READ_MAX - g->read.len;
    ssize_t n = recv(fd, buf, room < sizeof buf ? room : sizeof buf, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        guest_close(g);
        return;
    }
    if (g->read.len == 0)
        set_timer(g, DOOR_HEAD_MS);
    SPW_ASSERT(strbuf_append(&g->read, buf, (size_t)n) == RC_OK);
    guest_look(g);
}

static void on_leave(evutil_socket_t fd, short what, void *arg)
{
    struct guest *g = arg;
    (void)fd;
    (void)what;
    g->door->counts.gone++;
    guest_close(g);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
    struct guest *g = arg;
    (void)fd;
    (void)what;
    if (g->state == GUEST_HELD)
        guest_refuse(g);
    else if (g->read.len)
        guest_answer(g); /* half a head: the server waits a little longer, and then says 408 */
    else
        guest_close(g);
}

/* Read the head, of which there may be something already. */
static void guest_read(struct guest *g)
{
    struct door *d = g->door;
    event_assign(&g->io, d->loop, g->fd, EV_READ | EV_PERSIST, on_bytes, g);
    event_add(&g->io, NULL);
    set_timer(g, g->read.len ? DOOR_HEAD_MS : DOOR_IDLE_MS);
    if (g->read.len)
        guest_look(g);
}

/* False: nobody can take it now; it stays as one that is not looked at yet. */
static bool guest_pass(struct guest *g)
{
    struct door *d = g->door;
    stop_waiting(g);
    g->id = ++d->next_id;
    leave_ring(g);
    join_ring(g, GUEST_PASSED);
    if (d->o.pass(g->id, g->fd, g->read.data ? g->read.data : "", g->read.len, d->o.arg))
        return true;
    leave_ring(g);
    join_ring(g, GUEST_READING);
    guest_read(g);
    return false;
}

void door_give(struct door *d, int fd, const void *read, size_t n)
{
    if (d->mode == DOOR_SHUT || in_all(d) >= DOOR_CONNECTIONS_MAX) {
        d->counts.lost += d->mode != DOOR_SHUT;
        close(fd);
        return;
    }
    struct guest *g = spw_calloc(1, sizeof *g);
    *g = (struct guest){.door = d, .fd = fd};
    event_assign(&g->io, d->loop, fd, EV_READ | EV_PERSIST, on_bytes, g);
    event_assign(&g->timer, d->loop, -1, 0, on_late, g);
    strbuf_init(&g->read, n > DOOR_READ_MAX ? n : DOOR_READ_MAX);
    SPW_ASSERT(n == 0 || strbuf_append(&g->read, read, n) == RC_OK);
    join_ring(g, GUEST_READING);
    if (d->mode == DOOR_PASS)
        (void)guest_pass(g);
    else
        guest_read(g);
}

static void on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
    struct door *d = arg;
    const struct timeval later = {.tv_usec = RETRY_ACCEPT_MS * 1000};
    (void)what;
    for (int i = 0; i < ACCEPT_PER_TURN && d->mode == DOOR_TAKE; i++) {
        int fd = accept4((int)listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            if (in_all(d) < DOOR_CONNECTIONS_MAX && d->o.unwrap)
                fd = d->o.unwrap(fd, d->o.arg);
            if (fd >= 0)
                door_give(d, fd, NULL, 0);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            event_del(d->listener); /* it stays readable, and would keep us busy */
            event_add(d->retry, &later);
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct door *d = arg;
    (void)fd;
    (void)what;
    if (d->mode == DOOR_TAKE)
        event_add(d->listener, NULL);
}

/* ---- the door as a whole ----------------------------------------------------------------------------------------- */

/* Each of a ring once, however it moves meanwhile. False: call() wants no more. */
static bool each(struct door *d, enum guest_state state, bool (*call)(struct guest *g))
{
    for (int n = d->n[state]; n > 0 && first(d, state); n--) {
        if (!call(first(d, state)))
            return false;
    }
    return true;
}

static bool again(struct guest *g)
{
    leave_ring(g);
    join_ring(g, GUEST_READING);
    guest_read(g);
    return true;
}

static bool refuse(struct guest *g)
{
    guest_refuse(g);
    return true;
}

static bool shut_out(struct guest *g)
{
    guest_close(g);
    return true;
}

void door_untaken(struct door *d)
{
    each(d, GUEST_PASSED, again);
}

void door_refuse(struct door *d)
{
    each(d, GUEST_HELD, refuse);
}

void door_set_mode(struct door *d, enum door_mode mode)
{
    d->mode = mode;
    event_del(d->retry);
    if (mode == DOOR_TAKE)
        event_add(d->listener, NULL);
    else
        event_del(d->listener);
    if (mode == DOOR_PASS) {
        (void)(each(d, GUEST_HELD, guest_pass) && each(d, GUEST_READING, guest_pass));
    } else if (mode == DOOR_SHUT) {
        door_refuse(d);
        each(d, GUEST_READING, shut_out);
        each(d, GUEST_PASSED, shut_out);
    }
}

struct door_counts door_counts(const struct door *d)
{
    struct door_counts c = d->counts;
    c.open = in_all(d);
    c.holding = d->n[GUEST_HELD];
    c.passed = d->n[GUEST_PASSED];
    return c;
}

enum rc door_new(struct door **out, struct event_base *loop, const struct door_options *o, struct error *e)
{
    struct door *d = spw_calloc(1, sizeof *d);
    *d = (struct door){.o = *o, .loop = loop};
    for (int i = 0; i < GUEST_STATES; i++)
        d->rings[i].prev = d->rings[i].next = &d->rings[i];
    d->parser = http_parser_new(HTTP_REQUEST, &http_limits_default);
    d->listener = event_new(loop, o->listen_fd, EV_READ | EV_PERSIST, on_accept, d);
    d->retry = event_new(loop, -1, 0, on_retry, d);
    if (!d->listener || !d->retry || !(event_base_get_features(loop) & EV_FEATURE_EARLY_CLOSE)) {
        door_free(d);
        return error_set(e, RC_IO, "this event loop cannot watch connections");
    }
    *out = d;
    return RC_OK;
}

void door_free(struct door *d)
{
    if (!d)
        return;
    for (int i = 0; i < GUEST_STATES; i++)
        each(d, (enum guest_state)i, shut_out);
    if (d->listener)
        event_free(d->listener);
    if (d->retry)
        event_free(d->retry);
    http_parser_free(d->parser);
    free(d);
}
