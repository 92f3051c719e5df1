/* A request and its budgets: which it falls under, what it has reserved there, and what becomes of it when there is too
 * little. The rules are scheduler/budgets/rules.h, the books scheduler/budgets/store.h, the arithmetic
 * policies/budget.h.
 *
 *   budgeted_begin()    what its budgets say already: another model, batch, premises only, or a refusal
 *   budgeted_reserve()  with a slot in hand, for the node it is on: the prompt's bound, the first slice, and a lead: what the
 *                       node says at its pace before anything that we do can take effect
 *   budgeted_said()     as the answer grows: the next slice is asked for when half of one beside the lead is left. Who is
 *                       refused goes on to what it has, less the lead; then it ends with finish_reason "length"
 *   budgeted_settle()   what was spent; the rest is free
 *
 * A node that cannot be stopped (its answer comes whole), or for which less than a slice and the lead was left, is told
 * a max_tokens that is paid for. A node without prices takes nothing from any budget.
 *
 * Without budgets in the configuration r->budget is NULL and nothing here takes a lock or memory. */
#ifndef SCHEDULER_FRONT_BUDGETED_H
#define SCHEDULER_FRONT_BUDGETED_H

#include "scheduler/budgets/rules.h"
#include "scheduler/budgets/store.h"

struct request;
struct model;
struct api_error;

/* "x-spillway-tags" of x. RC_INVALID: *e says so. */
struct http_exchange;
enum rc budgeted_read(struct http_exchange *x, char labels[BUDGET_LABELS_BYTES], struct api_error *e) SPW_MUST_USE;

enum budgeted_next {
    BUDGETED_GO,    /* reserved: the leg may start */
    BUDGETED_WAIT,  /* it will go on by itself */
    BUDGETED_AGAIN, /* the slot is given back; choose once more */
    BUDGETED_OVER,  /* it was answered or refused, and r may be gone */
};
/* False: refused, r->error says why. labels: as read; "" where there are none. */
bool budgeted_begin(struct request *r, const char *labels);
enum budgeted_next budgeted_reserve(struct request *r);
/* Tokens of each choice that the node may be told; INT64_MAX: as many as the client wants. */
int64_t budgeted_output(const struct request *r);
void budgeted_said(struct request *r);  /* r may be gone afterwards, or settled */
void budgeted_turn(struct request *r);  /* the timer of REQUEST_RESERVING */
void budgeted_leave(struct request *r); /* the state REQUEST_RESERVING: it no longer waits, and has no slot */
/* After the charge is known. */
void budgeted_settle(struct request *r);
/* The answer ends here, and says why. False: it could not be ended well, and was broken off. */
bool budgeted_stop(struct request *r);
/* From now on it is a request for that model. False: not for this caller. */
bool budgeted_take_model(struct request *r, const struct model *m);
void budgeted_fini(struct request *r);
/* Its answer ends sooner than its client asked for, because of a budget: why, for the client; else NULL. */
const char *budgeted_why(const struct request *r);
bool budgeted_local_only(const struct request *r);
bool budgeted_prefers_local(const struct request *r);
/* For the ledger's row; NULL: nothing. */
const char *budgeted_lines(const struct request *r);
const char *budgeted_labels(const struct request *r);
const char *budgeted_hold_id(const struct request *r);
struct pusd budgeted_waste(const struct request *r);
struct pusd budgeted_reserved(const struct request *r); /* the most that it held; after budgeted_settle() */
/* Nobody is allowed: true, and r->error says so, where that is a budget's doing. */
bool budgeted_explains(struct request *r);

#endif
