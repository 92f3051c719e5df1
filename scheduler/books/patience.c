#include "scheduler/books/patience.h"

#define ROWS_PER_S_MIN 2000
#define FOUND_MAX      6

static void follow(double *lately, double newest)
{
    *lately += (newest - *lately) / 4;
}

void patience_found(struct patience *p, int rows)
{
    follow(&p->found, rows);
}

void patience_taken(struct patience *p, int rows, struct mono now)
{
    const int64_t ns = now.ns - p->taken.ns;

    p->taken = now;
    follow(&p->rows_per_s, (double)rows * NS_PER_S / (double)(ns > 0 ? ns : 1));
}

void patience_committed(struct patience *p, int64_t took_ns)
{
    const double us = (double)took_ns / NS_PER_US;

    follow(&p->commit_us, us < PATIENCE_US_MAX ? us : PATIENCE_US_MAX);
}

int64_t patience_us(const struct patience *p, int rows, bool journal, int64_t waited_ns)
{
    if (rows >= PATIENCE_ENOUGH || p->found >= FOUND_MAX || p->rows_per_s < ROWS_PER_S_MIN)
        return 0;
    const int64_t commit = (int64_t)(p->commit_us + 0.5), least = journal ? PATIENCE_US_JOURNAL : PATIENCE_US_MIN;
    const int64_t apart = commit + (commit < least ? least : commit), pause = (int64_t)(1e6 / p->rows_per_s);
    const int64_t left = apart - pause - waited_ns / NS_PER_US;
    return left > 0 ? left : 0;
}
