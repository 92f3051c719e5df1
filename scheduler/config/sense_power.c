/* Power and energy settings that make no sense together: allowed, but probably not meant. What is said must be true
 * whatever the policy does, so draws are the least that can be. */
#include <stdio.h>
#include <string.h>

#include "policies/power.h"
#include "policies/tariff.h"
#include "scheduler/config/config_internal.h"

#define MW_PER_W     1000
#define LONG_IDLE_US INT64_C(86400000000) /* a level that pays later than that is as good as none */

static int node_row_line(const struct config_node *n, const char *key)
{
    const int row = config_row(config_tables[CONFIG_TABLE_NODES], key);
    return n->lines[row] ? n->lines[row] : n->line;
}

static const struct power_level *level_of(const struct config_node *n, enum power_state s)
{
    return n->levels && n->levels->of[s].allowed ? &n->levels->of[s] : NULL;
}

/* The least that it can draw, as far as that is known. */
static int64_t deepest_mw(const struct config_node *n)
{
    int64_t mw = n->levels ? n->levels->of[POWER_ACTIVE].idle_mw : 0;
    for (enum power_state s = POWER_ECO; n->levels && s < POWER_STATES; s++)
        mw = n->levels->of[s].allowed && n->levels->of[s].idle_mw < mw ? n->levels->of[s].idle_mw : mw;
    return mw;
}

/* Everybody as deep as it goes. */
static int64_t site_least_mw(const struct config *c)
{
    int64_t mw = c->power.base_watts * (int64_t)MW_PER_W;
    for (int i = 0; i < c->n_nodes; i++)
        mw += deepest_mw(&c->nodes[i]);
    return mw;
}

static bool sleeps(const struct config_node *n)
{
    return level_of(n, POWER_SLEEP) || level_of(n, POWER_OFF);
}

/* Each model that a node serves, once: calls warn(c, model). */
static void each_model(const struct config *c,
                       void (*warn)(const struct config *c, const char *model, struct strbuf *out, int *n),
                       struct strbuf *out, int *n)
{
    for (int i = 0; i < c->n_nodes; i++)
        for (int k = 0; k < c->nodes[i].n_models; k++) {
            bool before = false;
            for (int j = 0; j < i && !before; j++)
                before = config_node_serves(&c->nodes[j], c->nodes[i].models[k]);
            if (!before)
                warn(c, c->nodes[i].models[k], out, n);
        }
}

/* ---- the site's limit ------------------------------------------------------------------------------------------------- */

/* The node of the model whose being awake adds least, above `least`; NULL: there is no other. */
static const struct config_node *next_awake(const struct config *c, const char *model, const bool *taken, int *at)
{
    const struct config_node *best = NULL;
    int64_t least = 0;
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *n = &c->nodes[i];
        if (taken[i] || !n->levels || !config_node_serves(n, model))
            continue;
        const int64_t more = n->levels->of[POWER_ACTIVE].idle_mw - deepest_mw(n);
        if (best && more >= least)
            continue;
        best = n;
        least = more;
        *at = i;
    }
    return best;
}

/* keep_warm nodes of it awake, those that take least, and all others as deep as they go. */
static void warn_warm(const struct config *c, const char *model, struct strbuf *out, int *n)
{
    bool taken[CONFIG_NODES_MAX] = {false};
    int64_t mw = site_least_mw(c), cap_mw = c->power.cap_watts * (int64_t)MW_PER_W;
    const struct config_node *node = NULL;
    int at = 0;
    for (int k = 0; cap_mw && k < c->power.keep_warm && mw <= cap_mw; k++) {
        node = next_awake(c, model, taken, &at);
        if (!node)
            return;
        taken[at] = true;
        mw += node->levels->of[POWER_ACTIVE].idle_mw - deepest_mw(node);
    }
    if (!cap_mw || !node || mw <= cap_mw)
        return;
    config_warn(
        c, out, n, config_main_line(c, "power.cap_watts"),
        "power.cap_watts: with power.keep_warm %d of \"%s\" awake and idle the site draws %lld W, above its %d W: node "
        "\"%s\" (power.idle_watts %d) cannot be kept warm; a cap of %lld W, or fewer nodes warm, would be right",
        c->power.keep_warm, model, (long long)(mw / MW_PER_W), c->power.cap_watts, node->name, node->power.idle_watts,
        (long long)(mw / MW_PER_W));
}

/* Does a pool serve it, and (least 1) keep some machine of it at any time? */
static bool pool_serves(const struct config *c, const char *model, int least)
{
    for (int i = 0; i < c->n_pools; i++)
        if (c->pools[i].min >= least && config_node_serves(&c->pools[i].node, model))
            return true;
    return false;
}

/* Awake, and everybody else as deep as it goes: does the first request fit? */
static void warn_never_served(const struct config *c, const char *model, struct strbuf *out, int *n)
{
    const int64_t cap_mw = c->power.cap_watts * (int64_t)MW_PER_W;
    const struct config_node *least = NULL;
    int64_t least_mw = 0;
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *node = &c->nodes[i];
        if (!config_node_serves(node, model))
            continue;
        if (!node->levels)
            return; /* an API, or nothing is known of it */
        const int64_t mw = site_least_mw(c) - deepest_mw(node) + power_draw_mw(node->levels, POWER_ACTIVE, 1);
        if (!least || mw < least_mw) {
            least = node;
            least_mw = mw;
        }
    }
    if (cap_mw && least && least_mw > cap_mw && !pool_serves(c, model, 0))
        config_warn(
            c, out, n, config_main_line(c, "power.cap_watts"),
            "power.cap_watts: \"%s\" can never be answered: node \"%s\" draws %d W under load, and with all else as "
            "deep as it goes the site %lld W, above its %d W; %lld W or more would be right",
            model, least->name, least->watts, (long long)(least_mw / MW_PER_W), c->power.cap_watts,
            (long long)(least_mw / MW_PER_W));
}

/* One that sleeps, and can't wake for what that draws. */
static void warn_never_woken(const struct config *c, struct strbuf *out, int *n)
{
    const int64_t cap_mw = c->power.cap_watts * (int64_t)MW_PER_W;
    for (int i = 0; cap_mw && i < c->n_nodes; i++) {
        const struct config_node *node = &c->nodes[i];
        const struct power_level *l =
            level_of(node, POWER_SLEEP) ? level_of(node, POWER_SLEEP) : level_of(node, POWER_OFF);
        const int64_t mw = site_least_mw(c) - deepest_mw(node) + (l ? l->wake_mw : 0);
        if (l && mw > cap_mw)
            config_warn(
                c, out, n, node_row_line(node, "power.wake_watts"),
                "nodes[%d].power.wake_watts: once asleep \"%s\" can never be woken: waking draws %lld W, and with all "
                "else as deep as it goes the site %lld W, above power.cap_watts %d; %lld W would be right there",
                i, node->name, (long long)(l->wake_mw / MW_PER_W), (long long)(mw / MW_PER_W), c->power.cap_watts,
                (long long)(mw / MW_PER_W));
    }
}

/* ---- sleeping and waking ----------------------------------------------------------------------------------------- */

/* All that serve it may be asleep when somebody comes, and the quickest takes longer to wake than he may wait. */
static void warn_wakes_late(const struct config *c, const char *model, struct strbuf *out, int *n)
{
    const struct config_aim aim = config_aim(c, config_model(c, model));
    const struct config_node *quickest = NULL;
    int64_t least_us = 0;
    if (c->power.keep_warm > 0 || !aim.ttft_ms || pool_serves(c, model, 1))
        return;
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *node = &c->nodes[i];
        if (!config_node_serves(node, model))
            continue;
        if (!sleeps(node))
            return; /* it is always there */
        const struct power_level *l =
            level_of(node, POWER_SLEEP) ? level_of(node, POWER_SLEEP) : level_of(node, POWER_OFF);
        if (!quickest || l->wake_us < least_us) {
            quickest = node;
            least_us = l->wake_us;
        }
    }
    if (quickest && least_us > aim.ttft_ms * 1000)
        config_warn(
            c, out, n, config_main_line(c, "power.keep_warm"),
            "power.keep_warm: 0, and node \"%s\", the quickest of those that serve \"%s\", takes %lld ms to wake, "
            "longer "
            "than slo_ttft (%lld ms): who comes while all sleep is late; 1 would be right, or an SLO of %lld ms",
            quickest->name, model, (long long)(least_us / 1000), (long long)aim.ttft_ms, (long long)(least_us / 1000));
}

/* As many are kept warm as there are, so that what is said of sleeping never holds. */
static void warn_never_sleeps(const struct config *c, const char *model, struct strbuf *out, int *n)
{
    int serve = 0, can = 0;
    const int line = config_main_line(c, "power.keep_warm");
    for (int i = 0; i < c->n_nodes; i++) {
        serve += config_node_serves(&c->nodes[i], model) && c->nodes[i].local;
        can += config_node_serves(&c->nodes[i], model) && sleeps(&c->nodes[i]);
    }
    if (line && can && c->power.keep_warm >= serve)
        config_warn(
            c, out, n, line,
            "power.keep_warm: %d of \"%s\" stay awake, and there %s %d: none of them ever sleeps; fewer would be "
            "right, or no sleep_wake and off_wake",
            c->power.keep_warm, model, serve == 1 ? "is" : "are", serve);
}

/* Is there any idle period for which the level is the cheapest? */
static void warn_useless_levels(const struct config *c, struct strbuf *out, int *n)
{
    static const char *const keys[POWER_STATES] = {
        [POWER_SLEEP] = "power.sleep_watts", [POWER_OFF] = "power.off_watts"};
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *node = &c->nodes[i];
        struct power_ladder ladder;
        if (!node->levels)
            continue;
        power_ladder(&ladder, node->levels);
        for (enum power_state s = POWER_SLEEP; s < POWER_STATES; s++) {
            int64_t after_us = INT64_MAX;
            for (int k = 0; k < ladder.n; k++)
                after_us = ladder.level[k] == s ? ladder.after_us[k] : after_us;
            if (!level_of(node, s) || after_us <= LONG_IDLE_US)
                continue;
            if (after_us == INT64_MAX)
                config_warn(
                    c, out, n, node_row_line(node, keys[s]),
                    "nodes[%d].%s: \"%s\" is never put there: another level costs less for any idle time, what waking "
                    "takes included; fewer watts or a shorter wake time would be right",
                    i, keys[s], node->name);
            else
                config_warn(
                    c, out, n, node_row_line(node, keys[s]),
                    "nodes[%d].%s: for \"%s\" that pays only after %lld hours without work: fewer watts there, or "
                    "fewer to wake, would be right",
                    i, keys[s], node->name, (long long)(after_us / INT64_C(3600000000)));
        }
    }
}

/* ---- tariffs ----------------------------------------------------------------------------------------------------- */

#define DAYS   7
#define MONTHS 12

static bool rule_holds(const struct tariff_rule *r, int month, int day, int minute)
{
    const bool wraps = r->to_min <= r->from_min;
    if (!(r->months >> month & 1))
        return false;
    if (!wraps)
        return r->days >> day & 1 && minute >= r->from_min && minute < r->to_min;
    return (r->days >> day & 1 && minute >= r->from_min) ||
           (r->days >> ((day + DAYS - 1) % DAYS) & 1 && minute < r->to_min);
}

static bool is_hole(const struct tariff *t, int month, int day, int minute)
{
    for (int i = 0; i < t->n_rules; i++)
        if (rule_holds(&t->rules[i], month, day, minute))
            return false;
    return true;
}

/* Prices by the hour over a price of nothing: what no hour covers is free of charge, which no supplier means. */
static void warn_holes(const struct config *c, struct strbuf *out, int *n)
{
    static const char *const days[DAYS] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                           "Friday", "Saturday", "Sunday"};
    static const char *const months[MONTHS] = {"January", "February", "March",     "April",   "May",      "June",
                                               "July",    "August",   "September", "October", "November", "December"};
    const struct tariff *t = c->tariff;
    int64_t minutes = 0;
    int first = -1;
    if (!t || t->n_rules == 0 || t->uusd_per_kwh != 0)
        return;
    for (int at = 0; at < MONTHS * DAYS * TARIFF_DAY_MINUTES; at++) {
        const int month = at / (DAYS * TARIFF_DAY_MINUTES), day = at / TARIFF_DAY_MINUTES % DAYS;
        if (!is_hole(t, month, day, at % TARIFF_DAY_MINUTES))
            continue;
        minutes++;
        first = first < 0 ? at : first;
    }
    if (minutes)
        config_warn(
            c, out, n, config_main_line(c, "energy.hours"),
            "energy.hours: there are holes, where energy.price holds, which is 0: %lld%% of all time, first on a "
            "%s in %s from %02d:%02d on; give energy.price what holds then",
            (long long)((minutes * 100 + MONTHS * DAYS * TARIFF_DAY_MINUTES - 1) /
                        (MONTHS * DAYS * TARIFF_DAY_MINUTES)),
            days[first / TARIFF_DAY_MINUTES % DAYS], months[first / (DAYS * TARIFF_DAY_MINUTES)],
            first % TARIFF_DAY_MINUTES / 60, first % 60);
}

void config_warn_power(const struct config *c, struct strbuf *out, int *n)
{
    each_model(c, warn_warm, out, n);
    each_model(c, warn_never_served, out, n);
    warn_never_woken(c, out, n);
    each_model(c, warn_wakes_late, out, n);
    each_model(c, warn_never_sleeps, out, n);
    warn_useless_levels(c, out, n);
    warn_holes(c, out, n);
}
