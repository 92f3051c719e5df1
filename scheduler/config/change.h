/* What a new configuration changes of the one that runs, item by item, and what of that has to wait for a restart. From
 * the schema: a row without SETTING_RELOAD is read once, at the start. Items of lists (nodes, keys, ...) come, go and
 * change by name; where they stand in the file means nothing, and no value of a secret is told. Pure. */
#ifndef SCHEDULER_CONFIG_CHANGE_H
#define SCHEDULER_CONFIG_CHANGE_H

#include "scheduler/config/config.h"

enum config_change_kind { CONFIG_ADDED, CONFIG_REMOVED, CONFIG_CHANGED };
const char *config_change_name(enum config_change_kind k); /* "added", "removed", "changed" */

struct config_change { /* borrowed for the call */
    const char *list;  /* "nodes"; NULL: a setting of the file itself */
    const char *name;  /* of the item, or the setting's key ("log.level") */
    enum config_change_kind kind;
    const char *keys; /* CONFIG_CHANGED in a list: which, as in "slots, price.input"; else "" */
    bool needs_restart;
};
typedef void config_change_cb(const struct config_change *change, void *arg);

/* In order of the schema, lists by name. each may be NULL. Returns how many. */
int config_changes(const struct config *from, const struct config *to, config_change_cb *each, void *arg);
/* Does anything differ in this list ("keys"), or in the settings that begin with this ("auth.")? */
bool config_list_differs(const struct config *from, const struct config *to, const char *list);
bool config_settings_differ(const struct config *from, const struct config *to, const char *prefix);
/* What needs a restart stays as it is: copied from `from` into `to`. */
void config_keep(struct config *to, const struct config *from);

struct config_node;
/* Are they the same but for what a running node can take over (SETTING_RELOAD in its table)? */
bool config_node_same(const struct config_node *a, const struct config_node *b);

#endif
