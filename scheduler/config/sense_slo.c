/* SLOs that nobody can meet, and settings that are in their way: allowed, but probably not meant. A node's figures are
 * those of its calibration, alone with one request; where any node that may answer has none, nothing is known, and
 * nothing is said. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "policies/route.h"
#include "scheduler/calibrate/record.h"
#include "scheduler/config/config_internal.h"

struct aim_of { /* of a name that applications may ask for */
    const struct config *c;
    const char *name;
    const struct config_model *m; /* what is said of it; NULL: nothing */
    struct config_aim aim;
    const char *chain[CONFIG_CHAIN_MAX];
    int n_chain;
    struct strbuf *out;
    int *n;
};

/* Where a part of its SLO is given, and how that is called. */
static int where(const struct aim_of *a, const char *key, char *name, size_t size)
{
    const int row = config_row(config_tables[CONFIG_TABLE_MODELS], key);
    char main_key[64];
    if (a->m && a->m->lines[row]) {
        snprintf(name, size, "models[%d].%s", (int)(a->m - a->c->models), key);
        return a->m->lines[row];
    }
    snprintf(main_key, sizeof main_key, "routing.%s", key);
    snprintf(name, size, "%s", main_key);
    return config_main_line(a->c, main_key);
}

static bool may_answer(const struct aim_of *a, const struct config_node *n)
{
    if (a->m && a->m->local_only && !n->local)
        return false;
    for (int i = 0; i < a->n_chain; i++)
        if (config_node_serves(n, a->chain[i]))
            return true;
    return false;
}

/* Of those that may answer, the one with the least of figure(); NULL: there is none, or one of them was not calibrated. */
static const struct config_node *quickest(const struct aim_of *a,
                                          double (*figure)(const struct calibration *r, double x), double x, double *us)
{
    const struct config_node *best = NULL;
    for (int i = 0; i < config_servers(a->c); i++) {
        const struct config_node *n = config_server(a->c, i);
        if (!may_answer(a, n))
            continue;
        if (!n->calibrated)
            return NULL;
        const double f = figure(n->calibrated, x);
        if (!best || f < *us) {
            best = n;
            *us = f;
        }
    }
    return best;
}

static double first_token_us(const struct calibration *r, double prompt)
{
    return r->curve.base_us + r->curve.prefill_us_per_tok * prompt;
}

static double prompt_token_us(const struct calibration *r, double unused)
{
    (void)unused;
    return r->curve.prefill_us_per_tok;
}

static double next_token_us(const struct calibration *r, double unused)
{
    double us = r->curve.decode_us_base + r->curve.decode_us_per_seq;
    (void)unused;
    for (int i = 0; i < r->n_decode; i++)
        us = fmin(us, r->decode[i].us);
    return us;
}

static double up_to(double ms, double digits)
{
    return ceil(ms * digits) / digits;
}

static void warn_tpot(const struct aim_of *a)
{
    char key[64];
    double us;
    const int line = where(a, "slo_tpot", key, sizeof key);
    const struct config_node *n = a->aim.tpot_ms ? quickest(a, next_token_us, 0, &us) : NULL;
    if (n && us > (double)a->aim.tpot_ms * 1000)
        config_warn(
            a->c, a->out, a->n, line,
            "%s: no node can meet %lld ms for \"%s\": \"%s\" is the quickest of those that may answer, and takes "
            "%.4g ms per token with nothing else to do, by its calibration; %.0f ms or more would be right",
            key, (long long)a->aim.tpot_ms, a->name, n->name, us / 1000, up_to(us / 1000, 1));
}

/* For the shortest prompt, for the longest that has no more time than that, and then by the token. */
static void warn_ttft(const struct aim_of *a)
{
    char key[64];
    double us, slope = 0;
    const int line = where(a, "slo_ttft", key, sizeof key);
    const double limit_us = (double)a->aim.ttft_ms * 1000, per_token_us = (double)a->aim.ttft_per_1k_ms;
    const struct config_node *n = a->aim.ttft_ms ? quickest(a, first_token_us, 1, &us) : NULL;
    if (!n)
        return;
    if (us > limit_us) {
        config_warn(
            a->c, a->out, a->n, line,
            "%s: no node can meet %lld ms for \"%s\": \"%s\" is the quickest of those that may answer, and its first "
            "token takes %.4g ms after the shortest prompt, by its calibration; %.0f ms or more would be right",
            key, (long long)a->aim.ttft_ms, a->name, n->name, us / 1000, up_to(us / 1000, 1));
        return;
    }
    n = quickest(a, first_token_us, a->aim.free_tokens, &us);
    if (us > limit_us) {
        config_warn(
            a->c, a->out, a->n, line,
            "%s: no node can meet %lld ms for \"%s\" after a prompt of slo_free_tokens (%d): \"%s\", the quickest, "
            "takes %.4g ms alone, by its calibration; %.0f ms or more would be right",
            key, (long long)a->aim.ttft_ms, a->name, a->aim.free_tokens, n->name, us / 1000, up_to(us / 1000, 1));
        return;
    }
    n = quickest(a, prompt_token_us, 0, &slope);
    if (per_token_us > 0 && slope > per_token_us) {
        const double most = a->aim.free_tokens + (limit_us - us) / (slope - per_token_us);
        const int per_line = where(a, "slo_ttft_per_1k", key, sizeof key);
        config_warn(
            a->c, a->out, a->n, per_line,
            "%s: no node can meet it for \"%s\" after prompts of more than about %.0f tokens: \"%s\", the "
            "quickest, takes %.4g ms per 1,000 tokens, by its calibration, and has %lld; %.0f ms would be right",
            key, a->name, most, n->name, slope, (long long)a->aim.ttft_per_1k_ms, up_to(slope, 1));
    }
}

/* Rules that end a request, or its hope of a better node, only after it is late, or before it could be. */
static void warn_rules(const struct aim_of *a)
{
    char key[64];
    const struct config *c = a->c;
    (void)where(a, "slo_ttft", key, sizeof key);
    if (!a->aim.ttft_ms)
        return;
    if (c->first_byte_ms < a->aim.ttft_ms)
        config_warn(
            c, a->out, a->n, config_main_line(c, "routing.first_byte"),
            "routing.first_byte: after %lld ms another node is tried, before %s (%lld ms) is missed for \"%s\"; "
            "give it more than that",
            (long long)c->first_byte_ms, key, (long long)a->aim.ttft_ms, a->name);
    if (c->breaker_slow_ms && c->breaker_slow_ms < a->aim.ttft_ms)
        config_warn(
            c, a->out, a->n, config_main_line(c, "breaker.slow"),
            "breaker.slow: a first token after %lld ms counts as a failure, and is well within %s (%lld ms) for "
            "\"%s\"; give it more than that",
            (long long)c->breaker_slow_ms, key, (long long)a->aim.ttft_ms, a->name);
    if (a->m && a->m->n_fallbacks && a->m->fallback_when == FALLBACK_WHEN_FULL &&
        a->m->fallback_after_ms >= a->aim.ttft_ms)
        config_warn(
            c, a->out, a->n, a->m->lines[config_row(config_tables[CONFIG_TABLE_MODELS], "fallback_after")],
            "models[%d].fallback_after: who has waited for %lld ms has missed %s (%lld ms) already; less would be "
            "right",
            (int)(a->m - c->models), (long long)a->m->fallback_after_ms, key, (long long)a->aim.ttft_ms);
}

/* What it goes by must be known of somebody. */
static void warn_objective(const struct aim_of *a)
{
    static const char *const names[] = {"cost", "latency", "energy", "balanced"};
    char key[64];
    const int line = where(a, "objective", key, sizeof key);
    bool any = false, known = false;
    if (a->aim.objective != ROUTE_ENERGY && a->aim.objective != ROUTE_BALANCED)
        return;
    for (int i = 0; i < config_servers(a->c); i++) {
        const struct config_node *node = config_server(a->c, i);
        if (!may_answer(a, node))
            continue;
        any = true;
        known = known || (node->local && node->levels);
    }
    if (any && !known)
        config_warn(a->c, a->out, a->n, line,
                    "%s: %s for \"%s\", but of no node that may answer the watts are known: joules decide nothing; "
                    "give local nodes watts and power.idle_watts",
                    key, names[a->aim.objective], a->name);
}

static void warn_name(const struct config *c, const char *name, const struct config_model *m, struct strbuf *out,
                      int *n)
{
    struct aim_of a = {.c = c, .name = name, .m = m, .aim = config_aim(c, m), .out = out, .n = n};
    a.n_chain = config_model_chain(c, name, a.chain);
    warn_tpot(&a);
    warn_ttft(&a);
    warn_rules(&a);
    warn_objective(&a);
}

/* Is it the first time that a node's model is named, and is nothing said of it? */
static bool is_new(const struct config *c, int node, int model)
{
    const char *name = c->nodes[node].models[model];
    for (int i = 0; i <= node; i++)
        for (int k = 0; k < (i < node ? c->nodes[i].n_models : model); k++)
            if (strcmp(c->nodes[i].models[k], name) == 0)
                return false;
    return !config_model(c, name);
}

void config_warn_slos(const struct config *c, struct strbuf *out, int *n)
{
    for (int i = 0; i < c->n_models; i++)
        warn_name(c, c->models[i].name, &c->models[i], out, n);
    for (int i = 0; i < c->n_nodes; i++)
        for (int k = 0; k < c->nodes[i].n_models; k++)
            if (is_new(c, i, k))
                warn_name(c, c->nodes[i].models[k], NULL, out, n);
}
