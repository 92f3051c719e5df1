/* What capacity costs and whether it can be had: prices of instances, recorded spot availability, power by batch size, and
 * electricity by the hour, read from CSV (plain or gzip) into plain tables.
 *
 * Price lists are dirty. A row's doubtful figures are not used, its flags say why, and the table counts them, so that a
 * report can say what it left out; what can't be read at all is an error with file and line.
 *
 * Tables own their text. One thread. Blocks (files). */
#ifndef SCHEDULER_SIMULATE_MARKET_H
#define SCHEDULER_SIMULATE_MARKET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/money.h"

/* --- prices of instances -------------------------------------------------------------------------------------- */

enum price_flag {
    PRICE_NO_ONDEMAND = 1 << 0,
    PRICE_NO_SPOT = 1 << 1,
    PRICE_SPOT_EQ_ONDEMAND = 1 << 2, /* no discount: a list price, not a market */
    PRICE_SPOT_GT_ONDEMAND = 1 << 3,
    PRICE_SPOT_FLOOR = 1 << 4,       /* exactly a tenth of the list price: a place holder */
    PRICE_SUSPECT_ONDEMAND = 1 << 5, /* looks like a price for a commitment */
    PRICE_HOST_APART = 1 << 6,       /* the GPU alone; its host has a row of its own */
    PRICE_HOST_ONLY = 1 << 7,        /* and this is one */
    PRICE_UNKNOWN_FLAG = 1 << 8,     /* a word of the file that we do not know: nothing of the row is used */
};
#define PRICE_N_FLAGS 9
const char *price_flag_name(int bit);

struct price_row {
    const char *cloud, *type, *accelerator, *region, *zone; /* "" where the file has none */
    int accelerators;
    struct pusd on_demand_h, spot_h; /* per hour of the whole instance, host included; v < 0: none that can be used */
    unsigned flags;                  /* enum price_flag */
    int line;
};
struct price_table {
    struct price_row *rows;
    int n;
    int flagged[PRICE_N_FLAGS];          /* rows by flag */
    int without_on_demand, without_spot; /* rows of which no such price is used */
    struct arena *arena;
};
/* Columns by their names: cloud, instance_type, accelerator, accelerator_count, region, zone, price_usd_h, spot_usd_h, flags.
 * Rows of a GPU alone get their host's price added (the host type of the same region that fits its name); without one
 * neither price is used. */
enum rc price_table_read(struct price_table *t, const char *path, struct error *e) SPW_MUST_USE;
void price_table_fini(struct price_table *t);
enum price_market { PRICE_ON_DEMAND, PRICE_SPOT };
/* The cheapest usable row that fits; NULL or "" as cloud, type, accelerator, region, zone fits all, accelerators 0 too. NULL: none. */
const struct price_row *price_cheapest(const struct price_table *t, const struct price_row *like,
                                       enum price_market market);
/* Over the usable rows that fit: how many, and the least, median and greatest price. */
struct price_spread {
    int n;
    struct pusd least, median, greatest;
};
struct price_spread price_spread(const struct price_table *t, const struct price_row *like, enum price_market market);

/* --- spot availability ---------------------------------------------------------------------------------------- */

struct spot_run {
    int64_t start_us;  /* since the series' start */
    int32_t available; /* of `nodes` that were asked for */
};
struct spot_series {
    const char *collection, *zone; /* "aws-02-15-2023", "us-west-2a_v100_1" */
    bool preemption;               /* recorded by holding instances, not by asking for them */
    int nodes;
    int64_t span_us;
    struct spot_run *runs;
    int n_runs;
    int losses;   /* runs with fewer than the one before */
    double share; /* mean of available / nodes over time */
};
struct spot_table {
    struct spot_series *series;
    int n;
    struct arena *arena;
};
/* Columns kind, nodes, collection, zone_gpu, gap_s, start_tick, length_ticks, available. */
enum rc spot_table_read(struct spot_table *t, const char *path, struct error *e) SPW_MUST_USE;
void spot_table_fini(struct spot_table *t);
/* collection NULL: any; the first that fits, or NULL. */
const struct spot_series *spot_find(const struct spot_table *t, const char *collection, const char *zone);
/* How many are available then, and until when that holds (> at_us). at_us >= 0; past its end a series starts again. */
int32_t spot_at(const struct spot_series *s, int64_t at_us, int64_t *until_us);

/* --- power by batch size -------------------------------------------------------------------------------------- */

struct power_row { /* measured, steady state */
    const char *task, *model, *gpu;
    int gpus, max_seqs;
    double batch, output_tokens_s, watts, itl_ms, itl_ms_p99; /* of all GPUs together */
    int line;
};
struct power_table {
    struct power_row *rows;
    int n;
    struct arena *arena;
};
/* Columns by name: model_id, gpu_model, num_gpus, max_num_seqs, avg_batch_size, output_throughput_tokens_per_sec,
 * avg_power_watts, median_itl_ms, and, if there, task, p99_itl_ms. Sorted by model, gpu, gpus, task, batch. */
enum rc power_table_read(struct power_table *t, const char *path, struct error *e) SPW_MUST_USE;
void power_table_fini(struct power_table *t);
/* The rows of one configuration, by rising batch; task NULL: the first task that has it. n 0: none. */
const struct power_row *power_rows(const struct power_table *t, const char *model, const char *gpu, int gpus,
                                   const char *task, int *n);

/* --- electricity ---------------------------------------------------------------------------------------------- */

struct electricity {         /* one zone, by hours from `start_unix_s` on */
    int64_t *uusd_per_kwh;   /* owned; micro-dollars, may be negative */
    int32_t *mg_co2_per_kwh; /* owned; NULL: the file has none for this zone */
    int n;
    int64_t start_unix_s;
    int gaps; /* hours that the file leaves empty: the hour before counts for them */
};
/* Column hour_utc ("2024-01-01 00") and price_usd_mwh_ZONE; gco2_kwh_lca_ZONE if it is there. */
enum rc electricity_read(struct electricity *t, const char *path, const char *zone, struct error *e) SPW_MUST_USE;
void electricity_fini(struct electricity *t);
/* Past its end it starts again. */
int64_t electricity_at(const struct electricity *t, int64_t unix_s);

#endif
