/* GET /v1/models: every model and alias that the caller could get an answer from. Nobody is shown what he cannot have:
 * other models than his, or, for a credential that is bound to the premises, what is served elsewhere. */
#include <string.h>

#include "scheduler/front/front_internal.h"

/* What the nodes that could answer him say of it. */
static struct model_facts facts_of(struct lane *l, const struct model *m, const struct identity *who)
{
    struct front *f = l->front;
    struct model_facts facts = {0};
    for (int k = 0; k < m->n_chain; k++) {
        const struct model *as = m->chain[k];
        if (!model_may_step(m, as, who))
            continue;
        bool stays = model_stays_local(m, as, who);
        front_lock(f);
        for (int i = 0; i < nodes_count(f->nodes); i++) {
            const struct node *n = nodes_at(f->nodes, i);
            if (node_serves(n, as->name) && (!stays || n->config->local))
                model_facts_add(&facts, n->config, &n->card);
        }
        front_unlock_on(l);
    }
    return facts;
}

struct listing {
    struct lane *lane;
    const struct identity *who;
    struct strbuf *out;
    bool first;
};

static enum rc list_name(struct listing *l, const struct model *m, const char *name, const struct model_facts *facts)
{
    enum rc rc = l->first ? RC_OK : strbuf_puts(l->out, ",");
    l->first = false;
    return rc == RC_OK ? model_page_write(m, name, l->who, facts, l->lane->front->created_s, l->out) : rc;
}

static enum rc list_model(struct listing *l, const struct model *m)
{
    struct model_facts facts = facts_of(l->lane, m, l->who);
    if (!facts.nodes)
        return RC_OK;
    enum rc rc = list_name(l, m, m->name, &facts);
    for (int i = 0; m->config && i < m->config->n_aliases && rc == RC_OK; i++)
        rc = list_name(l, m, m->config->aliases[i], &facts);
    return rc;
}

enum rc catalogue_list(struct lane *lane, const struct identity *who, struct strbuf *out)
{
    struct listing l = {.lane = lane, .who = who, .out = out, .first = true};
    enum rc rc = strbuf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < model_table_count(lane->config->model_table) && rc == RC_OK; i++)
        rc = list_model(&l, model_table_at(lane->config->model_table, i));
    return rc == RC_OK ? strbuf_puts(out, "]}") : rc;
}

enum rc catalogue_one(struct lane *lane, const struct identity *who, const char *name, struct strbuf *out)
{
    const struct model *m = model_table_find(lane->config->model_table, name);
    struct model_facts facts = {0};
    if (m)
        facts = facts_of(lane, m, who);
    return facts.nodes ? model_page_write(m, name, who, &facts, lane->front->created_s, out) : RC_NOT_FOUND;
}
