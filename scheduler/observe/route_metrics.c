/* A series is one allocation that holds the buckets of every family; series are found by a small open hash table. */
#include "scheduler/observe/route_metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAMILIES  9
#define EDGES_MAX 17
#define SLOTS     512 /* a power of two, well above ROUTE_SERIES_MAX */

enum style { STYLE_OURS, STYLE_GENAI };

struct family {
    const char *name, *help;
    enum route_metric what;
    enum style style;
    const char *token_type; /* a label of its own, or NULL */
    double scale;           /* raw figures per figure shown */
    int n_edges;
    double edges[EDGES_MAX]; /* as shown */
};

#define EDGES_OURS                                                                                                     \
    17,                                                                                                                \
    {                                                                                                                  \
        1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600                 \
    }
#define EDGES_TOKENS                                                                                                   \
    14,                                                                                                                \
    {                                                                                                                  \
        1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864                      \
    }
#define EDGES_TPOT                                                                                                     \
    13,                                                                                                                \
    {                                                                                                                  \
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5                                          \
    }

/* Families of one name stand together: its HELP is written once. 0.5 s is an edge because alert rules ask for it. */
static const struct family families[FAMILIES] = {
    {"spillway_added_latency_seconds", "From a whole request to its dispatch to a node, without waiting for a slot.",
     ROUTE_ADDED, STYLE_OURS, NULL, 1e9, EDGES_OURS},
    {"spillway_time_to_first_byte_seconds", "From a whole request to the first byte of its answer.", ROUTE_TTFT,
     STYLE_OURS, NULL, 1e9, EDGES_OURS},
    {"spillway_time_per_output_token_seconds", "Between two tokens of a stream, on average over the stream.",
     ROUTE_TPOT, STYLE_OURS, NULL, 1e9, EDGES_OURS},
    {"spillway_request_duration_seconds", "From a whole request to the last byte of its answer.", ROUTE_DURATION,
     STYLE_OURS, NULL, 1e9, EDGES_OURS},
    {"gen_ai_server_request_duration_seconds",
     "Generative AI server request duration.",
     ROUTE_DURATION,
     STYLE_GENAI,
     NULL,
     1e9,
     14,
     {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}},
    {"gen_ai_server_time_to_first_token_seconds",
     "Time to generate the first token of a response.",
     ROUTE_TTFT,
     STYLE_GENAI,
     NULL,
     1e9,
     16,
     {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}},
    {"gen_ai_server_time_per_output_token_seconds", "Time per output token after the first.", ROUTE_TPOT, STYLE_GENAI,
     NULL, 1e9, EDGES_TPOT},
    {"gen_ai_client_token_usage", "Number of input and output tokens used.", ROUTE_INPUT, STYLE_GENAI, "input", 1,
     EDGES_TOKENS},
    {"gen_ai_client_token_usage", "Number of input and output tokens used.", ROUTE_OUTPUT, STYLE_GENAI, "output", 1,
     EDGES_TOKENS},
};

struct histogram {
    uint64_t counts[EDGES_MAX + 1]; /* the last one in use: beyond every edge */
    uint64_t n;
    double sum;
};
struct series {
    char operation[ROUTE_LABEL_MAX], model[ROUTE_LABEL_MAX], node[ROUTE_LABEL_MAX];
    struct histogram histograms[FAMILIES];
};

struct route_metrics {
    pthread_mutex_t lock; /* guards all that follows */
    struct series *slots[SLOTS];
    struct series *list[ROUTE_SERIES_MAX + 1]; /* in order of appearance */
    int n;
    struct series *other; /* NULL: there was no need for it yet */
};

struct route_metrics *route_metrics_new(void)
{
    struct route_metrics *m = spw_calloc(1, sizeof *m);
    SPW_ASSERT(pthread_mutex_init(&m->lock, NULL) == 0);
    return m;
}

void route_metrics_free(struct route_metrics *m)
{
    if (!m)
        return;
    for (int i = 0; i < m->n; i++)
        free(m->list[i]);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* FNV-1a. */
static uint32_t hash(uint32_t h, const char *text)
{
    for (int i = 0; i + 1 < ROUTE_LABEL_MAX && text[i]; i++)
        h = (h ^ (unsigned char)text[i]) * 16777619u;
    return (h ^ 0xff) * 16777619u;
}

static bool label_is(const char *kept, const char *text)
{
    return strncmp(kept, text, ROUTE_LABEL_MAX - 1) == 0;
}

static struct series *add_locked(struct route_metrics *m, const char *operation, const char *model, const char *node)
{
    struct series *s = spw_calloc(1, sizeof *s);
    snprintf(s->operation, sizeof s->operation, "%s", operation);
    snprintf(s->model, sizeof s->model, "%s", model);
    snprintf(s->node, sizeof s->node, "%s", node);
    m->list[m->n++] = s;
    return s;
}

static struct series *series_locked(struct route_metrics *m, const struct route_labels *l)
{
    uint32_t i = hash(hash(hash(2166136261u, l->operation), l->model), l->node) & (SLOTS - 1);
    for (; m->slots[i]; i = (i + 1) & (SLOTS - 1)) {
        struct series *s = m->slots[i];
        if (label_is(s->node, l->node) && label_is(s->model, l->model) && label_is(s->operation, l->operation))
            return s;
    }
    if (m->n < ROUTE_SERIES_MAX)
        return m->slots[i] = add_locked(m, l->operation, l->model, l->node);
    if (!m->other)
        m->other = add_locked(m, "other", "other", "other");
    return m->other;
}

static void observe_locked(struct histogram *h, const struct family *f, int64_t value)
{
    double v = (double)value / f->scale;
    int b = 0;
    while (b < f->n_edges && v > f->edges[b])
        b++;
    h->counts[b]++;
    h->n++;
    h->sum += v;
}

void route_metrics_observe_all(struct route_metrics *m, const struct route_labels *labels,
                               const struct route_value *values, int n)
{
    SPW_ASSERT(pthread_mutex_lock(&m->lock) == 0);
    struct series *s = series_locked(m, labels);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < FAMILIES && values[i].value >= 0; k++) {
            if (families[k].what == values[i].what)
                observe_locked(&s->histograms[k], &families[k], values[i].value);
        }
    }
    SPW_ASSERT(pthread_mutex_unlock(&m->lock) == 0);
}

void route_metrics_observe(struct route_metrics *m, const struct route_labels *labels, enum route_metric what,
                           int64_t value)
{
    if (value >= 0)
        route_metrics_observe_all(m, labels, &(struct route_value){what, value}, 1);
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

struct writer { /* the first failure sticks */
    struct strbuf *out;
    enum rc rc;
};

static void put(struct writer *w, const char *format, ...) SPW_PRINTF(2, 3);
static void put(struct writer *w, const char *format, ...)
{
    va_list args;
    char text[256];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (w->rc == RC_OK)
        w->rc = strbuf_puts(w->out, text);
}

/* A label's value: backslash, quote and line break are escaped. */
static void put_label(struct writer *w, const char *name, const char *value)
{
    char text[2 * ROUTE_LABEL_MAX];
    size_t n = 0;
    for (const char *p = value; *p; p++) {
        if (*p == '\\' || *p == '"' || *p == '\n')
            text[n++] = '\\';
        text[n++] = *p;
        if (*p == '\n')
            text[n - 1] = 'n';
    }
    text[n] = '\0';
    put(w, "%s=\"", name);
    if (w->rc == RC_OK)
        w->rc = strbuf_append(w->out, text, n);
    put(w, "\"");
}

/* le NULL: none. */
static void put_labels(struct writer *w, const struct family *f, const struct series *s, const char *le)
{
    static const char *const names[][3] = {
        [STYLE_OURS] = {"operation", "model", "node"},
        [STYLE_GENAI] = {"gen_ai_operation_name", "gen_ai_request_model", "server_address"}};
    const char *const *n = names[f->style];
    put(w, "{");
    put_label(w, n[0], s->operation);
    put(w, ",");
    put_label(w, n[1], s->model);
    put(w, ",");
    put_label(w, n[2], s->node);
    if (f->style == STYLE_GENAI)
        put(w, ",gen_ai_provider_name=\"spillway\"");
    if (f->token_type)
        put(w, ",gen_ai_token_type=\"%s\"", f->token_type);
    if (le)
        put(w, ",le=\"%s\"", le);
    put(w, "}");
}

static void put_series(struct writer *w, const struct family *f, const struct series *s, const struct histogram *h)
{
    uint64_t total = 0;
    for (int b = 0; b <= f->n_edges; b++) {
        char le[32] = "+Inf";
        if (b < f->n_edges)
            snprintf(le, sizeof le, "%.9g", f->edges[b]);
        total += h->counts[b];
        put(w, "%s_bucket", f->name);
        put_labels(w, f, s, le);
        put(w, " %" PRIu64 "\n", total);
    }
    put(w, "%s_sum", f->name);
    put_labels(w, f, s, NULL);
    put(w, " %.9g\n%s_count", h->sum, f->name);
    put_labels(w, f, s, NULL);
    put(w, " %" PRIu64 "\n", h->n);
}

/* Series only ever grow in number and are never freed while there are metrics, so one at a time is copied under the
 * lock: a scrape must not hold up every request for as long as it takes to write a megabyte. */
enum rc route_metrics_render(struct route_metrics *m, struct strbuf *out)
{
    struct writer w = {.out = out, .rc = RC_OK};
    struct histogram h;
    SPW_ASSERT(pthread_mutex_lock(&m->lock) == 0);
    int n = m->n;
    SPW_ASSERT(pthread_mutex_unlock(&m->lock) == 0);
    for (int k = 0; k < FAMILIES; k++) {
        const struct family *f = &families[k];
        if (k == 0 || strcmp(f->name, families[k - 1].name) != 0)
            put(&w, "# HELP %s %s\n# TYPE %s histogram\n", f->name, f->help, f->name);
        for (int i = 0; i < n; i++) {
            SPW_ASSERT(pthread_mutex_lock(&m->lock) == 0);
            const struct series *s = m->list[i];
            h = s->histograms[k];
            SPW_ASSERT(pthread_mutex_unlock(&m->lock) == 0);
            if (h.n)
                put_series(&w, f, s, &h);
        }
    }
    return w.rc;
}
