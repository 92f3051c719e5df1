/* The daemon's bookkeeper: it looks at the node table every second and writes down what nodes were doing (meter.h), and
 * some minutes after each hour's end it closes the hour (closing.h), with bills by where a node comes from:
 *
 *   launched by a pool      what the journal says it cost, second by second, with its billing minimum
 *   an asset of finance's   written off; and its energy at the tariff of the quarter-hour
 *   a rent of finance's     by the hour, for as long as it is configured
 *   off the premises, else  an API: by the token, at the price that holds in the hour
 *   on the premises, else   its energy alone: nobody has said what it was bought for
 *
 * Files are read and written on a thread of its own; hours that were missed are closed at the start. */
#ifndef SCHEDULER_CLI_SERVE_BOOKS_H
#define SCHEDULER_CLI_SERVE_BOOKS_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/log.h"
#include "scheduler/config/config.h"
#include "scheduler/nodes/nodes.h"

struct bookkeeper;
struct bookkeeper_options { /* all borrowed */
    struct event_base *loop;
    const struct config *config;
    const struct log *log;
    const struct clock *clock;
    struct nodes *nodes;
};
/* *b NULL and RC_OK: the ledger is off, there is nothing to keep. */
enum rc bookkeeper_new(struct bookkeeper **b, const struct bookkeeper_options *o, struct error *e) SPW_MUST_USE;
void bookkeeper_take(struct bookkeeper *b, const struct config *c); /* a reload; NULL is fine */
void bookkeeper_finance_changed(struct bookkeeper *b); /* prices are looked at again, at once; NULL is fine */
/* What was measured since the last time is written first: blocks; at the end. NULL is fine. */
void bookkeeper_free(struct bookkeeper *b);

#endif
