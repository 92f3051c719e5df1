/* What replay.c (the run as it was) and replay_other.c (the same requests under another configuration) share. */
#ifndef SCHEDULER_SIMULATE_REPLAY_INTERNAL_H
#define SCHEDULER_SIMULATE_REPLAY_INTERNAL_H

#include "base/lines.h"
#include "scheduler/simulate/replay.h"

struct replay_models {
    char names[SHORTLIST_MODELS_MAX][RECORD_NAME_BYTES];
    int n;
};

struct replay_legs { /* by number - 1: they come in order */
    struct router_leg *legs;
    size_t n, room;
};
void replay_legs_add(struct replay_legs *l, const struct router_leg *leg);
void replay_legs_clear(struct replay_legs *l);

struct other; /* replay_other.c */
struct replay {
    struct lines lines;
    const struct replay_other *asked; /* NULL: none */
    struct replay_result *out;
    struct error *e;
    /* of the run */
    struct router *router; /* NULL: before the first */
    struct record_begin begin;
    struct replay_models models;
    char (*names)[RECORD_NAME_BYTES]; /* owned: of nodes, begin.nodes of them */
    struct replay_legs legs;
    struct other *other;              /* NULL: none is asked for */
    char (*known)[RECORD_NAME_BYTES]; /* owned: names of nodes that the file has anywhere */
    int n_known;
    /* of the line */
    struct record_event event;
    struct record_candidate candidates[RECORD_CANDIDATES_MAX];
};
/* "path:line: message"; RC_INVALID. */
enum rc replay_wrong(struct replay *x, const char *format, ...) SPW_PRINTF(2, 3);

/* All of these know that the event is a good one, and that x->router has heard it already. */
enum rc other_begin(struct replay *x);
void other_hear(struct replay *x);
void other_free(struct other *o); /* NULL is fine */
/* Reads the file once: a node is a new one if its name is nowhere in it. */
enum rc other_look_ahead(struct replay *x);

#endif
