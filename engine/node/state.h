/* The life of a node's worker as its supervisor sees it: a table, without I/O or time.
 *
 *   LOADING --READY--> AWAKE <--------------READY-------------- WAKING <-----TIMER, WAKE----- BACKOFF
 *      |               |   ^                                     ^  |                            ^
 *   UNLOADABLE,      SLEEP WAKE, REQUEST                         |  +----------GONE--------------+--GONE-- AWAKE
 *     GONE             |   |                                     |  |
 *      v               v   |                                     |  +--UNLOADABLE, LOOPING--> FAILED --WAKE--> WAKING
 *     DONE            FALLING --EMPTY--> ENDING --GONE--> ASLEEP-+ WAKE, REQUEST
 *                                           |                    |
 *                                     WAKE, REQUEST              | GONE
 *                                           +--> ENDING_WANTED --+
 *
 *   any --DRAIN--> DRAINING --STOP--> STOPPING --GONE--> DONE          any --STOP--> STOPPING (DONE without a worker)
 *
 * Way out and deadline of each:
 *   LOADING, WAKING   the load ends, well or not, or the worker does; who waits has a deadline of his own (door.h)
 *   AWAKE             none is needed
 *   FALLING           the answers that run end (each has its bounds), or somebody wants the node after all
 *   ENDING(_WANTED)   the worker ends; killed after NODE_END_MS
 *   ASLEEP            wake-up or the first real request
 *   BACKOFF           its timer, at most NODE_BACKOFF_LAST_MS
 *   FAILED            POST /wake_up tries again; /health says what went wrong
 *   DRAINING          a signal; what runs is cut at the drain's deadline and the worker ends
 *   STOPPING          the drain's deadline, then NODE_END_MS
 *
 * Until it has been ready once, a node fails as its worker does: who started it sees the exit status. Afterwards a
 * worker that ends by itself is started again. */
#ifndef ENGINE_NODE_STATE_H
#define ENGINE_NODE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define NODE_END_MS           10000
#define NODE_BACKOFF_FIRST_MS 250
#define NODE_BACKOFF_LAST_MS  30000
#define NODE_SOUND_MS         60000 /* a worker that was ready for so long is no part of a crash loop */
#define NODE_CRASHES_MAX      5     /* in a row; then FAILED */

enum node_state {
    NODE_LOADING, /* for the first time */
    NODE_AWAKE,   /* the worker accepts; in all others the supervisor does */
    NODE_FALLING, /* to sleep: the worker answers what it has */
    NODE_ENDING,  /* the worker was told to go */
    NODE_ENDING_WANTED,
    NODE_ASLEEP,
    NODE_WAKING, /* also: after a crash */
    NODE_BACKOFF,
    NODE_FAILED,
    NODE_DRAINING, /* no new work any more; the worker, if there is one, answers what it has */
    NODE_STOPPING, /* the same, and then the process ends */
    NODE_DONE,
    NODE_STATES
};

enum node_event {
    NODE_READY,      /* the worker has loaded */
    NODE_UNLOADABLE, /* it says that it can't */
    NODE_EMPTY,      /* it has no connection left and takes none */
    NODE_GONE,       /* its process has ended */
    NODE_LOOPING,    /* the same, once too often */
    NODE_TIMER,      /* of BACKOFF */
    NODE_SLEEP,      /* asked for, and nobody waits for it to wake */
    NODE_WAKE,       /* asked for */
    NODE_REQUEST,    /* somebody wants an answer */
    NODE_DRAIN,
    NODE_STOP, /* a second one does not wait */
    NODE_EVENTS
};

enum node_action {
    NODE_DO_START = 1,       /* a worker */
    NODE_DO_PASS = 2,        /* connections to the worker, which accepts from now on */
    NODE_DO_TAKE = 4,        /* accept ourselves */
    NODE_DO_TELL_SLEEP = 8,  /* the worker: let go of connections, say when there is none */
    NODE_DO_TELL_DRAIN = 16, /* the same, and refuse new work, and cut at the deadline */
    NODE_DO_TELL_END = 32,   /* end now */
    NODE_DO_KILL = 64,       /* it holds nothing that matters */
    NODE_DO_BACK_OFF = 128,  /* arm the timer */
    NODE_DO_REFUSE = 256,    /* all that are held */
    NODE_DO_FRESH = 512,     /* forget past crashes */
    NODE_DO_EXIT = 1024,     /* well */
    NODE_DO_EXIT_FAILED = 2048,
};

struct node_step {
    enum node_state next;
    unsigned actions;
};
/* What e means in state s. Nothing is written down for a pair: it stays, and does nothing. */
struct node_step node_step(enum node_state s, enum node_event e);

const char *node_state_name(enum node_state s); /* "falling asleep": for logs */
const char *node_event_name(enum node_event e);
/* As /health says it ("ok" when AWAKE), and with which status: 200 when a request would be answered here, if need be
 * after waking up. */
const char *node_health(enum node_state s);
int node_health_status(enum node_state s);
/* As /sleep and /wake_up answer: "awake", "falling_asleep", "asleep", "waking"; NULL: none of them, the request is
 * refused with 503. */
const char *node_sleep_state(enum node_state s);
/* May a real request be held until the worker is there? */
bool node_holds(enum node_state s);
/* How long to wait before the n-th start in a row (n >= 1). */
int64_t node_backoff_ms(int n);

#endif
