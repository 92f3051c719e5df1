/* What the two files of the redis back end share: redis.c (commands, deadlines, values) and redis_link.c (the connection:
 * names, connecting, who may we be, losing it).
 *
 *            redis_link_open()        connected, AUTH, SELECT, PING answered
 *     DOWN --------------------> OPENING --------------------------------------> UP
 *      ^                            |                                            |
 *      |     back-off has passed    | refused, too late, wrong password          | closed, BREAK_AFTER commands
 *      +----------------------------+--------------------------------------------+ in a row too late
 *
 * Only in UP are commands sent; in the other states every lookup misses at once and every store is dropped: that is the
 * circuit breaker. The back-off doubles with every attempt and begins anew when a command was answered in time. */
#ifndef SCHEDULER_CACHE_REDIS_INTERNAL_H
#define SCHEDULER_CACHE_REDIS_INTERNAL_H

#include <event2/dns.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>

#include "scheduler/cache/cache_internal.h"

#define REDIS_BACKOFF_FIRST_MS 100

enum redis_state { REDIS_DOWN, REDIS_OPENING, REDIS_UP };
enum command_kind { COMMAND_AUTH, COMMAND_SELECT, COMMAND_PING, COMMAND_GET, COMMAND_PUT };

/* In hiredis' hands from sending until its callback, which frees it. */
struct command {
    TAILQ_ENTRY(command) entry; /* while redis is not NULL */
    struct redis *redis;        /* NULL: the connection it was sent on is given up, nobody waits */
    enum command_kind kind;
    struct cache_get *get; /* COMMAND_GET; NULL: cancelled, or too late and answered */
    size_t bytes;
    int64_t deadline_ns;
    bool late; /* the deadline has passed; the reply may still come */
};
TAILQ_HEAD(command_list, command);

struct resolve { /* a name that is looked up; outlives its redis if need be */
    struct redis *redis;
};

struct redis {
    struct backend b;
    struct event_base *loop;
    const struct clock *clock;
    const struct log *log;
    char *host, *username, *password, *ttl_text;
    int port, db;
    size_t reply_bytes_max;
    int64_t timeout_ns, connect_ns;

    _Atomic enum redis_state state; /* others may read it, and the counters below */
    redisAsyncContext *ac;          /* NULL: none */
    struct event *readable, *writable;
    redisReplyObjectFunctions makers; /* hiredis' own with our checks before them */
    const redisReplyObjectFunctions *makers_own;
    int replies_due;
    struct evdns_base *dns; /* NULL: the host is no name */
    struct resolve *resolving;
    unsigned attempts;   /* with a name */
    struct event *timer; /* DOWN: end of the back-off; OPENING: of the connect time; UP: the first command's deadline */
    int64_t backoff_ms;
    bool told; /* that it is down has been logged */

    struct command_list commands; /* in the order of their replies, and of their deadlines */
    int n_commands, late_in_a_row;
    size_t bytes_out; /* of stores not yet answered */
    _Atomic uint64_t errors, timeouts, dropped, connects, disconnects;
};

/* redis_link.c */
enum rc redis_link_init(struct redis *r, struct error *e);
void redis_link_fini(struct redis *r);
void redis_link_open(struct redis *r);
/* Close it, let everybody who waits miss, begin the back-off. why: for the log. Never from a callback of hiredis that is
 * not a reply. */
void redis_link_lost(struct redis *r, const char *why);
void redis_link_ready(struct redis *r);

/* redis.c */
/* argv for redis; false: nothing was sent. */
bool redis_send(struct redis *r, struct command *like, int argc, const char **argv, const size_t *lengths);
void redis_expire(struct redis *r);  /* the first deadline has passed */
void redis_give_up(struct redis *r); /* every command that waits: a miss */
void redis_arm(struct redis *r, int64_t until_ns);

#endif
