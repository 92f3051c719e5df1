#include "scheduler/front/metrics_read.h"

#include "scheduler/front/front_internal.h"

/* The lock is ours to take, and nothing else changes. */
static void lock(const struct front *f)
{
    front_lock((struct front *)f);
}

static void unlock(const struct front *f)
{
    front_unlock((struct front *)f);
}

int64_t metrics_read_running(const struct front *f, int i)
{
    (void)i;
    return front_totals(f).running;
}

/* Of the model and class that cell i stands for. */
int64_t metrics_read_waiting(const struct front *f, int i)
{
    lock(f);
    int64_t n = waiting_count_of(&f->rooms[i / WAITING_CLASSES].waiting, (enum waiting_class)(i % WAITING_CLASSES));
    unlock(f);
    return n;
}

int64_t metrics_read_waiting_bytes(const struct front *f, int i)
{
    lock(f);
    int64_t n = f->rooms[i / WAITING_CLASSES].waiting.lines[i % WAITING_CLASSES].bytes;
    unlock(f);
    return n;
}

int64_t metrics_read_waiting_oldest(const struct front *f, int i)
{
    int64_t now_ns = clock_now(f->o.clock).ns;
    lock(f);
    int64_t ns =
        waiting_oldest_ns(&f->rooms[i / WAITING_CLASSES].waiting, (enum waiting_class)(i % WAITING_CLASSES), now_ns);
    unlock(f);
    return ns > 0 ? ns : 0;
}

int64_t metrics_read_recording(const struct front *f, int i)
{
    (void)i;
    return nodes_recording(f->nodes).records;
}

int64_t metrics_read_recorded(const struct front *f, int i)
{
    (void)i;
    return (int64_t)nodes_recording(f->nodes).events;
}

int64_t metrics_read_recording_missed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)nodes_recording(f->nodes).missed;
}

int64_t metrics_read_recording_bytes(const struct front *f, int i)
{
    (void)i;
    return nodes_recording(f->nodes).bytes;
}

int64_t metrics_read_node_up(const struct front *f, int i)
{
    return node_state_now(nodes_at(f->nodes, i)) == NODE_READY;
}

int64_t metrics_read_node_draining(const struct front *f, int i)
{
    lock(f);
    bool draining = nodes_at(f->nodes, i)->draining;
    unlock(f);
    return draining;
}

int64_t metrics_read_node_in_flight(const struct front *f, int i)
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

int64_t metrics_read_node_foreseen(const struct front *f, int i)
{
    return (int64_t)foresight(f, i).ttft_seen;
}

int64_t metrics_read_node_ttft_off(const struct front *f, int i)
{
    return (int64_t)(foresight(f, i).ttft_off * 1e6);
}

int64_t metrics_read_node_tpot_off(const struct front *f, int i)
{
    return (int64_t)(foresight(f, i).tpot_off * 1e6);
}

int64_t metrics_read_node_slots(const struct front *f, int i)
{
    return nodes_at(f->nodes, i)->config->slots;
}

int64_t metrics_read_node_legs(const struct front *f, int i)
{
    lock(f);
    uint64_t requests = nodes_at(f->nodes, i)->requests;
    unlock(f);
    return (int64_t)requests;
}

int64_t metrics_read_node_breaker_open(const struct front *f, int i)
{
    lock(f);
    bool open = nodes_at(f->nodes, i)->breaker.state != BREAKER_CLOSED;
    unlock(f);
    return open;
}

int64_t metrics_read_node_breaker_opened(const struct front *f, int i)
{
    lock(f);
    uint64_t opened = nodes_at(f->nodes, i)->opened;
    unlock(f);
    return (int64_t)opened;
}

int64_t metrics_read_node_cooling(const struct front *f, int i)
{
    lock(f);
    enum node_hold hold = node_hold_locked(nodes_at(f->nodes, i), NULL);
    unlock(f);
    return hold == HOLD_COOLING;
}

int64_t metrics_read_node_cooled(const struct front *f, int i)
{
    lock(f);
    uint64_t cooled = nodes_at(f->nodes, i)->cooled;
    unlock(f);
    return (int64_t)cooled;
}

int64_t metrics_read_node_restarts(const struct front *f, int i)
{
    return nodes_at(f->nodes, i)->restarts;
}

int64_t metrics_read_ledger_rows(const struct front *f, int i)
{
    (void)i;
    return (int64_t)ledger_stats(f->o.ledger).rows;
}

int64_t metrics_read_ledger_commits(const struct front *f, int i)
{
    (void)i;
    return (int64_t)ledger_stats(f->o.ledger).commits;
}

int64_t metrics_read_ledger_failed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)ledger_stats(f->o.ledger).failed;
}

int64_t metrics_read_ledger_queued(const struct front *f, int i)
{
    (void)i;
    return ledger_stats(f->o.ledger).queued;
}

int64_t metrics_read_ledger_spooled(const struct front *f, int i)
{
    (void)i;
    return ledger_stats(f->o.ledger).spool_bytes;
}

int64_t metrics_read_ledger_journal(const struct front *f, int i)
{
    (void)i;
    return ledger_stats(f->o.ledger).journal_bytes;
}

static struct audit_stats audit_figures(const struct front *f)
{
    return f->o.audit ? audit_stats(f->o.audit) : (struct audit_stats){0};
}

int64_t metrics_read_audit_records(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).records;
}

int64_t metrics_read_audit_seals(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).groups;
}

int64_t metrics_read_audit_failures(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).failures;
}

int64_t metrics_read_audit_lost(const struct front *f, int i)
{
    (void)i;
    return (int64_t)audit_figures(f).lost;
}

int64_t metrics_read_audit_queued(const struct front *f, int i)
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

int64_t metrics_read_connections(const struct front *f, int i)
{
    (void)i;
    return http_stats(f).open_connections;
}

int64_t metrics_read_accepted(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).accepted;
}

int64_t metrics_read_http_requests(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).requests;
}

int64_t metrics_read_http_writes(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).writes;
}

int64_t metrics_read_refused_framing(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).refused_framing;
}

int64_t metrics_read_refused_full(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).refused_full;
}

int64_t metrics_read_refused_client(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).refused_client;
}

int64_t metrics_read_timed_out(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).timed_out;
}

int64_t metrics_read_tls_failed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)http_stats(f).tls_failed;
}

int64_t metrics_read_workers(const struct front *f, int i)
{
    (void)i;
    return f->n_lanes;
}

/* All zero where keys are not honoured. */
static struct repeats_stats repeats_figures(const struct front *f)
{
    return f->repeats ? repeats_stats(f->repeats) : (struct repeats_stats){0};
}

int64_t metrics_read_idempotent_keys(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).keys;
}

int64_t metrics_read_idempotent_bytes(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).bytes;
}

int64_t metrics_read_idempotent_replayed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).replayed;
}

int64_t metrics_read_idempotent_waited(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).waited;
}

int64_t metrics_read_idempotent_computed_again(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).computed_again;
}

int64_t metrics_read_idempotent_forgotten(const struct front *f, int i)
{
    (void)i;
    return (int64_t)repeats_figures(f).forgotten;
}

int64_t metrics_read_prefix_hits(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).hits;
}

int64_t metrics_read_prefix_sent(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).sent;
}

int64_t metrics_read_prefix_hit_tokens(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).hit_tokens;
}

int64_t metrics_read_prefix_blocks(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).map.blocks;
}

int64_t metrics_read_prefix_bytes(const struct front *f, int i)
{
    (void)i;
    return affinity_stats(f->affinity).map.bytes;
}

int64_t metrics_read_prefix_evicted(const struct front *f, int i)
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

int64_t metrics_read_cache_lookups_hit(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.hits;
}

int64_t metrics_read_cache_lookups_missed(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.misses;
}

int64_t metrics_read_cache_stores(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.stores;
}

int64_t metrics_read_cache_refused(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.refused;
}

int64_t metrics_read_cache_errors(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.errors;
}

int64_t metrics_read_cache_timeouts(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.timeouts;
}

int64_t metrics_read_cache_dropped(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.dropped;
}

int64_t metrics_read_cache_disconnects(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_figures(f).cache.disconnects;
}

int64_t metrics_read_cache_up(const struct front *f, int i)
{
    (void)i;
    return cached_figures(f).cache.reachable;
}

int64_t metrics_read_cache_entries(const struct front *f, int i)
{
    (void)i;
    return cached_memory_figures(f->cached).entries;
}

int64_t metrics_read_cache_bytes(const struct front *f, int i)
{
    (void)i;
    return cached_memory_figures(f->cached).bytes;
}

int64_t metrics_read_cache_evictions(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_memory_figures(f->cached).evictions;
}

int64_t metrics_read_cache_expired(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_memory_figures(f->cached).expired;
}

int64_t metrics_read_flights(const struct front *f, int i)
{
    (void)i;
    return cached_flight_figures(f->cached).flights;
}

int64_t metrics_read_followers(const struct front *f, int i)
{
    (void)i;
    return cached_flight_figures(f->cached).followers;
}

int64_t metrics_read_promoted(const struct front *f, int i)
{
    (void)i;
    return (int64_t)cached_flight_figures(f->cached).promoted;
}

int64_t metrics_read_spans_exported(const struct front *f, int i)
{
    (void)i;
    return (int64_t)span_figures(f).exported;
}

int64_t metrics_read_spans_dropped(const struct front *f, int i)
{
    (void)i;
    return (int64_t)(span_figures(f).dropped_full + span_figures(f).dropped_failed + span_figures(f).rejected);
}

int64_t metrics_read_spans_retries(const struct front *f, int i)
{
    (void)i;
    return (int64_t)span_figures(f).retries;
}

int64_t metrics_read_spans_queued(const struct front *f, int i)
{
    (void)i;
    return span_figures(f).queued;
}
