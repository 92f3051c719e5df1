/* The configuration: one YAML file, one schema (schema.c). From a row of the table come parsing, checking, the
 * masked dump, `--help` and docs/CONFIG.md. All mistakes are reported at once, each as
 * "file:line: key: what is wrong, what would be right". Built whole, then used read-only; a reload builds another one
 * beside it (change.h). */
#ifndef SCHEDULER_CONFIG_CONFIG_H
#define SCHEDULER_CONFIG_CONFIG_H

#include <stdio.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/money.h"
#include "base/tls.h"
#include "policies/period.h"
#include "policies/waiting.h"

struct provider_ops; /* providers/provider.h */
struct provider_pair;
struct provider_settings;

enum provider_kind { PROVIDER_STATIC, PROVIDER_PROCESS };
/* How a node that cannot resume by token ids takes up an answer that another one began. */
enum continue_kind { CONTINUE_OFF, CONTINUE_PREFIX };

/* Where each value came from: one line number per row of the table the struct is filled from, 0: the default. */
#define CONFIG_SETTINGS_MAX      224
#define CONFIG_ITEM_SETTINGS_MAX 48

struct calibration; /* scheduler/calibrate/record.h */

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
    int64_t
        price_version; /* of a node that runs: finance's change that `prices` are of (books/finance.h); 0: the file's */
    struct token_prices
        listed; /* where there is such a version: what its provider asks; `prices` may be a standard rate */
    int watts;  /* declared draw under load, 0: unknown */
    struct {
        int idle_watts, sleep_watts, off_watts, wake_watts; /* 0: not given */
        int64_t sleep_wake_ms, off_wake_ms;                 /* 0: it has no such level */
        int64_t sleep_down_ms, off_down_ms;                 /* its draw is that of an idle one meanwhile */
    } power;
    const struct power_levels *levels; /* of these figures, in the configuration's arena; NULL: not enough is known */
    const char
        *calibration; /* a record of `spillway nodes calibrate`; NULL: STATE_DIR/calibration/NAME.json if it is there */
    /* That record, in the configuration's arena: how fast the node is, and what it draws. NULL: there is none, or it
     * can't be used, and then calibration_why says why not (NULL: it is simply not there). */
    const struct calibration *calibrated;
    const char *calibration_why;
    int kv_tokens;                 /* that its KV cache has room for, where it does not say so; 0: unknown */
    struct pusd per_hour;          /* of a node of a pool: its rent */
    int tokens_per_s;              /* that it does within the SLO, declared; 0: from the calibration */
    struct provider_pair *machine; /* static: how its power is reached, by the keys of provider static */
    int n_machine;
    const struct provider_settings *machine_settings; /* the same, checked; NULL: none */
    const struct config_pool *pool;                   /* whose template this is; NULL: a node of its own */
    /* Of one that a pool has launched; NULL: not known. market: static text (provider_market_name()), rows outlive
     * nodes; domain: cloud/region/zone/type. */
    const char *market, *domain;
    /* provider process */
    const char *engine; /* path of spillway-engine; NULL: beside our own binary */
    const char *model_path;
    int port;                         /* 0: any free one */
    int threads, ctx_size, max_batch; /* 0: the engine's own default */
    /* static, https */
    const char *tls_ca, *tls_cert, *tls_key; /* NULL: the system's roots; nothing is shown */
    const char *tls_name;                    /* the certificate's; NULL: the host of url */
    int line;                                /* of the item in the file */
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_provider { /* an account, a host, a rack: where nodes of pools come from */
    const char *name, *type;
    struct provider_pair *pairs;
    int n_pairs;
    const struct provider_ops *ops; /* of its type */
    const struct provider_settings *settings;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_pool {                    /* nodes that are alike and come and go by demand */
    struct config_node node;            /* what each of them is; name: the pool's */
    const char *provider;               /* of `providers`, or a type that needs no settings */
    const struct config_provider *from; /* NULL: by type alone */
    const struct provider_ops *ops;
    struct provider_pair *pairs;
    int n_pairs;
    const struct provider_settings *settings;
    const char **markets; /* none: all */
    int n_markets;
    int min, max;
    const char *price_text; /* dollars per hour, where the provider has no offers; NULL: nothing */
    struct pusd price_hour;
    int64_t boot_ms, billing_min_ms; /* 0: as the provider says */
    bool join_off;                   /* its engines don't join, although others may: they are polled as they are */
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

enum config_from_zero { CONFIG_ZERO_SPILL, CONFIG_ZERO_HOLD };
struct config_capacity { /* scheduler/capacity */
    int64_t interval_ms, sweep_ms, stray_grace_ms, drain_ms, down_after_ms, return_after_ms;
    int max_nodes, launches_per_min;
    const char *max_hour_text;
    struct pusd max_hour; /* v < 0: no limit */
    int over_provision_ppm, survive_ppm;
    int from_zero; /* enum config_from_zero */
    bool api_bridge_off, api_steady_off;
};

/* When a model's fallbacks are tried: when no node of it is in service, or also when all that are have no slot free. */
enum fallback_when { FALLBACK_WHEN_DOWN, FALLBACK_WHEN_FULL };

/* What routing is to go by for a name that applications ask for. */
struct config_aim {
    int objective;            /* of `routing`: enum route_objective; of a model: one more, 0: as in `routing` */
    int64_t ttft_ms, tpot_ms; /* the SLO; 0: no bound; of a model: as in `routing` */
    int64_t ttft_per_1k_ms;   /* the first token may take so much longer per 1,000 prompt tokens above free_tokens */
    int free_tokens;
    int probability_ppm; /* of the requests, that are to meet it */
};

struct config_model { /* what is said of a model, or of a name that stands for a chain of them */
    const char *name;
    const char **aliases;   /* other names that applications may use for it */
    const char **fallbacks; /* models that answer in its place, in order */
    int n_aliases, n_fallbacks;
    enum fallback_when fallback_when;
    int64_t fallback_after_ms; /* FALLBACK_WHEN_FULL: waited for a slot so long first */
    const char *description;   /* NULL: none */
    const char *owned_by;
    const char **capabilities; /* shown beside those we know of */
    int n_capabilities;
    int context;     /* tokens; 0: what its engines say */
    int max_output;  /* tokens of one answer; 0: no bound */
    bool local_only; /* its requests never leave the premises */
    struct config_aim aim;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_key {          /* an application's key: only its hash is kept */
    const char *id, *sha256; /* hex, lower case */
    const char *tenant, *team, *project, *user;
    bool admin;          /* `scope: admin`, the short form: everything */
    const char **scopes; /* n_scopes 0: what `admin` says */
    int n_scopes;
    const char **models, **networks; /* none: all */
    int n_models, n_networks;
    const char *expires; /* as given, or NULL; see config_key_identity() */
    const char *rate_class;
    bool local_only;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_issuer { /* of signed tokens; config_issuer_oidc() makes scheduler/auth's form of it */
    const char *name, *issuer, *discovery_url, *jwks_url, *ca_file;
    const char **audiences, **algs, **default_scopes;
    int n_audiences, n_algs, n_default_scopes;
    int64_t skew_ms;
    const char *tenant, *tenant_claim, *team_claim, *project_claim, *user_claim, *models_claim;
    const char *scope_claim, *scope_prefix, *rate_class;
    bool local_only;
    int64_t refresh_ms, stale_ms;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_class { /* numbers under a name, for rate limits; 0: no such limit */
    const char *name;
    int requests_per_min, tokens_per_min;
    int requests_burst, tokens_burst; /* 0: what a minute allows */
    int concurrent;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

struct config_budget { /* who may spend how much; budget_rules is scheduler/budgets' form of it */
    const char *name;
    const char **match; /* "team=search" */
    int n_match;
    enum period_kind period;
    const char *start, *time_zone;        /* NULL: midnight, the first, Monday; UTC */
    const char *hard, *soft, *carry_over; /* dollars, or a share of `hard`; NULL: none */
    const char **soft_actions, **hard_actions;
    int n_soft_actions, n_hard_actions;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};

enum config_budget_store { CONFIG_BUDGETS_MEMORY, CONFIG_BUDGETS_REDIS };
enum config_budget_loss { CONFIG_BUDGETS_FAIL_CLOSED, CONFIG_BUDGETS_FAIL_OPEN };
struct config_budget_shared { /* scheduler/budgets/redis.h */
    enum config_budget_store kind;
    enum config_budget_loss on_loss;
    const char *address, *username, *password_file, *allowance; /* allowance: dollars */
    const char *tls_ca, *tls_cert, *tls_key;
    int db, ledgers;
    int64_t timeout_ms, dead_ms;
};

struct config_report_team { /* whose own report goes to people of its own */
    const char *team;
    const char **to;
    int n_to;
    int line;
    int lines[CONFIG_ITEM_SETTINGS_MAX];
};
enum config_starttls { CONFIG_STARTTLS_REQUIRED, CONFIG_STARTTLS_OPTIONAL };
struct config_reports {      /* scheduler/nightly; what is derived is made by reports.c */
    const char *at;          /* NULL: no report is made by itself */
    int at_s;                /* derived: seconds after midnight, -1: never */
    const char *time_zone;   /* of `at`, and of the days and months; NULL: energy.time_zone */
    const struct zone *zone; /* derived; NULL: UTC */
    const char *zone_name;   /* derived */
    const char *folder;      /* default STATE_DIR/reports */
    const char **periods;    /* none: both */
    const char **formats;    /* none: html and csv */
    int n_periods, n_formats;
    bool by_day, by_month; /* derived */
    int focus;             /* enum report_focus */
    int keep_days;         /* 0: for good */
    int64_t retry_ms;      /* what cannot be delivered for so long is given up */
    struct {
        const char *server; /* smtp:// or smtps://; NULL: no mail */
        const char *from, **to;
        int n_to;
        const char *user, *password_file, *ca;
        enum config_starttls starttls;
        int64_t bytes_max; /* of what is attached */
    } mail;
    struct {
        const char *url, *secret_file, *ca; /* url NULL: none */
    } webhook;
    struct config_report_team *teams;
    int n_teams;
};

enum config_explain_header { CONFIG_EXPLAIN_OFF, CONFIG_EXPLAIN_ADMIN, CONFIG_EXPLAIN_ALL };

enum config_cache_mode { CONFIG_CACHE_OFF, CONFIG_CACHE_LRU, CONFIG_CACHE_REDIS };
struct config_cache { /* scheduler/cache */
    enum config_cache_mode mode;
    int64_t ttl_ms, bytes_max, entry_bytes_max;
    int64_t collapse_ms; /* 0: identical requests in flight are not collapsed */
    const char *redis_address, *redis_username, *redis_password_file;
    const char *redis_tls_ca, *redis_tls_cert, *redis_tls_key;
    int redis_db;
    int64_t redis_timeout_ms;
    bool redis_local; /* on the premises */
};

enum config_tracing_mode { CONFIG_TRACING_RATIO, CONFIG_TRACING_PARENT };
struct config_tracing {   /* scheduler/observe */
    const char *endpoint; /* NULL: no spans; traceparent is passed on all the same */
    int sample_ppm;
    enum config_tracing_mode mode;
    const char *headers_file, *ca_file, *service_name, *environment;
    int queue_max;
};

struct config_queue { /* bounds of each model's waiting room, for one class */
    int max;
    int64_t bytes, wait_ms; /* wait_ms 0: refuse at once */
};

struct model_table; /* scheduler/front/model_table.h */
struct budget_rule; /* scheduler/budgets/rules.h */

struct config {
    const char *path;
    const char *listen;       /* default 127.0.0.1:8080 */
    const char *admin_socket; /* default STATE_DIR/admin.sock */
    const char *admin_listen; /* NULL: off; beyond loopback only with TLS */
    const char *tls_cert, *tls_key, *admin_tls_cert, *admin_tls_key;
    const char *tls_client_ca, *admin_tls_client_ca, *tls_client_crl, *admin_tls_client_crl;
    enum tls_client_certs tls_client_certs, admin_tls_client_certs;
    const char *state_dir;    /* ledger and sockets; default ./state */
    const char *ledger_path;  /* default STATE_DIR/ledger.db */
    int ledger_queue_max;     /* rows waiting for the disk */
    int ledger_journal;       /* enum ledger_journal: 0: off, 1: auto, 2: always */
    int ledger_on_failure;    /* 0: refuse, 1: spool */
    const char *ledger_spool; /* default STATE_DIR/ledger.spool */
    int64_t ledger_spool_bytes;
    int ledger_keep_months; /* 0: all stay in the one file */
    struct {                /* what energy costs; tariff.h has the rules */
        const char *price, **hours, *time_zone;
        int n_hours;
    } energy;
    const struct tariff *tariff; /* of `energy`, in `arena`; free of charge where nothing is said */
    struct {
        int cap_watts, base_watts; /* of the site; 0: no limit */
        int keep_warm;
        int64_t move_ms; /* who would run for longer on a node that is to sleep goes on elsewhere; 0: nobody does */
        bool off;        /* nobody is put to sleep or woken by the plan */
    } power;
    struct {                      /* scheduler/join */
        const char *listen, *url; /* NULL: no engine can join; NULL: by our host's name */
        int64_t beat_ms, silent_ms, lost_ms, cert_ms, token_ms;
    } join;
    struct { /* scheduler/audit; not kept where the ledger is off */
        bool off;
        const char *dir, *key; /* default STATE_DIR/audit, DIR/key.pem */
        int queue_max, refused_logins;
        int on_failure;    /* enum audit_on_failure */
        const char *heads; /* file that signed heads are exported to; NULL: none */
        int64_t heads_every_ms;
        const char *webhook, *webhook_token_file, *webhook_ca;
    } audit;
    struct {
        bool off;
        int64_t idle_ms, session_ms;
    } ui;                            /* scheduler/ui, on admin_listen */
    const char *simulate_scenario;   /* of `spillway simulate`; NULL: none */
    bool ledger_off;                 /* `ledger: off`, said aloud; else each request has a row */
    bool metrics_off;                /* `metrics: off`: nothing is measured and /metrics is not there */
    bool auth_off;                   /* `auth: off`, said aloud; else keys are needed */
    const char **local_only_tenants; /* whose requests never leave the premises */
    int n_local_only_tenants;
    struct config_key *keys;
    int n_keys;
    struct config_issuer *issuers;
    int n_issuers;
    struct config_class *classes;
    int n_classes;
    const char *class_key, *class_team, *class_model; /* the class of each that names none itself; NULL: no limit */
    struct config_budget *budgets;
    int n_budgets;
    const struct budget_rule *budget_rules; /* n_budgets; in `arena` */
    struct config_budget_shared budget_store;
    int budget_slice, budget_wait_ms; /* tokens; how long a request waits for others' settlements */
    const char *budget_webhook, *budget_webhook_token_file, *budget_webhook_ca;
    struct config_reports reports;
    struct config_node *nodes;
    int n_nodes;
    struct config_provider *providers;
    int n_providers;
    struct config_pool *pools;
    int n_pools;
    struct config_capacity capacity;
    struct config_model *models; /* those of which something is said; nodes may serve others */
    int n_models;
    struct model_table *model_table; /* made by the front as it takes the configuration over; in `arena` */
    bool prefix_share_all;           /* tenants may share prefixes in the caches of our engines */
    bool prefix_affinity;            /* requests go where their prompt's beginning may still be held */
    int64_t prefix_memory;           /* bytes, to know where that is */
    int explain_keep;                /* decisions of routing that are kept for whoever asks why */
    enum config_explain_header explain_header;
    const char *record; /* file that routing is recorded to; NULL: it is not */
    int64_t record_bytes_max;
    int64_t health_interval_ms, health_timeout_ms;
    struct config_aim aim;
    int retries; /* other nodes tried before the first byte */
    int workers; /* event loops that serve requests; 0: auto */
    struct config_queue queue[WAITING_CLASSES];
    int64_t batch_after_ms; /* a deadline at least so far away makes a request batch, if nothing else says what it is */
    int64_t keep_alive_ms;  /* between two comments on a stream that waits; 0: none */
    int64_t first_byte_ms, idle_ms; /* towards nodes */
    int64_t token_ms;               /* silence after which an answer that can continue elsewhere does */
    int64_t body_bytes_max;
    int connections_max;
    int connections_per_client;                          /* 0: no such bound */
    int64_t head_ms, body_ms, reader_ms, client_idle_ms; /* patience with clients */
    int64_t held_bytes_max;                              /* of requests, over all connections */
    int64_t drain_ms;
    struct {
        int64_t keep_ms, bytes_max; /* keep_ms 0: keys are not honoured */
        int keys_max;
    } idempotency;
    struct config_cache cache;
    struct config_tracing tracing;
    enum log_level log_level;
    /* breakers, cool-downs and retries: see policies/breaker.h, policies/retry_budget.h */
    int breaker_failures, breaker_percent, breaker_volume;
    int64_t breaker_window_ms, breaker_open_ms, breaker_open_max_ms, breaker_slow_ms;
    int64_t cool_down_ms, cool_down_max_ms;
    int retry_percent, retry_per_s;
    int lines[CONFIG_SETTINGS_MAX];
    struct arena *arena; /* owns every string and array above */
    char version[17];    /* of what it says, whatever it says it in: config_version() */
    int refs;            /* config_ref() */
};

/* Load and check. On mistakes: RC_INVALID and every one of them in *problems (one per line), *c is NULL. Otherwise *c
 * is the caller's. Reads files (blocks): start, `check` and reload only. */
enum rc config_load(struct config **c, const char *path, struct strbuf *problems) SPW_MUST_USE;
/* The same from text in memory; `name` stands for the file in messages. Paths in it are taken as they are. */
enum rc config_parse(struct config **c, const char *text, size_t n, const char *name,
                     struct strbuf *problems) SPW_MUST_USE;
/* It is counted: whoever needs it for longer than the scheduler runs with it (a request, a node) holds a reference.
 * From any thread. */
struct config *config_ref(const struct config *c);
void config_free(struct config *c); /* gives a reference back, the loader's or one of config_ref(); NULL is fine */

/* What is allowed but probably not meant (a key that can reach nothing, a node that is free of charge), one per line
 * in the form of the mistakes. Returns how many. */
int config_warnings(const struct config *c, struct strbuf *out);

/* What the two listeners show and whom they let in; cert NULL: plain HTTP. Borrows from c. */
/* Towards a Redis at one of the addresses above. *ctx, the caller's, is NULL where that says plain text. */
enum rc config_redis_tls(SSL_CTX **ctx, const char *address, const struct tls_client_files *f,
                         struct error *e) SPW_MUST_USE;
struct tls_server_files config_tls(const struct config *c);
struct tls_server_files config_admin_tls(const struct config *c);

struct identity; /* scheduler/auth/identity.h */
struct network;
struct oidc_issuer;
/* A key in scheduler/auth's form. Borrows from k; networks has room for k->n_networks. Never fails for a configuration
 * that was loaded. */
enum rc config_key_identity(const struct config_key *k, struct identity *who, struct network *networks,
                            int64_t *expires_s, struct error *e) SPW_MUST_USE;
void config_issuer_oidc(const struct config_issuer *c, struct oidc_issuer *out); /* borrows from c */
/* All that may answer requests: the nodes, then what the pools' nodes are made from. */
int config_servers(const struct config *c);
const struct config_node *config_server(const struct config *c, int i);
const struct config_pool *config_pool(const struct config *c, const char *name); /* NULL: none */
bool config_node_serves(const struct config_node *n, const char *model);
const struct config_class *config_class(const struct config *c, const char *name); /* NULL: none, or name is NULL */

/* What holds for the model, of its own entry and of `routing`; m NULL: it has none. */
struct config_aim config_aim(const struct config *c, const struct config_model *m);
const struct config_model *config_model(const struct config *c, const char *name); /* the entry, or NULL; no aliases */
bool config_model_served(const struct config *c, const char *name);                /* does a node serve it? */
/* The models that a request for `name` may come to, in order, each served by some node and none twice: itself, then its
 * fallbacks, each followed by its own. Returns how many, or -1 for what no loaded configuration has: a circle, or more
 * than CONFIG_CHAIN_MAX. Borrows from c. */
#define CONFIG_CHAIN_MAX 16
int config_model_chain(const struct config *c, const char *name, const char *chain[CONFIG_CHAIN_MAX]);

/* Sets c->version: 16 hex digits of the SHA-256 of the effective values. Before others know c. */
void config_set_version(struct config *c);
void config_dump(const struct config *c, FILE *out); /* effective values, secrets masked, source of each */
/* The same as JSON, appended to `out`: {"listen":{"value":"...","source":"line 3"},...}. RC_FULL at out's bound. */
enum rc config_dump_json(const struct config *c, struct strbuf *out) SPW_MUST_USE;
void config_print_help(FILE *out);     /* terminal form of the schema */
void config_print_markdown(FILE *out); /* docs/CONFIG.md */

#endif
