/* Who may write in a state folder: one process at a time, by a lock on STATE_DIR/lock that ends with it. */
#ifndef SCHEDULER_CLI_STATE_LOCK_H
#define SCHEDULER_CLI_STATE_LOCK_H

#include <stdint.h>

#include "base/error.h"

/* Makes the folder where it is missing. *fd >= 0 holds the lock, and is the caller's to close, even after a failure.
 * RC_CONFLICT: for wait_ms another process has had it. Blocks. */
enum rc state_lock(const char *dir, int64_t wait_ms, int *fd, struct error *e) SPW_MUST_USE;

#endif
