/* The door of a node: connections while no worker takes them. Accepts, reads one request head of each, and asks whose
 * it is: one the supervisor answers itself goes to its own HTTP server with what was read, and comes back when it has
 * been answered; a real one is held, unread beyond that, until the worker takes it.
 *
 *    accept, door_give() --> READING --head, or what is none--> judge() --ANSWER--> answer(): the socket is theirs
 *                              |  |                                |
 *                     closed or idle too long                     HOLD --> HELD --door_refuse(), too long--> answer()
 *                                                                           |
 *                                          (client gone: closed, counted)   |
 *                            READING, HELD --DOOR_PASS--> PASSED --door_taken()--> closed here, the worker has it
 *                                                            \--door_untaken()--> READING with what was read
 *
 * Held connections are passed first, in the order in which they came. Bounds: DOOR_CONNECTIONS_MAX in all, hold_max
 * held, DOOR_READ_MAX bytes of each (the rest waits in the kernel and slows the sender down). Real time: sockets have
 * no other. */
#ifndef ENGINE_NODE_DOOR_H
#define ENGINE_NODE_DOOR_H

#include <event2/event.h>

#include "base/http_parse.h"

#define DOOR_CONNECTIONS_MAX 4096
#define DOOR_READ_MAX        (36u * 1024) /* a head of http_limits_default, and a little of the body that came along */
#define DOOR_HEAD_MS         15000
#define DOOR_IDLE_MS         75000

enum door_verdict { DOOR_ANSWER, DOOR_HOLD };
enum door_mode {
    DOOR_SHUT, /* no accepting; what is given is closed */
    DOOR_TAKE, /* accept, read, hold */
    DOOR_PASS, /* no accepting; everything goes to the worker */
};

struct door_options {
    int listen_fd; /* borrowed, non-blocking */
    int64_t hold_ms;
    int hold_max;
    /* What to read of a connection that was accepted: fd, another descriptor in its place, or -1 when it is closed.
     * NULL: fd. */
    int (*unwrap)(int fd, void *arg);
    enum door_verdict (*judge)(const struct http_head *h, void *arg);
    /* fd is theirs. read[0 .. n) was read of it. */
    void (*answer)(int fd, const void *read, size_t n, void *arg);
    /* One more is held: somebody wants the worker. */
    void (*held)(void *arg);
    /* fd stays the door's until door_taken(id). False: nobody can take it now. */
    bool (*pass)(uint64_t id, int fd, const void *read, size_t n, void *arg);
    void *arg;
};

struct door_counts {
    uint64_t held, refused, gone; /* as struct node_counts */
    uint64_t lost;                /* beyond DOOR_CONNECTIONS_MAX: closed */
    int open, holding, passed;    /* now */
};

struct door;
enum rc door_new(struct door **d, struct event_base *loop, const struct door_options *o, struct error *e) SPW_MUST_USE;
void door_free(struct door *d); /* closes all; NULL is fine */
/* Entering DOOR_PASS passes all there is, from inside; DOOR_SHUT closes what is read and hands what is held to answer(). */
void door_set_mode(struct door *d, enum door_mode mode);
/* A connection from elsewhere, with what was read of it; the door's. May call back from inside. */
void door_give(struct door *d, int fd, const void *read, size_t n);
/* The worker has it. */
void door_taken(struct door *d, uint64_t id);
/* No worker will take what was passed and not taken. Then held() for those that want one. */
void door_untaken(struct door *d);
/* Hand all that are held to answer(). */
void door_refuse(struct door *d);
struct door_counts door_counts(const struct door *d);

#endif
