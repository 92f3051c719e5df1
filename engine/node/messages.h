/* What a supervisor and its worker say to each other over their channel. From the first second on the worker's loop
 * says something each second, whatever its threads compute: a supervisor that hears nothing for long takes it for
 * hung. */
#ifndef ENGINE_NODE_MESSAGES_H
#define ENGINE_NODE_MESSAGES_H

#include "engine/node/stats.h"

enum node_message {
    /* To the worker. */
    MSG_BEGIN = 1, /* struct node_begin: the first one */
    MSG_AWAKE,     /* struct node_counts: accept; also: stay awake after all */
    MSG_TAKE,      /* struct node_passed, then the bytes that were read, and the connection */
    MSG_SLEEP,     /* struct node_round: stop accepting, give connections back as they fall idle, then MSG_EMPTY */
    MSG_DRAIN,     /* struct node_round: the same, refuse new work, and cut what runs after so long */
    MSG_REREAD,    /* the certificate was renewed */
    MSG_END,       /* exit */
    /* To the supervisor. */
    MSG_READY = 64, /* struct node_card */
    MSG_UNLOADABLE, /* text: why the model could not be loaded; the worker ends */
    MSG_TAKEN,      /* struct node_passed: nothing of its answer was sent before this */
    MSG_BACK,       /* the bytes that were read, and an idle connection */
    MSG_EMPTY,      /* struct node_round, with the round that asked for it */
    MSG_WANTED,     /* somebody asked for an answer although it is to fall asleep */
    MSG_ASKED,      /* struct node_asked: POST /sleep or /drain came to the worker */
    MSG_STATS,      /* struct serve_totals, about once a second when ready, and before MSG_EMPTY */
    MSG_ALIVE,      /* its loop turns: about once a second while it loads */
};

struct node_passed {
    uint64_t id;
};
struct node_round {
    uint64_t round;            /* counts up: an answer to an earlier one is out of date */
    int64_t drain_ms, move_ms; /* MSG_DRAIN: as server_refuse() */
};
struct node_asked {
    enum { NODE_ASKED_SLEEP, NODE_ASKED_DRAIN } what;
};
/* What the worker has to know of the life before it, so that counters of /metrics go on. */
struct node_begin {
    struct serve_totals before;
    struct node_counts counts;
};

#endif
