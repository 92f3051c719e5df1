/* How deep idle machines sleep, which ones get the work so that the others may, and a site's limit in watts.
 *
 * A node is active, eco (slower clocks or a power limit: less work, fewer watts), asleep (no device context, weights in
 * memory) or off. A level costs watts while a node is in it, and joules and time to get there and back. A snapshot of a
 * site goes in; per node a target state, whether it may be sent new work, and the reason come out. The daemon, the
 * simulator and the tests call power_plan() every few seconds and whenever somebody waits.
 *
 * The rules, strongest first:
 *  1. The site's limit. Every node is counted with the most it can draw until it has done what it is told (`power_ceiling`:
 *     waking and going down with their surges, serving with the batch it has). The sum never exceeds the limit at any instant:
 *     no node is woken, and no request admitted (power_admit), unless what it can draw at most still fits.
 *     Who can't be admitted is queued, spilled to somewhere else, or shed. If the limit itself is lowered below what is
 *     drawn, nothing is admitted and nodes are let run empty until it holds again.
 *  2. Nothing leaves eco for something deeper with work on it, and nothing that an operator has pinned is moved.
 *  3. keep_warm: at least so many nodes of a model are awake, whatever the forecast says.
 *  4. Consolidation. The nodes of a model stand in one order: awake before asleep before off, fewer watts per capacity
 *     first, then the busiest, then the lower index. The first that cover the need get all the work; the others get new
 *     work only when those are full, so that they run empty. (A node that serves one request draws most of what it draws with a full batch:
 *     486 of 690 W measured for 8B on one H100, so few full nodes cost far less than many that are half empty.)
 *     The answers of a node that runs empty may be moved when there is room for all of them and for what comes until the
 *     next plan. Reading them again is a level like sleep: it pays, or not, before the last would be over and before more
 *     is likely to come than the others hold.
 *  5. Waking. A node is woken when the capacity needed by the time it would be up is more than what is awake, on its way, or
 *     shallower. So the shallow levels carry what may come soon and the deep ones what comes late.
 *  6. Depth, for nodes that are empty and not needed: power_depth(), below, for the time in which they are not likely to
 *     be needed. No level that the next plan would wake it from.
 *
 * Deterministic; no clock, I/O, globals or allocation. Arrays are the caller's. Watts are integer milliwatts, energies
 * integer millijoules, times microseconds. Capacity is in whatever unit the need is in (tokens/s, sequences). */
#ifndef POLICIES_POWER_H
#define POLICIES_POWER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum power_state { POWER_ACTIVE, POWER_ECO, POWER_SLEEP, POWER_OFF, POWER_STATES };
const char *power_state_name(enum power_state s); /* "active", "eco", "sleep", "off" */

/* --- what a node draws ---------------------------------------------------------------------------------------- */

#define POWER_POINTS_MAX 12
struct power_point {
    int32_t in_flight;
    int64_t mw;
};
struct power_level {
    bool allowed; /* ACTIVE always is */
    int64_t idle_mw;
    /* From ACTIVE into this level, and back until it serves: time, and the most that is drawn meanwhile. From a
     * shallower level into a deeper one costs the difference of the two. */
    int64_t down_us, down_mw;
    int64_t wake_us, wake_mw;
    /* ACTIVE and ECO: draw by requests in flight, rising, at least the true one; a straight line between points,
     * constant past the last; from idle_mw at 0. n_points 0: idle_mw, whatever it does. */
    int n_points;
    struct power_point points[POWER_POINTS_MAX];
    double speed; /* ECO: of ACTIVE's capacity, 0 < speed <= 1 */
};
struct power_levels {
    struct power_level of[POWER_STATES];
};
/* Are they well-formed: draws fall with depth, wake times rise, points rise? The text says which is not, and why. */
enum rc power_levels_check(const struct power_levels *l, struct error *e) SPW_MUST_USE;

/* In a steady state with so many requests (0 unless ACTIVE or ECO). */
int64_t power_draw_mw(const struct power_levels *l, enum power_state s, int32_t in_flight);
/* The most it draws while it goes from one to the other with so many requests, both ends counted. */
int64_t power_move_mw(const struct power_levels *l, enum power_state from, enum power_state to, int32_t in_flight);
int64_t power_move_us(const struct power_levels *l, enum power_state from, enum power_state to);
int64_t power_move_mj(const struct power_levels *l, enum power_state from, enum power_state to);
/* To come back from the lightest level below eco that is allowed; 0: none is. */
int64_t power_light_wake_us(const struct power_levels *l);
/* What it costs to keep room for one request ready: watts of idling beyond the deepest level that is allowed, by the
 * requests that a node serves at once; 0 if it serves none. */
double power_spare_w(const struct power_levels *l, double capacity);
/* milliwatts for microseconds, in millijoules, rounded up. */
int64_t power_mj(int64_t mw, int64_t us);

/* When the last of n answers will be over, each of which has mean_us left in the mean: mean_us (1 + 1/2 + ... + 1/n),
 * for exponential ones. */
int64_t power_last_us(int64_t mean_us, int32_t n);

/* --- how deep, for how long idle ------------------------------------------------------------------------------ */

/* The steps of the ladder that are worth it: level[i] is the cheapest for idle periods from after_us[i] to after_us[i +
 * 1], all joules of going there and coming back counted: the lower envelope of the levels' cost lines. */
struct power_ladder {
    int n;
    enum power_state level[POWER_STATES];
    int64_t after_us[POWER_STATES]; /* [0]: 0 */
};
void power_ladder(struct power_ladder *ladder, const struct power_levels *l);
/* What an idle period of idle_us costs in millijoules when it is spent in s, there and back included. */
int64_t power_idle_mj(const struct power_levels *l, enum power_state s, int64_t idle_us);
/* The offline optimum: the cheapest level for an idle period of known length. */
enum power_state power_offline(const struct power_levels *l, int64_t idle_us, int64_t *mj);

/* What is known of the idle period that is under way. */
struct power_forecast {
    bool known;
    int64_t left_us; /* it lasts so long still, as far as can be told; INT64_MAX: no end in sight */
    /* How much it is believed, 0 to 1000. lambda = 1 - trust/1000. A level that pays after T is entered when the node
     * has been idle for lambda T and (1 - lambda) T or more is left; else not before T / lambda. 0: not at all, ski
     * rental. 1000: at once, or not at all. */
    int32_t trust;
};
/* The level for a node that has been idle for idle_us.
 *
 * Without a forecast: ski rental. A level is entered when the node has been idle for as long as the level takes to pay
 * (the points of the ladder). Whatever happens then, the energy is at most twice the offline optimum's: Karlin,
 * Manasse, McGeoch and Owicki, "Competitive randomized algorithms for nonuniform problems" (1994), and for several
 * levels Irani, Shukla and Gupta, "Online strategies for dynamic power management in systems with multiple power-saving
 * states" (2003). With one: Purohit, Svitkina and Kumar, "Improving online algorithms via ML predictions" (2018), sec.
 * 2, for each point of the ladder, with lambda = 1 - trust/1000: at most 1 + lambda times the optimum if the forecast
 * was right, at most 1 + 1 / lambda times if it was wrong. What the forecast says may change meanwhile: it is asked for
 * what is left. */
enum power_state power_depth(const struct power_ladder *ladder, int64_t idle_us, const struct power_forecast *f);
/* When power_depth() will next say something deeper if the node stays idle; INT64_MAX: never. For a timer. */
int64_t power_next_us(const struct power_ladder *ladder, int64_t idle_us, const struct power_forecast *f);

/* --- the plan of a site --------------------------------------------------------------------------------------- */

struct power_node {
    enum power_state state;   /* that it is in, or comes from while it moves */
    enum power_state to;      /* that it moves to; == state: it doesn't */
    int64_t moved_us;         /* until it has; 0: not known, its whole time is assumed */
    int64_t idle_us;          /* since its last work, or since it was last woken; 0 with work */
    int32_t in_flight, slots; /* slots 0: unbounded, draws are those of the last point */
    double capacity;          /* active; >= 0 */
    int32_t group;            /* nodes of one group serve the same model and stand in for each other */
    bool usable;              /* answers, is not leaving; false: counts for its draw only */
    bool pinned;              /* an operator holds it in its state */
    bool wakes;               /* its way back has been proven; else it isn't sent deeper than eco */
    bool accepts;             /* it is sent new work now */
    /* Answers may be moved off a node that runs empty: cut, and continued on another, which reads prompt and answer
     * again. Reading all of its answers costs move_mj (0: they aren't moved); left alone, its last would be over in
     * last_us. */
    int64_t move_mj, last_us;
    int64_t empties_us;                /* since accepts was last set; 0 while it is */
    const struct power_levels *levels; /* borrowed */
};
#define POWER_STEPS_MAX 10
struct power_need { /* in_us from now; a straight line between two, from what is in use now to the first */
    int64_t in_us;
    double capacity; /* at an upper quantile of the forecast: nodes are woken for it */
    double likely;   /* as much as not: how long a node will be idle follows from it; <= capacity */
};
/* How what was foreseen turned out. Per step the spread is widened or narrowed until the upper quantile was exceeded
 * as seldom as it should be: Gibbs and Candes, "Adaptive conformal inference under distribution shift" (2021), on the
 * logarithm of the width. */
#define POWER_TRIED_MAX 17 /* of a step, that wait to be compared */
struct power_tried {
    double width; /* times the spread; 0: not begun */
    int64_t next_us;
    int32_t first, n;
    struct {
        int64_t due_us;
        double said;
    } waiting[POWER_TRIED_MAX];
};
struct power_group {
    int32_t keep_warm;
    double now;                               /* capacity in use, and by who waits */
    double margin;                            /* beside it, for what comes until the next plan; capacity */
    struct power_need steps[POWER_STEPS_MAX]; /* in_us > 0, rising; the last holds until `until_us` */
    int n_steps;                              /* 0: no forecast: `now` and ski rental */
    int64_t until_us;                         /* as far as the forecast goes */
    bool untried; /* it was never compared with what came: it wakes nodes, but sends none down before ski rental does */
    int32_t trust; /* see struct power_forecast */
    double steady; /* eco: the largest share of its speed that a node may be loaded to there; 0: no eco */
    bool spills;   /* what doesn't fit can be served elsewhere */
    /* power_foresee()'s own */
    int64_t foreseen_us;
    struct power_tried tried[POWER_STEPS_MAX];
};
/* Fills in what comes: `now`, `margin`, `steps` and `until_us`. The unit of capacity is one request being served: a
 * request that holds a slot for h seconds adds h to what the forecast was fed with (forecast_observe), so that its
 * level is the number being served at once (Little's law). Of in_use requests exp(-t / hold) are still there after t;
 * the rest of the way goes to the forecast's mean, with z spreads, which grow from nothing at the same pace; a spread
 * is the forecast's, and not less than what chance alone does to the number in service (its variance is its mean, for
 * requests that come independently of each other), times what past errors say (struct power_tried). Beyond half a
 * minute z is lower where spare capacity is dear (the newsvendor's rule): a missing slot is worth 28 W of it, so that
 * one that costs 0.3 W is kept for the hundredth case, one that costs 3 W only for the tenth. *g is kept from plan to
 * plan ({0} at the start, with the caller's settings): what was foreseen for a time h ahead fades over h, sooner where
 * it is dear, so that a dip of the forecast that is shorter than a level takes to pay sends nobody there. */
struct forecast;
struct power_outlook {
    const struct forecast *forecast;
    double in_use, waiting; /* requests */
    double hold_s;          /* mean time that one holds a slot */
    double z;               /* 2.3: 99 times of 100 */
    double spare_w;         /* what room for one request costs that is kept ready: power_spare_w(); 0: nothing */
    int64_t now_us;         /* monotonic */
    int64_t tick_us;        /* until the next plan */
    /* Nobody has asked for quiet_us. Past forget_us (0: never), with nothing in use, what is left of the averages is no
     * demand: nothing is foreseen, and ski rental alone decides. */
    int64_t quiet_us, forget_us;
    /* What is promised for the first token, and what it takes to wake one that sleeps lightly (0, 0: nothing is known).
     * Where a waking takes no more than a quarter of the promise, another quarter of which goes by before somebody is
     * woken, chance is waited for, and not kept awake for: `margin` is what is expected. */
    int64_t ttft_us, wake_us;
};
void power_foresee(struct power_group *g, const struct power_outlook *o);

struct power_snapshot {
    const struct power_node *nodes;
    int32_t n_nodes;
    const struct power_group *groups;
    int32_t n_groups;
    int64_t cap_mw;  /* of the site; 0: none */
    int64_t base_mw; /* what the site draws beside the nodes */
    /* No other node begins to accept work for less than this share of its capacity beyond what those before it hold: 0.1. */
    double hysteresis;
};

enum power_reason {
    POWER_SERVES,      /* active: it is needed for the work */
    POWER_KEPT_WARM,   /* active: keep_warm */
    POWER_MARGIN,      /* active: for what may come before another would be up */
    POWER_WAKES_NOW,   /* to active: somebody waits, or more is in use than is awake */
    POWER_WAKES_AHEAD, /* to active: the forecast needs it by the time it is up */
    POWER_WAKES_WARM,  /* to active: keep_warm */
    POWER_RUNS_EMPTY,  /* not needed; finishes what it has, gets nothing new */
    POWER_NOT_YET,     /* not needed and empty; has not been idle long enough to pay for a deeper level */
    POWER_DEEPER,      /* to sleep or off: past the break-even */
    POWER_LONG_IDLE,   /* to sleep or off: the forecast does not need it before the break-even */
    POWER_SLOWER,      /* to eco: its load fits the slower speed, at fewer watts */
    POWER_FASTER,      /* from eco to active: its load doesn't */
    POWER_STAYS_DOWN,  /* asleep or off: not needed */
    POWER_CAP_HOLDS,   /* asleep or off: needed, but waking it could exceed the site's limit */
    POWER_CAP_SLOWER,  /* to eco: so that more fits the site's limit */
    POWER_CAP_EMPTIES, /* runs empty: the site's limit was lowered below what is drawn */
    POWER_MOVING,      /* on its way; it is let finish */
    POWER_PINNED,      /* by an operator */
    POWER_UNUSABLE,    /* does not answer, or leaves */
    POWER_REASONS,
};
const char *power_reason_text(enum power_reason r); /* "not needed before it would pay for itself" */
const char *power_reason_name(enum power_reason r); /* "long_idle": for labels */

struct power_choice {
    enum power_state target;
    bool
        accepts; /* gets new work; false: only what has waited a while (half of its time to first token, say) because nobody
                   * who accepts had room */
    enum power_reason reason;
    bool
        moves; /* what it has is to be continued on those who accept: they have room, and that costs less than waiting */
    int64_t idle_left_us; /* what the forecast says; -1: nothing */
};
struct power_plan {
    int64_t draw_mw;    /* now: steady draws and moves under way, base included */
    int64_t ceiling_mw; /* the most that can be drawn until all of the plan is done, at the load of now */
    int64_t
        all_active_mw; /* what the same load would draw with every node active and none asleep: the saving's measure */
    int32_t awake, waking, asleep; /* usable ones, after the plan */
    bool by_cap;                   /* the limit kept a node down, or empties one */
    int64_t again_us;              /* a deeper level pays after so long; INT64_MAX: nothing is pending */
};
/* n_nodes choices are written; order: room for n_nodes numbers. O(n log n). Groups in range, times and draws >= 0. */
void power_plan(struct power_plan *plan, struct power_choice *choices, int32_t *order, const struct power_snapshot *s);

/* The most one node can draw until it has done what it is told, at its load of now. */
int64_t power_ceiling_mw(const struct power_node *n, enum power_state target);

/* --- one more request ----------------------------------------------------------------------------------------- */

enum power_verdict { POWER_ADMIT, POWER_QUEUE, POWER_SPILL, POWER_SHED };
const char *power_verdict_name(enum power_verdict v);
struct power_ask {
    const struct power_levels *levels; /* of the node that would serve it */
    enum power_state state;            /* of that node: ACTIVE, ECO, or from which it would have to wake */
    int32_t in_flight;                 /* there, without it */
    int64_t wait_us;                   /* it may wait so long; 0: not at all */
    bool batch;                        /* waits rather than costs money elsewhere */
    bool spills;                       /* another place, outside the limit, may and can serve it */
};
/* ceiling_mw: of the site, everything already admitted, told or under way counted. freed_us: when draw is expected to
 * be given back, -1: not known. Batch queues before it spills; interactive work spills before it queues, and queues
 * only if it is expected to get its turn in time. */
enum power_verdict power_admit(int64_t cap_mw, int64_t ceiling_mw, int64_t freed_us, const struct power_ask *a);
/* What admitting it can add to the ceiling. */
int64_t power_ask_mw(const struct power_ask *a);

#endif
