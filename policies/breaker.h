/* May a node be sent requests, as far as can be told from how it answered the last ones? Pure: plain state (one per
 * node), time and randomness passed in, microseconds of any monotonic clock.
 *
 *               `failures` in a row, or `percent` of at least `volume` in the window failed
 *     CLOSED  ------------------------------------------------------------------------------>  OPEN
 *        ^                                                                                     |   ^
 *        |  the trial brought its first token                                                  |   |
 *        +-----------------------------------  HALF-OPEN  <------------------------------------+   |
 *                                              one request at a time     its time is over          |
 *                                                  |                                               |
 *                                                  +-----------------------------------------------+
 *                                                    the trial failed: twice as long as before
 *
 * Failures are errors of the node's own, silence, answers that break off or make no sense, and first tokens later than
 * `slow`. What a client did (left, asked nonsense) says nothing about the node. Only legs count that began since the
 * breaker last changed: many legs that die together open it once, and a late success of an older one closes nothing.
 *
 * A cool-down is something else: a node that says itself "not now" (429, or 503 with Retry-After) is well, and is left
 * alone until then; no failure is counted. */
#ifndef POLICIES_BREAKER_H
#define POLICIES_BREAKER_H

#include <stdbool.h>

#include "policies/window.h"

struct breaker_spec {
    int32_t failures;             /* in a row; 0: these open nothing */
    int32_t percent, volume;      /* of the outcomes in the window; percent 0: these open nothing */
    int64_t window_us;            /* at least WINDOW_PARTS */
    int64_t open_us, open_max_us; /* the first time, and at most; a fifth more or less by chance */
    int64_t slow_us;              /* 0: no answer is too slow */
    int64_t cool_us, cool_max_us; /* of a node that does not say how long, and at most */
};

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
const char *breaker_state_name(enum breaker_state s); /* "closed", "open", "half_open" */

struct breaker { /* zeroed: closed, nothing known */
    enum breaker_state state;
    bool trial;     /* half-open: its one request is under way */
    uint32_t era;   /* counts the changes of state */
    int32_t in_row; /* failures since the last success */
    int32_t opened; /* times in a row that it opened again soon */
    int64_t until_us, open_us, closed_at_us;
    int64_t cool_until_us;
    struct window outcomes; /* 0: all, 1: failures */
};

enum breaker_word { BREAKER_PASS, BREAKER_BLOCKED, BREAKER_COOLING };
struct breaker_look {
    enum breaker_word word;
    int64_t wait_us; /* until something else may be said; 0: PASS, or it hangs on the trial that is under way */
};
struct breaker_look breaker_look(const struct breaker *b, int64_t now_us);

/* A request goes there now (after a look that said PASS, or in spite of one that did not). What is returned goes into
 * the calls about this leg. */
struct breaker_leg {
    uint32_t era;
    bool trial, told; /* told: nothing more is to be learnt from it */
};
struct breaker_leg breaker_begin(struct breaker *b, int64_t now_us);

/* Its first token has come, after `took_us`. A failure may still follow, but for one that was too slow: it has failed. */
void breaker_spoke(struct breaker *b, const struct breaker_spec *spec, struct breaker_leg *leg, int64_t now_us,
                   int64_t took_us, uint32_t random);
enum breaker_outcome { BREAKER_OK, BREAKER_FAILED, BREAKER_NO_WORD };
/* How it ended, once per leg. random: any number, for the length of an open time. */
void breaker_end(struct breaker *b, const struct breaker_spec *spec, const struct breaker_leg *leg, int64_t now_us,
                 enum breaker_outcome outcome, uint32_t random);
/* "Not now." asked_us: how long it wants, 0: it does not say. The leg ends with BREAKER_NO_WORD. */
void breaker_cool(struct breaker *b, const struct breaker_spec *spec, int64_t now_us, int64_t asked_us);
/* Another process is there now, of which nothing is known. */
void breaker_reset(struct breaker *b);

#endif
