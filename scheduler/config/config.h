/* The configuration: one YAML file, one schema table (schema.c). From a row of the table come parsing, checking, the
 * masked dump, `--help` and docs/CONFIG.md. All mistakes are reported at once, each as
 * "file:line: key: what is wrong, what would be right". Built whole, then used read-only (process lifetime). */
#ifndef SCHEDULER_CONFIG_CONFIG_H
#define SCHEDULER_CONFIG_CONFIG_H

#include <stdio.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/money.h"

enum provider_kind { PROVIDER_STATIC, PROVIDER_PROCESS };
/* How a node that cannot resume by token ids takes up an answer that another one began. */
enum continue_kind { CONTINUE_OFF, CONTINUE_PREFIX };

/* Where each value came from: one line number per row of the table the struct is filled from, 0: the default. */
#define CONFIG_SETTINGS_MAX      48
#define CONFIG_ITEM_SETTINGS_MAX 24

struct config_node {
    const char *name;
    enum provider_kind provider;
    const char *url;     /* static: "http://10.0.0.5:8000" (no path: /v1/... is added) */
    const char **models; /* names it serves, as applications ask for them; at least one */
    int n_models;
    const char *upstream_model; /* sent upstream instead, or NULL */
    const char *api_key_file;   /* bearer token towards the node, or NULL */
    const char *node_key_file;  /* static, an engine of ours: the key of docs/NODE_API.md, or NULL */
    enum continue_kind continue_by;
    bool local;                 /* on the premises; default true */
    int slots;                  /* requests at once; 0: unbounded */
    struct token_prices prices; /* cached_input: the price of input when the file gives none */
    int watts;                  /* declared draw under load, 0: unknown */
    /* provider process */
    const char *engine; /* path of spillway-engine; NULL: beside our own binary */
    const char *model_path;
    int port;                         /* 0: any free one */
    int threads, ctx_size, max_batch; /* 0: the engine's own default */
    int line;                         /* of the item in the file */
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_key {          /* an application's key: only its hash is kept */
    const char *id, *sha256; /* hex, lower case */
    const char *tenant, *team;
    bool admin; /* `scope: admin`: the admin API, beside everything else */
    bool local_only;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config {
    const char *path;
    const char *listen;       /* default 127.0.0.1:8080 */
    const char *admin_socket; /* default STATE_DIR/admin.sock */
    const char *admin_listen; /* NULL: off; beyond loopback only with TLS */
    const char *tls_cert, *tls_key, *admin_tls_cert, *admin_tls_key;
    const char *state_dir;   /* ledger and sockets; default ./state */
    const char *ledger_path; /* default STATE_DIR/ledger.db */
    int ledger_queue_max;    /* rows waiting for the disk */
    bool auth_off;           /* `auth: off`, said aloud; else keys are needed */
    struct config_key *keys;
    int n_keys;
    struct config_node *nodes;
    int n_nodes;
    int64_t health_interval_ms, health_timeout_ms;
    int retries;      /* other nodes tried before the first byte */
    int64_t queue_ms; /* longest wait for a slot; 0: refuse at once */
    int queue_max;
    int64_t first_byte_ms, idle_ms; /* towards nodes */
    int64_t token_ms;               /* silence after which an answer that can continue elsewhere does */
    int64_t body_bytes_max;
    int connections_max;
    int64_t drain_ms;
    enum log_level log_level;
    int lines[CONFIG_SETTINGS_MAX];
    struct arena *arena; /* owns every string and array above */
};

/* Load and check. On mistakes: RC_INVALID and every one of them in *problems (one per line), *c is NULL. Otherwise *c
 * is the caller's. Reads files (blocks): start, `check` and reload only. */
enum rc config_load(struct config **c, const char *path, struct strbuf *problems) SPW_MUST_USE;
/* The same from text in memory; `name` stands for the file in messages. Paths in it are taken as they are. */
enum rc config_parse(struct config **c, const char *text, size_t n, const char *name,
                     struct strbuf *problems) SPW_MUST_USE;
void config_free(struct config *c);

/* What is allowed but probably not meant (a key that can reach nothing, a node that is free of charge), one per line
 * in the form of the mistakes. Returns how many. */
int config_warnings(const struct config *c, struct strbuf *out);

void config_dump(const struct config *c, FILE *out); /* effective values, secrets masked, source of each */
/* The same as JSON, appended to `out`: {"listen":{"value":"...","source":"line 3"},...}. RC_FULL at out's bound. */
enum rc config_dump_json(const struct config *c, struct strbuf *out) SPW_MUST_USE;
void config_print_help(FILE *out);     /* terminal form of the schema */
void config_print_markdown(FILE *out); /* docs/CONFIG.md */

#endif
