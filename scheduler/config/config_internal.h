/* What the schema, load.c, check.c and print.c share. */
#ifndef SCHEDULER_CONFIG_CONFIG_INTERNAL_H
#define SCHEDULER_CONFIG_CONFIG_INTERNAL_H

#include "scheduler/config/config.h"

#include "base/yaml.h"

#define CONFIG_NODES_MAX        64 /* what one routing decision looks at: ROUTE_CANDIDATES_MAX */
#define CONFIG_KEYS_MAX         10000
#define CONFIG_CLASSES_MAX      64
#define CONFIG_MODELS_MAX       256
#define CONFIG_BUDGETS_MAX      1000
#define CONFIG_PROVIDERS_MAX    32
#define CONFIG_POOLS_MAX        64
#define CONFIG_REPORT_TEAMS_MAX 1000
#define CONFIG_PAIRS_MAX        64  /* settings of one provider, pool or machine */
#define CONFIG_PROBLEMS_MAX     200 /* more mistakes than that are counted, not listed */

enum setting_type {                   /* what the field at `offset` is */
                    SETTING_TEXT,     /* const char * */
                    SETTING_PATH,     /* const char *, made relative to the file's directory */
                    SETTING_WORDS,    /* const char **, and an int count at count_offset */
                    SETTING_BOOL,     /* bool */
                    SETTING_EITHER,   /* bool: one of two words, true for the second */
                    SETTING_CHOICE,   /* int (an enum): index of the word */
                    SETTING_INT,      /* int; with choices, the first word of them stands for 0, which is below lo */
                    SETTING_DURATION, /* int64_t milliseconds */
                    SETTING_SIZE,     /* int64_t bytes */
                    SETTING_PRICE,    /* struct price */
                    SETTING_RATIO,    /* int, parts per million: 0 to 1 in the file */
                    SETTING_PAIRS,    /* struct provider_pair *: a section whose keys are a provider's; count_offset */
};

#define SETTING_REQUIRED 1u
#define SETTING_SECRET   2u /* masked wherever it is shown */
#define SETTING_RELOAD   4u /* may change without a restart; of a node: without making it a new one */

struct setting {
    const char *key; /* dotted: "tls.cert" */
    enum setting_type type;
    unsigned flags;
    size_t offset, count_offset;
    int64_t lo, hi;             /* numbers; both 0 for the others */
    const char *unit;           /* of an INT: "requests"; else NULL, the type says it */
    const char *def;            /* as the file would say it; NULL: none */
    const char *def_text;       /* what happens without it, where def cannot say it; else NULL */
    const char *const *choices; /* NULL-terminated */
    /* Further conditions on a value of the right type. False: `why` says what is wrong and what would be right. */
    bool (*check)(const void *field, char *why, size_t size);
    const char *help; /* one sentence */
};

/* One table: the settings of the file itself, or of each item of a list in it. */
struct settings {
    const char *name; /* key of the list, from the top: "nodes", "auth.issuers"; NULL: the file itself */
    const char *help;
    const struct setting *rows;
    int n_rows;
    size_t item_size, lines_offset;    /* of the struct that the rows fill */
    size_t items_offset, count_offset; /* lists: of the array and its count in struct config */
    size_t line_offset;                /* lists: where the item's own line is kept */
    int items_max;
};

enum {
    CONFIG_TABLE_MAIN,
    CONFIG_TABLE_NODES,
    CONFIG_TABLE_MODELS,
    CONFIG_TABLE_KEYS,
    CONFIG_TABLE_ISSUERS,
    CONFIG_TABLE_CLASSES,
    CONFIG_TABLE_BUDGETS,
    CONFIG_TABLE_PROVIDERS,
    CONFIG_TABLE_POOLS,
    CONFIG_TABLE_REPORT_TEAMS,
    CONFIG_N_TABLES,
};
extern const struct settings *const config_tables[CONFIG_N_TABLES];
/* Row number of a key, or -1. */
int config_row(const struct settings *t, const char *key);
int config_main_line(const struct config *c, const char *key); /* where it stands; 0: it does not */

struct config_problem {
    int line, order;
    char *key, *text; /* owned */
};
struct config_loader {
    struct config *c; /* under construction */
    const char *file, *dir;
    struct config_problem *problems;
    int n_problems, n_more;
    int n_loaded; /* problems found before config_check() began; 0 until then */
};
/* Note "file:line: key: text". line 0: the file as a whole. What follows from a mistake already noted while loading (no
 * key because the key's line is wrong) is left out. */
void config_problem(struct config_loader *l, int line, const char *key, const char *format, ...) SPW_PRINTF(4, 5);
/* Memory that lives as long as the configuration. */
char *config_strdup(struct config_loader *l, const char *s);

/* check.c: what no single row can see. */
void config_check(struct config_loader *l);
/* who.c: the same for keys, issuers and classes of limits. */
void config_check_who(struct config_loader *l);
/* "file:line: text", and counted. */
void config_warn(const struct config *c, struct strbuf *out, int *n, int line, const char *format, ...)
    SPW_PRINTF(5, 6);
/* budgets.c: rules that can never do anything. */
void config_warn_budgets(const struct config *c, struct strbuf *out, int *n);
/* budgets.c: the same for budgets, and their rules. */
void config_check_budgets(struct config_loader *l);
/* A zone's table, as long as the configuration lives; NULL: *e says why not. */
const struct zone *config_zone(struct config_loader *l, const char *name, struct error *e);
/* A file that a setting of the file itself names (NULL: none) can be read. */
void config_check_main_file(struct config_loader *l, const char *key, const char *path);
/* reports.c: the same for the nightly reports, and when they are due. */
void config_check_reports(struct config_loader *l);
void config_warn_reports(const struct config *c, struct strbuf *out, int *n);
/* capacity.c: the same for providers, pools and machines: each by its provider's own keys. */
void config_check_capacity(struct config_loader *l);
void config_warn_capacity(const struct config *c, struct strbuf *out, int *n);
/* Relative paths begin at the file's folder. */
const char *config_path(struct config_loader *l, const char *path);
/* The same for what pools are made from: "nodes[3]" or "capacity.pools[1]", and where the key stands in the file. */
void config_server_key(const struct config *c, const struct config_node *n, const char *key, char *name, size_t size,
                       int *line);
/* energy.c: the same for `energy`, `power` and the nodes' watts, and their tariff and levels. */
void config_check_energy(struct config_loader *l);
void config_warn_energy(const struct config *c, struct strbuf *out, int *n);
/* sense_slo.c, sense_power.c: SLOs that nobody can meet, power settings that make no sense together. */
void config_warn_slos(const struct config *c, struct strbuf *out, int *n);
void config_warn_power(const struct config *c, struct strbuf *out, int *n);
/* calibration.c: the nodes' records are read; those that can't be used are named. */
void config_check_calibrations(struct config_loader *l);
void config_warn_calibrations(const struct config *c, struct strbuf *out, int *n);
/* models.c: the same for models, their aliases and their fallbacks. */
void config_check_models(struct config_loader *l);
/* The entry that has this alias, or NULL. */
const struct config_model *config_alias(const struct config *c, const char *alias);
/* "HOST:PORT" names this machine only: 127.x, ::1, localhost, unix sockets. */
bool config_is_loopback(const char *address);

/* The value as the file would say it, appended to out; "" when there is none. Secrets are masked. */
enum rc config_format_value(const struct setting *s, const void *base, struct strbuf *out);

#endif
