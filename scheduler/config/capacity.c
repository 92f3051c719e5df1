/* Providers, pools and the power of own machines, checked by the tables that each provider declares of itself. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "providers/provider.h"
#include "scheduler/config/config_internal.h"

#define BOOT_DEFAULT_MS 30000

/* ---- who may answer -------------------------------------------------------------------------------------------------- */

int config_servers(const struct config *c)
{
    return c->n_nodes + c->n_pools;
}

const struct config_node *config_server(const struct config *c, int i)
{
    return i < c->n_nodes ? &c->nodes[i] : &c->pools[i - c->n_nodes].node;
}

const struct config_pool *config_pool(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_pools; i++) {
        if (strcmp(c->pools[i].node.name, name) == 0)
            return &c->pools[i];
    }
    return NULL;
}

void config_server_key(const struct config *c, const struct config_node *n, const char *key, char *name, size_t size,
                       int *line)
{
    const struct settings *t = config_tables[n->pool ? CONFIG_TABLE_POOLS : CONFIG_TABLE_NODES];
    const int row = config_row(t, key);
    const int *lines = n->pool ? n->pool->lines : n->lines;
    snprintf(name, size, "%s[%d].%s", t->name, n->pool ? (int)(n->pool - c->pools) : (int)(n - c->nodes), key);
    *line = row >= 0 && lines[row] ? lines[row] : n->line;
}

/* ---- settings -------------------------------------------------------------------------------------------------------- */

struct place { /* where a section of settings stands */
    char name[128];
    int line;
};

/* All of it is held against the provider's own table, then paths are made absolute. NULL: a problem was noted. */
static const struct provider_settings *take(struct config_loader *l, const struct place *at,
                                            const struct provider_key *keys, struct provider_pair *pairs, int n)
{
    struct provider_settings *s = arena_alloc(l->c->arena, sizeof *s);
    struct error e;
    *s = (struct provider_settings){keys, pairs, n};
    if (provider_settings_check(s, &e) != RC_OK) {
        config_problem(l, at->line, at->name, "%s", e.message);
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        for (const struct provider_key *k = keys; k && k->name; k++) {
            if ((k->type == KEY_FILE || k->type == KEY_SECRET_FILE) && strcmp(k->name, pairs[i].key) == 0)
                pairs[i].value = config_path(l, pairs[i].value);
        }
    }
    return s;
}

/* "aws, process, static": for messages. */
static const char *all_types(char *buf, size_t size, unsigned caps)
{
    buf[0] = '\0';
    for (int i = 0; provider_list[i]; i++) {
        if ((provider_list[i]->caps & caps) == caps)
            snprintf(buf + strlen(buf), size - strlen(buf), "%s%s", buf[0] ? ", " : "", provider_list[i]->name);
    }
    return buf;
}

/* ---- providers ------------------------------------------------------------------------------------------------------- */

static const struct config_provider *find_provider(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_providers; i++) {
        if (c->providers[i].name && strcmp(c->providers[i].name, name) == 0)
            return &c->providers[i];
    }
    return NULL;
}

static void check_provider(struct config_loader *l, int i)
{
    struct config_provider *p = &l->c->providers[i];
    struct place at = {.line = p->line};
    char types[256];
    if (!p->name || !p->type)
        return;
    snprintf(at.name, sizeof at.name, "providers[%d].name", i);
    if (find_provider(l->c, p->name) != p)
        config_problem(l, p->line, at.name, "\"%s\" is listed twice; every provider needs its own name", p->name);
    p->ops = provider_find(p->type);
    snprintf(at.name, sizeof at.name, "providers[%d].type", i);
    if (!p->ops) {
        config_problem(l, p->line, at.name, "\"%.64s\" is unknown; one of %s is right", p->type,
                       all_types(types, sizeof types, 0));
        return;
    }
    if (provider_find(p->name) && strcmp(p->name, p->type) != 0)
        config_problem(l, p->line, at.name, "\"%s\" is the name of another type; call this one differently", p->name);
    const int row = config_row(config_tables[CONFIG_TABLE_PROVIDERS], "settings");
    snprintf(at.name, sizeof at.name, "providers[%d].settings", i);
    at.line = p->lines[row] ? p->lines[row] : p->line;
    p->settings = take(l, &at, p->ops->keys, p->pairs, p->n_pairs);
}

/* ---- pools ----------------------------------------------------------------------------------------------------------- */

static void pool_problem(struct config_loader *l, const struct config_pool *p, const char *key, const char *text)
{
    char name[128];
    int line;
    config_server_key(l->c, &p->node, key, name, sizeof name, &line);
    config_problem(l, line, name, "%s", text);
}

static bool needs_settings(const struct provider_ops *ops)
{
    for (const struct provider_key *k = ops->keys; k && k->name; k++) {
        if (k->required)
            return true;
    }
    return false;
}

static void find_source(struct config_loader *l, struct config_pool *p)
{
    char text[400], types[256];
    if (!p->provider)
        return;
    p->from = find_provider(l->c, p->provider);
    p->ops = p->from ? p->from->ops : provider_find(p->provider);
    if (p->from && !p->ops)
        return; /* said already */
    if (!p->ops)
        snprintf(text, sizeof text, "\"%.64s\" is no entry of providers, and no type; types are %s", p->provider,
                 all_types(types, sizeof types, PROVIDER_CAN_LAUNCH));
    else if (!(p->ops->caps & PROVIDER_CAN_LAUNCH))
        snprintf(text, sizeof text, "provider %s launches nothing; types that do are %s", p->ops->name,
                 all_types(types, sizeof types, PROVIDER_CAN_LAUNCH));
    else if (!p->from && needs_settings(p->ops))
        snprintf(text, sizeof text, "type %s needs settings: add an entry to providers and name it here", p->ops->name);
    else
        return;
    pool_problem(l, p, "provider", text);
    p->ops = NULL;
}

static void check_pool_name(struct config_loader *l, const struct config_pool *p)
{
    char text[200];
    const struct config *c = l->c;
    const size_t n = strlen(p->node.name);
    if (n > 48)
        pool_problem(l, p, "name", "too long; up to 48 characters are allowed, since its nodes get a number behind it");
    for (int i = 0; i < c->n_nodes; i++) {
        const char *node = c->nodes[i].name;
        if (node && strncmp(node, p->node.name, n) == 0 && (node[n] == '\0' || node[n] == '-')) {
            snprintf(text, sizeof text, "its nodes are called \"%.48s-1\" and so on, too close to the node \"%.64s\"",
                     p->node.name, node);
            pool_problem(l, p, "name", text);
            return;
        }
    }
    if (config_pool(c, p->node.name) != p)
        pool_problem(l, p, "name", "another pool has this name; every pool needs its own");
}

static void check_markets(struct config_loader *l, const struct config_pool *p)
{
    char text[160];
    for (int i = 0; i < p->n_markets; i++) {
        if (strcmp(p->markets[i], "spot") == 0 || strcmp(p->markets[i], "on-demand") == 0)
            continue;
        snprintf(text, sizeof text, "\"%.64s\" is no market; spot and on-demand are", p->markets[i]);
        pool_problem(l, p, "markets", text);
    }
}

static void check_pool(struct config_loader *l, struct config_pool *p)
{
    struct place at;
    struct error e;
    if (!p->node.name)
        return;
    check_pool_name(l, p);
    check_markets(l, p);
    find_source(l, p);
    if (p->max < p->min)
        pool_problem(l, p, "max", "less than min");
    if (p->price_text && pusd_parse(p->price_text, &p->price_hour, &e) != RC_OK)
        pool_problem(l, p, "price_hour", e.message);
    if (!p->ops)
        return;
    if (!(p->ops->caps & PROVIDER_HAS_OFFERS) && !p->boot_ms)
        p->boot_ms = BOOT_DEFAULT_MS;
    config_server_key(l->c, &p->node, "settings", at.name, sizeof at.name, &at.line);
    p->settings = take(l, &at, p->ops->node_keys, p->pairs, p->n_pairs);
}

/* ---- machines -------------------------------------------------------------------------------------------------------- */

static void check_machine(struct config_loader *l, struct config_node *n)
{
    struct place at;
    if (!n->n_machine)
        return;
    config_server_key(l->c, n, "machine", at.name, sizeof at.name, &at.line);
    if (n->provider != PROVIDER_STATIC)
        config_problem(l, at.line, at.name, "means nothing for provider process; remove it");
    else
        n->machine_settings = take(l, &at, provider_static.node_keys, n->machine, n->n_machine);
}

static void check_money(struct config_loader *l)
{
    struct config_capacity *c = &l->c->capacity;
    struct error e;
    const int row = config_row(config_tables[CONFIG_TABLE_MAIN], "capacity.max_hour");
    if (strcmp(c->max_hour_text, "unlimited") == 0)
        c->max_hour.v = -1;
    else if (pusd_parse(c->max_hour_text, &c->max_hour, &e) != RC_OK)
        config_problem(l, l->c->lines[row], "capacity.max_hour", "%s; or write unlimited", e.message);
}

void config_check_capacity(struct config_loader *l)
{
    struct config *c = l->c;
    check_money(l);
    for (int i = 0; i < c->n_providers; i++)
        check_provider(l, i);
    for (int i = 0; i < c->n_pools; i++)
        check_pool(l, &c->pools[i]);
    for (int i = 0; i < c->n_nodes; i++)
        check_machine(l, &c->nodes[i]);
}

void config_warn_capacity(const struct config *c, struct strbuf *out, int *n)
{
    int most = c->n_nodes, min = 0;
    for (int i = 0; i < c->n_pools; i++) {
        const struct config_pool *p = &c->pools[i];
        min += p->min;
        most += p->max < c->capacity.max_nodes ? p->max : c->capacity.max_nodes;
        if (p->max > p->min && !p->node.tokens_per_s && !p->node.calibrated)
            config_warn(c, out, n, p->line,
                        "capacity.pools[%d].tokens_per_s: neither this nor a calibration says what a node of pool "
                        "\"%s\" can do, so only min of them, and one more when somebody waits, are launched",
                        i, p->node.name);
    }
    if (min > c->capacity.max_nodes)
        config_warn(c, out, n, 0, "capacity.max_nodes: %d, but the pools' min together is %d", c->capacity.max_nodes,
                    min);
    if (most > CONFIG_NODES_MAX)
        config_warn(c, out, n, 0,
                    "capacity.pools: with %d nodes there is only room for %d of the %d that pools may launch",
                    c->n_nodes, CONFIG_NODES_MAX - c->n_nodes, most - c->n_nodes);
}
