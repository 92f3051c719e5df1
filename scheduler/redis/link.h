/* A connection to a Redis on an event loop, for whoever keeps something there (scheduler/cache/redis.c,
 * scheduler/budgets/redis.c): names, connecting, who may we be, time limits, losing it, coming back. What is sent and
 * what its replies mean is the user's business.
 *
 *            open                    connected, AUTH, SELECT, PING answered
 *     DOWN --------------------> OPENING --------------------------------------> UP
 *      ^                            |                                            |
 *      |     back-off has passed    | refused, too late, wrong password          | closed, BREAK_AFTER commands
 *      +----------------------------+--------------------------------------------+ in a row too late
 *
 * Only in UP are commands sent; in the other states redis_link_send() says no at once: that is the circuit breaker. The
 * back-off doubles with every attempt and begins anew when a command was answered in time.
 *
 * Every command that was taken is answered once: with its reply, or with NULL when its deadline passes, when the
 * connection is lost, or when the link is freed. NULL says nothing about whether the server has done it.
 *
 * hiredis' asynchronous API (0.14 as in Debian 12) has no time limits, looks names up blocking, speaks no TLS
 * (tunnel.h), and trusts its server: replies that nobody asked for trip an assertion there, and a reply may be as large
 * as it likes. All that is ours.
 *
 * Thread: the loop's; redis_link_stats() for any. */
#ifndef SCHEDULER_REDIS_LINK_H
#define SCHEDULER_REDIS_LINK_H

#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "scheduler/redis/address.h"

enum redis_state { REDIS_DOWN, REDIS_OPENING, REDIS_UP };
enum redis_replies { REDIS_VALUES, REDIS_LISTS }; /* lists: of plain values, REDIS_LIST_MAX at most */
#define REDIS_LIST_MAX 4096

/* Called within hiredis: not to free the link from, nor to lose it when reply is NULL. reply is borrowed. */
typedef void redis_reply_cb(const redisReply *reply, void *arg);
typedef void redis_state_cb(void *arg);

struct redis_link_options { /* texts are copied, unless static is said */
    struct event_base *loop;
    const struct clock *clock;
    const struct log *log;
    const char *area;      /* of its log lines; static */
    const char *down_text; /* what it means that it is not there; static */
    const char *setting;   /* that names the host, for errors; static */
    const char *host;      /* a name, an address, or unix:PATH */
    SSL_CTX *tls;          /* of tls_client_new(); gets a reference. NULL: plain text */
    int port, db;
    const char *username, *password; /* NULL: none */
    int64_t timeout_ms, connect_ms;  /* 0: 50; 4 x timeout_ms */
    size_t reply_bytes_max;
    int commands_max; /* under way; more are not taken */
    enum redis_replies replies;
    redis_state_cb *on_up, *on_down; /* may be NULL; on_down after each command was answered with NULL */
    void *arg;
};

struct redis_link;
struct redis_command;

enum rc redis_link_new(struct redis_link **l, const struct redis_link_options *o, struct error *e) SPW_MUST_USE;
void redis_link_free(struct redis_link *l); /* NULL is fine */

/* Whether commands are taken now. */
bool redis_link_ready(const struct redis_link *l);
/* argv is copied. NULL: not taken, cb will not be called. The handle is good until cb is called. */
struct redis_command *redis_link_send(struct redis_link *l, int argc, const char **argv, const size_t *lengths,
                                      redis_reply_cb *cb, void *arg);
/* cb will not be called; the server may do it all the same. */
void redis_command_cancel(struct redis_command *c);
/* Close it and begin the back-off. why: for the log. From a reply's callback, or from outside. */
void redis_link_lose(struct redis_link *l, const char *why);

struct redis_link_stats {
    uint64_t errors; /* of connecting and introducing ourselves */
    uint64_t timeouts, connects, disconnects;
    bool up;
};
struct redis_link_stats redis_link_stats(const struct redis_link *l);

#endif
