/* Reads a chain as somebody who trusts nothing in it, and says which record was changed, removed, inserted, reordered
 * or cut off. Never changes a file. Blocks; command line and worker threads.
 *
 * With the signing key, the MACs tell for each line whether it is ours and which number it had, so that a record is
 * named even if all hashes after it were made anew; without, such a forgery is found at the first seal whose signature
 * does not hold, and the records that it seals are named. A tail that was cut off at a seal is found by exported heads,
 * which may be older than the end. A later insertion is not told from a cut-off one by the chain: heads are what an
 * auditor keeps. */
#ifndef SCHEDULER_AUDIT_VERIFY_H
#define SCHEDULER_AUDIT_VERIFY_H

#include "scheduler/audit/chain.h"

enum verify_what {
    VERIFY_CHANGED,   /* the record is not what was written */
    VERIFY_REMOVED,   /* records are missing */
    VERIFY_INSERTED,  /* a line that we have not written, or not here */
    VERIFY_REORDERED, /* records stand where others belong */
    VERIFY_CUT_OFF,   /* the end is missing */
    VERIFY_UNSEALED,  /* the end is under no seal: torn, cut, or being written */
    VERIFY_SIGNATURE, /* a signature does not hold: something among the records that it seals was changed */
    VERIFY_HEAD,      /* an exported head says otherwise: something up to there was changed */
    VERIFY_UNREADABLE /* a file */
};
const char *verify_what_name(enum verify_what w); /* "changed", ... */

struct verify_finding {
    enum verify_what what;
    int64_t first, last; /* records; of one that was inserted the number before which it stands */
    const char *file;    /* borrowed from the result; "" where there is none */
    int64_t line;        /* 0: none */
    char text[320];      /* a sentence */
};
#define VERIFY_FINDINGS_MAX 1000 /* more are counted */

struct verify_options {
    const char *dir;
    const struct audit_keys *keys;  /* at least the public part; sign: MACs are checked too */
    const struct audit_head *heads; /* that were exported; in any order */
    int n_heads;
    int64_t from, to;          /* records; 0: from the first, to the last. The segments that hold them are read whole */
    bool at_rest;              /* nobody writes: an end without a seal is not looked at again */
    const char *from_t, *to_t; /* or times, as in records, compared as text; NULL: any */
};
struct verify_result {               /* {0}; verify_fini() */
    struct verify_finding *findings; /* by their first record; owned */
    int n_findings;
    int64_t findings_more;
    int64_t records, seals, bytes, first, last; /* that were read */
    int n_segments;
    struct audit_head end; /* of the chain, as far as it was read: the last seal's. seq 0: none */
    int64_t head_seq;      /* the newest exported head that was reached and holds; 0: none */
    char **files;          /* owned */
    int n_files;
};
/* RC_OK: it was read, and the findings say what is wrong with it. RC_NOT_FOUND: there is no chain. */
enum rc verify_chain(struct verify_result *r, const struct verify_options *o, struct error *e) SPW_MUST_USE;
void verify_fini(struct verify_result *r);

#endif
