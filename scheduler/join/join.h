/* Engines that come by themselves: the listener `join.listen`, where an engine turns a one-time token into a
 * short-lived certificate of the scheduler's own authority, says every few seconds how it is, and announces its end.
 *
 *   token phase: TLS; the engine believes the authority whose fingerprint is part of its token
 *   afterwards:  mutual TLS, both ways: the engine calls here, the scheduler calls the engine's own TLS port
 *
 *                       POST /node/v1/join                     silent_after without a beat
 *   (nobody) ------------------------------> HERE ------------------------------> SILENT
 *                                            ^  \  <-----------beat-------------  /
 *                  join or beat (certificate)|   \--- join_revoke(): REVOKED     / lost_after
 *                                            +-------------- LOST <-------------+
 *
 *   HERE    its place is in the node table, which probes it there as any node, and its beats are taken over
 *   SILENT  out of service, whatever probes say; what runs there goes on running
 *   LOST    what ran there is cut and goes on elsewhere. One that came by a pool's token leaves the table
 *   REVOKED its certificates and tokens are worth nothing; its beats are refused with the order to end
 *
 * Who may join: a node of the configuration without a url; whoever the hooks know (the fleet's instances); and by a
 * token for a pool, a new node of it. Others are polled as ever and need none of this.
 *
 * A scheduler that is started again knows nobody, believes the certificates that it gave before, and asks each engine
 * to join again over its certificate. Loop of lane 0 only; tokens are written down by a thread (base/worker.h) before
 * they count; join_new() blocks. */
#ifndef SCHEDULER_JOIN_JOIN_H
#define SCHEDULER_JOIN_JOIN_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/log.h"
#include "scheduler/join/beat.h"
#include "scheduler/join/tokens.h"
#include "scheduler/nodes/nodes.h"

struct join;

/* What the fleet (scheduler/capacity) wants to know of its own; each may be NULL. True: the node is the fleet's, which
 * does what is to be done; false: we do. On the loop, never from inside a call to join_*(). */
struct join_hooks {
    /* One with a token or certificate of this name wants in: is it ours to let in? at: borrowed. */
    bool (*joined)(const char *name, const struct node_place_at *at, void *arg);
    bool (*notice)(const char *name, const struct node_notice *what, void *arg);
    bool (*lost)(const char *name, void *arg);
    void (*beat)(const char *name, const struct node_beat *b, void *arg); /* after it was taken over into the table */
    void *arg;
};

struct join_options { /* all borrowed */
    struct event_base *loop;
    const struct config *config; /* join.listen is set */
    const struct log *log;
    const struct clock *clock;
    struct nodes *nodes;
};
/* Makes or reads the authority in state_dir/join, and listens. */
enum rc join_new(struct join **j, const struct join_options *o, struct error *e) SPW_MUST_USE;
void join_free(struct join *j); /* before the node table; NULL is fine */
void join_set_hooks(struct join *j, const struct join_hooks *h);
void join_take(struct join *j, const struct config *c); /* a reload; join.listen and join.url need a restart */
int join_port(const struct join *j);
/* How engines find us: join.url, else https://HOSTNAME:PORT. */
const char *join_url(const struct join *j);

/* A token that lets the node in once, within ttl_ms (0: join.token_life). Writes nothing. kind TOKEN_POOL: name is a
 * pool's, and who comes gets a name of its own. RC_NOT_FOUND: nobody may join under that name. */
enum rc join_token_new(struct join *j, enum token_kind kind, const char *name, int64_t ttl_ms, char out[TOKEN_TEXT_MAX],
                       struct error *e) SPW_MUST_USE;
/* Its certificates and tokens so far are worth nothing from now on: it was terminated, or its key may have been seen.
 * Any name. Durable a little later; in this process at once. */
enum rc join_revoke(struct join *j, const char *name, struct error *e) SPW_MUST_USE;

/* With the answer to its next beat, again until it says that it heard. RC_NOT_FOUND: nobody of that name is here. */
enum join_order { JOIN_ORDER_NONE, JOIN_ORDER_DRAIN, JOIN_ORDER_SLEEP, JOIN_ORDER_WAKE, JOIN_ORDER_END };
enum rc join_order(struct join *j, const char *name, enum join_order what, struct error *e) SPW_MUST_USE;

/* ---- seen from outside ------------------------------------------------------------------------------------------------ */

enum join_state { JOIN_HERE, JOIN_SILENT, JOIN_LOST, JOIN_STATES };
const char *join_state_name(enum join_state s);
struct join_view {
    const char *name, *address, *version, *order; /* borrowed for the call */
    enum join_state state;
    int64_t heard_ms; /* since its last word */
    int64_t until_s;  /* of its certificate */
    const struct node_beat *beat;
};
void join_each(const struct join *j, void (*each)(const struct join_view *v, void *arg), void *arg);

struct join_stats {
    uint64_t joined, rejoined, refused, beats, notices, silent, lost, revoked;
    uint64_t tokens, used;    /* made; used by somebody for the first time */
    uint64_t issued, renewed; /* certificates: by a token; over the one before */
    int states[JOIN_STATES];  /* who is what now */
};
struct join_stats join_stats(const struct join *j);
/* All of it as text for Prometheus, appended. */
enum rc join_metrics(const void *join, struct strbuf *out) SPW_MUST_USE;

#endif
