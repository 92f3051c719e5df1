/* Price lists from files: CSV by columns, documents by catalogue_doc.c; then what rows say of each other: hosts that
 * are billed apart, repetitions, contradictions, and which of them ends which. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "providers/catalogue_internal.h"

const char *const price_column_names[PRICE_COLUMNS] = {
    [COL_CLOUD] = "cloud",
    [COL_TYPE] = "instance_type",
    [COL_ACCELERATOR] = "accelerator",
    [COL_COUNT] = "accelerator_count",
    [COL_REGION] = "region",
    [COL_ZONE] = "zone",
    [COL_ON_DEMAND] = "price_usd_h",
    [COL_SPOT] = "spot_usd_h",
    [COL_FLAGS] = "flags",
    [COL_CURRENCY] = "currency",
    [COL_FROM] = "effective_from|valid_from|start_date",
    [COL_UNTIL] = "effective_until|valid_until|end_date",
    [COL_PROVIDER] = "provider",
    [COL_MODEL] = "model",
    [COL_INPUT] = "input_usd_mtok|input",
    [COL_CACHED] = "cached_input_usd_mtok|cached_input",
    [COL_OUTPUT] = "output_usd_mtok|output",
};

static const struct pusd none = {-1};

/* ---- CSV ---------------------------------------------------------------------------------------------------------- */

/* The column of the first of the alternatives that is there, or -1. */
static int find_column(const struct csv *c, const char *names)
{
    while (*names) {
        char name[40];
        size_t n = strcspn(names, "|");
        snprintf(name, sizeof name, "%.*s", (int)n, names);
        int i = csv_find(c, name);
        if (i >= 0)
            return i;
        names += n + (names[n] == '|');
    }
    return -1;
}

/* A list in another currency names it in its columns. */
static enum rc other_currency(const struct csv *c, struct error *e)
{
    for (int i = 0; i < c->n_names; i++) {
        const char *name = c->names[i];
        size_t n = strlen(name);
        if (n == 11 && strncasecmp(name, "price_", 6) == 0 && strcasecmp(name + 9, "_h") == 0 &&
            strcasecmp(name, "price_usd_h") != 0)
            return lines_error(&c->lines, e, RC_INVALID,
                               "column %s: only dollars are booked; convert the prices, and call it price_usd_h", name);
    }
    return RC_OK;
}

static enum rc find_columns(const struct csv *c, int *columns, bool *apis, struct error *e)
{
    static const enum price_column instance[] = {COL_CLOUD, COL_TYPE,   COL_ACCELERATOR,
                                                 COL_COUNT, COL_REGION, COL_ON_DEMAND};
    static const enum price_column api[] = {COL_PROVIDER, COL_MODEL, COL_INPUT, COL_OUTPUT};
    enum rc rc = RC_OK;
    for (int i = 0; i < PRICE_COLUMNS; i++)
        columns[i] = find_column(c, price_column_names[i]);
    *apis = columns[COL_MODEL] >= 0 && columns[COL_INPUT] >= 0;
    const enum price_column *needed = *apis ? api : instance;
    int n = *apis ? 4 : 6;
    for (int i = 0; rc == RC_OK && i < n; i++) {
        int ignored;
        if (needed[i] == COL_ON_DEMAND && columns[COL_ON_DEMAND] < 0)
            rc = other_currency(c, e);
        if (rc == RC_OK && columns[needed[i]] < 0)
            rc = csv_need(c, price_column_names[needed[i]], &ignored, e);
    }
    return rc;
}

static enum rc read_rows(struct price_reading *r, struct csv *c, const int *columns, bool apis, struct error *e)
{
    for (;;) {
        enum rc rc = csv_next(c, e);
        r->line = (int)c->lines.line;
        if (rc == RC_NOT_FOUND)
            return RC_OK;
        if (rc == RC_OK) {
            for (int i = 0; i < PRICE_COLUMNS; i++)
                r->fields[i] = columns[i] < 0 ? NULL : c->fields[columns[i]];
            rc = apis ? price_read_api(r, e) : price_read_instance(r, e);
        } else {
            rc = price_row_lost(r, e);
        }
        if (rc != RC_OK)
            return rc;
    }
}

static enum rc read_csv(struct price_reading *r, struct error *e)
{
    struct csv c;
    int columns[PRICE_COLUMNS];
    bool apis;
    enum rc rc = csv_open(&c, r->path, e);
    if (rc != RC_OK)
        return rc;
    rc = find_columns(&c, columns, &apis, e);
    for (int i = 0; rc == RC_OK && i < PRICE_COLUMNS; i++)
        r->heads[i] = columns[i] < 0 ? NULL : c.names[columns[i]];
    if (rc == RC_OK)
        rc = read_rows(r, &c, columns, apis, e);
    csv_close(&c);
    return rc;
}

/* ---- hosts that are billed apart (GCP) ---------------------------------------------------------------------------- */

/* The host type of a GPU that is sold alone: which family goes with which GPU is in GCP's documentation "GPU machine
 * types". Types with one GPU are listed; several are several of them. */
static const struct {
    const char *accelerator, *host;
} hosts[] = {
    {"A100", "a2-highgpu-1g"},
    {"A100-80GB", "a2-ultragpu-1g"},
    {"H100", "a3-highgpu-1g"},
};

static const struct price_row *host_of(const struct price_table *t, const struct price_row *gpu)
{
    const char *type = NULL;

    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++)
        if (strcmp(hosts[i].accelerator, gpu->accelerator) == 0)
            type = hosts[i].host;
    for (int i = 0; type && i < t->n; i++) {
        const struct price_row *h = &t->rows[i];
        if ((h->flags & PRICE_HOST_ONLY) && strcmp(h->type, type) == 0 && strcmp(h->cloud, gpu->cloud) == 0 &&
            strcmp(h->region, gpu->region) == 0)
            return h;
    }
    return NULL;
}

static struct pusd with_host(struct pusd gpu, struct pusd host, int n)
{
    return gpu.v < 0 || host.v < 0 || host.v > (INT64_MAX - gpu.v) / n ? none : (struct pusd){gpu.v + host.v * n};
}

static void add_hosts(struct price_table *t)
{
    for (int i = 0; i < t->n; i++) {
        struct price_row *p = &t->rows[i];
        if (!(p->flags & PRICE_HOST_APART) || (p->flags & PRICE_HOST_ONLY))
            continue;
        const struct price_row *h = host_of(t, p);
        int n = p->accelerators > 0 ? p->accelerators : 1;
        p->on_demand_h = with_host(p->on_demand_h, h ? h->on_demand_h : none, n);
        p->spot_h = with_host(p->spot_h, h ? h->spot_h : none, n);
        if (h)
            p->type = h->type;
        if (h)
            p->flags |= h->flags & ~(unsigned)PRICE_HOST_ONLY;
    }
}

/* ---- rows for the same thing -------------------------------------------------------------------------------------- */

static int same_thing(const struct price_row *a, const struct price_row *b)
{
    int d = strcmp(a->cloud, b->cloud);
    d = d ? d : strcmp(a->type, b->type);
    d = d ? d : strcmp(a->accelerator, b->accelerator);
    d = d ? d : a->accelerators - b->accelerators;
    d = d ? d : strcmp(a->region, b->region);
    return d ? d : strcmp(a->zone, b->zone);
}

static int by_thing(const void *x, const void *y)
{
    const struct price_row *a = *(struct price_row *const *)x, *b = *(struct price_row *const *)y;
    int d = same_thing(a, b);
    if (d)
        return d;
    if (a->from_s != b->from_s)
        return a->from_s < b->from_s ? -1 : 1;
    return a->line - b->line;
}

static void compare(struct price_row *earlier, struct price_row *p)
{
    if (earlier->from_s < p->from_s) {
        if (!earlier->until_s || earlier->until_s > p->from_s)
            earlier->until_s = p->from_s;
        earlier->superseded = true;
    } else if (earlier->on_demand_h.v == p->on_demand_h.v && earlier->spot_h.v == p->spot_h.v) {
        p->flags |= PRICE_REPEATED;
    } else {
        earlier->flags |= PRICE_CONFLICT;
        p->flags |= PRICE_CONFLICT;
    }
}

/* Each is compared with the one before it of another date, or with the first of the same. */
static void relate(struct price_table *t)
{
    struct price_row **sorted = spw_calloc((size_t)t->n + 1, sizeof(struct price_row *));
    int first = 0; /* of those with the same thing and date */

    for (int i = 0; i < t->n; i++)
        sorted[i] = &t->rows[i];
    qsort(sorted, (size_t)t->n, sizeof(struct price_row *), by_thing);
    for (int i = 1; i < t->n; i++) {
        if (same_thing(sorted[first], sorted[i]) != 0) {
            first = i;
            continue;
        }
        if (sorted[first]->from_s == sorted[i]->from_s) {
            compare(sorted[first], sorted[i]);
            continue;
        }
        for (int k = first; k < i; k++)
            compare(sorted[k], sorted[i]);
        first = i;
    }
    free(sorted);
}

/* What the flags mean for the figures, and the counts. */
static void judge(struct price_table *t)
{
    const unsigned neither = PRICE_HOST_ONLY | PRICE_UNKNOWN_FLAG | PRICE_REPEATED | PRICE_CONFLICT;
    const unsigned no_spot =
        neither | PRICE_NO_SPOT | PRICE_SPOT_EQ_ONDEMAND | PRICE_SPOT_GT_ONDEMAND | PRICE_SPOT_FLOOR;
    const unsigned no_on_demand = neither | PRICE_NO_ONDEMAND | PRICE_SUSPECT_ONDEMAND;

    for (int i = 0; i < t->n; i++) {
        struct price_row *p = &t->rows[i];
        for (int bit = 0; bit < PRICE_N_FLAGS; bit++)
            t->flagged[bit] += (p->flags >> bit) & 1;
        if (p->flags & no_spot)
            p->spot_h = none;
        if (p->flags & no_on_demand)
            p->on_demand_h = none;
        t->without_on_demand += p->on_demand_h.v < 0;
        t->without_spot += p->spot_h.v < 0;
    }
    for (int i = 0; i < t->n_apis; i++)
        for (int bit = 0; bit < PRICE_N_FLAGS; bit++)
            t->flagged[bit] += (t->apis[i].flags >> bit) & 1;
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static bool ends_with(const char *path, const char *end)
{
    size_t n = strlen(path), m = strlen(end);
    return n >= m && strcasecmp(path + n - m, end) == 0;
}

static enum rc read_document(struct price_reading *r, struct error *e)
{
    struct yaml_doc *doc = NULL;
    enum rc rc = yaml_load(&doc, r->path, e);
    if (rc == RC_OK)
        rc = price_read_document(r, yaml_root(doc), e);
    yaml_doc_free(doc);
    return rc;
}

enum rc price_table_load(struct price_table *t, const char *path, price_problem_cb *problem, void *arg, struct error *e)
{
    struct price_reading r = {.table = t, .path = path, .problem = problem, .arg = arg};
    bool document = ends_with(path, ".json") || ends_with(path, ".yaml") || ends_with(path, ".yml");

    *t = (struct price_table){.arena = arena_new(PRICE_TABLE_BYTES_MAX)};
    enum rc rc = document ? read_document(&r, e) : read_csv(&r, e);
    if (rc != RC_OK) {
        price_table_fini(t);
        return rc;
    }
    add_hosts(t);
    relate(t);
    judge(t);
    return RC_OK;
}

enum rc price_table_read(struct price_table *t, const char *path, struct error *e)
{
    return price_table_load(t, path, NULL, NULL, e);
}
