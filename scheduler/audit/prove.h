/* What an auditor needs of one request: its record, the path from it to the next signed head, the head, the public key,
 * and how to check all that. It comes as a shell script of comments and data that checks itself with sha256sum and
 * openssl and nothing of ours. It tells nothing of other records but their hashes. Blocks; command line. */
#ifndef SCHEDULER_AUDIT_PROVE_H
#define SCHEDULER_AUDIT_PROVE_H

#include <stdio.h>

#include "scheduler/audit/chain.h"

/* RC_NOT_FOUND: no record of this request, or not yet under a head. RC_CONFLICT: the chain does not hold here. */
enum rc audit_prove(FILE *out, const char *dir, const struct audit_keys *keys, const char *request_id,
                    struct error *e) SPW_MUST_USE;

#endif
