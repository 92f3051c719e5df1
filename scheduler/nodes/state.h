/* A node's state: what the node table keeps (nodes.h draws what moves it) and what those who only look at nodes are told. */
#ifndef SCHEDULER_NODES_STATE_H
#define SCHEDULER_NODES_STATE_H

/* In the order of its life. */
enum node_state {
    NODE_STARTING, /* not yet probed, or its engine is loading */
    NODE_READY,    /* the last probe was good */
    NODE_FAILING,  /* probes or requests fail: `reason` says how */
    NODE_STOPPED,  /* its engine process is not running */
    NODE_ASLEEP,   /* it says so itself: its supervisor answers, and takes one request, which wakes it */
};
const char *node_state_name(enum node_state s);

/* Where a node's watts come from: declared in the configuration or reckoned by its engine from a declared curve, or
 * measured by its engine (RAPL, NVML). */
enum node_watts { NODE_WATTS_UNKNOWN, NODE_WATTS_ESTIMATED, NODE_WATTS_MEASURED };
const char *node_watts_name(enum node_watts w); /* "unknown", "estimated", "measured" */

#endif
