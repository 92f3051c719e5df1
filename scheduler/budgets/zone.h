/* What the clocks of a time zone do, from the system's tz data (TZif, RFC 8536), for policies/period.h. */
#ifndef SCHEDULER_BUDGETS_ZONE_H
#define SCHEDULER_BUDGETS_ZONE_H

#include <stddef.h>

#include "base/error.h"
#include "policies/period.h"

/* A table up to the year 2100, by the rule at the file's end where it gives one. free() with zone_free(). name:
 * "Europe/Berlin", "UTC"; a path cannot be one. RC_NOT_FOUND: the system knows no such zone (or has no tz data: UTC
 * works without). RC_INVALID: the file is not understood. Blocks; when a configuration is read. */
enum rc zone_load(struct zone **z, const char *name, struct error *e) SPW_MUST_USE;
/* The same from the bytes of a file. */
enum rc zone_parse(struct zone **z, const void *bytes, size_t n, const char *name, struct error *e) SPW_MUST_USE;
void zone_free(struct zone *z); /* NULL is fine */

#endif
