/* What a node's supervisor does beside its worker's life, all in its own process, so that it goes on while the worker
 * sleeps: membership and heartbeats (join.h), notices of its end (notice.h, signals), the dead man's switch, watts and
 * the power cap (watts.h, nvml.h).
 *
 *   agent_new() --> [joins, when asked to: agent_may_serve()] --> agent_serve(supervisor) --> agent_free()
 *
 * Its end. By a signal, by the scheduler's order or by the dead man's switch: the scheduler is told (for at most
 * AGENT_TELL_MS), nothing new is taken, what runs may finish, the process ends. A notice of the cloud: the same within
 * what is left (SUPERVISOR_TAKEN_AWAY), what still runs is cut in time, one by one, so that the scheduler goes on
 * elsewhere. A rebalance recommendation is told and nothing else: whether to go is the scheduler's to say. Loop
 * thread. */
#ifndef ENGINE_NODE_AGENT_H
#define ENGINE_NODE_AGENT_H

#include "engine/node/supervisor.h"
#include "engine/node/watts.h"

#define AGENT_TELL_MS  1500
#define AGENT_WATTS_MS 2000 /* how often the watts are looked at */

struct agent_options { /* borrowed until agent_new() returns, but for log, clock and the files' names */
    const char *join;  /* NULL: it joins nobody */
    const char *token_file, *state_dir, *advertise, *model;
    const char *listen_on;        /* with join: it is bound here, see agent_listener() */
    const char *notices;          /* "none", "ec2", http://... */
    int64_t notice_ms;            /* how often that is asked; 0: as ever */
    int64_t drain_s, dead_man_ms; /* dead_man_ms 0: none */
    int64_t idle_mw, busy_mw;     /* a declared curve; busy 0: none */
    int64_t power_cap_w;          /* 0: as it is */
    const char *nvml_library;     /* NULL: as ever; "none" */
    const char *rapl;             /* NULL: as ever */
    const struct log *log;
    const struct clock *clock;
};
struct agent;
/* A cap that an earlier life left is put back first. Blocks for what the GPU's driver takes. */
enum rc agent_new(struct agent **a, struct event_base *loop, const struct agent_options *o,
                  struct error *e) SPW_MUST_USE;
/* Before the supervisor goes. The cap is put back. NULL is fine. */
void agent_free(struct agent *a);
/* It joins nobody, or has a certificate and a node key. */
bool agent_may_serve(const struct agent *a);
int agent_listener(const struct agent *a); /* a listening socket for the supervisor to take; -1: none */
int agent_port(const struct agent *a);     /* its; 0: none */
void agent_serve(struct agent *a, struct supervisor *s);
/* Tell, drain, end. */
void agent_end(struct agent *a, const char *why, int64_t seconds, unsigned then);
bool agent_end_was_ordered(const struct agent *a); /* by the scheduler or the dead man's switch */

#endif
