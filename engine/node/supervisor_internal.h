/* Shared by supervisor.c (the life) and supervisor_http.c (what it answers while there is no worker). */
#ifndef ENGINE_NODE_SUPERVISOR_INTERNAL_H
#define ENGINE_NODE_SUPERVISOR_INTERNAL_H

#include "base/http_server.h"
#include "engine/node/child.h"
#include "engine/node/door.h"
#include "engine/node/messages.h"
#include "engine/node/supervisor.h"
#include "engine/node/tls_relay.h"
#include "engine/serve/gate.h"

#define SUPERVISOR_AREA "node"

struct supervisor {
    struct supervisor_options o;
    struct event_base *loop; /* borrowed */
    enum node_state state;
    struct gate gate;
    struct http_server *http; /* owns the listening socket, but the door accepts from it */
    struct door *door;
    struct tls_relays *relays; /* NULL: plain */
    struct child *child;       /* NULL: no worker */
    struct channel *channel;   /* to it; NULL once that is closed */
    struct event *timer;       /* BACKOFF: start again; with a worker that was told to end: kill it */
    struct event *watchdog;    /* once a second while there is a worker */
    int silent_s;              /* so often in a row it had said nothing */
    bool heard, spoke;         /* a word of the worker's since the last time; at all */
    bool hung;                 /* killed for that */
    struct event *exit_timer;  /* the last answers are not waited for any longer */
    uint64_t round;            /* of the last MSG_SLEEP or MSG_DRAIN */
    bool start_failed;         /* there is none: the timer tells, as from the loop */
    bool unloadable;           /* the worker said so before it ended */
    bool told_to_end;          /* it ends because we said so */
    bool killed;               /* that is how we said it: asleep again before it had loaded, say */
    bool exiting;              /* done() is on its way */
    int exit_code;             /* for it */
    int crashes;               /* in a row */
    struct mono since;         /* in this state */
    struct mono ready_at;      /* of the worker; 0: it is not ready */
    struct mono wish_at;       /* WAKING: since when */
    struct mono cut_at;        /* DRAINING, STOPPING */
    bool moving;               /* streams are cut one by one before that */
    char drain_why[96];
    char problem[512];
    struct node_card card;
    struct serve_totals before; /* of workers that are gone */
    struct serve_totals now;    /* of all, the one that runs included */
    struct node_counts counts;
    void (*changed)(enum node_state was, enum node_state is, void *arg);
    void *changed_arg;
    struct strbuf scratch;
};

void supervisor_step(struct supervisor *s, enum node_event e);
/* With the figures of the moment. */
struct node_counts supervisor_counts_now(const struct supervisor *s);

/* supervisor_http.c. */
void supervisor_on_head(struct http_exchange *x, void *supervisor);
void supervisor_on_request(struct http_exchange *x, void *supervisor);
enum door_verdict supervisor_judge(const struct http_head *h, void *supervisor);

#endif
