/* The cost report's model: everything that its pages and tables show, as numbers, gathered once for a period. Who
 * writes (report_write_*(): json, CSV, Markdown, HTML) does no sums of his own over the ledger.
 *
 *   ledger: hours, hour_rollups, node_hours, hour_charges, corrections, finance, budgets --+
 *   audit: the newest signed head ---------------------------------------------------------+--> report_gather()
 *   options: period, time zone, budget rules, reference prices ----------------------------+        |
 *                                                             report_write_csv/json/md/html <-- struct report
 *
 * Sources. Closed hours alone (books/rollup.h), each of which was verified against its rows when it closed; so the time
 * that a report takes does not grow with the rows. An hour that is not closed yet is missing, and the report says so
 * (`hours`). What finance corrected counts in the month that books/finance.h put it into, at the moment at which it was
 * corrected (or that month's end, where that is earlier), so that the parts of a month add up to it.
 *
 * Two amounts, never confused (docs/REPORTS.md):
 *   charge   what users are charged: tokens x prices, the ledger's charge_pusd
 *   cost     what machines and providers cost: bill = allocated + idle + boot + waste + variance, for every node and hour.
 *            Of a team, project or model: allocated + waste; idle, boot and variance are nobody's
 *
 * Time. A period is [from_s, until_s), UTC, whole hours. Days are those of the site's time zone: an hour belongs to the
 * day in which it begins there. Days and hours of a *window* are kept, which begins long before the period: for what
 * came before, trends and what is usual.
 *
 * Strings are the report's own and live as long as it does; NULL: not known, or none. Amounts are pico-dollars, sums of
 * them 128 bit; nothing is rounded but what is said to be. Blocks: worker threads and the command line. A report is
 * read-only once gathered, for any thread. */
#ifndef SCHEDULER_REPORT_REPORT_H
#define SCHEDULER_REPORT_REPORT_H

#include <stdio.h>

#include "base/clock.h"
#include "policies/period.h"
#include "scheduler/audit/chain.h"
#include "scheduler/books/rollup.h"
#include "scheduler/budgets/rules.h"

/* ---- the period --------------------------------------------------------------------------------------------------- */

struct report_period {
    int64_t from_s, until_s;
    int64_t before_s,
        before_until_s; /* what it is compared with: the calendar month, or as many days, before; of a period
                                         that is not over, as much of it */
    char name[48];      /* of files and titles: "2026-11-28", "2026-11", "2026-11-01..2026-11-08" */
};
/* "yesterday", "today", "month" (so far), "2026-11", "2026-11-28", "A..B" from the beginning of A to the beginning of
 * B, both days or both months; in the zone (NULL: UTC). RC_INVALID: none of these, or B is not after A. What lies after
 * now_s is cut off, at a whole hour; nothing is left of it: RC_INVALID. */
enum rc report_period_parse(const char *text, const struct zone *zone, int64_t now_s, struct report_period *p,
                            struct error *e) SPW_MUST_USE;

/* ---- what is asked ------------------------------------------------------------------------------------------------ */

/* What the same would have cost elsewhere; the newest of finance kind "reference" that holds at the period's end goes
 * before these. Borrowed for the call. */
struct report_reference {
    const char *subject; /* model: its prices by the token; node or pool: an on-demand machine's price per hour */
    bool by_hour;
    struct token_prices prices;
    struct pusd hour;
    const char *source; /* in words: "node openai of the configuration" */
};
struct report_options {
    const char *ledger;    /* the file */
    const char *audit_dir; /* NULL: the audit's head is not shown */
    const char *audit_key; /* NULL: DIR/key.pem */
    const char *site;      /* in titles; NULL: "Spillway" */
    const char *zone_name; /* NULL: "UTC" */
    const struct zone *zone;
    struct report_period period;
    struct wall now;
    const char *team;                /* that one's share alone; NULL: everything */
    const struct budget_rule *rules; /* budgets as configured */
    int n_rules;
    const struct report_reference *references;
    int n_references;
};

/* ---- sums --------------------------------------------------------------------------------------------------------- */

struct report_use { /* of requests that were finished, and what was allocated to requests */
    int64_t requests, failed, cancelled, streamed, continuations, cached; /* cached: answered without computing */
    struct token_counts tokens;
    int64_t tokens_reasoning;
    struct pusd_sum charge; /* without corrections */
    struct pusd_sum saved;  /* what the cached answers would have been charged */
    struct pusd_sum allocated, waste;
    int64_t busy_us, millijoules;
};
struct report_cost {                             /* of machines and providers; all 0 where a team is asked for */
    struct pusd_sum bill, fixed, energy, tokens; /* bill = fixed + energy + tokens */
    struct pusd_sum allocated, idle, boot, waste, variance; /* ... = the sum of these */
    int64_t paid_us, busy_us, waste_us, idle_us, boot_us, asleep_us;
    int64_t energy_mj, metered_mj, modelled_mj, busy_mj, idle_mj, boot_mj; /* energy: metered + modelled + not known */
    int64_t legs, preempted; /* preempted: a machine's end cut an answer, which went on elsewhere */
};
/* Where `tokens` counts, these are input (cached too) and output. */
int64_t report_tokens(const struct report_use *u);
/* Of an amount, per million tokens; rounded down. 0 where there are no tokens. */
struct pusd_sum report_per_million(struct pusd_sum amount, int64_t tokens);
/* part / whole in millionths, rounded to nearest; whole 0: 0. */
int64_t report_ppm(struct pusd_sum part, struct pusd_sum whole);

/* ---- by what ------------------------------------------------------------------------------------------------------ */

enum report_dim { REPORT_TEAM, REPORT_PROJECT, REPORT_MODEL, REPORT_PROVIDER, REPORT_POOL, REPORT_MARKET, REPORT_DIMS };
const char *report_dim_name(enum report_dim d); /* "team", ... */

struct report_point {
    int64_t charge,
        cost; /* pico-dollars; charge without corrections. cost: of a team, project or model allocated + waste;
                             of a provider, pool, market and of all: the bill */
    int64_t tokens, requests;
};
struct report_member {
    const char *name; /* NULL: nobody's, or not known: report_member_name() */
    bool others;      /* all beyond REPORT_MEMBERS_MAX */
    struct report_use use, use_before;
    struct report_cost cost, cost_before; /* of providers, pools, markets; else 0 */
    struct pusd_sum corrected, corrected_before;
    const struct report_point *days, *hours; /* n_days, n_hours of the report */
};
#define REPORT_MEMBERS_MAX 400
struct report_axis {
    const struct report_member *of; /* by charge + cost of the period, the largest first; `others` last */
    int n;
};
/* "(no team)", "(other teams)" where there is no name. */
const char *report_member_name(enum report_dim d, const struct report_member *m);
/* A member's cost in the period (before: in the one before): as report_point says. */
struct pusd_sum report_member_cost(enum report_dim d, const struct report_member *m);
struct pusd_sum report_member_cost_before(enum report_dim d, const struct report_member *m);

struct report_day {
    int64_t start_s, end_s; /* clocks change: 23 to 25 hours; the window's first and the period's last may be cut */
    int64_t month_s, month_end_s; /* the calendar month that it is of, in the site's zone */
    int64_t local_s;              /* midnight of its date, as if the site's time were UTC */
};

/* ---- details ------------------------------------------------------------------------------------------------------ */

/* A day's sums of what is alike in all these: the rows of the CSV. */
struct report_cell {
    int day; /* of report.days */
    const char *tenant, *team, *project, *tags, *model, *pool, *provider, *market, *domain, *cache;
    struct token_prices prices; /* that each token was charged by, unless the client's own bound cut the charge */
    int64_t price_version;
    struct report_use use;
};
struct report_node_day { /* a machine's day */
    int day;
    const char *node, *pool, *provider, *market, *domain;
    struct report_cost cost;
};
/* What one request of a model costs, and a million of its tokens, by pool. Of answers that came whole. */
struct report_unit {
    const char *model, *pool; /* pool NULL: all of them */
    int64_t requests;      /* that were answered whole; 0: percentiles are not known (of a team alone they never are) */
    struct pusd p50, p99;  /* charge of a request: the middle of its bucket, at most 12.5 % off */
    struct report_use use; /* of all requests */
};
struct report_budget {
    const char *name, *rule;
    int64_t start_s, end_s; /* its period that holds the report's last hour */
    enum period_kind kind;
    struct pusd hard, soft;   /* in force: configured or set; BUDGET_UNLIMITED: none */
    struct pusd limit;        /* hard + carried in - carried out + topped up; BUDGET_UNLIMITED: none */
    struct pusd spent, waste; /* by the budget's own books, now (waste: slices of schedulers that died) */
    struct pusd_sum rolled;   /* by closed hours of its period, up to the report's end; what `days` end with */
    const struct pusd_sum
        *days;               /* spent by the end of each of its days; n_days; NULL: its users are not in the roll-ups */
    int n_days, days_in_all; /* that have begun; that the period has */
    bool covers_all;         /* every request falls under it */
};
enum report_saving_kind { REPORT_ALL_API, REPORT_ALL_ON_DEMAND, REPORT_SPOT, REPORT_CACHE, REPORT_SAVINGS };
struct report_saving {
    struct pusd_sum would, is, saved; /* saved = would - is; below 0: it cost more */
    struct pusd_sum would_least;      /* all on demand: if nothing were paid for idle time; else = would */
    int64_t known_ppm;                /* share (of tokens, of paid machine time) for which there is a reference price */
    const char *assumption;           /* in words */
};
struct report_price_used { /* what a saving was reckoned with */
    const char *subject, *source;
    bool by_hour;
    struct token_prices prices;
    struct pusd hour;
};
struct report_correction {
    int64_t at_s; /* when it counts, of the period */
    int64_t version;
    const char *request_id, *tenant, *team, *project, *model, *provider, *reason;
    struct pusd charge;
};
struct report_discount {              /* on statements: the ledger's charges are before it */
    const char *subject;              /* "tenant=acme", "provider=x" */
    const int64_t *ppm;               /* by day of the report; in millionths */
    struct pusd_sum charge, discount; /* of whom it holds for, in the period; discount: rounded down, by cell */
};
struct report_cost_centre {
    const char *subject, *code; /* "team=search", "4711" */
};
struct report_hours {          /* are the numbers whole? Of hours in which anything was, of the period */
    int64_t closed, open;      /* open: not closed yet, and not in the report */
    int64_t wrong;             /* closed, but with problems */
    int64_t first_open_s;      /* 0: none is open */
    int64_t first_wrong_s;     /* 0: none is wrong */
    const char *first_problem; /* its problems, one per line */
    int64_t closed_until_s;    /* end of the newest closed hour of the window; 0: none */
};

/* ---- the report --------------------------------------------------------------------------------------------------- */

struct report {
    const char *site, *zone_name, *team;
    struct report_period period;
    struct wall made;

    struct report_use use, use_before;
    struct report_cost cost, cost_before;
    struct pusd_sum corrected, corrected_before;
    struct report_use unallocated;       /* of requests that no team is known of */
    int64_t month_from_s, month_until_s; /* the calendar month that holds the period's last hour, in the site's zone */
    struct report_use month;             /* ... up to the period's end */
    struct report_cost month_cost;
    struct pusd_sum month_corrected;

    struct report_axis axes[REPORT_DIMS];
    struct report_day *days;          /* of the window */
    int n_days, day_from, day_before; /* the period's first; the first of what came before */
    struct report_point *all_days;
    int64_t hour0_s; /* hours[i] begins at hour0_s + 3600 i; the last ends with the period. At most REPORT_HOURS_MAX */
    int n_hours, hour_from; /* the period's first, or 0 where the period is longer */
    struct report_point *all_hours;

    const struct report_cell *cells; /* of the period's days, in order of day, then of money */
    int n_cells;
    const struct report_node_day *node_days; /* by day and node */
    int n_node_days;
    const struct report_unit *units; /* by charge; of each model all pools first */
    int n_units;
    const struct report_budget *budgets; /* those that cover all first, then by name */
    int n_budgets;
    struct report_saving savings[REPORT_SAVINGS];
    const struct report_price_used *prices_used;
    int n_prices_used;
    const struct report_correction *corrections;
    int n_corrections;
    const struct report_discount *discounts;
    int n_discounts;
    const struct report_cost_centre *cost_centres;
    int n_cost_centres;
    struct report_hours hours;

    bool has_head; /* of the audit's chain, verified */
    struct audit_head head;
    const char *head_why; /* there is none: why not; NULL: it was not asked for */

    struct arena *arena; /* owns all of the above */
};
#define REPORT_HOURS_MAX (24 * 63)

/* RC_NOT_FOUND: there is no ledger there. RC_FULL: more cells or budgets than can be. *r: report_free(). */
enum rc report_gather(struct report **r, const struct report_options *o, struct error *e) SPW_MUST_USE;
void report_free(struct report *r); /* NULL is fine */
/* The code of the cost centre that a team, project, key or tenant belongs to; NULL: none. */
const char *report_cost_centre(const struct report *r, const char *tenant, const char *team, const char *project);

/* ---- written ------------------------------------------------------------------------------------------------------ */

/* All of them: RC_IO where `out` fails (the caller closes it). docs/REPORTS.md says what is in them. */
enum rc report_write_json(const struct report *r, FILE *out, struct error *e) SPW_MUST_USE;
enum rc report_write_md(const struct report *r, FILE *out, struct error *e) SPW_MUST_USE;
enum report_focus { REPORT_FOCUS_1_4, REPORT_FOCUS_1_2 };
enum rc report_write_csv(const struct report *r, enum report_focus version, FILE *out, struct error *e) SPW_MUST_USE;
/* html.c: one self-contained page. */
enum rc report_write_html(const struct report *r, FILE *out, struct error *e) SPW_MUST_USE;

#endif
