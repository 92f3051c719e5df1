/* Providers: effects on capacity behind one table of functions. The core asks what a provider can do (`caps`), never
 * what it is called. A new provider is a file of its own, a row in provider_list[] and a test.
 *
 * Rules for every provider: loop thread only; no call blocks; callbacks come on the loop and never from inside the call
 * that started them; whatever waits has a deadline. Launches are idempotent: `spec.name` is the client token, one name
 * is at most one instance, also after a retry. Strings in a spec are copied by the call.
 *
 * Life of an instance (only the provider moves it; each move is one on_change call, see there):
 *
 *     launch() --> STARTING --> RUNNING --> STOPPING --> GONE         RUNNING: it has an address. Whether it answers
 *                     ^            |                      ^           there is the health check's business.
 *                     |            v  (ended by itself)   |
 *                     +-------- BACKOFF ------------------+  terminate() leads to GONE from every state
 */
#ifndef PROVIDERS_PROVIDER_H
#define PROVIDERS_PROVIDER_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

enum provider_cap {
    PROVIDER_CAN_LAUNCH = 1,   /* launch and terminate */
    PROVIDER_CAN_RESTART = 2,  /* brings an instance that ended by itself back, with back-off */
    PROVIDER_ENDS_WITH_US = 4, /* instances do not outlive this process */
};

enum provider_instance_state {
    INSTANCE_STARTING,
    INSTANCE_RUNNING,
    INSTANCE_BACKOFF, /* ended by itself; will be started again */
    INSTANCE_STOPPING,
    INSTANCE_GONE,
};
const char *provider_instance_state_name(enum provider_instance_state s);

/* What to start. Fields that a provider has no use for are ignored. */
struct provider_spec {
    const char *name;                 /* the node's name; the client token */
    const char *engine;               /* program; NULL: "spillway-engine" beside our own binary */
    const char *model_path;           /* for --model */
    const char *alias;                /* model name that the engine answers to, or NULL */
    const char *node_key_file;        /* of docs/NODE_API.md, or NULL */
    int port;                         /* 0: any free one */
    int threads, ctx_size, max_batch; /* 0: the engine's default */
};

/* Borrowed from the provider for the call that hands it out. */
struct provider_instance {
    const char *name;
    enum provider_instance_state state;
    const char *host; /* valid from STARTING on */
    int port;
    int pid;            /* 0: none */
    int restarts;       /* times it ended by itself and was started again */
    const char *reason; /* of the state, for people; "" when there is nothing to say */
};

struct provider;
struct provider_env { /* all borrowed, outlive the provider */
    struct event_base *loop;
    const struct log *log;
    const struct clock *clock;
    /* Every change of state of any instance but to STOPPING (whoever called terminate() knows), on the loop. May call
     * launch and terminate, not close. */
    void (*on_change)(const struct provider_instance *i, void *arg);
    void *arg;
};

/* rc: RC_OK, or what went wrong. Called exactly once, unless the provider is closed first. */
typedef void provider_terminate_cb(enum rc rc, void *arg);

struct provider_ops {
    const char *name; /* as written in the configuration */
    unsigned caps;

    /* Required. Nothing is contacted yet. */
    enum rc (*open)(struct provider **p, const struct provider_env *env, struct error *e);
    /* Required. Instances of a provider with PROVIDER_ENDS_WITH_US are killed and reaped at once (the one place where a
     * few milliseconds may pass); others are left alone. No callback follows. NULL is fine. */
    void (*close)(struct provider *p);

    /* With CAN_LAUNCH. RC_CONFLICT: an instance of that name is there and not GONE. RC_INVALID, RC_IO: it could not be
     * started at all (no such program). RC_OK: on_change tells the rest. May be called again for another name at any
     * time. */
    enum rc (*launch)(struct provider *p, const struct provider_spec *spec, struct error *e);
    /* With CAN_LAUNCH. Ends it kindly, and after grace_ms by force; then cb (may be NULL), after on_change said GONE.
     * RC_NOT_FOUND: no such instance; cb is not called. A second call for one that is already stopping adds its cb to
     * the same end and may only shorten the grace. */
    enum rc (*terminate)(struct provider *p, const char *name, int64_t grace_ms, provider_terminate_cb *cb, void *arg);
    /* Required. Every instance that is not GONE. */
    void (*list)(struct provider *p, void (*each)(const struct provider_instance *i, void *arg), void *arg);
};

/* The first member of every provider's own struct. */
struct provider {
    const struct provider_ops *ops;
};

extern const struct provider_ops provider_static, provider_process;
extern const struct provider_ops *const provider_list[];    /* ends with NULL */
const struct provider_ops *provider_find(const char *name); /* NULL: unknown */

#endif
