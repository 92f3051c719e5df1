/* The simulator: requests of a trace, a fleet, markets and tariffs on a virtual clock, decided by the very functions of
 * policies/ that the daemon calls. A scenario and a source of requests go in; money, energy, latencies and what
 * happened
 * come out. The same scenario, requests and seed give the same result, to the last pico-dollar.
 *
 * What is modelled
 *   node      continuous batching with chunked prefill (node_model.h), from four numbers (policies/curve.h), the
 * largest
 *             batch, and KV memory; watts by batch. One event per phase of a request, never one per token.
 *   offer     one node type in one zone on one market: price and availability over time, boot time, notice, least that
 * is
 *             billed. When fewer are available than run, the excess is pre-empted: after the notice it dies, and its
 *             streams go on elsewhere, which computes prompt and what was said again.
 *   site      what a kWh costs by time.
 *   API       a price list and latencies; as many requests as one likes.
 *   failures  nodes die without notice (mean time between failures), own machines come back after a repair.
 * Who decides: route.h which node, waiting.h who waits and who is next, forecast.h, capacity.h and scale.h which nodes
 * there
 * are. A baseline is a scenario: sim_baseline() makes one out of another.
 *
 * Time is microseconds since the start of the trace. Text and arrays of a scenario are borrowed while sim_run() runs; a
 * result borrows the names. One thread; runs of different threads do not touch each other. */
#ifndef SCHEDULER_SIMULATE_SIM_H
#define SCHEDULER_SIMULATE_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/money.h"
#include "policies/budget.h"
#include "policies/curve.h"
#include "policies/forecast.h"
#include "policies/period.h"
#include "policies/power.h"
#include "policies/router.h"
#include "policies/scale.h"
#include "policies/tariff.h"
#include "policies/waiting.h"
#include "scheduler/simulate/hist.h"

#define SIM_MODELS_MAX  64
#define SIM_TYPES_MAX   256
#define SIM_SITES_MAX   64
#define SIM_APIS_MAX    64
#define SIM_BUDGETS_MAX 256
#define SIM_NODES_MAX   65000 /* alive at once */
#define SIM_TEAMS_MAX   65536

/* A value over time: value[i] holds from at_us[i] on (at_us[0] is 0, rising); before the span it is over, after it, it
 * starts again. n 0: there is no such series. */
struct sim_steps {
    const int64_t *at_us, *value;
    int32_t n;
    int64_t span_us; /* 0: the last value holds for ever */
};
int64_t sim_steps_at(const struct sim_steps *s, int64_t at_us, int64_t *until_us); /* until: INT64_MAX: for ever */

/* --- the scenario ------------------------------------------------------------------------------------------------- */

enum sim_objective { SIM_COST, SIM_LATENCY, SIM_ENERGY, SIM_BALANCED };
struct sim_slo {              /* of interactive requests */
    int64_t ttft_us, tpot_us; /* 0: not bounded */
    /* TTFT may take so much longer for each prompt token above `ttft_free_tokens`. */
    double ttft_us_per_tok;
    int32_t ttft_free_tokens;
    double probability; /* asked for: 0.99 */
};
struct sim_model { /* what a request asks for, with its route's rules */
    const char *name;
    enum sim_objective objective;
    struct sim_slo slo;
    struct waiting_bounds waiting[WAITING_CLASSES]; /* of its room */
    /* Autoscaling: over all offers of its types. Off: the fleet stays what it is at the start. */
    bool scaled;
    enum forecast_signal signal;
    struct scale_limits limits; /* tick_s: how often it is planned */
    bool worth;                 /* machines are held for what misses of the SLO are worth (scale.h, rule 8) */
    struct scale_api api;       /* per_token and tokens_per_s_max are filled in from the API */
};

struct sim_type { /* one kind of machine as it serves one model */
    const char *name;
    uint32_t model;
    struct node_curve curve;
    /* Measured beside the lines (a calibration): zeros, NULL where it was not. step_us: as node_spec.step_us,
     * [sequences_max + 1]. */
    struct curve_detail detail;
    const float *step_us;
    int32_t chunk_tokens;  /* of prefill in one step; 0: 2048 */
    int32_t sequences_max; /* computed at once, 1 to 4096 */
    int32_t slots; /* requests it is sent at once; 0: as many as meet the SLO (capacity.h, by what has come so far) */
    int64_t kv_tokens; /* memory for so many tokens; 0: never short */
    /* Calibrated: the share of its time that it may be busy so that the fleet keeps the SLO for TTFT. 0: from the
     * curve, as
     * of a node that stands alone (capacity.h), which is far too careful where requests go where the queue is short. */
    double load_max;
    /* Draws of a whole node, by sequences in its batch; wake times. Cloud machines have one too, for the kWh: ACTIVE
     * alone. */
    struct power_levels levels;
    int64_t prefill_mw; /* at least, while a prompt is computed */
    double mtbf_h;      /* mean time between failures; 0: it does not fail */
    int64_t repair_us;  /* own machines */
};

struct sim_offer {
    const char *provider, *zone; /* "aws", "us-east-1a" */
    uint32_t type;
    enum scale_market market;
    int32_t domain; /* offers with the same one die together; >= 0 */
    int32_t pool;   /* of pools_min; any other number: of none */
    int32_t site;   /* who pays the energy, by this tariff; -1: it is in the price */
    struct pusd price_hour;
    struct token_prices charge;   /* what teams are charged for tokens from here: counts in budgets alone */
    struct sim_steps price_hours; /* pico-dollars per hour; n 0: price_hour */
    struct sim_steps available;   /* nodes that could be had, or kept; n 0: launch_max */
    int32_t launch_max;           /* alive at once */
    int64_t boot_us, notice_us;
    int32_t billing_min_s;
    double losses_per_hour; /* what the policy believes of one node */
    /* At the start. Of own machines so many are owned: running + asleep. */
    int32_t running, asleep;   /* asleep: beside those that run */
    struct pusd purchase_hour; /* own machines: write-off per hour of each that is owned, running or not */
};
struct sim_site {
    const char *name;
    const struct tariff *tariff;
    double overhead;         /* of power beside the machines: PUE; 0: 1 */
    int64_t cap_mw, base_mw; /* policies/power.h; cap 0: none */
    /* power_plan() decides which of its machines are awake. Else those of scaled models wake and sleep by scale_plan()
     * alone,
     * and the others stay as they are. */
    bool powered;
    int32_t keep_warm; /* of each model */
    int32_t trust;     /* in the forecast, 0 to 1000 */
};
struct sim_api {
    const char *provider;
    uint32_t model;
    struct token_prices prices;
    int64_t ttft_us, tpot_us; /* means */
    double ttft_us_per_tok;   /* of the prompt */
    double spread;            /* sd / mean of both, lognormal; 0: always the same */
};

/* What may be spent by our price list (sim_offer.charge, sim_api.prices). Actions are enum budget_action's and do what
 * they do in the daemon: soft ones NOTIFY, PREFER_LOCAL, LOCAL_ONLY, DOWNGRADE, QUEUE (as batch) and DENY; hard ones,
 * in this order, LOCAL_ONLY, DOWNGRADE, QUEUE (until the next period, as long as batch may wait), else the request is
 * refused. */
struct sim_budget {
    const char *name;
    const char *team_name;          /* whose requests; NULL: all. `team` follows from it once the trace is open */
    int32_t team, model;            /* -1: all, for every model. At most BUDGET_SET_MAX may hold for one request */
    int32_t soft_model, hard_model; /* of DOWNGRADE */
    struct period_spec period;
    struct pusd hard, soft; /* BUDGET_UNLIMITED: none */
    struct pusd carry_max;
    unsigned hard_actions, soft_actions;
};

enum sim_routing { SIM_BY_POLICY, SIM_ROUND_ROBIN };
struct sim_scenario {
    const char *name;
    const struct sim_model *models;
    const struct sim_type *types;
    const struct sim_offer *offers;
    const struct sim_site *sites;
    const struct sim_api *apis;
    const struct sim_budget *budgets;
    int32_t n_models, n_types, n_offers, n_sites, n_apis, n_budgets;
    const int32_t *pools_min; /* by pool: rented nodes that autoscaling keeps of it, whatever is needed */
    int32_t n_pools;
    enum sim_routing routing;
    uint64_t seed;
    int64_t start_unix_s;    /* of the trace's start, local time: for tariffs' and forecasts' time of the week */
    int64_t measure_from_us; /* requests that come sooner are served, but stand in no figure of latency or SLO */
    int64_t until_us;        /* machines are paid until then, or until the last answer is out, what is later */
    int32_t nodes_max; /* alive at once, over all offers; 0: what fits the offers' launch_max, SIM_NODES_MAX at most */
};
/* What is wrong with it: the first thing, with its place ("offer 3 (aws us-east-1a): type 9 of 4"). */
enum rc sim_check(const struct sim_scenario *s, struct error *e) SPW_MUST_USE;

/* Requests in time order. RC_NOT_FOUND: there are no more; anything else but RC_OK ends the run with it. trace.h has
 * the
 * struct, and trace_next() fits. */
struct sim_request;
struct sim_source {
    enum rc (*next)(void *arg, struct sim_request *r, struct error *e);
    void *arg;
};

/* --- baselines ------------------------------------------------------------------------------------------------------
 * */

enum sim_baseline {
    SIM_ALL_ON_DEMAND_FIXED, /* as many as the peak needs (sim_peak_nodes()), all the time */
    SIM_ALL_ON_DEMAND,       /* autoscaled by the same forecast */
    SIM_ALL_API,
    SIM_ON_PREM_ONLY,
    SIM_SPOT_NO_FALLBACK, /* own machines and spot; nothing else */
    SIM_ROUND_ROBIN_ALL,  /* the same fleet and scaling; requests in turn */
    SIM_N_BASELINES
};
const char *sim_baseline_name(enum sim_baseline b); /* "all-on-demand-fixed", "all-on-demand", "all-api", ... */
/* *out is `s` with what the baseline takes away; its arrays are in *store, which must live as long. peak: nodes per
 * model,
 * for FIXED alone. RC_INVALID: `s` has nothing such a baseline could run on (no API, no on-demand offer, ...). */
struct sim_store {
    struct sim_model *models;
    struct sim_offer *offers; /* both owned: sim_store_fini() */
};
enum rc sim_baseline(struct sim_scenario *out, struct sim_store *store, const struct sim_scenario *s,
                     enum sim_baseline b, const int32_t *peak, struct error *e) SPW_MUST_USE;
void sim_store_fini(struct sim_store *store);
/* Reads the source to its end: for each model as many nodes of its cheapest on-demand offer as the busiest `window_us`
 * needs at
 * the SLO. */
enum rc sim_peak_nodes(const struct sim_scenario *s, const struct sim_source *source, int64_t window_us,
                       int32_t peak[SIM_MODELS_MAX], struct error *e) SPW_MUST_USE;

/* --- the result --------------------------------------------------------------------------------------------------- */

struct sim_bill {                       /* of an offer or an API; rows in their order, offers first */
    const char *provider, *zone, *what; /* what: the node type's or the model's name */
    bool api;
    enum scale_market market;                          /* not of an API */
    struct pusd_sum compute, energy, purchase, tokens; /* rent; kWh; write-off; price list */
    double kwh;
    int64_t launches, wakes, preemptions, failures, requests; /* requests: legs that ended well here */
    int64_t prompt_tokens, output_tokens;
    double node_hours, busy_hours; /* alive (own machines: awake); computing anything */
    double batch_hours;            /* sequences being decoded, integrated: / busy_hours: mean batch */
};
struct sim_class_result {           /* of one model, interactive or batch */
    int64_t requests;               /* came, and are measured */
    int64_t done, refused, expired; /* each ended once: answered, not let in, waited in vain */
    int64_t refused_budget;         /* of those refused: by a budget */
    int64_t refused_by[WAITING_VERDICTS];
    int64_t in_slo;                                    /* interactive: TTFT and TPOT; batch: done before its deadline */
    int64_t waited;                                    /* in the room, for any time */
    int64_t by_api, by_spot, by_on_demand, by_on_prem; /* who said the last token */
    int64_t prompt_tokens, output_tokens;
    struct hist ttft_us, tpot_us, e2e_us, wait_us; /* of those that were done; tpot: with two tokens or more */
};
struct sim_model_result {
    const char *name;
    struct sim_class_result of[WAITING_CLASSES];
    int64_t interrupted;     /* legs that a pre-emption, a failure or a drain ended before the answer's end */
    int64_t continued;       /* answers that went on elsewhere after their first token */
    int64_t again;           /* began again elsewhere: nothing had been said */
    int64_t replayed_tokens; /* computed once more for that */
    int64_t plans, actions;  /* of autoscaling */
};
struct sim_team_result {
    struct pusd_sum money; /* its share of every bill, by the device time it used there; sums up to the total exactly */
    int64_t requests, prompt_tokens, output_tokens;
};
struct sim_budget_result {
    const char *name;
    struct pusd limit;           /* hard, of a period; BUDGET_UNLIMITED: none */
    int64_t periods, soft, hard; /* periods begun; in which the limit was reached */
    int64_t refused, cut;        /* requests that did not fit; answers that ended early */
    int64_t kept_local, demoted; /* sent to own machines alone, treated as batch: by an action */
    int64_t downgraded, queued;  /* answered by another model; waited for the next period */
    struct pusd_sum spent;
    int64_t first_hard_us; /* -1: never */
    bool overspent;
};
struct sim_site_result {
    const char *name;
    int64_t cap_mw, peak_mw; /* peak: the most that could have been drawn at any instant; kept where there is a cap */
};
struct sim_sample { /* the fleet over time, for charts: at most SIM_SAMPLES, evenly spaced */
    int64_t at_us;
    int32_t on_prem, asleep, spot, on_demand, booting;
    int32_t waiting, in_flight;
    double watts;
    struct pusd hour;        /* what is being paid, machines' rent alone */
    double demand, forecast; /* of all models: now, and what was foreseen; the signal's unit per second */
};
#define SIM_SAMPLES 1440

struct sim_result {
    struct sim_bill *bills; /* owned: n_offers + n_apis */
    int32_t n_bills;
    struct sim_model_result *models; /* owned */
    int32_t n_models;
    struct sim_team_result *teams; /* owned; by the source's index; the last row, [n_teams - 1], is what nobody used */
    int32_t n_teams;
    struct sim_sample *samples;    /* owned */
    struct sim_site_result *sites; /* owned */
    int32_t n_sites;
    struct sim_budget_result *budgets; /* owned */
    int32_t n_budgets;
    int32_t n_samples;
    struct pusd_sum total;
    double kwh;
    int64_t requests, events, end_us; /* all that came, measured or not; end: of the clock */
    int64_t requests_done;
    /* A hash over who was chosen for whom, in order: two runs that agree in it decided alike. It tells whether a change
     * of the policies' code changed a decision. */
    uint64_t decisions;
    int32_t nodes_peak;
};
/* On failure nothing is held. `progress` (NULL: nobody asks) is called about every 100,000 requests. */
struct sim_options {
    void (*progress)(int64_t at_us, int64_t requests, void *arg);
    /* The router that will decide, of this size, as it is made: for who wants to listen to it (router_tap()); *now_us
     * is the simulation's time while it runs. And the nodes that it is told of, before it is. NULL: nobody listens. */
    void (*router)(struct router *r, const struct router_size *size, const int64_t *now_us, void *arg);
    void (*node)(int32_t node, const char *name, void *arg);
    void *arg;
};
enum rc sim_run(const struct sim_scenario *s, const struct sim_source *source, const struct sim_options *o,
                struct sim_result *r, struct error *e) SPW_MUST_USE;
void sim_result_fini(struct sim_result *r); /* {0} is fine */

#endif
