/* `energy`, `power` and the nodes' watts, checked across rows and brought into the form of policies/tariff.h and power.h. */
#include <stdio.h>
#include <string.h>

#include "policies/period.h"
#include "policies/power.h"
#include "policies/tariff.h"
#include "scheduler/config/config_internal.h"

static void main_problem(struct config_loader *l, const char *key, const char *text)
{
    int row = config_row(config_tables[CONFIG_TABLE_MAIN], key);
    config_problem(l, row >= 0 ? l->c->lines[row] : 0, key, "%s", text);
}

static void node_problem(struct config_loader *l, int i, const char *key, const char *text)
{
    const struct config_node *n = &l->c->nodes[i];
    int row = config_row(config_tables[CONFIG_TABLE_NODES], key);
    char name[128];
    snprintf(name, sizeof name, "nodes[%d].%s", i, key);
    config_problem(l, row >= 0 && n->lines[row] ? n->lines[row] : n->line, name, "%s", text);
}

/* "mon-fri 07:00-20:00 0.25": the last word is the price. */
static bool read_hours(const char *text, struct tariff_rule *r, struct error *e)
{
    char when[128];
    const char *price = strrchr(text, ' ');
    if (!price || (size_t)(price - text) >= sizeof when) {
        (void)error_set(e, RC_INVALID, "\"%.60s\" is no price by time: as in \"mon-fri 07:00-20:00 0.25\"", text);
        return false;
    }
    memcpy(when, text, (size_t)(price - text));
    when[price - text] = '\0';
    return tariff_when_parse(when, r, e) == RC_OK && tariff_price_parse(price + 1, &r->uusd_per_kwh, e) == RC_OK;
}

static void read_tariff(struct config_loader *l)
{
    struct config *c = l->c;
    struct error e;
    struct tariff *t = arena_alloc(c->arena, sizeof *t);
    if (!t) {
        config_problem(l, 0, "energy", "the configuration is too large");
        return;
    }
    if (c->energy.price && tariff_price_parse(c->energy.price, &t->uusd_per_kwh, &e) != RC_OK)
        main_problem(l, "energy.price", e.message);
    if (c->energy.n_hours > 0 && !c->energy.price)
        main_problem(l, "energy.hours", "needs energy.price beside it: what holds at all other times");
    if (c->energy.n_hours > TARIFF_RULES_MAX)
        main_problem(l, "energy.hours", "too many; up to 24 are allowed");
    for (int i = 0; i < c->energy.n_hours && i < TARIFF_RULES_MAX; i++) {
        if (read_hours(c->energy.hours[i], &t->rules[t->n_rules], &e))
            t->n_rules++;
        else
            main_problem(l, "energy.hours", e.message);
    }
    if (c->energy.time_zone && strcmp(c->energy.time_zone, "UTC") != 0 &&
        !(t->zone = config_zone(l, c->energy.time_zone, &e)))
        main_problem(l, "energy.time_zone", e.message);
    c->tariff = t;
}

static void read_levels(struct config_loader *l, int i)
{
    struct config_node *n = &l->c->nodes[i];
    bool sleeps = n->power.sleep_wake_ms > 0, off = n->power.off_wake_ms > 0;
    struct error e;
    if (n->power.sleep_watts && !sleeps)
        node_problem(l, i, "power.sleep_watts", "needs power.sleep_wake beside it: how long it takes to come back");
    if (n->power.off_watts && !off)
        node_problem(l, i, "power.off_watts", "needs power.off_wake beside it: how long it takes to come back");
    if (!n->power.idle_watts || !n->watts) {
        if (n->power.idle_watts || sleeps || off)
            node_problem(l, i, "power.idle_watts",
                         "power.idle_watts and watts (under load) are both needed to know what "
                         "sleeping saves");
        return;
    }
    struct power_levels *p = arena_alloc(l->c->arena, sizeof *p);
    if (!p) {
        config_problem(l, 0, "nodes", "the configuration is too large");
        return;
    }
    int64_t idle = n->power.idle_watts * INT64_C(1000), load = n->watts * INT64_C(1000);
    int64_t wake = n->power.wake_watts ? n->power.wake_watts * INT64_C(1000) : load;
    p->of[POWER_ACTIVE] = (struct power_level){.allowed = true, .idle_mw = idle, .n_points = 1, .points = {{1, load}}};
    p->of[POWER_SLEEP] = (struct power_level){.allowed = sleeps,
                                              .idle_mw = n->power.sleep_watts * INT64_C(1000),
                                              .down_us = n->power.sleep_down_ms * 1000,
                                              .down_mw = idle,
                                              .wake_mw = wake,
                                              .wake_us = n->power.sleep_wake_ms * 1000};
    p->of[POWER_OFF] = (struct power_level){.allowed = off,
                                            .idle_mw = n->power.off_watts * INT64_C(1000),
                                            .down_us = n->power.off_down_ms * 1000,
                                            .down_mw = idle,
                                            .wake_mw = wake,
                                            .wake_us = n->power.off_wake_ms * 1000};
    if (power_levels_check(p, &e) != RC_OK)
        node_problem(l, i, "power.idle_watts", e.message);
    n->levels = p;
}

/* A limit that can't hold even with every node as deep as it goes would be a promise nobody can keep. */
static void check_cap(struct config_loader *l)
{
    const struct config *c = l->c;
    char say[200];
    int64_t least_mw = c->power.base_watts * INT64_C(1000), cap_mw = c->power.cap_watts * INT64_C(1000);
    int unknown = -1;
    if (!cap_mw)
        return;
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *n = &c->nodes[i];
        if (!n->levels) {
            if (n->local && unknown < 0)
                unknown = i;
            least_mw += n->local ? n->watts * INT64_C(1000) : 0;
            continue;
        }
        const struct power_level *deepest = &n->levels->of[POWER_ACTIVE];
        for (int s = 1; s < POWER_STATES; s++)
            deepest = n->levels->of[s].allowed ? &n->levels->of[s] : deepest;
        least_mw += deepest->idle_mw;
    }
    if (unknown >= 0 && c->nodes[unknown].watts == 0)
        node_problem(l, unknown, "watts",
                     "power.cap_watts can't be kept without it: what a local node draws under load");
    if (least_mw > cap_mw) {
        snprintf(say, sizeof say, "%d W can't be kept: with every node as deep as it can go the site draws %lld W",
                 c->power.cap_watts, (long long)(least_mw / 1000));
        main_problem(l, "power.cap_watts", say);
    }
}

void config_check_energy(struct config_loader *l)
{
    read_tariff(l);
    for (int i = 0; i < l->c->n_nodes; i++)
        read_levels(l, i);
    check_cap(l);
}

/* Everything that `later` means, `earlier` means too: the first that fits holds. */
static bool hides(const struct tariff_rule *earlier, const struct tariff_rule *later)
{
    bool days = (later->days & ~earlier->days) == 0, months = (later->months & ~earlier->months) == 0;
    bool wraps = later->to_min <= later->from_min || earlier->to_min <= earlier->from_min;
    bool hours = wraps ? earlier->from_min == later->from_min && earlier->to_min == later->to_min
                       : earlier->from_min <= later->from_min && earlier->to_min >= later->to_min;
    return days && months && hours;
}

void config_warn_energy(const struct config *c, struct strbuf *out, int *n)
{
    int row = config_row(config_tables[CONFIG_TABLE_MAIN], "energy.hours");
    for (int i = 1; c->tariff && i < c->tariff->n_rules; i++)
        for (int k = 0; k < i; k++)
            if (hides(&c->tariff->rules[k], &c->tariff->rules[i])) {
                config_warn(c, out, n, row >= 0 ? c->lines[row] : 0,
                            "energy.hours: \"%s\" never holds: \"%s\" stands before it and says the same hours",
                            c->energy.hours[i], c->energy.hours[k]);
                break;
            }
}
