/* The key between this scheduler and the engines that it starts itself: new with every start, as they are. Blocks; at
 * start only. */
#ifndef SCHEDULER_NODES_NODE_KEY_H
#define SCHEDULER_NODES_NODE_KEY_H

#include "base/error.h"

/* 256 random bits in hex, also written to `path` (mode 0600, an older file is replaced). *key is the caller's. */
enum rc node_key_make(char **key, const char *path, struct error *e) SPW_MUST_USE;

#endif
