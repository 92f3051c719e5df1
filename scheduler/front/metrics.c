#include "scheduler/front/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/front_internal.h"
#include "scheduler/observe/process_metrics.h"

enum dim {
    DIM_NONE,
    DIM_MODEL,
    DIM_NODE,
    DIM_OUTCOME,
    DIM_CODE,
    DIM_FAULT,
    DIM_KIND,
    DIM_REASON,
    DIM_LIMIT,
    DIM_WAY,
    DIM_CLASS,
    DIM_VERDICT
};
enum unit { UNIT_COUNT, UNIT_SECONDS, UNIT_USD }; /* kept as: count, nanoseconds, pico-dollars */
enum type { TYPE_COUNTER, TYPE_GAUGE, TYPE_HISTOGRAM };

struct declaration {
    const char *name, *help;
    enum type type;
    enum unit unit;
    enum dim dims[2];
    int64_t (*read)(const struct front *f, int cell); /* instead of storage: what somebody else counts */
};

#define OUTCOMES 3
#define KINDS    3
#define BUCKETS  17

/* Edges for anything from an added microsecond to a long answer; 0.5 s is an edge because alert rules ask for it. */
static const int64_t bucket_us[BUCKETS] = {100,     250,     500,      1000,     2500,     5000,
                                           10000,   25000,   50000,    100000,   250000,   500000,
                                           1000000, 2500000, 10000000, 60000000, 600000000};
struct histogram {
    struct counter counts[BUCKETS + 1]; /* the last: beyond every edge */
    struct counter sum_ns;
};

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

static const struct declaration table[] = {
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
#define TABLE_SIZE ((int)(sizeof table / sizeof table[0]))

struct metrics {
    int n_models, n_nodes;
    struct counter *values[METRIC_FIRST_GAUGE];       /* counters: [i * size of j + j] */
    struct histogram *histograms[METRIC_FIRST_GAUGE]; /* [i] */
    /* Charges as [model][node], which one machine word does not hold for long. The lock is uncontended but when read. */
    pthread_mutex_t charges_lock;
    __int128 *charges;
    __int128 charges_gone; /* of nodes whose place is another one's now */
};

const char *leg_fault_name(enum leg_fault f)
{
    static const char *const names[FAULTS] = {
        [FAULT_CONNECT] = "connect",        [FAULT_TIMEOUT] = "timeout", [FAULT_CUT] = "cut",
        [FAULT_FRAMING] = "framing",        [FAULT_STATUS] = "status",   [FAULT_BUSY] = "busy",
        [FAULT_ERROR_EVENT] = "error_event"};
    return names[f];
}

static int dim_size(const struct metrics *m, enum dim d)
{
    switch (d) {
    case DIM_NONE: return 1;
    case DIM_MODEL: return m->n_models;
    case DIM_NODE: return m->n_nodes;
    case DIM_OUTCOME: return OUTCOMES;
    case DIM_CODE: return API_CODES;
    case DIM_FAULT: return FAULTS;
    case DIM_KIND: return KINDS;
    case DIM_REASON: return AUTH_CODE_COUNT;
    case DIM_LIMIT: return LIMIT_CONCURRENT + 1;
    case DIM_WAY: return CACHED_WAYS;
    case DIM_CLASS: return WAITING_CLASSES;
    case DIM_VERDICT: return WAITING_VERDICTS;
    }
    return 0;
}

static const char *dim_label(enum dim d)
{
    static const char *const labels[] = {"",     "model",  "node",  "outcome", "code",  "fault",
                                         "kind", "reason", "limit", "result",  "class", "reason"};
    return labels[d];
}

static const char *dim_value(const struct front *f, enum dim d, int i)
{
    static const char *const kinds[KINDS] = {"input", "cached_input", "output"};
    switch (d) {
    case DIM_NONE: return "";
    case DIM_MODEL: return f->rooms[i].model;
    case DIM_NODE: return nodes_at(f->nodes, i)->config->name;
    case DIM_OUTCOME: return ledger_outcome_name((enum ledger_outcome)i);
    case DIM_CODE: return api_error_name(&(struct api_error){.code = (enum api_code)i});
    case DIM_FAULT: return leg_fault_name((enum leg_fault)i);
    case DIM_KIND: return kinds[i];
    case DIM_REASON: return auth_code_name((enum auth_code)i);
    case DIM_LIMIT: return limit_kind_name((enum limit_kind)i);
    case DIM_WAY: return cached_way_name((enum cached_way)i);
    case DIM_CLASS: return waiting_class_name((enum waiting_class)i);
    case DIM_VERDICT: return i == WAITING_IN ? "timeout" : waiting_verdict_name((enum waiting_verdict)i);
    }
    return "";
}

struct metrics *metrics_new(int n_models, int n_nodes)
{
    struct metrics *m = spw_calloc(1, sizeof(*m));
    m->n_models = n_models;
    m->n_nodes = n_nodes;
    pthread_mutex_init(&m->charges_lock, NULL);
    m->charges = spw_calloc((size_t)n_models * (size_t)n_nodes + 1, sizeof *m->charges);
    for (int k = 0; k < METRIC_FIRST_GAUGE; k++) {
        size_t n = (size_t)dim_size(m, table[k].dims[0]) * (size_t)dim_size(m, table[k].dims[1]);
        if (table[k].type == TYPE_HISTOGRAM)
            m->histograms[k] = spw_calloc(n + 1, sizeof(struct histogram));
        else
            m->values[k] = spw_calloc(n + 1, sizeof(struct counter));
    }
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    for (int k = 0; k < METRIC_FIRST_GAUGE; k++) {
        free(m->values[k]);
        free(m->histograms[k]);
    }
    pthread_mutex_destroy(&m->charges_lock);
    free(m->charges);
    free(m);
}

void metrics_forget_node(struct metrics *m, int node)
{
    for (int k = 0; k < METRIC_FIRST_GAUGE; k++) {
        int size_j = dim_size(m, table[k].dims[1]);
        for (int j = 0; j < size_j && table[k].dims[0] == DIM_NODE && m->values[k]; j++)
            atomic_store_explicit(&m->values[k][node * size_j + j].v, 0, memory_order_relaxed);
    }
    pthread_mutex_lock(&m->charges_lock);
    for (int i = 0; i < m->n_models; i++) {
        m->charges_gone += m->charges[i * m->n_nodes + node];
        m->charges[i * m->n_nodes + node] = 0;
    }
    pthread_mutex_unlock(&m->charges_lock);
}

void metrics_add(struct metrics *m, enum metric id, int i, int j, int64_t n)
{
    int size_i = dim_size(m, table[id].dims[0]), size_j = dim_size(m, table[id].dims[1]);
    SPW_ASSERT(m->values[id] && i >= 0 && i < size_i && j >= 0 && j < size_j);
    if (id != METRIC_CHARGE) {
        counter_add(&m->values[id][i * size_j + j], n);
        return;
    }
    pthread_mutex_lock(&m->charges_lock);
    m->charges[i * size_j + j] += n;
    pthread_mutex_unlock(&m->charges_lock);
}

void metrics_observe(struct metrics *m, enum metric id, int i, int64_t ns)
{
    metrics_observe_at(m, id, i, 0, ns);
}

void metrics_observe_at(struct metrics *m, enum metric id, int i, int j, int64_t ns)
{
    int size_i = dim_size(m, table[id].dims[0]), size_j = dim_size(m, table[id].dims[1]);
    SPW_ASSERT(m->histograms[id] && i >= 0 && i < size_i && j >= 0 && j < size_j);
    struct histogram *h = &m->histograms[id][i * size_j + j];
    int b = 0;
    while (b < BUCKETS && ns > bucket_us[b] * NS_PER_US)
        b++;
    counter_add(&h->counts[b], 1);
    counter_add(&h->sum_ns, ns);
}

/* ---- over all lanes --------------------------------------------------------------------------------------------- */

/* One cell of a counter. */
static __int128 value_of(const struct front *f, int id, int cell)
{
    __int128 sum = 0;
    for (int l = 0; l < f->n_lanes; l++) {
        struct metrics *m = f->lanes[l].metrics;
        if (id != METRIC_CHARGE) {
            sum += counter_get(&m->values[id][cell]);
            continue;
        }
        pthread_mutex_lock(&m->charges_lock);
        sum += m->charges[cell];
        pthread_mutex_unlock(&m->charges_lock);
    }
    return sum;
}

int64_t metrics_total(const struct front *f, enum metric id, int j)
{
    const struct metrics *m = f->lanes[0].metrics; /* they are all of the same size */
    int size_i = dim_size(m, table[id].dims[0]), size_j = dim_size(m, table[id].dims[1]);
    __int128 sum = 0;
    for (int i = 0; i < size_i; i++)
        sum += value_of(f, (int)id, i * size_j + j);
    return (int64_t)sum;
}

struct pusd_sum metrics_charge(const struct front *f)
{
    const struct metrics *m = f->lanes[0].metrics;
    struct pusd_sum sum = {0};
    for (int l = 0; l < f->n_lanes; l++) {
        struct metrics *of = f->lanes[l].metrics;
        pthread_mutex_lock(&of->charges_lock);
        sum.v += of->charges_gone;
        for (int i = 0; i < m->n_models * m->n_nodes; i++)
            sum.v += of->charges[i];
        pthread_mutex_unlock(&of->charges_lock);
    }
    return sum;
}

/* ---- Prometheus text -------------------------------------------------------------------------------------------- */

struct writer {
    struct strbuf *out;
    enum rc rc; /* the first failure; the rest is skipped */
};

static void put(struct writer *w, const char *format, ...) SPW_PRINTF(2, 3);
static void put(struct writer *w, const char *format, ...)
{
    char line[512];
    va_list args;
    if (w->rc != RC_OK)
        return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    w->rc = n < (int)sizeof line ? strbuf_append(w->out, line, (size_t)n) : RC_FULL;
}

static void put_label(struct writer *w, const char *label, const char *value, const char *before)
{
    put(w, "%s%s=\"", before, label);
    for (const char *p = value; *p; p++) {
        if (*p == '"' || *p == '\\')
            put(w, "\\%c", *p);
        else if (*p == '\n')
            put(w, "\\n");
        else
            put(w, "%c", *p);
    }
    put(w, "\"");
}

/* {a="x",b="y",extra} or nothing. */
static void put_labels(struct writer *w, const struct front *f, const struct declaration *d, int i, int j,
                       const char *le)
{
    int index[2] = {i, j};
    const char *before = "{";
    for (int k = 0; k < 2; k++) {
        if (d->dims[k] == DIM_NONE)
            continue;
        put_label(w, dim_label(d->dims[k]), dim_value(f, d->dims[k], index[k]), before);
        before = ",";
    }
    if (le) {
        put_label(w, "le", le, before);
        before = ",";
    }
    if (*before == ',')
        put(w, "}");
}

static void put_value(struct writer *w, enum unit unit, __int128 v)
{
    char text[64];
    if (unit == UNIT_USD)
        put(w, " %s\n", pusd_sum_format((struct pusd_sum){v}, text, sizeof text));
    else if (unit == UNIT_SECONDS)
        put(w, " %.9g\n", (double)v / 1e9);
    else
        put(w, " %" PRId64 "\n", (int64_t)v);
}

static void put_histogram(struct writer *w, const struct front *f, int k, int i, int j)
{
    const struct declaration *d = &table[k];
    int cell = i * dim_size(f->lanes[0].metrics, d->dims[1]) + j;
    int64_t total = 0, sum_ns = 0;
    for (int b = 0; b <= BUCKETS; b++) {
        char le[32] = "+Inf";
        if (b < BUCKETS)
            snprintf(le, sizeof le, "%g", (double)bucket_us[b] / 1e6);
        for (int l = 0; l < f->n_lanes; l++)
            total += counter_get(&f->lanes[l].metrics->histograms[k][cell].counts[b]);
        put(w, "%s_bucket", d->name);
        put_labels(w, f, d, i, j, le);
        put(w, " %" PRId64 "\n", total);
    }
    for (int l = 0; l < f->n_lanes; l++)
        sum_ns += counter_get(&f->lanes[l].metrics->histograms[k][cell].sum_ns);
    put(w, "%s_sum", d->name);
    put_labels(w, f, d, i, j, NULL);
    put_value(w, UNIT_SECONDS, sum_ns);
    put(w, "%s_count", d->name);
    put_labels(w, f, d, i, j, NULL);
    put(w, " %" PRId64 "\n", total);
}

/* Is there such a model or node, at the moment? */
static bool is_there(const struct front *f, enum dim d, int i)
{
    if (d == DIM_NODE)
        return i < nodes_count(f->nodes) && node_is_there(nodes_at(f->nodes, i));
    return d != DIM_MODEL || i < f->n_rooms;
}

static void put_metric(struct writer *w, const struct front *f, int k)
{
    const struct metrics *m = f->lanes[0].metrics; /* for the sizes, which all have */
    static const char *const types[] = {"counter", "gauge", "histogram"};
    const struct declaration *d = &table[k];
    int size_i = dim_size(m, d->dims[0]), size_j = dim_size(m, d->dims[1]);
    put(w, "# HELP %s %s\n# TYPE %s %s\n", d->name, d->help, d->name, types[d->type]);
    for (int i = 0; i < size_i; i++) {
        for (int j = 0; j < size_j; j++) {
            if (!is_there(f, d->dims[0], i) || !is_there(f, d->dims[1], j))
                continue;
            if (d->type == TYPE_HISTOGRAM) {
                put_histogram(w, f, k, i, j);
                continue;
            }
            put(w, "%s", d->name);
            put_labels(w, f, d, i, j, NULL);
            put_value(w, d->unit, d->read ? d->read(f, i * size_j + j) : value_of(f, k, i * size_j + j));
        }
    }
}

enum rc metrics_render(const struct front *f, struct strbuf *out)
{
    struct writer w = {.out = out, .rc = RC_OK};
    put(&w, "# HELP spillway_build_info Version of the program.\n# TYPE spillway_build_info gauge\n"
            "spillway_build_info{version=\"" SPILLWAY_VERSION "\"} 1\n");
    for (int k = 0; k < TABLE_SIZE; k++)
        put_metric(&w, f, k);
    if (w.rc == RC_OK && f->routes)
        w.rc = route_metrics_render(f->routes, out);
    if (w.rc == RC_OK)
        w.rc = process_metrics_render(out);
    return w.rc;
}
