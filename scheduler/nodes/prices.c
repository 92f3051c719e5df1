/* What finance says of prices, laid over what the configuration says of a node (struct price_book). */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/nodes/nodes.h"

/* In the order in which they count: whose rate or price it is. */
static int rank_of(const struct node_price *p, const struct config_node *c)
{
    const char *model = c->n_models == 1 ? c->models[0] : NULL;
    if (strcmp(p->subject, c->name) == 0)
        return 1;
    if (c->pool && strcmp(p->subject, c->pool->node.name) == 0)
        return 2;
    return !p->is_rate && model && strcmp(p->subject, model) == 0 ? 3 : 0;
}

static const struct node_price *find(const struct price_book *b, const struct config_node *c, bool rate)
{
    const struct node_price *best = NULL;
    int rank = 4;
    for (int i = 0; i < b->n; i++) {
        const int r = b->list[i].is_rate == rate ? rank_of(&b->list[i], c) : 0;
        if (r && r < rank) {
            rank = r;
            best = &b->list[i];
        }
    }
    return best;
}

static bool same(const struct token_prices *a, const struct token_prices *b)
{
    return a->input.uusd_per_mtok == b->input.uusd_per_mtok && a->output.uusd_per_mtok == b->output.uusd_per_mtok &&
           a->cached_input.uusd_per_mtok == b->cached_input.uusd_per_mtok;
}

const struct token_prices *node_prices_configured(const struct node_spec *s)
{
    return s->repriced ? &s->configured : &s->config->prices;
}

/* NULL: it is as it should be. */
static struct node_spec *repriced(const struct price_book *b, struct node_spec *s)
{
    const struct token_prices configured = *node_prices_configured(s);
    const struct node_price *price = find(b, s->config, false), *rate = find(b, s->config, true);
    const struct token_prices listed = price ? price->prices : configured;
    const struct token_prices charged = rate ? rate->prices : listed;
    const int64_t version = rate ? rate->version : price ? price->version : 0;
    if (!s->repriced && !version)
        return NULL;
    if (s->config->price_version == version && same(&s->config->prices, &charged) && same(&s->config->listed, &listed))
        return NULL;
    struct node_spec *copy = node_spec_copy(s);
    if (!copy->own)
        copy->config = copy->own = config_node_copy(s->config);
    copy->own->prices = charged;
    copy->own->listed = listed;
    copy->own->price_version = version;
    copy->configured = configured;
    copy->repriced = true;
    return copy;
}

struct node_spec *node_spec_priced(struct nodes *t, struct node_spec *s)
{
    struct node_spec *other = repriced(nodes_price_book(t), s);
    if (!other)
        return s;
    node_spec_unref(s);
    return other;
}

static void reprice(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    struct node_spec *other = repriced(nodes_price_book(n->table), n->spec);
    if (!other)
        return;
    pthread_mutex_lock(o->lock);
    struct node_spec *before = n->spec;
    n->spec = other;
    n->config = other->config;
    node_changed_locked(n);
    pthread_mutex_unlock(o->lock);
    node_spec_unref(before);
}

void nodes_set_prices(struct nodes *t, const struct node_price *list, int n)
{
    struct price_book *b = nodes_price_book(t);
    free(b->list);
    b->list = spw_calloc((size_t)n + 1, sizeof *b->list);
    b->n = n;
    if (n)
        memcpy(b->list, list, (size_t)n * sizeof *list);
    for (int i = 0; i < nodes_count(t); i++)
        if (node_is_there(nodes_at(t, i)))
            reprice(nodes_at(t, i));
}
