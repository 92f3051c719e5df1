#include "scheduler/front/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/front_internal.h"
#include "scheduler/front/metrics_internal.h"
#include "scheduler/observe/process_metrics.h"

#define OUTCOMES 3
#define KINDS    3
#define BUCKETS  17

/* Edges for anything from an added microsecond to a long answer; 0.5 s is an edge because alert rules ask for it. */
static const int64_t bucket_us[BUCKETS] = {100,     250,     500,      1000,     2500,     5000,
                                           10000,   25000,   50000,    100000,   250000,   500000,
                                           1000000, 2500000, 10000000, 60000000, 600000000};
struct histogram {
    struct counter counts[BUCKETS + 1]; /* the last: beyond every edge */
    struct counter sum_ns;
};

struct metrics {
    int n_models, n_nodes;
    struct counter *values[METRIC_FIRST_GAUGE];       /* counters: [i * size of j + j] */
    struct histogram *histograms[METRIC_FIRST_GAUGE]; /* [i] */
    /* Charges as [model][node], which one machine word does not hold for long. The lock is uncontended but when read. */
    pthread_mutex_t charges_lock;
    __int128 *charges;
    __int128 charges_gone; /* of nodes whose place is another one's now */
};

const char *leg_fault_name(enum leg_fault f)
{
    static const char *const names[FAULTS] = {
        [FAULT_CONNECT] = "connect",         [FAULT_TIMEOUT] = "timeout",   [FAULT_CUT] = "cut",
        [FAULT_FRAMING] = "framing",         [FAULT_STATUS] = "status",     [FAULT_BUSY] = "busy",
        [FAULT_ERROR_EVENT] = "error_event", [FAULT_ENDPOINT] = "endpoint", [FAULT_AWAY] = "away"};
    return names[f];
}

static int dim_size(const struct metrics *m, enum dim d)
{
    switch (d) {
    case DIM_NONE: return 1;
    case DIM_MODEL: return m->n_models;
    case DIM_NODE: return m->n_nodes;
    case DIM_OUTCOME: return OUTCOMES;
    case DIM_CODE: return API_CODES;
    case DIM_FAULT: return FAULTS;
    case DIM_KIND: return KINDS;
    case DIM_REASON: return AUTH_CODE_COUNT;
    case DIM_LIMIT: return LIMIT_CONCURRENT + 1;
    case DIM_WAY: return CACHED_WAYS;
    case DIM_CLASS: return WAITING_CLASSES;
    case DIM_VERDICT: return WAITING_VERDICTS;
    }
    return 0;
}

static const char *dim_label(enum dim d)
{
    static const char *const labels[] = {"",     "model",  "node",  "outcome", "code",  "fault",
                                         "kind", "reason", "limit", "result",  "class", "reason"};
    return labels[d];
}

static const char *dim_value(const struct front *f, enum dim d, int i)
{
    static const char *const kinds[KINDS] = {"input", "cached_input", "output"};
    switch (d) {
    case DIM_NONE: return "";
    case DIM_MODEL: return f->rooms[i].model;
    case DIM_NODE: return nodes_at(f->nodes, i)->config->name;
    case DIM_OUTCOME: return ledger_outcome_name((enum ledger_outcome)i);
    case DIM_CODE: return api_error_name(&(struct api_error){.code = (enum api_code)i});
    case DIM_FAULT: return leg_fault_name((enum leg_fault)i);
    case DIM_KIND: return kinds[i];
    case DIM_REASON: return auth_code_name((enum auth_code)i);
    case DIM_LIMIT: return limit_kind_name((enum limit_kind)i);
    case DIM_WAY: return cached_way_name((enum cached_way)i);
    case DIM_CLASS: return waiting_class_name((enum waiting_class)i);
    case DIM_VERDICT: return i == WAITING_IN ? "timeout" : waiting_verdict_name((enum waiting_verdict)i);
    }
    return "";
}

struct metrics *metrics_new(int n_models, int n_nodes)
{
    struct metrics *m = spw_calloc(1, sizeof(*m));
    m->n_models = n_models;
    m->n_nodes = n_nodes;
    pthread_mutex_init(&m->charges_lock, NULL);
    m->charges = spw_calloc((size_t)n_models * (size_t)n_nodes + 1, sizeof *m->charges);
    for (int k = 0; k < METRIC_FIRST_GAUGE; k++) {
        size_t n = (size_t)dim_size(m, metrics_table[k].dims[0]) * (size_t)dim_size(m, metrics_table[k].dims[1]);
        if (metrics_table[k].type == TYPE_HISTOGRAM)
            m->histograms[k] = spw_calloc(n + 1, sizeof(struct histogram));
        else
            m->values[k] = spw_calloc(n + 1, sizeof(struct counter));
    }
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    for (int k = 0; k < METRIC_FIRST_GAUGE; k++) {
        free(m->values[k]);
        free(m->histograms[k]);
    }
    pthread_mutex_destroy(&m->charges_lock);
    free(m->charges);
    free(m);
}

void metrics_forget_node(struct metrics *m, int node)
{
    for (int k = 0; k < METRIC_FIRST_GAUGE; k++) {
        int size_j = dim_size(m, metrics_table[k].dims[1]);
        for (int j = 0; j < size_j && metrics_table[k].dims[0] == DIM_NODE && m->values[k]; j++)
            atomic_store_explicit(&m->values[k][node * size_j + j].v, 0, memory_order_relaxed);
    }
    pthread_mutex_lock(&m->charges_lock);
    for (int i = 0; i < m->n_models; i++) {
        m->charges_gone += m->charges[i * m->n_nodes + node];
        m->charges[i * m->n_nodes + node] = 0;
    }
    pthread_mutex_unlock(&m->charges_lock);
}

void metrics_add(struct metrics *m, enum metric id, int i, int j, int64_t n)
{
    int size_i = dim_size(m, metrics_table[id].dims[0]), size_j = dim_size(m, metrics_table[id].dims[1]);
    SPW_ASSERT(m->values[id] && i >= 0 && i < size_i && j >= 0 && j < size_j);
    if (id != METRIC_CHARGE) {
        counter_add(&m->values[id][i * size_j + j], n);
        return;
    }
    pthread_mutex_lock(&m->charges_lock);
    m->charges[i * size_j + j] += n;
    pthread_mutex_unlock(&m->charges_lock);
}

void metrics_observe(struct metrics *m, enum metric id, int i, int64_t ns)
{
    metrics_observe_at(m, id, i, 0, ns);
}

void metrics_observe_at(struct metrics *m, enum metric id, int i, int j, int64_t ns)
{
    int size_i = dim_size(m, metrics_table[id].dims[0]), size_j = dim_size(m, metrics_table[id].dims[1]);
    SPW_ASSERT(m->histograms[id] && i >= 0 && i < size_i && j >= 0 && j < size_j);
    struct histogram *h = &m->histograms[id][i * size_j + j];
    int b = 0;
    while (b < BUCKETS && ns > bucket_us[b] * NS_PER_US)
        b++;
    counter_add(&h->counts[b], 1);
    counter_add(&h->sum_ns, ns);
}

/* ---- over all lanes --------------------------------------------------------------------------------------------- */

/* One cell of a counter. */
static __int128 value_of(const struct front *f, int id, int cell)
{
    __int128 sum = 0;
    for (int l = 0; l < f->n_lanes; l++) {
        struct metrics *m = f->lanes[l].metrics;
        if (id != METRIC_CHARGE) {
            sum += counter_get(&m->values[id][cell]);
            continue;
        }
        pthread_mutex_lock(&m->charges_lock);
        sum += m->charges[cell];
        pthread_mutex_unlock(&m->charges_lock);
    }
    return sum;
}

int64_t metrics_total(const struct front *f, enum metric id, int j)
{
    const struct metrics *m = f->lanes[0].metrics; /* they are all of the same size */
    int size_i = dim_size(m, metrics_table[id].dims[0]), size_j = dim_size(m, metrics_table[id].dims[1]);
    __int128 sum = 0;
    for (int i = 0; i < size_i; i++)
        sum += value_of(f, (int)id, i * size_j + j);
    return (int64_t)sum;
}

struct pusd_sum metrics_charge(const struct front *f)
{
    const struct metrics *m = f->lanes[0].metrics;
    struct pusd_sum sum = {0};
    for (int l = 0; l < f->n_lanes; l++) {
        struct metrics *of = f->lanes[l].metrics;
        pthread_mutex_lock(&of->charges_lock);
        sum.v += of->charges_gone;
        for (int i = 0; i < m->n_models * m->n_nodes; i++)
            sum.v += of->charges[i];
        pthread_mutex_unlock(&of->charges_lock);
    }
    return sum;
}

/* ---- Prometheus text -------------------------------------------------------------------------------------------- */

struct writer {
    struct strbuf *out;
    enum rc rc; /* the first failure; the rest is skipped */
};

static void put(struct writer *w, const char *format, ...) SPW_PRINTF(2, 3);
static void put(struct writer *w, const char *format, ...)
{
    char line[512];
    va_list args;
    if (w->rc != RC_OK)
        return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    w->rc = n < (int)sizeof line ? strbuf_append(w->out, line, (size_t)n) : RC_FULL;
}

static void put_label(struct writer *w, const char *label, const char *value, const char *before)
{
    put(w, "%s%s=\"", before, label);
    for (const char *p = value; *p; p++) {
        if (*p == '"' || *p == '\\')
            put(w, "\\%c", *p);
        else if (*p == '\n')
            put(w, "\\n");
        else
            put(w, "%c", *p);
    }
    put(w, "\"");
}

/* {a="x",b="y",extra} or nothing. */
static void put_labels(struct writer *w, const struct front *f, const struct declaration *d, int i, int j,
                       const char *le)
{
    int index[2] = {i, j};
    const char *before = "{";
    for (int k = 0; k < 2; k++) {
        if (d->dims[k] == DIM_NONE)
            continue;
        put_label(w, dim_label(d->dims[k]), dim_value(f, d->dims[k], index[k]), before);
        before = ",";
    }
    if (le) {
        put_label(w, "le", le, before);
        before = ",";
    }
    if (*before == ',')
        put(w, "}");
}

static void put_value(struct writer *w, enum unit unit, __int128 v)
{
    char text[64];
    if (unit == UNIT_USD)
        put(w, " %s\n", pusd_sum_format((struct pusd_sum){v}, text, sizeof text));
    else if (unit == UNIT_SECONDS)
        put(w, " %.9g\n", (double)v / 1e9);
    else if (unit == UNIT_RATIO)
        put(w, " %.6g\n", (double)v / 1e6);
    else
        put(w, " %" PRId64 "\n", (int64_t)v);
}

static void put_histogram(struct writer *w, const struct front *f, int k, int i, int j)
{
    const struct declaration *d = &metrics_table[k];
    int cell = i * dim_size(f->lanes[0].metrics, d->dims[1]) + j;
    int64_t total = 0, sum_ns = 0;
    for (int b = 0; b <= BUCKETS; b++) {
        char le[32] = "+Inf";
        if (b < BUCKETS)
            snprintf(le, sizeof le, "%g", (double)bucket_us[b] / 1e6);
        for (int l = 0; l < f->n_lanes; l++)
            total += counter_get(&f->lanes[l].metrics->histograms[k][cell].counts[b]);
        put(w, "%s_bucket", d->name);
        put_labels(w, f, d, i, j, le);
        put(w, " %" PRId64 "\n", total);
    }
    for (int l = 0; l < f->n_lanes; l++)
        sum_ns += counter_get(&f->lanes[l].metrics->histograms[k][cell].sum_ns);
    put(w, "%s_sum", d->name);
    put_labels(w, f, d, i, j, NULL);
    put_value(w, UNIT_SECONDS, sum_ns);
    put(w, "%s_count", d->name);
    put_labels(w, f, d, i, j, NULL);
    put(w, " %" PRId64 "\n", total);
}

/* Is there such a model or node, at the moment? */
static bool is_there(const struct front *f, enum dim d, int i)
{
    if (d == DIM_NODE)
        return i < nodes_count(f->nodes) && node_is_there(nodes_at(f->nodes, i));
    return d != DIM_MODEL || i < f->n_rooms;
}

static void put_metric(struct writer *w, const struct front *f, int k)
{
    const struct metrics *m = f->lanes[0].metrics; /* for the sizes, which all have */
    static const char *const types[] = {"counter", "gauge", "histogram"};
    const struct declaration *d = &metrics_table[k];
    int size_i = dim_size(m, d->dims[0]), size_j = dim_size(m, d->dims[1]);
    put(w, "# HELP %s %s\n# TYPE %s %s\n", d->name, d->help, d->name, types[d->type]);
    for (int i = 0; i < size_i; i++) {
        for (int j = 0; j < size_j; j++) {
            if (!is_there(f, d->dims[0], i) || !is_there(f, d->dims[1], j))
                continue;
            if (d->type == TYPE_HISTOGRAM) {
                put_histogram(w, f, k, i, j);
                continue;
            }
            put(w, "%s", d->name);
            put_labels(w, f, d, i, j, NULL);
            put_value(w, d->unit, d->read ? d->read(f, i * size_j + j) : value_of(f, k, i * size_j + j));
        }
    }
}

enum rc metrics_render(const struct front *f, struct strbuf *out)
{
    struct writer w = {.out = out, .rc = RC_OK};
    put(&w, "# HELP spillway_build_info Version of the program.\n# TYPE spillway_build_info gauge\n"
            "spillway_build_info{version=\"" SPILLWAY_VERSION "\"} 1\n");
    for (int k = 0; k < metrics_table_size; k++)
        put_metric(&w, f, k);
    if (w.rc == RC_OK)
        w.rc = budget_metrics_render(f, out);
    if (w.rc == RC_OK)
        w.rc = capacity_metrics_render(f, out);
    for (int i = 0; i < f->n_more && w.rc == RC_OK; i++)
        w.rc = f->more[i](f->more_arg[i], out);
    if (w.rc == RC_OK && f->routes)
        w.rc = route_metrics_render(f->routes, out);
    if (w.rc == RC_OK)
        w.rc = process_metrics_render(out);
    return w.rc;
}
