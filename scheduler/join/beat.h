/* What engines say to their scheduler (docs/NODE_API.md, Joining), read with suspicion. Pure: no clock, no I/O.
 * Everything is bounded; unknown members are left alone, so that an engine may be newer than its scheduler. */
#ifndef SCHEDULER_JOIN_BEAT_H
#define SCHEDULER_JOIN_BEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "scheduler/nodes/card.h"
#include "scheduler/nodes/state.h"

#define BEAT_BODY_MAX ((size_t)32 << 10)
#define BEAT_DEPTH    8

/* POST /node/v1/join */
struct node_hello {
    char token[256];    /* "": it shows a certificate instead */
    char request[4096]; /* PEM: cert_request_write() */
    char host[256];     /* "": the address that it calls from */
    int port;           /* where it serves, with TLS */
    char model[129], version[64];
    char life[17]; /* of the process: another one after each start; "": not said */
};
enum rc node_hello_read(struct node_hello *h, const char *text, size_t n, struct error *e) SPW_MUST_USE;

/* POST /node/v1/beat */
enum node_sleep { NODE_AWAKE_NOW, NODE_FALLS_ASLEEP, NODE_SLEEPS, NODE_WAKES, NODE_SLEEP_UNKNOWN };
const char *node_sleep_name(enum node_sleep s);
struct node_beat {
    int queue, running;        /* requests that wait, that are computed */
    int64_t kv_free_tokens;    /* -1: not known */
    double tokens_per_s;       /* chosen lately */
    int64_t milliwatts;        /* 0: not known */
    enum node_watts watts_are; /* where they come from */
    int64_t millijoules;       /* since its start; only differences mean something */
    enum node_sleep sleep;
    bool ready, draining; /* a request would be answered (after waking up, if need be); it takes none */
    char model[129];
    struct node_card card; /* numerics "": not known yet */
    int64_t restarts;      /* of its worker */
    int64_t order_done;    /* the last order that it has heard; 0: none */
};
enum rc node_beat_read(struct node_beat *b, const char *text, size_t n, struct error *e) SPW_MUST_USE;

/* POST /node/v1/notice */
struct node_notice {
    char what[32];   /* "spot_interruption", "rebalance", "signal", "dead_man", "end" */
    int64_t left_ms; /* until it is gone; -1: not known */
};
enum rc node_notice_read(struct node_notice *x, const char *text, size_t n, struct error *e) SPW_MUST_USE;

#endif
