/* What the books call whoever has a node. Static texts, or the configuration's. */
#ifndef SCHEDULER_FRONT_SETTLE_H
#define SCHEDULER_FRONT_SETTLE_H

#include "scheduler/config/config.h"

const char *settle_provider(const struct config_node *c); /* "static", "process", or its pool's provider */
const char *settle_market(const struct config_node *c);   /* "on-prem", "spot", "on-demand", "api" */

#endif
