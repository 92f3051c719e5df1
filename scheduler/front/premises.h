/* What never leaves the organisation's own premises: requests of a credential, a tenant or a model that is
 * `local_only`, and those that say so themselves. A tenant's and a request's label become part of the caller's identity
 * before anything is decided, so that routing, waiting, retries, continuation and the cache have one thing to look
 * at. */
#ifndef SCHEDULER_FRONT_PREMISES_H
#define SCHEDULER_FRONT_PREMISES_H

#include "base/http_parse.h"
#include "scheduler/auth/identity.h"
#include "scheduler/config/config.h"

#define PREMISES_HEADER "x-spillway-local-only" /* true or false; nobody is set free by it */

/* *who, a reference, is replaced by one that is bound, where it must be. RC_INVALID: the header is not understood, *e says
 * what would be right; *who is as before. */
enum rc premises_bind(const struct config *c, const struct http_head *head, struct identity **who,
                      struct error *e) SPW_MUST_USE;

#endif
