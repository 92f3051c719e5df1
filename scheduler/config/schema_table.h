/* How the schema's files write their tables: rows, and where the items of a list lie in struct config. */
#ifndef SCHEDULER_CONFIG_SCHEMA_TABLE_H
#define SCHEDULER_CONFIG_SCHEMA_TABLE_H

#include <stddef.h>

#include "scheduler/config/config_internal.h"

/* The tables, each beside its rows; config_tables lists them in the order of the documents. */
extern const struct settings config_main_table;                                         /* schema_main.c */
extern const struct settings config_node_table, config_model_table;                     /* schema_nodes.c */
extern const struct settings config_provider_table, config_pool_table;                  /* schema_nodes.c */
extern const struct settings config_key_table, config_issuer_table, config_class_table; /* schema_who.c */
extern const struct settings config_budget_table, config_report_team_table;             /* schema_who.c */

extern const char *const config_on_words[]; /* on, off */

#define SETTING_ROWS(table) .rows = (table), .n_rows = (int)(sizeof(table) / sizeof(table)[0])

/* A list: an array of struct `type` at `items` in struct config, with its count at `n_items`. */
#define SETTING_ITEMS(type, items, n_items, max)                                                                       \
    .item_size = sizeof(struct type), .lines_offset = offsetof(struct type, lines),                                    \
    .items_offset = offsetof(struct config, items), .count_offset = offsetof(struct config, n_items),                  \
    .line_offset = offsetof(struct type, line), .items_max = (max)

/* Each row's line in the file is kept in the struct that the rows fill. */
#define SETTING_ROOM(table, type)                                                                                      \
    _Static_assert(sizeof(table) / sizeof(table)[0] <=                                                                 \
                       sizeof(((struct type *)0)->lines) / sizeof(((struct type *)0)->lines[0]),                       \
                   "room for the lines of every setting")

#endif
