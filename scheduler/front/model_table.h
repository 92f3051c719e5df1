/* The models that applications may ask for: every name that a node serves and every entry of `models`, with their
 * aliases and the chain that each stands for. Built once from a configuration, which it borrows from; read-only
 * afterwards, so any thread may read it. */
#ifndef SCHEDULER_FRONT_MODEL_TABLE_H
#define SCHEDULER_FRONT_MODEL_TABLE_H

#include "policies/fallback.h"
#include "scheduler/config/config.h"

struct model {
    const char *name;
    int index;                                   /* in the table */
    const struct config_model *config;           /* NULL: nodes alone speak of it */
    struct config_aim aim;                       /* what routing is to go by */
    const struct model *chain[CONFIG_CHAIN_MAX]; /* who answers for it, in order; each is served by a node */
    int n_chain;                                 /* at least 1 */
    struct fallback_rule rule;
    struct room *room; /* where requests for it wait; the front's */
};

struct model_table;
/* In the memory of c. */
struct model_table *model_table_new(const struct config *c);
/* Before anybody else sees the table: each model's waiting room. */
void model_table_set_rooms(struct model_table *t, struct room *(*of)(void *arg, const char *model), void *arg);
int model_table_count(const struct model_table *t);
const struct model *model_table_at(const struct model_table *t, int index);
/* By name or alias; NULL: there is none. */
const struct model *model_table_find(const struct model_table *t, const char *name);

#endif
