#!/usr/bin/env python3
# runtest: release
"""Planted mistakes in the policies, each of which the laws of its unit test must catch: a copy of one source with one change
is compiled and linked in its place. A mutant that survives means that a law is missing. Add rows as policies grow."""

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import harness

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# (what goes wrong, source in policies/, text as it is, text as the mutant has it, unit test, its law that must fail)
MUTANTS = [
    ("the dearest is chosen", "route.c",
     "least = v >= 0 && v < least ? v : least;",
     "least = v >= 0 && !(v < least && least < INFINITY) ? v : least;",
     "route_laws", "nobody_within_the_slo_is_better"),
    ("privacy is forgotten", "route.c",
     "if (r->local_only && !c->local)",
     "if (r->local_only && !c->local && r->bounded)",
     "route_laws", "local_only_never_leaves"),
    ("the SLO is of no account", "route.c",
     "terms(f, k)->p_slo < surely",
     "terms(f, k)->p_slo < surely - 1",
     "route_laws", "whoever_meets_the_slo_goes_first"),
    ("misses are spent where they save nothing", "route.c",
     "lesser(f->r->slo.sure, running - ROUTE_NEAR_SLO)",
     "lesser(f->r->slo.sure, running - ROUTE_NEAR_SLO) * 0.9",
     "route_laws", "what_may_be_missed_saves_bought_answers_alone"),
    ("a crowded node is taken for one with room", "route.c",
     "(!c->crowded || r->presses)",
     "(!c->crowded || !r->presses)",
     "route_laws", "who_would_wait_inside_waits_outside"),
    ("who is late stands in everybody's way", "route.c",
     "(left > 0 || r->stands_back) && c->queue_us",
     "left > 0 && c->queue_us",
     "route_laws", "who_would_wait_inside_waits_outside"),
    ("whoever is late keeps the others waiting", "route.c",
     "yields && !has_its_turn;",
     "yields && !has_its_turn && false;",
     "route_laws", "whoever_is_late_everywhere_gives_way"),
    ("a place that comes free is of no account", "route.c",
     "yields && !has_its_turn;",
     "yields;",
     "route_laws", "whoever_is_late_everywhere_gives_way"),
    ("a wake-up takes no time", "route.c",
     "return (double)c->wake_us + latency_mean",
     "return latency_mean",
     "route_laws", "a_wake_up_counts"),
    ("the first of equals gets all", "route.c",
     "first = f->r->spread % left;",
     "first = 0;",
     "route_laws", "equals_share_by_two_choices"),
    ("the busier of two is taken", "route.c",
     "compare_load(&f->c[b], &f->c[a]) < 0 ? b : a",
     "compare_load(&f->c[b], &f->c[a]) < 0 ? a : b",
     "route_laws", "equals_share_by_two_choices"),
    ("slower is called dearer", "route.c",
     "{ROUTE_DEARER, ROUTE_SLOWER, ROUTE_HUNGRIER, ROUTE_WORSE}",
     "{ROUTE_DEARER, ROUTE_DEARER, ROUTE_HUNGRIER, ROUTE_WORSE}",
     "route_laws", "the_explanation_names_the_real_reason"),
    ("an open breaker is called something else", "route.c",
     "        return ROUTE_BREAKER_OPEN;",
     "        return ROUTE_KEPT;",
     "route_laws", "what_is_named_is_what_decides"),
    ("whoever was not drawn is called busier", "route.c",
     "&& compare_load(&f->c[i], &f->c[chosen]) > 0)",
     "&& i != chosen)",
     "route_laws", "what_is_named_is_what_decides"),
    ("who suits less well is called riskier", "route.c",
     "candidate(f, k)->rank <= best, ROUTE_LESS_FIT);",
     "candidate(f, k)->rank <= best, ROUTE_RISKIER);",
     "route_laws", "what_is_named_is_what_decides"),
    ("risk counts backwards", "route.c",
     "candidate(f, k)->risk > least + ROUTE_NEAR_RISK",
     "candidate(f, k)->risk < least + ROUTE_NEAR_RISK && f->left > 1",
     "route_laws", "the_explanation_names_the_real_reason"),
    ("the unknown is never tried", "route.c",
     "return v >= 0 ? v : m->least >= 0 ? m->least : 0;",
     "return v >= 0 ? v : 1e18;",
     "route_laws", "the_unknown_is_tried"),
    ("joules count for nothing", "route.c",
     "against_best(t->energy_mj, &mj)",
     "against_best(t->money, &money)",
     "route_laws", "balanced_weighs_all_three"),
    ("predictions don't learn", "predict.c",
     "    learn_error(&f->all, all, taken);",
     "    learn_error(&f->all, 0, taken);",
     "predict", "it_is_calibrated"),
    ("stalls are not counted", "predict.c",
     "    e->s.odd += ODD_MOVING * (late - e->s.odd);",
     "    e->s.odd += 0 * (late - e->s.odd);",
     "predict", "one_stall_is_not_the_rule"),
    ("what was heard long ago counts as ever", "router.c",
     "    return age <= fresh ? 1 : exp2(1 - age / fresh);",
     "    return age <= fresh ? 1 : 1;",
     "router", "who_was_slow_is_tried_again"),
    ("rent is free for ever", "marginal.c",
     "    if (!w->growing || !(f->tokens_per_s > 0))",
     "    if (w->growing || !(f->tokens_per_s > 0))",
     "marginal", "rent_is_free_until_it_grows"),
    ("what may miss is spent before it is earned", "slack.c",
     "    if (!s->begun || asked",
     "    if (asked",
     "slack", "nothing_is_spared_before_it_is_earned"),
    ("coefficients may be negative", "predict.c",
     "if (c[worst] >= 0)\n            break;\n        in &= ~(1u << worst);\n        c[worst] = 0;\n    }\n"
     "    for (int i = 0; i < f->n; i++)\n        f->at[i] = fmax(0, c[i])",
     "break;\n    }\n    for (int i = 0; i < f->n; i++)\n        f->at[i] = c[i]",
     "predict", "more_load_is_never_faster"),
    ("nodes_max is forgotten", "scale_moves.c",
     "if (l->nodes_max - m->nodes < room) {",
     "if (room < 0) {",
     "scale", "limits_always_hold"),
    ("draining nodes cost nothing", "scale_moves.c",
     "m->hour += o->price_hour.v;\n",
     "m->hour += n->state == SCALE_DRAINING ? 0 : o->price_hour.v;\n",
     "scale", "limits_always_hold"),
    ("booting nodes don't count", "scale.c",
     "n->state == SCALE_BOOTING || n->state == SCALE_READY;",
     "n->state == SCALE_READY;",
     "scale", "booting_counts"),
    ("drains don't look at what stays ready", "scale_moves.c",
     "m->plan->ready - capacity >= m->floor",
     "capacity >= 0",
     "scale", "drains_leave_enough"),
    ("paid hours are thrown away", "scale_moves.c",
     "n->paid_s <= m->s->limits.tick_s &&",
     "n->paid_s < 1000000 &&",
     "scale", "paid_time_is_used"),
    ("need is followed down at once", "scale.c",
     "    if (most > p->held || most <= p->held * (1 - down_band))\n        p->held = most;",
     "    p->held = now + 0 * most;",
     "scale", "noise_does_not_flap"),
    ("spares stand where what they stand in for does", "scale.c",
     "(avoid >= 0 && scale_same_domain(s, i, avoid))",
     "(avoid >= 0 && i == avoid)",
     "scale", "spares_stand_elsewhere"),
    ("domains are not bounded", "scale.c",
     "bound_domains(w, s, most);",
     "(void)most;",
     "scale", "part_of_a_fleet_is_lost"),
    ("spot that was just back replaces what runs", "scale.c",
     "o->steady_s >= s->limits.return_after_s",
     "o->steady_s >= 0",
     "scale", "fallback_and_the_way_back"),
    ("there is no way back", "scale.c",
     "(1 - s->limits.replace_saving) * (1 - 0.999 * paid);",
     "1e-6;",
     "scale", "fallback_and_the_way_back"),
    ("the cloud goes before own machines", "scale.c",
     "select_groups(w, s, ON_PREM_ONLY);",
     "select_groups(w, s, CLOUD);",
     "scale", "own_machines_first"),
    ("one pool's nodes stand for another's", "scale.c",
     "        if (s->offers[i].pool == pool)\n            n -= w->want[i];",
     "        n -= w->want[i];",
     "scale_pools", "each_pool_keeps_its_own"),
    ("drains look at all pools as one", "scale_moves.c",
     "m->ready > m->least && pool_spares(m, n->offer)",
     "m->ready > m->least",
     "scale_pools", "each_pool_keeps_its_own"),
    ("what pools keep serves nobody", "scale.c",
     "    double have = wanted_capacity(w, s);\n    build_groups(w, s, need);\n    select_groups(w, s, ON_PREM_ONLY);",
     "    double have = 0;\n    build_groups(w, s, need);\n    select_groups(w, s, ON_PREM_ONLY);",
     "scale_pools", "pools_are_kept_cheaply"),
    ("under a limit the dear pool loses everything", "scale.c",
     "share > worst_share || (share == worst_share && worth < worst_worth)",
     "worth < worst_worth",
     "scale_pools", "pools_share_what_a_limit_leaves"),
    ("a pool stands in one domain", "scale.c",
     "bool fits = fits_domain(w, s, i, most) > 0;",
     "bool fits = most != 0;",
     "scale_pools", "pools_are_spread"),
    ("for a pool, spot that was just back replaces what runs", "scale.c",
     "more = gap < 0 ? 0 : gap < more ? gap : more;",
     "(void)gap;",
     "scale_pools", "a_pool_stands_on_the_way_back"),
    ("draining nodes are not taken back", "scale_moves.c",
     "m->w->active[offer] < m->w->want[offer]; i++) {\n        const struct scale_node *n = &s->nodes[i];\n  "
     "      if (n->offer != offer || n->state != SCALE_DRAINING",
     "i < 0; i++) {\n        const struct scale_node *n = &s->nodes[i];\n        if (n->offer != offer ||"
     " n->state != SCALE_DRAINING",
     "scale", "draining_nodes_are_taken_back"),
    ("the dearest offers come first", "scale_cover.c",
     "return a->cost * b->capacity > b->cost * a->capacity",
     "return a->cost * b->capacity < b->cost * a->capacity",
     "scale", "a_large_fleet"),
    ("misses make a miss cheaper", "scale_worth.c",
     "filled * (m->late / allowed - 1)",
     "filled * (1 - m->late / allowed)",
     "scale", "misses_are_weighed"),
    ("the price of a miss has no bounds", "scale_worth.c",
     "return fmin(fmax(weight, WEIGHT_LEAST), WEIGHT_MOST) * dearest_token(s);",
     "return weight * dearest_token(s);",
     "scale", "the_price_of_a_miss_is_bounded"),
    ("nothing is worth more than the need", "scale.c",
     "scale_misses_count(s) ? fmax(s->limits.z, SPREADS_WEIGHED) : s->limits.z",
     "s->limits.z",
     "scale", "misses_are_weighed"),
    ("dear nodes are held for as little as cheap ones", "scale.c",
     "if (more * per_hour >= node ||",
     "if (more * per_hour >= 0 * node + 1 ||",
     "scale", "misses_are_weighed"),
    ("a full batch is no limit", "capacity.c",
     "c->decode_us_base * mix->output / sequences_max : 0;",
     "0 * sequences_max : 0;",
     "capacity", "saturation"),
    ("a set is not rounded up", "scale_cover.c",
     "read_back(w, j, false) >= target * (1 - SCALE_EPSILON)",
     "read_back(w, j, false) >= target * 0.9",
     "scale", "as_cheap_as_can_be"),
    ("the API is paid beyond the budget", "scale.c",
     "most = fmin(most, left /",
     "most = fmin(most, 100 * left /",
     "scale", "limits_always_hold"),
    ("the net closes too late", "progress.c",
     "o->latest_us = start_us - in_hand_us;",
     "o->latest_us = start_us;",
     "progress", "no_deadline_is_missed"),
    ("each deadline is looked at alone", "progress.c",
     "due_left += left_of(&work[i]);\n        due_behind",
     "due_left = left_of(&work[i]);\n        due_behind",
     "progress", "no_deadline_is_missed"),
    ("dear hours are as good as cheap ones", "progress.c",
     "if (m->n_hours == 0 || rate <= 0)",
     "if (m)",
     "progress", "cheap_hours_are_waited_for"),
    ("a dear hour is stayed in", "progress.c",
     "s->on_demand && cheap &&",
     "s->on_demand &&",
     "progress", "nobody_stays_on_demand_in_a_dear_hour"),
    ("what is drawn asleep is charged", "batch_market.c",
     " - l->of[state].idle_mw",
     "",
     "batch_market", "an_hour_costs_what_the_machines_would_draw"),
    ("idle machines are not used", "progress.c",
     "idle >= o->even_rate",
     "idle < 0",
     "progress", "valleys_are_filled_and_nothing_rented"),
    ("cached tokens are computed", "capacity.c",
     "fmax(mix->prompt - mix->cached, 0)",
     "mix->prompt",
     "capacity", "cached_tokens_are_free"),
    ("memory is full to the brim", "capacity.c",
     "g->memory_bytes * CAPACITY_MEMORY_USABLE",
     "g->memory_bytes",
     "capacity", "memory"),
    ("the week is not learnt", "forecast.c",
     "double week = by_week(f, h_s), weights",
     "double week = -1, weights",
     "forecast", "the_week_is_learnt"),
    ("counting few is certain", "forecast.c",
     "double counting = 2 *",
     "double counting = 0 *",
     "forecast", "counting_few_requests_is_uncertain"),
    ("a leap is averaged", "forecast.c",
     "f->level = (rate + f->rate_before) / 2;",
     "(void)0;",
     "forecast", "a_leap_is_seen_at_once"),
    ("a leap is a trend", "forecast.c",
     "f->slow += f->level - level_before;",
     "(void)0;",
     "forecast", "a_leap_is_seen_at_once"),
    ("chance is a leap", "forecast.c",
     "level_before + LEAP_SPREADS * chance",
     "level_before",
     "forecast", "chance_is_no_leap"),
    ("errors have no side", "forecast.c",
     "f->under_sq[i] += ((miss > 0 ? miss * miss : 0) - f->under_sq[i]) * gain;",
     "f->under_sq[i] += (miss * miss - f->under_sq[i]) * gain / 2;",
     "forecast", "errors_have_a_side"),
    ("answers are moved to where there is no room", "power_plan.c",
     "w->room < n->in_flight + w->g->margin)",
     "w->room < 0)",
     "power", "run_laws"),
    ("reading again costs nothing", "power_plan.c",
     "c->moves = n->last_us > moved.after_us[1] &&",
     "c->moves =",
     "power", "run_laws"),
    ("past errors teach nothing", "power_foresee.c",
     "t->width * exp(step)",
     "t->width",
     "power_foresee", "as_seldom_as_asked"),
    ("what is far ahead has no price", "power_foresee.c",
     "far ? later_z : o->z",
     "o->z",
     "power_foresee", "dear_room_is_kept_less"),
    ("a pause is taken for an error", "power_foresee.c",
     "now_us - t->waiting[t->first].due_us <= every_us",
     "every_us >= 0",
     "power_foresee", "a_pause_teaches_nothing"),
    ("put to sleep, and woken at once", "power_plan.c",
     "need_within(w->g, wake_us) <= w->covered && power_depth",
     "power_depth",
     "power", "run_laws"),
    ("nobody is woken ahead", "power_plan.c",
     "ahead = w->covered < need_within(w->g, up_us) - LEAST_CAPACITY;",
     "ahead = w->covered < need_within(w->g, 0) - LEAST_CAPACITY;",
     "power", "run_laws"),
    ("keep_warm is forgotten", "power_plan.c",
     "warm = w->warm < w->g->keep_warm;\n    bool ahead",
     "warm = w->warm < 0;\n    bool ahead",
     "power", "run_laws"),
]


def compiler(build):
    with open(os.path.join(build, "CMakeCache.txt"), encoding="utf-8") as f:
        return re.search(r"^CMAKE_C_COMPILER:\w+=(.*)$", f.read(), re.M).group(1)


class Bench:
    """Objects that all mutants share."""

    def __init__(self, build):
        self.cc, self.dir = compiler(build), tempfile.mkdtemp(prefix="spw_mutants_")
        self.libs = [os.path.join(build, "policies", "libspw_policies.a"), os.path.join(build, "base", "libspw_base.a")]

    def compile(self, source, out):
        flags = ["-O1", "-w", "-std=gnu11", "-D_GNU_SOURCE", "-I", ROOT, "-I", os.path.join(ROOT, "policies")]
        subprocess.run([self.cc, *flags, "-c", source, "-o", out], check=True, cwd=ROOT)
        return out

    def test_object(self, name):
        return self.compile(os.path.join(ROOT, "tests", "unit", f"test_{name}.c"), os.path.join(self.dir, f"test_{name}.o"))

    def fails(self, objects, out, law):
        """Does the test say that something is wrong? It is ended at the first word of it."""
        subprocess.run([self.cc, "-o", out, *objects, *self.libs, "-lcrypto", "-lm", "-lpthread"], check=True, capture_output=True)
        env = dict(os.environ, TEST_ONLY=law)
        with subprocess.Popen([out], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as p:
            for line in p.stderr:
                if "failed" in line:
                    p.kill()
                    return line.strip()
            p.wait()
            return "" if p.returncode == 0 else f"exit status {p.returncode}"

    def mutant(self, i, objects):
        what, source, old, new, test, law = MUTANTS[i]
        with open(os.path.join(ROOT, "policies", source), encoding="utf-8") as f:
            text = f.read()
        assert text.count(old) == 1, f"{what}: {source} has its text {text.count(old)} times: bring the row up to date"
        path = os.path.join(self.dir, f"mutant_{i}.c")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.replace(old, new))
        return self.fails([objects[test], self.compile(path, path[:-2] + ".o")], path[:-2], law)


def every_mutant_is_caught(context):
    bench = Bench(context.build)
    try:
        with ThreadPoolExecutor(int(os.environ.get("SPILLWAY_TEST_JOBS", "2"))) as pool:
            names = sorted({m[4] for m in MUTANTS})
            objects = dict(zip(names, pool.map(bench.test_object, names)))
            verdicts = list(pool.map(lambda i: bench.mutant(i, objects), range(len(MUTANTS))))
        survivors = [m[0] for m, verdict in zip(MUTANTS, verdicts) if not verdict]
        for m, verdict in zip(MUTANTS, verdicts):
            if os.environ.get("VERBOSE"):
                print(f"  {m[0]}: {verdict or 'SURVIVES'}")
        assert not survivors, f"no law catches: {'; '.join(survivors)}"
    finally:
        shutil.rmtree(bench.dir)


if __name__ == "__main__":
    harness.main(__doc__, [every_mutant_is_caught])
