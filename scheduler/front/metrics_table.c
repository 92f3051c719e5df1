/* Which metrics there are: one row each, and how those are read that somebody else counts. */
#include "scheduler/front/front_internal.h"
#include "scheduler/front/metrics_internal.h"

/* ---- gauges and counters that others keep ----------------------------------------------------------------------- */

/* The lock is ours to take, and nothing else changes. */
static void lock(const struct front *f)
{
    front_lock((struct front *)f);
}
static void unlock(const struct front *f)
{
    front_unlock((struct front *)f);
}

static int64_t read_running(const struct front *f, int i)
{
    (void)i;
    return front_totals(f).running;
}
/* Of the model and class that cell i stands for. */
static int64_t read_waiting(const struct front *f, int i)
{
    lock(f);
    int64_t n = waiting_count_of(&f->rooms[i / WAITING_CLASSES].waiting, (enum waiting_class)(i % WAITING_CLASSES));
    unlock(f);
    return n;
}
static int64_t read_waiting_bytes(const struct front *f, int i)
{
    lock(f);
    int64_t n = f->rooms[i / WAITING_CLASSES].waiting.lines[i % WAITING_CLASSES].bytes;
    unlock(f);
    return n;
}
static int64_t read_waiting_oldest(const struct front *f, int i)
{
    int64_t now_ns = clock_now(f->o.clock).ns;
    lock(f);
    int64_t ns =
        waiting_oldest_ns(&f->rooms[i / WAITING_CLASSES].waiting, (enum waiting_class)(i % WAITING_CLASSES), now_ns);
    unlock(f);
    return ns > 0 ? ns : 0;
}
static int64_t read_recording(const struct front *f, int i)
{
    (void)i;
    return nodes_recording(f->nodes).records;
}
static int64_t read_recorded(const struct front *f, int i)
{
    (void)i;
    return (int64_t)nodes_recording(f->nodes).events;
}
static int64_t read_recording_missed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)nodes_recording(f->nodes).missed;
}
static int64_t read_recording_bytes(const struct front *f, int i)
{
    (void)i;
    return nodes_recording(f->nodes).bytes;
}
static int64_t read_node_up(const struct front *f, int i)
{
    return node_state_now(nodes_at(f->nodes, i)) == NODE_READY;
}
static int64_t read_node_draining(const struct front *f, int i)
{
    lock(f);
    bool draining = nodes_at(f->nodes, i)->draining;
    unlock(f);
    return draining;
}
static int64_t read_node_in_flight(const struct front *f, int i)
{
    lock(f);
    int in_flight = nodes_at(f->nodes, i)->in_flight;
    unlock(f);
    return in_flight;
}
static struct node_foresight foresight(const struct front *f, int i)
{
    lock(f);
    struct node_foresight seen = node_foresight_locked(nodes_at(f->nodes, i));
    unlock(f);
    return seen;
}
static int64_t read_node_foreseen(const struct front *f, int i)
{
    return (int64_t)foresight(f, i).ttft_seen;
}
static int64_t read_node_ttft_off(const struct front *f, int i)
{
    return (int64_t)(foresight(f, i).ttft_off * 1e6);
}
static int64_t read_node_tpot_off(const struct front *f, int i)
{
    return (int64_t)(foresight(f, i).tpot_off * 1e6);
}
static int64_t read_node_slots(const struct front *f, int i)
{
    return nodes_at(f->nodes, i)->config->slots;
}
static int64_t read_node_legs(const struct front *f, int i)
{
    lock(f);
    uint64_t requests = nodes_at(f->nodes, i)->requests;
    unlock(f);
    return (int64_t)requests;
}
static int64_t read_node_breaker_open(const struct front *f, int i)
{
    lock(f);
    bool open = nodes_at(f->nodes, i)->breaker.state != BREAKER_CLOSED;
    unlock(f);
    return open;
}
static int64_t read_node_breaker_opened(const struct front *f, int i)
{
    lock(f);
    uint64_t opened = nodes_at(f->nodes, i)->opened;
    unlock(f);
    return (int64_t)opened;
}
static int64_t read_node_cooling(const struct front *f, int i)
{
    lock(f);
    enum node_hold hold = node_hold_locked(nodes_at(f->nodes, i), NULL);
    unlock(f);
    return hold == HOLD_COOLING;
}
static int64_t read_node_cooled(const struct front *f, int i)
{
    lock(f);
    uint64_t cooled = nodes_at(f->nodes, i)->cooled;
    unlock(f);
    return (int64_t)cooled;
}
static int64_t read_node_restarts(const struct front *f, int i)
{
    return nodes_at(f->nodes, i)->restarts;
}
static int64_t read_ledger_rows(const struct front *f, int i)
{
    (void)i;
    return (int64_t)ledger_stats(f->o.ledger).rows;
}
static int64_t read_ledger_commits(const struct front *f, int i)
{
    (void)i;
    return (int64_t)ledger_stats(f->o.ledger).commits;
}
static int64_t read_ledger_failed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)ledger_stats(f->o.ledger).failed;
}
static int64_t read_ledger_queued(const struct front *f, int i)
{
    (void)i;
    return ledger_stats(f->o.ledger).queued;
}
static int64_t read_ledger_spooled(const struct front *f, int i)
{
    (void)i;
    return ledger_stats(f->o.ledger).spool_bytes;
}
static struct audit_stats audit_figures(const struct front *f)
{
    return f->o.audit ? audit_stats(f->o.audit) : (struct audit_stats){0};
}
static int64_t read_audit_records(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).records;
}
static int64_t read_audit_seals(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).groups;
}
static int64_t read_audit_failures(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).failures;
}
static int64_t read_audit_lost(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).lost;
}
static int64_t read_audit_queued(const struct front *f, int i)
{
    (void)i;
    return audit_figures(f).queued;
}
/* Over all lanes. */
static struct http_server_stats http_stats(const struct front *f)
{
    struct http_server_stats sum = {0};
    for (int i = 0; i < f->n_lanes; i++) {
        struct http_server_stats s = http_server_stats(f->lanes[i].server);
        sum.open_connections += s.open_connections;
        sum.accepted += s.accepted;
        sum.requests += s.requests;
        sum.refused_framing += s.refused_framing;
        sum.writes += s.writes;
        sum.refused_full += s.refused_full;
        sum.refused_client += s.refused_client;
        sum.timed_out += s.timed_out;
        sum.tls_failed += s.tls_failed;
    }
    return sum;
}
static int64_t read_connections(const struct front *f, int i)
{
    (void)i;
    return http_stats(f).open_connections;
}
static int64_t read_accepted(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).accepted;
}
static int64_t read_http_requests(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).requests;
}
static int64_t read_http_writes(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).writes;
}
static int64_t read_refused_framing(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).refused_framing;
}
static int64_t read_refused_full(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).refused_full;
}
static int64_t read_refused_client(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).refused_client;
}
static int64_t read_timed_out(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).timed_out;
}
static int64_t read_tls_failed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).tls_failed;
}
static int64_t read_workers(const struct front *f, int i)
{
    (void)i;
    return f->n_lanes;
}

/* All zero where keys are not honoured. */
static struct repeats_stats repeats_figures(const struct front *f)
{
    return f->repeats ? repeats_stats(f->repeats) : (struct repeats_stats){0};
}
static int64_t read_idempotent_keys(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).keys;
}
static int64_t read_idempotent_bytes(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).bytes;
}
static int64_t read_idempotent_replayed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).replayed;
}
static int64_t read_idempotent_waited(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).waited;
}
static int64_t read_idempotent_computed_again(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).computed_again;
}
static int64_t read_idempotent_forgotten(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).forgotten;
}

static int64_t read_prefix_hits(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).hits;
}
static int64_t read_prefix_sent(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).sent;
}
static int64_t read_prefix_hit_tokens(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).hit_tokens;
}
static int64_t read_prefix_blocks(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).map.blocks;
}
static int64_t read_prefix_bytes(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).map.bytes;
}
static int64_t read_prefix_evicted(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).map.evicted;
}

/* Over all lanes. */
static struct cached_figures cached_figures(const struct front *f)
{
    struct cached_figures sum = {0};
    for (int i = 0; i < f->n_lanes; i++)
        cached_figures_add(&sum, f->lanes[i].cached);
    return sum;
}
static struct otlp_stats span_figures(const struct front *f)
{
    struct otlp_stats sum = {0};
    for (int i = 0; i < f->n_lanes; i++)
        (void)spans_figures_add(&sum, f->lanes[i].spans);
    return sum;
}
static int64_t read_cache_lookups_hit(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.hits;
}
static int64_t read_cache_lookups_missed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.misses;
}
static int64_t read_cache_stores(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.stores;
}
static int64_t read_cache_refused(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.refused;
}
static int64_t read_cache_errors(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.errors;
}
static int64_t read_cache_timeouts(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.timeouts;
}
static int64_t read_cache_dropped(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.dropped;
}
static int64_t read_cache_disconnects(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.disconnects;
}
static int64_t read_cache_up(const struct front *f, int i)
{
    (void)i;
    return cached_figures(f).cache.reachable;
}
static int64_t read_cache_entries(const struct front *f, int i)
{
    (void)i;
    return cached_memory_figures(f->cached).entries;
}
static int64_t read_cache_bytes(const struct front *f, int i)
{
    (void)i;
    return cached_memory_figures(f->cached).bytes;
}
static int64_t read_cache_evictions(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_memory_figures(f->cached).evictions;
}
static int64_t read_cache_expired(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_memory_figures(f->cached).expired;
}
static int64_t read_flights(const struct front *f, int i)
{
    (void)i;
    return cached_flight_figures(f->cached).flights;
}
static int64_t read_followers(const struct front *f, int i)
{
    (void)i;
    return cached_flight_figures(f->cached).followers;
}
static int64_t read_promoted(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_flight_figures(f->cached).promoted;
}
static int64_t read_spans_exported(const struct front *f, int i)
{
    (void)i;
    return (int64_t)span_figures(f).exported;
}
static int64_t read_spans_dropped(const struct front *f, int i)
{
    (void)i;
    return (int64_t)(span_figures(f).dropped_full + span_figures(f).dropped_failed + span_figures(f).rejected);
}
static int64_t read_spans_retries(const struct front *f, int i)
{
    (void)i;
    return (int64_t)span_figures(f).retries;
}
static int64_t read_spans_queued(const struct front *f, int i)
{
    (void)i;
    return span_figures(f).queued;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

const struct declaration metrics_table[] = {
    [METRIC_REQUESTS] = {"spillway_requests_total",
                         "Requests with a ledger row, by outcome.",
                         TYPE_COUNTER,
                         UNIT_COUNT,
                         {DIM_MODEL, DIM_OUTCOME},
                         NULL},
    [METRIC_REFUSED] = {"spillway_refused_total",
                        "Requests answered with an error and without a ledger row.",
                        TYPE_COUNTER,
                        UNIT_COUNT,
                        {DIM_CODE, DIM_NONE},
                        NULL},
    [METRIC_AUTH_REFUSED] = {"spillway_auth_refused_total",
                             "Credentials that were not taken, by reason.",
                             TYPE_COUNTER,
                             UNIT_COUNT,
                             {DIM_REASON, DIM_NONE},
                             NULL},
    [METRIC_LIMITED] = {"spillway_rate_limited_total",
                        "Requests beyond a rate limit, by what it counts; none: no room to count.",
                        TYPE_COUNTER,
                        UNIT_COUNT,
                        {DIM_LIMIT, DIM_NONE},
                        NULL},
    [METRIC_RETRIES] = {"spillway_retries_total",
                        "Legs started because an earlier one failed before its first byte.",
                        TYPE_COUNTER,
                        UNIT_COUNT,
                        {DIM_MODEL, DIM_NONE},
                        NULL},
    [METRIC_RETRIES_REFUSED] = {"spillway_retries_refused_total",
                                "Requests that were not tried again because the budget of retries was used up.",
                                TYPE_COUNTER,
                                UNIT_COUNT,
                                {DIM_NONE, DIM_NONE},
                                NULL},
    [METRIC_CONTINUATIONS] = {"spillway_continuations_total",
                              "Answers that went on on another node, each time.",
                              TYPE_COUNTER,
                              UNIT_COUNT,
                              {DIM_MODEL, DIM_NONE},
                              NULL},
    [METRIC_MOVES] = {"spillway_moves_total",
                      "Streams that left a node before it went, each time; of spillway_continuations_total.",
                      TYPE_COUNTER,
                      UNIT_COUNT,
                      {DIM_MODEL, DIM_NONE},
                      NULL},
    [METRIC_HANGS] = {"spillway_hangs_total",
                      "Answers taken from a node because no token came in time.",
                      TYPE_COUNTER,
                      UNIT_COUNT,
                      {DIM_NODE, DIM_NONE},
                      NULL},
    [METRIC_POISON] = {"spillway_poison_total",
                       "Requests refused because nodes died under them again and again.",
                       TYPE_COUNTER,
                       UNIT_COUNT,
                       {DIM_MODEL, DIM_NONE},
                       NULL},
    [METRIC_CAPPED] =
        {"spillway_charges_capped_total",
         "Charges cut to the client's x-spillway-max-charge-usd: a node counted more tokens than could be.",
         TYPE_COUNTER,
         UNIT_COUNT,
         {DIM_NONE, DIM_NONE},
         NULL},
    [METRIC_BUDGET_REFUSED] = {"spillway_budget_refused_total",
                               "Requests refused because a budget had too little left (429 insufficient_quota).",
                               TYPE_COUNTER,
                               UNIT_COUNT,
                               {DIM_NONE, DIM_NONE},
                               NULL},
    [METRIC_BUDGET_STOPPED] = {"spillway_budget_stopped_total",
                               "Streams that ended with finish_reason length because a budget had no next slice.",
                               TYPE_COUNTER,
                               UNIT_COUNT,
                               {DIM_NONE, DIM_NONE},
                               NULL},
    [METRIC_BUDGET_REACHED] = {"spillway_budget_reached_total",
                               "Soft and hard limits that were reached, each once per period.",
                               TYPE_COUNTER,
                               UNIT_COUNT,
                               {DIM_NONE, DIM_NONE},
                               NULL},
    [METRIC_BUDGET_EXCESS] = {"spillway_budget_excess_total",
                              "Settlements above their reservation: a node counted more tokens than there can be.",
                              TYPE_COUNTER,
                              UNIT_COUNT,
                              {DIM_NONE, DIM_NONE},
                              NULL},
    [METRIC_BUDGET_UNAVAILABLE] = {"spillway_budget_unavailable_total",
                                   "Requests answered with 503 because budgets could not be asked.",
                                   TYPE_COUNTER,
                                   UNIT_COUNT,
                                   {DIM_NONE, DIM_NONE},
                                   NULL},
    [METRIC_LEG_FAILURES] = {"spillway_leg_failures_total",
                             "Attempts on a node that failed, by kind.",
                             TYPE_COUNTER,
                             UNIT_COUNT,
                             {DIM_NODE, DIM_FAULT},
                             NULL},
    [METRIC_TOKENS] = {"spillway_tokens_total",
                       "Tokens in the ledger; cached input is part of input.",
                       TYPE_COUNTER,
                       UNIT_COUNT,
                       {DIM_MODEL, DIM_KIND},
                       NULL},
    [METRIC_CHARGE] = {"spillway_charge_usd_total",
                       "Charges in the ledger, dollars.",
                       TYPE_COUNTER,
                       UNIT_USD,
                       {DIM_MODEL, DIM_NODE},
                       NULL},
    [METRIC_CACHE] = {"spillway_cache_requests_total",
                      "Requests by what the cache had for them.",
                      TYPE_COUNTER,
                      UNIT_COUNT,
                      {DIM_MODEL, DIM_WAY},
                      NULL},
    [METRIC_CACHE_SAVED] = {"spillway_cache_saved_usd_total",
                            "What answers that were found would have cost, dollars.",
                            TYPE_COUNTER,
                            UNIT_USD,
                            {DIM_MODEL, DIM_NONE},
                            NULL},
    [METRIC_WAIT] = {"spillway_wait_seconds",
                     "Time of requests in the waiting room.",
                     TYPE_HISTOGRAM,
                     UNIT_SECONDS,
                     {DIM_MODEL, DIM_CLASS},
                     NULL},
    [METRIC_NOT_WAITED] = {"spillway_waiting_refused_total",
                           "Requests that were not let into the waiting room, or (timeout) waited there in vain.",
                           TYPE_COUNTER,
                           UNIT_COUNT,
                           {DIM_CLASS, DIM_VERDICT},
                           NULL},
    [METRIC_COMMIT] = {"spillway_commit_seconds",
                       "From the end of a node's answer to its durable ledger row.",
                       TYPE_HISTOGRAM,
                       UNIT_SECONDS,
                       {DIM_NONE, DIM_NONE},
                       NULL},
    {"spillway_requests_running",
     "Requests that a node is answering.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_running},
    {"spillway_requests_waiting",
     "Requests that wait for a slot.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_MODEL, DIM_CLASS},
     read_waiting},
    {"spillway_waiting_bytes",
     "Bytes of the bodies of requests that wait.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_MODEL, DIM_CLASS},
     read_waiting_bytes},
    {"spillway_waiting_oldest_seconds",
     "How long the request that has waited longest waits already.",
     TYPE_GAUGE,
     UNIT_SECONDS,
     {DIM_MODEL, DIM_CLASS},
     read_waiting_oldest},
    {"spillway_node_up",
     "1: the node's last health check was good.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_up},
    {"spillway_node_draining",
     "1: the node gets nothing new.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_draining},
    {"spillway_node_in_flight",
     "Requests on the node.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_in_flight},
    {"spillway_node_slots",
     "Requests the node takes at once; 0: unbounded.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_slots},
    {"spillway_prediction_observations",
     "First tokens that the node's predictions were learned from, of the model that it answers most.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_foreseen},
    {"spillway_prediction_ttft_miscalibration",
     "How far predicted times to the first token are off as distributions: 0 is perfect, below 0.1 is good.",
     TYPE_GAUGE,
     UNIT_RATIO,
     {DIM_NODE, DIM_NONE},
     read_node_ttft_off},
    {"spillway_prediction_tpot_miscalibration",
     "The same of times per output token.",
     TYPE_GAUGE,
     UNIT_RATIO,
     {DIM_NODE, DIM_NONE},
     read_node_tpot_off},
    {"spillway_node_legs_total",
     "Attempts on the node.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_legs},
    {"spillway_node_breaker_open",
     "1: the node failed too often and is left alone, or is being tried by one request.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_breaker_open},
    {"spillway_node_breaker_opened_total",
     "Times the node's breaker opened.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_breaker_opened},
    {"spillway_node_cooling_down",
     "1: the node asked to be left alone (429, or 503 with Retry-After) and is.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_cooling},
    {"spillway_node_cool_downs_total",
     "Times the node asked to be left alone.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_cooled},
    {"spillway_node_restarts_total",
     "Times the node's engine ended by itself and was started again.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NODE, DIM_NONE},
     read_node_restarts},
    {"spillway_ledger_rows_total", "Rows committed.", TYPE_COUNTER, UNIT_COUNT, {DIM_NONE, DIM_NONE}, read_ledger_rows},
    {"spillway_ledger_commits_total",
     "Group commits.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_ledger_commits},
    {"spillway_ledger_failures_total",
     "Rows that could not be committed.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_ledger_failed},
    {"spillway_ledger_queued",
     "Rows that wait for the disk.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_ledger_queued},
    {"spillway_ledger_spool_bytes",
     "Rows that wait in the spool because the ledger cannot be written.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_ledger_spooled},
    {"spillway_audit_records_total",
     "Records of the audit that are under a signed head.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_audit_records},
    {"spillway_audit_seals_total",
     "Groups of them, each with a signed head.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_audit_seals},
    {"spillway_audit_failures_total",
     "Times that a group could not be written; it is tried again.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_audit_failures},
    {"spillway_audit_lost_total",
     "Records that were given up, as audit.on_failure: continue says.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_audit_lost},
    {"spillway_audit_queued",
     "Records that wait for the disk.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_audit_queued},
    {"spillway_prefix_requests_total",
     "Times that a prompt of 1 KiB or more was sent to a node.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_prefix_sent},
    {"spillway_prefix_hits_total",
     "Of them to a node that had been sent the prompt's beginning before.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_prefix_hits},
    {"spillway_prefix_hit_tokens_total",
     "Prompt tokens that those nodes were expected to hold already.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_prefix_hit_tokens},
    {"spillway_prefix_blocks",
     "Blocks of prompts, 1 KiB each, of which is known where they were sent.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_prefix_blocks},
    {"spillway_prefix_bytes",
     "Memory for that, routing.prefix_memory at most.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_prefix_bytes},
    {"spillway_prefix_evictions_total",
     "Blocks that were forgotten to make room for others.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_prefix_evicted},
    {"spillway_recording",
     "1: all that routing is told and decides is written to routing.record; 0: it is not, or not any more.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_recording},
    {"spillway_recorded_events_total",
     "Events and decisions of routing that were written there since the start.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_recorded},
    {"spillway_recording_missed_total",
     "Those that came after the recording had ended: its size, a slow disk, or a full one.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_recording_missed},
    {"spillway_recording_bytes",
     "Of that file, routing.record_max_bytes at most.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_recording_bytes},
    {"spillway_idempotent_keys",
     "Idempotency keys that are remembered, those of running requests too.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_idempotent_keys},
    {"spillway_idempotent_bytes",
     "Bytes of answers that are kept for repeats, and of those that grow.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_idempotent_bytes},
    {"spillway_idempotent_replays_total",
     "Repeats that got a kept answer at once.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_idempotent_replayed},
    {"spillway_idempotent_waits_total",
     "Repeats that waited for the first.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_idempotent_waited},
    {"spillway_idempotent_repeats_total",
     "Repeats that were computed again, free of charge, because the answer was lost.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_idempotent_computed_again},
    {"spillway_idempotent_forgotten_total",
     "Keys and answers that had to make room before their time.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_idempotent_forgotten},
    {"spillway_workers",
     "Event loops that serve requests.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_workers},
    {"spillway_http_connections",
     "Open connections from applications.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_connections},
    {"spillway_http_accepted_total",
     "Connections accepted.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_accepted},
    {"spillway_http_requests_total",
     "Whole requests read, whatever became of them.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_http_requests},
    {"spillway_http_writes_total",
     "Writes to applications: one for whatever one read from a node brought.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_http_writes},
    {"spillway_http_refused_framing_total",
     "Connections closed because of malformed HTTP.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_refused_framing},
    {"spillway_http_refused_full_total",
     "Connections or bodies refused at a bound.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_refused_full},
    {"spillway_cache_lookup_hits_total",
     "Lookups that found an answer.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_lookups_hit},
    {"spillway_cache_lookup_misses_total",
     "Lookups that found none.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_lookups_missed},
    {"spillway_cache_stores_total",
     "Answers that were kept.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_stores},
    {"spillway_cache_refused_total",
     "Answers that were not kept: too large, or not to be replayed.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_refused},
    {"spillway_cache_errors_total",
     "Replies and values of the Redis that could not be used.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_errors},
    {"spillway_cache_timeouts_total",
     "Lookups and stores that the Redis did not answer in time.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_timeouts},
    {"spillway_cache_stores_dropped_total",
     "Answers that were not sent to the Redis.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_dropped},
    {"spillway_cache_disconnects_total",
     "Connections to the Redis that were lost.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_disconnects},
    {"spillway_cache_up",
     "1: the cache can be asked, by every worker.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_up},
    {"spillway_cache_entries",
     "Answers in our own memory.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_entries},
    {"spillway_cache_bytes",
     "Their bytes, with the book-keeping.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_bytes},
    {"spillway_cache_evictions_total",
     "Answers that made room for newer ones.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_evictions},
    {"spillway_cache_expired_total",
     "Answers that became too old.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_cache_expired},
    {"spillway_cache_flights",
     "Different requests that are being computed and may be shared.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_flights},
    {"spillway_cache_followers",
     "Requests that wait for the answer to an identical one.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_followers},
    {"spillway_cache_promoted_total",
     "Followers that had to compute it because the first one failed.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_promoted},
    {"spillway_spans_exported_total",
     "Spans that the collector has taken.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_spans_exported},
    {"spillway_spans_dropped_total",
     "Spans that found no place, were given up, or were rejected by the collector.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_spans_dropped},
    {"spillway_spans_retries_total",
     "Batches of spans that were sent again.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_spans_retries},
    {"spillway_spans_queued",
     "Spans that wait for the collector.",
     TYPE_GAUGE,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_spans_queued},
    {"spillway_http_refused_client_total",
     "Connections refused because their address has as many as one client may have.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_refused_client},
    {"spillway_http_timed_out_total",
     "Connections closed because the client was too slow.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_timed_out},
    {"spillway_tls_failed_total",
     "TLS handshakes of clients that failed.",
     TYPE_COUNTER,
     UNIT_COUNT,
     {DIM_NONE, DIM_NONE},
     read_tls_failed},
};
const int metrics_table_size = (int)(sizeof metrics_table / sizeof metrics_table[0]);
