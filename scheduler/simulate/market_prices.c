/* Price lists of instances. See market.h for what is done about their dirt. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "scheduler/simulate/lines.h"
#include "scheduler/simulate/market.h"

#define TABLE_BYTES_MAX ((size_t)256 << 20)
#define ROWS_MAX        1000000

static const char *const flag_names[PRICE_N_FLAGS] = {
    "no_ondemand",          "no_spot",    "spot_eq_ondemand", "spot_gt_ondemand", "spot_floor_10pct",
    "suspect_ondemand_low", "host_apart", "host_only",        "unknown_flag",
};

const char *price_flag_name(int bit)
{
    return bit >= 0 && bit < PRICE_N_FLAGS ? flag_names[bit] : "?";
}

static const struct pusd none = {-1};

struct reading {
    struct price_table *table;
    struct csv csv;
    int cloud, type, accelerator, count, region, zone, on_demand, spot,
        flags; /* columns; zone, spot, flags may be -1 */
    int cap;
};

static enum rc find_columns(struct reading *r, struct error *e)
{
    const struct {
        const char *name;
        int *column;
    } needed[] = {
        {"cloud", &r->cloud},
        {"instance_type", &r->type},
        {"accelerator", &r->accelerator},
        {"accelerator_count", &r->count},
        {"region", &r->region},
        {"price_usd_h", &r->on_demand},
    };

    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        enum rc rc = csv_need(&r->csv, needed[i].name, needed[i].column, e);
        if (rc != RC_OK)
            return rc;
    }
    r->zone = csv_find(&r->csv, "zone");
    r->spot = csv_find(&r->csv, "spot_usd_h");
    r->flags = csv_find(&r->csv, "flags");
    return RC_OK;
}

static enum rc read_price(struct reading *r, int column, struct pusd *p, struct error *e)
{
    struct error why;

    *p = none;
    if (column < 0 || !r->csv.fields[column][0])
        return RC_OK;
    if (pusd_parse(r->csv.fields[column], p, &why) != RC_OK)
        return lines_error(&r->csv.lines, e, RC_INVALID, "%s: %s", r->csv.names[column], why.message);
    if (p->v == 0)
        *p = none;
    return RC_OK;
}

static unsigned read_flags(const char *text)
{
    unsigned flags = 0;

    while (*text) {
        size_t n = strcspn(text, "; ");
        int bit = 0;
        while (bit < PRICE_N_FLAGS && !(strlen(flag_names[bit]) == n && strncmp(flag_names[bit], text, n) == 0))
            bit++;
        if (n)
            flags |= bit < PRICE_N_FLAGS ? 1u << bit : PRICE_UNKNOWN_FLAG;
        text += n;
        text += strspn(text, "; ");
    }
    return flags;
}

/* What the figures themselves say, whether or not the file flags it. */
static unsigned own_flags(const struct price_row *p)
{
    unsigned flags = (p->on_demand_h.v < 0 ? PRICE_NO_ONDEMAND : 0) | (p->spot_h.v < 0 ? PRICE_NO_SPOT : 0);

    if (flags)
        return flags;
    int64_t more = p->spot_h.v - p->on_demand_h.v;
    if (more <= p->on_demand_h.v / 1000 && more >= -p->on_demand_h.v / 1000) /* equal, but for how they were rounded */
        flags |= PRICE_SPOT_EQ_ONDEMAND;
    else if (more > 0)
        flags |= PRICE_SPOT_GT_ONDEMAND;
    if (p->spot_h.v * 10 == p->on_demand_h.v)
        flags |= PRICE_SPOT_FLOOR;
    return flags;
}

static const char *text_of(struct reading *r, int column, struct arena *a)
{
    const char *text = column < 0 ? "" : r->csv.fields[column];
    return arena_strndup(a, text, strlen(text));
}

static enum rc read_row(struct reading *r, struct price_row *p, struct error *e)
{
    struct arena *a = r->table->arena;
    int64_t count = 0;
    enum rc rc = r->csv.fields[r->count][0] ? csv_int(&r->csv, r->count, 0, 1024, &count, e) : RC_OK;

    if (rc != RC_OK)
        return rc;
    *p = (struct price_row){.cloud = text_of(r, r->cloud, a),
                            .type = text_of(r, r->type, a),
                            .accelerator = text_of(r, r->accelerator, a),
                            .region = text_of(r, r->region, a),
                            .zone = text_of(r, r->zone, a),
                            .accelerators = (int)count,
                            .line = (int)r->csv.lines.line};
    if (!p->cloud || !p->type || !p->accelerator || !p->region || !p->zone)
        return lines_error(&r->csv.lines, e, RC_FULL, "the table is larger than %zu bytes", TABLE_BYTES_MAX);
    rc = read_price(r, r->on_demand, &p->on_demand_h, e);
    if (rc == RC_OK)
        rc = read_price(r, r->spot, &p->spot_h, e);
    if (rc != RC_OK)
        return rc;
    p->flags = own_flags(p) | (r->flags < 0 ? 0 : read_flags(r->csv.fields[r->flags]));
    p->flags |= (p->accelerator[0] ? 0 : PRICE_HOST_ONLY) | (p->type[0] ? 0 : PRICE_HOST_APART);
    return RC_OK;
}

/* --- hosts that are billed apart (GCP) --------------------------------------------------------------------------- */

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
    return gpu.v < 0 || host.v < 0 ? none : (struct pusd){gpu.v + host.v * n};
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

/* What the flags mean for the figures, and the counts. */
static void judge(struct price_table *t)
{
    const unsigned no_spot = PRICE_NO_SPOT | PRICE_SPOT_EQ_ONDEMAND | PRICE_SPOT_GT_ONDEMAND | PRICE_SPOT_FLOOR |
                             PRICE_HOST_ONLY | PRICE_UNKNOWN_FLAG;
    const unsigned no_on_demand = PRICE_NO_ONDEMAND | PRICE_SUSPECT_ONDEMAND | PRICE_HOST_ONLY | PRICE_UNKNOWN_FLAG;

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
}

enum rc price_table_read(struct price_table *t, const char *path, struct error *e)
{
    struct reading r = {.table = t};
    enum rc rc = csv_open(&r.csv, path, e);

    *t = (struct price_table){0};
    if (rc != RC_OK)
        return rc;
    t->arena = arena_new(TABLE_BYTES_MAX);
    rc = find_columns(&r, e);
    while (rc == RC_OK && (rc = csv_next(&r.csv, e)) == RC_OK) {
        if (t->n == ROWS_MAX) {
            rc = lines_error(&r.csv.lines, e, RC_FULL, "more than %d rows", ROWS_MAX);
            break;
        }
        if (t->n == r.cap) {
            r.cap = r.cap ? r.cap * 2 : 256;
            t->rows = spw_realloc(t->rows, sizeof *t->rows * (size_t)r.cap);
        }
        rc = read_row(&r, &t->rows[t->n], e);
        t->n += rc == RC_OK;
    }
    csv_close(&r.csv);
    if (rc != RC_NOT_FOUND) {
        price_table_fini(t);
        return rc;
    }
    add_hosts(t);
    judge(t);
    return RC_OK;
}

void price_table_fini(struct price_table *t)
{
    free(t->rows);
    arena_free(t->arena);
    *t = (struct price_table){0};
}

/* --- questions ----------------------------------------------------------------------------------------------------- */

static bool fits(const char *wanted, const char *is)
{
    return !wanted || !wanted[0] || strcasecmp(wanted, is) == 0;
}

static struct pusd price_in(const struct price_row *p, const struct price_row *like, enum price_market market)
{
    if (!fits(like->cloud, p->cloud) || !fits(like->type, p->type) || !fits(like->accelerator, p->accelerator) ||
        !fits(like->region, p->region) || !fits(like->zone, p->zone) ||
        (like->accelerators && like->accelerators != p->accelerators))
        return none;
    return market == PRICE_SPOT ? p->spot_h : p->on_demand_h;
}

const struct price_row *price_cheapest(const struct price_table *t, const struct price_row *like,
                                       enum price_market market)
{
    const struct price_row *best = NULL;
    struct pusd least = none;

    for (int i = 0; i < t->n; i++) {
        struct pusd p = price_in(&t->rows[i], like, market);
        if (p.v < 0 || (best && p.v >= least.v))
            continue;
        best = &t->rows[i];
        least = p;
    }
    return best;
}

static int by_amount(const void *a, const void *b)
{
    int64_t x = ((const struct pusd *)a)->v, y = ((const struct pusd *)b)->v;
    return (x > y) - (x < y);
}

struct price_spread price_spread(const struct price_table *t, const struct price_row *like, enum price_market market)
{
    struct pusd *all = spw_calloc((size_t)t->n + 1, sizeof *all);
    struct price_spread s = {.least = none, .median = none, .greatest = none};

    for (int i = 0; i < t->n; i++) {
        struct pusd p = price_in(&t->rows[i], like, market);
        if (p.v >= 0)
            all[s.n++] = p;
    }
    qsort(all, (size_t)s.n, sizeof *all, by_amount);
    if (s.n) {
        s.least = all[0];
        s.median = (struct pusd){(all[(s.n - 1) / 2].v + all[s.n / 2].v) / 2};
        s.greatest = all[s.n - 1];
    }
    free(all);
    return s;
}
