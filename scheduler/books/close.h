/* The close of a node's hour: its bill, divided among those who caused it, to the last pico-dollar. Pure.
 *
 *   bill = allocations + idle + boot + waste + variance        for every node and hour, exactly
 *
 * Each part of a bill follows its cause: what is paid for time by busy time, energy by joules, tokens by their price.
 * Allocations are what served an answer; waste is the same of legs whose work nobody got (failed, cancelled). Idle and
 * boot are measured on their own, never what is left over; what is left over is the variance, which therefore says how
 * well the measurements agree: time that nobody accounts for makes it positive, time that is claimed twice negative.
 *
 * Rounding: by largest remainder (base/divide.h). */
#ifndef SCHEDULER_BOOKS_CLOSE_H
#define SCHEDULER_BOOKS_CLOSE_H

#include "scheduler/books/bill.h"

/* One leg's part of the hour. */
struct close_leg {
    int64_t busy_us, millijoules; /* of this hour; millijoules -1: not known, and set: by busy time */
    struct pusd tokens;           /* what they cost at the provider's price */
    bool waste;
    int64_t started_us, ended_us; /* Unix time; for close_by_flight() */
    struct pusd share;            /* out */
};
/* What was measured of the node in the hour (meter.h). */
struct close_meter {
    int64_t idle_us, boot_us, asleep_us;
    int64_t energy_mj, idle_mj, boot_mj; /* energy: all of it; asleep machines draw idle_mj */
};
struct close_result {
    struct pusd allocated, idle, boot, waste, variance;
    int64_t busy_us, waste_us, lost_us; /* lost: paid time that nobody accounts for; < 0: claimed twice */
    int64_t busy_mj, lost_mj;
};
/* Sets legs[].share. Everything >= 0. */
void close_node_hour(const struct bill *bill, const struct close_meter *m, struct close_leg *legs, int n,
                     struct close_result *out);

/* For nodes that do not tell: the hour's time, shared at each moment by those that are in flight. Sets busy_us
 * (exactly: they add up to the time in which any was) and returns that time; the rest of the hour is idle. */
int64_t close_by_flight(struct close_leg *legs, int n, int64_t from_us, int64_t until_us);

/* Does it close? Each a bit. The figures on the other side are of other hands: the engine's own counters, the provider. */
enum close_problem {
    CLOSE_SUM = 1,       /* the parts are not the bill */
    CLOSE_VARIANCE = 2,  /* more than CLOSE_VARIANCE_PPM of the bill */
    CLOSE_TOKENS = 4,    /* the rows' tokens are not those that the engine counted */
    CLOSE_BILL = 8,      /* the bill is not what the provider's rule says, or what he asks */
    CLOSE_CHARGE = 16,   /* a row's charge is not its tokens at its price version */
    CLOSE_TWICE = 32,    /* a request, or a leg in an hour, is there more than once */
    CLOSE_LEGS = 64,     /* legs do not add up to their row */
    CLOSE_ROLLUP = 128,  /* the roll-up is not the sum of its rows */
    CLOSE_NEGATIVE = 256 /* an amount below zero that cannot be */
};
#define CLOSE_VARIANCE_PPM 5000
#define CLOSE_PROBLEMS     9
const char *close_problem_text(enum close_problem p);
/* CLOSE_SUM, CLOSE_VARIANCE and CLOSE_NEGATIVE of one node's hour. */
unsigned close_check(const struct bill *bill, const struct close_leg *legs, int n, const struct close_result *r);

#endif
