/* Whether capacity can be had, and what it draws: recorded spot availability, power by batch size, and electricity by
 * the hour, read from CSV (plain or gzip) into plain tables. What instances cost is in price lists
 * (providers/catalogue.h).
 *
 * Tables own their text. One thread. Blocks (files). */
#ifndef SCHEDULER_SIMULATE_MARKET_H
#define SCHEDULER_SIMULATE_MARKET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/money.h"
#include "providers/catalogue.h"

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
