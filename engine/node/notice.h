/* The end that a cloud announces: EC2's instance metadata (IMDSv2), asked every few seconds.
 *
 *   PUT  /latest/api/token                                   a session token, renewed when it is refused (401)
 *   GET  /latest/meta-data/spot/instance-action              404 until the notice; then {"action": ..., "time": ...}, in some
 *                                                            places with the key "instance-action"
 *   GET  /latest/meta-data/events/recommendations/rebalance  404 until the risk is raised; then {"noticeTime": ...}
 *
 * Never through a proxy; short deadlines. Each notice is told once. Loop thread. Facts: the EC2 user guide, "Spot
 * Instance interruption notices" and "EC2 instance rebalance recommendations". */
#ifndef ENGINE_NODE_NOTICE_H
#define ENGINE_NODE_NOTICE_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define NOTICE_EC2     "http://169.254.169.254"
#define NOTICE_POLL_MS 5000

struct notice_options { /* all borrowed */
    const char *url;    /* http://HOST[:PORT] */
    int64_t poll_ms;    /* 0: NOTICE_POLL_MS */
    const struct log *log;
    const struct clock *clock;
    /* what: "spot_interruption", "rebalance". left_ms < 0: it does not say when. */
    void (*notice)(const char *what, int64_t left_ms, void *arg);
    void *arg;
};
struct notice;
enum rc notice_new(struct notice **n, struct event_base *loop, const struct notice_options *o,
                   struct error *e) SPW_MUST_USE;
void notice_free(struct notice *n); /* NULL is fine */

/* The answer to instance-action: what is left until its time. RC_NOT_FOUND: it announces no end. Pure; for tests. */
enum rc notice_read_action(const char *text, size_t n, int64_t now_ms, int64_t *left_ms, struct error *e) SPW_MUST_USE;

#endif
