/* What GET /v1/models says of a model: OpenAI's four fields, and beside them what a program wants to know before it
 * chooses: context, prices, where it is computed, what it can. Only what the caller may have: the facts are gathered
 * from the nodes that could answer him. Pure. */
#ifndef SCHEDULER_FRONT_MODEL_PAGE_H
#define SCHEDULER_FRONT_MODEL_PAGE_H

#include "scheduler/auth/identity.h"
#include "scheduler/front/model_table.h"
#include "scheduler/nodes/card.h"

struct model_facts {
    int nodes, local_nodes;              /* that could answer; 0: it is not for this caller */
    int64_t context;                     /* the smallest that is known; 0: none is */
    struct token_prices lowest, highest; /* of each price by itself */
    bool continues;                      /* answers can go on elsewhere on some */
};
/* One more node that serves a model of the chain and that the caller may reach. */
void model_facts_add(struct model_facts *f, const struct config_node *node, const struct node_card *card);
/* May who's requests for `asked` come to its chain's model `step`? */
bool model_may_step(const struct model *asked, const struct model *step, const struct identity *who);
/* Must they stay on the premises when they do? */
bool model_stays_local(const struct model *asked, const struct model *step, const struct identity *who);

/* One object of the list, appended. id: the model's name or one of its aliases. */
enum rc model_page_write(const struct model *m, const char *id, const struct identity *who, const struct model_facts *f,
                         int64_t created_s, struct strbuf *out) SPW_MUST_USE;

#endif
