/* How long a node wants to be left alone, from the head of its 429 or 503: `retry-after-ms`, or `Retry-After` in
 * seconds or as a date; without either, `x-ratelimit-reset-requests` and `-tokens` of what `x-ratelimit-remaining-*`
 * says is used up. Pure. */
#ifndef SCHEDULER_WIRE_RETRY_AFTER_H
#define SCHEDULER_WIRE_RETRY_AFTER_H

#include <stdbool.h>

#include "base/clock.h"
#include "base/http_parse.h"

#define RETRY_AFTER_US_MAX (INT64_C(86400) * 1000000) /* a day; more is not believed */

/* Microseconds; 0: it does not say, or not so that it can be understood. *said (may be NULL): it says so, even if "now". */
int64_t retry_after_us(const struct http_head *head, struct wall now, bool *said);

#endif
