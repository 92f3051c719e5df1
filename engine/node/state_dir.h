/* The folder where an engine keeps what it has to know in its next life: who it is (join.h), which power limits it
 * found (agent.h). One engine at a time: two would take each other's name, and put back each other's limits. */
#ifndef ENGINE_NODE_STATE_DIR_H
#define ENGINE_NODE_STATE_DIR_H

#include "base/error.h"

/* Makes it (mode 0700, like mkdir -p) and locks it until *lock_fd is closed. RC_CONFLICT: another engine has it; RC_IO.
 * On failure *lock_fd is -1. Blocks for a few system calls. */
enum rc state_dir_lock(const char *path, int *lock_fd, struct error *e) SPW_MUST_USE;

#endif
