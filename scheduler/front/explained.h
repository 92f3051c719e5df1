/* A request that asks why it goes where it goes: x-spillway-explain: 1. Its decisions (explain.h) are copied as they
 * are taken, since the ring may have turned by the time the answer leaves; the answer carries them in a header of that
 * name. Whoever may not be told is answered all the same, and the header says so. A request's own lane. */
#ifndef SCHEDULER_FRONT_EXPLAINED_H
#define SCHEDULER_FRONT_EXPLAINED_H

#include "base/http_server.h"
#include "scheduler/front/explain.h"
#include "scheduler/wire/errors.h"

#define EXPLAIN_HEADER "x-spillway-explain" /* 1, true: please; 0, false: no */
#define EXPLAINED_MAX  8                    /* decisions that are kept, the newest; of more the header has no room */

struct request;
struct explained {
    const char *refused; /* static: why it is not told; NULL: it is */
    int n, earlier;
    uint64_t seen; /* the newest ticket so far */
    struct explain_record records[EXPLAINED_MAX];
};

/* Does x ask? RC_INVALID: the header is not understood, *e says what would be right. */
enum rc explained_read(struct http_exchange *x, bool *asks, struct api_error *e) SPW_MUST_USE;
/* r asks. Its caller and its configuration are known: may it be told? */
void explained_begin(struct request *r);
/* Something was decided about r. */
void explained_note(struct request *r);
/* The header of r's answer: 1, or 0 where nothing is to be said. text is its value's memory, for the caller to fini. */
int explained_header(const struct request *r, struct strbuf *text, struct http_header *header);
void explained_fini(struct request *r);

#endif
