/* Idempotency-Key on a request's way through the front: who asks a second time gets the answer of the first, whoever of
 * them comes first. repeats.h is the table; this is who asks it, and when.
 *
 *     idempotency_begin() --+-> no key: as ever
 *                           +-> answered, or it waits: nothing of it comes further
 *                           +-> the first, or one that is computed again: admitted, dispatched; all that leaves through
 *                               reply.c is kept
 *                                  |
 *     row durable, rest written ---+-> idempotency_settled(): kept, and given to those who wait
 *     client gone -----------------+-> idempotency_goes_on(): for those who wait, with a body of its own; or not at all
 *
 * A repeat is the same when tenant, key, endpoint, body and whether it is bound to the premises are the same. It gets
 * the bytes and the headers of the first answer, with the first's x-request-id and charge, and
 * x-spillway-idempotent-replay; it has no ledger row of its own and uses none of the limits. One that is computed again
 * has a row, charge 0.
 * On the request's own loop. */
#ifndef SCHEDULER_FRONT_IDEMPOTENCY_H
#define SCHEDULER_FRONT_IDEMPOTENCY_H

#include "scheduler/front/repeats.h"

struct lane;
struct front;
struct request;
struct request_body;
struct identity;

/* A request's part. */
struct idempotency {
    struct repeat_ticket *ticket; /* NULL: it has ended */
    struct repeat_answer *kept;   /* owned; NULL: nothing has left, or it is too large */
    bool whole;                   /* kept is complete */
    bool lost;                    /* it was too large, or something of it did not pass by */
    int number;                   /* 0: the first; n: free of charge, for the nth time */
    char *body;                   /* owned; NULL: the client is there, and has it */
    char key[REPEAT_KEY_BYTES_MAX + 1], hash[2 * HASH_BYTES + 1];
};

/* At the front's start: the table (NULL where the configuration has none), and what the ledger knows. Blocks. */
enum rc idempotency_open(struct front *f, struct error *e) SPW_MUST_USE;

/* RC_OK: go on; *part is NULL (no key) or the request's. RC_AGAIN: x is taken. RC_DENIED: refuse it with *refusal. */
enum rc idempotency_begin(struct lane *l, struct http_exchange *x, const char *id, const struct request_body *body,
                          const struct identity *who, struct idempotency **part,
                          struct api_error *refusal) SPW_MUST_USE;
/* It was not admitted, so no request will be made of it. NULL is fine. */
void idempotency_refused(struct lane *l, struct idempotency *part, const struct api_error *why);

/* The steps of a request; without a key nothing happens. */
void idempotency_start(struct request *r); /* r->idempotency is set: its owner is r from now on */
/* r's client has left. True: r goes on for others, whose wish may end later: then gave_up(r). */
bool idempotency_goes_on(struct request *r);
/* r's row is durable, or it has failed without one: r->outcome says how. */
void idempotency_settled(struct request *r);
void idempotency_fini(struct request *r);

/* What leaves, for whoever asks again. */
void idempotency_keep_head(struct request *r, int status, const struct http_header *headers, int n);
void idempotency_keep(struct request *r, const void *data, size_t n);
void idempotency_keep_end(struct request *r);

static inline bool idempotency_wants(const struct idempotency *p) /* its answer, even with nobody there */
{
    return p && p->ticket;
}
static inline bool idempotency_is_free(const struct idempotency *p)
{
    return p && p->number > 0;
}

#endif
