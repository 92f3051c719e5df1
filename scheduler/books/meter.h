/* What was measured of nodes, by quarter-hour: the ground that bills of energy and the close of an hour stand on. One
 * row of node_meters per node and quarter, to which is added while it lasts and never after its hour is closed.
 *
 * Times are microseconds of the quarter, in which the machine was up (paid for or owned), booting, idle (ready, and
 * nothing to compute), asleep, busy (computing; of engines that tell: the sum of all steps). Energy is what the machine
 * drew, in all, and of it while booting and while idle or asleep. Tokens are those that the engine counted, of requests
 * that ended in the quarter: the other hand, against which the rows are held; counted: how many such requests, 0 where
 * the node doesn't tell. */
#ifndef SCHEDULER_BOOKS_METER_H
#define SCHEDULER_BOOKS_METER_H

#include "base/money.h"
#include "scheduler/books/rollup.h"

struct meter {
    const char *node, *pool, *provider, *market, *domain; /* NULL: not known */
    int64_t quarter_s;
    int64_t up_us, boot_us, idle_us, asleep_us, busy_us;
    int64_t energy_mj, boot_mj, idle_mj;
    enum books_energy energy_is;
    struct token_counts tokens;
    int64_t counted;
};

/* Adds them all, in one transaction. Blocks. */
enum rc meter_add(const char *path, const struct meter *m, int n, struct error *e) SPW_MUST_USE;
/* By quarter and node. Blocks; read-only; no file: none. */
enum rc meter_read(const char *path, int64_t from_s, int64_t until_s, void (*each)(const struct meter *m, void *arg),
                   void *arg, struct error *e) SPW_MUST_USE;

#endif
