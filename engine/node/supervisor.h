/* The supervisor of a node: owns the listening socket and the life of the worker, the process that owns the model and
 * the device. Awake, the worker accepts on the listener it inherited, and the supervisor does nothing; otherwise the
 * supervisor accepts (door.h) and answers what needs no model itself.
 *
 *                      the listening socket (one queue of connections, two processes that may take from it)
 *                          |                                          |
 *            +--- supervisor (not AWAKE) ---+                +---- worker (AWAKE) ----+
 *            | door: reads one request head |   MSG_TAKE     | engine/serve/server.h  |
 *            |   probe    -> answers itself | -------------> | model, threads, device |
 *            |   request  -> holds it ------+   + its socket |                        |
 *            | life: state.h                | <------------- | gives idle connections |
 *            | (join, heartbeats, watts)    |   MSG_BACK     |   back to fall asleep  |
 *            +------------------------------+                +------------------------+
 *
 * The states and what moves them are drawn in state.h. No connection is lost at a switch: those in the listener's queue
 * belong to the socket, not to a process; those that are accepted travel, with what was read of them. The supervisor
 * keeps its copy of one it passed on until the worker says MSG_TAKEN; a worker that dies before leaves it held, for the
 * next.
 *
 * A worker that hangs (its process lives, but its loop does not turn: messages.h) is killed, which is a crash like any
 * other. Seconds are counted one by one, so that a machine that stood still as a whole kills nobody.
 *
 * One thread, one loop, no timer while asleep. The worker dies with it (PR_SET_PDEATHSIG), and with the channel. */
#ifndef ENGINE_NODE_SUPERVISOR_H
#define ENGINE_NODE_SUPERVISOR_H

#include "base/log.h"
#include "engine/node/state.h"
#include "engine/node/stats.h"
#include "engine/node/watts.h"
#include "engine/serve/api_keys.h"

struct supervisor_options {      /* all borrowed for the supervisor's life */
    const char *listen_on;       /* as http_server_new() */
    const char *model_id;        /* the name requests use */
    const struct api_keys *keys; /* NULL: no authentication */
    const struct api_keys *node_key;
    struct tls_door *tls;           /* NULL: plain; the worker_argv then names the same files */
    const char *const *worker_argv; /* NULL-terminated, with the descriptors of child.h */
    int64_t drain_ms;               /* how long a drain waits for answers */
    int64_t hold_ms;                /* how long a request waits for the worker, then 503 */
    int hold_max;                   /* how many do; the next gets 503 */
    int64_t watchdog_s;             /* a worker whose loop says nothing for so long is killed; 0: never */
    const struct log *log;
    const struct clock *clock;
    /* The end, on the loop. Called once. */
    void (*done)(int exit_code, void *done_arg);
    void *done_arg;
};

struct supervisor;
/* Listens and starts the worker. */
enum rc supervisor_new(struct supervisor **s, struct event_base *loop, const struct supervisor_options *o,
                       struct error *e) SPW_MUST_USE;
/* Ends the worker at once. NULL is fine. */
void supervisor_free(struct supervisor *s);
int supervisor_port(const struct supervisor *s);

/* ---- for who speaks to the scheduler (registration, heartbeats, notices); loop thread ---- */

enum node_state supervisor_state(const struct supervisor *s);
/* At most a second old while awake; of the worker's end while there is none. */
const struct serve_totals *supervisor_stats(const struct supervisor *s);
const struct node_card *supervisor_card(const struct supervisor *s); /* numerics_class "": never been ready */
struct node_counts supervisor_counts(const struct supervisor *s);
/* Why it is FAILED, or why the last worker ended by itself; "" if neither. */
const char *supervisor_problem(const struct supervisor *s);
/* Since when the drain runs and for how long still, ms; -1: it does not drain. */
int64_t supervisor_drain_left_ms(const struct supervisor *s);

/* What the machine draws, and what its GPUs say of themselves, for /metrics and whoever keeps books, here and in the
 * worker. */
void supervisor_power(struct supervisor *s, const struct watts_reading *p, const struct nvml_state *gpus);

/* The orders. As POST /sleep and /wake_up: the state afterwards, "awake", "falling_asleep", "asleep", "waking", or NULL
 * when it is draining or has failed. A request that is held keeps the node from falling asleep. */
const char *supervisor_sleep(struct supervisor *s);
const char *supervisor_wake(struct supervisor *s);
/* Take no new work from now on; what still runs after min(seconds, --drain-seconds) is cut, without [DONE], so that the
 * scheduler goes on elsewhere. THEN_END: the process ends afterwards. why: for the log and /health ("" : nobody said).
 * A later call may bring the deadline nearer, or add the end, never the contrary. */
/* TAKEN_AWAY: the machine ends after so many seconds, whatever we want (a notice of its cloud): --drain-seconds does
 * not count, the deadline is a little before the end, and in the second half of the time streams are cut one by one,
 * the longest first, so that each finds room elsewhere. With THEN_END the process ends when it is done, else it stays
 * and answers. */
enum supervisor_then { SUPERVISOR_THEN_WAIT = 0, SUPERVISOR_THEN_END = 1, SUPERVISOR_TAKEN_AWAY = 2 };
void supervisor_drain(struct supervisor *s, const char *why, int64_t seconds, unsigned then);

/* The process ends at once, whatever runs: a second signal. done() is called from inside. */
void supervisor_stop_now(struct supervisor *s);

/* The files of options.tls hold a renewed certificate: shown from now on, by the worker as well. Reads them (small,
 * blocks). On an error the old one is shown. */
enum rc supervisor_renewed(struct supervisor *s, struct error *e) SPW_MUST_USE;

/* Called on the loop at each change of state, after it: may call what is above, not supervisor_free(). One watcher. */
void supervisor_watch(struct supervisor *s, void (*changed)(enum node_state was, enum node_state is, void *arg),
                      void *arg);

#endif
