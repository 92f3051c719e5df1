/* Providers: effects on capacity behind one table of functions. The core asks what a provider can do (`caps`), never
 * what it is called. A new provider is a file of its own, a row in provider_list[] and a test: the keys that it has in
 * the configuration stand in its own table.
 *
 * Rules for every provider: loop thread only; no call blocks; callbacks come on the loop and never from inside the call
 * that started them; whatever waits has a deadline. Strings in a spec are copied by the call; what a callback is handed
 * is borrowed for that callback.
 *
 * Launches are idempotent: one `spec.token` is at most one instance, also after a retry, also after a restart of ours:
 * it is on disk before launch() is called, and the same token is only ever used with the same spec. A provider retries
 * by itself, with full jitter and within a deadline, what was throttled, and what may or may not have been done with
 * the same token and the same body; only then the failure goes up. It bounds its own rate of calls.
 *
 * Life of an instance (only the provider moves it; each move is one on_change call, see there):
 *
 *     launch() --> STARTING --> RUNNING --> STOPPING --> GONE         RUNNING: it has an address. Whether it answers
 *     adopt() ---/   ^            |                      ^           there is the health check's business.
 *                     |            v  (ended by itself)   |
 *                     +-------- BACKOFF ------------------+  terminate() leads to GONE from every state
 *
 * Sleep is not in here: every engine of ours sleeps and wakes over its own HTTP. Power is: a machine that is off has no
 * HTTP. */
#ifndef PROVIDERS_PROVIDER_H
#define PROVIDERS_PROVIDER_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/money.h"

enum provider_cap {
    PROVIDER_CAN_LAUNCH = 1,   /* launch and terminate */
    PROVIDER_CAN_RESTART = 2,  /* brings an instance that ended by itself back, with back-off */
    PROVIDER_ENDS_WITH_US = 4, /* instances do not outlive this process */
    PROVIDER_HAS_OFFERS = 8,   /* knows types, zones and prices by itself */
    PROVIDER_CAN_POWER = 16,   /* power, power_state, prove */
    PROVIDER_IS_CLOUD = 32,    /* its list() is the truth about what is paid for; it is swept for strays */
    PROVIDER_CAN_ADOPT = 64,   /* adopt and forget */
};

/* Why something did not work, or ended: by it the core decides what to do next. */
enum provider_failure {
    PROVIDER_FINE,
    PROVIDER_NO_CAPACITY, /* none left of it there: the next pool at once, this one cold for a while */
    PROVIDER_QUOTA,       /* of our account: stop, and say so to a person */
    PROVIDER_THROTTLED,   /* too many calls, also after the retries */
    PROVIDER_DENIED,      /* credentials, rights, our clock */
    PROVIDER_INVALID,     /* our request is wrong, and will be the next time */
    PROVIDER_UNREACHABLE, /* no answer, or 5xx: the outcome is unknown. Again with the same token, or list() tells */
    PROVIDER_TAKEN_BACK,  /* pre-empted */
    PROVIDER_ENDED,       /* by itself, or by us */
    PROVIDER_FAILURES,
};
const char *provider_failure_name(enum provider_failure f); /* "no_capacity": label of metrics, word of the log */

enum provider_instance_state {
    INSTANCE_STARTING,
    INSTANCE_RUNNING,
    INSTANCE_BACKOFF, /* ended by itself; will be started again */
    INSTANCE_STOPPING,
    INSTANCE_GONE,
};
const char *provider_instance_state_name(enum provider_instance_state s);

/* ---- settings: what the configuration says, by the provider's own table of keys ----------------------------------- */

enum provider_key_type {
    KEY_TEXT,
    KEY_URL,         /* http:// or https:// */
    KEY_FILE,        /* a path; made absolute by the configuration */
    KEY_SECRET_FILE, /* path of a file that holds a secret; never the secret */
    KEY_INT,         /* >= 0 */
    KEY_PORT,        /* 1 to 65535 */
    KEY_DURATION,    /* "30s"; provider_setting_int() gives milliseconds */
    KEY_DOLLARS,     /* "0.0123" */
    KEY_BOOL,        /* "true", "false" */
    KEY_LIST,        /* words; provider_setting_word() takes them apart */
};
struct provider_key {
    const char *name; /* NULL ends a table */
    enum provider_key_type type;
    bool required;
    const char *fallback; /* where the configuration says nothing; NULL: none */
    const char *help;     /* one sentence for docs/CONFIG.md */
};
struct provider_settings {
    const struct provider_key *keys; /* the table that they belong to */
    const struct provider_pair {
        const char *key, *value; /* a list's words stand with a comma between them */
    } * pairs;
    int n;
};
/* Every setting is in the table, of its type, and all that are required are there. The message names key and cure. */
enum rc provider_settings_check(const struct provider_settings *s, struct error *e) SPW_MUST_USE;
/* The value, else the key's fallback, else NULL. s NULL: none are given. The key must be in the table. */
const char *provider_setting(const struct provider_settings *s, const char *key);
int64_t provider_setting_int(const struct provider_settings *s, const char *key); /* INT, DURATION (ms), BOOL; else 0 */
struct pusd provider_setting_dollars(const struct provider_settings *s, const char *key); /* {0}: not given */
/* The words of a list, one after the other: *at begins at the value, the result is a length, 0 at the end. */
size_t provider_setting_word(const char **at, const char **word);

/* ---- what can be had ------------------------------------------------------------------------------------------------ */

enum provider_market { PROVIDER_ON_PREM, PROVIDER_SPOT, PROVIDER_ON_DEMAND, PROVIDER_API };
const char *provider_market_name(enum provider_market m); /* "on-prem", "spot", "on-demand", "api" */

struct provider_offer {
    const char *id; /* stable, unique in the provider: "use1-az1/g6e.xlarge/spot" */
    const char *type, *region, *zone;
    enum provider_market market;
    struct pusd price_hour;
    const char *price_source; /* "spot history", "catalogue prices.json", ...: for people */
    int64_t price_at_s;       /* Unix time from which it holds; 0: not known */
    int32_t boot_s;           /* from launch to an engine that answers, expected; 0: not known */
    int32_t billing_min_s;    /* the least that is billed */
    bool launchable;          /* as far as is known: stock, quota */
    int32_t cold_s;           /* has no stock, to be left alone for so long; 0: no reason to */
    /* PROVIDER_API alone */
    const char *model;
    struct token_prices prices;
};

/* ---- instances ------------------------------------------------------------------------------------------------------ */

/* What to start. Fields that a provider has no use for are ignored. */
struct provider_spec {
    const char *name;                 /* the node's name; unique among those that are not GONE */
    const char *engine;               /* program; NULL: "spillway-engine" beside our own binary */
    const char *model_path;           /* for --model */
    const char *alias;                /* model name that the engine answers to, or NULL */
    const char *node_key_file;        /* of docs/NODE_API.md, or NULL */
    int port;                         /* 0: any free one */
    int threads, ctx_size, max_batch; /* 0: the engine's default */
    /* of pools */
    const char *token;                        /* the client token, on disk already; NULL: the name is it */
    const char *owner;                        /* tag: this scheduler's own id */
    const char *pool;                         /* tag */
    const char *const *offers;                /* ids, best first: any of them will do */
    int n_offers;                             /* 0: the provider has no offers */
    const struct provider_settings *settings; /* of the pool or node, by node_keys; NULL: none */
    const char *join_url, *join_token; /* where the engine finds us, and what lets it in once; NULL: it need not */
};

/* Borrowed from the provider for the call that hands it out. */
struct provider_instance {
    const char *name; /* NULL: not known (a stray of list()) */
    enum provider_instance_state state;
    const char *host;                 /* NULL or "": not known yet; valid when RUNNING */
    int port;                         /* 0: not known */
    int pid;                          /* 0: none */
    int restarts;                     /* times it ended by itself and was started again */
    const char *reason;               /* of the state, for people; "" when there is nothing to say */
    enum provider_failure failure;    /* GONE: why; BACKOFF: of the last try */
    const char *id;                   /* the provider's own; NULL: not known (yet) */
    const char *token, *offer, *pool; /* NULL: not known */
    int64_t launched_at_s;            /* Unix time; 0: not known */
    int64_t ended_at_s;               /* GONE: as the provider says, which is what it bills; 0: not known */
    struct pusd price_hour;           /* now; 0: none or not known */
    int64_t price_at_s;               /* Unix time from which it holds; 0: not known */
};

struct provider;
struct provider_env { /* all borrowed, outlive the provider */
    struct event_base *loop;
    const struct log *log;
    const struct clock *clock;
    const char *name;                         /* of `providers:`; NULL: the type's */
    const struct provider_settings *settings; /* by `keys`; NULL: none */
    const char *owner;                        /* this scheduler's own id, for tags; NULL: none */
    const char *state_dir;                    /* files named NAME.* in there are its own; NULL: it keeps nothing */
    /* Every change of state of any instance but to STOPPING (whoever called terminate() knows), and a RUNNING one whose
     * address, price or restarts changed, on the loop. May call launch and terminate, not close. */
    void (*on_change)(const struct provider_instance *i, void *arg);
    /* Of a market whose prices move: what an offer has cost since at_s (Unix time). Every change, those of one offer in
     * the order of time, but maybe long after; some again. It also holds for instances that are gone by now. NULL: no
     * bill is made. */
    void (*on_price)(const char *offer, struct pusd price_hour, int64_t at_s, void *arg);
    void *arg;
};

/* Called exactly once, unless the provider is closed first. text: of a failure, for people; "" else. */
typedef void provider_done_cb(enum provider_failure failure, const char *text, void *arg);
/* what: "credentials", "right to launch", "quota"; ok: false where it would not work; text: what was seen. */
typedef void provider_check_cb(const char *what, bool ok, const char *text, void *arg);
typedef void provider_offer_cb(const struct provider_offer *o, void *arg);
typedef void provider_instance_cb(const struct provider_instance *i, void *arg);
enum provider_power { POWER_IS_UNKNOWN, POWER_IS_OFF, POWER_IS_ON };
typedef void provider_power_cb(enum provider_failure failure, enum provider_power is, const char *text, void *arg);

struct provider_ops {
    const char *name; /* as written in the configuration */
    unsigned caps;
    const struct provider_key *keys;      /* of an item of `providers:`; NULL: it has none */
    const struct provider_key *node_keys; /* of a pool or node that uses it; NULL: none */

    /* Required. Nothing is contacted yet. */
    enum rc (*open)(struct provider **p, const struct provider_env *env, struct error *e);
    /* Required. Instances of a provider with PROVIDER_ENDS_WITH_US are killed and reaped at once (the one place where a
     * few milliseconds may pass); others are left alone. No callback follows. NULL is fine. */
    void (*close)(struct provider *p);
    /* May be NULL: nothing can be wrong. Credentials, rights, quota, a dry run: changes nothing. */
    void (*check)(struct provider *p, provider_check_cb *each, provider_done_cb *done, void *arg);

    /* With HAS_OFFERS: what there is for a pool with these settings. */
    void (*offers)(struct provider *p, const struct provider_settings *pool, provider_offer_cb *each,
                   provider_done_cb *done, void *arg);

    /* With CAN_LAUNCH. RC_CONFLICT: an instance of that name is there and not GONE. RC_INVALID, RC_IO: it could not be
     * started at all (no such program). RC_OK: on_change tells the rest; what could not be had goes to GONE with the
     * failure. May be called again for another name at any time. */
    enum rc (*launch)(struct provider *p, const struct provider_spec *spec, struct error *e);
    /* With CAN_LAUNCH. Ends it kindly where that is possible, and after grace_ms by force; then cb (may be NULL), after
     * on_change said GONE. RC_NOT_FOUND: no such instance; cb is not called. A second call for one that is already
     * stopping adds its cb to the same end and may only shorten the grace. A failure: it may still be there. */
    enum rc (*terminate)(struct provider *p, const char *name, int64_t grace_ms, provider_done_cb *cb, void *arg);
    /* With IS_CLOUD: ends an instance by its id, which need not be known to us; for strays. */
    enum rc (*terminate_id)(struct provider *p, const char *id, provider_done_cb *cb, void *arg);
    /* With CAN_LAUNCH. The provider's own truth: every instance that is not GONE and carries our owner tag, also those
     * that we know nothing of; `name` is the tag's. */
    void (*list)(struct provider *p, provider_instance_cb *each, provider_done_cb *done, void *arg);

    /* With CAN_ADOPT. Watches an instance that is there already: one of ours after a restart (known->id, or only
     * known->token when the crash came before the answer), or a machine that is there anyhow (spec->settings say how it
     * is reached). on_change tells its state, at least once. RC_CONFLICT: it knows one of that name. */
    enum rc (*adopt)(struct provider *p, const struct provider_spec *spec, const struct provider_instance *known,
                     struct error *e);
    /* Watches it no longer; no on_change follows. */
    void (*forget)(struct provider *p, const char *name);

    /* With CAN_POWER, of an adopted machine. On and off are done when the state was seen. Off is PROVIDER_DENIED as
     * long as coming back was not proven. */
    enum rc (*power)(struct provider *p, const char *name, bool on, provider_done_cb *cb, void *arg);
    enum rc (*power_state)(struct provider *p, const char *name, provider_power_cb *cb, void *arg);
    /* Proves it once: off, seen off, on, seen on. The provider remembers it in its state_dir. Nothing may run there. */
    enum rc (*prove)(struct provider *p, const char *name, provider_done_cb *cb, void *arg);
    bool (*proven)(const struct provider *p, const char *name);
};

/* The first member of every provider's own struct. */
struct provider {
    const struct provider_ops *ops;
};

extern const struct provider_ops provider_static, provider_process, provider_openai, provider_ec2;
extern const struct provider_ops *const provider_list[];    /* ends with NULL */
const struct provider_ops *provider_find(const char *name); /* NULL: unknown */

#endif
