/* Models, their other names and their fallbacks, checked across rows; and the chain of models that stands behind a
 * name. */
#include "scheduler/config/config_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/auth/identity.h"

const struct config_model *config_model(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_models; i++)
        if (c->models[i].name && strcmp(c->models[i].name, name) == 0)
            return &c->models[i];
    return NULL;
}

static bool has_word(const char *const *words, int n, const char *word)
{
    for (int i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0)
            return true;
    return false;
}

const struct config_model *config_alias(const struct config *c, const char *alias)
{
    for (int i = 0; i < c->n_models; i++)
        if (has_word(c->models[i].aliases, c->models[i].n_aliases, alias))
            return &c->models[i];
    return NULL;
}

bool config_model_served(const struct config *c, const char *name)
{
    for (int i = 0; i < config_servers(c); i++)
        if (config_node_serves(config_server(c, i), name))
            return true;
    return false;
}

struct config_aim config_aim(const struct config *c, const struct config_model *m)
{
    struct config_aim aim = c->aim;
    if (!m)
        return aim;
    if (m->aim.objective)
        aim.objective = m->aim.objective - 1;
    aim.ttft_ms = m->aim.ttft_ms ? m->aim.ttft_ms : aim.ttft_ms;
    aim.tpot_ms = m->aim.tpot_ms ? m->aim.tpot_ms : aim.tpot_ms;
    aim.ttft_per_1k_ms = m->aim.ttft_per_1k_ms ? m->aim.ttft_per_1k_ms : aim.ttft_per_1k_ms;
    aim.free_tokens = m->aim.free_tokens ? m->aim.free_tokens : aim.free_tokens;
    aim.probability_ppm = m->aim.probability_ppm ? m->aim.probability_ppm : aim.probability_ppm;
    return aim;
}

/* ---- chains ----------------------------------------------------------------------------------------------------- */

struct walk {
    const struct config *c;
    const char **chain;
    int n;
    const struct config_model *path[CONFIG_CHAIN_MAX]; /* entries that led here */
    int depth;
    bool done[CONFIG_MODELS_MAX]; /* entries whose whole chain is in already */
};

static bool add_to_chain(struct walk *w, const char *name)
{
    if (has_word(w->chain, w->n, name) || !config_model_served(w->c, name))
        return true;
    if (w->n == CONFIG_CHAIN_MAX)
        return false;
    w->chain[w->n++] = name;
    return true;
}

/* Bounded: every entry is followed once. */
static bool follow(struct walk *w, const char *name)
{
    const struct config_model *m = config_model(w->c, name);
    if (!add_to_chain(w, name))
        return false;
    if (!m || m->n_fallbacks == 0 || w->done[m - w->c->models])
        return true;
    if (w->depth == CONFIG_CHAIN_MAX)
        return false;
    for (int i = 0; i < w->depth; i++)
        if (w->path[i] == m)
            return false;
    w->path[w->depth++] = m;
    for (int i = 0; i < m->n_fallbacks; i++)
        if (!follow(w, m->fallbacks[i]))
            return false;
    w->depth--;
    w->done[m - w->c->models] = true;
    return true;
}

int config_model_chain(const struct config *c, const char *name, const char *chain[CONFIG_CHAIN_MAX])
{
    struct walk w = {.c = c, .chain = chain};
    return follow(&w, name) ? w.n : -1;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

/* Where it is given; 0: it is not. */
static int line_of(const struct config_model *m, const char *key)
{
    return m->lines[config_row(config_tables[CONFIG_TABLE_MODELS], key)];
}

static void problem(struct config_loader *l, const struct config_model *m, const char *key, const char *text)
{
    char name[64];
    int line = line_of(m, key);
    snprintf(name, sizeof name, "models[%d].%s", (int)(m - l->c->models), key);
    config_problem(l, line ? line : m->line, name, "%s", text);
}

/* A name that an application may ask for, and who claims it. */
struct claim {
    const char *name;
    enum { CLAIM_ENTRY, CLAIM_NODE, CLAIM_ALIAS } by; /* in the order of their rights */
    int line;                                         /* of the node or the entry */
    const struct config_model *model;                 /* NULL: a node's */
};

static int by_name(const void *a, const void *b)
{
    const struct claim *p = a, *q = b;
    int order = strcmp(p->name, q->name);
    if (order)
        return order;
    return p->by != q->by ? (int)p->by - (int)q->by : p->line - q->line;
}

static int collect(const struct config *c, struct claim *claims)
{
    int n = 0;
    for (int i = 0; i < config_servers(c); i++) {
        const struct config_node *s = config_server(c, i);
        for (int k = 0; k < s->n_models; k++)
            claims[n++] = (struct claim){s->models[k], CLAIM_NODE, s->line, NULL};
    }
    for (int i = 0; i < c->n_models; i++) {
        const struct config_model *m = &c->models[i];
        if (m->name)
            claims[n++] = (struct claim){m->name, CLAIM_ENTRY, m->line, m};
        for (int k = 0; k < m->n_aliases; k++)
            claims[n++] = (struct claim){m->aliases[k], CLAIM_ALIAS, m->line, m};
    }
    return n;
}

static void dispute(struct config_loader *l, const struct claim *first, const struct claim *later)
{
    char text[256];
    const char *whose = first->by == CLAIM_NODE    ? "a model of the node"
                        : first->by == CLAIM_ENTRY ? "the name of the entry"
                                                   : "an alias of the entry";
    if (later->by == CLAIM_NODE || (later->by == CLAIM_ENTRY && first->by == CLAIM_NODE))
        return; /* several nodes may serve a model, and an entry may speak of it */
    snprintf(text, sizeof text, "\"%.80s\" is also %s at line %d; a name means one model", later->name, whose,
             first->line);
    problem(l, later->model, later->by == CLAIM_ALIAS ? "aliases" : "name", text);
}

/* Sorted, so that thousands of names are not millions of comparisons. */
static void check_names(struct config_loader *l)
{
    const struct config *c = l->c;
    size_t most = 1;
    for (int i = 0; i < config_servers(c); i++)
        most += (size_t)config_server(c, i)->n_models;
    for (int i = 0; i < c->n_models; i++)
        most += (size_t)c->models[i].n_aliases + 1;
    struct claim *claims = spw_calloc(most, sizeof *claims);
    int n = collect(c, claims);
    qsort(claims, (size_t)n, sizeof claims[0], by_name);
    for (int i = 1, first = 0; i < n; i++) {
        if (strcmp(claims[i].name, claims[first].name) == 0)
            dispute(l, &claims[first], &claims[i]);
        else
            first = i;
    }
    free(claims);
}

static const char *nearest_target(const struct config *c, const char *word)
{
    const char *words[512];
    int n = 0;
    for (int i = 0; i < config_servers(c); i++)
        for (int k = 0; k < config_server(c, i)->n_models && n < 512; k++)
            words[n++] = config_server(c, i)->models[k];
    for (int i = 0; i < c->n_models && n < 512; i++)
        if (c->models[i].name)
            words[n++] = c->models[i].name;
    return text_nearest(word, words, n);
}

static void check_target(struct config_loader *l, const struct config_model *m, const char *target)
{
    const struct config_model *entry = config_alias(l->c, target);
    char text[320];
    if (config_model_served(l->c, target) || config_model(l->c, target))
        return;
    const char *near = nearest_target(l->c, target);
    if (entry && entry->name)
        snprintf(text, sizeof text, "\"%.80s\" is an alias; write \"%.80s\"", target, entry->name);
    else
        snprintf(text, sizeof text, "\"%.80s\" is served by no node, and is no entry of models%s%.80s%s", target,
                 near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    problem(l, m, "fallbacks", text);
}

static void check_fallbacks(struct config_loader *l, const struct config_model *m)
{
    const char *chain[CONFIG_CHAIN_MAX];
    char text[256];
    const char *idle = line_of(m, "fallback_when")    ? "fallback_when"
                       : line_of(m, "fallback_after") ? "fallback_after"
                                                      : NULL;
    int before = l->n_problems;
    for (int i = 0; i < m->n_fallbacks; i++) {
        check_target(l, m, m->fallbacks[i]);
        if (has_word(m->fallbacks, i, m->fallbacks[i])) {
            snprintf(text, sizeof text, "\"%.80s\" is listed twice", m->fallbacks[i]);
            problem(l, m, "fallbacks", text);
        }
    }
    if (m->n_fallbacks == 0 && idle)
        problem(l, m, idle, "means nothing without fallbacks");
    else if (m->fallback_after_ms && m->fallback_when != FALLBACK_WHEN_FULL)
        problem(l, m, "fallback_after", "means nothing unless fallback_when is full");
    if (l->n_problems != before || !m->name)
        return;
    int n = config_model_chain(l->c, m->name, chain);
    if (n < 0) {
        snprintf(text, sizeof text, "they lead back to themselves, or to more than %d models", CONFIG_CHAIN_MAX);
        problem(l, m, "fallbacks", text);
    } else if (n == 0) {
        problem(l, m, "name", "no node serves it, and it has no fallbacks that one serves");
    }
}

static void check_words(struct config_loader *l, const struct config_model *m, const char *key, const char **words,
                        int n)
{
    char text[256];
    for (int i = 0; i < n; i++) {
        if (identity_model_ok(words[i]) && !strchr(words[i], '*'))
            continue;
        snprintf(text, sizeof text,
                 "\"%.80s\" is not a name; 1 to 128 printable characters without blanks, quotes or '*'", words[i]);
        problem(l, m, key, text);
    }
}

void config_check_models(struct config_loader *l)
{
    check_names(l);
    for (int i = 0; i < l->c->n_models; i++) {
        const struct config_model *m = &l->c->models[i];
        check_words(l, m, "aliases", m->aliases, m->n_aliases);
        check_words(l, m, "capabilities", m->capabilities, m->n_capabilities);
        check_fallbacks(l, m);
    }
}
