/* Every setting, one row each, in tables by what they say something of. A new setting is a field in struct config and a
 * row in schema_main.c (the file itself), schema_nodes.c or schema_who.c (items of its lists); parsing, bounds,
 * `check`, `--help`, docs/CONFIG.md and the masked dump follow. */
#include "scheduler/config/schema_table.h"

#include <string.h>

const char *const config_on_words[] = {"on", "off", NULL};

const struct settings *const config_tables[CONFIG_N_TABLES] = {
    [CONFIG_TABLE_MAIN] = &config_main_table,      [CONFIG_TABLE_NODES] = &config_node_table,
    [CONFIG_TABLE_MODELS] = &config_model_table,   [CONFIG_TABLE_KEYS] = &config_key_table,
    [CONFIG_TABLE_ISSUERS] = &config_issuer_table, [CONFIG_TABLE_CLASSES] = &config_class_table,
    [CONFIG_TABLE_BUDGETS] = &config_budget_table, [CONFIG_TABLE_PROVIDERS] = &config_provider_table,
    [CONFIG_TABLE_POOLS] = &config_pool_table,     [CONFIG_TABLE_REPORT_TEAMS] = &config_report_team_table,
};

int config_row(const struct settings *t, const char *key)
{
    for (int i = 0; i < t->n_rows; i++)
        if (strcmp(t->rows[i].key, key) == 0)
            return i;
    return -1;
}
