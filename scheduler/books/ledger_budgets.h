/* What the ledger keeps of budgets, so that they survive the scheduler: totals by budget and period, which change in
 * the same transaction as the rows that they are the sums of; holds, which are what running requests have been granted;
 * and every change that somebody made, with its date.
 *
 * `budgets` names instances and periods as lines "START NAME\n": the period's start in seconds since 1970, a blank, the
 * instance's name, which holds no line break. A row with such lines adds its charge to each of those totals and ends
 * the hold under its request_id. (A row that is a repeat of a known request_id does neither: its first did.) */
#ifndef SCHEDULER_BOOKS_LEDGER_BUDGETS_H
#define SCHEDULER_BOOKS_LEDGER_BUDGETS_H

#include "scheduler/books/ledger.h"

enum ledger_budget_kind {
    LEDGER_HOLD,      /* id has now been granted `amount` in all, from each of `budgets` */
    LEDGER_DROP,      /* id's hold ends, and nothing was spent */
    LEDGER_TOP_UP,    /* `amount` more in that period */
    LEDGER_CARRY_IN,  /* the period begins with `amount` of the one before */
    LEDGER_CARRY_OUT, /* and from that one it is taken */
    LEDGER_LIMITS,    /* hard = amount, soft: from now on, in all periods; -1: the configured one again */
};
struct ledger_budget_event { /* strings are copied */
    enum ledger_budget_kind kind;
    const char *id;      /* HOLD, DROP: the request's; else NULL */
    const char *budgets; /* lines; one line but for HOLD and DROP */
    struct pusd amount, soft;
    struct wall at;
};
/* As ledger_append(). The port's order holds between events and rows. */
enum rc ledger_append_budget(struct ledger_port *p, const struct ledger_budget_event *ev, ledger_done_cb *done,
                             void *arg) SPW_MUST_USE;

/* Takes the next of a text of lines. False: there is none (or it is none). name: not terminated, *n bytes. */
bool ledger_budget_line(const char **lines, int64_t *start_s, const char **name, size_t *n);

struct ledger_budget_total {
    const char *name;
    int64_t start_s;
    struct pusd spent, waste, carried_in, carried_out, topped_up;
};
struct ledger_budget_limits {
    const char *name;
    struct pusd hard, soft; /* -1: as configured */
};
struct ledger_budget_reader { /* strings are for the call; members may be NULL */
    void (*total)(const struct ledger_budget_total *t, void *arg);
    void (*limits)(const struct ledger_budget_limits *l, void *arg);
    void *arg;
};
/* Totals of periods that begin at since_s or later, and the limits that were set. No file: none. Blocks; at start. */
enum rc ledger_read_budgets(const char *path, int64_t since_s, const struct ledger_budget_reader *r,
                            struct error *e) SPW_MUST_USE;
/* Holds of a scheduler that is no more: what they were granted becomes spent, and waste, in one transaction. Before the
 * ledger is opened for writing, or at least before anything is held. *waste: what was booked, once per hold. Blocks. */
enum rc ledger_book_waste(const char *path, struct wall at, struct pusd_sum *waste, struct error *e) SPW_MUST_USE;

/* A budget that is new begins its period with what was spent before; where the period is known nothing is changed.
 * Before the ledger is opened for writing. Blocks. */
enum rc ledger_begin_budget(const char *path, const char *name, int64_t start_s, struct pusd spent,
                            struct error *e) SPW_MUST_USE;
/* What rows say was spent by requests like these since then; NULL: any. For a budget that is new. Blocks, reads every row. */
struct ledger_spender {
    const char *tenant, *team, *project, *user, *key_id, *model, *provider; /* provider: or a node's name */
    const char *const *tags;                                                /* "name=value" */
    int n_tags;
};
enum rc ledger_spent_since(const char *path, const struct ledger_spender *who, struct wall since, struct pusd *spent,
                           struct error *e) SPW_MUST_USE;

/* Newest first, at most `last` of one instance (NULL: of all). */
struct ledger_budget_change {
    struct wall at;
    const char *name, *change; /* "top_up", "set", "waste", "carry_over" */
    int64_t start_s;
    struct pusd amount, soft;
    const char *request_id; /* NULL: none */
};
enum rc ledger_read_budget_changes(const char *path, const char *name, int last,
                                   void (*each)(const struct ledger_budget_change *c, void *arg), void *arg,
                                   struct error *e) SPW_MUST_USE;

#endif
