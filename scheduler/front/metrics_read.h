/* What the table of metrics reads that somebody else counts: the value of cell i, in the metric's unit
 * (metrics_internal.h). Each takes the lock that it needs, from the thread that shows metrics. */
#ifndef SCHEDULER_FRONT_METRICS_READ_H
#define SCHEDULER_FRONT_METRICS_READ_H

#include <stdint.h>

struct front;

int64_t metrics_read_running(const struct front *f, int i);
int64_t metrics_read_waiting(const struct front *f, int i);
int64_t metrics_read_waiting_bytes(const struct front *f, int i);
int64_t metrics_read_waiting_oldest(const struct front *f, int i);
int64_t metrics_read_recording(const struct front *f, int i);
int64_t metrics_read_recorded(const struct front *f, int i);
int64_t metrics_read_recording_missed(const struct front *f, int i);
int64_t metrics_read_recording_bytes(const struct front *f, int i);
int64_t metrics_read_node_up(const struct front *f, int i);
int64_t metrics_read_node_draining(const struct front *f, int i);
int64_t metrics_read_node_in_flight(const struct front *f, int i);
int64_t metrics_read_node_foreseen(const struct front *f, int i);
int64_t metrics_read_node_ttft_off(const struct front *f, int i);
int64_t metrics_read_node_tpot_off(const struct front *f, int i);
int64_t metrics_read_node_slots(const struct front *f, int i);
int64_t metrics_read_node_legs(const struct front *f, int i);
int64_t metrics_read_node_breaker_open(const struct front *f, int i);
int64_t metrics_read_node_breaker_opened(const struct front *f, int i);
int64_t metrics_read_node_cooling(const struct front *f, int i);
int64_t metrics_read_node_cooled(const struct front *f, int i);
int64_t metrics_read_node_restarts(const struct front *f, int i);
int64_t metrics_read_ledger_rows(const struct front *f, int i);
int64_t metrics_read_ledger_commits(const struct front *f, int i);
int64_t metrics_read_ledger_failed(const struct front *f, int i);
int64_t metrics_read_ledger_queued(const struct front *f, int i);
int64_t metrics_read_ledger_spooled(const struct front *f, int i);
int64_t metrics_read_ledger_journal(const struct front *f, int i);
int64_t metrics_read_audit_records(const struct front *f, int i);
int64_t metrics_read_audit_seals(const struct front *f, int i);
int64_t metrics_read_audit_failures(const struct front *f, int i);
int64_t metrics_read_audit_lost(const struct front *f, int i);
int64_t metrics_read_audit_queued(const struct front *f, int i);
int64_t metrics_read_connections(const struct front *f, int i);
int64_t metrics_read_accepted(const struct front *f, int i);
int64_t metrics_read_http_requests(const struct front *f, int i);
int64_t metrics_read_http_writes(const struct front *f, int i);
int64_t metrics_read_refused_framing(const struct front *f, int i);
int64_t metrics_read_refused_full(const struct front *f, int i);
int64_t metrics_read_refused_client(const struct front *f, int i);
int64_t metrics_read_timed_out(const struct front *f, int i);
int64_t metrics_read_tls_failed(const struct front *f, int i);
int64_t metrics_read_workers(const struct front *f, int i);
int64_t metrics_read_idempotent_keys(const struct front *f, int i);
int64_t metrics_read_idempotent_bytes(const struct front *f, int i);
int64_t metrics_read_idempotent_replayed(const struct front *f, int i);
int64_t metrics_read_idempotent_waited(const struct front *f, int i);
int64_t metrics_read_idempotent_computed_again(const struct front *f, int i);
int64_t metrics_read_idempotent_forgotten(const struct front *f, int i);
int64_t metrics_read_prefix_hits(const struct front *f, int i);
int64_t metrics_read_prefix_sent(const struct front *f, int i);
int64_t metrics_read_prefix_hit_tokens(const struct front *f, int i);
int64_t metrics_read_prefix_blocks(const struct front *f, int i);
int64_t metrics_read_prefix_bytes(const struct front *f, int i);
int64_t metrics_read_prefix_evicted(const struct front *f, int i);
int64_t metrics_read_cache_lookups_hit(const struct front *f, int i);
int64_t metrics_read_cache_lookups_missed(const struct front *f, int i);
int64_t metrics_read_cache_stores(const struct front *f, int i);
int64_t metrics_read_cache_refused(const struct front *f, int i);
int64_t metrics_read_cache_errors(const struct front *f, int i);
int64_t metrics_read_cache_timeouts(const struct front *f, int i);
int64_t metrics_read_cache_dropped(const struct front *f, int i);
int64_t metrics_read_cache_disconnects(const struct front *f, int i);
int64_t metrics_read_cache_up(const struct front *f, int i);
int64_t metrics_read_cache_entries(const struct front *f, int i);
int64_t metrics_read_cache_bytes(const struct front *f, int i);
int64_t metrics_read_cache_evictions(const struct front *f, int i);
int64_t metrics_read_cache_expired(const struct front *f, int i);
int64_t metrics_read_flights(const struct front *f, int i);
int64_t metrics_read_followers(const struct front *f, int i);
int64_t metrics_read_promoted(const struct front *f, int i);
int64_t metrics_read_spans_exported(const struct front *f, int i);
int64_t metrics_read_spans_dropped(const struct front *f, int i);
int64_t metrics_read_spans_retries(const struct front *f, int i);
int64_t metrics_read_spans_queued(const struct front *f, int i);

#endif
