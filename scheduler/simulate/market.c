/* Readers of recorded spot availability, measured power, and electricity by the hour. */
#include "scheduler/simulate/market.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/lines.h"
#include "base/text.h"

#define TABLE_BYTES_MAX ((size_t)256 << 20)
#define ROWS_MAX        10000000

/* Room for one more in an array that doubles. */
static void *room(void *rows, int n, size_t size)
{
    return (n & (n - 1)) == 0 ? spw_realloc(rows, size * (size_t)(n ? n * 2 : 1)) : rows;
}

static const char *keep(struct arena *a, const struct csv *c, int column)
{
    const char *text = column < 0 ? "" : c->fields[column];
    return arena_strndup(a, text, strlen(text));
}

static enum rc too_large(const struct csv *c, struct error *e)
{
    return lines_error(&c->lines, e, RC_FULL, "the table is larger than %zu bytes", TABLE_BYTES_MAX);
}

struct wanted_column {
    const char *name;
    int *column;
};

static enum rc find_all(const struct csv *c, const struct wanted_column *w, int n, struct error *e)
{
    for (int i = 0; i < n; i++) {
        enum rc rc = csv_need(c, w[i].name, w[i].column, e);
        if (rc != RC_OK)
            return rc;
    }
    return RC_OK;
}

/* --- spot availability --------------------------------------------------------------------------------------------- */

struct spot_columns {
    int kind, nodes, collection, zone, gap, start, length, available;
};
struct spot_row {
    int64_t nodes, gap_s, start, length, available;
};

static enum rc read_spot_row(const struct csv *c, const struct spot_columns *k, struct spot_row *r, struct error *e)
{
    enum rc rc = csv_int(c, k->nodes, 1, 1000000, &r->nodes, e);

    if (rc == RC_OK)
        rc = csv_int(c, k->gap, 1, 86400 * 31, &r->gap_s, e);
    if (rc == RC_OK)
        rc = csv_int(c, k->start, 0, 1000000000, &r->start, e);
    if (rc == RC_OK)
        rc = csv_int(c, k->length, 1, 1000000000, &r->length, e);
    if (rc == RC_OK)
        rc = csv_int(c, k->available, 0, r->nodes, &r->available, e);
    return rc;
}

/* The series that the row belongs to: the last one, or a new one. */
static enum rc series_of(struct spot_table *t, const struct csv *c, const struct spot_columns *k,
                         const struct spot_row *r, struct spot_series **s, struct error *e)
{
    *s = t->n ? &t->series[t->n - 1] : NULL;
    if (*s && strcmp((*s)->collection, c->fields[k->collection]) == 0 && strcmp((*s)->zone, c->fields[k->zone]) == 0 &&
        (*s)->nodes == r->nodes)
        return RC_OK;
    bool preemption = strcasecmp(c->fields[k->kind], "preemption") == 0;
    if (!preemption && strcasecmp(c->fields[k->kind], "availability") != 0)
        return lines_error(&c->lines, e, RC_INVALID, "kind: \"%.40s\" is none; availability and preemption are",
                           c->fields[k->kind]);
    t->series = room(t->series, t->n, sizeof *t->series);
    *s = &t->series[t->n];
    **s = (struct spot_series){.collection = keep(t->arena, c, k->collection),
                               .zone = keep(t->arena, c, k->zone),
                               .preemption = preemption,
                               .nodes = (int)r->nodes};
    if (!(*s)->collection || !(*s)->zone)
        return too_large(c, e);
    t->n++;
    return RC_OK;
}

static enum rc add_run(struct spot_series *s, const struct csv *c, const struct spot_row *r, struct error *e)
{
    int64_t tick_us = r->gap_s * 1000000;

    if (r->start * tick_us != s->span_us)
        return lines_error(&c->lines, e, RC_INVALID, "the run starts at tick %lld; the ones before end at tick %lld",
                           (long long)r->start, (long long)(s->span_us / tick_us));
    int before = s->n_runs ? s->runs[s->n_runs - 1].available : 0;
    s->losses += r->available < before;
    s->share += (double)(r->available * r->length * r->gap_s) / (double)s->nodes;
    s->span_us += r->length * tick_us;
    if (s->n_runs && r->available == before)
        return RC_OK; /* goes on */
    s->runs = room(s->runs, s->n_runs, sizeof *s->runs);
    s->runs[s->n_runs++] = (struct spot_run){r->start * tick_us, (int32_t)r->available};
    return RC_OK;
}

static enum rc read_spot(struct spot_table *t, struct csv *c, struct error *e)
{
    struct spot_columns k;
    const struct wanted_column wanted[] = {
        {"kind", &k.kind}, {"nodes", &k.nodes},      {"collection", &k.collection}, {"zone_gpu", &k.zone},
        {"gap_s", &k.gap}, {"start_tick", &k.start}, {"length_ticks", &k.length},   {"available", &k.available},
    };
    struct spot_row row;
    struct spot_series *s;
    enum rc rc = find_all(c, wanted, (int)(sizeof wanted / sizeof wanted[0]), e);

    while (rc == RC_OK && (rc = csv_next(c, e)) == RC_OK) {
        rc = read_spot_row(c, &k, &row, e);
        if (rc == RC_OK)
            rc = series_of(t, c, &k, &row, &s, e);
        if (rc == RC_OK)
            rc = add_run(s, c, &row, e);
    }
    return rc == RC_NOT_FOUND ? RC_OK : rc;
}

enum rc spot_table_read(struct spot_table *t, const char *path, struct error *e)
{
    struct csv c;

    *t = (struct spot_table){0};
    enum rc rc = csv_open(&c, path, e);
    if (rc != RC_OK)
        return rc;
    t->arena = arena_new(TABLE_BYTES_MAX);
    rc = read_spot(t, &c, e);
    csv_close(&c);
    if (rc != RC_OK)
        spot_table_fini(t);
    for (int i = 0; rc == RC_OK && i < t->n; i++)
        t->series[i].share /= (double)t->series[i].span_us / 1e6;
    return rc;
}

void spot_table_fini(struct spot_table *t)
{
    for (int i = 0; i < t->n; i++)
        free(t->series[i].runs);
    free(t->series);
    arena_free(t->arena);
    *t = (struct spot_table){0};
}

const struct spot_series *spot_find(const struct spot_table *t, const char *collection, const char *zone)
{
    for (int i = 0; i < t->n; i++)
        if ((!collection || strcmp(t->series[i].collection, collection) == 0) && strcmp(t->series[i].zone, zone) == 0)
            return &t->series[i];
    return NULL;
}

int32_t spot_at(const struct spot_series *s, int64_t at_us, int64_t *until_us)
{
    int64_t round = at_us / s->span_us * s->span_us, within = at_us - round;
    int lo = 0, hi = s->n_runs - 1;

    while (lo < hi) { /* the last run that starts no later */
        int mid = (lo + hi + 1) / 2;
        if (s->runs[mid].start_us <= within)
            lo = mid;
        else
            hi = mid - 1;
    }
    *until_us = round + (lo + 1 < s->n_runs ? s->runs[lo + 1].start_us : s->span_us);
    return s->runs[lo].available;
}

/* --- power by batch size --------------------------------------------------------------------------------------------- */

struct power_columns {
    int task, model, gpu, gpus, max_seqs, batch, rate, watts, itl, itl_p99; /* task, itl_p99: -1 where there is none */
};

static enum rc read_power_row(struct power_table *t, const struct csv *c, const struct power_columns *k,
                              struct power_row *r, struct error *e)
{
    int64_t gpus, seqs;
    enum rc rc = csv_int(c, k->gpus, 1, 4096, &gpus, e);

    *r = (struct power_row){.task = keep(t->arena, c, k->task),
                            .model = keep(t->arena, c, k->model),
                            .gpu = keep(t->arena, c, k->gpu),
                            .line = (int)c->lines.line};
    if (!r->task || !r->model || !r->gpu)
        return too_large(c, e);
    if (rc == RC_OK)
        rc = csv_int(c, k->max_seqs, 1, 1000000, &seqs, e);
    if (rc == RC_OK)
        rc = csv_double(c, k->batch, 0, 1e6, &r->batch, e);
    if (rc == RC_OK)
        rc = csv_double(c, k->rate, 0, 1e9, &r->output_tokens_s, e);
    if (rc == RC_OK)
        rc = csv_double(c, k->watts, 0, 1e7, &r->watts, e);
    if (rc == RC_OK)
        rc = csv_double(c, k->itl, 0, 1e7, &r->itl_ms, e);
    if (rc == RC_OK && k->itl_p99 >= 0 && c->fields[k->itl_p99][0])
        rc = csv_double(c, k->itl_p99, 0, 1e7, &r->itl_ms_p99, e);
    if (rc == RC_OK) {
        r->gpus = (int)gpus;
        r->max_seqs = (int)seqs;
    }
    return rc;
}

static int same_power(const struct power_row *x, const struct power_row *y)
{
    int d = strcmp(x->model, y->model);

    d = d ? d : strcmp(x->gpu, y->gpu);
    d = d ? d : (x->gpus > y->gpus) - (x->gpus < y->gpus);
    return d ? d : strcmp(x->task, y->task);
}

static int by_configuration(const void *a, const void *b)
{
    const struct power_row *x = a, *y = b;
    int d = same_power(x, y);

    d = d ? d : (x->batch > y->batch) - (x->batch < y->batch);
    return d ? d : x->line - y->line;
}

static enum rc read_power(struct power_table *t, struct csv *c, struct error *e)
{
    struct power_columns k;
    const struct wanted_column wanted[] = {
        {"model_id", &k.model},        {"gpu_model", &k.gpu},        {"num_gpus", &k.gpus},
        {"max_num_seqs", &k.max_seqs}, {"avg_batch_size", &k.batch}, {"output_throughput_tokens_per_sec", &k.rate},
        {"avg_power_watts", &k.watts}, {"median_itl_ms", &k.itl},
    };
    enum rc rc = find_all(c, wanted, (int)(sizeof wanted / sizeof wanted[0]), e);

    k.task = csv_find(c, "task");
    k.itl_p99 = csv_find(c, "p99_itl_ms");
    while (rc == RC_OK && (rc = csv_next(c, e)) == RC_OK) {
        if (t->n == ROWS_MAX)
            return too_large(c, e);
        t->rows = room(t->rows, t->n, sizeof *t->rows);
        rc = read_power_row(t, c, &k, &t->rows[t->n], e);
        t->n += rc == RC_OK;
    }
    return rc == RC_NOT_FOUND ? RC_OK : rc;
}

enum rc power_table_read(struct power_table *t, const char *path, struct error *e)
{
    struct csv c;

    *t = (struct power_table){0};
    enum rc rc = csv_open(&c, path, e);
    if (rc != RC_OK)
        return rc;
    t->arena = arena_new(TABLE_BYTES_MAX);
    rc = read_power(t, &c, e);
    csv_close(&c);
    if (rc != RC_OK)
        power_table_fini(t);
    else if (t->n)
        qsort(t->rows, (size_t)t->n, sizeof *t->rows, by_configuration);
    return rc;
}

void power_table_fini(struct power_table *t)
{
    free(t->rows);
    arena_free(t->arena);
    *t = (struct power_table){0};
}

const struct power_row *power_rows(const struct power_table *t, const char *model, const char *gpu, int gpus,
                                   const char *task, int *n)
{
    const struct power_row *first = NULL;

    *n = 0;
    for (int i = 0; i < t->n; i++) {
        const struct power_row *r = &t->rows[i];
        if (!first && strcasecmp(r->model, model) == 0 && strcasecmp(r->gpu, gpu) == 0 && r->gpus == gpus &&
            (!task || strcmp(r->task, task) == 0))
            first = r;
        if (!first)
            continue;
        if (same_power(first, r) != 0)
            break;
        ++*n;
    }
    return first;
}

/* --- electricity ------------------------------------------------------------------------------------------------------ */

static enum rc read_hour(const struct csv *c, int64_t *unix_s, struct error *e)
{
    char text[32];
    const char *hour = c->fields[0];

    snprintf(text, sizeof text, "%.10sT%.2s:00:00Z", hour, strlen(hour) == 13 ? hour + 11 : "??");
    if (text_parse_utc(text, unix_s) != RC_OK)
        return lines_error(&c->lines, e, RC_INVALID, "%s: \"%.40s\" is no hour; write 2024-01-31 23 (UTC)", c->names[0],
                           hour);
    return RC_OK;
}

static enum rc read_electricity_row(struct electricity *t, const struct csv *c, int price, int carbon, struct error *e)
{
    int64_t at = 0, before = t->n ? t->uusd_per_kwh[t->n - 1] : 0;
    double usd_mwh = 0, grams = 0;
    bool gap = c->fields[price][0] == '\0';
    enum rc rc = read_hour(c, &at, e);

    if (rc == RC_OK && !gap)
        rc = csv_double(c, price, -1e6, 1e6, &usd_mwh, e);
    if (rc == RC_OK && carbon >= 0 && c->fields[carbon][0])
        rc = csv_double(c, carbon, 0, 1e6, &grams, e);
    if (rc != RC_OK)
        return rc;
    if (t->n == 0)
        t->start_unix_s = at;
    if (at != t->start_unix_s + INT64_C(3600) * t->n)
        return lines_error(&c->lines, e, RC_INVALID, "\"%.40s\" is not the hour after the one before", c->fields[0]);
    t->uusd_per_kwh = room(t->uusd_per_kwh, t->n, sizeof *t->uusd_per_kwh);
    t->uusd_per_kwh[t->n] = gap ? before : llround(usd_mwh * 1000); /* $/MWh: thousands of micro-dollars per kWh */
    if (carbon >= 0) {
        t->mg_co2_per_kwh = room(t->mg_co2_per_kwh, t->n, sizeof *t->mg_co2_per_kwh);
        t->mg_co2_per_kwh[t->n] = (int32_t)lround(grams * 1000);
    }
    t->gaps += gap;
    t->n++;
    return RC_OK;
}

enum rc electricity_read(struct electricity *t, const char *path, const char *zone, struct error *e)
{
    struct csv c;
    char name[128];
    int price, carbon;

    *t = (struct electricity){0};
    enum rc rc = csv_open(&c, path, e);
    if (rc != RC_OK)
        return rc;
    snprintf(name, sizeof name, "price_usd_mwh_%s", zone);
    rc = csv_need(&c, name, &price, e);
    snprintf(name, sizeof name, "gco2_kwh_lca_%s", zone);
    carbon = csv_find(&c, name);
    while (rc == RC_OK && (rc = csv_next(&c, e)) == RC_OK)
        rc = read_electricity_row(t, &c, price, carbon, e);
    if (rc == RC_NOT_FOUND)
        rc = t->n ? RC_OK : lines_error(&c.lines, e, RC_INVALID, "there are no hours");
    csv_close(&c);
    if (rc != RC_OK)
        electricity_fini(t);
    return rc;
}

void electricity_fini(struct electricity *t)
{
    free(t->uusd_per_kwh);
    free(t->mg_co2_per_kwh);
    *t = (struct electricity){0};
}

int64_t electricity_at(const struct electricity *t, int64_t unix_s)
{
    int64_t hours = (unix_s - t->start_unix_s) / 3600 % t->n;
    return t->uusd_per_kwh[hours < 0 ? hours + t->n : hours];
}
