/* What pages show: plain data, copied from whoever knows it, so that pages are written by pure functions. Strings and
 * arrays live in `arena` unless it says otherwise; "" and 0 where nothing is known. Amounts are pico-dollars, times
 * seconds since 1970 in UTC. */
#ifndef SCHEDULER_UI_FACTS_H
#define SCHEDULER_UI_FACTS_H

#include "base/alloc.h"
#include "policies/budget.h"
#include "scheduler/audit/audit.h"
#include "scheduler/front/explain.h"
#include "scheduler/front/front.h"
#include "scheduler/report/report.h"
#include "scheduler/ui/files.h"

#define FACTS_BYTES_MAX     ((size_t)64 << 20)
#define FACTS_NODES_MAX     1000
#define FACTS_ROUTES_MAX    512
#define FACTS_DECISIONS_MAX 50
#define FACTS_BUDGETS_MAX   500

enum facts_mood { FACTS_WELL, FACTS_BETWEEN, FACTS_RESTING, FACTS_ILL };
struct facts_node {
    const char *name, *provider, *pool, *models, *state, *reason;
    enum facts_mood mood;
    bool local, rented;
    int in_flight, slots; /* slots 0: unbounded */
    struct token_prices prices;
    struct pusd hour; /* of a rented one */
    int64_t milliwatts;
    enum node_watts watts_are;
    int64_t since_s; /* in this state; 0: not known */
    uint64_t requests, failures;
};
/* What an hour like this moment costs. Rents and energy are of now; what is written off, and what APIs ask, as in the
 * newest closed hour. */
struct facts_rate {
    struct pusd_sum rents, energy, standing, by_token;
    int64_t milliwatts; /* on the premises */
    int unmeasured;     /* nodes on the premises that draw nobody knows what */
};
struct facts_budget {
    const char *name;
    enum period_kind kind;
    int64_t start_s, end_s, exhausted_s;                 /* exhausted_s: forecast; -1: not in this period */
    struct pusd soft, limit, spent, reserved, available; /* BUDGET_UNLIMITED: no such limit */
    enum budget_level level;
};
struct facts_audit {
    bool on;
    struct audit_stats stats;
    struct audit_head head;
    char fingerprint[80], error[256];
};
/* Of the ledger's closed hours; shared by several pages, read-only. */
struct facts_month {
    struct report *report; /* NULL: there is none, and `why` */
    char why[200];
    struct pusd_sum standing, by_token; /* of the newest closed hour: see facts_rate */
    int64_t last_hour_s;                /* that hour; 0: none is closed */
};

struct facts {
    struct arena *arena;
    struct wall now;
    const char *version;
    bool ready, draining;
    const char *why_not; /* static */
    struct front_totals totals;
    struct facts_rate rate;
    struct facts_node *nodes;
    int n_nodes, n_nodes_in_all, n_by_mood[4];
    struct front_route *routes;
    int n_routes;
    struct explain_record *decisions;
    int n_decisions, decisions_kept; /* kept: how many are at most */
    struct facts_budget *budgets;
    int n_budgets;
    const char *budgets_why; /* they cannot be read: why not; NULL: they were */
    struct facts_audit audit;
    const struct facts_month *month; /* borrowed; NULL: it was not asked for */
    struct files files;
};

struct facts_sources { /* borrowed */
    const struct config *config;
    struct front *front;
    struct fleet *fleet;
    struct audit *audit;
    const struct clock *clock;
    const struct facts_month *month;
};
/* What can be told at once. request_id: decisions about this one alone; NULL: the newest. facts->arena is there. */
void facts_gather(struct facts *f, const struct facts_sources *s, const char *request_id);
/* What the store of budgets has told. */
struct budget_known;
void facts_take_budgets(struct facts *f, enum rc rc, const char *why, const struct budget_known *k, int n);

#endif
