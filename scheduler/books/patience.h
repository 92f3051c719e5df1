/* How long rows wait for others, so that one flush is enough for all of them.
 *
 * A quick disk makes for small groups, each of which costs a flush, a wake-up of the writer and one of the loop: where
 * rows come thick and fast, a little patience makes one of many. How much is measured by the disk: groups are to be
 * taken twice as far apart as a commit takes, lately, so that there are fewer of them the more each costs.
 *
 * Time counts from when the first of those that wait came, and nobody waits longer than it: what lies between two
 * groups is the pause until a row comes, and then its patience. (Counted from when the group before was taken, as many
 * groups would be made, and a row that came just after one would wait for the pause as well.)
 *
 * Where rows come slowly, or where groups are large by themselves (as where a fixed number of clients waits for its
 * rows: patience would only keep them from asking anew), nobody waits. */
#ifndef SCHEDULER_BOOKS_PATIENCE_H
#define SCHEDULER_BOOKS_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define PATIENCE_US_MIN     250  /* beyond the commit */
#define PATIENCE_US_MAX     1000 /* likewise, and of a commit what is looked at */
#define PATIENCE_US_JOURNAL 400  /* quick as it is, its flush costs the core as much as another */
#define PATIENCE_ENOUGH     16   /* rows: nobody waits for more */

/* Lately: each time the newest counts for a quarter. */
struct patience {
    double rows_per_s;
    double found;      /* rows that were there when the writer looked */
    double commit_us;  /* at most PATIENCE_US_MAX of each */
    struct mono taken; /* when the newest group was */
};

/* The writer looks, and there are so many rows. */
void patience_found(struct patience *p, int rows);
/* It takes them all. */
void patience_taken(struct patience *p, int rows, struct mono now);
void patience_committed(struct patience *p, int64_t took_ns);
/* How much longer may they wait, the first of whom has waited for waited_ns, in us? 0: not at all. journal: the next
 * group goes there (ahead.h). */
int64_t patience_us(const struct patience *p, int rows, bool journal, int64_t waited_ns);

#endif
