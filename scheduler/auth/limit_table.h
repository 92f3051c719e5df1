/* Whose limits are how far used: a bounded table from (kind, name) to the plain state of policies/limits.h.
 *
 * The bound can't be used to reset a limit: an entry is forgotten only when it is at rest, that is, when everything it
 * ever counted has drained and nothing runs, so that a new entry in its place would decide the same. The least recently
 * used entries are looked at first (any that has not been used for as long as its burst takes to drain is at rest); if
 * none of LIMIT_TABLE_PROBES is, the request is refused (RC_FULL, counted) rather than counted nowhere. Names come from
 * identities and known models, not from what a stranger sends; with the default bound a refusal takes tens of thousands
 * of names within a minute or so.
 *
 * One owner: the loop that admits, or a short lock around each call. Never blocks; allocates only for a new name. */
#ifndef SCHEDULER_AUTH_LIMIT_TABLE_H
#define SCHEDULER_AUTH_LIMIT_TABLE_H

#include "base/error.h"
#include "policies/limits.h"

#define LIMIT_TABLE_PROBES 64
#define LIMIT_NAME_MAX     256 /* bytes of a name; our callers check them to be shorter */

struct limit_table;
struct limit_slot;

struct limit_scope {  /* one thing a request is limited by */
    char kind;        /* 'k' key, 't' team, 'm' model, ...: names of different kinds do not meet */
    const char *name; /* for a team: "tenant/team"; for a model per tenant: "tenant/model" */
    struct limit_spec spec;
};
/* What an admitted request holds until it settles. Plain; zeroed: holds nothing. */
struct limit_ticket {
    struct limit_slot *slots[LIMIT_SCOPES_MAX]; /* pinned: what runs is not at rest */
    int n;
    int64_t reserved;
};
struct limit_table_stats {
    uint64_t admitted, refused, full, evicted;
    int entries;
};

struct limit_table *limit_table_new(int entries_max); /* 0: 65536 */
void limit_table_free(struct limit_table *t);         /* tickets not settled are void; NULL is fine */

/* RC_OK: *ticket is the caller's until limit_table_settle(). RC_DENIED: see *v, whose `scope` is an index into scopes.
 * RC_FULL: no room, nothing was taken; answer as for a refusal with a second's wait. Scopes without any limit cost
 * nothing; a (kind, name) may appear once. The spec given last is the one that holds. */
enum rc limit_table_admit(struct limit_table *t, const struct limit_scope *scopes, int n, int64_t now_us,
                          int64_t tokens, struct limit_ticket *ticket, struct limit_verdict *v) SPW_MUST_USE;
/* Once per RC_OK, whatever became of the request; the ticket is zeroed. A zeroed one is ignored. */
void limit_table_settle(struct limit_table *t, struct limit_ticket *ticket, int64_t now_us, int64_t actual);
struct limit_table_stats limit_table_stats(const struct limit_table *t);

#endif
