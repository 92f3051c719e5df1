/* What routing decided, and why: the newest decisions, each with the candidates that it was between, for whoever asks
 * afterwards (`spillway explain`) or with the request itself (x-spillway-explain). explain_text.h puts them into words.
 *
 * A ring of records of EXPLAIN_BYTES each: its memory is that times `keep` (1000: 2 MiB), taken in explain_new(); the
 * newest decision takes the place of the oldest. A record holds copies, names too, so that it outlives request, nodes
 * and configuration. Of more than EXPLAIN_CANDIDATES_MAX candidates those that came furthest are listed and the others
 * counted by their reasons.
 *
 * Threads: a name that ends with _locked wants the front's lock (one writer at a time); it is on the path of every
 * request, so it neither allocates nor formats: about 100 ns for 3 candidates. Readers need no lock and never hold a
 * writer up: each record has a counter that is odd while it is written, and who sees it move has read nothing (a
 * sequence lock; of its words, too, every access is atomic: Boehm, "Can Seqlocks Get Along With Programming Language
 * Memory Models?", 2012). */
#ifndef SCHEDULER_FRONT_EXPLAIN_H
#define SCHEDULER_FRONT_EXPLAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "policies/route.h"
#include "policies/waiting.h"

#define EXPLAIN_BYTES          2048 /* of a record, with its counter */
#define EXPLAIN_CANDIDATES_MAX 16
#define EXPLAIN_NAMES_BYTES    712
#define EXPLAIN_ID_BYTES       32 /* of a request's id, with the NUL; a longer one is cut */
#define EXPLAIN_REASONS        24

enum explain_attempt { EXPLAIN_FIRST, EXPLAIN_RETRY, EXPLAIN_CONTINUATION };
const char *explain_attempt_name(enum explain_attempt a); /* "first", "retry", "continuation" */

enum explain_outcome {                          /* what became of the request by this decision */
                       EXPLAIN_CHOSEN,          /* it got a slot on the chosen node */
                       EXPLAIN_NEXT_MODEL,      /* nobody; the model's fallback was looked at next */
                       EXPLAIN_NOBODY,          /* nobody, and waiting could not help */
                       EXPLAIN_WAITS,           /* in its waiting room */
                       EXPLAIN_NOT_LET_IN,      /* it may not wait: `verdict` */
                       EXPLAIN_HELD_FOR_LONGER, /* all that could are held for longer than it may wait */
};
const char *explain_outcome_name(enum explain_outcome o);

/* ---- what is kept ------------------------------------------------------------------------------------------------ */

enum explain_knows { EXPLAIN_PREDICTED = 1, EXPLAIN_MARGINAL = 2, EXPLAIN_LOCAL = 4 };

struct explain_candidate {
    double money;                             /* pico-dollars that it would add; 0 of another model's nodes */
    float ttft_us, ttft_sd, tpot_us, tpot_sd; /* predicted: medians, and standard deviations of ln above */
    float wake_us;                            /* asleep: until it serves */
    float back_us;                            /* held: for how long still; 0: not known */
    float p_slo, time_us, energy_mj, value;   /* struct route_terms; of those that were not judged so far 0 */
    float risk;
    int32_t cached, in_flight, slots; /* slots 0: unbounded */
    uint16_t name;                    /* in `names` */
    uint8_t reason, knows;            /* enum route_reason; bits of enum explain_knows */
};

struct explain_then { /* written again once it is known */
    int32_t ahead;    /* of it, in the waiting room */
    int32_t wait_ms;  /* that it may wait, at most */
    int32_t back_ms;  /* nobody can before so long; 0: not known */
    uint8_t outcome;  /* enum explain_outcome */
    uint8_t verdict;  /* enum waiting_verdict */
    uint8_t spare[2];
};

struct explain_record {
    char id[EXPLAIN_ID_BYTES]; /* of the request */
    uint64_t ticket;           /* counts decisions, from 1 */
    struct explain_then then;
    int64_t at_ns;      /* wall clock */
    int64_t charge_max; /* pico-dollars; bounded alone */
    int64_t slo_ttft_us, slo_tpot_us;
    float slo_probability;
    int32_t input_tokens, output_tokens; /* estimates */
    int32_t waited_ms;                   /* until this decision */
    uint16_t model_asked, model;         /* in `names`; model: the one of the fallback chain that this was about */
    uint16_t legs;                       /* that came before */
    uint16_t names_used;
    uint16_t others[EXPLAIN_REASONS]; /* candidates that are not listed, by their reasons */
    uint8_t objective, attempt, n;    /* n: listed */
    int8_t chosen;                    /* of those listed; -1: nobody */
    bool local_only, bounded, alone, prefers_local;
    uint8_t class; /* enum waiting_class */
    bool granted;  /* a slot that came free while it waited */
    uint8_t spare[6];
    struct explain_candidate candidates[EXPLAIN_CANDIDATES_MAX];
    char names[EXPLAIN_NAMES_BYTES];
};
static inline const char *explain_name(const struct explain_record *r, uint16_t name)
{
    return r->names + name;
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

struct explain;
#define EXPLAIN_KEEP_MAX 100000
struct explain *explain_new(int keep); /* NULL for 0: nothing is kept, and every function below takes a NULL */
void explain_free(struct explain *e);

struct explain_context { /* what routing is not told */
    const char *request_id, *model_asked, *model;
    int64_t at_ns; /* wall clock */
    int64_t waited_ms;
    enum explain_attempt attempt;
    int legs;
    enum waiting_class class;
    bool granted, prefers_local;
    int unlisted; /* nodes that were not among the candidates: not worth a look */
    /* The name of candidate i, which may point anywhere until the call returns; NULL: there is nobody, it is left out. */
    const char *(*name)(const void *arg, int32_t i);
    const void *arg;
};
/* The decision d between candidates c[0..n-1]. What became of it is, until explain_then_locked() says more, CHOSEN or
 * NOBODY. Returns its ticket; 0 if nothing is kept. */
uint64_t explain_note_locked(struct explain *e, const struct explain_context *x, const struct route_request *q,
                             const struct route_candidate *c, int32_t n, const struct route_decision *d);
void explain_then_locked(struct explain *e, uint64_t ticket, const struct explain_then *then);
/* Decisions from `ticket` on (explain_next_locked() before they were noted) were not meant. */
uint64_t explain_next_locked(const struct explain *e);
void explain_forget_locked(struct explain *e, uint64_t ticket);

/* ---- reading: any thread ------------------------------------------------------------------------------------------- */

/* The request's newest decisions, at most max of them, in order: the newest last. Returns how many; *earlier (may be
 * NULL) is how many more there are. */
int explain_find(const struct explain *e, const char *request_id, uint64_t *tickets, int max, int *earlier);
/* False: something else has its place by now. */
bool explain_read(const struct explain *e, uint64_t ticket, const char *request_id, struct explain_record *out);
/* The newest decisions of all, at most max of them, the newest first. Returns how many; one that is written over
 * meanwhile is left out. */
int explain_newest(const struct explain *e, struct explain_record *out, int max);
int explain_keeps(const struct explain *e); /* how many at most */

#endif
