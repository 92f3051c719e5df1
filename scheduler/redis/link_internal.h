/* What the two files of the link share: link.c (commands and their deadlines) and connect.c (the connection itself). */
#ifndef SCHEDULER_REDIS_LINK_INTERNAL_H
#define SCHEDULER_REDIS_LINK_INTERNAL_H

#include <event2/dns.h>
#include <hiredis/async.h>
#include <sys/queue.h>

#include "scheduler/redis/link.h"
#include "scheduler/redis/tunnel.h"

#define REDIS_BACKOFF_FIRST_MS 100

enum command_kind { COMMAND_AUTH, COMMAND_SELECT, COMMAND_PING, COMMAND_USER };

/* In hiredis' hands from sending until its callback, which frees it. */
struct redis_command {
    TAILQ_ENTRY(redis_command) entry; /* while link is not NULL */
    struct redis_link *link;          /* NULL: the connection it was sent on is given up, nobody waits */
    enum command_kind kind;
    redis_reply_cb *cb; /* NULL: cancelled, or too late and answered */
    void *arg;
    int64_t deadline_ns;
    bool late; /* the deadline has passed; the reply may still come */
};
TAILQ_HEAD(redis_commands, redis_command);

struct resolve { /* a name that is looked up; outlives its link if need be */
    struct redis_link *link;
};

struct redis_link {
    struct redis_link_options o; /* texts owned */
    int64_t timeout_ns, connect_ns;

    _Atomic enum redis_state state; /* others may read it, and the counters below */
    redisAsyncContext *ac;          /* NULL: none */
    struct event *readable, *writable;
    struct redis_tunnel *tunnel;      /* of ac; NULL: plain text */
    char tunnel_why[160];             /* why that of the last ac has ended, or "" */
    redisReplyObjectFunctions makers; /* hiredis' own with our checks before them */
    const redisReplyObjectFunctions *makers_own;
    int replies_due;
    struct evdns_base *dns; /* NULL: the host is no name */
    struct resolve *resolving;
    unsigned attempts;   /* with a name */
    struct event *timer; /* DOWN: end of the back-off; OPENING: of the connect time; UP: the first command's deadline */
    int64_t backoff_ms;
    bool told; /* that it is down has been logged */

    struct redis_commands commands; /* in the order of their replies, and of their deadlines */
    int n_commands, late_in_a_row;
    _Atomic uint64_t errors, timeouts, connects, disconnects;
};

/* connect.c */
enum rc link_connect_init(struct redis_link *l, struct error *e) SPW_MUST_USE;
void link_connect_fini(struct redis_link *l);
void redis_link_open(struct redis_link *l);
void link_up(struct redis_link *l);

/* link.c */
struct redis_command *link_send(struct redis_link *l, const struct redis_command *like, int argc, const char **argv,
                                const size_t *lengths);
void link_give_up(struct redis_link *l);               /* every command that waits: NULL */
void link_arm(struct redis_link *l, int64_t until_ns); /* 0: no deadline */

#endif
