/* The cheapest set of nodes that covers a rate: a bounded knapsack (covering form) by dynamic programming over
 * cells of capacity, after the bulk of a large fleet has been taken in order of price per capacity. */
#include <math.h>
#include <string.h>

#include "policies/scale_internal.h"

#define BULK_LEFT 24 /* of the largest nodes: what is left to the exact part */

/* Dearer per capacity; equals keep their order. */
static bool dearer(const struct scale_group *a, const struct scale_group *b)
{
    return a->cost * b->capacity > b->cost * a->capacity + SCALE_EPSILON;
}

/* Indices of the groups that take part, the best first. */
static int32_t sort_groups(const struct scale_work *w, int32_t order[SCALE_GROUPS])
{
    int32_t n = 0;

    for (int32_t i = 0; i < w->n_groups; i++) {
        if (!w->groups[i].in || w->groups[i].n <= 0)
            continue;
        int32_t at = n++;
        for (; at > 0 && dearer(&w->groups[order[at - 1]], &w->groups[i]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    return n;
}

/* Whole nodes of the best groups until only so much is left that it can be chosen exactly. */
static void take_bulk(struct scale_work *w, const int32_t *order, int32_t n, double *target, double *spend)
{
    double largest = 0;

    for (int32_t i = 0; i < n; i++)
        largest = fmax(largest, w->groups[order[i]].capacity);
    for (int32_t i = 0; i<n && * target> BULK_LEFT * largest; i++) {
        struct scale_group *g = &w->groups[order[i]];
        double most = floor((*target - BULK_LEFT * largest) / g->capacity);
        if (g->cost > 0)
            most = fmin(most, floor(fmax(*spend, 0) / g->cost));
        g->taken = (int32_t)fmin(most, g->n);
        *target -= g->taken * g->capacity;
        *spend -= g->taken * g->cost;
    }
}

/* Each group as items of 1, 2, 4, ... nodes, so that any number of it can be put together. More than there is room
 * for are the least worth their money. */
static void make_items(struct scale_work *w, const int32_t *order, int32_t n, double target, double unit)
{
    w->n_items = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct scale_group *g = &w->groups[order[i]];
        double useful = ceil(target / g->capacity - SCALE_EPSILON);
        int32_t left = (int32_t)fmin(g->n - g->taken, useful);
        for (int32_t k = 1; left > 0 && w->n_items < SCALE_ITEMS; left -= k, k *= 2) {
            k = k < left ? k : left;
            struct scale_item *item = &w->items[w->n_items];
            item->group = order[i];
            item->n = k;
            item->cells = (int32_t)fmin(floor(k * g->capacity / unit + 0.5), SCALE_CELLS + SCALE_MARGIN);
            w->n_items += item->cells > 0;
        }
    }
}

/* cost[j]: the least for j cells or more. */
static void fill_table(struct scale_work *w)
{
    const int32_t top = SCALE_CELLS + SCALE_MARGIN;

    w->cost[0] = 0;
    for (int32_t j = 1; j <= top; j++)
        w->cost[j] = HUGE_VAL;
    for (int32_t i = 0; i < w->n_items; i++) {
        const struct scale_item *item = &w->items[i];
        double cost = item->n * w->groups[item->group].cost;
        memset(w->taken[i], 0, sizeof(w->taken[i]));
        for (int32_t j = top; j > 0; j--) {
            double with = w->cost[j > item->cells ? j - item->cells : 0] + cost;
            if (with < w->cost[j] - SCALE_EPSILON || (with < HUGE_VAL && w->cost[j] == HUGE_VAL)) {
                w->cost[j] = with;
                w->taken[i][j / 64] |= (uint64_t)1 << (j % 64);
            }
        }
    }
}

/* The true capacity of the set behind cost[j]; `keep`: it is taken. */
static double read_back(struct scale_work *w, int32_t j, bool keep)
{
    double capacity = 0;

    for (int32_t i = w->n_items - 1; i >= 0 && j > 0; i--) {
        if (!(w->taken[i][j / 64] >> (j % 64) & 1))
            continue;
        struct scale_group *g = &w->groups[w->items[i].group];
        capacity += w->items[i].n * g->capacity;
        if (keep)
            g->taken += w->items[i].n;
        j = j > w->items[i].cells ? j - w->items[i].cells : 0;
    }
    return capacity;
}

/* Cells are rounded: the cheapest entry near the target whose true capacity reaches it; else the most that money
 * buys. */
static int32_t choose_entry(struct scale_work *w, double target, double spend)
{
    for (int32_t j = SCALE_CELLS - SCALE_MARGIN; j <= SCALE_CELLS + SCALE_MARGIN; j++)
        if (w->cost[j] <= spend + SCALE_EPSILON && w->cost[j] < HUGE_VAL &&
            read_back(w, j, false) >= target * (1 - SCALE_EPSILON))
            return j;
    for (int32_t j = SCALE_CELLS + SCALE_MARGIN; j > 0; j--)
        if (w->cost[j] <= spend + SCALE_EPSILON && w->cost[j] < HUGE_VAL)
            return j;
    return 0;
}

/* What rounding took too much: nodes that can go, the dearest first. And where it is still short: what money is left
 * for, the best first. */
static double polish(struct scale_work *w, const int32_t *order, int32_t n, double target, double spend)
{
    double capacity = 0, cost = 0;

    for (int32_t i = 0; i < n; i++) {
        capacity += w->groups[order[i]].taken * w->groups[order[i]].capacity;
        cost += w->groups[order[i]].taken * w->groups[order[i]].cost;
    }
    for (int32_t i = n - 1; i >= 0; i--) {
        struct scale_group *g = &w->groups[order[i]];
        while (g->taken > 0 && capacity - g->capacity >= target * (1 - SCALE_EPSILON)) {
            g->taken--;
            capacity -= g->capacity;
            cost -= g->cost;
        }
    }
    for (int32_t i = 0; i < n && capacity < target * (1 - SCALE_EPSILON); i++) {
        struct scale_group *g = &w->groups[order[i]];
        while (g->taken < g->n && capacity < target * (1 - SCALE_EPSILON) && cost + g->cost <= spend + SCALE_EPSILON) {
            g->taken++;
            capacity += g->capacity;
            cost += g->cost;
        }
    }
    return capacity;
}

double scale_cover(struct scale_work *w, double target, double spend_max)
{
    int32_t order[SCALE_GROUPS], n = sort_groups(w, order);
    double left = target, spend = spend_max;

    for (int32_t i = 0; i < n; i++)
        w->groups[order[i]].taken = 0;
    if (target <= 0)
        return 0;
    take_bulk(w, order, n, &left, &spend);
    if (left > 0) {
        make_items(w, order, n, left, left / SCALE_CELLS);
        fill_table(w);
        (void)read_back(w, choose_entry(w, left, spend), true);
    }
    return polish(w, order, n, target, spend_max);
}
