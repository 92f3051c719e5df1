#include "engine/serve/totals.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "base/random.h"

void serve_counters_init(struct serve_counters *c)
{
    *c = (struct serve_counters){0};
    histogram_init(&c->ttft, &histogram_seconds);
    histogram_init(&c->e2e, &histogram_seconds);
    histogram_init(&c->prompt_tokens, &histogram_tokens);
    histogram_init(&c->generation_tokens, &histogram_tokens);
    histogram_init(&c->joules_per_token, &histogram_joules);
}

void serve_totals_init(struct serve_totals *t)
{
    *t = (struct serve_totals){0};
    serve_counters_init(&t->counters);
    batcher_stats_init(&t->batcher);
}

#define AT(field) offsetof(struct serve_totals, field)
static const size_t sums[] = {
    AT(counters.responses[0]),
    AT(counters.responses[1]),
    AT(counters.responses[2]),
    AT(counters.responses[3]),
    AT(counters.responses[4]),
    AT(counters.responses[5]),
    AT(counters.requests),
    AT(counters.aborted),
    AT(batcher.steps),
    AT(batcher.preemptions),
    AT(batcher.pages_evicted),
    AT(batcher.cached_tokens),
    AT(batcher.spills),
    AT(batcher.returns),
    AT(batcher.proposed_tokens),
    AT(batcher.accepted_tokens),
    AT(batcher.step_failures),
    AT(batcher.prefill_tokens),
    AT(batcher.decode_tokens),
    AT(batcher.prompt_tokens),
    AT(batcher.generated_tokens),
    AT(batcher.finished_stop),
    AT(batcher.finished_length),
    AT(batcher.finished_failed),
    AT(batcher.cancelled),
    AT(batcher.refused),
    AT(batcher.withdrawn),
    AT(batcher.idle_us),
    AT(http.accepted),
    AT(http.requests),
    AT(http.refused_framing),
    AT(http.refused_full),
    AT(http.refused_client),
    AT(http.timed_out),
    AT(http.aborted),
    AT(http.tls_failed),
    AT(http.writes),
};
static const size_t histograms[] = {
    AT(counters.ttft),
    AT(counters.e2e),
    AT(counters.prompt_tokens),
    AT(counters.generation_tokens),
    AT(batcher.gap),
    AT(batcher.queue),
    AT(batcher.prefill),
    AT(batcher.decode),
    AT(batcher.step),
    AT(batcher.step_batch),
    AT(batcher.step_prefill),
    AT(batcher.step_pages),
    AT(batcher.prefix_hits),
    AT(counters.joules_per_token),
};

static void histogram_add(struct histogram *to, const struct histogram *from)
{
    for (int i = 0; i <= HISTOGRAM_EDGES_MAX; i++)
        to->counts[i] += from->counts[i];
    to->count += from->count;
    to->sum += from->sum;
}

void serve_totals_add(struct serve_totals *to, const struct serve_totals *from)
{
    char *a = (char *)to;
    const char *b = (const char *)from;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        *(uint64_t *)(a + sums[i]) += *(const uint64_t *)(b + sums[i]);
    for (size_t i = 0; i < sizeof histograms / sizeof *histograms; i++)
        histogram_add((struct histogram *)(a + histograms[i]), (const struct histogram *)(b + histograms[i]));
    to->batcher.step_seconds += from->batcher.step_seconds;
    to->batcher.running = from->batcher.running;
    to->batcher.waiting = from->batcher.waiting;
    to->batcher.pages_free = from->batcher.pages_free;
    to->batcher.pages_total = from->batcher.pages_total;
    to->batcher.pages_kept = from->batcher.pages_kept;
    to->batcher.pages_spilled = from->batcher.pages_spilled;
    to->http.open_connections = from->http.open_connections;
    to->http.active_exchanges = from->http.active_exchanges;
}

void node_counts_init(struct node_counts *c)
{
    struct random_pool random = {.left = 0};
    uint64_t life;
    random_take(&random, &life, sizeof life);
    *c = (struct node_counts){.restarts = 0};
    snprintf(c->life, sizeof c->life, "%016" PRIx64, life);
}

void serve_totals_rest(struct serve_totals *t)
{
    t->batcher.running = t->batcher.waiting = 0;
    t->batcher.pages_free = t->batcher.pages_total;
    t->batcher.pages_kept = t->batcher.pages_spilled = 0;
    t->http.open_connections = t->http.active_exchanges = 0;
}
