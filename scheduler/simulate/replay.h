/* A recorded run of the daemon's routing (scheduler/record/record.h), lived again: a router that knows nothing is told
 * the very same events, asked the same questions, and must decide the same, to the last bit of every term. What the
 * recording cannot tell again is taken from it: what only the daemon knew of a candidate (tried, kept, its breaker's
 * word).
 *
 * With another configuration a second router lives beside the first: the same requests, told that its nodes are what
 * that configuration says, and asked under its objectives and SLOs. Each decision is taken with the load as it was,
 * since nobody knows how nodes that were not asked would have done: what follows from other decisions is `spillway
 * simulate`'s to say.
 *
 * One thread; blocks. */
#ifndef SCHEDULER_SIMULATE_REPLAY_H
#define SCHEDULER_SIMULATE_REPLAY_H

#include "scheduler/record/record.h"

struct replay_models; /* ids of models by name */
int replay_model_id(struct replay_models *m, const char *name);

/* Another configuration, as far as routing sees it. */
struct replay_other {
    /* The node of this name, as routing is to see it. False: there is none. */
    bool (*facts)(void *arg, const char *node, struct replay_models *models, struct router_facts *out);
    const char *(*node)(void *arg, int i); /* names of all of them; NULL after the last */
    /* Objective and SLO of a request: q's are as recorded, and its probability, above what was asked for at times. */
    void (*aim)(void *arg, const struct record_who *who, struct route_request *q);
    /* Micro-dollars per kWh at that time, and until when. */
    int64_t (*tariff)(void *arg, int64_t wall_s, int64_t *until_s);
    void *arg;
};

/* The first event at which the router was not what it had been. */
struct replay_difference {
    int64_t line;
    int64_t wall_us; /* Unix time */
    enum record_kind kind;
    char text[RECORD_DIFFERENCE_BYTES + RECORD_NAME_BYTES + 64];
    /* CHOSE: the decision as it was, and as it is now. */
    char model[RECORD_NAME_BYTES];
    char names[RECORD_CANDIDATES_MAX][RECORD_NAME_BYTES]; /* of the candidates */
    struct record_choice was, is;
    struct record_candidate was_c[RECORD_CANDIDATES_MAX], is_c[RECORD_CANDIDATES_MAX];
};

struct replay_node { /* what went there */
    char name[RECORD_NAME_BYTES];
    int64_t was, would;
};
#define REPLAY_NODES_MAX 128
struct replay_under_other { /* of decisions that sent a request somewhere */
    int64_t sent;           /* of these: */
    int64_t elsewhere;      /* would have gone to another node, or... */
    int64_t nobody;         /* ...would not have found anybody then */
    /* Of those that would have found somebody: what was expected where they went and where they would have gone, each
     * under its own configuration; money_stay: where they went, under the other one. */
    double money_was, money_would, money_stay; /* pico-dollars, marginal */
    int64_t stay;            /* of which money_stay is known: the node is there and serves the model */
    int64_t timed;           /* of which both are known */
    double us_was, us_would; /* to the last token */
    int64_t metered;
    double mj_was, mj_would;
    struct replay_node nodes[REPLAY_NODES_MAX]; /* beyond these nobody is counted */
    int n_nodes;
};

struct replay_result {
    int64_t lines, runs, events; /* events: told or asked; without names, begin and end */
    int64_t decisions, candidates;
    int64_t decisions_differ, events_differ; /* events: of which the leg or the list is another */
    int64_t cut_off;                         /* runs that end without saying so: a crash, or it goes on */
    char ended[RECORD_WHY_BYTES];            /* of the last run; "": it was cut off, or goes on */
    struct replay_difference *first;         /* owned; NULL: all is the same */
    struct replay_under_other other;
};

/* RC_OK: it could be read, whether or not all is the same. RC_NOT_FOUND, RC_IO; RC_INVALID: path:line and what is wrong
 * there; a line that is cut off is none, where its run ends with it. other may be NULL. */
enum rc replay_run(const char *path, const struct replay_other *other, struct replay_result *out,
                   struct error *e) SPW_MUST_USE;
void replay_result_fini(struct replay_result *r); /* {0} is fine */

#endif
