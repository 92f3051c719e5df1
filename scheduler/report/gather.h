/* What gather.c (the way through), gather_rollups.c, gather_costs.c (machines, percentiles, hours), gather_budgets.c,
 * gather_money.c (what finance edits) and gather_savings.c share: a report in the making. */
#ifndef SCHEDULER_REPORT_GATHER_H
#define SCHEDULER_REPORT_GATHER_H

#include "base/alloc.h"
#include "scheduler/report/report.h"

#define GATHER_CELLS_MAX   2000000
#define GATHER_TAGGED_MAX  200000 /* cells beyond are made without tags */
#define GATHER_BUDGETS_MAX 10000
#define GATHER_BUCKETS     256
#define GATHER_HOUR_S      3600

/* Items by key, in order of their coming. An item begins with its key: plain bytes, padding zeroed. */
struct table {
    char *items;
    size_t item_bytes, key_bytes;
    int n, cap;
    int *slots; /* index + 1; 0: free */
    int n_slots;
};
void table_init(struct table *t, size_t item_bytes, size_t key_bytes);
void table_free(struct table *t);
/* The item of this key; a new one is all zero but for it. NULL: there is none, and there are `max` already. Valid until
 * the next call that makes one. */
void *table_get(struct table *t, const void *key, int max);
void *table_at(const struct table *t, int i);

/* Texts, each once. */
struct texts {
    const char **slots; /* NULL: free; owned, the texts are the arena's */
    int n, n_slots;
};
const char *texts_get(struct texts *t, struct arena *arena, const char *text);
void texts_free(struct texts *t);

struct gather_change { /* of finance, of one kind */
    const char *subject, *value;
    int64_t from_s, version;
};
struct gather_changes {
    struct gather_change *of; /* owned */
    int n, cap;
};
struct gather_cell_key {
    const char *tenant, *team, *project, *tags, *model, *pool, *provider, *market, *domain, *cache;
    struct token_prices prices;
    int64_t price_version, day;
};
struct gather_cell {
    struct gather_cell_key key;
    struct report_use use;
};
struct gather_kind {            /* of roll-ups: what is the same for all of them; indexes are of tables */
    struct gather_cell_key key; /* its day: that of `cell` */
    bool known, wanted;         /* wanted: of the report's team */
    int members[REPORT_DIMS], units[2], cell;
    int *budgets; /* by rule */
};
struct gather_node_key {
    const char *node, *pool, *provider, *market, *domain;
    int64_t day;
};
struct gather_node {
    struct gather_node_key key;
    struct report_cost cost;
};
struct gather_unit_key {
    const char *model, *pool;
};
struct gather_unit {
    struct gather_unit_key key;
    struct report_use use;
    int64_t counts[GATHER_BUCKETS];
};
struct gather_member {
    const char *name; /* its key; &others of gather.c: the rest */
    struct report_member m;
    struct report_point *days, *hours;
};
struct gather_budget_key {
    const char *name;
    const struct budget_rule *rule;
};
struct gather_budget {
    struct gather_budget_key key;
    struct report_budget b;
    struct budget_state state; /* by its own books */
    struct pusd_sum *days;     /* by day, not summed up yet; NULL: no row fell under it */
};
struct gather_rule { /* the period of a budget rule that holds the report's last hour */
    struct period period;
    int first_day, n_days, days_in_all;
};
struct gather {
    const struct report_options *o;
    struct report *r;
    struct error *e;
    enum rc rc; /* of what callbacks cannot return */
    int64_t window_s;
    int *day_of_hour; /* of the window's hours */
    int n_window;
    struct texts texts;
    struct table members[REPORT_DIMS], cells, nodes, units, budgets;
    struct gather_kind *kinds; /* by rollup.kind; owned */
    int n_kinds;
    struct gather_rule *rules;
    struct gather_changes references, discounts;
};

/* A text of the report's own; the same text gives the same pointer. NULL stays NULL, "" is NULL. */
const char *gather_text(struct gather *g, const char *text);
bool gather_in(int64_t hour_s, int64_t from_s, int64_t until_s);
int gather_day(const struct gather *g, int64_t hour_s); /* -1: not in the window */
struct gather_member *gather_member(struct gather *g, enum report_dim d, const char *name);
/* The points of an hour, of its day and of itself; hour NULL: before the hours that are kept. */
struct report_point *gather_day_point(const struct gather *g, struct report_point *days, int64_t hour_s);
struct report_point *gather_hour_point(const struct gather *g, struct report_point *hours, int64_t hour_s);
void *gather_array(struct gather *g, int n, size_t bytes); /* of the report */

/* Of a model on a pool (all 0), and on all of them (all 1: pool NULL); NULL: what has no pool, which is in the sum alone. */
struct gather_unit *gather_unit(struct gather *g, const char *model, const char *pool, int all);

/* gather_rollups.c */
enum rc gather_rollups(struct gather *g) SPW_MUST_USE;
/* gather_costs.c */
enum rc gather_nodes(struct gather *g) SPW_MUST_USE;
enum rc gather_units(struct gather *g) SPW_MUST_USE;
enum rc gather_hours(struct gather *g) SPW_MUST_USE;
/* gather_budgets.c */
int64_t gather_rules(struct gather *g); /* when the earliest of their periods begins */
void gather_rule_days(struct gather *g);
/* The budget of this rule that it falls under; NULL: none, or g->rc says why not. */
struct gather_budget *gather_covering(struct gather *g, int rule, const struct rollup *r);
void gather_spend(struct gather *g, struct gather_budget *b, const struct gather_rule *rule, const struct rollup *r);
enum rc gather_budgets(struct gather *g) SPW_MUST_USE;
/* gather_money.c */
enum rc gather_changes(struct gather *g, const char *kind, struct gather_changes *to) SPW_MUST_USE;
/* What held then; NULL: nothing. */
const struct gather_change *gather_change_at(const struct gather_changes *c, const char *subject, int64_t at_s);
enum rc gather_corrections(struct gather *g) SPW_MUST_USE;
enum rc gather_discounts(struct gather *g) SPW_MUST_USE;
enum rc gather_cost_centres(struct gather *g) SPW_MUST_USE;
/* Does "tenant=acme" speak of this cell? */
bool report_match(const char *subject, const struct report_cell *c);
/* gather_savings.c; after cells and machines are there */
enum rc gather_savings(struct gather *g) SPW_MUST_USE;

void report_use_add(struct report_use *to, const struct rollup *r);
void report_cost_add(struct report_cost *to, const struct node_hour *h);

#endif
