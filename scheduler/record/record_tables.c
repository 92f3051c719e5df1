#include "scheduler/record/record_tables.h"

#include <stddef.h>

#define TOKENS_MAX RECORD_TOKENS_MAX

static const char *objective_word(int v)
{
    return v >= 0 && v <= ROUTE_BALANCED ? route_objective_name((enum route_objective)v) : NULL;
}

static const char *reason_word(int v)
{
    return v >= 0 && v <= ROUTE_NOT_LISTED ? route_reason_name((enum route_reason)v) : NULL;
}

static const char *state_word(int v)
{
    static const char *const words[] = {"ready", "full", "held", "down", "leaving"};
    return v >= 0 && v <= SHORTLIST_LEAVING ? words[v] : NULL;
}

static const char *money_word(int v)
{
    static const char *const words[] = {"metered", "owned", "rented"};
    return v >= 0 && v <= MARGINAL_RENTED ? words[v] : NULL;
}

#define ROW(TYPE, STRUCT, MEMBER, NAME, ...)                                                                           \
    {                                                                                                                  \
        .name = (NAME), .type = MEMBER_##TYPE, .offset = offsetof(struct STRUCT, MEMBER), __VA_ARGS__                  \
    }
#define TEXT(STRUCT, MEMBER, NAME)   ROW(TEXT, STRUCT, MEMBER, NAME, .bytes = sizeof(((struct STRUCT *)0)->MEMBER))
#define TOKENS(STRUCT, MEMBER, NAME) ROW(I64, STRUCT, MEMBER, NAME, .lo = 0, .hi = TOKENS_MAX)
#define COUNT(STRUCT, MEMBER, NAME)  ROW(I32, STRUCT, MEMBER, NAME, .lo = 0, .hi = INT32_MAX)
#define TIME(STRUCT, MEMBER, NAME)   ROW(I64, STRUCT, MEMBER, NAME, .lo = 0, .hi = INT64_C(1) << 60) /* us: sums fit */
#define MODEL(STRUCT, MEMBER)        ROW(I32, STRUCT, MEMBER, "model", .lo = 0, .hi = SHORTLIST_MODELS_MAX - 1)
#define SITE(STRUCT, MEMBER)         ROW(I32, STRUCT, MEMBER, "site", .lo = 0, .hi = ROUTER_SITES_MAX - 1)
#define TABLE(NAME)                                                                                                    \
    const struct members record_##NAME##_members = {NAME##_rows, (int)(sizeof NAME##_rows / sizeof NAME##_rows[0])}

static const struct member begin_rows[] = {
    ROW(I32, record_begin, format, "format"),
    TEXT(record_begin, version, "version"),
    TIME(record_begin, wall_us, "wall_us"),
    ROW(I32, record_begin, nodes, "nodes", .lo = 1, .hi = SHORTLIST_NODES_MAX),
    ROW(I32, record_begin, pairs, "pairs", .lo = 0, .hi = 1000000),
    ROW(DOUBLE, record_begin, probability, "probability"),
};
TABLE(begin);
static const struct member named_rows[] = {
    ROW(I32, record_named, id, "id", .lo = 0, .hi = SHORTLIST_NODES_MAX - 1),
    TEXT(record_named, name, "name"),
};
TABLE(named);
static const struct member facts_rows[] = {
    ROW(BOOL, router_facts, kind.local, "local"),
    COUNT(router_facts, slots, "slots"),
    COUNT(router_facts, sequences, "sequences"),
    COUNT(router_facts, chunk, "chunk"),
    TOKENS(router_facts, kv_tokens, "kv_tokens"),
    ROW(DOUBLE, router_facts, log_sd, "log_sd"),
    ROW(DOUBLE, router_facts, losses_per_hour, "losses_per_hour"),
    SITE(router_facts, site),
    ROW(WORD, router_facts, money.kind, "money", .word = money_word),
    ROW(I64, router_facts, money.listed.input.uusd_per_mtok, "price_input"),
    ROW(I64, router_facts, money.listed.cached_input.uusd_per_mtok, "price_cached_input"),
    ROW(I64, router_facts, money.listed.output.uusd_per_mtok, "price_output"),
    ROW(I64, router_facts, money.idle_mw, "idle_mw"),
    ROW(I64, router_facts, money.busy_mw, "busy_mw"),
    ROW(I64, router_facts, money.prefill_mw, "prefill_mw"),
    COUNT(router_facts, money.full, "full"),
    ROW(I64, router_facts, money.per_hour.v, "per_hour"),
    ROW(DOUBLE, router_facts, money.tokens_per_s, "tokens_per_s"),
};
TABLE(facts);
static const struct member curve_rows[] = {
    ROW(DOUBLE, node_curve, base_us, "base_us"),
    ROW(DOUBLE, node_curve, prefill_us_per_tok, "prefill_us_per_tok"),
    ROW(DOUBLE, node_curve, decode_us_base, "decode_us_base"),
    ROW(DOUBLE, node_curve, decode_us_per_seq, "decode_us_per_seq"),
};
TABLE(curve);
static const struct member state_rows[] = {
    ROW(WORD, router_state, state, "state", .word = state_word),
    TIME(router_state, wake_us, "wake_us"),
    ROW(I64, router_state, wake_mj, "wake_mj"),
};
TABLE(state);
static const struct member tariff_rows[] = {
    SITE(router_event_tariff, site),
    ROW(I64, router_event_tariff, uusd_per_kwh, "uusd_per_kwh"),
};
TABLE(tariff);
static const struct member growing_rows[] = {
    MODEL(router_event_growing, model),
    ROW(BOOL, router_event_growing, growing, "growing"),
};
TABLE(growing);
static const struct member work_rows[] = {
    MODEL(router_work, model),
    TOKENS(router_work, prompt, "prompt"),
    TOKENS(router_work, cached, "cached"),
    TOKENS(router_work, output, "output"),
    TOKENS(router_work, held, "held"),
};
TABLE(work);
static const struct member leg_rows[] = {
    ROW(U32, router_leg, number, "number"), ROW(I32, router_leg, node, "node"),
    ROW(U32, router_leg, life, "life"),     ROW(I32, router_leg, others, "others"),
    ROW(I64, router_leg, prompt, "prompt"), ROW(I64, router_leg, cached, "cached"),
    ROW(I64, router_leg, queued, "queued"), ROW(I64, router_leg, held, "held"),
    ROW(I16, router_leg, model, "model"),   ROW(BOOL, router_leg, spoke, "spoke"),
};
TABLE(leg);
static const struct member heard_rows[] = {
    ROW(U32, router_event_heard, leg, "leg"),
    ROW(DOUBLE, router_event_heard, us, "us"),
};
TABLE(heard);
static const struct member who_rows[] = {
    TEXT(record_who, id, "request"),
    TEXT(record_who, asked, "asked"),
    ROW(DOUBLE, record_who, probability, "probability"),
    ROW(BOOL, record_who, interactive, "interactive"),
};
TABLE(who);
static const struct member request_rows[] = {
    TOKENS(route_request, input_tokens, "input_tokens"),
    TOKENS(route_request, output_tokens, "output_tokens"),
    ROW(BOOL, route_request, local_only, "local_only"),
    ROW(BOOL, route_request, bounded, "bounded"),
    ROW(I64, route_request, charge_max.v, "charge_max"),
    ROW(I64, route_request, input_max, "input_max"),
    ROW(I64, route_request, output_min, "output_min"),
    ROW(BOOL, route_request, alone, "alone"),
    ROW(BOOL, route_request, presses, "presses"),
    TIME(route_request, waited_us, "waited_us"),
    ROW(BOOL, route_request, stands_back, "stands_back"),
    ROW(WORD, route_request, objective, "objective", .word = objective_word),
    TIME(route_request, slo.ttft_us, "slo_ttft_us"),
    TIME(route_request, slo.tpot_us, "slo_tpot_us"),
    ROW(DOUBLE, route_request, slo.probability, "slo_probability"),
    ROW(DOUBLE, route_request, slo.sure, "slo_sure"),
    ROW(U32, route_request, spread, "spread"),
};
TABLE(request);
/* What else a choice has, and what came of it. */
static const struct member choice_rows[] = {
    MODEL(record_choice, model),
    TOKENS(record_choice, held, "held"),
    ROW(BOOL, record_choice, listed, "listed"),
    ROW(I32, record_choice, chosen, "chosen", .lo = -1, .hi = RECORD_CANDIDATES_MAX - 1),
    ROW(BOOL, record_choice, may_wait, "may_wait"),
    ROW(BOOL, record_choice, busy, "busy"),
    ROW(BOOL, record_choice, model_known, "model_known"),
    ROW(BOOL, record_choice, too_late, "too_late"),
    ROW(I64, record_choice, back_us, "back_us"),
};
TABLE(choice);
#define CANDIDATE(TYPE, MEMBER, NAME) ROW(TYPE, record_candidate, MEMBER, NAME)
static const struct member candidate_rows[] = {
    ROW(I32, record_candidate, node, "node", .lo = 0, .hi = SHORTLIST_NODES_MAX - 1),
    ROW(WORD, record_candidate, reason, "reason", .word = reason_word),
    CANDIDATE(DOUBLE, t.p_slo, "p_slo"),
    CANDIDATE(DOUBLE, t.money, "money"),
    CANDIDATE(DOUBLE, t.time_us, "time_us"),
    CANDIDATE(DOUBLE, t.energy_mj, "energy_mj"),
    CANDIDATE(DOUBLE, t.value, "value"),
    CANDIDATE(BOOL, c.serves_model, "serves_model"),
    CANDIDATE(BOOL, c.healthy, "healthy"),
    CANDIDATE(BOOL, c.draining, "draining"),
    CANDIDATE(BOOL, c.local, "local"),
    CANDIDATE(BOOL, c.tried, "tried"),
    CANDIDATE(BOOL, c.unfit, "unfit"),
    CANDIDATE(BOOL, c.kept, "kept"),
    CANDIDATE(BOOL, c.crowded, "crowded"),
    CANDIDATE(BOOL, c.spared, "spared"),
    CANDIDATE(BOOL, c.no_watts, "no_watts"),
    CANDIDATE(BOOL, c.bought, "bought"),
    CANDIDATE(BOOL, c.broken, "broken"),
    CANDIDATE(BOOL, c.cooling, "cooling"),
    CANDIDATE(I64, c.back_us, "back_us"),
    CANDIDATE(I32, c.rank, "rank"),
    CANDIDATE(I32, c.in_flight, "in_flight"),
    CANDIDATE(I32, c.slots, "slots"),
    TOKENS(record_candidate, c.cached_tokens, "cached_tokens"),
    CANDIDATE(I64, c.prices.input.uusd_per_mtok, "price_input"),
    CANDIDATE(I64, c.prices.cached_input.uusd_per_mtok, "price_cached_input"),
    CANDIDATE(I64, c.prices.output.uusd_per_mtok, "price_output"),
    CANDIDATE(BOOL, c.has_marginal, "has_marginal"),
    CANDIDATE(I64, c.marginal.v, "marginal"),
    CANDIDATE(BOOL, c.has_energy, "has_energy"),
    CANDIDATE(I64, c.marginal_mj, "marginal_mj"),
    CANDIDATE(BOOL, c.predicted, "predicted"),
    CANDIDATE(DOUBLE, c.latency.ttft.median_us, "ttft_median_us"),
    CANDIDATE(DOUBLE, c.latency.ttft.log_sd, "ttft_log_sd"),
    CANDIDATE(DOUBLE, c.latency.ttft.log_sd_below, "ttft_log_sd_below"),
    CANDIDATE(DOUBLE, c.latency.ttft.odd, "ttft_odd"),
    CANDIDATE(DOUBLE, c.latency.ttft.odd_log, "ttft_odd_log"),
    CANDIDATE(DOUBLE, c.latency.ttft.mean_ratio, "ttft_mean_ratio"),
    CANDIDATE(DOUBLE, c.latency.ttft.limit_us, "ttft_limit_us"),
    CANDIDATE(DOUBLE, c.latency.ttft.within_limit, "ttft_within_limit"),
    CANDIDATE(DOUBLE, c.latency.tpot.median_us, "tpot_median_us"),
    CANDIDATE(DOUBLE, c.latency.tpot.log_sd, "tpot_log_sd"),
    CANDIDATE(DOUBLE, c.latency.tpot.log_sd_below, "tpot_log_sd_below"),
    CANDIDATE(DOUBLE, c.latency.tpot.odd, "tpot_odd"),
    CANDIDATE(DOUBLE, c.latency.tpot.odd_log, "tpot_odd_log"),
    CANDIDATE(DOUBLE, c.latency.tpot.mean_ratio, "tpot_mean_ratio"),
    CANDIDATE(DOUBLE, c.latency.tpot.limit_us, "tpot_limit_us"),
    CANDIDATE(DOUBLE, c.latency.tpot.within_limit, "tpot_within_limit"),
    CANDIDATE(DOUBLE, c.queue_us, "queue_us"),
    TIME(record_candidate, c.wake_us, "wake_us"),
    CANDIDATE(DOUBLE, c.risk, "risk"),
};
TABLE(candidate);
static const struct member end_rows[] = {TEXT(record_end, why, "why")};
TABLE(end);
/* Of every event. */
static const struct member event_rows[] = {
    TIME(record_event, at_us, "at_us"),
    ROW(I32, record_event, node, "node", .lo = 0, .hi = SHORTLIST_NODES_MAX - 1),
};
TABLE(event);
static const struct member like_rows[] = {
    ROW(I32, record_event, u.other, "other", .lo = 0, .hi = SHORTLIST_NODES_MAX - 1)};
TABLE(like);

/* Whoever adds a member adds its row above, and then its bytes here. */
_Static_assert(sizeof(struct route_candidate) == 272 && sizeof(struct route_terms) == 40, "rows of candidate");
_Static_assert(sizeof(struct route_request) == 104 && sizeof(struct router_ask) == 56, "rows of request and choice");
_Static_assert(sizeof(struct router_facts) == 176 && sizeof(struct node_curve) == 32, "rows of facts and curve");
_Static_assert(sizeof(struct router_work) == 40 && sizeof(struct router_leg) == 56, "rows of work and leg");
