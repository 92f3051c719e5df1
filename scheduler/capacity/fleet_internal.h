/* What the files of the fleet share. */
#ifndef SCHEDULER_CAPACITY_FLEET_INTERNAL_H
#define SCHEDULER_CAPACITY_FLEET_INTERNAL_H

#include <sys/queue.h>

#include "policies/forecast.h"
#include "policies/power.h"
#include "policies/scale.h"
#include "scheduler/capacity/fleet.h"

#define FLEET_SOURCES_MAX 34 /* of `providers`, and types that need no settings */
#define FLEET_MODELS_MAX  64
#define FLEET_OFFERS_MAX  SCALE_OFFERS_MAX

#define OFFERS_ASKED_MAX 4  /* of one launch */
#define STRAYS_MAX       64 /* of one provider, at once */

struct stray { /* an instance with our tag that nobody knows */
    char id[JOURNAL_ID_MAX], token[JOURNAL_TOKEN_MAX];
    struct mono first;
    bool seen, ending;
};

/* A provider that is open. */
struct source {
    struct fleet *fleet;
    struct provider *provider;
    const struct provider_ops *ops;
    char name[JOURNAL_NAME_MAX], type[32];
    struct config *config; /* a reference: its settings stand there */
    bool sweeping;
    struct mono swept_at;
    struct stray strays[STRAYS_MAX];
    int n_strays;
    char last_error[256];
};

/* What may be launched for a pool. */
struct offer {
    char id[JOURNAL_ID_MAX], domain[JOURNAL_ID_MAX];
    enum provider_market market;
    struct pusd price_hour;
    int32_t boot_s, billing_min_s;
    bool launchable, seen;   /* seen: in the last answer */
    bool doubted;            /* it had no stock when it was asked last: one launch tries it before others follow */
    int flaps;               /* times in a row that what was launched here was taken back soon */
    struct mono cold_until;  /* has no stock until then */
    struct mono steady_from; /* launchable since; on-demand nodes are replaced from it when that is long enough ago */
};

/* A pool of the configuration. */
struct pool {
    TAILQ_ENTRY(pool) next;
    struct fleet *fleet;
    char name[JOURNAL_NAME_MAX];
    struct market *market;            /* of its first model, while config is there */
    struct config *owner;             /* a reference */
    const struct config_pool *config; /* its; NULL: the configuration has lost it, and it drains */
    struct source *source;
    struct offer offers[FLEET_OFFERS_MAX];
    int n_offers;
    bool asking; /* its provider for offers */
    struct mono asked_at;
    struct mono blocked_until; /* quota, credentials: nothing is launched until then */
    struct losses losses;      /* of its spot nodes */
    struct mono losses_kept;   /* when they were written last */
};
TAILQ_HEAD(pool_list, pool);

enum purpose { FOR_NOTHING, FOR_END, FOR_SLEEP }; /* why one drains */

/* A node that the fleet looks after: of a pool, or (pool NULL) one of the configuration. */
struct member {
    TAILQ_ENTRY(member) next;
    struct fleet *fleet;
    struct pool *pool;
    char name[JOURNAL_NAME_MAX], token[JOURNAL_TOKEN_MAX], id[JOURNAL_ID_MAX], offer[JOURNAL_ID_MAX];
    char join_url[256], tls_ca[256], tls_cert[256], tls_key[256], tls_name[256]; /* of one that joined; "": none */
    char node_key[72];
    char host[256];
    int port;
    enum life_state life;
    enum purpose purpose;
    char asked[OFFERS_ASKED_MAX][JOURNAL_ID_MAX]; /* offers of its launch */
    int n_asked;
    struct mono since, sign; /* in this state; the last sign of life */
    struct node *node;       /* in the table; NULL: not (yet) */
    struct life_times times;
    struct pusd price_hour;
    int64_t launched_s, ended_s; /* ended_s: as the provider says; 0: not known */
    int64_t told_to_end_s;       /* when its end was ordered last: its end, where the provider tells none */
    int32_t billing_min_s, boot_s;
    bool journaled;      /* its intent is durable */
    bool told;           /* the provider was asked to launch it */
    bool terminating;    /* ... to end it, and has not answered */
    bool noticed;        /* it is being taken away: never back into service */
    bool pinned;         /* an operator holds it as it is */
    bool listed;         /* by the sweep under way */
    bool cut;            /* what ran there was moved once */
    struct mono gone_by; /* noticed: its end */
    char reason[512];
    /* sleep.c */
    struct http_client *client; /* to its /sleep and /wake_up; NULL: none yet */
    struct http_call *call;
    unsigned generation;
    bool called_sleep; /* what the last call asked */
    int status;
    struct mono call_at, power_at;
    bool powering, owned_known; /* a provider works on its power; it was adopted there */
    struct mono empties_from;   /* gets nothing new since */
};
TAILQ_HEAD(member_list, member);

/* A model, and what is foreseen of it. */
struct market { /* where demand meets capacity */
    char model[129];
    struct forecast forecast; /* tokens */
    struct forecast busy;     /* seconds of slots */
    struct forecast busy_now; /* of interactive requests alone */
    struct scale_memory memory;
    struct power_group group;
    struct fleet_demand last, now;
    double prompt, cached, output, prompt_sq, hold_s; /* means of what was answered of late */
    int64_t answers;                                  /* of which those are means */
    struct mono came;                                 /* the last request; 0: there was none */
    struct mono came_now;                             /* the last interactive one */
    bool known;                                       /* there was demand */
    int n_ready, n_full;                              /* nodes; full: every slot is taken */
    bool saturated;                                   /* every ready node is full, or somebody waits */
    enum fleet_comes comes;                           /* as told */
    struct progress_state progress;                   /* batch.c */
    struct fleet_pace pace;                           /* as told, or, if not, as it is to be told */
    bool told;
    enum progress_reason batch_reason;
    double batch_tokens_per_s; /* that machines are to be there for */
    int batch_waited;          /* at the last look; since then: */
    bool batch_news;
    bool keeps_asleep; /* requests go to an API rather than to one that sleeps */
    struct fleet_plan_view plan;
};

struct site; /* ladder.c */

struct fleet_model { /* that the configuration names */
    const char *name;
    struct market *market;
};

#define OUTPUT_GUESS       200 /* tokens of an answer, before one was seen */
#define SNAPSHOT_NODES_MAX 512
#define SLOTS_ASSUMED      4    /* of a node of which nobody says */
#define BATCH_LOOK_MS      1000 /* between two looks at batch work, unless more comes */

struct offer_ref { /* what an offer of a plan is; NULL: an own machine */
    struct pool *pool;
    struct offer *offer;
};
struct snapshot {                             /* of one market; for one plan */
    int32_t n_offers, n_pool_offers, n_nodes; /* those of pools come first */
    int32_t n_pools;                          /* that have offers */
    int max, at_apis;
    double ready;
    const struct config_node *api; /* NULL: none that could be turned to */
    bool api_late;                 /* what goes there misses the SLO */
    struct scale_offer offers[SCALE_OFFERS_MAX];
    struct offer_ref refs[SCALE_OFFERS_MAX];
    int32_t pools_min[SCALE_OFFERS_MAX];
    struct scale_node nodes[SNAPSHOT_NODES_MAX];
    struct member *members[SNAPSHOT_NODES_MAX]; /* NULL: none of ours */
};

struct fleet {
    struct fleet_options o;
    struct fleet_join join; /* token NULL: nobody joins */
    struct config *config;  /* a reference */
    struct journal *journal;
    char owner[33];
    struct guard *guard;
    struct source sources[FLEET_SOURCES_MAX];
    int n_sources;
    struct pool_list pools;
    struct member_list members;
    struct market markets[FLEET_MODELS_MAX];
    int n_markets;
    struct fleet_model *models; /* owned; each once */
    int n_models;
    struct market **of_node; /* owned; by the index of a node of the configuration */
    struct event *timer, *soon;
    bool stopping, paused;
    int n_stopping;
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct event *stop_event;
    struct mono planned, swept, powered, watched, paced;
    bool plan_soon;
    struct fleet_stats stats;
    struct site *site; /* of the ladder's plan */
    struct scale_plan *plan;
    struct scale_work *work;
    struct snapshot *snapshot;
};

/* ---- fleet.c */
struct member *fleet_find(const struct fleet *f, const char *name);
void fleet_plan_soon(struct fleet *f);
int64_t fleet_now_s(const struct fleet *f);
static inline bool mono_after(struct mono a, struct mono b)
{
    return a.ns > b.ns;
}

/* ---- sources.c */
enum rc sources_open(struct fleet *f, const struct config *c, struct error *e) SPW_MUST_USE;
void sources_close(struct fleet *f);
struct source *source_find(struct fleet *f, const char *name);
void pools_take(struct fleet *f, const struct config *c); /* all sources are open */
struct pool *pool_find(const struct fleet *f, const char *name);
/* One that only has nodes from before, which are ended. */
struct pool *pool_ghost(struct fleet *f, const char *name, struct source *s);
void pools_free(struct fleet *f);
void pool_ask_offers(struct pool *p);
struct offer *pool_offer(struct pool *p, const char *id); /* NULL: unknown */
void pools_watch(struct fleet *f);                        /* the hours that spot nodes have run since the last call */
void pool_lost(struct pool *p);                           /* one was taken back */
enum rc pools_remember(struct fleet *f, struct error *e) SPW_MUST_USE; /* what the journal knows of losses */
/* Nothing of it could be had: it is cold for a while. */
void offer_cool(struct pool *p, const char *id);
/* One was taken back after so long: as well, and when it was soon, a return there waits twice as long as before. */
void offer_lost(struct pool *p, const char *id, int64_t lived_ms);
void offer_had(struct pool *p, const char *id); /* one was launched there */

/* ---- member.c */
struct member *member_new(struct fleet *f, struct pool *p, const char *name, const char *token);
void member_free(struct member *m);
/* Its life goes on by this event; what follows from the new state is done. m may be gone afterwards. */
void member_event(struct member *m, enum life_event e, const char *reason);
/* What the node table and the clock say. m may be gone afterwards. */
void member_look(struct member *m);
bool member_is_rented(const struct member *m);
bool member_joins(const struct member *m); /* it is where it says, once it has joined */
void member_on_change(const struct provider_instance *i, void *source);
/* It is to be ended, at once or when it is empty. */
void member_end(struct member *m, const char *reason);
void member_drain(struct member *m, enum purpose purpose, const char *reason);
void member_undrain(struct member *m, const char *reason);

/* ---- launch.c */
/* RC_FULL: the guard says no. Everything else is told by the member's life. offers: best first. pinned: plans leave it. */
enum rc launch_one(struct pool *p, struct offer *const *offers, int n, bool pinned, const char *why,
                   struct error *e) SPW_MUST_USE;
void launch_recover(const struct journal_entry *i, void *fleet); /* found open, at the start */
enum rc launch_adopt(struct pool *p, const char *id, struct error *e) SPW_MUST_USE;
/* The provider has it now: what that costs is written down. */
void launch_known(struct member *m, const struct provider_instance *i);

/* ---- market.c */
void markets_take(struct fleet *f);                             /* of another configuration; pools_take() comes first */
struct market *plan_market(struct fleet *f, const char *model); /* made if there is none */
struct market *market_of(struct fleet *f, const struct config_node *c);          /* NULL: in none */
const struct config_node *market_api(const struct config *c, const char *model); /* NULL: no API serves it */
void plan_observe(struct fleet *f); /* demand, as the front has counted it */
bool plan_pressed(struct fleet *f); /* a market is full, or somebody waits, and it was not so before */

/* ---- plan.c */
void plan_scale(struct fleet *f);
/* Requests that a node can be busy with at once: at the SLO, where it is calibrated, and no more than its slots. */
double plan_at_once(const struct fleet *f, const struct market *k, const struct config_node *c,
                    const struct node_load *l, int32_t slots);
struct snapshot;
void plan_gather(struct snapshot *s, struct fleet *f, struct market *k);
void plan_tell(struct fleet *f); /* whom requests may wait for */

/* ---- batch.c */
/* tick: it is time, whether or not more has come. */
bool batch_is_due(struct fleet *f, bool tick);
void batch_plan(struct fleet *f);
void batch_tell(struct fleet *f); /* models that the front may not have heard of */

/* ---- ladder.c */
struct site *ladder_new(void);
void ladder_plan(struct fleet *f);
void ladder_sync(struct fleet *f); /* a member for each node of the configuration whose engine is ours */

/* ---- sleep.c */
void sleep_order(struct member *m, bool asleep);
void sleep_forget(struct member *m);
/* Off or on, by the provider of machines. */
void power_order(struct member *m, bool on);

/* ---- sweep.c */
void sweep_all(struct fleet *f);
void sweep_source(struct source *s);

#endif
