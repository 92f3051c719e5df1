/* Finance's prices in a running scheduler: what holds now is read from the ledger's file at the start, every
 * PRICES_EVERY_S and whenever the admin API has changed something, and laid over the configuration's (nodes.h,
 * prices.c). So routing, budgets and charges go by it, and a row names the version that it was charged by. */
#ifndef SCHEDULER_CLI_SERVE_PRICES_H
#define SCHEDULER_CLI_SERVE_PRICES_H

#include "base/log.h"
#include "base/worker.h"
#include "scheduler/nodes/nodes.h"

#define PRICES_EVERY_S 10 /* what holds from a moment on is charged that much later at most */

struct serve_prices;
struct serve_prices_options { /* borrowed */
    struct worker *worker;    /* where files are read; freed before this */
    struct nodes *nodes;
    const struct log *log;
    const struct clock *clock;
};
/* Reads them; blocks. */
enum rc serve_prices_new(struct serve_prices **p, const struct serve_prices_options *o, const char *ledger,
                         struct error *e) SPW_MUST_USE;
/* now: whether it is time or not. On the loop. */
void serve_prices_look(struct serve_prices *p, const char *ledger, bool now);
void serve_prices_end(struct serve_prices *p);  /* before the worker's end: nothing more is read; NULL is fine */
void serve_prices_free(struct serve_prices *p); /* NULL is fine */

#endif
