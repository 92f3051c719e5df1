/* What nodes draw, how deep an idle one goes, and whether one more request fits a site's limit. power_plan.c plans. */
#include "policies/power.h"

#include <stddef.h>

typedef __int128 wide; /* nanojoules: milliwatts x microseconds */

const char *power_state_name(enum power_state s)
{
    static const char *const names[] = {"active", "eco", "sleep", "off"};
    return (unsigned)s < POWER_STATES ? names[s] : "?";
}

const char *power_verdict_name(enum power_verdict v)
{
    static const char *const names[] = {"admit", "queue", "spill", "shed"};
    return (unsigned)v < sizeof names / sizeof *names ? names[v] : "?";
}

/* ---- well-formed? ------------------------------------------------------------------------------------------------ */

static enum rc check_points(const struct power_level *l, const char *name, struct error *e)
{
    if (l->n_points < 0 || l->n_points > POWER_POINTS_MAX)
        return error_set(e, RC_INVALID, "%s: %d points of draw; 0 to %d are right", name, l->n_points,
                         POWER_POINTS_MAX);
    int32_t in_flight = 0;
    int64_t mw = l->idle_mw;
    for (int i = 0; i < l->n_points; i++) {
        const struct power_point *p = &l->points[i];
        if (p->in_flight <= in_flight || p->mw < mw)
            return error_set(e, RC_INVALID,
                             "%s: point %d (%d in flight, %lld mW): requests must rise, watts must not fall, and no "
                             "point may be below the idle draw",
                             name, i + 1, p->in_flight, (long long)p->mw);
        in_flight = p->in_flight;
        mw = p->mw;
    }
    return RC_OK;
}

static wide down_nj(const struct power_level *l)
{
    return (wide)l->down_mw * l->down_us;
}
static wide wake_nj(const struct power_level *l)
{
    return (wide)l->wake_mw * l->wake_us;
}

/* b is the next deeper allowed level after a. */
static enum rc check_deeper(const struct power_level *a, const struct power_level *b, const char *name, struct error *e)
{
    if (b->idle_mw > a->idle_mw)
        return error_set(e, RC_INVALID, "%s draws %lld mW when idle, more than the level above it (%lld mW)", name,
                         (long long)b->idle_mw, (long long)a->idle_mw);
    if (b->wake_us < a->wake_us || b->down_us < a->down_us || down_nj(b) < down_nj(a) || wake_nj(b) < wake_nj(a))
        return error_set(e, RC_INVALID,
                         "%s is reached or left sooner, or with less energy, than the level above it: both times count "
                         "from active",
                         name);
    return RC_OK;
}

enum rc power_levels_check(const struct power_levels *l, struct error *e)
{
    if (!l->of[POWER_ACTIVE].allowed)
        return error_set(e, RC_INVALID, "active must be allowed");
    const struct power_level *above = NULL;
    for (int s = 0; s < POWER_STATES; s++) {
        const struct power_level *v = &l->of[s];
        const char *name = power_state_name((enum power_state)s);
        if (!v->allowed)
            continue;
        if (v->idle_mw < 0 || v->down_us < 0 || v->down_mw < 0 || v->wake_us < 0 || v->wake_mw < 0)
            return error_set(e, RC_INVALID, "%s: watts and times must not be below 0", name);
        if (check_points(v, name, e) != RC_OK)
            return e ? e->code : RC_INVALID;
        if (s == POWER_ECO && !(v->speed > 0 && v->speed <= 1))
            return error_set(e, RC_INVALID, "eco: speed must be more than 0 and at most 1 (of active's)");
        if (above && check_deeper(above, v, name, e) != RC_OK)
            return e ? e->code : RC_INVALID;
        above = v;
    }
    return RC_OK;
}

/* ---- draws and moves --------------------------------------------------------------------------------------------- */

int64_t power_mj(int64_t mw, int64_t us)
{
    return (int64_t)(((wide)mw * us + 999999) / 1000000);
}

int64_t power_draw_mw(const struct power_levels *l, enum power_state s, int32_t in_flight)
{
    const struct power_level *v = &l->of[s];
    if (in_flight <= 0 || s > POWER_ECO || v->n_points == 0)
        return v->idle_mw;
    struct power_point before = {0, v->idle_mw};
    for (int i = 0; i < v->n_points; i++) {
        const struct power_point *p = &v->points[i];
        if (in_flight <= p->in_flight) { /* rounded up: a bound must not be below the line */
            wide rise = (wide)(p->mw - before.mw) * (in_flight - before.in_flight);
            int32_t run = p->in_flight - before.in_flight;
            return before.mw + (int64_t)((rise + run - 1) / run);
        }
        before = *p;
    }
    return before.mw;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t power_light_wake_us(const struct power_levels *l)
{
    for (int s = POWER_SLEEP; s < POWER_STATES; s++)
        if (l->of[s].allowed)
            return l->of[s].wake_us;
    return 0;
}

double power_spare_w(const struct power_levels *l, double capacity)
{
    int64_t least_mw = l->of[POWER_ACTIVE].idle_mw;
    for (int s = POWER_SLEEP; s < POWER_STATES; s++)
        if (l->of[s].allowed && l->of[s].idle_mw < least_mw)
            least_mw = l->of[s].idle_mw;
    return capacity > 0 ? (double)(l->of[POWER_ACTIVE].idle_mw - least_mw) / 1000 / capacity : 0;
}

int64_t power_move_us(const struct power_levels *l, enum power_state from, enum power_state to)
{
    if (from == to)
        return 0;
    if (to < from)
        return l->of[from].wake_us;
    return larger(l->of[to].down_us - (from == POWER_ACTIVE ? 0 : l->of[from].down_us), 0);
}

int64_t power_move_mj(const struct power_levels *l, enum power_state from, enum power_state to)
{
    wide nj = 0;
    if (to < from)
        nj = wake_nj(&l->of[from]);
    else if (to > from)
        nj = down_nj(&l->of[to]) - (from == POWER_ACTIVE ? 0 : down_nj(&l->of[from]));
    return nj > 0 ? (int64_t)((nj + 999999) / 1000000) : 0;
}

int64_t power_move_mw(const struct power_levels *l, enum power_state from, enum power_state to, int32_t in_flight)
{
    int64_t ends = larger(power_draw_mw(l, from, in_flight), power_draw_mw(l, to, in_flight));
    if (from == to)
        return ends;
    return larger(ends, to < from ? l->of[from].wake_mw : l->of[to].down_mw);
}

int64_t power_ceiling_mw(const struct power_node *n, enum power_state target)
{
    int64_t mw = power_move_mw(n->levels, n->state, n->to, n->in_flight);
    return n->to == target ? mw : larger(mw, power_move_mw(n->levels, n->to, target, n->in_flight));
}

/* ---- how deep ---------------------------------------------------------------------------------------------------- */

/* An idle period of us spent in s: all of the way down even if it ends sooner, the rest at the level's draw, the way back. */
static wide idle_nj(const struct power_levels *l, enum power_state s, int64_t us)
{
    const struct power_level *v = &l->of[s];
    if (s == POWER_ACTIVE)
        return (wide)v->idle_mw * us;
    return down_nj(v) + wake_nj(v) + (wide)v->idle_mw * (us > v->down_us ? us - v->down_us : 0);
}

int64_t power_idle_mj(const struct power_levels *l, enum power_state s, int64_t idle_us)
{
    return (int64_t)((idle_nj(l, s, idle_us) + 999999) / 1000000);
}

enum power_state power_offline(const struct power_levels *l, int64_t idle_us, int64_t *mj)
{
    enum power_state best = POWER_ACTIVE;
    for (int s = POWER_ECO; s < POWER_STATES; s++)
        if (l->of[s].allowed && idle_nj(l, (enum power_state)s, idle_us) < idle_nj(l, best, idle_us))
            best = (enum power_state)s;
    if (mj)
        *mj = power_idle_mj(l, best, idle_us);
    return best;
}

static wide divide_up(wide a, wide b) /* b > 0 */
{
    return a <= 0 ? 0 : (a + b - 1) / b;
}

/* From which idle period on deep costs no more than shallow; INT64_MAX: never. */
static int64_t crossing_us(const struct power_levels *l, enum power_state shallow, enum power_state deep)
{
    const struct power_level *a = &l->of[shallow], *b = &l->of[deep];
    wide enter_a = shallow == POWER_ACTIVE ? 0 : down_nj(a) + wake_nj(a);
    wide skip_a = shallow == POWER_ACTIVE ? 0 : (wide)a->idle_mw * a->down_us;
    wide enter_b = down_nj(b) + wake_nj(b);
    int64_t at = INT64_MAX;
    if (a->idle_mw > 0) { /* b still goes down: its cost is constant */
        wide t = divide_up(enter_b - enter_a + skip_a, a->idle_mw);
        if (t <= b->down_us)
            return (int64_t)t;
    }
    if (a->idle_mw > b->idle_mw) {
        wide t = divide_up(enter_b - (wide)b->idle_mw * b->down_us - enter_a + skip_a, a->idle_mw - b->idle_mw);
        at = t < INT64_MAX ? (int64_t)t : INT64_MAX;
    }
    return at > b->down_us ? at : b->down_us;
}

void power_ladder(struct power_ladder *ladder, const struct power_levels *l)
{
    *ladder = (struct power_ladder){.n = 1, .level = {POWER_ACTIVE}};
    for (;;) {
        enum power_state at = ladder->level[ladder->n - 1], next = POWER_STATES;
        int64_t soonest = INT64_MAX;
        for (int s = at + 1; s < POWER_STATES; s++) {
            if (!l->of[s].allowed)
                continue;
            int64_t t = crossing_us(l, at, (enum power_state)s);
            if (t < INT64_MAX && t <= soonest) { /* among equals the deeper one */
                soonest = t;
                next = (enum power_state)s;
            }
        }
        if (next == POWER_STATES)
            return;
        ladder->level[ladder->n] = next;
        ladder->after_us[ladder->n] = larger(soonest, ladder->after_us[ladder->n - 1]);
        ladder->n++;
    }
}

/* When step i is due, counted from the beginning of the idle period, as it looks now. */
static int64_t due_us(const struct power_ladder *ladder, int i, const struct power_forecast *f)
{
    int64_t after = ladder->after_us[i];
    if (!f || !f->known || f->trust <= 0)
        return after;
    int64_t trust = f->trust < 1000 ? f->trust : 1000;
    if (f->left_us >= (int64_t)((wide)after * trust / 1000))
        return (int64_t)((wide)after * (1000 - trust) / 1000);
    if (trust == 1000)
        return INT64_MAX;
    wide late = (wide)after * 1000 / (1000 - trust);
    return late < INT64_MAX ? (int64_t)late : INT64_MAX;
}

enum power_state power_depth(const struct power_ladder *ladder, int64_t idle_us, const struct power_forecast *f)
{
    for (int i = ladder->n - 1; i > 0; i--)
        if (idle_us >= due_us(ladder, i, f))
            return ladder->level[i];
    return ladder->level[0];
}

int64_t power_next_us(const struct power_ladder *ladder, int64_t idle_us, const struct power_forecast *f)
{
    int64_t next = INT64_MAX;
    for (int i = ladder->n - 1; i > 0; i--) {
        int64_t due = due_us(ladder, i, f);
        if (idle_us >= due)
            break;
        if (due != INT64_MAX && due - idle_us < next)
            next = due - idle_us;
    }
    return next;
}

/* ---- one more request -------------------------------------------------------------------------------------------- */

int64_t power_ask_mw(const struct power_ask *a)
{
    if (a->state <= POWER_ECO)
        return power_draw_mw(a->levels, a->state, a->in_flight + 1) - power_draw_mw(a->levels, a->state, a->in_flight);
    int64_t most = larger(power_move_mw(a->levels, a->state, POWER_ACTIVE, 0),
                          power_draw_mw(a->levels, POWER_ACTIVE, a->in_flight + 1));
    return most - power_draw_mw(a->levels, a->state, 0);
}

enum power_verdict power_admit(int64_t cap_mw, int64_t ceiling_mw, int64_t freed_us, const struct power_ask *a)
{
    if (cap_mw <= 0 || ceiling_mw + power_ask_mw(a) <= cap_mw)
        return POWER_ADMIT;
    if (a->batch && a->wait_us > 0)
        return POWER_QUEUE;
    if (a->spills)
        return POWER_SPILL;
    return a->wait_us > 0 && freed_us <= a->wait_us ? POWER_QUEUE : POWER_SHED;
}
