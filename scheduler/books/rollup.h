/* Closed hours, as reports read them: sums by hour, so that no report's time grows with the rows. Written once, in one
 * transaction, when the hour closes (closing.h), and compared with their rows in that very transaction.
 *
 *   hours          one row per closed hour: its sums, and what did not agree (NULL: all did)
 *   node_hours     one per node and hour: the bill in its parts, and where it went; see close.h
 *   hour_rollups   requests that were finished in the hour, and what was allocated in it, by whose and what they were.
 *                  User ids are not a dimension: there may be as many as there are requests. Reports by user read rows.
 *                  A view of hour_sums (the figures) and rollup_kinds (whose and what, each once in the file)
 *   hour_charges   how many requests of a model and pool were charged how much: for percentiles
 *   corrections    by month (finance.h): never part of a closed hour
 *
 * All amounts are pico-dollars, all times UTC; an hour is [hour_s, hour_s + 3600). Strings live for the call. NULL:
 * none. Readers open the file read-only; they block: command line and worker threads only. No file: no rows. */
#ifndef SCHEDULER_BOOKS_ROLLUP_H
#define SCHEDULER_BOOKS_ROLLUP_H

#include "base/clock.h"
#include "base/money.h"

struct rollup {
    int64_t hour_s;
    int kind; /* the same for the same whose and what below; from 0, in the order of their coming in this reading */
    const char *tenant, *team, *project, *key_id, *tags; /* tags: ",name=value,name=value," */
    const char *model, *pool, *node, *provider, *market, *domain;
    const char *service_class, *cache; /* cache: "hit", "collapsed", NULL: computed */
    struct token_prices prices; /* that each token of it was charged by, unless the client's own bound cut the charge */
    int64_t price_version;
    int64_t requests, failed, cancelled, streamed, continuations; /* requests: all of them */
    struct token_counts tokens;
    int64_t tokens_reasoning;
    struct pusd charge, saved;
    struct pusd allocated, waste; /* of nodes' bills, in this hour, for requests that may end in another one */
    int64_t busy_us, millijoules; /* likewise */
};
/* In the order of hours. Here strings live until the reading's end. */
enum rc rollup_read(const char *path, int64_t from_s, int64_t until_s, void (*each)(const struct rollup *r, void *arg),
                    void *arg, struct error *e) SPW_MUST_USE;

enum books_energy { BOOKS_ENERGY_UNKNOWN, BOOKS_ENERGY_MODELLED, BOOKS_ENERGY_METERED };
struct node_hour {
    int64_t hour_s;
    const char *node, *pool, *provider, *market, *domain;
    struct pusd bill, fixed, energy, tokens; /* bill = fixed + energy + tokens */
    struct pusd allocated, idle, boot, waste, variance;
    const char *why; /* of a variance that is not nothing */
    int64_t paid_us, busy_us, waste_us, idle_us, boot_us, asleep_us;
    int64_t energy_mj, busy_mj, idle_mj, boot_mj;
    enum books_energy energy_is;
    int64_t legs, preempted; /* legs that were served here; of them, ended by the machine's end and gone on elsewhere */
};
enum rc rollup_read_nodes(const char *path, int64_t from_s, int64_t until_s,
                          void (*each)(const struct node_hour *h, void *arg), void *arg, struct error *e) SPW_MUST_USE;

struct closed_hour {
    int64_t hour_s;
    struct wall closed;
    int64_t requests;
    struct token_counts tokens;
    struct pusd charge, saved, bill, allocated, idle, boot, waste, variance;
    const char *problems; /* in words, one per line; NULL: it closes */
};
enum rc rollup_read_hours(const char *path, int64_t from_s, int64_t until_s,
                          void (*each)(const struct closed_hour *h, void *arg), void *arg,
                          struct error *e) SPW_MUST_USE;

/* Buckets of charges: four to each doubling, so that a middle is at most 12.5 % from its bounds; 0 is nothing at all. */
int rollup_bucket(struct pusd charge);
struct pusd rollup_bucket_middle(int bucket);
struct charge_count {
    int64_t hour_s;
    const char *model, *pool;
    int bucket;
    int64_t n;
};
enum rc rollup_read_charges(const char *path, int64_t from_s, int64_t until_s,
                            void (*each)(const struct charge_count *c, void *arg), void *arg,
                            struct error *e) SPW_MUST_USE;

#endif
