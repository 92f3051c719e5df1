/* Rate limits as pure functions over plain state: requests per minute, tokens per minute, requests at once. The caller
 * passes the time in and keeps the state (one per key, team, model ...); a zeroed state is one that was never used.
 *
 * The algorithm is the token bucket in its "how much is used" form, which is GCRA with another name for the same number
 * (ITU-T I.371, annex A): what is used drains at the limit's rate; an admission adds to it and may not take it above
 * the burst. One request or token is LIMIT_UNITS units and the clock counts microseconds, so that a rate of L per
 * minute drains exactly L units per microsecond: integers throughout, nothing is ever rounded in the caller's favour or
 * against him.
 *
 * What is promised, for any window of w microseconds and any order of calls:
 *   - requests admitted <= burst + requests_per_min * w / 60 s;
 *   - tokens reserved less tokens given back <= burst + tokens_per_min * w / 60 s;
 *   - hence, where estimates hold, tokens used by the requests that were settled in the window <= that + what was
 *     reserved and still running when it began.
 * An answer longer than its estimate is charged in full when it settles: what is used may then exceed the burst, and
 * nothing is admitted until the excess has drained. */
#ifndef POLICIES_LIMITS_H
#define POLICIES_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIMIT_SCOPES_MAX  8
#define LIMIT_UNITS       INT64_C(60000000) /* of one request or token: microseconds in a minute */
#define LIMIT_PER_MIN_MAX INT64_C(10000000000)
#define LIMIT_TOKENS_MAX  INT64_C(1000000000) /* of one request; more counts as this many */

struct limit_spec { /* 0: no such limit; values up to LIMIT_PER_MIN_MAX */
    int64_t requests_per_min, tokens_per_min;
    int64_t requests_burst, tokens_burst; /* at once after a pause; 0: what a minute allows */
    int32_t concurrent;
};

struct limit_bucket {
    int64_t used; /* units, as of at_us */
    int64_t at_us;
};
struct limit_state {
    struct limit_bucket requests, tokens;
    int32_t running; /* admitted and not yet settled; counted even where `concurrent` is 0 */
};

enum limit_kind { LIMIT_NONE, LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_CONCURRENT };
const char *limit_kind_name(enum limit_kind k); /* "requests", ... for messages and labels */

struct limit_view { /* of one kind, in the scope that has least left */
    int64_t limit;  /* per minute; 0: no scope limits it, and the rest says nothing */
    int64_t remaining;
    int64_t reset_us; /* until all of it is there again, if nothing more is used */
};
struct limit_verdict {
    bool allowed;
    bool never;           /* refused, and waiting does not help: larger than the burst */
    int scope;            /* refused by: index into what limits_admit() was given */
    enum limit_kind kind; /* refused by */
    int64_t limit;        /* the refusing limit's value: per minute, or at once */
    int64_t wait_us;      /* refused: until it could be admitted if nothing else is; 0 for LIMIT_CONCURRENT */
    struct limit_view requests, tokens;
};

/* One request of about `tokens` tokens against all n scopes (<= LIMIT_SCOPES_MAX, no state twice): it is taken from all
 * of them or from none. Of several refusals the one that lasts longest is told. now_us: any monotonic microseconds;
 * a time before an earlier one counts as that one. */
void limits_admit(struct limit_state *const *states, const struct limit_spec *const *specs, int n, int64_t now_us,
                  int64_t tokens, struct limit_verdict *v);
/* An admitted request has ended: `reserved` is what it was admitted with, `actual` what it used. The difference goes
 * back or is taken. Once per admission. */
void limits_settle(struct limit_state *const *states, const struct limit_spec *const *specs, int n, int64_t now_us,
                   int64_t reserved, int64_t actual);
/* Is this state as good as a zeroed one? Then it may be forgotten. */
bool limit_at_rest(const struct limit_state *s, const struct limit_spec *spec, int64_t now_us);

/* For Retry-After: whole seconds, rounded up, at least 1. */
int64_t limit_retry_after_s(const struct limit_verdict *v);
/* For x-ratelimit-reset-*: "120ms", "1s", "6m0s", "2h5m0s", rounded up. buf >= 32 bytes. Returns buf. */
char *limit_format_reset(int64_t us, char *buf, size_t size);

#endif
