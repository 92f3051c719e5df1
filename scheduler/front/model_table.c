#include "scheduler/front/model_table.h"

#include <stdlib.h>
#include <string.h>

struct name {
    const char *text;
    const struct model *model;
};

struct model_table {
    struct model *models;
    struct name *names; /* sorted; aliases, too */
    int n, n_names;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(((const struct name *)a)->text, ((const struct name *)b)->text);
}

static size_t count_names(const struct config *c)
{
    size_t n = 0;
    for (int i = 0; i < config_servers(c); i++)
        n += (size_t)config_server(c, i)->n_models;
    for (int i = 0; i < c->n_models; i++)
        n += 1 + (size_t)c->models[i].n_aliases;
    return n;
}

static bool has(const struct model_table *t, const char *name)
{
    for (int i = 0; i < t->n; i++) {
        if (strcmp(t->models[i].name, name) == 0)
            return true;
    }
    return false;
}

static void add_model(struct model_table *t, const char *name, const struct config_model *config)
{
    if (has(t, name))
        return;
    struct model *m = &t->models[t->n];
    *m = (struct model){.name = name, .index = t->n++, .config = config};
    if (config)
        m->rule = (struct fallback_rule){config->fallback_when == FALLBACK_WHEN_FULL, config->fallback_after_ms};
    t->names[t->n_names++] = (struct name){name, m};
}

/* Once the names are sorted. */
static void link_chain(struct model_table *t, const struct config *c, struct model *m)
{
    const char *chain[CONFIG_CHAIN_MAX];
    int n = config_model_chain(c, m->name, chain);
    SPW_ASSERT(n > 0); /* the configuration was checked */
    for (m->n_chain = 0; m->n_chain < n; m->n_chain++)
        m->chain[m->n_chain] = model_table_find(t, chain[m->n_chain]);
}

struct model_table *model_table_new(const struct config *c)
{
    struct model_table *t = arena_alloc(c->arena, sizeof *t);
    size_t most = count_names(c) + 1;
    t->models = arena_alloc(c->arena, most * sizeof *t->models);
    t->names = arena_alloc(c->arena, most * sizeof *t->names);
    for (int i = 0; i < config_servers(c); i++) {
        const struct config_node *s = config_server(c, i);
        for (int k = 0; k < s->n_models; k++)
            add_model(t, s->models[k], config_model(c, s->models[k]));
    }
    for (int i = 0; i < c->n_models; i++)
        add_model(t, c->models[i].name, &c->models[i]);
    for (int i = 0; i < t->n; i++) {
        const struct config_model *m = t->models[i].config;
        for (int k = 0; m && k < m->n_aliases; k++)
            t->names[t->n_names++] = (struct name){m->aliases[k], &t->models[i]};
    }
    qsort(t->names, (size_t)t->n_names, sizeof t->names[0], by_text);
    for (int i = 0; i < t->n; i++) {
        link_chain(t, c, &t->models[i]);
        t->models[i].aim = config_aim(c, t->models[i].config);
    }
    return t;
}

void model_table_set_rooms(struct model_table *t, struct room *(*of)(void *arg, const char *model), void *arg)
{
    for (int i = 0; i < t->n; i++)
        t->models[i].room = of(arg, t->models[i].name);
}

int model_table_count(const struct model_table *t)
{
    return t->n;
}

const struct model *model_table_at(const struct model_table *t, int index)
{
    SPW_ASSERT(index >= 0 && index < t->n);
    return &t->models[index];
}

const struct model *model_table_find(const struct model_table *t, const char *name)
{
    struct name key = {name, NULL};
    const struct name *found = bsearch(&key, t->names, (size_t)t->n_names, sizeof t->names[0], by_text);
    return found ? found->model : NULL;
}
